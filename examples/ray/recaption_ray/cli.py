"""Arguments, the list of shards, and what happens before and after the loop."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from . import __version__
from .driver import Driver, Options
from .process import WorkerSpec
from .progress import Progress
from .report import ExitCode, Report
from .scheduler import Limits, Scheduler
from .settings import for_finalize, sets_threads, split_selection


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m recaption_ray", formatter_class=HelpFormatter,
        description="Recaptions a dataset on a Ray cluster. Arguments after -- are settings of `recaption run`, such as "
                    "--output URL or --set SECTION.KEY=VALUE.",
        epilog="Exit codes: 0 done, 1 failed or interrupted, 2 arguments or configuration, 3 shards failed, 4 only permanent "
               "failures are left.")
    p.add_argument("config", metavar="CONFIG", type=Path, help="configuration of `recaption run`; only the driver needs the file")
    p.add_argument("--address", default="auto", help="of the Ray cluster; `local` starts one on this machine for this run")
    p.add_argument("--workers", type=positive, metavar="N", help="most workers at a time (default: as many as the nodes have room for)")
    p.add_argument("--gpus-per-worker", type=float, default=1.0, metavar="N", help="GPUs of one worker; 0 for CPUs")
    p.add_argument("--cpus-per-worker", type=float, default=1.0, metavar="N",
                   help="CPUs of one worker; with --gpus-per-worker 0 also its number of threads, in place of the file's "
                        "run.threads, unless --threads or --set run.threads=N follows --")
    p.add_argument("--resources", type=json.loads, default={}, metavar="JSON", help='custom resources of one worker: {"spot": 1}')
    p.add_argument("--max-attempts", type=positive, default=3, metavar="N",
                   help="deaths of its process, or transient failures, after which a shard is given up")
    p.add_argument("--max-losses", type=positive, default=10, metavar="N", help="lost nodes after which a shard is given up")
    p.add_argument("--retry-seconds", type=float, default=30.0, metavar="S", help="pause before the first retry; it doubles")
    p.add_argument("--max-start-failures", type=positive, default=5, metavar="N",
                   help="workers in a row that may end before any shard does, with none ready")
    p.add_argument("--start-timeout", type=float, default=1800.0, metavar="S", help="for a worker to load its models; 0: none")
    p.add_argument("--capacity-timeout", type=float, default=600.0, metavar="S", help="without room for any worker; 0: none")
    p.add_argument("--shard-timeout", type=float, default=0.0, metavar="S",
                   help="without an answer from a worker with shards, which then counts as hung; 0: none")
    p.add_argument("--lost-after", type=float, default=60.0, metavar="S", help="without an answer from an actor")
    p.add_argument("--grace-seconds", type=float, default=0.0, metavar="S",
                   help="for workers to finish their shards after SIGTERM or Ctrl-C; 0: as long as they take")
    p.add_argument("--binary", default="recaption", help="the program, on every node and here")
    p.add_argument("--format", choices=("text", "json"), help="of the report (default: text if standard error is a terminal)")
    p.add_argument("--no-worker-logs", action="store_true", help="leave the workers' logs on their nodes")
    p.add_argument("--no-finalize", action="store_true", help="do not call `recaption finalize` at the end")
    p.add_argument("--version", action="version", version=__version__)
    return p


def positive(text: str) -> int:
    """An integer of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("expected an integer of at least 1")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Runs; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own, settings = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        own, settings = arguments[:at], arguments[at + 1:]
    args = parser().parse_args(own)
    try:
        return run(args, settings)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.FAILED


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, {}) or "(default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class UsageError(Exception):
    """Arguments or configuration are wrong."""


def run(args: argparse.Namespace, settings: list[str]) -> int:
    """Plans, connects, drives the workers, reports."""
    if not args.config.is_file():
        raise UsageError(f"cannot read the configuration {args.config}")
    if not shutil.which(args.binary):
        raise UsageError(f"there is no program {args.binary} on this machine, where the shards are planned; --binary names it")
    selection, settings = split_selection(settings)
    shards, code = plan(args, [*settings, *selection])
    if code:
        return code
    report, progress = Report(shards=len(shards)), Progress()
    progress.log(f"{len(shards)} shards to do")
    if shards:
        drive(args, settings, shards, report, progress)
        del shards
    if not args.no_finalize and report.exit_code() not in (ExitCode.FAILED, ExitCode.USAGE):
        code = finalize(args, settings)
        # What a selection left out is not missing.
        if code is not None and not (selection and code in (ExitCode.INCOMPLETE, ExitCode.PERMANENT)):
            report.finalized(code)
    is_text = args.format == "text" or (args.format is None and sys.stderr.isatty())
    print(report.to_text() if is_text else json.dumps(report.to_json()) + "\n", end="", flush=True)
    return report.exit_code()


def drive(args: argparse.Namespace, settings: list[str], shards: list[str], report: Report, progress: Progress) -> None:
    """Connects to Ray and runs the loop."""
    # Lines of different workers look alike; Ray would print one of them.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    import ray

    from .cluster import RayCluster, Resources

    try:
        ray.init(address=args.address, log_to_driver=not args.no_worker_logs,
                 configure_logging=False)
    except Exception as error:  # noqa: BLE001: ConnectionError, RuntimeError, AuthenticationError, by version and cause
        report.fail("failed", f"cannot join the Ray cluster at {args.address}: {error} (is it up, and are RAY_AUTH_MODE and the "
                              "token here those of its nodes?)")
        report.shards_incomplete = len(shards)
        return
    scheduler = Scheduler(shards, Limits(args.max_attempts, args.max_losses, args.retry_seconds))
    options = Options(
        workers=args.workers, max_start_failures=args.max_start_failures, start_timeout=args.start_timeout,
        capacity_timeout=args.capacity_timeout, shard_timeout=args.shard_timeout, grace=args.grace_seconds)
    resources = Resources(args.cpus_per_worker, args.gpus_per_worker, args.resources)
    cluster = RayCluster(worker_specs(args, settings), resources, args.lost_after)
    driver = Driver(scheduler, cluster, options, report, progress.log)
    # After ray.init, which sets handlers of its own.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: driver.request_stop())
    try:
        driver.run(progress.tick)
    finally:
        progress.clear()
        ray.shutdown()


def worker_specs(args: argparse.Namespace, settings: list[str]):
    """What each worker runs."""
    config = args.config.read_bytes()
    threads = []
    if not args.gpus_per_worker and not sets_threads(settings):
        threads = ["--threads", str(max(1, int(args.cpus_per_worker)))]

    def spec(worker: int) -> WorkerSpec:
        return WorkerSpec([args.binary, "worker", *threads, *settings], args.config.name, config, os.getcwd(),
                          label=f"worker {worker}")

    return spec


def plan(args: argparse.Namespace, settings: list[str]) -> tuple[list[str], int]:
    """Returns the URLs of the shards to do, and the exit code if that failed."""
    with subprocess.Popen([args.binary, "plan", str(args.config), "--shards", *settings], stdout=subprocess.PIPE) as process:
        shards = [json.loads(line)["shard"] for line in process.stdout]
    # Killed by a signal: as any other failure.
    return shards, process.returncode if process.returncode >= 0 else ExitCode.FAILED


def finalize(args: argparse.Namespace, settings: list[str]) -> int | None:
    """Calls `recaption finalize` if this program has it; returns its exit code, negative for a signal. Its totals go to standard
    error, since standard output has this run's report."""
    probe = subprocess.run([args.binary, "finalize", "--help"], capture_output=True)
    if probe.returncode:
        return None
    command = [args.binary, "finalize", "--config", str(args.config), *for_finalize(settings)]
    return subprocess.run(command, stdout=sys.stderr).returncode

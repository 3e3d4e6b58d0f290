"""Real Ray on this machine, with things going wrong. Takes some minutes; not part of `make test`.

    python3 examples/ray/trial.py failures    40 shards on three local nodes; a worker process is killed, a raylet is killed, a
                                              node joins late, and one shard kills every worker that gets it
    python3 examples/ray/trial.py shared      two array tasks and one Ray run on one output at once

Each prints what it did and checks that nothing is lost and that the rows are those of a single process; exit code 1 otherwise.
Needs target/release/recaption (`cargo build --release --bin recaption`), and installs Ray and pyarrow below target/ray-venv.

No shard can make recaption kill itself, so the workers of `failures` run behind a filter (`trial_program.py`) that kills the
worker when it is sent the marked shard. recaption itself has no such switch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
VENV = TARGET / "ray-venv"
PYARROW = "pyarrow==26.0.1"
PLACE = TARGET / "ray-trial"
SHARDS, SAMPLES = 40, 100
KILLER = "00017.tar"
# Ray takes at least 75 MiB.
STORE_BYTES = 80 << 20
LIMIT_SECONDS = 540


def in_venv() -> None:
    """Continues in a virtual environment with Ray and pyarrow, after making it."""
    if Path(sys.prefix) == VENV:
        return
    if not (VENV / "ready").exists():
        venv.create(VENV, with_pip=True, clear=True)
        subprocess.run([VENV / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", HERE / "requirements.txt", PYARROW],
                       check=True)
        (VENV / "ready").touch()
    os.execv(VENV / "bin/python", [str(VENV / "bin/python"), *sys.argv])


STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


def environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RECAPTION_", "RAY_"))}
    env.setdefault("ORT_DYLIB_PATH", str(TARGET / "onnxruntime/lib/libonnxruntime.so"))
    # One shared secret on every node and at the driver.
    return env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0",
                  "RAY_DEDUP_LOGS": "0", "TRIAL_KILLS": KILLER}


def wait_until(what: str, condition, seconds: float = LIMIT_SECONDS):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"FAILED: waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
    return value


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = (parent, command)
    return found


class Nodes:
    """Ray nodes on this machine, each with a folder and ports of its own."""

    def __init__(self, env: dict[str, str]):
        self.env = env
        # A socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-trial-", dir="/tmp"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.started: dict[str, subprocess.Popen] = {}
        self.driver: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, cpus: int) -> None:
        command = [VENV / "bin/ray", "start", "--block", f"--num-cpus={cpus}", "--num-gpus=0", "--disable-usage-stats",
                   f"--object-store-memory={STORE_BYTES}", f"--temp-dir={self.folder / name}", "--node-ip-address=127.0.0.1",
                   "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command += [f"--address={self.address}"] if self.started else ["--head", f"--port={self.port}", "--include-dashboard=false"]
        with open(self.folder / f"{name}.log", "w") as log:
            self.started[name] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)

    def wait_for(self, name: str) -> None:
        wait_until(f"node {name}", lambda: "Ray runtime started" in (self.folder / f"{name}.log").read_text(), 120)
        say(f"node {name} has started")

    def raylet(self, name: str) -> int:
        """Process id of a node's raylet."""
        return next(pid for pid, (_, command) in processes().items()
                    if "/raylet/raylet " in command and f"{self.folder / name}/" in command)

    def workers(self, name: str) -> list[int]:
        """Process ids of the recaption workers of a node, which are children of its raylet's children."""
        all_processes, raylet = processes(), self.raylet(name)
        parents = {pid: parent for pid, (parent, _) in all_processes.items()}
        return [pid for pid, (parent, command) in all_processes.items()
                if parents.get(parent) == raylet and " worker " in command and "recaption" in command]

    def end(self) -> None:
        if self.driver and self.driver.poll() is None:
            self.driver.kill()
        for process in self.started.values():
            process.terminate()
        for process in self.started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for pid, (_, command) in processes().items():
            if str(self.folder) in command and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def call(env: dict[str, str], program: Path, *arguments: object) -> None:
    done = subprocess.run([program, *map(str, arguments)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"FAILED: {program.name} {arguments[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def prepare(env: dict[str, str], program: Path) -> None:
    """Draws shards, exports the model, and captions all of it in a single process."""
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    call(env, program, "export", "--checkpoint", ROOT / "onnx/models/coca-scenes-base", "--out", PLACE / "model")
    call(env, program, "scenes", "--out", PLACE / "in", "--shards", SHARDS, "--samples", SAMPLES, "--seed", 7)
    for name in ("single", "out"):
        (PLACE / f"{name}.toml").write_text(
            f'[model]\ncaptioner = "{PLACE}/model"\n[input]\nshards = ["{PLACE}/in/*.tar"]\n[output]\nurl = "{PLACE}/{name}"\n')
    call(env, program, "run", PLACE / "single.toml")
    say(f"a single process captioned {SHARDS} shards of {SAMPLES} scenes")


def records(output: str = "out") -> list[Path]:
    """Commit records: one for each shard that is done."""
    return list((PLACE / output / "_recaption/shards").glob("*.json"))


def rows(output: str, kind: str, without: str = "") -> list[dict]:
    """All rows that commit records name, in one order; without those of a shard."""
    import pyarrow.parquet

    found = []
    for record in map(json.loads, (path.read_text() for path in records(output))):
        if not without or not record["shard"].endswith(without):
            found += pyarrow.parquet.read_table(PLACE / output / record[kind]["path"]).to_pylist()
    return sorted(found, key=lambda row: (row["shard"], row["key"]))


def compare(without: str = "") -> None:
    """Compares the output with the single process's, row by row."""
    for kind in ("captions", "rejects"):
        ours, expected = rows("out", kind), rows("single", kind, without)
        if ours != expected:
            raise SystemExit(f"FAILED: {kind}: {len(ours)} rows, and not the {len(expected)} rows of a single process")
        say(f"{kind}: {len(ours)} rows, identical to those of a single process")
    if not rows("out", "captions"):
        raise SystemExit("FAILED: no rows were compared")
    named = {json.loads(path.read_text())[kind]["path"] for path in records() for kind in ("captions", "rejects")}
    visible = {str(path.relative_to(PLACE / "out")) for path in (PLACE / "out").glob("*/*.parquet")}
    say(f"parts that no record names: {len(visible - named)}")


def start_driver(env: dict[str, str], nodes: Nodes, program: Path, *more: str) -> subprocess.Popen:
    nodes.driver = subprocess.Popen(
        [sys.executable, "-m", "recaption_ray", PLACE / "out.toml", "--address", nodes.address, "--gpus-per-worker", "0",
         "--binary", program, "--format", "json", "--retry-seconds", "2", "--no-worker-logs", *more],
        cwd=HERE, env=env, stdout=subprocess.PIPE, stderr=sys.stderr, text=True)
    return nodes.driver


def finish(driver: subprocess.Popen) -> tuple[int, dict]:
    out, _ = driver.communicate(timeout=LIMIT_SECONDS)
    say(f"the driver ended with exit code {driver.returncode}")
    return driver.returncode, json.loads(out.splitlines()[-1]) if out.strip() else {}


def check(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise SystemExit(f"FAILED: {what}: {found}, expected {expected}")


def failures(env: dict[str, str], program: Path) -> None:
    """The trial with everything going wrong."""
    behind_filter = PLACE / "recaption"
    behind_filter.write_text(f"#!{sys.executable}\n" + (HERE / "trial_program.py").read_text())
    behind_filter.chmod(0o755)
    env |= {"TRIAL_PROGRAM": str(program)}
    nodes = Nodes(env)
    try:
        nodes.start("head", 1)
        nodes.wait_for("head")
        nodes.start("second", 2)
        nodes.wait_for("second")
        driver = start_driver(env, nodes, behind_filter)
        wait_until("5 shards", lambda: len(records()) >= 5)
        victim = wait_until("a worker on the head", lambda: nodes.workers("head"))[0]
        os.kill(victim, signal.SIGKILL)
        say(f"killed worker process {victim} on node head, with {len(records())} shards committed")
        nodes.start("third", 1)
        wait_until("12 shards", lambda: len(records()) >= 12)
        survivors = nodes.workers("second")
        os.kill(nodes.raylet("second"), signal.SIGKILL)
        killed = time.monotonic()
        say(f"killed the raylet of node second, with {len(records())} shards committed and workers {survivors}")
        threading.Thread(target=watch, args=(survivors, killed), daemon=True).start()
        nodes.wait_for("third")
        late = wait_until("a worker on the third node", lambda: nodes.workers("third") or driver.poll() is not None)
        if late is True:
            raise SystemExit("FAILED: the run ended before the late node had a worker; try again on a less busy machine")
        say(f"node third, which joined late, has worker process {late[0]}, with {len(records())} shards committed")
        code, report = finish(driver)
    finally:
        nodes.end()
    check("shards done", report["shards_done"] + report["shards_done_by_others"], SHARDS - 1)
    check("shards given up", [Path(failed["shard"]).name for failed in report["shards_failed"]], [KILLER])
    check("attempts at it", report["shards_failed"][0]["attempts"], 3)
    check("exit code", code, 4)
    failed = [json.loads(path.read_text()) for path in (PLACE / "out/_recaption/failures").glob("*.json")]
    check("failure records", [(Path(record["shard"]).name, record["class"], record["attempts"]) for record in failed],
          [(KILLER, "crash", 3)])
    totals = PLACE / "out/_recaption/totals.json"
    if totals.exists():
        check("shards that finalize counts", json.loads(totals.read_text())["shards"]["committed"], SHARDS - 1)
    say(f"{SHARDS - 1} shards done, 1 given up: {report['shards_failed'][0]['error']}")
    say(f"of these, {report['shards_done_by_others']} were committed by workers that were taken for lost; done twice: {report['shards_done_twice']}")
    say(f"workers: {report['workers_ready']} were ready, {report['workers_ended']}")
    compare(without=KILLER)
    check("committed shards", len(records()), SHARDS - 1)


def watch(pids: list[int], since: float) -> None:
    """Tells when processes end."""
    left = set(pids)
    while left:
        for pid in [pid for pid in left if not Path(f"/proc/{pid}/exe").exists()]:
            left.remove(pid)
            say(f"worker process {pid} of node second ended {time.monotonic() - since:.1f} s after its raylet")
        time.sleep(0.05)


def shared(env: dict[str, str], program: Path) -> None:
    """Array tasks and Ray on one output."""
    nodes = Nodes(env)
    try:
        nodes.start("head", 2)
        nodes.wait_for("head")
        tasks = []
        for index in range(2):
            command = [program, "--log-format", "json", "run", PLACE / "out.toml", "--task-index", str(index), "--task-count", "2", "--threads", "1"]
            tasks.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        code, report = finish(start_driver(env, nodes, program))
        reports = [json.loads(task.communicate(timeout=LIMIT_SECONDS)[0].splitlines()[-1]) for task in tasks]
    finally:
        nodes.end()
    check("exit codes", [code, *(task.returncode for task in tasks)], [0, 0, 0])
    workers = {"task 0": reports[0], "task 1": reports[1], "Ray": report}
    for name, found in workers.items():
        say(f"{name}: {found['shards_done']} shards done, {found['shards_done_by_others']} by others, {found['shards_done_twice']} done twice")
    check("committed shards", len(records()), SHARDS)
    check("shards done", sum(found["shards_done"] for found in workers.values()), SHARDS)
    twice = sum(found["shards_done_twice"] for found in workers.values())
    if twice > 2 + report["workers_ready"]:
        raise SystemExit(f"FAILED: {twice} shards were done twice, more than one for each worker")
    compare()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trial", choices=("failures", "shared"))
    parser.add_argument("--let-workers-finish", action="store_true",
                        help="tell Ray not to kill workers whose raylet is gone (RAY_kill_child_processes_on_worker_exit=false)")
    parser.add_argument("--binary", type=Path, default=TARGET / "release/recaption")
    args = parser.parse_args()
    in_venv()
    # So that the nodes are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    if not args.binary.exists():
        raise SystemExit(f"there is no {args.binary}: cargo build --release --bin recaption")
    env = environment()
    if args.let_workers_finish:
        env["RAY_kill_child_processes_on_worker_exit"] = "false"
    prepare(env, args.binary.resolve())
    (failures if args.trial == "failures" else shared)(env, args.binary.resolve())
    say("all as it should be")


if __name__ == "__main__":
    main()

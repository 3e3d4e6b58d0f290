"""What docs/src/scaling.md is computed from: requests and bytes per shard, planning, two processes beside one, commits.

    python3 benchmarks/scaling.py [requests] [plan] [processes] [commits] [--json FILE]     all four without a name

- requests: two runs over an S3 server on this machine (moto), few shards and many: what one more shard costs in requests by kind
  and in bytes, as the run's own metrics and the bucket tell.
- plan: seconds and peak memory of a plan of 10,000 and 100,000 shards, none of them and all of them committed, over a server
  that lists 1,000 keys a page and takes 100 ms for each, with the number of pages.
- processes: captions per second of one process with all cores, and of as many processes as cores with one thread each that share
  an output, in interleaved turns.
- commits: shards of one image per second, over a folder and over moto.

Nothing here is asserted. moto takes milliseconds of Python for a request and shares the machine's cores with the program, so
that rates over it are lower bounds. Servers and the model are those of scripts/soak.py.
"""
import argparse, json, os, pathlib, re, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import scale, soak

OPERATIONS = ("read", "write", "list", "delete", "copy")
FEW, MANY = 10, 60
# Of commits: shards of one image.
SMALL_SHARDS = 400
ROUNDS = 3


def run(store, inputs: str, output: str, *more: str) -> dict:
    done = subprocess.run(soak.command(f"{store.base}/{inputs}/", f"{store.base}/{output}", *more), env=store.environment,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(done.stdout)


def counters(path: pathlib.Path) -> dict[str, int]:
    text = path.read_text()
    found = {o: re.search(rf'recaption_store_requests_total{{[^}}]*operation="{o}"[^}}]*}} (\d+)', text) for o in OPERATIONS}
    return {operation: int(match[1]) if match else 0 for operation, match in found.items()}


def sizes(store, prefix: str) -> dict[str, int]:
    """Bytes below an output by folder."""
    total: dict[str, int] = {}
    for key in store.list(prefix):
        folder = "/".join(key.split("/")[1:-1]) or "."
        total[folder] = total.get(folder, 0) + len(store.get(key))
    return total


def requests(options) -> dict:
    found = {}
    with soak.moto() as moto, tempfile.TemporaryDirectory() as scratch:
        store, folder = soak.S3(moto.port), pathlib.Path(scratch)
        drawn = sorted(soak.draw(folder / "drawn", MANY, options.samples).glob("*.tar"))
        for count in (FEW, MANY):
            for tar in drawn[:count]:
                store.put(f"in{count}/{tar.name}", tar.read_bytes())
            metrics = folder / f"{count}.prom"
            # Heartbeats depend on time, not on shards.
            quiet = ("--set", "run.claim_seconds=86400")
            run(store, f"in{count}", f"out{count}", "--metrics-file", str(metrics), *quiet)
            found[count] = counters(metrics)
        more, read = MANY - FEW, sum(tar.stat().st_size for tar in drawn)
        written = {k: (v - sizes(store, f"out{FEW}").get(k, 0)) / more / options.samples
                   for k, v in sizes(store, f"out{MANY}").items() if k in ("captions", "rejects", "_recaption/shards")}
    per_shard = {o: (found[MANY][o] - found[FEW][o]) / more for o in OPERATIONS}
    per_run = {o: found[FEW][o] - FEW * per_shard[o] for o in OPERATIONS}
    print(f"requests, shards of {options.samples} images          " + " ".join(f"{o:>7}" for o in OPERATIONS))
    print("  for each shard                       " + " ".join(f"{per_shard[o]:>7.2f}" for o in OPERATIONS))
    print("  for a run, besides                   " + " ".join(f"{per_run[o]:>7.1f}" for o in OPERATIONS))
    print("bytes written for an image: " + ", ".join(f"{k} {v:.1f}" for k, v in sorted(written.items())), flush=True)
    return {"samples": options.samples, "per_shard": per_shard, "per_run": per_run, "bytes_written_per_image": written,
            "bytes_read_per_image": read / MANY / options.samples}


def plan(options) -> dict:
    found = {}
    for shards in options.shards:
        given = argparse.Namespace(shards=shards, latency=0.1, profile=False)
        for name, measured in (("pending", scale.pending), ("committed", scale.nothing_listed)):
            seconds, peak, pages = measured(given)
            found[f"{shards} {name}"] = {"seconds": seconds, "peak_bytes": peak, "pages": pages}
            print(f"plan of {shards} {name} shards: {seconds:.1f} s, peak {peak / 2**20:.0f} MiB, {pages} pages of 100 ms",
                  flush=True)
    return found


def processes(options) -> dict:
    cores = os.cpu_count() or 1
    rates: dict[str, list[float]] = {"one": [], "many": []}
    with tempfile.TemporaryDirectory(dir=soak.MODEL.parent) as scratch:
        store = soak.Folder(pathlib.Path(scratch))
        soak.draw(store.root / "in", 16, options.samples)
        total = 16 * options.samples

        def take(output: str, calls: int, threads: int) -> float:
            command = soak.command(f"{store.base}/in/", f"{store.base}/{output}", "--threads", str(threads))
            began = time.monotonic()
            running = [subprocess.Popen(command, env=store.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True) for _ in range(calls)]
            reports = [json.loads(process.communicate()[0]) for process in running]
            seconds = time.monotonic() - began
            rows = sum(report["counts"]["captioned"] + report["counts"]["rejected"] for report in reports)
            print(f"  {calls} with {threads} threads: {seconds:.1f} s, {rows} of {total} images", flush=True)
            return total / seconds

        for turn in range(ROUNDS):
            rates["one"].append(take(f"one{turn}", 1, cores))
            rates["many"].append(take(f"many{turn}", cores, 1))
    ratio = statistics.median(many / one for one, many in zip(rates["one"], rates["many"]))
    one, many = (statistics.median(rates[name]) for name in ("one", "many"))
    print(f"one process with {cores} threads {one:.0f} images/s, {cores} processes with one {many:.0f} images/s: {ratio:.2f}x")
    return {"cores": cores, "one": one, "many": many, "ratio": ratio}


def commits(options) -> dict:
    found = {}
    with soak.moto() as moto, tempfile.TemporaryDirectory(dir=soak.MODEL.parent) as scratch:
        folder = soak.Folder(pathlib.Path(scratch))
        soak.draw(folder.root / "in", SMALL_SHARDS, 1)
        bucket = soak.S3(moto.port)
        for tar in (folder.root / "in").glob("*.tar"):
            bucket.put(f"in/{tar.name}", tar.read_bytes())
        for name, store in (("folder", folder), ("moto", bucket)):
            for way, more in (("", ()), (", 16 shards at once", ("--set", "input.concurrent_shards=16"))):
                report = run(store, "in", f"out{len(more)}", *more)
                rate = report["shards_done"] / report["seconds"]
                print(f"commits over {name}{way}: {rate:.0f} shards/s", flush=True)
                found[name + way] = rate
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help="requests, plan, processes, commits")
    parser.add_argument("--samples", type=int, default=250, help="images of a shard")
    parser.add_argument("--shards", type=int, nargs="*", default=[10_000, 100_000], help="of `plan`")
    parser.add_argument("--json", type=pathlib.Path, help="file that takes all numbers")
    options = parser.parse_args()
    soak.in_venv()
    all_of_it = {"requests": requests, "plan": plan, "processes": processes, "commits": commits}
    found = {name: all_of_it[name](options) for name in options.what or all_of_it}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


main()

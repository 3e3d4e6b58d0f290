"""A thousand mistakes of a store, and rows that are those of an undisturbed run.

    python3 scripts/fault_soak.py [--mistakes 1000] [--shards 400] [--seed 1] [--stall 30] [--timeout 5]

moto_server is the store; mitmproxy stands before it and makes mistakes at 5 % of the requests, by tests/support/faults.py.
Every round captions all shards into a new output, through the proxy; then every row is compared with those of an
undisturbed run. A run that ends with another exit code than 0 is repeated, and counted. Prints the mistakes by kind.
"""
import argparse, json, pathlib, subprocess, sys, tempfile, time

import soak

RATE = 0.05
MOST_RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("mistakes", 1000), ("shards", 400), ("samples", 2), ("seed", 1), ("stall", 30), ("timeout", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    soak.in_venv()
    began = time.monotonic()
    totals, requests, runs, compared, took = {}, 0, [], 0, 0.0
    with tempfile.TemporaryDirectory() as scratch, soak.moto() as moto:
        folder = soak.Folder(pathlib.Path(scratch))
        drawn = soak.draw(folder.root / "in", options.shards, options.samples)
        subprocess.run(soak.command(f"{drawn}/", f"{scratch}/out"), check=True, env=folder.environment, capture_output=True)
        wanted = soak.rows(folder, "out")
        store = soak.S3(moto.port)
        for shard in sorted(drawn.glob("*.tar")):
            store.put(f"in/{shard.name}", shard.read_bytes())
        rounds = 0
        while sum(totals.values()) < options.mistakes:
            output = f"out-{rounds}"
            with soak.faults(moto.port, FAULTS_SEED=str(options.seed + rounds), FAULTS_RATE=str(RATE),
                             FAULTS_STALL=str(options.stall)) as proxy:
                codes = []
                while not codes or codes[-1] and len(codes) < MOST_RUNS:
                    call = soak.command(f"s3://{soak.BUCKET}/in/", f"s3://{soak.BUCKET}/{output}",
                                        "--set", f"store.timeout_seconds={options.timeout}")
                    start = time.monotonic()
                    run = subprocess.run(call, env=soak.s3_environment(proxy.port), capture_output=True, text=True)
                    took += time.monotonic() - start
                    codes.append(run.returncode)
                    if run.returncode:
                        report = json.loads(run.stdout) if run.stdout.strip() else {}
                        why = [f["error"] for f in report.get("shards_failed", [])] + report.get("shards_damaged", [])
                        print(f"round {rounds}: exit code {run.returncode}: {why or run.stderr[-2000:]}", flush=True)
                asked, kinds = soak.mistakes(proxy.journal)
            proxy.journal.unlink()
            runs += codes
            requests += asked
            for kind, count in kinds.items():
                totals[kind] = totals.get(kind, 0) + count
            if codes[-1]:
                sys.exit(f"round {rounds} did not end well in {MOST_RUNS} runs: {codes}\n{run.stderr[-3000:]}")
            compared += soak.compare(wanted, soak.rows(store, output), output)
            print(f"round {rounds}: exit codes {codes}, {sum(kinds.values())} mistakes at {asked} requests", flush=True)
            rounds += 1
    print(f"{sum(totals.values())} mistakes at {requests} requests in {rounds} rounds and {took:.0f} s of runs "
          f"({time.monotonic() - began:.0f} s in all): {dict(sorted(totals.items()))}")
    print(f"{len(runs)} runs, of which {sum(code != 0 for code in runs)} had to be repeated")
    print(f"{compared} rows compared, all equal, none lost, none twice")


main()

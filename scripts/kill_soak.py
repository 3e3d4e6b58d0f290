"""A hundred `kill -9`, with two or more workers at a time on the same output, and rows that are those of an undisturbed run.

    python3 scripts/kill_soak.py [--kills 100] [--shards 60] [--samples 12] [--seed 1] [--stores folder,s3] [--workers 2] [--frozen 0]

Beside the killed ones, `--frozen` workers are stopped (SIGSTOP) at random and go on at random, also over what others did meanwhile.
In the end every record is read, and every part is held against the sums of the record that names it.

For each store: two workers run the same command over the same output. At random moments of their life one of them, or both,
are killed and started again, and what the commit records vouch for at that moment is read whenever both are dead. When
everything is committed, one undisturbed run ends the output, all rows are compared, and the next output is begun, until
there were enough kills. Kills that come too late are not counted.
"""
import argparse, hashlib, json, pathlib, random, signal, subprocess, tempfile, time

import soak

# Longest life of a worker, as a share of an undisturbed run's time.
LONGEST_LIFE = 0.7


def start(store, output: str) -> subprocess.Popen:
    call = soak.command(f"{store.base}/in/", f"{store.base}/{output}", "--set", "run.threads=1",
                        "--set", "input.concurrent_shards=2")
    return subprocess.Popen(call, env=store.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def check_what_is_visible(wanted: dict, store, output: str) -> int:
    found = soak.rows(store, output)
    soak.compare({name: wanted[name] for name in found}, found, f"{output} after a kill")
    return len(found)


def turn_frozen(workers: list[subprocess.Popen], frozen: set[int], options, dice: random.Random) -> None:
    """Lets frozen workers go on, and freezes others."""
    for n in list(frozen):
        if workers[n].poll() is None and dice.random() < 0.5:
            workers[n].send_signal(signal.SIGCONT)
            frozen.discard(n)
    for n in dice.sample(range(options.workers), options.frozen):
        if len(frozen) < options.frozen and workers[n].poll() is None:
            workers[n].send_signal(signal.SIGSTOP)
            frozen.add(n)


def check_sums(store, output: str) -> int:
    """Every part that a record names has its sum, and there is no part that no record names."""
    named = {}
    for record in soak.records(store, output):
        commit = json.loads(store.get(record))
        for table in ("captions", "rejects"):
            named[f"{output}/{commit[table]['path']}"] = commit[table]["sha256"]
    found = {name for table in ("captions", "rejects") for name in store.list(f"{output}/{table}") if name.endswith(".parquet")}
    assert found == set(named), f"{output}: parts that no record names, or that are gone: {sorted(found ^ set(named))[:4]}"
    for name, sum_ in named.items():
        assert hashlib.sha256(store.get(name)).hexdigest() == sum_, f"{name} is not what its record says"
    return len(named)


def soak_store(name: str, store, wanted: dict, options, dice: random.Random) -> None:
    store_began = time.monotonic()
    alone = start(store, "alone")
    began = time.monotonic()
    assert alone.wait() == 0, "the undisturbed run"
    life = LONGEST_LIFE * (time.monotonic() - began)
    kills, outputs, compared, sums, moments = 0, 0, 0, 0, {"none": 0, "some": 0, "all": 0}
    while kills < options.kills:
        output = f"out-{outputs}"
        everybody = list(range(options.workers))
        workers = [start(store, output) for _ in everybody]
        frozen: set[int] = set()
        while kills < options.kills:
            time.sleep(dice.uniform(0, life))
            turn_frozen(workers, frozen, options, dice)
            victims = dice.sample(everybody, dice.randint(1, options.workers))
            alive = [n for n in victims if workers[n].poll() is None]
            for n in alive:
                workers[n].kill()
            for n in alive:
                workers[n].wait()
            frozen -= set(alive)
            kills += len(alive)
            codes = [worker.poll() for worker in workers]
            assert all(code in (None, 0, -9) for code in codes), f"{name}: a worker ended with {codes}"
            if None not in codes:
                done = check_what_is_visible(wanted, store, output)
            else:
                done = len(soak.records(store, output))
            moments["none" if done == 0 else "all" if done == len(wanted) else "some"] += len(alive)
            if done == len(wanted):
                break
            for n in everybody:
                if workers[n].poll() is not None:
                    workers[n] = start(store, output)
        for worker in workers:
            worker.kill()
            worker.wait()
        last = start(store, output)
        assert last.wait() == 0, f"{name}: the finishing run of {output} ended with {last.returncode}"
        sums += check_sums(store, output)
        compared += soak.compare(wanted, soak.rows(store, output), output)
        outputs += 1
    print(f"{name}: {kills} kills over {outputs} outputs in {time.monotonic() - store_began:.0f} s; when they came, "
          f"{moments['none']} times nothing was committed, {moments['some']} times some shards, {moments['all']} times all; "
          f"{compared} rows compared, all equal, none twice; {sums} parts have the sums of their records, and there are no others",
          flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option, default in (("kills", 100), ("shards", 60), ("samples", 12), ("seed", 1), ("workers", 2), ("frozen", 0)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--stores", default="folder,s3")
    options = parser.parse_args()
    soak.in_venv()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = soak.Folder(pathlib.Path(scratch))
        drawn = soak.draw(folder.root / "in", options.shards, options.samples)
        assert start(folder, "undisturbed").wait() == 0
        wanted = soak.rows(folder, "undisturbed")
        if "folder" in options.stores.split(","):
            soak_store("folder", folder, wanted, options, dice)
        if "s3" in options.stores.split(","):
            with soak.moto() as moto:
                store = soak.S3(moto.port)
                for shard in sorted(drawn.glob("*.tar")):
                    store.put(f"in/{shard.name}", shard.read_bytes())
                soak_store("s3", store, wanted, options, dice)


main()

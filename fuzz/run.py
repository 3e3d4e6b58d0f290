"""Builds the fuzz targets with stable Rust's own coverage instrumentation and runs each for a while.

    python3 fuzz/run.py [--seconds 60] [TARGET...]

Needs a C++ compiler for libFuzzer. Corpora are kept in target/fuzz-corpus/TARGET; a crash is written to target/fuzz-crashes and
ends this with 1. Prints, by target, the executions, their rate, and how many edges of the code were reached.
"""
import argparse, os, pathlib, re, subprocess, sys, time, zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
FLAGS = ("--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 "
         "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table "
         "-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1")
# What one input may take: seconds, and MB of memory.
LIMITS = ["-timeout=10", "-rss_limit_mb=2048"]
MOST_BYTES = {"tar": 1 << 16, "image": 1 << 16, "config": 1 << 12, "parquet": 1 << 15, "lists": 1 << 13, "torch_zip": 1 << 13}


PREFIX = {"tar": b"\x01", "torch_zip": b"\x01", "parquet": b"\x00", "lists": b"\x04"}


def seeds(target: str) -> list[pathlib.Path]:
    data = ROOT / "tests/data"
    folders = {"parquet": [HERE / "seeds", data / "tar"], "tar": [data / "tar"], "image": [data, HERE / "seeds"], "config": [ROOT / "examples", ROOT / "stages/finetune/recipes"], "lists": [HERE / "seeds"], "torch_zip": [data / "torch", HERE / "seeds"]}
    endings = {"parquet": {".parquet", ".tar", ".zst", ".gz"}, "tar": {".tar"}, "image": {".jpg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}, "config": {".toml"},
               "lists": {".txt", ".csv", ".jsonl"}, "torch_zip": {".bin", ".pt"}}
    return [f for folder in folders.get(target, []) for f in sorted(folder.rglob("*")) if f.suffix in endings[target]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    targets = args.targets or sorted(f.stem for f in (HERE / "targets").glob("*.rs"))
    build = {**os.environ, "RUSTFLAGS": FLAGS, "CARGO_TARGET_DIR": str(ROOT / "target/fuzz")}
    # An explicit target keeps the flags away from build scripts and procedural macros.
    triple = next(l.split()[1] for l in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if l.startswith("host"))
    subprocess.run(["cargo", "build", "--release", "--target", triple, "--manifest-path", HERE / "Cargo.toml"], env=build, check=True)
    failed = False
    for target in targets:
        corpus, crashes = ROOT / "target/fuzz-corpus" / target, ROOT / "target/fuzz-crashes"
        corpus.mkdir(parents=True, exist_ok=True)
        crashes.mkdir(parents=True, exist_ok=True)
        limit = MOST_BYTES.get(target, 4096)
        for seed in seeds(target):
            if seed.stat().st_size < limit:
                # The first byte chooses among the ways that a target goes.
                (corpus / f"seed-{seed.name}").write_bytes(PREFIX.get(target, b"") + seed.read_bytes())
                if target == "torch_zip" and zipfile.is_zipfile(seed):
                    with zipfile.ZipFile(seed) as file:
                        for name in file.namelist():
                            if name.endswith("data.pkl"):
                                (corpus / f"seed-{seed.name}.pkl").write_bytes(b"\x00" + file.read(name))
        command = [ROOT / "target/fuzz" / triple / "release" / target, corpus, f"-max_total_time={args.seconds}", f"-max_len={limit}",
                   f"-artifact_prefix={crashes}/{target}-", "-print_final_stats=1", *LIMITS]
        began = time.time()
        ran = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        executed = re.search(r"stat::number_of_executed_units: (\d+)", ran.stderr)
        covered = re.findall(r"cov: (\d+)", ran.stderr)
        count = int(executed[1]) if executed else 0
        took = time.time() - began
        print(f"{target:<8} {count:>10,} executions in {took:.0f} s ({count / took:,.0f}/s), {int(covered[-1]) if covered else 0:,} edges, "
              f"{'ok' if ran.returncode == 0 else 'FAILED'}", flush=True)
        if ran.returncode != 0:
            failed = True
            print(ran.stderr[-3000:], file=sys.stderr)
    sys.exit(failed)


main()

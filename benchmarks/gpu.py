"""One command for a machine with an NVIDIA GPU: whether captions are right on it, how fast they are, and what the card could do.

    python3 benchmarks/gpu.py [--model coca_ViT-L-14] [--batches 64,256,512] [--device 0]     where cargo and pip work
    python3 benchmarks/gpu.py --prepare DIR                                                   there, without a GPU: a folder to take along
    python3 DIR/gpu.py --prepared DIR                                                         on a machine that reaches nothing
    python3 benchmarks/gpu.py --provider cpu-as-device                                        the same script on a CPU, to try it

In this order, within `--time-limit` seconds (230 on a GPU):

1. Correctness, in fp16: every reference case of open_clip's by `recaption verify`, then 4,000 scenes captioned on the CPU and on the device,
   with every difference explained by two close logits (onnx/examples/compare_providers.rs). What is wrong ends the program with
   exit code 1, unless `--keep-going` is given.
2. The table: captions/s for every batch (30 forced tokens, greedy), the card's utilisation as nvidia-smi samples it, the share of
   the roofline, and open_clip's own `generate` in bf16 on the same card in the same run. Then the same with the end token allowed, and with 6 beams.
3. The share of the roofline per part, each part alone: encoding, decoding steps, choosing tokens, copying into slots.
4. `recaption run` over JPEG shards, beside the captioner alone.
5. The operators that took the most time, from ONNX Runtime's profile.

The roofline of a part is the longer of its floating-point operations over the card's fp16 GEMM rate and its bytes over the memory's
bandwidth, both measured with torch, or given by `--tflops` and `--bandwidth`. What was left out, for want of time or of torch, is
listed at the end. gpu_prepare.py describes the prepared folder. ONNX Runtime is the one that ORT_DYLIB_PATH names, else target/onnxruntime-gpu's.
"""
import argparse, concurrent.futures, functools, json, os, pathlib, shutil, subprocess, sys, tempfile, time

from gpu_measure import Utilisation, operators, part_bounds, roofline, sizes

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = ROOT / "target"
CPU = "cpu-as-device"
TOKENS = 30


def need_gpu(device: int) -> str:
    """The card's name; ends the program where there is none."""
    if shutil.which("nvidia-smi") is None:
        sys.exit("no NVIDIA GPU here: nvidia-smi is not installed. This benchmark needs a GPU and NVIDIA's driver, 580 or newer; "
                 f"`--provider {CPU}` runs the script on the CPU, `--prepare DIR` makes a folder for a machine that has a GPU.")
    command = ["nvidia-smi", "-i", str(device), "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        sys.exit(f"GPU {device} cannot be used: {(asked.stdout + asked.stderr).strip()}")
    return asked.stdout.strip()


def number(value: float | None, form: str, unit: str = "") -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None or value != value else format(value, form) + unit


class Failed(Exception):
    """A step that did not work, in words."""


class Bench:
    """What all steps need: the folder, the programs, the clock, and what was found so far."""

    def __init__(self, args: argparse.Namespace, folder: pathlib.Path, work: pathlib.Path) -> None:
        self.args, self.folder, self.work = args, folder, work
        self.on_cpu = args.provider == CPU
        self.deadline = time.monotonic() + args.time_limit
        self.left_out: list[str] = []
        self.rates: dict[str, float] = {}
        self.alone: dict[int, float] = {}
        self.environment = dict(os.environ)
        library = TARGET / ("onnxruntime" if self.on_cpu else "onnxruntime-gpu") / "lib" / "libonnxruntime.so"
        self.environment.setdefault("ORT_DYLIB_PATH", str(library))
        if not pathlib.Path(self.environment["ORT_DYLIB_PATH"]).exists():
            sys.exit(f"{self.environment['ORT_DYLIB_PATH']} is missing: let ORT_DYLIB_PATH name a libonnxruntime.so"
                     f"{'' if self.on_cpu else ' with CUDA'}, or run `make onnxruntime{'' if self.on_cpu else '-gpu'}`")

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, *command, may_fail: bool = False, cwd: pathlib.Path | None = None, **variables: str) -> subprocess.CompletedProcess:
        """Runs a program within the time that is left."""
        try:
            done = subprocess.run([str(part) for part in command], env=self.environment | variables, cwd=cwd, text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=max(self.seconds_left(), 1))
        except subprocess.TimeoutExpired:
            raise Failed(f"{pathlib.Path(command[0]).name} did not end within the time limit") from None
        if done.returncode and not may_fail:
            raise Failed(f"{' '.join(map(str, command[:3]))} ... ended with {done.returncode}: {done.stderr.strip()[-1500:]}")
        return done

    def program(self, name: str) -> pathlib.Path:
        return self.folder / "bin" / name

    def export(self, source: pathlib.Path, name: str) -> pathlib.Path:
        """The fp16 model of a folder that holds it as `model`, or a checkpoint, as `checkpoint` or itself."""
        if (source / "model").exists():
            return source / "model"
        checkpoint, out = source / "checkpoint" if (source / "checkpoint").exists() else source, self.work / name
        if not (out / "model.json").exists():
            self.run(self.program("recaption"), "export", "--checkpoint", checkpoint, "--out", out, "--precision", "fp16")
        return out

    def tokens(self, spec: dict) -> int:
        """Tokens of a timed caption: as many as a small model's context holds, at most."""
        return min(TOKENS, spec["dimensions"]["context_length"] - 1)

    def batch(self) -> int:
        """The batch of everything that is measured at one batch alone."""
        return self.args.batches[min(1, len(self.args.batches) - 1)]

    def where(self) -> list[str]:
        """Keys of the examples for the device."""
        return ["provider=cpu", "emulate_device=1"] if self.on_cpu else [f"provider={self.args.provider}", f"device={self.args.device}"]

    def flags(self) -> list[str]:
        """Flags of `recaption` for the device."""
        return ["--provider", "cpu"] if self.on_cpu else ["--provider", self.args.provider, "--device", str(self.args.device)]

    @functools.cache
    def torch(self) -> str | None:
        """A Python with torch and open_clip; none on the CPU, whose rates would say nothing."""
        looks = "import importlib.util as u, sys; sys.exit(not (u.find_spec('torch') and u.find_spec('open_clip')))"
        for python in [] if self.on_cpu else [sys.executable, str(TARGET / "bench-open-clip" / "bin" / "python")]:
            if shutil.which(python) and subprocess.run([python, "-P", "-c", looks]).returncode == 0:
                return python
        return None

    def peer(self, *arguments) -> dict:
        python = self.torch()
        if python is None:
            raise Failed("no Python with torch and open_clip 3.3.0")
        # -P: another script of this folder may have open_clip's name.
        return json.loads(self.run(python, "-P", HERE / "gpu_peer.py", *arguments).stdout.splitlines()[-1])


class Timed:
    """The model that is timed: made where it is not there, exported, with its pixels and shards."""

    def __init__(self, bench: Bench) -> None:
        args, self.source = bench.args, bench.folder / ("scenes" if bench.args.model == "bundled" else "timed")
        if args.model != "bundled" and not any((self.source / name).exists() for name in ("model", "checkpoint")):
            self.source = bench.work / "timed"
            bench.peer("make", args.model, self.source, 2 * max(args.batches))
        self.model = bench.export(self.source, "timed-model")
        self.spec = json.loads((self.model / "model.json").read_text())
        self.images, self.shards = self.source / "images.u8", self.source / "shards"
        if args.model == "bundled":
            self.images = scenes_pixels(bench)
        places = [folder / "open_clip_config.json" for folder in (self.source / "checkpoint", self.source)]
        config = next((path for path in places if path.exists()), None)
        self.size = sizes(json.loads(config.read_text())["model_cfg"], self.spec["dimensions"], bench.tokens(self.spec)) if config else None


def scenes_pixels(bench: Bench) -> pathlib.Path:
    """Pixels of the scenes, unpacked here where only shards travelled."""
    images = bench.folder / "scenes" / "images.u8"
    if images.exists():
        return images
    images = bench.work / "scenes.u8"
    if not images.exists():
        config = json.loads((bench.folder / "scenes" / "checkpoint" / "open_clip_config.json").read_text())
        size = config["model_cfg"]["vision_cfg"]["image_size"]
        bench.run(sys.executable, HERE / "scene_pixels.py", bench.folder / "scenes" / "shards", size, images)
    return images


def verify_goldens(bench: Bench) -> bool:
    """Every reference case on the device."""
    cases = sorted(path.parent for path in (bench.folder / "goldens").glob("*/golden.safetensors"))
    if not cases:
        raise Failed(f"{bench.folder / 'goldens'} has no reference case")

    def verify(case: pathlib.Path) -> tuple[str, subprocess.CompletedProcess]:
        model = bench.export(case, f"golden-{case.name}")
        return case.name, bench.run(bench.program("recaption"), "verify", model, case / "golden.safetensors", *bench.flags(), may_fail=True)

    with concurrent.futures.ThreadPoolExecutor(1 if bench.on_cpu else 4) as pool:
        found = list(pool.map(verify, cases))
    wrong = [(name, done) for name, done in found if done.returncode]
    print(f"goldens: {len(found) - len(wrong)} of {len(found)} cases pass `recaption verify` in fp16 ({', '.join(name for name, _ in found)})")
    for name, done in wrong:
        print(f"  {name} FAILS:\n{done.stdout}{done.stderr.strip()[-800:]}")
    return not wrong


def compare_scenes(bench: Bench) -> bool:
    """Captions of scenes on both sides."""
    model, args = bench.export(bench.folder / "scenes", "scenes-model"), bench.args
    done = bench.run(bench.program("compare_providers"), model, scenes_pixels(bench), *bench.where(), f"count={args.scenes}", may_fail=True)
    if not done.stdout.strip():
        raise Failed(f"compare_providers: {done.stderr.strip()[-1500:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"scenes: {found['equal']} of {found['images']} captions equal the CPU's ({found['share']:.2%}, at least 98 % are asked); "
          f"of {len(found['differences'])} others {found['explained']} are explained by close logits, {found['unexplained']} are not "
          f"(largest gap {number(found['max_gap'], '.4f')}, allowed {found['tolerance']:.4f} standard deviations)")
    print(f"  at equal prefixes, {found['logit_rows']} rows: logits' smallest cosine {number(found['logit_cosine'], '.6f')}, largest difference "
          f"{number(found['logit_deviation'], '.4f')} standard deviations; features' smallest cosine {number(found['feature_cosine'], '.6f')}")
    for bound in found["broken_bounds"]:
        print(f"  BOUND BROKEN: {bound}")
    for difference in found["differences"][:10]:
        print(f"  image {difference['image']}, token {difference['position']}: {difference['cpu']} on the CPU, {difference['device']} on the "
              f"device, gap {number(difference['gap'], '.4f')}")
    if bench.args.json:
        (bench.args.json / "scenes.json").write_text(json.dumps(found))
    return found["passes"] and done.returncode == 0


def ours(bench: Bench, timed: Timed, batch: int, *options: str, **how) -> dict:
    tokens = bench.tokens(timed.spec)
    command = [bench.program("caption_bench"), timed.model, timed.images, *bench.where(), f"slots={batch}", f"max_tokens={tokens}"]
    forced = [] if any(option.startswith("min_tokens=") for option in options) else [f"min_tokens={tokens - 1}"]
    found = json.loads(bench.run(*command, *forced, f"images={2 * max(bench.args.batches)}", "encoder_seconds=0",
                                  "cache_bytes=60000000000", *options, **how).stdout.splitlines()[-1])
    if bench.args.json:
        with (bench.args.json / "measured.jsonl").open("a") as file:
            file.write(json.dumps({"batch": batch, "options": options} | found) + "\n")
    return found


def measure_card(bench: Bench) -> None:
    """The card's rates, given or measured."""
    args = bench.args
    if args.tflops and args.bandwidth:
        bench.rates = {"flops": args.tflops * 1e12, "bytes_per_second": args.bandwidth * 1e9}
    else:
        bench.rates = bench.peer("rates", args.device)
    print(f"rates: fp16 GEMM {bench.rates['flops'] / 1e12:.3g} TFLOP/s, memory {bench.rates['bytes_per_second'] / 1e9:.0f} GB/s "
          f"({'given' if args.tflops and args.bandwidth else 'measured with torch'})")


def table(bench: Bench, timed: Timed) -> None:
    """Captions per second by batch."""
    args, theirs = bench.args, {}
    if args.model != "bundled" and not args.skip_peer:
        try:
            batches = ",".join(map(str, args.batches))
            theirs = bench.peer("generate", args.model, timed.source, args.device, TOKENS, batches)
        except Failed as error:
            bench.left_out.append(f"open_clip's rates: {error}")
    print(f"\n{args.model} fp16, greedy, {bench.tokens(timed.spec)} forced tokens, {args.provider}")
    print(f"{'batch':>6} {'captions/s':>11} {'GPU busy':>9} {'roofline':>10} {'share':>6} {'open_clip bf16':>15} {'ratio':>7} {'step ms':>8}")
    for batch in args.batches:
        with Utilisation(None if bench.on_cpu else args.device) as busy:
            found = ours(bench, timed, batch, f"seconds={args.seconds}")
        mine, peer = found["captions_per_second"], theirs.get(str(batch), {}).get("captions_per_second")
        bench.alone[batch] = mine
        bound = roofline(timed.size, batch, bench.rates, bench.tokens(timed.spec)) if timed.size and bench.rates else None
        print(f"{batch:>6} {mine:>11.1f} {number(busy.mean(), '.0f', '%'):>9} {number(bound, '.1f'):>10} {number(bound and mine / bound, '.1%'):>6} "
              f"{number(peer, '.1f'):>15} {number(peer and mine / peer, '.2f', 'x'):>7} {found['step_ms']:>8.2f}", flush=True)


def variants(bench: Bench, timed: Timed) -> None:
    """The end token allowed, and beams."""
    batch = bench.batch()
    for name, options in (("end token allowed", ["min_tokens=1"]), ("6 beams", ["strategy=beam", "beams=6"])):
        found = ours(bench, timed, batch, f"seconds={bench.args.seconds}", *options)
        print(f"{name}, batch {batch}: {found['captions_per_second']:.1f} captions/s, {found['mean_length']:.1f} tokens on average", flush=True)


def parts(bench: Bench, timed: Timed) -> None:
    """Each part alone: nothing overlaps, so that its time is its own."""
    batch = bench.batch()
    found = ours(bench, timed, batch, f"seconds={bench.args.seconds}", "overlap=0")
    batches, spent = found["images"] / batch, found["seconds"]
    bounds = part_bounds(timed.size, batch, bench.rates, timed.spec) if timed.size and bench.rates else {}
    steps = found["steps"] / batches
    print(f"\nshare of the roofline per part, batch {batch}, nothing overlapped ({found['captions_per_second']:.1f} captions/s so)")
    print(f"{'part':<26} {'ms a batch':>11} {'of the time':>12} {'ms a step':>10} {'roofline ms':>12} {'share':>7}")
    for part, name in (("encode", "encode"), ("decode", "decode"), ("select", "select tokens"), ("copy", "copy into slots")):
        time_of = found[f"{part}_share"] * spent / batches
        per_step = time_of / steps if part in ("decode", "select") else None
        bound = bounds.get(part) and bounds[part] * (steps if per_step is not None else 1)
        print(f"{name:<26} {time_of * 1e3:>11.2f} {found[f'{part}_share']:>12.1%} {number(per_step and per_step * 1e3, '.3f'):>10} "
              f"{number(bound and bound * 1e3, '.2f'):>12} {number(bound and time_of and bound / time_of, '.1%'):>7}")


def run_shards(bench: Bench, timed: Timed) -> None:
    """`recaption run` over JPEG shards, beside the captioner alone."""
    if not list(timed.shards.glob("*.tar")):
        raise Failed(f"{timed.shards} has no shards")
    batch, tokens = bench.batch(), bench.tokens(timed.spec)
    with tempfile.TemporaryDirectory(dir=bench.work) as out, Utilisation(None if bench.on_cpu else bench.args.device) as busy:
        command = [bench.program("recaption"), "run", "--model", timed.model, "--input", timed.shards, "--output", out, *bench.flags()]
        bench.run(*command, "--batch-size", batch, "--set", f"caption.max_tokens={tokens}", "--set", f"caption.min_tokens={tokens - 1}")
        record = json.loads(next(pathlib.Path(out).glob("_recaption/runs/*.json")).read_text())
    rate = record["devices"][0]["images_per_second"] if record.get("devices") else record["counts"]["captioned"] / record["seconds"]
    alone = bench.alone.get(batch)
    print(f"\nrecaption run over {record['shards_done']} JPEG shards, batch {batch}: {rate:.1f} images/s with start, scoring and writing, "
          f"{number(alone and rate / alone, '.2f')} of the captioner alone; GPU busy {number(busy.mean(), '.0f', '%')} with loading; "
          f"self-test {record.get('self_test', '-')}", flush=True)


def profile(bench: Bench, timed: Timed) -> None:
    """Operators by time, from ONNX Runtime's profile of one round."""
    batch = bench.batch()
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        # ONNX Runtime times the launch of a node: launches must wait for their kernels, which makes this run slower. A replayed CUDA
        # graph has no nodes.
        ours(bench, timed, batch, "profile=1", "seconds=0", "cuda_graphs=0", cwd=pathlib.Path(folder), CUDA_LAUNCH_BLOCKING="1")
        for graph in ("image_encoder", "decoder", "select"):
            found = sorted(pathlib.Path(folder).glob(f"recaption-{graph}*.json"))
            rows = [row for file in found for row in operators(file)]
            total = sum(row[2] for row in rows) or 1
            print(f"\n{graph}, batch {batch}: {'operator':<28} {'provider':<10} {'ms':>9} {'share':>6} {'calls':>7}")
            for operator, provider, ms, count in sorted(rows, key=lambda row: -row[2])[: bench.args.operators]:
                print(f"{'':>{len(graph) + 9 + len(str(batch))}} {operator:<28} {provider:<10} {ms:>9.1f} {ms / total:>6.1%} {count:>7}")


def measure(bench: Bench) -> int:
    """All steps; the exit code."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # The model that is timed is made and exported while correctness is checked: nothing is timed yet.
        making = pool.submit(Timed, bench)
        checks = [(verify_goldens, "goldens"), (compare_scenes, "scenes")]
        right = True
        for check, name in checks:
            try:
                right &= check(bench)
            except Failed as error:
                print(f"{name} FAILED: {error}")
                right = False
            sys.stdout.flush()
        try:
            timed = making.result()
        except Failed as error:
            print(f"the model that is timed cannot be had: {error}")
            return 1
    if not right and not bench.args.keep_going:
        print("captions are WRONG on this device: nothing was timed (--keep-going does it nevertheless)")
        return 1
    steps = [
        ("the card's rates", lambda: measure_card(bench)),
        ("the table", lambda: table(bench, timed)),
        ("shares per part", lambda: parts(bench, timed)),
        ("the profile", lambda: profile(bench, timed)),
        ("end token and beams", lambda: variants(bench, timed)),
        ("`recaption run`", lambda: run_shards(bench, timed)),
    ]
    for name, step in steps:
        if bench.seconds_left() < 10:
            bench.left_out.append(f"{name}: the time limit of {bench.args.time_limit} s")
            continue
        try:
            step()
        except Failed as error:
            bench.left_out.append(f"{name}: {error}")
        sys.stdout.flush()
    print(f"\n{bench.args.time_limit - bench.seconds_left():.0f} s; left out: {'; '.join(bench.left_out) or 'nothing'}")
    return 0 if right else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", metavar="DIR", type=pathlib.Path, help="make the folder for a machine that reaches nothing, and end")
    parser.add_argument("--prepared", metavar="DIR", type=pathlib.Path, help="run from such a folder: no cargo, no pip, no network")
    parser.add_argument("--with-timed", action="store_true", help="--prepare: put the model that is timed into the folder (GBs; needs torch)")
    parser.add_argument("--no-build", action="store_true", help="take the programs that target/release has as they are")
    parser.add_argument("--work", metavar="DIR", type=pathlib.Path,
                        help="where models are exported to (default: a temporary folder, or target/bench-gpu-work)")
    parser.add_argument("--model", help=f"an open_clip CoCa to time, or `bundled` (default coca_ViT-L-14; bundled with --provider {CPU})")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--provider", default="cuda", choices=["cuda", "tensorrt", CPU])
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], help=f"default 64,256,512; 8,32 with --provider {CPU}")
    parser.add_argument("--scenes", type=int, help=f"scenes that are captioned on both sides (default 4000; 400 with --provider {CPU})")
    parser.add_argument("--seconds", default=4, type=int, help="of every measurement, at least")
    parser.add_argument("--time-limit", type=int, help=f"seconds after which nothing more is begun (default 230; 900 with --provider {CPU})")
    parser.add_argument("--tflops", type=float, help="fp16 rate of the card, where torch is not to measure it")
    parser.add_argument("--bandwidth", type=float, help="its memory's GB/s, likewise")
    parser.add_argument("--operators", type=int, default=10, help="lines of the profile per graph")
    parser.add_argument("--skip-peer", action="store_true", help="leave open_clip out")
    parser.add_argument("--keep-going", action="store_true", help="time a device that computes wrong captions")
    parser.add_argument("--json", metavar="DIR", type=pathlib.Path, help="keep what was measured as JSON")
    args = parser.parse_args()
    on_cpu = args.provider == CPU
    if not args.prepare and (HERE / "prepared.json").exists():
        # This is the copy in such a folder.
        args.prepared = args.prepared or HERE
    args.model = args.model or ("bundled" if on_cpu else "coca_ViT-L-14")
    args.batches = args.batches or ([8, 32] if on_cpu else [64, 256, 512])
    args.scenes = args.scenes or (400 if on_cpu else 4000)
    args.time_limit = args.time_limit or (900 if on_cpu else 230)
    return args


def main() -> None:
    args = arguments()
    if args.prepare or not args.prepared:
        # Not in a prepared folder's way: it is made here alone.
        from gpu_prepare import PACKAGES, PEER_VENV, prepare, python_in
    images = 2 * max(args.batches)
    if args.prepare:
        prepare(args.prepare, args.model, images, args.with_timed, not args.no_build)
        name = args.prepare.name
        print(f"{args.prepare}: copy it to the machine, then there: ORT_DYLIB_PATH=/path/libonnxruntime.so python3 {name}/gpu.py --prepared {name}")
        return
    on_cpu = "the CPU, with the code of a device: this tries the script and measures nothing of a GPU"
    print(on_cpu if args.provider == CPU else need_gpu(args.device), flush=True)
    folder = args.prepared or TARGET / "bench-gpu"
    if not args.prepared:
        if args.model != "bundled":
            python_in(PEER_VENV, PACKAGES)
        tensorrt = ["TENSORRT=1"] if args.provider == "tensorrt" else []
        if "ORT_DYLIB_PATH" not in os.environ:
            subprocess.run(["make", "--quiet", "onnxruntime" if args.provider == CPU else "onnxruntime-gpu", *tensorrt], cwd=ROOT, check=True)
        prepare(folder, args.model, images, False, not args.no_build)
        args.work = args.work or TARGET / "bench-gpu-work"
    for out in filter(None, (args.work, args.json)):
        out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        code = measure(Bench(args, folder.resolve(), (args.work or pathlib.Path(scratch)).resolve()))
    sys.exit(code)


if __name__ == "__main__":
    main()

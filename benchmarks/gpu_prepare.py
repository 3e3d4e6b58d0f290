"""The folder that gpu.py runs from on a machine that reaches nothing: `gpu.py --prepare DIR` makes it where cargo and pip work.

Layout of DIR, 0.2 GB (36 MB as tar.xz without scenes/shards); what is marked * may be left out of a copy:

    gpu.py, gpu_*.py, scene_pixels.py, build_tokenizer.py    there: python3 DIR/gpu.py --prepared DIR
    prepared.json                        what it was made from
    bin/                                 recaption, caption_bench, compare_providers
    goldens/CASE/                        reference cases: a small checkpoint and golden.safetensors
    scenes/checkpoint/                   the bundled captioner
    scenes/shards/*.tar                  4,000 scenes as JPEGs (* where scenes/images.u8 is there, but for the measurement of `run`)
    scenes/images.u8                     the same as u8 RGB [N, S, S, 3] (* where scenes/shards and Pillow are there)
    timed/checkpoint/ or timed/model/    the model that is timed, as a checkpoint or exported in fp16 (*, see below)
    timed/images.u8, timed/shards/*.tar  pixels at its size, 1,024 or more, and JPEG shards (*)

Not in it: ONNX Runtime with CUDA, which ORT_DYLIB_PATH names (NVIDIA's libraries beside it, as `make onnxruntime-gpu` puts them, or where the system
has them), and torch. Without timed/, gpu.py makes it there with torch and open_clip 3.3.0 (no network: random weights), in 20 seconds
or so; `--with-timed` makes it here instead, which costs 3 GB for coca_ViT-L-14 and the same packages. Where neither is there,
rates, the peer and the timed model are left out, and `--model bundled` times the small one.
"""
import json, pathlib, shutil, subprocess, sys, venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TARGET = ROOT / "target"
PEER_VENV = TARGET / "bench-open-clip"
PILLOW_VENV = TARGET / "bench-venv"
PACKAGES = ["open_clip_torch==3.3.0", "transformers==4.48.3", "torch", "torchvision"]
SCENES_SHARDS, SCENES_EACH, SCENES_SEED = 4, 1000, 9
BINARIES = {"recaption": "recaption", "caption_bench": "examples/caption_bench", "compare_providers": "examples/compare_providers"}


def python_in(folder: pathlib.Path, packages: list[str]) -> pathlib.Path:
    """A Python with these packages."""
    path = folder / "bin" / "python"
    if not path.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([path, "-m", "pip", "install", "--quiet", *packages], check=True)
    return path


def build() -> None:
    cargo = ["cargo", "build", "--quiet", "--locked", "--release"]
    subprocess.run([*cargo, "--bin", "recaption"], cwd=ROOT, check=True)
    subprocess.run([*cargo, "-p", "recaption-onnx", "--example", "caption_bench", "--example", "compare_providers"], cwd=ROOT, check=True)


def copy_programs(out: pathlib.Path) -> None:
    (out / "bin").mkdir(parents=True, exist_ok=True)
    for name, path in BINARIES.items():
        source = TARGET / "release" / path
        if not source.exists():
            sys.exit(f"{source} is missing: leave out --no-build, or build it")
        target = out / "bin" / name
        # Debug information is most of these files.
        if shutil.which("strip") is None or subprocess.run(["strip", "-o", target, source]).returncode:
            shutil.copy2(source, target)
    scripts = [*HERE.glob("gpu*.py"), HERE / "scene_pixels.py", ROOT / "scripts" / "build_tokenizer.py"]
    for script in scripts:
        shutil.copy2(script, out / script.name)


def copy_models(out: pathlib.Path) -> None:
    for golden in sorted((ROOT / "tests" / "data" / "coca").glob("*/golden.safetensors")):
        shutil.copytree(golden.parent, out / "goldens" / golden.parent.name, dirs_exist_ok=True)
    checkpoint = out / "scenes" / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"):
        shutil.copy2(ROOT / "onnx" / "models" / "coca-scenes-base" / name, checkpoint / name)


def make_scenes(out: pathlib.Path) -> None:
    scenes = out / "scenes"
    if (scenes / "images.u8").exists() and list((scenes / "shards").glob("*.tar")):
        return
    counts = ["--shards", str(SCENES_SHARDS), "--samples", str(SCENES_EACH), "--seed", str(SCENES_SEED)]
    subprocess.run([out / "bin" / "recaption", "scenes", "--out", scenes / "shards", *counts], check=True, stdout=subprocess.DEVNULL)
    size = json.loads((scenes / "checkpoint" / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]["image_size"]
    python = python_in(PILLOW_VENV, ["pillow==13.0.0"])
    subprocess.run([python, HERE / "scene_pixels.py", scenes / "shards", str(size), scenes / "images.u8"], check=True)


def prepare(out: pathlib.Path, model: str, images: int, with_timed: bool, may_build: bool) -> None:
    """Makes or renews the folder. What takes long and is there already is kept."""
    if may_build:
        build()
    copy_programs(out)
    copy_models(out)
    make_scenes(out)
    if with_timed and model != "bundled" and not (out / "timed" / "images.u8").exists():
        python = python_in(PEER_VENV, PACKAGES)
        subprocess.run([python, "-P", HERE / "gpu_peer.py", "make", model, out / "timed", str(images)], check=True, stdout=subprocess.DEVNULL)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    version = subprocess.check_output([out / "bin" / "recaption", "--version"], text=True).strip()
    made = {"version": version, "commit": commit, "model": model, "scenes": SCENES_SHARDS * SCENES_EACH}
    (out / "prepared.json").write_text(json.dumps(made, indent=2) + "\n")

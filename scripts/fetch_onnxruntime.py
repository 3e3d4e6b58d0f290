"""Fetches the pinned ONNX Runtime wheel with pip and unpacks its shared library.

    python3 scripts/fetch_onnxruntime.py DEST                  (make onnxruntime: DEST = target/onnxruntime)
    python3 scripts/fetch_onnxruntime.py DEST gpu              (make onnxruntime-gpu: DEST = target/onnxruntime-gpu)
    python3 scripts/fetch_onnxruntime.py DEST gpu tensorrt     (make onnxruntime-gpu TENSORRT=1)
    python3 scripts/fetch_onnxruntime.py DEST gpu system-cuda  (examples/docker/Dockerfile.cuda)

Writes DEST/lib/libonnxruntime.so.<version>, a link libonnxruntime.so to it, and the wheel's licence files; with `gpu` also
ONNX Runtime's provider libraries beside it and NVIDIA's libraries as DEST/nvidia/<package>/lib, where the program looks for
them; `system-cuda` leaves these out, where the system has them. pip checks every wheel's hash against
onnx/onnxruntime-requirements.txt or onnx/onnxruntime-gpu-requirements.txt.

TensorRT's libraries are not on PyPI: the package there (hash-checked) fetches them from NVIDIA's own index while it is built.
"""
import pathlib, platform, re, shutil, subprocess, sys, tempfile, zipfile

ONNX = pathlib.Path(__file__).resolve().parent.parent / "onnx"
TENSORRT = "onnxruntime-tensorrt-requirements.txt"


def pip(command: str, scratch: str, requirements: str, *options: str, only: str = "") -> list[pathlib.Path]:
    """The wheels that a requirements file names; with `only` those whose name begins so."""
    text = (ONNX / requirements).read_text()
    entries = re.findall(r"^[\w-]+==.*?[^\\]$", text, re.M | re.S)
    selected = pathlib.Path(scratch) / requirements
    selected.write_text("\n".join(entry for entry in entries if entry.startswith(only)) + "\n" if only else text)
    arguments = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--require-hashes", *options,
                 "-r", str(selected)]
    if subprocess.run(arguments).returncode:
        sys.exit(f"pip could not fetch what onnx/{requirements} names; without pip, point ORT_DYLIB_PATH at a libonnxruntime 1.24 or newer")
    return sorted(pathlib.Path(scratch).glob("*.whl"))


def binaries(scratch: str, requirements: str, machine: str, only: str) -> list[pathlib.Path]:
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (28, 27, 17, 12, 5)]
    return pip("download", scratch, requirements, "--only-binary=:all:", "--python-version", "3.11", *platforms, "-d", scratch,
               only=only)


def write(archive: zipfile.ZipFile, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Written beside and renamed: an interrupted unpacking leaves no half library."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / pathlib.PurePosixPath(name).name
    partial = target.with_name(target.name + ".partial")
    with archive.open(name) as source, partial.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    partial.chmod(0o755)
    partial.rename(target)
    return target


def unpack_onnxruntime(wheel: pathlib.Path, dest: pathlib.Path) -> None:
    lib = dest / "lib"
    lib.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = pathlib.PurePosixPath(name).name
            if base.startswith("libonnxruntime.so."):
                write(archive, name, lib)
                link = lib / "libonnxruntime.so"
                link.unlink(missing_ok=True)
                link.symlink_to(base)
            elif base.startswith("libonnxruntime_providers_"):
                write(archive, name, lib)
            elif name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
                (dest / base).write_bytes(archive.read(name))


def unpack_nvidia(wheel: pathlib.Path, dest: pathlib.Path) -> None:
    """`nvidia/<package>/lib/*.so*` and `tensorrt_libs/*.so*` become DEST/nvidia/<package>/lib/*."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = pathlib.PurePosixPath(name)
            if ".so" in path.suffixes:
                package = "tensorrt" if path.parts[0].startswith("tensorrt") else path.parts[1]
                write(archive, name, dest / "nvidia" / package / "lib")
            elif path.name.startswith("License") or path.name == "LICENSE":
                licence = dest / "nvidia" / f"{wheel.name.split('-')[0]}-{path.name}"
                licence.parent.mkdir(parents=True, exist_ok=True)
                licence.write_bytes(archive.read(name))


def main() -> None:
    dest, gpu, tensorrt = pathlib.Path(sys.argv[1]), "gpu" in sys.argv[2:], "tensorrt" in sys.argv[2:]
    machine = platform.machine()
    if sys.platform != "linux" or machine not in (("x86_64",) if gpu else ("x86_64", "aarch64")):
        what = "ONNX Runtime with CUDA" if gpu else "ONNX Runtime"
        sys.exit(f"no pinned {what} for {sys.platform} {machine}: point ORT_DYLIB_PATH at a libonnxruntime 1.24 or newer")
    with tempfile.TemporaryDirectory() as scratch:
        requirements = "onnxruntime-gpu-requirements.txt" if gpu else "onnxruntime-requirements.txt"
        only = "onnxruntime" if "system-cuda" in sys.argv[2:] else ""
        for wheel in binaries(scratch, requirements, machine, only):
            (unpack_onnxruntime if wheel.name.startswith("onnxruntime") else unpack_nvidia)(wheel, dest)
            wheel.unlink()
        if tensorrt:
            for wheel in pip("wheel", scratch, TENSORRT, "-w", scratch):
                unpack_nvidia(wheel, dest)
    print(f"ONNX Runtime: {(dest / 'lib' / 'libonnxruntime.so').resolve()}")


main()

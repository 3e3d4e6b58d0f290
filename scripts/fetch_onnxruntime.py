"""Fetches the pinned ONNX Runtime wheel with pip and unpacks its shared library.

    python3 scripts/fetch_onnxruntime.py DEST      (make onnxruntime: DEST = target/onnxruntime)

Writes DEST/lib/libonnxruntime.so.<version>, a link libonnxruntime.so to it, and the wheel's licence files. pip checks the
wheel's hash against onnx/onnxruntime-requirements.txt.
"""
import pathlib, platform, subprocess, sys, tempfile, zipfile

REQUIREMENTS = pathlib.Path(__file__).resolve().parent.parent / "onnx" / "onnxruntime-requirements.txt"


def main() -> None:
    dest = pathlib.Path(sys.argv[1])
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        sys.exit(f"no pinned ONNX Runtime for {sys.platform} {machine}: point ORT_DYLIB_PATH at a libonnxruntime 1.24 or newer")
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes",
                   "--python-version", "3.11", "--platform", f"manylinux_2_28_{machine}", "-d", scratch, "-r", str(REQUIREMENTS)]
        if subprocess.run(command).returncode:
            sys.exit("pip could not fetch onnxruntime; without pip, point ORT_DYLIB_PATH at a libonnxruntime 1.24 or newer")
        wheel = next(pathlib.Path(scratch).glob("onnxruntime-*.whl"))
        lib = dest / "lib"
        lib.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                base = pathlib.PurePosixPath(name).name
                if base.startswith("libonnxruntime.so."):
                    # Written beside and renamed: an interrupted unpacking leaves no half library.
                    partial = lib / (base + ".partial")
                    partial.write_bytes(archive.read(name))
                    partial.chmod(0o755)
                    partial.rename(lib / base)
                    link = lib / "libonnxruntime.so"
                    link.unlink(missing_ok=True)
                    link.symlink_to(base)
                elif name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
                    (dest / base).write_bytes(archive.read(name))
    print(f"ONNX Runtime: {(lib / 'libonnxruntime.so').resolve()}")


main()

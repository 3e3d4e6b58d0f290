"""Installs the servers that the tests of storage talk to, pinned, below target/test-services. Starts nothing.

    python3 scripts/test_services.py          moto (S3), mitmproxy, azurite (Azure), and what drives a browser; `make test` calls it
    python3 scripts/test_services.py s3s      also s3s-fs (S3 with signatures), compiled from source; `make test-s3s` calls it

Where everything is installed already, nothing is fetched and no network is needed. A half-finished installation is taken up
again by the next call. The GCS stub needs no installation: it is part of the tests (tests/support/gcs.rs).
"""
import os, pathlib, shutil, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

ROOT = pathlib.Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "tests/support/services-requirements.txt"
# The last version that runs on Node 18 and 20.
AZURITE = "azurite@3.35.0"
# They drive the machine's Chromium over the report page: the page is tested as its users see it.
BROWSER = ["puppeteer-core@24.10.0", "axe-core@4.14.1"]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
S3S = "s3s-fs@0.14.1"


def place() -> pathlib.Path:
    """Beside cargo's own files: where CARGO_TARGET_DIR points, that is where the tests look."""
    return ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "test-services"


def tool(name: str, what_for: str, how: str) -> str:
    found = shutil.which(name)
    if not found:
        raise SystemExit(f"{what_for} needs `{name}`, which is not installed: {how}")
    return found


def call(what: str, command: list[str], **more) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{what} could not be installed (it is fetched once, then the network is not needed):\n"
                         f"$ {' '.join(command)}\n{done.stdout.strip()}")


def python(folder: pathlib.Path) -> None:
    probe = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True)
    if probe.returncode:
        raise SystemExit("moto and mitmproxy need Python's venv module: apt-get install python3-venv")
    call("a virtual environment", [sys.executable, "-m", "venv", "--clear", str(folder)])
    call("moto and mitmproxy", [str(folder / "bin/pip"), "install", "--quiet", "--no-deps", "--disable-pip-version-check",
                                "-r", str(REQUIREMENTS)])


def azurite(folder: pathlib.Path) -> None:
    npm = tool("npm", "azurite, the Azure emulator,", "apt-get install nodejs npm (Node 18 or newer)")
    tool("node", "azurite, the Azure emulator,", "apt-get install nodejs npm (Node 18 or newer)")
    folder.mkdir(parents=True, exist_ok=True)
    call("azurite", [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", AZURITE])


def browser(folder: pathlib.Path) -> None:
    npm = tool("npm", "puppeteer-core, which drives Chromium,", "apt-get install nodejs npm (Node 18 or newer)")
    folder.mkdir(parents=True, exist_ok=True)
    call("puppeteer-core and axe-core",
         [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", *BROWSER])


def chromium() -> None:
    """Installs Chromium from the system's packages where it is missing and may be installed."""
    if any(map(shutil.which, CHROMIUM)):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        # The lists of packages are fetched only where what is there does not do.
        for command in (install, ["apt-get", "update"], install):
            try:
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, timeout=600)
            except subprocess.TimeoutExpired:
                break
            if any(map(shutil.which, CHROMIUM)):
                return
    print("test services: no Chromium: `apt-get install chromium`; without one, set RECAPTION_WITHOUT_BROWSER=1 for the tests",
          file=sys.stderr)


def s3s(folder: pathlib.Path) -> None:
    cargo = tool("cargo", "s3s-fs, the S3 server that checks signatures,", "install Rust")
    environment = {k: v for k, v in os.environ.items() if k not in ("CARGO_TARGET_DIR", "RUSTFLAGS")}
    call("s3s-fs", [cargo, "install", "--locked", "--quiet", "--root", str(folder), S3S, "--features", "binary"],
         env=environment, cwd=ROOT.parent)


def install(name: str, pins: str, work) -> str | None:
    """Does `work` unless it was done for the same pins."""
    folder = place() / name
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == pins:
        return None
    began = time.monotonic()
    stamp.unlink(missing_ok=True)
    work(folder)
    stamp.write_text(pins)
    return f"{name} in {time.monotonic() - began:.0f} s"


def main() -> None:
    jobs = [("python", REQUIREMENTS.read_text(), python), ("azurite", AZURITE, azurite),
            ("browser", "\n".join(BROWSER), browser)]
    if "s3s" in sys.argv[1:]:
        jobs.append(("s3s", S3S, s3s))
    place().mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor() as pool:
        ended = [pool.submit(install, *job) for job in jobs]
    failures = [str(e) for e in (job.exception() for job in ended) if e]
    if failures:
        sys.exit("\n\n".join(failures))
    done = [said for said in (job.result() for job in ended) if said]
    chromium()
    if done:
        print(f"test services: {', '.join(done)}; {place()}")


main()

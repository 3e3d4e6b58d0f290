"""Checks a run's metrics with the programs that read them. Exit 1 with what does not hold.

    pip install prometheus_client grafana-foundation-sdk
    python3 scripts/check_metrics.py [--recaption target/release/recaption] [--images 3000]

- Prometheus's own parser reads every scrape of a run, and the file that it leaves; both count what the run reports.
- `promtool` finds nothing wrong with metrics, alert rules and the scrape configuration.
- A Prometheus scrapes the run, and answers every query of the dashboard and of the alerts.
- Grafana's types of dashboards (grafana-foundation-sdk) take examples/grafana/recaption.json.

Prometheus and promtool are taken from PATH, or from Debian's package, unpacked below target/check-metrics.
"""
import argparse, json, re, shutil, socket, subprocess, sys, tempfile, time, urllib.parse, urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parse

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples/grafana"
# A query over these has no answer on a machine without a GPU, without node exporter, or where nothing is rejected.
OPTIONAL = ("device_memory", "recaption_last_", "rejects_total")
problems = []


def check(holds: bool, what: str):
    print(("ok      " if holds else "FAILED  ") + what)
    if not holds:
        problems.append(what)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def prometheus_programs() -> Path:
    """The folder of `prometheus` and `promtool`."""
    found = shutil.which("promtool")
    if found and shutil.which("prometheus"):
        return Path(found).parent
    place = ROOT / "target/check-metrics"
    if not (place / "usr/bin/promtool").exists():
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "prometheus"], cwd=place, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["dpkg-deb", "-x", next(place.glob("prometheus_*.deb")), "."], cwd=place, check=True)
    return place / "usr/bin"


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def samples(text: str) -> dict:
    return {(s.name, tuple(sorted((k, v) for k, v in s.labels.items() if k != "output"))): s.value
            for family in parse(text) for s in family.samples}


def dashboard_queries(node):
    if isinstance(node, dict):
        if "expr" in node:
            yield node["expr"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from dashboard_queries(item)


def alert_queries() -> list:
    # A comparison has no answer as long as nothing is wrong: only its left side is asked for.
    rules = re.findall(r"^\s+expr: (.*)$", (EXAMPLES / "alerts.yml").read_text(), re.M)
    return [re.split(r" (?:[<>]|==) ", rule)[0] for rule in rules]


def check_queries(port: int):
    dashboard = json.loads((EXAMPLES / "recaption.json").read_text())
    silent = []
    queries = list(dashboard_queries(dashboard)) + alert_queries()
    for query in queries:
        plain = query.replace("$__rate_interval", "5s").replace("$job", ".*").replace("$instance", ".*")
        # The alerts look at minutes; this run takes seconds.
        plain = re.sub(r"\[1[05]m\]", "[5s]", plain)
        url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": plain})
        answer = json.loads(get(url))
        if answer["status"] != "success":
            problems.append(f"{query}: {answer}")
        elif not answer["data"]["result"] and not any(name in query for name in OPTIONAL):
            silent.append(query)
    check(not silent, f"{len(queries)} queries of dashboard and alerts have answers" + "".join(f"\n        not: {q}" for q in silent))


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--recaption", default=str(ROOT / "target/release/recaption"))
    arguments.add_argument("--images", type=int, default=3000)
    options = arguments.parse_args()
    programs = prometheus_programs()
    promtool = lambda what, **more: subprocess.run([programs / "promtool", "check", *what], capture_output=True, text=True, **more)
    for what in ("rules", EXAMPLES / "alerts.yml"), ("config", EXAMPLES / "prometheus.yml"):
        result = promtool(what)
        check(result.returncode == 0, f"promtool check {what[0]} {result.stderr}")
    with tempfile.TemporaryDirectory() as folder:
        check_run(Path(folder), options, programs, promtool)
    try:
        from grafana_foundation_sdk.cog import plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard
    except ImportError:
        print("skipped the dashboard's types: pip install grafana-foundation-sdk")
    else:
        plugins.register_default_plugins()
        dashboard = Dashboard.from_json(json.loads((EXAMPLES / "recaption.json").read_text()))
        check(len(dashboard.panels) > 20, f"Grafana's types take the dashboard: {len(dashboard.panels)} panels")
    return 1 if problems else 0


def check_run(place: Path, options, programs: Path, promtool):
    run = lambda *words: subprocess.run([options.recaption, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run("scenes", "--out", place / "shards", "--shards", 3, "--samples", options.images // 3)
    run("demo", "--dir", place / "demo", "--scenes", 12)
    port, own = free_port(), free_port()
    (place / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: recaption\n  static_configs:\n"
        f"  - targets: ['127.0.0.1:{port}']\n")
    server = subprocess.Popen([programs / "prometheus", f"--config.file={place}/prometheus.yml",
                               f"--storage.tsdb.path={place}/data", f"--web.listen-address=127.0.0.1:{own}"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    job = subprocess.Popen([options.recaption, "--log-format", "json", "run", "--input", place / "shards", "--model", place / "demo/model",
                            "--output", place / "out", "--min-similarity", "0.6", "--metrics-addr", f"127.0.0.1:{port}",
                            "--metrics-file", place / "run.prom"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        scrapes, asked, last = 0, False, ""
        while job.poll() is None:
            time.sleep(0.3)
            try:
                last = get(f"http://127.0.0.1:{port}/metrics")
            except OSError:
                continue
            counted = samples(last)
            scrapes += 1
            # Half-way all rates of the last five seconds are there.
            if not asked and counted[("recaption_samples_total", (("outcome", "captioned"),))] > options.images / 2:
                asked = True
                check_queries(own)
        report = json.loads(job.stdout.read())
    finally:
        for process in (job, server):
            process.kill()
            process.wait()
    check(scrapes > 3 and asked, f"{scrapes} scrapes, parsed by prometheus_client")
    written = (place / "run.prom").read_text()
    end = samples(written)
    outcome = lambda name: end[("recaption_samples_total", (("outcome", name),))]
    counts = report["counts"]
    check((outcome("captioned"), outcome("rejected")) == (counts["captioned"], counts["rejected"]),
          f"the file counts what the run reports: {counts['captioned']} captioned, {counts['rejected']} rejected")
    for name, text in ("served", last), ("file", written):
        result = promtool(["metrics"], input=text)
        check(result.returncode == 0 and not result.stderr, f"promtool check metrics: {name} {result.stderr}")


if __name__ == "__main__":
    sys.exit(main())

"""Writes the table of open_clip's model configurations: which are supported, and why the others are not.

    cargo build --release --workspace --examples
    python scripts/open_clip_table.py --configs 3.3.0=DIR --configs 4.2=DIR     # DIR: src/open_clip/model_configs of that version
    python scripts/open_clip_table.py --check                                   # exit 1 if the page is not what the program says

What an export says of each configuration (`onnx/examples/read_configs.rs`) makes docs/src/supported-models.md. The configurations are kept in
tests/data/open_clip_configs.json (open_clip's licence: MIT), with the versions that have them; without --configs that file is read.
`onnx/tests/supported_models.rs` compares the page with the reader in every test run.
"""
import argparse, collections, json, pathlib, subprocess, sys, tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS, PAGE = ROOT / "tests/data/open_clip_configs.json", ROOT / "docs/src/supported-models.md"
READER = ROOT / "target/release/examples/read_configs"
BEGIN, END = "<!-- table: made by scripts/open_clip_table.py -->", "<!-- end of table -->"
KINDS = {"coca": "CoCa: captions and scores", "clip": "CLIP: scores", "siglip": "SigLIP: scores"}


def collect(sources):
    """Reads folders of configurations; the newest version of a name counts."""
    entries = {}
    for source in sources:
        version, _, folder = source.partition("=")
        paths = sorted(pathlib.Path(folder).glob("*.json"))
        if not paths:
            sys.exit(f"no configurations in {folder}")
        for path in paths:
            entry = entries.setdefault(path.stem, {"versions": []})
            entry["versions"].append(version)
            entry["config"] = json.loads(path.read_text())
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in sorted(entries.items())]
    CONFIGS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def verdicts(entries):
    """name -> (whether it is supported, kind or reason), by the reader that an export has."""
    with tempfile.TemporaryDirectory() as place:
        paths = [pathlib.Path(place) / f"{name}.json" for name in entries]
        for path in paths:
            path.write_text(json.dumps(entries[path.stem]["config"]))
        out = subprocess.run([READER, *paths], check=True, capture_output=True, text=True).stdout
    rows = [line.split("\t") for line in out.splitlines()]
    if len(rows) != len(entries):
        sys.exit(f"{READER} read {len(rows)} of {len(entries)} configurations")
    return {name: (verdict == "supported", what) for name, verdict, what in rows}


def table(entries):
    found = verdicts(entries)
    lines = []
    for version in dict.fromkeys(version for entry in entries.values() for version in entry["versions"]):
        names = [name for name, entry in entries.items() if version in entry["versions"]]
        lines.append(f"- open_clip {version}: {sum(found[n][0] for n in names)} of {len(names)} configurations are supported.")
    new = [name for name, entry in entries.items() if "3.3.0" not in entry["versions"]]
    if new:
        lines.append(f"- {len(new)} are not in open_clip 3.3.0 (marked *).")
    mark = lambda name: f"`{name}`" + ("*" if name in new else "")
    groups = collections.defaultdict(list)
    for name, (is_supported, what) in found.items():
        groups[(not is_supported, what)].append(name)
    lines += ["", "| supported as | configurations |", "|---|---|"]
    for (refused, kind), names in sorted(groups.items()):
        if not refused:
            lines.append(f"| {KINDS[kind]} | {', '.join(map(mark, names))} |")
    lines += ["", "| refused because | configurations |", "|---|---|"]
    for (refused, why), names in sorted(groups.items()):
        if refused:
            lines.append(f"| {why.replace('|', chr(92) + '|').replace('<', '&lt;')} | {', '.join(map(mark, names))} |")
    return "\n".join(lines)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--configs", action="append", default=[], metavar="VERSION=DIR")
    a.add_argument("--check", action="store_true")
    a = a.parse_args()
    if a.configs:
        collect(a.configs)
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n\n{table(json.loads(CONFIGS.read_text()))}\n\n{END}{after}"
    if not a.check:
        PAGE.write_text(made)
    elif made != page:
        sys.exit(f"{PAGE} is not what the program says: run scripts/open_clip_table.py")


main()

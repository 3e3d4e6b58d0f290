"""Checks every dependency's licence and source, from `cargo metadata`. Exit 1 with the offenders.

The lock file also names what burn's other backends would need. A few of those have other licences: they are named here, and
refused as soon as a build on Linux uses one.

    python3 scripts/check_dependencies.py
"""
import json, re, subprocess, sys

ALLOWED = {"Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC",
           "Zlib", "0BSD", "CC0-1.0", "Unicode-3.0", "Unlicense", "CDLA-Permissive-2.0"}
# MPL-2.0 binds changes to a crate's own files; we make none. Pulled in by burn, the latter two with CUDA only.
USED_AS_IT_IS = {"colored", "buildid", "option-ext"}
# In the lock file and in no build of ours.
UNUSED = {"cfg_block", "libfuzzer-sys"}
BUILDS = [["--workspace"], ["-p", "recaption-finetune", "--features", "cuda"]]
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


def satisfied(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    at = 0

    def term() -> bool:
        nonlocal at
        if tokens[at] == "(":
            at += 1
            value = either()
            at += 1
            return value
        name = tokens[at]
        at += 1
        if at < len(tokens) and tokens[at] == "WITH":
            name += " WITH " + tokens[at + 1]
            at += 2
        return name in ALLOWED

    def both() -> bool:
        nonlocal at
        value = term()
        while at < len(tokens) and tokens[at] == "AND":
            at += 1
            value = term() and value
        return value

    def either() -> bool:
        nonlocal at
        value = both()
        while at < len(tokens) and tokens[at] == "OR":
            at += 1
            value = both() or value
        return value

    return either() and at == len(tokens)


def main() -> None:
    assert satisfied("MIT OR GPL-3.0") and satisfied("(MIT OR X) AND ISC") and not satisfied("MIT AND GPL-3.0")
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"]))
    members, bad, used = set(metadata["workspace_members"]), [], set()
    for build in BUILDS:
        tree = ["cargo", "tree", "--locked", "--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "-f", "{p}", *build]
        # "name v1.2.3 (proc-macro) (*)"
        used |= {tuple(line.split()[:2]) for line in subprocess.check_output(tree, text=True).splitlines() if line.strip()}
    for package in metadata["packages"]:
        name = f"{package['name']} {package['version']}"
        if package["id"] in members:
            if package["license"] != "Apache-2.0":
                bad.append(f"{name}: a crate of ours must be Apache-2.0")
            continue
        if package["source"] != REGISTRY:
            bad.append(f"{name}: comes from {package['source']}, not from crates.io")
        licence = package["license"]
        if package["name"] in USED_AS_IT_IS and licence == "MPL-2.0":
            continue
        if package["name"] in UNUSED:
            if (package["name"], "v" + package["version"]) in used:
                bad.append(f"{name}: licence {licence!r}, and a build uses it")
            continue
        if not licence or not satisfied(licence):
            bad.append(f"{name}: licence {package['license']!r} is not among the allowed ones")
    print(f"{len(metadata['packages']) - len(members)} dependencies checked, {len(bad)} refused")
    sys.exit("\n".join(bad) if bad else 0)


main()

"""Checks the structure of the Rust sources. Exit 1 with what does not hold.

- No circle of imports between the files of a crate, and none between crates.
- No file over 400 lines and no function over 60 lines, but for generated files and data tables. Tests are not counted.

A file imports another if its code names an item that the other defines, through `crate::`, `super::`, `self::` or a child
module. A re-export (`pub use`) alone is no import.

    python3 scripts/check_structure.py
"""
import re, subprocess, sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
# Generated from onnx.proto, and ftfy's tables.
DATA = {"onnx/src/proto/onnx.rs", "onnx/src/clean/tables.rs"}
ITEM = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+|async\s+|const\s+(?=fn))*"
                  r"(?:struct|enum|union|trait|fn|const|static|type|macro_rules!)\s+(?:mut\s+)?([A-Za-z_]\w*)", re.M)


def blank(source: str) -> str:
    """The source with comments, strings and characters blanked; line breaks stay."""
    token = re.compile(r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\(?:u\{[^}]*\}|x..|.)|[^\'\\\n])\'', re.S)
    return token.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), source)


def without_tests(code: str) -> str:
    """The code without items that are compiled for tests alone."""
    while at := re.search(r"#\[cfg\(test\)\]", code):
        end, depth = at.end(), 0
        while end < len(code):
            if code[end] == "{":
                depth += 1
            elif code[end] == "}":
                depth -= 1
            end += 1
            if (code[end - 1] == "}" and depth == 0) or (code[end - 1] == ";" and depth == 0):
                break
        code = code[: at.start()] + re.sub(r"[^\n]", " ", code[at.start() : end]) + code[end:]
    return code


def flatten(tree: str, prefix: tuple = ()) -> list:
    """Paths of a use tree, each with the name that it gets: [((`a`, `B`), `B`), ...]."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path, _, alias = tree.partition(" as ")
        parts = prefix + tuple(p for p in path.strip().split("::") if p)
        if parts and parts[-1] == "self":
            parts = parts[:-1]
        return [(parts, alias.strip() or (parts[-1] if parts else ""))]
    head = prefix + tuple(p for p in tree[:brace].strip().split("::") if p)
    found, depth, start, body = [], 0, 0, tree[brace + 1 : tree.rindex("}")]
    for at, letter in enumerate(body + ","):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            if body[start:at].strip():
                found += flatten(body[start:at], head)
            start = at + 1
    return found


class File:
    def __init__(self, path: Path, module: tuple):
        self.path, self.module = path, module
        self.name = str(path.relative_to(ROOT))
        self.code = without_tests(blank(path.read_text()))
        self.children = set(re.findall(r"\bmod\s+(\w+)\s*;", self.code))
        uses = re.compile(r"^[ \t]*(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", re.M)
        self.uses, self.exports = [], {}
        for public, tree in uses.findall(self.code):
            for parts, name in flatten(tree):
                if public:
                    self.exports[name] = parts
                else:
                    self.uses.append((parts, name))
        self.body = uses.sub("", self.code)
        self.items = set(ITEM.findall(self.body))


class Crate:
    def __init__(self, root: Path):
        self.files = {}
        self.add(root, ())

    def add(self, path: Path, module: tuple):
        file = self.files[module] = File(path, module)
        folder = path.parent if path.name in ("lib.rs", "main.rs", "mod.rs") else path.with_suffix("")
        for child in file.children:
            for candidate in (folder / f"{child}.rs", folder / child / "mod.rs"):
                if candidate.exists():
                    self.add(candidate, module + (child,))

    def absolute(self, file: File, parts: tuple, aliases: dict):
        """The path from the crate's root, or None for another crate's."""
        if not parts:
            return None
        first = parts[0]
        if first == "crate":
            return parts[1:]
        if first in ("super", "self"):
            module, rest = file.module, parts
            while rest and rest[0] in ("super", "self"):
                module = module[:-1] if rest[0] == "super" else module
                rest = rest[1:]
            return module + rest
        if first in aliases:
            return aliases[first] + parts[1:]
        if first in file.children:
            return file.module + parts
        return None

    def definer(self, path: tuple, seen=()):
        """The file that defines what an absolute path names; a module's own file where the path ends at a module."""
        if path in seen:
            return None
        module = ()
        for length in range(len(path), -1, -1):
            if path[:length] in self.files:
                module = path[:length]
                break
        file, rest = self.files[module], path[len(module):]
        if not rest or rest[0] in file.items:
            return file if rest else None
        if rest[0] == "*":
            return file
        if rest[0] in file.exports:
            parts = self.absolute(file, file.exports[rest[0]], {})
            return self.definer(parts + rest[1:], seen + (path,)) if parts is not None else None
        for parts, name in file.uses:
            if name == rest[0] and (absolute := self.absolute(file, parts, {})) is not None:
                return self.definer(absolute + rest[1:], seen + (path,))
        for name, parts in file.exports.items():
            if name == "*" and (absolute := self.absolute(file, parts[:-1], {})) is not None:
                if found := self.definer(absolute + rest, seen + (path,)):
                    return found
        return None

    def imports(self, file: File) -> set:
        aliases, wanted = {}, []
        for parts, name in file.uses:
            absolute = self.absolute(file, parts, {})
            if absolute is not None:
                wanted.append(absolute)
                if absolute in self.files:
                    aliases[name] = absolute
        for name, parts in file.exports.items():
            # A re-export is an import only where the file's own code uses the name.
            if re.search(rf"\b{re.escape(name)}\b", file.body) and (absolute := self.absolute(file, parts, {})) is not None:
                wanted.append(absolute)
        for inline in re.findall(r"(?<![\w:])((?:[a-z_]\w*::)+[A-Za-z_]\w*)", file.body):
            absolute = self.absolute(file, tuple(inline.split("::")), aliases)
            if absolute is not None:
                wanted.append(absolute)
        found = {self.definer(path) for path in wanted}
        return {other.name for other in found if other is not None and other is not file}


def circles(graph: dict) -> list:
    """Strongly connected components of more than one node."""
    index, low, stack, on, found, count = {}, {}, [], set(), [], [0]

    def visit(node):
        index[node] = low[node] = count[0]
        count[0] += 1
        stack.append(node)
        on.add(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                other = stack.pop()
                on.discard(other)
                part.append(other)
                if other == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def crate_graph() -> dict:
    """Crates of the workspace and what each depends on, tests' dependencies aside."""
    graph = {}
    for manifest in tracked("Cargo.toml"):
        text = manifest.read_text()
        name = re.search(r'^name = "([^"]+)"', text, re.M)
        section = re.search(r"^\[dependencies\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S)
        if name and section:
            graph[name.group(1)] = set(re.findall(r"^(recaption[\w-]*)", section.group(1), re.M))
    return graph


def long_functions(file: File):
    for start in re.finditer(r"\bfn\s+(\w+)", file.code):
        at, depth = start.end(), 0
        while at < len(file.code) and not (file.code[at] in "{;" and depth == 0):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(file.code[at], 0)
            at += 1
        if at >= len(file.code) or file.code[at] == ";":
            continue
        begin, depth = at, 0
        while at < len(file.code):
            depth += {"{": 1, "}": -1}.get(file.code[at], 0)
            at += 1
            if depth == 0:
                break
        lines = file.code[begin:at].count("\n")
        if lines > MAX_FUNCTION_LINES:
            yield start.group(1), lines


def tracked(pattern: str) -> list:
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", f"*{pattern}"], cwd=ROOT, text=True)
    return [ROOT / line for line in listed.splitlines() if (ROOT / line).exists()]


def main() -> int:
    roots = [ROOT / "pipeline/lib.rs", *(p for p in tracked("lib.rs") if p.parent.name == "src"),
             *(p for p in tracked("main.rs") if p.parent.name == "src")]
    problems, files = [], 0
    for part in circles(crate_graph()):
        problems.append("circle of crates: " + " ".join(part))
    for root in roots:
        crate = Crate(root)
        graph = {file.name: crate.imports(file) for file in crate.files.values()}
        for part in circles(graph):
            inside = {name: sorted(graph[name] & set(part)) for name in part}
            problems.append("circle of files:\n" + "\n".join(f"  {a} -> {', '.join(b)}" for a, b in inside.items()))
        for file in crate.files.values():
            files += 1
            if file.name in DATA:
                continue
            lines = file.path.read_text().count("\n")
            tests = lines - file.code.rstrip().count("\n") - 1
            if lines - max(tests, 0) > MAX_FILE_LINES:
                problems.append(f"{file.name}: {lines - max(tests, 0)} lines, more than {MAX_FILE_LINES}")
            problems += [f"{file.name}: fn {name} has {n} lines, more than {MAX_FUNCTION_LINES}"
                         for name, n in long_functions(file)]
    print("\n".join(problems))
    print(f"{files} files, {len(crate_graph())} crates, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the prose to the tree: what README, ARCHITECTURE, CONTRIBUTING and docs/ name must exist.

    refs.py ROOT        check, print TAP, one line a rule
    refs.py --self-test seed one violation of each rule into a small tree, and check that it is caught

Rules:
  paths      `src/x.c`, `tests/y` and the like in backticks are files or folders; links to files lead somewhere
  functions  `name()` in backticks is a function that some source calls or defines
  habits     `make word` is a target of the Makefile
  tests      `/group/test` is a case of a unit test, `test_name` one of pytest; `NAME` = N is what the source says
  states     the state tables of ARCHITECTURE.md are those of src/core/request.c, src/agent/row.c and src/core/move-tables.c
  layers     the code map of ARCHITECTURE.md gives each folder the layer that tests/layers holds it to
"""
import re
import sys
import tempfile
from pathlib import Path

TOPS = ("src/", "tests/", "api/", "docs/", "tools/", "include/", "dist/", "man/", "fuzz/", "bench/")
# Written by a build or by a run, so not in the tree.
OF_THE_SYSTEM = ("/run/", "/etc/", "/var/", "/dev/", "/usr/", "/sys/", "/proc/", "/tmp/", "/v1/")
NOT_IN_TREE = ("docs/evidence", "docs/api")


def pages(root):
    return [p for p in [root / "README.md", root / "ARCHITECTURE.md", root / "CONTRIBUTING.md",
                        *sorted((root / "docs").glob("*.md"))] if p.exists()]


def check_paths(root):
    for page in pages(root):
        text = page.read_text()
        for name in re.findall(r"`([^`\n]+)`", text):
            if name.startswith(TOPS) and re.fullmatch(r"[\w./-]+", name) and not name.startswith(NOT_IN_TREE) \
                    and not re.search(r"/(FOLDER|NAME)\b|-NAME\b", name):
                if not (root / name.rstrip("/")).exists():
                    yield f"{page.name}: {name} is not there"
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in link and not (page.parent / link).exists():
                yield f"{page.name}: the link to {link} leads nowhere"


def check_functions(root):
    code = "\n".join(p.read_text(errors="replace") for d in ("src", "include") for p in (root / d).rglob("*.[ch]"))
    known = set(re.findall(r"\b(\w+)\(", code))
    # Generated: api_NAME_parse and api_NAME_emit
    for page in pages(root):
        for name in re.findall(r"`(\w+)\(\)`", page.read_text()):
            if name not in known:
                yield f"{page.name}: there is no function {name}()"


def check_habits(root):
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M))
    for page in pages(root):
        for word in re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", page.read_text(), re.M):
            if word not in targets:
                yield f"{page.name}: there is no make {word}"


def check_tests(root):
    sources = [p for d in ("src", "tests", "fuzz") for p in (root / d).rglob("*") if p.suffix in (".c", ".h", ".py")]
    code = "\n".join(p.read_text(errors="replace") for p in sources)
    for page in pages(root):
        text = page.read_text()
        for name in re.findall(r"`(/[a-z-]+/[a-z0-9/-]+)`", text):
            if not name.startswith(OF_THE_SYSTEM) and f'"{name}"' not in code:
                yield f"{page.name}: there is no test {name}"
        for name in re.findall(r"`(test_\w+)`", text):
            if f"def {name}(" not in code:
                yield f"{page.name}: there is no test {name}"
        for name, value, unit in re.findall(r"`([A-Z_]+)` = ((?:\d+)( [KM]iB)?)", text):
            found = re.search(rf"\b{name} = ([^,\n}}]+)", code)
            number = int(value.split()[0]) * {"": 1, " KiB": 1 << 10, " MiB": 1 << 20}[unit]
            if not found or eval(found.group(1).split("/*")[0], {}) != number:  # noqa: S307 our own source
                yield f"{page.name}: {name} is not {value}"


def code_table(text, prefix, name=""):
    """{state: [cell, ...]} of a C table, the only one or that of this name; cells in lower case, late as "-", bad as "x"."""
    rows = {}
    text = text[text.find(f" {name}["):] if name else text
    text = text[:text.find("\n};")] if name else text
    for state, cells in re.findall(r"\[" + prefix + r"([A-Z_]+)\]\s*=\s*\{([^}{\[\"]+)\}", text):
        rows[state.replace("_", "-")] = [
            "-" if c == "LATE" else "x" if c == "BAD" else c.removeprefix(prefix).lower().replace("_", "-")
            for c in re.split(r"\s*,\s*", cells.strip()) if c not in ("", "0")]
    return rows


def page_table(text, first):
    """Likewise of the Markdown table whose first heading cells are `first`."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith(first):
            rows = {}
            for row in lines[at + 2:]:
                if not row.startswith("|"):
                    break
                cells = [c.strip() for c in row.strip("|").split("|")]
                rows[cells[0].upper()] = cells[1:]
            return rows
    return {}


def check_states(root):
    page = (root / "ARCHITECTURE.md").read_text()
    moves = "src/core/move-tables.c"
    for source, name, prefix, first, words in (
            ("src/core/request.c", "", "REQUEST_", "| state | accept |", {}),
            ("src/agent/row.c", "", "ROW_", "| state | send |", {"counter-offered": "offered"}),
            (moves, "move_source_reports", "MOVE_", "| state | profiled |", {}),
            (moves, "move_source_messages", "MOVE_", "| state | reserved | short | ready |", {}),
            (moves, "move_destination_reports", "MOVE_", "| state | reserved | short | failed |", {}),
            (moves, "move_destination_messages", "MOVE_", "| state | reserve |", {})):
        path = root / source
        if not path.exists():
            continue
        code = {k: v for k, v in code_table(path.read_text(), prefix, name).items() if len(v) > 1}
        said = {words.get(k.lower(), k.lower()).upper(): [words.get(c, c) for c in v]
                for k, v in page_table(page, first).items()}
        for state in sorted(set(code) | set(said)):
            if code.get(state) != said.get(state):
                yield f"{source}: {state.lower()} is {code.get(state)}, ARCHITECTURE.md says {said.get(state)}"


def check_layers(root):
    source = (root / "tests/layers/layers.py").read_text()
    layer = {k: int(v) for k, v in re.findall(r'"(\w+)": (\d)', source[source.index("LAYER"):source.index("}")])}
    said = {}
    for line in (root / "ARCHITECTURE.md").read_text().splitlines():
        cells = [c.strip() for c in line.split("|")]
        if len(cells) > 3 and re.fullmatch(r"L\d", cells[2]):
            for folder in re.findall(r"`src/(\w+)`", cells[1]):
                said[folder] = int(cells[2][1])
    for folder in sorted(p.name for p in (root / "src").iterdir() if p.is_dir() and p.name != "__pycache__"):
        if folder not in said or said[folder] != layer.get(folder):
            yield f"src/{folder}: layer {layer.get(folder)}, ARCHITECTURE.md says {said.get(folder, 'nothing')}"


RULES = {"paths": check_paths, "functions": check_functions, "habits": check_habits, "tests": check_tests, "states": check_states,
         "layers": check_layers}


def check(root):
    print(f"1..{len(RULES)}")
    failed = False
    for number, (name, rule) in enumerate(RULES.items(), 1):
        problems = list(rule(root))
        failed = failed or bool(problems)
        for problem in problems:
            print(f"# {problem}")
        print(f"{'not ok' if problems else 'ok'} {number} /docs/{name}")
    return 1 if failed else 0


SOUND = {
    "README.md": "See [the map](ARCHITECTURE.md), `src/core/request.c`, `make test`.\n\n    make all\n",
    "ARCHITECTURE.md": "`step()` is it.\n\n| `src/core` | L1 | heart |\n\n| state | accept | gone |\n|---|---|---|\n"
                       "| offered | - | ended |\n| ended | x | - |\n",
    "Makefile": "all:\ntest: all\n",
    "src/core/request.c": "int step(void);\nenum { LIMIT = 4 };\n[REQUEST_OFFERED] = { LATE, REQUEST_ENDED },\n[REQUEST_ENDED] = { BAD, LATE },\n",
    "tests/layers/layers.py": 'LAYER = {\n    "core": 1,\n}\n',
}
VIOLATIONS = [
    ("paths", "README.md", "`src/core/other.c`\n", "other.c is not there"),
    ("paths", "README.md", "[x](docs/no.md)\n", "leads nowhere"),
    ("functions", "README.md", "`leap()`\n", "leap()"),
    ("habits", "README.md", "`make tea`\n", "make tea"),
    ("tests", "README.md", "`/a/b`\n", "/a/b"),
    ("tests", "README.md", "`test_x`\n", "test_x"),
    ("tests", "README.md", "`LIMIT` = 4 KiB\n", "LIMIT"),
    ("states", "src/core/request.c", "[REQUEST_GRANTED] = { LATE, BAD },\n", "granted"),
    ("layers", "src/wire/a.c", "int b;\n", "src/wire"),
]


def self_test():
    print(f"1..{len(VIOLATIONS) + 1}")
    failed = False
    for number, (rule, name, more, sentence) in enumerate([(None, None, "", "")] + VIOLATIONS, 1):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for file, text in SOUND.items():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                (root / file).write_text(text)
            if name:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                with open(root / name, "a") as f:
                    f.write(more)
            found = {key: list(fn(root)) for key, fn in RULES.items()}
        wrong = [p for key, problems in found.items() if key != rule for p in problems]
        caught = rule is None or (len(found[rule]) == 1 and sentence in found[rule][0])
        good = caught and not wrong
        failed = failed or not good
        if not good:
            print(f"# {found}")
        print(f"{'ok' if good else 'not ok'} {number} /docs/self/{rule or 'sound'}-{number}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__)
        sys.exit(64)
    sys.exit(self_test() if sys.argv[1] == "--self-test" else check(Path(sys.argv[1]).resolve()))

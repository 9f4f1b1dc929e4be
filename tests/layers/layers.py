#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the layers of ARCHITECTURE.md: an #include may only point down.

    layers.py ROOT        check the tree, print TAP, one line a rule
    layers.py --self-test seed one violation of each rule into a small tree, and check that it is caught

Rules:
  include   a file of src/X includes only X itself, folders of lower layers, and never a folder of its own layer
  heart     src/core includes base, core and the libc headers listed here: no I/O, no clock, no JSON, no log
  loop-free src/lib and what it uses never include GLib: libmete has no loop of its own
  spdx      every source file names its licence in the first three lines
  folder    every folder of src/ has a layer
"""
import re
import sys
import tempfile
from pathlib import Path

LAYER = {
    "base": 0,
    "core": 1, "json": 1, "loop": 1,
    "wire": 2, "store": 2, "fleet": 2, "host": 2,
    "etcd": 3, "vm": 3, "lib": 3,
    "meted": 4, "keeper": 4, "guard": 4, "agent": 4, "manager": 4, "sp": 4, "cli": 4, "sim": 4,
}

# What the heart may see of libc: nothing that does I/O, tells the time or waits. stdio is there for snprintf.
HEART_LIBC = {"assert.h", "errno.h", "inttypes.h", "limits.h", "math.h", "stdarg.h", "stdbool.h", "stddef.h",
              "stdint.h", "stdio.h", "stdlib.h", "string.h"}
# base/log.h writes to stderr: an effect, and the heart has none.
HEART_BASE_NOT = {"base/log.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')
SOURCES = {".c", ".h", ".py", ".sh", ".build", ".txt", ".in"}
SCRIPTS = {"check", "try", "Makefile"}
SKIP_DIRS = {"build", ".git", "corpus", "__pycache__", ".cache", "docs"}


def includes(path):
    """(line number, name in quotes or None, name in brackets or None)"""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        found = INCLUDE.match(line)
        if found:
            yield number, found.group(1), found.group(2)


def is_test(path):
    return path.name.startswith("test-")


def c_files(root):
    return sorted(p for p in (root / "src").rglob("*") if p.suffix in (".c", ".h"))


def check_include(root):
    for path in c_files(root):
        own = path.relative_to(root / "src").parts[0]
        for number, quoted, _ in includes(path):
            if quoted is None:
                continue
            where = f"{path.relative_to(root)}:{number}"
            if "/" not in quoted:
                # mete.h is the public header of lib; api.h, made by the build, is included as json/api.h
                if quoted == "mete.h":
                    if LAYER.get(own, 4) < LAYER["lib"]:
                        yield f"{where}: {own} includes the public header, which is above it"
                    continue
                yield f'{where}: "{quoted}": write "folder/file.h", relative to src/'
                continue
            other = quoted.split("/")[0]
            if other not in LAYER:
                yield f"{where}: {quoted} is in no layer"
            elif other == own:
                continue
            elif LAYER[other] == LAYER.get(own, -1):
                yield f"{where}: {own} includes {quoted}, which is beside it"
            elif LAYER[other] > LAYER.get(own, -1):
                yield f"{where}: {own} includes {quoted}, which is above it"


def check_heart(root):
    for path in c_files(root):
        if path.relative_to(root / "src").parts[0] != "core" or is_test(path):
            continue
        for number, quoted, bracketed in includes(path):
            where = f"{path.relative_to(root)}:{number}"
            if quoted in HEART_BASE_NOT:
                yield f"{where}: the heart has no effects, and {quoted} writes"
            elif bracketed and bracketed not in HEART_LIBC:
                yield f"{where}: <{bracketed}> is not among the headers that the heart may use"


# In a library of its own, which libmete does not link.
LOOP_FREE_NOT = {"src/json/hhi-digest.c"}


def check_loop_free(root):
    """src/lib goes into programs that have a loop of their own; base, core and json go with it."""
    for path in c_files(root):
        own = path.relative_to(root / "src").parts[0]
        if own not in ("base", "core", "json", "lib") or is_test(path) or str(path.relative_to(root)) in LOOP_FREE_NOT:
            continue
        for number, quoted, bracketed in includes(path):
            name = quoted or bracketed
            if name.startswith(("glib", "gio/", "loop/", "wire/rpc", "wire/http")):
                yield f"{path.relative_to(root)}:{number}: {own} includes {name}: libmete has no loop of its own"


def source_files(root):
    stack = [root]
    while stack:
        for path in sorted(stack.pop().iterdir()):
            if path.is_symlink():
                continue
            if path.is_dir():
                if path.name not in SKIP_DIRS and not path.name.startswith("build"):
                    stack.append(path)
            elif path.suffix in SOURCES or path.name in SCRIPTS:
                yield path
            elif path.suffix == "" and path.stat().st_size > 2 and path.open("rb").read(2) == b"#!":
                yield path


def check_spdx(root):
    for path in source_files(root):
        head = path.read_text(errors="replace").splitlines()[:3]
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in head):
            yield f"{path.relative_to(root)}: no SPDX-License-Identifier: Apache-2.0 in its first three lines"


def check_folder(root):
    for path in sorted((root / "src").iterdir()):
        if path.is_dir() and path.name not in LAYER and path.name != "__pycache__":
            yield f"src/{path.name} has no layer: add it to tests/layers/layers.py and ARCHITECTURE.md"


RULES = {"include": check_include, "heart": check_heart, "loop-free": check_loop_free, "spdx": check_spdx,
         "folder": check_folder}


def check(root):
    print(f"1..{len(RULES)}")
    failed = False
    for number, (name, rule) in enumerate(RULES.items(), 1):
        problems = list(rule(root))
        failed = failed or bool(problems)
        for problem in problems:
            print(f"# {problem}")
        print(f"{'not ok' if problems else 'ok'} {number} /layers/{name}")
    return 1 if failed else 0


SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"
# (name, rule that must object, files, part of the sentence)
VIOLATIONS = [
    ("upward", "include", {"src/core/a.c": SPDX + '#include "wire/line.h"\n'}, "above it"),
    ("upward-from-base", "include", {"src/base/a.h": SPDX + '#  include "core/need.h"\n'}, "above it"),
    ("sideways", "include", {"src/wire/a.c": SPDX + '#include "store/store.h"\n'}, "beside it"),
    ("program-to-program", "include", {"src/cli/a.c": SPDX + '#include "meted/meted.h"\n'}, "beside it"),
    ("upward-in-a-test", "include", {"src/core/test-a.c": SPDX + '#include "vm/vm.h"\n'}, "above it"),
    ("no-folder", "include", {"src/core/a.c": SPDX + '#include "need.h"\n'}, "relative to src/"),
    ("unknown-folder", "include", {"src/core/a.c": SPDX + '#include "misc/a.h"\n'}, "no layer"),
    ("public-header-from-core", "include", {"src/core/a.c": SPDX + '#include "mete.h"\n'}, "above it"),
    ("heart-clock", "heart", {"src/core/a.c": SPDX + "#include <time.h>\n"}, "may use"),
    ("heart-io", "heart", {"src/core/a.h": SPDX + "#include <unistd.h>\n"}, "may use"),
    ("heart-log", "heart", {"src/core/a.c": SPDX + '#include "base/log.h"\n'}, "no effects"),
    ("lib-glib", "loop-free", {"src/lib/a.c": SPDX + "#include <glib.h>\n"}, "no loop"),
    ("lib-loop", "loop-free", {"src/lib/a.c": SPDX + '#include "loop/loop.h"\n'}, "no loop"),
    ("no-licence", "spdx", {"src/base/a.c": "int x;\n"}, "SPDX"),
    ("no-licence-in-a-script", "spdx", {"tools/a": "#!/bin/sh\n"}, "SPDX"),
    ("no-layer", "folder", {"src/misc/a.c": SPDX}, "has no layer"),
]
SOUND = {
    "src/base/a.c": SPDX + '#include "base/a.h"\n#include <unistd.h>\n',
    "src/core/b.c": SPDX + '#include "base/a.h"\n#include "core/b.h"\n#include <string.h>\n',
    "src/core/test-b.c": SPDX + '#include <glib.h>\n#include "core/b.h"\n',
    "src/wire/c.c": SPDX + '#include <glib.h>\n#include "json/api.h"\n#include "loop/loop.h"\n',
    "src/meted/d.c": SPDX + '#include "vm/vm.h"\n#include "wire/rpc.h"\n',
    "src/cli/e.c": SPDX + '#include "mete.h"\n',
    "tools/f": "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n",
}


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def self_test():
    print(f"1..{len(VIOLATIONS) + 1}")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), SOUND)
        problems = [p for rule in RULES.values() for p in rule(Path(name))]
        failed = bool(problems)
        for problem in problems:
            print(f"# {problem}")
        print(f"{'not ok' if problems else 'ok'} 1 /layers/self/sound-tree")
    for number, (what, rule, files, sentence) in enumerate(VIOLATIONS, 2):
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), SOUND)
            write(Path(name), files)
            caught = [p for p in RULES[rule](Path(name)) if sentence in p]
            others = [p for other in RULES if other != rule for p in RULES[other](Path(name))]
            if what in ("no-folder", "unknown-folder", "no-layer", "lib-loop"):
                others = []
            good = len(caught) == 1 and not others
            failed = failed or not good
            if not good:
                print(f"# caught {caught}, others {others}")
            print(f"{'ok' if good else 'not ok'} {number} /layers/self/{what}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print(__doc__)
        sys.exit(64)
    sys.exit(self_test() if sys.argv[1] == "--self-test" else check(Path(sys.argv[1]).resolve()))

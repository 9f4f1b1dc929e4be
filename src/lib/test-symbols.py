#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mete.h, mete.map and both libraries name the same functions, and nothing else is visible. TAP."""
import re
import subprocess
import sys

map_path, so_path, a_path, header_path = sys.argv[1:]


def nm(*args):
    out = subprocess.run(["nm", "-g", "--defined-only", *args], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {m.group(1): m.group(2) for m in re.finditer(r"^[0-9a-f]+ [A-Z] ([^@\s]+)(@@\S+)?$", out, re.M)}


with open(map_path) as f:
    version_of = {name: block.group(1) for block in re.finditer(r"^(METE_\S+) \{(.*?)^\}", f.read(), re.M | re.S)
                  for name in re.findall(r"^\s+(mete_\w+);", block.group(2), re.M)}
in_map = set(version_of)
with open(header_path) as f:
    text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
in_header = set(re.findall(r"\b(mete_\w+)\(", text))
so = nm("-D", so_path)
# what the compiler's instrumentation defines is not ours
a = {s for s in nm(a_path) if not s.startswith(("__asan", "__odr_asan", "__ubsan"))}
so_names = {s for s in so if not re.fullmatch(r"METE_\d+\.\d+", s) and not s.startswith(("__asan", "__odr_asan", "__ubsan"))}

checks = [
    ("the header and the map agree", in_header ^ in_map),
    ("the shared library exports just these", so_names ^ in_map),
    ("each with its version", {s for s in in_map if so.get(s) != "@@" + version_of[s]}),
    # mete_call_raw is for our own command line
    ("the static library exports just these", (a - {"mete_call_raw"}) ^ in_map),
]
print(f"1..{len(checks)}")
for i, (what, wrong) in enumerate(checks, 1):
    print(f"{'not ok' if wrong else 'ok'} {i} {what}" + (f" # {sorted(wrong)}" if wrong else ""))

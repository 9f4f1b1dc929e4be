#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the manual pages to the programs. man.py SOURCE BUILD; prints TAP, one line a rule.

Rules:
  keys        mete.conf(5) has each key of src/meted/config.c, src/keeper/config.c, src/manager/config.c and src/sp/config.c, with its default, and no other;
              so have the samples under dist/
  options     each page of a daemon has the options that its --help has, and no other
  functions   libmete(3) has each function of include/mete.h, and no other
  parameters  mete(1) has each row of the table of parameters
  troff       no page makes troff complain
"""
import re
import shutil
import subprocess
import sys
from pathlib import Path

DAEMONS = {"meted.8": "src/meted/meted", "mete-keeper.8": "src/keeper/mete-keeper", "mete-agent.8": "src/agent/mete-agent",
           "mete-manager.8": "src/manager/mete-manager", "mete-sp.8": "src/sp/mete-sp"}


def plain(text):
    return text.replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "")


def keys_of_source(source):
    """{file: {(section, key): default or None where the source has no table of them}}"""
    meted, manager = ({(g, n): d for g, n, d in re.findall(
        r'\{"(\w+)",\s*"(\w+)",\s*[A-Z0-9]+,\s*(?:AT\([\w.]+\)|0,\s*0),\s*"([^"]*)"', (source / name).read_text())}
        for name in ("src/meted/config.c", "src/manager/config.c"))
    sp = {(g, n): d.replace('METE_SBINDIR "', "/usr/sbin").strip('"') for g, n, d in re.findall(
        r'\{"(\w+)",\s*"(\w+)",\s*[A-Z]+,\s*(?:AT\(\w+\)|0,\s*0),\s*((?:METE_SBINDIR )?"[^"]*")', (source / "src/sp/config.c").read_text())}
    text = (source / "src/keeper/config.c").read_text()
    rows = re.findall(r'\{"(\w+)",\s*"(\w+)"\s*\}', text[text.index("keys[] = {"):text.index("};", text.index("keys[] = {"))])
    return {"mete.conf": meted, "keeper.conf": {row: None for row in rows}, "manager.conf": manager, "sp.conf": sp}


def keys_of_page(text):
    found, file, section = {"mete.conf": {}, "keeper.conf": {}, "manager.conf": {}, "sp.conf": {}}, None, None
    for line in plain(text).splitlines():
        if line.startswith(".SH "):
            file = {".SH METE.CONF": "mete.conf", ".SH KEEPER.CONF": "keeper.conf", ".SH MANAGER.CONF": "manager.conf",
                    ".SH SP.CONF": "sp.conf"}.get(line)
        elif line.startswith(".SS ["):
            section = line[5:-1]
        else:
            m = re.match(r"\.B (\w+)=(.*)", line)
            if m and file:
                found[file][(section, m.group(1))] = m.group(2)
    return found


def keys_of_sample(path):
    section, found = None, set()
    for line in path.read_text().splitlines():
        m = re.match(r"\[(\w+)\]|#?(\w+)=", line)
        if m and m.group(1):
            section = m.group(1)
        elif m:
            found.add((section, m.group(2)))
    return found


def check_keys(source, build):
    page = keys_of_page((build / "man/mete.conf.5").read_text())
    for file, keys in keys_of_source(source).items():
        if len(keys) < 5:
            yield f"{file}: the table of keys was not found in the source"
        sample = keys_of_sample(source / "dist" / file)
        for key in sorted(set(keys) | set(page[file]) | sample):
            where = f"{file}: [{key[0]}] {key[1]}"
            if key not in keys:
                yield f"{where} is no key of the program"
            elif key not in page[file]:
                yield f"{where} is not in mete.conf(5)"
            elif key not in sample:
                yield f"{where} is not in dist/{file}"
            elif keys[key] is not None and keys[key] != page[file][key]:
                yield f"{where} is by default \"{keys[key]}\", mete.conf(5) says \"{page[file][key]}\""


def check_options(source, build):
    for name, program in DAEMONS.items():
        said = subprocess.run([build / program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        has = set(re.findall(r"^\s+(?:-\w, )?(--[a-z]+)", said, re.M)) | {"--help"}
        page = set(re.findall(r"^\.BI? (--[a-z]+)", plain((build / "man" / name).read_text()), re.M))
        for option in sorted(has ^ page):
            yield f"{name}: {option} is {'not in the page' if option in has else 'no option of the program'}"


def check_functions(source, build):
    header = re.sub(r"/\*.*?\*/", "", (source / "include/mete.h").read_text(), flags=re.S)
    has = set(re.findall(r"\b(mete_\w+)\(", header))
    text = plain((build / "man/libmete.3").read_text())
    page = set(re.findall(r"\b(mete_\w+)\(", text[:text.index(".SH DESCRIPTION")]))
    for name in sorted(has ^ page):
        yield f"libmete.3: {name}() is {'not in the page' if name in has else 'not in mete.h'}"


def check_parameters(source, build):
    text = (source / "src/core/need.c").read_text()
    text = text[text.index("parameter_rows[PARAMETER_N] = {"):]
    names = re.findall(r'\.name = "(\w+)"', text[:text.index("};")])
    page = plain((build / "man/mete.1").read_text())
    if not names:
        yield "no parameter was found in src/core/need.c"
    for name in names:
        if not re.search(rf"\\fB\w+:\\fIN\\fB,{name}\b", page):
            yield f"mete.1: the parameter {name} is missing"


def check_troff(source, build):
    for page in sorted((build / "man").glob("*.[1-8]")):
        p = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], stderr=subprocess.PIPE, text=True)
        for line in p.stderr.splitlines():
            yield line


RULES = {"keys": check_keys, "options": check_options, "functions": check_functions, "parameters": check_parameters,
         "troff": check_troff}


def main(source, build):
    failed = False
    print(f"1..{len(RULES)}")
    for number, (name, rule) in enumerate(RULES.items(), 1):
        if name == "troff" and not shutil.which("groff"):
            print(f"ok {number} /man/{name} # SKIP groff is not installed")
            continue
        problems = list(rule(source, build))
        failed = failed or bool(problems)
        for problem in problems:
            print(f"# {problem}")
        print(f"{'not ok' if problems else 'ok'} {number} /man/{name}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__)
        sys.exit(64)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Moves over a shaped link between two hosts on this machine: whether what is promised is kept. As root.

    tests/grid/grid.py                       every cell and every fault that has no row yet
    tests/grid/grid.py --cells 0..20 --faults 0..10
    tests/grid/grid.py --report              the table of what is there

A row of build/grid/rows.jsonl for each move; a run goes on where the last one ended. A move during which the machine was not
there for more than 5 ms is disturbed: it has its row, and is done again, until it was tried three times (--tries). tests/grid/report.py makes the table.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests", "lib"), os.path.dirname(os.path.abspath(__file__))]
import cells  # noqa: E402
import one_move  # noqa: E402
import report  # noqa: E402
from linked_hosts import LinkedHosts  # noqa: E402


def range_of(text):
    first, _, last = text.partition("..")
    return range(int(first or 0), int(last or 1 << 30))


def read_rows(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def still_to_do(rows, what, n, tries):
    """Whether it has no row that counts."""
    mine = [r for r in rows if r.get(what) == n]
    return all(r.get("disturbed") or "error" in r for r in mine) and len(mine) < tries


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--cells", default=os.environ.get("GRID_CELLS") or "..", help="a..b, b excluded")
    o.add_argument("--faults", default=os.environ.get("GRID_FAULTS") or "..", help="a..b, b excluded")
    o.add_argument("--out", default=os.environ.get("GRID_OUT") or os.path.join(ROOT, "build", "grid", "rows.jsonl"))
    o.add_argument("--build", default=os.environ.get("METE_RELEASE") or "build/release")
    o.add_argument("--tries", type=int, default=3, help="moves for a cell, while they are disturbed")
    o.add_argument("--report", action="store_true", help="only the table of what is there")
    a = o.parse_args()
    if not a.report:
        os.makedirs(os.path.dirname(a.out), exist_ok=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        run(a)
    print(report.table(read_rows(a.out)))


def run(a):
    rows = read_rows(a.out)
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    todo = [("cell", c) for c in cells.cells() if c["cell"] in range_of(a.cells)]
    todo += [("fault", f) for f in cells.faults() if f["fault"] in range_of(a.faults)]
    print(f"grid: seed {cells.SEED}, commit {commit}, rows in {a.out}", flush=True)
    hosts = None
    try:
        for what, it in todo:
            while still_to_do(rows, what, it[what], a.tries):
                if hosts is None:
                    hosts = LinkedHosts(it["mbit"], build=a.build).__enter__()
                tries = sum(r.get(what) == it[what] for r in rows)
                try:
                    hosts.set_rate(it["mbit"])
                    row = one_move.run(hosts, f"{what[0]}{it[what]}-{tries}", it, it if what == "fault" else None)
                except Exception as e:  # one move that went wrong is a row, not the end of the run
                    traceback.print_exc()
                    row = {**it, "error": f"{type(e).__name__}: {e}"[:600]}
                    hosts.__exit__(None, None, None)
                    hosts = None
                row.update({"commit": commit, "try": tries})
                rows.append(row)
                with open(a.out, "a", encoding="utf-8") as f:
                    f.write(json.dumps(row) + "\n")
                print(report.line(row), flush=True)
    finally:
        if hosts is not None:
            hosts.__exit__(None, None, None)


if __name__ == "__main__":
    main()

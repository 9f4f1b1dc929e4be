#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Moves over a shaped link between two hosts on this machine: whether what is promised is kept. As root.

    tests/grid/grid.py                       every cell, every fault and every Linux guest that has no row yet
    tests/grid/grid.py --cells 0..20 --faults 0..10 --linux 0..0
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
import linux_guest  # noqa: E402
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
    o.add_argument("--linux", default=os.environ.get("GRID_LINUX") or "..", help="a..b, b excluded")
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


class Moves:
    """One after the other between the same two hosts, with a row in the file for each; rows: those that it has. The hosts are made
    anew behind a move that went wrong."""

    def __init__(self, path, build, tries):
        self.path, self.build, self.tries = path, build, tries
        self.rows, self.hosts = read_rows(path), None
        self.commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=10"], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.hosts is not None:
            hosts, self.hosts = self.hosts, None
            hosts.__exit__(None, None, None)

    def between(self, mbit):
        """The hosts, joined by a link of that rate."""
        if self.hosts is None:
            self.hosts = LinkedHosts(mbit, build=self.build).__enter__()
        self.hosts.set_rate(mbit)
        return self.hosts

    def _once(self, what, it):
        tries = sum(r.get(what) == it[what] for r in self.rows)
        if self.hosts is None:  # where there can be none, that is the end of the run
            self.between(it["mbit"])
        if what == "linux":  # the same
            linux_guest.prepare()
        try:
            row = one_move.run(self.between(it["mbit"]), f"{what[0]}{it[what]}-{tries}", it, it if what == "fault" else None)
        except Exception as e:  # one move that went wrong is a row, not the end of the run
            traceback.print_exc()
            row = {**it, "error": f"{type(e).__name__}: {e}"[:600]}
            self.__exit__()
        row.update({"commit": self.commit, "try": tries})
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")
        return row

    def until_it_counts(self, what, it):
        """Its rows that are new, each as it comes: moved again while it is disturbed, as often as it may be tried."""
        while still_to_do(self.rows, what, it[what], self.tries):
            yield self._once(what, it)


def run(a):
    todo = [("cell", c) for c in cells.cells() if c["cell"] in range_of(a.cells)]
    todo += [("fault", f) for f in cells.faults() if f["fault"] in range_of(a.faults)]
    todo += [("linux", c) for c in cells.linux() if c["linux"] in range_of(a.linux)]
    with Moves(a.out, a.build, a.tries) as moves:
        print(f"grid: seed {cells.SEED}, commit {moves.commit}, rows in {a.out}", flush=True)
        for what, it in todo:
            for row in moves.until_it_counts(what, it):
                print(report.line(row), flush=True)


if __name__ == "__main__":
    main()

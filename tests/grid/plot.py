#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What was expected, promised and measured of the grid's moves, as a picture. Needs gnuplot (Debian: gnuplot-nox).

    tests/grid/plot.py [--rows build/grid/rows.jsonl] [--out docs/evidence/grid.svg]
"""
import argparse
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests", "lib"), os.path.dirname(os.path.abspath(__file__))]
from grid import read_rows  # noqa: E402
from report import expected, last_of  # noqa: E402

PANELS = (("time", "total_ms", "time_ms"), ("downtime", "downtime_ms", "downtime_ms"))
SCRIPT = """
set terminal svg size 1000,520 dynamic background "white" font "sans,13"
set output "{out}"
set multiplot layout 1,2
set logscale xy
set key top left
set grid
set xlabel "measured, ms"
{panels}
unset multiplot
"""
PANEL = """
set title "{name} of {n} moves"
set ylabel "expected, and at most promised, ms"
plot x with lines linecolor "gray" title "as measured", \\
     $measured_{name} using 1:3 with points pointtype 2 pointsize 0.5 linecolor "#d08030" title "promised", \\
     $measured_{name} using 1:2 with points pointtype 7 pointsize 0.5 linecolor "#2060a0" title "expected"
"""


def points(rows, key, measured):
    """(measured, expected, promised) of each move that went, in ms."""
    return [(r[measured], expected(r, key), r["plan"][key]["p90"]) for r in rows
            if r["state"] == "done" and r.get(measured) and expected(r, key) and key in r.get("plan", {})]


def script(rows, out):
    data, panels = "", ""
    for name, key, measured in PANELS:
        some = points(rows, key, measured)
        data += f"$measured_{name} << END\n" + "".join(f"{m} {e} {p}\n" for m, e, p in some) + "END\n"
        panels += PANEL.format(name=name, n=len(some))
    return data + SCRIPT.format(out=out, panels=panels)


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--rows", default=os.path.join(ROOT, "build", "grid", "rows.jsonl"))
    o.add_argument("--out", default=os.path.join(ROOT, "docs", "evidence", "grid.svg"))
    a = o.parse_args()
    rows = last_of(read_rows(a.rows), "cell")
    if not rows:
        sys.exit(f"plot: no move in {a.rows}: run tests/grid/grid.py first")
    try:
        subprocess.run(["gnuplot"], input=script(rows, a.out), text=True, check=True)
    except FileNotFoundError:
        sys.exit("plot: there is no gnuplot: apt-get install gnuplot-nox")


if __name__ == "__main__":
    main()

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
     $measured_{name} using 1:2 with points pointtype 7 pointsize 0.5 linecolor "#2060a0" title "expected"{more}
"""
LINUX = """, \\
     $linux_{name} using 1:3 with points pointtype 1 pointsize 0.5 linecolor "#d08030" title "promised, Linux", \\
     $linux_{name} using 1:2 with points pointtype 9 pointsize 0.6 linecolor "#208040" title "expected, Linux"
"""


def points(rows, key, measured):
    """(measured, expected, promised) of each move that went, in ms."""
    return [(r[measured], expected(r, key), r["plan"][key]["p90"]) for r in rows
            if r["state"] == "done" and r.get(measured) and expected(r, key) and key in r.get("plan", {})]


def script(rows, out):
    """rows: of cells and of Linux guests."""
    data, panels = "", ""
    for name, key, measured in PANELS:
        some, linux = (points([r for r in rows if ("linux" in r) is is_linux], key, measured) for is_linux in (False, True))
        for block, of in (("measured", some), ("linux", linux)):
            data += f"${block}_{name} << END\n" + "".join(f"{m} {e} {p}\n" for m, e, p in of) + "END\n"
        panels += PANEL.format(name=name, n=len(some) + len(linux), more=LINUX.format(name=name).rstrip() if linux else "")
    return data + SCRIPT.format(out=out, panels=panels)


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--rows", default=os.path.join(ROOT, "build", "grid", "rows.jsonl"))
    o.add_argument("--out", default=os.path.join(ROOT, "docs", "evidence", "grid.svg"))
    a = o.parse_args()
    read = read_rows(a.rows)
    rows = last_of(read, "cell")
    if not rows:
        sys.exit(f"plot: no move in {a.rows}: run tests/grid/grid.py first")
    try:
        subprocess.run(["gnuplot"], input=script(rows + last_of(read, "linux"), a.out), text=True, check=True)
    except FileNotFoundError:
        sys.exit("plot: there is no gnuplot: apt-get install gnuplot-nox")


if __name__ == "__main__":
    main()

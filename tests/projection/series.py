# SPDX-License-Identifier: Apache-2.0
"""series.py BENCH-PROJECTION: what was reached on real series of demand is still reached (docs/evidence/projection.md)."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import projection  # noqa: E402
from result import Skip  # noqa: E402


def main():
    print("1..4")
    try:
        ways = projection.measured(sys.argv[1], "second")
    except Skip as why:
        for n in range(1, 5):
            print(f"ok {n} # SKIP {why}")
        return
    short, held, changes = ways["projection"]
    most, react = ways["maximum_so_far"], ways["react"]
    checks = (("the baseline is what it was", abs(most[0] - 1.57) < 0.01 and abs(most[1] - 40.09) < 0.01, most),
              ("at most 1 point more shortfall than with the maximum", short <= most[0] + 1, (short, most[0])),
              ("at least 37 % less held than with the maximum", held <= 0.63 * most[1], (held, most[1])),
              ("at least 9 times fewer changes than by reacting only", changes * 9 <= react[2], (changes, react[2])))
    for n, (what, is_so, figures) in enumerate(checks, 1):
        print(f"{'ok' if is_so else 'not ok'} {n} - {what}: {figures}")


main()

# SPDX-License-Identifier: Apache-2.0
"""What core/projection.c reaches on real series of demand, beside other ways of deciding (bench/projection.c)."""
import gzip
import os
import subprocess

from result import ROOT, RELEASE, Skip, at_least, at_most

SERIES = "demand/planetlab-20110303.csv.gz"


def data(name):
    """Path of a file of the shared data: in METE_DATA, or beside the repository."""
    path = os.path.join(os.environ.get("METE_DATA") or os.path.join(ROOT, "..", "shared", "data"), name)
    if not os.path.exists(path):
        raise Skip(f"there is no {os.path.relpath(path, ROOT)}; METE_DATA names the folder")
    return path


def measured(program, part=None):
    """{way: (shortfall in percent of samples, held in percent, changes a day)} on all series, or on a half of them."""
    with gzip.open(data(SERIES)) as f:
        series = f.read()
    p = subprocess.run([program] + ([part] if part else []), input=series, stdout=subprocess.PIPE, check=True)
    ways = [line.split() for line in p.stdout.decode().splitlines()]
    return {name: tuple(map(float, figures)) for name, *figures in ways}


def projection(report, _rounds):
    ways = measured(os.path.join(ROOT, RELEASE, "bench", "bench-projection"), "second")
    short, held, changes = ways["projection"]
    most, react = ways["maximum_so_far"], ways["react"]
    method = ("526 VMs, 288 samples of 5 minutes, what is decided holds 15 minutes later; constants fitted on the other "
              "526; beside: the most ever seen so far, with the same delay")
    others = {name: w for name, w in ways.items() if name != "projection"}
    report.figure("projection_shortfall_pct", [short], "%", at_most(most[0] + 1),
                  {name: ([w[0]], "%") for name, w in others.items()}, method)
    report.figure("projection_holding_saved_pct", [100 - 100 * held / most[1]], "%", at_least(40),
                  {name + "_held": ([w[1]], "%") for name, w in ways.items()}, method, digits=1)
    report.figure("projection_changes_over_react", [changes / react[2]], "ratio", at_most(1 / 3),
                  {name + "_a_day": ([w[2]], "changes") for name, w in ways.items()}, method, digits=3)


GROUPS = [(["projection_shortfall_pct", "projection_holding_saved_pct", "projection_changes_over_react"], projection)]

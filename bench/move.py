# SPDX-License-Identifier: Apache-2.0
"""Moves over a shaped link: a sample of what `make grid` moves (tests/grid), with mete and with QEMU alone, and with a link that breaks;
several at once; one with all else full. What each figure is: docs/bench.md."""
import concurrent.futures
import contextlib
import json
import os
import sys
import traceback

from result import RELEASE, ROOT, Skip, at_least, at_most

sys.path.insert(0, os.path.join(ROOT, "tests", "grid"))
import cells  # noqa: E402
import contended  # noqa: E402
import figures  # noqa: E402
import grid  # noqa: E402
import one_move  # noqa: E402
import stock  # noqa: E402
from host import wait_for  # noqa: E402
from linked_hosts import LinkedHosts, qemu10  # noqa: E402
from netns import CannotRun  # noqa: E402
from seen_move import Guest, Watch  # noqa: E402

TRIES = 2  # of a move that the machine has disturbed
METHODS = ("defaults", "tuned")
GRID = os.path.join(ROOT, "build", "grid")
AT_ONCE = 3
GUEST = {"memory_mib": 128, "populated_mib": 64, "area_mib": 4, "share": "0.05"}  # so that the CPU is left for what sends
LOOSE = {"total_ms": 60000, "downtime_ms": 2000}
STREAMS = 16

# unit, aim, digits, and what it is in the words of its record
MOVES = {
    "move_accepted": ("moves", None, 0, "levels that were accepted as they were asked for"),
    "move_kept_fraction": ("of 1", at_least(1), 3, "of the levels that were agreed on (accepted, or offered and taken unchanged), those that were kept"),
    "move_overruns": ("stops", at_most(0), 0, "times for which a guest stood longer than was agreed on, wherever it ran then"),
    "move_accept_over_oracle": ("of 1", at_least(0.95), 3, "of the levels that QEMU alone met as they were asked for, by its defaults or tuned, those that mete accepted"),
    "stock_kept_fraction": ("of 1", None, 3, "of the levels that mete has agreed on, those that QEMU met with its defaults"),
    "tuned_kept_fraction": ("of 1", None, 3, "the same, without a limit of bandwidth and with the level as downtime-limit"),
    "time_error_p50": ("%", at_most(4), 1, "of the expected total time, in percent of the measured one"),
    "time_error_p90": ("%", at_most(12), 1, "the same: nine of ten are not above it"),
    "downtime_error_p50": ("%", at_most(10), 1, "of the expected downtime, in percent of the measured one"),
    "idle_over_link": ("ratio", at_most(1.1), 3, "total time of an idle guest's move over its populated bytes at the link's rate"),
}
FAULTS = {
    "guard_cuts": ("attempts", at_least(1), 0, "that its guard broke off, as the link was cut or silent while the guest stood; without any, guard_overruns says nothing"),
    "guard_overruns": ("stops", at_most(0), 0, "times for which a guest that then ran on at the source stood longer than its level"),
}


@contextlib.contextmanager
def possible():
    """Two hosts, if this machine can have them."""
    if os.geteuid() != 0:
        raise Skip("hosts in namespaces need root")
    try:
        yield
    except CannotRun as e:
        raise Skip(str(e)) from None


def say(report, table, found, beside, method):
    """Those of the table that were found, each with what was measured beside it; the names of the others."""
    for name, (unit, aim, digits, what) in table.items():
        if name in found:
            report.figure(name, found[name].samples, unit, aim, beside.get(name), f"{what}; {method}", "tcg", digits, value=found[name].value)
    return [name for name in table if name not in found]


def judge(rows, wanted=(), missing=()):
    """Raises where a row or a figure is missing, or where something was wrong that is more than a slow move."""
    wrong = [(r.get("cell", r.get("fault")), r["wrong"]) for r in rows if r.get("wrong")]
    without = [key for key in wanted if not any(key[0] in r and r[key[0]] == key[1] and "error" not in r for r in rows)]
    if wrong or without or missing:
        raise RuntimeError(f"wrong: {wrong}; without a row: {without}; without a figure: {missing}")


# ---- the sample

class Tried:
    """What else is measured goes on behind what went wrong, which is an error in the end."""

    def __init__(self):
        self.wrong = []

    @contextlib.contextmanager
    def part(self, name):
        try:
            yield
        except Exception as e:
            traceback.print_exc()
            self.wrong.append(f"{name}: {type(e).__name__}: {e}"[:300])


def by_qemu_alone(hosts, cell, out, tried):
    """The same without mete, in turns. cell: mete's row of it."""
    found = []
    for method, of, level in stock.turns(cell, METHODS):
        with tried.part(f"{method} at cell {cell['cell']}"):
            found.append(stock.row_of(cell, method, of, level, stock.run(qemu10(), hosts.link, cell, level, method)))
            with open(out, "a", encoding="utf-8") as f:
                f.write(json.dumps(found[-1]) + "\n")
    return found


def sample(report, rounds):
    """The cells, from which the hosts learn what a move costs between them; then what goes at once, and what breaks."""
    paths = [os.path.join(report.out, name) for name in ("move-rows.jsonl", "move-stock.jsonl")]
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    some_cells, some_faults = cells.sample()
    by_qemu, at_once, tried = [], [], Tried()
    with possible(), grid.Moves(paths[0], RELEASE, TRIES) as moves:
        for cell in some_cells:
            show(moves.until_it_counts("cell", cell))
            for row in grid.report.last_of([r for r in moves.rows if r.get("cell") == cell["cell"]], "cell"):
                by_qemu += by_qemu_alone(moves.between(cell["mbit"]), row, paths[1], tried)
        for n in range(rounds or 1):
            with tried.part("side by side"):
                at_once.append(side_by_side(moves.between(some_faults[0]["mbit"]), n))
        for fault in some_faults:
            show(moves.until_it_counts("fault", fault))
        rows = moves.rows
    missing = report_sample(report, rows, by_qemu)
    if at_once:
        report_at_once(report, at_once)
    print_grid()
    judge(rows, [("cell", c["cell"]) for c in some_cells] + [("fault", f["fault"]) for f in some_faults], tried.wrong + missing)


def show(rows):
    for row in rows:
        print(f"# {grid.report.line(row)}", flush=True)


def column(rows, key):
    return [float(r[key]) for r in rows if r.get(key) is not None]


def disturbed(rows):
    """Those that count, and were disturbed to the last; of so many."""
    last = [r for what in ("cell", "fault") for r in grid.report.last_of(rows, what)]
    return sum(r["disturbed"] for r in last), len(last)


def report_sample(report, rows, by_qemu):
    bad, all_ = disturbed(rows)
    some = grid.report.last_of(rows, "cell")
    print(f"# a sample of the grid: {len(some)} cells of {len(cells.cells())}, {all_ - len(some)} faults of {len(cells.faults())}; "
          f"disturbed to the last: {bad}" + (": THE MACHINE WAS NOT THERE, THESE FIGURES SAY LITTLE" if bad > 0.05 * all_ else ""))
    answers = {n: ([float(sum(r["answer"] == n for r in some))], "moves") for n in ("countered", "refused")}
    kept_by = {name: column([r for r in by_qemu if r["method"] == m and r["of"] == "kept"], "speed")
               for name, m in (("guest_speed_with_defaults", "defaults"), ("guest_speed_tuned", "tuned"))}
    speeds = {name: (s, "of 1") for name, s in {"guest_speed": column(some, "speed"), **kept_by}.items() if s}
    late = {"machine_late_ms": (column(some, "late_ms"), "ms")}
    missing = say(report, MOVES, {**figures.of_moves(rows), **figures.of_stock(by_qemu)}, {"move_accepted": answers, "move_kept_fraction": {**speeds, **late}},
                  f"cells {cells.SAMPLE_CELLS} of tests/grid/cells.py, payload on TCG, QEMU 10.0, each end of the link with one CPU")
    faults = grid.report.last_of(rows, "fault")
    over_there = [float(grid.report.overruns(r)[True]) for r in faults]
    missing += say(report, FAULTS, figures.of_faults(rows),
                   {"guard_overruns": {"longest_stop_ms": (column(faults, "downtime_ms"), "ms"), "overruns_of_guests_that_went": (over_there, "stops")}},
                   f"faults {cells.SAMPLE_FAULTS} of tests/grid/cells.py, level {cells.faults()[0]['level']}")
    return missing


def print_grid():
    """What the same figures are by the rows of a grid that was run before: another time, maybe another commit, so no line of BENCH."""
    rows, by_qemu = (grid.read_rows(os.path.join(GRID, name)) for name in ("rows.jsonl", "stock.jsonl"))
    n = {what: len(grid.report.last_of(rows, what)) for what in ("cell", "fault")}
    commits = ", ".join(sorted({r["commit"] for r in rows if "commit" in r}))
    found = {**figures.of_moves(rows), **figures.of_stock(by_qemu), **figures.of_faults(rows)}
    for name, figure in found.items():
        unit, _, digits, _ = {**MOVES, **FAULTS}[name]
        print(f"# {name} by build/grid ({n['cell']} cells, {n['fault']} faults, n={len(figure.samples)}, commits {commits}): {figure.value:.{digits}f} {unit}")


# ---- several at once

def all_resumed(watch):
    """When each began to run at the destination, once all do."""
    seen = [e[0] for d in list(watch.destinations) for e in d.all("RESUME")]
    return seen if len(seen) == AT_ONCE else None


def side_by_side(hosts, n):
    """Idle guests that are asked for at the same time: from the first byte until the last runs at the destination, over what the link
    takes for all that they have."""
    guests = [Guest(hosts, f"side{n}-{i}", **GUEST) for i in range(AT_ONCE)]
    watch = Watch(hosts, guests[0])  # it sees every VMM that comes to the other side
    try:
        with watch:
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(lambda g: hosts.move(g.name, f"m-{g.name}", LOOSE), guests))
            ends = [hosts.wait_over(f"m-{g.name}", one_move.OVER_S)[0] for g in guests]
            if not all(end["state"] == "done" and g.where() == ["b"] for end, g in zip(ends, guests)):
                raise RuntimeError(f"not all went: {[a['state'] for a in answers]}, {ends}")
            resumes = wait_for("all are seen to run", lambda: all_resumed(watch), 20)
        begun_ms = min(e["at_ms"] for g in guests for e in hosts.a.events(f"m-{g.name}") if e["event"] == "copying")
    finally:
        watch.close()
        for guest in guests:
            guest.remove()
    if hosts.left():
        raise RuntimeError(f"in the ledgers: {hosts.left()}")
    ideal_ms = AT_ONCE * figures.ideal_ms({**GUEST, "mbit": hosts.mbit})
    return {"ratio": (max(resumes) * 1000 - begun_ms) / ideal_ms, "late_ms": watch.ticks.get("late_ms"), "downtime_ms": max(e["downtime_ms"] for e in ends)}


def report_at_once(report, seen):
    report.figure("moves_side_by_side_over_one", column(seen, "ratio"), "ratio", None,
                  {"longest_downtime_ms": (column(seen, "downtime_ms"), "ms"), "machine_late_ms": (column(seen, "late_ms"), "ms")},
                  f"{AT_ONCE} idle guests of {GUEST['populated_mib']} MiB asked for at once, from the first that is copied until the last runs at the "
                  "destination, over their populated bytes at the link's rate", "tcg", digits=3)


# ---- with all else full

def reserved(report, rounds):
    rows = []
    with possible(), LinkedHosts(contended.WIRE, build=RELEASE, uplink_mbit=contended.UPLINK) as hosts:
        for n in range(rounds or 1):
            rows.append(contended.by_mete(hosts, f"v{n}", STREAMS))
            print(f"# {contended.line('held', rows[-1])}", flush=True)
    judge(rows)
    ratios = column(rows, "over_reserved")
    if len(ratios) != len(rows):
        raise RuntimeError("a move did not arrive, or nothing held its rate")
    report.figure("reserved_over_ideal", ratios, "ratio", at_most(1.05),
                  {"others_mbit": (column(rows, "cross_mbit"), "Mbit/s"), "reserved_mbit": ([bps / 1e6 for bps in column(rows, "reserved_bps")], "Mbit/s"),
                   "machine_late_ms": (column(rows, "late_ms"), "ms")},
                  f"total time over the bytes that the kernel sent in the move's class at the rate that was reserved: {contended.CELL['populated_mib']} MiB, "
                  f"an uplink of {contended.UPLINK} Mbit/s that {STREAMS} streams of TCP fill, and a VM without a rest on either host", "tcg", digits=3)


GROUPS = [([*MOVES, *FAULTS, "moves_side_by_side_over_one"], sample),
          (["reserved_over_ideal"], reserved)]

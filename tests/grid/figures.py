# SPDX-License-Identifier: Apache-2.0
"""What `make bench` says of moves, by the rows of grid.py, stock.py and contended.py. Pure: the same figures for the sample that the
bench moves and for a grid that was run before. What each is: docs/bench.md."""
import collections
import statistics

import report
import stock
from seen_move import MIB

# samples: what the value was made of
Figure = collections.namedtuple("Figure", "value samples")


def mean(samples):
    return sum(samples) / len(samples)


def figures(**made):
    """{name: Figure} of (samples, what the value is of them); without those that have no samples."""
    return {name: Figure(of(samples), samples) for name, (samples, of) in made.items() if samples}


def percentile(p):
    return lambda samples: report.percentile(samples, p)


def ideal_ms(row):
    """What the link would take for the memory that is populated, were it for that alone."""
    return row["populated_mib"] * MIB * 8 / row["mbit"] / 1000


def of_moves(all_rows):
    rows = report.last_of(all_rows, "cell")
    granted = report.accepted(rows) + report.taken(rows)
    errors = {key: report.errors(granted, f"{key}_ms", measured) for key, measured in (("total", "time_ms"), ("downtime", "downtime_ms"))}
    return figures(
        move_accepted=([float(r["answer"] not in ("countered", "refused")) for r in rows], sum),
        move_kept_fraction=([float(r["verdict"] == "met") for r in granted], mean),
        move_overruns=([float(sum(report.overruns(r).values())) for r in granted], sum),
        time_error_p50=(errors["total"], statistics.median),
        time_error_p90=(errors["total"], percentile(90)),
        downtime_error_p50=(errors["downtime"], statistics.median),
        idle_over_link=([r["time_ms"] / ideal_ms(r) for r in granted if r["state"] == "done" and r["dirty_mib_s"] == 0], statistics.median))


def of_stock(rows):
    """Of the levels that mete has agreed on, those that QEMU alone met; of those that it met as they were asked for, those that mete
    has accepted."""
    def met(method):
        return [float(r["met"]) for r in rows if r["method"] == method and r["of"] == "kept"]
    accepted, could = stock.accepted_over_oracle(rows)
    return figures(stock_kept_fraction=(met("defaults"), mean), tuned_kept_fraction=(met("tuned"), mean),
                   move_accept_over_oracle=([float(c in accepted) for c in sorted(could)], mean))


def of_faults(all_rows):
    """A guest that runs on at the source has been broken off by its guard."""
    rows = report.last_of(all_rows, "fault")
    return figures(guard_cuts=([float(r["cuts"]) for r in rows], sum),
                   guard_overruns=([float(report.overruns(r)[False]) for r in rows], sum))


def over_reserved(row):
    """How much longer a move took than what the kernel sent of it takes at the rate that was reserved; None: nothing held its rate, or
    it did not arrive."""
    if row["state"] != "done" or not row.get("held_bytes") or not row.get("reserved_bps"):
        return None
    return row["time_ms"] / (row["held_bytes"] * 8e3 / row["reserved_bps"])

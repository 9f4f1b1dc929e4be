# SPDX-License-Identifier: Apache-2.0
"""What the grid is made of without a VM: its cells, and the rules of other controllers."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cells  # noqa: E402
import controllers  # noqa: E402
import plot  # noqa: E402


def run(controller, left, step_s=1):
    """What it said to rounds that left so much, once each."""
    said = [controller.round(i * step_s, {"dirty-sync-count": i + 1, "remaining": n, "mbps": 400}) for i, n in enumerate(left)]
    assert all(controller.round(len(left) * step_s, {"dirty-sync-count": len(left), "remaining": 1}) is None for _ in range(3))  # no new round
    return [s for s in said if s]


def test_cells_are_the_same_for_ever_and_even():
    found = cells.cells()
    assert found == cells.cells() and len(found) == 240
    for key, values in (("mbit", cells.LINKS), ("time_of_ideal", cells.TIME)):
        counts = [sum(c[key] == v for c in found) for v in values]
        assert max(counts) - min(counts) <= 1, (key, counts)
    assert all(c["level"]["downtime_ms"] <= c["level"]["total_ms"] and c["memory_mib"] > c["populated_mib"] for c in found)
    kinds = [(f["kind"], f["phase"]) for f in cells.faults()]
    assert len(kinds) == 100 and len(set(kinds)) == 6


def test_ovirt_gives_more_for_each_round_without_progress_and_then_up():
    assert run(controllers.Ovirt(), [100, 90, 80, 70, 60]) == []
    assert run(controllers.Ovirt(), [100, 90] + [95] * 7) == [150, 200, 300, 400, 500, controllers.ABORT]


def test_kubevirt_gives_what_the_best_round_would_take():
    steady = [10e6] * 60  # 200 ms at 400 Mbit/s
    assert run(controllers.Kubevirt(300), steady, 2) == [200]
    assert run(controllers.Kubevirt(150), steady, 2) == [150]
    assert run(controllers.Kubevirt(100), steady, 2) == [controllers.ABORT]
    assert run(controllers.Kubevirt(300), [10e6 * 0.9 ** i for i in range(60)], 2) == []


def test_plot_has_the_moves_that_went_and_what_was_expected_of_them():
    plan = {"total_ms": {"p50": 900, "p90": 1500}, "downtime_ms": {"p50": 20, "p90": 60}}
    went = {"cell": 0, "answer": "copying", "state": "done", "plan": plan, "time_ms": 1000.0, "downtime_ms": 25.0}
    taken = {**went, "cell": 1, "answer": "countered", "offers": [{"total_p50_ms": 800, "downtime_p50_ms": 10}]}
    stayed = {**went, "cell": 2, "state": "failed"}
    assert plot.points([went, taken, stayed], "total_ms", "time_ms") == [(1000.0, 900, 1500), (1000.0, 800, 1500)]
    text = plot.script([went, taken, stayed], "some.svg")
    assert "25.0 20 60\n25.0 10 60\nEND" in text and 'set output "some.svg"' in text and "downtime of 2 moves" in text

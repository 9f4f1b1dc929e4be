# SPDX-License-Identifier: Apache-2.0
"""What the grid is made of without a VM: its cells, the rules of other controllers, the order of turns, figures of rows, and the
program that Linux guests run."""
import contextlib
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cells  # noqa: E402
import contended  # noqa: E402
import controllers  # noqa: E402
import figures  # noqa: E402
import grid  # noqa: E402
import linux_guest  # noqa: E402
import payload  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402
import stock  # noqa: E402
from host import ROOT, wait_for  # noqa: E402
from seen_move import MIB, PAGE  # noqa: E402


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


def test_linux_guests_are_the_same_for_ever_even_and_small():
    found = cells.linux()
    assert found == cells.linux() and len(found) == 16
    for key, values in (("mbit", cells.LINKS), ("time_of_ideal", cells.TIME), ("dirty_of_link", cells.DIRTY), ("area_mib", cells.LINUX_AREA)):
        counts = [sum(c[key] == v for c in found) for v in values]
        assert max(counts) - min(counts) <= 1 and min(counts) > 0, (key, counts)
    for c in found:
        assert c["area_mib"] <= c["filled_mib"] and 2 * c["filled_mib"] + cells.LINUX_MIB <= c["memory_mib"] and c["level"]["downtime_ms"] <= c["level"]["total_ms"]
        assert (c["filled_mib"] + cells.LINUX_MIB) * MIB * 8 / c["mbit"] / 1e6 < 10, c


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
    assert "Linux" not in text  # gnuplot does not take an empty block
    text = plot.script([went, {**taken, "linux": 0}], "some.svg")
    assert "$measured_downtime << END\n25.0 20 60\nEND" in text and "$linux_downtime << END\n25.0 10 60\nEND" in text
    assert "downtime of 2 moves" in text and '"expected, Linux"' in text


def test_the_sample_of_the_bench_is_varied_small_and_not_what_was_fitted():
    some, broken = cells.sample()
    assert [c["cell"] for c in some] == list(cells.SAMPLE_CELLS) and [f["fault"] for f in broken] == list(cells.SAMPLE_FAULTS)
    assert all(c["cell"] >= report.FITTED and figures.ideal_ms(c) < 10000 for c in some)
    assert {c["mbit"] for c in some} >= {400, 1000} and {0, 1.5} <= {c["dirty_of_link"] for c in some}
    assert all(f["phase"] == "stop" for f in broken) and {f["kind"] for f in broken} == {"cut", "silence"}


def row(n, answer="copying", verdict="met", stops=((20, True),), level=(4000, 100), expected=(2000, 20), time_ms=2000, **more):
    """As one_move.run makes it."""
    return {"cell": n, "mbit": 400, "populated_mib": 100, "dirty_mib_s": 10, "answer": answer, "verdict": verdict, "disturbed": False,
            "state": "done" if verdict in ("met", "missed") else "aborted", "stops": [{"ms": ms, "there": there} for ms, there in stops],
            "downtime_ms": stops[-1][0], "time_ms": time_ms, "level": {"total_ms": 1000, "downtime_ms": 50},
            "kept_level": {"total_ms": level[0], "downtime_ms": level[1]}, "plan": {k: {"p50": v} for k, v in zip(("total_ms", "downtime_ms"), expected)},
            "offers": [{"total_p50_ms": expected[0], "downtime_p50_ms": expected[1]}], **more}


def test_figures_of_moves():
    found = figures.of_moves([
        row(0), row(0, verdict="missed", disturbed=True),                       # the one that was not disturbed counts
        row(1, "countered", granted=True, expected=(1800, 30)),                 # 10 % and 50 % beside it
        row(2, "countered", granted=True, verdict="cut", stops=((101, False), (90, False))),
        row(3, "countered", verdict="not-granted", granted=False, stops=((5000, True),)),
        row(4, "refused", verdict="refused"),
        row(5, dirty_mib_s=0, time_ms=2097.152 * 1.25, expected=(2097, 20), verdict="missed", stops=((20, True),)),
        {"cell": 6, "error": "it went wrong"}])
    value = {name: round(f.value, 3) for name, f in found.items()}
    assert value == {"move_accepted": 2, "move_kept_fraction": 0.5, "move_overruns": 1, "time_error_p50": 10.0, "time_error_p90": 20.006,
                     "downtime_error_p50": 0, "idle_over_link": 1.25}
    assert len(found["move_accepted"].samples) == 6 and len(found["move_kept_fraction"].samples) == 4
    assert figures.of_moves([]) == {} == figures.of_faults([]) == figures.of_stock([])


def test_a_guest_that_never_runs_again_is_an_overrun():
    assert report.overruns(row(0, stops=((100, True), (100.1, True), (None, False)))) == {False: 1, True: 1}


def test_figures_of_faults():
    found = figures.of_faults([{"fault": n, **row(None, stops=stops, cuts=cuts)} for n, cuts, stops in (
        (0, 0, ((20, True),)), (1, 1, ((99, False), (120, True))), (2, 2, ((100, False), (101, False))))])
    assert {name: f.value for name, f in found.items()} == {"guard_cuts": 3, "guard_overruns": 1}


def stock_row(n, method, of, met, answer):
    return {"cell": n, "method": method, "of": of, "answer": answer, "met": met, "mete": "met", "mete_speed": 0.9, "mete_over": False,
            "level": {"total_ms": 4000, "downtime_ms": 100}, "speed": 0.5 + n / 10, "downtime_ms": 150 if n == 1 else 20}


def test_figures_of_qemu_alone():
    rows = [stock_row(0, "defaults", "kept", False, "copying"), stock_row(0, "tuned", "kept", True, "copying"),
            stock_row(1, "defaults", "kept", False, "countered"), stock_row(1, "tuned", "kept", False, "countered"),
            stock_row(1, "tuned", "asked", True, "countered"), stock_row(2, "tuned", "asked", False, "refused"),
            stock_row(3, "tuned", "kept", True, "countered")]
    found = {name: (f.value, len(f.samples)) for name, f in figures.of_stock(rows).items()}
    # Of cells 0 and 1, whose levels were met as they were asked for, the first was accepted; of cell 3 only what was offered was met.
    assert found == {"stock_kept_fraction": (0, 2), "tuned_kept_fraction": (2 / 3, 3), "move_accept_over_oracle": (0.5, 2)}
    lines = {words[1].strip(): [w.strip() for w in words[2:-1]] for words in (line.split("|") for line in stock.table(rows).splitlines()) if len(words) > 2}
    assert lines["tuned"] == ["3", "2", "1", "0.60, 0.50", "2", "1"] and lines["defaults"] == ["2", "0", "1", "0.55, 0.50", "0", "0"], lines
    assert lines["mete, when the levels were agreed on"] == ["3", "3", "0", "0.90, 0.90", "", ""] and "mete, in its turn" not in lines, lines
    again = stock.table([*rows, stock_row(0, stock.METE, "kept", True, "copying")])
    assert "| mete, in its turn | 1 | 1 | 0 | 0.50, 0.50 | | |" in again.splitlines() and "WRONG" not in again
    assert "WRONG" in stock.table([{**stock_row(0, stock.METE, "kept", True, "copying"), "wrong": ["it ran at both"]}])


def test_each_method_has_each_place():
    methods = [*stock.METHODS, stock.METE]
    orders = [stock.order(n, methods) for n in range(60)]
    assert orders == [stock.order(n, methods) for n in range(60)] and all(sorted(o) == sorted(methods) for o in orders)
    assert {(m, o.index(m)) for o in orders for m in methods} == {(m, i) for m in methods for i in range(len(methods))}
    turns = stock.turns(row(7, "countered", granted=True), methods)
    assert [m for m, of, _ in turns if of == "kept"] == stock.order(7, methods) and (stock.METE, "asked") not in [t[:2] for t in turns]
    assert [level["total_ms"] for m, of, level in turns if m == "tuned"] == [4000, 1000]


def test_time_over_what_was_sent_at_the_rate_that_was_reserved():
    went = row(0, time_ms=4200, held_bytes=50_000_000, reserved_bps=100_000_000)
    assert round(figures.over_reserved(went), 6) == 1.05
    for bad in ({"held_bytes": None}, {"reserved_bps": 0}, {"state": "aborted"}):
        assert figures.over_reserved({**went, **bad}) is None
    plan = {"plan": {"vector": {"bandwidth_bps": 60_000_000}}}
    raised = {"event": "raised", "text": "100000000 bit/s of the link are reserved from now on"}
    other = {"event": "sent", "text": "500000000 bytes, as the kernel counts them, at a guaranteed rate"}
    assert contended.reserved_bps(plan, [other]) == 60_000_000 and contended.reserved_bps(plan, [raised, other]) == 100_000_000
    assert contended.reserved_bps({}, []) == 0
    made = [{"arm": "held", "verdict": "met", "over_reserved": x} for x in (1.2, 0.9, None, 1.0)] + [{"arm": "not held", "verdict": "missed"}]
    held, not_held = [line for line in contended.table(made).splitlines() if line.startswith(("| held", "| not held"))]
    assert held.endswith("| 1.000, 1.200 (n=3) |") and not_held.endswith("| - |"), (held, not_held)


def linux_row(n, **more):
    made = {"linux": n, "filled_mib": 64, "area_mib": 16, "commit": "c0ffee", "load": 0.5, "wrong": [], "said": {"attempt": 1},
            "others": {"pages": 20000, "differ": 140}, "wrote_mib_s": 9.9, "speed": 0.97, **row(None, **more)}
    del made["cell"]
    for interval in made["plan"].values():
        interval["p90"] = interval["p50"] * 2
    return made


def test_table_of_linux_guests():
    assert report.table([row(0), {"fault": 0, "error": "it went wrong"}, {"linux": 0, "error": "it went wrong"}][1:]) == ""
    rows = [linux_row(1, disturbed=True, wrong=["page 4711, at 0x0, is of round 3"]), linux_row(1), linux_row(0, stops=((101, True),)),
            {"linux": 2, "error": "it went wrong"}]
    text = report.table(rows)
    assert "Linux guests with a row: 2; moves: 3; commits: c0ffee; errors of the harness: 1." in text and "Cells" not in text
    assert "the ledgers: 1 (aim 0)" in text and "1 (aim 0); linux 0: 101 of 100 ms" in text  # of the one that was disturbed, too
    table = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    last = table[-3:]
    assert {len(cells_) for cells_ in table[-4:]} == {15} and [line[0].strip() for line in last] == ["---", "0", "1"], text
    assert [w.strip() for w in last[-1][:5]] == ["1", "400", "100, 64", "140 of 20000", "9.9, 0.97"] and last[-1][-1].strip() == "met"
    assert report.line(rows[1]).startswith("linux 1: 400 Mbit/s")
    assert not grid.still_to_do(rows, "linux", 1, 3) and grid.still_to_do(rows, "linux", 2, 3) and not grid.still_to_do(rows, "linux", 2, 1)


# ---- the program of Linux guests: its file as it lies there in a guest's RAM file

KEY = 0x1122334455667788


@contextlib.contextmanager
def dirtied(folder):
    """(the program, its file), stopped once it has been over its area."""
    program, path = str(folder / "dirty"), str(folder / "file")
    subprocess.run(["gcc", "-O1", "-D_GNU_SOURCE", "-Wall", "-Werror", "-o", program, os.path.join(ROOT, "tests/guest/dirty.c")], check=True)
    with subprocess.Popen([program, path, f"{KEY:x}", "2", "1", "20"]) as p:
        try:
            wait_for("it has been over its area twice", lambda: os.path.exists(path) and (b := payload.read(path, 0)) and b.passes >= 2, 60)
            p.send_signal(signal.SIGSTOP)
            os.waitpid(p.pid, os.WUNTRACED)
            yield program, path
        finally:
            p.kill()


def is_seen(program, path, sums):
    """What is wrong by its own check, and from outside."""
    checked = subprocess.run([program, "check", path], stdout=subprocess.PIPE, text=True)
    with open(path, "rb", buffering=0) as f:
        return checked.returncode, checked.stdout, list(linux_guest.wrong_pages(f.fileno(), KEY.to_bytes(8, "little"), sums, payload.read(path, 0)))


def test_a_page_that_is_not_as_it_must_be_is_seen_from_inside_and_outside(tmp_path):
    with dirtied(tmp_path) as (program, path):
        with open(path, "r+b", buffering=0) as f:
            pages, board = linux_guest.find(f.fileno(), KEY.to_bytes(8, "little"))
            assert board == 0 and sorted(pages) == list(range(512)) and pages[511] == [512 * PAGE]
            sums = {n: linux_guest.sum_of(f.fileno(), places[0]) for n, places in pages.items()}
            status, said, wrong = is_seen(program, path, sums)
            assert status == 0 and "512 pages" in said and wrong == []
            position = payload.read(path, 0).dirtied_pages % 256
            other = (position + 128) % 256  # of the working set, and not the one that it is at
            for number, at, sentence in ((300, 1000, "page 300, at"), (300, 0, "page 300, at"), (other, 4095, f"page {other}, at"), (other, 0, f"page {other}, at")):
                place = pages[number][0] + at
                byte = os.pread(f.fileno(), 1, place)
                os.pwrite(f.fileno(), bytes([byte[0] ^ 1]), place)
                status, said, wrong = is_seen(program, path, sums)
                assert status == 1 and f"page {number} " in said and len(wrong) == 1 and sentence in wrong[0], (number, at, said, wrong)
                os.pwrite(f.fileno(), byte, place)
            lost = os.pread(f.fileno(), PAGE, pages[7][0])
            os.pwrite(f.fileno(), bytes(PAGE), pages[7][0])  # left behind, where nothing was yet
            status, said, wrong = is_seen(program, path, sums)
            assert status == 1 and "page 7 " in said and wrong == ["page 7 is at []"]
            os.pwrite(f.fileno(), lost, pages[8][0])  # in another's place
            wrong = is_seen(program, path, sums)[2]
            assert wrong == ["page 8 is at []"], wrong


def test_what_is_not_the_programs_is_counted_and_not_judged(tmp_path):
    made = {"a": [b"\0", b"x", b"y", b"mine"], "b": [b"z", b"x", b"Y", b"theirs"]}
    for name, some in made.items():
        (tmp_path / name).write_bytes(b"".join(p.ljust(PAGE, b"\0") for p in some))
    with open(tmp_path / "a", "rb") as source, open(tmp_path / "b", "rb") as there:
        assert linux_guest.others(source.fileno(), there.fileno(), {3 * PAGE}) == {"pages": 2, "differ": 1}

# SPDX-License-Identifier: Apache-2.0
"""mete-manager against hosts that say what a test wants them to: policy, bad answers, deaths, drains. No VM, no root."""
import os
import sys
import threading

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fleet import Fleet, GIB, wait_for  # noqa: E402

OFFER = {"level": {"total_ms": 2000, "downtime_ms": 200}, "kind": "knee"}
COUNTERED = {"state": "countered", "offers": [OFFER], "offer_ms": 60000, "limit": "bandwidth"}
DONE = {"state": "done", "ended_ms": 1, "total_ms": 5, "downtime_ms": 1}
LEVEL = {"total_ms": 1000, "downtime_ms": 100}


@pytest.fixture
def fleet():
    f = Fleet()
    f.hosts["a"].add_vm("v")
    try:
        f.seen("v")
        yield f
    finally:
        f.close()


def counters_once(ask):
    return [{"state": "copying"}, DONE] if ask.get("accepted") else [dict(COUNTERED)]


def test_policy(fleet):
    """Accepted down to the floor, as it was offered; declined below it, and given back."""
    a = fleet.hosts["a"]
    a.script = counters_once
    status, order = fleet.move("v", id="low", level=LEVEL)
    assert (status, order["state"], order["reason"]) == (200, "declined", "no-capacity"), order
    assert ("DELETE", "/v1/moves/low.1", None) in a.calls and order["move"]["offers"] == [OFFER]
    status, order = fleet.move("v", id="high", level=LEVEL, floor={"total_ms": 2000, "downtime_ms": 200})
    assert ("POST", "/v1/moves/high.1/accept", {"level": OFFER["level"]}) in a.calls
    order = fleet.ended("moves", "high")
    assert order["state"] == "done" and order["taken"] == OFFER["level"], order
    assert [b["id"] for b in a.asked()] == ["low.1", "high.1"] and all(b["level"] == LEVEL for b in a.asked())
    events = [e["event"] for e in fleet.get("/v1/events?trace=high")[1]["events"]]
    assert events == ["accepting", "moving", "done"], events
    assert fleet.move("v", id="high", level=LEVEL)[1]["state"] == "done"  # again with its id, though the VM is gone
    assert len(a.asked()) == 2


def test_another_host_and_later(fleet):
    """'any' goes on to the next host, that with most room first; then it waits, and asks anew."""
    a = fleet.hosts["a"]
    fleet.hosts["c"].free = 5 * GIB // 2
    wait_for("it is seen", lambda: fleet.get("/v1/hosts")[1]["hosts"][2]["memory_free_bytes"] == 5 * GIB // 2)
    a.script = lambda ask: (409, "no-capacity") if len(a.asked()) < 3 else [DONE]
    status, order = fleet.move("v", to="any", id="o", level=LEVEL, wait_ms=60000)
    assert order["state"] == "waiting" and order["to"] == ["b", "c"], order
    order = fleet.ended("moves", "o")
    assert order["state"] == "done" and [b["to"] for b in a.asked()] == ["b", "c", "b"], order


def test_a_host_that_talks_nonsense(fleet):
    """Another move than the one that was asked for, no JSON that is one: nothing is begun a second time, and it can be cancelled."""
    a = fleet.hosts["a"]
    a.script = lambda ask: [{"state": "copying", "vm": "other"}]
    pending = [None]

    t = threading.Thread(target=lambda: pending.__setitem__(0, fleet.move("v", id="o", level=LEVEL)))
    t.start()
    order = wait_for("it is noticed", lambda: (lambda o: o if "sentence" in o else None)(fleet.get("/v1/moves/o")[1]))
    assert order["state"] == "asking" and "another move" in order["sentence"], order
    with a.lock:
        a.moves["o.1"]["answers"] = [{"state": "copying"}]
    t.join(60)
    assert pending[0][1]["state"] == "moving"
    assert fleet.call("DELETE", "/v1/moves/o")[1]["state"] == "cancelled"
    assert len(a.asked()) == 1


@pytest.mark.parametrize("when", ["asked", "copied", "declined"])
def test_killed(fleet, when):
    """What it had begun when it was killed it finds again; nothing is asked for twice."""
    a = fleet.hosts["a"]
    states = {"asked": [{"state": "profiling"}], "copied": [{"state": "copying"}], "declined": [dict(COUNTERED)]}
    a.script = lambda ask: list(states[when])
    if when == "declined":
        a.now = lambda move: {"ended_ms": 1}  # it takes its time to let go

    def ask():
        try:
            fleet.move("v", id="o", level=LEVEL)
        except OSError:
            pass  # it was killed
    t = threading.Thread(target=ask)
    t.start()
    wait_for("it is there", lambda: a.asked())
    if when == "declined":
        wait_for("it is declined", lambda: any(m == "DELETE" for m, _, _ in a.calls))
    fleet.kill()
    t.join(60)
    with a.lock:
        a.moves["o.1"]["answers"] = [{"state": "aborted", "ended_ms": 1, "reason": "cancelled"}] if when == "declined" else [DONE]
    fleet.start()
    order = fleet.ended("moves", "o")
    assert order["state"] == ("declined" if when == "declined" else "done"), order
    assert len(a.asked()) == 1


def test_refusals(fleet):
    for vm, ask, status in (("v", {"to": "a"}, 400), ("v", {"to": "x"}, 404), ("w", {}, 404), ("v", {"level": {"downtime_ms": 0}}, 400),
                            ("v", {"level": {"total_ms": 5, "downtime_ms": 9}}, 400), ("v", {"to": "b", "nonsense": 1}, 400)):
        assert fleet.move(vm, **ask)[0] == status, (vm, ask)
    fleet.hosts["a"].script = lambda ask: [{"state": "copying"}]
    assert fleet.move("v", id="o")[1]["state"] == "moving"
    assert fleet.move("v", id="p")[0] == 503  # it is being moved
    assert fleet.call("POST", "/v1/hosts/a/drain", {"within_ms": 0})[0] == 400
    assert fleet.call("POST", "/v1/hosts/x/drain", {"within_ms": 5})[0] == 404
    assert fleet.call("DELETE", "/v1/drains/x")[0] == 404
    assert fleet.call("PUT", "/v1/moves")[0] == 405
    assert fleet.call("DELETE", "/v1/moves/o")[1]["state"] == "cancelled"


def dry(total_ms):
    interval = {"p10": total_ms, "p50": total_ms, "p90": total_ms}
    return {"state": "dry-run", "plan": {"vector": {"bandwidth_bps": 1, "source_cpu_milli": 1, "destination_cpu_milli": 1, "share_milli": 1},
                                         "limit_ms": 1, "total_ms": interval, "downtime_ms": interval}}


def drains(ask):
    return [dry(1000)] if ask.get("dry_run") else [DONE]


def test_a_drain(fleet):
    """Each VM goes to a host with room for it; those that do not run stay."""
    a = fleet.hosts["a"]
    a.script = drains
    a.add_vm("w", memory=3 * GIB)
    a.add_vm("x", memory=3 * GIB)
    a.add_vm("off", state="stopped")
    fleet.seen("x")
    status, said = fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 60000, "downtime_ms": 2000, "dry_run": True})
    assert said["state"] == "dry-run" and said["possible"] and said["predicted_ms"] == 3000 and not a.asked(), said
    assert {v["to"] for v in said["vms"] if v["vm"] in "wx"} == {"b", "c"}
    status, said = fleet.call("POST", "/v1/hosts/a/drain", {"id": "e", "within_ms": 60000, "downtime_ms": 2000})
    assert said["state"] == "moving", said
    over = fleet.ended("drains", "e")
    assert over["state"] == "done" and {v["vm"]: v["state"] for v in over["vms"]} == {"v": "moved", "w": "moved", "x": "moved", "off": "stays"}, over
    assert len(a.asked()) == 3 and list(a.vms) == ["off"]


def test_a_drain_that_cannot_be(fleet):
    a = fleet.hosts["a"]
    a.script = drains
    said = fleet.call("POST", "/v1/hosts/a/drain", {"within_ms": 999, "downtime_ms": 500})[1]
    assert (said["state"], said["limit"], said["predicted_ms"]) == ("impossible", "time", 1000), said
    a.add_vm("w", memory=5 * GIB)
    fleet.seen("w")
    said = fleet.call("POST", "/v1/hosts/a/drain", {"within_ms": 60000})[1]
    assert said["state"] == "impossible" and said["limit"] == "memory" and not a.asked(), said
    assert [v["vm"] for v in said["vms"] if v["state"] == "failed"] == ["w"]


def test_a_drain_stops(fleet):
    """A VM that cannot leave after all: tried elsewhere, then it stops; the others stay where they are."""
    a = fleet.hosts["a"]
    a.add_vm("w")
    fleet.seen("w")
    a.script = lambda ask: [dry(1000)] if ask.get("dry_run") else (422, "incompatible", "not there")
    assert fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 60000})[1]["state"] == "moving"
    over = fleet.ended("drains", "d")
    assert over["state"] == "failed" and over["reason"] == "incompatible" and "not there" in over["sentence"], over
    assert len({b["to"] for b in a.asked()}) == 2 and sorted(a.vms) == ["v", "w"]


def test_a_drain_goes_on(fleet):
    """Killed while the first VM moves: the first is not moved again, and the second is."""
    a = fleet.hosts["a"]
    a.add_vm("w")
    fleet.seen("w")
    a.script = lambda ask: [dry(1000)] if ask.get("dry_run") else [{"state": "copying"}]
    assert fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 600000})[1]["state"] == "moving"
    wait_for("the first moves", lambda: a.asked())
    fleet.kill()
    with a.lock:
        for move in a.moves.values():
            move["answers"] = [DONE]
    a.script = drains
    fleet.start()
    over = fleet.ended("drains", "d")
    assert over["state"] == "done" and len(a.asked()) == 2 and not a.vms, over

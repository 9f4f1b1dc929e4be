# SPDX-License-Identifier: Apache-2.0
"""mete-manager against hosts that say what a test wants them to: policy, bad answers, deaths, drains. No VM, no root."""
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fleet import BUILD, Fleet, GIB, wait_for  # noqa: E402

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
    assert ("DELETE", f"/v1/moves/{a.move_id('low')}", None) in a.calls and order["move"]["offers"] == [OFFER]
    status, order = fleet.move("v", id="high", level=LEVEL, floor={"total_ms": 2000, "downtime_ms": 200})
    assert ("POST", f"/v1/moves/{a.move_id('high')}/accept", {"level": OFFER["level"]}) in a.calls
    order = fleet.ended("moves", "high")
    assert order["state"] == "done" and order["taken"] == OFFER["level"], order
    assert [b["id"] for b in a.asked()] == [a.move_id("low"), a.move_id("high")] and all(b["level"] == LEVEL for b in a.asked())
    events = [e["event"] for e in fleet.get("/v1/events?trace=high")[1]["events"]]
    assert events == ["accepting", "moving", "done"], events
    again = fleet.move("v", id="high", level=LEVEL, floor={"total_ms": 2000, "downtime_ms": 200})[1]
    assert again == order  # though the VM is gone
    assert len(a.asked()) == 2


def test_ids_are_written_once(fleet):
    """The same words again: what stands. Other words: refused, whatever became of the first; also where only the id is remembered."""
    a = fleet.hosts["a"]
    a.script = lambda ask: (409, "incompatible")
    first = fleet.move("v", id="once", level=LEVEL)[1]
    assert first["state"] == "failed" and len(a.asked()) == 1, first
    assert fleet.move("v", id="once", level=LEVEL) == (200, first)
    a.add_vm("w")
    fleet.seen("w")
    for vm, words in (("v", {}), ("v", {"level": LEVEL, "to": "c"}), ("v", {"level": {**LEVEL, "total_ms": 1001}}), ("w", {"level": LEVEL})):
        status, said = fleet.move(vm, id="once", **words)
        assert status == 400 and "used before" in said["message"], (vm, words, said)
    dry = {"id": "once", "within_ms": 5000, "dry_run": True}
    said = fleet.call("POST", "/v1/hosts/a/drain", dry)[1]
    assert fleet.call("POST", "/v1/hosts/a/drain", dry) == (200, said)
    for host, words in (("a", {**dry, "within_ms": 5001}), ("a", {"id": "once", "within_ms": 5000}), ("b", dry)):
        status, said = fleet.call("POST", f"/v1/hosts/{host}/drain", words)
        assert status == 400 and "used before" in said["message"], (host, words, said)
    for i in range(9):  # more than are remembered
        fleet.call("POST", "/v1/hosts/b/drain", {"id": f"n{i}", "within_ms": 5000, "dry_run": True})
    for restart in (False, True):
        if restart:
            fleet.kill()
            fleet.start()
        assert fleet.get("/v1/drains/once")[0] == 404
        status, said = fleet.call("POST", "/v1/hosts/a/drain", dry)
        assert status == 409 and "not remembered" in said["message"], said
        assert fleet.call("POST", "/v1/hosts/a/drain", {**dry, "dry_run": False})[0] == 400
    assert len(a.asked()) == 1


def test_ids_of_drains_are_their_own(fleet):
    """An operator's order under the id that a drain would give one: the drain's is another, and its VM does move."""
    a = fleet.hosts["a"]
    a.script = drains
    for i in range(3):
        a.add_vm(f"u{i}")
    fleet.seen("u2")
    for i in range(3):
        for n in range(1, 3):
            said = fleet.move(f"u{i}", id=f"d-{i}.{n}", to="nowhere")[1]
            assert said["reason"] == "not-found", said
    for i in range(3):
        assert fleet.move(f"u{i}", id=f"d-{i}.1")[1]["state"] in ("moving", "done")
        fleet.ended("moves", f"d-{i}.1")
    fleet.seen("v")  # and none of those that left
    for i in range(3):
        a.add_vm(f"u{i}")
    fleet.seen("u2")
    assert fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 60000})[1]["state"] == "moving"
    over = fleet.ended("drains", "d")
    assert over["state"] == "done" and not a.vms and len(a.asked()) == 7, over


def test_a_host_that_remembers_an_old_move(fleet):
    """A manager whose store is another's asks with an id of old: the host's old move is not taken for the new one."""
    a = fleet.hosts["a"]
    a.script = lambda ask: [DONE]
    assert fleet.move("v", id="o")[1]["state"] == "done"
    fleet.kill()
    shutil.rmtree(fleet.path("state"))
    a.add_vm("v")
    a.script = lambda ask: [{"state": "copying"}]
    fleet.start()
    fleet.seen("v")
    assert fleet.move("v", id="o")[1]["state"] == "moving" and len(a.asked()) == 2
    assert fleet.call("DELETE", "/v1/moves/o")[1]["state"] == "cancelled"


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


def test_it_waits_until_it_is_possible(fleet):
    """A host that says from when on the level could be kept is asked again then, and not after a pause of 2 s; also what a restart finds."""
    a = fleet.hosts["a"]
    a.script = lambda ask: [{"state": "refused", "ended_ms": 1, "reason": "no-capacity", "sentence": "too little", "earliest_ms": 300000}]
    _, order = fleet.move("v", to="b", id="o", level=LEVEL, wait_ms=900000)
    assert order["state"] == "waiting" and order["next_ms"] >= order["asked_ms"] + 300000, order
    assert order["move"]["earliest_ms"] == 300000, order
    fleet.kill()
    fleet.start()
    again = fleet.get("/v1/moves/o")[1]
    assert (again["state"], again["next_ms"]) == ("waiting", order["next_ms"]) and len(a.asked()) == 1, again
    assert fleet.call("DELETE", "/v1/moves/o")[1]["state"] == "cancelled"


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
        a.moves[a.move_id("o")]["answers"] = [{"state": "copying"}]
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
        a.moves[a.move_id("o")]["answers"] = [{"state": "aborted", "ended_ms": 1, "reason": "cancelled"}] if when == "declined" else [DONE]
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


MUCH = (1 << 53) - 1


def test_what_a_host_says_does_not_stay_in_the_way(fleet):
    """Names that are none, sums beyond any record, plans of other VMs: a manager that starts again can read all that it wrote."""
    a, b = fleet.hosts["a"], fleet.hosts["b"]
    a.add_vm("w")
    fleet.seen("w")
    a.add_vm("../../moves/x")
    a.add_vm("no name")
    a.script = lambda ask: [dry(MUCH)]
    with b.lock:
        b.component, one = lambda *_: one("memory", "memory:node0", MUCH, MUCH), b.component
        b.add_vm("there")
    wait_for("b says much", lambda: fleet.get("/v1/hosts")[1]["hosts"][1]["memory_free_bytes"] == MUCH)
    said = fleet.call("POST", "/v1/hosts/a/drain", {"id": "much", "within_ms": 60000, "dry_run": True})[1]
    assert not said["possible"] and said["predicted_ms"] == MUCH, said
    assert sorted(v["vm"] for v in said["vms"]) == ["v", "w"]
    with a.lock:
        for name in ("w", "no name", "../../moves/x"):
            a.vms.pop(name)
    fleet.seen("v")
    a.script = lambda ask: [{**dry(5), "vm": "other"}]
    said = fleet.call("POST", "/v1/hosts/a/drain", {"id": "other", "within_ms": 60000})[1]
    assert said["state"] == "impossible" and "another move" in said["sentence"], said
    fleet.kill()
    fleet.start()
    assert fleet.get("/v1/drains/much")[1]["predicted_ms"] >= 0 and fleet.get("/v1/drains/other")[0] == 200


def test_a_drain_that_ends_while_it_is_planned(fleet):
    """A host that does not answer in time what a move takes: it is over when its time is, not when that is known."""
    a = fleet.hosts["a"]
    go = threading.Event()
    # not under its lock: other answers go on
    a.ask, ask = lambda vm, body: (a.lock.release(), go.wait(60), a.lock.acquire(), ask(vm, body))[-1], a.ask
    a.script = drains
    try:
        status, said = fleet.call("POST", "/v1/hosts/a/drain", {"within_ms": 1500})
        assert said["state"] == "failed" and said["reason"] == "timeout" and not go.is_set(), said
    finally:
        go.set()


def test_a_drain_counts_what_others_plan(fleet):
    """Two hosts that are drained at once to a third, where there is room for one of them."""
    a, b, c = (fleet.hosts[n] for n in "abc")
    for host in (a, b):
        host.script = lambda ask: [dry(1000)] if ask.get("dry_run") else [{"state": "copying"}]
    a.add_vm("w", memory=3 * GIB)
    b.add_vm("x", memory=3 * GIB)
    fleet.seen("w")
    b.free = 0
    wait_for("b has no room", lambda: fleet.get("/v1/hosts")[1]["hosts"][1]["memory_free_bytes"] == 0 and fleet.get("/v1/hosts")[1]["hosts"][1]["vms"] == 1)
    first = fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 600000})[1]
    assert first["state"] == "moving", first
    second = fleet.call("POST", "/v1/hosts/b/drain", {"id": "e", "within_ms": 600000})[1]
    assert second["state"] == "impossible", second
    assert fleet.call("DELETE", "/v1/drains/d")[1]["state"] == "cancelled"


def test_a_host_that_is_not_empty_is_not_drained(fleet):
    """A VM that was started there meanwhile."""
    a = fleet.hosts["a"]
    a.script = lambda ask: [dry(1000)] if ask.get("dry_run") else (a.add_vm("new"), [DONE])[1]
    assert fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 60000})[1]["state"] in ("moving", "failed")
    over = fleet.ended("drains", "d")
    assert over["state"] == "failed" and "new runs there" in over["sentence"], over


def test_an_order_of_a_drain_that_is_cancelled_is_not_given_again(fleet):
    a = fleet.hosts["a"]
    a.script = lambda ask: [dry(1000)] if ask.get("dry_run") else [{"state": "copying"}]
    assert fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 600000})[1]["state"] == "moving"
    order = wait_for("it has an order", lambda: fleet.get("/v1/drains/d")[1]["vms"][0].get("order"))
    wait_for("it moves", lambda: a.asked())
    assert fleet.call("DELETE", f"/v1/moves/{order}")[1]["state"] == "cancelled"
    over = fleet.ended("drains", "d")
    assert over["state"] == "failed" and over["reason"] == "cancelled" and len(a.asked()) == 1, over


def test_a_refusal_is_looked_at(fleet):
    """A host that refuses, and has begun it: that is found, and no other host is asked."""
    a = fleet.hosts["a"]
    a.ask, ask = lambda vm, body: (ask(vm, body), a.error(503, "busy", "it stops"))[1], a.ask
    a.script = lambda ask: [{"state": "copying"}]
    order = fleet.move("v", to="any", id="o", level=LEVEL, wait_ms=60000)[1]
    assert order["state"] == "moving" and order["round"] == 1 and len(a.asked()) == 1, order
    assert fleet.call("DELETE", "/v1/moves/o")[1]["state"] == "cancelled"


def test_somebody_is_asked(fleet):
    """What policy does not take waits for somebody: accepted as it is offered, or declined; once more is not again."""
    a = fleet.hosts["a"]
    a.add_vm("w")
    fleet.seen("w")
    a.script = counters_once
    status, order = fleet.move("v", id="yes", level=LEVEL, ask=True)
    assert (status, order["state"], order["offer"]) == (200, "offered", OFFER["level"]), order
    assert fleet.call("POST", "/v1/moves/yes/accept", {"level": LEVEL})[0] == 400
    order = fleet.call("POST", "/v1/moves/yes/accept", {"level": OFFER["level"]})[1]
    assert order["state"] in ("moving", "done") and order["taken"] == OFFER["level"], order
    assert fleet.ended("moves", "yes")["state"] == "done"
    assert fleet.call("POST", "/v1/moves/yes/accept", {})[1]["state"] == "done"
    assert [p for m, p, b in a.calls if p.endswith("/accept")] == [f"/v1/moves/{a.move_id('yes')}/accept"]
    assert fleet.call("POST", "/v1/moves/yes/decline")[0] == 409
    assert fleet.move("w", id="no", level=LEVEL, ask=True)[1]["state"] == "offered"
    fleet.kill()
    fleet.start()
    assert fleet.get("/v1/moves/no")[1]["state"] == "offered"
    order = fleet.run("move", "decline", "no", "--manager", fleet.path("sock"))
    assert "declined" in order and ("DELETE", f"/v1/moves/{a.move_id('no')}", None) in a.calls and "w" in a.vms
    assert fleet.call("POST", "/v1/moves/no/accept", {})[0] == 409


def test_followers(fleet):
    """Each sees what is decided as it happens, and nothing twice; one of a trace only that."""
    words = [os.path.join(BUILD, "src/cli/mete"), "events", "--follow", "--json", "--manager", fleet.path("sock")]
    all_, one = (subprocess.Popen(words + more, stdout=subprocess.PIPE, text=True) for more in ([], ["--trace", "o"]))
    try:
        assert "started" in all_.stdout.readline()
        fleet.hosts["a"].script = lambda ask: [DONE]
        fleet.move("v", id="other", to="x")
        fleet.move("v", id="o")
        seen = [json.loads(one.stdout.readline()) for _ in range(1)]
        assert [e["event"] for e in seen] == ["done"] and seen[0]["trace"] == "v/o", seen
        numbers = [json.loads(all_.stdout.readline())["seq"] for _ in range(seen[0]["seq"] - 1)]
        assert numbers == list(range(2, seen[0]["seq"] + 1))
        fleet.kill()
        assert (all_.wait(60), one.wait(60)) == (69, 69)
    finally:
        for p in (all_, one):
            p.kill()
            p.wait()
            p.stdout.close()


@pytest.mark.parametrize("many", [256, 257, 1100])
def test_a_host_with_many_vms(fleet, many):
    """As many as a drain moves; one more is said, and nothing begun, also where not all of them are looked at."""
    a = fleet.hosts["a"]
    a.script = lambda ask: [dry(10)] if ask.get("dry_run") else [DONE]
    with a.lock:
        for i in range(many - 1):
            a.add_vm(f"w{i}", memory=1 << 20, cpu=1)
        a.add_vm("zz", state="stopped")
    wait_for("they are seen", lambda: fleet.get("/v1/hosts")[1]["hosts"][0].get("running", 0) >= min(many, 1000))
    said = fleet.call("POST", "/v1/hosts/a/drain", {"id": "d", "within_ms": 600000, "dry_run": True})[1]
    assert said["possible"] == (many == 256), (said["state"], said["sentence"])
    if many > 256:
        assert said["limit"] == "vms" and said["reason"] == "unsupported" and said["vms"] == [], said

# SPDX-License-Identifier: Apache-2.0
"""How mete-manager is killed at each of its crash points (test_deaths.py), whichever store it has."""
import http.client
import json
import os
import random
import signal
import sys
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fleet import BUILD, Fleet, wait_for  # noqa: E402
from test_orders import COUNTERED, DONE, LEVEL, counters_once, dry  # noqa: E402

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
MINUTES = 600000
CANCEL = "DELETE", "", None


def copies(ask):
    return [{"state": "copying"}]


def moves(ask):
    return [{"state": "copying"}, {"state": "copying"}, dict(DONE)]


def declines(ask):
    return [dict(COUNTERED)]


def planned(then):
    return lambda ask: [dry(1000)] if ask.get("dry_run") else then(ask)


def refuses(ask):
    return 422, "incompatible"


class Way:
    """How one gets through some states: what is asked for, of hosts that do what; what is said to it then; how it ends."""

    def __init__(self, end, script, act=None, **body):
        self.end, self.script, self.act, self.body = end, script, act, body


ORDERS = {("asking", "moving", "done"): Way("done", moves, level=LEVEL),
          ("accepting",): Way("done", counters_once, level=LEVEL, floor={"total_ms": 2000, "downtime_ms": 200}),
          ("declining", "declined"): Way("declined", declines, level=LEVEL),
          ("waiting",): Way("done", None, level=LEVEL, wait_ms=MINUTES),  # refused once
          ("offered",): Way("done", counters_once, ("POST", "/accept", {}), level=LEVEL, ask=True),
          ("failed",): Way("failed", refuses, level=LEVEL),
          ("cancelling", "cancelled"): Way("cancelled", copies, CANCEL, level=LEVEL)}
DRAINS = {("planning", "moving", "done"): Way("done", planned(moves), within_ms=MINUTES),
          ("impossible",): Way("impossible", planned(moves), within_ms=1500),
          ("failed",): Way("failed", planned(refuses), within_ms=MINUTES),
          ("cancelling", "cancelled"): Way("cancelled", planned(copies), CANCEL, within_ms=MINUTES),
          ("dry-run",): Way("dry-run", planned(moves), within_ms=MINUTES, dry_run=True)}
FINAL = ("done", "declined", "failed", "cancelled")


def states(name):
    with open(f"{ROOT}/api/manager.json") as f:
        return json.load(f)["$defs"][name]["enum"]


def points():
    found = []
    for what, ways in (("order", ORDERS), ("drain", DRAINS)):
        all_states = states(f"{what}_state")
        assert sorted(s for group in ways for s in group) == sorted(all_states)  # none without a way to it
        for state in all_states:
            calls = what == "order" and state not in (*FINAL, "waiting")
            found += [(what, state, when) for when in ("decided", "recorded", "done", *(("heard",) if calls else ()))]
    return found


def chosen(n=4):
    if os.environ.get("METE_POINTS") == "all":
        return points()
    seed = int(os.environ.get("METE_SEED") or time.time())
    print(f"METE_SEED={seed}")
    return random.Random(seed).sample(points(), n)


def has_points():
    with open(os.path.join(BUILD, "meson-info/intro-buildoptions.json")) as f:
        return any(o["name"] == "buildtype" and o["value"] == "debug" for o in json.load(f))


class Walk:
    def __init__(self, what, state, way):
        self.what, self.state, self.way, self.deaths = what, state, way, 0
        self.path = "/v1/moves/w" if what == "order" else "/v1/drains/w"

    def alive(self):
        """Starts it again where it died, of nothing else than its point."""
        if self.fleet.process.poll() is not None:
            assert self.fleet.process.returncode == -signal.SIGKILL and self.deaths == 0, open(self.fleet.path("log")).read()[-2000:]
            self.deaths += 1
            self.fleet.start()

    def until_answered(self, method, path, body=None):
        while True:
            self.alive()
            try:
                status, said = self.fleet.call(method, path, body)
            except (OSError, http.client.HTTPException):
                wait_for("it is dead", lambda: self.fleet.process.poll() is not None)
                continue
            if status != 200 and said["reason"] == "busy":  # with etcd, before it leads
                time.sleep(0.1)
                continue
            assert status == 200, said
            return said

    def ask(self):
        if self.what == "order":
            return self.until_answered("POST", "/v1/vms/v/move", {"to": "b", "id": "w", **self.way.body})
        return self.until_answered("POST", "/v1/hosts/a/drain", {"id": "w", **self.way.body})

    def over(self):
        self.alive()
        try:
            now = self.fleet.get(self.path)[1]
        except (OSError, http.client.HTTPException):
            return None
        return now if "ended_ms" in now and self.deaths == 1 else None

    def look(self, path):
        def looked():
            status, said = self.fleet.get(path)
            return said if status == 200 else None
        return wait_for("it leads", looked)

    def walk(self, fleet):
        self.fleet, a = fleet, fleet.hosts["a"]
        a.script = self.way.script or (lambda ask: (409, "no-capacity") if len(a.asked()) < 2 else [dict(DONE)])
        self.ask()
        if self.state == "offered":  # dies before anybody says anything to it
            wait_for("it has died", lambda: (self.alive(), self.deaths)[1])
        if self.way.act:
            method, path, body = self.way.act
            self.until_answered(method, self.path + path, body)
        over = wait_for("it is over, and died once", self.over)
        self.check(a, over)

    def check(self, a, over):
        assert over["state"] == self.way.end, over
        events = [e for e in self.look("/v1/events?limit=256")["events"] if e["trace"].split("/")[-1] == "w"]
        assert [e["event"] for e in events].count(self.way.end) == 1, events
        assert a.overlaps == []
        done = [m["vm"] for m in a.begun.values() if a.now(m)["state"] == "done"]
        moved = ["v"] if self.what == "order" else ["v", "w"]
        assert sorted(done) == (moved if self.way.end == "done" else []), done
        assert all("ended_ms" in a.now(m) for m in a.begun.values()), a.begun
        orders = self.look("/v1/moves")["moves"]
        assert all("ended_ms" in o for o in orders), orders


needs_points = pytest.mark.skipif(not has_points(), reason="this build has no crash points (buildtype debug has)")


def die_at(point, **store):
    what, state, _ = point
    way = next(w for group, w in (ORDERS if what == "order" else DRAINS).items() if state in group)
    fleet = Fleet(env={"METE_MANAGER_CRASH_AT": " ".join(point)}, **store)
    try:
        for name in "vw":
            fleet.hosts["a"].add_vm(name)
        fleet.seen("w")
        Walk(what, state, way).walk(fleet)
    finally:
        fleet.close()

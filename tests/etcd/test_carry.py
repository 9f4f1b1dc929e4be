# SPDX-License-Identifier: Apache-2.0
"""mete-manager --carry-over: what a manager has recorded in its file it goes on with in etcd. Wherever that is interrupted, one of both
counts at most, and who runs it again ends it. Without /usr/bin/etcd it is skipped."""
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "../manager")]
from etcd import PREFIX, Etcd, Member, b64, needs_etcd  # noqa: E402
from deaths import needs_points  # noqa: E402
from fleet import BUILD, Fleet, wait_for  # noqa: E402
from test_orders import DONE, LEVEL  # noqa: E402

pytestmark = needs_etcd
PROGRAM = os.path.join(BUILD, "src/manager/mete-manager")
OLD = 250  # used ids: more than one record takes


class World:
    """A manager that has a file; .conf_file and .conf_etcd are its configuration, with either store."""

    def __init__(self):
        self.etcd, self.fleet = Etcd(), None
        try:
            self.fleet = Fleet()
        except BaseException:
            self.etcd.close()
            raise
        self.a = self.fleet.hosts["a"]
        for name in "vwx":
            self.a.add_vm(name)
        self.fleet.seen("x")
        with open(self.fleet.path("manager.conf")) as f:
            self.conf_file = f.read()
        self.conf_etcd = self.conf_file + f"etcd={self.etcd.url}\nprefix={PREFIX}\nlease=20s\n"  # long enough for a machine that stands still, short enough to wait for a dead one's end

    def close(self):
        try:
            self.fleet.close()
        finally:
            self.etcd.close()

    def end(self):
        process, self.fleet.process = self.fleet.process, None
        process.terminate()
        assert process.wait(60) == 0

    def run(self, conf, *words, env=None):
        with open(self.fleet.path("manager.conf"), "w") as f:
            f.write(conf)
        return subprocess.run([PROGRAM, "--config", self.fleet.path("manager.conf"), *words], capture_output=True, text=True, timeout=180,
                              env={**os.environ, **(env or {})})

    def carry(self, env=None):
        return self.run(self.conf_etcd, "--carry-over", env=env)

    def start(self, conf):
        with open(self.fleet.path("manager.conf"), "w") as f:
            f.write(conf)
        self.fleet.start()

    def work(self):
        """A move that is over, one that is under way, and ids that were used long ago; then it ends. (orders, events)"""
        self.a.script = lambda ask: [dict(DONE)]
        assert self.fleet.move("v", id="o1", level=LEVEL)[0] == 200
        self.fleet.ended("moves", "o1")
        self.a.script = lambda ask: [{"state": "copying"}]
        assert self.fleet.move("w", id="o2", level=LEVEL)[1]["state"] == "moving"
        found = self.seen()
        self.end()
        db = sqlite3.connect(os.path.join(self.fleet.path("state"), "manager.db"))
        with db:
            db.executemany("INSERT INTO document VALUES ('used-id', ?, ?)",
                           [(f"order/old{i}", f'{{"words":"{i:064x}","ended_ms":{i + 1}}}') for i in range(OLD)])
        db.close()
        return found

    def seen(self):
        return [self.fleet.get(f"/v1/moves/{o}")[1] for o in ("o1", "o2")], self.fleet.get("/v1/events?limit=256")[1]["events"]

    def goes_on(self, before):
        """In etcd, with all of it: what was over, what is under way, the numbers of the log, and which ids were used."""
        self.start(self.conf_etcd)
        orders, events = self.seen()
        assert orders[0] == before[0][0] and orders[1]["state"] == "moving", orders
        assert events[:len(before[1])] == before[1] and [e["seq"] for e in events] == list(range(1, len(events) + 1))
        assert len(self.etcd.keys("document/used-id/")) == OLD
        status, said = self.fleet.move("x", id=f"old{OLD - 1}", level=LEVEL)
        assert status != 200 and "used before" in said["message"], said
        with self.a.lock:
            self.a.moves[self.a.move_id("o2")]["answers"] = [dict(DONE)]
        assert self.fleet.ended("moves", "o2")["state"] == "done"
        with self.a.lock:
            assert self.a.overlaps == [] and len(self.a.begun) == 2, self.a.asked()


@pytest.fixture
def world():
    w = World()
    try:
        yield w
    finally:
        w.close()


def file_is_done_with(world):
    p = world.run(world.conf_file)
    assert p.returncode == 1 and f"carried over to etcd, under {PREFIX}" in p.stderr, p.stderr


def test_carried_over(world):
    before = world.work()
    p = world.carry()
    assert p.returncode == 0 and "counts under" in p.stderr, p.stderr
    file_is_done_with(world)
    again = world.carry()
    assert again.returncode == 0 and "was carried over before" in again.stderr, again.stderr
    world.goes_on(before)
    world.end()
    file_is_done_with(world)


@needs_points
@pytest.mark.parametrize("point", ["begun", "part", "all", "there"])
def test_a_death(world, point):
    """Between two steps of it. The file counts until all of it is in etcd; what it had to do until then is carried, too."""
    before = world.work()
    p = world.carry({"METE_MANAGER_CRASH_AT": f"carry {point} recorded"})
    assert p.returncode == -signal.SIGKILL, p.stderr
    if point in ("begun", "part"):
        assert len(world.etcd.keys("document/used-id/")) < OLD
        world.start(world.conf_file)
        assert world.fleet.get("/v1/moves/o2")[1]["state"] == "moving"
        before = world.seen()
        world.end()
    else:
        file_is_done_with(world)
    if point != "there":  # who leads in etcd has no part of it taken for the whole
        m = Member(world.fleet, "m1", world.etcd.url)
        wrong = subprocess.run([PROGRAM, "--config", m.path("conf")], capture_output=True, text=True, timeout=180)
        assert wrong.returncode == 1 and "a part of the state" in wrong.stderr, wrong.stderr
    p = world.carry()
    assert p.returncode == 0, p.stderr
    file_is_done_with(world)
    world.goes_on(before)


def test_refused(world):
    """Where etcd has a state, or the file is in use, or is none: it is said, and the file counts as before."""
    p = world.run(world.conf_file, "--carry-over")
    assert p.returncode == 78 and "[store] etcd" in p.stderr, p.stderr
    p = world.carry()
    assert p.returncode == 1 and "manager.db" in p.stderr, p.stderr  # its manager runs
    before = world.work()
    m = Member(world.fleet, "m1", world.etcd.url).start()
    wait_for("it leads", m.leads)
    wait_for("it has a state", lambda: world.etcd.ask("/v3/kv/range", key=b64(f"{PREFIX}/head")).get("kvs"))
    m.end()
    p = world.carry()
    assert p.returncode == 1 and "there is a state" in p.stderr and "nothing counts but" in p.stderr, p.stderr
    world.start(world.conf_file)
    assert world.seen()[0][0] == before[0][0]
    world.end()
    state = world.fleet.path("state")
    os.rename(state, state + ".away")
    p = world.carry()
    assert p.returncode == 1 and "nothing to carry over" in p.stderr, p.stderr
    os.rename(state + ".away", state)
    world.etcd.kill()  # for as long as a lease and a while
    p = world.run(world.conf_etcd + "lease=3s\n", "--carry-over")
    assert p.returncode == 1 and "nothing was recorded for" in p.stderr, p.stderr
    world.etcd.start()

# SPDX-License-Identifier: Apache-2.0
"""The agent asks by itself (2.7 to 2.9): demand is what files say, the host is a fake one. No VM."""
import hashlib
import json
import os
import re
import socket
import subprocess
import time

import pytest
from fake import BUILD, Refused, verdict, wait_for

STEP = "100ms"
CPUS = os.sysconf("SC_NPROCESSORS_ONLN")


def demand(world, cpus):
    """From now on so many CPUs are wanted: as many tasks wait for one beside those that run (one is the agent)."""
    path = f"{world.sys}/proc/loadavg"
    world.put(path + ".new", f"0.0 0.0 0.0 {1 + CPUS + cpus}/100 1")
    os.rename(path + ".new", path)


def make_proc(world):
    os.makedirs(f"{world.sys}/proc", exist_ok=True)
    world.put(f"{world.sys}/proc/stat", "cpu  1 0 0 1 0 0 0 0 0 0")
    demand(world, 0)


def document(free, yours, memory=None):
    """A host of sixteen CPUs."""
    objects = {"machine": {"kind": "machine"}, "memory:node0": {"kind": "memory", "in": "machine", "os": 0, "bytes": 1 << 30}}
    if memory:
        objects["memory:node0"] |= {"mark": "yours", "capacity": 8 << 30, "free": 4 << 30, "yours": memory}
    for cpu in range(16):
        mark = "yours" if cpu in yours else "free" if cpu in free else "taken"
        objects[f"cpu:{cpu}"] = {"kind": "cpu", "in": "machine", "os": cpu, "mark": mark, "capacity": 1000,
                                 "free": 1000 if cpu in free else 0, "yours": 1000 if cpu in yours else 0}
    return {"objects": objects}


class Teller:
    """The host's part: greets, tells, and answers what comes in between."""

    def __init__(self, world, *arguments, limits=None):
        self.world, self.host, self.generation, self.limits = world, world.host, 0, limits or {}
        make_proc(world)
        self.begin(*arguments)

    def begin(self, *arguments, live=None):
        self.world.start("--project", STEP, *arguments)
        self.greet(live)

    def greet(self, live=None):
        self.host.accept()
        hello = self.host.expect("hello")
        assert "limits" in hello["params"]["features"]
        self.host.answer(hello, {"version": 1, "vm": "v", "features": ["hhi"], **self.limits})
        sync = self.host.expect("sync")
        self.known = sync["params"]["requests"]
        self.host.answer(sync, {"live": self.known if live is None else live})
        self.early = []  # what was said before it asks to be told
        while True:
            message = self.host.link.receive()
            if message["method"] == "hhi-watch":
                break
            self.early.append(message)
        self.host.answer(message)

    def expect(self, method, timeout_s=30):
        message = self.early.pop(0) if self.early else self.host.link.receive(timeout_s)
        assert message["method"] == method, message
        return message

    def tell_parts(self, yours, free):
        """Of cpu:0; nothing else is free."""
        said = document((), (0,))
        said["objects"]["cpu:0"] |= {"yours": yours, "free": free}
        return self.tell_document(said)

    def tell(self, free=(), yours=(0,), memory=None):
        return self.tell_document(document(free, yours, memory))

    def tell_document(self, said):
        """All of the host, as a later generation; what the agent asks meanwhile is returned."""
        text = json.dumps(said)
        self.generation += 1
        self.host.next_id += 1
        number = self.host.next_id
        self.host.link.send({"jsonrpc": "2.0", "id": number, "method": "hhi", "params": {
            "generation": self.generation, "digest": hashlib.sha256(text.encode()).hexdigest(), "part": 1, "parts": 1,
            "text": text}})
        asked = []
        while True:
            message = self.host.link.receive()
            if message.get("id") == number and "method" not in message:
                assert message["result"] == {"applied": True}, self.world.text()
                return asked
            asked.append(message)

    def asked(self, timeout_s=30):
        reserve = self.expect("reserve", timeout_s)
        return reserve, reserve["params"]

    def grant(self, reserve, free=(), yours=(0, 1)):
        """It has it by the host's information first: as long as it waits for the answer it asks for nothing else."""
        assert self.tell(free, yours) == []
        self.host.grant(reserve)
        wait_for("it is granted", lambda: reserve["params"]["request"] in [r["id"] for r in rows(self.world) if r["state"] == "granted"])

    def logged(self, text):
        wait_for(text, lambda: text in self.world.text(), 30)


@pytest.fixture
def teller(world):
    return Teller(world)


def within(why):
    """The figure lies within the range that is said beside it."""
    need, low, high = map(float, re.search(r"([\d.]+)M? will be needed \(([\d.]+)M? to ([\d.]+)M?\)", why).groups())
    assert low <= need <= high, why


def named(params):
    """The number of the CPU that is asked for."""
    (need,) = params["needs"]
    assert need["kind"] == "cpu" and need["amount"] == 1
    (parameter,) = need["parameters"]
    assert (parameter["name"], parameter["relation"]) == ("id", "=")
    return parameter["value"]


def rows(world):
    return [r for r in world.app().rows() if r["application"].startswith("mete-agent/")]


def test_whole_life(world, teller):
    """Nothing while it has enough; a named component when it has not; given back when it is not needed."""
    assert teller.tell(free=(1, 2)) == []
    teller.logged("that is enough")
    assert teller.host.link.silent(1)  # ten steps: the need is not exceeded
    demand(world, 2)
    reserve, params = teller.asked()
    assert named(params) == 1 and params["host_generation"] == 1 and params["application"] == "mete-agent/0/0"
    assert params["why"].startswith("the projection has changed: 2.00 of cpu are used,") and "this VM has 1.00" in params["why"]
    (row,) = rows(world)
    assert row["state"] == "sent" and row["pid"] == 0 and row["why"] == params["why"]
    listed = subprocess.run([os.path.join(BUILD, "src/cli/mete-guest"), "requests"], env={"METE_SOCKET": world.socket}, stdout=subprocess.PIPE,
                            text=True, check=True).stdout
    assert "WHY" in listed and params["why"] in listed
    teller.grant(reserve)
    teller.logged("cpu:1,id=1 is granted")
    assert teller.host.link.silent(1)
    demand(world, 0)
    release = teller.expect("release", 200)
    why = release["params"].pop("why")
    assert release["params"] == {"request": params["request"], "cause": "released"}
    assert why.startswith("not needed any more: 0.00 of cpu are used,")
    (row,) = rows(world)
    assert row["state"] == "releasing" and row["why"] == why
    teller.host.answer(release)
    assert "is given back: 0.00 of cpu are used" in world.text()
    for line in world.text().splitlines():
        if "will be needed (" in line:
            within(line)
    wait_for("it has ended", lambda: rows(world)[0]["state"] == "ended")


def test_gives_back_one_after_the_other(world, teller):
    """While the host has not recorded what is given back, what it says that this guest has is too much: nothing follows."""
    teller.tell(free=(1, 2))
    demand(world, 3)
    given = []
    for number in (1, 2):
        reserve, params = teller.asked(200)
        teller.grant(reserve, free=range(number + 1, 3), yours=range(number + 1))
        given.append(params["request"])
    demand(world, 0)
    release = teller.expect("release", 200)
    assert release["params"]["request"] == given[1]
    assert teller.host.link.silent(4)  # forty steps in which nothing is needed
    assert [r["state"] for r in rows(world) if r["id"] == given[0]] == ["granted"]
    teller.host.answer(release)
    assert teller.tell(free=(2,), yours=(0, 1)) == []
    assert teller.expect("release", 200)["params"]["request"] == given[0]


def test_the_same_again_triggers_nothing(world, teller):
    """2.7; and what was refused is not asked again without a reason."""
    teller.tell(free=(1,))
    demand(world, 2)
    reserve, params = teller.asked()
    teller.host.answer(reserve, verdict(params["request"], "not-now", reason="no-capacity"))
    teller.logged("is not granted")
    asked = teller.tell(free=(1,))
    teller.logged(f"is as before, generation {teller.generation}")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            asked.append(teller.host.link.receive(0.2))
        except socket.timeout:
            continue
        teller.host.answer(asked[-1], verdict(asked[-1]["params"]["request"], "not-now", reason="no-capacity"))
    # What is projected may still move, which is a trigger of its own; the same information was none.
    assert [m["params"]["why"] for m in asked if "the projection has changed" not in m["params"]["why"]] == []
    assert "the host's information has changed" not in world.text().split("is as before", 1)[1]


def test_changed_information_is_a_trigger(world, teller):
    """2.8: what is missing is asked for when the host says that it has it."""
    teller.tell(free=())
    demand(world, 2)
    teller.logged("the host has nothing of it free")
    assert teller.host.link.silent(0.5)
    asked = teller.tell(free=(3,))
    message = asked[0] if asked else teller.asked()[0]
    assert named(message["params"]) == 3 and message["params"]["host_generation"] == 2
    assert message["params"]["why"].startswith("the host's information has changed:")


def test_over_a_restart(world, teller):
    """What it holds outlives it, and ends with an agent that is not to ask."""
    teller.tell(free=(1,))
    demand(world, 2)
    reserve, params = teller.asked()
    teller.grant(reserve)
    world.kill()
    teller.begin()
    assert teller.known == [params["request"]] and rows(world)[0]["state"] == "granted"
    assert teller.host.link.silent(1)
    world.kill()
    world.start()
    teller.greet()
    release = teller.expect("release")
    assert release["params"]["request"] == params["request"]
    assert release["params"]["why"] == "this agent does not ask by itself"
    teller.host.answer(release)
    wait_for("it has ended", lambda: rows(world)[0]["state"] == "ended")


def test_killed_while_it_asks(world, teller):
    """Asked again with the same id, and not twice."""
    teller.tell(free=(1,))
    demand(world, 2)
    first = teller.asked()[1]
    world.kill()
    teller.begin()
    reserve, again = teller.asked()
    assert again == first
    teller.grant(reserve)
    assert len(rows(world)) == 1


def test_declared(world, teller):
    teller.tell(free=(2, 3))
    assert teller.host.link.silent(0.5)
    app = world.app()
    app.call("declare", {"name": "build", "need": "cpu:2", "start_ms": int(time.time() * 1000), "for_ms": 3600000})
    reserve, params = teller.asked()
    assert named(params) == 2 and "2.00 will be needed" in params["why"] and "declared by build" in params["why"]
    within(params["why"])
    teller.grant(reserve, free=(3,), yours=(0, 2))
    assert teller.host.link.silent(1)  # it has two
    app.call("declare-drop", {"name": "build"})
    release = teller.expect("release", 200)
    assert release["params"]["request"] == params["request"]


def test_declared_cpus_are_there_in_time(world):
    """One after the other; the last is asked for before they are needed."""
    teller = Teller(world, "--project", "2s")
    teller.tell(free=(1, 2, 3))
    start = int(time.time() * 1000) + 30000
    world.app().call("declare", {"need": "cpu:4", "start_ms": start, "for_ms": 3600000})
    for number in (1, 2, 3):
        reserve, params = teller.asked(60)
        assert named(params) == number and "4.00 will be needed" in params["why"]
        assert time.time() * 1000 < start
        teller.grant(reserve, free=range(number + 1, 4), yours=range(number + 1))


def test_declared_is_more_than_there_is(world, teller):
    teller.tell(free=(1, 2))
    assert teller.host.link.silent(0.3)
    now = int(time.time() * 1000)
    with pytest.raises(Refused) as refused:
        world.app().call("declare", {"need": "cpu:17", "start_ms": now, "for_ms": 3600000})
    assert refused.value.reason == "no-capacity"
    assert world.app().call("declare", {"need": "cpu:16", "start_ms": now + 3600000, "for_ms": 3600000})["need"] == "cpu:16"


def amounts(params):
    return [(n["kind"], n["amount"], n.get("amount_max")) for n in params["needs"]]


@pytest.mark.parametrize("reason", ["stale", "busy"])
def test_asks_again(world, teller, reason):
    """At a bad moment the same is asked for again."""
    world.put(f"{world.sys}/proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n")
    teller.tell(memory=1 << 30)
    teller.logged("that is enough")
    now = int(time.time() * 1000)
    world.app().call("declare", {"need": "memory:2560M", "start_ms": now, "for_ms": 3600000})
    reserve, params = teller.asked()
    assert amounts(params) == [("memory", 128 << 20, 2 << 30)]
    teller.host.answer(reserve, verdict(params["request"], "not-now", reason=reason))
    params = teller.asked(60)[1]
    assert amounts(params) == [("memory", 128 << 20, 2 << 30)]
    assert params["why"].startswith("the projection has changed:")


def test_takes_what_it_may_have(world, teller):
    """The host gives less than is missing, as this VM may have no more: that is what it holds, and gives back."""
    world.put(f"{world.sys}/proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n")
    teller.tell(memory=1 << 30)
    teller.logged("that is enough")
    app = world.app()
    app.call("declare", {"name": "soon", "need": "memory:2560M", "start_ms": int(time.time() * 1000), "for_ms": 3600000})
    reserve, params = teller.asked()
    within(params["why"])
    assert amounts(params) == [("memory", 128 << 20, 2 << 30)]
    granted = dict(params["needs"][0], amount=768 << 20, amount_max=768 << 20)
    assert teller.tell(memory=(1 << 30) + (768 << 20)) == []
    teller.host.answer(reserve, verdict(params["request"], "granted", needs=[granted], memory_bytes=768 << 20))
    teller.logged("memory:768M,node=0 is granted")
    app.call("declare-drop", {"name": "soon"})
    while True:  # what is still missing was asked for meanwhile
        message = teller.host.link.receive(200)
        if message["method"] == "release":
            break
        teller.host.answer(message, verdict(message["params"]["request"], "not-now", reason="no-capacity"))
    assert message["params"]["request"] == params["request"]
    assert "memory:768M,node=0 is given back" in world.text()


def test_knows_what_it_may_have(world):
    """It asks for no more than its definition allows, and what is beyond that is no declaration."""
    make_proc(world)
    world.put(f"{world.sys}/proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n")
    teller = Teller(world, limits={"cpus_max": 1, "memory_max_bytes": 1280 << 20})
    teller.tell(memory=1 << 30, free=(1,))
    teller.logged("that is enough")
    app, now = world.app(), int(time.time() * 1000)
    for need, most in (("memory:8G", "1280M"), ("cpu:2", "1")):
        with pytest.raises(Refused) as refused:
            app.call("declare", {"need": need, "start_ms": now, "for_ms": 3600000})
        assert refused.value.reason == "policy" and f"this VM may have {most} at most" in str(refused.value)
    app.call("declare", {"name": "soon", "need": "memory:1G", "start_ms": now, "for_ms": 3600000})
    reserve, params = teller.asked()
    assert amounts(params) == [("memory", 128 << 20, 256 << 20)]
    assert teller.tell(memory=1280 << 20, free=(1,)) == []
    teller.host.answer(reserve, verdict(params["request"], "granted", needs=[dict(params["needs"][0], amount=256 << 20)], memory_bytes=256 << 20))
    teller.logged("it may have no more, by its definition")
    demand(world, 2)
    teller.logged("this VM has 1.00; it may have no more, by its definition")
    assert teller.host.link.silent(1)


def test_asks_for_a_part_of_a_cpu(world, teller):
    """No whole one is free; a part of what this VM has a part of is."""
    teller.tell_parts(yours=200, free=700)
    demand(world, 1)
    reserve, params = teller.asked()
    (need,) = params["needs"]
    assert sorted((p["name"], p["relation"], p["value"]) for p in need["parameters"]) == [("id", "=", 0), ("share", ">=", 700)]
    assert teller.tell_parts(yours=900, free=0) == []
    teller.host.answer(reserve, verdict(params["request"], "granted", needs=[need], cpus=[1]))
    teller.logged("cpu:1,id=0,share>=0.7 is granted")
    demand(world, 0)
    release = teller.expect("release", 200)
    assert release["params"]["request"] == params["request"]


def test_somebody_releases_it(world, teller):
    """Root may take it away, as any lease; it is no trigger to ask again."""
    if os.geteuid() != 0:
        pytest.skip("the agent's rows are its own user's")
    teller.tell(free=(1,))
    demand(world, 2)
    reserve, params = teller.asked()
    teller.grant(reserve)
    app = world.app()
    number = app.start("release", {"id": params["request"]})
    release = teller.expect("release")
    teller.host.answer(release)
    assert release["params"]["why"] == rows(world)[0]["why"] == "withdrawn by its user"
    assert app.answer(number) == {}
    assert rows(world)[0]["state"] == "ended"


def test_it_asks_for_so_much_and_no_more(world, teller):
    """Each by its name, one after the other, to a limit."""
    teller.tell(free=range(1, 16))
    demand(world, 15)
    for number in range(1, 9):
        reserve, params = teller.asked(200)
        assert named(params) == number
        teller.grant(reserve, free=range(number + 1, 16), yours=range(number + 1))
    teller.logged("it has asked for 8 already")
    assert teller.host.link.silent(1)


@pytest.mark.parametrize("value", ["0", "99ms", "2h", "soon", "-1s", ""])
def test_command_line(world, value):
    world.start("--project", value, wait=False)
    assert world.agent.wait(20) == 64 and "--project" in world.text()
    world.agent = None


def test_off_unless_it_is_said(world):
    make_proc(world)
    demand(world, 3)
    world.start()
    teller = Teller.__new__(Teller)
    teller.world, teller.host, teller.generation, teller.limits = world, world.host, 0, {}
    teller.greet()
    assert teller.tell(free=(1, 2, 3)) == []
    assert teller.host.link.silent(1)

# SPDX-License-Identifier: Apache-2.0
"""A guest that says it is initialised when it is not, twice, or never, and one that greets without end: the test speaks
in the agent's place on the real port. The asker is answered, everything comes back, and the host's CPU is never kept."""
import time

import pytest
from app import App
from host import Host, wait_for

PORT = "/dev/virtio-ports/org.mete.agent.0"


@pytest.fixture(scope="module")
def hasty(image):
    """A host that does not wait long for its guests."""
    with Host(memory="2G", extra="activation=3s\n") as host:
        host.vm("v")
        host.vms["v"].check("touch /run/no-agent; killall -9 mete-agent; usleep 300000")
        yield host


@pytest.fixture
def port(hasty):
    free = hasty.free()
    app = App(hasty.vms["v"], "port", path=PORT)
    app.send("")
    yield app
    app.close()
    hasty.wait_free(free, 30)


def state(cpus=(0,), memory=268435456):
    return {"cpus_online": list(cpus), "memory_bytes": memory}


def hello(port):
    return port.start("hello", {"version": 1, "agent": "test", "boot_id": "11111111-1111-1111-1111-111111111111",
                                "state": state()})


def reserve(port, name):
    return port.start("reserve", {"request": name, "application": "x", "needs": [{"kind": "cpu", "amount": 1}]})


def asked(port, method):
    return port.receive(30, lambda m: m.get("method") == method)


def say(port, call, **result):
    port.send({"jsonrpc": "2.0", "id": call["id"], "result": state(**result)})


def test_never(hasty, port):
    port.answer(hello(port))
    number = reserve(port, "never")
    asked(port, "online")
    verdict = port.answer(number)
    assert (verdict["outcome"], verdict["reason"]) == ("not-now", "timeout")


def test_it_is_not(hasty, port):
    """It answers, and what it says is not what was asked: no grant."""
    port.answer(hello(port))
    number = reserve(port, "not")
    say(port, asked(port, "online"), cpus=[0])
    verdict = port.answer(number)
    assert verdict["outcome"] == "not-now" and "on line" in verdict["sentence"]


def test_twice(hasty, port):
    """The second time nobody is waiting."""
    port.answer(hello(port))
    number = reserve(port, "twice")
    call = asked(port, "online")
    for _ in range(2):
        say(port, call, cpus=[0, call["params"]["cpus"][0]])
    assert port.answer(number)["outcome"] == "granted"
    number = port.start("release", {"request": "twice", "cause": "released"})
    say(port, asked(port, "offline"))
    port.answer(number)
    wait_for("it has ended", lambda: "ended" in [e["event"] for e in hasty.events("twice")], 30, 0.05)
    assert hasty.meted.poll() is None


def test_greets_without_end(hasty, port):
    """Each greeting has the step begun again, and the time that it has stays the same: up and back."""
    port.answer(hello(port))
    number = reserve(port, "greets")
    asked(port, "online")
    for _ in range(60):
        hello(port)
        time.sleep(0.2)
        ended = [e["event"] for e in hasty.events("greets")]
        if "ended" in ended:
            break
    assert "failed" in ended and "ended" in ended, ended
    assert port.answer(number)["outcome"] == "not-now"


def test_memory_is_taken_with_its_vm(image):
    """A guest that has put its own data where the lent memory was cannot give it back. It is said, tried again, never counted
    as free, and by policy taken at last."""
    with Host(memory="2G", extra="retry=500ms\nforce_after=4s\n") as host:
        guest = host.vm("v", start=False)
        idle = host.free()
        guest.start()
        app = App(guest, "hoard")  # which goes with the guest
        assert app.call("request", {"id": "hoard", "needs": ["memory:512M"]})["outcome"] == "granted"
        lent = host.free()
        guest.check("mount -t tmpfs -o size=600M hoard /mnt && dd if=/dev/zero of=/mnt/hoard bs=1M count=450")
        app.send({"jsonrpc": "2.0", "id": 9, "method": "release", "params": {"id": "hoard"}})

        def said(event):
            return [e for e in host.events("v/hoard") if e["event"] == event]
        wait_for("it is said to be held", lambda: said("still-held"), 60, 0.1)
        assert not said("ended")
        assert host.free() == lent or said("forced")
        wait_for("it is taken", lambda: said("forced"), 90, 0.1)
        host.wait_free(idle, 30)
        assert host.mete_json("vm", "show", "v")["state"] == "stopped"
        guest.start()  # and it may run again

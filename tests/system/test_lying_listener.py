# SPDX-License-Identifier: Apache-2.0
"""A guest that does as it likes with what it is told of its host: never says that it has it, says so without end, wants
all of it again and again, names what is not there. The test speaks in the agent's place on the real port."""
import time

import pytest
from app import App
from host import Host, wait_for

PORT = "/dev/virtio-ports/org.mete.agent.0"


@pytest.fixture(scope="module")
def host(image):
    with Host(memory="2G") as host:
        host.vm("v")
        host.vms["v"].check("touch /run/no-agent; killall -9 mete-agent; usleep 300000")
        yield host


@pytest.fixture
def port(host):
    app = App(host.vms["v"], "port", path=PORT)
    app.send("")
    app.answer(app.start("hello", {"version": 1, "agent": "test", "boot_id": "11111111-1111-1111-1111-111111111111",
                                   "features": ["hhi"], "state": {"cpus_online": [0], "memory_bytes": 268435456}}))
    app.call("sync", {"requests": []})
    yield app
    app.close()


def watch(port, generation=0):
    return port.start("hhi-watch", {"generation": generation})


def told(port, timeout_s=30):
    return port.receive(timeout_s, lambda m: m.get("method") == "hhi")


def say(port, call, applied):
    port.send({"jsonrpc": "2.0", "id": call["id"], "result": {"applied": applied}})


def ask(port, name, need, **more):
    return port.call("reserve", {"request": name, "application": "x", "needs": [need], **more})


def memory_of(node):
    return {"kind": "memory", "amount": 134217728, "parameters": [{"name": "node", "relation": "=", "value": node}]}


def test_never_says_that_it_has_it(host, port):
    """One message is under way, and what was decided on it is stale as soon as it is not so any more (2.14)."""
    watch(port)
    first = told(port)
    host.mete("reserve", "r", "--need", "memory:512M")
    try:
        seen = len([line for line in port.lines() if '"hhi"' in line])
        verdict = ask(port, "old", memory_of(0), host_generation=first["params"]["generation"])
        assert (verdict["outcome"], verdict["reason"]) == ("not-now", "stale")
        assert "memory:node0 has changed since generation" in verdict["sentence"]
        assert len([line for line in port.lines() if '"hhi"' in line]) == seen  # nothing follows what is not answered
        say(port, first, True)
        second = told(port)
        assert second["params"]["base"] == first["params"]["generation"] < second["params"]["generation"]
        say(port, second, False)  # it makes nothing of it: all of it, and a later one
        third = told(port)
        assert "base" not in third["params"] and third["params"]["generation"] > second["params"]["generation"]
        say(port, third, True)
    finally:
        host.mete("unreserve", "r")


def test_says_so_without_end(host, port):
    """Answers to what is not under way change nothing, and all of it is not written as often as it is wanted."""
    watch(port)
    first = told(port)
    began = time.monotonic()
    for i in range(40):
        say(port, first, i % 2 == 0)
        port.send({"jsonrpc": "2.0", "id": 100000 + i, "result": {"applied": True}})
        watch(port, i % 3)
    port.call("ping")
    fulls = [line for line in port.lines() if '"method":"hhi"' in line and '"base"' not in line]
    assert len(fulls) <= 2 + (time.monotonic() - began), fulls  # one a second, at the very most
    assert host.meted.poll() is None
    wait_for("it is served", lambda: host.get("/health").get("ok"), 10)


def test_what_is_not_there(host, port):
    """In the view or in none: refused, as nothing of it will come."""
    for name, need in (("cpu", {"kind": "cpu", "amount": 1, "parameters": [{"name": "id", "relation": "=", "value": 4000}]}),
                       ("node", memory_of(77))):
        verdict = ask(port, name, need)
        assert (verdict["outcome"], verdict["reason"]) == ("never", "not-found"), verdict

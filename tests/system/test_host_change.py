# SPDX-License-Identifier: Apache-2.0
"""What a VM is on goes: its allocation is changed first, and then its guest is told (2.3 to 2.6, 2.12)."""
import os

import pytest
import told
from app import App
from host import Host, wait_for
from test_faults import Rig

MIB = 1 << 20


@pytest.fixture(scope="module")
def host():
    with Host(memory="2G", extra="retry=100ms\n") as h:
        if len(cpus(h)) < 2:
            pytest.skip("there is one CPU to give away, and the last one stays")
        h.made = []
        yield h


def cpus(host):
    return [c["id"] for c in host.mete_json("host", "show")["components"] if c["kind"] == "cpu"]


def state(host, component):
    return next(c.get("state", "") for c in host.mete_json("host", "show")["components"] if c["id"] == component)


def until(host, component):
    return next(c.get("until_ms", 0) for c in host.mete_json("host", "show")["components"] if c["id"] == component)


@pytest.fixture
def vm(host):
    name = f"v{len(host.made)}"  # its events are its own
    host.made.append(name)
    v = host.vm(name, memory="256M..768M", cpus="1..2")
    yield v
    for c in cpus(host):
        if state(host, c):
            host.mete("host", "online", c)
    if v.show()["state"] != "stopped":
        v.kill()
    wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
    host.mete("vm", "delete", v.name)
    del host.vms[v.name]


def wait_told(vm, what, condition):
    """Until what the guest has is so, and a message of its own since the last time is on record; its generation and objects."""
    since = getattr(vm, "known", 0)
    generation, objects = told.wait_told(vm, what, condition)
    wait_for("that is on record", lambda: any(e["event"] == "hhi-told" and since < int(e["text"].split()[1]) <= generation
                                              for e in vm.host.events(vm.name)), 60, 0.05)
    vm.known = generation
    return generation, objects


def place(vm, slot=0):
    """The component of a vCPU, as the books have it."""
    return next(c["component"] for c in vm.show()["vcpus"] if c["vcpu"] == slot)


def held_on(vm):
    """CPUs on which the kernel lets the first vCPU's thread run."""
    def name(tid):
        with open(f"/proc/{vm.pid()}/task/{tid}/comm") as f:
            return f.read()
    for tid in os.listdir(f"/proc/{vm.pid()}/task"):
        if name(tid).startswith("CPU 0/"):
            with open(f"/proc/{vm.pid()}/task/{tid}/status") as f:
                return next(line.split()[1] for line in f if line.startswith("Cpus_allowed_list"))
    raise AssertionError("it has no vCPU thread")


def happened(host, vm, after, known, names):
    """What of these happened behind that event, in order, until the guest was told of a later generation than it knew."""
    def is_new(event):
        return event["event"] != "hhi-told" or int(event["text"].split()[1]) > known

    def found():
        return [e["event"] for e in host.events() if e["seq"] > after and e["event"] in names and is_new(e)]
    wait_for("it is on record that the guest has it", lambda: "hhi-told" in found(), 60, 0.05)
    return found()


def test_the_allocation_moves_and_then_the_guest_is_told(host, vm):
    was = place(vm)
    first, _ = wait_told(vm, "its base is marked, all of it", lambda o: o[was].get("mark") == "yours" and any(
        x["kind"] == "memory" and x.get("mark") == "yours" for x in o.values()))
    before = host.last_event()
    assert host.mete("host", "offline", was).stdout == f"{was} is off line, by an operator: 1 vCPU moves\n"
    second, objects = wait_told(vm, "it is told", lambda o: o[was].get("mark") == "offline")
    now = place(vm)
    assert second > first and now != was and objects[now]["mark"] == "yours" and not objects[was].get("yours")
    assert held_on(vm) == now.removeprefix("cpu:")
    order = ["moving", "update-needed", "moved", "hhi-told"]
    assert happened(host, vm, before, first, order) == order
    said = next(e for e in host.events(was) if e["seq"] > before)
    assert said["event"] == "component-offline" and said["text"] == f"{was} was taken out of use by an operator"
    assert "by an operator" in state(host, was)
    before = host.last_event()
    host.mete("host", "online", was)
    third, objects = wait_told(vm, "it is told again", lambda o: o[was].get("mark") == "free")
    assert third > second and place(vm) == now and not state(host, was)
    assert happened(host, vm, before, second, ["no-update-needed", "hhi-told"]) == ["no-update-needed", "hhi-told"]


def test_a_lease_without_another_place_ends_and_is_told_so(host, vm):
    base = place(vm)
    other = next(c for c in cpus(host) if c != base)
    app = App(vm, "named")
    verdict = app.call("request", {"id": "named", "needs": [f"cpu:1,id={other.removeprefix('cpu:')},share>=0.5"]})
    assert verdict["outcome"] == "granted", verdict
    known, _ = wait_told(vm, "it is marked", lambda o: o[other].get("mark") == "yours")
    before = host.last_event()
    assert host.mete("host", "offline", other, "--inject").stdout == f"{other} is off line, by an injected fault: 1 lease ends\n"
    wait_told(vm, "it is told", lambda o: o[other].get("mark") == "offline" and not o[other].get("yours"))
    order = ["withdrawn", "update-needed", "ended", "hhi-told"]
    assert happened(host, vm, before, known, order) == order
    assert "injected fault" in state(host, other)
    assert vm.cpus_online() == 1 and place(vm) == base


def test_it_stays_so_until_its_time_is_over(host, vm):
    was = place(vm)
    host.mete("host", "offline", was)
    wait_for("it has moved", lambda: place(vm) != was)
    host.kill_meted()
    host.start_meted()
    assert "off line" in state(host, was)
    wait_for("the VM is found again", lambda: vm.show().get("agent"), 60, 0.05)
    assert place(vm) != was
    host.mete("host", "online", was)
    host.mete("host", "offline", was, "--for", "200ms")
    wait_for("it is over", lambda: not state(host, was))
    assert [e["event"] for e in host.events(was)][-2:] == ["component-offline", "component-online"]
    host.mete("host", "offline", was, "--inject", "--for", "200ms")
    wait_for("that is over", lambda: not state(host, was))
    assert host.events(was)[-1]["text"] == f"{was} was put into use again: the injected fault is over"


def test_less_memory(host, vm):
    node = next(c for c in host.mete_json("host", "show")["components"] if c["kind"] == "memory" and c["claimed"])
    _, objects = wait_told(vm, "its base is marked", lambda o: o[node["id"]].get("mark") == "yours")
    host.mete("host", "offline", node["id"], "--amount", "64M")
    try:
        _, after = wait_told(vm, "it is told", lambda o: o[node["id"]]["free"] == objects[node["id"]]["free"] - 64 * MIB)
        assert after[node["id"]]["capacity"] == objects[node["id"]]["capacity"] - 64 * MIB
        assert "without 64M" in state(host, node["id"])
        host.mete("host", "offline", node["id"], "--amount", "64M", "--for", "2h")  # the same, for another time
        assert until(host, node["id"]) > 0
        host.mete("host", "offline", node["id"], "--amount", "64M")
        assert until(host, node["id"]) == 0
        assert "without 64M" in state(host, node["id"])
        host.mete("host", "offline", node["id"], "--amount", "128M")  # instead of those
        wait_told(vm, "more is out of use", lambda o: o[node["id"]]["free"] == objects[node["id"]]["free"] - 128 * MIB)
        assert "without 128M" in state(host, node["id"])
    finally:
        host.mete("host", "online", node["id"])
    wait_told(vm, "all of it is back", lambda o: o[node["id"]]["free"] == objects[node["id"]]["free"])
    said = host.mete("host", "offline", node["id"]).stdout
    assert said.startswith(f"{node['id']} is off line, by an operator: 1 VM keeps its own memory\n")
    last = sum(c["kind"] == "memory" for c in host.mete_json("host", "show")["components"]) == 1
    assert ("nothing of memory can be given away now" in said) == last
    host.mete("host", "online", node["id"])


def refused(host, *args):
    said = host.mete("host", *args, check=False)
    assert said.returncode != 0
    return said.stderr


def test_refusals(host):
    every = cpus(host)
    assert "no component" in refused(host, "offline", "cpu:4095") and "no component" in refused(host, "online", "nonsense")
    assert "no operator" in refused(host, "online", every[0])
    assert refused(host, "offline", every[0], "--for", "400d").startswith("mete host offline: --for 400d: ")
    assert refused(host, "offline", every[0], "--amount", "0").startswith("mete host offline: --amount 0: ")
    assert "host show" in refused(host, "offline", "1")
    assert "only of memory" in refused(host, "offline", every[0], "--amount", "64M")
    try:
        for c in every[:-1]:
            said = host.mete_json("host", "offline", c)
            assert said["component"] == c and "off line" in said["state"] and said["left"] > 0 and "until_ms" not in said, said
        assert host.mete_json("host", "offline", every[0], "--for", "1h")["until_ms"] > 0
        assert host.mete_json("host", "offline", every[0], "--for", "2h")["moves"] == 0
        doctor = host.mete("doctor", check=False).stdout
        assert f"{every[0]} is off line, by an operator, until " in doctor
        assert f"{every[0]} is off line, by an operator\n" in host.mete("host", "offline", every[0]).stdout
        assert "last CPU" in refused(host, "offline", every[-1])
    finally:
        for c in every[:-1]:
            host.mete("host", "online", c)


@pytest.mark.parametrize("fault", ["die", "keeper", "error"])
def test_whatever_dies_meanwhile_it_is_moved(fault):
    with Host(memory="2G", extra="retry=100ms\n") as h:
        if len(cpus(h)) < 2:
            pytest.skip("there is one CPU to give away, and the last one stays")
        rig = Rig(h)
        was = place(rig.vm)
        rig.arm("repair host vcpu", fault)
        h.mete("host", "offline", was)
        rig.strike(fault)
        wait_for("it has moved", lambda: "moved" in [e["event"] for e in h.events("v")], 60, 0.05)
        assert place(rig.vm) != was and held_on(rig.vm) == place(rig.vm).removeprefix("cpu:")
        assert [e["event"] for e in h.events("v")].count("moved") == 1

# SPDX-License-Identifier: Apache-2.0
"""The machine itself changes under mete: its kernel takes CPUs and memory away, links lose their carrier, devices come
and go. It is noticed, what lies there is moved within its node, and only then guests are told."""
import json
import re

import pytest
from nested import NestedAgent


def component(nested, name):
    return next(c for c in nested.mete_json("host", "show")["components"] if c["id"] == name)


def events(nested):
    return [json.loads(line) for line in nested.mete_check("events", "--json").splitlines() if line.startswith("{")]


def settled(nested, agent):
    """The last event, when it is on record that the guest has what it has."""
    agent.wait_until(lambda: any(e["event"] == "hhi-told" and e["text"].startswith(f"generation {agent.told[-1][0]} ") for e in events(nested)))
    return events(nested)[-1]["seq"]


def happened(nested, after, names):
    return [e["event"] for e in events(nested) if e["seq"] > after and e["event"] in names]


def wait_state(nested, name, text):
    nested.wait_for(f"{name} is {text}", f"mete host show | grep -q '^{name} .*{text}'", 60)


@pytest.fixture
def vm(nested):
    """On CPU 1 of node 0: the kernel does not let go of CPU 0."""
    nested.mete_check("host", "offline", "cpu:0")
    v = nested.vm("v", agent=True)
    nested.mete_check("host", "online", "cpu:0")
    assert v.cpus() == "1"
    yield v
    nested.check("for c in 1 2 3; do echo 1 >/sys/devices/system/cpu/cpu$c/online; done")


def test_a_cpu_goes_and_comes_back(nested, vm):
    with NestedAgent(vm) as agent:
        agent.watch()
        assert agent.told[-1][2]["objects"]["cpu:1"]["mark"] == "yours"
        before = settled(nested, agent)
        nested.check("echo 0 >/sys/devices/system/cpu/cpu1/online")
        agent.wait_until(lambda: agent.told[-1][2]["objects"].get("cpu:1", {}).get("mark") == "offline")
        told = agent.told[-1][2]["objects"]
        assert told["cpu:0"]["mark"] == "yours"  # of the same node, 2 and 3 were as free
        assert vm.cpus() == "0" and component(nested, "cpu:1")["state"] == "off line, by the machine"
        order = ["component-offline", "moving", "update-needed", "moved", "hhi-told"]
        agent.wait_until(lambda: "hhi-told" in happened(nested, before, order))
        assert happened(nested, before, order) == order
        generation, before = agent.told[-1][0], settled(nested, agent)
        nested.check("echo 1 >/sys/devices/system/cpu/cpu1/online")
        agent.wait_until(lambda: agent.told[-1][2]["objects"].get("cpu:1", {}).get("mark") == "free")
        assert agent.told[-1][0] > generation and vm.cpus() == "0"
        order = ["component-online", "no-update-needed", "hhi-told"]
        agent.wait_until(lambda: "hhi-told" in happened(nested, before, order))
        assert happened(nested, before, order) == order


def test_no_cpu_of_its_node_is_left(nested, vm):
    nested.mete_check("host", "offline", "cpu:0", "--inject")
    nested.check("echo 0 >/sys/devices/system/cpu/cpu1/online")
    nested.wait_for("it has moved", f"! grep -q 'Cpus_allowed_list:.*[01]$' /proc/{vm.threads()[0]}/status", 60)
    assert vm.cpus() in ("2", "3")
    nested.check("echo 1 >/sys/devices/system/cpu/cpu1/online")
    nested.mete_check("host", "online", "cpu:0")


def test_meted_starts_while_a_cpu_is_away(nested, vm):
    nested.check("echo 0 >/sys/devices/system/cpu/cpu3/online")
    wait_state(nested, "cpu:3", "off line, by the machine")
    nested.end(nested.meted_pid, signal="TERM")
    nested.check("echo 0 >/sys/devices/system/cpu/cpu1/online")  # that one while nobody looks
    nested.start_meted(cpus="0-3")
    nested.wait_for("it was moved", "mete events --trace v | grep -q ' moved '", 60)
    assert vm.cpus() == "0" and component(nested, "cpu:3")["state"] == "off line, by the machine"
    for cpu in (1, 3):
        nested.check(f"echo 1 >/sys/devices/system/cpu/cpu{cpu}/online")
        wait_state(nested, f"cpu:{cpu}", "usable")
    assert component(nested, "cpu:3")["node"] == 1  # while it is off line the kernel does not say


def test_memory_goes_and_comes_back(nested):
    blocks = nested.check("grep -l 1 /sys/devices/system/node/node1/memory*/removable 2>/dev/null; true").split()
    was = component(nested, "memory:node1")
    for path in reversed(blocks):
        block = path.rsplit("/", 1)[0]
        if nested.run(f"echo offline >{block}/state", 120)[0] == 0:
            break
    else:
        pytest.skip("the kernel lets go of no block of memory")
    try:
        wait_state(nested, "memory:node1", "without .*, by the machine")
        now = component(nested, "memory:node1")
        assert now["capacity"] == was["capacity"] and now["free"] < was["free"]
    finally:
        nested.check(f"echo online >{block}/state")
    wait_state(nested, "memory:node1", "usable")
    assert component(nested, "memory:node1")["free"] == was["free"]


def test_a_device_goes_and_comes_back(nested, vm):
    found = nested.check("ls /sys/bus/pci/devices").split()
    device = found[-1]
    with NestedAgent(vm) as agent:
        agent.watch()
        whole = agent.told[-1][2]["objects"]
        nested.check(f"echo 1 >/sys/bus/pci/devices/{device}/remove")
        agent.wait_until(lambda: agent.told[-1][1] and agent.told[-1][2]["objects"] != whole or nested.run("mete events | grep -q devices-changed")[0] == 0)
        nested.check("echo 1 >/sys/bus/pci/rescan")
        nested.wait_for("it is read anew twice", "[ $(mete events | grep -c devices-changed) -ge 2 ]", 60)
        agent.wait_until(lambda: agent.told[-1][1] and agent.told[-1][2]["objects"].keys() == whole.keys())
        took = [e["text"] for e in events(nested) if e["event"] == "devices-changed"]
        print(took)
        assert all(re.search(r"read anew in \d+ ms", t) for t in took)


def test_the_uplink_loses_its_carrier(nested):
    if not nested.exists("/usr/bin/ip"):
        pytest.skip("this machine has no ip (iproute2) to put into the nested host")
    ip = "/usr/bin/ip link"
    nested.check(f"modprobe veth; {ip} add up0 type veth peer name peer0; {ip} set up0 up; {ip} set peer0 up")
    nested.end(nested.meted_pid, signal="TERM")
    try:
        nested.start_meted(extra="[net]\nmanage=yes\nnetwork=lan\nuplink=up0\nrate=1G\n")
        wait_state(nested, "net:up0", "usable")
        nested.check(f"{ip} set peer0 down")
        wait_state(nested, "net:up0", "off line, by the machine")
        nested.check(f"{ip} set peer0 up")
        wait_state(nested, "net:up0", "usable")
        nested.check(f"{ip} del up0")
        wait_state(nested, "net:up0", "off line, by the machine")
    finally:
        nested.end(nested.meted_pid, signal="TERM")
        nested.start_meted()

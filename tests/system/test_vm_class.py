# SPDX-License-Identifier: Apache-2.0
"""Leases of L3 ways and memory bandwidth on a host with a made-up resctrl tree: what is written to it, and that nothing
of it stays. Enforcement is not shown: nothing in such a tree has an effect, and the host says so."""
import shutil

import pytest
from app import App
from host import Host, wait_for
from resctrl import MadeUpTree


@pytest.fixture(scope="module")
def world():
    with MadeUpTree(cpus=range(256)) as tree, Host(memory="2G", extra="retry=100ms\n", tree=tree) as host:
        yield tree, host


@pytest.fixture
def vm(world):
    tree, host = world
    bare, free = tree.state(), host.free()
    v = host.vm("v")
    yield v
    if v.show()["state"] != "stopped":
        v.kill()
    wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
    host.mete("vm", "delete", "v")
    del host.vms["v"]
    host.wait_free(free)
    assert tree.state() == bare


def test_what_there_is(world):
    _, host = world
    rows = {c["id"]: (c["capacity"], c["free"]) for c in host.mete_json("host", "show")["components"]}
    assert rows["cache:0"] == (10, 10) and rows["membw:0"] == (90, 90)
    assert "made-up" in host.mete("doctor", check=False).stdout


def test_granted_and_released(world, vm):
    tree, host = world
    before = tree.state()
    app = App(vm, "class")
    verdict = app.call("request", {"id": "a", "needs": ["cpu:1", "cache:2", "membw:20%"]})
    assert verdict["outcome"] == "granted", verdict
    mine, rest = tree.schemata(f"{host.name}@v"), tree.schemata()
    assert bin(mine["L3", 0]).count("1") == 2 and mine["L3", 0] & rest["L3", 0] == 0
    assert (mine["MB", 0], rest["MB", 0]) == (20, 80)
    assert {cpu["tid"] for cpu in vm.show()["vcpus"] if cpu.get("tid")} <= tree.tasks(f"{host.name}@v")
    app.call("release", {"id": "a"})
    wait_for("the class is gone", lambda: tree.state() == before)


def test_alone_it_serves_nothing(vm):
    verdict = App(vm, "alone").call("request", {"id": "a", "needs": ["cache:2"]})
    assert (verdict["outcome"], verdict["reason"]) == ("never", "invalid"), verdict


def test_over_restarts_and_changed_behind_our_back(world, vm):
    tree, host = world
    before = tree.state()
    app = App(vm, "restart")
    needs = ["cpu:1", "cache:2", "membw:20%"]
    assert app.call("request", {"id": "a", "needs": needs})["outcome"] == "granted"
    mine = tree.schemata(f"{host.name}@v")
    host.kill_keeper()
    host.start_keeper()
    host.kill_meted()
    host.start_meted()
    wait_for("the agent is back", lambda: vm.show().get("agent"), 60, 0.05)
    assert tree.schemata(f"{host.name}@v") == mine
    tree.write(f"{host.name}@v/schemata", "L3:0=1\nMB:0=100\n")
    tree.write(f"{host.name}@v/tasks", "")
    assert "as it was granted" in host.mete("vm", "verify", "v").stdout
    assert tree.schemata(f"{host.name}@v") == mine and tree.tasks(f"{host.name}@v")
    app.call("release", {"id": "a"})
    wait_for("the class is gone", lambda: tree.state() == before)


def test_no_class_of_service_is_left(world, vm):
    tree, _ = world
    for name in ("one", "two", "three"):
        tree.write(f"{name}/schemata", "L3:0=1\nMB:0=100\n")
    full = tree.state()
    try:
        verdict = App(vm, "full").call("request", {"id": "a", "needs": ["cpu:1", "cache:2"]})
        assert verdict["outcome"] == "not-now" and "no class of service left" in verdict["sentence"], verdict
        wait_for("nothing is left of it", lambda: tree.state() == full)
    finally:
        for name in ("one", "two", "three"):
            shutil.rmtree(f"{tree.root}/{name}")

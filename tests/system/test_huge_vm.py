# SPDX-License-Identifier: Apache-2.0
"""VMs and leases with memory on huge pages: the pages are there before the guest, are its own, and go out of the pool
exactly when they are given back."""
import os
import re
import signal

import pytest
from app import App
from host import Host, HostError, wait_for
from huge import PAGE, CannotRun, Huge, pools, set_pool

M = 1 << 20
KIB = PAGE >> 10
FROM_MIB = 256 * M // PAGE  # of the VM's own memory
LEASE = 128 * M // PAGE


class World:
    def __init__(self, host, huge):
        self.host, self.huge = host, huge
        self.free = host.free()
        self.had = self.pages()

    def pages(self):
        return pools()[0, KIB][0]


@pytest.fixture(scope="module")
def world():
    try:
        with Huge() as huge, Host(memory="2G", extra="retry=100ms\n", huge=huge) as host:
            yield World(host, huge)
            assert pools() == huge.before
    except CannotRun as e:
        pytest.skip(str(e))


@pytest.fixture
def vm(world):
    v = world.host.vm("v", memory="256M..1G", page="2M")
    yield v
    if v.show()["state"] != "stopped":
        v.kill()
    wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
    world.host.mete("vm", "delete", "v")
    del world.host.vms["v"]
    world.host.wait_free(world.free)
    assert pools() == world.huge.before and world.huge.files() == []


def maps(vm, name):
    """What the kernel says of a file of the VMM's: (is on huge pages, page size in KiB, pages)."""
    with open(f"/proc/{vm.pid()}/numa_maps") as f:
        for line in f:
            if re.search(rf" file=\S+/{name}[\s-]", line):
                kib = int((re.search(r"kernelpagesize_kB=(\d+)", line) or [0, 4])[1])  # untouched: not said
                pages = sum(int(n) for n in re.findall(r" N\d+=(\d+)", line))
                return " huge " in line, kib, pages
    return None


def test_what_there_is(world):
    [memory] = [c for c in world.host.mete_json("host", "show")["components"] if c["kind"] == "memory"]
    assert memory["page_bytes"] == [PAGE]
    assert re.search(r"huge pages: +of memory:node0 2M", world.host.mete("host", "show").stdout)
    doctor = world.host.mete("doctor", check=False).stdout
    assert "memory may be of pages of 2M" in doctor
    assert f"{world.host.ram_dir} has room for" in doctor


def test_from_start_to_end(world, vm):
    assert world.pages() == world.had + FROM_MIB
    assert maps(vm, "ram0") == (True, KIB, FROM_MIB)
    assert vm.show()["page_bytes"] == PAGE
    assert "of its own on pages of 2M" in world.host.mete("vm", "show", "v").stdout
    ram = world.host.mete_json("definition", "show", "v/ram0")
    assert ram["page_bytes"] == PAGE and ram["configured"] and ram["amount"] == 256 * M
    text = " ".join(e["text"] for e in world.host.events("v") if e["event"] == "finalised")
    assert "256M on pages of 2M of node 0, read back from hugetlbfs" in text
    # Leases: on such pages, or on ordinary ones.
    app = App(vm, "pages")
    verdict = app.call("request", {"id": "a", "needs": ["memory:128M,page=2M"]})
    assert verdict["outcome"] == "granted" and "memory:128M,page=2M" in verdict["sentence"], verdict
    assert world.pages() == world.had + FROM_MIB + LEASE
    assert maps(vm, "dimm0") == (True, KIB, LEASE)
    assert app.call("request", {"id": "b", "needs": ["memory:128M"]})["outcome"] == "granted"
    assert world.pages() == world.had + FROM_MIB + LEASE and not maps(vm, "dimm1")[0]
    assert "as it was granted" in world.host.mete("vm", "verify", "v").stdout
    app.call("release", {"id": "a"})
    wait_for("its pages are back", lambda: world.pages() == world.had + FROM_MIB)
    app.call("release", {"id": "b"})


def test_refused_by_name(world, vm):
    app = App(vm, "refused")
    verdict = app.call("request", {"id": "a", "needs": ["memory:128M,page=1G"]})
    assert (verdict["outcome"], verdict["reason"]) == ("never", "unsupported"), verdict
    assert "it has huge pages of: 2M" in verdict["sentence"]
    with pytest.raises(HostError, match="no memory of this host has them"):
        world.host.mete("vm", "create", "w", "--memory=1G", "--page=1G")
    with pytest.raises(HostError, match="power of two"):
        world.host.mete("vm", "create", "w", "--memory=1G", "--page=3M")


def test_over_restarts(world, vm):
    app = App(vm, "restart")
    assert app.call("request", {"id": "a", "needs": ["memory:128M,page=2M"]})["outcome"] == "granted"
    held = pools()
    world.host.kill_keeper()
    world.host.start_keeper()
    world.host.kill_meted()
    world.host.start_meted()
    wait_for("the agent is back", lambda: vm.show().get("agent"), 60, 0.05)
    assert pools() == held
    app.call("release", {"id": "a"})
    wait_for("its pages are back", lambda: world.pages() == world.had + FROM_MIB)


def test_taken_behind_our_back(world, vm):
    """Somebody lowers the pool: noticed, and what VMs hold is there again."""
    set_pool(0, KIB, world.had)
    assert "as it was granted" in world.host.mete("vm", "verify", "v").stdout
    events = [(e["event"], e["text"]) for e in world.host.events("v") if "somebody lowered it" in e["text"]]
    assert events and events[-1][0] == "changed", events
    assert [e["event"] for e in world.host.events("v")][-1] == "repaired"
    assert world.pages() == world.had + FROM_MIB


def test_a_vmm_that_dies_with_a_lease(world, vm):
    app = App(vm, "dies")
    assert app.call("request", {"id": "a", "needs": ["memory:128M,page=2M"]})["outcome"] == "granted"
    os.kill(vm.pid(), signal.SIGKILL)
    wait_for("the VM is stopped", lambda: vm.show()["state"] == "stopped", 30, 0.05)
    world.host.wait_free(world.free)
    assert pools() == world.huge.before


def test_kept_for_the_next_start(world, vm):
    """A VM that its guest powered down keeps its pages; its next start takes them over."""
    vm.stop()
    assert [k["item"] for k in vm.show()["kept"] if k["item"] == "ram0"]
    assert world.pages() == world.had + FROM_MIB and len(world.huge.files()) == 1
    vm.start()
    assert world.pages() == world.had + FROM_MIB and maps(vm, "ram0") == (True, KIB, FROM_MIB)
    vm.stop()
    vm.kill()  # given up
    wait_for("nothing is kept", lambda: not vm.show().get("kept"), 30, 0.05)
    assert pools() == world.huge.before

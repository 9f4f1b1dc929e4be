# SPDX-License-Identifier: Apache-2.0
"""VMs whose disk is held to a rate: what is set aside for it, what a lease adds, and that the rate is a ceiling.

What a disk is held to is read from QEMU itself, by a connection of our own to its monitor.
"""
import os
import re
import signal
import time

import pytest
from app import App
from host import Host, HostError, wait_for
from monitor import disk_limits, monitor

M = 1 << 20
IOPS = 40000
CONFIG = f"retry=100ms\n[block]\nrate=400M\niops={IOPS}\ndefault=20M\n"


def limits(mib):
    """What a disk with so many MiB/s is held to."""
    return mib * M, mib * IOPS // 400


def make_disk(host, name):
    path = host.path("images", name)
    if not os.path.exists(path):
        with open(path, "wb") as f:
            f.truncate(64 * M)
        os.chmod(path, 0o666)  # QEMU opens it to write
    return name


class World:
    def __init__(self, host):
        self.host = host
        self.free = host.free()
        make_disk(host, "v.raw")


@pytest.fixture(scope="module")
def world():
    with Host(memory="2G", extra=CONFIG) as host:
        yield World(host)


@pytest.fixture
def vm(world, request):
    rate = getattr(request, "param", "50M..200M")
    v = world.host.vm("v", disk="v.raw", **{"disk-rate": rate})
    yield v
    if v.show()["state"] != "stopped":
        v.kill()
    wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
    world.host.mete("vm", "delete", "v")
    del world.host.vms["v"]
    world.host.wait_free(world.free)


def component(world):
    return next(c for c in world.host.mete_json("host", "show")["components"] if c["kind"] == "block")


def held(world, vm):
    """What QEMU says; afterwards meted and the guest's agent are there again."""
    now = disk_limits(world.host, vm.name)
    vm.wait_agent()
    return now


def test_what_there_is(world):
    c = component(world)
    assert (c["id"], c["capacity"], c["unit"]) == ("block:images", 400 * M, "bytes per second")
    assert "[block] rate in mete.conf" in c["source"]
    assert "400M bytes/s of block:images may be given away" in world.host.mete("doctor", check=False).stdout
    assert any("throttle groups" in f for f in world.host.mete_json("host", "show")["fallbacks"])
    assert re.search(r"block:images +0 +400M +0 +400M", world.host.mete("ledger").stdout)


def test_from_start_to_end(world, vm):
    """Its disk is held to what its definition says, and that is in the books."""
    assert held(world, vm) == limits(50)
    assert component(world)["free"] == 350 * M
    shown = vm.show()
    assert (shown["disk_rate_bytes"], shown["disk_ceiling_bytes"], shown["disk_now_bytes"]) == (50 * M, 200 * M, 50 * M)
    assert "50M bytes/s of its own, 200M with leases, now 50M" in world.host.mete("vm", "show", "v").stdout
    disk = world.host.mete_json("definition", "show", "v/disk0")
    assert disk["component"] == "block:images" and disk["configured"] and disk["amount"] == 50 * M
    events = [(e["event"], e["text"]) for e in world.host.events("v")]
    bound = next(i for i, (event, text) in enumerate(events) if event == "bound" and "disk 0" in text)
    runs = next(i for i, (event, _) in enumerate(events) if event == "initialised")
    assert bound < runs, "the guest ran before its disk was held to anything"
    assert any(event == "finalised" and "held to 50M bytes/s" in text for event, text in events)
    # the guest reads and writes it
    vm.check("dd if=/dev/urandom of=/tmp/a bs=64k count=4 && dd if=/tmp/a of=/dev/vda bs=64k oflag=direct && "
             "dd if=/dev/vda of=/tmp/b bs=64k count=4 iflag=direct && cmp /tmp/a /tmp/b")


def test_a_lease_adds_to_it(world, vm):
    app = App(vm, "disk")
    verdict = app.call("request", {"id": "a", "needs": ["block:100M"]})
    assert verdict["outcome"] == "granted", verdict
    assert vm.show()["disk_now_bytes"] == 150 * M
    assert held(world, vm) == limits(150)
    assert app.call("request", {"id": "b", "needs": ["block:30M", "cpu:1"]})["outcome"] == "granted"
    assert held(world, vm) == limits(180)
    # More than the definition ever allows; more than other leases leave.
    never = app.call("request", {"id": "c", "needs": ["block:151M"]})
    assert never["outcome"] == "never" and "lets it grow by 150M" in never["sentence"], never
    later = app.call("request", {"id": "d", "needs": ["block:50M"]})
    assert later["outcome"] == "not-now", later
    app.call("release", {"id": "a"})
    wait_for("the rate is back", lambda: vm.show()["disk_now_bytes"] == 80 * M)
    assert held(world, vm) == limits(80)
    app.call("release", {"id": "b"})
    wait_for("the rate is back", lambda: vm.show()["disk_now_bytes"] == 50 * M)
    assert vm.run("mete run --need block:64M -- true")[0] == 0
    wait_for("the rate is back", lambda: vm.show()["disk_now_bytes"] == 50 * M)
    assert held(world, vm) == limits(50)


def written(vm):
    """Bytes a second that the guest can write, by the clock of the host."""
    begun = time.monotonic()
    vm.check("dd if=/dev/zero of=/dev/vda bs=64k count=128 oflag=direct conv=notrunc")
    return 8 * M / (time.monotonic() - begun)


@pytest.mark.parametrize("vm", ["1M..300M"], indirect=True)
def test_the_rate_is_a_ceiling(world, vm):
    """Below it with it; above it with a lease that raises it: the same write, in the same guest."""
    assert written(vm) < 1.3 * M
    app = App(vm, "ceiling")
    assert app.call("request", {"id": "a", "needs": ["block:250M"]})["outcome"] == "granted"
    assert written(vm) > 1.3 * M
    app.call("release", {"id": "a"})
    wait_for("the rate is back", lambda: vm.show()["disk_now_bytes"] == 1 * M)
    assert written(vm) < 1.3 * M


def test_changed_behind_our_back(world, vm):
    """Noticed and repaired; also where somebody limits one direction beside it."""
    for changed in ({}, {"bps": 1000 * M}, {"bps": 50 * M, "iops": 1}, {"bps_wr": 50 * M}):
        since = world.host.last_event()
        with monitor(world.host, "v") as m:
            assert m.disk() == limits(50)
            m.set_disk(**changed)

        def news():
            return [e["event"] for e in world.host.events("v", after=since) if "disk 0" in e["text"]]
        wait_for("it is repaired", lambda: "repaired" in news(), 60, 0.1)
        assert news()[0] == "changed", news()
        assert "as it was granted" in world.host.mete("vm", "verify", "v").stdout
    assert held(world, vm) == limits(50)


def test_over_restarts(world, vm):
    """Of meted and of the keeper, with a lease: what was raised stays, nothing is reported as changed, and it is given back."""
    app, since = App(vm, "restart"), world.host.last_event()
    assert app.call("request", {"id": "a", "needs": ["block:100M"]})["outcome"] == "granted"
    world.host.kill_keeper()
    world.host.start_keeper()
    assert held(world, vm) == limits(150)
    assert "as it was granted" in world.host.mete("vm", "verify", "v").stdout
    assert not [e for e in world.host.events("v", after=since) if e["event"] == "changed"]
    app.call("release", {"id": "a"})
    wait_for("the rate is back", lambda: vm.show()["disk_now_bytes"] == 50 * M)
    assert held(world, vm) == limits(50)


def test_a_vmm_that_dies_with_a_lease(world, vm):
    app = App(vm, "dies")
    assert app.call("request", {"id": "a", "needs": ["block:100M"]})["outcome"] == "granted"
    os.kill(vm.pid(), signal.SIGKILL)
    wait_for("the VM is stopped", lambda: vm.show()["state"] == "stopped", 30, 0.05)
    world.host.wait_free(world.free)
    vm.start()  # and comes back
    assert held(world, vm) == limits(50)


def test_a_disk_of_which_nothing_is_said(world):
    """It gets what the host's configuration says, in the books and in the VMM."""
    v = world.host.vm("w", disk=make_disk(world.host, "w.raw"), memory="256M")
    try:
        assert v.show()["disk_now_bytes"] == 20 * M and "disk_rate_bytes" not in v.show()
        assert component(world)["free"] == 380 * M
        assert held(world, v) == limits(20)
    finally:
        v.kill()
        wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
        world.host.mete("vm", "delete", "w")
        del world.host.vms["w"]
    world.host.wait_free(world.free)


def test_no_room_for_another(world):
    world.host.mete("reserve", "r", "--need=block:380M")
    world.host.mete("vm", "create", "w", "--memory=128M", "--share=0.1", "--disk=v.raw", "--disk-rate=50M")
    try:
        p = world.host.mete("vm", "start", "w", check=False)
        assert p.returncode != 0 and "50M bytes/s for its disk are not free on this host, but 20M are" in p.stderr, p
    finally:
        world.host.mete("vm", "delete", "w")
        world.host.mete("unreserve", "r")
    world.host.wait_free(world.free)


def test_refused(world):
    for options, words in [(["--disk-rate=50M"], "needs a disk"), (["--disk=v.raw", "--disk-rate=1K"], "65536"),
                           (["--disk=v.raw", "--disk-rate=50M..10M"], "the second is less"),
                           (["--disk=v.raw", "--disk-rate=fast"], "--disk-rate"),
                           (["--disk=v.raw", "--disk-rate=2G"], "gives away")]:
        p = world.host.mete("vm", "create", "x", "--memory=128M", *options, check=False)
        assert p.returncode != 0 and words in p.stderr, p.stderr
    v = world.host.vm("u", memory="256M")  # without a disk
    try:
        verdict = App(v, "u").call("request", {"id": "a", "needs": ["block:10M"]})
        assert verdict["outcome"] == "never" and verdict["reason"] == "unsupported", verdict
        assert "has no disk" in verdict["sentence"]
    finally:
        v.kill()
        wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
        world.host.mete("vm", "delete", "u")
        del world.host.vms["u"]


def test_a_host_without_it():
    with Host(memory="1G") as host:
        assert "block:" not in host.mete("host", "show").stdout
        assert "no kind block" in host.mete("doctor", check=False).stdout
        make_disk(host, "x.raw")
        with pytest.raises(HostError, match="no kind block"):
            host.mete("vm", "create", "x", "--memory=128M", "--disk=x.raw", "--disk-rate=50M")
        v = host.vm("y", disk="x.raw", memory="256M")  # held to nothing
        assert "disk_now_bytes" not in v.show()
        assert disk_limits(host, "y") == (0, 0)

# SPDX-License-Identifier: Apache-2.0
"""VMs with a network card of their own: what is guaranteed to it, what a lease adds, and that nothing of it stays.

The keeper and its VMMs are in a network namespace with a bridge and an uplink of 1 Gbit/s.
"""
import os
import re
import signal

import pytest
from app import App
from host import Host, HostError, wait_for
from netns import CannotRun, Network

M = 1000000


class World:
    def __init__(self, net, host):
        self.net, self.host = net, host
        self.bare = net.state()
        self.free = host.free()

    def rate(self, tap=0):
        """(guarantee, ceiling) of a VM on the uplink, as the kernel has it."""
        return self.net.classes("up0").get(f"4d45:{0x1000 + tap:x}")


@pytest.fixture(scope="module")
def world():
    try:
        with Network() as net, Host(memory="2G", extra="retry=100ms\n", net=net) as host:
            yield World(net, host)
    except CannotRun as e:
        pytest.skip(str(e))


@pytest.fixture
def vm(world):
    v = world.host.vm("v", net="lan:200M..600M")
    yield v
    if v.show()["state"] != "stopped":
        v.kill()
    wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
    world.host.mete("vm", "delete", "v")
    del world.host.vms["v"]
    world.host.wait_free(world.free)
    assert world.net.state() == world.bare


def component(world):
    return next(c for c in world.host.mete_json("host", "show")["components"] if c["kind"] == "net")


def test_what_there_is(world):
    c = component(world)
    assert (c["id"], c["capacity"], c["unit"]) == ("net:up0", 980 * M, "bits per second") and "mete.conf" in c["source"]
    assert "net:up0" in world.host.mete("doctor", check=False).stdout
    assert re.search(r"net:up0 +0 +980M +0 +980M", world.host.mete("ledger").stdout)


def test_two_configurations_that_differ(world):
    """mete.conf gives away what the keeper does not have: that is said."""
    def lines():
        return [f for f in world.host.mete_json("host", "show")["fallbacks"] if "mete.conf gives" in f]
    assert lines() == []
    world.net.rate = "2G"
    try:
        world.host.kill_meted(signal.SIGTERM)
        world.host.write_config()
        world.host.start_meted()
        wait_for("the keeper was asked", lines)
        assert lines() == ["the keeper holds 1000 Mbit/s of up0, and mete.conf gives 2000 away"]
    finally:
        world.net.rate = "1G"
        world.host.kill_meted(signal.SIGTERM)
        world.host.write_config()
        world.host.start_meted()


def test_a_rate_that_is_changed_by_hand_is_made_again_what_was_granted(world, vm):
    before = world.net.state()
    name, (rate, ceiling) = next((c, r) for c, r in world.net.classes("up0").items() if r == ("200Mbit", "600Mbit"))
    parent = re.search(rf"class htb {name} parent (\S+)", world.net.run("tc", "class", "show", "dev", "up0")).group(1)
    world.net.run("tc", "class", "change", "dev", "up0", "parent", parent, "classid", name, "htb", "rate", "10mbit",
                  "ceil", "10mbit")
    assert world.rate() == ("10Mbit", "10Mbit")
    assert "as it was granted" in world.host.mete("vm", "verify", "v").stdout
    assert world.rate() == (rate, ceiling) and world.net.state() == before
    events = [e["event"] for e in world.host.events("v") if "nic 0" in e["text"]]
    assert events[-2:] == ["changed", "repaired"]


def test_from_start_to_end(world, vm):
    """The card works, is guaranteed its rate, and is in the books."""
    assert world.rate() == ("200Mbit", "600Mbit")
    assert component(world)["free"] == 780 * M
    shown = vm.show()
    assert (shown["network"], shown["net_rate_bps"], shown["net_ceiling_bps"], shown["net_now_bps"]) == (
        "lan", 200 * M, 600 * M, 200 * M)
    assert "lan, 200M bit/s guaranteed, 600M at most, now 200M" in world.host.mete("vm", "show", "v").stdout
    nic = world.host.mete_json("definition", "show", "v/nic0")
    assert nic["component"] == "net:up0" and nic["configured"] and nic["amount"] == 200 * M
    text = " ".join(e["text"] for e in world.host.events("v") if e["event"] == "finalised")
    assert "200M of net:up0" in text and "600M at most" in text
    # The guest sees the card with the address of its definition, and the world sees what it sends.
    vm.check("ip link set eth0 up && ip addr add 10.9.9.2/24 dev eth0")
    assert shown["mac"] in vm.check("cat /sys/class/net/eth0/address")
    world.net.run("ip", "addr", "add", "10.9.9.1/24", "dev", "up1")
    try:
        vm.check("ping -c 2 -W 5 10.9.9.1")
    finally:
        world.net.run("ip", "addr", "del", "10.9.9.1/24", "dev", "up1")


def test_a_lease_adds_to_it(world, vm):
    app = App(vm, "net")
    verdict = app.call("request", {"id": "a", "needs": ["net:200M"]})
    assert verdict["outcome"] == "granted", verdict
    assert world.rate() == ("400Mbit", "600Mbit") and vm.show()["net_now_bps"] == 400 * M
    assert app.call("request", {"id": "b", "needs": ["net:100M", "cpu:1"]})["outcome"] == "granted"
    assert world.rate() == ("500Mbit", "600Mbit")
    # More than the definition ever allows; more than other leases leave; less instead.
    never = app.call("request", {"id": "c", "needs": ["net:401M"]})
    assert never["outcome"] == "never" and "lets it grow by 400M" in never["sentence"], never
    later = app.call("request", {"id": "d", "needs": ["net:200M"]})
    assert later["outcome"] == "not-now", later
    assert world.rate() == ("500Mbit", "600Mbit")
    app.call("release", {"id": "a"})
    wait_for("the rate is back", lambda: world.rate() == ("300Mbit", "600Mbit"))
    app.call("release", {"id": "b"})
    wait_for("the rate is back", lambda: world.rate() == ("200Mbit", "600Mbit"))
    assert vm.run("mete run --need net:64M -- true")[0] == 0
    wait_for("the rate is back", lambda: world.rate() == ("200Mbit", "600Mbit"))


def test_over_restarts(world, vm):
    """Of meted, and of the keeper, with a lease: what the kernel holds stays, and is given back all the same."""
    app = App(vm, "restart")
    assert app.call("request", {"id": "a", "needs": ["net:100M"]})["outcome"] == "granted"
    held = world.net.state()
    world.host.kill_keeper()
    world.host.start_keeper()
    world.host.kill_meted()
    world.host.start_meted()
    wait_for("the agent is back", lambda: vm.show().get("agent"), 60, 0.05)
    assert world.net.state() == held and vm.show()["net_now_bps"] == 300 * M
    app.call("release", {"id": "a"})
    wait_for("the rate is back", lambda: world.rate() == ("200Mbit", "600Mbit"))


def test_changed_behind_our_back(world, vm):
    """Noticed and repaired; what cannot be repaired is said."""
    held = world.net.state()
    world.net.run("tc", "class", "change", "dev", "up0", "classid", "4d45:1000", "htb", "rate", "1mbit", "ceil", "600mbit")
    assert world.rate() == ("1Mbit", "600Mbit")
    world.host.mete("vm", "verify", "v", check=False)
    wait_for("it is repaired", lambda: world.net.state() == held)
    world.net.run("ip", "link", "del", "mete-0i")
    world.host.mete("vm", "verify", "v", check=False)
    wait_for("it is repaired", lambda: world.net.state() == held)
    world.net.run("ip", "link", "del", "mete-0")
    p = world.host.mete("vm", "verify", "v", check=False)
    assert "mete-0" in p.stdout + p.stderr, p


def test_a_vmm_that_dies_with_a_lease(world, vm):
    app = App(vm, "dies")
    assert app.call("request", {"id": "a", "needs": ["net:100M"]})["outcome"] == "granted"
    os.kill(vm.pid(), signal.SIGKILL)
    wait_for("the VM is stopped", lambda: vm.show()["state"] == "stopped", 30, 0.05)
    world.host.wait_free(world.free)
    assert world.net.state() == world.bare
    vm.start()  # and comes back
    assert world.rate() == ("200Mbit", "600Mbit")


def test_no_room_for_another(world, vm):
    world.host.mete("vm", "create", "w", "--memory=128M", "--share=0.1", "--net=lan:800M")
    try:
        p = world.host.mete("vm", "start", "w", check=False)
        assert p.returncode != 0 and "800M bit/s for its network card are not free" in p.stderr, p.stderr
        r = world.host.mete("reserve", "r", "--need=net:500M")
        assert "granted" in r.stdout and component(world)["free"] == 280 * M
        world.host.mete("unreserve", "r")
    finally:
        world.host.mete("vm", "delete", "w")


def test_refused(world):
    for options, words in [(["--net=wan:200M"], "there is no network \"wan\" here, but \"lan\""),
                           (["--net=lan"], "NETWORK:RATE is wanted"), (["--net=lan:1K"], "64000"),
                           (["--net=lan:200M..100M"], "the second is less"), (["--net=lan:2G"], "gives away")]:
        p = world.host.mete("vm", "create", "x", "--memory=128M", *options, check=False)
        assert p.returncode != 0 and words in p.stderr, p.stderr
    v = world.host.vm("u", memory="256M")  # without a card
    try:
        verdict = App(v, "u").call("request", {"id": "a", "needs": ["net:100M"]})
        assert verdict["outcome"] == "never" and verdict["reason"] == "unsupported", verdict
        assert "no network card of its own" in verdict["sentence"]
    finally:
        v.kill()
        world.host.mete("vm", "delete", "u")
        del world.host.vms["u"]


def test_a_host_without_it():
    with Host(memory="1G") as host:
        assert "net:" not in host.mete("host", "show").stdout
        assert "no kind net" in host.mete("doctor", check=False).stdout
        with pytest.raises(HostError, match="no kind net"):
            host.mete("vm", "create", "x", "--memory=128M", "--net=lan:200M")

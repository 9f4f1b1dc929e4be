# SPDX-License-Identifier: Apache-2.0
"""The keeper's side of network cards on a real kernel, in a network namespace: taps, rates, and no trace of them."""
import glob
import json
import os
import signal
import socket

import pytest

from test_keeper import QEMU, Keeper, refused, start_qemu, told, wait_for
from netns import CannotRun, Network  # noqa: E402  test_keeper knows where it is

M = 1000000


@pytest.fixture
def net():
    try:
        with Network() as n:
            yield n
    except CannotRun as e:
        pytest.skip(str(e))


@pytest.fixture
def keeper(net):
    bare = net.state()
    k = Keeper(extra=net.config(), prefix=net.prefix)
    yield k
    assert k.close() == []
    assert net.state() == bare  # the uplink's queueing discipline went with the keeper


def nic(vm, item, rate=None, ceiling=None, activation=1):
    p = {"activation": activation, "vm": vm, "item": item, "kind": "net"}
    if rate:
        p["rate_bps"] = rate
    if ceiling:
        p["ceiling_bps"] = ceiling
    return p


def hold(keeper, vm, item, rate, ceiling=None):
    return keeper.call("host-activate", nic(vm, item, rate, ceiling))


def let_go(keeper, vm, item):
    return keeper.call("host-deactivate", nic(vm, item))


def read(keeper, vm, item):
    return keeper.call("host-read", nic(vm, item))


def start_with_nic(keeper, vm="v", slot=0):
    if os.path.exists(f"{keeper.dir}/{vm}.qmp"):
        os.unlink(f"{keeper.dir}/{vm}.qmp")
    return start_qemu(keeper, vm, slot, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S", "-netdev",
                      "tap,id=net0,fd=@TAP@", "-device", "virtio-net-pci,netdev=net0,romfile=")


def taps(net):
    return [l for l in net.links() if l.startswith("mete-")]


def test_hello_says_what_there_is(keeper):
    info = keeper.call("hello", {"version": 1})
    assert info["net_uplink"] == "up0" and info["net_rate_bps"] == 1000 * M
    assert not any("bit/s" in f or "guaranteed" in f for f in info.get("fallbacks", []))


def test_the_whole_way(keeper, net):
    before = net.state()
    for _ in range(2):
        assert hold(keeper, "v", "nic0", 200 * M, 400 * M)["held_by"] == "htb"
        assert taps(net) == ["mete-0", "mete-0i"]
    assert net.classes("mete-0")["4d46:2"] == ("200Mbit", "400Mbit")
    assert net.classes("mete-0i")["4d47:2"] == ("200Mbit", "400Mbit")
    assert net.classes("up0")["4d45:1000"] == ("200Mbit", "400Mbit")
    live = read(keeper, "v", "nic0")
    assert (live["rate_bps"], live["vm_rate_bps"], live["ceiling_bps"]) == (200 * M, 200 * M, 400 * M)
    # another item of the same VM adds to it
    held = net.state()
    for _ in range(2):
        hold(keeper, "v", "nic1", 100 * M, 400 * M)
        assert net.classes("up0")["4d45:1000"] == ("300Mbit", "400Mbit")
    assert read(keeper, "v", "nic1")["rate_bps"] == 100 * M
    assert read(keeper, "v", "nic0")["vm_rate_bps"] == 300 * M
    # another VM has another tap
    hold(keeper, "w", "nic0", 100 * M)
    assert net.classes("up0")["4d45:1001"] == ("100Mbit", "1Gbit")
    for _ in range(2):
        let_go(keeper, "w", "nic0")
    for _ in range(2):
        let_go(keeper, "v", "nic1")
    assert net.state() == held
    refused("not-found", read, keeper, "v", "nic1")
    for _ in range(2):
        let_go(keeper, "v", "nic0")
    assert net.state() == before
    refused("not-found", read, keeper, "v", "nic0")


def test_a_vmm_takes_the_tap_and_it_goes_with_it(keeper, net):
    before = net.state()
    hold(keeper, "v", "nic0", 200 * M)
    pid, qmp = start_with_nic(keeper)
    held = [os.readlink(p) for p in glob.glob(f"/proc/{pid}/fd/*")]
    assert held.count("/dev/net/tun") == 1
    assert "/dev/net/tun" not in [os.readlink(p) for p in glob.glob(f"/proc/{keeper.process.pid}/fd/*")]
    assert len(qmp.run("query-rx-filter")) == 1
    # A second descriptor of it cannot be had.
    refused("busy", keeper.start_vmm, "v", [QEMU, "-netdev", "tap,id=n,fd=@TAP@"])
    hold(keeper, "v", "nic1", 100 * M)  # while it runs
    assert net.classes("up0")["4d45:1000"][0] == "300Mbit"
    os.kill(pid, signal.SIGKILL)
    wait_for("v is gone", lambda: not keeper.vmms())
    wait_for("its tap is gone", lambda: "mete-0" not in taps(net))
    # Its successor gets another one, with the same rates.
    pid, _ = start_with_nic(keeper)
    assert net.classes("mete-0")["4d46:2"][0] == "300Mbit"
    keeper.call("vmm-kill", {"vm": "v"})
    let_go(keeper, "v", "nic1")  # its tap is gone
    let_go(keeper, "v", "nic0")
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before


def test_a_drop_takes_all(keeper, net):
    before = net.state()
    hold(keeper, "v", "nic0", 200 * M)
    hold(keeper, "v", "nic1", 200 * M)
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before
    assert os.listdir(f"{keeper.run}/nic") == []


def test_a_drop_leaves_what_is_to_be_kept(keeper, net):
    """For the VM's next run: what its card is guaranteed stays, without a tap, which went with the VMM."""
    before = net.state()
    hold(keeper, "v", "nic0", 200 * M, 600 * M)
    hold(keeper, "v", "nic1", 100 * M, 600 * M)
    start_with_nic(keeper)
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v", "keep": ["nic0"]})
    # The rest of a rate is not held for a card that is not there, but what is kept is known.
    assert "mete-0" not in taps(net)
    refused("not-found", read, keeper, "v", "nic1")
    start_with_nic(keeper)
    assert net.classes("up0")["4d45:1000"] == ("200Mbit", "600Mbit")
    assert read(keeper, "v", "nic0")["vm_rate_bps"] == 200 * M
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before


def test_over_restarts_of_the_keeper(keeper, net):
    """What no VMM has yet is made anew; what one has goes on."""
    before = net.state()
    hold(keeper, "v", "nic0", 200 * M, 300 * M)
    hold(keeper, "w", "nic0", 100 * M)
    start_with_nic(keeper, "w", 1)
    whole = net.state()
    keeper.process.kill()
    keeper.process.wait()
    assert "mete-0" not in taps(net) and "mete-1" in taps(net)
    keeper.start()
    assert read(keeper, "w", "nic0")["rate_bps"] == 100 * M
    refused("stale", read, keeper, "v", "nic0")  # there is no tap
    hold(keeper, "v", "nic0", 200 * M, 300 * M)
    assert net.state() == whole
    # The other way on: a VMM that starts, without the call being repeated.
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    start_with_nic(keeper, "v", 0)
    assert net.state() == whole
    # A keeper that ends in order leaves VMs what they have.
    keeper.process.terminate()
    assert keeper.process.wait(10) == 0
    assert net.state() == whole
    keeper.start()
    for vm in "vw":
        keeper.call("vmm-kill", {"vm": vm})
        let_go(keeper, vm, "nic0")
        keeper.call("vm-drop", {"vm": vm})
    assert net.state() == before


def test_a_crash_in_between(keeper, net):
    """A keeper that died behind its record, and one that died before it wrote what is there no longer."""
    before = net.state()
    record = f"{keeper.run}/nic/v.json"
    with open(record, "w") as f:
        f.write('{"vm":"v","tap":0,"items":{"nic0":{"rate_bps":200000000,"ceiling_bps":0}}}')
    let_go(keeper, "v", "nic0")
    assert net.state() == before and not os.path.exists(record)
    hold(keeper, "v", "nic0", 200 * M)
    with open(record) as f:
        text = f.read()
    let_go(keeper, "v", "nic0")
    with open(record, "w") as f:
        f.write(text)
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before and not os.path.exists(record)


def test_never_more_than_there_is(keeper, net):
    before = net.state()
    hold(keeper, "v", "nic0", 600 * M)
    hold(keeper, "w", "nic0", 100 * M)
    held = net.state()
    e = refused("no-capacity", hold, keeper, "w", "nic1", 290 * M)
    assert "guaranteed already" in e.message
    assert net.state() == held and read(keeper, "w", "nic0")["vm_rate_bps"] == 100 * M
    refused("no-capacity", hold, keeper, "x", "nic0", 300 * M)
    assert net.state() == held
    refused("not-found", read, keeper, "x", "nic0")
    hold(keeper, "x", "nic0", 280 * M)  # all of it but the rest's fiftieth
    for vm in "vwx":
        let_go(keeper, vm, "nic0")
    assert net.state() == before


def test_changed_behind_our_back(keeper, net):
    hold(keeper, "v", "nic0", 200 * M, 400 * M)
    net.run("tc", "class", "change", "dev", "up0", "classid", "4d45:1000", "htb", "rate", "1mbit", "ceil", "400mbit")
    assert "behind our back" in refused("stale", read, keeper, "v", "nic0").message
    hold(keeper, "v", "nic0", 200 * M, 400 * M)
    assert read(keeper, "v", "nic0")["vm_rate_bps"] == 200 * M
    net.run("ip", "link", "del", "mete-0i")
    refused("stale", read, keeper, "v", "nic0")
    let_go(keeper, "v", "nic0")


def test_bad_input(keeper, net):
    before = net.state()
    for params, words in [(nic("v", "nic0"), "rate_bps"), (nic("v", "nic0", 63999), "rate_bps"),
                          ({**nic("v", "nic0", 200 * M), "bytes": 1}, "bytes"),
                          ({**nic("v", "nic0", 200 * M), "cpus": [0]}, "cpus"),
                          ({**nic("v", "nic0", 200 * M), "kind": "cpu", "cpus": [0]}, "rate_bps"),
                          ({**nic("v", "nic0", 200 * M), "kind": "memory", "bytes": 1}, "rate_bps")]:
        assert words in refused("invalid", keeper.call, "host-activate", params).message
    refused("no-capacity", hold, keeper, "v", "nic0", 2000 * M)
    refused("invalid", keeper.call, "host-bind", {**nic("v", "nic0"), "tid": os.getpid()})
    refused("not-found", keeper.start_vmm, "v", [QEMU, "-netdev", "tap,id=n,fd=@TAP@"])
    assert net.state() == before


# Makes the tap that it was given persistent, and ends.
PERSIST = """#!/usr/bin/python3 -I
import fcntl, re, sys
fd = int(re.search("fd=([0-9]+)", sys.argv[-1]).group(1))
fcntl.ioctl(fd, 0x400454cb, 1)
print("done", flush=True)
"""


def test_a_card_is_not_taken_from_a_vmm_that_runs(keeper, net):
    before = net.state()
    hold(keeper, "v", "nic0", 200 * M)
    start_with_nic(keeper)
    running = net.state()
    assert "end it first" in refused("busy", let_go, keeper, "v", "nic0").message
    assert net.state() == running and read(keeper, "v", "nic0")["vm_rate_bps"] == 200 * M
    # What somebody else took from it is not made again under its feet: its card would stay dead.
    net.run("ip", "link", "del", "mete-0")
    assert "runs without the tap" in refused("busy", hold, keeper, "v", "nic0", 200 * M).message
    refused("stale", read, keeper, "v", "nic0")
    keeper.call("vmm-kill", {"vm": "v"})
    start_with_nic(keeper)
    assert net.state() == running
    keeper.call("vmm-kill", {"vm": "v"})
    let_go(keeper, "v", "nic0")
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before


def test_a_tap_that_a_vmm_left_behind(keeper, net):
    before = net.state()
    script = keeper.file("absent", PERSIST.encode(), 0o755)  # which is among the programs
    hold(keeper, "v", "nic0", 200 * M)
    keeper.start_vmm("v", [script, "-netdev", "tap,fd=@TAP@"])
    wait_for("v has ended", lambda: not keeper.vmms())
    assert "mete-0" in taps(net)
    start_with_nic(keeper)
    assert net.classes("mete-0")["4d46:2"][0] == "200Mbit"
    keeper.call("vmm-kill", {"vm": "v"})
    assert "mete-0" not in taps(net)
    keeper.start_vmm("v", [script, "-netdev", "tap,fd=@TAP@"])
    wait_for("v has ended", lambda: not keeper.vmms())
    let_go(keeper, "v", "nic0")
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before


# Gives its tap the lowest address that there is.
ADDRESS = """#!/usr/bin/python3 -I
import fcntl, re, struct, sys, time
fd = int(re.search("fd=([0-9]+)", sys.argv[-1]).group(1))
fcntl.ioctl(fd, 0x8924, struct.pack("16sH6s16x", b"", 1, b"\\0\\0\\0\\0\\0\\1"))
print("done", flush=True)
time.sleep(600)
"""


def test_a_vmm_cannot_change_the_address_of_the_bridge(keeper, net):
    script = keeper.file("absent", ADDRESS.encode(), 0o755)  # which is among the programs
    before = net.run("ip", "-o", "link", "show", "br0")
    hold(keeper, "v", "nic0", 200 * M)
    keeper.start_vmm("v", [script, "-netdev", "tap,fd=@TAP@"])
    wait_for("it has another address", lambda: "link/ether 00:00:00:00:00:01" in net.run("ip", "-o", "link", "show", "mete-0"))
    assert net.run("ip", "-o", "link", "show", "br0") == before
    keeper.end_vmm("v")


def test_a_start_and_the_end_of_its_card_at_once(keeper, net):
    """Whichever is first: never does a VMM get another descriptor than that of its tap, and that is there."""
    before = net.state()
    for _ in range(20):
        hold(keeper, "v", "nic0", 200 * M)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.connect(keeper.sock)
            s.sendall(b"".join(json.dumps({"jsonrpc": "2.0", "id": i, "method": method, "params": params}).encode() + b"\n"
                               for i, (method, params) in enumerate([
                                   ("host-deactivate", nic("v", "nic0")),
                                   ("vmm-start", {"vm": "v", "slot": 0, "fds": 0, "memory_bytes": 0,
                                                  "argv": [keeper.scripts["tell"], "-netdev", "tap,fd=@TAP@"]})])))
            with s.makefile() as f:
                answers = {a["id"]: a for a in (json.loads(f.readline()) for _ in range(2))}
        assert ("result" in answers[0]) != ("result" in answers[1]), answers
        if "result" in answers[1]:
            assert told(keeper, "v")["fds"]["3"] == "/dev/net/tun"
            assert read(keeper, "v", "nic0")["rate_bps"] == 200 * M
            keeper.call("vmm-kill", {"vm": "v"})
            let_go(keeper, "v", "nic0")
        keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before


def test_a_start_that_fails_leaves_the_tap_for_the_next(keeper, net):
    hold(keeper, "v", "nic0", 200 * M)
    held = net.state()
    refused("internal", keeper.start_vmm, "v", [f"{keeper.dir}/absent", "-netdev", "tap,fd=@TAP@"])
    assert net.state() == held and read(keeper, "v", "nic0")["rate_bps"] == 200 * M
    refused("denied", keeper.start_vmm, "v", [keeper.scripts["tell"], "-add-fd", "set=1,fd=@TAP@"])
    start_with_nic(keeper)
    assert net.state() == held
    keeper.end_vmm("v")


def test_without_an_uplink_nothing_that_is_held_is_lost(keeper, net):
    before = net.state()
    hold(keeper, "v", "nic0", 200 * M, 400 * M)
    hold(keeper, "v", "nic1", 100 * M, 400 * M)
    start_with_nic(keeper)
    held = net.state()
    net.run("ip", "link", "set", "up0", "name", "up9")
    assert "the uplink" in refused("not-found", let_go, keeper, "v", "nic1").message
    assert net.classes("mete-0")["4d46:2"] == net.classes("mete-0i")["4d47:2"] == ("300Mbit", "400Mbit")
    net.run("ip", "link", "set", "up9", "name", "up0")
    assert net.state() == held and read(keeper, "v", "nic1")["vm_rate_bps"] == 300 * M
    let_go(keeper, "v", "nic1")
    assert net.classes("mete-0")["4d46:2"] == net.classes("up0")["4d45:1000"] == ("200Mbit", "400Mbit")
    # What has ended is removed without an uplink, too.
    keeper.call("vmm-kill", {"vm": "v"})
    net.run("ip", "link", "set", "up0", "name", "up9")
    keeper.call("vm-drop", {"vm": "v"})
    net.run("ip", "link", "set", "up9", "name", "up0")
    hold(keeper, "v", "nic0", 200 * M)
    let_go(keeper, "v", "nic0")
    assert net.state() == before


def test_a_lost_uplink_is_made_again_with_all_that_is_promised(keeper, net):
    before = net.state()
    hold(keeper, "v", "nic0", 600 * M)
    start_with_nic(keeper)
    hold(keeper, "w", "nic0", 100 * M)
    hold(keeper, "w", "nic1", 50 * M)
    held = net.state()
    for how in ("qdisc", "interface", "keeper"):
        if how == "keeper":
            keeper.process.kill()
            keeper.process.wait()
        if how == "interface":
            for command in ("ip link del up0", "ip link add up0 type veth peer name up1", "ip link set up1 up"):
                net.run(*command.split())
            # Back, but not behind the bridge: nothing can be guaranteed, and nothing is lost by asking.
            assert "no port of the bridge" in refused("unsupported", hold, keeper, "w", "nic1", 50 * M).message
            net.run("ip", "link", "set", "up0", "master", "br0", "up")
        else:
            net.run("tc", "qdisc", "del", "dev", "up0", "root")
        if how == "keeper":
            keeper.start()
            assert net.classes("up0")["4d45:1000"][0] == "600Mbit"  # by itself
            assert read(keeper, "v", "nic0")["vm_rate_bps"] == 600 * M
            hold(keeper, "w", "nic1", 50 * M)
        else:
            refused("stale", read, keeper, "v", "nic0")
            let_go(keeper, "w", "nic1")  # neither the last nor the VM that is looked at
            assert read(keeper, "v", "nic0")["vm_rate_bps"] == 600 * M
            hold(keeper, "w", "nic1", 50 * M)
        assert net.state() == held, how
    for vm in "vw":
        keeper.call("vmm-kill", {"vm": vm})
        keeper.call("vm-drop", {"vm": vm})
    assert net.state() == before


def test_what_is_promised_counts_without_a_class(keeper, net):
    """A VM that is down, whose card is kept for its next run, has no class; its guarantee is not sold twice."""
    before = net.state()
    hold(keeper, "v", "nic0", 600 * M)
    start_with_nic(keeper)
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v", "keep": ["nic0"]})
    net.run("tc", "class", "del", "dev", "up0", "classid", "4d45:1000")
    assert "guaranteed already" in refused("no-capacity", hold, keeper, "w", "nic0", 500 * M).message
    assert taps(net) == [l for l in taps(net) if l == "mete-0i"] and not os.path.exists(f"{keeper.run}/nic/w.json")
    start_with_nic(keeper)
    assert read(keeper, "v", "nic0")["vm_rate_bps"] == 600 * M
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v"})
    assert net.state() == before


def test_ceilings_of_items(keeper, net):
    before = net.state()
    assert "below the rate" in refused("invalid", hold, keeper, "v", "nic0", 100 * M, 50 * M).message
    assert net.state() == before
    hold(keeper, "v", "nic0", 200 * M, 400 * M)
    held = net.state()
    assert "below the rate" in refused("invalid", hold, keeper, "v", "nic1", 201 * M, 400 * M).message
    assert net.state() == held
    hold(keeper, "v", "nic1", 50 * M, 300 * M)
    assert net.classes("mete-0")["4d46:2"] == ("250Mbit", "300Mbit")
    hold(keeper, "v", "nic2", 50 * M)  # which limits nothing
    assert net.classes("mete-0")["4d46:2"] == ("300Mbit", "300Mbit")
    for item in ("nic1", "nic2"):
        let_go(keeper, "v", item)
    assert net.state() == held  # each took its own with it
    let_go(keeper, "v", "nic0")
    assert net.state() == before


def test_nobody_elses_tap(keeper, net):
    """An interface of our name that is not ours is left alone."""
    net.run("ip", "link", "add", "mete-0", "type", "bridge")
    hold(keeper, "v", "nic0", 200 * M)
    assert taps(net) == ["mete-0", "mete-1", "mete-1i"]
    let_go(keeper, "v", "nic0")
    assert taps(net) == ["mete-0"]
    net.run("ip", "link", "del", "mete-0")


def test_a_network_that_comes_later(net):
    """The bridge is not there at the keeper's start: said so, and tried again."""
    net.run("ip", "link", "set", "br0", "name", "br1")
    k = Keeper(extra=net.config(), prefix=net.prefix)
    try:
        info = k.call("hello", {"version": 1})
        assert "net_uplink" not in info and any("no bridge br0" in f for f in info["fallbacks"])
        assert "br0" in refused("not-found", hold, k, "v", "nic0", 200 * M).message
        net.run("ip", "link", "set", "br1", "name", "br0")
        hold(k, "v", "nic0", 200 * M)
        let_go(k, "v", "nic0")
        assert k.call("hello", {"version": 1})["net_uplink"] == "up0"
    finally:
        assert k.close() == []


def test_somebody_elses_queueing_discipline_is_not_replaced(net):
    net.run("tc", "qdisc", "add", "dev", "up0", "root", "handle", "7:", "tbf", "rate", "1gbit", "burst", "100k", "limit", "1m")
    bare = net.state()
    k = Keeper(extra=net.config(), prefix=net.prefix)
    try:
        assert "not of mete" in refused("policy", hold, k, "v", "nic0", 200 * M).message
    finally:
        assert k.close() == []
    assert net.state() == bare


def test_unmanaged():
    k = Keeper()
    try:
        info = k.call("hello", {"version": 1})
        assert "net_uplink" not in info and not any("net" in f for f in info.get("fallbacks", []))
        assert "manage=yes" in refused("unsupported", hold, k, "v", "nic0", 200 * M).message
        refused("not-found", read, k, "v", "nic0")
        let_go(k, "v", "nic0")
    finally:
        assert k.close() == []


def test_told_which_number_its_tap_has(keeper, net):
    hold(keeper, "v", "nic0", 200 * M)
    r, w = os.pipe()
    keeper.start_vmm("v", [keeper.scripts["tell"], "-netdev", "tap,fd=@TAP@"], 0, [r])
    for fd in (r, w):
        os.close(fd)
    said = told(keeper, "v")
    assert said["argv"][-1] == "tap,fd=4" and said["fds"]["4"] == "/dev/net/tun"
    keeper.end_vmm("v")
    assert taps(net) == []

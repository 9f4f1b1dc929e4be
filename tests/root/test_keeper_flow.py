# SPDX-License-Identifier: Apache-2.0
"""move-hold and move-drop: what a move was reserved of the link is a class of the uplink for its stream alone, and goes with it."""
import ctypes
import os
import re
import socket
import threading

import pytest

from test_keeper import Keeper, refused, start_qemu, wait_for
from netns import CannotRun, Network  # noqa: E402  test_keeper knows where it is

M = 1000000
CLASS = "4d45:12"  # the first: 0x10 and purpose 2
CLONE_NEWNET = 0x40000000


def in_namespace(net, make):
    """What make() gives in a thread that has entered it."""
    got = []

    def run():
        with open(f"/proc/{net.holder.pid}/ns/net") as f:
            assert ctypes.CDLL(None, use_errno=True).setns(f.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        got.append(make())
    t = threading.Thread(target=run)
    t.start()
    t.join()
    return got[0]


def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("10.9.9.1", 9))  # nobody answers there, and nobody is asked who it is
    return s


@pytest.fixture
def net():
    try:
        with Network() as n:
            n.run("ip", "addr", "add", "10.9.9.2/24", "dev", "br0")
            yield n
    except CannotRun as e:
        pytest.skip(str(e))


@pytest.fixture
def keeper(net):
    bare = net.state()
    k = Keeper(extra=net.config(), prefix=net.prefix)
    yield k
    assert k.close() == []
    assert net.state() == bare


@pytest.fixture
def vm(keeper):
    start_qemu(keeper, "v", 0, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
    return "v"


def hold(keeper, vm, rate, ceiling=None, fds=()):
    p = {"vm": vm, "rate_bps": rate, "fds": len(fds)}
    if ceiling:
        p["ceiling_bps"] = ceiling
    return keeper.call("move-hold", p, list(fds))


def drop(keeper, vm):
    return keeper.call("move-drop", {"vm": vm})


def send(net, stream, n=100):
    # each time, as a keeper that starts sets the address of the bridge, and with that the kernel forgets its neighbours
    net.run("ip", "neigh", "replace", "10.9.9.1", "lladdr", "02:00:00:00:00:09", "dev", "br0")
    for _ in range(n):
        stream.send(bytes(1000))


def sent(net, name):
    return int(re.search(rf"class htb {name} .*?\n Sent (\d+) bytes", net.run("tc", "-s", "class", "show", "dev", "up0")).group(1))


def test_a_stream_has_its_class_and_nobody_else(keeper, net, vm):
    before = net.state()
    with in_namespace(net, datagrams) as stream, in_namespace(net, datagrams) as other:
        for _ in range(2):
            assert hold(keeper, vm, 600 * M, fds=[stream.fileno()]) == {"held_by": "htb"}
            assert net.classes("up0")[CLASS] == ("600Mbit", "1Gbit")
        rest = sent(net, "4d45:2")
        send(net, stream)
        wait_for("it went through its class", lambda: sent(net, CLASS) >= 100000)
        assert sent(net, "4d45:2") < rest + 50000
        send(net, other)
        wait_for("the other went with the rest", lambda: sent(net, "4d45:2") >= rest + 100000)
        assert sent(net, CLASS) < 200000
        # It gets more, while it runs, without its socket.
        assert hold(keeper, vm, 700 * M, 800 * M) == {"held_by": "htb"}
        assert net.classes("up0")[CLASS] == ("700Mbit", "800Mbit")
        assert 100000 <= drop(keeper, vm)["sent_bytes"] < 200000
        assert net.state() == before and os.listdir(f"{keeper.run}/flow") == []
        assert drop(keeper, vm) == {}
        refused("not-found", hold, keeper, vm, 600 * M)  # nothing is marked
        rest = sent(net, "4d45:2")
        send(net, stream)  # it goes on, with the rest
        wait_for("it went with the rest", lambda: sent(net, "4d45:2") >= rest + 100000)


def test_never_more_than_there_is(keeper, net, vm):
    """Moves and VMs are promised parts of the same link."""
    with in_namespace(net, datagrams) as stream:
        hold(keeper, vm, 600 * M, fds=[stream.fileno()])
        held = net.state()
        nic = {"activation": 1, "vm": "w", "item": "nic0", "kind": "net"}
        assert "guaranteed already" in refused("no-capacity", keeper.call, "host-activate", {**nic, "rate_bps": 400 * M}).message
        assert net.state() == held
        keeper.call("host-activate", {**nic, "rate_bps": 300 * M})
        held = net.state()
        refused("no-capacity", hold, keeper, vm, 700 * M)
        refused("no-capacity", hold, keeper, vm, 2000 * M, None, [stream.fileno()])
        assert net.state() == held
        hold(keeper, vm, 680 * M)
        keeper.call("host-deactivate", nic)
        drop(keeper, vm)


@pytest.mark.parametrize("end", ["kill", "death", "drop"])
def test_it_goes_with_the_vmm(keeper, net, vm, end):
    before = net.state()
    with in_namespace(net, datagrams) as stream:
        hold(keeper, vm, 600 * M, fds=[stream.fileno()])
        assert CLASS in net.classes("up0")
        if end == "death":
            os.kill(keeper.vmms()["v"], 9)
        else:
            keeper.call("vmm-kill", {"vm": vm})
        if end == "drop":
            keeper.call("vm-drop", {"vm": vm})
        wait_for("its class is gone", lambda: net.state() == before)
        assert os.listdir(f"{keeper.run}/flow") == []


def test_over_restarts_of_the_keeper(keeper, net, vm):
    """It goes on, is made again where it was taken away meanwhile, and is swept where the VMM ended meanwhile."""
    before = net.state()
    start_qemu(keeper, "w", 1, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
    with in_namespace(net, datagrams) as one, in_namespace(net, datagrams) as two:
        hold(keeper, "v", 300 * M, fds=[one.fileno()])
        hold(keeper, "w", 200 * M, 400 * M, fds=[two.fileno()])
        held = net.state()
        keeper.process.kill()
        keeper.process.wait()
        keeper.start()
        assert net.state() == held
        send(net, two)
        wait_for("it went through its class", lambda: sent(net, "4d45:13") >= 100000)
        keeper.process.terminate()
        assert keeper.process.wait(10) == 0
        assert net.state() == held
        net.run("tc", "qdisc", "del", "dev", "up0", "root")
        keeper.start()
        assert net.state() == held
        pid = keeper.vmms()["w"]
        keeper.process.kill()
        keeper.process.wait()
        os.kill(pid, 9)
        keeper.start()
        wait_for("w's class is swept", lambda: "4d45:13" not in net.classes("up0"))
        assert net.classes("up0")[CLASS] == ("300Mbit", "1Gbit")
        drop(keeper, "v")
        assert net.state() == before


def test_bad_input(keeper, net, vm):
    before = net.state()
    with open("/dev/null") as null, in_namespace(net, datagrams) as stream:
        refused("not-found", hold, keeper, "absent", 600 * M, None, [stream.fileno()])
        refused("not-found", hold, keeper, vm, 600 * M)
        refused("invalid", hold, keeper, vm, 1, None, [stream.fileno()])
        refused("invalid", hold, keeper, vm, 600 * M, 500 * M, [stream.fileno()])
        refused("invalid", keeper.call, "move-hold", {"vm": vm, "rate_bps": 600 * M, "fds": 1})
        assert "socket" in refused("internal", hold, keeper, vm, 600 * M, None, [null.fileno()]).message
    assert net.state() == before and os.listdir(f"{keeper.run}/flow") == []


def test_without_an_uplink_it_is_said():
    """S.10: no failure, and no pretence."""
    k = Keeper()
    try:
        start_qemu(k, "v", 0, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
        with socket.socket() as s:
            held = hold(k, "v", 600 * M, fds=[s.fileno()])
            assert held["held_by"] == "nothing" and "not guaranteed" in held["fallback"]
            assert drop(k, "v") == {}
    finally:
        assert k.close() == []

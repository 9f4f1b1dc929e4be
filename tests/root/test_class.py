# SPDX-License-Identifier: Apache-2.0
"""The keeper's classes of service on a made-up resctrl tree: what it would write to the kernel's, and no trace of it.
That the hardware then does it is not shown here: no machine of ours has it."""
import fcntl
import json
import os
import select
import signal
import subprocess

import pytest

from test_keeper import BUILD, Keeper, start_qemu
from rpc import Refused  # noqa: E402
from resctrl import MadeUpTree  # noqa: E402  test_keeper knows where it is


def refused(reason, call, *args, **kwargs):
    """reason None: any. The sentence."""
    with pytest.raises(Refused) as e:
        call(*args, **kwargs)
    assert reason in (None, e.value.reason), e.value.message
    return e.value.message


@pytest.fixture
def tree():
    with MadeUpTree(domains={0: [0], 1: [1]}) as t:
        yield t


@pytest.fixture
def keeper(tree):
    bare = tree.state()
    k = Keeper(extra=tree.config())
    yield k
    left = os.listdir(f"{k.run}/class") + os.listdir(f"{k.run}/resctrl")
    assert k.close() == []
    assert left == []
    assert tree.state() == bare


def item(vm, name, **more):
    return {"activation": 1, "vm": vm, "item": name, "kind": name.rstrip("0123456789"), **more}


def hold(keeper, vm, name, **amount):
    return keeper.call("host-activate", item(vm, name, **{"domain": 0, **amount}))


def let_go(keeper, vm, name):
    return keeper.call("host-deactivate", item(vm, name))


def read(keeper, vm, name):
    return keeper.call("host-read", item(vm, name))


def ways(tree, group="", domain=0):
    return tree.schemata(group)["L3", domain]


def percent(tree, group="", domain=0):
    return tree.schemata(group)["MB", domain]


def start(keeper, vm="v", slot=0):
    return start_qemu(keeper, vm, slot, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")[0]


def test_hello_says_what_there_is(keeper, tree):
    info = keeper.call("hello", {"version": 1})
    assert info["resctrl"] == tree.root and info["resctrl_is_made_up"] is True
    assert (info["cache_ways"], info["membw_step_percent"]) == (12, 10)
    assert (info["classes"], info["classes_left"]) == (4, 3)
    hold(keeper, "v", "cache0", ways=1)
    assert keeper.call("hello", {"version": 1})["classes_left"] == 2
    let_go(keeper, "v", "cache0")
    assert keeper.call("hello", {"version": 1})["classes_left"] == 3


def test_without_leave_there_is_none():
    k = Keeper()
    try:
        assert "resctrl" not in k.call("hello", {"version": 1})
        refused("unsupported", hold, k, "v", "cache0", ways=1)
        refused("unsupported", hold, k, "v", "membw0", percent=10)
        let_go(k, "v", "cache0")
        k.call("vm-drop", {"vm": "v"})
    finally:
        assert k.close() == []


def test_what_is_not_a_hold(keeper, tree):
    before = tree.state()
    for bad in ({"ways": 0}, {"ways": 33}, {"percent": 10}, {}, {"ways": 1, "bytes": 1}, {"ways": 1, "domain": -1}):
        refused(None, hold, keeper, "v", "cache0", **bad)
    for bad in ({"percent": 101}, {"ways": 1}, {}, {"percent": 10, "share_milli": 1}):
        refused(None, hold, keeper, "v", "membw0", **bad)
    refused(None, keeper.call, "host-activate", item("v", "cache0", ways=1))  # of which cache?
    refused("not-found", hold, keeper, "v", "cache0", ways=1, domain=7)
    refused("not-found", read, keeper, "v", "cache0")
    refused("not-found", keeper.call, "host-bind", item("v", "cache0"))
    assert tree.state() == before and os.listdir(f"{keeper.run}/class") == []


def test_the_whole_way(keeper, tree):
    before = tree.state()
    for _ in range(2):
        assert hold(keeper, "v", "cache0", ways=2)["held_by"] == "made-up-resctrl"
        assert tree.groups() == [f"{keeper.name}@v"]
    mine = ways(tree, f"{keeper.name}@v")
    assert bin(mine).count("1") == 2 and mine & 0x800 == 0 and ways(tree) & mine == 0
    assert ways(tree, domain=1) == 0xfff  # the other cache is as it was
    # bandwidth of the same VM, and more ways: the same class
    for _ in range(2):
        hold(keeper, "v", "membw1", percent=20)
        hold(keeper, "v", "cache2", ways=1)
    assert tree.groups() == [f"{keeper.name}@v"] and percent(tree, f"{keeper.name}@v") == 20 and percent(tree) == 80
    mine = ways(tree, f"{keeper.name}@v")
    assert bin(mine).count("1") == 3 and ways(tree) & mine == 0
    assert (read(keeper, "v", "cache0")["ways"], read(keeper, "v", "cache0")["vm_ways"]) == (2, 3)
    assert (read(keeper, "v", "membw1")["percent"], read(keeper, "v", "membw1")["vm_percent"]) == (20, 20)
    # a class is of one cache
    refused("invalid", hold, keeper, "v", "cache3", ways=1, domain=1)
    # another VM has another class, and ways of its own
    held = tree.state()
    hold(keeper, "w", "cache0", ways=4)
    assert ways(tree, f"{keeper.name}@w") & (ways(tree, f"{keeper.name}@v") | ways(tree)) == 0
    for _ in range(2):
        let_go(keeper, "w", "cache0")
    assert tree.state() == held
    for _ in range(2):
        let_go(keeper, "v", "cache2")
        assert bin(ways(tree, f"{keeper.name}@v")).count("1") == 2
    let_go(keeper, "v", "cache0")
    assert tree.groups() == [f"{keeper.name}@v"] and ways(tree) == 0xfff  # bandwidth is left
    refused("not-found", read, keeper, "v", "cache0")
    for _ in range(2):
        let_go(keeper, "v", "membw1")
    assert tree.state() == before


def test_the_threads_of_a_vmm(keeper, tree):
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    hold(keeper, "v", "membw1", percent=30)
    refused("not-found", keeper.call, "host-bind", item("v", "cache0"))  # it does not run
    pid = start(keeper)
    threads = {int(t) for t in os.listdir(f"/proc/{pid}/task")}
    refused("stale", read, keeper, "v", "cache0")
    for name in ("cache0", "membw1", "cache0"):
        keeper.call("host-bind", item("v", name))
        assert threads <= tree.tasks(f"{keeper.name}@v")
    assert read(keeper, "v", "cache0")["vm_ways"] == 2
    # One that is gone from it is noticed, and put back.
    tree.write(f"{keeper.name}@v/tasks", "")
    refused("stale", read, keeper, "v", "membw1")
    keeper.call("host-bind", item("v", "membw1"))
    assert pid in tree.tasks(f"{keeper.name}@v")
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v"})
    assert tree.state() == before and os.listdir(f"{keeper.run}/class") == []


def test_a_drop_leaves_what_is_to_be_kept(keeper, tree):
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    hold(keeper, "v", "cache1", ways=1)
    keeper.call("vm-drop", {"vm": "v", "keep": ["cache0"]})
    assert bin(ways(tree, f"{keeper.name}@v")).count("1") == 2
    keeper.call("vm-drop", {"vm": "v"})
    assert tree.state() == before


def test_there_is_no_more_of_it(keeper, tree):
    """No class of service left, no ways, no bandwidth: refused with a sentence, and nothing is left behind."""
    hold(keeper, "v", "cache0", ways=6)
    held = tree.state()
    assert "ways" in refused("no-capacity", hold, keeper, "w", "cache0", ways=6)
    refused("no-capacity", hold, keeper, "v", "cache1", ways=6)
    hold(keeper, "v", "membw1", percent=60)
    assert "bandwidth" in refused("no-capacity", hold, keeper, "w", "membw0", percent=40)
    let_go(keeper, "v", "membw1")
    assert tree.state() == held
    hold(keeper, "w", "cache0", ways=1)
    os.mkdir(f"{tree.root}/others")  # made by somebody else
    tree.write("others/schemata", "L3:0=1;1=1\nMB:0=100;1=100\n")
    full = tree.state()
    assert "no class of service left" in refused("no-capacity", hold, keeper, "x", "cache0", ways=1)
    assert tree.state() == full and sorted(os.listdir(f"{keeper.run}/class")) == ["v.json", "w.json"]
    os.unlink(f"{tree.root}/others/schemata")
    os.rmdir(f"{tree.root}/others")
    for vm in "vw":
        let_go(keeper, vm, "cache0")


def test_changed_behind_our_back(keeper, tree):
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    hold(keeper, "v", "membw1", percent=20)
    held = tree.state()
    schemata = tree.read(f"{keeper.name}@v/schemata")
    for change in ("L3:0=1;1=fff\nMB:0=20;1=100\n", schemata.replace("MB:0=20", "MB:0=100")):
        tree.write(f"{keeper.name}@v/schemata", change)
        assert "changed" in refused("stale", read, keeper, "v", "cache0")
        hold(keeper, "v", "cache0", ways=2)
        read(keeper, "v", "cache0")
        assert tree.state() == held
    # somebody removed it
    for name in os.listdir(f"{tree.root}/{keeper.name}@v"):
        os.unlink(f"{tree.root}/{keeper.name}@v/{name}")
    os.rmdir(f"{tree.root}/{keeper.name}@v")
    assert "gone" in refused("stale", read, keeper, "v", "membw1")
    hold(keeper, "v", "membw1", percent=20)
    assert tree.schemata(f"{keeper.name}@v") == {("L3", 0): ways(tree, f"{keeper.name}@v"), ("L3", 1): 0xfff, ("MB", 0): 20, ("MB", 1): 100}
    let_go(keeper, "v", "membw1")
    let_go(keeper, "v", "cache0")
    assert tree.state() == before


def test_over_restarts_of_the_keeper(keeper, tree):
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    hold(keeper, "v", "membw1", percent=20)
    held = tree.state()
    for end in (signal.SIGKILL, signal.SIGTERM):
        keeper.process.send_signal(end)
        keeper.process.wait(30)
        keeper.start()
        assert tree.state() == held
        assert read(keeper, "v", "cache0")["vm_ways"] == 2
    # One that died behind its record, and one behind the book.
    with open(f"{keeper.run}/class/w.json", "w") as f:
        f.write('{"vm":"w","items":{"cache0":{"domain":0,"ways":1,"percent":0}}}')
    let_go(keeper, "w", "cache0")
    os.unlink(f"{keeper.run}/class/v.json")
    keeper.process.kill()
    keeper.process.wait(30)
    keeper.start()  # nobody knows of it any more
    assert tree.state() == before


def test_leave_is_taken_away(keeper, tree):
    """What was given before ends as it should, and there is no more."""
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    hold(keeper, "w", "cache0", ways=1)
    held = tree.state()
    with open(keeper.conf) as f:
        leave = f.read()
    with open(keeper.conf, "w") as f:
        f.write(leave.replace("manage=yes", "manage=no"))
    for _ in range(2):
        keeper.process.kill()
        keeper.process.wait(30)
        keeper.start()
        assert tree.state() == held
        assert "resctrl" not in keeper.call("hello", {"version": 1})
    refused("unsupported", hold, keeper, "v", "cache1", ways=1)
    assert read(keeper, "v", "cache0")["vm_ways"] == 2
    let_go(keeper, "v", "cache0")
    keeper.call("vm-drop", {"vm": "w"})
    assert tree.state() == before


def test_a_tree_that_went(keeper, tree):
    """Unmounted, say: a VM can be dropped all the same, and the tree that comes back has nothing of it."""
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    hold(keeper, "w", "cache0", ways=1)
    os.rename(tree.root, tree.root + "-away")
    refused(None, hold, keeper, "x", "cache0", ways=1)
    keeper.call("vm-drop", {"vm": "v"})
    let_go(keeper, "w", "cache0")
    assert os.listdir(f"{keeper.run}/class") == []
    os.rename(tree.root + "-away", tree.root)
    hold(keeper, "y", "cache0", ways=1)
    let_go(keeper, "y", "cache0")
    assert tree.state() == before


def test_a_record_that_cannot_be_read(keeper, tree):
    before = tree.state()
    hold(keeper, "v", "cache0", ways=2)
    with open(f"{keeper.run}/class/v.json", "w") as f:
        f.write("{}")
    refused(None, hold, keeper, "v", "cache0", ways=2)
    refused(None, let_go, keeper, "v", "cache0")
    keeper.call("vm-drop", {"vm": "v"})
    assert tree.state() == before


def test_somebody_has_the_lock(keeper, tree):
    before = tree.state()
    fd = os.open(tree.root, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    refused("busy", hold, keeper, "v", "cache0", ways=2)
    assert tree.state() == before and os.listdir(f"{keeper.run}/class") == []
    os.close(fd)
    hold(keeper, "v", "cache0", ways=2)
    start(keeper)
    keeper.call("vmm-kill", {"vm": "v"})
    fd = os.open(tree.root, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    # The keeper waits a second for the lock, and others not for it; and what can be given back is.
    for _ in range(20):
        with keeper.client() as c:
            sent = c.begin("vm-drop", {"vm": "v"})
            said = refused("busy", hold, keeper, "v", "cache1", ways=1)
            keeper.call("hello", {"version": 1})
            is_early = not select.select([c.sock], [], [], 0)[0]
            with pytest.raises(Refused) as e:
                c.finish(sent)
        assert e.value.reason == "busy"
        if is_early and "being dropped" in said:
            break  # else this test itself was late
    else:
        pytest.fail("whoever asks the keeper meanwhile waits for the drop")
    assert os.listdir(keeper.ram) == [] and tree.groups() == [f"{keeper.name}@v"]
    os.close(fd)
    keeper.call("vm-drop", {"vm": "v"})
    assert tree.state() == before


def test_permission_denied(keeper, tree):
    """Root without the right: the tree cannot be changed. The whole is refused, and nothing is left behind."""
    before = tree.state()
    if subprocess.run(["mount", "--bind", "-o", "ro", tree.root, tree.root], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this test may not mount")
    try:
        refused(None, hold, keeper, "v", "cache0", ways=2)
    finally:
        subprocess.run(["umount", tree.root], check=True)
    assert tree.state() == before and os.listdir(f"{keeper.run}/class") == []


def test_a_tree_that_is_not_there(tree):
    """Said, and looked for again."""
    os.rename(tree.root, tree.root + "-later")
    k = Keeper(extra=tree.config())
    try:
        info = k.call("hello", {"version": 1})
        assert "resctrl" not in info and any(tree.root in f for f in info["fallbacks"])
        refused("not-found", hold, k, "v", "cache0", ways=2)
        os.rename(tree.root + "-later", tree.root)
        before = tree.state()
        hold(k, "v", "cache0", ways=2)
        assert k.call("hello", {"version": 1})["cache_ways"] == 12
        let_go(k, "v", "cache0")
        assert tree.state() == before
    finally:
        assert k.close() == []


def test_check_says_it(keeper, tree):
    said = subprocess.run([f"{BUILD}/src/keeper/mete-keeper", "--check", "--config", keeper.conf], text=True,
                          capture_output=True, timeout=60)
    assert said.returncode == 0 and "4 classes of service" in said.stdout
    assert "made up" in said.stdout
    assert json.dumps(tree.root)[1:-1] in said.stdout

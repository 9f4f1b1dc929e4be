# SPDX-License-Identifier: Apache-2.0
"""The keeper's side of memory on huge pages, on a real kernel: pages come into the pool before the file is made, and go
out of it exactly; what the administrator has in it is his."""
import os
import signal

import pytest

from test_keeper import Keeper, refused, start_qemu
from huge import PAGE, CannotRun, Huge, pools, set_pool  # noqa: E402  test_keeper knows where it is

KIB = PAGE >> 10


@pytest.fixture
def huge():
    try:
        with Huge() as h:
            yield h
    except CannotRun as e:
        pytest.skip(str(e))


@pytest.fixture
def keeper(huge):
    k = Keeper(extra=huge.config())
    yield k
    assert k.close() == []
    assert huge.files() == [] and os.listdir(huge.dir) == []


def memory(vm, item, **more):
    return {"activation": 1, "vm": vm, "item": item, "kind": "memory", **more}


def hold(keeper, vm, item, pages, node=0, **more):
    return keeper.call("host-activate", memory(vm, item, bytes=pages * PAGE, node=node, page_bytes=PAGE, **more))


def let_go(keeper, vm, item):
    return keeper.call("host-deactivate", memory(vm, item))


def read(keeper, vm, item):
    return keeper.call("host-read", memory(vm, item))


def total():
    return pools()[0, KIB][0]


def free():
    return pools()[0, KIB][1]


def start(keeper, huge, vm="v", mib=32, keep=(), slot=0):
    """A VMM whose RAM is a file on the hugetlbfs, taken as a whole."""
    if os.path.exists(f"{keeper.dir}/{vm}.qmp"):
        os.unlink(f"{keeper.dir}/{vm}.qmp")
    return start_qemu(keeper, vm, slot, "-machine", "q35", "-accel", "tcg", "-m", str(mib), "-S", "-object",
                      f"memory-backend-file,id=ram0,size={mib}M,mem-path={huge.dir}/{keeper.name}/{vm}/ram0,"
                      "share=on,prealloc=on", "-numa", "node,memdev=ram0", keep=keep, huge_bytes=mib << 20)


def test_hello_says_what_there_is(keeper, huge):
    info = keeper.call("hello", {"version": 1})
    assert info["huge"] == [{"page_bytes": PAGE, "dir": f"{huge.dir}/{keeper.name}"}]
    assert info["ram_dir"] == keeper.ram


def test_the_whole_way(keeper, huge):
    had = total()
    for _ in range(2):
        assert hold(keeper, "v", "ram0", 16)["held_by"] == "hugetlbfs"
        assert total() == had + 16
    hold(keeper, "v", "dimm0", 8)
    hold(keeper, "w", "dimm0", 4)
    assert total() == had + 28
    pid, qmp = start(keeper, huge)
    live = read(keeper, "v", "ram0")
    with keeper.client() as c:  # and it can be read, page by page: a hugetlbfs can do that, though not write
        said = c.call("ram-open", {"vm": "v", "items": ["ram0"]})
        assert said["files"] == [{"item": "ram0", "bytes": 16 * PAGE, "page_bytes": PAGE}]
        assert len(os.pread(c.fds[0], 4096, 16 * PAGE - 4096)) == 4096
        assert os.lseek(c.fds[0], 4096, os.SEEK_DATA) == 4096 and os.fstat(c.fds[0]).st_blocks == 16 * PAGE >> 9
        os.close(c.fds[0])
    assert (live["bytes"], live["reserved_bytes"], live["page_bytes"], live["node"]) == (32 << 20, 16 * PAGE, PAGE, 0)
    assert live["held_by"] == "hugetlbfs" and live["nodes"] == [0]
    refused("busy", let_go, keeper, "v", "ram0")  # its VMM has it
    # plugged, and given back while the VMM has it open still: its pages come back all the same
    path = f"{huge.dir}/{keeper.name}/v/dimm0-16M"
    qmp.run("object-add", **{"qom-type": "memory-backend-file", "id": "m0", "size": 8 * PAGE, "mem-path": path,
                             "share": True, "prealloc": True})
    assert read(keeper, "v", "dimm0")["bytes"] == 8 * PAGE
    for _ in range(2):
        let_go(keeper, "v", "dimm0")
        assert total() == had + 20 and not os.path.exists(path)
    assert "reserved_bytes" not in read(keeper, "v", "dimm0")
    let_go(keeper, "w", "dimm0")
    assert total() == had + 16
    # of a VMM that runs, the file is there and full: it need not clear pages while its guest waits
    path = f"{huge.dir}/{keeper.name}/v/dimm1-8M"
    for _ in range(2):
        hold(keeper, "v", "dimm1", 4)
        st = os.stat(path)
        assert (st.st_size, st.st_blocks * 512, st.st_mode & 0o7777) == (4 * PAGE, 4 * PAGE, 0o600)
        assert st.st_uid == os.stat(f"/proc/{pid}").st_uid
    qmp.run("object-add", **{"qom-type": "memory-backend-file", "id": "m1", "size": 4 * PAGE, "mem-path": path,
                             "share": True, "prealloc": True})
    let_go(keeper, "v", "dimm1")
    assert total() == had + 16 and not os.path.exists(path)
    hold(keeper, "n", "dimm0", 1)  # none runs
    start_qemu(keeper, "n", 1, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
    hold(keeper, "n", "dimm1", 1)
    let_go(keeper, "n", "dimm0")
    assert huge.files() == [f"{keeper.name}/n/dimm1-2M", f"{keeper.name}/v/ram0"]
    let_go(keeper, "n", "dimm1")
    assert os.listdir(f"{huge.dir}/{keeper.name}") == ["v"]  # with the last page the place for files goes
    keeper.end_vmm("n")
    keeper.call("vmm-kill", {"vm": "v"})
    for _ in range(2):
        let_go(keeper, "v", "ram0")
    assert total() == had and huge.files() == []
    keeper.call("vm-drop", {"vm": "v"})


def test_who_holds_none_has_no_place_for_files(keeper, huge):
    """Where a VMM may write, it may use up what the administrator has in the pool."""
    start_qemu(keeper, "n", 1, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
    assert os.listdir(f"{huge.dir}/{keeper.name}") == []
    had = total()
    hold(keeper, "n", "dimm0", 4)
    assert huge.files() == [f"{keeper.name}/n/dimm0-8M"]
    keeper.end_vmm("n")
    assert total() == had and huge.files() == []


def test_a_drop_takes_all_but_what_is_kept(keeper, huge):
    had = total()
    hold(keeper, "v", "ram0", 16)
    hold(keeper, "v", "dimm0", 4)
    start(keeper, huge)
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v", "keep": ["ram0"]})
    assert total() == had + 16 and huge.files() == [f"{keeper.name}/v/ram0"]
    start(keeper, huge, keep=["ram0"])  # its next run finds what it had
    assert read(keeper, "v", "ram0")["bytes"] == 32 << 20
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v"})
    assert total() == had and huge.files() == []


def test_over_a_restart_of_the_keeper(keeper, huge):
    had = total()
    hold(keeper, "v", "ram0", 16)
    start(keeper, huge)
    os.kill(keeper.process.pid, signal.SIGKILL)
    keeper.process.wait()
    keeper.start()
    assert total() == had + 16
    hold(keeper, "v", "ram0", 16)
    assert read(keeper, "v", "ram0")["reserved_bytes"] == 16 * PAGE and total() == had + 16
    keeper.end_vmm("v")
    assert total() == had


def test_what_the_administrator_has_is_his(keeper, huge):
    had = total()
    set_pool(0, KIB, had + 10)
    try:
        hold(keeper, "v", "ram0", 16)
        assert total() == had + 26
        start(keeper, huge)
        assert free() >= 10
        # He takes what is his: that is no change of ours.
        set_pool(0, KIB, had + 16)
        assert read(keeper, "v", "ram0")["reserved_bytes"] == 16 * PAGE
        # He takes what is ours: noticed; said again, it is there again.
        set_pool(0, KIB, had)
        e = refused("stale", read, keeper, "v", "ram0")
        assert "somebody lowered it" in e.message
        hold(keeper, "v", "ram0", 16)
        assert read(keeper, "v", "ram0")["reserved_bytes"] == 16 * PAGE
        keeper.end_vmm("v")
        assert total() == had
        set_pool(0, KIB, had + 10)
        hold(keeper, "v", "ram0", 4)
        let_go(keeper, "v", "ram0")
        assert total() == had + 10
    finally:
        set_pool(0, KIB, had)


def test_refused(keeper, huge):
    before = pools()
    for reason, more in [("not-found", {"node": 1000}), ("invalid", {"bytes": PAGE + 4096}),
                         ("unsupported", {"page_bytes": 1 << 29, "bytes": 1 << 30})]:
        params = memory("v", "ram0", **{"bytes": PAGE, "node": 0, "page_bytes": PAGE, **more})
        refused(reason, keeper.call, "host-activate", params)
    params = memory("v", "ram0", bytes=PAGE, page_bytes=PAGE)
    refused("invalid", keeper.call, "host-activate", params)  # without a node
    assert pools() == before


def test_what_a_vm_left_there_goes(keeper, huge):
    """Its folder there is its own: whatever it made, it goes."""
    keeper.start_vmm("v", [keeper.scripts["tell"]])
    mine = f"{huge.dir}/{keeper.name}/v"
    hold(keeper, "v", "dimm0", 2)
    os.mkdir(f"{mine}/dimm0")
    os.mkfifo(f"{mine}/dimm0-1M")
    let_go(keeper, "v", "dimm0")
    keeper.end_vmm("v")
    assert not os.path.exists(mine)


def test_wrong_configuration(huge):
    for text, words in [(f"huge_dir={huge.dir};{huge.dir}", "pages of 2M"), ("huge_dir=/tmp", "no hugetlbfs"),
                        ("huge_dir=relative", "absolute")]:
        with pytest.raises(AssertionError, match=words):
            Keeper(extra=text + "\n")

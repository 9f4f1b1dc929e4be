# SPDX-License-Identifier: Apache-2.0
"""A VM with a writable disk moves to a host that has the very same file, and to no other: that [move] shared_disks is right is looked at
on both hosts, before anything starts, and again before its VMM does."""
import json
import os
import shutil

import pytest
import shared_disk
from host import ROOT, wait_for
from linked_hosts import LinkedHosts
from qemu10 import or_skip
from shared_disk import Writer

DISK = "v.raw"
LEVEL = {"total_ms": 300000, "downtime_ms": 20000}
NEVER = {"total_ms": 100, "downtime_ms": 100}


@pytest.fixture(scope="module")
def hosts():
    with or_skip(), LinkedHosts(1000, memory="1G", extra="shared_disks=yes\n") as h:
        h.made = 0
        shared_disk.make(h.a, DISK)
        for name in ("vmlinuz", "test.cpio.gz"):
            h.b.image(os.path.join(ROOT, "build/guest", name))
        h.vm = h.a.vm("v", cpus="1", memory="192M", disk=DISK)
        h.writer = Writer(h.vm)
        yield h
        h.vm.disconnect()
        for host in (h.a, h.b):
            if "v" in names(host):
                host.mete("vm", "kill", "v", check=False)


def names(host):
    return [v["name"] for v in host.mete_json("vm", "list")["vms"]]


def another_id(hosts):
    hosts.made += 1
    return f"d{hosts.made}"


def missing(a, b):
    pass


def copied(a, b):
    shutil.copy(a.path("images", DISK), b.path("images", DISK))


def larger(a, b):
    shared_disk.make(b, DISK, 32 * shared_disk.MIB)


def folder(a, b):
    os.mkdir(b.path("images", DISK))


def still_at_a(hosts):
    """Its guest runs on with its disk there, and the other host has nothing of it."""
    wait_for("b has forgotten it", lambda: names(hosts.b) == [] and hosts.b.claims() == [], 60)
    assert names(hosts.a) == ["v"] and hosts.vm.show()["state"] == "running"
    before = hosts.writer.count()
    wait_for("it writes on", lambda: hosts.writer.count() > before, 60)
    assert not hosts.writer.failed()


@pytest.mark.parametrize("there,words", [(missing, "No such file"), (copied, "its inode is "), (larger, "its size is 33554432 here, 16777216 "),
                                         (folder, "not a regular file")], ids=lambda x: getattr(x, "__name__", ""))
def test_another_file(hosts, there, words):
    """Refused with the name of the disk and what is different; no VMM is started for it."""
    shared_disk.take_away(DISK, hosts.b)
    there(hosts.a, hosts.b)
    move = another_id(hosts)
    hosts.move("v", move, LEVEL)
    source, destination = hosts.wait_over(move, 120)
    assert source["state"] == "refused" and source["reason"] == "incompatible", source
    assert f"disk {DISK}" in source["sentence"] and words in source["sentence"], source
    assert destination is None or destination["state"] == "dropped", destination
    assert not [e for e in hosts.b.events(move) if e["event"] in ("preparing", "ready")], hosts.b.events(move)
    assert not os.path.exists(hosts.b.path("run", "vm", "v", "qmp.sock"))
    still_at_a(hosts)


def test_gone_here(hosts):
    """What the source itself has not is refused as it is asked for."""
    path = hosts.a.path("images", DISK)
    os.rename(path, path + ".away")
    try:
        p = hosts.a.mete("move", "v", "--to", "b", "--id", another_id(hosts), "--json", check=False)
        assert p.returncode != 0 and f"the disk {DISK}: No such file" in p.stderr, p
    finally:
        os.rename(path + ".away", path)
    still_at_a(hosts)


def test_another_kernel(hosts):
    """Of the same name and size: its guest would boot it some day. What else can be different: tests/root/test_incompatible.py."""
    shared_disk.share(DISK, hosts.a, hosts.b)
    path, before = hosts.b.path("images", "vmlinuz"), [(h.free(), h.claims()) for h in (hosts.a, hosts.b)]
    os.unlink(path)  # it is a link to that of all tests
    try:
        shutil.copyfile(os.path.join(ROOT, "build/guest/vmlinuz"), path)
        with open(path, "r+b") as f:
            f.seek(-1, os.SEEK_END)
            last = f.read(1)
            f.seek(-1, os.SEEK_END)
            f.write(bytes([last[0] ^ 1]))
        move = another_id(hosts)
        hosts.move("v", move, LEVEL)
        source, destination = hosts.wait_over(move, 120)
    finally:
        os.unlink(path)
        hosts.b.image(os.path.join(ROOT, "build/guest/vmlinuz"))
    assert source["state"] == "refused" and source["reason"] == "incompatible", source
    assert "the kernel vmlinuz is another one: its contents" in source["sentence"] and destination["state"] == "dropped", source
    assert [(h.free(), h.claims()) for h in (hosts.a, hosts.b)] == before
    still_at_a(hosts)


def test_another_file_since_it_was_reserved(hosts):
    """It was the same when another level was offered, and is not any more when that is taken."""
    shared_disk.share(DISK, hosts.a, hosts.b)
    move = another_id(hosts)
    said = hosts.move("v", move, NEVER)
    assert said["state"] == "countered", said
    shared_disk.take_away(DISK, hosts.b)
    copied(hosts.a, hosts.b)
    hosts.accept(move, said["offers"][0]["level"])
    source, _ = hosts.wait_over(move, 120)
    assert source["state"] in ("refused", "aborted") and f"disk {DISK}" in source["sentence"] and "its inode is " in source["sentence"], source
    still_at_a(hosts)


def test_the_same_file(hosts):
    """It goes on writing at the other host, behind what it wrote at the first: to one file."""
    shared_disk.share(DISK, hosts.a, hosts.b)
    hosts.vm.check("dd if=/dev/urandom of=/dev/vda bs=1M seek=1 count=4 oflag=direct 2>/dev/null; "
                   "dd if=/dev/vda bs=1M skip=1 count=4 iflag=direct 2>/dev/null | sha256sum >/tmp/sum")
    move, before = another_id(hosts), hosts.writer.count()
    hosts.move("v", move, LEVEL)
    source, destination = hosts.wait_over(move, 300)
    assert source["state"] == "done" and destination["state"] == "settled", (source, destination)
    hosts.vm.disconnect()
    hosts.vm.host = hosts.b
    hosts.vm.wait_agent()
    assert hosts.vm.check("dd if=/dev/vda bs=1M skip=1 count=4 iflag=direct 2>/dev/null | sha256sum | cmp - /tmp/sum && echo same") == "same"
    wait_for("it writes on", lambda: hosts.writer.count() > before + 2, 60)
    assert not hosts.writer.failed()
    with open(hosts.a.path("images", DISK), "rb") as f:
        assert int(f.read(512).rstrip(b"\0")) > before + 2
    assert names(hosts.a) == [] and "inode" not in json.dumps(source)

# SPDX-License-Identifier: Apache-2.0
"""What the keeper hands out of a VM's RAM: descriptors that can read it, and no more."""
import fcntl
import mmap
import os
import pwd

import pytest

from test_keeper import METED_USER, Keeper, refused, wait_for

MIB = 1 << 20


@pytest.fixture
def keeper():
    k = Keeper()
    yield k
    assert k.close() == []


def start(keeper):
    """A VMM with two files of RAM, as it would make them."""
    described = keeper.start_vmm("v", [keeper.scripts["tell"]])
    for name, size in (("ram0", 2 * MIB), ("dimm3-1M", MIB)):
        path = f"{described['ram_dir']}/{name}"
        with open(path, "wb") as f:
            f.write(b"secret")
            f.truncate(size)
        os.chown(path, described["uid"], described["uid"])
        os.chmod(path, 0o600)
    return described


def descriptors(keeper):
    return len(os.listdir(f"/proc/{keeper.process.pid}/fd"))


def ram_open(keeper, *items, vm="v"):
    with keeper.client() as c:
        return c.call("ram-open", {"vm": vm, "items": list(items)}), c.fds


def test_can_be_read_and_no_more(keeper):
    start(keeper)
    before = descriptors(keeper)
    answer, fds = ram_open(keeper, "dimm3", "ram0")
    assert answer == {"files": [{"item": "dimm3", "bytes": MIB}, {"item": "ram0", "bytes": 2 * MIB}]}
    assert [os.fstat(fd).st_size for fd in fds] == [MIB, 2 * MIB]
    user = pwd.getpwnam(METED_USER)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([user.pw_gid])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            for fd in fds:
                assert os.pread(fd, 6, 0) == b"secret"
                assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
                for attempt in (lambda fd=fd: os.pwrite(fd, b"x", 0), lambda fd=fd: os.ftruncate(fd, 0),
                                lambda fd=fd: os.fchmod(fd, 0o666), lambda fd=fd: mmap.mmap(fd, MIB),
                                lambda fd=fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR)):
                    try:
                        attempt()
                    except OSError:
                        continue
                    raise AssertionError("more than reading")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    for fd in fds:
        os.close(fd)
    wait_for("descriptors are closed again", lambda: descriptors(keeper) <= before)


def test_all_or_none(keeper):
    described = start(keeper)
    before = descriptors(keeper)
    for items in (["ram0", "ram1"], ["ram0", "ram0"], ["dimm"], ["dimm3-1M-x"]):
        refused("not-found", ram_open, keeper, *items)
    refused("not-found", ram_open, keeper, "ram0", vm="w")
    for items in ([], ["ram0"] * 17, ["../v/ram0"], [".."], [""]):
        refused("invalid", ram_open, keeper, *items)
    os.link(f"{described['ram_dir']}/ram0", f"{described['ram_dir']}/dimm0")
    refused("not-found", ram_open, keeper, "dimm0")
    os.unlink(f"{described['ram_dir']}/dimm0")
    os.symlink("/etc/shadow", f"{described['ram_dir']}/dimm0")
    refused("not-found", ram_open, keeper, "dimm0")
    wait_for("descriptors are closed again", lambda: descriptors(keeper) <= before)
    keeper.call("vmm-kill", {"vm": "v"})
    refused("not-found", ram_open, keeper, "ram0")

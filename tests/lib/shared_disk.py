# SPDX-License-Identifier: Apache-2.0
"""A disk that two hosts have as one file, as on storage that they share: by a hard link, so each has a path of its own to it."""
import os

MIB = 1 << 20


def make(host, name, size=16 * MIB):
    """A disk of that host alone; its path."""
    path = host.path("images", name)
    with open(path, "wb") as f:
        f.truncate(size)
    os.chmod(path, 0o666)  # QEMU opens it to write, as the uid of its VM
    return path


def share(name, host, *others):
    """What is called so at the others is the file of the first, whatever it was before."""
    for other in others:
        take_away(name, other)
        os.link(host.path("images", name), other.path("images", name))


def take_away(name, host):
    path = host.path("images", name)
    if os.path.isdir(path):
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


class Writer:
    """A program in the guest that counts on its disk, a block at a time and past its caches."""

    COUNT = "dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\\0'"

    def __init__(self, vm):
        self.vm = vm
        vm.check("(n=1; while :; do n=$((n + 1)); echo $n >/tmp/n; dd if=/tmp/n of=/dev/vda bs=512 count=1 conv=sync,notrunc oflag=direct "
                 "2>>/tmp/writer || echo failed >>/tmp/failed; sleep 0.1; done) >/dev/null 2>&1 & echo")

    def count(self):
        said = self.vm.check(self.COUNT).strip()
        return int(said) if said.isdigit() else 0

    def failed(self):
        return self.vm.run("test -e /tmp/failed")[0] == 0

# SPDX-License-Identifier: Apache-2.0
"""A disk that two hosts have as one file, as on storage that they share: by a hard link, so each has a path of its own to it."""
import fcntl
import os

MIB = 1 << 20
BLOCK = 512
RING = 1023  # blocks behind the first


def make(host, name, size=16 * MIB):
    """A disk of that host alone, empty; its path. What it was linked to before it is still."""
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


def is_locked(path):
    """Whether a VMM has it as its disk: QEMU holds locks on it for as long as its guest may write."""
    with open(path, "r+b") as f:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


class Writer:
    """A program in the guest that counts on its disk, past its caches: each number into a block of its own, round and round, and only
    then into the first block. So whoever reads the file knows whether anything is missing that the guest was told is written."""

    COUNT = "dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | tr -d '\\0'"

    def __init__(self, vm):
        self.vm = vm
        write = (f"dd if=/tmp/n of=/dev/vda bs={BLOCK} count=1 seek=$at conv=sync,notrunc oflag=direct 2>>/tmp/writer || "
                 "echo failed >>/tmp/failed")
        vm.check(f"(n=0; while :; do n=$((n + 1)); echo $n >/tmp/n; at=$((n % {RING} + 1)); {write}; at=0; {write}; sleep 0.1; done) "
                 ">/dev/null 2>&1 & echo")

    def count(self):
        """As the guest reads it."""
        said = self.vm.check(self.COUNT).strip()
        return int(said) if said.isdigit() else 0

    def failed(self):
        return self.vm.run("test -e /tmp/failed")[0] == 0

    @staticmethod
    def written(path):
        """As the file has it; the guest may go on meanwhile."""
        with open(path, "rb") as f:
            return _number(f.read(BLOCK))

    @staticmethod
    def lost(path):
        """Numbers that the file has not, of the last that the guest was told are written."""
        with open(path, "rb") as f:
            last = _number(f.read(BLOCK))
            ring = f.read(RING * BLOCK)
        found = [_number(ring[at:at + BLOCK]) for at in range(0, len(ring), BLOCK)]
        # it may have gone on, and written over the oldest
        return [n for n in range(max(1, last - RING + 1), last + 1) if found[n % RING] not in (n, n + RING)]


def _number(block):
    text = block.rstrip(b"\0").strip()
    return int(text) if text.isdigit() else 0

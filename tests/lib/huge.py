# SPDX-License-Identifier: Apache-2.0
"""Huge pages for tests: a hugetlbfs of their own, and the pools of this machine, which nobody else changes meanwhile."""
import fcntl
import glob
import os
import subprocess
import tempfile
import time

POOLS = "/sys/kernel/mm/hugepages"
PAGE = 2 << 20


WAIT_S = 900  # for another test that has them, such as the walk through all faults on a slow machine
gave_up = False  # once is enough for a run


class CannotRun(Exception):
    """There are no huge pages here, or not enough; why is in its text."""


def pools():
    """{(node, KiB): (pages, free)} of all nodes; without nodes, of the machine as node 0."""
    found = {}
    dirs = glob.glob("/sys/devices/system/node/node*/hugepages/hugepages-*kB")
    for path in dirs or glob.glob(f"{POOLS}/hugepages-*kB"):
        node = int(path.split("/")[5].removeprefix("node")) if dirs else 0
        kib = int(os.path.basename(path).removeprefix("hugepages-").removesuffix("kB"))
        found[node, kib] = tuple(int(open(f"{path}/{name}").read()) for name in ("nr_hugepages", "free_hugepages"))
    return found


def set_pool(node, kib, pages):
    """What an administrator does."""
    path = f"/sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB"
    if not os.path.isdir(path):
        path = f"{POOLS}/hugepages-{kib}kB"
    with open(f"{path}/nr_hugepages", "w") as f:
        f.write(str(pages))


class Huge:
    """A mount with pages of 2 MiB; at the end the pools must be as they were."""

    def __enter__(self):
        self.dir = self.lock = None
        try:
            self.lock = os.open(POOLS, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as e:
            raise CannotRun(f"this kernel has no huge pages: {e}") from None
        global gave_up
        deadline = time.monotonic() + (0 if gave_up else WAIT_S)
        while True:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    gave_up = True
                    os.close(self.lock)
                    raise CannotRun("another test has the machine's huge pages") from None
                time.sleep(0.2)
        self.before = pools()
        try:
            if (0, PAGE >> 10) not in self.before:
                raise CannotRun("this kernel has no pages of 2 MiB")
            had = self.before[0, PAGE >> 10][0]
            try:
                set_pool(0, PAGE >> 10, had + 256)  # what a test takes at most; fewer where memory is in pieces
                got = pools()[0, PAGE >> 10][0] - had
                set_pool(0, PAGE >> 10, had)
            except OSError as e:
                raise CannotRun(f"huge pages cannot be reserved here: {e}") from None
            if got < 256:
                raise CannotRun(f"512 MiB of contiguous memory are needed, the kernel found {got * 2}")
            self.dir = tempfile.mkdtemp(prefix="mete-huge-", dir="/tmp")
            os.chmod(self.dir, 0o755)
            p = subprocess.run(["mount", "-t", "hugetlbfs", "-o", "pagesize=2M,mode=755", "none", self.dir],
                               capture_output=True, text=True)
            if p.returncode != 0:
                raise CannotRun(f"a hugetlbfs cannot be mounted: {p.stderr.strip()}")
        except BaseException:
            self.close()
            raise
        return self

    def config(self):
        return f"huge_dir={self.dir}\n"

    def files(self):
        return sorted(os.path.relpath(os.path.join(at, name), self.dir)
                      for at, _, names in os.walk(self.dir) for name in names)

    def close(self):
        if self.dir:
            subprocess.run(["umount", "-l", self.dir], capture_output=True)
            try:
                os.rmdir(self.dir)
            except OSError:
                pass
        if self.lock is not None:
            os.close(self.lock)

    def __exit__(self, kind, *_):
        after = pools()
        self.close()
        if kind is None:
            assert after == self.before, f"the pools are {after}, not {self.before}"

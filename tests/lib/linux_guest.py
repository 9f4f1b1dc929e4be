# SPDX-License-Identifier: Apache-2.0
"""A Linux guest to be moved, in which a program (tests/guest/dirty.c) has memory that is known to the last byte, and writes a part of
it round and round at a given rate. Seen as the payload is (seen_move.py), but for where its memory is: Linux decides that.

**Where.** Each page of that memory says what it is: a key of this guest, its number, the round that wrote it, noise. They are found in
the RAM file by the key. The program has locked them, and Linux is told not to move what is locked, so they stay where they are,
and the board with the guest's clock, too.

**What is compared, from outside**, while the VMM is held: each page is there once; all of it but the word that is written is what it was
when the guest was made; that word is of the round that the board, which came with the same copy, says. So a page that was left behind
is noticed as one of an older round. And the kernel's constants (`Kernel rodata`), byte for byte with the source as the guest stopped there.
The rest of what Linux has is written by Linux at any time, and both ends cannot be compared: how many of those pages differ
is said (`others`), and not judged.

**From inside**, through its console, which thereby has to work: the program's own check of each page, noise made anew, and the
sums of all the programs that lie in its page cache. And its agent has to reach the host where it is now."""
import contextlib
import functools
import os
import re
import struct
import zlib

import payload
from console import Console, ConsoleError
from host import HostError, ROOT, build_image, wait_for
from seen_move import MIB, PAGE, MovedVm, is_of_round

IMAGES = ("vmlinuz", "test.cpio.gz")
FILE = "/dev/shm/dirty"
SUMS = "/tmp/sums"
KEY_AT, NUMBER_AT, BOARD_KEY_AT, LOCKED_AT = 8, 4, 48, 60  # dirty.c
ZERO = bytes(PAGE)
BOOT_S = 180


@functools.cache
def prepare():
    """The image, once a process."""
    build_image()


def extents(fd):
    """(begin, end) of what is populated of a RAM file; to read a hole through a mapping would populate it."""
    end = 0
    while True:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end


def chunks(fd):
    """(offset, bytes) of what is populated, 1 MiB at most."""
    for begin, end in extents(fd):
        for at in range(begin, end, MIB):
            yield at, os.pread(fd, min(MIB, end - at), at)


def find(fd, key):
    """({number: offsets at which a page says that it is that one}, offset of the board or None) in a RAM file."""
    pages, board = {}, None
    for at, data in chunks(fd):
        for page in range(0, len(data), PAGE):
            if data[page + KEY_AT:page + KEY_AT + 8] == key:
                (number,) = struct.unpack_from("<I", data, page + NUMBER_AT)
                pages.setdefault(number, []).append(at + page)
            elif data[page + BOARD_KEY_AT:page + BOARD_KEY_AT + 8] == key and data[page:page + 4] == struct.pack("<I", payload.MAGIC):
                board = at + page
    return pages, board


def sum_of(fd, at):
    """Of a page but the word that is written."""
    return zlib.crc32(os.pread(fd, PAGE - 4, at + 4))


def wrong_pages(fd, key, sums, now):
    """What is wrong with the program's pages in a RAM file, by their sums and the board of now; as sentences."""
    pages, _ = find(fd, key)
    for number in sorted(pages.keys() - sums.keys()):
        yield f"a page says that it is number {number}, which there is not"
    rounds, position = divmod(now.dirtied_pages, now.area_bytes // PAGE)
    for number, sum_ in sums.items():
        places = pages.get(number, [])
        if len(places) != 1:
            yield f"page {number} is at {[hex(p) for p in places]}"
            continue
        if sum_of(fd, places[0]) != sum_:
            yield f"page {number}, at {places[0]:#x}, is not what it was"
        (word,) = struct.unpack("<I", os.pread(fd, 4, places[0]))
        is_good = is_of_round(word, number, now) if number < now.area_bytes // PAGE else word == 0
        if not is_good:
            yield f"page {number}, at {places[0]:#x}, is of round {word}: round {rounds}, at {position}"


def others(source, there, mine):
    """Of the pages that were not zero in the source, and are none of those at `mine`: how many there are, and how many differ."""
    count = differ = 0
    for at, here in chunks(source):
        other = os.pread(there, len(here), at)
        for page in range(0, len(here), PAGE):
            if at + page not in mine and here[page:page + PAGE] != ZERO:
                count += 1
                differ += here[page:page + PAGE] != other[page:page + PAGE]
    return {"pages": count, "differ": differ}


class LinuxGuest(MovedVm):
    """filled_mib: what its program has; area_mib of it are written, at dirty MiB/s. populated_mib: what is not zero, with Linux itself."""

    def __init__(self, hosts, name, memory_mib, filled_mib, area_mib, dirty, share):
        super().__init__(hosts, name)
        self.filled_mib, self.area_mib, self.dirty = filled_mib, area_mib, dirty
        self.key = os.urandom(8)
        prepare()
        for host in (hosts.a, hosts.b):
            for image in IMAGES:
                host.image(os.path.join(ROOT, "build/guest", image))
        self._start("--cpus=1", f"--memory={memory_mib}M", f"--share={share}", *(f"--{k}={i}" for k, i in zip(("kernel", "initrd"), IMAGES)),
                    "--append=console=ttyS0 quiet panic=-1")
        with self._console(hosts.a) as console:
            console.wait_ready(BOOT_S)
            self._wait_agent(hosts.a)
            self._begin(console)
        with open(self.ram(hosts.a), "rb", buffering=0) as f:
            self._look(f.fileno())

    def _console(self, host):
        return Console(host.path("run", "vm", self.name, "console.sock"))

    def _wait_agent(self, host):
        wait_for(f"the agent of {self.name} is connected", lambda: host.mete_json("vm", "show", self.name).get("agent"), 60, 0.05)

    def _begin(self, console):
        """What is to be known of it afterwards; then its program, which is ready when this is over."""
        console.check("echo 0 >/proc/sys/vm/compact_unevictable_allowed")
        console.check(f"find /bin /usr /lib /etc -type f -exec sha256sum {{}} + >{SUMS}")
        lines = console.check("cat /proc/iomem")
        (first, last), = re.findall(r"([0-9a-f]+)-([0-9a-f]+) : Kernel rodata", lines)
        self.constants = int(first, 16), int(last, 16) + 1 - int(first, 16)
        self.pid = int(console.check(f"dirty {FILE} {int.from_bytes(self.key, 'little'):x} {self.filled_mib} {self.area_mib} {self.dirty} "
                                     ">/tmp/dirty.out 2>&1 </dev/null & echo $!"))

    def _look(self, fd):
        """Finds its board and its pages: they are as they were made."""
        def up():
            pages, board = find(fd, self.key)
            return (pages, board) if board is not None else None
        pages, self.board_at = wait_for(f"{self.name} has its memory", up, BOOT_S, 0.2)
        if sorted(pages) != list(range(self.filled_mib * MIB // PAGE)) or any(len(places) != 1 for places in pages.values()):
            raise HostError(f"{self.name} has {len(pages)} pages of {self.filled_mib} MiB, or some of them twice")
        if os.pread(fd, 4, self.board_at + LOCKED_AT) != b"\1\0\0\0":
            raise HostError(f"{self.name} could not lock its memory")
        self.sums = {number: sum_of(fd, places[0]) for number, places in pages.items()}
        self.populated_mib = round(sum(data[page:page + PAGE] != ZERO for _, data in chunks(fd) for page in range(0, len(data), PAGE)) * PAGE / MIB)

    def differences(self, source, there, is_moved):
        _, now, wrong = self.boards(source, there)
        yield from wrong
        if not now:
            return
        yield from wrong_pages(there, self.key, self.sums, now)
        at, size = self.constants
        if os.pread(source, size, at) != os.pread(there, size, at):
            yield "the kernel's constants are not what they were"
        if is_moved:
            mine = {places[0] for places in find(source, self.key)[0].values()}
            self.others = others(source, there, mine)

    def inside(self, host):
        try:
            with contextlib.closing(self._console(host)) as console:
                console.wait_ready(60)
                # With one vCPU it has stopped before anybody else runs.
                status, said = console.run(f"kill -STOP {self.pid} && dirty check {FILE}; s=$?; kill -CONT {self.pid}; exit $s")
                wrong = [f"the guest says of its memory: {said}"] if status else []
                status, said = console.run(f"sha256sum -c {SUMS} | grep -v ': OK$'; dmesg | grep -E 'Oops|Bad page|general protection'")
                wrong += [f"the guest says: {said[:300]}"] if said else []
            self._wait_agent(host)
            return wrong
        except (ConsoleError, HostError) as e:
            return [f"the guest does not answer: {e}"]

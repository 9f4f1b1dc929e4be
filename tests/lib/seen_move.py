# SPDX-License-Identifier: Apache-2.0
"""A move as it is seen from outside: by the events of both VMMs, by what the guest does to its memory, and by that memory.

    link, hosts = LinkedHosts(mbit=400)        # a context manager: .a and .b, each in a namespace and on a CPU of its own
    vm = Guest(hosts, "v", memory_mib=512, populated_mib=300, area_mib=32, dirty=20)
    with Watch(hosts, vm) as seen:
        ... the move ...
    seen.compare()                             # what is wrong with the guest's memory where it runs now, as sentences

**Time.** Each VMM gets one monitor more than mete gives it, by a program that is started in QEMU's place; the events that come by
it have QEMU's own time. The guest's own silence is what a loop sees that looks at its clock in both RAM files each millisecond:
only a value that is greater than any seen before counts, as old ones come to the other side with the copy.

**Memory.** The source's RAM file is held open, so that it can be read when its VMM is gone: it is as it was when the guest
stopped there. What the guest does not write must be the same on both sides, byte for byte; where it stayed, as it was made. What it writes, round and round, one
word a page, must be what its board says that it has written by then: a page that was left behind is one round old. For the time of
that comparison the VMM that runs it is held (SIGSTOP). What the guest wrote over in between it has looked at itself
(`wrong_pages` of the board).

**The machine.** The same loop, with a real-time priority where the kernel gives it, says how late it was: a machine that was not
there for some milliseconds makes every figure worthless (`late_ms`). How late a process without a priority was at worst says what
other load there was (`ordinary_late_ms`)."""
import contextlib
import glob
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import payload  # noqa: E402

MIB, PAGE = 1 << 20, 4096
AREA_FIRST = 16 * MIB
LATE_MS = 5


class OutsideMonitor(threading.Thread):
    """The events of a VMM, from the time when it is there until it is gone: [(seconds, name, data)]"""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.events, self.is_gone = path, [], False
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.changed = threading.Condition()
        self.start()

    def run(self):
        buffer = b""
        with contextlib.suppress(OSError):
            self.sock.sendall(b'{"execute": "qmp_capabilities"}\n')
            while data := self.sock.recv(1 << 16):
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "event" in message:
                        at = message["timestamp"]
                        with self.changed:
                            self.events.append((at["seconds"] + at["microseconds"] / 1e6, message["event"], message.get("data", {})))
                            self.changed.notify_all()
        with self.changed:
            self.is_gone = True
            self.changed.notify_all()
        self.sock.close()

    def wait(self, name, timeout_s, status=None):
        """The first event of that name (of MIGRATION: with that status), or None."""
        def found():
            return next((e for e in list(self.events) if e[1] == name and (status is None or e[2].get("status") == status)), None)
        with self.changed:
            self.changed.wait_for(lambda: found() or self.is_gone, timeout_s)
        return found()

    def all(self, *names):
        return [e for e in list(self.events) if e[1] in names]


class OutsideQemu:
    """A program to be started in QEMU's place, with one monitor more, at DIR/PID."""

    def __init__(self, qemu, folder):
        self.dir = tempfile.mkdtemp(prefix="m", dir=folder)
        os.chmod(self.dir, 0o777)  # each VMM has a user of its own
        self.program = os.path.join(folder, os.path.basename(self.dir) + "-qemu")
        with open(self.program, "w", encoding="utf-8") as f:
            f.write('#!/bin/sh\ncase " $* " in\n*" -mon "*) set -- "$@" -chardev "socket,id=outside,server=on,wait=off,path='
                    f'{self.dir}/$$" -mon chardev=outside,mode=control ;;\nesac\nexec {qemu} "$@"\n')
        os.chmod(self.program, 0o755)

    def monitors(self):
        return set(glob.glob(f"{self.dir}/[0-9]*"))


def sum_of(data):
    """Of all but the words that the guest writes."""
    sum_ = 0
    for page in range(0, len(data), PAGE):
        sum_ = zlib.crc32(data[page + 4:page + PAGE], sum_)
    return sum_


def populate(ram, area_mib, populated_mib):
    """Noise for all of a guest's pages but the words that it writes; what it comes to, by MiB."""
    sums = {}
    with open(ram, "r+b", buffering=0) as f:
        for at in range(AREA_FIRST, AREA_FIRST + populated_mib * MIB, MIB):
            noise = os.urandom(MIB)
            sums[at] = sum_of(noise)
            if at >= AREA_FIRST + area_mib * MIB:
                os.pwrite(f.fileno(), noise, at)
                continue
            for page in range(0, MIB, PAGE):
                os.pwrite(f.fileno(), noise[page + 4:page + PAGE], at + page + 4)
    return sums


class MovedVm:
    """A VM that is started on host a, to be moved; what is the same of every guest. Its guest has a board in its memory."""

    board_at = payload.ADDRESS
    others = None  # what cannot be judged of its memory, as figures

    def __init__(self, hosts, name):
        self.hosts, self.name, self.monitor = hosts, name, None

    def _start(self, *words):
        """Defines and starts it; its monitor is there then."""
        self.hosts.a.mete("vm", "create", self.name, *words)
        known = self.hosts.outside["a"].monitors()
        self.hosts.a.mete("vm", "start", self.name)
        (path,) = self.hosts.outside["a"].monitors() - known
        self.monitor = OutsideMonitor(path)

    def ram(self, host):
        return f"{host.ram_dir}/{self.name}/ram0"

    def board(self, host):
        """What the guest says of itself, in its memory at that host; None: nothing."""
        return payload.read(self.ram(host), self.board_at)

    def where(self):
        """Names of the hosts at which it is defined."""
        return [n for n, h in (("a", self.hosts.a), ("b", self.hosts.b))
                if any(v["name"] == self.name for v in h.mete_json("vm", "list")["vms"])]

    def remove(self):
        for host in (self.hosts.a, self.hosts.b):
            if any(v["name"] == self.name for v in host.mete_json("vm", "list")["vms"]):
                host.mete("vm", "kill", self.name, check=False)
                host.mete("vm", "delete", self.name, check=False)

    def boards(self, source, there):
        """(board when it left, board now, what is wrong with it)"""
        before, now = (payload.parse(os.pread(fd, payload.SIZE, self.board_at)) for fd in (source, there))
        if not now or now.starts != before.starts:
            return before, None, [f"the guest was started anew: {now}"]
        wrong = []
        if now.wrong_pages:
            wrong.append(f"the guest found {now.wrong_pages} pages not as it had left them")
        if now.dirtied_pages < before.dirtied_pages or now.ms < before.ms:
            wrong.append(f"the guest went back: {before} to {now}")
        return before, now, wrong

    def differences(self, source, there, is_moved):
        """What is wrong with its memory, which is in the file `there`, and was in `source` when it left; as sentences."""
        raise NotImplementedError

    def inside(self, host):
        """What the guest, which runs at that host, says to be wrong, asked after it was looked at from outside."""
        return []


def is_of_round(word, n, now):
    """Whether page n of the working set has the round that the board says; the one that it is at may have been written, and not yet
    counted."""
    rounds, position = divmod(now.dirtied_pages, now.area_bytes // PAGE)
    return word in {rounds, rounds + 1} if n == position else word == rounds + (n < position)


class Guest(MovedVm):
    """One whose guest is the payload, with so much of its memory populated with noise."""

    def __init__(self, hosts, name, memory_mib, populated_mib=0, area_mib=16, dirty=0, tick=1, share="0.5"):
        super().__init__(hosts, name)
        self.area_mib, self.memory_mib, self.populated_mib = area_mib, memory_mib, max(populated_mib, area_mib)
        for host in (hosts.a, hosts.b):
            host.image(payload.program(), "payload.elf")
        self._start("--cpus=1", f"--memory={memory_mib}M", f"--share={share}", "--kernel=payload.elf",
                    f"--append=work=0 say=0 tick={tick} dirty={dirty} area={area_mib}")
        self._wait_up()
        self.sums = populate(self.ram(hosts.a), area_mib, self.populated_mib)

    def _wait_up(self):
        end = time.monotonic() + 60
        while not self.board(self.hosts.a):
            if time.monotonic() > end:
                raise RuntimeError("the payload does not come up")
            time.sleep(0.02)

    def differences(self, source, there, is_moved):
        before, now, wrong = self.boards(source, there)
        yield from wrong
        if not now:
            return
        pages = now.area_bytes // PAGE
        rounds, position = divmod(now.dirtied_pages, pages)
        size = os.fstat(there).st_size
        for at, sum_ in self.sums.items():
            if not is_moved and sum_of(os.pread(there, MIB, at)) != sum_:
                yield f"what was at {at:#x} is there no more"
        for at in [0, *range(AREA_FIRST, size, MIB)]:  # between them: the payload itself, which is at work
            here, other = os.pread(source, MIB, at), os.pread(there, MIB, at)
            if here == other and not AREA_FIRST <= at < AREA_FIRST + now.area_bytes:
                continue
            for page in range(0, min(MIB, size - at), PAGE):
                n = (at + page - AREA_FIRST) // PAGE
                if not 0 <= n < pages:
                    if here[page:page + PAGE] != other[page:page + PAGE]:
                        yield f"page {at + page:#x} is not what it was"
                    continue
                if here[page + 4:page + PAGE] != other[page + 4:page + PAGE]:
                    yield f"page {at + page:#x} of the working set is not what it was"
                word = struct.unpack_from("<I", other, page)[0]
                if not is_of_round(word, n, now):
                    yield f"page {at + page:#x}, number {n}, is of round {word}: round {rounds}, at {position}"


class Watch:
    """From before a move until it is over."""

    def __init__(self, hosts, guest):
        self.hosts, self.guest = hosts, guest
        self.source, self.destinations = guest.monitor, []
        self.source_ram = os.open(guest.ram(hosts.a), os.O_RDONLY)
        self.known = hosts.outside["b"].monitors()
        self.is_over = threading.Event()
        self.finder = threading.Thread(target=self._find, daemon=True)
        self.ticker = None
        self.ticks = {}

    def __enter__(self):
        self.ticker = subprocess.Popen(["/usr/bin/python3", "-B", os.path.abspath(__file__), *map(self.guest.ram, (self.hosts.a, self.hosts.b)),
                                        f"at={self.guest.board_at}"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ticker.stdout.readline()
        self.finder.start()
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.finder.join()
        out, _ = self.ticker.communicate()
        self.ticks = json.loads(out or "{}")

    def close(self):
        if self.source_ram >= 0:
            os.close(self.source_ram)
        self.source_ram = -1

    def _find(self):
        """Monitors of VMMs that are started at the destination, one for each attempt."""
        while not self.is_over.wait(0.01):
            for path in sorted(self.hosts.outside["b"].monitors() - self.known):
                with contextlib.suppress(OSError):
                    self.destinations.append(OutsideMonitor(path))
                    self.known.add(path)

    def stops(self):
        """[(STOP at the source, RESUME behind it or None, whether that was at the destination)], in seconds"""
        resumes = [(e[0], False) for e in self.source.all("RESUME")]
        for d in list(self.destinations):
            resumes += [(e[0], True) for e in d.all("RESUME")]
        found = []
        for stop in [e[0] for e in self.source.all("STOP")]:
            after = sorted(r for r in resumes if r[0] >= stop)
            found.append((stop, *(after[0] if after else (None, False))))
        return found

    def begun(self):
        """When QEMU was told to send, the first time."""
        e = self.source.wait("MIGRATION", 0, "setup")
        return e[0] if e else None

    def runs_at_both(self):
        """Whether the guest ran at the destination before it stopped at the source for good."""
        first = [e[0] for d in self.destinations for e in d.all("RESUME")]
        if not first:
            return False
        mine = [e for e in self.source.all("STOP", "RESUME")]
        return any(e[1] == "RESUME" and e[0] >= min(first) for e in mine) or not any(e[1] == "STOP" and e[0] <= min(first) for e in mine)

    def compare(self, host):
        """What is wrong with the guest's memory, which runs at that host now."""
        pid = host.mete_json("vm", "show", self.guest.name)["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                while f.read().rsplit(")", 1)[1].split()[0] != "T":
                    time.sleep(0.001)
                    f.seek(0)
            there = os.open(self.guest.ram(host), os.O_RDONLY)
            try:
                is_moved = host is not self.hosts.a
                return list(itertools.islice(self.guest.differences(self.source_ram, there, is_moved), 10))
            finally:
                os.close(there)
        finally:
            os.kill(pid, signal.SIGCONT)


# ---- the loop that looks at the guest's clock, a process of its own

def ordinary(pipe):
    """How late a process without a priority is, until nobody listens: what other load there is."""
    worst = 0.0
    while not select.select([pipe], [], [], 0)[0]:
        due = time.monotonic() + 0.002
        time.sleep(0.002)
        worst = max(worst, time.monotonic() - due)
    print(round(worst * 1000, 1), flush=True)


def tick(paths, at=payload.ADDRESS):
    """at: where the board is in each of them."""
    beside = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        priority = "fifo"
    except OSError:
        priority = "ordinary"
    fds, greatest, last, gaps, late = {}, 0, time.time(), [], []
    opened = 0.0
    due = time.monotonic()
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        if now - due > LATE_MS / 1000:
            late.append(now - due)
        if now > opened:
            opened = now + 0.05
            for p in paths:
                with contextlib.suppress(OSError):
                    if p in fds and os.fstat(fds[p]).st_ino != os.stat(p).st_ino:
                        os.close(fds.pop(p))  # of an attempt before
                    if p not in fds:
                        fds[p] = os.open(p, os.O_RDONLY)
            if select.select([0], [], [], 0)[0]:
                break
        wall = time.time()
        for p, fd in fds.items():
            data = os.pread(fd, 20, at)
            if len(data) < 20:
                continue
            words = struct.unpack("<5I", data)
            if words[0] == payload.MAGIC and words[4] > greatest:
                if greatest:
                    gaps.append((wall - last, last, paths.index(p)))
                    gaps = sorted(gaps, reverse=True)[:8] if len(gaps) > 64 else gaps
                greatest, last = words[4], wall
        due = max(due + 0.001, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    gaps = sorted(gaps, reverse=True)[:8]
    print(json.dumps({"gaps": [{"ms": round(g * 1000, 1), "from": t, "there": p} for g, t, p in gaps],
                      "late_ms": round(max(late, default=0) * 1000, 1), "late": len(late), "priority": priority,
                      "ordinary_late_ms": float(beside.communicate()[0])}), flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    place = [int(given.pop()[3:])] if given and given[-1].startswith("at=") else []
    tick(given, *place) if given else ordinary(0)

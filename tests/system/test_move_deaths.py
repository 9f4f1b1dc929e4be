# SPDX-License-Identifier: Apache-2.0
"""Either meted dies of SIGKILL at each crash point of a move, and VMMs, guard and keepers in its main states (4.16, S.7).

The points are made of the tables of core/move: each state, before it is recorded, when it is, and when what it brings with it
was done. After each death there is one runner, with all of its memory, that goes on writing to its disk, which both hosts see; the ledgers are what they were; the other side and a
meted that comes back find out by themselves what they are to do. METE_POINTS=all walks all of them; else it is a sample, whose
seed is printed.
"""
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest
import shared_disk
from app import App, AppError
from host import Host, HostError, ROOT, UID_COUNT, wait_for
from monitor import Monitor
from site_of_two import Pki, Site, address, listen

CRASH_BUILD = os.environ.get("METE_CRASH_BUILD") or os.environ.get("METE_BUILD") or "build/debug"
MOVES_MAX = 6
DISK = "v.raw"
FINAL = ("done", "aborted", "refused", "lost", "settled", "dropped")
LEVEL = ["--max-time", "300s", "--max-downtime", "50s"]  # there is a guard, and it has nothing to do on a machine that is busy
LONG = ["--max-time", "2h"]  # no guard: the place of its monitor is ours
NEVER = ["--max-time", "100ms", "--max-downtime", "100ms"]
WHEN = ("decided", "recorded", "done")


def states():
    """Of a source, and of a destination, as the tables have them."""
    with open(f"{ROOT}/src/core/move-tables.c") as f:
        rows = re.findall(r'\[MOVE_\w+\]\s*=\s*\{\s*"([a-z-]+)"', f.read())
    n = rows.index("holding")
    assert rows[0] == "profiling" and rows[-1] == "dropped" and len(rows) > 30
    return rows[:n], rows[n:]


# What brings a move into a state; where nothing is said here it goes through it on its way.
WAYS = {"countered": "declined", "dropping-there": "declined", "releasing": "declined", "aborted": "declined", "dropping": "declined",
        "dropped": "declined", "refused": "refused", "resuming": "destination dies", "closing": "destination dies",
        "broken": "destination dies", "orphaned": "source dies", "lost": "source dies", "returning": "returned"}
# A destination is short only where it has less than it said a moment ago, which no test brings about: test-move.c walks that.
POINTS = [(state, when) for side in states() for state in side for when in WHEN if state != "short"]


def chosen():
    if os.environ.get("METE_POINTS") == "all":
        return POINTS
    if os.environ.get("METE_POINTS"):
        return [p for p in POINTS if p[0] in os.environ["METE_POINTS"].split(",")]
    seed = int(os.environ.get("METE_SEED") or time.time())
    print(f"METE_SEED={seed}")
    return random.Random(seed).sample(POINTS, 5)


@pytest.fixture(scope="module")
def site():
    p = subprocess.run([f"{ROOT}/tools/fetch-qemu10"], capture_output=True, text=True)
    if p.returncode != 0:
        pytest.skip(f"QEMU 10.0 cannot be had: {p.stderr.strip()[-300:]}")
    program = os.path.join(ROOT, CRASH_BUILD, "src/meted/meted")
    if not os.path.exists(program):
        pytest.skip(f"{program} is not there: meson setup {CRASH_BUILD}")
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", f"b={address(1)}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        hosts = [Host(memory="2G", title=name, cpu_overcommit=8, qemu=p.stdout.strip(),
                      extra=listen(pki, n, name, f"peers-{name}.conf") + "[move]\nrate=1G\nshared_disks=yes\n") for n, name in enumerate("ab")]
        s = Site(pki, *hosts)
        for host in hosts:
            s.usual(host)
            stack.enter_context(host)
            host.kill_meted()
            shutil.copy(program, host.path("bin", "meted"))
            host.start_meted()
            for name in ("vmlinuz", "test.cpio.gz"):
                host.image(os.path.join(ROOT, "build/guest", name))
        shared_disk.make(s.a, DISK)
        shared_disk.share(DISK, s.a, s.b)
        s.made, s.moves, s.vm = 0, 0, None
        yield s
        if s.vm:
            s.vm.host.vms[s.vm.name] = s.vm


class Walk:
    """One move of the VM to the other host, in which somebody dies."""

    def __init__(self, site):
        self.site, self.vm = site, usable(site)
        self.source = self.vm.host
        self.there = site.b if self.source is site.a else site.a
        site.moves += 1
        self.id = f"w{site.moves}"
        self.free = {host: host.free() for host in (site.a, site.b)}

    def host(self, state):
        return self.source if state in states()[0] else self.there

    def peers(self):
        for host, other in ((self.source, self.there), (self.there, self.source)):
            self.site.wait_peer(host, other.options["title"], "they know each other", lambda p: p["reachable"])

    def arm(self, host, point):
        host.kill_meted()
        host.start_meted({"METE_CRASH_AT": f"move {point[0]} {point[1]}"})

    def ask(self, *level):
        self.answer = tempfile.TemporaryFile("w+")
        self.asker = subprocess.Popen([self.source.path("bin", "mete"), "move", self.vm.name, "--to", self.there.options["title"],
                                       "--id", self.id, *(level or LEVEL), "--socket", self.source.socket],
                                      stdin=subprocess.DEVNULL, stdout=self.answer, stderr=self.answer)
        return self.asker

    def state(self, host):
        """Where it is there, "" where nobody knows it, None where nobody answers."""
        try:
            p = host.mete("move", "show", self.id, "--json", check=False)
        except subprocess.TimeoutExpired:
            return None
        found = re.search(r'"state": ?"([a-z-]+)"', p.stdout)
        return found.group(1) if found else "" if p.returncode == 66 else None

    def reach(self, host, *wanted):
        def there():
            now = self.state(host)
            if now in FINAL and now not in wanted:
                raise HostError(f"it never was {wanted}: {self.story()}")
            return now in wanted
        try:
            return wait_for(f"it is {' or '.join(wanted)}", there, 120, 0.03)
        except HostError as e:
            raise HostError(f"{e}: {self.story()}") from None

    def meets(self, host, wanted):
        """Whether it is seen there in that state, before a later one."""
        later = FINAL + (("copying",) if wanted == "preparing-there" else ())
        return wait_for(f"it is {wanted}, or was", lambda: (now := self.state(host)) in (wanted, *later) and (now,), 120, 0.03) == (wanted,)

    def settle(self, timeout_s=240):
        """Until both sides are through; what is offered is declined."""
        def over():
            now = self.state(self.source), self.state(self.there)
            if now[0] == "countered":
                self.source.mete("move", "cancel", self.id, check=False)
            is_asked = now[0] != "" or self.asker.poll() is not None
            return now if is_asked and now[0] in FINAL + ("",) and now[1] in FINAL + ("",) else None
        try:
            return wait_for("both sides are through", over, timeout_s, 0.2)
        except HostError as e:
            raise HostError(f"{e}: {self.story()}") from None

    def story(self):
        self.answer.seek(0)
        return [self.answer.read()] + [(self.state(h), [(x["event"], x.get("text")) for x in h.events(self.id)]) for h in (self.source, self.there)]

    def check(self, ends, may_be_lost=False):
        """One runner with all of its memory, and nothing is left of the move."""
        vm = self.vm
        vm.disconnect()
        assert (ends[0] == "done") == (ends[1] == "settled"), ends
        assert may_be_lost == (ends[0] == "lost"), ends
        at = self.there if ends[0] == "done" else self.source
        other = self.source if at is self.there else self.there
        running = [h for h in (at, other) for v in h.mete_json("vm", "list")["vms"]
                   if v["name"] == vm.name and v["state"] == "running"]
        if may_be_lost:
            assert running in ([], [self.source]), ends  # on its way down, where it died
            assert vmms(other, vm.name) == []
            lose(self.site)
        else:
            assert running == [at] and vmms(other, vm.name) == [] and len(vmms(at, vm.name)) == 1, ends
            vm.host = at
            vm.wait_agent()
            assert vm.check("cd /tmp; sha256sum -c sum") == "/tmp/blob: OK"
            written = self.site.writer.count()
            wait_for("it writes to its disk", lambda: self.site.writer.count() > written, 60)
            assert not self.site.writer.failed()
        wait_for("nothing is left of it", lambda: not [c for h in (at, other) for c in h.claims()
                                                       if self.id in c["holder"] or (h is other and vm.name in c["holder"])], 60)
        if at is self.source and not may_be_lost:
            for host in (self.site.a, self.site.b):
                host.wait_free(self.free[host], 60)
        assert guards(self.site) == []


@contextlib.contextmanager
def slow(w, **then):
    """The copy goes on for as long as there is somebody to be killed; without a level for the downtime, which has a guard."""
    m = Monitor(w.source.path("run", "vm", w.vm.name, "guard.sock"))
    stop = threading.Event()

    def hold():
        with contextlib.suppress(OSError, HostError, ValueError):  # it is killed, too
            while not stop.wait(0.02):
                m.call("migrate-set-parameters", **{"max-bandwidth": 1 << 18})
            m.call("migrate-set-parameters", **{"max-bandwidth": 0, **then})
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            m.file.close()
        m.sock.close()


@contextlib.contextmanager
def asked(site):
    w = Walk(site)
    w.peers()
    yield w, w.ask()


@contextlib.contextmanager
def under_way(site, state):
    """A move whose source is in that state, and its copy goes on for as long as somebody is to be killed; where it was too fast to be
    seen so, another one."""
    for _ in range(MOVES_MAX):
        w = Walk(site)
        w.peers()
        with slow(w):
            asker = w.ask(*LONG)
            if w.meets(w.source, state):
                yield w, asker
                return
        ends = w.settle()
        asker.wait(240)
        w.check(ends)
    raise HostError(f"none of {MOVES_MAX} moves was seen {state}")


def find(host, *words):
    found = []
    for path in os.listdir("/proc"):
        if not path.isdigit():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{path}/cmdline", "rb") as f:
                line = f.read().decode(errors="replace")
            if host.dir in line and all(w in line for w in words) and open(f"/proc/{path}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(int(path))
    return found


def vmms(host, name):
    return [pid for pid in find(host, "-machine") if os.stat(f"/proc/{pid}").st_uid in range(host.uid_first, host.uid_first + UID_COUNT) and
            f"/{name}/" in open(f"/proc/{pid}/cmdline").read()]


def guards(site):
    return [pid for h in (site.a, site.b) for pid in find(h, "mete-guard", "--bound-us")]


def usable(site):
    """The VM that moves to and fro; another one where the last was lost."""
    if not site.vm:
        site.made += 1
        site.vm = site.a.vm(f"v{site.made}", memory="192M..448M", cpus="1..2", disk=DISK)
        site.writer = shared_disk.Writer(site.vm)
        site.vm.check("dd if=/dev/urandom of=/tmp/blob bs=1M count=16 2>/dev/null; sha256sum /tmp/blob >/tmp/sum")
        site.vm.app = App(site.vm, "own")
        assert site.vm.app.call("request", {"id": "l", "needs": ["memory:128M"]})["outcome"] == "granted"
    return site.vm


def lose(site):
    vm, site.vm = site.vm, None
    vm.disconnect()
    wait_for("it is known to be dead", lambda: vm.host.mete_json("vm", "show", vm.name)["state"] == "stopped", 60)
    vm.host.mete("vm", "delete", vm.name)
    for host in (site.a, site.b):
        host.vms.pop(vm.name, None)


def kill_vmm(host, name):
    for pid in vmms(host, name):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("point", chosen(), ids=lambda p: "-".join(p))
def test_meted_dies(site, point):
    state, when = point
    way = WAYS.get(state, "through")
    w = Walk(site)
    victim = w.host(state)
    other = None
    w.arm(victim, point)
    if way == "returned":  # it had all of it, and its VMM dies before anybody says whether it is to run
        w.arm(w.there, ("running", "decided"))
    w.peers()
    if way == "refused":
        w.there.mete("vm", "create", w.vm.name, "--memory=192M", "--kernel=vmlinuz")
        other = w.vm.name
    is_slow = way in ("destination dies", "source dies")
    with slow(w) if is_slow else contextlib.nullcontext():
        asker = w.ask(*(NEVER if way == "declined" else LONG if is_slow else LEVEL))
        if is_slow:
            w.reach(w.source, "copying")
            kill_vmm(w.source if way == "source dies" else w.there, w.vm.name)
    try:
        if way == "returned":
            assert w.there.meted.wait(120) == -9
            kill_vmm(w.there, w.vm.name)
            w.there.start_meted()

        def died():
            now = w.state(w.source)
            if now == "countered" and state != "countered":
                w.source.mete("move", "cancel", w.id, check=False)
            over = asker.poll() is not None and now in FINAL + ("",) and w.state(w.there) in FINAL + ("",)
            return victim.meted.poll() is not None or over
        wait_for(f"{point} is reached", died, 180, 0.05)
        time.sleep(0.5 if victim.meted.poll() is None else 0)
        assert victim.meted.poll() == -9, f"never reached: {w.story()}"
    finally:
        if victim.meted.poll() is None:
            victim.kill_meted()
        for host in (site.a, site.b):
            if host.meted.poll() is not None:
                host.start_meted()
        asker.wait(240)
    if other:
        w.there.mete("vm", "delete", other)
    ends = w.settle()
    w.check(ends, may_be_lost=way == "source dies")


# Whose process dies, while the source is in a state.
DEATHS = [(who, state) for who in ("guard", "source keeper", "destination keeper", "source VMM", "destination VMM", "cut")
          for state in ("preparing-there", "copying")]


@pytest.mark.parametrize("who,state", DEATHS if os.environ.get("METE_POINTS") == "all" else DEATHS[1::4])
def test_another_dies(site, who, state):
    """kill -9 of everybody else in it."""
    if (who, state) in (("guard", "preparing-there"), ("cut", "preparing-there")):
        pytest.skip("there is none yet")
    with under_way(site, state) if who != "guard" else asked(site) as (w, asker):
        host = w.source if who.startswith("source") else w.there
        if who == "guard":
            # A machine that is busy may have seen it come and go.
            for pid in wait_for("a guard", lambda: guards(site) or (w.state(w.source) in FINAL and [None]), 120):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL) if pid else None
        if who == "cut":  # both at once: neither is there to be told
            w.source.kill_meted()
            w.there.kill_meted()
            w.source.start_meted()
            w.there.start_meted()
        elif who.endswith("VMM"):
            kill_vmm(host, w.vm.name)
        elif who.endswith("keeper"):
            host.kill_keeper()
            host.start_keeper()
    ends = w.settle()
    asker.wait(240)
    w.check(ends, may_be_lost=ends[0] == "lost" and who == "source VMM")


def test_its_vmm_dies_when_all_of_it_is_there(site):
    """Forward: the destination has it, and runs it; and it moves on from there."""
    w = Walk(site)
    w.peers()
    with slow(w, **{"downtime-limit": 5000}):
        asker = w.ask(*LONG)
        wait_for("the source's VMM sends", lambda: json.loads(w.source.mete("move", "show", w.id, "--json", check=False).stdout or "{}")
                 .get("progress", {}).get("sent_bytes"), 120, 0.03)
        w.source.meted.send_signal(signal.SIGSTOP)
    try:
        w.reach(w.there, "complete")
        kill_vmm(w.source, w.vm.name)
    finally:
        w.source.meted.send_signal(signal.SIGCONT)
    ends = w.settle()
    asker.wait(240)
    assert ends == ("done", "settled"), ends
    w.check(ends)
    w = Walk(site)
    w.peers()
    asker = w.ask()
    ends = w.settle()
    asker.wait(240)
    assert ends == ("done", "settled"), w.story()
    w.check(ends)


def test_an_attempt_is_repeated_with_its_leases(site):
    """What the VM's programs were granted is there again with the second attempt, and nothing twice."""
    with under_way(site, "copying") as (w, asker):
        before = {lease["request"]: lease["needs"] for lease in w.source.leases() if not lease["request"].startswith("move:")}
        kill_vmm(w.there, w.vm.name)
    ends = w.settle()
    asker.wait(240)
    shown = w.source.mete_json("move", "show", w.id)
    assert ends == ("done", "settled") and shown["attempt"] == 2, (ends, shown)
    w.check(ends)
    assert {lease["request"]: lease["needs"] for lease in w.there.leases()} == before and "own/l" in str(before) or len(before) == 2


def test_words_that_come_too_late_are_refused(site):
    """Nothing was done, and that is said."""
    w = Walk(site)
    w.peers()
    asker = w.ask()
    ends = w.settle()
    asker.wait(240)
    assert ends == ("done", "settled")
    for words in (["cancel", w.id], ["accept", w.id, "--max-time", "300s"]):
        p = w.source.mete("move", *words, check=False)
        assert p.returncode != 0 and "too late" in p.stderr, p
    again = w.source.http("POST", f"/v1/vms/{w.vm.name}/move", {"to": w.there.options["title"], "id": w.id})
    assert again[0] in (200, 404), again  # it is there no more; where it is known its end is said at once
    w.check(ends)
    w = Walk(site)
    w.peers()
    asker = w.ask(*NEVER)
    w.reach(w.source, "countered")
    shown = w.source.mete_json("move", "show", w.id)
    assert len(shown["offers"]) == 1, shown  # the one that is held
    w.source.mete("move", "cancel", w.id)
    ends = w.settle()
    w.source.mete("move", "cancel", w.id)  # once more: it is as it was wanted
    asker.wait(240)
    w.check(ends)

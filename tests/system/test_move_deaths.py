# SPDX-License-Identifier: Apache-2.0
"""Either meted dies of SIGKILL at each crash point of a move, either VMM while a meted stands at one, guard and keepers in its main
states (4.16, S.7).

The points are made of the tables of core/move: each state, before it is recorded, when it is, and when what it brings with it
was done. After each death there is one runner, with all of its memory, that goes on writing to its disk, which both hosts see and which has all that was written; the ledgers are what they were; the other side and a
meted that comes back find out by themselves what they are to do. A runner that was killed is known to be dead, and nothing is left of it.
METE_POINTS=all walks all of them, METE_POINTS=STATE,... those of these states; else it is a few, the deaths of meted a sample whose seed is printed.
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
import time

import pytest
import shared_disk
import vmms as processes
from app import App
from host import Host, HostError, ROOT, wait_for
from monitor import slowed
from qemu10 import or_skip, qemu10
from site_of_two import Pki, Site, address, listen
from vmms import kill_vmm, vmms

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
        "broken": "destination dies", "orphaned": "source dies", "lost": "source dies", "returning": "returned", "short": "short"}
ENDS = {"declined": "aborted", "refused": "refused", "short": "refused"}
POINTS = [(state, when) for side in states() for state in side for when in WHEN]

# ---- whose VMM can be killed where, and what comes of it: (how it ends at the source, at which side the VM is dead)

DEAD_THERE = ("done", "destination")  # by the books it was the destination's, and ran
# There is none of it, or it is dead already; the destination's ends by itself where the source's died in the middle of the copy.
NO_SOURCE = ("orphaned", "lost", "done", "settling", "settled")
DESTINATION = ("copying", "committing", "committed", "finishing", "done", "ready", "incoming", "complete", "running",
               "confirming", "settling", "settled")
VMM_POINTS = [(*p, "source") for p in POINTS if p[0] not in NO_SOURCE] + [(*p, "destination") for p in POINTS if p[0] in DESTINATION]
MAY_BE_GONE = [("finishing", "done", "source"), ("confirming", "done", "source")]  # it was told to end
FEW = [("reserved", "recorded", "source"), ("complete", "decided", "source"), ("running", "recorded", "destination")]


def source_dies(state, when):
    if state in ("committing", "committed", "finishing", "complete", "running", "confirming"):
        return {("done", None)}  # all of it is there: forward
    if state in ("releasing", "aborted", "refused"):
        return {(ENDS[WAYS[state]], "source")}  # the move was over before
    return {("lost", "source"), *([("aborted", "source")] if (state, when) == ("dropped", "done") else [])}


def destination_dies(state, when):
    if state == "committed" and when == "done":  # it was told to run, and either had heard it or not
        return {("aborted", None), DEAD_THERE}
    if state in ("committing", "committed") or (state == "running" and when != "done"):
        return {("aborted", None)}  # nobody had told it to run: given back
    if state in ("ready", "incoming", "complete", "copying"):  # an attempt more, where all of it was not there yet
        return {("done", None), *([("aborted", None)] if state != "copying" else [])}
    return {DEAD_THERE}


def wanted(points):
    """Of METE_POINTS; [] where that is not set."""
    words = os.environ.get("METE_POINTS", "").split(",")
    return [p for p in points if words == ["all"] or p[0] in words]


def chosen():
    if os.environ.get("METE_POINTS"):
        return wanted(POINTS)
    seed = int(os.environ.get("METE_SEED") or time.time())
    print(f"METE_SEED={seed}")
    return random.Random(seed).sample(POINTS, 4)


@pytest.fixture(scope="module")
def site():
    with or_skip():
        qemu = qemu10()
    program = os.path.join(ROOT, CRASH_BUILD, "src/meted/meted")
    if not os.path.exists(program):
        pytest.skip(f"{program} is not there: meson setup {CRASH_BUILD}")
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", f"b={address(1)}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        hosts = [Host(memory="2G", title=name, cpu_overcommit=8, qemu=qemu,
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
        s.disk = shared_disk.make(s.a, DISK)
        shared_disk.share(DISK, s.a, s.b)
        s.made, s.moves, s.vm = 0, 0, None
        yield s
        if s.vm:
            s.vm.host.vms[s.vm.name] = s.vm


def claims_of(host, name):
    """Without the component: that is each host's own."""
    return sorted((c["holder"], c["component"].split(":")[0], c["amount"]) for c in host.claims() if name in c["holder"])


class Walk:
    """One move of the VM to the other host, in which somebody dies."""

    def __init__(self, site):
        self.site, self.vm = site, usable(site)
        self.source = self.vm.host
        self.there = site.b if self.source is site.a else site.a
        site.moves += 1
        self.id = f"w{site.moves}"
        self.free = {host: host.free() for host in (site.a, site.b)}
        self.claims = claims_of(self.source, self.vm.name)
        self.asker, self.sayings, self.other, self.reservations, self.slowly = None, [], None, [], contextlib.ExitStack()

    def host(self, state):
        return self.source if state in states()[0] else self.there

    def peers(self):
        for host, other in ((self.source, self.there), (self.there, self.source)):
            self.site.wait_peer(host, other.options["title"], "they know each other", lambda p: p["reachable"])

    def arm(self, host, point, stops=False):
        """Its meted dies there, or stands there until it is told to go on."""
        host.kill_meted()
        host.start_meted({"METE_CRASH_AT": f"move {point[0]} {point[1]}", **({"METE_CRASH_STOPS": "1"} if stops else {})})

    def stands(self, host):
        try:
            wait_for("it stands there", lambda: processes.state(host.meted.pid) == "T" or host.meted.poll() is not None, 180, 0.01)
            assert host.meted.poll() is None, host.log("meted")[-2000:]
        except HostError as e:
            raise HostError(f"{e}: {self.story()}") from None

    def say(self, host, *words):
        """While nobody may be there to answer."""
        self.sayings.append(host.mete_start(*words))

    # -- the ways

    def set_out(self, point, stops=False, is_slow=False):
        """The move begins, and comes to that point by itself: what brings it there is done."""
        way = WAYS.get(point[0], "through")
        self.arm(self.host(point[0]), point, stops)
        if way == "returned":  # it had all of it, and its VMM dies before anybody says whether it is to run
            self.arm(self.there, ("running", "decided"))
        elif way == "short":
            self.fill()
            self.arm(self.source, ("reserving-there", "decided"), stops=True)
        self.peers()
        if way == "refused":
            self.other = self.vm.name
            self.there.mete("vm", "create", self.other, "--memory=192M", "--kernel=vmlinuz")
        is_slow = is_slow or way in ("destination dies", "source dies")
        if is_slow:
            self.slowly.enter_context(slowed(self.source, self.vm.name))
        self.ask(*(NEVER if way == "declined" else LONG if is_slow else LEVEL))
        if way == "declined" and point[0] != "countered":
            self.reach(self.source, "countered")
            self.say(self.source, "move", "cancel", self.id)
        elif way in ("destination dies", "source dies"):
            self.reach(self.source, "copying")
            kill_vmm(self.source if way == "source dies" else self.there, self.vm.name)
            self.slowly.close()
        elif way == "returned":
            assert self.there.meted.wait(120) == -signal.SIGKILL
            kill_vmm(self.there, self.vm.name)
            self.there.start_meted()
        elif way == "short":
            self.stands(self.source)
            self.reserve("cpu:1,share>=0.9")  # what is left is what the VM has
            self.source.meted.send_signal(signal.SIGCONT)

    def fill(self):
        """The destination has one whole CPU free, in each of its peers' eyes, and no more."""
        cpus = [c["free"] // 1000 for c in self.there.ledger()["components"] if c["id"].startswith("cpu:")]
        left = sum(cpus) - 1
        while left:
            n = min(left, len(cpus))
            self.reserve(f"cpu:{n},share>=1")
            left -= n

    def reserve(self, need):
        name = f"{self.id}-{len(self.reservations)}"
        self.reservations.append(name)
        status, said = self.there.http("POST", "/v1/reservations", {"id": name, "needs": [need]})
        assert status == 200 and json.loads(said)["outcome"] == "granted", (need, said, self.there.free())

    def come_to_an_end(self):
        """Whoever died is there again, and both sides are through; how they ended."""
        self.slowly.close()
        for host in (self.source, self.there):
            if host.meted.poll() is not None:
                host.start_meted()
            host.meted.send_signal(signal.SIGCONT)
        for process in (self.asker, *self.sayings):
            process.wait(240)
        if self.other:
            self.there.mete("vm", "delete", self.other)
        ends = self.settle()
        for name in self.reservations:
            self.there.mete("unreserve", name)
        return ends

    # -- how it goes

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

    def check(self, ends, dead=None):
        """One runner with all of its memory and of its disk, and nothing is left of the move. dead: at which side the runner was killed, if it
        was: then that is known there, and nothing is left of it either."""
        vm, site = self.vm, self.site
        vm.disconnect()
        assert (ends[0] == "done") == (ends[1] == "settled"), ends
        at = self.there if ends[0] == "done" else self.source
        other = self.source if at is self.there else self.there
        if dead:
            assert at is (self.source if dead == "source" else self.there), (ends, dead)
            vm.host = at
            wait_for("it is known to be dead", lambda: vm.show()["state"] == "stopped", 60, 0.1)
            assert vmms(at, vm.name) == vmms(other, vm.name) == []
            wait_for("the other host has forgotten it", lambda: vm.name not in names(other), 60, 0.1)
            lose(site)
            wait_for("nothing is left of it", lambda: site.a.claims() == site.b.claims() == [], 60, 0.1)
        else:
            assert ends[0] != "lost", ends
            running = [h for h in (at, other) for v in h.mete_json("vm", "list")["vms"]
                       if v["name"] == vm.name and v["state"] == "running"]
            assert running == [at] and vmms(other, vm.name) == [] and len(vmms(at, vm.name)) == 1, ends
            vm.host = at
            vm.wait_agent()
            assert vm.check("cd /tmp; sha256sum -c sum") == "/tmp/blob: OK"
            written = site.writer.count()
            wait_for("it writes to its disk", lambda: site.writer.count() > written, 60)
            assert not site.writer.failed() and shared_disk.is_locked(site.disk)
            wait_for("nothing is left of it", lambda: not [c for h in (at, other) for c in h.claims()
                                                           if self.id in c["holder"] or (h is other and vm.name in c["holder"])], 60)
            wait_for("it has what it had", lambda: claims_of(at, vm.name) == self.claims, 60, 0.1)
        assert site.writer.lost(site.disk) == []
        if at is self.source and not dead:
            for host in (site.a, site.b):
                host.wait_free(self.free[host], 60)
        assert guards(site) == []


@contextlib.contextmanager
def walking(site):
    """A walk; where it fails the next one begins anew, with another VM."""
    w = Walk(site)
    try:
        yield w
    except BaseException:
        w.slowly.close()
        for host in (site.a, site.b):
            host.kill_meted()
            host.start_meted()
            for reservation in w.reservations:
                host.mete("unreserve", reservation, check=False)
            host.mete("move", "cancel", w.id, check=False)
        for process in (w.asker, *w.sayings):
            if process:
                process.wait(240)
        for host in (site.a, site.b):
            host.mete("vm", "kill", w.vm.name, check=False)
            with contextlib.suppress(HostError):
                wait_for("it is gone", lambda h=host: h.mete("vm", "delete", w.vm.name, check=False) and w.vm.name not in names(h), 60, 0.2)
        w.vm.disconnect()
        site.vm = None
        raise


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
        with slowed(w.source, w.vm.name):
            asker = w.ask(*LONG)
            if w.meets(w.source, state):
                yield w, asker
                return
        ends = w.settle()
        asker.wait(240)
        w.check(ends)
    raise HostError(f"none of {MOVES_MAX} moves was seen {state}")


def names(host):
    return [v["name"] for v in host.mete_json("vm", "list")["vms"]]


def guards(site):
    return [pid for h in (site.a, site.b) for pid in processes.find(h, "mete-guard", "--bound-us")]


def usable(site):
    """The VM that moves to and fro; another one where the last was lost."""
    if not site.vm:
        site.made += 1
        shared_disk.make(site.a, DISK)
        site.vm = site.a.vm(f"v{site.made}", memory="192M..448M", cpus="1..2", disk=DISK)
        site.writer = shared_disk.Writer(site.vm)
        site.vm.check("dd if=/dev/urandom of=/tmp/blob bs=1M count=16 2>/dev/null; sha256sum /tmp/blob >/tmp/sum")
        site.vm.app = App(site.vm, "own")
        assert site.vm.app.call("request", {"id": "l", "needs": ["memory:128M"]})["outcome"] == "granted"
    return site.vm


def lose(site):
    vm, site.vm = site.vm, None
    vm.disconnect()
    wait_for("it may be deleted", lambda: vm.host.mete("vm", "delete", vm.name, check=False).returncode == 0, 60, 0.1)
    for host in (site.a, site.b):
        host.vms.pop(vm.name, None)


@pytest.mark.parametrize("point", chosen(), ids=lambda p: "-".join(p))
def test_meted_dies(site, point):
    with walking(site) as w:
        victim = w.host(point[0])
        w.set_out(point)
        try:
            wait_for(f"{point} is reached", lambda: victim.meted.poll() is not None, 180, 0.02)
        except HostError as e:
            raise HostError(f"{e}: {w.story()}") from None
        assert victim.meted.poll() == -signal.SIGKILL
        w.check(w.come_to_an_end(), dead="source" if WAYS.get(point[0]) == "source dies" else None)


@pytest.mark.parametrize("point", wanted(VMM_POINTS) or FEW, ids="-".join)
def test_vmm_dies(site, point):
    """A source's that dies before all of it is at the destination is dead, and both sides say so; after that the move goes forward. A
    destination's costs an attempt, or the move; where it may have run, it was the VM's death."""
    state, when, whose = point
    with walking(site) as w:
        w.set_out((state, when), stops=True, is_slow=state == "incoming")  # of the rest nothing comes before somebody dies
        w.stands(w.host(state))
        pids = kill_vmm(w.source if whose == "source" else w.there, w.vm.name)
        expected = (source_dies if whose == "source" else destination_dies)(state, when)
        if expected == {("lost", "source")} and w.host(state) is w.there:  # who runs has heard it before the other goes on
            wait_for("it is known to be dead", lambda: w.vm.show()["state"] != "running", 60)
        ends = w.come_to_an_end()
        assert len(pids) == 1 or point in MAY_BE_GONE, pids
        is_dead = not runs_at(w)
        fits = [d for end, d in expected if end == ends[0] and (d is not None) == is_dead]
        assert fits, (ends, is_dead, expected, w.story())
        said = w.source.mete_json("move", "show", w.id)
        assert ends[0] == "done" or (said["reason"] and said["sentence"]), said
        assert ends[0] != "lost" or [e["event"] for e in w.source.events(w.id)].count("lost") == 1
        w.check(ends, dead=fits[0])


def runs_at(w):
    """Where it does, once whoever died is known to be dead."""
    def found():
        seen = {h: v["state"] for h in (w.source, w.there) for v in h.mete_json("vm", "list")["vms"] if v["name"] == w.vm.name}
        is_known = all((state == "running") == bool(vmms(h, w.vm.name)) for h, state in seen.items())
        return is_known and [[h for h, state in seen.items() if state == "running"]]
    return wait_for("it is known where it runs", found, 60, 0.1)[0]


# Whose process dies, while the source is in a state.
DEATHS = [(who, state) for who in ("guard", "source keeper", "destination keeper", "source VMM", "destination VMM", "cut")
          for state in ("preparing-there", "copying")]


@pytest.mark.parametrize("who,state", DEATHS if os.environ.get("METE_POINTS") == "all" else DEATHS[1:6:4])
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
    w.check(ends, dead="source" if ends[0] == "lost" and who == "source VMM" else None)


def test_its_vmm_dies_when_all_of_it_is_there(site):
    """Forward: the destination has it, and runs it; and it moves on from there."""
    w = Walk(site)
    w.peers()
    with slowed(w.source, w.vm.name, **{"downtime-limit": 5000}):
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

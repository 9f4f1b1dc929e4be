# SPDX-License-Identifier: Apache-2.0
"""A running VM changes hypervisor on one server without being copied (5.1-5.13, 5.21): real meted's, a real keeper, real guests;
the service processor's part is played by the harness (tests/lib/handing.py), so that words can be lost and steps be stopped at.
METE_HANDOVERS=N: so many there and back. METE_POINTS=all: each death; else a few by chance (METE_SEED)."""
import contextlib
import fcntl
import http.client
import os
import random
import re
import shutil
import signal
import socket
import threading
import time
import warnings

import pytest

from handing import Leader, Pair, counter, is_whole, move, new_vm, other, ram_files, running, vmms
from host import ROOT, HostError, wait_for

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")

CRASH_BUILD = os.environ.get("METE_CRASH_BUILD") or os.environ.get("METE_BUILD") or "build/debug"
MIB = 1 << 20
NODE = "memory:node0"


@pytest.fixture(scope="module")
def pair():
    with Pair() as p:
        program = os.path.join(ROOT, CRASH_BUILD, "src/meted/meted")
        if os.path.exists(program):
            os.unlink(p.path("bin", "meted"))
            shutil.copy(program, p.path("bin", "meted"))
        p.guest = None
        for name in ("vmlinuz", "test.cpio.gz"):
            p.image(os.path.join(ROOT, "build/guest", name))
        yield p


@pytest.fixture
def vm(pair):
    """A VM with leases, whichever hypervisor has it."""
    guest = pair.guest
    if guest:  # a test that failed may have left it at the other, or dead
        at = running(pair, guest.name)
        if not at:
            forget_vm(pair, guest)
        elif at[0] is not guest.host:
            move(guest, at[0])
    if not pair.guest:  # the memory of one that was lost is where it was
        pair.guest = new_vm(pair, max((pair.a, pair.b), key=lambda h: pair.shares[h.hypervisor_name].get(NODE, 0)))
    return pair.guest


def test_there_and_back(pair, vm):
    """With a leased vCPU and a leased DIMM; the same memory, a counter that never goes back, and a ledger each that agrees."""
    for _ in range(int(os.environ.get("METE_HANDOVERS") or 2)):
        source, target = vm.host, other(pair, vm.host)
        files, n = ram_files(vm), counter(vm)
        assert len(files) == 2, files
        claims = sorted((c["holder"], c["amount"]) for c in source.claims() if vm.name in c["holder"])
        shares = {name: dict(s) for name, s in pair.shares.items()}
        assert pair.hand_over(vm, target) == "running", pair.story(pair.leader.id)
        assert ram_files(vm) == files
        assert counter(vm) >= n
        is_whole(pair, vm, target)
        assert sorted((c["holder"], c["amount"]) for c in target.claims() if vm.name in c["holder"]) == claims
        assert vm.name not in [v["name"] for v in source.mete_json("vm", "list")["vms"]]
        assert not [c for c in source.claims() if vm.name in c["holder"]]
        # what it has changed its manager with it
        has = sum(p["amount"] for p in pair.leader.said["quiesced"]["guest"]["parts"] if p["component"] == NODE)
        assert has >= (192 + 128) * MIB
        for h, sign in ((source, -1), (target, 1)):
            name = h.hypervisor_name
            assert pair.shares[name][NODE] == shares[name][NODE] + sign * has
            assert {s["component"]: s["amount"] for s in h.partition()["shares"]}[NODE] == pair.shares[name][NODE]
        said = pair.leader.said
        assert said["running"]["at_us"] > (said.get("given") or said["gone"])["at_us"] > 0
        control = said["quiesced"]["guest"]["control"]
        assert [(v["slot"], v["use"]) for v in control["vcpus"]] == [(0, "base"), (1, "granted")], control


def test_what_is_leased_can_be_given_back_after_it(pair, vm):
    assert pair.hand_over(vm, other(pair, vm.host)) == "running"
    is_whole(pair, vm, vm.host)
    vm.app.call("release", {"id": "m"})
    wait_for("its DIMM is gone", lambda: len(ram_files(vm)) == 1, 60, 0.1)
    assert vm.app.call("request", {"id": "m2", "needs": ["memory:128M"]})["outcome"] == "granted"
    assert len(ram_files(vm)) == 2


def test_refusals(pair, vm):
    source, target = vm.host, other(pair, vm.host)

    class Nobody:
        name = "nobody"

    pair.leader = Leader(pair, Nobody, source, target)
    assert pair.leader.lead() == "back"
    assert "no VM is called nobody" in pair.leader.said["back"]["sentence"]
    # what stays with the source cannot leave as it is
    assert pair.hand_over(vm, target, keeps=[NODE]) == "back"
    parts = {p["component"]: p for p in pair.leader.said["classified"]["guest"]["parts"]}
    assert parts[NODE]["portion"] != "reassignable" and parts[NODE]["why"] == "kept", parts
    assert pair.leader.said["back"]["reason"] == "unreassignable"
    # while it is handed over nothing else is done to it
    pair.leader = Leader(pair, vm, source, target)
    assert pair.leader.lead(upto="separate") == "separate"
    for words in (("vm", "stop", vm.name), ("vm", "kill", vm.name), ("move", vm.name, "--to", "b")):
        p = source.mete(*words, check=False)
        assert p.returncode != 0 and "handed over" in p.stderr, p.stderr
    assert pair.leader.back() == "back"
    # a name that is taken
    target.mete("vm", "create", vm.name, "--memory=192M", "--kernel=vmlinuz")
    assert pair.hand_over(vm, target) == "back"
    assert "already" in pair.leader.said["dropped"]["sentence"]
    target.mete("vm", "delete", vm.name)
    # no word of anybody but root
    status, _ = source.http("POST", "/v1/handover/messages", {"says": "classify"})
    assert status == 400
    is_whole(pair, vm, source)


def test_a_name_that_is_taken_starts(pair, vm):
    """What the target has of that name starts as ever while it is offered another: it waits for no stream, and is told to run."""
    source, target = vm.host, other(pair, vm.host)
    pair.leader = leader = Leader(pair, vm, source, target)
    assert leader.lead(upto="offer") == "offer"
    guest = leader.said["classified"]["guest"]
    assert leader.back() == "back"
    own = target.vm(vm.name, cpus=1, memory="128M", start=False)
    stop = threading.Event()

    def offer():
        while not stop.is_set():
            pair.leader = Leader(pair, vm, source, target)
            pair.leader.say(target, "offer", guest=guest)
    t = threading.Thread(target=offer)
    t.start()
    try:
        wait_for("it may be started", lambda: target.mete("vm", "start", vm.name, check=False).returncode == 0, 60, 0)
        wait_for("it runs", lambda: target in running(pair, vm.name), 60, 0.1)
    finally:
        stop.set()
        t.join()
    own.wait_ready()
    own.disconnect()
    wait_for("the last of them is over", lambda: target.mete("vm", "kill", vm.name, check=False).returncode == 0, 60, 0.1)
    wait_for("it is gone", lambda: target.mete("vm", "delete", vm.name, check=False).returncode == 0, 60, 0.1)
    target.vms.pop(vm.name, None)
    is_whole(pair, vm, source)


def test_cancelled_before_it_is_given(pair, vm):
    """Everything is ready, and then it is called off: nothing has changed."""
    source, target = vm.host, other(pair, vm.host)
    free = {h: h.free() for h in (source, target)}
    for upto in ("quiesce", "inform", "give"):
        pair.leader = Leader(pair, vm, source, target)
        assert pair.leader.lead(upto=upto) == upto
        assert pair.leader.back() == "back"
        is_whole(pair, vm, source)
        for h in (source, target):
            h.wait_free(free[h], 60)
    assert pair.hand_over(vm, target) == "running"
    is_whole(pair, vm, target)


def test_called_off_in_the_middle(pair, vm):
    """While the source's VMM is prepared or its memory being lent, while the target makes its own ready: nothing stays lent."""
    source, target = vm.host, other(pair, vm.host)
    free = {h: h.free() for h in (source, target)}
    for upto, to in (("quiesce", source), ("inform", target)):
        for late_ms in (0, 3, 10, 30, 200):
            pair.leader = leader = Leader(pair, vm, source, target)
            assert leader.lead(upto=upto) == upto
            leader.say(to, upto, **({"guest": leader.said["quiesced"]["guest"]} if upto == "inform" else {}))
            time.sleep(late_ms / 1000)
            assert leader.back() == "back"
            is_whole(pair, vm, source)
            for h in (source, target):
                h.wait_free(free[h], 60)
    assert pair.hand_over(vm, target) == "running"
    is_whole(pair, vm, target)


def test_bound_of_the_gap(pair, vm):
    """The other side never sees that the guest stands: at the bound it runs here again, and the record says so to all."""
    source, target = vm.host, other(pair, vm.host)
    stood = []
    for _ in range(3):  # a machine that is busy with other things may be late for once
        pair.leader = leader = Leader(pair, vm, source, target, gap_ms=300)
        leader.lost.add("stands")
        assert leader.lead() == "back"
        assert leader.said["back"]["reason"] == "timeout", leader.said["back"]
        is_whole(pair, vm, source)
        (text,) = [e["text"] for e in source.events(leader.id) if e["event"] == "stood"]
        stood.append(float(re.search(r"([0-9.]+) ms", text)[1]))
        assert stood[-1] > 100, text
        if stood[-1] <= 300:
            break
    else:
        warnings.warn(f"it stood longer than 300 ms each time: {stood}")
    # a bound that would be reached before it could run again
    pair.leader = leader = Leader(pair, vm, source, target, gap_ms=20)
    assert leader.lead() == "back"
    assert leader.said["back"]["reason"] == "invalid" and "20 ms" in leader.said["back"]["sentence"], leader.said["back"]
    is_whole(pair, vm, source)


def test_it_cannot_run_at_its_target(pair, vm):
    """Its disk is locked there by somebody as all of it came: QEMU refuses to run it. It never did, and runs on at its source."""
    source, target = vm.host, other(pair, vm.host)
    disk, name, problems = pair.path("images", "d.raw"), target.hypervisor_name, []
    with open(disk, "wb") as f:
        f.truncate(16 * MIB)
    os.chmod(disk, 0o666)  # QEMU opens it to write
    d = source.vm("d", cpus=1, memory="128M", disk="d.raw")
    pair.kill_hypervisor(name)
    pair.start_hypervisor(name, {"METE_CRASH_AT": "handover target-committing decided", "METE_CRASH_STOPS": "1"})
    pair.leader = leader = Leader(pair, d, source, target)

    def lock():
        try:
            wait_for("both stand", lambda: is_stopped(pair.processes[name]), 120, 0.005)
            with open(disk, "r+b") as f:
                try:
                    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                finally:
                    pair.processes[name].send_signal(signal.SIGCONT)
                wait_for("it is given back", lambda: "target-returning" in story_of(target, leader.id), 60, 0.1)
        except Exception as e:  # pylint: disable=broad-except
            problems.append(e)
    t = threading.Thread(target=lock)
    t.start()
    try:
        end = leader.lead()
    finally:
        t.join()
    assert not problems, problems
    assert end == "back", (end, pair.story(leader.id))
    wait_for("it runs at its source", lambda: running(pair, "d") == [source] and len(vmms(pair, "d")) == 1, 60, 0.1)
    d.wait_agent()
    d.check("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null")
    d.disconnect()
    source.mete("vm", "kill", "d")
    wait_for("it is gone", lambda: source.mete("vm", "delete", "d", check=False).returncode == 0, 60, 0.1)
    source.vms.pop("d")
    is_whole(pair, vm, source)


# ---- deaths

def states():
    """Of a source, and of a target, as the tables have them, with how they come about."""
    with open(f"{ROOT}/src/core/handover-tables.c") as f:
        rows = re.findall(r'\[(?:SOURCE|TARGET)_\w+\]\s*=\s*\{\s*"((?:source|target)-[a-z-]+)",?([^\n]*)', f.read())
    assert len(rows) > 25 and len({r[0] for r in rows}) == len(rows), rows
    return [(name, "is_swift = true" in rest) for name, rest in rows]


# What brings a handover into a state; where nothing is said here it goes through it on its way.
WAYS = {"source-closing": "recalled", "source-resuming": "bound", "target-complete": "bound", "source-releasing": "called off",
        "source-back": "called off", "target-dropping": "called off", "target-dropped": "called off", "target-closing": "dropped"}
# Those that only a death in the middle of another brings about, or a refusal: test_it_dies_*() have them, and
# test_it_cannot_run_at_its_target().
NOT_HERE = ("source-orphaned", "source-lost", "target-returning", "target-lost")
POINTS = [(name, when) for name, swift in states() if name not in NOT_HERE
          for when in (("decided", "done") if swift else ("decided", "recorded", "done"))]


def sample(points, n):
    """METE_POINTS: all of them, or those of the states that it names; else so many by chance."""
    wanted = os.environ.get("METE_POINTS")
    if wanted:
        return [p for p in points if wanted == "all" or p[0] in wanted.split(",")]
    seed = int(os.environ.get("METE_SEED") or time.time())
    print(f"METE_SEED={seed}")
    return random.Random(seed).sample(points, n)


@pytest.mark.parametrize("point", sample(POINTS, 2), ids="-".join)
def test_meted_dies(pair, vm, point):
    """At each point that is generated from the tables; it is started again, and the handover comes to its end by itself."""
    source, target = vm.host, other(pair, vm.host)
    victim = source if point[0].startswith("source") else target
    way = WAYS.get(point[0], "through")
    name = victim.hypervisor_name
    pair.kill_hypervisor(name)
    pair.start_hypervisor(name, {"METE_CRASH_AT": f"handover {point[0]} {point[1]}"})
    wait_for("it is adopted", lambda: victim is target or victim.mete_json("vm", "show", vm.name).get("pid"), 60, 0.1)
    pair.leader = leader = Leader(pair, vm, source, target, gap_ms=500 if way == "bound" else None)
    if way == "bound":
        leader.lost.add("stands")

    stop, died = threading.Event(), []

    def revive():
        while not stop.wait(0.05):
            if pair.processes[name].poll() is not None:
                died.append(pair.processes[name].returncode)
                pair.start_hypervisor(name)
    t = threading.Thread(target=revive)
    t.start()
    try:
        if way == "called off":
            leader.lead(upto="give")
            end = leader.back()
        elif way == "recalled":
            end = leader.recall()
        elif way == "dropped":  # the target hears of it first
            leader.lead(upto="give")
            assert leader.until(target, "drop", ("dropped",)) == "dropped"
            end = leader.back()
        else:
            end = leader.lead()
        wait_for("it died there", lambda: died, 60, 0.1)
    finally:
        stop.set()
        t.join()
    assert died == [-signal.SIGKILL], died
    assert end in ("running", "back"), (end, pair.story(leader.id))
    if end == "running":
        move(vm, target)
    vm.disconnect()
    is_whole(pair, vm, vm.host)
    away = other(pair, vm.host)
    wait_for("nothing is left of it", lambda: vm.name not in [v["name"] for v in away.mete_json("vm", "list")["vms"]], 60, 0.1)
    assert not [c for c in away.claims() if vm.name in c["holder"]]


# ---- a VMM's

# In these the runner may be killed with the VMM: the guest is lost then, by nobody's fault; in all others it goes on. Of a target:
# whoever had told it to run cannot know that it did not.
MAY_DIE = {"source": ("source-classifying", "source-classified", "source-separating", "source-separated", "source-quiescing", "source-quiesced",
                      "source-giving", "target-checking", "target-accepted", "target-preparing", "target-informed"),
           "target": ("source-handed", "source-given", "source-finishing", "source-gone", "target-complete", "target-committing",
                      "target-starting", "target-running", "target-settled")}
VMM_POINTS = [(name, when, whose) for name, when in POINTS if WAYS.get(name, "through") == "through" for whose in ("source", "target")]


def vmm_of(pair, vm, hypervisor):
    """The pid of its VMM there; None: there is none (yet, or any more)."""
    folder = pair.path("sprun", hypervisor.hypervisor_name) + "/"
    for pid in vmms(pair, vm.name):
        with contextlib.suppress(OSError):
            if any(os.readlink(f.path).startswith(folder) for f in os.scandir(f"/proc/{pid}/fd")):  # its console's log
                return pid
    return None


def is_stopped_pid(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0] == "T"


def is_stopped(process):
    return is_stopped_pid(process.pid)


def forget_vm(pair, vm):
    """What is left of one that died; the next test has another."""
    vm.disconnect()
    pair.guest = None
    for h in (pair.a, pair.b):
        h.vms.pop(vm.name, None)

        def gone(h=h):
            h.mete("vm", "kill", vm.name, check=False)
            h.mete("vm", "delete", vm.name, check=False)
            return vm.name not in [v["name"] for v in h.mete_json("vm", "list")["vms"]]
        wait_for("nothing is left of it", gone, 60, 0.2)


@pytest.mark.parametrize("point", sample(VMM_POINTS, 2), ids="-".join)
def test_vmm_dies(pair, vm, point):
    """A VMM is killed at a point that is generated from the tables, while the hypervisor stands there: the guest goes on at one of
    them, unless it was its runner that was killed, and nothing of it is left at the other."""
    state, when, whose = point
    source, target = vm.host, other(pair, vm.host)
    at = source if state.startswith("source") else target
    victim = source if whose == "source" else target
    name = at.hypervisor_name
    pair.kill_hypervisor(name)
    pair.start_hypervisor(name, {"METE_CRASH_AT": f"handover {state} {when}", "METE_CRASH_STOPS": "1"})
    wait_for("it is adopted", lambda: source.mete_json("vm", "show", vm.name).get("pid"), 60, 0.1)
    stood, problems = [], []

    def kill():
        try:
            wait_for("it stands there", lambda: is_stopped(pair.processes[name]), 120, 0.005)
            pid = vmm_of(pair, vm, victim)
            stood.append(pid)
            if pid:
                os.kill(pid, signal.SIGKILL)
                wait_for("its VMM is dead", lambda: pid not in vmms(pair, vm.name), 30, 0.01)
        except Exception as e:  # pylint: disable=broad-except
            problems.append(e)
        pair.processes[name].send_signal(signal.SIGCONT)
    t = threading.Thread(target=kill)
    t.start()
    pair.leader = leader = Leader(pair, vm, source, target)
    end = leader.lead()
    t.join()
    assert stood and not problems, problems
    here = {h for h in (source, target) if vmm_of(pair, vm, h)}
    assert len(running(pair, vm.name)) <= 1 and len(here) <= 1, (end, here)
    def is_over():
        return bool(running(pair, vm.name)) or not vmms(pair, vm.name)
    wait_for("it runs, or is dead", is_over, 60, 0.1)
    if not running(pair, vm.name):
        assert stood[0] and state in MAY_DIE[whose], (end, pair.story(leader.id))
        forget_vm(pair, vm)
        return
    assert end in ("running", "back"), (end, pair.story(leader.id))
    if end == "running":
        move(vm, target)
    vm.disconnect()
    is_whole(pair, vm, vm.host)
    away = other(pair, vm.host)
    wait_for("nothing is left of it", lambda: vm.name not in [v["name"] for v in away.mete_json("vm", "list")["vms"]], 60, 0.1)
    assert not [c for c in away.claims() if vm.name in c["holder"]]


def stops_at(pair, hypervisor, point):
    """Its meted is started again, and stops at that point, once."""
    name = hypervisor.hypervisor_name
    pair.kill_hypervisor(name)
    pair.start_hypervisor(name, {"METE_CRASH_AT": f"handover {point}", "METE_CRASH_STOPS": "1"})
    return pair.processes[name]


def stand_and_die(pair, vm, leader, source, target, is_over):
    """Whether it came to that: the target's VMM stands from when all has come, before it is told to run, and dies when it was.

    The source's meted sees first that all has come, and waits there: until it goes on nobody commits. So what its VMM is told
    lies in the monitor's socket, and is never read. source, target: the processes of both, of which each stops where it should."""
    def wait(what, process):
        wait_for(what, lambda: is_stopped(process) or is_over.is_set(), 120, 0.002)
        return is_stopped(process)
    if not wait("all has come", source):
        return False
    try:  # it may be broken off by its deadline just now
        pid = vmm_of(pair, vm, leader.target)
        os.kill(pid, signal.SIGSTOP)
        wait_for("its VMM stands", lambda: is_stopped_pid(pid), 30, 0.001)
    except (TypeError, ProcessLookupError, FileNotFoundError):
        return False
    source.send_signal(signal.SIGCONT)
    was_told = wait("it was told to run", target)
    with contextlib.suppress(ProcessLookupError):  # where it was broken off it is ended
        os.kill(pid, signal.SIGKILL)
    wait_for("its VMM is dead", lambda: pid not in vmms(pair, vm.name), 30, 0.01)
    return was_told


def try_to_lose(pair, vm, source, target, is_heard):
    """(leader, how it ended, whether it came to that)"""
    processes = stops_at(pair, source, "source-handed decided"), stops_at(pair, target, "target-starting done")
    wait_for("it is adopted", lambda: source.mete_json("vm", "show", vm.name).get("pid"), 60, 0.1)
    pair.leader = leader = Leader(pair, vm, source, target)
    is_over, was_told, problems = threading.Event(), [], []

    def kill():
        try:
            was_told.append(stand_and_die(pair, vm, leader, *processes, is_over))
        except Exception as e:  # pylint: disable=broad-except
            problems.append(e)
        finally:
            for p in processes:
                p.send_signal(signal.SIGCONT)
    t = threading.Thread(target=kill)
    t.start()
    until = leader.until
    if not is_heard:
        leader.until = upto_lost(leader)
    try:
        end = leader.lead()
    except Deaf:
        end = "deaf"
    finally:
        is_over.set()
        t.join()
        leader.until = until
    assert not problems, problems
    return leader, end, was_told[0]


def lose_at_target(pair, vm, source, target, is_heard=True):
    """(leader, how it ended): told to run, and dead before anybody can have heard that it does. is_heard: mete-sp hears of that
    ("lost"); else nothing more ("deaf"). A machine that is busy may break it off before, by its deadlines: then once more."""
    for _ in range(5):
        leader, end, was_told = try_to_lose(pair, vm, source, target, is_heard)
        if was_told:
            return leader, end
        assert end == "back", pair.story(leader.id)
        vm.disconnect()
        is_whole(pair, vm, source)
    raise AssertionError("it was broken off each time before it was told to run")


class Deaf(Exception):
    """The service processor hears nothing more."""


def upto_lost(leader):
    until = leader.until

    def fn(to, says, wanted, **more):
        word = until(to, says, wanted, **more)
        if word == "lost":
            raise Deaf
        return word
    return fn


def is_its_own(pair, vm, at):
    """One that died with, or before, its handover is this hypervisor's as any other: started, handed over, and after a restart."""
    away = other(pair, at)
    wait_for("it is off", lambda: at.mete_json("vm", "show", vm.name)["state"] == "stopped", 60, 0.1)
    wait_for("it may be started", lambda: at.mete("vm", "start", vm.name, check=False).returncode == 0, 60, 0.1)
    if vm.host is not at:
        move(vm, at)
    vm.disconnect()
    vm.wait_ready()
    p = at.mete("move", vm.name, "--to", "elsewhere", check=False)
    assert p.returncode != 0 and pair.processes[at.hypervisor_name].poll() is None, p
    assert pair.hand_over(vm, away) == "running", pair.story(pair.leader.id)
    assert pair.leader.said["classified"]["guest"]["owner_epoch"] > 0
    for name in "ab":
        pair.kill_hypervisor(name)
        pair.start_hypervisor(name)
    wait_for("it runs there", lambda: running(pair, vm.name) == [away], 60, 0.1)
    forget_vm(pair, vm)


def test_it_dies_at_its_target(pair, vm):
    """Told to run, and killed before anybody heard that it does: it was the target's, and is."""
    source, target = vm.host, other(pair, vm.host)
    leader, end = lose_at_target(pair, vm, source, target)
    assert end == "lost", pair.story(leader.id)
    wait_for("it is lost there", lambda: pair.state(target, leader.id) == "target-lost", 60, 0.1)
    vm.disconnect()
    is_its_own(pair, vm, target)


@contextlib.contextmanager
def dying(pair, hypervisor, point):
    """Its meted dies at that point, and is started again; point: None: it does not."""
    name = hypervisor.hypervisor_name
    stop, died = threading.Event(), []

    def revive():
        while not stop.wait(0.05):
            if pair.processes[name].poll() is not None:
                died.append(pair.processes[name].returncode)
                pair.start_hypervisor(name)
    if point:
        pair.kill_hypervisor(name)
        pair.start_hypervisor(name, {"METE_CRASH_AT": f"handover {point[0]} {point[1]}"})
    t = threading.Thread(target=revive)
    t.start()
    try:
        yield
        if point:
            wait_for("it died there", lambda: died, 60, 0.1)
    finally:
        stop.set()
        t.join()
    assert died == ([-signal.SIGKILL] if point else []), died


def story_of(hypervisor, handover):
    """The names of all that its log has of it; none while nobody is there to ask."""
    with contextlib.suppress(HostError, OSError, http.client.HTTPException):
        return [e["event"] for e in hypervisor.events(handover)]
    return []


@contextlib.contextmanager
def in_place_of(path):
    """A listener at the path of a socket, in place of whoever listens there, who hears of nobody any more."""
    had = os.stat(path)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.bind(path)
        os.chown(path, had.st_uid, had.st_gid)
        os.chmod(path, had.st_mode & 0o777)
        s.settimeout(60)
        s.listen(4)
        yield s


DEATHS = [(state, when) for state in ("source-orphaned", "source-lost") for when in ("decided", "recorded", "done")]


@pytest.mark.parametrize("point", [None, *sample(DEATHS, 1)], ids=lambda p: "-".join(p or ("alone",)))
def test_it_dies_while_it_is_given(pair, vm, point):
    """The source's VMM is killed while nothing of what it gives is taken: nobody has all of it. It was the source's, and is."""
    source, target = vm.host, other(pair, vm.host)
    with dying(pair, source, point):
        wait_for("it is adopted", lambda: source.mete_json("vm", "show", vm.name).get("pid"), 60, 0.1)
        pair.leader = leader = Leader(pair, vm, source, target)
        assert leader.lead(upto="give") == "give"
        transfer, runs = leader.said["informed"]["transfer"], vmm_of(pair, vm, source)
        with in_place_of(transfer) as listener:
            def is_giving():
                leader.say(source, "give", transfer=transfer)
                return pair.state(source, leader.id) == "source-giving"
            wait_for("the source gives it", is_giving, 60, 0.1)
            with listener.accept()[0] as stream:
                stream.settimeout(60)
                assert stream.recv(4) == b"QEVM"  # QEMU has said before that it begins: its meted waits for no answer when it dies
                os.kill(runs, signal.SIGKILL)
                # who died before it was recorded does not know that it was
                seen = "source-closing" if point == ("source-orphaned", "decided") else "source-orphaned"
                wait_for(f"it is {seen}", lambda: seen in story_of(source, leader.id), 60, 0.05)
        assert leader.back() == "lost"
        wait_for("it is lost there", lambda: pair.state(source, leader.id) == "source-lost", 60, 0.1)
    assert leader.until(target, "drop", ("dropped",)) == "dropped"
    leader.say(source, "finish")
    vm.disconnect()
    wait_for("nothing is left of it", lambda: vm.name not in [v["name"] for v in target.mete_json("vm", "list")["vms"]], 60, 0.1)
    assert not [c for c in target.claims() if vm.name in c["holder"]]
    is_its_own(pair, vm, source)


@pytest.mark.parametrize("committed", [False, True], ids=["before", "behind"])
def test_machine_is_booted_again(pair, vm, committed):
    """With the record, both VMMs and all of the memory gone, what the service processor says is the record's word: back to the
    source where nothing was committed, else the target's. The VM is defined at one of them, and can be started there."""
    source, target = vm.host, other(pair, vm.host)
    pair.leader = leader = Leader(pair, vm, source, target)
    assert leader.lead(upto="give") == "give"
    if committed:
        assert leader.until(source, "give", ("running", "back"), transfer=leader.said["informed"]["transfer"]) == "running"
        pair.assign(leader)
    vm.disconnect()
    pair.reboot()
    if committed:
        assert leader.until(source, "finish", ("gone",)) == "gone"
        leader.until_settled()
    else:
        assert leader.back() in ("back", "lost")  # the VM is its own, and died with the machine
    at, away = (target, source) if committed else (source, target)
    wait_for("nothing is left of it", lambda: vm.name not in [v["name"] for v in away.mete_json("vm", "list")["vms"]], 60, 0.1)
    assert not [c for c in away.claims() if vm.name in c["holder"]]
    wait_for("it is defined there, and off", lambda: at.mete_json("vm", "show", vm.name)["state"] == "stopped", 60, 0.1)
    at.mete("vm", "start", vm.name)
    wait_for("it runs there", lambda: running(pair, vm.name) == [at], 60, 0.1)
    forget_vm(pair, vm)


@pytest.mark.parametrize("died", [False, True], ids=["running", "lost"])
def test_machine_is_booted_before_it_is_assigned(pair, vm, died):
    """It ran at its target, and the service processor had not heard it: then it is the source's again, and nobody else's."""
    source, target = vm.host, other(pair, vm.host)
    if died:
        leader, end = lose_at_target(pair, vm, source, target, is_heard=False)
        assert end == "deaf", (end, pair.story(leader.id))
        wait_for("it is lost there", lambda: pair.state(target, leader.id) == "target-lost", 60, 0.1)
    else:
        pair.leader = leader = Leader(pair, vm, source, target)
        assert leader.lead(upto="give") == "give"
        assert leader.until(source, "give", ("running", "back"), transfer=leader.said["informed"]["transfer"]) == "running"
    vm.disconnect()
    pair.reboot()
    if died:  # it is not known yet whose it is
        p = target.mete("vm", "start", vm.name, check=False)
        assert p.returncode != 0 and "handed over" in p.stderr, p
    leader.said.pop("lost", None)
    assert leader.until(source, "abort", ("back", "died")) == "died"
    assert leader.until(target, "drop", ("dropped",)) == "dropped"
    leader.say(source, "finish")
    wait_for("nothing is left of it", lambda: vm.name not in [v["name"] for v in target.mete_json("vm", "list")["vms"]], 60, 0.1)
    assert not [c for c in target.claims() if vm.name in c["holder"]]
    is_its_own(pair, vm, source)

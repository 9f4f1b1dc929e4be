# SPDX-License-Identifier: Apache-2.0
"""Memory of a VM that goes from one hypervisor of a keeper to another's without being copied: real VMMs, two spaces, and
whoever is malicious among them. Each way out leads to one owner of the same files, whenever the keeper dies."""
import json
import os
import pwd
import shutil
import signal
import socket
import stat

import pytest

from test_keeper import QEMU, UID_FIRST, Keeper, Qmp, refused, wait_for
from huge import PAGE, CannotRun, Huge, pools  # noqa: E402  test_keeper knows where it is
from rpc import Client, Refused  # noqa: E402

A, B, C = "nobody", "daemon", "games"
MIB = 1 << 20
SLOTS_OF_EACH = 8
BASE_MIB, DIMM_MIB = 32, 16


class As:
    """For a moment this process is somebody else, where the kernel looks."""

    def __init__(self, user):
        self.user = pwd.getpwnam(user)

    def __enter__(self):
        self.groups = os.getgroups()
        os.setgroups([])
        os.setegid(self.user.pw_gid)
        os.seteuid(self.user.pw_uid)

    def __exit__(self, *_):
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(self.groups)


class Side:
    """A hypervisor, as the keeper knows it: by its user."""

    def __init__(self, keeper, user, number):
        self.keeper, self.user, self.number = keeper, user, number
        self.prefix = "" if number == 0 else f"{user}.."

    def client(self):
        with As(self.user):
            return Client(self.keeper.sock)

    def call(self, method, passed=(), **params):
        with self.client() as c:
            return c.call(method, params, passed)

    def uid(self, slot):
        return UID_FIRST + self.number * SLOTS_OF_EACH + slot

    def ram(self, vm, name=""):
        return f"{self.keeper.ram}/{self.prefix}{vm}/{name}".rstrip("/")

    def word(self, record, name, text):
        """As core/handover.h: written beside its place, and linked. False: another was first."""
        with As(self.user):
            beside = f"{record}/.{self.user}-{name}"
            with open(beside, "w") as f:
                f.write(text + "\n")
            try:
                os.link(beside, f"{record}/{name}")
                return True
            except FileExistsError:
                return False
            finally:
                os.unlink(beside)

    def start(self, vm, slot, *args, prealloc="off"):
        path = f"{self.keeper.dir}/{self.user}-{vm}.qmp"
        if os.path.exists(path):
            os.unlink(path)
        qmp = Qmp(self.keeper.dir, f"{self.user}-{vm}")
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-chardev",
                "socket,id=m,fd=3,server=on,wait=off", "-mon", "chardev=m,mode=control", "-machine", "pc-q35-7.2", "-accel",
                "tcg", "-m", f"{BASE_MIB}M,slots=2,maxmem=256M", "-object",
                f"memory-backend-file,id=ram0,size={BASE_MIB}M,mem-path=@RAM@/ram0,share=on,prealloc={prealloc}", "-numa",
                "node,memdev=ram0", *args]
        described = self.call("vmm-start", [qmp.listener.fileno()], vm=vm, slot=slot, argv=argv, fds=1,
                              memory_bytes=BASE_MIB * MIB)
        qmp.connect()
        return described, qmp

    def pids(self):
        return {v["vm"]: v["pid"] for v in self.call("vmm-list")["vmms"]}

    def end(self, vm):
        self.call("vmm-kill", vm=vm)
        self.call("vm-drop", vm=vm)


def dimm(path):
    return ("-object", f"memory-backend-file,id=dimm0,size={DIMM_MIB}M,mem-path={path},share=on",
            "-device", "pc-dimm,id=d0,memdev=dimm0")


@pytest.fixture
def keeper():
    k = Keeper(extra=f"meted_user={A};{B};{C}\nuid_count={8 * SLOTS_OF_EACH}\n")
    yield k
    restart_if_gone(k)
    finish_all(k, [Side(k, user, number) for number, user in enumerate((A, B, C))])
    assert k.close() == []


def finish_all(k, sides):
    """What a test left: loans that are open, as by a hypervisor that gives up, and VMs."""
    def left(folder):
        for name in sorted(os.listdir(f"{k.run}/{folder}")):
            if name.endswith(".json"):
                side = next((s for s in sides if s.prefix and name.startswith(s.prefix)), sides[0])
                yield side, name[len(side.prefix):-5], f"{k.run}/{folder}/{name}"

    for side, vm, path in left("loan"):
        with open(path) as f:
            give_back(side, vm, json.load(f)["handover"])
    for side, vm, _ in left("vm"):
        side.end(vm)


def restart_if_gone(k):
    if k.process.poll() is not None:
        k.start()


def die(k):
    """kill -9, and the next one."""
    k.process.send_signal(signal.SIGKILL)
    k.process.wait()
    k.start()


@pytest.fixture
def a(keeper):
    return Side(keeper, A, 0)


@pytest.fixture
def b(keeper):
    return Side(keeper, B, 1)


@pytest.fixture
def c(keeper):
    return Side(keeper, C, 2)


ITEMS = ["ram0", "dimm0"]


def source(a, vm="v", slot=0, prealloc="off"):
    """A VMM with base memory and a DIMM, whose content is known."""
    described, qmp = a.start(vm, slot, *dimm(a.ram(vm, f"dimm0-{DIMM_MIB}M")), prealloc=prealloc)
    for name in ("ram0", f"dimm0-{DIMM_MIB}M"):
        with open(a.ram(vm, name), "r+b") as f:
            f.seek(3 * MIB)
            f.write(b"not copied " + name.encode())
    return described, qmp


def names():
    return ("ram0", f"dimm0-{DIMM_MIB}M")


def identity(side, vm):
    return [(s.st_dev, s.st_ino) for s in (os.stat(side.ram(vm, n)) for n in names())]


def content(side, vm):
    for name in names():
        with open(side.ram(vm, name), "rb") as f:
            f.seek(3 * MIB)
            if f.read(11 + len(name)) != b"not copied " + name.encode():
                return False
    return True


def owned(side, vm, slot):
    """These are its files, and nobody else's."""
    for name in names():
        s = os.stat(side.ram(vm, name))
        assert (s.st_uid, s.st_gid, stat.S_IMODE(s.st_mode), s.st_nlink) == (side.uid(slot), side.uid(slot), 0o600, 1), name
    return content(side, vm)


def lend(a, vm="v", handover="h1"):
    return a.call("ram-lend", vm=vm, handover=handover, items=ITEMS)


def borrow(b, lent, vm="v", slot=3, handover="h1"):
    return b.call("ram-borrow", vm=vm, slot=slot, handover=handover, handle=lent["handle"])


def give_back(side, vm="v", handover="h1"):
    """Until it is through: whoever does not keep the files has his VMM ended."""
    def asked():
        try:
            return [side.call("ram-return", vm=vm, handover=handover)]
        except Refused as e:
            assert e.reason == "busy", e.message
            return None
    return wait_for("the loan is over", asked)[0]


def test_memory_is_brought_to_nodes(keeper):
    """ram-place on what this machine has: piece by piece, as sparse as it was; and not what is lent. That pages go from one node
    to another: tests/nested."""
    a = Side(keeper, A, 0)
    a.start("v", 0, prealloc="on")
    what = {"activation": 1, "vm": "v", "item": "ram0", "bytes": 8 * MIB}

    def sweep(nodes, offset0=0, **more):
        pieces, offset, end = [], offset0, more.get("end", BASE_MIB * MIB)
        while not pieces or offset < end:
            pieces.append(a.call("ram-place", offset=offset, nodes=nodes, **what, **more))
            assert pieces[-1]["next_offset"] > offset and pieces[-1]["file_bytes"] == BASE_MIB * MIB
            offset = pieces[-1]["next_offset"]
        there = sum(p["there_bytes"] for p in pieces)
        assert there == (offset - offset0 if nodes == [0] else 0)
        return len(pieces), sum(p["moved_bytes"] for p in pieces), sum(p["left_bytes"] for p in pieces)

    assert sweep([63], look=True) == (BASE_MIB // 8, 0, BASE_MIB * MIB)  # all of it lies elsewhere, and nothing is moved
    assert sweep([0], look=True) == (BASE_MIB // 8, 0, 0)
    blocks = os.stat(a.ram("v", "ram0")).st_blocks
    assert sweep([0]) == (BASE_MIB // 8, 0, 0)
    assert sweep([0], begin=8 * MIB, offset0=8 * MIB, end=20 * MIB) == (2, 0, 0)  # a part of it
    with open(f"/proc/{a.pids()['v']}/numa_maps") as f:
        assert " bind:0 file=" in next(line for line in f if "/ram0" in line)  # for the VMM, too
    assert os.stat(a.ram("v", "ram0")).st_blocks == blocks
    refused("not-found", a.call, "ram-place", offset=0, nodes=[63], **what)  # nobody knows what it has to spare
    refused("no-capacity", a.call, "ram-place", offset=0, nodes=[0], room_bytes=1 << 50, **what)
    a.call("ram-place", offset=0, nodes=[0], room_bytes=1 << 50, look=True, **what)  # takes none
    refused("stale", a.call, "ram-place", offset=0, nodes=[0], file_bytes=BASE_MIB * MIB + 4096, **what)
    a.call("ram-place", offset=0, nodes=[0], file_bytes=BASE_MIB * MIB, **what)
    refused("invalid", a.call, "ram-place", offset=100, nodes=[0], **what)
    refused("invalid", a.call, "ram-place", offset=0, begin=8 * MIB, nodes=[0], **what)
    refused("invalid", a.call, "ram-place", offset=0, nodes=[0], move_bytes=5000, **what)
    refused("not-found", a.call, "ram-place", offset=0, nodes=[0], **{**what, "item": "ram7"})
    refused("not-found", Side(keeper, B, 1).call, "ram-place", offset=0, nodes=[0], **what)  # b's v is another one
    a.call("ram-lend", vm="v", handover="h1", items=["ram0"])
    refused("busy", a.call, "ram-place", offset=0, nodes=[0], **what)
    give_back(a)
    assert sweep([0]) == (BASE_MIB // 8, 0, 0)


def capabilities(qmp):
    qmp.run("migrate-set-capabilities", capabilities=[{"capability": c, "state": True}
                                                      for c in ("x-ignore-shared", "return-path")])


def hand_over(source_qmp, target_qmp, path):
    """The devices' state, by the socket that both can reach."""
    for q in (source_qmp, target_qmp):
        capabilities(q)
    target_qmp.run("migrate-incoming", uri=f"unix:{path}")
    source_qmp.run("migrate", uri=f"unix:{path}")
    wait_for("handed", lambda: source_qmp.run("query-migrate").get("status") == "completed", 60)
    return source_qmp.run("query-migrate")["ram"]["transferred"]


def charged(keeper, vm):
    """Bytes that the kernel counts for a VM; None: it has no group of its own."""
    path = f"/sys/fs/cgroup/memory/{keeper.name}/{vm}/memory.usage_in_bytes"
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return int(f.read())


def the_way(giver, taker, giver_slot, taker_slot, qmp, handover):
    """One whole handover of v; its VMM at the taker runs in the end, alone. Returns its monitor."""
    before = identity(giver, "v")
    lent = lend(giver, handover=handover)
    borrowed = borrow(taker, lent, slot=taker_slot, handover=handover)
    assert (borrowed["record"], borrowed["transfer"]) == (lent["record"], lent["transfer"])
    assert [(f["device"], f["inode"]) for f in borrowed["files"]] == before
    assert [f["path"] for f in borrowed["files"]] == [taker.ram("v", n) for n in names()]
    _, target = taker.start("v", taker_slot, "-incoming", "defer", *dimm(taker.ram("v", f"dimm0-{DIMM_MIB}M")))
    for side in (giver, taker):
        seen = side.call("ram-look", vm="v")
        assert seen["complete"] and all(f["lent"] for f in seen["files"]), seen
        assert {(f["path"], f["device"], f["inode"]) for f in seen["files"]} == \
            {(side.ram("v", n), *i) for n, i in zip(names(), before)}
    assert hand_over(qmp, target, lent["transfer"]) < BASE_MIB * MIB // 4
    assert taker.word(lent["record"], "outcome", "committed target")
    target.run("cont")
    giver.call("vmm-kill", vm="v")
    assert give_back(giver, handover=handover) == {"is": "given"}
    assert owned(taker, "v", taker_slot) and identity(taker, "v") == before
    giver.call("vm-drop", vm="v")
    assert give_back(taker, handover=handover) == {"is": "given"}
    assert not os.path.exists(giver.ram("v")) and owned(taker, "v", taker_slot)
    assert target.run("query-status")["status"] == "running"
    return target


def test_there_and_back_again(a, b):
    """Nothing is copied: the same files, device and inode, and what was written in them."""
    _, qmp = source(a)
    before = identity(a, "v")
    for turn in range(2):
        qmp = the_way(a, b, 0, 3, qmp, f"there-{turn}")
        qmp = the_way(b, a, 3, 0, qmp, f"back-{turn}")
    assert identity(a, "v") == before and owned(a, "v", 0)
    a.end("v")
    assert not os.path.exists(a.ram("v")) and not os.path.exists(b.ram("v"))


def test_over_restarts_of_the_keeper(keeper, a, b):
    """It dies between any two calls, and each call is repeated: the same answers."""
    source(a)
    before = identity(a, "v")
    lent = lend(a)
    die(keeper)
    assert lend(a) == lent
    borrowed = borrow(b, lent)
    die(keeper)
    assert borrow(b, lent) == borrowed and lend(a) == lent
    b.start("v", 3, "-incoming", "defer", *dimm(b.ram("v", f"dimm0-{DIMM_MIB}M")))
    die(keeper)
    assert b.call("ram-look", vm="v")["complete"]
    assert b.word(lent["record"], "outcome", "committed target")
    die(keeper)
    a.call("vmm-kill", vm="v")
    assert give_back(b) == {"is": "given"}
    die(keeper)
    for side in (a, b):
        assert give_back(side) == {"is": "given"}
    a.call("vm-drop", vm="v")
    assert owned(b, "v", 3) and identity(b, "v") == before
    b.end("v")
    assert not os.path.exists(b.ram("v"))


def test_what_is_charged_goes_along(keeper, a, b):
    """The group to which the memory was charged is the VM's, under neither hypervisor: it does not end with the source."""
    if not os.path.isdir(f"/sys/fs/cgroup/memory/{keeper.name}") and not os.path.isdir("/sys/fs/cgroup/memory"):
        pytest.skip("no memory controller of v1 here: the groups of v2 cannot be handed on")
    described, _ = source(a, prealloc="on")
    if charged(keeper, "v") is None:
        pytest.skip("nothing bounds the memory of a VMM here")
    assert charged(keeper, "v") >= BASE_MIB * MIB
    lent = lend(a)
    borrow(b, lent)
    target, _ = b.start("v", 3, "-incoming", "defer", *dimm(b.ram("v", f"dimm0-{DIMM_MIB}M")))
    assert b.word(lent["record"], "outcome", "committed target")
    a.call("vmm-kill", vm="v")
    assert give_back(b) == {"is": "given"}
    assert charged(keeper, "v") is None and charged(keeper, "daemon..v") >= BASE_MIB * MIB
    with open(f"/sys/fs/cgroup/memory/{keeper.name}/daemon..v/cgroup.procs") as f:
        assert f.read().split() == [str(target["pid"])]
    a.call("vm-drop", vm="v")
    assert described["pid"] != target["pid"] and charged(keeper, "daemon..v") >= BASE_MIB * MIB
    b.end("v")
    assert charged(keeper, "daemon..v") is None


def settle_by_hand(keeper, state, steps):
    """What a keeper leaves that died while it gave, or took back: it had written so much, and done these steps."""
    keeper.process.send_signal(signal.SIGKILL)
    keeper.process.wait()
    path = f"{keeper.run}/loan/v.json"
    with open(path) as f:
        loan = json.load(f)
    loan["state"] = state
    with open(path, "w") as f:
        json.dump(loan, f)
    for step in steps:
        step()
    keeper.start()


@pytest.mark.parametrize("done", range(5))
@pytest.mark.parametrize("is_given", [True, False])
def test_dies_in_the_middle_of_it(keeper, a, b, is_given, done):
    """Killed at each step of giving and of taking back: the next keeper ends it, and before anybody asks."""
    source(a)
    before = identity(a, "v")
    lent = lend(a)
    borrow(b, lent)
    keeps, other, slot = (b, a, 3) if is_given else (a, b, 0)
    a.call("vmm-kill", vm="v")
    steps = []
    for name in names():
        path = keeps.ram("v", name)
        steps.append(lambda p=path: (os.chown(p, keeps.uid(slot), keeps.uid(slot)), os.chmod(p, 0o600)))
        steps.append(lambda p=other.ram("v", name): os.unlink(p))
    settle_by_hand(keeper, "giving" if is_given else "backing", steps[:done])
    assert owned(keeps, "v", slot) and identity(keeps, "v") == before
    for name in names():
        assert not os.path.exists(other.ram("v", name))
    for side in (a, b):
        assert give_back(side) == {"is": "given" if is_given else "back"}
    for side in (a, b):
        side.call("vm-drop", vm="v")
    assert not os.path.exists(a.ram("v")) and not os.path.exists(b.ram("v"))


@pytest.mark.parametrize("who", ["source", "target", "nobody"])
def test_back(a, b, who):
    """Not committed: the target's VMM has nothing of it any more, whoever wrote so, or nobody; the source runs on."""
    _, qmp = source(a)
    before = identity(a, "v")
    lent = lend(a)
    borrow(b, lent)
    b.start("v", 3, "-incoming", "defer", *dimm(b.ram("v", f"dimm0-{DIMM_MIB}M")))
    assert "v" in b.pids()
    if who != "nobody":
        assert (a if who == "source" else b).word(lent["record"], "outcome", f"aborted {who}")
        assert not (b if who == "source" else a).word(lent["record"], "outcome", "committed target")
    assert give_back(b if who == "target" else a) == {"is": "back"}
    assert b.pids() == {} and identity(a, "v") == before and owned(a, "v", 0)
    for name in names():
        assert not os.path.exists(b.ram("v", name))
    assert not b.word(lent["record"], "outcome", "committed target")  # it is written: nobody is late
    assert give_back(b) == {"is": "back"}
    b.call("vm-drop", vm="v")
    assert owned(a, "v", 0)
    assert qmp.run("query-status")["status"] == "running"
    again = lend(a, handover="h2")  # and it can begin anew
    assert again["handle"] != lent["handle"] and again["record"] != lent["record"]
    refused("not-found", borrow, b, lent, handover="h2")
    borrow(b, again, handover="h2")
    assert give_back(b, handover="h2") == {"is": "back"}


def test_returned(a, b):
    """Committed, and the target's VMM died before it ran: its word, and nobody else's, gives it back."""
    source(a)
    lent = lend(a)
    borrow(b, lent)
    assert b.word(lent["record"], "outcome", "committed target")
    assert b.word(lent["record"], "returned", "target")
    assert give_back(b) == {"is": "back"}
    assert owned(a, "v", 0)


def test_a_record_that_was_removed(a, b):
    """It may have said `committed`: the VMM that runs by it is not ended, by nobody's asking."""
    source(a)
    lent = lend(a)
    borrow(b, lent)
    b.start("v", 3, "-incoming", "defer", *dimm(b.ram("v", f"dimm0-{DIMM_MIB}M")))
    assert b.word(lent["record"], "outcome", "committed target")
    shutil.rmtree(os.path.dirname(lent["record"]))
    for side in (a, b):
        refused("internal", side.call, "ram-return", vm="v", handover="h1")
        assert "v" in a.pids() and "v" in b.pids()
    b.call("vmm-kill", vm="v")
    wait_for("its end", lambda: "v" not in b.pids())
    assert give_back(a) == {"is": "back"}  # the lender's alone is there
    assert "v" in a.pids() and owned(a, "v", 0)


def test_whose_words_count(a, b, c):
    """The source cannot commit, nor return what the target has; neither removes the other's words; a third has no part."""
    source(a)
    lent = lend(a)
    with pytest.raises(PermissionError):
        b.word(lent["record"], "outcome", "committed target")  # it has borrowed nothing yet
    borrow(b, lent)
    with pytest.raises(PermissionError):
        c.word(lent["record"], "outcome", "committed target")
    with As(C), pytest.raises(PermissionError):
        os.listdir(lent["record"])
    assert b.word(lent["record"], "outcome", "committed target")
    with As(A):
        with open(f"{lent['record']}/outcome") as f:  # each reads the other's
            assert f.read().startswith("committed")
        for attempt in (lambda: os.unlink(f"{lent['record']}/outcome"), lambda: os.rmdir(lent["record"]),
                        lambda: os.rename(f"{lent['record']}/outcome", f"{lent['record']}/x")):
            with pytest.raises(PermissionError):
                attempt()
    assert a.word(lent["record"], "returned", "source")
    a.call("vmm-kill", vm="v")
    assert give_back(a) == {"is": "given"}
    assert owned(b, "v", 3)
    b.call("vm-drop", vm="v")
    # forged by the source: it does not count, and all is the source's
    source(a, "w", 1)
    forged = lend(a, "w", "h2")
    borrow(b, forged, "w", 4, "h2")
    assert a.word(forged["record"], "outcome", "committed target")
    assert give_back(a, "w", "h2") == {"is": "back"}
    for name in names():
        assert os.stat(a.ram("w", name)).st_uid == a.uid(1)
    # a record that cannot be read holds nobody up
    third = lend(a, "w", "h3")
    borrow(b, third, "w", 4, "h3")
    with As(B):
        os.mkfifo(f"{third['record']}/outcome")
    assert give_back(a, "w", "h3") == {"is": "back"}


def test_who_may_borrow(a, b, c):
    source(a)
    refused("not-found", lend, b)  # b's v is another one, and is not there
    refused("not-found", a.call, "ram-lend", vm="v", handover="h1", items=["ram0", "dimm1"])
    lent = lend(a)
    refused("not-found", borrow, b, {"handle": "0" * 32})
    refused("not-found", borrow, b, lent, handover="h2")
    refused("invalid", borrow, b, {"handle": "0"})
    refused("invalid", borrow, b, lent, slot=SLOTS_OF_EACH)
    refused("invalid", borrow, a, lent)  # of itself
    b.start("other", 3)
    refused("busy", borrow, b, lent)  # whose slot that is
    b.end("other")
    borrow(b, lent)
    refused("denied", borrow, c, lent)
    refused("denied", borrow, b, lent, vm="w")
    refused("denied", borrow, b, lent, slot=4)
    with pytest.raises(Refused) as e:
        b.start("other", 3)
    assert e.value.reason == "busy"
    with pytest.raises(Refused) as e:
        b.start("v", 4)
    assert e.value.reason == "busy"
    refused("busy", lend, a, handover="h2")
    refused("busy", a.call, "vm-drop", vm="v")
    assert give_back(c) == {}  # its own v has no loan
    # and only that VMM gets at the files, and at the socket's folder
    vmm = os.path.dirname(lent["transfer"])
    for path, right in [(a.ram("v", "ram0"), os.R_OK), (b.ram("v", "ram0"), os.R_OK), (vmm, os.X_OK)]:
        for uid in (pwd.getpwnam(C).pw_uid, a.uid(5), b.uid(5)):
            assert not allowed(uid, path, right), (uid, path)
    assert allowed(b.uid(3), b.ram("v", "ram0"), os.W_OK) and allowed(b.uid(3), vmm, os.W_OK)
    assert allowed(a.uid(0), vmm, os.X_OK) and not allowed(a.uid(0), vmm, os.W_OK)


def allowed(uid, path, right):
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os._exit(0 if os.access(path, right) else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_nothing_of_it_goes_before_it_is_decided(a, b):
    """The source's end does not take the memory from a target that may be about to commit, and cannot."""
    source(a)
    before = identity(a, "v")
    lent = lend(a)
    borrow(b, lent)
    a.call("vmm-kill", vm="v")
    refused("busy", a.call, "vm-drop", vm="v")
    with pytest.raises(Refused) as e:
        a.start("v", 0)
    assert e.value.reason == "busy"
    refused("busy", a.call, "host-deactivate", activation=1, vm="v", item="dimm0", kind="memory")
    a.call("host-deactivate", activation=1, vm="v", item="dimm7", kind="memory")  # not one of them
    held = b.call("host-activate", activation=1, vm="v", item="ram0", kind="memory", bytes=BASE_MIB * MIB)
    assert held["held_by"] == "file-system"
    assert identity(b, "v") == before and content(b, "v")
    assert b.word(lent["record"], "outcome", "committed target")
    a.call("vm-drop", vm="v")  # decided: it is done, and takes nothing that is the target's
    assert owned(b, "v", 3) and identity(b, "v") == before
    for name in names():
        assert not os.path.exists(a.ram("v", name))
    b.call("vm-drop", vm="v")
    assert not os.path.exists(b.ram("v"))


def test_a_target_that_is_dropped_gives_up(a, b):
    source(a)
    lent = lend(a)
    borrow(b, lent)
    b.call("vm-drop", vm="v")
    assert not b.word(lent["record"], "outcome", "committed target")
    assert owned(a, "v", 0) and not os.path.exists(b.ram("v", "ram0"))
    assert give_back(a) == {"is": "back"}


def test_files_that_are_not_those(a, b):
    """A hostile VMM puts others in their place; neither these, nor what a link points to, is lent."""
    source(a)
    lent = lend(a)
    os.rename(a.ram("v", "ram0"), a.ram("v", "hidden"))
    os.symlink("/etc/shadow", a.ram("v", "ram0"))
    refused("not-found", borrow, b, lent)
    os.unlink(a.ram("v", "ram0"))
    with open(a.ram("v", "ram0"), "wb") as f:
        os.fchown(f.fileno(), a.uid(0), a.uid(0))
    refused("not-found", borrow, b, lent)
    assert not os.path.exists(b.ram("v", "ram0"))
    os.rename(a.ram("v", "hidden"), a.ram("v", "ram0"))
    borrow(b, lent)
    # at the target's: its VMM makes a folder where the name is to be; none of it is followed
    os.unlink(b.ram("v", "ram0"))
    os.symlink("/etc/shadow", b.ram("v", "ram0"))
    shadow = os.stat("/etc/shadow")
    borrow(b, lent)
    assert os.path.samestat(os.lstat(b.ram("v", "ram0")), os.stat(a.ram("v", "ram0")))
    now = os.stat("/etc/shadow")
    assert (now.st_uid, now.st_gid, now.st_mode, now.st_nlink) == (shadow.st_uid, shadow.st_gid, shadow.st_mode, shadow.st_nlink)
    assert give_back(a) == {"is": "back"}
    assert owned(a, "v", 0)


def test_what_is_over_is_forgotten(keeper, a, b):
    """Records that root has taken away go with the next loan; and no more than so many are kept of anybody."""
    source(a)
    last = None
    for i in range(3):
        lent = lend(a, handover=f"h{i}")
        assert give_back(a, handover=f"h{i}") == {"is": "back"}
        assert last is None or not os.path.exists(os.path.dirname(last["record"]))
        last = lent
    assert len(os.listdir(f"{keeper.run}/handover")) == 1
    os.unlink(f"{last['record']}/outcome")
    os.rmdir(last["record"])
    refused("stale", lend, a, handover="h2")
    source(a, "w", 1)
    lend(a, "w", "h9")
    assert len(os.listdir(f"{keeper.run}/handover")) == 1
    assert give_back(a, handover="h2") == {}


def test_so_many_are_remembered(keeper, a):
    """LENDS_ENDED_MAX of one hypervisor, then the oldest goes for the next."""
    for i in range(66):
        described = a.call("vmm-start", vm=f"v{i}", slot=0, argv=[keeper.scripts["tell"]], fds=0, memory_bytes=0)
        path = f"{described['ram_dir']}/ram0"
        with open(path, "wb") as f:
            f.truncate(4096)
            os.fchown(f.fileno(), described["uid"], described["uid"])
        a.call("ram-lend", vm=f"v{i}", handover="h1", items=["ram0"])
        assert give_back(a, f"v{i}") == {"is": "back"}
        a.end(f"v{i}")
    assert len(os.listdir(f"{keeper.run}/handover")) == len(os.listdir(f"{keeper.run}/loan")) == 64
    assert [give_back(a, f"v{i}") for i in range(3)] == [{}, {}, {"is": "back"}]


def test_a_socket_that_is_there(a, b):
    """Whatever stands at the socket's place, and however deep, goes with the folder."""
    source(a)
    lent = lend(a)
    borrow(b, lent)
    os.makedirs(f"{os.path.dirname(lent['transfer'])}/deep/er/still")
    s = socket.socket(socket.AF_UNIX)
    s.bind(lent["transfer"])
    s.close()
    assert give_back(a) == {"is": "back"}
    lend(a, handover="h2")
    assert not os.path.exists(os.path.dirname(os.path.dirname(lent["transfer"])))


@pytest.mark.parametrize("is_given", [True, False])
def test_on_huge_pages(is_given):
    """The pages go with the files: of the pool as many as before are held, by whoever has the files, until he ends."""
    def memory(item, **more):
        return {"activation": 1, "vm": "v", "item": item, "kind": "memory", **more}

    def total():
        return pools()[0, PAGE >> 10][0]

    try:
        huge = Huge()
        huge.__enter__()
    except CannotRun as e:
        pytest.skip(str(e))
    k = Keeper(extra=f"meted_user={A};{B};{C}\nuid_count={8 * SLOTS_OF_EACH}\n{huge.config()}")
    try:
        a, b = Side(k, A, 0), Side(k, B, 1)
        had = total()
        pages = {"ram0": 8, "dimm0": 4}
        for item, n in pages.items():
            a.call("host-activate", **memory(item, bytes=n * PAGE, node=0, page_bytes=PAGE))
        described = a.call("vmm-start", vm="v", slot=0, argv=[k.scripts["tell"]], fds=0, memory_bytes=8 * PAGE,
                           huge_bytes=8 * PAGE)
        folder = f"{huge.dir}/{k.name}"
        files = {"ram0": f"{folder}/v/ram0", "dimm0": f"{folder}/v/dimm0-{4 * PAGE >> 20}M"}
        for item, path in files.items():
            with open(path, "wb") as f:
                os.posix_fallocate(f.fileno(), 0, pages[item] * PAGE)
                os.fchown(f.fileno(), described["uid"], described["uid"])
                os.fchmod(f.fileno(), 0o600)
        before = {i: os.stat(p).st_ino for i, p in files.items()}
        lent = a.call("ram-lend", vm="v", handover="h1", items=list(files))
        borrowed = borrow(b, lent)
        assert [(f["inode"], f["page_bytes"]) for f in borrowed["files"]] == [(i, PAGE) for i in before.values()]
        for item, n in pages.items():
            held = b.call("host-activate", **memory(item, bytes=n * PAGE, node=0, page_bytes=PAGE))
            assert held["held_by"] == "hugetlbfs" and total() == had + 12
            assert b.call("host-read", **memory(item))["reserved_bytes"] == n * PAGE
        b.call("vmm-start", vm="v", slot=3, argv=[k.scripts["tell"]], fds=0, memory_bytes=8 * PAGE, huge_bytes=8 * PAGE)
        there = {i: p.replace("/v/", "/daemon..v/") for i, p in files.items()}
        assert {i: os.stat(p).st_ino for i, p in there.items()} == before
        refused("busy", a.call, "host-deactivate", **memory("dimm0"))
        die(k)
        if is_given:
            assert b.word(lent["record"], "outcome", "committed target")
        assert give_back(a) == {"is": "given" if is_given else "back"}
        keeps, at, other = (b, there, a) if is_given else (a, files, b)
        for item in files:  # what the other does now takes nothing
            other.call("host-deactivate", **memory(item))
        other.call("vmm-kill", vm="v")
        other.call("vm-drop", vm="v")
        assert total() == had + 12 and {i: os.stat(p).st_ino for i, p in at.items()} == before
        assert {os.stat(p).st_nlink for p in at.values()} == {1}
        for item, n in pages.items():
            assert keeps.call("host-read", **memory(item))["reserved_bytes"] == n * PAGE
        keeps.end("v")
        assert total() == had and huge.files() == []
    finally:
        restart_if_gone(k)
        finish_all(k, [Side(k, user, number) for number, user in enumerate((A, B, C))])
        problems = k.close()
        huge.__exit__(None, None, None)
    assert problems == []

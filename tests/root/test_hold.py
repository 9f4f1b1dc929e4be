# SPDX-License-Identifier: Apache-2.0
"""The keeper's side of activations on a real kernel: items are made, bound, read back, and leave no trace."""
import collections
import glob
import os
import signal
import subprocess
import time

import pytest

from test_keeper import QEMU, Keeper, keeper, name_of_group, refused, start_qemu, trees, vcpu_tids, wait_for  # noqa: F401

CPUS = sorted(os.sched_getaffinity(0))
QUOTA_FILES = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max.burst", "cpu.cfs_burst_us")


def cpu(vm, item, activation=1, **more):
    return {"activation": activation, "vm": vm, "item": item, "kind": "cpu", **more}


def memory(vm, item, activation=1, **more):
    return {"activation": activation, "vm": vm, "item": item, "kind": "memory", **more}


class Session:
    """One connection, as meted has it."""

    def __init__(self, keeper):
        self.keeper = keeper
        self.client = keeper.client()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def activate(self, vm, item, cpus=(0,), share=500, activation=1):
        return self.client.call("host-activate", cpu(vm, item, activation, cpus=list(cpus), share_milli=share))

    def __call__(self, verb, vm, item, activation=1, **more):
        return self.client.call(verb, cpu(vm, item, activation, **more))

    def end(self, activation=1):
        return self.client.call("activation-end", {"activation": activation})


@pytest.fixture
def session(keeper):  # noqa: F811
    with Session(keeper) as s:
        yield s


def provider_of(keeper):  # noqa: F811
    return keeper.call("hello", {"version": 1})["cpu_provider"]


def state(keeper):  # noqa: F811
    """Each group with what it is set to and who is in it."""
    found = {}
    for top in trees(keeper):
        for path in [top, *glob.glob(f"{top}/*@*")]:
            for name in ("cpuset.cpus", "cpuset.mems", "cpu.shares", "cpu.weight", *QUOTA_FILES, "tasks", "cgroup.threads"):
                if os.path.exists(f"{path}/{name}"):
                    with open(f"{path}/{name}") as f:
                        found[f"{path}/{name}"] = f.read()
    return found


def start_spare(keeper, vm="v", slot=0, vcpus=2, keep=()):  # noqa: F811
    """A VMM that does nothing, with threads to hold."""
    if os.path.exists(f"{keeper.dir}/{vm}.qmp"):
        os.unlink(f"{keeper.dir}/{vm}.qmp")
    pid, qmp = start_qemu(keeper, vm, slot, "-machine", "q35", "-accel", "tcg", "-smp", str(vcpus), "-m", "16", "-S",
                          keep=keep)
    return pid, vcpu_tids(qmp)


# -- each verb, and again

def test_the_whole_way(keeper, session):  # noqa: F811
    pid, (tid, _) = start_spare(keeper)
    provider = provider_of(keeper)
    before = state(keeper)
    for _ in range(2):
        assert session.activate("v", "vcpu0", CPUS, 300)["held_by"] == provider
    live = session("host-read", "v", "vcpu0")
    if provider != "affinity":
        assert live["cpus"] == CPUS and live["share_milli"] == 300 and live.get("threads", []) == []
    for _ in range(2):
        assert session.activate("v", "vcpu0", CPUS[:1], 700)["held_by"] == provider
    for _ in range(2):
        session("host-bind", "v", "vcpu0", tid=tid)
        assert os.sched_getaffinity(tid) == set(CPUS[:1])
    live = session("host-read", "v", "vcpu0", tid=tid)
    assert live["held_by"] == provider and live["cpus"] == CPUS[:1] and live["threads"] == [tid]
    assert live["thread"] in [int(t) for t in os.listdir(f"/proc/{keeper.process.pid}/task")]
    if provider != "affinity":
        assert live["share_milli"] == 700
        assert name_of_group(pid, tid) == "vcpu0@v"
        e = refused("busy", session, "host-deactivate", "v", "vcpu0")
        assert f"thread {tid} is in it still" in e.message
        assert session("host-read", "v", "vcpu0")["threads"] == [tid]
    for _ in range(2):
        session("host-prepare", "v", "vcpu0", tid=tid)
    if provider != "affinity":
        assert name_of_group(pid, tid) == "parked@v"
    for _ in range(2):
        session("host-deactivate", "v", "vcpu0")
    refused("not-found", session, "host-read", "v", "vcpu0")
    refused("not-found", session, "host-bind", "v", "vcpu0", tid=tid)
    for _ in range(2):
        assert session.end() == {}
    keeper.end_vmm("v")
    # Exactly undone: what is there after the same VM without any item.
    start_spare(keeper)
    assert set(state(keeper)) == set(before)


class Quota:
    """The quota of a group, in whatever hierarchy has it."""

    def __init__(self, keeper, group):  # noqa: F811
        self.dir = next(d for top in trees(keeper) for d in [f"{top}/{group}"]
                        if os.path.exists(f"{d}/cpu.max") or os.path.exists(f"{d}/cpu.cfs_quota_us"))
        self.is_v2 = os.path.exists(f"{self.dir}/cpu.max")

    def _read(self, name):
        with open(f"{self.dir}/{name}") as f:
            return f.read().split()

    def _write(self, name, value):
        with open(f"{self.dir}/{name}", "w") as f:
            f.write(str(value))

    def get(self):
        """(quota, period) in microseconds; no quota: None."""
        quota, period = self._read("cpu.max") if self.is_v2 else [*self._read("cpu.cfs_quota_us"), *self._read("cpu.cfs_period_us")]
        return None if quota in ("max", "-1") else (int(quota), int(period))

    def set(self, quota, period):
        if self.is_v2:
            self._write("cpu.max", f"{quota} {period}")
        else:
            self._write("cpu.cfs_quota_us", -1)
            self._write("cpu.cfs_period_us", period)
            self._write("cpu.cfs_quota_us", quota)

    def burst(self, value=None):
        name = "cpu.max.burst" if self.is_v2 else "cpu.cfs_burst_us"
        if value is not None:
            self._write(name, value)
        return int(self._read(name)[0])

    def has_bursts(self):
        return os.path.exists(f"{self.dir}/{'cpu.max.burst' if self.is_v2 else 'cpu.cfs_burst_us'}")

    def throttled(self):
        with open(f"{self.dir}/cpu.stat") as f:
            return int(dict(line.split() for line in f)["nr_throttled"])

    def enter(self, pid):
        self._write("cgroup.threads" if self.is_v2 else "tasks", pid)


def test_ceiling(keeper, session):  # noqa: F811
    if provider_of(keeper) == "affinity":
        pytest.skip("affinity alone holds no ceiling")

    def activate(share, ceiling=None):
        more = {} if ceiling is None else {"ceiling_milli": ceiling}
        answer = session("host-activate", "v", "vcpu0", cpus=CPUS[:1], share_milli=share, **more)
        assert "fallback" not in answer
        live = session("host-read", "v", "vcpu0")
        assert live["share_milli"] == share and "fallback" not in live
        return live["ceiling_milli"], live.get("period_us")

    _, (tid, _) = start_spare(keeper)
    assert activate(1000) == (1000, None)
    quota = Quota(keeper, "vcpu0@v")
    assert quota.get() is None
    for _ in range(2):
        assert activate(200, 500) == (500, 10000)
        assert quota.get() == (5000, 10000)
    # Set and lifted while a thread is held by it.
    session("host-bind", "v", "vcpu0", tid=tid)
    for ceiling, expected in ((200, 2000), (1000, None), (100, None), (900, 9000), (None, None), (500, 5000)):
        if ceiling == 100:
            refused("invalid", session, "host-activate", "v", "vcpu0", cpus=CPUS[:1], share_milli=200, ceiling_milli=100)
        else:
            activate(200, ceiling)
        assert quota.get() == (expected and (expected, 10000))
        assert session("host-read", "v", "vcpu0")["threads"] == [tid]
    # By another's hand: it is seen, and the same call mends it.
    for wrong in ((9000, 10000), (50000, 100000), (1000000, 1000000)):
        quota.set(*wrong)
        live = session("host-read", "v", "vcpu0")
        assert (live["ceiling_milli"], live["period_us"]) == (1000 * wrong[0] // wrong[1], wrong[1])
        assert activate(200, 500) == (500, 10000)
    if quota.has_bursts():
        quota.burst(4000)
        assert session("host-read", "v", "vcpu0")["ceiling_milli"] == 900
        assert activate(200, 300) == (300, 10000) and quota.burst() == 0
    # It is the kernel that holds it.
    spinner = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        before = quota.throttled()
        quota.enter(spinner.pid)
        wait_for("it is held back", lambda: quota.throttled() > before)
    finally:
        spinner.kill()
        spinner.wait()
    # Who is put aside is under none, whatever the group has become.
    session("host-prepare", "v", "vcpu0", tid=tid)
    parked = Quota(keeper, "parked@v")
    assert parked.get() is None and Quota(keeper, "emulator@v").get() is None
    parked.set(1000, 10000)
    session("host-prepare", "v", "vcpu0", tid=tid)
    assert parked.get() is None
    session("host-deactivate", "v", "vcpu0")
    refused("not-found", session, "host-read", "v", "vcpu0")
    assert not os.path.exists(quota.dir)


def test_a_ceiling_outlives_the_keeper(keeper):  # noqa: F811
    with Session(keeper) as s:
        if provider_of(keeper) == "affinity":
            pytest.skip("affinity alone holds no ceiling")
        s("host-activate", "v", "vcpu0", cpus=CPUS[:1], share_milli=200, ceiling_milli=500)
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    with Session(keeper) as s:
        live = s("host-read", "v", "vcpu0")
        assert (live["share_milli"], live["ceiling_milli"], live["period_us"]) == (200, 500, 10000)
        s("host-deactivate", "v", "vcpu0")
    keeper.call("vm-drop", {"vm": "v"})


def test_an_item_waits_for_its_vm(keeper, session):  # noqa: F811
    """Host resources are activated before the VMM starts, and stay through starts that fail."""
    nothing = state(keeper)
    session.activate("v", "vcpu0", [0], 250)
    session.activate("v", "vcpu1", [0], 250)
    refused("not-found", session, "host-bind", "v", "vcpu0", tid=os.getpid())
    refused("internal", keeper.start_vmm, "v", [f"{keeper.dir}/absent"])
    assert session("host-read", "v", "vcpu0")["thread"] > 0
    pid, tids = start_spare(keeper)
    for i, tid in enumerate(tids):
        session("host-bind", "v", f"vcpu{i}", tid=tid)
    os.kill(pid, signal.SIGKILL)
    wait_for("v is gone", lambda: not keeper.vmms())
    # Its successor, without a drop in between.
    session.activate("v", "vcpu0", [0], 500)
    start_spare(keeper)
    if trees(keeper):
        assert keeper.groups() == {"emulator@v", "vcpu0@v", "vcpu1@v"}
        assert session("host-read", "v", "vcpu0")["share_milli"] == 500
    keeper.call("vmm-kill", {"vm": "v"})
    for item in ("vcpu0", "vcpu1"):
        session("host-prepare", "v", item, tid=tids[0])  # gone
        session("host-deactivate", "v", item)
    keeper.call("vm-drop", {"vm": "v"})
    assert state(keeper) == nothing


def test_a_drop_takes_all(keeper, session):  # noqa: F811
    session.activate("v", "vcpu0")
    session.activate("w", "vcpu0")
    keeper.call("vm-drop", {"vm": "v"})
    refused("not-found", session, "host-read", "v", "vcpu0")
    session("host-read", "w", "vcpu0")
    keeper.call("vm-drop", {"vm": "w"})
    assert keeper.groups() == set()


def test_what_is_kept_outlives_a_drop(keeper, session):  # noqa: F811
    """Items and RAM files that are named stay, with the slot, until the next drop."""
    kept = ["ram0", "vcpu0"]
    start_spare(keeper)
    for item in ("vcpu0", "vcpu1", "vcpu10"):
        session.activate("v", item)
    session.activate("w", "vcpu1")
    for name in ("ram0", "dimm0"):
        with open(f"{keeper.ram}/v/{name}", "wb") as f:
            f.write(name.encode())
        os.chown(f"{keeper.ram}/v/{name}", os.stat(f"{keeper.ram}/v").st_uid, 0)
    refused("busy", keeper.call, "vm-drop", {"vm": "v", "keep": kept})
    keeper.call("vmm-kill", {"vm": "v"})
    for _ in range(2):
        keeper.call("vm-drop", {"vm": "v", "keep": kept})
        assert keeper.groups() == ({"vcpu0@v", "vcpu1@w"} if trees(keeper) else set())
        assert os.listdir(f"{keeper.ram}/v") == ["ram0"]
        refused("busy", start_spare, keeper, "w", 0)  # the files are that uid's
    for argv in [f"{keeper.dir}/absent"], [QEMU, "-netdev", "tap,id=n,fd=@TAP@"]:  # nor does a start that fails take it
        with pytest.raises(Exception):
            keeper.start_vmm("v", argv, keep=kept)
        assert os.listdir(f"{keeper.ram}/v") == ["ram0"]
        refused("busy", start_spare, keeper, "w", 0)
    start_spare(keeper, keep=kept)
    with open(f"{keeper.ram}/v/ram0") as f:
        assert f.read() == "ram0"
    assert session("host-read", "v", "vcpu0")["share_milli"] == 500
    keeper.call("vmm-kill", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "v", "keep": kept})
    start_spare(keeper)  # nothing is said to be kept
    assert not os.path.exists(f"{keeper.ram}/v/ram0")
    keeper.call("vmm-kill", {"vm": "v"})
    for vm in ("v", "w"):
        keeper.call("vm-drop", {"vm": vm})
    assert keeper.groups() == set() and not os.path.exists(f"{keeper.ram}/v")


def test_a_drop_waits_for_what_is_under_way(keeper, session):  # noqa: F811
    for _ in range(10):
        calls = [session.client.begin("host-activate", cpu("v", f"vcpu{i}", i + 1, cpus=[0], share_milli=500))
                 for i in range(20)]
        drop = session.client.begin("vm-drop", {"vm": "v"})
        for c in calls:
            session.client.finish(c)
        session.client.finish(drop)
        assert keeper.groups() == set()
    for i in range(20):
        session.end(i + 1)


def test_a_bound_thread_leaves_the_rest_alone(keeper, session):  # noqa: F811
    """What is bound and put aside leaves other items alone, empty as they are."""
    if not trees(keeper):
        pytest.skip("no cgroups here")
    pid, (one, two) = start_spare(keeper)
    session.activate("v", "vcpu0")
    keeper.hold("v", "vcpu1", one, [0], 100)
    keeper.put_aside("v", "vcpu1", one)
    keeper.put_aside("v", "vcpu1", two)
    assert keeper.groups() == {"emulator@v", "parked@v", "vcpu0@v", "vcpu1@v"}
    session("host-bind", "v", "vcpu0", tid=one)
    assert name_of_group(pid, one) == "vcpu0@v" and name_of_group(pid, two) == "parked@v"
    keeper.hold("v", "vcpu1", one, [0], 100)
    session("host-deactivate", "v", "vcpu0")
    assert keeper.groups() == {"emulator@v", "parked@v", "vcpu1@v"}
    assert name_of_group(pid, one) == "vcpu1@v"


def test_memory(keeper, session):  # noqa: F811
    def call(verb, item="dimm0", **more):
        return session.client.call(verb, memory("v", item, **more))
    st = os.statvfs("/dev/shm")
    free = st.f_bavail * st.f_frsize
    for _ in range(2):
        assert call("host-activate", bytes=1 << 20)["held_by"] == "file-system"
        assert call("host-activate", bytes=1 << 20, node=0)["held_by"] == "file-system"
    e = refused("no-capacity", call, "host-activate", bytes=free + (1 << 40))
    assert "MiB free" in e.message and "dimm0 of v" in e.message
    refused("not-found", call, "host-activate", bytes=1, node=1023)
    assert "bytes" not in call("host-read")
    os.mkdir(f"{keeper.ram}/v")
    for name in ("dimm0-1M", "dimm00", "dimm1"):
        with open(f"{keeper.ram}/v/{name}", "wb") as f:
            f.write(b"x" * (1 << 20))
    os.symlink("/etc/passwd", f"{keeper.ram}/v/dimm0-x")
    os.mkdir(f"{keeper.ram}/v/dimm0-y")
    assert call("host-read")["bytes"] == 1 << 20
    call("host-prepare", tid=1)
    for _ in range(2):
        call("host-deactivate")
    for params in (memory("v", "dimm0"), memory("v", "dimm0", bytes=1, cpus=[0]),
                   memory("v", "dimm0", bytes=1, share_milli=1), memory("v", "dimm0", bytes=0)):
        refused("invalid", session.client.call, "host-activate", params)
    refused("invalid", call, "host-bind", tid=1)
    session.client.call("vm-drop", {"vm": "v"})


def test_bad_input(keeper, session):  # noqa: F811
    pid, (tid, _) = start_spare(keeper)
    other, _ = start_spare(keeper, "w", 1, 1)
    session.activate("v", "vcpu0")
    before = state(keeper)
    for foreign in (os.getpid(), 1, other, keeper.process.pid, 2 ** 31, 2 ** 32 - 1, 4194303):
        refused("not-found", session, "host-bind", "v", "vcpu0", tid=foreign)
        session("host-prepare", "v", "vcpu0", tid=foreign)
        session("host-read", "v", "vcpu0", tid=foreign)
    refused("not-found", session, "host-bind", "nobody", "vcpu0", tid=tid)
    refused("not-found", session, "host-bind", "v", "vcpu1", tid=tid)
    refused("not-found", session, "host-read", "nobody", "vcpu0")
    session("host-prepare", "nobody", "vcpu0", tid=tid)
    session("host-deactivate", "nobody", "vcpu0")
    for item in ("a/b", "../emulator", "", "a@b", "a b", "x" * 32, ".", "..", "emulator", "parked"):
        for verb, more in (("host-activate", {"cpus": [0]}), ("host-bind", {"tid": tid}), ("host-prepare", {"tid": tid}),
                           ("host-deactivate", {}), ("host-read", {})):
            refused("invalid", session, verb, "v", item, **more)
    for vm in ("a/b", "..", "emulator@v", ""):
        refused("invalid", session.activate, vm, "vcpu0")
    for verb in ("host-bind", "host-prepare"):
        refused("invalid", session, verb, "v", "vcpu0")
    refused("invalid", session, "host-activate", "v", "vcpu2")
    refused("invalid", session, "host-activate", "v", "vcpu2", cpus=[0], bytes=1)
    refused("invalid", session, "host-activate", "v", "vcpu2", cpus=[0], node=0)
    refused("invalid", session.activate, "v", "vcpu2", [65535])
    refused("denied", session.activate, "v", "vcpu2", [4000])
    refused("invalid", session.activate, "v", "vcpu2", [0], 0)
    refused("invalid", session.activate, "v", "vcpu2", [0], 1001)
    for share, ceiling in ((50, 99), (200, 1001), (200, 199), (200, 0), (200, -1)):
        refused("invalid", session, "host-activate", "v", "vcpu2", cpus=[0], share_milli=share, ceiling_milli=ceiling)
    refused("invalid", session, "host-activate", "v", "vcpu2", cpus=[0], ceiling_milli=500)  # less than its share of 1
    refused("invalid", session.client.call, "host-activate", memory("v", "dimm0", bytes=1, ceiling_milli=500))
    for activation in (0, -1, 2 ** 53, "1"):
        refused("invalid", session.activate, "v", "vcpu2", activation=activation)
        refused("invalid", session.end, activation)
    refused("invalid", session.client.call, "host-activate", {**cpu("v", "x"), "kind": "net"})
    assert state(keeper) == before


def test_a_slot_of_another_vm_is_named(keeper):  # noqa: F811
    keeper.start_vmm("web1", [keeper.scripts["tell"]], 3)
    e = refused("busy", keeper.start_vmm, "web2", [keeper.scripts["tell"]], 3)
    assert "slot 3 belongs to VM web1, which runs, until that is dropped" in e.message
    keeper.call("vmm-kill", {"vm": "web1"})
    e = refused("busy", keeper.start_vmm, "web2", [keeper.scripts["tell"]], 3)
    assert "slot 3 belongs to VM web1, which has ended, until that is dropped" in e.message


# -- activations side by side

def threads_of(keeper):  # noqa: F811
    return [t for t in glob.glob(f"/proc/{keeper.process.pid}/task/*") if open(f"{t}/comm").read() == "activation\n"]


def test_side_by_side(keeper, session):  # noqa: F811
    """32 activations, 3 calls each, none waiting for another: 32 threads, none mixed inside one."""
    n, used = 32, collections.defaultdict(list)
    for verb, more in (("host-activate", {"cpus": [0], "share_milli": 100}), ("host-read", {}), ("host-deactivate", {})):
        calls = {i: session.client.begin(verb, cpu(f"vm{i % 5}", f"vcpu{i}", i, **more)) for i in range(1, n + 1)}
        for i, c in calls.items():
            used[i].append(session.client.finish(c)["thread"])
    assert all(len(u) == 3 and len(set(u)) == 1 for u in used.values()), used
    assert len({u[0] for u in used.values()}) == n and keeper.process.pid not in {u[0] for u in used.values()}
    assert len(threads_of(keeper)) == n
    # All three at once: still in order.
    calls = []
    for i in range(1, n + 1):
        for verb, more in (("host-activate", {"cpus": [0], "share_milli": i}), ("host-read", {}), ("host-deactivate", {})):
            calls.append((i, verb, session.client.begin(verb, cpu(f"vm{i % 5}", f"vcpu{i}", i, **more))))
    for i, verb, c in calls:
        answer = session.client.finish(c)
        assert answer["thread"] == used[i][0]
        assert verb != "host-read" or answer.get("share_milli", i) == i
    for i in range(1, n + 1):
        session.end(i)
    assert threads_of(keeper) == [] and keeper.groups() == set()


def test_one_that_fails_harms_no_other(keeper, session):  # noqa: F811
    """Every second activation is refused by its provider, at the same time."""
    calls = [(i, session.client.begin("host-activate", cpu("v", f"vcpu{i}", i, cpus=[4000 if i % 2 else 0])))
             for i in range(1, 65)]
    for i, c in calls:
        if i % 2:
            refused("denied", session.client.finish, c)
        else:
            session.client.finish(c)
    if trees(keeper):
        assert keeper.groups() == {f"vcpu{i}@v" for i in range(2, 65, 2)}
    keeper.call("vm-drop", {"vm": "v"})
    for i in range(1, 65):
        session.end(i)


def test_too_many_activations(keeper, session):  # noqa: F811
    for i in range(1, 257):
        session("host-deactivate", "v", "vcpu0", i)
    e = refused("busy", session, "host-deactivate", "v", "vcpu0", 257)
    assert "256 activations" in e.message
    session("host-deactivate", "v", "vcpu0", 7)
    session.end(7)
    session("host-deactivate", "v", "vcpu0", 257)
    assert len(threads_of(keeper)) == 256


def test_who_has_hung_up_is_not_answered(keeper):  # noqa: F811
    """What waits of it is not done; a successor finds the keeper as usable as ever."""
    gone = Session(keeper)
    for i in range(60):
        gone.client.begin("host-activate", cpu("v", f"vcpu{i}", 1, cpus=[0]))
    gone.client.close()
    with Session(keeper) as s:
        # The same thread: whatever of those calls was carried out is so by now.
        s("host-deactivate", "v", "vcpu0")
        had = keeper.groups()
        time.sleep(0.3)
        assert keeper.groups() == had
        s.client.call("vm-drop", {"vm": "v"})
        assert keeper.groups() == set()


# -- exclusive CPUs

def shared_cpus(keeper):  # noqa: F811
    """{group: CPUs} of what is not placed, and where its threads may really run."""
    found = {}
    for top in trees(keeper):
        for path in glob.glob(f"{top}/emulator@*") + glob.glob(f"{top}/parked@*"):
            if os.path.exists(f"{path}/cpuset.cpus"):
                tasks = f"{path}/tasks" if os.path.exists(f"{path}/tasks") else f"{path}/cgroup.threads"
                with open(tasks) as f:
                    allowed = [os.sched_getaffinity(int(tid)) for tid in f]
                with open(f"{path}/cpuset.cpus") as f:
                    found[os.path.basename(path)] = (f.read().strip(), set().union(*allowed))
    return found


def test_exclusive(keeper, session):  # noqa: F811
    """No thread of any VMM is on a CPU that is held exclusively; not after a restart of the keeper, either."""
    if provider_of(keeper) == "affinity" or len(CPUS) < 2:
        pytest.skip("takes cgroups and two CPUs")
    *rest, own = CPUS
    _, (tid, aside) = start_spare(keeper)
    session("host-prepare", "v", "vcpu1", tid=aside)
    start_spare(keeper, "w", 1)
    before = shared_cpus(keeper)
    assert set(before) == {"emulator@v", "parked@v", "emulator@w"} and all(a == set(CPUS) for _, a in before.values())
    for _ in range(2):
        session("host-activate", "v", "vcpu0", cpus=[own], exclusive=True)
    session("host-bind", "v", "vcpu0", tid=tid)
    assert session("host-read", "v", "vcpu0", tid=tid)["exclusive"] is True

    def is_alone():
        return all(allowed <= set(rest) for _, allowed in shared_cpus(keeper).values())
    assert is_alone() and os.sched_getaffinity(tid) == {own}
    start_spare(keeper, "x", 2)
    assert is_alone() and "emulator@x" in shared_cpus(keeper)
    refused("busy", session, "host-activate", "w", "vcpu0", cpus=[own], share_milli=10)
    # Something must be left for the VMMs themselves.
    if len(rest) == 1:
        e = refused("policy", session, "host-activate", "w", "vcpu0", cpus=rest, exclusive=True)
        assert "housekeeping" in e.message
        refused("not-found", session, "host-read", "w", "vcpu0")
    # Changed by hand: seen, and mended by the same call.
    path = next(p for top in trees(keeper) for p in [f"{top}/emulator@w/cpuset.cpus"] if os.path.exists(p))
    with open(path, "w") as f:
        f.write(",".join(map(str, CPUS)))
    assert session("host-read", "v", "vcpu0", tid=tid)["exclusive"] is False
    session("host-activate", "v", "vcpu0", cpus=[own], exclusive=True)
    assert session("host-read", "v", "vcpu0", tid=tid)["exclusive"] is True and is_alone()
    with open(path, "w") as f:
        f.write(",".join(map(str, CPUS)))
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    assert is_alone(), "derived from the keeper's notes"
    with Session(keeper) as s:
        assert s("host-read", "v", "vcpu0", tid=tid)["exclusive"] is True
        s("host-prepare", "v", "vcpu0", tid=tid)
        assert is_alone(), "until it is given back"
        s("host-deactivate", "v", "vcpu0")
        after = shared_cpus(keeper)
        assert {g: c for g, c in after.items() if g != "emulator@x"} == before
        s("host-activate", "x", "vcpu0", cpus=[own], exclusive=True)
        assert is_alone()
        keeper.end_vmm("x")
        assert shared_cpus(keeper) == before
    assert not os.path.exists(f"{keeper.run}/held") or os.listdir(f"{keeper.run}/held") == []


def test_what_best_effort_does_not_hold_is_said():
    k = Keeper(extra=f"best_effort=true\nhousekeeping={CPUS[0]}")
    try:
        if provider_of(k) == "affinity":
            pytest.skip("takes cgroups")
        with Session(k) as s:
            assert "fallback" not in s("host-activate", "v", "vcpu0", cpus=CPUS[:1], share_milli=200, ceiling_milli=500)
            answer = s("host-activate", "v", "vcpu1", cpus=CPUS[:1], exclusive=True)
            assert "no housekeeping CPU is left" in answer["fallback"]
            live = s("host-read", "v", "vcpu1")
            assert "exclusive" not in live and live["fallback"] == answer["fallback"]
        k.call("vm-drop", {"vm": "v"})
    finally:
        problems = k.close()
    assert problems == []


# -- a keeper that dies

@pytest.mark.parametrize("kills_at", range(1, 6))
def test_killed_in_between(keeper, kills_at):  # noqa: F811
    """After each verb the keeper dies, and its successor goes on as if nothing had been."""
    pid, (tid, _) = start_spare(keeper)
    before = state(keeper)
    steps = [("host-activate", {"cpus": CPUS[:1], "share_milli": 400}), ("host-bind", {"tid": tid}), ("host-read", {"tid": tid}),
             ("host-prepare", {"tid": tid}), ("host-deactivate", {})]
    for i, (verb, more) in enumerate(steps, 1):
        with Session(keeper) as s:
            answer = s(verb, "v", "vcpu0", **more)
        if verb == "host-read":
            assert answer["cpus"] == CPUS[:1] and answer["threads"] == [tid]
        if i == kills_at:
            keeper.process.kill()
            keeper.process.wait()
            keeper.start()
            with Session(keeper) as s:
                s(verb, "v", "vcpu0", **more)  # who has heard no answer asks again
    assert {k for k in state(keeper) if "parked@" not in k} == set(before)


def test_killed_while_it_works(keeper):  # noqa: F811
    """Killed somewhere inside of a row of calls; all is asked again, then undone, and nothing is left."""
    nothing = state(keeper)
    for round_ in range(6):
        s = Session(keeper)
        for i in range(1, 33):
            s.client.begin("host-activate", cpu("v", f"vcpu{i}", i, cpus=[0], share_milli=i))
        time.sleep(0.003 * round_)
        keeper.process.kill()
        keeper.process.wait()
        s.client.close()
        keeper.start()
        with Session(keeper) as s:
            for verb, more in (("host-activate", lambda i: {"cpus": [0], "share_milli": i}), ("host-read", lambda i: {}),
                               ("host-deactivate", lambda i: {})):
                for i in range(1, 33):
                    answer = s(verb, "v", f"vcpu{i}", i, **more(i))
                    assert verb != "host-read" or answer.get("share_milli", i) == i
            assert state(keeper) == nothing


def test_stopped_while_it_works(keeper):  # noqa: F811
    """SIGTERM: threads end, whoever waits is answered one way or the other, and it ends well (sanitizers included)."""
    s = Session(keeper)
    for i in range(1, 33):
        for _ in range(4):
            s.client.begin("host-activate", cpu("v", f"vcpu{i}", i, cpus=[0]))
    keeper.process.terminate()
    assert keeper.process.wait(10) == 0, keeper.log()
    s.client.close()
    keeper.start()
    keeper.call("vm-drop", {"vm": "v"})


# -- without cgroups

@pytest.fixture
def bare(monkeypatch):
    """Makes keepers that have affinity alone: in a mount namespace where no hierarchy may be written."""
    import test_keeper
    whole = test_keeper.confined_as_unit
    hide = ("mount --make-rprivate /; for m in $(grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d' ' -f5); do "
            "umount -l $m 2>/dev/null || mount -t tmpfs -o ro none $m; done; exec \"$@\"")
    monkeypatch.setattr(test_keeper, "confined_as_unit", lambda: ["unshare", "-m", "sh", "-c", hide, "sh", *whole()])
    return Keeper


def test_without_cgroups_by_best_effort(bare):
    k = bare(extra="best_effort=true")
    try:
        assert provider_of(k) == "affinity"
        with Session(k) as s:
            answer = s("host-activate", "v", "vcpu0", cpus=CPUS[:1], share_milli=200, ceiling_milli=500)
            assert "shares and ceilings are not held" in answer["fallback"]
            live = s("host-read", "v", "vcpu0")
            assert live["fallback"] == answer["fallback"] and "ceiling_milli" not in live and "share_milli" not in live
        k.call("vm-drop", {"vm": "v"})
    finally:
        problems = k.close()
    assert problems == []


def test_without_cgroups(bare):
    k = bare()
    try:
        assert provider_of(k) == "affinity"
        pid, (tid, _) = start_spare(k)
        with Session(k) as s:
            e = refused("unsupported", s.activate, "v", "vcpu0", [0], 500)
            assert "shares and ceilings are not held" in e.message
            refused("unsupported", s, "host-activate", "v", "vcpu0", cpus=CPUS[:1], share_milli=200, ceiling_milli=500)
            refused("not-found", s, "host-read", "v", "vcpu0")
            for _ in range(2):
                s.activate("v", "vcpu0", CPUS[:1], 1000)
        k.process.kill()
        k.process.wait()
        k.start()
        with Session(k) as s:
            assert "threads" not in s("host-read", "v", "vcpu0")
            for _ in range(2):
                assert s("host-bind", "v", "vcpu0", tid=tid)["held_by"] == "affinity"
            assert os.sched_getaffinity(tid) == set(CPUS[:1])
            live = s("host-read", "v", "vcpu0", tid=tid)
            assert live["cpus"] == CPUS[:1] and live["threads"] == [tid] and "share_milli" not in live
            os.sched_setaffinity(tid, CPUS)
            assert s("host-read", "v", "vcpu0", tid=tid)["cpus"] == CPUS
            s("host-prepare", "v", "vcpu0", tid=tid)
            for _ in range(2):
                s("host-deactivate", "v", "vcpu0")
            refused("not-found", s, "host-bind", "v", "vcpu0", tid=tid)
            s.activate("v", "vcpu0", CPUS[:1], 1000)
        assert len(os.listdir(f"{k.run}/held")) == 1
        k.end_vmm("v")
        assert os.listdir(f"{k.run}/held") == []
    finally:
        problems = k.close()
    assert problems == [] and not os.path.exists(k.run)

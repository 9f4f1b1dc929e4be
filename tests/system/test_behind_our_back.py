# SPDX-License-Identifier: Apache-2.0
"""What holds a grant is changed by somebody else, as root can: it is noticed, said, and made again what was granted."""
import glob
import os
import shutil
import signal
import subprocess

import pytest
from app import App
from host import Host, wait_for

FAULT_BUILD = os.environ.get("METE_CRASH_BUILD") or os.environ.get("METE_BUILD") or "build/debug"


class Groups:
    """The control groups of items, in whatever hierarchies this machine has."""

    def __init__(self, host):
        self.host = host
        self.tops = [d for d in [f"/sys/fs/cgroup/{host.name}", *glob.glob(f"/sys/fs/cgroup/*/{host.name}")]
                     if os.path.isdir(d)]
        self.is_v2 = any(os.path.exists(f"{t}/cgroup.controllers") for t in self.tops)

    def of(self, group):
        return [p for t in self.tops for p in [f"{t}/{group}"] if os.path.isdir(p)]

    def _path(self, group, *names):
        return next(f"{d}/{n}" for d in self.of(group) for n in names if os.path.exists(f"{d}/{n}"))

    def read(self, group, *names):
        with open(self._path(group, *names)) as f:
            return f.read().strip()

    def write(self, group, value, *names):
        with open(self._path(group, *names), "w") as f:
            f.write(value)

    def weight(self, group):
        return self.read(group, "cpu.weight", "cpu.shares")

    def set_weight(self, group, value):
        self.write(group, str(value), "cpu.weight", "cpu.shares")

    def quota(self, group):
        """(quota, period); no quota: None"""
        found = self.read(group, "cpu.max", "cpu.cfs_quota_us").split()
        if not self.is_v2:
            found += [self.read(group, "cpu.cfs_period_us")]
        return None if found[0] in ("max", "-1") else tuple(map(int, found))

    def set_quota(self, group, quota, period):
        """None: lifted"""
        if self.is_v2:
            self.write(group, f"{'max' if quota is None else quota} {period}", "cpu.max")
            return
        self.write(group, "-1", "cpu.cfs_quota_us")
        self.write(group, str(period), "cpu.cfs_period_us")
        if quota is not None:
            self.write(group, str(quota), "cpu.cfs_quota_us")

    def cpus(self, group):
        return self.read(group, "cpuset.cpus")

    def set_cpus(self, group, value):
        self.write(group, value, "cpuset.cpus")

    def threads(self, group):
        """Those that are in it in every hierarchy."""
        found = []
        for d in self.of(group):
            with open(f"{d}/{'cgroup.threads' if self.is_v2 else 'tasks'}") as f:
                found.append({int(line) for line in f})
        return set.intersection(*found) if found else set()

    def move(self, tid, group):
        for d in self.of(group):
            with open(f"{d}/{'cgroup.threads' if self.is_v2 else 'tasks'}", "w") as f:
                f.write(str(tid))

    def remove(self, group, vm):
        """As far as anybody can: its threads first go where the VMM is."""
        for tid in self.threads(group):
            self.move(tid, f"emulator@{vm}")
        for d in self.of(group):
            os.rmdir(d)

    def state(self, *groups):
        return {g: (self.weight(g), self.quota(g), self.cpus(g), self.threads(g)) for g in groups}


def said(host, after, *events):
    return [e for e in host.events(after=after) if e["event"] in events]


def expect(host, after, **counts):
    """How often each was said since."""
    got = {name: len(said(host, after, name.replace("_", "-"))) for name in ("changed", "repaired", "repair_failed")}
    assert got == {"changed": 0, "repaired": 0, "repair_failed": 0, **counts}, said(host, after, "changed", "repaired",
                                                                                    "repair-failed")


@pytest.fixture(scope="module")
def rig():
    """A host that looks only when it is asked, with a VM that has a lease of a CPU and memory."""
    with Host(memory="2G", offer="3s", extra="verify=1h\n") as host:
        if host.get("/v1/host")["cpu_provider"] == "affinity":
            pytest.skip("affinity alone has no groups")
        faults = host.path("faults")
        os.mkdir(faults, 0o755)
        os.chown(faults, host.meted_uid, host.meted_gid)
        host.fault = os.path.join(faults, "fault")
        host.meted_env["METE_FAULTS"] = host.fault
        host.kill_meted()
        shutil.copy(os.path.join(os.path.dirname(__file__), "../..", FAULT_BUILD, "src/meted/meted"),
                    host.path("bin", "meted"))
        host.start_meted()
        vm = host.vm("v", share="0.1..0.9")
        with App(vm, "leased") as app:
            assert app.call("request", {"needs": ["cpu:1,share>=0.5", "memory:128M"]})["outcome"] == "granted"
            host.groups = Groups(host)
            yield host


@pytest.fixture
def groups(rig):
    g = rig.groups
    before = g.state("vcpu0@v", "vcpu1@v")
    yield g
    assert g.state("vcpu0@v", "vcpu1@v") == before
    shown = rig.vms["v"].show()
    assert not shown.get("changed") and shown["state"] == "running"


def verify(host, status=0):
    p = host.mete("vm", "verify", "v", check=False)
    assert p.returncode == status, p.stdout + p.stderr
    return p.stdout


def metric(host, name):
    text = host.http("GET", "/metrics")[1]
    return int(float(next(line.split()[1] for line in text.splitlines() if line.split()[0] == f"mete_{name}")))


def test_nothing_was_changed(rig, groups):
    last, commits, checks = rig.last_event(), metric(rig, "commits_total"), metric(rig, "checks_total")
    assert "as it was granted" in verify(rig)
    assert rig.last_event() == last and metric(rig, "commits_total") == commits, "looking costs no record"
    assert metric(rig, "checks_total") == checks + 2


@pytest.mark.parametrize("vcpu, granted, holder", [(0, 100, "vm:v"), (1, 500, None)])
def test_figures_are_changed(rig, groups, vcpu, granted, holder):
    """Base vCPUs and leased ones: share and CPUs."""
    group, last = f"vcpu{vcpu}@v", rig.last_event()
    groups.set_weight(group, 30)
    verify(rig)
    assert groups.weight(group) == str(10 * granted)
    wrong, = said(rig, last, "changed")
    assert f"changed behind our back: vcpu {vcpu} on cpu:" in wrong["text"] and f"3 thousandths where {granted}" in wrong["text"]
    assert wrong["subject"] == holder or (holder is None and wrong["subject"].startswith("vm:v/"))
    right, = said(rig, last, "repaired")
    assert right["seq"] > wrong["seq"]
    own = groups.cpus(group)
    other = next(str(c) for c in sorted(os.sched_getaffinity(0)) if str(c) != own)
    for wrong_cpus in (other, f"{own},{other}"):
        groups.set_cpus(group, wrong_cpus)
        verify(rig)
        assert groups.cpus(group) == own
    expect(rig, last, changed=3, repaired=3)


@pytest.mark.parametrize("vcpu, ceiling", [(0, (9000, 10000)), (1, None)])
def test_ceilings_are_changed(rig, groups, vcpu, ceiling):
    """Those of base vCPUs are the VM's; a leased one has none."""
    group, last = f"vcpu{vcpu}@v", rig.last_event()
    assert groups.quota(group) == ceiling
    changes = [(5000, 10000), (90000, 100000), (5000, 1000000)] + ([(None, 10000)] if ceiling else [])
    for quota in changes:
        groups.set_quota(group, *quota)
        verify(rig)
        assert groups.quota(group) == ceiling
    expect(rig, last, changed=len(changes), repaired=len(changes))
    assert f"500 thousandths where {900 if ceiling else 1000} are meant" in said(rig, last, "changed")[0]["text"]


def test_a_thread_is_moved_out(rig, groups):
    last = rig.last_event()
    tid, = groups.threads("vcpu1@v")
    groups.move(tid, "emulator@v")
    verify(rig)
    assert groups.threads("vcpu1@v") == {tid}
    expect(rig, last, changed=1, repaired=1)
    assert "not where it was put" in said(rig, last, "changed")[0]["text"]


def test_strangers_are_put_out(rig, groups):
    """A thread of the VMM, and a process that is nobody's here, in the group of a vCPU."""
    last, pid = rig.last_event(), rig.vms["v"].pid()
    stranger = subprocess.Popen(["sleep", "1000"])
    home = open(f"/proc/{stranger.pid}/cgroup").read()
    try:
        if not groups.is_v2:  # there only whole processes enter a threaded domain
            groups.move(stranger.pid, "vcpu1@v")
        groups.move(pid, "vcpu1@v")
        verify(rig)
        assert len(groups.threads("vcpu1@v")) == 1 and pid in groups.threads("emulator@v")
        assert open(f"/proc/{stranger.pid}/cgroup").read() == home
        expect(rig, last, changed=1, repaired=1)
        if not groups.is_v2:  # its CPUs alone
            path, = [d for d in groups.of("vcpu1@v") if os.path.exists(f"{d}/cpuset.cpus")]
            with open(f"{path}/tasks", "w") as f:
                f.write(str(stranger.pid))
            if open(f"/proc/{stranger.pid}/cgroup").read() != home:
                verify(rig)
            assert open(f"/proc/{stranger.pid}/cgroup").read() == home
            expect(rig, last, changed=2, repaired=2)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_group_is_removed(rig, groups):
    last = rig.last_event()
    for group in ("vcpu0@v", "vcpu1@v"):
        groups.remove(group, "v")
    verify(rig)
    expect(rig, last, changed=2, repaired=2)
    assert all("is not activated" in e["text"] for e in said(rig, last, "changed"))


def test_a_repair_that_fails_is_shown_until_it_works(rig, groups):
    last = rig.last_event()
    for round_ in range(2):
        if round_ == 0:
            groups.set_weight("vcpu1@v", 30)
        with open(rig.fault, "w") as f:
            f.write("repair host vcpu error\n")
        assert "vcpu 1 on cpu:" in verify(rig, status=1)
        assert not os.path.exists(rig.fault)
        shown, = rig.vms["v"].show()["changed"]
        assert "vcpu 1 on cpu:" in shown and "made to fail" in shown
        assert "made to fail" in rig.mete("vm", "show", "v").stdout
        doctor = rig.mete("doctor", check=False)
        assert doctor.returncode == 1 and "CHANGED" in doctor.stdout and "made to fail" in doctor.stdout
        assert metric(rig, "changed") == 1
    expect(rig, last, changed=1, repair_failed=1)  # said once
    verify(rig)
    expect(rig, last, changed=1, repair_failed=1, repaired=1)
    assert "CHANGED" not in rig.mete("doctor", check=False).stdout and metric(rig, "changed") == 0


def test_a_ram_file_is_unlinked(rig, groups):
    """What cannot be repaired is said."""
    path, aside = f"{rig.ram_dir}/v/ram0", f"{rig.ram_dir}/v/aside"
    last = rig.last_event()
    os.link(path, aside)
    os.unlink(path)
    try:
        assert "RAM file is gone" in verify(rig, status=1)
        expect(rig, last, changed=1, repair_failed=1)
    finally:
        os.link(aside, path)
        os.unlink(aside)
    verify(rig)
    expect(rig, last, changed=1, repair_failed=1, repaired=1)


@pytest.mark.parametrize("who", ["meted", "keeper", "both"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_changed_while_nobody_looked(rig, groups, who, sig):
    """After a restart each item is what was granted, of the base and of leases."""
    last, before = rig.last_event(), groups.state("vcpu0@v", "vcpu1@v")
    if who != "meted":
        rig.kill_keeper(sig)
    if who != "keeper":
        rig.kill_meted(sig)
    groups.set_weight("vcpu0@v", 30)
    tid, = groups.threads("vcpu1@v")
    groups.remove("vcpu1@v", "v")
    if who != "meted":
        rig.start_keeper()
    if who != "keeper":
        rig.start_meted()
    wait_for("all is as it was", lambda: all(groups.of(g) for g in before) and groups.state(*before) == before, 30, 0.1)
    wait_for("it is said", lambda: len(said(rig, last, "repaired")) == 2, 30, 0.1)
    expect(rig, last, changed=2, repaired=2)
    assert groups.threads("vcpu1@v") == {tid}


def test_killed_in_the_middle_of_a_repair(rig, groups):
    """meted dies before a repair acts, or behind it: its successor looks at everything, and goes on."""
    for step in ("repair host vcpu", "repair bind vcpu"):
        last = rig.last_event()
        groups.remove("vcpu1@v", "v")
        with open(rig.fault, "w") as f:
            f.write(f"{step} die\n")
        assert rig.mete("vm", "verify", "v", check=False).returncode != 0
        rig.meted.wait(15)
        rig.start_meted()
        wait_for("its thread is back", lambda: groups.of("vcpu1@v") and groups.threads("vcpu1@v"), 30, 0.1)
        wait_for("nothing is left to do", lambda: verify_is_good(rig), 30, 0.2)
        assert said(rig, last, "changed"), "what was found was recorded before anything was done"


def verify_is_good(host):
    p = host.mete("vm", "verify", "v", check=False)
    return p.returncode == 0


def test_without_the_keeper_nothing_is_said_to_be_good(rig, groups):
    rig.kill_keeper()
    try:
        p = rig.mete("vm", "verify", "v", check=False)
        assert p.returncode == 69 and "mete-keeper is not there" in p.stderr, p.stdout + p.stderr
    finally:
        rig.start_keeper()
    wait_for("the keeper is known", lambda: verify_is_good(rig), 30, 0.2)


def test_what_was_repaired_is_said(rig, groups):
    groups.remove("vcpu1@v", "v")
    said_now = verify(rig)
    assert "held as it was granted again" in said_now and "repaired:  1 changed" in said_now
    assert "repaired" not in verify(rig)


def test_who_does_not_run_is_not_verified(rig):
    rig.mete("vm", "create", "idle")
    p = rig.mete("vm", "verify", "idle", check=False)
    assert p.returncode != 0 and "does not run" in p.stderr
    rig.mete("vm", "delete", "idle")


def test_it_is_looked_at_by_itself_and_repaired_or_not():
    with Host(memory="1G", extra="verify=200ms\nrepair=no\n") as host:
        if host.get("/v1/host")["cpu_provider"] == "affinity":
            pytest.skip("affinity alone has no groups")
        host.vm("v")
        g = Groups(host)
        before = g.state("vcpu0@v")
        last = host.last_event()
        g.set_weight("vcpu0@v", 30)
        wait_for("it is noticed", lambda: host.vms["v"].show().get("changed"), 20, 0.1)
        assert "3 thousandths" in host.vms["v"].show()["changed"][0]
        checks = metric(host, "checks_total")
        wait_for("it is looked at again and again", lambda: metric(host, "checks_total") > checks + 3, 20, 0.1)
        expect(host, last, changed=1)
        assert g.weight("vcpu0@v") == "30", "by policy nothing is repaired"
        g.set_weight("vcpu0@v", before["vcpu0@v"][0])
        wait_for("it is well again", lambda: not host.vms["v"].show().get("changed"), 20, 0.1)
        expect(host, last, changed=1, repaired=1)
        # With the other policy nobody has to ask, either.
        host.kill_meted(signal.SIGTERM)
        host.extra = "verify=200ms\n"
        host.write_config()
        host.start_meted()
        g.set_weight("vcpu0@v", 30)
        wait_for("it is repaired", lambda: g.state("vcpu0@v") == before, 20, 0.1)


def test_an_exclusive_cpu_stays_free_of_vmms():
    """Emulators of all VMs leave it out; changed by hand it is mended, also over a restart of both daemons."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("takes two CPUs")
    with Host(memory="1G", extra="verify=1h\n") as host:
        if host.get("/v1/host")["cpu_provider"] == "affinity":
            pytest.skip("affinity alone keeps nobody off")
        vm = host.vm("v")
        g = Groups(host)
        shared = g.cpus("emulator@v")
        with App(vm, "alone") as app:
            verdict = app.call("request", {"needs": ["cpu:1,exclusive"]})
            assert verdict["outcome"] == "granted" and any("outside of mete" in f for f in verdict["fallbacks"]), verdict
            slot, = verdict["cpus"]
            own, pid = g.cpus(f"vcpu{slot}@v"), vm.pid()

            def is_alone():
                return all(int(own) not in os.sched_getaffinity(int(t)) for t in os.listdir(f"/proc/{pid}/task")
                           if int(t) not in g.threads(f"vcpu{slot}@v"))
            assert is_alone() and g.cpus("emulator@v") != shared
            last = host.last_event()
            g.set_cpus("emulator@v", shared)
            assert not is_alone()
            verify(host)
            assert is_alone()
            expect(host, last, changed=1, repaired=1)
            assert "granted exclusively" in said(host, last, "changed")[0]["text"]
            host.kill_meted()
            host.kill_keeper()
            g.set_cpus("emulator@v", shared)
            host.start_keeper()
            assert is_alone()
            host.start_meted()
            wait_for("it was looked at", lambda: verify_is_good(host), 30, 0.2)
            assert is_alone()
            app.kill()
        wait_for("emulators have all CPUs again", lambda: g.cpus("emulator@v") == shared, 30, 0.1)

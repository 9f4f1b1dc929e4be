# SPDX-License-Identifier: Apache-2.0
"""Every step of activation and of the way back, and every way in which it can go wrong.

For each step of each kind of resource and each fault, one activation is made: the step fails, or its end is late, or
meted dies before it or behind it, or the keeper dies, or QEMU dies. Afterwards the pool, the definitions, the groups of
the host with their figures and threads, the pools of huge pages, the VMM's threads and memory are compared with what they were before, field by
field. Real programs throughout; only where a fault strikes is chosen (METE_FAULTS, src/meted/crash.h).
"""
import glob
import os
import re
import shutil
import signal

import pytest
import payload
from app import App, AppError
from host import Host, wait_for
from huge import CannotRun as NoHugePages
from huge import Huge, pools
from monitor import disk_limits
from netns import CannotRun, Network
from resctrl import MadeUpTree

FAULT_BUILD = os.environ.get("METE_CRASH_BUILD") or os.environ.get("METE_BUILD") or "build/debug"

# Names of steps as src/meted/activate.c makes them.
UP = {
    "cpu": ["host vcpu", "virtual vcpu", "bind vcpu", "confirm guest", "finalise vcpu"],
    "memory": ["prepare dimm", "host dimm", "virtual dimm", "confirm guest", "finalise dimm"],
    "vm": ["prepare ram", "host ram", "host vcpu", "virtual ram", "virtual vcpu", "bind vcpu", "confirm vm",
           "finalise ram", "finalise vcpu"],
    "net": ["host nic", "virtual nic", "confirm guest", "finalise nic"],
    "disk": ["bind disk", "confirm guest", "finalise disk"],
    "class": ["host none", "bind none", "finalise none"],
}
BACK = {
    "cpu": ["back confirm guest", "back bind vcpu", "back virtual vcpu", "back host vcpu"],
    "memory": ["back confirm guest", "back virtual dimm", "back host dimm", "back prepare dimm"],
    "vm": ["back confirm vm", "back bind vcpu", "back virtual vcpu", "back virtual ram", "back host vcpu",
           "back host ram", "back prepare ram"],
    "net": ["back virtual nic", "back host nic"],
    "disk": ["back confirm guest", "back bind disk"],
    "class": ["back bind none", "back host none"],
}
# A VM that is stopped by its guest: kept, then reclaimed for another one or taken over by its next start.
LAZY = ["back confirm vm", "back bind vcpu", "back virtual vcpu", "back virtual ram"]
RECLAIM = ["back host vcpu", "back host ram", "back prepare ram"]
TAKE_OVER = ["prepare ram", "virtual ram", "virtual vcpu", "bind vcpu", "confirm vm", "finalise ram", "finalise vcpu"]
NEEDS = {"cpu": ["cpu:1,share>=0.5"], "memory": ["memory:128M"], "net": ["net:100M"], "huge": ["memory:128M,page=2M"],
         "disk": ["block:100M"],
         "cache": ["cpu:1", "cache:2"], "membw": ["cpu:1", "membw:20%"]}
FAULTS = ["error", "late", "die", "meted", "keeper"]
tried = {"cases": 0}


def join(kinds, table):
    """The steps of a request for several kinds, each once."""
    steps = []
    for kind in kinds:
        steps += [s for s in table[kind] if s not in steps]
    return steps


class Rig:
    """A host whose meted can be made to fail, with one VM; with a network, where it has a card; with a disk that is held to a
    rate."""

    def __init__(self, host, net=None, start=True, disk=False):
        self.net = net
        self.disk_is_held_to = (50 << 20, 500) if disk else None
        self.host = host
        self.dir = host.path("faults")
        os.mkdir(self.dir, 0o755)
        os.chown(self.dir, host.meted_uid, host.meted_gid)
        self.file = os.path.join(self.dir, "fault")
        host.meted_env["METE_FAULTS"] = self.file
        host.kill_meted()
        shutil.copy(os.path.join(os.path.dirname(__file__), "../..", FAULT_BUILD, "src/meted/meted"),
                    host.path("bin", "meted"))
        host.start_meted()
        self.n = 0
        if start:
            more = {}
            if disk:
                with open(host.path("images", "v.raw"), "wb") as f:
                    f.truncate(16 << 20)
                os.chmod(host.path("images", "v.raw"), 0o666)  # QEMU opens it to write
                more = {"disk": "v.raw", "disk-rate": "50M..200M"}
            self.vm = host.vm("v", cpus="1..3", memory="256M..1G", share="0.1..0.9",
                              net="lan:200M..600M" if net else None, page="2M" if host.huge else None, **more)
            self.app = App(self.vm, "faults")

    # -- the fault

    def arm(self, step, fault):
        assert not os.path.exists(self.file) and not os.path.exists(self.file + ".held")
        word = fault if fault in ("error", "late", "die") else "hold"
        self.armed = f"{step} {word}"
        with open(self.file + ".new", "w") as f:
            f.write(self.armed + "\n")
        os.chmod(self.file + ".new", 0o644)
        os.rename(self.file + ".new", self.file)

    def strike(self, fault):
        """Waits until the fault is met, and does what it asks of us."""
        wait_for(f"the step of {self.armed} is met", lambda: not os.path.exists(self.file), 60)
        if fault == "die":
            assert self.host.meted.wait(30) == -signal.SIGKILL
            self.host.start_meted()
            return
        if fault in ("error", "late"):
            return
        held = self.file + ".held"
        assert os.path.exists(held)
        if fault == "meted":
            self.host.kill_meted()
            os.unlink(held)
            self.host.start_meted()
        elif fault == "keeper":
            self.host.kill_keeper()
            os.unlink(held)
            self.host.start_keeper()
        elif fault == "vmm":
            os.kill(self.vm.pid(), signal.SIGKILL)
            os.unlink(held)

    # -- what there is

    def ram(self, name):
        """Where the RAM file of a VM is."""
        return f"{self.host.huge.dir}/{self.host.name}/{name}" if self.host.huge else f"{self.host.ram_dir}/{name}"

    def huge(self):
        """What is on huge pages, and what there is of them, by node and size."""
        return (pools(), self.host.huge.files()) if self.host.huge else None

    def pid_of(self, name):
        """Of a VM's VMM, from the kernel, not from meted; None: it does not run. Others end while they are looked at."""
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as f:
                    if f"{self.ram(name)}/".encode() in f.read():
                        return int(path.split("/")[2])
            except OSError:
                continue
        return None

    def vmm_pid(self):
        return self.pid_of(self.vm.name)

    def groups(self, names):
        """Each group of ours with its figures and the names of its threads. What is parked is left out: a vCPU that
        cannot be unplugged on this platform stays there, idle, whether or not anything went wrong."""
        found = {}
        for group in self.host.cgroups():
            base = os.path.basename(group)
            if base.startswith("parked@"):
                continue
            figures = {}
            for name in ("cpuset.cpus", "cpu.shares", "cpu.weight", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
                try:
                    with open(os.path.join(group, name)) as f:
                        figures[name] = f.read().strip()
                except OSError:
                    pass
            threads = []
            for name in ("tasks", "cgroup.threads"):
                try:
                    with open(os.path.join(group, name)) as f:
                        threads += [names.get(tid, "?") for tid in f.read().split()]
                except OSError:
                    pass
            # workers of QEMU come and go; a group of the whole VMM has the parked ones too
            figures["threads"] = sorted({t for t in threads if t.startswith("CPU ")}) if "@" in base else []
            found[group] = figures
        return found

    def snapshot(self):
        pid, names, maps = self.vmm_pid(), {}, []
        if pid:
            for path in glob.glob(f"/proc/{pid}/task/*/comm"):
                try:
                    with open(path) as f:
                        names[path.split("/")[4]] = f.read().strip()
                except OSError:
                    pass
            with open(f"/proc/{pid}/maps") as f:
                maps = sorted({m.group(0) for m in re.finditer(r"dimm\S+", f.read())})
        files = {}
        for path in glob.glob(f"{self.host.ram_dir}/{self.vm.name}/dimm*"):
            files[os.path.basename(path)] = os.stat(path).st_blocks  # a file stays, empty, until the VM ends
        return {
            "pool": self.host.free(),
            "definitions": self.host.get("/v1/definitions")["definitions"],
            "leases": [lease["holder"] for lease in self.host.leases()],
            "groups": self.groups(names),
            "network": self.net.state() if self.net else None,
            "huge": self.huge(),
            "classes": self.host.tree.state() if self.host.tree else None,
            "running": pid is not None,
            "maps": maps,
            "memory": {name: blocks for name, blocks in files.items() if blocks},
        }

    def settle(self, before, what):
        """Everything is as it was; says which field is not."""
        def same():
            now = self.snapshot()
            return now == before
        try:
            wait_for("all is back", same, 60, 0.1)
        except Exception:
            now = self.snapshot()
            for field in before:
                assert now[field] == before[field], f"{what}: {field} is not as it was"
            raise
        if self.disk_is_held_to and before["running"]:  # in QEMU's own words
            assert disk_limits(self.host, "v") == self.disk_is_held_to, f"{what}: the disk is held to another rate"
        tried["cases"] += 1

    # -- one case

    def ready(self):
        """The VM runs and its guest answers."""
        if self.vm.show()["state"] != "running":
            self.vm.start()
            self.app = App(self.vm, "faults")
        self.vm.wait_agent()

    def again(self, call):
        """meted may be just starting: the agent tells the application to ask again."""
        def once():
            try:
                return call() or True
            except AppError as problem:
                if problem.reason == "not-found":
                    return True
                return None
        return wait_for("the application is answered", once, 60, 0.1)

    def lease(self, needs, step, fault):
        self.ready()
        before = self.snapshot()
        self.n += 1
        name = f"f{self.n}"
        is_back = step.startswith("back ")
        if is_back:
            assert self.app.call("request", {"id": name, "needs": needs})["outcome"] == "granted"
        self.arm(step, fault)
        number = self.app.start("release" if is_back else "request",
                                {"id": name} if is_back else {"id": name, "needs": needs})
        self.strike(fault)
        if fault == "vmm":
            wait_for("the VM is stopped", lambda: self.vm.show()["state"] == "stopped", 30, 0.05)
            self.vm.disconnect()
            self.ready()
        else:
            if not is_back:
                try:
                    verdict = self.app.answer(number, 60)
                except AppError:
                    verdict = self.again(lambda: self.app.call("request", {"id": name, "needs": needs}))
                if fault in ("error", "late"):
                    assert verdict["outcome"] == "not-now", (step, fault, verdict)
            self.again(lambda: self.app.call("release", {"id": name}))
        self.settle(before, f"{step} {fault}")

    def machine(self, step, fault):
        """The VM itself: started with a fault, or ended with one."""
        if self.vm.show()["state"] != "stopped":
            self.vm.kill()
            wait_for("the VM is stopped", lambda: self.vm.show()["state"] == "stopped", 30, 0.05)
        before = self.snapshot()
        assert not before["running"]
        is_back = step.startswith("back ")
        self.vm.disconnect()
        if is_back:
            self.host.mete("vm", "start", "v")
        self.arm(step, fault)
        p = self.host.mete_start("vm", "kill" if is_back else "start", "v")
        self.strike(fault)
        status = p.wait(90)
        if not is_back and (fault in ("error", "late") or fault == "vmm" and not step.startswith("finalise")):
            # a VMM that ends while the last step reads what holds it may have been started before it ended
            assert status != 0, f"{step} {fault}: the start is said to have worked"
        if not is_back and fault not in ("error", "late", "vmm"):
            # the journal says where it stood: a start goes on, whoever died
            wait_for("the VM runs", lambda: self.vm.show()["state"] == "running", 60, 0.05)
        wait_for("the VM is somewhere", lambda: self.vm.show()["state"] in ("running", "stopped"), 60, 0.05)
        if self.vm.show()["state"] == "running":
            self.host.mete("vm", "kill", "v", check=False)
        wait_for("the VM is stopped", lambda: self.vm.show()["state"] == "stopped", 60, 0.05)
        self.settle(before, f"{step} {fault}")


class KeptRig(Rig):
    """Two VMs of which only one has room at a time. Their guest does nothing but power down when it is asked to."""

    def __init__(self, host):
        super().__init__(host, start=False)
        host.image(payload.button(), "button.elf")
        for name in ("v", "w"):
            host.mete("vm", "create", name, "--cpus=1", "--memory=384M", "--share=0.1", "--kernel=button.elf",
                      *(["--page=2M"] if host.huge else []))
        self.names = ("v", "w")

    def state(self, name):
        return self.host.mete_json("vm", "show", name)

    def stopped(self, name):
        wait_for(f"{name} is stopped", lambda: self.state(name)["state"] == "stopped", 60, 0.05)

    def clear(self):
        for name in self.names:
            self.host.mete("vm", "kill", name)
            self.stopped(name)
            wait_for(f"nothing of {name} is kept", lambda n=name: not self.state(n).get("kept"), 60, 0.05)

    def snapshot(self):
        return {
            "pool": self.host.free(),
            "definitions": self.host.get("/v1/definitions")["definitions"],
            "leases": [lease["holder"] for lease in self.host.leases()],
            "groups": self.groups({}),
            "files": sorted(glob.glob(f"{self.host.ram_dir}/*/*")),
            "huge": self.huge(),
            "running": any(self.pid_of(n) for n in self.names),
        }

    def run(self, name):
        """It runs, and its guest hears of its power button."""
        self.host.mete("vm", "start", name)
        wait_for(f"the guest of {name} is up", lambda: payload.is_button_ready(f"{self.ram(name)}/ram0"), 60)

    def powered_down(self):
        """v has run and was stopped by its guest."""
        self.run("v")
        self.host.mete("vm", "stop", "v")
        assert self.state("v")["kept"]

    def lazily_back(self, step, fault):
        self.clear()
        before = self.snapshot()
        self.run("v")
        self.arm(step, fault)
        p = self.host.mete_start("vm", "stop", "v")
        self.strike(fault)
        p.wait(90)
        self.stopped("v")
        # a meted that died does not know how the guest ended, if that was not on record yet
        if fault not in ("die", "meted"):
            assert self.state("v")["kept"], f"{step} {fault}: it is not kept"
        self.host.mete("vm", "start", "v")
        self.clear()
        self.settle(before, f"lazy {step} {fault}")

    def reclaimed(self, step, fault):
        self.clear()
        before = self.snapshot()
        self.powered_down()
        self.arm(step, fault)
        since = self.host.last_event()
        p = self.host.mete_start("vm", "start", "w")
        self.strike(fault)
        p.wait(90)
        wait_for("w runs", lambda: self.state("w")["state"] == "running", 60, 0.05)
        # its memory is what w needs; where a CPU of v is held meanwhile, w need not wait for that
        seen = [(e["trace"], e["event"], e.get("text", "")) for e in self.host.events(after=since)]
        back = [i for i, (trace, event, text) in enumerate(seen) if (trace, event) == ("v", "host-deactivated") and text.startswith("ram 0")]
        first = [i for i, (trace, event, _) in enumerate(seen) if (trace, event) == ("w", "prepared")]
        assert back and first and back[0] < first[0], seen
        wait_for("nothing of v is kept", lambda: not self.state("v").get("kept"), 60, 0.05)
        self.clear()
        self.settle(before, f"reclaim {step} {fault}")

    def taken_over(self, step, fault):
        self.clear()
        before = self.snapshot()
        self.powered_down()
        self.arm(step, fault)
        p = self.host.mete_start("vm", "start", "v")
        self.strike(fault)
        status = p.wait(90)
        if fault in ("error", "late"):
            assert status != 0, f"{step} {fault}: the start is said to have worked"
            self.stopped("v")
            assert not self.state("v").get("kept"), "a start that fails leaves nothing"
        else:
            wait_for("v runs", lambda: self.state("v")["state"] == "running", 60, 0.05)
        self.clear()
        self.settle(before, f"take over {step} {fault}")


@pytest.fixture(scope="module")
def kept_rig():
    with Host(memory="512M", extra="retry=100ms\n") as host:
        yield KeptRig(host)


@pytest.fixture(scope="module")
def rig():
    with Host(memory="2G", extra="retry=100ms\n") as host:
        yield Rig(host)


@pytest.fixture(scope="module")
def net_rig():
    try:
        with Network() as net, Host(memory="2G", extra="retry=100ms\n", net=net) as host:
            yield Rig(host, net)
    except CannotRun as e:
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def huge():
    try:
        with Huge() as h:
            yield h
    except NoHugePages as e:
        pytest.skip(str(e))


@pytest.fixture(scope="module")
def huge_rig(huge):
    with Host(memory="2G", extra="retry=100ms\n", huge=huge) as host:
        yield Rig(host)


@pytest.fixture(scope="module")
def huge_kept_rig(huge):
    with Host(memory="512M", extra="retry=100ms\n", huge=huge) as host:
        yield KeptRig(host)


@pytest.fixture(scope="module")
def disk_rig():
    with Host(memory="2G", extra="retry=100ms\n[block]\nrate=400M\niops=4000\n") as host:
        yield Rig(host, disk=True)


def cases(steps, faults):
    return [(step, fault) for step in steps for fault in faults]


# While the VMM is there, it can die.
WITH_VMM = ["virtual vcpu", "bind vcpu", "confirm vm", "finalise ram", "finalise vcpu", "back confirm vm",
            "back bind vcpu", "back virtual vcpu", "back virtual ram"]


@pytest.mark.parametrize("step,fault", cases(UP["cpu"] + BACK["cpu"], FAULTS))
def test_cpu(rig, step, fault):
    rig.lease(NEEDS["cpu"], step, fault)


@pytest.mark.parametrize("step,fault", cases(UP["cpu"] + BACK["cpu"], FAULTS))
def test_two_cpus(rig, step, fault):
    """The fault strikes at one of two items; the other one is undone with it."""
    rig.lease(["cpu:2,share>=0.2"], step, fault)


@pytest.mark.parametrize("step,fault", cases(UP["memory"] + BACK["memory"], FAULTS))
def test_memory(rig, step, fault):
    rig.lease(NEEDS["memory"], step, fault)


@pytest.mark.parametrize("step,fault", cases(join(["memory", "cpu"], UP) + join(["memory", "cpu"], BACK),
                                             FAULTS + ["vmm"]))
def test_both(rig, step, fault):
    rig.lease(NEEDS["memory"] + NEEDS["cpu"], step, fault)


@pytest.mark.parametrize("step,fault", cases(UP["vm"] + BACK["vm"], FAULTS) + cases(WITH_VMM, ["vmm"]))
def test_machine(rig, step, fault):
    rig.machine(step, fault)


# The whole way of the card alone and beside a vCPU; and of the VM, whose other steps test_machine has.
@pytest.fixture(scope="module")
def class_rig():
    """With a made-up resctrl tree, nothing of which has an effect: all of it is compared."""
    with MadeUpTree(cpus=range(256)) as tree, Host(memory="2G", extra="retry=100ms\n", tree=tree) as host:
        yield Rig(host)


@pytest.mark.parametrize("kind", ["cache", "membw"])
@pytest.mark.parametrize("step,fault", cases(UP["class"] + BACK["class"], FAULTS + ["vmm"]))
def test_class(class_rig, kind, step, fault):
    class_rig.lease(NEEDS[kind], step, fault)


@pytest.mark.parametrize("step,fault", cases(UP["net"] + BACK["net"], FAULTS + ["vmm"]))
def test_net(net_rig, step, fault):
    net_rig.lease(NEEDS["net"], step, fault)


@pytest.mark.parametrize("step,fault", cases(join(["cpu", "net"], UP) + join(["cpu", "net"], BACK), ["error", "die"]))
def test_net_and_cpu(net_rig, step, fault):
    net_rig.lease(NEEDS["net"] + NEEDS["cpu"], step, fault)


@pytest.mark.parametrize("step,fault", cases(
    ["host nic", "virtual nic", "finalise nic", "virtual ram", "confirm vm"] + BACK["net"] + ["back virtual ram", "back host ram"],
    FAULTS) + cases(["virtual nic", "finalise nic", "back virtual nic"], ["vmm"]))
def test_machine_with_a_card(net_rig, step, fault):
    net_rig.machine(step, fault)


# Likewise the disk, whose limits are in the VMM.
@pytest.mark.parametrize("step,fault", cases(UP["disk"] + BACK["disk"], FAULTS + ["vmm"]))
def test_disk(disk_rig, step, fault):
    disk_rig.lease(NEEDS["disk"], step, fault)


@pytest.mark.parametrize("step,fault", cases(join(["cpu", "disk"], UP) + join(["cpu", "disk"], BACK), ["error", "die"]))
def test_disk_and_cpu(disk_rig, step, fault):
    disk_rig.lease(NEEDS["disk"] + NEEDS["cpu"], step, fault)


@pytest.mark.parametrize("step,fault", cases(
    ["virtual ram", "bind disk", "confirm vm", "finalise disk", "back confirm vm", "back bind disk", "back virtual ram"],
    FAULTS) + cases(["bind disk", "finalise disk", "back bind disk"], ["vmm"]))
def test_machine_with_a_disk(disk_rig, step, fault):
    disk_rig.machine(step, fault)


@pytest.mark.parametrize("step,fault", cases(LAZY, FAULTS))
def test_lazily_back(kept_rig, step, fault):
    kept_rig.lazily_back(step, fault)


@pytest.mark.parametrize("step,fault", cases(RECLAIM, FAULTS))
def test_reclaimed(kept_rig, step, fault):
    kept_rig.reclaimed(step, fault)


@pytest.mark.parametrize("step,fault", cases(TAKE_OVER, FAULTS))
def test_taken_over(kept_rig, step, fault):
    kept_rig.taken_over(step, fault)


# On huge pages: the whole way of a lease, and of the VM what has to do with its memory. Last, as nobody else on this
# machine can use them meanwhile.
@pytest.mark.parametrize("step,fault", cases(UP["memory"] + BACK["memory"], FAULTS + ["vmm"]))
def test_huge(huge_rig, step, fault):
    huge_rig.lease(NEEDS["huge"], step, fault)


@pytest.mark.parametrize("step,fault", cases(
    ["prepare ram", "host ram", "virtual ram", "confirm vm", "finalise ram", "back virtual ram", "back host ram",
     "back prepare ram"], FAULTS) + cases(["finalise ram", "back virtual ram"], ["vmm"]))
def test_machine_on_huge_pages(huge_rig, step, fault):
    huge_rig.machine(step, fault)


@pytest.mark.parametrize("step,fault", cases(["back virtual ram"], FAULTS))
def test_huge_lazily_back(huge_kept_rig, step, fault):
    huge_kept_rig.lazily_back(step, fault)


@pytest.mark.parametrize("step,fault", cases(["back host ram"], FAULTS))
def test_huge_reclaimed(huge_kept_rig, step, fault):
    huge_kept_rig.reclaimed(step, fault)


@pytest.mark.parametrize("step,fault", cases(["virtual ram", "finalise ram"], FAULTS))
def test_huge_taken_over(huge_kept_rig, step, fault):
    huge_kept_rig.taken_over(step, fault)


def test_count():
    """The last: says how many were tried."""
    print(f"\nundo_cases {tried['cases']}")
    assert tried["cases"] > 0

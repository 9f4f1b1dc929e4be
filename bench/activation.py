# SPDX-License-Identifier: Apache-2.0
"""What it costs to make something usable, and to take it back: in total, by step, and with many VMs beside it.

Times are those of the event log: from the record of the decision to the record of the end, commits included. A step
lasts from the event before its own to its own.
"""
import os
import re
import statistics
import subprocess
import sys

import payload
from host import HostError, Vm, wait_for
from in_guest import MEMORY_MIB, MEMORY_STEPS, SOCKET, guest_on, new_host
from nested import CannotRun, NestedHost
from result import RELEASE, ROOT, Skip, at_least

VCPUS = 7
DEBUG = os.environ.get("METE_BUILD") or "build/debug"


def grant(vm, need):
    """A process in the guest that has it: its pid."""
    return int(vm.check(f"bench-guest grant {SOCKET} '{need}'", 120).split()[2])


def walk(h, after, end):
    """Of the one request since that event: (total, {step: ms}), once the event `end` is there."""
    def ended():
        events = h.events(after=after)
        return events if any(e["event"] == end for e in events) else None
    steps, events = {}, wait_for(end, ended, 30, 0.05)
    events = events[:1 + [e["event"] for e in events].index(end)]
    for before, e in zip(events, events[1:]):
        steps[e["event"]] = steps.get(e["event"], 0) + e["at_ms"] - before["at_ms"]
    return events[-1]["at_ms"] - events[0]["at_ms"], steps


class Walks:
    """Totals and steps of many walks of one direction."""

    def __init__(self):
        self.totals, self.steps = [], {}

    def add(self, measured):
        total, steps = measured
        self.totals.append(float(total))
        for name, ms in steps.items():
            self.steps.setdefault(name, []).append(float(ms))

    def percentile(self, percent):
        return statistics.quantiles(self.totals, n=100, method="inclusive")[percent - 1]

    def figures(self, report, name, method, accel):
        steps = {f"step_{n}_ms": (ms, "ms") for n, ms in self.steps.items()}
        for percent in (50, 95):
            report.figure(f"{name}_p{percent}_ms", self.totals, "ms", None, steps if percent == 50 else {}, method, accel,
                          value=self.percentile(percent), digits=1)


def up_and_back(h, vm, need, up, back):
    """One activation, and the way back of it."""
    before = h.last_event()
    pid = grant(vm, need)
    up.add(walk(h, before, "granted"))
    before = h.last_event()
    vm.check(f"kill -9 {pid}")
    if back is not None:
        back.add(walk(h, before, "ended"))
    else:
        walk(h, before, "ended")


def activate(report, rounds):
    vcpu, vcpu_back, memory, memory_back = Walks(), Walks(), Walks(), Walks()
    for _ in range(rounds or 3):
        with new_host() as h:
            vm = h.vm("bench", cpus=f"1..{1 + VCPUS}", memory=f"512M..{512 + MEMORY_MIB}M", share="0.1")
            pids = []
            for _ in range(VCPUS):  # each a new one: on TCG a vCPU cannot be unplugged
                before = h.last_event()
                pids.append(grant(vm, "cpu:1,share>=0.1"))
                vcpu.add(walk(h, before, "granted"))
            for pid in pids:
                before = h.last_event()
                vm.check(f"kill -9 {pid}")
                vcpu_back.add(walk(h, before, "ended"))
            for _ in range(MEMORY_STEPS):
                up_and_back(h, vm, f"memory:{MEMORY_MIB}M", memory, memory_back)
            accel = vm.show()["accelerator"]
    method = "from the record of the decision to that of the grant, by the event log; beside it each step"
    vcpu.figures(report, "activate_vcpu", "a vCPU, hot-plugged: " + method, accel)
    memory.figures(report, "activate_memory", f"{MEMORY_MIB} MiB in a DIMM: " + method, accel)
    both = memory_back.totals + vcpu_back.totals
    report.figure("undo_p95_ms", both, "ms", None, {
        **{f"memory_{n}_ms": (ms, "ms") for n, ms in memory_back.steps.items()},
        **{f"vcpu_{n}_ms": (ms, "ms") for n, ms in vcpu_back.steps.items()}},
        "the way back, from the record of the release to that of its end, of the DIMMs and vCPUs above (a vCPU goes off line "
        "and is put aside where the accelerator cannot unplug it)", accel,
        value=statistics.quantiles(both, n=100, method="inclusive")[94], digits=1)


def crowd(h, n):
    """n VMs that run and sleep."""
    h.image(payload.program(), "payload.elf")
    for i in range(n):
        h.mete("vm", "create", f"other{i}", "--cpus=1..1", "--memory=128M..128M", "--share=0.001", "--kernel=payload.elf",
               "--append=work=0 say=0")
        h.vms[f"other{i}"] = Vm(h, f"other{i}")
        h.vms[f"other{i}"].start(wait=False)


def side_by_side(report, rounds):
    few, many = Walks(), Walks()
    # 200 times the smallest VM's RAM is more than this machine may have; theirs is not written to.
    options = {"source": f"synthetic:[NUMANode(memory={64 << 30})] core:{os.cpu_count()} pu:1", "memory": "60G"}
    with new_host(**options) as a, new_host(vms=256, **options) as b:
        guests = []
        for h, n in (a, 10), (b, 200):
            crowd(h, n - 1)
            guests.append(h.vm("bench", cpus="1..2", memory=f"512M..{512 + MEMORY_MIB}M", share="0.1"))
        for h, vm in zip((a, b), guests):
            up_and_back(h, vm, f"memory:{MEMORY_MIB}M", Walks(), None)  # the first one translates the guest's code
        for _ in range(rounds or 15):
            for h, vm, walks in (a, guests[0], few), (b, guests[1], many):
                up_and_back(h, vm, f"memory:{MEMORY_MIB}M", walks, None)
        running = [len([v for v in h.mete_json("vm", "list")["vms"] if v["state"] == "running"]) for h in (a, b)]
        if running != [10, 200]:
            raise HostError(f"{running} VMs run")
        accel = guests[0].show()["accelerator"]
    report.figure("activate_200_over_10", [m / f for m, f in zip(many.totals, few.totals)], "ratio", None,
                  {"with_10_vms_ms": (few.totals, "ms"), "with_200_vms_ms": (many.totals, "ms")},
                  f"activation of {MEMORY_MIB} MiB, on two hosts of one machine in turns: one runs 10 VMs, the other 200",
                  accel)


def share(report, rounds):
    held, bare = [], []
    try:
        nested = NestedHost(smp=2, memory="2G", nodes=2)
        nested.__enter__()
    except CannotRun as why:
        raise Skip(f"no nested host: {why}") from why
    try:
        nested.start_keeper()
        nested.start_meted()
        vm = nested.vm("v", share="0.8")
        cpu, tid, home = vm.cpus(), vm.threads()[0], vm.group()
        vm.work()
        spinner = nested.spin(cpu)
        by_hand = nested.group("by-hand")
        for _ in range(rounds or 3):
            held.append(nested.shares(tid, spinner)[0].held)
        nested.check(f"echo {vm.pid()} >{by_hand}/cgroup.procs; taskset -p {1 << int(cpu):x} {tid}")
        if home == vm.group():
            raise HostError(f"the vCPU is still in {home}")
        for _ in range(rounds or 3):
            bare.append(nested.shares(tid, spinner)[0].held)
    finally:
        nested.close()
    report.figure("share_held", held, "of a CPU", at_least(0.78), {"without_the_grant": (bare, "of a CPU")},
                  "what the vCPU of a VM with share 0.8 gets of the time in which it could run, beside a spinner on its CPU, by "
                  "the scheduler's account of a nested host with cgroup v2; then the same two in two groups of one weight", "tcg", digits=3)


def undo(report, rounds):
    if not os.path.exists(os.path.join(ROOT, DEBUG, "src/meted/meted")):
        raise Skip(f"faults need the debug build in {DEBUG}: make")
    p = subprocess.run([sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-s",
                        os.path.join(ROOT, "tests/system/test_faults.py")], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                       env={**os.environ, "METE_BUILD": DEBUG, "METE_RELEASE": RELEASE})
    found = re.search(r"^undo_cases (\d+)", p.stdout, re.M)
    if p.returncode or not found:
        raise HostError(f"test_faults.py: exit {p.returncode}: {p.stdout[-2000:]}")
    report.figure("undo_cases", [float(found.group(1))], "cases", at_least(300), {},
                  "steps times faults; after each all is as before, field by field (tests/system/test_faults.py)", digits=0)


GROUPS = [
    (["activate_vcpu_p50_ms", "activate_vcpu_p95_ms", "activate_memory_p50_ms", "activate_memory_p95_ms", "undo_p95_ms"],
     activate),
    (["activate_200_over_10"], side_by_side),
    (["share_held"], share),
    (["undo_cases"], undo),
]

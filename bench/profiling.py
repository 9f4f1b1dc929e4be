# SPDX-License-Identifier: Apache-2.0
"""What vm/profiler costs the guest that it looks at, and how near it comes to what the guest says itself (tests/payload)."""
import json
import os
import resource
import statistics
import subprocess
import time

import payload
from dirtier import Dirtier
from result import QEMU, RELEASE, ROOT, at_most

LOAD = "work=1 dirty=31 area=512 say=0"
PAUSE_S = 7.0  # as long as a profile takes


def profile(ram):
    out = subprocess.run([os.path.join(ROOT, RELEASE, "bench", "bench-profile"), "1", "0", ram], stdout=subprocess.PIPE, check=True)
    return json.loads(out.stdout)


def cpu_of(pid):
    """Seconds of CPU that a VMM had. Who exits meanwhile is none of the guest's threads."""
    total = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/schedstat") as f:
                total += int(f.read().split()[0]) * 1e-9
        except FileNotFoundError:
            pass
    return total


def speed(vm, work):
    """What work() returns, the guest's rounds for each second of CPU that the VMM and whoever work() ran had, and
    the pages that it dirtied a second."""
    before, cpu, begin = vm.board(), cpu_of(vm.process.pid), time.monotonic()
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = work()
    after, took = vm.board(), time.monotonic() - begin
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = cpu_of(vm.process.pid) - cpu + ended.ru_utime - others.ru_utime + ended.ru_stime - others.ru_stime
    rounds = (after.rounds[0] - before.rounds[0]) % (1 << 32)
    return result, rounds / cpu, (after.dirtied_pages - before.dirtied_pages) % (1 << 32) / took


def look(report, rounds):
    """All on one CPU, the profiler with the guest: that is the worst place for it. What else runs there takes time
    from both, so that work is counted for the time that they had."""
    cost, cpu, errors, covered = [], [], [], []
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        with Dirtier(QEMU, payload.program(os.path.join(ROOT, RELEASE)), mib=1024, options=LOAD) as vm:
            vm.wait_for_passes(1)
            _, last, _ = speed(vm, lambda: time.sleep(PAUSE_S))
            for _ in range(rounds or 10):
                found, seen, pages_per_s = speed(vm, lambda: profile(vm.ram))
                _, alone, _ = speed(vm, lambda: time.sleep(PAUSE_S))
                cost.append(100 * (1 - seen / ((alone + last) / 2)))
                last = alone
                cpu.append(100 * found["cpu_us"] / found["elapsed_us"])
                for at in found["looks"]:
                    true = pages_per_s * at["s"] * 4096
                    errors.append(100 * abs(at["dirty_bytes"] / true - 1))
                    covered.append(true <= at["curve_bytes"] * (1 + found["error"]))
    finally:
        os.sched_setaffinity(0, cpus)
    method = (f"payload ({LOAD}), 1 GiB, one vCPU, TCG; guest and profiler on one CPU; rounds of work for each "
              "second of CPU that the two had, during a profile against the mean of the 7 s before and after it")
    report.figure("profile_cost_pct", cost, "%", at_most(2), {"profiler_cpu": (cpu, "%")}, method, accelerator="tcg")
    method = (f"the same run: distinct bytes dirtied within 50 ms, 200 ms, 1 s and 5 s, against rate times time by the "
              f"guest's own count; the curve with its error was not below the truth in {sum(covered)} of {len(covered)}")
    report.figure("profile_error_pct", errors, "%", at_most(10), {"nine_of_ten": ([statistics.quantiles(errors, n=10)[8]], "%")},
                  method, accelerator="tcg")
    print(f"# profile_error_pct: {method.split('; ')[-1]}")


GROUPS = [(["profile_cost_pct", "profile_error_pct"], look)]

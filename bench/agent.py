# SPDX-License-Identifier: Apache-2.0
"""What mete-agent costs the guest that it runs in: the guest's work with it and without, in turns."""
import time

from host import wait_for
from in_guest import new_host
from profiling import cpu_of
from result import at_most

WORK_S = 10  # one step of the agent's projection is in each
OPTIONS = "--project 10s"
SETTLE_S = 2  # it greets, and is told of the host


def prepare(vm):
    """What init starts in the agent's place while there is to be none sleeps for a day, so that starting it again costs nothing."""
    vm.check(f"echo '{OPTIONS}' >/etc/agent.args; sed -i 's/exec sleep 1$/exec sleep 86400/' /etc/agent; chmod +x /etc/agent; grep -q 86400 /etc/agent")


def is_running(vm):
    """Whether it runs, and has said so."""
    status, _ = vm.run("pid=$(pidof mete-agent) && tail -n +$(cat /run/log-had) /var/log/mete-agent.log | grep -q 'mete-agent: version'")
    return status == 0


def put(vm, is_there):
    if is_there:
        vm.check("echo $(($(wc -l </var/log/mete-agent.log) + 1)) >/run/log-had; rm /run/no-agent; killall sleep")
        wait_for("the agent is there", lambda: is_running(vm), 60, 0.2)
    else:
        vm.check("touch /run/no-agent; killall mete-agent")
        wait_for("the agent is gone", lambda: vm.run("pidof mete-agent")[0] != 0, 60, 0.2)
    time.sleep(SETTLE_S)


def agent_cpu_s(vm):
    return int(vm.check("cut -d' ' -f1 /proc/$(pidof mete-agent)/schedstat")) * 1e-9


def speed(vm, pid):
    """The guest's rounds of work for each second of CPU that its VMM had, and that time."""
    cpu = cpu_of(pid)
    made = int(vm.check(f"bench-guest work {WORK_S}", WORK_S + 120).split()[0])
    took = cpu_of(pid) - cpu
    return made / took, took


def look(report, rounds):
    """A single vCPU, so that whatever the agent does is taken from the work. What else the machine does takes time from the VMM, so that
    work is counted for the time that this had."""
    cost, own = [], []
    with new_host() as h:
        vm = h.vm("bench", cpus="1", memory="256M", share="0.5")
        pid = vm.pid()
        prepare(vm)
        put(vm, False)
        last, _ = speed(vm, pid)
        for _ in range(rounds or 6):
            put(vm, True)
            before = agent_cpu_s(vm)
            seen, took = speed(vm, pid)
            own.append(100 * (agent_cpu_s(vm) - before) / took)
            put(vm, False)
            alone, _ = speed(vm, pid)
            cost.append(100 * (1 - seen / ((alone + last) / 2)))
            last = alone
        accel = vm.show()["accelerator"]
    report.figure("agent_cost_pct", cost, "%", at_most(2), {"agent_cpu": (own, "%")},
                  f"Linux with one vCPU, mete-agent {OPTIONS}: rounds of work for each second of CPU that the VMM had, in {WORK_S} s with the agent "
                  f"against the mean of the {WORK_S} s before and after it without", accel)


GROUPS = [(["agent_cost_pct"], look)]

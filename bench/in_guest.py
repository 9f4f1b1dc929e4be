# SPDX-License-Identifier: Apache-2.0
"""Figures of an application in a real guest, each beside the same guest with a bare QEMU, in turns."""
import subprocess

from bare import Bare
from host import build_image
from on_host import host, program, rss_mib
from report import at_most

SOCKET = "/run/mete/agent.sock"
PORT = "/dev/virtio-ports/org.mete.agent.0"
# Below what the agent lets one user ask in a burst, so that its limit is not what is measured.
ASKS = 200
CPUS_MAX, MEMORY_STEPS, MEMORY_MIB = 8, 8, 512


def guest_on(h):
    """A VM with room for what is measured. A share is never overcommitted: half a CPU, and seven times a fifth, of two."""
    return h.vm("bench", cpus=f"1..{CPUS_MAX}", memory=f"512M..{512 + MEMORY_STEPS * MEMORY_MIB}M", share="0.5")


def new_host(**options):
    h = host(memory="16G", cpu_overcommit=8, **options)
    build_image()
    return h


def accelerator(bare):
    return bare.theirs[bare.theirs.index("-accel") + 1]


def microseconds(console, command):
    return float(console.check(command, 120).split()[0])


def ratios(ours, peers):
    return [a / b for a, b in zip(ours, peers)]


# ---- verdict

def verdict(report, rounds):
    durable, nosync, echo = [], [], []
    with new_host() as h, new_host(tmpfs=True) as t:
        vm, vm_t = guest_on(h), guest_on(t)
        with Bare(vm) as bare:
            peer = subprocess.Popen([program("bench-echo"), bare.port_path])
            try:
                for _ in range(rounds or 9):
                    ask = f"bench-guest ask {SOCKET} {ASKS} memory:1T"
                    durable.append(microseconds(vm.console, ask))
                    echo.append(microseconds(bare.console, f"bench-guest echo {PORT} {ASKS}"))
                    nosync.append(microseconds(vm_t.console, ask))
            finally:
                peer.kill()
                peer.wait()
            accel = accelerator(bare)
    method = (f"medians of {ASKS}: in the guest, from the application's write to its verdict (a refusal, recorded as "
              "every verdict is), over a line of that length to a bare echo on the same kind of port")
    report.figure("verdict_over_echo", ratios(durable, echo), "ratio", at_most(2),
                  {"verdict_us": (durable, "us"), "echo_us": (echo, "us")}, method, accel)
    report.figure("verdict_over_echo_nosync", ratios(nosync, echo), "ratio", None,
                  {"verdict_us": (nosync, "us"), "echo_us": (echo, "us")}, method + "; meted's state on tmpfs", accel)


# ---- hot-plug

def grant(vm, need):
    """Milliseconds; a process in the guest holds on to it."""
    us, _, _ = vm.check(f"bench-guest grant {SOCKET} '{need}'", 120).split()
    return float(us) / 1000


def bare_cpu(bare, number, slot):
    t = bare.at_go(lambda: bare.add_cpu(number, slot))
    us = microseconds(bare.console, f"bench-guest cpu {PORT} {number}")
    t.join()
    return us / 1000


def bare_memory(bare, number):
    t = bare.at_go(lambda: bare.add_memory(number, MEMORY_MIB))
    us = microseconds(bare.console, f"bench-guest memory {PORT} {MEMORY_MIB << 20}")
    t.join()
    return us / 1000


def plug_round(memory, cpu):
    """One boot of each VM; every sample is a new DIMM or a new vCPU, in the same order on both sides."""
    with new_host() as h:
        vm = guest_on(h)
        with Bare(vm) as bare:
            slots = bare.slots()
            for i in range(MEMORY_STEPS):
                memory[1].append(bare_memory(bare, i))
                memory[0].append(grant(vm, f"memory:{MEMORY_MIB}M"))
            for i in range(1, CPUS_MAX):
                cpu[1].append(bare_cpu(bare, i, slots[i - 1]))
                cpu[0].append(grant(vm, "cpu:1,share>=0.2"))
            for where in (vm.console, bare.console):
                if where.check("nproc") != str(CPUS_MAX):
                    raise RuntimeError("a vCPU is not on line")
            return accelerator(bare)


def plug(report, rounds):
    memory, cpu = ([], []), ([], [])
    for _ in range(rounds or 3):
        accel = plug_round(memory, cpu)
    for name, (ours, peers), what in (("vcpu_over_qmp", cpu, "a vCPU"), ("memory_over_qmp", memory, "512 MiB")):
        report.figure(name, ratios(ours, peers), "ratio", at_most(1.15),
                      {"mete_ms": (ours, "ms"), "bare_qmp_ms": (peers, "ms")},
                      f"in the guest: from an application's request until {what} is granted and on line, over a word to "
                      "the host, bare QMP, and putting it on line at the kernel's uevent", accel, digits=3)


# ---- what it costs

def memory_used(report, rounds):
    ours, agent, shell = [], [], []
    with new_host() as h:
        vm = guest_on(h)
        for _ in range(rounds or 3):
            vm.check(f"bench-guest ask {SOCKET} 100 memory:1T")
            ours.append(rss_mib(h.meted.pid))
            kib = "grep VmRSS /proc/{}/status | tr -dc 0-9"
            agent.append(float(vm.check(kib.format("$(pidof mete-agent)"))) / 1024)
            shell.append(float(vm.check(kib.format("1"))) / 1024)
        accel = vm.show()["accelerator"]
    report.figure("meted_rss_mib", ours, "MiB", None, {}, "VmRSS of meted with one VM running, after 100 requests", accel)
    report.figure("agent_rss_mib", agent, "MiB", None, {"busybox_init": (shell, "MiB")},
                  "VmRSS in the guest, after 100 requests", accel)


GROUPS = [
    (["verdict_over_echo", "verdict_over_echo_nosync"], verdict),
    (["vcpu_over_qmp", "memory_over_qmp"], plug),
    (["meted_rss_mib", "agent_rss_mib"], memory_used),
]

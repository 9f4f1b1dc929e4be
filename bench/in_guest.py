# SPDX-License-Identifier: Apache-2.0
"""Figures of an application in a real guest, each beside the same guest with a bare QEMU, in turns."""
import subprocess
import time

from bare import Bare
from host import build_image
from on_host import host, program, rss_mib
from result import at_most

SOCKET = "/run/mete/agent.sock"
PORT = "/dev/virtio-ports/org.mete.agent.0"
# Below what the agent lets one user ask in a burst, so that its limit is not what is measured.
ASKS = 150
MEMORY_STEPS, MEMORY_MIB = 8, 512


def guest_on(h):
    """A VM with room for what is measured."""
    return h.vm("bench", cpus="1..2", memory=f"512M..{512 + MEMORY_STEPS * MEMORY_MIB}M", share="0.5")


def new_host(**options):
    h = host(**{"memory": "16G", "cpu_overcommit": 8, **options})
    build_image()
    return h


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
                    time.sleep(0.4)  # the agent lets a user ask 250 times a second
            finally:
                peer.kill()
                peer.wait()
            accel = bare.accelerator()
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
    """One boot of each VM. Every sample is a new DIMM, or the first new vCPU: on TCG a vCPU cannot be unplugged. The
    shares are such that it gets the other of two CPUs, as the bare one does."""
    with new_host() as h:
        vm = guest_on(h)
        with Bare(vm) as bare:
            if cpu is not None:
                slot = bare.slots()[0]
                cpu[1].append(bare_cpu(bare, 1, slot))
                cpu[0].append(grant(vm, "cpu:1,share>=0.75"))
                for where in (vm.console, bare.console):
                    if where.check("grep -c ^processor /proc/cpuinfo") != "2":
                        raise RuntimeError("the vCPU is not on line")
            for i in range(MEMORY_STEPS if memory is not None else 0):
                memory[1].append(bare_memory(bare, i))
                memory[0].append(grant(vm, f"memory:{MEMORY_MIB}M"))
            return bare.accelerator()


def plug_report(report, name, what, ours, peers, accel):
    report.figure(name, ratios(ours, peers), "ratio", at_most(1.15),
                  {"mete_ms": (ours, "ms"), "bare_qmp_ms": (peers, "ms")},
                  f"in the guest: from an application's request until {what} is granted and on line, over a word to "
                  "the host, bare QMP, and putting it on line at the kernel's uevent; the first vCPU of each VM has "
                  "the same affinity", accel, digits=3)


def vcpu(report, rounds):
    cpu = ([], [])
    for _ in range(rounds or 7):
        accel = plug_round(None, cpu)
    plug_report(report, "vcpu_over_qmp", "a vCPU", *cpu, accel)


def memory(report, rounds):
    samples = ([], [])
    for _ in range(rounds or 3):
        accel = plug_round(samples, None)
    plug_report(report, "memory_over_qmp", f"{MEMORY_MIB} MiB", *samples, accel)


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
    (["vcpu_over_qmp"], vcpu),
    (["memory_over_qmp"], memory),
    (["meted_rss_mib", "agent_rss_mib"], memory_used),
]

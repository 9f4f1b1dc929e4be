# SPDX-License-Identifier: Apache-2.0
"""What was granted is for the application that asked (1.15), in a guest that systemd runs: in units of its own, asked of it.

The guest s has 1..3 vCPUs; the harness's shell, and what it starts, is in system.slice.
"""
import pytest
from guest_systemd import APPEND, IMAGE, MEMORY, build_image
from host import Host, HostError, wait_for
from nested import CannotRun
from test_inguest import MIB, SPIN, Spinners, Worker, group_of, off_line_again, shares

UNITS = "system.slice user.slice init.scope mete.slice"
# What systemd has of units, where it keeps that, and what the kernel has of it. Folders that are made for drop-ins stay.
STATE = (f"systemctl show --property=Id,AllowedCPUs,MemoryMin {UNITS}; "
         "find /run/systemd/system.control /run/systemd/transient -type f 2>/dev/null | sort; "
         "cd /sys/fs/cgroup; cat system.slice/cpuset.cpus; sed s/^0-2$// init.scope/cpuset.cpus; "  # all there can be are no limit
         "ls mete.slice 2>/dev/null | grep -E 'service|scope'; ls /run/mete/requests | grep hold; :")


@pytest.fixture(scope="module")
def booted(image):
    try:
        build_image()
    except CannotRun as e:
        pytest.skip(f"no guest with systemd: {e}")
    with Host(memory="2G", offer="5s") as host:
        yield host.vm("s", initrd=IMAGE, append=APPEND, memory=MEMORY)


@pytest.fixture
def guest(booted):
    """Everything is as before at the end, what the administrator has set too."""
    booted.check("systemctl set-property --runtime system.slice AllowedCPUs=0-2")
    before = booted.check(STATE)
    yield booted
    off_line_again(booted)
    try:
        wait_for("units are as before", lambda: booted.check(STATE) == before, 30, 0.5)
    except HostError:
        assert booted.check(STATE) == before
    assert "AllowedCPUs=0-2" in before and "hold" not in before


def agent_again(guest, before=":"):
    guest.check(f"{before}; systemctl restart mete-agent.service")
    wait_for("the agent answers again", lambda: guest.run("mete leases")[0] == 0, 60, 0.1)
    guest.wait_agent()


def allowed(guest, *pids):
    files = " ".join(f"/proc/{pid}/status" for pid in pids)
    return guest.check(f"sed -n 's/Cpus_allowed_list:[^0-9]*//p' {files}").split()


def test_competing_spinner(guest):
    """A spinner of system.slice does not take the granted vCPU; where it cannot be held, it does, and that is said. systemd's
    and the agent's restarts change nothing, and a child that is born later is in."""
    agent_again(guest, "chmod 0 /usr/bin/busctl")
    worker = Worker(guest, "loose", ["cpu:1,share>=0.9"], SPIN)
    with Spinners(guest, 3) as others:
        loose = shares(guest, [worker.pid, *others])
    assert group_of(guest, worker.pid) == "/system.slice/console.service"
    assert ("note: vCPUs are not held for the application alone: systemd owns the control groups, and there is no "
            "/usr/bin/busctl to ask it") in worker.end()[1]
    off_line_again(guest)
    agent_again(guest, "chmod 755 /usr/bin/busctl")
    loose_pid = worker.pid

    worker = Worker(guest, "held", ["cpu:1,share>=0.9", "memory:128M"], f"sh -c \"sleep 1000\" & {SPIN}")
    group = group_of(guest, worker.pid)
    assert group.startswith("/mete.slice/mete-") and group.endswith(".scope")

    def is_held():
        limits = guest.check(f"cd /sys/fs/cgroup; cat mete.slice/memory.min .{group}/memory.min .{group}/cpuset.cpus "
                             "system.slice/cpuset.cpus init.scope/cpuset.cpus")
        assert limits.split() == [str(128 * MIB), str(128 * MIB), "1", "0,2", "0,2"]
    is_held()
    with Spinners(guest, 2) as others:
        held = shares(guest, [worker.pid, *others])
        assert {group_of(guest, pid) for pid in others} == {"/system.slice/console.service"}
        assert allowed(guest, worker.pid, others[0], 1) == ["1", "0", "0"]
    child = guest.check(f"grep -l \"^PPid:[^0-9]*{worker.pid}$\" /proc/[0-9]*/status | head -1").split("/")[2]
    assert group_of(guest, child) == group
    guest.check("systemctl daemon-reload")
    is_held()
    agent_again(guest)
    is_held()
    guest.check(f"kill {child}")  # else its scope would stay
    assert "not held" not in worker.end()[1]

    loose_share, held_share = loose.pop(loose_pid), held.pop(worker.pid)
    print(f"\nMEASURED of a CPU, the application's spinner against others of system.slice: {loose_share:.2f} with a vCPU granted and "
          f"not held (3 others {sum(loose.values()):.2f}), {held_share:.2f} with it held (2 others {sum(held.values()):.2f})")
    assert held_share >= 0.9
    assert loose_share <= 0.75


def test_own_service(guest):
    """A service that the administrator has put into mete.slice stays what it is."""
    guest.check("echo 'exec mete run --id own --need cpu:1,share\\>=0.3 --need memory:128M -- sh -c \"echo \\$\\$ >/run/own; "
                "sleep 1000\"' >/run/own.sh; printf '[Service]\nSlice=mete.slice\nMemoryMin=16M\nExecStart=/bin/sh /run/own.sh\n"
                "Environment=PATH=/usr/bin:/bin\nStandardError=append:/run/own.log\n' >/run/systemd/system/own.service; "
                "systemctl daemon-reload; systemctl start own.service")
    pid = wait_for("it runs", lambda: guest.run("cat /run/own")[1].strip() if guest.run("test -s /run/own")[0] == 0 else "", 60, 0.2)
    assert group_of(guest, pid) == "/mete.slice/own.service"
    limits = guest.check("cd /sys/fs/cgroup/mete.slice; cat memory.min own.service/memory.min own.service/cpuset.cpus")
    assert limits.split() == [str(128 * MIB), str(128 * MIB), "1"]
    guest.check("systemctl stop own.service; rm /run/own* /run/systemd/system/own.service")
    wait_for("its lease is over", lambda: "own" not in guest.check("mete leases"), 60, 0.2)
    guest.check("systemctl daemon-reload")


def test_no_bus(guest):
    """systemd cannot be asked: it is granted all the same, and said."""
    guest.check("systemctl mask --runtime dbus.socket dbus.service; systemctl stop dbus.socket dbus.service")
    try:
        worker = Worker(guest, "alone", ["cpu:1,share>=0.3"], "sleep 1000")
        text = worker.end()[1]
    finally:
        guest.check("systemctl unmask --runtime dbus.socket dbus.service; systemctl start dbus.socket")
    assert "note: vCPUs are not held for the application alone: systemd: Failed to connect to bus" in text

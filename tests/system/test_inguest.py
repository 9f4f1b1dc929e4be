# SPDX-License-Identifier: Apache-2.0
"""What was granted is for the application that asked (1.15): in a real guest, against others in the same guest.

The guest v has 1..3 vCPUs and 256M..1G; CPUs of the guest have the numbers of the vCPUs' slots.
"""
import contextlib
import os
import subprocess
import time

import pytest
from app import App
from host import Host, wait_for

MIB = 1 << 20
SPIN = "while :; do :; done"
TREE = "find /sys/fs/cgroup -type d | sort; cat /sys/fs/cgroup/cpuset.cpus.effective /sys/fs/cgroup/cgroup.subtree_control"


def group_of(guest, pid):
    return guest.check(f"sed -n 's/^0:://p' /proc/{pid}/cgroup")


def ticks(guest, pids):
    """{pid: CPU time} by /proc/PID/stat, in clock ticks, and the guest's uptime in the same unit, read together."""
    text = guest.check(f"cat /proc/uptime {' '.join(f'/proc/{pid}/stat' for pid in pids)}")
    uptime, *lines = text.splitlines()
    used = {}
    for line in lines:
        pid, rest = int(line.split(" ", 1)[0]), line.rsplit(")", 1)[1].split()
        used[pid] = int(rest[11]) + int(rest[12])
    return used, float(uptime.split()[0]) * 100


def shares(guest, pids, over_s=4):
    """{pid: CPUs' worth of time that it got}"""
    before, since = ticks(guest, pids)
    time.sleep(over_s)
    after, now = ticks(guest, pids)
    return {pid: (after[pid] - before[pid]) / (now - since) for pid in pids}


class Spinners:
    """Processes of the guest that take all the CPU time that they can get, in a session of their own."""

    def __init__(self, guest, n):
        self.guest = guest
        self.pids = [int(guest.check(f"setsid sh -c '{SPIN}' </dev/null >/dev/null 2>&1 & echo $!")) for _ in range(n)]

    def __enter__(self):
        return self.pids

    def __exit__(self, *_):
        self.guest.run(f"kill -9 {' '.join(map(str, self.pids))}")


class Worker:
    """`mete run` of a shell command; .pid is the process that holds the lease."""

    def __init__(self, guest, name, needs, command, options=""):
        self.guest, self.name = guest, name
        needs = " ".join(f"--need '{need}'" for need in needs)
        guest.check(f"rm -f /tmp/{name}.up")
        self.shell = guest.console.start(name, f"exec mete run --verbose --id {name} {options} {needs} -- sh -c "
                                               f"'echo $$ >/tmp/{name}.up; {command}'")
        self.pid = int(wait_for(f"{name} runs", lambda: guest.run(f"cat /tmp/{name}.up")[1].strip()
                                if guest.run(f"test -s /tmp/{name}.up")[0] == 0 else "", 40, 0.1))

    def end(self):
        self.guest.run(f"kill -9 {self.pid}")
        return self.guest.console.result(self.name)


@pytest.fixture
def others_disk(tmp_path):
    """A disk with two files of 64 MiB."""
    folder, disk = tmp_path / "files", tmp_path / "files.ext4"
    folder.mkdir()
    for name in ("kept", "lost"):
        with open(folder / name, "wb") as f:
            f.write(os.urandom(MIB) * 64)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(disk), "160M"], check=True)
    return str(disk)


@contextlib.contextmanager
def agent_restarted(guest, before, after):
    """The agent again, in a guest that was changed by a command; then as it was."""
    def again(command):
        guest.check(f"{command}; kill -9 $(pidof mete-agent)")
        wait_for("the agent answers again", lambda: guest.run("mete leases")[0] == 0, 20, 0.1)
        guest.wait_agent()
    again(before)
    try:
        yield
    finally:
        again(after)


def off_line_again(guest):
    wait_for("the vCPU is off line", lambda: guest.cpus_online() == 1, 20, 0.1)


def test_competing_spinner(host, guest):
    """A competing spinner in the same guest does not take the granted vCPU, and without the lease, or where it cannot be held, it
    does. Where it cannot be held is what a guest with systemd and without busctl says."""
    tree = guest.check(TREE)
    with Spinners(guest, 1) as (alone,), Spinners(guest, 3) as others:
        without = shares(guest, [alone, *others])

    with agent_restarted(guest, "mkdir -p /run/systemd/system", "rm -r /run/systemd"):
        worker = Worker(guest, "loose", ["cpu:1,share>=0.9"], SPIN)
        with Spinners(guest, 3) as others_loose:
            loose = shares(guest, [worker.pid, *others_loose])
            assert group_of(guest, worker.pid) == "/"
        text = worker.end()[1]
        assert "note: vCPUs are not held for the application alone: systemd owns the control groups" in text
        off_line_again(guest)
    loose_share = loose.pop(worker.pid)

    worker = Worker(guest, "spins", ["cpu:1,share>=0.9"], SPIN)
    with Spinners(guest, 3) as others_held:
        held = shares(guest, [worker.pid, *others_held])
        assert group_of(guest, worker.pid).startswith("/mete.")
        assert {group_of(guest, pid) for pid in others_held} == {"/"}
        allowed = guest.check(f"cat /proc/{worker.pid}/status /proc/{others_held[0]}/status /proc/1/status | "
                              "sed -n 's/Cpus_allowed_list:[^0-9]*//p'").split()
        assert allowed == ["1", "0", "0"]
    assert "not held" not in worker.end()[1]
    off_line_again(guest)
    held_share = held.pop(worker.pid)

    print("\nMEASURED of a CPU, the application's spinner against 3 others in the same guest: "
          f"{without[alone]:.2f} without a lease (others {sum(without[p] for p in others):.2f}), "
          f"{loose_share:.2f} with a vCPU granted and not held (others {sum(loose.values()):.2f}), "
          f"{held_share:.2f} with it held (others {sum(held.values()):.2f})")
    assert guest.check(TREE) == tree
    assert held_share >= 0.9
    assert without[alone] <= 0.7 and loose_share <= 0.7


@pytest.mark.parametrize("is_held", [True, False], ids=["held", "not-held"])
def test_memory_under_pressure(image, others_disk, is_held):
    """memory.min of the group is what was granted, and under pressure the application's pages stay, while those that another
    process has mapped in the same way go. Where it is not held, both lose alike."""
    with Host(memory="2G") as host:
        disk = host.image(others_disk)
        os.chmod(host.path("images", disk), 0o666)  # QEMU opens it to write
        guest = host.vm("m", disk=disk)
        guest.check("mkdir -p /mnt /tmp/hog; mount -t ext4 -o ro /dev/vda /mnt; mount -t tmpfs -o size=1G hog /tmp/hog")
        tree = guest.check(TREE)
        if not is_held:
            guest.check("mkdir -p /run/systemd/system; kill -9 $(pidof mete-agent)")
            wait_for("the agent answers again", lambda: guest.run("mete leases")[0] == 0, 20, 0.1)
        worker = Worker(guest, "keeps", ["memory:128M"], "exec pages /mnt/kept")
        group = "/sys/fs/cgroup" + group_of(guest, worker.pid)
        if is_held:
            assert int(guest.check(f"cat {group}/memory.min")) == 128 * MIB
        else:
            assert group == "/sys/fs/cgroup/"
        other = int(guest.check("mkdir /sys/fs/cgroup/other; setsid sh -c 'echo $$ >/sys/fs/cgroup/other/cgroup.procs; "
                                "exec pages /mnt/lost' </dev/null >/dev/null 2>&1 & echo $!"))

        def file_kib(pid):
            return int(guest.check(f"sed -n 's/RssFile:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/{pid}/status"))
        wait_for("both have read all", lambda: min(file_kib(worker.pid), file_kib(other)) >= 60 * 1024, 60, 0.2)
        before = {pid: file_kib(pid) for pid in (worker.pid, other)}

        # more and more, until the other's pages go; bounded, so that what must stay is never wanted
        free = int(guest.check("sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo")) // 1024
        taken = free - 32
        guest.check(f"dd if=/dev/zero of=/tmp/hog/0 bs=1M count={taken} 2>/dev/null", 120)
        while min(file_kib(other), file_kib(worker.pid)) > 0.4 * before[other] and taken < free + 48:
            guest.check(f"dd if=/dev/zero of=/tmp/hog/{taken} bs=1M count=4 2>/dev/null", 120)
            taken += 4
        after = {pid: file_kib(pid) for pid in (worker.pid, other)}
        killed = guest.check("grep oom_kill /proc/vmstat")
        print(f"\nMEASURED with {taken} MiB more in use where {free} MiB were free: RssFile of the application's "
              f"process {before[worker.pid]} -> {after[worker.pid]} KiB, of another {before[other]} -> {after[other]} KiB; "
              f"{killed}; {'held' if is_held else 'not held'}")
        assert killed == "oom_kill 0"
        if is_held:
            assert after[worker.pid] >= 0.95 * before[worker.pid]
            assert after[other] <= 0.5 * before[other]
        else:
            assert after[worker.pid] <= 0.8 * before[worker.pid]

        guest.check(f"rm /tmp/hog/*; kill -9 {other}; until rmdir /sys/fs/cgroup/other 2>/dev/null; do usleep 100000; done")
        worker.end()
        assert guest.check(TREE) == tree


def test_the_agent_is_killed_while_it_holds(host, guest):
    """The next one finds the group, holds on, and gives back at the end; what is left of a lease that nobody has is removed."""
    tree = guest.check(TREE)
    with App(guest, "holder", stay=True) as app:
        verdict = app.call("request", {"id": "holder", "needs": ["cpu:1,share>=0.5", "memory:128M"]})
        group = f"/sys/fs/cgroup{group_of(guest, app.pid)}"
        look = f"cat {group}/cpuset.cpus {group}/cpuset.cpus.partition {group}/memory.min {group}/cgroup.procs; ls /run/mete/requests"
        before = guest.check(look)
        assert before.split()[:4] == ["1", "root", str(128 * MIB), str(app.pid)] and verdict["cpus"] == [1]
        # as a crash leaves it: a group of ours of a process that never was, and somebody in it
        stranger = int(guest.check("mkdir /sys/fs/cgroup/mete.99999-1; setsid sh -c 'echo $$ >/sys/fs/cgroup/mete.99999-1/cgroup.procs; "
                                   "sleep 1000' </dev/null >/dev/null 2>&1 & echo $!"))
        wait_for("the stranger is in", lambda: group_of(guest, stranger) == "/mete.99999-1", 10, 0.1)
        with agent_restarted(guest, ":", ":"):
            assert guest.check(look) == before
            assert group_of(guest, stranger) == "/"
        assert guest.check(look) == before
        guest.check(f"kill {stranger}")
        app.kill()
    wait_for("the tree is as before", lambda: guest.check(TREE) == tree, 20, 0.1)
    assert "hold." not in guest.check("ls /run/mete/requests")
    off_line_again(guest)


def test_killed_while_the_host_is_still_at_it(host, guest):
    """Its group is made meanwhile (src/agent/hold.h), holds nothing yet, and goes with it."""
    tree, free = guest.check(TREE), host.free()
    fault = host.path("run", "fault")  # meted waits before it plugs the memory (src/meted/crash.h)
    with open(fault, "w") as f:
        f.write("virtual dimm hold\n")
    host.kill_meted()
    host.start_meted({"METE_FAULTS": fault})
    guest.wait_agent()
    with App(guest, "early") as app:
        app.send({"jsonrpc": "2.0", "id": 1, "method": "request", "params": {"id": "early", "needs": ["memory:128M"]}})
        wait_for("it is about to be plugged", lambda: os.path.exists(fault + ".held"))
        wait_for("its process is in a group", lambda: group_of(guest, app.pid).startswith("/mete."), 20, 0.1)
        assert guest.check(f"cat /sys/fs/cgroup{group_of(guest, app.pid)}/memory.min") == "0"
        app.kill()
        wait_for("the tree is as before", lambda: guest.check(TREE) == tree, 20, 0.1)
        os.unlink(fault + ".held")
    host.wait_free(free)
    assert "hold." not in guest.check("ls /run/mete/requests")


def test_two_leases_and_a_child(host, guest):
    """A process with two leases has the vCPUs of both; a child of it that is forked later is in; a second application is apart."""
    tree = guest.check(TREE)
    with App(guest, "two") as two, App(guest, "apart") as apart:
        first = two.call("request", {"id": "two-a", "needs": ["cpu:1,share>=0.3"]})
        second = two.call("request", {"id": "two-b", "needs": ["cpu:1,share>=0.3"]})
        assert "not held" not in str(first) + str(second)
        group = group_of(guest, two.pid)
        both = sorted(first["cpus"] + second["cpus"])
        assert guest.check(f"cat /sys/fs/cgroup{group}/cpuset.cpus.effective") == f"{both[0]}-{both[1]}"
        assert guest.check("nproc") == "1"
        two.call("release", {"id": "two-a"})
        assert guest.check(f"cat /sys/fs/cgroup{group}/cpuset.cpus.effective") == str(second["cpus"][0])
        wait_for("its vCPU is off line", lambda: guest.cpus_online() == 2, 20, 0.1)
        third = apart.call("request", {"id": "apart", "needs": ["cpu:1,share>=0.3"]})
        assert third["cpus"] == first["cpus"] and group_of(guest, apart.pid) != group
        for app, request in ((two, "two-b"), (apart, "apart")):
            app.call("release", {"id": request})
        assert group_of(guest, two.pid) == group_of(guest, apart.pid) == "/"
    off_line_again(guest)
    assert guest.check(TREE) == tree


def test_v1_and_none(host, guest):
    """Without v2: a guest with cpuset of v1 holds vCPUs and says that it does not hold memory; one without anything says so."""
    v1 = "umount /sys/fs/cgroup; mkdir -p /run/cpuset; mount -t cgroup -o cpuset cpuset /run/cpuset"
    v2 = "umount /run/cpuset; mount -t cgroup2 cgroup /sys/fs/cgroup; echo '+cpuset +memory' >/sys/fs/cgroup/cgroup.subtree_control"
    tree = "find /run/cpuset -type d | sort; cat /run/cpuset/cpuset.cpus; sort -n /run/cpuset/cgroup.procs | head -3"
    with agent_restarted(guest, v1, v2):
        before = guest.check(tree)
        with App(guest, "old") as app:
            verdict = app.call("request", {"id": "old", "needs": ["cpu:1,share>=0.5", "memory:128M"]})
            assert [f for f in verdict["fallbacks"] if "not held" in f] == [
                "memory is not held for the application alone: control groups v1 have no memory.min"]
            held = guest.check(f"cat /proc/{app.pid}/status /proc/1/status | sed -n 's/Cpus_allowed_list:[^0-9]*//p'").split()
            assert held == ["1", "0"]
            app.call("release", {"id": "old"})
        off_line_again(guest)
        assert guest.check(tree) == before
        with agent_restarted(guest, "mount -o remount,ro /run/cpuset 2>/dev/null || mount -o bind,ro /run/cpuset /run/cpuset",
                             "umount /run/cpuset 2>/dev/null; mount -o remount,rw /run/cpuset 2>/dev/null; :"):
            with App(guest, "none") as app:
                verdict = app.call("request", {"id": "none", "needs": ["cpu:1"]})
                assert "vCPUs are not held for the application alone: no control groups that can be written" in verdict["fallbacks"]
            off_line_again(guest)

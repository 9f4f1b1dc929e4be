# SPDX-License-Identifier: Apache-2.0
"""A hypervisor is replaced by one with a newer VMM while its VMs run (5.22): mete server upgrade, with real guests from QEMU 7.2 to
10.0; mete-sp dies of SIGKILL again and again on the way. What does not fit is found before anything moves, and all is as before."""
import json
import os
import signal
import subprocess

import pytest

from handing import counter, move, ram_files
from host import ROOT, wait_for
from qemu10 import or_skip, qemu10
from server import Server

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")

N = int(os.environ.get("METE_VMS") or 8)
NODE = "memory:node0"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server():
    with or_skip():
        newer = qemu10()

    class Newer(Server):
        more_qemus = (newer,)

    with Newer(cpu_overcommit=8) as s:
        s.write_hypervisor_config(extra="[host]\ncpu_overcommit=8\n")
        s.init(f"a:cpus=0,memory={128 * (N + 1)}M")
        s.start("a")
        s.a, s.b, s.newer = s.hypervisor("a"), s.hypervisor("b"), s.more_qemus[0]
        for name in ("vmlinuz", "test.cpio.gz"):
            s.image(os.path.join(ROOT, "build/guest", name))
        yield s


@pytest.fixture(scope="module")
def vms(server):
    """That count, at whichever hypervisor they are by now."""
    made = [server.a.vm(f"v{i}", cpus=1, memory="128M") for i in range(N)]
    for v in made:
        v.check("(n=0; while true; do n=$((n+1)); echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.05; done) >/dev/null 2>&1 &")
        wait_for("it counts", lambda v=v: v.check("cat /tmp/n 2>/dev/null || echo 0").strip() != "0")
    return made


def mete(server, *words, timeout_s=300):
    return subprocess.run([server.path("bin", "mete"), *words, "--socket", server.sp_socket], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout_s, check=False)


def upgrade(server, *words):
    """(exit status, the upgrade as it ended)"""
    p = mete(server, "server", "upgrade", *words, "--json")
    assert p.stdout, p
    return p.returncode, json.loads(p.stdout)


SUCCESSOR = ("--as", "b", "--user", "daemon", "--cpus", "1", "--memory", "64M")


def places(server):
    return server.managers(), {h["name"]: (h["state"], h["wanted"]) for h in server.show()["hypervisors"] if h["name"] == "a"}


def is_as_it_was(server, vms, before, files):
    assert places(server) == before
    assert server.state("b")["state"] == "stopped"
    for v in vms:
        assert v.check("echo alive").strip() == "alive" and ram_files(v) == files[v.name]


def test_bad_input(server):
    before = places(server)
    for words, sentence in (
            (("c", "--vmm", server.newer), "no hypervisor is called c"),
            (("a", "--vmm", "/no/such"), "not the path of a program"),
            (("a", "--vmm", "qemu"), "not the path of a program"),
            (("a", "--vmm", server.newer, "--as", "a"), "a is there"),
            (("a", "--vmm", server.newer), "no user mete-a2"),
            (("a", "--vmm", server.newer, "--as", "b", "--user", "root"), "as root"),
            (("a", "--vmm", server.newer, "--as", "b", "--user", server.state("a")["user"]), "both to run as"),
            (("a", "--vmm", server.newer, "--as", "b", "--user", "daemon", "--cpus", "0"), "cpu:0"),
            (("a", "--vmm", server.newer, "--as", "b", "--user", "daemon", "--cpus", "1", "--memory", "100000G"), "memory of b"),
            (("--vmm", server.newer), "a hypervisor is wanted"),
            (("a",), "--vmm is wanted"),
            (("--dry-run",), "--vmm is wanted"),
            (("a", "--vmm", server.newer, "--memory", "64M"), "--memory needs --cpus"),
            (("--cancel", "--vmm", server.newer), "--cancel is without --vmm"),
            ((), "no hypervisor of this server was replaced yet"),
            (("--cancel",), "no hypervisor of this server was replaced yet")):
        p = mete(server, "server", "upgrade", *words)
        assert p.returncode != 0 and sentence in p.stderr, (words, p)
    assert places(server) == before and len(server.show()["hypervisors"]) == 1


def test_nothing_to_lend(server, vms):
    """The one CPU of the old one is claimed, and nobody's is not taken without being asked for."""
    before, files = places(server), {v.name: ram_files(v) for v in vms}
    status, said = upgrade(server, "a", "--vmm", server.newer, "--as", "b", "--user", "daemon")
    assert status != 0 and said["state"] == "undone" and said["reason"] == "no-capacity", said
    assert "no CPU that it can lend b" in said["sentence"] and said["went"] == 0, said
    is_as_it_was(server, vms, before, files)


def test_one_that_does_not_run(server, vms):
    """It could not be handed over, and would be lost: refused before anything moves."""
    before, files = places(server), {v.name: ram_files(v) for v in vms}
    server.a.vm("off", start=False, cpus=1, memory="32M")
    status, said = upgrade(server, "a", "--vmm", server.newer, *SUCCESSOR)
    assert status != 0 and said["state"] == "undone" and said["reason"] == "stale" and "off does not run at a" in said["sentence"], said
    server.a.mete("vm", "delete", "off")
    server.a.vms.pop("off")
    is_as_it_was(server, vms, before, files)


def test_dry_run(server, vms):
    """The successor is started, each VM is tried on it, and all is as before: what was lent, and what was nobody's."""
    before, files = places(server), {v.name: ram_files(v) for v in vms}
    status, said = upgrade(server, "a", "--vmm", server.newer, "--dry-run", *SUCCESSOR)
    assert status == 0 and said["state"] == "undone" and said["would"] and said["went"] == 0, said
    assert sorted(v["name"] for v in said["vms"]) == sorted(v.name for v in vms)
    assert all(v["state"] == "fits" and "gap_us" not in v for v in said["vms"]), said
    is_as_it_was(server, vms, before, files)
    assert not [e for e in server.sp_events(said["id"]) if e["event"] in ("upgrade-moving", "upgrade-went")]


def test_cancel(server, vms):
    """While it is under way nobody else starts or stops what it is about, nor begins another; then it is undone."""
    before, files, pid = places(server), {v.name: ram_files(v) for v in vms}, server.state("a")["pid"]
    os.kill(pid, signal.SIGSTOP)  # it does not say what it has free
    try:
        status, said = upgrade(server, "a", "--vmm", server.newer, "--detach", "--id", "up-1", *SUCCESSOR)
        assert status == 0 and said["id"] == "up-1" and said["state"] == "lending", said
        for words, sentence in ((("stop", "a"), "being replaced"), (("start", "b"), "being replaced"),
                                (("upgrade", "a", "--vmm", server.newer), "one at a time"),
                                (("upgrade", "a", "--vmm", "/bin/sh", "--id", "up-1"), "is another"),
                                (("give", NODE, "--amount", "1M", "--from", "a", "--to", "b"), "being replaced")):
            p = mete(server, "server", *words)
            assert p.returncode != 0 and sentence in p.stderr, (words, p)
        status, said = upgrade(server, "a", "--vmm", server.newer, "--detach", "--id", "up-1", *SUCCESSOR)
        assert status == 0 and said["state"] == "lending", said
        assert "a is being replaced by b: lending" in mete(server, "server", "show").stdout
        p = mete(server, "server", "upgrade", "other", "--cancel")
        assert p.returncode != 0 and "not other that is replaced" in p.stderr, p
        status, said = upgrade(server, "a", "--cancel", "--id", "up-1")
        assert status == 0 and said["state"] == "undone" and said["reason"] == "cancelled" and said["id"] == "up-1", said
    finally:
        os.kill(pid, signal.SIGCONT)
    is_as_it_was(server, vms, before, files)


def test_upgrade(server, vms):
    """All VMs go on at the successor, on the same memory, and the old one has nothing left. mete-sp is killed again and again: it is
    brought to its end, and nothing is done twice."""
    old, new = server.state("a")["vmm_version"], server.newer
    assert old.startswith("7.")
    all_memory = sum(server.managers()[NODE].values()) + 64 * MIB
    files, counted = {v.name: ram_files(v) for v in vms}, {v.name: counter(v) for v in vms}
    deaths = 0
    server.kill_sp(signal.SIGTERM)
    server.start_sp({"METE_SP_CRASH_AT": "40"})
    p = subprocess.Popen([server.path("bin", "mete"), "server", "upgrade", "a", "--vmm", new, *SUCCESSOR, "--id", "up-2",
                          "--socket", server.sp_socket], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while p.poll() is None:
            wait_for("it ends, or mete-sp dies", lambda: p.poll() is not None or server.sp.poll() is not None, 600, 0.05)
            if server.sp.poll() is not None:
                assert server.sp.returncode == -signal.SIGKILL
                deaths += 1
                server.start_sp({"METE_SP_CRASH_AT": str(40 + 20 * deaths)}, wait=False)
    finally:
        if p.poll() is None:
            p.kill()
        out, problem = p.communicate()
    assert p.returncode == 0, (out, problem)
    server.kill_sp(signal.SIGKILL)
    server.start_sp()
    said = json.loads(mete(server, "server", "upgrade", "--json").stdout)
    print(out, f"{deaths} deaths of mete-sp")
    assert deaths >= min(3, N // 2) and said["id"] == "up-2" and said["state"] == "done" and said["went"] == N and said["left"] == 0, (deaths, said)
    assert all(v["state"] == "went" and v["gap_us"] > 0 for v in said["vms"]), said
    assert said["gap_max_us"] == max(v["gap_us"] for v in said["vms"]) and said["gap_sum_us"] == sum(v["gap_us"] for v in said["vms"])
    assert f"{N} of {N} VMs went from a to b" in out, out
    events = server.sp_events("up-2")
    for v in vms:
        assert [e["event"] for e in events if e["subject"] == f"vm:{v.name}"].count("upgrade-went") == 1, events
    for state in ("starting", "checking", "moving", "giving", "retiring", "done"):
        assert [e["event"] for e in events].count(f"upgrade-{state}") == 1, (state, events)
    wait_for("b runs", lambda: server.state("b")["state"] == "running", 60)
    assert server.state("b")["vmm_version"].startswith("10.")
    assert server.state("a")["state"] == "stopped" and not server.state("a")["wanted"]
    managers = server.managers()
    assert managers["cpu:0"] == {"b": 1000} and managers["cpu:1"] == {"b": 1000} and managers[NODE] == {"b": all_memory}, managers
    for v in vms:
        move(v, server.b)
        v.wait_agent()
        assert ram_files(v) == files[v.name]
        wait_for("its counter goes on", lambda v=v: counter(v) > counted[v.name], 60, 0.1)
    assert sorted(v["name"] for v in server.b.mete_json("vm", "list")["vms"] if v["state"] == "running") == sorted(v.name for v in vms)


def test_not_back(server, vms):
    """To an older VMM none goes: found by the first dry run, and named; what was lent is back. The retired one's name and user are free again."""
    before = server.managers()
    status, said = upgrade(server, "b", "--vmm", server.qemu, "--as", "a")
    assert status != 0 and said["state"] == "undone" and said["reason"] == "incompatible" and "older than" in said["sentence"], json.dumps(said)
    assert said["went"] == 0 and server.managers() == before and server.state("a")["state"] == "stopped"
    for v in vms:
        assert v.check("echo alive").strip() == "alive"

# SPDX-License-Identifier: Apache-2.0
"""Hypervisors of one server with different versions of the VMM: VMs change to the newer one while they run (5.22), and what does
not fit is refused before anything moves, with the difference named."""
import json
import os
import subprocess

import pytest

from handing import counter, move, ram_files
from host import ROOT, wait_for
from qemu10 import or_skip, qemu10
from server import Server

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")

N = 3


@pytest.fixture(scope="module")
def server():
    with or_skip():
        newer = qemu10()

    class Two(Server):
        more_qemus = (newer,)

    with Two(cpu_overcommit=8) as s:
        s.write_hypervisor_config(extra="[host]\ncpu_overcommit=8\n")
        s.init("a:cpus=0,memory=1G", f"b:cpus=1,memory=1G,vmm={s.more_qemus[0]}")
        s.start("a", "b")
        s.a, s.b = s.hypervisor("a"), s.hypervisor("b")
        for name in ("vmlinuz", "test.cpio.gz"):
            s.image(os.path.join(ROOT, "build/guest", name))
        yield s


def mete(server, *words):
    return subprocess.run([server.path("bin", "mete"), *words, "--socket", server.sp_socket], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=300, check=False)


def test_newer_and_not_back(server):
    """All VMs of a go on at b, on the same memory; back to an older VMM none goes, nor one whose machine type that has not."""
    assert server.state("a")["vmm_version"].startswith("7.") and server.state("b")["vmm_version"].startswith("10.")
    vms = [server.a.vm(f"v{i}", cpus=1, memory="128M") for i in range(N)]
    for v in vms:
        v.check("(n=0; while true; do n=$((n+1)); echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.05; done) >/dev/null 2>&1 &")
        wait_for("it counts", lambda v=v: v.check("cat /tmp/n 2>/dev/null || echo 0").strip() != "0")
    files, before = {v.name: ram_files(v) for v in vms}, {v.name: counter(v) for v in vms}
    p = mete(server, "handover", "--all", "--from", "a", "--to", "b")
    assert p.returncode == 0 and p.stdout.count("running-on-target") == N, p.stdout + p.stderr
    for v in vms:
        move(v, server.b)
        v.wait_agent()
        assert ram_files(v) == files[v.name]
        wait_for("its counter goes on", lambda v=v: counter(v) > before[v.name], 60, 0.1)
        assert server.b.mete_json("vm", "show", v.name)["state"] == "running"
    assert not server.a.mete_json("vm", "list")["vms"] and not server.a.claims()
    new = server.b.vm("new", cpus=1, memory="128M")
    for v, text in ((vms[0], "older than"), (new, "older than")):
        p = mete(server, "handover", v.name, "--to", "a", "--wait", "--json")
        said = json.loads(p.stdout)
        assert said["state"] == "rolled-back" and said["reason"] == "incompatible" and text in said["sentence"], p
        assert "separated" not in [e["event"] for e in server.sp_events(said["id"])]  # nothing moved
        assert v.check("echo alive").strip() == "alive"

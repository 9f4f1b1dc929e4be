# SPDX-License-Identifier: Apache-2.0
"""A running VM changes hypervisor, led by the real service processor: mete handover, real meted's and guests (5.1 to 5.13).
METE_HANDOVERS=N: so many there and back. METE_POINTS=all: mete-sp dies at each of its points; else at two by chance (METE_SEED)."""
import contextlib
import json
import os
import random
import signal
import subprocess
import time

import pytest

from handing import counter, is_whole, move, new_vm, other, ram_files, running
from host import HostError, PATIENCE_S, ROOT, wait_for
from server import Server

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")

NODE = "memory:node0"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server():
    with Server(cpu_overcommit=8) as s:
        s.write_hypervisor_config(extra="[host]\ncpu_overcommit=8\n")
        s.init("a:cpus=0,memory=1G", "b:cpus=1,memory=1G")
        s.start("a", "b")
        s.a, s.b = s.hypervisor("a"), s.hypervisor("b")
        for name in ("vmlinuz", "test.cpio.gz"):
            s.image(os.path.join(ROOT, "build/guest", name))
        yield s


@pytest.fixture(scope="module")
def vm(server):
    return new_vm(server, server.a)


def mete(server, *words):
    return subprocess.run([server.path("bin", "mete"), *words, "--socket", server.sp_socket], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=180, check=False)


def hand_over(server, vm, target, *words):
    """The handover as it ended."""
    p = mete(server, "handover", vm.name, "--to", target.hypervisor_name, "--wait", "--json", *words)
    assert p.stdout, (p.returncode, p.stderr)
    said = json.loads(p.stdout)
    if said["state"] == "running-on-target":
        move(vm, target)
    return said


def test_there_and_back(server, vm):
    """With a leased vCPU and a leased DIMM: the same memory, a counter that never goes back, one owner of everything."""
    for _ in range(int(os.environ.get("METE_HANDOVERS") or 4)):
        source, target = vm.host, other(server, vm.host)
        files, n, before = ram_files(vm), counter(vm), server.managers()[NODE]
        said = hand_over(server, vm, target)
        assert said["state"] == "running-on-target" and said["assigned"] and said["gap_us"] > 0, said
        assert said["ram_bytes"] == 0 < said["sent_bytes"], said
        assert ram_files(vm) == files and len(files) == 2
        assert counter(vm) >= n
        is_whole(server, vm, target)
        assert vm.name not in [v["name"] for v in source.mete_json("vm", "list")["vms"]]
        assert not [c for c in source.claims() if vm.name in c["holder"]]
        for h in (source, target):
            why = h.mete("why", said["id"]).stdout
            assert f"mete handover show {said['id']}" in why and ("source-gone" if h is source else "target-settled") in why, why
        moved = sum(p["amount"] for p in said["parts"] if p["component"] == NODE and p["portion"] == "reassignable")
        assert moved >= (192 + 128) * MIB, said
        after = server.managers()[NODE]
        assert after[target.hypervisor_name] == before[target.hypervisor_name] + moved
        assert after[source.hypervisor_name] == before[source.hypervisor_name] - moved


def test_a_dry_run_changes_nothing(server, vm):
    before = server.managers(), server.show()["epoch"], vm.host.claims()
    said = hand_over(server, vm, other(server, vm.host), "--dry-run")
    assert said["dry_run"] and said["would"] and said["parts"], said
    assert (server.managers(), server.show()["epoch"], vm.host.claims()) == before
    is_whole(server, vm, vm.host)


def test_all_of_a_hypervisor(server, vm):
    """Side by side, and each as if it were alone: the same memory, a counter that goes on, one owner of everything."""
    source, target = vm.host, other(server, vm.host)
    small = [source.vm(f"s{i}", cpus=1, memory="128M") for i in range(3)]
    for v in small:
        v.check("(n=0; while true; do n=$((n+1)); echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.05; done) >/dev/null 2>&1 &")
        wait_for("it counts", lambda v=v: v.check("cat /tmp/n 2>/dev/null || echo 0").strip() != "0")
    files, before, memory = {v.name: ram_files(v) for v in small}, {v.name: counter(v) for v in small}, server.managers()[NODE]
    p = mete(server, "handover", "--all", "--from", source.hypervisor_name, "--to", target.hypervisor_name)
    assert p.returncode == 0 and p.stdout.count("running-on-target") == 4, p
    for v in (vm, *small):
        move(v, target)
        v.wait_agent()
    is_whole(server, vm, target)
    for v in small:
        assert ram_files(v) == files[v.name]
        wait_for("its counter goes on", lambda v=v: counter(v) > before[v.name], 60, 0.1)
    assert not source.claims() and not source.mete_json("vm", "list")["vms"]
    moved = (192 + 128 + 3 * 128) * MIB
    assert server.managers()[NODE][target.hypervisor_name] >= memory[target.hypervisor_name] + moved
    assert server.managers()[NODE][source.hypervisor_name] <= memory[source.hypervisor_name] - moved
    for v in small:
        target.mete("vm", "kill", v.name)
    server.ask("give", NODE, "--amount", "384M", "--from", target.hypervisor_name, "--to", source.hypervisor_name)


def test_a_move_on_the_same_server(server, vm):
    """It is a handover, and is not to be had as a copy (S.6)."""
    source, target = vm.host, other(server, vm.host)
    status, said = source.http("POST", f"/v1/vms/{vm.name}/move", {"to": target.hypervisor_name})[:2]
    assert status != 200 and "handed over" in str(said), (status, said)
    words = [server.path("bin", "mete"), "move", vm.name, "--to", target.hypervisor_name, "--wait", "--json", "--socket", source.socket]
    env = {k: v for k, v in os.environ.items() if k != "METE_SP_SOCKET"}
    # where mete-sp is, its meted alone does not say: it may have been taken over
    p = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False, env=env)
    assert p.returncode != 0 and "METE_SP_SOCKET" in p.stderr, p
    env["METE_SP_SOCKET"] = server.sp_socket
    p = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False, env=env)
    assert p.returncode == 0 and json.loads(p.stdout)["state"] == "running-on-target" and "not copied" in p.stderr, p
    move(vm, target)
    is_whole(server, vm, target)


def test_refusals(server, vm):
    for words, status, sentence in (
            (("handover", "nobody", "--to", "b"), None, "nobody"),
            (("handover", vm.name, "--to", "c"), None, "c"),
            (("handover", vm.name, "--to", vm.host.hypervisor_name), None, vm.host.hypervisor_name),
            (("handover", vm.name), 65, "--to"),
            (("handover", vm.name, "--to", "b", "--max-gap", "0ms"), None, "")):
        p = mete(server, *words)
        assert p.returncode != 0 and sentence in p.stderr and (status is None or p.returncode == status), (words, p)
    is_whole(server, vm, vm.host)


def test_without_the_service_processor(server, vm):
    """No handover, and it says why; the VM runs on. Afterwards there is one again."""
    server.kill_sp(signal.SIGKILL)
    try:
        p = mete(server, "handover", vm.name, "--to", other(server, vm.host).hypervisor_name)
        assert p.returncode == 69 and "mete-sp" in p.stderr, p
        is_whole(server, vm, vm.host)
    finally:
        server.start_sp()
    wait_for("both run", lambda: all(server.state(n)["state"] == "running" for n in "ab"), 60)
    said = hand_over(server, vm, other(server, vm.host))
    assert said["state"] == "running-on-target", json.dumps(said)
    is_whole(server, vm, vm.host)


# ---- mete-sp dies

# Those that each handover passes that comes to its end; those of starting and telling are test_server's, those of ways back
# tests/root/test_lead.py's.
SP_POINTS = [*(f"{state} {when}" for state in ("configured", "classified", "accepted", "separated", "quiesced", "informed", "assigned",
                                               "finishing", "running-on-target") for when in ("begin", "end")),
             *(f"say {word}" for word in ("classify", "offer", "separate", "quiesce", "inform", "give", "status", "finish", "settle"))]


def both_run(server):
    wait_for("both run", lambda: all(server.state(n)["state"] == "running" for n in "ab"), PATIENCE_S)


def passed(server):
    """The names of the points that the mete-sp that is there, or was last, has passed."""
    with contextlib.suppress(FileNotFoundError), open(server.path("points")) as f:
        return [line.split(None, 1)[1].strip() for line in f]
    return []


def starts_anew(server, **env):
    server.kill_sp(signal.SIGTERM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(server.path("points"))
    server.start_sp({"METE_SP_CRASH_LOG": server.path("points"), **env}, wait=False)
    wait_for("it listens, or has died", lambda: server.sp.poll() is not None or server.ask("show", check=False).returncode == 0,
             PATIENCE_S)


def die_at(server, vm, point):
    """A handover in which mete-sp dies as it passes that point; a new one has brought it to its end."""
    starts_anew(server, METE_SP_CRASH_AT=point)
    with contextlib.suppress(HostError):  # it may die as it is asked, or still has a word to say of the one before
        both_run(server)
        mete(server, "handover", vm.name, "--to", other(server, vm.host).hypervisor_name, "--wait")
    wait_for(f"it dies at {point}", lambda: server.sp.poll() is not None, 60)
    assert server.sp.wait() == -signal.SIGKILL and passed(server)[-1] == point, passed(server)[-3:]
    starts_anew(server)
    both_run(server)
    wait_for("nothing is under way", lambda: all(h.get("ended_ms") for h in json.loads(
        mete(server, "handover", "list", "--json").stdout)["handovers"]), 120, 0.1)
    (at,) = wait_for("it runs at one", lambda: running(server, vm.name), 60, 0.1)
    if at is not vm.host:
        move(vm, at)


def is_one_owners(server, vm, memory):
    """All that it has is of the hypervisor at which it runs, and nothing of it is left at the other."""
    vm.disconnect()
    is_whole(server, vm, vm.host)
    away = other(server, vm.host)
    wait_for("nothing is left of it", lambda: vm.name not in [v["name"] for v in away.mete_json("vm", "list")["vms"]], 60, 0.1)
    assert not [c for c in away.claims() if vm.name in c["holder"]]
    assert server.managers()[NODE] == memory[vm.host.hypervisor_name], server.managers()
    for h in (server.a, server.b):  # and it was told
        wait_for("it has its part", lambda h=h: {p["component"]: p["amount"] for p in h.partition()["shares"]}[NODE] ==
                 server.managers()[NODE][h.hypervisor_name], 60, 0.1)


def test_the_service_processor_dies(server, vm):
    """At a point of its journal, or as it says a word: the hypervisors go on without it as far as they were told, and a new one
    brings it to its end. The VM is whole, at one, and what is whose follows it."""
    starts_anew(server)
    both_run(server)
    start, here, memory = len(passed(server)), vm.host, {vm.host.hypervisor_name: server.managers()[NODE]}
    assert hand_over(server, vm, other(server, here))["state"] == "running-on-target"
    memory[vm.host.hypervisor_name] = server.managers()[NODE]
    if not passed(server):
        pytest.skip("mete-sp was built without its points: only a debug build has them")
    wait_for("it has passed all of them", lambda: set(SP_POINTS) <= set(passed(server)[start:]), 60)
    points = SP_POINTS
    if os.environ.get("METE_POINTS") != "all":
        seed = int(os.environ.get("METE_SEED") or time.time())
        print(f"METE_SEED={seed}")
        points = random.Random(seed).sample(points, 2)
    for point in points:
        print(f"mete-sp dies at {point}")
        die_at(server, vm, point)
        is_one_owners(server, vm, memory)

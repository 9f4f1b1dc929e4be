# SPDX-License-Identifier: Apache-2.0
"""One server, two hypervisors, one service processor: real meted's on one real keeper, real guests."""
import json
import os
import signal
import subprocess

import pytest

from host import HostError, wait_for
from server import Server

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")

PARTS = ("a:cpus=0,memory=1G,keep=cpu:0", "b:cpus=1,memory=1G")
NODE = "memory:node0"
GIB = 1 << 30


@pytest.fixture
def server():
    with Server() as s:
        yield s


def refusal(p, status, *words):
    assert p.returncode == status, (p.returncode, p.stderr)
    for word in words:
        assert word in p.stderr, p.stderr


def test_partition(server):
    """What is wrong is refused with why, and leaves nothing behind; what is right is shown, with who manages it."""
    assert server.show()["epoch"] == 0
    wrong = [
        (("a:cpus=0,memory=1G", "b:cpus=0,memory=1G"), "cpu:0 is for a and for b"),
        (("a:node=0", "b:node=0"), "is for a and for b"),
        (("a:node=0", "b:cpus=1,memory=1G"), "is for a and for b"),
        (("a:cpus=0,memory=1G", "b:cpus=1,memory=100000G"), "memory of b"),
        (("a:cpus=0", "b:cpus=1,memory=1G"), "a has no memory"),
        (("a:memory=1G", "b:cpus=1,memory=1G"), "has CPUs of"),
        (("a:cpus=0,memory=1G", "a:cpus=1,memory=1G"), "two hypervisors a"),
        (("a:cpus=4095,memory=1G",), "no cpu:4095"),
        (("a:node=77",), "no NUMA node 77"),
        (("a:node=0,cpus=1",), "not both"),
        (("a:cpus=0,memory=1G,keep=cpu:1",), "nothing of cpu:1 to keep"),
        (("a:cpus=0,memory=1G,vmm=/no/such",), "vmm=/no/such"),
        (("a:cpus=0,memory=1G,colour=red",), "no key colour"),
    ]
    for parts, words in wrong:
        p = server.init(*parts, check=False)
        assert p.returncode != 0 and words in p.stderr, (parts, p.returncode, p.stderr)
        assert server.show()["epoch"] == 0
    p = server.ask("init", "--hypervisor", "a:cpus=0,memory=1G,user=daemon", "--hypervisor", "b:cpus=1,memory=1G,user=daemon",
                   check=False)
    assert "both to run as daemon" in p.stderr, p.stderr
    p = server.ask("init", "--hypervisor", "a:cpus=0,memory=1G,user=root", check=False)
    assert "no hypervisor runs as root" in p.stderr, p.stderr
    assert "no user mete-a" in server.ask("init", "--hypervisor", "a:cpus=0,memory=1G", check=False).stderr
    assert server.ask("start", "a", check=False).returncode != 0

    server.init(*PARTS)
    server.init(*PARTS)  # the same again
    assert "partitioned already" in server.init("a:cpus=1,memory=1G", "b:cpus=0,memory=1G", check=False).stderr
    managers = server.managers()
    assert managers["cpu:0"] == {"a": 1000} and managers["cpu:1"] == {"b": 1000}, managers
    assert sum(managers[m].get("a", 0) for m in managers if m.startswith("memory")) == GIB
    text = server.ask("show").stdout
    assert any(line.split()[:4] == ["cpu:0", "0", "1", "a"] and "kept" in line for line in text.splitlines()), text
    assert "nobody" in text  # the rest of the memory
    assert [h["state"] for h in server.show()["hypervisors"]] == ["stopped", "stopped"]
    # it is on disk
    assert server.kill_sp() == -signal.SIGKILL
    server.start_sp()
    assert server.managers() == managers and server.show()["epoch"] == 1
    assert [e["event"] for e in server.sp_events()].count("initialised") == 1


def test_one_service_processor(server):
    """A second one is refused: on the same state, and on the same server with another."""
    for key, value, words in (("lock", "other.lock", "sp.db"), ("state_dir", "other", "service processor of this server")):
        with open(server.path("sp.conf")) as f:
            text = f.read()
        lines = [f"{key}={server.path(value)}" if line.startswith(f"{key}=") else line for line in text.splitlines()]
        with open(server.path("second.conf"), "w") as f:
            f.write("\n".join(lines) + "\n")
        p = subprocess.run([server.path("bin", "mete-sp"), "--config", server.path("second.conf")], stderr=subprocess.PIPE,
                           text=True, timeout=60, env=server._environment({}))
        assert p.returncode == 1 and words in p.stderr, p.stderr
    assert server.show()["name"] == "s1"


def test_own_partition(server):
    """A partition in a hypervisor's own file is an error that says what to do; taken out, it starts."""
    server.init(*PARTS)
    server.write_hypervisor_config("a", "[host]\ncpus=0\n")
    p = server.ask("start", "a", check=False)
    refusal(p, p.returncode, "hypervisor-a.conf: [host] cpus")
    assert p.returncode != 0 and "hypervisor-a.conf" in server.state("a")["problem"]
    server.start("b")  # is none of its business
    os.unlink(server.path("hypervisor-a.conf"))
    server.start("a")
    assert server.state("a")["state"] == "running"
    # meted itself says so, whoever wrote the file
    with open(server.path("sprun", "a.conf")) as f:
        text = f.read()
    with open(server.path("own.conf"), "w") as f:
        f.write(text + "\n[host]\nmemory=512M\n")
    p = subprocess.run([server.path("bin", "meted"), "--config", server.path("own.conf"), "--check"],
                       stderr=subprocess.PIPE, text=True, timeout=60, env=server._environment({}))
    assert p.returncode == 78 and "the partition is not this file's to say" in p.stderr, p.stderr


def test_partition_is_for_root_alone(server):
    """Nobody but the service processor gives a hypervisor its part, and none goes back to an earlier one."""
    server.init(*PARTS)
    server.start("a")
    a = server.hypervisor("a")
    now = a.partition()
    assert now["epoch"] == 1 and now["server"] == "s1"
    assert {s["component"]: s["amount"] for s in now["shares"]}["cpu:0"] == 1000
    curl = ["setpriv", "--reuid", str(a.meted_uid), "--clear-groups", "--", "curl", "-sS", "--unix-socket", a.socket, "-d",
            json.dumps({**now, "epoch": 2, "shares": []}), "http://x/v1/partition"]
    assert "mete-sp alone" in subprocess.run(curl, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    for changed, reason in (({"epoch": 0}, "invalid"), ({"shares": []}, "invalid"),
                            ({"epoch": 2, "server": "s2"}, "incompatible"),
                            ({"epoch": 2, "shares": [{"component": "cpu:4095", "amount": 1000}]}, "not-found"),
                            ({"epoch": 2, "shares": 2 * now["shares"]}, "invalid")):
        status, text = a.http("POST", "/v1/partition", {**now, **changed})
        assert status >= 400 and json.loads(text)["reason"] == reason, (changed, text)
    assert a.partition() == now
    status, text = a.http("POST", "/v1/partition", {**now, "epoch": 5})
    assert status == 200, text
    status, text = a.http("POST", "/v1/partition", {**now, "epoch": 4})
    assert json.loads(text)["reason"] == "stale", text


def test_two_hypervisors(server):
    """The same name of a VM on both; each within its own part. Without the service processor all goes on but
    configuring; a new one takes over what runs."""
    server.init(*PARTS)
    server.start("a", "b")
    a, b = server.hypervisor("a"), server.hypervisor("b")
    assert {c["id"] for c in a.ledger()["components"]} == {"cpu:0", NODE}
    assert {c["id"] for c in b.ledger()["components"]} == {"cpu:1", NODE}
    assert sum(c["capacity"] for c in a.ledger()["components"] if c["id"] == NODE) == GIB
    v, w = a.vm("v", cpus="1..2", memory="256M..512M"), b.vm("v", cpus="1..2", memory="256M..512M")
    pids = v.pid(), w.pid()
    assert len(set(pids)) == 2
    uids = {os.stat(f"/proc/{pid}").st_uid for pid in pids}
    assert len(uids) == 2 and not uids & {a.meted_uid, 1}  # nor are they those of the meted's
    assert {c["component"] for c in a.claims("vm:v")} <= {"cpu:0", NODE}
    assert {c["component"] for c in b.claims("vm:v")} <= {"cpu:1", NODE}
    meteds = {name: server.state(name)["pid"] for name in "ab"}

    # without mete-sp
    server.kill_sp()
    p = server.ask("show", check=False)
    refusal(p, 69, "mete-sp is not running", "no configuration")
    w.check("mete run --need memory:128M --need 'cpu:1,share>=0.2' -- true")
    v.kill()
    v.start()
    # a meted that ends meanwhile, started by hand as the service processor would: with what it was given last
    os.kill(meteds["b"], signal.SIGKILL)
    wait_for("b has ended", lambda: meteds["b"] not in server._meteds())

    server.start_sp()
    wait_for("both run", lambda: all(h["state"] == "running" for h in server.show()["hypervisors"]), 60)
    assert server.state("a")["pid"] == meteds["a"]  # taken over, not started anew
    assert server.state("b")["pid"] != meteds["b"]
    wait_for("b has its VMM again", lambda: w.show().get("agent"), 60)
    assert w.pid() == pids[1] and w.show()["state"] == "running"
    w.check("mete run --need memory:128M -- true")

    # an end that nobody asked for
    os.kill(meteds["a"], signal.SIGKILL)
    wait_for("a was started again", lambda: server.state("a")["restarts"] >= 1 and server.state("a")["state"] == "running", 60)
    wait_for("a has its VMM again", lambda: v.show().get("agent"), 60)
    v.check("mete run --need memory:128M -- true")

    # one that is stopped leaves its VMs running, and the other alone
    pid = v.pid()
    server.ask("stop", "a")
    assert server.state("a")["state"] == "stopped" and os.path.exists(f"/proc/{pid}")
    assert server.state("b")["state"] == "running"
    server.start("a")
    wait_for("a has its VMM again", lambda: v.show().get("agent"), 60)
    assert v.pid() == pid
    v.kill()
    w.kill()
    assert a.claims() == [] and b.claims() == []


def test_give(server):
    """What is free changes hands; what is claimed, kept, or the last does not, and each says why."""
    server.init(*PARTS)
    server.start("a", "b")
    a, b = server.hypervisor("a"), server.hypervisor("b")
    half = str(GIB // 2)
    refusal(server.ask("give", "cpu:0", "--from", "a", "--to", "b", check=False), 78, "kept by a")
    assert "the last CPU" in server.ask("give", "cpu:1", "--from", "b", "--to", "a", check=False).stderr
    assert "no hypervisor is called c" in server.ask("give", NODE, "--from", "a", "--to", "c", check=False).stderr
    assert a.mete("reserve", "r", "--need", "memory:768M").returncode == 0
    epoch = server.show()["epoch"]
    p = server.ask("give", NODE, "--amount", half, "--from", "a", "--to", "b", check=False)
    assert p.returncode != 0 and "claimed by reservation:r" in p.stderr, p.stderr
    assert server.managers()[NODE] == {"a": GIB, "b": GIB} and "giving" not in server.show()
    wait_for("all have heard that nothing came of it", lambda: {h["epoch"] for h in server.show()["hypervisors"]} ==
             {server.show()["epoch"]})
    assert a.free()[NODE] == GIB // 4 and b.free()[NODE] == GIB
    a.mete("unreserve", "r")
    server.ask("give", NODE, "--amount", half, "--from", "a", "--to", "b")
    assert server.managers()[NODE] == {"a": GIB // 2, "b": GIB + GIB // 2}
    wait_for("b has it", lambda: b.free()[NODE] == GIB + GIB // 2)
    assert a.free()[NODE] == GIB // 2
    assert server.show()["epoch"] > epoch
    # one trace from end to end
    given = next(e for e in server.sp_events() if e["event"] == "given")
    assert [e["event"] for e in server.sp_events(given["trace"]) if e["subject"] == NODE] == ["giving", "given"]
    assert any(e["event"] == "repartitioned" for e in a.events(given["trace"]))
    # only who runs can say what is claimed there
    server.ask("stop", "a")
    assert "a does not run" in server.ask("give", NODE, "--amount", half, "--from", "a", "--to", "b", check=False).stderr


def total_is_kept(server):
    """No instant at which more is given away than there is, by the word of the meted's themselves."""
    have = {}
    for name in "ab":
        try:
            for share in server.hypervisor(name).partition()["shares"]:
                have[share["component"]] = have.get(share["component"], 0) + share["amount"]
        except (OSError, HostError):
            continue  # it does not run now
    assert have.get(NODE, 0) <= 2 * GIB and have.get("cpu:0", 0) <= 1000 and have.get("cpu:1", 0) <= 1000, have


def test_deaths_of_the_service_processor(server):
    """SIGKILL at each step of its journal, before and behind it, and around each act: while it starts a hypervisor, gives, is
    refused, and stops one. A new one brings it to its end, and what is whose is one hypervisor's at every instant."""
    log = server.path("crash.log")
    half, gib = str(GIB // 2), str(GIB)

    def done(what, words, check, fails=False):
        """False: the service processor is gone, if that may be."""
        p = server.ask(*words, check=False)
        assert not check or (p.returncode != 0) == fails, (what, p.returncode, p.stderr)
        return p.returncode != 69

    def part_of_a():
        wait_for("nothing is on its way", lambda: "giving" not in server.show(), 60)
        return server.managers()[NODE]["a"]

    def story(check):
        """Ends where it began; each step may have been done before. False: it died on the way."""
        try:
            return (done("a starts", ["start", "a"], check) and
                    (part_of_a() != GIB or done("a gives", ["give", NODE, "--amount", half, "--from", "a", "--to", "b"], check)) and
                    (part_of_a() == GIB or done("b gives back", ["give", NODE, "--amount", half, "--from", "b", "--to", "a"], check)) and
                    done("b refuses", ["give", NODE, "--amount", half, "--from", "b", "--to", "a"], check, fails=True) and
                    done("a stops", ["stop", "a"], check))
        except HostError:
            return False

    server.init(*PARTS)
    server.start("b")
    server.hypervisor("b").mete("reserve", "all", "--need", f"memory:{gib}")
    server.kill_sp(signal.SIGTERM)
    server.start_sp({"METE_SP_CRASH_LOG": log})
    wait_for("b is known again", lambda: server.state("b")["state"] == "running", 60)
    assert story(True)
    with open(log) as f:
        names = [line.split(None, 1)[1].strip() for line in f]
    steps = [f"{event} {where}" for event in ("start-asked", "giving", "given", "given-back", "stop-asked") for where in
             ("begin", "end")]
    assert set(steps) | {"start", "started", "tell", "told", "stop"} <= set(names), names
    # Of each as many as the story has, and of acts that come again and again the first three.
    points = [n for n, name in enumerate(names, 1) if name in steps or names[:n].count(name) <= 3]
    died = 0
    for n in points:
        server.kill_sp(signal.SIGTERM)
        server.start_sp({"METE_SP_CRASH_AT": str(n)}, wait=False)
        wait_for("it listens, or has died", lambda: server.sp.poll() is not None or
                 server.ask("show", check=False).returncode == 0)
        story(False)
        total_is_kept(server)
        if server.sp.poll() is None:  # fewer steps than in the first run
            server.kill_sp(signal.SIGTERM)
        else:
            died += 1
            assert server.sp.wait(15) == -signal.SIGKILL
        server.start_sp()
        wait_for("b runs", lambda: server.state("b")["state"] == "running", 60)
        total_is_kept(server)
        assert story(True), (n, names[n - 1])
        assert part_of_a() == GIB and server.state("a")["state"] == "stopped"
        wait_for("b has its own again", lambda: {s["component"]: s["amount"] for s in
                                                 server.hypervisor("b").partition()["shares"]}[NODE] == GIB)
        assert len(server._meteds()) == 1 and server.state("b")["restarts"] == 0
    assert died > len(points) // 2, (died, points)

# SPDX-License-Identifier: Apache-2.0
"""What a move reserved is held by the kernel while it copies, and by nobody afterwards (4.4, 4.6, 4.8, 4.21); guests are
throttled by quotas, which are lifted before they are stopped, as is whatever else makes a vCPU slow to stop.

Two hosts, each in a network of its own, joined by a link that the source's keeper manages."""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest
from app import App
from host import Host, HostError, ROOT, wait_for
from netns import CannotRun, Network
from rpc import Client
from qemu10 import or_skip, qemu10
from site_of_two import Pki

A, B = "10.9.9.1", "10.9.9.2"
CLASS = "4d45:12"  # of the first purpose that is a move's
LINK = 160  # Mbit/s: a copy takes some seconds


@contextlib.contextmanager
def far_end(net):
    """The namespace at the other end of the network's uplink: the words with which a program enters it."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
    try:
        own = os.readlink("/proc/self/ns/net")
        wait_for("the namespace", lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own)
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
        net.run("ip", "link", "set", "up1", "netns", str(holder.pid))
        for words in (f"ip addr add {B}/24 dev up1", "ip link set up1 up", "ip link set lo up"):
            subprocess.run([*inside, *words.split()], check=True)
        net.run("ip", "addr", "add", f"{A}/24", "dev", "br0")
        yield inside
    finally:
        holder.kill()
        holder.wait()


def listen(pki, name, at):
    return (f"[listen]\ntls={at}\ncert={pki.file(name + '.crt')}\nkey={pki.file(name + '.key')}\nca={pki.file('ca.crt')}\n"
            f"peers={pki.file('peers.conf')}\nhello=200ms\n[move]\nrate={LINK}M\nvcpu_least=200\n")


@pytest.fixture(scope="module")
def hosts():
    with or_skip():
        qemu = qemu10()
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={A}", "--hypervisor", f"b={B}")
    with open(pki.file("peers.conf"), "w") as f:
        for name, at in (("a", A), ("b", B)):
            f.write(f"[{name}]\naddress={at}\npin={pki.show(name)['pin']}\nserver={name}\n")
    os.chmod(pki.file("peers.conf"), 0o644)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        try:
            net = stack.enter_context(Network(rate=f"{LINK}M"))
        except CannotRun as e:
            pytest.skip(str(e))
        inside = {"b": stack.enter_context(far_end(net)), "a": net.prefix}
        both = [Host(memory="2G", title=name, cpu_overcommit=8, qemu=qemu, extra=listen(pki, name, at),
                     inside=inside[name], net=net if name == "a" else None) for name, at in (("a", A), ("b", B))]
        for h in both:
            stack.enter_context(h)
            for name in ("vmlinuz", "test.cpio.gz"):
                h.image(os.path.join(ROOT, "build/guest", name))
        for h, peer in zip(both, "ba"):
            wait_for(f"{peer} is there", lambda h=h: h.mete_json("peers")["peers"][0]["reachable"], 60)
        yield net, *both


@pytest.fixture
def vm(hosts, request):
    _, a, b = hosts
    v = a.vm(re.sub(r"\W+", "-", request.node.name)[-30:].strip("-"), memory="256M", cpus="1")
    # What is sent: 64 MiB that are no zeroes.
    v.check("dd if=/dev/urandom of=/dev/shm/blob bs=1M count=64 2>/dev/null || dd if=/dev/urandom of=/tmp/blob bs=1M count=64 2>/dev/null")
    yield v
    v.disconnect()
    for host in (a, b):
        for vm in host.mete_json("vm", "list")["vms"]:
            if vm["name"] == v.name:
                if vm["state"] == "running":
                    host.mete("vm", "kill", v.name)
                host.mete("vm", "delete", v.name)
    a.vms.pop(v.name, None)


def begin(vm, *words):
    """The move, under way; it goes on where this machine is too busy for its level, which is not what is tested."""
    net_host = vm.host
    answer = json.loads(net_host.mete("move", vm.name, "--to", "b", "--max-time", "120s", *words, "--best-effort", "--json").stdout)
    return answer["id"]


def over(host, move):
    return wait_for("the move is over", lambda: (m := host.mete_json("move", "show", move)) and "ended_ms" in m and m, 180)


def copying(net, host, move):
    """Waits until it has its class; what that has."""
    def look():
        assert "ended_ms" not in host.mete_json("move", "show", move), host.mete_json("move", "show", move)
        return net.classes("up0").get(CLASS)
    return wait_for("the copy has its class", look, 60)


def groups(pid, ending):
    """{thread: (its name, CPUs on which it may run)} of those in a control group of that name, in each hierarchy that holds CPUs."""
    found = {}
    for task in glob.glob(f"/proc/{pid}/task/*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines = [l.rstrip().split(":", 2) for l in open(f"{task}/cgroup")]
            held = [path for _, names, path in lines if names == "" or {"cpu", "cpuset"} & set(names.split(","))]
            if held and any(p.endswith(f"/{ending}") for p in held):
                cpus = re.search(r"Cpus_allowed_list:\s*(\S+)", open(f"{task}/status").read()).group(1)
                found[int(os.path.basename(task))] = (open(f"{task}/comm").read().strip(), cpus)
    return found


def directories(host, ending):
    return [d for d in glob.glob(f"/sys/fs/cgroup/**/{host.name}/*", recursive=True) if re.search(ending, d)]


def quota(host, group):
    """Of a group, in milliseconds of each 10; None: it has none."""
    for d in directories(host, f"/{group}$"):
        if os.path.exists(f"{d}/cpu.cfs_quota_us"):
            us, period = (int(open(f"{d}/cpu.cfs_{what}_us").read()) for what in ("quota", "period"))
        elif os.path.exists(f"{d}/cpu.max"):
            us, period = (int(n) if n != "max" else -1 for n in open(f"{d}/cpu.max").read().split())
        else:
            continue
        assert us < 0 or period == 10000
        return us / 1000 if us > 0 else None
    raise AssertionError(f"there is no {group}")


@pytest.fixture
def cgroups():
    if not glob.glob("/sys/fs/cgroup/cpuset") and not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        pytest.skip("there is no hierarchy that holds CPUs here")


def reserved_cpus(host, move):
    return {c["component"].removeprefix("cpu:") for c in host.mete_json("ledger")["claims"]
            if c["component"].startswith("cpu:") and move in c["holder"]}


def test_from_when_on_it_could_be_kept(hosts, vm):
    """4.10: what is missing is given back at a known time, here or at the other host: the answer says so, and no more when it is there."""
    _, a, b = hosts

    def ask():
        return json.loads(a.mete("move", vm.name, "--to", "b", "--dry-run", "--max-time", "30s", "--max-downtime", "2s", "--json",
                                 check=False).stdout)
    for host, need, limit in ((a, f"net:{LINK - 5}M", "source-bandwidth"), (b, "cpu:2,share>=1", "destination-cpu")):
        host.mete("reserve", f"window-{limit}", "--need", need, "--for", "600s")
        try:
            if host is b:
                wait_for("its peer knows", lambda: a.mete_json("peers")["peers"][0]["hello"].get("later"))
            said = ask()
            assert said["limit"] == limit and 0 < said["earliest_ms"] <= 600000, said
            text = a.mete("move", vm.name, "--to", "b", "--dry-run", "--max-time", "30s", "--max-downtime", "2s", check=False).stdout
            assert "could be kept as asked for: in " in text, text
        finally:
            host.mete("unreserve", f"window-{limit}")
    wait_for("its peer has it back", lambda: not a.mete_json("peers")["peers"][0]["hello"].get("later"))
    said = ask()
    assert "earliest_ms" not in said and "limit" not in said, said
    assert said["plan"]["expected_bps"] >= said["plan"]["vector"]["bandwidth_bps"], said
    sources = {f["figure"]: f["source"] for f in said["plan"]["figures"]}
    # The other host has no link in its ledger, and says nothing of it.
    assert sources["source_bps"] in ("configured", "free") and sources["destination_bps"] == sources["source_bps"], said


def test_what_sends_and_what_takes_in_have_the_cpu_that_is_reserved(hosts, vm, cgroups):
    net, a, b = hosts
    group = f"move@{vm.name}"
    pids = {a: a.mete_json("vm", "show", vm.name)["pid"]}
    move = begin(vm)
    sends = wait_for("the thread that sends is held", lambda: groups(pids[a], group), 60)
    assert len(sends) == 1 and re.match("mig|live_migration", [*sends.values()][0][0]), sends
    assert [*sends.values()][0][1] in reserved_cpus(a, move), (sends, a.mete_json("ledger"))
    pids[b] = b.mete_json("vm", "show", vm.name)["pid"]
    takes = wait_for("the thread that takes in is held", lambda: groups(pids[b], group), 60)
    assert pids[b] in takes and takes[pids[b]][1] in reserved_cpus(b, move), takes
    done = over(a, move)
    assert done["state"] == "done" and not any("CPU" in f for f in done.get("fallbacks", [])), done
    wait_for("it is back among the others", lambda: pids[b] in groups(pids[b], f"emulator@{vm.name}"))
    assert directories(a, "/move@") == directories(b, "/move@") == []


FAULT = "move lifted die\n"


@pytest.fixture
def slow(hosts):
    """A VM with a ceiling, and with a vCPU that nobody was granted and that its guest uses all the same."""
    _, a, _ = hosts
    v = a.vm("slow", memory="256M", cpus="1..2", share="0.2..0.6")
    app = App(v, "own")
    app.call("request", {"id": "l", "needs": ["cpu:1,share>=0.1"]})
    app.call("release", {"id": "l"})
    app.close()
    pid = a.mete_json("vm", "show", "slow")["pid"]
    if not wait_for("it is put aside or gone", lambda: groups(pid, "parked@slow") or "vcpu1@slow" not in str(directories(a, "vcpu1@slow"))):
        pytest.skip("this VMM takes vCPUs away")
    v.check("echo 1 >/sys/devices/system/cpu/cpu1/online; (taskset 2 sh -c 'while :; do :; done' >/dev/null 2>&1 &) ; "
            "dd if=/dev/urandom of=/tmp/blob bs=1M count=48 2>/dev/null")
    yield v, pid
    v.disconnect()
    for host in hosts[1:]:
        if any(x["name"] == "slow" for x in host.mete_json("vm", "list")["vms"]):
            host.mete("vm", "kill", "slow")
            host.mete("vm", "delete", "slow")
    a.vms.pop("slow", None)


def test_a_guest_that_spins_is_lifted_before_it_is_stopped(hosts, slow, cgroups):
    """A quota and a parked vCPU make a guest slow to stop. They are lifted before; and restored wherever it runs afterwards, also by
    a meted that finds them so."""
    _, a, b = hosts
    vm, pid = slow
    parked = groups(pid, "parked@slow")
    assert len(parked) == 1 and quota(a, "vcpu0@slow") == 6, parked
    fault = a.path("state", "fault")
    a.kill_meted()
    a.start_meted({"METE_FAULTS": fault})
    vm.wait_agent()
    with open(fault, "w") as f:
        f.write(FAULT)
    os.chown(fault, a.meted_uid, a.meted_gid)
    move = begin(vm, "--max-downtime", "3s")
    try:
        wait_for("it is lifted, and meted dies", lambda: a.meted.poll() is not None or "ended_ms" in a.mete_json("move", "show", move), 120)
    except HostError:
        assert a.meted.poll() is not None  # it died while it was asked
    if a.meted.poll() is not None:
        assert quota(a, "vcpu0@slow") is None
        assert groups(pid, "lift1@slow").keys() == parked.keys()
        a.start_meted()
    else:  # a build without faults
        os.unlink(fault)
    ended = over(a, move)
    if ended["state"] != "done":
        assert quota(a, "vcpu0@slow") == 6 and groups(pid, "parked@slow").keys() == parked.keys()
        assert directories(a, "/lift") == []
        move = begin(vm, "--max-downtime", "3s")
        ended = over(a, move)
    assert ended["state"] == "done", ended
    assert quota(b, "vcpu0@slow") == 6
    there = b.mete_json("vm", "show", "slow")["pid"]
    wait_for("the vCPU that nobody was granted is put aside there too", lambda: len(groups(there, "parked@slow")) == 1)


def test_a_guest_that_dirties_too_fast_is_throttled(hosts, vm, cgroups):
    """Within what policy leaves it, by a quota with a period of 10 ms; and no longer than it moves."""
    _, a, b = hosts
    group = f"vcpu0@{vm.name}"
    vm.check("(while :; do dd if=/dev/urandom of=/tmp/w bs=1M count=48 conv=notrunc 2>/dev/null; done) >/dev/null 2>&1 & echo")
    answer = json.loads(a.mete("move", vm.name, "--to", "b", "--max-time", "300s", "--max-downtime", "1200ms", "--json", check=False).stdout)
    share = answer.get("plan", {}).get("vector", {}).get("share_milli", 1000)
    if answer["state"] in ("countered", "refused") or share == 1000:
        a.mete("move", "cancel", answer["id"], check=False)
        over(a, answer["id"])
        pytest.skip(f"here this guest dirties its memory at a rate of which the plan makes: {answer['state']}, share {share}")
    seen, before = set(), a.last_event()

    def is_over():
        with contextlib.suppress(AssertionError, OSError):  # the group goes with the VM
            seen.add(quota(a, group))
        a.mete("vm", "verify", vm.name, check=False)  # who looks at what was granted knows what is meant to be other
        return "ended_ms" in a.mete_json("move", "show", answer["id"])
    wait_for("it is over", is_over, 400)
    ended = a.mete_json("move", "show", answer["id"])
    events = [e["event"] for e in a.events(answer["id"])]
    assert "throttled" in events and any(q and 2 <= q < 10 for q in seen), (seen, events)
    if "lifted" in events:
        assert events.index("lifted") < events.index("move-switching"), events
    changed = [e for e in a.events(after=before) if e["event"] in ("changed", "repaired", "repair-failed") and vm.name in e["subject"]]
    assert changed == []
    if ended["state"] == "done":
        assert quota(b, group) is None
    else:  # this machine is busy with other things
        assert quota(a, group) is None, ended


def test_a_move_has_its_class_and_uses_it(hosts, vm):
    """4.6: measured by the kernel, not logged."""
    net, a, b = hosts
    move = begin(vm)
    rate, ceiling = copying(net, a, move)
    vector = a.mete_json("move", "show", move)["plan"]["vector"]
    said = int(re.match(r"\d+", rate).group()) * (1000 if rate.endswith("Kbit") else 1000000 if rate.endswith("Mbit") else 1)
    # Where this machine is so busy that the level is in danger, it has reserved more of the link since.
    reserved = [vector["bandwidth_bps"]] + [int(e["text"].split()[0]) for e in a.events(move) if e["event"] == "raised"]
    assert any(r <= said < r + 16000 for r in reserved) and ceiling == f"{LINK}Mbit", (rate, reserved)
    done = over(a, move)
    assert done["state"] == "done", done
    assert done["held_bytes"] > 64 << 20 and not any("guarantee" in f or "uplink" in f for f in done.get("fallbacks", [])), done
    assert CLASS not in net.classes("up0") and os.listdir(a.path("keeper", "flow")) == []
    assert vm.name in [v["name"] for v in b.mete_json("vm", "list")["vms"]]


ENDS = ["cancelled", "the VMM dies", "meted dies", "the keeper dies", "the other meted dies", "the other VMM dies"]


@pytest.mark.parametrize("end", ENDS)
def test_nothing_of_it_is_left(hosts, vm, end):
    net, a, b = hosts
    before = net.classes("up0")
    move = begin(vm)
    copying(net, a, move)
    if end == "cancelled":
        a.mete("move", "cancel", move)
    elif end == "meted dies":
        a.kill_meted()
        a.start_meted()
    elif end == "the keeper dies":
        a.keeper.kill()
        a.keeper.wait()
        a.start_keeper()
    elif end == "the other meted dies":
        b.kill_meted()
        b.start_meted()
    else:
        host = a if end == "the VMM dies" else b
        os.kill(host.mete_json("vm", "show", vm.name)["pid"], signal.SIGKILL)
    over(a, move)
    wait_for("its class is gone", lambda: net.classes("up0") == before, 60)
    assert os.listdir(a.path("keeper", "flow")) == []


def test_what_belongs_to_no_move_is_dropped(hosts, vm):
    """A class of the link that is left over, of which meted knows nothing: when either of the two is met again."""
    net, a, _ = hosts
    before = net.classes("up0")

    def leave():
        with Client(a.keeper_socket) as keeper, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            keeper.call("hello", {"version": json.load(open(os.path.join(ROOT, "api/keeper.json")))["x-version"]})
            keeper.call("move-hold", {"vm": vm.name, "rate_bps": 10_000_000, "fds": 1}, fds=[stream.fileno()])
        assert net.classes("up0") != before and os.listdir(a.path("keeper", "flow"))

    a.kill_meted()
    leave()
    a.start_meted()
    wait_for("meted drops it", lambda: net.classes("up0") == before, 60)
    leave()
    a.keeper.kill()
    a.keeper.wait()
    a.start_keeper()
    wait_for("it is dropped for meted", lambda: net.classes("up0") == before, 60)
    wait_for("and its record", lambda: os.listdir(a.path("keeper", "flow")) == [])
    vm.wait_agent()

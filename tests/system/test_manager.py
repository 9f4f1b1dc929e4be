# SPDX-License-Identifier: Apache-2.0
"""mete-manager moves VMs among two hosts: what it accepts and declines by policy (4.11, 4.13, 4.14, 4.22), how it drains a host, and
that it goes on with what was begun after it was killed."""
import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile

import pytest
from host import Host, METED_USER, ROOT, wait_for
from manager import Manager
from monitor import slowed
from qemu10 import or_skip, qemu10
from site_of_two import Pki, Site, address, listen
from vmms import vmms as processes


@pytest.fixture(scope="module")
def site():
    with or_skip():
        qemu = qemu10()
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", f"b={address(1)}",
                                              "--hypervisor", "c", "--manager", "m", "--operator", "alice")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        hosts = [Host(memory="2G", title=name, cpu_overcommit=8, qemu=qemu, offer="60s",
                      extra=listen(pki, n, name, f"peers-{name}.conf") + "[move]\nrate=1G\n") for n, name in enumerate("ab")]
        s = Site(pki, *hosts)
        for host in hosts:
            s.usual(host)
            stack.enter_context(host)
            for name in ("vmlinuz", "test.cpio.gz"):
                host.image(os.path.join(ROOT, "build/guest", name))
        s.wait_peer(s.a, "b", "b is there", lambda p: p["reachable"])
        s.wait_peer(s.b, "a", "a is there", lambda p: p["reachable"])
        s.made = 0
        yield s


@pytest.fixture(scope="module")
def manager(site):
    with Manager(site) as m:
        yield m


@pytest.fixture
def vms(site, manager):
    """Makes running VMs on host a, that are gone behind the test wherever they are."""
    made = []

    def make(n=1):
        for _ in range(n):
            site.made += 1
            made.append(site.a.vm(f"v{site.made}", memory="128M", cpus="1"))
        wait_for("the manager has seen them", lambda: host(manager, "a")["running"] == len(names(site.a)), 60)
        return made
    yield make
    for order in manager.get("/v1/moves")["moves"]:
        if "ended_ms" not in order:
            manager.mete("move", "cancel", order["id"])
    for v in made:
        v.disconnect()
        for h in (site.a, site.b):
            if v.name in names(h):
                wait_for("its move is over", lambda h=h, v=v: all("ended_ms" in x for x in h.mete_json("move", "list")["moves"]
                                                                 if x["vm"] == v.name), 120)
                if v.name in names(h):
                    h.mete("vm", "kill", v.name)
                    h.mete("vm", "delete", v.name)
        site.a.vms.pop(v.name, None)


def names(h):
    return [v["name"] for v in h.mete_json("vm", "list")["vms"]]


def host(manager, name):
    return next(h for h in manager.get("/v1/hosts")["hosts"] if h["name"] == name)


def claims(h):
    return h.mete_json("ledger")["claims"]


def ended(manager, order):
    return wait_for("the order is over", lambda: (lambda o: o if "ended_ms" in o else None)(manager.json("move", "show", order["id"])), 180)


def test_hosts_are_known(site, manager):
    listed = {h["name"]: h for h in manager.json("host", "list")["hosts"]}
    assert listed["a"]["reachable"] and listed["b"]["reachable"]
    assert not listed["c"]["reachable"] and "no address" in listed["c"]["problem"]
    assert listed["a"]["memory_free_bytes"] == listed["a"]["memory_bytes"] == 2 << 30
    assert "reachable" in manager.mete("host", "list").stdout
    assert "mete_manager_hosts_reachable 2" in manager_text(manager, "/metrics")


def manager_text(manager, path):
    p = subprocess.run(["curl", "-s", "--unix-socket", manager.path("manager.sock"), f"http://localhost{path}"],
                       capture_output=True, text=True, check=True)
    return p.stdout


def test_a_vm_is_moved(site, manager, vms):
    """Wherever it is, to whoever has room, at a level; and again with the same id is not again."""
    (v,) = vms()
    done = manager.json("move", v.name, "--to", "any", "--max-time", "60s", "--max-downtime", "5s", "--wait", "--id", "first")
    assert done["state"] == "done", done
    assert done["from"] == "a" and done["to"] == ["b"] and done["move"]["downtime_ms"] <= 5000
    assert names(site.a) == [] and names(site.b) == [v.name]
    again = manager.json("move", v.name, "--to", "any", "--max-time", "60s", "--max-downtime", "5s", "--id", "first")
    assert (again["state"], again["ended_ms"]) == ("done", done["ended_ms"])
    p = manager.mete("move", v.name, "--to", "a", "--id", "first", check=False)
    assert p.returncode == 65 and "used before" in p.stderr, p.stderr
    text = [e["event"] for e in manager.get("/v1/events?trace=first")["events"]]
    assert text == ["moving", "done"], text
    assert "first" in manager.mete("move", "list").stdout


def test_a_level_that_cannot_be_kept_is_declined(site, manager, vms):
    """4.11: without a floor it takes nothing less; the VM is left alone, and nothing stays reserved."""
    (v,) = vms()
    before = claims(site.a), claims(site.b)
    p = manager.mete("move", v.name, "--to", "b", "--max-time", "10ms", "--max-downtime", "10ms", "--wait", "--id", "strict", check=False)
    assert p.returncode == 75, p.stderr
    order = manager.get("/v1/moves/strict")
    assert order["state"] == "declined" and order["reason"] == "no-capacity" and order["sentence"], order
    assert names(site.a) == [v.name]
    assert (claims(site.a), claims(site.b)) == before
    # A floor that is still stricter than what could be kept changes nothing.
    order = manager.json("move", v.name, "--to", "b", "--max-time", "10ms", "--max-downtime", "10ms", "--floor-time", "11ms", "--wait", check=False)
    assert order["state"] == "declined" and order["round"] == 1, order


def test_what_is_offered_is_taken_down_to_the_floor(site, manager, vms):
    """4.13, 4.22: the offer is asked for unchanged, and granted."""
    (v,) = vms()
    order = manager.json("move", v.name, "--to", "b", "--max-time", "10ms", "--max-downtime", "10ms",
                         "--floor-time", "120s", "--floor-downtime", "20s", "--on-miss", "finish", "--wait", check=False)
    assert "taken" in order, order
    assert order["taken"]["total_ms"] <= 120000 and order["taken"]["downtime_ms"] <= 20000, order
    text = [e["event"] for e in manager.get(f"/v1/events?trace={order['id']}")["events"]]
    if order["state"] == "done":
        assert names(site.b) == [v.name] and order["move"]["downtime_ms"] <= order["taken"]["downtime_ms"]
    else:  # this machine is busy with other things: the bound was kept by breaking it off
        assert order["state"] == "failed" and names(site.a) == [v.name], order
    assert ("accepting" in text or "asking" in text) and "moving" in text, text


def test_bad_input(site, manager, vms):
    (v,) = vms()
    for words, status, sentence in ((["nobody", "--to", "b"], 66, "no host has a VM"), ([v.name, "--to", "x"], 66, "no host is called x"),
                                    ([v.name, "--to", "a"], 65, "runs on a already"), ([v.name, "--to", "c"], 69, ""),
                                    ([v.name, "--to", "b", "--max-downtime", "0ms"], 65, "downtime"),
                                    ([v.name, "--to", "b", "--dry-run"], 69, "dry run")):
        p = manager.mete("move", *words, "--wait", check=False)
        assert p.returncode != 0 and sentence in p.stderr + p.stdout, (words, p)
    for words in (["drain", "nobody", "--within", "1m"], ["drain", "a"], ["drain", "a", "--within", "0s"], ["move", "show", "nothing"],
                  ["drain", "show", "nothing"], ["drain", "c", "--within", "1m"]):
        p = manager.mete(*words, check=False)
        assert p.returncode not in (0, 75) and p.stderr, (words, p)
    assert names(site.a) == [v.name]


def test_nobody_but_operators(site, manager):
    """A certificate of another role does nothing, not even look; and a host is no manager, whoever signed for it."""
    for who in ("b", "m"):
        p = manager.mete("host", "list", cert=who, check=False)
        assert p.returncode != 0 and "operator" in p.stderr, p.stderr
    p = subprocess.run([manager.path("bin/mete"), "host", "list", "--manager", f"https://{address(0)}", "--cert", manager.pki.file("alice.crt")],
                       capture_output=True, text=True, timeout=60)
    assert p.returncode != 0 and "no certificate of a manager" in p.stderr, p.stderr
    other = os.path.join(os.path.dirname(manager.pki.path), "other")
    Pki(other).init("--operator", "eve")
    shutil.copy(os.path.join(other, "eve.crt"), manager.pki.file("eve.crt"))
    shutil.copy(os.path.join(other, "eve.key"), manager.pki.file("eve.key"))
    p = manager.mete("host", "list", cert="eve", check=False)
    assert p.returncode != 0, p.stdout


def test_it_has_nothing_of_meteds(site, manager):
    """Neither reads the other's key or store, and meted's user may look at it as everybody may, no more."""
    meted = pwd.getpwnam(METED_USER)
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{manager.process.pid}/status").read().splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == {str(manager.uid)} and str(meted.pw_uid) not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0

    def as_user(uid, gid, *words):
        return subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "--", *words], capture_output=True, text=True, timeout=60)
    for path in (manager.pki.file("m.key"), manager.path("state/manager.db")):
        assert as_user(manager.uid, manager.gid, "cat", path).returncode == 0
        assert as_user(meted.pw_uid, meted.pw_gid, "cat", path).returncode != 0, path
    assert as_user(manager.uid, manager.gid, "cat", manager.pki.file("a.key")).returncode != 0
    p = as_user(meted.pw_uid, meted.pw_gid, manager.path("bin/mete"), "move", "cancel", "nothing", "--manager", manager.path("manager.sock"))
    assert p.returncode != 0 and "operator" in p.stderr, p.stderr


def test_a_drain_is_said_before_it_is_done(site, manager, vms):
    """A dry run changes nothing; what cannot be done in time is not begun."""
    made = vms(2)
    before = claims(site.a), claims(site.b)
    said = manager.json("drain", "a", "--within", "10m", "--max-downtime", "5s", "--dry-run")
    assert said["state"] == "dry-run" and said["possible"], said
    assert [v["vm"] for v in said["vms"]] and all(v["to"] == "b" and v["predicted_ms"] > 0 for v in said["vms"])
    assert said["vms"][-1]["ends_ms"] == said["predicted_ms"] == sum(v["predicted_ms"] for v in said["vms"])
    p = manager.mete("drain", "a", "--within", "60ms", "--max-downtime", "50ms", "--id", "hasty", check=False)
    assert p.returncode == 75, p
    hasty = manager.get("/v1/drains/hasty")
    assert hasty["state"] in ("impossible", "failed") and not hasty.get("possible") and hasty["sentence"], hasty
    assert manager.get("/v1/moves?after=z")["moves"] == []
    assert sorted(names(site.a)) == sorted(v.name for v in made)
    assert (claims(site.a), claims(site.b)) == before


def test_a_drain_without_room(site, manager, vms):
    """Each VM that has no place is named, with what there is too little of; the others are left alone, too."""
    made = vms(2)
    site.b.mete("reserve", "all", "--need", "memory:1900M")
    try:
        wait_for("the manager has seen it", lambda: host(manager, "b")["memory_free_bytes"] < 256 << 20, 60)
        said = manager.json("drain", "a", "--within", "10m", check=False)
        assert said["state"] == "impossible" and said["limit"] == "memory", said
        without = [v for v in said["vms"] if "to" not in v]
        assert without and all(v["reason"] == "no-capacity" for v in without)
        assert sorted(names(site.a)) == sorted(v.name for v in made)
    finally:
        site.b.mete("unreserve", "all")
        wait_for("the manager has seen it", lambda: host(manager, "b")["memory_free_bytes"] >= 1 << 30, 60)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_host_is_drained(site, manager, vms, is_killed):
    """All VMs are away, in one go or with a manager that is killed meanwhile: each moves exactly once."""
    made = vms(2)
    begun = manager.json("drain", "a", "--within", "10m", "--max-downtime", "10s", "--floor-downtime", "60s")
    assert begun["state"] == "moving", begun
    if is_killed:
        manager.kill()
        manager.start()
    over = wait_for("the drain is over", lambda: (lambda d: d if "ended_ms" in d else None)(manager.get(f"/v1/drains/{begun['id']}")), 400)
    assert over["state"] == "done", (over, [manager.get(f"/v1/moves/{v['order']}") for v in over["vms"] if "order" in v])
    assert names(site.a) == [] and sorted(names(site.b)) == sorted(v.name for v in made)
    assert all(v["state"] == "moved" for v in over["vms"])
    for v in over["vms"]:
        tries = [m["id"] for m in site.a.mete_json("move", "list")["moves"] if m["vm"] == v["vm"] and m["state"] == "done"]
        assert len(tries) == 1, tries
    assert "draining" not in host(manager, "a")


# ---- it dies at each of its crash points of an order; tests/manager walks them with hosts that are played, and those of drains

LOOSE = {"total_ms": 300000, "downtime_ms": 50000}
STRICT = {"total_ms": 10, "downtime_ms": 10}
# What brings an order into some states, and how it ends: the body; what is done meanwhile; the ends.
ORDERS = {("asking", "moving", "done"): ({"level": LOOSE}, None, ("done",)),
          # what is offered may be so tight that this machine, which is busy with other things, does not keep it
          ("accepting",): ({"level": STRICT, "floor": LOOSE, "on_miss": "finish"}, None, ("done", "failed")),
          ("declining", "declined"): ({"level": STRICT}, None, ("declined",)),
          ("waiting",): ({"level": LOOSE, "wait_ms": 600000}, "full", ("done",)),
          ("offered",): ({"level": STRICT, "ask": True}, "decline", ("declined",)),
          ("failed",): ({"level": LOOSE}, "no image", ("failed",)),
          ("cancelling", "cancelled"): ({"level": {"total_ms": 7200000}}, "cancel", ("cancelled",))}
NOT_HEARD = ("waiting", "done", "declined", "failed", "cancelled")  # nobody is called then
FEW = [("asking", "done"), ("moving", "recorded")]


def points():
    with open(f"{ROOT}/api/manager.json") as f:
        states = json.load(f)["$defs"]["order_state"]["enum"]
    assert sorted(s for group in ORDERS for s in group) == sorted(states)
    found = [(s, when) for s in states for when in ("decided", "recorded", "done", *(() if s in NOT_HEARD else ("heard",)))]
    words = os.environ.get("METE_POINTS", "").split(",")
    return [p for p in found if words == ["all"] or p[0] in words] or FEW


@pytest.fixture(scope="module")
def wanderer(site):
    """A VM that moves to and fro, with something in its memory."""
    v = site.a.vm("wanderer", memory="128M", cpus="1")
    v.check("dd if=/dev/urandom of=/tmp/blob bs=1M count=8 2>/dev/null; sha256sum /tmp/blob >/tmp/sum")
    yield v
    v.disconnect()
    for h in (site.a, site.b):
        h.vms.pop(v.name, None)
        h.mete("vm", "kill", v.name, check=False)
        h.mete("vm", "delete", v.name, check=False)


class Order:
    """Asked for until it is answered: its manager dies once, of nothing else than its point, and is started again."""

    def __init__(self, manager, vm, there, body):
        self.manager, self.vm, self.deaths = manager, vm, 0
        self.id = f"d-{vm.name}-{os.urandom(4).hex()}"
        self.body = {"to": there.options["title"], "id": self.id, **body}

    def alive(self):
        if self.manager.process.poll() is not None:
            assert self.manager.process.returncode == -signal.SIGKILL and self.deaths == 0, self.manager.log()[-2000:]
            self.deaths += 1
            self.manager.start()

    def call(self, method, path, body=None):
        while True:
            self.alive()
            try:
                status, said = self.manager.call(method, path, body, timeout=240)
            except (OSError, http.client.HTTPException):
                wait_for("it is dead", lambda: self.manager.process.poll() is not None, 60)
                continue
            assert status == 200, (method, path, said)
            return said

    def ask(self):
        return self.call("POST", f"/v1/vms/{self.vm.name}/move", self.body)

    def has_died(self):
        self.alive()
        return self.deaths

    def over(self):
        self.alive()
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, said = self.manager.call("GET", f"/v1/moves/{self.id}")
            return said if status == 200 and "ended_ms" in said and self.deaths == 1 else None


@contextlib.contextmanager
def meanwhile(act, vm, there):
    """What stands in the order's way, for as long as this is there."""
    image = there.path("images", "vmlinuz")
    if act == "full":
        there.mete("reserve", "all", "--need", "memory:1900M")
    elif act == "no image":
        os.rename(image, image + ".away")
    try:
        with slowed(vm.host, vm.name) if act == "cancel" else contextlib.nullcontext():
            yield
    finally:
        if act == "full":
            there.mete("unreserve", "all")
        elif act == "no image":
            os.rename(image + ".away", image)


def held(h, vm):
    return sorted((c["holder"], c["component"].split(":")[0], c["amount"]) for c in h.claims() if vm.name in c["holder"])


@pytest.mark.parametrize("point", points(), ids="-".join)
def test_it_dies(site, manager, wanderer, point):
    """Whoever asked asks again with the same id. It ends as it would have without the death, once; the VM is whole and at one of both
    hosts, nothing else is claimed."""
    state, when = point
    body, act, ends = next(order for group, order in ORDERS.items() if state in group)
    vm, source = wanderer, wanderer.host
    there = site.b if source is site.a else site.a
    had = held(source, vm)
    manager.kill()
    manager.start({"METE_MANAGER_CRASH_AT": f"order {state} {when}"})
    wait_for("it has seen the VM", lambda: host(manager, source.options["title"])["running"] == 1, 60)
    order = Order(manager, vm, there, body)
    with meanwhile(act, vm, there):
        order.ask()
        if state == "offered":
            wait_for("it has died", order.has_died, 60)
        if act == "decline":
            order.call("POST", f"/v1/moves/{order.id}/decline")
        elif act == "cancel":
            order.call("DELETE", f"/v1/moves/{order.id}")
        if act != "full":
            over = wait_for("the order is over, and its manager died once", order.over, 240, 0.1)
    if act == "full":
        over = wait_for("the order is over, and its manager died once", order.over, 240, 0.1)
    check_order(site, order, over, ends, there if over["state"] == "done" else source, source, had)


def check_order(site, order, over, ends, at, source, had):
    vm = order.vm
    vm.disconnect()
    assert over["state"] in ends, over
    assert [e["event"] for e in order.manager.get(f"/v1/events?trace={order.id}")["events"]].count(over["state"]) == 1
    moves = wait_for("its moves are over", lambda: (lambda all_: all("ended_ms" in m for m in all_) and [all_])(
        [m for h in (site.a, site.b) for m in h.mete_json("move", "list")["moves"] if m["id"].startswith(order.id)]), 120, 0.1)[0]
    assert [m["state"] for m in moves if m["role"] == "source"].count("done") == (1 if at is not source else 0), moves
    other = site.b if at is site.a else site.a
    vm.host = at
    wait_for("it is at one of both", lambda: vm.name in names(at) and vm.name not in names(other), 60, 0.1)
    assert vm.show()["state"] == "running" and len(processes(at, vm.name)) == 1 and processes(other, vm.name) == []
    vm.wait_agent()
    assert vm.check("cd /tmp; sha256sum -c sum") == "/tmp/blob: OK"
    wait_for("nothing else is claimed", lambda: held(at, vm) == had and len(claims(at)) == len(had) and claims(other) == [], 60, 0.1)

# SPDX-License-Identifier: Apache-2.0
"""mete-manager with a real etcd: one of two leads, and the other takes over; what cannot be recorded is not begun; nothing moves twice
whoever dies, sleeps, or is away. Without /usr/bin/etcd it is skipped."""
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(os.path.abspath(__file__)), "../manager")]
from etcd import LEASE, LONG_LEASE, PREFIX, Cluster, Etcd, Managers, Member, address, b64, needs_etcd, tls_files  # noqa: E402
from deaths import chosen, die_at, needs_points  # noqa: E402
from fleet import BUILD, Fleet, wait_for  # noqa: E402
from test_orders import DONE, LEVEL, dry  # noqa: E402

pytestmark = needs_etcd


@pytest.fixture
def managers(request):
    m = Managers(lease=getattr(request, "param", LEASE))
    try:
        m.hosts["a"].add_vm("v")
        yield m
    finally:
        m.close()


def both(managers):
    first = managers.members[0].start()
    wait_for("the first leads", first.leads)
    second = managers.members[1].start()
    wait_for("the second says who leads", lambda: (second.health() or {}).get("problem") == "m1 leads; this one waits")
    managers.fleet.seen("v")
    return first, second


def moved_once(host, n):
    with host.lock:
        assert host.overlaps == [] and len({b["id"] for b in host.asked()}) == len(host.begun) == n, (host.overlaps, host.asked())


def waits(member, method, path, body, words):
    """It says so; an answer of etcd that is late is said instead meanwhile."""
    def is_said():
        try:
            status, said = member.call(method, path, body)
        except (OSError, http.client.HTTPException):  # it begins anew
            return False
        assert status != 200 and said["reason"] == "busy", (path, said)
        return words in said["message"]
    wait_for(f"{path}: {words}", is_said)


long_lease = pytest.mark.parametrize("managers", [LONG_LEASE], indirect=True, ids=["long"])


def copies(ask):
    return [{"state": "copying"}]


@long_lease
def test_one_leads(managers):
    """The other says who does, and has nothing else to say; it has everything when the first ends."""
    first, second = both(managers)
    a = managers.hosts["a"]
    a.script = lambda ask: [dict(DONE)]
    assert managers.move("v", id="o", level=LEVEL)["state"] in ("moving", "done")
    over = managers.fleet.ended("moves", "o")
    assert not second.leads()
    for method, path, body in (("GET", "/v1/hosts", None), ("GET", "/v1/moves", None), ("GET", "/v1/moves/o", None), ("GET", "/v1/events", None),
                               ("POST", "/v1/vms/v/move", {"to": "b"}), ("DELETE", "/v1/moves/o", None), ("POST", "/v1/hosts/a/drain", {"within_ms": 5000})):
        waits(second, method, path, body, "m1 leads; this one waits")
    assert "mete_manager_leads 1\n" in first.call("GET", "/metrics")[1] and "mete_manager_leads 0\n" in second.call("GET", "/metrics")[1]
    events = first.call("GET", "/v1/events?limit=256")[1]["events"]
    assert "order/o" in str(managers.etcd.keys("document/").keys()) and len(managers.etcd.keys("event/")) >= len(events)
    assert not os.path.exists(first.path("state"))
    first.end()
    wait_for("the second leads", second.leads, 120)  # at once, or where giving the lease back took too long, at its end
    assert second.call("GET", "/v1/moves/o") == (200, over)
    later = second.call("GET", "/v1/events?limit=256")[1]["events"]
    assert later[:len(events)] == events and [e["seq"] for e in later] == list(range(1, len(later) + 1))
    assert second.call("POST", "/v1/vms/v/move", {"to": "b", "id": "o", "level": LEVEL}) == (200, over)
    moved_once(a, 1)


def test_a_silent_member(managers):
    """Of two members of the cluster one takes connections and never answers: the other is enough. That http:// keeps out nobody here is said."""
    etcd, fleet = managers.etcd, managers.fleet
    with socket.create_server((etcd.host, 0)) as silent:
        both_of_them = f"http://{etcd.host}:{silent.getsockname()[1]},{etcd.url}"
        member = managers.members[0] = Member(fleet, "m1", both_of_them).start()
        wait_for("it leads", member.leads)
        fleet.seen("v")
        managers.hosts["a"].script = lambda ask: [dict(DONE)]
        assert managers.move("v", id="o", level=LEVEL)["state"] in ("moving", "done")
        assert fleet.ended("moves", "o")["state"] == "done"
        assert member.log().count("takes http://: whoever has a login") == 2
        moved_once(managers.hosts["a"], 1)


@long_lease
def test_a_list_that_is_wrong(managers):
    """Who waits reads the list of hosts after SIGHUP, too: what is wrong with it is known before it is to lead."""
    first, second = both(managers)
    path = f"{managers.fleet.pki}/peers.conf"
    with open(path) as f:
        good = f.read()
    with open(path, "w") as f:
        f.write("[")
    second.signal(signal.SIGHUP)
    wait_for("it is said", lambda: "this one could not lead with it" in second.log())
    with open(path, "w") as f:
        f.write(good)
    second.signal(signal.SIGHUP)
    wait_for("it is good again", lambda: f"3 hosts in {path}" in second.log())
    first.end()
    wait_for("the second leads", second.leads, 120)


def test_the_leader_is_killed(managers):
    """In the middle of a move that it had begun: the other goes on with it."""
    first, second = both(managers)
    a = managers.hosts["a"]
    a.script = copies
    assert managers.move("v", id="o", level=LEVEL)["state"] == "moving"
    first.kill()
    wait_for("the second leads", second.leads)
    assert managers.fleet.get("/v1/moves/o")[1]["state"] == "moving"
    with a.lock:
        a.moves[a.move_id("o")]["answers"] = [dict(DONE)]
    assert managers.fleet.ended("moves", "o")["state"] == "done"
    moved_once(a, 1)


def test_a_drain_among_deaths(managers):
    """Whoever leads is killed again and again: each VM moves once."""
    both(managers)
    a = managers.hosts["a"]
    for i in range(3):
        a.add_vm(f"w{i}")
    managers.fleet.seen("w2")
    a.script = lambda ask: [dry(1000)] if ask.get("dry_run") else copies(ask)
    words = {"id": "d", "within_ms": 600000}
    assert managers.fleet.call("POST", "/v1/hosts/a/drain", words)[1]["state"] == "moving"
    for n in range(1, 5):
        wait_for("the next one moves", lambda: len(a.begun) == n)
        leader = managers.leader()
        if n < 4:
            leader.kill()
        with a.lock:
            list(a.begun.values())[-1]["answers"] = [dict(DONE)]
        if n < 4:
            leader.start()
    over = managers.fleet.ended("drains", "d")
    assert over["state"] == "done" and {v["state"] for v in over["vms"]} == {"moved"} and not a.vms, over
    moved_once(a, 4)


def test_the_leader_sleeps(managers):
    """It wakes when another leads: it does nothing more, says so, and waits. Who had asked it meanwhile is not told how things were."""
    first, second = both(managers)
    a = managers.hosts["a"]
    a.script = copies
    assert managers.move("v", id="o", level=LEVEL)["state"] == "moving"
    first.signal(signal.SIGSTOP)
    wait_for("the second leads", second.leads)
    with a.lock:
        a.moves[a.move_id("o")]["answers"] = [dict(DONE)]
    wait_for("it is over", lambda: "ended_ms" in second.call("GET", "/v1/moves/o")[1])
    over = second.call("GET", "/v1/moves/o")[1]
    a.add_vm("v")
    heard = []

    def ask():
        try:
            heard.append(first.call("GET", "/v1/moves/o"))
        except (OSError, http.client.HTTPException) as e:
            heard.append((0, str(e)))
    t = threading.Thread(target=ask)
    t.start()
    time.sleep(0.2)
    first.signal(signal.SIGCONT)
    t.join(60)
    assert heard and heard[0][0] != 200, heard
    wait_for("it knows", lambda: (first.health() or {}).get("problem") == "m2 leads; this one waits")
    assert "begins anew" in first.log()
    assert second.call("GET", "/v1/moves/o") == (200, over) and over["state"] == "done"
    moved_once(a, 1)


@pytest.mark.parametrize("managers", ["12s"], indirect=True, ids=["longer"])
def test_what_waits_to_be_asked(managers):
    """More orders than there are connections to their host, and it is slow: what has not gone out when the lease ends, only who leads then asks for."""
    both(managers)
    a, names = managers.hosts["a"], [f"w{i}" for i in range(6)]
    for name in names:
        a.add_vm(name)
    managers.fleet.seen("w5")
    a.script = lambda ask: [dict(DONE)]
    a.gate = threading.Event()
    leader = managers.leader()

    def ask(name):
        try:
            leader.call("POST", f"/v1/vms/{name}/move", {"to": "b", "id": f"o-{name}", "level": LEVEL})
        except (OSError, http.client.HTTPException):
            pass  # it begins anew
    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for t in threads:
        t.start()
    wait_for("all are recorded, and some wait", lambda: len(managers.etcd.keys("document/order/")) == 6 and len(a.at_gate) == 4)
    managers.etcd.signal(signal.SIGSTOP)
    wait_for("its lease is over", lambda: "begins anew" in leader.log())
    a.gate.set()
    time.sleep(1)
    assert len(a.at_gate) == 4, a.at_gate
    managers.etcd.signal(signal.SIGCONT)
    for t in threads:
        t.join(60)
    for name in names:
        assert managers.fleet.ended("moves", f"o-{name}")["state"] == "done"
    moved_once(a, 6)


@pytest.mark.parametrize("how", ["sleeps", "killed"])
def test_etcd_is_away(managers, how):
    """It is said, nothing is begun, and a move under way goes on, which is looked at while the lease lives; when etcd is there again all goes on."""
    both(managers)
    a = managers.hosts["a"]
    a.add_vm("w")
    managers.fleet.seen("w")
    a.script = copies
    assert managers.move("v", id="o", level=LEVEL)["state"] == "moving"
    leader = managers.leader()
    if how == "sleeps":
        managers.etcd.signal(signal.SIGSTOP)
    else:
        managers.etcd.kill()

    words = "no answer in time" if how == "sleeps" else "127."

    def is_said():
        try:
            status, said = leader.call("GET", "/v1/moves/o")
        except (OSError, http.client.HTTPException):  # it begins anew
            return False
        assert said["state"] == "moving" if status == 200 else said["reason"] == "busy", said
        health = leader.health()
        return status != 200 and health and not health["ok"] and words in health["problem"]
    wait_for("it is said", is_said)
    waits(leader, "POST", "/v1/vms/w/move", {"to": "b", "id": "p", "level": LEVEL}, words)
    assert len(a.asked()) == 1
    with a.lock:
        a.moves[a.move_id("o")]["answers"] = [dict(DONE)]
    if how == "sleeps":
        managers.etcd.signal(signal.SIGCONT)
    else:
        managers.etcd.start()
    assert managers.fleet.ended("moves", "o")["state"] == "done"
    a.script = lambda ask: [dict(DONE)]
    assert managers.move("w", id="p", level=LEVEL)["state"] in ("moving", "done")
    assert managers.fleet.ended("moves", "p")["state"] == "done"
    moved_once(a, 2)


@pytest.fixture
def clustered(request):
    """Managers that share a cluster of three, and VMs v, w, x."""
    m = Managers(lease=request.param, etcd=Cluster())
    try:
        for name in "vwx":
            m.hosts["a"].add_vm(name)
        yield m
    finally:
        m.close()


def begun(managers, name):
    """A move that goes on until the test says so."""
    managers.hosts["a"].script = copies
    assert managers.move(name, id=f"o-{name}", level=LEVEL)["state"] == "moving"


def done(managers, name):
    a = managers.hosts["a"]
    with a.lock:
        a.moves[a.move_id(f"o-{name}")]["answers"] = [dict(DONE)]
    assert managers.fleet.ended("moves", f"o-{name}")["state"] == "done"


@pytest.mark.parametrize("clustered", [LONG_LEASE], indirect=True, ids=["long"])
def test_the_leader_of_the_cluster_dies(clustered):
    """Each time in the middle of a move: the others choose one, and the manager goes on, with the lead that it has, and begins the next."""
    first, second = both(clustered)
    cluster = clustered.etcd
    for name in "vwx":
        begun(clustered, name)
        dead = cluster.leader()
        dead.kill()
        done(clustered, name)
        assert cluster.leader() is not dead
        dead.start()
    wait_for("the first leads still", first.leads)
    assert not second.leads()
    assert "begins anew" not in first.log() + second.log()
    assert {key.split("/")[-1] for key in cluster.keys("document/order/")} == {"o-v", "o-w", "o-x"}
    moved_once(clustered.hosts["a"], 3)


@pytest.mark.parametrize("clustered", ["12s"], indirect=True, ids=["longer"])
def test_most_of_the_cluster_dies(clustered):
    """One of three decides nothing: it is said, and nothing is begun; when a second is back all goes on, with what was recorded."""
    both(clustered)
    cluster, a = clustered.etcd, clustered.hosts["a"]
    begun(clustered, "v")
    leader = cluster.leader()
    dead = [leader, next(m for m in cluster.members if m is not leader)]
    for m in dead:
        m.kill()

    def is_said(member):
        try:
            health, status = member.health(), member.call("GET", "/v1/moves/o-v")[0]
        except (OSError, http.client.HTTPException):  # it begins anew
            return False
        return status != 200 and health and not health["ok"] and health["problem"]
    for m in clustered.members:
        wait_for("it is said", lambda m=m: is_said(m), 120)
    for m in clustered.members:
        waits(m, "POST", "/v1/vms/w/move", {"to": "b", "id": "o-w", "level": LEVEL}, "")
    assert len(a.asked()) == 1
    dead[1].start()
    done(clustered, "v")
    begun(clustered, "w")
    dead[0].start()
    done(clustered, "w")
    moved_once(a, 2)


def test_etcd_sleeps_while_it_records():
    """What is asked for just when etcd falls asleep, again and again: answered late, refused, or lost with the lead - but once done."""
    seed = int(os.environ.get("METE_SEED") or time.time())
    print(f"METE_SEED={seed}")
    rng = random.Random(seed)
    managers = Managers()
    try:
        a = managers.hosts["a"]
        names = [f"u{i}" for i in range(4)]
        for name in names:
            a.add_vm(name)
        for m in managers.members:
            m.start()
        managers.leader()
        managers.fleet.seen("u3")
        a.script = lambda ask: [{"state": "copying"}, dict(DONE)]
        for name in names:
            answers, failures = [], []

            def ask():
                try:
                    answers.append(managers.move(name, id=f"o-{name}", level=LEVEL))
                except BaseException as e:  # in a thread of its own nobody else would see it
                    failures.append(e)
            t = threading.Thread(target=ask)
            t.start()
            time.sleep(rng.random() / 50)
            managers.etcd.signal(signal.SIGSTOP)
            time.sleep(rng.choice([0.2, 2.5, 9]))  # the last is longer than the lease
            managers.etcd.signal(signal.SIGCONT)
            t.join(120)
            if failures:
                raise failures[0]
            assert answers, "it was not answered"
            assert managers.fleet.ended("moves", f"o-{name}")["state"] == "done"
        moved_once(a, 4)
        assert not a.vms
    finally:
        managers.close()


@needs_points
@pytest.mark.parametrize("point", chosen(3), ids="-".join)
def test_a_death(point):
    """As with a file (test_deaths.py): what it had begun it finds again, when its lease has run out."""
    etcd = Etcd()
    try:
        die_at(point, store=f"etcd={etcd.url}\nprefix={PREFIX}\nlease={LEASE}\n")
    finally:
        etcd.close()


def test_no_space():
    """etcd is full: its own words; what was asked for waits, nothing is begun, and when there is space it is done."""
    managers = Managers(quota=4 << 20, lease=LONG_LEASE)
    try:
        a, etcd = managers.hosts["a"], managers.etcd
        for name in "vw":
            a.add_vm(name)
        leader = managers.members[0].start()
        wait_for("it leads", leader.leads)
        managers.fleet.seen("w")
        junk = b64("x" * (400 << 10))
        wait_for("it is full", lambda: etcd.ask("/v3/kv/put", key=b64("/junk"), value=junk) is None)
        answers = []
        t = threading.Thread(target=lambda: answers.append(leader.call("POST", "/v1/vms/v/move", {"to": "b", "id": "o", "level": LEVEL})))
        t.start()
        wait_for("it is said", lambda: "space exceeded" in (leader.health() or {}).get("problem", ""))
        waits(leader, "POST", "/v1/vms/w/move", {"to": "b", "id": "p", "level": LEVEL}, "space exceeded")
        assert a.asked() == []
        # refused at once where something else was to be recorded before it, such as a host that was late with an answer
        assert not answers or (answers[0][0] != 200 and answers[0][1]["reason"] == "busy"), answers
        revision = etcd.ask("/v3/kv/range", key=b64("/junk"))["header"]["revision"]
        member = etcd.ask("/v3/maintenance/alarm", action="GET")["alarms"][0]["memberID"]
        assert etcd.ask("/v3/kv/compaction", revision=revision, physical=True) is not None
        assert etcd.ask("/v3/maintenance/defragment") is not None
        assert etcd.ask("/v3/maintenance/alarm", action="DEACTIVATE", memberID=member, alarm="NOSPACE") is not None
        t.join(60)
        assert answers, leader.log()[-2000:]
        if answers[0][0] != 200:  # that, or its lease did not live through it
            assert answers[0][1]["reason"] == "busy"
            managers.move("v", id="o", level=LEVEL)
        assert managers.fleet.ended("moves", "o")["state"] == "done"
        moved_once(a, 1)
    finally:
        managers.close()


def test_tls(tmp_path):
    """etcd shows a certificate that names its address, and wants one; another authority, or another address, is not believed."""
    fleet = Fleet(is_started=False)
    tls, wrong = str(tmp_path / "tls"), str(tmp_path / "wrong")
    tls_files(tls, address(0))
    tls_files(wrong, "127.0.0.1")

    def member(name, server, client):
        return Member(fleet, name, etcd.url, f"cert={client}/manager.crt\nkey={client}/manager.key\nca={server}/ca.crt\n")
    etcd, members = None, []
    try:
        etcd = Etcd(tls=tls)
        members = [member("m1", tls, tls), member("m2", wrong, wrong), member("m3", tls, wrong)]
        good, stranger, unknown = (m.start() for m in members)
        wait_for("it leads", good.leads)
        wait_for("it does not believe that", lambda: "certificate" in (stranger.health() or {}).get("problem", ""))
        wait_for("etcd does not believe that", lambda: "etcd" in (unknown.health() or {}).get("problem", ""))
        assert not stranger.leads() and not unknown.leads() and etcd.get("lead") == "m1"
        for m in members:
            m.end()
        etcd.kill()
        subprocess.run(["openssl", "x509", "-req", "-in", "etcd.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile",
                        f"{wrong}/etcd.ext", "-out", "etcd.crt"], check=True, capture_output=True, cwd=tls)
        with open(os.path.join(etcd.dir, "log"), "ab") as log:  # it names 127.0.0.1
            etcd.process = subprocess.Popen(etcd.process.args, stdout=log, stderr=log)
        good.start()
        wait_for("another address is not believed", lambda: "certificate" in (good.health() or {}).get("problem", ""))
        assert not good.leads()
        good.end()
    finally:
        for m in members:
            if m.process:
                m.end()
        if etcd:
            etcd.close()
        fleet.close()


def test_record():
    """What managers ask of their store, of a real etcd: the other half of src/manager/test-record.c; its cases wait for leases."""
    p = subprocess.run([os.path.join(BUILD, "src/manager/test-record"), "-p", "/record/etcd"], capture_output=True, text=True, timeout=600)
    assert p.returncode == 0 and "ok 1 /record/etcd" in p.stdout, (p.stdout + p.stderr)[-5000:]


def test_bad_configuration(tmp_path):
    fleet = Fleet(is_started=False)
    try:
        for etcd, extra, words in (("http://10.0.0.5:2379", "", "takes https://"), ("10.0.0.5", "", "is not like https://"), ("https://a:0", "", "port"),
                                   ("https://a", "prefix=mete\n", "prefix"), ("https://a", "prefix=/mete/\n", "prefix"), ("https://a", "lease=2s\n", "lease"),
                                   ("https://a", f"ca={tmp_path}/none\n", "[store] ca"), (",".join(["https://a"] * 9), "", "at most 8")):
            m = Member(fleet, "m", etcd, extra)  # the last word on a key counts
            p = subprocess.run([os.path.join(BUILD, "src/manager/mete-manager"), "--check", "--config", m.path("conf")], capture_output=True, text=True, timeout=60)
            assert p.returncode == 78 and words in p.stderr, (etcd, extra, p.stderr)
    finally:
        fleet.close()

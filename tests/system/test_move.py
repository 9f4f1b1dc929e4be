# SPDX-License-Identifier: Apache-2.0
"""A running VM moves from one host to the other, with its leases, and back (4.1 to 4.16); on QEMU 10, as QEMU 7.2 on TCG loses memory."""
import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import tempfile
import threading

import pytest
from app import App
from host import Host, HostError, ROOT, wait_for
from monitor import Monitor
from qemu10 import or_skip, qemu10
from site_of_two import Pki, Site, address, listen
from terminal import Terminal
from told import wait_told

MIB = 1 << 20
PORTS = range(28441, 28444)
MOVES_MAX = 6
MORE = {"a": "", "b": "[block]\nrate=200M\n"}  # so that a guest can tell which host is its own


@pytest.fixture(scope="module")
def site():
    with or_skip():
        qemu = qemu10()
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", f"b={address(1)}", "--hypervisor", "c")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        hosts = [Host(memory="3G", title=name, cpu_overcommit=8, qemu=qemu,
                      extra=listen(pki, n, name, f"peers-{name}.conf") + f"[move]\nrate=1G\nports={PORTS[0]}-{PORTS[-1]}\n" + MORE[name])
                 for n, name in enumerate("ab")]
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


@pytest.fixture
def vm(site):
    site.made += 1
    v = site.a.vm(f"v{site.made}", memory="256M..768M", cpus="1..3")
    yield v
    v.disconnect()
    for host in (site.a, site.b):
        for move in host.mete_json("move", "list")["moves"]:
            if move["vm"] == v.name and "ended_ms" not in move:
                with contextlib.suppress(HostError):
                    host.mete("move", "cancel", move["id"])
                wait_for("the move is over", lambda h=host, i=move["id"]: "ended_ms" in h.mete_json("move", "show", i), 60)
        if any(x["name"] == v.name for x in host.mete_json("vm", "list")["vms"]):
            host.mete("vm", "kill", v.name)
            host.mete("vm", "delete", v.name)
    site.a.vms.pop(v.name, None)


def names(host):
    return [v["name"] for v in host.mete_json("vm", "list")["vms"]]


def claims(host):
    return [c for c in host.mete_json("ledger")["claims"]]


def move(vm, to, *words, wait=True):
    """The move as it is at its end, at the source; vm is then at the other host."""
    source = vm.host
    p = source.mete("move", vm.name, "--to", to.options["title"], *words, *(["--wait"] if wait else []), "--json", check=False)
    assert p.stdout, p.stderr
    answer = json.loads(p.stdout)
    if wait and answer["state"] == "done":
        vm.disconnect()
        vm.host = to
        wait_for("the destination is through", lambda: to.mete_json("move", "show", answer["id"])["state"] == "settled", 60)
    return answer


def sees(site, vm, host):
    """Waits until the guest has the picture of that host, with what is its own there; its generation (2.5, 2.10)."""
    def is_its(objects):
        own = {}
        for c in claims(host):
            if c["component"] in objects and (c["holder"] == f"vm:{vm.name}" or c["holder"].startswith(f"vm:{vm.name}/")):
                own[c["component"]] = own.get(c["component"], 0) + c["amount"]
        return ("block:images" in objects) == (host is site.b) and own and \
            own == {i: o["yours"] for i, o in objects.items() if o.get("mark") == "yours"}
    return wait_told(vm, f"it is told of {host.options['title']}", is_its)[0]


def test_all_of_it_moves(site, vm):
    """Its memory, what its programs were granted, their connections to the agent, and what it knows of its host, which is that of the
    other; and nothing is left behind (4.7, 4.8)."""
    a, b = site.a, site.b
    app = App(vm, "own")
    granted = app.call("request", {"id": "l", "needs": ["cpu:1,share>=0.1", "memory:128M"]})
    assert granted["outcome"] == "granted"
    vm.check("dd if=/dev/urandom of=/tmp/blob bs=1M count=40 2>/dev/null; sha256sum /tmp/blob >/tmp/sum; "
             "(while :; do echo x >>/tmp/ticks; sleep 0.1; done) >/dev/null 2>&1 & echo")
    before = {lease["request"]: lease["needs"] for lease in a.mete_json("leases")["leases"]}
    generation = sees(site, vm, a)
    for here, there in ((a, b), (b, a)):
        ticks = int(vm.check("wc -l </tmp/ticks"))
        done = move(vm, there)
        assert done["state"] == "done", done
        assert names(here) == [] and names(there) == [vm.name] and claims(here) == []
        assert {lease["request"]: lease["needs"] for lease in there.mete_json("leases")["leases"]} == before
        vm.wait_agent()
        assert vm.check("cd /tmp; sha256sum -c sum") == "/tmp/blob: OK"
        assert vm.cpus_online() == 2
        wait_for("what ran in it runs on", lambda n=ticks: int(vm.check("wc -l </tmp/ticks")) > n)
        later = sees(site, vm, there)
        assert later > generation, (later, generation)
        generation = later
        text = [e["event"] for e in there.events(done["id"])]
        assert text.index("complete") < text.index("running") < text.index("confirming"), text
        text = [e["event"] for e in here.events(done["id"])]
        assert text.index("committing") < text.index("committed") < text.index("finishing") < text.index("done"), text
    # The agent's table is what it was: what was granted is given back where the VM is now.
    app.call("release", {"id": "l"})
    wait_for("it is given back", lambda: [lease["request"] for lease in a.mete_json("leases")["leases"]] == [vm.name], 60)


def test_a_level_is_kept_or_another_offered(site, vm):
    """4.4, 4.9 to 4.13: what is accepted is measured against what was asked for; what is offered is granted when it is asked for."""
    done = move(vm, site.b, "--max-time", "60s", "--max-downtime", "2s")
    assert done["state"] == "done", done
    assert 0 < done["downtime_ms"] <= 2000 and done["plan"]["total_ms"]["p50"] < 60000
    vm.wait_agent()
    answer = move(vm, site.a, "--max-time", "100ms", "--max-downtime", "100ms", wait=False)
    assert answer["state"] in ("countered", "refused"), answer
    assert answer["limit"] and vm.name in names(site.b)
    if answer["state"] == "countered":
        offer = answer["offers"][0]["level"]
        words = [w for k, option in (("total_ms", "--max-time"), ("downtime_ms", "--max-downtime")) if k in offer
                 for w in (option, f"{offer[k]}ms")]
        site.b.mete("move", "accept", answer["id"], *words)
        wait_for("it is done", lambda: site.b.mete_json("move", "show", answer["id"]).get("ended_ms"), 120)
        ended = site.b.mete_json("move", "show", answer["id"])
        # What was accepted is what is carried out, and what is measured is held against.
        assert ended["plan"]["vector"]["bandwidth_bps"] > 0 and ended["plan"]["limit_ms"] > 0, ended
        assert ended["plan"]["total_ms"]["p50"] == answer["offers"][0]["total_p50_ms"] and not ended.get("offers"), ended
        if ended["state"] == "done":
            vm.disconnect()
            vm.host = site.a
        else:  # this machine is busy with other things: the miss was seen in time, and it stays
            assert ended["state"] == "aborted" and ended["reason"] == "timeout" and "missed" in ended["sentence"], ended
        vm.wait_agent()


def test_another_level_is_taken_while_it_is_copied(site, vm):
    """4.14: what will be missed is said, another total time is offered while the copy goes on, and what is taken counts. Meanwhile the VM
    is left alone, and how far it is can be seen."""
    source = site.a
    m = Monitor(source.path("run", "vm", vm.name, "guard.sock"))  # without a downtime to be kept there is no guard
    with contextlib.closing(m.sock), contextlib.closing(m.file), Terminal() as terminal, contextlib.ExitStack() as stack:
        asker = source.mete_start("move", vm.name, "--to", "b", "--id", "ask", "--max-time", "40s", "--on-miss", "ask", "--wait",
                                  stdout=terminal.inner)
        stack.callback(asker.kill)

        def slow():
            """QEMU sends less than anybody could know; meted gives it all that there is, so it is said again and again."""
            m.call("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
            p = source.mete("move", "show", "ask", "--json", check=False)
            shown = json.loads(p.stdout) if p.returncode == 0 else {}
            return shown if shown.get("offer_ms") or shown.get("ended_ms") else None
        shown = wait_for("another level is offered", slow, 120, 0.05)
        assert shown["state"] == "copying" and len(shown["offers"]) == 1, shown
        offer = shown["offers"][0]["level"]
        assert offer["total_ms"] > 40000 and "downtime_ms" not in offer, offer
        with pytest.raises(HostError) as e:
            source.mete("move", "accept", "ask", "--max-time", "40s")
        assert "stricter" in str(e.value)
        taken = json.loads(source.mete("move", "accept", "ask", "--max-time", f"{offer['total_ms'] + 200000}ms", "--json").stdout)
        assert taken["state"] == "copying" and taken["level"]["total_ms"] == offer["total_ms"] + 200000, taken
        with pytest.raises(HostError) as e:  # it is taken, and no other is there
            source.mete("move", "accept", "ask", "--max-time", "600s")
        assert "no level is offered" in str(e.value)
        busy(source, vm)  # at 1 MiB/s, with minutes to go
        assert source.mete_json("move", "show", "ask")["state"] == "copying"
        m.call("migrate-set-parameters", **{"max-bandwidth": 2 << 20})
        wait_for("what is left is said", lambda: re.search(r"so far: round \d+, .* sent, .* to go at .*/s, dirties .*/s, [\d.]+s left\n"
                                                           r"  by now: \d+ms, downtime \d+ms", source.mete("move", "show", "ask").stdout))
        wait_for("on the terminal, too", lambda: re.search(r"copying \[[#.]{24}\] round \d+, .* to go, .*, [\d.]+s left", terminal.text()))
        m.call("migrate-set-parameters", **{"max-bandwidth": 0})
        assert asker.wait(240) == 0
    ended = source.mete_json("move", "show", "ask")
    assert ended["state"] == "done" and ended["attempt"] == 1, ended
    vm.disconnect()
    vm.host = site.b
    wait_for("the destination is through", lambda: site.b.mete_json("move", "show", "ask")["state"] == "settled", 60)
    vm.wait_agent()


def test_a_dry_run_changes_nothing(site, running):
    """4.3, 4.10: what would be promised, and what another level would take; nothing is reserved or remembered."""
    before = claims(site.a), claims(site.b), site.a.mete_json("move", "list")
    said = json.loads(site.a.mete("move", running.name, "--to", "b", "--dry-run", "--max-time", "60s", "--max-downtime", "2s",
                                  "--json").stdout)
    assert said["state"] == "dry-run" and said["plan"]["vector"]["bandwidth_bps"] > 0, said
    assert 0 < said["plan"]["total_ms"]["p10"] <= said["plan"]["total_ms"]["p90"] <= 60000
    p = site.a.mete("move", running.name, "--to", "b", "--dry-run", "--max-time", "10ms", "--max-downtime", "10ms", "--json", check=False)
    said = json.loads(p.stdout)
    assert said["state"] in ("countered", "refused") and said["limit"] and "offer_ms" not in said
    assert (claims(site.a), claims(site.b), site.a.mete_json("move", "list")) == before


def knock(said, stop):
    """Strangers at the ports where the memory comes, without a pause: from another address, and from the right one without the key."""
    while not stop.is_set():
        for here in (0, 1):
            for port in PORTS:
                for source, word in ((address(77), b""), (None, b"x" * 64), (None, b"x")):
                    with contextlib.suppress(OSError):
                        with socket.create_connection((address(here), port), 1, (source, 0) if source else None) as s:
                            s.sendall(word)
                            said.add((here, port))


def state_at(host, vm):
    """Of the move of this VM that is under way there; None: there is none."""
    return next((m["state"] for m in host.mete_json("move", "list")["moves"] if m["vm"] == vm.name and "ended_ms" not in m), None)


def has_stranger(host, move):
    return "stranger" in [e["event"] for e in host.events(move)]


def hold_up(vm, source, there, move, asked):
    """The source is stopped while the destination makes ready, which then listens until somebody was hung up on; or is through, where
    it was too quick for us."""
    wait_for("the destination makes ready", lambda: asked.done() or state_at(there, vm) not in (None, "holding", "reserved"), 120, 0.02)
    if asked.done():
        return
    source.meted.send_signal(signal.SIGSTOP)
    try:
        wait_for("a stranger was hung up on", lambda: has_stranger(there, move) or state_at(there, vm) not in ("preparing", "ready"), 60)
    finally:
        source.meted.send_signal(signal.SIGCONT)


def test_strangers_at_the_port(site, vm):
    """They are hung up on, and the memory comes all the same, with the first attempt."""
    said, stop = set(), threading.Event()
    thread = threading.Thread(target=knock, args=(said, stop))
    thread.start()
    hung_up = False
    try:
        for n in range(MOVES_MAX):
            source, there = ((site.a, site.b), (site.b, site.a))[n % 2]
            with concurrent.futures.ThreadPoolExecutor(1) as asker:
                asked = asker.submit(move, vm, there, "--id", f"strange{n}")
                hold_up(vm, source, there, f"strange{n}", asked)
                done = asked.result()
            assert done["state"] == "done" and done["attempt"] == 1, done
            hung_up = has_stranger(there, done["id"])
            if hung_up:
                break
    finally:
        stop.set()
        thread.join()
    assert hung_up and said, said
    vm.wait_agent()


def test_many_pieces_of_memory(site):
    """More than the keeper opens at once: it is measured all the same."""
    v = site.a.vm("many", memory="256M..2432M", cpus="1")
    try:
        app = App(v, "own")
        for n in range(17):
            assert app.call("request", {"id": f"l{n}", "needs": ["memory:128M"]})["outcome"] == "granted", n
        said = json.loads(site.a.mete("move", "many", "--to", "b", "--dry-run", "--max-downtime", "5s", "--json").stdout)
        assert said["state"] == "dry-run", said
    finally:
        v.kill()
        site.a.mete("vm", "delete", "many")
        del site.a.vms["many"]


BAD = {
    "no such peer": (["--to", "nobody"], 66, "no peer is called nobody"),
    "this host": (["--to", "a"], 65, "is this host"),
    "no peer of ours": (["--to", "c"], 66, "no peer is called c"),
    "no level": (["--to", "b", "--max-downtime", "0ms"], 65, "downtime"),
    "negative": (["--to", "b", "--max-downtime=-5ms"], 65, "--max-downtime -5ms"),
    "absurd": (["--to", "b", "--max-time", "9999d"], 65, ""),
    "miss": (["--to", "b", "--on-miss", "weep"], 65, "on_miss"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(site, running, case):
    words, status, sentence = BAD[case]
    with pytest.raises(HostError) as e:
        site.a.mete("move", running.name, *words)
    assert f"exit {status}:" in str(e.value) and sentence in str(e.value)


@pytest.fixture(scope="module")
def running(site):
    v = site.a.vm("stays", memory="256M", cpus="1")
    yield v
    v.kill()
    site.a.mete("vm", "delete", "stays")
    del site.a.vms["stays"]


def test_no_such_vm(site):
    """Asked as a program asks, too, without what mete looks at before."""
    with pytest.raises(HostError) as e:
        site.a.mete("move", "nobody", "--to", "b")
    assert "exit 66:" in str(e.value) and "nobody" in str(e.value)
    status, text = site.a.http("POST", "/v1/vms/nobody/move", {"to": "b"})
    assert status == 404 and json.loads(text)["reason"] == "not-found" and "nobody" in json.loads(text)["message"], text


@pytest.mark.parametrize("level", [{"downtime_ms": -5}, {"total_ms": -1}, {"total_ms": 0}, {"downtime_ms": 1 << 50}, {"downtime_ms": 0.5},
                                   {"downtime_ms": "5"}], ids=str)
def test_no_such_level(site, running, level):
    """What mete would not send. Nothing is begun."""
    status, text = site.a.http("POST", f"/v1/vms/{running.name}/move", {"to": "b", "id": "nowhere", "level": level})
    assert status == 400 and json.loads(text)["reason"] == "invalid" and "level" in json.loads(text)["message"], text
    assert site.a.http("GET", "/v1/moves/nowhere")[0] == 404


def busy(host, vm, all_words=(["vm", "stop"], ["vm", "kill"], ["vm", "delete"], ["move"])):
    """A VM whose move is under way is neither ended nor moved once more."""
    for words in all_words:
        with pytest.raises(HostError) as e:
            host.mete(*words, vm.name, *(["--to", "b"] if words == ["move"] else []))
        assert "exit 75:" in str(e.value) and "being moved" in str(e.value) and "(busy)" in str(e.value), str(e.value)


def test_a_vm_that_moves_is_left_alone(site, vm):
    """Moved once more: not while it moves, which it does from the offer on, as room is held for it. Cancelled, it is as it was."""
    before = claims(site.a), claims(site.b)
    held = move(vm, site.b, "--id", "held", "--max-time", "10ms", "--max-downtime", "10ms", wait=False)
    assert held["state"] == "countered", held
    busy(site.a, vm, [["move"]])  # the offer is held for a minute: what else is refused is tried where there is more time
    site.a.mete("move", "cancel", "held")
    wait_for("it is over", lambda: "ended_ms" in site.a.mete_json("move", "show", "held"), 120)
    wait_for("there, too", lambda: claims(site.b) == before[1], 60)
    assert claims(site.a) == before[0] and names(site.a).count(vm.name) == 1 and vm.name not in names(site.b)
    assert vm.check("echo alive") == "alive"


@pytest.mark.parametrize("who", ["source", "destination"])
def test_meted_dies_while_it_is_copied(site, vm, who):
    """One runner, always: it runs at exactly one of the two when both are back."""
    host = site.a if who == "source" else site.b
    vm.check("echo kept >/tmp/kept")
    first = move(vm, site.b, wait=False)
    host.kill_meted()
    host.start_meted()

    def over():
        states = [h.mete_json("move", "show", first["id"])["state"] for h in (site.a, site.b)
                  if any(m["id"] == first["id"] for m in h.mete_json("move", "list")["moves"])]
        return states if all(s in ("done", "aborted", "refused", "lost", "settled", "dropped") for s in states) else None
    states = wait_for("both sides are through", over, 180)
    assert ("done" in states) == ("settled" in states), states
    at = site.b if "settled" in states else site.a
    assert vm.name in names(at) and vm.name not in names(site.b if at is site.a else site.a)
    assert at.mete_json("vm", "show", vm.name)["state"] == "running"
    vm.disconnect()
    vm.host = at
    assert vm.check("cat /tmp/kept") == "kept"
    left = [c for c in claims(site.b if at is site.a else site.a) if "stays" not in c["holder"]]
    assert left == []


def test_a_vmm_that_loses_memory_is_not_copied():
    """What QEMU 7.2 on TCG would lose nobody would hear of: so it is refused."""
    with Host(memory="1G") as h:
        v = h.vm("v", memory="256M", cpus="1")
        if "7.2" not in v.show()["qemu"]:
            pytest.skip(f"this is QEMU {v.show()['qemu']}")
        with pytest.raises(HostError) as e:
            h.mete("move", "v", "--to", "b")
        assert "incompatible" in str(e.value)

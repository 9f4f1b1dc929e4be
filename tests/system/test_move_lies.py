# SPDX-License-Identifier: Apache-2.0
"""A destination that lies about what it has, says everything twice, says what cannot be, or never answers; one whose certificate is not
to be believed. Played, with a real certificate: the source is whole afterwards, its VM runs, and nothing of it stays reserved.

The moves to who never answers are under way while the others are tried, and are looked at in the end."""
import contextlib
import json
import os
import shutil
import tempfile
import threading

import pytest
from host import Host, HostError, ROOT, wait_for
from played_peer import PlayedPeer, Sink, closed_port, reply
from qemu10 import or_skip, qemu10
from site_of_two import Pki, Site, address, listen

MUTE = ("mute-reserve", "mute-ready", "mute-stream")
with open(os.path.join(ROOT, "api/common.json")) as common:
    REASONS = json.load(common)["$defs"]["reason"]["enum"]


def mute(peer, word):
    """Of the three VMs of that name: silent from there on."""
    if word["vm"] == "mute-reserve":
        return None
    if word["says"] == "reserve":
        return [reply(word, "reserved")]
    if word["says"] == "prepare" and word["vm"] == "mute-stream":
        return [reply(word, "ready", stream=peer.sink.stream()) if word["attempt"] == 1 else reply(word, "broken")]
    return []


@pytest.fixture(scope="module")
def site():
    with or_skip():
        qemu = qemu10()
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", "b", "--hypervisor", "c", "--hypervisor", "d")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        a = Host(memory="2G", title="a", cpu_overcommit=8, qemu=qemu, extra=listen(pki, 0, "a", "peers-a.conf") + "[move]\nrate=1G\n")
        s = Site(pki, a, None)
        known = {name: {"address": address(n), "pin": pki.show(name)["pin"]} for n, name in ((0, "a"), (2, "c"), (3, "d"))}
        s.usual = lambda _host=None: s.peers(a, **known)
        s.usual()
        stack.enter_context(a)
        s.c = stack.enter_context(PlayedPeer(pki, "c", 2))
        s.c.sink = stack.enter_context(Sink(2))
        s.c.lie = None
        s.c.hears = lambda peer, word: mute(peer, word) if word["vm"] in MUTE else peer.lie(peer, word)
        s.wait_peer(a, "c", "c is there", lambda p: p["reachable"])
        s.vm = a.vm("v", memory="192M", cpus="1", wait=False)
        for name in MUTE:
            a.vm(name, memory="192M", cpus="1", wait=False)
        s.vm.wait_ready()
        s.baseline = a.free()
        askers = [a.mete_start("move", name, "--to", "c", "--id", name) for name in MUTE]
        s.made, s.is_cancelled = 0, False
        yield s
        for asker in askers:
            asker.kill()
            asker.wait()


def move(site, lie, *words):
    """The move as it ended, of which nothing is left."""
    site.made += 1
    site.c.lie, site.c.said[:] = lie, []
    p = site.a.mete("move", "v", "--to", "c", "--id", f"lie{site.made}", *words, "--wait", "--json", check=False)
    assert p.stdout, p.stderr
    ended = json.loads(p.stdout)
    assert ended["state"] in ("refused", "aborted") and ended["reason"] in REASONS and ended["sentence"], ended
    stays(site, site.vm, ended["id"])
    return ended


def stays(site, vm, move_id):
    assert vm.show()["state"] == "running"
    assert vm.check("echo alive") == "alive"
    assert not [c for c in site.a.claims() if f"move:{move_id}." in c["holder"]]


def refused(site, says):
    """Whether such a word of the peer's was refused, with a reason of the list. One about an attempt that is over by then is told so."""
    return any(status >= 400 and said["reason"] in REASONS for word, status, said in site.c.said
               if isinstance(word, dict) and word["says"] == says)


def cancel_mute(site):
    """While it is waited for, which is for a minute."""
    if not site.is_cancelled:
        wait_for("it was told to make ready", lambda: "prepare" in site.c.heard_of("mute-ready"), 180)
        site.a.mete("move", "cancel", "mute-ready")
        site.is_cancelled = True


def test_cancelled_while_nobody_answers(site):
    """At any time. What comes of it is seen in the end."""
    cancel_mute(site)


def test_it_never_has_what_it_has(site):
    """It says that it is short, whatever it is asked for, also of what it said that it had, little or all that can be: so many times, and
    no more."""
    def lie(_, word):
        has = {"bandwidth_bps": 8000000, "cpu_milli": 10} if word["attempt"] % 2 else {"bandwidth_bps": 2 ** 53 - 1, "cpu_milli": 1000000}
        return [reply(word, "too-little", has=has)] if word["says"] == "reserve" else [reply(word, "dropped")]
    ended = move(site, lie)
    assert ended["state"] == "refused" and ended["reason"] == "no-capacity", ended
    assert len({w["attempt"] for w in site.c.heard if w["move"] == ended["id"] and w["says"] == "reserve"}) == 4
    assert "prepare" not in site.c.heard_of(ended["id"])


def test_it_says_what_cannot_be(site):
    """Of a later attempt, of another owner's time, of what was not begun; figures and words that there are not; and of a move that is
    another's. Each is refused, and changes nothing: then it says no."""
    for _ in range(3):
        strangers, ended = nonsense(site)
        if ended["reason"] != "timeout":  # else this machine was so slow that it was over before all was said
            break
    assert (ended["state"], ended["reason"], ended["sentence"]) == ("refused", "policy", "not with me"), ended
    said = wait_for("the last word is answered, too", lambda: (of_it := [
        s for s in site.c.said if not (isinstance(s[0], dict) and s[0]["move"] in MUTE)]) and len(of_it) == 14 and of_it)
    assert said[-1][1] == 200, said
    for word, status, answer in said[:-1]:
        assert status >= 400 and answer["reason"] in REASONS, (word, status, answer)
    assert strangers[0][0] == 403 and strangers[0][1]["reason"] == "denied", strangers
    assert strangers[1][0] == 200, strangers  # nobody's: that is what d is told, at its address


def nonsense(site):
    """What another peer is answered that speaks of the move, and how that ended."""
    strangers, once = [], threading.Lock()

    def lie(_, word):
        if word["says"] != "reserve" or not once.acquire(blocking=False):
            return []
        with PlayedPeer(site.pki, "d", 3) as d:
            strangers[:] = d.say(reply(word, "dropped", reason="cancelled"), {**reply(word, "reserved"), "move": "no-such-move"})
        return [{**reply(word, "reserved"), "attempt": word["attempt"] + 1}, {**reply(word, "reserved"), "epoch": word["epoch"] + 1},
                reply(word, "running"), reply(word, "complete"), reply(word, "incoming"), reply(word, "ready", stream=closed_port(2)),
                reply(word, "reserve"), reply(word, "drop"), reply(word, "too-little", has={"bandwidth_bps": -1, "cpu_milli": 5}),
                reply(word, "dropped", reason="because"), {**reply(word, "reserved"), "vm": "mute-ready"}, "{}", "nonsense",
                reply(word, "dropped", reason="policy", sentence="not with me")]
    return strangers, move(site, lie)


def twice(stream, last):
    """It says everything twice, and that it is ready for what it is not."""
    def lie(_, word):
        said = {"reserve": [reply(word, "reserved")], "prepare": [reply(word, "ready", stream=stream)], "drop": [reply(word, "dropped")],
                "copy": last(word)}
        return 2 * said.get(word["says"], [])
    return lie


def test_nobody_takes_the_memory(site):
    """Where it is said that somebody listens nobody does: tried so many times, and no more. What is said when it is over is too late."""
    ended = move(site, twice(closed_port(2), lambda word: []))
    assert ended["state"] == "aborted" and ended["reason"] == "peer-lost" and "cannot be sent to c" in ended["sentence"], ended
    assert sorted({w["attempt"] for w in site.c.heard if w["move"] == ended["id"] and w["says"] == "prepare"}) == [1, 2, 3]
    over = [w for w in site.c.heard if w["move"] == ended["id"]][-1]
    for says in ("running", "reserved", "ready", "broken", "dropped"):
        more = {"stream": closed_port(2)} if says == "ready" else {}
        status, said = site.c.say(reply(over, says, **more))[0]
        assert status == 200 or said["reason"] in REASONS, (says, status, said)
    assert refused(site, "running"), site.c.said
    again = site.a.mete_json("move", "show", ended["id"])
    assert (again["state"], again["sentence"]) == (ended["state"], ended["sentence"])
    stays(site, site.vm, ended["id"])


def test_it_hangs_up_on_the_memory(site):
    with Sink(2, hangs_up=True) as sink:
        ended = move(site, twice(sink.stream(), lambda word: []))
    assert ended["state"] == "aborted" and ended["reason"] == "peer-lost" and sink.taken, ended


def test_it_runs_what_it_never_got(site):
    """That all of it came, and that it runs there, while nothing was sent: the guest goes on here as if nothing had been said."""
    def last(word):
        return [reply(word, "complete"), reply(word, "running"), reply(word, "broken", reason="internal", sentence="it was a lie")]
    with Sink(2) as sink:
        ended = move(site, twice(sink.stream(), last))
    assert ended["state"] == "aborted" and ended["reason"] == "internal" and ended["sentence"] == "it was a lie", ended
    assert refused(site, "running"), site.c.said


# -- whose certificate is not to be believed

def other_authority(site, base):
    other = Pki(os.path.join(base, "other")).init("--hypervisor", "d")
    return [other.file(f"d.{kind}") for kind in ("crt", "key")]


def same_name(site, base):
    """The right authority signs another key for a name that is taken."""
    for name in "ca.key", "ca.crt":
        shutil.copy(site.pki.file(name), base)
    again = Pki(base)
    again.add("--hypervisor", "d")
    return [again.file(f"d.{kind}") for kind in ("crt", "key")]


CERTIFICATES = {
    "expired": (lambda site, base: [site.pki.expired("d"), site.pki.file("d.key")], "it has expired there"),
    "other authority": (other_authority, "not signed by the authority"),
    "not the pinned one": (same_name, "not the pinned one"),
    "another's": (lambda site, base: [site.pki.file("b.crt"), site.pki.file("b.key")], "not the pinned one"),
    "none": (None, "no TLS"),
}


@pytest.mark.parametrize("which", CERTIFICATES)
def test_a_certificate_that_is_not_believed(site, which):
    """A move to it is refused with that sentence, and it is told of none."""
    make, says = CERTIFICATES[which]
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    try:
        with PlayedPeer(site.pki, "d", 3, files=make(site, base) if make else None, has_tls=make is not None) as d:
            site.usual()
            site.wait_peer(site.a, "d", "a notices", lambda p: "problem" in p and says in p["problem"])
            with pytest.raises(HostError) as e:
                site.a.mete("move", "v", "--to", "d", "--id", "nowhere")
            assert "exit 69:" in str(e.value) and "d is not reachable" in str(e.value) and says in str(e.value)
            assert d.heard == []
    finally:
        shutil.rmtree(base)
    assert "nowhere" not in [m["id"] for m in site.a.mete_json("move", "list")["moves"]]


def test_no_certificate_of_our_own(site):
    """Nobody is asked, and the sentence says which file is missing."""
    path = site.pki.file("a.crt")
    os.rename(path, path + ".away")
    try:
        site.usual()
        site.wait_peer(site.a, "c", "a notices", lambda p: not p["reachable"] and "problem" in p)
        with pytest.raises(HostError) as e:
            site.a.mete("move", "v", "--to", "c", "--id", "nowhere")
        assert "a.crt" in str(e.value) and "No such file" in str(e.value)
    finally:
        os.rename(path + ".away", path)
        site.usual()
    site.wait_peer(site.a, "c", "c is there again", lambda p: p["reachable"])
    assert site.c.heard_of("nowhere") == []


# -- who never answers

def ended(site, name):
    return wait_for(f"the move of {name} is given up", lambda: (m := site.a.mete_json("move", "show", name)) and "ended_ms" in m and m, 180, 0.2)


def test_who_never_answers(site):
    """Not to what is to be reserved, not when it is to be ready, not where the memory comes: each is given up, or cancelled by whoever
    does not want to wait, and the VM runs on."""
    cancel_mute(site)
    for name, state, reason in (("mute-reserve", "refused", "timeout"), ("mute-ready", "aborted", "cancelled"), ("mute-stream", "aborted", None)):
        said = ended(site, name)
        assert said["state"] == state and said["reason"] in ([reason] if reason else REASONS), said
        site.a.vms[name].wait_ready()
        stays(site, site.a.vms[name], name)
    texts = [e["text"] for e in site.a.events("mute-stream")]
    assert any("c has taken nothing of the memory of mute-stream for 30 s" in t for t in texts), texts
    site.a.wait_free(site.baseline)

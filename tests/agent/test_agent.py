# SPDX-License-Identifier: Apache-2.0
"""mete-agent between a fake host and applications: no VM, no root (a few tests of user ids need it)."""
import json
import os
import signal
import socket
import subprocess
import time

import pytest
from fake import AGENT, App, Refused, verdict, wait_for

NEEDS = ["cpu:2,share>=0.9", "memory:1G"]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be several users")


def reason_of(call, *args):
    with pytest.raises(Refused) as e:
        call(*args)
    assert e.value.message
    return e.value.reason


# ---- the ordinary way ----

def test_greeting(world):
    world.make_sys(online=(0, 2))
    world.start()
    hello, known = world.host.greet()
    assert hello["version"] == 1 and known == []
    assert hello["boot_id"] == open("/proc/sys/kernel/random/boot_id").read().strip()
    assert hello["state"] == {"cpus_online": [0, 2], "memory_bytes": 4 * (128 << 20)}
    app = world.app()
    wait_for("connected", lambda: app.call("hello", {"version": 1})["connected"])
    assert app.call("hello", {"version": 1})["vm"] == "v"


def test_request_grant_release(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "name": "redis", "needs": NEEDS, "counter": "less"})
    reserve = world.host.expect("reserve")["params"]
    assert reserve["request"] == "r1" and reserve["counter"] == "less"
    # The host is told in another form than the application said it, with identical values (1.2, 1.4).
    assert reserve["needs"] == [
        {"kind": "cpu", "amount": 2, "parameters": [{"name": "share", "relation": ">=", "value": 900}]},
        {"kind": "memory", "amount": 1 << 30}]
    name, pid, start = reserve["application"].split("/")
    assert (name, int(pid)) == ("redis", os.getpid())
    assert start == open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19]
    other = world.app()
    row = other.row("r1")
    assert row["state"] == "sent" and row["needs"] == NEEDS and row["uid"] == os.getuid() and row["pid"] == os.getpid()
    world.host.link.send({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert world.host.link.receive() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_whole_life(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    v = app.answer(n)
    assert v["outcome"] == "granted" and v["request"] == "r1" and v["cpus"] == [1]
    row = app.row("r1")
    assert row["state"] == "granted" and row["verdict"] == v and row["needs"] == NEEDS
    n = app.start("release", {"id": "r1"})
    release = world.host.expect("release")
    assert release["params"] == {"request": "r1", "cause": "released"}
    assert world.app().row("r1")["state"] == "releasing"
    world.host.answer(release)
    assert app.answer(n) == {}
    assert app.row("r1")["state"] == "ended"
    assert app.call("release", {"id": "r1"}) == {}  # again: no error, and the host hears nothing
    assert world.host.link.silent()


def test_id_is_made(world):
    app = world.up()
    n = app.start("request", {"needs": ["cpu:1"]})
    reserve = world.host.expect("reserve")
    assert len(reserve["params"]["request"]) == 32
    world.host.grant(reserve)
    assert app.answer(n)["request"] == reserve["params"]["request"]


@pytest.mark.parametrize("outcome,reason", [("not-now", "no-capacity"), ("never", "unsupported")])
def test_refusals(world, outcome, reason):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    reserve = world.host.expect("reserve")
    world.host.answer(reserve, verdict("r1", outcome, reason=reason))
    assert app.answer(n)["reason"] == reason
    assert app.row("r1")["state"] == "refused"
    # asked again: the same answer, without the host
    assert app.call("request", {"id": "r1", "needs": NEEDS})["outcome"] == outcome
    assert world.host.link.silent()


@pytest.mark.parametrize("reason,outcome", [("busy", "not-now"), ("invalid", "never"), ("unsupported", "never")])
def test_errors_of_the_host_are_verdicts(world, reason, outcome):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.refuse(world.host.expect("reserve"), reason, "a sentence")
    v = app.answer(n)
    assert (v["outcome"], v["reason"], v["sentence"]) == (outcome, reason, "a sentence")


def test_unknown_kinds_go_to_the_host(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": ["gpu:1,model=a100", "cpu:1,clock>=3GHz"]})
    reserve = world.host.expect("reserve")
    assert reserve["params"]["needs"] == [
        {"kind": "gpu", "amount": 1, "parameters": [{"name": "model", "relation": "=", "word": "a100"}]},
        {"kind": "cpu", "amount": 1, "parameters": [{"name": "clock", "relation": ">=", "word": "3GHz"}]}]
    world.host.answer(reserve, verdict("r1", "never", reason="unsupported"))
    assert app.answer(n)["reason"] == "unsupported"


# ---- counter-offers ----

def offered(world, app, valid_ms=60000):
    n = app.start("request", {"id": "r1", "needs": ["cpu:4"], "counter": "less"})
    world.host.answer(world.host.expect("reserve"), verdict("r1", "counter-offered", reason="no-capacity", valid_ms=valid_ms,
                                                            needs=[{"kind": "cpu", "amount": 1}]))
    v = app.answer(n)
    assert v["outcome"] == "counter-offered" and v["valid_ms"] <= valid_ms
    assert app.row("r1")["state"] == "counter-offered"


def test_accept(world):
    app = world.up()
    offered(world, app)
    n = app.start("accept", {"id": "r1"})
    accept = world.host.expect("accept")
    assert accept["params"] == {"request": "r1"}
    world.host.answer(accept, verdict("r1", "granted", needs=[{"kind": "cpu", "amount": 1}], cpus=[1]))
    assert app.answer(n)["outcome"] == "granted"
    row = app.row("r1")
    assert row["state"] == "granted" and row["needs"] == ["cpu:1"]  # what was granted
    assert app.call("accept", {"id": "r1"})["outcome"] == "granted"
    assert world.host.link.silent()


def test_accept_too_late(world):
    app = world.up()
    offered(world, app)
    n = app.start("accept", {"id": "r1"})
    world.host.refuse(world.host.expect("accept"), "stale", "the offer has lapsed")
    v = app.answer(n)
    assert (v["outcome"], v["reason"]) == ("not-now", "stale")
    assert app.row("r1")["state"] == "refused"


def test_decline(world):
    app = world.up()
    offered(world, app)
    assert app.call("decline", {"id": "r1"}) == {}
    release = world.host.expect("release")
    assert release["params"]["cause"] == "declined"
    world.host.answer(release)
    wait_for("ended", lambda: app.row("r1")["state"] == "ended")
    assert app.call("decline", {"id": "r1"}) == {}
    assert reason_of(app.call, "accept", {"id": "r1"}) == "stale"


def test_an_offer_lapses(world):
    app = world.up()
    offered(world, app, valid_ms=50)
    release = world.host.expect("release")
    assert release["params"]["cause"] == "declined"
    world.host.answer(release)
    wait_for("ended", lambda: app.row("r1")["state"] == "ended")


# ---- the application ends, or no longer waits ----

@pytest.mark.parametrize("when", ["sent", "granted"])
def test_a_killed_application_gives_back(world, when):
    app = world.up()
    child = world.child()
    n = child.start("request", {"id": "r1", "needs": NEEDS})
    reserve = world.host.expect("reserve")
    if when == "granted":
        world.host.grant(reserve)
        assert child.answer(n)["outcome"] == "granted"
    child.kill()
    release = world.host.expect("release")
    assert release["params"] == {"request": "r1", "cause": "exited"}
    if when == "sent":
        world.host.grant(reserve)  # too late, and no harm
    world.host.answer(release)
    wait_for("ended", lambda: app.row("r1")["state"] == "ended")
    assert world.host.link.silent()


def test_closing_is_not_ending(world):
    app = world.up()
    second = world.app()
    n = second.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    second.answer(n)
    second.close()
    assert world.host.link.silent()
    assert app.row("r1")["state"] == "granted"


def test_timeout(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS, "timeout_ms": 100})
    reserve = world.host.expect("reserve")
    release = world.host.expect("release")
    assert release["params"]["cause"] == "withdrawn"
    v = app.answer(n)
    assert (v["outcome"], v["reason"]) == ("not-now", "timeout")
    world.host.grant(reserve)
    world.host.answer(release)
    wait_for("ended", lambda: app.row("r1")["state"] == "ended")
    assert app.link.silent()  # exactly one answer
    assert app.call("request", {"id": "r1", "needs": NEEDS, "timeout_ms": 100})["reason"] == "timeout"


def test_release_withdraws(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.expect("reserve")
    other = world.app()
    m = other.start("release", {"id": "r1"})
    release = world.host.expect("release")
    assert release["params"]["cause"] == "withdrawn"
    v = app.answer(n)
    assert (v["outcome"], v["reason"]) == ("not-now", "cancelled")
    world.host.answer(release)
    assert other.answer(m) == {}


@pytest.mark.parametrize("reason", ["busy", "timeout", "peer-lost", "internal", "invalid"])
def test_a_release_that_fails_is_sent_again(world, reason):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    n = app.start("release", {"id": "r1"})
    world.host.refuse(world.host.expect("release"), reason, "not recorded")
    assert app.answer(n) == {}  # it is recorded here, and will be sent
    row = app.row("r1")
    assert (row["state"], row["problem"]) == ("releasing", "not recorded")
    for _ in range(2):
        release = world.host.expect("release")
        assert release["params"] == {"request": "r1", "cause": "released"}
        world.host.refuse(release, reason)
    world.host.answer(world.host.expect("release"))
    wait_for("ended", lambda: app.row("r1")["state"] == "ended")
    assert world.host.link.silent()
    assert world.text().count("answers its release with") == 1


def test_a_failed_release_is_sent_later_and_later(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    world.host.hang_up()
    app.call("release", {"id": "r1"})
    world.host.greet()
    tries, deadline = 0, time.monotonic() + 1.0
    while time.monotonic() < deadline:
        try:
            message = world.host.link.receive(0.05)
        except TimeoutError:
            continue
        tries += 1
        world.host.refuse(message, "busy")
    assert 1 <= tries <= 5  # at 0, 0.1, 0.3, 0.7 s
    restart(world)  # another host, another try
    world.host.greet()
    world.host.answer(world.host.expect("release"))
    wait_for("ended", lambda: world.app().row("r1")["state"] == "ended")


@pytest.mark.parametrize("reason", ["not-found", "stale"])
def test_a_release_of_what_the_host_does_not_have(world, reason):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    n = app.start("release", {"id": "r1"})
    world.host.refuse(world.host.expect("release"), reason)
    assert app.answer(n) == {}
    assert app.row("r1")["state"] == "ended"
    assert world.host.link.silent(0.4)


def test_the_host_ends_a_lease(world):
    app = world.up()
    child = world.child()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    world.host.notify("ended", {"request": "r1", "reason": "policy", "sentence": "taken back"})
    assert app.link.receive() == {"jsonrpc": "2.0", "method": "ended",
                                  "params": {"id": "r1", "reason": "policy", "sentence": "taken back"}}
    assert app.row("r1")["state"] == "ended"
    assert child.link.silent()  # nobody else's business
    world.host.notify("ended", {"request": "r1", "reason": "policy", "sentence": "again"})
    world.host.notify("ended", {"request": "none", "reason": "policy", "sentence": "unknown"})
    assert app.link.silent()


# ---- the agent is killed and started again ----

def restart(world):
    world.kill()
    world.start()


def test_killed_before_it_was_sent(world):
    world.host.go_away()
    world.start()
    app = world.app()
    app.start("request", {"id": "r1", "needs": NEEDS})
    row = wait_for("the row", lambda: world.app().row("r1"))
    assert row["state"] == "unsent" and row["problem"]  # the row says that it could not be sent (1.3)
    restart(world)
    app = world.app()
    assert app.row("r1")["state"] == "unsent"
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    assert app.link.silent()
    world.host.listen()
    assert world.host.greet(live=[])[1] == ["r1"]
    world.host.grant(world.host.expect("reserve"))
    assert app.answer(n)["outcome"] == "granted"
    assert world.host.link.silent()


@pytest.mark.parametrize("live", [["r1"], []])
def test_killed_after_it_was_sent(world, live):
    app = world.up()
    app.start("request", {"id": "r1", "needs": NEEDS, "name": "redis"})
    first = world.host.expect("reserve")
    restart(world)
    app = world.app()
    assert app.row("r1")["state"] == "sent"
    n = app.start("request", {"id": "r1", "needs": NEEDS, "name": "redis"})
    assert world.host.greet(live=live)[1] == ["r1"]
    again = world.host.expect("reserve")
    assert again["params"] == first["params"]
    assert again["id"] != first["id"]
    world.host.grant(again)
    assert app.answer(n)["outcome"] == "granted"
    assert app.link.silent() and world.host.link.silent()


def test_killed_after_the_verdict(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    v = app.answer(n)
    restart(world)
    assert world.host.greet()[1] == ["r1"]
    app = world.app()
    assert app.row("r1")["state"] == "granted"
    assert app.call("request", {"id": "r1", "needs": NEEDS}) == v
    assert world.host.link.silent()  # nothing is asked again


def test_killed_with_an_offer(world):
    app = world.up()
    offered(world, app)
    restart(world)
    world.host.greet()
    app = world.app()
    n = app.start("accept", {"id": "r1"})
    first = world.host.expect("accept")
    restart(world)
    app = world.app()
    world.host.greet()
    again = world.host.expect("accept")
    assert again["params"] == first["params"]
    n = app.start("accept", {"id": "r1"})
    world.host.answer(again, verdict("r1", "granted", cpus=[1]))
    assert app.answer(n)["outcome"] == "granted"


def test_killed_while_releasing(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    app.start("release", {"id": "r1"})
    world.host.expect("release")
    restart(world)
    assert world.host.greet(live=[])[1] == ["r1"]
    release = world.host.expect("release")
    assert release["params"] == {"request": "r1", "cause": "released"}
    world.host.answer(release)
    app = world.app()
    wait_for("ended", lambda: app.row("r1")["state"] == "ended")


def test_killed_and_the_application_too(world):
    world.up()
    child = world.child()
    n = child.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    child.answer(n)
    world.kill()
    child.kill()
    world.start()
    world.host.greet()
    release = world.host.expect("release")
    assert release["params"] == {"request": "r1", "cause": "exited"}
    world.host.answer(release)
    assert world.host.link.silent()


def test_an_application_dies_after_the_restart(world):
    world.up()
    child = world.child()
    n = child.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    child.answer(n)
    restart(world)
    world.host.greet()
    child.kill()
    assert world.host.expect("release")["params"]["cause"] == "exited"


def test_stopped_and_started(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.expect("reserve")
    world.agent.terminate()
    assert world.agent.wait(10) == 0
    assert app.link.receive() is None  # not refused: the next agent will answer
    world.host.hang_up()
    world.start()
    assert world.host.greet()[1] == ["r1"]
    world.host.expect("reserve")


def test_another_boot(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    world.kill()
    with open(os.path.join(world.state, "boot"), "w") as f:
        f.write("another")
    world.start()
    assert world.host.greet()[1] == []
    assert world.app().rows() == []


def test_files_that_are_none_of_ours(world):
    app = world.up()
    for i in range(3):
        n = app.start("request", {"id": f"r{i}", "needs": NEEDS})
        world.host.grant(world.host.expect("reserve"))
        app.answer(n)
    world.kill()
    with open(os.path.join(world.state, "r.r0"), "w") as f:
        f.write("{")
    row = json.load(open(os.path.join(world.state, "r.r1")))
    row["state"] = "confused"
    with open(os.path.join(world.state, "r.r1"), "w") as f:
        json.dump(row, f)
    os.mkdir(os.path.join(world.state, "r.dir"))
    os.symlink("/etc/passwd", os.path.join(world.state, "r.link"))
    with open(os.path.join(world.state, "new"), "w") as f:
        f.write("half")
    world.start()
    assert world.host.greet()[1] == ["r2"]  # the host ends the others
    assert [r["id"] for r in world.app().rows()] == ["r2"]
    assert os.path.exists(os.path.join(world.state, "bad.r0"))


# ---- the host goes away and comes back ----

def test_the_host_comes_back(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.expect("reserve")
    m = app.start("request", {"id": "r2", "needs": ["cpu:1"]})
    world.host.grant(world.host.expect("reserve"))
    assert app.answer(m)["outcome"] == "granted"
    world.host.go_away()
    wait_for("not connected", lambda: not app.call("hello", {"version": 1})["connected"])
    assert app.row("r1")["problem"]
    assert app.call("release", {"id": "r2"}) == {}  # recorded, and told to the host when it is back
    world.host.listen()
    assert sorted(world.host.greet()[1]) == ["r1", "r2"]
    got = {}
    for _ in range(2):
        message = world.host.link.receive()
        got[message["method"]] = message
    assert got["release"]["params"] == {"request": "r2", "cause": "released"}
    world.host.answer(got["release"])
    world.host.grant(got["reserve"])
    assert app.answer(n)["outcome"] == "granted"


def test_leases_that_the_host_no_longer_has(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    world.host.hang_up()
    world.host.greet(live=[])
    ended = app.link.receive()
    assert ended["method"] == "ended" and ended["params"]["id"] == "r1" and ended["params"]["reason"] == "stale"
    assert app.row("r1")["state"] == "ended"


def test_no_busy_loop_without_a_host(world):
    world.host.go_away()
    world.start()
    stat = f"/proc/{world.agent.pid}/stat"

    def ticks():
        return sum(map(int, open(stat).read().rsplit(")", 1)[1].split()[11:13]))
    before = ticks()
    time.sleep(1)
    assert ticks() - before <= 10  # a tenth of a CPU, with sanitizers


def test_resynchronises_after_half_a_line(world):
    world.start()
    link = world.host.accept()
    assert link.sock.recv(1) == b"\n"  # ends what an agent before may have left
    world.host.hang_up()
    world.host.accept()
    hello = world.host.expect("hello")
    world.host.link.send_raw(b'{"jsonrpc":"2.0","id":3,"method":"pi\n')  # our half line
    world.host.answer(hello, {"version": 1, "vm": "v"})
    message = world.host.link.receive()
    if message.get("id", 0) is None:  # the half line's own error
        message = world.host.link.receive()
    assert message["method"] == "sync"


def test_stale_answers_to_an_agent_before(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    reserve = world.host.expect("reserve")
    world.host.grant(reserve)
    app.answer(n)
    restart(world)
    link = world.host.accept()
    for number in range(1, 6):  # held back by the transport: answers to the first agent
        link.send({"jsonrpc": "2.0", "id": number, "result": {"live": []}})
    link.send({"jsonrpc": "2.0", "id": reserve["id"], "result": {"live": []}})
    world.host.greet()
    assert world.app().row("r1")["state"] == "granted"


def test_the_host_connects_anew_unseen(world):
    """On a virtio port the guest may miss that one host went and another came; it is told."""
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.expect("reserve")
    old = world.host.link
    world.host.notify("greet", {})
    world.host.link = None
    world.host.accept()
    world.host.notify("greet", {})  # before the greeting is answered: said in vain
    assert world.host.greet(live=[])[1] == ["r1"]
    old.close()
    world.host.grant(world.host.expect("reserve"))
    assert app.answer(n)["outcome"] == "granted"
    assert world.host.link.silent()


@pytest.mark.parametrize("answer", [{"version": 2, "vm": "v"}, {"version": 1}, {"version": 1, "vm": "../x"}, {}])
def test_a_greeting_that_is_wrong(world, answer):
    world.start()
    for _ in range(2):
        world.host.accept()
        world.host.answer(world.host.expect("hello"), answer)
        assert world.host.link.receive() is None  # it hangs up, and tries again after a while
        world.host.hang_up()
    world.host.greet()


def test_a_host_that_lies(world):
    app = world.up()
    for i, result in enumerate([{}, verdict("other", "granted"), {"request": "x", "outcome": "perhaps", "sentence": ""}]):
        n = app.start("request", {"id": f"r{i}", "needs": NEEDS})
        reserve = world.host.expect("reserve")
        world.host.answer(reserve, result)
        assert app.answer(n)["reason"] == "internal"
        release = world.host.expect("release")  # it may have been a grant
        assert release["params"] == {"request": f"r{i}", "cause": "withdrawn"}
        world.host.answer(release)
    for junk in [b"garbage\n", b"[]\n", b"{}\n", b'{"jsonrpc":"2.0","id":99,"result":{}}\n', b"\0\n", b"x" * 70000 + b"\n"]:
        world.host.link.send_raw(junk)
    world.host.notify("ended", {"request": 5})
    world.host.notify("unheard-of", {})
    n = app.start("request", {"id": "last", "needs": NEEDS})
    while True:
        message = world.host.link.receive()
        if message.get("method") == "reserve":
            break
        assert message["id"] is None and "error" in message
    world.host.grant(message)
    assert app.answer(n)["outcome"] == "granted"
    world.host.link.send({"jsonrpc": "2.0", "id": 5, "method": "unheard-of"})
    answer = world.host.link.receive()
    while answer["id"] is None:  # to what came before
        answer = world.host.link.receive()
    assert answer["id"] == 5 and answer["error"]["code"] == -32601


# ---- on line ----

def test_online(world):
    world.up()
    state = world.host.call("online", {"cpus": [1, 2], "memory_bytes": 0})
    cpu = os.path.join(world.sys, "devices/system/cpu")
    assert world.get(f"{cpu}/cpu1/online") == "1" and world.get(f"{cpu}/cpu2/online") == "1"
    assert "problem" not in state


def test_online_waits_for_what_appears(world):
    world.up()
    cpu, memory = (os.path.join(world.sys, "devices/system", d) for d in ("cpu", "memory"))
    world.host.link.send({"jsonrpc": "2.0", "id": 7, "method": "online",
                          "params": {"cpus": [4], "memory_bytes": 5 * (128 << 20)}})
    assert world.host.link.silent(0.1)
    os.mkdir(f"{cpu}/cpu4")
    world.put(f"{cpu}/cpu4/online", "0")
    assert world.host.link.silent(0.1)
    os.mkdir(f"{memory}/memory4")
    world.put(f"{memory}/memory4/state", "online")
    answer = world.host.link.receive()
    assert answer["id"] == 7 and answer["result"]["memory_bytes"] == 5 * (128 << 20)
    assert world.get(f"{cpu}/cpu4/online") == "1"


def test_memory_that_stays_off_line_is_put_on_line(world):
    world.up()
    state = os.path.join(world.sys, "devices/system/memory/memory3/state")
    world.put(state, "offline")
    answer = world.host.call("online", {"cpus": [], "memory_bytes": 4 * (128 << 20), "timeout_ms": 50})
    assert world.get(state) == "online_movable"  # a plain file keeps the word; sysfs would say online
    assert answer["memory_bytes"] == 3 * (128 << 20) and answer["problem"]


def test_online_in_vain(world):
    world.up()
    start = time.monotonic()
    state = world.host.call("online", {"cpus": [9], "memory_bytes": 0, "timeout_ms": 100})
    assert time.monotonic() - start > 0.09  # it was waited for
    assert "CPU 9" in state["problem"] and state["cpus_online"] == [0]


def test_offline(world):
    world.make_sys(online=(0, 1, 2))
    world.up()
    world.host.call("offline", {"cpus": [2]})
    assert world.get(os.path.join(world.sys, "devices/system/cpu/cpu2/online")) == "0"
    assert reason_of(world.host.call, "offline", {"cpus": [0]}) == "invalid"
    assert reason_of(world.host.call, "online", {"cpus": [1], "memory_bytes": -1}) == "invalid"


def test_online_is_bounded(world):
    world.up()
    for i in range(9):
        world.host.link.send({"jsonrpc": "2.0", "id": i + 1, "method": "online",
                              "params": {"cpus": [9], "memory_bytes": 0, "timeout_ms": 300}})
    first = world.host.link.receive()
    assert first["id"] == 9 and first["error"]["data"]["reason"] == "busy"
    assert sorted(world.host.link.receive()["id"] for _ in range(8)) == list(range(1, 9))


# ---- users and bounds ----

@ROOT_ONLY
def test_users(world):
    world.up()
    mine, other = world.child(uid=1000), world.child(uid=1001)
    n = mine.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    mine.answer(n)
    assert reason_of(other.call, "request", {"id": "r1", "needs": NEEDS}) == "denied"
    for method in ("release", "accept", "decline"):
        assert reason_of(other.call, method, {"id": "r1"}) == "denied"
    assert other.rows() == [] and len(mine.rows()) == 1
    root = world.app()
    assert len(root.rows()) == 1
    n = root.start("release", {"id": "r1"})
    world.host.answer(world.host.expect("release"))
    root.answer(n)


def test_same_id_other_needs(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    assert reason_of(app.call, "request", {"id": "r1", "needs": ["cpu:1"]}) == "invalid"
    assert reason_of(app.call, "request", {"id": "r1", "needs": NEEDS, "counter": "less"}) == "invalid"
    n = app.start("release", {"id": "r1"})
    world.host.answer(world.host.expect("release"))
    app.answer(n)
    assert reason_of(app.call, "request", {"id": "r1", "needs": NEEDS}) == "stale"


def test_several_wait_for_one_answer(world):
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    reserve = world.host.expect("reserve")
    others = [world.app() for _ in range(5)]
    numbers = [o.start("request", {"id": "r1", "needs": NEEDS}) for o in others]
    assert reason_of(app.answer, n) == "busy"  # the longest waiting makes room, twice
    assert reason_of(others[0].answer, numbers[0]) == "busy"
    world.host.grant(reserve)
    for o, number in list(zip(others, numbers))[1:]:
        assert o.answer(number)["outcome"] == "granted"
    assert world.host.link.silent()


def test_open_requests_of_a_user(world):
    app = world.up()
    for i in range(32):
        app.start("request", {"id": f"r{i}", "needs": ["cpu:1"]})
        world.host.expect("reserve")
    other = world.app()
    assert reason_of(other.call, "request", {"id": "more", "needs": ["cpu:1"]}) == "busy"
    other.start("release", {"id": "r0"})
    world.host.answer(world.host.expect("release"))
    other.link.receive()
    other.start("request", {"id": "more", "needs": ["cpu:1"]})
    assert world.host.expect("reserve")["params"]["request"] == "more"


def test_finished_rows_are_bounded(world):
    app = world.up()
    for i in range(60):
        n = app.start("request", {"id": f"r{i}", "needs": ["cpu:1"]})
        world.host.answer(world.host.expect("reserve"), verdict(f"r{i}", "not-now", reason="no-capacity"))
        app.answer(n)
    ids = [r["id"] for r in app.rows()]
    assert len(ids) <= 33 and ids[-1] == "r59" and "r0" not in ids
    assert len([f for f in os.listdir(world.state) if f.startswith("r.")]) == len(ids)


def test_connections_of_a_user(world):
    first = world.up()
    apps = []
    for _ in range(60):
        apps.append(world.app())
    taken = sum(is_taken(app) for app in apps)
    assert taken == 31
    assert first.call("hello", {"version": 1})["version"] == 1
    for app in apps:
        app.close()
    wait_for("room again", lambda: can_hello(world))


def is_taken(app):
    """Whether the agent speaks with this connection; else it has said why not, and closed it."""
    try:
        app.start("hello", {"version": 1})
    except BrokenPipeError:
        pass
    message = app.link.receive()
    if "result" in message:
        return True
    assert message["id"] is None and message["error"]["data"]["reason"] == "busy"
    assert app.link.receive() is None
    return False


def can_hello(world):
    app = App(world.socket)
    try:
        app.call("hello", {"version": 1})
        return True
    except (AssertionError, OSError):
        return False
    finally:
        app.close()


def test_a_flood_is_slowed_down(world):
    app = world.up()
    flood = world.app()
    message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {"version": 1}}).encode() + b"\n"
    flood.link.sock.settimeout(20)
    flood.link.send_raw(message * 1500)
    for _ in range(20000):  # an agent on a busy machine may be slower than the limit for a while
        if "error" in flood.link.receive():
            break
        flood.link.send_raw(message)
    else:
        pytest.fail("it was never told to slow down")
    for _ in range(20):
        app.call("hello", {"version": 1})  # nobody else suffers


def test_requests_of_a_user_are_slowed_down(world):
    app = world.up()
    apps = [world.app() for _ in range(4)]
    reasons = []
    for _ in range(40):  # more at once than a user may; again, where this machine was slower than what is allowed
        numbers = [(a, a.start("release", {"id": "none"})) for _ in range(200) for a in apps]
        for a, number in numbers:
            with pytest.raises(Refused) as e:
                a.answer(number)
            reasons.append(e.value.reason)
        if "busy" in reasons:
            break
    assert set(reasons) == {"not-found", "busy"}


def test_one_that_does_not_read(world):
    app = world.up()
    deaf = world.app()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    world.host.grant(world.host.expect("reserve"))
    app.answer(n)
    deaf.link.sock.settimeout(1)
    try:
        for i in range(800):
            deaf.start("list")
    except (socket.timeout, OSError):
        pass
    assert app.call("hello", {"version": 1})["connected"]
    rss = int([l for l in open(f"/proc/{world.agent.pid}/status") if l.startswith("VmRSS")][0].split()[1])
    assert rss < 400000  # KiB, with the sanitizer's shadow


BAD_LINES = [
    (b"garbage", -32700), (b"{", -32700), (b"\x00", -32700), (b"\xff\xfe", -32700), (b"x" * 70000, -32700),
    (b"[]", -32600), (b"5", -32600), (b"{}", -32600), (b'{"jsonrpc":"1.0","id":1,"method":"list"}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"list","method":"list"}', -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"list","extra":1}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"list","params":[]}', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"list","params":{"x":1}}', -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"unheard-of"}', -32601),
    (b'{"jsonrpc":"2.0","id":1,"method":"ended","params":{}}', -32601),
    (b'{"jsonrpc":"2.0","id":1,"method":"list","params":' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}", -32700),
    (b"[" * 30000, -32700),
]


@pytest.mark.parametrize("line,code", BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_lines(world, line, code):
    app = world.up()
    bad = world.app()
    bad.link.send_raw(line + b"\n")
    answer = bad.link.receive()
    assert answer["error"]["code"] == code and answer["error"]["message"]
    assert bad.call("list") == {"rows": []}  # the connection goes on
    assert app.call("list") == {"rows": []}


BAD_PARAMS = [
    ("request", {}), ("request", {"needs": []}), ("request", {"needs": ["cpu:1"] * 5}), ("request", {"needs": "cpu:1"}),
    ("request", {"needs": [1]}), ("request", {"needs": [""]}), ("request", {"needs": ["cpu"]}),
    ("request", {"needs": ["cpu:0"]}), ("request", {"needs": ["cpu:-1"]}), ("request", {"needs": ["cpu:1e9"]}),
    ("request", {"needs": ["cpu:99999999999999999999"]}), ("request", {"needs": ["memory:9007199254740992"]}),
    ("request", {"needs": ["x" * 200]}), ("request", {"needs": ["cpu:1\n"]}), ("request", {"needs": ["cpu:1,share>=0"]}),
    ("request", {"needs": ["cpu:1"], "timeout_ms": 0}), ("request", {"needs": ["cpu:1"], "timeout_ms": 1.5}),
    ("request", {"needs": ["cpu:1"], "timeout_ms": 10 ** 12}), ("request", {"needs": ["cpu:1"], "counter": "more"}),
    ("request", {"needs": ["cpu:1"], "id": ""}), ("request", {"needs": ["cpu:1"], "id": "a b"}),
    ("request", {"needs": ["cpu:1"], "id": "x" * 64}), ("request", {"needs": ["cpu:1"], "id": "../../etc"}),
    ("request", {"needs": ["cpu:1"], "name": "x" * 32}), ("request", {"needs": ["cpu:1"], "name": "a\nb"}),
    ("request", {"needs": ["cpu:1"], "unknown": 1}), ("request", {"needs": ["cpu:1"], "timeout_ms": True}),
    ("release", {}), ("release", {"id": 5}), ("accept", {"id": ""}), ("decline", {"id": "x", "y": 1}),
    ("hello", {}), ("hello", {"version": 0}), ("hello", {"version": "1"}),
]


def test_bad_params(world):
    app = world.up()
    for method, params in BAD_PARAMS:
        assert reason_of(app.call, method, params) == "invalid", (method, params)
    assert reason_of(app.call, "release", {"id": ".."}) == "not-found"
    assert app.rows() == []
    assert world.host.link.silent()


def test_half_messages_and_thousands_of_connections(world):
    app = world.up()
    for i in range(2000):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            s.connect(world.socket)
            s.send(b'{"jsonrpc":"2.0","id":1,"met')
        except OSError:
            pass
        s.close()
    assert app.call("hello", {"version": 1})["connected"]


def test_ids_that_look_like_paths(world):
    app = world.up()
    for request in ("..", ".", "new", "boot", "r.x"):
        n = app.start("request", {"id": request, "needs": ["cpu:1"]})
        world.host.grant(world.host.expect("reserve"))
        app.answer(n)
    restart(world)
    assert sorted(world.host.greet()[1]) == sorted(["..", ".", "new", "boot", "r.x"])


# ---- the program itself ----

@ROOT_ONLY
def test_a_full_disk(world):
    os.mkdir(world.state)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", world.state], check=True)
    try:
        app = world.up()
        n = app.start("request", {"id": "r1", "needs": NEEDS})
        reserve = world.host.expect("reserve")
        filler = os.path.join(world.state, "filler")
        with open(filler, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"x" * 4096)
            except OSError:
                pass
        assert reason_of(app.call, "request", {"id": "r2", "needs": NEEDS}) == "internal"
        assert world.host.link.silent(0.1)  # what is not recorded is not sent
        world.host.grant(reserve)  # what was sent before is still served
        assert app.answer(n)["outcome"] == "granted"
        os.unlink(filler)
        wait_for("written again", lambda: json.load(open(os.path.join(world.state, "r.r1")))["state"] == "granted")
        world.agent.terminate()
        assert world.agent.wait(10) == 0
    finally:
        if world.agent.poll() is None:
            world.kill()
        subprocess.run(["umount", world.state], check=True)


def test_a_second_agent(world):
    world.up()
    p = subprocess.run([AGENT, "--socket", world.socket, "--port", "unix:/nonexistent", "--state", world.state],
                       stderr=subprocess.PIPE, text=True, timeout=10)
    assert p.returncode == 1 and world.socket in p.stderr
    assert world.can_connect()


def test_command_line():
    for args, status, text in [(["--version"], 0, "mete-agent 0."), (["--help"], 0, "--socket"),
                               (["--unknown"], 64, "unknown"), (["--socket"], 64, "argument"), (["x"], 64, "operands"),
                               (["--log", "loud"], 64, "loud")]:
        p = subprocess.run([AGENT, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
        assert p.returncode == status and text in p.stdout, (args, p.stdout)


# ---- held for the application (1.15) ----

MEMORY = 128 << 20


def granted(world, reserve, cpus=(1,), memory=MEMORY):
    world.host.answer(reserve, verdict(reserve["params"]["request"], "granted", needs=reserve["params"]["needs"],
                                       cpus=list(cpus), memory_bytes=memory))


def test_held_before_the_answer_and_not_after_the_release(world):
    world.make_groups()
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    reserve = world.host.expect("reserve")
    assert world.held() is None
    granted(world, reserve)
    assert "fallbacks" not in app.answer(n)
    held = world.held()
    assert held["cpuset.cpus"] == "1" and held["cpuset.cpus.partition"] == "root" and held["memory.min"] == str(MEMORY)
    assert str(os.getpid()) in held["cgroup.procs"].split()
    n = app.start("release", {"id": "r1"})
    release = world.host.expect("release")
    assert world.held() is None  # before the host could take anything back
    assert str(os.getpid()) in world.get(f"{world.groups}/cgroup.procs").split()
    world.host.answer(release)
    app.answer(n)


@pytest.mark.parametrize("how", ["ended", "exit", "restart", "restart-ended"])
def test_held_as_long_as_the_lease_lasts(world, how):
    world.make_groups()
    world.up()
    child = world.child()
    for request, cpus in (("r1", (1,)), ("r2", (2, 3))):
        n = child.start("request", {"id": request, "needs": NEEDS})
        granted(world, world.host.expect("reserve"), cpus)
        child.answer(n)
    assert world.held()["cpuset.cpus"] == "1-3" and world.held()["memory.min"] == str(2 * MEMORY)
    assert world.held()["cgroup.procs"] == str(child.process.pid)
    if how == "ended":
        world.host.notify("ended", {"request": "r1", "reason": "policy", "sentence": "over"})
        wait_for("one is left", lambda: [world.held()[f] for f in ("cpuset.cpus", "memory.min")] == ["2-3", str(MEMORY)])
    elif how == "exit":
        child.kill()
        assert {world.host.expect("release")["params"]["request"] for _ in range(2)} == {"r1", "r2"}
        wait_for("nothing is held", lambda: world.held() is None)
    else:
        before = world.held()
        world.kill()
        if how == "restart":
            world.start()
            # it is told whole again, and a made-up file is empty for a moment while that is written
            wait_for("the same is held", lambda: world.held() == before)
            world.host.greet()
        else:
            child.kill()  # while no agent looks
            world.start()
            wait_for("nothing is held", lambda: world.held() is None)


def test_a_vcpu_that_goes_off_line_is_let_go_of(world):
    """Also where the host takes it back without a word about the lease."""
    world.make_groups()
    world.put(f"{world.sys}/devices/system/cpu/cpu1/online", "1")
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    granted(world, world.host.expect("reserve"))
    app.answer(n)
    world.host.call("offline", {"cpus": [1]})
    assert world.held()["cpuset.cpus.partition"] == "member" and world.held()["memory.min"] == str(MEMORY)


def test_what_is_not_held_is_said(world):
    """By a guest without control groups, among what the host says already; in the log once."""
    app = world.up()
    n = app.start("request", {"id": "r1", "needs": NEEDS})
    reserve = world.host.expect("reserve")
    world.host.answer(reserve, verdict("r1", "granted", cpus=[1], memory_bytes=MEMORY,
                                       fallbacks=[f"fallback {i}" for i in range(8)]))
    said = app.answer(n)["fallbacks"]
    assert len(said) == 8 and said[:7] == [f"fallback {i}" for i in range(7)]
    assert said[7] == "vCPUs and memory are not held for the application alone: no control groups that can be written"
    assert app.row("r1")["verdict"]["fallbacks"] == said
    assert world.text().count("no control groups") == 1

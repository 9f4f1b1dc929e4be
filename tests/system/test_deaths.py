# SPDX-License-Identifier: Apache-2.0
"""Somebody dies in the middle: applications, agents, meted, the keeper, guests. Capacity returns exactly once (1.14)."""
import os
import signal
import subprocess
import time

import pytest
from app import App, AppError
from host import wait_for
from test_negotiation import ended_once, names


def test_application_killed(host, guest):
    """SIGKILL: no code of the application runs, and its lease ends all the same."""
    app = App(guest, "victim")
    assert app.call("request", {"id": "victim", "needs": ["cpu:1", "memory:128M"]})["outcome"] == "granted"
    app.kill()
    ended_once(host, "victim")
    assert "exited" in " ".join(e["text"] for e in host.events("victim"))
    wait_for("the vCPU is off line", lambda: guest.cpus_online() == 1)


def test_command_of_mete_run_killed(host, guest):
    guest.console.start("run", "mete run --need memory:128M -- sleep 1000")
    wait_for("granted", lambda: any(le["state"] == "granted" for le in host.leases() if "/" in le["holder"]), 20, 0.1)
    trace = next(le["request"] for le in host.leases() if "/" in le["holder"])
    guest.run("killall -9 mete sleep")
    ended_once(host, trace)


def test_application_killed_while_it_waits(host, guest):
    app = App(guest, "waits")
    app.start("request", {"id": "waits", "needs": ["cpu:1"]})
    wait_for("it is reserved", lambda: host.events("waits"), 5)
    app.kill()
    ended_once(host, "waits")
    assert guest.run("true")[0] == 0


def test_agent_killed(host, guest):
    """The lease of a living application survives its agent; that application is still noticed when it ends."""
    app = App(guest, "survivor", stay=True)
    assert app.call("request", {"id": "survivor", "needs": ["cpu:1"]})["outcome"] == "granted"
    before = host.last_event()
    guest.check("kill -9 $(pidof mete-agent)")
    wait_for("the agent greets again", lambda: "agent" in names(host.events(after=before)), 20)
    guest.check("for i in $(seq 100); do [ -S /run/mete/agent.sock ] && mete leases >/dev/null 2>&1 && break; "
                "usleep 100000; done; mete leases")
    time.sleep(1)
    assert [c["state"] for c in host.claims("vm:v/survivor")] == ["active"]
    assert guest.cpus_online() == 2
    assert "survivor" in guest.check("mete leases --json")
    app.kill()
    ended_once(host, "survivor")


def test_application_ends_while_the_agent_is_away(host, guest):
    app = App(guest, "orphan")
    assert app.call("request", {"id": "orphan", "needs": ["memory:128M"]})["outcome"] == "granted"
    guest.check("touch /run/no-agent; kill -9 $(pidof mete-agent)")
    app.kill()
    time.sleep(0.5)
    # nobody can know yet, so nothing is given away
    assert host.claims("vm:v/orphan")
    guest.check("rm /run/no-agent")
    ended_once(host, "orphan")


def test_meted_killed_between_requests(host, guest):
    """The VM is unharmed, what was granted is still granted, and the same question has the same answer."""
    with App(guest, "steady") as app:
        before = app.call("request", {"id": "steady", "needs": ["cpu:1", "memory:128M"]})
        assert before["outcome"] == "granted"
        pid, uptime = guest.pid(), float(guest.check("cut -d' ' -f1 /proc/uptime"))
        claims = host.claims()
        host.kill_meted()
        assert guest.cpus_online() == 2
        host.start_meted()
        guest.wait_agent()
        assert host.claims() == claims
        assert guest.pid() == pid and os.path.exists(f"/proc/{pid}")
        assert float(guest.check("cut -d' ' -f1 /proc/uptime")) > uptime
        assert app.call("request", {"id": "steady", "needs": ["cpu:1", "memory:128M"]}) == before
        app.call("release", {"id": "steady"})
    ended_once(host, "steady")


def test_meted_stopped_and_started(host, guest):
    """SIGTERM: a clean end with status 0; VMs outlive it and are adopted again."""
    pid = guest.pid()
    assert host.kill_meted(signal.SIGTERM) == 0
    host.start_meted()
    guest.wait_agent()
    assert guest.pid() == pid
    assert guest.run("mete run --need memory:128M -- true")[0] == 0


def test_application_ends_while_meted_is_away(host, guest):
    app = App(guest, "unseen")
    assert app.call("request", {"id": "unseen", "needs": ["memory:128M"]})["outcome"] == "granted"
    host.kill_meted()
    app.kill()
    time.sleep(0.5)
    host.start_meted()
    ended_once(host, "unseen")


def test_guest_killed_while_meted_is_away(host, guest):
    app = App(guest, "gone")
    assert app.call("request", {"id": "gone", "needs": ["memory:128M"]})["outcome"] == "granted"
    pid = guest.pid()
    host.kill_meted()
    os.kill(pid, signal.SIGKILL)
    host.start_meted()
    wait_for("the death is noticed", lambda: guest.show()["state"] == "stopped", 20, 0.1)
    ended_once(host, "gone")
    assert host.claims() == []


def test_keeper_killed(host, guest):
    """VMs do not notice. What needs the keeper waits or is refused, and is granted when it is back."""
    pid = guest.pid()
    with App(guest, "keeperless") as app:
        assert app.call("request", {"id": "held", "needs": ["cpu:1"]})["outcome"] == "granted"
        host.kill_keeper()
        assert guest.cpus_online() == 2
        number = app.start("request", {"id": "asked", "needs": ["memory:128M"], "timeout_ms": 60000})
        time.sleep(1)
        status, _ = host.http("GET", "/health")
        assert status == 200  # it answers, and says what is wrong in the body
        host.start_keeper()
        verdict = app.answer(number, 90)
        assert verdict["outcome"] in ("granted", "not-now")
        if verdict["outcome"] == "not-now":
            assert verdict["reason"] in ("peer-lost", "timeout", "internal", "busy")
        host.wait_meted()
        assert app.call("request", {"id": "after", "needs": ["memory:128M"]}, 60)["outcome"] == "granted"
    for trace in ("held", "after"):
        ended_once(host, trace)
    assert guest.pid() == pid


def test_keeper_killed_while_a_vm_is_stopped(host, guest):
    """A VM whose VMM ends while the keeper is away is cleaned up when the keeper is back."""
    host.kill_keeper()
    os.kill(guest.pid(), signal.SIGKILL)
    time.sleep(0.5)
    host.start_keeper()
    wait_for("everything is back", lambda: not host.claims(), 30, 0.1)
    assert guest.show()["state"] == "stopped"


def test_guest_killed(host, guest):
    """SIGKILL of the VMM: leases end, the base comes back, and the VM can start again."""
    with App(guest, "dies") as app:
        assert app.call("request", {"id": "dies", "needs": ["cpu:1", "memory:128M"]})["outcome"] == "granted"
        pid = guest.pid()
        os.kill(pid, signal.SIGKILL)
        wait_for("the death is noticed", lambda: guest.show()["state"] == "stopped", 20, 0.02)
        guest.disconnect()
        try:
            app.close()
        except Exception:  # its guest is gone
            pass
    ended_once(host, "dies")
    assert host.claims() == []
    assert guest.show()["ended"]
    guest.start()
    assert guest.cpus_online() == 1


def test_guest_reboots(host, guest):
    """Its processes are gone, and so are their leases; the VM goes on."""
    app = App(guest, "before")
    assert app.call("request", {"id": "before", "needs": ["memory:128M"]})["outcome"] == "granted"
    pid = guest.pid()
    guest.console.start("reboot", "sleep 0.2; reboot -f")
    guest.disconnect()
    ended_once(host, "before")
    guest.wait_ready()
    assert guest.pid() == pid
    assert guest.run("mete run --need memory:128M -- true")[0] == 0


def test_guest_powers_off(host, guest):
    app = App(guest, "off")
    assert app.call("request", {"id": "off", "needs": ["memory:128M"]})["outcome"] == "granted"
    guest.stop()
    assert guest.show()["state"] == "stopped"
    ended_once(host, "off")
    assert host.claims() == []


def test_guest_does_not_answer(host, guest):
    """A guest whose agent is stopped: nothing of its is given away before it is back, others are served meanwhile, and it
    goes on where it was."""
    with App(guest, "mute") as app:
        assert app.call("request", {"id": "mute", "needs": ["cpu:1"]})["outcome"] == "granted"
        claims, before = host.claims("vm:v/mute"), host.last_event()
        agent = guest.check("pidof mete-agent")
        guest.check(f"kill -STOP {agent}")
        try:
            app.kill()  # nobody tells the host, so that the lease stays
            host.mete("reserve", "beside", "--need", "memory:128M")
            host.mete("unreserve", "beside")
            assert host.claims("vm:v/mute") == claims and host.get("/health")["ok"]
            assert not [e for e in host.events("mute", before)], "something happened to a lease that nobody touched"
        finally:
            guest.check(f"kill -CONT {agent}")
    ended_once(host, "mute")
    assert guest.check("pidof mete-agent") == agent
    wait_for("the vCPU is off line", lambda: guest.cpus_online() == 1)


def test_two_guests_compete(host, guest):
    """One free CPU, two guests: exactly one is granted, and the other is when the first has released."""
    rival = host.vm("w", cpus="1..3", memory="256M..512M", share="0.05")
    free = host.free()
    try:
        for turn in range(3):
            with App(guest, "mine") as mine, App(rival, "theirs") as theirs:
                # all but half of one CPU is taken, so that only one of them can have a CPU's 0.9
                host.mete("reserve", f"fill-{turn}", "--need", "cpu:1,share>=0.85")
                need = {"needs": ["cpu:1,share>=0.85"]}
                a = mine.start("request", {"id": f"a-{turn}", **need})
                b = theirs.start("request", {"id": f"b-{turn}", **need})
                verdicts = [mine.answer(a), theirs.answer(b)]
                assert sorted(v["outcome"] for v in verdicts) == ["granted", "not-now"], verdicts
                assert [v["reason"] for v in verdicts if v["outcome"] == "not-now"] == ["no-capacity"]
                winner, loser, name = (mine, theirs, f"a-{turn}") if verdicts[0]["outcome"] == "granted" else (
                    theirs, mine, f"b-{turn}")
                winner.call("release", {"id": name})
                ended_once(host, name)
                assert loser.call("request", {"id": f"c-{turn}", **need})["outcome"] == "granted"
                loser.call("release", {"id": f"c-{turn}"})
                ended_once(host, f"c-{turn}")
                host.mete("unreserve", f"fill-{turn}")
        host.wait_free(free)
    finally:
        rival.kill()
        host.mete("vm", "delete", "w")
        del host.vms["w"]


def test_reservations_survive(host, guest):
    """A reservation, and a window in the future, are the same after a kill of meted."""
    host.mete("reserve", "now", "--need", "cpu:1,share>=0.3")
    host.mete("reserve", "later", "--need", "memory:512M", "--start", "1h", "--for", "1h")
    claims = host.claims()
    host.kill_meted()
    host.start_meted()
    assert host.claims() == claims
    assert host.mete("reserve", "now", "--need", "cpu:1,share>=0.3").returncode == 0
    assert host.claims() == claims
    host.mete("unreserve", "now")
    host.mete("unreserve", "later")


def test_errors_name_the_socket_where_meted_is_away(host, guest):
    host.kill_meted()
    try:
        p = host.mete("ledger", check=False)
        assert p.returncode == 69 and host.socket in p.stderr
        for path, words in ((host.path("none.sock"), "meted is not running"), (host.path("mete.conf"), "no socket")):
            p = subprocess.run([host.path("bin", "mete"), "ledger"], env={**os.environ, "METE_SOCKET": path},
                               capture_output=True, text=True)
            assert p.returncode == 69 and path in p.stderr and words in p.stderr and "METE_SOCKET" in p.stderr
    finally:
        host.start_meted()
        guest.wait_agent()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_following_events_ends_when_meted_does(host, guest, sig):
    last = host.last_event()
    p = subprocess.Popen([host.path("bin", "mete"), "events", "--follow", f"--after={last}", "--socket", host.socket],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        name = f"followed-{int(sig)}"
        host.mete("reserve", name, "--need", "cpu:1,share>=0.1")
        host.mete("unreserve", name)
        wait_for("it follows", lambda: name in p.stdout.readline())
        host.kill_meted(sig)
        out, words = p.communicate(timeout=20)
        assert p.returncode == 69 and f"meted at {host.socket} has gone" in words and "--after" in words, words
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()
        host.start_meted()
        guest.wait_agent()


def test_the_agent_says_when_its_host_is_away(host, guest):
    host.kill_meted()
    try:
        with App(guest, "alone") as app:
            number = app.start("request", {"id": "alone", "needs": ["memory:128M"], "timeout_ms": 2000})
            verdict = app.answer(number)
            assert (verdict["outcome"], verdict["reason"]) == ("not-now", "peer-lost")
    except AppError as refused:
        assert refused.reason in ("peer-lost", "timeout")
    finally:
        host.start_meted()
        guest.wait_agent()

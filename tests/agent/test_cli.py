# SPDX-License-Identifier: Apache-2.0
"""`mete` in a guest: run, requests, leases, release, against a real agent and a fake host."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import pytest
from fake import BUILD, Refused, verdict, wait_for

METE = os.path.join(BUILD, "src/cli/mete-guest")


class Mete:
    def __init__(self, world, *args, stdin=subprocess.DEVNULL):
        self.p = subprocess.Popen([METE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=stdin,
                                  text=True, env={**os.environ, "METE_SOCKET": world.socket})

    def end(self, timeout_s=20):
        out, err = self.p.communicate(timeout=timeout_s)
        return self.p.returncode, out, err


@pytest.fixture
def mete(world):
    world.up()
    started = []

    def start(*args, **more):
        started.append(Mete(world, *args, **more))
        return started[-1]
    yield start
    for m in started:
        if m.p.poll() is None:
            m.p.kill()
            m.p.wait()


def granted(world, m, **more):
    reserve = world.host.expect("reserve")
    world.host.answer(reserve, verdict(reserve["params"]["request"], "granted", needs=reserve["params"]["needs"],
                                       **{"cpus": [1, 3], "memory_bytes": 128 << 20, **more}))
    return reserve


def released(world, cause="released"):
    release = world.host.expect("release")
    assert release["params"]["cause"] == cause
    world.host.answer(release)


def test_run(world, mete):
    m = mete("run", "--need", "cpu:2,share>=0.9", "--need", "memory:128M", "--name", "job", "--verbose", "--", "sh", "-c",
             "echo $METE_CPUS $METE_MEMORY_BYTES $METE_REQUEST; exit 7")
    reserve = granted(world, m, fallbacks=["overcommitted CPUs"])
    assert reserve["params"]["application"].startswith("job/") and "counter" not in reserve["params"]
    released(world)
    status, out, err = m.end()
    assert status == 7 and out == f"1,3 {128 << 20} {reserve['params']['request']}\n" and "overcommitted" in err


@pytest.mark.parametrize("command,status", [(["true"], 0), (["sh", "-c", "kill -9 $$"], 137), (["/nonexistent/x"], 127),
                                            (["/etc/passwd"], 126), (["sh", "-c", "kill -TERM $$"], 143)])
def test_exit_status(world, mete, command, status):
    m = mete("run", "--need", "cpu:1", "--", *command)
    granted(world, m)
    released(world)
    assert m.end()[0] == status


@pytest.mark.parametrize("outcome,reason,status", [
    ("not-now", "no-capacity", 75), ("not-now", "busy", 75), ("never", "unsupported", 78), ("never", "policy", 77),
    ("never", "no-capacity", 78), ("not-now", "cancelled", 75), ("not-now", "internal", 70)])
def test_refused(world, mete, outcome, reason, status):
    m = mete("run", "--need", "cpu:1", "--", "touch", os.path.join(world.dir, "ran"))
    reserve = world.host.expect("reserve")
    world.host.answer(reserve, verdict(reserve["params"]["request"], outcome, reason=reason, sentence="because"))
    got, out, err = m.end()
    assert got == status and "because" in err and reason in err
    assert not os.path.exists(os.path.join(world.dir, "ran"))


@pytest.mark.parametrize("or_less", [True, False])
def test_counter_offer(world, mete, or_less):
    m = mete("run", *(["--or-less"] if or_less else []), "--need", "cpu:4", "--", "echo", "ran")
    reserve = world.host.expect("reserve")
    assert reserve["params"].get("counter") == ("less" if or_less else None)
    request = reserve["params"]["request"]
    world.host.answer(reserve, verdict(request, "counter-offered", reason="no-capacity", valid_ms=60000,
                                       needs=[{"kind": "cpu", "amount": 1}]))
    if or_less:
        world.host.answer(world.host.expect("accept"), verdict(request, "granted", cpus=[1]))
        released(world)
        assert m.end()[:2] == (0, "ran\n")
    else:
        released(world, "exited")  # the process that asked has gone, and so has its offer
        assert m.end()[:2] == (75, "")


def test_timeout(world, mete):
    m = mete("run", "--timeout", "100ms", "--need", "cpu:1", "--", "true")
    world.host.expect("reserve")
    released(world, "withdrawn")
    status, out, err = m.end()
    assert status == 75 and "timeout" in err


def test_host_is_away(world, mete):
    """69, not 75: it is not for want of capacity. And '--' may be left out."""
    world.host.go_away()
    status, out, err = mete("run", "--timeout", "300ms", "--need", "cpu:1", "echo", "ran").end()
    assert status == 69 and out == "" and "the host could not be reached in time (peer-lost)" in err


def test_command_without_dashes(world, mete):
    m = mete("run", "--need", "cpu:1", "echo", "--need", "ran")
    granted(world, m)
    released(world)
    assert m.end()[:2] == (0, "--need ran\n")


def test_signals_reach_the_command(world, mete):
    m = mete("run", "--need", "cpu:1", "--", "sh", "-c", "trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    granted(world, m)
    assert m.p.stdout.readline() == "up\n"
    m.p.send_signal(signal.SIGTERM)
    released(world)
    assert m.end()[:2] == (5, "got\n")


def test_a_signal_before_the_verdict(world, mete):
    m = mete("run", "--need", "cpu:1", "--", "true")
    world.host.expect("reserve")
    m.p.send_signal(signal.SIGINT)
    released(world, "exited")
    assert m.end()[0] == 130


def test_killed_with_its_command(world, mete):
    m = mete("run", "--need", "cpu:1", "--", "sh", "-c", "echo $$; exec sleep 1000")
    granted(world, m)
    child = int(m.p.stdout.readline())
    m.p.kill()
    released(world, "exited")
    wait_for("the command is gone", lambda: not os.path.exists(f"/proc/{child}") or
             open(f"/proc/{child}/stat").read().rsplit(")", 1)[1].split()[0] == "Z")


def test_the_agent_is_killed_meanwhile(world, mete):
    m = mete("run", "--need", "cpu:1", "--", "sh", "-c", "echo up; sleep 1; echo done")
    first = world.host.expect("reserve")
    world.kill()
    world.start()
    world.host.greet()
    again = world.host.expect("reserve")
    assert again["params"] == first["params"]
    world.host.grant(again)
    assert m.p.stdout.readline() == "up\n"
    world.kill()
    world.start()
    world.host.greet()
    released(world)
    assert m.end()[:2] == (0, "done\n")


def test_no_agent(world):
    m = Mete(world, "run", "--need", "cpu:1", "--", "true")
    status, out, err = m.end()
    assert status == 69 and "no agent" in err
    assert Mete(world, "requests").end()[0] == 69


def test_the_host_takes_it_back(world, mete):
    m = mete("run", "--need", "cpu:1", "--", "sh", "-c", "echo up; sleep 0.5")
    reserve = granted(world, m)
    assert m.p.stdout.readline() == "up\n"
    world.host.notify("ended", {"request": reserve["params"]["request"], "reason": "policy", "sentence": "taken back"})
    status, out, err = m.end()
    request = reserve["params"]["request"]
    assert status == 0
    assert err == f"mete run: the lease {request} has ended: taken back (policy); sh keeps running without it\n"


def test_released_elsewhere(world, mete):
    m = mete("run", "--need", "cpu:1", "--id", "r1", "--", "sh", "-c", "echo up; read x; echo down", stdin=subprocess.PIPE)
    granted(world, m)
    assert m.p.stdout.readline() == "up\n"
    other = mete("release", "r1")
    released(world)
    assert other.end()[0] == 0
    told = m.p.stderr.readline()
    assert "the lease r1 has ended" in told and "released by mete" in told and "(cancelled); sh keeps running without it" in told
    m.p.stdin.write("go on\n")
    m.p.stdin.flush()
    status, out, err = m.end()
    assert (status, out, err) == (0, "down\n", "")
    assert world.host.link.silent()  # nothing is given back twice


class Peer:
    """Somebody at the agent's path: takes connections, and says what it is told to; False closes."""

    def __init__(self, path, says):
        self.says, self.n = says, 0
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(64)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                s = self.listener.accept()[0]
            except OSError:
                return
            self.n += 1
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        with s, s.makefile("rb") as lines:
            for line in lines:
                text = self.says(json.loads(line))
                if text is False:
                    s.shutdown(socket.SHUT_RDWR)
                    break
                s.sendall(text)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def welcome(message):
    if message["method"] != "hello":
        return b""
    return json.dumps({"jsonrpc": "2.0", "id": message["id"],
                       "result": {"version": 1, "agent": "0", "connected": True}}).encode() + b"\n"


@pytest.fixture
def peer(world):
    peers = []

    def start(says):
        peers.append(Peer(world.socket, says))
        return peers[-1]
    yield start
    for p in peers:
        p.close()


def test_an_agent_that_drops_for_ever(world, peer):
    p = peer(lambda message: welcome(message) or False)
    status, out, err = Mete(world, "run", "--timeout", "100ms", "--need", "cpu:1", "--", "true").end()
    assert status == 69 and "the agent is gone" in err
    assert 3 <= p.n <= 12  # later and later


def test_an_agent_that_never_decides(world, peer):
    peer(welcome)
    status, out, err = Mete(world, "run", "--timeout", "100ms", "--need", "cpu:1", "--", "true").end()
    assert status == 75 and "does not answer" in err


HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("says,verb", [(HTTP, ["run", "--need", "cpu:1", "--", "true"]), (HTTP, ["requests"]),
                                       (HTTP, ["release", "r1"]), (b"", ["agent"])])
def test_somebody_else_listens(world, peer, says, verb):
    peer(lambda message: says)
    status, out, err = Mete(world, *verb).end()
    assert status == 69
    assert err == (f"mete {verb[0]}: {world.socket} did not answer as mete-agent does; is METE_SOCKET meted's socket? "
                   "(peer-lost)\n")


def test_too_many_connections(world, mete):
    apps = [world.app() for _ in range(31)]
    apps[-1].call("hello", {"version": 1})
    for verb in (["run", "--need", "cpu:1", "--", "true"], ["requests"], ["agent"]):
        status, out, err = mete(*verb).end()
        assert status == 75 and "too many connections" in err and "(busy)" in err


def test_lists_and_release(world, mete):
    app = world.app()
    n = app.start("request", {"id": "r1", "name": "a\u00fc", "needs": ["cpu:2", "memory:128M"]})
    granted(world, None)
    app.answer(n)
    n = app.start("request", {"id": "r2", "needs": ["cpu:2"]})
    world.host.refuse(world.host.expect("reserve"), "no-capacity", "full")
    app.answer(n)
    status, out, err = mete("requests").end()
    assert status == 0 and "r1" in out and "r2" in out and "no-capacity" in out and "full" in out
    status, out, err = mete("leases").end()
    assert status == 0 and "r1" in out and "r2" not in out and "1,3" in out and "128M" in out
    rows = json.loads(mete("requests", "--json").end()[1])["rows"]
    assert [r["id"] for r in rows] == ["r1", "r2"]
    assert [r["id"] for r in json.loads(mete("leases", "--json").end()[1])["rows"]] == ["r1"]
    m = mete("release", "r1")
    released(world)
    assert m.end()[0] == 0
    assert mete("release", "r1").end()[0] == 0
    assert mete("release", "none").end()[0] == 66
    assert "no leases" in mete("leases").end()[1]
    assert "connected" in mete("agent").end()[1]
    assert json.loads(mete("agent", "--json").end()[1])["vm"] == "v"


def test_says_whether_it_asks_by_itself(world, mete):
    """And where it does not, that nothing comes of a declaration, which is kept all the same."""
    declare = ("declare", "--need", "cpu:2", "--at", "+10m", "--for", "1h", "--name", "job")
    assert "asks by itself   no" in mete("agent").end()[1]
    assert "project_ms" not in json.loads(mete("agent", "--json").end()[1])
    status, out, err = mete(*declare).end()
    assert (status, out) == (0, "job\n") and "does not ask by itself" in err
    world.kill()
    world.start("--project", "1h")
    assert "asks by itself   yes, measured every 3600 s" in mete("agent").end()[1]
    assert json.loads(mete("agent", "--json").end()[1])["project_ms"] == 3600000
    assert mete(*declare).end() == (0, "job\n", "")


def test_what_help_says(world, mete):
    text = " ".join(mete("run", "--help").end()[1].split())
    assert "a refused or ended request is used up" in text and "keeps running without what was granted" in text
    assert "keeps running" in " ".join(mete("release", "--help").end()[1].split())


def verbs_of(program):
    tables = json.loads(subprocess.run([program, "--dump-verbs"], stdout=subprocess.PIPE, check=True).stdout)["tables"]
    return {v["words"] for t in tables for v in t["verbs"]}


def test_verbs_of_the_host(world, mete):
    """Each that its own program has and this one has not is known for what it is; others are none."""
    elsewhere = verbs_of(os.path.join(BUILD, "src/cli/mete")) - verbs_of(METE)
    assert {"host offline", "vm create", "ledger", "pki init"} <= elsewhere
    for words in elsewhere:
        status, _, err = mete(*words.split(), "cpu:0").end()
        assert status == 64 and f"{words} " in err and "is a verb of the host" in err, err
    for words in ("host", "host sink", "gain"):
        assert "verb of the host" not in mete(*words.split()).end()[2]


def test_amounts_of_the_host_are_rounded(world, peer, tmp_path):
    stored = {"generation": 3, "hhi": {"objects": {
        "memory:node0": {"kind": "memory", "mark": "yours", "capacity": 24684092 << 10, "yours": 256 << 20, "free": (1536 << 20) + 4096},
        "cpu:0": {"kind": "cpu", "mark": "yours", "capacity": 1000, "yours": 200, "free": 700}}}}
    path = tmp_path / "host.json"
    path.write_text(json.dumps(stored))
    peer(lambda message: welcome(message) or json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {
        "generation": 3, "xml": str(path), "json": str(path)}}).encode() + b"\n")
    status, text, err = Mete(world, "host", "show").end()
    assert status == 0, err
    memory = next(line.split() for line in text.splitlines() if line.startswith("memory:node0"))
    assert memory[2:5] == ["24105M", "256M", "1536M"]
    assert "IN ALL is what the host has, also what it keeps for itself" in text


def test_a_share_that_is_none(world, mete):
    """In the words and units of who typed it."""
    status, out, err = mete("run", "--need", "cpu:1,share>=2", "--", "true").end()
    assert status == 65 and "share>=2: a share is from 0.001 to 1 of a CPU" in err and "milli" not in err
    on_host = os.path.join(BUILD, "src/cli/mete")
    for share, says in [("2", "a share is from 0.001 to 1 of a host CPU"), ("0..0.5", "a share is from 0.001 to 1 of a host CPU"),
                        ("0.2..1.1", "what it never exceeds is from 0.1 to 1 of a host CPU"),
                        ("0.05..0.09", "what it never exceeds is from 0.1 to 1 of a host CPU"),
                        ("0.5..0.2", "the second is less than the first"), ("0.2..", ""), ("0.2..x", "")]:
        p = subprocess.run([on_host, "vm", "create", "v", "--share", share], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, timeout=20, env={**os.environ, "METE_SOCKET": os.path.join(world.dir, "none")})
        assert p.returncode == 65 and f"--share {share}" in p.stderr and says in p.stderr, p.stderr


def test_command_line(world, mete):
    for args, status in [(["run"], 64), (["run", "--", "true"], 64), (["run", "--need", "cpu:1"], 64), (["nonsense"], 64),
                         (["run", "--need", "cpu", "--", "true"], 65), (["run", "--need=cpu:1", "--timeout=0s", "--", "x"], 64),
                         (["run", "--need=cpu:1", "--timeout=x", "--", "x"], 64), (["release"], 64),
                         (["run", *["--need=cpu:1"] * 5, "--", "x"], 64), (["run", "--need=cpu:1", "--id=a b", "--", "x"], 65),
                         (["run", "--help"], 0), (["--help"], 0), (["--version"], 0), (["help", "release"], 0)]:
        got, out, err = mete(*args).end()
        assert got == status, (args, got, err)
        assert out if status == 0 else err


# ---- declarations ----

def declared(mete):
    status, out, err = mete("declare", "list", "--json").end()
    assert status == 0, err
    return {d["name"]: d for d in json.loads(out)["declarations"]}


def test_declare(world, mete):
    status, out, err = mete("declare", "--need", "memory:2G", "--at", "22:00", "--for", "2h", "--every", "day", "--name", "night").end()
    assert (status, out) == (0, "night\n"), err
    d = declared(mete)["night"]
    assert (d["need"], d["for_ms"], d["every_ms"], d["uid"]) == ("memory:2G", 7200000, 86400000, os.getuid())
    assert time.strftime("%H:%M", time.localtime(d["start_ms"] / 1000)) == "22:00"
    assert -7200 < d["start_ms"] / 1000 - time.time() < 2 * 86400  # or the one that is under way
    assert mete("declare", "--need", "cpu:2", "--at", "+10m", "--for", "1h").end()[:2] == (0, "d1\n")
    assert mete("declare", "--need", "cpu:2", "--at", "2037-01-02T03:04", "--for", "1h").end()[0] == 65  # in more than a year
    listed = mete("declare", "list").end()[1]
    assert "night" in listed and "2h" in listed and "1d" in listed and "d1" in listed
    # the agent's end is not theirs
    world.kill()
    world.start()
    assert set(declared(mete)) == {"night", "d1"}
    assert mete("declare", "drop", "night").end()[0] == 0
    assert mete("declare", "drop", "night").end()[0] == 66
    assert mete("declare", "drop", "d1").end()[0] == 0
    assert "nothing is declared" in mete("declare", "list").end()[1]


def test_declare_a_window_that_is_under_way(world, mete):
    """Only of what comes again: else 22:00 is the next time that it is."""
    now = time.time()
    begun = time.strftime("%H:%M", time.localtime(now - 3600))
    for name, every, length in (("today", ("--every", "day"), "2h"), ("over", ("--every", "day"), "30m"), ("once", (), "2h"),
                                ("twice", ("--every", "12h"), "2h")):
        assert mete("declare", "--need", "cpu:2", "--at", begun, "--for", length, "--name", name, *every).end()[0] == 0
    ahead = {name: (d["start_ms"] / 1000 - now) / 3600 for name, d in declared(mete).items()}
    assert -1.1 < ahead["today"] < -0.9 and -1.1 < ahead["twice"] < -0.9, ahead
    assert ahead["over"] > 20 and ahead["once"] > 20, ahead


def test_no_verb_of_declare(world, mete):
    status, _, err = mete("declare", "lits").end()
    assert status == 64 and "no such verb: declare lits; 'mete help declare' lists them" in err, err
    listed = mete("help", "declare").end()[1]
    assert "mete declare list" in listed and "mete declare drop NAME" in listed


@pytest.mark.parametrize("args,said", [
    (("--need", "memory:0", "--at", "22:00", "--for", "2h"), "memory"),
    (("--need", "gold:1", "--at", "22:00", "--for", "2h"), "no kind"),
    (("--need", "memory:1G", "--at", "22:00"), "--for"),
    (("--need", "memory:1G", "--at", "25:00", "--for", "2h"), "25:00"),
    (("--need", "memory:1G", "--at", "22:00x", "--for", "2h"), "22:00x"),
    (("--need", "memory:1G", "--at", "+x", "--for", "2h"), "x"),
    (("--need", "memory:1G", "--at", "22:00", "--for", "2 hours"), "2 hours"),
    (("--need", "memory:1G", "--at", "22:00", "--for", "0s"), ""),
    (("--need", "memory:1G", "--at", "22:00", "--for", "2h", "--every", "hour"), "a window of 2h does not end before it comes again after 1h"),
    (("--need", "memory:1G", "--at", "22:00", "--for", "2h", "--name", "../x"), ""),
    (("--need", "memory:1G", "--at", "2001-01-01T00:00", "--for", "2h"), "over"),
])
def test_declare_nonsense(world, mete, args, said):
    status, out, err = mete("declare", *args).end()
    assert status in (65, 78) and said in err, (status, err)
    assert declared(mete) == {}


def test_declarations_of_a_user_are_bounded(world, mete):
    app = world.app()
    begin = int(time.time() * 1000)
    for _ in range(16):
        app.call("declare", {"need": "cpu:1", "start_ms": begin, "for_ms": 60000})
    with pytest.raises(Refused) as e:
        app.call("declare", {"need": "cpu:1", "start_ms": begin, "for_ms": 60000})
    assert e.value.reason == "busy"
    assert len(declared(mete)) == 16


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be several users")
def test_declarations_are_a_users_own(world, mete):
    other = world.child(uid=65534)
    begin = int(time.time() * 1000)
    other.call("declare", {"name": "theirs", "need": "cpu:1", "start_ms": begin, "for_ms": 60000})
    root = world.app()
    root.call("declare", {"name": "ours", "need": "cpu:1", "start_ms": begin, "for_ms": 60000})
    assert [d["name"] for d in other.call("declared")["declarations"]] == ["theirs"]
    assert {d["name"] for d in root.call("declared")["declarations"]} == {"theirs", "ours"}
    with pytest.raises(Refused) as e:
        other.call("declare-drop", {"name": "ours"})
    assert e.value.reason == "denied"
    other.call("declare", {"name": "ours", "need": "cpu:1", "start_ms": begin, "for_ms": 60000})  # another one of that name
    assert [d["name"] for d in other.call("declared")["declarations"]] == ["theirs", "ours"]
    assert len(root.call("declared")["declarations"]) == 3
    other.call("declare-drop", {"name": "ours"})
    assert len(root.call("declared")["declarations"]) == 2
    root.call("declare-drop", {"name": "theirs"})

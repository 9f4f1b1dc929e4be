# SPDX-License-Identifier: Apache-2.0
"""The service processor's part in handovers: a real mete-sp, which starts hypervisors that are none (fake_meted.py), so that each
of them can say what it likes, or nothing, and mete-sp can be killed at each of its steps."""
import json
import os
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from fake_server import FakeServer  # noqa: E402
from host import HostError, wait_for  # noqa: E402

PARTS = ("a:cpus=0,memory=1G", "b:cpus=1,memory=1G")
NODE = "memory:node0"
GIB, VM_BYTES = 1 << 30, 1 << 28
FREE = [{"component": NODE, "amount": VM_BYTES, "portion": "reassignable", "why": "free"},
        {"component": "cpu:0", "amount": 1000, "portion": "unreassignable", "why": "shared"}]

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")


@pytest.fixture
def server():
    with FakeServer() as s:
        s.init(*PARTS)
        s.start("a", "b")
        s.fake("a", vms={"v": "running"}, parts=FREE)
        yield s


def refusal(p, *words):
    assert p.returncode != 0, (p.stdout, p.stderr)
    for word in words:
        assert word in p.stderr, p.stderr


def memory(server):
    return {name: server.managers()[NODE].get(name, 0) for name in "ab"}


def told(server, name):
    """What of the memory a hypervisor was told last that it has."""
    return {s["component"]: s["amount"] for s in server.fake(name)["partition"]["shares"]}.get(NODE, 0)


def words(server, name, handover):
    return [w["says"] for w in server.fake(name)["heard"] if w["handover"] == handover]


def test_hands_over_and_back(server):
    """What goes along with which word; the partition follows, in one step, and back; all of it is in the log and on disk."""
    h = server.hand_over("v", "--to", "b", "--max-gap", "50ms", "--wait")
    assert h["state"] == "running-on-target" and h["from"] == "a" and h["assigned"], h
    assert h["sent_bytes"] == 65536 and h["ram_bytes"] == 0 and h["gap_us"] >= 0 and h["parts"] == FREE, h
    assert memory(server) == {"a": GIB - VM_BYTES, "b": GIB + VM_BYTES}
    wait_for("both were told", lambda: (told(server, "a"), told(server, "b")) == (GIB - VM_BYTES, GIB + VM_BYTES))
    assert server.fake("b")["partition"]["handover"] == h["id"] and server.fake("a")["partition"]["handover"] == h["id"]
    heard = {w["says"]: w for name in "ab" for w in server.fake(name)["heard"]}
    assert {"classify", "separate", "quiesce", "give", "finish", "offer", "inform", "stands"} <= set(heard)
    assert all(w["gap_ms"] == 50 and w["handover"] == h["id"] and w["epoch"] == h["epoch"] for w in heard.values())
    assert heard["offer"]["peer"] == "a" and heard["classify"]["peer"] == "b" and "keeps" not in heard["classify"]
    # what schedules it goes from the source by the service processor, and only when it is quiet (5.5)
    assert "control" not in heard["offer"]["guest"] and heard["inform"]["guest"]["control"]["vcpus"][0]["throttled_us"] == 17
    assert heard["give"]["transfer"] == "/run/nowhere/transfer.sock"
    assert [e["event"] for e in server.sp_events(h["id"])] == ["configured", "classified", "accepted", "separated", "quiesced",
                                                               "informed", "assigned", "finishing", "running-on-target"]

    server.fake("b", parts=FREE[:1])
    back = server.hand_over("v", "--to", "a", "--from", "b", "--wait")
    assert back["state"] == "running-on-target" and back["epoch"] == h["epoch"] + 1
    assert memory(server) == {"a": GIB, "b": GIB}
    assert [x["id"] for x in json.loads(server.handover("list", "--json").stdout)["handovers"]] == [back["id"], h["id"]]
    shown = server.handover("show", h["id"]).stdout
    assert shown.startswith(f"{h['id']}: v from a to b: running-on-target") and "of the 50 ms that were allowed" in shown, shown
    assert "what changes hands is b's" in shown and all(f" {e['event']} " in shown for e in server.sp_events(h["id"])), shown
    server.kill_sp()
    server.start_sp()
    assert memory(server) == {"a": GIB, "b": GIB}
    assert [x["id"] for x in json.loads(server.handover("list", "--json").stdout)["handovers"]] == [back["id"], h["id"]]
    refusal(server.handover("cancel", "h9", check=False), "no handover h9")
    server.handover("cancel", h["id"])  # how it ended


def test_refusals(server):
    """What cannot be begun is refused at once, with why, and nobody hears of it."""
    server.fake("a", vms={"v": "running", "w": "stopped", "both": "running"})
    server.fake("b", vms={"there": "running", "both": "running"})
    for args, text in ((("x", "--to", "b"), "no hypervisor of this server has a VM x"),
                       (("v", "--to", "c"), "no hypervisor is called c"),
                       (("v", "--to", "b", "--from", "c"), "no hypervisor is called c"),
                       (("v", "--to", "b", "--from", "b"), "to itself"),
                       (("there", "--to", "b"), "there runs at b already"),
                       (("w", "--to", "b"), "does not run at a"),
                       (("both", "--to", "b"), "two hypervisors run a VM both"),
                       (("v", "--to", "b", "--max-gap", "2h"), ""),
                       (("v/../w", "--to", "b"), "no name of a VM"),
                       (("v",), "--to is missing"),
                       (("v", "--all", "--from", "a", "--to", "b"), "a VM is wanted, or --all"),
                       (("--all", "--to", "b"), "--all wants --from")):
        refusal(server.handover(*args, check=False), text)
    assert server.fake("a")["heard"] == [] and server.fake("b")["heard"] == []
    assert json.loads(server.handover("list", "--json").stdout)["handovers"] == []
    # a VM once at a time, and not while something else changes hands
    server.fake("a", do={"classify": {"silent": 1000000}})
    first = server.hand_over("v", "--to", "b", "--id", "first")
    refusal(server.handover("v", "--to", "b", check=False), "v is being handed over from a to b (first)")
    refusal(server.ask("give", NODE, "--amount", "128M", "--from", "a", "--to", "b", check=False), "v is being handed over")
    assert server.hand_over("v", "--to", "b", "--id", "first")["epoch"] == first["epoch"]  # asked again
    assert server.hand_over("v", "--to", "b", "--id", "first", "--from", "a")["epoch"] == first["epoch"]
    for args in (("w", "--to", "b"), ("v", "--to", "a"), ("v", "--to", "b", "--from", "b"), ("v", "--to", "b", "--dry-run"),
                 ("v", "--to", "b", "--max-gap", "1s")):
        refusal(server.handover(*args, "--id", "first", check=False), "first is another")
    server.fake("a", do={word: {"silent": 1000000} for word in ("classify", "abort")})
    for _ in range(3):  # it is being broken off: that is what stands, however often it is wanted
        assert json.loads(server.handover("cancel", "first", "--json").stdout)["state"] == "recalling"
    server.fake("a", do={"classify": {"silent": 1000000}})
    ended = server.ended("first")
    assert ended["state"] == "rolled-back" and ended["reason"] == "cancelled", ended
    # two with one id, of which neither is known yet when both are asked for: one of them, and not both
    server.fake("a", do={})
    asked = [server.begin_handover("v", "--to", "b", "--id", "twice", "--max-gap", gap, "--json") for gap in ("1s", "2s")]
    answers = [p.communicate(timeout=60) for p in asked]
    assert sorted(p.returncode == 0 for p in asked) == [False, True] and any("twice is another" in e for _, e in answers), answers
    assert server.ended("twice")["state"] == "running-on-target"
    server.fake("b", parts=FREE[:1])
    assert server.hand_over("v", "--to", "a", "--wait")["state"] == "running-on-target"
    # the target does not run; nor does who may have it
    server.ask("stop", "b")
    refusal(server.handover("there", "--to", "a", check=False), "no hypervisor that runs has a VM there, and b does not")
    refusal(server.handover("v", "--to", "b", check=False), "b does not run")
    server.kill_sp()
    refusal(server.handover("v", "--to", "b", check=False), "mete-sp is not running", "no handover")


@pytest.mark.parametrize("where,do,parts,reason,text", [
    ("a", {"classify": {"refuse": [422, "unsupported"]}}, FREE, "unsupported", "a: classify is not for me"),
    ("b", {"offer": {"refuse": [404, "not-found"]}}, FREE, "not-found", "b: offer is not for me"),
    ("a", {"classify": {"say": {"says": "back", "reason": "busy", "sentence": "it moves"}}}, FREE, "busy", "it moves"),
    ("b", {"offer": {"say": {"says": "dropped", "reason": "incompatible", "sentence": "another CPU model"}}}, FREE, "incompatible",
     "another CPU model"),
    ("b", {"inform": {"say": {"says": "dropped", "reason": "no-capacity", "sentence": "no room"}}}, FREE, "no-capacity", "no room"),
    # what a source claims that it has
    ("a", {}, [{**FREE[0], "amount": 8 * GIB}], "no-capacity", "a has 1073741824 of memory:node0"),
    ("a", {}, [{**FREE[0], "amount": GIB}], "unreassignable", "the last memory that a has"),
    ("a", {}, [FREE[0], {**FREE[0], "component": "cpu:0", "amount": 1000}], "unreassignable", "the last CPU that a has"),
    ("a", {}, [FREE[0], {**FREE[0], "component": "cpu:1", "amount": 1000}], "no-capacity", "a has 0 of cpu:1"),
    ("a", {}, [{**FREE[0], "component": "memory:node77"}], "invalid", "no memory:node77"),
    ("a", {}, [{**FREE[0], "amount": VM_BYTES + 1}], "invalid", "only whole MiB"),
    ("a", {}, [FREE[0], FREE[0]], "invalid", "said twice"),
    ("a", {}, [{**FREE[0], "portion": "unreassignable", "why": "shared"}], "unreassignable", "shared with somebody that stays"),
    ("a", {}, [{**FREE[0], "portion": "separable", "why": "kept", "moved": 5}], "unreassignable", "was not separated"),
])
def test_goes_back(server, where, do, parts, reason, text):
    """Whoever does not want to, or claims what is not so: it goes back, with the reason, and nothing has changed hands."""
    server.fake("a", parts=parts)
    server.fake(where, do=do)
    p = server.handover("v", "--to", "b", "--wait", "--json", check=False)
    h = json.loads(p.stdout)
    assert p.returncode != 0 and h["state"] == "rolled-back" and h["reason"] == reason and text in h["sentence"], h
    assert memory(server) == {"a": GIB, "b": GIB} and server.show()["epoch"] == 1
    assert "give" not in words(server, "a", h["id"])
    server.fake("a", parts=FREE, do={})
    server.fake("b", do={})
    assert server.hand_over("v", "--to", "b", "--wait")["state"] == "running-on-target"


def test_record(server):
    """Where the record is, is the source's to say, and is written to by root: nowhere else than where the keeper makes such, and
    none that says something already."""
    used = server.fake("a")["records"][-1]
    server.fake("b", parts=FREE[:1])
    assert server.hand_over("v", "--to", "b", "--wait")["state"] == "running-on-target"
    assert server.hand_over("v", "--to", "a", "--wait")["state"] == "running-on-target"
    with open(os.path.join(used, "outcome")) as f:
        assert f.read().startswith("committed")
    server.fake("a", parts=FREE)
    top = server.path("keeper", "handover")
    made = {name: os.path.join(top, name, "record") for name in ("aa", "bb", "cc")}
    for path in made.values():
        os.makedirs(path)
    os.chmod(made["aa"], 0o0777)  # not sticky
    os.chown(made["bb"], 65534, 65534)
    os.chmod(made["bb"], 0o1777)
    os.rmdir(made["cc"])
    os.symlink("/tmp", made["cc"])
    before = os.listdir("/tmp")
    for path, text in ((used, "another handover's"), ("/tmp", "not under"), (f"{top}/../../tmp", "not under"),
                       (f"{top}/aa/../record", "not under"), (f"{top}x/aa/record", "not under"), (made["aa"], "sticky"),
                       (made["bb"], "not root's"), (made["cc"], "the record of"), (f"{top}/dd/record", "No such file")):
        server.fake("a", records=[path])
        h = json.loads(server.handover("v", "--to", "b", "--wait", "--json", check=False).stdout)
        assert h["state"] == "rolled-back" and text in h["sentence"], (path, h)
        assert "give" not in words(server, "a", h["id"])
    assert "outcome" not in set(os.listdir("/tmp")) - set(before)
    # one who is not the target commits: it does not count
    path = f"{top}/ee/record"
    os.makedirs(path)
    os.chmod(path, 0o1777)
    server.fake("a", records=[path], do={"give": {"silent": 1000000}, "abort": {"say": {"says": "back"}}})
    server.fake("b", do={"drop": {"say": {"says": "dropped"}}})
    h = server.hand_over("v", "--to", "b")
    wait_for("it is to be given", lambda: "give" in words(server, "a", h["id"]))
    with open(os.path.join(path, "beside"), "w") as f:
        f.write("committed b\n")
    os.chown(os.path.join(path, "beside"), 65534, 65534)
    os.link(os.path.join(path, "beside"), os.path.join(path, "outcome"))
    assert server.ended(h["id"])["state"] == "rolled-back"
    assert memory(server) == {"a": GIB, "b": GIB}


def test_kept():
    """What the service processor keeps with a hypervisor is told to it, and never changes hands, whatever that says."""
    with FakeServer() as server:
        server.init("a:cpus=0,memory=1G,keep=memory:node0", "b:cpus=1,memory=1G")
        server.start("a", "b")
        server.fake("a", vms={"v": "running"}, parts=FREE)
        h = json.loads(server.handover("v", "--to", "b", "--wait", "--json", check=False).stdout)
        assert h["state"] == "rolled-back" and h["reason"] == "unreassignable" and "kept by a" in h["sentence"], h
        assert server.fake("a")["heard"][0]["keeps"] == [NODE]


def test_dry_run(server):
    """It is found out whether it would do, and nothing is touched: nothing is separated, nobody is told to give."""
    h = server.hand_over("v", "--to", "b", "--dry-run")
    assert h["would"] and h["parts"] == FREE and h["state"] == "rolled-back", h
    assert "could be handed over" in server.handover("show", h["id"]).stdout
    assert not {"separate", "quiesce", "give"} & set(words(server, "a", h["id"]))
    assert "moved before" not in server.handover("show", h["id"]).stdout
    server.fake("b", do={"offer": {"say": {"says": "dropped", "reason": "incompatible", "sentence": "another machine"}}})
    p = server.handover("v", "--to", "b", "--dry-run", check=False)
    assert p.returncode != 0 and "another machine" in p.stdout, p.stdout
    assert memory(server) == {"a": GIB, "b": GIB}


def test_what_was_moved_before(server):
    """How much separation takes, to the byte: what it would be of a dry run, what it was of the others."""
    parts = [{**FREE[0], "portion": "separable", "why": "kept", "moved": 128 << 20}, FREE[1]]
    server.fake("a", separated=12288, parts=parts)
    h = server.hand_over("v", "--to", "b", "--dry-run")
    assert h["would"] and h["separated_bytes"] == 12288 and h["parts"] == parts, h
    assert "12288 bytes of its memory would be moved before" in server.handover("show", h["id"]).stdout
    server.fake("a", parts=FREE)
    h = server.hand_over("v", "--to", "b", "--wait")
    assert h["state"] == "running-on-target" and h["separated_bytes"] == 12288, h
    assert "12288 bytes of its memory were moved before" in server.handover("show", h["id"]).stdout


def test_how_long_it_may_take(server):
    """Asked for, or by the source's word: the source is told the one, and all three wait for what it says then."""
    def asked(*words):
        h = server.hand_over("v", "--to", "b", "--dry-run", *words)
        heard = {w["says"]: w.get("separate_ms") for name in "ab" for w in server.fake(name)["heard"] if w["handover"] == h["id"]}
        return heard["classify"], heard["offer"], h.get("separate_ms")

    assert asked() == (None, None, None)
    assert asked("--within", "90s") == (90000, 90000, 90000)
    server.fake("a", separate_ms=1234567)
    assert asked() == (None, 1234567, 1234567)
    assert asked("--within", "90s") == (90000, 1234567, 1234567)
    p = server.handover("v", "--to", "b", "--within", "1ms", check=False)
    assert p.returncode != 0 and "within_ms" in p.stderr, p.stderr


def test_all(server):
    """Some side by side; one that stays does not keep the others."""
    server.fake("a", parts=part(64), vms={f"v{i}": "running" for i in range(9)} | {"off": "stopped"})
    p = server.handover("--all", "--from", "a", "--to", "b")
    assert p.stdout.count("running-on-target") == 9, p.stdout
    assert set(server.fake("b")["vms"]) == {f"v{i}" for i in range(9)} and server.fake("a")["vms"] == {"off": "stopped"}
    assert memory(server)["a"] == GIB - (9 * 64 << 20)
    assert "no VM runs at a" in server.handover("--all", "--from", "a", "--to", "b").stderr


NEVER = {"silent": 1000000}


def part(mib):
    return [{**FREE[0], "amount": mib << 20}, FREE[1]]


def test_several_at_once(server):
    """Of different VMs, side by side, so many of one hypervisor to another; the other way is another matter."""
    server.fake("a", vms={f"v{i}": "running" for i in range(5)}, parts=part(64), do={"give": NEVER})
    server.fake("b", vms={"w": "running"}, parts=part(64))
    ids = [server.hand_over(f"v{i}", "--to", "b")["id"] for i in range(4)]
    wait_for("all are to be given", lambda: all("give" in words(server, "a", i) for i in ids))
    refusal(server.handover("v4", "--to", "b", check=False), "4 VMs are being handed over from a to b")
    refusal(server.handover("v0", "--to", "b", check=False), "v0 is being handed over from a to b")
    assert server.hand_over("w", "--to", "a", "--wait")["state"] == "running-on-target"
    assert memory(server) == {"a": GIB + (64 << 20), "b": GIB - (64 << 20)}
    server.fake("a", do={})
    assert {server.ended(i)["state"] for i in ids} == {"running-on-target"}
    assert memory(server) == {"a": GIB - (3 * 64 << 20), "b": GIB + (3 * 64 << 20)}
    wait_for("both were told", lambda: {x: told(server, x) for x in "ab"} == memory(server))


def test_a_stuck_one_blocks_itself_alone(server):
    """It is committed, and its source does not end it: it is named in all that is told until it is over, by a service processor
    that was started again as well; others go on, and only what is given waits."""
    server.fake("a", vms={f"v{i}": "running" for i in range(4)}, parts=part(64), do={"finish v0": NEVER})
    stuck = server.hand_over("v0", "--to", "b")["id"]
    wait_for("it is finishing", lambda: "finish" in words(server, "a", stuck))
    assert server.hand_over("v1", "--to", "b", "--wait")["state"] == "running-on-target"
    wait_for("all partitions name it", lambda: all(stuck in server.fake(x)["partition"].get("handovers", []) for x in "ab"))
    refusal(server.ask("give", NODE, "--amount", "128M", "--from", "a", "--to", "b", check=False), f"({stuck})")
    server.kill_sp()
    server.start_sp()
    server.all_run()
    assert server.hand_over("v2", "--to", "b", "--wait")["state"] == "running-on-target"
    assert all(stuck in p["handovers"] for p in server.fake("a")["partitions"][-2:])
    assert "ended_ms" not in json.loads(server.handover("show", stuck, "--json").stdout)
    server.fake("a", do={})
    assert server.ended(stuck)["state"] == "running-on-target"
    server.ask("give", NODE, "--amount", "128M", "--from", "a", "--to", "b")
    assert "handovers" not in server.fake("a")["partition"]


@pytest.mark.parametrize("mib,reason,text", [(512, "unreassignable", "the last memory that a has"), (640, "no-capacity", "a has 402653184")])
def test_what_another_takes_along(server, mib, reason, text):
    """What one that is under way will take along is not the next one's, and is again when it has gone back."""
    server.fake("a", vms={"v": "running", "w": "running"}, parts=part(mib), do={"give v": NEVER})
    first = server.hand_over("v", "--to", "b")["id"]
    wait_for("it is to be given", lambda: "give" in words(server, "a", first))
    h = json.loads(server.handover("w", "--to", "b", "--wait", "--json", check=False).stdout)
    assert h["state"] == "rolled-back" and h["reason"] == reason and text in h["sentence"], h
    server.handover("cancel", first)
    assert server.ended(first)["state"] == "rolled-back"
    assert server.hand_over("w", "--to", "b", "--wait")["state"] == "running-on-target"


def move(server, *args):
    return subprocess.run([server.path("bin", "mete"), "move", *args, "--socket", server.path("sprun", "a", "meted.sock")],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "METE_SP_SOCKET": server.sp_socket})


def test_a_move_on_the_same_server(server):
    """mete move to a hypervisor of the same server is a handover, and says so (S.6); anything else is a move as ever."""
    p = move(server, "v", "--to", "b", "--dry-run", "--json")
    assert p.returncode == 0 and json.loads(p.stdout)["would"] and "is handed over to it, and not copied" in p.stderr, p
    assert memory(server) == {"a": GIB, "b": GIB}
    p = move(server, "v", "--to", "b", "--max-downtime", "2s", "--max-time", "10s", "--id", "m1", "--wait", "--json")
    h = json.loads(p.stdout)
    assert h["state"] == "running-on-target" and h["id"] == "m1" and h["max_gap_ms"] == 2000 and h["from"] == "a", p
    assert "its time has no bound" in p.stderr
    p = move(server, "v", "--to", "elsewhere")
    assert p.returncode != 0 and "handed over" not in p.stderr and server.fake("a")["moves"] == ["/v1/vms/v/move"], p
    os.unlink(server.sp_socket)
    refusal(move(server, "v", "--to", "b"), "mete-sp is not running")


def test_words_are_lost(server):
    """Each word gets lost a few times: it is said again."""
    lost = {word: {"silent": 2} for word in ("classify", "separate", "quiesce", "finish", "offer", "inform", "stands", "settle")}
    for name in "ab":
        server.fake(name, do=json.loads(json.dumps(lost)))
    assert server.hand_over("v", "--to", "b", "--wait")["state"] == "running-on-target"


def test_returned(server):
    """Its VMM at the target dies before it ran: what was assigned is the source's again, in an epoch of its own."""
    server.fake("b", do={"stands": {"set": {"dies": True}}})
    p = server.handover("v", "--to", "b", "--wait", "--json", check=False)
    h = json.loads(p.stdout)
    assert h["state"] == "rolled-back" and not h.get("assigned"), h
    assert "assigned" in [e["event"] for e in server.sp_events(h["id"])]
    assert memory(server) == {"a": GIB, "b": GIB}
    wait_for("both have their own", lambda: (told(server, "a"), told(server, "b")) == (GIB, GIB))
    assert "handover" not in server.fake("a")["partition"]


def test_liars(server):
    """Neither says who owns the VM: the record does. Nor does one of them speak for the other, or anybody else for them."""
    server.fake("a", do={"give": {"say": {"says": "given"}}})
    h = server.hand_over("v", "--to", "b")
    wait_for("it was refused", lambda: any(w.get("refused", {}).get("reason") == "policy" for w in server.fake("a")["said"]))
    assert memory(server) == {"a": GIB, "b": GIB}
    # the target's words by the source; of a handover that is not; of another number
    word = {"says": "running", "handover": h["id"], "vm": "v", "epoch": h["epoch"]}
    assert server.word("a", word)["reason"] == "denied"
    assert server.word("b", {**word, "epoch": h["epoch"] + 1})["reason"] == "stale"
    assert server.word("b", {**word, "vm": "w"})["reason"] == "invalid"
    assert server.word("b", {**word, "says": "give"})["reason"] == "invalid"
    assert server.word("b", word)["reason"] == "policy"
    assert server.word("b", {**word, "handover": "h77"}) == {"taken": True}
    wait_for("it has its answer", lambda: "settle" in words(server, "b", "h77"))
    # the socket is that user's alone, and for words alone
    other = ["setpriv", "--reuid", "games", "--clear-groups", "--", "curl", "-sS", "--unix-socket", server.words_socket("a"),
             "http://x/v1/server"]
    assert subprocess.run(other, stderr=subprocess.PIPE, timeout=60).returncode != 0
    assert server.word("a", None, path="/v1/server", method="GET")["reason"] == "denied"
    assert server.word("a", word, at=server.sp_socket)["reason"] == "denied"
    server.fake("a", do={})
    assert server.ended(h["id"])["state"] == "running-on-target"


def test_finish_waits_for_the_partition(server):
    """The claims of a VM that was handed over do not end at its source before that has taken the partition without them: what they
    were of would be free there, and given to somebody, while it is the target's."""
    server.fake("a", do={"partition": {"refuse": [409, "busy"]}})
    h = server.hand_over("v", "--to", "b")
    wait_for("it is finishing", lambda: "finishing" in [e["event"] for e in server.sp_events(h["id"])])
    wait_for("the target has its part", lambda: told(server, "b") == GIB + VM_BYTES)
    wait_for("the source refuses its own", lambda: server.fake("a")["refused"] >= 3)
    assert "finish" not in words(server, "a", h["id"])
    server.kill_sp()  # nor by one that starts anew
    server.start_sp()
    before = server.fake("a")["refused"]
    wait_for("it was asked again", lambda: server.fake("a")["refused"] >= before + 3)
    assert "finish" not in words(server, "a", h["id"]) and memory(server)["b"] == GIB + VM_BYTES
    server.fake("a", do={})
    assert server.ended(h["id"])["state"] == "running-on-target"
    assert told(server, "a") == GIB - VM_BYTES


def test_one_that_says_much_and_never_answers(server):
    """Of handovers that are not known, which it may have any number of: it is owed one answer at a time, however many it is asked
    for, and what is owed to others is said meanwhile."""
    server.fake("b", do={"settle": {"hangs": True}}, say=[{"says": "running", "handover": f"x{i}", "vm": "v", "epoch": 1}
                                                          for i in range(100)])
    wait_for("it has said all", lambda: len(server.fake("b")["said"]) >= 100)
    wait_for("it hears an answer", lambda: server.fake("b")["most_hanging"])
    assert server.fake("b")["most_hanging"] < 4  # one that is given up, and the next: the fake may be slow to see the former go
    h = server.hand_over("v", "--to", "b")
    wait_for("the others get through", lambda: "finish" in words(server, "a", h["id"]))
    server.fake("b", do={})
    assert server.ended(h["id"])["state"] == "running-on-target"


def test_says_back_and_hands_over(server):
    """A source that says that it has the VM back while the record says nothing, and the target may commit at any instant: from
    that word on it cannot, so that what the source says is so."""
    server.fake("b", do={"stands": {"silent": 1000000}, "drop": {"silent": 1000000}})
    for says in ("back", "died"):
        h = server.hand_over("v", "--to", "b")
        wait_for("the target knows that it stands", lambda: "stands" in words(server, "b", h["id"]))
        record = os.path.join(server.fake("a")["handovers"][h["id"]]["record"], "outcome")
        assert not os.path.exists(record)
        assert server.word("a", {"says": says, "handover": h["id"], "vm": "v", "epoch": h["epoch"]}) == {"taken": True}
        with open(record) as f:
            assert f.read().startswith("aborted sp")
        server.fake("b", do={"stands": {"silent": 1000000}})  # now it tries, too late
        assert server.ended(h["id"])["state"] == ("rolled-back" if says == "back" else "lost")
        server.fake("b", do={"stands": {"silent": 1000000}, "drop": {"silent": 1000000}})
    assert memory(server) == {"a": GIB, "b": GIB} and server.fake("b")["vms"] == {}


def test_deaths(server):
    """SIGKILL at each step of its journal, before and behind it, at each word and around the record. A new one brings it to its
    end; what is whose follows the record, and is one hypervisor's at every instant."""
    log = server.path("crash.log")

    def whose():
        runs = [name for name in "ab" if server.fake(name)["vms"].get("v") == "running"]
        assert len(runs) <= 1 or json.loads(server.handover("list", "--json").stdout)["handovers"][0].get("ended_ms") is None
        return runs

    def story(here, there):
        """False: the service processor died."""
        p = server.handover("v", "--from", here, "--to", there, "--wait", "--json", check=False)
        return p.returncode == 0 and json.loads(p.stdout)["state"] == "running-on-target"

    server.fake("b", parts=FREE[:1])
    server.kill_sp(signal.SIGTERM)
    server.start_sp({"METE_SP_CRASH_LOG": log})
    server.all_run()
    assert story("a", "b")
    with open(log) as f:
        names = [line.split(None, 1)[1].strip() for line in f]
    # those of starting and telling are test_server's
    points = [n for n, name in enumerate(names, 1) if name not in ("tell", "told", "start", "started") and
              names[:n].count(name) <= 1]
    states = ("configured", "classified", "accepted", "separated", "quiesced", "informed", "assigned", "finishing", "running-on-target")
    assert {f"{s} {w}" for s in states for w in ("begin", "end")} <= set(names), names
    died = 0
    for n in points:
        here = whose()[0]
        there = "b" if here == "a" else "a"
        server.kill_sp(signal.SIGTERM)
        server.start_sp({"METE_SP_CRASH_AT": str(n)}, wait=False)
        wait_for("it listens, or has died", lambda: server.sp.poll() is not None or
                 server.ask("show", check=False).returncode == 0)
        try:
            server.all_run()
            story(here, there)
        except HostError:
            pass
        if server.sp.poll() is None:
            server.kill_sp(signal.SIGTERM)
        else:
            died += 1
            assert server.sp.wait(15) == -signal.SIGKILL
        server.start_sp()
        server.all_run()
        wait_for("nothing is under way", lambda: all(x.get("ended_ms") for x in json.loads(
            server.handover("list", "--json").stdout)["handovers"]), 120)
        wait_for("one has it", lambda: len(whose()) == 1)
        here = whose()[0]
        assert sum(memory(server).values()) == 2 * GIB
        assert memory(server)[here] == (GIB if here == "a" else GIB + VM_BYTES), (n, names[n - 1], here, memory(server))
        wait_for("both were told", lambda: {x: told(server, x) for x in "ab"} == memory(server))
    assert died > len(points) // 2, (died, points)

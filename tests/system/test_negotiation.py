# SPDX-License-Identifier: Apache-2.0
"""An application in a real guest asks, and gets what it may have: requirements 1.1-1.7, 1.12, 1.14, 1.30, S.1, S.8, S.9.

The host gives away two whole CPUs and 2 GiB. The guest v has 1..3 vCPUs, its own with a share of 0.1, and 256M..1G.
"""
import glob
import json
import os
import re
import time

import pytest
from app import App, AppError
from host import wait_for

MIB = 1 << 20


def meminfo_kib(guest):
    return int(re.search(r"MemTotal:\s+(\d+) kB", guest.check("cat /proc/meminfo")).group(1))


# What each step of an activation leaves in the log, in its order (3.4 to 3.12), and of the way back (3.20).
UP = ["prepared", "host-activated", "marked", "activated", "bound", "initialised", "finalised", "configured"]
BACK = ["unconfigured", "let-go", "host-prepared", "deactivated", "host-deactivated", "unprepared", "unmarked"]


def names(events):
    """What became of a request, without the steps by which it did."""
    return [e["event"] for e in events if e["event"] not in UP + BACK]


def order(events):
    """The steps alone, each named once where it stands several times in a row."""
    steps = [e["event"] for e in events if e["event"] in UP + BACK]
    return [step for i, step in enumerate(steps) if i == 0 or steps[i - 1] != step]


def ended_once(host, trace):
    """Everything that a request held came back exactly once."""
    wait_for(f"{trace} has ended", lambda: "ended" in names(host.events(trace)), 30, 0.1)
    assert names(host.events(trace)).count("ended") == 1


def test_grant_of_cpus(host, guest):
    """Granted vCPUs are the application's when the answer comes, and gone when it has ended."""
    assert guest.cpus_online() == 1
    assert guest.run("mete run --need 'cpu:2,share>=0.8' -- nproc") == (0, "2")
    wait_for("the vCPUs are off line again", lambda: guest.cpus_online() == 1)


def test_grant_of_memory(host, guest):
    before = meminfo_kib(guest)
    status, text = guest.run("mete run --need memory:512M -- grep MemTotal /proc/meminfo")
    assert status == 0, text
    assert int(re.search(r"(\d+) kB", text).group(1)) >= before + 512 * 1024
    # given in whole units: what looks like a slip is said
    assert guest.run("mete run --need memory:100 -- true")[1] == "mete run: memory:100 was rounded up to memory:128M"
    wait_for("the memory is gone again", lambda: meminfo_kib(guest) <= before + 1024, 30)


def test_memory_is_rounded_up_and_said(host, guest):
    """Growth unit 128 MiB: 200M takes 256M, and the verdict says so."""
    with App(guest, "round") as app:
        verdict = app.call("request", {"needs": ["memory:200M"]})
        assert verdict["outcome"] == "granted"
        assert verdict["memory_bytes"] == 256 * MIB
        held = [c["amount"] for c in host.claims() if c["holder"] == f"vm:v/{verdict['request']}"]
        assert held == [256 * MIB]
        app.call("release", {"id": verdict["request"]})
    ended_once(host, verdict["request"])


def test_one_id_from_application_to_ledger(host, guest):
    """1.2 to 1.7 and S.9: the row, the claim, what backs it, and the events all carry the id of the request."""
    with App(guest, "one") as app:
        verdict = app.call("request", {"id": "one-id", "name": "one", "needs": ["cpu:1,share>=0.5", "memory:128M"]})
        assert verdict["outcome"] == "granted" and verdict["request"] == "one-id"
        assert len(verdict["cpus"]) == 1 and verdict["memory_bytes"] == 128 * MIB

        rows = [r for r in app.call("list")["rows"] if r["id"] == "one-id"]
        assert len(rows) == 1 and rows[0]["state"] == "granted" and rows[0]["pid"] == app.pid

        claims = host.claims("vm:v/one-id")
        assert sorted((c["component"].split(":")[0], c["amount"], c["state"]) for c in claims) == [
            ("cpu", 500, "active"), ("memory", 128 * MIB, "active")]
        lease = next(le for le in host.leases() if le["request"] == "one-id")
        assert lease["holder"] == "vm:v/one-id" and lease["state"] == "granted"
        assert lease["application"].startswith("one")

        vcpu = next(c for c in guest.show()["vcpus"] if c["use"] == "one-id")
        assert vcpu["vcpu"] == verdict["cpus"][0] and vcpu["share_milli"] == 500
        app.call("release", {"id": "one-id"})
    ended_once(host, "one-id")
    assert names(host.events("one-id")) == ["reserved", "granted", "released", "ended"]
    assert {e["subject"] for e in host.events("one-id")} == {"vm:v/one-id"}


def test_order(host, guest):
    """3.4 to 3.12 and 3.20: one fixed order, each step for all items before the next; all of one activation on one thread
    of the keeper; what is configured is so from finalisation to the release."""
    with App(guest, "order") as app:
        assert app.call("request", {"id": "order", "needs": ["cpu:1,share>=0.5", "memory:128M"]})["outcome"] == "granted"
        items = {d["item"]: d for d in host.get("/v1/definitions")["definitions"] if d["holder"] == "vm:v/order"}
        assert len(items) == 2 and all(d["host_active"] and d["active"] and d["configured"] for d in items.values())
        dimm, vcpu = sorted(items)
        assert (items[dimm]["kind"], items[vcpu]["kind"]) == ("dimm", "vcpu")
        of_v = host.get("/v1/definitions?vm=v")["definitions"]
        assert of_v == [d for d in host.get("/v1/definitions")["definitions"] if d["vm"] == "v"] and len(of_v) > 2
        assert host.get("/v1/definitions?vm=nobody")["definitions"] == []
        shown = host.mete("definition", "show", f"v/{vcpu}").stdout
        assert items[vcpu]["component"] in shown
        assert ["amount", "0.5", "CPU"] in [line.split() for line in shown.splitlines()]
        assert ["amount", "128M"] in [line.split() for line in host.mete("definition", "show", f"v/{dimm}").stdout.splitlines()]
        app.call("release", {"id": "order"})
    ended_once(host, "order")
    events = host.events("order")
    assert order(events) == UP + BACK
    assert [e["event"] for e in events if e["event"] in UP].count("host-activated") == 2
    assert names(events) == ["reserved", "granted", "released", "ended"]
    granted = next(i for i, e in enumerate(events) if e["event"] == "granted")
    for way in (events[:granted], events[granted:]):
        threads = {e["text"].rsplit("thread ", 1)[1] for e in way if "thread " in e["text"]}
        assert len(threads) == 1, threads
    assert not [d for d in host.get("/v1/definitions")["definitions"] if d["holder"] == "vm:v/order"]


def test_shares_are_held_by_the_kernel(host, guest):
    """What is granted is held by a cgroup and not by a log line: cpuset and weight of the vCPU's thread."""
    if host.get("/v1/host")["cpu_provider"] == "affinity":
        pytest.skip("this machine has only affinity, which holds no shares")
    with App(guest, "held") as app:
        verdict = app.call("request", {"id": "held", "needs": ["cpu:1,share>=0.6"]})
        assert verdict["outcome"] == "granted"
        cpu = next(c for c in host.claims("vm:v/held"))["component"].split(":")[1]
        groups = [g for g in glob.glob(f"/sys/fs/cgroup/**/{host.name}/vcpu*@v", recursive=True)]
        weights = {open(f).read().strip() for g in groups for f in
                   glob.glob(f"{g}/cpu.shares") + glob.glob(f"{g}/cpu.weight")}
        assert "6000" in weights, (groups, weights)
        sets = {open(f).read().strip() for g in groups for f in glob.glob(f"{g}/cpuset.cpus")}
        assert cpu in sets, (groups, sets)
        threads = {t for g in groups for t in open(os.path.join(
            g, "tasks" if os.path.exists(os.path.join(g, "tasks")) else "cgroup.threads")).read().split()}
        assert threads <= set(os.listdir(f"/proc/{guest.pid()}/task"))
        app.call("release", {"id": "held"})
    ended_once(host, "held")


def test_what_is_granted_is_reserved(host, guest):
    """1.6: a second request for the same capacity is not granted until the first is released."""
    with App(guest, "first") as first, App(guest, "second") as second:
        need = {"needs": ["cpu:1,share>=0.95"]}
        assert first.call("request", {"id": "first", **need})["outcome"] == "granted"
        refused = second.call("request", {"id": "second", **need})
        assert (refused["outcome"], refused["reason"]) == ("not-now", "no-capacity")
        first.call("release", {"id": "first"})
        ended_once(host, "first")
        assert second.call("request", {"id": "third", **need})["outcome"] == "granted"
        second.call("release", {"id": "third"})
    ended_once(host, "third")


def test_asking_again_has_the_same_answer(host, guest):
    with App(guest, "again") as app:
        first = app.call("request", {"id": "again", "needs": ["memory:128M"]})
        again = app.call("request", {"id": "again", "needs": ["memory:128M"]})
        assert first == again and first["outcome"] == "granted"
        assert len(host.claims("vm:v/again")) == 1
        with pytest.raises(AppError) as other:
            app.call("request", {"id": "again", "needs": ["memory:256M"]})
        assert other.value.reason == "invalid"
        app.call("release", {"id": "again"})
        app.call("release", {"id": "again"})
    ended_once(host, "again")


def test_counter_offer_accepted(host, guest):
    """Two whole CPUs are not to be had beside the guest's own vCPU; one is, and is taken."""
    with App(guest, "less") as app:
        offer = app.call("request", {"id": "less", "needs": ["cpu:2,share>=0.95"], "counter": "less"})
        assert (offer["outcome"], offer["reason"]) == ("counter-offered", "no-capacity")
        assert offer["needs"] == [{"kind": "cpu", "amount": 1, "parameters": [
            {"name": "share", "relation": ">=", "value": 950}]}]
        assert 0 < offer["valid_ms"] <= 3000
        assert [c["state"] for c in host.claims("vm:v/less")] == ["held"]
        granted = app.call("accept", {"id": "less"})
        assert granted["outcome"] == "granted" and len(granted["cpus"]) == 1
        assert guest.cpus_online() == 2
        app.call("release", {"id": "less"})
    ended_once(host, "less")


def test_counter_offer_refused(host, guest):
    with App(guest, "decline") as app:
        free = host.free()
        offer = app.call("request", {"id": "decline", "needs": ["cpu:2,share>=0.95"], "counter": "less"})
        assert offer["outcome"] == "counter-offered"
        assert host.free() != free
        app.call("decline", {"id": "decline"})
        assert host.free() == free
        with pytest.raises(AppError) as late:
            app.call("accept", {"id": "decline"})
        assert late.value.reason in ("stale", "not-found")
    assert guest.cpus_online() == 1


def test_counter_offer_lapses(host, guest):
    """A hold is bounded in time: 3 s here."""
    with App(guest, "lapse") as app:
        free = host.free()
        offer = app.call("request", {"id": "lapse", "needs": ["cpu:2,share>=0.95"], "counter": "less"})
        assert offer["outcome"] == "counter-offered"
        wait_for("the hold is over", lambda: host.free() == free, 8, 0.2)
        with pytest.raises(AppError) as late:
            verdict = app.call("accept", {"id": "lapse"})
            raise AppError({"data": {"reason": verdict["reason"]}})
        assert late.value.reason in ("stale", "not-found", "timeout")
    assert "lapsed" in names(host.events("lapse"))


def test_no_counter_offer_where_none_is_wanted(host, guest):
    with App(guest, "none") as app:
        verdict = app.call("request", {"needs": ["cpu:2,share>=0.95"]})
        assert (verdict["outcome"], verdict["reason"]) == ("not-now", "no-capacity")
    assert guest.run("mete run --need 'cpu:2,share>=0.95' -- true")[0] == 75


@pytest.mark.parametrize("needs, outcome, reason, status", [
    (["cpu:7"], "never", "policy", 77),                       # beyond the room of its definition
    (["memory:16G"], "never", "policy", 77),
    (["cache:2"], "never", "unsupported", 78),                # a kind without a provider here
    (["cpu:1,clock>=3GHz"], "never", "unsupported", 78),      # a parameter without a source of truth
    (["cpu:2,share>=0.95"], "not-now", "no-capacity", 75),
    (["cpu:1", "memory:16G"], "never", "policy", 77),         # all or nothing
])
def test_refusals(host, guest, needs, outcome, reason, status):
    free = host.free()
    with App(guest, "refusal") as app:
        verdict = app.call("request", {"needs": needs})
        assert (verdict["outcome"], verdict["reason"]) == (outcome, reason), verdict
        assert verdict["sentence"]
    assert host.free() == free
    text = " ".join(f"--need '{n}'" for n in needs)
    assert guest.run(f"mete run {text} -- true")[0] == status


@pytest.mark.parametrize("need", ["cpu:0", "cpu:-1", "cpu:1.5", "cpu:", "cpu", "memory:1Q", "cpu:1,share>=0.5,share>=0.6",
                                  "cpu:99999999999999999999", "cpu:2..1", "cpu:1,share<=0.5", "cpu:1,share>=7", ""])
def test_refused_as_invalid(host, guest, need):
    with App(guest, "invalid") as app:
        with pytest.raises(AppError) as refused:
            app.call("request", {"needs": [need]})
        assert refused.value.reason == "invalid" and refused.value.message
    assert guest.run(f"mete run --need '{need}' -- true")[0] in (64, 65)


def test_refused_as_policy_of_this_vm_says_how_much(host, guest):
    status, text = guest.run("mete run --need cpu:7 -- true")
    assert status == 77 and "2" in text


def test_timeout(host, guest):
    """A request that is withdrawn while its resources are being made usable leaves nothing behind."""
    with App(guest, "timeout") as app:
        verdict = app.call("request", {"id": "timeout", "needs": ["cpu:1"], "timeout_ms": 20})
        assert (verdict["outcome"], verdict["reason"]) == ("not-now", "timeout")
    ended_once(host, "timeout")
    wait_for("the vCPU is off line", lambda: guest.cpus_online() == 1)


def test_cancelled_while_it_is_made_usable(host, guest):
    with App(guest, "asker") as asker, App(guest, "other") as other:
        number = asker.start("request", {"id": "cancelled", "needs": ["cpu:1"]})
        wait_for("it is reserved", lambda: host.events("cancelled"), 5)
        other.call("release", {"id": "cancelled"})
        try:
            verdict = asker.answer(number)
            # either the withdrawal came first, or the grant did and is over now
            assert (verdict["outcome"], verdict.get("reason")) in [("not-now", "cancelled"), ("granted", None)]
        except AppError as refused:
            assert refused.reason == "cancelled"
    ended_once(host, "cancelled")


def test_release_by_others(host, guest):
    """Release is for the same uid, and for root."""
    with App(guest, "app", user="app") as app, App(guest, "stranger", user="other") as stranger:
        assert app.call("request", {"id": "mine", "needs": ["memory:128M"]})["outcome"] == "granted"
        with pytest.raises(AppError) as refused:
            stranger.call("release", {"id": "mine"})
        assert refused.value.reason in ("denied", "not-found")
        assert host.claims("vm:v/mine")
        assert [r for r in stranger.call("list")["rows"] if r["id"] == "mine"] == []
        assert guest.run("mete release mine")[0] == 0
    ended_once(host, "mine")


def test_not_found(host, guest):
    with App(guest, "nobody") as app:
        for method in ("release", "accept", "decline"):
            with pytest.raises(AppError) as refused:
                app.call(method, {"id": "never-heard-of"})
            assert refused.value.reason == "not-found"
    assert guest.run("mete release never-heard-of")[0] == 66


def test_busy(host, guest):
    """At most so many live requests of one VM ([limits] requests_per_vm=5 here)."""
    with App(guest, "many") as app:
        for i in range(5):
            assert app.call("request", {"id": f"many-{i}", "needs": ["memory:128M"]})["outcome"] == "granted"
        verdict = app.call("request", {"id": "many-5", "needs": ["memory:128M"]})
        assert verdict["outcome"] == "not-now" and verdict["reason"] == "busy", verdict
        # the limit is on what is held, not on what was ever asked
        app.call("release", {"id": "many-0"})
        ended_once(host, "many-0")
        assert app.call("request", {"id": "many-6", "needs": ["memory:128M"]})["outcome"] == "granted"
    for i in (1, 2, 3, 4, 6):
        ended_once(host, f"many-{i}")


def test_mete_in_the_guest(host, guest):
    """requests, leases and release as a person uses them; the exit status of run is the command's."""
    assert guest.run("mete run --need memory:128M -- sh -c 'exit 7'")[0] == 7
    assert guest.run("mete run --need memory:128M -- /no/such/program")[0] in (126, 127)
    guest.console.start("sleeper", "mete run --need memory:128M -- sleep 60")
    wait_for("a lease is listed", lambda: "memory:128M" in guest.run("mete leases")[1], 20, 0.2)
    rows = json.loads(guest.check("mete leases --json"))["rows"]
    assert "sleep" in guest.check("mete requests") or rows
    lease = next(r for r in rows if r["state"] == "granted")
    assert guest.run(f"mete release {lease['id']}")[0] == 0
    guest.run("killall sleep")
    ended_once(host, lease["id"])


def test_release_without_waiting_is_still_once(host, guest):
    """Many short leases one after another: the ledger ends where it began, each returned once."""
    after = host.last_event()
    for _ in range(5):
        assert guest.run("mete run --need memory:128M -- true")[0] == 0
    wait_for("all have ended", lambda: names(host.events(after=after)).count("ended") == 5, 30, 0.1)
    time.sleep(0.3)
    assert names(host.events(after=after)).count("ended") == 5

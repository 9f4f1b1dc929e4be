# SPDX-License-Identifier: Apache-2.0
"""Separation (5.7 to 5.12): what a VM has in a node that its hypervisor keeps is moved, while it runs, to one that may change
hands, exactly that, and then it is handed over; what is kept is the source's before and after."""
import os
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from nested import CannotRun  # noqa: E402
from nested_server import NestedServer  # noqa: E402

MIB = 1 << 20
KEPT, FREE = "memory:node0", "memory:node1"
HALF, ALL = 128 * MIB, 256 * MIB  # of its memory; the first half is claimed on node 0
OF_A = 512 * MIB  # of node 1
AREA = 2  # MiB that the guest dirties over and over; to move a page takes milliseconds, where CPUs are emulated


@pytest.fixture(scope="module")
def server():
    """a has all CPUs of node 0, which it keeps the memory of, and memory of node 1; b has the rest of that."""
    host = NestedServer(smp=4, memory="3G", nodes=2)
    try:
        host.__enter__()
    except CannotRun as e:
        pytest.skip(f"no nested host: {e}")
    try:
        host.start_server(f"a:cpus=0-1,memory=512M,keep={KEPT}", "b:node=1")
        host.server("give", FREE, "--amount", "512M", "--from", "b", "--to", "a")
        host.a, host.b = host.hypervisors["a"], host.hypervisors["b"]
        deadline = time.monotonic() + 120
        while host.a.free(1) < OF_A:
            assert time.monotonic() < deadline, "a did not get the memory that it was given"
            time.sleep(0.5)
        yield host
    finally:
        host.close()


@pytest.fixture
def vm(server):
    """Half of its memory is claimed on each node; what it touches lies on node 0, where its vCPU is."""
    a = server.a
    try:
        a.fill(0, 128 * MIB)
        a.fill(1, 128 * MIB)
        vm = a.vm("v", f"dirty=20 area={AREA} say=0", memory="256M..256M")
        a.empty(0)
        server.wait_for_board(vm, "all of its area was dirtied", lambda b: b.passes >= 1)
        assert a.claims("vm:v") == {KEPT: 128 * MIB, FREE: 128 * MIB}
        yield vm
    finally:
        server.fault("")
        for h in (server.a, server.b):
            h.end_vms()
        a.empty(0)
        a.empty(1)
        went = OF_A - server.managers()[FREE]["a"]
        if went:
            server.server("give", FREE, "--amount", f"{went // MIB}M", "--from", "b", "--to", "a")


def wait_for(condition, timeout_s=300):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.3)


def lies(vm):
    """Where it lies, as the kernel says."""
    ram = vm.memory()
    print(f"{vm.name} at {vm.host.name}: {ram.policy} {ram.pages}")
    return ram


def test_exactly_what_is_kept_is_moved_and_then_it_is_handed_over(server, vm):
    before, managers, inode = lies(vm), server.managers(), vm.inode()
    kept = before.pages.get(0, 0)
    assert before.policy == "bind:0-1" and kept >= AREA * MIB
    assert sum(before.pages.values()) == server.allocated(vm.ram)  # nothing of it lies where it is not seen
    server.a.empty(1)

    said = server.hand_over(vm, "b", "--dry-run")
    assert said["would"] and said["separated_bytes"] == kept and said["separate_ms"] >= 60000, said
    parts = {p["component"]: p for p in said["parts"]}
    assert (parts[KEPT]["portion"], parts[KEPT]["why"], parts[KEPT]["moved"]) == ("separable", "kept", 128 * MIB), parts
    assert (parts[FREE]["portion"], parts[FREE]["amount"]) == ("reassignable", 256 * MIB), parts
    assert lies(vm).pages == before.pages  # nothing was touched

    said, separated = server.hand_over_at_last(vm, "b", "--within", "20m")
    assert said["state"] == "running-on-target", (said, server.log("sp")[-3000:])
    assert separated == kept and said["ram_bytes"] == 0 and said["assigned"], (
        said, kept, server.b.mete_check("events")[-3000:], server.a.mete_check("events")[-3000:])
    assert vm.inode() == inode  # the same memory
    if said.get("separated_bytes"):  # else one before did that
        assert said["separate_ms"] == 20 * 60000, said
        assert f"{kept} bytes of its memory were moved before" in server.handover(said["id"])

    passes = vm.board().passes
    server.wait_for_board(vm, "it goes on there", lambda b: b.passes >= passes + 2)
    assert vm.board().wrong_pages == 0
    after = lies(vm)
    assert after.policy == "bind:1" and set(after.pages) == {1}
    assert AREA * MIB <= after.pages[1] <= server.allocated(vm.ram)

    assert server.b.claims("vm:v") == {FREE: 256 * MIB} and server.a.claims("vm:v") == {}
    now = server.managers()
    assert now[KEPT] == managers[KEPT] and now[KEPT].get("b", 0) == 0  # what cannot leave is the source's still
    assert now[FREE]["b"] == managers[FREE]["b"] + 256 * MIB and now[FREE]["a"] == managers[FREE]["a"] - 256 * MIB
    assert "as it was granted" in server.b.mete_check("vm", "verify", "v")


def test_without_room_nothing_is_moved(server, vm):
    """Refused before anything moves, and what is in the way is named."""
    before = lies(vm)
    for words in (("--dry-run",), ()):
        said = server.hand_over(vm, "b", *words)
        assert said["state"] == "rolled-back" and said["reason"] == "unreassignable", said
        assert KEPT in said["sentence"] and "128 MiB" in said["sentence"] and "room" in said["sentence"], said
        assert not said.get("would") and not said.get("separated_bytes"), said
    assert lies(vm) == before
    assert server.a.claims("vm:v") == {KEPT: 128 * MIB, FREE: 128 * MIB}
    assert "as it was granted" in server.a.mete_check("vm", "verify", "v")


def test_a_node_that_has_no_real_room_is_refused(server, vm):
    """By the books there is room, but somebody else on the host has taken it: nothing is bound to where there are no pages."""
    server.a.empty(1)
    hog = server.background("nested-tool hog 1 200", "/tmp/hog")
    try:
        server.wait_for("the node is full", "grep -q there /tmp/hog", 300)
        said = server.hand_over(vm, "b")
        assert said["state"] == "rolled-back" and said["reason"] == "no-capacity", said
        assert "node 1" in said["sentence"] and "to spare" in said["sentence"], said
        wait_for(lambda: server.a.claims("vm:v") == {KEPT: HALF, FREE: HALF})  # what is half way goes back without that room
        passes = vm.board().passes
        server.wait_for_board(vm, "it runs on", lambda b: b.passes >= passes + 2)
    finally:
        server.end(hog)
    assert "as it was granted" in server.a.mete_check("vm", "verify", "v") and vm.board().wrong_pages == 0


def shown(a):
    """How the last consolidation stands."""
    return a.mete_json("host", "consolidate", "--show")


def consolidation_ended(a):
    wait_for(lambda: "ended_ms" in shown(a))
    return shown(a)


def test_a_scattered_vm_is_brought_together(server, vm):
    """5.20: while it runs, to one node, within what is free; not where nothing is."""
    a = server.a
    assert a.mete_json("host", "consolidate", "--limit", "64M", "--dry-run")["steps"] == []
    before = lies(vm)
    plan = a.mete_json("host", "consolidate", "--dry-run")
    assert plan["dry_run"] and plan["scattered"] == plan["passed_over"] == 0 and plan["moved_bytes"] == HALF, plan
    assert plan["steps"] == [{"vm": "v", "from": FREE, "to": KEPT, "bytes": HALF}], plan  # on node 1 nothing is free
    assert lies(vm) == before
    assert a.mete_json("host", "consolidate", "v")["steps"] == plan["steps"]
    said = consolidation_ended(a)
    assert said["state"] == "done" and [t["state"] for t in said["vms"]] == ["together"], said
    assert " consolidated " in a.mete_check("events", "--trace", "v")
    after = lies(vm)
    assert after.policy == "bind:0" and set(after.pages) == {0} and vm.board().wrong_pages == 0
    assert a.claims("vm:v") == {KEPT: ALL}
    assert a.free(1) == HALF  # what it has left is free
    assert "as it was granted" in a.mete_check("vm", "verify", "v")
    assert a.mete_json("host", "consolidate")["steps"] == []
    assert a.mete_json("host", "consolidate", "--cancel") == said  # too late: how it ended
    status, text = a.mete("host", "consolidate", "nobody")
    assert status != 0 and "nobody" in text


@pytest.fixture
def half_consolidated(server, vm):
    """What it touches lies on node 1, and goes to node 0: some of it has, some has not, and its meted holds."""
    server.check(f"nested-tool migrate {vm.pid()} 0 1")
    assert lies(vm).pages[1] >= AREA * MIB
    server.fault("half way ram hold")
    return server.a


def holds_half_way(server, vm):
    server.wait_for_held()
    pages = lies(vm).pages
    assert pages.get(0, 0) > 0 and pages.get(1, 0) > 0, pages


def is_as_it_was(server, vm, begin, node):
    """In the books, and on the host: all of the half that went back is there again. The other one may be on either node, as ever."""
    assert server.a.claims("vm:v") == {KEPT: HALF, FREE: HALF}
    assert set(vm.lies_in(begin, begin + HALF)) <= {node} and set(lies(vm).pages) <= {0, 1}
    assert "as it was granted" in server.a.mete_check("vm", "verify", "v") and vm.board().wrong_pages == 0


def test_a_consolidation_is_cancelled_half_way(server, vm, half_consolidated):
    """Meanwhile nothing else moves it; what is half way goes back, and the books say so."""
    a = half_consolidated
    a.mete_json("host", "consolidate", "v", "--within", "20m")
    holds_half_way(server, vm)
    assert a.claims("vm:v") == {KEPT: ALL, FREE: HALF}  # where it goes to, and what it has yet to leave
    status, text = a.mete("host", "consolidate")
    assert status != 0 and "being brought together" in text, text
    status, text = a.mete("move", "v", "--to", "elsewhere", "--best-effort")
    assert status != 0 and "from one node of this host to another" in text, text
    said = server.hand_over(vm, "b")
    assert said["state"] == "rolled-back" and said["reason"] == "busy" and "another node" in said["sentence"], said
    said = a.mete_json("host", "consolidate", "--cancel")
    assert said["state"] == "cancelled" and said["vms"][0]["state"] == "going-back" and "ended_ms" not in said, said
    server.let_go()
    said = consolidation_ended(a)
    assert said["state"] == "cancelled" and said["vms"][0]["state"] == "stayed", said
    is_as_it_was(server, vm, HALF, 1)


def test_a_consolidation_ends_with_its_time(server, vm, half_consolidated):
    """It holds before its first piece, so that it is late for certain."""
    a = half_consolidated
    server.fault("repair host ram hold")
    a.mete_json("host", "consolidate", "v", "--within", "5s")
    server.wait_for_held()
    wait_for(lambda: shown(a)["state"] == "timeout")
    server.let_go()
    said = consolidation_ended(a)
    assert said["state"] == "timeout" and said["vms"][0]["state"] == "stayed", said
    is_as_it_was(server, vm, HALF, 1)


def test_a_consolidation_goes_on_after_a_restart(server, vm, half_consolidated):
    a = half_consolidated
    server.fault("half way ram die")
    pid = server.pid_of("a")
    a.mete_json("host", "consolidate", "v", "--within", "20m")
    starts_again(server, pid)
    said = consolidation_ended(a)
    assert said["state"] == "done" and said["vms"][0]["state"] == "together" and "moved_bytes" not in said["vms"][0], said
    assert a.claims("vm:v") == {KEPT: ALL} and set(vm.lies_in(0, ALL)) == {0} and vm.board().wrong_pages == 0


def starts_again(server, pid):
    """Its meted, which dies where it was told to."""
    server.wait_for("its meted dies", f"{{ [ ! -d /proc/{pid} ] || grep -q '^State:.Z' /proc/{pid}/status; }}", 300)
    wait_for(lambda: server.run("mete server start a --socket /run/mete-sp/sp.sock")[0] == 0)


NUMBERS = iter(range(1, 100))


@pytest.fixture
def half_way(server, vm):
    """A handover of vm that is being separated: some of what it touches has been moved, some has not, and its meted holds."""
    number = f"half-way-{next(NUMBERS)}"
    server.a.empty(1)
    server.fault("half way ram hold")
    server.ask("handover", "v", "--to", "b", "--id", number, "--within", "20m")
    holds_half_way(server, vm)
    return number


def test_broken_off_half_way_it_goes_back(server, vm, half_way):
    assert server.a.claims("vm:v") == {KEPT: HALF, FREE: ALL}  # what it leaves is claimed until it has
    assert server.state(half_way)["state"] == "accepted"
    server.ask("handover", "cancel", half_way)
    server.let_go()
    wait_for(lambda: "ended_ms" in server.state(half_way))
    assert server.state(half_way)["state"] == "rolled-back" and "separated_bytes" not in server.state(half_way)
    wait_for(lambda: server.a.claims("vm:v") == {KEPT: HALF, FREE: HALF})
    is_as_it_was(server, vm, 0, 0)
    assert vm.lies_in(0, HALF)[0] >= AREA * MIB


def test_not_done_within_its_time_it_goes_back(server, vm):
    server.a.empty(1)
    server.fault("repair host ram hold")
    server.ask("handover", "v", "--to", "b", "--id", "too-late", "--within", "5s")
    server.wait_for_held()
    wait_for(lambda: "ended_ms" in server.state("too-late"))
    said = server.state("too-late")
    assert said["state"] == "rolled-back" and said["reason"] == "timeout" and said["separate_ms"] == 5000, said
    server.let_go()
    wait_for(lambda: server.a.claims("vm:v") == {KEPT: HALF, FREE: HALF})
    is_as_it_was(server, vm, 0, 0)
    assert vm.lies_in(0, HALF)[0] >= AREA * MIB


def test_its_meted_dies_half_way(server, vm):
    """The next one goes on with it; how many bytes it was nobody knows then."""
    server.a.empty(1)
    pid = server.pid_of("a")
    server.fault("half way ram die")
    server.ask("handover", "v", "--to", "b", "--id", "dies", "--within", "20m")
    starts_again(server, pid)
    wait_for(lambda: "ended_ms" in server.state("dies"))
    said = server.state("dies")
    assert "separated_bytes" not in said, said
    if said.get("reason") == "timeout":  # of its VMM there
        said, _ = server.hand_over_at_last(vm, "b")
    else:
        vm.goes_to("b")
    assert said["state"] == "running-on-target", (said, server.log("sp")[-3000:])
    passes = vm.board().passes
    server.wait_for_board(vm, "it goes on there", lambda b: b.passes >= passes + 2)
    after = lies(vm)
    assert after.policy == "bind:1" and set(after.pages) == {1} and vm.board().wrong_pages == 0
    assert server.b.claims("vm:v") == {FREE: ALL} and server.a.claims("vm:v") == {}

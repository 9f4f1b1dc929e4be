# SPDX-License-Identifier: Apache-2.0
"""What a lease gives on cgroup v2, for its time and not longer: the test plays the guest's agent."""
import json

import pytest

HELD = 0.75


@pytest.fixture
def vm(nested):
    """One base vCPU of 0.2, with room for two more."""
    return nested.vm("v", cpus="1..3", memory="128M..512M", share="0.2", agent=True)


def test_an_exclusive_cpu_is_its_vcpus_own(nested, vm):
    other = nested.vm("w", share="0.2")
    shared = nested.check("cat /sys/fs/cgroup/mete/emulator@w/cpuset.cpus").strip()

    def may_run_on(pid):
        return nested.check(f"grep Cpus_allowed_list /proc/{pid}/status").split()[1]

    def where_seen(pid, times=40):
        """CPUs on which it was, in so many looks."""
        text = nested.check(f"n=0; while [ $n -lt {times} ]; do cut -d' ' -f39 /proc/{pid}/stat; usleep 20000; n=$((n + 1)); done")
        return set(text.split())

    with vm.agent() as agent:
        # A share of all of it: others weigh little, and run there.
        assert agent.reserve("shared", {"kind": "cpu", "amount": 1, "parameters": [least(1000)]})["outcome"] == "granted"
        thread, cpu = vm.threads()[1], vm.cpus(1)
        vm.work()
        spinners = [nested.spin(cpu, group=f"mete/emulator@{name}") for name in ("v", "w")]
        ours, *others = nested.shares(thread, *spinners)
        print(f"a share of 1: {ours}, spinners in emulator groups " + ", ".join(map(str, others)))
        assert all(s.ran > 0 for s in others) and where_seen(spinners[0]) == {cpu}
        agent.release("shared")
        agent.wait_until(lambda: vm.group(1) == "mete/parked@v")
        # Exclusively: whoever was there is elsewhere.
        verdict = agent.reserve("lease", {"kind": "cpu", "amount": 1, "parameters": [{"name": "exclusive", "relation": "="}]})
        assert verdict["outcome"] == "granted", verdict
        assert any("outside of mete" in f for f in verdict["fallbacks"])
        slot, = verdict["cpus"]
        thread, cpu = vm.threads()[slot], vm.cpus(slot)
        late = nested.vm("late", share="0.2")
        assert vm.group(slot) == f"mete/vcpu{slot}@v"
        vm.work()
        spinners += [nested.spin(group=f"mete/emulator@{name}") for name in ("v", "w", "late") for _ in range(2)]
        ours, *others = nested.shares(thread, *spinners)
        print(f"exclusive CPU {cpu}: {ours}, spinners elsewhere " + ", ".join(map(str, others)))
        assert ours.held > 0.9
        for pid in [*spinners, vm.pid(), other.pid(), late.pid()]:
            assert cpu not in expand(may_run_on(pid))
            assert cpu not in where_seen(pid, 10)
        lines = [d for d in nested.mete_json("definition", "list")["definitions"] if d.get("exclusive")]
        assert [d["item"] for d in lines] == [f"vcpu{slot}"]
        agent.release("lease")
        agent.wait_until(lambda: vm.group(slot) == "mete/parked@v")
        nested.wait_for("CPUs are shared again", f"[ \"$(cat /sys/fs/cgroup/mete/emulator@w/cpuset.cpus)\" = {shared} ]")
        assert cpu in expand(may_run_on(spinners[-1]))


def test_what_is_named_is_what_is_granted(nested, vm):
    """A CPU by its number, CPUs and memory by their node: that, or nothing."""
    def named(kind, amount, **parameters):
        return {"kind": kind, "amount": amount,
                "parameters": [{"name": n, "relation": "=", "value": v} for n, v in parameters.items()]}

    def give_back(agent, request):
        agent.release(request)
        agent.wait_until(lambda: not any(c["holder"] == f"vm:v/{request}" for c in nested.mete_json("ledger")["claims"]))

    base = vm.cpus(0)
    other = next(c for c in "0123" if c != base)
    with vm.agent() as agent:
        [slot] = agent.reserve("id", named("cpu", 1, id=int(other)))["cpus"]
        assert vm.cpus(slot) == other
        give_back(agent, "id")
        need = named("cpu", 2, node=1)
        need["parameters"].append(least(500))  # the base vCPU may have a part of one of them
        assert {vm.cpus(s) for s in agent.reserve("node", need)["cpus"]} == {"2", "3"}
        for node in range(2):
            assert agent.reserve(f"memory{node}", named("memory", 128 << 20, node=node))["outcome"] == "granted"
            assert f"bind:{node} " in nested.check(f"grep /dimm{node}- /proc/{vm.pid()}/numa_maps")
        verdict = agent.reserve("none", named("memory", 128 << 20, node=2))
        assert (verdict["outcome"], verdict["reason"]) == ("never", "not-found"), verdict


def test_what_was_changed_by_hand_is_made_again_what_was_granted(nested, vm):
    top = "/sys/fs/cgroup/mete"
    shared = nested.check(f"cat {top}/emulator@v/cpuset.cpus").strip()

    def verify():
        status, text = nested.mete("vm", "verify", "v")
        assert status == 0, text

    with vm.agent() as agent:
        verdict = agent.reserve("lease", {"kind": "cpu", "amount": 1, "parameters": [{"name": "exclusive", "relation": "="}]})
        slot, = verdict["cpus"]
        thread, cpu, group = vm.threads()[slot], vm.cpus(slot), f"{top}/vcpu{slot}@v"
        weight = nested.read(f"{group}/cpu.weight")
        nested.check(f"echo 30 >{group}/cpu.weight; echo {shared} >{group}/cpuset.cpus; echo {shared} >{top}/emulator@v/cpuset.cpus")
        verify()
        assert nested.read(f"{group}/cpu.weight") == weight and vm.cpus(slot) == cpu
        assert cpu not in expand(nested.read(f"{top}/emulator@v/cpuset.cpus").strip())
        # Out of its group, with the group gone; and a thread that has no business there.
        nested.check(f"echo {thread} >{top}/emulator@v/cgroup.threads; rmdir {group}")
        verify()
        assert vm.group(slot) == f"mete/vcpu{slot}@v" and nested.read(f"{group}/cpu.weight") == weight
        nested.check(f"echo {vm.pid()} >{group}/cgroup.threads")
        verify()
        assert nested.cgroup_of(vm.pid()) == "mete/emulator@v"
        assert nested.check(f"cat {group}/cgroup.threads").split() == [str(thread)]
        # While there is no keeper: it restores what is exclusive itself, and meted looks when it is back.
        nested.end(nested.keeper_pid)
        nested.check(f"echo 30 >{group}/cpu.weight; echo {shared} >{top}/emulator@v/cpuset.cpus")
        nested.start_keeper()
        nested.wait_for("the keeper followed its notes", f"[ \"$(cat {top}/emulator@v/cpuset.cpus)\" != {shared} ]")
        assert cpu not in expand(nested.read(f"{top}/emulator@v/cpuset.cpus").strip())
        nested.wait_for("meted has looked at it", f"[ $(cat {group}/cpu.weight) = {weight.strip()} ]")
        agent.release("lease")
        agent.wait_until(lambda: vm.group(slot) == "mete/parked@v")
    said = [e["event"] for e in map(json.loads, nested.mete_check("events", "--json").splitlines())
            if e["trace"] == "v/lease" and e["event"] in ("changed", "repaired", "repair-failed")]
    assert said == ["changed", "repaired"] * 4


def expand(cpus):
    """The CPUs of a list such as 0-1,3, as texts."""
    found = set()
    for part in cpus.split(","):
        first, _, last = part.partition("-")
        found |= {str(i) for i in range(int(first), int(last or first) + 1)}
    return found


def least(share):
    return {"name": "share", "relation": ">=", "value": share}


def test_a_leased_vcpu_has_no_ceiling(nested):
    """That of its VM is for the vCPUs that it always has; a lease says what is held at least."""
    vm = nested.vm("v", cpus="1..2", share="0.2..0.5", agent=True)
    with vm.agent() as agent:
        verdict = agent.reserve("lease", {"kind": "cpu", "amount": 1, "parameters": [least(900)]})
        assert verdict["outcome"] == "granted" and verdict["cpus"] == [1], verdict
        tids, top = vm.threads(), "/sys/fs/cgroup/mete"
        assert nested.read(f"{top}/vcpu0@v/cpu.max").split()[0] == "5000"
        assert nested.read(f"{top}/vcpu1@v/cpu.max").split()[0] == "max"
        vm.work()
        base, leased = nested.shares(tids[0], tids[1])
        print(f"base {base}, leased {leased}")
        assert vm.cpus(0) != vm.cpus(1), "there is no room for both on one CPU"
        assert base.ran < 0.6 and leased.ran > 0.8
        agent.release("lease")
        agent.wait_until(lambda: vm.group(1) == "mete/parked@v")
        assert nested.read(f"{top}/parked@v/cpu.max").split()[0] == "max"


def test_a_leased_vcpu_holds_its_share_and_a_hostile_guest_does_not_keep_it(nested, vm):
    with vm.agent() as agent:
        verdict = agent.reserve("lease", {"kind": "cpu", "amount": 1, "parameters": [least(800)]})
        assert verdict["outcome"] == "granted" and verdict["cpus"] == [1], verdict
        thread, cpu = vm.threads()[1], vm.cpus(1)
        vm.work()
        spinner = nested.spin(cpu)
        share, competing = nested.shares(thread, spinner)
        print(f"leased {share}, the spinner {competing}")
        assert share.held >= HELD and competing.ran > 0
        agent.release("lease")
        agent.wait_until(lambda: vm.group(1) == "mete/parked@v")
        # The agent said that it is off line, but the guest goes on with it. Others have the CPUs now.
        spinners = [spinner] + [nested.spin(str(i)) for i in range(nested.smp) if str(i) != cpu]
        base, kept, *others = nested.shares(vm.threads()[0], thread, *spinners)
        print(f"base vCPU {base}, given back {kept}, spinners " + ", ".join(map(str, others)))
        assert base.held >= 0.2 and kept.held < HELD

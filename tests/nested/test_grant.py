# SPDX-License-Identifier: Apache-2.0
"""What a lease gives on cgroup v2, for its time and not longer: the test plays the guest's agent."""
import pytest

HELD = 0.78


@pytest.fixture
def vm(nested):
    """One base vCPU of 0.2, with room for two more."""
    return nested.vm("v", cpus="1..3", memory="128M..512M", share="0.2", agent=True)


def least(share):
    return {"name": "share", "relation": ">=", "value": share}


def test_a_leased_vcpu_holds_its_share_and_a_hostile_guest_does_not_keep_it(nested, vm):
    with vm.agent() as agent:
        verdict = agent.reserve("lease", {"kind": "cpu", "amount": 1, "parameters": [least(800)]})
        assert verdict["outcome"] == "granted" and verdict["cpus"] == [1], verdict
        thread, cpu = vm.threads()[1], vm.cpus(1)
        vm.work()
        spinner = nested.spin(cpu)
        share, competing = nested.shares(thread, spinner)
        print(f"leased {share:.3f}, the spinner {competing:.3f}")
        assert share / (share + competing) >= HELD and competing > 0
        agent.release("lease")
        agent.wait_until(lambda: vm.group(1) == "mete/parked@v")
        # The agent said that it is off line, but the guest goes on with it. Others have the CPUs now.
        spinners = [spinner] + [nested.spin(str(i)) for i in range(nested.smp) if str(i) != cpu]
        base, kept, *others = nested.shares(vm.threads()[0], thread, *spinners)
        print(f"base vCPU {base:.3f}, given back {kept:.3f}, spinners " + " ".join(f"{s:.3f}" for s in others))
        assert base >= 0.2 and kept < HELD

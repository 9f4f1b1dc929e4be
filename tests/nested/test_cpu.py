# SPDX-License-Identifier: Apache-2.0
"""What a granted share of a CPU is worth on cgroup v2, measured beside who competes for the CPU.

All times are the nested host's own, as its scheduler counts them: how fast the machine underneath is, and what else
runs there, divides out.
"""

HELD = 0.75  # what a share of 0.8 must be worth at least: the window, and what has no share, take some


def measure(nested, vm, *others, slot=0):
    """The Share of the vCPU, and those of the others, of the CPU on which they all are."""
    tid = vm.threads()[slot]
    shares = nested.shares(tid, *others)
    print(f"vCPU {slot} of {vm.name} {shares[0]}, the others " + ", ".join(map(str, shares[1:])))
    # One CPU was shared; a thread that ran elsewhere would make more of it.
    assert 0.8 < sum(s.ran for s in shares) < 1.1, shares
    return shares


def test_the_provider_is_cgroup_v2(nested):
    assert nested.mete_json("host", "show")["cpu_provider"] == "cgroup-v2"
    vm = nested.vm("v", share="0.8")
    assert vm.group().startswith("mete/vcpu")
    assert nested.read(f"/sys/fs/cgroup/{vm.group()}/cgroup.type").strip() == "threaded"
    assert nested.read(f"/sys/fs/cgroup/{vm.group()}/cpuset.cpus.effective").strip() == vm.cpus()


def test_a_share_is_held_against_a_spinner_and_without_the_grant_it_is_not(nested):
    vm = nested.vm("v", share="0.8")
    cpu = vm.cpus()
    assert cpu.isdigit(), cpu
    vm.work()
    before = vm.board().rounds[0]
    assert measure(nested, vm)[0].ran > 0.9, "alone it has all of the CPU"
    spinner = nested.spin(cpu)
    assert measure(nested, vm, spinner)[0].held >= HELD
    # Nothing but the grant is taken away: the same VMM and spinner, the same CPU, two groups of the same weight.
    group = nested.group("by-hand")
    nested.check(f"echo {vm.pid()} >{group}/cgroup.procs")
    nested.check(f"taskset -p {1 << int(cpu):x} {vm.threads()[0]}")
    assert vm.group() == "by-hand" and vm.cpus() == cpu
    share, competing = measure(nested, vm, spinner)
    assert share.held < HELD and competing.ran > 0.3
    assert vm.board().rounds[0] > before, "the guest worked meanwhile"


def test_every_vcpu_holds_its_share_with_a_spinner_on_every_cpu(nested):
    vm = nested.vm("v", cpus="4..4", share="0.8")
    slots = vm.threads()
    cpus = {slot: vm.cpus(slot) for slot in slots}
    assert sorted(cpus.values()) == ["0", "1", "2", "3"]
    vm.work()
    spinners = [nested.spin(cpu) for cpu in cpus.values()]
    shares = nested.shares(*slots.values(), *spinners)
    print("vCPUs " + ", ".join(map(str, shares[:4])) + ", spinners " + ", ".join(map(str, shares[4:])))
    assert min(v.held for v in shares[:4]) >= HELD
    # One whose windows were short of the machine's time may have got nothing in most of them.
    assert sum(s.ran for s in shares[4:]) > 0, "they did compete"


def test_two_vms_share_a_cpu_as_granted(nested):
    # A CPU has 1000 thousandths: beside each of four vCPUs of 0.8 there is room for one of 0.2.
    small = nested.vm("small", share="0.2")
    big = nested.vm("big", cpus="4..4", share="0.8")
    cpu = small.cpus()
    slot = next(s for s in big.threads() if big.cpus(s) == cpu)
    big.work()
    small.work()
    share, other = measure(nested, big, small.threads()[0], slot=slot)
    assert share.held >= 0.7 and other.held >= 0.1, "they were granted 4 to 1"
    assert share.ran > other.ran > 0.1, "they did compete"


def test_a_share_is_held_while_emulators_are_busy(nested):
    small = nested.vm("small", cpus="4..4", share="0.2")
    big = nested.vm("big", share="0.8")
    cpu = big.cpus()
    slot = next(s for s in small.threads() if small.cpus(s) == cpu)
    big.work()
    small.work()
    # As a VMM's main loop would, kept busy by its guest, or taken over by it.
    emulators = [nested.spin(cpu, group=f"mete/emulator@{vm.name}") for vm in (big, small)]
    share, other, *rest = measure(nested, big, small.threads()[slot], nested.spin(cpu), *emulators)
    # Nothing is left beside 0.8 and 0.2: what the others weigh is theirs. A vCPU may wait for its main loop, which competes
    # with who took it over, so only of the time in which it could run is a share of it meant.
    assert share.held >= 0.7 and other.held >= 0.1, "they were granted 4 to 1"
    assert share.ran > other.ran > 0.1, "they did compete"
    assert all(s.held < 0.04 for s in rest), "two emulators and a spinner weigh little beside what was granted"


def test_a_ceiling_is_held_with_nobody_else_on_the_cpu(nested):
    vm = nested.vm("v", share="0.2..0.5")
    tid, group = vm.threads()[0], f"/sys/fs/cgroup/{vm.group()}"

    def quota():
        return nested.read(f"{group}/cpu.max").split()

    def ran():
        share, = nested.shares(tid)
        print(f"vCPU of 0.2..0.5 with quota {quota()[0]}, alone: {share}")
        return share.ran

    vm.work()
    assert quota() == ["5000", "10000"] and 0.1 < ran() < 0.6
    # Nothing but the quota holds it.
    nested.check(f"echo max >{group}/cpu.max")
    assert ran() > 0.8
    status, text = nested.mete("vm", "verify", "v")
    assert status == 0, text
    assert quota() == ["5000", "10000"] and ran() < 0.6
    shown = nested.mete_json("vm", "show", "v")
    assert (shown["share_milli"], shown["cpu_ceiling_milli"]) == (200, 500)

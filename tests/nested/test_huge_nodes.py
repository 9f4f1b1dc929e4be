# SPDX-License-Identifier: Apache-2.0
"""Memory on huge pages where there are two nodes: it lies on the node that it was granted on, and the pools of both are
as before when it is given back. The test plays the guest's agent."""
import pytest

PAGE = 2 << 20
KIB = PAGE >> 10
RAM = 128 << 20


def pools(nested):
    """[pages in all, free pages] of each node."""
    text = nested.check("cd /sys/devices/system/node; for n in 0 1; do for f in nr free; do "
                        f"cat node$n/hugepages/hugepages-{KIB}kB/${{f}}_hugepages; done; done")
    numbers = list(map(int, text.split()))
    return [numbers[:2], numbers[2:]]


def free_of(nested, node):
    return next(c["free"] for c in nested.mete_json("host", "show")["components"] if c["id"] == f"memory:node{node}")


def huge_vm(nested, name, **options):
    vm = nested.vm(name, append="dirty=200 area=48 say=0" + (" bridge=1" if options.get("agent") else ""), start=False,
                   memory="128M..512M", page="2M", **options)
    vm.ram = f"/dev/hugepages/mete/{name}/ram0"
    vm.start()
    return vm


def node_of(nested, vm):
    [claim] = [c for c in nested.mete_json("ledger")["claims"]
               if c["holder"] == f"vm:{vm.name}" and c["component"].startswith("memory:")]
    return int(claim["component"].removeprefix("memory:node"))


@pytest.fixture
def before(nested):
    memory = [c for c in nested.mete_json("host", "show")["components"] if c["kind"] == "memory"]
    if not all(PAGE in c.get("page_bytes", []) for c in memory):
        pytest.skip("the kernel of the nested host has no pages of 2 MiB")
    return pools(nested)


def ended(nested, before, *vms):
    for vm in vms:
        nested.mete_check("vm", "kill", vm.name)
    assert pools(nested) == before
    assert nested.check("find /dev/hugepages -type f") == ""


def test_a_vm_and_a_lease_lie_on_their_node(nested, before):
    a = huge_vm(nested, "a")
    node = node_of(nested, a)
    nested.mete_check("reserve", "fill-huge", "--need", f"memory:{free_of(nested, node) >> 20}M")  # no more room there
    b = huge_vm(nested, "b", agent=True)
    other = node_of(nested, b)
    assert {node, other} == {0, 1}
    for vm, at in (a, node), (b, other):
        ram = vm.memory()
        print(f"{vm.name}: claimed on node {at}, {ram.policy} {ram.pages}")
        assert ram.policy == f"bind:{at}" and ram.pages == {at: RAM}  # taken as a whole
        assert pools(nested)[at][0] == before[at][0] + RAM // PAGE
    with b.agent() as agent:
        verdict = agent.reserve("lease", {"kind": "memory", "amount": RAM, "parameters": [
            {"name": "page", "relation": "=", "value": PAGE}]})
        assert verdict["outcome"] == "granted", verdict
        maps = nested.check(f"grep -F /dev/hugepages/mete/b/dimm /proc/{b.pid()}/numa_maps").split()
        assert f"bind:{other}" in maps and "huge" in maps and f"N{other}={RAM // PAGE}" in maps, maps
        assert pools(nested)[other][0] == before[other][0] + 2 * RAM // PAGE
        assert "as it was granted" in nested.mete_check("vm", "verify", "b")
    nested.mete_check("unreserve", "fill-huge")
    ended(nested, before, a, b)


def test_memory_that_was_moved_to_another_node_is_noticed(nested, before):
    """Ordinary memory, which an administrator moves: what the kernel says of it is not what was granted."""
    vm = nested.vm("moved", append="dirty=200 area=48 say=0")
    nested.wait_for_board(vm, "48 MiB were dirtied", lambda b: b.passes >= 1)
    node = node_of(nested, vm)
    assert "as it was granted" in nested.mete_check("vm", "verify", "moved")
    nested.check(f"nested-tool migrate {vm.pid()} {node} {1 - node}")
    assert 1 - node in vm.memory().pages
    status, text = nested.mete("vm", "verify", "moved")
    assert status != 0 and f"some of it lies on node {1 - node}" in text, text
    assert "CHANGED" in nested.mete("doctor")[1]
    ended(nested, before, vm)

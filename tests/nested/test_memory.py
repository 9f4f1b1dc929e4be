# SPDX-License-Identifier: Apache-2.0
"""On which node a VM's memory lies, as the kernel says it."""
from nested import QEMU, parse_numa_maps

TEXT = """\
7f0000000000 bind:1 file=/dev/shm/mete/v/ram0 dirty=300 mapmax=2 active=0 N0=3 N1=297 kernelpagesize_kB=4
7f0010000000 prefer:0 file=/mnt/huge/a\\040b huge dirty=2 N1=2 kernelpagesize_kB=2048
7ffc00000000 default stack anon=5 dirty=5 N0=5 kernelpagesize_kB=4
7ffc00010000 default
"""


def test_numa_maps_are_read():
    ram, huge, stack, nothing = parse_numa_maps(TEXT)
    assert ram == (0x7f0000000000, "bind:1", "/dev/shm/mete/v/ram0", {0: 3 * 4096, 1: 297 * 4096})
    assert (huge.policy, huge.path, huge.pages) == ("prefer:0", "/mnt/huge/a b", {1: 4 << 20})
    assert (stack.path, stack.pages, nothing.pages) == ("", {0: 5 * 4096}, {})


def test_the_host_has_two_nodes(nested):
    assert nested.read("/sys/devices/system/node/online").strip() == "0-1"
    assert nested.read("/sys/devices/system/node/node1/distance").split() == ["20", "10"]
    # Both are seen, and what may be given away is all of both.
    memory = [c for c in nested.mete_json("host", "show")["components"] if c["kind"] == "memory"]
    assert len(memory) == 2, memory


def test_all_of_a_vms_ram_is_found_on_the_nodes(nested):
    vm = nested.vm("v", append="dirty=200 area=48 say=0")
    nested.wait_for_board(vm, "48 MiB were dirtied", lambda b: b.passes >= 1)
    ram = vm.memory()
    print(f"{ram.policy} {ram.pages}")
    assert sum(ram.pages.values()) >= 48 << 20
    assert sum(ram.pages.values()) == nested.allocated(vm.ram)


def nodes_of(nested, holder):
    """The nodes on which the ledger says that it has its memory."""
    return sorted(int(c["component"].removeprefix("memory:node")) for c in nested.mete_json("ledger")["claims"]
                  if c["holder"] == holder and c["component"].startswith("memory:"))


def free_of(nested, node):
    return next(c["free"] for c in nested.mete_json("host", "show")["components"] if c["id"] == f"memory:node{node}")


def test_granted_memory_lies_on_its_node(nested):
    """One VM on each node: what the ledger says is what the kernel says, page for page."""
    seen = []
    for name in ("a", "b"):
        vm = nested.vm(name, append="dirty=200 area=48 say=0")
        nested.wait_for_board(vm, "48 MiB were dirtied", lambda b: b.passes >= 1)
        [node] = nodes_of(nested, f"vm:{name}")
        ram = vm.memory()
        print(f"{name}: claimed on node {node}, {ram.policy} {ram.pages}")
        assert ram.policy == f"bind:{node}"
        assert set(ram.pages) == {node} and ram.pages[node] >= 48 << 20
        seen.append(node)
        if name == "a":  # so that the other one finds no room there
            nested.mete_check("reserve", "fill", "--need", f"memory:{free_of(nested, node) >> 20}M")
            assert nodes_of(nested, "reservation:fill") == [node]
    nested.mete_check("unreserve", "fill")
    assert sorted(seen) == [0, 1]


def test_qemu_can_bind_ram_to_a_node_in_the_keepers_sandbox(nested):
    """The fact on which binding will rely: mbind is not among what the sandbox denies, and first touch yields to it."""
    nested.check("mkdir -p /dev/shm/by-hand")
    pid = nested.background(
        f"taskset 1 {QEMU} -nodefaults -display none -machine q35 -accel tcg -m 64M "
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny "
        "-object memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm/by-hand/ram0,share=on,host-nodes=1,policy=bind "
        "-numa node,memdev=ram0 -kernel /var/lib/mete/images/payload.elf -append 'dirty=200 area=32'", "/tmp/by-hand.log")
    try:
        vm = nested.adopt("by-hand", pid, "/dev/shm/by-hand/ram0")
        nested.wait_for_board(vm, "32 MiB were dirtied", lambda b: b.passes >= 1)
        ram = vm.memory()
        print(f"{ram.policy} {ram.pages}")
        assert ram.policy == "bind:1"
        assert set(ram.pages) == {1} and ram.pages[1] >= 32 << 20
    finally:
        nested.end_all()
        nested.check("rm -r /dev/shm/by-hand")

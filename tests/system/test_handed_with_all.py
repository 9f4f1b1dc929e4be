# SPDX-License-Identifier: Apache-2.0
"""A VM changes hypervisor again and again while all that it has is in use: a leased vCPU, a leased DIMM, nearly all of its memory,
a TCP connection from outside through its tap, an application that answers in it, and one that speaks to its agent (5.1-5.6).

The service processor is played (tests/lib/handing.py), as mete-sp gives no shares of links. METE_HANDOVERS=N: so many."""
import os
import re

import pytest

from app import App
from caller import Caller
from handing import Pair, counter, is_whole, new_vm, other, ram_files
from host import ROOT, wait_for
from netns import CannotRun, Network

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs: one a hypervisor")

MIB = 1 << 20
PORT = 9000
LEAVE = 48  # MiB that are not filled: less than the DIMM has, so that most of that is
GUEST, WORLD = "10.9.9.2", "10.9.9.1"


@pytest.fixture(scope="module")
def pair():
    try:
        with Network() as net, Pair(net=net) as p:
            net.run("ip", "addr", "add", f"{WORLD}/24", "dev", "up1")
            for name in ("vmlinuz", "test.cpio.gz"):
                p.image(os.path.join(ROOT, "build/guest", name))
            yield p
    except CannotRun as e:
        pytest.skip(str(e))


def taps(pair):
    return [name for name in pair.net.links() if re.fullmatch(r"mete-\d+", name)]


def memory_is_in_use(vm):
    """The application has what is free; how many pages that is."""
    vm.check(f"ip link set eth0 up && ip addr add {GUEST}/24 dev eth0 && ping -c 1 -W 10 {WORLD}")
    vm.check(f"(setsid answers {PORT} {LEAVE} </dev/null >/tmp/answers 2>&1 &)")
    said = wait_for("its memory is filled", lambda: vm.check("cat /tmp/answers 2>/dev/null || true").strip(), 120, 0.1)
    assert said.startswith("ready "), said
    return int(said.split()[1])


def test_all_of_it_goes_on(pair):
    n = int(os.environ.get("METE_HANDOVERS") or 3)
    vm = new_vm(pair, pair.a, net="lan:10M..20M")
    pages = memory_is_in_use(vm)
    assert pages * 4096 > 128 * MIB
    files = ram_files(vm)
    assert len(files) == 2, files  # the base memory, and the DIMM
    asking = App(vm, "asks")
    with Caller(pair.net.prefix, GUEST, PORT) as caller:
        caller.wait_for(10)
        for i in range(n):
            source, target = vm.host, other(pair, vm.host)
            before, count = caller.state(), counter(vm)
            assert pair.hand_over(vm, target) == "running", pair.story(pair.leader.id)
            gone = pair.leader.said["gone"]
            assert gone["ram_bytes"] == 0 < gone["sent_bytes"], gone
            assert ram_files(vm) == files
            assert counter(vm) >= count
            caller.wait_for(before["asked"] + 10)
            assert caller.look() == {"wrong": 0, "pages": pages}
            is_whole(pair, vm, target)
            assert vm.name not in [v["name"] for v in source.mete_json("vm", "list")["vms"]]
            wait_for("one tap is left", lambda: len(taps(pair)) == 1)
            verdict = asking.call("request", {"id": f"r{i}", "needs": ["memory:1T"]}, 60)
            assert verdict["outcome"] == "never", verdict
    assert caller.said["answered"] == caller.said["asked"] and not caller.said["wrong"], caller.said
    print(f"\n{n} handovers, {pages * 4096 // MIB} MiB of content, {caller.said['answered']} answers, "
          f"the longest silence {caller.said['longest_ms']} ms")

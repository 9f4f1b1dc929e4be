# SPDX-License-Identifier: Apache-2.0
"""vm/profiler on the RAM of a real VMM, whose guest says itself how many pages it has written."""
import json
import os
import subprocess
import sys

from qmp import ROOT

sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import payload  # noqa: E402
from dirtier import Dirtier  # noqa: E402

PAGE, MIB = 4096, 1 << 20


def profile(build, ram):
    """With all four looks. On a machine that is very busy it may end before the last: then another."""
    for _ in range(5):
        p = subprocess.run([f"{build}/bench/bench-profile", "1", "4000", ram], capture_output=True, text=True, timeout=120)
        assert p.returncode == 0, p.stderr
        found = json.loads(p.stdout)
        if len(found["looks"]) == 4:
            break
    assert len(found["looks"]) == 4, found
    return found


def test_curve(qemu, build):
    """A set of 64 MiB that is written to round and round: all of it within 5 s, and at less than that what the guest
    counted, whatever the machine let it do."""
    with Dirtier(qemu, payload.program(build), mib=256, options="work=1 dirty=64 area=64 say=0") as vm:
        vm.wait_for_passes(1)
        before = vm.board()
        found = profile(build, vm.ram)
        after = vm.board()
    assert found["memory_bytes"] == 256 * MIB
    assert found["pages"] >= 1000
    assert found["data_bytes"] >= 64 * MIB and found["populated_bytes"] >= 0.9 * 64 * MIB
    written = (after.dirtied_pages - before.dirtied_pages) * PAGE
    assert written > 2 * 64 * MIB, "the guest was not let run: nothing can be said"
    last = found["looks"][-1]
    error = last["high_bytes"] - last["low_bytes"]
    assert abs(last["dirty_bytes"] - 64 * MIB) < 2 * error + MIB, found
    for look in found["looks"]:
        assert look["dirty_bytes"] <= 64 * MIB + 2 * error + MIB, found
        assert look["changed"] > 0, found
    true = written / ((after.ms - before.ms) / 1000) * found["looks"][1]["s"]
    assert true / 5 < found["looks"][1]["dirty_bytes"] < true * 5, found  # the bench says how near it is
    points = [look["curve_bytes"] for look in found["looks"]]
    assert points == sorted(points)


def test_idle(qemu, build):
    """A guest that writes its clock and no more."""
    with Dirtier(qemu, payload.program(build), mib=256, options="work=0 say=0") as vm:
        found = profile(build, vm.ram)
    assert found["looks"][-1]["dirty_bytes"] <= MIB, found
    assert found["zero_pages"] >= 250 * MIB / PAGE
    assert found["populated_bytes"] <= 6 * MIB

# SPDX-License-Identifier: Apache-2.0
"""The payload itself, in a QEMU of its own on this machine: what tests and benches rely on when they watch its board."""
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "platform"))
import payload  # noqa: E402
from nested import QEMU  # noqa: E402
from qmp import Vmm, wait_until  # noqa: E402


class Guest:
    def __init__(self, options):
        self.vmm = Vmm(QEMU, memory="128M", extra=(
            "-kernel", payload.program(), "-append", options, "-chardev", "ringbuf,id=serial,size=65536",
            "-serial", "chardev:serial"))
        try:
            wait_until(lambda: os.path.exists(self.vmm.path("qmp")))
            self.qmp = self.vmm.monitor()
            self.qmp.run("cont")
            self.wait(lambda b: b.cpus == 1)
        except BaseException:
            self.vmm.__exit__()
            raise

    def board(self):
        return payload.read(f"{self.vmm.ram}/ram0")

    def wait(self, condition):
        assert wait_until(lambda: self.board() and condition(self.board())), self.board()
        return self.board()

    def plug(self, slot):
        slots = {s["props"]["core-id"]: s for s in self.qmp.run("query-hotpluggable-cpus")}
        self.qmp.run("device_add", driver=slots[slot]["type"], id=f"cpu{slot}", **slots[slot]["props"])

    def serial(self):
        return self.qmp.run("ringbuf-read", device="serial", size=65536)


@pytest.fixture
def guest(request):
    if not os.path.exists(QEMU):
        pytest.skip(f"{QEMU} is not installed")
    if not os.path.exists(payload.program()):
        pytest.skip(f"{payload.program()} is missing: make release builds it")
    g = Guest(request.param)
    yield g
    g.vmm.__exit__()


@pytest.mark.parametrize("guest", ["say=50"], indirect=True)
def test_each_vcpu_counts_for_itself_also_one_plugged_later(guest):
    assert guest.board().cpus_max == 4
    first = guest.wait(lambda b: b.rounds[0] > 10)
    assert first.rounds[1:] == [None] * 3
    for slot in (1, 2):
        guest.plug(slot)
    both = guest.wait(lambda b: b.cpus == 3 and min(b.rounds[:3]) > 10)
    assert both.rounds[3] is None and both.starts == [1, 1, 1, 0]
    guest.wait(lambda b: all(b.rounds[i] > both.rounds[i] + 10 for i in range(3)))
    assert wait_until(lambda: "dirtied" in guest.serial())


@pytest.mark.parametrize("guest", ["work=0 dirty=64 area=4 tick=5 say=0", "dirty=64 area=4 say=0"], indirect=True)
def test_memory_is_dirtied_at_the_rate_that_was_asked_for(guest):
    guest.wait(lambda b: b.passes >= 8)
    guest.qmp.run("stop")
    b = guest.board()
    due = b.ms * 64 * 256 // 1000  # by its own clock, so whatever the machine does meanwhile
    assert b.area_bytes == 4 << 20 and 0.75 * due <= b.dirtied_pages <= due, (b, due)
    assert b.passes == b.dirtied_pages * 4096 // b.area_bytes
    # Each page says in which pass it was written last.
    with open(f"{guest.vmm.ram}/ram0", "rb") as f:
        f.seek(b.area_first)
        area = f.read(b.area_bytes)
    words = [int.from_bytes(area[at:at + 4], "little") for at in range(0, len(area), 4096)]
    written = b.dirtied_pages % len(words)
    assert words == [b.passes + 1] * written + [b.passes] * (len(words) - written)


@pytest.mark.parametrize("guest", ["work=0 say=0"], indirect=True)
def test_those_that_sleep_work_when_the_host_says_so_and_hear_the_power_button(guest):
    began = guest.wait(lambda b: b.ms > 200)
    assert guest.wait(lambda b: b.ms > began.ms + 200).rounds == [0, None, None, None]
    payload.set_work(f"{guest.vmm.ram}/ram0", 1)
    guest.wait(lambda b: b.rounds[0] > 10)
    payload.set_work(f"{guest.vmm.ram}/ram0", 0)
    guest.plug(1)
    guest.wait(lambda b: b.cpus == 2)
    payload.set_work(f"{guest.vmm.ram}/ram0", 2)
    guest.wait(lambda b: (b.rounds[1] or 0) > 10)
    guest.qmp.run("system_powerdown")
    guest.vmm.process.wait(20)

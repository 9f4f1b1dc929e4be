# SPDX-License-Identifier: Apache-2.0
"""What QEMU really does, as far as mete relies on it: so that a QEMU that differs is noticed."""
import time

import pytest
from qmp import Vmm, wait_until

MIB = 1 << 20
DIMM = {"qom_type": "memory-backend-file", "id": "dimmmem0", "size": 128 * MIB, "share": True, "discard_data": True}


@pytest.fixture
def vmm(qemu):
    with Vmm(qemu) as v:
        yield v


def test_listening_descriptor_is_accepted_on_again_and_again(vmm):
    """meted dies, and the next one connects by path; the VMM greets each client anew."""
    for _ in range(5):
        for name in Vmm.MONITORS:
            m = vmm.monitor(name)
            assert m.run("query-status")["status"] == "prelaunch"
            m.close()


def test_second_client_waits_for_the_first(vmm):
    first = vmm.monitor()
    import socket
    second = socket.socket(socket.AF_UNIX)
    second.connect(vmm.path("qmp"))
    second.settimeout(0.3)
    with pytest.raises(TimeoutError):
        second.recv(1)
    first.close()
    second.settimeout(10)
    assert b"QMP" in second.recv(4096)
    second.close()


def test_dead_vmm_refuses_the_connection(vmm):
    vmm.monitor().close()
    vmm.process.kill()
    vmm.process.wait()
    with pytest.raises(ConnectionRefusedError):
        vmm.monitor()


def test_what_one_client_left_unread(vmm):
    """A client that asks for much, reads nothing and is gone. Whatever of it comes to the next one comes ahead of
    the greeting, in whole lines but for the first: that is what qmp.c skips."""
    import json
    import socket
    m = vmm.monitor()
    for _ in range(7):
        m.send("query-qmp-schema")
    time.sleep(0.5)
    m.close()
    time.sleep(0.2)
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(vmm.path("qmp"))
    data = b""
    while b'{"QMP"' not in data or not data.endswith(b"\n"):
        data += s.recv(1 << 16)
    before, _, greeting = data.rpartition(b'{"QMP"')
    assert before == b"" or before.endswith(b"\n")
    assert len(before.split(b"\n")) <= 256
    assert json.loads(b'{"QMP"' + greeting)
    s.close()


def test_cpu_slots_are_listed_in_descending_order(vmm):
    """Why the order is ours to keep: on TCG the highest slot first takes a guest 12 to 17 s."""
    slots = [c["props"]["core-id"] for c in vmm.monitor().run("query-hotpluggable-cpus")]
    assert slots == [3, 2, 1, 0]


def test_out_of_band_is_answered(vmm):
    m = vmm.monitor("oob")
    assert m.greeting["capabilities"] == ["oob"]
    assert {"type": "chardev", "id": "oob"} in m.run("query-yank", oob=True)


def test_discard_data_gives_memory_back(vmm):
    m = vmm.monitor()
    m.run("object-add", **DIMM, prealloc=True, mem_path=f"{vmm.ram}/dimm0")
    assert vmm.host_bytes("dimm0") == 128 * MIB
    m.run("object-del", id="dimmmem0")
    assert vmm.host_bytes("dimm0") == 0
    # Without it the file keeps every page; nobody but the VMM could give them back.
    m.run("object-add", **{**DIMM, "discard_data": False}, prealloc=True, mem_path=f"{vmm.ram}/dimm0")
    m.run("object-del", id="dimmmem0")
    assert vmm.host_bytes("dimm0") == 128 * MIB


def test_file_keeps_its_size(vmm):
    """Why a DIMM's size is in the name of its file."""
    m = vmm.monitor()
    m.run("object-add", **DIMM, mem_path=f"{vmm.ram}/dimm0")
    m.run("object-del", id="dimmmem0")
    reply = m.ask("object-add", **{**DIMM, "size": 256 * MIB}, mem_path=f"{vmm.ram}/dimm0")
    assert "error" in reply


def test_dimm_without_a_guest_stays(vmm):
    m = vmm.monitor()
    m.run("cont")
    m.run("object-add", **DIMM, mem_path=f"{vmm.ram}/dimm0")
    m.run("device_add", driver="pc-dimm", id="dimm0", memdev="dimmmem0", slot=0, node=0)
    for _ in range(2):  # asking again is no error
        m.run("device_del", id="dimm0")
    assert "error" in m.ask("object-del", id="dimmmem0")
    time.sleep(0.3)
    assert [d["data"]["id"] for d in m.run("query-memory-devices")] == ["dimm0"]


def test_monitor_says_eof_at_once(vmm):
    m = vmm.monitor()
    vmm.process.kill()
    with pytest.raises((EOFError, ConnectionResetError)):
        m.line()
    assert wait_until(lambda: vmm.process.poll() is not None)

# SPDX-License-Identifier: Apache-2.0
"""The agent in a real guest, without meted: QEMU is started here, and this test is the host's end of the port.

What only a kernel can show: the port while nobody listens, hot-plugged CPUs and memory, the power button. Run with
`python3 -m pytest tests/guest` after `make release`; needs QEMU, no root. About 15 s on TCG.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests/lib"), os.path.join(ROOT, "tests/agent")]
from console import Console  # noqa: E402
from fake import Lines, verdict, wait_for  # noqa: E402
import fake  # noqa: E402

QEMU = os.environ.get("METE_QEMU") or "qemu-system-x86_64"
RELEASE = os.environ.get("METE_RELEASE") or os.path.join(ROOT, "build/release")
fake.TIMEOUT_S = 30


class PortHost(fake.Host):
    """meted's way: QEMU listens, the host connects."""

    def listen(self):
        pass

    def accept(self):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        s.connect(self.path)
        self.link = Lines(s)
        self.notify("greet", {})
        return self.link


class Qmp:
    def __init__(self, path):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        wait_for("QMP", lambda: s.connect_ex(path) == 0)
        self.lines = Lines(s)
        self.lines.receive()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.lines.send({"execute": command, "arguments": arguments})
        while True:
            answer = self.lines.receive()
            if "event" not in answer:
                assert "error" not in answer, answer
                return answer["return"]


class Guest:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="mete-guest-", dir="/tmp")
        subprocess.run([os.path.join(ROOT, "tests/guest/build-image"), "--out", self.dir, "--build", RELEASE], check=True)
        d = self.dir
        started = time.monotonic()
        self.qemu = subprocess.Popen(
            [QEMU, "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1,sockets=1,cores=4,maxcpus=4",
             "-m", "256M,slots=4,maxmem=2G", "-nodefaults", "-display", "none", "-no-reboot",
             "-kernel", f"{d}/vmlinuz", "-initrd", f"{d}/initrd.cpio.gz", "-append", "console=ttyS0 quiet panic=-1",
             "-chardev", f"socket,id=console0,path={d}/console.sock,server=on,wait=off", "-serial", "chardev:console0",
             "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=agent0,path={d}/agent.sock,server=on,wait=off",
             "-device", "virtserialport,chardev=agent0,name=org.mete.agent.0",
             "-qmp", f"unix:{d}/qmp.sock,server=on,wait=off"])
        self.qmp = Qmp(f"{d}/qmp.sock")
        self.console = Console(f"{d}/console.sock")
        self.host = PortHost(f"{d}/agent.sock")
        self.console.wait_ready()
        self.boot_s = time.monotonic() - started

    def close(self):
        self.console.close()
        self.host.hang_up()
        if self.qemu.poll() is None:
            self.qemu.kill()
        self.qemu.wait()
        shutil.rmtree(self.dir)


@pytest.fixture(scope="module")
def guest():
    if not shutil.which(QEMU):
        pytest.skip(f"{QEMU} is not installed")
    if not os.path.exists(os.path.join(RELEASE, "src/agent/mete-agent")):
        pytest.skip("the guest's static programs are not built: make release")
    g = Guest()
    try:
        yield g
    finally:
        g.close()


@pytest.fixture
def greeted(guest):
    guest.host.hang_up()
    guest.host.greet()
    wait_for("connected", lambda: "connected" in guest.console.check("mete agent"))
    yield guest


def test_without_a_host(guest):
    assert "not reached" in guest.console.check("mete agent")

    def ticks():
        return sum(map(int, guest.console.check("cat /proc/$(pidof mete-agent)/stat").rsplit(")", 1)[1].split()[11:13]))
    before = ticks()
    time.sleep(2)
    assert ticks() - before <= 6  # hundredths of a second in two: no busy loop on a port that is hung up
    status, out = guest.console.run("mete run --need cpu:1 --timeout 300ms -- true")
    assert status == 75 and "timeout" in out


def test_run(greeted):
    host, console = greeted.host, greeted.console
    console.start("r", "mete run --need cpu:1 -- sh -c 'echo cpus=$METE_CPUS; mete leases'")
    reserve = host.expect("reserve")
    host.grant(reserve)
    release = host.expect("release")
    assert release["params"] == {"request": reserve["params"]["request"], "cause": "released"}
    host.answer(release)
    status, out = console.result("r")
    assert status == 0 and "cpus=1" in out and "granted" in out


def test_a_killed_application(greeted):
    host, console = greeted.host, greeted.console
    console.start("k", "exec su app -c 'exec mete run --need cpu:1 -- sleep 100'")
    host.grant(host.expect("reserve"))
    row = wait_for("the lease", lambda: [r for r in json.loads(console.check("mete leases --json"))["rows"]])[0]
    assert row["uid"] == 1000
    assert console.run(f"su other -c 'mete release {row['id']}'")[0] == 77
    console.check(f"kill -9 {row['pid']}")
    release = host.expect("release")
    assert release["params"]["cause"] == "exited"
    host.answer(release)


@pytest.mark.parametrize("how", ["-9", "-TERM"])
def test_the_agent_is_killed(greeted, how):
    host, console = greeted.host, greeted.console
    console.start("a", "mete run --need cpu:1 -- sleep 3")
    first = host.expect("reserve")
    console.check(f"kill {how} $(pidof mete-agent)")
    # The host's end stays open: QEMU says nothing on a plain socket, the agent greets again on the same stream.
    hello = host.link.receive()
    while hello.get("method") != "hello":
        hello = host.link.receive()
    host.answer(hello, {"version": 1, "vm": "v"})
    sync = host.expect("sync")
    assert sync["params"]["requests"] == [first["params"]["request"]]
    host.answer(sync, {"live": []})
    again = host.expect("reserve")
    assert again["params"] == first["params"]
    host.grant(again)
    release = host.expect("release")
    assert release["params"]["cause"] == "released"
    host.answer(release)
    assert console.result("a")[0] == 0


def test_hot_plugged_cpu(greeted):
    host, qmp = greeted.host, greeted.qmp
    slot = sorted(c["props"]["core-id"] for c in qmp("query-hotpluggable-cpus") if "qom-path" not in c)[0]
    start = time.monotonic()
    qmp("device_add", driver="max-x86_64-cpu", id="cpu1", **{"core-id": slot, "socket-id": 0, "thread-id": 0})
    state = host.call("online", {"cpus": [1], "memory_bytes": 0})
    print(f"MEASURED vCPU plug to on line {(time.monotonic() - start) * 1000:.0f} ms")
    assert state["cpus_online"] == [0, 1] and "problem" not in state
    assert greeted.console.check("nproc") == "2"
    assert host.call("offline", {"cpus": [1]})["cpus_online"] == [0]
    assert host.call("online", {"cpus": [1], "memory_bytes": 0})["cpus_online"] == [0, 1]


def test_hot_plugged_memory(greeted):
    host, qmp = greeted.host, greeted.qmp
    host.link.send({"jsonrpc": "2.0", "id": 1, "method": "online", "params": {"cpus": [], "memory_bytes": 0}})
    before = host.link.receive()["result"]["memory_bytes"]
    assert before == 256 << 20
    start = time.monotonic()
    qmp("object-add", **{"qom-type": "memory-backend-memfd", "id": "m1", "size": 512 << 20, "share": True})
    qmp("device_add", driver="pc-dimm", id="d1", memdev="m1")
    state = host.call("online", {"cpus": [], "memory_bytes": before + (512 << 20)})
    print(f"MEASURED memory plug to on line {(time.monotonic() - start) * 1000:.0f} ms")
    assert state["memory_bytes"] == before + (512 << 20)
    zones = greeted.console.check("cat /sys/devices/system/memory/memory*/valid_zones")
    assert "Movable" in zones
    qmp("device_del", id="d1")  # what is movable can be taken back
    wait_for("the DIMM is gone", lambda: not qmp("query-memory-devices"))
    assert host.call("online", {"cpus": [], "memory_bytes": 0})["memory_bytes"] == before


def test_sizes(guest):
    print(f"MEASURED boot to shell {guest.boot_s:.1f} s")
    rss = int(guest.console.check("grep VmRSS /proc/$(pidof mete-agent)/status").split()[1])
    print(f"MEASURED agent RSS {rss} KiB")
    assert rss < 8192
    assert os.path.getsize(os.path.join(RELEASE, "src/agent/mete-agent")) < 3 << 20


def test_power_button(guest):
    guest.host.hang_up()
    guest.qmp("system_powerdown")
    assert guest.qemu.wait(20) == 0

# SPDX-License-Identifier: Apache-2.0
"""mete-guard beside a real VMM that sends its memory to somebody who reads slowly: at the bound the guest runs again, where it was."""
import os
import socket
import subprocess
import sys
import threading

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import payload  # noqa: E402
from qmp import Vmm, wait_until  # noqa: E402


class Sink:
    """The other end of the stream; slow: 10 MiB a second, or less."""

    def __init__(self, path, slow):
        self.slow, self.connection, self.ended = slow, None, threading.Event()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(path)
        self.socket.listen(1)
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        self.connection, _ = self.socket.accept()
        while self.connection.recv(65536) and not self.ended.wait(0.00625 if self.slow else 0):
            pass

    def close(self):
        self.ended.set()
        self.thread.join()
        self.connection.close()
        self.socket.close()


@pytest.fixture
def vmm(qemu):
    if not os.path.exists(payload.program()):
        pytest.skip("the payload is not built: make release")
    with Vmm(qemu, memory="128M", extra=["-kernel", payload.program(), "-append", "dirty=100 area=64 work=1 say=0", "-L", "/usr/share/qemu",
                                         "-L", "/usr/share/seabios"]) as v:
        m = v.monitor()
        m.run("cont")
        assert wait_until(lambda: (payload.read(f"{v.ram}/ram0") or payload.Board(*[0] * len(payload.Board._fields))).dirtied_pages > 20000, 60)
        m.run("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        # Switched over at once, however long that takes.
        m.run("migrate-set-parameters", max_bandwidth=0, downtime_limit=2000000)
        v.main = m
        yield v


def guard_of(vmm, build, bound, outcome):
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(vmm.path("control"))
    control.listen(1)
    monitor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    monitor.connect(vmm.path("oob"))

    def pass_on():
        for number, fd in enumerate([os.dup(monitor.fileno()), os.dup(control.fileno()), os.dup(folder)], 3):
            os.dup2(fd, number)
    folder = os.open(vmm.dir, os.O_RDONLY | os.O_DIRECTORY)
    process = subprocess.Popen([os.path.join(build, "src/guard/mete-guard"), "--bound-us", str(bound * 1000), "--move",
                                os.path.basename(outcome)], preexec_fn=pass_on, pass_fds=(3, 4, 5))
    os.close(folder)
    monitor.close()
    control.close()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(60)
    client.connect(vmm.path("control"))
    words = client.makefile()
    while next(words).split()[0] != "watching":
        pass
    return process, client, words


def migrate(vmm, slow=False):
    sink = Sink(vmm.path("stream"), slow)
    vmm.main.run("migrate", uri=f"unix:{vmm.path('stream')}")
    return sink


def test_the_guest_runs_again_at_the_bound(vmm, build):
    outcome = vmm.path("outcome")
    guard, client, words = guard_of(vmm, build, 100, outcome)
    sink = migrate(vmm, slow=True)  # seconds, in which the guest would stand
    try:
        said = [next(words).split() for _ in range(3)]
        assert [s[0] for s in said] == ["stopped", "cut", "resumed"]
        cut_us, resumed_us = int(said[-1][1]), int(said[-1][2])
        print(f"cut after {cut_us / 1000:.1f} ms, runs after {resumed_us / 1000:.1f} ms")
        assert resumed_us >= cut_us >= 100000
        wait_until(lambda: vmm.main.run("query-status")["status"] == "running", 30)
        at = {e["event"]: e["timestamp"]["seconds"] * 1000000 + e["timestamp"]["microseconds"] for e in vmm.main.events}
        # Late or not, it has measured what the VMM says itself, or its bound is none.
        assert abs(resumed_us - (at["RESUME"] - at["STOP"])) < 2000
        assert guard.wait(60) == 0
        with open(outcome) as f:
            assert f.read() == "aborted guard\n"
        assert vmm.main.run("query-status")["status"] == "running"
        assert wait_until(lambda: vmm.main.run("query-migrate")["status"] == "failed", 30)
        before = payload.read(f"{vmm.ram}/ram0").dirtied_pages
        assert wait_until(lambda: payload.read(f"{vmm.ram}/ram0").dirtied_pages != before, 30)
    finally:
        sink.close()
        client.close()


def test_what_was_committed_is_not_cut(vmm, build):
    guard, client, words = guard_of(vmm, build, 5000, vmm.path("outcome"))
    sink = migrate(vmm)
    try:
        assert next(words).split()[0] == "stopped"
        with open(vmm.path("outcome"), "w") as f:
            f.write("committed\n")
        assert next(words).split()[0] == "yielded"
        assert wait_until(lambda: vmm.main.run("query-migrate")["status"] == "completed", 60)
        assert wait_until(lambda: vmm.main.run("query-status")["status"] == "postmigrate", 30)  # a little behind
        client.sendall(b"done\n")
        assert guard.wait(60) == 0
        with open(vmm.path("outcome")) as f:
            assert f.read() == "committed\n"
    finally:
        sink.close()
        client.close()


def test_all_had_gone_over_and_nobody_took_it(vmm, build):
    guard, client, words = guard_of(vmm, build, 2000, vmm.path("outcome"))
    sink = migrate(vmm)
    try:
        assert [next(words).split()[0] for _ in range(3)] == ["stopped", "cut", "resumed"]
        assert guard.wait(60) == 0
        assert wait_until(lambda: vmm.main.run("query-status")["status"] == "running", 30)
    finally:
        sink.close()
        client.close()


def test_it_ends_with_its_vmm(vmm, build):
    guard, client, words = guard_of(vmm, build, 10000, vmm.path("outcome"))
    vmm.process.kill()
    assert next(words).split()[0] == "gone" and guard.wait(60) == 1
    assert not os.path.exists(vmm.path("outcome"))
    client.close()

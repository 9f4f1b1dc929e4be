# SPDX-License-Identifier: Apache-2.0
"""guard-start: mete-guard as the keeper starts it, beside a real VMM without a guest; it keeps a bound, one a VM, and outlives the keeper."""
import os
import pwd
import socket

import pytest

from test_keeper import METED_USER, QEMU, Qmp, keeper, refused, wait_for  # noqa: F401

LONG_US = 60000000
METED = pwd.getpwnam(METED_USER)


class Guard:
    """What meted passes along, and its ends of it."""

    def __init__(self, keeper, vm, move="move-1", bound_us=LONG_US):  # noqa: F811
        self.folder = f"{keeper.dir}/outcomes"
        os.makedirs(self.folder, exist_ok=True)
        os.chown(self.folder, METED.pw_uid, METED.pw_gid)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        monitor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path, folder = f"{keeper.dir}/control-{move}", os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        with control, monitor:
            control.bind(path)
            control.listen(1)
            monitor.connect(f"{keeper.dir}/guard.{vm}")
            self.answer = keeper.call("guard-start", {"vm": vm, "move": move, "bound_us": bound_us},
                                      [monitor.fileno(), control.fileno(), folder])
        os.close(folder)
        self.pid, self.outcome = self.answer["pid"], f"{self.folder}/{move}"
        self.client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.client.settimeout(20)
        self.client.connect(path)
        self.words = self.client.makefile()
        while self.said() != "watching":
            pass

    def said(self):
        return (self.words.readline().split() or [""])[0]

    def has_ended(self):
        """Whoever is to reap it: without a keeper that is not ours to see to."""
        try:
            return status(self.pid)["State"].startswith("Z")
        except (OSError, KeyError):
            return True

    def close(self):
        self.client.sendall(b"done\n")
        assert self.said() == "dismissed"
        wait_for("the guard ends", self.has_ended)
        self.client.close()
        assert not [name for name in os.listdir(self.folder) if name.endswith(f"guard{self.pid}")]


def start(keeper, vm="v", slot=0):  # noqa: F811
    """A VMM with a monitor for its guard."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{keeper.dir}/guard.{vm}")
    listener.listen(4)
    with listener:
        qmp = Qmp(keeper.dir, vm)
        keeper.start_vmm(vm, [QEMU, "-nodefaults", "-no-user-config", "-display", "none",
                              "-chardev", "socket,id=m,fd=3,server=on,wait=off", "-mon", "chardev=m,mode=control",
                              "-chardev", "socket,id=g,fd=4,server=on,wait=off", "-mon", "chardev=g,mode=control"],
                         slot, [qmp.listener.fileno(), listener.fileno()])
        qmp.connect()
    return qmp


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in f)}


def test_it_keeps_the_bound_without_a_privilege(keeper):  # noqa: F811
    qmp = start(keeper)
    guard = Guard(keeper, "v", bound_us=20000)
    s = status(guard.pid)
    assert s["Uid"].split() == [str(METED.pw_uid)] * 4 and s["Gid"].split() == [str(METED.pw_gid)] * 4
    assert s["Groups"].strip() == "" and s["NoNewPrivs"] == "1"
    assert all(int(s[f"Cap{which}"], 16) == 0 for which in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    if "fallback" in guard.answer:
        assert "real-time priority" in guard.answer["fallback"]
        assert os.sched_getscheduler(guard.pid) == os.SCHED_OTHER
    else:
        assert os.sched_getscheduler(guard.pid) == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    assert {int(n) for n in os.listdir(f"/proc/{guard.pid}/fd")} <= set(range(9))  # 7, 8: its word, whoever listens
    qmp.run("stop")
    assert [guard.said(), guard.said()] == ["stopped", "cut"]
    with open(guard.outcome) as f:
        assert f.read() == "aborted guard\n"
    assert os.stat(guard.outcome).st_uid == METED.pw_uid
    qmp.run("cont")
    assert guard.said() == "resumed"
    wait_for("the guard is reaped", lambda: not os.path.exists(f"/proc/{guard.pid}"))


def test_one_a_vm_whoever_the_keeper_is(keeper):  # noqa: F811
    start(keeper)
    start(keeper, "w", 1)
    guard, other = Guard(keeper, "v"), Guard(keeper, "w", "move-2")
    assert "has a guard" in refused("busy", Guard, keeper, "v", "move-3").message
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    assert not guard.has_ended()
    refused("busy", Guard, keeper, "v", "move-4")
    guard.close()
    Guard(keeper, "v", "move-5").close()
    other.close()


def test_it_ends_with_its_vmm(keeper):  # noqa: F811
    start(keeper)
    guard = Guard(keeper, "v")
    keeper.end_vmm("v")
    assert guard.said() == "gone"
    wait_for("the guard ends", guard.has_ended)
    assert os.listdir(guard.folder) == []


def test_refused(keeper):  # noqa: F811
    start(keeper)
    null = os.open("/dev/null", os.O_RDONLY)
    good = {"vm": "v", "move": "m", "bound_us": 1000}
    for change in ({"move": "../m"}, {"move": "a/b"}, {"move": ""}, {"move": "-m"}, {"vm": "../v"}, {"bound_us": 0},
                   {"bound_us": LONG_US + 1}, {"more": 1}):
        refused("invalid", keeper.call, "guard-start", {**good, **change}, [null] * 3)
    for n in (0, 2, 4):
        refused("invalid", keeper.call, "guard-start", good, [null] * n)
    refused("not-found", keeper.call, "guard-start", {**good, "vm": "absent"}, [null] * 3)
    # What is no monitor is none: it ends by itself, and the VM is as before.
    pid = keeper.call("guard-start", good, [null] * 3)["pid"]
    wait_for("the guard ends", lambda: not os.path.exists(f"/proc/{pid}"))
    Guard(keeper, "v").close()
    os.close(null)


def test_no_program(keeper):  # noqa: F811
    with open(keeper.conf) as f:
        text = f.read()
    with open(keeper.conf, "w") as f:
        f.write(text.replace("/mete-guard\n", "/absent\n"))
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    start(keeper)
    with pytest.raises(Exception, match="starting a guard failed at executing"):
        Guard(keeper, "v")

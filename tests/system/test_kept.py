# SPDX-License-Identifier: Apache-2.0
"""What a VM that was stopped had stays bound for its next start while nobody needs it (3.21-3.23).

Real guests: stopped and started again from what is kept, whose host steps are not made; another VM that needs the room
has it reclaimed first; restarts of meted and of the keeper, and a reboot of the machine, in between.
"""
import glob
import os
import re

import pytest
from host import Host, wait_for

VM = {"cpus": "1", "memory": "256M"}


def names(events):
    return [e["event"] for e in events]


def ram(host, name):
    return f"{host.ram_dir}/{name}/ram0"


def groups(host, name):
    return sorted({os.path.basename(g) for g in host.cgroups() if g.endswith(f"@{name}")})


def stop(vm):
    """As its own guest does it; the test's guest powers down when asked."""
    before = vm.host.last_event()
    vm.stop()
    assert vm.show()["state"] == "stopped"
    return before


@pytest.fixture
def host():
    with Host(memory="640M") as h:
        yield h


def test_taken_over(host):
    """Stopped it holds nothing in the ledger and is bound; the next start makes no step of the host's."""
    free = host.free()
    vm = host.vm("v", **{**VM, "prealloc": True})
    assert os.stat(ram(host, "v")).st_blocks * 512 == 256 << 20, "RAM is taken as a whole"
    inode = os.stat(ram(host, "v")).st_ino
    since = stop(vm)
    assert host.free() == free and not host.claims() and not host.leases()
    shown = vm.show()
    assert {k["item"] for k in shown["kept"]} == {"ram0", "vcpu0"} and shown["kept_since_ms"] > 0
    assert [k["amount"] for k in shown["kept"] if k["item"] == "ram0"] == [256 << 20]
    text = host.mete("vm", "show", "v").stdout
    assert re.search(r"kept: +ram0 on memory:node0, 256M", text) and re.search(r"kept: +vcpu0 on cpu:\d+, 0.1", text), text
    assert "mete_kept_vms 1" in host.http("GET", "/metrics")[1]
    assert "v is stopped and keeps what it had" in host.mete("doctor", check=False).stdout
    held = groups(host, "v")
    assert [g for g in held if not g.startswith("vcpu0@")] == []
    kept = names(host.events("v", since))
    assert kept.index("deactivated") < kept.index("unmarked") < kept.index("kept") and "host-deactivated" not in kept
    # meted and the keeper come and go
    host.kill_meted()
    host.kill_keeper()
    host.start_keeper()
    host.start_meted()
    assert vm.show()["kept"] == shown["kept"] and os.stat(ram(host, "v")).st_ino == inode
    since = host.last_event()
    vm.start()
    seen = names(host.events("v", since))
    assert "taken-over" in seen and "running" in seen and "host-activated" not in seen and "host-deactivated" not in seen
    assert os.stat(ram(host, "v")).st_ino == inode, "the RAM is the same file"
    shown = vm.show()
    assert "kept" not in shown or not shown["kept"]
    assert all(d["host_active"] and d["active"] for d in host.get("/v1/definitions")["definitions"])
    if held:
        assert "vcpu0@v" in groups(host, "v")
    stop(vm)
    host.mete("vm", "kill", "v")  # an operator wants it back
    assert not vm.show().get("kept") and groups(host, "v") == [] and not os.path.exists(ram(host, "v"))
    assert "reclaimed" in names(host.events("v"))


def test_reclaimed_for_another(host):
    """Another VM needs the room: what is kept goes before its first step."""
    vm = host.vm("v", **VM)
    other = host.vm("w", start=False, cpus="1", memory="512M")
    small = host.vm("u", start=False, cpus="1", memory="256M")
    since = stop(vm)
    small.start()
    assert vm.show()["kept"], "there is room beside it"
    small.kill()
    other.start()
    events = host.events(after=since)
    at = {(e["trace"], e["event"]): e["seq"] for e in reversed(events)}
    assert at["w", "waits"] < at["v", "host-deactivated"] < at["v", "reclaimed"] < at["w", "prepared"]
    assert not vm.show().get("kept") and not os.path.exists(ram(host, "v")) and groups(host, "v") == []
    assert host.mete("vm", "start", "v", check=False).returncode != 0
    other.kill()
    vm.start()


def test_not_kept(host):
    """A VM that was killed, that is deleted, or whose machine was booted meanwhile keeps nothing."""
    vm = host.vm("v", **VM)
    vm.kill()
    assert not vm.show().get("kept") and not os.path.exists(ram(host, "v")) and groups(host, "v") == []
    vm.start()
    os.kill(vm.pid(), 9)
    wait_for("the VM is stopped", lambda: vm.show()["state"] == "stopped", 30, 0.05)
    vm.disconnect()
    assert not vm.show().get("kept") and groups(host, "v") == []
    # a boot: the books are there, what they speak of is not
    vm.start()
    stop(vm)
    host.kill_meted()
    os.unlink(ram(host, "v"))
    for group in glob.glob(f"/sys/fs/cgroup/**/{host.name}/vcpu0@v", recursive=True):
        os.rmdir(group)
    with open(host.path("state", "boot"), "w") as f:
        f.write("another")
    host.start_meted()
    wait_for("what is kept is given up", lambda: not vm.show().get("kept"), 20, 0.05)
    assert any("booted" in e["text"] for e in host.events("v") if e["event"] == "reclaiming")
    vm.start()
    stop(vm)
    assert vm.show()["kept"]
    host.kill_meted()
    host.start_meted()
    assert vm.show()["kept"], "that boot is noted now"
    host.mete("vm", "delete", "v")
    assert not os.path.exists(ram(host, "v")) and groups(host, "v") == []
    assert host.mete_json("vm", "list")["vms"] == []
    del host.vms["v"]


def test_nothing_is_to_be_kept():
    with Host(memory="640M") as host:
        vm = host.vm("v", **VM)
        stop(vm)
        assert vm.show()["kept"]
        host.kill_meted()
        with open(host.path("mete.conf")) as f:
            text = f.read()
        with open(host.path("mete.conf"), "w") as f:
            f.write(text.replace("[vm]\n", "[vm]\nkeep=no\n"))
        host.start_meted()
        wait_for("what is kept is given up", lambda: not vm.show().get("kept"), 20, 0.05)
        vm.start()
        stop(vm)
        assert not vm.show().get("kept") and groups(host, "v") == [] and not os.path.exists(ram(host, "v"))

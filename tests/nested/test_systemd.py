# SPDX-License-Identifier: Apache-2.0
"""A host that systemd runs: VMs lie in a scope that it hands over, whatever happens to it or to our daemons."""
import contextlib
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from nested import CannotRun  # noqa: E402
from nested_systemd import SystemdHost  # noqa: E402

CGROUP = "/sys/fs/cgroup"
SCOPE = "mete.slice/mete-vms.scope"


@pytest.fixture(scope="module")
def booted():
    try:
        host = SystemdHost(smp=2, memory="1G", nodes=1)
        host.__enter__()
    except CannotRun as e:
        pytest.skip(f"no nested host: {e}")
    try:
        host.start_daemons()
        yield host
    finally:
        host.close()


@pytest.fixture
def nested(booted):
    yield booted
    for vm in list(booted.vms.values()):
        booted.mete("vm", "kill", vm.name)
        booted.mete_check("vm", "delete", vm.name)
    booted.vms.clear()
    assert groups(booted) == {}


def groups(host):
    """{group of a VM: (weight, CPUs, threads)}."""
    text = host.check(f"cd {CGROUP}/{SCOPE} && for g in *@*; do [ ! -d $g ] || "
                      "echo $g $(cat $g/cpu.weight) $(cat $g/cpuset.cpus) $(cat $g/cgroup.threads); done")
    return {line.split()[0]: (int(line.split()[1]), line.split()[2], line.split()[3:]) for line in text.splitlines()}


def holder(host):
    """The process that keeps the scope: alone in it, not below."""
    pid, = host.read(f"{CGROUP}/{SCOPE}/cgroup.threads").split()
    assert host.read(f"/proc/{pid}/comm").strip() == "mete-scope"
    return pid


def test_scope(nested):
    """Made by systemd as asked for, with no VM in it yet, and no group of ours beside systemd's."""
    holder(nested)
    assert nested.unit("mete-vms.scope", "ActiveState").strip() == "active"
    assert nested.unit("mete-vms.scope", "ControlGroup").strip() == f"/{SCOPE}"
    assert nested.unit("mete-vms.scope", "Delegate").strip() == "yes"
    assert nested.unit("mete-vms.scope", "TasksMax").strip() == "infinity"
    assert "mete-keeper.service" in nested.unit("mete-vms.scope", "Before")
    assert nested.read(f"{CGROUP}/mete.slice/cpu.weight").strip() == "10000"
    assert not nested.exists(f"{CGROUP}/mete")
    said = nested.mete_check("doctor")
    assert "in mete-vms.scope, which systemd has handed over" in said and "gave no scope" not in said
    assert "groups of VMs in mete-vms.scope of mete.slice, asked of systemd" in nested.check("mete-keeper --check")


@contextlib.contextmanager
def no_bus(host):
    host.systemctl("mask", "--runtime", "dbus.socket", "dbus.service")  # or the keeper's unit would bring it up
    host.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        yield
        assert host.run("systemctl is-active dbus.socket dbus.service")[1].split() == ["inactive", "inactive"]
    finally:
        host.systemctl("unmask", "--runtime", "dbus.socket", "dbus.service")
        host.systemctl("start", "dbus.socket")


def test_vm_stays(nested):
    """Its groups and weights are as granted whatever systemd and the daemons go through, and it works on."""
    vm = nested.vm("v", share="0.8")
    pid, keeps = vm.pid(), holder(nested)
    before = groups(nested)
    weight, _, threads = before["vcpu0@v"]
    assert (weight, threads) == (8000, [str(vm.threads()[0])])
    assert before["emulator@v"][0] == 50 and str(pid) in before["emulator@v"][2]

    def is_as_before():
        now = groups(nested)
        assert {g: row[:2] for g, row in now.items()} == {g: row[:2] for g, row in before.items()}
        assert now["vcpu0@v"] == before["vcpu0@v"] and str(pid) in now["emulator@v"][2]
        assert holder(nested) == keeps

    nested.systemctl("daemon-reload")
    is_as_before()
    # systemd looks again at which controllers its groups need, while another unit comes with a delegation of its own and goes.
    nested.write("/run/systemd/system/other.service", "[Service]\nType=oneshot\nExecStart=/bin/true\nDelegate=yes\nCPUWeight=50\n")
    nested.systemctl("daemon-reload")
    nested.systemctl("start", "other.service")
    is_as_before()
    nested.systemctl("stop", "mete-keeper.service")  # and with it meted, which requires it
    assert nested.unit("mete-vms.scope", "ActiveState").strip() == "active"
    is_as_before()
    nested.systemctl("start", "meted.service")
    nested.wait_up()
    is_as_before()
    with no_bus(nested):  # and nobody who could be asked where it is
        nested.systemctl("restart", "mete-keeper.service", "meted.service")
        nested.wait_up()
        is_as_before()
        assert "gave no scope" not in nested.mete_check("doctor")
    assert vm.pid() == pid
    assert "all is held as it was granted" in nested.mete_check("vm", "verify", "v")
    vm.work()  # it is no corpse


def test_scope_stopped(nested):
    """The operator ends the scope: its VMs are ended with it, that is noticed, and there is another."""
    vm, keeps = nested.vm("v"), holder(nested)
    pid = vm.pid()
    nested.systemctl("stop", "mete-vms.scope")
    nested.wait_for("the VMM is gone", f"[ ! -d /proc/{pid} ]")
    nested.wait_for("there is a scope again", f"grep -qvx {keeps} {CGROUP}/{SCOPE}/cgroup.threads 2>/dev/null")
    nested.wait_up()
    nested.wait_for("meted knows", "mete vm list | grep -q '^v *stopped'")
    vm.start()
    assert nested.check(f"cat /proc/{vm.pid()}/cgroup").strip() == f"0::/{SCOPE}/emulator@v"


def test_no_bus(nested):
    """There is no scope to be had: a group of our own, and it is named. VMs in it stay there when there could be one."""
    nested.systemctl("stop", "mete-keeper.service")  # no VM is left, so the scope goes with it
    nested.wait_for("the scope goes", f"[ ! -d {CGROUP}/{SCOPE} ]")
    assert nested.unit("mete-vms.scope", "ActiveState").strip() == "inactive"
    with no_bus(nested):
        nested.systemctl("start", "meted.service")
        nested.wait_up()
        said = "systemd gave no scope, so VMs are in /mete, unknown to it: "
        assert said in nested.mete_check("doctor")
        vm = nested.vm("v")
        assert nested.check(f"cat /proc/{vm.pid()}/cgroup").strip() == "0::/mete/emulator@v"
    nested.systemctl("restart", "mete-keeper.service", "meted.service")
    nested.wait_up()
    assert "VMs of before are in /mete, unknown to systemd" in nested.mete_check("doctor")
    assert nested.check(f"cat /proc/{vm.pid()}/cgroup").strip() == "0::/mete/emulator@v"
    vm.kill()
    nested.mete_check("vm", "delete", "v")
    nested.vms.clear()
    # What VMs together weigh is the operator's to say, and to hear of.
    nested.systemctl("set-property", "--runtime", "mete.slice", "CPUWeight=100")
    nested.systemctl("restart", "mete-keeper.service", "meted.service")
    nested.wait_up()
    holder(nested)
    assert not nested.exists(f"{CGROUP}/mete")
    assert "mete.slice weighs 100, not 10000 (CPUWeight=)" in nested.mete_check("doctor")
    nested.systemctl("revert", "mete.slice")

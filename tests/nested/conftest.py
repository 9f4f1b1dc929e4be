# SPDX-License-Identifier: Apache-2.0
"""A nested host for the tests of a session: one boot, one keeper, one meted. Each test ends the VMs that it makes."""
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from nested import CannotRun, NestedHost  # noqa: E402


@pytest.fixture(scope="session")
def booted():
    host = NestedHost(smp=4, memory="3G", nodes=2)
    try:
        host.__enter__()
    except CannotRun as e:
        pytest.skip(f"no nested host: {e}")
    try:
        host.start_keeper()
        host.start_meted()
        yield host
    finally:
        host.close()


@pytest.fixture
def nested(booted):
    """The host as it was before: no VM, no group of one, no process of a test."""
    yield booted
    booted.end_all()  # first: they may be in groups of VMs
    for vm in list(booted.vms.values()):
        booted.mete("vm", "kill", vm.name)
        booted.mete_check("vm", "delete", vm.name)
    booted.vms.clear()
    left = booted.check("cd /sys/fs/cgroup/mete && find . -mindepth 1 -type d; ls /dev/shm/mete")
    assert left == "", f"left behind: {left}"

# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real guests: a host, and a guest on it, shared by the tests of a module.

Each test that uses them must leave the ledger as it found it; that is checked behind every test, and a test that
broke the host does not take the next ones with it: the host is made anew.
"""
import os
import signal
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from host import Host, build_image  # noqa: E402


def pytest_configure(config):
    # A CI ends a run with SIGTERM: fixtures must be taken down then as well.
    def end(_signal, _frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, end)


@pytest.fixture(scope="session", autouse=True)
def image():
    """The guest image, with the programs of the release build."""
    if os.geteuid() != 0:
        pytest.skip("the keeper needs root")
    build_image()


class Shared:
    """A host with one guest, made when it is first wanted, and again after something broke it."""

    def __init__(self):
        self.host = None

    def get(self):
        if self.host is None:
            self.host = Host(memory="2G", offer="3s", extra="requests_per_vm=5\n")
            try:
                self.host.__enter__()
                self.host.vm("v")
                self.baseline = self.host.free()
            except BaseException:
                self.close()
                raise
        return self.host

    def close(self):
        host, self.host = self.host, None
        return host.close() if host is not None else []


@pytest.fixture(scope="module")
def shared():
    s = Shared()
    yield s
    problems = s.close()
    assert not problems, problems


@pytest.fixture
def host(shared):
    """The module's host, with the VM v running. Everything that was taken must be back after the test."""
    h = shared.get()
    healthy = False
    try:
        yield h
        if h.vms["v"].show()["state"] != "running":
            h.vms["v"].start()
        h.wait_free(shared.baseline)
        healthy = True
    finally:
        if not healthy:
            shared.close()


@pytest.fixture
def guest(host):
    return host.vms["v"]

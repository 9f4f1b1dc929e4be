# SPDX-License-Identifier: Apache-2.0
"""src/host/net.h against the real kernel, with every fault at every step. Needs root; each test is in network namespaces of
its own."""
import os
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("METE_BUILD") or "build/debug")

if os.geteuid() != 0:
    pytest.skip("network namespaces need root", allow_module_level=True)


def run(name, *arguments):
    done = subprocess.run([f"{BUILD}/src/host/{name}", *arguments], capture_output=True, text=True, timeout=240, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for line in done.stdout.splitlines():
        assert "# SKIP" not in line, line
    assert "runtime error" not in done.stderr
    return done.stdout


def test_all_of_it():
    assert "ok 14 /net/faults" in run("test-host-net", "-m", "slow")


def test_held_against_a_flood():
    out = run("test-host-net-flood")
    assert out.count("# MEASURED") == 3

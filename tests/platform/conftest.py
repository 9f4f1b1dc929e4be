# SPDX-License-Identifier: Apache-2.0
"""Facts about QEMU that mete relies on, and mete's own connection to it, on each QEMU that can be had: the
installed one (or METE_QEMU), and 10.0 of bookworm-backports, fetched beside it. No root, no guest needed for most."""
import os
import shutil
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def pytest_generate_tests(metafunc):
    if "qemu" in metafunc.fixturenames:
        which = ["given"] if os.environ.get("METE_QEMU") else ["installed", "10.0"]
        metafunc.parametrize("qemu", which, indirect=True, scope="session")


@pytest.fixture(scope="session")
def qemu(request):
    if request.param == "given":
        return os.environ["METE_QEMU"]
    if request.param == "installed":
        path = shutil.which("qemu-system-x86_64")
        if path is None:
            pytest.skip("qemu-system-x86_64 is not installed")
        return path
    p = subprocess.run([f"{ROOT}/tools/fetch-qemu10"], capture_output=True, text=True)
    if p.returncode != 0:
        pytest.skip(f"QEMU 10.0 cannot be had: {p.stderr.strip()[-300:]}")
    return p.stdout.strip()


@pytest.fixture(scope="session")
def guest():
    """Directory with vmlinuz and bare.cpio.gz."""
    p = subprocess.run([f"{ROOT}/tests/guest/build-image", "--bare", "--name", "bare"], capture_output=True, text=True)
    if p.returncode != 0:
        pytest.skip(f"no guest image: {(p.stderr or p.stdout).strip()[-300:]}")
    return f"{ROOT}/build/guest"


@pytest.fixture(scope="session")
def build():
    return os.path.join(ROOT, os.environ.get("METE_BUILD", "build/debug"))

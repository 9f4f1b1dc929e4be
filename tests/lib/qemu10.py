# SPDX-License-Identifier: Apache-2.0
"""QEMU 10.0, which moves by copy need here: 7.2 on TCG loses memory when it is copied. And what becomes of a test where a machine has it not."""
import contextlib
import os
import subprocess

from netns import CannotRun

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def qemu10():
    """Where it is; CannotRun with the reason where it cannot be had."""
    p = subprocess.run([f"{ROOT}/tools/fetch-qemu10"], capture_output=True, text=True)
    if p.returncode != 0:
        raise CannotRun(f"QEMU 10.0 cannot be had: {p.stderr.strip()[-300:]}")
    return p.stdout.strip()


@contextlib.contextmanager
def or_skip():
    """What cannot run on this machine is skipped, and why is said."""
    import pytest  # what only measures needs none
    try:
        yield
    except CannotRun as e:
        pytest.skip(str(e))

# SPDX-License-Identifier: Apache-2.0
"""mete-manager's unit: systemd finds nothing wrong with it, it leaves little open, and the system calls that it allows are all that are made."""
import os
import re
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from fleet import BUILD, Fleet, wait_for  # noqa: E402

UNIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../dist/systemd/mete-manager.service.in")
EXPOSURE_MAX = 1.4
pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze (systemd)")


def analyze(*words):
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, timeout=60, env={**os.environ, "SYSTEMD_COLORS": "0"})


def installed(tmp_path):
    with open(UNIT) as f:
        text = f.read()
    os.symlink(os.path.abspath(f"{BUILD}/src/manager/mete-manager"), tmp_path / "mete-manager")
    unit = tmp_path / "mete-manager.service"
    unit.write_text(text.replace("@sbindir@", str(tmp_path)))
    return str(unit), text


def test_it_is_sound(tmp_path):
    unit, _ = installed(tmp_path)
    p = analyze("verify", "--man=no", unit)
    said = [line for line in (p.stdout + p.stderr).splitlines() if "mete-manager" in line]
    assert p.returncode == 0 and not said, p.stdout + p.stderr


def test_it_is_started_again_for_ever(tmp_path):
    """Of several that share an etcd each is to be there when it is needed: systemd's own bound is five starts in ten seconds."""
    _, text = installed(tmp_path)
    assert re.search(r"^\[Unit\]$[^\[]*^StartLimitIntervalSec=0$", text, re.M) and "\nRestart=always\nRestartSec=2s\n" in text


def test_it_leaves_little_open(tmp_path):
    unit, _ = installed(tmp_path)
    p = analyze("security", "--offline=true", unit)
    found = re.search(r"Overall exposure level for mete-manager.service: ([0-9.]+)", p.stdout)
    assert found and float(found.group(1)) <= EXPOSURE_MAX, p.stdout + p.stderr


def calls_of(group):
    found = set()
    for line in analyze("syscall-filter", group).stdout.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= calls_of(word)
        elif word and not word.startswith("#"):
            found.add(word)
    assert found, group
    return found


@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace")
def test_it_makes_no_other_calls(tmp_path):
    """From its start to its end, with a move between: none that its filter would refuse."""
    _, text = installed(tmp_path)
    allowed = set()
    for words in re.findall(r"^SystemCallFilter=(.*)$", text, re.M):
        for group in words.lstrip("~").split():
            allowed = allowed - calls_of(group) if words.startswith("~") else allowed | calls_of(group)
    log = str(tmp_path / "calls")
    fleet = Fleet(is_started=False)
    try:
        fleet.hosts["a"].add_vm("v")
        fleet.start({"ASAN_OPTIONS": "detect_leaks=0"}, ("strace", "-f", "-qq", "-o", log))
        fleet.seen("v")
        assert fleet.move("v", id="o")[0] == 200
        wait_for("it is over", lambda: fleet.ended("moves", "o"))
        with open(log) as f:
            pid = int(f.readline().split()[0])
        os.kill(pid, 15)  # strace ends with it
        assert fleet.process.wait(60) == 0
        fleet.process = None
        with open(log) as f:
            made = {m.group(1) for line in f for m in [re.match(r"\d+ +(?:<\.\.\. )?([a-z0-9_]+)", line)] if m}
    finally:
        fleet.close()
    if os.getuid() == 0:
        made -= {"fchown"}  # SQLite keeps the owner of a file, where it is root
    assert {"connect", "fdatasync", "epoll_wait"} <= made and not made - allowed, (sorted(made), made - allowed)

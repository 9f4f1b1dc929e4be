# SPDX-License-Identifier: Apache-2.0
"""An installed mete-manager has a user of its own: its key is not meted's to read, nor meted's key its own."""
import os
import re

DIST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../dist")


def words(name):
    with open(os.path.join(DIST, name)) as f:
        return [line for line in f.read().splitlines() if not line.startswith("#")]


def users(unit):
    found = dict(line.split("=", 1) for line in words(f"systemd/{unit}.service.in") if "=" in line)
    return found["User"], found["Group"], found


def test_a_user_of_its_own():
    manager, meted = users("mete-manager"), users("meted")
    assert not set(manager[:2]) & set(meted[:2]) and "SupplementaryGroups" not in manager[2]
    assert manager[2]["StateDirectoryMode"] == "0700" and manager[2]["CapabilityBoundingSet"] == ""
    made = [line.split()[1] for line in words("sysusers.conf") if line.startswith("u ")]
    assert {manager[0], meted[0]} <= set(made)
    assert not [line for line in words("sysusers.conf") if re.match(r"m\s+mete-manager\b", line)]  # in no group but its own

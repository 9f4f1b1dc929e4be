# SPDX-License-Identifier: Apache-2.0
"""A move by copy between two real VMMs (src/vm/test-copy-live.c), on each QEMU that can be had; and all that they were told fits the
schema of that very QEMU."""
import json
import os
import re
import subprocess
import sys

import pytest

from qmp import ROOT, Schema, Vmm

sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import payload  # noqa: E402

READS = {
    "query-migrate": ["status", "total-time", "setup-time", "downtime", "error-desc", "cpu-throttle-percentage", "ram.remaining",
                      "ram.transferred", "ram.normal", "ram.duplicate", "ram.dirty-sync-count"],
    "query-migrate-capabilities": ["[].capability", "[].state"],
    "add-fd": ["fd", "fdset-id"],
    "MIGRATION": ["status"],
    "MIGRATION_PASS": ["pass"],
}


# What is asked where it is there, and done without where it is not: Debian's 7.2 has none, 10.0 calls it deprecated and has no other.
OPTIONAL = {"query-migrationthreads: there is no such command", "query-migrationthreads: deprecated"}


def commands_in_source():
    with open(f"{ROOT}/src/vm/copy.c", encoding="utf-8") as f:
        text = f.read()
    return set(re.findall(r'(?:ask(?:_with)?\(c|qmp_execute\([^,"]+),\s*"([a-z_-]+)"', text)) | {"migrate", "migrate-incoming"}


def test_copy(qemu, build, tmp_path):
    if not os.path.exists(payload.program()):
        pytest.skip("the payload is not built: make release")
    record = tmp_path / "record"
    p = subprocess.run([f"{build}/src/vm/test-vm-copy-live"], capture_output=True, text=True, timeout=500,
                       env={**os.environ, "METE_QEMU": qemu, "METE_PAYLOAD": os.path.dirname(payload.program()),
                            "METE_GUARD": f"{build}/src/guard/mete-guard", "METE_QMP_RECORD": str(record)})
    print(p.stdout, p.stderr)
    assert p.returncode == 0
    assert "not ok" not in p.stdout and "# SKIP" not in p.stdout
    assert len(re.findall(r"^ok \d+ /copy-live/", p.stdout, re.M)) == 7

    messages = [json.loads(line[2:]) for line in record.read_text().splitlines() if line.startswith("> ")]
    sent = {m.get("execute", m.get("exec-oob")) for m in messages}
    assert commands_in_source() - sent == {"closefd"}, "what the source says and the test does not"
    with Vmm(qemu) as vmm:
        schema = Schema(vmm.monitor().run("query-qmp-schema"))
    faults = [f for m in messages for f in schema.check_command(m, None)]
    faults += schema.check_command({"execute": "closefd", "arguments": {"fdname": "x"}}, None)
    faults += [f for name, paths in READS.items() for path in paths for f in schema.check_path(name, path)]
    assert set(faults) <= OPTIONAL, "\n".join(sorted(set(faults)))

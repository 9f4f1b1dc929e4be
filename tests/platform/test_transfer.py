# SPDX-License-Identifier: Apache-2.0
"""A VM that is handed from one real VMM to another without its memory being copied (src/vm/test-transfer-live.c), on each QEMU that can
be had, and from the installed one to 10.0; and all that they were told fits the schema of that very QEMU."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from qmp import ROOT, Schema, Vmm

sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import payload  # noqa: E402

READS = {
    "query-migrate": ["status", "total-time", "downtime", "error-desc", "ram.transferred", "ram.normal-bytes"],
    "query-migrate-capabilities": ["[].capability", "[].state"],
    "query-memdev": ["[].id", "[].size", "[].share"],
    "query-status": ["status"],
    "MIGRATION": ["status"],
}


def run(build, record, **environment):
    if not os.path.exists(payload.program()):
        pytest.skip("the payload is not built: make release")
    p = subprocess.run([f"{build}/src/vm/test-vm-transfer-live"], capture_output=True, text=True, timeout=900,
                       env={**os.environ, "METE_PAYLOAD": os.path.dirname(payload.program()), "METE_QMP_RECORD": str(record), **environment})
    print(p.stdout, p.stderr)
    assert p.returncode == 0
    assert "not ok" not in p.stdout and "# SKIP" not in p.stdout
    assert len(re.findall(r"^ok \d+ /transfer-live/", p.stdout, re.M)) == 6


def commands_in_source():
    with open(f"{ROOT}/src/vm/transfer.c", encoding="utf-8") as f:
        text = f.read()
    return set(re.findall(r'(?:ask\(t|qmp_execute_oob\([^,"]+),\s*"([a-z_-]+)"', text)) | {"migrate", "migrate-incoming"}


def test_transfer(qemu, build, tmp_path):
    record = tmp_path / "record"
    run(build, record, METE_QEMU=qemu)
    said = [json.loads(line[2:]) for line in record.read_text().splitlines() if line.startswith("> ")]
    ours = commands_in_source()
    messages = [m for m in said if m.get("execute", m.get("exec-oob")) in ours]  # how it is plugged is test_vm_live.py's
    assert not ours - {m.get("execute", m.get("exec-oob")) for m in messages}, "what the source says and the test does not"
    with Vmm(qemu) as vmm:
        schema = Schema(vmm.monitor().run("query-qmp-schema"))
    faults = [f for m in messages for f in schema.check_command(m, None)]
    faults += [f for name, paths in READS.items() for path in paths for f in schema.check_path(name, path)]
    assert not faults, "\n".join(sorted(set(faults)))


def test_upgrade(build, tmp_path):
    """From the installed QEMU to a later one, with the guest running (5.22)."""
    p = subprocess.run([f"{ROOT}/tools/fetch-qemu10"], capture_output=True, text=True)
    installed = shutil.which("qemu-system-x86_64")
    if p.returncode != 0 or installed is None:
        pytest.skip("two QEMUs cannot be had")
    run(build, tmp_path / "record", METE_QEMU=installed, METE_QEMU_OTHER=p.stdout.strip())

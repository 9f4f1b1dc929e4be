# SPDX-License-Identifier: Apache-2.0
"""mete's connection to a real VMM: grown, shrunk, let go and killed; and everything that it said fits the schema
of that very QEMU."""
import json
import os
import re
import subprocess

from qmp import ROOT, Schema, Vmm

# What view.c, vm.c, vm-operation.c and probe.c read out of replies and events.
READS = {
    "query-name": ["name"],
    "query-uuid": ["UUID"],
    "query-status": ["status"],
    "query-hotpluggable-cpus": ["[].props.core-id", "[].props.socket-id", "[].props.thread-id", "[].type"],
    "query-cpus-fast": ["[].props.core-id", "[].thread-id"],
    "query-memdev": ["[].id", "[].size"],
    "query-memory-devices": ["[].data.id", "[].data.addr", "[].type"],
    "query-machines": ["[].name", "[].deprecated"],
    "query-cpu-definitions": ["[].name", "[].alias-of", "[].unavailable-features", "[].deprecated"],
    "DEVICE_DELETED": ["device"],
    "DEVICE_UNPLUG_GUEST_ERROR": ["device"],
    "ACPI_DEVICE_OST": ["info.device", "info.source", "info.status", "info.slot", "info.slot-type"],
    "SHUTDOWN": ["reason"],
    "RESET": ["reason"],
    "GUEST_PANICKED": ["action"],
    "STOP": [],
    "RESUME": [],
}
PROBE_ONLY = {"query-machines", "query-cpu-definitions"}  # sent by vm/probe, which does not record
# What a VM with a disk is told (tests/system/test_vm_disk.py): the live VM has none, but QEMU must know the words.
OF_DISKS = [{"execute": "query-block"},
            {"execute": "block_set_io_throttle",
             "arguments": {"id": "disk0", "bps": 1 << 20, "bps_rd": 0, "bps_wr": 0, "iops": 10, "iops_rd": 0, "iops_wr": 0}}]


def commands_in_source():
    found = set()
    for name in ("vm.c", "vm-operation.c", "view.c", "qmp.c", "probe.c"):
        with open(f"{ROOT}/src/vm/{name}", encoding="utf-8") as f:
            text = f.read()
        found |= set(re.findall(r'(?:act\(vm|qmp_execute(?:_oob)?\([^,"]+),\s*"([a-z_-]+)"', text))
        found |= set(re.findall(r'{LOOK_[A-Z]+,\s*"([a-z-]+)"', text))
    return found


def test_live(qemu, guest, build, tmp_path):
    record = tmp_path / "record"
    p = subprocess.run([f"{build}/src/vm/test-vm-live"], capture_output=True, text=True, timeout=400,
                       env={**os.environ, "METE_QEMU": qemu, "METE_GUEST": guest, "METE_QMP_RECORD": str(record)})
    print(p.stdout, p.stderr)
    assert p.returncode == 0
    assert "not ok" not in p.stdout and "# SKIP" not in p.stdout
    assert len(re.findall(r"^ok \d+ /live/", p.stdout, re.M)) == 8

    messages = [json.loads(line[2:]) for line in record.read_text().splitlines() if line.startswith("> ")]
    sent = {m.get("execute", m.get("exec-oob")) for m in messages}
    assert sent | PROBE_ONLY | {m["execute"] for m in OF_DISKS} == commands_in_source(), "a command in the source that the live tests do not send"
    with Vmm(qemu) as vmm:
        monitor = vmm.monitor()
        schema = Schema(monitor.run("query-qmp-schema"))
        properties = {}

        def properties_of(device):
            if device not in properties:
                listed = monitor.run("device-list-properties", typename=device)
                properties[device] = {p["name"] for p in listed} | {"node-id"}  # a CPU's, set by the machine
            return properties[device]

        messages += OF_DISKS + [{"execute": name} for name in PROBE_ONLY]
        faults = [f for m in messages for f in schema.check_command(m, properties_of)]
        faults += [f for name, paths in READS.items() for path in paths or [""] if path
                   for f in schema.check_path(name, path)]
        faults += [f"{name}: no such event" for name in ("STOP", "RESUME") if name not in schema.by_name]
        assert not faults, "\n".join(sorted(set(faults)))


def test_the_checker_finds_faults(qemu):
    """A check that cannot fail would be none."""
    with Vmm(qemu) as vmm:
        monitor = vmm.monitor()
        schema = Schema(monitor.run("query-qmp-schema"))
        good = {"execute": "object-add", "arguments": {"qom-type": "memory-backend-file", "id": "m", "size": 4096,
                                                       "mem-path": "/x", "share": True}}
        assert not schema.check_command(good, None)
        for change, says in ((("size", "4096"), "no int"), (("mem-file", "/x"), "no argument mem-file"),
                             (("qom-type", "memory-backend-cheese"), "is not one of"), (("share", 1), "no boolean")):
            bad = {**good, "arguments": {**good["arguments"], change[0]: change[1]}}
            assert any(says in f for f in schema.check_command(bad, None)), change
        del good["arguments"]["mem-path"]
        assert any("mem-path is missing" in f for f in schema.check_command(good, None))
        assert schema.check_command({"execute": "query-cheese"}, None)
        assert schema.check_command({"exec-oob": "query-status"}, None)
        assert schema.check_command({"execute": "device_add", "arguments": {"driver": "x", "cheese": 1}}, lambda _: ())
        assert schema.check_path("query-status", "cheese")
        assert schema.check_path("query-memdev", "id")
        assert not schema.check_path("query-memdev", "[].id")

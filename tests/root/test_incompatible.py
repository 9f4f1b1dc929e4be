# SPDX-License-Identifier: Apache-2.0
"""A VM is to move to a host that cannot run it as it is: that is found before anything starts, and said with what is different (4.1).

The source is played (played_peer.py), so that it can say of its VM whatever a host could: no VM is started here."""
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from host import Host, wait_for  # noqa: E402
from played_peer import PlayedPeer  # noqa: E402
from site_of_two import Pki, Site, address, listen  # noqa: E402

KIB = 1 << 10
VECTOR = {"bandwidth_bps": 0, "source_cpu_milli": 0, "destination_cpu_milli": 0, "share_milli": 1000}


@pytest.fixture(scope="module")
def site():
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", "c")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        a = Host(memory="1G", title="a", extra=listen(pki, 0, "a", "peers-a.conf"))
        s = Site(pki, a, None)
        s.peers(a, c={"address": address(2), "pin": pki.show("c")["pin"]})
        s.c = stack.enter_context(PlayedPeer(pki, "c", 2))
        stack.enter_context(a)
        for name, size in (("vmlinuz", 3 << 20), ("initrd", 300 * KIB)):
            with open(a.path("images", name), "wb") as f:
                f.write(os.urandom(size))
            os.chmod(a.path("images", name), 0o644)
        a.mete("vm", "create", "model", "--memory=128M", "--cpus=1", "--share=0.1", "--kernel=vmlinuz", "--initrd=initrd")
        s.model = a.mete_json("vm", "show", "model")
        a.mete("vm", "delete", "model")
        s.made = 0
        yield s


def peer_file(path):
    """As api/peer.json has it."""
    with open(path, "rb") as f:
        text = f.read()
    n = len(text)
    pieces = [text[n * k // 63:n * k // 63 + 4 * KIB] for k in range(1, 63)]
    samples = text if n <= 384 * KIB else b"".join([text[:64 * KIB], *pieces, text[-64 * KIB:]])
    return {"bytes": n, "digest": hashlib.sha256(samples).hexdigest()}


def guest(site):
    """A VM that could run here."""
    kept = ("cpus", "cpus_max", "share_milli", "cpu_mechanism", "memory_bytes", "memory_max_bytes", "unit_bytes", "machine", "cpu_model",
            "accelerator", "memory_mechanism")
    definition = {**{k: site.model[k] for k in kept}, "name": "v", "uuid": "00000000-0000-4000-8000-000000000001", "qemu_path": "/usr/bin/qemu",
                  "qemu_version": site.model["qemu"], "dimm_slots": 0, "numa_nodes": 1, "serial_pci_slot": 3, "disk_pci_slot": 4,
                  "net_pci_slot": 5, "mac": "52:54:00:00:00:01", "kernel": "vmlinuz", "initrd": "initrd"}
    return {"definition": definition, "boot_id": "", "hhi_generation": 0, "leases": [], "plugged": [0],
            **{k: peer_file(site.a.path("images", name)) for k, name in (("kernel", "vmlinuz"), ("initrd", "initrd"))}}


def reserve(site, what):
    """Asks for room for it; the word about it that comes back."""
    site.made += 1
    word = {"says": "reserve", "move": f"m{site.made}", "vm": "v", "epoch": 1, "attempt": 1, "vector": VECTOR, "reserve_ms": 60000,
            "hold_ms": 60000, "guest": what}
    assert site.c.say(word)[0][0] == 200, site.c.said
    return word, heard(site, word["move"], "reserved", "dropped", "too-little")


def heard(site, move, *says):
    return wait_for(f"a word about {move}", lambda: next((w for w in list(site.c.heard) if w["move"] == move and w["says"] in says), None), 60)


def of(part, **change):
    """What changes in that part of what is said of the VM."""
    def apply(what):
        what[part] = {**what[part], **{k: v(what[part][k]) if callable(v) else v for k, v in change.items()}}
    return apply


def disk(what):
    what["definition"]["disk"] = "v.raw"
    what["disk"] = {"inode": "7", "bytes": 4096}


DIFFERENCES = {
    "machine type": (of("definition", machine="pc-q35-99.0"), "v is a machine pc-q35-99.0, which QEMU"),
    "CPU model": (of("definition", cpu_model="Nowhere-v1"), "v has CPU model Nowhere-v1, which QEMU"),
    "QEMU": (of("definition", qemu_version="99.9.9"), "v was made for QEMU 99.9.9, and this host has"),
    "accelerator": (of("definition", accelerator=lambda has: {"kvm": "tcg", "tcg": "kvm"}[has]), ", and this host has "),
    "network": (of("definition", network="lan9", net_rate_bps=64000), "v is on network lan9, which is not here"),
    "disk": (disk, "v has a disk, and this host does not share its disks"),
    "kernel missing": (of("definition", kernel="nowhere"), "the kernel nowhere: No such file"),
    "initial RAM disk missing": (of("definition", initrd="nowhere"), "the initial RAM disk nowhere: No such file"),
    "size of the kernel": (of("kernel", bytes=lambda n: n + 1), f"the kernel vmlinuz is another one: its size is {3 << 20} here, {(3 << 20) + 1} "),
    "kernel": (of("kernel", digest="0" * 64), "the kernel vmlinuz is another one: its contents"),
    "initial RAM disk": (of("initrd", digest=lambda d: d[:-1] + ("0" if d[-1] != "0" else "1")), "the initial RAM disk initrd is another one: its contents"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_refused_before_anything_starts(site, difference):
    change, says = DIFFERENCES[difference]
    what, before = guest(site), site.a.free()
    change(what)
    word, said = reserve(site, what)
    assert said["says"] == "dropped" and said["reason"] == "incompatible" and says in said["sentence"], said
    assert site.a.free() == before and site.a.claims() == [] and site.a.mete_json("vm", "list")["vms"] == []
    assert not {"reserved", "preparing", "ready"} & {e["event"] for e in site.a.events(word["move"])}
    assert not os.path.exists(site.a.path("run", "vm", "v"))


def test_room_for_what_could_run(site):
    """The same VM without a difference has room; also where its host cannot say what it booted from. And all of it is given back."""
    for left_out in ((), ("kernel", "initrd")):
        what, before = guest(site), site.a.free()
        for k in left_out:
            del what[k]
        word, said = reserve(site, what)
        assert said["says"] == "reserved", said
        assert [c for c in site.a.claims() if c["holder"].startswith("vm:v")], site.a.claims()
        assert site.c.say({**word, "says": "drop"})[0][0] == 200
        heard(site, word["move"], "dropped")
        site.a.wait_free(before)
        assert site.a.claims() == [] and site.a.mete_json("vm", "list")["vms"] == []

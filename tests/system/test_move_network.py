# SPDX-License-Identifier: Apache-2.0
"""A VM with a network card is moved between two hosts on one switch, which finds it at its new port: it is told (announce-self)."""
import subprocess
import sys

import payload
import pytest
from host import wait_for
from linked_hosts import LinkedHosts
from qemu10 import or_skip

SEND = r"""
import socket, sys
mac = bytes.fromhex(sys.argv[1].replace(":", ""))
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("up0", 0))
s.send(b"\xff" * 6 + mac + b"\x88\xb5" + bytes(46))
"""
LEVEL = {"total_ms": 120000, "downtime_ms": 5000}


@pytest.fixture
def hosts():
    with or_skip(), LinkedHosts(1000, memory="1G", uplink_mbit=900, managed="ab") as h:
        yield h


def port_of(hosts, mac):
    """At which port the switch between the hosts has seen that address last, or None."""
    words = [line.split() for line in hosts.link.spaces["wire"].run("bridge", "fdb", "show", "br", "br0").splitlines()]
    return next((w[w.index("dev") + 1] for w in words if w[0] == mac and "permanent" not in w), None)


def test_the_switch_is_told(hosts):
    for host in (hosts.a, hosts.b):
        host.image(payload.program(), "payload.elf")
    hosts.a.mete("vm", "create", "v", "--cpus=1", "--memory=64M", "--share=0.5", "--net=lan:10M..20M", "--kernel=payload.elf",
                 "--append=work=0 say=0 tick=1")
    mac = hosts.a.mete_json("vm", "show", "v")["mac"]
    hosts.a.mete("vm", "start", "v")
    # As its guest would, which has no driver: something is sent from where it is.
    subprocess.run([*hosts.link.a, sys.executable, "-c", SEND, mac], check=True, timeout=20)
    assert port_of(hosts, mac) == "port0"
    move = hosts.move("v", "m1", LEVEL)
    assert move["state"] not in ("countered", "refused"), move
    source, destination = hosts.wait_over("m1", 120)
    assert source["state"] == "done" and destination["state"] == "settled", (source, destination)
    wait_for("the switch has it at b's port", lambda: port_of(hosts, mac) == "port1", 30)
    (there,) = [v for v in hosts.b.mete_json("vm", "list")["vms"] if v["name"] == "v"]
    assert there["state"] == "running" and hosts.b.mete_json("vm", "show", "v")["mac"] == mac

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""4.12: the same move at the same level while others saturate the link and the CPUs, with what it reserved held by the kernel, and
without. As root, in one run, in turns; a row of build/grid/contended.jsonl for each move.

    tests/grid/contended.py [--rounds 5]

held: the source's keeper manages the uplink, so that the move has its class. not held: the same mete, and a keeper that does not.
tuned QEMU: no mete in it at all, no bandwidth limit, downtime-limit as the level has it. Cross traffic: streams of TCP from the
source's host to the destination's, as many as --streams. Spinners: on either host a VM that works without a rest. A move that the
controller breaks off as it foresees a miss has missed its level: the guest was left alone, and the level was not had.

Where the rate is held, total time is compared with what the kernel counted in the move's class over the rate that was reserved for it
(aim: at most 1.05); of a rate that was raised on the way, the highest counts."""
import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests", n) for n in ("lib", "platform", "grid")]
import figures  # noqa: E402
import one_move  # noqa: E402
import payload  # noqa: E402
import stock  # noqa: E402
from link import ADDRESS  # noqa: E402
from linked_hosts import LinkedHosts  # noqa: E402
from qemu10 import qemu10  # noqa: E402
from seen_move import MIB  # noqa: E402

WIRE, UPLINK = 200, 190  # Mbit/s; the uplink is where it is full
# Nearly all of its memory has something in it: zero pages are no bytes, and what they take is no part of what a rate is reserved for.
CELL = {"cell": 0, "mbit": WIRE, "populated_mib": 208, "memory_mib": 256, "area_mib": 8, "dirty_mib_s": 4,
        "level": {"total_ms": 18000, "downtime_ms": 1000}}
SINK = """
import selectors, socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=64)
sel = selectors.DefaultSelector()
sel.register(s, selectors.EVENT_READ)
print('ready', flush=True)
while True:
    for key, _ in sel.select():
        if key.fileobj is s:
            sel.register(s.accept()[0], selectors.EVENT_READ)
        elif not key.fileobj.recv(1 << 18):
            sel.unregister(key.fileobj)
            key.fileobj.close()
"""
SOURCE = """
import select, socket, sys
some = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
for s in some:
    s.setblocking(False)
data, sent, told = bytes(1 << 16), 0, 0
print('ready', flush=True)
while True:
    for s in select.select([], some, [])[1]:
        sent += s.send(data)
    if sent - told > 1 << 20:
        told = sent
        print(sent, flush=True)
"""
PORT = 5001


class Traffic:
    """Streams from a to b, as fast as they can, while this is there; .mbit afterwards: what they got."""

    def __init__(self, link, streams):
        self.link, self.streams, self.mbit = link, streams, None

    def _start(self, inside, words, **more):
        p = subprocess.Popen([*inside, sys.executable, "-B", "-c", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, **more)
        p.stdout.readline()
        return p

    def __enter__(self):
        self.sink = self._start(self.link.b, [SINK, ADDRESS["b"], str(PORT)])
        self.source = self._start(self.link.a, [SOURCE, ADDRESS["b"], str(PORT), str(self.streams)])
        self.began = time.monotonic()
        return self

    def __exit__(self, *_):
        took = time.monotonic() - self.began
        self.source.kill()
        sent = [line for line in self.source.stdout.read().split() if line.isdigit()]
        self.mbit = round(int(sent[-1]) * 8 / took / 1e6, 1) if sent else 0.0
        for p in (self.source, self.sink):
            p.kill()
            p.wait()
            p.stdout.close()


@contextlib.contextmanager
def spinners(hosts):
    """A VM on either host that works without a rest."""
    both = (hosts.a, hosts.b)
    try:
        for host in both:
            host.image(payload.program(), "payload.elf")
            host.mete("vm", "create", "spinner", "--cpus=1", "--memory=64M", "--share=0.2", "--kernel=payload.elf", "--append=work=1 say=0")
            host.mete("vm", "start", "spinner")
        yield
    finally:
        for host in both:
            host.mete("vm", "kill", "spinner", check=False)
            host.mete("vm", "delete", "spinner", check=False)


@contextlib.contextmanager
def all_else(hosts, streams, said):
    """What has the link and the CPUs without a rest; said: what its traffic got."""
    with spinners(hosts), Traffic(hosts.link, streams) as traffic:
        yield
    said["cross_mbit"] = traffic.mbit


def by_mete(hosts, name, streams):
    said = {}
    row = one_move.run(hosts, name, CELL, beside=lambda: all_else(hosts, streams, said))
    row.update(said)
    move = f"g-{name}"
    row["held_bytes"] = (hosts.show(hosts.a, move) or {}).get("held_bytes")
    row["reserved_bps"] = reserved_bps(row, hosts.a.events(move))
    row["over_reserved"] = figures.over_reserved(row)
    return row


def reserved_bps(row, events):
    """The most of the link that it has had as its own."""
    raised = [int(re.match(r"\d+", e["text"])[0]) for e in events if e["event"] == "raised"]
    return max([row.get("plan", {}).get("vector", {}).get("bandwidth_bps", 0), *raised])


def by_qemu(hosts, streams):
    said = {}
    row = stock.run(qemu10(), hosts.link, CELL, CELL["level"], "tuned", lambda: all_else(hosts, streams, said))
    return {**row, **said, "verdict": "met" if row["met"] else "missed"}


def line(arm, row):
    return (f"{arm}: {row['verdict']}, time {row.get('time_ms')} of {CELL['level']['total_ms']} ms, downtime {row.get('downtime_ms')} of "
            f"{CELL['level']['downtime_ms']} ms, the others' traffic {row['cross_mbit']} Mbit/s"
            + (f", answered {row['answer']}, {row['held_bytes']} bytes sent in its class, {row['reserved_bps']} bit/s reserved: time over that "
               f"{row['over_reserved'] and round(row['over_reserved'], 3)}, {row['said'].get('sentence', '')} "
               f"{'WRONG ' + str(row['wrong']) if row['wrong'] else ''}" if "answer" in row else f", {row['status']}"))


def table(rows):
    out = ["| | moves | met | time, median ms | downtime, median ms | others' traffic, median Mbit/s | time over bytes sent / reserved rate: median, most |",
           "|---|---|---|---|---|---|---|"]

    def middle(some, key):
        values = [r[key] for r in some if r.get(key)]
        return statistics.median(values) if values else "-"
    for arm in ("held", "not held", "tuned QEMU"):
        mine = [r for r in rows if r["arm"] == arm]
        out.append(f"| {arm} | {len(mine)} | {sum(r['verdict'] == 'met' for r in mine)} | {middle(mine, 'time_ms')} | {middle(mine, 'downtime_ms')} | {middle(mine, 'cross_mbit')} | {over_reserved(mine)} |")
    return "\n".join(out)


def over_reserved(rows):
    ratios = [r["over_reserved"] for r in rows if r.get("over_reserved")]
    return f"{statistics.median(ratios):.3f}, {max(ratios):.3f} (n={len(ratios)})" if ratios else "-"


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--rounds", type=int, default=5)
    o.add_argument("--streams", type=int, default=16)
    o.add_argument("--build", default=os.environ.get("METE_RELEASE") or "build/release")
    o.add_argument("--out", default=os.path.join(ROOT, "build", "grid", "contended.jsonl"))
    a = o.parse_args()
    os.makedirs(os.path.dirname(a.out), exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows = []
    print(f"{CELL['populated_mib']} MiB over {WIRE} Mbit/s ({UPLINK} managed): {CELL['populated_mib'] * MIB * 8 // UPLINK // 1000} ms alone; level {CELL['level']}", flush=True)
    with LinkedHosts(WIRE, build=a.build, uplink_mbit=UPLINK) as held, LinkedHosts(WIRE, build=a.build) as not_held:
        for n in range(a.rounds):
            for arm, hosts, run in (("held", held, by_mete), ("not held", not_held, by_mete), ("tuned QEMU", not_held, None)):
                row = run(hosts, f"v{n}", a.streams) if run else by_qemu(hosts, a.streams)
                row["arm"] = arm
                rows.append(row)
                with open(a.out, "a", encoding="utf-8") as f:
                    f.write(json.dumps(row) + "\n")
                print(line(arm, row), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()

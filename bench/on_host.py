# SPDX-License-Identifier: Apache-2.0
"""Figures without a guest: the ledger and plans in process, durable reservations through the API, what meted itself costs."""
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

from host import Host, HostError, UnixConnection
from result import RELEASE, ROOT, Skip, at_least, at_most

# A host with much more to give than a run takes: 128 CPUs in shares, two nodes.
SOURCE = "synthetic:pack:2 [NUMANode(memory=1099511627776)] core:64 pu:1"
NEED = "cpu:1,share>=0.001"
BLOCK = b"\0" * 8192


def program(name):
    return os.path.join(ROOT, RELEASE, "bench", name)


class BenchHost(Host):
    """A private host with the release build. tmpfs: its state is where nothing is ever written to a disk."""

    def __init__(self, tmpfs=False, **options):
        options.setdefault("extra", "messages_per_second=100000\nburst=100000\n")
        super().__init__(build=RELEASE, **options)
        self.tmpfs, self.state_tmpfs = tmpfs, None

    def prepare(self):
        if self.tmpfs:
            self.state_tmpfs = tempfile.mkdtemp(prefix="mete-bench-", dir="/dev/shm")
            os.chmod(self.state_tmpfs, 0o755)
        super().prepare()

    def path(self, *parts):
        if self.state_tmpfs and parts[:1] == ("state",):
            return os.path.join(self.state_tmpfs, *parts)
        return super().path(*parts)

    def _remove(self):
        if self.state_tmpfs:
            shutil.rmtree(self.state_tmpfs, ignore_errors=True)
        super()._remove()


def host(**options):
    if os.geteuid() != 0:
        raise Skip("a private host needs root")
    return BenchHost(**options)


# ---- ledger

def ledger(report, rounds):
    samples = {}
    for _ in range(rounds or 5):
        p = subprocess.run([program("bench-ledger")], stdout=subprocess.PIPE, text=True, check=True)
        for name, value in re.findall(r"^BENCH (\S+) (\d+)", p.stdout, re.M):
            samples.setdefault(name, []).append(float(value))
    small = sorted(samples["ledger_1k"])[len(samples["ledger_1k"]) // 2]
    aims = {"ledger_1k": at_least(2e6), "ledger_100k": at_least(max(2e6, small / 3)),
            "ledger_100k_one": at_least(2e6)}  # the worst case: all on one component
    for name, values in samples.items():
        report.figure(name, values, "decisions/s", aims[name], {} if name == "ledger_1k" else
                      {"ledger_1k": (samples["ledger_1k"], "decisions/s")}, digits=0,
                      method="in process, CPU time of one core; each sample is a median of nine rounds")


# ---- plan

def plan(report, rounds):
    samples = []
    for _ in range(rounds or 5):
        p = subprocess.run([program("bench-plan")], stdout=subprocess.PIPE, text=True, check=True)
        samples.append(float(re.search(r"^BENCH plan_us (\S+)", p.stdout, re.M).group(1)))
    print(p.stdout.splitlines()[0])
    report.figure("plan_us", samples, "us", at_most(500), digits=1,
                  method="in process, CPU time of one core; each sample is a median over 63 moves that are planned")


# ---- reservations

def fdatasync_ms(folder, seconds, overwrite):
    """Milliseconds of one write of 8 KiB and its fdatasync; appended, or over what is there."""
    path = os.path.join(folder, "fdatasync")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if overwrite:
            os.write(fd, BLOCK * 64)
            os.fsync(fd)
        n, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            if overwrite:
                os.pwrite(fd, BLOCK, n % 64 * len(BLOCK))
            else:
                os.write(fd, BLOCK)
            os.fdatasync(fd)
            n += 1
        return (time.monotonic() - began) * 1000 / n
    finally:
        os.close(fd)
        os.unlink(path)


def reserve_round(h, connections, seconds, prefix):
    p = subprocess.run([program("bench-reserve"), h.socket, str(connections), str(seconds), NEED, prefix],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode:
        raise HostError(f"bench-reserve: exit {p.returncode}: {p.stderr.strip()}")
    return json.loads(p.stdout)


def reserve(report, rounds):
    widths = (1, 8, 64)
    runs, append, overwrite = {w: [] for w in widths}, [], []
    with host(source=SOURCE, memory="0", cpu_overcommit=8) as h:
        state = h.path("state")
        for i in range(rounds or 9):
            append.append(fdatasync_ms(state, 0.4, False))
            overwrite.append(fdatasync_ms(state, 0.2, True))
            for w in widths:
                runs[w].append(reserve_round(h, w, 0.8, f"r{i}c{w}"))
    sync = {"fdatasync_append_8k": ([1000 / ms for ms in append], "per second"),
            "fdatasync_overwrite_8k": ([1000 / ms for ms in overwrite], "per second")}
    method = "API over the Unix socket, keep-alive, one request under way on each connection; each answer is durable"
    for w in widths:
        aim = at_least(10000) if w == 64 else None
        report.figure(f"reserve_c{w}", [r["per_second"] for r in runs[w]], "reservations/s", aim, sync, method, digits=0)
    for w in widths:
        report.figure(f"reserve_c{w}_p99_ms", [r["p99_ms"] for r in runs[w]], "ms", None,
                      {f"reserve_c{w}_p50_ms": ([r["p50_ms"] for r in runs[w]], "ms"),
                       "fdatasync_append_8k_ms": (append, "ms")}, method)
    times = [1000 / r["per_second"] for r in runs[1]]
    report.figure("reserve_c1_over_overwrite", [t / ms for t, ms in zip(times, overwrite)], "ratio", None, {},
                  "the same over an fdatasync that changes no metadata: what SQLite does while its WAL is used again",
                  digits=3)
    report.figure("reserve_c1_over_fdatasync", [t / ms for t, ms in zip(times, append)], "ratio", at_most(1.5),
                  {"reservation_ms": (times, "ms"), "fdatasync_append_8k_ms": (append, "ms"),
                   "fdatasync_overwrite_8k_ms": (overwrite, "ms")},
                  "time of one reservation over time of one fdatasync of an 8 KiB append, same file system, in turns",
                  digits=3)


# ---- meted itself

def rss_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024


def started_ms(h, *extra):
    """Starts meted of a prepared host; milliseconds from before its exec until it says READY=1."""
    path = os.path.join(h.path("run"), "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        os.chmod(path, 0o777)
        s.settimeout(30)
        with open(h.path("meted.log"), "ab") as log:
            began = time.monotonic()
            h.meted = subprocess.Popen([h.path("bin", "meted"), "--config", h.path("mete.conf"), *extra],
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                       env={"NOTIFY_SOCKET": path, "PATH": "/usr/bin:/bin"}, user=h.meted_uid,
                                       group=h.meted_gid, extra_groups=[])
            said = s.recv(4096)
        passed = (time.monotonic() - began) * 1000
    os.unlink(path)
    if not said.startswith(b"READY=1"):
        raise HostError(f"meted says {said!r}")
    return passed


def exec_ms(h):
    began = time.monotonic()
    subprocess.run([h.path("bin", "meted"), "--version"], stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 1000


def fill(h, n):
    """n reservations that stay."""
    c = UnixConnection(h.socket)
    for i in range(n):
        c.request("POST", "/v1/reservations", json.dumps({"id": f"keep-{i}", "needs": [NEED]}),
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        body = r.read()
        if r.status != 200 or b'"granted"' not in body:
            raise HostError(f"{r.status} {body!r}")
    c.close()


def meted(report, rounds):
    n = 10000
    rounds = rounds or 9
    with host(source=SOURCE, memory="0", cpu_overcommit=8) as h:
        def restart():
            h.kill_meted(15)
            return started_ms(h)
        h.kill_meted(15)
        os.unlink(os.path.join(h.path("state"), "probe.json"))
        first = started_ms(h)
        few, floor = [], []
        for _ in range(rounds):
            few.append(restart())
            floor.append(exec_ms(h))
        rss = {"meted_rss_idle": ([rss_mib(h.meted.pid)], "MiB")}
        fill(h, n)
        full = [rss_mib(h.meted.pid)]
        many = [restart() for _ in range(rounds)]
        after = [rss_mib(h.meted.pid)]
    method = "from before exec until READY=1 over the notify socket; what QEMU can do was probed before"
    report.figure("meted_start_ms", few, "ms", None, {
        "meted_version_ms": (floor, "ms"), "with_10000_reservations": (many, "ms"), "first_with_probe": ([first], "ms")},
        method)
    report.figure("meted_start_10k_ms", many, "ms", None, {"meted_start_ms": (few, "ms")}, method)
    report.figure("meted_rss_10k_mib", full, "MiB", None, {**rss, "after_restart": (after, "MiB")},
                  "VmRSS with 10,000 live reservations on 130 components")


GROUPS = [
    (["ledger_1k", "ledger_100k", "ledger_100k_one"], ledger),
    (["plan_us"], plan),
    (["reserve_c1", "reserve_c8", "reserve_c64", "reserve_c1_p99_ms", "reserve_c8_p99_ms", "reserve_c64_p99_ms",
      "reserve_c1_over_overwrite", "reserve_c1_over_fdatasync"], reserve),
    (["meted_start_ms", "meted_start_10k_ms", "meted_rss_10k_mib"], meted),
]

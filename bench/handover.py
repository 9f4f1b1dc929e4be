# SPDX-License-Identifier: Apache-2.0
"""What a handover costs the guest: for how long it stands, beside the same mechanism of QEMU driven by a bare script, and
beside a copy of all of its memory between two VMMs on the same machine."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import payload
from report import QEMU, RELEASE, ROOT, Skip, at_most
from server import Server

sys.path.insert(0, os.path.join(ROOT, "tests", "platform"))
from qmp import Monitor  # noqa: E402

ROUNDS = 20
MIB = 1 << 20
SIZES = (256, 1024, 4096, 8192)  # MiB
TICK = os.path.join(ROOT, "tests", "lib", "seen_move.py")


class Ticker:
    """Looks at the guest's clock in its memory each millisecond, while this is there; .gap_ms afterwards: its longest silence."""

    def __init__(self, ram):
        self.ram, self.gap_ms, self.late_ms = ram, None, None

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-B", TICK, self.ram], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()
        time.sleep(0.05)
        return self

    def __exit__(self, *_):
        time.sleep(0.05)
        said = json.loads(self.process.communicate()[0] or "{}")
        self.gap_ms = max((g["ms"] for g in said.get("gaps", [])), default=None)
        self.late_ms = said.get("late_ms")


class RawVmm:
    """QEMU with nothing around it, whose memory is that file."""

    def __init__(self, folder, ram, mib, incoming=False):
        self.dir = tempfile.mkdtemp(dir=folder)
        self.process = subprocess.Popen(
            [QEMU, "-machine", "q35,memory-backend=ram0", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-m", str(mib),
             "-smp", "1", "-object", f"memory-backend-file,id=ram0,size={mib}M,mem-path={ram},share=on", "-kernel", payload.program(os.path.join(ROOT, RELEASE)),
             "-append", "work=0 say=0 tick=1", "-qmp", f"unix:{self.dir}/qmp,server=on,wait=off", *(["-incoming", "defer"] if incoming else [])],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not os.path.exists(f"{self.dir}/qmp"):
            if time.monotonic() > end:
                raise RuntimeError("QEMU has no monitor")
            time.sleep(0.01)
        self.qmp = Monitor(f"{self.dir}/qmp")

    def prepare(self, shares):
        """shares: its memory is not sent."""
        wanted = ["return-path"] + (["x-ignore-shared"] if shares else [])
        self.qmp.run("migrate-set-capabilities", capabilities=[{"capability": c, "state": True} for c in wanted])
        self.qmp.run("migrate-set-parameters", max_bandwidth=0, downtime_limit=2000)

    def wait(self, name):
        """The time of its next event of that name, in ms."""
        while True:
            found = [e for e in self.qmp.events if e["event"] == name]
            if found:
                self.qmp.events.remove(found[0])
                return found[0]["timestamp"]["seconds"] * 1e3 + found[0]["timestamp"]["microseconds"] / 1e3
            line = self.qmp.line()
            if "event" in line:
                self.qmp.events.append(line)

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)


def hand(source, target, shares=True):
    """(gap by both VMMs' events, from the command until the guest ran, bytes that went over), ms"""
    path = f"{target.dir}/stream"
    source.prepare(shares)
    target.prepare(shares)
    target.qmp.run("migrate-incoming", uri=f"unix:{path}")
    began = time.time() * 1e3
    source.qmp.run("migrate", uri=f"unix:{path}")
    runs, stood = target.wait("RESUME"), source.wait("STOP")
    end = time.monotonic() + 20
    while (seen := source.qmp.run("query-migrate"))["status"] != "completed" and time.monotonic() < end:
        time.sleep(0.002)
    return runs - stood, runs - began, seen["ram"]["transferred"]


class Raw:
    """A guest that goes from one bare QEMU to the next."""

    def __init__(self, mib, shares=True):
        self.mib, self.shares = mib, shares
        self.dir = tempfile.mkdtemp(prefix="mete-bench-", dir="/dev/shm")
        self.n, self.ram = 0, f"{self.dir}/ram0"
        self.vmm = None

    def __enter__(self):
        self.vmm = RawVmm(self.dir, self.ram, self.mib)
        end = time.monotonic() + 60
        while not payload.read(self.ram):
            if time.monotonic() > end:
                raise RuntimeError("the payload does not come up")
            time.sleep(0.02)
        return self

    def go(self):
        self.n += 1
        ram = self.ram if self.shares else f"{self.dir}/ram{self.n}"
        target = RawVmm(self.dir, ram, self.mib, incoming=True)
        try:
            with Ticker(self.ram) as ticker:
                gap, took, sent = hand(self.vmm, target, self.shares)
        except BaseException:
            target.close()
            raise
        self.vmm.close()
        if not self.shares:
            os.unlink(self.ram)
        self.vmm, self.ram = target, ram
        return {"gap_ms": gap, "took_ms": took, "sent_bytes": sent, "guest_gap_ms": ticker.gap_ms, "late_ms": ticker.late_ms}

    def __exit__(self, *_):
        if self.vmm:
            self.vmm.close()
        shutil.rmtree(self.dir)


class Handed:
    """A guest that goes from one hypervisor of a server to the other and back."""

    def __init__(self, mib):
        self.mib, self.server = mib, Server(memory="24G", build=RELEASE, cpu_overcommit=4)

    def __enter__(self):
        s = self.server.__enter__()
        try:
            s.init(f"a:cpus=0,memory={self.mib + 256}M", "b:cpus=1,memory=256M")  # the VM brings its memory
            s.start("a", "b")
            self.at, self.other = s.hypervisor("a"), s.hypervisor("b")
            s.image(payload.program(os.path.join(ROOT, RELEASE)), "payload.elf")
            self.at.mete("vm", "create", "v", "--cpus=1", f"--memory={self.mib}M", "--share=0.5", "--kernel=payload.elf", "--append=work=0 say=0 tick=1")
            self.at.mete("vm", "start", "v")
            self.ram = f"{s.ram_dir}/v/ram0"
            end = time.monotonic() + 60
            while not payload.read(self.ram):
                if time.monotonic() > end:
                    raise RuntimeError("the payload does not come up")
                time.sleep(0.02)
        except BaseException:
            s.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exc):
        self.server.__exit__(*exc)

    def go(self):
        with Ticker(self.ram) as ticker:
            began = time.time() * 1e3
            p = subprocess.run([self.server.path("bin", "mete"), "handover", "v", "--to", self.other.hypervisor_name, "--wait", "--json",
                                "--socket", self.server.sp_socket], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
            took = time.time() * 1e3 - began
        said = json.loads(p.stdout or "{}")
        if said.get("state") != "running-on-target":
            raise RuntimeError(f"exit {p.returncode}: {p.stdout.strip()} {p.stderr.strip()}")
        self.at, self.other = self.other, self.at
        return {"gap_ms": said["gap_us"] / 1000, "took_ms": took, "sent_bytes": said.get("sent_bytes"), "ram_bytes": said.get("ram_bytes"),
                "guest_gap_ms": ticker.gap_ms, "late_ms": ticker.late_ms}


def column(rows, key):
    return [r[key] for r in rows if r.get(key) is not None]


def percentile(values, p):
    return statistics.quantiles(values, n=100, method="inclusive")[p - 1] if len(values) > 1 else values[0]


def gaps(report, rounds):
    """The same guest at each size by mete and by bare QEMU, in turns; beside one copy of all of its memory."""
    if os.geteuid() != 0:
        raise Skip("a private server needs root")
    by_size, raws, copies = {}, [], []
    for mib in SIZES:
        with Handed(mib) as mete, Raw(mib) as raw:
            for _ in range(rounds or ROUNDS):
                by_size.setdefault(mib, []).append(mete.go())
                raws.append(raw.go())
        with Raw(mib, shares=False) as copied:
            copies.append(copied.go())
    rows = [r for some in by_size.values() for r in some]
    method = (f"payload on TCG, one vCPU, {', '.join(map(str, SIZES))} MiB; from STOP at the source to RESUME at the target, by both VMMs' events; beside it two "
              "bare VMMs with x-ignore-shared, driven by a script, and a copy (mostly of zero pages)")
    mine, theirs = column(rows, "gap_ms"), column(raws, "gap_ms")
    beside = {"raw_ms": (theirs, "ms"), "seen_by_the_guest_ms": (column(rows, "guest_gap_ms"), "ms"), "copy_ms": (column(copies, "gap_ms"), "ms"),
              "copy_took_ms": (column(copies, "took_ms"), "ms")}
    report.figure("handover_gap_p50_ms", mine, "ms", None, beside, method, "tcg", digits=1)
    report.figure("handover_gap_p95_ms", mine, "ms", at_most(20), {"raw_p95_ms": ([percentile(theirs, 95)], "ms")}, method, "tcg",
                  value=percentile(mine, 95), digits=1)
    report.figure("handover_minus_raw_ms", [a - b for a, b in zip(mine, theirs)], "ms", at_most(1.5), beside, method, "tcg", digits=1)
    small, large = (statistics.median(column(by_size[n], "gap_ms")) for n in (SIZES[0], SIZES[-1]))
    report.figure("handover_8g_over_256m", [large / small], "ratio", at_most(1.2), {}, method, "tcg")
    report.figure("handover_took_p50_ms", column(rows, "took_ms"), "ms", None, {"raw_once_prepared_ms": (column(raws, "took_ms"), "ms")},
                  "the whole of `mete handover --wait`, the start of the target's VMM included", "tcg", digits=0)
    report.figure("handover_ram_bytes", column(rows, "ram_bytes"), "bytes", at_most(0), {"copy_bytes": (column(copies, "sent_bytes"), "bytes")}, method, "tcg",
                  value=max(column(rows, "ram_bytes")), digits=0)


GROUPS = [(["handover_gap_p50_ms", "handover_gap_p95_ms", "handover_minus_raw_ms", "handover_8g_over_256m", "handover_took_p50_ms",
            "handover_ram_bytes"], gaps)]

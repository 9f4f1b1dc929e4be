# SPDX-License-Identifier: Apache-2.0
"""What a handover costs the guest: for how long it stands, beside the same mechanism of QEMU driven by a bare script on the very
command line that meted gave its VMM, and beside a copy of all of its memory between two such VMMs on the same machine."""
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import payload
from app import App
from console import Console
from host import build_image
from result import RELEASE, ROOT, Skip, at_most
from server import Server

sys.path.insert(0, os.path.join(ROOT, "tests", "platform"))
from qmp import Monitor  # noqa: E402

ROUNDS = 20
BROKEN_MAX = 3  # handovers that did not come to their end, of all: they are said, and then it is no measurement
MIB = 1 << 20
SIZES = (256, 1024, 4096, 8192)  # MiB
VCPUS = (4, 16)
DIMMS, DIMM_MIB = 7, 128  # with a disk: 8 devices beside what each VM has
TICK = os.path.join(ROOT, "tests", "lib", "seen_move.py")
COPY_S = 300


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


class Shape:
    """What the VM has. Without devices its guest is the payload, whose clock the host can watch; with them it is Linux."""

    def __init__(self, mib, vcpus=1, dimms=0):
        self.mib, self.vcpus, self.dimms = mib, vcpus, dimms
        self.is_linux = dimms > 0
        self.most_mib = mib + dimms * DIMM_MIB
        self.is_ticking = vcpus == 1 and not self.is_linux  # a clock of a millisecond at each vCPU would keep this machine busy

    def watch(self, ram):
        return Ticker(ram) if self.is_ticking else contextlib.nullcontext()


def wait_payload(ram):
    end = time.monotonic() + 60
    while not payload.read(ram):
        if time.monotonic() > end:
            raise RuntimeError("the payload does not come up")
        time.sleep(0.02)


def seen_by(ticker):
    return {"guest_gap_ms": ticker.gap_ms, "late_ms": ticker.late_ms} if ticker else {}


def make_disk(path):
    with open(path, "wb") as f:
        f.truncate(MIB)
    os.chmod(path, 0o666)  # QEMU opens it to write


# ---- bare QEMU

def disk_beside(theirs):
    """Of the same kind, and so on the same file system: what it costs to have it flushed is part of the gap. None: there is none."""
    found = [m[1] for a in theirs if (m := re.search(r"filename=([^,]*)", a))]
    return f"{found[0]}.raw" if found else None


class RawVmm:
    """A VMM as meted's own, by its command line, with nobody but us at its monitor; its base memory is the file `ram`."""

    def __init__(self, folder, ram, theirs, incoming=False):
        self.dir = tempfile.mkdtemp(dir=folder)
        self.log = os.path.join(self.dir, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self._argv(ram, theirs, incoming), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 20
            while not os.path.exists(f"{self.dir}/console0"):  # the last of its sockets
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError("QEMU has no monitor")
                time.sleep(0.01)
            self.qmp = Monitor(f"{self.dir}/qmp0")
        except BaseException:
            self.close()
            raise

    def _argv(self, ram, theirs, incoming):
        """Sockets by path in place of inherited ones, files of our own; all else is as it is, but that it runs by itself."""
        argv = []
        for a in theirs:
            a = re.sub(r"^(socket,id=(\w+)),fd=\d+,server=on,wait=off.*", lambda m: f"{m[1]},path={self.dir}/{m[2]},server=on,wait=off", a)
            a = re.sub(r"mem-path=[^,]*/ram0", f"mem-path={ram}", a)
            a = re.sub(r"filename=[^,]*", f"filename={disk_beside(theirs)}", a)
            argv.append(re.sub(r"^guest=[^,]*", "guest=raw", a))
        at = argv.index("-add-fd")
        del argv[at:at + 2]
        argv.remove("-S")
        return argv + (["-incoming", "defer"] if incoming else [])

    def plug(self, folder, n):
        """Memory in a DIMM, the same file for all."""
        self.qmp.run("object-add", qom_type="memory-backend-file", id=f"mem{n}", size=DIMM_MIB * MIB, mem_path=f"{folder}/dimm{n}",
                     share=True, prealloc=False)
        self.qmp.run("device_add", driver="pc-dimm", id=f"dimm{n}", memdev=f"mem{n}", node=0)

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

    def until_over(self, timeout_s, every_s):
        """What it says of what it sent, once that is over."""
        end = time.monotonic() + timeout_s
        while (seen := self.qmp.run("query-migrate"))["status"] != "completed":
            if seen["status"] in ("failed", "cancelled") or time.monotonic() > end:
                raise RuntimeError(f"bare QEMU: {seen}")
            time.sleep(every_s)
        return seen

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
    if not shares:  # it takes as long as it takes, in which a monitor has nothing to say
        source.until_over(COPY_S, 0.05)
    runs, stood = target.wait("RESUME"), source.wait("STOP")
    return runs - stood, runs - began, source.until_over(20, 0.002)["ram"]["transferred"]


class Raw:
    """A guest that goes from one bare QEMU to the next. theirs: the command line that meted gave the VMM of that shape."""

    def __init__(self, shape, theirs, shares=True):
        self.shape, self.theirs, self.shares = shape, theirs, shares
        self.dir = tempfile.mkdtemp(prefix="mete-bench-", dir="/dev/shm")
        self.n, self.ram = 0, f"{self.dir}/ram0"
        self.vmm = None

    def __enter__(self):
        try:
            if disk := disk_beside(self.theirs):
                make_disk(disk)
            self.vmm = RawVmm(self.dir, self.ram, self.theirs)
            if self.shape.is_linux:
                with Console(f"{self.vmm.dir}/console0") as console:
                    console.wait_ready()
            else:
                wait_payload(self.ram)
            for n in range(self.shape.dimms):
                self.vmm.plug(self.dir, n)
        except BaseException:
            self.__exit__()
            raise
        return self

    def go(self):
        self.n += 1
        ram = self.ram if self.shares else f"{self.dir}/ram{self.n}"
        target = RawVmm(self.dir, ram, self.theirs, incoming=True)
        try:
            for n in range(self.shape.dimms):
                target.plug(self.dir, n)
            with self.shape.watch(self.ram) as ticker:
                gap, took, sent = hand(self.vmm, target, self.shares)
        except BaseException:
            target.close()
            raise
        self.vmm.close()
        if not self.shares:
            os.unlink(self.ram)
        self.vmm, self.ram = target, ram
        return {"gap_ms": gap, "took_ms": took, "sent_bytes": sent, **seen_by(ticker)}

    def __exit__(self, *_):
        if self.vmm:
            self.vmm.close()
        shutil.rmtree(self.dir)


# ---- by mete

class Handed:
    """A guest that goes from one hypervisor of a server to the other and back."""

    def __init__(self, shape):
        self.shape, self.server = shape, Server(memory="24G", build=RELEASE, cpu_overcommit=4)

    def __enter__(self):
        s = self.server.__enter__()
        try:
            s.init(f"a:cpus=0,memory={self.shape.most_mib + 256}M", "b:cpus=1,memory=256M")  # the VM brings its memory
            s.start("a", "b")
            self.at, self.other = s.hypervisor("a"), s.hypervisor("b")
            self._linux() if self.shape.is_linux else self._payload()
            with open(f"/proc/{self.at.mete_json('vm', 'show', 'v')['pid']}/cmdline", "rb") as f:
                self.argv = [a.decode() for a in f.read().split(b"\0")[:-1]]
        except BaseException:
            s.__exit__(*sys.exc_info())
            raise
        return self

    def _payload(self):
        shape = self.shape
        self.at.image(payload.program(os.path.join(ROOT, RELEASE)), "payload.elf")
        self.at.mete("vm", "create", "v", f"--cpus={shape.vcpus}", f"--memory={shape.mib}M", f"--share={0.5 / shape.vcpus:.3f}",
                     "--kernel=payload.elf", f"--append=work=0 say=0 tick={1 if shape.is_ticking else 50}")
        self.at.mete("vm", "start", "v")
        self.ram = f"{self.server.ram_dir}/v/ram0"
        wait_payload(self.ram)

    def _linux(self):
        shape = self.shape
        build_image()
        make_disk(self.server.path("images", "disk"))
        vm = self.at.vm("v", cpus=shape.vcpus, memory=f"{shape.mib}M..{shape.most_mib}M", share="0.5", disk="disk")
        self.ram, app = None, App(vm, "bench")
        for i in range(shape.dimms):
            verdict = app.call("request", {"id": f"m{i}", "needs": [f"memory:{DIMM_MIB}M"]}, 60)
            if verdict["outcome"] != "granted":
                raise RuntimeError(f"no DIMM: {verdict}")
        vm.disconnect()

    def __exit__(self, *exc):
        self.server.__exit__(*exc)

    def _done_ms(self, handover):
        """From when both were ready until mete-sp knew that it runs at the target, by its journal."""
        at = {e["event"]: e["at_ms"] for e in reversed(self.server.sp_events(handover))}
        return float(at["finishing"] - at["informed"])

    def go(self):
        with self.shape.watch(self.ram) as ticker:
            began = time.time() * 1e3
            p = subprocess.run([self.server.path("bin", "mete"), "handover", "v", "--to", self.other.hypervisor_name, "--wait", "--json",
                                "--socket", self.server.sp_socket], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
            took = time.time() * 1e3 - began
        said = json.loads(p.stdout or "{}")
        if said.get("state") != "running-on-target":
            raise RuntimeError(f"exit {p.returncode}: {p.stdout.strip()} {p.stderr.strip()}")
        self.at, self.other = self.other, self.at
        return {"gap_ms": said["gap_us"] / 1000, "took_ms": took, "done_ms": self._done_ms(said["id"]), "sent_bytes": said.get("sent_bytes"),
                "ram_bytes": said.get("ram_bytes"), **seen_by(ticker)}


# ---- figures

def column(rows, key):
    return [r[key] for r in rows if r.get(key) is not None]


def percentile(values, p):
    return statistics.quantiles(values, n=100, method="inclusive")[p - 1] if len(values) > 1 else values[0]


class Turns:
    """The same guest by mete and by bare QEMU, in turns: pairs of what was seen."""

    def __init__(self, shape, rounds, with_copy=False):
        self.mete, self.raw, self.copy, broken = [], [], [], 0
        with Handed(shape) as handed, Raw(shape, handed.argv) as raw:
            while len(self.mete) < rounds:
                try:
                    mine = handed.go()
                except RuntimeError as e:  # it stays where it was
                    broken += 1
                    print(f"# a handover did not come to its end: {e}", flush=True)
                    if broken > BROKEN_MAX:
                        raise
                    continue
                self.mete.append(mine)
                self.raw.append(raw.go())
            if with_copy:
                with Raw(shape, handed.argv, shares=False) as copied:
                    self.copy.append(copied.go())

    def minus(self):
        return [a - b for a, b in zip(column(self.mete, "gap_ms"), column(self.raw, "gap_ms"))]


def need_root():
    if os.geteuid() != 0:
        raise Skip("a private server needs root")


def gaps(report, rounds):
    """At each size; beside it one copy of all of its memory."""
    need_root()
    by_size = {mib: Turns(Shape(mib), rounds or ROUNDS, with_copy=True) for mib in SIZES}
    rows = [r for t in by_size.values() for r in t.mete]
    raws = [r for t in by_size.values() for r in t.raw]
    copies = [r for t in by_size.values() for r in t.copy]
    method = (f"payload on TCG, one vCPU, {', '.join(map(str, SIZES))} MiB; from STOP at the source to RESUME at the target, by both VMMs' events; beside it "
              "two bare VMMs with the same command line and x-ignore-shared, driven by a script, the target's running by itself, and a copy (mostly of zero pages)")
    mine, theirs = column(rows, "gap_ms"), column(raws, "gap_ms")
    sizes = {f"at_{mib}_mib_ms": (column(t.mete, "gap_ms"), "ms") for mib, t in by_size.items()}
    beside = {"raw_ms": (theirs, "ms"), "seen_by_the_guest_ms": (column(rows, "guest_gap_ms"), "ms"),
              "raw_seen_by_the_guest_ms": (column(raws, "guest_gap_ms"), "ms"), "copy_ms": (column(copies, "gap_ms"), "ms"),
              "copy_took_ms": (column(copies, "took_ms"), "ms"), "machine_late_ms": (column(rows, "late_ms"), "ms"), **sizes}
    report.figure("handover_gap_p50_ms", mine, "ms", None, beside, method, "tcg", digits=1)
    tails = {f"at_{mib}_mib_p95_ms": ([percentile(column(t.mete, "gap_ms"), 95)], "ms") for mib, t in by_size.items()}
    seen = column(rows, "guest_gap_ms")
    report.figure("handover_gap_p95_ms", mine, "ms", at_most(20),
                  {"raw_p95_ms": ([percentile(theirs, 95)], "ms"), "seen_by_the_guest_p95_ms": ([percentile(seen, 95)], "ms"), **tails}, method, "tcg",
                  value=percentile(mine, 95), digits=1)
    report.figure("handover_minus_raw_ms", [m for t in by_size.values() for m in t.minus()], "ms", at_most(1.5),
                  {"raw_ms": (theirs, "ms"), **{f"at_{mib}_mib_ms": (t.minus(), "ms") for mib, t in by_size.items()}}, method, "tcg", digits=1)

    def flat(which):
        small, large = (statistics.median(column(getattr(by_size[n], which), "gap_ms")) for n in (SIZES[0], SIZES[-1]))
        return [large / small]
    report.figure("handover_8g_over_256m", flat("mete"), "ratio", at_most(1.2), {"raw": (flat("raw"), "ratio")}, method, "tcg")
    report.figure("handover_done_p50_ms", column(rows, "done_ms"), "ms", at_most(20), {"raw_once_prepared_ms": (column(raws, "took_ms"), "ms")},
                  "from when source and target are ready until mete-sp knows that it runs at the target, by its journal", "tcg", digits=1)
    report.figure("handover_took_p50_ms", column(rows, "took_ms"), "ms", None, {"raw_once_prepared_ms": (column(raws, "took_ms"), "ms")},
                  "the whole of `mete handover --wait`, the start of the target's VMM included", "tcg", digits=0)
    report.figure("handover_ram_bytes", column(rows, "ram_bytes"), "bytes", at_most(0),
                  {"sent_bytes": (column(rows, "sent_bytes"), "bytes"), "copy_bytes": (column(copies, "sent_bytes"), "bytes")}, method, "tcg",
                  value=max(column(rows, "ram_bytes")), digits=0)


def shaped(report, name, shape, rounds, what):
    t = Turns(shape, rounds or ROUNDS)
    mine = column(t.mete, "gap_ms")
    report.figure(name, mine, "ms", None,
                  {"raw_ms": (column(t.raw, "gap_ms"), "ms"), "minus_raw_ms": (t.minus(), "ms"), "p95_ms": ([percentile(mine, 95)], "ms"),
                   "done_ms": (column(t.mete, "done_ms"), "ms"), "took_ms": (column(t.mete, "took_ms"), "ms"),
                   "ram_bytes": (column(t.mete, "ram_bytes"), "bytes")},
                  f"as handover_gap_p50_ms, {what}", "tcg", digits=1)


def vcpus(report, rounds):
    need_root()
    for n in VCPUS:
        shaped(report, f"handover_gap_{n}_vcpus_p50_ms", Shape(SIZES[0], n), rounds, f"{SIZES[0]} MiB and {n} vCPUs")


def devices(report, rounds):
    need_root()
    shaped(report, "handover_gap_8_devices_p50_ms", Shape(SIZES[0], dimms=DIMMS), rounds,
           f"Linux in {SIZES[0]} MiB, a disk and {DIMMS} plugged DIMMs of {DIMM_MIB} MiB; a managed hypervisor gives no network cards")


GROUPS = [(["handover_gap_p50_ms", "handover_gap_p95_ms", "handover_minus_raw_ms", "handover_8g_over_256m", "handover_done_p50_ms",
            "handover_took_p50_ms", "handover_ram_bytes"], gaps),
          ([f"handover_gap_{n}_vcpus_p50_ms" for n in VCPUS], vcpus),
          (["handover_gap_8_devices_p50_ms"], devices)]

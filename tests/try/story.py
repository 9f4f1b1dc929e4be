#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The story that `try` shows: a shop in a VM asks for CPUs and memory, works with them, and gives them back.

    story.py [--keep] BUILD IMAGES WORK      as root; programs of BUILD, guest of IMAGES (tests/try/image), logs into WORK

Everything that is printed behind a prompt was run and has answered so. What must be true is compared here, not by
eye; the first thing that is not ends the story with exit status 1. Whatever happens, every process, cgroup, RAM
file and directory goes; what a story that was killed has left behind goes before the next one begins. With --keep it is the host and its VM alone, which stay until SIGINT or SIGTERM.
"""
import ctypes
import glob
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "lib"))
from console import ConsoleError  # noqa: E402
from host import Host, HostError, Vm, wait_for  # noqa: E402

MIB = 1 << 20
BASE_MIB = 384  # memory of the guest, before it asks
# Limits here are for a machine that hangs; slow ones (emulation, one CPU, a busy CI) stay far below.
BOOT_S, WORK_S, BACK_S = 300, 1200, 120
PR_SET_PDEATHSIG = 1


class StoryError(Exception):
    """Something is not as the story needs it."""


def plain():
    return not sys.stdout.isatty() or "NO_COLOR" in os.environ


def bold(text):
    return text if plain() else f"\033[1m{text}\033[0m"


def say(text=""):
    print(text, flush=True)


def head(number, title):
    say()
    say(bold(f"== {number}. {title}"))


def need(condition, sentence):
    if not condition:
        raise StoryError(sentence)


def indented(text):
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


# -- the machine


class Plan:
    """What fits this machine: how much the shop asks for, and what the host may give away."""

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        cpus = len(allowed)
        self.host_cpus = ",".join(map(str, allowed)) if cpus < os.cpu_count() else None
        available = int(re.search(r"MemAvailable:\s+(\d+)", open("/proc/meminfo").read()).group(1)) // 1024
        shm = os.statvfs("/dev/shm")
        room = shm.f_bavail * shm.f_frsize // MIB
        self.cpus = 2 if cpus >= 2 else 1
        # beside the guest's memory: the VMM's own, a translation cache on TCG, and the rest of the machine
        self.grow_mib = next((mib for mib in (1024, 512, 256)
                              if available >= BASE_MIB + mib + 700 and room >= BASE_MIB + mib + 16), 0)
        need(self.grow_mib, f"{available} MiB of memory and {room} MiB of /dev/shm are free; at least "
             f"{BASE_MIB + 256 + 700} and {BASE_MIB + 256 + 16} are needed")
        self.max_mib = BASE_MIB + self.grow_mib + 640  # a little more room than the host gives away
        self.host_mib = BASE_MIB + self.grow_mib + 384
        self.notes = []
        if self.cpus == 1:
            self.notes.append("there is one CPU: the shop asks for one more vCPU, not for two")
        if self.grow_mib < 1024:
            self.notes.append(f"this machine has {available} MiB of memory free, {room} MiB in /dev/shm: the shop asks "
                              f"for {self.grow_mib} MiB, not for 1 GiB")

    def needs(self):
        memory = "1G" if self.grow_mib == 1024 else f"{self.grow_mib}M"
        return [f"cpu:{self.cpus},share>=0.8", f"memory:{memory}"]


class StoryHost(Host):
    """A host in a private place that is written down, so that it can be removed if this process is killed."""

    def __init__(self, work, **options):
        super().__init__(**options)
        self.work = work
        self.record = os.path.join(work, "running")

    def prepare(self):
        super().prepare()
        with open(self.record, "w") as f:
            f.write(self.dir)

    def close(self):
        if self.dir is None:
            return []
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_IGN)  # the second Ctrl-C must not end the cleaning
        problems = super().close()
        for log in glob.glob(os.path.join(self.work, f"{self.name}-*.log")):
            os.replace(log, log.replace(f"{self.name}-", ""))
        left = leftovers(self)
        if left:
            problems.append(f"left behind: {', '.join(left)}")
        elif os.path.exists(self.record):
            os.unlink(self.record)
        return problems


def processes_of(directory):
    """Processes whose program lies in the directory: a keeper and a meted."""
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if os.readlink(f"{path}/exe").startswith(directory + "/"):
                found.append(int(os.path.basename(path)))
        except OSError:
            continue
    return found


def leftovers(host):
    return [f"process {pid}" for pid in processes_of(host.dir)] + host.cgroups() + \
        [d for d in (host.ram_dir, host.dir) if os.path.exists(d)]


def sweep(work):
    """Removes what a story that was killed has left."""
    host = StoryHost(work)
    try:
        with open(host.record) as f:
            host.dir = f.read().strip()
    except OSError:
        return
    if not re.fullmatch(r"/tmp/mete-test-[A-Za-z0-9_]+", host.dir):
        os.unlink(host.record)
        return
    host.name = os.path.basename(host.dir)
    host.ram_dir = f"/dev/shm/{host.name}"
    if leftovers(host):
        say(f"removing what an interrupted run has left: {', '.join(leftovers(host))}")
    for pid in processes_of(host.dir):
        os.kill(pid, signal.SIGKILL)
    host._kill_vmms()
    wait_for("the last of an interrupted run is gone", lambda: host._remove() or not leftovers(host), 20)
    os.unlink(host.record)


# -- telling


class Story:
    def __init__(self, host, plan, images):
        self.host, self.plan, self.images = host, plan, images
        self.vm = None
        self.figures = {}  # name: [before, with the grant]
        self.told = 0  # lines of the shop that were shown

    def on_host(self, line, expected=0):
        """Runs a `mete` command line on the host, as it is shown."""
        say(f"host$ {line}")
        argv = shlex.split(line)
        p = self.host.mete(*argv[1:], check=False, timeout_s=300)
        text = (p.stdout + p.stderr).rstrip("\n")
        if text:
            say(indented(text))
        need(p.returncode == expected, f"'{line}' ended with exit status {p.returncode}, not {expected}")
        return text

    def in_guest(self, line, expected=0, timeout_s=WORK_S, show=None):
        say(f"guest# {show or line}")
        status, text = self.vm.run(line, timeout_s)
        if text:
            say(indented(text))
        need(status == expected, f"'{line}' in the guest ended with exit status {status}, not {expected}")
        return text

    def quiet(self, line):
        return self.vm.check(line, 120)

    def size(self):
        """(CPUs, KiB of memory) of the guest, as its kernel says."""
        cpus, kib = self.quiet("grep -c ^processor /proc/cpuinfo; sed -n 's/MemTotal: *//p' /proc/meminfo").split("\n")
        return int(cpus), int(kib.split()[0])

    def redis(self, command):
        return self.quiet(f"redis-cli --raw {command}").replace("\r", "")

    def speed(self, text):
        """MB/s of compression, in zstd's own words."""
        found = re.search(r"\)\s+([0-9.]+) MB/s", text)
        need(found and float(found.group(1)) > 0, "zstd has printed no speed")
        return float(found.group(1))

    # -- the steps, in order

    def step_host(self):
        p = self.plan
        head(1, "A host, and a VM that may grow")
        for note in p.notes:
            say(f"note: {note}")
        self.on_host("mete host show")
        self.free_at_start = self.host.free()
        for name in ("vmlinuz", "shop.cpio.gz"):
            self.host.image(os.path.join(self.images, name))
        self.on_host(f"mete vm create shop --cpus 1..{1 + p.cpus} --share 0.1 --memory {BASE_MIB}M..{p.max_mib}M "
                     "--kernel vmlinuz --initrd shop.cpio.gz --append 'console=ttyS0 quiet panic=-1'")
        self.vm = self.host.vms["shop"] = Vm(self.host, "shop")
        began = time.monotonic()
        self.on_host("mete vm start shop")
        self.vm.console.wait_ready(BOOT_S)
        self.vm.wait_agent(BOOT_S)
        say(f"booted, and its agent speaks to the host, after {time.monotonic() - began:.1f} s")
        self.accelerator = self.host.mete_json("host", "show")["accelerator"]
        say()
        self.on_host("mete vm show shop")

    def step_before(self):
        head(2, "In the guest: Redis and zstd with what the VM has of its own")
        self.size_before = self.size()
        need(self.size_before[0] == 1, "the guest has more than its one vCPU")
        self.in_guest("nproc")
        self.in_guest("free -m")
        available = int(self.quiet("sed -n 's/MemAvailable: *//p' /proc/meminfo").split()[0]) // 1024
        self.limit_before = f"{available * 45 // 100}mb"
        # more than all memory of the guest, which is what it could never hold before
        self.limit_peak = f"{self.size_before[1] // 1024 + self.plan.grow_mib // 8}mb"
        self.in_guest(f"redis-server --save '' --maxmemory {self.limit_before} --daemonize yes --logfile /var/log/redis.log")
        wait_for("Redis answers", lambda: self.vm.run("redis-cli PING")[1].strip() == "PONG", 60, 0.1)
        self.in_guest("redis-cli INFO server | grep redis_version")
        text = self.in_guest("shop-fill")
        need("OOM" in text, "Redis has not refused")
        say(f"(OOM is Redis's word for its own limit, --maxmemory {self.limit_before}: it refuses more; nothing was killed)")
        self.items_before = int(self.redis("DBSIZE"))
        self.in_guest("redis-cli INFO memory | grep -E '^(used_memory_human|maxmemory_human)'")
        self.in_guest("redis-cli DBSIZE")
        self.figures["items of 4 KiB in Redis"] = [self.items_before]
        self.figures["zstd, MB/s"] = [self.speed(self.in_guest("zstd -q -b1 -i2 -T1"))]

    def step_ask(self):
        head(3, "The shop asks for more, and gets it")
        self.free_before = self.host.free()
        threads = 1 + self.plan.cpus if self.plan.cpus == 1 else self.plan.cpus
        needs = " ".join(f"--need '{n}'" if ">" in n else f"--need {n}" for n in self.plan.needs())
        line = f"mete run {needs} --name shop --id sale -- shop-peak {self.limit_before} {self.limit_peak} {threads}"
        say(f"guest# {line}")
        began = time.monotonic()
        self.quiet("rm -rf /run/shop")
        self.vm.console.start("peak", line)
        text = self.follow("peak", "/run/shop/at-work")
        say(f"({time.monotonic() - began:.1f} s until here; the shop goes on with what it was granted)")
        cpus, kib = self.size()
        need(cpus == 1 + self.plan.cpus, f"the guest has {cpus} CPUs, not {1 + self.plan.cpus}")
        grown = kib - self.size_before[1]
        need(grown >= self.plan.grow_mib * 1000, f"the guest has grown by {grown} KiB only")
        used = int(re.search(r"used_memory:(\d+)", self.redis("INFO memory")).group(1))
        need(used > self.size_before[1] * 1024, f"Redis holds {used} bytes: that is less than the guest had before")
        items = int(self.redis("DBSIZE"))
        need(items > self.items_before, "Redis holds no more than before")
        say(f"Redis holds {used // MIB} MiB; all memory of this guest was {self.size_before[1] // 1024} MiB before")
        self.figures["items of 4 KiB in Redis"].append(items)
        self.figures["zstd, MB/s"].append(self.speed(text))

    def follow(self, name, until=None):
        """Prints what a command that console.start() began says, until a file appears or the command ends."""
        lines, said = 0, []
        deadline = time.monotonic() + WORK_S
        while True:
            test = f"[ -e {until} ] && echo there" if until else ":"
            done = self.vm.run(f"{test}; cat /tmp/{name}.status 2>/dev/null")[1].split()
            text = self.vm.run(f"tail -n +{self.told + 1} /tmp/{name}.out; echo .")[1]
            new = text.split("\n")[:-1] if text.endswith("\n.") else []
            if new:
                say(indented("\n".join(new)))
            said += new
            self.told += len(new)
            if "there" in done or (done and not until):
                return "\n".join(said)
            need(not done, f"the command has ended with exit status {done[0] if done else ''}")
            need(time.monotonic() < deadline, f"the command has not come to its end within {WORK_S} s")
            time.sleep(1)

    def step_host_side(self):
        head(4, "Meanwhile, on the host")
        self.on_host("mete ledger")
        say("(cpu:0 and so on are CPUs of the host, with their shares; METE_CPUS and nproc above count those of the guest)")
        leases = self.on_host("mete leases")
        need("vm:shop/sale" in leases, "the lease is not among the leases")
        say()
        say("Others in the guest ask for more than there is, and are told why not, or get what is there:")
        too_much = f"memory:{(self.plan.max_mib - BASE_MIB - self.plan.grow_mib)}M"
        text = self.in_guest(f"mete run --need {too_much} --name greedy --id greedy -- true", expected=75)
        need("no-capacity" in text, "the reason is not that there is no capacity")
        text = self.in_guest(f"mete run --or-less --need {too_much} --name modest --id modest -- free -m")
        need("taking less" in text, "there was no counter-offer")
        text = self.in_guest("mete run --need 'cpu:1,share>=0.8' --name greedy --id greedy-cpu -- true", expected=75)
        text = self.in_guest("mete run --need 'cpu:1,clock>=9GHz' --name greedy --id greedy-clock -- true", expected=78)
        need("unsupported" in text, "the reason is not that this is unsupported")
        say()
        say("What has happened to the shop's request, and to the one that took less:")
        events = self.on_host("mete events --trace sale")
        need("granted" in events, "no event tells of the grant")
        self.on_host("mete events --trace modest")
        say()
        say("Why was the other one refused?")
        why = self.on_host("mete why greedy")
        need("greedy: refused" in why and "vm:shop/sale" in why, "it is not said what was refused, and who has it")

    def step_back(self):
        head(5, "The sale is over: everything goes back")
        say("guest# touch /run/shop/over")
        self.quiet("touch /run/shop/over")
        self.follow("peak")
        status = self.quiet("cat /tmp/peak.status")
        need(status == "0", f"the shop has ended with exit status {status}")
        wait_for("the guest is back to its size", lambda: self.size() == self.size_before, BACK_S, 0.2)
        self.in_guest("nproc")
        self.in_guest("free -m")
        self.in_guest("shop-check")
        need(int(self.redis("DBSIZE")) == self.items_before, "Redis does not hold what it held before")
        try:
            self.host.wait_free(self.free_before, BACK_S)
        except HostError as e:
            raise StoryError(f"the ledger: {e}") from None
        self.on_host("mete ledger")
        leases = [lease["holder"] for lease in self.host.leases()]
        need(leases == ["vm:shop"], f"there are leases yet: {leases}")
        say("the ledger is what it was before the shop asked")
        say()
        self.vm.disconnect()
        self.on_host("mete vm stop shop --timeout 120s")
        self.on_host("mete vm delete shop")
        del self.host.vms["shop"]
        self.host.wait_free(self.free_at_start, BACK_S)
        need(self.host.claims() == [], "there are claims yet")
        self.on_host("mete ledger")
        say("the ledger is what it was before the VM was there: no claims")

    def step_sum(self):
        say()
        say(bold("== In figures (this machine; " + self.accelerator + ")"))
        for name, (before, after) in self.figures.items():
            say(f"  {name:<26}{before:>10} before   {after:>10} with the grant   x {after / before:.2f}")

    def stay(self):
        """Until a signal. What is printed can be typed elsewhere."""
        self.step_host()
        self.vm.disconnect()
        where = self.host.dir
        say()
        say(bold("== They stay"))
        say(f"""On this host, from another terminal:
  export METE_SOCKET={self.host.socket} PATH={where}/bin:$PATH
  mete host show
  mete events --follow
In its guest, whatever the shell there takes; as root, in {os.getcwd()}:
  sudo tests/lib/console.py {where}/run/vm/shop/console.sock mete run --need memory:128M -- free -m
Configuration, images and logs are in {where}.
To end all of it: Ctrl-C here, or sudo kill {os.getppid()}""")
        try:
            while self.host.meted.poll() is None and self.host.keeper.poll() is None:
                time.sleep(1)
        except KeyboardInterrupt:
            say()
            return
        raise StoryError("a daemon has ended; its log says why")

    def tell(self):
        self.step_host()
        self.step_before()
        self.step_ask()
        self.step_host_side()
        self.step_back()
        self.step_sum()


def main():
    keep = sys.argv[1:2] == ["--keep"]
    if len(sys.argv) != 4 + keep:
        sys.exit(__doc__)
    build, images, work = (os.path.abspath(a) for a in sys.argv[1 + keep:])

    def end(number, _):
        raise KeyboardInterrupt(signal.Signals(number).name)
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, end)
    # if the script that started us is killed, we still clean up
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.environ["METE_TEST_LOGS"] = work
    try:
        sweep(work)
        plan = Plan()
        with StoryHost(work, build=build, title="try", cpus=plan.host_cpus, memory=f"{plan.host_mib}M") as host:
            story = Story(host, plan, images)
            if keep:
                story.stay()
            else:
                story.tell()
    except (StoryError, HostError, ConsoleError) as e:
        print(f"story: {e}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt as e:
        print(f"story: interrupted {e}", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

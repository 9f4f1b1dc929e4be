# SPDX-License-Identifier: Apache-2.0
"""A nested host: the host side of mete inside a Linux guest that has what the machine underneath may lack, several
NUMA nodes and all of cgroup v2. QEMU on TCG; no root, no KVM.

    with NestedHost(smp=4, memory="3G", nodes=2) as n:
        status, text = n.run("cat /sys/fs/cgroup/cgroup.controllers")
        n.start_keeper()
        n.start_meted()
        vm = n.vm("v", share="0.8")          # boots the payload (tests/payload) at once; it sleeps
        vm.work()
        spinner = n.spin(cpu=vm.cpus(0), group="ordinary")
        print(n.shares(vm.threads()[0], spinner)[0].held)

Inside are the programs of the release build, the distribution's QEMU, busybox, `tc` and `ip` where this machine has
them (call them by their paths under /usr/bin: the shell prefers its own), and network modules for modprobe. Everything
runs at the default paths of an installed mete (/run/mete, /etc/mete, /var/lib/mete). The initramfs has two parts: one
of the distribution's files, cached in build/nested by the content of its list, and one of ours, made for each host.
Nothing of it is compressed: unpacking costs more than reading.

Its cgroups are those of a host with an init system: `services` with the daemons, `console` with the shell that runs
the harness's commands (of the greatest weight, as they must get through where every CPU is spun on), and whatever a
test makes beside them. Each is at the default weight of 100 but `console`, which is idle while shares are measured.
"""
import base64
import collections
import fcntl
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from console import Console, ConsoleError  # noqa: E402
import payload  # noqa: E402

HERE = os.path.join(ROOT, "tests/nested")
OUT = os.path.join(ROOT, "build/nested")
QEMU = "/usr/bin/qemu-system-x86_64"
DEBUG = os.path.join(ROOT, os.environ.get("METE_BUILD") or "build/debug")
PROGRAMS = {"meted/meted": "meted", "keeper/mete-keeper": "mete-keeper", "cli/mete": "mete", "sp/mete-sp": "mete-sp"}
# For tests of links; nothing is loaded before a test asks for it by modprobe.
MODULES = ["veth", "tun", "ifb", "bridge", "sch_htb", "sch_tbf", "sch_ingress", "sch_prio", "sch_fq", "sch_netem",
           "cls_u32", "cls_bpf", "cls_matchall", "cls_flower", "act_mirred", "act_police", "act_skbedit"]
FIRMWARE = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "multiboot_dma.bin"]
LINES = 1  # a PC's third and fourth serial port share their interrupts with the first two: Linux would lose some
SPEC_CPU = "max,-la57"


class Share(collections.namedtuple("Share", "ran held")):
    """What a thread got: .ran of the time, and .held of the time in which it could have run. A vCPU that waits for its VMM's
    main loop, for instance, cannot: the first says then what it used, and the second what it was given."""

    def __str__(self):
        return f"{self.ran:.3f} ({self.held:.3f} of what it wanted)"


class NestedError(Exception):
    """The nested host did not do what it should."""


class CannotRun(Exception):
    """This machine cannot have a nested host; the text says what is missing."""


# -- the initramfs

def _image_builder():
    """tests/guest/build-image, which knows kernels and cpio, as a module of its own."""
    loader = importlib.machinery.SourceFileLoader("nested_build_image", os.path.join(ROOT, "tests/guest/build-image"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    builder = importlib.util.module_from_spec(spec)
    was, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(builder)
    finally:
        sys.dont_write_bytecode = was
    return builder


def _qemu_files(builder):
    """[(path in the nested host, path here)] of QEMU, the part of it that is a module, and firmware."""
    files = []

    def with_libraries(path):
        files.append((path, os.path.realpath(path)))
        files.extend((lib, os.path.realpath(lib)) for lib in builder.libraries(os.path.realpath(path)))
    with_libraries(QEMU)
    # Debian has the translator in a module of its own; other builds have it inside.
    modules = "/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so"
    if os.path.exists(modules):
        with_libraries(modules)
    said = subprocess.run([QEMU, "-L", "help"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    for name in FIRMWARE:
        source = next((os.path.join(d, name) for d in said if os.path.exists(os.path.join(d, name))), None)
        if source is None:
            raise CannotRun(f"QEMU's firmware {name} is in none of {' '.join(said)}")
        files.append((f"/usr/share/qemu/{name}", os.path.realpath(source)))
    return files


def _module_files(builder, folder):
    """[(name of the file, its bytes)] of MODULES and what they depend on, and modules.dep for modprobe."""
    builder.MODULES = MODULES
    order = builder.modules_in_order(folder)
    have = {name for name, _ in order}
    lines = []
    for name, data in order:
        m = re.search(rb"\0depends=([^\0]*)\0", data)
        depends = [d.replace("-", "_") for d in m.group(1).decode().split(",")] if m and m.group(1) else []
        lines.append(f"{name}.ko:" + "".join(f" {d}.ko" for d in depends if d in have))
    return [(f"{name}.ko", data) for name, data in order] + [("modules.dep", ("\n".join(lines) + "\n").encode())]


def _write_plain(archive, path):
    archive._entry("TRAILER!!!", 0)
    tmp = f"{path}.{os.getpid()}"
    with open(tmp, "wb") as f:
        size = sum(f.write(c) for c in archive.chunks)
        f.write(b"\0" * (-size % 512))  # the next archive begins at a multiple of four
    os.rename(tmp, path)


def base_image():
    """(kernel, initramfs) of the distribution's files; made where they changed, else from the cache."""
    if shutil.which(QEMU) is None:
        raise CannotRun(f"{QEMU} is not installed")
    os.makedirs(OUT, exist_ok=True)
    cache = os.environ.get("METE_CACHE") or os.path.join(ROOT, "build/cache")
    os.makedirs(cache, exist_ok=True)
    builder = _image_builder()
    with open(os.path.join(OUT, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            kernel, modules = builder.kernel_tree(cache)
        except SystemExit as e:  # build-image is a program
            raise CannotRun(str(e)) from None
        files = _qemu_files(builder)
        for name in ("setpriv", "tc", "ip"):
            path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
            if path:
                files.append((f"/usr/bin/{name}", os.path.realpath(path)))
                files.extend((lib, os.path.realpath(lib)) for lib in builder.libraries(os.path.realpath(path)))
        known = hashlib.sha256(repr((kernel, MODULES, sorted(set((t, s, os.stat(s).st_size, os.stat(s).st_mtime_ns)
                                                                 for t, s in files)))).encode())
        for path in (__file__, os.path.join(ROOT, "tests/guest/build-image")):
            with open(path, "rb") as f:
                known.update(f.read())
        target = os.path.join(OUT, f"base-{known.hexdigest()[:16]}.cpio")
        if not os.path.exists(target):
            for name in os.listdir(OUT):
                if name.startswith("base-"):
                    os.unlink(os.path.join(OUT, name))
            archive = builder.Archive()
            for to, source in files:
                archive.copy(to, source)
            for name, data in _module_files(builder, modules):
                archive.file(f"lib/modules/{os.path.basename(modules)}/{name}", data)
            builder.OVERLAY = "/nonexistent"  # ours comes with the second part
            builder.add_base(archive, builder.find_program("busybox"))
            _write_plain(archive, target)
    return kernel, target


def _build_tool():
    os.makedirs(OUT, exist_ok=True)
    source, target = os.path.join(HERE, "tool.c"), os.path.join(OUT, "nested-tool")
    if not os.path.exists(target) or os.path.getmtime(target) < os.path.getmtime(source):
        tmp = f"{target}.{os.getpid()}"
        subprocess.run(["gcc", "-static", "-O1", "-std=gnu17", "-D_GNU_SOURCE", "-o", tmp, source], check=True)
        os.rename(tmp, target)
    return target


def _own_image(path, release, files, debug):
    """The second part: our programs, those in `debug` of the debug build, and whatever the test adds ({path in the nested host:
    path here, or bytes})."""
    builder = _image_builder()
    archive = builder.Archive()
    for source, name in PROGRAMS.items():
        build = DEBUG if name in debug else release
        program = os.path.join(build, "src", source)
        if not os.path.exists(program):
            raise CannotRun(f"{program} is missing: make {'' if name in debug else 'release '}builds it")
        builder.add_program(archive, program, f"/usr/bin/{name}")
    archive.copy("usr/bin/nested-tool", _build_tool())
    archive.file("var/lib/mete/images/payload.elf", _bytes_of(payload.program(release)))
    for to, source in (files or {}).items():  # what comes first wins
        if isinstance(source, bytes):
            archive.file(to, source)
        else:
            archive.copy(to, source)
    for folder in (os.path.join(HERE, "overlay"), os.path.join(ROOT, "tests/guest/overlay")):
        for d, _, names in os.walk(folder):
            for n in names:
                archive.copy(os.path.relpath(os.path.join(d, n), folder), os.path.join(d, n))
    _write_plain(archive, path)


def _bytes_of(path):
    if not os.path.exists(path):
        raise CannotRun(f"{path} is missing: make release builds it")
    with open(path, "rb") as f:
        return f.read()


# -- what the kernel says

Mapping = collections.namedtuple("Mapping", "address policy path pages")


def parse_numa_maps(text):
    """Lines of /proc/PID/numa_maps: address, policy, the file behind it ("" where none), {node: bytes}."""
    found = []
    for line in text.splitlines():
        words = line.split()
        pages, path, kib = {}, "", 4
        for word in words[2:]:
            key, _, value = word.partition("=")
            if re.fullmatch(r"N\d+", key):
                pages[int(key[1:])] = int(value)
            elif key == "file":
                path = value.encode().decode("unicode_escape")
            elif key == "kernelpagesize_kB":
                kib = int(value)
        found.append(Mapping(int(words[0], 16), words[1], path, {n: p * kib * 1024 for n, p in pages.items()}))
    return found


# -- the host

class NestedHost:
    def __init__(self, smp=4, memory="3G", nodes=2, distance=20, release=None, files=None, append="", verbose=False,
                 debug=()):
        """debug: programs, by name, that are of the debug build: it alone has the places where METE_FAULTS strikes."""
        self.smp, self.nodes, self.distance = smp, nodes, distance
        self.memory_mib = int(memory[:-1]) * {"M": 1, "G": 1024}[memory[-1]]
        if smp % nodes or self.memory_mib % nodes:
            raise ValueError("CPUs and memory are divided evenly among the nodes")
        self.release = release or os.path.join(ROOT, os.environ.get("METE_RELEASE") or "build/release")
        self.files, self.append, self.verbose, self.debug = files, append, verbose, debug
        self.dir = self.qemu = self.console = None
        self.vms, self.pids = {}, set()
        self.lines = list(range(1, LINES + 1))
        self.keeper_pid = self.meted_pid = None
        self.boot_s = self.image_s = None

    def __enter__(self):
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _numa(self):
        args, cpus, mib = [], self.smp // self.nodes, self.memory_mib // self.nodes
        for i in range(self.nodes):
            args += ["-object", f"memory-backend-ram,id=m{i},size={mib}M",
                     "-numa", f"node,nodeid={i},memdev=m{i},cpus={i * cpus}-{(i + 1) * cpus - 1}"]
        for i in range(self.nodes):
            for j in range(self.nodes):
                if i != j:
                    args += ["-numa", f"dist,src={i},dst={j},val={self.distance}"]
        return args

    def _lines(self):
        """Serial lines beside the console's, each for one agent."""
        args = []
        for i in range(1, LINES + 1):
            path = os.path.join(self.dir, f"line{i}.sock")
            args += ["-chardev", f"socket,id=line{i},path={path},server=on,wait=off", "-serial", f"chardev:line{i}"]
        return args

    def take_line(self):
        """(its number, device there, socket here) of a serial line that nobody has."""
        if not self.lines:
            raise NestedError(f"all {LINES} serial lines are taken")
        i = self.lines.pop(0)
        return i, f"/dev/ttyS{i}", os.path.join(self.dir, f"line{i}.sock")

    def _boot(self):
        began = time.monotonic()
        kernel, base = base_image()
        self.dir = tempfile.mkdtemp(prefix="mete-nested-", dir="/tmp")
        own, initrd = os.path.join(self.dir, "own.cpio"), os.path.join(self.dir, "initrd")
        _own_image(own, self.release, self.files, self.debug)
        with open(initrd, "wb") as out:
            for part in (base, own):
                with open(part, "rb") as f:
                    shutil.copyfileobj(f, out, 1 << 20)
        self.image_s = time.monotonic() - began
        began = time.monotonic()
        path = os.path.join(self.dir, "console.sock")
        with open(os.path.join(self.dir, "qemu.log"), "wb") as log:
            self.qemu = subprocess.Popen(
                [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35", "-accel",
                 "tcg,thread=multi", "-cpu", SPEC_CPU, "-smp", str(self.smp), "-m", f"{self.memory_mib}M", *self._numa(),
                 "-kernel", kernel, "-initrd", initrd,
                 "-append", f"console=ttyS0 quiet panic=-1 mitigations=off {self.append}",
                 "-chardev", f"socket,id=c,path={path},server=on,wait=off", "-serial", "chardev:c", *self._lines()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.console = Console(path)
        self.console.wait_ready(180)
        self.boot_s = time.monotonic() - began
        os.unlink(own)
        os.unlink(initrd)

    def close(self):
        """Ends it; nothing inside needs to be put in order, as nothing of it outlives the VM."""
        if self.console is not None:
            self.console.close()
            self.console = None
        if self.qemu is not None:
            if self.qemu.poll() is None:
                self.qemu.kill()
            self.qemu.wait()
            self.qemu = None
        if self.dir is not None:
            shutil.rmtree(self.dir, ignore_errors=True)
            self.dir = None

    # -- commands and files

    def run(self, command, timeout_s=180):
        """(exit status, output) of a shell command there, as root."""
        began = time.monotonic()
        status, text = self.console.run(command, timeout_s)
        if self.verbose:
            print(f"[{time.monotonic() - began:6.2f} s] {command[:300]}: {status}\n{text[:2000]}")
        return status, text

    def check(self, command, timeout_s=180):
        status, text = self.run(command, timeout_s)
        if status:
            raise NestedError(f"{command}: exit {status}: {text[-2000:]}")
        return text

    def read(self, path):
        return self.check(f"cat {shlex.quote(path)}")

    def read_bytes(self, path, offset=0, size=None):
        """Part of a file; what is wanted should be small, it comes over a serial line."""
        q = shlex.quote(path)
        part = f"dd if={q} bs=4096 iflag=skip_bytes,count_bytes skip={offset} " + (f"count={size} " if size else "")
        return base64.b64decode(self.check(f"{part} 2>/dev/null | base64"))

    def write(self, path, text):
        self.check(f"cat >{shlex.quote(path)} <<'END-OF-FILE'\n{text}\nEND-OF-FILE")

    def exists(self, path):
        return self.run(f"test -e {shlex.quote(path)}")[0] == 0

    def start(self, name, command):
        """Runs it in the background; its pid. Its output is in /tmp/NAME.out; result(name) waits for its end."""
        return self.console.start(name, command)

    def result(self, name, timeout_s=60):
        return self.console.result(name, timeout_s)

    def background(self, command, log="/dev/null", group="services"):
        """Runs a program in that cgroup, its output in a file; its pid, of the very program and no shell around it."""
        # It enters before it pins itself: a thread that enters a cpuset gets all of its CPUs again.
        script = f"echo $$ >/sys/fs/cgroup/{group}/cgroup.procs && exec {command}"
        pid = int(self.check(f"setsid sh -c {shlex.quote(script)} </dev/null >>{log} 2>&1 & echo $!"))
        self.pids.add(pid)
        return pid

    def end(self, *pids, signal="KILL"):
        """Ends what background() began, and waits until it is gone."""
        for pid in pids:
            self.run(f"kill -{signal} {pid}")
            self.wait_for(f"{pid} is gone", f"{{ [ ! -d /proc/{pid} ] || grep -q '^State:.Z' /proc/{pid}/status; }}")
            self.pids.discard(pid)

    def end_all(self):
        """Whatever background() began and is still there, but not the daemons."""
        self.end(*(self.pids - {self.keeper_pid, self.meted_pid}))

    def wait_for(self, what, command, timeout_s=30):
        """Until the command's exit status is 0; polled inside, so that one look costs little."""
        script = f"n=0; until {command}; do n=$((n + 1)); [ $n -lt {timeout_s * 10} ] || exit 1; usleep 100000; done"
        status, text = self.run(f"( {script} )", timeout_s * 4 + 30)
        if status:
            raise NestedError(f"timeout: {what}: {text[-1000:]}")
        return text

    # -- CPU time

    def group(self, name, **files):
        """Makes a cgroup of that path and writes its files, dots as underscores: cpu_weight=100."""
        path = f"/sys/fs/cgroup/{name}"
        self.check(f"mkdir -p {path}")
        for key, value in files.items():
            self.check(f"echo {value} >{path}/{key.replace('_', '.', 1)}")
        return path

    def spin(self, cpu=None, group="ordinary"):
        """A process that uses a CPU up, on that CPU, in that cgroup ("" is the root); its pid."""
        self.group(group)
        return self.background(f"nested-tool spin {'' if cpu is None else cpu}", group=group)

    def shares(self, *tids, seconds=1, windows=5):
        """What each thread got of a CPU, by the nested host's own clock: a Share for each, in their order. Each is the median
        of that many windows: where the machine underneath has no time for one of its CPUs, whoever is on it is charged."""
        text = self.check(f"nested-tool shares {int(seconds * 1000)} {windows} {' '.join(map(str, tids))}", seconds * windows * 10 + 30)
        seen = []
        for line in text.splitlines():
            wall, *counts = map(int, line.split())
            seen.append([(ran / wall, ran / (ran + waited) if ran else 0.0) for ran, waited in zip(counts[::2], counts[1::2])])
        if len(seen) != windows or any(len(window) != len(tids) for window in seen):
            raise NestedError(f"nested-tool shares: {text}")
        return [Share(*map(statistics.median, zip(*of_one))) for of_one in zip(*seen)]

    def cgroup_of(self, tid):
        """Path below the root of the hierarchy."""
        return self.read(f"/proc/{tid}/cgroup").strip().removeprefix("0::/")

    # -- mete

    def start_keeper(self, wait=True, **keys):
        """Further keys go into [keeper] of its configuration; the rest is as installed."""
        self.write("/etc/mete/keeper.conf", "[keeper]\n" + "".join(f"{k}={v}\n" for k, v in keys.items()))
        self.keeper_pid = self.background("mete-keeper --config /etc/mete/keeper.conf", "/var/log/keeper.log")
        if wait:
            self._wait_up(self.keeper_pid, "keeper", "test -S /run/mete-keeper/keeper.sock")
        return self.keeper_pid

    def start_meted(self, wait=True, extra="", **host_keys):
        """Further keys go into [host]; `extra` is text behind it, sections and all. What tests change by hand stays so until
        somebody asks (mete vm verify)."""
        keys = {"reserve": "0", **host_keys}
        self.write("/etc/mete/mete.conf", "[meted]\nname=nested\n[host]\n" +
                   "".join(f"{k}={v}\n" for k, v in keys.items()) + "[limits]\nverify=0s\n" + extra)
        self.meted_pid = self.background("/usr/bin/setpriv --reuid mete --regid mete --clear-groups --inh-caps=-all --no-new-privs -- "
                                         "meted --config /etc/mete/mete.conf", "/var/log/meted.log")
        if wait:
            self._wait_up(self.meted_pid, "meted", "mete doctor >/dev/null 2>&1")
        return self.meted_pid

    def _wait_up(self, pid, name, condition):
        try:
            self.wait_for(f"{name} is up", f"{{ [ ! -d /proc/{pid} ] || {condition}; }}", 60)
            self.check(f"[ -d /proc/{pid} ]")
        except (NestedError, ConsoleError) as e:
            raise NestedError(f"{name} did not come up: {self.log(name)[-2000:]}") from e

    def log(self, name):
        return self.run(f"cat /var/log/{name}.log")[1]

    def mete(self, *args, timeout_s=120):
        """(exit status, output, stderr included) of `mete`."""
        return self.run("mete " + " ".join(map(shlex.quote, args)), timeout_s)

    def mete_check(self, *args, timeout_s=120):
        status, text = self.mete(*args, timeout_s=timeout_s)
        if status:
            raise NestedError(f"mete {' '.join(args)}: exit {status}: {text}\n{self.log('meted')[-1500:]}\n"
                              f"{self.log('keeper')[-1500:]}")
        return text

    def mete_json(self, *args):
        return json.loads(self.mete_check(*args, "--json"))

    def vm(self, name, append="", start=True, agent=False, **options):
        """A VM that runs the payload; with `agent` its console is the port of the agent (NestedAgent)."""
        options = {"cpus": "1..1", "memory": "64M..64M", "share": "0.1", **options}
        args = [f"--{k}={v}" for k, v in options.items() if v is not None]
        self.mete_check("vm", "create", name, *args, "--kernel=payload.elf", f"--append={append or 'work=0 say=0'}{' bridge=1' if agent else ''}")
        vm = self.vms[name] = NestedVm(self, name)
        if start:
            vm.start()
        return vm


    def adopt(self, name, pid, ram):
        """A VMM that a test started by hand, to be looked at like a VM."""
        return NestedVm(self, name, pid, ram)

    def wait_for_board(self, vm, what, condition, timeout_s=60):
        """Until the condition is true of the payload's board, which it returns."""
        deadline = time.monotonic() + timeout_s
        while True:
            board = vm.board()
            if board and condition(board):
                return board
            if time.monotonic() > deadline:
                raise NestedError(f"timeout: {what}: the board of {vm.name} says {board}")
            time.sleep(0.1)

    def allocated(self, path):
        """Bytes that a file really takes."""
        blocks, size = map(int, self.check(f"stat -c '%b %B' {shlex.quote(path)}").split())
        return blocks * size


class NestedVm:
    def __init__(self, host, name, pid=None, ram=None):
        self.host, self.name, self._pid = host, name, pid
        self.ram = ram or f"/dev/shm/mete/{name}/ram0"

    def start(self, wait=True):
        self.host.mete_check("vm", "start", self.name)
        if wait:
            cpus = self.show()["cpus"]
            self.host.wait_for_board(self, "the payload runs on all vCPUs", lambda b: b.cpus >= cpus)

    def show(self):
        return self.host.mete_json("vm", "show", self.name)

    def pid(self):
        return self._pid or self.show()["pid"]

    def board(self):
        """What its payload says (payload.Board); None before it is up."""
        if not self.host.exists(self.ram):
            return None
        data = self.host.read_bytes(self.ram, payload.ADDRESS, payload.SIZE)
        return payload.parse(data) if len(data) == payload.SIZE else None

    def agent(self):
        """The guest's agent, to be played by the test; the VM must have been made with agent=True."""
        return NestedAgent(self)

    def work(self, cpus=payload.CPUS_MAX):
        """Lets vCPUs 0 to cpus - 1 of the payload work, and the others sleep; returns when those all do."""
        before = self.board().rounds
        word = "".join(f"\\{b:03o}" for b in struct.pack("<I", cpus))
        self.host.check(f"printf '{word}' | dd of={self.ram} bs=4 seek={(payload.ADDRESS + payload.WORK) // 4} conv=notrunc "
                        "2>/dev/null")
        self.host.wait_for_board(self, "its vCPUs work", lambda b: all(
            now > then for now, then in zip(b.rounds[:cpus], before) if then is not None))

    def threads(self):
        """{slot: thread id} of the vCPUs, by the names that QEMU gives its threads."""
        text = self.host.check(f"grep -H . /proc/{self.pid()}/task/*/comm")
        return {int(m.group(2)): int(m.group(1)) for m in re.finditer(r"task/(\d+)/comm:CPU (\d+)/", text)}

    def cpus(self, slot=0):
        """Where that vCPU may run: text of its list of CPUs."""
        status = self.host.read(f"/proc/{self.threads()[slot]}/status")
        return re.search(r"Cpus_allowed_list:\s*(\S+)", status).group(1)

    def group(self, slot=0):
        return self.host.cgroup_of(self.threads()[slot])

    def memory(self):
        """What its RAM file's mapping says: a Mapping (policy, bytes on each node)."""
        maps = parse_numa_maps(self.host.check(f"grep -F file={self.ram} /proc/{self.pid()}/numa_maps"))
        return next(m for m in maps if m.path == self.ram)

    def kill(self):
        self.host.mete_check("vm", "kill", self.name)


class NestedAgent:
    """An agent without a guest: its end of the channel (api/guest.json), which the payload bridges to its serial port.

    It answers the host as a good agent would that has what the payload has: vCPUs by the board, memory as it is told.
    One at a time: there is one serial line for it.
    """

    def __init__(self, vm):
        self.vm, host = vm, vm.host
        self.number, tty, path = host.take_line()
        self.memory_bytes = vm.show()["memory_bytes"]
        self.off = set()  # vCPUs that it was told to put off line
        self.buffer, self.answers, self.ended, self.id = b"", {}, [], 0
        self.told, self.parts = [], []  # host hardware information: (generation, is it all, what was said)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(path)
        self.joint = host.background(f"nested-tool join {tty} /run/mete/vm/{vm.name}/console.sock", f"/var/log/{vm.name}.join")
        self._hear(time.monotonic() + 60)  # an empty line: both ends are there
        self.hello()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()
        self.vm.host.end(self.joint)
        self.vm.host.lines.append(self.number)

    def state(self):
        on = [i for i, rounds in enumerate(self.vm.board().rounds) if rounds is not None and i not in self.off]
        return {"cpus_online": on, "memory_bytes": self.memory_bytes}

    def _send(self, message):
        self.sock.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def _hear(self, deadline):
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NestedError(f"the agent of {self.vm.name} heard nothing in time; {self.buffer[-300:]!r}")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                continue
            if not data:
                raise NestedError("the nested host has hung up")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        if not line.strip():
            return
        message = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        if method is None:
            self.answers[message["id"]] = message
        elif method == "ended":
            self.ended.append(params)
        elif method == "greet":
            pass  # nothing here interrupts the channel after hello()
        elif method == "hhi":
            self.parts.append(params["text"])
            if params["part"] == params["parts"]:
                self.told.append((params["generation"], "base" not in params, json.loads("".join(self.parts))))
                self.parts = []
            self._send({"id": message["id"], "result": {"applied": True}})
        elif method == "ping":
            self._send({"id": message["id"], "result": {}})
        elif method == "online":
            self.off -= set(params["cpus"])
            self.memory_bytes = max(self.memory_bytes, params["memory_bytes"])
            self.vm.host.wait_for_board(self.vm, "the vCPUs came up",
                                        lambda b: all(b.rounds[i] is not None for i in params["cpus"]))
            self._send({"id": message["id"], "result": self.state()})
        elif method == "offline":
            self.off |= set(params["cpus"])
            self._send({"id": message["id"], "result": self.state()})
        else:
            self._send({"id": message["id"], "error": {"code": -32601, "message": f"no {method}"}})

    def call(self, method, timeout_s=90, **params):
        """The result; NestedError where the host answers with an error."""
        self.id += 1
        number = self.id
        self._send({"id": number, "method": method, "params": params})
        deadline = time.monotonic() + timeout_s
        while number not in self.answers:
            self._hear(deadline)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise NestedError(f"{method}: {answer['error']}")
        return answer["result"]

    def hello(self):
        self.sock.sendall(b"\n")
        result = self.call("hello", version=1, agent="test", boot_id="nested", state=self.state())
        self.call("sync", requests=[])
        return result

    def watch(self):
        """From now on it is told of its host."""
        self.call("hello", version=1, agent="test", boot_id="nested", features=["hhi"], state=self.state())
        self.call("sync", requests=[])
        self.call("hhi-watch", generation=0)
        self.wait_until(lambda: self.told)

    def reserve(self, request, *needs, **more):
        """The verdict."""
        return self.call("reserve", request=request, application="test", needs=list(needs), **more)

    def release(self, request):
        return self.call("release", request=request, cause="released")

    def wait_until(self, condition, timeout_s=60):
        """Until the condition is true; meanwhile the host's questions are answered."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise NestedError(f"the agent of {self.vm.name} waited in vain")
            try:
                self._hear(time.monotonic() + 0.2)
            except NestedError:
                pass  # nothing was asked

# SPDX-License-Identifier: Apache-2.0
"""A whole host for tests and benches: mete-keeper and meted in a private place, and VMs with real guests.

    with Host(memory="3G") as host:
        vm = host.vm("v", cpus="1..3", memory="256M..1G", share="0.1")
        vm.console.run("mete run --need cpu:1 -- nproc")

Everything is under one temporary directory; cgroups and RAM files carry the same name. Leaving the block ends every
process that was started (by its id), and removes all of it, whatever went wrong in between.
"""
import fcntl
import glob
import http.client
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from console import Console  # noqa: E402

# uids of VMs in tests: above what installations use, so that a host that really runs mete is not touched. Each Host
# takes a range of its own, held by a lock: a keeper ends everything that runs as the uid of a slot that it clears.
UID_FIRST = 1710000
UID_COUNT = 64
UID_RANGES = 150
METED_USER = "nobody"
# For what starts, ends or comes by itself. A machine that has ten times more to do than CPUs takes so long; a thing that never
# comes is said later than it could be, and that is all.
PATIENCE_S = 90


class HostError(Exception):
    """Something did not come up, or go down, as it should."""


def wait_for(what, condition, timeout_s=20, every_s=0.02):
    """Polls until the condition is true and returns its value; HostError with `what` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise HostError(f"timeout: {what}")
        time.sleep(every_s)


def build_image():
    """The guest image of tests and benches: our programs of the release build, and what speaks raw lines."""
    release = os.path.join(ROOT, os.environ.get("METE_RELEASE") or "build/release")
    out = os.path.join(ROOT, "build/guest")
    os.makedirs(out, exist_ok=True)
    programs = [os.path.join(out, name) for name in ("sock", "pages", "net-send", "answers", "dirty")]
    with open(os.path.join(out, ".lock"), "w") as lock:  # `check` has two runs of tests side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        for program in programs:
            source = os.path.join(ROOT, "tests/guest", os.path.basename(program) + ".c")
            subprocess.run(["gcc", "-static", "-O1", "-D_GNU_SOURCE", "-o", program, source], check=True)
        subprocess.run([os.path.join(ROOT, "tests/guest/build-image"), "--build", release, "--name", "test",
                        *[word for p in programs for word in ("--add-file", f"{p}:/usr/bin/{os.path.basename(p)}")],
                        "--add-file", f"{release}/bench/bench-guest:/usr/bin/bench-guest"], check=True)


def take_uids(count):
    """(first of so many uids that no other Host has, sockets that hold them)"""
    locks = []
    for n in range(1, UID_RANGES):
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        locks.append(lock)
        try:
            lock.bind(f"\0mete-test-uids-{n}")  # no file that could stay behind
        except OSError:
            give_back(locks)
            continue
        if len(locks) * UID_COUNT >= count:
            return UID_FIRST + (n + 1 - len(locks)) * UID_COUNT, locks
    give_back(locks)
    raise HostError(f"{UID_RANGES - 1} other hosts run here")


def give_back(locks):
    while locks:
        locks.pop().close()


def kvm_group():
    """Arguments of setpriv: the group of /dev/kvm where it has one, as meted's user has it when installed."""
    try:
        st = os.stat("/dev/kvm")
        return ["--groups", str(st.st_gid)] if st.st_mode & 0o060 == 0o060 and st.st_gid else ["--clear-groups"]
    except OSError:
        return ["--clear-groups"]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path, timeout=30):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Host:
    def __init__(self, cpus=None, memory="4G", cpu_overcommit=1, offer="5s", source="live", qemu=None, build=None,
                 meted_env=None, extra="", keep=False, title="testhost", vms=UID_COUNT, net=None, huge=None, tree=None,
                 inside=()):
        self.build = os.path.join(ROOT, build or os.environ.get("METE_BUILD") or "build/debug")
        self.release = os.path.join(ROOT, os.environ.get("METE_RELEASE") or "build/release")
        self.qemu = qemu or os.environ.get("METE_QEMU") or "/usr/bin/qemu-system-x86_64"
        self.options = {"cpus": cpus, "memory": memory, "cpu_overcommit": cpu_overcommit, "offer": offer,
                        "source": source, "title": title}
        self.extra = extra
        self.huge = huge  # a Huge (huge.py): memory may be on huge pages
        self.net = net  # a Network (netns.py): the keeper and its VMMs live in it
        self.inside = list(inside)  # words before both daemons: where they are to live
        self.tree = tree  # a MadeUpTree (resctrl.py): classes of service, none of which has an effect
        self.keep = keep or bool(os.environ.get("METE_KEEP"))
        self.meted_env = dict(meted_env or {})
        self.keeper = self.meted = None
        self.vms = {}
        self.dir = None
        self.uid_first, self.uid_count, self._uid_locks = None, vms, []

    # -- coming and going

    def __enter__(self):
        try:
            self.prepare()
            self.start_keeper()
            self.start_meted()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, *_):
        problems = self.close()
        if problems and kind is None:
            raise HostError("; ".join(problems))

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def prepare(self):
        if os.geteuid() != 0:
            raise HostError("the keeper needs root")
        self.uid_first, self._uid_locks = take_uids(self.uid_count)
        self.dir = tempfile.mkdtemp(prefix="mete-test-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.name = os.path.basename(self.dir)
        self.ram_dir = f"/dev/shm/{self.name}"
        user = pwd.getpwnam(METED_USER)
        self.meted_uid, self.meted_gid = user.pw_uid, user.pw_gid
        for name in ("bin", "images", "run", "state", "keeper"):
            os.mkdir(self.path(name), 0o755)
        for name in ("run", "state"):
            os.chown(self.path(name), self.meted_uid, self.meted_gid)
        # meted's user may not be able to look into the directory of the build
        for program in ("keeper/mete-keeper", "guard/mete-guard", "meted/meted", "cli/mete"):
            shutil.copy(os.path.join(self.build, "src", program), self.path("bin"))
        self.socket = self.path("run", "meted.sock")
        self.keeper_socket = self.path("keeper", "keeper.sock")
        self.write_config()

    def write_config(self):
        o = self.options
        with open(self.path("keeper.conf"), "w") as f:
            f.write(f"[keeper]\nrun_dir={self.path('keeper')}\nsocket={self.keeper_socket}\nram_dir={self.ram_dir}\n"
                    f"cgroup_prefix={self.name}\nscope=false\nqemu={self.qemu}\nuid_first={self.uid_first}\nuid_count={self.uid_count}\n"
                    f"meted_user={METED_USER}\nguard={self.path('bin', 'mete-guard')}\n")
            if o["cpus"]:
                f.write(f"cpus={o['cpus']}\n")
            if self.huge:
                f.write(self.huge.config())
            if self.net:
                f.write(self.net.config())
            if self.tree:
                f.write(self.tree.config())
        with open(self.path("mete.conf"), "w") as f:
            f.write(f"[meted]\nname={o['title']}\nstate_dir={self.path('state')}\nrun_dir={self.path('run')}\n"
                    f"socket={self.socket}\nsocket_mode=0666\n[keeper]\nsocket={self.keeper_socket}\n"
                    f"[host]\nsource={o['source']}\nmemory={o['memory']}\ncpu_overcommit={o['cpu_overcommit']}\n")
            if o["cpus"]:
                f.write(f"cpus={o['cpus']}\n")
            if self.tree:
                f.write(self.tree.config())
            if self.net:
                f.write(f"[net]\nmanage=yes\nnetwork=lan\nuplink=up0\nrate={self.net.rate}\n")
            f.write(f"[vm]\nqemu={self.qemu}\nimage_dir={self.path('images')}\n[limits]\noffer={o['offer']}\n")
            f.write(self.extra)

    def image(self, path, name=None):
        """Makes a file available to VMs; returns its name there."""
        name = name or os.path.basename(path)
        target = self.path("images", name)
        if not os.path.exists(target):
            try:
                os.link(os.path.realpath(path), target)
            except OSError:
                shutil.copy(path, target)
            os.chmod(target, 0o644)
        return name

    def _environment(self, more):
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TZ", "HOME")}
        env["ASAN_OPTIONS"] = "detect_leaks=1:abort_on_error=0:exitcode=99"
        env["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1:exitcode=99"
        env["TMPDIR"] = self.dir
        env.update(more)
        return env

    def _spawn(self, name, argv, env):
        log = open(self.path(f"{name}.log"), "ab")
        try:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                    env=self._environment(env), start_new_session=True)
        finally:
            log.close()

    def start_keeper(self, wait=True):
        prefix = self.net.prefix if self.net else self.inside
        self.keeper = self._spawn("keeper", [*prefix, self.path("bin", "mete-keeper"), "--config", self.path("keeper.conf")], {})
        if wait:
            self._wait_socket(self.keeper, "mete-keeper", self.keeper_socket)

    def start_meted(self, env=None, wait=True):
        argv = [*self.inside, "setpriv", "--reuid", str(self.meted_uid), "--regid", str(self.meted_gid), *kvm_group(),
                "--inh-caps=-all", "--no-new-privs", "--", self.path("bin", "meted"), "--config",
                self.path("mete.conf")]
        self.meted = self._spawn("meted", argv, {**self.meted_env, **(env or {})})
        if wait:
            self.wait_meted()

    def wait_meted(self, timeout_s=PATIENCE_S):
        self._wait_socket(self.meted, "meted", self.socket, timeout_s)
        wait_for("meted is healthy", lambda: self.get("/health").get("ok"), timeout_s)

    def _wait_socket(self, process, name, path, timeout_s=PATIENCE_S):
        def up():
            if process.poll() is not None:
                raise HostError(f"{name} ended with {process.returncode}: {self.log(name.removeprefix('mete-'))[-2000:]}")
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                s.connect(path)
                return True
            except OSError:
                return False
            finally:
                s.close()
        wait_for(f"{name} listens at {path}", up, timeout_s)

    def kill_meted(self, sig=signal.SIGKILL, timeout_s=PATIENCE_S):
        """Ends meted; returns its exit status as Popen has it."""
        if self.meted.poll() is None:
            self.meted.send_signal(sig)
        return self.meted.wait(timeout_s)

    def kill_keeper(self, sig=signal.SIGKILL, timeout_s=PATIENCE_S):
        if self.keeper.poll() is None:
            self.keeper.send_signal(sig)
        return self.keeper.wait(timeout_s)

    def log(self, name):
        try:
            with open(self.path(f"{name}.log"), errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def close(self):
        """Ends and removes everything; returns what was wrong on the way, as sentences."""
        problems = []
        if self.dir is None:
            give_back(self._uid_locks)
            return problems
        for vm in self.vms.values():
            vm.disconnect()
        if self.meted is not None and self.meted.poll() is None:
            self.mete("vm", "list", check=False)
            for name in self.vms:
                self.mete("vm", "kill", name, check=False)
        for name in ("meted", "keeper"):
            process = getattr(self, name)
            if process is None:
                continue
            was_running = process.poll() is None
            if was_running:
                process.terminate()
            try:
                status = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
                problems.append(f"{name} did not end after SIGTERM")
            if was_running and status != 0:
                problems.append(f"{name} ended with {status} after SIGTERM")
        self._kill_vmms()
        for name in ("meted", "keeper"):
            found = re.search(r"(ERROR: \w+Sanitizer.*|.*runtime error:.*|.*Assertion.*failed.*)", self.log(name))
            if found:
                problems.append(f"{name}: {found.group(1)[:300]}")
        self._remove()
        give_back(self._uid_locks)
        return problems

    def _kill_vmms(self):
        """VMMs that are left, known by their uid and by our directory on their command line."""
        for path in glob.glob("/proc/[0-9]*"):
            try:
                uid = os.stat(path).st_uid
                with open(f"{path}/cmdline", "rb") as f:
                    command = f.read()
                pid = int(os.path.basename(path))
                if UID_FIRST <= uid < UID_FIRST + UID_RANGES * UID_COUNT and self.dir.encode() in command:
                    os.kill(pid, signal.SIGKILL)
                    wait_for(f"VMM {pid} is gone", lambda p=path: not os.path.exists(p) or "(zombie)" in
                             open(f"{p}/status").read(), 10)
            except (OSError, HostError):
                continue

    def cgroups(self):
        """Our groups, in every hierarchy, deepest first."""
        found = []
        for tree in [p for p in ["/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")] if os.path.isdir(p)]:
            top = os.path.join(tree, self.name)
            if os.path.isdir(top):
                found += [d for d, _, _ in os.walk(top, topdown=False)]
        return found

    def _remove(self):
        for group in self.cgroups():
            try:
                os.rmdir(group)
            except OSError:
                pass
        shutil.rmtree(self.ram_dir, ignore_errors=True)
        keep = os.environ.get("METE_TEST_LOGS")
        if keep:
            os.makedirs(keep, exist_ok=True)
            for log in glob.glob(self.path("*.log")) + glob.glob(self.path("run/vm/*/console*")):
                if os.path.isfile(log):
                    shutil.copy(log, os.path.join(keep, f"{self.name}-{os.path.basename(log)}"))
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    # -- asking meted

    def mete(self, *args, check=True, env=None, timeout_s=180):
        """Runs `mete`; CompletedProcess with text."""
        p = subprocess.run([self.path("bin", "mete"), *args, "--socket", self.socket], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout_s,
                           env=self._environment(env or {}))
        if check and p.returncode != 0:
            raise HostError(f"mete {' '.join(args)}: exit {p.returncode}: {p.stderr.strip()} {p.stdout.strip()}")
        return p

    def mete_start(self, *args, stdout=subprocess.DEVNULL):
        """Begins to run `mete`; Popen."""
        return subprocess.Popen([self.path("bin", "mete"), *args, "--socket", self.socket], stdin=subprocess.DEVNULL,
                                stdout=stdout, stderr=subprocess.DEVNULL, env=self._environment({}))

    def mete_json(self, *args):
        return json.loads(self.mete(*args, "--json").stdout)

    def http(self, method, path, body=None, headers=None, timeout=60):
        """(status, body as text)"""
        c = UnixConnection(self.socket, timeout)
        try:
            if body is not None and not isinstance(body, (str, bytes)):
                body = json.dumps(body)
            try:
                c.request(method, path, body, headers or {})
            except BrokenPipeError:
                pass  # answered before all of it was sent, and closed: the answer is there to be read
            if c._HTTPConnection__response is None and c._HTTPConnection__state != "Request-sent":
                c._HTTPConnection__state = "Request-sent"
            r = c.getresponse()
            return r.status, r.read().decode()
        finally:
            c.close()

    def get(self, path):
        status, text = self.http("GET", path)
        if status != 200:
            raise HostError(f"GET {path}: {status} {text}")
        return json.loads(text)

    def ledger(self):
        return self.mete_json("ledger")

    def free(self):
        """What is free of each component."""
        return {c["id"]: c["free"] for c in self.ledger()["components"]}

    def claims(self, holder=None):
        return [c for c in self.ledger()["claims"] if holder is None or c["holder"] == holder]

    def leases(self):
        return self.mete_json("leases")["leases"]

    def events(self, trace=None, after=0):
        args = ["events", "--after", str(after)] + (["--trace", trace] if trace else [])
        return [json.loads(line) for line in self.mete(*args, "--json").stdout.splitlines()]

    def last_event(self):
        events = self.events()
        return events[-1]["seq"] if events else 0

    def wait_free(self, expected, timeout_s=PATIENCE_S):
        """Until the ledger is back where it was."""
        try:
            wait_for("", lambda: self.free() == expected, timeout_s, 0.1)
        except HostError:
            raise HostError(f"not all came back: free {self.free()}, expected {expected}; "
                            f"claims {self.claims()}") from None

    # -- VMs

    def vm(self, name, start=True, wait=True, initrd="test.cpio.gz", append="", **options):
        """Defines and starts a VM with the guest image; waits for its agent and its shell."""
        images = os.path.join(ROOT, "build/guest")
        options = {"cpus": "1..3", "memory": "256M..1G", "share": "0.1", **options}
        self.image(os.path.join(images, "vmlinuz"))
        self.image(os.path.join(images, initrd))
        args = [f"--{k}" if v is True else f"--{k}={v}" for k, v in options.items() if v is not None]
        self.mete("vm", "create", name, *args, "--kernel=vmlinuz", f"--initrd={initrd}",
                  f"--append=console=ttyS0 quiet panic=-1 {append}")
        vm = self.vms[name] = Vm(self, name)
        if start:
            vm.start(wait)
        return vm


class Vm:
    def __init__(self, host, name):
        self.host, self.name = host, name
        self._console = None

    def start(self, wait=True):
        self.disconnect()
        self.host.mete("vm", "start", self.name)
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s=90):
        self.console.wait_ready(timeout_s)
        self.wait_agent()

    def wait_agent(self, timeout_s=60):
        wait_for(f"the agent of {self.name} is connected", lambda: self.show().get("agent"), timeout_s, 0.05)

    @property
    def console(self):
        if self._console is None:
            self._console = Console(self.host.path("run", "vm", self.name, "console.sock"))
        return self._console

    def disconnect(self):
        if self._console is not None:
            self._console.close()
            self._console = None

    def show(self):
        return self.host.mete_json("vm", "show", self.name)

    def pid(self):
        return self.show().get("pid")

    def run(self, command, timeout_s=180):
        """(exit status, output) of a command in the guest."""
        return self.console.run(command, timeout_s)

    def check(self, command, timeout_s=180):
        return self.console.check(command, timeout_s)

    def cpus_online(self):
        """vCPUs that the guest has on line. `nproc` counts those that are free to the caller: what a lease holds is not."""
        return int(self.check("grep -c ^processor /proc/cpuinfo"))

    def kill(self):
        self.disconnect()
        self.host.mete("vm", "kill", self.name)

    def stop(self):
        self.disconnect()
        self.host.mete("vm", "stop", self.name)

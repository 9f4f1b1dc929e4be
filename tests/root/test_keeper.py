# SPDX-License-Identifier: Apache-2.0
"""mete-keeper against a real kernel and a real QEMU. Needs root; makes no guest boot.

Each test has a keeper of its own with a private run directory, prefix of cgroups and range of uids, and fails if
the keeper ends with anything but success (sanitizers included) or leaves something behind.
"""
import glob
import json
import os
import pwd
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from rpc import Client, Lost, Refused  # noqa: E402

if os.geteuid() != 0:
    pytest.skip("the keeper needs root", allow_module_level=True)

QEMU = os.environ.get("METE_QEMU") or "/usr/bin/qemu-system-x86_64"
BUILD = os.path.join(ROOT, os.environ.get("METE_BUILD") or "build/debug")
UID_FIRST, SLOTS = 1720000, 8
METED_USER = "nobody"

# A VMM that tells what it was given, then waits.
TELL = """#!/usr/bin/python3 -I
import json, os, resource, signal, sys, time
fds = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[fd] = os.readlink("/proc/self/fd/" + fd)
    except OSError:
        pass
mask = os.umask(0)
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
print(json.dumps({"fds": fds, "umask": mask, "cwd": os.getcwd(), "env": dict(os.environ), "sid": os.getsid(0),
    "pid": os.getpid(), "argv": sys.argv, "groups": os.getgroups(), "core": resource.getrlimit(resource.RLIMIT_CORE),
    "nofile": resource.getrlimit(resource.RLIMIT_NOFILE), "oom": int(open("/proc/self/oom_score_adj").read()),
    "status": {k: v.split() for k, v in status.items()}}), flush=True)
time.sleep(600)
"""
FLOOD = "#!/bin/sh\nexec yes flood\n"
# Leaves a directory tree with a link out of it in its RAM directory; says what it could reach elsewhere.
LEAVE = """#!/usr/bin/python3 -I
import os, sys, time
ram = sys.argv[3].split("=", 1)[1]
os.makedirs(ram + "/a/b/c")
open(ram + "/a/b/ram0", "w").write("secret")
os.symlink("/etc", ram + "/a/etc")
print("left", flush=True)
time.sleep(600)
"""


def wait_for(what, condition, timeout_s=10):
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"timeout: {what}"
        time.sleep(0.02)


def confined_as_unit():
    """The prefix that gives a process the capabilities of the systemd unit, so that no test passes with more."""
    with open(os.path.join(ROOT, "dist/systemd/mete-keeper.service.in")) as f:
        line = next(l for l in f if l.startswith("CapabilityBoundingSet="))
    capabilities = [c.removeprefix("CAP_").lower() for c in line.strip().split("=", 1)[1].split()]
    assert capabilities
    return ["setpriv", "--no-new-privs", "--bounding-set", ",".join(["-all"] + [f"+{c}" for c in capabilities]), "--"]


class Keeper:
    def __init__(self, cpus=None, extra="", prefix=()):
        self.prefix = prefix
        self.dir = tempfile.mkdtemp(prefix="mete-keeper-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.name = os.path.basename(self.dir)
        self.run, self.ram = f"{self.dir}/run", f"/dev/shm/{self.name}"
        self.sock = f"{self.run}/keeper.sock"
        self.process = None
        self.scripts = {}
        for name, text in (("tell", TELL), ("flood", FLOOD), ("leave", LEAVE)):
            self.scripts[name] = self.file(name, text.encode(), 0o755)
        qemu = ";".join([QEMU, f"{self.dir}/absent", *self.scripts.values()])
        shutil.copy(f"{BUILD}/src/guard/mete-guard", self.dir)  # where meted's user may look
        self.conf = self.file("keeper.conf", f"[keeper]\nrun_dir={self.run}\nram_dir={self.ram}\n"
                              f"cgroup_prefix={self.name}\nscope=false\nqemu={qemu}\nuid_first={UID_FIRST}\nuid_count={SLOTS}\n"
                              f"guard={self.dir}/mete-guard\nmeted_user={METED_USER}\n{'cpus=' + cpus if cpus else ''}\n{extra}".encode())
        try:
            self.start()
        except BaseException:
            self.process.kill()
            self.remove_groups()
            shutil.rmtree(self.ram, ignore_errors=True)
            shutil.rmtree(self.dir, ignore_errors=True)
            raise

    def file(self, name, data, mode=0o644):
        path = f"{self.dir}/{name}"
        with open(path, "wb") as f:
            f.write(data)
        os.chmod(path, mode)
        return path

    def add_program(self, name, data):
        """A further program that may be started; the keeper starts anew to know it."""
        path = self.file(name, data, 0o755)
        with open(self.conf, "a") as f:
            f.write(f"\nqemu={path};{self.scripts['tell']}\n")
        self.process.kill()
        self.process.wait()
        self.start()
        return path

    def spawn(self):
        env = {"PATH": os.environ["PATH"], "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
               "UBSAN_OPTIONS": "halt_on_error=1:exitcode=99"}
        with open(f"{self.dir}/log", "ab") as log:
            return subprocess.Popen([*self.prefix, *confined_as_unit(), f"{BUILD}/src/keeper/mete-keeper", "--config", self.conf],
                                    env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self):
        self.process = self.spawn()

        def is_up():
            assert self.process.poll() is None, self.log()
            try:
                Client(self.sock).close()
                return True
            except OSError:
                return False
        wait_for("keeper listens", is_up)

    def log(self):
        with open(f"{self.dir}/log", errors="replace") as f:
            return f.read()

    def client(self):
        return Client(self.sock)

    def call(self, method, params=None, fds=()):
        with self.client() as c:
            return c.call(method, params, fds)

    def start_vmm(self, vm, argv, slot=0, fds=(), memory_bytes=0, keep=(), huge_bytes=0):
        return self.call("vmm-start", {"vm": vm, "slot": slot, "argv": argv, "fds": len(fds),
                                       "memory_bytes": max(memory_bytes, huge_bytes), "huge_bytes": huge_bytes,
                                       **({"keep": list(keep)} if keep else {})}, fds)

    def hold(self, vm, item, tid, cpus, share):
        """An item has CPUs and a share, and the thread is held by it. Returns what holds it."""
        what = {"activation": 1, "vm": vm, "item": item, "kind": "cpu"}
        with self.client() as c:
            c.call("host-activate", {**what, "cpus": list(cpus), "share_milli": share})
            held = c.call("host-bind", {**what, "tid": tid})
            c.call("activation-end", {"activation": 1})
            return held["held_by"]

    def put_aside(self, vm, item, tid):
        what = {"activation": 1, "vm": vm, "item": item, "kind": "cpu", "tid": tid}
        with self.client() as c:
            held = c.call("host-prepare", what)
            c.call("activation-end", {"activation": 1})
            return held["held_by"]

    def vmms(self):
        return {v["vm"]: v["pid"] for v in self.call("vmm-list")["vmms"]}

    def end_vmm(self, vm):
        self.call("vmm-kill", {"vm": vm})
        self.call("vm-drop", {"vm": vm})

    def groups(self):
        found = []
        for root in ("/sys/fs/cgroup/*", "/sys/fs/cgroup"):
            found += glob.glob(f"{root}/{self.name}/*@*")
        return {os.path.basename(g) for g in found}

    def leftovers(self):
        return (glob.glob(f"/sys/fs/cgroup/*/{self.name}") + glob.glob(f"/sys/fs/cgroup/{self.name}")
                + glob.glob(f"{self.ram}/*") + glob.glob(f"{self.run}/vm/*") + glob.glob(f"{self.run}/log/*")
                + glob.glob(self.sock))

    def remove_groups(self):
        """What a broken keeper left, so that it does not stay on the machine."""
        for top in glob.glob(f"/sys/fs/cgroup/*/{self.name}") + glob.glob(f"/sys/fs/cgroup/{self.name}"):
            for group in glob.glob(f"{top}/*/"):
                with open(f"{group}/cgroup.procs") as f:
                    for pid in f.read().split():
                        os.kill(int(pid), signal.SIGKILL)
                wait_for("group is empty", lambda g=group: not open(f"{g}/cgroup.procs").read())
                for inner in glob.glob(f"{group}/*/"):
                    os.rmdir(inner)
                os.rmdir(group)
            os.rmdir(top)

    def close(self):
        """Ends all; returns what is wrong."""
        problems = []
        try:
            if self.process.poll() is not None:
                self.start()
            for record in glob.glob(f"{self.run}/vm/*.json"):
                self.end_vmm(os.path.basename(record)[:-5])
        finally:
            self.process.terminate()
            status = self.process.wait(10)
            if status != 0:
                problems.append(f"the keeper ended with {status}: {self.log()}")
            problems += [f"left behind: {p}" for p in self.leftovers()]
            self.remove_groups()
            shutil.rmtree(self.ram, ignore_errors=True)
            shutil.rmtree(self.dir, ignore_errors=True)
        return problems


@pytest.fixture
def keeper():
    k = Keeper()
    yield k
    assert k.close() == []


class Qmp:
    """A monitor on a socket that listens already and was passed to the VMM."""

    def __init__(self, directory, name):
        self.path = f"{directory}/{name}.qmp"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(1)

    def connect(self, tries=3):
        """Once, among thousands of starts, a QEMU greeted while it started and did not answer the first command: then it is connected to anew."""
        self.listener.close()
        for left in reversed(range(tries)):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.settimeout(20)
            s.connect(self.path)
            self.file = s.makefile("rw")
            try:
                json.loads(self.file.readline())
                self.run("qmp_capabilities")
                return
            except TimeoutError:
                self.file.close()
                s.close()
                if not left:
                    raise

    def run(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "return" in answer:
                return answer["return"]
            assert "error" not in answer, answer


def start_qemu(keeper, vm, slot, *args, keep=(), huge_bytes=0):
    qmp = Qmp(keeper.dir, vm)
    started = keeper.start_vmm(vm, [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-chardev",
                                    "socket,id=m,fd=3,server=on,wait=off", "-mon", "chardev=m,mode=control", *args],
                               slot, [qmp.listener.fileno()], keep=keep, huge_bytes=huge_bytes)
    qmp.connect()
    return started["pid"], qmp


def vcpu_tids(qmp):
    return [c["thread-id"] for c in qmp.run("query-cpus-fast")]


def group_of(pid, tid):
    """Groups of a thread, by controller: {"cpu": "/mete/..."}; "" is v2."""
    groups = {}
    with open(f"/proc/{pid}/task/{tid}/cgroup") as f:
        for line in f:
            _, controllers, path = line.strip().split(":", 2)
            for c in controllers.split(","):
                groups[c] = path
    return groups


def name_of_group(pid, tid):
    groups = group_of(pid, tid)
    named = {os.path.basename(groups[c]) for c in ("cpu", "cpuset", "") if "@" in groups.get(c, "")}
    assert len(named) == 1, groups
    return named.pop()


def told(keeper, vm):
    path = f"{keeper.run}/log/{vm}.log"
    return json.loads(wait_for("VMM tells", lambda: os.path.exists(path) and open(path).read()))


def refused(reason, call, *args, **kwargs):
    with pytest.raises(Refused) as e:
        call(*args, **kwargs)
    assert e.value.reason == reason, e.value.message
    return e.value


# -- what a VMM is given

def test_hello(keeper):
    info = keeper.call("hello", {"version": 1})
    assert info["version"] == 1 and info["vm_slots"] == SLOTS
    assert info["cpu_provider"] in ("cgroup-v2", "cgroup-v1", "affinity")
    assert any("shares are not held" in f for f in info.get("fallbacks", [])) == (info["cpu_provider"] == "affinity")
    refused("incompatible", keeper.call, "hello", {"version": 2})


def test_nothing_is_handed_on(keeper):
    a, b = socket.socketpair()
    r, w = os.pipe()
    started = keeper.start_vmm("v", [keeper.scripts["tell"], "one", "-m"], 3, [r, a.fileno(), w])
    assert started["uid"] == UID_FIRST + 3
    t = told(keeper, "v")
    assert t["pid"] == started["pid"] == t["sid"]
    assert t["argv"][1:] == ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                             "one", "-m"]
    # 0 to 5, and the directory that it reads to list them, which is gone when it reads the link
    listing = {k for k, v in t["fds"].items() if v.endswith("/fd")}
    assert set(t["fds"]) - listing - {"6"} == {"0", "1", "2", "3", "4", "5"}, t["fds"]
    assert t["fds"]["0"] == "/dev/null"
    assert t["fds"]["1"] == t["fds"]["2"] and t["fds"]["1"].startswith("pipe:")
    assert t["fds"]["3"] == os.readlink(f"/proc/self/fd/{r}")
    assert t["fds"]["4"] == os.readlink(f"/proc/self/fd/{a.fileno()}")
    assert t["fds"]["5"] == os.readlink(f"/proc/self/fd/{w}")
    # Root is handed back only if the interpreter was started by it: it was not.
    s = t["status"]
    assert s["Uid"] == [str(UID_FIRST + 3)] * 4 and s["Gid"] == s["Uid"] and t["groups"] == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(s[name][0], 16) == 0, name
    assert s["NoNewPrivs"] == ["1"] and int(s["SigBlk"][0], 16) == 0
    assert t["cwd"] == "/" and t["umask"] == 0o077 and t["core"] == [0, 0] and t["nofile"] == [4096, 4096]
    assert t["oom"] == 0
    assert set(t["env"]) - {"LC_CTYPE"} == {"PATH", "LC_ALL"}
    assert name_of_group(t["pid"], t["pid"]) == "emulator@v"
    log = os.stat(started["log"])
    assert log.st_gid == pwd.getpwnam(METED_USER).pw_gid and log.st_mode & 0o777 == 0o640
    for s in (a, b):
        s.close()
    os.close(r)
    os.close(w)


def test_real_qemu_is_confined(keeper):
    pid, qmp = start_qemu(keeper, "v", 1, "-machine", "none")
    with open(f"/proc/{pid}/status") as f:
        s = dict(line.split(":", 1) for line in f)
    assert s["Uid"].split() == [str(UID_FIRST + 1)] * 4
    assert s["NoNewPrivs"].strip() == "1" and s["Seccomp"].strip() == "2"
    assert int(s["CapEff"], 16) == 0 and int(s["CapBnd"], 16) == 0
    assert qmp.run("query-status")["status"] in ("running", "prelaunch")
    assert keeper.vmms() == {"v": pid}
    keeper.end_vmm("v")
    assert not os.path.exists(f"/proc/{pid}")


def test_memory_of_a_vmm_is_bounded(keeper):
    """Its RAM, what QEMU itself may need, and no more: then it ends, and not its neighbours."""
    info = keeper.call("hello", {"version": 1})
    if any("bound the memory" in f for f in info.get("fallbacks", [])):
        pytest.skip("no cgroup hierarchy can bound one VMM's memory")
    script = keeper.add_program("grows", b"""#!/usr/bin/python3 -I
import mmap, time
while True:
    m = mmap.mmap(-1, 256 << 20)
    for at in range(0, len(m), 4096):
        m[at] = 1
    globals().setdefault("kept", []).append(m)
    time.sleep(0.01)
""")
    tell = keeper.start_vmm("v", [keeper.scripts["tell"]], 0, memory_bytes=1 << 20)["pid"]
    grows = keeper.start_vmm("w", [script], 1, memory_bytes=1 << 20)["pid"]
    group = group_of(grows, grows)
    path = next(p for p in glob.glob(f"/sys/fs/cgroup/memory/{keeper.name}/w") + glob.glob(f"/sys/fs/cgroup/*/{keeper.name}/w"))
    assert group.get("memory", group.get("")).endswith(f"/{keeper.name}/w")
    bound = int(open(next(f for n in ("memory.limit_in_bytes", "memory.max") if os.path.exists(f := f"{path}/{n}"))).read())
    assert 1 << 30 < bound < 4 << 30
    # The same machine has memory for it: the fence, not the end of all memory, stops it.
    fence = 300 << 20
    with open(f"{path}/memory.limit_in_bytes" if os.path.exists(f"{path}/memory.limit_in_bytes") else f"{path}/memory.max", "w") as f:
        f.write(str(fence))
    wait_for("w has ended", lambda: "w" not in keeper.vmms(), 30)
    assert keeper.vmms() == {"v": tell}
    assert f"w: VMM {grows} was ended by signal 9" in keeper.log()
    keeper.end_vmm("w")
    assert not os.path.exists(path)


def test_growth_works_in_the_sandbox(keeper):
    """Hot-plug of a vCPU starts a thread, hot-plug of memory opens a file: the sandbox must allow both."""
    ram = f"{keeper.ram}/v"
    pid, qmp = start_qemu(keeper, "v", 0, "-machine", "q35", "-accel", "tcg", "-S", "-smp",
                          "cpus=1,maxcpus=3,sockets=1,cores=3", "-m", "size=64M,slots=2,maxmem=1G", "-object",
                          "memory-backend-file,id=ram0,size=64M,mem-path=@RAM@/ram0,share=on", "-numa",
                          "node,memdev=ram0")
    before = vcpu_tids(qmp)
    slots = [c for c in qmp.run("query-hotpluggable-cpus") if "qom-path" not in c]
    slot = min(slots, key=lambda c: c["props"]["core-id"])
    qmp.run("device_add", driver=slot["type"], id="cpu1", **slot["props"])
    after = vcpu_tids(qmp)
    assert len(after) == len(before) + 1
    qmp.run("object-add", **{"qom-type": "memory-backend-file", "id": "dimm0", "size": 128 << 20,
                             "mem-path": f"{ram}/dimm0", "share": True})
    qmp.run("device_add", driver="pc-dimm", id="d0", memdev="dimm0")
    assert qmp.run("query-memory-devices")[0]["data"]["size"] == 128 << 20
    for name in ("ram0", "dimm0"):
        st = os.stat(f"{ram}/{name}")
        assert st.st_uid == UID_FIRST and st.st_mode & 0o777 == 0o600
    new = (set(after) - set(before)).pop()
    keeper.hold("v", "vcpu1", new, [0], 500)
    assert name_of_group(pid, new) == "vcpu1@v"


def test_early_death_is_told(keeper):
    started = keeper.start_vmm("v", [QEMU, "-no-such-option"])
    wait_for("VMM ends", lambda: not keeper.vmms())
    assert "no-such-option" in open(started["log"]).read()
    assert "exited with status 1; last it said:" in keeper.log()
    # Its uid owns files still.
    refused("busy", keeper.start_vmm, "w", [keeper.scripts["tell"]])
    keeper.start_vmm("v", [keeper.scripts["tell"]])
    told(keeper, "v")
    refused("busy", keeper.call, "vm-drop", {"vm": "v"})
    keeper.end_vmm("v")
    keeper.start_vmm("w", [keeper.scripts["tell"]])


def test_exec_failure_leaves_nothing(keeper):
    e = refused("internal", keeper.start_vmm, "v", [f"{keeper.dir}/absent"])
    assert "executing the program: No such file or directory" in e.message
    assert keeper.vmms() == {} and keeper.groups() == set()
    assert glob.glob(f"{keeper.ram}/*") == [] and glob.glob(f"{keeper.run}/vm/*") == []


def trees(keeper):
    """The prefix in each hierarchy that it is in."""
    return glob.glob(f"/sys/fs/cgroup/*/{keeper.name}") + glob.glob(f"/sys/fs/cgroup/{keeper.name}")


def test_a_failed_start_keeps_its_slot_until_cleaned_up(keeper):
    """What is left belongs to that uid: nobody else is given it, and no restart forgets it."""
    if not trees(keeper):
        pytest.skip("no cgroups here: nothing that cannot be removed is left")
    stuck = [f"{t}/emulator@v/stuck" for t in trees(keeper)]
    for path in stuck:
        os.makedirs(path)
    refused("internal", keeper.start_vmm, "v", [f"{keeper.dir}/absent"])
    assert "did not start, and what it left stays until it is dropped" in keeper.log()
    for _ in range(2):
        assert keeper.vmms() == {}
        refused("busy", keeper.start_vmm, "w", [keeper.scripts["tell"]])
        refused("busy", keeper.start_vmm, "v", [keeper.scripts["tell"]])
        keeper.process.kill()
        keeper.process.wait()
        keeper.start()
    for path in stuck:
        os.rmdir(path)
    keeper.start_vmm("v", [keeper.scripts["tell"]])
    keeper.end_vmm("v")
    keeper.start_vmm("w", [keeper.scripts["tell"]])


def test_stale_files_that_stay_refuse_a_start(keeper):
    os.makedirs(f"{keeper.ram}/v/mounted")
    subprocess.run(["mount", "-t", "tmpfs", "mete-test", f"{keeper.ram}/v/mounted"], check=True)
    try:
        e = refused("internal", keeper.start_vmm, "v", [keeper.scripts["tell"]])
        assert "RAM files of v: Device or resource busy" in e.message
        assert keeper.vmms() == {}
    finally:
        subprocess.run(["umount", f"{keeper.ram}/v/mounted"], check=True)
    keeper.start_vmm("v", [keeper.scripts["tell"]])


def test_start_refused(keeper):
    tell = keeper.scripts["tell"]
    refused("denied", keeper.start_vmm, "v", ["/bin/sh"])
    refused("denied", keeper.start_vmm, "v", [QEMU, "-sandbox", "off"])
    refused("denied", keeper.start_vmm, "v", [QEMU, "--runas", "root"])
    refused("invalid", keeper.start_vmm, "v", [tell, "a\nb"])
    refused("invalid", keeper.start_vmm, "v", [tell], slot=SLOTS)
    refused("invalid", keeper.start_vmm, "v", [tell], slot=-1)
    refused("no-capacity", keeper.start_vmm, "v", [tell], memory_bytes=1 << 50)
    for name in ("../v", "", "a/b", "a" * 64, ".hidden", "-x", "a b", "..", "emulator@v"):
        for verb in ("vmm-kill", "vm-drop"):
            refused("invalid", keeper.call, verb, {"vm": name})
        refused("invalid", keeper.start_vmm, name, [tell])
    assert keeper.groups() == set()
    keeper.start_vmm("v", [tell])
    refused("busy", keeper.start_vmm, "v", [tell])
    refused("busy", keeper.start_vmm, "w", [tell])
    assert list(keeper.vmms()) == ["v"]


def test_what_a_vm_leaves_is_removed(keeper):
    keeper.start_vmm("v", [keeper.scripts["leave"], "x=@RAM@"])
    wait_for("files are left", lambda: "left" in open(f"{keeper.run}/log/v.log").read())
    assert os.path.islink(f"{keeper.ram}/v/a/etc")
    st = os.stat(f"{keeper.ram}/v")
    assert st.st_uid == UID_FIRST and st.st_mode & 0o777 == 0o750
    keeper.end_vmm("v")
    keeper.call("vm-drop", {"vm": "v"})
    keeper.call("vm-drop", {"vm": "never-there"})
    keeper.call("vmm-kill", {"vm": "never-there"})
    assert os.path.exists("/etc/passwd") and keeper.groups() == set()
    assert glob.glob(f"{keeper.ram}/*") == []


def test_nothing_runs_on_under_the_uid(keeper):
    """The sandbox of a real VMM lets it start nothing; a drop does not rely on it."""
    script = keeper.add_program("forks", b"#!/bin/sh\nsleep 600 & setsid sleep 600 & echo up\nwait\n")
    keeper.start_vmm("v", [script], 4)
    keeper.start_vmm("w", [keeper.scripts["tell"]], 5)
    wait_for("it is up", lambda: "up" in open(f"{keeper.run}/log/v.log").read())

    def running():
        return [p for p in glob.glob("/proc/[0-9]*") if uid_of(p) == UID_FIRST + 4]
    assert len(running()) == 3
    keeper.call("vmm-kill", {"vm": "v"})
    assert len(running()) == 2
    keeper.call("vm-drop", {"vm": "v"})
    assert running() == [] and list(keeper.vmms()) == ["w"]


def uid_of(path):
    """-1: gone, or dead and not yet reaped."""
    try:
        with open(f"{path}/stat") as f:
            return -1 if f.read().rsplit(")", 1)[1].split()[0] == "Z" else os.stat(path).st_uid
    except (FileNotFoundError, ProcessLookupError):
        return -1


def test_log_is_bounded(keeper):
    started = keeper.start_vmm("v", [keeper.scripts["flood"]])
    time.sleep(1.5)
    keeper.call("hello", {"version": 1})  # it is answered beside the flood
    size = sum(os.path.getsize(p) for p in glob.glob(f"{started['log']}*"))
    assert 0 < size <= 4 * 64 * 1024  # 64 KiB a second


# -- CPUs

def test_bind_and_put_aside(keeper):
    pid, qmp = start_qemu(keeper, "v", 0, "-machine", "q35", "-accel", "tcg", "-smp", "2", "-m", "64", "-S")
    other, _ = start_qemu(keeper, "w", 1, "-machine", "none")
    first, second = vcpu_tids(qmp)
    provider = keeper.call("hello", {"version": 1})["cpu_provider"]

    def hold(tid, cpus=(0,), share=900, vm="v", item="vcpu0"):
        return keeper.hold(vm, item, tid, cpus, share)
    for _ in range(2):
        assert hold(first) == provider
        assert os.sched_getaffinity(first) == {0}
    assert name_of_group(pid, first) == "vcpu0@v"
    assert name_of_group(pid, second) == name_of_group(pid, pid) == "emulator@v"
    hold(first, share=100)
    hold(first, cpus=sorted(os.sched_getaffinity(0)), share=1000)
    assert os.sched_getaffinity(first) == os.sched_getaffinity(0)
    hold(second, item="vcpu1")
    for tid in (first, second, first):
        assert keeper.put_aside("v", "vcpu0", tid) == provider
        assert name_of_group(pid, tid) == "parked@v"
    hold(first)
    assert name_of_group(pid, second) == "parked@v"

    strangers = (os.getpid(), 1, other, keeper.process.pid)
    before = [(os.sched_getaffinity(tid), group_of(tid, tid)) for tid in strangers]
    for tid in (*strangers, 2 ** 31, 2 ** 32 - 1, 4194303):
        refused("not-found", hold, tid)
        assert keeper.put_aside("v", "vcpu0", tid) == provider  # nothing of this VM, so nothing to do
    assert [(os.sched_getaffinity(tid), group_of(tid, tid)) for tid in strangers] == before
    refused("not-found", hold, first, vm="nobody")
    keeper.call("vm-drop", {"vm": "nobody"})
    refused("denied", hold, first, cpus=(4000,))
    refused("invalid", hold, first, cpus=(65535,))
    refused("invalid", hold, first, cpus=())
    refused("invalid", hold, first, share=0)
    refused("invalid", hold, first, share=1001)
    assert name_of_group(pid, first) == "vcpu0@v"


def test_a_failed_hold_changes_nothing(keeper):
    """The kernel refuses the CPUs: share, CPUs and group stay as they were."""
    if not trees(keeper) or os.cpu_count() < 2:
        pytest.skip("needs cgroups and two CPUs")
    with open(keeper.conf, "a") as f:
        f.write("\nhousekeeping=0\n")
    keeper.process.kill()
    keeper.process.wait()
    keeper.start()
    pid, qmp = start_qemu(keeper, "v", 0, "-machine", "q35", "-accel", "tcg", "-smp", "3", "-m", "64", "-S")
    bound, parked, plain = vcpu_tids(qmp)

    def weights():
        found = [open(p).read() for t in trees(keeper) for name in ("cpu.shares", "cpu.weight")
                 for p in glob.glob(f"{t}/vcpu0@v/{name}")]
        assert len(found) == 1
        return int(found[0])
    keeper.hold("v", "vcpu0", bound, [0], 900)
    keeper.put_aside("v", "vcpu1", parked)
    for t in trees(keeper):
        if os.path.exists(f"{t}/cpuset.cpus"):
            with open(f"{t}/cpuset.cpus", "w") as f:
                f.write("0")
    for item, (tid, group) in enumerate(((bound, "vcpu0@v"), (parked, "parked@v"), (plain, "emulator@v"))):
        refused("internal", keeper.hold, "v", f"vcpu{item}", tid, [1], 100)
        assert name_of_group(pid, tid) == group
        assert os.sched_getaffinity(tid) == {0}
        assert weights() == 9000
    assert keeper.groups() == {"vcpu0@v", "parked@v", "emulator@v"}


def busy_ticks(pid, tid):
    with open(f"/proc/{pid}/task/{tid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_share_is_held(keeper):
    """Two vCPUs of different VMs spin on one CPU; each gets its share of what the two have. Then one is parked."""
    if keeper.call("hello", {"version": 1})["cpu_provider"] == "affinity":
        pytest.skip("no cgroups here: affinity cannot hold shares")
    bios = keeper.file("spin.bin", b"\x90" * 0xfff0 + b"\xeb\xfe" + b"\x90" * 14)  # the reset vector jumps to itself
    spinners = []
    for slot, vm in enumerate(("v", "w")):
        pid, qmp = start_qemu(keeper, vm, slot, "-machine", "q35", "-accel", "tcg", "-m", "16", "-bios", bios)
        spinners.append((vm, pid, vcpu_tids(qmp)[0]))

    def share_of_first():
        """The median of windows: one in which the machine had no time for its CPU says nothing."""
        windows = []
        for _ in range(5):
            before = [busy_ticks(p, t) for _, p, t in spinners]
            time.sleep(1)
            used = [busy_ticks(p, t) - b for (_, p, t), b in zip(spinners, before)]
            windows.append(used[0] / sum(used))
        return statistics.median(windows)
    for shares in ((900, 100), (500, 500), (250, 750)):
        for (vm, _, tid), share in zip(spinners, shares):
            keeper.hold(vm, "vcpu0", tid, [1 % os.cpu_count()], share)
        time.sleep(0.3)
        got, wanted = share_of_first(), shares[0] / sum(shares)
        print(f"share {wanted:.3f} measured {got:.3f}")
        assert abs(got - wanted) < 0.05
    # Parked beside a bound one: what is left of it is next to nothing, but it is not stopped.
    keeper.hold("v", "vcpu0", spinners[0][2], [1 % os.cpu_count()], 1000)
    keeper.put_aside("w", "vcpu0", spinners[1][2])
    os.sched_setaffinity(spinners[1][2], {1 % os.cpu_count()})
    time.sleep(0.3)
    got = share_of_first()
    print(f"beside a parked one measured {got:.4f}")
    assert got > 0.97


# -- a keeper that dies

def test_successor_adopts(keeper):
    pid, qmp = start_qemu(keeper, "v", 0, "-machine", "q35", "-accel", "tcg", "-m", "16", "-S")
    gone = keeper.start_vmm("w", [keeper.scripts["tell"]], 1)["pid"]
    keeper.process.kill()
    keeper.process.wait()
    assert qmp.run("query-status")["status"] == "prelaunch"
    os.kill(gone, signal.SIGKILL)
    wait_for("w is gone", lambda: not os.path.exists(f"/proc/{gone}")
             or open(f"/proc/{gone}/stat").read().rsplit(")", 1)[1].split()[0] == "Z")
    keeper.start()
    assert keeper.vmms() == {"v": pid}
    refused("busy", keeper.start_vmm, "x", [keeper.scripts["tell"]], 1)
    refused("busy", keeper.start_vmm, "v", [keeper.scripts["tell"]], 0)
    tid = vcpu_tids(qmp)[0]
    keeper.hold("v", "vcpu0", tid, [0], 500)
    assert name_of_group(pid, tid) == "vcpu0@v"
    # Its end is noticed, and waited for, though it is no child.
    keeper.call("vmm-kill", {"vm": "v"})
    assert keeper.vmms() == {}
    for vm in ("v", "w"):
        keeper.call("vm-drop", {"vm": vm})
    assert keeper.groups() == set()


def test_log_goes_on_after_a_restart(keeper):
    script = keeper.add_program("ticker", b"#!/bin/sh\ntrap '' PIPE\nn=0\nwhile sleep 0.1; do n=$((n+1)); echo tick $n 2>/dev/null; done\n")
    log = keeper.start_vmm("v", [script])["log"]
    wait_for("ticks", lambda: "tick 2" in open(log).read())
    keeper.process.kill()
    keeper.process.wait()
    time.sleep(0.3)
    keeper.start()
    size = os.path.getsize(log)
    wait_for("more ticks", lambda: os.path.getsize(log) > size)
    assert open(log).read().startswith("tick 1\n")


def test_a_pipe_of_others_is_not_read(keeper):
    """A VMM that put something else in the place of its stderr: a successor does not read it for it."""
    fifo = f"{keeper.dir}/fifo"
    os.mkfifo(fifo)
    os.chmod(fifo, 0o622)
    script = keeper.add_program("swaps", f"""#!/usr/bin/python3 -I
import os, sys, time
fd = os.open({fifo!r}, os.O_WRONLY)
os.dup2(fd, 2)
print("swapped", flush=True)
os.dup2(fd, 1)
time.sleep(600)
""".encode())
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log = keeper.start_vmm("v", [script])["log"]
        wait_for("it is swapped", lambda: "swapped" in open(log).read())
        keeper.process.kill()
        keeper.process.wait()
        keeper.start()
        assert "what its VMM says is not kept any more" in keeper.log()
        with open(fifo, "w") as f:
            f.write("secret")
        time.sleep(0.3)
        assert os.read(reader, 100) == b"secret"
        assert "secret" not in open(log).read()
        assert keeper.vmms().keys() == {"v"}
        keeper.end_vmm("v")
    finally:
        os.close(reader)


def test_a_pid_used_again_is_not_touched(keeper):
    """Records of processes that are not those: never listed, never killed."""
    innocent = subprocess.Popen(["sleep", "600"])
    try:
        keeper.process.kill()
        keeper.process.wait()
        for vm, text in (("v", json.dumps({"vm": "v", "pid": innocent.pid, "start_ticks": 5, "uid": UID_FIRST})),
                         ("w", "garbage"), ("x", ""), ("y", "{}")):
            with open(f"{keeper.run}/vm/{vm}.json", "w") as f:
                f.write(text)
        keeper.start()
        assert keeper.vmms() == {}
        keeper.end_vmm("v")
        assert innocent.poll() is None
        for vm in ("w", "x", "y"):
            keeper.call("vm-drop", {"vm": vm})
        assert glob.glob(f"{keeper.run}/vm/*") == []
    finally:
        innocent.kill()
        innocent.wait()


def test_second_keeper_is_refused(keeper):
    second = keeper.spawn()
    assert second.wait(10) == 1
    assert "another keeper runs" in keeper.log()
    keeper.call("hello", {"version": 1})


def test_a_wanted_end_is_told_as_such(keeper):
    keeper.start_vmm("v", [keeper.scripts["tell"]])
    pid = keeper.start_vmm("w", [keeper.scripts["tell"]], 1)["pid"]
    keeper.end_vmm("v")
    os.kill(pid, signal.SIGKILL)
    wait_for("w is gone", lambda: not keeper.vmms())
    lines = keeper.log().splitlines()
    assert [l for l in lines if "v: VMM" in l and "is ended, as it was asked for" in l]
    assert [l for l in lines if f"w: VMM {pid} was ended by signal 9" in l]
    assert not [l for l in lines if "v: VMM" in l and "signal" in l]


def test_exit_status():
    directory = tempfile.mkdtemp(prefix="mete-keeper-")
    try:
        def status(text, *args):
            path = f"{directory}/keeper.conf"
            if text is not None:
                with open(path, "w") as f:
                    f.write(text)
            done = subprocess.run([f"{BUILD}/src/keeper/mete-keeper", "--config", path, *args], capture_output=True,
                                  text=True, timeout=20, check=False)
            return done.returncode, done.stderr
        code, said = status(None)
        assert code == 78 and "keeper.conf" in said, said
        good = f"[keeper]\nrun_dir={directory}/run\nmeted_user={METED_USER}\n"
        for more, word in (("nonsense", "nonsense"), ("uid_first=7", "uid_first"), ("cpus=x", "x"), ("cgroup_prefix=../a", "prefix")):
            for args in ((), ("--check",)):
                code, said = status(good + more + "\n", *args)
                assert code == 78 and word in said, said
        assert status(good, "--check")[0] == 0
        assert status(good, "--no-such-option")[0] == 64
        assert status(good, "argument")[0] == 64
        # What is no fault of the configuration's text.
        with open(f"{directory}/file", "w"):
            pass
        assert status(good + f"ram_dir={directory}/file/below\n")[0] == 1
        assert not os.path.exists(f"{directory}/run/keeper.sock")
    finally:
        shutil.rmtree(directory)


# -- clients

def test_only_meted_and_root(keeper):
    def connect_as(uid):
        code = ("import sys; sys.path.insert(0, sys.argv[1]); from rpc import *\n"
                "try: c = Client(sys.argv[2]); print(c.call('vmm-list'))\n"
                "except Lost: print('lost')\nexcept (PermissionError, BrokenPipeError) as e: print(type(e).__name__)")
        gid = pwd.getpwuid(uid).pw_gid if uid == pwd.getpwnam(METED_USER).pw_uid else uid
        return subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(gid), "--clear-groups", "/usr/bin/python3",
                               "-c", code, LIB, keeper.sock], capture_output=True, text=True, check=True).stdout.strip()
    lib = tempfile.mkdtemp(prefix="mete-rpc-")
    os.chmod(lib, 0o755)
    shutil.copy(os.path.join(ROOT, "tests", "lib", "rpc.py"), lib)
    global LIB
    LIB = lib
    try:
        assert connect_as(pwd.getpwnam(METED_USER).pw_uid) == "{'vmms': []}"
        assert connect_as(54321) == "PermissionError"
        os.chmod(keeper.sock, 0o666)  # even where the file's mode would let it
        assert connect_as(54321) in ("lost", "BrokenPipeError")
        assert "uid 54321 may not speak to the keeper" in keeper.log()
        assert connect_as(UID_FIRST) in ("lost", "BrokenPipeError")
    finally:
        shutil.rmtree(lib)


def test_bad_lines(keeper):
    with keeper.client() as c:
        c.send_raw(b"nonsense\n")
        assert c.receive()["error"]["code"] == -32700
        c.send_raw(b'{"jsonrpc":"2.0","id":1,"method":"vmm-list","method":"hello"}\n')
        assert c.receive()["error"]["code"] == -32700
        c.send_raw(b'{"jsonrpc":"2.0","id":1,"method":"vm-drop","params":{"vm":"a\\u0000b"}}\n')
        assert c.receive()["error"]["code"] == -32700
        c.send_raw(b"[" * 100000 + b"\n")
        assert c.receive()["error"]["code"] == -32700
        c.send_raw(b"x" * (3 << 20) + b"\n")
        assert c.receive()["error"]["code"] == -32700
        c.send_raw(b'[{"jsonrpc":"2.0","id":1,"method":"hello"}]\n')
        assert c.receive()["error"]["code"] == -32600
        for method in ("vmm-Start", "", "shell", "vmm_start"):
            with pytest.raises(Refused) as e:
                c.call(method)
            assert e.value.code in (-32601, -32600)
        for params in ({"vm": "v", "more": 1}, {}, {"vm": 1}, {"vm": None}, {"vm": ["v"]}):
            with pytest.raises(Refused) as e:
                c.call("vmm-kill", params)
            assert e.value.code == -32602 and e.value.reason == "invalid"
        assert c.call("vmm-list") == {"vmms": []}
    with keeper.client() as c:
        with pytest.raises((Lost, BrokenPipeError, ConnectionResetError)):
            for _ in range(200):
                c.send_raw(b"nonsense\n" * 10)
                time.sleep(0.005)
            while True:
                c.receive()
    assert keeper.vmms() == {}


def test_wrong_number_of_descriptors(keeper):
    tell = keeper.scripts["tell"]
    null = os.open("/dev/null", os.O_RDONLY)
    before = len(os.listdir(f"/proc/{keeper.process.pid}/fd"))

    def start(said_in_params, fds, fds_said=None):
        with keeper.client() as c:
            return c.call("vmm-start", {"vm": "v", "slot": 0, "argv": [tell], "fds": said_in_params,
                                        "memory_bytes": 0}, fds, fds_said)
    refused("invalid", start, 1, [])
    refused("invalid", start, 0, [null])
    refused("invalid", start, 2, [null] * 3)
    refused("invalid", start, 17, [])
    for said_in_params, fds, said in ((1, [null] * 40, 1), (0, [null] * 16, 0), (3, [null], 3)):
        try:
            start(said_in_params, fds, said)
        except (Refused, Lost, ConnectionResetError, BrokenPipeError, TimeoutError):
            continue
        keeper.end_vmm("v")
    with keeper.client() as c:  # to a verb that wants none
        assert c.call("vmm-list", {}, [null] * 3) == {"vmms": []}
    assert keeper.vmms() == {}
    wait_for("descriptors are closed again", lambda: len(os.listdir(f"/proc/{keeper.process.pid}/fd")) == before)
    os.close(null)


def test_too_many_connections(keeper):
    clients = [keeper.client() for _ in range(4)]
    for c in clients:
        c.call("vmm-list")
    with keeper.client() as c:
        with pytest.raises((Lost, BrokenPipeError)):
            c.call("vmm-list")
    for c in clients:
        assert c.call("vmm-list") == {"vmms": []}
        c.close()
    wait_for("room again", lambda: can_call(keeper))


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as f:
        return sum(int(n) for n in f.read().rsplit(")", 1)[1].split()[11:13])


def test_no_descriptors_left(keeper):
    """Who connects waits; the keeper neither spins nor fills its log, and takes him once it can."""
    pid = keeper.process.pid
    with keeper.client() as c:
        c.call("vmm-list")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        taken = set(os.listdir(f"/proc/{pid}/fd"))
        free = next(n for n in range(1000) if str(n) not in taken)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limits[1]))
        waiting = keeper.client()
        wait_for("it is said", lambda: "no connection can be taken" in keeper.log())
        before = cpu_ticks(pid)
        time.sleep(1)
        assert cpu_ticks(pid) - before < 20
        assert keeper.log().count("no connection can be taken") == 1
        assert c.call("vmm-list") == {"vmms": []}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert waiting.call("vmm-list") == {"vmms": []}
        waiting.close()


def test_who_has_hung_up_starts_nothing(keeper):
    """A start that the keeper comes to when its caller is gone: no VMM that nobody knows of, no end of one."""
    keeper.start_vmm("w", [keeper.scripts["tell"]], 1)
    os.kill(keeper.process.pid, signal.SIGSTOP)
    wait_for("it is stopped", lambda: " (T" in " (" + open(f"/proc/{keeper.process.pid}/stat").read().rsplit(") ", 1)[1])
    with keeper.client() as c:
        c.begin("vmm-start", {"vm": "v", "slot": 0, "argv": [keeper.scripts["tell"]], "fds": 0, "memory_bytes": 0})
        c.begin("vmm-kill", {"vm": "w"})
    with keeper.client() as successor:
        wanted = successor.begin("vmm-list")
        os.kill(keeper.process.pid, signal.SIGCONT)
        assert [v["vm"] for v in successor.finish(wanted)["vmms"]] == ["w"]
        wait_for("it is said", lambda: "is not done: it has hung up" in keeper.log())
        assert list(keeper.vmms()) == ["w"]
        assert keeper.log().count("is not done: it has hung up") == 2


def can_call(keeper):
    try:
        keeper.call("vmm-list")
        return True
    except (Lost, BrokenPipeError):
        return False


def test_kill_is_answered_to_all_who_wait(keeper):
    keeper.start_vmm("v", [keeper.scripts["tell"]])
    with keeper.client() as a, keeper.client() as b:
        ids = [c.begin("vmm-kill", {"vm": "v"}) for c in (a, b, a)]
        with keeper.client() as c:
            c.begin("vmm-kill", {"vm": "v"})  # and hangs up
        for c, i in zip((a, b, a), ids):
            assert c.finish(i) == {}
    assert keeper.vmms() == {}

# SPDX-License-Identifier: Apache-2.0
"""The same VM without mete: QEMU with the arguments that meted gave it, nobody but us at its monitor and its port."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from console import Console
from host import HostError, wait_for


class Monitor:
    """QMP, blocking."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.lines = self.sock.makefile("rb")
        self.lines.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        self.sock.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            line = json.loads(self.lines.readline())
            if "event" in line:
                continue
            if "error" in line:
                raise HostError(f"{command}: {line['error']}")
            return line["return"]

    def close(self):
        self.lines.close()
        self.sock.close()


def threads(pid):
    """{name: id} of a process' threads."""
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/comm") as f:
            found[f.read().strip()] = int(tid)
    return found


class Bare:
    """with Bare(vm) as bare: a second VM with the command line of the running VM `vm` of a Host."""

    def __init__(self, vm):
        with open(f"/proc/{vm.pid()}/cmdline", "rb") as f:
            self.theirs = [a.decode() for a in f.read().split(b"\0")[:-1]]
        self.vmm = vm.pid()
        self.process = self.dir = self.ram = self.port = self.console = self.monitor = None

    def argv(self):
        """Sockets by path in place of inherited ones, memory in a folder of our own; all else is as it is."""
        argv = []
        for a in self.theirs:
            a = re.sub(r"^(socket,id=(\w+)),fd=\d+,server=on,wait=off.*",
                       lambda m: f"{m[1]},path={self.dir}/{m[2]},server=on,wait=off", a)
            a = re.sub(r"mem-path=[^,]*/ram0", f"mem-path={self.ram}/ram0", a)
            a = re.sub(r"^guest=[^,]*", "guest=bare", a)
            argv.append(a)
        at = argv.index("-add-fd")
        return argv[:at] + argv[at + 2:]

    def __enter__(self):
        try:
            self.dir = tempfile.mkdtemp(prefix="mete-bare-", dir="/tmp")
            self.ram = tempfile.mkdtemp(prefix="mete-bare-", dir="/dev/shm")
            with open(os.path.join(self.dir, "log"), "wb") as log:
                self.process = subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                start_new_session=True)
            wait_for("the bare VMM listens", lambda: self.process.poll() is not None or
                     os.path.exists(f"{self.dir}/console0"), 20)
            self.console = Console(f"{self.dir}/console0")
            self.monitor = Monitor(f"{self.dir}/qmp0")
            self.monitor.run("cont")
            self.console.wait_ready()
            # The first vCPU may run where the other VM's may, so that what else is busy there is the same for both.
            cpu = "CPU 0/" + self.accelerator().upper()
            os.sched_setaffinity(threads(self.process.pid)[cpu], os.sched_getaffinity(threads(self.vmm)[cpu]))
            # The image is the same; its agent must leave the port to us.
            self.console.check("touch /run/no-agent; killall mete-agent; sleep 1")
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for thing in (self.console, self.monitor):
            if thing is not None:
                thing.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
        for folder in (self.dir, self.ram):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    def accelerator(self):
        return self.theirs[self.theirs.index("-accel") + 1].split(",")[0]

    @property
    def port_path(self):
        return f"{self.dir}/agent0"

    def at_go(self, act):
        """A thread that waits for the guest's "go" on the port, and then does act() at the monitor."""
        port = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        port.settimeout(60)
        port.connect(self.port_path)

        def run():
            with port:
                if port.recv(64).startswith(b"go"):
                    act()
        t = threading.Thread(target=run)
        t.start()
        return t

    def slots(self):
        """What device_add of each vCPU takes, lowest first."""
        found = [s for s in self.monitor.run("query-hotpluggable-cpus") if "qom-path" not in s]
        return [{"driver": s["type"], **s["props"]} for s in sorted(found, key=lambda s: s["props"]["core-id"])]

    def add_cpu(self, number, slot):
        self.monitor.run("device_add", id=f"cpu{number}", **slot)

    def add_memory(self, number, mib):
        self.monitor.run("object-add", **{"qom-type": "memory-backend-file", "id": f"mem{number}", "size": mib << 20,
                                          "mem-path": f"{self.ram}/dimm{number}", "share": True, "prealloc": False})
        self.monitor.run("device_add", driver="pc-dimm", id=f"dimm{number}", memdev=f"mem{number}", node=0)

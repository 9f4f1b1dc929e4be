# SPDX-License-Identifier: Apache-2.0
"""A server with several hypervisors: mete-keeper, mete-sp, and the meted's that it starts, in a private place.

    with Server() as server:
        server.init("a:cpus=0,memory=1G", "b:cpus=1,memory=1G")
        server.start("a")
        vm = server.hypervisor("a").vm("v", cpus=1, memory="256M")

The first hypervisor runs as nobody, the second as daemon; users that are there on every Debian.
"""
import json
import os
import re
import shutil
import signal
import subprocess

from host import Host, HostError, METED_USER, PATIENCE_S, wait_for

USERS = [METED_USER, "daemon"]


class Hypervisor(Host):
    """One of them, as a Host: mete, http, vm() and the like speak to its meted."""

    def __init__(self, server, name):  # no private place of its own: that is the server's
        self.__dict__.update(server.__dict__)
        self.server, self.hypervisor_name, self.vms = server, name, {}
        self.socket = server.path("sprun", name, "meted.sock")

    def path(self, *parts):
        if parts[:1] == ("run",):
            return self.server.path("sprun", self.hypervisor_name, *parts[1:])
        return self.server.path(*parts)

    def partition(self):
        return self.get("/v1/partition")


class Server(Host):
    more_qemus = ()  # beside the one that all have

    def __init__(self, **options):
        super().__init__(**options)
        self.sp = None
        self._hypervisors = {}

    def __enter__(self):
        try:
            self.prepare()
            self.start_keeper()
            self.start_sp()
        except BaseException:
            self.close()
            raise
        return self

    def prepare(self):
        super().prepare()
        shutil.copy(os.path.join(self.build, "src/sp/mete-sp"), self.path("bin"))
        self.sp_socket = self.path("sprun", "sp.sock")

    def write_config(self):
        super().write_config()
        with open(self.path("keeper.conf")) as f:
            text = f.read().replace(f"meted_user={METED_USER}\n", f"meted_user={';'.join(USERS)}\n")
            text = text.replace(f"qemu={self.qemu}\n", f"qemu={';'.join([self.qemu, *self.more_qemus])}\n")
        with open(self.path("keeper.conf"), "w") as f:
            f.write(text)
        with open(self.path("sp.conf"), "w") as f:
            f.write(f"[sp]\nname=s1\nstate_dir={self.path('spstate')}\nrun_dir={self.path('sprun')}\n"
                    f"socket={self.path('sprun', 'sp.sock')}\nsocket_mode=0666\nlock={self.path('sp.lock')}\n"
                    f"meted={self.path('bin', 'meted')}\nhypervisor_conf={self.path('hypervisor.conf')}\n"
                    f"[keeper]\nrun_dir={self.path('keeper')}\n")
        self.write_hypervisor_config()

    def write_hypervisor_config(self, name=None, extra=""):
        with open(self.path(f"hypervisor-{name}.conf" if name else "hypervisor.conf"), "w") as f:
            f.write(f"[meted]\nsocket_mode=0666\n[keeper]\nsocket={self.keeper_socket}\n"
                    f"[vm]\nqemu={self.qemu}\nimage_dir={self.path('images')}\n{extra}")

    # -- the service processor

    def start_sp(self, env=None, wait=True):
        self.sp = self._spawn("sp", [self.path("bin", "mete-sp"), "--config", self.path("sp.conf")], env or {})
        if wait:
            self._wait_socket(self.sp, "sp", self.sp_socket)

    def kill_sp(self, sig=signal.SIGKILL, timeout_s=PATIENCE_S):
        if self.sp.poll() is None:
            self.sp.send_signal(sig)
        return self.sp.wait(timeout_s)

    def ask(self, *args, check=True, timeout_s=120):
        """`mete server ...`; CompletedProcess with text."""
        p = subprocess.run([self.path("bin", "mete"), "server", *args, "--socket", self.sp_socket],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=timeout_s, env=self._environment({}))
        if check and p.returncode != 0:
            raise HostError(f"mete server {' '.join(args)}: exit {p.returncode}: {p.stderr.strip()}")
        return p

    def show(self):
        return json.loads(self.ask("show", "--json").stdout)

    def state(self, name):
        return next(h for h in self.show()["hypervisors"] if h["name"] == name)

    def init(self, *parts, check=True):
        """Each part gets a user of its own."""
        words = []
        for part, user in zip(parts, USERS):
            words += ["--hypervisor", f"{part},user={user}"]
        return self.ask("init", *words, check=check)

    def start(self, *names):
        for name in names:
            self.ask("start", name)

    def managers(self):
        """{component: {hypervisor: amount}}"""
        return {r["id"]: {h["hypervisor"]: h["amount"] for h in r["holders"]} for r in self.show()["resources"]}

    def sp_events(self, trace=None):
        words = ["events", "--json"] + (["--trace", trace] if trace else [])
        return [json.loads(line) for line in self.ask(*words).stdout.splitlines()]

    # -- its hypervisors

    def hypervisor(self, name):
        if name not in self._hypervisors:
            self._hypervisors[name] = Hypervisor(self, name)
        return self._hypervisors[name]

    def _meteds(self):
        """(pid of each meted that was started here)"""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
            except OSError:
                continue
            if words[0].decode(errors="replace") == self.path("bin", "meted"):
                found.append(int(pid))
        return found

    def close(self):
        problems = []
        if self.dir is not None:
            for h in self._hypervisors.values():
                for vm in h.vms.values():
                    vm.disconnect()
                    try:
                        h.mete("vm", "kill", vm.name, check=False, timeout_s=60)
                    except (HostError, subprocess.TimeoutExpired):
                        pass
            if self.sp is not None:
                was_running = self.sp.poll() is None
                try:
                    status = self.kill_sp(signal.SIGTERM)
                    if was_running and status != 0:
                        problems.append(f"mete-sp ended with {status} after SIGTERM")
                except subprocess.TimeoutExpired:
                    self.kill_sp()
                    problems.append("mete-sp did not end after SIGTERM")
            for pid in self._meteds():
                try:
                    os.kill(pid, signal.SIGTERM)
                    wait_for(f"meted {pid} has ended", lambda p=pid: p not in self._meteds(), PATIENCE_S)
                except ProcessLookupError:
                    pass
                except HostError as e:
                    problems.append(str(e))
                    os.kill(pid, signal.SIGKILL)
            # the meted's write to its log, too
            found = re.search(r"(ERROR: \w+Sanitizer.*|.*runtime error:.*|.*Assertion.*failed.*)", self.log("sp"))
            if found:
                problems.append(f"sp: {found.group(1)[:300]}")
        return problems + super().close()

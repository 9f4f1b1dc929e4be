# SPDX-License-Identifier: Apache-2.0
"""A mete-manager of its own, for hosts of a Site (site_of_two.py)."""
import json
import os
import shutil
import signal
import subprocess
import tempfile

from host import HostError, UnixConnection, wait_for
from site_of_two import PORT, address

USER = 1709998  # below those of VMs (host.py), and nobody's: not meted's
AT = 2  # its address, behind those of the hosts


class Manager:
    def __init__(self, site, name="m", operator="alice", policy=""):
        self.site, self.pki, self.name, self.operator, self.policy = site, site.pki, name, operator, policy
        self.build = site.a.build
        self.process = None
        self.url = f"https://{address(AT)}:{PORT}"

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="mete-test-manager-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.uid = self.gid = USER
        for name in (self.name + ".key", self.name + ".crt"):
            os.chown(self.pki.file(name), self.uid, self.gid)
            os.chmod(self.pki.file(name), 0o600)
        for name in ("ca.crt", "peers.conf"):  # nobody's secrets
            os.chmod(self.pki.file(name), 0o644)
        for name in ("bin", "state"):
            os.mkdir(self.path(name), 0o755)
        os.chown(self.path("state"), self.uid, self.gid)
        os.chown(self.dir, self.uid, self.gid)
        for program in ("manager/mete-manager", "cli/mete"):
            shutil.copy(os.path.join(self.build, "src", program), self.path("bin"))
        with open(self.path("manager.conf"), "w") as f:
            f.write(f"[manager]\nstate_dir={self.path('state')}\nsocket={self.path('manager.sock')}\nsocket_mode=0666\n"
                    f"[listen]\ntls={address(AT)}\ncert={self.pki.file(self.name + '.crt')}\n"
                    f"key={self.pki.file(self.name + '.key')}\nca={self.pki.file('ca.crt')}\n"
                    f"[hosts]\nfile={self.pki.file('peers.conf')}\npoll=300ms\n[policy]\n{self.policy}")
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, *_):
        problems = self.close()
        if problems and kind is None:
            raise HostError(problems)

    def close(self):
        problem = ""
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            status = self.process.wait(60)
            if status:
                problem = f"mete-manager ended with {status}: {self.log()[-2000:]}"
        shutil.rmtree(self.dir, ignore_errors=True)
        return problem

    def path(self, name):
        return os.path.join(self.dir, name)

    def log(self):
        with open(self.path("log")) as f:
            return f.read()

    def start(self, more=None):
        """more: of its environment."""
        env = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TZ", "HOME")}
        env["ASAN_OPTIONS"] = "detect_leaks=1:exitcode=99"
        env["UBSAN_OPTIONS"] = "halt_on_error=1:print_stacktrace=1:exitcode=99"
        env.update(more or {})
        with open(self.path("log"), "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--reuid", str(self.uid), "--regid", str(self.gid), "--clear-groups", "--inh-caps=-all",
                 "--no-new-privs", "--", self.path("bin/mete-manager"), "--config", self.path("manager.conf")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=env, start_new_session=True)

        def is_up():
            if self.process.poll() is not None:
                raise HostError(f"mete-manager ended: {self.log()[-2000:]}")
            try:
                return self.get("/health")["ok"]
            except OSError:
                return False
        wait_for("mete-manager is there", is_up, 30)
        wait_for("it sees the hosts", lambda: all(h["reachable"] for h in self.get("/v1/hosts")["hosts"] if "address" in h), 60)

    def kill(self):
        self.process.kill()
        self.process.wait(30)
        self.process = None

    def call(self, method, path, body=None, timeout=30):
        """(status, what it says)"""
        c = UnixConnection(self.path("manager.sock"), timeout)
        try:
            c.request(method, path, json.dumps(body) if body is not None else None)
            r = c.getresponse()
            return r.status, json.loads(r.read())
        finally:
            c.close()

    def get(self, path):
        status, said = self.call("GET", path)
        if status != 200:
            raise HostError(f"{path}: {status} {said}")
        return said

    def mete(self, *words, check=True, cert=None, timeout=300):
        """`mete` as an operator somewhere would say it: by TLS."""
        p = subprocess.run([self.path("bin/mete"), *words, "--manager", self.url, "--cert", self.pki.file(f"{cert or self.operator}.crt")],
                           capture_output=True, text=True, timeout=timeout)
        if check and p.returncode != 0:
            raise HostError(f"mete {' '.join(words)}: exit {p.returncode}: {p.stderr.strip()} {p.stdout[-500:]}")
        return p

    def json(self, *words, check=True):
        p = self.mete(*words, "--json", check=check)
        if not p.stdout:
            raise HostError(f"mete {' '.join(words)}: exit {p.returncode}: {p.stderr.strip()}")
        return json.loads(p.stdout)

# SPDX-License-Identifier: Apache-2.0
"""A real etcd on an address of its own, and managers that share it. Its keys are looked at over the same gateway."""
import base64
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pytest

from fleet import BUILD, Fleet, UnixConnection, wait_for

PROGRAM = "/usr/bin/etcd"
PREFIX = "/mete/test"
LEASE = "6s"  # for tests that wait for its end: a machine that stands still for so long loses the lead
LONG_LEASE = "60s"
needs_etcd = pytest.mark.skipif(not os.path.exists(PROGRAM), reason=f"there is no {PROGRAM} (etcd-server)")


def b64(text):
    return base64.b64encode(text.encode()).decode()


def address(n):
    """Of member n of this process's etcd."""
    pid = os.getpid()
    return f"127.{128 + 32 * n + (pid >> 16 & 31)}.{pid >> 8 & 255}.{pid & 255}"


class Etcd:
    """tls: the folder of certificates that tls_files() made. n: which of how many members of a cluster (Cluster)."""

    def __init__(self, tls=None, quota=None, n=0, members=1):
        self.host, self.n, self.members = address(n), n, members
        self.dir, self.tls, self.quota, self.process = tempfile.mkdtemp(prefix="mete-test-etcd-", dir="/tmp"), tls, quota, None
        self.url = f"{'https' if tls else 'http'}://{self.host}:2379"
        if members == 1:
            self.start()

    def start(self):
        self.begin()
        self.wait()

    def begin(self):
        """Where there are several, none answers before most are there."""
        peers = [f"http://{address(n)}:2380" for n in range(self.members)]
        words = [PROGRAM, "--name", f"e{self.n}", "--data-dir", os.path.join(self.dir, "data"), "--listen-client-urls", self.url,
                 "--advertise-client-urls", self.url, "--listen-peer-urls", peers[self.n], "--initial-advertise-peer-urls", peers[self.n],
                 "--initial-cluster", ",".join(f"e{n}={url}" for n, url in enumerate(peers))]
        if self.tls:
            words += ["--cert-file", f"{self.tls}/etcd.crt", "--key-file", f"{self.tls}/etcd.key", "--client-cert-auth", "--trusted-ca-file", f"{self.tls}/ca.crt"]
        if self.quota:
            words += ["--quota-backend-bytes", str(self.quota)]
        with open(os.path.join(self.dir, "log"), "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)

    def wait(self):
        wait_for("etcd answers", lambda: self.ask("/v3/maintenance/status") is not None)

    def ask(self, path, **body):
        """None: it does not answer, or refuses."""
        context = None
        if self.tls:
            context = ssl.create_default_context(cafile=f"{self.tls}/ca.crt")
            context.load_cert_chain(f"{self.tls}/manager.crt", f"{self.tls}/manager.key")
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)).open(
                    self.url + path, json.dumps(body).encode(), 10) as answer:
                return json.loads(answer.read())
        except (OSError, urllib.error.HTTPError):
            return None

    def keys(self, under):
        kvs = self.ask("/v3/kv/range", key=b64(f"{PREFIX}/{under}"), range_end=b64(f"{PREFIX}/{under[:-1]}0")).get("kvs", [])
        return {base64.b64decode(kv["key"]).decode()[len(PREFIX) + 1:]: base64.b64decode(kv["value"]).decode() for kv in kvs}

    def get(self, key):
        return base64.b64decode(self.ask("/v3/kv/range", key=b64(f"{PREFIX}/{key}"))["kvs"][0]["value"]).decode()

    def signal(self, which):
        self.process.send_signal(which)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process:
            self.kill()
        shutil.rmtree(self.dir)

    def lives(self):
        return self.process is not None and self.process.poll() is None


class Cluster:
    """Three members, each with an address of its own: what two of them have is decided."""

    def __init__(self):
        self.members = [Etcd(n=n, members=3) for n in range(3)]
        self.url = ",".join(m.url for m in self.members)
        try:
            for m in self.members:
                m.begin()
            for m in self.members:
                m.wait()
        except BaseException:
            self.close()
            raise

    def living(self):
        return [m for m in self.members if m.lives()]

    def leader(self):
        """The member that leads, as all that live say."""
        def agreed():
            said = [(m, m.ask("/v3/maintenance/status")) for m in self.living()]
            leads = {s and s.get("leader") for _, s in said}
            return next((m for m, s in said if s and len(leads) == 1 and s["header"]["member_id"] == s.get("leader")), None)
        return wait_for("a member leads", agreed, 120)

    def keys(self, under):
        return self.leader().keys(under)

    def signal(self, which):
        for m in self.living():
            m.signal(which)

    def close(self):
        for m in self.members:
            m.close()


def tls_files(folder, address):
    """An authority, a server's certificate that names the address, and a client's."""
    os.makedirs(folder)

    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=etcd authority",
            "-keyout", "ca.key", "-out", "ca.crt")
    for name, extra in (("etcd", f"subjectAltName=IP:{address}\n"), ("manager", "")):
        with open(f"{folder}/{name}.ext", "w") as f:
            f.write(extra + "extendedKeyUsage=serverAuth,clientAuth\n")
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out",
                f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out",
                f"{name}.crt")


class Member:
    """One of the managers; its files are in the fleet's folder."""

    def __init__(self, fleet, name, etcd, store="", lease=LEASE):
        self.fleet, self.name, self.process = fleet, name, None
        if not os.path.exists(f"{fleet.pki}/{name}.crt"):
            fleet.run("pki", "add", fleet.pki, "--manager", name)
        with open(self.path("conf"), "w") as f:
            f.write(f"[manager]\nstate_dir={self.path('state')}\nsocket={self.path('sock')}\n[listen]\ncert={fleet.pki}/{name}.crt\n"
                    f"key={fleet.pki}/{name}.key\nca={fleet.pki}/ca.crt\n[hosts]\nfile={fleet.pki}/peers.conf\npoll=200ms\n"
                    f"[store]\netcd={etcd}\nprefix={PREFIX}\nlease={lease}\n{store}")

    def path(self, what):
        return self.fleet.path(f"{self.name}.{what}")

    def start(self):
        with open(self.path("log"), "ab") as log:
            self.process = subprocess.Popen([os.path.join(BUILD, "src/manager/mete-manager"), "--config", self.path("conf")], stderr=log)
        wait_for(f"{self.name} answers", lambda: self.health() is not None)
        return self

    def log(self):
        with open(self.path("log")) as f:
            return f.read()

    def call(self, method, path, body=None):
        c = UnixConnection(self.path("sock"))
        try:
            c.request(method, path, json.dumps(body) if body is not None else None)
            r = c.getresponse()
            text = r.read()
            return r.status, json.loads(text) if r.getheader("Content-Type", "").startswith("application/json") else text.decode()
        finally:
            c.close()

    def health(self):
        assert self.process is None or self.process.poll() is None, self.log()[-2000:]
        try:
            return self.call("GET", "/health")[1]
        except (OSError, http.client.HTTPException):
            return None

    def leads(self):
        health = self.health()
        return bool(health and health["ok"])

    def signal(self, which):
        self.process.send_signal(which)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def end(self):
        process, self.process = self.process, None
        process.terminate()
        assert process.wait(60) == 0, self.log()[-3000:]


class Managers:
    """Hosts a, b and c, an etcd, and managers m1 and m2 that share it."""

    def __init__(self, quota=None, lease=LEASE, etcd=None):
        self.etcd, self.members = etcd or Etcd(quota=quota), []
        try:
            self.fleet = Fleet(is_started=False)
            self.hosts = self.fleet.hosts
        except BaseException:
            self.etcd.close()
            raise
        self.members = [Member(self.fleet, name, self.etcd.url, lease=lease) for name in ("m1", "m2")]
        self.fleet.call = self.call

    def close(self):
        try:
            self.etcd.signal(signal.SIGCONT)
            for m in self.members:
                if m.process:
                    m.signal(signal.SIGCONT)
                    m.end()
        finally:
            self.etcd.close()
            self.fleet.close()

    def leader(self):
        return wait_for("somebody leads", lambda: next((m for m in self.members if m.process and m.leads()), None))

    def other(self, member):
        return next(m for m in self.members if m is not member)

    def call(self, method, path, body=None):
        """As a client that asks whoever leads, and again where it is told to."""
        end = time.monotonic() + 60
        while True:
            try:
                status, said = self.leader().call(method, path, body)
            except (OSError, http.client.HTTPException):
                status, said = 0, {"reason": "busy"}
            if not (isinstance(said, dict) and said.get("reason") == "busy" and status != 200) or time.monotonic() > end:
                return status, said
            time.sleep(0.1)

    def move(self, vm, **ask):
        """Whoever has just begun to lead has not seen all hosts yet."""
        def asked():
            status, said = self.fleet.move(vm, **ask)
            assert status == 200 or said["reason"] == "not-found", said
            return said if status == 200 else None
        return wait_for(f"{vm} is to move", asked)

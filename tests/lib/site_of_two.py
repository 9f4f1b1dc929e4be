# SPDX-License-Identifier: Apache-2.0
"""Two hosts that know each other by certificates.

Each listens at a loopback address of its own, which is this process's alone, so that no port has to be guessed."""
import http.client
import json
import os
import pwd
import signal
import ssl
import subprocess

from host import HostError, METED_USER, ROOT, wait_for

PORT = 8421


def address(n):
    """Address n of this process: those of two runs of this test differ."""
    pid = os.getpid()
    return f"127.{100 + n}.{pid >> 8 & 255}.{pid & 255}"


class Pki:
    """An authority in a directory that meted's user can read."""

    def __init__(self, path):
        self.path = str(path)

    def _run(self, *words):
        program = os.path.join(ROOT, os.environ.get("METE_BUILD") or "build/debug", "src/cli/mete")
        p = subprocess.run([program, "pki", *words], capture_output=True, text=True, timeout=60)
        assert p.returncode == 0, p.stderr
        user = pwd.getpwnam(METED_USER)
        os.chmod(self.path, 0o755)
        for name in os.listdir(self.path):
            if name != "ca.key":
                os.chown(self.file(name), user.pw_uid, user.pw_gid)
        return p.stdout

    def init(self, *words):
        self._run("init", self.path, *words)
        return self

    def add(self, *words):
        self._run("add", self.path, *words)

    def show(self, name):
        return json.loads(self._run("show", self.file(f"{name}.crt"), "--json"))

    def file(self, name):
        return os.path.join(self.path, name)

    def expired(self, name):
        """A certificate for the key of `name` whose time is over: `mete pki` makes none."""
        request, extensions, out = self.file("r.csr"), self.file("r.ext"), self.file(f"{name}-expired.crt")
        with open(extensions, "w") as f:
            f.write(f"subjectAltName=URI:mete:hypervisor:{name}\nextendedKeyUsage=clientAuth,serverAuth\n")
        for words in (["req", "-new", "-key", self.file(f"{name}.key"), "-subj", f"/CN={name}", "-out", request],
                      ["x509", "-req", "-in", request, "-CA", self.file("ca.crt"), "-CAkey", self.file("ca.key"),
                       "-days", "-1", "-extfile", extensions, "-out", out]):
            subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)
        return out

    def context(self, cert=None, key=None, tls=ssl.TLSVersion.TLSv1_3):
        """Of a client with the certificate of that name, or in that file, or without one."""
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.load_verify_locations(self.file("ca.crt"))
        c.minimum_version = min(tls, ssl.TLSVersion.TLSv1_2)
        c.maximum_version = tls
        if cert:
            c.load_cert_chain(cert if "/" in cert else self.file(f"{cert}.crt"), key or self.file(f"{cert}.key"))
        return c


def listen(pki, n, name, peers="peers.conf"):
    return (f"[listen]\ntls={address(n)}\ncert={pki.file(name + '.crt')}\nkey={pki.file(name + '.key')}\n"
            f"ca={pki.file('ca.crt')}\npeers={pki.file(peers)}\nhello=200ms\n")


class Site:
    """Host a and host b, and the authority of both."""

    def __init__(self, pki, a, b):
        self.pki, self.a, self.b = pki, a, b
        self.n_connected = 0

    def connect(self, context, n=0, source=None):
        """From an address of its own, so that the rates that hold for one address are no concern."""
        self.n_connected += 1
        return http.client.HTTPSConnection(address(n), PORT, timeout=60, context=context,
                                           source_address=(source or address(30 + self.n_connected % 100), 0))

    def ask(self, context, path="/v1/peer/hello", method="GET", body=None, n=0):
        """(status, what it says) of host a, over a connection of its own"""
        c = self.connect(context, n)
        try:
            c.request(method, path, body)
            r = c.getresponse()
            return r.status, json.loads(r.read() or b"null") if r.headers.get_content_type() == "application/json" else None
        finally:
            c.close()

    def peers(self, host, **groups):
        """Writes peers.conf of a host, and has it read."""
        text = "".join(f"[{name}]\n" + "".join(f"{k}={v}\n" for k, v in keys.items()) for name, keys in groups.items())
        self.write(host, text)

    def write(self, host, text):
        path = self.pki.file("peers-a.conf" if host is self.a else "peers-b.conf")
        with open(path + ".new", "w") as f:
            f.write(text)
        os.chmod(path + ".new", 0o644)
        os.rename(path + ".new", path)
        if host.meted:
            seen = host.log("meted").count("peers in ") + host.log("meted").count("stay as they were")
            host.meted.send_signal(signal.SIGHUP)
            wait_for("peers.conf is read", lambda: host.log("meted").count("peers in ") +
                     host.log("meted").count("stay as they were") > seen)

    def usual(self, host):
        """Both know each other, on one server."""
        self.peers(host, a={"address": address(0), "pin": self.pki.show("a")["pin"], "server": "s1"},
                   b={"address": address(1), "pin": self.pki.show("b")["pin"], "server": "s1"})

    def peer(self, host, name):
        """What `mete peers` says of one, or None."""
        return next((p for p in host.mete_json("peers")["peers"] if p["name"] == name), None)

    def wait_peer(self, host, name, what, condition):
        def look():
            p = self.peer(host, name)
            return p if p and condition(p) else None
        try:
            return wait_for(what, look)
        except HostError as e:
            raise HostError(f"{e}; {self.peer(host, name)}") from None

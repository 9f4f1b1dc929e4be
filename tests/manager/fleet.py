# SPDX-License-Identifier: Apache-2.0
"""Hosts that are none, behind TLS, for a real mete-manager: what each says is the test's to choose."""
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUILD = os.environ.get("METE_BUILD") or "build/debug"
GIB = 1 << 30


def wait_for(what, condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Host:
    """Its VMs, by name; its moves, by id, each as a list of answers of which the last is given again and again."""

    def __init__(self, name, address, context):
        self.name, self.vms, self.moves, self.calls, self.free = name, {}, {}, [], 4 * GIB
        self.gate, self.at_gate = None, []  # a threading.Event that who asks for a move waits for; the paths that came there
        self.begun, self.overlaps = {}, []  # moves, dry runs aside; and those that were asked for while another of their VM was not over
        self.script = lambda ask: [{"state": "copying"}, {"state": "done", "ended_ms": 1, "total_ms": 5, "downtime_ms": 1}]
        self.lock = threading.RLock()  # a script may look at what was asked
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                n = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(n)) if n else None
                if host.gate and self.path.endswith("/move"):
                    host.at_gate.append(self.path)
                    host.gate.wait(120)
                with host.lock:
                    status, out = host.answer(self.command, self.path, body)
                text = json.dumps(out).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # a manager that is killed in the middle of it
        self.server = Server((address, 8421), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def error(self, status, reason, message="so it is"):
        return status, {"code": status, "reason": reason, "message": message}

    def add_vm(self, name, memory=GIB // 8, cpu=100, state="running"):
        self.vms[name] = {"name": name, "uuid": "u", "state": state, "cpus": 1, "cpus_max": 1, "memory_bytes": memory, "memory_max_bytes": memory,
                          "unit_bytes": 1, "share_milli": cpu, "machine": "m", "cpu_model": "c", "accelerator": "tcg", "qemu": "10", "agent": "",
                          "memory_mechanism": "dimm", "cpu_mechanism": "park", "memory_now_bytes": memory, "fallbacks": [],
                          "vcpus": [{"vcpu": 0, "use": "base", "component": "cpu:0", "share_milli": cpu}]}

    def component(self, kind, name, capacity, free):
        return {"id": name, "kind": kind, "node": 0, "unit": "u", "capacity": capacity, "free": free, "claimed": capacity - free}

    def answer(self, method, path, body):
        path, _, query = path.partition("?")
        if path == "/v1/host":
            return 200, {"name": self.name, "accelerator": "tcg", "qemu": "10", "cpu_provider": "affinity", "cpu_overcommit": 1, "parameters": [],
                         "fallbacks": [], "components": [self.component("cpu", "cpu:0", 8000, 8000), self.component("memory", "memory:node0", 4 * GIB, self.free)]}
        if path == "/v1/vms":
            query = dict(urllib.parse.parse_qsl(query))
            names = [k for k in sorted(self.vms) if k > query.get("after", "")]
            page = names[:int(query.get("limit", 64))]
            return 200, {"vms": [self.vms[k] for k in page], **({"next": page[-1]} if len(page) < len(names) else {})}
        self.calls.append((method, path, body))
        parts = path.split("/")
        if parts[2] == "vms":
            return self.ask(parts[3], body)
        move = self.moves.get(parts[3])
        if not move:
            return self.error(404, "not-found")
        if method == "DELETE" and not self.now(move).get("ended_ms"):
            move["answers"] = [{"state": "aborted", "ended_ms": 2, "reason": "cancelled"}]
        if parts[-1] == "accept":
            move["answers"] = self.script({**body, "accepted": True})
        return 200, self.show(move)

    def ask(self, vm, body):
        if vm not in self.vms:
            return self.error(404, "not-found", f"no VM is called {vm}")
        answers = self.script(body)
        if isinstance(answers, tuple):
            return self.error(*answers)
        move = {"id": body.get("id", "dry"), "vm": vm, "peer": body["to"], "answers": answers}
        if not body.get("dry_run"):
            move = self.moves.setdefault(body["id"], move)
            self.overlaps += [(move["id"], m["id"]) for m in self.begun.values() if m["vm"] == vm and m is not move and "ended_ms" not in self.now(m)]
            self.begun[move["id"]] = move
        return 200, self.show(move)

    def now(self, move):
        return move["answers"][0]

    def show(self, move):
        answer = move["answers"].pop(0) if len(move["answers"]) > 1 else move["answers"][0]
        if answer["state"] == "done":
            self.vms.pop(move["vm"], None)
        return {"id": move["id"], "vm": move["vm"], "role": "source", "peer": move["peer"], "attempt": 1, "started_ms": 1, **answer}

    def move_id(self, order, round_=1):
        """Of an order's move here: the key in it was drawn."""
        found = [m for m in self.moves if re.fullmatch(rf"{re.escape(order)}\.[0-9a-f]{{8}}\.{round_}", m)]
        assert len(found) == 1, (order, list(self.moves))
        return found[0]

    def asked(self):
        """The moves that it was asked for, dry runs aside."""
        with self.lock:
            return [b for m, p, b in self.calls if m == "POST" and p.endswith("/move") and not b.get("dry_run")]


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class Fleet:
    """Hosts a, b and c, and their manager. store: [store] of its configuration."""

    def __init__(self, policy="", env=None, store="", is_started=True):
        self.dir = tempfile.mkdtemp(prefix="mete-test-fleet-", dir="/tmp")
        self.process = None
        names = "abc"
        pid = os.getpid()
        addresses = {name: f"127.{120 + i}.{pid >> 8 & 255}.{pid & 255}" for i, name in enumerate(names)}
        self.pki = os.path.join(self.dir, "pki")
        words = [w for n in names for w in ("--hypervisor", f"{n}={addresses[n]}")]
        self.run("pki", "init", self.pki, *words, "--manager", "m", "--operator", "alice")
        self.hosts = {}
        for name in names:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(f"{self.pki}/{name}.crt", f"{self.pki}/{name}.key")
            context.load_verify_locations(f"{self.pki}/ca.crt")
            context.verify_mode = ssl.CERT_REQUIRED
            self.hosts[name] = Host(name, addresses[name], context)
        with open(self.path("manager.conf"), "w") as f:
            f.write(f"[manager]\nstate_dir={self.path('state')}\nsocket={self.path('sock')}\n[listen]\ncert={self.pki}/m.crt\n"
                    f"key={self.pki}/m.key\nca={self.pki}/ca.crt\n[hosts]\nfile={self.pki}/peers.conf\npoll=200ms\n[policy]\n{policy}\n[store]\n{store}")
        if is_started:
            self.start(env)

    def path(self, name):
        return os.path.join(self.dir, name)

    def run(self, *words):
        p = subprocess.run([os.path.join(BUILD, "src/cli/mete"), *words], capture_output=True, text=True, timeout=120)
        assert p.returncode == 0, p.stderr
        return p.stdout

    def start(self, env=None, under=()):
        with open(self.path("log"), "ab") as log:
            self.process = subprocess.Popen([*under, os.path.join(BUILD, "src/manager/mete-manager"), "--config", self.path("manager.conf")],
                                            stderr=log, env={**os.environ, **(env or {})})

        def is_up():
            assert self.process.poll() is None, open(self.path("log")).read()[-2000:]
            try:
                return all(h["reachable"] for h in self.get("/v1/hosts")[1]["hosts"])
            except (OSError, KeyError):  # KeyError: it does not lead yet
                return False
        wait_for("the manager sees its hosts", is_up)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def close(self):
        status = 0
        if self.process:
            self.process.terminate()
            status = self.process.wait(60)
        for host in self.hosts.values():
            host.close()
        log = open(self.path("log")).read() if os.path.exists(self.path("log")) else ""
        subprocess.run(["rm", "-rf", self.dir], check=True)
        assert status == 0, log[-3000:]

    def call(self, method, path, body=None):
        c = UnixConnection(self.path("sock"))
        try:
            c.request(method, path, json.dumps(body) if body is not None else None)
            r = c.getresponse()
            return r.status, json.loads(r.read())
        finally:
            c.close()

    def get(self, path):
        return self.call("GET", path)

    def seen(self, vm):
        """The manager has heard of it."""
        n = len(self.hosts["a"].vms)
        wait_for(f"{vm} is seen", lambda: self.get("/v1/hosts")[1].get("hosts", [{}])[0].get("vms") == n)

    def move(self, vm, **ask):
        return self.call("POST", f"/v1/vms/{vm}/move", {"to": "b", **ask})

    def ended(self, kind, id_):
        return wait_for(f"{id_} is over", lambda: (lambda o: o if "ended_ms" in o else None)(self.get(f"/v1/{kind}/{id_}")[1]))

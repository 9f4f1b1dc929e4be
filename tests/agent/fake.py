# SPDX-License-Identifier: Apache-2.0
"""What stands around an agent in these tests: a host that speaks when it is told to, and applications."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import shutil
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("METE_BUILD", os.path.join(ROOT, "build/debug"))
AGENT = os.path.join(BUILD, "src/agent/mete-agent")
TIMEOUT_S = 10


def wait_for(what, condition, timeout_s=TIMEOUT_S):
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"timeout: {what}"
        time.sleep(0.01)


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error)
        self.code, self.message = error["code"], error["message"]
        self.reason = (error.get("data") or {}).get("reason")


class Lines:
    """JSON, one object a line, over a socket."""

    def __init__(self, sock):
        self.sock, self.buffer = sock, b""
        self.sock.settimeout(TIMEOUT_S)

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, message):
        self.send_raw(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s=TIMEOUT_S):
        """The next object; None at the end of the stream; socket.timeout where nothing comes."""
        deadline = time.monotonic() + timeout_s
        while True:
            line, newline, rest = self.buffer.partition(b"\n")
            if newline:
                self.buffer = rest
                if line.strip():
                    return json.loads(line)
                continue
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.buffer += data

    def silent(self, for_s=0.2):
        """Nothing comes for so long."""
        try:
            message = self.receive(for_s)
        except socket.timeout:
            return True
        raise AssertionError(f"unexpected: {message}")

    def close(self):
        self.sock.close()


class Host:
    """meted's end of the port. Nothing is answered by itself."""

    def __init__(self, path):
        self.path, self.link, self.next_id = path, None, 0
        self.listener = None
        self.listen()

    def listen(self):
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.listener.settimeout(TIMEOUT_S)

    def go_away(self):
        self.hang_up()
        if self.listener:
            self.listener.close()
            self.listener = None
            os.unlink(self.path)

    def hang_up(self):
        if self.link:
            self.link.close()
            self.link = None

    def accept(self):
        self.link = Lines(self.listener.accept()[0])
        return self.link

    def expect(self, method, timeout_s=TIMEOUT_S):
        message = self.link.receive(timeout_s)
        assert message is not None, f"the agent hung up, {method} was expected"
        assert message.get("method") == method, message
        return message

    def answer(self, message, result=None):
        self.link.send({"jsonrpc": "2.0", "id": message["id"], "result": result or {}})

    def refuse(self, message, reason, text="no"):
        self.link.send({"jsonrpc": "2.0", "id": message["id"],
                        "error": {"code": -32000, "message": text, "data": {"reason": reason}}})

    def call(self, method, params):
        self.next_id += 1
        self.link.send({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params})
        answer = self.link.receive()
        assert answer["id"] == self.next_id, answer
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def notify(self, method, params):
        self.link.send({"jsonrpc": "2.0", "method": method, "params": params})

    def greet(self, live=None):
        """Takes the agent's greeting; live None: all that it knows. Returns (hello's params, sync's requests)."""
        if self.link is None:
            self.accept()
        hello = self.expect("hello")
        self.answer(hello, {"version": 1, "vm": "v"})
        sync = self.expect("sync")
        known = sync["params"]["requests"]
        self.answer(sync, {"live": known if live is None else live})
        return hello["params"], known

    def grant(self, reserve, cpus=(1,)):
        self.answer(reserve, verdict(reserve["params"]["request"], "granted", needs=reserve["params"]["needs"],
                                     cpus=list(cpus)))


def verdict(request, outcome, **more):
    return {"request": request, "outcome": outcome, "sentence": more.pop("sentence", outcome), **more}


class App:
    """A connection to the agent from this very process."""

    def __init__(self, path):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        self.link, self.next_id = Lines(sock), 0

    def start(self, method, params=None):
        self.next_id += 1
        self.link.send({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params or {}})
        return self.next_id

    def answer(self, number):
        message = self.link.receive()
        assert message is not None, "the agent hung up"
        assert message.get("id") == number, message
        if "error" in message:
            raise Refused(message["error"])
        return message["result"]

    def call(self, method, params=None):
        return self.answer(self.start(method, params))

    def rows(self):
        return self.call("list")["rows"]

    def row(self, request):
        return next((r for r in self.rows() if r["id"] == request), None)

    def close(self):
        self.link.close()


# An application of its own: connects, sends what comes on its input, prints what the agent says.
CHILD = r"""
import os, socket, sys, threading
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
def out():
    while True:
        d = s.recv(65536)
        if not d:
            break
        os.write(1, d)
threading.Thread(target=out, daemon=True).start()
for line in sys.stdin:
    s.sendall(line.encode())
"""


class ChildApp(App):
    """An application that is a process of its own, and may be killed."""

    def __init__(self, path, uid=None):
        mine, theirs = socket.socketpair()
        self.process = subprocess.Popen(["/usr/bin/python3", "-c", CHILD, path] + ([str(uid)] if uid else []), stdin=theirs,
                                        stdout=theirs)
        theirs.close()
        self.link, self.next_id = Lines(mine), 0

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.link.close()

    def close(self):
        if self.process.poll() is None:
            self.kill()


class World:
    """A folder with a socket, a host and an agent."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="mete-agent-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.socket = os.path.join(self.dir, "agent.sock")
        self.state = os.path.join(self.dir, "requests")
        self.sys = os.path.join(self.dir, "sys")
        self.log = os.path.join(self.dir, "log")
        self.host = Host(os.path.join(self.dir, "port"))
        self.agent, self.apps = None, []
        self.make_sys()

    def make_sys(self, cpus=4, online=(0,), blocks=4, block_bytes=128 << 20):
        cpu, memory = os.path.join(self.sys, "devices/system/cpu"), os.path.join(self.sys, "devices/system/memory")
        shutil.rmtree(self.sys, ignore_errors=True)
        for n in range(cpus):
            os.makedirs(f"{cpu}/cpu{n}")
            if n:
                self.put(f"{cpu}/cpu{n}/online", "1" if n in online else "0")
        self.put(f"{cpu}/online", ",".join(map(str, online)))
        for n in range(blocks):
            os.makedirs(f"{memory}/memory{n}")
            self.put(f"{memory}/memory{n}/state", "online")
        self.put(f"{memory}/block_size_bytes", f"{block_bytes:x}")

    def make_groups(self):
        """Control groups v2 as plain folders: what the agent would write to a kernel. Every process is in the root."""
        self.groups = os.path.join(self.dir, "groups")
        os.mkdir(self.groups)
        self.put(f"{self.groups}/cgroup.controllers", "cpuset memory")
        self.put(f"{self.groups}/cgroup.subtree_control", "cpuset memory")
        self.put(f"{self.groups}/cgroup.procs", "")
        self.put(f"{self.sys}/mountinfo", f"30 23 0:27 / {self.groups} rw - cgroup2 cgroup2 rw")

    def held(self):
        """{file: text} of the one group that the agent holds; None: there is none."""
        while True:
            found = [name for name in os.listdir(self.groups) if name.startswith("mete.")]
            assert len(found) <= 1, found
            folder = os.path.join(self.groups, found[0]) if found else None
            try:
                return {name: self.get(os.path.join(folder, name)) for name in os.listdir(folder)} if folder else None
            except FileNotFoundError:
                pass  # it was taken away while it was looked at

    @staticmethod
    def put(path, text):
        with open(path, "w") as f:
            f.write(text + "\n")

    @staticmethod
    def get(path):
        with open(path) as f:
            return f.read().strip()

    def start(self, *more, wait=True):
        with open(self.log, "ab") as log:
            self.agent = subprocess.Popen([AGENT, "--socket", self.socket, "--port", "unix:" + self.host.path, "--state",
                                           self.state, "--sys", self.sys, *more], stderr=log, stdout=log,
                                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
                                               "UBSAN_OPTIONS": "halt_on_error=1:exitcode=98"})
        if wait:
            wait_for("the agent listens", lambda: self.agent.poll() is None and self.can_connect())

    def can_connect(self):
        try:
            App(self.socket).close()
            return True
        except OSError:
            return False

    def up(self):
        """Agent and host, greeted."""
        self.start()
        self.host.greet()
        app = self.app()
        wait_for("the agent is connected", lambda: app.call("hello", {"version": 1})["connected"])
        return app

    def app(self):
        self.apps.append(App(self.socket))
        return self.apps[-1]

    def child(self, uid=None):
        self.apps.append(ChildApp(self.socket, uid))
        return self.apps[-1]

    def kill(self):
        """As kill -9 in the guest; the port closes with it."""
        self.agent.send_signal(signal.SIGKILL)
        self.agent.wait()
        self.host.hang_up()

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def close(self):
        problem = None
        for app in self.apps:
            app.close()
        if self.agent and self.agent.poll() is None:
            self.agent.terminate()
            try:
                status = self.agent.wait(TIMEOUT_S)
                if status != 0:
                    problem = f"the agent ended with {status}: {self.text()[-3000:]}"
            except subprocess.TimeoutExpired:
                self.agent.kill()
                self.agent.wait()
                problem = "the agent did not end"
        elif self.agent and self.agent.returncode not in (0, -signal.SIGKILL):
            problem = f"the agent ended with {self.agent.returncode}: {self.text()[-3000:]}"
        if self.host.listener:
            self.host.go_away()
        shutil.rmtree(self.dir)
        assert problem is None, problem

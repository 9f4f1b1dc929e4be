# SPDX-License-Identifier: Apache-2.0
"""Hostile guests, callers and machines. Each gets a clear error, nothing is lost, nobody else suffers."""
import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest
from app import App, AppError
from host import ROOT, Host, wait_for

PORT = "/dev/virtio-ports/org.mete.agent.0"
DEEP = '{"a":' * 64 + "1" + "}" * 64


def answer_time_s(host):
    began = time.monotonic()
    assert host.http("GET", "/health")[0] == 200
    return time.monotonic() - began


class Watch:
    """Asks meted for its health while a block runs; the longest answer is what somebody else suffered."""

    def __init__(self, host):
        self.host, self.worst, self._stop = host, 0.0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.is_set():
            self.worst = max(self.worst, answer_time_s(self.host))
            time.sleep(0.01)

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


# -- the guest's channel to its host

@pytest.fixture
def port(host, guest):
    """The channel with nobody but the test on its guest end."""
    guest.check("touch /run/no-agent; killall -9 mete-agent; usleep 300000")
    app = App(guest, "port", path=PORT)
    app.send("")  # ends whatever half line the agent left
    yield app
    app.close()
    guest.check("rm -f /run/no-agent")
    # what meted shows may still be the test's greeting: ask in the guest
    wait_for("the real agent is back", lambda: '"connected":true' in guest.run("mete agent --json")[1].replace(" ", ""), 20)
    assert guest.run("mete run --need memory:128M -- true")[0] == 0


def hello(port):
    return port.call("hello", {"version": 1, "agent": "test", "boot_id": port.vm.check(
        "cat /proc/sys/kernel/random/boot_id"), "state": {"cpus_online": [0], "memory_bytes": 268435456}})


@pytest.mark.parametrize("line, code", [
    ("{", -32700),
    ("nonsense", -32700),
    (DEEP, -32700),
    ('{"jsonrpc":"2.0","id":1,"id":2,"method":"ping","params":{}}', -32700),
    ("[1,2,3]", -32600),
    ('{"jsonrpc":"1.0","id":1,"method":"ping","params":{}}', -32600),
    ('{"jsonrpc":"2.0","id":1,"method":"explode","params":{}}', -32601),
    ('{"jsonrpc":"2.0","id":1,"method":"hello","params":{"version":"1"}}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1}}', -32602),
])
def test_malformed_lines(port, line, code):
    """Each is answered with an error that says what is wrong, and the next line is read as if nothing had been."""
    port.send(line)
    message = port.receive(10, lambda m: "error" in m)
    assert message["error"]["code"] == code and message["error"]["message"]
    assert hello(port)["vm"] == "v"


@pytest.mark.parametrize("needs", [
    [{"kind": "cpu", "amount": -1}],
    [{"kind": "cpu", "amount": 0}],
    [{"kind": "cpu", "amount": 9007199254740993}],
    [{"kind": "cpu", "amount": 1e300}],
    [{"kind": "cpu", "amount": "2"}],
    [{"kind": "cpu", "amount": 2, "amount_max": 1}],
    [{"kind": "cpu", "amount": 1, "surprise": True}],
    [{"kind": "cpu", "amount": 1}] * 5,
    [{"kind": "cpu", "amount": 1}, {"kind": "cpu", "amount": 1}],
    [{"kind": "cpu", "amount": 1, "parameters": [{"name": "share", "relation": ">="}]}],
    [{"kind": "cpu", "amount": 1, "parameters": [{"name": "share", "relation": ">=", "value": 900}] * 2}],
    [],
])
def test_impossible_needs(host, port, needs):
    hello(port)
    free = host.free()
    with pytest.raises(AppError) as refused:
        port.call("reserve", {"request": "bad", "application": "x", "needs": needs})
    assert refused.value.reason == "invalid"
    assert host.free() == free


def test_too_long_line(host, port):
    """64 KiB a line; more is refused once, and the channel goes on behind its end."""
    with Watch(host) as watch:
        port.vm.check(f"head -c 300000 /dev/zero | tr '\\0' 'x' > {port.input}; echo > {port.input}", 60)
        message = port.receive(20, lambda m: "error" in m)
    assert message["error"]["code"] == -32700
    assert hello(port)["vm"] == "v"
    assert watch.worst < 1


def test_half_message(host, port):
    """A line that was begun by an agent that died is ended by a newline; nothing of it is taken for a message."""
    port.vm.check(f"printf '%s' '{{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"pi' > {port.input}")
    port.send("")
    assert hello(port)["vm"] == "v"


def test_before_the_greeting(host, guest, port):
    """The greeting of an agent counts for its connection, so this takes a new one."""
    port.close()
    host.kill_meted()
    host.start_meted()
    with App(guest, "early", path=PORT) as early:
        with pytest.raises(AppError) as refused:
            early.call("reserve", {"request": "early", "application": "x", "needs": [{"kind": "cpu", "amount": 1}]})
        assert refused.value.reason == "stale"


def test_methods_of_the_host_are_not_the_guests(port):
    hello(port)
    for method in ("online", "offline", "ended"):
        with pytest.raises(AppError):
            port.call(method, {"cpus": [0], "memory_bytes": 0} if method == "online" else {"cpus": [1]})


def test_flood_of_a_guest(host, port):
    """A guest that writes as fast as it can: it is slowed down, and the others do not notice."""
    hello(port)
    ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}})
    with Watch(host) as watch:
        port.vm.check(f"(yes '{ping}' | head -n 20000 > {port.input}) & sleep 4; kill $! 2>/dev/null; true", 60)
        assert host.mete("reserve", "meanwhile", "--need", "cpu:1,share>=0.1").returncode == 0
        host.mete("unreserve", "meanwhile")
    assert watch.worst < 1
    assert host.meted.poll() is None


def test_flood_of_an_application(host, guest):
    """The agent slows one application down; another gets its answer."""
    flooder, other = App(guest, "flooder", user="app"), App(guest, "other")
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "list", "params": {}})
    guest.check(f"(yes '{line}' | head -n 20000 > {flooder.input}) 2>/dev/null & sleep 0.5")
    assert other.call("hello", {"version": 1})["connected"]
    flooder.kill()
    other.close()


def test_bad_lines_of_an_application(guest):
    with App(guest, "rude") as app:
        for line in ("{", DEEP, "[]", '{"jsonrpc":"2.0","id":1,"method":"request","params":{"needs":"cpu:1"}}',
                     '{"jsonrpc":"2.0","id":1,"method":"request","params":{"needs":["cpu:1"],"x":1}}',
                     '{"jsonrpc":"2.0","id":1,"method":"request","params":{"needs":[]}}',
                     '{"jsonrpc":"2.0","id":1,"method":"nothing","params":{}}'):
            app.send(line)
            assert app.receive(10, lambda m: "error" in m)["error"]["message"]
        assert app.call("hello", {"version": 1})["connected"]


# -- callers of meted

@pytest.mark.parametrize("method, path, body, status", [
    ("POST", "/v1/vms", "{", 400),
    ("POST", "/v1/vms", DEEP, 400),
    ("POST", "/v1/vms", '{"name":"x","name":"y","cpus":1,"memory_bytes":268435456}', 400),
    ("POST", "/v1/vms", '{"name":"x","cpus":1,"memory_bytes":268435456,"surprise":1}', 400),
    ("POST", "/v1/vms", '{"name":"../x","cpus":1,"memory_bytes":268435456}', 400),
    ("POST", "/v1/vms", '{"name":"x","cpus":"1","memory_bytes":268435456}', 400),
    ("POST", "/v1/vms", '{"name":"x","cpus":0,"memory_bytes":268435456}', 400),
    ("POST", "/v1/vms", '{"name":"x","cpus":1,"memory_bytes":-1}', 400),
    ("POST", "/v1/vms", '{"name":"x","cpus":1,"memory_bytes":268435456,"kernel":"../../etc/shadow"}', 400),
    ("POST", "/v1/vms", '{"cpus":1}', 400),
    ("POST", "/v1/vms", "", 400),
    ("GET", "/v1/vms/none", None, 404),
    ("DELETE", "/v1/vms/none", None, 404),
    ("POST", "/v1/vms/none/start", None, 404),
    ("GET", "/v1/nothing", None, 404),
    ("GET", "/v1/vms/%2e%2e%2fx", None, (400, 404)),
    ("PUT", "/v1/vms", "{}", 405),
    ("GET", "/v1/vms?limit=0", None, 400),
    ("GET", "/v1/vms?limit=many", None, 400),
    ("GET", "/v1/vms?surprise=1", None, 400),
    ("GET", "/v1/definitions?vm=a%20b", None, 400),
    ("GET", "/v1/leases?vm=v", None, 400),
    ("GET", "/v1/events?after=-1", None, 400),
    ("POST", "/v1/reservations", '{"id":"x","needs":["cpu:0"]}', 400),
    ("POST", "/v1/reservations", '{"id":"x y","needs":["cpu:1"]}', 400),
    ("POST", "/v1/reservations", '{"id":"x","needs":["cpu:1"],"start_ms":2000,"end_ms":1000}', 400),
])
def test_bad_requests(host, method, path, body, status):
    got, text = host.http(method, path, body)
    assert got in (status if isinstance(status, tuple) else (status,)), text
    error = json.loads(text)
    assert error["reason"] in ("invalid", "not-found", "unsupported") and error["message"] and error["code"] == got


def test_too_large_body(host):
    status, text = host.http("POST", "/v1/vms", b'{"name":"' + b"x" * 70000 + b'"}')
    assert status in (400, 413), text
    assert host.http("GET", "/health")[0] == 200


def test_what_is_no_http(host):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(host.socket)
    s.sendall(b"\0\1\2 what\r\n\r\n" + b"x" * 100000)
    s.close()
    # connections that never say anything
    idle = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(50)]
    for i in idle:
        i.connect(host.socket)
    assert answer_time_s(host) < 1
    for i in idle:
        i.close()


def test_flood_of_requests(host):
    """Load of one caller does not keep others waiting for long."""
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            try:
                host.http("GET", "/v1/ledger")
            except OSError:
                pass
    threads = [threading.Thread(target=flood) for _ in range(8)]
    for t in threads:
        t.start()
    try:
        with Watch(host) as watch:
            time.sleep(2)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert watch.worst < 2


def metrics(host):
    """{name: value} of those without labels"""
    status, text = host.http("GET", "/metrics")
    assert status == 200
    return {name: float(value) for name, value in re.findall(r"^(mete_\w+) (\S+)$", text, re.M)}


def follow(path, after):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect(path)
    s.sendall(f"GET /v1/events?after={after} HTTP/1.1\r\nHost: l\r\nAccept: text/event-stream\r\n\r\n".encode())
    return s


def test_a_follower_that_does_not_read(host):
    """A stream nobody reads is dropped, not buffered for ever; one that reads meanwhile misses nothing."""
    after, before = host.last_event(), metrics(host)
    idle, reader = follow(host.socket, after), follow(host.socket, after)
    received, stop = bytearray(), threading.Event()

    def read():
        reader.settimeout(0.2)
        while not stop.is_set():
            try:
                received.extend(reader.recv(65536))
            except TimeoutError:
                pass
    thread = threading.Thread(target=read)
    thread.start()
    try:
        wait_for("both follow", lambda: metrics(host)["mete_http_streams"] == before["mete_http_streams"] + 2)
        for i in range(20000):  # 1 MiB in meted, and what the kernel holds
            assert host.http("POST", "/v1/reservations", {"id": f"spam-{i}", "needs": ["cpu:1,share>=0.001"]})[0] == 200
            host.http("DELETE", f"/v1/reservations/spam-{i}")
            if i % 50 == 0 and metrics(host)["mete_http_slow_streams_total"] > before["mete_http_slow_streams_total"]:
                break
        now = metrics(host)
        assert now["mete_http_slow_streams_total"] == before["mete_http_slow_streams_total"] + 1
        assert now["mete_http_streams"] == before["mete_http_streams"] + 1
        last = host.last_event()
        wait_for("the reader has all", lambda: f"id: {last}\n".encode() in bytes(received))
        ids = [int(n) for n in re.findall(rb"^id: (\d+)$", bytes(received), re.M)]
        assert ids == list(range(after + 1, last + 1))
    finally:
        stop.set()
        thread.join()
        idle.close()
        reader.close()


def test_metrics_are_documented(host):
    status, text = host.http("GET", "/metrics")
    shown = set(re.findall(r"^# TYPE (mete_\w+) ", text, re.M))
    with open(os.path.join(ROOT, "docs/metrics.md")) as f:
        assert shown == set(re.findall(r"`(mete_\w+)`", f.read()))


def test_metrics_of_a_guest(host, port):
    """What a guest does wrong is counted, and stays counted when its connection is gone."""
    hello(port)
    before = metrics(host)
    for line in "{", "[1]", "nonsense":
        port.send(line)
        port.receive(10, lambda m: "error" in m)
    expected = {"unreadable": 2, "malformed": 1, "lines": 3}

    def more():
        return {k: metrics(host)[f"mete_agents_{k}_total"] - before[f"mete_agents_{k}_total"] for k in expected}
    assert more() == expected
    assert metrics(host)["mete_monitors_replies_total"] > 0 and metrics(host)["mete_keeper_answers_total"] > 0


def test_roles(host):
    """Who is not an operator may look, and change nothing."""
    program = host.path("bin", "mete")
    as_other = ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", "--"]
    env = host._environment({})
    look = subprocess.run([*as_other, program, "ledger", "--socket", host.socket], env=env, capture_output=True, text=True)
    assert look.returncode == 0, look.stderr
    change = subprocess.run([*as_other, program, "reserve", "x", "--need", "cpu:1", "--socket", host.socket], env=env,
                            capture_output=True, text=True)
    assert change.returncode == 77 and "denied" in change.stderr, change.stderr


# -- the machine

def run_meted(host, config, timeout=15):
    """A meted in the foreground that is expected to give up; (status, what it said)."""
    p = subprocess.run(["setpriv", "--reuid", str(host.meted_uid), "--regid", str(host.meted_gid), "--clear-groups",
                        host.path("bin", "meted"), "--config", config], env=host._environment({}),
                       capture_output=True, text=True, timeout=timeout)
    return p.returncode, p.stderr


def other_config(host, name, **changes):
    """The host's configuration with some values changed."""
    with open(host.path("mete.conf")) as f:
        lines = f.read().splitlines()
    out, section = [], ""
    for line in lines:
        section = line if line.startswith("[") else section
        key = line.split("=")[0]
        if section == "[meted]" and key in changes:
            line = f"{key}={changes[key]}"
        out.append(line)
    path = host.path(name)
    with open(path, "w") as f:
        f.write("\n".join(out) + "\n")
    return path


def test_second_meted_on_the_same_state(host, guest):
    other = other_config(host, "second.conf", socket=host.path("run", "second.sock"))
    status, said = run_meted(host, other)
    assert status != 0 and ("state" in said or "already" in said or "another" in said), said
    assert host.get("/health")["ok"] and guest.run("mete run --need memory:128M -- true")[0] == 0


def test_socket_in_use(host, guest):
    """A socket on which somebody answers is not taken away from them."""
    state = host.path("state2")
    os.makedirs(state, exist_ok=True)
    os.chown(state, host.meted_uid, host.meted_gid)
    status, said = run_meted(host, other_config(host, "third.conf", state_dir=state))
    assert status != 0 and host.socket in said, said
    assert host.get("/health")["ok"]


def test_socket_path_is_a_file(host):
    path = host.path("run", "precious")
    with open(path, "w") as f:
        f.write("not a socket")
    os.chown(path, host.meted_uid, host.meted_gid)
    state = host.path("state3")
    os.makedirs(state, exist_ok=True)
    os.chown(state, host.meted_uid, host.meted_gid)
    status, said = run_meted(host, other_config(host, "fourth.conf", socket=path, state_dir=state))
    assert status != 0 and path in said, said
    assert open(path).read() == "not a socket"


@pytest.mark.parametrize("text, word", [
    ("[meted]\nsokcet=/x\n", "sokcet"), ("[nothing]\n", "nothing"), ("[host]\nmemory=lots\n", "memory"),
    ("[host]\ncpu_overcommit=0\n", "cpu_overcommit"), ("no group\n", ""),
])
def test_bad_configuration(host, text, word):
    path = host.path("bad.conf")
    with open(path, "w") as f:
        f.write(text)
    status, said = run_meted(host, path)
    assert status == 78 and word in said and path in said, said


@pytest.mark.parametrize("config, arguments, status, word", [
    ("[host]\ncpus=0-999\n", ["--check"], 78, "cpus=0-999"),
    ("[host]\ncpus=0-999\n", [], 78, "cpus=0-999"),
    ("[host]\nmemory=900T\n", ["--check"], 78, "memory"),
    ("[host]\nmemory=900T\n", [], 78, "memory"),
    ("[host]\nsource=elsewhere\n", ["--check"], 78, "source"),
    ("[host]\nsource=synthetic:nonsense\n", ["--check"], 78, "[host]"),
    ("[host]\nsource=xml:/none\n", ["--check"], 78, "/none"),
    ("[host]\nsource=synthetic:numa:1 core:4 pu:1\ncpus=0-3\nmemory=64M\n", ["--check"], 0, "good"),
    ("", ["--check"], 0, "good"),
    ("", ["--chekc"], 64, "--check"),
    ("", ["more"], 64, "no arguments"),
    (None, ["--check"], 78, "mete.conf"),
])
def test_what_is_checked(tmp_path, config, arguments, status, word):
    """What --check finds good is what meted starts with, on this machine; a status for each kind of mistake."""
    path = tmp_path / "mete.conf"
    if config is not None:
        path.write_text(config)
    program = os.path.join(ROOT, os.environ.get("METE_BUILD") or "build/debug", "src/meted/meted")
    p = subprocess.run([program, "--config", str(path), *arguments], capture_output=True, text=True, timeout=15)
    assert p.returncode == status and word in p.stdout + p.stderr, (p.returncode, p.stdout, p.stderr)
    assert status != 78 or str(path) in p.stderr


def test_doctor_says_what_to_start(tmp_path, host):
    program = host.path("bin", "mete")
    start = "systemctl start {}" if os.path.exists("/run/systemd/system") else "{} as root"

    def doctor(socket_path):
        p = subprocess.run([program, "doctor", "--json", "--socket", str(socket_path)], env=host._environment({}),
                           capture_output=True, text=True, timeout=60)
        return {f["what"]: f["text"] for f in json.loads(p.stdout)["findings"]}, p.returncode
    found, status = doctor(tmp_path / "nobody.sock")
    assert status != 0 and "nobody.sock" in found["meted"] and start.format("mete-keeper") in found["meted"], found
    host.kill_keeper()
    wait_for("it is missed", lambda: not host.get("/health")["ok"])
    found, status = doctor(host.socket)
    assert status != 0 and start.format("mete-keeper") in found["mete-keeper"], found
    host.start_keeper()
    host.wait_meted()
    found, status = doctor(host.socket)
    assert "start" not in found["meted"] + found["mete-keeper"], found


def test_second_keeper(host, guest):
    p = subprocess.run([host.path("bin", "mete-keeper"), "--config", host.path("keeper.conf")],
                       env=host._environment({}), capture_output=True, text=True, timeout=15)
    assert p.returncode != 0 and p.stderr
    assert guest.run("mete run --need memory:128M -- true")[0] == 0


def test_keeper_serves_meted_alone(host):
    """Another uid cannot use the keeper's socket."""
    code = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
            "s.sendall(b'{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"vmm-list\",\"params\":{}}\\n'); "
            "s.settimeout(5); print(s.recv(4096))")
    p = subprocess.run(["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups", "/usr/bin/python3", "-c",
                        code, host.keeper_socket], capture_output=True, text=True, timeout=20)
    assert "result" not in p.stdout, p.stdout


# -- a full disk, and QEMUs that lie: hosts of their own

def test_full_disk(image):
    """Where nothing can be recorded nothing is granted; what was granted before stays; with room again it goes on."""
    with Host(memory="2G") as host:
        host.kill_meted(signal.SIGTERM)
        state = host.path("state")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=16M,mode=755,uid={host.meted_uid},gid={host.meted_gid}",
                        "tmpfs", state], check=True)
        try:
            host.start_meted()
            assert host.mete("reserve", "before", "--need", "cpu:1,share>=0.1").returncode == 0
            filler = os.path.join(state, "filler")
            with open(filler, "wb", buffering=0) as f:
                try:
                    while f.write(b"x" * 4096):
                        pass
                except OSError:
                    pass
            answered = []
            for i in range(20000):
                status, text = host.http("POST", "/v1/reservations", {"id": f"full-{i}", "needs": ["cpu:1,share>=0.001"]})
                if status == 200 and json.loads(text)["outcome"] == "granted":
                    answered.append(f"full-{i}")
                else:
                    break
            else:
                raise AssertionError("the disk was full and every request was granted")
            assert status >= 500 and json.loads(text)["message"], text
            claims = {c["holder"] for c in host.claims()}
            assert claims == {"reservation:before"} | {f"reservation:{a}" for a in answered}
            assert not host.get("/health")["ok"]
            os.unlink(filler)
            wait_for("decisions can be recorded again", lambda: host.http("POST", "/v1/reservations", {
                "id": "room", "needs": ["cpu:1,share>=0.001"]})[0] == 200, 20, 0.2)
            host.kill_meted()
            host.start_meted()
            assert {c["holder"] for c in host.claims()} == claims | {"reservation:room"}
        finally:
            host.kill_meted(signal.SIGTERM)
            subprocess.run(["umount", state], check=True)


LIARS = {
    # ends at once
    "dies": "exit 3",
    # never speaks
    "mute": "exec sleep 1000",
    # takes the monitor's connection and talks nonsense
    "babbles": """exec /usr/bin/python3 -c '
import socket, time
s = socket.socket(fileno=3); c, _ = s.accept()
while True:
    c.sendall(b"{\\"QMP\\": [[[]]]}\\nnonsense\\0\\xff\\n" * 100); time.sleep(0.01)'""",
    # greets, and then agrees to everything with an empty answer
    "agrees": """exec /usr/bin/python3 -c '
import socket, json
s = socket.socket(fileno=3); c, _ = s.accept()
c.sendall(b"{\\"QMP\\": {\\"version\\": {\\"qemu\\": {\\"major\\": 7, \\"minor\\": 2, \\"micro\\": 0}, \\"package\\": \\"\\"}, \\"capabilities\\": [\\"oob\\"]}}\\n")
f = c.makefile()
for line in f:
    q = json.loads(line); c.sendall((json.dumps({"return": {}, "id": q.get("id")}) + "\\n").encode())'""",
}


@pytest.mark.parametrize("liar", LIARS)
def test_qemu_that_lies(image, liar, tmp_path):
    """The VM does not start, with a reason; nothing stays claimed; another VM on a real QEMU is not disturbed."""
    qemu = os.environ.get("METE_QEMU") or "/usr/bin/qemu-system-x86_64"
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    fake = tmp_path / "qemu-system-x86_64"
    # honest when it is probed and for the VM called honest
    fake.write_text(f'#!/bin/sh\ncase "$*" in *guest=liar*) {LIARS[liar]} ;; *) exec {qemu} "$@" ;; esac\n')
    fake.chmod(0o755)
    with Host(memory="2G", qemu=str(fake)) as host:
        host.vm("honest")
        free = host.free()
        host.vm("liar", start=False)
        p = host.mete("vm", "start", "liar", check=False)
        assert p.returncode != 0 and p.stderr
        wait_for("it is stopped", lambda: host.vms["liar"].show()["state"] == "stopped", 90, 0.2)
        host.wait_free(free, 60)
        assert host.vms["honest"].run("mete run --need memory:128M -- true")[0] == 0


def test_qemu_stops_answering(host, guest):
    """A VMM that is stopped: requests that need it end in time, the host goes on, and it can be killed."""
    with App(guest, "frozen") as app:
        pid = guest.pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            with Watch(host) as watch:
                host.mete("reserve", "beside", "--need", "memory:128M")
                host.mete("unreserve", "beside")
                time.sleep(1)
            assert watch.worst < 1
        finally:
            os.kill(pid, signal.SIGCONT)
        assert app.call("request", {"id": "thawed", "needs": ["memory:128M"]})["outcome"] == "granted"
        app.call("release", {"id": "thawed"})


def test_image_that_is_not_there(host):
    """Said by name, where the start fails, and nothing stays behind."""
    free = host.free()
    host.mete("vm", "create", "bare", "--kernel=nope")
    p = host.mete("vm", "start", "bare", check=False)
    assert p.returncode == 66 and "images/nope" in p.stderr, p.stderr
    host.wait_free(free)
    host.mete("vm", "delete", "bare")
    assert host.mete("definition", "list", "bare", check=False).returncode == 66


def test_what_is_likely_a_mistake_is_said(host):
    """A VM that has nothing to boot, and the events of an id that nobody has."""
    assert "nothing that it could boot" in host.mete("vm", "create", "bare").stderr
    host.mete("vm", "delete", "bare")
    p = host.mete("events", "--trace", "v/nobody")
    assert p.stdout == "" and "no event is of v/nobody" in p.stderr
    assert host.mete("events", "--trace", "v").stderr == ""


def test_private_things_are_private(host, guest):
    """What belongs to root or to meted cannot be read by others; each VMM has a uid of its own."""
    uid = os.stat(f"/proc/{guest.pid()}").st_uid
    assert uid not in (0, host.meted_uid)
    status = open(f"/proc/{guest.pid()}/status").read()
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    meted = open(f"/proc/{host.meted.pid}/status").read()
    assert "CapEff:\t0000000000000000" in meted
    for path in [host.path("state")] + [os.path.join(host.path("state"), n) for n in os.listdir(host.path("state"))]:
        assert not os.path.isfile(path) or stat.S_IMODE(os.stat(path).st_mode) & 0o007 == 0, path


def test_meted_does_not_start_without_its_user_being_able_to_write(host):
    status, said = run_meted(host, other_config(host, "ro.conf", state_dir="/proc/nothing",
                                                socket=host.path("run", "ro.sock")))
    assert status != 0 and "/proc/nothing" in said, said

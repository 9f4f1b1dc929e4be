# SPDX-License-Identifier: Apache-2.0
"""A QEMU without a guest, its monitors, and its own schema, for the tests of this folder."""
import json
import os
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Monitor:
    """A blocking QMP client, for tests only."""

    def __init__(self, path, oob=False, timeout_s=20):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(path)
        self.buffer, self.events, self.next_id = b"", [], 0
        self.before_greeting = []
        while True:
            line = self.line()
            if "QMP" in line:
                self.greeting = line["QMP"]
                break
            self.before_greeting.append(line)
        self.run("qmp_capabilities", **({"enable": ["oob"]} if oob else {}))

    def line(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("the monitor is closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def send(self, command, oob=False, **arguments):
        self.next_id += 1
        message = {"exec-oob" if oob else "execute": command, "id": self.next_id}
        if arguments:
            message["arguments"] = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.sock.sendall(json.dumps(message).encode() + b"\n")
        return self.next_id

    def ask(self, command, oob=False, **arguments):
        """The whole reply, {"return": ..} or {"error": ..}."""
        number = self.send(command, oob, **arguments)
        while True:
            line = self.line()
            if "event" in line:
                self.events.append(line)
            elif line.get("id") == number:
                return line

    def run(self, command, oob=False, **arguments):
        reply = self.ask(command, oob, **arguments)
        assert "return" in reply, reply
        return reply["return"]

    def close(self):
        self.sock.close()


class Vmm:
    """QEMU started as meted starts it: monitors on inherited listening sockets."""

    MONITORS = ("qmp", "oob")

    def __init__(self, qemu, memory="256M", maximum="1G", extra=()):
        self.dir = tempfile.mkdtemp(prefix="mete-platform-")
        self.ram = tempfile.mkdtemp(prefix="mete-platform-", dir="/dev/shm")
        argv = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-machine", "q35", "-accel", "tcg",
                "-cpu", "Westmere", "-smp", "cpus=1,maxcpus=4,sockets=1,cores=4,threads=1",
                "-m", f"size={memory},slots=4,maxmem={maximum}",
                "-object", f"memory-backend-file,id=ram0,size={memory},mem-path={self.ram}/ram0,share=on",
                "-numa", "node,nodeid=0,memdev=ram0", "-numa", "cpu,node-id=0,socket-id=0", *extra]
        sockets = []
        for name in self.MONITORS:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            s.bind(self.path(name))
            s.listen(4)
            sockets.append(s)
            argv += ["-chardev", f"socket,id={name},fd={s.fileno()},server=on,wait=off",
                     "-mon", f"chardev={name},mode=control"]
        self.process = subprocess.Popen(argv, pass_fds=[s.fileno() for s in sockets])
        for s in sockets:
            s.close()

    def path(self, name):
        return f"{self.dir}/{name}"

    def monitor(self, name="qmp"):
        return Monitor(self.path(name), oob=name == "oob")

    def host_bytes(self, name):
        return os.stat(f"{self.ram}/{name}").st_blocks * 512

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for folder in (self.dir, self.ram):
            for name in os.listdir(folder):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)


def wait_until(condition, timeout_s=10):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


class Schema:
    """What `query-qmp-schema` says, and whether a message or a path fits it. Faults come as a list of sentences."""

    def __init__(self, entries):
        self.by_name = {e["name"]: e for e in entries}

    def deprecated(self, thing):
        return "deprecated" in thing.get("features", [])

    def check_command(self, message, properties_of):
        """properties_of(type): names of a device's properties, for device_add, whose schema names only a few."""
        oob = "exec-oob" in message
        name = message.get("execute", message.get("exec-oob"))
        command = self.by_name.get(name)
        if command is None or command["meta-type"] != "command":
            return [f"{name}: there is no such command"]
        faults = []
        if self.deprecated(command):
            faults.append(f"{name}: deprecated")
        if oob and not command.get("allow-oob"):
            faults.append(f"{name}: not to be had out of band")
        unknown = set(message) - {"execute", "exec-oob", "arguments", "id"}
        if unknown:
            faults.append(f"{name}: unknown members {sorted(unknown)}")
        arguments = dict(message.get("arguments", {}))
        if name == "device_add":
            known = {m["name"] for m in self.by_name[command["arg-type"]]["members"]}
            for key in [k for k in arguments if k not in known]:
                if key not in properties_of(arguments["driver"]):
                    faults.append(f"device_add: {arguments['driver']} has no property {key}")
                del arguments[key]
        return faults + self.check(name, command["arg-type"], arguments)

    def check(self, where, type_name, value):
        t = self.by_name[type_name]
        kind = t["meta-type"]
        if kind == "builtin":
            good = {"string": str, "int": int, "boolean": bool, "null": type(None)}.get(t["json-type"])
            if t["json-type"] == "number":
                good = (int, float)
            if good and (not isinstance(value, good) or (good is int and isinstance(value, bool))):
                return [f"{where}: {value!r} is no {t['json-type']}"]
            return []
        if kind == "enum":
            values = t.get("values") or [m["name"] for m in t["members"]]
            return [] if value in values else [f"{where}: {value!r} is not one of {values}"]
        if kind == "array":
            if not isinstance(value, list):
                return [f"{where}: no array"]
            return [f for i, v in enumerate(value) for f in self.check(f"{where}[{i}]", t["element-type"], v)]
        if kind == "alternate":
            if any(not self.check(where, m["type"], value) for m in t["members"]):
                return []
            return [f"{where}: {value!r} fits no alternative"]
        assert kind == "object", kind
        return self.check_object(where, t, value)

    def members(self, t, value):
        members = list(t["members"])
        if "tag" in t:
            for variant in t["variants"]:
                if variant["case"] == value.get(t["tag"]):
                    members += self.members(self.by_name[variant["type"]], value)
        return members

    def check_object(self, where, t, value):
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        faults, members = [], {m["name"]: m for m in self.members(t, value)}
        for key, v in value.items():
            if key not in members:
                faults.append(f"{where}: no argument {key}")
                continue
            if self.deprecated(members[key]):
                faults.append(f"{where}.{key}: deprecated")
            faults += self.check(f"{where}.{key}", members[key]["type"], v)
        faults += [f"{where}: {k} is missing" for k, m in members.items() if k not in value and "default" not in m]
        return faults

    def check_path(self, name, path):
        """Whether a reply or an event has this: "[].props.core-id"."""
        t = self.by_name.get(name)
        if t is None:
            return [f"{name}: there is no such command or event"]
        type_names = [t["ret-type" if t["meta-type"] == "command" else "arg-type"]]
        for step in path.split("."):
            found = []
            for type_name in type_names:
                t = self.by_name[type_name]
                if step == "[]":
                    found += [t["element-type"]] if t["meta-type"] == "array" else []
                elif t["meta-type"] == "object":
                    places = [t] + [self.by_name[v["type"]] for v in t.get("variants", [])]
                    found += [m["type"] for p in places for m in p["members"] if m["name"] == step]
            if not found:
                return [f"{name}: no {path} (at {step})"]
            type_names = found
        return []

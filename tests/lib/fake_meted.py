#!/usr/bin/python3 -B
# SPDX-License-Identifier: Apache-2.0
"""A hypervisor that is none, for a real mete-sp, which starts it as its meted: it takes partitions, has VMs by the word of the
test, and plays source and target of handovers. It answers each word by where it is, and says nothing unasked, so that what is
lost is said again because mete-sp asks again. The record it reads and writes as a real one does.

The test speaks to it on the same socket: GET /fake, POST /fake {"vms": {NAME: STATE}, "do": {WORD: what}, "parts": [...], "separated": N, "separate_ms": N}. do[WORD]:
{"silent": N}: not answered N times; {"refuse": [STATUS, REASON]}: refused over HTTP; {"say": {...}}: this instead of what is due;
do["WORD VM"]: of that VM alone.
{"hangs": True}: not even over HTTP, as long as it stands there. A target that finds in the record that the source's VMM stands takes
that for a word "stands" that it hears, again and again until it runs or has dropped it. do["partition"]: {"refuse": ...} alone. {"say": [...]} says all these.
"""
import configparser
import http.client
import json
import os
import select
import socket
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

CONFIG = configparser.ConfigParser(strict=False)
CONFIG.read(sys.argv[sys.argv.index("--config") + 1])
NAME, SOCKET = CONFIG["meted"]["name"], CONFIG["meted"]["socket"]
PROCESSOR = CONFIG["server"]["processor"]
SENT = {"sent_bytes": 65536, "ram_bytes": 0}
LOCK = threading.RLock()
STATE = {"vms": {}, "do": {}, "parts": [], "partition": {}, "heard": [], "said": [], "handovers": {}, "partitions": [], "records": [],
         "moves": [], "hanging": 0, "most_hanging": 0, "refused": 0}


class Local(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def say(word):
    with LOCK:
        STATE["said"].append(word)
    try:
        c = Local(PROCESSOR)
        c.request("POST", "/v1/handover/messages", json.dumps(word), {"Content-Type": "application/json"})
        answer = c.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            with LOCK:
                STATE["said"].append({"refused": json.loads(text), "word": word["says"]})
        c.close()
    except OSError:
        pass  # mete-sp is away


def outcome(h):
    """What the record says, None: nothing."""
    try:
        with open(os.path.join(h.get("record", "/nowhere"), "outcome")) as f:
            first = f.read().split()[0]
    except OSError:
        return None
    return "returned" if first == "committed" and os.path.exists(os.path.join(h["record"], "returned")) else first


def write(h, wanted, name="outcome"):
    at = os.path.join(h.get("record", "/nowhere"), name)
    beside = f"{at}.{NAME}{threading.get_ident()}"
    try:
        with open(beside, "w") as f:
            f.write(f"{wanted} {NAME}\n")
        os.link(beside, at)
    except OSError:
        pass
    try:
        os.unlink(beside)
    except OSError:
        pass
    return outcome(h)


def guest(h, word, has_control):
    definition = {"name": word["vm"], "uuid": "00000000-0000-4000-8000-000000000001", "qemu_path": "/usr/bin/qemu", "qemu_version": "7.2",
                  "machine": "pc-q35-7.2", "cpu_model": "Westmere-v1", "accelerator": "tcg", "cpus": 1, "cpus_max": 1,
                  "share_milli": 500, "cpu_mechanism": "park", "memory_bytes": 1 << 28, "memory_max_bytes": 1 << 28,
                  "unit_bytes": 1 << 27, "dimm_slots": 0, "memory_mechanism": "dimm", "numa_nodes": 1, "serial_pci_slot": 3,
                  "disk_pci_slot": 4, "net_pci_slot": 5, "mac": "52:54:00:00:00:01", "fallbacks": []}
    out = {"vm": {"definition": definition, "boot_id": "", "hhi_generation": 0, "leases": [], "plugged": []}, "qemu_version": "7.2",
           "parts": STATE["parts"]}
    if has_control:
        out["control"] = {"run_state": "running", "vcpus": [{"slot": 0, "use": "base", "share_milli": 500, "affinity": "shared",
                                                             "throttled_us": 17}]}
        if "record" not in h:
            h["record"] = STATE["records"].pop()
        out["loan"] = {"handle": "0" * 32, "record": h["record"], "transfer": "/run/nowhere/transfer.sock"}
    return out


def stood(h):
    return {"at_us": h["at_us"]} if "at_us" in h else {}


def separated():
    return {"separated_bytes": STATE["separated"]} if "separated" in STATE else {}


def takes(word):
    """How long separation may take: as was asked for, or by the test's word."""
    ms = STATE.get("separate_ms", word.get("separate_ms"))
    return {"separate_ms": ms} if ms else {}


def source(h, word):
    """Where it is by now, as a word, or None."""
    says, is_back = word["says"], h.get("end") == "back"
    if h.get("end") == "gone":
        return {"says": "gone", **SENT, **stood(h)}
    if is_back or says in ("abort", "finish"):
        record = write(h, "aborted") if h.get("given") else None  # until then nothing can have been decided
        if record == "committed":
            if says != "finish":
                return {"says": "given", **SENT}
            h["end"] = "gone"
            STATE["vms"].pop(word["vm"], None)
            return {"says": "gone", **SENT, **stood(h)}
        h["end"] = "back"
        return {"says": "back", "reason": word.get("reason", "cancelled"), "sentence": word.get("sentence", "")}
    if says == "classify":
        return {"says": "classified", "guest": guest(h, word, False), **separated(), **takes(word)}
    if says == "separate":
        return {"says": "separated", "separated_bytes": 0, **separated()}
    if says == "quiesce":
        return {"says": "quiesced", "guest": guest(h, word, True)}
    h["given"] = True
    if outcome(h) == "committed":
        return {"says": "given", **SENT, **stood(h)}
    if outcome(h) is None and "at_us" not in h:
        h["at_us"] = time.monotonic_ns() // 1000
        write(h, NAME, "stands")
    return None


def target(h, word):
    says = word["says"]
    if h.get("end") == "dropped":
        return {"says": "dropped", "reason": "cancelled", "sentence": "nothing of it is here"}
    if says == "drop" or (says == "settle" and not h.get("runs")):
        if h.get("runs") or write(h, "aborted") == "committed":
            return {"says": "running"} if h.get("runs") else None
        h["end"] = "dropped"
        return {"says": "dropped", "reason": word.get("reason", "cancelled"), "sentence": word.get("sentence", "")}
    if says == "offer":
        return {"says": "accepted"}
    if says == "inform":
        if "record" not in h:
            h["record"] = word["guest"]["loan"]["record"]
            threading.Thread(target=look, args=(h, {**word, "says": "stands"}), daemon=True).start()
        return {"says": "informed", "transfer": "/run/nowhere/transfer.sock"}
    if says == "stands" and not h.get("runs"):
        if write(h, "committed") != "committed":
            return None
        if h.get("dies"):
            return None
        h["runs"] = time.monotonic_ns() // 1000
        STATE["vms"][word["vm"]] = "running"
    if says == "status" and h.get("dies"):  # it is assigned by now
        write(h, "aborted", "returned")
        h["end"] = "dropped"
        return {"says": "dropped", "reason": "internal", "sentence": "its VMM died"}
    if h.get("runs"):
        return None if says == "settle" else {"says": "running", "at_us": h["runs"]}
    return None


def look(h, word):
    while not h.get("runs") and not h.get("end"):
        if os.path.exists(os.path.join(h["record"], "stands")):
            hear(word)
        time.sleep(0.05)


def hear(word):
    with LOCK:
        says = word["says"]
        STATE["heard"].append(word)
        do = STATE["do"].get(f"{says} {word['vm']}") or STATE["do"].get(says, {})
        if do.get("silent", 0) > 0:
            do["silent"] -= 1
            return 200, {"taken": True}
        if do.get("hangs"):
            return 0, says
        if "refuse" in do:
            return do["refuse"][0], {"code": do["refuse"][0], "reason": do["refuse"][1], "message": f"{says} is not for me"}
        h = STATE["handovers"].setdefault(word["handover"], {})
        h.update(do.get("set", {}))
        is_source = says in ("classify", "separate", "quiesce", "give", "finish", "abort")
        due = do["say"] if "say" in do else (source if is_source else target)(h, word)
        if due:
            due = {**due, "handover": word["handover"], "vm": word["vm"], "epoch": word["epoch"]}
    if due:
        threading.Thread(target=say, args=(due,), daemon=True).start()
    return 200, {"taken": True}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        n = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(n)) if n else None
        with LOCK:
            status, out = self.route(body)
            text = json.dumps(out).encode()
        if status == 0:
            self.hang(out)
            status = 500
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST = do_DELETE = answer

    def hang(self, says):
        """As long as it is to, and mete-sp waits."""
        with LOCK:
            STATE["hanging"] += 1
            STATE["most_hanging"] = max(STATE["most_hanging"], STATE["hanging"])
        while STATE["do"].get(says, {}).get("hangs"):
            if select.select([self.connection], [], [], 0.05)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                break
        with LOCK:
            STATE["hanging"] -= 1

    def route(self, body):
        path = self.path.split("?")[0]
        if path == "/v1/partition":
            refusal = STATE["do"].get("partition", {}).get("refuse")
            if self.command == "POST" and refusal:
                STATE["refused"] += 1
                return refusal[0], {"code": refusal[0], "reason": refusal[1], "message": "not now"}
            if self.command == "POST":
                STATE["partition"] = body
                STATE["partitions"].append(body)
            return 200, STATE["partition"]
        if path == "/v1/host":
            return 200, {"qemu": "7.2"}
        if path == "/v1/vms":
            return 200, {"vms": [{"name": n, "state": s} for n, s in sorted(STATE["vms"].items())]}
        if path.endswith("/move"):
            STATE["moves"].append(path)
            return 404, {"code": 404, "reason": "not-found", "message": "no such peer"}
        if path.startswith("/v1/vms/"):
            name = path.split("/")[3]
            if name in STATE["vms"]:
                return 200, {"name": name, "state": STATE["vms"][name]}
        if path == "/v1/handover/messages":
            return hear(body)
        if path == "/fake":
            if self.command == "POST":
                all_words = body.pop("say", [])
                threading.Thread(target=lambda: [say(word) for word in all_words], daemon=True).start()
                STATE.update(body)
            return 200, STATE
        return 404, {"code": 404, "reason": "not-found", "message": "there is no such thing"}

    def log_message(self, *_):
        pass

    def address_string(self):
        return "local"


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        pass  # mete-sp was killed in the middle of it

    def get_request(self):
        request, _ = super().get_request()
        return request, ("local", 0)


if os.path.exists(SOCKET):
    os.unlink(SOCKET)
with Server(SOCKET, Handler) as server:
    os.chmod(SOCKET, 0o666)
    server.serve_forever()

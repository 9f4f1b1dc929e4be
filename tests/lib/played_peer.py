# SPDX-License-Identifier: Apache-2.0
"""Another host that is none: it has a certificate of a peer, listens at an address of its own over TLS, and says what a test wants.

    with PlayedPeer(pki, "c", 2, hears) as c:      # the host that is tested is at address 0
        c.say({"says": "dropped", ...})            # [(status, what it was answered)]

hears(peer, word): the words that it answers one of a move with, each a dict, or None: not even over HTTP. reply() makes them."""
import contextlib
import http.client
import json
import socket
import socketserver
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler

from site_of_two import PORT, address

PLENTY = [{"kind": "cpu", "capacity": 8000, "free": 8000, "largest": 1000},
          {"kind": "memory", "capacity": 1 << 40, "free": 1 << 40, "largest": 1 << 40}]


def reply(word, says, **more):
    """What is said of the move that the word is about, from where it is."""
    return {"says": says, **{k: word[k] for k in ("move", "vm", "epoch", "attempt")}, **more}


class Handler(BaseHTTPRequestHandler):
    def answer(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()

    def do_GET(self):
        peer = self.server.peer
        self.answer({"name": peer.name, "version": "0", "api": 1, "qemu": "10.0.2", "accelerator": "tcg",
                     "now_ms": int(time.time() * 1000), "free": peer.free})

    def do_POST(self):
        peer = self.server.peer
        word = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        peer.heard.append(word)
        words = peer.hears(peer, word)
        if words is None:
            peer.stopping.wait()
            return
        self.answer({})
        with contextlib.suppress(OSError, http.client.HTTPException):  # it is away, or hung up on
            peer.say(*words)

    def log_message(self, *_):
        pass

    def address_string(self):
        return "a peer"


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def finish_request(self, request, client_address):
        request.settimeout(60)
        if self.peer.context is None:
            request.recv(65536)
            request.sendall(b"220 nobody is here\r\n")
            return
        with self.peer.context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def handle_error(self, *_):
        pass  # whom it does not please hangs up


class PlayedPeer:
    def __init__(self, pki, name, n, hears=lambda peer, word: [], files=None, has_tls=True):
        """files: certificate and key that it shows in place of its own; has_tls: else it speaks something else."""
        self.pki, self.name, self.n, self.hears = pki, name, n, hears
        self.free, self.heard, self.said = PLENTY, [], []
        self.stopping, self.context = threading.Event(), None
        if has_tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.minimum_version = ssl.TLSVersion.TLSv1_3
            self.context.load_cert_chain(*(files or (pki.file(f"{name}.crt"), pki.file(f"{name}.key"))))
            self.context.load_verify_locations(pki.file("ca.crt"))
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.server = Server((address(n), PORT), Handler)
        self.server.peer = self
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def say(self, *words):
        """[(status, answer)] to words, or to whatever bytes, one after another over one connection: who hears them has little time."""
        c = http.client.HTTPSConnection(address(0), PORT, timeout=60, context=self.pki.context(self.name),
                                        source_address=(address(self.n), 0))
        answers = []
        try:
            for word in words:
                c.request("POST", "/v1/peer/moves", word if isinstance(word, (str, bytes)) else json.dumps(word),
                          {"Content-Type": "application/json"})
                r = c.getresponse()
                answers.append((r.status, json.loads(r.read() or b"null")))
                self.said.append((word, *answers[-1]))
        finally:
            c.close()
        return answers

    def heard_of(self, move):
        """What it was told of a move, one word after another."""
        return [w["says"] for w in list(self.heard) if w["move"] == move]


class Sink:
    """A port at an address, for the memory of a VM: takes the connection, then nothing, or hangs up."""

    def __init__(self, n, hangs_up=False):
        self.listener = socket.create_server((address(n), 0))
        self.listener.settimeout(0.05)
        self.port, self.hangs_up, self.taken = self.listener.getsockname()[1], hangs_up, []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._take)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()
        self.listener.close()
        for s in self.taken:
            s.close()

    def _take(self):
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                s, _ = self.listener.accept()
                if self.hangs_up:
                    s.close()
                self.taken.append(s)

    def stream(self):
        """As a destination says it."""
        return {"port": self.port, "key": "0123456789abcdef" * 4}


def closed_port(n):
    """A stream to where nobody listens: a port that was somebody's a moment ago."""
    with socket.create_server((address(n), 0)) as s:
        return {"port": s.getsockname()[1], "key": "0123456789abcdef" * 4}

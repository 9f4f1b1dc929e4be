# SPDX-License-Identifier: Apache-2.0
"""A small blocking JSON-RPC 2.0 client: one object a line over a Unix stream socket, descriptors as SCM_RIGHTS.

It can also send what no well-behaved client would: raw bytes, wrong numbers of descriptors.
"""
import array
import json
import socket


class Refused(Exception):
    """An error object from the peer."""

    def __init__(self, error):
        super().__init__(error["message"])
        self.code = error["code"]
        self.reason = error.get("data", {}).get("reason")
        self.message = error["message"]


class Lost(Exception):
    """The peer closed the connection."""


class Client:
    def __init__(self, path, timeout_s=10):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect(path)
        self.rest = b""
        self.next_id = 1
        self.early = {}
        self.fds = []  # descriptors that came with answers, in order: whoever asks for them takes and closes them

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_raw(self, data, fds=()):
        """Bytes as they are; the descriptors go along with the first of them."""
        if fds:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]
            sent = self.sock.sendmsg([data], control)
            data = data[sent:]
        self.sock.sendall(data)

    def receive(self):
        """The next line from the peer, as an object."""
        while b"\n" not in self.rest:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, 65536, 16, socket.MSG_CMSG_CLOEXEC)
                self.fds += fds
            except ConnectionResetError:
                data = b""
            if not data:
                raise Lost()
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def begin(self, method, params=None, fds=(), fds_said=None):
        """Sends a request; returns its id. fds_said: how many descriptors the message claims to bring."""
        message = {"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params or {}}
        said = len(fds) if fds_said is None else fds_said
        if said:
            message["fds"] = said
        self.next_id += 1
        self.send_raw(json.dumps(message).encode() + b"\n", fds)
        return message["id"]

    def finish(self, wanted):
        """Waits for the answer to that request: its result, or Refused."""
        while wanted not in self.early:
            answer = self.receive()
            self.early[answer.get("id")] = answer
        answer = self.early.pop(wanted)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    def call(self, method, params=None, fds=(), fds_said=None):
        return self.finish(self.begin(method, params, fds, fds_said))

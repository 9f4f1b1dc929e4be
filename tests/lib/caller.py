# SPDX-License-Identifier: Apache-2.0
"""One TCP connection to the application `answers` of a guest (tests/guest/answers.c), which is asked again and again.

    with Caller(net.prefix, "10.9.9.2", 9000) as caller:    # net: a Network (netns.py)
        before = caller.state()
        ... the guest changes hypervisor ...
        caller.wait_for(before["asked"] + 10)               # answers to what was asked since
        assert caller.look() == {"wrong": 0, "pages": ...}
    caller.said                                             # the sum, each question answered

Up to AHEAD questions are under way at any time, so that some are whenever the guest stands. It is connected once: a connection
that is lost, an answer that is missing, comes twice or out of turn, or a count that goes back, is a sentence in "wrong"."""
import json
import os
import select
import socket
import subprocess
import sys
import time

AHEAD, EVERY_S, CONNECT_S, PATIENCE_S = 8, 0.005, 60, 120


class Caller:
    def __init__(self, prefix, address, port):
        self.argv = [*prefix, "/usr/bin/python3", "-B", os.path.abspath(__file__), address, str(port)]
        self.process, self.said = None, None

    def __enter__(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        up = self.process.stdout.readline()
        if up.strip() != "up":
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"no connection: {up!r}")
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.said = json.loads(self.process.stdout.readline() or "{}")
        self.process.stdout.close()
        self.process.wait()

    def _tell(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def state(self):
        said = self._tell("state")
        assert not said["wrong"], said
        return said

    def wait_for(self, answers, timeout_s=120):
        end = time.monotonic() + timeout_s
        while self.state()["answered"] < answers:
            assert time.monotonic() < end, f"{answers} answers do not come: {self.state()}"
            time.sleep(0.05)

    def look(self):
        """What the guest finds of its memory."""
        said = self._tell("look")
        assert not said["wrong"], said
        return said["look"]


class Asking:
    """The other end of a Caller."""

    def __init__(self, address, port):
        end = time.monotonic() + CONNECT_S
        while True:
            self.sock = socket.socket()
            try:
                self.sock.connect((address, port))
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.wrong = b"", []
        self.asked = self.answered = self.count = 0
        self.last, self.longest, self.looked = time.monotonic(), 0.0, None

    def ask(self, word="tick"):
        self.asked += 1
        try:
            self.sock.sendall(f"{self.asked} {word}\n".encode())
        except OSError as e:
            self.wrong.append(f"question {self.asked} could not be sent: {e}")

    def take(self, line):
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now
        words = line.split()
        self.answered += 1
        if len(words) != 4 or words[0] != str(self.answered):
            self.wrong.append(f"answer {self.answered} is {line!r}")
        elif words[1] == "look":
            self.looked = {"wrong": int(words[2]), "pages": int(words[3])}
        elif int(words[2]) < self.count:
            self.wrong.append(f"the count was {self.count}, and is {words[2]}")
        else:
            self.count = int(words[2])

    def hear(self, timeout_s):
        """What has come; waits for something for so long."""
        if self.wrong or not select.select([self.sock], [], [], timeout_s)[0]:
            return
        try:
            data = self.sock.recv(1 << 16)
        except OSError as e:
            self.wrong.append(f"the connection is lost: {e}")
            return
        if not data:
            self.wrong.append("the connection was closed")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            self.take(line.decode(errors="replace"))

    def drain(self):
        end = time.monotonic() + PATIENCE_S
        while self.answered < self.asked and not self.wrong:
            self.hear(1)
            if time.monotonic() > end:
                self.wrong.append(f"question {self.answered + 1} is not answered within {PATIENCE_S} s")

    def look(self):
        self.looked = None
        self.ask("look")
        self.drain()

    def said(self):
        return json.dumps({"asked": self.asked, "answered": self.answered, "wrong": self.wrong[:5], "look": self.looked,
                           "longest_ms": round(self.longest * 1000)})


def main(address, port):
    a = Asking(address, int(port))
    print("up", flush=True)
    while True:
        if select.select([0], [], [], 0)[0]:
            word = os.read(0, 64).decode().strip()  # one at a time: each is waited for
            if not word:
                break
            if word == "look":
                a.look()
            print(a.said(), flush=True)
        if a.asked - a.answered < AHEAD and not a.wrong:
            a.ask()
        a.hear(EVERY_S)
        time.sleep(EVERY_S)
    a.drain()
    print(a.said(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

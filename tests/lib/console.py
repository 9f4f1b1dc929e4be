# SPDX-License-Identifier: Apache-2.0
"""Drive the shell on a guest's serial console through the Unix socket of QEMU's chardev.

    with Console("…/console.sock") as c:
        c.wait_ready()
        status, text = c.run("nproc")
        c.start("redis", "redis-server --save ''")   # in the background
        assert c.run("mete run --need cpu:1 -- nproc") == (0, "1")

One command at a time a console. The guest's output is framed by marks that no command prints by
chance, so kernel messages before or after do no harm. The raw bytes are kept in .log.
From the shell: tests/lib/console.py SOCKET COMMAND...   (exit status and output are the command's)
"""
import re
import secrets
import shlex
import socket
import sys
import time


class ConsoleError(Exception):
    """The guest did not answer in time, or the console is gone."""


class Console:
    def __init__(self, path, timeout_s=30):
        """Connects; the socket may yet have to appear."""
        self.log, self._buffer, self._shell = b"", b"", False
        deadline = time.monotonic() + timeout_s
        while True:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._sock.connect(str(path))
                return
            except OSError as e:
                self._sock.close()
                if time.monotonic() > deadline:
                    raise ConsoleError(f"{path}: {e}") from None
                time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._sock.close()

    def _read_until(self, pattern, deadline):
        """Match of the pattern; what stands up to its end is consumed."""
        while True:
            m = re.search(pattern, self._buffer, re.S)
            if m:
                self._buffer = self._buffer[m.end():]
                return m
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConsoleError(f"no {pattern!r} in time; the console says: {self._buffer[-600:]!r}")
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(65536)
            except socket.timeout:
                continue
            if not data:
                raise ConsoleError(f"the console was closed; it said: {self._buffer[-600:]!r}")
            self.log += data
            self._buffer += data

    def wait_for(self, pattern, timeout_s=60):
        """Waits until the console prints the pattern (bytes, a regular expression)."""
        return self._read_until(pattern, time.monotonic() + timeout_s)

    def wait_ready(self, timeout_s=120):
        """Waits for the shell. Asks again and again: what was printed before this client came is lost."""
        deadline = time.monotonic() + timeout_s
        while not self._shell:
            mark = secrets.token_hex(4)
            self._sock.sendall(f"stty -echo; PS1=; PS2=; echo @'{mark}'@\n".encode())
            try:
                # The quotes are not in the answer, so an echo of the command is not taken for it.
                self._read_until(f"@{mark}@\r?\n".encode(), min(deadline, time.monotonic() + 1))
                self._shell = True
            except ConsoleError:
                if time.monotonic() >= deadline:
                    raise
        return self

    def run(self, command, timeout_s=180):
        """Runs it in a subshell of the guest; (exit status, output without the last newline)."""
        if not self._shell:
            self.wait_ready(timeout_s)
        mark = secrets.token_hex(8)
        # A subshell and eval of one quoted word: a syntax error, or an exit, ends these and not the frame. The terminal takes lines
        # of up to 4095 bytes, so a long one goes in pieces.
        script = f"(eval {shlex.quote(command)}) </dev/null 2>&1"
        if "\n" in script or len(script) > 3000:
            self._send_file(script, mark)
            script = f". /tmp/.console.{mark}; set -- $?; rm -f /tmp/.console.{mark}; (exit $1)"
        self._sock.sendall(f"echo @'{mark}'@; {script}; set -- $?; echo; echo @'{mark}'=$1\n".encode())
        m = self._read_until(f"@{mark}@\r?\n(.*?)\r?\n?\r?\n@{mark}=([0-9]+)\r?\n".encode(),
                             time.monotonic() + timeout_s)
        return int(m.group(2)), m.group(1).decode("utf-8", "replace").replace("\r\n", "\n").rstrip("\n")

    def _send_file(self, text, mark):
        path = f"/tmp/.console.{mark}"
        octal = "".join(f"\\{b:03o}" if not (32 <= b < 127) or b in b"\\'%" else chr(b) for b in text.encode())
        pieces = re.findall(r"(?:\\\d{3}|[^\\]){1,600}", octal)
        for i, piece in enumerate(pieces):
            self._sock.sendall(f"printf '{piece}' >{'>' if i else ''}{path}\n".encode())

    def check(self, command, timeout_s=180):
        """As run(), but only the output; a failure raises."""
        status, text = self.run(command, timeout_s)
        if status:
            raise ConsoleError(f"{command}: exit {status}: {text}")
        return text

    def start(self, name, command):
        """Runs it in the background: its pid. result(name) has its exit status and output."""
        script = f"( {command}\n) >/tmp/{name}.out 2>&1; echo $? >/tmp/{name}.status"
        quoted = shlex.quote(script)
        return int(self.check(f"rm -f /tmp/{name}.status; setsid sh -c {quoted} </dev/null >/dev/null 2>&1 & echo $!"))

    def result(self, name, timeout_s=60):
        """Waits for the end of what start() began; (exit status, output)."""
        deadline = time.monotonic() + timeout_s
        while True:
            status, text = self.run(f"cat /tmp/{name}.status 2>/dev/null")
            if status == 0 and text:
                return int(text), self.run(f"cat /tmp/{name}.out")[1]
            if time.monotonic() > deadline:
                raise ConsoleError(f"{name} did not end; so far: {self.run(f'cat /tmp/{name}.out')[1][-600:]}")
            time.sleep(0.1)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with Console(sys.argv[1]) as console:
        code, out = console.run(" ".join(sys.argv[2:]), timeout_s=600)
    print(out)
    sys.exit(code)

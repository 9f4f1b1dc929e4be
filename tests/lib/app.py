# SPDX-License-Identifier: Apache-2.0
"""An application in a guest that speaks to the agent, or whoever listens at a path, in raw lines.

    app = App(vm, "a")                      # a process of its own, with a pid in the guest
    verdict = app.call("request", {"needs": ["cpu:1"]})
    app.kill()                              # SIGKILL
"""
import json
import shlex
import time

AGENT = "/run/mete/agent.sock"


class AppError(Exception):
    """The other side refused: .code, .reason, .message; or did not answer."""

    def __init__(self, error):
        super().__init__(str(error))
        self.code = error.get("code")
        self.message = error.get("message")
        self.reason = (error.get("data") or {}).get("reason")


class App:
    def __init__(self, vm, name, path=AGENT, user=None, stay=False):
        """stay: it lives on when the agent hangs up."""
        self.vm, self.name, self._id, self._seen, self._closed = vm, name, 0, 0, False
        base = f"/tmp/app-{name}"
        command = f"sock {shlex.quote(path)}{' stay' if stay else ''}"
        if user:
            command = f"su {user} -s /bin/sh -c {shlex.quote('exec ' + command)}"
        self.vm.check(f"rm -f {base}.*; mkfifo {base}.in")
        # A sleeping process holds the input open: every command of the console has a shell of its own.
        pids = self.vm.check(f"{command} <{base}.in >{base}.out 2>{base}.err & echo $!; sleep 100000 >{base}.in & echo $!")
        self.pid, self._holder = (int(pid) for pid in pids.split()[-2:])
        self.input, self._out = f"{base}.in", f"{base}.out"

    def send(self, message):
        """One line; text as it is, anything else as JSON."""
        text = message if isinstance(message, str) else json.dumps(message)
        self.vm.check(f"printf '%s\\n' {shlex.quote(text)} >{self.input}")

    def lines(self):
        """All that was received so far."""
        return [line for line in self.vm.run(f"cat {self._out}")[1].splitlines() if line]

    def receive(self, timeout_s=30, want=lambda message: True):
        """The next message that is wanted; others before it are passed over."""
        deadline = time.monotonic() + timeout_s
        while True:
            lines = self.lines()
            for at in range(self._seen, len(lines)):
                message = json.loads(lines[at])
                if want(message):
                    self._seen = at + 1
                    return message
            if time.monotonic() > deadline:
                raise AppError({"message": f"no answer in {timeout_s} s; received: {lines[-3:]}"})
            time.sleep(0.05)

    def start(self, method, params=None):
        """Sends a request; its id for answer()."""
        self._id += 1
        self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params or {}})
        return self._id

    def answer(self, number, timeout_s=30):
        message = self.receive(timeout_s, lambda m: m.get("id") == number)
        if "error" in message:
            raise AppError(message["error"])
        return message["result"]

    def call(self, method, params=None, timeout_s=30):
        return self.answer(self.start(method, params), timeout_s)

    def kill(self):
        """SIGKILL, as the kernel would do it to a process that ran out of memory."""
        self.vm.run(f"kill -9 {self.pid}")
        self.close()

    def close(self):
        """The process ends, if it has not yet, and its socket with it."""
        if not self._closed:
            self._closed = True
            self.vm.run(f"kill {self.pid} {self._holder} 2>/dev/null")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

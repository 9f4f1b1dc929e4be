# SPDX-License-Identifier: Apache-2.0
"""A server whose hypervisors are fake_meted.py; mete-sp and mete are real."""
import json
import os
import shutil
import subprocess

from host import HostError, wait_for
from server import Server

USERS = {"a": "nobody", "b": "daemon"}


class FakeServer(Server):
    def __enter__(self):
        try:
            self.prepare()
            self.start_sp()
        except BaseException:
            self.close()
            raise
        return self

    def prepare(self):
        super().prepare()
        os.unlink(self.path("bin", "meted"))
        shutil.copy(os.path.join(os.path.dirname(__file__), "fake_meted.py"), self.path("bin", "meted"))
        os.chmod(self.path("bin", "meted"), 0o755)

    def start(self, *names):
        """With as many records as it may need, each as the keeper makes them."""
        super().start(*names)
        for name in names:
            records = [self.path("keeper", "handover", f"{ord(name):02x}{i:02x}", "record") for i in range(100)]
            for path in records:
                os.makedirs(path)
                os.chmod(path, 0o1777)
            self.fake(name, records=records)

    def _meteds(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
            except OSError:
                continue
            if self.path("bin", "meted").encode() in words[1:3]:
                found.append(int(pid))
        return found

    def _curl(self, socket, method, path, body, user=None):
        as_user = ["setpriv", "--reuid", user, "--clear-groups", "--"] if user else []
        data = ["-H", "Content-Type: application/json", "-d", "@-"] if body is not None else []
        p = subprocess.run(as_user + ["curl", "-sS", "-X", method, "--unix-socket", socket, f"http://x{path}", *data],
                           input=json.dumps(body) if body is not None else None, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, timeout=60)
        if p.returncode != 0:
            raise HostError(f"{path}: {p.stderr}")
        return json.loads(p.stdout)

    def fake(self, name, **what):
        """Its state; with words, changed by them."""
        return self._curl(self.path("sprun", name, "meted.sock"), "POST" if what else "GET", "/fake", what or None)

    def words_socket(self, name):
        return self.path("sprun", f"{name}.words.sock")

    def word(self, name, word, path="/v1/handover/messages", method="POST", at=None):
        """What mete-sp answers to it, said as that hypervisor's user."""
        return self._curl(at or self.words_socket(name), method, path, word, USERS[name])

    def handover(self, *args, check=True, timeout_s=180):
        p = subprocess.run([self.path("bin", "mete"), "handover", *args, "--socket", self.sp_socket],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           timeout=timeout_s, env=self._environment({}))
        if check and p.returncode != 0:
            raise HostError(f"mete handover {' '.join(args)}: exit {p.returncode}: {p.stdout} {p.stderr}")
        return p

    def begin_handover(self, *args):
        return subprocess.Popen([self.path("bin", "mete"), "handover", *args, "--socket", self.sp_socket], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self._environment({}))

    def hand_over(self, *args):
        return json.loads(self.handover(*args, "--json").stdout)

    def ended(self, handover):
        def over():
            h = json.loads(self.handover("show", handover, "--json").stdout)
            return h if h.get("ended_ms") else None
        return wait_for(f"{handover} has ended", over, 120)

    def all_run(self):
        wait_for("all run", lambda: all(h["state"] == "running" for h in self.show()["hypervisors"]), 60)

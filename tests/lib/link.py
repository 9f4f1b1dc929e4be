# SPDX-License-Identifier: Apache-2.0
"""A link of a given rate between two hosts, each in a network namespace of its own, with a switch between them.

      a: up0 ==== port0 [ br0 of the wire ] port1 ==== up0 :b

    with Link(mbit=400) as link:
        link.a, link.b           # words before a command that is to run at that end
        link.address("a")        # its address
        link.cut(), link.slow(10), link.silence(), link.mend()

The rate is a token bucket at both ports of the wire, as a switch has it: what the hosts do with their own ends is theirs.
Faults are given to programs that are there already and read line by line, so that they act within a millisecond or so.
It goes with its last process; nothing of the machine's own network is touched.
"""
import os
import re
import shutil
import subprocess
import time

from netns import CONFIG, CannotRun

ADDRESS = {"a": "10.77.0.1", "b": "10.77.0.2"}
BURST_BYTES = 1 << 17
QUEUE_BYTES = 1 << 18  # more than a stream has on its way, so that nothing gets lost by itself


class Namespace:
    """An empty network namespace, for as long as this is there."""

    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        mine, end = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
        self.path = f"/proc/{self.holder.pid}/ns/net"
        while self._is(mine):
            if self.holder.poll() is not None:
                raise CannotRun(f"no network namespace: {self.holder.stderr.read().decode().strip()}")
            if time.monotonic() > end:
                self.close()
                raise CannotRun("no network namespace within 10 s")
            time.sleep(0.01)
        self.prefix = ["nsenter", f"--net={self.path}", "--"]
        self.run("ip", "link", "set", "lo", "up")

    def _is(self, mine):
        try:
            return os.readlink(self.path) == mine
        except OSError:
            return True

    def run(self, *argv):
        done = subprocess.run([*self.prefix, *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def close(self):
        self.holder.kill()
        self.holder.wait()
        self.holder.stderr.close()


class Uplink:
    """One end of a link as its host's keeper manages it: a bridge with the uplink in it (see Network in netns.py)."""

    def __init__(self, space, address, mbit):
        self.prefix, self.rate, self.run = space.prefix, f"{mbit}M", space.run
        for command in ("ip link add br0 type bridge", f"ip addr del {address}/24 dev up0", "ip link set up0 master br0",
                        f"ip addr add {address}/24 dev br0", "ip link set br0 up"):
            self.run(*command.split())

    def config(self):
        return CONFIG.format(rate=self.rate)

    def classes(self):
        """{class: rate} as tc says them"""
        return dict(re.findall(r"class htb (\S+).*? rate (\S+)", self.run("tc", "class", "show", "dev", "up0")))


class Link:
    def __init__(self, mbit=1000):
        self.mbit = mbit
        self.spaces, self.tools = {}, {}

    def __enter__(self):
        for program in ("ip", "tc", "bridge", "unshare", "nsenter"):
            if shutil.which(program) is None:
                raise CannotRun(f"no {program}")
        try:
            for name in ("a", "b", "wire"):
                self.spaces[name] = Namespace()
            wire = self.spaces["wire"]
            wire.run("ip", "link", "add", "br0", "type", "bridge")
            wire.run("ip", "link", "set", "br0", "up")
            for i, name in enumerate("ab"):
                host = self.spaces[name]
                wire.run("ip", "link", "add", f"port{i}", "type", "veth", "peer", "name", "up0", "netns", str(host.holder.pid))
                wire.run("ip", "link", "set", f"port{i}", "master", "br0", "up")
                host.run("ip", "addr", "add", f"{ADDRESS[name]}/24", "dev", "up0")
                host.run("ip", "link", "set", "up0", "up")
            try:
                self._each("add", self.mbit)
            except RuntimeError as e:
                raise CannotRun(f"this kernel has no tbf: {e}") from None
            for tool in ("ip", "tc", "bridge"):
                self.tools[tool] = subprocess.Popen([*wire.prefix, tool, "-force", "-batch", "-"], stdin=subprocess.PIPE, text=True,
                                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for tool in self.tools.values():
            tool.stdin.close()
            tool.wait()
            tool.stderr.close()
        for space in self.spaces.values():
            space.close()

    @property
    def a(self):
        return self.spaces["a"].prefix

    @property
    def b(self):
        return self.spaces["b"].prefix

    def uplink(self, name, mbit):
        """That end as its host is to manage it, at that rate: somewhat less than the wire has, or that is where it is full."""
        return Uplink(self.spaces[name], ADDRESS[name], mbit)

    def _each(self, verb, mbit):
        for i in (0, 1):
            self.spaces["wire"].run("tc", *self._bucket(verb, i, mbit))

    def _bucket(self, verb, port, mbit):
        return f"qdisc {verb} dev port{port} root tbf rate {mbit}mbit burst {BURST_BYTES} limit {QUEUE_BYTES}".split()

    def _tell(self, tool, *lines):
        self.tools[tool].stdin.write("".join(line + "\n" for line in lines))
        self.tools[tool].stdin.flush()

    def set_rate(self, mbit):
        """Another rate from now on; the link is as it was otherwise."""
        self.mbit = mbit
        self._each("change", mbit)

    def cut(self):
        """Both ends lose their carrier."""
        self._tell("ip", "link set port0 down", "link set port1 down")

    def slow(self, by):
        """That many times slower."""
        self._tell("tc", *(" ".join(self._bucket("change", i, self.mbit / by)) for i in (0, 1)))

    def silence(self):
        """Nothing gets through, and nobody is told."""
        self._tell("bridge", "link set dev port0 state 0", "link set dev port1 state 0")

    def mend(self):
        """After all of these."""
        self._tell("bridge", "link set dev port0 state 3", "link set dev port1 state 3")
        self._tell("ip", "link set port0 up", "link set port1 up")
        self.slow(1)

# SPDX-License-Identifier: Apache-2.0
"""A network of its own for a test: a namespace with a bridge br0 and an uplink up0, whose other end is up1.

      br0 ---- up0 ==== up1 (the world)
       `------ mete-N, the taps of VMs

    with Network() as net:
        keeper = subprocess.Popen([*net.prefix, ...])
        before = net.state()

It goes with its last process; nothing of the machine's own network is touched.
"""
import os
import re
import shutil
import subprocess
import time

CONFIG = "[net]\nmanage=yes\nbridge=br0\nuplink=up0\nrate={rate}\n"


class CannotRun(Exception):
    """This machine cannot have it; the text says what is missing."""


class Network:
    def __init__(self, rate="1G"):
        self.rate = rate
        self.holder = None

    def __enter__(self):
        for program in ("ip", "tc", "unshare", "nsenter"):
            if shutil.which(program) is None:
                raise CannotRun(f"no {program}")
        if not os.path.exists("/dev/net/tun"):
            raise CannotRun("no /dev/net/tun")
        mine = os.readlink("/proc/self/ns/net")
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE)
        end = time.monotonic() + 10
        try:
            while self._namespace() == mine:
                if self.holder.poll() is not None:
                    raise CannotRun(f"no network namespace: {self.holder.stderr.read().decode().strip()}")
                if time.monotonic() > end:
                    raise CannotRun("no network namespace within 10 s")
                time.sleep(0.01)
            self.prefix = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--"]
            for command in ("ip link set lo up", "ip link add br0 type bridge", "ip link add up0 type veth peer name up1",
                            "ip link set up0 master br0 up", "ip link set up1 up", "ip link set br0 up"):
                self.run(*command.split())
            # The world answers for its own address, not the bridge for it: both are in one namespace.
            self.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore")
            for what in ("htb", "ifb"):
                self._try(what)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.holder.kill()
        self.holder.wait()
        self.holder.stderr.close()

    def _namespace(self):
        try:
            return os.readlink(f"/proc/{self.holder.pid}/ns/net")
        except OSError:
            return os.readlink("/proc/self/ns/net")

    def _try(self, what):
        """The keeper says so itself; here it is asked whether there is anything to test."""
        make = {"htb": "tc qdisc add dev lo root handle 9: htb", "ifb": "ip link add probe0 type ifb"}[what]
        back = {"htb": "tc qdisc del dev lo root", "ifb": "ip link del probe0"}[what]
        try:
            self.run(*make.split())
            self.run(*back.split())
        except RuntimeError as e:
            raise CannotRun(f"this kernel has no {what}: {e}") from None

    def config(self):
        """The section of keeper.conf."""
        return CONFIG.format(rate=self.rate)

    def run(self, *argv):
        """Output of a command in there."""
        done = subprocess.run([*self.prefix, *argv], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def links(self):
        return sorted(re.findall(r"^\d+: ([^:@]+)", self.run("ip", "-o", "link"), re.M))

    def classes(self, link):
        """{class: (rate, ceiling)} as tc says them"""
        found = re.findall(r"class htb (\S+).*? rate (\S+) ceil (\S+)", self.run("tc", "class", "show", "dev", link))
        return {name: (rate, ceiling) for name, rate, ceiling in found}

    def state(self):
        """Every interface, queueing discipline, class and filter, without figures and numbers of the kernel's choice."""
        qdiscs = re.sub(r" (refcnt|direct_packets_stat) \d+", "", self.run("tc", "qdisc", "show"))
        found = {"links": self.links(), "qdiscs": sorted(qdiscs.splitlines())}
        for link in found["links"]:
            found[f"classes of {link}"] = sorted(self.run("tc", "class", "show", "dev", link).splitlines())
            if "ingress" in " ".join(q for q in found["qdiscs"] if f"dev {link} " in q):
                # a program has another id each time that it is loaded, and an action another index
                text = re.sub(r" id \d+ .*|\tindex \d+ ref .*", "", self.run("tc", "filter", "show", "dev", link, "ingress"))
                found[f"filters of {link}"] = text.splitlines()
        return found

# SPDX-License-Identifier: Apache-2.0
"""Two whole hosts with a shaped link between them (link.py): each in a namespace of its own, and with a CPU of its own."""
import contextlib
import json
import os
import shutil
import tempfile

from host import Host, HostError, wait_for
from link import ADDRESS, Link
from qemu10 import qemu10
from seen_move import OutsideQemu
from site_of_two import Pki, Site


class LinkedSite(Site):
    def usual(self, host):
        self.peers(host, a={"address": ADDRESS["a"], "pin": self.pki.show("a")["pin"]},
                   b={"address": ADDRESS["b"], "pin": self.pki.show("b")["pin"]})


class LinkedHosts:
    """.a, .b: hosts; .link; .outside: for each, the monitors beside mete's."""

    def __init__(self, mbit=1000, memory="3G", build=None, extra="", uplink_mbit=None, managed="a"):
        """uplink_mbit: the keepers of the managed ones manage their ends of the link, at that rate."""
        self.managed = managed if uplink_mbit else ""
        self.mbit, self.memory, self.build, self.extra, self.uplink_mbit = mbit, memory, build, extra, uplink_mbit
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            qemu = qemu10()
            base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
            stack.callback(shutil.rmtree, base)
            os.chmod(base, 0o755)
            self.link = stack.enter_context(Link(self.mbit))
            pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={ADDRESS['a']}", "--hypervisor", f"b={ADDRESS['b']}")
            uplinks = {name: self.link.uplink(name, self.uplink_mbit) for name in self.managed}
            self.outside = {name: OutsideQemu(qemu, base) for name in "ab"}
            self.a, self.b = (Host(memory=self.memory, title=name, cpu_overcommit=4, qemu=self.outside[name].program, cpus=str(n),
                                   inside=self.link.spaces[name].prefix, net=uplinks.get(name), build=self.build, extra=self._config(pki, name))
                              for n, name in enumerate("ab"))
            self.site = LinkedSite(pki, self.a, self.b)
            for host in (self.a, self.b):
                self.site.usual(host)
                stack.enter_context(host)
            self.wait_linked()
            self.stack = stack.pop_all()
        return self

    def _config(self, pki, name):
        return (f"[listen]\ntls={ADDRESS[name]}\ncert={pki.file(name + '.crt')}\nkey={pki.file(name + '.key')}\n"
                f"ca={pki.file('ca.crt')}\npeers={pki.file(f'peers-{name}.conf')}\nhello=200ms\n[move]\nrate={self.uplink_mbit or self.mbit}M\n{self.extra}")

    def __exit__(self, *_):
        self.stack.close()

    def wait_linked(self, timeout_s=60):
        for host, name in ((self.a, "b"), (self.b, "a")):
            wait_for(f"{name} is reachable", lambda h=host, n=name: (self.site.peer(h, n) or {}).get("reachable"), timeout_s)

    def set_rate(self, mbit):
        """Another link: the hosts are told by their configuration."""
        if mbit == self.mbit:
            return
        self.mbit = mbit
        self.link.set_rate(mbit)
        for host in (self.a, self.b):
            host.kill_meted(15)
            host.extra = "".join(f"rate={mbit}M\n" if line.startswith("rate=") else line + "\n" for line in host.extra.splitlines())
            host.write_config()
            host.start_meted()
        self.wait_linked()

    def show(self, host, move):
        """What a host says of a move, or None."""
        status, text = host.http("GET", f"/v1/moves/{move}")
        return json.loads(text) if status == 200 else None

    def move(self, name, move, level):
        """Asks a to move a VM to b; what it has decided."""
        words = [w for k, option in (("total_ms", "--max-time"), ("downtime_ms", "--max-downtime")) if level.get(k)
                 for w in (option, f"{level[k]}ms")]
        return self._said(self.a.mete("move", name, "--to", "b", "--id", move, *words, "--json", check=False))

    def accept(self, move, level):
        """Takes what was offered."""
        words = [w for k, option in (("total_ms", "--max-time"), ("downtime_ms", "--max-downtime")) if level.get(k)
                 for w in (option, f"{level[k]}ms")]
        return self._said(self.a.mete("move", "accept", move, *words, "--json", check=False))

    @staticmethod
    def _said(p):
        if not p.stdout:
            raise HostError(p.stderr.strip())
        return json.loads(p.stdout)

    def wait_over(self, move, timeout_s):
        """Until neither side has anything to do for it any more; (source's, destination's)"""
        def over():
            said = self.show(self.a, move), self.show(self.b, move)
            return said if all(s is None or "ended_ms" in s or s["state"] == "countered" for s in said) else None
        try:
            return wait_for("", over, timeout_s, 0.2)
        except HostError:
            raise HostError(f"move {move} is not over after {timeout_s} s: {(self.show(self.a, move), self.show(self.b, move))}") from None

    def left(self):
        """What is left in the ledgers, though no VM is."""
        return [f"{n}: {c['holder']} has {c['component']}" for n, h in (("a", self.a), ("b", self.b)) for c in h.claims()]

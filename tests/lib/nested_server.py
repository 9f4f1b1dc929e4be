# SPDX-License-Identifier: Apache-2.0
"""A server with two hypervisors in a nested host: mete-sp, one keeper, and the meteds that mete-sp starts.

    with NestedServer(smp=4, memory="3G", nodes=2) as s:
        s.start_server("a:cpus=0-1,memory=512M,keep=memory:node0", "b:node=1")
        vm = s.hypervisors["a"].vm("v", memory="256M..256M")
        s.hand_over(vm, "b")
"""
import json
import re
import shlex

from nested import NestedError, NestedHost, NestedVm, parse_numa_maps

USERS = ("mete-a", "mete-b")
IMAGES = "/var/lib/mete/images"
FAULTS = "/run/faults/next"
TRIES = 5
LATER = 75  # exit status: it may do another time


class NestedServer(NestedHost):
    """meted is the one of the debug build, so that fault() can say where something happens to it."""

    def __init__(self, **options):
        super().__init__(debug=("meted",), **options)
        self.hypervisors, self.sp_pid = {}, None

    def start_server(self, *parts):
        """Each part gets a user of its own; its hypervisor is started."""
        self.start_keeper(meted_user=";".join(USERS))
        self.check("mkdir -p /var/lib/mete-sp /run/mete-sp && mkdir -m 777 -p /run/faults")
        self.check("echo 28 >/proc/sys/vm/mmap_rnd_bits")  # with more the sanitizers of older compilers find no room for theirs
        self.write("/etc/mete/hypervisor.conf", f"[meted]\nsocket_mode=0666\n[vm]\nimage_dir={IMAGES}\n[limits]\nverify=0s\n")
        self.write("/etc/mete/sp.conf", "[sp]\nname=nested\nsocket_mode=0666\nmeted=/usr/bin/meted\n[host]\nreserve=512M\n")
        self.sp_pid = self.background(f"env METE_FAULTS={FAULTS} mete-sp --config /etc/mete/sp.conf", "/var/log/sp.log")
        self._wait_up(self.sp_pid, "sp", "test -S /run/mete-sp/sp.sock")
        words = [w for part, user in zip(parts, USERS) for w in ("--hypervisor", f"{part},user={user}")]
        self.server("init", *words)
        for part in parts:
            name = part.partition(":")[0]
            self.server("start", name)
            self.hypervisors[name] = NestedHypervisor(self, name)

    def fault(self, text):
        """What a meted is to do at a step (src/meted/crash.h): "half way ram hold". None does so any more: ""."""
        if text:
            self.check(f"echo {shlex.quote(text)} >{FAULTS}.tmp && chmod 666 {FAULTS}.tmp && mv {FAULTS}.tmp {FAULTS}")
        else:
            self.check(f"rm -f {FAULTS} {FAULTS}.held")

    def wait_for_held(self):
        self.wait_for("a meted holds at the step", f"[ -e {FAULTS}.held ]", 300)

    def let_go(self):
        self.check(f"rm -f {FAULTS}.held")

    def server(self, *words, timeout_s=180):
        return self.ask("server", *words, timeout_s=timeout_s)

    def ask(self, *words, timeout_s=180):
        status, text = self.run("mete " + " ".join(map(shlex.quote, [*words, "--socket", "/run/mete-sp/sp.sock"])), timeout_s)
        if status:
            raise NestedError(f"mete {' '.join(words)}: exit {status}: {text}\n{self.log('sp')[-2000:]}\n{self.log('keeper')[-1500:]}")
        return text

    def managers(self):
        """{component: {hypervisor: amount}}"""
        shown = json.loads(self.server("show", "--json"))
        return {r["id"]: {h["hypervisor"]: h["amount"] for h in r["holders"]} for r in shown["resources"]}

    def hand_over(self, vm, to, *words):
        """The handover as it ended; the exit status does not count."""
        words = ["handover", vm.name, "--to", to, "--wait", "--json", *words]
        _, text = self.run("mete " + " ".join(map(shlex.quote, [*words, "--socket", "/run/mete-sp/sp.sock"])), 700)
        try:
            said = json.loads(text)
        except ValueError:
            raise NestedError(f"mete {' '.join(words)}: {text}\n{self.log('sp')[-3000:]}") from None
        if said["state"] == "running-on-target":
            vm.goes_to(to)
        return said

    def hand_over_at_last(self, vm, to, *words):
        """Once more where something was not ready in time: CPUs are emulated, and the host may be busy. (as the last one ended,
        how many bytes were moved before, of all of them)"""
        separated = 0
        for _ in range(TRIES):
            said = self.hand_over(vm, to, *words)
            separated += said.get("separated_bytes", 0)
            if said.get("reason") != "timeout":
                break
        return said, separated

    def state(self, handover):
        return json.loads(self.ask("handover", "show", handover, "--json"))

    def pid_of(self, hypervisor):
        """Of its meted."""
        shown = json.loads(self.server("show", "--json"))
        return next(h["pid"] for h in shown["hypervisors"] if h["name"] == hypervisor)

    def handover(self, name):
        """What `mete handover show` says of it to people."""
        return self.ask("handover", "show", name)


class NestedHypervisor:
    """One of them: mete, vm() and the like speak to its meted, all else to the host."""

    def __init__(self, server, name):
        self.server, self.name, self.vms = server, name, {}
        self.fills, self.numbers = {}, 0

    def __getattr__(self, what):
        return getattr(self.server, what)

    def mete(self, *words, timeout_s=120):
        words = [*words, "--socket", f"/run/mete-sp/{self.name}/meted.sock"]
        return self.server.run("mete " + " ".join(map(shlex.quote, words)), timeout_s)

    def mete_check(self, *words, timeout_s=120):
        status, text = self.mete(*words, timeout_s=timeout_s)
        if status:
            raise NestedError(f"mete {' '.join(words)} at {self.name}: exit {status}: {text}\n{self.server.log('sp')[-2000:]}")
        return text

    def mete_json(self, *words):
        return json.loads(self.mete_check(*words, "--json"))

    def claims(self, holder):
        """{component: amount} of its memory."""
        found = {}
        for c in self.mete_json("ledger")["claims"]:
            if c["holder"] == holder and c["component"].startswith("memory:"):
                found[c["component"]] = found.get(c["component"], 0) + c["amount"]
        return found

    def free(self, node):
        components = self.mete_json("host", "show")["components"]
        return next((c["free"] for c in components if c["id"] == f"memory:node{node}"), 0)

    def fill(self, node, left):
        """A reservation that leaves so much of the node's memory free, until empty()."""
        self.numbers += 1
        self.fills[node] = f"fill{self.numbers}"
        self.mete_check("reserve", self.fills[node], "--need", f"memory:{(self.free(node) - left) >> 20}M,node={node}")

    def empty(self, node):
        if node in self.fills:
            self.mete_check("unreserve", self.fills.pop(node))

    def vm(self, name, append, **options):
        options = {"cpus": "1..1", "share": "0.1", **options}
        self.mete_check("vm", "create", name, *(f"--{k}={v}" for k, v in options.items()), "--kernel=payload.elf", f"--append={append}")
        vm = self.vms[name] = ServedVm(self, name)
        for left in reversed(range(TRIES)):  # as hand_over_at_last()
            status, text = self.mete("vm", "start", name)
            if status == 0:
                break
            if not left or status != LATER:
                raise NestedError(f"mete vm start {name} at {self.name}: exit {status}: {text}\n{self.server.log('sp')[-2000:]}")
        vm.find()
        return vm

    def end_vms(self):
        for name in list(self.vms):
            self.mete("vm", "kill", name)
            self.mete_check("vm", "delete", name)
            del self.vms[name]


class ServedVm(NestedVm):
    def goes_to(self, hypervisor):
        """It runs there now."""
        server = self.host.server
        self.host.vms.pop(self.name)
        self.host = server.hypervisors[hypervisor]
        self.host.vms[self.name] = self
        self.find()

    def find(self):
        """Its RAM file, by the kernel's own words: which user's folder it is in depends on its hypervisor."""
        maps = self.host.check(f"grep -E 'file=/dev/shm/mete/[^/ ]*{re.escape(self.name)}/ram0' /proc/{self.pid()}/numa_maps")
        self.ram = parse_numa_maps(maps)[0].path

    def lies_in(self, begin, end):
        """{node: bytes} of what is there of that part of its memory."""
        text = self.host.check(f"nested-tool nodes {self.ram} {begin} {end}", 300)
        return {int(node): int(n) for node, n in (line.split() for line in text.splitlines())}

    def inode(self):
        return self.host.check(f"stat -c %d:%i {self.ram}").strip()

# SPDX-License-Identifier: Apache-2.0
"""What it costs to tell guests of their host: how late an application hears of a change, how much is sent, and what
one more guest that listens costs."""
import json
import os
import re
import selectors
import socket
import statistics
import time

import payload
from host import HostError, Vm, wait_for
from in_guest import SOCKET, new_host
from result import Skip, at_most

TELLINGS = 40
BETWEEN_S = 0.2  # more than the pause between two messages (TELLING_PAUSE_MS), so that it is not what is measured
CROWD = 300
FEW = 10
CHANGES = 20
# Three machines of which only two CPUs may be given away, as this one has no more: the guest is told of all of them.
MACHINES = {16: "pack:1 [NUMANode(memory=64GiB)] l3:1 core:8 pu:2",
            192: "pack:2 [NUMANode(memory=384GiB)] l3:6 core:8 pu:2",
            1024: "pack:8 [NUMANode(memory=512GiB)] l3:8 core:8 pu:2"}


def told_of(h, name):
    """The text of each message that this VM's agent has taken."""
    return [e["text"] for e in h.events(name) if e["event"] == "hhi-told"]


def counter(h, name):
    _, text = h.http("GET", "/metrics")
    return int(float(re.search(rf"^mete_hhi_{name}_total (\S+)", text, re.M).group(1)))


def change(h, i):
    """What any guest of the host sees: less is free where i is even, and as much as before where it is the next."""
    if i % 2 == 0:
        h.mete("reserve", f"r{i}", "--need", "cpu:1,share>=0.1", "--need", "memory:128M")
    else:
        h.mete("unreserve", f"r{i - 1}")


# ---- how late

def told(report, rounds):
    times, echoes = [], []
    with new_host() as h:
        vm = h.vm("bench", cpus="1..2", memory="512M..1G", share="0.5")
        wait_for("the guest was told", lambda: told_of(h, "bench"), 60, 0.1)
        console, api = vm.console, h.http
        console.start("told", f"exec bench-guest told {SOCKET} >/dev/console")
        console.wait_for(rb"told \d+\r?\n", 30)
        for i in range(rounds or TELLINGS):
            time.sleep(BETWEEN_S)
            began = time.monotonic()
            if i % 2 == 0:
                status, text = api("POST", "/v1/reservations", {"id": f"r{i}", "needs": ["memory:128M"]})
            else:
                status, text = api("DELETE", f"/v1/reservations/r{i - 1}")
            if status != 200:
                raise HostError(f"{status} {text}")
            console.wait_for(rb"told \d+\r?\n", 30)
            times.append((time.monotonic() - began) * 1000)
        console.run("kill $(pidof bench-guest)")
        for _ in range(len(times)):
            began = time.monotonic()
            console.check(":")
            echoes.append((time.monotonic() - began) * 1000)
        accel = vm.show()["accelerator"]
    method = ("from the request to the API that changes what is free, its commit included, until an application in the guest has "
              "written on the serial console what the agent told it; beside it a command of the shell on that console that does nothing")
    for percent in (50, 95):
        report.figure(f"hhi_told_p{percent}_ms", times, "ms", at_most(100), {"console_ms": (echoes, "ms")}, method, accel,
                      value=statistics.quantiles(times, n=100, method="inclusive")[percent - 1], digits=1)


# ---- how much

def sizes(report, _rounds):
    found = {}
    for cpus, source in MACHINES.items():
        with new_host(source=f"synthetic:{source}", cpus="0-1") as h:
            h.vm("bench", cpus="1..2", memory="512M..1G", share="0.5")
            wait_for("the guest was told", lambda: told_of(h, "bench"), 60, 0.1)
            time.sleep(1)  # its own marks may follow
            full = [int(re.search(r"all of it, (\d+) bytes", t).group(1)) for t in told_of(h, "bench") if "all of it" in t][0]
            before = counter(h, "told"), counter(h, "told_bytes")
            change(h, 0)
            wait_for("it was told", lambda: counter(h, "told") > before[0], 60, 0.1)  # noqa: B023
            found[cpus] = full / 1024, (counter(h, "told_bytes") - before[1]) / 1024
    method = "as sent to a real guest: bytes of JSON; of a change of what is free of one CPU and one node's memory"
    for at, name in enumerate(("full", "delta")):
        for cpus, pair in found.items():
            report.figure(f"hhi_{name}_{cpus}_kib", [pair[at]], "KiB", None, {}, f"{cpus} CPUs; {method}")


# ---- what one more costs

class Agent:
    """The agent of a guest that has none: its payload passes on what is said on its serial console."""

    def __init__(self, path):
        self.sock, self.rest, self.generation, self.id = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), b"", 0, 0
        self.sock.connect(path)
        self.is_greeted = False

    def greet(self):
        """What was said before the payload was up is lost, so again until it is answered."""
        self.sock.sendall(b"\n")
        self.call("hello", {"version": 1, "agent": "bench", "boot_id": "bench", "features": ["hhi"],
                            "state": {"cpus_online": [0], "memory_bytes": 128 << 20}})

    def say(self, message):
        self.sock.sendall(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def call(self, method, params):
        self.id += 1
        self.say({"id": self.id, "method": method, "params": params})

    def hear(self):
        """What is there to be read; each part of what it is told it takes."""
        self.rest += self.sock.recv(1 << 20)
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            message = json.loads(line) if line.strip() else {}
            method, params = message.get("method"), message.get("params", {})
            if method == "greet":
                self.greet()
            elif method == "hhi":
                self.say({"id": message["id"], "result": {"applied": True}})
                if params["part"] == params["parts"]:
                    self.generation = params["generation"]
            elif method:
                self.say({"id": message["id"], "result": {}})
            elif "vm" in message.get("result", {}):
                self.is_greeted = True
                self.call("sync", {"requests": []})
            elif "live" in message.get("result", {}):
                self.call("hhi-watch", {"generation": 0})


class Crowd:
    """n VMs whose agents listen."""

    def __init__(self, h, n):
        self.h, self.agents, self.ready = h, [], selectors.DefaultSelector()
        h.image(payload.program(), "payload.elf")
        for i in range(n):
            h.mete("vm", "create", f"l{i}", "--cpus=1..1", "--memory=128M..128M", "--share=0.001", "--kernel=payload.elf",
                   "--append=work=0 say=0 bridge=1")
            h.vms[f"l{i}"] = vm = Vm(h, f"l{i}")
            vm.start(wait=False)
            agent = Agent(h.path("run", "vm", vm.name, "console.sock"))
            self.agents.append(agent)
            self.ready.register(agent.sock, selectors.EVENT_READ, agent)
            self.hear(0)

    def hear(self, timeout_s):
        for key, _ in self.ready.select(timeout_s):
            key.data.hear()

    def greet(self):
        deadline = time.monotonic() + 300
        while not all(a.is_greeted for a in self.agents):
            for agent in self.agents:
                if not agent.is_greeted:
                    agent.greet()
            until = time.monotonic() + 2
            while time.monotonic() < until:
                self.hear(0.1)
            if time.monotonic() > deadline:
                raise HostError("not all VMs are up")

    def wait(self, what, is_so, timeout_s=120):
        deadline = time.monotonic() + timeout_s
        while not all(is_so(a) for a in self.agents):
            self.hear(0.05)
            if time.monotonic() > deadline:
                raise HostError(f"{what}: {sum(not is_so(a) for a in self.agents)} of {len(self.agents)} are missing")

    def settle(self):
        """Until nothing more is said for a second."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < 1:
            if self.ready.select(0.05):
                self.hear(0)
                quiet_since = time.monotonic()


def cpu_us(pid):
    """What all threads of a process have used."""
    total = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1000


def cost_us(h, crowd):
    """Microseconds of meted a change and a guest that is told of it, what the change costs by itself not counted."""
    costs = []
    for i in range(CHANGES):
        crowd.settle()
        before, known = cpu_us(h.meted.pid), [a.generation for a in crowd.agents]
        change(h, i)
        was = dict(zip(crowd.agents, known))
        crowd.wait("told", lambda a: a.generation > was[a])  # noqa: B023
        costs.append(cpu_us(h.meted.pid) - before)
    return costs


def listeners(report, rounds):
    room = int(re.search(r"MemAvailable:\s+(\d+)", open("/proc/meminfo").read()).group(1)) // 1024
    if room < CROWD * 60:
        raise Skip(f"{CROWD} VMs need {CROWD * 60} MiB, and {room} are there")
    options = {"source": f"synthetic:[NUMANode(memory={64 << 30})] core:{os.cpu_count()} pu:1", "memory": "60G",
               "vms": CROWD + 20}
    costs = {}
    for n in (0, FEW, CROWD):
        with new_host(**options) as h:
            crowd = Crowd(h, n)
            crowd.greet()
            crowd.wait("told for the first time", lambda a: a.generation > 0)
            costs[n] = cost_us(h, crowd)
    base = statistics.median(costs[0])
    one = {n: [(c - base) / n for c in costs[n]] for n in (FEW, CROWD)}
    report.figure("hhi_listener_us", one[CROWD], "us", None,
                  {f"with_{FEW}_us": (one[FEW], "us"), "change_alone_us": (costs[0], "us"), f"change_with_{CROWD}_us": (costs[CROWD], "us")},
                  f"CPU time of meted for one guest and one change of which it is told, while {CROWD} VMs listen; the change's own cost is not in it", "tcg")


GROUPS = [
    (["hhi_told_p50_ms", "hhi_told_p95_ms"], told),
    ([f"hhi_{what}_{n}_kib" for what in ("full", "delta") for n in MACHINES], sizes),
    (["hhi_listener_us"], listeners),
]

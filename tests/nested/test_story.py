# SPDX-License-Identifier: Apache-2.0
"""The host shows itself to its guests, and a guest asks for the right piece (2.1 to 2.12), on a host with two NUMA nodes: a
Linux guest with the real agent, which has declared that it will need a second CPU, and must see where there is one."""
import json
import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from console import Console  # noqa: E402
from host import HostError, build_image, wait_for  # noqa: E402
from nested import CannotRun, NestedHost  # noqa: E402

IMAGES = "var/lib/mete/images"


@pytest.fixture(scope="module")
def host():
    build_image()
    out = os.path.join(ROOT, "build/guest")
    nested = NestedHost(smp=4, memory="3G", nodes=2, files={f"{IMAGES}/vmlinuz": os.path.join(out, "vmlinuz"),
                                                           f"{IMAGES}/test.cpio.gz": os.path.join(out, "test.cpio.gz")})
    try:
        nested.__enter__()
    except CannotRun as e:
        pytest.skip(f"no nested host: {e}")
    try:
        nested.start_keeper()
        nested.start_meted()
        yield nested
    finally:
        nested.close()


class Guest:
    """The Linux guest of a nested host, by its console."""

    def __init__(self, host):
        self.host, self.name = host, "v"
        host.mete_check("vm", "create", "v", "--cpus=1..2", "--memory=192M..512M", "--share=1", "--kernel=vmlinuz",
                        "--initrd=test.cpio.gz", "--append=console=ttyS0 quiet panic=-1")
        host.mete_check("vm", "start", "v", timeout_s=300)
        _, tty, path = host.take_line()
        host.background(f"nested-tool join {tty} /run/mete/vm/v/console.sock", "/var/log/v.join")
        self.console = Console(path)
        self.console.wait_ready(900)
        self.check = self.console.check

    def objects(self):
        """(generation, {id: object}) that it has stored; (0, {}) before it was told."""
        text = self.check("cat /run/mete/host.json 2>/dev/null || true")
        stored = json.loads(text) if text else {"generation": 0, "hhi": {"objects": {}}}
        return stored["generation"], stored["hhi"]["objects"]

    def until(self, what, condition):
        seen = []

        def is_so():
            seen[:] = self.objects()
            return condition(seen[1])
        wait_for(what, is_so, 300, 2)
        return seen

    def until_logged(self, what, text):
        """Waits until its agent has said that; what it said instead goes with the failure."""
        try:
            wait_for(what, lambda: text in self.check("cat /var/log/mete-agent.log"), 300, 2)
        except HostError as e:
            raise HostError(f"{e}; the agent said:\n{self.check('tail -n 30 /var/log/mete-agent.log')}") from e


def marked(objects, mark, kind="cpu"):
    return {i for i, o in objects.items() if o["kind"] == kind and o.get("mark") == mark}


def events(host, after=0):
    return [json.loads(line) for line in host.mete_check("events", "--after", str(after), "--json").splitlines()]


def generation_of(told):
    return int(told["text"].split()[1])


def names_until_told(log, generation):
    """What happened before the guest had a view later than that; None: it has none yet."""
    for i, e in enumerate(log):
        if e["event"] == "hhi-told" and generation_of(e) > generation:
            return [e["event"] for e in log[:i]]
    return None


def told_after_grant(log):
    names = [e["event"] for e in log]
    return log if "granted" in names and "hhi-told" in names[names.index("granted"):] else None


def test_the_story(host):
    # All CPUs but the first are out of use: nothing can be moved, and there is nothing to ask for.
    for cpu in (1, 2, 3):
        host.mete_check("host", "offline", f"cpu:{cpu}", "--inject")
    guest = Guest(host)
    first, objects = guest.until("it is told, and its own is marked", lambda o: marked(o, "yours") and marked(o, "yours", "memory"))
    components = {c["id"]: c for c in host.mete_json("host", "show")["components"]}
    assert {i for i, o in objects.items() if o["kind"] in ("cpu", "memory")} == set(components)            # 2.1
    claims = {c["component"]: c["amount"] for c in host.mete_json("ledger")["claims"] if c["holder"].startswith("vm:v")}
    assert {i: o["yours"] for i, o in objects.items() if o.get("yours")} == claims                          # 2.2
    assert (marked(objects, "yours"), marked(objects, "offline")) == ({"cpu:0"}, {"cpu:1", "cpu:2", "cpu:3"})

    home = next(iter(marked(objects, "yours", "memory")))
    near = {"memory:node0": "cpu:1", "memory:node1": "cpu:3"}[home]  # on the node where its memory lies

    # Others have what comes back. The guest's need exceeds what it has, and there is nothing free to name: it does not ask (2.8, 2.9).
    for cpu in (1, 3):
        host.mete_check("host", "online", f"cpu:{cpu}")
    host.mete_check("reserve", "others", "--need", "cpu:2")
    guest.until("it knows", lambda o: marked(o, "taken") == {"cpu:1", "cpu:3"})
    guest.check("mete declare --need cpu:2 --at +0m --for 2h --name batch; echo --project 2s >/etc/agent.args; kill $(pidof mete-agent)")
    guest.until_logged("it has looked for one", "the host has nothing of it free")
    assert "id=" not in json.dumps(host.mete_json("leases"))

    # They give back both, one on each node: that is a change (2.3), it compares, and asks for the one near its memory.
    before = events(host)[-1]["seq"]
    host.mete_check("unreserve", "others")
    second, objects = guest.until("it has it, and is told so", lambda o: len(marked(o, "yours")) == 2)      # 2.11, 2.12
    assert marked(objects, "yours") == {"cpu:0", near} and objects[near]["vcpus"] == [1]
    assert second > first and guest.check("nproc") == "2"
    log = wait_for("that is on record", lambda: told_after_grant(events(host, before)), 120, 1)
    ask = next(e for e in log if e["event"] == "guest-says")
    trace = ask["trace"]
    assert "information has changed" in ask["text"]                                                         # 2.8
    assert f"cpu:1,id={near.removeprefix('cpu:')}" in next(e["text"] for e in log if e["trace"] == trace and e["event"] == "reserved")  # 2.9
    order = [e["event"] for e in log if e["trace"] == trace or e["event"] in ("hhi-changed", "hhi-told")]
    assert order.index("hhi-changed") < order.index("guest-says") < order.index("granted"), order
    generations = [generation_of(e) for e in events(host) if e["event"] == "hhi-told"]
    assert generations == sorted(set(generations)) and first < generations[-1]                              # 2.5

    # What the guest began with goes: moved first, and then it is told (2.4).
    host.mete_check("host", "online", "cpu:2")
    generation, _ = guest.until("it knows of a place to go to", lambda o: o["cpu:2"].get("mark") == "free")
    before = events(host)[-1]["seq"]
    host.mete_check("host", "offline", "cpu:0", "--inject")
    third, objects = guest.until("it is told", lambda o: o["cpu:0"].get("mark") == "offline")
    names = wait_for("that is on record", lambda: names_until_told(events(host, before), generation), 120, 1)
    assert "moved" in names and third > generation > first
    assert not objects["cpu:0"].get("yours") and len(marked(objects, "yours")) == 2
    assert guest.check("nproc") == "2"

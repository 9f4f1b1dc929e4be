# SPDX-License-Identifier: Apache-2.0
"""The host shows itself to its guests (2.1 to 2.14): a real guest is told, compares, stores, and asks for what it sees."""
import json
import os
import shutil
import subprocess

import pytest
from app import App
from host import Host, wait_for
from told import told, wait_told

MIB = 1 << 20


@pytest.fixture(scope="module")
def host():
    with Host(memory="2G", extra="retry=100ms\n[block]\nrate=200M\n") as h:
        h.made = []
        yield h


@pytest.fixture
def vm(host):
    name = f"v{len(host.made)}"  # its events are its own
    host.made.append(name)
    v = host.vm(name, memory="256M..768M", cpus="1..2")
    yield v
    if v.show()["state"] != "stopped":
        v.kill()
    wait_for("the VM is stopped", lambda: v.show()["state"] == "stopped", 30, 0.05)
    host.mete("vm", "delete", name)
    del host.vms[name]


def yours(objects, kind):
    return {i: o.get("yours", 0) for i, o in objects.items() if o["kind"] == kind and o.get("mark") == "yours"}


def huge_pages(objects):
    return {i: o["pages"] for i, o in objects.items() if "pages" in o}


def differences(a, b):
    return {i: (a.get(i), b.get(i)) for i in {*a, *b} if a.get(i) != b.get(i)}


def claimed(host, holder):
    """{component: amount} that the ledger has for this holder's VM."""
    found = {}
    for c in host.mete_json("ledger")["claims"]:
        if c["holder"] == f"vm:{holder}" or c["holder"].startswith(f"vm:{holder}/"):
            found[c["component"]] = found.get(c["component"], 0) + c["amount"]
    return found


def wait_current(host, vm):
    """Until its base is marked and what the guest has is what the host has now; its generation and objects."""
    def is_current(objects):
        return yours(objects, "cpu") and yours(objects, "memory") and \
            {**yours(objects, "cpu"), **yours(objects, "memory")} == \
            {i: a for i, a in claimed(host, vm.name).items() if objects.get(i, {}).get("kind") in ("cpu", "memory")} and \
            all(objects[c["id"]].get("free", c["free"]) == c["free"] for c in host.mete_json("host", "show")["components"] if c["id"] in objects)
    return wait_told(vm, "its base is marked, and all is as the host has it", is_current)


def test_the_whole_machine_is_told_with_the_guests_own_marked(host, vm):
    """2.1, 2.2: counts are those of the inventory, marks those of the ledger."""
    _, objects = wait_current(host, vm)
    components = {c["id"]: c for c in host.mete_json("host", "show")["components"]}
    for kind, prefix in (("cpu", "cpu:"), ("memory", "memory:")):
        assert {i for i, o in objects.items() if o["kind"] == kind} == {i for i in components if i.startswith(prefix)}
    assert objects["block:images"]["free"] > 0  # no hwloc knows it
    ours = claimed(host, vm.name)
    assert {**yours(objects, "cpu"), **yours(objects, "memory")} == {i: a for i, a in ours.items() if i in objects}
    for name, c in components.items():
        if name in objects:
            assert objects[name]["free"] == c["free"] and objects[name]["capacity"] >= c["capacity"]
    assert vm.name not in json.dumps(objects)  # nobody is named


def test_any_hwloc_program_can_read_it(host, vm, tmp_path):
    if not shutil.which("lstopo-no-graphics"):
        pytest.skip("lstopo-no-graphics (package hwloc-nox) is not installed")
    wait_current(host, vm)
    path = os.path.join(tmp_path, "host.xml")
    with open(path, "w") as f:
        f.write(vm.check("cat /run/mete/host.xml"))
    drawn = subprocess.run(["lstopo-no-graphics", "-i", path, "--of", "console"], text=True, capture_output=True, timeout=60)
    assert drawn.returncode == 0 and "PU" in drawn.stdout, drawn.stderr
    with open(path) as f:
        assert 'name="MeteMark" value="yours"' in f.read()


def test_asked_for_by_name_granted_told_again(host, vm):
    """2.3 to 2.12, in order, with generations that rise."""
    first, objects = wait_current(host, vm)
    base = yours(objects, "memory")
    node = next(iter(base))
    app = App(vm, "hhi")
    verdict = app.call("request", {"id": "more", "needs": [f"memory:128M,node={node.removeprefix('memory:node')}"]})
    assert verdict["outcome"] == "granted", verdict
    second, objects = wait_told(vm, "what was granted is in it", lambda o: yours(o, "memory").get(node) == base[node] + 128 * MIB)
    assert second > first and objects[node]["slots"] == [0]
    app.call("release", {"id": "more"})
    third, objects = wait_told(vm, "it is no more", lambda o: yours(o, "memory").get(node) == base[node])
    assert third > second and "slots" not in objects[node]
    generations = [int(e["text"].split()[1]) for e in host.events(vm.name) if e["event"] == "hhi-told"]
    assert generations == sorted(set(generations)) and second in generations  # the third may not be answered yet


def test_decided_on_an_older_view(host, vm):
    """2.14: refused with the reason stale; the view as it is, is with the guest or on its way."""
    first, objects = wait_current(host, vm)
    node = next(iter(yours(objects, "memory")))
    host.mete("reserve", "somebody", "--need", "memory:512M")
    try:
        wanted = {"needs": [f"memory:128M,node={node.removeprefix('memory:node')}"]}
        app = App(vm, "hhi-stale")
        for generation in (first, 1 << 40):
            verdict = app.call("request", {**wanted, "id": f"g{generation}", "host_generation": generation})
            assert (verdict["outcome"], verdict["reason"]) == ("not-now", "stale"), verdict
        second, _ = wait_told(vm, "less is free", lambda o: o[node]["free"] < objects[node]["free"])
        assert second > first
        for _ in range(100):  # what it has stored it says a moment later that it has
            verdict = app.call("request", {**wanted, "host_generation": told(vm)[0]})
            if verdict.get("reason") != "stale":
                break
        assert verdict["outcome"] == "granted", verdict
        assert [e["event"] for e in host.events(f"{vm.name}/g{first}")][-1] == "refused"
    finally:
        host.mete("unreserve", "somebody")


def test_what_others_get_is_taken(host, vm):
    """Another's is never said to be anybody's (2.22)."""
    _, before = wait_current(host, vm)
    free = {i: o["free"] for i, o in before.items() if o["kind"] == "memory"}
    host.mete("reserve", "secret-tenant", "--need", "memory:512M")
    try:
        _, objects = wait_told(vm, "less is free", lambda o: sum(x["free"] for x in o.values() if x["kind"] == "memory") ==
                               sum(free.values()) - 512 * MIB)
        assert "secret-tenant" not in vm.check("cat /run/mete/host.json /run/mete/host.xml")
    finally:
        host.mete("unreserve", "secret-tenant")
    wait_told(vm, "it is free again", lambda o: {i: x["free"] for i, x in o.items() if x["kind"] == "memory"} == free)


def test_nothing_of_others():
    """2.22: a narrower policy marks what it tells as partial, and tells nothing of others by the time of telling either."""
    with Host(memory="2G", extra="[hhi]\nshow=own\n") as h:
        v = h.vm("v", memory="256M..768M")
        generation, objects = wait_current(h, v)
        assert json.loads(v.check("cat /run/mete/host.json"))["hhi"]["partial"] is True
        assert {o.get("mark") for o in objects.values()} <= {None, "yours"} and not any("free" in o for o in objects.values())
        h.mete("reserve", "r", "--need", "memory:512M")
        app = App(v, "own")
        assert app.call("request", {"id": "a", "needs": ["memory:128M"]})["outcome"] == "granted"
        later, _ = wait_told(v, "its own is told", lambda o: sum(yours(o, "memory").values()) == 384 * MIB)
        assert later == generation + 1


def test_it_is_shown_in_the_guest(host, vm):
    wait_current(host, vm)
    said = vm.check("mete host show")
    assert "COMPONENT" in said and "memory:node0" in said and "yours" in said
    assert json.loads(vm.check("mete host show --json"))["hhi"] == json.loads(vm.check("cat /run/mete/host.json"))["hhi"]


def test_over_interruptions(host, vm):
    """meted and the agent are killed: nothing goes back, and what did not change changes nothing (2.7, 2.14)."""
    for _ in range(8):
        generation, objects = wait_current(host, vm)
        host.kill_meted()
        host.start_meted()
        wait_for("the agent is back", lambda: vm.show().get("agent"), 60, 0.05)
        wait_for("it was told again", lambda g=generation: told(vm)[0] > g, 60, 0.2)
        later, again = told(vm)
        if huge_pages(again) == huge_pages(objects):
            break  # else the machine is not as it was: its pools are read at the start, and others change them
    assert differences(objects, again) == {}
    assert f"is as before, generation {later}" in vm.check("cat /var/log/mete-agent.log")
    vm.check("kill -9 $(pidof mete-agent)")
    host.mete("reserve", "r", "--need", "memory:128M")
    try:
        wait_for("it hears of the change", lambda: told(vm)[0] > later and told(vm)[1] != objects, 60, 0.2)
    finally:
        host.mete("unreserve", "r")

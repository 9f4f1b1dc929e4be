# SPDX-License-Identifier: Apache-2.0
"""A guest asks by itself (2.7 to 2.12): a real one, whose agent measures what it uses.

What the guest is asked while it is measured is what it uses, too; so it is left alone as far as can be, and looked at from the host.
"""
import pytest
from host import Host, wait_for

LOOP = "setsid sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1 & echo $!"


@pytest.fixture(scope="module")
def host():
    """Two whole CPUs, one of them the VM's."""
    with Host(memory="2G", extra="retry=100ms\n") as h:
        yield h


def names(host, subject=None):
    return [e["event"] for e in host.events() if subject in (None, e["subject"])]


def says(host):
    return [e for e in host.events() if e["event"] == "guest-says"]


def log(vm):
    return vm.check("cat /var/log/mete-agent.log")


def restart_agent(vm, arguments):
    """init starts it again with these."""
    vm.check(f"echo '{arguments}' >/etc/agent.args; kill -9 $(pidof mete-agent)")
    wait_for("the agent is back", lambda: len(log(vm).split("mete-agent: version")) > 2, 60, 1)


def user_ticks(vm, cpu):
    """None: it is not on line."""
    lines = [line.split() for line in vm.check("cat /proc/stat").splitlines()]
    return next((int(words[1]) for words in lines if words[0] == f"cpu{cpu}"), None)


def test_asks_for_what_is_free_uses_it_and_gives_it_back(host):
    vm = host.vm("v", memory="512M..768M", cpus="1..2", share="1")
    free = host.free()
    host.mete("reserve", "other", "--need", "cpu:1")
    restart_agent(vm, "--project 500ms")
    loops = vm.check(f"{LOOP}; {LOOP}").split()
    wait_for("it needs more", lambda: "the host has nothing of it free" in log(vm), 120, 3)
    assert says(host) == []

    # The same information again triggers nothing (2.7).
    before = len(log(vm))
    host.kill_meted()
    host.start_meted()
    wait_for("it was told again", lambda: "host hardware information is as before" in log(vm)[before:], 120, 3)
    assert "the host's information has changed" not in log(vm)[before:]
    assert says(host) == []

    # Somebody gives a CPU back, which is a change (2.8): just that one is asked for (2.9, 2.10), and granted (2.11).
    host.mete("unreserve", "other")
    wait_for("it asks", lambda: says(host), 120, 0.5)
    said = says(host)[0]
    assert "has changed:" in said["text"] and "of cpu are used" in said["text"] and "this VM has 1.00" in said["text"]
    request = said["subject"]
    wait_for("it is granted", lambda: "granted" in names(host, request), 120, 0.5)
    assert [e for e in names(host, request) if e in ("guest-says", "granted")] == ["guest-says", "granted"]
    claims = [c for c in host.ledger()["claims"] if c["component"] == component(vm)]
    assert [c["amount"] for c in claims] == [1000] and claims[0]["holder"].startswith("vm:v"), claims
    wait_for("it is told of it (2.12)", lambda: "hhi-told" in names(host)[names(host).index("granted"):], 60, 0.5)

    # The guest has it, and both loops use it.
    was = wait_for("it is on line", lambda: user_ticks(vm, 1) is not None and (user_ticks(vm, 1),), 60, 1)[0]
    wait_for("it is used", lambda: user_ticks(vm, 1) >= was + 100, 120, 1)

    # Not needed any more: given back by itself. Of memory it had enough all the time.
    vm.check(f"kill -9 {' '.join(loops)}")
    wait_for("it is given back", lambda: "ended" in names(host, request), 300, 1)
    assert "cpu:1,id=" in log(vm) and "is given back" in log(vm)
    assert [e["text"] for e in says(host) if e["subject"] == request][-1].startswith("not needed any more: ")
    assert [e["text"] for e in says(host) if "of cpu are used" not in e["text"]] == []
    restart_agent(vm, "")
    host.wait_free(free, 60)


def test_asks_in_time_for_what_was_declared(host):
    vm = host.vm("w", memory="512M..768M", cpus="1", share="0.5")
    free = host.free()
    restart_agent(vm, "--project 500ms")
    assert vm.check("mete declare --need memory:512M --at +2s --for 2h --name job").strip() == "job"
    wait_for("it asks", lambda: [e for e in says(host) if "memory" in e["text"]], 120, 0.5)
    said = [e for e in says(host) if "memory" in e["text"]][0]
    assert said["text"].startswith("the projection has changed:") and "declared by job" in said["text"]
    wait_for("it is granted", lambda: "granted" in names(host, said["subject"]), 120, 0.5)
    assert "asks for memory:" in log(vm) and ",node=0 (memory:node0, free" in log(vm)
    assert "this VM may have 768M at most" in vm.check("mete declare --need memory:1G --at +2s --for 2h 2>&1 || true")
    vm.check("mete declare drop job")
    wait_for("it is given back", lambda: "ended" in names(host, said["subject"]), 300, 1)
    assert "nothing is declared" in vm.check("mete declare list")
    restart_agent(vm, "")
    host.wait_free(free, 60)


def component(vm):
    """What the agent has asked for, by the host's name."""
    return "cpu:" + log(vm).split("asks for cpu:1,id=")[1].split(" ")[0]

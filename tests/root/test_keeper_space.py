# SPDX-License-Identifier: Apache-2.0
"""Whose VMs are whose, when the list of hypervisors changes under them: by who a user is, not by his place in it."""
import json
import os
import re

import pytest

from test_keeper import Keeper, refused, told
from test_keeper_lend import A, B, C, SLOTS_OF_EACH, Side, finish_all, restart_if_gone


@pytest.fixture
def keeper():
    k = Keeper(extra=f"meted_user={A};{B}\nuid_count={8 * SLOTS_OF_EACH}\n")
    yield k
    users(k, f"{A};{B};{C}")
    restart_if_gone(k)
    finish_all(k, [side(k, u) for u in (A, B, C)])
    assert k.close() == []


def numbers(k):
    with open(f"{k.run}/spaces.json") as f:
        return json.load(f)


def side(k, user):
    return Side(k, user, numbers(k)[user])


def users(k, text):
    """Another list, and another keeper."""
    k.process.terminate()
    k.process.wait()
    with open(k.conf) as f:
        conf = f.read()
    with open(k.conf, "w") as f:
        f.write(re.sub("^meted_user=.*;.*$|^meted_user=games$", f"meted_user={text}", conf, flags=re.M))
    k.start()


def start(s, vm, slot):
    """It has said what it has to say: to a pipe whose keeper is gone it could not."""
    described = s.call("vmm-start", vm=vm, slot=slot, argv=[s.keeper.scripts["tell"]], fds=0, memory_bytes=0)
    told(s.keeper, s.prefix + vm)
    return described


def test_the_order_of_the_list_means_nothing(keeper):
    a, b = side(keeper, A), side(keeper, B)
    pids = {s.user: start(s, "v", 2)["pid"] for s in (a, b)}
    users(keeper, f"{C};{B};{A}")
    assert numbers(keeper) == {A: 0, B: 1, C: 2}
    for s in (a, b):
        assert s.pids() == {"v": pids[s.user]}
    c = side(keeper, C)
    assert c.pids() == {} and c.prefix == f"{C}.."
    assert start(c, "v", 2)["uid"] == c.uid(2)
    for s in (a, b, c):  # nobody ends what is another's
        s.call("vmm-kill", vm="v")
        s.call("vm-drop", vm="v")
        assert s.pids() == {}
    assert os.listdir(keeper.ram) == []


def test_who_left_keeps_it_while_something_is_there(keeper):
    a = side(keeper, A)
    pid = start(a, "v", 2)["pid"]
    users(keeper, f"{B};{C}")
    assert numbers(keeper) == {A: 0, B: 1, C: 2}
    with pytest.raises(Exception):
        a.pids()  # nobody speaks for it
    for s in (side(keeper, B), side(keeper, C)):
        assert s.pids() == {}
        s.call("vm-drop", vm="v")
        s.call("vmm-kill", vm=f"{A}..v")
    os.kill(pid, 0)
    users(keeper, f"{B};{A}")  # back, and finds what it had
    assert numbers(keeper) == {A: 0, B: 1}
    assert a.pids() == {"v": pid}
    a.call("vmm-kill", vm="v")
    a.call("vm-drop", vm="v")
    users(keeper, f"{B};{C}")
    assert numbers(keeper) == {B: 1, C: 0}  # nothing was there any more
    refused("denied", side(keeper, C).call, "vm-drop", vm=f"{B}..v")


def test_each_has_a_share(keeper):
    """One who was taken over takes all that it can get: the other has what is its own all the same."""
    a, b = side(keeper, A), side(keeper, B)
    with a.client() as greedy:
        for i in range(1, 129):
            greedy.call("host-deactivate", {"activation": i, "vm": "v", "item": "vcpu0", "kind": "cpu"})
        e = refused("busy", greedy.call, "host-deactivate", {"activation": 129, "vm": "v", "item": "vcpu0", "kind": "cpu"})
        assert "128 activations" in e.message
        for i in range(SLOTS_OF_EACH):
            greedy.call("host-activate", {"activation": 1, "vm": f"v{i}", "item": "ram0", "kind": "memory", "bytes": 4096})
        e = refused("busy", greedy.call, "host-activate",
                    {"activation": 1, "vm": "more", "item": "ram0", "kind": "memory", "bytes": 4096})
        assert f"{SLOTS_OF_EACH} VMs" in e.message
        for i in range(1, 5):
            b.call("host-activate", activation=i, vm=f"v{i}", item="vcpu0", kind="cpu", cpus=[0], share_milli=100)
            b.call("vm-drop", vm=f"v{i}")
        greedy.call("activation-end", {"activation": 1})
        greedy.call("vm-drop", {"vm": "v0"})
        greedy.call("host-activate", {"activation": 1, "vm": "more", "item": "ram0", "kind": "memory", "bytes": 4096})
        for i in range(1, 129):
            greedy.call("activation-end", {"activation": i})

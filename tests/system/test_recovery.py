# SPDX-License-Identifier: Apache-2.0
"""What happens while nothing can be recorded, or while a VMM is slow, is not lost. Hosts of their own; what the guests
run does not matter here."""
import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading
import time

from host import ROOT, UID_COUNT, Host, UnixConnection, wait_for
from rpc import Client


@contextlib.contextmanager
def small_host():
    """A host whose store is on a disk of its own, which a test can fill; and a VM that has not started."""
    with Host(memory="2G") as host:
        host.kill_meted(signal.SIGTERM)
        state = host.path("state")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=8M,mode=755,uid={host.meted_uid},gid={host.meted_gid}",
                        "tmpfs", state], check=True)
        try:
            host.start_meted()
            host.image(os.path.join(ROOT, "build/guest/vmlinuz"))
            host.mete("vm", "create", "w", "--cpus=1", "--memory=256M", "--share=0.1", "--kernel=vmlinuz",
                      "--append=console=ttyS0")
            host.vms["w"] = None
            yield host
            host.mete("vm", "kill", "w", check=False)
        finally:
            host.vms.clear()
            host.kill_meted(signal.SIGTERM)
            subprocess.run(["umount", state], check=True)


def state_of(host):
    return host.mete_json("vm", "show", "w")["state"]


@contextlib.contextmanager
def full_disk(host):
    """Nothing can be recorded in the block; meted has seen it."""
    filler = host.path("state", "filler")
    with open(filler, "wb", buffering=0) as f:
        try:
            while f.write(b"x" * 4096):
                pass
        except OSError:
            pass
    try:
        for i in range(20000):
            if host.http("POST", "/v1/reservations", {"id": f"full-{i}", "needs": ["cpu:1,share>=0.001"]})[0] != 200:
                break
            host.http("DELETE", f"/v1/reservations/full-{i}")
        yield
    finally:
        os.unlink(filler)


def test_vmm_dies_while_nothing_can_be_recorded(image):
    """Its death is noticed once, by us; that it cannot be recorded then does not keep the VM running for ever."""
    with small_host() as host:
        before = host.free()
        host.mete("vm", "start", "w")
        with full_disk(host):
            pid = host.mete_json("vm", "show", "w")["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_for("it is gone", lambda: not os.path.exists(f"/proc/{pid}"))
            wait_for("decisions were dropped", lambda: not host.get("/health")["ok"])
        wait_for("its end is recorded", lambda: state_of(host) == "stopped", 20, 0.2)
        host.wait_free(before)


def test_verdict_is_not_taken_back(image):
    """Who waits for something that is recorded and under way gets its verdict, not the failure of another turn."""
    with small_host() as host:
        answers = []
        os.kill(host.keeper.pid, signal.SIGSTOP)  # so that it stays under way
        try:
            asker = threading.Thread(target=lambda: answers.append(host.http("POST", "/v1/vms/w/start", {})))
            asker.start()
            wait_for("it is under way", lambda: state_of(host) == "starting")
            with full_disk(host):
                asker.join(2)
                assert not answers
        finally:
            os.kill(host.keeper.pid, signal.SIGCONT)
        asker.join(30)
        assert answers[0][0] == 200 and json.loads(answers[0][1])["state"] == "running", answers


def start_unheard(host):
    with contextlib.suppress(OSError, http.client.HTTPException):
        host.http("POST", "/v1/vms/w/start", {})


def in_one_turn(host, requests):
    """What meted answers to requests that it finds waiting all at once, wholly sent, in their order: (status, body)."""
    connections = [UnixConnection(host.socket, 30) for _ in requests]
    os.kill(host.meted.pid, signal.SIGSTOP)
    try:
        for connection, (method, path, *body) in zip(connections, requests):
            connection.request(method, path, *map(json.dumps, body))
    finally:
        os.kill(host.meted.pid, signal.SIGCONT)
    answers = []
    for connection in connections:
        response = connection.getresponse()
        answers.append((response.status, response.read().decode()))
        connection.close()
    return answers


def waiting(path):
    """How many connections to this socket nobody has accepted yet."""
    with open("/proc/net/unix") as f:
        return sum(fields[6:] == ["0", path] for fields in map(str.split, f))  # the accepted ones have an inode


def test_create_again_before_it_is_recorded(image):
    """The same VM defined twice at once: neither is told that it is there unless it is."""
    create = ("POST", "/v1/vms", {"name": "x", "cpus": 1, "memory_bytes": 268435456})
    with small_host() as host:
        with full_disk(host):
            for answers in in_one_turn(host, [create, create]), in_one_turn(host, [create, ("DELETE", "/v1/vms/x")]):
                assert [a[0] for a in answers] == [503, 503], answers
            assert host.http("GET", "/v1/vms/x")[0] == 404
        wait_for("decisions can be recorded again", lambda: host.get("/health")["ok"], 20, 0.1)
        answers = in_one_turn(host, [create, create])
        assert [a[0] for a in answers] == [200, 200] and answers[0] == answers[1], answers
        with full_disk(host):
            other = ("POST", "/v1/vms", {"name": "x", "cpus": 1, "memory_bytes": 2 * 268435456})
            assert [a[0] for a in in_one_turn(host, [("DELETE", "/v1/vms/x"), other])] == [503, 503]
        assert host.http("GET", "/v1/vms/x") == answers[0]  # the one that was there
        host.kill_meted()
        host.start_meted()
        assert host.http("GET", "/v1/vms/x") == answers[0]


def test_create_of_another_by_that_name(image):
    with small_host() as host:
        again = ["vm", "create", "w", "--cpus=1", "--memory=256M", "--share=0.1", "--kernel=vmlinuz"]
        assert host.mete(*again, "--append=console=ttyS0").returncode == 0
        p = host.mete(*again, "--append=quiet", check=False)
        assert p.returncode == 65 and "append: console=ttyS0, not quiet" in p.stderr, p.stderr
        again[4] = "--memory=512M"
        p = host.mete(*again, "--append=console=ttyS0", check=False)
        assert p.returncode == 65 and "memory_bytes" in p.stderr, p.stderr


def test_stop_hears_of_the_guest_alone(image):
    """Who waits for a guest to power down is not told that somebody else's decision could not be recorded."""
    with small_host() as host:
        host.mete("vm", "start", "w")
        answers = []
        asker = threading.Thread(target=lambda: answers.append(host.http("POST", "/v1/vms/w/stop", {"timeout_ms": 60000})))
        asker.start()
        wait_for("it is asked", lambda: any(e["event"] == "stop-asked" for e in host.events("w")))
        with full_disk(host):
            asker.join(2)
            assert not answers
        # the guest has no init that could do it; this ends its VMM
        os.kill(host.mete_json("vm", "show", "w")["pid"], signal.SIGKILL)
        asker.join(30)
        assert answers and answers[0][0] == 200 and json.loads(answers[0][1])["state"] == "stopped", answers


def test_window_that_has_ended(image):
    """Asked again with the same id, a reservation whose window is over says so; a new one for the past is refused."""
    with Host(memory="1G") as host:
        now = int(time.time() * 1000)
        ask = {"id": "past", "needs": ["memory:128M"], "start_ms": now, "end_ms": now + 1500}
        status, text = host.http("POST", "/v1/reservations", ask)
        assert status == 200 and json.loads(text)["outcome"] == "granted", text
        wait_for("it is over", lambda: not host.claims())
        for _ in range(2):
            status, text = host.http("POST", "/v1/reservations", ask)
            verdict = json.loads(text)
            assert status == 200 and (verdict["outcome"], verdict["reason"]) == ("never", "stale"), text
            host.kill_meted()
            host.start_meted()
        status, text = host.http("POST", "/v1/reservations", {**ask, "id": "new"})
        assert status == 400 and json.loads(text)["reason"] == "invalid", text


def test_machine_has_lost_a_cpu(image):
    """What was granted of it stays in the books, is named in the log, and comes back by its release; a VM on it runs on."""
    def restart(cores):
        host.kill_meted(signal.SIGTERM)
        host.options["source"] = f"synthetic:numa:1(memory=8GB) core:{cores} pu:1"
        host.write_config()
        host.start_meted()

    def missing(trace):
        return [e["text"].split()[0] for e in host.events(trace) if e["event"] == "component-missing"]
    with Host(memory="2G", source="synthetic:numa:1(memory=8GB) core:4 pu:1") as host:
        full = host.free()
        host.image(os.path.join(ROOT, "build/guest/vmlinuz"))
        host.mete("reserve", "low", "--need", "cpu:1,exclusive")  # so that the VM is not on the first
        host.mete("vm", "create", "w", "--cpus=1", "--memory=256M", "--kernel=vmlinuz", "--append=console=ttyS0")
        host.mete("vm", "start", "w")
        host.mete("reserve", "high", "--need", "cpu:2,exclusive")
        claims, pid = host.claims(), host.mete_json("vm", "show", "w")["pid"]
        assert len([c for c in claims if c["component"].startswith("cpu")]) == 4, claims
        restart(1)
        assert host.claims() == claims
        assert missing("high") == ["cpu:2", "cpu:3"] and missing("low") == [] and missing("w") == ["cpu:1"]
        wait_for("it is adopted", lambda: any(e["event"] == "adopted" for e in host.events("w")))
        assert state_of(host) == "running" and host.mete_json("vm", "show", "w")["pid"] == pid
        # what is not there is not given away, and is given back
        p = host.mete("reserve", "more", "--need", "cpu:1,share>=0.1", check=False)
        assert p.returncode == 75 and "none that meets it is free" in p.stderr, p.stderr
        host.mete("unreserve", "high")
        assert [c["component"] for c in host.claims()] == [c["component"] for c in claims
                                                             if c["holder"] != "reservation:high"]
        restart(4)
        assert host.claims() == [c for c in claims if c["holder"] != "reservation:high"]
        host.mete("reserve", "again", "--need", "cpu:2,exclusive")
        for each in "low", "again":
            host.mete("unreserve", each)
        host.mete("vm", "kill", "w")
        host.wait_free(full)


def listeners(path):
    """Inodes of the sockets that were bound to the path and listen, also of those whose file is another's now."""
    with open("/proc/net/unix") as f:
        rows = [line.split() for line in f]
    return [row[6] for row in rows if row[7:] == [path] and row[3] == "00010000"]


def test_meted_dies_while_the_keeper_has_not_read_a_start(image):
    """What a meted that died has asked of the keeper is not done behind the back of its successor: there is one VMM, and
    whoever connects to one of its sockets connects to that."""
    with small_host() as host:
        fault = host.path("run", "fault")  # meted waits before it asks the keeper for a VMM (src/meted/crash.h)
        with open(fault, "w") as f:
            f.write("virtual ram hold\n")
        host.kill_meted(signal.SIGTERM)
        host.start_meted({"METE_FAULTS": fault})
        asker = threading.Thread(target=start_unheard, args=[host])
        asker.start()
        wait_for("it is about to ask the keeper", lambda: os.path.exists(fault + ".held"))
        os.kill(host.keeper.pid, signal.SIGSTOP)
        try:
            os.unlink(fault + ".held")
            wait_for("it has asked", lambda: os.path.exists(host.path("run", "vm", "w", "console.log")))
            host.kill_meted()
            asker.join(10)
            host.start_meted(wait=False)
            wait_for("its successor waits for the keeper", lambda: waiting(host.keeper_socket) >= 1)
        finally:
            os.kill(host.keeper.pid, signal.SIGCONT)
        host.wait_meted()
        wait_for("it runs", lambda: state_of(host) == "running")
        pid = host.mete_json("vm", "show", "w")["pid"]
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        for name in "qmp.sock", "oob.sock", "agent.sock":
            found = listeners(host.path("run", "vm", "w", name))
            assert found and {f"socket:[{inode}]" for inode in found} <= held, (name, found, held)


def test_deleted_vm_leaves_nothing(image):
    """What a VM has left in the run directory goes with its definition, not before; also where meted dies in between."""
    with small_host() as host:
        left = host.path("run", "vm", "w")
        host.mete("vm", "start", "w")
        host.mete("vm", "kill", "w")
        assert "console.log" in os.listdir(left)
        with full_disk(host):
            assert host.http("DELETE", "/v1/vms/w")[0] == 503
            assert "console.log" in os.listdir(left)
        wait_for("decisions can be recorded again", lambda: host.get("/health")["ok"], 20, 0.1)
        host.mete("vm", "delete", "w")
        assert not os.path.exists(left) and not os.path.exists(host.path("keeper", "log", "w.log"))
        os.mkdir(left)
        open(os.path.join(left, "console.log"), "w").close()
        for path in left, os.path.join(left, "console.log"):
            os.chown(path, host.meted_uid, host.meted_gid)
        host.kill_meted()
        host.start_meted()
        wait_for("it is cleared", lambda: not os.path.exists(left))


def test_more_requests_than_an_agent_can_name(image):
    """What a guest does not name when it synchronises is taken back, so that no limit may allow more than it can."""
    with Host() as host:
        for limit, status in ((256, 0), (257, 78)):
            with open(host.path("limit.conf"), "w") as f:
                f.write(f"[limits]\nrequests_per_vm={limit}\n")
            p = subprocess.run([host.path("bin", "meted"), "--check", "--config", host.path("limit.conf")],
                               capture_output=True, text=True)
            assert p.returncode == status, p.stderr


def test_slow_vmm_is_not_killed(image):
    """A VMM that does not answer a meted that has just started is asked again, not ended."""
    with small_host() as host:
        host.mete("vm", "start", "w")
        pid = host.mete_json("vm", "show", "w")["pid"]
        host.kill_meted()
        os.kill(pid, signal.SIGSTOP)
        try:
            host.start_meted()
            wait_for("the first try is over", lambda: any(e["event"] in ("adopt-failed", "died") for e in host.events("w")),
                     40, 0.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for("it is adopted", lambda: any(e["event"] == "adopted" for e in host.events("w")), 40, 0.5)
        assert state_of(host) == "running" and host.mete_json("vm", "show", "w")["pid"] == pid


def test_vmm_dies_while_keeper_and_meted_are_away(image):
    """Nobody is attached to it when it ends: it is found dead when the keeper says which VMMs are there."""
    with small_host() as host:
        full = host.free()
        host.mete("vm", "start", "w")
        pid = host.mete_json("vm", "show", "w")["pid"]
        host.kill_meted()
        os.kill(pid, signal.SIGSTOP)
        host.start_meted()  # it is about to attach, and hears nothing
        host.kill_keeper()
        os.kill(pid, signal.SIGKILL)
        host.start_keeper()
        wait_for("the death is noticed", lambda: state_of(host) == "stopped", 40, 0.1)
        host.wait_free(full)
        assert [e["event"] for e in host.events("w")].count("died") == 1
        host.mete("vm", "start", "w")


def test_stray_is_ended_when_the_keeper_is_back(image):
    """A VMM that no record accounts for must not keep what the ledger takes for free; the others run on."""
    with small_host() as host:
        host.mete("vm", "start", "w")
        pid = host.mete_json("vm", "show", "w")["pid"]
        with Client(host.keeper_socket) as keeper:
            stray = keeper.call("vmm-start", {"vm": "stray", "slot": UID_COUNT - 1, "fds": 0, "memory_bytes": 0, "argv": [
                host.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"]})["pid"]
            assert stray in [v["pid"] for v in keeper.call("vmm-list")["vmms"]]
        host.kill_keeper()
        assert os.path.exists(f"/proc/{stray}")
        host.start_keeper()

        def listed():
            with Client(host.keeper_socket) as keeper:
                return {v["vm"]: v["pid"] for v in keeper.call("vmm-list")["vmms"]}
        wait_for("the stray is ended", lambda: listed() == {"w": pid}, 20, 0.1)
        assert state_of(host) == "running" and host.mete_json("vm", "show", "w")["pid"] == pid

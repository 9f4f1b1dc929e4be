# SPDX-License-Identifier: Apache-2.0
"""What happens while nothing can be recorded, or while a VMM is slow, is not lost. Hosts of their own; what the guests
run does not matter here."""
import contextlib
import json
import os
import signal
import subprocess
import threading

from host import ROOT, Host, wait_for


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

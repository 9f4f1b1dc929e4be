# SPDX-License-Identifier: Apache-2.0
"""meted dies of SIGKILL at each of its crash points, from the question to the end of the lease, and is started again.

The points are not listed here: a first run writes down which it passes, and the walk then dies at each of them. After
every death the VM is unharmed, the application has one answer (the one that was given, where one was), the ledger
is what the records say, and in the end everything is back, once.
"""
import os
import shutil
import subprocess
import time

import pytest
from app import App, AppError
from host import Host, HostError, wait_for
from test_negotiation import names

NEEDS = ["cpu:1", "memory:128M"]
# A debug build, whose meted dies at a point.
CRASH_BUILD = os.environ.get("METE_CRASH_BUILD") or os.environ.get("METE_BUILD") or "build/debug"


@pytest.fixture(scope="module")
def crash_host():
    from conftest import ROOT
    program = os.path.join(ROOT, CRASH_BUILD, "src/meted/meted")
    if not os.path.exists(program):
        pytest.skip(f"{program} is not there: meson setup {CRASH_BUILD}")
    with Host(memory="2G") as host:
        host.kill_meted()
        shutil.copy(program, host.path("bin", "meted"))
        host.start_meted()
        host.vm("v")
        yield host


def start_and_count(host, log):
    if os.path.exists(log):
        os.unlink(log)
    with open(log, "w"):
        pass
    os.chown(log, host.meted_uid, host.meted_gid)
    host.start_meted({"METE_CRASH_LOG": log})


def passed(log):
    with open(log) as f:
        return [line.split(None, 1)[1].strip() for line in f if line.strip()]


def revive(host):
    """meted is started again if it has died; it may be just about to."""
    try:
        host.meted.wait(0.2)
    except subprocess.TimeoutExpired:
        return
    host.start_meted()
    host.vms["v"].wait_agent()


def one_request(host, app, name):
    """Asks, holds and releases; survives the death of meted at any time by asking again with the same id."""
    def again(call):
        deadline = time.monotonic() + 60
        while True:
            revive(host)
            try:
                return call()
            except AppError as problem:
                if problem.reason == "not-found" or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    number = app.start("request", {"id": name, "needs": NEEDS})
    answer = None
    while answer is None:
        revive(host)
        try:
            answer = app.answer(number, 1)
        except AppError as problem:
            if problem.code is not None:
                raise
    repeated = again(lambda: app.call("request", {"id": name, "needs": NEEDS}))
    again(lambda: app.call("release", {"id": name}))
    return answer, repeated


def test_every_crash_point(crash_host):
    host, guest = crash_host, crash_host.vms["v"]
    pid, free = guest.pid(), host.free()
    log = host.path("crash.log")

    # which points does one request pass, counted from the start of a meted that adopts the VM?
    host.kill_meted()
    start_and_count(host, log)
    guest.wait_agent()
    app = App(guest, "walker")
    at_rest = len(passed(log))
    one_request(host, app, "count")
    host.wait_free(free, 30)
    points = passed(log)
    assert len(points) > at_rest, "a request passes no crash point"
    reached = []

    for n in range(1, len(points) + 1):
        trace = f"crash-{n}"
        host.kill_meted()
        host.start_meted({"METE_CRASH_AT": str(n)}, wait=False)
        died_early = False
        try:
            host.wait_meted()
            guest.wait_agent()
        except Exception:  # it died in between; if not, that is what was wrong
            assert host.meted.wait(10) == -9
            died_early = True
            host.start_meted()
            guest.wait_agent()
        was = host.meted
        answer, repeated = one_request(host, app, trace)

        def ended():
            revive(host)
            try:
                return "ended" in names(host.events(trace))
            except HostError:  # it has just died
                return False
        wait_for(f"point {n}: has ended", ended, 60, 0.1)
        revive(host)
        host.wait_free(free, 60)
        if died_early or (was.poll() is not None and was.returncode == -9):
            reached.append(n)
        assert answer["outcome"] == "granted", (n, points[n - 1], answer)
        assert repeated == answer, (n, points[n - 1])
        assert names(host.events(trace)).count("ended") == 1, (n, points[n - 1], names(host.events(trace)))
        assert guest.pid() == pid, (n, points[n - 1])
        assert guest.cpus_online() == 1
    app.close()
    missed = [f"{n} {points[n - 1]}" for n in range(1, len(points) + 1) if n not in reached]
    # points are counted from the start of the process, and what a start does can vary by one or two turns
    assert len(missed) <= 2, f"never reached: {missed}"
    print(f"{len(reached)} crash points: {', '.join(sorted(set(points)))}")

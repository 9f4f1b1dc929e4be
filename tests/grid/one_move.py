# SPDX-License-Identifier: Apache-2.0
"""One move of the grid, of the payload or of a Linux guest, or one fault, from the VM's start to its end: a row of figures."""
import contextlib
import os
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
import linux_guest  # noqa: E402
from seen_move import LATE_MS, MIB, PAGE, Guest, Watch  # noqa: E402

OVER_S = 600
SHARE = "0.2"  # of its host's only CPU: what is left is for the stream, which takes 0.8 of one where the link has 1 Gbit/s


def round_ms(seconds):
    return round(seconds * 1000, 1)


def break_link(hosts, watch, fault, expected_ms, said):
    """Waits for its moment, breaks the link, and mends it. said: what it did."""
    begun = watch.source.wait("MIGRATION", 60, "active")
    if not begun:
        return
    if fault["phase"] == "stop":
        if not watch.source.wait("STOP", 120):
            return
        time.sleep(fault["at"] / 1000)
    else:
        time.sleep(fault["at"] * expected_ms / 1000)
    said["broke_at"] = time.time()
    {"cut": hosts.link.cut, "slow": lambda: hosts.link.slow(10), "silence": hosts.link.silence}[fault["kind"]]()
    time.sleep(fault["for_ms"] / 1000)
    hosts.link.mend()
    said["mended_at"] = time.time()


class Speed:
    """Of the guest while it is copied, as a part of that while it was only looked at."""

    def __init__(self, watch, host):
        self.watch, self.host = watch, host
        self.marks = [self._mark(host)]
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _mark(self, host):
        with contextlib.suppress(OSError):
            board = self.watch.guest.board(host)
            return (time.monotonic(), board.dirtied_pages) if board else None
        return None

    def _wait(self):
        if self.watch.source.wait("MIGRATION", OVER_S, "setup"):
            self.marks.append(self._mark(self.host))

    def before(self):
        """MiB/s that it wrote while it was only looked at; None: it was not copied."""
        if len(self.marks) < 2 or None in self.marks[:2]:
            return None
        (t0, n0), (t1, n1) = self.marks[:2]
        return round((n1 - n0) * PAGE / MIB / (t1 - t0), 1) if t1 > t0 else None

    def at_end(self, host):
        """None: it was not copied, or has nothing to do."""
        if len(self.marks) < 2:
            return None
        self.marks.append(self._mark(host))
        if None in self.marks:
            return None
        (t0, n0), (t1, n1), (t2, n2) = self.marks
        return round((n2 - n1) / (t2 - t1) / ((n1 - n0) / (t1 - t0)), 3) if n1 > n0 and t2 > t1 else None


def measure(hosts, watch, move, row):
    """What was seen of it, once it is over."""
    stops = watch.stops()
    row["stops"] = [{"ms": round_ms(e - b) if e else None, "there": there} for b, e, there in stops]
    downtimes = [s["ms"] for s in row["stops"] if s["ms"] is not None]
    row["downtime_ms"] = max(downtimes, default=0)
    gaps = watch.ticks.get("gaps", [])
    row["guest_gap_ms"] = gaps[0]["ms"] if gaps else None
    if stops and stops[-1][1]:  # the silence that the stop was in; None: eight others were longer
        begin, end = stops[-1][:2]
        row["guest_stop_ms"] = next((g["ms"] for g in gaps if g["from"] <= end and g["from"] + g["ms"] / 1000 >= begin), None)
    row.update({k: watch.ticks[k] for k in ("late_ms", "ordinary_late_ms", "priority") if k in watch.ticks})
    row["disturbed"] = watch.ticks.get("late_ms", 1e9) > LATE_MS
    copying = [e["at_ms"] for e in hosts.a.events(move) if e["event"] == "copying"]
    if copying and stops and stops[-1][2]:
        row["time_ms"] = round(stops[-1][1] * 1000 - copying[0], 1)
    row["cuts"] = sum(1 for s in row["stops"] if not s["there"])


def verdict_of(row, level):
    """How an accepted move ended, against its level."""
    if row["state"] != "done":
        return "cut" if row["said"].get("cut") else "broken-off"
    is_met = row["downtime_ms"] <= level.get("downtime_ms", 1e9) and row.get("time_ms", 0) <= level.get("total_ms", 1e9)
    return "met" if is_met else "missed"


def guest_of(hosts, name, cell):
    """A VM that is ready to be moved."""
    if "linux" in cell:
        return linux_guest.LinuxGuest(hosts, name, cell["memory_mib"], cell["filled_mib"], cell["area_mib"], cell["dirty_mib_s"], SHARE)
    return Guest(hosts, name, cell["memory_mib"], cell["populated_mib"], cell["area_mib"], cell["dirty_mib_s"], share=SHARE)


def run(hosts, name, cell, fault=None, beside=contextlib.nullcontext):
    """A row. The VM is gone afterwards, wherever it ran. beside: what is there from when the guest is ready until its move is over."""
    began = time.monotonic()
    row = {**cell, "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "load": round(os.getloadavg()[0], 1)}
    guest = guest_of(hosts, name, cell)
    row.update(populated_mib=guest.populated_mib, ready_s=round(time.monotonic() - began, 1))
    watch, breaker, said, others = None, None, {}, contextlib.ExitStack()
    try:
        others.enter_context(beside())  # before the watch, which takes each VMM that comes to the other side for the VM's
        watch = Watch(hosts, guest)
        with watch:
            move = f"g-{name}"
            if fault:
                expected_ms = cell["populated_mib"] * MIB * 8 / cell["mbit"] / 1000
                breaker = threading.Thread(target=break_link, args=(hosts, watch, fault, expected_ms, said), daemon=True)
                breaker.start()
            speed = Speed(watch, hosts.a)
            answer = hosts.move(name, move, cell["level"])
            row["answer"] = answer["state"]
            level = cell["level"]
            if answer["state"] == "countered":
                row["limit"] = answer.get("limit")
                row["offers"] = answer["offers"]
                level = answer["offers"][0]["level"]
                accepted = hosts.accept(move, level)
                row["granted"] = accepted["state"] not in ("countered", "refused", "declined")
                if not row["granted"]:
                    row["not_granted"] = {k: accepted.get(k) for k in ("state", "reason", "sentence")}
            elif answer["state"] == "refused":
                row["why"] = [answer.get("reason"), answer.get("sentence")]
            row["kept_level"] = level
            source, destination = hosts.wait_over(move, OVER_S)
            row["speed"] = speed.at_end(hosts.b if source["state"] == "done" else hosts.a)
            row["wrote_mib_s"] = speed.before()
            if breaker:
                breaker.join(180)
                hosts.wait_linked()
            time.sleep(0.2)
        others.close()
        row["state"] = source["state"]
        row["said"] = {k: source[k] for k in ("total_ms", "downtime_ms", "attempt", "cut", "reason", "sentence") if k in source}
        row["plan"] = source.get("plan", {})
        row["destination"] = (destination or {}).get("state")
        measure(hosts, watch, move, row)
        row["broke"] = {k: round(v, 3) for k, v in said.items()}
        row["hit"] = "broke_at" in said and any(b <= said["broke_at"] <= (e or 1e12) for b, e, _ in watch.stops())
        if row["said"].get("attempt", 1) > 1 or row["state"] != "done" or row["downtime_ms"] > level.get("downtime_ms", 1e9):
            row["events"] = [{"host": name, **e} for name, h in (("a", hosts.a), ("b", hosts.b)) for e in h.events(move)]
        row["wrong"] = judge(hosts, watch, guest, row)
        row["others"] = guest.others
        row["verdict"] = ("refused" if row["answer"] == "refused" else
                          "not-granted" if row.get("granted") is False else verdict_of(row, level))
    finally:
        others.close()
        if watch:
            watch.close()
        guest.remove()
    row["wrong"] += hosts.left()
    row["took_s"] = round(time.monotonic() - began, 1)
    return row


def judge(hosts, watch, guest, row):
    """What must be true of every move, whatever came of it."""
    wrong, where = [], guest.where()
    if len(where) != 1:
        return [f"it is defined at {where}"]
    host = hosts.a if where == ["a"] else hosts.b
    state = host.mete_json("vm", "show", guest.name)["state"]
    if state != "running":
        return [f"it is {state} at {where[0]}"]
    if (row["state"] == "done") != (where == ["b"]):
        wrong.append(f"the move is {row['state']}, and the VM at {where[0]}")
    if watch.runs_at_both():
        wrong.append("it ran at both")
    if row["stops"] and row["stops"][-1]["ms"] is None:
        wrong.append("it stopped, and was not seen to run again")
    return wrong + watch.compare(host) + guest.inside(host)

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The same cells and levels with QEMU alone, driven by hand: how many of what mete kept these would have met, and how many of
what they would have met of the levels that were asked for mete accepted.

    tests/grid/stock.py --cells 0..40        as root, behind tests/grid/grid.py, whose rows it reads; resumable
    tests/grid/stock.py --mete               mete again among them, in its turn, at the level that was agreed on
    tests/grid/stock.py --report             only the table of what is there

defaults: 128 MiB/s, downtime-limit 300. tuned: no bandwidth limit, downtime-limit as the level has it. auto-converge: the same, and
the guest is slowed. oVirt, KubeVirt: no bandwidth limit, and the rules of their controllers, from their public sources and proposals
(controllers.py). The same QEMU, machine, guest, link and CPUs. Whatever is not over after the level's total time is a miss; it is
then cancelled. Where mete countered, they run twice: at the level that was asked for, and at the one that was agreed on. All of a
cell run one after the other, in an order that is drawn anew for each cell, so that none has always the same place. A row of
build/grid/stock.jsonl for each."""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests", n) for n in ("lib", "platform", "grid")]
import cells as grid_cells  # noqa: E402
import controllers  # noqa: E402
import one_move  # noqa: E402
import payload  # noqa: E402
from grid import range_of, read_rows  # noqa: E402
from link import ADDRESS, Link  # noqa: E402
from linked_hosts import LinkedHosts  # noqa: E402
from qemu10 import qemu10  # noqa: E402
from qmp import Monitor, wait_until  # noqa: E402
from report import last_of, overruns  # noqa: E402
from seen_move import populate  # noqa: E402

PORT = 4444
METHODS = {  # parameters, capabilities, and who looks at its rounds
    "defaults": lambda level: ({}, [], None),
    "tuned": lambda level: ({"max_bandwidth": 0, "downtime_limit": level["downtime_ms"]}, [], None),
    "auto-converge": lambda level: ({"max_bandwidth": 0, "downtime_limit": level["downtime_ms"]}, ["auto-converge"], None),
    "oVirt": lambda level: ({"max_bandwidth": 0, "downtime_limit": controllers.Ovirt.FIRST_MS}, ["auto-converge"], controllers.Ovirt()),
    "KubeVirt": lambda level: ({"max_bandwidth": 0}, [], controllers.Kubevirt(level["downtime_ms"])),
}
METE = "mete"  # among the methods, where it is run again in its turn
LOOK_S = 0.05


class Vmm:
    """A VMM at one end of the link, on the CPU that the host there has."""

    def __init__(self, qemu, link, name, cell, more):
        self.dir = tempfile.mkdtemp(prefix="mete-stock-", dir="/dev/shm")
        self.ram = f"{self.dir}/ram0"
        try:
            self.process = subprocess.Popen(
                [*link.spaces[name].prefix, "taskset", "-c", str("ab".index(name)), qemu, "-machine", "q35,memory-backend=ram0", "-accel", "tcg",
                 "-cpu", "max", "-nodefaults", "-display", "none", "-m", str(cell["memory_mib"]), "-smp", "1", "-object",
                 f"memory-backend-file,id=ram0,size={cell['memory_mib']}M,mem-path={self.ram},share=on", "-kernel", payload.program(), "-append",
                 f"work=0 say=0 tick=1 dirty={cell['dirty_mib_s']} area={cell['area_mib']}", "-qmp", f"unix:{self.dir}/qmp,server=on,wait=off", *more],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if not wait_until(lambda: os.path.exists(f"{self.dir}/qmp")):
                raise RuntimeError("QEMU has no monitor")
            self.qmp = Monitor(f"{self.dir}/qmp")
        except BaseException:
            self.close()
            raise

    def close(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)

    def at(self, name):
        """Seconds of the events of that name."""
        self.qmp.ask("query-status")  # what came before the answer has been read with it
        return [e["timestamp"]["seconds"] + e["timestamp"]["microseconds"] / 1e6 for e in self.qmp.events if e["event"] == name]


def run(qemu, link, cell, level, method, beside=contextlib.nullcontext):
    """beside: what is there from when the guest is ready on."""
    parameters, capabilities, controller = METHODS[method](level)
    with contextlib.ExitStack() as stack:
        source = Vmm(qemu, link, "a", cell, [])
        stack.callback(source.close)
        destination = Vmm(qemu, link, "b", cell, ["-incoming", f"tcp:{ADDRESS['b']}:{PORT}"])
        stack.callback(destination.close)
        if not wait_until(lambda: payload.read(source.ram), 60):
            raise RuntimeError("the payload does not come up")
        populate(source.ram, cell["area_mib"], max(cell["populated_mib"], cell["area_mib"]))
        for name in capabilities:
            source.qmp.run("migrate-set-capabilities", capabilities=[{"capability": name, "state": True}])
        if parameters:
            source.qmp.run("migrate-set-parameters", **parameters)
        stack.enter_context(beside())
        before, began = payload.read(source.ram), time.time()
        source.qmp.run("migrate", uri=f"tcp:{ADDRESS['b']}:{PORT}")
        end = began + level["total_ms"] / 1000 + 1
        while time.time() < end and (seen := source.qmp.run("query-migrate"))["status"] not in ("completed", "failed"):
            said = controller.round(time.time() - began, seen["ram"]) if controller and "ram" in seen else None
            if said == controllers.ABORT:
                break
            if said:
                source.qmp.run("migrate-set-parameters", downtime_limit=said)
            time.sleep(LOOK_S)
        took = time.time() - began
        wait_until(lambda: destination.at("RESUME") or source.qmp.run("query-migrate")["status"] != "completed")
        row = {"status": source.qmp.run("query-migrate")["status"]}
        after = payload.read(destination.ram if row["status"] == "completed" else source.ram)
        wanted = cell["dirty_mib_s"] * 256 * took
        row["speed"] = round((after.dirtied_pages - before.dirtied_pages) / wanted, 3) if wanted else None
        stops, resumes = source.at("STOP"), destination.at("RESUME")
        if row["status"] == "completed" and resumes:
            row.update(downtime_ms=round((resumes[-1] - stops[-1]) * 1000, 1), time_ms=round((resumes[-1] - began) * 1000, 1))
        row["met"] = row.get("time_ms", 1e9) <= level["total_ms"] and row.get("downtime_ms", 1e9) <= level["downtime_ms"]
        return row


def again(hosts, name, cell, level):
    """The same by mete: it has met the level if that was accepted as it is, and kept."""
    guest = {k: cell[k] for k in ("cell", "mbit", "memory_mib", "populated_mib", "area_mib", "dirty_mib_s")}
    row = one_move.run(hosts, name, {**guest, "level": level})
    found = {"status": row["state"], "speed": row.get("speed"), "wrong": row["wrong"], "met": row["answer"] != "countered" and row["verdict"] == "met"}
    if row["state"] == "done":
        found.update(downtime_ms=row["downtime_ms"], time_ms=row["time_ms"])
    return found


def order(cell, methods):
    """The methods as they are run for that cell: the same for ever, and another for the next one."""
    return random.Random(f"{grid_cells.SEED} {cell}").sample(list(methods), len(methods))


def row_of(cell, method, of, level, seen):
    """cell: mete's row of it."""
    over = cell["verdict"] != "refused" and any(overruns(cell).values())
    return {"cell": cell["cell"], "method": method, "of": of, "answer": cell["answer"], "mete": cell["verdict"], "mete_speed": cell.get("speed"),
            "mete_over": over, "level": level, **seen}


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--cells", default="..", help="a..b, b excluded")
    o.add_argument("--rows", default=os.path.join(ROOT, "build", "grid", "rows.jsonl"))
    o.add_argument("--out", default=os.path.join(ROOT, "build", "grid", "stock.jsonl"))
    o.add_argument("--build", default=os.environ.get("METE_RELEASE") or "build/release", help="of mete, for --mete")
    o.add_argument("--mete", action="store_true", help="mete again among them, in its turn")
    o.add_argument("--report", action="store_true", help="only the table of what is there")
    a = o.parse_args()
    if not a.report:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        run_cells(a)
    print(table(read_rows(a.out)))


def run_cells(a):
    cells = [r for r in last_of(read_rows(a.rows), "cell") if r["cell"] in range_of(a.cells)]
    done = {(r["cell"], r["method"], r["of"]) for r in read_rows(a.out)}
    qemu, methods = qemu10(), [*METHODS, METE] if a.mete else [*METHODS]
    with LinkedHosts(build=a.build) if a.mete else Link() as place:
        link = place.link if a.mete else place
        for cell in cells:
            place.set_rate(cell["mbit"])
            for method, of, level in turns(cell, methods):
                if (cell["cell"], method, of) in done:
                    continue
                seen = again(place, f"s{cell['cell']}", cell, level) if method == METE else run(qemu, link, cell, level, method)
                row = row_of(cell, method, of, level, seen)
                print(row, flush=True)
                with open(a.out, "a", encoding="utf-8") as f:
                    f.write(json.dumps(row) + "\n")


def turns(cell, methods):
    """(method, of which level, level), in the order in which they are run. mete said of its own level what it thinks of it."""
    return [(m, of, level) for m in order(cell["cell"], methods) for of, level in levels_of(cell) if m != METE or of == "kept"]


def levels_of(cell):
    """The level that was agreed on, if any, and the one that was asked for where that is another."""
    is_agreed = cell["answer"] != "refused" and cell.get("granted", True)
    return ([("kept", cell["kept_level"])] if is_agreed else []) + ([("asked", cell["level"])] if cell["answer"] in ("countered", "refused") else [])


def table(rows):
    out = ["", "| method | levels that were agreed on | met | longer downtime than agreed | the guest's speed meanwhile, median, least | levels that mete countered | met |",
           "|---|---|---|---|---|---|---|"]
    for method in [*METHODS, *([METE] if any(r["method"] == METE for r in rows) else [])]:
        kept, asked = ([r for r in rows if r["method"] == method and r["of"] == of] for of in ("kept", "asked"))
        over = sum(r.get("downtime_ms", 0) > r["level"]["downtime_ms"] for r in kept)
        name, of_asked = (f"{METE}, in its turn", "| | |") if method == METE else (method, f"| {len(asked)} | {sum(r['met'] for r in asked)} |")
        out.append(f"| {name} | {len(kept)} | {sum(r['met'] for r in kept)} | {over} | {speeds(r['speed'] for r in kept)} {of_asked}")
    mine = {r["cell"]: r for r in rows if r["of"] == "kept"}.values()
    out += [f"| {METE}, when the levels were agreed on | {len(mine)} | {sum(r['mete'] == 'met' for r in mine)} | {sum(r.get('mete_over', False) for r in mine)} | "
            f"{speeds(r.get('mete_speed') for r in mine)} | | |", ""]
    wrong = [f"cell {r['cell']}: {r['wrong']}" for r in rows if r.get("wrong")]
    out += [f"WRONG in the guest's memory, its runners or the ledgers: {'; '.join(wrong)}."] if wrong else []
    accepted, could = accepted_over_oracle(rows)
    return "\n".join(out + [f"Levels as they were asked for that any of these met: {len(could)}, of which mete accepted {len(could & accepted)}."])


def speeds(values):
    """Of guests that have something to do: 1.0 is what each does when nobody moves it."""
    known = [v for v in values if v is not None]
    return f"{statistics.median(known):.2f}, {min(known):.2f}" if known else "-"


def accepted_over_oracle(rows):
    """Cells whose level was accepted as it was asked for, and those of which any method met it."""
    accepted = {r["cell"] for r in rows if r["answer"] not in ("countered", "refused")}
    return accepted, {r["cell"] for r in rows if r["met"] and (r["of"] == "asked" or r["cell"] in accepted)}


if __name__ == "__main__":
    main()

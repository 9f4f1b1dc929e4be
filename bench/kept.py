# SPDX-License-Identifier: Apache-2.0
"""What it is worth that a stopped VM's host resources stay bound: its start from them against one from scratch."""
import time

import payload
from host import wait_for
from on_host import host
from result import at_most

MEMORY = "2G"


def started(h, name):
    """Milliseconds until the RAM is there and the VMM answers, and until the VM runs."""
    since = h.last_event()
    began = time.monotonic()
    h.mete("vm", "start", name)
    whole = (time.monotonic() - began) * 1000
    at = {}
    for e in h.events(name, since):
        at.setdefault((e["event"], e["text"].split(" ")[0]) if e["event"] == "activated" else e["event"], e["at_ms"])
    return at["activated", "ram"] - at["reserved"], whole, "taken-over" in at


def lazy(report, rounds):
    kept, scratch = ([], []), ([], [])
    with host(memory="3G") as h:
        h.image(payload.button(), "button.elf")
        h.mete("vm", "create", "bench", "--cpus=1", f"--memory={MEMORY}", "--share=0.5", "--prealloc", "--kernel=button.elf")
        for _ in range(rounds or 9):
            for times, is_kept in ((scratch, False), (kept, True)):
                ram, whole, was_kept = started(h, "bench")
                if was_kept != is_kept:
                    raise RuntimeError(f"taken over: {was_kept}")
                times[0].append(float(ram))
                times[1].append(whole)
                wait_for("the guest is up", lambda: payload.is_button_ready(f"{h.ram_dir}/bench/ram0"), 60)
                h.mete("vm", "kill" if is_kept else "stop", "bench")
        accel = h.mete_json("vm", "show", "bench")["accelerator"]
    method = (f"a VM with {MEMORY} of preallocated RAM, from what its last run has left over from scratch, in turns: from its "
              "decision until its VMM has the RAM and answers")
    report.figure("lazy_over_scratch", [a / b for a, b in zip(kept[0], scratch[0])], "ratio", at_most(0.8),
                  {"kept_ms": (kept[0], "ms"), "scratch_ms": (scratch[0], "ms")}, method, accel, digits=3)
    report.figure("lazy_over_scratch_whole", [a / b for a, b in zip(kept[1], scratch[1])], "ratio", at_most(0.9),
                  {"kept_ms": (kept[1], "ms"), "scratch_ms": (scratch[1], "ms")},
                  "the same, as an operator sees it: 'mete vm start' until it says that the VM runs", accel, digits=3)


GROUPS = [(["lazy_over_scratch", "lazy_over_scratch_whole"], lazy)]

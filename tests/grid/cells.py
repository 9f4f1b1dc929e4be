# SPDX-License-Identifier: Apache-2.0
"""What `make grid` moves: cells of link, memory, load and level, faults, and Linux guests; and what of them `make bench` moves. Pure;
the same for ever for the same seed."""
import random

SEED = 20260101
MIB = 1 << 20
LINKS = (200, 400, 1000)                        # Mbit/s
DIRTY = (0, 0.05, 0.15, 0.3, 0.5, 0.8, 1.5)     # of what the link carries: idle to hopeless
TIME = (0.8, 1.1, 1.3, 2, 4, 10)                # times what the link takes for the populated memory: impossible to loose
DOWNTIME = (50, 100, 200, 400, 1000, 3000)      # ms
AREA = (4, 16, 48, 128)                         # MiB that are written round and round
FAULTS = ("cut", "slow", "silence")
# Linux guests: small, so that none takes a minute. What the program in it has (tests/guest/dirty.c), by the link, and what Linux has beside
# it that is not zero; a tmpfs takes half of the memory.
FILLED = {200: (16, 32), 400: (32, 64, 96), 1000: (64, 128, 192)}
LINUX_AREA = (4, 16, 48)
LINUX_MIB = 80
# Of `make bench`: small ones, so that they take little time, and none that was looked at while the model was made (report.FITTED):
# an idle guest; two at a loose level; two at a level near to what the link allows; one that dirties more than the link carries. The
# loose ones come first, as it is from them that the hosts learn what a move costs between them.
SAMPLE_CELLS = (175, 226, 196, 67, 68, 92)
SAMPLE_FAULTS = (45, 95, 9, 69)  # the link is cut, and is silent, so soon behind the stop that it is not over


def populated(random_, mbit):
    """MiB; mostly up to 512, and what a slow link would need minutes for is left to the fast one."""
    return random_.choice((64, 128, 192, 256) if mbit == 200 else (64, 128, 256, 384, 512) if mbit == 400 else
                          (128, 256, 384, 512, 512, 1024, 1792))


def columns(r, n, *values):
    """Rows of one of each; each of them equally often, in a drawn order."""
    many = [[some[i % len(some)] for i in range(n)] for some in values]
    for column in many:
        r.shuffle(column)
    return zip(*many)


def level_of(ideal_ms, time_, downtime):
    total_ms = round(ideal_ms * time_) + 200
    return {"total_ms": total_ms, "downtime_ms": min(downtime, total_ms)}


def cells(n=240, seed=SEED):
    """Every link with every rate of dirtying and every kind of level equally often, the pairs drawn, in a drawn order."""
    r = random.Random(seed)
    found = []
    for mbit, rate, time_, downtime, area in columns(r, n, LINKS, DIRTY, TIME, DOWNTIME, AREA):
        memory = max(populated(r, mbit), area)
        bytes_per_s = mbit * 1e6 / 8
        ideal_ms = memory * MIB / bytes_per_s * 1000
        found.append({"mbit": mbit, "populated_mib": memory, "area_mib": area, "dirty_mib_s": round(rate * bytes_per_s / MIB),
                      "memory_mib": next(m for m in (256, 512, 1024, 2048) if m >= memory + 48),
                      "level": level_of(ideal_ms, time_, downtime), "dirty_of_link": rate, "time_of_ideal": time_})
    return [{"cell": i, **c} for i, c in enumerate(found)]


def linux(n=16, seed=SEED):
    """Moves of Linux guests, drawn as the cells are."""
    r = random.Random(seed + 2)
    found = []
    for i, (mbit, rate, time_, downtime, area) in enumerate(columns(r, n, LINKS, DIRTY, TIME, DOWNTIME, LINUX_AREA)):
        filled = max(r.choice(FILLED[mbit]), area)
        bytes_per_s = mbit * 1e6 / 8
        ideal_ms = (filled + LINUX_MIB) * MIB / bytes_per_s * 1000
        found.append({"linux": i, "mbit": mbit, "filled_mib": filled, "area_mib": area, "dirty_mib_s": round(rate * bytes_per_s / MIB),
                      "memory_mib": 256 if 2 * filled <= 160 else 512, "level": level_of(ideal_ms, time_, downtime),
                      "dirty_of_link": rate, "time_of_ideal": time_})
    return found


def faults(n=100, seed=SEED):
    """When and how the link breaks. at: of the copy's expected time, or ms after the guest stopped; for_ms: until it is mended."""
    r = random.Random(seed + 1)
    found = []
    for i in range(n):
        kind = FAULTS[i % len(FAULTS)]
        phase = "stop" if i // len(FAULTS) % 2 else "copy"
        found.append({"fault": i, "kind": kind, "phase": phase, "at": round(r.uniform(0, 100)) if phase == "stop" else round(r.uniform(0, 1), 3),
                      "for_ms": 500 if kind == "silence" else round(r.uniform(1500, 5000)), "mbit": 400, "populated_mib": 96,
                      "memory_mib": 256, "area_mib": 32, "dirty_mib_s": 24 if phase == "stop" else 12, "level": {"total_ms": 60000, "downtime_ms": 800}})
    return found


def sample():
    """(cells, faults) of `make bench`, in the order in which they are moved."""
    some, all_faults = cells(), faults()
    return [some[n] for n in SAMPLE_CELLS], [all_faults[n] for n in SAMPLE_FAULTS]

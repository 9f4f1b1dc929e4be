# SPDX-License-Identifier: Apache-2.0
"""Read the payload's board (tests/payload/board.h) in the file that holds a guest's RAM.

    board = payload.read("/dev/shm/mete/v/ram0")
    board.rounds      # work done by each vCPU, by its slot; None where it is not on
"""
import collections
import os
import struct

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ADDRESS = 0x200000
MAGIC = 0x4554454D
VERSION = 1
CPUS_MAX = 64
WORK = 40  # offset of what the host may write: how many vCPUs are to work
SIZE = 64 + 64 * CPUS_MAX

Board = collections.namedtuple("Board", "cpus_max cpus ms tsc_khz area_first area_bytes dirtied_pages passes work "
                                        "wrong_pages rounds starts")


def program(release=None):
    """The payload as it was built."""
    release = release or os.path.join(ROOT, os.environ.get("METE_RELEASE") or "build/release")
    return os.path.join(release, "tests/payload/payload.elf")


def button(release=None):
    """A guest that does nothing, and powers down as soon as it is asked to."""
    return os.path.join(os.path.dirname(program(release)), "button.elf")


def is_button_ready(path):
    """Whether the guest of button(), whose RAM is that file, hears of its power button."""
    try:
        with open(path, "rb") as f:
            f.seek(ADDRESS)
            return f.read(4) == b"RADY"
    except OSError:
        return False


def parse(data):
    """The board in SIZE bytes from ADDRESS on; None where the payload is not up."""
    words = struct.unpack_from("<16I", data)
    if words[0] != MAGIC:
        return None
    if words[1] != VERSION:
        raise ValueError(f"the payload's board has version {words[1]}, not {VERSION}")
    cpus = [struct.unpack_from("<3I", data, 64 + 64 * i) for i in range(min(words[2], CPUS_MAX))]
    return Board(*words[2:12], [c[1] if c[0] else None for c in cpus], [c[2] for c in cpus])


def read(path, at=ADDRESS):
    """The board of the guest whose RAM is that file. at: where it is in it."""
    with open(path, "rb") as f:
        f.seek(at)
        data = f.read(SIZE)
    return parse(data) if len(data) == SIZE else None


def set_work(path, cpus):
    """Lets vCPUs 0 to cpus - 1 work, and the others sleep."""
    with open(path, "r+b") as f:
        f.seek(ADDRESS + WORK)
        f.write(struct.pack("<I", cpus))

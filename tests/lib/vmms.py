# SPDX-License-Identifier: Apache-2.0
"""The VMMs of hosts in tests, as processes: found, stopped, killed."""
import contextlib
import os
import signal

from host import UID_COUNT, wait_for


def find(host, *words):
    """Processes of that host that have these words on their command line, and live."""
    found = []
    for path in os.listdir("/proc"):
        if not path.isdigit():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{path}/cmdline", "rb") as f:
                line = f.read().decode(errors="replace")
            if host.dir in line and all(w in line for w in words) and state(path) != "Z":
                found.append(int(path))
    return found


def state(pid):
    """The kernel's letter: T it is stopped, Z it has ended."""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def vmms(host, name):
    return [pid for pid in find(host, "-machine", f"/{name}/") if is_a_vms(host, pid)]


def is_a_vms(host, pid):
    with contextlib.suppress(FileNotFoundError):
        return os.stat(f"/proc/{pid}").st_uid in range(host.uid_first, host.uid_first + UID_COUNT)
    return False


def has_ended(pid):
    """With all of its threads, so that whoever was connected to it can know."""
    try:
        return all(state(f"{pid}/task/{tid}") in "ZX" for tid in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_vmm(host, name):
    """Returns when it has ended: [its pid], or [] where there is none."""
    pids = vmms(host, name)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(f"the VMM of {name} is dead", lambda: all(has_ended(pid) for pid in pids), 60, 0.01)
    return pids

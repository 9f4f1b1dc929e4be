# SPDX-License-Identifier: Apache-2.0
"""A VMM's own word, and what it can be told behind the back of meted.

QEMU has one connection to a monitor at a time: meted must not run while this one is used.
"""
import contextlib
import json
import socket
import threading

from host import HostError

DISK = "/machine/peripheral/blk0/virtio-backend"


class Monitor:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(path)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            answer = json.loads(line) if line else {"error": "the VMM has hung up"}
            if "error" in answer:
                raise HostError(str(answer["error"]))
            if "return" in answer:
                return answer["return"]

    def disk(self):
        """(bytes a second, operations a second) that the disk is held to, and nothing else that is limited."""
        inserted = next(d["inserted"] for d in self.call("query-block") if d.get("qdev") == DISK)
        others = [k for k, v in inserted.items() if k.startswith(("bps_", "iops_")) and v]
        assert not others, inserted
        return inserted["bps"], inserted["iops"]

    def set_disk(self, **limits):
        names = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
        self.call("block_set_io_throttle", id=DISK, **{name: limits.get(name, 0) for name in names})

    def close(self):
        self.file.close()
        self.sock.close()


@contextlib.contextmanager
def monitor(host, name):
    """The monitor of the VM of that name, while meted is away; afterwards it is there again."""
    host.kill_meted()
    try:
        m = Monitor(host.path("run", "vm", name, "qmp.sock"))
        try:
            yield m
        finally:
            m.close()
    finally:
        host.start_meted()


def disk_limits(host, name):
    with monitor(host, name) as m:
        return m.disk()


@contextlib.contextmanager
def slowed(host, name, **then):
    """The copy of that VM goes on for as long as this is there; then with these parameters. It must have no level for the downtime: the
    place of the guard's monitor is ours."""
    m = Monitor(host.path("run", "vm", name, "guard.sock"))
    stop = threading.Event()

    def hold():
        with contextlib.suppress(OSError, HostError, ValueError):  # it is killed, too
            while not stop.wait(0.02):
                m.call("migrate-set-parameters", **{"max-bandwidth": 1 << 18})
            m.call("migrate-set-parameters", **{"max-bandwidth": 0, **then})
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(OSError):
            m.file.close()
        m.sock.close()

# SPDX-License-Identifier: Apache-2.0
"""A guest whose first process is the distribution's systemd, with its system bus and busctl, and where mete-agent runs by
the unit that an installation has. As nested_systemd.py, nothing else of the distribution's runs.

    build_image()
    with Host(memory="2G") as host:
        vm = host.vm("v", initrd=IMAGE, append=APPEND, memory=MEMORY)
"""
import fcntl
import os

from nested import ROOT, CannotRun, _image_builder
from nested_systemd import PROGRAMS, SYSTEMD, add_program, base_files

IMAGE = "systemd.cpio.gz"
APPEND = f"rdinit={SYSTEMD} systemd.show_status=no"
MEMORY = "384M..1G"
PREPARE = """[Unit]
Description=What udev and systemd-modules-load do
Before=basic.target
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/etc/prepare
"""
SCRIPT = """#!/bin/sh
dmesg -n 1
ifconfig lo up
ln -s /run /var/run
while read -r module; do insmod "/lib/mete-modules/$module.ko"; done </lib/mete-modules/order
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
        [ -s "$port/name" ] && ln -sf "../${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
"""


def build_image():
    """build/guest/IMAGE, with the programs of the release build; the kernel beside it is that of host.build_image()."""
    release = os.path.join(ROOT, os.environ.get("METE_RELEASE") or "build/release")
    cache, out = os.environ.get("METE_CACHE") or os.path.join(ROOT, "build/cache"), os.path.join(ROOT, "build/guest")
    builder = _image_builder()
    files = base_files(builder, [*PROGRAMS, "/usr/bin/busctl"], {"mete-agent": "mete-agent"}, PREPARE)
    add_program(files, builder, "/usr/libexec/mete/mete-agent", os.path.join(release, "src/agent/mete-agent"))
    add_program(files, builder, "/usr/bin/mete", os.path.join(release, "src/cli/mete-guest"))
    files["/etc/systemd/system/default.target"] = (b"[Unit]\nRequires=basic.target\nAfter=basic.target\n"
                                                   b"Wants=console.service files.service dbus.socket mete-agent.service\n")
    archive = builder.Archive()
    for to, source in files.items():
        if isinstance(source, bytes):
            archive.file(to, source)
        else:
            archive.copy(to, source)
    archive.file("etc/prepare", SCRIPT.encode(), 0o755)
    with open(os.path.join(out, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _, modules = builder.kernel_tree(cache)
            order = builder.modules_in_order(modules)
            for name, data in order:
                archive.file(f"lib/mete-modules/{name}.ko", data)
            archive.file("lib/mete-modules/order", "".join(n + "\n" for n, _ in order).encode())
            builder.OVERLAY = "/nonexistent"
            builder.add_base(archive, builder.find_program("busybox"))
        except SystemExit as e:  # build-image is a program
            raise CannotRun(str(e)) from None
        archive.write(os.path.join(out, IMAGE))

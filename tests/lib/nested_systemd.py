# SPDX-License-Identifier: Apache-2.0
"""A nested host (nested.py) whose first process is the distribution's systemd, with its system bus, and which runs mete's
daemons by the units that an installation has.

    with SystemdHost() as n:
        n.start_daemons()
        vm = n.vm("v")
        print(n.unit("mete-vms.scope", "ControlGroup"))

Nothing else of the distribution's runs: no journal (the daemons log to files, as in the other nested host), no udev, no
login. The harness's shell is a service of its own.
"""
import os
import re

from nested import ROOT, CannotRun, NestedError, NestedHost, _image_builder

SYSTEMD = "/lib/systemd/systemd"
PROGRAMS = ["/usr/bin/systemctl", "/usr/bin/dbus-daemon"]
# The distribution's own units that our daemons are ordered by, and those that end the machine.
UNITS = ["basic.target", "sysinit.target", "multi-user.target", "shutdown.target", "umount.target", "final.target",
         "sockets.target", "timers.target", "paths.target", "slices.target", "local-fs.target", "local-fs-pre.target",
         "swap.target", "dbus.socket", "dbus.service"]
FILES = ["/usr/share/dbus-1/system.conf", "/usr/share/dbus-1/system.d/org.freedesktop.systemd1.conf",
         "/usr/share/dbus-1/system-services/org.freedesktop.systemd1.service"]
CONSOLE = """[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sh -c 'cd /root && exec /bin/sh'
Environment=HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin
StandardInput=tty
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Restart=always
RestartSec=0
CPUWeight=10000
"""
TMPFILES = """[Unit]
Description=What systemd-tmpfiles makes of dist/tmpfiles.conf
Before=basic.target
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'dmesg -n 1; ifconfig lo up; ln -s /run /var/run; mkdir -p /var/lib/mete/images /etc/mete /run/mete /dev/shm/mete; chown mete:mete /var/lib/mete /run/mete'
"""


def _without_templates(text):
    places = {"sbindir": "/usr/sbin", "libexecdir": "/usr/libexec"}
    return re.sub(r"@(\w+)@", lambda m: places[m.group(1)], text)


def add_program(files, builder, to, source):
    if not os.path.exists(source):
        raise CannotRun(f"{source} is missing")
    files[to] = os.path.realpath(source)
    for lib in builder.libraries(os.path.realpath(source)):
        files[lib] = os.path.realpath(lib)


def base_files(builder, programs, logs, prepare):
    """{path in the machine: path here, or bytes}: systemd, its bus, our units, and the harness's shell. `logs`: {our unit:
    its log's name}; `prepare`: the unit that makes what others find."""
    if not os.path.exists(SYSTEMD):
        raise CannotRun(f"{SYSTEMD} is missing: the package systemd has it")
    files = {}
    for path in [SYSTEMD, *programs]:
        add_program(files, builder, path, path)
    for name in UNITS:
        files[f"/lib/systemd/system/{name}"] = os.path.realpath(f"/lib/systemd/system/{name}")
    for path in FILES:
        files[path] = path
    units = os.path.join(ROOT, "dist/systemd")
    for name in os.listdir(units):
        with open(os.path.join(units, name), encoding="utf-8") as f:
            files[f"/usr/lib/systemd/system/{name.removesuffix('.in')}"] = _without_templates(f.read()).encode()
    for unit, log in logs.items():
        files[f"/etc/systemd/system/{unit}.service.d/log.conf"] = f"[Service]\nStandardError=append:/var/log/{log}.log\n".encode()
    return files | {
        "/etc/systemd/system/console.service": CONSOLE.encode(),
        "/etc/systemd/system/files.service": prepare.encode(),
        "/etc/systemd/system/default.target": b"[Unit]\nRequires=basic.target\nWants=console.service files.service dbus.socket\n"
                                              b"After=basic.target\n",
        "/etc/machine-id": b"0123456789abcdef0123456789abcdef\n",
        "/etc/os-release": b"ID=nested\nNAME=nested\n",
        "/etc/hostname": b"nested\n",
        "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/:/bin/false\n"
                       b"mete:x:990:990::/var/lib/mete:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "/etc/group": b"root:x:0:\nmessagebus:x:100:\nmete:x:990:\nnogroup:x:65534:\ntty:x:5:\nkvm:x:106:\n",
    }


def systemd_files(release):
    """{path in the nested host: path here, or bytes}."""
    builder = _image_builder()
    files = base_files(builder, PROGRAMS, {"mete-keeper": "keeper", "meted": "meted"}, TMPFILES)
    add_program(files, builder, "/usr/sbin/mete-keeper", os.path.join(release, "src/keeper/mete-keeper"))
    add_program(files, builder, "/usr/sbin/meted", os.path.join(release, "src/meted/meted"))
    return files


class SystemdHost(NestedHost):
    def __init__(self, **options):
        super().__init__(append=f"rdinit={SYSTEMD} systemd.show_status=no", **options)
        self.files = systemd_files(self.release)

    def unit(self, name, key):
        return self.check(f"systemctl show --property={key} --value {name}")

    def start_daemons(self):
        self.write("/etc/mete/keeper.conf", "[keeper]\n")
        self.write("/etc/mete/mete.conf", "[meted]\nname=nested\n[host]\nreserve=0\n[limits]\nverify=0s\n")
        self.systemctl("start", "meted.service")  # which requires the keeper
        self.wait_up()

    def systemctl(self, *words, timeout_s=180):
        status, text = self.run("systemctl " + " ".join(words), timeout_s)
        if status:
            raise NestedError(f"systemctl {' '.join(words)}: exit {status}: {text}\n{self.log('keeper')[-1500:]}\n{self.log('meted')[-1500:]}")
        return text

    def wait_up(self):
        """Until meted answers and has its keeper."""
        self.wait_for("the daemons answer", "mete doctor 2>&1 | grep -q 'meted reaches it'", 60)

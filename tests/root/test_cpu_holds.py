# SPDX-License-Identifier: Apache-2.0
"""The CPU providers against real kernels: this one, and that of a guest, which has cgroup v2."""
import os
import subprocess
import sys
import tempfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lib"))
from console import Console  # noqa: E402

if os.geteuid() != 0:
    pytest.skip("cgroups need root", allow_module_level=True)

QEMU = os.environ.get("METE_QEMU") or "/usr/bin/qemu-system-x86_64"
OUT = os.path.join(ROOT, "build", "guest")


@pytest.fixture(scope="module")
def program():
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, "cpu-holds")
    sources = [f"src/host/{n}.c" for n in ("cgroupfs", "cpu", "cpu-affinity", "cpu-cgroup", "cpu-exclusive", "cpu-group", "cpulist")]
    sources += ["src/base/err.c", "src/base/str.c", "tests/root/cpu-holds.c"]
    subprocess.run(["gcc", "-std=gnu17", "-O1", "-static", "-pthread", "-D_GNU_SOURCE", "-Isrc", "-o", path, *sources],
                   cwd=ROOT, check=True)
    return path


def test_on_this_kernel(program):
    done = subprocess.run([program, f"mete-holds-{os.getpid()}"], capture_output=True, text=True, timeout=60, check=False)
    print(done.stdout)
    assert done.returncode == 0 and "CPU-HOLDS OK" in done.stdout, done.stdout


def test_on_cgroup_v2(program):
    subprocess.run([os.path.join(ROOT, "tests/guest/build-image"), "--bare", "--name", "holds", "--add-file",
                    f"{program}:/usr/bin/cpu-holds"], check=True)
    with tempfile.TemporaryDirectory(prefix="mete-holds-") as directory:
        path = os.path.join(directory, "console.sock")
        qemu = subprocess.Popen([QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel",
                                 "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "512", "-kernel",
                                 os.path.join(OUT, "vmlinuz"), "-initrd", os.path.join(OUT, "holds.cpio.gz"), "-append",
                                 "console=ttyS0 quiet", "-chardev", f"socket,id=c,path={path},server=on,wait=off",
                                 "-serial", "chardev:c"])
        try:
            with Console(path) as console:
                console.wait_ready()
                status, text = console.run("cpu-holds mete/vms cgroup-v2", timeout_s=120)
                print(text)
                assert status == 0 and "CPU-HOLDS OK cgroup-v2" in text, text
        finally:
            qemu.kill()
            qemu.wait()

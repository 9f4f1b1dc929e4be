# SPDX-License-Identifier: Apache-2.0
"""A VM by itself, without mete, whose guest (tests/payload) works and dirties memory at a known rate.

    with Dirtier(qemu, payload, mib=512, options="work=1 dirty=32 area=64") as vm:
        vm.ram          # the file that is its memory
        vm.board()      # what the guest says of itself
"""
import os
import shutil
import subprocess
import tempfile
import time

import payload


class Dirtier:
    def __init__(self, qemu, program, mib=256, options="", log=None):
        self.dir = tempfile.mkdtemp(prefix="mete-dirtier-", dir="/dev/shm")
        self.ram = f"{self.dir}/ram0"
        try:
            self.process = subprocess.Popen(
                [qemu, "-machine", "q35,memory-backend=ram0", "-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none",
                 "-object", f"memory-backend-file,id=ram0,size={mib}M,mem-path={self.ram},share=on", "-m", str(mib),
                 "-smp", "1", "-kernel", program, "-append", options],
                stdin=subprocess.DEVNULL, stdout=log or subprocess.DEVNULL, stderr=log)
        except BaseException:
            shutil.rmtree(self.dir)
            raise

    def __enter__(self):
        try:
            self.wait_for_passes(0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.dir)

    def wait_for_passes(self, n, timeout_s=60):
        """Until the guest is up, and has been over its area so often."""
        end = time.monotonic() + timeout_s
        while not (self.board() and self.board().passes >= n):
            assert self.process.poll() is None, f"QEMU ended with {self.process.returncode}"
            assert time.monotonic() < end, f"the guest has not been over its area {n} times: {self.board()}"
            time.sleep(0.05)

    def board(self):
        return payload.read(self.ram) if os.path.exists(self.ram) else None

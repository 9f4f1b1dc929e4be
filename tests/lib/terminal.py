# SPDX-License-Identifier: Apache-2.0
"""A terminal for a program that shows more on one: what it prints there is taken at once, so that it never waits.

    with Terminal() as t:
        p = subprocess.Popen(..., stdout=t.inner)
        t.text()"""
import os
import pty
import threading


class Terminal:
    def __enter__(self):
        self.outer, self.inner = pty.openpty()
        self._taken = []
        self.thread = threading.Thread(target=self._take, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        os.close(self.inner)  # once nobody else has it either, reading ends
        self.thread.join()
        os.close(self.outer)

    def _take(self):
        try:
            while data := os.read(self.outer, 1 << 16):
                self._taken.append(data)
        except OSError:
            pass

    def text(self):
        return b"".join(self._taken).decode(errors="replace")

# SPDX-License-Identifier: Apache-2.0
"""A made-up resctrl tree: a folder with the files of one. Nothing in it is enforced, and the keeper says so; what it
shows is what would be written to the kernel's own. By default one L3 cache for each CPU of the list, 11 ways each that
devices do not share, and memory bandwidth in steps of 10 %."""
import os
import shutil
import stat
import tempfile


class MadeUpTree:
    def __init__(self, cpus=(0,), domains=None, classes=4):
        self.dir = tempfile.mkdtemp(prefix="mete-resctrl-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        self.root = f"{self.dir}/resctrl"
        domains = domains if domains is not None else {0: list(cpus)}
        ids = sorted(domains)
        for path, text in {
                "info/L3/num_closids": classes, "info/L3/cbm_mask": "fff", "info/L3/min_cbm_bits": 1,
                "info/L3/shareable_bits": 800, "info/MB/num_closids": classes, "info/MB/bandwidth_gran": 10,
                "info/MB/min_bandwidth": 10, "info/last_cmd_status": "ok", "mode": "shareable", "tasks": "",
                "schemata": "    MB:" + ";".join(f"{i}=100" for i in ids) + "\n    L3:" +
                            ";".join(f"{i}=fff" for i in ids)}.items():
            self.write(path, f"{text}\n")
        # Which CPUs are below which of its caches: a tree of its own in place of the machine's /sys.
        for domain, below in domains.items():
            for cpu in below:
                for name, text in {"level": 3, "type": "Unified", "id": domain}.items():
                    self.write(f"sys/devices/system/cpu/cpu{cpu}/cache/index3/{name}", f"{text}\n")
                for index in range(3):
                    for name, text in {"level": 1 + index // 2, "type": "Instruction", "id": cpu}.items():
                        self.write(f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}/{name}", f"{text}\n")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        shutil.rmtree(self.dir)

    def write(self, path, text):
        path = f"{self.root}/{path}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)

    def read(self, path):
        with open(f"{self.root}/{path}") as f:
            return f.read()

    def config(self):
        return f"[resctrl]\nmanage=yes\npath={self.root}\n"

    def groups(self):
        return sorted(e.name for e in os.scandir(self.root) if e.is_dir() and e.name not in ("info", "sys"))

    def schemata(self, group=""):
        """{("L3", 0): 0xfff, ("MB", 0): 100}"""
        rows = {}
        for line in self.read(f"{group}/schemata").split("\n"):
            name, _, values = line.strip().partition(":")
            for value in values.split(";") if values else []:
                domain, _, amount = value.partition("=")
                rows[name, int(domain)] = int(amount, 16 if name == "L3" else 10)
        return rows

    def tasks(self, group):
        return {int(t) for t in self.read(f"{group}/tasks").split()}

    def state(self):
        """Every file with its text and its mode, and every folder."""
        found = {}
        for folder, _, files in os.walk(self.root):
            found[folder] = stat.S_IMODE(os.stat(folder).st_mode)
            for name in files:
                path = f"{folder}/{name}"
                with open(path) as f:
                    found[path] = (stat.S_IMODE(os.stat(path).st_mode), f.read())
        return found

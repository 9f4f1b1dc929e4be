# SPDX-License-Identifier: Apache-2.0
"""What a bench found: printed as BENCH lines, and kept as JSON with all that is needed to judge it."""
import datetime
import json
import os
import platform
import re
import statistics
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QEMU = os.environ.get("METE_QEMU") or "/usr/bin/qemu-system-x86_64"
RELEASE = os.environ.get("METE_RELEASE") or "build/release"


class Skip(Exception):
    """This cannot be measured here, and why."""


def spread(samples):
    """Of a list of numbers, what the JSON has."""
    return {"n": len(samples), "median": statistics.median(samples), "min": min(samples), "max": max(samples)}


def at_least(value):
    return (">=", value)


def at_most(value):
    return ("<=", value)


def output(*argv):
    try:
        return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
                              cwd=ROOT).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*:\s*(.*)", f.read())
    with open("/proc/meminfo") as f:
        memory = re.search(r"MemTotal:\s+(\d+)", f.read())
    version = re.search(r"version (\S+)", output(QEMU, "--version"))
    return {"cpu": model.group(1) if model else platform.machine(), "cpus": os.cpu_count(),
            "memory_mib": int(memory.group(1)) // 1024, "kernel": platform.release(),
            "qemu": version.group(1) if version else None}


class Report:
    def __init__(self, out, prefix=""):
        self.out, self.prefix, self.missed = out, prefix, []
        self.machine = machine()
        self.commit = output("git", "describe", "--always", "--dirty").strip()
        os.makedirs(out, exist_ok=True)

    def wants(self, *names):
        """Whether any of the figures was asked for; a group may leave out work for those that were not."""
        return any(n.startswith(self.prefix) for n in names)

    def figure(self, name, samples, unit, aim=None, beside=None, method="", accelerator=None, digits=2, value=None):
        """One figure: the median of its samples (or `value`, where the samples are parts of it).

        beside: {name: (samples, unit)}, the peer or limit that was measured in the same run."""
        value = statistics.median(samples) if value is None else value
        record = {"name": name, "value": round(value, 6), "unit": unit, "samples": spread(samples)}
        record["beside"] = {n: {"unit": u, **spread(s)} for n, (s, u) in (beside or {}).items()}
        if aim:
            met = value >= aim[1] if aim[0] == ">=" else value <= aim[1]
            record["aim"] = {"relation": aim[0], "value": round(aim[1], 6), "met": met}
            if not met:
                self.missed.append(f"{name} is {value:.{digits}f} {unit}, wanted {aim[0]} {aim[1]:.{digits}f}")
        with open("/proc/loadavg") as f:
            load = float(f.read().split()[0])
        record.update(method=method, accelerator=accelerator, machine=self.machine, commit=self.commit,
                      load_1min=load, date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"))
        with open(os.path.join(self.out, f"{name}.json"), "w") as f:
            json.dump(record, f, indent=2)
            f.write("\n")
        for n, b in record["beside"].items():
            print(f"# {name}: beside {n} {b['median']:.{digits}f} {b['unit']} ({b['min']:.{digits}f} to "
                  f"{b['max']:.{digits}f})")
        print(f"BENCH {name} {value:.{digits}f} {unit}", flush=True)

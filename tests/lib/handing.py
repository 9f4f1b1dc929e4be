# SPDX-License-Identifier: Apache-2.0
"""Two hypervisors of one server, and a service processor that a test plays: it leads handovers as core/handover.h says, and
can be told to lose a word, or to stop in the middle.

    with Pair() as pair:
        vm = pair.a.vm("v", cpus=1, memory="256M")
        assert pair.hand_over(vm, pair.b) == "running"
"""
import contextlib
import http.server
import json
import os
import pwd
import queue
import shutil
import socketserver
import threading
import time
import uuid

from app import App
from host import HostError, PATIENCE_S, kvm_group, wait_for
from server import Hypervisor, Server, USERS


class Ear(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.heard(body)
        answer = b'{"taken": true}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass

    def address_string(self):
        return "unix"


class Leader:
    """One handover, as the service processor leads it."""

    def __init__(self, pair, vm, source, target, gap_ms=None, keeps=()):
        pair.epoch += 1
        self.pair, self.vm, self.source, self.target, self.keeps = pair, vm.name, source, target, list(keeps)
        self.id, self.epoch, self.gap_ms = f"h{pair.epoch}", pair.epoch, gap_ms
        self.words, self.said, self.lost = queue.Queue(), {}, set()

    def say(self, to, says, **more):
        """A word gets lost where nobody is there to hear it."""
        body = {"says": says, "handover": self.id, "vm": self.vm, "epoch": self.epoch,
                "peer": (self.target if to is self.source else self.source).hypervisor_name, **more}
        if self.gap_ms:
            body["gap_ms"] = self.gap_ms
        if says in self.lost:
            return None
        try:
            return to.http("POST", "/v1/handover/messages", body)
        except (OSError, http.client.HTTPException):
            return None

    def hear(self, body):
        self.said[body["says"]] = body
        self.words.put(body["says"])

    def until(self, to, says, wanted, timeout_s=120, **more):
        """Says it again and again until one of the words comes; returns that."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for word in wanted:
                if word in self.said:
                    return word
            self.say(to, says, **more)
            end = time.monotonic() + 0.5
            while time.monotonic() < end and not any(w in self.said for w in wanted):
                try:
                    self.words.get(timeout=0.02)
                except queue.Empty:
                    pass
        raise HostError(f"{says}: none of {wanted} came, but {list(self.said)}: {self.pair.story(self.id)}")

    def back(self):
        for to, says, wanted in ((self.source, "abort", ("back", "died")), (self.target, "drop", ("dropped", "lost"))):
            self.until(to, says, wanted)
        return "back" if "back" in self.said else "lost"

    def recall(self):
        """When the source is giving it, and the target does not see that it stands."""
        self.lost.add("stands")
        self.lead(upto="give")

        def is_giving():
            self.say(self.source, "give", transfer=self.said["informed"]["transfer"])
            return self.pair.state(self.source, self.id) == "source-giving"
        wait_for("the source gives it", is_giving, 60, 0.02)
        return self.back()

    def lead(self, upto=None):
        """"running", "back" or "lost"."""
        ends = ("back", "died", "dropped", "lost")
        for to, says, wanted in ((self.source, "classify", "classified"), (self.target, "offer", "accepted"),
                                 (self.source, "separate", "separated"), (self.source, "quiesce", "quiesced"),
                                 (self.target, "inform", "informed"), (self.source, "give", "running")):
            more = {"keeps": self.keeps} if says == "classify" and self.keeps else {}
            if says in ("offer", "inform"):
                more["guest"] = self.said["classified" if says == "offer" else "quiesced"]["guest"]
            if says == "give":
                more["transfer"] = self.said["informed"]["transfer"]
                if "stands" in self.lost:  # what is there is no word, and nobody can write one any more
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(os.path.join(self.said["quiesced"]["guest"]["loan"]["record"], "stands"))
            if says == upto:
                return upto
            word = self.until(to, says, (wanted, *ends), **more)
            if word == "lost":  # it had come, and died there
                self.pair.assign(self)
                self.until(self.source, "finish", ("gone",))
                self.say(self.target, "settle")
                return "lost"
            if word != wanted:
                return self.back()
        self.pair.assign(self)
        # it finds the record by itself, and says so until it hears more; whatever dies meanwhile comes back to that
        wait_for("the source has given it", lambda: "given" in self.said or "gone" in self.said, 60, 0.02)
        if self.until(self.source, "finish", ("gone",)) == "gone":
            self.until_settled()
        return "running"

    def until_settled(self):
        def settled():
            self.say(self.target, "settle")
            return self.pair.state(self.target, self.id) == "target-settled"
        wait_for("the target is through", settled, 60, 0.1)


class Pair(Server):
    def start_sp(self, env=None, wait=True):
        self.epoch, self.part_epoch, self.leader = 0, 0, None
        self.processor = self.path("sprun", "processor.sock")
        for name in ("sprun", "spstate"):
            os.mkdir(self.path(name), 0o755)
        self.ear = Ear(self.processor, Handler)
        os.chmod(self.processor, 0o666)
        self.ear.heard = lambda body: self.leader and body["handover"] == self.leader.id and self.leader.hear(body)
        threading.Thread(target=self.ear.serve_forever, daemon=True).start()
        self.processes = {}
        self.shares = {}
        for n, (name, user) in enumerate(zip("ab", USERS)):
            self.make(name, user)
            self.start_hypervisor(name)
            # the second has less than the VM: that brings its own
            self.shares[name] = {f"cpu:{n}": 1000, "memory:node0": (1 << 30) if name == "a" else (256 << 20)}
            if self.net:
                self.shares[name]["net:up0"] = 100 * 10**6
        self.give_parts()
        self.a, self.b = self.hypervisor("a"), self.hypervisor("b")

    def make(self, name, user):
        u = pwd.getpwnam(user)
        for where in ("sprun", "spstate"):
            os.mkdir(self.path(where, name), 0o711)
            os.chown(self.path(where, name), u.pw_uid, u.pw_gid)
        with open(self.path("sprun", f"{name}.conf"), "w") as f:
            f.write(f"[meted]\nname={name}\nstate_dir={self.path('spstate', name)}\nrun_dir={self.path('sprun', name)}\n"
                    f"socket={self.path('sprun', name, 'meted.sock')}\nsocket_mode=0666\n[keeper]\nsocket={self.keeper_socket}\n"
                    f"[server]\nmanaged=yes\nprocessor={self.processor}\n[host]\nsource=live\ncpu_overcommit=8\n"
                    f"[vm]\nqemu={self.qemus.get(name, self.qemu)}\nimage_dir={self.path('images')}\n")
            if self.net:
                f.write(f"[net]\nmanage=yes\nnetwork=lan\nuplink=up0\nrate={self.net.rate}\n")

    qemus = {}

    def start_hypervisor(self, name, env=None):
        u = pwd.getpwnam(USERS["ab".index(name)])
        argv = [*self.inside, "setpriv", "--reuid", str(u.pw_uid), "--regid", str(u.pw_gid), *kvm_group(), "--inh-caps=-all", "--no-new-privs",
                "--", self.path("bin", "meted"), "--config", self.path("sprun", f"{name}.conf")]
        self.processes[name] = self._spawn("sp", argv, env or {})
        self._wait_socket(self.processes[name], "sp", self.path("sprun", name, "meted.sock"))

    def reboot(self):
        """All that runs is gone, and all that lies under /run and in memory; what is on disk is there. The kernel's boot id is
        another one to all that is started from now on."""
        for name in "ab":
            self.kill_hypervisor(name)
        self.kill_keeper()
        self._kill_vmms()
        for place in (self.path("keeper"), self.ram_dir):
            for name in os.listdir(place):
                path = os.path.join(place, name)
                (shutil.rmtree if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)
        with open(self.path("boot_id"), "w") as f:
            f.write(f"{uuid.uuid4()}\n")
        self.inside = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@"', self.path("boot_id")]
        self.start_keeper()
        for name in "ab":
            self.start_hypervisor(name)

    def kill_hypervisor(self, name, sig=9):
        if self.processes[name].poll() is None:
            self.processes[name].send_signal(sig)
        return self.processes[name].wait(PATIENCE_S)

    def give_parts(self, handover=None):
        self.part_epoch += 1
        for name, shares in self.shares.items():
            body = {"server": "s1", "epoch": self.part_epoch,
                    "shares": [{"component": c, "amount": n} for c, n in shares.items() if n > 0]}
            if handover:
                body["handover"] = handover
            wait_for(f"{name} takes its part", lambda b=body, n=name: self.takes(n, b), 60, 0.1)

    def takes(self, name, part):
        """One that is dead does not, yet."""
        try:
            return self.hypervisor(name).http("POST", "/v1/partition", part)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def assign(self, leader):
        for part in leader.said["quiesced"]["guest"]["parts"]:
            if part["portion"] == "reassignable":
                for name, sign in ((leader.source.hypervisor_name, -1), (leader.target.hypervisor_name, 1)):
                    share = self.shares[name]
                    share[part["component"]] = share.get(part["component"], 0) + sign * part["amount"]
        self.give_parts(leader.id)

    def hand_over(self, vm, target, **more):
        source = self.a if target is self.b else self.b
        self.leader = Leader(self, vm, source, target, **more)
        end = self.leader.lead()
        if end == "running":
            move(vm, target)
        return end

    def state(self, hypervisor, handover):
        """The last state of a handover there, by its log; None: it is not known, or nobody is there to ask."""
        with contextlib.suppress(HostError, OSError, http.client.HTTPException):
            return self.last_state(hypervisor, handover)
        return None

    def last_state(self, hypervisor, handover):
        found = [e["event"] for e in hypervisor.events(handover) if e["event"].split("-")[0] in ("source", "target")]
        return found[-1] if found else None

    def story(self, handover):
        return [[(e["event"], e.get("text")) for e in h.events(handover)] for h in (self.a, self.b)]

    def close(self):
        problems = []
        if self.dir is not None and hasattr(self, "ear"):
            self.sp = None
            problems = super().close()
            self.ear.shutdown()
            self.ear.server_close()
            return problems
        return super().close()


def move(vm, target):
    """The harness's VM is at the other hypervisor from now on."""
    vm.host.vms.pop(vm.name, None)
    vm.disconnect()
    vm.host = target
    target.vms[vm.name] = vm


# ---- the guest, and what must be true of it; pair: a Server with the hypervisors .a and .b

def counter(vm):
    return int(vm.check("cat /tmp/n"))


def ram_files(vm):
    """{name: (device, inode)} of what its VMM has mapped of its memory."""
    found = {}
    with open(f"/proc/{vm.pid()}/maps") as f:
        for line in f:
            words = line.split()
            if len(words) > 5 and "/dev/shm/" in words[5] and words[1][3] == "s":
                found[os.path.basename(words[5])] = (words[3], words[4])
    return found


def running(pair, name):
    """The hypervisors at which it runs."""
    return [h for h in (pair.a, pair.b)
            for v in h.mete_json("vm", "list")["vms"] if v["name"] == name and v["state"] == "running"]


def vmms(pair, name):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                line = f.read().decode(errors="replace")
            if pair.dir in line and f"guest={name}," in line and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(int(pid))
    return found


def is_whole(pair, vm, at):
    """It runs there and nowhere else, with all of its memory and what it had."""
    wait_for("it runs at one", lambda: running(pair, vm.name) == [at] and len(vmms(pair, vm.name)) == 1, 60, 0.1)
    assert vm.host is at
    vm.wait_agent()
    assert vm.check("cd /tmp; sha256sum -c sum") == "/tmp/blob: OK"
    before = counter(vm)
    wait_for("its counter goes on", lambda: counter(vm) > before, 60, 0.1)
    assert vm.cpus_online() == 2
    assert {c["state"] for c in at.claims() if vm.name in c["holder"]} == {"active"}


def new_vm(pair, hypervisor, **options):
    pair.made = getattr(pair, "made", 0) + 1
    v = hypervisor.vm(f"v{pair.made}", cpus="1..2", memory="192M..448M", **options)
    v.check("dd if=/dev/urandom of=/tmp/blob bs=1M count=16 2>/dev/null; sha256sum /tmp/blob >/tmp/sum")
    v.check("(n=0; while true; do n=$((n+1)); echo $n >/tmp/n.new; mv /tmp/n.new /tmp/n; sleep 0.05; done) >/dev/null 2>&1 &")
    v.app = App(v, "own")
    assert v.app.call("request", {"id": "m", "needs": ["memory:128M"]})["outcome"] == "granted"
    assert v.app.call("request", {"id": "c", "needs": ["cpu:1,share>=0.1"]})["outcome"] == "granted"
    return v


def other(pair, hypervisor):
    return pair.b if hypervisor is pair.a else pair.a

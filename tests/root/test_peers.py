# SPDX-License-Identifier: Apache-2.0
"""Two hosts that know each other by certificates, and everybody who is not one of them. No VM is started.

Each host listens at a loopback address of its own, which is this test's alone, so that no port has to be guessed."""
import contextlib
import http.client
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from host import Host, HostError, METED_USER, ROOT, wait_for  # noqa: E402
from site_of_two import PORT, Pki, Site, address, listen  # noqa: E402


@pytest.fixture(scope="module")
def site():
    # not pytest's: whenever it starts it shuts its directory again for everybody else, also for meted's user
    base = tempfile.mkdtemp(prefix="mete-test-pki-", dir="/tmp")
    os.chmod(base, 0o755)
    pki = Pki(os.path.join(base, "pki")).init("--hypervisor", f"a={address(0)}", "--hypervisor", f"b={address(1)}", "--hypervisor", "c",
                                 "--manager", "m", "--operator", "carol")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, base)
        hosts = [Host(memory="1G", title=name, extra=listen(pki, n, name, f"peers-{name}.conf"))
                 for n, name in enumerate("ab")]
        site = Site(pki, *hosts)
        site.usual(hosts[0])
        site.usual(hosts[1])
        for host in hosts:
            stack.enter_context(host)
        yield site


@pytest.fixture(autouse=True)
def as_usual(request):
    """Each test leaves behind what it found."""
    yield
    if "site" in request.fixturenames:
        site = request.getfixturevalue("site")
        for host in (site.a, site.b):
            if host.meted.poll() is None:
                site.usual(host)


def reachable(p):
    return p["reachable"]


# -- those who may

def test_two_hosts_know_each_other(site):
    for host, other, n in (site.a, "b", 1), (site.b, "a", 0):
        p = site.wait_peer(host, other, "it is reachable", reachable)
        assert p["address"] == f"{address(n)}:{PORT}" and p["same_server"] and "problem" not in p
        assert p["certificate_end_ms"] == site.pki.show(other)["end_ms"]
        assert abs(p["clock_ahead_ms"]) <= p["round_trip_ms"] + 1000  # one clock; the rest is a slow machine
        assert p["hello"]["name"] == other and p["hello"]["qemu"] == host.get("/v1/host")["qemu"]
        assert {f["kind"] for f in p["hello"]["free"]} >= {"cpu", "memory"}
        assert all(0 <= f["largest"] <= f["free"] <= f["capacity"] for f in p["hello"]["free"])
    assert site.peer(site.a, "a") is None  # though its own section is in the file
    assert site.a.mete("peers").stdout.splitlines()[1].split()[:2] == ["b", "reachable"]


def test_what_is_free_is_told(site):
    def free():
        return {f["kind"]: f["free"] for f in site.wait_peer(site.b, "a", "it is reachable", reachable)["hello"]["free"]}
    before = free()
    site.a.mete("reserve", "some", "--need", "memory:128M")
    wait_for("the peer hears of it", lambda: before["memory"] - free()["memory"] == 128 << 20)
    site.a.mete("unreserve", "some")
    wait_for("the peer hears of it", lambda: free() == before)


def test_doctor_says_how_they_are(site):
    site.wait_peer(site.a, "b", "it is reachable", reachable)
    found = {f["what"]: f for f in json.loads(site.a.mete("doctor", "--json", check=False).stdout)["findings"]}
    assert address(0) in found["TLS"]["text"] and "valid for 36" in found["TLS"]["text"] and found["TLS"]["finding"] == "ok"
    assert found["peer"]["text"].startswith("b is reachable") and "valid for 36" in found["peer"]["text"]
    site.peers(site.a, b={"pin": site.pki.show("b")["pin"]})
    found = {f["what"]: f for f in json.loads(site.a.mete("doctor", "--json", check=False).stdout)["findings"]}
    assert "no address" in found["peer"]["text"] and found["peer"]["finding"] == "fallback"


# What each role may do is what the contract says: the role that it names, and those above that.
CHAIN = ("observer", "manager", "operator")


@pytest.mark.parametrize("cert, role", [("b", "hypervisor"), ("m", "manager"), ("carol", "operator")])
def test_roles_and_verbs(site, cert, role):
    context = site.pki.context(cert)
    contract = json.loads(site.a.http("GET", "/openapi.json")[1])
    seen = set()
    for path, item in contract["paths"].items():
        for method, operation in item.items():
            if not isinstance(operation, dict) or "x-role" not in operation:
                continue
            needs = operation["x-role"]
            may = needs == role or (role in CHAIN and needs in CHAIN and CHAIN.index(role) >= CHAIN.index(needs))
            # nothing that is there is named, and no body is good
            target = path.replace("{name}", "nobody").replace("{id}", "nobody")
            status, said = site.ask(context, target, method.upper(), "{\"nonsense\":1}" if method == "post" else None)
            assert (status != 403) == may, (method, path, needs, status, said)
            if not may:
                assert said["reason"] == "denied" and needs in said["message"] and set(said) == {"code", "reason", "message"}
            seen.add(may)
    assert seen == {True, False}


def test_what_is_for_peers_is_for_no_one_else(site):
    status, text = site.a.http("GET", "/v1/peer/hello")
    assert status == 403 and "peers" in json.loads(text)["message"]


def test_operator_over_tls(site):
    """All that the socket's group may."""
    context = site.pki.context("carol")
    status, said = site.ask(context, "/v1/reservations", "POST", json.dumps({"id": "far", "needs": ["memory:128M"]}))
    assert status == 200 and said["outcome"] == "granted", said
    assert site.a.claims("reservation:far")
    assert site.ask(context, "/v1/reservations/far", "DELETE")[0] == 200
    assert not site.a.claims("reservation:far")


def test_curl_is_a_sufficient_client(site):
    pki = site.pki
    p = subprocess.run(["curl", "-sS", "--cacert", pki.file("ca.crt"), "--cert", pki.file("carol.crt"), "--key",
                        pki.file("carol.key"), f"https://{address(0)}:{PORT}/v1/host"], capture_output=True, text=True, timeout=60)
    assert p.returncode == 0 and json.loads(p.stdout)["name"] == "a", p.stderr


# -- those who may not

@pytest.fixture(scope="module")
def strangers(site, tmp_path_factory):
    """{who: (context, what the refusal says)}"""
    pki = site.pki
    base = tmp_path_factory.mktemp("others")
    other = Pki(base / "other").init("--hypervisor", "b", "--operator", "carol")
    same = base / "same"  # the right authority signs another key for a name that is taken
    same.mkdir()
    for name in "ca.key", "ca.crt":
        shutil.copy(pki.file(name), same / name)
    again = Pki(same)
    again.add("--hypervisor", "b")
    return {
        "nobody": (pki.context(), "none was shown"),
        "expired": (pki.context(pki.expired("b"), pki.file("b.key")), "expired"),
        "other authority": (pki.context(other.file("b.crt"), other.file("b.key")), "authority"),
        "other operator": (pki.context(other.file("carol.crt"), other.file("carol.key")), "authority"),
        "not the pinned one": (pki.context(again.file("b.crt"), again.file("b.key")), "pinned"),
        "no peer": (pki.context("c"), "c is no peer"),
        "itself": (pki.context("a"), "a is no peer"),
    }


@pytest.mark.parametrize("who", ["nobody", "expired", "other authority", "other operator", "not the pinned one", "no peer",
                                 "itself"])
def test_refused_with_the_reason_and_no_more(site, strangers, who):
    context, says = strangers[who]
    for method, path in (("GET", "/v1/peer/hello"), ("GET", "/health"), ("GET", "/v1/host"), ("GET", "/nowhere"),
                         ("POST", "/v1/vms"), ("GET", "/openapi.json")):
        status, said = site.ask(context, path, method, "{}" if method == "POST" else None)
        assert status == 403 and set(said) == {"code", "reason", "message"}, said
        assert said["reason"] == "denied" and says in said["message"], said
    assert site.ask(site.pki.context("b"))[0] == 200


def test_the_authority_is_nobody(site):
    """Its key is for signing; not even the handshake is finished."""
    with pytest.raises((OSError, http.client.HTTPException)):
        site.ask(site.pki.context("ca"))


def test_older_tls_is_refused(site):
    with pytest.raises(ssl.SSLError):
        site.ask(site.pki.context("b", tls=ssl.TLSVersion.TLSv1_2))


def test_no_tls_is_no_answer(site):
    with socket.create_connection((address(0), PORT), timeout=60) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        try:
            got = s.recv(4096)
        except ConnectionResetError:
            got = b""
        assert b"HTTP" not in got and b"{" not in got
    assert site.ask(site.pki.context("b"))[0] == 200


def test_who_is_taken_out_is_out(site):
    """With the next request, also on a connection that is open; and is let in again when he is back."""
    b = {"address": address(1), "pin": site.pki.show("b")["pin"]}
    c = site.connect(site.pki.context("b"))
    try:
        def ask(again=True):
            try:
                c.request("GET", "/v1/peer/hello")
                r = c.getresponse()
                return r.status, json.loads(r.read())
            except (OSError, http.client.HTTPException):
                c.close()  # so slow is this machine that it was closed as idle
                if not again:
                    raise
                return ask(False)
        assert ask()[0] == 200
        site.peers(site.a)
        status, said = ask()
        assert status == 403 and "no peer" in said["message"]
        p = site.wait_peer(site.b, "a", "b notices", lambda p: not p["reachable"])
        assert "refuses" in p["problem"] and "no peer" in p["problem"]
        # what cannot be read takes nobody out, and lets nobody in
        site.write(site.a, f"[b]\npin={b['pin']}\n[b]\npin={b['pin']}\n")
        assert ask()[0] == 403 and "stay as they were" in site.a.log("meted")
        assert any("peers.conf was not taken" in f and "is there twice" in f for f in site.a.mete_json("host", "show")["fallbacks"])
        site.peers(site.a, b=b)
        assert not any("peers.conf" in f for f in site.a.mete_json("host", "show")["fallbacks"])
        assert ask()[0] == 200
        site.wait_peer(site.b, "a", "b is let in again", reachable)
    finally:
        c.close()


def test_wrong_pin_on_our_side(site):
    """Who is at the right address with the wrong key is not spoken to."""
    site.peers(site.a, b={"address": address(1), "pin": site.pki.show("c")["pin"]})
    p = site.wait_peer(site.a, "b", "a notices", lambda p: "asked_ms" in p)
    assert not p["reachable"] and "not the pinned one" in p["problem"] and "hello" not in p


def test_who_stays_is_not_forgotten(site):
    """What a peer said is known on when peers.conf is read anew, until it is asked: a move to it may be being planned."""
    site.wait_peer(site.a, "b", "it is reachable", reachable)
    site.b.meted.send_signal(signal.SIGSTOP)
    try:
        site.usual(site.a)
        p = site.peer(site.a, "b")
        assert p["reachable"] and p["hello"]["name"] == "b", p
    finally:
        site.b.meted.send_signal(signal.SIGCONT)
    site.wait_peer(site.a, "b", "it answers", lambda p: p["reachable"] and "asked_ms" in p)


def test_those_who_say_nothing_keep_nobody_out(site):
    """More than there is room for, of one address and of several; some say a little."""
    site.wait_peer(site.b, "a", "it is reachable", reachable)
    silent = []
    before = metrics(site.a)
    try:
        for i in range(200):
            s = socket.socket()
            silent.append(s)
            s.settimeout(60)
            s.bind((address(10 + i % 8), 0))
            s.connect((address(0), PORT))
            if i % 3 == 0:
                with contextlib.suppress(OSError):
                    s.send(b"\x16\x03\x01"[:1 + i % 2])
        # from where one of them is, too
        for source in (address(0), address(10)):
            c = site.connect(site.pki.context("b"), source=source)
            c.request("GET", "/v1/peer/hello")
            assert c.getresponse().status == 200
            c.close()
        after = metrics(site.a)
        assert after["mete_tls_displaced_total"] > before["mete_tls_displaced_total"]
        assert after["mete_tls_connections"] <= 128
        heard = site.peer(site.b, "a")["heard_ms"]
        site.wait_peer(site.b, "a", "b hears of a all the same", lambda p: p["reachable"] and p["heard_ms"] > heard)
    finally:
        for s in silent:
            s.close()


def metrics(host):
    return {k: float(v) for k, v in (line.split() for line in host.http("GET", "/metrics")[1].splitlines()
                                     if not line.startswith("#") and "{" not in line)}


def test_limits_of_a_request(site):
    context = site.pki.context("carol")
    c = site.connect(context)
    c.putrequest("POST", "/v1/vms")
    c.putheader("Content-Length", "70000")
    c.endheaders()
    assert c.getresponse().status == 413
    c.close()
    c = site.connect(context)
    with contextlib.suppress(OSError):  # what is not read any more may take the answer with it
        c.request("GET", "/health", headers={"X": "y" * 60000})
        assert c.getresponse().status == 431
    c.close()
    assert site.ask(context, "/health")[0] == 200


class Liar:
    """Somebody who has a certificate, is a peer, and answers as no meted would."""

    def __init__(self, pki, name, n, answer):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pki.file(f"{name}.crt"), pki.file(f"{name}.key"))
        self.answer, self.stopping, self.asked = answer, threading.Event(), 0
        self.listener = socket.create_server((address(n), PORT))
        self.listener.settimeout(0.1)
        self.thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()
        self.listener.close()

    def _serve(self):
        while not self.stopping.is_set():
            try:
                s, _ = self.listener.accept()
            except TimeoutError:
                continue
            with contextlib.suppress(OSError), s:
                s.settimeout(10)
                with self.context.wrap_socket(s, server_side=True) as t:
                    t.recv(65536)
                    self.asked += 1
                    for part in self.answer(self.stopping):
                        t.sendall(part)
                        if self.stopping.is_set():
                            break


def body(text):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(text) + text


def other_name(_):
    yield body(json.dumps({"name": "b", "version": "0", "api": 1, "qemu": "", "accelerator": "", "now_ms": 0,
                           "free": []}).encode())


def endless(_):
    yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    while True:
        yield b" " * 65536


def silence(stopping):
    stopping.wait()
    yield b""


LIES = {
    "silence": (silence, "no answer in time"),
    "garbage": (lambda _: [body(b"{{{")], "c"),
    "wrong type": (lambda _: [body(b'{"name":7}')], "answer of c"),
    "another's name": (other_name, "calls itself b"),
    "endless": (endless, "too large"),
    "no HTTP": (lambda _: [b"220 smtp.example ESMTP\r\n"], ""),
    "nothing": (lambda _: [], "gone"),
    "its own words": (lambda _: [b"HTTP/1.1 500 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"], "status 500"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_peer_that_lies(site, lie):
    answer, says = LIES[lie]
    with Liar(site.pki, "c", 2, answer) as liar:
        site.peers(site.a, b={"address": address(1), "pin": site.pki.show("b")["pin"]},
                   c={"address": address(2), "pin": site.pki.show("c")["pin"]})
        wait_for("it was asked", lambda: liar.asked >= (1 if lie == "silence" else 2))
        p = site.wait_peer(site.a, "c", "a notices", lambda p: "asked_ms" in p)
        assert not p["reachable"] and says in p["problem"] and "hello" not in p, p
        site.wait_peer(site.a, "b", "the other is not concerned", reachable)


# -- the configuration

@pytest.mark.parametrize("fault, says", [
    ("name", "[meted] name is"), ("role", "[meted] name is"), ("key", "is not the key of"), ("missing", "No such file"),
    ("open", "mode should be 0600"), ("authority", "was not signed by"), ("peers", "no key"), ("address", "[listen] tls"),
    ("", "good"), ("expired", "has expired"), ("pin", "another certificate"), ("images", "image_dir"),
])
def test_what_is_checked(tmp_path, fault, says):
    pki = Pki(tmp_path / "pki").init("--hypervisor", "a", "--hypervisor", "b", "--operator", "carol")
    other = Pki(tmp_path / "other").init("--hypervisor", "a")
    files = {"cert": pki.file("a.crt"), "key": pki.file("a.key"), "ca": pki.file("ca.crt"), "tls": address(0),
             "peers": pki.file("peers.conf")}
    if fault in ("name", "role"):
        who = "b" if fault == "name" else "carol"
        files["cert"], files["key"] = pki.file(f"{who}.crt"), pki.file(f"{who}.key")
    elif fault == "key":
        files["key"] = pki.file("b.key")
    elif fault == "missing":
        files["cert"] = str(tmp_path / "none.crt")
    elif fault == "open":
        os.chmod(files["key"], 0o644)
    elif fault == "authority":
        files["ca"] = other.file("ca.crt")
    elif fault == "peers":
        with open(files["peers"], "a") as f:
            f.write("pinn=x\n")
    elif fault == "address":
        files["tls"] = "a b"
    elif fault == "expired":
        files["cert"] = pki.expired("a")
    elif fault == "pin":
        with open(files["peers"]) as f:
            text = f.read().replace(pki.show("a")["pin"], other.show("a")["pin"])
        with open(files["peers"], "w") as f:
            f.write(text)
    images = tmp_path / "images"
    if fault != "images":
        images.mkdir()
    config = tmp_path / "mete.conf"
    config.write_text(f"[meted]\nname=a\n[vm]\nimage_dir={images}\n[listen]\n" + "".join(f"{k}={v}\n" for k, v in files.items()))
    program = os.path.join(ROOT, os.environ.get("METE_BUILD") or "build/debug", "src/meted/meted")
    p = subprocess.run([program, "--config", str(config), "--check"], capture_output=True, text=True, timeout=60)
    warns = fault in ("expired", "pin", "images")
    assert p.returncode == (78 if fault and not warns else 0) and says in p.stdout + p.stderr, (p.returncode, p.stdout, p.stderr)
    if p.returncode == 0:
        assert p.stdout == f"{config}: good{', with 1 warning' if warns else ''}\n"

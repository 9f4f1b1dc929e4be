# SPDX-License-Identifier: Apache-2.0
"""`mete why`: what is said of a refusal is what stood in its way (S.8, S.9)."""
import json

import pytest
from host import Host, build_image


@pytest.fixture(scope="module")
def host():
    build_image()
    with Host(memory="1G", cpus="0-1") as h:
        yield h


def why(host, name):
    return json.loads(host.mete("why", name, "--json").stdout)


def test_what_was_refused_and_what_came_since(host):
    host.mete("reserve", "night", "--need", "cpu:2,exclusive", "--need", "memory:600M")
    assert host.mete("reserve", "more", "--need", "memory:600M", check=False).returncode == 75
    seen = why(host, "more")
    assert (seen["kind"], seen["answer"]["event"]) == ("request", "refused")
    assert {(c["holder"], c["component"]) for c in seen["claims"]} >= {("reservation:night", "memory:node0")}
    assert seen["since"] == []
    host.mete("unreserve", "night")
    seen = why(host, "more")
    assert seen["claims"] == [] and [(e["trace"], e["event"]) for e in seen["since"]][0] == ("night", "released")
    text = host.mete("why", "more").stdout
    assert text.startswith("more: refused: memory:600M is asked for") and "since then:" in text and "by its holder" in text


def test_of_what_it_is(host):
    host.mete("host", "offline", "cpu:1")
    host.mete("vm", "create", "w", "--cpus=1", "--memory=256M", "--share=1", "--kernel=vmlinuz")
    host.mete("reserve", "one", "--need", "cpu:1,exclusive")
    assert host.mete("vm", "start", "w", check=False).returncode != 0
    seen = why(host, "w")
    assert seen["kind"] == "vm" and seen["answer"]["event"] == "refused" and seen["state"]["name"] == "w"
    assert [c["id"] for c in seen["unusable"]] == ["cpu:1"]
    assert [c["holder"] for c in why(host, "cpu:0")["claims"]] == ["reservation:one"]
    seen = why(host, "cpu:1")
    assert seen["kind"] == "component" and "operator" in seen["state"]["state"] and seen["answer"]["event"] == "component-offline"
    for name, status in (("nothing-of-it", 66), ("cpu:99", 66), ("a b", 65), ("", 65)):
        p = host.mete("why", name, check=False)
        assert p.returncode == status and p.stderr, name

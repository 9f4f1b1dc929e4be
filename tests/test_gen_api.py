# SPDX-License-Identifier: Apache-2.0
"""tools/gen-api.py refuses every schema that it should, and its pages lead where they say."""
import copy
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCHEMAS = sorted((ROOT / "api").glob("*.json"))
GOOD = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in SCHEMAS}


def run(kind, out, schemas):
    return subprocess.run([sys.executable, str(ROOT / "tools/gen-api.py"), kind, str(out), *map(str, schemas)],
                          capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})


def refused(tmp_path, change):
    """The message that a changed set of schemas is refused with."""
    files = copy.deepcopy(GOOD)
    change(files)
    for name, doc in files.items():
        (tmp_path / name).write_text(doc if isinstance(doc, str) else json.dumps(doc), encoding="utf-8")
    done = run("c", tmp_path / "out", sorted(tmp_path.glob("*.json")))
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    return done.stderr


def at(files, path):
    """The node at "guest.json/$defs/guest_hello/..."; '|' stands for a '/' inside a key."""
    node = files
    for step in path.split("/"):
        node = node[step.replace("|", "/")]
    return node


DROPS = [  # what must be described
    "guest.json/description", "guest.json/$defs/guest_hello/description", "common.json/$defs/relation/description",
    "guest.json/$defs/guest_hello/properties/version/description", "guest.json/$defs/guest_hello/properties/state/description",
    "guest.json/x-methods/hello/description", "meted.json/x-paths/|health/get/description",
    "meted.json/x-paths/|v1|vms|{name}/x-path", "meted.json/x-paths/|v1|vms|{name}/x-path/name/description",
    # and bounded
    "guest.json/$defs/guest_hello/properties/version/maximum", "guest.json/$defs/guest_hello/properties/version/minimum",
    "guest.json/$defs/guest_hello/properties/agent/maxLength", "guest.json/$defs/guest_hello/properties/features/maxItems",
    "guest.json/$defs/guest_hello/additionalProperties", "guest.json/x-methods/hello/result", "guest.json/x-version",
]


@pytest.mark.parametrize("path", DROPS)
def test_what_must_be_there(tmp_path, path):
    def change(files):
        parent, key = path.rsplit("/", 1)
        del at(files, parent)[key]
    assert path.split(".")[0] in refused(tmp_path, change)


HELLO = "guest.json/$defs/guest_hello/properties"
SETS = [
    (HELLO + "/version", "multipleOf", 2, 'keyword "multipleOf"'),
    (HELLO + "/version", "default", 1, 'keyword "default"'),
    (HELLO + "/version", "maximum", 2**53, "maximum"),
    (HELLO + "/version", "maximum", 0, "maximum"),
    (HELLO + "/version", "maximum", True, "maximum"),
    (HELLO + "/version", "minimum", 0.5, "minimum"),
    (HELLO + "/version", "type", "number", "outside the subset"),
    (HELLO + "/agent", "pattern", "x", 'keyword "pattern"'),
    (HELLO + "/agent", "x-format", "uuid", "x-format"),
    (HELLO + "/agent", "minLength", 32, "minLength"),
    (HELLO + "/agent", "description", " ", "description is empty"),
    (HELLO + "/features", "minItems", 17, "minItems"),
    (HELLO + "/features", "items", {"type": "array", "maxItems": 1, "items": {"type": "boolean"}}, "outside the subset"),
    (HELLO + "/state", "$ref", "#/$defs/nothing", "leads nowhere"),
    (HELLO + "/state", "$ref", "http://elsewhere/x", "must be"),
    (HELLO, "int", {"type": "boolean", "description": "x"}, "cannot be a name"),
    (HELLO, "Upper", {"type": "boolean", "description": "x"}, "cannot be a name"),
    (HELLO, "n_features", {"type": "boolean", "description": "x"}, "clashes"),
    ("guest.json/$defs/guest_hello", "oneOf", [], 'keyword "oneOf"'),
    ("guest.json/$defs/guest_hello", "additionalProperties", True, "additionalProperties"),
    ("guest.json/$defs/guest_hello", "required", ["nothing"], "required"),
    ("guest.json/$defs/guest_hello", "required", ["version", "version"], "required"),
    ("guest.json/$defs", "app_row", {"type": "string", "description": "x", "enum": ["a"]}, "defined in app as well"),
    ("guest.json/$defs", "guest_method", {"type": "string", "description": "x", "enum": ["a"]}, "both become"),
    ("guest.json/$defs", "loop", {"type": "object", "description": "x", "additionalProperties": False, "properties": {
        "again": {"$ref": "#/$defs/loop", "description": "x"}}}, "contains itself"),
    ("common.json/$defs/relation", "enum", [], "enum"),
    ("common.json/$defs/relation", "enum", ["a", "a"], "enum"),
    ("common.json/$defs/relation", "enum", ["A b"], "cannot be a name"),
    ("common.json/$defs/reason", "x-status", {"invalid": 400}, "x-status"),
    ("guest.json/x-methods/ended", "result", {"$ref": "common.json#/$defs/empty"}, "notification"),
    ("guest.json/x-methods/hello", "params", {"$ref": "common.json#/$defs/reason"}, "must lead to an object"),
    ("meted.json/x-paths/|health/get", "x-role", "king", "x-role"),
    ("meted.json", "x-roles-apart", ["observer", "hypervisor"], "x-roles-apart"),
    ("meted.json/x-paths/|health/get", "x-operation", "metrics", "twice"),
    ("meted.json/x-paths/|health/get", "params", {"$ref": "common.json#/$defs/empty"}, "has no body"),
    ("meted.json/x-paths", "nowhere", {}, "not a path"),
    ("guest.json", "$id", "mete:app", "$id"),
]


@pytest.mark.parametrize("path,key,value,says", SETS, ids=lambda v: v if isinstance(v, str) else None)
def test_what_must_not_be_there(tmp_path, path, key, value, says):
    assert says in refused(tmp_path, lambda files: at(files, path).__setitem__(key, value))


def test_a_key_twice(tmp_path):
    def change(files):
        files["guest.json"] = '{"$id": "mete:guest", "$id": "mete:guest"}'
    assert "twice" in refused(tmp_path, change)


def test_no_json(tmp_path):
    assert "guest.json" in refused(tmp_path, lambda files: files.__setitem__("guest.json", "{"))


def test_the_reference_has_everything_and_its_links_lead_somewhere(tmp_path):
    assert run("docs", tmp_path, SCHEMAS).returncode == 0
    pages = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.md")}
    anchors = {name: set(re.findall(r"^### (\S+)$", text, re.M)) for name, text in pages.items()}
    for name, doc in GOOD.items():
        page = pages[name.replace(".json", ".md")]
        for d, node in doc["$defs"].items():
            assert d in anchors[name.replace(".json", ".md")]
            for field, prop in node.get("properties", {}).items():
                assert f"| `{field}` |" in page and prop["description"].replace("<", "&lt;") in page
        assert all(f"### {m}\n" in page for m in doc.get("x-methods", {}))
        for path, item in doc.get("x-paths", {}).items():
            assert all(f"### {verb.upper()} {path}\n" in page for verb in item if verb != "x-path")
    links = 0
    for name, text in pages.items():
        for page, anchor in re.findall(r"\]\((\w*(?:\.md)?)#(\w+)\)", text):
            assert anchor in anchors[page or name]
            links += 1
    assert links > 100


def test_the_same_input_makes_the_same_files(tmp_path):
    for kind in ("c", "openapi", "cases", "docs", "dict", "corpus"):
        for folder in ("one", "two"):
            assert run(kind, tmp_path / folder, SCHEMAS if folder == "one" else SCHEMAS[::-1]).returncode == 0
    one = {p.relative_to(tmp_path / "one"): p.read_bytes() for p in (tmp_path / "one").rglob("*") if p.is_file()}
    two = {p.relative_to(tmp_path / "two"): p.read_bytes() for p in (tmp_path / "two").rglob("*") if p.is_file()}
    assert one == two and len(one) > 60

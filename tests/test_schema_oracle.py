# SPDX-License-Identifier: Apache-2.0
"""An independent judge of the decoders: for random documents, valid and broken, of every def, python3-jsonschema
on the schema files and the C decoder must agree.

Four things are stricter on the wire than JSON Schema says, and are taught to jsonschema here, in the words of
docs/compatibility.md: an integer has neither fraction nor exponent; lengths of text count bytes of UTF-8; text
has no control characters; x-format.

METE_API_CHECK names the binary, METE_API the folder of the schemas, METE_ORACLE_SEEDS how long it goes on.
Another run: --hypothesis-seed=N, which a failure prints."""
import copy
import json
import os
import pathlib
import random
import re
import subprocess

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

API = pathlib.Path(os.environ.get("METE_API", pathlib.Path(__file__).resolve().parent.parent / "api"))
CHECK = os.environ.get("METE_API_CHECK", "build/debug/src/json/api-check")
SEEDS_EACH = int(os.environ.get("METE_ORACLE_SEEDS", "25"))  # a def
BATCH = 16  # documents a seed


def bundle():
    """All defs in one document, so that no reference leaves it."""
    defs = {}
    for path in sorted(API.glob("*.json")):
        text = re.sub(r'"\$ref": *"(\w+\.json)?#', '"$ref": "#', path.read_text(encoding="utf-8"))
        defs.update(json.loads(text)["$defs"])
    return defs


DEFS = bundle()
OBJECTS = [name for name, d in DEFS.items() if d["type"] == "object"]


# -- the judge --------------------------------------------------------------------------------------------
def is_integer(checker, v):
    return isinstance(v, int) and not isinstance(v, bool)


def length(kind):
    def judge(validator, limit, v, schema):
        if isinstance(v, str):
            n = len(v.encode("utf-8", "surrogatepass"))
            if (n > limit) if kind == "max" else (n < limit):
                yield jsonschema.ValidationError("length")
    return judge


FORMATS = {"name": r"[A-Za-z0-9_][A-Za-z0-9._-]{0,62}", "id": r"[A-Za-z0-9._:-]{1,63}"}


def word_format(validator, name, v, schema):
    if isinstance(v, str) and not re.fullmatch(FORMATS[name], v):
        yield jsonschema.ValidationError(name)


def text_type(validator, types, v, schema):
    yield from BASE.VALIDATORS["type"](validator, types, v, schema)
    if types == "string" and isinstance(v, str) and re.search("[\0-\x1f\x7f-\x9f]", v):
        yield jsonschema.ValidationError("control characters")


BASE = jsonschema.Draft202012Validator
JUDGE = jsonschema.validators.extend(
    BASE, {"maxLength": length("max"), "minLength": length("min"), "x-format": word_format, "type": text_type},
    type_checker=BASE.TYPE_CHECKER.redefine("integer", is_integer))


def judge(name):
    return JUDGE({"$ref": f"#/$defs/{name}", "$defs": DEFS})


# -- documents --------------------------------------------------------------------------------------------
# Made from a seed that Hypothesis draws, by plain code: ten times as many documents in the same time as its
# strategies make, at the price of its shrinking. Documents are small anyway.
LETTERS = {"name": "aZ09_.-", "id": "aZ09_.:-"}
TEXT = list("aZ0 \"\\/{}[]:,<>=%\u00a0\u00e9\u07ff\u0800\u2028\u20ac\ud7ff\ufffd\uffff\U00010000\U0001f600\U0010ffff")


def text_of(rng, n):
    """Text of n bytes of UTF-8."""
    out = ""
    while n > 0:
        c = rng.choice(TEXT)
        if len(c.encode()) > n:
            c = "x"
        out, n = out + c, n - len(c.encode())
    return out


def fitting(rng, schema):
    low, high, kind = schema.get("minLength", 0), schema["maxLength"], schema.get("x-format")
    n = rng.choice([low, low + 1, high - 1, high, rng.randint(low, high)])
    n = min(max(n, low, 1 if kind else 0), high)
    if kind:
        return rng.choice("aZ0_") + "".join(rng.choices(LETTERS[kind], k=n - 1))
    return text_of(rng, n)


def target(schema):
    return DEFS[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def valid(rng, schema):
    schema = target(schema)
    kind = schema["type"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if kind == "string":
        return fitting(rng, schema)
    if kind == "integer":
        low, high = schema["minimum"], schema["maximum"]
        return rng.choice([low, high, rng.randint(low, high)])
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "array":
        low = schema.get("minItems", 0)
        return [valid(rng, schema["items"]) for _ in range(rng.randint(low, min(schema["maxItems"], low + 2)))]
    required = schema.get("required", [])
    members = list(schema["properties"].items())
    rng.shuffle(members)
    return {n: valid(rng, p) for n, p in members if n in required or rng.random() < 0.5}


def odd():
    """Values that fit hardly anywhere; new ones each time, for documents are changed in place."""
    return [-2**63, -2**53, -1, 0, 1, 2, 2**32, 2**53 - 1, 2**53, 2**63 - 1, 1.0, 0.5, -1e300, True, False, None, [], {},
            [{}], {"": 1}, "", " ", "a", "-", ".", "..", ".a", "a:b", "a/b", "a\n", "\0", "\x7f", "\x85", "\u2028", "x" * 64,
            "cpu", "none", "granted", "Granted", ">=", "="]


def edge(rng, schema, v):
    """A value beside the bounds of its schema, on either side of them."""
    schema = target(schema)
    step = rng.choice([-1, 0, 1])
    if schema["type"] == "integer":
        return rng.choice([schema["minimum"], schema["maximum"]]) + step
    if schema["type"] == "string" and "enum" not in schema:
        n = max(rng.choice([schema.get("minLength", 0), schema["maxLength"]]) + step, 0)
        plain = "a" * n if rng.random() < 0.7 else text_of(rng, n)
        at = rng.randint(0, n)
        return plain if rng.random() < 0.6 else plain[:at] + rng.choice("\0\x1f\x7f\x80\x9f\xa0 /:.-") + plain[at + 1:]
    if schema["type"] == "array" and v:
        return [copy.deepcopy(v[0]) for _ in range(max(schema["maxItems"] + step, 0))] \
            if schema["maxItems"] <= 256 else []
    return rng.choice(odd())


def places(v, schema, found):
    """Every (container, key, schema of what stands there) in a valid document."""
    schema = target(schema)
    if isinstance(v, dict):
        for key in v:
            found.append((v, key, schema["properties"][key]))
            places(v[key], schema["properties"][key], found)
    elif isinstance(v, list):
        for i, entry in enumerate(v):
            found.append((v, i, schema["items"]))
            places(entry, schema["items"], found)
    return found


def document(rng, name):
    """Every third is valid, the others have one change, which may leave them valid."""
    v = valid(rng, DEFS[name])
    found = places(v, DEFS[name], [])
    what = rng.choice(["nothing", "nothing", "edge", "edge", "odd", "drop", "add"])
    if what == "nothing":
        return v
    if what == "add" or not found:
        v[rng.choice(sorted(DEFS[name]["properties"]) + ["no_such_field", "", "x" * 300])] = rng.choice(odd())
        return v
    where, key, schema = rng.choice(found)
    if what == "drop":
        del where[key]
    else:
        where[key] = edge(rng, schema, where[key]) if what == "edge" else rng.choice(odd())
    return v


# -- both sides -------------------------------------------------------------------------------------------
class Decoder:
    """api-check for one def: a line in, a line out."""

    def __init__(self, name):
        self.process = subprocess.Popen([CHECK, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8")

    def __call__(self, v):
        self.process.stdin.write(json.dumps(v) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


def test_every_def_has_a_decoder():
    listed = subprocess.run([CHECK], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(listed) == sorted(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_decoder_agrees_with_jsonschema(name):
    decoder, validator = Decoder(name), judge(name)
    verdicts = set()

    @settings(max_examples=SEEDS_EACH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**64 - 1))
    def agree(seed):
        rng = random.Random(seed)
        for _ in range(BATCH):
            v = document(rng, name)
            expected = validator.is_valid(v)
            answer = decoder(v)
            assert (answer == "ok") == expected, f"{name}: jsonschema says {expected}, the decoder {answer}: {v!r}"
            verdicts.add(expected)

    try:
        agree()
    finally:
        assert decoder.close() == 0
    assert verdicts == {True, False}, "the documents were all of one kind"

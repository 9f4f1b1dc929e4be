# SPDX-License-Identifier: Apache-2.0
"""What a fuzzer starts from: a dictionary of a contract's words, and a full document of each def."""
import json

from .cases import objects


def example(type_):
    if type_.kind == "ref":
        return document(type_.ref) if type_.ref.is_object else type_.ref.words[0]
    if type_.kind == "string":
        return "a" * max(type_.minimum, 1)
    if type_.kind == "integer":
        return max(type_.minimum, 0)
    if type_.kind == "boolean":
        return True
    return [example(type_.item)] * max(type_.minimum, 1)


def document(d):
    return {f.name: example(f.type) for f in d.fields}


def corpus(api):
    """One folder a contract, one file a def. The first byte picks the def (fuzz/fuzz-api.c)."""
    out = {}
    for contract in api.contracts:
        for i, d in enumerate(x for x in objects(api) if x.contract is contract):
            text = json.dumps(document(d), separators=(",", ":"))
            out[f"api-{contract.name}/{d.name}"] = chr(ord("A") + i) + text + "\n"
    return out


def reach(defs, seen):
    for d in defs:
        if d not in seen:
            seen.append(d)
            reach(d.refs(), seen)
    return seen


def dictionary(api):
    out = {}
    for contract in api.contracts:
        words = {}
        for d in reach(contract.defs, []):
            for f in d.fields or ():
                words[f.name] = None
                bounds = f.type.item or f.type
                if bounds.kind == "integer":
                    words[bounds.minimum] = words[bounds.maximum] = None
            for word in d.words or ():
                words[word] = None
        lines = [f'"\\"{w}\\""' if isinstance(w, str) else f'"{w}"' for w in words]
        out[f"api-{contract.name}.dict"] = "# Made by tools/gen-api.py.\n" + "".join(line + "\n" for line in lines)
    return out

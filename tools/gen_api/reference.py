# SPDX-License-Identifier: Apache-2.0
"""Reference pages in Markdown, one a contract."""
from . import openapi

NOTICE = "<!-- SPDX-License-Identifier: Apache-2.0. Made by tools/gen-api.py from api/{}.json. -->\n"
FORMAT = {"name": "a name (letters, digits and `._-`, neither `.` nor `-` first)",
          "id": "an id (letters, digits and `._:-`)"}


def cell(text):
    return (text or "").replace("|", "\\|").replace("<", "&lt;")


def page_of(d, here):
    return "" if d.contract is here else f"{d.contract.name}.md"


def link(d, here):
    return f"[{d.name}]({page_of(d, here)}#{d.name})"


def span(low, high, unit):
    return f"{low} to {high}{unit}" if low != high else f"{low}{unit}"


def number(n):
    return "2^53-1" if n == 2**53 - 1 else str(n)


def kind(type_, here):
    """What a value may be, with its bounds."""
    if type_.kind == "ref":
        return link(type_.ref, here)
    if type_.kind == "string":
        text = FORMAT.get(type_.format, "string")
        return f"{text}, {span(type_.minimum, type_.maximum, ' bytes')}"
    if type_.kind == "integer":
        return "integer, " + span(number(type_.minimum), number(type_.maximum), "")
    if type_.kind == "array":
        note = f" ({type_.item.description.rstrip('.')})" if type_.item.description else ""
        return f"array of {span(type_.minimum, type_.maximum, '')}: {kind(type_.item, here)}{note}"
    return type_.kind


def fields_table(fields, here):
    if not fields:
        return "No fields.\n"
    rows = "".join(f"| `{f.name}` | {cell(kind(f.type, here))} | {'yes' if f.required else ''} | "
                   f"{cell(f.description)} |\n" for f in fields)
    return "| field | type | required | meaning |\n|---|---|---|---|\n" + rows


def definition(d, here):
    out = f"\n### {d.name}\n\n{d.description}\n\n"
    if d.is_object:
        return out + fields_table(d.fields, here)
    if d.status:
        rows = "".join(f"| `{w}` | {d.status[w]} |\n" for w in d.words)
        return out + "| word | HTTP status |\n|---|---|\n" + rows
    return out + "One of " + ", ".join(f"`{w}`" for w in d.words) + ".\n"


def method(m, here):
    out = f"\n### {m.name}\n\n{m.description}\n\n"
    out += "- from: " + ("either side" if m.side == "both" else m.side) + "\n"
    out += f"- params: {link(m.params, here)}\n"
    return out + ("- no answer: a notification\n" if m.notification else f"- result: {link(m.result, here)}\n")


def operation(o, here):
    out = f"\n### {o.verb.upper()} {o.path}\n\n{o.description}\n\n"
    out += f"- operation `{o.name}`, {'only' if o.is_apart else 'least'} role `{o.role}`\n"
    for f in o.path_fields:
        out += f"- `{{{f.name}}}`: {kind(f.type, here)}. {f.description}\n"
    if o.query:
        out += f"- query: {link(o.query, here)}\n"
    if o.params:
        out += f"- body: {link(o.params, here)}\n"
    out += f"- answer: {link(o.result, here) if o.result else '`' + o.media + '`'}\n"
    return out + (f"- as server-sent events: {link(o.stream, here)}\n" if o.stream else "")


def failures(api, here):
    rows = "".join(f"| {status} | {', '.join(f'`{w}`' for w in words)} |\n"
                   for status, words in openapi.failures(api.defs["reason"]).items())
    return ("\n## Failures\n\n" + f"A failure has the body {link(api.defs['error'], here)} and the status that goes with "
            "its reason.\n\n| status | reasons |\n|---|---|\n" + rows)


def page(api, contract):
    out = NOTICE.format(contract.name) + f"# {contract.title}\n\n{contract.description}\n\n"
    if contract.version:
        out += f"Version {contract.version}. "
    out += ("What is not listed here is refused; how this contract may change is in "
            "[compatibility.md](../compatibility.md).\n")
    if contract.methods:
        out += "\n## Methods\n" + "".join(method(m, contract) for m in contract.methods)
    if contract.operations:
        out += "\n## Operations\n" + "".join(operation(o, contract) for o in contract.operations)
        out += failures(api, contract)
    return out + "\n## Types\n" + "".join(definition(d, contract) for d in contract.defs)


def generate(api):
    out = {f"{c.name}.md": page(api, c) for c in api.contracts}
    rows = "".join(f"| [{c.title}]({c.name}.md) | {c.version or ''} | {cell(c.description)} |\n" for c in api.contracts)
    out["index.md"] = (NOTICE.format("*") + "# Contracts\n\n| contract | version | what it is |\n|---|---|---|\n" + rows)
    return out

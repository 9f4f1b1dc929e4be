# SPDX-License-Identifier: Apache-2.0
"""An OpenAPI 3.1 document of a contract that has x-paths."""
import json

PATTERN = {"name": "^[A-Za-z0-9_][A-Za-z0-9._-]*$", "id": "^[A-Za-z0-9._:-]+$"}


def value(type_):
    """JSON Schema of a value. Lengths are bytes on the wire; as characters they are no stricter."""
    if type_.kind == "ref":
        return {"$ref": f"#/components/schemas/{type_.ref.name}"}
    out = {"type": type_.kind}
    if type_.kind == "string":
        out.update(minLength=type_.minimum, maxLength=type_.maximum)
        if type_.format:
            out["pattern"] = PATTERN[type_.format]
    elif type_.kind == "integer":
        out.update(minimum=type_.minimum, maximum=type_.maximum)
    elif type_.kind == "array":
        out.update(items=value(type_.item), minItems=type_.minimum, maxItems=type_.maximum)
    return out


def described(type_):
    return dict(value(type_), description=type_.description)


def definition(d):
    if not d.is_object:
        return {"type": "string", "description": d.description, "enum": d.words}
    out = {"type": "object", "description": d.description, "additionalProperties": False,
           "properties": {f.name: described(f.type) for f in d.fields}}
    required = [f.name for f in d.fields if f.required]
    return dict(out, required=required) if required else out


def reach(defs):
    """These defs, and all that they use."""
    seen = {}

    def visit(d):
        if d.name not in seen:
            seen[d.name] = d
            for other in d.refs():
                visit(other)

    for d in defs:
        visit(d)
    return seen


def failures(reason):
    """status -> the reasons that go with it."""
    out = {}
    for word in reason.words:
        out.setdefault(reason.status[word], []).append(word)
    return dict(sorted(out.items()))


def operation(o, statuses):
    parameters = [{"name": f.name, "in": "path", "required": True, "description": f.description,
                   "schema": value(f.type)} for f in o.path_fields]
    parameters += [{"name": f.name, "in": "query", "required": f.required, "description": f.description,
                    "schema": value(f.type)} for f in (o.query.fields if o.query else ())]
    content = {o.media: {"schema": {"$ref": f"#/components/schemas/{o.result.name}"}} if o.result else {}}
    if o.stream:
        content["text/event-stream"] = {"schema": {"$ref": f"#/components/schemas/{o.stream.name}"}}
    responses = {"200": {"description": o.result.description if o.result else "The document.", "content": content}}
    responses.update({str(s): {"$ref": f"#/components/responses/failure_{s}"} for s in statuses})
    out = {"operationId": o.name, "summary": o.description.split(". ")[0].rstrip(".") + ".",
           "description": o.description, "x-role": o.role}
    if parameters:
        out["parameters"] = parameters
    if o.params:
        out["requestBody"] = {"required": any(f.required for f in o.params.fields), "content": {
            "application/json": {"schema": {"$ref": f"#/components/schemas/{o.params.name}"}}}}
    return dict(out, responses=responses)


def document(api, contract):
    statuses = failures(api.defs["reason"])
    used = [api.defs["error"]]
    paths = {}
    for o in contract.operations:
        used += [d for d in (o.params, o.result, o.stream) if d]
        paths.setdefault(o.path, {})[o.verb] = operation(o, statuses)
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/error"}}}
    out = {
        "openapi": "3.1.0",
        "info": {"title": contract.title, "description": contract.description, "version": str(contract.version),
                 "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {name: definition(d) for name, d in reach(used).items()},
            "responses": {f"failure_{s}": {"description": "Reason: " + ", ".join(words) + ".", "content": error}
                          for s, words in statuses.items()},
        },
    }
    return json.dumps(out, indent=1, ensure_ascii=True)


def generate(api):
    for contract in api.contracts:
        if contract.name == "meted":
            return {"openapi.json": document(api, contract) + "\n"}
    return {}

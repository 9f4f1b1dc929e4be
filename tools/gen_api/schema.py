# SPDX-License-Identifier: Apache-2.0
"""Reads api/*.json into a model, and refuses whatever is outside the stated subset.

The subset of JSON Schema 2020-12. A contract has $schema $id title description $defs and may have
x-version x-methods x-roles x-roles-apart x-paths. A def is one of

  object   type description additionalProperties:false required properties
  words    type:"string" description enum; the def `reason` has x-status, the HTTP status of each word

and a property, or the items of an array, one of

  string   maxLength, may have minLength and x-format ("name" or "id")
  integer  minimum maximum, both within 2^53
  boolean
  array    items maxItems, may have minItems; no array of arrays
  $ref     to a def of the same file (#/$defs/X) or of another one (FILE.json#/$defs/X)

Every contract, def, property, method, operation and path parameter has a description.
"""
import json
import re

INTEGER_MAX = 2**53 - 1
FORMATS = ("name", "id")
WORD_OF = {">=": "at_least", "<=": "at_most", "=": "equal"}
# What C, or the generated functions, use themselves.
RESERVED = set("auto bool break case char const continue default do double else enum extern false float for goto "
               "if inline int long register restrict return short signed sizeof static struct switch true typedef "
               "union unsigned void volatile while".split())


class Fault(Exception):
    """A schema that is refused; the text says where and why."""


class Type:
    """What a value may be. kind: string, integer, boolean, array, or ref (then `ref` is a Def)."""

    def __init__(self, kind):
        self.kind = kind
        self.minimum = self.maximum = None  # of an integer; the lengths of a string or an array
        self.format = None                  # of a string
        self.item = None                    # of an array
        self.ref = None
        self.description = None


class Field:
    def __init__(self, name, type_, required):
        self.name, self.type, self.required = name, type_, required
        self.c = name.replace("-", "_")

    @property
    def description(self):
        return self.type.description

    @property
    def has_flag(self):
        """Optional fields say whether they are there; an array is there when it has entries."""
        return not self.required and self.type.kind != "array"


class Def:
    def __init__(self, contract, name, description):
        self.contract, self.name, self.description = contract, name, description
        self.fields = None  # of an object
        self.words = None   # of a string with enum
        self.status = None  # of the def `reason`: word -> HTTP status

    @property
    def is_object(self):
        return self.fields is not None

    def refs(self):
        for field in self.fields or ():
            type_ = field.type.item or field.type
            if type_.kind == "ref":
                yield type_.ref


class Method:
    def __init__(self, name, description, side, notification, params, result):
        self.name, self.description, self.side = name, description, side
        self.notification, self.params, self.result = notification, params, result


class Operation:
    def __init__(self, path, verb):
        self.path, self.verb = path, verb
        self.name = self.description = self.role = None
        self.is_apart = False
        self.path_fields = []  # Fields of {..} in the path, in their order
        self.query = self.params = self.result = self.stream = self.media = None


class Contract:
    def __init__(self, name, title, description, version):
        self.name, self.title, self.description, self.version = name, title, description, version
        self.defs, self.methods, self.roles, self.operations = [], [], [], []
        self.apart = []  # roles that may do what is theirs, and nothing else


class Api:
    def __init__(self, contracts):
        self.contracts = contracts
        self.defs = {d.name: d for c in contracts for d in c.defs}

    def ordered(self):
        """All defs, each behind those that it uses."""
        done, busy, out = set(), set(), []

        def visit(d):
            if d.name in done:
                return
            if d.name in busy:
                raise Fault(f"{d.contract.name}: $defs/{d.name}: contains itself")
            busy.add(d.name)
            for other in d.refs():
                visit(other)
            done.add(d.name)
            out.append(d)

        for contract in self.contracts:
            for d in contract.defs:
                visit(d)
        return out

    @property
    def sides(self):
        seen = []
        for contract in self.contracts:
            for method in contract.methods:
                if method.side not in seen:
                    seen.append(method.side)
        return seen

    @property
    def roles(self):
        seen = []
        for contract in self.contracts:
            seen += [r for r in contract.roles if r not in seen]
        return seen

    @property
    def apart(self):
        return [r for r in self.roles if any(r in c.apart for c in self.contracts)]

    @property
    def operations(self):
        return [o for c in self.contracts for o in c.operations]


def _unique(pairs):
    out = {}
    for key, value in pairs:
        if key in out:
            raise Fault(f'key "{key}" twice')
        out[key] = value
    return out


def load(paths):
    documents = {}
    for path in sorted(paths, key=lambda p: (p.stem != "common", p.stem)):
        try:
            documents[path.stem] = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
        except (ValueError, Fault) as fault:
            raise Fault(f"{path.name}: {fault}") from None
    return _Loader(documents).api


class _Loader:
    def __init__(self, documents):
        self.documents = documents
        self.by_file = {}  # (contract, def) -> Def
        contracts = [self._contract(name, doc) for name, doc in documents.items()]
        for contract in contracts:
            self._fill(contract, documents[contract.name])
        self.api = Api(contracts)
        self.api.ordered()

    # -- helpers ------------------------------------------------------------------------------------
    @staticmethod
    def _keys(where, node, required, optional=()):
        if not isinstance(node, dict):
            raise Fault(f"{where}: must be an object")
        for key in node:
            if key not in required and key not in optional:
                raise Fault(f'{where}: keyword "{key}" is outside the subset')
        for key in required:
            if key not in node:
                raise Fault(f'{where}: "{key}" is missing')
        text = node.get("description", "x")
        if not isinstance(text, str) or not text.strip():
            raise Fault(f"{where}: the description is empty")

    @staticmethod
    def _name(where, name, pattern=r"[a-z][a-z0-9]*(_[a-z0-9]+)*"):
        if not re.fullmatch(pattern, name) or name in RESERVED:
            raise Fault(f'{where}: "{name}" cannot be a name here')
        return name

    @staticmethod
    def _count(where, node, key, default=None, low=0, high=INTEGER_MAX):
        value = node.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Fault(f"{where}: {key} must be an integer from {low} to {high}")
        return value

    # -- first pass: which defs there are -----------------------------------------------------------
    def _contract(self, name, doc):
        self._keys(name, doc, ("$schema", "$id", "title", "description", "$defs"),
                   ("x-version", "x-methods", "x-roles", "x-roles-apart", "x-paths"))
        if doc["$id"] != f"mete:{name}":
            raise Fault(f'{name}: $id must be "mete:{name}"')
        if ("x-methods" in doc or "x-paths" in doc) != ("x-version" in doc):
            raise Fault(f"{name}: methods or paths, and x-version, go together")
        contract = Contract(name, doc["title"], doc["description"], doc.get("x-version"))
        for def_name, node in doc["$defs"].items():
            where = f"{name}: $defs/{def_name}"
            self._name(where, def_name)
            if "description" not in node:
                raise Fault(f"{where}: the description is missing")
            for (other, known), _ in self.by_file.items():
                if known == def_name:
                    raise Fault(f"{where}: defined in {other} as well")
            d = Def(contract, def_name, node["description"])
            contract.defs.append(d)
            self.by_file[(name, def_name)] = d
        return contract

    # -- second pass: what they contain -------------------------------------------------------------
    def _fill(self, contract, doc):
        for d in contract.defs:
            where = f"{contract.name}: $defs/{d.name}"
            node = doc["$defs"][d.name]
            if node.get("type") == "object":
                self._object(where, contract, d, node)
            elif node.get("type") == "string":
                self._words(where, d, node)
            else:
                raise Fault(f'{where}: type must be "object", or "string" with enum')
        for name, node in doc.get("x-methods", {}).items():
            contract.methods.append(self._method(f"{contract.name}: x-methods/{name}", contract, name, node))
        contract.apart = [self._name(f"{contract.name}: x-roles-apart", r) for r in doc.get("x-roles-apart", [])]
        contract.roles = [self._name(f"{contract.name}: x-roles", r) for r in doc.get("x-roles", [])] + contract.apart
        if len(set(contract.roles)) < len(contract.roles):
            raise Fault(f"{contract.name}: a role is in x-roles and x-roles-apart twice")
        for path, item in doc.get("x-paths", {}).items():
            contract.operations += self._path(f"{contract.name}: x-paths{path}", contract, path, item)
        names = [o.name for o in contract.operations]
        for name in names:
            if names.count(name) > 1:
                raise Fault(f"{contract.name}: operation {name} twice")

    def _object(self, where, contract, d, node):
        self._keys(where, node, ("type", "description", "additionalProperties", "properties"), ("required",))
        if node["additionalProperties"] is not False:
            raise Fault(f"{where}: additionalProperties must be false")
        required = node.get("required", [])
        for name in required:
            if name not in node["properties"] or required.count(name) > 1:
                raise Fault(f'{where}: required names "{name}" twice, or it is no property')
        d.fields = []
        for name, prop in node["properties"].items():
            at = f"{where}.{name}"
            self._name(at, name)
            if not isinstance(prop, dict) or "description" not in prop:
                raise Fault(f"{at}: the description is missing")
            d.fields.append(Field(name, self._type(at, contract, prop), name in required))
        members = [f.name for f in d.fields]
        for field in d.fields:
            for extra in ("has_" + field.name, "n_" + field.name):
                if extra in members:
                    raise Fault(f"{where}: {extra} clashes with what is made for {field.name}")

    def _words(self, where, d, node):
        self._keys(where, node, ("type", "description", "enum") + (("x-status",) if d.name == "reason" else ()))
        d.words = node["enum"]
        if not d.words or len(set(d.words)) != len(d.words):
            raise Fault(f"{where}: enum is empty, or has a word twice")
        for word in d.words:
            if word not in WORD_OF:
                self._name(where, word.replace("-", "_"))
        if d.name == "reason":
            d.status = node["x-status"]
            if list(d.status) != d.words:
                raise Fault(f"{where}: x-status must give each word its status, in the same order")
            for word in d.words:
                self._count(where + " x-status", d.status, word, low=400, high=599)

    def _type(self, where, contract, node, inside_array=False):
        if "$ref" in node:
            self._keys(where, node, ("$ref",), ("description",))
            type_ = Type("ref")
            type_.ref = self._ref(where, contract, node["$ref"])
        elif node.get("type") == "string":
            self._keys(where, node, ("type", "maxLength"), ("description", "minLength", "x-format"))
            type_ = Type("string")
            type_.maximum = self._count(where, node, "maxLength", low=1, high=65535)
            type_.minimum = self._count(where, node, "minLength", 0, high=type_.maximum)
            type_.format = node.get("x-format")
            if type_.format is not None:
                if type_.format not in FORMATS or type_.maximum > 63:
                    raise Fault(f"{where}: x-format must be name or id, with maxLength up to 63")
                type_.minimum = max(type_.minimum, 1)  # the format has no empty word
        elif node.get("type") == "integer":
            self._keys(where, node, ("type", "minimum", "maximum"), ("description",))
            type_ = Type("integer")
            type_.minimum = self._count(where, node, "minimum", low=-INTEGER_MAX)
            type_.maximum = self._count(where, node, "maximum", low=type_.minimum)
        elif node.get("type") == "boolean":
            self._keys(where, node, ("type",), ("description",))
            type_ = Type("boolean")
        elif node.get("type") == "array" and not inside_array:
            self._keys(where, node, ("type", "items", "maxItems"), ("description", "minItems"))
            type_ = Type("array")
            type_.maximum = self._count(where, node, "maxItems", low=1, high=65535)
            type_.minimum = self._count(where, node, "minItems", 0, high=type_.maximum)
            type_.item = self._type(where + "[]", contract, node["items"], True)
        else:
            raise Fault(f"{where}: type is missing, or outside the subset")
        type_.description = node.get("description")
        return type_

    def _ref(self, where, contract, ref):
        found = re.fullmatch(r"(?:([a-z]+)\.json)?#/\$defs/(\w+)", ref)
        if not found:
            raise Fault(f'{where}: $ref "{ref}" must be #/$defs/X or FILE.json#/$defs/X')
        key = (found.group(1) or contract.name, found.group(2))
        if key not in self.by_file:
            raise Fault(f'{where}: $ref "{ref}" leads nowhere')
        return self.by_file[key]

    def _object_ref(self, where, contract, node):
        self._keys(where, node, ("$ref",))
        d = self._ref(where, contract, node["$ref"])
        if self.documents[d.contract.name]["$defs"][d.name].get("type") != "object":
            raise Fault(f"{where}: must lead to an object")
        return d

    def _method(self, where, contract, name, node):
        self._name(where, name.replace("-", "_"))
        self._keys(where, node, ("description", "x-from", "params"), ("x-notification", "result"))
        notification = node.get("x-notification", False)
        if notification not in (True, False) or notification == ("result" in node):
            raise Fault(f"{where}: a method has a result, a notification has none")
        result = None if notification else self._object_ref(where + ".result", contract, node["result"])
        return Method(name, node["description"], self._name(where, node["x-from"]), notification,
                      self._object_ref(where + ".params", contract, node["params"]), result)

    def _path(self, where, contract, path, item):
        if not re.fullmatch(r"(/([A-Za-z0-9._-]+|\{[a-z]+\}))+", path):
            raise Fault(f"{where}: not a path")
        verbs = [k for k in item if k != "x-path"]
        self._keys(where, item, (), ("get", "post", "put", "delete", "x-path"))
        names = re.findall(r"\{([a-z]+)\}", path)
        if len(names) > 1:
            raise Fault(f"{where}: more than one part in braces")
        given = item.get("x-path", {})
        if list(given) != names:
            raise Fault(f"{where}: x-path must describe {names}")
        fields = []
        for name in names:
            at = f"{where}: {{{name}}}"
            if "description" not in given[name]:
                raise Fault(f"{at}: the description is missing")
            type_ = self._type(at, contract, given[name])
            if type_.kind != "string" or not type_.format or type_.maximum != 63:
                raise Fault(f"{at}: must be a string with x-format and maxLength 63")
            fields.append(Field(name, type_, True))
        return [self._operation(f"{where} {verb}", contract, path, verb, item[verb], fields) for verb in verbs]

    def _operation(self, where, contract, path, verb, node, fields):
        self._keys(where, node, ("x-operation", "x-role", "description"),
                   ("query", "params", "result", "x-stream", "x-result-media"))
        if node["x-role"] not in contract.roles:
            raise Fault(f'{where}: x-role "{node["x-role"]}" is not among x-roles')
        if ("result" in node) == ("x-result-media" in node):
            raise Fault(f"{where}: one of result and x-result-media is needed")
        if "params" in node and verb in ("get", "delete"):
            raise Fault(f"{where}: {verb} has no body")
        operation = Operation(path, verb)
        operation.name = self._name(where, node["x-operation"])
        operation.description, operation.role = node["description"], node["x-role"]
        operation.is_apart = operation.role in contract.apart
        operation.path_fields = fields
        operation.media = node.get("x-result-media", "application/json")
        for key in ("query", "params", "result", "x-stream"):
            if key in node:
                setattr(operation, key.removeprefix("x-"), self._object_ref(f"{where}.{key}", contract, node[key]))
        for field in (operation.query.fields or []) if operation.query else []:
            if field.type.kind not in ("string", "integer", "boolean"):
                raise Fault(f"{where}: query field {field.name} must be a plain value")
        return operation

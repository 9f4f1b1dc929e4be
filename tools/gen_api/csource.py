# SPDX-License-Identifier: Apache-2.0
"""json/api.h and json/api.c: types, strict decoders, encoders, and the tables of methods and routes."""
import textwrap

from . import openapi
from .schema import WORD_OF, Fault

NOTICE = "/* SPDX-License-Identifier: Apache-2.0 */\n/* Made by tools/gen-api.py from the contracts under api/; change those. */\n"
FORMAT = {None: "FIELD_TEXT", "name": "FIELD_NAME", "id": "FIELD_ID"}

HEADER = NOTICE + """\
/* json/api.h - the contracts as C types.
 *
 * A struct holds everything inline: no pointers, nothing to free; copying one is an assignment. Some are
 * large: pages and lists do not belong on a stack. has_X says whether an optional X is there; where it is
 * not, X is zero. An optional array is there when n_X is not 0.
 *
 * api_X_parse: 0, or -EINVAL with REASON_INVALID and a sentence that names the place, such as
 * "needs[1].amount: must be at least 1". On failure *ret may be partly written. v NULL counts as {}.
 * api_X_emit: a new reference, or NULL without memory. A list that is longer than its array, or a word that
 * is none, asserts. Whether a number keeps its bounds is the caller's duty; the peer checks it.
 * api_X_name: the word of a value, "none" for one that does not exist. api_X_find: the value of a word, or 0. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
"""

SOURCE = NOTICE + """\
#include "json/api.h"

#include <assert.h>
#include <string.h>

#include "base/str.h"
#include "json/field.h"
#include "json/query.h"

#define AT(name_) (&(struct field_at){.up = at, .name = (name_)})
#define ENTRY(index_) (&(struct field_at){.up = at, .index = (index_)})
"""


def upper(word):
    return WORD_OF.get(word, word).replace("-", "_").upper()


def comment(text, indent=""):
    """A block comment of at most 110 columns."""
    lines = textwrap.wrap(text.replace("*/", "* /"), 104 - len(indent))
    return indent + "/* " + ("\n" + indent + " * ").join(lines) + " */\n"


def enum_name(d):
    return "enum reason" if d.name == "reason" else f"enum api_{d.name}"


def constant(d, word):
    return f"REASON_{upper(word)}" if d.name == "reason" else f"API_{d.name.upper()}_{upper(word)}"


def scalar(type_):
    """The C type of a value that is neither an array nor a string."""
    if type_.kind == "ref":
        return f"struct api_{type_.ref.name}" if type_.ref.is_object else enum_name(type_.ref)
    return {"integer": "int64_t", "boolean": "bool"}[type_.kind]


def member(field):
    type_ = field.type
    item = type_.item or type_
    dims = f"[{type_.maximum}]" if type_.kind == "array" else ""
    if item.kind == "string":
        line = f"char {field.c}{dims}[{item.maximum} + 1];"
    else:
        line = f"{scalar(item)} {field.c}{dims};"
    if type_.kind == "array":
        line = f"size_t n_{field.c};\n        {line}"
    if field.has_flag:
        line = f"bool has_{field.c};\n        {line}"
    return line


# -- the header -------------------------------------------------------------------------------------
def words_header(d):
    out = "\n" + comment(d.description)
    if d.name == "reason":
        checks = "".join(f"_Static_assert({constant(d, w)} == {i}, \"api/common.json and base/err.h differ\");\n"
                         for i, w in enumerate(d.words, 1))
        return out + checks + f"_Static_assert(REASON_N == {len(d.words) + 1}, \"likewise\");\n"
    out += f"enum api_{d.name} {{\n"
    for i, word in enumerate(d.words):
        out += f"        {constant(d, word)}{' = 1' if i == 0 else ''},\n"
    out += f"        API_{d.name.upper()}_N\n}};\n"
    out += f"const char *api_{d.name}_name(enum api_{d.name} v);\n"
    return out + f"enum api_{d.name} api_{d.name}_find(const char *word);\n"


def object_header(d):
    out = "\n" + comment(d.description) + f"struct api_{d.name} {{\n"
    for field in d.fields:
        out += comment(field.description, "        ") + f"        {member(field)}\n"
    if not d.fields:
        out += "        char unused;\n"
    out += "};\n"
    out += f"int api_{d.name}_parse(const json_t *v, struct api_{d.name} *ret, struct err *err);\n"
    return out + f"json_t *api_{d.name}_emit(const struct api_{d.name} *v);\n"


def simple_enum(name, words, text):
    """An enum of words that no message carries: sides, roles, operations."""
    out = "\n" + comment(text) + f"enum api_{name} {{\n"
    for i, word in enumerate(words):
        out += f"        API_{name.upper()}_{upper(word)}{' = 1' if i == 0 else ''},\n"
    return out + f"        API_{name.upper()}_N\n}};\nconst char *api_{name}_name(enum api_{name} v);\n"


def operation_enum(contract):
    """Each daemon has operations of its own; meted's are the ones without a name before them."""
    return "operation" if contract.name == "meted" else f"{contract.name}_operation"


def methods_header(contract):
    name = contract.name
    out = "\n" + comment(f"Methods of the contract '{name}', version {contract.version}. {contract.description}")
    out += f"enum {{ API_{name.upper()}_VERSION = {contract.version} }};\n"
    out += f"enum api_{name}_method {{\n"
    for i, method in enumerate(contract.methods):
        out += comment(method.description, "        ")
        out += f"        API_{name.upper()}_{upper(method.name)}{' = 1' if i == 0 else ''},\n"
    out += f"        API_{name.upper()}_METHOD_N\n}};\n"
    out += f"extern const struct api_method api_{name}_methods[API_{name.upper()}_METHOD_N];\n"
    out += "/* 0 where there is no such method. */\n"
    return out + f"enum api_{name}_method api_{name}_method_find(const char *name);\n"


def routes_header(contract):
    name = contract.name
    return ("\n" + comment(f"Routes of the contract '{name}', version {contract.version}. {contract.description}")
            + f"enum {{ API_{name.upper()}_VERSION = {contract.version} }};\n"
            + f"extern const struct api_route api_{name}_routes[];\nextern const size_t api_{name}_routes_n;\n"
            + f"/* The contract as an OpenAPI 3.1 document. */\nextern const char api_{name}_openapi[];\n"
            + "".join(f"/* From the text behind the '?' of a URL, NULL where there is none; otherwise as _parse. */\n"
                      f"int api_{d.name}_read(const char *text, struct api_{d.name} *ret, struct err *err);\n"
                      for d in queries(contract)))


def queries(contract):
    # one that another contract defines is read by what is made for that one
    return list(dict.fromkeys(o.query for o in contract.operations if o.query and o.query.contract is contract))


def header(api):
    out = HEADER
    for d in api.ordered():
        out += object_header(d) if d.is_object else words_header(d)
    out += simple_enum("side", api.sides, "Who sends a method.")
    out += """
struct api_method {
        const char *name;
        enum api_side from;
        bool is_notification; /* has no answer */
};
"""
    out += simple_enum("role", api.roles, "What a caller may do; see api_role_may().")
    for contract in api.contracts:
        if contract.operations:
            out += simple_enum(operation_enum(contract), [o.name for o in contract.operations],
                               f"What an HTTP request of the contract '{contract.name}' asks for.")
    out += """
struct api_route {
        const char *method; /* "GET" */
        const char *path;   /* "/v1/vms/{name}" */
        int operation;          /* of the contract's own enum */
        enum api_role role; /* the least that is allowed to, or the only one */
        bool has_part;      /* the path has a part in braces ... */
        bool part_is_id;    /* ... which is an id, else a name */
};

/* May a caller in this role do that? 0, nobody, may nothing. A role may do what those before it may; one that
 * stands apart only what is its own, which nobody else may. */
bool api_role_may(enum api_role role, const struct api_route *route);
/* The HTTP status that goes with a reason; 500 for one that does not exist. */
int api_http_status(enum reason r);
"""
    for contract in api.contracts:
        if contract.methods:
            out += methods_header(contract)
        if contract.operations:
            out += routes_header(contract)
    return out


# -- the source -------------------------------------------------------------------------------------
def words_table(name, words):
    lines = textwrap.wrap(", ".join(['"none"'] + [f'"{w}"' for w in words]), 96, break_on_hyphens=False)
    return f"\nstatic const char *const {name}_words[] = {{\n        " + "\n        ".join(lines) + ",\n};\n"


def name_function(name):
    return f"""
const char *api_{name}_name(enum api_{name} v)
{{
        return {name}_words[(unsigned)v < API_{name.upper()}_N ? v : 0];
}}
"""


def words_source(d):
    out = words_table(d.name, d.words)
    if d.name == "reason":
        return out
    return out + name_function(d.name) + f"""
enum api_{d.name} api_{d.name}_find(const char *word)
{{
        return (enum api_{d.name})field_find({d.name}_words, API_{d.name.upper()}_N, word);
}}
"""


def parse_value(type_, at, value, target):
    """The statement that checks and stores one value, without its 'if' and 'return'."""
    if type_.kind == "string":
        return f"field_string({at}, {value}, {type_.minimum}, {type_.maximum}, {FORMAT[type_.format]}, {target}, err)"
    if type_.kind == "integer":
        return f"field_integer({at}, {value}, {type_.minimum}, {type_.maximum}, &{target}, err)"
    if type_.kind == "boolean":
        return f"field_boolean({at}, {value}, &{target}, err)"
    if type_.ref.is_object:
        return f"parse_{type_.ref.name}({at}, {value}, &{target}, err)"
    return f"parse_{type_.ref.name}({at}, {value}, &{target}, err)"


def parse_words(d):
    return f"""
static int parse_{d.name}(const struct field_at *at, const json_t *v, {enum_name(d)} *ret, struct err *err)
{{
        int i, r = field_word(at, v, {d.name}_words, ARRAY_N({d.name}_words), &i, err);
        if (r == 0)
                *ret = ({enum_name(d)})i;
        return r;
}}
"""


def parse_array(d, field):
    type_ = field.type
    value = parse_value(type_.item, "ENTRY(i)", "json_array_get(v, i)", f"ret->{field.c}[i]")
    return f"""
static int parse_{d.name}_{field.c}(const struct field_at *at, const json_t *v, struct api_{d.name} *ret,
                struct err *err)
{{
        int r = field_array(at, v, {type_.minimum}, {type_.maximum}, &ret->n_{field.c}, err);
        for (size_t i = 0; r == 0 && i < ret->n_{field.c}; i++)
                r = {value};
        return r;
}}
"""


def parse_field(d, i, field):
    at, value = f'AT("{field.name}")', f"f[{i}]"
    if field.type.kind == "array":
        call = f"parse_{d.name}_{field.c}({at}, {value}, ret, err)"
    else:
        call = parse_value(field.type, at, value, f"ret->{field.c}")
    if field.required:
        return f"        if (r == 0)\n                r = {call};\n"
    if field.type.kind == "array":
        return (f"        ret->n_{field.c} = 0;\n        if (r == 0 && {value})\n"
                f"                r = {call};\n")
    absent = f"memset(ret->{field.c}, 0, sizeof(ret->{field.c}))" if field.type.kind == "string" \
        else f"memset(&ret->{field.c}, 0, sizeof(ret->{field.c}))"
    return (f"        ret->has_{field.c} = {value} != NULL;\n        if (!{value})\n                {absent};\n"
            f"        else if (r == 0)\n                r = {call};\n")


def parse_object(d):
    out = ""
    for field in d.fields:
        if field.type.kind == "array":
            out += parse_array(d, field)
    count = len(d.fields)
    if count:
        names = "".join(f'        {{"{f.name}", {str(f.required).lower()}}},\n' for f in d.fields)
        out += f"\nstatic const struct field_name {d.name}_names[] = {{\n{names}}};\n"
    body = (f"        const json_t *f[{count}];\n"
            f"        int r = field_object(at, v, {d.name}_names, {count}, f, err);\n") if count else (
            "        ret->unused = 0;\n        int r = field_object(at, v, NULL, 0, NULL, err);\n")
    if count:
        # Without f[] there is nothing to look at; afterwards every field is at least marked as absent.
        body += "        if (r < 0)\n                return r;\n"
    for i, field in enumerate(d.fields):
        body += parse_field(d, i, field)
    return out + f"""
static int parse_{d.name}(const struct field_at *at, const json_t *v, struct api_{d.name} *ret, struct err *err)
{{
{body}        return r;
}}

int api_{d.name}_parse(const json_t *v, struct api_{d.name} *ret, struct err *err)
{{
        return parse_{d.name}(NULL, v, ret, err);
}}
"""


def emit_value(type_, source):
    if type_.kind == "string":
        return f"field_emit_string({source}, {type_.maximum} + 1)"
    if type_.kind == "integer":
        return f"json_integer({source})"
    if type_.kind == "boolean":
        return f"json_boolean({source})"
    if type_.ref.is_object:
        return f"api_{type_.ref.name}_emit(&{source})"
    return f"field_emit_word({type_.ref.name}_words, ARRAY_N({type_.ref.name}_words), (int){source})"


def emit_array(d, field):
    return f"""
static json_t *emit_{d.name}_{field.c}(const struct api_{d.name} *v)
{{
        assert(v->n_{field.c} <= {field.type.maximum});
        json_t *a = json_array();
        bool ok = a != NULL;
        for (size_t i = 0; ok && i < v->n_{field.c}; i++)
                ok = field_push(a, {emit_value(field.type.item, f"v->{field.c}[i]")});
        return field_done(a, ok);
}}
"""


def emit_object(d):
    out, body = "", ""
    for field in d.fields:
        if field.type.kind == "array":
            out += emit_array(d, field)
            value = f"emit_{d.name}_{field.c}(v)"
            condition = "ok" if field.required else f"ok && v->n_{field.c} > 0"
        else:
            value = emit_value(field.type, f"v->{field.c}")
            condition = "ok" if field.required else f"ok && v->has_{field.c}"
        body += f'        if ({condition})\n                ok = field_put(o, "{field.name}", {value});\n'
    return out + f"""
json_t *api_{d.name}_emit(const struct api_{d.name} *v)
{{
        json_t *o = json_object();
        bool ok = o != NULL;
{body}        return field_done(o, ok);
}}
"""


def methods_source(contract):
    name = contract.name
    rows = "".join(f'        [API_{name.upper()}_{upper(m.name)}] = {{"{m.name}", API_SIDE_{upper(m.side)}, '
                   f'{str(m.notification).lower()}}},\n' for m in contract.methods)
    return f"""
const struct api_method api_{name}_methods[API_{name.upper()}_METHOD_N] = {{
{rows}}};

enum api_{name}_method api_{name}_method_find(const char *name)
{{
        for (int i = 1; i < API_{name.upper()}_METHOD_N; i++)
                if (strcmp(api_{name}_methods[i].name, name) == 0)
                        return (enum api_{name}_method)i;
        return 0;
}}
"""


def query_source(d):
    kinds = "".join(f'        {{"{f.name}", QUERY_{f.type.kind.upper()}}},\n' for f in d.fields)
    return f"""
static const struct query_name {d.name}_query[] = {{
{kinds}}};

int api_{d.name}_read(const char *text, struct api_{d.name} *ret, struct err *err)
{{
        json_t *v = query_read(text, {d.name}_query, ARRAY_N({d.name}_query), err);
        int r = v ? api_{d.name}_parse(v, ret, err) : err_note(err, "query");
        json_decref(v);
        return r;
}}
"""


def status_source(d):
    rows = "".join(f"                [{constant(d, w)}] = {d.status[w]},\n" for w in d.words)
    return f"""
int api_http_status(enum reason r)
{{
        static const int status[REASON_N] = {{
{rows}        }};
        return r > 0 && (unsigned)r < REASON_N ? status[r] : 500;
}}
"""


def openapi_source(api):
    """In a file of its own, so that a guest's binary does not carry it."""
    out = NOTICE + "#include \"json/api.h\"\n"
    out += "\n/* ISO C promises 4095 characters in a literal; gcc and clang take as many as there are. */\n"
    out += "#pragma GCC diagnostic ignored \"-Woverlength-strings\"\n"
    for contract in api.contracts:
        if contract.operations:
            lines = openapi.document(api, contract).splitlines()
            text = "".join('        "' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"\n' for line in lines)
            out += f"\nconst char api_{contract.name}_openapi[] =\n{text.rstrip()};\n"
    return out


def routes_source(contract):
    rows = "".join(f'        {{"{o.verb.upper()}", "{o.path}", API_{operation_enum(contract).upper()}_{upper(o.name)}, '
                   f'API_ROLE_{upper(o.role)}, {str(bool(o.path_fields)).lower()}, '
                   f'{str(any(f.type.format == "id" for f in o.path_fields)).lower()}}},\n'
                   for o in contract.operations)
    return f"""
const struct api_route api_{contract.name}_routes[] = {{
{rows}}};
const size_t api_{contract.name}_routes_n = ARRAY_N(api_{contract.name}_routes);
"""


def source(api):
    out = SOURCE
    for d in api.ordered():
        if d.is_object:
            out += parse_object(d) + emit_object(d)
        else:
            out += words_source(d)
            if any(d in other.refs() for other in api.defs.values()):
                out += parse_words(d)
    operations = [(operation_enum(c), [o.name for o in c.operations]) for c in api.contracts if c.operations]
    for name, words in [("side", api.sides), ("role", api.roles)] + operations:
        out += words_table(name, words) + name_function(name)
    for contract in api.contracts:
        if contract.methods:
            out += methods_source(contract)
        if contract.operations:
            out += routes_source(contract)
            out += "".join(query_source(d) for d in queries(contract))
    apart = "".join(f"[API_ROLE_{upper(r)}] = true, " for r in api.apart)
    out += f"""
bool api_role_may(enum api_role role, const struct api_route *route)
{{
        static const bool apart[API_ROLE_N] = {{{apart or "false"}}};
        if (role == 0 || role == route->role)
                return role != 0;
        return role > route->role && !apart[role] && !apart[route->role];
}}
"""
    return out + status_source(api.defs["reason"])


def check_identifiers(api):
    """Two things of different contracts must not become one C identifier."""
    made = {}

    def take(identifier, by):
        if made.setdefault(identifier, by) != by:
            raise Fault(f"{by} and {made[identifier]} both become {identifier}")

    for word in ("method", "route", "side", "role", "operation"):
        take(f"api_{word}", "the generator")
    for d in api.ordered():
        take(f"api_{d.name}", f"def {d.name}")
        if d.is_object:
            take(f"api_{d.name}_parse", f"def {d.name}")
            take(f"api_{d.name}_emit", f"def {d.name}")
        else:
            take(f"api_{d.name}_name", f"def {d.name}")
            take(f"api_{d.name}_find", f"def {d.name}")
            for word in d.words + ["n"]:
                take(constant(d, word), f"def {d.name} word {word}")
        for field in d.fields or ():
            if field.type.kind == "array":
                take(f"parse_{d.name}_{field.c}", f"field {d.name}.{field.c}")
        take(f"parse_{d.name}", f"def {d.name}")
    for contract in api.contracts:
        take(f"API_{contract.name.upper()}_VERSION", f"contract {contract.name}")
        take(f"API_{contract.name.upper()}_METHOD_N", f"contract {contract.name}")
        take(f"api_{contract.name}_method", f"contract {contract.name}")
        for method in contract.methods:
            take(f"API_{contract.name.upper()}_{upper(method.name)}", f"method {contract.name}/{method.name}")
    for contract in api.contracts:
        for d in queries(contract):
            take(f"api_{d.name}_read", f"query {d.name}")
    for operation in api.operations:
        take(f"API_OPERATION_{upper(operation.name)}", f"operation {operation.path} {operation.verb}")


def generate(api):
    check_identifiers(api)
    return {"api.h": header(api), "api.c": source(api), "openapi.c": openapi_source(api)}

# SPDX-License-Identifier: Apache-2.0
"""The contracts as tables of json/case.h, for tests and fuzzers."""
from .csource import NOTICE, enum_name, scalar


def kind(type_):
    if type_.kind == "string":
        return {None: "CASE_TEXT", "name": "CASE_NAME", "id": "CASE_ID"}[type_.format]
    if type_.kind == "ref":
        return "CASE_OBJECT" if type_.ref.is_object else "CASE_WORD"
    return f"CASE_{type_.kind.upper()}"


def row(d, field):
    struct = f"struct api_{d.name}"
    item = field.type.item or field.type
    out = [f'.name = "{field.name}"', f".kind = {kind(item)}", f".required = {str(field.required).lower()}",
           f".offset = offsetof({struct}, {field.c})"]
    size = f"{item.maximum} + 1" if item.kind == "string" else f"sizeof({scalar(item)})"
    out.append(f".size = {size}")
    if item.kind in ("string", "integer"):
        out.append(f".min = {item.minimum}, .max = {item.maximum}")
    if item.kind == "ref":
        out.append(f".def = &{item.ref.name}_case" if item.ref.is_object
                   else f".words = {item.ref.name}_words, .max = {len(item.ref.words)}")
    if field.type.kind == "array":
        out.append(f".is_array = true, .array_min = {field.type.minimum}, .array_max = {field.type.maximum}, "
                   f".count_offset = offsetof({struct}, n_{field.c})")
    if field.has_flag:
        out.append(f".has_flag = true, .has_offset = offsetof({struct}, has_{field.c})")
    return "        {" + ", ".join(out) + "},\n"


def words(d):
    return (f"\nstatic const char *const {d.name}_words[] = {{NULL, "
            + ", ".join(f'"{w}"' for w in d.words) + "};\n"
            + f"_Static_assert(sizeof({enum_name(d)}) == sizeof(int), \"random words are written as int\");\n")


def case(d):
    out = ""
    if d.fields:
        out = f"\nstatic const struct case_field {d.name}_fields[] = {{\n" + "".join(row(d, f) for f in d.fields) + "};\n"
    return out + f"""
static int parse_{d.name}(const json_t *v, void *ret, struct err *err)
{{
        return api_{d.name}_parse(v, ret, err);
}}

static json_t *emit_{d.name}(const void *v)
{{
        return api_{d.name}_emit(v);
}}

static const struct case_def {d.name}_case = {{
        .contract = "{d.contract.name}", .name = "{d.name}", .size = sizeof(struct api_{d.name}),
        .fields = {d.name + "_fields" if d.fields else "NULL"}, .n_fields = {len(d.fields)},
        .parse = parse_{d.name}, .emit = emit_{d.name},
}};
"""


def objects(api):
    """In the order of the contracts, which is that of case_defs[]."""
    return [d for c in api.contracts for d in c.defs if d.is_object]


def generate(api):
    used = {r.name for d in api.defs.values() for r in d.refs()}
    out = NOTICE + '#include "json/api.h"\n#include "json/case.h"\n'
    for d in api.ordered():
        if d.is_object:
            out += case(d)
        elif d.name in used:
            out += words(d)
    rows = "".join(f"        &{d.name}_case,\n" for d in objects(api))
    out += f"\nconst struct case_def *const case_defs[] = {{\n{rows}}};\n"
    return {"case.c": out + f"const size_t case_defs_n = {len(objects(api))};\n"}

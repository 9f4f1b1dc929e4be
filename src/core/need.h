/* SPDX-License-Identifier: Apache-2.0 */
/* core/need.h - what is asked for: an amount of one kind, with performance parameters.
 *
 * Text form: KIND:AMOUNT[..AMOUNT][,PARAMETER...]   cpu:2,share>=0.9   memory:512M..2G   cpu:1,exclusive
 * net:200M   block:50M   memory:1G,page=2M   cpu:1,id=5   memory:2G,node=1
 * Amounts: CPUs; bytes, and for block bytes a second, with K M G T; bits a second with K M G T of 1000. A
 * flag parameter stands alone; others are NAME RELATION VALUE. Values are held in the parameter's base unit
 * (share: thousandths), so that what is evaluated is what was stated (1.4), and need_print() gives a text
 * that parses to the same need. Pure, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "base/units.h"
#include "core/component.h"

enum { NEED_PARAMETERS_MAX = 4, NEED_TEXT = 128, NEEDS_MAX = 4 };

enum relation { RELATION_AT_LEAST = 1, RELATION_AT_MOST, RELATION_EQUAL };

/* A row of the table of parameter kinds. Only rows with a source of truth, an enforcing provider and a
 * test that measures it are in it (1.5). */
enum parameter_id {
        PARAMETER_SHARE = 1,
        PARAMETER_EXCLUSIVE,
        PARAMETER_PAGE,
        PARAMETER_CPU_ID,
        PARAMETER_CPU_NODE,
        PARAMETER_MEMORY_NODE,
        PARAMETER_N
};
struct parameter_row {
        enum component_kind kind;
        const char *name;
        enum relation relation; /* the one it takes */
        bool flag;              /* stands alone, has no value */
        const char *unit;       /* base unit of the value */
        int64_t minimum, maximum;
        const char *source;   /* inventory field or monitor that answers it */
        const char *provider; /* what enforces it */
        const char *measured; /* the test that measures it */
        const char *description;
};
extern const struct parameter_row parameter_rows[PARAMETER_N];

struct parameter {
        enum parameter_id id;
        enum relation relation;
        int64_t value; /* base unit; 1 for a flag */
};

struct need {
        enum component_kind kind;
        int64_t amount;     /* the least that will do: CPUs, bytes, or bits or bytes a second */
        int64_t amount_max; /* the most that is of use; == amount where no range was asked for */
        size_t n_parameters;
        struct parameter parameters[NEED_PARAMETERS_MAX];
};

/* Unknown kinds and parameters, and kinds without a provider: REASON_UNSUPPORTED. Anything malformed, a
 * parameter twice, parameters that exclude each other, amounts of 0 or above 2^53-1: REASON_INVALID.
 * *ret is untouched on failure. */
int need_parse(const char *text, struct need *ret, struct err *err);
/* An amount alone, as its kind is written; need_amount_parse() refuses what is not one, but not 0. */
int need_amount_parse(enum component_kind kind, const char *text, int64_t *ret, struct err *err);
const char *need_amount_print(enum component_kind kind, int64_t amount, char buf[UNITS_TEXT]);
/* The value of a parameter that is no flag, as people write it: share 0.9, page 2M. */
int need_value_parse(enum parameter_id id, const char *text, int64_t *ret, struct err *err);
const char *need_value_print(enum parameter_id id, int64_t value, char buf[UNITS_TEXT]);
/* Size of the pages that it asks for, in bytes; 0: ordinary ones. */
int64_t need_page_bytes(const struct need *need);
/* The one component, or the node, on which it must lie (2.9); -1: any. */
int64_t need_component(const struct need *need);
int64_t need_node(const struct need *need);
/* Text form; always terminated, always fits. Returns buf. */
const char *need_print(const struct need *need, char buf[NEED_TEXT]);
/* The same checks on a need that came in parts (from the wire): */
int need_check(const struct need *need, struct err *err);

/* A parameter as the wire has it. A flag is NAME with the relation "=" and neither value nor word. */
struct need_part {
        const char *name;
        enum relation relation;
        bool has_value;
        int64_t value;    /* base unit */
        const char *word; /* or NULL; no row takes one today */
};
/* The need that was said in parts; amount_max is 0 where no range was asked for. Same checks and reasons as
 * need_parse(). Borrows the strings only during the call. */
int need_from_parts(const char *kind, int64_t amount, int64_t amount_max, size_t n,
                    const struct need_part *parts, struct need *ret, struct err *err);
/* The way back for one parameter; `name` points into parameter_rows[]. */
struct need_part need_part_of(const struct parameter *p);
/* Same kind, amounts and parameters in the same order. */
bool need_equal(const struct need *a, const struct need *b);

/* Checks each, and that no kind stands in them twice. */
int needs_check(const struct need *needs, size_t n, struct err *err);
int needs_parse(const char *const *texts, size_t n, struct need *ret_needs, struct err *err);
/* Relation from ">=", "<=" or "="; 0 where it is none of them. */
enum relation relation_from_name(const char *name);
/* The parameter of that id, or NULL. */
const struct parameter *need_parameter(const struct need *need, enum parameter_id id);
/* Finds a row by kind and name; 0 where there is none. */
enum parameter_id parameter_find(enum component_kind kind, const char *name);
const char *relation_name(enum relation r); /* ">=" */

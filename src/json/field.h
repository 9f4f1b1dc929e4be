/* SPDX-License-Identifier: Apache-2.0 */
/* json/field.h - what the generated codecs are made of: strict checks of one value, and its encoding.
 *
 * Used by generated code only. Every check fails with -EINVAL and REASON_INVALID, and a sentence that
 * starts with the path of the value: `needs[1].amount: must be at least 1`. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

/* Where a value stands: a chain on the stack, from the value up to the document (NULL). */
struct field_at {
        const struct field_at *up;
        const char *name; /* NULL: an entry of an array, then index counts */
        size_t index;
};

struct field_name {
        const char *name;
        bool required;
};

enum field_format { FIELD_TEXT = 1, FIELD_NAME, FIELD_ID };

/* Sorts the members of v into ret[] in the order of names; NULL for those that are absent. v NULL counts
 * as {}: a JSON-RPC message may leave out its params, an HTTP request its body. */
int field_object(const struct field_at *at, const json_t *v, const struct field_name *names, size_t n,
                 const json_t **ret, struct err *err);
/* Lengths in bytes of UTF-8; ret has max + 1 of them. */
int field_string(const struct field_at *at, const json_t *v, size_t min, size_t max, enum field_format format,
                 char *ret, struct err *err);
/* The same checks on n bytes at s (s[n] is 0). */
int field_text(const struct field_at *at, const char *s, size_t n, size_t min, size_t max,
               enum field_format format, struct err *err);
/* A number with a fraction or an exponent is no integer, not even 1.0. */
int field_integer(const struct field_at *at, const json_t *v, int64_t min, int64_t max, int64_t *ret,
                  struct err *err);
int field_boolean(const struct field_at *at, const json_t *v, bool *ret, struct err *err);
/* One of words[1] to words[n - 1]; gives its index. */
int field_word(const struct field_at *at, const json_t *v, const char *const *words, int n, int *ret,
               struct err *err);
int field_array(const struct field_at *at, const json_t *v, size_t min, size_t max, size_t *ret_n,
                struct err *err);

/* The index of a word, or 0. */
int field_find(const char *const *words, int n, const char *word);

/* Encoding. All return new references, NULL without memory. What no decoder would take (control
 * characters, broken UTF-8, as a cut sentence or a quoted peer can bring) leaves as '?'. A string must end
 * within size bytes, and a word must be one: anything else is a bug and asserts. */
json_t *field_emit_string(const char *s, size_t size);
json_t *field_emit_word(const char *const *words, int n, int value);
/* Take v; false: it was NULL, or no memory. key is a literal. */
bool field_put(json_t *object, const char *key, json_t *v);
bool field_push(json_t *array, json_t *v);
/* v where all went well, else NULL; v is given up. */
json_t *field_done(json_t *v, bool ok);

/* SPDX-License-Identifier: Apache-2.0 */
/* json/case.h - the contracts as tables, for tests and fuzzers.
 *
 * Made from the schemas independently of the codecs, so that generic code can fill any struct, break any
 * document, and see whether the codec agrees. Not part of any program. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum case_kind { CASE_TEXT = 1, CASE_NAME, CASE_ID, CASE_INTEGER, CASE_BOOLEAN, CASE_WORD, CASE_OBJECT };

struct case_def;

struct case_field {
        const char *name;
        enum case_kind kind; /* of the value, or of each entry of an array */
        bool required;
        int64_t min, max;         /* of an integer; of the length of a text in bytes; last word */
        const char *const *words; /* from 1 on */
        const struct case_def *def;
        size_t offset, size; /* where the value (the array's first) stands in the struct, size of one */
        bool is_array;
        size_t array_min, array_max, count_offset; /* n_X */
        bool has_flag;
        size_t has_offset; /* has_X */
};

struct case_def {
        const char *contract, *name;
        size_t size;
        const struct case_field *fields;
        size_t n_fields;
        int (*parse)(const json_t *v, void *ret, struct err *err);
        json_t *(*emit)(const void *v);
};

/* All object defs, by contract. */
extern const struct case_def *const case_defs[];
extern const size_t case_defs_n;

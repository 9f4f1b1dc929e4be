/* SPDX-License-Identifier: Apache-2.0 */
/* json/query.h - the query of a URL as a JSON object, so that one decoder serves both. */
#pragma once
#include <jansson.h>
#include <stddef.h>
#include "base/err.h"

enum query_kind { QUERY_STRING = 1, QUERY_INTEGER, QUERY_BOOLEAN };

struct query_name {
        const char *name;
        enum query_kind kind;
};

/* "after=a%3Ab&limit=10" as {"after": "a:b", "limit": 10}. NULL and "" are {}. A name that is not listed, and
 * text that is no number where one is due, stay strings: the decoder's message is the right one then.
 * Refused as REASON_INVALID: a name twice, a bad %-escape, what is no UTF-8, more than QUERY_BYTES_MAX. */
enum { QUERY_BYTES_MAX = 2048 };
json_t *query_read(const char *text, const struct query_name *names, size_t n, struct err *err);

/* Undoes %-escapes in n bytes of text into dst[size]; '+' becomes a blank where plus_is_blank. The length, or
 * -EINVAL: a bad escape, an escaped NUL, or it does not fit. */
int query_unescape(const char *text, size_t n, int plus_is_blank, char *dst, size_t size);

/* SPDX-License-Identifier: Apache-2.0 */
/* json/read.h - one JSON value from a bounded text, and back. Strict, because peers are hostile. */
#pragma once
#include <jansson.h>
#include <stddef.h>
#include "base/err.h"

enum { JSON_DEPTH_MAX = 16 }; /* arrays and objects within each other */

/* Reads exactly one value; blanks around it are allowed. Refused as REASON_INVALID, with line and column
 * where they are known: a key twice in an object, nesting deeper than JSON_DEPTH_MAX, NUL (raw or as an
 * escape), broken UTF-8, an integer beyond 64 bits, more text behind the value, no text at all. Returns a
 * new reference, or NULL with *err set. The caller bounds n. */
json_t *json_read(const char *text, size_t n, struct err *err);

/* Compact text without a newline, ended by a NUL that *ret_n (may be NULL) does not count. The caller
 * frees it. NULL: no memory. */
char *json_write(const json_t *v, size_t *ret_n);

/* SPDX-License-Identifier: Apache-2.0 */
/* base/str.h - bounded strings in fixed arrays, and the names that mete accepts. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Copy src into dst[size], always terminated. false: it did not fit, dst is unchanged. */
bool str_copy(char *dst, size_t size, const char *src);
#define STR_COPY(dst, src) str_copy((dst), sizeof(dst), (src))

/* A name of ours: 1 to 63 of [A-Za-z0-9._-], not starting with '.' or '-'. Safe as a file name. */
bool str_is_name(const char *s);

/* An id of a request: 1 to 63 of [A-Za-z0-9._:-]. Not a file name. */
bool str_is_id(const char *s);

#define ARRAY_N(a) (sizeof(a) / sizeof((a)[0]))

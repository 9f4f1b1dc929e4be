/* SPDX-License-Identifier: Apache-2.0 */
/* vm/pick.h - takes fields out of what a VMM said, trusting nothing about their presence, type or size. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* false: absent, of another type, or outside the bounds; *ret is untouched. object may be anything, NULL too.
 */
bool pick_integer(const json_t *object, const char *key, int64_t minimum, int64_t maximum, int64_t *ret);
bool pick_boolean(const json_t *object, const char *key, bool *ret);
/* Copies at most size - 1 bytes; false also where it does not fit or has control characters. */
bool pick_string(const json_t *object, const char *key, char *ret, size_t size);
/* The same, but makes it fit: cut at size - 1, control characters become '?'. For sentences. */
bool pick_words(const json_t *object, const char *key, char *ret, size_t size);
/* "" where absent. For comparisons; borrowed. */
const char *pick_text(const json_t *object, const char *key);

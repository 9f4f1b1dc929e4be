/* SPDX-License-Identifier: Apache-2.0 */
/* host/cpulist.h - a set of CPUs (or NUMA nodes), and the kernel's way to write one: "0-3,8". */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum {
        CPULIST_MAX = 4096,  /* numbers 0 to 4095 */
        CPULIST_TEXT = 9728, /* holds the longest text: every other number */
};

struct cpulist {
        uint64_t bits[CPULIST_MAX / 64]; /* zeroed memory is the empty set */
};

/* Numbers and ranges, commas between them; the empty text is the empty set, a newline at the end (as
 * files of the kernel have it) is accepted. Ranges may overlap, not run backwards. *ret is untouched on
 * failure. */
int cpulist_parse(const char *text, struct cpulist *ret, struct err *err);
/* Shortest text, ascending. Returns buf. */
const char *cpulist_print(const struct cpulist *l, char buf[CPULIST_TEXT]);

/* false: the number is beyond CPULIST_MAX, nothing was added. */
bool cpulist_add(struct cpulist *l, uint32_t number);
bool cpulist_has(const struct cpulist *l, uint32_t number);
size_t cpulist_count(const struct cpulist *l);
/* The least number >= from, or -1. */
int cpulist_next(const struct cpulist *l, uint32_t from);
bool cpulist_is_equal(const struct cpulist *a, const struct cpulist *b);
/* Is every number of `part` in `whole`? */
bool cpulist_is_within(const struct cpulist *part, const struct cpulist *whole);
/* Adds every number of `from`. */
void cpulist_join(struct cpulist *l, const struct cpulist *from);
/* Takes every number of `from` away. */
void cpulist_remove(struct cpulist *l, const struct cpulist *from);
/* Have they a number in common? */
bool cpulist_has_common(const struct cpulist *a, const struct cpulist *b);

/* SPDX-License-Identifier: Apache-2.0 */
/* host/resctrl-schemata.h - the text of a `schemata` file, and sums on the masks in it. Pure: no files.
 *
 *     L3:0=fff;1=fff        ways of a cache, a mask for each cache id (L3CODE and L3DATA with CDP)
 *     MB:0=100;1=100        ceiling of memory bandwidth, in percent for each L3 id */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "host/cpulist.h"

enum {
        RESCTRL_IDS = 256, /* the most caches of one level */
        RESCTRL_LINES = 8,
        RESCTRL_TEXT = 34 * 1024, /* holds every line with every value */
};

enum resctrl_line_kind {
        RESCTRL_WAYS = 1, /* of the level that we give away */
        RESCTRL_OTHER_WAYS,
        RESCTRL_MEMBW,
        RESCTRL_OTHER,
};

struct resctrl_value {
        uint32_t id, value;
};

struct resctrl_line {
        enum resctrl_line_kind kind;
        char name[16];
        size_t n;
        struct resctrl_value at[RESCTRL_IDS];
};

struct resctrl_schemata {
        size_t n;
        struct resctrl_line line[RESCTRL_LINES];
};

/* `level` is that whose ways we give away, 0 where none. Lines of a kind unknown here are left out, and so
 * are lines without a value (a group that is being pseudo-locked). *ret is untouched on failure. */
int resctrl_schemata_parse(const char *text, int level, struct resctrl_schemata *ret, struct err *err);
/* As one write: a line for each resource. Returns buf. */
const char *resctrl_schemata_print(const struct resctrl_schemata *s, char buf[RESCTRL_TEXT]);
bool resctrl_schemata_is_equal(const struct resctrl_schemata *a, const struct resctrl_schemata *b);
/* All masks of that cache together (code and data); 0 where the id is not there. */
uint32_t resctrl_ways_of(const struct resctrl_schemata *s, uint32_t id);
/* In each line of the kind; false: the id is not there. */
bool resctrl_set(struct resctrl_schemata *s, enum resctrl_line_kind kind, uint32_t id, uint32_t value);
const struct resctrl_line *resctrl_line_of(const struct resctrl_schemata *s, enum resctrl_line_kind kind);

/* Hardware wants the ways of a group side by side. The longest such part of a mask, the lowest among equals.
 */
uint32_t resctrl_run(uint32_t mask);
/* `ways` side by side out of `free`, so that what remains of `rest` (the default group's) has the longest
 * run, which is never shorter than `least`; the highest among equals. 0: there are none. */
uint32_t resctrl_pick(uint32_t free, uint32_t rest, uint32_t ways, uint32_t least);

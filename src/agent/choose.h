/* SPDX-License-Identifier: Apache-2.0 */
/* agent/choose.h - which component of the host to ask for (2.9): one that is in what the host has told
 * (json/hhi.h), free there, and near to what this guest has. Pure; of a document that passed hhi_check(). */
#pragma once
#include <jansson.h>
#include <stdint.h>
#include "core/need.h"

/* What this guest has of a kind, and what there is in all: in the unit of the kind; 0 where nothing is said.
 */
int64_t choose_has(const json_t *hhi, enum component_kind kind);
int64_t choose_capacity(const json_t *hhi, enum component_kind kind);

enum { CHOOSE_PART_MILLI = 100 }; /* of a CPU: less than this is not asked for */

struct choice {
        char need[NEED_TEXT]; /* "cpu:1,id=5", "cpu:1,id=0,share>=0.7", "memory:128M..1G,node=1" */
        int64_t amount;       /* that has with it at most: thousandths, bytes */
        char where[96];       /* "cpu:5, free, at distance 10 from what this VM has" */
};
/* At least `amount` in whole steps of `step` (a CPU; a piece of memory), or less where there is not as much
 * in one place. Of those that will do, the nearest by the host's distances, then the lowest number. Where the
 * host does not say what is free (a partial document) the node is named where this guest has most. false:
 * there is none.
 *
 * A CPU is one: a whole one on which this guest has nothing, or where there is none, a part of any, as large
 * as `amount` if there is one, else the largest. Of memory `least` will do, as only the host knows how far
 * this guest may grow. */
bool choose(const json_t *hhi, enum component_kind kind, int64_t amount, int64_t step, int64_t least,
            struct choice *ret);

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

struct choice {
        char need[NEED_TEXT]; /* "cpu:1,id=5", "memory:256M,node=1" */
        int64_t amount;       /* that has with it: thousandths, bytes */
        char where[96];       /* "cpu:5, free, at distance 10 from what this VM has" */
};
/* At least `amount` in whole steps of `step` (a CPU; a piece of memory), or less where there is not as much
 * in one place; a CPU is one. Of those that will do, the nearest by the host's distances, then the lowest
 * number. Where the host does not say what is free (a partial document) the node is named where this guest
 * has most. false: there is none. */
bool choose(const json_t *hhi, enum component_kind kind, int64_t amount, int64_t step, struct choice *ret);

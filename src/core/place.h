/* SPDX-License-Identifier: Apache-2.0 */
/* core/place.h - which components a need is met from: reads the ledger, changes nothing.
 *
 * CPUs: as many different ones as asked for, each with the share that the need states over the whole window
 * (default_share_milli where it states none, the whole CPU with nobody on it where it is exclusive). Memory:
 * whole units of unit_bytes and whole pages, the amount rounded up, from nodes that have pages of that size.
 * Of a range as much as possible, up to its end rounded up. Best fit: on one node where one has enough, else
 * on as few as possible; of nodes that have enough the one with the fewest to spare, then the least free; on
 * a node the CPUs with the least left. Ties go by the numbers of the kernel, so that the same state gives the
 * same placement. Components that are not healthy are passed over. Pure, no allocation. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/component.h"
#include "core/ledger.h"
#include "core/need.h"

enum {
        PLACEMENT_CPUS_MAX = 64, /* of one need */
        PLACEMENT_NODES_MAX = 8, /* that the memory of one need may come from */
        PLACEMENT_ITEMS_MAX = PLACEMENT_CPUS_MAX + PLACEMENT_NODES_MAX,
        PLACE_COMPONENTS_MAX = 2048, /* of the kind, that are looked at */
};

struct placement_item {
        uint32_t component; /* index */
        int64_t amount;     /* to claim of it */
};

struct placement {
        size_t n;
        struct placement_item item[PLACEMENT_ITEMS_MAX];
        int64_t amount_met; /* CPUs, or bytes in whole units; where not placed, the most that would be now */
};

/* `components` are those that the ledger was made with, in its order. The need has passed need_check().
 * 1: placed, claims of all items will be admitted. 0: not possible in this window; ret->n is 0.
 * Negative errno: a kind that is not placed here, or too many components. */
int place_need(const struct ledger *l, const struct component *components, size_t n, const struct need *need,
               int64_t default_share_milli, int64_t unit_bytes, int64_t start_ms, int64_t end_ms,
               struct placement *ret, struct err *err);

/* The unit in which that need is met. Pages are powers of two. */
int64_t place_unit_bytes(const struct need *need, int64_t unit_bytes);

/* All needs of one request, each kind at most once (needs_check()), so that they do not interfere; one
 * placement a need. 1: all are placed. 0: one at least is not; those that are stay filled in. */
int place_needs(const struct ledger *l, const struct component *components, size_t n,
                const struct need *needs, size_t n_needs, int64_t default_share_milli, int64_t unit_bytes,
                int64_t start_ms, int64_t end_ms, struct placement *ret, struct err *err);

/* The most that could be placed if nothing at all were claimed or off line, of what each component says is
 * owned: CPUs, or bytes in whole units; 0 for kinds that are not placed. What asks for more will never be had
 * here. */
int64_t place_limit(const struct component *components, size_t n, const struct need *need,
                    int64_t default_share_milli, int64_t unit_bytes);

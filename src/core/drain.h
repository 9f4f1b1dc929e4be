/* SPDX-License-Identifier: Apache-2.0 */
/* core/drain.h - how a host can be emptied: which of its VMs goes where, in which order, and whether that is
 * over in time. Pure, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DRAIN_VMS_MAX = 256, DRAIN_ROOMS_MAX = 64 };

#define DRAIN_MS_MAX ((INT64_C(1) << 53) - 1)

enum drain_limit { DRAIN_FITS, DRAIN_MEMORY, DRAIN_CPU, DRAIN_NOWHERE /* no host may have it */ };

/* What a host has for VMs that come. */
struct drain_room {
        int64_t memory_bytes, cpu_milli;
};

struct drain_item {
        size_t vm; /* the caller's own number */
        int64_t memory_bytes, cpu_milli;
        uint64_t may;         /* bit i: it may go to room i */
        int64_t predicted_ms; /* of its move, for drain_schedule() */
        /* decided here */
        int room;               /* -1: none */
        enum drain_limit limit; /* why none */
        int64_t ends_ms;        /* from the begin of the first */
};

/* Gives each item a room, so that no room gets more than it has. true: all have one. false: no way was found
 * in which all have one, in a bounded number of steps; those that go largest first have one, and the others
 * say what there is too little of. Sorts the items. */
bool drain_assign(struct drain_item *items, size_t n, const struct drain_room *rooms, size_t n_rooms);

/* Puts the items in order, those that move soonest first, so that whatever comes between, most are away by
 * then; one after the other, as they leave by one link. Predictions are what hosts say: none counts for less
 * than 0, or makes the sum more than DRAIN_MS_MAX. true: the last ends within within_ms. */
bool drain_schedule(struct drain_item *items, size_t n, int64_t within_ms, int64_t *ret_total_ms);

/* SPDX-License-Identifier: Apache-2.0 */
/* meted/sweep.h - a memory file of a VM that runs is looked at, or brought to its nodes, piece by piece.
 *
 * Each piece is a call of the keeper (ram-place) that is bounded and stands for itself: so what a sweep takes
 * of the machine at once is bounded, it can be ended between any two, and whoever dies, the next one begins
 * anew. How large a piece is follows from how long the one before took: moving a page costs from a
 * microsecond to some milliseconds, by how many CPUs have it mapped and how soon they answer. Where the last
 * piece leaves something, as what is in use by the kernel at that moment, it goes over all of it again, at
 * most SWEEP_PASSES times. Embed it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "loop/loop.h"

struct meted;

enum {
        SWEEP_PASSES = 3,
        SWEEP_NODES = 64,
        SWEEP_PIECE_FIRST = 1 << 20,
        SWEEP_PIECE_LEAST = 64 << 10,
        SWEEP_PIECE_MOST = 8 << 20,
        SWEEP_SHORT_MS = 50, /* a piece that took less is followed by a larger one */
        SWEEP_LONG_MS = 500, /* and one that took longer by a smaller one */
        SWEEP_PAUSE_MS = 5,
        SWEEP_CALL_MS = 60000
};

struct sweep {
        /* to be set */
        struct meted *m;
        char vm[64], item[32];
        int64_t lane; /* machine_lane() */
        int64_t nodes[SWEEP_NODES];
        size_t n_nodes;
        bool is_look; /* left_bytes is what would be moved */
        bool is_slow; /* after each piece a pause of as long as that took, and SWEEP_PAUSE_MS at least */
        /* Before each piece: is it still wanted? NULL: it is. Else it ends as REASON_CANCELLED. */
        bool (*is_wanted)(struct sweep *w);
        /* Once. err NULL: all was gone over; what could not be moved is in left_bytes. */
        void (*done)(struct sweep *w, const struct err *err);
        void *arg;
        /* how far it is */
        int64_t offset, moved_bytes, left_bytes, piece_bytes;
        int pass;
        int64_t called_ms;
        struct loop_timer pause;
};

/* Borrows w until done(), which may free it. */
void sweep_begin(struct sweep *w);
/* done() does not come any more; w is the caller's again. */
void sweep_forget(struct sweep *w);
/* false: there is no room for another one. */
bool sweep_add_node(struct sweep *w, int64_t node);

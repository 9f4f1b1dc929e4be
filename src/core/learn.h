/* SPDX-License-Identifier: Apache-2.0 */
/* core/learn.h - what moves cost beside what they send: assumed at first, then learnt from those that were
 * made.
 *
 * By peer and machine type. A later move counts more than an earlier one, which loses a fifth of its weight
 * with each (MIGRATION.md 6.2); what was assumed counts as one move, the first, or as next to none. The dirty
 * curve is never learnt: it is measured of the VM as it is (vm/profiler.h).
 *
 * A peer says what its side cost, and may say anything: each figure is held within bounds, and spoils the
 * plans of moves to that peer alone. Pure, no allocation, bounded: the row that was not used for longest
 * gives way. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/plan.h"

enum { LEARN_ROWS = 256, LEARN_MACHINES = 8, LEARN_NAME = 64 }; /* in all, and of one peer */

enum learn_cost {
        LEARN_SETUP = 1, /* seconds, where nothing else is said */
        LEARN_STOP,
        LEARN_DEVICE,
        LEARN_COMMIT,
        LEARN_RUN,
        LEARN_ZERO_PAGE,       /* of one page */
        LEARN_SOURCE_CPU,      /* of one byte */
        LEARN_DESTINATION_CPU, /* of one byte */
        LEARN_DEVICE_BYTES,    /* bytes */
        LEARN_STREAM,  /* of one byte, where the link would have taken more: one thread sends it all */
        LEARN_RESUME,  /* from the cut of the guard until the guest runs at the source again; of a move that
                        * was not cut learn_resume_s() */
        LEARN_GOODPUT, /* the stream's part of a link's bandwidth, where the link is what limits it */
        LEARN_COST_N
};
const char *learn_cost_name(enum learn_cost c); /* "zero-page" */

/* A figure that was not measured is below 0. */
struct learn_move {
        double cost[LEARN_COST_N];
        bool is_told[LEARN_COST_N]; /* by the peer, of its side */
};

struct learnt {
        char peer[LEARN_NAME], machine[LEARN_NAME];
        uint64_t used; /* when, counted in uses of the table */
        struct learnt_figure {
                double mean, deviation;
                double weight; /* of moves, the later ones more; 0: none has told */
                bool is_told;  /* the last by the peer */
        } figure[LEARN_COST_N];
};

struct learn {
        struct learnt rows[LEARN_ROWS];
        size_t n;
        uint64_t uses;
};
void learn_init(struct learn *l);

/* How fast a stream was. */
struct learn_rate {
        double bytes_per_s, link_bytes_per_s;
        double reserved_bytes_per_s; /* of the link, for it */
        double cpu_s;                /* for a byte, of the busier one of both sides' threads; 0: not known */
        bool is_alone;               /* nobody else had any of the link reserved */
};
/* What that tells: of the stream's own limit, where a thread that sends it or takes it in was busy with it,
 * or of the link's, whichever it fits better. A link that is cut or slow for a while is not taken for a slow
 * stream, which no plan could do anything about. Slower than was believed it tells something only where no
 * others may have been the cause. */
void learn_rate(struct learn_move *ret, const struct profile *p, const struct means *m,
                const struct learn_rate *r);

/* A move has ended. The row is borrowed; NULL: nothing in it can be used. evicted: the peer that lost a row
 * for it, else "". Names are not empty, and are cut to fit. */
const struct learnt *learn_add(struct learn *l, const char *peer, const char *machine,
                               const struct learn_move *m, char evicted[LEARN_NAME]);
/* What the way back would have taken, of a move that was not cut and whose guard read so many seconds late
 * that the guest had stopped: the cut goes through the same two threads twice, the VMM's monitor and the
 * guard. */
double learn_resume_s(double heard_late_s);
/* As it was stored, within bounds; the row of that name is replaced. false: no figure of it can be used. */
bool learn_put(struct learn *l, const struct learnt *row);
/* The i-th row of a peer, or NULL. */
const struct learnt *learn_row(const struct learn *l, const char *peer, size_t i);

/* All costs, the size of the device state, the goodput and the time to resume, each FIGURE_LEARNT,
 * FIGURE_TOLD or FIGURE_ASSUMED; the rest of *p and *m is left. */
void learn_fill(struct learn *l, const char *peer, const char *machine, struct profile *p, struct means *m);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/precopy.h - how a move by copy will go: QEMU's loop of rounds, simulated.
 *
 * The loop works in slices of 50 ms at most. It sends what its bitmap says, in the order of addresses: first
 * everything once (pages with something in them, then zero pages, which cost time rather than bytes), then
 * what was dirtied. What the guest dirties meanwhile is not in the bitmap: it gets there by a sync, and a
 * sync is made only when less is left than, at the bandwidth of the last slice, can be sent within the
 * downtime limit. Is it still less after the sync, the vCPUs are stopped and the rest is sent; else the
 * rounds go on. A controller may hold the limit low until the first pass is through and was looked at, at
 * least a slice later. With a limit of 0 nothing is ever less: once the bitmap is empty the vCPUs are stopped
 * without that sync, and all that was dirtied meanwhile is sent then.
 *
 * Pure, no allocation, bounded: precopy_run() steps over the slices in which nothing is decided. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PRECOPY_PAGE = 4096, PRECOPY_HEADER = 8, PRECOPY_ZERO_PAGE = 9 }; /* bytes; the last two on the wire */
enum { CURVE_POINTS_MAX = 8 };
#define PRECOPY_SLICE_S 0.05

/* Where a figure is from (4.20). */
enum figure_source {
        FIGURE_ASSUMED = 1, /* nobody has looked yet */
        FIGURE_CONFIGURED,
        FIGURE_SAMPLED,  /* from a part: page sampling */
        FIGURE_MEASURED, /* from all of it: a dirty bitmap, the holes of the RAM file */
        FIGURE_LEARNT,   /* from earlier moves, by who asks */
        FIGURE_TOLD,     /* likewise, by the other host */
        FIGURE_FREE,     /* likewise, as this host's ledger has it */
        FIGURE_SOURCE_N
};
const char *figure_source_name(enum figure_source source); /* "sampled" */

/* U(t): how many bytes of distinct pages a guest that runs freely dirties within t seconds. */
struct curve {
        enum figure_source source;
        double error; /* nine of ten times U(t) is at most 1 + error times what the curve says */
        /* Fitted, where there are no points: a hot set, of which pages are written at random, and beside it
         * pages that are not written again. */
        double hot_bytes, hot_bytes_per_s, cold_bytes_per_s;
        /* Measured: rising in both; linear between them, and past the last as between the last two. */
        size_t n_points;
        struct curve_point {
                double s, bytes;
        } points[CURVE_POINTS_MAX];
};
/* At most `most_bytes`, the guest's memory. */
double curve_bytes(const struct curve *c, double s, double most_bytes);

/* What the loop works with. May be changed between slices. */
struct precopy_means {
        double bytes_per_s;        /* of the stream, as QEMU counts it */
        double switch_bytes_per_s; /* once the guest is stopped */
        double limit_s;            /* QEMU's downtime-limit */
        double hold_s;             /* a lower one, until the first sync was seen; 0: there is none */
        double zero_page_s;        /* to find that a page is zero and to say so */
        double react_s;            /* from that sync until the other is in force */
        double stop_s;             /* until the last vCPU stands: the guest goes on dirtying, unthrottled */
        double fixed_s;            /* of the downtime, whatever is left: stop, device state, commit, run */
        double tail_bytes; /* sent while the guest stands, whatever is left: device state, full buffers */
        double share;      /* of its time that the guest runs: 1 where it is not throttled */
        double dirt;       /* times the curve */
        /* Of what is written to again, how much is still to be sent anyway. 1: as much as were it drawn by
         * lot; 0: none, as of a guest that goes through its memory in turns, until there is no other. */
        double overlap;
        /* Past the last point of the curve: the part of its growth there that does not come, as a guest works
         * in the same memory again and again. 0: it grows as between the last two. */
        double saturation;
        const struct curve *dirty; /* borrowed */
};

/* Where the loop is. All bytes but sent_bytes are of pages, without headers. */
struct precopy {
        double now_s;                /* since the move began, setup included */
        double guest_s, since_s;     /* that the guest has run: since then, and since the last sync */
        double memory_bytes;         /* all of the guest's */
        double first_bytes;          /* with which it began: pages with something in them */
        double left_bytes;           /* of these, not sent yet */
        double zero_pages;           /* not sent yet */
        double again_bytes;          /* dirtied, in the bitmap, behind the cursor */
        double sent_bytes;           /* on the wire */
        double measured_bytes_per_s; /* on the wire, in the last slice */
        int rounds;                  /* syncs of the bitmap */
};
void precopy_init(struct precopy *p, double setup_s, double populated_bytes, double zero_pages);

enum precopy_end {
        PRECOPY_GOES_ON = 0,
        PRECOPY_STOPS,    /* the vCPUs are being stopped */
        PRECOPY_HOPELESS, /* it could go on for ever; only precopy_run() says so */
};
/* What QEMU decides before a slice, and the slice. */
enum precopy_end precopy_slice(struct precopy *p, const struct precopy_means *m);
/* In the bitmap, as query-migrate's `remaining` has it: without what was dirtied since the last sync. */
double precopy_remaining(const struct precopy *p);
/* What a sync would make of it. */
double precopy_remaining_synced(const struct precopy *p, const struct precopy_means *m);

struct precopy_outcome {
        enum precopy_end end; /* PRECOPY_HOPELESS: total and downtime are infinite */
        double total_s; /* with the downtime; from the beginning of the move, also where *p is on its way */
        double downtime_s;
        double sent_bytes;
        int rounds;
};
/* From where *p is to the end. */
struct precopy_outcome precopy_run(const struct precopy *p, const struct precopy_means *m);
/* If the guest were stopped now. */
struct precopy_outcome precopy_stop(const struct precopy *p, const struct precopy_means *m);

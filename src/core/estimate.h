/* SPDX-License-Identifier: Apache-2.0 */
/* core/estimate.h - where a move under way really is, from what QEMU says of it.
 *
 * `remaining` is stale: it lacks what was dirtied since the last sync. `mbps` means nothing while zero pages
 * go by. So the bandwidth is taken from pages with something in them, over at least ESTIMATE_WINDOW_MS in
 * which there was enough to send, and what the guest dirties is checked against its curve at each sync: all
 * that came into the bitmap is what a sync added.
 *
 * Pure, no allocation. What QEMU says is not trusted: figures that run backwards are a new beginning. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "core/plan.h"

enum { ESTIMATE_WINDOW_MS = 300 };

/* Of query-migrate, and of the socket. */
struct sample {
        int64_t remaining_bytes, transferred_bytes;
        int64_t normal_pages, zero_pages; /* sent: QEMU's normal and duplicate */
        int64_t syncs;                    /* dirty-sync-count */
        int64_t queued_bytes;             /* in the socket still */
        int64_t cpu_ns;                   /* that the thread that sends has had; 0: not known */
};

struct estimate {
        struct profile profile;
        struct means means;
        double reserved_bytes_per_s, bytes_per_s; /* of the stream: as reserved, as it is */
        double dirt;                              /* times the curve */
        double overlap;                           /* as of precopy_means, as it was seen */
        double queued_bytes;
        int observed_syncs;
        /* Of this attempt. */
        bool has_sample;
        int64_t sample_ms, window_ms;
        struct sample sample, window;
        bool is_window_full; /* there was enough to send throughout */
        struct {
                double stream_s, stream_bytes, cpu_s, cpu_bytes, zero_s, zero_pages;
        } seen; /* for the next move: of full windows, and of stretches of zero pages */
        int64_t syncs_before;
        struct precopy loop;
};
/* bandwidth_bps: what was reserved. */
void estimate_init(struct estimate *e, const struct profile *p, const struct means *m, int64_t bandwidth_bps);
/* From the beginning again, with what was learnt. */
void estimate_restart(struct estimate *e);
/* share_milli: of its time that the guest had since the sample before. False: it makes no sense, and changed
 * nothing but that the next is counted from anew. */
bool estimate_sample(struct estimate *e, int64_t now_ms, int64_t share_milli, const struct sample *s);

/* With what the rest will be run: limit and share from the caller, all else as it is believed now. */
struct precopy_means estimate_means(const struct estimate *e, double limit_s, int64_t share_milli,
                                    enum plan_view view);
/* What it has cost is learnt: what comes now is another attempt's. */
void estimate_forget(struct estimate *e);
/* What it has cost since, in seconds, below 0 where too little was seen: a byte of the stream where there
 * was enough to send; of the CPU for it; a zero page. */
double estimate_stream_s(const struct estimate *e);
double estimate_cpu_s(const struct estimate *e);
double estimate_zero_page_s(const struct estimate *e);

/* In bytes of pages: what a sync would find now. */
double estimate_left_bytes(const struct estimate *e);

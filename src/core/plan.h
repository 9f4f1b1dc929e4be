/* SPDX-License-Identifier: Apache-2.0 */
/* core/plan.h - what a move by copy takes to keep its promise (4.2), or what could be promised instead
 * (4.10).
 *
 * From the profile of a VM, the level that is asked for, and what is free on both sides: the least vector of
 * resources that keeps the level, and what is predicted with it. The vectors that are considered are one
 * chain, in which no component gets smaller from one to the next: ever more bandwidth, with the CPU that the
 * migration threads need for it; at all the bandwidth there is ever more CPU, for zero pages; then ever less
 * time for the vCPUs. The chain does not depend on the level. So a tighter level never gets less of anything,
 * and every level that is offered was found on the same chain and is granted if it is asked for unchanged
 * (4.13).
 *
 * A level is kept by a vector if some downtime-limit of QEMU's keeps it in the pessimistic simulation: the
 * dirty curve and the bandwidth at the bad end of their error, fixed costs at their 99th percentile, and the
 * downtime taken as the most that the limit lets happen, as QEMU spends all of it where it has a use for it.
 *
 * Pure, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/precopy.h"

/* A fixed cost in seconds. */
struct cost {
        double mean_s, p99_s;
        enum figure_source source;
};

/* Of one VM, between these two hosts. */
struct profile {
        int64_t populated_bytes; /* of pages that have something in them */
        enum figure_source populated_source;
        int64_t zero_pages; /* all others */
        enum figure_source zero_pages_source;
        struct curve dirty;
        int64_t device_bytes;      /* at most */
        int64_t device_mean_bytes; /* 0: not known apart */
        enum figure_source device_bytes_source;
        struct cost setup;                       /* before the first byte */
        struct cost stop, device, commit, run;   /* of the downtime: vCPUs stand, state saved and loaded,
                                                    outcome   written, vCPUs run */
        struct cost zero_page;                   /* one of them, on the slower side */
        struct cost source_cpu, destination_cpu; /* of the migration threads, for one byte */
        struct cost
                stream; /* of one byte, whatever the link: one thread sends it all; 0: there is no limit */
};

enum { LEVEL_MAX_MS = 7 * 24 * 3600 * 1000 };
/* What is asked for. 0: this bound is not asked for. */
struct level {
        int64_t total_ms, downtime_ms;
        bool is_best_effort; /* if it cannot be kept, move all the same */
};
/* 0, or -EINVAL and why it makes no sense. */
int level_check(const struct level *l, struct err *err);

/* What is free, and what policy allows. Sides may be hostile in what they say: amounts below 0 are none. */
struct means {
        struct means_side {
                int64_t bandwidth_bps; /* of the link, headers of all layers included */
                int64_t cpu_milli;     /* for migration threads */
        } source, destination;
        int64_t share_min_milli; /* least part of their time that policy leaves the vCPUs; 1000: no throttling
                                  */
        double goodput;          /* what of a link's bandwidth QEMU's stream gets: 0.955 */
        double goodput_error;    /* nine of ten times it is at most this part less */
        enum figure_source goodput_source;
        int64_t queued_bytes; /* that buffers outside QEMU hold */
        double settle_s;      /* from lifting a throttle until QEMU stops the guest */
        struct cost resume;   /* from the instant at which the guard breaks a stop off until the guest runs */
};

struct vector {
        int64_t bandwidth_bps; /* on both sides */
        int64_t source_cpu_milli, destination_cpu_milli;
        int64_t share_milli; /* of its time that each vCPU keeps: less is more throttling */
};
/* No component of a is smaller than b's; of the share, none is larger. */
bool vector_covers(const struct vector *a, const struct vector *b);

/* p50 is expected: with all that is free, as what is reserved is the least that the stream gets, not the
 * most. p90 is promised: with what is reserved alone, at the bad end of each error. */
struct interval {
        int64_t p10, p50, p90;
};
struct prediction {
        bool ends;             /* else no figure means anything */
        int64_t bandwidth_bps; /* of the link, with which it is expected */
        struct interval total_ms, downtime_ms, sent_bytes, rounds;
};

enum plan_outcome {
        PLAN_KEPT = 1,    /* the vector keeps the level */
        PLAN_COUNTERED,   /* it cannot be kept; offers[] can */
        PLAN_BEST_EFFORT, /* it cannot be kept, or is none, and the move is wanted all the same */
        PLAN_NEVER,       /* nothing can be promised with these means */
        PLAN_OUTCOME_N
};
const char *plan_outcome_name(enum plan_outcome o); /* "countered" */

/* Of what there is too little. */
enum plan_limit {
        LIMIT_SOURCE_BANDWIDTH = 1,
        LIMIT_DESTINATION_BANDWIDTH,
        LIMIT_SOURCE_CPU,
        LIMIT_DESTINATION_CPU,
        LIMIT_STREAM,      /* one thread sends it all, and is no faster */
        LIMIT_FIXED_COSTS, /* no amount of anything would do: setup, zero pages, stop, device state ... */
        PLAN_LIMIT_N
};
const char *plan_limit_name(enum plan_limit l); /* "source-bandwidth" */

enum plan_offer_kind {
        OFFER_LEAST_DOWNTIME = 1, /* within the total time that is asked for */
        OFFER_LEAST_TOTAL,        /* within the downtime that is asked for */
        OFFER_KNEE,               /* where giving more of one no longer gains much of the other */
        PLAN_OFFERS_MAX = 3
};

struct plan {
        enum plan_outcome outcome;
        struct vector vector;      /* to reserve; none of anything for a best effort without a level */
        int64_t downtime_limit_ms; /* QEMU's, to begin with: the lowest that will do, not the level */
        struct prediction predicted;
        int64_t reserve_ms;    /* for which to reserve it */
        enum plan_limit limit; /* 0 where the level is kept */
        size_t n_offers;
        struct plan_offer {
                enum plan_offer_kind kind;
                struct level level;
                struct vector vector; /* that keeps it; asked for, it may be granted with less */
                int64_t downtime_limit_ms;
                struct prediction predicted;
        } offers[PLAN_OFFERS_MAX];
};
void plan_make(const struct profile *p, const struct level *l, const struct means *m, struct plan *ret);
/* The plan of a move whose i-th offer was accepted: what was offered, is what is kept. */
struct plan plan_of_offer(const struct plan *countered, size_t i);
/* What the stream gets of the link where nobody else wants it: no less than the vector has. */
int64_t plan_free_bps(const struct profile *p, const struct means *m, const struct vector *v);
/* What will come of a vector and a limit. */
void plan_predict(const struct profile *p, const struct means *m, const struct vector *v,
                  int64_t downtime_limit_ms, struct prediction *ret);
/* QEMU's limit while no downtime is wanted yet: it stops only a guest that dirties next to nothing. */
enum { PLAN_HOLD_MS = 1 };
/* Of the bandwidth that QEMU measures, and stops its guest by: nine of ten times it is off by no more. */
#define PLAN_MEASURE_ERROR 0.05
/* The downtime-limits that are considered, in rising order; 0: there are no more. */
int64_t plan_rung_ms(int i);

/* What a simulated run of the loop is to be made with. */
enum plan_view { PLAN_OPTIMISTIC = -1, PLAN_EXPECTED = 0, PLAN_PESSIMISTIC = 1 };
struct precopy_means plan_loop_means(const struct profile *p, const struct means *m, const struct vector *v,
                                     double limit_s, enum plan_view view);
/* Of a downtime, the part behind the last byte: it is committed and runs there, or it was broken off and runs
 * here, whichever may take longer. So much before the level is over the guard breaks it off. */
double plan_end_s(const struct profile *p, const struct means *m);
/* The longest downtime that QEMU's limit lets happen, of a pessimistic run; and with a vector. */
double plan_downtime_bound_s(const struct profile *p, const struct means *m,
                             const struct precopy_means *worst);
int64_t plan_downtime_bound_ms(const struct profile *p, const struct means *m, const struct vector *v,
                               int64_t downtime_limit_ms);

/* What one side has free from an instant on, until the next. */
struct side_then {
        int64_t at_ms;
        struct means_side has;
};
enum { PLAN_THENS_MAX = 16 }; /* of one side */
/* The same of both. */
struct plan_then {
        int64_t at_ms;
        struct means_side source, destination;
};
/* Of two that are in order of time; m: what they have before. So many, at most 2 * PLAN_THENS_MAX. */
size_t plan_merge(const struct means *m, const struct side_then *source, size_t n_source,
                  const struct side_then *destination, size_t n_destination,
                  struct plan_then ret[2 * PLAN_THENS_MAX]);
/* When could the whole level be kept: now_ms, or the first of these instants, which are in order of time, at
 * which what it takes is there for for_ms. false: not within these. */
bool plan_earliest(const struct profile *p, const struct level *l, const struct means *m,
                   const struct plan_then *thens, size_t n, int64_t for_ms, int64_t now_ms, int64_t *ret_ms);

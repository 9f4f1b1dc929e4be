/* SPDX-License-Identifier: Apache-2.0 */
/* core/projection.h - how much of one kind will be needed when what is asked for now is there (2.8).
 *
 * Samples of what is used go in, one every step, and what should be held comes out. The samples are in any
 * unit; what follows one another by PROJECTION_LEAD steps is what an answer takes to come true. The method,
 * in whole:
 *
 *   seen      a histogram of all samples in which each counts half as much PROJECTION_HALF_LIFE samples
 * later; so demand that came and went is held for, as it may come again, until it has faded like now  how
 * often, among machines at large, demand was more than r times what it had been of late; it counts as
 * PROJECTION_PRIOR samples, so that it decides in the first hour and says later how far beyond what was ever
 * seen demand may go level     the one that costs least, where a step short of what is needed costs
 * PROJECTION_COST hundredths of all there is (the newsvendor's): steady demand is followed closely, one that
 * leaps with room steady    at least what was used all the time of the last lead, however seldom it was
 * before trend     where the last PROJECTION_LAST samples lie on a rising line, at least its value a lead
 * ahead season    and what the coming hour was above this one, on the days before limits    raised at once,
 * but not to more than twice what was ever seen; lowered after PROJECTION_PATIENCE samples that would all do
 * with less, and by a twentieth at least
 *
 * docs/evidence/projection.md has what it reaches on real series. Pure: no I/O, no clock, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
        PROJECTION_LEAD = 3,
        PROJECTION_LEVELS = 100,
        PROJECTION_HOURS = 24,
        PROJECTION_LAST = 12,
        PROJECTION_HALF_LIFE = 120,
        PROJECTION_PRIOR = 10,
        PROJECTION_COST = 250,
        PROJECTION_PATIENCE = 3,
};

/* What decided. */
enum projection_why {
        PROJECTION_NOTHING = 1, /* no sample yet: need is 0 */
        PROJECTION_SEEN,        /* what was seen, and what is usual */
        PROJECTION_STEADY,
        PROJECTION_TREND,
        PROJECTION_SEASON,
        PROJECTION_KEPT, /* less would do, but not for long enough */
        PROJECTION_WHY_N
};
const char *projection_why_text(enum projection_why why); /* "demand rises steadily" */

struct projection_said {
        double need;      /* what should be held */
        double low, high; /* the band: demand is below low in one of ten cases at most, above high in one of
                             twenty at most; need lies in it */
        double recent;    /* what is used now, smoothed */
        enum projection_why why;
        bool is_changed; /* need is another one than the last time */
};

/* Embed it. Written by projection.c only. */
struct projection {
        double full; /* the scale: level i is i hundredths of it; doubles where a sample is above */
        int64_t lead_ms;
        double weights[PROJECTION_LEVELS + 1], total;
        double recent, most;
        double last[PROJECTION_LAST];
        size_t n_last;
        double hour_mean[PROJECTION_HOURS]; /* of the days before; negative: never seen */
        double hour_sum;                    /* of the hour that is */
        uint32_t hour_n;
        int hour; /* of day, that hour_sum is of */
        unsigned below;
        struct projection_said said;
};

/* full: about the most that can be had; more than 0. step_ms: between two samples. */
void projection_init(struct projection *p, double full, int64_t step_ms);
/* One sample, not negative (what is, or is no number, counts as 0). now_ms: the clock on the wall, for the
 * season; it may leap. The same as p->said. */
const struct projection_said *projection_take(struct projection *p, double value, int64_t now_ms);

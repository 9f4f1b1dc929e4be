/* SPDX-License-Identifier: Apache-2.0 */
/* agent/plan.h - of one kind: whether more is to be asked for, or something given back (2.7 to 2.9).
 *
 * Asked for if and only if what will be needed exceeds what the host says that this guest has, and only when
 * there is a reason to look: what the host says has changed, or, the second trigger, what will be needed has.
 * A trigger that cannot be followed yet is kept. What was refused is not asked for again before there is
 * another trigger, and later and later. Given back is what was not needed for PLAN_IDLE steps. All times are
 * multiples of a step.
 *
 * Pure: no clock, no allocation, no host; what there is to choose from is agent/choose.h. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "core/projection.h"

enum {
        PLAN_SETTLE = 3,                       /* steps before the first question */
        PLAN_LEARN = PROJECTION_HALF_LIFE / 2, /* steps in which no more is asked for than was ever used */
        PLAN_BACK_OFF = 6, /* steps between two questions, and after a refusal; then twice as many, ... */
        PLAN_BACK_OFF_MAX = 96, /* ... to this many */
        PLAN_IDLE = 12,
};

enum plan_trigger { PLAN_NONE, PLAN_VIEW, PLAN_PROJECTION };
enum plan_answer {
        PLAN_GRANTED = 1,
        PLAN_REFUSED,
        PLAN_LATER, /* for a reason of the moment: the trigger stays, and it is no longer to be waited than
                       else */
};

struct plan {
        struct projection projection;
        double declared; /* for now and the lead */
        double beside;   /* what was used besides when the declared began to be */
        double need;     /* of both; not what is kept, which may be more in the first steps */
        int64_t step_ms;
        uint64_t steps;
        enum plan_trigger trigger;  /* that has not been followed */
        enum plan_trigger followed; /* the last one that was */
        bool is_asking;
        unsigned back_off; /* steps; 0: nothing was refused since */
        int64_t not_before_ms;
        double had;     /* when something was asked for the last time */
        double expects; /* to have by now, as that was granted; 0: it was not */
        unsigned idle;  /* steps in a row in which `spare` was not needed */
};

void plan_init(struct plan *p, double full, int64_t step_ms);
/* One step: what is used now, and what is declared for the time until it could be had. has, own: all that the
 * guest has, and what of it is held by requests of its own; with the first step the former holds the latter.
 * spare: which part of that would be given back next. now_ms: the clock on the wall. */
void plan_step(struct plan *p, double used, double declared, double has, double own, double spare,
               int64_t now_ms);
/* The host's information is another one by now. */
void plan_view_changed(struct plan *p);
/* How much more is to be asked for now; 0: nothing is. *ret_trigger: the one that this follows, which is done
 * with then; PLAN_NONE where there is none, or not yet. */
double plan_ask(struct plan *p, double has, int64_t mono_ms, enum plan_trigger *ret_trigger);
/* What plan_ask() said was asked for. Where nothing of it is to be had it was not, and the next trigger may
 * come. */
void plan_asked(struct plan *p, int64_t mono_ms);
/* Where it could not even be asked for, plan_asked() may be left out. */
void plan_answered(struct plan *p, enum plan_answer answer, int64_t mono_ms);
/* It was PLAN_GRANTED, so much: when the host says that this is there nothing is waited for. */
void plan_granted(struct plan *p, double amount);
/* Is `spare` to be given back? */
bool plan_gives_back(const struct plan *p);
void plan_given_back(struct plan *p);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/control.h - a move by copy under way: kept to its level, or its miss said before it happens.
 *
 *   prepared -> copying <-> lifting -> switching -> stopped -> done
 *                  \__________|____________|____________|-> broken -> copying again, at most CONTROL_RETRIES
 *                                     cancelling         |-> failed                                  times
 *
 * While it is copying, QEMU's downtime-limit is held so low that it stops only a guest that dirties nothing;
 * once the zero pages are through and what a sync would find fits, all that slows vCPUs down is lifted
 * (lifting), and when that was seen, the limit is set and it may stop (switching). A guest that is stopped
 * waits for the slowest of its vCPUs: so the limit is held low before it is known that none is slow. It is
 * never 0: with that, QEMU stops a guest of which all was sent once, without a look at what it has dirtied
 * since. It never lets a downtime happen that is predicted beyond the level, unless the move is a best
 * effort. That a prediction is wrong is not this machine's to mend: mete-guard, which is there from the
 * beginning, breaks it off then.
 *
 * If the total time is in danger, the means are used in this order: a higher limit within the level; more
 * bandwidth, as far as some is free; throttling, as far as policy allows; then the miss is said, and dealt
 * with as was asked for.
 *
 * Pure: (event, now) in, effects out. Embed it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/estimate.h"
#include "core/plan.h"

enum {
        CONTROL_RETRIES = 2,
        CONTROL_HOLD_MS = PLAN_HOLD_MS,
        CONTROL_FORCE_MS = 2000000,
        CONTROL_EFFECTS_MAX = 12
};

/* 0 is no state. */
enum control_state {
        CONTROL_PREPARED = 1, /* nothing was sent yet */
        CONTROL_COPYING,      /* QEMU is kept from stopping a guest that dirties */
        CONTROL_LIFTING,      /* as soon as no vCPU is slow QEMU may stop it */
        CONTROL_SWITCHING,    /* QEMU may stop it at any time */
        CONTROL_STOPPED,      /* the guest stands; the guard has the clock */
        CONTROL_CANCELLING,   /* until QEMU says that it failed */
        CONTROL_BROKEN,       /* this attempt failed, the source runs; another one is to be started */
        CONTROL_DONE,         /* final: all of it is at the destination */
        CONTROL_FAILED,       /* final: the source runs */
        CONTROL_STATE_N
};

enum control_event_kind {
        CONTROL_EV_STARTED, /* QEMU was told to migrate */
        CONTROL_EV_SAMPLE,
        CONTROL_EV_TICK, /* time has passed, without a sample */
        CONTROL_EV_STOP, /* QEMU's events */
        CONTROL_EV_COMPLETED,
        CONTROL_EV_FAILED,
        CONTROL_EV_CANCEL,   /* somebody wants the move no longer */
        CONTROL_EV_ACCEPTED, /* the level that was offered */
        CONTROL_EV_DECLINED,
        CONTROL_EV_LIFTED, /* what CONTROL_LIFT asked for was seen to be so */
        CONTROL_EV_N
};

struct control_event {
        enum control_event_kind kind;
        int64_t now_ms;       /* of a clock that never runs backwards */
        struct sample sample; /* of a sample */
        struct level level;   /* that was accepted */
        int64_t lift;         /* of LIFTED: the effect's value */
        int64_t begun_ms;     /* of STARTED: since when the total time counts, for the first; 0: now */
};

/* When the total time will be missed. */
enum on_miss {
        ON_MISS_ABORT = 1, /* break off when it is certain */
        ON_MISS_FINISH,    /* go on for as long as it takes; the downtime is kept */
        ON_MISS_ASK        /* offer another level; without an answer it is broken off in time */
};

enum control_effect_kind {
        CONTROL_LIMIT = 1, /* downtime-limit, value: ms */
        CONTROL_BANDWIDTH, /* value: bits/s */
        CONTROL_SHARE,     /* throttle the vCPUs, value: thousandths; once QEMU has the limit before it */
        CONTROL_LIFT,      /* whatever makes a vCPU slow, at once; LIFTED with this value when it is so */
        CONTROL_SWITCH,  /* said for the log: from now on QEMU may stop the guest; value: the longest downtime
                          */
        CONTROL_PREDICT, /* value: total time; other: downtime, both in ms; 0: it would not end */
        CONTROL_MISS,    /* likewise; the level will be missed */
        CONTROL_RENEGOTIATE, /* levels[] could be kept */
        CONTROL_CANCEL,      /* tell QEMU to cancel */
        CONTROL_START        /* tell QEMU to migrate once more */
};

struct control_effects {
        size_t n;
        struct control_effect {
                enum control_effect_kind kind;
                int64_t value, other;
                size_t n_levels;
                struct level levels[2];
        } list[CONTROL_EFFECTS_MAX];
};

struct control {
        enum control_state state; /* read anywhere, written only by control.c */
        struct level level;
        enum on_miss on_miss;
        int64_t bandwidth_bps, bandwidth_max_bps; /* reserved; with what else is free */
        int64_t share_milli;                      /* while copying; switching, it is all of it */
        int64_t planned_share_milli, share_min_milli;
        int64_t limit_ms, goal_ms; /* QEMU's now; with which it is to be switched over */
        struct estimate estimate;
        double extra_s; /* by which downtimes were longer than predicted */
        int attempts;
        int64_t started_ms; /* of the first attempt: the total time is theirs together */
        int64_t attempt_ms, stopped_ms, switched_ms;
        int64_t settled_ms;   /* before it, what the last means has done is not to be seen */
        int64_t predicted_ms; /* when it was said last */
        int64_t missed_ms;    /* since when it looks like a miss; 0: it does not */
        double stop_s;        /* the downtime that was expected at STOP */
        int64_t lifts;        /* that were asked for: the value of the last */
        bool is_lift_asked;   /* and not answered, nor revoked by a throttle */
        bool is_lifted;       /* no vCPU is slow: else the limit is CONTROL_HOLD_MS */
        bool is_miss_said, is_asking, is_cancelled;
};
/* plan: kept, or best effort with its means. bandwidth_max_bps: what might be had beside what is reserved. */
void control_init(struct control *c, const struct profile *p, const struct level *l, const struct means *m,
                  const struct plan *plan, int64_t bandwidth_max_bps, enum on_miss on_miss);
/* 1: it acted, or moved. 0: late, ignored. STARTED where nothing is to be started is a bug; whatever QEMU
 * says never is. */
int control_step(struct control *c, const struct control_event *ev, struct control_effects *ret);
/* The guest runs, and its memory is sent: until it stops, or the attempt is cancelled. */
bool control_is_under_way(const struct control *c);
/* The longest downtime that is predicted if QEMU stops the guest with the limit that is set. */
int64_t control_downtime_ms(const struct control *c);

const char *control_state_name(enum control_state s);
const char *control_event_name(enum control_event_kind e);

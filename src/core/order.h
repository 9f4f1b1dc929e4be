/* SPDX-License-Identifier: Apache-2.0 */
/* core/order.h - a VM that the manager was told to move, and what it does about it (4.11, 4.22).
 *
 *   asking - moving - done
 *   asking [- accepting - moving] where another level is offered that policy takes
 *   asking - offered - accepting, declining, or what comes of an offer that lapsed
 *   asking - declining - [waiting - asking]* - declined where it is not
 *
 * Each round is one move at the source's hypervisor, with an id of its own that is known before it is asked
 * for: order_move_id(). So whoever starts anew looks first whether that move is there, and asks for it only
 * where it is not; a round never becomes two moves.
 *
 * Policy, in this order: a level at or above the floor is taken; where somebody is there to ask, what is
 * offered is left to them, as long as the host holds it (offered); another host is asked, where the order
 * leaves the choice; it is asked again later, as long as that may take, and where each host says from when
 * on it could be, then; else it is declined. What is declined
 * is given back, and what was refused is found not to be there, before anything else is tried. What is taken
 * is never stricter than what was offered, nor what is asked for than the order (4.14). Rounds and time are
 * bounded.
 *
 * Pure: (event, now) in, effects out; no allocation. Embed it. A host may say anything. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/plan.h"

enum {
        ORDER_ID = 41,      /* with its NUL */
        ORDER_MOVE_ID = 53, /* ID.KEY.ROUND, with its NUL: what a host takes for a move's id */
        ORDER_HOST = 64,
        ORDER_TO_MAX = 8, /* hosts that it may go to */
        ORDER_ROUNDS_MAX = 64,
        ORDER_ACCEPTS = 3, /* until an offer that is taken without an effect is given up */
        ORDER_OFFERS_MAX = 3,
        ORDER_SENTENCE = 256
};
enum {
        ORDER_POLL_MS = 500,
        ORDER_RETRY_FIRST_MS = 2000,
        ORDER_RETRY_MAX_MS = 60000,
        ORDER_LOST_MS = 120000 /* a host that is asked, and silent for so long, is given up */
};

/* 0 is no state. */
enum order_state {
        ORDER_ASKING = 1,
        ORDER_MOVING,
        ORDER_ACCEPTING,
        ORDER_DECLINING, /* until the host says that nothing is left of it */
        ORDER_WAITING,   /* nothing of it is anywhere */
        ORDER_OFFERED,   /* somebody is to say whether */
        ORDER_CANCELLING,
        ORDER_DONE,
        ORDER_DECLINED, /* the VM was left alone */
        ORDER_FAILED,
        ORDER_CANCELLED,
        ORDER_STATE_N
};
const char *order_state_name(enum order_state s); /* "asking" */

/* What was heard of a round's move. 0 is nothing. */
enum order_seen {
        ORDER_SEEN_UNKNOWN = 1, /* there is no such move */
        ORDER_SEEN_REFUSED,     /* the request was, with a reason; whether it is there is looked at */
        ORDER_SEEN_UNASKED,     /* it could not even be asked for: there is no such move */
        ORDER_SEEN_LOST,        /* there was no answer, or none that could be understood */
        ORDER_SEEN_GOING,
        ORDER_SEEN_COUNTERED, /* offers are there, the first is held */
        ORDER_SEEN_DONE,
        ORDER_SEEN_ENDED, /* otherwise than done; offers may be there, none is held */
        ORDER_SEEN_N
};

enum order_event_kind {
        ORDER_EV_SEEN = 1, /* an answer to the last call */
        ORDER_EV_CANCEL,
        ORDER_EV_TIME,    /* it is due_ms */
        ORDER_EV_RESTART, /* the calls that were under way are not any more */
        ORDER_EV_N
};

struct order_event {
        enum order_event_kind kind;
        int64_t now_ms;
        enum order_seen seen;
        struct level offers[ORDER_OFFERS_MAX];
        size_t n_offers;
        int64_t earliest_ms; /* of countered, ended: its level could be kept in so long; 0: not said */
        enum reason reason;  /* of refused, lost, ended, countered; 0: not said */
        char sentence[ORDER_SENTENCE];
};

/* One at a time: a call replaces the one that is under way. */
enum order_call {
        ORDER_CALL_NONE,
        ORDER_CALL_ASK,    /* order_move_id(), order_host(), order_level() */
        ORDER_CALL_LOOK,   /* at that move */
        ORDER_CALL_ACCEPT, /* o->taken */
        ORDER_CALL_BREAK   /* the move off; a level that is offered is declined with it */
};

struct order_effects {
        enum order_call call; /* only behind the record of the order */
        bool is_changed;      /* to be recorded */
        bool is_decided;      /* and said: o->reason, o->sentence */
};

struct order {
        enum order_state state; /* written only by order.c, or read from a record */
        char id[ORDER_ID], vm[64];
        uint32_t key; /* drawn; no older order of this id has it, which a host may remember */
        char from[ORDER_HOST], to[ORDER_TO_MAX][ORDER_HOST];
        size_t n_to, at;
        struct level level; /* both bounds 0: a best effort */
        struct level floor; /* the least that is accepted; a bound that is 0 is that of level */
        struct level offer; /* may be taken by somebody; both bounds 0: none */
        bool is_asking;     /* there is somebody */
        struct level taken; /* both bounds 0: none was */
        int64_t asked_ms, until_ms;
        int64_t next_ms; /* while it waits */
        int64_t lost_ms; /* since when its host is silent; 0: it is not */
        int64_t ended_ms;
        unsigned round, accepts;
        enum reason reason; /* of the last decision; 0: it is well */
        char sentence[ORDER_SENTENCE];
        /* not recorded */
        enum reason
                refusal; /* why it was refused, until it is certain that nothing was begun; 0: it was not */
        int64_t due_ms;  /* 0: nothing is due */
        int64_t earliest_ms; /* the first at which some host could keep the level, of those asked since it
                                waited */
        size_t n_earliest;   /* so many of them have said when */
        unsigned n_said;     /* so many times it waited until when they said, in vain */
        bool is_told;        /* that it is broken off, since it was looked at last */
};

/* id, key, vm, from, to, level, floor and until_ms are filled in; the rest is zero. Asks. */
void order_begin(struct order *o, int64_t now_ms, struct order_effects *ret);
void order_step(struct order *o, const struct order_event *ev, struct order_effects *ret);
/* Somebody takes what is offered (level NULL), if it is this, or declines it. 0: so it is, maybe already
 * before; -ESTALE: nothing is offered; -EINVAL: something else is. */
int order_accept(struct order *o, const struct level *level, int64_t now_ms, struct order_effects *ret,
                 struct err *err);
int order_decline(struct order *o, int64_t now_ms, struct order_effects *ret, struct err *err);
bool order_is_over(const struct order *o);

const char *order_host(const struct order *o); /* to which it is asked for now */
const char *order_move_id(const struct order *o, char ret[ORDER_MOVE_ID]);
/* What this round asks for: the level, or the one that was offered and taken. */
const struct level *order_level(const struct order *o);
/* May the policy of o take this? Bounds that were not asked for are nobody's. */
bool order_may_take(const struct order *o, const struct level *offer);

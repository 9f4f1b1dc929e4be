/* SPDX-License-Identifier: Apache-2.0 */
/* Model: the state says which call is under way or due. A lease that was granted for nothing ends by itself.
 * A claim whose answer is lost may have been heard: it is made again with the same lease, and the store says
 * that the place is ours already; once that lease is over, so is the claim. */
#include "core/lead.h"

#include <assert.h>

static const char *const names[LEAD_STATE_N] = {
        [LEAD_LOOKING] = "looking", [LEAD_GRANTING] = "granting", [LEAD_CLAIMING] = "claiming",
        [LEAD_LEADING] = "leading", [LEAD_LOST] = "lost",
};

const char *lead_state_name(enum lead_state s)
{
        return s > 0 && s < LEAD_STATE_N ? names[s] : "none";
}

enum next { STAY = 1, CALL, SOON, PAUSE, KEEP, END };

struct cell {
        enum lead_state to;
        enum next next;
        enum lead_call call;
};

/* clang-format off */
#define IGNORED(state) {state, STAY, LEAD_CALL_NONE}
static const struct cell table[LEAD_STATE_N][LEAD_EV_N] = {
        [LEAD_LOOKING] = {
                [LEAD_EV_TIME]   = {LEAD_LOOKING, CALL, LEAD_CALL_LOOK},
                [LEAD_EV_FREE]   = {LEAD_GRANTING, CALL, LEAD_CALL_GRANT},
                [LEAD_EV_HELD]   = {LEAD_LOOKING, SOON, LEAD_CALL_NONE},
                [LEAD_EV_LEASE]  = IGNORED(LEAD_LOOKING),
                [LEAD_EV_WON]    = IGNORED(LEAD_LOOKING),
                [LEAD_EV_GONE]   = IGNORED(LEAD_LOOKING),
                [LEAD_EV_FAILED] = {LEAD_LOOKING, PAUSE, LEAD_CALL_NONE},
        },
        [LEAD_GRANTING] = {
                [LEAD_EV_TIME]   = IGNORED(LEAD_GRANTING),
                [LEAD_EV_FREE]   = IGNORED(LEAD_GRANTING),
                [LEAD_EV_HELD]   = IGNORED(LEAD_GRANTING),
                [LEAD_EV_LEASE]  = {LEAD_CLAIMING, CALL, LEAD_CALL_CLAIM},
                [LEAD_EV_WON]    = IGNORED(LEAD_GRANTING),
                [LEAD_EV_GONE]   = IGNORED(LEAD_GRANTING),
                [LEAD_EV_FAILED] = {LEAD_LOOKING, PAUSE, LEAD_CALL_NONE},
        },
        [LEAD_CLAIMING] = {
                [LEAD_EV_TIME]   = {LEAD_CLAIMING, CALL, LEAD_CALL_CLAIM},
                [LEAD_EV_FREE]   = IGNORED(LEAD_CLAIMING),
                [LEAD_EV_HELD]   = {LEAD_LOOKING, SOON, LEAD_CALL_NONE},
                [LEAD_EV_LEASE]  = IGNORED(LEAD_CLAIMING),
                [LEAD_EV_WON]    = {LEAD_LEADING, CALL, LEAD_CALL_KEEP}, /* the lease may be old by now */
                [LEAD_EV_GONE]   = {LEAD_LOOKING, PAUSE, LEAD_CALL_NONE},
                [LEAD_EV_FAILED] = {LEAD_CLAIMING, PAUSE, LEAD_CALL_NONE},
        },
        [LEAD_LEADING] = {
                [LEAD_EV_TIME]   = {LEAD_LEADING, CALL, LEAD_CALL_KEEP},
                [LEAD_EV_FREE]   = {LEAD_LOST, END, LEAD_CALL_NONE},
                [LEAD_EV_HELD]   = {LEAD_LOST, END, LEAD_CALL_NONE},
                [LEAD_EV_LEASE]  = {LEAD_LEADING, KEEP, LEAD_CALL_NONE},
                [LEAD_EV_WON]    = IGNORED(LEAD_LEADING),
                [LEAD_EV_GONE]   = {LEAD_LOST, END, LEAD_CALL_NONE},
                [LEAD_EV_FAILED] = {LEAD_LEADING, PAUSE, LEAD_CALL_NONE},
        },
        [LEAD_LOST] = {
                [LEAD_EV_TIME]   = IGNORED(LEAD_LOST),
                [LEAD_EV_FREE]   = IGNORED(LEAD_LOST),
                [LEAD_EV_HELD]   = IGNORED(LEAD_LOST),
                [LEAD_EV_LEASE]  = IGNORED(LEAD_LOST),
                [LEAD_EV_WON]    = IGNORED(LEAD_LOST),
                [LEAD_EV_GONE]   = IGNORED(LEAD_LOST),
                [LEAD_EV_FAILED] = IGNORED(LEAD_LOST),
        },
};
/* clang-format on */

enum lead_call lead_begin(struct lead *l)
{
        *l = (struct lead){.state = LEAD_LOOKING};
        return LEAD_CALL_LOOK;
}

/* While it leads, a lease that could be kept still is not slept through. */
static int64_t pause_ms(const struct lead *l)
{
        int64_t ms = LEAD_PAUSE_FIRST_MS, most = LEAD_PAUSE_MAX_MS;
        if (l->state == LEAD_LEADING && l->ttl_ms / 6 < most)
                most = l->ttl_ms / 6;
        for (unsigned i = 1; i < l->failures && ms < most; i++)
                ms *= 2;
        return ms < most ? ms : most;
}

static void give_back(struct lead *l)
{
        l->end_ms = l->ttl_ms = 0;
}

/* Another may lead: but for the word that the lease lives still, it is gone. */
static enum lead_event_kind kind_of(const struct lead *l, const struct lead_event *ev)
{
        bool is_silent = ev->kind == LEAD_EV_TIME || ev->kind == LEAD_EV_FAILED;
        return l->state == LEAD_LEADING && is_silent && ev->now_ms >= l->end_ms ? LEAD_EV_GONE : ev->kind;
}

enum lead_call lead_step(struct lead *l, const struct lead_event *ev)
{
        assert(l->state > 0 && l->state < LEAD_STATE_N && ev->kind > 0 && ev->kind < LEAD_EV_N);
        const enum lead_event_kind kind = kind_of(l, ev);
        /* A claim with a lease that is over would be refused at best. */
        if (l->state == LEAD_CLAIMING && kind == LEAD_EV_TIME && ev->now_ms >= l->end_ms) {
                l->state = LEAD_LOOKING;
                give_back(l);
        }
        const struct cell *c = &table[l->state][kind];
        assert(c->to != 0 && c->next != 0);
        if (c->next == STAY)
                return LEAD_CALL_NONE;
        l->state = c->to;
        if (kind == LEAD_EV_LEASE) {
                assert(ev->ttl_ms > 0);
                l->ttl_ms = ev->ttl_ms;
                l->end_ms = ev->sent_ms + ev->ttl_ms;
        }
        if (kind == LEAD_EV_FAILED)
                l->failures++;
        else if (kind == LEAD_EV_LEASE || kind == LEAD_EV_WON || kind == LEAD_EV_HELD)
                l->failures = 0; /* not FREE: a store that is full is read, and refuses the lease each time */
        if (l->state == LEAD_LOOKING)
                give_back(l);
        switch (c->next) {
        case STAY:
        case CALL:
        case END:
                l->due_ms = 0;
                break;
        case SOON:
                l->due_ms = ev->now_ms + LEAD_POLL_MS;
                break;
        case PAUSE:
                l->due_ms = ev->now_ms + pause_ms(l);
                break;
        case KEEP:
                l->due_ms = ev->now_ms + l->ttl_ms / 3;
                break;
        }
        if (l->state == LEAD_LEADING && (l->due_ms == 0 || l->due_ms > l->end_ms))
                l->due_ms = l->end_ms;
        return c->call;
}

bool lead_is_sure(const struct lead *l, int64_t now_ms)
{
        return l->state == LEAD_LEADING && now_ms < l->end_ms;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "core/request.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum { LATE = -1, BAD = -2 };

static const int8_t move[REQUEST_STATE_N][REQUEST_EV_N] = {
  /* clang-format off */
        /*                       ACCEPT              ACTIVATED        FAILED             RELEASE            EXPIRE             TAKEN_BACK     GONE           KEPT          RECLAIM            */
        [REQUEST_OFFERED]    = { REQUEST_ACTIVATING, BAD,             BAD,               REQUEST_ENDED,     REQUEST_ENDED,     BAD,           REQUEST_ENDED, BAD,          BAD                },
        [REQUEST_ACTIVATING] = { LATE,               REQUEST_GRANTED, REQUEST_RELEASING, REQUEST_RELEASING, REQUEST_RELEASING, BAD,           REQUEST_ENDED, BAD,          BAD                },
        [REQUEST_GRANTED]    = { LATE,               LATE,            REQUEST_RELEASING, REQUEST_RELEASING, REQUEST_RELEASING, BAD,           REQUEST_ENDED, BAD,          BAD                },
        [REQUEST_RELEASING]  = { BAD,                LATE,            LATE,              LATE,              LATE,              REQUEST_ENDED, REQUEST_ENDED, REQUEST_KEPT, BAD                },
        [REQUEST_KEPT]       = { BAD,                LATE,            LATE,              LATE,              LATE,              BAD,           LATE,          LATE,         REQUEST_RECLAIMING },
        [REQUEST_RECLAIMING] = { BAD,                LATE,            LATE,              LATE,              LATE,              REQUEST_ENDED, LATE,          LATE,         LATE               },
        [REQUEST_REFUSED]    = { BAD,                LATE,            LATE,              LATE,              LATE,              LATE,          LATE,          LATE,         LATE               },
        [REQUEST_ENDED]      = { BAD,                LATE,            LATE,              LATE,              LATE,              LATE,          LATE,          LATE,         LATE               },
  /* clang-format on */
};

static const char *const state_name[REQUEST_STATE_N] = {
        [0] = "none",
        [REQUEST_OFFERED] = "offered",
        [REQUEST_ACTIVATING] = "activating",
        [REQUEST_GRANTED] = "granted",
        [REQUEST_RELEASING] = "releasing",
        [REQUEST_KEPT] = "kept",
        [REQUEST_RECLAIMING] = "reclaiming",
        [REQUEST_REFUSED] = "refused",
        [REQUEST_ENDED] = "ended",
};

static const char *const event_name[REQUEST_EV_N] = {
        [REQUEST_EV_ACCEPT] = "accept",   [REQUEST_EV_ACTIVATED] = "activated",
        [REQUEST_EV_FAILED] = "failed",   [REQUEST_EV_RELEASE] = "release",
        [REQUEST_EV_EXPIRE] = "expire",   [REQUEST_EV_TAKEN_BACK] = "taken-back",
        [REQUEST_EV_GONE] = "gone",       [REQUEST_EV_KEPT] = "keep",
        [REQUEST_EV_RECLAIM] = "reclaim",
};

static const char *const kind_name[REQUEST_KIND_N] = {
        [0] = "none",
        [REQUEST_VM] = "vm",
        [REQUEST_APP] = "application",
        [REQUEST_RESERVATION] = "reservation",
};

static const char *const outcome_names[OUTCOME_N] = {
        [0] = "none",
        [OUTCOME_GRANTED] = "granted",
        [OUTCOME_COUNTER_OFFERED] = "counter-offered",
        [OUTCOME_NOT_NOW] = "not-now",
        [OUTCOME_NEVER] = "never",
};

int request_step(struct request *r, enum request_event ev, struct err *err)
{
        assert(r->state >= REQUEST_OFFERED && r->state < REQUEST_STATE_N && ev < REQUEST_EV_N);
        int to = move[r->state][ev];
        assert(to != 0);
        if (to == LATE)
                return 0;
        if (to == BAD)
                return err_set(err, REASON_STALE, EPROTO, "%s: cannot %s, it is %s", r->key, event_name[ev],
                               state_name[r->state]);
        r->state = (enum request_state)to;
        return 1;
}

void request_trace(const struct request *r, char ret[REQUEST_TRACE])
{
        bool is_app = r->kind == REQUEST_APP;
        (void)snprintf(ret, REQUEST_TRACE, "%s%s%s", is_app ? r->vm : "", is_app ? "/" : "", r->id);
}

bool request_is_final(const struct request *r)
{
        return r->state == REQUEST_REFUSED || r->state == REQUEST_ENDED;
}

bool request_is_live(const struct request *r)
{
        return !request_is_final(r) && r->state != REQUEST_KEPT && r->state != REQUEST_RECLAIMING;
}

const char *request_state_name(enum request_state s)
{
        return (unsigned)s < REQUEST_STATE_N ? state_name[s] : "none";
}

const char *request_kind_name(enum request_kind k)
{
        return (unsigned)k < REQUEST_KIND_N ? kind_name[k] : "none";
}

const char *request_event_name(enum request_event e)
{
        return (unsigned)e < REQUEST_EV_N ? event_name[e] : "none";
}

const char *outcome_name(enum outcome o)
{
        return (unsigned)o < OUTCOME_N ? outcome_names[o] : "none";
}

static int find_name(const char *const *names, int n, const char *name)
{
        for (int i = 1; i < n; i++)
                if (strcmp(names[i], name) == 0)
                        return i;
        return 0;
}

enum outcome outcome_from_name(const char *name)
{
        return (enum outcome)find_name(outcome_names, OUTCOME_N, name);
}

enum request_state request_state_from_name(const char *name)
{
        return (enum request_state)find_name(state_name, REQUEST_STATE_N, name);
}

enum request_kind request_kind_from_name(const char *name)
{
        return (enum request_kind)find_name(kind_name, REQUEST_KIND_N, name);
}

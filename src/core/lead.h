/* SPDX-License-Identifier: Apache-2.0 */
/* core/lead.h - one of several leads, by a lease: who does, and what is to be asked of the store next.
 *
 * Pure: an event and the time go in, a call and the time of the next look come out. One call is under way at
 * a time; its answer is the next event, or the end of the lease is. Times are those of a clock that never
 * goes back, and goes on while the machine sleeps: the lease does.
 *
 * The lease alone proves nothing: whoever leads writes only in transactions that compare the claim. What it
 * is for besides is that nothing is done that was recorded once, after another may have taken over: see
 * lead_is_sure(). So who does not hear that the lease is kept has lost the lead when it ends, whatever the
 * store would say. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum {
        LEAD_POLL_MS = 1000, /* it is looked whether another leads still */
        LEAD_PAUSE_FIRST_MS = 250,
        LEAD_PAUSE_MAX_MS = 4000 /* between calls that fail; twice as long each time */
};

enum lead_state {
        LEAD_LOOKING = 1, /* whether somebody leads */
        LEAD_GRANTING,    /* a lease is asked for */
        LEAD_CLAIMING,    /* the place is, with it */
        LEAD_LEADING,     /* the lease is kept */
        LEAD_LOST,        /* for good: what is in memory counts no more; begin anew */
        LEAD_STATE_N
};

enum lead_event_kind {
        LEAD_EV_TIME = 1, /* due_ms is there */
        LEAD_EV_FREE,     /* nobody leads */
        LEAD_EV_HELD,     /* another does */
        LEAD_EV_LEASE,    /* the lease was granted, or kept */
        LEAD_EV_WON,      /* the place is ours */
        LEAD_EV_GONE,     /* the lease is no more */
        LEAD_EV_FAILED,   /* no answer, or none that helps */
        LEAD_EV_N
};

enum lead_call { LEAD_CALL_NONE = 0, LEAD_CALL_LOOK, LEAD_CALL_GRANT, LEAD_CALL_CLAIM, LEAD_CALL_KEEP };

struct lead_event {
        enum lead_event_kind kind;
        int64_t now_ms;
        int64_t sent_ms; /* LEASE: when it was asked for; it may run since then */
        int64_t ttl_ms;  /* LEASE: for so long, at least 1 */
};

struct lead {
        enum lead_state state; /* written by lead.c alone */
        int64_t due_ms;        /* of LEAD_EV_TIME; 0: none, an answer is waited for. While it leads always */
        int64_t end_ms;        /* of the lease; 0: there is none */
        int64_t ttl_ms;
        unsigned failures; /* in a row */
};

/* Begins; the call is LOOK. */
enum lead_call lead_begin(struct lead *l);
/* The call to be made, or none. An event that means nothing in this state changes nothing. */
enum lead_call lead_step(struct lead *l, const struct lead_event *ev);
/* Nobody else can lead yet, whatever became of the lease since. */
bool lead_is_sure(const struct lead *l, int64_t now_ms);
const char *lead_state_name(enum lead_state s);

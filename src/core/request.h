/* SPDX-License-Identifier: Apache-2.0 */
/* core/request.h - one request for resources, from its decision to its end.
 *
 * What an application asks for, the base resources of a VM and an operator's reservation are the same
 * thing and walk the same states:
 *
 *   (decided) -> refused
 *             -> offered -> accepted: activating
 *             -> activating -> granted -> releasing -> ended
 *                                                   -> kept -> reclaiming -> ended
 *
 * Its claims are in the ledger from 'offered' or 'activating' until it leaves 'releasing': what has not
 * come back yet is never counted as free. What is kept (core/kept.c) is bound without a claim; what is to
 * be reclaimed from there and is held has one again. Pure; the
 * hypervisor owns requests and is the only one to call request_step(). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/activation.h"
#include "core/ledger.h"
#include "core/need.h"

enum { REQUEST_ID = 64, REQUEST_KEY = 136, REQUEST_NAME = 64, REQUEST_TRACE = 128, REQUEST_SENTENCE = 192 };

enum request_kind {
        REQUEST_VM = 1,      /* the base resources of a VM; its id is the VM's name */
        REQUEST_APP,         /* asked for by an application in a VM */
        REQUEST_RESERVATION, /* asked for by an operator, without a VM: nothing to activate */
        REQUEST_KIND_N
};

/* 0 is no state: zeroed memory and an undecided table cell both trip an assert. */
enum request_state {
        REQUEST_OFFERED = 1, /* a counter-offer is held until offer_end_ms */
        REQUEST_ACTIVATING,  /* granted in the ledger, being made usable */
        REQUEST_GRANTED,     /* usable */
        REQUEST_RELEASING,   /* being taken back */
        REQUEST_KEPT,        /* a VM's that was stopped: its host side stays bound while nobody needs it */
        REQUEST_RECLAIMING,  /* somebody does */
        REQUEST_REFUSED,     /* final: not-now or never, holds nothing */
        REQUEST_ENDED,       /* final: held something once, holds nothing now */
        REQUEST_STATE_N
};

enum request_event {
        REQUEST_EV_ACCEPT,     /* the asker takes the counter-offer */
        REQUEST_EV_ACTIVATED,  /* it is usable */
        REQUEST_EV_FAILED,     /* it could not be made usable */
        REQUEST_EV_RELEASE,    /* the asker, or its end, gives it back */
        REQUEST_EV_EXPIRE,     /* the offer lapsed, or the lease reached its end */
        REQUEST_EV_TAKEN_BACK, /* everything is back */
        REQUEST_EV_GONE,       /* the VM is gone, and all of its resources are back */
        REQUEST_EV_KEPT,       /* it is back but for the host side, which stays */
        REQUEST_EV_RECLAIM,    /* what was kept is needed */
        REQUEST_EV_N
};

enum outcome { OUTCOME_GRANTED = 1, OUTCOME_COUNTER_OFFERED, OUTCOME_NOT_NOW, OUTCOME_NEVER, OUTCOME_N };

struct request {
        uint64_t serial;       /* unique in this store, never reused */
        char key[REQUEST_KEY]; /* vm:NAME, vm:NAME/ID, reservation:ID or kept:NAME; unique among those
                                  remembered */
        char id[REQUEST_ID];   /* as the asker calls it */
        char vm[REQUEST_NAME]; /* empty for a reservation */
        char application[REQUEST_NAME];
        enum request_kind kind;
        enum request_state state; /* read anywhere, written only by request.c */
        bool accepts_less;        /* wants to hear counter-offers of less */
        size_t n_needs;
        struct need needs[NEEDS_MAX]; /* as stated */
        int64_t met[NEEDS_MAX];       /* granted or offered: CPUs, or bytes after rounding */
        size_t n_definitions;
        struct definition *definitions; /* owned; in the order of activation. NULL: it holds nothing */
        struct activation activation;   /* how far its definitions are */
        enum outcome outcome;           /* the verdict, once there is one */
        enum reason reason;
        char sentence[REQUEST_SENTENCE];
        int64_t asked_ms;     /* since 1970 */
        int64_t start_ms;     /* of its claims */
        int64_t end_ms;       /* LEDGER_OPEN where it has none */
        int64_t offer_end_ms; /* while offered */
};

/* 1: moved. 0: late but legal, ignored. -EPROTO: may not be done in this state, *err says why.
 * Only r->state changes, and only when 1 is returned. */
int request_step(struct request *r, enum request_event ev, struct err *err);
/* What its lines in the event log have in common: VM/ID for what an application asked for, since ids are the
 * guests' own choice; else the id. */
void request_trace(const struct request *r, char ret[REQUEST_TRACE]);
bool request_is_final(const struct request *r);
/* Holds claims. Neither final nor live: what is kept. */
bool request_is_live(const struct request *r);

const char *request_state_name(enum request_state s);
const char *request_kind_name(enum request_kind k);
const char *request_event_name(enum request_event e);
const char *outcome_name(enum outcome o); /* "counter-offered" */
enum outcome outcome_from_name(const char *name);
enum request_state request_state_from_name(const char *name);
enum request_kind request_kind_from_name(const char *name);

/* SPDX-License-Identifier: Apache-2.0 */
/* agent/row.h - one outgoing request: what an application asked for, and how far it got (1.3).
 *
 * Only row_step() moves a row. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "agent/proc.h"
#include "base/err.h"
#include "json/api.h"
#include "loop/loop.h"
#include "wire/rpc.h"

/* 0 is no state. ACCEPTING shows as `sent` to applications. */
enum row_state {
        ROW_UNSENT = 1, /* never left this guest */
        ROW_SENT,       /* reserve is on its way, or being decided */
        ROW_OFFERED,    /* a counter-offer waits for the application */
        ROW_ACCEPTING,  /* accept is on its way */
        ROW_GRANTED,
        ROW_RELEASING, /* release is on its way */
        ROW_REFUSED,   /* finished: the host said no */
        ROW_ENDED,     /* finished: given back, or taken back */
        ROW_STATE_N
};
enum row_event {
        ROW_EV_SEND = 1,
        ROW_EV_GRANT,
        ROW_EV_OFFER,
        ROW_EV_REFUSE,
        ROW_EV_ACCEPT,
        ROW_EV_GIVE_BACK, /* release, exit, decline, withdrawal */
        ROW_EV_RELEASED,  /* the host has recorded it */
        ROW_EV_TAKEN,     /* the host ended it, or knows nothing of it */
        ROW_EV_N
};

enum { ROW_WAITERS_MAX = 4, ROW_NEEDS_MAX = 4 };

struct waiters {
        struct rpc_call *call[ROW_WAITERS_MAX];
        size_t n;
};

struct agent;

struct row {
        enum row_state state; /* read anywhere, written only by row.c */
        char id[64];
        char application[64];
        uid_t uid;
        pid_t pid;
        uint64_t start_ticks; /* with pid: which process; /proc/PID/stat, field 22 */
        size_t n_needs;
        char needs[ROW_NEEDS_MAX][128];
        enum api_counter_policy counter;
        int64_t host_generation; /* of the host's information on which it was decided; 0: none */
        int64_t since_ms, timeout_ms;
        int64_t due_mono_ms; /* waiting for the host: withdrawn then. OFFERED: lapses then */
        bool has_verdict;    /* the last one, ours where we withdrew it */
        struct api_verdict verdict;
        enum api_release_cause cause; /* RELEASING */
        char problem[256];            /* why it could not be sent, or "" */
        char why[256];                /* of the agent's own: why it asks, or gives back; else "" */

        /* Not kept over a restart. */
        struct agent *agent;
        uint64_t serial;          /* an id may come again once its row was dropped; this does not */
        bool is_dirty;            /* the file is behind */
        bool is_asking;           /* a reserve or accept waits for the host's answer on this connection */
        bool is_releasing;        /* a release does */
        bool is_waiting;          /* RELEASING: the timer sends the release again */
        int64_t wait_ms;          /* how long it waited the last time; 0: it did not yet */
        struct waiters ask, done; /* applications that wait: for a verdict, for a release */
        struct loop_timer timer;
        struct loop_timer join;   /* while is_asking: its process is then prepared for the grant */
        bool is_joined;           /* it was */
        struct proc_hold process; /* nothing: the process is gone, or the row finished */
};

/* 1: moved. 0: late but legal, ignored. -EPROTO: not in this state; *err names both. */
int row_step(struct row *row, enum row_event event, struct err *err);
/* Is it the agent's own (agent/project.h)? Then no process holds it, and nothing is held for one. */
bool row_is_own(const struct row *row);
bool row_is_open(const struct row *row); /* not refused and not ended */
const char *row_state_name(enum row_state s);
const char *row_event_name(enum row_event e);
enum api_row_state row_api_state(enum row_state s);

/* As an application sees it. needs: of the verdict where something is granted or offered. */
void row_show(const struct row *row, struct api_app_row *ret);
/* As it is kept; NULL: no memory. */
json_t *row_emit(const struct row *row);
/* *ret must be zeroed; everything that is not kept stays so. REASON_INVALID where it is none of ours. */
int row_parse(const json_t *v, struct row *ret, struct err *err);

bool waiters_add(struct waiters *w, struct rpc_call *call); /* false: full, nothing taken */
struct rpc_call *waiters_take(struct waiters *w);           /* the one that waits longest, or NULL */

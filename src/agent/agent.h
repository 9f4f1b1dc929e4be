/* SPDX-License-Identifier: Apache-2.0 */
/* agent/agent.h - mete-agent: applications on one side, the host on the other, the table between them. */
#pragma once
#include "agent/apps.h"
#include "agent/channel.h"
#include "agent/declare.h"
#include "agent/hold.h"
#include "agent/online.h"
#include "agent/picture.h"
#include "agent/project.h"
#include "agent/table.h"

struct agent {
        struct table table;
        struct apps *apps;
        struct channel *channel;
        struct online *online;
        struct holds *holds;
        struct picture picture;
        struct declarations declarations;
        struct project project;
        char boot_id[64];
        struct turn commit;
        struct loop_timer save_again, hold_again, watch;
        int64_t watch_wait_ms; /* until the host is asked once more to tell of itself */
        bool is_save_failing;
        uint64_t last_serial; /* of rows */
};

struct agent_options {
        const char *socket; /* for applications */
        const char *port;   /* to the host */
        const char *state;  /* folder of the table */
        int64_t project_ms; /* how often demand is measured, to ask by ourselves; 0: never */
        const char
                *sys; /* "/sys"; with another one control groups are those of SYS/mountinfo, plain folders */
};

/* *a must stay where it is. On failure nothing is held. */
int agent_init(struct agent *a, const struct agent_options *o, struct err *err);
void agent_done(struct agent *a);

/* What an application is told of the host. */
void agent_say_host(const struct agent *a, struct api_app_host *ret);

/* desk.c: what an application may ask for. */
void desk_request(void *arg, const struct app *app, struct rpc_call *call, const char *method,
                  const json_t *params);
void desk_refuse(struct rpc_call *call, const struct err *err);

/* What the agent itself asks for; why: for people. The row is the table's. NULL: *err says why not. */
const struct row *desk_ask(struct agent *a, const char *need, const char *why, struct err *err);

/* desk-declare.c: what will be needed, by an application's word. */
void desk_declare(struct agent *a, const struct app *app, struct rpc_call *call, const json_t *params);
void desk_declared(struct agent *a, const struct app *app, struct rpc_call *call);
void desk_declare_drop(struct agent *a, const struct app *app, struct rpc_call *call, const json_t *params);

/* desk.c: events of rows. */
void desk_row_begin(struct agent *a, struct row *row); /* timers and watches of a row that was read back */
void desk_row_end(struct row *row);                    /* lets go of them */
void desk_pursue(struct row *row);                     /* sends what is due */
void desk_pursue_now(struct row *row);                 /* also what waits to be sent again */
void desk_give_back(struct row *row, enum api_release_cause cause, enum reason reason, const char *sentence);
void desk_taken(struct row *row, enum reason reason, const char *sentence);
void desk_changed(struct agent *a); /* a row is dirty: written before anything of this turn is sent */

/* hold-rows.c: what rows say that shall be held for their processes (agent/hold.h). */
void rows_want(const struct table *t, const struct row *like, struct hold_want *ret); /* pure */
void rows_hold(
        struct row *row); /* granted: before the application hears of it; the verdict says what is not held */
void rows_join(struct row *row);     /* it will probably be granted; undone by rows_unhold() */
void rows_unhold(struct row *row);   /* no longer granted: before the host hears of it */
void rows_hold_all(struct agent *a); /* at the start */

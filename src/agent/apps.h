/* SPDX-License-Identifier: Apache-2.0 */
/* agent/apps.h - applications at the Unix socket: who they are, and what they may cost.
 *
 * Everybody in the guest may connect. An application is the process that connected (proc_of_peer()), with its
 * start time; a child that inherits the connection still speaks as that process. Bounds: connections in all
 * and by user, lines a second by connection, requests a second by user. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "agent/proc.h"
#include "wire/rpc.h"

enum {
        APPS_MAX = 256,
        APPS_PER_USER_MAX = 32,
        APPS_USERS_MAX = 64,
        APPS_LINE_MAX = 65536,
        APPS_RATE_PER_S = 500,      /* lines of one connection */
        APPS_USER_RATE_PER_S = 250, /* requests of one user, twice as many at once */
};

struct apps;

struct app {
        struct proc proc;
        struct proc_hold life; /* for requests to share */
        uid_t uid;
};

typedef void apps_request_fn(void *arg, const struct app *app, struct rpc_call *call, const char *method,
                             const json_t *params);

/* REASON_BUSY: another agent listens there. */
struct apps *apps_new(const char *path, apps_request_fn *on_request, void *arg, struct err *err);
void apps_free(struct apps *apps);

/* One token of the user's requests; false: there is none now. */
bool apps_take_token(struct apps *apps, uid_t uid);
/* To every connection of this process. */
void apps_notify(struct apps *apps, pid_t pid, uint64_t start_ticks, const char *method,
                 const json_t *params);
/* This connection is one of those which apps_tell() tells. */
void apps_watch(const struct app *app);
void apps_tell(struct apps *apps, const char *method, const json_t *params);
size_t apps_n(const struct apps *apps);

/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/verbs.h - the keeper's side of api/keeper.json: who may connect, and what each verb does. */
#pragma once
#include <glib.h>
#include "base/err.h"
#include "keeper/guard.h"
#include "keeper/hold.h"
#include "keeper/vmm.h"
#include "loop/loop.h"

enum { VERBS_CLIENTS_MAX = 4 /* of one user */, VERBS_PAUSE_MS = 200 };

struct verbs {
        struct vmms *vmms;
        const struct keeper_config *config;
        const struct cpu_host *cpu;
        const char *home_fallback;
        struct holds holds;
        struct guards guards;
        int listen_fd; /* owned */
        struct loop_fd watch;
        struct loop_timer pause; /* of accepting, where there are no descriptors left */
        bool is_short;           /* that was said */
        GSList *clients;
};

/* Listens at config->socket. Borrows vmms, whose on_gone it takes, and home_fallback ("" for none). */
int verbs_init(struct verbs *v, struct vmms *vmms, const char *home_fallback, struct err *err);
void verbs_done(struct verbs *v); /* before vmms_done(); idempotent */

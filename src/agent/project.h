/* SPDX-License-Identifier: Apache-2.0 */
/* agent/project.h - the agent asks by itself: what is measured (agent/demand.h) and declared
 * (agent/declare.h) is projected (core/projection.h), compared with what the host has told (agent/plan.h),
 * and what is missing is asked for by the name of a component (agent/choose.h).
 *
 * What it asks for are rows of the table like an application's, but of no process: they outlive the agent,
 * the next one goes on with them, and gives them back where it is not to ask by itself. Of net and block
 * there is a projection alone. */
#pragma once
#include "agent/demand.h"
#include "agent/plan.h"
#include "loop/loop.h"

enum { PROJECT_STEP_MIN_MS = 100, PROJECT_STEP_MAX_MS = 3600000, PROJECT_ROWS_MAX = 8 /* of one kind */ };

struct agent;
struct agent_options;

struct project {
        struct agent *agent; /* NULL: it does not ask */
        int64_t step_ms;
        struct loop_timer timer;
        struct demand demand;
        unsigned is_known; /* bit a kind: its plan began */
        struct plan plans[DEMAND_N];
        double used[DEMAND_N];
        double kernel_bytes;      /* memory that the host counts and the guest's kernel never shows */
        char asked[DEMAND_N][64]; /* id of the row whose verdict is awaited; "" */
};

/* The table, the channel and the picture are there. */
void project_init(struct project *p, struct agent *a, const struct agent_options *o);
void project_done(struct project *p); /* idempotent */
/* The host's information has changed. */
void project_view_changed(struct project *p);

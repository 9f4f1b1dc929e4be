/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/guard.h - starts mete-guard, one process for each VM that is being moved (guard/guard.h).
 *
 * It runs as meted's user, without a capability and with nothing but what meted passed along, so it can do
 * nothing that meted could not. What it has of the keeper is real-time priority, where that is to be had, and
 * the keeper's standing with the kernel where memory runs out. It outlives the keeper. That a VM has one is
 * known by a lock that it holds without knowing: it goes with the process, whoever was there to see it. */
#pragma once
#include <glib.h>
#include "base/err.h"
#include "json/api.h"
#include "keeper/vmm.h"

enum { GUARD_FDS = 3 };

struct guards {
        struct vmms *vmms;
        GSList *children; /* to be reaped; those of a keeper before us are init's */
};

/* Borrows vmms. */
void guards_init(struct guards *g, struct vmms *vmms);
void guards_done(struct guards *g); /* they run on; idempotent */
/* fds, the monitor, the control socket and the folder, are borrowed. Not found: that VM does not run. Busy:
 * it has a guard. */
int guards_start(struct guards *g, const struct api_keeper_guard_start *s, const int fds[GUARD_FDS],
                 struct api_keeper_guard *ret, struct err *err);
/* With the VM's record. */
void guards_forget(int record_fd, const char *vm);

/* SPDX-License-Identifier: Apache-2.0 */
/* meted/consolidate.h - VMs whose memory lies on several nodes are brought together, while they run (5.20).
 *
 * What goes where is consolidate_plan()'s (core/separate.h): each VM as a whole or not at all, with the least
 * moved, within what is free. Only what is settled is planned: a VM of which memory is just being activated,
 * given back or moved, or that is itself moved or handed over, is passed over, and that is said. One VM at a
 * time, in the books first (core/relocate.c), and slowly: before each piece a pause, so that no more than
 * half of what moving costs is taken of the guest and of its neighbours.
 *
 *   waiting -> moving -> together
 *                 |
 *                 +--> going-back -> stayed    it failed too often, was cancelled, or the time is over
 *   waiting -> stayed                          it is another by now, or there is no room any more
 *
 * The plan and how far it is are one document in the store, written with the books of the same turn: the next
 * meted goes on with it, to the same deadline. What ended is shown until the next one. */
#pragma once
#include <jansson.h>
#include "meted/meted.h"
#include "wire/http.h"

/* Behind the VMs and their requests: one that was under way goes on. */
int consolidate_start(struct meted *m, struct err *err);
/* Answers with the plan, when it is recorded; what comes of it is in the event log. REASON_BUSY: one is under
 * way. */
void consolidate_ask(struct meted *m, struct http_request *req, const json_t *body);
/* REASON_NOT_FOUND: there was none. */
json_t *consolidate_show(const struct meted *m, struct err *err);
void consolidate_cancel(struct meted *m, struct http_request *req);
/* meted goes. Idempotent. */
void consolidate_stop(struct meted *m);

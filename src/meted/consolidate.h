/* SPDX-License-Identifier: Apache-2.0 */
/* meted/consolidate.h - VMs whose memory lies on several nodes are brought together, while they run (5.20).
 *
 * What goes where is consolidate_plan()'s (core/separate.h): each VM as a whole or not at all, with the least
 * moved, within what is free. One VM at a time, in the books first (core/relocate.c), and slowly: between two
 * pieces as long a pause as a piece took, so that no more than half of what moving costs is taken of the
 * guest and of its neighbours. One that cannot be moved goes back, and the next one has its turn. What is
 * planned is not journalled: after a restart the VM that was under way is brought together, and the others
 * are to be asked for again. */
#pragma once
#include <jansson.h>
#include "meted/meted.h"
#include "wire/http.h"

/* Answers with the plan, at once; what comes of it is in the event log. REASON_BUSY: one is under way. */
void consolidate_ask(struct meted *m, struct http_request *req, const json_t *body);
/* meted goes. Idempotent. */
void consolidate_stop(struct meted *m);

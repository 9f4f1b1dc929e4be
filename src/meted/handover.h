/* SPDX-License-Identifier: Apache-2.0 */
/* meted/handover.h - VMs change hypervisor on this server without being copied.
 *
 * What is decided is decided in core/handover.h, where mete-sp leads; here it is recorded, carried out and
 * said to mete-sp, and to nobody else. handover-source.c has what the hypervisor does that gives a VM away,
 * handover-target.c the one that takes it, handover-vmm.c what both do, handover-record.c how it is written
 * down. A meted without [server] processor never does any of it. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "meted/machine.h"
#include "meted/meted.h"

struct http_request;
struct handovers;

/* Behind the VMs and their requests; those that were under way go on when the VMMs are known:
 * handovers_adopt(). */
int handovers_start(struct meted *m, struct err *err);
bool handovers_adopt(struct meted *m); /* true: some wait for a VMM that nobody is attached to yet */
void handovers_stop(struct meted *m);  /* what is under way goes on with the next meted */
void handovers_free(struct meted *m);  /* when the VMs are detached */

/* mete-sp says something; answers. */
void handovers_hear(struct meted *m, struct http_request *req, const json_t *body);
/* The VM whose claims end with this handover, which was committed here; NULL: none. */
const char *handovers_leaving(const struct meted *m, const char *id);

/* What VMs bring that are on their way here, or whose memory is not yet in our partition, and what those that
 * are separated are not to get: after the books were made anew. */
void handovers_bring(struct meted *m);
/* Before a later partition is taken. REASON_BUSY: it cannot be known yet whether the memory of one is in it.
 */
int handovers_may_take(struct meted *m, const struct api_partition *p, struct err *err);
/* With it the memory of those that it has is ours. Where it is not taken after all: handovers_bring(). */
void handovers_book(struct meted *m, const struct api_partition *p);

/* A VM that is handed over is not to be started, stopped, deleted, moved or asked for more: why, or 0. */
int handovers_check(const struct meted *m, const struct machine *v, struct err *err);
/* What its guest has is not to change just now: it was said to the other side. */
bool handovers_is_fixed(const struct machine *v, struct err *err);
/* Whether it may run is decided by its handover alone; what it was granted is not looked at. */
bool handovers_is_standing(const struct machine *v);
/* It is on its way here: its memory is another VMM's, it must not run yet, and its guest is not asked. */
bool handovers_is_arriving(const struct machine *v);
void handovers_vm_event(struct machine *v, enum vm_event event, const char *words);
/* The connection to its VMM is about to be closed. */
void handovers_vm_gone(struct machine *v);
void handovers_vm_died(struct machine *v, const char *why);

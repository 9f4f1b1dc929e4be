/* SPDX-License-Identifier: Apache-2.0 */
/* meted/moves.h - VMs move to other hosts, and come from them.
 *
 * What is decided is decided in core/move.h; here it is recorded, carried out and said to the other side.
 * moves-source.c has what the side that gives the VM away does, moves-arrive.c the one that gets it,
 * moves-record.c how a move is written down, said and shown. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "meted/machine.h"
#include "meted/meted.h"

struct http_request;
struct moves;

/* Behind the VMs and their requests; moves that were under way go on when the keeper has said which VMMs are
 * there: moves_adopt(). */
int moves_start(struct meted *m, struct err *err);
bool moves_adopt(struct meted *m); /* true: some wait for a VMM that nobody is attached to yet */
/* All ids of their reservations begin with it, and no others. */
#define MOVES_RESERVE "move:"
/* The keeper holds a class of the link for a move of this VM: where there is none it is dropped. */
void moves_sweep(struct meted *m, const char *vm);
void moves_free(struct meted *m); /* when the VMs are detached */
void moves_stop(struct meted *m); /* what is under way goes on with the next meted */

/* What is free here for moves at the next instants at which that changes; so many. */
size_t moves_later(const struct meted *m, struct side_then ret[PLAN_THENS_MAX]);

/* Of managers and operators; they answer. */
void moves_ask(struct meted *m, struct http_request *req, struct machine *v, const json_t *body);
void moves_cancel(struct meted *m, struct http_request *req, const char *id);
void moves_accept(struct meted *m, struct http_request *req, const char *id, const json_t *body);
json_t *moves_show(const struct meted *m, const char *id, struct err *err);
json_t *moves_list(const struct meted *m, const char *query, struct err *err);
/* The other side says something. `from`: by its certificate. */
struct in6_addr;
int moves_hear(struct meted *m, const char *from, const struct in6_addr *at, const json_t *body,
               struct err *err);

/* What is said of a VM to whoever is to have it; to be freed. NULL: it is changing just now. */
struct api_peer_vm *moves_guest(const struct machine *v);

/* A VM that moves is not to be started, stopped, deleted or asked for more: why, or 0. */
int moves_check(const struct meted *m, const struct machine *v, struct err *err);
/* What its guest has is not to change just now: it was said to the other side. */
bool moves_is_fixed(const struct machine *v, struct err *err);
/* Whether it may run is decided by its move alone. */
bool moves_is_standing(const struct machine *v);
/* It is on its way here: it must not run yet, and its guest is not asked. */
bool moves_is_arriving(const struct machine *v);
/* The ceiling that a vCPU is to have just now, which has such a share and would have `own`; whoever looks
 * at what was granted looks for this. */
int64_t moves_ceiling_milli(const struct machine *v, int64_t share_milli, int64_t own_milli);
/* What its vCPUs are held to is being changed, or is still what another meted had made of it: what is seen of
 * that says nothing. Neither does it where v->vcpu_changes has changed since it was asked for. */
bool moves_is_changing(const struct machine *v);
void moves_vm_event(struct machine *v, enum vm_event event, const char *words);
void moves_vm_died(struct machine *v, const char *why);

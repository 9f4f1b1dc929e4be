/* SPDX-License-Identifier: Apache-2.0 */
/* core/server.h - the partition of one server: which hypervisor manages how much of which component (5.1,
 * 5.2). The service processor's; each hypervisor has its own part in its ledger.
 *
 * Ownership is per (component, hypervisor) and an amount, so that part of a node's memory can change hands; a
 * CPU is one hypervisor's as a whole. Invariant, of each component: what hypervisors have, and what is on its
 * way from one to another, never exceeds what may be given away. What no hypervisor has is the server's own.
 * A share that is kept is never given away (5.8).
 *
 * What changes hands does so in three steps, each of which is journalled before it acts: server_give_begin()
 * takes it out of the giver's share, so that nobody has it; the giver is told, and only when it has recorded
 * that it is without, server_give_end() puts it into the taker's. Where the giver refuses,
 * server_give_undo(). One at a time.
 *
 * Each of these raises the epoch, which goes with all that hypervisors are told: who has heard of a later
 * one takes no earlier.
 *
 * Pure: no I/O, no clock. Allocates in server_new() alone. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/component.h"

enum { SERVER_HYPERVISORS_MAX = 8, SERVER_NAME = 32, SERVER_NOBODY = -1 };

struct server_share {
        int64_t amount; /* in the unit of the component's kind */
        bool is_kept;   /* not reassignable; of no amount: false */
};

/* On its way; amount 0: nothing is. */
struct server_giving {
        uint32_t component;
        int from, to;
        int64_t amount;
};

struct server {
        const struct component *components; /* borrowed; owned is what may be given away to hypervisors */
        size_t n_components;
        char names[SERVER_HYPERVISORS_MAX][SERVER_NAME];
        int n;                       /* hypervisors */
        struct server_share *shares; /* [component][hypervisor]; owned */
        struct server_giving giving;
        int64_t epoch; /* 1: made, and never changed */
};

/* No hypervisor, and everything nobody's. -ENOMEM. */
int server_init(struct server *s, const struct component *components, size_t n, struct err *err);
void server_done(struct server *s); /* idempotent */
/* Returns its number. REASON_INVALID: no name, or there is one of that name; REASON_NO_CAPACITY: too many. */
int server_add(struct server *s, const char *name, struct err *err);
/* SERVER_NOBODY where there is none of that name. */
int server_find(const struct server *s, const char *name);
/* -1: there is none. */
int64_t server_component(const struct server *s, const char *id);

const struct server_share *server_share(const struct server *s, uint32_t component, int hypervisor);
/* All that it has of a kind: thousandths of CPUs, bytes. */
int64_t server_sum(const struct server *s, int hypervisor, enum component_kind kind);
/* It has nothing at all. */
bool server_is_empty(const struct server *s, int hypervisor);
/* What no hypervisor has, and none is to have. */
int64_t server_nobodys(const struct server *s, uint32_t component);

/* While a partition is made, of what is nobody's; nothing changes on failure. REASON_POLICY: another has it
 * (overlap), and which. REASON_NO_CAPACITY: the server has not so much. REASON_INVALID: part of a CPU, bytes
 * that are no whole MiB, nothing, a kind that is not partitioned. */
int server_take(struct server *s, int hypervisor, uint32_t component, int64_t amount, struct err *err);
/* All CPUs of a NUMA node, and (has_memory) all its memory. REASON_NOT_FOUND: no such node. */
int server_take_node(struct server *s, int hypervisor, uint32_t node, bool has_memory, struct err *err);
/* So much memory, in proportion to what each node that the hypervisor has CPUs of has left. */
int server_take_memory(struct server *s, int hypervisor, int64_t bytes, struct err *err);
/* What it has of it stays. REASON_NOT_FOUND: it has nothing of it. */
int server_keep(struct server *s, int hypervisor, uint32_t component, struct err *err);
/* A partition is whole: each hypervisor has a CPU and memory. REASON_INVALID: which has not. */
int server_check(const struct server *s, struct err *err);

/* 0: begun. REASON_UNREASSIGNABLE: it is kept; REASON_NO_CAPACITY: there is not so much; REASON_BUSY:
 * something is on its way; REASON_INVALID: to itself, part of a CPU, or what it cannot be without. */
int server_give_begin(struct server *s, const struct server_giving *g, struct err *err);
void server_give_end(struct server *s);
void server_give_undo(struct server *s);

/* The next that is to be given of what `from` may give of each component (most, by component; whole CPUs and
 * MiB): not what is kept, nor the last CPU and the last MiB that it has, as it stays a hypervisor. false:
 * there is no more. */
bool server_next_gift(const struct server *s, int from, int to, const int64_t *most,
                      struct server_giving *ret);
/* All that `from` has left, which has ended and never runs again as it was, is `to`'s, with its marks.
 * Nothing is on its way from or to either. */
void server_retire(struct server *s, int from, int to);

/* What changes hands with a VM, in one step: whole CPUs, and memory, of `from`. */
struct server_portion {
        uint32_t component;
        int64_t amount;
};
/* Each component once. REASON_UNREASSIGNABLE: it is kept, by either, as what is added to what is kept is so,
 * too; or what `from` cannot be without, which stays a hypervisor; REASON_NO_CAPACITY: it has not so much;
 * REASON_INVALID: part of a CPU; REASON_BUSY: something is on its way from or to one of both. */
int server_assign_check(const struct server *s, int from, int to, const struct server_portion *portions,
                        size_t n, struct err *err);
/* What this hypervisor has less of, if that goes; nobody has it then. Of a copy that is only asked, or of
 * what was nobody's before; whoever changes the partition so raises its epoch. */
void server_set_aside(struct server *s, int hypervisor, const struct server_portion *portions, size_t n);
/* As was checked; of what `from` has less of by now, as a machine may lose memory, what is left of it. */
void server_assign(struct server *s, int from, int to, const struct server_portion *portions, size_t n);

/* Slow check of every invariant, for tests and for what was read. false: broken. */
bool server_is_sound(const struct server *s);

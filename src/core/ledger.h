/* SPDX-License-Identifier: Apache-2.0 */
/* core/ledger.h - the only place where capacity is given away (S.1).
 *
 * A claim takes an amount of one component for a time [start, end). Invariant, for each component and
 * each instant: the sum of its claims never exceeds what the hypervisor owns of it. A claim for now and
 * one for a future window are the same thing.
 *
 * The model: a component keeps `base`, the sum of the claims that have begun, and a balanced tree of the
 * instants to come (core/steps.h), each with the change that it brings; every entry of the tree carries the
 * sum of what is below it and the highest sum over any of its prefixes. Admission over [start, end) is one
 * descent. ledger_advance() folds instants that have passed into the base.
 *
 * Pure: no clock (times are given), no I/O. Allocates in ledger_new() and when a table must grow; giving
 * back never allocates. A claim that has ended stays in the table until it is released: an expired claim is
 * the holder's to release, but it no longer takes capacity.
 *
 * Claims come from our own code, checked: one without amount, with an end that is not after its start or with
 * a component that does not exist is a bug, and asserts. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

#define LEDGER_OPEN INT64_MAX /* an end that is not known */

enum { LEDGER_CLAIMS_MAX = 1 << 20 };

enum claim_state { CLAIM_HELD = 1, CLAIM_RESERVED, CLAIM_ALLOCATED, CLAIM_ACTIVE, CLAIM_LAZY, CLAIM_STATE_N };

typedef uint64_t claim_id; /* 0 is no claim; below 2^53; never reused in the life of a ledger */

struct claim {
        uint32_t component; /* index into the components that the ledger was made with */
        enum claim_state state;
        int64_t amount;   /* > 0 */
        uint64_t holder;  /* opaque to the ledger */
        int64_t start_ms; /* since 1970 */
        int64_t end_ms;   /* > start, or LEDGER_OPEN */
};

struct ledger;

/* Capacities in the order of the components. NULL: no memory. */
struct ledger *ledger_new(const int64_t *owned, size_t n_components, int64_t now_ms);
void ledger_free(struct ledger *l);

/* Time passes; never goes back (an earlier time is ignored). */
void ledger_advance(struct ledger *l, int64_t now_ms);

size_t ledger_components(const struct ledger *l);
int64_t ledger_owned(const struct ledger *l, uint32_t component);
/* Less than what is claimed is allowed (a CPU failed): nothing more is admitted until it fits again. So a
 * journal is replayed with what was owned when its claims were made, then the present amount is set. */
void ledger_set_owned(struct ledger *l, uint32_t component, int64_t owned);

/* The least that is free at any instant of [start, end); never negative. A start in the past means now. */
int64_t ledger_free_over(const struct ledger *l, uint32_t component, int64_t start_ms, int64_t end_ms);
/* What is claimed now. */
int64_t ledger_claimed(const struct ledger *l, uint32_t component);

/* 1: claimed, *ret_id is set. 0: does not fit, nothing changed. -ENOMEM: no memory, or LEDGER_CLAIMS_MAX.
 * A window that lies wholly in the past is admitted and takes nothing (a journal is replayed late). */
int ledger_claim(struct ledger *l, const struct claim *c, claim_id *ret_id);
/* Gives back exactly what was taken. false: no such claim (released before). */
bool ledger_release(struct ledger *l, claim_id id);
/* NULL: no such claim. Valid until the next change of the ledger. */
const struct claim *ledger_find(const struct ledger *l, claim_id id);
/* false: no such claim. */
bool ledger_set_state(struct ledger *l, claim_id id, enum claim_state state);
/* 1: changed. 0: the longer time does not fit, nothing changed. -ENOENT. -EINVAL: not after its start.
 * -ENOMEM. A claim that has ended may be renewed: it takes capacity again from now on. */
int ledger_set_end(struct ledger *l, claim_id id, int64_t end_ms);

size_t ledger_claims(const struct ledger *l);
/* Calls fn for each claim, in the order in which they were made. */
void ledger_each(const struct ledger *l, void (*fn)(claim_id id, const struct claim *c, void *arg),
                 void *arg);

/* Slow check of every invariant, for tests: recomputes all sums from the claims. false: broken. */
bool ledger_is_sound(const struct ledger *l);
const char *claim_state_name(enum claim_state s);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/steps.h - how a level changes at instants to come, and how high it will be in any window.
 *
 * A `struct steps` is a set of instants, each with the change that it brings; several claims may change the
 * level at one instant. All the steps of a ledger share one pool of nodes. Pure. Embed both; the pool owns
 * its memory, steps own nothing but places in the pool. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct steps_node;
struct steps_pool {
        struct steps_node *nodes; /* a free node links to the next one */
        uint32_t n_nodes;         /* that there is memory for */
        uint32_t n_free;
        uint32_t free; /* first free node, or STEPS_NONE */
};

#define STEPS_NONE UINT32_MAX
struct steps {
        uint32_t root; /* STEPS_NONE: no instant */
        uint32_t height;
};

void steps_pool_init(struct steps_pool *pool);
void steps_pool_done(struct steps_pool *pool);
/* Makes sure that n calls of steps_add() find their nodes. 0 or -ENOMEM. */
int steps_pool_reserve(struct steps_pool *pool, unsigned n);

void steps_init(struct steps *s);
/* Adds one change; room must have been reserved. */
void steps_add(struct steps_pool *pool, struct steps *s, int64_t at_ms, int64_t delta);
/* Takes back one change that was added; it must be there. Never allocates. */
void steps_remove(struct steps_pool *pool, struct steps *s, int64_t at_ms, int64_t delta);
/* Drops all instants up to now and returns the sum of their changes. */
int64_t steps_fold(struct steps_pool *pool, struct steps *s, int64_t now_ms);
/* The first instant; INT64_MAX where there is none. */
int64_t steps_first(const struct steps_pool *pool, const struct steps *s);
/* The highest level at any instant of [start, end), where `level` is the one before the first instant. */
int64_t steps_peak(const struct steps_pool *pool, const struct steps *s, int64_t level, int64_t start_ms,
                   int64_t end_ms);

/* Calls fn for each instant in ascending order: its change, and how many changes it is the sum of. */
void steps_each(const struct steps_pool *pool, const struct steps *s,
                void (*fn)(int64_t at_ms, int64_t delta, uint32_t n, void *arg), void *arg);
/* For tests. How many nodes the tree has; 0 where it is broken (or empty). */
size_t steps_check(const struct steps_pool *pool, const struct steps *s);

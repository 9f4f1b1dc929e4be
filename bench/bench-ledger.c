/* SPDX-License-Identifier: Apache-2.0 */
/* How many decisions a ledger makes in a second, in process, on one core, without a store.
 *
 * A decision is one attempt to claim one component, granted or not, or one release of a claim: what a VM
 * with two CPUs and memory asks for is three of them. The host has 64 CPUs and memory on 2 nodes; a quarter
 * of the claims are for memory. A claim is for now until some time in the next hour (half of them), for a
 * window of up to an hour in the next day (a quarter), or open-ended from now (a quarter). The ledger is
 * filled up to the live claims of the figure's name; then claims that are chosen at random are released and
 * others are made in their place, while a millisecond passes every 1,000 decisions. What is owned is chosen
 * so that some attempts do not fit; their part is printed, because a refusal is cheaper than a grant.
 * ledger_100k_one is the worst case: all claims on one component, in one tree.
 *
 * Each figure is the median of the rounds. */
#include "core/ledger.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 9, ROUND_MS = 200, CPUS = 64, NODES = 2 };
enum { HOUR_MS = 3600 * 1000, DAY_MS = 24 * HOUR_MS };
#define START_MS INT64_C(1800000000000)

struct bench {
        struct ledger *ledger;
        size_t n_components;
        claim_id *live;
        size_t n_live;
        size_t n_want;
        int64_t now_ms;
        uint64_t random;
        uint64_t decisions, attempts, refusals;
};

/* xorshift64*: a nanosecond, so that the ledger is what is measured. */
static uint64_t dice(struct bench *b, uint64_t n)
{
        b->random ^= b->random >> 12;
        b->random ^= b->random << 25;
        b->random ^= b->random >> 27;
        return (b->random * UINT64_C(2685821657736338717) >> 32) % n;
}

static struct claim some_claim(struct bench *b)
{
        struct claim c = {
                .state = CLAIM_ALLOCATED, .amount = 1 + (int64_t)dice(b, 1000), .holder = b->attempts};
        if (b->n_components > 1)
                c.component = (uint32_t)(dice(b, 4) == 0 ? CPUS + dice(b, NODES) : dice(b, CPUS));
        uint64_t kind = dice(b, 4);
        c.start_ms = b->now_ms + (kind == 0 ? 1 + (int64_t)dice(b, DAY_MS) : 0);
        c.end_ms = kind == 1 ? LEDGER_OPEN : c.start_ms + 1 + (int64_t)dice(b, HOUR_MS);
        return c;
}

static void decide(struct bench *b)
{
        if (++b->decisions % 1000 == 0)
                ledger_advance(b->ledger, ++b->now_ms);
        if (b->n_live == b->n_want) {
                size_t i = dice(b, b->n_live);
                bool released = ledger_release(b->ledger, b->live[i]);
                assert(released);
                b->live[i] = b->live[--b->n_live];
                return;
        }
        struct claim c = some_claim(b);
        int r = ledger_claim(b->ledger, &c, &b->live[b->n_live]);
        assert(r >= 0);
        b->n_live += (size_t)r;
        b->attempts++;
        b->refusals += r == 0;
}

/* CPU time: what one core gives, also on a machine that is busy with other things. */
static double now_s(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double round_rate(struct bench *b)
{
        uint64_t before = b->decisions;
        double start = now_s(), passed;
        do {
                for (int i = 0; i < 1024; i++)
                        decide(b);
                passed = now_s() - start;
        } while (passed < ROUND_MS / 1000.0);
        return (double)(b->decisions - before) / passed;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return x < y ? -1 : x > y;
}

/* Claims have 500 on the average. `percent` says how much of what they come to is owned; it is chosen for
 * each figure such that about a tenth of the attempts do not fit, else a small ledger looks fast by refusing.
 */
static int64_t owned_for(size_t claims_per_component, int percent)
{
        return (int64_t)claims_per_component * 500 * percent / 100;
}

static void measure(const char *name, size_t n_live, size_t n_components, int percent)
{
        int64_t owned[CPUS + NODES];
        double rates[ROUNDS];
        struct bench b = {.n_components = n_components,
                          .n_want = n_live,
                          .now_ms = START_MS,
                          .random = 88172645463325252};
        for (size_t i = 0; i < n_components; i++)
                owned[i] = owned_for(n_components == 1 ? n_live
                                     : i < CPUS        ? n_live * 3 / 4 / CPUS
                                                       : n_live / 4 / NODES,
                                     percent);
        b.ledger = ledger_new(owned, n_components, START_MS);
        b.live = calloc(n_live, sizeof(b.live[0]));
        assert(b.ledger && b.live);
        while (b.n_live < n_live)
                decide(&b);
        (void)round_rate(&b); /* warm up */
        b.attempts = b.refusals = 0;
        for (int i = 0; i < ROUNDS; i++)
                rates[i] = round_rate(&b);
        qsort(rates, ROUNDS, sizeof(rates[0]), by_value);
        printf("# %s: %zu live claims on %zu components, %.0f %% of the attempts refused, rounds %.2f to "
               "%.2f M/s\n",
               name, ledger_claims(b.ledger), n_components, 100.0 * (double)b.refusals / (double)b.attempts,
               rates[0] / 1e6, rates[ROUNDS - 1] / 1e6);
        printf("BENCH %s %.0f decisions/s\n", name, rates[ROUNDS / 2]);
        free(b.live);
        ledger_free(b.ledger);
}

int main(void)
{
        measure("ledger_1k", 1000, CPUS + NODES, 100);
        measure("ledger_100k", 100000, CPUS + NODES, 70);
        measure("ledger_100k_one", 100000, 1, 70);
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The oracle knows nothing of trees: it keeps the list of claims and computes from it, at each question, the
 * level at every tick of a short world. Ticks are mapped to milliseconds, near ones and far ones. */
#include "core/ledger.h"

#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <string.h>

#include "base/str.h"

enum { TICKS_MAX = 4096, COMPONENTS_MAX = 4 };

struct shape {
        const char *name;
        int ticks, components, claims;
        int64_t owned, amount; /* the most of either */
        int64_t first_ms, tick_ms;
        double seconds;
};

struct oracle_claim {
        claim_id id;
        struct claim claim; /* in ticks; open is INT64_MAX */
};

struct world {
        const struct shape *shape;
        GRand *rand;
        struct ledger *ledger;
        GArray *claims;   /* struct oracle_claim, in the order of making */
        GHashTable *ids;  /* every id that ever was */
        GArray *released; /* claim_id */
        int64_t owned[COMPONENTS_MAX];
        int now;
        int64_t level[TICKS_MAX + 1]; /* of one component; the last stands for all time after */
};

static int64_t ms(const struct world *w, int64_t tick)
{
        return tick == INT64_MAX ? LEDGER_OPEN : w->shape->first_ms + tick * w->shape->tick_ms;
}

static struct oracle_claim *nth(const struct world *w, guint i)
{
        return &g_array_index(w->claims, struct oracle_claim, i);
}

static void levels(struct world *w, uint32_t component)
{
        int ticks = w->shape->ticks;
        memset(w->level, 0, ((size_t)ticks + 1) * sizeof(w->level[0]));
        for (guint i = 0; i < w->claims->len; i++) {
                const struct claim *c = &nth(w, i)->claim;
                if (c->component != component || c->end_ms <= 0)
                        continue;
                w->level[MAX(c->start_ms, 0)] += c->amount;
                if (c->end_ms <= ticks)
                        w->level[c->end_ms] -= c->amount;
        }
        for (int t = 1; t <= ticks; t++)
                w->level[t] += w->level[t - 1];
}

/* What is free over [start, end) in ticks; negative where more is claimed than owned. */
static int64_t oracle_room(struct world *w, uint32_t component, int64_t start, int64_t end)
{
        int64_t peak = 0;
        levels(w, component);
        for (int64_t t = MAX(start, w->now); t <= w->shape->ticks && t < end; t++)
                peak = MAX(peak, w->level[t]);
        return w->owned[component] - peak;
}

/* Between 1 and n, small ones more often. */
static int some(struct world *w, int n)
{
        double r = g_rand_double(w->rand);
        return 1 + (int)(r * r * n);
}

static struct claim random_claim(struct world *w)
{
        struct claim c = {
                .component = (uint32_t)g_rand_int_range(w->rand, 0, w->shape->components),
                .state = (enum claim_state)g_rand_int_range(w->rand, 1, CLAIM_STATE_N),
                .amount = 1 + (int64_t)(g_rand_double(w->rand) * (double)w->shape->amount),
                .holder = g_rand_int(w->rand),
                .start_ms = w->now - g_rand_int_range(w->rand, 0, 3),
        };
        int left = w->shape->ticks - w->now;
        if (left > 1 && g_rand_int_range(w->rand, 0, 3) == 0)
                c.start_ms = w->now + g_rand_int_range(w->rand, 0, left);
        c.end_ms = c.start_ms + some(w, left); /* MIN() would throw the dice twice */
        c.end_ms = MIN(c.end_ms, w->shape->ticks);
        if (c.end_ms <= c.start_ms || g_rand_int_range(w->rand, 0, 5) == 0)
                c.end_ms = INT64_MAX;
        return c;
}

static void op_claim(struct world *w)
{
        struct claim ticks = random_claim(w), c = ticks;
        c.start_ms = ms(w, ticks.start_ms);
        c.end_ms = ms(w, ticks.end_ms);
        bool past = ticks.end_ms <= w->now;
        int64_t room = past ? INT64_MAX : oracle_room(w, ticks.component, ticks.start_ms, ticks.end_ms);
        claim_id id = 0;
        int r = ledger_claim(w->ledger, &c, &id);
        g_assert_cmpint(r, ==, room >= ticks.amount);
        if (r == 0) {
                g_assert_cmpuint(id, ==, 0);
                return;
        }
        g_assert_true(id > 0 && id < UINT64_C(1) << 53);
        g_assert_true(g_hash_table_add(w->ids, g_memdup2(&id, sizeof(id))));
        struct oracle_claim made = {id, ticks};
        g_array_append_val(w->claims, made);
        /* What was admitted fits at every instant. */
        if (!past)
                g_assert_cmpint(oracle_room(w, ticks.component, ticks.start_ms, ticks.end_ms), >=, 0);
}

static void release_at(struct world *w, guint i)
{
        struct oracle_claim gone = *nth(w, i);
        g_array_remove_index(w->claims, i);
        g_assert_true(ledger_release(w->ledger, gone.id));
        g_assert_false(ledger_release(w->ledger, gone.id));
        g_assert_null(ledger_find(w->ledger, gone.id));
        g_array_append_val(w->released, gone.id);
}

static void op_release(struct world *w)
{
        if (w->claims->len > 0)
                release_at(w, (guint)g_rand_int_range(w->rand, 0, (gint32)w->claims->len));
        if (w->released->len > 0) {
                guint i = (guint)g_rand_int_range(w->rand, 0, (gint32)w->released->len);
                claim_id old = g_array_index(w->released, claim_id, i);
                g_assert_false(ledger_release(w->ledger, old));
                g_assert_cmpint(ledger_set_end(w->ledger, old, LEDGER_OPEN), ==, -ENOENT);
                g_assert_false(ledger_set_state(w->ledger, old, CLAIM_HELD));
        }
}

static void op_set_end(struct world *w)
{
        if (w->claims->len == 0)
                return;
        struct oracle_claim *o = nth(w, (guint)g_rand_int_range(w->rand, 0, (gint32)w->claims->len));
        int64_t old = o->claim.end_ms, end = g_rand_int_range(w->rand, 0, w->shape->ticks + 1);
        if (g_rand_int_range(w->rand, 0, 6) == 0)
                end = INT64_MAX;
        int want = 1;
        if (end <= o->claim.start_ms)
                want = -EINVAL;
        else if (end > old && end > w->now)
                want = oracle_room(w, o->claim.component, old, end) >= o->claim.amount;
        g_assert_cmpint(ledger_set_end(w->ledger, o->id, ms(w, end)), ==, want);
        if (want == 1)
                o->claim.end_ms = end;
        g_assert_cmpint(ledger_find(w->ledger, o->id)->end_ms, ==, ms(w, o->claim.end_ms));
}

static void op_advance(struct world *w)
{
        /* Half of the time to an instant between two ticks, and back, which is ignored. */
        w->now =
                MIN(w->now + g_rand_int_range(w->rand, 0, 1 + w->shape->ticks / 64 + 1), w->shape->ticks - 1);
        ledger_advance(w->ledger, ms(w, w->now));
        if (g_rand_boolean(w->rand))
                ledger_advance(w->ledger, ms(w, w->now) + w->shape->tick_ms - 1);
        ledger_advance(w->ledger, ms(w, 0));
}

static void op_set_owned(struct world *w)
{
        uint32_t component = (uint32_t)g_rand_int_range(w->rand, 0, w->shape->components);
        /* Mostly back to all of it, else soon nothing is admitted any more. */
        int64_t owned = g_rand_int_range(w->rand, 0, 3)
                                ? w->shape->owned
                                : (int64_t)(g_rand_double(w->rand) * (double)w->shape->owned);
        w->owned[component] = owned;
        ledger_set_owned(w->ledger, component, owned);
        g_assert_cmpint(ledger_owned(w->ledger, component), ==, owned);
}

static void op_ask(struct world *w)
{
        uint32_t component = (uint32_t)g_rand_int_range(w->rand, 0, w->shape->components);
        int64_t start = g_rand_int_range(w->rand, 0, w->shape->ticks), end = start + some(w, w->shape->ticks);
        if (g_rand_int_range(w->rand, 0, 4) == 0)
                end = INT64_MAX;
        if (end <= w->now)
                return;
        int64_t room = oracle_room(w, component, start, end);
        g_assert_cmpint(ledger_free_over(w->ledger, component, ms(w, start), ms(w, end)), ==, MAX(room, 0));
        levels(w, component);
        g_assert_cmpint(ledger_claimed(w->ledger, component), ==, w->level[w->now]);
}

static void compare_claim(claim_id id, const struct claim *c, void *arg)
{
        struct {
                struct world *w;
                guint i;
        } *at = arg;
        const struct oracle_claim *o = nth(at->w, at->i++);
        g_assert_cmpuint(id, ==, o->id);
        g_assert_cmpuint(c->component, ==, o->claim.component);
        g_assert_cmpint(c->amount, ==, o->claim.amount);
        g_assert_cmpuint(c->holder, ==, o->claim.holder);
        g_assert_cmpint(c->start_ms, ==, ms(at->w, o->claim.start_ms));
        g_assert_cmpint(c->end_ms, ==, ms(at->w, o->claim.end_ms));
}

/* Everything that can be asked, and the order of the claims. */
static void compare(struct world *w)
{
        struct {
                struct world *w;
                guint i;
        } at = {w, 0};
        g_assert_cmpuint(ledger_claims(w->ledger), ==, w->claims->len);
        ledger_each(w->ledger, compare_claim, &at);
        g_assert_cmpuint(at.i, ==, w->claims->len);
        for (uint32_t component = 0; component < (uint32_t)w->shape->components; component++) {
                levels(w, component);
                for (int t = w->now; t < w->shape->ticks; t++) {
                        int64_t room = w->owned[component] - w->level[t];
                        g_assert_cmpint(ledger_free_over(w->ledger, component, ms(w, t), ms(w, t + 1)), ==,
                                        MAX(room, 0));
                }
        }
        g_assert_true(ledger_is_sound(w->ledger));
}

static struct world *world_new(const struct shape *shape, GRand *rand)
{
        struct world *w = g_new0(struct world, 1);
        w->shape = shape;
        w->rand = rand;
        w->claims = g_array_new(FALSE, FALSE, sizeof(struct oracle_claim));
        w->released = g_array_new(FALSE, FALSE, sizeof(claim_id));
        w->ids = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
        for (int i = 0; i < shape->components; i++)
                w->owned[i] = shape->owned;
        w->ledger = ledger_new(w->owned, (size_t)shape->components, ms(w, 0));
        g_assert_nonnull(w->ledger);
        return w;
}

/* All is given back, in any order; then it is as at the beginning. */
static void world_end(struct world *w)
{
        while (w->claims->len > 0)
                release_at(w, (guint)g_rand_int_range(w->rand, 0, (gint32)w->claims->len));
        compare(w);
        for (uint32_t i = 0; i < (uint32_t)w->shape->components; i++) {
                g_assert_cmpint(ledger_claimed(w->ledger, i), ==, 0);
                g_assert_cmpint(ledger_free_over(w->ledger, i, 0, LEDGER_OPEN), ==, w->owned[i]);
        }
        ledger_free(w->ledger);
        g_array_unref(w->claims);
        g_array_unref(w->released);
        g_hash_table_unref(w->ids);
        g_free(w);
}

static void world_step(struct world *w)
{
        /* Rare, so that worlds fill up before time has passed or nothing is owned any more. */
        bool rare = g_rand_int_range(w->rand, 0, w->shape->claims) < 8;
        int dice = g_rand_int_range(w->rand, (int)w->claims->len >= w->shape->claims ? 10 : 0, 20);
        if (dice < 10)
                op_claim(w);
        else if (dice < 15)
                op_release(w);
        else if (dice < 17)
                op_set_end(w);
        else if (dice < 18 || !rare)
                op_ask(w);
        else if (dice < 19)
                op_advance(w);
        else
                op_set_owned(w);
}

static void test_random(gconstpointer data)
{
        const struct shape *shape = data;
        guint32 seed = (guint32)g_test_rand_int(); /* --seed repeats a run */
        GRand *rand = g_rand_new_with_seed(seed);
        gint64 until = g_get_monotonic_time() + (gint64)(shape->seconds * G_USEC_PER_SEC);
        int worlds = 0, steps = 0;
        g_test_message("seed %u", seed);
        do {
                struct world *w = world_new(shape, rand);
                for (int i = 0; i < 20 * shape->claims && g_get_monotonic_time() < until; i++, steps++) {
                        world_step(w);
                        if (i % shape->claims == 0)
                                compare(w);
                }
                compare(w);
                world_end(w);
                worlds++;
        } while (g_get_monotonic_time() < until);
        g_test_message("%d steps in %d worlds", steps, worlds);
        g_rand_free(rand);
}

static const struct shape shapes[] = {
  /* Few ticks: nearly every instant is shared, every window touches another. */
        {"crowded",  24,   3, 30,   10,      6,   0,                      1,       0.6},
        {"one-tick", 3,    1, 8,    4,       3,   5,                      1,       0.2},
 /* Windows of millions of milliseconds, at a time like ours. */
        {"far",      300,  4, 200,  500,     40,  INT64_C(1800000000000), 7777777, 0.6},
 /* Deep trees. */
        {"deep",     4096, 1, 3000, 1000000, 400, INT64_C(1800000000000), 1,       1.2},
};

static claim_id claim(struct ledger *l, uint32_t component, int64_t amount, int64_t start, int64_t end)
{
        struct claim c = {.component = component,
                          .state = CLAIM_ALLOCATED,
                          .amount = amount,
                          .holder = 1,
                          .start_ms = start,
                          .end_ms = end};
        claim_id id = 0;
        int r = ledger_claim(l, &c, &id);
        g_assert_cmpint(r, >=, 0);
        g_assert_true((r == 1) == (id != 0));
        return id;
}

static void test_touch(void)
{
        int64_t owned[] = {10};
        struct ledger *l = ledger_new(owned, 1, 0);
        claim_id first = claim(l, 0, 10, 0, 100);
        g_assert_cmpuint(first, !=, 0);
        /* Ends where the next one starts: they touch and do not overlap. */
        g_assert_cmpuint(claim(l, 0, 10, 100, 200), !=, 0);
        g_assert_cmpuint(claim(l, 0, 1, 99, 100), ==, 0);
        g_assert_cmpuint(claim(l, 0, 1, 199, 201), ==, 0);
        g_assert_cmpuint(claim(l, 0, 1, 50, LEDGER_OPEN), ==, 0);
        g_assert_cmpuint(claim(l, 0, 10, 200, LEDGER_OPEN), !=, 0);
        g_assert_cmpint(ledger_free_over(l, 0, 0, LEDGER_OPEN), ==, 0);
        /* One who ends later now would run into the next. */
        g_assert_cmpint(ledger_set_end(l, first, 101), ==, 0);
        g_assert_cmpint(ledger_set_end(l, first, 60), ==, 1);
        g_assert_cmpint(ledger_free_over(l, 0, 60, 100), ==, 10);
        g_assert_cmpint(ledger_set_end(l, first, 0), ==, -EINVAL);
        ledger_advance(l, 59);
        g_assert_cmpint(ledger_claimed(l, 0), ==, 10);
        ledger_advance(l, 60);
        g_assert_cmpint(ledger_claimed(l, 0), ==, 0);
        /* Expired, but still in the table, until its holder lets go. */
        g_assert_cmpuint(ledger_claims(l), ==, 3);
        g_assert_nonnull(ledger_find(l, first));
        /* Renewed late: from now on, as far as there is room. */
        g_assert_cmpint(ledger_set_end(l, first, 100), ==, 1);
        g_assert_cmpint(ledger_claimed(l, 0), ==, 10);
        ledger_advance(l, 1000);
        g_assert_cmpint(ledger_set_end(l, first, 2000), ==, 0);
        g_assert_true(ledger_release(l, first));
        g_assert_false(ledger_release(l, first));
        g_assert_cmpint(ledger_claimed(l, 0), ==, 10);
        g_assert_true(ledger_is_sound(l));
        ledger_free(l);
}

static void test_shrink(void)
{
        int64_t owned[] = {10, 10};
        struct ledger *l = ledger_new(owned, 2, 0);
        claim_id a = claim(l, 0, 6, 0, LEDGER_OPEN), b = claim(l, 0, 4, 0, 50);
        ledger_set_owned(l, 0, 5);
        g_assert_cmpint(ledger_free_over(l, 0, 0, 10), ==, 0);
        g_assert_cmpuint(claim(l, 0, 1, 0, 10), ==, 0);
        g_assert_cmpuint(claim(l, 0, 1, 60, 70), ==, 0);
        /* To give up time is always possible; to get more is not. */
        g_assert_cmpint(ledger_set_end(l, b, 40), ==, 1);
        g_assert_cmpint(ledger_set_end(l, b, 50), ==, 0);
        g_assert_true(ledger_is_sound(l));
        g_assert_true(ledger_release(l, a));
        g_assert_cmpint(ledger_free_over(l, 0, 0, 10), ==, 1);
        g_assert_cmpint(ledger_free_over(l, 0, 40, 50), ==, 5);
        ledger_set_owned(l, 0, 0);
        g_assert_cmpuint(claim(l, 0, 1, 60, 70), ==, 0);
        ledger_set_owned(l, 0, 20);
        g_assert_cmpuint(claim(l, 0, 16, 0, LEDGER_OPEN), !=, 0);
        g_assert_cmpuint(claim(l, 1, 10, 0, LEDGER_OPEN), !=, 0);
        g_assert_true(ledger_is_sound(l));
        ledger_free(l);
}

static void test_state(void)
{
        int64_t owned[] = {1};
        struct ledger *l = ledger_new(owned, 1, 0);
        claim_id id = claim(l, 0, 1, 0, 10);
        g_assert_true(ledger_set_state(l, id, CLAIM_LAZY));
        g_assert_cmpint(ledger_find(l, id)->state, ==, CLAIM_LAZY);
        g_assert_null(ledger_find(l, 0));
        g_assert_null(ledger_find(l, UINT64_MAX));
        g_assert_cmpuint(ledger_components(l), ==, 1);
        /* A window in the past takes nothing, as when a journal is replayed late. */
        ledger_advance(l, 100);
        g_assert_cmpuint(claim(l, 0, 5, 20, 30), !=, 0);
        g_assert_cmpint(ledger_free_over(l, 0, 100, LEDGER_OPEN), ==, 1);
        ledger_free(l);
        ledger_free(NULL);
        for (int s = 0; s < CLAIM_STATE_N; s++)
                g_assert_nonnull(claim_state_name((enum claim_state)s));
        g_assert_cmpstr(claim_state_name(CLAIM_LAZY), ==, "lazy");
        g_assert_cmpstr(claim_state_name(CLAIM_STATE_N), ==, "none");
}

/* Small sets of claims that share instants: whatever order they are released in, the same is left. */
enum { SET = 6, SET_TICKS = 12 };
static const struct claim set[SET] = {
        {0, CLAIM_HELD,      3, 1, 0, 4          },
        {0, CLAIM_RESERVED,  2, 2, 4, 8          },
        {0, CLAIM_ALLOCATED, 3, 3, 4, LEDGER_OPEN},
        {0, CLAIM_ACTIVE,    1, 4, 2, 8          },
        {0, CLAIM_LAZY,      2, 5, 0, LEDGER_OPEN},
        {0, CLAIM_HELD,      1, 6, 3, 4          },
};

static void profile(const struct ledger *l, int64_t free[SET_TICKS])
{
        for (int t = 0; t < SET_TICKS; t++)
                free[t] = ledger_free_over(l, 0, t, t + 1);
}

static void permute(const int *order, int n, unsigned kept, int64_t now)
{
        int64_t owned[] = {20}, have[SET_TICKS], want[SET_TICKS];
        struct ledger *l = ledger_new(owned, 1, 0), *only = ledger_new(owned, 1, 0);
        claim_id id[SET];
        for (int i = 0; i < SET; i++) {
                claim_id unused;
                g_assert_cmpint(ledger_claim(l, &set[i], &id[i]), ==, 1);
                if (kept & 1u << i)
                        g_assert_cmpint(ledger_claim(only, &set[i], &unused), ==, 1);
        }
        ledger_advance(l, now);
        ledger_advance(only, now);
        for (int i = 0; i < n; i++)
                g_assert_true(ledger_release(l, id[order[i]]));
        profile(l, have);
        profile(only, want);
        g_assert_cmpmem(have, sizeof(have), want, sizeof(want));
        g_assert_cmpint(ledger_claimed(l, 0), ==, ledger_claimed(only, 0));
        g_assert_true(ledger_is_sound(l));
        ledger_free(l);
        ledger_free(only);
}

static int permutations(int *order, int n, int fixed, unsigned kept)
{
        if (fixed == n) {
                permute(order, n, kept, 0);
                permute(order, n, kept, 3);
                return 1;
        }
        int count = 0;
        for (int i = fixed; i < n; i++) {
                int a = order[fixed], b = order[i];
                order[fixed] = b, order[i] = a;
                count += permutations(order, n, fixed + 1, kept);
                order[fixed] = a, order[i] = b;
        }
        return count;
}

static void test_order(void)
{
        int count = 0;
        for (unsigned gone = 0; gone < 1u << SET; gone++) {
                int order[SET], n = 0;
                for (int i = 0; i < SET; i++)
                        if (gone & 1u << i)
                                order[n++] = i;
                count += permutations(order, n, 0, ~gone & ((1u << SET) - 1));
        }
        g_assert_cmpint(count, ==, 1957); /* sum of 6! / (6 - k)! */
}

static void test_full(void)
{
        int64_t owned[] = {INT64_C(1) << 40};
        struct ledger *l = ledger_new(owned, 1, 0);
        struct claim c = {.state = CLAIM_HELD, .amount = 1, .start_ms = 0, .end_ms = LEDGER_OPEN};
        claim_id id, last;
        for (int i = 0; i < LEDGER_CLAIMS_MAX; i++)
                g_assert_cmpint(ledger_claim(l, &c, &last), ==, 1);
        g_assert_cmpint(ledger_claim(l, &c, &id), ==, -ENOMEM);
        g_assert_cmpint(ledger_claimed(l, 0), ==, LEDGER_CLAIMS_MAX);
        g_assert_true(ledger_release(l, last));
        g_assert_cmpint(ledger_claim(l, &c, &id), ==, 1);
        g_assert_cmpuint(id, !=, last);
        g_assert_cmpuint(ledger_claims(l), ==, LEDGER_CLAIMS_MAX);
        ledger_free(l);
}

/* A claim that cannot be is a bug of ours and stops the program. */
static const struct claim misuses[] = {
        {1, CLAIM_HELD,    1,  0, 0, 1},
        {0, 0,             1,  0, 0, 1},
        {0, CLAIM_STATE_N, 1,  0, 0, 1},
        {0, CLAIM_HELD,    0,  0, 0, 1},
        {0, CLAIM_HELD,    -1, 0, 0, 1},
        {0, CLAIM_HELD,    1,  0, 1, 1},
        {0, CLAIM_HELD,    1,  0, 2, 1},
};

static void test_misuse(gconstpointer data)
{
        if (g_test_subprocess()) {
                int64_t owned[] = {10};
                claim_id id;
                signal(SIGABRT, SIG_DFL);
                (void)ledger_claim(ledger_new(owned, 1, 0), data, &id);
                return;
        }
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_failed();
        g_test_trap_assert_stderr("*claim_is_valid*");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/ledger/touch", test_touch);
        g_test_add_func("/core/ledger/shrink", test_shrink);
        g_test_add_func("/core/ledger/state", test_state);
        g_test_add_func("/core/ledger/order", test_order);
        g_test_add_func("/core/ledger/full", test_full);
        for (size_t i = 0; i < ARRAY_N(shapes); i++) {
                g_autofree char *path = g_strdup_printf("/core/ledger/random/%s", shapes[i].name);
                g_test_add_data_func(path, &shapes[i], test_random);
        }
        for (size_t i = 0; i < ARRAY_N(misuses); i++) {
                g_autofree char *path = g_strdup_printf("/core/ledger/misuse/%zu", i);
                g_test_add_data_func(path, &misuses[i], test_misuse);
        }
        return g_test_run();
}

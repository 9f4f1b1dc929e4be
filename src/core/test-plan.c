/* SPDX-License-Identifier: Apache-2.0 */
#include "core/plan.h"

#include <errno.h>
#include <glib.h>
#include <math.h>
#include <string.h>
#include "core/test-means.h"

static struct plan planned(const struct profile *p, const struct means *m, int64_t total_ms,
                           int64_t downtime_ms)
{
        struct level l = {total_ms, downtime_ms, false};
        struct plan plan;
        g_assert_cmpint(level_check(&l, NULL), ==, 0);
        plan_make(p, &l, m, &plan);
        return plan;
}

static void refused(int64_t total_ms, int64_t downtime_ms, bool is_best_effort, const char *says)
{
        struct level l = {total_ms, downtime_ms, is_best_effort};
        struct err err = {0};
        g_assert_cmpint(level_check(&l, &err), ==, -EINVAL);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        if (!strstr(err.sentence, says))
                g_error("\"%s\" does not say \"%s\"", err.sentence, says);
}

static void test_level(void)
{
        refused(0, 0, false, "best effort");
        refused(-1, 0, false, "total time is from");
        refused(-1, 0, true, "total time is from");
        refused(0, -1, false, "downtime is from");
        refused(INT64_MAX, 0, false, "total time is from");
        refused(0, INT64_MAX, false, "downtime is from");
        refused(100, 101, false, "cannot be longer");
        g_assert_cmpint(level_check(&(struct level){0, 0, true}, NULL), ==, 0);
        g_assert_cmpint(level_check(&(struct level){LEVEL_MAX_MS, LEVEL_MAX_MS, false}, NULL), ==, 0);
        g_assert_cmpint(level_check(&(struct level){0, 1, false}, NULL), ==, 0);
}

static void check_interval(const struct interval *i)
{
        g_assert_cmpint(i->p10, >=, 0);
        g_assert_cmpint(i->p10, <=, i->p50);
        g_assert_cmpint(i->p50, <=, i->p90);
}

static void check_prediction(const struct prediction *p)
{
        g_assert_true(p->ends);
        check_interval(&p->total_ms);
        check_interval(&p->downtime_ms);
        check_interval(&p->sent_bytes);
        check_interval(&p->rounds);
        g_assert_cmpint(p->downtime_ms.p90, <=, p->total_ms.p90);
}

static void check_kept(const struct plan *plan, const struct level *l, const struct profile *p,
                       const struct means *m)
{
        g_assert_cmpint(plan->outcome, ==, PLAN_KEPT);
        check_prediction(&plan->predicted);
        if (l->total_ms > 0)
                g_assert_cmpint(plan->predicted.total_ms.p90, <=, l->total_ms);
        if (l->downtime_ms > 0)
                g_assert_cmpint(plan->predicted.downtime_ms.p90, <=, l->downtime_ms);
        g_assert_cmpint(plan->limit, ==, 0);
        g_assert_cmpuint(plan->n_offers, ==, 0);
        g_assert_cmpint(plan->reserve_ms, >=, plan->predicted.total_ms.p90);
        g_assert_cmpint(plan->downtime_limit_ms, >, 0);
        g_assert_cmpint(plan->vector.bandwidth_bps, >, 0);
        g_assert_cmpint(plan->vector.bandwidth_bps, <=, m->source.bandwidth_bps);
        g_assert_cmpint(plan->vector.bandwidth_bps, <=, m->destination.bandwidth_bps);
        g_assert_cmpint(plan->vector.source_cpu_milli, <=, m->source.cpu_milli);
        g_assert_cmpint(plan->vector.destination_cpu_milli, <=, m->destination.cpu_milli);
        g_assert_cmpint(plan->vector.share_milli, >=, MIN(m->share_min_milli, 1000));
        g_assert_cmpint(plan->vector.share_milli, <=, 1000);
        g_assert_cmpint(plan->predicted.sent_bytes.p90, >=, p->populated_bytes);
}

static void test_kept(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        struct level l = {20000, 300, false};
        struct plan plan = planned(&p, &m, l.total_ms, l.downtime_ms);
        check_kept(&plan, &l, &p, &m);
        /* Everything once, and what is dirtied on top: more than the first, less than twice that. */
        double least_bps = (double)p.populated_bytes * 8 / 20 / m.goodput;
        g_assert_cmpfloat((double)plan.vector.bandwidth_bps, >, least_bps);
        g_assert_cmpfloat((double)plan.vector.bandwidth_bps, <, 2 * least_bps);
        g_assert_cmpint(plan.vector.share_milli, ==, 1000);
        double bytes_per_s = (double)plan.vector.bandwidth_bps * m.goodput / 8;
        g_assert_cmpfloat(fabs((double)plan.vector.source_cpu_milli - fmax(bytes_per_s * 2e-9 * 1000, 250)),
                          <=, 1);
        g_assert_cmpfloat(fabs((double)plan.vector.destination_cpu_milli - bytes_per_s * 4e-9 * 1000), <=, 1);

        /* What is reserved is what is needed: with 4 % less the level is not kept. */
        struct means less = m;
        less.source.bandwidth_bps = plan.vector.bandwidth_bps * 96 / 100;
        less.source.cpu_milli = plan.vector.source_cpu_milli;
        struct plan countered = planned(&p, &less, l.total_ms, l.downtime_ms);
        g_assert_cmpint(countered.outcome, ==, PLAN_COUNTERED);
        g_assert_cmpint(countered.limit, ==, LIMIT_SOURCE_BANDWIDTH);
        /* Unless the thread has more of a CPU, and is through with the zero pages sooner. */
        less.source.cpu_milli = m.source.cpu_milli;
        struct plan sooner = planned(&p, &less, l.total_ms, l.downtime_ms);
        check_kept(&sooner, &l, &p, &less);
        g_assert_cmpint(sooner.vector.source_cpu_milli, >, plan.vector.source_cpu_milli);
        g_assert_cmpint(sooner.vector.bandwidth_bps, ==, less.source.bandwidth_bps);
        /* Where there are none it is of no use. */
        p.populated_bytes += p.zero_pages * PRECOPY_PAGE;
        p.zero_pages = 0;
        sooner = planned(&p, &m, l.total_ms, l.downtime_ms);
        g_assert_cmpfloat((double)sooner.vector.source_cpu_milli, <=,
                          (double)sooner.vector.bandwidth_bps * m.goodput / 8 * 2e-9 * 1000 + 1);
}

/* The lowest downtime that will do is tried first, not the one that is asked for. */
static void test_lowest_downtime(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        p.dirty = (struct curve){.source = FIGURE_SAMPLED};
        struct plan plan = planned(&p, &m, 0, 1000);
        g_assert_cmpint(plan.downtime_limit_ms, ==, 1);
        p.dirty.hot_bytes_per_s = p.dirty.hot_bytes = 16.0 * MIB; /* fits into the downtime, but need not */
        m.source.bandwidth_bps = 200 * MBIT;
        plan = planned(&p, &m, 26000, 3000);
        g_assert_cmpint(plan.predicted.downtime_ms.p90, <, 1500);
}

/* Expected is what comes with all that is free, promised what comes with what is reserved. */
static void test_expected(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        p.dirty.hot_bytes = p.dirty.hot_bytes_per_s = (double)MIB;
        struct plan loose = planned(&p, &m, 120000, 3000), none;
        const struct prediction *e = &loose.predicted;
        g_assert_cmpint(loose.vector.bandwidth_bps, <, 100 * MBIT);
        g_assert_cmpint(e->bandwidth_bps, ==, m.source.bandwidth_bps);
        g_assert_cmpint(e->total_ms.p90, >, 5 * e->total_ms.p50);
        /* Everything once, the zero pages, and what was dirtied meanwhile once more, at the most. */
        double once_ms = (double)p.populated_bytes / (1000e6 / 8 * m.goodput) * 1000 +
                         (double)p.zero_pages * p.zero_page.mean_s * 1000;
        g_assert_cmpfloat((double)e->total_ms.p50, >, once_ms);
        g_assert_cmpfloat((double)e->total_ms.p50, <, once_ms * 1.3);
        /* The promise knows nothing of what is free beside it. */
        struct means less = m;
        less.source.bandwidth_bps = loose.vector.bandwidth_bps;
        plan_predict(&p, &less, &loose.vector, loose.downtime_limit_ms, &none.predicted);
        g_assert_cmpint(none.predicted.total_ms.p90, ==, e->total_ms.p90);
        g_assert_cmpint(none.predicted.downtime_ms.p90, ==, e->downtime_ms.p90);
        g_assert_cmpint(none.predicted.bandwidth_bps, ==, loose.vector.bandwidth_bps);
        g_assert_cmpint(none.predicted.total_ms.p50, >, 5 * e->total_ms.p50);
        /* One thread sends, and has shown how fast it is. */
        p.stream = cost(40e-9, 50e-9);
        struct plan slow = planned(&p, &m, 120000, 3000), fast = planned(&p, &m, 3000, 3000);
        g_assert_cmpint(slow.predicted.bandwidth_bps, >=, slow.vector.bandwidth_bps);
        g_assert_cmpint(slow.predicted.bandwidth_bps, <, 250 * MBIT);
        g_assert_cmpint(fast.outcome, ==, PLAN_COUNTERED);
        g_assert_cmpint(fast.limit, ==, LIMIT_STREAM);
        for (size_t i = 0; i < fast.n_offers; i++)
                g_assert_cmpfloat((double)fast.offers[i].vector.bandwidth_bps / 8 * m.goodput *
                                          (1 - m.goodput_error),
                                  <=, 1 / 50e-9);
}

/* A guest that writes to the same memory again and again: it is not expected to dirty more than it has,
 * though its curve goes on rising past its last point. */
static void test_expected_rest(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        p.zero_pages = 1 << 20;
        p.dirty = (struct curve){
                .source = FIGURE_SAMPLED,
                .error = 0.1,
                .n_points = 2,
                .points = {{1, 100.0 * MIB}, {5, 500.0 * MIB}}
        };
        m.source.bandwidth_bps = 100 * MBIT;
        struct vector v = {.bandwidth_bps = 100 * MBIT, .share_milli = 1000};
        struct prediction e;
        plan_predict(&p, &m, &v, 1000000, &e);
        g_assert_true(e.ends);
        double all_ms = (double)p.populated_bytes / (100e6 / 8 * m.goodput) * 1000;
        g_assert_cmpfloat((double)e.downtime_ms.p50, <, all_ms * 1.02);
        g_assert_cmpfloat((double)e.downtime_ms.p50, >, all_ms * 0.9);
        g_assert_cmpfloat((double)e.downtime_ms.p90, >, all_ms * 2);
}

/* What the guard keeps back to have the guest run again is part of what is promised: else it would break off
 * what goes as was planned. */
static void test_end(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        struct vector v = {.bandwidth_bps = 1000000000, .share_milli = 1000};
        p.commit = (struct cost){0.001, 0.005, FIGURE_ASSUMED};
        p.run = (struct cost){0.001, 0.004, FIGURE_ASSUMED};
        m.resume = (struct cost){0};
        int64_t bound_ms = plan_downtime_bound_ms(&p, &m, &v, 1);
        g_assert_cmpfloat_with_epsilon(plan_end_s(&p, &m), 0.009, 1e-9);
        m.resume.p99_s = 0.109;
        g_assert_cmpfloat_with_epsilon(plan_end_s(&p, &m), 0.109, 1e-9);
        g_assert_cmpint(plan_downtime_bound_ms(&p, &m, &v, 1) - bound_ms, ==, 100);
}

static void test_limits(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        m.source.bandwidth_bps = 100 * MBIT;
        g_assert_cmpint(planned(&p, &m, 20000, 300).limit, ==, LIMIT_SOURCE_BANDWIDTH);
        m = some_means();
        m.destination.bandwidth_bps = 100 * MBIT;
        g_assert_cmpint(planned(&p, &m, 20000, 300).limit, ==, LIMIT_DESTINATION_BANDWIDTH);
        m = some_means();
        m.source.cpu_milli = 20;
        g_assert_cmpint(planned(&p, &m, 20000, 300).limit, ==, LIMIT_SOURCE_CPU);
        m = some_means();
        m.destination.cpu_milli = 40;
        g_assert_cmpint(planned(&p, &m, 20000, 300).limit, ==, LIMIT_DESTINATION_CPU);

        m = some_means();
        struct plan plan = planned(&p, &m, 0, 10); /* the vCPUs alone take longer */
        g_assert_cmpint(plan.limit, ==, LIMIT_FIXED_COSTS);
        g_assert_cmpint(plan.outcome, ==, PLAN_COUNTERED);
        plan = planned(&p, &m, 1000, 0); /* the zero pages alone do */
        g_assert_cmpint(plan.limit, ==, LIMIT_FIXED_COSTS);
        /* More CPUs than one do not make the one thread faster. */
        m.source = m.destination = (struct means_side){100000 * MBIT, 8000};
        plan = planned(&p, &m, 60000, 300);
        g_assert_cmpint(plan.outcome, ==, PLAN_KEPT);
        plan = planned(&p, &m, 2000, 40);
        g_assert_cmpint(plan.limit, ==, LIMIT_DESTINATION_CPU);
}

static void test_nothing(void)
{
        struct profile p = some_profile();
        const int64_t none[] = {0, -1, INT64_MIN};
        for (size_t i = 0; i < G_N_ELEMENTS(none); i++)
                for (int what = 0; what < 4; what++) {
                        struct means m = some_means();
                        int64_t *amounts[] = {&m.source.bandwidth_bps, &m.source.cpu_milli,
                                              &m.destination.bandwidth_bps, &m.destination.cpu_milli};
                        *amounts[what] = none[i];
                        struct plan plan = planned(&p, &m, 20000, 300);
                        g_assert_cmpint(plan.outcome, ==, PLAN_NEVER);
                        g_assert_cmpuint(plan.n_offers, ==, 0);
                        g_assert_true(plan.limit != 0);
                        g_assert_cmpint(plan.vector.bandwidth_bps, ==, 0);
                }
        struct means m = some_means(); /* a peer that says it has more than there can be */
        m.destination = (struct means_side){INT64_MAX, INT64_MAX};
        struct level l = {20000, 300, false};
        struct plan plan = planned(&p, &m, l.total_ms, l.downtime_ms);
        check_kept(&plan, &l, &p, &m);
        /* One bit a second, and a VM that has next to nothing. */
        m.source.bandwidth_bps = 1;
        plan = planned(&p, &m, 20000, 300);
        g_assert_cmpint(plan.outcome, !=, PLAN_KEPT);
}

/* Dirties faster than it can be sent: with policy's leave it is throttled, else it is said what can be had.
 */
static void test_throttle(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        p.dirty.hot_bytes = 256.0 * MIB;
        p.dirty.hot_bytes_per_s = 200.0 * MIB;
        struct plan plan = planned(&p, &m, 20000, 300);
        g_assert_cmpint(plan.outcome, ==, PLAN_COUNTERED);
        m.share_min_milli = 200;
        struct level l = {20000, 300, false};
        plan = planned(&p, &m, l.total_ms, l.downtime_ms);
        check_kept(&plan, &l, &p, &m);
        g_assert_cmpint(plan.vector.share_milli, <, 1000);
        g_assert_cmpint(plan.vector.bandwidth_bps, ==,
                        m.source.bandwidth_bps); /* what hurts nobody goes first */
        plan = planned(&p, &m, 60000, 3000);
        g_assert_cmpint(plan.outcome, ==, PLAN_KEPT);
        g_assert_cmpint(plan.vector.share_milli, ==, 1000);
}

static void test_best_effort(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        struct plan plan;
        plan_make(&p, &(struct level){0, 0, true}, &m, &plan);
        g_assert_cmpint(plan.outcome, ==, PLAN_BEST_EFFORT);
        g_assert_cmpint(plan.vector.bandwidth_bps, ==, 0); /* it reserves nothing */
        g_assert_cmpint(plan.vector.share_milli, ==, 1000);
        check_prediction(&plan.predicted);

        plan_make(&p, &(struct level){20000, 300, true}, &m, &plan);
        g_assert_cmpint(plan.outcome, ==, PLAN_KEPT); /* who can keep it keeps it */

        plan_make(&p, &(struct level){5000, 300, true}, &m, &plan);
        g_assert_cmpint(plan.outcome, ==, PLAN_BEST_EFFORT);
        g_assert_cmpint(plan.vector.bandwidth_bps, ==, m.source.bandwidth_bps);
        g_assert_cmpuint(plan.n_offers, >, 0);
        check_prediction(&plan.predicted);

        p.dirty.hot_bytes_per_s = 1e12; /* it will not come to an end by itself, and that is said */
        p.dirty.hot_bytes = 1e12;
        p.populated_bytes = INT64_C(1) << 40;
        plan_make(&p, &(struct level){0, 0, true}, &m, &plan);
        g_assert_cmpint(plan.outcome, ==, PLAN_BEST_EFFORT);
        g_assert_false(plan.predicted.ends);
        plan_make(&p, &(struct level){1000, 100, false}, &m, &plan);
        g_assert_cmpint(plan.outcome, ==, PLAN_NEVER);
}

/* ---- properties ---- */

static double dice(GRand *rand, double low, double high)
{
        return low * pow(high / low, g_rand_double(rand));
}

static struct profile random_profile(GRand *rand)
{
        struct profile p = some_profile();
        p.populated_bytes = (int64_t)dice(rand, 4.0 * MIB, 8192.0 * MIB);
        p.zero_pages = g_rand_boolean(rand) ? 0 : (int64_t)dice(rand, 100, 1e6);
        p.zero_page.mean_s = dice(rand, 1e-7, 1e-5);
        p.zero_page.p99_s = p.zero_page.mean_s * 1.1;
        p.dirty = (struct curve){.source = FIGURE_SAMPLED, .error = g_rand_double_range(rand, 0, 0.3)};
        if (g_rand_boolean(rand)) {
                p.dirty.hot_bytes = dice(rand, (double)MIB, (double)p.populated_bytes);
                p.dirty.hot_bytes_per_s = dice(rand, 0.1 * MIB, 300.0 * MIB);
                p.dirty.cold_bytes_per_s = dice(rand, 0.01 * MIB, 30.0 * MIB);
                return p;
        }
        p.dirty.n_points = (size_t)g_rand_int_range(rand, 1, CURVE_POINTS_MAX + 1);
        for (size_t i = 0; i < p.dirty.n_points; i++)
                p.dirty.points[i] = (struct curve_point){
                        (i ? p.dirty.points[i - 1].s : 0) + dice(rand, 0.02, 2),
                        (i ? p.dirty.points[i - 1].bytes : 0) + dice(rand, 0.001, 80) * (double)MIB};
        return p;
}

static struct means random_means(GRand *rand)
{
        struct means m = some_means();
        m.source.bandwidth_bps = (int64_t)dice(rand, 50e6, 10e9);
        m.destination.bandwidth_bps = (int64_t)dice(rand, 50e6, 10e9);
        m.source.cpu_milli = g_rand_int_range(rand, 50, 1500);
        m.destination.cpu_milli = g_rand_int_range(rand, 50, 1500);
        m.share_min_milli = g_rand_boolean(rand) ? 1000 : g_rand_int_range(rand, 0, 1001);
        return m;
}

static struct level random_level(GRand *rand)
{
        struct level l = {0};
        int which = g_rand_int_range(rand, 0, 4);
        if (which != 0)
                l.total_ms = (int64_t)dice(rand, 1000, 300000);
        if (which != 1)
                l.downtime_ms = (int64_t)dice(rand, 15, 3000);
        if (l.total_ms > 0 && l.downtime_ms > l.total_ms)
                l.downtime_ms = l.total_ms;
        return l;
}

static int64_t tighter_bound(GRand *rand, int64_t bound)
{
        switch (g_rand_int_range(rand, 0, 4)) {
        case 0:
                return bound;
        case 1:
                return bound > 1 ? bound - 1 : bound;
        case 2:
                return bound == 0 ? (int64_t)dice(rand, 15, 100000) : bound;
        default:
                return bound == 0 ? 0 : (int64_t)ceil((double)bound * g_rand_double_range(rand, 0.05, 1));
        }
}

/* 4.2: with a tighter level no component of the vector gets smaller, and what is kept when tight is kept when
 * loose. */
static void test_monotonic(void)
{
        guint32 seed = (guint32)g_get_monotonic_time();
        g_test_message("seed %u", seed);
        GRand *rand = g_rand_new_with_seed(seed);
        int kept = 0, both = 0, throttled = 0;
        for (int i = 0; i < 120; i++) {
                struct profile p = random_profile(rand);
                struct means m = random_means(rand);
                struct level loose = random_level(rand);
                struct plan plan;
                plan_make(&p, &loose, &m, &plan);
                for (int step = 0; step < 6; step++) {
                        struct level tight = loose;
                        tight.total_ms = tighter_bound(rand, loose.total_ms);
                        tight.downtime_ms = tighter_bound(rand, loose.downtime_ms);
                        if (level_check(&tight, NULL) < 0)
                                continue;
                        struct plan tighter;
                        plan_make(&p, &tight, &m, &tighter);
                        if (plan.outcome != PLAN_KEPT) {
                                g_assert_cmpint(tighter.outcome, !=, PLAN_KEPT);
                                continue;
                        }
                        check_kept(&plan, &loose, &p, &m);
                        kept++;
                        throttled += plan.vector.share_milli < 1000;
                        if (tighter.outcome == PLAN_KEPT) {
                                g_assert_true(vector_covers(&tighter.vector, &plan.vector));
                                both++;
                        }
                        tight.is_best_effort = true;
                        plan_make(&p, &tight, &m, &tighter);
                        g_assert_true(vector_covers(&tighter.vector, &plan.vector));
                }
        }
        g_test_message("%d kept, %d of them tighter too, %d throttled", kept, both, throttled);
        g_assert_cmpint(both, >, 20); /* else this tested nothing */
        g_rand_free(rand);
}

/* 4.13: what is offered is granted when asked for unchanged, and by 4.14 no offer is stricter than the level
 * in what was promised. */
static void test_honest(void)
{
        guint32 seed = (guint32)g_get_monotonic_time();
        g_test_message("seed %u", seed);
        GRand *rand = g_rand_new_with_seed(seed);
        int kinds[PLAN_OFFERS_MAX + 1] = {0};
        for (int i = 0; i < 150; i++) {
                struct profile p = random_profile(rand);
                struct means m = random_means(rand);
                struct level l = random_level(rand);
                struct plan plan, again;
                plan_make(&p, &l, &m, &plan);
                g_assert_true((plan.outcome == PLAN_KEPT) == (plan.limit == 0));
                g_assert_true((plan.outcome == PLAN_COUNTERED) == (plan.n_offers > 0));
                for (size_t k = 0; k < plan.n_offers; k++) {
                        const struct plan_offer *o = &plan.offers[k];
                        plan_make(&p, &o->level, &m, &again);
                        check_kept(&again, &o->level, &p, &m);
                        kinds[o->kind]++;
                        if (o->kind == OFFER_LEAST_DOWNTIME)
                                g_assert_cmpint(o->level.total_ms, ==, l.total_ms);
                        if (o->kind == OFFER_LEAST_TOTAL)
                                g_assert_cmpint(o->level.downtime_ms, ==, l.downtime_ms);
                        g_assert_true((l.total_ms > 0 && o->level.total_ms > l.total_ms) ||
                                      (l.downtime_ms > 0 && o->level.downtime_ms > l.downtime_ms));
                        check_prediction(&o->predicted);
                }
        }
        for (int k = 1; k <= PLAN_OFFERS_MAX; k++)
                g_assert_cmpint(kinds[k], >, 0);
        g_rand_free(rand);
}

/* What is accepted is what is carried out: the offer's vector and limit, not the empty ones of a plan that
 * could not keep what was asked for. */
static void test_accepted(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        struct plan plan;
        plan_make(&p, &(struct level){1000, 100, false}, &m, &plan);
        g_assert_cmpint(plan.outcome, ==, PLAN_COUNTERED);
        g_assert_cmpint(plan.vector.bandwidth_bps, ==, 0);
        for (size_t i = 0; i < plan.n_offers; i++) {
                struct plan of = plan_of_offer(&plan, i);
                struct plan asked;
                g_assert_cmpint(of.outcome, ==, PLAN_KEPT);
                g_assert_cmpuint(of.n_offers, ==, 0);
                g_assert_cmpint(of.limit, ==, 0);
                g_assert_cmpmem(&of.vector, sizeof(of.vector), &plan.offers[i].vector, sizeof(of.vector));
                g_assert_cmpint(of.vector.bandwidth_bps, >, 0);
                g_assert_cmpint(of.downtime_limit_ms, ==, plan.offers[i].downtime_limit_ms);
                g_assert_cmpint(of.downtime_limit_ms, >, 0);
                g_assert_true(of.predicted.ends);
                g_assert_cmpint(of.reserve_ms, >, of.predicted.total_ms.p90);
                plan_make(&p, &plan.offers[i].level, &m, &asked);
                g_assert_cmpint(asked.outcome, ==, PLAN_KEPT);
                g_assert_true(vector_covers(&of.vector, &asked.vector));
        }
}

static void test_earliest(void)
{
        struct profile p = some_profile();
        struct means m = some_means();
        struct level l = {20000, 300, false};
        int64_t at_ms = -7;
        const struct side_then source[] = {
                {500,  {150 * MBIT, 2000}},
                {2000, {450 * MBIT, 1000}},
                {9000, {950 * MBIT, 1000}},
        };
        const struct side_then destination[] = {
                {3000, {450 * MBIT, 1000}},
                {5000, {10 * MBIT, 1000} }, /* somebody's later time begins */
                {6000, {950 * MBIT, 1000}},
        };
        struct plan_then both[2 * PLAN_THENS_MAX];
        m.source.bandwidth_bps = m.destination.bandwidth_bps = 150 * MBIT;
        size_t n = plan_merge(&m, source, G_N_ELEMENTS(source), destination, G_N_ELEMENTS(destination), both);
        g_assert_cmpuint(n, ==, 6);
        for (size_t i = 1; i < n; i++)
                g_assert_cmpint(both[i].at_ms, >, both[i - 1].at_ms);
        g_assert_cmpint(both[0].destination.bandwidth_bps, ==, 150 * MBIT); /* nothing is said of it yet */
        g_assert_cmpint(both[2].source.bandwidth_bps, ==, 450 * MBIT);
        g_assert_cmpint(both[5].destination.bandwidth_bps, ==, 950 * MBIT);

        struct means plenty = some_means();
        g_assert_true(plan_earliest(&p, &l, &plenty, both, n, 20000, 1000, &at_ms));
        g_assert_cmpint(at_ms, ==, 1000);
        g_assert_true(plan_earliest(&p, &l, &m, both, n, 1, 1000, &at_ms));
        g_assert_cmpint(at_ms, ==, 3000); /* both sides are needed */
        g_assert_true(plan_earliest(&p, &l, &m, both, n, 20000, 1000, &at_ms));
        g_assert_cmpint(at_ms, ==, 6000); /* and for so long */
        g_assert_true(plan_earliest(&p, &l, &m, both, n, 20000, 7000, &at_ms));
        g_assert_cmpint(at_ms, ==, 7000); /* nothing is possible in the past */
        p.populated_bytes *= 2;
        g_assert_true(plan_earliest(&p, &l, &m, both, n, 20000, 0, &at_ms));
        g_assert_cmpint(at_ms, ==, 9000);
        l.downtime_ms = 5;
        at_ms = -7;
        g_assert_false(plan_earliest(&p, &l, &m, both, n, 20000, 0, &at_ms));
        g_assert_cmpint(at_ms, ==, -7);
        g_assert_false(plan_earliest(&p, &l, &m, NULL, 0, 20000, 0, &at_ms));
        g_assert_cmpuint(plan_merge(&m, NULL, 0, NULL, 0, both), ==, 0);
}

/* Instants that are passed over were in vain: each by itself says the same. */
static void test_earliest_of_many(void)
{
        for (uint32_t seed = 1; seed <= 60; seed++) {
                GRand *r = g_rand_new_with_seed(seed);
                struct profile p = some_profile();
                struct means m = some_means();
                struct level l = {20000, 100 + 100 * g_rand_int_range(r, 0, 4), false};
                struct plan_then all[2 * PLAN_THENS_MAX];
                int64_t first_ms = -7, at_ms = -7;
                m.source.bandwidth_bps = m.destination.bandwidth_bps = 20 * MBIT;
                for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
                        all[i].at_ms = 1000 * (int64_t)(i + 1);
                        all[i].source = (struct means_side){g_rand_int_range(r, 0, 500) * MBIT,
                                                            g_rand_int_range(r, 0, 400)};
                        all[i].destination = (struct means_side){g_rand_int_range(r, 0, 500) * MBIT,
                                                                 g_rand_int_range(r, 0, 400)};
                }
                bool is_some = false;
                for (size_t i = 0; i < G_N_ELEMENTS(all) && !is_some; i++)
                        is_some = plan_earliest(&p, &l, &m, &all[i], 1, 1, 0, &first_ms);
                g_assert_true(plan_earliest(&p, &l, &m, all, G_N_ELEMENTS(all), 1, 0, &at_ms) == is_some);
                g_test_message("seed %u: %lld", seed, (long long)at_ms);
                g_assert_cmpint(at_ms, ==, first_ms);
                g_rand_free(r);
        }
}

static void test_names(void)
{
        for (int o = 1; o < PLAN_OUTCOME_N; o++)
                g_assert_cmpstr(plan_outcome_name((enum plan_outcome)o), !=, "?");
        for (int l = 1; l < PLAN_LIMIT_N; l++)
                g_assert_cmpstr(plan_limit_name((enum plan_limit)l), !=, "?");
        g_assert_cmpstr(plan_outcome_name(0), ==, "?");
        g_assert_cmpstr(plan_limit_name(PLAN_LIMIT_N), ==, "?");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/plan/level", test_level);
        g_test_add_func("/core/plan/kept", test_kept);
        g_test_add_func("/core/plan/lowest-downtime", test_lowest_downtime);
        g_test_add_func("/core/plan/expected", test_expected);
        g_test_add_func("/core/plan/expected-rest", test_expected_rest);
        g_test_add_func("/core/plan/end", test_end);
        g_test_add_func("/core/plan/limits", test_limits);
        g_test_add_func("/core/plan/nothing", test_nothing);
        g_test_add_func("/core/plan/throttle", test_throttle);
        g_test_add_func("/core/plan/best-effort", test_best_effort);
        g_test_add_func("/core/plan/monotonic", test_monotonic);
        g_test_add_func("/core/plan/honest", test_honest);
        g_test_add_func("/core/plan/accepted", test_accepted);
        g_test_add_func("/core/plan/earliest", test_earliest);
        g_test_add_func("/core/plan/earliest-of-many", test_earliest_of_many);
        g_test_add_func("/core/plan/names", test_names);
        return g_test_run();
}

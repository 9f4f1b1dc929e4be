/* SPDX-License-Identifier: Apache-2.0 */
/* What it does with demand of one shape each; tests/projection has real series. */
#include "core/projection.h"

#include <glib.h>
#include <math.h>

enum { STEP_MS = 60000 };

static struct projection p;
static int64_t now_ms;

static const struct projection_said *take(double value)
{
        now_ms += STEP_MS;
        const struct projection_said *said = projection_take(&p, value, now_ms);
        g_assert_cmpfloat(said->low, <=, said->need);
        g_assert_cmpfloat(said->need, <=, said->high);
        return said;
}

static void begin(double full)
{
        now_ms = 0;
        projection_init(&p, full, STEP_MS);
}

static void test_nothing(void)
{
        begin(100);
        g_assert_cmpint(p.said.why, ==, PROJECTION_NOTHING);
        g_assert_cmpfloat(p.said.need, ==, 0);
        for (int why = PROJECTION_NOTHING; why < PROJECTION_WHY_N; why++)
                g_assert_cmpstr(projection_why_text((enum projection_why)why), !=, "?");
        g_assert_cmpstr(projection_why_text(0), ==, "?");
}

/* What never changes is followed closely, and not left again. */
static void test_steady(void)
{
        begin(100);
        for (int i = 0; i < 200; i++)
                (void)take(20);
        g_assert_cmpfloat(p.said.need, >=, 20);
        g_assert_cmpfloat(p.said.need, <=, 30);
        for (int i = 0; i < 200; i++)
                g_assert_false(take(20)->is_changed);
        g_assert_cmpfloat(p.said.low, <=, p.said.need);
        g_assert_cmpfloat(p.said.recent, ==, 20);
        g_assert_cmpfloat(p.said.high, >=, 20);
}

/* The same with another scale and unit. */
static void test_unit(void)
{
        const double gib = 1073741824.0;
        begin(64 * gib);
        for (int i = 0; i < 200; i++)
                (void)take(12.8 * gib);
        double large = p.said.need;
        begin(100);
        for (int i = 0; i < 200; i++)
                (void)take(20);
        g_assert_cmpfloat(fabs(large / (0.64 * gib) - p.said.need), <, 0.001);
}

static void test_raised_at_once_lowered_later(void)
{
        begin(100);
        for (int i = 0; i < 50; i++)
                (void)take(5);
        double low = p.said.need;
        const struct projection_said *said = take(60);
        g_assert_true(said->is_changed);
        g_assert_cmpfloat(said->need, >, low);
        for (int i = 1; i < PROJECTION_LEAD; i++)
                (void)take(60);
        g_assert_cmpfloat(said->need, >=, 60);
        g_assert_cmpint(said->why, ==, PROJECTION_STEADY);
        for (int i = 0; i < 20; i++)
                (void)take(60);
        double high = p.said.need;
        g_assert_cmpfloat(high, >=, 60);
        /* Gone: kept for a while, then less and less, never more again. */
        int kept = 0;
        bool was_said = false;
        for (int i = 0; i < 1000; i++) {
                double before = p.said.need;
                said = take(5);
                g_assert_cmpfloat(said->need, <=, before);
                kept += said->need == high;
                was_said |= said->why == PROJECTION_KEPT;
        }
        g_assert_cmpint(kept, >=, PROJECTION_PATIENCE);
        g_assert_true(was_said);
        g_assert_cmpfloat(p.said.need, <, high / 2);
}

/* Up and down with every sample: what is held does not follow. */
static void test_no_swing(void)
{
        int changes = 0;
        begin(100);
        for (int i = 0; i < 300; i++) {
                (void)take(i % 2 ? 10 : 40);
                changes += i >= 50 && p.said.is_changed;
        }
        g_assert_cmpint(changes, <=, 3);
        g_assert_cmpfloat(p.said.need, >=, 40);
}

/* A leak: beyond what was ever seen, at least where it will be when what is asked for is there. */
static void test_trend(void)
{
        bool was_trend = false;
        begin(1000);
        for (int i = 0; i < 300; i++) {
                const struct projection_said *said = take(100 + 2 * i);
                if (i < 2 * PROJECTION_LAST)
                        continue;
                g_assert_cmpfloat(said->need, >=, 100 + 2 * (i + PROJECTION_LEAD) - 0.001);
                was_trend |= said->why == PROJECTION_TREND;
        }
        g_assert_true(was_trend);
        /* One that falls asks for nothing. */
        begin(1000);
        for (int i = 0; i < 300; i++)
                g_assert_cmpint(take(700 - 2 * i)->why, !=, PROJECTION_TREND);
}

/* Every day at eight much more is used: on the third day it is known before. */
static void test_season(void)
{
        begin(1000);
        for (int64_t day = 0; day < 4; day++)
                for (int64_t minute = 0; minute < 1440; minute++) {
                        bool is_busy = minute >= 480 && minute < 540;
                        const struct projection_said *said = take(is_busy ? 500 : 10);
                        if (day >= 2 && minute == 478)
                                g_assert_cmpfloat(said->need, >=, 450);
                        if (minute == 300)
                                g_assert_cmpfloat(said->need, <, 200);
                }
}

/* Above its scale, and far above; none of it is lost. */
static void test_scale(void)
{
        begin(1);
        for (int i = 0; i < 100; i++)
                (void)take(1000);
        g_assert_cmpfloat(p.said.need, >=, 1000);
        g_assert_cmpfloat(p.said.need, <=, 2000);
        double sum = 0;
        for (int i = 0; i <= PROJECTION_LEVELS; i++)
                sum += p.weights[i];
        g_assert_cmpfloat(fabs(sum - p.total), <, 1e-6);
}

static void test_nonsense(void)
{
        const double values[] = {-1, NAN, -INFINITY, INFINITY, 1e300, 0};
        begin(0);
        for (size_t i = 0; i < G_N_ELEMENTS(values); i++) {
                const struct projection_said *said =
                        projection_take(&p, values[i], i % 2 ? INT64_MIN : INT64_MAX - 1);
                g_assert_true(isfinite(said->need));
                g_assert_cmpfloat(said->need, >=, 0);
        }
}

/* Whatever comes: bounds hold, and the same samples give the same answers. */
static void test_random(void)
{
        for (guint32 seed = 1; seed <= 20; seed++) {
                struct projection twin;
                GRand *r = g_rand_new_with_seed(seed);
                begin(100);
                projection_init(&twin, 100, STEP_MS);
                for (int i = 0; i < 500; i++) {
                        double before = p.said.need, value = g_rand_double_range(r, 0, i % 50 ? 20 : 150);
                        const struct projection_said *said = take(value);
                        g_assert_cmpfloat(said->need, >=, 0);
                        g_assert_cmpfloat(said->need, <=, 2 * p.most);
                        g_assert_cmpfloat(said->low, <=, said->high);
                        g_assert_cmpint(said->is_changed, ==, said->need != before);
                        g_assert_cmpfloat(projection_take(&twin, value, now_ms)->need, ==, said->need);
                }
                g_rand_free(r);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/projection/nothing", test_nothing);
        g_test_add_func("/core/projection/steady", test_steady);
        g_test_add_func("/core/projection/unit", test_unit);
        g_test_add_func("/core/projection/raised-at-once-lowered-later", test_raised_at_once_lowered_later);
        g_test_add_func("/core/projection/no-swing", test_no_swing);
        g_test_add_func("/core/projection/trend", test_trend);
        g_test_add_func("/core/projection/season", test_season);
        g_test_add_func("/core/projection/scale", test_scale);
        g_test_add_func("/core/projection/nonsense", test_nonsense);
        g_test_add_func("/core/projection/random", test_random);
        return g_test_run();
}

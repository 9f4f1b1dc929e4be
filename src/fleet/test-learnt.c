/* SPDX-License-Identifier: Apache-2.0 */
#include "fleet/learnt.h"

#include <glib.h>
#include <math.h>
#include <stdio.h>

static struct learn table, again;

static void add(const char *peer, const char *machine, double of)
{
        static const double some[LEARN_COST_N] = {
                [LEARN_SETUP] = 0.03,        [LEARN_STOP] = 0.0013,          [LEARN_DEVICE] = 0.004,
                [LEARN_COMMIT] = 0.0005,     [LEARN_RUN] = 0.0007,           [LEARN_ZERO_PAGE] = 8.8e-6,
                [LEARN_SOURCE_CPU] = 1.7e-9, [LEARN_DESTINATION_CPU] = 3e-9, [LEARN_DEVICE_BYTES] = 206123,
        };
        struct learn_move m = {.is_told = {false}};
        char evicted[LEARN_NAME];
        for (int c = 1; c < LEARN_COST_N; c++)
                m.cost[c] = some[c] * of;
        if (of > 1) /* not told */
                m.cost[LEARN_RUN] = -1;
        g_assert_nonnull(learn_add(&table, peer, machine, &m, evicted));
}

static void check_near(double a, double b)
{
        g_assert_cmpfloat(fabs(a - b), <=, 1e-3 * fabs(a) + 1e-12);
}

static void test_roundtrip(void)
{
        struct err err = {0};
        learn_init(&table);
        learn_init(&again);
        for (int i = 0; i < 4; i++)
                add("b", "q35", 1 - 0.1 * i);
        add("b", "pc", 1.5);
        add("c", "q35", 0.5);
        g_assert_null(learnt_emit(&table, "nobody"));
        json_t *document = learnt_emit(&table, "b");
        g_assert_nonnull(document);
        if (learnt_parse(&again, "b", document, &err) < 0)
                g_error("%s", err.sentence);
        json_decref(document);
        g_assert_cmpint(again.n, ==, 2);
        for (size_t i = 0; i < 2; i++) {
                const struct learnt *was = learn_row(&table, "b", i), *is = learn_row(&again, "b", i);
                g_assert_cmpstr(was->machine, ==, is->machine);
                for (int c = 1; c < LEARN_COST_N; c++) {
                        check_near(was->figure[c].mean, is->figure[c].mean);
                        check_near(was->figure[c].deviation, is->figure[c].deviation);
                        check_near(was->figure[c].weight, is->figure[c].weight);
                }
        }
        g_assert_cmpfloat(learn_row(&again, "b", 1)->figure[LEARN_RUN].weight, ==, 0);
}

static void test_refused(void)
{
        static const char *const bad[] = {"{}", "[]",
                                          "{\"machines\": [{\"machine\": \"q35\", \"costs\": []}]}",
                                          "{\"machines\": [{\"machine\": \"q35\", \"costs\": [{\"cost\": "
                                          "\"love\", \"mean\": 1, \"deviation\": 1, "
                                          "\"weight_milli\": 1}]}]}",
                                          "{\"machines\": [{\"machine\": \"q35\", \"costs\": [{\"cost\": "
                                          "\"stop\", \"mean\": -1, \"deviation\": 1, "
                                          "\"weight_milli\": 1}]}]}"};
        learn_init(&again);
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                struct err err = {0};
                json_t *document = json_loads(bad[i], 0, NULL);
                g_assert_nonnull(document);
                g_assert_cmpint(learnt_parse(&again, "b", document, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                json_decref(document);
        }
        g_assert_cmpint(again.n, ==, 0);
        /* Well formed, and absurd: an hour until the vCPUs stand. */
        json_t *absurd = json_loads(
                "{\"machines\": [{\"machine\": \"q35\", \"costs\": [{\"cost\": \"stop\", \"mean\": "
                "3600000000000000, \"deviation\": 1, \"weight_milli\": 1000}]}]}",
                0, NULL);
        struct err err = {0};
        g_assert_cmpint(learnt_parse(&again, "b", absurd, &err), ==, 0);
        g_assert_cmpint(again.n, ==, 0);
        json_decref(absurd);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/learnt/roundtrip", test_roundtrip);
        g_test_add_func("/learnt/refused", test_refused);
        return g_test_run();
}

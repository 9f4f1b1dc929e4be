/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <string.h>
#include "host/cpulist.h"

static void test_round_trip(void)
{
        static const struct {
                const char *in, *out;
                size_t n;
        } rows[] = {
                {"",        "",       0   },
                {"0",       "0",      1   },
                {"0-3,8",   "0-3,8",  5   },
                {"8,0-3\n", "0-3,8",  5   },
                {"1,2,3",   "1-3",    3   },
                {"0-1,1-2", "0-2",    3   },
                {"4095",    "4095",   1   },
                {"0-4095",  "0-4095", 4096},
                {"5-5",     "5",      1   },
                {"63-64",   "63-64",  2   },
                {"\n",      "",       0   },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct cpulist l;
                struct err err = {0};
                char buf[CPULIST_TEXT];
                g_assert_cmpint(cpulist_parse(rows[i].in, &l, &err), ==, 0);
                g_assert_cmpstr(cpulist_print(&l, buf), ==, rows[i].out);
                g_assert_cmpuint(cpulist_count(&l), ==, rows[i].n);
        }
}

static void test_refused(void)
{
        static const char *const rows[] = {"-1",          "a",    "1-",   "3-1", "1,",    ",1",
                                           "1,,2",        "4096", "1 2",  "0x1", "1-2-3", "0-4096",
                                           "99999999999", "+1",   "1\n2", "0-"};
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct cpulist l;
                struct err err = {0};
                memset(&l, 0x5a, sizeof(l));
                struct cpulist before = l;
                g_test_message("%s", rows[i]);
                g_assert_cmpint(cpulist_parse(rows[i], &l, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_true(cpulist_is_equal(&l, &before));
        }
}

static void test_longest(void)
{
        struct cpulist l = {0}, again;
        char buf[CPULIST_TEXT];
        for (uint32_t i = 0; i < CPULIST_MAX; i += 2)
                g_assert_true(cpulist_add(&l, i));
        g_assert_false(cpulist_add(&l, CPULIST_MAX));
        g_assert_cmpint(cpulist_parse(cpulist_print(&l, buf), &again, NULL), ==, 0);
        g_assert_true(cpulist_is_equal(&l, &again));
}

static void test_sets(void)
{
        struct cpulist a, b;
        g_assert_cmpint(cpulist_parse("1-2", &a, NULL), ==, 0);
        g_assert_cmpint(cpulist_parse("0-2,70", &b, NULL), ==, 0);
        g_assert_true(cpulist_is_within(&a, &b));
        g_assert_false(cpulist_is_within(&b, &a));
        g_assert_cmpint(cpulist_next(&b, 3), ==, 70);
        g_assert_cmpint(cpulist_next(&b, 71), ==, -1);
        g_assert_true(cpulist_has_common(&a, &b));
        cpulist_remove(&b, &a);
        g_assert_false(cpulist_has_common(&a, &b));
        g_assert_true(cpulist_has(&b, 0) && cpulist_has(&b, 70) && cpulist_count(&b) == 2);
        cpulist_join(&b, &a);
        cpulist_join(&a, &b);
        g_assert_true(cpulist_is_equal(&a, &b));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cpulist/round-trip", test_round_trip);
        g_test_add_func("/cpulist/refused", test_refused);
        g_test_add_func("/cpulist/longest", test_longest);
        g_test_add_func("/cpulist/sets", test_sets);
        return g_test_run();
}

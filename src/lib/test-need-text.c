/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <string.h>
#include "base/str.h"
#include "base/units.h"
#include "lib/need-text.h"

static void parse_ok(const char *text, struct api_need *need)
{
        struct err err = {0};
        int r = need_text_parse(text, need, &err);

        if (r < 0)
                g_test_message("%s: %s", text, err.sentence);
        g_assert_cmpint(r, ==, 0);
}

/* The wire form of these, and that it is what the schema takes. */
static void test_values(void)
{
        struct api_need n, back;
        struct err err = {0};

        parse_ok("cpu:2,share>=0.9", &n);
        g_assert_cmpstr(n.kind, ==, "cpu");
        g_assert_cmpint(n.amount, ==, 2);
        g_assert_false(n.has_amount_max);
        g_assert_cmpint(n.n_parameters, ==, 1);
        g_assert_cmpstr(n.parameters[0].name, ==, "share");
        g_assert_cmpint(n.parameters[0].relation, ==, API_RELATION_AT_LEAST);
        g_assert_true(n.parameters[0].has_value);
        g_assert_cmpint(n.parameters[0].value, ==, 900);
        json_t *v = api_need_emit(&n);
        g_assert_cmpint(api_need_parse(v, &back, &err), ==, 0);
        json_decref(v);

        parse_ok("memory:512M..2G", &n);
        g_assert_cmpint(n.amount, ==, 512 << 20);
        g_assert_true(n.has_amount_max);
        g_assert_cmpint(n.amount_max, ==, (int64_t)2 << 30);

        parse_ok("cpu:1,exclusive", &n);
        g_assert_cmpint(n.parameters[0].relation, ==, API_RELATION_EQUAL);
        g_assert_false(n.parameters[0].has_value);
        g_assert_false(n.parameters[0].has_word);
}

/* What this version has never heard of passes, for the host to refuse. */
static void test_unknown(void)
{
        struct api_need n;

        parse_ok("gpu:1", &n);
        g_assert_cmpstr(n.kind, ==, "gpu");
        g_assert_cmpint(n.amount, ==, 1);
        parse_ok("cpu:2,share>=0.5,clock>=3GHz,level=7,turbo", &n);
        g_assert_cmpint(n.n_parameters, ==, 4);
        g_assert_cmpint(n.parameters[0].value, ==, 500);
        g_assert_cmpstr(n.parameters[1].word, ==, "3GHz");
        g_assert_true(n.parameters[2].has_value);
        g_assert_cmpint(n.parameters[2].value, ==, 7);
        g_assert_false(n.parameters[3].has_value || n.parameters[3].has_word);
        parse_ok("net:1G..4G,latency<=2ms", &n);
        g_assert_cmpint(n.parameters[0].relation, ==, API_RELATION_AT_MOST);
}

static void test_malformed(void)
{
        static const char *const rows[] = {
                "",
                "cpu",
                "cpu:",
                ":1",
                "cpu:0",
                "cpu:-1",
                "cpu:1.5",
                "cpu:2..1",
                "CPU:1",
                "cpu:1,",
                "cpu:1,,share>=0.9",
                "cpu:1,share",
                "cpu:1,share>0.9",
                "cpu:1,share>=",
                "cpu:1,share>=2",
                "cpu:1, share>=0.9",
                "gpu:0",
                "gpu:1,x<>y",
                "gpu:1,x>=",
                "gpu:1,x=sixteen-letters-",
                "gpu:1,a,b,c,d,e",
                "gpu:1,X",
                "seventeen-letters-x:1",
                "gpu:9007199254740992",
                "gpu:99999999999999999999",
                "gpu:1\n",
                "g\xc3\xbc:1",
        };

        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct api_need n = {.amount = 77};
                struct err err = {0};
                int r = need_text_parse(rows[i], &n, &err);
                if (r >= 0 || err.reason != REASON_INVALID)
                        g_test_message("%s: %d %s", rows[i], r, err.sentence);
                g_assert_cmpint(r, <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_cmpint(n.amount, ==, 77);
                g_assert_nonnull(strpbrk(err.sentence, "abcdefghijklmnopqrstuvwxyz"));
        }
}

static void test_too_long(void)
{
        char text[NEED_TEXT + 8];
        struct api_need n;
        struct err err = {0};

        memset(text, '0', sizeof(text));
        memcpy(text, "gpu:1", 5);
        text[sizeof(text) - 1] = '\0';
        g_assert_cmpint(need_text_parse(text, &n, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
}

static void test_round_trip(void)
{
        static const char *const rows[] = {
                "cpu:2,share>=0.9", "cpu:1,exclusive",   "memory:512M..2G", "cpu:1..4,share>=1",
                "memory:128M",      "gpu:3,x=y,z>=4,on", "net:1G",
        };

        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct api_need n, again;
                char text[NEED_TEXT];
                parse_ok(rows[i], &n);
                g_assert_cmpstr(need_text_print(&n, text), ==, rows[i]);
                parse_ok(text, &again);
                g_assert_cmpmem(&n, sizeof(n), &again, sizeof(again));
        }
}

/* A host may send a value where ours never does. */
static void test_a_flag_with_a_value(void)
{
        struct api_need n;
        char text[NEED_TEXT];
        parse_ok("cpu:1,exclusive", &n);
        n.parameters[0].has_value = true;
        n.parameters[0].value = 1;
        g_assert_cmpstr(need_text_print(&n, text), ==, "cpu:1,exclusive=1");
}

/* A host may send more than fits. */
static void test_print_is_bounded(void)
{
        struct api_need n = {.amount = UNITS_MAX - 1,
                             .has_amount_max = true,
                             .amount_max = UNITS_MAX - 1,
                             .n_parameters = 4};
        char text[NEED_TEXT];

        memset(n.kind, 'k', sizeof(n.kind) - 1);
        for (size_t i = 0; i < 4; i++) {
                memset(n.parameters[i].name, 'n', sizeof(n.parameters[i].name) - 1);
                memset(n.parameters[i].word, 'w', sizeof(n.parameters[i].word) - 1);
                n.parameters[i].has_word = true;
                n.parameters[i].relation = API_RELATION_AT_LEAST;
        }
        g_assert_cmpuint(strlen(need_text_print(&n, text)), ==, NEED_TEXT - 1);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/lib/need-text/values", test_values);
        g_test_add_func("/lib/need-text/unknown", test_unknown);
        g_test_add_func("/lib/need-text/malformed", test_malformed);
        g_test_add_func("/lib/need-text/too-long", test_too_long);
        g_test_add_func("/lib/need-text/round-trip", test_round_trip);
        g_test_add_func("/lib/need-text/a-flag-with-a-value", test_a_flag_with_a_value);
        g_test_add_func("/lib/need-text/print-is-bounded", test_print_is_bounded);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/units.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#include "base/str.h"

typedef int parse_fn(const char *text, int64_t *ret, struct err *err);

static void is(parse_fn *parse, const char *text, int64_t want)
{
        int64_t got = -1;
        struct err err = {0};
        if (parse(text, &got, &err) < 0)
                g_error("%s: %s", text, err.sentence);
        g_assert_cmpint(got, ==, want);
}

static void is_not(parse_fn *parse, const char *text)
{
        int64_t got = -77;
        struct err err = {0};
        if (parse(text, &got, &err) >= 0)
                g_error("\"%s\" was taken for %" G_GINT64_FORMAT, text, got);
        g_assert_cmpint(got, ==, -77);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_cmpint(parse(text, &got, NULL), ==, -err.code);
}

static void test_bytes(void)
{
        is(units_parse_bytes, "0", 0);
        is(units_parse_bytes, "4096", 4096);
        is(units_parse_bytes, "1K", 1024);
        is(units_parse_bytes, "512M", INT64_C(512) << 20);
        is(units_parse_bytes, "128MiB", INT64_C(128) << 20);
        is(units_parse_bytes, "1.5G", INT64_C(1536) << 20);
        is(units_parse_bytes, "0.125T", INT64_C(128) << 30);
        is(units_parse_bytes, "0.5K", 512);
        is(units_parse_bytes, "9007199254740991", UNITS_MAX - 1);
        is(units_parse_bytes, "8191T", INT64_C(8191) << 40);
        static const char *const bad[] = {"",
                                          "K",
                                          "-1",
                                          "+1",
                                          " 1",
                                          "1 ",
                                          "1 K",
                                          "1k",
                                          "1KB",
                                          "0x10",
                                          "1.",
                                          ".5G",
                                          "1.5",
                                          "1..5",
                                          "1.2.",
                                          "1e3",
                                          "1.0001G",
                                          "0.1K",
                                          "1GG",
                                          "G1",
                                          "9007199254740992",
                                          "9999999999999999",
                                          "99999999999999999",
                                          "8192T",
                                          "9999999999999999T",
                                          "9999999999999999.999"};
        for (size_t i = 0; i < ARRAY_N(bad); i++)
                is_not(units_parse_bytes, bad[i]);
}

static void test_rate(void)
{
        static const char *const bad[] = {"",      "1KiB",   "1m",  "1 M",    "1.5",
                                          "1Mbit", "10000T", "-1M", "1Mbit/S"};
        is(units_parse_rate, "64000", 64000);
        is(units_parse_rate, "64K", 64000);
        is(units_parse_rate, "1.5G", 1500000000);
        is(units_parse_rate, "200Mbit/s", 200000000);
        is(units_parse_rate, "64kbit/s", 64000);
        is(units_parse_rate, "1Gbit/s", 1000000000);
        is(units_parse_rate, "8bit/s", 8);
        is(units_parse_rate, "9007T", INT64_C(9007000000000000));
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                is_not(units_parse_rate, bad[i]);
}

static void test_milli(void)
{
        is(units_parse_milli, "0.9", 900);
        is(units_parse_milli, "1", 1000);
        is(units_parse_milli, "0.001", 1);
        is(units_parse_milli, "1.050", 1050);
        is(units_parse_milli, "9007199254740.991", UNITS_MAX - 1);
        static const char *const bad[] = {
                "", "0.0001", "1K", "-0.9", ".9", "9007199254740.992", "9007199254741"};
        for (size_t i = 0; i < ARRAY_N(bad); i++)
                is_not(units_parse_milli, bad[i]);
}

static void test_ms(void)
{
        is(units_parse_ms, "250ms", 250);
        is(units_parse_ms, "30s", 30000);
        is(units_parse_ms, "0.5s", 500);
        is(units_parse_ms, "2m", 120000);
        is(units_parse_ms, "1h", 3600000);
        is(units_parse_ms, "1.5d", 129600000);
        static const char *const bad[] = {"",    "30",  "1S",   "1.5ms",        "-1s",
                                          "1 s", "1s ", "1sec", "104249991375d"};
        for (size_t i = 0; i < ARRAY_N(bad); i++)
                is_not(units_parse_ms, bad[i]);
}

static void test_count(void)
{
        is(units_parse_count, "0", 0);
        is(units_parse_count, "007", 7);
        is(units_parse_count, "2.000", 2);
        is(units_parse_count, "9007199254740991", UNITS_MAX - 1);
        static const char *const bad[] = {"", "2.5", "1K", "two", "9007199254740992"};
        for (size_t i = 0; i < ARRAY_N(bad); i++)
                is_not(units_parse_count, bad[i]);
}

static void test_print(void)
{
        char buf[UNITS_TEXT];
        g_assert_cmpstr(units_print_bytes(0, buf), ==, "0");
        g_assert_cmpstr(units_print_bytes(1023, buf), ==, "1023");
        g_assert_cmpstr(units_print_bytes(INT64_C(1536) << 20, buf), ==, "1536M");
        g_assert_cmpstr(units_print_bytes(INT64_C(4096) << 40, buf), ==, "4096T");
        g_assert_cmpstr(units_print_rate(INT64_C(1500000000), buf), ==, "1500M");
        g_assert_cmpstr(units_print_rate(1024, buf), ==, "1024");
        g_assert_cmpstr(units_print_milli(900, buf), ==, "0.9");
        g_assert_cmpstr(units_print_milli(1000, buf), ==, "1");
        g_assert_cmpstr(units_print_milli(10000, buf), ==, "10");
        g_assert_cmpstr(units_print_milli(1, buf), ==, "0.001");
        g_assert_cmpstr(units_print_milli(0, buf), ==, "0");
}

/* Whatever is printed parses back to the very same amount. */
static void test_durations(void)
{
        char buf[UNITS_TEXT];
        g_assert_cmpstr(units_print_ms(0, buf), ==, "0ms");
        g_assert_cmpstr(units_print_ms(1, buf), ==, "1ms");
        g_assert_cmpstr(units_print_ms(1500, buf), ==, "1500ms");
        g_assert_cmpstr(units_print_ms(90000000, buf), ==, "25h");
        g_assert_cmpstr(units_print_ms(172800000, buf), ==, "2d");
        g_assert_cmpstr(units_print_ms(90000, buf), ==, "90s");
}

static void test_round_trip(void)
{
        guint32 seed = (guint32)g_get_monotonic_time();
        g_test_message("seed %u", seed);
        GRand *rand = g_rand_new_with_seed(seed);
        for (int i = 0; i < 50000; i++) {
                int64_t v = ((int64_t)g_rand_int(rand) << 21 | g_rand_int(rand) >> 11) >>
                            g_rand_int_range(rand, 0, 53);
                v &= ~((INT64_C(1) << (10 * g_rand_int_range(rand, 0, 5))) - 1);
                char buf[UNITS_TEXT];
                is(units_parse_bytes, units_print_bytes(v, buf), v);
                is(units_parse_rate, units_print_rate(v, buf), v);
                is(units_parse_milli, units_print_milli(v, buf), v);
                is(units_parse_ms, units_print_ms(v, buf), v);
        }
        g_rand_free(rand);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/base/units/bytes", test_bytes);
        g_test_add_func("/base/units/rate", test_rate);
        g_test_add_func("/base/units/milli", test_milli);
        g_test_add_func("/base/units/ms", test_ms);
        g_test_add_func("/base/units/count", test_count);
        g_test_add_func("/base/units/print", test_print);
        g_test_add_func("/base/units/durations", test_durations);
        g_test_add_func("/base/units/round-trip", test_round_trip);
        return g_test_run();
}

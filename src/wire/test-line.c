/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/line.h"

#include <glib.h>
#include <string.h>

#include "wire/bucket.h"

/* Feeds n bytes in pieces and writes down what comes out: "text|" for a line, "!" for one that is too long.
 */
static void feed(struct line *l, const char *data, size_t n, size_t piece, GString *out)
{
        while (n > 0) {
                size_t room, take;
                char *at = line_room(l, &room), *text = NULL;
                g_assert_nonnull(at);
                take = MIN(MIN(piece, room), n);
                memcpy(at, data, take);
                line_filled(l, take);
                data += take;
                n -= take;
                enum line_outcome what;
                while ((what = line_next(l, &text, &room)) != LINE_MORE) {
                        if (what == LINE_TOO_LONG) {
                                g_string_append_c(out, '!');
                                continue;
                        }
                        g_assert_cmpint(text[room], ==, '\0');
                        g_string_append_len(out, text, (gssize)room);
                        g_string_append_c(out, '|');
                }
                g_assert_cmpuint(line_buffered(l), <=, l->max);
                g_assert_cmpuint(l->room, <=, 2 * (l->max + 1));
        }
}

static void check(size_t max, const char *data, const char *expected)
{
        for (size_t piece = 1; piece <= strlen(data); piece++) {
                struct line l;
                GString *out = g_string_new(NULL);
                line_init(&l, max);
                feed(&l, data, strlen(data), piece, out);
                g_assert_cmpstr(out->str, ==, expected);
                line_done(&l);
                line_done(&l);
                g_string_free(out, TRUE);
        }
}

static void test_split(void)
{
        check(10, "one\ntwo\n\nthree\nhal", "one|two||three|");
        check(10, "\n", "|");
        check(1, "a\nb\n", "a|b|");
}

static void test_limit(void)
{
        check(5, "12345\n", "12345|");
        check(5, "123456\nok\n", "!ok|"); /* once, however long, and the next line is whole */
        check(5, "1234567890123456789012345678901234567890\n\nok\n", "!|ok|");
        check(5, "123456\n123456\n1\n", "!!1|");
        check(1, "ab\nc\n", "!c|");
}

static void test_nul(void)
{
        struct line l;
        GString *out = g_string_new(NULL);
        line_init(&l, 10);
        feed(&l, "a\0b\n", 4, 4, out);
        g_assert_cmpuint(out->len, ==, 4); /* kept: who reads the text has the length */
        line_done(&l);
        g_string_free(out, TRUE);
}

static void test_memory_goes_back(void)
{
        struct line l;
        GString *out = g_string_new(NULL), *big = g_string_new(NULL);
        size_t n;
        line_init(&l, 65536);
        for (int i = 0; i < 65536; i++)
                g_string_append_c(big, 'x');
        g_string_append_c(big, '\n');
        feed(&l, big->str, big->len, 1000, out);
        g_assert_cmpuint(out->len, ==, 65537);
        (void)line_room(&l, &n);
        g_assert_cmpuint(l.room, <=, 4096);
        line_reset(&l);
        g_assert_cmpuint(line_buffered(&l), ==, 0);
        line_done(&l);
        g_string_free(out, TRUE);
        g_string_free(big, TRUE);
}

/* The same lines whatever the chunking, against a splitter that is plainly right. */
static void test_random(void)
{
        GRand *rand = g_rand_new_with_seed(20240607);
        for (int round = 0; round < 500; round++) {
                size_t max = (size_t)g_rand_int_range(rand, 1, 40);
                GString *in = g_string_new(NULL), *want = g_string_new(NULL), *got = g_string_new(NULL);
                for (int i = g_rand_int_range(rand, 0, 20); i > 0; i--) {
                        int n = g_rand_int_range(rand, 0, 60);
                        for (int k = 0; k < n; k++)
                                g_string_append_c(in, (char)g_rand_int_range(rand, 'a', 'z'));
                        if ((size_t)n > max)
                                g_string_append_c(want, '!');
                        else
                                g_string_append_printf(want, "%s|", in->str + in->len - (size_t)n);
                        g_string_append_c(in, '\n');
                }
                struct line l;
                line_init(&l, max);
                for (size_t at = 0; at < in->len;) {
                        size_t piece = (size_t)g_rand_int_range(rand, 1, 100);
                        piece = MIN(piece, in->len - at);
                        feed(&l, in->str + at, piece, piece, got);
                        at += piece;
                }
                g_assert_cmpstr(got->str, ==, want->str);
                line_done(&l);
                g_string_free(in, TRUE);
                g_string_free(want, TRUE);
                g_string_free(got, TRUE);
        }
        g_rand_free(rand);
}

static void test_bucket(void)
{
        struct bucket b;
        bucket_init(&b, 10, 3, 1000);
        for (int i = 0; i < 3; i++)
                g_assert_true(bucket_take(&b, 1000));
        g_assert_false(bucket_take(&b, 1000));
        g_assert_cmpint(bucket_wait_ms(&b, 1, 1000), ==, 100);
        g_assert_cmpint(bucket_wait_ms(&b, 100, 1000), ==, 300); /* no more than the burst is ever there */
        g_assert_false(bucket_take(&b, 1099));
        g_assert_true(bucket_take(&b, 1100)); /* the part of a token was not lost */
        g_assert_false(bucket_take(&b, 500)); /* a clock that goes back gives nothing, and takes nothing */
        g_assert_true(bucket_take(&b, INT64_MAX / 2));
        g_assert_true(bucket_take(&b, INT64_MAX / 2));
        g_assert_true(bucket_take(&b, INT64_MAX / 2));
        g_assert_false(bucket_take(&b, INT64_MAX / 2));
        bucket_init(&b, 0, 0, 0);
        for (int i = 0; i < 1000; i++)
                g_assert_true(bucket_take(&b, 0));
        g_assert_cmpint(bucket_wait_ms(&b, 5, 0), ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/line/split", test_split);
        g_test_add_func("/line/limit", test_limit);
        g_test_add_func("/line/nul", test_nul);
        g_test_add_func("/line/memory-goes-back", test_memory_goes_back);
        g_test_add_func("/line/random", test_random);
        g_test_add_func("/bucket", test_bucket);
        return g_test_run();
}

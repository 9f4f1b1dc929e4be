/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

static void test_names(void)
{
        /* The closed list, in its order (S.8): a word that is changed here breaks a contract. */
        static const char *const words[REASON_N] = {
                "none",      "invalid",      "not-found", "denied",         "unsupported", "no-capacity",
                "no-offers", "cost",         "stale",     "busy",           "timeout",     "cancelled",
                "policy",    "incompatible", "peer-lost", "unreassignable", "internal"};
        for (int r = 0; r < REASON_N; r++)
                g_assert_cmpstr(reason_name((enum reason)r), ==, words[r]);
        for (int r = 1; r < REASON_N; r++)
                g_assert_cmpint(reason_from_name(words[r]), ==, r);
        g_assert_cmpint(reason_from_name("none"), ==, 0);
        g_assert_cmpint(reason_from_name(""), ==, 0);
        g_assert_cmpint(reason_from_name("Invalid"), ==, 0);
        g_assert_cmpstr(reason_name(REASON_N), ==, "none");
        g_assert_cmpstr(reason_name((enum reason) - 1), ==, "none");
}

static void test_set(void)
{
        struct err err = {0};
        g_assert_cmpint(err_set(&err, REASON_BUSY, EAGAIN, "%s: %d", "queue", 7), ==, -EAGAIN);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_cmpint(err.code, ==, EAGAIN);
        g_assert_cmpstr(err.sentence, ==, "queue: 7");
        g_assert_cmpint(err_set(NULL, REASON_BUSY, EINVAL, "x"), ==, -EINVAL);
}

static void test_note(void)
{
        struct err err = {0};
        g_assert_cmpint(err_note(&err, "nothing"), ==, -EIO);
        g_assert_cmpstr(err.sentence, ==, "");
        g_assert_cmpint(err_note(NULL, "nothing"), ==, -EIO);
        (void)err_set(&err, REASON_INVALID, ERANGE, "must be at least 1");
        g_assert_cmpint(err_note(&err, "amount"), ==, -ERANGE);
        g_assert_cmpint(err_note(&err, "needs[%d]", 1), ==, -ERANGE);
        g_assert_cmpstr(err.sentence, ==, "needs[1]: amount: must be at least 1");
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
}

/* A sentence is cut at its end, never past it; a note that fills it leaves the note. */
static void test_too_long(void)
{
        struct err err = {0};
        char text[2 * sizeof(err.sentence)];
        memset(text, 'a', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        (void)err_set(&err, REASON_INTERNAL, EIO, "%s", text);
        g_assert_cmpuint(strlen(err.sentence), ==, sizeof(err.sentence) - 1);
        g_assert_cmpint(err_note(&err, "context"), ==, -EIO);
        g_assert_true(g_str_has_prefix(err.sentence, "context: aaa"));
        g_assert_cmpuint(strlen(err.sentence), ==, sizeof(err.sentence) - 1);
        memset(text, 'b', sizeof(text) - 1);
        g_assert_cmpint(err_note(&err, "%s", text), ==, -EIO);
        g_assert_cmpuint(strspn(err.sentence, "b"), ==, sizeof(err.sentence) - 1);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/base/err/names", test_names);
        g_test_add_func("/base/err/set", test_set);
        g_test_add_func("/base/err/note", test_note);
        g_test_add_func("/base/err/too-long", test_too_long);
        return g_test_run();
}

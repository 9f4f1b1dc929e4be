/* SPDX-License-Identifier: Apache-2.0 */
/* Who is told what, over every order of changes, losses and answers; the rows are in test-hypervisor.c. */
#include "core/telling.h"

#include <glib.h>

static void test_once(void)
{
        struct telling t = {0};
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_NOTHING);
        telling_changed(&t);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_NOTHING); /* nobody is there */
        telling_connected(&t, 0);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_NOTHING); /* it is under way */
        telling_answered(&t, 7, true);
        g_assert_cmpuint(t.known, ==, 0); /* nobody was told that */
        telling_answered(&t, 1, true);
        g_assert_cmpuint(t.known, ==, 1);
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_NOTHING);
        telling_answered(&t, 1, false); /* once more: of nothing that is under way */
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_NOTHING);
}

static void test_delta(void)
{
        struct telling t = {.generation = 1};
        telling_connected(&t, 0);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
        telling_changed(&t);
        telling_changed(&t);
        telling_answered(&t, 1, true);
        g_assert_cmpint(telling_next(&t, 10), ==, TELL_LATER);
        g_assert_cmpint(t.not_before_ms, ==, TELLING_PAUSE_MS);
        g_assert_cmpint(telling_next(&t, TELLING_PAUSE_MS), ==, TELL_DELTA);
        g_assert_cmpuint(t.sent, ==, 3); /* both changes at once */
        g_assert_cmpuint(t.known, ==, 1);
        /* It does not know what that is against, or so it seems: all of it, and a later one. */
        telling_answered(&t, 3, false);
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_LATER);
        g_assert_cmpint(telling_next(&t, 1000), ==, TELL_FULL);
        g_assert_cmpuint(t.sent, ==, 4);
        telling_answered(&t, 4, true);
        g_assert_cmpint(telling_next(&t, 1000), ==, TELL_NOTHING);
}

/* At its new host a guest is told later generations than it was told before, whatever it says that it has. */
static void test_other_host(void)
{
        const uint64_t says[] = {0, 3, 41, 42, 50};
        for (size_t i = 0; i < G_N_ELEMENTS(says); i++) {
                struct telling t = {0};
                telling_follows(&t, 42);
                telling_connected(&t, says[i]);
                telling_changed(&t); /* the first look */
                g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
                g_assert_cmpuint(t.sent, >, 42);
                g_assert_cmpuint(t.sent, >, says[i]);
                telling_answered(&t, t.sent, true);
                uint64_t was = t.generation;
                telling_follows(&t, 42); /* it greets again */
                g_assert_cmpuint(t.generation, ==, was);
        }
}

/* However it is brought about that all of it is wanted: refused, or asked for again and again. */
static void test_back_off(void)
{
        for (int is_refused = 0; is_refused < 2; is_refused++) {
                struct telling t = {.generation = 1};
                int64_t now = 0, last = 0;
                telling_connected(&t, 0);
                for (int i = 0; i < 10; i++) {
                        g_assert_cmpint(telling_next(&t, now), ==, TELL_FULL);
                        if (is_refused)
                                telling_answered(&t, t.sent, false);
                        else
                                telling_connected(&t, 0);
                        g_assert_cmpint(telling_next(&t, now), ==, TELL_LATER);
                        g_assert_cmpint(t.not_before_ms - now, >=, last);
                        last = t.not_before_ms - now;
                        now = t.not_before_ms;
                }
                g_assert_cmpint(last, ==, 60000);
                g_assert_cmpint(telling_next(&t, now), ==, TELL_FULL);
                telling_answered(&t, t.sent, true);
                g_assert_cmpint(t.back_off_ms, ==, 60000); /* it can have taken it to ask once more */
                telling_changed(&t);
                g_assert_cmpint(telling_next(&t, now + TELLING_PAUSE_MS), ==, TELL_DELTA);
                telling_answered(&t, t.sent, true);
                g_assert_cmpint(t.back_off_ms, ==, 0);
        }
}

/* It took it, and we heard nothing of that: what follows is a later one, so it takes that, too. */
static void test_answer_lost(void)
{
        struct telling t = {.generation = 1};
        telling_connected(&t, 0);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
        const uint64_t guest = t.sent;
        telling_answered(&t, guest, false); /* its time is over */
        g_assert_cmpint(telling_next(&t, 60000), ==, TELL_FULL);
        g_assert_cmpuint(t.sent, >, guest);
}

/* We know nothing any more, and it has something. */
static void test_restart(void)
{
        struct telling t = {0};
        telling_changed(&t);
        telling_connected(&t, 41);
        g_assert_cmpuint(t.generation, ==, 42);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
        telling_answered(&t, 42, true);
        /* A short interruption, and nothing has changed; then something has. */
        telling_lost(&t);
        g_assert_cmpint(telling_next(&t, 60), ==, TELL_NOTHING);
        telling_connected(&t, 42);
        g_assert_cmpint(telling_next(&t, 60), ==, TELL_NOTHING);
        telling_lost(&t);
        telling_changed(&t);
        telling_connected(&t, 42);
        g_assert_cmpint(telling_next(&t, 60), ==, TELL_DELTA);
        /* Its agent was set up anew. */
        telling_lost(&t);
        telling_connected(&t, 0);
        g_assert_cmpint(telling_next(&t, 1000), ==, TELL_FULL);
}

/* Whatever is lost, repeated, late or refused: what the guest has never goes back, and in the end it has what
 * there is (2.14). */
static void test_random(void)
{
        for (int round = 0; round < 2000; round++) {
                struct telling t = {0};
                uint64_t guest = 0; /* what it has */
                uint64_t message = 0, base = 0;
                bool is_delta = false, is_rewritten = false;
                int64_t now = 0;
                for (int step = 0; step < 60; step++) {
                        uint64_t had = guest;
                        now += g_test_rand_int_range(0, 100);
                        switch (g_test_rand_int_range(0, 8)) {
                        case 0:
                                if (g_test_rand_int_range(0, 4) == 0) {
                                        telling_rewritten(&t);
                                        is_rewritten = true;
                                        break;
                                }
                                /* fallthrough */
                        case 1:
                                telling_changed(&t);
                                break;
                        case 2:
                                telling_lost(&t);
                                message = 0;
                                break;
                        case 3:
                                if (g_test_rand_int_range(0, 8) == 0)
                                        guest = had = 0; /* a new agent */
                                telling_connected(&t, guest);
                                break;
                        case 4:
                                telling_answered(&t, (uint64_t)g_test_rand_int_range(0, 50) + guest,
                                                 g_test_rand_int_range(0, 2));
                                /* what it says that it has it has: it lied, or it has */
                                guest = t.known > guest ? t.known : guest;
                                break;
                        default:
                                if (message && t.is_connected) {
                                        bool fits = message > guest && (!is_delta || base == guest);
                                        guest = fits ? message : guest;
                                        bool is_heard = g_test_rand_int_range(0, 4) > 0;
                                        telling_answered(&t, message, fits && is_heard);
                                        message = 0;
                                        break;
                                }
                                enum telling_what what = telling_next(&t, now);
                                if (what != TELL_DELTA && what != TELL_FULL)
                                        break;
                                message = t.sent;
                                base = t.known;
                                is_delta = what == TELL_DELTA;
                                g_assert_false(is_delta && is_rewritten); /* it would lack what is new */
                                is_rewritten = false;
                                g_assert_cmpuint(message, >, 0);
                                g_assert_true(!is_delta || message > base);
                        }
                        g_assert_cmpuint(guest, >=, had);
                        g_assert_cmpuint(t.known, <=, MAX(t.generation, guest));
                }
                telling_changed(&t);
                if (!t.is_connected || g_test_rand_int_range(0, 2))
                        telling_connected(&t, guest);
                if (t.sent) /* what was under way is lost */
                        telling_answered(&t, t.sent, false);
                for (int i = 0; i < 3; i++) {
                        now += 100000;
                        enum telling_what what = telling_next(&t, now);
                        if (what == TELL_NOTHING)
                                break;
                        bool fits = t.sent > guest && (what == TELL_FULL || t.known == guest);
                        guest = fits ? t.sent : guest;
                        telling_answered(&t, t.sent, fits);
                }
                g_assert_cmpuint(guest, ==, t.generation);
                g_assert_cmpint(telling_next(&t, now + 100000), ==, TELL_NOTHING);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/telling/once", test_once);
        g_test_add_func("/core/telling/other-host", test_other_host);
        g_test_add_func("/core/telling/delta", test_delta);
        g_test_add_func("/core/telling/back-off", test_back_off);
        g_test_add_func("/core/telling/answer-lost", test_answer_lost);
        g_test_add_func("/core/telling/restart", test_restart);
        g_test_add_func("/core/telling/random", test_random);
        return g_test_run();
}

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
        telling_answered(&t, 7, true, 100);
        g_assert_cmpuint(t.known, ==, 0); /* nobody was told that */
        telling_answered(&t, 1, true, 100);
        g_assert_cmpuint(t.known, ==, 1);
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_NOTHING);
        telling_answered(&t, 1, false, 100); /* once more: of nothing that is under way */
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_NOTHING);
}

static void test_delta(void)
{
        struct telling t = {.generation = 1};
        telling_connected(&t, 0);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
        telling_changed(&t);
        telling_changed(&t);
        telling_answered(&t, 1, true, 10);
        g_assert_cmpint(telling_next(&t, 10), ==, TELL_LATER);
        g_assert_cmpint(t.not_before_ms, ==, TELLING_PAUSE_MS);
        g_assert_cmpint(telling_next(&t, TELLING_PAUSE_MS), ==, TELL_DELTA);
        g_assert_cmpuint(t.sent, ==, 3); /* both changes at once */
        g_assert_cmpuint(t.known, ==, 1);
        /* It does not know what that is against: all of it, without delay. */
        telling_answered(&t, 3, false, 100);
        g_assert_cmpint(telling_next(&t, 100), ==, TELL_FULL);
        telling_answered(&t, 3, true, 110);
        g_assert_cmpint(telling_next(&t, 1000), ==, TELL_NOTHING);
}

static void test_back_off(void)
{
        struct telling t = {.generation = 1};
        int64_t now = 0, last = 0;
        telling_connected(&t, 0);
        for (int i = 0; i < 10; i++) {
                g_assert_cmpint(telling_next(&t, now), ==, TELL_FULL);
                telling_answered(&t, 1, false, now);
                g_assert_cmpint(telling_next(&t, now), ==, TELL_LATER);
                g_assert_cmpint(t.not_before_ms - now, >=, last);
                last = t.not_before_ms - now;
                now = t.not_before_ms;
        }
        g_assert_cmpint(last, ==, 60000);
        telling_lost(&t);
        telling_connected(&t, 0);
        g_assert_cmpint(telling_next(&t, now), ==, TELL_FULL);
        telling_answered(&t, 1, true, now);
        g_assert_cmpint(t.back_off_ms, ==, 0);
}

/* We know nothing any more, and it has something. */
static void test_restart(void)
{
        struct telling t = {0};
        telling_changed(&t);
        telling_connected(&t, 41);
        g_assert_cmpuint(t.generation, ==, 42);
        g_assert_cmpint(telling_next(&t, 0), ==, TELL_FULL);
        telling_answered(&t, 42, true, 0);
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
        g_assert_cmpint(telling_next(&t, 120), ==, TELL_FULL);
}

/* Whatever is lost, repeated, late or refused: what the guest has never goes back, and in the end it has what
 * there is (2.14). */
static void test_random(void)
{
        for (int round = 0; round < 2000; round++) {
                struct telling t = {0};
                uint64_t guest = 0; /* what it has */
                uint64_t message = 0, base = 0;
                bool is_delta = false;
                int64_t now = 0;
                for (int step = 0; step < 60; step++) {
                        uint64_t had = guest;
                        now += g_test_rand_int_range(0, 100);
                        switch (g_test_rand_int_range(0, 8)) {
                        case 0:
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
                                                 g_test_rand_int_range(0, 2), now);
                                /* what it says that it has it has: it lied, or it has */
                                guest = t.known > guest ? t.known : guest;
                                break;
                        default:
                                if (message && t.is_connected) {
                                        bool fits = message > guest && (!is_delta || base == guest);
                                        guest = fits ? message : guest;
                                        telling_answered(&t, message, fits, now);
                                        message = 0;
                                        break;
                                }
                                enum telling_what what = telling_next(&t, now);
                                if (what != TELL_DELTA && what != TELL_FULL)
                                        break;
                                message = t.sent;
                                base = t.known;
                                is_delta = what == TELL_DELTA;
                                g_assert_cmpuint(message, >, 0);
                                g_assert_true(!is_delta || message > base);
                        }
                        g_assert_cmpuint(guest, >=, had);
                        g_assert_cmpuint(t.known, <=, MAX(t.generation, guest));
                }
                telling_changed(&t);
                telling_lost(&t);
                telling_connected(&t, guest);
                for (int i = 0; i < 3; i++) {
                        now += 100000;
                        enum telling_what what = telling_next(&t, now);
                        if (what == TELL_NOTHING)
                                break;
                        bool fits = t.sent > guest && (what == TELL_FULL || t.known == guest);
                        guest = fits ? t.sent : guest;
                        telling_answered(&t, t.sent, fits, now);
                }
                g_assert_cmpuint(guest, ==, t.generation);
                g_assert_cmpint(telling_next(&t, now + 100000), ==, TELL_NOTHING);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/telling/once", test_once);
        g_test_add_func("/core/telling/delta", test_delta);
        g_test_add_func("/core/telling/back-off", test_back_off);
        g_test_add_func("/core/telling/restart", test_restart);
        g_test_add_func("/core/telling/random", test_random);
        return g_test_run();
}

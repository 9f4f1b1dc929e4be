/* SPDX-License-Identifier: Apache-2.0 */
/* When it is asked, when it is not, and when something is given back; the clock is ours. */
#include "agent/plan.h"

#include <glib.h>

enum { STEP_MS = 1000 };

static struct plan p;
static int64_t now_ms;
static double has, own, spare;

static void begin(double has_at_first)
{
        now_ms = 1000000;
        has = has_at_first;
        own = spare = 0;
        plan_init(&p, 4000, STEP_MS);
}

static void steps(int n, double used, double declared)
{
        for (int i = 0; i < n; i++) {
                now_ms += STEP_MS;
                plan_step(&p, used, declared, has, own, spare, now_ms);
        }
}

static double ask(enum plan_trigger *t)
{
        return plan_ask(&p, has, now_ms, t);
}

static bool asks(enum plan_trigger want)
{
        enum plan_trigger t;
        double more = ask(&t);
        g_assert_true(more == 0 || t != PLAN_NONE);
        return more > 0 && t == want;
}

/* 2.8: if and only if what will be needed exceeds what it has. */
static void test_if_and_only_if(void)
{
        enum plan_trigger t;
        begin(2000);
        steps(20, 100, 0);
        g_assert_cmpfloat(p.need, <, 2000);
        g_assert_cmpfloat(ask(&t), ==, 0);
        g_assert_cmpint(t, ==, PLAN_PROJECTION); /* it was looked at */
        plan_view_changed(&p);
        g_assert_cmpfloat(ask(&t), ==, 0);
        g_assert_cmpint(t, ==, PLAN_VIEW);
        /* It has less by now, by the host's word. */
        has = p.need - 1;
        g_assert_cmpfloat(ask(&t), ==, 0); /* nobody has said so */
        g_assert_cmpint(t, ==, PLAN_NONE);
        plan_view_changed(&p);
        g_assert_true(asks(PLAN_VIEW));
        g_assert_false(asks(PLAN_VIEW)); /* it was followed */
        has = p.need;
        plan_view_changed(&p);
        g_assert_cmpfloat(ask(&t), ==, 0);
}

/* What stays as it is needs no more, from the first step on; nor does what leaps, before enough was seen. */
static void test_steady(void)
{
        for (int percent = 60; percent <= 95; percent++) {
                enum plan_trigger t;
                begin(2000); /* half of the scale, as an agent begins */
                for (int i = 0; i < 200; i++) {
                        steps(1, 20.0 * percent, 0);
                        g_assert_cmpfloat(ask(&t), ==, 0);
                        g_assert_cmpfloat(p.need, >=, 20.0 * percent);
                }
        }
        begin(2000);
        for (int i = 1; i < PLAN_LEARN; i++) {
                enum plan_trigger t;
                steps(1, i % 5 == 0 ? 1900 : 200, 0);
                g_assert_cmpfloat(ask(&t), ==, 0);
        }
        steps(PLAN_SETTLE, 2500, 0);
        g_assert_true(asks(PLAN_PROJECTION)); /* what is used is needed at once */
}

/* 2.7: the same again is no trigger, and a projection that stays is none. */
static void test_no_trigger(void)
{
        enum plan_trigger t;
        begin(100);
        steps(300, 500, 0); /* long enough for it to rest */
        g_assert_true(asks(PLAN_PROJECTION));
        double need = p.need;
        steps(30, 500, 0);
        g_assert_cmpfloat(p.need, ==, need);
        g_assert_cmpfloat(ask(&t), ==, 0);
        g_assert_cmpint(t, ==, PLAN_NONE);
}

static void test_settles(void)
{
        begin(100);
        for (int i = 1; i < PLAN_SETTLE; i++) {
                steps(1, 3000, 0);
                g_assert_false(asks(PLAN_PROJECTION));
        }
        steps(1, 3000, 0);
        g_assert_true(asks(PLAN_PROJECTION)); /* the trigger was kept */
}

static void test_one_at_a_time(void)
{
        enum plan_trigger t;
        begin(100);
        steps(PLAN_SETTLE, 3000, 0);
        g_assert_true(asks(PLAN_PROJECTION));
        plan_asked(&p, now_ms);
        plan_view_changed(&p);
        steps(200, 3500, 0);
        g_assert_cmpfloat(ask(&t), ==, 0);
        plan_answered(&p, PLAN_GRANTED, now_ms);
        g_assert_cmpfloat(ask(&t), ==, 0); /* the host has yet to say that it is there */
        steps(PLAN_BACK_OFF, 3500, 0);
        g_assert_true(asks(PLAN_VIEW)); /* what came meanwhile was kept */
        /* When the host says that all that was granted is there, nothing is waited for. */
        plan_asked(&p, now_ms);
        plan_answered(&p, PLAN_GRANTED, now_ms);
        plan_granted(&p, 1000);
        has += 999;
        plan_view_changed(&p);
        g_assert_cmpfloat(ask(&t), ==, 0);
        has += 1;
        g_assert_true(asks(PLAN_VIEW));
}

/* Refused: not again before a trigger, and later and later. */
static void test_back_off(void)
{
        enum plan_trigger t;
        int waited[8];
        begin(100);
        steps(300, 3000, 0);
        g_assert_true(asks(PLAN_PROJECTION));
        for (size_t i = 0; i < G_N_ELEMENTS(waited); i++) {
                plan_asked(&p, now_ms);
                plan_answered(&p, PLAN_REFUSED, now_ms);
                steps(2 * PLAN_BACK_OFF_MAX, 3000, 0);
                g_assert_cmpfloat(ask(&t), ==, 0); /* nothing has changed */
                plan_asked(&p, now_ms);
                plan_answered(&p, PLAN_REFUSED, now_ms);
                plan_view_changed(&p);
                for (waited[i] = 0; !asks(PLAN_VIEW); waited[i]++)
                        steps(1, 3000, 0);
                g_assert_cmpint(waited[i], <=, PLAN_BACK_OFF_MAX);
                g_assert_cmpint(waited[i], >=, i > 0 ? waited[i - 1] : PLAN_BACK_OFF);
        }
        g_assert_cmpint(waited[7], ==, PLAN_BACK_OFF_MAX);
        /* A grant makes it forgotten. */
        plan_asked(&p, now_ms);
        plan_answered(&p, PLAN_GRANTED, now_ms);
        plan_view_changed(&p);
        steps(PLAN_BACK_OFF, 3000, 0);
        g_assert_true(asks(PLAN_VIEW));
}

/* A bad moment: nothing has to change before it is asked for again. */
static void test_again(void)
{
        enum plan_trigger t;
        begin(100);
        steps(300, 3000, 0);
        g_assert_true(asks(PLAN_PROJECTION));
        for (int i = 0; i < 5; i++) {
                plan_asked(&p, now_ms);
                plan_answered(&p, PLAN_LATER, now_ms);
                steps(PLAN_BACK_OFF - 1, 3000, 0);
                g_assert_cmpfloat(ask(&t), ==, 0);
                steps(1, 3000, 0);
                g_assert_true(asks(PLAN_PROJECTION));
        }
        plan_asked(&p, now_ms);
        plan_answered(&p, PLAN_REFUSED, now_ms);
        steps(2 * PLAN_BACK_OFF_MAX, 3000, 0);
        g_assert_cmpfloat(ask(&t), ==, 0);
        plan_view_changed(&p);
        g_assert_true(asks(PLAN_VIEW));
}

static void test_gives_back(void)
{
        begin(3000);
        own = spare = 1000;
        steps(100, 2500, 0);
        g_assert_cmpfloat(p.need, >, 2000);
        g_assert_false(plan_gives_back(&p));
        /* Not needed: when the projection has come down, and PLAN_IDLE steps later. */
        int waited = 0, down = 0;
        for (; !plan_gives_back(&p) && waited < 2000; waited++) {
                steps(1, 100, 0);
                down += p.need <= 2000;
        }
        g_assert_cmpint(waited, <, 2000);
        g_assert_cmpint(down, ==, PLAN_IDLE);
        plan_given_back(&p);
        g_assert_false(plan_gives_back(&p));
        /* Nothing that is not its own; nothing while it waits for an answer. */
        own = spare = 0;
        steps(3 * PLAN_IDLE, 100, 0);
        g_assert_false(plan_gives_back(&p));
        own = spare = 1000;
        steps(PLAN_IDLE, 100, 0);
        plan_asked(&p, now_ms);
        g_assert_false(plan_gives_back(&p));
        plan_answered(&p, PLAN_REFUSED, now_ms);
        g_assert_true(plan_gives_back(&p));
        /* A step in which it was needed begins anew. */
        steps(PROJECTION_LEAD, 3900, 0);
        g_assert_false(plan_gives_back(&p));
}

/* Declared: beside what is used, once, also while it is used. */
static void test_declared(void)
{
        begin(1000);
        steps(300, 500, 0);
        double before = p.need;
        enum plan_trigger t;
        (void)ask(&t);
        steps(1, 500, 2000);
        g_assert_cmpfloat(p.need, ==, 2500);
        g_assert_true(asks(PLAN_PROJECTION));
        has = 2500;
        own = spare = 2000;
        steps(300, 2500, 2000); /* it is used */
        g_assert_cmpfloat(p.need, <, 3000);
        g_assert_false(plan_gives_back(&p));
        /* An agent that comes in the middle of it does not ask for it again. */
        plan_init(&p, 4000, STEP_MS);
        steps(PLAN_SETTLE, 2500, 2000);
        g_assert_cmpfloat(p.beside, ==, 500);
        /* Nor is it given back in the middle of it: what it holds is not beside it. */
        has = 4000;
        own = spare = 2000;
        plan_init(&p, 8000, STEP_MS);
        steps(1, 3000, 2000);
        g_assert_cmpfloat(p.beside, ==, 2000);
        steps(3 * PLAN_IDLE, 500, 2000);
        g_assert_cmpfloat(p.need, >=, 4000);
        g_assert_false(plan_gives_back(&p));
        /* Where the host has told less than it holds, nothing is beside it, and not less. */
        has = 1000;
        plan_init(&p, 8000, STEP_MS);
        steps(1, 3000, 2000);
        g_assert_cmpfloat(p.beside, ==, 0);
        has = 2500;
        plan_init(&p, 4000, STEP_MS);
        steps(PLAN_SETTLE, 2500, 2000);
        /* Over. */
        int waited = 0;
        for (; !plan_gives_back(&p) && waited < 3000; waited++)
                steps(1, 300, 0);
        g_assert_cmpint(waited, <, 3000);
        g_assert_cmpfloat(before, <, 1000);
}

/* Declared while the guest is busy, with what it was given before for another reason. */
static void test_declared_when_busy(void)
{
        enum plan_trigger t;
        begin(2000);
        own = spare = 1000;
        steps(300, 1900, 0);
        (void)ask(&t);
        steps(1, 1900, 1000);
        g_assert_cmpfloat(p.need, >=, 2899);
        g_assert_true(asks(PLAN_PROJECTION));
        /* In another window, too. */
        steps(100, 1900, 0);
        (void)ask(&t);
        steps(1, 1900, 1000);
        g_assert_cmpfloat(p.need, >=, 2899);
        g_assert_true(asks(PLAN_PROJECTION));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/plan/if-and-only-if", test_if_and_only_if);
        g_test_add_func("/agent/plan/steady", test_steady);
        g_test_add_func("/agent/plan/no-trigger", test_no_trigger);
        g_test_add_func("/agent/plan/settles", test_settles);
        g_test_add_func("/agent/plan/one-at-a-time", test_one_at_a_time);
        g_test_add_func("/agent/plan/back-off", test_back_off);
        g_test_add_func("/agent/plan/again", test_again);
        g_test_add_func("/agent/plan/gives-back", test_gives_back);
        g_test_add_func("/agent/plan/declared", test_declared);
        g_test_add_func("/agent/plan/declared-when-busy", test_declared_when_busy);
        return g_test_run();
}

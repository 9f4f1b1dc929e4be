/* SPDX-License-Identifier: Apache-2.0 */
/* Who leads: every cell, how long pauses get, and two against a store that forgets leases: never both sure.
 */
#include <glib.h>

#include "core/lead.h"

static enum lead_call step(struct lead *l, enum lead_event_kind kind, int64_t now_ms)
{
        const struct lead_event ev = {.kind = kind, .now_ms = now_ms, .sent_ms = now_ms, .ttl_ms = 9000};
        return lead_step(l, &ev);
}

/* As far as a state, at 1000. */
static struct lead at(enum lead_state state)
{
        struct lead l;
        g_assert_cmpint(lead_begin(&l), ==, LEAD_CALL_LOOK);
        if (state >= LEAD_GRANTING)
                g_assert_cmpint(step(&l, LEAD_EV_FREE, 1000), ==, LEAD_CALL_GRANT);
        if (state >= LEAD_CLAIMING)
                g_assert_cmpint(step(&l, LEAD_EV_LEASE, 1000), ==, LEAD_CALL_CLAIM);
        if (state >= LEAD_LEADING)
                g_assert_cmpint(step(&l, LEAD_EV_WON, 1000), ==, LEAD_CALL_KEEP);
        if (state >= LEAD_LOST)
                g_assert_cmpint(step(&l, LEAD_EV_GONE, 1000), ==, LEAD_CALL_NONE);
        g_assert_cmpint(l.state, ==, state);
        return l;
}

static void test_cells(void)
{
        static const struct {
                enum lead_state to[LEAD_EV_N];
                enum lead_call call[LEAD_EV_N];
        } want[LEAD_STATE_N] = {
                [LEAD_LOOKING] = {{0, LEAD_LOOKING, LEAD_GRANTING, LEAD_LOOKING, LEAD_LOOKING, LEAD_LOOKING,
                                   LEAD_LOOKING, LEAD_LOOKING},
                                  {0, LEAD_CALL_LOOK, LEAD_CALL_GRANT}         },
                [LEAD_GRANTING] = {{0, LEAD_GRANTING, LEAD_GRANTING, LEAD_GRANTING, LEAD_CLAIMING,
                                    LEAD_GRANTING, LEAD_GRANTING, LEAD_LOOKING},
                                  {0, 0, 0, 0, LEAD_CALL_CLAIM}                },
                [LEAD_CLAIMING] = {{0, LEAD_CLAIMING, LEAD_CLAIMING, LEAD_LOOKING, LEAD_CLAIMING,
                                    LEAD_LEADING, LEAD_LOOKING, LEAD_CLAIMING},
                                  {0, LEAD_CALL_CLAIM, 0, 0, 0, LEAD_CALL_KEEP}},
                [LEAD_LEADING] = {{0, LEAD_LEADING, LEAD_LOST, LEAD_LOST, LEAD_LEADING, LEAD_LEADING,
                                   LEAD_LOST, LEAD_LEADING},
                                  {0, LEAD_CALL_KEEP}                          },
                [LEAD_LOST] = {{0, LEAD_LOST, LEAD_LOST, LEAD_LOST, LEAD_LOST, LEAD_LOST, LEAD_LOST,
                                LEAD_LOST},
                                  {0}                                          },
        };
        for (enum lead_state s = LEAD_LOOKING; s < LEAD_STATE_N; s++) {
                for (enum lead_event_kind k = LEAD_EV_TIME; k < LEAD_EV_N; k++) {
                        struct lead l = at(s);
                        g_assert_cmpint(step(&l, k, 1001), ==, want[s].call[k]);
                        g_assert_cmpint(l.state, ==, want[s].to[k]);
                        g_assert_cmpint(lead_is_sure(&l, 1001), ==, want[s].to[k] == LEAD_LEADING);
                }
                g_assert_cmpstr(lead_state_name(s), !=, "none");
        }
}

/* It is sure from when the lease was asked for, not from when the answer came. */
static void test_sure(void)
{
        struct lead l = at(LEAD_LEADING);
        g_assert_true(lead_is_sure(&l, 9999));
        g_assert_false(lead_is_sure(&l, 10000));
        const struct lead_event late = {
                .kind = LEAD_EV_LEASE, .now_ms = 9000, .sent_ms = 4000, .ttl_ms = 9000};
        (void)lead_step(&l, &late);
        g_assert_true(lead_is_sure(&l, 12999));
        g_assert_false(lead_is_sure(&l, 13000));
        for (int i = 0; i < 20; i++)
                (void)step(&l, LEAD_EV_FAILED, 12999);
        g_assert_cmpint(l.state, ==, LEAD_LEADING);
}

/* It is lost when the lease ends, at the latest: with a call under way, after one that failed, and also where
 * nobody says so. That it lives still counts, also late. */
static void test_end(void)
{
        struct lead l = at(LEAD_LEADING); /* KEEP is under way */
        g_assert_cmpint(l.due_ms, ==, 10000);
        struct lead late = l;
        g_assert_cmpint(step(&l, LEAD_EV_TIME, 10000), ==, LEAD_CALL_NONE);
        g_assert_cmpint(l.state, ==, LEAD_LOST);
        g_assert_cmpint(l.due_ms, ==, 0);
        (void)step(&l, LEAD_EV_LEASE, 10001); /* its answer */
        g_assert_cmpint(l.state, ==, LEAD_LOST);

        (void)step(&late, LEAD_EV_FAILED, 9900);
        g_assert_cmpint(late.due_ms, ==, 10000);
        l = late;
        (void)step(&l, LEAD_EV_FAILED, 10000);
        g_assert_cmpint(l.state, ==, LEAD_LOST);
        (void)step(&late, LEAD_EV_LEASE, 11000);
        g_assert_cmpint(late.state, ==, LEAD_LEADING);
        g_assert_cmpint(late.due_ms, ==, 14000);
        const struct lead_event old = {
                .kind = LEAD_EV_LEASE, .now_ms = 21000, .sent_ms = 11000, .ttl_ms = 9000};
        (void)lead_step(&late, &old); /* a machine that stood still meanwhile */
        g_assert_cmpint(late.due_ms, ==, 20000);
        g_assert_cmpint(step(&late, LEAD_EV_TIME, 21000), ==, LEAD_CALL_NONE);
        g_assert_cmpint(late.state, ==, LEAD_LOST);
}

static void test_pauses(void)
{
        static const int64_t want[] = {250, 500, 1000, 2000, 4000, 4000, 4000};
        struct lead l = at(LEAD_LOOKING);
        for (size_t i = 0; i < G_N_ELEMENTS(want); i++) {
                (void)step(&l, LEAD_EV_FAILED, 0);
                g_assert_cmpint(l.due_ms, ==, want[i]);
                (void)step(&l, LEAD_EV_TIME, l.due_ms); /* the call; not yet an answer */
                g_assert_cmpint(l.due_ms, ==, 0);
        }
        (void)step(&l, LEAD_EV_HELD, 0);
        g_assert_cmpint(l.due_ms, ==, LEAD_POLL_MS);
        (void)step(&l, LEAD_EV_FAILED, 0);
        g_assert_cmpint(l.due_ms, ==, 250);
        l = at(LEAD_LEADING);
        for (int i = 0; i < 9; i++)
                (void)step(&l, LEAD_EV_FAILED, 1000);
        g_assert_cmpint(l.due_ms, ==, 1000 + 1500); /* a sixth of the lease */
}

/* A store that is full: it can be read, but gives no lease. It is not asked four times a second for ever. */
static void test_refused(void)
{
        static const int64_t want[] = {250, 500, 1000, 2000, 4000, 4000, 4000};
        struct lead l = at(LEAD_LOOKING);
        for (size_t i = 0; i < G_N_ELEMENTS(want); i++) {
                g_assert_cmpint(step(&l, LEAD_EV_FREE, 0), ==, LEAD_CALL_GRANT);
                g_assert_cmpint(step(&l, LEAD_EV_FAILED, 0), ==, LEAD_CALL_NONE);
                g_assert_cmpint(l.due_ms, ==, want[i]);
                g_assert_cmpint(step(&l, LEAD_EV_TIME, l.due_ms), ==, LEAD_CALL_LOOK);
        }
        (void)step(&l, LEAD_EV_FREE, 0);
        (void)step(&l, LEAD_EV_LEASE, 0);
        (void)step(&l, LEAD_EV_FAILED, 0);
        g_assert_cmpint(l.due_ms, ==, 250);
}

/* A claim is repeated while its lease lives, and not beyond. */
static void test_claim_again(void)
{
        struct lead l = at(LEAD_CLAIMING);
        (void)step(&l, LEAD_EV_FAILED, 2000);
        g_assert_cmpint(step(&l, LEAD_EV_TIME, 9999), ==, LEAD_CALL_CLAIM);
        (void)step(&l, LEAD_EV_FAILED, 9999);
        g_assert_cmpint(step(&l, LEAD_EV_TIME, 10000), ==, LEAD_CALL_LOOK);
        g_assert_cmpint(l.end_ms, ==, 0);
}

/* Won when most of the lease had gone by: it is kept at once, not a third of it later. */
static void test_won_late(void)
{
        struct lead l = at(LEAD_CLAIMING);
        (void)step(&l, LEAD_EV_FAILED, 4000);
        (void)step(&l, LEAD_EV_TIME, l.due_ms);
        g_assert_cmpint(step(&l, LEAD_EV_WON, 9000), ==, LEAD_CALL_KEEP);
        g_assert_true(lead_is_sure(&l, 9000));
        (void)step(&l, LEAD_EV_LEASE, 9000);
        g_assert_cmpint(l.due_ms, ==, 12000);
        g_assert_true(lead_is_sure(&l, 17999));
}

/* ---- two, and a store ---- */

struct store {
        int64_t lease_end[2]; /* 0: none */
        int holder;           /* -1: nobody */
};

struct one {
        struct lead l;
        enum lead_call call; /* under way */
        int64_t sent_ms, heard_ms;
        enum lead_event_kind heard; /* the answer, on its way; 0: the store has not heard the call yet */
};

static void expire(struct store *s, int64_t now_ms)
{
        for (int i = 0; i < 2; i++)
                if (s->lease_end[i] && now_ms >= s->lease_end[i]) {
                        s->lease_end[i] = 0;
                        s->holder = s->holder == i ? -1 : s->holder;
                }
}

static enum lead_event_kind serve(struct store *s, int who, enum lead_call call, int64_t now_ms)
{
        switch (call) {
        case LEAD_CALL_NONE:
                break;
        case LEAD_CALL_LOOK:
                return s->holder < 0 ? LEAD_EV_FREE : LEAD_EV_HELD;
        case LEAD_CALL_GRANT:
                if (s->holder != who) /* a lease of its own; one before is another, and holds nothing */
                        s->lease_end[who] = now_ms + 5000;
                return s->holder == who ? LEAD_EV_FAILED : LEAD_EV_LEASE;
        case LEAD_CALL_CLAIM:
                if (!s->lease_end[who])
                        return LEAD_EV_GONE;
                if (s->holder < 0)
                        s->holder = who;
                return s->holder == who ? LEAD_EV_WON : LEAD_EV_HELD;
        case LEAD_CALL_KEEP:
                if (!s->lease_end[who])
                        return LEAD_EV_GONE;
                s->lease_end[who] = now_ms + 5000;
                return LEAD_EV_LEASE;
        }
        return 0;
}

static void move(struct store *s, struct one *o, int who, int64_t now_ms)
{
        if (o->l.state == LEAD_LOST) {
                o->call = lead_begin(&o->l);
                o->sent_ms = now_ms;
                o->heard = 0;
        }
        if (o->l.due_ms && now_ms >= o->l.due_ms) { /* while it leads also with a call under way */
                o->call = step(&o->l, LEAD_EV_TIME, now_ms);
                o->sent_ms = now_ms;
        } else if (o->call && !o->heard && g_test_rand_int_range(0, 4) == 0) {
                o->heard = serve(s, who, o->call, now_ms);
        } else if (o->call &&
                   (now_ms - o->sent_ms > 3000 || (o->heard && g_test_rand_int_range(0, 4) == 0))) {
                bool is_lost = !o->heard || g_test_rand_int_range(0, 8) == 0;
                const struct lead_event ev = {.kind = is_lost ? LEAD_EV_FAILED : o->heard,
                                              .now_ms = now_ms,
                                              .sent_ms = o->sent_ms,
                                              .ttl_ms = 5000};
                o->heard = 0;
                o->call = lead_step(&o->l, &ev);
                o->sent_ms = now_ms;
        }
}

static void test_two(void)
{
        struct store s = {.holder = -1};
        struct one both[2] = {0};
        int led[2] = {0}, changes = 0, last = -1;
        for (int i = 0; i < 2; i++)
                both[i].call = lead_begin(&both[i].l);
        for (int64_t now_ms = 1; now_ms < 2000000; now_ms += g_test_rand_int_range(1, 200)) {
                expire(&s, now_ms);
                if (g_test_rand_int_range(0, 400) == 0) /* a lease is taken away: its holder may not know */
                        now_ms += 6000;
                expire(&s, now_ms);
                for (int i = 0; i < 2; i++)
                        move(&s, &both[i], i, now_ms);
                bool sure[2] = {lead_is_sure(&both[0].l, now_ms), lead_is_sure(&both[1].l, now_ms)};
                g_assert_false(sure[0] && sure[1]);
                for (int i = 0; i < 2; i++)
                        if (sure[i]) {
                                g_assert_cmpint(s.holder, ==, i);
                                led[i]++;
                                changes += last != i;
                                last = i;
                        }
        }
        g_assert_true(led[0] > 0 && led[1] > 0 && changes > 10);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/lead/cells", test_cells);
        g_test_add_func("/lead/sure", test_sure);
        g_test_add_func("/lead/end", test_end);
        g_test_add_func("/lead/pauses", test_pauses);
        g_test_add_func("/lead/refused", test_refused);
        g_test_add_func("/lead/claim-again", test_claim_again);
        g_test_add_func("/lead/won-late", test_won_late);
        g_test_add_func("/lead/two", test_two);
        return g_test_run();
}

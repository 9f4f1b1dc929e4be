/* SPDX-License-Identifier: Apache-2.0 */
/* What the manager does about an order: by table what policy takes, then random hosts that say anything, lose
 * answers and forget, with a manager that dies: it always ends, within its rounds, and leaves nothing behind.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "core/order.h"

enum { NOW = 1000000 };

static struct order_effects effects;

static struct order make(size_t n_to, int64_t wait_ms)
{
        struct order o = {
                .id = "o1", .key = 0xab, .vm = "v", .from = "a", .n_to = n_to, .until_ms = NOW + wait_ms};
        for (size_t i = 0; i < n_to; i++)
                (void)g_snprintf(o.to[i], sizeof(o.to[i]), "b%zu", i);
        o.level = (struct level){.total_ms = 1000, .downtime_ms = 100};
        return o;
}

static void see(struct order *o, enum order_seen seen, int64_t now, enum reason reason)
{
        const struct order_event ev = {
                .kind = ORDER_EV_SEEN, .now_ms = now, .seen = seen, .reason = reason, .sentence = "so it is"};
        order_step(o, &ev, &effects);
}

/* Nothing else is begun before it is certain that it was not. */
static void refuse(struct order *o, int64_t now, enum reason reason)
{
        unsigned round = o->round;
        see(o, ORDER_SEEN_REFUSED, now, reason);
        g_assert_cmpint(o->state, ==, ORDER_ASKING);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        g_assert_cmpuint(o->round, ==, round);
        see(o, ORDER_SEEN_UNKNOWN, now, 0);
}

static void offer(struct order *o, enum order_seen seen, int64_t total, int64_t downtime)
{
        const struct order_event ev = {.kind = ORDER_EV_SEEN,
                                       .now_ms = NOW,
                                       .seen = seen,
                                       .offers = {{.total_ms = total, .downtime_ms = downtime}},
                                       .n_offers = 1,
                                       .reason = REASON_NO_CAPACITY};
        order_step(o, &ev, &effects);
}

static void happen(struct order *o, enum order_event_kind kind, int64_t now)
{
        const struct order_event ev = {.kind = kind, .now_ms = now};
        order_step(o, &ev, &effects);
}

/* ---- policy ---- */

static const struct row {
        struct level level, floor, offer;
        bool is_taken;
} rows[] = {
        {{1000, 100}, {0, 0},      {1000, 100},  true }, /* as it was asked */
        {{1000, 100}, {0, 0},      {1001, 100},  false},
        {{1000, 100}, {0, 0},      {1000, 101},  false},
        {{1000, 100}, {2000, 0},   {2000, 100},  true },
        {{1000, 100}, {2000, 0},   {2001, 100},  false},
        {{1000, 100}, {2000, 0},   {2000, 200},  false},
        {{1000, 100}, {2000, 300}, {2000, 300},  true },
        {{1000, 100}, {500, 50},   {1000, 100},  true }, /* a floor above the level is the level */
        {{1000, 0},   {2000, 0},   {2000, 9000}, true }, /* nobody asked for that */
        {{0, 100},    {0, 200},    {9000, 150},  true },
        {{0, 100},    {0, 200},    {9000, 0},    false}, /* that is no bound at all */
        {{1000, 100}, {0, 0},      {0, 0},       false},
};

static void test_policy(void)
{
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct order o = make(1, 0);
                o.level = rows[i].level;
                o.floor = rows[i].floor;
                order_begin(&o, NOW, &effects);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_ASK);
                g_assert_true(effects.is_changed);
                offer(&o, ORDER_SEEN_COUNTERED, rows[i].offer.total_ms, rows[i].offer.downtime_ms);
                g_test_message("row %zu: %s", i, o.sentence);
                g_assert_cmpint(o.state, ==, rows[i].is_taken ? ORDER_ACCEPTING : ORDER_DECLINING);
                g_assert_cmpint(effects.call, ==, rows[i].is_taken ? ORDER_CALL_ACCEPT : ORDER_CALL_BREAK);
                g_assert_true(effects.is_decided && *o.sentence);
                if (rows[i].is_taken) {
                        g_assert_cmpint(order_level(&o)->total_ms, ==, rows[i].offer.total_ms);
                        g_assert_cmpint(order_level(&o)->downtime_ms, ==, rows[i].offer.downtime_ms);
                }
        }
}

/* What a round makes of an id fits, however long that is. */
static void test_long_id(void)
{
        struct order o = make(1, 60000);
        char id[ORDER_MOVE_ID], again[ORDER_MOVE_ID];
        memset(o.id, 'x', ORDER_ID - 1);
        order_begin(&o, NOW, &effects);
        o.round = ORDER_ROUNDS_MAX;
        g_assert_true(g_str_has_suffix(order_move_id(&o, id), ".000000ab.64"));
        o.round--;
        g_assert_cmpstr(order_move_id(&o, again), !=, id);
}

static void test_kept(void)
{
        struct order o = make(1, 0);
        char id[ORDER_MOVE_ID];
        order_begin(&o, NOW, &effects);
        g_assert_cmpstr(order_move_id(&o, id), ==, "o1.000000ab.1");
        see(&o, ORDER_SEEN_GOING, NOW, 0);
        g_assert_cmpint(o.state, ==, ORDER_MOVING);
        g_assert_cmpint(o.due_ms, ==, NOW + ORDER_POLL_MS);
        happen(&o, ORDER_EV_TIME, o.due_ms);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        see(&o, ORDER_SEEN_DONE, NOW + 900, 0);
        g_assert_cmpint(o.state, ==, ORDER_DONE);
        g_assert_cmpint(o.ended_ms, ==, NOW + 900);
        see(&o, ORDER_SEEN_LOST, NOW + 901, REASON_PEER_LOST); /* late */
        g_assert_cmpint(o.state, ==, ORDER_DONE);
        g_assert_false(effects.is_changed);
}

/* Declining is over when the host says that nothing is left of it, and not before. */
static void test_declined(void)
{
        struct order o = make(1, 0);
        order_begin(&o, NOW, &effects);
        offer(&o, ORDER_SEEN_COUNTERED, 5000, 500);
        for (int i = 0; i < 3; i++) { /* told once a pause, whatever it answers */
                g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
                see(&o, ORDER_SEEN_COUNTERED, NOW, 0);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
                g_assert_cmpint(o.due_ms, ==, NOW + ORDER_POLL_MS);
                happen(&o, ORDER_EV_TIME, o.due_ms);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
                see(&o, ORDER_SEEN_COUNTERED, NOW, 0);
        }
        g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
        see(&o, ORDER_SEEN_GOING, NOW, 0);
        g_assert_cmpint(o.state, ==, ORDER_DECLINING);
        see(&o, ORDER_SEEN_ENDED, NOW + 5, REASON_CANCELLED);
        g_assert_cmpint(o.state, ==, ORDER_DECLINED);
        g_assert_cmpint(o.reason, ==, REASON_NO_CAPACITY);
}

static void test_another_host_then_later(void)
{
        struct order o = make(2, 3000);
        order_begin(&o, NOW, &effects);
        offer(&o, ORDER_SEEN_COUNTERED, 5000, 500);
        see(&o, ORDER_SEEN_ENDED, NOW, REASON_CANCELLED);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
        g_assert_cmpstr(order_host(&o), ==, "b1");
        g_assert_cmpuint(o.round, ==, 2);
        refuse(&o, NOW, REASON_BUSY);
        g_assert_cmpint(o.state, ==, ORDER_WAITING);
        g_assert_cmpint(o.next_ms, ==, NOW + 3000); /* not after until_ms */
        happen(&o, ORDER_EV_RESTART, NOW + 1);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
        g_assert_cmpint(o.due_ms, ==, o.next_ms);
        happen(&o, ORDER_EV_TIME, o.next_ms);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
        g_assert_cmpstr(order_host(&o), ==, "b0");
        see(&o, ORDER_SEEN_UNASKED, NOW + 3000, REASON_NOT_FOUND);
        refuse(&o, NOW + 3000, REASON_BUSY);
        g_assert_cmpint(o.state, ==, ORDER_FAILED);
        g_assert_cmpint(o.reason, ==, REASON_BUSY);
        g_assert_cmpuint(o.round, ==, 4);
}

static void see_earliest(struct order *o, int64_t now_ms, int64_t earliest_ms)
{
        struct order_event ev = {.kind = ORDER_EV_SEEN,
                                 .now_ms = now_ms,
                                 .seen = ORDER_SEEN_ENDED,
                                 .reason = REASON_NO_CAPACITY,
                                 .earliest_ms = earliest_ms};
        order_step(o, &ev, &effects);
}

/* Asked again when it is possible, where each host has said when, and not by pauses. */
static void test_when_it_is_possible(void)
{
        struct order o = make(1, 100000);
        int64_t now = NOW;
        order_begin(&o, now, &effects);
        see_earliest(&o, now, 20000);
        g_assert_cmpint(o.state, ==, ORDER_WAITING);
        g_assert_cmpint(o.next_ms, ==, NOW + 20000);
        happen(&o, ORDER_EV_TIME, now = o.next_ms);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
        see_earliest(&o, now, 1); /* a host may say anything */
        g_assert_cmpint(o.next_ms, ==, now + ORDER_RETRY_FIRST_MS);
        happen(&o, ORDER_EV_TIME, now = o.next_ms);
        see_earliest(&o, now, INT64_MAX); /* in vain; but something may be given back before its time */
        g_assert_cmpint(o.state, ==, ORDER_WAITING);
        g_assert_cmpint(o.next_ms, <, o.until_ms);
        happen(&o, ORDER_EV_TIME, now = o.next_ms);
        see_earliest(&o, now, 0);
        g_assert_cmpint(o.state, ==, ORDER_WAITING);
        g_assert_cmpint(o.next_ms, >, now);

        o = make(2, 100000); /* the first of two; of one that does not say it may be earlier */
        order_begin(&o, NOW, &effects);
        see_earliest(&o, NOW, 50000);
        see_earliest(&o, NOW, 30000);
        g_assert_cmpint(o.next_ms, ==, NOW + 30000);
        happen(&o, ORDER_EV_TIME, now = o.next_ms);
        see_earliest(&o, now, 50000);
        see_earliest(&o, now, 0);
        g_assert_cmpint(o.state, ==, ORDER_WAITING);
        g_assert_cmpint(o.next_ms, <, now + 30000);
}

/* What nobody holds is asked for as a round of its own, at what was offered. */
static void test_offer_that_is_not_held(void)
{
        struct order o = make(1, 0);
        o.floor.total_ms = 3000;
        order_begin(&o, NOW, &effects);
        offer(&o, ORDER_SEEN_ENDED, 3000, 100);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
        g_assert_cmpint(order_level(&o)->total_ms, ==, 3000);
        g_assert_cmpuint(o.round, ==, 2);
        offer(&o, ORDER_SEEN_ENDED, 3000, 100); /* once is enough */
        g_assert_cmpint(o.state, ==, ORDER_DECLINED);
}

/* A restart looks before it asks: what was begun is not begun twice. */
static void test_restart(void)
{
        struct order o = make(1, 0);
        order_begin(&o, NOW, &effects);
        happen(&o, ORDER_EV_RESTART, NOW);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        see(&o, ORDER_SEEN_UNKNOWN, NOW, 0);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_ASK);
        g_assert_cmpuint(o.round, ==, 1);
        see(&o, ORDER_SEEN_LOST, NOW, REASON_TIMEOUT);
        happen(&o, ORDER_EV_TIME, o.due_ms);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        see(&o, ORDER_SEEN_DONE, NOW, 0);
        g_assert_cmpint(o.state, ==, ORDER_DONE);
}

/* A host that refuses, and has begun it: one that was stopped over its answer, say. */
static void test_refused_and_begun(void)
{
        struct order o = make(2, 60000);
        order_begin(&o, NOW, &effects);
        see(&o, ORDER_SEEN_REFUSED, NOW, REASON_BUSY);
        see(&o, ORDER_SEEN_LOST, NOW, REASON_PEER_LOST);
        happen(&o, ORDER_EV_TIME, o.due_ms);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        see(&o, ORDER_SEEN_GOING, NOW + 5, 0);
        g_assert_cmpint(o.state, ==, ORDER_MOVING);
        g_assert_cmpuint(o.round, ==, 1);
        see(&o, ORDER_SEEN_UNKNOWN, NOW + 6, 0); /* that is no refusal of this one any more */
        g_assert_cmpint(o.reason, ==, REASON_STALE);
}

/* A host that refuses whatever it is asked, the look as well: it is looked at with pauses, and given up. */
static void test_refuses_all(void)
{
        struct order o = make(1, 60000);
        int64_t now = NOW;
        int looks = 0;
        order_begin(&o, now, &effects);
        see(&o, ORDER_SEEN_REFUSED, now, REASON_DENIED);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        for (; !order_is_over(&o) && looks <= ORDER_LOST_MS; looks++) {
                see(&o, ORDER_SEEN_REFUSED, now, REASON_DENIED);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
                g_assert_true(looks == 0 || !effects.is_changed || order_is_over(&o)); /* recorded once */
                if (order_is_over(&o))
                        break;
                g_assert_cmpint(o.due_ms, ==, now + ORDER_RETRY_FIRST_MS);
                happen(&o, ORDER_EV_TIME, now = o.due_ms);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        }
        g_assert_cmpint(o.state, ==, ORDER_FAILED);
        g_assert_cmpint(o.reason, ==, REASON_PEER_LOST);
        g_assert_cmpint(looks, ==, ORDER_LOST_MS / ORDER_RETRY_FIRST_MS + 1);
        g_assert_cmpint(now, >=, o.until_ms);
}

/* It asks until its time is over, however long that is, and never waits beyond it. */
static void test_rounds_last(void)
{
        for (int64_t wait = 1000; wait <= LEVEL_MAX_MS; wait *= 7) {
                struct order o = make((size_t)(wait % 3 + 1), wait);
                int64_t now = NOW;
                order_begin(&o, now, &effects);
                for (int i = 0; i < ORDER_ROUNDS_MAX && !order_is_over(&o); i++) {
                        refuse(&o, now, REASON_BUSY);
                        g_assert_true(o.state != ORDER_WAITING ||
                                      (o.next_ms > now && o.next_ms <= o.until_ms));
                        if (o.state == ORDER_WAITING)
                                happen(&o, ORDER_EV_TIME, now = o.next_ms);
                }
                g_assert_cmpint(o.state, ==, ORDER_FAILED);
                g_assert_cmpint(now, ==, o.until_ms);
        }
}

/* So it does where hosts say again and again that it is possible in a moment, and it is not. */
static void test_possible_in_a_moment(void)
{
        for (int64_t wait = 1000; wait <= LEVEL_MAX_MS; wait *= 7) {
                struct order o = make((size_t)(wait % 3 + 1), wait);
                int64_t now = NOW, most = 0;
                order_begin(&o, now, &effects);
                for (int i = 0; i < ORDER_ROUNDS_MAX && !order_is_over(&o); i++) {
                        see_earliest(&o, now, i % 2 ? 1 : 10000);
                        if (o.state != ORDER_WAITING)
                                continue;
                        g_assert_true(o.next_ms > now && o.next_ms <= o.until_ms);
                        most = o.next_ms - now > most ? o.next_ms - now : most;
                        happen(&o, ORDER_EV_TIME, now = o.next_ms);
                }
                g_assert_cmpint(o.state, ==, ORDER_DECLINED);
                g_assert_cmpint(now, ==, o.until_ms);
                g_assert_cmpint(most, <=, 10000 + wait / 8); /* and not with one long wait */
        }
        struct order o = make(1, 3600000); /* what is said is believed at first */
        order_begin(&o, NOW, &effects);
        see_earliest(&o, NOW, 10000);
        g_assert_cmpint(o.next_ms, ==, NOW + 10000);
        happen(&o, ORDER_EV_TIME, NOW + 10000);
        see_earliest(&o, NOW + 10000, 10000);
        g_assert_cmpint(o.next_ms, ==, NOW + 20000);
}

static void test_a_clock_that_is_set_back(void)
{
        struct order o = make(1, 10000);
        order_begin(&o, NOW, &effects);
        see(&o, ORDER_SEEN_LOST, NOW, REASON_PEER_LOST);
        see(&o, ORDER_SEEN_LOST, 1000, REASON_PEER_LOST);
        g_assert_cmpint(o.lost_ms, ==, 1000);
        g_assert_cmpint(o.due_ms, ==, 1000 + ORDER_RETRY_FIRST_MS);
        see(&o, ORDER_SEEN_UNASKED, NOW, REASON_BUSY);
        g_assert_cmpint(o.state, ==, ORDER_WAITING);
        happen(&o, ORDER_EV_RESTART, 1000);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
}

/* What policy does not take waits for somebody, for as long as the host holds it. */
static void test_somebody_is_asked(void)
{
        const struct level other = {.total_ms = 4999, .downtime_ms = 500};
        for (int way = 0; way < 4; way++) {
                struct order o = make(1, 0);
                struct err err = {0};
                o.is_asking = true;
                order_begin(&o, NOW, &effects);
                g_assert_cmpint(order_accept(&o, NULL, NOW, &effects, &err), ==, -ESTALE);
                offer(&o, ORDER_SEEN_COUNTERED, 5000, 500);
                g_assert_cmpint(o.state, ==, ORDER_OFFERED);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
                happen(&o, ORDER_EV_RESTART, NOW);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
                offer(&o, ORDER_SEEN_COUNTERED, 5000, 500);
                g_assert_cmpint(o.state, ==, ORDER_OFFERED);
                g_assert_cmpint(order_accept(&o, &other, NOW, &effects, &err), ==, -EINVAL);
                if (way == 0) {
                        g_assert_cmpint(order_accept(&o, &o.offer, NOW, &effects, &err), ==, 0);
                        g_assert_cmpint(o.state, ==, ORDER_ACCEPTING);
                        g_assert_cmpint(effects.call, ==, ORDER_CALL_ACCEPT);
                        g_assert_cmpint(o.taken.total_ms, ==, 5000);
                        g_assert_cmpint(order_accept(&o, NULL, NOW, &effects, &err), ==, 0); /* once more */
                        g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
                } else if (way == 1) {
                        g_assert_cmpint(order_decline(&o, NOW, &effects, &err), ==, 0);
                        g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
                        g_assert_cmpint(order_decline(&o, NOW, &effects, &err), ==, 0);
                        g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
                        see(&o, ORDER_SEEN_ENDED, NOW, REASON_CANCELLED);
                        g_assert_cmpint(o.state, ==, ORDER_DECLINED);
                } else if (way == 2) { /* it lapsed */
                        see(&o, ORDER_SEEN_ENDED, NOW, REASON_TIMEOUT);
                        g_assert_true(order_is_over(&o));
                        g_assert_cmpint(order_accept(&o, NULL, NOW, &effects, &err), ==, -ESTALE);
                } else { /* it was accepted at the host itself */
                        see(&o, ORDER_SEEN_GOING, NOW, 0);
                        g_assert_cmpint(o.state, ==, ORDER_MOVING);
                }
        }
}

/* While it is copied: down to the floor by policy, else somebody's; nobody has to. */
static void test_offered_on_the_way(void)
{
        struct order o = make(1, 0);
        struct err err = {0};
        o.floor.total_ms = 2000;
        order_begin(&o, NOW, &effects);
        offer(&o, ORDER_SEEN_GOING, 2000, 100);
        g_assert_cmpint(o.state, ==, ORDER_MOVING);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_ACCEPT);
        see(&o, ORDER_SEEN_GOING, NOW, 0);
        offer(&o, ORDER_SEEN_GOING, 3000, 100);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
        g_assert_true(effects.is_decided && o.offer.total_ms == 3000);
        offer(&o, ORDER_SEEN_GOING, 3000, 100);
        g_assert_false(effects.is_decided); /* said once */
        g_assert_cmpint(order_accept(&o, NULL, NOW, &effects, &err), ==, 0);
        g_assert_cmpint(o.state, ==, ORDER_MOVING);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_ACCEPT);
        g_assert_cmpint(o.taken.total_ms, ==, 3000);
        offer(&o, ORDER_SEEN_GOING, 4000, 100);
        g_assert_cmpint(order_decline(&o, NOW, &effects, &err), ==, 0);
        g_assert_cmpint(o.state, ==, ORDER_DECLINING);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
}

/* What somebody said is recorded before the host is told: it is told again where that got lost, or the
 * manager died over it. */
static void test_choice_gets_lost(void)
{
        for (int way = 0; way < 4; way++) {
                struct order o = make(1, 0);
                struct err err = {0};
                bool is_accept = way < 2;
                bool is_restart = way % 2 > 0;
                enum order_call call = is_accept ? ORDER_CALL_ACCEPT : ORDER_CALL_BREAK;
                order_begin(&o, NOW, &effects);
                offer(&o, ORDER_SEEN_GOING, 3000, 100);
                offer(&o, ORDER_SEEN_GOING, 3000, 100);
                if (is_accept)
                        g_assert_cmpint(order_accept(&o, NULL, NOW, &effects, &err), ==, 0);
                else
                        g_assert_cmpint(order_decline(&o, NOW, &effects, &err), ==, 0);
                g_assert_cmpint(effects.call, ==, call);
                if (!is_restart)
                        see(&o, ORDER_SEEN_LOST, NOW, REASON_PEER_LOST);
                happen(&o, is_restart ? ORDER_EV_RESTART : ORDER_EV_TIME, NOW + 1);
                if (is_accept || !is_restart) {
                        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
                        offer(&o, ORDER_SEEN_GOING, 3000, 100);
                }
                g_assert_cmpint(effects.call, ==, call);
                g_assert_cmpint(o.state, ==, is_accept ? ORDER_MOVING : ORDER_DECLINING);
                if (!is_accept)
                        continue;
                g_assert_cmpint(o.taken.total_ms, ==, 3000);
                for (int i = 1; i < ORDER_ACCEPTS; i++)
                        offer(&o, ORDER_SEEN_GOING, 3000, 100);
                g_assert_cmpint(effects.call, ==, ORDER_CALL_ACCEPT);
                offer(&o, ORDER_SEEN_GOING, 3000, 100); /* it does not take it up: somebody is told */
                g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
                g_assert_true(effects.is_decided && o.offer.total_ms == 3000);
        }
}

static void test_silence(void)
{
        struct order o = make(1, 0);
        order_begin(&o, NOW, &effects);
        see(&o, ORDER_SEEN_LOST, NOW, REASON_PEER_LOST);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
        see(&o, ORDER_SEEN_LOST, NOW + ORDER_LOST_MS, REASON_PEER_LOST);
        g_assert_cmpint(o.state, ==, ORDER_ASKING);
        see(&o, ORDER_SEEN_LOST, NOW + ORDER_LOST_MS + 1, REASON_PEER_LOST);
        g_assert_cmpint(o.state, ==, ORDER_FAILED);
        g_assert_cmpint(o.reason, ==, REASON_PEER_LOST);
}

static void test_cancel(void)
{
        struct order o = make(1, 0);
        order_begin(&o, NOW, &effects);
        see(&o, ORDER_SEEN_GOING, NOW, 0);
        happen(&o, ORDER_EV_CANCEL, NOW);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
        see(&o, ORDER_SEEN_LOST, NOW, REASON_PEER_LOST);
        happen(&o, ORDER_EV_TIME, o.due_ms);
        g_assert_cmpint(effects.call, ==, ORDER_CALL_LOOK);
        see(&o, ORDER_SEEN_GOING, NOW, 0); /* so it has not heard */
        g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
        see(&o, ORDER_SEEN_DONE, NOW, 0); /* too late */
        g_assert_cmpint(o.state, ==, ORDER_DONE);
        o = make(1, 10000);
        order_begin(&o, NOW, &effects);
        refuse(&o, NOW, REASON_BUSY);
        happen(&o, ORDER_EV_CANCEL, NOW);
        g_assert_cmpint(o.state, ==, ORDER_CANCELLED); /* there is nothing to break off */
        g_assert_cmpint(effects.call, ==, ORDER_CALL_NONE);
}

/* However long it might have been tried, whoever cancels does not wait for a host that is silent. */
static void test_cancel_at_a_silent_host(void)
{
        struct order o = make(1, LEVEL_MAX_MS);
        order_begin(&o, NOW, &effects);
        happen(&o, ORDER_EV_CANCEL, NOW);
        see(&o, ORDER_SEEN_LOST, NOW, REASON_PEER_LOST);
        see(&o, ORDER_SEEN_LOST, NOW + ORDER_LOST_MS, REASON_PEER_LOST);
        g_assert_cmpint(o.state, ==, ORDER_CANCELLING);
        see(&o, ORDER_SEEN_LOST, NOW + ORDER_LOST_MS + 1, REASON_PEER_LOST);
        g_assert_cmpint(o.state, ==, ORDER_FAILED);
        g_assert_cmpint(o.reason, ==, REASON_PEER_LOST);
}

static void test_an_offer_that_is_not_kept(void)
{
        struct order o = make(1, 0);
        o.floor.total_ms = 3000;
        order_begin(&o, NOW, &effects);
        int accepts = 0;
        while (o.state != ORDER_DECLINING) {
                offer(&o, ORDER_SEEN_COUNTERED, 3000, 100);
                accepts += effects.call == ORDER_CALL_ACCEPT;
                g_assert_cmpint(accepts, <=, ORDER_ACCEPTS + 1);
        }
        g_assert_cmpint(effects.call, ==, ORDER_CALL_BREAK);
}

/* ---- random hosts ---- */

/* The move of one round, at a host that is slow, forgets answers and decides as it likes. */
struct there {
        bool is_begun, is_over, is_done, is_held;
        unsigned round;
};

static enum order_seen look(const struct there *t, unsigned round)
{
        if (!t->is_begun || t->round != round)
                return ORDER_SEEN_UNKNOWN;
        return t->is_done   ? ORDER_SEEN_DONE
               : t->is_over ? ORDER_SEEN_ENDED
               : t->is_held ? ORDER_SEEN_COUNTERED
                            : ORDER_SEEN_GOING;
}

static void live_on(struct there *t, GRand *r)
{
        if (!t->is_begun || t->is_over || t->is_done)
                return;
        switch (g_rand_int_range(r, 0, 6)) {
        case 0:
                t->is_over = true;
                break;
        case 1:
                t->is_done = !t->is_held;
                break;
        case 2:
                t->is_held = true;
                break;
        default:
                break;
        }
}

/* Does what the call says there; the answer. */
static enum order_seen call(struct there *t, enum order_call c, unsigned round, GRand *r, enum reason *reason)
{
        *reason = 0;
        if (c == ORDER_CALL_ASK && look(t, round) == ORDER_SEEN_UNKNOWN) {
                g_assert_false(t->is_begun && !t->is_over); /* never two moves at once */
                if (g_rand_int_range(r, 0, 3) == 0) {
                        *reason = g_rand_boolean(r) ? REASON_BUSY : REASON_INCOMPATIBLE;
                        return ORDER_SEEN_REFUSED;
                }
                *t = (struct there){.is_begun = true, .round = round, .is_held = g_rand_boolean(r)};
        } else if (c == ORDER_CALL_ACCEPT && look(t, round) == ORDER_SEEN_COUNTERED) {
                t->is_held = g_rand_int_range(r, 0, 4) == 0;
        } else if (c == ORDER_CALL_BREAK && look(t, round) != ORDER_SEEN_DONE && t->round == round) {
                t->is_over = g_rand_int_range(r, 0, 4) > 0;
        }
        *reason = REASON_NO_CAPACITY;
        return look(t, round);
}

static void random_order(uint32_t seed)
{
        GRand *r = g_rand_new_with_seed(seed);
        struct there t = {0};
        int64_t now = NOW;
        struct order o = make((size_t)g_rand_int_range(r, 1, 4), g_rand_boolean(r) ? 60000 : 0);
        o.floor.total_ms = g_rand_boolean(r) ? 5000 : 0;
        o.is_asking = g_rand_boolean(r);
        order_begin(&o, now, &effects);
        enum order_call want = effects.call;
        for (int i = 0; i < 5000 && !order_is_over(&o); i++) {
                now += g_rand_int_range(r, 0, 3000);
                live_on(&t, r);
                struct order_event ev = {.now_ms = now, .kind = ORDER_EV_SEEN};
                int what = g_rand_int_range(r, 0, 40);
                if (what == 0) {
                        ev.kind = ORDER_EV_RESTART;
                } else if (what == 1) {
                        ev.kind = ORDER_EV_CANCEL;
                } else if (want) {
                        bool is_late = what < 6; /* it was done, and the answer was lost */
                        ev.seen = call(&t, want, o.round, r, &ev.reason);
                        ev.seen = is_late ? ORDER_SEEN_LOST : ev.seen;
                        ev.offers[0] = (struct level){.total_ms = g_rand_boolean(r) ? 4000 : 9000,
                                                      .downtime_ms = 100};
                        ev.n_offers = 1;
                        want = ORDER_CALL_NONE;
                } else if (o.due_ms > 0) {
                        now = o.due_ms > now ? o.due_ms : now;
                        ev.now_ms = now;
                        ev.kind = ORDER_EV_TIME;
                } else {
                        g_error("seed %u: %s, and nothing will ever happen", seed, order_state_name(o.state));
                }
                if (what >= 36 && (o.offer.total_ms || o.offer.downtime_ms))
                        (void)(what < 38 ? order_accept(&o, NULL, now, &effects, NULL)
                                         : order_decline(&o, now, &effects, NULL));
                else
                        order_step(&o, &ev, &effects);
                want = effects.call ? effects.call : want;
                if (ev.kind == ORDER_EV_RESTART && !effects.call)
                        want = ORDER_CALL_NONE;
                g_assert_cmpuint(o.round, <=, ORDER_ROUNDS_MAX);
        }
        g_assert_true(order_is_over(&o));
        g_assert_true((o.state == ORDER_DONE) == t.is_done || o.reason == REASON_PEER_LOST);
        if (o.state == ORDER_DECLINED || o.state == ORDER_CANCELLED) /* nothing of it is left */
                g_assert_true(!t.is_begun || t.is_over || t.is_done);
        g_rand_free(r);
}

static void test_random(void)
{
        for (uint32_t seed = 1; seed <= 20000; seed++)
                random_order(seed);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/order/policy", test_policy);
        g_test_add_func("/order/long-id", test_long_id);
        g_test_add_func("/order/kept", test_kept);
        g_test_add_func("/order/declined", test_declined);
        g_test_add_func("/order/another-host-then-later", test_another_host_then_later);
        g_test_add_func("/core/order/when-it-is-possible", test_when_it_is_possible);
        g_test_add_func("/order/offer-that-is-not-held", test_offer_that_is_not_held);
        g_test_add_func("/order/restart", test_restart);
        g_test_add_func("/order/refused-and-begun", test_refused_and_begun);
        g_test_add_func("/order/refuses-all", test_refuses_all);
        g_test_add_func("/order/rounds-last", test_rounds_last);
        g_test_add_func("/order/possible-in-a-moment", test_possible_in_a_moment);
        g_test_add_func("/order/a-clock-that-is-set-back", test_a_clock_that_is_set_back);
        g_test_add_func("/order/somebody-is-asked", test_somebody_is_asked);
        g_test_add_func("/order/offered-on-the-way", test_offered_on_the_way);
        g_test_add_func("/order/choice-gets-lost", test_choice_gets_lost);
        g_test_add_func("/order/silence", test_silence);
        g_test_add_func("/order/cancel", test_cancel);
        g_test_add_func("/order/cancel-at-a-silent-host", test_cancel_at_a_silent_host);
        g_test_add_func("/order/an-offer-that-is-not-kept", test_an_offer_that_is_not_kept);
        g_test_add_func("/order/random", test_random);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of a move, cell by cell; what peers and drivers may say that they should not; what is held and
 * offered, and for how long. */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include "core/move-internal.h"

static const struct level asked = {8000, 100, false};
static const struct vector vector = {1000000, 100, 200, 1000};
static struct move_effects out;

static int step(struct move *m, int64_t now_ms, struct move_event ev)
{
        ev.now_ms = now_ms;
        return move_step(m, &ev, &out, NULL);
}

/* What answers the effect that is under way. */
static int report(struct move *m, int64_t now_ms, enum move_event_kind kind)
{
        return step(m, now_ms,
                    (struct move_event){
                            .kind = kind,
                            .token = m->row.step,
                            .attempt = m->row.attempt,
                            .vector = vector,
                            .reserve_ms = 9000,
                            .copy_ms = 8000,
                            .hold_ms = 2000,
                            .level = kind == MOVE_EV_ACCEPT ? asked : (struct level){9000, 50, false}
        });
}

static int hear(struct move *m, int64_t now_ms, enum move_says says)
{
        struct move_message p = {.says = says, .epoch = m->row.epoch, .attempt = m->row.attempt};
        if (says == MOVE_SAYS_RUN && p.epoch == m->row.first_epoch)
                p.epoch++;
        return step(m, now_ms, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p});
}

static const struct move_effect *find(enum move_effect_kind kind)
{
        for (size_t i = 0; i < out.n; i++)
                if (out.list[i].kind == kind)
                        return &out.list[i];
        return NULL;
}

/* A move in that state, as a restart finds it. */
static struct move in_state(enum move_state s)
{
        struct move_row row = {.id = "m1",
                               .state = s,
                               .owner = OWNER_SOURCE,
                               .epoch = 7,
                               .first_epoch = 7,
                               .attempt = 2,
                               .rounds = 1,
                               .tries = 1,
                               .step = 5,
                               .level = asked,
                               .vector = vector,
                               .reserve_ms = 9000,
                               .copy_ms = 8000,
                               .hold_ms = 2000,
                               .deadline_ms = s == MOVE_COUNTERED || s == MOVE_RESERVED ? 90000 : INT64_MAX};
        struct move m;
        if (s == MOVE_RESUMING || s == MOVE_CLOSING || s == MOVE_DROPPING_THERE || s == MOVE_RELEASING)
                row.end = MOVE_ABORTED;
        if (s == MOVE_COPYING) { /* which a restart does not go on with */
                row.state = MOVE_PREPARING_THERE;
                move_restore(&m, &row, true, 1000, &out);
                g_assert_cmpint(hear(&m, 1000, MOVE_SAYS_READY), ==, 1);
        } else {
                move_restore(&m, &row, true, 1000, &out);
        }
        g_assert_cmpint(m.row.state, ==, s);
        return m;
}

/* What a cell says is what is done. */
static void check_cell(const struct move *before, const struct move *after, int cell, int r)
{
        enum move_state from = before->row.state, to = after->row.state;
        g_assert_cmpint(cell, !=, 0);
        if (cell == MOVE_BAD || cell == MOVE_LATE) {
                g_assert_cmpint(r, ==, cell == MOVE_BAD ? -EPROTO : 0);
                g_assert_cmpmem(&before->row, sizeof(before->row), &after->row, sizeof(after->row));
                g_assert_cmpuint(out.n, ==, 0);
        } else if (cell == MOVE_STAY) {
                g_assert_cmpint(to, ==, from);
                g_assert_cmpuint(after->row.step, ==, before->row.step);
        } else {
                g_assert_cmpint(r, ==, 1);
                if (cell > 0)
                        g_assert_cmpint(to, ==, cell);
                g_assert_cmpuint(after->row.step, ==, before->row.step + 1);
                g_assert_cmpint(out.list[0].kind, ==, MOVE_PERSIST);
                g_assert_cmpint(out.list[1].kind, ==, MOVE_EVENT);
                g_assert_nonnull(out.list[1].text);
                g_assert_cmpstr(out.list[1].text, !=, "");
        }
        for (size_t i = 0; i < out.n; i++)
                g_assert_true(move_state_has(to, out.list[i].kind));
}

static void test_reports(void)
{
        for (int s = 1; s < MOVE_STATE_N; s++)
                for (int e = 0; e < MOVE_REPORT_N; e++) {
                        struct move m = in_state((enum move_state)s), before = m;
                        bool is_source = s < MOVE_SOURCE_N;
                        int cell = MOVE_BAD;
                        if (is_source && e < MOVE_SOURCE_REPORTS)
                                cell = move_source_reports[s][e];
                        else if (!is_source && e >= MOVE_DESTINATION_FIRST)
                                cell = move_destination_reports[s][e - MOVE_DESTINATION_FIRST];
                        if (e == MOVE_EV_TIMEOUT) { /* the driver never says so; the time does */
                                g_assert_cmpint(report(&m, 1000, MOVE_EV_TIMEOUT), ==, -EPROTO);
                                g_assert_cmpint(cell, !=, MOVE_BAD);
                                if (move_is_final(&m) && s != MOVE_SETTLED) { /* nothing is waited for */
                                        g_assert_cmpint(cell, ==, MOVE_LATE);
                                        g_assert_cmpint(move_deadline(&m), ==, INT64_MAX);
                                        continue;
                                }
                                m.row.deadline_ms = before.row.deadline_ms = 1000;
                                m.repeat_ms = INT64_MAX;
                                check_cell(&before, &m, cell,
                                           step(&m, 1000, (struct move_event){.kind = MOVE_EV_TICK}) ? 1 : 0);
                                continue;
                        }
                        if (s == MOVE_ORPHANED && e == MOVE_EV_CANCEL) { /* not before it was waited for */
                                g_assert_cmpint(report(&m, 1000, MOVE_EV_CANCEL), ==, 0);
                                check_cell(&before, &m, cell, report(&m, 60000, MOVE_EV_CANCEL));
                                continue;
                        }
                        check_cell(&before, &m, cell, report(&m, 1000, (enum move_event_kind)e));
                }
}

static void test_messages(void)
{
        static const enum move_says gets[] = {MOVE_SAYS_RESERVE, MOVE_SAYS_RESERVE, MOVE_SAYS_PREPARE,
                                              MOVE_SAYS_PREPARE, MOVE_SAYS_COPY,    MOVE_SAYS_STATUS,
                                              MOVE_SAYS_RUN,     MOVE_SAYS_DROP,    MOVE_SAYS_FINISHED};
        for (int s = 1; s < MOVE_SOURCE_N; s++)
                for (int i = 0; i < MOVE_SOURCE_MESSAGES; i++) {
                        struct move m = in_state((enum move_state)s), before = m;
                        check_cell(&before, &m, move_source_messages[s][i],
                                   hear(&m, 1000, (enum move_says)(MOVE_SAYS_RESERVED + i)));
                }
        for (int s = MOVE_SOURCE_N; s < MOVE_STATE_N; s++)
                for (int i = 0; i < MOVE_DESTINATION_MESSAGES; i++) {
                        struct move m = in_state((enum move_state)s), before = m;
                        bool is_later = i == MOVE_GETS_REVISE || i == MOVE_GETS_RETRY;
                        struct move_message p = {.says = gets[i],
                                                 .epoch = i == MOVE_GETS_RUN ? 8 : 7,
                                                 .attempt = is_later ? 3 : 2};
                        int cell = move_destination_messages[s][i];
                        if (i == MOVE_GETS_FINISHED &&
                            cell == MOVE_LATE) { /* what is new of it is remembered */
                                m.row.is_told = true;
                                before = m;
                        }
                        int r = step(&m, 1000, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p});
                        check_cell(&before, &m, cell, r);
                        if (cell > 0)
                                g_assert_cmpuint(m.row.attempt, ==, p.attempt);
                }
}

/* A report of an earlier state is nothing, whatever it says and wherever it comes. */
static void test_late_reports(void)
{
        for (int s = 1; s < MOVE_STATE_N; s++)
                for (int e = 0; e < MOVE_REPORT_N; e++) {
                        struct move m = in_state((enum move_state)s);
                        struct move_row before = m.row;
                        bool is_asked = e != MOVE_EV_MISSED && e != MOVE_EV_ACCEPT && e != MOVE_EV_CANCEL &&
                                        e != MOVE_EV_TIMEOUT && (e != MOVE_EV_DIED || s >= MOVE_SOURCE_N);
                        if (!is_asked)
                                continue;
                        g_assert_cmpint(step(&m, 1000,
                                             (struct move_event){.kind = (enum move_event_kind)e,
                                                                 .token = before.step - 1,
                                                                 .attempt = before.attempt - 1}),
                                        ==,
                                        e == MOVE_EV_INCOMING || e == MOVE_EV_COMPLETED || e == MOVE_EV_DIED
                                                ? (s < MOVE_SOURCE_N ? -EPROTO : 0)
                                                : 0);
                        g_assert_cmpmem(&before, sizeof(before), &m.row, sizeof(m.row));
                        g_assert_cmpuint(out.n, ==, 0);
                }
}

/* What is older moves nothing; where the other side cannot know yet, it is told. What is newer than can be is
 * refused. */
static void test_epochs(void)
{
        for (int s = 1; s < MOVE_STATE_N; s++)
                for (int i = 1; i < MOVE_SAYS_N; i++) {
                        struct move m = in_state((enum move_state)s);
                        bool is_source = s < MOVE_SOURCE_N;
                        if ((i >= MOVE_SAYS_RESERVED) != is_source)
                                continue;
                        for (int k = 0; k < 4; k++) {
                                struct move_row before = m.row;
                                struct move_message p = {.says = (enum move_says)i,
                                                         .epoch = 7 + (k == 0) - (k == 1),
                                                         .attempt =
                                                                 2 + (uint32_t)(k == 2) - (uint32_t)(k == 3)};
                                if (!is_source && (k == 0 || k == 2))
                                        continue; /* it follows */
                                int r = step(&m, 1000,
                                             (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p});
                                g_assert_cmpmem(&before, sizeof(before), &m.row, sizeof(m.row));
                                if (k == 0 || k == 2)
                                        g_assert_cmpint(r, ==, -EPROTO);
                                else if (is_source && move_states[s].says)
                                        g_assert_nonnull(find(MOVE_SEND));
                                else
                                        g_assert_cmpuint(out.n, ==, 0);
                        }
                }
        struct move m = in_state(MOVE_COMPLETE);
        struct move_message p = {.says = MOVE_SAYS_RUN, .epoch = 7, .attempt = 2};
        /* An outcome that is committed has changed the owner. */
        g_assert_cmpint(step(&m, 0, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p}), ==,
                        -EPROTO);
        p.epoch = 8;
        g_assert_cmpint(step(&m, 0, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p}), ==, 1);
        g_assert_cmpint(m.row.state, ==, MOVE_RUNNING);
        g_assert_cmpint(out.list[0].kind, ==, MOVE_PERSIST);
        g_assert_nonnull(find(MOVE_ADOPT));
        g_assert_nonnull(find(MOVE_VMM_CONT));
        g_assert_cmpuint(m.row.epoch, ==, 8);
}

/* Whatever a peer says, in whatever order: what is refused changes nothing, the way the outcome comes about
 * is kept, and when it falls silent nothing stays reserved but what waits for the outcome. */
static void test_hostile(void)
{
        GRand *rand = g_rand_new_with_seed(20261121);
        for (int run = 0; run < 4000; run++) {
                bool is_source = run % 2;
                struct move m = in_state(
                        (enum move_state)(is_source ? g_rand_int_range(rand, 1, MOVE_SOURCE_N)
                                                    : g_rand_int_range(rand, MOVE_SOURCE_N, MOVE_STATE_N)));
                int64_t now_ms = 1000;
                for (int i = 0; i < 60; i++) {
                        struct move before = m;
                        struct move_message p;
                        for (size_t b = 0; b < sizeof(p); b++)
                                ((unsigned char *)&p)[b] = (unsigned char)g_rand_int(rand);
                        p.says = (enum move_says)g_rand_int_range(rand, 0, MOVE_SAYS_N + 1);
                        if (i % 4)
                                p.epoch = m.row.epoch + (uint64_t)g_rand_int_range(rand, 0, 3) - 1;
                        if (i % 5)
                                p.attempt = m.row.attempt + (uint32_t)g_rand_int_range(rand, 0, 3) - 1;
                        int r = step(&m, now_ms, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p});
                        if (r != 1)
                                g_assert_cmpmem(&before.row, sizeof(before.row), &m.row, sizeof(m.row));
                        g_assert_cmpuint(m.row.epoch, >=, before.row.epoch);
                        g_assert_cmpuint(m.row.attempt, >=, before.row.attempt);
                        g_assert_cmpint(is_source, ==, move_is_source(&m));
                        if (before.row.state >= MOVE_RUNNING && before.row.state <= MOVE_SETTLED &&
                            before.row.state != MOVE_DROPPING) { /* nobody takes away what runs */
                                g_assert_null(find(MOVE_VMM_PREPARE));
                        }
                        if (find(MOVE_VMM_CONT))
                                g_assert_true(is_source ? before.row.state == MOVE_COPYING ||
                                                                  before.row.state == MOVE_COMMITTED
                                                        : before.row.state == MOVE_COMPLETE);
                        for (size_t k = 0; k < out.n; k++)
                                if (out.list[k].kind == MOVE_EVENT)
                                        for (const char *c = out.list[k].text; *c; c++)
                                                g_assert_false((unsigned char)*c < ' ');
                        if (move_is_final(&before))
                                g_assert_cmpint(m.row.state, ==, before.row.state);
                        now_ms += g_rand_int_range(rand, 0, 50);
                }
                /* Silence. The driver does its part. */
                for (int i = 0; i < 400 && !move_is_final(&m); i++) {
                        now_ms = MIN(move_deadline(&m), now_ms + 600000);
                        step(&m, now_ms, (struct move_event){.kind = MOVE_EV_TICK});
                        if (find(MOVE_RELEASE))
                                report(&m, now_ms, MOVE_EV_RELEASED);
                        else if (find(MOVE_VMM_CONT))
                                report(&m, now_ms, MOVE_EV_RUNS);
                        else if (find(MOVE_WRITE))
                                report(&m, now_ms,
                                       find(MOVE_WRITE)->outcome == MOVE_OUTCOME_COMMITTED ? MOVE_EV_COMMITTED
                                                                                           : MOVE_EV_ABORTED);
                }
                enum move_state s = m.row.state;
                if (!move_is_final(&m))
                        g_assert_true(s == MOVE_COMMITTED || s == MOVE_ORPHANED || s == MOVE_COMPLETE);
        }
        g_rand_free(rand);
}

/* Who asks is told, as often as he asks: what was said before may have been lost. */
static void test_answers(void)
{
        static const struct {
                enum move_state state;
                enum move_says asks, says;
        } rows[] = {
                {MOVE_BROKEN,         MOVE_SAYS_RUN,      MOVE_SAYS_BROKEN  },
                {MOVE_DROPPED,        MOVE_SAYS_RUN,      MOVE_SAYS_DROPPED },
                {MOVE_DROPPED,        MOVE_SAYS_DROP,     MOVE_SAYS_DROPPED },
                {MOVE_CONFIRMING,     MOVE_SAYS_RUN,      MOVE_SAYS_RUNNING },
                {MOVE_SETTLING,       MOVE_SAYS_RUN,      MOVE_SAYS_RUNNING },
                {MOVE_SETTLED,        MOVE_SAYS_RUN,      MOVE_SAYS_RUNNING },
                {MOVE_RESERVED,       MOVE_SAYS_RESERVE,  MOVE_SAYS_RESERVED},
                {MOVE_SHORT,          MOVE_SAYS_RESERVE,  MOVE_SAYS_SHORT   },
                {MOVE_READY,          MOVE_SAYS_PREPARE,  MOVE_SAYS_READY   },
                {MOVE_COMPLETE,       MOVE_SAYS_STATUS,   MOVE_SAYS_COMPLETE},
                {MOVE_COMMITTED,      MOVE_SAYS_COMPLETE, MOVE_SAYS_RUN     },
                {MOVE_DONE,           MOVE_SAYS_RUNNING,  MOVE_SAYS_FINISHED},
                {MOVE_DROPPING_THERE, MOVE_SAYS_COMPLETE, MOVE_SAYS_DROP    },
                {MOVE_ABORTED,        MOVE_SAYS_COMPLETE, MOVE_SAYS_DROP    },
                {MOVE_ABORTED,        MOVE_SAYS_BROKEN,   MOVE_SAYS_DROP    },
                {MOVE_REFUSED,        MOVE_SAYS_RESERVED, MOVE_SAYS_DROP    },
                {MOVE_LOST,           MOVE_SAYS_COMPLETE, MOVE_SAYS_DROP    },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
                for (int again = 0; again < 2; again++) {
                        struct move m = in_state(rows[i].state);
                        g_assert_cmpint(hear(&m, 1000, rows[i].asks), ==, 1);
                        g_assert_cmpint(m.row.state, ==, rows[i].state);
                        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, rows[i].says);
                        /* The answer to what has an epoch is of that epoch, or it would not count. */
                        if (rows[i].asks == MOVE_SAYS_RUN)
                                g_assert_cmpuint(find(MOVE_SEND)->message.epoch, ==, 8);
                }
}

/* A destination that never ran it gives it back, with an epoch in which nothing older counts. */
static void test_return(void)
{
        struct move m = in_state(MOVE_COMMITTING);
        g_assert_cmpint(report(&m, 1000, MOVE_EV_COMMITTED), ==, 1);
        g_assert_cmpuint(m.row.epoch, ==, 8);
        g_assert_cmpint(m.row.owner, ==, OWNER_DESTINATION);
        struct move_message p = {.says = MOVE_SAYS_BROKEN, .epoch = 7, .attempt = 2};
        /* It broke off before it knew that it is the owner: that is no word about RUN. */
        g_assert_cmpint(step(&m, 1000, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p}), ==, 1);
        g_assert_cmpint(m.row.state, ==, MOVE_COMMITTED);
        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_RUN);
        g_assert_cmpint(hear(&m, 1000, MOVE_SAYS_BROKEN), ==, 1);
        g_assert_cmpuint(m.row.epoch, ==, 9);
        g_assert_cmpint(m.row.owner, ==, OWNER_SOURCE);
        g_assert_nonnull(find(MOVE_ADOPT)); /* in that epoch, or its next move would be an old one's word */
        g_assert_nonnull(find(MOVE_VMM_CONT));
        p = (struct move_message){.says = MOVE_SAYS_RUNNING, .epoch = 8, .attempt = 2};
        g_assert_cmpint(step(&m, 1000, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p}), ==, 0);
        g_assert_cmpint(report(&m, 1000, MOVE_EV_RUNS), ==, 1);
        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_DROP);
        g_assert_cmpuint(find(MOVE_SEND)->message.epoch, ==, 9);
        g_assert_cmpint(m.row.end, ==, MOVE_ABORTED);
}

/* ---- what is offered ---- */

static struct move countered(void)
{
        struct move m;
        move_begin(&m, "m1", &asked, 7, 0, &out);
        g_assert_cmpint(report(&m, 0, MOVE_EV_PROFILED), ==, 1);
        g_assert_cmpint(report(&m, 0, MOVE_EV_COUNTER), ==, 1);
        g_assert_nonnull(find(MOVE_RESERVE)); /* held here */
        g_assert_cmpint(report(&m, 0, MOVE_EV_RESERVED), ==, 1);
        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_RESERVE); /* and there, for longer */
        g_assert_cmpint(find(MOVE_SEND)->message.hold_ms, >, 2000);
        g_assert_cmpint(hear(&m, 0, MOVE_SAYS_RESERVED), ==, 1);
        g_assert_cmpint(m.row.state, ==, MOVE_COUNTERED);
        g_assert_nonnull(find(MOVE_ANSWER));
        return m;
}

static void test_offer(void)
{
        struct move_event accept = {
                .kind = MOVE_EV_ACCEPT, .level = {9000, 100, false}
        };
        struct move m = countered();
        /* The plan's 50 ms would be stricter than the 100 ms that were asked for. */
        g_assert_cmpint(m.row.level.total_ms, ==, 9000);
        g_assert_cmpint(m.row.level.downtime_ms, ==, 100);
        g_assert_cmpint(move_deadline(&m), ==, 2000);
        accept.level.downtime_ms = 99;
        g_assert_cmpint(step(&m, 10, accept), ==, -EPROTO);
        accept.level.downtime_ms = 100;
        g_assert_cmpint(step(&m, 1999, accept), ==, 1); /* unchanged and within its time: granted */
        g_assert_cmpint(m.row.state, ==, MOVE_PREPARING_THERE);
        g_assert_cmpint(step(&m, 1999, accept), ==, 0);

        m = countered();
        g_assert_cmpint(step(&m, 2000, accept), ==, -EPROTO);
        g_assert_cmpint(step(&m, 2000, (struct move_event){.kind = MOVE_EV_TICK}), ==, 1);
        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_DROP);
        g_assert_cmpint(hear(&m, 2000, MOVE_SAYS_DROPPED), ==, 1);
        g_assert_nonnull(find(MOVE_RELEASE));
        g_assert_cmpint(report(&m, 2000, MOVE_EV_RELEASED), ==, 1);
        g_assert_cmpint(m.row.state, ==, MOVE_ABORTED);
        g_assert_cmpint(m.row.reason, ==, REASON_TIMEOUT);

        /* A restart does not make it last longer. */
        m = countered();
        struct move_row row = m.row;
        move_restore(&m, &row, true, 1500, &out);
        g_assert_cmpint(move_deadline(&m), ==, 2000);
}

/* What there is is said again after a restart. */
static void test_short(void)
{
        struct move m = in_state(MOVE_HOLDING);
        struct move_event ev = {
                .kind = MOVE_EV_SHORT, .token = m.row.step, .has = {77, 88}
        };
        g_assert_cmpint(step(&m, 1000, ev), ==, 1);
        g_assert_cmpint(find(MOVE_SEND)->message.has.bandwidth_bps, ==, 77);
        struct move_row row = m.row;
        move_restore(&m, &row, true, 1000, &out);
        g_assert_cmpint(find(MOVE_SEND)->message.has.cpu_milli, ==, 88);
}

/* What it holds of a round before is dropped at once, whatever the next round ends of. */
static void test_short_is_dropped(void)
{
        static const enum move_event_kind ends[] = {MOVE_EV_FAILED, MOVE_EV_DIED, MOVE_EV_CANCEL};
        static const enum move_state final[] = {MOVE_REFUSED, MOVE_LOST, MOVE_ABORTED};
        for (unsigned i = 0; i < 4 * G_N_ELEMENTS(ends); i++) {
                bool is_short = i & 1, is_planned = i & 2;
                struct move m;
                move_begin(&m, "m1", &asked, 7, 0, &out);
                g_assert_cmpint(report(&m, 0, MOVE_EV_PROFILED), ==, 1);
                if (is_short) {
                        g_assert_cmpint(report(&m, 0, MOVE_EV_PLANNED), ==, 1);
                        g_assert_cmpint(report(&m, 0, MOVE_EV_RESERVED), ==, 1);
                        g_assert_cmpint(hear(&m, 0, MOVE_SAYS_SHORT), ==, 1);
                }
                if (is_planned)
                        g_assert_cmpint(report(&m, 0, MOVE_EV_PLANNED), ==, 1);
                g_assert_cmpint(report(&m, 0, ends[i / 4]), ==, 1);
                g_assert_cmpint(m.row.state, ==, is_short ? MOVE_DROPPING_THERE : MOVE_RELEASING);
                if (is_short) {
                        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_DROP);
                        g_assert_cmpint(hear(&m, 0, MOVE_SAYS_DROPPED), ==, 1);
                }
                g_assert_cmpint(report(&m, 0, MOVE_EV_RELEASED), ==, 1);
                g_assert_cmpint(m.row.state, ==, final[i / 4]);
        }
}

/* A destination that never has what it says that it has. */
static void test_rounds(void)
{
        struct move m;
        int rounds = 0;
        move_begin(&m, "m1", &asked, 7, 0, &out);
        g_assert_cmpint(report(&m, 0, MOVE_EV_PROFILED), ==, 1);
        while (m.row.state == MOVE_PLANNING) {
                struct level before = m.row.level;
                rounds++;
                g_assert_cmpint(report(&m, 0, rounds % 2 ? MOVE_EV_COUNTER : MOVE_EV_PLANNED), ==, 1);
                g_assert_cmpint(m.row.level.total_ms, >=, before.total_ms);
                g_assert_cmpint(m.row.level.downtime_ms, >=, before.downtime_ms);
                g_assert_cmpint(report(&m, 0, MOVE_EV_RESERVED), ==, 1);
                g_assert_cmpint(hear(&m, 0, MOVE_SAYS_SHORT), ==, 1);
                g_assert_true(m.row.is_short);
        }
        g_assert_cmpint(rounds, ==, MOVE_ROUNDS);
        g_assert_cmpint(m.row.state, ==, MOVE_DROPPING_THERE);
        g_assert_cmpint(hear(&m, 0, MOVE_SAYS_DROPPED), ==, 1);
        g_assert_cmpint(report(&m, 0, MOVE_EV_RELEASED), ==, 1);
        g_assert_cmpint(m.row.state, ==, MOVE_REFUSED);
        g_assert_cmpint(m.row.reason, ==, REASON_NO_CAPACITY);
}

/* The guard breaks off each attempt; within the time and the number of tries it is tried again. */
static void test_retries(void)
{
        for (int is_in_time = 0; is_in_time < 2; is_in_time++) {
                struct move m = in_state(MOVE_PREPARING_THERE);
                int64_t now_ms = 1000;
                int tries = 0;
                while (m.row.state == MOVE_PREPARING_THERE) {
                        uint32_t attempt = m.row.attempt;
                        tries++;
                        g_assert_cmpint(find(MOVE_SEND)->message.attempt, ==, attempt);
                        g_assert_cmpint(hear(&m, now_ms, MOVE_SAYS_READY), ==, 1);
                        g_assert_cmpint(report(&m, now_ms, MOVE_EV_COPIED), ==, 1);
                        now_ms += is_in_time ? 10 : 5000;
                        g_assert_cmpint(report(&m, now_ms, MOVE_EV_ABORTED), ==, 1); /* it was first */
                        g_assert_nonnull(find(MOVE_VMM_CONT));
                        g_assert_cmpint(report(&m, now_ms, MOVE_EV_RUNS), ==, 1);
                        g_assert_cmpint(find(MOVE_WRITE)->outcome, ==, MOVE_OUTCOME_ABORTED);
                        g_assert_cmpint(report(&m, now_ms, MOVE_EV_COMMITTED), ==, -EPROTO);
                        g_assert_cmpint(report(&m, now_ms, MOVE_EV_ABORTED), ==, 1);
                        if (m.row.state == MOVE_PREPARING_THERE)
                                g_assert_cmpuint(m.row.attempt, ==, attempt + 1);
                }
                g_assert_cmpint(tries, ==, is_in_time ? MOVE_TRIES : 2);
                g_assert_cmpint(m.row.state, ==, MOVE_DROPPING_THERE);
                g_assert_cmpint(m.row.end, ==, MOVE_ABORTED);
                g_assert_cmpint(m.row.reason, ==, REASON_TIMEOUT);
        }
}

/* The first reason is the one that both logs have; only a death is worse, and a retry may still be called
 * off. */
static void test_reason(void)
{
        struct move m = in_state(MOVE_COPYING);
        struct move_event failed = {.kind = MOVE_EV_FAILED,
                                    .token = m.row.step,
                                    .reason = REASON_INCOMPATIBLE,
                                    .sentence = "another machine"};
        g_assert_cmpint(step(&m, 1000, failed), ==, 1);
        g_assert_cmpstr(find(MOVE_EVENT)->text, ==, "another machine");
        report(&m, 1000, MOVE_EV_CANCEL);
        g_assert_cmpuint(out.n, ==, 0);
        g_assert_cmpint(m.row.reason, ==, REASON_INCOMPATIBLE);
        /* The destination hears it, and has the same in its log. */
        struct move other = m, there = in_state(MOVE_COMPLETE);
        g_assert_cmpint(report(&other, 1000, MOVE_EV_RUNS), ==, 1);
        g_assert_cmpint(report(&other, 1000, MOVE_EV_ABORTED), ==, 1);
        struct move_message drop = find(MOVE_SEND)->message;
        g_assert_cmpint(drop.says, ==, MOVE_SAYS_DROP);
        g_assert_cmpint(step(&there, 1000, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &drop}),
                        ==, 1);
        g_assert_cmpint(there.row.reason, ==, REASON_INCOMPATIBLE);
        g_assert_cmpstr(find(MOVE_EVENT)->text, ==, "another machine");
        g_assert_cmpint(report(&m, 1000, MOVE_EV_DIED), ==, 1);
        g_assert_cmpint(m.row.end, ==, MOVE_LOST);
        g_assert_cmpint(m.row.reason, ==, REASON_INTERNAL);

        g_assert_cmpint(step(&m, 900000, (struct move_event){.kind = MOVE_EV_TICK}), ==,
                        1); /* never written */
        g_assert_cmpint(m.row.state, ==, MOVE_DROPPING_THERE);
        g_assert_cmpint(m.row.end, ==, MOVE_LOST);
        g_assert_cmpint(m.row.reason, ==, REASON_INTERNAL);

        m = in_state(MOVE_COPYING);
        g_assert_cmpint(report(&m, 1000, MOVE_EV_BROKEN), ==, 1);
        g_assert_cmpint(m.row.end, ==, 0);
        g_assert_cmpint(report(&m, 1000, MOVE_EV_CANCEL), ==, 1);
        g_assert_nonnull(find(MOVE_PERSIST));
        g_assert_cmpint(m.row.end, ==, MOVE_ABORTED);
        g_assert_cmpint(m.row.reason, ==, REASON_CANCELLED);
}

/* ---- who is gone, and who is not known ---- */

static void test_restore(void)
{
        struct move m = in_state(MOVE_COPYING);
        struct move_row row = m.row;
        move_restore(&m, &row, true, 5000, &out); /* nothing is journalled that keeps it from running */
        g_assert_cmpint(m.row.state, ==, MOVE_RESUMING);
        g_assert_nonnull(find(MOVE_VMM_CONT));
        move_restore(&m, &row, false, 5000, &out);
        g_assert_cmpint(m.row.state, ==, MOVE_CLOSING);
        g_assert_cmpint(m.row.end, ==, MOVE_LOST);

        for (int s = 1; s < MOVE_STATE_N; s++) {
                m = in_state((enum move_state)s);
                row = m.row;
                if (s == MOVE_COPYING)
                        continue;
                for (int i = 0; i < 2; i++) { /* as often as one likes */
                        move_restore(&m, &row, true, 5000, &out);
                        row.deadline_ms = m.row.deadline_ms;
                        g_assert_cmpmem(&row, sizeof(row), &m.row, sizeof(row));
                        for (int k = 0; k < 2; k++)
                                if (move_states[s].effects[k])
                                        g_assert_nonnull(find(move_states[s].effects[k]));
                        g_assert_null(find(MOVE_PERSIST));
                        g_assert_null(find(MOVE_EVENT));
                }
        }
        /* Once it is journalled, a source does nothing by itself, however long it takes. */
        m = in_state(MOVE_COMMITTING);
        for (int64_t now_ms = 1000; now_ms < 3600000; now_ms = move_deadline(&m)) {
                step(&m, now_ms, (struct move_event){.kind = MOVE_EV_TICK});
                g_assert_null(find(MOVE_VMM_CONT));
                g_assert_cmpint(report(&m, now_ms, MOVE_EV_UNKNOWN), ==, 1);
                g_assert_cmpint(m.row.state, ==, MOVE_COMMITTING);
        }
        /* Nor does a destination that has all of it; it asks. */
        m = in_state(MOVE_COMPLETE);
        int asks = 0, overdue = 0;
        for (int64_t now_ms = 1000; now_ms < 3600000; now_ms = move_deadline(&m)) {
                step(&m, now_ms, (struct move_event){.kind = MOVE_EV_TICK});
                asks += find(MOVE_SEND) != NULL;
                overdue += find(MOVE_EVENT) != NULL;
                g_assert_cmpint(m.row.state, ==, MOVE_COMPLETE);
        }
        g_assert_cmpint(asks, >, 700);
        g_assert_cmpint(overdue, ==, 1);
}

static void test_orphan(void)
{
        struct move m = in_state(MOVE_COPYING);
        g_assert_cmpint(step(&m, 2000, (struct move_event){.kind = MOVE_EV_DIED}), ==, 1);
        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_STATUS);
        g_assert_cmpint(hear(&m, 2000, MOVE_SAYS_INCOMING), ==, 0);
        struct move other = m;
        g_assert_cmpint(hear(&other, 2000, MOVE_SAYS_COMPLETE), ==, 1); /* forward */
        g_assert_cmpint(find(MOVE_WRITE)->outcome, ==, MOVE_OUTCOME_COMMITTED);
        other = m;
        /* Who has not all of it gives it up by itself, with its own deadline: nobody may guess that for it.
         */
        g_assert_cmpint(hear(&other, 60000, MOVE_SAYS_INCOMING), ==, 0);
        struct move there = in_state(MOVE_INCOMING);
        g_assert_cmpint(hear(&there, 20000, MOVE_SAYS_STATUS), ==, 1);
        g_assert_cmpint(step(&there, 40000, (struct move_event){.kind = MOVE_EV_TICK}), ==, 1);
        g_assert_cmpint(there.row.state, ==, MOVE_DROPPING);
        there = in_state(MOVE_INCOMING);
        g_assert_cmpint(hear(&there, 20000, MOVE_SAYS_COPY), ==, 1); /* unless the source is at work */
        g_assert_cmpint(move_deadline(&there), ==, 50000);
        other = m;
        struct move_message p = {.says = MOVE_SAYS_BROKEN,
                                 .epoch = 7,
                                 .attempt = 2,
                                 .reason = REASON_TIMEOUT,
                                 .sentence = "no more came"};
        g_assert_cmpint(step(&other, 2000, (struct move_event){.kind = MOVE_EV_MESSAGE, .message = &p}), ==,
                        1);
        g_assert_cmpint(other.row.end, ==, MOVE_LOST);
        g_assert_cmpint(other.row.reason, ==, REASON_INTERNAL); /* what it died of, not what came of that */
        g_assert_cmpint(find(MOVE_WRITE)->outcome, ==, MOVE_OUTCOME_ABORTED);
}

static void test_unknown(void)
{
        struct move_message p = {.says = MOVE_SAYS_RUN, .id = "m1", .epoch = 8, .attempt = 3}, ret;
        struct move m;
        g_assert_true(move_answer_unknown(&p, &ret));
        g_assert_cmpint(ret.says, ==, MOVE_SAYS_DROPPED);
        g_assert_cmpuint(ret.epoch, ==, 8);
        g_assert_cmpuint(ret.attempt, ==, 3);
        g_assert_cmpstr(ret.id, ==, "m1");
        p.says = MOVE_SAYS_COMPLETE;
        g_assert_true(move_answer_unknown(&p, &ret));
        g_assert_cmpint(ret.says, ==, MOVE_SAYS_DROP);
        p.says = MOVE_SAYS_RUNNING;
        g_assert_true(move_answer_unknown(&p, &ret));
        g_assert_cmpint(ret.says, ==, MOVE_SAYS_FINISHED);
        p.says = MOVE_SAYS_DROPPED;
        g_assert_false(move_answer_unknown(&p, &ret)); /* or two who know nothing would go on for ever */
        p.says = 0;
        g_assert_false(move_answer_unknown(&p, &ret));

        p.says = MOVE_SAYS_PREPARE;
        g_assert_cmpint(move_admit(&m, &p, 0, 0, &out, NULL), ==, -EPROTO);
        p.says = MOVE_SAYS_RESERVE;
        g_assert_cmpint(move_admit(&m, &p, 9, 0, &out, NULL), ==, -EPROTO); /* it has another owner since */
        p.vector.bandwidth_bps = -1;
        g_assert_cmpint(move_admit(&m, &p, 8, 0, &out, NULL), ==, -EPROTO);
        p.vector.bandwidth_bps = 1;
        p.hold_ms = INT64_MAX;
        g_assert_cmpint(move_admit(&m, &p, 8, 0, &out, NULL), ==, 1);
        g_assert_cmpint(report(&m, 0, MOVE_EV_RESERVED), ==, 1);
        g_assert_cmpint(move_deadline(&m), <=, 24 * 3600 * 1000);
        memset(p.id, 'x', sizeof(p.id));
        g_assert_cmpint(move_admit(&m, &p, 0, 0, &out, NULL), ==, -EPROTO);
}

/* One that is here says so until it hears that the source is through, or for as long as that may be away. */
static void test_settled(void)
{
        const int64_t day_ms = 24 * 3600 * 1000;
        for (int is_heard = 0; is_heard < 2; is_heard++) {
                struct move m = in_state(MOVE_SETTLING);
                int says = 0;
                int64_t now_ms = 1000;
                g_assert_cmpint(report(&m, now_ms, MOVE_EV_RELEASED), ==, 1);
                g_assert_cmpint(m.row.state, ==, MOVE_SETTLED);
                g_assert_nonnull(find(MOVE_SEND));
                while (!m.row.is_told && (!is_heard || says < 9)) {
                        now_ms = move_deadline(&m);
                        g_assert_cmpint(now_ms, <=, 1000 + day_ms);
                        g_assert_false(move_may_be_forgotten(&m));
                        struct move_row row = m.row; /* a restart is no news */
                        move_restore(&m, &row, true, now_ms - 1, &out);
                        g_assert_cmpint(m.row.deadline_ms, ==, 1000 + day_ms);
                        g_assert_cmpint(find(MOVE_SEND)->message.says, ==, MOVE_SAYS_RUNNING);
                        m.row = row;
                        m.repeat_ms = now_ms;
                        g_assert_cmpint(step(&m, now_ms, (struct move_event){.kind = MOVE_EV_TICK}), ==, 1);
                        says += find(MOVE_SEND) != NULL;
                }
                g_assert_cmpint(says, >=, 9);
                if (is_heard)
                        g_assert_cmpint(hear(&m, now_ms, MOVE_SAYS_FINISHED), ==, 1);
                g_assert_nonnull(find(MOVE_PERSIST));
                g_assert_true(move_may_be_forgotten(&m));
                g_assert_cmpint(move_deadline(&m), ==, INT64_MAX);
                struct move_row row = m.row;
                move_restore(&m, &row, true, now_ms, &out);
                g_assert_null(find(MOVE_SEND));
                g_assert_cmpint(move_deadline(&m), ==, INT64_MAX);
        }
}

/* A level that is taken while it is copied is what it is copied in. */
static void test_accept_while_copying(void)
{
        struct move m = in_state(MOVE_COPYING);
        int64_t deadline_ms = m.row.deadline_ms;
        struct move_event ev = {
                .kind = MOVE_EV_ACCEPT, .level = {12000, 100, false}
        };
        g_assert_cmpint(step(&m, 3000, ev), ==, 1);
        g_assert_nonnull(find(MOVE_PERSIST));
        g_assert_cmpint(m.row.level.total_ms, ==, 12000);
        g_assert_cmpint(m.row.copy_ms, ==, 12000);
        g_assert_cmpint(m.row.deadline_ms, ==, deadline_ms + 4000);
        g_assert_cmpint(step(&m, deadline_ms, (struct move_event){.kind = MOVE_EV_TICK}), >=, 0);
        g_assert_cmpint(m.row.state, ==, MOVE_COPYING);
        ev.level.total_ms = 100; /* never stricter */
        g_assert_cmpint(step(&m, 3000, ev), ==, 1);
        g_assert_cmpint(m.row.deadline_ms, ==, deadline_ms + 4000);
}

static void test_names(void)
{
        for (int s = 1; s < MOVE_STATE_N; s++) {
                const char *name = move_state_name((enum move_state)s);
                g_assert_cmpint(move_state_from_name(name), ==, s);
                g_assert_nonnull(move_states[s].text);
        }
        g_assert_cmpint(move_state_from_name("none"), ==, 0);
        for (int e = 0; e < MOVE_EV_N; e++)
                g_assert_nonnull(move_event_name((enum move_event_kind)e));
        for (int i = 1; i < MOVE_SAYS_N; i++)
                g_assert_nonnull(move_says_name((enum move_says)i));
        for (int e = 1; e < MOVE_EFFECT_N; e++)
                g_assert_nonnull(move_effect_name((enum move_effect_kind)e));
        g_assert_cmpstr(move_says_name(99), ==, "?");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/move-steps/reports", test_reports);
        g_test_add_func("/move-steps/messages", test_messages);
        g_test_add_func("/move-steps/late-reports", test_late_reports);
        g_test_add_func("/move-steps/epochs", test_epochs);
        g_test_add_func("/move-steps/hostile", test_hostile);
        g_test_add_func("/move-steps/answers", test_answers);
        g_test_add_func("/move-steps/return", test_return);
        g_test_add_func("/move-steps/offer", test_offer);
        g_test_add_func("/move-steps/short", test_short);
        g_test_add_func("/move-steps/short-is-dropped", test_short_is_dropped);
        g_test_add_func("/move-steps/rounds", test_rounds);
        g_test_add_func("/move-steps/retries", test_retries);
        g_test_add_func("/move-steps/reason", test_reason);
        g_test_add_func("/move-steps/restore", test_restore);
        g_test_add_func("/move-steps/orphan", test_orphan);
        g_test_add_func("/move-steps/unknown", test_unknown);
        g_test_add_func("/move-steps/settled", test_settled);
        g_test_add_func("/move-steps/accept-while-copying", test_accept_while_copying);
        g_test_add_func("/move-steps/names", test_names);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include "agent/row.h"
#include "base/str.h"

enum { LATE = -1, BAD = -2 };

/* Said once more, as a list, so that a change of the table in row.c is a decision and not a slip. */
static const struct {
        enum row_state from;
        enum row_event event;
        int to;
} moves[] = {
        {ROW_UNSENT,    ROW_EV_SEND,      ROW_SENT     },
        {ROW_UNSENT,    ROW_EV_GIVE_BACK, ROW_ENDED    },
        {ROW_UNSENT,    ROW_EV_TAKEN,     LATE         },
        {ROW_SENT,      ROW_EV_GRANT,     ROW_GRANTED  },
        {ROW_SENT,      ROW_EV_OFFER,     ROW_OFFERED  },
        {ROW_SENT,      ROW_EV_REFUSE,    ROW_REFUSED  },
        {ROW_SENT,      ROW_EV_GIVE_BACK, ROW_RELEASING},
        {ROW_SENT,      ROW_EV_TAKEN,     ROW_ENDED    },
        {ROW_OFFERED,   ROW_EV_GRANT,     LATE         },
        {ROW_OFFERED,   ROW_EV_OFFER,     LATE         },
        {ROW_OFFERED,   ROW_EV_REFUSE,    LATE         },
        {ROW_OFFERED,   ROW_EV_ACCEPT,    ROW_ACCEPTING},
        {ROW_OFFERED,   ROW_EV_GIVE_BACK, ROW_RELEASING},
        {ROW_OFFERED,   ROW_EV_TAKEN,     ROW_ENDED    },
        {ROW_ACCEPTING, ROW_EV_GRANT,     ROW_GRANTED  },
        {ROW_ACCEPTING, ROW_EV_OFFER,     ROW_OFFERED  },
        {ROW_ACCEPTING, ROW_EV_REFUSE,    ROW_REFUSED  },
        {ROW_ACCEPTING, ROW_EV_ACCEPT,    LATE         },
        {ROW_ACCEPTING, ROW_EV_GIVE_BACK, ROW_RELEASING},
        {ROW_ACCEPTING, ROW_EV_TAKEN,     ROW_ENDED    },
        {ROW_GRANTED,   ROW_EV_GRANT,     LATE         },
        {ROW_GRANTED,   ROW_EV_OFFER,     LATE         },
        {ROW_GRANTED,   ROW_EV_REFUSE,    LATE         },
        {ROW_GRANTED,   ROW_EV_ACCEPT,    LATE         },
        {ROW_GRANTED,   ROW_EV_GIVE_BACK, ROW_RELEASING},
        {ROW_GRANTED,   ROW_EV_TAKEN,     ROW_ENDED    },
        {ROW_RELEASING, ROW_EV_GRANT,     LATE         },
        {ROW_RELEASING, ROW_EV_OFFER,     LATE         },
        {ROW_RELEASING, ROW_EV_REFUSE,    LATE         },
        {ROW_RELEASING, ROW_EV_GIVE_BACK, LATE         },
        {ROW_RELEASING, ROW_EV_RELEASED,  ROW_ENDED    },
        {ROW_RELEASING, ROW_EV_TAKEN,     ROW_ENDED    },
        {ROW_REFUSED,   ROW_EV_GRANT,     LATE         },
        {ROW_REFUSED,   ROW_EV_OFFER,     LATE         },
        {ROW_REFUSED,   ROW_EV_REFUSE,    LATE         },
        {ROW_REFUSED,   ROW_EV_GIVE_BACK, LATE         },
        {ROW_REFUSED,   ROW_EV_RELEASED,  LATE         },
        {ROW_REFUSED,   ROW_EV_TAKEN,     LATE         },
        {ROW_ENDED,     ROW_EV_GRANT,     LATE         },
        {ROW_ENDED,     ROW_EV_OFFER,     LATE         },
        {ROW_ENDED,     ROW_EV_REFUSE,    LATE         },
        {ROW_ENDED,     ROW_EV_GIVE_BACK, LATE         },
        {ROW_ENDED,     ROW_EV_RELEASED,  LATE         },
        {ROW_ENDED,     ROW_EV_TAKEN,     LATE         },
};

static int wanted(enum row_state from, enum row_event event)
{
        for (size_t i = 0; i < ARRAY_N(moves); i++)
                if (moves[i].from == from && moves[i].event == event)
                        return moves[i].to;
        return BAD;
}

static void test_every_cell(void)
{
        for (int s = ROW_UNSENT; s < ROW_STATE_N; s++) {
                for (int e = ROW_EV_SEND; e < ROW_EV_N; e++) {
                        struct row row = {.state = (enum row_state)s, .id = "r1"};
                        struct err err = {0};
                        int to = wanted((enum row_state)s, (enum row_event)e);
                        int r = row_step(&row, (enum row_event)e, &err);
                        g_assert_cmpint(r, ==, to > 0 ? 1 : to == LATE ? 0 : -EPROTO);
                        g_assert_cmpint(row.state, ==, to > 0 ? to : s);
                        g_assert_cmpint(row.is_dirty, ==, to > 0);
                        if (to != BAD)
                                continue;
                        g_assert_cmpint(err.reason, ==, REASON_STALE);
                        g_assert_nonnull(strstr(err.sentence, row_state_name((enum row_state)s)));
                        g_assert_nonnull(strstr(err.sentence, row_event_name((enum row_event)e)));
                }
        }
}

/* From every open state there is a way to the end that needs no answer which may never come. */
static void test_every_row_ends(void)
{
        for (int s = ROW_UNSENT; s < ROW_STATE_N; s++) {
                struct row row = {.state = (enum row_state)s};
                (void)row_step(&row, ROW_EV_GIVE_BACK, NULL);
                (void)row_step(&row, ROW_EV_TAKEN, NULL);
                g_assert_false(row_is_open(&row));
        }
}

static void test_names(void)
{
        for (int s = ROW_UNSENT; s < ROW_STATE_N; s++) {
                g_assert_cmpstr(row_state_name((enum row_state)s), !=, "none");
                g_assert_cmpint(row_api_state((enum row_state)s), >, 0);
        }
        g_assert_cmpstr(row_state_name(0), ==, "none");
        g_assert_cmpstr(row_event_name(ROW_EV_N), ==, "none");
        g_assert_cmpint(row_api_state(ROW_ACCEPTING), ==, API_ROW_STATE_SENT);
}

static struct row sample(enum row_state state)
{
        struct row row = {
                .state = state,
                .id = "r1",
                .application = "redis/5/77",
                .uid = 1000,
                .pid = 5,
                .start_ticks = 77,
                .n_needs = 2,
                .needs = {"cpu:2,share>=0.9", "memory:1G"},
                .counter = API_COUNTER_POLICY_LESS,
                .since_ms = 123,
                .timeout_ms = 60000,
                .due_mono_ms = 456,
                .host_generation = 9,
                .cause = API_RELEASE_CAUSE_EXITED,
                .problem = "none",
                .why = "the projection has changed"
        };

        if (state == ROW_GRANTED) {
                row.has_verdict = true;
                row.verdict = (struct api_verdict){.request = "r1",
                                                   .outcome = API_OUTCOME_GRANTED,
                                                   .sentence = "ok",
                                                   .n_needs = 1,
                                                   .needs = {{.kind = "cpu", .amount = 1}}};
        }
        return row;
}

static void test_round_trip(void)
{
        for (int s = ROW_UNSENT; s < ROW_STATE_N; s++) {
                struct row row = sample((enum row_state)s), back = {0};
                struct err err = {0};
                json_t *v = row_emit(&row);
                g_assert_cmpint(row_parse(v, &back, &err), ==, 0);
                struct row older = {0};
                g_assert_cmpint(json_object_del(v, "host_generation"), ==,
                                0); /* the first release had none */
                g_assert_cmpint(row_parse(v, &older, &err), ==, 0);
                g_assert_cmpint(older.host_generation, ==, 0);
                json_decref(v);
                g_assert_cmpint(back.state, ==, s);
                g_assert_cmpstr(back.id, ==, row.id);
                g_assert_cmpstr(back.application, ==, row.application);
                g_assert_cmpstr(back.needs[1], ==, "memory:1G"); /* as asked, also after a grant of less */
                g_assert_cmpuint(back.n_needs, ==, 2);
                g_assert_cmpuint(back.start_ticks, ==, 77);
                g_assert_cmpint(back.due_mono_ms, ==, 456);
                g_assert_cmpint(back.host_generation, ==, 9);
                g_assert_cmpstr(back.why, ==, "the projection has changed");
                g_assert_cmpint(back.timeout_ms, ==, 60000);
                g_assert_cmpint(back.cause, ==, API_RELEASE_CAUSE_EXITED);
                g_assert_cmpint(back.counter, ==, API_COUNTER_POLICY_LESS);
                g_assert_cmpint(back.has_verdict, ==, s == ROW_GRANTED);
                g_assert_cmpstr(back.problem, ==, "none");
        }
}

static void test_shown(void)
{
        struct row row = sample(ROW_GRANTED);
        struct api_app_row shown;

        row_show(&row, &shown);
        g_assert_cmpuint(shown.n_needs, ==, 1);
        g_assert_cmpstr(shown.needs[0], ==, "cpu:1");
        row.state = ROW_SENT;
        row.has_verdict = false;
        row_show(&row, &shown);
        g_assert_cmpstr(shown.needs[0], ==, "cpu:2,share>=0.9");
}

static void test_refused_files(void)
{
        static const char *const changes[][2] = {
                {"state",   "sleeping"},
                {"counter", "more"    },
                {"cause",   "bored"   },
                {"extra",   "x"       },
        };

        for (size_t i = 0; i < ARRAY_N(changes); i++) {
                struct row row = sample(ROW_RELEASING), back = {0};
                struct err err = {0};
                json_t *v = row_emit(&row);
                json_object_set_new(v, changes[i][0], json_string(changes[i][1]));
                g_assert_cmpint(row_parse(v, &back, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                json_decref(v);
        }
}

static void test_waiters(void)
{
        struct waiters w = {0};
        char calls[ROW_WAITERS_MAX + 1];

        g_assert_null(waiters_take(&w));
        for (size_t i = 0; i < ROW_WAITERS_MAX; i++)
                g_assert_true(waiters_add(&w, (struct rpc_call *)&calls[i]));
        g_assert_false(waiters_add(&w, (struct rpc_call *)&calls[ROW_WAITERS_MAX]));
        for (size_t i = 0; i < ROW_WAITERS_MAX; i++)
                g_assert_true(waiters_take(&w) == (struct rpc_call *)&calls[i]);
        g_assert_null(waiters_take(&w));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/row/every-cell", test_every_cell);
        g_test_add_func("/agent/row/every-row-ends", test_every_row_ends);
        g_test_add_func("/agent/row/names", test_names);
        g_test_add_func("/agent/row/round-trip", test_round_trip);
        g_test_add_func("/agent/row/shown", test_shown);
        g_test_add_func("/agent/row/refused-files", test_refused_files);
        g_test_add_func("/agent/row/waiters", test_waiters);
        return g_test_run();
}

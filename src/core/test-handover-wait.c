/* SPDX-License-Identifier: Apache-2.0 */
/* For how long the three sides of a handover wait for what its source has to separate. */
#include "core/handover.h"

#include <errno.h>
#include <glib.h>

static struct handover_effects effects;

static void hear(struct handover *h, enum handover_says says, int64_t separate_ms, enum handover_state wanted)
{
        struct err err;
        struct handover_message p = {.says = says, .epoch = 7, .separate_ms = separate_ms};
        struct handover_event ev = {.kind = HANDOVER_EV_MESSAGE, .message = &p};
        g_assert_cmpint(handover_step(h, &ev, &effects, &err), ==, 1);
        g_assert_cmpint(h->row.state, ==, wanted);
}

static int64_t said_ms(enum handover_says says)
{
        for (size_t i = 0; i < effects.n; i++)
                if (effects.list[i].kind == HANDOVER_SEND && effects.list[i].message.says == says)
                        return effects.list[i].message.separate_ms;
        g_assert_not_reached();
}

/* How long separation may take is asked for, or the source's to say, and then all three wait for it: it first
 * of all. What nonsense is said is bounded. */
static void test_how_long_separation_may_take(void)
{
        static const struct {
                int64_t asked, said, taken;
        } rows[] = {
                {0,     0,                            0                       },
                {0,     7000000,                      7000000                 },
                {50000, 50000,                        50000                   },
                {50000, 0,                            0                       },
                {0,     -5,                           0                       },
                {0,     HANDOVER_SEPARATE_MAX_MS + 1, HANDOVER_SEPARATE_MAX_MS},
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct handover sp, source, target;
                struct err err;
                struct handover_message classify = {
                        .says = HANDOVER_SAYS_CLASSIFY, .epoch = 7, .id = "h1", .separate_ms = rows[i].asked};
                struct handover_message offer = {
                        .says = HANDOVER_SAYS_OFFER, .epoch = 7, .id = "h1", .separate_ms = rows[i].taken};
                handover_begin(&sp, "h1", 7, 0, rows[i].asked, 0, &effects);
                g_assert_cmpint(said_ms(HANDOVER_SAYS_CLASSIFY), ==, rows[i].asked);
                g_assert_cmpint(handover_admit(&source, &classify, 7, 0, &effects, &err), ==, 1);
                struct handover_event ev = {.kind = HANDOVER_EV_CLASSIFIED,
                                            .token = source.row.step,
                                            .separate_ms = rows[i].said};
                g_assert_cmpint(source.row.separate_ms, ==, rows[i].asked);
                g_assert_cmpint(handover_step(&source, &ev, &effects, &err), ==, 1);
                g_assert_cmpint(said_ms(HANDOVER_SAYS_CLASSIFIED), ==, rows[i].taken);
                hear(&source, HANDOVER_SAYS_SEPARATE, 0, SOURCE_SEPARATING);
                hear(&sp, HANDOVER_SAYS_CLASSIFIED, rows[i].said, HANDOVER_CLASSIFIED);
                g_assert_cmpint(said_ms(HANDOVER_SAYS_OFFER), ==, rows[i].taken);
                hear(&sp, HANDOVER_SAYS_ACCEPTED, 0, HANDOVER_ACCEPTED);
                g_assert_cmpint(handover_admit(&target, &offer, 7, 0, &effects, &err), ==, 1);
                ev = (struct handover_event){.kind = HANDOVER_EV_CHECKED, .token = target.row.step};
                g_assert_cmpint(handover_step(&target, &ev, &effects, &err), ==, 1);
                g_assert_cmpint(target.row.state, ==, TARGET_ACCEPTED);
                if (rows[i].taken > 0)
                        g_assert_cmpint(source.row.deadline_ms, ==, rows[i].taken);
                g_assert_cmpint(source.row.deadline_ms, <, sp.row.deadline_ms);
                g_assert_cmpint(sp.row.deadline_ms, <, target.row.deadline_ms);
                /* A restart waits as long. */
                const struct handover_row row = source.row;
                handover_restore(&source, &row, HANDOVER_VMM_LIVES, RECORD_NONE, 1000, &effects);
                g_assert_cmpint(source.row.deadline_ms, ==, row.deadline_ms + 1000);
        }
}

/* Nothing else depends on it. */
static void test_waits(void)
{
        for (int s = 1; s < HANDOVER_STATE_N; s++) {
                int64_t plain = handover_wait_ms((enum handover_state)s, 0);
                int64_t more = handover_wait_ms((enum handover_state)s, HANDOVER_SEPARATE_MAX_MS);
                bool is_of_it = s == SOURCE_SEPARATING || s == HANDOVER_ACCEPTED || s == TARGET_ACCEPTED;
                g_assert_true(is_of_it ? more > HANDOVER_SEPARATE_MAX_MS - 1 && plain > 0 : more == plain);
        }
        g_assert_cmpint(handover_wait_ms(SOURCE_SEPARATING, 77), ==, 77);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/handover/how-long-separation-may-take", test_how_long_separation_may_take);
        g_test_add_func("/handover/waits", test_waits);
        return g_test_run();
}

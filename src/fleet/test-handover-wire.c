/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <string.h>

#include "fleet/handover-wire.h"

static void test_wire(void)
{
        struct api_handover_message *m = g_new0(struct api_handover_message, 1);
        for (enum handover_says s = HANDOVER_SAYS_CLASSIFY; s < HANDOVER_SAYS_N; s++) {
                struct handover_message said = {.says = s,
                                                .id = "h1",
                                                .epoch = 7,
                                                .gap_ms = 50,
                                                .separate_ms = 9000,
                                                .reason = REASON_TIMEOUT,
                                                .sentence = "so it is"};
                struct handover_message back;
                struct err err = {0};
                handover_wire_fill(&said, "vm1", m);
                json_t *v = api_handover_message_emit(m);
                g_assert_cmpstr(json_string_value(json_object_get(v, "says")), ==, handover_says_name(s));
                json_decref(v);
                g_assert_cmpstr(m->vm, ==, "vm1");
                bool is_processors = s < HANDOVER_SAYS_CLASSIFIED;
                bool has_guest = s == HANDOVER_SAYS_OFFER || s == HANDOVER_SAYS_INFORM ||
                                 s == HANDOVER_SAYS_CLASSIFIED || s == HANDOVER_SAYS_QUIESCED;
                bool has_transfer = s == HANDOVER_SAYS_GIVE || s == HANDOVER_SAYS_INFORMED;
                if (is_processors || has_guest || has_transfer) { /* not without what it needs */
                        g_assert_cmpint(handover_wire_take(m, &back, &err), <, 0);
                        g_assert_cmpint(err.reason, ==, REASON_INVALID);
                }
                m->has_peer = m->has_guest = m->guest.has_control = m->guest.has_loan = m->has_transfer =
                        true;
                g_assert_cmpint(handover_wire_take(m, &back, &err), ==, 0);
                g_assert_cmpint(back.to, ==,
                                s < HANDOVER_SAYS_OFFER ? ROLE_SOURCE
                                : is_processors         ? ROLE_TARGET
                                                        : ROLE_PROCESSOR);
                g_assert_true(back.says == s && back.epoch == 7 && back.gap_ms == 50 &&
                              back.separate_ms == 9000 && back.reason == REASON_TIMEOUT &&
                              strcmp(back.id, "h1") == 0 && strcmp(back.sentence, "so it is") == 0);
        }
        g_free(m);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/handover/wire", test_wire);
        return g_test_run();
}

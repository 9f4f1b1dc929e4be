/* SPDX-License-Identifier: Apache-2.0 */
#include "core/upgrade.h"

#include <glib.h>
#include <string.h>

static struct upgrade u;
static struct err err;

static void to(enum upgrade_state s)
{
        upgrade_begin(&u, "up", false);
        const enum upgrade_state way[] = {UPGRADE_STARTING, UPGRADE_CHECKING, UPGRADE_MOVING,
                                          UPGRADE_GIVING,   UPGRADE_RETIRING, UPGRADE_DONE};
        for (size_t i = 0; u.state != s && i < G_N_ELEMENTS(way); i++) {
                g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
                g_assert_cmpint(u.state, ==, way[i]);
        }
}

static struct upgrade_vm *add(const char *name)
{
        g_assert_cmpint(upgrade_add(&u, name, &err), ==, 0);
        for (size_t i = 0; i < u.n; i++)
                if (strcmp(u.vms[i].name, name) == 0)
                        return &u.vms[i];
        g_assert_not_reached();
}

/* From each state, by each way: it ends in one of two, and no state is left open. */
static void test_back(void)
{
        for (enum upgrade_event ev = UPGRADE_EV_FAILED; ev < UPGRADE_EV_N; ev++)
                for (int s = UPGRADE_LENDING; s <= UPGRADE_MOVING; s++) {
                        if (ev == UPGRADE_EV_WENT || ev == UPGRADE_EV_CAME)
                                continue;
                        to((enum upgrade_state)s);
                        g_assert_cmpint(upgrade_step(&u, ev, REASON_INCOMPATIBLE, "it does not fit", &err),
                                        ==, 1);
                        g_assert_true(upgrade_is_back(&u) && !upgrade_is_final(&u));
                        g_assert_cmpstr(u.sentence, ==, "it does not fit");
                        for (int n = 0; !upgrade_is_final(&u); n++) {
                                g_assert_cmpint(n, <, 3);
                                g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_CANCEL, 0, "again", &err), ==, 0);
                                g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
                        }
                        g_assert_cmpint(u.state, ==, UPGRADE_UNDONE);
                        g_assert_cmpint(u.reason, ==, REASON_INCOMPATIBLE);
                        g_assert_cmpstr(u.sentence, ==, "it does not fit");
                }
}

/* Once a VM went over there is no way back, nor where there was none and it is all but through. */
static void test_forward(void)
{
        to(UPGRADE_MOVING);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
        for (int n = 0; n < 2; n++)
                g_assert_cmpint(upgrade_step(&u, n ? UPGRADE_EV_CANCEL : UPGRADE_EV_FAILED, 0, NULL, &err),
                                ==, -ESTALE);
        g_assert_cmpint(u.state, ==, UPGRADE_MOVING);
        for (int s = UPGRADE_GIVING; s <= UPGRADE_DONE; s++) {
                if (s >= UPGRADE_RECALLING && s <= UPGRADE_STOPPING)
                        continue;
                to((enum upgrade_state)s);
                g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_CANCEL, 0, NULL, &err), ==, -ESTALE);
                g_assert_cmpint(u.state, ==, s);
        }
        /* One of those that were to be broken off had been committed. */
        to(UPGRADE_MOVING);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_CANCEL, REASON_CANCELLED, "no", &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_RECALLING);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_MOVING);
        g_assert_cmpint(u.reason, ==, 0);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_GIVING);
}

/* All that is done by a dry run is undone, and it says what it found; a cancelled one has found nothing. */
static void test_dry(void)
{
        for (int is_cancelled = 0; is_cancelled < 2; is_cancelled++) {
                upgrade_begin(&u, "dry", true);
                for (int n = 0; n < 2; n++)
                        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
                g_assert_cmpint(u.state, ==, UPGRADE_CHECKING);
                g_assert_cmpint(upgrade_step(&u, is_cancelled ? UPGRADE_EV_CANCEL : UPGRADE_EV_DONE,
                                             REASON_CANCELLED, "no", &err),
                                ==, 1);
                g_assert_cmpint(u.would, ==, !is_cancelled);
                for (int n = 0; n < 3; n++)
                        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
                g_assert_cmpint(u.state, ==, UPGRADE_UNDONE);
                g_assert_false(u.has_moved);
        }
}

/* A VM that is started at the old one when it seemed to have none goes as well, before that is ended. */
static void test_came(void)
{
        to(UPGRADE_MOVING);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_CAME, 0, NULL, &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_MOVING);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_CAME, 0, NULL, &err), ==, 0);
        struct upgrade_vm *late = add("late");
        g_assert_true(upgrade_next(&u, 4, 0) == late);
        upgrade_ask(&u, late);
        upgrade_died(&u, late, 0, "its VMM died");
        g_assert_true(late->state == UPGRADE_VM_LEFT && late->reason == REASON_INTERNAL);
        g_assert_cmpstr(late->sentence, ==, "its VMM died");
        g_assert_true(upgrade_is_through(&u) && upgrade_count(&u, UPGRADE_VM_WENT) == 0);
}

static void test_vms(void)
{
        char id[HANDOVER_ID];
        to(UPGRADE_CHECKING);
        struct upgrade_vm *a = add("a"), *b = add("b"), *c = add("c");
        g_assert_true(add("a") == a && u.n == 3);
        upgrade_later(&u, a, 0); /* the others are not kept waiting by it */
        g_assert_true(upgrade_next(&u, 1, 0) == b);
        g_assert_true(upgrade_next(&u, 1, 5000) == a);
        upgrade_urge(&u);
        /* Each is tried alone. */
        g_assert_true(upgrade_next(&u, 1, 0) == a);
        upgrade_ask(&u, a);
        upgrade_handover(&u, a, id);
        g_assert_cmpstr(id, ==, "up.1.1");
        g_assert_null(upgrade_next(&u, 1, 0));
        g_assert_false(upgrade_is_through(&u));
        g_assert_true(upgrade_ended(&u, a, 0, NULL, 0));
        upgrade_ask(&u, b);
        g_assert_true(upgrade_ended(&u, b, REASON_BUSY, "later", 100));
        g_assert_true(upgrade_retried(&u) == b);
        g_assert_true(upgrade_next(&u, 1, 100) == c);
        upgrade_ask(&u, c);
        g_assert_true(upgrade_ended(&u, c, 0, NULL, 100));
        g_assert_null(upgrade_next(&u, 1, 100));
        g_assert_true(upgrade_next(&u, 1, 5000) == b);
        upgrade_ask(&u, b);
        upgrade_handover(&u, b, id);
        g_assert_cmpstr(id, ==, "up.2.2");
        g_assert_true(upgrade_ended(&u, b, 0, NULL, 5000) && b->reason == 0 && !*b->sentence);
        g_assert_true(upgrade_is_through(&u));
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
        g_assert_false(upgrade_is_through(&u));
        /* Side by side; one that has no room now has it later. */
        upgrade_ask(&u, upgrade_next(&u, 2, 5000));
        upgrade_ask(&u, upgrade_next(&u, 2, 5000));
        g_assert_null(upgrade_next(&u, 2, 5000));
        g_assert_true(upgrade_ended(&u, a, REASON_NO_CAPACITY, "no room", 5000));
        g_assert_cmpint(a->state, ==, UPGRADE_VM_FITS);
        g_assert_true(upgrade_ended(&u, b, 0, NULL, 5000));
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
        upgrade_left(&u, c);
        upgrade_ask(&u, upgrade_next(&u, 2, 50000));
        g_assert_true(
                upgrade_ended(&u, a, REASON_INCOMPATIBLE, "now of all times", 50000)); /* forward only */
        g_assert_cmpint(a->state, ==, UPGRADE_VM_FITS);
        upgrade_ask(&u, upgrade_next(&u, 2, 500000));
        g_assert_true(upgrade_ended(&u, a, 0, NULL, 500000));
        g_assert_true(upgrade_is_through(&u));
        g_assert_cmpuint(upgrade_count(&u, UPGRADE_VM_WENT), ==, 2);
        add("b"); /* somebody handed it back */
        g_assert_false(upgrade_is_through(&u));
}

/* What does not fit, or is too long away, is why all of it is undone. */
static void test_unfit(void)
{
        to(UPGRADE_CHECKING);
        struct upgrade_vm *a = add("a");
        upgrade_ask(&u, a);
        g_assert_false(upgrade_ended(&u, a, REASON_INCOMPATIBLE, "another CPU model", 0));
        g_assert_cmpint(a->state, ==, UPGRADE_VM_UNFIT);
        add("a");
        g_assert_cmpint(a->state, ==, UPGRADE_VM_UNFIT);
        struct upgrade_vm *b = add("b");
        int n = 0;
        for (int64_t now = 0; n < 100; n++, now += 100000) {
                struct upgrade_vm *next = upgrade_next(&u, 1, now);
                g_assert_true(next == b);
                upgrade_ask(&u, b);
                if (!upgrade_ended(&u, b, REASON_TIMEOUT, "no answer", now))
                        break;
        }
        g_assert_cmpint(n, <, 100);
        g_assert_true(upgrade_is_through(&u));
        /* Nor is a new VMM that never gets ready waited for, unless another VM is on it already. */
        for (int has_moved = 0; has_moved < 2; has_moved++) {
                to(UPGRADE_MOVING);
                struct upgrade_vm *c = add("c");
                if (has_moved)
                        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
                for (n = 0; n < 100; n++) {
                        upgrade_ask(&u, c);
                        if (!upgrade_ended(&u, c, REASON_INTERNAL, "its VMM ended", 0))
                                break;
                }
                g_assert_true(has_moved ? n == 100 : n < 20);
        }
}

/* One does not fit, so that all is to be undone; and then another had been committed. It is tried until it
 * went, or left, and nothing is retired before. */
static void test_unfit_and_forward(void)
{
        /* Before anything was done of that, as both ended at once. */
        to(UPGRADE_MOVING);
        struct upgrade_vm *a = add("a"), *b = add("b");
        upgrade_ask(&u, a);
        upgrade_ask(&u, b);
        g_assert_false(upgrade_ended(&u, b, REASON_INCOMPATIBLE, "another CPU model", 100));
        g_assert_true(upgrade_ended(&u, a, 0, NULL, 100));
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
        g_assert_cmpint(b->state, ==, UPGRADE_VM_FITS);
        to(UPGRADE_CHECKING);
        a = add("a");
        b = add("b");
        for (int n = 0; n < 2; n++) {
                struct upgrade_vm *vm = upgrade_next(&u, 1, 0);
                upgrade_ask(&u, vm);
                g_assert_true(upgrade_ended(&u, vm, 0, NULL, 0));
        }
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
        upgrade_ask(&u, a);
        upgrade_ask(&u, b);
        g_assert_false(upgrade_ended(&u, b, REASON_INCOMPATIBLE, "another CPU model", 100));
        g_assert_cmpint(b->state, ==, UPGRADE_VM_UNFIT);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_FAILED, b->reason, b->sentence, &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_RECALLING);
        g_assert_cmpint(b->state, ==, UPGRADE_VM_UNFIT);
        g_assert_true(upgrade_ended(&u, a, 0, NULL, 200));
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_MOVING);
        g_assert_cmpint(b->state, ==, UPGRADE_VM_FITS);
        g_assert_false(upgrade_is_through(&u));
        g_assert_true(upgrade_next(&u, 2, 100000) == b);
        upgrade_ask(&u, b);
        g_assert_true(upgrade_ended(&u, b, REASON_INCOMPATIBLE, "another CPU model", 100000));
        g_assert_false(upgrade_is_through(&u));
        upgrade_left(&u, b); /* somebody stopped it */
        g_assert_true(upgrade_is_through(&u));
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
        g_assert_cmpint(u.state, ==, UPGRADE_GIVING);
}

static void went(struct upgrade_vm *vm)
{
        upgrade_ask(&u, vm);
        g_assert_true(upgrade_ended(&u, vm, 0, NULL, 0));
}

/* By ranks, whatever those of the one whose turn it is wait for. */
static void test_order(void)
{
        static const uint32_t rank[] = {2, 3, 1, 2};
        to(UPGRADE_CHECKING);
        struct upgrade_vm *v[5] = {add("v0"), add("v1"), add("v2"), add("v3")};
        for (int i = 0; i < 4; i++)
                went(v[i]);
        upgrade_set_order(&u, rank);
        add("v4"); /* it is to be tried, and waits for nobody */
        g_assert_true(upgrade_next(&u, 4, 0) == &u.vms[4]);
        upgrade_left(&u, &u.vms[4]);
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_DONE, 0, NULL, &err), ==, 1);
        g_assert_cmpuint(upgrade_rank(&u), ==, 1);
        v[4] = add("v4"); /* it came back, behind those that were counted on */
        g_assert_true(upgrade_next(&u, 4, 0) == v[2]);
        upgrade_ask(&u, v[2]);
        g_assert_null(upgrade_next(&u, 4, 0));
        g_assert_true(upgrade_ended(&u, v[2], REASON_TIMEOUT, "it stood for too long", 0));
        g_assert_null(upgrade_next(&u, 4, 0));
        g_assert_true(upgrade_next(&u, 4, 100000) == v[2]);
        upgrade_ask(&u, v[2]);
        g_assert_true(upgrade_ended(&u, v[2], REASON_NO_CAPACITY, "no room", 100000));
        g_assert_true(upgrade_retried(&u) == v[2]);
        /* Only one that nobody counted on may be what it has no room for. */
        g_assert_true(upgrade_next(&u, 4, 100000) == v[4]);
        upgrade_ask(&u, v[4]);
        g_assert_null(upgrade_next(&u, 4, 100000));
        g_assert_true(upgrade_ended(&u, v[4], REASON_NO_CAPACITY, "no room", 100000));
        went(upgrade_next(&u, 4, 200000));
        g_assert_cmpint(upgrade_step(&u, UPGRADE_EV_WENT, 0, NULL, &err), ==, 1);
        g_assert_true(v[2]->state == UPGRADE_VM_WENT && upgrade_rank(&u) == 2);
        /* Those of one rank side by side; one that left is waited for no more. */
        for (int i = 0; i < 4; i += 3) {
                g_assert_true(upgrade_next(&u, 4, 200000) == v[i]);
                upgrade_ask(&u, v[i]);
        }
        g_assert_null(upgrade_next(&u, 4, 200000));
        g_assert_true(upgrade_ended(&u, v[0], 0, NULL, 200000));
        g_assert_true(upgrade_ended(&u, v[3], REASON_BUSY, "later", 200000));
        g_assert_null(upgrade_next(&u, 4, 200000));
        upgrade_left(&u, v[3]);
        g_assert_cmpuint(upgrade_rank(&u), ==, 3);
        went(upgrade_next(&u, 4, 300000));
        g_assert_true(v[1]->state == UPGRADE_VM_WENT && upgrade_rank(&u) == 0);
        g_assert_true(upgrade_next(&u, 4, 300000) == v[4]);
}

static void test_bounds(void)
{
        to(UPGRADE_CHECKING);
        for (int i = 0; i < UPGRADE_VMS_MAX; i++) {
                g_autofree char *name = g_strdup_printf("v%d", i);
                add(name);
        }
        g_assert_cmpint(upgrade_add(&u, "one-more", &err), ==, -ENOSPC);
        g_assert_cmpint(upgrade_add(&u, "v3", &err), ==, 0);
        /* Of one that left another has the place, and no handover that name; not of one that died. */
        char id[HANDOVER_ID];
        upgrade_ask(&u, &u.vms[7]);
        upgrade_died(&u, &u.vms[7], REASON_PEER_LOST, "its VMM died");
        g_assert_cmpint(upgrade_add(&u, "one-more", &err), ==, -ENOSPC);
        for (int i = 0; i < 4; i++) {
                upgrade_ask(&u, &u.vms[9]);
                g_assert_true(upgrade_ended(&u, &u.vms[9], REASON_BUSY, "later", 0));
        }
        upgrade_left(&u, &u.vms[9]);
        g_assert_true(add("one-more") == &u.vms[9] && u.n == UPGRADE_VMS_MAX);
        g_assert_true(u.vms[9].reason == 0 && !*u.vms[9].sentence && u.vms[9].again_ms == 0);
        upgrade_ask(&u, &u.vms[9]);
        upgrade_handover(&u, &u.vms[9], id);
        g_assert_cmpstr(id, ==, "up.10.5");
        g_assert_cmpuint(u.vms[9].tries, ==, 1); /* none that the other had is counted against it */
        g_assert_true(upgrade_ended(&u, &u.vms[9], REASON_BUSY, "later", 0));
        g_assert_cmpint(upgrade_add(&u, "and-another", &err), ==, -ENOSPC);
        for (int s = 1; s < UPGRADE_STATE_N; s++)
                g_assert_cmpint(upgrade_state_from_name(upgrade_state_name((enum upgrade_state)s)), ==, s);
        for (int s = 1; s < UPGRADE_VM_STATE_N; s++)
                g_assert_cmpint(upgrade_vm_state_from_name(upgrade_vm_state_name((enum upgrade_vm_state)s)),
                                ==, s);
        g_assert_cmpint(upgrade_state_from_name("?"), ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/upgrade/back", test_back);
        g_test_add_func("/upgrade/forward", test_forward);
        g_test_add_func("/upgrade/dry", test_dry);
        g_test_add_func("/upgrade/came", test_came);
        g_test_add_func("/upgrade/vms", test_vms);
        g_test_add_func("/upgrade/unfit", test_unfit);
        g_test_add_func("/upgrade/unfit-and-forward", test_unfit_and_forward);
        g_test_add_func("/upgrade/order", test_order);
        g_test_add_func("/upgrade/bounds", test_bounds);
        return g_test_run();
}

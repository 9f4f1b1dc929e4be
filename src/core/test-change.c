/* SPDX-License-Identifier: Apache-2.0 */
/* The host changes below its VMs: components that go and come back. */
#include "core/test-world.h"

static const struct definition *base_vcpu(const struct world *w, const char *key)
{
        const struct request *r = hypervisor_find(w->h, key);
        g_assert_nonnull(r);
        for (size_t i = 0; i < r->n_definitions; i++)
                if (r->definitions[i].kind == VIRTUAL_VCPU)
                        return &r->definitions[i];
        g_assert_not_reached();
}

static uint32_t bound_to(const struct world *w, const char *key)
{
        gpointer value = g_hash_table_lookup(w->bound, key);
        g_assert_nonnull(value);
        return (uint32_t)(GPOINTER_TO_SIZE(value) >> 48);
}

/* Moved first, on its node, and then told; what comes back is told again. Whatever dies in between (2.3
 * to 2.5). */
static void test_moved(void)
{
        struct told rows[G_N_ELEMENTS(machine)];
        for (int dies_at = -1; dies_at < 4; dies_at++) {
                struct world w;
                struct err err = {0};
                world_init(&w);
                start_vm(&w);
                g_assert_cmpint(hypervisor_vm_start(w.h, "d", w.now, &err), ==, 0);
                turn(&w);
                work_all(&w);
                uint32_t was = base_vcpu(&w, "vm:v")->component, node = machine[was].node;
                uint32_t other = base_vcpu(&w, "vm:d")->component;
                g_string_truncate(w.log, 0);
                change(&w, was, false, 0);
                g_assert_cmpint(logged(&w, "component-offline;"), ==, 1);
                g_assert_cmpint(logged(&w, "v update-needed;"), ==, 1);
                g_assert_cmpint(logged(&w, other == was ? "d update-needed;" : "d no-update-needed;"), ==, 1);
                for (int i = 0; i <= dies_at && !g_queue_is_empty(&w.work); i++)
                        work_one(&w, false);
                if (dies_at >= 0) {
                        g_queue_clear_full(&w.work, g_free);
                        reload(&w);
                }
                uint32_t to = base_vcpu(&w, "vm:v")->component;
                g_assert_true(to != was && machine[to].node == node);
                g_assert_true(hypervisor_is_moving(w.h, "v") == base_vcpu(&w, "vm:v")->moving);
                work_all(&w);
                g_assert_false(hypervisor_is_moving(w.h, "v"));
                g_assert_cmpint(logged(&w, "v moving;"), ==, 1);
                g_assert_cmpint(logged(&w, "v moved;"), ==, 1);
                g_assert_cmpuint(bound_to(&w, "v vcpu 0"), ==, to);
                hypervisor_told(w.h, "v", rows);
                g_assert_true(rows[was].mark == TOLD_OFFLINE && rows[was].yours == 0 && rows[was].free == 0);
                g_assert_true(rows[to].mark == TOLD_YOURS && rows[to].yours == 200);
                g_assert_cmpint(ledger_free_over(hypervisor_ledger(w.h), was, w.now, LEDGER_OPEN), ==, 0);
                /* nothing new is given of it */
                char need[32];
                (void)snprintf(need, sizeof(need), "cpu:1,id=%u", was);
                uint64_t named = ask(&w, "named", need, false, NULL);
                g_assert_cmpint(get(&w, named)->state, ==, REQUEST_REFUSED);
                g_assert_cmpint(get(&w, named)->outcome, ==, OUTCOME_NOT_NOW);   /* it may come back */
                g_assert_true(g_str_has_prefix(get(&w, named)->sentence, need)); /* which one */
                g_string_truncate(w.log, 0);
                change(&w, was, true, 0);
                g_assert_cmpint(logged(&w, "component-online;"), ==, 1);
                g_assert_cmpint(logged(&w, "v no-update-needed;"), ==, 1);
                g_assert_true(g_queue_is_empty(&w.work));
                hypervisor_told(w.h, "v", rows);
                g_assert_true(rows[was].mark == TOLD_FREE && rows[was].free == 1000);
                world_done(&w);
        }
}

/* It is told when that cannot be done, too, and it is tried again; so it is when the guest's own lease goes
 * meanwhile, and when a look was under way. */
static void test_move_fails(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        world_init(&w);
        start_vm(&w);
        uint32_t was = base_vcpu(&w, "vm:v")->component;
        g_assert_cmpint(hypervisor_vm_check(w.h, "v", w.now, &serial, &err), ==, 0);
        turn(&w); /* the look is out: its answer is of before */
        change(&w, was, false, 0);
        work_one(&w, false);
        g_assert_true(hypervisor_is_moving(w.h, "v"));
        for (int i = 0; i < 3; i++) {
                w.now += config.retry_max_ms;
                hypervisor_tick(w.h, w.now);
                turn(&w);
                g_assert_true(hypervisor_is_moving(w.h, "v"));
                while (!g_queue_is_empty(&w.work))
                        work_one(&w, true);
                g_assert_false(hypervisor_is_moving(w.h, "v"));
                g_assert_true(base_vcpu(&w, "vm:v")->moving);
        }
        g_assert_cmpint(logged(&w, "v move-failed;"), ==, 1); /* said once */
        g_assert_nonnull(strstr(hypervisor_changed(w.h, serial), "vcpu 0"));
        w.now += config.retry_max_ms;
        hypervisor_tick(w.h, w.now);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(logged(&w, "v moved;"), ==, 1);
        g_assert_cmpstr(hypervisor_changed(w.h, serial), ==, "");
        /* given back while it moves */
        uint64_t a = ask(&w, "a", "cpu:1,share>=0.5", false, NULL);
        work_all(&w);
        change(&w, get(&w, a)->definitions[0].component, false, 0);
        g_assert_true(get(&w, a)->definitions[0].moving);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 2); /* the base */
        /* stopped while it moves: what is held is on neither, so nothing of it is kept, and it starts again
         */
        change(&w, base_vcpu(&w, "vm:v")->component, false, 0);
        g_assert_true(base_vcpu(&w, "vm:v")->moving);
        g_assert_cmpint(hypervisor_vm_stopped(w.h, "v", "shut down", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_ENDED);
        g_assert_null(hypervisor_kept(w.h, "v"));
        g_assert_true(nothing_held(&w));
        start_vm(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_GRANTED);
        world_done(&w);
}

/* What it leaves comes back before it has left: nobody else is given that, over a restart too; and then it is
 * free. So it is for a lease that ends meanwhile. */
static void test_leaves_late(void)
{
        for (int dies = 0; dies < 2; dies++) {
                struct world w;
                struct err err = {0};
                uint64_t serial;
                char need[40];
                world_init(&w);
                start_vm(&w);
                uint32_t was = base_vcpu(&w, "vm:v")->component;
                change(&w, was, false, 0);
                g_assert_true(base_vcpu(&w, "vm:v")->moving);
                change(&w, was, true, 0);
                if (dies) {
                        g_queue_clear_full(&w.work, g_free);
                        reload(&w);
                }
                (void)snprintf(need, sizeof(need), "cpu:1,exclusive,id=%u", was);
                uint64_t s = ask_for(&w, NULL, "early", need, false, 0, LEDGER_OPEN, NULL);
                g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_NOT_NOW);
                work_all(&w);
                g_assert_false(base_vcpu(&w, "vm:v")->moving);
                g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), was), ==, 0);
                s = ask_for(&w, NULL, "late", need, false, 0, LEDGER_OPEN, NULL);
                g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_GRANTED);
                uint64_t a = ask_for(&w, "v", "a", "cpu:1,share>=0.5", false, 0, w.now + 5000, NULL);
                work_all(&w);
                was = get(&w, a)->definitions[0].component;
                change(&w, was, false, 0);
                g_assert_true(get(&w, a)->definitions[0].moving);
                change(&w, was, true, 0);
                g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
                turn(&w);
                if (dies) {
                        g_queue_clear_full(&w.work, g_free);
                        reload(&w);
                }
                g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), was), >=, 500);
                work_all(&w);
                g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
                g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 3); /* the base, and "late" */
                world_done(&w);
        }
}

/* Between two steps of what its guest draws out, and that goes on behind it where it was. */
static void test_moves_first(void)
{
        for (int done = 0; done < 4; done++) {
                struct world w;
                uint64_t lease[3];
                world_init(&w);
                start_vm(&w);
                for (size_t i = 0; i < G_N_ELEMENTS(lease); i++) {
                        char id[] = {(char)('a' + i), '\0'};
                        lease[i] = ask(&w, id, "memory:128M", false, NULL);
                }
                for (int i = 0; i < done; i++)
                        work_one(&w, false);
                change(&w, base_vcpu(&w, "vm:v")->component, false, 0);
                g_assert_true(base_vcpu(&w, "vm:v")->moving);
                struct activation before = get(&w, lease[0])->activation;
                work_one(&w, false); /* the step that is out */
                while (base_vcpu(&w, "vm:v")->moving) {
                        g_assert_cmpint(get(&w, lease[0])->state, ==, REQUEST_ACTIVATING);
                        g_assert_true(get(&w, lease[0])->activation.phase == before.phase);
                        work_one(&w, false);
                }
                for (size_t i = 0; i < G_N_ELEMENTS(lease); i++)
                        g_assert_cmpint(get(&w, lease[i])->state, ==, REQUEST_ACTIVATING);
                work_all(&w);
                for (size_t i = 0; i < G_N_ELEMENTS(lease); i++)
                        g_assert_cmpint(get(&w, lease[i])->state, ==, REQUEST_GRANTED);
                world_done(&w);
        }
}

/* Nobody is left without a CPU but those who can be: leases end, the VM shares what is left, and goes apart
 * again when there is room. */
static void test_no_place(void)
{
        struct world w;
        char text[128];
        world_init(&w);
        w.is_crowded = true;
        start_vm(&w);
        g_assert_cmpuint(base_vcpu(&w, "vm:v")->component, ==, 0);
        (void)ask_for(&w, NULL, "others", "cpu:4,share>=0.5", false, 0, LEDGER_OPEN, NULL);
        uint64_t named = ask(&w, "named", "cpu:1,id=0,share>=0.3", false, NULL);
        uint64_t near = ask(&w, "near", "cpu:1,node=0,share>=0.3", false, NULL);
        (void)ask_for(&w, NULL, "more", "cpu:2,share>=0.4", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpuint(get(&w, named)->definitions[0].component, ==, 0);
        /* what asked for that CPU and no other ends with it */
        change(&w, 0, false, 0);
        g_assert_cmpint(get(&w, named)->state, ==, REQUEST_RELEASING);
        g_assert_cmpint(logged(&w, "v/named withdrawn;"), ==, 1);
        (void)snprintf(text, sizeof(text),
                       "; %s was taken out of use: made to, and vcpu %d has no other place;", machine[0].id,
                       (int)get(&w, named)->definitions[0].slot);
        g_assert_nonnull(strstr(w.texts->str, text));
        (void)snprintf(text, sizeof(text), "%s was taken out of use: made to: 1 vCPU moves, 1 lease ends;",
                       machine[0].id);
        g_assert_nonnull(strstr(w.texts->str, text));
        work_all(&w);
        g_assert_cmpint(get(&w, named)->state, ==, REQUEST_ENDED);
        /* one after another goes, but for the last */
        for (uint32_t i = 1; i < 3; i++) {
                change(&w, i, false, 0);
                work_all(&w);
        }
        g_assert_cmpint(get(&w, near)->state, ==, REQUEST_ENDED); /* so does what wanted that node */
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_GRANTED);
        g_assert_cmpuint(base_vcpu(&w, "vm:v")->component, ==, 3);
        change(&w, 3, false, 0);
        work_all(&w);
        g_assert_cmpuint(base_vcpu(&w, "vm:v")->component, ==, 3);
        g_assert_cmpint(logged(&w, "v no-place;"), ==, 1);
        for (uint32_t i = 0; i < 4; i++) {
                change(&w, i, true, 0);
                work_all(&w);
        }
        for (uint32_t i = 0; i < 4; i++) /* all fits again */
                g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), i), <=, 1000);
        world_done(&w);
}

/* What is exclusive stays so, or ends; and nobody is put beside it. */
static void test_exclusive_moves(void)
{
        struct world w;
        world_init(&w);
        w.is_crowded = true;
        start_vm(&w);
        uint64_t a = ask(&w, "a", "cpu:2,exclusive", false, NULL);
        work_all(&w);
        uint32_t one = get(&w, a)->definitions[0].component, two = get(&w, a)->definitions[1].component;
        uint32_t base = base_vcpu(&w, "vm:v")->component, left = 0 + 1 + 2 + 3 - one - two - base;
        change(&w, one, false, 0);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
        g_assert_true(get(&w, a)->definitions[0].component == left && get(&w, a)->definitions[0].exclusive);
        /* all that is left is exclusively another's */
        change(&w, base, false, 0);
        work_all(&w);
        g_assert_cmpuint(base_vcpu(&w, "vm:v")->component, ==, base);
        g_assert_cmpint(logged(&w, "v no-place;"), ==, 1);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
        change(&w, two, false, 0);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
        change(&w, one, true, 0);
        work_all(&w);
        g_assert_true(base_vcpu(&w, "vm:v")->component == left || base_vcpu(&w, "vm:v")->component == one);
        world_done(&w);
}

/* It disappears while it is being made usable: refused, whatever step it is at, and all is back. */
static void test_gone_while_allocated(void)
{
        for (int steps = 0; steps < 6; steps++) {
                struct world w;
                world_init(&w);
                start_vm(&w);
                uint64_t a = ask(&w, "a", "cpu:1,share>=0.9 memory:128M", false, NULL);
                for (int i = 0; i < steps; i++)
                        work_one(&w, false);
                g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ACTIVATING);
                for (size_t i = 0; i < get(&w, a)->n_definitions; i++)
                        if (get(&w, a)->definitions[i].kind == VIRTUAL_VCPU) {
                                change(&w, get(&w, a)->definitions[i].component, false, 0);
                                break;
                        }
                g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_NOT_NOW);
                g_assert_cmpint(get(&w, a)->reason, ==, REASON_NO_CAPACITY);
                g_assert_nonnull(strstr(get(&w, a)->sentence, "gone"));
                work_all(&w);
                g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
                g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 2); /* the base */
                world_done(&w);
        }
}

/* Less memory: the last lease makes room, and no more than that; the VM's own stays. */
static void test_less_memory(void)
{
        struct world w;
        char text[128];
        world_init(&w);
        start_vm(&w);
        uint32_t node = 4;
        const struct request *base = hypervisor_find(w.h, "vm:v");
        g_assert_cmpuint(base->definitions[0].component, ==, node);
        uint64_t a = ask(&w, "a", "memory:256M,node=0", false, NULL);
        uint64_t b = ask(&w, "b", "memory:256M,node=0", false, NULL);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), node), ==, 1024 * MIB);
        w.is_crowded = true;
        change(&w, node, true, 64 * MIB); /* all fits still */
        g_assert_cmpint(logged(&w, "component-resized;"), ==, 1);
        g_assert_cmpint(logged(&w, "v no-update-needed;"), ==, 1);
        (void)snprintf(text, sizeof(text),
                       "64M of %s was taken out of use: made to: its allocation stays as it is;",
                       machine[node].id);
        g_assert_nonnull(strstr(w.texts->str, text));
        change(&w, node, true, 1030 * MIB);
        g_assert_cmpint(get(&w, b)->state, ==, REQUEST_RELEASING);
        g_assert_true(hypervisor_is_moving(w.h, "v"));
        change(&w, node, true, 1031 * MIB); /* that is on its way already */
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->state, ==, REQUEST_ENDED);
        g_assert_false(hypervisor_is_moving(w.h, "v"));
        struct told rows[G_N_ELEMENTS(machine)];
        hypervisor_told(w.h, "v", rows);
        g_assert_cmpint(rows[node].capacity, ==, (2048 - 1031) * MIB);
        g_assert_cmpint(rows[node].free, ==, (2048 - 1031 - 768) * MIB);
        change(&w, node, false, 0);
        (void)snprintf(text, sizeof(text),
                       "%s was taken out of use: made to: 1 lease ends, its own memory stays;",
                       machine[node].id);
        g_assert_nonnull(strstr(w.texts->str, text));
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_GRANTED);
        hypervisor_told(w.h, "v", rows);
        g_assert_true(rows[node].mark == TOLD_OFFLINE && rows[node].yours == 512 * MIB);
        change(&w, node, true, 0);
        g_assert_cmpint(get(&w, ask(&w, "c", "memory:1G,node=0", false, NULL))->state, ==,
                        REQUEST_ACTIVATING);
        work_all(&w);
        world_done(&w);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/hypervisor/moved", test_moved);
        g_test_add_func("/hypervisor/move-fails", test_move_fails);
        g_test_add_func("/hypervisor/leaves-late", test_leaves_late);
        g_test_add_func("/hypervisor/moves-first", test_moves_first);
        g_test_add_func("/hypervisor/no-place", test_no_place);
        g_test_add_func("/hypervisor/exclusive-moves", test_exclusive_moves);
        g_test_add_func("/hypervisor/gone-while-allocated", test_gone_while_allocated);
        g_test_add_func("/hypervisor/less-memory", test_less_memory);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The heart under random events and crashes. */
#include "core/test-world.h"

enum { IDS = 60 };

static void sum_live(const struct request *r, void *arg)
{
        GString *s = arg;
        /* a window that has begun meanwhile may have something reclaimed that was only kept */
        enum request_state state = r->state == REQUEST_RECLAIMING ? REQUEST_KEPT : r->state;
        g_string_append_printf(s, "%s %s %d", r->key, request_state_name(state), r->outcome);
        for (size_t i = 0; i < r->n_definitions; i++)
                g_string_append_printf(s, " %u=%lld@%d", r->definitions[i].component,
                                       (long long)r->definitions[i].amount, r->definitions[i].slot);
        g_string_append_c(s, '\n');
}

static void crash(struct world *w)
{
        GString *before = g_string_new(NULL), *after = g_string_new(NULL);
        hypervisor_tick(w->h, w->now); /* as the replay does */
        turn(w);
        hypervisor_each(w->h, sum_live, before);
        g_queue_clear_full(&w->work, g_free);
        g_array_set_size(w->waits, 0); /* who waited asks again */
        reload(w);
        hypervisor_each(w->h, sum_live, after);
        g_assert_cmpstr(before->str, ==, after->str); /* replay gives the same state */
        g_string_free(before, TRUE);
        g_string_free(after, TRUE);
}

static const char *random_key(GRand *rand, char key[32])
{
        static const char *const of[] = {"vm:v/r", "vm:u/r", "reservation:r"};
        (void)snprintf(key, 32, "%s%d", of[g_rand_int_range(rand, 0, G_N_ELEMENTS(of))],
                       g_rand_int_range(rand, 0, IDS));
        return key;
}

static void random_ask(struct world *w, GRand *rand)
{
        static const char *const kinds[] = {"cpu:1",
                                            "cpu:2,share>=0.9",
                                            "cpu:1,exclusive",
                                            "memory:256M",
                                            "memory:128M..1G",
                                            "cpu:1..3 memory:128M",
                                            "memory:1G cpu:1,share>=0.1",
                                            "net:100M",
                                            "net:50M..300M cpu:1"};
        static const char *const vms[] = {"v", "v", "u", NULL};
        char id[16];
        enum reason bad;
        const char *vm = vms[g_rand_int_range(rand, 0, G_N_ELEMENTS(vms))];
        int64_t start_ms = 0, end_ms = LEDGER_OPEN;
        (void)snprintf(id, sizeof(id), "r%d", g_rand_int_range(rand, 0, IDS));
        if (!vm && g_rand_boolean(rand))
                start_ms = w->now + g_rand_int_range(rand, 0, 3000);
        if (g_rand_boolean(rand))
                end_ms = (start_ms ? start_ms : w->now) + g_rand_int_range(rand, 1, 3000);
        (void)ask_for(w, vm, id, kinds[g_rand_int_range(rand, 0, G_N_ELEMENTS(kinds))], g_rand_boolean(rand),
                      start_ms, end_ms, &bad);
}

static void random_event(struct world *w, GRand *rand)
{
        char key[32];
        uint64_t serial;
        struct err err = {0};
        const char *vm = shapes[g_rand_int_range(rand, 0, G_N_ELEMENTS(shapes))].name;
        w->disk_fails = g_rand_int_range(rand, 0, 25) == 0;
        (void)random_key(rand, key);
        switch (g_rand_int_range(rand, 0, w->is_crowded ? 14 : 13)) {
        case 13: {
                uint32_t c = (uint32_t)g_rand_int_range(rand, 0, 6);
                int64_t lost = c >= 4 && g_rand_boolean(rand) ? g_rand_int_range(rand, 1, 2048) * MIB : 0;
                bool healthy = lost > 0 || g_rand_boolean(rand);
                const struct host_change changed = {c, healthy, lost, 0};
                w->disk_fails = false; /* whoever keeps what is gone does so in the same turn */
                w->gone[c] = !healthy;
                (void)hypervisor_host_changed(w->h, &changed, 1, "made to", w->now);
                break;
        }
        case 0:
                if (hypervisor_vm_start(w->h, vm, w->now, &err) == 0) {
                        (void)snprintf(key, sizeof(key), "vm:%s", vm);
                        wait_on(w, hypervisor_find(w->h, key)->serial, EFFECT_ANSWER);
                }
                break;
        case 1:
                (void)snprintf(key, sizeof(key), "vm:%s", vm);
                if (g_rand_int_range(rand, 0, 20) == 0)
                        (void)hypervisor_release(w->h, key, "killed", w->now, &serial, &err);
                else if (g_rand_int_range(rand, 0, 5) == 0)
                        (void)hypervisor_vm_stopped(w->h, vm, "shut down", w->now, &serial, &err);
                else if (g_rand_int_range(rand, 0, 20) == 0)
                        (void)hypervisor_vm_reclaim(w->h, vm, "an operator wants it", w->now, &serial);
                else
                        hypervisor_vm_hurry(w->h, vm, w->now + 1);
                break;
        case 2:
                if (g_rand_int_range(rand, 0, 20) == 0)
                        hypervisor_vm_processes_gone(w->h, vm, "booted", w->now);
                break;
        case 3:
                if (hypervisor_accept(w->h, key, w->now, &serial, &err) == 0)
                        wait_on(w, serial, EFFECT_ANSWER);
                break;
        case 4:
        case 5:
                if (hypervisor_release(w->h, key, "released", w->now, &serial, &err) == 0)
                        wait_on(w, serial, EFFECT_RELEASED);
                break;
        case 6:
                w->now += g_rand_int_range(rand, 0, 700);
                if (g_rand_boolean(rand)) /* or the timer is late */
                        hypervisor_tick(w->h, w->now);
                break;
        case 7:
                w->disk_fails = false;
                crash(w);
                break;
        case 8:
        case 9:
                w->no_capacity = g_rand_boolean(rand);
                work_one(w, g_rand_int_range(rand, 0, 5) == 0);
                break;
        case 10:
                (void)hypervisor_vm_check(w->h, vm, w->now, &serial, &err);
                break;
        default:
                random_ask(w, rand);
        }
        turn(w);
}

static void collect_key(const struct request *r, void *arg)
{
        if (request_is_live(r))
                g_ptr_array_add(arg, g_strdup(r->key));
}

static void release_all(struct world *w)
{
        GPtrArray *keys = g_ptr_array_new_with_free_func(g_free);
        hypervisor_each(w->h, collect_key, keys);
        for (guint i = 0; i < keys->len; i++) {
                uint64_t serial;
                struct err err = {0};
                g_assert_cmpint(hypervisor_release(w->h, g_ptr_array_index(keys, i), "released", w->now,
                                                   &serial, &err),
                                ==, 0);
                wait_on(w, serial, EFFECT_RELEASED);
                turn(w);
        }
        g_ptr_array_free(keys, TRUE);
}

static void test_random(void)
{
        guint32 seed = g_test_rand_int_range(0, G_MAXINT32);
        GRand *rand = g_rand_new_with_seed(seed);
        g_test_message("seed %u", seed);
        for (int round = 0; round < 20; round++) {
                struct world w;
                world_init(&w);
                w.is_crowded = round % 2; /* the host changes, too */
                for (int i = 0; i < 400; i++)
                        random_event(&w, rand);
                /* Let everything end: nothing may be left, and nobody still wait. */
                w.disk_fails = false;
                work_all(&w);
                release_all(&w);
                work_all(&w);
                for (size_t i = 0; i < G_N_ELEMENTS(shapes); i++) {
                        uint64_t serial;
                        (void)hypervisor_vm_reclaim(w.h, shapes[i].name, "it ends", w.now, &serial);
                }
                turn(&w);
                work_all(&w);
                w.now += config.retry_max_ms; /* what failed to come back, once more */
                hypervisor_tick(w.h, w.now);
                turn(&w);
                work_all(&w);
                g_assert_null(w.h->kept_first);
                g_assert_null(w.h->waiting_first);
                g_assert_cmpuint(w.waits->len, ==, 0);
                g_assert_true(nothing_held(&w));
                g_assert_cmpuint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
                for (uint32_t c = 0; c < G_N_ELEMENTS(machine); c++)
                        g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), c), ==, 0);
                world_done(&w);
        }
        g_rand_free(rand);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/hypervisor/random", test_random);
        return g_test_run();
}

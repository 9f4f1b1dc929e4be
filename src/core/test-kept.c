/* SPDX-License-Identifier: Apache-2.0 */
/* What is kept of stopped VMs, and who gets it. */
#include "core/test-world.h"

static uint64_t stop_vm(struct world *w, const char *vm)
{
        struct err err = {0};
        uint64_t serial;
        g_assert_cmpint(hypervisor_vm_stopped(w->h, vm, "shut down", w->now, &serial, &err), ==, 0);
        turn(w);
        work_all(w);
        g_assert_cmpint(get(w, serial)->state, ==, REQUEST_KEPT);
        g_assert_true(hypervisor_kept(w->h, vm) == get(w, serial));
        g_assert_null(base_of(w->h, vm));
        return serial;
}

/* Stopped, it holds nothing in the ledger and is bound still; the next run takes all of it over. */
static void test_kept_taken_over(void)
{
        struct world w;
        world_init(&w);
        start_vm(&w);
        (void)ask(&w, "a", "cpu:1 memory:256M", false, NULL);
        work_all(&w);
        unsigned ended = w.ended;
        uint64_t old = stop_vm(&w, "v");
        g_assert_cmpuint(w.ended, ==, ended + 2); /* what it was lent, and itself */
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        g_assert_cmpuint(g_hash_table_size(w.bound), ==, 2); /* the base, and nothing that was lent */
        w.now += 1000;
        for (int again = 0; again < 2; again++) {
                g_assert_cmpint(get(&w, old)->state, ==, REQUEST_KEPT);
                reload(&w); /* nor does a restart change it */
        }
        g_string_truncate(w.log, 0);
        start_vm(&w);
        g_assert_null(hypervisor_request(w.h, old));
        g_assert_cmpint(logged(&w, "v taken-over;"), ==, 1);
        g_assert_cmpint(logged(&w, "host-activated"), ==, 0);
        const struct request *r = hypervisor_find(w.h, "vm:v");
        g_assert_nonnull(strstr(r->sentence, ", as kept"));
        for (size_t i = 0; i < r->n_definitions; i++)
                g_assert_true(r->definitions[i].kept && r->definitions[i].host_active);
        (void)stop_vm(&w, "v");
        start_vm(&w);
        g_assert_cmpint(logged(&w, "v taken-over;"), ==, 2);
        g_assert_cmpuint(strlen(strstr(hypervisor_find(w.h, "vm:v")->sentence, ", as kept")), ==,
                         strlen(", as kept"));
        world_done(&w);
}

/* It counts as free, and nobody who has room beside it touches it. */
static void test_kept_is_free(void)
{
        struct world w;
        struct err err = {0};
        world_init(&w);
        start_vm(&w);
        uint64_t kept = stop_vm(&w, "v");
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_KEPT);
        uint64_t all = ask_for(&w, NULL, "all", "memory:3840M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, all)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_KEPT); /* it may be wanted yet */
        world_done(&w);
}

/* Fills node by node, so that what is kept is in the way. */
static void test_kept_makes_way(void)
{
        for (int fault = 0; fault < 5; fault++) {
                struct world w;
                struct err err = {0};
                world_init(&w);
                start_vm(&w);
                uint64_t kept = stop_vm(&w, "v");
                uint32_t node = 0;
                for (size_t i = 0; i < get(&w, kept)->n_definitions; i++)
                        if (machine[get(&w, kept)->definitions[i].component].kind == COMPONENT_MEMORY)
                                node = get(&w, kept)->definitions[i].component;
                /* an operator takes the other node, and all of this one but what u needs */
                (void)ask_for(&w, NULL, "one", "memory:2G", false, 0, LEDGER_OPEN, NULL);
                bool was_other = ledger_claimed(hypervisor_ledger(w.h), node) == 0;
                (void)ask_for(&w, NULL, "two", "memory:2G", false, 0, LEDGER_OPEN, NULL);
                uint64_t ended;
                g_assert_cmpint(hypervisor_release(w.h, was_other ? "reservation:two" : "reservation:one",
                                                   "released", w.now, &ended, &err),
                                ==, 0);
                turn(&w);
                g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), node), ==, 0);
                (void)ask_for(&w, NULL, "most", "memory:1664M", false, 0, LEDGER_OPEN, NULL);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_KEPT); /* reservations bind nothing */
                g_string_truncate(w.log, 0);
                g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
                turn(&w);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_RECLAIMING);
                g_assert_cmpint(logged(&w, "u waits;"), ==, 1);
                if (fault == 1) { /* it fails, and is tried again */
                        while (!strstr(w.log->str, "v still-held;"))
                                work_one(&w, true);
                        g_assert_cmpint(logged(&w, "u prepared;"), ==, 0);
                        g_assert_cmpint(hypervisor_deadline(w.h), ==, w.now + config.retry_first_ms);
                        w.now += config.retry_first_ms;
                        hypervisor_tick(w.h, w.now);
                        turn(&w);
                }
                /* meted dies at each of its steps, which are then all repeated */
                for (int good = 0; fault == 2 && get(&w, kept)->state == REQUEST_RECLAIMING; good++) {
                        g_queue_clear_full(&w.work, g_free);
                        reload(&w);
                        g_assert_cmpint(hypervisor_find(w.h, "vm:u")->state, ==, REQUEST_ACTIVATING);
                        for (int i = 0; i < good; i++)
                                work_one(&w, false);
                }
                if (fault == 3) { /* not in time */
                        g_queue_clear_full(&w.work, g_free);
                        w.now += config.reclaim_ms;
                        hypervisor_tick(w.h, w.now);
                        turn(&w);
                        g_assert_cmpint(hypervisor_find(w.h, "vm:u")->outcome, ==, OUTCOME_NOT_NOW);
                        g_assert_cmpint(hypervisor_find(w.h, "vm:u")->reason, ==, REASON_TIMEOUT);
                        g_assert_cmpint(hypervisor_find(w.h, "vm:u")->state, ==, REQUEST_ENDED);
                        world_done(&w);
                        continue;
                }
                if (fault == 4) { /* whoever waits gives up */
                        uint64_t serial;
                        g_assert_cmpint(hypervisor_release(w.h, "vm:u", "killed", w.now, &serial, &err), ==,
                                        0);
                        turn(&w);
                        work_all(&w);
                        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_ENDED);
                        g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_ENDED);
                        g_assert_true(nothing_held(&w));
                        world_done(&w);
                        continue;
                }
                work_all(&w);
                g_assert_cmpint(hypervisor_find(w.h, "vm:u")->state, ==, REQUEST_GRANTED);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_ENDED);
                const char *back = strstr(w.log->str, "v reclaimed;"),
                           *first = strstr(w.log->str, "u prepared;");
                g_assert_true(back && first && back < first);
                world_done(&w);
        }
}

/* The first to be kept is the first to go, and only as many as are in the way. */
static void test_kept_oldest_first(void)
{
        struct world w;
        struct err err = {0};
        world_init(&w);
        start_vm(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        uint64_t u = stop_vm(&w, "u");
        w.now += 10;
        uint64_t v = stop_vm(&w, "v");
        g_assert_true(w.h->kept_first->r.serial == u && w.h->kept_first->kept_next->r.serial == v);
        reload(&w);
        g_assert_true(w.h->kept_first->r.serial == u && w.h->kept_first->kept_next->r.serial == v);
        uint64_t serial;
        g_assert_cmpint(hypervisor_vm_forget(w.h, "u", &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_BUSY);
        g_assert_cmpint(hypervisor_vm_reclaim(w.h, "u", "deleted", w.now, &serial), ==, 1);
        g_assert_cmpuint(serial, ==, u);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(hypervisor_vm_reclaim(w.h, "u", "deleted", w.now, &serial), ==, 0);
        g_assert_cmpint(hypervisor_vm_forget(w.h, "u", &err), ==, 0);
        turn(&w);
        g_assert_null(hypervisor_request(w.h, u));
        /* the machine was booted: nothing of what the books say is there */
        hypervisor_kept_lost(w.h, "booted", w.now);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_ENDED);
        g_assert_true(nothing_held(&w));
        world_done(&w);
}

/* There is less room than the books say: what is kept goes, and the step is tried again. */
static void test_kept_less_than_it_seemed(void)
{
        for (int crashes = 0; crashes < 2; crashes++) {
                struct world w;
                struct err err = {0};
                world_init(&w);
                start_vm(&w);
                uint64_t kept = stop_vm(&w, "v");
                g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
                turn(&w);
                work_one(&w, false); /* prepare */
                w.no_capacity = true;
                w.now += w.now % 2; /* the step fails without having acted */
                work_one(&w, true);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_RECLAIMING);
                g_assert_cmpint(hypervisor_find(w.h, "vm:u")->state, ==, REQUEST_ACTIVATING);
                g_assert_cmpint(logged(&w, "u step-failed;"), ==, 0);
                if (crashes) {
                        g_queue_clear_full(&w.work, g_free);
                        reload(&w);
                }
                work_all(&w);
                g_assert_cmpint(hypervisor_find(w.h, "vm:u")->state, ==, REQUEST_GRANTED);
                /* nothing is kept any more: then it is a failure like any other */
                (void)ask_for(&w, "u", "a", "memory:128M", false, 0, LEDGER_OPEN, NULL);
                w.now += w.now % 2;
                work_one(&w, true);
                g_assert_cmpint(hypervisor_find(w.h, "vm:u/a")->outcome, ==, OUTCOME_NOT_NOW);
                work_all(&w);
                world_done(&w);
        }
}

/* "There is no room" is the host's to say: a guest that says it takes nothing from others. */
static void test_kept_not_for_a_guest(void)
{
        static const enum phase phases[] = {PHASE_PREPARE, PHASE_VIRTUAL, PHASE_CONFIRM};
        for (size_t i = 0; i < G_N_ELEMENTS(phases); i++) {
                struct world w;
                struct err err = {0};
                world_init(&w);
                start_vm(&w);
                uint64_t kept = stop_vm(&w, "v");
                g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
                turn(&w);
                work_all(&w);
                uint64_t a = ask_for(&w, "u", "a", "memory:128M", false, 0, LEDGER_OPEN, NULL);
                while (get(&w, a)->activation.phase != phases[i])
                        work_one(&w, false);
                w.no_capacity = true;
                work_one(&w, true);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_KEPT);
                g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_NOT_NOW);
                work_all(&w);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_KEPT);
                world_done(&w);
        }
}

/* A lease has the end that was granted, whatever else it had to wait for meanwhile. */
static void test_kept_leaves_the_end(void)
{
        struct world w;
        uint64_t serial;
        world_init(&w);
        start_vm(&w);
        struct err err = {0};
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        (void)stop_vm(&w, "u");
        int64_t end_ms = w.now + 3600000;
        uint64_t a = ask_for(&w, "v", "a", "memory:128M", false, 0, end_ms, NULL);
        while (get(&w, a)->activation.phase != PHASE_HOST)
                work_one(&w, false);
        /* so many that are given back early that the next deadline makes them be swept */
        for (int i = 0; w.h->heap_n < 64; i++) {
                char id[16], key[32];
                (void)snprintf(id, sizeof(id), "r%d", i);
                (void)snprintf(key, sizeof(key), "reservation:r%d", i);
                (void)ask_for(&w, NULL, id, "cpu:1", false, 0, w.now + 7200000, NULL);
                g_assert_cmpint(hypervisor_release(w.h, key, "released", w.now, &serial, &err), ==, 0);
                turn(&w);
        }
        w.no_capacity = true;
        w.now += w.now % 2;
        work_one(&w, true);
        g_assert_cmpint(logged(&w, "v/a waits;"), ==, 1);
        g_assert_cmpuint(w.h->heap_n, <, 64);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
        for (int times = 0; times < 2; times++) { /* when it would have waited for too long, and at its end */
                g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
                w.now = times ? end_ms : w.now + config.reclaim_ms;
                hypervisor_tick(w.h, w.now);
                turn(&w);
        }
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_RELEASING);
        world_done(&w);
}

static uint32_t memory_of(const struct request *r)
{
        for (size_t i = 0; i < r->n_definitions; i++)
                if (machine[r->definitions[i].component].kind == COMPONENT_MEMORY)
                        return r->definitions[i].component;
        g_assert_not_reached();
}

static void start_named(struct world *w, const char *vm)
{
        struct err err = {0};
        g_assert_cmpint(hypervisor_vm_start(w->h, vm, w->now, &err), ==, 0);
        turn(w);
}

static void release_key(struct world *w, const char *key)
{
        uint64_t serial;
        struct err err = {0};
        g_assert_cmpint(hypervisor_release(w->h, key, "released", w->now, &serial, &err), ==, 0);
        turn(w);
}

static void tick(struct world *w, int64_t by_ms)
{
        w->now += by_ms;
        hypervisor_tick(w->h, w->now);
        turn(w);
}

/* u keeps 256M, v keeps 512M, u the longer; of that node an operator has `most`, of the other one all. */
static void two_kept(struct world *w, const char *most, uint64_t *u, uint64_t *v)
{
        char needs[32];
        world_init(w);
        start_vm(w);
        start_named(w, "u");
        work_all(w);
        *u = stop_vm(w, "u");
        w->now += 10;
        *v = stop_vm(w, "v");
        uint32_t node = memory_of(get(w, *v));
        g_assert_cmpuint(memory_of(get(w, *u)), ==, node);
        (void)snprintf(needs, sizeof(needs), "memory:%s", most);
        (void)ask_for(w, NULL, "one", "memory:2G", false, 0, LEDGER_OPEN, NULL);
        bool is_other = ledger_claimed(hypervisor_ledger(w->h), node) == 0;
        (void)ask_for(w, NULL, "two", "memory:2G", false, 0, LEDGER_OPEN, NULL);
        release_key(w, is_other ? "reservation:two" : "reservation:one");
        g_assert_cmpint(ledger_claimed(hypervisor_ledger(w->h), node), ==, 0);
        (void)ask_for(w, NULL, "most", needs, false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(ledger_claimed(hypervisor_ledger(w->h), node), >, 0);
        g_string_truncate(w->log, 0);
}

/* Nothing of it comes back, at this try. */
static void hold_all(struct world *w, const char *still_held)
{
        int n = logged(w, still_held);
        w->now += 1 - w->now % 2; /* steps fail without having acted */
        w->now++;
        while (logged(w, still_held) == n)
                work_one(w, true);
}

/* What was to be reclaimed and did not come back is nobody's until it does. */
static void test_kept_held_is_not_free(void)
{
        struct world w;
        uint64_t serial;
        world_init(&w);
        start_vm(&w);
        uint64_t kept = stop_vm(&w, "v");
        uint32_t node = memory_of(get(&w, kept));
        g_assert_cmpint(hypervisor_vm_reclaim(w.h, "v", "wanted", w.now, &serial), ==, 1);
        turn(&w);
        hold_all(&w, "v still-held;");
        for (int boots = 0; boots < 2; boots++) {
                g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), node), ==, 512 * MIB);
                uint64_t one =
                        ask_for(&w, NULL, boots ? "b1" : "a1", "memory:2G", false, 0, LEDGER_OPEN, NULL);
                uint64_t two =
                        ask_for(&w, NULL, boots ? "b2" : "a2", "memory:2G", false, 0, LEDGER_OPEN, NULL);
                g_assert_cmpint(get(&w, one)->outcome, ==, OUTCOME_GRANTED);
                g_assert_cmpint(get(&w, two)->outcome, ==, OUTCOME_NOT_NOW);
                release_key(&w, boots ? "reservation:b1" : "reservation:a1");
                if (boots)
                        break;
                reload(&w);
                hold_all(&w, "v still-held;");
        }
        tick(&w, config.retry_max_ms);
        work_all(&w);
        g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_ENDED);
        g_assert_cmpuint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        world_done(&w);
}

/* One that does not come back: another one goes in its place, and it is tried again at once. */
static void test_kept_held_shields_nobody(void)
{
        struct world w;
        uint64_t u, v;
        two_kept(&w, "1280M", &u, &v);
        start_named(&w, "n");
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_RECLAIMING);
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_KEPT);
        hold_all(&w, "u still-held;");
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_RECLAIMING);
        work_all(&w);
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_RECLAIMING);
        work_all(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:n")->state, ==, REQUEST_GRANTED);
        world_done(&w);
}

/* Whoever begins to wait has it tried again, and so has a keeper that is back. */
static void test_kept_held_is_hurried(void)
{
        for (int how = 0; how < 3; how++) {
                struct world w;
                uint64_t serial;
                world_init(&w);
                start_vm(&w);
                uint64_t kept = stop_vm(&w, "v");
                g_assert_cmpint(hypervisor_vm_reclaim(w.h, "v", "wanted", w.now, &serial), ==, 1);
                turn(&w);
                hold_all(&w, "v still-held;");
                g_assert_cmpint(hypervisor_deadline(w.h), >, w.now);
                if (how == 1) { /* the keeper is back */
                        hypervisor_recover(w.h, w.now);
                        turn(&w);
                } else if (how == 2) { /* an operator asks again */
                        g_assert_cmpint(hypervisor_vm_reclaim(w.h, "v", "wanted", w.now, &serial), ==, 1);
                        tick(&w, 0);
                } else {
                        start_named(&w, "v");
                        g_assert_cmpint(logged(&w, "v waits;"), ==, 1);
                        tick(&w, 0);
                }
                work_all(&w);
                g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_ENDED);
                if (how == 0)
                        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_GRANTED);
                world_done(&w);
        }
}

/* Room that somebody else gave back will do as well. */
static void test_kept_room_from_others(void)
{
        struct world w;
        uint64_t u, v;
        two_kept(&w, "1280M", &u, &v);
        start_named(&w, "n");
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_RECLAIMING);
        g_assert_cmpint(logged(&w, "n waits;"), ==, 1);
        g_assert_null(w.h->waiting_first->vm->walk_first);
        release_key(&w, "reservation:most");
        g_assert_null(w.h->waiting_first);
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_RECLAIMING);
        work_all(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:n")->state, ==, REQUEST_GRANTED);
        world_done(&w);
}

/* What had begun has its room: a restart does not ask again, whatever was granted beside it. */
static void test_kept_begun_goes_on(void)
{
        struct world w;
        uint64_t u, v;
        two_kept(&w, "1024M", &u, &v);
        start_named(&w, "n");
        g_assert_cmpint(logged(&w, "n waits;"), ==, 0);
        work_one(&w, false);
        uint64_t more = ask_for(&w, NULL, "more", "memory:512M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, more)->outcome, ==, OUTCOME_GRANTED);
        g_queue_clear_full(&w.work, g_free);
        reload(&w);
        g_assert_null(w.h->waiting_first);
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_KEPT);
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_KEPT);
        work_all(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:n")->state, ==, REQUEST_GRANTED);
        world_done(&w);
}

/* Less room than it seemed: one set after the other, all in one time; and only where it may help. */
static void test_kept_no_more_than_helps(void)
{
        struct world w;
        uint64_t u, v;
        two_kept(&w, "128M", &u, &v);
        int64_t since = w.now;
        start_named(&w, "n");
        work_one(&w, false); /* prepare */
        w.no_capacity = true;
        w.now += w.now % 2;
        work_one(&w, true);
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_RECLAIMING);
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_KEPT);
        w.now += config.reclaim_ms / 2;
        while (get(&w, u)->state == REQUEST_RECLAIMING)
                work_one(&w, false);
        w.now += w.now % 2;
        work_one(&w, true);
        g_assert_cmpint(get(&w, v)->state, ==, REQUEST_RECLAIMING);
        g_assert_cmpint(hypervisor_find(w.h, "vm:n")->state, ==, REQUEST_ACTIVATING);
        tick(&w, since + config.reclaim_ms + 2 - w.now);
        g_assert_cmpint(hypervisor_find(w.h, "vm:n")->reason, ==, REASON_TIMEOUT);
        work_all(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:n")->state, ==, REQUEST_ENDED);
        world_done(&w);

        two_kept(&w, "128M", &u, &v);
        start_named(&w, "n");
        work_all(&w);
        uint64_t a = ask_for(&w, "n", "a", "net:100M", false, 0, LEDGER_OPEN, NULL);
        while (get(&w, a)->activation.phase != PHASE_HOST)
                work_one(&w, false);
        w.no_capacity = true;
        work_one(&w, true);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(get(&w, a)->reason, ==, REASON_NO_CAPACITY);
        g_assert_cmpint(get(&w, u)->state, ==, REQUEST_KEPT);
        work_all(&w);
        world_done(&w);
}

/* What was about to be kept when that came to be wrong: it goes all the way back. */
static void test_kept_no_longer(void)
{
        for (int why = 0; why < 2; why++)
                for (int good = 0; good < 3; good++) {
                        struct world w;
                        struct err err = {0};
                        uint64_t serial;
                        world_init(&w);
                        start_vm(&w);
                        g_assert_cmpint(hypervisor_vm_stopped(w.h, "v", "shut down", w.now, &serial, &err),
                                        ==, 0);
                        turn(&w);
                        for (int i = 0; i < good; i++)
                                work_one(&w, false);
                        if (get(&w, serial)->state != REQUEST_RELEASING) {
                                world_done(&w);
                                continue;
                        }
                        if (why == 0) {
                                g_queue_clear_full(&w.work, g_free);
                                w.keeps_nothing = true;
                                reload(&w);
                        } else {
                                hypervisor_kept_lost(w.h, "booted", w.now);
                                turn(&w);
                        }
                        work_all(&w);
                        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_ENDED);
                        g_assert_cmpint(logged(&w, "v not-kept;"), ==, 1);
                        g_assert_true(nothing_held(&w));
                        world_done(&w);
                }
}

/* A guest that does not let go of its memory loses it with its VM, after one last try; but not because a step
 * of the host side fails. */
static void test_forced(void)
{
        for (int is_guest = 0; is_guest < 2; is_guest++) {
                struct world w;
                struct err err = {0};
                uint64_t serial;
                world_init(&w);
                w.force_after_ms = 250;
                reload(&w);
                start_vm(&w);
                (void)ask_for(&w, "v", "a", "memory:128M", false, 0, LEDGER_OPEN, NULL);
                work_all(&w);
                g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
                turn(&w);
                int64_t since = w.now;
                for (int tries = 0; tries < 8 && hypervisor_find(w.h, "vm:v")->state == REQUEST_GRANTED;
                     tries++) {
                        while (!g_queue_is_empty(&w.work)) {
                                const struct work *next = g_queue_peek_head(&w.work);
                                work_one(&w,
                                         next->serial == serial &&
                                                 next->step.phase == (is_guest ? PHASE_VIRTUAL : PHASE_HOST));
                        }
                        if (hypervisor_find(w.h, "vm:v")->state != REQUEST_GRANTED)
                                break;
                        g_assert_cmpint(hypervisor_find(w.h, "vm:v/a")->state, ==, REQUEST_RELEASING);
                        w.now = hypervisor_deadline(w.h);
                        hypervisor_tick(w.h, w.now);
                        turn(&w);
                }
                g_assert_cmpint(logged(&w, "v/a forced;"), ==, is_guest);
                if (is_guest) {
                        g_assert_cmpint(w.now, ==, since + w.force_after_ms);
                        work_all(&w);
                        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_ENDED);
                        g_assert_cmpint(hypervisor_find(w.h, "vm:v/a")->state, ==, REQUEST_ENDED);
                        g_assert_null(hypervisor_kept(w.h, "v"));
                        g_assert_true(nothing_held(&w));
                } else {
                        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_GRANTED);
                        work_all(&w);
                }
                world_done(&w);
        }
}

/* What is not kept: what was killed, also when it had begun to be; anything, where nothing is to be. */
static void test_not_kept(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        start_vm(&w);
        g_assert_cmpint(hypervisor_vm_stopped(w.h, "v", "shut down", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_one(&w, false);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v", "killed", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_ENDED);
        g_assert_null(hypervisor_kept(w.h, "v"));
        g_assert_true(nothing_held(&w));
        /* a start from what is kept that fails leaves nothing */
        start_vm(&w);
        uint64_t kept = stop_vm(&w, "v");
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        work_one(&w, true);
        work_all(&w);
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_ENDED);
        g_assert_true(nothing_held(&w));
        g_assert_null(hypervisor_request(w.h, kept));
        /* by configuration: from now on, and what there is */
        start_vm(&w);
        kept = stop_vm(&w, "v");
        w.keeps_nothing = true;
        reload(&w);
        g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_RECLAIMING);
        work_all(&w);
        g_assert_true(nothing_held(&w));
        start_vm(&w);
        g_assert_cmpint(hypervisor_vm_stopped(w.h, "v", "shut down", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_ENDED);
        g_assert_true(nothing_held(&w));
        world_done(&w);
}

/* Somebody else has its CPU by now: what it kept goes, and it is placed anew. */
static void test_kept_placed_anew(void)
{
        struct world w;
        struct err err = {0};
        world_init(&w);
        start_vm(&w);
        uint64_t kept = stop_vm(&w, "v");
        uint32_t cpu = get(&w, kept)->definitions[1].component; /* memory comes first */
        g_assert_cmpint(machine[cpu].kind, ==, COMPONENT_CPU);
        /* all but one of the others are free again */
        for (int i = 0; i < 4; i++) {
                char id[16];
                (void)snprintf(id, sizeof(id), "x%d", i);
                (void)ask_for(&w, NULL, id, "cpu:1,exclusive", false, 0, LEDGER_OPEN, NULL);
        }
        for (int i = 0; i < 4; i++) {
                char key[32];
                uint64_t serial;
                (void)snprintf(key, sizeof(key), "reservation:x%d", i);
                if (hypervisor_find(w.h, key)->definitions[0].component == cpu)
                        continue;
                g_assert_cmpint(hypervisor_release(w.h, key, "released", w.now, &serial, &err), ==, 0);
                turn(&w);
        }
        g_string_truncate(w.log, 0);
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        g_assert_cmpint(get(&w, kept)->state, ==, REQUEST_RECLAIMING);
        work_all(&w);
        const char *back = strstr(w.log->str, "v reclaimed;"), *first = strstr(w.log->str, "v prepared;");
        g_assert_true(back && first && back < first);
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->state, ==, REQUEST_GRANTED);
        g_assert_cmpint(hypervisor_find(w.h, "vm:v")->definitions[1].component, !=, cpu);
        g_assert_false(hypervisor_find(w.h, "vm:v")->definitions[0].kept);
        world_done(&w);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/hypervisor/kept-taken-over", test_kept_taken_over);
        g_test_add_func("/hypervisor/kept-is-free", test_kept_is_free);
        g_test_add_func("/hypervisor/kept-makes-way", test_kept_makes_way);
        g_test_add_func("/hypervisor/kept-oldest-first", test_kept_oldest_first);
        g_test_add_func("/hypervisor/kept-less-than-it-seemed", test_kept_less_than_it_seemed);
        g_test_add_func("/hypervisor/kept-not-for-a-guest", test_kept_not_for_a_guest);
        g_test_add_func("/hypervisor/kept-leaves-the-end", test_kept_leaves_the_end);
        g_test_add_func("/hypervisor/kept-held-is-not-free", test_kept_held_is_not_free);
        g_test_add_func("/hypervisor/kept-held-shields-nobody", test_kept_held_shields_nobody);
        g_test_add_func("/hypervisor/kept-held-is-hurried", test_kept_held_is_hurried);
        g_test_add_func("/hypervisor/kept-room-from-others", test_kept_room_from_others);
        g_test_add_func("/hypervisor/kept-begun-goes-on", test_kept_begun_goes_on);
        g_test_add_func("/hypervisor/kept-no-more-than-helps", test_kept_no_more_than_helps);
        g_test_add_func("/hypervisor/kept-no-longer", test_kept_no_longer);
        g_test_add_func("/hypervisor/kept-placed-anew", test_kept_placed_anew);
        g_test_add_func("/hypervisor/forced", test_forced);
        g_test_add_func("/hypervisor/not-kept", test_not_kept);
        return g_test_run();
}

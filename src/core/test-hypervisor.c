/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of a request, in single stories; the world is test-world.h. */
#include "core/test-world.h"

static void test_grant(void)
{
        struct world w;
        world_init(&w);
        start_vm(&w);
        unsigned before = w.answers;
        uint64_t s = ask(&w, "a", "cpu:2,share>=0.9 memory:600M", false, NULL);
        g_assert_cmpuint(w.answers, ==, before); /* not before it is usable */
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_ACTIVATING);
        work_all(&w);
        g_assert_cmpuint(w.answers, ==, before + 1);
        g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, s)->met[0], ==, 2);
        g_assert_cmpint(get(&w, s)->met[1], ==, 640 * MIB); /* whole growth units */
        uint64_t serial;
        struct err err = {0};
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpuint(w.released, ==, 1);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_RELEASING);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), >, 2); /* still taken */
        work_all(&w);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 2); /* the base */
        /* Again: nothing happens, and it is answered. */
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpuint(w.released, ==, 2);
        world_done(&w);
}

static void test_refusals(void)
{
        struct world w;
        enum reason bad;
        world_init(&w);
        (void)ask(&w, "early", "cpu:1", false, &bad);
        g_assert_cmpint(bad, ==, REASON_STALE);
        start_vm(&w);
        const struct request *r = get(&w, ask(&w, "a", "cpu:5", false, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_POLICY);
        r = get(&w, ask(&w, "b", "memory:8G", false, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        r = get(&w, ask(&w, "c", "cpu:3,exclusive", false, NULL)); /* cpu:0 holds the base */
        g_assert_cmpint(r->state, ==, REQUEST_ACTIVATING);
        g_assert_cmpuint(r->n_definitions, ==, 3);
        for (size_t i = 0; i < r->n_definitions; i++)
                g_assert_true(r->definitions[i].exclusive);
        g_assert_false(hypervisor_find(w.h, "vm:v")->definitions[0].exclusive);
        r = get(&w, ask(&w, "d", "memory:128M cpu:1,share>=0.9", false, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(r->reason, ==, REASON_NO_CAPACITY);
        g_assert_cmpuint(r->n_definitions, ==, 0); /* all or nothing */
        (void)ask(&w, "d", "memory:256M", false, &bad);
        g_assert_cmpint(bad, ==, REASON_INVALID); /* the id with other needs */
        world_done(&w);
}

/* What was decided on an older view is refused; what was decided before it was known to be old stays so. */
static void test_stale(void)
{
        struct world w;
        struct err err = {0};
        struct need need;
        uint64_t serial;
        world_init(&w);
        start_vm(&w);
        const uint64_t granted = ask(&w, "a", "cpu:1", false, NULL);
        work_all(&w);
        g_assert_cmpint(need_parse("cpu:1", &need, &err), ==, 0);
        struct ask old = {.kind = REQUEST_APP,
                          .vm = "v",
                          .id = "b",
                          .needs = &need,
                          .n_needs = 1,
                          .stale = "cpu:3 has changed",
                          .end_ms = LEDGER_OPEN};
        const size_t claims = ledger_claims(hypervisor_ledger(w.h));
        g_assert_cmpint(hypervisor_ask(w.h, &old, w.now, &serial, &err), ==, 0);
        turn(&w);
        const struct request *r = get(&w, serial);
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(r->reason, ==, REASON_STALE);
        g_assert_cmpstr(r->sentence, ==, "cpu:3 has changed");
        g_assert_cmpuint(ledger_claims(hypervisor_ledger(w.h)), ==, claims);
        old.id = "a";
        g_assert_cmpint(hypervisor_ask(w.h, &old, w.now, &serial, &err), ==, 0);
        g_assert_cmpuint(serial, ==, granted);
        g_assert_cmpint(get(&w, granted)->outcome, ==, OUTCOME_GRANTED);
        world_done(&w);
}

/* What a guest is told of the host: its own, what is free, and nobody's name. */
static void test_told(void)
{
        enum { N = G_N_ELEMENTS(machine) };
        struct told v[N], u[N], nobody[N];
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        hypervisor_told(w.h, "v", v);
        for (size_t i = 0; i < N; i++) {
                g_assert_cmpint(v[i].mark, ==, TOLD_FREE);
                g_assert_true(v[i].yours == 0 && v[i].free == machine[i].owned && v[i].slots == 0);
        }
        for (const char *const *name = (const char *const[]){"v", "u", NULL}; *name; name++)
                g_assert_cmpint(hypervisor_vm_start(w.h, *name, w.now, &err), ==, 0);
        turn(&w);
        hypervisor_told(w.h, "v", v);
        for (size_t i = 0; i < N; i++) /* nothing that it may rely on yet */
                g_assert_true(v[i].yours == 0 && v[i].mark != TOLD_YOURS);
        work_all(&w);
        uint64_t lease =
                ask_for(&w, "v", "a", "cpu:1,id=3,exclusive memory:256M,node=1", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, lease)->outcome, ==, OUTCOME_GRANTED);
        hypervisor_told(w.h, "v", v);
        hypervisor_told(w.h, "u", u);
        hypervisor_told(w.h, "no-such", nobody);
        uint64_t vcpus = 0;
        for (uint32_t i = 0; i < N; i++) {
                const struct ledger *l = hypervisor_ledger(w.h);
                g_assert_cmpint(v[i].yours + u[i].yours, ==, ledger_claimed(l, i));
                g_assert_cmpint(v[i].free, ==, ledger_owned(l, i) - ledger_claimed(l, i));
                g_assert_cmpint(u[i].free, ==, v[i].free);
                g_assert_true((v[i].mark == TOLD_YOURS) == (v[i].yours > 0));
                g_assert_true(nobody[i].yours == 0 && nobody[i].mark != TOLD_YOURS);
                if (machine[i].kind == COMPONENT_CPU)
                        vcpus += (uint64_t)__builtin_popcountll(v[i].slots);
        }
        g_assert_cmpuint(vcpus, ==, 2); /* its base vCPU and the leased one */
        g_assert_true(v[3].yours == 1000 && v[3].free == 0 && u[3].mark == TOLD_TAKEN);
        g_assert_true(v[5].slots == 1 && v[4].slots == 0);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        hypervisor_told(w.h, "u", u);
        g_assert_cmpint(u[3].mark, ==, TOLD_FREE);
        world_done(&w);
        struct component broken[N];
        memcpy(broken, machine, sizeof(machine));
        broken[1].healthy = false;
        broken[2].owned = 0;
        struct hypervisor *h = hypervisor_new(&config, broken, N, 0);
        hypervisor_told(h, "v", v);
        g_assert_true(v[1].mark == TOLD_OFFLINE && v[1].free == 0 && v[2].mark == TOLD_RESERVED);
        g_assert_cmpstr(told_mark_name(v[2].mark), ==, "reserved");
        hypervisor_free(h);
}

static void test_shapes(void)
{
        struct hypervisor *h = hypervisor_new(&config, machine, G_N_ELEMENTS(machine), 0);
        static const struct {
                int64_t rate, most;
        } wrong[] = {
                {0,         1000000},
                {63000,     0      },
                {64001,     0      },
                {-8000,     0      },
                {UNITS_MAX, 0      },
                {128000,    64000  }
        };
        struct err err = {0};
        struct vm_shape s = shapes[1];
        for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
                s.net_bps = wrong[i].rate;
                s.net_max_bps = wrong[i].most;
                g_assert_cmpint(hypervisor_vm_define(h, &s, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
        }
        s.net_max_bps = 0;
        s.net_bps = 981 * MBIT;
        g_assert_cmpint(hypervisor_vm_fits(h, &s, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        s.net_bps = 980 * MBIT;
        g_assert_cmpint(hypervisor_vm_fits(h, &s, &err), ==, 0);
        static const struct {
                int64_t rate, most;
        } wrong_disks[] = {
                {0,         1 << 20},
                {65535,     0      },
                {65537,     0      },
                {-65536,    0      },
                {UNITS_MAX, 0      },
                {131072,    65536  }
        };
        for (size_t i = 0; i < G_N_ELEMENTS(wrong_disks); i++) {
                s.disk_rate = wrong_disks[i].rate;
                s.disk_max = wrong_disks[i].most;
                g_assert_cmpint(hypervisor_vm_define(h, &s, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
        }
        s.disk_max = 0;
        s.disk_rate = 401 * MIB;
        g_assert_cmpint(hypervisor_vm_fits(h, &s, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        s.disk_rate = 400 * MIB;
        g_assert_cmpint(hypervisor_vm_fits(h, &s, &err), ==, 0);
        hypervisor_free(h);
}

static void test_counter_offer(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        start_vm(&w);
        uint64_t s = ask(&w, "a", "memory:2G cpu:1", true, NULL);
        const struct request *r = get(&w, s);
        g_assert_cmpint(r->outcome, ==, OUTCOME_COUNTER_OFFERED);
        g_assert_cmpint(r->met[0], ==, 1536 * MIB);
        g_assert_cmpint(r->met[1], ==, 1);
        /* What is offered is held: nobody else gets it. */
        g_assert_cmpint(get(&w, ask(&w, "b", "memory:128M", false, NULL))->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(hypervisor_accept(w.h, "vm:v/a", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_GRANTED);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        /* Let lapse: free again, and too late to accept. */
        s = ask(&w, "c", "memory:2G", true, NULL);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_OFFERED);
        g_assert_cmpint(hypervisor_deadline(w.h), ==, w.now + config.offer_ms);
        w.now += config.offer_ms;
        g_assert_cmpint(hypervisor_accept(w.h, "vm:v/c", w.now, &serial, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_STALE);
        turn(&w);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 2);
        world_done(&w);
}

static void test_failed_activation(void)
{
        struct world w;
        world_init(&w);
        start_vm(&w);
        unsigned before = w.answers;
        uint64_t s = ask(&w, "a", "cpu:1", false, NULL);
        work_one(&w, true);
        g_assert_cmpuint(w.answers, ==, before + 1);
        g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(get(&w, s)->reason, ==, REASON_TIMEOUT);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_RELEASING);
        work_all(&w);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_ENDED);
        g_assert_cmpuint(w.answers, ==, before + 1); /* exactly one */
        world_done(&w);
}

static void test_vm_gone(void)
{
        struct world w;
        world_init(&w);
        start_vm(&w);
        uint64_t a = ask(&w, "a", "cpu:1", false, NULL);
        work_all(&w);
        uint64_t b = ask(&w, "b", "memory:256M", false, NULL); /* still activating */
        work_one(&w, false);
        uint64_t serial;
        struct err err = {0};
        g_assert_cmpint(hypervisor_release(w.h, "vm:v", "killed", w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED); /* until the VM is gone */
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(get(&w, b)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        g_assert_true(nothing_held(&w));
        start_vm(&w); /* and it can start again */
        world_done(&w);
}

/* Why it asks stands before what was decided, once. */
static void test_says_why(void)
{
        static const char *const needs[] = {"memory:256M", "memory:1T"};
        struct world w;
        world_init(&w);
        start_vm(&w);
        for (size_t i = 0; i < G_N_ELEMENTS(needs); i++) {
                struct err err = {0};
                struct need n;
                uint64_t serial;
                g_assert_cmpint(need_parse(needs[i], &n, &err), ==, 0);
                struct ask ask = {.kind = REQUEST_APP,
                                  .vm = "v",
                                  .id = i ? "much" : "little",
                                  .needs = &n,
                                  .n_needs = 1,
                                  .why = "it is full",
                                  .end_ms = LEDGER_OPEN};
                for (int again = 0; again < 2; again++) {
                        g_assert_cmpint(hypervisor_ask(w.h, &ask, w.now, &serial, &err), ==, 0);
                        turn(&w);
                }
                g_autofree char *trace = g_strdup_printf("v/%s ", ask.id);
                const char *first = strstr(w.log->str, trace);
                g_assert_nonnull(first);
                g_assert_true(g_str_has_prefix(first + strlen(trace), "guest-says; "));
                g_assert_nonnull(strstr(first + strlen(trace), trace)); /* what was decided */
                g_assert_null(strstr(first + strlen(trace) + strlen("guest-says"), "guest-says"));
        }
        world_done(&w);
}

static void test_window(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        struct need n;
        g_assert_cmpint(need_parse("cpu:4,exclusive", &n, &err), ==, 0);
        struct ask later = {.kind = REQUEST_RESERVATION,
                            .id = "night",
                            .needs = &n,
                            .n_needs = 1,
                            .start_ms = w.now + 5000,
                            .end_ms = w.now + 9000};
        g_assert_cmpint(hypervisor_ask(w.h, &later, w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_GRANTED);
        struct ask other = later; /* the id with another window; and again with the same */
        other.end_ms += 1000;
        g_assert_cmpint(hypervisor_ask(w.h, &other, w.now, &serial, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_cmpint(hypervisor_ask(w.h, &later, w.now + 100, &serial, &err), ==, 0);
        turn(&w);
        struct ask open = later;
        open.id = "open";
        open.start_ms = 0;
        open.end_ms = LEDGER_OPEN;
        g_assert_cmpint(hypervisor_ask(w.h, &open, w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpint(get(&w, serial)->outcome, ==, OUTCOME_NOT_NOW);
        struct ask before = open;
        before.id = "before";
        before.end_ms = later.start_ms; /* touches, does not overlap */
        g_assert_cmpint(hypervisor_ask(w.h, &before, w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_GRANTED);
        w.now += 9000;
        hypervisor_tick(w.h, w.now);
        turn(&w);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        /* Its window is over: who asks again hears what became of it; for somebody new it is too late. */
        unsigned answers = w.answers;
        g_assert_cmpint(hypervisor_ask(w.h, &later, w.now, &serial, &err), ==, 0);
        turn(&w);
        g_assert_cmpuint(w.answers, ==, answers + 1);
        g_assert_cmpint(get(&w, serial)->state, ==, REQUEST_ENDED);
        later.id = "late";
        g_assert_cmpint(hypervisor_ask(w.h, &later, w.now, &serial, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        world_done(&w);
}

/* A VM that asks and asks makes the hypervisor forget what that VM asked before, and nobody else's. */
static void test_history_of_each(void)
{
        struct world w;
        struct err err = {0};
        world_init(&w);
        start_vm(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        uint64_t theirs = ask_for(&w, "u", "theirs", "cpu:64", false, 0, LEDGER_OPEN, NULL);
        uint64_t operators = ask_for(&w, NULL, "operators", "cpu:64", false, 0, LEDGER_OPEN, NULL);
        uint64_t first = ask(&w, "first", "cpu:64", false, NULL);
        for (size_t i = 0; i < config.finished_max; i++) {
                char id[16];
                (void)snprintf(id, sizeof(id), "flood%zu", i);
                (void)ask(&w, id, "cpu:64", false, NULL);
        }
        for (int again = 0; again < 2; again++) {
                g_assert_null(hypervisor_request(w.h, first));
                g_assert_cmpint(get(&w, theirs)->state, ==, REQUEST_REFUSED);
                g_assert_cmpint(get(&w, operators)->state, ==, REQUEST_REFUSED);
                g_assert_cmpuint(ask_for(&w, "u", "theirs", "cpu:64", false, 0, LEDGER_OPEN, NULL), ==,
                                 theirs);
                reload(&w);
        }
        /* with a VM its own history goes, and no other */
        g_assert_cmpint(hypervisor_release(w.h, "vm:u", "stop", w.now, &first, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(hypervisor_vm_forget(w.h, "u", &err), ==, 0);
        turn(&w);
        g_assert_null(hypervisor_request(w.h, theirs));
        g_assert_nonnull(hypervisor_request(w.h, operators));
        g_assert_nonnull(hypervisor_find(w.h, "vm:v/flood1"));
        world_done(&w);
}

/* Accepting makes time pass, and what lapses then may push the very request out of memory. */
static void test_accept_of_forgotten(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        start_vm(&w);
        for (size_t i = 0; i < config.finished_max; i++) {
                char id[16];
                (void)snprintf(id, sizeof(id), "old%zu", i);
                (void)ask(&w, id, "cpu:64", false, NULL);
        }
        g_assert_cmpint(get(&w, ask(&w, "lapses", "memory:2G", true, NULL))->state, ==, REQUEST_OFFERED);
        w.now += config.offer_ms;
        g_assert_cmpint(hypervisor_accept(w.h, "vm:v/old0", w.now, &serial, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        turn(&w);
        world_done(&w);
}

/* What was given back before its time leaves nothing behind. */
static void test_deadlines_are_bounded(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        for (int i = 0; i < 2000; i++) {
                char id[16], key[32];
                (void)snprintf(id, sizeof(id), "r%d", i);
                (void)snprintf(key, sizeof(key), "reservation:r%d", i);
                (void)ask_for(&w, NULL, id, "cpu:1", false, 0, w.now + 3600000, NULL);
                g_assert_cmpint(hypervisor_release(w.h, key, "released", w.now, &serial, &err), ==, 0);
                turn(&w);
        }
        g_assert_cmpuint(w.h->heap_n, <=, 64);
        /* Those that still count are kept. */
        (void)ask_for(&w, NULL, "last", "cpu:1", false, 0, w.now + 1000, NULL);
        for (int i = 0; i < 200; i++) {
                (void)ask_for(&w, NULL, "again", "cpu:1", false, 0, w.now + 3600000, NULL);
                g_assert_cmpint(
                        hypervisor_release(w.h, "reservation:again", "released", w.now, &serial, &err), ==,
                        0);
                turn(&w);
        }
        g_assert_cmpint(hypervisor_deadline(w.h), <=, w.now + 1000);
        w.now += 1000;
        hypervisor_tick(w.h, w.now);
        turn(&w);
        g_assert_cmpuint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        world_done(&w);
}

/* The end of a lease is not its return: until the guest let go of it nobody else gets it. */
static void test_lease_overstays(void)
{
        struct world w;
        world_init(&w);
        start_vm(&w);
        uint64_t a = ask_for(&w, "v", "a", "cpu:3,exclusive", false, 0, w.now + 1000, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
        w.now += 1000; /* and nobody has looked at the clock yet */
        uint64_t b = ask_for(&w, NULL, "b", "cpu:1,exclusive", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_RELEASING);
        g_assert_cmpint(get(&w, b)->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_nonnull(strstr(get(&w, b)->sentence, "being given back: ask again"));
        reload(&w); /* nor after a restart */
        b = ask_for(&w, NULL, "b2", "cpu:1,exclusive", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, b)->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_nonnull(strstr(get(&w, b)->sentence, "being given back: ask again"));
        work_all(&w);
        b = ask_for(&w, NULL, "b3", "cpu:1,exclusive", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, b)->outcome, ==, OUTCOME_GRANTED);
        world_done(&w);
}

/* An offer is not held longer than what it offers. */
static void test_offer_within_its_window(void)
{
        struct world w;
        struct err err = {0};
        uint64_t serial;
        world_init(&w);
        uint64_t s = ask_for(&w, NULL, "s", "cpu:8", true, 0, w.now + config.offer_ms / 2, NULL);
        g_assert_cmpint(get(&w, s)->state, ==, REQUEST_OFFERED);
        w.now += config.offer_ms / 2;
        g_assert_cmpint(hypervisor_accept(w.h, "reservation:s", w.now, &serial, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_STALE);
        turn(&w);
        world_done(&w);
}

/* What runs goes on, is counted, and is given back; nothing new is granted until it fits again. */
static void test_host_became_smaller(void)
{
        struct world w;
        struct err err = {0};
        world_init(&w);
        start_vm(&w);
        uint64_t a = ask(&w, "a", "cpu:2,exclusive memory:1G", false, NULL);
        work_all(&w);
        for (size_t i = 0; i < G_N_ELEMENTS(machine); i++) {
                smaller[i] = machine[i];
                smaller[i].owned = machine[i].kind == COMPONENT_CPU ? machine[i].owned / 2 : 128 * MIB;
        }
        w.smaller = true;
        g_queue_clear_full(&w.work, g_free);
        hypervisor_free(w.h);
        boot(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_GRANTED);
        g_assert_cmpint(hypervisor_vm_fits(w.h, &shapes[0], &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
        g_assert_cmpint(get(&w, ask(&w, "b", "memory:256M", false, NULL))->outcome, ==, OUTCOME_NOT_NOW);
        uint64_t serial;
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 2); /* the base */
        world_done(&w);
}

/* Every cell of the table of states: moved, late or refused, and nothing else changes. */
static void test_request_cells(void)
{
        for (int s = 1; s < REQUEST_STATE_N; s++) {
                for (int e = 0; e < REQUEST_EV_N; e++) {
                        struct request r = {.state = (enum request_state)s, .key = "k"};
                        struct err err = {0};
                        int got = request_step(&r, (enum request_event)e, &err);
                        if (got == 1)
                                g_assert_cmpint(r.state, !=, s);
                        else
                                g_assert_cmpint(r.state, ==, s);
                        g_assert_true(got < 0 ? err.reason == REASON_STALE : err.reason == 0);
                        if (s == REQUEST_ENDED || s == REQUEST_REFUSED)
                                g_assert_cmpint(got, !=, 1); /* final is final */
                }
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/request/cells", test_request_cells);
        g_test_add_func("/hypervisor/grant", test_grant);
        g_test_add_func("/hypervisor/refusals", test_refusals);
        g_test_add_func("/hypervisor/told", test_told);
        g_test_add_func("/hypervisor/shapes", test_shapes);
        g_test_add_func("/hypervisor/counter-offer", test_counter_offer);
        g_test_add_func("/hypervisor/stale", test_stale);
        g_test_add_func("/hypervisor/failed-activation", test_failed_activation);
        g_test_add_func("/hypervisor/vm-gone", test_vm_gone);
        g_test_add_func("/hypervisor/window", test_window);
        g_test_add_func("/hypervisor/says-why", test_says_why);
        g_test_add_func("/hypervisor/history-of-each", test_history_of_each);
        g_test_add_func("/hypervisor/accept-of-forgotten", test_accept_of_forgotten);
        g_test_add_func("/hypervisor/deadlines-are-bounded", test_deadlines_are_bounded);
        g_test_add_func("/hypervisor/lease-overstays", test_lease_overstays);
        g_test_add_func("/hypervisor/offer-within-its-window", test_offer_within_its_window);
        g_test_add_func("/hypervisor/host-became-smaller", test_host_became_smaller);
        return g_test_run();
}

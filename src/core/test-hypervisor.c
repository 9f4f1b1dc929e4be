/* SPDX-License-Identifier: Apache-2.0 */
/* The heart under random events, with a driver that answers late, twice or never, and a disk that forgets
 * what was not committed. After every turn all invariants hold; after every crash what was recorded is
 * exactly what is there. */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "core/hypervisor.h"

#define MIB (INT64_C(1) << 20)

static const struct component machine[] = {
        {.id = "cpu:0",         .kind = COMPONENT_CPU, .capacity = 1000, .owned = 1000, .healthy = true},
        { .id = "cpu:1",
         .kind = COMPONENT_CPU,
         .os_index = 1,
         .capacity = 1000,
         .owned = 1000,
         .healthy = true},
        {                                                                                .id = "cpu:2",
         .kind = COMPONENT_CPU,
         .os_index = 2,
         .node = 1,
         .capacity = 1000,
         .owned = 1000,
         .healthy = true},
        {                                                                                  .id = "cpu:3",
         .kind = COMPONENT_CPU,
         .os_index = 3,
         .node = 1,
         .capacity = 1000,
         .owned = 1000,
         .healthy = true},
        {                                                                                    .id = "memory:node0",
         .kind = COMPONENT_MEMORY,
         .capacity = 2048 * MIB,
         .owned = 2048 * MIB,
         .healthy = true                                                                           },
        {                                                                                  .id = "memory:node1",
         .kind = COMPONENT_MEMORY,
         .node = 1,
         .capacity = 2048 * MIB,
         .owned = 2048 * MIB,
         .healthy = true},
};

static const struct hypervisor_config config = {.cpu_overcommit = 2,
                                                .offer_ms = 1000,
                                                .live_max = 1000,
                                                .live_per_vm_max = 8,
                                                .finished_max = 64,
                                                .first_serial = 1};

static const struct vm_shape shape = {
        .name = "v",
        .cpus = 1,
        .cpus_max = 4,
        .share_milli = 200,
        .memory_bytes = 512 * MIB,
        .memory_max_bytes = 2048 * MIB,
        .unit_bytes = 128 * MIB,
        .memory_slots = 4,
};

/* What a driver does with the effects, and the disk. */
struct world {
        struct hypervisor *h;
        GHashTable *disk; /* serial -> struct request, claims copied */
        GQueue work;      /* serials to activate (positive) or take back (negative) */
        int64_t now;
        unsigned answers, released, events, ended;
        uint64_t last_answer;
};

static void row_free(gpointer p)
{
        struct request *r = p;
        g_free(r->claims);
        g_free(r);
}

static struct request *row_copy(const struct request *r)
{
        struct request *c = g_memdup2(r, sizeof(*r));
        c->claims = r->n_claims ? malloc(r->n_claims * sizeof(*r->claims)) : NULL;
        if (r->n_claims)
                memcpy(c->claims, r->claims, r->n_claims * sizeof(*r->claims));
        return c;
}

static void turn(struct world *w)
{
        GArray *after = g_array_new(FALSE, FALSE, sizeof(struct effect));
        struct effect f;
        while (hypervisor_next_effect(w->h, &f)) {
                const struct request *r = hypervisor_request(w->h, f.serial);
                if (f.kind == EFFECT_PERSIST && r)
                        g_hash_table_replace(w->disk, GSIZE_TO_POINTER(f.serial), row_copy(r));
                else if (f.kind == EFFECT_FORGET)
                        g_hash_table_remove(w->disk, GSIZE_TO_POINTER(f.serial));
                else if (f.kind == EFFECT_EVENT)
                        w->events++;
                else
                        g_array_append_val(after, f);
        }
        for (guint i = 0; i < after->len; i++) {
                const struct effect *e = &g_array_index(after, struct effect, i);
                if (e->kind == EFFECT_ANSWER) {
                        w->answers++;
                        w->last_answer = e->serial;
                        /* No answer without its record. */
                        g_assert_nonnull(g_hash_table_lookup(w->disk, GSIZE_TO_POINTER(e->serial)));
                } else if (e->kind == EFFECT_RELEASED) {
                        w->released++;
                } else if (e->kind == EFFECT_ENDED) {
                        w->ended++;
                } else if (e->kind == EFFECT_ACTIVATE) {
                        g_queue_push_tail(&w->work, GSIZE_TO_POINTER(e->serial * 2));
                } else if (e->kind == EFFECT_DEACTIVATE) {
                        g_queue_push_tail(&w->work, GSIZE_TO_POINTER(e->serial * 2 + 1));
                }
        }
        g_array_free(after, TRUE);
        g_assert_true(hypervisor_is_sound(w->h));
}

static int by_serial(gconstpointer a, gconstpointer b)
{
        uint64_t x = GPOINTER_TO_SIZE(a), y = GPOINTER_TO_SIZE(b);
        return (x > y) - (x < y);
}

static void boot(struct world *w)
{
        struct err err = {0};
        struct hypervisor_config c = config;
        GList *serials = g_list_sort(g_hash_table_get_keys(w->disk), by_serial);
        GList *last = g_list_last(serials);
        c.first_serial = last ? GPOINTER_TO_SIZE(last->data) + 1 : 1;
        w->h = hypervisor_new(&c, machine, G_N_ELEMENTS(machine), w->now);
        g_assert_nonnull(w->h);
        g_assert_cmpint(hypervisor_vm_define(w->h, &shape, &err), ==, 0);
        for (GList *l = serials; l; l = l->next) {
                struct request *row = row_copy(g_hash_table_lookup(w->disk, l->data));
                int bad = hypervisor_restore(w->h, row, w->now, &err);
                if (bad)
                        g_error("%s", err.sentence);
                g_free(row);
        }
        g_list_free(serials);
        g_queue_clear(&w->work);
        hypervisor_recover(w->h, w->now);
        turn(w);
}

static void world_init(struct world *w)
{
        memset(w, 0, sizeof(*w));
        w->now = 1000000;
        w->disk = g_hash_table_new_full(NULL, NULL, NULL, row_free);
        boot(w);
}

static void world_done(struct world *w)
{
        hypervisor_free(w->h);
        g_hash_table_destroy(w->disk);
        g_queue_clear(&w->work);
}

static void work_one(struct world *w, bool fails)
{
        uint64_t what = GPOINTER_TO_SIZE(g_queue_pop_head(&w->work));
        struct err err = {0};
        if (!what)
                return;
        const struct request *r = hypervisor_request(w->h, what / 2);
        if (what & 1 && r && r->kind == REQUEST_VM) {
                hypervisor_vm_gone(w->h, "v", "test", w->now);
        } else if (what & 1) {
                hypervisor_taken_back(w->h, what / 2, w->now);
        } else if (fails) {
                (void)err_set(&err, REASON_TIMEOUT, 110, "the guest did not answer");
                hypervisor_failed(w->h, what / 2, &err, w->now);
        } else {
                hypervisor_activated(w->h, what / 2, w->now);
        }
        turn(w);
}

static void work_all(struct world *w)
{
        while (!g_queue_is_empty(&w->work))
                work_one(w, false);
}

static void start_vm(struct world *w)
{
        struct err err = {0};
        g_assert_cmpint(hypervisor_vm_start(w->h, "v", w->now, &err), ==, 0);
        turn(w);
        work_all(w);
        g_assert_cmpint(hypervisor_find(w->h, "vm:v")->state, ==, REQUEST_GRANTED);
}

static uint64_t ask(struct world *w, const char *id, const char *needs_text, bool less, enum reason *ret_bad)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        uint64_t serial = 0;
        char **texts = g_strsplit(needs_text, " ", -1);
        g_assert_cmpint(needs_parse((const char *const *)texts, g_strv_length(texts), needs, &err), ==, 0);
        struct ask a = {.kind = REQUEST_APP,
                        .vm = "v",
                        .id = id,
                        .needs = needs,
                        .n_needs = g_strv_length(texts),
                        .accepts_less = less,
                        .end_ms = LEDGER_OPEN};
        int bad = hypervisor_ask(w->h, &a, w->now, &serial, &err);
        g_strfreev(texts);
        if (ret_bad)
                *ret_bad = bad ? err.reason : 0;
        else if (bad)
                g_error("%s: %s", id, err.sentence);
        turn(w);
        return serial;
}

static const struct request *get(const struct world *w, uint64_t serial)
{
        const struct request *r = hypervisor_request(w->h, serial);
        g_assert_nonnull(r);
        return r;
}

/* ---- single stories ---- */

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
        r = get(&w, ask(&w, "d", "memory:128M cpu:1,share>=0.9", false, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_cmpint(r->reason, ==, REASON_NO_CAPACITY);
        g_assert_cmpuint(r->n_claims, ==, 0); /* all or nothing */
        (void)ask(&w, "d", "memory:256M", false, &bad);
        g_assert_cmpint(bad, ==, REASON_INVALID); /* the id with other needs */
        world_done(&w);
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
        hypervisor_vm_gone(w.h, "v", "killed", w.now);
        turn(&w);
        g_assert_cmpint(get(&w, a)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(get(&w, b)->state, ==, REQUEST_ENDED);
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        work_all(&w); /* what was under way reports late: ignored */
        g_assert_cmpint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
        start_vm(&w); /* and it can start again */
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
        world_done(&w);
}

/* ---- random events and crashes ---- */

static void sum_live(const struct request *r, void *arg)
{
        GString *s = arg;
        g_string_append_printf(s, "%s %s %d", r->key, request_state_name(r->state), r->outcome);
        for (size_t i = 0; i < r->n_claims; i++)
                g_string_append_printf(s, " %u=%lld@%d", r->claims[i].component,
                                       (long long)r->claims[i].amount, r->claims[i].slot);
        g_string_append_c(s, '\n');
}

static void crash(struct world *w)
{
        GString *before = g_string_new(NULL), *after = g_string_new(NULL);
        hypervisor_each(w->h, sum_live, before);
        hypervisor_free(w->h);
        boot(w);
        hypervisor_each(w->h, sum_live, after);
        g_assert_cmpstr(before->str, ==, after->str); /* replay gives the same state */
        g_string_free(before, TRUE);
        g_string_free(after, TRUE);
}

static void random_ask(struct world *w, GRand *rand)
{
        static const char *const kinds[] = {
                "cpu:1",           "cpu:2,share>=0.9",     "cpu:1,exclusive",           "memory:256M",
                "memory:128M..1G", "cpu:1..3 memory:128M", "memory:1G cpu:1,share>=0.1"};
        char id[16];
        enum reason bad;
        (void)snprintf(id, sizeof(id), "r%d", g_rand_int_range(rand, 0, 60));
        (void)ask(w, id, kinds[g_rand_int_range(rand, 0, G_N_ELEMENTS(kinds))], g_rand_boolean(rand), &bad);
}

static void random_event(struct world *w, GRand *rand)
{
        char key[32];
        uint64_t serial;
        struct err err = {0};
        (void)snprintf(key, sizeof(key), "vm:v/r%d", g_rand_int_range(rand, 0, 60));
        switch (g_rand_int_range(rand, 0, 12)) {
        case 0:
                (void)hypervisor_vm_start(w->h, "v", w->now, &err);
                break;
        case 1:
                if (g_rand_int_range(rand, 0, 20) == 0)
                        hypervisor_vm_gone(w->h, "v", "killed", w->now);
                break;
        case 2:
                if (g_rand_int_range(rand, 0, 20) == 0)
                        hypervisor_vm_processes_gone(w->h, "v", "booted", w->now);
                break;
        case 3:
                (void)hypervisor_accept(w->h, key, w->now, &serial, &err);
                break;
        case 4:
        case 5:
                (void)hypervisor_release(w->h, key, "released", w->now, &serial, &err);
                break;
        case 6:
                w->now += g_rand_int_range(rand, 0, 700);
                hypervisor_tick(w->h, w->now);
                break;
        case 7:
                crash(w);
                break;
        case 8:
        case 9:
                work_one(w, g_rand_int_range(rand, 0, 5) == 0);
                break;
        default:
                random_ask(w, rand);
        }
        turn(w);
}

static void test_random(void)
{
        guint32 seed = g_test_rand_int_range(0, G_MAXINT32);
        GRand *rand = g_rand_new_with_seed(seed);
        g_test_message("seed %u", seed);
        for (int round = 0; round < 20; round++) {
                struct world w;
                world_init(&w);
                for (int i = 0; i < 400; i++)
                        random_event(&w, rand);
                /* Let everything end: nothing may be left. */
                for (int i = 0; i < 60; i++) {
                        char key[32];
                        uint64_t serial;
                        struct err err;
                        (void)snprintf(key, sizeof(key), "vm:v/r%d", i);
                        (void)hypervisor_release(w.h, key, "released", w.now, &serial, &err);
                }
                turn(&w);
                work_all(&w);
                hypervisor_vm_gone(w.h, "v", "end", w.now);
                turn(&w);
                g_assert_cmpuint(ledger_claims(hypervisor_ledger(w.h)), ==, 0);
                for (uint32_t c = 0; c < G_N_ELEMENTS(machine); c++)
                        g_assert_cmpint(ledger_claimed(hypervisor_ledger(w.h), c), ==, 0);
                world_done(&w);
        }
        g_rand_free(rand);
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
        g_test_add_func("/hypervisor/counter-offer", test_counter_offer);
        g_test_add_func("/hypervisor/failed-activation", test_failed_activation);
        g_test_add_func("/hypervisor/vm-gone", test_vm_gone);
        g_test_add_func("/hypervisor/window", test_window);
        g_test_add_func("/hypervisor/random", test_random);
        return g_test_run();
}

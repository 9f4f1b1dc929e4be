/* SPDX-License-Identifier: Apache-2.0 */
/* The heart under random events, with a driver that answers late, twice or never, and a disk that forgets
 * what was not committed. After every turn all invariants hold; after every crash what was recorded is
 * exactly what is there. */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "core/telling.h"
#include "core/hypervisor-internal.h" /* to see that tables stay bounded */

#define MIB  (INT64_C(1) << 20)
#define MBIT INT64_C(1000000)

static const struct component machine[] = {
        {.id = "cpu:0",            .kind = COMPONENT_CPU, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "cpu:1",
         .kind = COMPONENT_CPU,
         .os_index = 1,
         .capacity = 1000,
         .owned = 1000,
         .healthy = true},
        {.id = "cpu:2",
         .kind = COMPONENT_CPU,
         .os_index = 2,
         .node = 1,
         .capacity = 1000,
         .owned = 1000,
         .healthy = true},
        {.id = "cpu:3",
         .kind = COMPONENT_CPU,
         .os_index = 3,
         .node = 1,
         .capacity = 1000,
         .owned = 1000,
         .healthy = true},
        {.id = "memory:node0",
         .kind = COMPONENT_MEMORY,
         .capacity = 2048 * MIB,
         .owned = 2048 * MIB,
         .healthy = true                                                                                },
        {.id = "memory:node1",
         .kind = COMPONENT_MEMORY,
         .node = 1,
         .capacity = 2048 * MIB,
         .owned = 2048 * MIB,
         .healthy = true},
        {.id = "net:eth0",
         .kind = COMPONENT_NET,
         .capacity = 1000 * MBIT,
         .owned = 980 * MBIT,
         .healthy = true                                                                                  },
        {.id = "block:images",
         .kind = COMPONENT_BLOCK,
         .capacity = 400 * MIB,
         .owned = 400 * MIB,
         .healthy = true                                                                                  },
};

enum { CLASSES = 4 }; /* components that test_class() adds */

static const struct hypervisor_config config = {.cpu_overcommit = 2,
                                                .offer_ms = 1000,
                                                .live_max = 1000,
                                                .live_per_vm_max = 8,
                                                .finished_max = 64,
                                                .retry_first_ms = 100,
                                                .retry_max_ms = 1000,
                                                .keeps = true,
                                                .reclaim_ms = 20000,
                                                .repairs = true,
                                                .first_serial = 1};

static const struct vm_shape shapes[] = {
        {.name = "v",
         .cpus = 1,
         .cpus_max = 4,
         .share_milli = 200,
         .memory_bytes = 512 * MIB,
         .memory_max_bytes = 2048 * MIB,
         .unit_bytes = 128 * MIB,
         .memory_slots = 4                      },
        { .name = "u",
         .cpus = 2,
         .cpus_max = 3,
         .memory_bytes = 256 * MIB,
         .memory_max_bytes = 1024 * MIB,
         .unit_bytes = 128 * MIB,
         .memory_slots = 2        },
        {                                 .name = "n",
         .cpus = 1,
         .cpus_max = 2,
         .share_milli = 100,
         .memory_bytes = 128 * MIB,
         .memory_max_bytes = 128 * MIB,
         .unit_bytes = 128 * MIB,
         .net_bps = 200 * MBIT,
         .net_max_bps = 600 * MBIT},
        {                                 .name = "d",
         .cpus = 1,
         .cpus_max = 2,
         .share_milli = 100,
         .memory_bytes = 128 * MIB,
         .memory_max_bytes = 128 * MIB,
         .unit_bytes = 128 * MIB,
         .disk_rate = 50 * MIB,
         .disk_max = 200 * MIB},
};

/* The same after its memory was halved and half of its CPUs were taken out of use. */
static struct component smaller[G_N_ELEMENTS(machine)];

/* Somebody who asked, and was not answered yet. */
struct wait {
        uint64_t serial;
        enum effect_kind what; /* EFFECT_ANSWER or EFFECT_RELEASED */
};

/* A step that the driver was asked for. */
struct work {
        uint64_t serial, token; /* token 0: nobody waits for its report any more */
        struct activation step;
        bool is_check;
};

/* What a driver does with the effects, and the disk. */
struct world {
        struct hypervisor *h;
        GHashTable *disk;  /* serial -> struct request, definitions copied */
        GQueue work;       /* of struct work */
        GHashTable *sides; /* "v vcpu 2" -> phases that were carried out on it and not undone */
        GHashTable *bound; /* the same -> what its host side takes: component << 48 | amount */
        GString *log;      /* "trace event; " */
        GString *texts;    /* "text; " */
        int64_t now;
        unsigned answers, released, events, ended;
        uint64_t last_answer;
        GArray *waits;    /* of struct wait */
        GHashTable *told; /* serial -> the outcome that was last told */
        bool smaller;     /* the host, from its next boot on */
        bool disk_fails;  /* the next turn cannot be recorded */
        int64_t force_after_ms;
        bool keeps_nothing;
        bool no_capacity; /* that is why steps fail */
        bool is_crowded;  /* some of the host may be gone, and more claimed than there is */
        bool gone[G_N_ELEMENTS(machine)];
};

static void row_free(gpointer p)
{
        struct request *r = p;
        g_free(r->definitions);
        g_free(r);
}

static struct request *row_copy(const struct request *r)
{
        struct request *c = g_memdup2(r, sizeof(*r));
        c->definitions = r->n_definitions ? malloc(r->n_definitions * sizeof(*r->definitions)) : NULL;
        if (r->n_definitions)
                memcpy(c->definitions, r->definitions, r->n_definitions * sizeof(*r->definitions));
        return c;
}

static void wait_on(struct world *w, uint64_t serial, enum effect_kind what)
{
        struct wait wait = {serial, what};
        g_array_append_val(w->waits, wait);
}

static void answer_waits(struct world *w, uint64_t serial, enum effect_kind what)
{
        for (guint i = w->waits->len; i-- > 0;) {
                const struct wait *wait = &g_array_index(w->waits, struct wait, i);
                if (wait->serial == serial && wait->what == what)
                        g_array_remove_index_fast(w->waits, i);
        }
}

/* What was told is final, but for a counter-offer. */
static void tell(struct world *w, const struct request *r)
{
        enum outcome before = GPOINTER_TO_SIZE(g_hash_table_lookup(w->told, GSIZE_TO_POINTER(r->serial)));
        if (before && before != OUTCOME_COUNTER_OFFERED)
                g_assert_cmpint(r->outcome, ==, before);
        g_hash_table_insert(w->told, GSIZE_TO_POINTER(r->serial), GSIZE_TO_POINTER(r->outcome));
}

/* What VMs have, whatever the times of their leases say. */
static void sum_used(const struct request *r, void *arg)
{
        int64_t *used = arg;
        for (size_t i = 0; i < r->n_definitions && r->kind != REQUEST_RESERVATION && request_is_live(r); i++)
                used[r->definitions[i].component] += r->definitions[i].amount;
}

static void check(const struct world *w)
{
        int64_t used[G_N_ELEMENTS(machine) + CLASSES] = {0}, bound[G_N_ELEMENTS(machine) + CLASSES] = {0};
        GHashTableIter i;
        gpointer value;
        g_assert_true(hypervisor_is_sound(w->h));
        hypervisor_each(w->h, sum_used, used);
        g_hash_table_iter_init(&i, w->bound);
        while (g_hash_table_iter_next(&i, NULL, &value))
                bound[GPOINTER_TO_SIZE(value) >> 48] +=
                        (int64_t)(GPOINTER_TO_SIZE(value) & ((UINT64_C(1) << 48) - 1));
        for (size_t c = 0; c < G_N_ELEMENTS(machine) && !w->is_crowded; c++) {
                g_assert_cmpint(used[c], <=, machine[c].owned);
                g_assert_cmpint(bound[c], <=, machine[c].owned); /* kept or not */
        }
}

static void reload(struct world *w);

/* The disk is full: nothing of this turn was decided. Who waits is told so, but for those whose request is
 * recorded and still has its verdict to come. */
static void turn_fails(struct world *w)
{
        struct effect f;
        while (hypervisor_next_effect(w->h, &f))
                continue;
        w->disk_fails = false;
        reload(w);
        for (guint i = w->waits->len; i-- > 0;) {
                const struct wait *wait = &g_array_index(w->waits, struct wait, i);
                const struct request *r = hypervisor_request(w->h, wait->serial);
                if (wait->what != EFFECT_ANSWER || !r || r->state != REQUEST_ACTIVATING)
                        g_array_remove_index_fast(w->waits, i);
        }
}

/* One at a time in each VM, and only behind its record. */
static void take_step(struct world *w, const struct effect *f)
{
        const struct request *row = g_hash_table_lookup(w->disk, GSIZE_TO_POINTER(f->serial));
        char journalled[ACTIVATION_TEXT], asked[ACTIVATION_TEXT];
        g_assert_nonnull(row);
        g_assert_true(f->is_check ||
                      row->activation.is_back != f->step.is_back || /* turned in this very turn */
                      strcmp(activation_print(&row->activation, journalled),
                             activation_print(&f->step, asked)) == 0);
        for (GList *l = w->work.head; l; l = l->next) {
                const struct work *other = l->data;
                const struct request *r = hypervisor_request(w->h, other->serial);
                g_assert_true(!other->token || !r || strcmp(r->vm, row->vm) != 0);
        }
        struct work *work = g_new0(struct work, 1);
        *work = (struct work){f->serial, f->token, f->step, f->is_check};
        g_queue_push_tail(&w->work, work);
}

static void turn(struct world *w)
{
        if (w->disk_fails) {
                turn_fails(w);
                return;
        }
        GArray *after = g_array_new(FALSE, FALSE, sizeof(struct effect));
        struct effect f;
        while (hypervisor_next_effect(w->h, &f)) {
                const struct request *r = hypervisor_request(w->h, f.serial);
                if (f.kind == EFFECT_PERSIST && r)
                        g_hash_table_replace(w->disk, GSIZE_TO_POINTER(f.serial), row_copy(r));
                else if (f.kind == EFFECT_JOURNAL && r)
                        ((struct request *)g_hash_table_lookup(w->disk, GSIZE_TO_POINTER(f.serial)))
                                ->activation = r->activation;
                else if (f.kind == EFFECT_FORGET)
                        g_hash_table_remove(w->disk, GSIZE_TO_POINTER(f.serial));
                else if (f.kind == EFFECT_EVENT) {
                        w->events++;
                        g_string_append_printf(w->log, "%s %s; ", f.trace, f.event);
                        g_string_append_printf(w->texts, "%s; ", f.text);
                        /* two guests may choose the same id: their lines are told apart */
                        if (strchr(f.subject, '/'))
                                g_assert_cmpstr(f.trace, ==, f.subject + strlen("vm:"));
                        else
                                g_assert_null(strchr(f.trace, '/'));
                } else
                        g_array_append_val(after, f);
        }
        for (guint i = 0; i < after->len; i++) {
                const struct effect *e = &g_array_index(after, struct effect, i);
                if (e->kind == EFFECT_ANSWER) {
                        w->answers++;
                        w->last_answer = e->serial;
                        /* No answer without its record. */
                        g_assert_nonnull(g_hash_table_lookup(w->disk, GSIZE_TO_POINTER(e->serial)));
                        tell(w, hypervisor_request(w->h, e->serial));
                        answer_waits(w, e->serial, EFFECT_ANSWER);
                } else if (e->kind == EFFECT_RELEASED) {
                        w->released++;
                        answer_waits(w, e->serial, EFFECT_RELEASED);
                } else if (e->kind == EFFECT_ENDED) {
                        w->ended++;
                } else if (e->kind == EFFECT_STEP) {
                        take_step(w, e);
                }
        }
        g_array_free(after, TRUE);
        check(w);
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
        c.keeps = !w->keeps_nothing;
        c.force_after_ms = w->force_after_ms;
        GList *serials = g_list_sort(g_hash_table_get_keys(w->disk), by_serial);
        GList *last = g_list_last(serials);
        c.first_serial = last ? GPOINTER_TO_SIZE(last->data) + 1 : 1;
        struct component all[G_N_ELEMENTS(machine)];
        memcpy(all, w->smaller ? smaller : machine, sizeof(all));
        for (size_t i = 0; i < G_N_ELEMENTS(machine); i++)
                all[i].healthy = all[i].healthy && !w->gone[i];
        w->h = hypervisor_new(&c, all, G_N_ELEMENTS(machine), w->now);
        g_assert_nonnull(w->h);
        for (size_t i = 0; i < G_N_ELEMENTS(shapes); i++)
                g_assert_cmpint(hypervisor_vm_define(w->h, &shapes[i], &err), ==, 0);
        for (GList *l = serials; l; l = l->next) {
                struct request *row = row_copy(g_hash_table_lookup(w->disk, l->data));
                int bad = hypervisor_restore(w->h, row, w->now, &err);
                if (bad)
                        g_error("%s", err.sentence);
                g_free(row);
        }
        g_list_free(serials);
        hypervisor_recover(w->h, w->now);
        turn(w);
}

/* Work that is under way goes on, and nobody waits for it. */
static void reload(struct world *w)
{
        for (GList *l = w->work.head; l; l = l->next)
                ((struct work *)l->data)->token = 0;
        hypervisor_free(w->h);
        boot(w);
}

static void world_init(struct world *w)
{
        memset(w, 0, sizeof(*w));
        w->now = 1000000;
        w->disk = g_hash_table_new_full(NULL, NULL, NULL, row_free);
        w->waits = g_array_new(FALSE, FALSE, sizeof(struct wait));
        w->told = g_hash_table_new(NULL, NULL);
        w->sides = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        w->bound = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        w->log = g_string_new(NULL);
        w->texts = g_string_new(NULL);
        boot(w);
}

static void world_done(struct world *w)
{
        hypervisor_free(w->h);
        g_hash_table_destroy(w->disk);
        g_hash_table_destroy(w->told);
        g_array_free(w->waits, TRUE);
        g_hash_table_destroy(w->sides);
        g_hash_table_destroy(w->bound);
        g_string_free(w->log, TRUE);
        g_string_free(w->texts, TRUE);
        g_queue_clear_full(&w->work, g_free);
}

/* The VMM is gone, and the host side of the VM with it, what it was lent included; of a lazy way back, only
 * that. */
static void all_goes(struct world *w, const struct request *r)
{
        GHashTable *const tables[] = {w->sides, w->bound};
        for (size_t t = 0; t < G_N_ELEMENTS(tables); t++) {
                GHashTableIter i;
                gpointer k, v;
                g_hash_table_iter_init(&i, tables[t]);
                while (g_hash_table_iter_next(&i, &k, &v)) {
                        bool stays = strncmp(k, r->vm, strlen(r->vm)) != 0 || strstr(k, " ram ");
                        for (size_t d = 0; d < r->n_definitions && r->activation.is_lazy && !stays; d++) {
                                char *key = g_strdup_printf("%s %s %d", r->vm,
                                                            virtual_kind_name(r->definitions[d].kind),
                                                            r->definitions[d].slot);
                                stays = strcmp(k, key) == 0;
                                g_free(key);
                        }
                        if (!stays)
                                g_hash_table_iter_remove(&i);
                }
        }
}

static void act(struct world *w, const struct request *r, const struct activation *step)
{
        const struct definition *d = &r->definitions[step->item];
        if (!phase_has_items(step->phase) || step->phase == PHASE_FINALISE)
                return;
        char *key = g_strdup_printf("%s %s %d", r->vm, virtual_kind_name(d->kind), d->slot);
        guint bits = GPOINTER_TO_UINT(g_hash_table_lookup(w->sides, key)), bit = 1U << step->phase;
        bits = step->is_back ? bits & ~bit : bits | bit;
        if (step->phase == PHASE_HOST && step->is_back)
                g_hash_table_remove(w->bound, key);
        else if (step->phase == PHASE_HOST)
                g_hash_table_insert(w->bound, g_strdup(key),
                                    GSIZE_TO_POINTER((gsize)d->component << 48 | (gsize)d->amount));
        if (step->phase == PHASE_VIRTUAL && !step->is_back) /* nothing is used that was not made ready */
                g_assert_true(bits & (1U << PHASE_HOST));
        g_hash_table_insert(w->sides, key, GUINT_TO_POINTER(bits));
        if (step->is_back && d->kind == VIRTUAL_RAM &&
            (step->phase == PHASE_HOST || (step->phase == PHASE_VIRTUAL && step->is_lazy)))
                all_goes(w, r);
}

static bool nothing_held(const struct world *w)
{
        GHashTableIter i;
        gpointer k, v;
        g_hash_table_iter_init(&i, w->sides);
        while (g_hash_table_iter_next(&i, &k, &v))
                if (v)
                        return false;
        return true;
}

static void work_one(struct world *w, bool fails)
{
        struct work *work = g_queue_pop_head(&w->work);
        struct err err = {0};
        if (!work)
                return;
        const struct request *r = hypervisor_request(w->h, work->serial);
        if (r && work->token && (!fails || w->now % 2))
                act(w, r, &work->step);
        if (w->no_capacity)
                (void)err_set(&err, REASON_NO_CAPACITY, 28, "there is less than it seemed");
        else if (work->is_check && w->now % 3)
                (void)err_set(&err, REASON_STALE, 71, "somebody changed it");
        else
                (void)err_set(&err, REASON_TIMEOUT, 110, "the guest did not answer");
        hypervisor_step_done(w->h, work->serial, work->token, fails ? &err : NULL, NULL, w->now);
        g_free(work);
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

/* A VM, or NULL for a reservation; from start_ms (0: now) to end_ms. */
static uint64_t ask_for(struct world *w, const char *vm, const char *id, const char *needs_text, bool less,
                        int64_t start_ms, int64_t end_ms, enum reason *ret_bad)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        uint64_t serial = 0;
        char **texts = g_strsplit(needs_text, " ", -1);
        g_assert_cmpint(needs_parse((const char *const *)texts, g_strv_length(texts), needs, &err), ==, 0);
        struct ask a = {.kind = vm ? REQUEST_APP : REQUEST_RESERVATION,
                        .vm = vm,
                        .id = id,
                        .needs = needs,
                        .n_needs = g_strv_length(texts),
                        .accepts_less = less,
                        .start_ms = start_ms,
                        .end_ms = end_ms};
        int bad = hypervisor_ask(w->h, &a, w->now, &serial, &err);
        g_strfreev(texts);
        if (ret_bad)
                *ret_bad = bad ? err.reason : 0;
        else if (bad)
                g_error("%s: %s", id, err.sentence);
        if (!bad)
                wait_on(w, serial, EFFECT_ANSWER);
        turn(w);
        return serial;
}

static uint64_t ask(struct world *w, const char *id, const char *needs_text, bool less, enum reason *ret_bad)
{
        return ask_for(w, "v", id, needs_text, less, 0, LEDGER_OPEN, ret_bad);
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

/* A network card: of the base, and what leases add to it. */
static void test_net(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "n", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        const struct ledger *l = hypervisor_ledger(w.h);
        const uint32_t net = G_N_ELEMENTS(machine) - 2;
        g_assert_cmpint(ledger_claimed(l, net), ==, 200 * MBIT);
        const struct request *base = hypervisor_find(w.h, "vm:n");
        const struct definition *nic = &base->definitions[base->n_definitions - 1];
        g_assert_true(nic->kind == VIRTUAL_NIC && nic->slot == 0 && nic->component == net && nic->active);
        uint64_t a = ask_for(&w, "n", "a", "net:100M", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->definitions[0].slot, ==, 1);
        /* rounded up to whole units */
        uint64_t b = ask_for(&w, "n", "b", "net:64001 cpu:1", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->met[0], ==, 72000);
        g_assert_cmpint(ledger_claimed(l, net), ==, 300 * MBIT + 72000);
        const struct request *r = get(&w, ask_for(&w, "n", "c", "net:401M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_POLICY);
        r = get(&w, ask_for(&w, "n", "d", "net:400M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        r = get(&w, ask_for(&w, "n", "e", "net:400M", true, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_COUNTER_OFFERED);
        g_assert_nonnull(strstr(r->sentence, "offered net:299928K instead"));
        g_assert_cmpint(ledger_claimed(l, net), ==, 600 * MBIT);
        g_assert_cmpint(hypervisor_release(w.h, "vm:n/e", "declined", w.now, &serial, &err), ==, 0);
        turn(&w);
        /* less than is worth holding is no offer */
        uint64_t f = ask_for(&w, "n", "f", "net:299900K", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, f)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, ask_for(&w, "n", "g", "net:1M", true, 0, LEDGER_OPEN, NULL))->outcome, ==,
                        OUTCOME_NOT_NOW);
        /* a reservation of the operator's, and what is over */
        uint64_t s = ask_for(&w, NULL, "s", "net:380M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_GRANTED);
        r = get(&w, ask_for(&w, NULL, "t", "net:1M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        r = get(&w, ask_for(&w, NULL, "x", "net:981M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        /* a VM without a card */
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        r = get(&w, ask_for(&w, "u", "a", "net:100M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(r->sentence, "no network card"));
        for (const char *const *key = (const char *const[]){"vm:n/a", "vm:n/b", "vm:n/f", NULL}; *key; key++)
                g_assert_cmpint(hypervisor_release(w.h, *key, "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(l, net), ==, 580 * MBIT);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* On a host that has none of it, it is unsupported, alone or not. */
static void test_no_class(void)
{
        static const char *const asked[] = {"cache:2", "membw:20%", "cpu:1 cache:2", "cpu:1 membw:20%"};
        struct world w;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "n", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        for (size_t i = 0; i < G_N_ELEMENTS(asked); i++) {
                const char id[] = {(char)('a' + i), '\0'};
                const struct request *r =
                        get(&w, ask_for(&w, "n", id, asked[i], false, 0, LEDGER_OPEN, NULL));
                g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
                g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        }
        world_done(&w);
}

/* The machine with two L3 caches, of each of which something can be given away. */
static size_t with_classes(struct component two[G_N_ELEMENTS(machine) + CLASSES])
{
        memcpy(two, machine, sizeof(machine));
        size_t n = G_N_ELEMENTS(machine);
        for (size_t i = 0; i < n; i++)
                if (two[i].kind == COMPONENT_CPU)
                        two[i].domain = two[i].node + 1;
        for (uint32_t domain = 1; domain <= 2; domain++) {
                two[n++] = (struct component){.id = "cache",
                                              .kind = COMPONENT_CACHE,
                                              .os_index = domain - 1,
                                              .domain = domain,
                                              .step = 2,
                                              .capacity = 12,
                                              .owned = 8,
                                              .healthy = true};
                two[n++] = (struct component){.id = "membw",
                                              .kind = COMPONENT_MEMBW,
                                              .os_index = domain - 1,
                                              .domain = domain,
                                              .step = 10,
                                              .capacity = 100,
                                              .owned = 90,
                                              .healthy = true};
        }
        return n;
}

static void class_world_init(struct world *w, struct component two[G_N_ELEMENTS(machine) + CLASSES])
{
        struct err err = {0};
        size_t n = with_classes(two);
        world_init(w);
        hypervisor_free(w->h);
        w->h = hypervisor_new(&config, two, n, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(shapes); i++)
                g_assert_cmpint(hypervisor_vm_define(w->h, &shapes[i], &err), ==, 0);
}

/* A class of service serves CPUs, below one L3 cache: that of the VM's own. */
static void test_class(void)
{
        struct component two[G_N_ELEMENTS(machine) + CLASSES];
        struct world w;
        struct err err = {0};
        uint64_t serial;
        class_world_init(&w, two);
        const struct ledger *l = hypervisor_ledger(w.h);
        g_assert_cmpint(hypervisor_vm_start(w.h, "n", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        uint32_t own = 0;
        const struct request *base = hypervisor_find(w.h, "vm:n");
        for (size_t i = 0; i < base->n_definitions; i++)
                if (base->definitions[i].kind == VIRTUAL_VCPU)
                        own = two[base->definitions[i].component].domain;
        const struct request *r = get(&w, ask_for(&w, "n", "alone", "cache:2", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_INVALID);
        r = get(&w, ask_for(&w, "n", "many", "cpu:1 cache:9", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        uint64_t a = ask_for(&w, "n", "a", "cpu:1 cache:3 membw:15%", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        r = get(&w, a);
        g_assert_cmpint(r->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(r->met[1], ==, 4); /* rounded up to what the hardware does */
        g_assert_cmpint(r->met[2], ==, 20);
        uint64_t slots = 0;
        for (size_t i = 0; i < r->n_definitions; i++) {
                g_assert_cmpint(two[r->definitions[i].component].domain, ==, own);
                if (r->definitions[i].kind == VIRTUAL_NONE)
                        slots |= UINT64_C(1) << r->definitions[i].slot;
        }
        g_assert_cmpint(slots, ==, 3);
        g_assert_true(hypervisor_is_sound(w.h));
        g_assert_cmpint(hypervisor_release(w.h, "vm:n/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        for (uint32_t i = G_N_ELEMENTS(machine); i < G_N_ELEMENTS(two); i++)
                g_assert_cmpint(ledger_claimed(l, i), ==, 0);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

static void test_class_binds(void)
{
        struct component two[G_N_ELEMENTS(machine) + CLASSES];
        struct world w;
        struct err err = {0};
        const struct request *r;
        uint64_t serial;
        class_world_init(&w, two);

        /* Bound by a lease of its own that has a class: there is more elsewhere when that has ended. */
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        (void)ask_for(&w, "v", "a", "cpu:1 cache:2", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, ask_for(&w, "v", "b", "cpu:3", false, 0, LEDGER_OPEN, NULL))->outcome, ==,
                        OUTCOME_NOT_NOW);
        g_assert_cmpint(get(&w, ask_for(&w, "v", "c", "cpu:3 cache:2", false, 0, LEDGER_OPEN, NULL))->outcome,
                        ==, OUTCOME_NEVER);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        uint64_t b = ask_for(&w, "v", "d", "cpu:3", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->outcome, ==, OUTCOME_GRANTED);

        /* Spread over both as long as it runs. */
        struct vm_shape wide = shapes[0];
        (void)snprintf(wide.name, sizeof(wide.name), "wide");
        wide.cpus = 3;
        g_assert_cmpint(hypervisor_vm_define(w.h, &wide, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(w.h, "wide", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        r = get(&w, ask_for(&w, "wide", "a", "cpu:1 cache:2", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_INCOMPATIBLE);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* What is asked for by its name, or by its node, is that or nothing (2.9). */
static void test_named(void)
{
        static const struct {
                const char *need;
                enum outcome outcome;
                enum reason reason;
        } rows[] = {
                {"cpu:1,id=2",           OUTCOME_GRANTED, 0                 },
                {"cpu:1,id=2,exclusive", OUTCOME_NOT_NOW, REASON_NO_CAPACITY},
                {"cpu:1,id=9",           OUTCOME_NEVER,   REASON_NOT_FOUND  },
                {"cpu:1,node=2",         OUTCOME_NEVER,   REASON_NOT_FOUND  },
                {"cpu:3,node=1",         OUTCOME_NEVER,   REASON_NO_CAPACITY},
                {"cpu:2,node=1",         OUTCOME_GRANTED, 0                 },
                {"memory:256M,node=1",   OUTCOME_GRANTED, 0                 },
                {"memory:1G,node=7",     OUTCOME_NEVER,   REASON_NOT_FOUND  },
        };
        struct world w;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                const char id[] = {(char)('a' + i), '\0'};
                uint64_t serial = ask_for(&w, "v", id, rows[i].need, false, 0, LEDGER_OPEN, NULL);
                work_all(&w);
                const struct request *r = get(&w, serial);
                g_test_message("%s: %s", rows[i].need, r->sentence);
                g_assert_cmpint(r->outcome, ==, rows[i].outcome);
                if (r->outcome != OUTCOME_GRANTED) {
                        g_assert_cmpint(r->reason, ==, rows[i].reason);
                        continue;
                }
                for (size_t k = 0; k < r->n_definitions; k++) {
                        const struct component *c = &machine[r->definitions[k].component];
                        int64_t named = need_component(&r->needs[0]);
                        g_assert_cmpint(c->node, ==, 1);
                        g_assert_true(named < 0 || c->os_index == named);
                }
        }
        g_assert_true(hypervisor_is_sound(w.h));
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

/* A host that has become smaller than what a VM of before needs at least. */
static void test_too_small_for_base(void)
{
        static const char *const what[] = {"block:images", "memory:node1"};
        for (size_t i = 0; i < G_N_ELEMENTS(what); i++) {
                struct component few[G_N_ELEMENTS(machine)];
                struct vm_shape s = shapes[3];
                struct world w;
                struct err err = {0};
                memcpy(few, machine, sizeof(machine));
                for (size_t k = 0; k < G_N_ELEMENTS(few); k++) {
                        if (strcmp(few[k].id, what[i]) == 0)
                                few[k].owned = few[k].kind == COMPONENT_BLOCK ? 40 * MIB : 0;
                        else if (i == 1 && few[k].kind == COMPONENT_MEMORY)
                                few[k].owned = 64 * MIB;
                }
                world_init(&w);
                hypervisor_free(w.h);
                w.h = hypervisor_new(&config, few, G_N_ELEMENTS(few), 0);
                g_assert_cmpint(hypervisor_vm_define(w.h, &s, &err), ==, 0);
                g_assert_cmpint(hypervisor_vm_start(w.h, s.name, w.now, &err), ==, 0);
                turn(&w);
                const struct request *r = hypervisor_find(w.h, "vm:d");
                g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
                g_assert_cmpint(r->reason, ==, REASON_NO_CAPACITY);
                world_done(&w);
        }
}

/* Base memory and a lease on huge pages, which count from the same node as the others. */
static void test_pages(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        const int64_t sizes[COMPONENT_PAGES] = {2 * MIB}, larger[COMPONENT_PAGES] = {2 * MIB, 1024 * MIB},
                      none[COMPONENT_PAGES] = {0};
        struct vm_shape s = shapes[1];
        world_init(&w);
        (void)snprintf(s.name, sizeof(s.name), "huge");
        s.page_bytes = 2 * MIB;
        s.memory_max_bytes = 1792 * MIB; /* room to grow for one page of 1G, and half of another */
        g_assert_cmpint(hypervisor_vm_fits(w.h, &s, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(
                strstr(err.sentence, "pages of 2M are asked for, and no memory of this host has them"));
        hypervisor_set_pages(w.h, sizes);
        g_assert_cmpint(hypervisor_vm_fits(w.h, &s, &err), ==, 0);
        struct vm_shape bad = s;
        bad.page_bytes = 3 * MIB;
        g_assert_cmpint(hypervisor_vm_define(w.h, &bad, &err), <, 0);
        bad.page_bytes = 512 * MIB; /* 256M are no whole page */
        g_assert_cmpint(hypervisor_vm_define(w.h, &bad, &err), <, 0);
        g_assert_cmpint(hypervisor_vm_define(w.h, &s, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(w.h, "huge", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        const struct request *base = hypervisor_find(w.h, "vm:huge");
        g_assert_cmpint(base->outcome, ==, OUTCOME_GRANTED);
        for (size_t i = 0; i < base->n_definitions; i++)
                g_assert_cmpint(base->definitions[i].page_bytes, ==,
                                base->definitions[i].kind == VIRTUAL_RAM ? 2 * MIB : 0);
        uint64_t a = ask_for(&w, "huge", "a", "memory:200M,page=2M", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->met[0], ==, 256 * MIB);
        g_assert_cmpint(get(&w, a)->definitions[0].page_bytes, ==, 2 * MIB);
        g_assert_nonnull(strstr(get(&w, a)->sentence, "granted memory:256M,page=2M"));
        const struct request *r =
                get(&w, ask_for(&w, "huge", "b", "memory:128M,page=1G", true, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(r->sentence, "it has huge pages of: 2M"));
        g_assert_cmpint(hypervisor_release(w.h, "vm:huge/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        hypervisor_set_pages(w.h, larger);
        a = ask_for(&w, "huge", "c", "memory:1G..2G,page=1G", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->met[0], ==, 1024 * MIB);
        g_assert_cmpint(hypervisor_release(w.h, "vm:huge/c", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        /* The keeper has no hugetlbfs any more: what is granted stays, a start is refused. */
        hypervisor_set_pages(w.h, none);
        g_assert_cmpint(hypervisor_release(w.h, "vm:huge", "killed", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "huge", w.now, &err), ==, 0);
        turn(&w);
        r = hypervisor_find(w.h, "vm:huge");
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* A disk: of the base, and what leases add to it. */
static void test_disk(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "d", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        const struct ledger *l = hypervisor_ledger(w.h);
        const uint32_t disk = G_N_ELEMENTS(machine) - 1;
        g_assert_cmpint(ledger_claimed(l, disk), ==, 50 * MIB);
        const struct request *base = hypervisor_find(w.h, "vm:d");
        const struct definition *d = &base->definitions[base->n_definitions - 1];
        g_assert_true(d->kind == VIRTUAL_DISK && d->slot == 0 && d->component == disk && d->active);
        uint64_t a = ask_for(&w, "d", "a", "block:100M", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->definitions[0].slot, ==, 1);
        /* rounded up to whole units */
        uint64_t b = ask_for(&w, "d", "b", "block:65537 cpu:1", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->met[0], ==, 131072);
        g_assert_cmpint(ledger_claimed(l, disk), ==, 150 * MIB + 131072);
        const struct request *r = get(&w, ask_for(&w, "d", "c", "block:151M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_POLICY);
        r = get(&w, ask_for(&w, "d", "e", "block:150M", true, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_COUNTER_OFFERED);
        g_assert_nonnull(strstr(r->sentence, "offered block:51072K instead"));
        g_assert_cmpint(hypervisor_release(w.h, "vm:d/e", "declined", w.now, &serial, &err), ==, 0);
        turn(&w);
        /* what an operator has set aside is nobody else's */
        uint64_t s = ask_for(&w, NULL, "s", "block:240M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_GRANTED);
        r = get(&w, ask_for(&w, "d", "f", "block:20M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        r = get(&w, ask_for(&w, NULL, "x", "block:401M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        /* a VM without a disk */
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        r = get(&w, ask_for(&w, "u", "a", "block:1M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(r->sentence, "no disk"));
        /* the books say the same after a restart */
        g_assert_true(hypervisor_is_sound(w.h));
        g_assert_cmpint(hypervisor_release(w.h, "vm:d/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(l, disk), ==, 290 * MIB + 131072);
        /* and no VM starts for whose disk there is no room */
        g_assert_cmpint(hypervisor_release(w.h, "vm:d", "stopped", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(l, disk), ==, 240 * MIB);
        (void)ask_for(&w, NULL, "t", "block:120M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(hypervisor_vm_start(w.h, "d", w.now, &err), ==, 0);
        turn(&w);
        r = hypervisor_find(w.h, "vm:d");
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_nonnull(
                strstr(r->sentence, "50M bytes/s for its disk are not free on this host, but 40M are"));
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
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

/* ---- what is kept ---- */

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

/* How often it is on the log. */
static int logged(const struct world *w, const char *what)
{
        int n = 0;
        for (const char *at = w->log->str; (at = strstr(at, what)); at++)
                n++;
        return n;
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

/* ---- the host changes ---- */

static void change(struct world *w, uint32_t component, bool healthy, int64_t lost)
{
        const struct host_change c = {component, healthy, lost, 0};
        w->gone[component] = !healthy; /* as the store has it, in the same turn */
        (void)hypervisor_host_changed(w->h, &c, 1, "made to", w->now);
        turn(w);
}

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

/* ---- random events and crashes ---- */

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

enum { IDS = 60 };

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
        g_test_add_func("/hypervisor/net", test_net);
        g_test_add_func("/hypervisor/disk", test_disk);
        g_test_add_func("/hypervisor/class", test_class);
        g_test_add_func("/hypervisor/class-binds", test_class_binds);
        g_test_add_func("/hypervisor/too-small-for-base", test_too_small_for_base);
        g_test_add_func("/hypervisor/named", test_named);
        g_test_add_func("/hypervisor/told", test_told);
        g_test_add_func("/hypervisor/no-class", test_no_class);
        g_test_add_func("/hypervisor/pages", test_pages);
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
        g_test_add_func("/hypervisor/moved", test_moved);
        g_test_add_func("/hypervisor/move-fails", test_move_fails);
        g_test_add_func("/hypervisor/leaves-late", test_leaves_late);
        g_test_add_func("/hypervisor/moves-first", test_moves_first);
        g_test_add_func("/hypervisor/no-place", test_no_place);
        g_test_add_func("/hypervisor/exclusive-moves", test_exclusive_moves);
        g_test_add_func("/hypervisor/gone-while-allocated", test_gone_while_allocated);
        g_test_add_func("/hypervisor/less-memory", test_less_memory);
        g_test_add_func("/hypervisor/random", test_random);
        return g_test_run();
}

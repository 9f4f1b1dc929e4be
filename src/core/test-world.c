/* SPDX-License-Identifier: Apache-2.0 */
#include "core/test-world.h"

const struct component machine[MACHINE_N] = {
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

const struct hypervisor_config config = {.cpu_overcommit = 2,
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

const struct vm_shape shapes[SHAPES_N] = {
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

struct component smaller[MACHINE_N];

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

void wait_on(struct world *w, uint64_t serial, enum effect_kind what)
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

void turn(struct world *w)
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
                } else if (e->kind == EFFECT_CHECKED) {
                        w->checked++;
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

void boot(struct world *w)
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

void reload(struct world *w)
{
        for (GList *l = w->work.head; l; l = l->next)
                ((struct work *)l->data)->token = 0;
        hypervisor_free(w->h);
        boot(w);
}

void world_init(struct world *w)
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

void world_done(struct world *w)
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

bool nothing_held(const struct world *w)
{
        GHashTableIter i;
        gpointer k, v;
        g_hash_table_iter_init(&i, w->sides);
        while (g_hash_table_iter_next(&i, &k, &v))
                if (v)
                        return false;
        return true;
}

void work_one(struct world *w, bool fails)
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

bool work_part(struct world *w)
{
        const struct work *work = g_queue_peek_head(&w->work);
        const struct request *r = work ? hypervisor_request(w->h, work->serial) : NULL;
        if (!r || !work->is_check || work->step.phase != PHASE_HOST || work->step.item >= r->n_definitions ||
            !r->definitions[work->step.item].moving)
                return false;
        struct work *mine = g_queue_pop_head(&w->work);
        hypervisor_step_goes_on(w->h, mine->serial, mine->token, w->now);
        g_free(mine);
        turn(w);
        return true;
}

void work_all(struct world *w)
{
        while (!g_queue_is_empty(&w->work))
                work_one(w, false);
}

void start_vm(struct world *w)
{
        struct err err = {0};
        g_assert_cmpint(hypervisor_vm_start(w->h, "v", w->now, &err), ==, 0);
        turn(w);
        work_all(w);
        g_assert_cmpint(hypervisor_find(w->h, "vm:v")->state, ==, REQUEST_GRANTED);
}

uint64_t ask_for(struct world *w, const char *vm, const char *id, const char *needs_text, bool less,
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

uint64_t ask(struct world *w, const char *id, const char *needs_text, bool less, enum reason *ret_bad)
{
        return ask_for(w, "v", id, needs_text, less, 0, LEDGER_OPEN, ret_bad);
}

const struct request *get(const struct world *w, uint64_t serial)
{
        const struct request *r = hypervisor_request(w->h, serial);
        g_assert_nonnull(r);
        return r;
}

int logged(const struct world *w, const char *what)
{
        int n = 0;
        for (const char *at = w->log->str; (at = strstr(at, what)); at++)
                n++;
        return n;
}

void change(struct world *w, uint32_t component, bool healthy, int64_t lost)
{
        const struct host_change c = {component, healthy, lost, 0};
        w->gone[component] = !healthy; /* as the store has it, in the same turn */
        (void)hypervisor_host_changed(w->h, &c, 1, "made to", w->now);
        turn(w);
}

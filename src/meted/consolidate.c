/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/consolidate.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "core/place.h"
#include "core/separate.h"
#include "json/api.h"
#include "meted/api-internal.h"
#include "meted/handover.h"
#include "meted/machine.h"
#include "meted/moves.h"

enum { UNITS = 64, ITEMS = PLACEMENT_NODES_MAX + SHAPE_SLOTS_MAX, POLL_MS = 100, VMS_MOST = 1024 };

/* Its turn is to come. */
struct place_of {
        char vm[64];
        uint32_t home; /* component */
};

struct consolidation {
        struct meted *m;
        struct loop_timer again;
        struct place_of *turns;
        size_t n, next;
        bool is_under_way; /* turns[next] */
};

/* Where all of them are, as consolidate_plan() wants it. */
struct spread {
        struct meted *m;
        size_t n_units, n_vms, n_steps;
        uint32_t components[UNITS];
        int64_t free[UNITS];
        const struct machine **vms;
        int64_t *amounts;
        struct separate_step *steps;
        size_t vm; /* whose requests are being gone over */
        bool is_fixed;
};

static void spread_free(struct spread *s)
{
        g_free(s->vms);
        g_free(s->amounts);
        g_free(s->steps);
        g_free(s);
}

static void add_units(struct spread *s)
{
        const struct ledger *l = hypervisor_ledger(s->m->hv);
        for (size_t i = 0; i < s->m->inventory.n && s->n_units < UNITS; i++) {
                const struct component *c = &s->m->inventory.components[i];
                if (c->kind != COMPONENT_MEMORY)
                        continue;
                s->free[s->n_units] =
                        c->healthy ? ledger_free_over(l, (uint32_t)i, loop_now_ms(), LEDGER_OPEN) : 0;
                s->components[s->n_units++] = (uint32_t)i;
        }
}

static void add_amounts(const struct request *r, void *arg)
{
        struct spread *s = arg;
        if (strcmp(r->vm, s->vms[s->vm]->definition.name) != 0 || !request_is_live(r))
                return;
        for (size_t i = 0; i < r->n_definitions; i++)
                for (size_t u = 0; u < s->n_units; u++) {
                        if (r->definitions[i].component != s->components[u])
                                continue;
                        s->amounts[s->vm * s->n_units + u] += r->definitions[i].amount;
                        s->is_fixed = s->is_fixed || r->definitions[i].page_bytes > 0;
                }
}

/* Runs, and nobody else does something to it. What is on huge pages stays where it is. */
static bool may_be_moved(struct meted *m, const struct machine *v)
{
        const char *why;
        struct err err = {0};
        return machine_state(v) == API_VM_STATE_RUNNING && v->vm && !v->is_dead && !moves_check(m, v, &err) &&
               !handovers_check(m, v, &err) &&
               hypervisor_vm_relocating(m->hv, v->definition.name, &why) == RELOCATING_NOTHING;
}

static struct spread *spread_of(struct meted *m, const char *only)
{
        struct spread *s = g_new0(struct spread, 1);
        s->m = m;
        add_units(s);
        s->vms = g_new0(const struct machine *, m->machines->len + 1);
        s->amounts = g_new0(int64_t, (m->machines->len + 1) * (s->n_units + 1));
        s->steps = g_new0(struct separate_step, (m->machines->len + 1) * (s->n_units + 1));
        for (guint i = 0; i < m->machines->len && s->n_vms < VMS_MOST; i++) {
                const struct machine *v = g_ptr_array_index(m->machines, i);
                if ((only && strcmp(only, v->definition.name) != 0) || !may_be_moved(m, v))
                        continue;
                s->vm = s->n_vms;
                s->vms[s->n_vms++] = v;
                s->is_fixed = false;
                hypervisor_each(m->hv, add_amounts, s);
                if (s->is_fixed) {
                        memset(s->amounts + s->vm * s->n_units, 0, s->n_units * sizeof(*s->amounts));
                        s->n_vms--;
                }
        }
        return s;
}

/* ---- one after another ---- */

struct collected {
        const struct place_of *turn;
        const struct meted *m;
        struct relocation moves[ITEMS];
        size_t n;
};

static void collect(const struct request *r, void *arg)
{
        struct collected *c = arg;
        if (strcmp(r->vm, c->turn->vm) != 0 || !request_is_live(r))
                return;
        for (uint16_t i = 0; i < r->n_definitions && c->n < ITEMS; i++) {
                const struct definition *d = &r->definitions[i];
                if (c->m->inventory.components[d->component].kind == COMPONENT_MEMORY &&
                    d->component != c->turn->home)
                        c->moves[c->n++] = (struct relocation){r->serial, i, c->turn->home};
        }
}

static void begin(struct consolidation *c)
{
        struct meted *m = c->m;
        const struct place_of *t = &c->turns[c->next];
        struct machine *v = machine_find(m, t->vm);
        g_autofree struct collected *all = g_new0(struct collected, 1);
        struct err err = {0};
        all->turn = t;
        all->m = m;
        hypervisor_each(m->hv, collect, all);
        if (!v || !may_be_moved(m, v) || all->n == 0) {
                c->next++; /* it is another by now */
                return;
        }
        v->relocated_bytes = 0;
        v->relocates_slowly = true;
        if (hypervisor_vm_relocate(m->hv, t->vm, all->moves, all->n, "it is brought together", loop_now_ms(),
                                   &err)) {
                machine_note(v, t->vm, "not-consolidated", "%.150s", err.sentence);
                c->next++;
                return;
        }
        c->is_under_way = true;
}

static bool is_together(const struct meted *m, const struct place_of *t)
{
        g_autofree struct collected *all = g_new0(struct collected, 1);
        all->turn = t;
        all->m = m;
        hypervisor_each(m->hv, collect, all);
        return all->n == 0;
}

/* What goes back does so by itself. One that ended meanwhile needs nothing. */
static void look(struct consolidation *c)
{
        struct meted *m = c->m;
        const struct place_of *t = &c->turns[c->next];
        const char *why = "";
        enum relocating how = hypervisor_vm_relocating(m->hv, t->vm, &why);
        struct machine *v = machine_find(m, t->vm);
        if (how == RELOCATING_UNDER_WAY)
                return;
        if (v && how == RELOCATING_FAILED) {
                machine_note(v, t->vm, "not-consolidated", "%.150s", why);
                hypervisor_vm_relocate_back(m->hv, t->vm, "it could not be brought together", loop_now_ms());
        } else if (v && machine_state(v) == API_VM_STATE_RUNNING && is_together(m, t)) {
                machine_note(v, t->vm, "consolidated",
                             "all of its memory is in %s, %" PRId64 " bytes were moved",
                             m->inventory.components[t->home].id, v->relocated_bytes);
        }
        c->is_under_way = false;
        c->next++;
}

static void on_again(void *arg)
{
        struct consolidation *c = arg;
        if (c->is_under_way)
                look(c);
        while (!c->is_under_way && c->next < c->n)
                begin(c);
        if (c->is_under_way)
                loop_timer_in(&c->again, POLL_MS);
        meted_changed(c->m);
}

static void start(struct meted *m, const struct spread *s)
{
        struct consolidation *c = m->consolidation;
        if (!c) {
                c = m->consolidation = g_new0(struct consolidation, 1);
                c->m = m;
                loop_timer_init(&c->again, on_again, c);
        }
        g_free(c->turns);
        c->turns = g_new0(struct place_of, s->n_steps + 1);
        c->n = c->next = 0;
        for (size_t k = 0; k < s->n_steps; k++) {
                if (k > 0 && s->steps[k].has == s->steps[k - 1].has)
                        continue; /* all of one VM's go to the same */
                (void)STR_COPY(c->turns[c->n].vm, s->vms[s->steps[k].has]->definition.name);
                c->turns[c->n++].home = s->components[s->steps[k].to];
        }
        on_again(c);
}

void consolidate_stop(struct meted *m)
{
        if (!m->consolidation)
                return;
        loop_timer_cancel(&m->consolidation->again);
        g_free(m->consolidation->turns);
        g_free(m->consolidation);
        m->consolidation = NULL;
}

/* ---- asked for ---- */

static json_t *show(const struct spread *s, bool is_dry, size_t scattered)
{
        struct api_consolidation *out = g_new0(struct api_consolidation, 1);
        const struct component *all = s->m->inventory.components;
        out->dry_run = is_dry;
        out->scattered = (int64_t)scattered;
        for (size_t k = 0; k < s->n_steps; k++) {
                out->moved_bytes += s->steps[k].amount;
                if (out->n_steps == ARRAY_N(out->steps))
                        continue;
                struct api_consolidation_step *to = &out->steps[out->n_steps++];
                (void)STR_COPY(to->vm, s->vms[s->steps[k].has]->definition.name);
                (void)STR_COPY(to->from, all[s->components[s->steps[k].from]].id);
                (void)STR_COPY(to->to, all[s->components[s->steps[k].to]].id);
                to->bytes = s->steps[k].amount;
        }
        json_t *v = api_consolidation_emit(out);
        g_free(out);
        return v;
}

void consolidate_ask(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_consolidate in;
        struct err err = {0};
        bool is_under_way = m->consolidation && m->consolidation->is_under_way;
        int bad = api_consolidate_parse(body, &in, &err);
        bool is_dry = !bad && in.has_dry_run && in.dry_run;
        if (!bad && in.has_vm && !machine_find(m, in.vm))
                bad = err_set(&err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", in.vm);
        if (!bad && !is_dry && is_under_way)
                bad = err_set(&err, REASON_BUSY, EBUSY,
                              "VMs are being brought together, %.63s just now: ask again when that is done",
                              m->consolidation->turns[m->consolidation->next].vm);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        struct spread *s = spread_of(m, in.has_vm ? in.vm : NULL);
        size_t scattered = consolidate_plan(s->amounts, s->n_vms, s->free, s->n_units,
                                            in.has_limit_bytes ? in.limit_bytes : 0, s->steps, &s->n_steps);
        json_t *answer = show(s, is_dry, scattered);
        if (!is_dry)
                start(m, s);
        spread_free(s);
        api_reply(req, 200, answer);
}

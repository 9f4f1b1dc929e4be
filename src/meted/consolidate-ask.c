/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked of consolidations, and what they are answered: where all VMs are, and where they would be. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "core/pieces.h"
#include "core/separate.h"
#include "meted/api-internal.h"
#include "meted/consolidate-internal.h"
#include "meted/consolidate.h"

enum { UNITS = 64, VMS_MOST = 1024, SLOWLY = 2 };

/* As consolidate_plan() wants it. */
struct spread {
        struct meted *m;
        size_t n_units, n_vms, n_steps, passed_over;
        uint32_t components[UNITS];
        int64_t free[UNITS];
        const struct machine **vms;
        int64_t *amounts;
        struct separate_step *steps;
        size_t vm; /* whose requests are being gone over */
        bool is_fixed, is_unsettled;
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
                        if (r->state == REQUEST_GRANTED)
                                s->amounts[s->vm * s->n_units + u] += r->definitions[i].amount;
                        s->is_fixed = s->is_fixed || r->definitions[i].page_bytes > 0;
                        s->is_unsettled = s->is_unsettled || r->state == REQUEST_ACTIVATING ||
                                          r->state == REQUEST_RELEASING;
                }
}

/* What is on huge pages stays where it is; what is not settled may be elsewhere in a moment. */
static void add_vm(struct spread *s, const struct machine *v)
{
        if (!consolidate_may_move(s->m, v)) {
                s->passed_over += machine_state(v) == API_VM_STATE_RUNNING;
                return;
        }
        s->vm = s->n_vms;
        s->vms[s->n_vms++] = v;
        s->is_fixed = s->is_unsettled = false;
        hypervisor_each(s->m->hv, add_amounts, s);
        if (!s->is_fixed && !s->is_unsettled)
                return;
        s->passed_over += s->is_unsettled;
        memset(s->amounts + s->vm * s->n_units, 0, s->n_units * sizeof(*s->amounts));
        s->n_vms--;
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
                if (!only || strcmp(only, v->definition.name) == 0)
                        add_vm(s, v);
        }
        return s;
}

/* ---- the answer ---- */

struct reply {
        struct http_request *req;
        json_t *body;
};

static void on_recorded(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct reply *a = call;
        (void)r;
        if (err && err->reason != REASON_CANCELLED) { /* what was not recorded was not decided */
                struct err ignored = {0};
                consolidate_stop(m);
                (void)consolidate_start(m, &ignored);
        }
        if (err) {
                json_decref(a->body);
                api_refuse(a->req, err);
        } else {
                api_reply(a->req, 200, a->body);
        }
        g_free(a);
}

static void reply_when_recorded(struct meted *m, struct http_request *req, json_t *body)
{
        struct reply *a = g_new0(struct reply, 1);
        *a = (struct reply){req, body};
        meted_wait(m, 0, WAIT_COMMIT, on_recorded, a);
        meted_changed(m);
}

static json_t *show(const struct spread *s, bool is_dry, size_t scattered)
{
        struct api_consolidation *out = g_new0(struct api_consolidation, 1);
        const struct component *all = s->m->inventory.components;
        out->dry_run = is_dry;
        out->scattered = (int64_t)scattered;
        out->passed_over = (int64_t)s->passed_over;
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

static void start(struct meted *m, const struct spread *s, int64_t within_ms)
{
        struct consolidation *c = consolidation_new(m);
        int64_t bytes = 0;
        for (size_t k = 0; k < s->n_steps; k++) {
                bytes += s->steps[k].amount;
                if (k > 0 && s->steps[k].has == s->steps[k - 1].has)
                        continue; /* all of one VM's go to the same */
                struct api_consolidation_vm *t = &c->row.vms[c->row.n_vms++];
                (void)STR_COPY(t->vm, s->vms[s->steps[k].has]->definition.name);
                (void)STR_COPY(t->to, m->inventory.components[s->components[s->steps[k].to]].id);
                t->state = API_CONSOLIDATION_TURN_WAITING;
        }
        c->row.state = API_CONSOLIDATION_ENDED_UNDER_WAY;
        c->row.asked_ms = loop_now_ms();
        c->row.deadline_ms =
                c->row.asked_ms +
                (within_ms > 0 ? within_ms : pieces_bound_ms(SLOWLY * bytes, m->config.relocate_rate));
        consolidation_free(m->consolidation);
        m->consolidation = c;
        consolidate_begin(c);
}

static int check(struct meted *m, const struct api_consolidate *in, bool is_dry, struct err *err)
{
        const struct consolidation *c = m->consolidation;
        if (in->has_vm && !machine_find(m, in->vm))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", in->vm);
        if (!is_dry && c && !c->row.has_ended_ms)
                return err_set(err, REASON_BUSY, EBUSY,
                               "VMs are being brought together, %.63s just now: ask again when that is done "
                               "('mete host consolidate --show')",
                               c->at < c->row.n_vms ? c->row.vms[c->at].vm : "none");
        return 0;
}

void consolidate_ask(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_consolidate in;
        struct err err = {0};
        int bad = api_consolidate_parse(body, &in, &err);
        bool is_dry = !bad && in.has_dry_run && in.dry_run;
        bad = bad ? bad : check(m, &in, is_dry, &err);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        struct spread *s = spread_of(m, in.has_vm ? in.vm : NULL);
        size_t scattered = consolidate_plan(s->amounts, s->n_vms, s->free, s->n_units,
                                            in.has_limit_bytes ? in.limit_bytes : 0, CONSOLIDATE_VMS_MAX,
                                            s->steps, &s->n_steps);
        json_t *answer = show(s, is_dry, scattered);
        if (!is_dry && s->n_steps > 0) {
                start(m, s, in.has_within_ms ? in.within_ms : 0);
                reply_when_recorded(m, req, answer);
        } else {
                api_reply(req, 200, answer);
        }
        spread_free(s);
}

void consolidate_cancel(struct meted *m, struct http_request *req)
{
        struct err err = {0};
        if (m->consolidation)
                consolidate_end(m->consolidation, API_CONSOLIDATION_ENDED_CANCELLED);
        json_t *v = consolidate_show(m, &err);
        if (v)
                reply_when_recorded(m, req, v);
        else
                api_refuse(req, &err);
}

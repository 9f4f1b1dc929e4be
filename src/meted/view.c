/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "meted/health.h"
#include "meted/machine.h"

enum { PAGE = 64, EVENTS_PAGE_MAX = 256 };

static json_t *done(json_t *v, struct err *err)
{
        if (!v)
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the answer");
        return v;
}

json_t *view_health(const struct meted *m)
{
        struct api_health h = {.ok = !m->is_broken && keeper_info(m->keeper) && m->adopted};
        (void)snprintf(h.version, sizeof(h.version), "%s", METE_VERSION);
        h.uptime_ms = loop_mono_ms() - m->ready_mono_ms;
        if (!h.ok) {
                h.has_problem = true;
                (void)snprintf(h.problem, sizeof(h.problem), "%s",
                               m->is_broken ? m->problem.sentence
                               : !keeper_info(m->keeper)
                                       ? "mete-keeper cannot be reached"
                                       : "mete-keeper has not said yet which VMMs are running");
        }
        return api_health_emit(&h);
}

/* ---- components ---- */

static void one_component(const struct meted *m, size_t i, struct api_component *c)
{
        const struct component *from = &m->inventory.components[i];
        const struct ledger *l = hypervisor_ledger(m->hv);
        (void)snprintf(c->id, sizeof(c->id), "%.31s", from->id);
        c->kind = (enum api_component_kind)from->kind;
        c->node = from->node;
        (void)snprintf(c->unit, sizeof(c->unit), "%s", component_kinds[from->kind].unit);
        c->capacity = from->owned;
        c->free = ledger_owned(l, (uint32_t)i) - ledger_claimed(l, (uint32_t)i);
        if (c->free < 0)
                c->free = 0;
        c->claimed = ledger_claimed(l, (uint32_t)i);
        c->has_state = health_text(m, i, c->state, sizeof(c->state), &c->until_ms);
        c->has_until_ms = c->until_ms > 0;
        for (size_t k = 0; k < COMPONENT_PAGES && from->page_bytes[k]; k++)
                c->page_bytes[c->n_page_bytes++] = from->page_bytes[k];
        c->has_source = from->kind == COMPONENT_NET || from->kind == COMPONENT_BLOCK ||
                        component_is_of_class(from->kind);
        if (c->has_source)
                (void)snprintf(c->source, sizeof(c->source), "%s",
                               from->kind == COMPONENT_NET     ? "[net] rate in mete.conf, less a fiftieth"
                               : from->kind == COMPONENT_BLOCK ? "[block] rate in mete.conf"
                                                               : "resctrl, less what everybody else keeps");
}

static size_t components_out(const struct meted *m, struct api_component *to, size_t max)
{
        size_t n = 0;
        for (size_t i = 0; i < m->inventory.n && n < max; i++)
                if (m->inventory.components[i].owned > 0)
                        one_component(m, i, &to[n++]);
        return n;
}

static bool has_huge_pages(const struct meted *m)
{
        for (size_t i = 0; i < m->inventory.n; i++)
                if (m->inventory.components[i].page_bytes[0])
                        return true;
        return false;
}

json_t *view_host(const struct meted *m)
{
        struct api_host *h = g_new0(struct api_host, 1);
        const struct api_keeper_info *k = keeper_info(m->keeper);
        (void)snprintf(h->name, sizeof(h->name), "%s", m->config.name);
        (void)snprintf(h->accelerator, sizeof(h->accelerator), "%s",
                       api_accelerator_name(m->probe.accelerator));
        (void)snprintf(h->qemu, sizeof(h->qemu), "%s", m->probe.version);
        (void)snprintf(h->cpu_provider, sizeof(h->cpu_provider), "%s",
                       k ? api_cpu_provider_name(k->cpu_provider) : "unknown");
        h->cpu_overcommit = m->config.cpu_overcommit;
        h->has_ram_dir = k && k->has_ram_dir;
        if (h->has_ram_dir)
                memcpy(h->ram_dir, k->ram_dir, sizeof(h->ram_dir));
        h->n_components = components_out(m, h->components, ARRAY_N(h->components));
        for (int id = 1; id < PARAMETER_N && h->n_parameters < ARRAY_N(h->parameters); id++) {
                const struct parameter_row *row = &parameter_rows[id];
                if (id == PARAMETER_PAGE && !has_huge_pages(m))
                        continue;
                struct api_parameter_kind *p = &h->parameters[h->n_parameters++];
                p->kind = (enum api_component_kind)row->kind;
                (void)snprintf(p->name, sizeof(p->name), "%s", row->name);
                (void)snprintf(p->relation, sizeof(p->relation), "%s",
                               row->flag ? "" : relation_name(row->relation));
                (void)snprintf(p->unit, sizeof(p->unit), "%s", row->unit ? row->unit : "");
                (void)snprintf(p->source, sizeof(p->source), "%s", row->source);
                (void)snprintf(p->provider, sizeof(p->provider), "%s", row->provider);
                (void)snprintf(p->description, sizeof(p->description), "%s", row->description);
        }
        h->n_fallbacks = meted_fallbacks(m, NULL, h->fallbacks, ARRAY_N(h->fallbacks));
        json_t *out = api_host_emit(h);
        g_free(h);
        return out;
}

/* ---- VMs ---- */

struct vcpus {
        const struct machine *v;
        struct api_vm *to;
        uint64_t seen;
        int64_t memory_bytes, net_bps, disk_bytes;
};

static void changed_of(const struct meted *m, const struct request *r, struct api_vm *to)
{
        const char *changed = r->state == REQUEST_GRANTED ? hypervisor_changed(m->hv, r->serial) : "";
        if (*changed && to->n_changed < ARRAY_N(to->changed))
                (void)snprintf(to->changed[to->n_changed++], sizeof(to->changed[0]), "%.63s: %.190s",
                               r->kind == REQUEST_VM ? "base" : r->id, changed);
}

static void vcpus_of(const struct request *r, void *arg)
{
        struct vcpus *s = arg;
        if (strcmp(r->vm, s->v->definition.name) != 0 || !request_is_live(r))
                return;
        changed_of(s->v->m, r, s->to);
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *c = &r->definitions[i];
                const struct component *on = &s->v->m->inventory.components[c->component];
                if (on->kind == COMPONENT_MEMORY && r->state != REQUEST_OFFERED)
                        s->memory_bytes += c->amount;
                if (on->kind == COMPONENT_NET && r->state != REQUEST_OFFERED)
                        s->net_bps += c->amount;
                if (on->kind == COMPONENT_BLOCK && r->state != REQUEST_OFFERED)
                        s->disk_bytes += c->amount;
                if (on->kind != COMPONENT_CPU || c->slot < 0 || r->state == REQUEST_OFFERED ||
                    s->to->n_vcpus == ARRAY_N(s->to->vcpus))
                        continue;
                struct api_vcpu *to = &s->to->vcpus[s->to->n_vcpus++];
                to->vcpu = c->slot;
                (void)snprintf(to->use, sizeof(to->use), "%s", r->kind == REQUEST_VM ? "base" : r->id);
                to->has_component = true;
                (void)snprintf(to->component, sizeof(to->component), "%.31s", on->id);
                to->has_share_milli = true;
                to->share_milli = c->amount;
                s->seen |= UINT64_C(1) << c->slot;
        }
}

static void kept_of(const struct machine *v, struct api_vm *to)
{
        const struct request *r = hypervisor_kept(v->m->hv, v->definition.name);
        to->has_kept_since_ms = r != NULL;
        to->kept_since_ms = r ? r->start_ms : 0;
        for (size_t i = 0; r && i < r->n_definitions && to->n_kept < ARRAY_N(to->kept); i++) {
                const struct definition *d = &r->definitions[i];
                struct api_kept *k = &to->kept[to->n_kept];
                if (!d->host_active)
                        continue;
                (void)snprintf(k->item, sizeof(k->item), "%s%d", virtual_kind_name(d->kind), (int)d->slot);
                (void)snprintf(k->component, sizeof(k->component), "%.31s",
                               v->m->inventory.components[d->component].id);
                k->amount = d->amount;
                to->n_kept++;
        }
}

void view_vm(const struct machine *v, struct api_vm *to)
{
        const struct api_vm_definition *d = &v->definition;
        memset(to, 0, sizeof(*to));
        (void)snprintf(to->name, sizeof(to->name), "%s", d->name);
        (void)snprintf(to->uuid, sizeof(to->uuid), "%s", d->uuid);
        to->state = machine_state(v);
        to->has_ended = *v->ended != '\0';
        (void)snprintf(to->ended, sizeof(to->ended), "%s", v->ended);
        to->has_pid = v->pid > 0;
        to->pid = v->pid;
        to->cpus = d->cpus;
        to->cpus_max = d->cpus_max;
        to->share_milli = d->share_milli;
        to->has_cpu_ceiling_milli = d->has_cpu_ceiling_milli;
        to->cpu_ceiling_milli = d->cpu_ceiling_milli;
        to->memory_bytes = d->memory_bytes;
        to->memory_max_bytes = d->memory_max_bytes;
        to->unit_bytes = d->unit_bytes;
        (void)snprintf(to->machine, sizeof(to->machine), "%s", d->machine);
        (void)snprintf(to->cpu_model, sizeof(to->cpu_model), "%s", d->cpu_model);
        (void)snprintf(to->accelerator, sizeof(to->accelerator), "%s", api_accelerator_name(d->accelerator));
        (void)snprintf(to->qemu, sizeof(to->qemu), "%s", d->qemu_version);
        to->has_mac = *d->mac != '\0';
        (void)snprintf(to->mac, sizeof(to->mac), "%s", d->mac);
        (void)snprintf(to->memory_mechanism, sizeof(to->memory_mechanism), "%s",
                       api_memory_mechanism_name(d->memory_mechanism));
        (void)snprintf(to->cpu_mechanism, sizeof(to->cpu_mechanism), "%s",
                       api_cpu_mechanism_name(d->cpu_mechanism));
        (void)snprintf(to->agent, sizeof(to->agent), "%s", v->agent_version);
        struct vcpus s = {.v = v, .to = to};
        hypervisor_each(v->m->hv, vcpus_of, &s);
        to->memory_now_bytes = s.memory_bytes;
        to->has_network = to->has_net_rate_bps = to->has_net_now_bps = d->has_network;
        (void)snprintf(to->network, sizeof(to->network), "%s", d->network);
        to->net_rate_bps = d->net_rate_bps;
        to->has_net_ceiling_bps = d->has_net_ceiling_bps;
        to->net_ceiling_bps = d->net_ceiling_bps;
        to->net_now_bps = s.net_bps;
        to->has_disk_rate_bytes = d->has_disk_rate_bytes;
        to->disk_rate_bytes = d->disk_rate_bytes;
        to->has_disk_ceiling_bytes = d->has_disk_ceiling_bytes;
        to->disk_ceiling_bytes = d->disk_ceiling_bytes;
        to->has_disk_now_bytes = s.disk_bytes > 0;
        to->disk_now_bytes = s.disk_bytes;
        for (int slot = 0; v->vm && slot < d->cpus_max && to->n_vcpus < ARRAY_N(to->vcpus); slot++) {
                if (s.seen & (UINT64_C(1) << slot) || !vm_cpu(v->vm, slot)->plugged)
                        continue;
                struct api_vcpu *p = &to->vcpus[to->n_vcpus++];
                p->vcpu = slot;
                (void)snprintf(p->use, sizeof(p->use), "parked");
        }
        to->has_page_bytes = d->has_page_bytes;
        to->page_bytes = d->page_bytes;
        to->has_prealloc = to->prealloc = d->prealloc;
        kept_of(v, to);
        to->n_fallbacks = meted_fallbacks(v->m, v, to->fallbacks, ARRAY_N(to->fallbacks));
}

json_t *view_vms(struct meted *m, const char *query, struct err *err)
{
        struct api_page_query q = {0};
        if (api_page_query_read(query, &q, err))
                return NULL;
        size_t limit = q.has_limit ? (size_t)q.limit : PAGE, n = 0;
        struct api_vm *one = g_new(struct api_vm, 1);
        json_t *out = json_object(), *list = json_array();
        json_object_set_new(out, "vms", list);
        for (guint i = 0; i < m->machines->len; i++) {
                const struct machine *v = g_ptr_array_index(m->machines, i);
                if (q.has_after && strcmp(v->definition.name, q.after) <= 0)
                        continue;
                if (n == limit) {
                        json_object_set(out, "next", json_object_get(json_array_get(list, n - 1), "name"));
                        break;
                }
                view_vm(v, one);
                json_array_append_new(list, api_vm_emit(one));
                n++;
        }
        g_free(one);
        return done(out, err);
}

/* ---- what is held ---- */

static void holder_of(const struct request *r, char *to, size_t size)
{
        (void)snprintf(to, size, "%.127s", r->key);
}

/* Lists that go by the serial of requests: a page begins behind the serial that the page before named. */
struct page {
        const struct meted *m;
        json_t *list;
        const char *vm; /* NULL: of all */
        uint64_t after, last;
        size_t limit;
        bool more;
};

static bool takes(struct page *p, const struct request *r, bool is_wanted)
{
        if (r->serial <= p->after || !is_wanted || p->more || (p->vm && strcmp(r->vm, p->vm) != 0))
                return false;
        if (json_array_size(p->list) >= p->limit) {
                p->more = true;
                return false;
        }
        p->last = r->serial;
        return true;
}

static void claim_out(struct page *p, const struct request *r, claim_id id)
{
        const struct claim *c = id ? ledger_find(hypervisor_ledger(p->m->hv), id) : NULL;
        struct api_claim to = {0};
        if (!c)
                return;
        (void)snprintf(to.component, sizeof(to.component), "%.31s",
                       p->m->inventory.components[c->component].id);
        to.amount = c->amount;
        holder_of(r, to.holder, sizeof(to.holder));
        to.state = (enum api_claim_state)c->state;
        to.start_ms = c->start_ms;
        to.has_end_ms = c->end_ms != LEDGER_OPEN;
        to.end_ms = to.has_end_ms ? c->end_ms : 0;
        json_array_append_new(p->list, api_claim_emit(&to));
}

/* Of what moves both: where it goes to, and what it has yet to leave. */
static void claims_out(const struct request *r, void *arg)
{
        struct page *p = arg;
        if (!takes(p, r, request_is_live(r) || r->state == REQUEST_RECLAIMING)) /* which may be held */
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                claim_out(p, r, r->definitions[i].claim);
                claim_out(p, r, r->definitions[i].claim_from);
        }
}

static void lease_out(const struct request *r, void *arg)
{
        static const enum api_lease_state state_out[REQUEST_STATE_N] = {
                [REQUEST_OFFERED] = API_LEASE_STATE_OFFERED,
                [REQUEST_ACTIVATING] = API_LEASE_STATE_ACTIVATING,
                [REQUEST_GRANTED] = API_LEASE_STATE_GRANTED,
                [REQUEST_RELEASING] = API_LEASE_STATE_RELEASING,
        };
        struct page *p = arg;
        if (!takes(p, r, request_is_live(r)))
                return;
        struct need needs[NEEDS_MAX];
        struct api_lease to = {.state = state_out[r->state], .since_ms = r->asked_ms};
        holder_of(r, to.holder, sizeof(to.holder));
        (void)snprintf(to.request, sizeof(to.request), "%s", r->id);
        to.has_application = *r->application != '\0';
        (void)snprintf(to.application, sizeof(to.application), "%s", r->application);
        request_granted_needs(r, needs);
        for (size_t i = 0; i < r->n_needs; i++)
                (void)need_print(&needs[i], to.needs[to.n_needs++]);
        int64_t end = r->state == REQUEST_OFFERED ? r->offer_end_ms : r->end_ms;
        to.has_end_ms = end != LEDGER_OPEN;
        to.end_ms = to.has_end_ms ? end : 0;
        json_array_append_new(p->list, api_lease_emit(&to));
}

static void definitions_out(const struct request *r, void *arg)
{
        struct page *p = arg;
        if (r->kind == REQUEST_RESERVATION || r->state == REQUEST_OFFERED ||
            !takes(p, r, !request_is_final(r)))
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *d = &r->definitions[i];
                struct api_definition to = {.kind = (enum api_virtual_kind)d->kind,
                                            .amount = d->amount,
                                            .prepares = d->prepares,
                                            .host_active = d->host_active,
                                            .active = d->active,
                                            .configured = d->configured,
                                            .has_exclusive = d->exclusive,
                                            .exclusive = d->exclusive,
                                            .has_page_bytes = d->page_bytes > 0,
                                            .page_bytes = d->page_bytes,
                                            .held = d->way == WAY_HELD};
                (void)snprintf(to.vm, sizeof(to.vm), "%s", r->vm);
                (void)snprintf(to.item, sizeof(to.item), "%s%d", virtual_kind_name(d->kind), (int)d->slot);
                (void)snprintf(to.component, sizeof(to.component), "%.31s",
                               p->m->inventory.components[d->component].id);
                holder_of(r, to.holder, sizeof(to.holder));
                json_array_append_new(p->list, api_definition_emit(&to));
        }
}

static json_t *by_serial(struct meted *m, const struct api_definition_query *q, const char *name,
                         void (*fn)(const struct request *r, void *arg), struct err *err)
{
        struct page p = {
                .m = m, .vm = q->has_vm ? q->vm : NULL, .limit = q->has_limit ? (size_t)q->limit : PAGE};
        char *end = NULL;
        if (q->has_after) {
                p.after = strtoull(q->after, &end, 10);
                if (end == q->after || *end) {
                        (void)err_set(err, REASON_INVALID, EINVAL,
                                      "after: must be the 'next' of the page before");
                        return NULL;
                }
        }
        json_t *out = json_object();
        p.list = json_array();
        json_object_set_new(out, name, p.list);
        hypervisor_each(m->hv, fn, &p);
        if (p.more) {
                char next[32];
                (void)snprintf(next, sizeof(next), "%" PRIu64, p.last);
                json_object_set_new(out, "next", json_string(next));
        }
        return done(out, err);
}

/* The lists that cannot be asked for by VM. */
static int page_of(const char *query, struct api_definition_query *ret, struct err *err)
{
        struct api_page_query q = {0};
        int r = api_page_query_read(query, &q, err);
        if (r < 0)
                return r;
        *ret = (struct api_definition_query){
                .has_after = q.has_after, .has_limit = q.has_limit, .limit = q.limit};
        (void)STR_COPY(ret->after, q.after);
        return 0;
}

json_t *view_ledger(struct meted *m, const char *query, struct err *err)
{
        struct api_definition_query q;
        if (page_of(query, &q, err))
                return NULL;
        ledger_advance((struct ledger *)hypervisor_ledger(m->hv), loop_now_ms());
        json_t *out = by_serial(m, &q, "claims", claims_out, err), *list = json_array();
        if (!out) {
                json_decref(list);
                return NULL;
        }
        json_object_set_new(out, "components", list);
        for (size_t i = 0; !q.has_after && i < m->inventory.n; i++) {
                struct api_component c = {0};
                if (m->inventory.components[i].owned <= 0)
                        continue;
                one_component(m, i, &c);
                json_array_append_new(list, api_component_emit(&c));
        }
        return out;
}

json_t *view_leases(struct meted *m, const char *query, struct err *err)
{
        struct api_definition_query q;
        return page_of(query, &q, err) ? NULL : by_serial(m, &q, "leases", lease_out, err);
}

json_t *view_definitions(struct meted *m, const char *query, struct err *err)
{
        struct api_definition_query q = {0};
        return api_definition_query_read(query, &q, err)
                       ? NULL
                       : by_serial(m, &q, "definitions", definitions_out, err);
}

/* ---- events ---- */

json_t *view_event(const struct store_event *e)
{
        struct api_event to = {.seq = e->seq, .at_ms = e->at_ms};
        (void)snprintf(to.trace, sizeof(to.trace), "%s", e->trace);
        (void)snprintf(to.subject, sizeof(to.subject), "%.127s", e->subject);
        (void)snprintf(to.event, sizeof(to.event), "%.31s", e->event);
        (void)snprintf(to.text, sizeof(to.text), "%s", e->text);
        return api_event_emit(&to);
}

json_t *view_events(struct meted *m, const struct api_event_query *q, struct err *err)
{
        int limit = q->has_limit ? (int)q->limit : PAGE;
        struct store_event *events = g_new(struct store_event, EVENTS_PAGE_MAX);
        int n = store_events(m->store, q->has_after ? q->after : 0, q->has_trace ? q->trace : NULL, events,
                             limit, err);
        json_t *out = NULL;
        if (n >= 0) {
                json_t *list = json_array();
                out = json_object();
                json_object_set_new(out, "events", list);
                for (int i = 0; i < n; i++)
                        json_array_append_new(list, view_event(&events[i]));
        }
        g_free(events);
        return out;
}

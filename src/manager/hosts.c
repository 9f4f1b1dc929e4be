/* SPDX-License-Identifier: Apache-2.0 */
/* manager/hosts.c - the hosts of hosts.conf. Each is looked at over and over: what it has, what is free, its
 * VMs. What is known is what was heard last, and only of a host that answers it is used.
 *
 * A host is somebody in hosts.conf with the pinned key, under the name in its certificate, as among peers. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "manager/manager.h"

enum { LOOK_MS = 10000, LONG_MS = 300000, PAGE = 64, VMS_MAX = 4 * DRAIN_VMS_MAX };
static const int64_t AMOUNT_MAX = (INT64_C(1) << 53) - 1;

struct fleet {
        struct peers peers;
        struct fleet_host *list; /* of peers.list, in its order */
        size_t n;
};

/* ---- looking ---- */

static void settle(struct fleet_host *h, const struct err *problem)
{
        bool is_reachable = problem == NULL;
        if (!h->was_asked || is_reachable != h->is_reachable) {
                char text[256];
                (void)snprintf(text, sizeof(text), "%s: %s", h->entry->name,
                               problem ? problem->sentence : "it answers");
                manager_say(h->m, "hosts", h->entry->name, is_reachable ? "host-there" : "host-away", text);
        }
        h->was_asked = true;
        h->is_reachable = is_reachable;
        h->problem = problem ? *problem : (struct err){0};
        loop_timer_in(&h->ask, h->m->config.poll_ms);
}

bool fleet_refusal(const struct http_answer *answer, const char *host, struct err *err)
{
        struct api_error *e = g_new0(struct api_error, 1);
        json_t *v = json_read(answer->body, answer->body_n, NULL);
        bool is_said = v && api_error_parse(v, e, NULL) == 0;
        if (is_said)
                (void)err_set(err, e->reason, EREMOTEIO, "%s", e->message);
        else
                (void)err_set(err, REASON_INVALID, EPROTO,
                              "%s answers with status %d, and not as a meted would", host, answer->status);
        json_decref(v);
        g_free(e);
        return is_said;
}

int fleet_check_peer(const char *host, const struct cert_id *id, struct err *err)
{
        if (id->role != CERT_HYPERVISOR || strcmp(id->name, host) != 0)
                return err_set(err, REASON_DENIED, EKEYREJECTED,
                               "its certificate is that of %s %s, not of %s", cert_role_name(id->role),
                               id->name, host);
        return 0;
}

/* The JSON of an answer that is one, or NULL. */
static json_t *body_of(struct fleet_host *h, const struct http_answer *answer, const struct cert_id *peer,
                       const struct err *err, struct err *bad)
{
        h->call = NULL;
        if (err) {
                *bad = *err;
                return NULL;
        }
        if (peer && fleet_check_peer(h->entry->name, peer, bad))
                return NULL;
        if (answer->status != 200) {
                fleet_refusal(answer, h->entry->name, bad);
                return NULL;
        }
        return json_read(answer->body, answer->body_n, bad);
}

/* Sums of what a host says stay numbers that a record can have. */
static int64_t plus(int64_t sum, int64_t more)
{
        return more < AMOUNT_MAX - sum ? sum + more : AMOUNT_MAX;
}

/* What is no name cannot be asked for, or recorded. */
static void take_vm(struct fleet_host *h, const struct api_vm *in)
{
        if (!str_is_name(in->name))
                return;
        struct fleet_vm v = {.runs = in->state == API_VM_STATE_RUNNING, .memory_bytes = in->memory_now_bytes};
        (void)STR_COPY(v.name, in->name);
        for (size_t i = 0; i < in->n_vcpus; i++)
                if (strcmp(in->vcpus[i].use, "parked") != 0 && in->vcpus[i].has_share_milli)
                        v.cpu_milli = plus(v.cpu_milli, in->vcpus[i].share_milli);
        g_array_append_val(h->coming, v);
}

static void ask_vms(struct fleet_host *h, const char *after);

static void on_vms(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                   const struct err *err)
{
        struct fleet_host *h = arg;
        struct err bad = {0};
        json_t *v = body_of(h, answer, peer, err, &bad);
        struct api_vm_page *page = g_new0(struct api_vm_page, 1);
        if (v && api_vm_page_parse(v, page, &bad) == 0) {
                for (size_t i = 0; i < page->n_vms; i++)
                        take_vm(h, &page->vms[i]);
                bool is_more = page->has_next && page->n_vms > 0;
                if (is_more && strcmp(page->next, h->page) > 0 && h->coming->len < VMS_MAX) {
                        (void)STR_COPY(h->page, page->next);
                        ask_vms(h, page->next);
                } else {
                        GArray *old = h->vms;
                        h->vms = h->coming;
                        h->coming = old;
                        h->has_more = is_more;
                        h->looked_mono_ms = h->asks_mono_ms;
                        h->heard_ms = loop_now_ms();
                        settle(h, NULL);
                }
        } else {
                settle(h, &bad);
        }
        g_free(page);
        json_decref(v);
}

static void ask_vms(struct fleet_host *h, const char *after)
{
        struct err err = {0};
        g_autofree char *key = *after ? g_uri_escape_string(after, NULL, FALSE) : NULL;
        g_autofree char *path =
                g_strdup_printf("/v1/vms?limit=%d%s%s", PAGE, key ? "&after=" : "", key ? key : "");
        h->call = fleet_call(h->m, h->entry->name, "GET", path, NULL, false, on_vms, h, &err);
        if (!h->call)
                settle(h, &err);
}

static void take_host(struct fleet_host *h, const struct api_host *in)
{
        (void)STR_COPY(h->qemu, in->qemu);
        (void)STR_COPY(h->accelerator, in->accelerator);
        h->cpu_milli = h->cpu_free_milli = h->memory_bytes = h->memory_free_bytes = 0;
        for (size_t i = 0; i < in->n_components; i++) {
                const struct api_component *c = &in->components[i];
                if (c->kind == API_COMPONENT_KIND_CPU) {
                        h->cpu_milli = plus(h->cpu_milli, c->capacity);
                        h->cpu_free_milli = plus(h->cpu_free_milli, c->free);
                } else if (c->kind == API_COMPONENT_KIND_MEMORY) {
                        h->memory_bytes = plus(h->memory_bytes, c->capacity);
                        h->memory_free_bytes = plus(h->memory_free_bytes, c->free);
                }
        }
}

static void on_host(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                    const struct err *err)
{
        struct fleet_host *h = arg;
        struct err bad = {0};
        json_t *v = body_of(h, answer, peer, err, &bad);
        struct api_host *in = g_new0(struct api_host, 1);
        bool is_good = v && api_host_parse(v, in, &bad) == 0;
        if (is_good && strcmp(in->name, h->entry->name) != 0) {
                (void)err_set(&bad, REASON_INVALID, EPROTO, "%s calls itself %s", h->entry->name, in->name);
                is_good = false;
        }
        if (is_good) {
                take_host(h, in);
                g_array_set_size(h->coming, 0);
                *h->page = '\0';
                ask_vms(h, "");
        } else {
                settle(h, &bad);
        }
        g_free(in);
        json_decref(v);
}

static void ask(void *arg)
{
        struct fleet_host *h = arg;
        struct err err = {0};
        h->asks_mono_ms = loop_mono_ms();
        h->call = fleet_call(h->m, h->entry->name, "GET", "/v1/host", NULL, false, on_host, h, &err);
        if (!h->call)
                settle(h, &err);
}

/* ---- the list ---- */

static void fleet_free(struct fleet *f)
{
        if (!f)
                return;
        for (size_t i = 0; i < f->n; i++) {
                loop_timer_cancel(&f->list[i].ask);
                if (f->list[i].call)
                        http_call_cancel(f->list[i].call);
                g_array_free(f->list[i].vms, TRUE);
                g_array_free(f->list[i].coming, TRUE);
        }
        g_free(f->list);
        peers_done(&f->peers);
        g_free(f);
}

static int load(struct manager *m, struct fleet **ret, struct err *err)
{
        struct fleet *f = g_new0(struct fleet, 1);
        int bad = peers_read(m->config.hosts, &f->peers, err);
        if (bad) {
                fleet_free(f);
                return bad;
        }
        f->list = g_new0(struct fleet_host, f->peers.n + 1);
        f->n = f->peers.n;
        for (size_t i = 0; i < f->n; i++) {
                struct fleet_host *h = &f->list[i];
                h->entry = &f->peers.list[i];
                h->m = m;
                h->vms = g_array_new(FALSE, TRUE, sizeof(struct fleet_vm));
                h->coming = g_array_new(FALSE, TRUE, sizeof(struct fleet_vm));
                loop_timer_init(&h->ask, ask, h);
                if (!h->entry->has_address)
                        (void)err_set(&h->problem, REASON_PEER_LOST, EHOSTUNREACH,
                                      "hosts.conf has no address of it");
        }
        *ret = f;
        return 0;
}

static void begin(struct fleet *f)
{
        for (size_t i = 0; i < f->n; i++)
                if (f->list[i].entry->has_address)
                        loop_timer_in(&f->list[i].ask, 0);
}

int fleet_start(struct manager *m, struct err *err)
{
        int bad = load(m, &m->fleet, err);
        if (!bad)
                begin(m->fleet);
        return bad;
}

void fleet_stop(struct manager *m)
{
        fleet_free(m->fleet);
        m->fleet = NULL;
}

void fleet_reload(struct manager *m)
{
        struct fleet *f = NULL;
        struct err err = {0};
        if (load(m, &f, &err)) {
                log_error("%s; the hosts stay as they were", err.sentence);
                return;
        }
        fleet_free(m->fleet);
        m->fleet = f;
        begin(f);
        log_info("%zu hosts in %s", f->n, m->config.hosts);
}

/* The list is read when this one leads: what is wrong with it is to be known before that. */
void fleet_check(const struct manager *m)
{
        struct peers hosts = {0};
        struct err err = {0};
        if (peers_read(m->config.hosts, &hosts, &err))
                log_error("%s; this one could not lead with it", err.sentence);
        else
                log_info("%zu hosts in %s", hosts.n, m->config.hosts);
        peers_done(&hosts);
}

struct fleet_host *fleet_nth(const struct manager *m, size_t i)
{
        return i < m->fleet->n ? &m->fleet->list[i] : NULL;
}

struct fleet_host *fleet_find(const struct manager *m, const char *name)
{
        for (size_t i = 0; i < m->fleet->n; i++)
                if (strcmp(m->fleet->list[i].entry->name, name) == 0)
                        return &m->fleet->list[i];
        return NULL;
}

size_t fleet_count(const struct manager *m, size_t *ret_reachable)
{
        *ret_reachable = 0;
        for (size_t i = 0; i < m->fleet->n; i++)
                *ret_reachable += m->fleet->list[i].is_reachable;
        return m->fleet->n;
}

const struct fleet_vm *fleet_vm(const struct fleet_host *h, const char *name)
{
        for (guint i = 0; i < h->vms->len; i++) {
                const struct fleet_vm *v = &g_array_index(h->vms, struct fleet_vm, i);
                if (strcmp(v->name, name) == 0)
                        return v;
        }
        return NULL;
}

struct fleet_host *fleet_of_vm(const struct manager *m, const char *vm, struct err *err)
{
        struct fleet_host *found = NULL;
        size_t n_away = 0;
        bool is_there = false;
        for (size_t i = 0; i < m->fleet->n; i++) {
                struct fleet_host *h = &m->fleet->list[i];
                const struct fleet_vm *v = h->is_reachable ? fleet_vm(h, vm) : NULL;
                n_away += !h->is_reachable;
                is_there = is_there || v;
                if (!v || !v->runs)
                        continue;
                if (found) {
                        (void)err_set(err, REASON_INVALID, EINVAL, "a VM %s runs on %s and one on %s", vm,
                                      found->entry->name, h->entry->name);
                        return NULL;
                }
                found = h;
        }
        if (!found && is_there)
                (void)err_set(err, REASON_STALE, ESTALE, "the VM %s does not run", vm);
        else if (!found && n_away > 0)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT,
                              "no host has a VM %s, and %zu of %zu hosts do not answer", vm, n_away,
                              m->fleet->n);
        else if (!found)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no host has a VM %s", vm);
        return found;
}

bool fleet_may(const struct manager *m, const struct fleet_host *h, const struct fleet_host *to)
{
        return h != to && to->is_reachable && strcmp(h->qemu, to->qemu) == 0 &&
               strcmp(h->accelerator, to->accelerator) == 0 && !drains_has(m, to->entry->name);
}

size_t fleet_any(const struct manager *m, const struct fleet_host *h, const struct fleet_vm *vm,
                 char (*ret)[ORDER_HOST], size_t max)
{
        const struct fleet_host *last = NULL;
        size_t n = 0;
        while (n < max) { /* the next smaller one each time: there are few of them */
                const struct fleet_host *best = NULL;
                for (size_t i = 0; i < m->fleet->n; i++) {
                        const struct fleet_host *to = &m->fleet->list[i];
                        bool is_behind = !last || to->memory_free_bytes < last->memory_free_bytes ||
                                         (to->memory_free_bytes == last->memory_free_bytes && to > last);
                        if (is_behind && fleet_may(m, h, to) && to->memory_free_bytes >= vm->memory_bytes &&
                            to->cpu_free_milli >= vm->cpu_milli &&
                            (!best || to->memory_free_bytes > best->memory_free_bytes))
                                best = to;
                }
                if (!best)
                        break;
                (void)str_copy(ret[n++], ORDER_HOST, best->entry->name);
                last = best;
        }
        return n;
}

struct http_call *fleet_call(struct manager *m, const char *host, const char *method, const char *path,
                             json_t *body, bool is_long, http_call_done_fn *done, void *arg, struct err *err)
{
        const struct fleet_host *h = fleet_find(m, host);
        struct http_call *call = NULL;
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        if (!h || !h->entry->has_address) {
                (void)err_set(err, REASON_PEER_LOST, EHOSTUNREACH, "hosts.conf has no address of %s", host);
        } else if (body && !text) {
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        } else {
                struct http_target to = {.address = h->entry->address, .files = &m->config.files};
                memcpy(to.pin, h->entry->pin, sizeof(to.pin));
                m->counters.calls++;
                call = http_call(is_long ? m->long_calls : m->calls, &to, method, path, text, n,
                                 is_long ? LONG_MS : LOOK_MS, done, arg, err);
        }
        free(text);
        json_decref(body);
        return call;
}

/* ---- what is shown ---- */

static void show(const struct fleet_host *h, struct api_fleet_host *to)
{
        char text[TCP_TEXT];
        *to = (struct api_fleet_host){.reachable = h->is_reachable};
        (void)STR_COPY(to->name, h->entry->name);
        to->has_address = h->entry->has_address;
        if (to->has_address)
                (void)STR_COPY(to->address, tcp_address_text(&h->entry->address, text));
        to->has_problem = h->problem.reason != 0;
        (void)STR_COPY(to->problem, h->problem.sentence);
        to->has_draining = to->draining = drains_has(h->m, h->entry->name);
        to->has_heard_ms = h->heard_ms > 0;
        to->heard_ms = h->heard_ms;
        if (!to->has_heard_ms)
                return;
        to->has_qemu = to->has_accelerator = to->has_cpu_milli = to->has_cpu_free_milli = true;
        to->has_memory_bytes = to->has_memory_free_bytes = to->has_vms = to->has_running = true;
        (void)STR_COPY(to->qemu, h->qemu);
        (void)STR_COPY(to->accelerator, h->accelerator);
        to->cpu_milli = h->cpu_milli;
        to->cpu_free_milli = h->cpu_free_milli;
        to->memory_bytes = h->memory_bytes;
        to->memory_free_bytes = h->memory_free_bytes;
        to->vms = h->vms->len;
        for (guint i = 0; i < h->vms->len; i++)
                to->running += g_array_index(h->vms, struct fleet_vm, i).runs;
}

json_t *fleet_view(const struct manager *m, const char *query, struct err *err)
{
        struct api_fleet_query q = {0};
        if (api_fleet_query_read(query, &q, err))
                return NULL;
        size_t limit = q.has_limit ? (size_t)q.limit : MANAGER_PAGE;
        struct api_fleet_host_page *page = g_new0(struct api_fleet_host_page, 1);
        for (size_t i = 0; i < m->fleet->n; i++) {
                const struct fleet_host *h = &m->fleet->list[i];
                if (q.has_after && strcmp(h->entry->name, q.after) <= 0)
                        continue;
                if (page->n_hosts == limit) {
                        page->has_next = true;
                        (void)STR_COPY(page->next, page->hosts[limit - 1].name);
                        break;
                }
                show(h, &page->hosts[page->n_hosts++]);
        }
        json_t *v = api_fleet_host_page_emit(page);
        g_free(page);
        return v;
}

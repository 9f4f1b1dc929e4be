/* SPDX-License-Identifier: Apache-2.0 */
/* manager/drains-plan.c - whether a host can be emptied: which VM goes where and in which order is decided in
 * core/drain.h, from what the hosts have and from what each VM's host says that its move takes (a dry run).
 * What hosts say is bounded here; no record may come of it that could not be read again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "manager/drains-internal.h"

void emptying_drop_dry(struct emptying *e)
{
        for (size_t i = 0; i < DRAIN_DRY_AT_ONCE; i++) {
                if (e->dry[i].call)
                        http_call_cancel(e->dry[i].call);
                e->dry[i].call = NULL;
        }
}

static int by_room(const void *a, const void *b)
{
        const struct fleet_host *x = *(struct fleet_host *const *)a, *y = *(struct fleet_host *const *)b;
        if (x->memory_free_bytes != y->memory_free_bytes)
                return x->memory_free_bytes > y->memory_free_bytes ? -1 : 1;
        return strcmp(x->entry->name, y->entry->name);
}

/* The hosts that VMs of h may go to, those with most room first, and what other drains leave of it. */
static size_t rooms_of(const struct emptying *e, const struct fleet_host *h, struct drain_room *rooms,
                       const struct fleet_host **hosts)
{
        const struct fleet_host *all[PEERS_MAX], *to;
        size_t n = 0;
        for (size_t i = 0; n < PEERS_MAX && (to = fleet_nth(e->m, i)) != NULL; i++)
                if (fleet_may(e->m, h, to))
                        all[n++] = to;
        if (n > 1)
                qsort(all, n, sizeof(*all), by_room);
        n = n < DRAIN_ROOMS_MAX ? n : DRAIN_ROOMS_MAX;
        for (size_t i = 0; i < n; i++) {
                hosts[i] = all[i];
                rooms[i] = (struct drain_room){all[i]->memory_free_bytes, all[i]->cpu_free_milli};
                drains_take_room(e->m, e->d.id, all[i]->entry->name, &rooms[i]);
        }
        return n;
}

static const char *const limit_names[] = {
        [DRAIN_FITS] = "", [DRAIN_MEMORY] = "memory", [DRAIN_CPU] = "cpu", [DRAIN_NOWHERE] = "hosts"};

static void assign(struct emptying *e, const struct fleet_host *h)
{
        const struct fleet_host *hosts[DRAIN_ROOMS_MAX];
        struct drain_room rooms[DRAIN_ROOMS_MAX];
        struct drain_item *items = g_new0(struct drain_item, DRAIN_VMS_MAX);
        size_t n = 0, n_rooms = rooms_of(e, h, rooms, hosts);
        for (size_t i = 0; i < e->d.n_vms; i++) {
                const struct api_drain_vm *v = &e->d.vms[i];
                if (v->state == API_DRAIN_VM_STATE_PLANNING)
                        items[n++] = (struct drain_item){.vm = i,
                                                         .memory_bytes = v->memory_bytes,
                                                         .cpu_milli = v->cpu_milli,
                                                         .may = n_rooms == 64 ? UINT64_MAX
                                                                              : (UINT64_C(1) << n_rooms) - 1};
        }
        (void)drain_assign(items, n, rooms, n_rooms);
        for (size_t i = 0; i < n; i++) {
                struct api_drain_vm *v = &e->d.vms[items[i].vm];
                char text[128];
                v->has_to = items[i].room >= 0;
                if (v->has_to) {
                        (void)STR_COPY(v->to, hosts[items[i].room]->entry->name);
                        continue;
                }
                (void)snprintf(text, sizeof(text), "no host has room for it; there is too little of: %s",
                               limit_names[items[i].limit]);
                emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, REASON_NO_CAPACITY, text);
                if (!e->d.has_limit)
                        (void)STR_COPY(e->d.limit, limit_names[items[i].limit]);
                e->d.has_limit = true;
        }
        g_free(items);
}

static void conclude(struct emptying *e)
{
        struct api_drain *d = &e->d;
        struct drain_item *items = g_new0(struct drain_item, DRAIN_VMS_MAX);
        struct api_drain_vm *sorted = g_new0(struct api_drain_vm, DRAIN_VMS_MAX);
        const struct api_drain_vm *worst = NULL;
        size_t n = 0, at = 0;
        for (size_t i = 0; i < d->n_vms; i++) {
                if (d->vms[i].state == API_DRAIN_VM_STATE_FAILED && !worst)
                        worst = &d->vms[i];
                if (d->vms[i].state == API_DRAIN_VM_STATE_PLANNED)
                        items[n++] = (struct drain_item){.vm = i, .predicted_ms = d->vms[i].predicted_ms};
        }
        char why[160] = "";
        enum reason reason = worst ? worst->reason : 0;
        if (worst)
                (void)snprintf(why, sizeof(why), "%s: %.90s", worst->vm, worst->sentence);
        bool is_in_time = drain_schedule(items, n, emptying_left_ms(e), &d->predicted_ms);
        for (size_t i = 0; i < n; i++) {
                sorted[at] = d->vms[items[i].vm];
                sorted[at].has_ends_ms = true;
                sorted[at++].ends_ms = items[i].ends_ms;
        }
        for (size_t i = 0; i < d->n_vms; i++)
                if (d->vms[i].state != API_DRAIN_VM_STATE_PLANNED)
                        sorted[at++] = d->vms[i];
        memcpy(d->vms, sorted, d->n_vms * sizeof(*sorted));
        g_free(sorted);
        g_free(items);
        d->has_predicted_ms = d->has_possible = true;
        d->possible = is_in_time && !worst;
        if (!is_in_time && !worst) {
                reason = REASON_TIMEOUT;
                d->has_limit = STR_COPY(d->limit, "time");
                (void)snprintf(why, sizeof(why), "it takes %lld ms, and there are %lld",
                               (long long)d->predicted_ms, (long long)emptying_left_ms(e));
        }
        if (d->has_dry_run && d->dry_run)
                emptying_settle(e, API_DRAIN_STATE_DRY_RUN, reason, "%s%s",
                                d->possible ? "it can be done" : "it cannot be done: ", why);
        else if (!d->possible)
                emptying_settle(e, API_DRAIN_STATE_IMPOSSIBLE, reason, "nothing was begun: %s", why);
        else
                emptying_settle(e, API_DRAIN_STATE_MOVING, 0, "%zu VMs are to move, which takes %lld ms", n,
                                (long long)d->predicted_ms);
}

/* The level of its dry run: an even part of the time, so that a fast move reserves no more than it takes. */
static struct level share_of(const struct emptying *e)
{
        int64_t n = 0;
        for (size_t i = 0; i < e->d.n_vms; i++)
                n += e->d.vms[i].has_to;
        int64_t total = emptying_left_ms(e) / (n > 0 ? n : 1),
                downtime = e->d.has_downtime_ms ? e->d.downtime_ms : 0;
        int64_t least = downtime > 0 ? downtime : 1; /* which is a part of it */
        return (struct level){.total_ms = total > least ? total : least, .downtime_ms = downtime};
}

struct level emptying_floor(const struct emptying *e)
{
        return (struct level){.total_ms = emptying_left_ms(e),
                              .downtime_ms = e->d.has_floor_downtime_ms ? e->d.floor_downtime_ms : 0};
}

static struct api_move_level level_out(const struct level *l)
{
        return (struct api_move_level){.has_total_ms = l->total_ms > 0,
                                       .total_ms = l->total_ms,
                                       .has_downtime_ms = l->downtime_ms > 0,
                                       .downtime_ms = l->downtime_ms};
}

/* What its host says that it takes: as it was asked, or by what it offers instead, the fastest of these. */
static void take_dry(struct emptying *e, struct api_drain_vm *v, const struct api_move *in)
{
        struct order policy = {.level = share_of(e), .floor = emptying_floor(e)};
        struct level best = {0};
        char text[200];
        bool is_kept = strcmp(in->state, "dry-run") == 0 && in->has_plan && in->plan.has_total_ms;
        if (is_kept) {
                v->predicted_ms = in->plan.total_ms.p90;
                v->has_downtime_ms = in->plan.has_downtime_ms;
                v->downtime_ms = in->plan.downtime_ms.p50;
                best = policy.level;
        }
        for (size_t i = 0; i < in->n_offers && !is_kept; i++) {
                const struct api_move_level *o = &in->offers[i].level;
                struct level l = {.total_ms = o->has_total_ms ? o->total_ms : 0,
                                  .downtime_ms = o->has_downtime_ms ? o->downtime_ms : 0};
                if (order_may_take(&policy, &l) && (best.total_ms == 0 || l.total_ms < best.total_ms)) {
                        best = l;
                        v->predicted_ms = l.total_ms;
                }
        }
        v->has_predicted_ms = v->has_level = best.total_ms > 0;
        v->level = level_out(&best);
        if (v->has_level) {
                emptying_set_vm(v, API_DRAIN_VM_STATE_PLANNED, 0, "");
                return;
        }
        (void)snprintf(text, sizeof(text), "%.120s%s%s",
                       in->has_sentence && *in->sentence ? in->sentence : "it cannot be moved so fast",
                       in->has_limit ? "; there is too little of: " : "", in->has_limit ? in->limit : "");
        emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, in->has_reason ? in->reason : REASON_NO_CAPACITY, text);
        if (!e->d.has_limit && in->has_limit)
                e->d.has_limit = STR_COPY(e->d.limit, in->limit);
}

static void ask_next(struct emptying *e);

static void on_dry(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                   const struct err *err)
{
        struct dry *dry = arg;
        struct emptying *e = dry->e;
        struct api_drain_vm *v = &e->d.vms[dry->vm];
        struct api_move *in = g_new0(struct api_move, 1);
        struct err bad = {0};
        json_t *body = NULL;
        dry->call = NULL;
        if (err)
                bad = *err;
        else if (peer && fleet_check_peer(e->d.host, peer, &bad))
                ; /* that is not who was asked */
        else if (answer->status != 200)
                fleet_refusal(answer, e->d.host, &bad);
        else if (!(body = json_read(answer->body, answer->body_n, &bad)) || api_move_parse(body, in, &bad))
                ; /* nothing that could be understood */
        else if (strcmp(in->vm, v->vm) != 0 || strcmp(in->peer, v->to) != 0)
                (void)err_set(&bad, REASON_INVALID, EPROTO, "%s answers with another move", e->d.host);
        else
                take_dry(e, v, in);
        if (bad.reason)
                emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, bad.reason, bad.sentence);
        json_decref(body);
        g_free(in);
        ask_next(e);
}

static bool ask_one(struct emptying *e, struct dry *dry, size_t vm)
{
        struct api_drain_vm *v = &e->d.vms[vm];
        struct level l = share_of(e);
        struct err err = {0};
        char path[128];
        struct api_vm_move out = {
                .has_level = true, .level = level_out(&l), .has_dry_run = true, .dry_run = true};
        (void)STR_COPY(out.to, v->to);
        (void)snprintf(path, sizeof(path), "/v1/vms/%s/move", v->vm);
        dry->vm = vm;
        dry->call =
                fleet_call(e->m, e->d.host, "POST", path, api_vm_move_emit(&out), true, on_dry, dry, &err);
        if (!dry->call)
                emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, err.reason, err.sentence);
        return dry->call != NULL;
}

static bool is_asked_for(const struct emptying *e, size_t vm)
{
        for (size_t i = 0; i < DRAIN_DRY_AT_ONCE; i++)
                if (e->dry[i].call && e->dry[i].vm == vm)
                        return true;
        return false;
}

/* What no dry run was made for yet; when there is none left, what it comes to. */
static void ask_next(struct emptying *e)
{
        bool is_busy = false;
        for (size_t i = 0; i < DRAIN_DRY_AT_ONCE; i++) {
                for (size_t vm = 0; vm < e->d.n_vms && !e->dry[i].call; vm++)
                        if (e->d.vms[vm].state == API_DRAIN_VM_STATE_PLANNING && !is_asked_for(e, vm))
                                (void)ask_one(e, &e->dry[i], vm);
                is_busy = is_busy || e->dry[i].call;
        }
        if (!is_busy)
                conclude(e);
}

static bool is_known(const struct manager *m)
{
        const struct fleet_host *h;
        for (size_t i = 0; (h = fleet_nth(m, i)) != NULL; i++)
                if (h->entry->has_address && !h->was_asked)
                        return false;
        return true;
}

/* More than one drain can be asked to move, or more than are known. */
static void refuse_many(struct emptying *e)
{
        bool is_dry = e->d.has_dry_run && e->d.dry_run;
        e->d.has_possible = true;
        e->d.possible = false;
        e->d.has_limit = STR_COPY(e->d.limit, "vms");
        emptying_settle(e, is_dry ? API_DRAIN_STATE_DRY_RUN : API_DRAIN_STATE_IMPOSSIBLE, REASON_UNSUPPORTED,
                        "nothing was begun: a drain moves at most %d VMs, and %s runs more", DRAIN_VMS_MAX,
                        e->d.host);
}

static void add_vms(struct emptying *e, const struct fleet_host *h, bool runs)
{
        for (guint i = 0; i < h->vms->len && e->d.n_vms < DRAIN_VMS_MAX; i++) {
                const struct fleet_vm *in = &g_array_index(h->vms, struct fleet_vm, i);
                if (in->runs != runs)
                        continue;
                struct api_drain_vm *v = &e->d.vms[e->d.n_vms++];
                *v = (struct api_drain_vm){.memory_bytes = in->memory_bytes, .cpu_milli = in->cpu_milli};
                (void)STR_COPY(v->vm, in->name);
                emptying_set_vm(v, runs ? API_DRAIN_VM_STATE_PLANNING : API_DRAIN_VM_STATE_STAYS, 0,
                                runs ? "" : "it does not run");
        }
}

void emptying_plan(struct emptying *e)
{
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        if (emptying_left_ms(e) == 0) {
                emptying_drop_dry(e);
                emptying_settle(e, API_DRAIN_STATE_FAILED, REASON_TIMEOUT,
                                "the time was over before it was planned");
                return;
        }
        if (e->is_asked) {
                loop_timer_in(&e->tick, emptying_left_ms(e));
                return;
        }
        if (!h || !h->is_reachable || !is_known(e->m)) {
                loop_timer_in(&e->tick, DRAIN_TICK_MS);
                return;
        }
        size_t running = 0;
        for (guint i = 0; i < h->vms->len; i++)
                running += g_array_index(h->vms, struct fleet_vm, i).runs;
        if (h->has_more || running > DRAIN_VMS_MAX) {
                refuse_many(e);
                return;
        }
        e->d.n_vms = 0;
        add_vms(e, h, true);
        add_vms(e, h, false);
        e->is_asked = true;
        loop_timer_in(&e->tick, emptying_left_ms(e));
        assign(e, h);
        ask_next(e);
}

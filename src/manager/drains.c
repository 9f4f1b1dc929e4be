/* SPDX-License-Identifier: Apache-2.0 */
/* manager/drains.c - hosts that are to be empty. Which VM goes where and in which order is decided in
 * core/drain.h, from what the hosts have and from what each VM's host says that its move takes (a dry run).
 * Then one order after the other is given, as all VMs leave by one link; each is recorded together with the
 * line of the drain that names it, so that a manager that starts anew finds it, or gives it with the same id.
 *
 * planning - moving - done, and from there to impossible, failed, cancelled, dry-run */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "manager/manager.h"

enum { TICK_MS = 500, DRY_AT_ONCE = 2, TRIES_MAX = 3 };

struct emptying;

/* A dry run that is under way. */
struct dry {
        struct emptying *e;
        size_t vm;
        struct http_call *call;
};

struct emptying {
        struct manager *m;
        struct api_drain d;      /* as it is recorded and shown */
        bool is_dirty, is_asked; /* is_asked: VMs have their hosts, and are asked what they take */
        struct dry dry[DRY_AT_ONCE];
        struct loop_timer tick;
        GList *askers;
};

static void on_tick(void *arg);

static struct emptying *emptying_new(struct manager *m)
{
        struct emptying *e = g_new0(struct emptying, 1);
        e->m = m;
        for (size_t i = 0; i < DRY_AT_ONCE; i++)
                e->dry[i].e = e;
        loop_timer_init(&e->tick, on_tick, e);
        return e;
}

static void drop_dry(struct emptying *e)
{
        for (size_t i = 0; i < DRY_AT_ONCE; i++) {
                if (e->dry[i].call)
                        http_call_cancel(e->dry[i].call);
                e->dry[i].call = NULL;
        }
}

static void emptying_free(void *arg)
{
        struct emptying *e = arg;
        struct err err = {0};
        (void)err_set(&err, REASON_BUSY, ECANCELED, "mete-manager stops; ask again");
        for (GList *l = e->askers; l; l = l->next)
                api_refuse(l->data, &err);
        g_list_free(e->askers);
        loop_timer_cancel(&e->tick);
        drop_dry(e);
        g_free(e);
}

static struct emptying *find(const struct manager *m, const char *id)
{
        return g_hash_table_lookup(m->drains, id);
}

static bool is_over(const struct emptying *e)
{
        return e->d.state >= API_DRAIN_STATE_DONE;
}

static void touch(struct emptying *e)
{
        e->is_dirty = true;
        manager_changed(e->m);
}

__attribute__((format(printf, 4, 5))) static void settle(struct emptying *e, enum api_drain_state to,
                                                         enum reason reason, const char *format, ...)
{
        va_list args;
        va_start(args, format);
        (void)vsnprintf(e->d.sentence, sizeof(e->d.sentence), format, args);
        va_end(args);
        e->d.has_sentence = true;
        e->d.state = to;
        e->d.has_reason = reason != 0;
        e->d.reason = reason;
        e->d.has_ended_ms = is_over(e);
        e->d.ended_ms = e->d.has_ended_ms ? loop_now_ms() : 0;
        if (is_over(e))
                loop_timer_cancel(&e->tick);
        manager_say(e->m, e->d.id, e->d.host, api_drain_state_name(to), e->d.sentence);
        touch(e);
}

static void set_vm(struct api_drain_vm *v, enum api_drain_vm_state state, enum reason reason,
                   const char *sentence)
{
        v->state = state;
        v->has_reason = reason != 0;
        v->reason = reason;
        v->has_sentence = *sentence != '\0';
        (void)snprintf(v->sentence, sizeof(v->sentence), "%.255s", sentence);
}

static int64_t left_ms(const struct emptying *e)
{
        int64_t left = e->d.until_ms - loop_now_ms();
        return left > 0 ? left : 0;
}

/* ---- whether it can be done ---- */

/* With a room of which host each item is. */
static size_t rooms_of(const struct emptying *e, const struct fleet_host *h, struct drain_room *rooms,
                       const struct fleet_host **hosts)
{
        size_t n = 0;
        const struct fleet_host *to;
        for (size_t i = 0; n < DRAIN_ROOMS_MAX && (to = fleet_nth(e->m, i)) != NULL; i++) {
                if (!fleet_may(e->m, h, to))
                        continue;
                rooms[n] = (struct drain_room){to->memory_free_bytes, to->cpu_free_milli};
                hosts[n++] = to;
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
                set_vm(v, API_DRAIN_VM_STATE_FAILED, REASON_NO_CAPACITY, text);
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
        bool is_in_time = drain_schedule(items, n, left_ms(e), &d->predicted_ms);
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
                               (long long)d->predicted_ms, (long long)left_ms(e));
        }
        if (d->has_dry_run && d->dry_run)
                settle(e, API_DRAIN_STATE_DRY_RUN, reason, "%s%s",
                       d->possible ? "it can be done" : "it cannot be done: ", why);
        else if (!d->possible)
                settle(e, API_DRAIN_STATE_IMPOSSIBLE, reason, "nothing was begun: %s", why);
        else
                settle(e, API_DRAIN_STATE_MOVING, 0, "%zu VMs are to move, which takes %lld ms", n,
                       (long long)d->predicted_ms);
}

/* The level of its dry run: an even part of the time, so that a fast move reserves no more than it takes. */
static struct level share_of(const struct emptying *e)
{
        int64_t n = 0;
        for (size_t i = 0; i < e->d.n_vms; i++)
                n += e->d.vms[i].has_to;
        int64_t total = left_ms(e) / (n > 0 ? n : 1), downtime = e->d.has_downtime_ms ? e->d.downtime_ms : 0;
        int64_t least = downtime > 0 ? downtime : 1; /* which is a part of it */
        return (struct level){.total_ms = total > least ? total : least, .downtime_ms = downtime};
}

static struct level floor_of(const struct emptying *e)
{
        return (struct level){.total_ms = left_ms(e),
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
        struct order policy = {.level = share_of(e), .floor = floor_of(e)};
        struct level best = {0};
        char text[200];
        if (strcmp(in->state, "dry-run") == 0 && in->has_plan && in->plan.has_total_ms) {
                v->predicted_ms = in->plan.total_ms.p90;
                v->has_downtime_ms = in->plan.has_downtime_ms;
                v->downtime_ms = in->plan.downtime_ms.p50;
                best = policy.level;
        }
        for (size_t i = 0; i < in->n_offers && !v->has_downtime_ms; i++) {
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
                set_vm(v, API_DRAIN_VM_STATE_PLANNED, 0, "");
                return;
        }
        (void)snprintf(text, sizeof(text), "%.120s%s%s",
                       in->has_sentence && *in->sentence ? in->sentence : "it cannot be moved so fast",
                       in->has_limit ? "; there is too little of: " : "", in->has_limit ? in->limit : "");
        set_vm(v, API_DRAIN_VM_STATE_FAILED, in->has_reason ? in->reason : REASON_NO_CAPACITY, text);
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
        (void)peer;
        dry->call = NULL;
        if (err)
                bad = *err;
        else if (answer->status != 200)
                fleet_refusal(answer, e->d.host, &bad);
        else if ((body = json_read(answer->body, answer->body_n, &bad)) && !api_move_parse(body, in, &bad))
                take_dry(e, v, in);
        if (bad.reason)
                set_vm(v, API_DRAIN_VM_STATE_FAILED, bad.reason, bad.sentence);
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
                set_vm(v, API_DRAIN_VM_STATE_FAILED, err.reason, err.sentence);
        return dry->call != NULL;
}

static bool is_asked_for(const struct emptying *e, size_t vm)
{
        for (size_t i = 0; i < DRY_AT_ONCE; i++)
                if (e->dry[i].call && e->dry[i].vm == vm)
                        return true;
        return false;
}

/* What no dry run was made for yet; when there is none left, what it comes to. */
static void ask_next(struct emptying *e)
{
        bool is_busy = false;
        for (size_t i = 0; i < DRY_AT_ONCE; i++) {
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

static void plan(struct emptying *e)
{
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        if (left_ms(e) == 0) {
                settle(e, API_DRAIN_STATE_FAILED, REASON_TIMEOUT, "the time was over before it was planned");
                return;
        }
        if (!h || !h->is_reachable || !is_known(e->m)) {
                loop_timer_in(&e->tick, TICK_MS);
                return;
        }
        e->d.n_vms = 0;
        for (guint i = 0; i < h->vms->len && e->d.n_vms < DRAIN_VMS_MAX; i++) {
                const struct fleet_vm *in = &g_array_index(h->vms, struct fleet_vm, i);
                struct api_drain_vm *v = &e->d.vms[e->d.n_vms++];
                *v = (struct api_drain_vm){.memory_bytes = in->memory_bytes, .cpu_milli = in->cpu_milli};
                (void)STR_COPY(v->vm, in->name);
                set_vm(v, in->runs ? API_DRAIN_VM_STATE_PLANNING : API_DRAIN_VM_STATE_STAYS, 0,
                       in->runs ? "" : "it does not run");
        }
        e->is_asked = true;
        assign(e, h);
        ask_next(e);
}

/* ---- doing it ---- */

static struct api_drain_vm *vm_in(struct emptying *e, enum api_drain_vm_state state)
{
        for (size_t i = 0; i < e->d.n_vms; i++)
                if (e->d.vms[i].state == state)
                        return &e->d.vms[i];
        return NULL;
}

static size_t count(const struct emptying *e, enum api_drain_vm_state state)
{
        size_t n = 0;
        for (size_t i = 0; i < e->d.n_vms; i++)
                n += e->d.vms[i].state == state;
        return n;
}

/* An order for it, with the name that the record has. */
static int give(struct emptying *e, const struct api_drain_vm *v, struct err *err)
{
        const struct level floor = floor_of(e);
        struct order o = {
                .n_to = 1,
                .level = {.total_ms = v->has_level ? v->level.total_ms : 0,
                          .downtime_ms = e->d.has_downtime_ms ? e->d.downtime_ms : 0},
                .floor = floor,
                .until_ms = e->d.until_ms
        };
        const struct order_terms terms = {.drain = e->d.id};
        (void)STR_COPY(o.id, v->order);
        (void)STR_COPY(o.vm, v->vm);
        (void)STR_COPY(o.from, e->d.host);
        (void)STR_COPY(o.to[0], v->to);
        return orders_give(e->m, &o, &terms, err);
}

static void give_next(struct emptying *e)
{
        struct api_drain_vm *v = vm_in(e, API_DRAIN_VM_STATE_PLANNED);
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        struct err err = {0};
        size_t moved = count(e, API_DRAIN_VM_STATE_MOVED);
        if (!v) {
                settle(e, API_DRAIN_STATE_DONE, 0, "%zu VMs were moved", moved);
                return;
        }
        if (v->predicted_ms > left_ms(e)) {
                settle(e, API_DRAIN_STATE_FAILED, REASON_TIMEOUT,
                       "%zu VMs were moved; %s takes %lld ms, and there are %lld", moved, v->vm,
                       (long long)v->predicted_ms, (long long)left_ms(e));
                return;
        }
        const struct fleet_vm *seen = h && h->is_reachable ? fleet_vm(h, v->vm) : NULL;
        if (h && h->is_reachable && (!seen || !seen->runs)) {
                set_vm(v, API_DRAIN_VM_STATE_STAYS, REASON_STALE, "it does not run there any more");
                touch(e);
                loop_timer_in(&e->tick, 0);
                return;
        }
        v->has_order = v->has_tries = true;
        v->tries++;
        (void)snprintf(v->order, sizeof(v->order), "%.32s-%zu.%d", e->d.id, (size_t)(v - e->d.vms),
                       (int)v->tries);
        if (give(e, v, &err) == 0) {
                set_vm(v, API_DRAIN_VM_STATE_MOVING, 0, "");
        } else if (err.reason == REASON_BUSY) { /* somebody else moves it: as long as there is time */
                v->tries--;
                loop_timer_in(&e->tick, TICK_MS);
        } else {
                set_vm(v, API_DRAIN_VM_STATE_FAILED, err.reason, err.sentence);
                settle(e, API_DRAIN_STATE_FAILED, err.reason, "%s: %.180s", v->vm, err.sentence);
        }
        touch(e);
}

/* Its order is over, and it is still here: another host may do, while there is time. */
static void try_elsewhere(struct emptying *e, struct api_drain_vm *v, const struct order *o)
{
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        const struct fleet_vm *seen = h ? fleet_vm(h, v->vm) : NULL;
        char to[ORDER_TO_MAX][ORDER_HOST];
        size_t n = seen ? fleet_any(e->m, h, seen, to, ORDER_TO_MAX) : 0, i = 0;
        while (i < n && strcmp(to[i], v->to) == 0)
                i++;
        if (v->tries < TRIES_MAX && i < n) {
                (void)STR_COPY(v->to, to[i]);
                set_vm(v, API_DRAIN_VM_STATE_PLANNED, o->reason, o->sentence);
                touch(e);
                loop_timer_in(&e->tick, 0);
                return;
        }
        set_vm(v, API_DRAIN_VM_STATE_FAILED, o->reason, o->sentence);
        settle(e, API_DRAIN_STATE_FAILED, o->reason, "%zu VMs were moved; %s was not: %.140s",
               count(e, API_DRAIN_VM_STATE_MOVED), v->vm, o->sentence);
}

/* Looks what is to be done next. Repeated as often as somebody likes. */
static void advance(struct emptying *e)
{
        struct api_drain_vm *v = vm_in(e, API_DRAIN_VM_STATE_MOVING);
        const struct order *o = v ? orders_find(e->m, v->order) : NULL;
        struct err err = {0};
        if (v && !o && give(e, v, &err)) {
                set_vm(v, API_DRAIN_VM_STATE_FAILED, err.reason, err.sentence);
                settle(e, API_DRAIN_STATE_FAILED, err.reason, "%s: %.180s", v->vm, err.sentence);
                return;
        }
        if (v && (!o || !order_is_over(o)))
                return; /* heard of when it is */
        if (v && o->state == ORDER_DONE) {
                set_vm(v, API_DRAIN_VM_STATE_MOVED, 0, "");
                touch(e);
        }
        if (e->d.state == API_DRAIN_STATE_CANCELLING)
                settle(e, API_DRAIN_STATE_CANCELLED, REASON_CANCELLED, "it was cancelled; %zu VMs were moved",
                       count(e, API_DRAIN_VM_STATE_MOVED));
        else if (v && o->state != ORDER_DONE)
                try_elsewhere(e, v, o);
        else
                give_next(e);
}

static void on_tick(void *arg)
{
        struct emptying *e = arg;
        if (is_over(e))
                return;
        if (e->d.state != API_DRAIN_STATE_PLANNING)
                advance(e);
        else if (!e->is_asked)
                plan(e);
}

void drains_heard(struct manager *m, const char *drain)
{
        struct emptying *e = find(m, drain);
        if (e && !is_over(e))
                loop_timer_in(&e->tick, 0);
}

/* ---- the transaction ---- */

int drains_write(struct manager *m, struct err *err)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct emptying *e = p;
                if (!e->is_dirty)
                        continue;
                json_t *v = api_drain_emit(&e->d);
                char *text = v ? json_write(v, NULL) : NULL;
                json_decref(v);
                int bad = text ? store_put_document(m->store, STORE_DRAIN, e->d.id, text, err)
                               : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                free(text);
                if (bad)
                        return bad;
        }
        return 0;
}

void drains_written(struct manager *m)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                bool was_dirty = e->is_dirty;
                e->is_dirty = false;
                if (was_dirty && e->d.state == API_DRAIN_STATE_MOVING)
                        loop_timer_in(&e->tick, 0); /* not before it is on record that it is begun */
                if (e->d.state == API_DRAIN_STATE_PLANNING || e->d.state == API_DRAIN_STATE_CANCELLING)
                        continue;
                for (GList *l = e->askers; l; l = l->next)
                        api_reply(l->data, api_drain_emit(&e->d));
                g_list_free(e->askers);
                e->askers = NULL;
        }
}

/* ---- what is asked for ---- */

size_t drains_live(const struct manager *m)
{
        size_t n = 0;
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p))
                n += !is_over(p);
        return n;
}

bool drains_has(const struct manager *m, const char *host)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                const struct emptying *e = p;
                if (!is_over(e) && !(e->d.has_dry_run && e->d.dry_run) && strcmp(e->d.host, host) == 0)
                        return true;
        }
        return false;
}

static int trim(struct manager *m, struct err *err)
{
        while (g_hash_table_size(m->drains) - drains_live(m) >= MANAGER_DRAINS_KEPT - MANAGER_DRAINS_MAX) {
                struct emptying *oldest = NULL;
                GHashTableIter i;
                gpointer p;
                g_hash_table_iter_init(&i, m->drains);
                while (g_hash_table_iter_next(&i, NULL, &p)) {
                        struct emptying *e = p;
                        if (is_over(e) && !e->askers && (!oldest || e->d.ended_ms < oldest->d.ended_ms))
                                oldest = e;
                }
                if (!oldest)
                        return 0;
                int bad = store_delete_document(m->store, STORE_DRAIN, oldest->d.id, err);
                if (bad)
                        return bad;
                manager_changed(m);
                g_hash_table_remove(m->drains, oldest->d.id);
        }
        return 0;
}

static int check(struct manager *m, const char *host, const struct api_drain_ask *in, struct err *err)
{
        const struct fleet_host *h = fleet_find(m, host);
        const struct level l = {.total_ms = in->within_ms,
                                .downtime_ms = in->has_downtime_ms ? in->downtime_ms : 0};
        int bad = level_check(&l, err);
        if (bad)
                return bad;
        if (!h)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no host is called %s (mete host list)", host);
        if (!h->entry->has_address || (h->was_asked && !h->is_reachable))
                return err_set(err, REASON_PEER_LOST, EHOSTUNREACH, "%s: %.200s", host, h->problem.sentence);
        if (drains_has(m, host))
                return err_set(err, REASON_BUSY, EBUSY, "%s is being drained already", host);
        bad = trim(m, err);
        if (!bad && drains_live(m) >= MANAGER_DRAINS_MAX)
                bad = err_set(err, REASON_BUSY, EBUSY, "%d drains are under way, more are not",
                              MANAGER_DRAINS_MAX);
        return bad;
}

static struct emptying *begin(struct manager *m, const char *host, const struct api_drain_ask *in,
                              const char *id)
{
        struct emptying *e = emptying_new(m);
        (void)STR_COPY(e->d.id, id);
        (void)STR_COPY(e->d.host, host);
        e->d.asked_ms = loop_now_ms();
        e->d.until_ms = e->d.asked_ms + in->within_ms;
        e->d.has_downtime_ms = in->has_downtime_ms;
        e->d.downtime_ms = in->downtime_ms;
        e->d.has_floor_downtime_ms = in->has_floor_downtime_ms || m->config.floor_downtime_ms > 0;
        e->d.floor_downtime_ms =
                in->has_floor_downtime_ms ? in->floor_downtime_ms : m->config.floor_downtime_ms;
        e->d.has_dry_run = in->has_dry_run;
        e->d.dry_run = in->dry_run;
        g_hash_table_insert(m->drains, e->d.id, e);
        settle(e, API_DRAIN_STATE_PLANNING, 0, "its VMs are asked what moving them takes");
        loop_timer_in(&e->tick, 0);
        return e;
}

void drains_ask(struct manager *m, struct http_request *req, const char *host, const json_t *body)
{
        struct api_drain_ask in = {0};
        struct err err = {0};
        char drawn[33];
        int bad = api_drain_ask_parse(body, &in, &err);
        (void)snprintf(drawn, sizeof(drawn), "d%08x%08x", g_random_int(), g_random_int());
        const char *id = in.has_id ? in.id : drawn;
        struct emptying *e = bad ? NULL : find(m, id);
        if (e && strcmp(e->d.host, host) != 0)
                bad = err_set(&err, REASON_INVALID, EEXIST, "the id %s was used before, for %s", id,
                              e->d.host);
        bad = bad || e ? bad : check(m, host, &in, &err);
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        e = e ? e : begin(m, host, &in, id);
        e->askers = g_list_prepend(e->askers, req);
        manager_changed(m);
}

void drains_cancel(struct manager *m, struct http_request *req, const char *id)
{
        struct emptying *e = find(m, id);
        struct err err = {0};
        if (!e) {
                (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no drain is called %s", id);
                api_refuse(req, &err);
                return;
        }
        e->askers = g_list_prepend(e->askers, req);
        manager_changed(m);
        if (e->d.state == API_DRAIN_STATE_PLANNING) {
                drop_dry(e);
                settle(e, API_DRAIN_STATE_CANCELLED, REASON_CANCELLED, "it was cancelled; nothing was begun");
        } else if (e->d.state == API_DRAIN_STATE_MOVING) {
                const struct api_drain_vm *v = vm_in(e, API_DRAIN_VM_STATE_MOVING);
                settle(e, API_DRAIN_STATE_CANCELLING, REASON_CANCELLED, "it is being cancelled");
                if (v)
                        orders_break(m, v->order);
                loop_timer_in(&e->tick, 0);
        }
}

json_t *drains_show(const struct manager *m, const char *id, struct err *err)
{
        const struct emptying *e = find(m, id);
        if (!e)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no drain is called %s", id);
        return e ? api_drain_emit(&e->d) : NULL;
}

static int by_name(gconstpointer a, gconstpointer b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

json_t *drains_list(const struct manager *m, const char *query, struct err *err)
{
        struct api_fleet_query q = {0};
        if (api_fleet_query_read(query, &q, err))
                return NULL;
        guint n = 0;
        gpointer *ids = g_hash_table_get_keys_as_array(m->drains, &n);
        if (n > 1)
                qsort(ids, n, sizeof(*ids), by_name);
        json_t *list = json_array(), *page = json_object();
        for (guint i = 0; i < n; i++) /* there are few */
                if (!q.has_after || strcmp(ids[i], q.after) > 0)
                        (void)json_array_append_new(list, api_drain_emit(&find(m, ids[i])->d));
        g_free(ids);
        (void)json_object_set_new(page, "drains", list);
        return page;
}

/* ---- coming and going ---- */

static int load_one(const char *id, const char *text, void *arg, struct err *err)
{
        struct manager *m = arg;
        struct emptying *e = emptying_new(m);
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_drain_parse(v, &e->d, err) : -EPROTO;
        json_decref(v);
        if (bad) {
                emptying_free(e);
                return err_note(err, "the drain %s in the store", id);
        }
        g_hash_table_insert(m->drains, e->d.id, e);
        return 0;
}

int drains_start(struct manager *m, struct err *err)
{
        m->drains = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, emptying_free);
        return store_load_documents(m->store, STORE_DRAIN, load_one, m, err);
}

void drains_adopt(struct manager *m)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                if (!is_over(e))
                        loop_timer_in(&e->tick, 0);
        }
}

void drains_stop(struct manager *m)
{
        if (m->drains)
                g_hash_table_destroy(m->drains);
        m->drains = NULL;
}

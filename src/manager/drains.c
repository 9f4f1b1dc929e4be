/* SPDX-License-Identifier: Apache-2.0 */
/* manager/drains.c - hosts that are to be empty: what is done about it. Whether it can be is found in
 * drains-plan.c, who asks is heard in drains-ask.c. One order after the other is given, as all VMs leave by
 * one link; each is recorded together with the line of the drain that names it, so that a manager that starts
 * anew finds both.
 *
 * planning - moving - done, and from there to impossible, failed, cancelled, dry-run */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "manager/crash.h"
#include "manager/drains-internal.h"

enum { TRIES_MAX = 3 };

struct emptying *emptying_new(struct manager *m)
{
        struct emptying *e = g_new0(struct emptying, 1);
        e->m = m;
        e->moved_mono_ms = loop_mono_ms();
        for (size_t i = 0; i < DRAIN_DRY_AT_ONCE; i++)
                e->dry[i].e = e;
        loop_timer_init(&e->tick, emptying_tick, e);
        return e;
}

void emptying_free(void *arg)
{
        struct emptying *e = arg;
        struct err err = {0};
        (void)err_set(&err, REASON_BUSY, ECANCELED, "mete-manager stops; ask again");
        for (GList *l = e->askers; l; l = l->next)
                api_refuse(l->data, &err);
        g_list_free(e->askers);
        loop_timer_cancel(&e->tick);
        emptying_drop_dry(e);
        free(e->recorded);
        free(e->writing);
        g_free(e);
}

struct emptying *emptying_find(const struct manager *m, const char *id)
{
        return g_hash_table_lookup(m->drains, id);
}

bool emptying_is_over(const struct emptying *e)
{
        return e->d.state >= API_DRAIN_STATE_DONE;
}

void emptying_touch(struct emptying *e)
{
        e->is_dirty = true;
        manager_changed(e->m);
}

void emptying_settle(struct emptying *e, enum api_drain_state to, enum reason reason, const char *format, ...)
{
        va_list args;
        va_start(args, format);
        (void)vsnprintf(e->d.sentence, sizeof(e->d.sentence), format, args);
        va_end(args);
        e->d.has_sentence = true;
        e->d.state = to;
        e->d.has_reason = reason != 0;
        e->d.reason = reason;
        e->d.has_ended_ms = emptying_is_over(e);
        e->d.ended_ms = e->d.has_ended_ms ? loop_now_ms() : 0;
        if (emptying_is_over(e))
                loop_timer_cancel(&e->tick);
        manager_say(e->m, e->d.id, e->d.host, api_drain_state_name(to), e->d.sentence);
        emptying_touch(e);
        manager_crash_point("drain", api_drain_state_name(to), "decided");
}

void emptying_set_vm(struct api_drain_vm *v, enum api_drain_vm_state state, enum reason reason,
                     const char *sentence)
{
        v->state = state;
        v->has_reason = reason != 0;
        v->reason = reason;
        v->has_sentence = *sentence != '\0';
        (void)snprintf(v->sentence, sizeof(v->sentence), "%.255s", sentence);
}

int64_t emptying_left_ms(const struct emptying *e)
{
        int64_t left = e->d.until_ms - loop_now_ms();
        return left < 0 ? 0 : left < LEVEL_MAX_MS ? left : LEVEL_MAX_MS; /* a clock may be set back */
}

/* ---- doing it ---- */

struct api_drain_vm *emptying_vm_in(struct emptying *e, enum api_drain_vm_state state)
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

/* An order for it, under the name that the record will have in the same transaction. */
static int give(struct emptying *e, const struct api_drain_vm *v, struct err *err)
{
        struct order o = {
                .n_to = 1,
                .level = {.total_ms = v->has_level ? v->level.total_ms : 0,
                          .downtime_ms = e->d.has_downtime_ms ? e->d.downtime_ms : 0},
                .floor = emptying_floor(e),
                .until_ms = e->d.until_ms
        };
        const struct order_terms terms = {.drain = e->d.id};
        (void)STR_COPY(o.id, v->order);
        (void)STR_COPY(o.vm, v->vm);
        (void)STR_COPY(o.from, e->d.host);
        (void)STR_COPY(o.to[0], v->to);
        return orders_give(e->m, &o, &terms, err);
}

static bool is_moved(const struct emptying *e, const char *vm)
{
        for (size_t i = 0; i < e->d.n_vms; i++)
                if (strcmp(e->d.vms[i].vm, vm) == 0)
                        return e->d.vms[i].state == API_DRAIN_VM_STATE_MOVED;
        return false;
}

/* Done is what its host says is done: it was looked at after the last VM had left, and none runs there. */
static void finish(struct emptying *e)
{
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        size_t moved = count(e, API_DRAIN_VM_STATE_MOVED);
        bool is_seen = h && h->is_reachable && h->looked_mono_ms > e->moved_mono_ms;
        const struct fleet_vm *left = NULL;
        for (guint i = 0; is_seen && i < h->vms->len && !left; i++) {
                const struct fleet_vm *v = &g_array_index(h->vms, struct fleet_vm, i);
                left = v->runs ? v : NULL;
        }
        if (is_seen && !left)
                emptying_settle(e, API_DRAIN_STATE_DONE, 0, "%zu VMs were moved", moved);
        else if (emptying_left_ms(e) > 0 && (!left || is_moved(e, left->name)))
                loop_timer_in(&e->tick, DRAIN_TICK_MS); /* not looked at yet, or not heard of everything */
        else if (left)
                emptying_settle(e, API_DRAIN_STATE_FAILED, REASON_STALE,
                                "%zu VMs were moved; %s runs there %s", moved, left->name,
                                is_moved(e, left->name) ? "still" : "and did not when it was to move");
        else
                emptying_settle(e, API_DRAIN_STATE_FAILED, REASON_PEER_LOST,
                                "%zu VMs were moved; %s does not say what runs there now", moved, e->d.host);
}

static void give_next(struct emptying *e)
{
        struct api_drain_vm *v = emptying_vm_in(e, API_DRAIN_VM_STATE_PLANNED);
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        struct err err = {0};
        char stem[ORDER_ID];
        size_t moved = count(e, API_DRAIN_VM_STATE_MOVED);
        if (!v) {
                finish(e);
                return;
        }
        if (v->predicted_ms > emptying_left_ms(e)) {
                emptying_settle(e, API_DRAIN_STATE_FAILED, REASON_TIMEOUT,
                                "%zu VMs were moved; %s takes %lld ms, and there are %lld", moved, v->vm,
                                (long long)v->predicted_ms, (long long)emptying_left_ms(e));
                return;
        }
        const struct fleet_vm *seen = h && h->is_reachable ? fleet_vm(h, v->vm) : NULL;
        if (h && h->is_reachable && (!seen || !seen->runs)) {
                emptying_set_vm(v, API_DRAIN_VM_STATE_STAYS, REASON_STALE, "it does not run there any more");
                emptying_touch(e);
                loop_timer_in(&e->tick, 0);
                return;
        }
        (void)snprintf(stem, sizeof(stem), "%.28s-%zu", e->d.id, (size_t)(v - e->d.vms));
        orders_draw_id(e->m, stem, v->order);
        v->has_order = give(e, v, &err) == 0;
        if (v->has_order) {
                v->has_tries = true;
                v->tries++;
                emptying_set_vm(v, API_DRAIN_VM_STATE_MOVING, 0, "");
                emptying_touch(e);
        } else if (err.reason == REASON_BUSY) { /* somebody else moves it: as long as there is time */
                loop_timer_in(&e->tick, DRAIN_TICK_MS);
        } else {
                emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, err.reason, err.sentence);
                emptying_settle(e, API_DRAIN_STATE_FAILED, err.reason, "%s: %.180s", v->vm, err.sentence);
        }
}

/* Its order is over, and it is still here: another host may do, while there is time, unless somebody said
 * that it is not to move. */
static void try_elsewhere(struct emptying *e, struct api_drain_vm *v, const struct order *o)
{
        const struct fleet_host *h = fleet_find(e->m, e->d.host);
        const struct fleet_vm *seen = h ? fleet_vm(h, v->vm) : NULL;
        char to[ORDER_TO_MAX][ORDER_HOST];
        size_t n = seen ? fleet_any(e->m, h, seen, to, ORDER_TO_MAX) : 0, i = 0;
        while (i < n && strcmp(to[i], v->to) == 0)
                i++;
        if (o->state != ORDER_CANCELLED && v->tries < TRIES_MAX && i < n) {
                (void)STR_COPY(v->to, to[i]);
                emptying_set_vm(v, API_DRAIN_VM_STATE_PLANNED, o->reason, o->sentence);
                emptying_touch(e);
                loop_timer_in(&e->tick, 0);
                return;
        }
        emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, o->reason, o->sentence);
        emptying_settle(e, API_DRAIN_STATE_FAILED, o->reason, "%zu VMs were moved; %s was not: %.140s",
                        count(e, API_DRAIN_VM_STATE_MOVED), v->vm, o->sentence);
}

/* Looks what is to be done next. Repeated as often as somebody likes. */
static void advance(struct emptying *e)
{
        struct api_drain_vm *v = emptying_vm_in(e, API_DRAIN_VM_STATE_MOVING);
        const struct order *o = v ? orders_of_drain(e->m, v->order, e->d.id) : NULL;
        if (v && !o) { /* it was recorded with this line: given once more it could be a second move */
                emptying_set_vm(v, API_DRAIN_VM_STATE_FAILED, REASON_INTERNAL,
                                "its order is not in the store");
                emptying_settle(e, API_DRAIN_STATE_FAILED, REASON_INTERNAL,
                                "%s: its order %s is not in the store", v->vm, v->order);
                return;
        }
        if (v && !order_is_over(o))
                return; /* heard of when it is */
        if (v)
                e->moved_mono_ms = loop_mono_ms();
        if (v && o->state == ORDER_DONE) {
                emptying_set_vm(v, API_DRAIN_VM_STATE_MOVED, 0, "");
                emptying_touch(e);
        }
        if (e->d.state == API_DRAIN_STATE_CANCELLING)
                emptying_settle(e, API_DRAIN_STATE_CANCELLED, REASON_CANCELLED,
                                "it was cancelled; %zu VMs were moved", count(e, API_DRAIN_VM_STATE_MOVED));
        else if (v && o->state != ORDER_DONE)
                try_elsewhere(e, v, o);
        else
                give_next(e);
}

void emptying_tick(void *arg)
{
        struct emptying *e = arg;
        if (emptying_is_over(e))
                return;
        if (e->d.state != API_DRAIN_STATE_PLANNING)
                advance(e);
        else
                emptying_plan(e);
}

void drains_heard(struct manager *m, const char *drain)
{
        struct emptying *e = emptying_find(m, drain);
        if (e && !emptying_is_over(e))
                loop_timer_in(&e->tick, 0);
}

/* ---- the transaction ---- */

/* With the orders that it names. */
static int write_one(struct emptying *e, struct err *err)
{
        json_t *v = api_drain_emit(&e->d);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        if (!text)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        record_put(e->m->record, STORE_DRAIN, e->d.id, text);
        e->writing = text;
        e->is_dirty = false;
        e->is_writing = true;
        return orders_write(e->m, e->d.id, err);
}

int drains_write(struct manager *m, struct err *err)
{
        GHashTableIter i;
        gpointer p;
        int bad = 0;
        g_hash_table_iter_init(&i, m->drains);
        while (!bad && g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                if (e->is_dirty && record_has_room(m->record))
                        bad = write_one(e, err);
        }
        return bad;
}

void drains_unwritten(struct manager *m)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                e->is_dirty = e->is_dirty || e->is_writing;
                e->is_writing = false;
                free(e->writing);
                e->writing = NULL;
        }
}

static void answer(struct emptying *e)
{
        for (GList *l = e->askers; l; l = l->next)
                api_reply(l->data, api_drain_emit(&e->d));
        g_list_free(e->askers);
        e->askers = NULL;
}

void drains_written(struct manager *m)
{
        GHashTableIter i;
        gpointer p;
        g_hash_table_iter_init(&i, m->drains);
        while (g_hash_table_iter_next(&i, NULL, &p)) {
                struct emptying *e = p;
                bool was_written = e->is_writing;
                e->is_writing = false;
                if (was_written) {
                        free(e->recorded);
                        e->recorded = e->writing;
                        e->writing = NULL;
                }
                if (e->is_dirty) {
                        manager_changed(m);
                        continue;
                }
                if (was_written)
                        manager_crash_point("drain", api_drain_state_name(e->d.state), "recorded");
                if (was_written && e->d.state == API_DRAIN_STATE_MOVING)
                        loop_timer_in(&e->tick, 0); /* not before it is on record that it is begun */
                if (e->d.state != API_DRAIN_STATE_PLANNING && e->d.state != API_DRAIN_STATE_CANCELLING)
                        answer(e);
                if (was_written)
                        manager_crash_point("drain", api_drain_state_name(e->d.state), "done");
        }
}

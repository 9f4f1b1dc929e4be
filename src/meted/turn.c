/* SPDX-License-Identifier: Apache-2.0 */
/* meted/turn.c - the effects of one turn of the loop: first recorded, all in one transaction, then carried
 * out. The only place where meted commits.
 *
 * When the transaction fails (a full disk), nothing of the turn was decided: the effects are dropped, those
 * who wait are told, and the hypervisor is made anew from the store, which is then what is true. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "meted/crash.h"
#include "meted/activate.h"
#include "meted/handover.h"
#include "meted/health.h"
#include "meted/hhi.h"
#include "meted/machine.h"
#include "meted/meted.h"
#include "meted/partition.h"

enum { RETRY_MAX_MS = 60000, MEND_MS = 500, TRIM_EVERY = 1000, FINISHED_MAX = 1024 };

static void arm_tick(struct meted *m)
{
        int64_t at = hypervisor_deadline(m->hv);
        if (at == LEDGER_OPEN) {
                loop_timer_cancel(&m->tick);
                return;
        }
        int64_t in = at - loop_now_ms();
        loop_timer_in(&m->tick, in > 0 ? (in < 3600000 ? in : 3600000) : 0);
}

static void on_tick(void *arg)
{
        struct meted *m = arg;
        hypervisor_tick(m->hv, loop_now_ms());
        meted_changed(m);
}

void meted_changed(struct meted *m)
{
        if (hypervisor_has_effects(m->hv) || store_is_dirty(m->store))
                loop_turn_request(&m->commit);
        arm_tick(m);
}

/* ---- waiters ---- */

void meted_wait(struct meted *m, uint64_t serial, enum wait_for what,
                void (*answer)(struct meted *m, void *call, const struct request *r, const struct err *err),
                void *call)
{
        struct waiter *w = g_new0(struct waiter, 1);
        *w = (struct waiter){.serial = serial, .turn = m->turn, .what = what, .answer = answer, .call = call};
        m->waiters = g_list_append(m->waiters, w);
        if (what == WAIT_COMMIT)
                loop_turn_request(&m->commit); /* also where nothing is written */
}

bool meted_unwait(struct meted *m, const void *call)
{
        for (GList *l = m->waiters; l; l = l->next) {
                struct waiter *w = l->data;
                if (w->call != call)
                        continue;
                m->waiters = g_list_delete_link(m->waiters, l);
                g_free(w);
                return true;
        }
        return false;
}

static void answer_one(struct meted *m, struct waiter *w, const struct err *err)
{
        const struct request *r = err ? NULL : hypervisor_request(m->hv, w->serial);
        struct err gone = {0};
        if (!r && !err && w->what != WAIT_COMMIT)
                (void)err_set(&gone, REASON_STALE, ESTALE, "this request is no longer remembered");
        w->answer(m, w->call, r, err ? err : gone.code ? &gone : NULL);
        g_free(w);
}

/* Takes those out of the list whom fn chooses. */
static GList *take_waiters(struct meted *m,
                           bool (*fn)(const struct meted *m, const struct waiter *w, const void *arg),
                           const void *arg)
{
        GList *mine = NULL, *next;
        for (GList *l = m->waiters; l; l = next) {
                next = l->next;
                if (!fn(m, l->data, arg))
                        continue;
                m->waiters = g_list_remove_link(m->waiters, l);
                mine = g_list_concat(mine, l);
        }
        return mine;
}

static bool is_same(const struct meted *m, const struct waiter *w, const void *arg)
{
        const struct waiter *wanted = arg;
        (void)m;
        return !wanted->what || (w->serial == wanted->serial && w->what == wanted->what);
}

/* What is waited for since it is carried out is durable with the next turn, not with this one. */
static bool is_durable(const struct meted *m, const struct waiter *w, const void *arg)
{
        (void)arg;
        return w->what == WAIT_COMMIT && w->turn < m->turn;
}

/* what 0: everyone. */
static void answer_waiters(struct meted *m, uint64_t serial, enum wait_for what, const struct err *err)
{
        const struct waiter wanted = {.serial = serial, .what = what};
        GList *mine = take_waiters(m, is_same, &wanted);
        for (GList *l = mine; l; l = l->next)
                answer_one(m, l->data, err);
        g_list_free(mine);
}

/* ---- after a turn that could not be recorded ---- */

/* What it waits for is under way as the store has it, and will be reported once it is asked for again
 * (on_mend()): the failure of this turn is not its failure. */
static bool waits_on(const struct waiter *w, const struct request *r)
{
        switch (w->what) {
        case WAIT_VERDICT:
                return r->state == REQUEST_ACTIVATING;
        case WAIT_END:
                return r->state == REQUEST_RELEASING || r->state == REQUEST_RECLAIMING;
        case WAIT_STOP:
                return request_is_live(r);
        case WAIT_RELEASE:
        case WAIT_CHECK:
        case WAIT_COMMIT:
                break;
        }
        return false;
}

/* What it waits for was recorded in an earlier turn: it asked again. */
static bool has_happened(const struct waiter *w, const struct request *r)
{
        switch (w->what) {
        case WAIT_VERDICT:
                return r->state != REQUEST_ACTIVATING && r->state != REQUEST_OFFERED;
        case WAIT_RELEASE:
                return r->state == REQUEST_RELEASING || !request_is_live(r);
        case WAIT_END:
        case WAIT_STOP:
                return !request_is_live(r) && r->state != REQUEST_RECLAIMING;
        case WAIT_CHECK:
        case WAIT_COMMIT:
                break;
        }
        return false;
}

static bool is_concerned(const struct meted *m, const struct waiter *w, const void *arg)
{
        const struct request *r = hypervisor_request(m->hv, w->serial);
        (void)arg;
        return !r || !waits_on(w, r);
}

/* The hypervisor is again what the store says. Each hears what became of what it asked for. */
static void answer_after_failure(struct meted *m, const struct err *err)
{
        GList *mine = take_waiters(m, is_concerned, NULL);
        for (GList *l = mine; l; l = l->next) {
                struct waiter *w = l->data;
                const struct request *r = hypervisor_request(m->hv, w->serial);
                answer_one(m, w, r && has_happened(w, r) ? NULL : err);
        }
        g_list_free(mine);
}

static void carry_out_all(struct meted *m);

/* ---- first: record ---- */

static int record(struct meted *m, const struct effect *f, struct err *err)
{
        /* What guests are told of follows from the books; a line in the log changes nothing of it. */
        m->is_hhi_due = m->is_hhi_due || f->kind == EFFECT_PERSIST || f->kind == EFFECT_JOURNAL ||
                        f->kind == EFFECT_FORGET;
        switch (f->kind) {
        case EFFECT_PERSIST: {
                const struct request *r = hypervisor_request(m->hv, f->serial);
                return r ? store_put_request(m->store, r, err) : 0; /* forgotten in this very turn */
        }
        case EFFECT_JOURNAL: {
                const struct request *r = hypervisor_request(m->hv, f->serial);
                return r ? store_put_activation(m->store, r, err) : 0;
        }
        case EFFECT_FORGET:
                return store_forget_request(m->store, f->serial, err);
        case EFFECT_EVENT: {
                struct store_event e = {.at_ms = f->at_ms};
                memcpy(e.trace, f->trace, sizeof(e.trace));
                memcpy(e.subject, f->subject, sizeof(e.subject));
                memcpy(e.event, f->event, sizeof(e.event));
                memcpy(e.text, f->text, sizeof(e.text));
                m->counters.events++;
                if (m->counters.events % TRIM_EVERY == 0) {
                        int bad = store_trim_events(m->store, m->config.events_max, err);
                        if (bad)
                                return bad;
                }
                return store_add_event(m->store, &e, NULL, err);
        }
        case EFFECT_ANSWER:
        case EFFECT_RELEASED:
        case EFFECT_ENDED:
        case EFFECT_CHECKED:
        case EFFECT_STEP:
        case EFFECT_HURRY:
        case EFFECT_LEASE_ENDED:
                g_array_append_val(m->after, *f);
                return 0;
        }
        return 0;
}

static void broken(struct meted *m, const struct err *why)
{
        struct err err = *why;
        err_note(&err, "decisions cannot be recorded, nothing was changed");
        err.reason = REASON_BUSY;
        m->counters.commit_failures++;
        if (!m->is_broken)
                log_error("%s; will try again", err.sentence);
        m->is_broken = true;
        m->problem = err;
        store_rollback(m->store);
        g_array_set_size(m->after, 0);
        struct err bad = {0};
        answer_waiters(m, 0, WAIT_COMMIT, &err); /* those who defined or removed a VM take that back */
        if (meted_load(m, &bad)) {
                /* Without a true picture there is nothing sound to go on with; VMs outlive us. */
                log_error("the store cannot be read either: %s; stopping", bad.sentence);
                loop_quit();
        }
        answer_after_failure(m, &err);
        loop_timer_in(&m->mend, MEND_MS);
}

static void on_commit(void *arg)
{
        struct meted *m = arg;
        struct effect f;
        struct err err = m->unwritten;
        int bad = err.code ? -err.code : 0;
        bool mended = false;
        m->unwritten = (struct err){0};
        m->counters.turns++;
        while (!bad && hypervisor_next_effect(m->hv, &f))
                bad = record(m, &f, &err);
        if (!bad && store_is_dirty(m->store)) {
                crash_point("commit");
                bad = store_commit(m->store, &err);
                m->counters.commits++;
                mended = !bad && m->is_broken;
                if (!bad)
                        m->is_broken = false;
                crash_point("committed");
        }
        if (bad) {
                broken(m, &err);
                return;
        }
        carry_out_all(m);
        /* What guests said meanwhile (what they no longer have, that they booted again) was dropped: they
         * say it again as they greet and synchronise. */
        for (guint i = 0; mended && i < m->machines->len; i++)
                guest_reconnect(g_ptr_array_index(m->machines, i));
}

void meted_unwritten(struct meted *m, const struct err *why)
{
        m->unwritten = *why;
        loop_turn_request(&m->commit);
}

/* After a failure: is the disk well again? Then what was under way is asked for again, and what happened
 * without our doing is reported again. */
static void on_mend(void *arg)
{
        struct meted *m = arg;
        hypervisor_note(m->hv, loop_now_ms(), "meted", "host", "mended", "decisions can be recorded again");
        for (guint i = 0; i < m->machines->len; i++) {
                struct machine *v = g_ptr_array_index(m->machines, i);
                if (v->is_dead)
                        machine_died(v, v->ended);
        }
        if (m->adopted) { /* else once it is known which VMMs are there */
                boot_check(m);
                hypervisor_recover(m->hv, loop_now_ms());
                health_settle(m);
        }
        meted_changed(m);
}

/* ---- then: carry out ---- */

static void carry_out(struct meted *m, const struct effect *f)
{
        const struct request *r = hypervisor_request(m->hv, f->serial);
        switch (f->kind) {
        case EFFECT_ANSWER:
                if (r)
                        m->counters.verdicts[r->outcome]++;
                answer_waiters(m, f->serial, WAIT_VERDICT, NULL);
                if (r && r->state == REQUEST_GRANTED)
                        activate_end(m, r, false);
                break;
        case EFFECT_RELEASED:
                answer_waiters(m, f->serial, WAIT_RELEASE, NULL);
                break;
        case EFFECT_ENDED:
                answer_waiters(m, f->serial, WAIT_END, NULL);
                answer_waiters(m, f->serial, WAIT_STOP, NULL);
                answer_waiters(m, f->serial, WAIT_CHECK, NULL);
                r = hypervisor_request(m->hv, f->serial); /* who waited may have had its VM forgotten */
                if (r) {
                        activate_end(m, r, false);
                        activate_end(m, r, true);
                }
                break;
        case EFFECT_CHECKED:
                m->counters.checks++;
                m->counters.changed += f->checked.changed;
                m->counters.repaired += f->checked.repaired;
                m->counters.unknown += f->checked.unknown;
                if (r)
                        machine_seen(m, r, &f->checked);
                answer_waiters(m, f->serial, WAIT_CHECK, NULL);
                if (r && r->state == REQUEST_GRANTED)
                        activate_end(m, r, false);
                break;
        case EFFECT_STEP:
                activate_step(m, f);
                break;
        case EFFECT_HURRY:
                if (r)
                        activate_hurry(m, r);
                break;
        case EFFECT_LEASE_ENDED:
                if (r)
                        machine_lease_ended(m, r, f->reason, f->text);
                break;
        case EFFECT_PERSIST:
        case EFFECT_JOURNAL:
        case EFFECT_FORGET:
        case EFFECT_EVENT:
                break;
        }
}

/* Still in the commit phase, so that what is written here leaves in the send phase of this very turn and not
 * behind the next transaction. */
static void carry_out_all(struct meted *m)
{
        /* Carrying out may decide more, which queues up for the next turn. */
        GArray *now = m->after;
        m->after = g_array_new(FALSE, FALSE, sizeof(struct effect));
        m->turn++;
        for (guint i = 0; i < now->len; i++)
                carry_out(m, &g_array_index(now, struct effect, i));
        g_array_free(now, TRUE);
        GList *mine = take_waiters(m, is_durable, NULL);
        for (GList *l = mine; l; l = l->next)
                answer_one(m, l->data, NULL);
        g_list_free(mine);
        events_publish(m);
        if (m->is_hhi_due)
                hhi_changed(m);
        m->is_hhi_due = false;
        meted_changed(m);
}

/* ---- start ---- */

struct load {
        struct meted *m;
        int64_t now_ms;
};

static int load_request(struct request *row, void *arg, struct err *err)
{
        struct load *l = arg;
        return hypervisor_restore(l->m->hv, row, l->now_ms, err);
}

int meted_load(struct meted *m, struct err *err)
{
        uint64_t last;
        int bad = store_last_serial(m->store, &last, err);
        if (bad)
                return bad;
        struct hypervisor_config c = {
                .cpu_overcommit = m->config.cpu_overcommit,
                .offer_ms = m->config.offer_ms,
                .live_max = (size_t)m->config.live_max,
                .live_per_vm_max = (size_t)m->config.live_per_vm_max,
                .finished_max = FINISHED_MAX,
                .first_serial = last + 1,
                .retry_first_ms = (int32_t)m->config.retry_ms,
                .retry_max_ms = RETRY_MAX_MS,
                .force_after_ms = m->config.force_after_ms,
                .repairs = m->config.repairs,
                .keeps = m->config.keep,
                .reclaim_ms = m->config.activation_ms,
        };
        bad = partition_load(m, err);
        if (!bad)
                bad = health_load(m, err);
        if (bad)
                return bad;
        int64_t now = loop_now_ms();
        struct hypervisor *hv = hypervisor_new(&c, m->inventory.components, m->inventory.n, now);
        if (!hv)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the hypervisor");
        hypervisor_free(m->hv);
        m->hv = hv;
        for (guint i = 0; i < m->machines->len; i++)
                activate_void(g_ptr_array_index(m->machines, i));
        for (guint i = 0; i < m->machines->len && !bad; i++) {
                struct vm_shape shape;
                machine_shape(g_ptr_array_index(m->machines, i), &shape);
                bad = hypervisor_vm_define(hv, &shape, err);
        }
        struct load l = {m, now};
        bad = bad ? bad : store_load_requests(m->store, load_request, &l, err);
        if (!bad)
                handovers_bring(m);
        return bad;
}

void turns_init(struct meted *m)
{
        m->after = g_array_new(FALSE, FALSE, sizeof(struct effect));
        loop_turn_init(&m->commit, LOOP_COMMIT, on_commit, m);
        loop_timer_init(&m->tick, on_tick, m);
        loop_timer_init(&m->mend, on_mend, m);
}

void turns_done(struct meted *m)
{
        struct err err = {0};
        (void)err_set(&err, REASON_CANCELLED, ECANCELED, "meted stops");
        answer_waiters(m, 0, 0, &err);
        loop_turn_cancel(&m->commit);
        loop_timer_cancel(&m->tick);
        loop_timer_cancel(&m->mend);
        g_array_free(m->after, TRUE);
}

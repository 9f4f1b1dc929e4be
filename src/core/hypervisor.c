/* SPDX-License-Identifier: Apache-2.0 */
/* core/hypervisor.c - the life of requests.
 *
 * Those that hold claims are "live" and bounded; finished ones are remembered up to finished_max a VM, so
 * that whoever asks again after an interruption gets the answer that was given, and are then forgotten.
 *
 * Every change of a request goes through moved(), which queues its record and its log line before
 * anything that leaves the house. Which VMs there are is in vms.c. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "base/units.h"

/* ---- life ---- */

void claim_from_release(struct hypervisor *h, struct definition *d)
{
        if (!d->from)
                return;
        bool had = ledger_release(h->ledger, d->claim_from);
        assert(had);
        d->from = 0;
        d->claim_from = 0;
        d->goes_back = false;
}

void claims_release(struct hypervisor *h, struct entry *e)
{
        for (size_t i = 0; i < e->r.n_definitions; i++) {
                struct definition *c = &e->r.definitions[i];
                bool had = c->claim == 0 || ledger_release(h->ledger, c->claim);
                assert(had);
                if (c->claim)
                        bring_returns(h, e, c);
                c->claim = 0;
                claim_from_release(h, c);
                if (!e->vm || c->slot < 0)
                        continue;
                if (c->kind == VIRTUAL_VCPU) {
                        e->vm->cpu_slots &= ~(UINT64_C(1) << c->slot);
                } else if (c->kind == VIRTUAL_DIMM) {
                        e->vm->memory_slots &= ~(UINT64_C(1) << c->slot);
                        e->vm->leased_bytes -= c->amount;
                } else if (c->kind == VIRTUAL_NIC) {
                        e->vm->nic_slots &= ~(UINT64_C(1) << c->slot);
                        e->vm->leased_bps -= c->slot > 0 ? c->amount : 0;
                } else if (c->kind == VIRTUAL_DISK) {
                        e->vm->disk_slots &= ~(UINT64_C(1) << c->slot);
                        e->vm->leased_disk -= c->slot > 0 ? c->amount : 0;
                } else if (c->kind == VIRTUAL_NONE) {
                        e->vm->class_slots &= ~(UINT64_C(1) << c->slot);
                }
        }
}

static void drop_claims(struct hypervisor *h, struct entry *e)
{
        claims_release(h, e);
        free(e->r.definitions);
        e->r.definitions = NULL;
        e->r.n_definitions = 0;
}

static void overstay(struct hypervisor *h, uint32_t component, claim_id claim)
{
        int64_t owned = ledger_owned(h->ledger, component);
        ledger_set_owned(h->ledger, component, UNITS_MAX);
        int done = ledger_set_end(h->ledger, claim, LEDGER_OPEN);
        ledger_set_owned(h->ledger, component, owned);
        assert(done == 1);
}

void claims_overstay(struct hypervisor *h, const struct request *r)
{
        for (size_t i = 0; i < r->n_definitions && r->end_ms != LEDGER_OPEN; i++) {
                const struct definition *d = &r->definitions[i];
                overstay(h, d->component, d->claim);
                if (d->from)
                        overstay(h, d->from - 1, d->claim_from);
        }
}

static void claims_state(struct hypervisor *h, const struct request *r, enum claim_state state)
{
        for (size_t i = 0; i < r->n_definitions; i++)
                (void)ledger_set_state(h->ledger, r->definitions[i].claim, state);
}

static struct history *history_of(struct hypervisor *h, const struct entry *e)
{
        return e->vm ? &e->vm->history : &h->reservations;
}

static void history_remove(struct history *of, struct entry *e)
{
        struct entry **p = &of->first, *last = NULL;
        while (*p != e) {
                last = *p;
                p = &(*p)->finished_next;
        }
        *p = e->finished_next;
        if (of->last == e)
                of->last = last;
        of->n--;
}

void entry_forget(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        history_remove(history_of(h, e), e);
        effect_push(h, EFFECT_FORGET, &e->r, now_ms);
        entry_unchain(h, e);
        entry_free(e);
}

void entry_finished(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct history *of = history_of(h, e);
        e->finished_next = NULL;
        if (of->last)
                of->last->finished_next = e;
        else
                of->first = e;
        of->last = e;
        of->n++;
        while (of->n > h->config.finished_max)
                entry_forget(h, of->first, now_ms);
}

/* It was live and is final now. */
static void finish(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        walk_forget(h, e);
        h->returning -= e->is_returning;
        e->is_returning = false;
        effect_push(h, EFFECT_ENDED, &e->r, now_ms);
        drop_claims(h, e);
        h->live--;
        if (e->vm && e->r.kind == REQUEST_APP)
                e->vm->live--;
        entry_finished(h, e, now_ms);
        walks_go_on(h, now_ms); /* e may be forgotten by now */
}

static void not_granted(struct request *r, enum reason reason, const char *sentence)
{
        r->outcome = OUTCOME_NOT_NOW;
        r->reason = reason;
        (void)snprintf(r->sentence, sizeof(r->sentence), "%s", sentence);
}

/* The way back begins. A reservation has nothing to deactivate and is back at once. */
static void release_begun(struct hypervisor *h, struct entry *e, const char *event, const char *text,
                          int64_t now_ms)
{
        struct request *r = &e->r;
        if (r->kind == REQUEST_RESERVATION) {
                int moved_on = request_step(r, REQUEST_EV_TAKEN_BACK, NULL);
                assert(moved_on == 1);
                moved(h, r, now_ms, event, text);
                finish(h, e, now_ms);
                return;
        }
        claims_state(h, r, CLAIM_ALLOCATED);
        claims_overstay(h, r);
        h->returning++;
        e->is_returning = true;
        e->wait_end_ms = 0;
        e->may_keep = e->may_keep && !check_is_moving(e); /* what is held is not what stands here */
        for (size_t i = 0; i < r->n_definitions; i++)
                r->definitions[i].moving = false;
        activation_turn(&r->activation, r->definitions, r->n_definitions, e->may_keep);
        moved(h, r, now_ms, event, text);
        walk_start(h, e, now_ms);
}

void give_back(struct hypervisor *h, struct entry *e, enum request_event ev, const char *event,
               enum reason reason, const char *text, int64_t now_ms)
{
        struct request *r = &e->r;
        enum request_state before = r->state;
        if (request_step(r, ev, NULL) != 1)
                return;
        if (before == REQUEST_ACTIVATING) {
                not_granted(r, reason, text);
                effect_push(h, EFFECT_PERSIST, r, now_ms); /* before the answer */
                effect_push(h, EFFECT_ANSWER, r, now_ms);
        } else if (before == REQUEST_OFFERED) {
                not_granted(r, reason, text);
        }
        if (r->state == REQUEST_ENDED) {
                moved(h, r, now_ms, event, text);
                finish(h, e, now_ms);
        } else {
                release_begun(h, e, event, text, now_ms);
        }
}

static struct entry *entry_new(struct hypervisor *h, enum request_kind kind, struct vm_entry *vm,
                               const char *id, int64_t now_ms)
{
        struct entry *e = calloc(1, sizeof(*e));
        if (!e)
                return NULL;
        struct request *r = &e->r;
        r->serial = h->next_serial++;
        r->kind = kind;
        r->asked_ms = r->start_ms = now_ms;
        r->end_ms = LEDGER_OPEN;
        e->vm = vm;
        (void)snprintf(r->id, sizeof(r->id), "%s", id);
        if (vm)
                (void)snprintf(r->vm, sizeof(r->vm), "%s", vm->shape.name);
        switch (kind) {
        case REQUEST_VM:
                (void)snprintf(r->key, sizeof(r->key), "vm:%s", r->vm);
                break;
        case REQUEST_APP:
                (void)snprintf(r->key, sizeof(r->key), "vm:%s/%s", r->vm, r->id);
                break;
        case REQUEST_RESERVATION:
                (void)snprintf(r->key, sizeof(r->key), "reservation:%s", r->id);
                break;
        case REQUEST_KIND_N:
                assert(false);
        }
        return e;
}

/* The verdict is in; act on it. */
static void decided(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct request *r = &e->r;
        definitions_sort(r->definitions, r->n_definitions);
        const char *problem = r->n_definitions && r->kind != REQUEST_RESERVATION
                                      ? definitions_problem(r->definitions, r->n_definitions)
                                      : NULL;
        if (problem) {
                r->outcome = OUTCOME_NEVER;
                r->reason = REASON_INVALID;
                (void)snprintf(r->sentence, sizeof(r->sentence), "%s", problem);
        }
        switch (r->outcome) {
        case OUTCOME_GRANTED:
                r->state = REQUEST_ACTIVATING;
                break;
        case OUTCOME_COUNTER_OFFERED:
                r->state = REQUEST_OFFERED;
                break;
        case OUTCOME_NOT_NOW:
        case OUTCOME_NEVER:
                drop_claims(h, e);
                r->state = REQUEST_REFUSED;
                break;
        case OUTCOME_N:
                assert(false);
        }
        if (r->state == REQUEST_REFUSED) {
                moved(h, r, now_ms, "refused", r->sentence);
                effect_push(h, EFFECT_ANSWER, r, now_ms);
                entry_finished(h, e, now_ms);
                return;
        }
        h->live++;
        if (r->kind == REQUEST_APP)
                e->vm->live++;
        if (r->kind == REQUEST_RESERVATION && r->state == REQUEST_ACTIVATING)
                (void)request_step(r, REQUEST_EV_ACTIVATED, NULL);
        deadline_push(h, deadline_of(r), r->serial);
        if (r->state == REQUEST_ACTIVATING) {
                moved(h, r, now_ms, "reserved", r->sentence + strlen("granted "));
                walk_start(h, e, now_ms);
        } else {
                moved(h, r, now_ms, r->state == REQUEST_OFFERED ? "offered" : "granted", r->sentence);
                effect_push(h, EFFECT_ANSWER, r, now_ms);
        }
}

/* A start that was not behind the moment of asking meant that moment. */
static bool same_ask(const struct request *r, const struct ask *ask)
{
        int64_t start_ms = ask->start_ms > r->asked_ms ? ask->start_ms : r->asked_ms;
        if (r->n_needs != ask->n_needs || r->start_ms != start_ms || r->end_ms != ask->end_ms)
                return false;
        for (size_t i = 0; i < r->n_needs; i++) {
                char a[NEED_TEXT], b[NEED_TEXT];
                if (strcmp(need_print(&r->needs[i], a), need_print(&ask->needs[i], b)) != 0)
                        return false;
        }
        return true;
}

/* Common beginning of ask and refuse. 1: known, answered again. 0: *ret_e is new. */
static int ask_begin(struct hypervisor *h, const struct ask *ask, int64_t now_ms, uint64_t *ret_serial,
                     struct entry **ret_e, struct err *err)
{
        struct vm_entry *vm = NULL;
        if (ask->kind == REQUEST_APP) {
                vm = find_vm(h, ask->vm);
                if (!vm)
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", ask->vm);
        }
        if (!str_is_id(ask->id))
                return err_set(err, REASON_INVALID, EINVAL, "an id has 1 to 63 of A-Z a-z 0-9 . _ : -");
        struct entry *e = entry_new(h, ask->kind, vm, ask->id, now_ms);
        if (!e)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        struct entry *known = find_key(h, e->r.key);
        if (known) {
                h->next_serial--;
                entry_free(e);
                if (!same_ask(&known->r, ask))
                        return err_set(err, REASON_INVALID, EEXIST,
                                       "the id %s was used before with other needs or another time", ask->id);
                *ret_serial = known->r.serial;
                if (known->r.state != REQUEST_ACTIVATING) /* else the answer comes when it is usable */
                        effect_push(h, EFFECT_ANSWER, &known->r, now_ms);
                return 1;
        }
        if (h->live >= h->config.live_max || (vm && vm->live >= h->config.live_per_vm_max)) {
                h->next_serial--;
                entry_free(e);
                return err_set(err, REASON_BUSY, EBUSY,
                               "%s holds as many requests as it may; release one first",
                               vm ? "this VM" : "this host");
        }
        (void)snprintf(e->r.application, sizeof(e->r.application), "%s",
                       ask->application ? ask->application : "");
        if (ask->start_ms > now_ms)
                e->r.start_ms = ask->start_ms;
        e->r.end_ms = ask->end_ms;
        e->r.accepts_less = ask->accepts_less;
        e->r.n_needs = ask->n_needs;
        if (ask->n_needs)
                memcpy(e->r.needs, ask->needs, ask->n_needs * sizeof(*ask->needs));
        *ret_e = e;
        return 0;
}

static int ask_end(struct hypervisor *h, const struct ask *ask, struct entry *e, int64_t now_ms,
                   uint64_t *ret_serial, struct err *err)
{
        *ret_serial = e->r.serial;
        if (!entry_keep(h, e)) {
                drop_claims(h, e);
                entry_free(e);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        }
        if (ask->why) {
                char trace[REQUEST_TRACE];
                request_trace(&e->r, trace);
                hypervisor_note(h, now_ms, trace, e->r.key, "guest-says", "%s", ask->why);
        }
        decided(h, e, now_ms);
        return 0;
}

int hypervisor_ask(struct hypervisor *h, const struct ask *ask, int64_t now_ms, uint64_t *ret_serial,
                   struct err *err)
{
        struct entry *e;
        int bad = needs_check(ask->needs, ask->n_needs, err);
        if (bad)
                return bad;
        hypervisor_tick(h, now_ms); /* what has ended is on its way back before anything new is given away */
        int known = ask_begin(h, ask, now_ms, ret_serial, &e, err);
        if (known)
                return known < 0 ? known : 0;
        if (ask->end_ms <= e->r.start_ms) { /* only of what is new: what has ended may be asked for again */
                entry_free(e);
                return err_set(err, REASON_INVALID, EINVAL,
                               "the end of the window must be behind its start, and behind now");
        }
        if (e->vm) {
                const struct entry *base = base_of(h, e->vm->shape.name);
                if (!base || base->r.state != REQUEST_GRANTED) {
                        entry_free(e);
                        return err_set(err, REASON_STALE, EAGAIN, "the VM %s is not running", ask->vm);
                }
        }
        if (ask->stale) { /* only of what is new: what was decided stays so */
                e->r.outcome = OUTCOME_NOT_NOW;
                e->r.reason = REASON_STALE;
                (void)snprintf(e->r.sentence, sizeof(e->r.sentence), "%s", ask->stale);
        } else {
                bad = decide(h, e, ask, now_ms, err);
        }
        if (bad) {
                drop_claims(h, e);
                entry_free(e);
                return bad;
        }
        return ask_end(h, ask, e, now_ms, ret_serial, err);
}

int hypervisor_refuse(struct hypervisor *h, const struct ask *ask, enum reason reason, const char *sentence,
                      int64_t now_ms, uint64_t *ret_serial, struct err *err)
{
        struct entry *e = NULL;
        struct ask bare = *ask;
        bare.n_needs = 0;
        bare.end_ms = LEDGER_OPEN;
        int known = ask_begin(h, &bare, now_ms, ret_serial, &e, err);
        if (known)
                return known < 0 ? known : 0;
        e->r.outcome = OUTCOME_NEVER;
        e->r.reason = reason;
        (void)snprintf(e->r.sentence, sizeof(e->r.sentence), "%s", sentence);
        return ask_end(h, ask, e, now_ms, ret_serial, err);
}

int hypervisor_accept(struct hypervisor *h, const char *key, int64_t now_ms, uint64_t *ret_serial,
                      struct err *err)
{
        /* First: an offer that lapsed a moment ago is not taken, and what lapses may make an entry forgotten.
         */
        hypervisor_tick(h, now_ms);
        struct entry *e = find_key(h, key);
        if (!e)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no request is called %s", key);
        int n = request_step(&e->r, REQUEST_EV_ACCEPT, err);
        if (n < 0)
                return n;
        *ret_serial = e->r.serial;
        if (n == 0) {
                if (e->r.state == REQUEST_GRANTED)
                        effect_push(h, EFFECT_ANSWER, &e->r, now_ms);
                return 0;
        }
        struct request *r = &e->r;
        r->outcome = OUTCOME_GRANTED;
        r->reason = 0;
        struct need met[NEEDS_MAX];
        request_granted_needs(r, met);
        size_t at = (size_t)snprintf(r->sentence, sizeof(r->sentence), "granted");
        for (size_t i = 0; i < r->n_needs && at < sizeof(r->sentence); i++) {
                char text[NEED_TEXT];
                at += (size_t)snprintf(r->sentence + at, sizeof(r->sentence) - at, " %s",
                                       need_print(&met[i], text));
        }
        deadline_push(h, deadline_of(r), r->serial);
        if (r->kind == REQUEST_RESERVATION) {
                claims_state(h, r, CLAIM_RESERVED);
                (void)request_step(r, REQUEST_EV_ACTIVATED, NULL);
                moved(h, r, now_ms, "accepted", r->sentence);
                effect_push(h, EFFECT_ANSWER, r, now_ms);
                return 0;
        }
        claims_state(h, r, CLAIM_ALLOCATED);
        moved(h, r, now_ms, "accepted", r->sentence);
        walk_start(h, e, now_ms);
        return 0;
}

static int release(struct hypervisor *h, const char *key, const char *cause, bool lazily, int64_t now_ms,
                   uint64_t *ret_serial, struct err *err)
{
        struct entry *e = find_key(h, key);
        if (!e)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no request is called %s", key);
        *ret_serial = e->r.serial;
        if (e->r.state == REQUEST_RELEASING && e->r.activation.is_lazy && !lazily) {
                walk_not_lazily(h, e, cause, now_ms);
        } else if (e->r.state != REQUEST_RELEASING && request_is_live(&e->r)) {
                char text[64];
                e->may_keep = lazily && h->config.keeps && e->r.state == REQUEST_GRANTED;
                (void)snprintf(text, sizeof(text), "by its holder: %s", cause);
                give_back(h, e, REQUEST_EV_RELEASE, "released", REASON_CANCELLED, text, now_ms);
        }
        effect_push(h, EFFECT_RELEASED, NULL, now_ms)->serial = *ret_serial; /* e may be forgotten by now */
        return 0;
}

int hypervisor_release(struct hypervisor *h, const char *key, const char *cause, int64_t now_ms,
                       uint64_t *ret_serial, struct err *err)
{
        return release(h, key, cause, false, now_ms, ret_serial, err);
}

int hypervisor_vm_stopped(struct hypervisor *h, const char *name, const char *cause, int64_t now_ms,
                          uint64_t *ret_serial, struct err *err)
{
        char key[REQUEST_KEY];
        (void)snprintf(key, sizeof(key), "vm:%s", name);
        return release(h, key, cause, true, now_ms, ret_serial, err);
}

/* ---- the ends of walks ---- */

void became_usable(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        int moved_on = request_step(&e->r, REQUEST_EV_ACTIVATED, NULL);
        assert(moved_on == 1);
        e->wait_end_ms = 0;
        claims_state(h, &e->r, CLAIM_ACTIVE);
        moved(h, &e->r, now_ms, e->r.kind == REQUEST_VM ? "running" : "granted", e->r.sentence);
        effect_push(h, EFFECT_ANSWER, &e->r, now_ms);
}

void became_unusable(struct hypervisor *h, struct entry *e, const struct err *why, int64_t now_ms)
{
        give_back(h, e, REQUEST_EV_FAILED, "failed", why->reason ? why->reason : REASON_INTERNAL,
                  why->sentence, now_ms);
}

void hypervisor_failed(struct hypervisor *h, uint64_t serial, const struct err *why, int64_t now_ms)
{
        struct entry *e = find_serial(h, serial);
        if (e && e->r.state == REQUEST_ACTIVATING)
                became_unusable(h, e, why, now_ms);
}

/* With the VM's base resources goes all that it was lent. */
static void vm_came_back(struct hypervisor *h, struct entry *base, int64_t now_ms)
{
        struct entry *next;
        for (struct entry *e = h->oldest; e; e = next) {
                next = e->newer;
                if (e->vm != base->vm || e == base || !request_is_live(&e->r))
                        continue;
                give_back(h, e, REQUEST_EV_GONE, "ended", REASON_CANCELLED, "its VM has ended", now_ms);
                next = h->oldest; /* finishing may forget any finished one: begin anew */
        }
}

void came_back(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        if (e->r.state == REQUEST_RECLAIMING) {
                kept_came_back(h, e, now_ms);
                return;
        }
        if (e->r.kind == REQUEST_VM)
                vm_came_back(h, e, now_ms);
        const char *problem = e->r.activation.is_lazy ? kept_problem(h, &e->r) : NULL;
        if (problem) {
                walk_not_lazily(h, e, problem, now_ms);
                activation_repeat(&e->r.activation, e->r.definitions, e->r.n_definitions);
                walk_start(h, e, now_ms);
                return;
        }
        if (kept_begin(h, e, now_ms))
                return;
        int moved_on = request_step(&e->r, REQUEST_EV_TAKEN_BACK, NULL);
        assert(moved_on == 1);
        moved(h, &e->r, now_ms, "ended", "everything is back");
        finish(h, e, now_ms);
}

void hypervisor_tick(struct hypervisor *h, int64_t now_ms)
{
        ledger_advance(h->ledger, now_ms);
        while (h->heap_n && h->heap[0].at_ms <= now_ms) {
                struct entry *e = find_serial(h, h->heap[0].serial);
                deadline_pop(h);
                if (!e || next_deadline(e) > now_ms)
                        continue; /* stale: it finished, or its time was changed */
                if (e->retry_at_ms && e->retry_at_ms <= now_ms) {
                        walk_retry(h, e, now_ms);
                        continue;
                }
                if (e->is_waiting && e->wait_end_ms <= now_ms && deadline_of(&e->r) > now_ms) {
                        struct err late = {0};
                        (void)err_set(&late, REASON_TIMEOUT, ETIMEDOUT,
                                      "what stopped VMs have kept of it could not be reclaimed in time");
                        became_unusable(h, e, &late, now_ms);
                        continue;
                }
                bool was_granted = e->r.state == REQUEST_GRANTED;
                bool was_offer = e->r.state == REQUEST_OFFERED;
                const char *text = was_offer ? "the counter-offer was not accepted in time"
                                             : "the lease reached its end";
                if (was_granted && e->r.kind == REQUEST_APP) {
                        struct effect *f = effect_push(h, EFFECT_LEASE_ENDED, &e->r, now_ms);
                        f->reason = REASON_TIMEOUT;
                        (void)snprintf(f->text, sizeof(f->text), "%s", text);
                }
                give_back(h, e, REQUEST_EV_EXPIRE, was_offer ? "lapsed" : "expired", REASON_TIMEOUT, text,
                          now_ms);
        }
}

/* ---- VMs ---- */

/* hold_ms > 0: only held for so long. */
static int vm_begin(struct hypervisor *h, const char *name, int64_t hold_ms, int64_t now_ms, struct err *err)
{
        struct vm_entry *v = find_vm(h, name);
        if (!v)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", name);
        hypervisor_tick(h, now_ms);
        struct entry *base = base_of(h, name);
        if (base && request_is_live(&base->r)) {
                if (base->r.state == REQUEST_RELEASING)
                        return err_set(err, REASON_BUSY, EBUSY, "VM %s is stopping", name);
                if (base->r.state == REQUEST_GRANTED)
                        effect_push(h, EFFECT_ANSWER, &base->r, now_ms);
                return hold_ms > 0 && base->r.state != REQUEST_OFFERED
                               ? err_set(err, REASON_BUSY, EBUSY, "VM %s runs", name)
                               : 0;
        }
        if (base) /* the run before: its row makes way */
                entry_forget(h, base, now_ms);
        if (h->live >= h->config.live_max)
                return err_set(err, REASON_BUSY, EBUSY, "this host holds as many requests as it may");
        struct entry *e = entry_new(h, REQUEST_VM, v, name, now_ms);
        if (!e)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        struct request *r = &e->r;
        r->n_needs = 2;
        r->needs[0] =
                (struct need){.kind = COMPONENT_CPU, .amount = v->shape.cpus, .amount_max = v->shape.cpus};
        if (v->shape.share_milli) {
                r->needs[0].n_parameters = 1;
                r->needs[0].parameters[0] = (struct parameter){
                        .id = PARAMETER_SHARE, .relation = RELATION_AT_LEAST, .value = v->shape.share_milli};
        }
        r->needs[1] = (struct need){.kind = COMPONENT_MEMORY,
                                    .amount = v->shape.memory_bytes,
                                    .amount_max = v->shape.memory_bytes};
        if (v->shape.page_bytes) {
                r->needs[1].n_parameters = 1;
                r->needs[1].parameters[0] = (struct parameter){
                        .id = PARAMETER_PAGE, .relation = RELATION_EQUAL, .value = v->shape.page_bytes};
        }
        if (v->shape.net_bps)
                r->needs[r->n_needs++] = (struct need){
                        .kind = COMPONENT_NET, .amount = v->shape.net_bps, .amount_max = v->shape.net_bps};
        if (v->shape.disk_rate)
                r->needs[r->n_needs++] = (struct need){.kind = COMPONENT_BLOCK,
                                                       .amount = v->shape.disk_rate,
                                                       .amount_max = v->shape.disk_rate};
        if (!entry_keep(h, e)) { /* first: else what is kept would be taken over by nobody */
                entry_free(e);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        }
        int bad = kept_take_over(h, e, now_ms) ? 0 : decide(h, e, NULL, now_ms, err);
        if (bad) {
                drop_claims(h, e);
                entry_unchain(h, e);
                entry_free(e);
                return bad;
        }
        if (hold_ms > 0 && r->outcome == OUTCOME_GRANTED) {
                r->outcome = OUTCOME_COUNTER_OFFERED;
                r->offer_end_ms = now_ms + hold_ms;
                claims_state(h, r, CLAIM_HELD);
        }
        decided(h, e, now_ms);
        return 0;
}

int hypervisor_vm_start(struct hypervisor *h, const char *name, int64_t now_ms, struct err *err)
{
        return vm_begin(h, name, 0, now_ms, err);
}

int hypervisor_vm_hold(struct hypervisor *h, const char *name, int64_t hold_ms, int64_t now_ms,
                       struct err *err)
{
        return vm_begin(h, name, hold_ms, now_ms, err);
}

void hypervisor_vm_processes_gone(struct hypervisor *h, const char *name, const char *why, int64_t now_ms)
{
        struct entry *next;
        for (struct entry *e = h->oldest; e; e = next) {
                next = e->newer;
                if (e->r.kind != REQUEST_APP || strcmp(e->r.vm, name) != 0 || request_is_final(&e->r) ||
                    e->r.state == REQUEST_RELEASING)
                        continue;
                give_back(h, e, REQUEST_EV_RELEASE, "released", REASON_CANCELLED, why, now_ms);
                next = h->oldest; /* as in vm_came_back() */
        }
}

/* ---- the rest ---- */

struct hypervisor *hypervisor_new(const struct hypervisor_config *config, const struct component *components,
                                  size_t n_components, int64_t now_ms)
{
        struct hypervisor *h = calloc(1, sizeof(*h));
        int64_t *owned = calloc(n_components + 1, sizeof(*owned));
        if (h && owned) {
                h->config = *config;
                h->next_serial = config->first_serial;
                h->components = calloc(n_components + 1, sizeof(*components));
                h->n_components = n_components;
                for (size_t i = 0; i < n_components; i++)
                        owned[i] = component_owned(&components[i]);
                h->ledger = ledger_new(owned, n_components, now_ms);
        }
        free(owned);
        if (!h || !h->components || !h->ledger || !tables_grow(h)) {
                hypervisor_free(h);
                return NULL;
        }
        memcpy(h->components, components, n_components * sizeof(*components));
        return h;
}

void hypervisor_free(struct hypervisor *h)
{
        if (!h)
                return;
        while (h->oldest) {
                struct entry *e = h->oldest;
                h->oldest = e->newer;
                entry_free(e);
        }
        while (h->vms) {
                struct vm_entry *v = h->vms;
                h->vms = v->next;
                bring_free(v);
                free(v->avoids);
                free(v);
        }
        ledger_free(h->ledger);
        free(h->components);
        free(h->by_key);
        free(h->by_serial);
        free(h->heap);
        free(h->effects);
        free(h);
}

const struct request *hypervisor_request(const struct hypervisor *h, uint64_t serial)
{
        const struct entry *e = find_serial(h, serial);
        return e ? &e->r : NULL;
}

const struct request *hypervisor_find(const struct hypervisor *h, const char *key)
{
        const struct entry *e = find_key(h, key);
        return e ? &e->r : NULL;
}

void hypervisor_each(const struct hypervisor *h, void (*fn)(const struct request *r, void *arg), void *arg)
{
        for (const struct entry *e = h->oldest; e; e = e->newer)
                fn(&e->r, arg);
}

const struct ledger *hypervisor_ledger(const struct hypervisor *h)
{
        return h->ledger;
}

const struct component *hypervisor_components(const struct hypervisor *h, size_t *ret_n)
{
        *ret_n = h->n_components;
        return h->components;
}

int32_t hypervisor_default_share(const struct hypervisor *h)
{
        return CPU_WHOLE_MILLI / h->config.cpu_overcommit;
}

void request_granted_needs(const struct request *r, struct need ret[NEEDS_MAX])
{
        for (size_t i = 0; i < r->n_needs; i++) {
                ret[i] = r->needs[i];
                if (r->met[i] > 0)
                        ret[i].amount = ret[i].amount_max = r->met[i];
        }
}

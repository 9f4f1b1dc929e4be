/* SPDX-License-Identifier: Apache-2.0 */
/* core/walks.c - whose turn it is. The activations and ways back of one VM go one after another, each of them
 * step by step on a single thread of control; those of different VMs go side by side.
 *
 * A step leaves as EFFECT_STEP, behind its record in the journal, and the next one leaves after its report.
 * What happens meanwhile (a release, the end of a lease) turns the walk at once and is acted on when the step
 * that is out has been reported: there is never a second one beside it. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* What the event log calls a step that is done. */
static const struct {
        const char *up, *back;
} done_events[PHASE_N] = {
        [PHASE_PREPARE] = {"prepared",       "unprepared"      },
        [PHASE_HOST] = {"host-activated", "host-deactivated"},
        [PHASE_MARK] = {"marked",         "unmarked"        },
        [PHASE_VIRTUAL] = {"activated",      "deactivated"     },
        [PHASE_BIND] = {"bound",          "host-prepared"   },
        [PHASE_CONFIRM] = {"initialised",    "let-go"          },
        [PHASE_FINALISE] = {"finalised",      "unfinalised"     },
        [PHASE_CONFIGURE] = {"configured",     "unconfigured"    },
};

static const char *done_event(enum phase p, bool is_back)
{
        return is_back ? done_events[p].back : done_events[p].up;
}

void item_text(const struct hypervisor *h, const struct definition *d, char *ret, size_t size)
{
        const char *host = h->components[d->component].id;
        if (d->kind == VIRTUAL_NONE) /* its id says its kind */
                (void)snprintf(ret, size, "%s", host);
        else
                (void)snprintf(ret, size, "%s %d on %s", virtual_kind_name(d->kind), (int)d->slot, host);
}

static void note_step(struct hypervisor *h, const struct entry *e, const char *event, const char *detail,
                      int64_t now_ms)
{
        const struct request *r = &e->r;
        char item[64] = "";
        if (phase_has_items(r->activation.phase))
                item_text(h, &r->definitions[r->activation.item], item, sizeof(item));
        char trace[REQUEST_TRACE];
        request_trace(r, trace);
        hypervisor_note(h, now_ms, trace, r->key, event, "%s%s%s", item, *item && detail ? ": " : "",
                        detail ? detail : "");
}

void queue_push(struct entry *e)
{
        struct entry **p = &e->vm->walk_first;
        if (e->is_walking)
                return;
        while (*p)
                p = &(*p)->walk_next;
        *p = e;
        e->walk_next = NULL;
        e->is_walking = true;
}

static void wait_begin(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct entry **p = &h->waiting_first;
        while (*p)
                p = &(*p)->wait_next;
        *p = e;
        e->wait_next = NULL;
        e->is_waiting = true;
        if (!e->wait_end_ms)
                e->wait_end_ms = now_ms + h->config.reclaim_ms;
        deadline_push(h, e->wait_end_ms, e->r.serial);
        char trace[REQUEST_TRACE];
        request_trace(&e->r, trace);
        hypervisor_note(h, now_ms, trace, e->r.key, "waits", "for what is kept of others to be reclaimed");
        kept_hurry(h, now_ms);
}

static void wait_forget(struct hypervisor *h, struct entry *e)
{
        if (!e->is_waiting)
                return;
        struct entry **p = &h->waiting_first;
        while (*p != e)
                p = &(*p)->wait_next;
        *p = e->wait_next;
        e->is_waiting = false;
}

void walk_forget(struct hypervisor *h, struct entry *e)
{
        wait_forget(h, e);
        e->retry_at_ms = 0;
        e->check = CHECK_NONE;
        e->checks_again = e->check_restarts = false;
        if (!e->is_walking)
                return;
        struct entry **p = &e->vm->walk_first;
        while (*p != e)
                p = &(*p)->walk_next;
        *p = e->walk_next;
        e->is_walking = false;
}

/* ---- one VM's turn ---- */

static void send(struct hypervisor *h, struct entry *e, const struct activation *step, bool is_check,
                 int64_t now_ms)
{
        struct vm_entry *vm = e->vm;
        struct effect *f = effect_push(h, EFFECT_STEP, &e->r, now_ms);
        f->step = *step;
        f->is_check = is_check;
        f->token = vm->token = ++h->next_token;
        vm->is_step_out = true;
        vm->is_step_back = step->is_back;
        vm->is_step_check = is_check;
}

static void send_step(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        effect_push(h, EFFECT_JOURNAL, &e->r, now_ms);
        send(h, e, &e->r.activation, false, now_ms);
}

/* Later and later. */
static void retry_later(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        if (e->retry_in_ms == 0)
                e->retry_in_ms = h->config.retry_first_ms;
        e->retry_at_ms = now_ms + e->retry_in_ms;
        e->retry_in_ms =
                e->retry_in_ms > h->config.retry_max_ms / 2 ? h->config.retry_max_ms : 2 * e->retry_in_ms;
        deadline_push(h, e->retry_at_ms, e->r.serial);
}

/* A check makes no record: what it changes stands in the log before it acts. */
static void go_on_checking(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct activation step;
        if (check_next(h, e, now_ms, &step)) {
                send(h, e, &step, true, now_ms);
                return;
        }
        bool is_again = e->checks_again, has_more = e->check_has_more;
        walk_forget(h, e);
        if (is_again || has_more) {
                (is_again ? check_begin : check_begin_narrow)(e);
                e->vm->is_others_turn = has_more;
                queue_push(e);
        } else if (check_is_moving(e)) {
                effect_push(h, EFFECT_PERSIST, &e->r,
                            now_ms); /* its guest need not wait any more to be told */
                retry_later(h, e, now_ms);
        } else {
                e->retry_in_ms = 0;
        }
}

static void note_own(struct hypervisor *h, const struct entry *e, unsigned own, int64_t now_ms)
{
        const struct request *r = &e->r;
        char trace[REQUEST_TRACE];
        request_trace(r, trace);
        for (enum phase p = PHASE_PREPARE; p < PHASE_N; p++)
                if (own & (1U << p))
                        hypervisor_note(h, now_ms, trace, r->key, done_event(p, r->activation.is_back),
                                        "the definitions say so");
}

static void is_held(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        char trace[REQUEST_TRACE];
        request_trace(&e->r, trace);
        effect_push(h, EFFECT_PERSIST, &e->r, now_ms);
        hypervisor_note(h, now_ms, trace, e->r.key, "still-held", "%s", e->held);
        e->may_hurry = !e->is_hurried;
        e->is_hurried = false;
        retry_later(h, e, now_ms);
        if (e->force_at_ms > now_ms && e->retry_at_ms > e->force_at_ms) {
                e->retry_at_ms = e->force_at_ms; /* the last try */
                deadline_push(h, e->retry_at_ms, e->r.serial);
        }
        if (e->r.state == REQUEST_RECLAIMING) {
                kept_is_held(h, e);
                walks_go_on(h, now_ms); /* what else is kept has to make room */
        }
}

/* A DIMM that is not let go of, that is: a vCPU is put aside whatever the guest does. Of what the host side
 * did not give back there is no hurry: that a keeper is away is no fault of the guest's. */
static bool is_overdue(const struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        if (!h->config.force_after_ms || !e->is_held_by_guest)
                e->force_at_ms = 0;
        else if (!e->force_at_ms)
                e->force_at_ms = now_ms + h->config.force_after_ms;
        return e->force_at_ms && e->force_at_ms <= now_ms;
}

/* A guest that does not co-operate never blocks the host (2.23): what it has is taken with its VMM. */
static void force(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        char trace[REQUEST_TRACE];
        uint64_t serial;
        struct entry *base = base_of(h, e->vm->shape.name);
        request_trace(&e->r, trace);
        hypervisor_note(h, now_ms, trace, e->r.key, "forced",
                        "the VM is ended, as its guest does not let go");
        int bad = hypervisor_release(h, base->r.key, "forced", now_ms, &serial, NULL);
        assert(!bad);
}

static bool moves(const struct entry *e)
{
        return e->check && check_is_moving(e);
}

/* Between two steps: what the host moves does not wait for activations that a guest may draw out (2.23). Nor
 * do those wait for all of what takes many steps: one of these and one of theirs take turns. */
static struct entry *queue_first(struct vm_entry *vm)
{
        bool is_theirs = vm->is_others_turn;
        struct entry **p = &vm->walk_first;
        vm->is_others_turn = false;
        while (*p && moves(*p) == is_theirs)
                p = &(*p)->walk_next;
        struct entry *e = *p;
        if (e && e != vm->walk_first) {
                *p = e->walk_next;
                e->walk_next = vm->walk_first;
                vm->walk_first = e;
        }
        return vm->walk_first;
}

void queue_go_on(struct hypervisor *h, struct vm_entry *vm, int64_t now_ms)
{
        while (vm->walk_first && !vm->is_step_out) {
                struct entry *e = queue_first(vm);
                struct request *r = &e->r;
                unsigned own = 0;
                if (e->check) {
                        go_on_checking(h, e, now_ms);
                        continue;
                }
                enum activation_next next = ACTIVATION_STEP;
                if (!e->is_resumed || !activation_is_at_step(&r->activation, r->n_definitions))
                        next = activation_next(&r->activation, r->definitions, r->n_definitions, &own);
                e->is_resumed = false;
                if (own) {
                        effect_push(h, EFFECT_PERSIST, r, now_ms);
                        note_own(h, e, own, now_ms);
                }
                if (next == ACTIVATION_STEP) {
                        send_step(h, e, now_ms);
                        continue;
                }
                walk_forget(h, e);
                if (next == ACTIVATION_USABLE)
                        became_usable(h, e, now_ms);
                else if (next == ACTIVATION_BACK)
                        came_back(h, e, now_ms);
                else if (is_overdue(h, e, now_ms))
                        force(h, e, now_ms);
                else
                        is_held(h, e, now_ms);
        }
}

/* The VM itself goes: what it was lent goes with it, without a way back of its own. What was kept of the run
 * before has one. */
static void take_all_out(struct hypervisor *h, struct vm_entry *vm)
{
        struct entry *next;
        for (struct entry *e = vm->walk_first; e; e = next) {
                next = e->walk_next;
                if (e->r.state != REQUEST_RECLAIMING)
                        walk_forget(h, e);
        }
}

static bool vm_goes(const struct hypervisor *h, const struct vm_entry *vm)
{
        const struct entry *base = base_of(h, vm->shape.name);
        return !base || base->r.state != REQUEST_GRANTED;
}

static void walk(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct vm_entry *vm = e->vm;
        if (e->r.state == REQUEST_RELEASING && e->r.kind == REQUEST_VM) {
                take_all_out(h, vm);
                if (vm->is_step_out && !vm->walk_first)
                        effect_push(h, EFFECT_HURRY, &e->r, now_ms);
        } else if (e->r.kind == REQUEST_APP && vm_goes(h, vm)) {
                return; /* it ends with its VM */
        }
        e->check = CHECK_NONE;
        e->checks_again = e->check_restarts = false;
        queue_push(e);
        queue_go_on(h, vm, now_ms);
}

/* Up: only when what is kept leaves room for it (3.22). What had begun before a restart had that. */
static bool has_begun(const struct request *r)
{
        return r->activation.is_back || r->activation.phase != 0;
}

static void begin(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        if (!has_begun(&e->r) && !kept_makes_room(h, e, now_ms))
                wait_begin(h, e, now_ms);
        else
                walk(h, e, now_ms);
}

void walk_start(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        wait_forget(h, e);
        e->retry_at_ms = 0;
        begin(h, e, now_ms);
}

void walks_go_on(struct hypervisor *h, int64_t now_ms)
{
        struct entry *e = h->waiting_first;
        while (e) {
                /* one that has begun found less room than the books say: only its step can tell */
                if (!has_begun(&e->r) && !kept_makes_room(h, e, now_ms)) {
                        e = e->wait_next;
                        continue;
                }
                wait_forget(h, e);
                walk(h, e, now_ms);
                e = h->waiting_first; /* whatever that has done to the list */
        }
}

void walk_resume(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        if (e->is_walking || e->retry_at_ms || e->is_waiting)
                return; /* something has set it going since the restart */
        e->is_resumed = true;
        if (e->r.activation.is_back)
                activation_repeat(&e->r.activation, e->r.definitions, e->r.n_definitions);
        begin(h, e, now_ms);
}

void walk_retry(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        e->retry_at_ms = 0;
        e->is_held_by_guest = false;
        if (e->r.state == REQUEST_GRANTED && check_is_moving(e))
                check_moves(h, e, now_ms);
        if (e->r.state != REQUEST_RELEASING && e->r.state != REQUEST_RECLAIMING)
                return;
        activation_repeat(&e->r.activation, e->r.definitions, e->r.n_definitions);
        walk(h, e, now_ms);
}

void walk_not_lazily(struct hypervisor *h, struct entry *e, const char *why, int64_t now_ms)
{
        activation_turn(&e->r.activation, e->r.definitions, e->r.n_definitions, false);
        moved(h, &e->r, now_ms, "not-kept", why);
}

void walk_hurry(struct hypervisor *h, struct entry *e, int64_t at_ms)
{
        if (e->retry_at_ms <= at_ms || !e->may_hurry)
                return;
        e->retry_at_ms = at_ms;
        e->may_hurry = false;
        e->is_hurried = true;
        deadline_push(h, at_ms, e->r.serial);
}

void hypervisor_vm_hurry(struct hypervisor *h, const char *name, int64_t at_ms)
{
        struct vm_entry *vm = find_vm(h, name);
        for (struct entry *e = h->oldest; e && vm; e = e->newer)
                if (e->vm == vm)
                        walk_hurry(h, e, at_ms);
}

void hypervisor_step_goes_on(struct hypervisor *h, uint64_t serial, uint64_t token, int64_t now_ms)
{
        struct entry *e = find_serial(h, serial);
        struct vm_entry *vm = e ? e->vm : NULL;
        if (!vm || !vm->is_step_out || vm->token != token)
                return;
        assert(vm->is_step_check);
        vm->is_step_out = false;
        if (e == vm->walk_first && e->check)
                check_goes_on(e);
        queue_go_on(h, vm, now_ms);
}

/* Only where the host side answers: a guest, whatever it says, takes nothing from other VMs. */
static bool host_lacks_room(const struct request *r, const struct err *err)
{
        const struct activation *a = &r->activation;
        if (!err || err->reason != REASON_NO_CAPACITY || a->is_back)
                return false;
        return a->phase == PHASE_HOST ||
               (a->phase == PHASE_VIRTUAL && r->definitions[a->item].kind == VIRTUAL_RAM); /* the launch */
}

void hypervisor_step_done(struct hypervisor *h, uint64_t serial, uint64_t token, const struct err *err,
                          const char *detail, int64_t now_ms)
{
        struct entry *e = find_serial(h, serial);
        struct vm_entry *vm = e ? e->vm : NULL;
        if (!vm || !vm->is_step_out || vm->token != token)
                return;
        vm->is_step_out = false;
        struct request *r = &e->r;
        struct activation *a = &r->activation;
        bool is_first = e == vm->walk_first, is_check = vm->is_step_check;
        bool is_awaited = is_first && !is_check && !e->check && a->is_back == vm->is_step_back;
        bool waits = is_awaited && host_lacks_room(r, err) &&
                     kept_makes_more_room(h, h->components[r->definitions[a->item].component].kind, now_ms);
        if (is_first && is_check && e->check) {
                check_report(h, e, err, now_ms);
        } else if (waits) { /* and then the same step again */
                walk_forget(h, e);
                e->is_resumed = true;
                wait_begin(h, e, now_ms);
        } else if (is_awaited) {
                note_step(h, e, err ? "step-failed" : done_event(a->phase, a->is_back),
                          err ? err->sentence : detail, now_ms);
                activation_report(a, r->definitions, r->n_definitions, !err);
                if (err && vm->is_step_back) {
                        (void)snprintf(e->held, sizeof(e->held), "%s", err->sentence);
                        e->is_held_by_guest |= a->phase == PHASE_VIRTUAL && r->kind == REQUEST_APP &&
                                               r->definitions[a->item].kind == VIRTUAL_DIMM &&
                                               (err->reason == REASON_BUSY || err->reason == REASON_TIMEOUT);
                } else if (err)
                        became_unusable(h, e, err, now_ms); /* which goes on with the way back */
        }
        queue_go_on(h, vm, now_ms);
}

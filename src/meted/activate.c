/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/activate.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "meted/activate-internal.h"
#include "meted/crash.h"
#include "meted/handover.h"
#include "meted/moves.h"

enum { ADOPT_RETRY_MS = 2000, HURRY_MS = 200, FAULT_POLL_MS = 10 };

/* What a step of an item means. The engine asks only for what its table gives the kind; a kind that is not
 * here has no provider yet, and core/component.c does not let needs name it. */
static const struct {
        step_fn *up, *back;
} item_steps[VIRTUAL_KIND_N][PHASE_N] = {
        [VIRTUAL_NONE] = {[PHASE_HOST] = {host_activate, host_deactivate},
                          [PHASE_BIND] = {class_bind, class_unbind},
                          [PHASE_FINALISE] = {class_finalise, NULL}},
        [VIRTUAL_RAM] = {[PHASE_PREPARE] = {vmm_prepare, vmm_unprepare},
                          [PHASE_HOST] = {host_activate, host_deactivate},
                          [PHASE_VIRTUAL] = {vmm_activate, vmm_deactivate},
                          [PHASE_FINALISE] = {vmm_finalise, NULL}},
        [VIRTUAL_DIMM] = {[PHASE_PREPARE] = {dimm_prepare, dimm_deactivate},
                          [PHASE_HOST] = {host_activate, host_deactivate},
                          [PHASE_VIRTUAL] = {dimm_activate, dimm_deactivate},
                          [PHASE_FINALISE] = {dimm_finalise, NULL}},
        [VIRTUAL_VCPU] = {[PHASE_HOST] = {host_activate, host_deactivate},
                          [PHASE_VIRTUAL] = {vcpu_activate, vcpu_deactivate},
                          [PHASE_BIND] = {vcpu_bind, vcpu_unbind},
                          [PHASE_FINALISE] = {vcpu_finalise, NULL}},
        [VIRTUAL_NIC] = {[PHASE_HOST] = {host_activate, host_deactivate},
                          [PHASE_VIRTUAL] = {nic_activate, nic_deactivate},
                          [PHASE_FINALISE] = {nic_finalise, NULL}},
        [VIRTUAL_DISK] = {[PHASE_BIND] = {disk_bind, disk_unbind}, [PHASE_FINALISE] = {disk_finalise, NULL}         },
};

/* The consumer is the VM, or the guest in it. */
static const struct {
        step_fn *up, *back;
} confirm_steps[2] = {
        {guest_confirm, guest_let_go},
        {vmm_confirm,   vmm_let_go  }
};

/* What has none here cannot be read back. */
static step_fn *const looks[VIRTUAL_KIND_N] = {
        [VIRTUAL_RAM] = memory_look, [VIRTUAL_DIMM] = memory_look, [VIRTUAL_VCPU] = vcpu_look,
        [VIRTUAL_NIC] = nic_look,    [VIRTUAL_DISK] = disk_look,   [VIRTUAL_NONE] = class_look};

static void look_at_nothing(struct step *s)
{
        step_done(s, NULL);
}

static bool is_look(const struct step *s)
{
        return s->is_check && s->at.phase == PHASE_FINALISE;
}

static step_fn *step_of(const struct step *s)
{
        step_fn *fn;
        if (is_look(s))
                fn = looks[step_item(s)->kind] ? looks[step_item(s)->kind] : look_at_nothing;
        else if (phase_has_items(s->at.phase))
                fn = s->at.is_back ? item_steps[step_item(s)->kind][s->at.phase].back
                                   : item_steps[step_item(s)->kind][s->at.phase].up;
        else
                fn = s->at.is_back ? confirm_steps[s->is_vm].back : confirm_steps[s->is_vm].up;
        assert(fn);
        return fn;
}

/* ---- one step ---- */

/* After a restart: the VMM of a VM that is being started may be there already, and nobody is attached to it.
 */
static bool is_to_attach(const struct step *s)
{
        return s->is_vm && !s->at.is_back && !s->is_check && s->v->pid && !s->v->vm &&
               s->at.phase >= PHASE_VIRTUAL;
}

static void step_begin(struct step *s)
{
        s->is_attaching = is_to_attach(s);
        if (s->is_attaching)
                vmm_attach(s);
        else
                step_of(s)(s);
}

static void step_free(struct step *s)
{
        loop_timer_cancel(&s->timer);
        g_free(s->definitions);
        g_free(s);
}

static void on_again(void *arg)
{
        step_begin(arg);
}

void step_again(struct step *s, int64_t in_ms)
{
        loop_timer_in(&s->timer, in_ms);
}

static struct step *step_new(struct machine *v, const struct request *r)
{
        struct step *s = g_new0(struct step, 1);
        s->v = v;
        s->serial = r->serial;
        s->is_vm = r->kind == REQUEST_VM;
        s->n = r->n_definitions;
        s->definitions = g_memdup2(r->definitions, r->n_definitions * sizeof(*r->definitions));
        request_trace(r, s->trace);
        loop_timer_init(&s->timer, on_again, s);
        v->step = s;
        return s;
}

/* "host vcpu", "back host vcpu", "confirm guest", "look vcpu", "repair host vcpu"; "half way ram" where some
 * of it was moved and some was not: for tests, which name where something shall go wrong. */
static const char *step_name(const struct step *s, char ret[48])
{
        if (s->is_check && s->at.phase == PHASE_HOST && step_item(s)->moving && memory_is_half_way(s)) {
                (void)snprintf(ret, 48, "half way %s", virtual_kind_name(step_item(s)->kind));
                return ret;
        }
        if (s->is_check) {
                (void)snprintf(ret, 48, "%s%s %s", is_look(s) ? "look" : "repair ",
                               is_look(s) ? "" : phase_name(s->at.phase),
                               virtual_kind_name(step_item(s)->kind));
                return ret;
        }
        (void)snprintf(ret, 48, "%s%s%s%s", s->at.is_back ? "back " : "", phase_name(s->at.phase),
                       phase_has_items(s->at.phase) ? " "
                       : s->is_vm                   ? " vm"
                                                    : " guest",
                       phase_has_items(s->at.phase) ? virtual_kind_name(step_item(s)->kind) : "");
        return ret;
}

static void on_held(void *arg)
{
        struct step *s = arg;
        if (fault_is_held()) {
                loop_timer_in(&s->timer, FAULT_POLL_MS);
                return;
        }
        loop_timer_cancel(&s->timer);
        loop_timer_init(&s->timer, on_again, s);
        step_begin(s);
}

static void step_start(struct step *s)
{
        char name[48];
        struct err err = {0};
        step_name(s, name);
        if (!is_look(s)) /* which acts on nothing, and comes at any time */
                crash_point(name);
        switch (fault_point(name)) {
        case FAULT_NONE:
                break;
        case FAULT_ERROR:
                (void)err_set(&err, REASON_INTERNAL, EIO, "made to fail");
                step_done(s, &err);
                return;
        case FAULT_LATE:
                s->is_late = true;
                break;
        case FAULT_DIE:
                s->is_deadly = true;
                break;
        case FAULT_HOLD:
                loop_timer_init(&s->timer, on_held, s);
                loop_timer_in(&s->timer, FAULT_POLL_MS);
                return;
        }
        step_begin(s);
}

static void start_pending(struct machine *v);
static void adoption_goes_on(struct step *s, const struct err *err);

void step_done(struct step *s, const struct err *err)
{
        struct machine *v = s->v;
        struct err late = {0};
        if (s->is_dropped) {
                step_free(s);
                return;
        }
        if (s->is_adoption) {
                adoption_goes_on(s, err);
                return;
        }
        if (s->is_deadly)
                fault_die();
        if (s->is_late && !err) {
                (void)err_set(&late, REASON_TIMEOUT, ETIMEDOUT, "made to be late");
                err = &late;
        }
        v->step = NULL;
        if (!s->is_check)
                v->walk_rest_mono_ms = loop_mono_ms();
        if (!s->is_void)
                hypervisor_step_done(v->m->hv, s->serial, s->token, err, *s->detail ? s->detail : NULL,
                                     loop_now_ms());
        step_free(s);
        meted_changed(v->m);
        start_pending(v);
}

void step_goes_on(struct step *s)
{
        struct machine *v = s->v;
        if (s->is_deadly)
                fault_die();
        v->step = NULL;
        if (!s->is_void)
                hypervisor_step_goes_on(v->m->hv, s->serial, s->token, loop_now_ms());
        step_free(s);
        meted_changed(v->m);
        start_pending(v);
}

void step_vm_done(void *step, const struct vm_result *result)
{
        bool good = result->outcome == VM_DONE || result->outcome == VM_PARKED;
        step_done(step, good ? NULL : &result->err);
}

void step_keeper_done(void *step, const json_t *result, const struct err *err)
{
        (void)result;
        step_done(step, err);
}

void step_no_vmm(struct step *s)
{
        struct err err = {0};
        (void)err_set(&err, REASON_STALE, ECHILD, "the VMM of %s is not there", s->v->definition.name);
        step_done(s, &err);
}

/* ---- what the hypervisor asks for ---- */

static bool waits_for_adoption(const struct machine *v, const struct request *r)
{
        const struct request *base = machine_base(v);
        return r->kind != REQUEST_VM && loop_timer_is_set(&v->adopt_retry) && base &&
               base->state == REQUEST_GRANTED;
}

/* Of the whole way up. What it waits for between two steps, such as room, or a check that comes in between,
 * takes no time from the guest. */
static int64_t deadline_of(const struct step *s)
{
        struct machine *v = s->v;
        int64_t now = loop_mono_ms();
        if (s->is_check)
                return now + v->m->config.activation_ms;
        bool is_same = v->walk_serial == s->serial && v->walk_is_back == s->at.is_back;
        v->walk_mono_ms = is_same ? v->walk_mono_ms + now - v->walk_rest_mono_ms : now;
        v->walk_serial = s->serial;
        v->walk_is_back = s->at.is_back;
        return s->at.is_back ? now + OFFLINE_MS : v->walk_mono_ms + v->m->config.activation_ms;
}

/* One at a time: what is void or an adoption is waited for. */
static void start_pending(struct machine *v)
{
        if (v->step || !v->has_pending)
                return;
        const struct effect *f = &v->pending;
        const struct request *r = hypervisor_request(v->m->hv, f->serial);
        if (r && waits_for_adoption(v, r))
                return;
        v->has_pending = false;
        if (!r)
                return;
        struct step *s = step_new(v, r);
        s->token = f->token;
        s->at = f->step;
        s->is_check = f->is_check;
        s->deadline_mono_ms = deadline_of(s);
        step_start(s);
}

void activate_step(struct meted *m, const struct effect *f)
{
        const struct request *r = hypervisor_request(m->hv, f->serial);
        struct machine *v = r ? machine_find(m, r->vm) : NULL;
        if (!r)
                return;
        assert(v); /* requests of VMs that are not defined are not restored */
        v->pending = *f;
        v->has_pending = true;
        start_pending(v);
}

void activate_hurry(struct meted *m, const struct request *r)
{
        struct machine *v = machine_find(m, r->vm);
        if (!v)
                return;
        vmm_hang_up(v);
        start_pending(v); /* one that has waited for an adoption that will not come: it fails, and says so */
}

static void ignore_end(void *arg, const json_t *result, const struct err *err)
{
        (void)arg;
        (void)result;
        if (err && err->reason != REASON_CANCELLED)
                log_warn("mete-keeper: %s", err->sentence);
}

static void end_activation(struct meted *m, int64_t activation)
{
        struct api_keeper_activation p = {.activation = activation};
        if (keeper_info(m->keeper)) /* one that has started again has no threads of before */
                keeper_call(m->keeper, API_KEEPER_ACTIVATION_END, api_keeper_activation_emit(&p), NULL, 0,
                            KEEPER_MS, ignore_end, NULL);
}

void activate_end(struct meted *m, const struct request *r, bool is_back)
{
        if (r->kind != REQUEST_RESERVATION)
                end_activation(m, step_activation(r->serial, is_back));
}

void activate_agent_back(struct machine *v)
{
        if (v->step)
                step_agent_back(v->step);
}

/* Soon, but not at once: the guest decides how often it speaks. */
void activate_hurry_back(struct machine *v)
{
        hypervisor_vm_hurry(v->m->hv, v->definition.name, loop_now_ms() + HURRY_MS);
        meted_changed(v->m);
}

bool activate_verify(struct machine *v)
{
        uint64_t serial;
        /* What a handover holds is not what was granted, and is nobody's to repair. */
        if (!v->vm || handovers_is_standing(v) ||
            hypervisor_vm_check(v->m->hv, v->definition.name, loop_now_ms(), &serial, NULL))
                return false;
        meted_changed(v->m);
        return true;
}

void activate_void(struct machine *v)
{
        v->has_pending = false;
        if (v->step)
                v->step->is_void = true;
}

void activate_drop(struct machine *v)
{
        struct step *s = v->step;
        v->has_pending = false;
        v->step = NULL;
        if (!s)
                return;
        s->is_dropped = true; /* it is under way; step_done() frees it */
        step_agent_drop(s);
        if (loop_timer_is_set(&s->timer))
                step_free(s);
}

/* ---- adoption ---- */

/* The same steps, for a VM that is granted: attach, let it run. What it and its applications were granted may
 * have been changed while nobody looked: that is a check like any other, and comes next. */
static bool adoption_next(struct step *s)
{
        if (s->at.phase != PHASE_VIRTUAL)
                return false;
        s->at.phase = PHASE_CONFIRM;
        s->at.item = 0;
        return true;
}

/* Only that nobody listens any more, or that it is not the VMM that it should be, is the end of it. What else
 * fails (a VMM or a keeper that is slow to answer) is no reason to take a running VM from its user. */
static void adoption_failed(struct machine *v, const struct err *err)
{
        if (v->is_dead || err->reason == REASON_PEER_LOST || err->reason == REASON_INCOMPATIBLE) {
                machine_died(v, err->sentence);
                return;
        }
        guest_disconnect(v);
        handovers_vm_gone(v);
        vm_free(v->vm); /* a connection that was not ready in time is of no more use */
        v->vm = NULL;
        log_warn("VM %s is not adopted yet: %s", v->definition.name, err->sentence);
        machine_note(v, v->definition.name, "adopt-failed", "%.150s; will try again", err->sentence);
        loop_timer_in(&v->adopt_retry, ADOPT_RETRY_MS);
}

static void adoption_goes_on(struct step *s, const struct err *err)
{
        struct machine *v = s->v;
        const struct request *base = machine_base(v);
        bool is_wanted = base && base->serial == s->serial && base->state == REQUEST_GRANTED;
        if (is_wanted && !err && adoption_next(s)) {
                step_start(s);
                return;
        }
        v->step = NULL;
        end_activation(v->m, step_activation(s->serial, false));
        if (is_wanted && err)
                adoption_failed(v, err);
        else if (is_wanted)
                machine_note(v, v->definition.name, "adopted", "VMM %d runs on, meted is back", (int)v->pid);
        if (is_wanted && !err)
                activate_verify(v);
        step_free(s);
        start_pending(v);
        if (v->vm)
                (void)moves_adopt(v->m);
        if (v->vm)
                (void)handovers_adopt(v->m);
}

void activate_adopt(struct machine *v)
{
        const struct request *base = machine_base(v);
        if (!v->pid) {
                machine_died(v, "its VMM ended while nobody was attached to it");
                return;
        }
        if (v->step) { /* after that; it may need nobody who is attached */
                if (!v->vm)
                        loop_timer_in(&v->adopt_retry, ADOPT_RETRY_MS);
                return;
        }
        if (v->vm)
                return;
        loop_timer_cancel(&v->adopt_retry);
        struct step *s = step_new(v, base);
        s->is_adoption = true;
        s->at.phase = PHASE_VIRTUAL; /* of the base memory, which comes first */
        step_start(s);
}

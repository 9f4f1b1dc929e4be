/* SPDX-License-Identifier: Apache-2.0 */
/* The hypervisor that takes a VM: looks whether it could run it, holds what it takes, borrows its memory,
 * makes it usable to a VMM that stands, commits when all of it came and the other VMM stands, and lets it
 * run.
 *
 * What the VM has comes about as ever, by its base request and one for each of its leases, but that its
 * memory is another's and its guest is asked nothing meanwhile (handovers_is_arriving()). */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/activate.h"
#include "meted/handover-internal.h"
#include "meted/hhi.h"

enum {
        HOLD_MORE_MS = 60000, /* than its source takes, and what comes behind that */
        PLUG_MS = 15000,
        LISTEN_MS = 10000,
        LOOK_MS = 5000,
        RUN_MS = 10000,
        QUIT_MS = 10000,
        SETTLE_MS = 10000,
        REFUSED_MAX = 3
};

static void failed(struct handing *ho, enum handover_effect_kind of, const struct err *err)
{
        handing_report(ho, ho->token[of], HANDOVER_EV_FAILED, err);
}

static const struct request *base_of(const struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        return v ? machine_base(v) : NULL;
}

/* ---- could it run here? ---- */

static int check_guest(const struct handing *ho, struct err *err)
{
        const struct api_vm_definition *d = &ho->guest->vm.definition;
        const struct meted *m = ho->m;
        if (strcmp(d->name, ho->vm) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "it is called %s, and not %s", d->name, ho->vm);
        int bad = vm_definition_check(d, err);
        if (bad)
                return err_note(err, "the definition of %s", ho->vm);
        if (d->accelerator != m->probe.accelerator)
                return err_set(err, REASON_INCOMPATIBLE, ENOEXEC, "%s runs on %s, and %s has %s", ho->vm,
                               api_accelerator_name(d->accelerator), m->config.name,
                               api_accelerator_name(m->probe.accelerator));
        bad = transfer_check(d, ho->guest->qemu_version, d, m->probe.version, err);
        bad = bad ? bad : probe_runs(&m->probe, d, err);
        if (!bad && d->has_network && (!m->config.manages_net || strcmp(d->network, m->config.network) != 0))
                bad = err_set(err, REASON_INCOMPATIBLE, ENONET, "%s is on network %s, which %s has not",
                              ho->vm, d->network, m->config.name);
        return bad ? bad : find_images(m, d, err);
}

/* The VM is defined here from now on, as one that is not ours. */
static int define(struct handing *ho, struct err *err)
{
        struct meted *m = ho->m;
        struct machine *v = machine_find(m, ho->vm);
        struct vm_shape shape;
        if (v && ho->is_defined && strcmp(v->definition.uuid, ho->guest->vm.definition.uuid) == 0)
                return room_bring(ho, err) < 0 ? -EXDEV
                                               : machine_put(v, err); /* a turn that was not written had it */
        if (v)
                return err_set(err, REASON_INCOMPATIBLE, EEXIST, "%s has a VM that is called %s already",
                               m->config.name, ho->vm);
        int bad = check_guest(ho, err);
        if (bad)
                return bad;
        v = machine_add(m, &ho->guest->vm.definition, machine_free_uid_slot(m));
        (void)STR_COPY(v->definition.qemu_path, m->probe.path);
        v->epoch = 0; /* not ours */
        machine_shape(v, &shape);
        bad = hypervisor_vm_define(m->hv, &shape, err);
        if (bad) {
                machine_remove(v);
                return bad;
        }
        bad = room_bring(ho, err);
        bad = bad ? bad : hypervisor_vm_fits(m->hv, &shape, err);
        bad = bad ? bad : machine_put(v, err);
        if (bad) {
                struct err ignored = {0};
                (void)hypervisor_vm_forget(m->hv, ho->vm, &ignored); /* it holds nothing yet */
                machine_remove(v);
        }
        ho->is_defined = !bad;
        return bad;
}

struct memory_here {
        const struct handing *ho;
        const char *stray; /* a component */
};

static void look_for_memory(const struct request *r, void *arg)
{
        struct memory_here *of = arg;
        const struct api_handover_guest *g = of->ho->guest;
        if (strcmp(r->vm, of->ho->vm) != 0 || !request_is_live(r))
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct component *c = &of->ho->m->inventory.components[r->definitions[i].component];
                bool is_there = c->kind != COMPONENT_MEMORY;
                for (size_t k = 0; k < g->n_parts && !is_there; k++)
                        is_there = g->parts[k].portion != API_HANDOVER_PORTION_SEPARABLE &&
                                   strcmp(g->parts[k].component, c->id) == 0;
                if (!is_there)
                        of->stray = c->id;
        }
}

/* The pages stay where they are: were they claimed of another node, what they lie in would be assigned to
 * nobody's account here, and given away a second time. */
static int check_memory(const struct handing *ho, struct err *err)
{
        struct memory_here of = {.ho = ho};
        hypervisor_each(ho->m->hv, look_for_memory, &of);
        return of.stray ? err_set(err, REASON_INCOMPATIBLE, EXDEV,
                                  "%s would have %s here, where none of its memory lies", ho->vm, of.stray)
                        : 0;
}

void taker_check(struct handing *ho)
{
        struct err err = {0};
        int bad = ho->guest ? define(ho, &err)
                            : err_set(&err, REASON_INVALID, EINVAL, "it is not said what is to come");
        if (!bad)
                bad = hypervisor_vm_hold(ho->m->hv, ho->vm,
                                         handover_wait_ms(TARGET_ACCEPTED, ho->core.row.separate_ms) +
                                                 HOLD_MORE_MS,
                                         loop_now_ms(), &err);
        const struct request *base = bad ? NULL : base_of(ho);
        if (!bad && (!base || base->state != REQUEST_OFFERED))
                bad = err_set(&err, base && base->reason ? base->reason : REASON_NO_CAPACITY, ENOSPC,
                              "%.150s", base && *base->sentence ? base->sentence : "it does not fit");
        bad = bad ? bad : check_memory(ho, &err);
        if (bad)
                failed(ho, HANDOVER_CHECK, &err);
        else
                handing_report(ho, ho->token[HANDOVER_CHECK], HANDOVER_EV_CHECKED, NULL);
        meted_changed(ho->m);
}

/* ---- its VMM ---- */

static void not_prepared(struct handing *ho, const struct err *err)
{
        ho->is_calling = false;
        failed(ho, HANDOVER_VMM_PREPARE, err);
}

/* It is called off since: what would come next would be nobody's to end. The release, which waits for what is
 * under way, goes on with its repetition. */
static bool is_off(struct handing *ho)
{
        if (ho->core.row.state == TARGET_PREPARING)
                return false;
        ho->is_calling = false;
        return true;
}

/* Were it not the very same, QEMU 7.2 would silently leave out what is not. */
static int check_ram(const struct handing *ho, struct err *err)
{
        size_t n = 0;
        const struct transfer_ram *ram = transfer_ram(ho->transfer, &n);
        if (n == 0 || n != ho->guest->n_ram)
                return err_set(err, REASON_INCOMPATIBLE, EINVAL,
                               "there are %zu files of memory here, and %zu there", n, ho->guest->n_ram);
        for (size_t i = 0; i < n; i++) {
                const struct api_handover_ram *its = NULL;
                for (size_t k = 0; k < ho->guest->n_ram; k++)
                        if (strcmp(ho->guest->ram[k].id, ram[i].id) == 0)
                                its = &ho->guest->ram[k];
                if (!its || its->bytes != ram[i].bytes || (uint64_t)its->device != ram[i].device ||
                    (uint64_t)its->inode != ram[i].inode || ram[i].inode == 0 || !ram[i].is_shared)
                        return err_set(err, REASON_INCOMPATIBLE, EINVAL,
                                       "memory %s is not the same file here", ram[i].id);
        }
        return 0;
}

struct vcpu_here {
        const struct handing *ho;
        const struct api_handover_vcpu *wanted;
        bool is_good;
};

static void look_for_vcpu(const struct request *r, void *arg)
{
        struct vcpu_here *of = arg;
        if (strcmp(r->vm, of->ho->vm) != 0 || !request_is_live(r))
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *d = &r->definitions[i];
                if (d->kind == VIRTUAL_VCPU && d->slot == of->wanted->slot)
                        of->is_good =
                                d->amount >= of->wanted->share_milli &&
                                d->exclusive == (of->wanted->affinity == API_HANDOVER_AFFINITY_EXCLUSIVE);
        }
}

/* The control information (5.5) is applied when weight and affinity of each vCPU are what they were; caps and
 * what is parked follow from the definition and the slots. */
static int check_control(const struct handing *ho, struct err *err)
{
        const struct api_handover_control *c = &ho->guest->control;
        for (size_t i = 0; i < c->n_vcpus; i++) {
                struct vcpu_here of = {.ho = ho, .wanted = &c->vcpus[i]};
                if (c->vcpus[i].use == API_HANDOVER_USE_PARKED)
                        continue;
                hypervisor_each(ho->m->hv, look_for_vcpu, &of);
                if (!of.is_good)
                        return err_set(err, REASON_INCOMPATIBLE, EINVAL,
                                       "vCPU %d would not have the share and affinity that it has there",
                                       (int)c->vcpus[i].slot);
        }
        return 0;
}

static void on_listening(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        ho->is_calling = false;
        if (result->outcome == VM_DONE)
                handing_report(ho, ho->token[HANDOVER_VMM_PREPARE], HANDOVER_EV_PREPARED, NULL);
        else if (result->err.reason != REASON_CANCELLED)
                not_prepared(ho, &result->err);
}

static void on_prepared(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        struct err err = {0};
        if (is_off(ho))
                return;
        if (result->outcome != VM_DONE) {
                ho->is_calling = false; /* also where it was cancelled: a return waits for that */
                if (result->err.reason != REASON_CANCELLED)
                        not_prepared(ho, &result->err);
                return;
        }
        if (check_ram(ho, &err) || check_memory(ho, &err) || check_control(ho, &err))
                not_prepared(ho, &err);
        else
                transfer_listen(ho->transfer, ho->guest->loan.transfer, LISTEN_MS, on_listening, ho);
}

/* vCPUs that nobody was granted, and that are plugged there all the same. */
static void plug_next(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        const struct api_peer_vm *vm = &ho->guest->vm;
        struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        if (is_off(ho))
                return;
        if (result && result->outcome != VM_DONE) {
                not_prepared(ho, &result->err);
                return;
        }
        if (!v || !v->vm) {
                (void)err_set(&err, REASON_STALE, ECHILD, "its VMM is gone");
                not_prepared(ho, &err);
                return;
        }
        if (result)
                activate_park(v, ho->plug_slot); /* nobody is told of the one that was asked for */
        for (size_t i = 0; i < vm->n_plugged; i++) {
                int slot = (int)vm->plugged[i];
                if (slot < v->definition.cpus_max && !vm_cpu(v->vm, slot)->plugged) {
                        ho->plug_slot = slot;
                        vm_cpu_ensure(v->vm, slot, PLUG_MS, plug_next, ho);
                        return;
                }
        }
        handing_prepare(ho, on_prepared);
}

static void lease_next(struct handing *ho);

static void on_lease(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct handing *ho = call;
        struct err bad = {0};
        (void)m;
        if (is_off(ho))
                return;
        if (!err && r->state != REQUEST_GRANTED)
                err = (err_set(&bad, r->reason ? r->reason : REASON_INTERNAL, ENOSPC, "%.150s", r->sentence),
                       &bad);
        if (err)
                not_prepared(ho, err);
        else
                lease_next(ho);
}

static void lease_next(struct handing *ho)
{
        struct meted *m = ho->m;
        struct need needs[NEEDS_MAX];
        struct arrival arrivals[SHAPE_SLOTS_MAX];
        struct err err = {0};
        uint64_t serial;
        if (ho->leases >= ho->guest->vm.n_leases) {
                plug_next(ho, NULL);
                return;
        }
        const struct api_peer_lease *l = &ho->guest->vm.leases[ho->leases++];
        struct ask ask = {.kind = REQUEST_APP,
                          .vm = ho->vm,
                          .id = l->request,
                          .application = l->application,
                          .needs = needs,
                          .n_needs = l->n_needs,
                          .accepts_less = l->has_accepts_less && l->accepts_less,
                          .end_ms = l->has_end_ms ? l->end_ms : LEDGER_OPEN,
                          .arrivals = arrivals,
                          .n_arrivals = l->n_items};
        for (size_t i = 0; i < l->n_items; i++)
                arrivals[i] = (struct arrival){l->items[i].kind == API_PEER_ITEM_KIND_VCPU ? VIRTUAL_VCPU
                                                                                           : VIRTUAL_DIMM,
                                               (int16_t)l->items[i].slot, l->items[i].bytes};
        int bad = needs_from_api(l->needs, l->n_needs, needs, &err);
        bad = bad ? bad : hypervisor_ask(m->hv, &ask, loop_now_ms(), &serial, &err);
        if (bad)
                not_prepared(ho, &err);
        else
                meted_wait(m, serial, WAIT_VERDICT, on_lease, ho);
        meted_changed(m);
}

static void on_base(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct handing *ho = call;
        ho->leases = 0;
        on_lease(m, ho, r, err);
}

static void on_borrowed(void *arg, const json_t *result, const struct err *err)
{
        struct handing *ho = arg;
        struct api_keeper_borrowed *got = g_new0(struct api_keeper_borrowed, 1);
        const struct request *base = base_of(ho);
        struct err bad = {0};
        char key[REQUEST_KEY];
        uint64_t serial;
        if (is_off(ho)) {
                g_free(got);
                return;
        }
        (void)snprintf(key, sizeof(key), "vm:%s", ho->vm);
        int r = err ? -EIO : api_keeper_borrowed_parse(result, got, &bad);
        if (!r && (strcmp(got->record, ho->guest->loan.record) != 0 ||
                   strcmp(got->transfer, ho->guest->loan.transfer) != 0))
                r = err_set(&bad, REASON_INVALID, EINVAL, "the loan has another record than was said");
        if (!r && (!base || request_is_final(base)))
                r = err_set(&bad, REASON_STALE, ESTALE, "what it takes is held no more");
        if (!r && base->state == REQUEST_OFFERED)
                r = hypervisor_accept(ho->m->hv, key, loop_now_ms(), &serial, &bad);
        if (r)
                not_prepared(ho, err ? err : &bad);
        else
                meted_wait(ho->m, hypervisor_find(ho->m->hv, key)->serial, WAIT_VERDICT, on_base, ho);
        g_free(got);
        meted_changed(ho->m);
}

/* What was said of it since the check may differ: a lease more or less; but it is the same VM. */
static int check_again(const struct handing *ho, struct err *err)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        if (!ho->guest || !ho->guest->has_loan || !ho->guest->has_control)
                return err_set(err, REASON_INVALID, EINVAL, "it is not said what is to come");
        if (!v)
                return err_set(err, REASON_STALE, ESTALE, "it is not defined here any more");
        return transfer_check(&ho->guest->vm.definition, ho->guest->qemu_version, &v->definition,
                              ho->m->probe.version, err);
}

/* After a restart what was begun before goes on by itself, and is waited for; all of it may be repeated. */
void taker_prepare(struct handing *ho)
{
        struct api_keeper_borrow p = {0};
        struct err err = {0};
        if (ho->is_calling)
                return;
        if (check_again(ho, &err) || room_bring(ho, &err)) {
                not_prepared(ho, &err);
                return;
        }
        ho->is_calling = true;
        (void)STR_COPY(p.vm, ho->vm);
        (void)STR_COPY(p.handover, ho->core.row.id);
        (void)STR_COPY(p.handle, ho->guest->loan.handle);
        p.slot = machine_find(ho->m, ho->vm)->uid_slot;
        keeper_call(ho->m->keeper, API_KEEPER_RAM_BORROW, api_keeper_borrow_emit(&p), NULL, 0,
                    HANDING_KEEPER_MS, on_borrowed, ho);
}

/* ---- it comes ---- */

static void on_found(void *arg, const struct transfer_seen *seen, const struct err *err)
{
        struct handing *ho = arg;
        struct err bad = {0};
        ho->is_calling = false;
        if (err) {
                if (err->reason != REASON_CANCELLED)
                        loop_timer_in(&ho->again, HANDING_AGAIN_MS);
        } else if (seen->status == COPY_COMPLETED) {
                ho->is_complete = true;
                handing_report(ho, ho->core.row.step, HANDOVER_EV_COMPLETED, NULL);
        } else if (seen->status == COPY_FAILED || seen->status == COPY_CANCELLED) {
                (void)err_set(&bad, REASON_PEER_LOST, EIO, "QEMU says that it did not come: %.100s",
                              seen->why);
                handing_report(ho, ho->core.row.step, HANDOVER_EV_DIED, &bad);
        }
}

void taker_watch(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        if (!v || !v->vm || v->is_dead) {
                (void)err_set(&err, REASON_STALE, ECHILD, "its VMM is gone");
                handing_report(ho, ho->core.row.step, HANDOVER_EV_DIED, &err);
        } else if (ho->is_complete) {
                handing_report(ho, ho->core.row.step, HANDOVER_EV_COMPLETED, NULL);
        } else if (!ho->transfer) { /* after a restart: what went on meanwhile was said to nobody */
                ho->is_calling = true;
                transfer_look(handing_transfer(ho), LOOK_MS, on_found, ho);
        }
}

void taker_vm_event(struct handing *ho, enum vm_event event, const char *words)
{
        if (event != VM_EVENT_MIGRATION || !ho->transfer)
                return;
        transfer_note(ho->transfer, words);
        if (strcmp(words, "completed") == 0) {
                ho->is_complete = true;
                handing_report(ho, ho->core.row.step, HANDOVER_EV_COMPLETED, NULL);
        }
}

/* ---- it runs ---- */

static void on_settled(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome != VM_DONE && result->err.reason != REASON_CANCELLED)
                log_warn("handover %s: %s: %s", ho->core.row.id, ho->vm, result->err.sentence);
        ho->is_calling = false;
        if (ho->core.row.state == TARGET_SETTLED)
                handing_return(ho);
}

static void on_announced(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome != VM_DONE && result->err.reason != REASON_CANCELLED)
                log_warn("handover %s: %s: %s", ho->core.row.id, ho->vm, result->err.sentence);
        ho->is_calling = false;
        if (ho->core.row.state == TARGET_SETTLED)
                taker_settle(ho);
}

static void on_quit(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        (void)result; /* it ends: handovers_vm_died(); else it is told to run once more */
        ho->is_calling = false;
}

/* QEMU has refused, and says that it stands: so it has not run here. Where it refuses again and again its end
 * is waited for, after which it is the source's again; the first times may have been for what passes. */
static void on_refused(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        struct machine *v = machine_find(ho->m, ho->vm);
        ho->is_calling = false;
        if (result->outcome != VM_DONE || !v || !v->vm || vm_run(v->vm) == VM_RUN_RUNNING ||
            ho->core.row.state != TARGET_STARTING)
                return;
        ho->is_told_to_run = false;
        if (++ho->n_refused < REFUSED_MAX)
                return;
        ho->is_calling = true;
        vm_quit(v->vm, QUIT_MS, on_quit, ho);
}

/* An answer of QEMU's own, and not that there was none: and no word before this may have been followed. */
static bool is_refused(const struct handing *ho, const struct err *err)
{
        return err->reason == REASON_INTERNAL && err->code == EIO && !ho->was_told && !ho->core.row.is_unsure;
}

static void on_runs(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        struct machine *v = machine_find(ho->m, ho->vm);
        ho->is_calling = false;
        if (result->outcome != VM_DONE) {
                if (result->err.reason != REASON_CANCELLED)
                        log_warn("handover %s: %s is to run: %s", ho->core.row.id, ho->vm,
                                 result->err.sentence);
                if (result->outcome == VM_FAILED && v && v->vm && is_refused(ho, &result->err)) {
                        ho->is_calling = true;
                        vm_refresh(v->vm, LOOK_MS, on_refused, ho);
                }
                return;
        }
        ho->ran_us = g_get_monotonic_time();
        handing_report(ho, ho->token[HANDOVER_VMM_CONT], HANDOVER_EV_RUNS, NULL);
        if (v && ho->guest)
                hhi_follow(v, ho->guest->vm.hhi_generation);
        if (v)
                guest_connect(v);
        if (ho->transfer) {
                ho->is_calling = true;
                transfer_announce(ho->transfer, SETTLE_MS, on_announced, ho);
        }
}

static void run(struct handing *ho)
{
        ho->is_calling = true;
        ho->was_told = ho->is_told_to_run;
        ho->is_told_to_run = true;
        transfer_run(ho->transfer, RUN_MS, on_runs, ho);
}

static void on_looked_to_run(void *arg, const struct transfer_seen *seen, const struct err *err)
{
        struct handing *ho = arg;
        ho->is_calling = false;
        if (!err && seen->status == COPY_COMPLETED)
                run(ho);
        else if (!err || err->reason != REASON_CANCELLED)
                log_warn("handover %s: %s is to run, and has not all of it", ho->core.row.id, ho->vm);
}

void taker_run(struct handing *ho)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        if (ho->is_calling || (v && machine_is_awaited(v) && !v->is_dead))
                return; /* it is being told, or nobody is attached to it yet: asked again */
        if (!v || !v->vm) {
                (void)err_set(&err, REASON_STALE, ECHILD, "its VMM is gone");
                handing_report(ho, ho->token[HANDOVER_VMM_CONT],
                               ho->is_told_to_run || ho->core.row.is_unsure ? HANDOVER_EV_DIED
                                                                            : HANDOVER_EV_FAILED,
                               &err);
        } else if (vm_run(v->vm) == VM_RUN_RUNNING) { /* told so before a restart */
                on_runs(ho, &(struct vm_result){.outcome = VM_DONE});
        } else if (ho->transfer && ho->is_complete) {
                run(ho);
        } else {
                ho->is_calling = true;
                transfer_look(handing_transfer(ho), LOOK_MS, on_looked_to_run, ho);
        }
}

static void on_prepared_to_settle(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome != VM_DONE)
                on_settled(ho, result);
        else
                transfer_settle(ho->transfer, SETTLE_MS, on_settled, ho);
}

/* What is plugged goes with this VMM from now on, and the files are its own alone. */
void taker_settle(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        if (ho->is_returned || ho->is_calling)
                return;
        if (v && v->vm && !v->is_dead) {
                ho->is_calling = true;
                handing_prepare(ho, on_prepared_to_settle);
        } else {
                handing_return(ho);
        }
}

/* ---- the end ---- */

static void on_ended(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct handing *ho = call;
        (void)r;
        if (err)
                return; /* asked again */
        /* One that died here was ours, and stays defined. */
        if (ho->is_defined && machine_find(m, ho->vm) && ho->core.row.end != TARGET_LOST)
                handing_forget_vm(ho);
        else
                handing_return(ho);
}

void taker_release(struct handing *ho)
{
        struct meted *m = ho->m;
        const struct request *base = base_of(ho);
        struct err err = {0};
        char key[REQUEST_KEY];
        uint64_t serial;
        (void)snprintf(key, sizeof(key), "vm:%s", ho->vm);
        if (ho->is_returned) {
                handing_report(ho, ho->token[HANDOVER_RELEASE], HANDOVER_EV_RELEASED, NULL);
                return;
        }
        handing_give_up(ho, "target");
        transfer_free(g_steal_pointer(&ho->transfer));
        ho->is_complete = false;
        loop_timer_cancel(&ho->again);
        if (meted_unwait(m,
                         ho)) /* what is not waited for any more is not under way: handing_return() looks */
                ho->is_calling = false;
        if (!base || request_is_final(base) || !ho->is_defined) {
                on_ended(m, ho, NULL, NULL);
        } else if (hypervisor_release(m->hv, key, "it did not come", loop_now_ms(), &serial, &err) == 0) {
                meted_wait(m, serial, WAIT_END, on_ended, ho);
                meted_changed(m);
        }
}

void taker_again(struct handing *ho)
{
        if (ho->core.row.state == TARGET_SETTLED)
                taker_settle(ho);
        else if (handover_state_has(ho->core.row.state, HANDOVER_RELEASE))
                handing_return(ho);
        else if (handover_state_has(ho->core.row.state, HANDOVER_VMM_WATCH))
                taker_watch(ho);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The hypervisor that gives a VM away: finds out what may change hands, holds the VM as it is, lends its
 * memory, lets its VMM hand it over, and ends what is left. The bound on the gap is this daemon's own timer:
 * at it the record is written, if nobody has yet, and then the guest runs here again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "host/cpu.h"
#include "meted/handover-internal.h"
#include "meted/moves.h"

enum {
        GIVE_MS = 10000,
        CANCEL_MS = 10000,
        LOOK_MS = 5000,
        CONT_MS = 15000,
        WAIT_AGAIN_MS = 50,
        BOUND_AGAIN_MS = 10,
        RESUME_MS = 25 /* from the bound's word in the record until the guest runs here, as of moves */
};

static void failed(struct handing *ho, enum handover_effect_kind of, const struct err *err)
{
        handing_report(ho, ho->token[of], HANDOVER_EV_FAILED, err);
}

/* ---- what may change hands ---- */

/* All of it but what only a VM that is held has. false: it is changing just now. */
static bool describe(struct handing *ho, const struct machine *v)
{
        struct api_peer_vm *vm = moves_guest(v);
        if (!vm)
                return false;
        if (!ho->guest)
                ho->guest = g_new0(struct api_handover_guest, 1);
        ho->guest->vm = *vm;
        g_free(vm);
        (void)STR_COPY(ho->guest->qemu_version, vm_qemu_version(v->vm));
        ho->guest->has_owner_epoch = v->epoch > 0;
        ho->guest->owner_epoch = (int64_t)v->epoch;
        return separation_describe(ho);
}

void giver_classify(struct handing *ho)
{
        struct meted *m = ho->m;
        const struct machine *v = machine_find(m, ho->vm);
        struct err err = {0};
        int bad = 0;
        if (!v)
                bad = err_set(&err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", ho->vm);
        else if (!v->vm || v->is_dead || machine_state(v) != API_VM_STATE_RUNNING)
                bad = err_set(&err, REASON_STALE, ESTALE, "the VM %s does not run", ho->vm);
        else if (machine_is_awaited(v))
                bad = err_set(&err, REASON_BUSY, EBUSY,
                              "%s is being looked at, as its hypervisor has just started", ho->vm);
        else if (ho->core.row.gap_ms > 0 && ho->core.row.gap_ms <= RESUME_MS)
                bad = err_set(&err, REASON_INVALID, ERANGE,
                              "%s cannot stand for %d ms at most: to have it run here again takes up to %d",
                              ho->vm, (int)ho->core.row.gap_ms, RESUME_MS);
        else if (hypervisor_vm_relocating(m->hv, ho->vm, NULL) != RELOCATING_NOTHING)
                bad = err_set(&err, REASON_BUSY, EBUSY, "memory of %s is being moved to another node",
                              ho->vm);
        else
                bad = moves_check(m, v, &err);
        if (!bad && !describe(ho, v))
                bad = err_set(&err, REASON_BUSY, EBUSY, "what %s has is being changed just now", ho->vm);
        if (bad)
                failed(ho, HANDOVER_CLASSIFY, &err);
        else
                separation_survey(ho);
}

/* ---- nothing of it changes ---- */

struct vcpus {
        const struct handing *ho;
        struct api_handover_control *to;
};

static void add_vcpus(const struct request *r, void *arg)
{
        struct vcpus *of = arg;
        const struct machine *v = machine_find(of->ho->m, of->ho->vm);
        if (strcmp(r->vm, of->ho->vm) != 0 || !request_is_live(r))
                return;
        for (size_t i = 0; i < r->n_definitions && of->to->n_vcpus < ARRAY_N(of->to->vcpus); i++) {
                const struct definition *d = &r->definitions[i];
                if (d->kind != VIRTUAL_VCPU)
                        continue;
                struct api_handover_vcpu *c = &of->to->vcpus[of->to->n_vcpus++];
                *c = (struct api_handover_vcpu){
                        .slot = d->slot,
                        .use = r->kind == REQUEST_VM ? API_HANDOVER_USE_BASE : API_HANDOVER_USE_GRANTED,
                        .share_milli = d->amount < CPU_SHARE_MAX ? d->amount : CPU_SHARE_MAX,
                        .affinity = d->exclusive ? API_HANDOVER_AFFINITY_EXCLUSIVE
                                                 : API_HANDOVER_AFFINITY_SHARED};
                if (r->kind == REQUEST_VM && v && v->definition.has_cpu_ceiling_milli) {
                        c->has_ceiling_milli = true;
                        c->ceiling_milli = v->definition.cpu_ceiling_milli;
                }
        }
}

static int by_slot(const void *a, const void *b)
{
        const struct api_handover_vcpu *x = a, *y = b;
        return x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* Scheduling-related control information (5.5). A vCPU that is plugged and nobody's is parked. */
static void control(struct handing *ho, const struct machine *v)
{
        struct api_handover_control *to = &ho->guest->control;
        struct vcpus of = {ho, to};
        memset(to, 0, sizeof(*to));
        to->run_state = API_HANDOVER_RUN_STATE_RUNNING;
        hypervisor_each(ho->m->hv, add_vcpus, &of);
        for (int slot = 0; slot < v->definition.cpus_max && to->n_vcpus < ARRAY_N(to->vcpus); slot++) {
                bool is_there = !vm_cpu(v->vm, slot)->plugged;
                for (size_t i = 0; i < to->n_vcpus && !is_there; i++)
                        is_there = to->vcpus[i].slot == slot;
                if (!is_there)
                        to->vcpus[to->n_vcpus++] =
                                (struct api_handover_vcpu){.slot = slot,
                                                           .use = API_HANDOVER_USE_PARKED,
                                                           .affinity = API_HANDOVER_AFFINITY_NONE};
        }
        qsort(to->vcpus, to->n_vcpus, sizeof(to->vcpus[0]), by_slot);
        ho->guest->has_control = true;
}

/* The release waits for what was under way as it was called off; one that is not durable yet comes itself. */
static void release_goes_on(struct handing *ho, const struct err *err)
{
        if (ho->core.row.state == SOURCE_RELEASING && ho->pending == 0 && !ho->is_void &&
            (!err || err->reason != REASON_CANCELLED))
                giver_release(ho);
}

static void on_lent(void *arg, const json_t *result, const struct err *err)
{
        struct handing *ho = arg;
        struct api_keeper_lent lent;
        struct err bad = {0};
        ho->is_calling = false;
        if (!err && api_keeper_lent_parse(result, &lent, &bad))
                err = &bad;
        if (!err && ho->guest) {
                ho->guest->has_loan = true;
                (void)boot_read(ho->boot);
                if (!STR_COPY(ho->guest->loan.handle, lent.handle) ||
                    !STR_COPY(ho->guest->loan.record, lent.record) ||
                    !STR_COPY(ho->guest->loan.transfer, lent.transfer))
                        err = (err_set(&bad, REASON_INTERNAL, E2BIG, "the names of the loan are too long"),
                               &bad);
        }
        if (ho->core.row.state != SOURCE_QUIESCING)
                release_goes_on(ho, err);
        else if (err)
                failed(ho, HANDOVER_QUIESCE, err);
        else
                handing_report(ho, ho->token[HANDOVER_QUIESCE], HANDOVER_EV_QUIESCED, NULL);
}

static void lend(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct api_keeper_lend *p = g_new0(struct api_keeper_lend, 1);
        size_t n = 0;
        const struct transfer_ram *ram = transfer_ram(ho->transfer, &n);
        (void)STR_COPY(p->vm, ho->vm);
        (void)STR_COPY(p->handover, ho->core.row.id);
        (void)snprintf(p->items[p->n_items++], sizeof(p->items[0]), "ram0");
        for (int slot = 0; v && v->vm && slot < v->definition.dimm_slots; slot++)
                if (vm_dimm(v->vm, slot)->backed && p->n_items < ARRAY_N(p->items))
                        (void)snprintf(p->items[p->n_items++], sizeof(p->items[0]), "dimm%d", slot);
        ho->guest->n_ram = 0;
        for (size_t i = 0; i < n && i < ARRAY_N(ho->guest->ram); i++) {
                struct api_handover_ram *to = &ho->guest->ram[ho->guest->n_ram++];
                (void)STR_COPY(to->id, ram[i].id);
                to->bytes = ram[i].bytes;
                to->device = (int64_t)ram[i].device;
                to->inode = (int64_t)ram[i].inode;
        }
        keeper_call(ho->m->keeper, API_KEEPER_RAM_LEND, api_keeper_lend_emit(p), NULL, 0, HANDING_KEEPER_MS,
                    on_lent, ho);
        g_free(p);
}

static void on_prepared(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        bool is_done = result->outcome == VM_DONE;
        ho->is_prepared = is_done;
        if (is_done && ho->core.row.state == SOURCE_QUIESCING) {
                lend(ho);
                return;
        }
        /* It failed, or was called off: then nobody would return what is lent now. */
        ho->is_calling = false;
        if (ho->core.row.state != SOURCE_QUIESCING)
                release_goes_on(ho, is_done ? NULL : &result->err);
        else if (result->err.reason != REASON_CANCELLED)
                failed(ho, HANDOVER_QUIESCE, &result->err);
}

/* From the state on nothing new is decided (handovers_is_fixed()); what was under way comes to its end. */
void giver_quiesce(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        if (!v || !v->vm || v->is_dead) {
                (void)err_set(&err, REASON_STALE, ECHILD, "the VMM of %s is gone", ho->vm);
                failed(ho, HANDOVER_QUIESCE, &err);
        } else if (moves_check(ho->m, v, &err)) {
                failed(ho, HANDOVER_QUIESCE, &err);
        } else if (v->step || v->has_pending || !describe(ho, v)) {
                loop_timer_in(&ho->again, WAIT_AGAIN_MS);
        } else if (!ho->is_calling) {
                control(ho, v);
                ho->is_calling = true; /* until on_lent(): a release waits for it */
                handing_prepare(ho, on_prepared);
        }
}

/* ---- it is given ---- */

static void on_begun(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome != VM_DONE && result->err.reason != REASON_CANCELLED)
                handing_report(ho, ho->token[HANDOVER_VMM_GIVE], HANDOVER_EV_BROKEN, &result->err);
}

void giver_give(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        ho->stood_us = 0;
        if (!v || !v->vm || !ho->transfer || !ho->guest)
                (void)err_set(&err, REASON_STALE, ECHILD,
                              "who had prepared it was started again, or its VMM is gone");
        else if (!ho->guest->has_loan || strcmp(ho->transfer_path, ho->guest->loan.transfer) != 0)
                (void)err_set(&err, REASON_INVALID, EINVAL, "the target's VMM is said to wait elsewhere");
        if (err.reason)
                failed(ho, HANDOVER_VMM_GIVE, &err);
        else
                transfer_begin(ho->transfer, ho->transfer_path, GIVE_MS, on_begun, ho);
}

void giver_guard_start(struct handing *ho)
{
        ho->stood_us = 0;
}

void giver_guard_end(struct handing *ho)
{
        loop_timer_cancel(&ho->gap);
}

void giver_bound(void *arg)
{
        struct handing *ho = arg;
        enum handover_state s = ho->core.row.state;
        if (s != SOURCE_GIVING && s != SOURCE_HANDED && s != SOURCE_ORPHANED)
                return;
        handing_write(ho, RECORD_ABORTED, "bound");
        if (ho->core.row.state == s) /* it could not be written */
                loop_timer_in(&ho->gap, BOUND_AGAIN_MS);
}

/* So that it runs here again within it, counted from when its VMM stood, which was heard of later. */
static void arm_bound(struct handing *ho)
{
        int64_t stood_ms = (g_get_monotonic_time() - ho->stood_us) / 1000 + 1;
        int64_t left_ms = ho->core.row.gap_ms - RESUME_MS - (ho->stood_us > 0 ? stood_ms : 0);
        loop_timer_in(&ho->gap, left_ms > 0 ? left_ms : 0);
}

void giver_vm_event(struct handing *ho, enum vm_event event, const char *words)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        if (!v || !v->vm || ho->core.row.state != SOURCE_GIVING)
                return;
        if (event == VM_EVENT_STOP) {
                ho->stood_us = vm_event_us(v->vm);
                if (ho->core.row.gap_ms > 0)
                        arm_bound(ho);
        } else if (event == VM_EVENT_MIGRATION && strcmp(words, "completed") == 0) {
                handing_report(ho, ho->token[HANDOVER_VMM_GIVE], HANDOVER_EV_HANDED, NULL);
        } else if (event == VM_EVENT_MIGRATION &&
                   (strcmp(words, "failed") == 0 || strcmp(words, "cancelled") == 0)) {
                (void)err_set(&err, REASON_PEER_LOST, EIO, "QEMU says that the handover %s", words);
                handing_report(ho, ho->token[HANDOVER_VMM_GIVE], HANDOVER_EV_BROKEN, &err);
        }
}

/* ---- given ---- */

static void leave(struct handing *ho);

static void on_counted(void *arg, const struct transfer_seen *seen, const struct err *err)
{
        struct handing *ho = arg;
        ho->is_counting = false;
        if (!err && seen->status == COPY_COMPLETED) {
                ho->sent_bytes = seen->transferred_bytes;
                ho->ram_bytes = seen->ram_bytes;
        }
        if (ho->core.row.state == SOURCE_FINISHING && (!err || err->reason != REASON_CANCELLED))
                leave(ho); /* it waited for that */
}

void giver_count(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        enum handover_state s = ho->core.row.state;
        if (ho->has_counted || (s != SOURCE_GIVEN && s != SOURCE_FINISHING) || !v || !v->vm || !ho->transfer)
                return;
        ho->has_counted = ho->is_counting = true;
        transfer_look(ho->transfer, LOOK_MS, on_counted, ho);
}

/* ---- here again ---- */

static void say_stood(struct handing *ho)
{
        if (ho->stood_us > 0)
                handing_say(ho, "stood", "the guest stood for %.1f ms",
                            (double)(g_get_monotonic_time() - ho->stood_us) / 1000.0);
        ho->stood_us = 0;
}

static void on_runs(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        ho->is_calling = false;
        if (result->outcome == VM_DONE)
                say_stood(ho);
        if (result->outcome == VM_DONE)
                handing_report(ho, ho->token[HANDOVER_VMM_CONT], HANDOVER_EV_RUNS, NULL);
        else if (result->err.reason != REASON_CANCELLED)
                log_warn("handover %s: %s is to run again: %s", ho->core.row.id, ho->vm,
                         result->err.sentence);
}

static void run(struct handing *ho)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        if (v && v->vm)
                vm_cont(v->vm, CONT_MS, on_runs, ho);
        else
                ho->is_calling = false;
}

/* Once QEMU has its sums it can be told to run. */
static void on_settled(void *arg, const struct transfer_seen *seen, const struct err *err)
{
        (void)seen;
        if (!err || err->reason != REASON_CANCELLED)
                run(arg);
}

static void on_cancelled(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome == VM_DONE)
                run(ho);
        else if (result->err.reason == REASON_STALE && ho->transfer)
                transfer_look(ho->transfer, LOOK_MS, on_settled, ho);
        else if (result->err.reason != REASON_CANCELLED)
                ho->is_calling = false; /* asked again */
}

void giver_run(struct handing *ho)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        struct err err = {0};
        loop_timer_cancel(&ho->gap);
        if ((v && machine_is_awaited(v)) || ho->is_calling)
                return; /* nobody is attached to it yet, or it is being told: asked again */
        if (!v || !v->vm) {
                (void)err_set(&err, REASON_STALE, ECHILD, "its VMM is gone");
                handing_report(ho, ho->token[HANDOVER_VMM_CONT], HANDOVER_EV_DIED, &err);
                return;
        }
        (void)handing_transfer(ho);
        ho->is_calling = true;
        transfer_cancel(ho->transfer, CANCEL_MS, on_cancelled, ho);
}

/* ---- the end ---- */

static void on_plain(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome != VM_DONE && result->err.reason == REASON_CANCELLED)
                return;
        if (result->outcome != VM_DONE)
                log_warn("handover %s: %s: %s", ho->core.row.id, ho->vm, result->err.sentence);
        ho->is_calling = ho->is_prepared = false;
        handing_return(ho);
}

static void on_prepared_again(void *arg, const struct vm_result *result)
{
        struct handing *ho = arg;
        if (result->outcome != VM_DONE)
                on_plain(ho, result);
        else
                transfer_settle(ho->transfer, CANCEL_MS, on_plain, ho);
}

/* The VM stays: its memory is its own alone, and goes with it again. */
static void stay(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        if (ho->is_returned || !ho->may_lend) {
                handing_report(ho, ho->token[HANDOVER_RELEASE], HANDOVER_EV_RELEASED, NULL);
                return;
        }
        if (ho->is_calling)
                return;
        handing_give_up(ho, "source");
        if (v && v->vm && !v->is_dead && (ho->is_prepared || (ho->guest && ho->guest->has_loan))) {
                ho->is_calling = true;
                handing_prepare(ho, on_prepared_again);
        } else {
                handing_return(ho);
        }
}

static void on_ended(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct handing *ho = call;
        (void)r;
        if (err)
                return; /* asked again */
        if (machine_find(m, ho->vm))
                handing_forget_vm(ho);
        else
                handing_return(ho);
}

/* The VM has left: all that it had here ends, but its memory, which the record says is another's. */
static void leave(struct handing *ho)
{
        struct meted *m = ho->m;
        struct err err = {0};
        char key[REQUEST_KEY];
        uint64_t serial;
        if (ho->is_returned) {
                handing_report(ho, ho->token[HANDOVER_RELEASE], HANDOVER_EV_RELEASED, NULL);
                return;
        }
        (void)snprintf(key, sizeof(key), "vm:%s", ho->vm);
        const struct request *base = hypervisor_find(m->hv, key);
        if (!base || request_is_final(base)) {
                on_ended(m, ho, NULL, NULL);
                return;
        }
        transfer_free(g_steal_pointer(&ho->transfer));
        (void)meted_unwait(m, ho);
        if (hypervisor_release(m->hv, key, "it was handed over", loop_now_ms(), &serial, &err) == 0)
                meted_wait(m, serial, WAIT_END, on_ended, ho);
        meted_changed(m);
}

void giver_release(struct handing *ho)
{
        loop_timer_cancel(&ho->gap);
        loop_timer_cancel(&ho->again);
        separation_end(ho);
        if (ho->core.row.state != SOURCE_FINISHING) {
                stay(ho);
                return;
        }
        giver_count(ho); /* while its VMM is there to be asked */
        if (!ho->is_counting)
                leave(ho);
}

void giver_again(struct handing *ho)
{
        if (ho->core.row.state == SOURCE_SEPARATING)
                giver_separate(ho);
        else if (ho->core.row.state == SOURCE_QUIESCING)
                giver_quiesce(ho);
        else if (handover_state_has(ho->core.row.state, HANDOVER_RELEASE))
                handing_return(ho);
}

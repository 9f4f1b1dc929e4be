/* SPDX-License-Identifier: Apache-2.0 */
/* What both sides of a handover do with their VMM, with the loan of its memory, and with a VM that is not
 * theirs any more. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/handover-internal.h"

/* ---- the VMM's end ---- */

static int find_ram(void *arg, struct transfer_ram *ram, struct err *err)
{
        const struct handing *ho = arg;
        for (size_t i = 0; ho->looked && i < ho->looked->n_files; i++) {
                const struct api_keeper_ram_seen *f = &ho->looked->files[i];
                if (strcmp(f->path, ram->path) != 0)
                        continue;
                ram->device = (uint64_t)f->device;
                ram->inode = (uint64_t)f->inode;
                return 0;
        }
        return err_set(err, REASON_INCOMPATIBLE, ENOENT,
                       "memory %s: the VMM has not mapped %.120s for sharing", ram->id, ram->path);
}

struct transfer *handing_transfer(struct handing *ho)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        transfer_free(g_steal_pointer(&ho->transfer));
        ho->is_prepared = false;
        if (v && v->vm)
                ho->transfer = transfer_new(&(struct transfer_options){
                        .vm = v->vm, .is_target = !handing_is_source(ho), .find = find_ram, .find_arg = ho});
        return ho->transfer;
}

static void on_looked(void *arg, const json_t *result, const struct err *err)
{
        struct handing *ho = arg;
        struct api_keeper_looked *looked = g_new0(struct api_keeper_looked, 1);
        struct vm_result bad = {.outcome = VM_FAILED};
        vm_done *done = ho->done;
        if (!err && api_keeper_looked_parse(result, looked, &bad.err))
                err = &bad.err;
        g_free(ho->looked);
        ho->looked = looked;
        if (!err && !handing_transfer(ho))
                err = (err_set(&bad.err, REASON_STALE, ECHILD, "its VMM is gone"), &bad.err);
        if (err) {
                bad.err = *err;
                done(ho, &bad);
        } else {
                transfer_prepare(ho->transfer, HANDING_PREPARE_MS, done, ho);
        }
}

void handing_prepare(struct handing *ho, vm_done *done)
{
        struct api_keeper_vm p;
        (void)STR_COPY(p.vm, ho->vm);
        ho->done = done;
        keeper_call(ho->m->keeper, API_KEEPER_RAM_LOOK, api_keeper_vm_emit(&p), NULL, 0, HANDING_KEEPER_MS,
                    on_looked, ho);
}

/* ---- what happens to it ---- */

void handovers_vm_event(struct machine *v, enum vm_event event, const char *words)
{
        struct handing *ho = handing_of_vm(v->m, v->definition.name);
        if (ho)
                (handing_is_source(ho) ? giver_vm_event : taker_vm_event)(ho, event, words);
}

static void lose(struct handing *ho, void *vm)
{
        if (strcmp(ho->vm, vm) != 0 || !ho->transfer)
                return;
        transfer_free(g_steal_pointer(&ho->transfer)); /* also of one that is over */
        ho->is_prepared = ho->is_calling = false;
}

void handovers_vm_gone(struct machine *v)
{
        handing_each(v->m, lose, v->definition.name);
}

/* Of a VMM that this side was about to let run it is certain whether it did. */
void handovers_vm_died(struct machine *v, const char *why)
{
        struct handing *ho = handing_of_vm(v->m, v->definition.name);
        struct err err = {0};
        if (!ho)
                return;
        (void)err_set(&err, REASON_STALE, ECHILD, "%s", why);
        handovers_vm_gone(v);
        bool never_ran = ho->core.row.state == TARGET_STARTING && !ho->is_told_to_run;
        handing_report(ho, ho->core.row.step, never_ran ? HANDOVER_EV_FAILED : HANDOVER_EV_DIED, &err);
}

/* ---- the ends ---- */

static void on_returned(void *arg, const json_t *result, const struct err *err)
{
        struct handing *ho = arg;
        (void)result;
        ho->is_calling = false;
        if (err) { /* the other VMM is still there, or the keeper is away */
                log_debug("handover %s: %s", ho->core.row.id, err->sentence);
                loop_timer_in(&ho->again, HANDING_AGAIN_MS);
                return;
        }
        ho->is_returned = true;
        if (handover_state_has(ho->core.row.state, HANDOVER_RELEASE))
                handing_report(ho, ho->token[HANDOVER_RELEASE], HANDOVER_EV_RELEASED, NULL);
}

void handing_return(struct handing *ho)
{
        struct api_keeper_return p = {0};
        if (ho->is_calling)
                return;
        if (!ho->may_lend && (!ho->guest || !ho->guest->has_loan)) { /* nobody lent anything */
                if (handover_state_has(ho->core.row.state, HANDOVER_RELEASE))
                        handing_report(ho, ho->token[HANDOVER_RELEASE], HANDOVER_EV_RELEASED, NULL);
                return;
        }
        ho->is_calling = true;
        (void)STR_COPY(p.vm, ho->vm);
        (void)STR_COPY(p.handover, ho->core.row.id);
        keeper_call(ho->m->keeper, API_KEEPER_RAM_RETURN, api_keeper_return_emit(&p), NULL, 0,
                    HANDING_KEEPER_MS, on_returned, ho);
}

static void on_forgotten(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        g_autofree char *id = call;
        struct handing *ho = handing_find(m, id);
        struct machine *v = ho ? machine_find(m, ho->vm) : NULL;
        (void)r;
        if (!ho || err)
                return; /* all is as it was, and it is asked again */
        if (v) {
                machine_clear_dir(m, ho->vm);
                machine_remove(v);
        }
        ho->is_defined = false;
        handing_return(ho);
}

void handing_forget_vm(struct handing *ho)
{
        struct meted *m = ho->m;
        struct err err = {0};
        if (hypervisor_vm_forget(m->hv, ho->vm, &err)) {
                log_warn("handover %s: %s", ho->core.row.id, err.sentence);
                return; /* asked again */
        }
        if (store_delete_document(m->store, STORE_VM, ho->vm, &err))
                meted_unwritten(m, &err);
        meted_wait(m, 0, WAIT_COMMIT, on_forgotten, g_strdup(ho->core.row.id));
        meted_changed(m);
}

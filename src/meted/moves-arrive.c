/* SPDX-License-Identifier: Apache-2.0 */
/* The side that gets a VM: holds what it takes, makes it usable to a VMM that stands, receives, lets it run.
 *
 * What the VM has comes about as ever, by its base request and one for each of its leases, but that the guest
 * is asked nothing while its memory is on its way (moves_is_arriving()). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "meted/activate.h"
#include "meted/hhi.h"
#include "meted/moves-internal.h"
#include "meted/moves.h"
#include "vm/boot-file.h"
#include "vm/disk-file.h"
#include "vm/probe.h"

enum { COPY_MS = 10000, LOOK_MS = 30000, LOOK_AGAIN_MS = 100, CONT_MS = 15000, PLUG_MS = 15000 };

/* ---- is it to be had here? ---- */

/* That both hosts see one file was the operator's word ([move] shared_disks), and may be wrong of one of
 * them: not mounted, or another file of that name. Its guest would go on with a disk that is not its own. */
static int check_disk(const struct moving *mv, const struct api_vm_definition *d, struct err *err)
{
        const struct meted *m = mv->m;
        struct api_peer_disk here;
        if (!d->has_disk)
                return 0;
        if (!m->config.shares_disks)
                return err_set(err, REASON_INCOMPATIBLE, EXDEV,
                               "%s has a disk, and this host does not share its disks ([move] shared_disks)",
                               mv->vm);
        if (!mv->guest->has_disk)
                return err_set(err, REASON_INCOMPATIBLE, EXDEV,
                               "its host does not say which file the disk %s is", d->disk);
        int bad = disk_file_see(m->config.image_dir, d->disk, &here, err);
        if (bad)
                err->reason = REASON_INCOMPATIBLE; /* it is no word of what was asked for */
        return bad ? bad : disk_file_compare(d->disk, &here, &mv->guest->disk, err);
}

/* Its guest would not notice before it boots. there: NULL where its host cannot say what it is. */
static int check_boot_file(const struct meted *m, const char *what, const char *name,
                           const struct api_peer_file *there, struct err *err)
{
        struct api_peer_file here;
        int bad = boot_file_see(m->config.image_dir, what, name, &here, err);
        if (bad)
                err->reason = REASON_INCOMPATIBLE;
        return bad ? bad : there ? boot_file_compare(what, name, &here, there, err) : 0;
}

static int check_files(const struct moving *mv, const struct api_vm_definition *d, struct err *err)
{
        const struct api_peer_vm *g = mv->guest;
        int bad = check_disk(mv, d, err);
        if (!bad && d->has_kernel)
                bad = check_boot_file(mv->m, "kernel", d->kernel, g->has_kernel ? &g->kernel : NULL, err);
        if (!bad && d->has_initrd)
                bad = check_boot_file(mv->m, "initial RAM disk", d->initrd, g->has_initrd ? &g->initrd : NULL,
                                      err);
        return bad;
}

static int check_guest(const struct moving *mv, struct err *err)
{
        const struct api_vm_definition *d = &mv->guest->definition;
        const struct meted *m = mv->m;
        int bad = vm_definition_check(d, err);
        if (bad)
                return err_note(err, "the definition of %s", mv->vm);
        if (d->accelerator != m->probe.accelerator)
                return err_set(err, REASON_INCOMPATIBLE, ENOEXEC, "%s runs on %s, and this host has %s",
                               mv->vm, api_accelerator_name(d->accelerator),
                               api_accelerator_name(m->probe.accelerator));
        if (strcmp(d->qemu_version, m->probe.version) != 0)
                return err_set(err, REASON_INCOMPATIBLE, ENOEXEC,
                               "%s was made for QEMU %s, and this host has %s", mv->vm, d->qemu_version,
                               m->probe.version);
        bad = probe_runs(&m->probe, d, err);
        if (bad)
                return bad;
        if (d->has_network && (!m->config.manages_net || strcmp(d->network, m->config.network) != 0))
                return err_set(err, REASON_INCOMPATIBLE, ENONET, "%s is on network %s, which is not here",
                               mv->vm, d->network);
        return check_files(mv, d, err);
}

/* The VM is defined here from now on; where it is stopped by an operator's word of ours it is another one. */
static int define(struct moving *mv, struct err *err)
{
        struct meted *m = mv->m;
        struct machine *v = machine_find(m, mv->vm);
        struct vm_shape shape;
        if (v && strcmp(v->definition.uuid, mv->guest->definition.uuid) == 0 && mv->is_defined)
                return machine_put(v, err); /* a turn that was not written had it, too */
        if (v)
                return err_set(err, REASON_INCOMPATIBLE, EEXIST, "this host has another VM that is called %s",
                               mv->vm);
        int bad = check_guest(mv, err);
        if (bad)
                return bad;
        v = machine_add(m, &mv->guest->definition, machine_free_uid_slot(m));
        (void)STR_COPY(v->definition.qemu_path, m->probe.path);
        v->epoch = 0; /* not ours */
        machine_shape(v, &shape);
        bad = hypervisor_vm_fits(m->hv, &shape, err);
        bad = bad ? bad : hypervisor_vm_define(m->hv, &shape, err);
        bad = bad ? bad : machine_put(v, err);
        if (bad)
                machine_remove(v);
        mv->is_defined = !bad;
        return bad;
}

void arrive_reserve(struct moving *mv, const struct move_effect *f)
{
        struct meted *m = mv->m;
        const struct vector *v = &mv->core.row.vector;
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        size_t n = move_needs(mv, v->bandwidth_bps, v->destination_cpu_milli, needs);
        int bad = define(mv, &err);
        if (!bad)
                bad = hypervisor_vm_hold(m->hv, mv->vm,
                                         mv->core.row.hold_ms > 0 ? mv->core.row.hold_ms : 60000,
                                         loop_now_ms(), &err);
        const struct machine *vm = machine_find(m, mv->vm);
        const struct request *base = vm ? machine_base(vm) : NULL;
        if (!bad && (!base || base->state != REQUEST_OFFERED))
                bad = err_set(&err, base && base->reason ? base->reason : REASON_NO_CAPACITY, ENOSPC,
                              "%.200s", base ? base->sentence : "it does not fit");
        if (bad) {
                move_report(mv, f->token, MOVE_EV_FAILED, &err);
        } else if (move_reserve(mv, needs, n, &err) > 0) {
                move_report(mv, f->token, MOVE_EV_RESERVED, NULL);
        } else {
                struct move_event ev = {.kind = MOVE_EV_SHORT,
                                        .token = f->token,
                                        .reason = err.reason,
                                        .sentence = err.sentence,
                                        .has = move_free_here(m, mv->core.row.reserve_ms)};
                move_happened(mv, &ev);
        }
        meted_changed(m);
}

/* ---- its VMM ---- */

static void failed(struct moving *mv, const struct err *err)
{
        mv->prepared = 0;
        move_report(mv, mv->prepare_token, MOVE_EV_FAILED, err);
}

static void on_ready(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        struct err err = {0};
        if (result->outcome != VM_DONE) {
                failed(mv, &result->err);
        } else if (listener_open(mv, &err)) {
                failed(mv, &err);
        } else {
                mv->prepared = mv->core.row.attempt;
                move_report(mv, mv->prepare_token, MOVE_EV_PREPARED, NULL);
        }
}

static void on_receiving(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        if (result->outcome != VM_DONE)
                log_warn("move %s: %s", mv->core.row.id, result->err.sentence);
}

void arrive_stream(struct moving *mv, int fd)
{
        struct move_event ev = {.kind = MOVE_EV_INCOMING, .attempt = mv->prepared};
        struct err err = {0};
        int64_t holds;
        if (!mv->copy) { /* its VMM died while who has the key was on its way */
                (void)close(fd);
                return;
        }
        (void)copy_socket_bound(fd, &holds, &err);
        const struct machine *v = machine_find(mv->m, mv->vm);
        if (v && v->pid) {
                hold_thread(mv, v->pid); /* the first one takes it in */
                mv->before_cpu_ns = moving_thread_cpu_ns(mv, v->pid);
        }
        copy_begin(mv->copy, fd, COPY_MS, on_receiving, mv);
        move_happened(mv, &ev);
}

static struct copy *copy_of(const struct machine *v)
{
        char dir[512];
        machine_path(v, "", dir, sizeof(dir));
        return copy_new(&(struct copy_options){.vm = v->vm, .side = COPY_DESTINATION, .dir = dir});
}

static void listen_for_it(struct moving *mv)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        struct err err = {0};
        if (!v || !v->vm) {
                (void)err_set(&err, REASON_STALE, ECHILD, "its VMM is gone");
                failed(mv, &err);
                return;
        }
        copy_free(mv->copy);
        mv->copy = copy_of(v);
        if (copy_key_make(&mv->key, &err))
                failed(mv, &err);
        else
                copy_prepare(mv->copy, &mv->key, COPY_MS, on_ready, mv);
}

/* vCPUs that nobody was granted, and that are plugged there all the same. */
static void plug_next(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        struct machine *v = machine_find(mv->m, mv->vm);
        if (result && result->outcome != VM_DONE) {
                failed(mv, &result->err);
                return;
        }
        if (result && v && v->vm)
                activate_park(v, mv->plug_slot); /* nobody is told of the one that was asked for */
        for (size_t i = 0; v && v->vm && i < mv->guest->n_plugged; i++) {
                int slot = (int)mv->guest->plugged[i];
                if (slot < v->definition.cpus_max && !vm_cpu(v->vm, slot)->plugged) {
                        mv->plug_slot = slot;
                        vm_cpu_ensure(v->vm, slot, PLUG_MS, plug_next, mv);
                        return;
                }
        }
        listen_for_it(mv);
}

static void lease_next(struct moving *mv);

static void on_lease(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct moving *mv = call;
        struct err bad = {0};
        (void)m;
        if (!err && r->state != REQUEST_GRANTED)
                err = (err_set(&bad, r->reason ? r->reason : REASON_INTERNAL, ENOSPC, "%.200s", r->sentence),
                       &bad);
        if (err)
                failed(mv, err);
        else
                lease_next(mv);
}

static void lease_next(struct moving *mv)
{
        struct meted *m = mv->m;
        struct need needs[NEEDS_MAX];
        struct arrival arrivals[SHAPE_SLOTS_MAX];
        struct err err = {0};
        uint64_t serial;
        if (mv->leases >= mv->guest->n_leases) {
                plug_next(mv, NULL);
                return;
        }
        const struct api_peer_lease *l = &mv->guest->leases[mv->leases++];
        struct ask ask = {.kind = REQUEST_APP,
                          .vm = mv->vm,
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
                failed(mv, &err);
        else
                meted_wait(m, serial, WAIT_VERDICT, on_lease, mv);
        meted_changed(m);
}

static void on_base(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct moving *mv = call;
        mv->leases = 0;
        on_lease(m, mv, r, err);
}

static void start(struct moving *mv)
{
        struct meted *m = mv->m;
        char key[REQUEST_KEY];
        struct err err = {0};
        uint64_t serial;
        (void)snprintf(key, sizeof(key), "vm:%s", mv->vm);
        const struct request *base = hypervisor_find(m->hv, key);
        int bad = !base || request_is_final(base) /* a later attempt */
                          ? hypervisor_vm_start(m->hv, mv->vm, loop_now_ms(), &err)
                          : hypervisor_accept(m->hv, key, loop_now_ms(), &serial, &err);
        base = hypervisor_find(m->hv, key);
        if (bad)
                failed(mv, &err);
        else
                meted_wait(m, base->serial, WAIT_VERDICT, on_base, mv);
        meted_changed(m);
}

/* Nothing of the attempt before is remembered: its leases have the ids of those that come again. */
static void start_anew(struct moving *mv)
{
        struct meted *m = mv->m;
        const struct machine *v = machine_find(m, mv->vm);
        struct vm_shape shape;
        struct err err = {0};
        machine_shape(v, &shape);
        if (hypervisor_vm_forget(m->hv, mv->vm, &err) || hypervisor_vm_define(m->hv, &shape, &err))
                failed(mv, &err);
        else
                start(mv);
}

static void on_cleared(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct moving *mv = call;
        (void)r;
        if (!err && machine_find(m, mv->vm))
                start_anew(mv);
}

void arrive_prepare(struct moving *mv, const struct move_effect *f)
{
        struct meted *m = mv->m;
        char key[REQUEST_KEY];
        uint64_t serial;
        struct err err = {0};
        arrive_drop(mv);
        mv->prepare_token = f->token;
        mv->prepared = 0;
        (void)snprintf(key, sizeof(key), "vm:%s", mv->vm);
        const struct request *base = hypervisor_find(m->hv, key);
        bool is_left = base && request_is_live(base) && base->state != REQUEST_OFFERED;
        const struct machine *v = machine_find(m, mv->vm);
        if (!v) {
                (void)err_set(&err, REASON_STALE, ESTALE, "it is not defined here any more");
                failed(mv, &err);
        } else if (check_files(mv, &v->definition,
                               &err)) { /* since it was reserved one may have become another */
                failed(mv, &err);
        } else if (is_left) {
                if (hypervisor_release(m->hv, key, "of an attempt that was broken off", loop_now_ms(),
                                       &serial, &err))
                        failed(mv, &err);
                else
                        meted_wait(m, serial, WAIT_END, on_cleared, mv);
                meted_changed(m);
        } else if (base && request_is_final(base)) { /* what its VMM had when it died came back already */
                start_anew(mv);
        } else {
                start(mv);
        }
}

/* ---- it comes ---- */

static void complete(struct moving *mv)
{
        struct move_event ev = {.kind = MOVE_EV_COMPLETED, .attempt = mv->prepared};
        const struct machine *v = machine_find(mv->m, mv->vm);
        if (!mv->is_complete && v && mv->before_cpu_ns > 0)
                mv->cpu_ns = moving_thread_cpu_ns(mv, v->pid) - mv->before_cpu_ns;
        mv->is_complete = true;
        hold_end(mv);
        move_happened(mv, &ev);
}

/* After a restart: what its VMM was given goes on coming, or came; who had yet to connect finds nobody who
 * listens. */
static void on_found(void *arg, const struct copy_seen *seen, const struct err *err)
{
        struct moving *mv = arg;
        struct move_event ev = {.kind = MOVE_EV_DIED,
                                .attempt = mv->prepared,
                                .reason = REASON_STALE,
                                .sentence = "who waited for the memory was started again before it came"};
        if (err) { /* nobody is attached to it yet, or it is busy */
                if (err->reason != REASON_CANCELLED)
                        loop_timer_in(&mv->look, LOOK_AGAIN_MS);
        } else if (seen->status == COPY_COMPLETED) {
                complete(mv);
        } else if (seen->status == COPY_SETUP || seen->status == COPY_ACTIVE ||
                   seen->status == COPY_FINISHING) {
                ev.kind = MOVE_EV_INCOMING;
                move_happened(mv, &ev);
        } else {
                move_happened(mv, &ev);
        }
}

void arrive_look(struct moving *mv)
{
        if (mv->copy)
                copy_look(mv->copy, LOOK_MS, on_found, mv);
}

void arrive_watch(struct moving *mv, const struct move_effect *f)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        struct move_event ev = {.kind = MOVE_EV_DIED,
                                .attempt = f->attempt,
                                .reason = REASON_STALE,
                                .sentence = "its VMM is gone"};
        if (!v || !v->vm || mv->prepared != f->attempt) {
                move_happened(mv, &ev);
        } else if (mv->is_complete) {
                complete(mv);
        } else if (!mv->copy) {
                mv->copy = copy_of(v);
                arrive_look(mv);
        }
}

void arrive_vm_event(struct moving *mv, enum vm_event event, const char *words)
{
        const struct machine *v = machine_find(mv->m, mv->vm);
        if (event == VM_EVENT_MIGRATION && strcmp(words, "completed") == 0)
                complete(mv);
        else if (event == VM_EVENT_RESUME && v && v->vm && mv->run_mono_us > 0 && mv->runs_mono_us == 0)
                mv->runs_mono_us = MAX(vm_event_us(v->vm), mv->run_mono_us + 1);
}

static void on_runs(void *arg, const struct vm_result *result)
{
        struct moving *mv = arg;
        struct machine *v = machine_find(mv->m, mv->vm);
        mv->was_told_to_run = mv->was_told_to_run || !v || !v->vm || vm_was_told_to_run(v->vm);
        if (result->outcome != VM_DONE) {
                log_warn("move %s: %s is to run: %s", mv->core.row.id, mv->vm, result->err.sentence);
                return;
        }
        if (v && mv->guest)
                hhi_follow(v, mv->guest->hhi_generation);
        if (v)
                guest_connect(v);
        if (mv->runs_mono_us == 0 && mv->run_mono_us > 0)
                mv->runs_mono_us = MAX(g_get_monotonic_time(), mv->run_mono_us + 1);
        move_report(mv, mv->run_token, MOVE_EV_RUNS, NULL);
        if (mv->copy)
                copy_announce(mv->copy, COPY_MS, on_receiving, mv);
}

void arrive_run(struct moving *mv, const struct move_effect *f)
{
        struct machine *v = machine_find(mv->m, mv->vm);
        mv->run_token = f->token;
        hold_end(mv); /* of a meted before this one */
        if (v && machine_is_awaited(v))
                return; /* nobody is attached to it yet: asked again */
        if (v && v->vm) {
                if (mv->run_mono_us == 0)
                        mv->run_mono_us = g_get_monotonic_time();
                vm_cont(v->vm, CONT_MS, on_runs, mv);
                return;
        }
        /* Nobody else tells it (moves_is_standing()): where it died before that, it runs at its source. */
        struct move_event gone = {.kind = mv->was_told_to_run ? MOVE_EV_DIED : MOVE_EV_FAILED,
                                  .token = f->token,
                                  .attempt = f->attempt,
                                  .reason = REASON_STALE,
                                  .sentence = "its VMM is gone"};
        move_happened(mv, &gone);
}

/* ---- the end ---- */

static void on_ended(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct moving *mv = call;
        (void)m;
        (void)r;
        if (err)
                return; /* asked again */
        if (mv->is_defined)
                move_forget_vm(mv);
        else
                move_report(mv, mv->release_token, MOVE_EV_RELEASED, NULL);
}

void arrive_release(struct moving *mv, const struct move_effect *f)
{
        struct meted *m = mv->m;
        struct err err = {0};
        char key[REQUEST_KEY];
        uint64_t serial;
        mv->release_token = f->token;
        arrive_drop(mv);
        move_unreserve(mv);
        if (mv->core.row.owner == OWNER_DESTINATION) {
                move_report(mv, f->token, MOVE_EV_RELEASED, NULL);
                return;
        }
        (void)snprintf(key, sizeof(key), "vm:%s", mv->vm);
        const struct request *base = hypervisor_find(m->hv, key);
        if (!base || request_is_final(base) || !mv->is_defined) {
                on_ended(m, mv, NULL, NULL);
        } else if (hypervisor_release(m->hv, key, "it did not come", loop_now_ms(), &serial, &err) == 0) {
                meted_wait(m, serial, WAIT_END, on_ended, mv);
                meted_changed(m);
        }
}

void arrive_drop(struct moving *mv)
{
        meted_unwait(mv->m, mv);
        copy_free(g_steal_pointer(&mv->copy));
        loop_timer_cancel(&mv->look);
        listener_close(mv);
        mv->is_complete = false;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/vm-operation.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "vm/pick.h"

/* More rounds of look, decide, act than this, and the VMM does not do what it says it does. */
enum { ROUNDS_MAX = VM_CPUS_MAX + 8 };

static void op_start(struct vm *vm);

void vm_enter(struct vm *vm)
{
        vm->depth++;
}

void vm_leave(struct vm *vm)
{
        if (--vm->depth > 0 || !vm->doomed)
                return;
        view_done(&vm->view);
        g_main_context_unref(vm->context);
        free(vm);
}

/* ---- the queue */

struct op *op_current(struct vm *vm)
{
        return vm->ops.head != NULL ? vm->ops.head->data : NULL;
}

static int remaining_ms(const struct op *op)
{
        int64_t left = (op->deadline_us - g_get_monotonic_time()) / 1000;
        return left < 1 ? 1 : (int)left;
}

void op_answer(struct op *op, enum vm_outcome outcome, const struct err *err)
{
        struct vm *vm = op->vm;
        struct vm_result result = {.outcome = outcome};
        if (err != NULL)
                result.err = *err;
        if (op->kind == OP_CPU_ENSURE && outcome == VM_DONE)
                result.tid = vm->view.cpus[op->slot].tid;
        g_queue_unlink(&vm->ops, &op->link);
        g_source_destroy(op->timer);
        g_source_unref(op->timer);
        if (op->done != NULL)
                op->done(op->arg, &result);
        free(op);
}

/* The first operation is over; the next one begins. */
static void op_finish(struct vm *vm, enum vm_outcome outcome, const struct err *err)
{
        assert(vm->flight == 0);
        vm->waiting = false;
        vm_enter(vm);
        op_answer(op_current(vm), outcome, err);
        if (!vm->doomed && !vm->dead && vm->flight == 0 && !vm->waiting)
                op_start(vm);
        vm_leave(vm);
}

static void op_fail(struct vm *vm, enum reason reason, int code, const char *sentence)
{
        struct err err = {0};
        err_set(&err, reason, code, "%s", sentence);
        op_finish(vm, VM_FAILED, &err);
}

static gboolean on_op_timer(gpointer data)
{
        struct op *op = data;
        struct vm *vm = op->vm;
        struct err err = {0};
        vm_enter(vm);
        if (vm->dead) {
                op_answer(op, VM_FAILED, &vm->death);
        } else if (op != op_current(vm)) {
                err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "VM %s: what was asked of it before took too long",
                        vm->definition.name);
                op_answer(op, VM_FAILED, &err);
        } else if (vm->waiting) {
                err_set(&err, REASON_TIMEOUT, ETIMEDOUT,
                        op->kind == OP_ATTACH ? "VM %s: the VMM's monitors were not ready in time"
                                              : "VM %s: the guest has not let go in time, and may still",
                        vm->definition.name);
                op_finish(vm, op->kind == OP_ATTACH ? VM_FAILED : VM_LATE, &err);
        }
        /* Else a call is under way and has the same deadline. */
        vm_leave(vm);
        return G_SOURCE_REMOVE;
}

struct op *op_queue(struct vm *vm, enum op_kind kind, int slot, int64_t bytes, int timeout_ms, vm_done *done,
                    void *arg)
{
        assert(timeout_ms > 0);
        struct op *op = calloc(1, sizeof(*op));
        assert(op != NULL);
        *op = (struct op){.vm = vm,
                          .kind = kind,
                          .slot = slot,
                          .bytes = bytes,
                          .deadline_us = g_get_monotonic_time() + (int64_t)timeout_ms * 1000,
                          .done = done,
                          .arg = arg,
                          .added_slot = -1};
        op->link.data = op;
        op->timer = g_timeout_source_new(vm->dead ? 0 : timeout_ms);
        g_source_set_callback(op->timer, on_op_timer, op, NULL);
        g_source_attach(op->timer, vm->context);
        g_queue_push_tail_link(&vm->ops, &op->link);
        return op;
}

void op_begin(struct op *op)
{
        struct vm *vm = op->vm;
        if (op == op_current(vm) && !vm->dead)
                op_start(vm);
}

void op_submit(struct vm *vm, enum op_kind kind, int slot, int64_t bytes, int timeout_ms, vm_done *done,
               void *arg)
{
        op_begin(op_queue(vm, kind, slot, bytes, timeout_ms, done, arg));
}

/* ---- looking */

int vm_cpus_max(const struct vm *vm)
{
        return (int)vm->definition.cpus_max;
}

static void look_fault(struct vm *vm, const struct err *err)
{
        if (vm->look_err.reason == 0)
                vm->look_err = *err;
}

static void op_decide(struct vm *vm);

static void on_query(struct vm *vm, size_t query, const json_t *ret, const struct err *err)
{
        if (vm->dead || vm->doomed)
                return;
        vm_enter(vm);
        struct err fault = {0};
        if (err == NULL && view_take(&vm->view, query, ret, &fault) < 0)
                err = &fault;
        if (err != NULL)
                look_fault(vm, err);
        assert(vm->flight > 0);
        if (--vm->flight == 0)
                op_decide(vm);
        vm_leave(vm);
}

/* A callback of qmp has one argument: one function for each row. */
#define ON_QUERY(row)                                                                                        \
        static void on_query_##row(void *arg, const json_t *ret, const struct err *err)                      \
        {                                                                                                    \
                on_query(arg, row, ret, err);                                                                \
        }
ON_QUERY(0)
ON_QUERY(1)
ON_QUERY(2)
ON_QUERY(3)
ON_QUERY(4)
ON_QUERY(5)
ON_QUERY(6)
ON_QUERY(7)
static qmp_done *const query_done[VIEW_QUERIES] = {on_query_0, on_query_1, on_query_2, on_query_3,
                                                   on_query_4, on_query_5, on_query_6, on_query_7};

/* What each kind needs to see before it can decide. */
static const int look_of[OP_N] = {
        [OP_ATTACH] = LOOK_IDENTITY | LOOK_RUN | LOOK_CPUS | LOOK_MEMORY,
        [OP_REFRESH] = LOOK_RUN | LOOK_CPUS | LOOK_MEMORY,
        [OP_CPU_ENSURE] = LOOK_CPUS,
        [OP_CPU_REMOVE] = LOOK_CPUS,
        [OP_MEMORY_PREPARE] = LOOK_MEMORY,
        [OP_MEMORY_ENSURE] = LOOK_MEMORY,
        [OP_MEMORY_REMOVE] = LOOK_MEMORY,
        [OP_DISK_LIMIT] = LOOK_DISK,
        [OP_DISK_LOOK] = LOOK_DISK,
        [OP_CONT] = LOOK_RUN,
        [OP_POWERDOWN] = LOOK_RUN,
        [OP_QUIT] = LOOK_RUN,
};

void op_look(struct vm *vm)
{
        struct op *op = op_current(vm);
        if (++op->rounds > ROUNDS_MAX) {
                op_fail(vm, REASON_INTERNAL, ELOOP, "the VMM does not do what it says it does");
                return;
        }
        vm->look_err = (struct err){0};
        int look = look_of[op->kind] | (vm->identified ? 0 : LOOK_IDENTITY);
        for (size_t i = 0; i < VIEW_QUERIES; i++) {
                if ((view_queries[i].look & look) == 0)
                        continue;
                vm->flight++;
                qmp_execute(vm->main, view_queries[i].command, NULL, remaining_ms(op), query_done[i], vm);
        }
}

/* ---- acting */

void vm_tell(struct vm *vm, enum vm_event event, int index, const char *words)
{
        if (!vm->doomed && vm->options.on_event != NULL)
                vm->options.on_event(vm->arg, vm, event, index, words);
}

static void act(struct vm *vm, const char *command, json_t *arguments, qmp_done *done)
{
        vm->flight++;
        qmp_execute(vm->main, command, arguments, remaining_ms(op_current(vm)), done, vm);
}

/* Ends an act. true: the operation goes on, with *err NULL or not. */
static bool acted(struct vm *vm)
{
        if (vm->dead || vm->doomed)
                return false;
        assert(vm->flight == 1);
        vm->flight = 0;
        return true;
}

/* Done, or the operation's fault. */
static void on_act(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        if (err != NULL)
                op_finish(vm, VM_FAILED, err);
        else
                op_look(vm);
}

static void on_last_act(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        /* A VMM that is gone before it could say so has quit all the same. */
        bool quit = op_current(vm)->kind == OP_QUIT && err != NULL && err->reason == REASON_PEER_LOST;
        op_finish(vm, err == NULL || quit ? VM_DONE : VM_FAILED, quit ? NULL : err);
}

static void add_cpu(struct vm *vm, int slot)
{
        char id[16];
        snprintf(id, sizeof(id), "cpu%d", slot);
        if (vm->view.cpu_props[slot] == NULL || vm->view.cpu_type[0] == '\0') {
                op_fail(vm, REASON_INTERNAL, EPROTO, "the VMM does not know this vCPU slot");
                return;
        }
        json_t *arguments = json_pack("{s:s, s:s}", "driver", vm->view.cpu_type, "id", id);
        json_object_update_missing(arguments, vm->view.cpu_props[slot]);
        op_current(vm)->added_slot = slot;
        act(vm, "device_add", arguments, on_act);
}

static void decide_cpu_ensure(struct vm *vm, struct op *op)
{
        /* One that was plugged on the way to the one asked for is nobody's yet. */
        if (op->added_slot >= 0 && op->added_slot != op->slot && vm->view.cpus[op->added_slot].plugged) {
                int slot = op->added_slot;
                op->added_slot = -1;
                vm_tell(vm, VM_EVENT_CPU_NEW, slot, "");
                if (vm->doomed || vm->dead)
                        return;
        }
        if (vm->view.cpus[op->slot].plugged) {
                op_finish(vm, VM_DONE, NULL);
                return;
        }
        int slot = op->slot;
        if (vm->definition.accelerator == API_ACCELERATOR_TCG)
                for (slot = 0; vm->view.cpus[slot].plugged;)
                        slot++;
        add_cpu(vm, slot);
}

/* What remove has in common. The guest is asked once; on_event() and the timer tell what comes of it. */
static void on_asked(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        struct op *op = op_current(vm);
        if (err != NULL && err->reason != REASON_NOT_FOUND) {
                op_finish(vm, VM_FAILED, err);
                return;
        }
        if (err != NULL || op->answered)
                op_look(vm);
        else
                vm->waiting = true;
}

static void finish_refused(struct vm *vm)
{
        struct err err = {0};
        err_set(&err, REASON_BUSY, EBUSY, "VM %s: the guest does not let go", vm->definition.name);
        op_finish(vm, VM_REFUSED, &err);
}

/* Asks, unless it was asked. */
static void ask_guest(struct vm *vm, struct op *op, const char *prefix)
{
        char id[16];
        if (op->answered && op->refused) {
                finish_refused(vm);
                return;
        }
        if (op->asked) {
                /* The VMM said that it is gone, or let us wait in vain; it is there. */
                vm->waiting = true;
                return;
        }
        op->asked = true;
        snprintf(id, sizeof(id), "%s%d", prefix, op->slot);
        act(vm, "device_del", json_pack("{s:s}", "id", id), on_asked);
}

static void decide_cpu_remove(struct vm *vm, struct op *op)
{
        if (!vm->view.cpus[op->slot].plugged)
                op_finish(vm, VM_DONE, NULL);
        else if (vm->definition.cpu_mechanism == API_CPU_MECHANISM_PARK)
                op_finish(vm, VM_PARKED, NULL);
        else
                ask_guest(vm, op, "cpu");
}

static void remove_backend(struct vm *vm, struct op *op, qmp_done *done)
{
        char id[16];
        snprintf(id, sizeof(id), "dimmmem%d", op->slot);
        act(vm, "object-del", json_pack("{s:s}", "id", id), done);
}

static void on_undone(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        struct err fault = op_current(vm)->fault;
        op_finish(vm, VM_FAILED, &fault);
}

/* A device that cannot be had leaves no memory behind. */
static void on_dimm_added(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        struct op *op = op_current(vm);
        if (err == NULL) {
                op_look(vm);
        } else if (err->reason == REASON_PEER_LOST || err->reason == REASON_TIMEOUT) {
                op_finish(vm, VM_FAILED, err);
        } else {
                op->fault = *err;
                remove_backend(vm, op, on_undone);
        }
}

static void add_backend(struct vm *vm, struct op *op)
{
        char id[16], path[352];
        snprintf(id, sizeof(id), "dimmmem%d", op->slot);
        /* The size is in the name: a file keeps its size, and a slot may come back with another one.
         * discard-data gives the pages back to the host when the object goes; the file itself stays, because
         * neither the VMM nor meted may remove it. */
        const char *dir = vm->dimm_dir[op->slot];
        snprintf(path, sizeof(path), "%s/dimm%d-%jdM", *dir ? dir : vm->ram_dir, op->slot,
                 (intmax_t)(op->bytes >> 20));
        json_t *memory = json_pack("{s:s, s:s, s:I, s:s, s:b, s:b, s:b}", "qom-type", "memory-backend-file",
                                   "id", id, "size", (json_int_t)op->bytes, "mem-path", path, "share", 1,
                                   "prealloc", *dir != 0 && !vm->is_sharing, "discard-data", !vm->is_sharing);
        int node = vm->dimm_node[op->slot];
        if (node) {
                json_object_set_new(memory, "host-nodes", json_pack("[i]", node - 1));
                json_object_set_new(memory, "policy", json_string("bind"));
        }
        act(vm, "object-add", memory, on_act);
}

static void decide_memory_ensure(struct vm *vm, struct op *op)
{
        const struct vm_dimm *dimm = &vm->view.dimms[op->slot];
        char id[16], memory[16];
        if (dimm->plugged && dimm->bytes == op->bytes) {
                op_finish(vm, VM_DONE, NULL);
        } else if (dimm->plugged) {
                op_fail(vm, REASON_STALE, EEXIST, "another amount of memory is plugged in this slot");
        } else if (dimm->backed && dimm->bytes != op->bytes) {
                remove_backend(vm, op, on_act);
        } else if (!dimm->backed) {
                add_backend(vm, op);
        } else if (op->kind == OP_MEMORY_PREPARE) {
                op_finish(vm, VM_DONE, NULL);
        } else {
                snprintf(id, sizeof(id), "dimm%d", op->slot);
                snprintf(memory, sizeof(memory), "dimmmem%d", op->slot);
                act(vm, "device_add",
                    json_pack("{s:s, s:s, s:s, s:i, s:i}", "driver", "pc-dimm", "id", id, "memdev", memory,
                              "slot", op->slot, "node", VM_NUMA_NODE),
                    on_dimm_added);
        }
}

static void decide_memory_remove(struct vm *vm, struct op *op)
{
        if (vm->view.dimms[op->slot].plugged)
                ask_guest(vm, op, "dimm");
        else if (vm->view.dimms[op->slot].backed)
                remove_backend(vm, op, on_act);
        else
                op_finish(vm, VM_DONE, NULL);
}

/* QEMU makes a throttle group of its own for the disk, and takes it away where nothing is limited. */
static void decide_disk(struct vm *vm, struct op *op)
{
        const struct vm_disk *disk = &vm->view.disk;
        if (!disk->is_there)
                op_fail(vm, REASON_NOT_FOUND, ENODEV, "the VMM has no such disk");
        else if (op->kind == OP_DISK_LOOK ||
                 (disk->bytes_per_s == op->bytes && disk->iops == op->iops && !disk->has_others))
                op_finish(vm, VM_DONE, NULL);
        else if (op->rounds > 1)
                op_fail(vm, REASON_INTERNAL, EIO, "the VMM does not keep the limits of the disk");
        else
                act(vm, "block_set_io_throttle",
                    json_pack("{s:s, s:I, s:i, s:i, s:I, s:i, s:i}", "id", VIEW_DISK, "bps",
                              (json_int_t)op->bytes, "bps_rd", 0, "bps_wr", 0, "iops", (json_int_t)op->iops,
                              "iops_rd", 0, "iops_wr", 0),
                    on_act);
}

static void op_decide(struct vm *vm)
{
        struct op *op = op_current(vm);
        if (vm->look_err.reason != 0) {
                struct err err = vm->look_err;
                bool quit = op->kind == OP_QUIT && err.reason == REASON_PEER_LOST;
                op_finish(vm, quit ? VM_DONE : VM_FAILED, quit ? NULL : &err);
                return;
        }
        vm->identified = true;
        switch (op->kind) {
        case OP_ATTACH:
        case OP_REFRESH:
                op_finish(vm, VM_DONE, NULL);
                break;
        case OP_CPU_ENSURE:
                decide_cpu_ensure(vm, op);
                break;
        case OP_CPU_REMOVE:
                decide_cpu_remove(vm, op);
                break;
        case OP_MEMORY_PREPARE:
        case OP_MEMORY_ENSURE:
                decide_memory_ensure(vm, op);
                break;
        case OP_MEMORY_REMOVE:
                decide_memory_remove(vm, op);
                break;
        case OP_DISK_LIMIT:
        case OP_DISK_LOOK:
                decide_disk(vm, op);
                break;
        case OP_CONT:
                if (vm->view.run == VM_RUN_RUNNING)
                        op_finish(vm, VM_DONE, NULL);
                else if (vm->view.run == VM_RUN_INCOMING)
                        op_fail(vm, REASON_STALE, EAGAIN, "the VM is not there yet");
                else if (op->rounds > 1)
                        op_fail(vm, REASON_INTERNAL, EIO, "the VMM does not let the VM run");
                else {
                        vm->was_told_to_run = true;
                        act(vm, "cont", NULL, on_act);
                }
                break;
        case OP_POWERDOWN:
                act(vm, "system_powerdown", NULL, on_last_act);
                break;
        case OP_QUIT:
                act(vm, "quit", NULL, on_last_act);
                break;
        case OP_N:
                assert(false);
        }
}

static void op_start(struct vm *vm)
{
        struct op *op = op_current(vm);
        if (op == NULL)
                return;
        if (vm->main_ready && vm->oob_ready)
                op_look(vm);
        else
                vm->waiting = true;
}

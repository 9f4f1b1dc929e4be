/* SPDX-License-Identifier: Apache-2.0 */
/* The model: operations stand in a queue, the first one is at work. Work is a loop of the same three steps
 * for every kind: look (ask the VMM for the part of its state that matters), decide (what is missing between
 * that and the target), act (one command); until nothing is missing. So an operation that was cut off
 * anywhere, by whatever died, is completed by calling it again.
 *
 * Invariants: callbacks of the monitors carry the vm, never an operation, and mean the first of the queue;
 * an operation is only taken from the queue with `flight` at 0 (no call of it is under way) or when the
 * VMM is dead or let go, after which answers are ignored. `flight` > 0: calls are under way, each with the
 * operation's remaining time as its own deadline. `waiting`: the guest (or, for attach, the greeting) is
 * awaited, and the operation's timer ends that.
 * Memory is freed when no callback of ours is on the stack (`depth`). */
#include "vm/vm.h"

#include <assert.h>
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "vm/pick.h"
#include "vm/socket.h"
#include "vm/vm-internal.h"
#include "vm/view.h"

enum op_kind {
        OP_ATTACH = 1,
        OP_REFRESH,
        OP_CPU_ENSURE,
        OP_CPU_REMOVE,
        OP_MEMORY_PREPARE,
        OP_MEMORY_ENSURE,
        OP_MEMORY_REMOVE,
        OP_DISK_LIMIT,
        OP_DISK_LOOK,
        OP_CONT,
        OP_POWERDOWN,
        OP_QUIT,
        OP_N
};

/* More rounds of look, decide, act than this, and the VMM does not do what it says it does. */
enum { ROUNDS_MAX = VM_CPUS_MAX + 8 };

struct op {
        GList link; /* in vm->ops; link.data is this */
        struct vm *vm;
        enum op_kind kind;
        int slot;
        int64_t bytes, iops;
        int64_t deadline_us; /* monotonic */
        GSource *timer;
        vm_done *done;
        void *arg;
        int rounds;
        int added_slot; /* vCPU slot of the last device_add, or -1 */
        bool asked;     /* the guest was asked to let go */
        bool answered;  /* and has answered: the device is gone, or refused */
        bool refused;
        struct err fault; /* of a step that is being undone */
};

struct vm {
        struct api_vm_definition definition;
        int16_t dimm_node[VM_DIMMS_MAX];  /* of the host, plus 1; 0: not bound */
        char dimm_dir[VM_DIMMS_MAX][304]; /* "": ram_dir */
        struct vm_options options;        /* its pointers to text are not used after vm_attach() */
        void *arg;
        char ram_dir[256];
        bool is_sharing;
        GMainContext *context;
        struct qmp *main, *oob;
        struct qmp_counters *sum;
        bool main_ready, oob_ready;
        bool identified; /* it is the VM that the definition names */
        GQueue ops;
        unsigned flight, depth;
        bool waiting, dead, doomed;
        struct err look_err; /* first fault of the look that is under way */
        struct err death;
        char version[64];
        struct view view;
};

static void op_look(struct vm *vm);
static void op_start(struct vm *vm);

static void enter(struct vm *vm)
{
        vm->depth++;
}

static void leave(struct vm *vm)
{
        if (--vm->depth > 0 || !vm->doomed)
                return;
        view_done(&vm->view);
        g_main_context_unref(vm->context);
        free(vm);
}

/* ---- the queue */

static struct op *current(struct vm *vm)
{
        return vm->ops.head != NULL ? vm->ops.head->data : NULL;
}

static int remaining_ms(const struct op *op)
{
        int64_t left = (op->deadline_us - g_get_monotonic_time()) / 1000;
        return left < 1 ? 1 : (int)left;
}

static void op_answer(struct op *op, enum vm_outcome outcome, const struct err *err)
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
static void finish(struct vm *vm, enum vm_outcome outcome, const struct err *err)
{
        assert(vm->flight == 0);
        vm->waiting = false;
        enter(vm);
        op_answer(current(vm), outcome, err);
        if (!vm->doomed && !vm->dead && vm->flight == 0 && !vm->waiting)
                op_start(vm);
        leave(vm);
}

static void fail(struct vm *vm, enum reason reason, int code, const char *sentence)
{
        struct err err = {0};
        err_set(&err, reason, code, "%s", sentence);
        finish(vm, VM_FAILED, &err);
}

static gboolean on_op_timer(gpointer data)
{
        struct op *op = data;
        struct vm *vm = op->vm;
        struct err err = {0};
        enter(vm);
        if (vm->dead) {
                op_answer(op, VM_FAILED, &vm->death);
        } else if (op != current(vm)) {
                err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "VM %s: what was asked of it before took too long",
                        vm->definition.name);
                op_answer(op, VM_FAILED, &err);
        } else if (vm->waiting) {
                err_set(&err, REASON_TIMEOUT, ETIMEDOUT,
                        op->kind == OP_ATTACH ? "VM %s: the VMM's monitors were not ready in time"
                                              : "VM %s: the guest has not let go in time, and may still",
                        vm->definition.name);
                finish(vm, op->kind == OP_ATTACH ? VM_FAILED : VM_LATE, &err);
        }
        /* Else a call is under way and has the same deadline. */
        leave(vm);
        return G_SOURCE_REMOVE;
}

static struct op *op_queue(struct vm *vm, enum op_kind kind, int slot, int64_t bytes, int timeout_ms,
                           vm_done *done, void *arg)
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

static void op_begin(struct op *op)
{
        struct vm *vm = op->vm;
        if (op == current(vm) && !vm->dead)
                op_start(vm);
}

static void op_submit(struct vm *vm, enum op_kind kind, int slot, int64_t bytes, int timeout_ms,
                      vm_done *done, void *arg)
{
        op_begin(op_queue(vm, kind, slot, bytes, timeout_ms, done, arg));
}

/* ---- looking */

static int cpus_max(const struct vm *vm)
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
        enter(vm);
        struct err fault = {0};
        if (err == NULL && view_take(&vm->view, query, ret, &fault) < 0)
                err = &fault;
        if (err != NULL)
                look_fault(vm, err);
        assert(vm->flight > 0);
        if (--vm->flight == 0)
                op_decide(vm);
        leave(vm);
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

static void op_look(struct vm *vm)
{
        struct op *op = current(vm);
        if (++op->rounds > ROUNDS_MAX) {
                fail(vm, REASON_INTERNAL, ELOOP, "the VMM does not do what it says it does");
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

static void tell(struct vm *vm, enum vm_event event, int index, const char *words)
{
        if (!vm->doomed && vm->options.on_event != NULL)
                vm->options.on_event(vm->arg, vm, event, index, words);
}

static void act(struct vm *vm, const char *command, json_t *arguments, qmp_done *done)
{
        vm->flight++;
        qmp_execute(vm->main, command, arguments, remaining_ms(current(vm)), done, vm);
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
                finish(vm, VM_FAILED, err);
        else
                op_look(vm);
}

static void on_last_act(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        /* A VMM that is gone before it could say so has quit all the same. */
        bool quit = current(vm)->kind == OP_QUIT && err != NULL && err->reason == REASON_PEER_LOST;
        finish(vm, err == NULL || quit ? VM_DONE : VM_FAILED, quit ? NULL : err);
}

static void add_cpu(struct vm *vm, int slot)
{
        char id[16];
        snprintf(id, sizeof(id), "cpu%d", slot);
        if (vm->view.cpu_props[slot] == NULL || vm->view.cpu_type[0] == '\0') {
                fail(vm, REASON_INTERNAL, EPROTO, "the VMM does not know this vCPU slot");
                return;
        }
        json_t *arguments = json_pack("{s:s, s:s}", "driver", vm->view.cpu_type, "id", id);
        json_object_update_missing(arguments, vm->view.cpu_props[slot]);
        current(vm)->added_slot = slot;
        act(vm, "device_add", arguments, on_act);
}

static void decide_cpu_ensure(struct vm *vm, struct op *op)
{
        /* One that was plugged on the way to the one asked for is nobody's yet. */
        if (op->added_slot >= 0 && op->added_slot != op->slot && vm->view.cpus[op->added_slot].plugged) {
                int slot = op->added_slot;
                op->added_slot = -1;
                tell(vm, VM_EVENT_CPU_NEW, slot, "");
                if (vm->doomed || vm->dead)
                        return;
        }
        if (vm->view.cpus[op->slot].plugged) {
                finish(vm, VM_DONE, NULL);
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
        struct op *op = current(vm);
        if (err != NULL && err->reason != REASON_NOT_FOUND) {
                finish(vm, VM_FAILED, err);
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
        finish(vm, VM_REFUSED, &err);
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
                finish(vm, VM_DONE, NULL);
        else if (vm->definition.cpu_mechanism == API_CPU_MECHANISM_PARK)
                finish(vm, VM_PARKED, NULL);
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
        struct err fault = current(vm)->fault;
        finish(vm, VM_FAILED, &fault);
}

/* A device that cannot be had leaves no memory behind. */
static void on_dimm_added(void *arg, const json_t *ret, const struct err *err)
{
        struct vm *vm = arg;
        if (!acted(vm))
                return;
        struct op *op = current(vm);
        if (err == NULL) {
                op_look(vm);
        } else if (err->reason == REASON_PEER_LOST || err->reason == REASON_TIMEOUT) {
                finish(vm, VM_FAILED, err);
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
                finish(vm, VM_DONE, NULL);
        } else if (dimm->plugged) {
                fail(vm, REASON_STALE, EEXIST, "another amount of memory is plugged in this slot");
        } else if (dimm->backed && dimm->bytes != op->bytes) {
                remove_backend(vm, op, on_act);
        } else if (!dimm->backed) {
                add_backend(vm, op);
        } else if (op->kind == OP_MEMORY_PREPARE) {
                finish(vm, VM_DONE, NULL);
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
                finish(vm, VM_DONE, NULL);
}

/* QEMU makes a throttle group of its own for the disk, and takes it away where nothing is limited. */
static void decide_disk(struct vm *vm, struct op *op)
{
        const struct vm_disk *disk = &vm->view.disk;
        if (!disk->is_there)
                fail(vm, REASON_NOT_FOUND, ENODEV, "the VMM has no such disk");
        else if (op->kind == OP_DISK_LOOK ||
                 (disk->bytes_per_s == op->bytes && disk->iops == op->iops && !disk->has_others))
                finish(vm, VM_DONE, NULL);
        else if (op->rounds > 1)
                fail(vm, REASON_INTERNAL, EIO, "the VMM does not keep the limits of the disk");
        else
                act(vm, "block_set_io_throttle",
                    json_pack("{s:s, s:I, s:i, s:i, s:I, s:i, s:i}", "id", VIEW_DISK, "bps",
                              (json_int_t)op->bytes, "bps_rd", 0, "bps_wr", 0, "iops", (json_int_t)op->iops,
                              "iops_rd", 0, "iops_wr", 0),
                    on_act);
}

static void op_decide(struct vm *vm)
{
        struct op *op = current(vm);
        if (vm->look_err.reason != 0) {
                struct err err = vm->look_err;
                bool quit = op->kind == OP_QUIT && err.reason == REASON_PEER_LOST;
                finish(vm, quit ? VM_DONE : VM_FAILED, quit ? NULL : &err);
                return;
        }
        vm->identified = true;
        switch (op->kind) {
        case OP_ATTACH:
        case OP_REFRESH:
                finish(vm, VM_DONE, NULL);
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
                        finish(vm, VM_DONE, NULL);
                else if (vm->view.run == VM_RUN_INCOMING)
                        fail(vm, REASON_STALE, EAGAIN, "the VM is not there yet");
                else if (op->rounds > 1)
                        fail(vm, REASON_INTERNAL, EIO, "the VMM does not let the VM run");
                else
                        act(vm, "cont", NULL, on_act);
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
        struct op *op = current(vm);
        if (op == NULL)
                return;
        if (vm->main_ready && vm->oob_ready)
                op_look(vm);
        else
                vm->waiting = true;
}

/* ---- what the monitors say */

static void on_monitor_ready(struct vm *vm)
{
        if (!vm->main_ready || !vm->oob_ready || current(vm) == NULL)
                return;
        vm->waiting = false;
        op_look(vm);
}

static void on_main_ready(void *arg, const struct qmp_version *version)
{
        struct vm *vm = arg;
        vm->main_ready = true;
        snprintf(vm->version, sizeof(vm->version), "%d.%d.%d", version->major, version->minor,
                 version->micro);
        on_monitor_ready(vm);
}

static void on_oob_ready(void *arg, const struct qmp_version *version)
{
        struct vm *vm = arg;
        vm->oob_ready = true;
        on_monitor_ready(vm);
}

static void on_lost(void *arg, const struct err *why)
{
        struct vm *vm = arg;
        if (vm->dead || vm->doomed)
                return;
        enter(vm);
        vm->dead = true;
        vm->death = *why;
        err_note(&vm->death, "VM %s", vm->definition.name);
        vm->flight = 0;
        vm->waiting = false;
        /* Those that a callback adds now have a timer of their own. */
        for (guint n = vm->ops.length; n > 0 && !vm->doomed && current(vm) != NULL; n--) {
                struct op *op = current(vm);
                bool quit = op->kind == OP_QUIT;
                op_answer(op, quit ? VM_DONE : VM_FAILED, quit ? NULL : &vm->death);
        }
        /* One that has not greeted in time may be slow, or stopped: that is the attachment's failure, no
         * death. */
        bool is_slow = why->reason == REASON_TIMEOUT && !(vm->main_ready && vm->oob_ready);
        if (!vm->doomed && !is_slow && vm->options.on_death != NULL)
                vm->options.on_death(vm->arg, vm, &vm->death);
        leave(vm);
}

/* What ACPI's _OST says of an ejection: 0 is success, 0x84 is under way, all else means no. */
enum { OST_EJECTION = 0x03, OST_EJECTION_BY_GUEST = 0x103, OST_SUCCESS = 0, OST_PENDING = 0x84 };

static bool op_is_about(const struct op *op, const char *device)
{
        const struct vm *vm = op->vm;
        if (op->kind == OP_CPU_REMOVE)
                return view_index(device, "cpu", cpus_max(vm)) == op->slot;
        return op->kind == OP_MEMORY_REMOVE &&
               view_index(device, "dimm", (int)vm->definition.dimm_slots) == op->slot;
}

static void on_device(struct vm *vm, const char *device, bool refused)
{
        struct op *op = current(vm);
        if (op != NULL && op->asked && op_is_about(op, device)) {
                op->answered = true;
                op->refused = refused;
                if (vm->waiting) {
                        vm->waiting = false;
                        op_look(vm);
                }
                return;
        }
        int dimm = view_index(device, "dimm", (int)vm->definition.dimm_slots);
        int cpu = view_index(device, "cpu", cpus_max(vm));
        if (!refused && dimm >= 0)
                tell(vm, VM_EVENT_DIMM_GONE, dimm, "");
        else if (!refused && cpu >= 0)
                tell(vm, VM_EVENT_CPU_GONE, cpu, "");
}

/* The guest's own word. A refusal has the device's id; a success comes when that is gone, with the slot
 * alone. For a vCPU it is the only sign there is: QEMU reports DEVICE_DELETED of its parts, not of itself. */
static void on_ost(struct vm *vm, const json_t *info)
{
        int64_t source, status;
        struct op *op = current(vm);
        if (!pick_integer(info, "source", 0, INT32_MAX, &source) ||
            !pick_integer(info, "status", 0, INT32_MAX, &status) ||
            (source != OST_EJECTION && source != OST_EJECTION_BY_GUEST) || status == OST_PENDING)
                return;
        if (status != OST_SUCCESS) {
                on_device(vm, pick_text(info, "device"), true);
                return;
        }
        char device[32];
        bool cpu = strcmp(pick_text(info, "slot-type"), "CPU") == 0;
        snprintf(device, sizeof(device), "%s%.8s", cpu ? "cpu" : "dimm", pick_text(info, "slot"));
        if (cpu || (op != NULL && op->asked && op_is_about(op, device)))
                on_device(vm, device, false);
}

static void on_event(void *arg, const char *name, const json_t *data)
{
        struct vm *vm = arg;
        char words[64] = "";
        if (vm->dead || vm->doomed)
                return;
        enter(vm);
        if (strcmp(name, "DEVICE_DELETED") == 0) {
                on_device(vm, pick_text(data, "device"), false);
        } else if (strcmp(name, "DEVICE_UNPLUG_GUEST_ERROR") == 0 || strcmp(name, "MEM_UNPLUG_ERROR") == 0) {
                on_device(vm, pick_text(data, "device"), true);
        } else if (strcmp(name, "ACPI_DEVICE_OST") == 0) {
                on_ost(vm, json_object_get(data, "info"));
        } else if (strcmp(name, "SHUTDOWN") == 0) {
                vm->view.run = VM_RUN_SHUTDOWN;
                pick_words(data, "reason", words, sizeof(words));
                tell(vm, VM_EVENT_SHUTDOWN, 0, words);
        } else if (strcmp(name, "RESET") == 0) {
                pick_words(data, "reason", words, sizeof(words));
                tell(vm, VM_EVENT_RESET, 0, words);
        } else if (strcmp(name, "STOP") == 0) {
                vm->view.run = VM_RUN_PAUSED;
                tell(vm, VM_EVENT_STOP, 0, "");
        } else if (strcmp(name, "RESUME") == 0) {
                vm->view.run = VM_RUN_RUNNING;
                tell(vm, VM_EVENT_RESUME, 0, "");
        } else if (strcmp(name, "GUEST_PANICKED") == 0) {
                pick_words(data, "action", words, sizeof(words));
                tell(vm, VM_EVENT_PANIC, 0, words);
        } else if (strcmp(name, "MIGRATION") == 0) {
                pick_words(data, "status", words, sizeof(words));
                tell(vm, VM_EVENT_MIGRATION, 0, words);
        } else if (strcmp(name, "MIGRATION_PASS") == 0) {
                int64_t pass = 0;
                pick_integer(data, "pass", 0, INT32_MAX, &pass);
                tell(vm, VM_EVENT_PASS, (int)pass, "");
        }
        leave(vm);
}

/* ---- life */

static void on_line(void *arg, bool sent, const char *line, size_t n)
{
        struct vm *vm = arg;
        if (!vm->doomed)
                vm->options.on_line(vm->arg, sent, line, n);
}

static struct qmp *connect_monitor(struct vm *vm, const char *path, bool oob, int timeout_ms, struct err *err)
{
        int fd = vm_connect(path, err);
        if (fd < 0)
                return NULL;
        struct qmp_options options = {.oob = oob,
                                      .greeting_ms = timeout_ms,
                                      .on_ready = oob ? on_oob_ready : on_main_ready,
                                      .on_event = oob ? NULL : on_event,
                                      .on_lost = on_lost,
                                      .on_line = vm->options.on_line != NULL ? on_line : NULL};
        struct qmp *q = qmp_new(fd, &options, vm);
        if (q == NULL)
                err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a monitor");
        return q;
}

struct vm *vm_attach(const struct vm_options *o, int timeout_ms, vm_done *done, void *arg, struct err *err)
{
        if (vm_definition_check(o->definition, err) < 0)
                return NULL;
        struct vm *vm = calloc(1, sizeof(*vm));
        assert(vm != NULL);
        vm->definition = *o->definition;
        vm->sum = o->sum;
        vm->view.definition = &vm->definition;
        vm->options = *o;
        vm->arg = arg;
        vm->view.run = VM_RUN_UNKNOWN;
        vm->context = g_main_context_ref_thread_default();
        g_queue_init(&vm->ops);
        vm->is_sharing = o->is_sharing;
        if (!STR_COPY(vm->ram_dir, o->ram_dir))
                err_set(err, REASON_INVALID, ENAMETOOLONG, "%.100s...: too long for a directory of RAM files",
                        o->ram_dir);
        else if ((vm->main = connect_monitor(vm, o->qmp_path, false, timeout_ms, err)) != NULL)
                vm->oob = connect_monitor(vm, o->oob_path, true, timeout_ms, err);
        if (vm->oob == NULL) {
                vm_free(vm);
                return NULL;
        }
        op_submit(vm, OP_ATTACH, 0, 0, timeout_ms, done, arg);
        return vm;
}

void vm_counters_add(const struct vm *vm, struct qmp_counters *sum)
{
        const struct qmp *const both[] = {vm ? vm->main : NULL, vm ? vm->oob : NULL};
        for (size_t i = 0; i < 2; i++) {
                const struct qmp_counters *c = both[i] ? qmp_counters(both[i]) : &(struct qmp_counters){0};
                sum->replies += c->replies;
                sum->events += c->events;
                sum->unreadable += c->unreadable;
                sum->unexpected += c->unexpected;
                sum->late += c->late;
        }
}

void vm_free(struct vm *vm)
{
        if (vm == NULL || vm->doomed)
                return;
        struct err err = {0};
        enter(vm);
        vm->doomed = true;
        if (vm->sum)
                vm_counters_add(vm, vm->sum);
        qmp_free(vm->main);
        qmp_free(vm->oob);
        vm->main = vm->oob = NULL;
        err_set(&err, REASON_CANCELLED, ECANCELED, "VM %s: let go of", vm->definition.name);
        while (current(vm) != NULL)
                op_answer(current(vm), VM_FAILED, &err);
        leave(vm);
}

/* ---- for the owner */

enum vm_run vm_run(const struct vm *vm)
{
        return vm->view.run;
}

const char *vm_qemu_version(const struct vm *vm)
{
        return vm->version;
}

const struct vm_cpu *vm_cpu(const struct vm *vm, int slot)
{
        assert(slot >= 0 && slot < cpus_max(vm));
        return &vm->view.cpus[slot];
}

const struct vm_dimm *vm_dimm(const struct vm *vm, int slot)
{
        assert(slot >= 0 && slot < (int)vm->definition.dimm_slots);
        return &vm->view.dimms[slot];
}

int64_t vm_event_us(const struct vm *vm)
{
        const struct qmp *q = vm_monitor(vm);
        return q ? qmp_event_us(q) : 0;
}

const struct vm_disk *vm_disk(const struct vm *vm)
{
        return &vm->view.disk;
}

struct qmp *vm_monitor(const struct vm *vm)
{
        return vm->identified && !vm->doomed ? vm->main : NULL;
}

struct qmp *vm_oob_monitor(const struct vm *vm)
{
        return vm->identified && !vm->doomed ? vm->oob : NULL;
}

size_t vm_operations(const struct vm *vm)
{
        return vm->ops.length;
}

void vm_cpu_ensure(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg)
{
        assert(slot >= 0 && slot < cpus_max(vm));
        op_submit(vm, OP_CPU_ENSURE, slot, 0, timeout_ms, done, arg);
}

void vm_cpu_remove(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg)
{
        assert(slot >= (int)vm->definition.cpus && slot < cpus_max(vm));
        op_submit(vm, OP_CPU_REMOVE, slot, 0, timeout_ms, done, arg);
}

void vm_memory_bind(struct vm *vm, int slot, int node, const char *huge_dir)
{
        assert(slot >= 0 && slot < (int)vm->definition.dimm_slots && node >= -1 && node < INT16_MAX);
        vm->dimm_node[slot] = (int16_t)(node + 1);
        bool fits = STR_COPY(vm->dimm_dir[slot], huge_dir ? huge_dir : "");
        assert(fits); /* the keeper's contract */
}

void vm_memory_prepare(struct vm *vm, int slot, int64_t bytes, int timeout_ms, vm_done *done, void *arg)
{
        assert(slot >= 0 && slot < (int)vm->definition.dimm_slots);
        assert(bytes > 0 && bytes % vm->definition.unit_bytes == 0);
        op_submit(vm, OP_MEMORY_PREPARE, slot, bytes, timeout_ms, done, arg);
}

void vm_memory_ensure(struct vm *vm, int slot, int64_t bytes, int timeout_ms, vm_done *done, void *arg)
{
        assert(slot >= 0 && slot < (int)vm->definition.dimm_slots);
        assert(bytes > 0 && bytes % vm->definition.unit_bytes == 0);
        op_submit(vm, OP_MEMORY_ENSURE, slot, bytes, timeout_ms, done, arg);
}

void vm_memory_remove(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg)
{
        assert(slot >= 0 && slot < (int)vm->definition.dimm_slots);
        op_submit(vm, OP_MEMORY_REMOVE, slot, 0, timeout_ms, done, arg);
}

void vm_disk_limit(struct vm *vm, int64_t bytes_per_s, int64_t iops, int timeout_ms, vm_done *done, void *arg)
{
        assert(bytes_per_s >= 0 && iops >= 0);
        struct op *op = op_queue(vm, OP_DISK_LIMIT, 0, bytes_per_s, timeout_ms, done, arg);
        op->iops = iops;
        op_begin(op);
}

void vm_disk_look(struct vm *vm, int timeout_ms, vm_done *done, void *arg)
{
        op_submit(vm, OP_DISK_LOOK, 0, 0, timeout_ms, done, arg);
}

void vm_refresh(struct vm *vm, int timeout_ms, vm_done *done, void *arg)
{
        op_submit(vm, OP_REFRESH, 0, 0, timeout_ms, done, arg);
}

void vm_cont(struct vm *vm, int timeout_ms, vm_done *done, void *arg)
{
        op_submit(vm, OP_CONT, 0, 0, timeout_ms, done, arg);
}

void vm_powerdown(struct vm *vm, int timeout_ms, vm_done *done, void *arg)
{
        op_submit(vm, OP_POWERDOWN, 0, 0, timeout_ms, done, arg);
}

void vm_quit(struct vm *vm, int timeout_ms, vm_done *done, void *arg)
{
        op_submit(vm, OP_QUIT, 0, 0, timeout_ms, done, arg);
}

/* Not in the queue: it is for when the queue does not move. */
struct ping {
        vm_done *done;
        void *arg;
};

static void on_pong(void *arg, const json_t *ret, const struct err *err)
{
        struct ping *p = arg;
        struct vm_result result = {.outcome = err != NULL ? VM_FAILED : VM_DONE};
        if (err != NULL)
                result.err = *err;
        p->done(p->arg, &result);
        free(p);
}

void vm_ping(struct vm *vm, int timeout_ms, vm_done *done, void *arg)
{
        struct ping *p = calloc(1, sizeof(*p));
        assert(p != NULL);
        *p = (struct ping){.done = done, .arg = arg};
        qmp_execute_oob(vm->oob, "query-yank", NULL, timeout_ms, on_pong, p);
}

const char *vm_outcome_name(enum vm_outcome o)
{
        static const char *const names[VM_OUTCOME_N] = {
                [VM_DONE] = "done", [VM_PARKED] = "parked", [VM_REFUSED] = "refused",
                [VM_LATE] = "late", [VM_FAILED] = "failed",
        };
        return o > 0 && o < VM_OUTCOME_N ? names[o] : "none";
}

const char *vm_run_name(enum vm_run r)
{
        static const char *const names[VM_RUN_N] = {
                [VM_RUN_UNKNOWN] = "unknown",   [VM_RUN_PRELAUNCH] = "prelaunch",
                [VM_RUN_RUNNING] = "running",   [VM_RUN_PAUSED] = "paused",
                [VM_RUN_SHUTDOWN] = "shutdown", [VM_RUN_INCOMING] = "incoming",
                [VM_RUN_MIGRATED] = "migrated", [VM_RUN_OTHER] = "other",
        };
        return r > 0 && r < VM_RUN_N ? names[r] : "none";
}

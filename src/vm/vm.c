/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to a VMM: its monitors, its life, and what its owner may ask; the operations are in
 * vm-operation.c. */
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
#include "vm/vm-operation.h"

/* ---- what the monitors say */

static void on_monitor_ready(struct vm *vm)
{
        if (!vm->main_ready || !vm->oob_ready || op_current(vm) == NULL)
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
        vm_enter(vm);
        vm->dead = true;
        vm->death = *why;
        err_note(&vm->death, "VM %s", vm->definition.name);
        vm->flight = 0;
        vm->waiting = false;
        /* Those that a callback adds now have a timer of their own. */
        for (guint n = vm->ops.length; n > 0 && !vm->doomed && op_current(vm) != NULL; n--) {
                struct op *op = op_current(vm);
                bool quit = op->kind == OP_QUIT;
                op_answer(op, quit ? VM_DONE : VM_FAILED, quit ? NULL : &vm->death);
        }
        /* One that has not greeted in time may be slow, or stopped: that is the attachment's failure, no
         * death. */
        bool is_slow = why->reason == REASON_TIMEOUT && !(vm->main_ready && vm->oob_ready);
        if (!vm->doomed && !is_slow && vm->options.on_death != NULL)
                vm->options.on_death(vm->arg, vm, &vm->death);
        vm_leave(vm);
}

/* What ACPI's _OST says of an ejection: 0 is success, 0x84 is under way, all else means no. */
enum { OST_EJECTION = 0x03, OST_EJECTION_BY_GUEST = 0x103, OST_SUCCESS = 0, OST_PENDING = 0x84 };

static bool op_is_about(const struct op *op, const char *device)
{
        const struct vm *vm = op->vm;
        if (op->kind == OP_CPU_REMOVE)
                return view_index(device, "cpu", vm_cpus_max(vm)) == op->slot;
        return op->kind == OP_MEMORY_REMOVE &&
               view_index(device, "dimm", (int)vm->definition.dimm_slots) == op->slot;
}

static void on_device(struct vm *vm, const char *device, bool refused)
{
        struct op *op = op_current(vm);
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
        int cpu = view_index(device, "cpu", vm_cpus_max(vm));
        if (!refused && dimm >= 0)
                vm_tell(vm, VM_EVENT_DIMM_GONE, dimm, "");
        else if (!refused && cpu >= 0)
                vm_tell(vm, VM_EVENT_CPU_GONE, cpu, "");
}

/* The guest's own word. A refusal has the device's id; a success comes when that is gone, with the slot
 * alone. For a vCPU it is the only sign there is: QEMU reports DEVICE_DELETED of its parts, not of itself. */
static void on_ost(struct vm *vm, const json_t *info)
{
        int64_t source, status;
        struct op *op = op_current(vm);
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
        vm_enter(vm);
        if (strcmp(name, "DEVICE_DELETED") == 0) {
                on_device(vm, pick_text(data, "device"), false);
        } else if (strcmp(name, "DEVICE_UNPLUG_GUEST_ERROR") == 0 || strcmp(name, "MEM_UNPLUG_ERROR") == 0) {
                on_device(vm, pick_text(data, "device"), true);
        } else if (strcmp(name, "ACPI_DEVICE_OST") == 0) {
                on_ost(vm, json_object_get(data, "info"));
        } else if (strcmp(name, "SHUTDOWN") == 0) {
                vm->view.run = VM_RUN_SHUTDOWN;
                pick_words(data, "reason", words, sizeof(words));
                vm_tell(vm, VM_EVENT_SHUTDOWN, 0, words);
        } else if (strcmp(name, "RESET") == 0) {
                pick_words(data, "reason", words, sizeof(words));
                vm_tell(vm, VM_EVENT_RESET, 0, words);
        } else if (strcmp(name, "STOP") == 0) {
                vm->view.run = VM_RUN_PAUSED;
                vm_tell(vm, VM_EVENT_STOP, 0, "");
        } else if (strcmp(name, "RESUME") == 0) {
                vm->view.run = VM_RUN_RUNNING;
                vm_tell(vm, VM_EVENT_RESUME, 0, "");
        } else if (strcmp(name, "GUEST_PANICKED") == 0) {
                pick_words(data, "action", words, sizeof(words));
                vm_tell(vm, VM_EVENT_PANIC, 0, words);
        } else if (strcmp(name, "MIGRATION") == 0) {
                pick_words(data, "status", words, sizeof(words));
                vm_tell(vm, VM_EVENT_MIGRATION, 0, words);
        } else if (strcmp(name, "MIGRATION_PASS") == 0) {
                int64_t pass = 0;
                pick_integer(data, "pass", 0, INT32_MAX, &pass);
                vm_tell(vm, VM_EVENT_PASS, (int)pass, "");
        }
        vm_leave(vm);
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
        vm_enter(vm);
        vm->doomed = true;
        if (vm->sum)
                vm_counters_add(vm, vm->sum);
        qmp_free(vm->main);
        qmp_free(vm->oob);
        vm->main = vm->oob = NULL;
        err_set(&err, REASON_CANCELLED, ECANCELED, "VM %s: let go of", vm->definition.name);
        while (op_current(vm) != NULL)
                op_answer(op_current(vm), VM_FAILED, &err);
        vm_leave(vm);
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
        assert(slot >= 0 && slot < vm_cpus_max(vm));
        return &vm->view.cpus[slot];
}

const struct vm_dimm *vm_dimm(const struct vm *vm, int slot)
{
        assert(slot >= 0 && slot < (int)vm->definition.dimm_slots);
        return &vm->view.dimms[slot];
}

bool vm_was_told_to_run(const struct vm *vm)
{
        return vm->was_told_to_run;
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
        assert(slot >= 0 && slot < vm_cpus_max(vm));
        op_submit(vm, OP_CPU_ENSURE, slot, 0, timeout_ms, done, arg);
}

void vm_cpu_remove(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg)
{
        assert(slot >= (int)vm->definition.cpus && slot < vm_cpus_max(vm));
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

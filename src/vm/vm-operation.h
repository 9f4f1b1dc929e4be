/* SPDX-License-Identifier: Apache-2.0 */
/* vm/vm-operation.h - what is asked of a VMM, one after the other; shared by vm.c, which hears the monitors,
 * and vm-operation.c, which looks, decides and acts.
 *
 * Operations stand in a queue, the first one is at work. Work is a loop of the same three steps
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
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vm/view.h"
#include "vm/vm-internal.h"

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
        bool was_told_to_run;
        GQueue ops;
        unsigned flight, depth;
        bool waiting, dead, doomed;
        struct err look_err; /* first fault of the look that is under way */
        struct err death;
        char version[64];
        struct view view;
};

/* Around every callback of ours: the connection is freed by the last that leaves. */
void vm_enter(struct vm *vm);
void vm_leave(struct vm *vm);

/* The one that is at work; NULL: none. */
struct op *op_current(struct vm *vm);
/* Takes it from the queue, and tells who asked; err may be NULL. */
void op_answer(struct op *op, enum vm_outcome outcome, const struct err *err);
/* At the end of the queue; what more it is about is set before op_begin(). */
struct op *op_queue(struct vm *vm, enum op_kind kind, int slot, int64_t bytes, int timeout_ms, vm_done *done,
                    void *arg);
void op_begin(struct op *op);
void op_submit(struct vm *vm, enum op_kind kind, int slot, int64_t bytes, int timeout_ms, vm_done *done,
               void *arg);
/* The first of the three steps; the others follow by themselves. */
void op_look(struct vm *vm);

int vm_cpus_max(const struct vm *vm);
/* The owner, of an event. */
void vm_tell(struct vm *vm, enum vm_event event, int index, const char *words);

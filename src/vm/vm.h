/* SPDX-License-Identifier: Apache-2.0 */
/* vm/vm.h - a live connection to one VMM: what it has plugged, and how that is changed.
 *
 * Every operation names a target state and the identity of what it is about (vCPU slot, DIMM slot), both
 * chosen by the caller before it journals the step. So it can be repeated after any crash: it asks the VMM
 * what is true and does only what is missing; half-done states (memory without its device) are completed or
 * cleaned up. Operations of one VM run one after another in the order in which they were called; each has
 * a deadline that counts from the call, and is answered exactly once, from the loop.
 *
 * Plug and unplug go through vm_cpu_ensure/remove and vm_memory_ensure/remove alone. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "vm/definition.h"
#include "vm/qmp.h"

struct vm;

/* An outcome is not an error; only FAILED has one. */
enum vm_outcome {
        VM_DONE = 1, /* the target state is reached */
        VM_PARKED,   /* a vCPU stays plugged, because this platform cannot take it out (VM_CPU_PARK) */
        VM_REFUSED,  /* the guest does not let go of it; it stays as it was. err: busy */
        VM_LATE,     /* the guest has not let go of it in time and may still. err: timeout */
        VM_FAILED,   /* err says why; ask again, or look with vm_cpu() and vm_dimm() */
        VM_OUTCOME_N
};

struct vm_result {
        enum vm_outcome outcome;
        pid_t tid;      /* vm_cpu_ensure: the vCPU's thread */
        struct err err; /* reason 0 for DONE and PARKED */
};
typedef void vm_done(void *arg, const struct vm_result *result);

/* Run states of QEMU, as far as they matter to us. */
enum vm_run {
        VM_RUN_UNKNOWN = 1,
        VM_RUN_PRELAUNCH,
        VM_RUN_RUNNING,
        VM_RUN_PAUSED,
        VM_RUN_SHUTDOWN,
        VM_RUN_INCOMING, /* it waits for a VM, or takes it in */
        VM_RUN_MIGRATED, /* all of the VM has gone elsewhere; vm_cont() takes it back */
        VM_RUN_OTHER,
        VM_RUN_N
};

enum vm_event {
        VM_EVENT_SHUTDOWN = 1, /* the VMM is about to end; words: QEMU's cause, such as guest-shutdown */
        VM_EVENT_RESET,        /* the guest boots again: everything in it is gone, what is plugged stays */
        VM_EVENT_STOP,
        VM_EVENT_RESUME,
        VM_EVENT_PANIC,     /* the guest's kernel says that it is at its end */
        VM_EVENT_DIMM_GONE, /* index: slot of a DIMM that the guest let go of after the deadline. Where it is
                               still to go, vm_memory_remove() now completes it */
        VM_EVENT_CPU_GONE,  /* index: slot of a vCPU, likewise; may also be said of one that is known to be
                               gone */
        VM_EVENT_CPU_NEW,   /* index: slot of a vCPU that had to be plugged before the one asked for (on TCG
                               slots are only plugged in ascending order); it is nobody's yet: park it */
        VM_EVENT_MIGRATION, /* words: its status, as QEMU names it. Only where copy_prepare() was called */
        VM_EVENT_PASS,      /* index: the pass over the memory that begins */
        VM_EVENT_N
};

struct vm_options {
        struct qmp_counters *sum; /* what its monitors have counted is added when it is freed; may be NULL */
        const struct api_vm_definition *definition; /* copied */
        const char *qmp_path, *oob_path;            /* sockets on which the VMM accepts; copied */
        const char *ram_dir;                        /* of its RAM files, as the VMM sees it; copied */
        /* They are those of another VMM, which the guest runs on (vm/transfer.h): what is plugged here has
         * its content, which stays when this VMM ends. */
        bool is_sharing;
        void (*on_event)(void *arg, struct vm *vm, enum vm_event event, int index, const char *words);
        /* Once: the VMM is dead or no longer to be reached. Unfinished operations were answered before.
         * Also when it comes during vm_attach(), after the answer to that. */
        void (*on_death)(void *arg, struct vm *vm, const struct err *why);
        void (*on_line)(void *arg, bool sent, const char *line, size_t n); /* see qmp_options */
};

/* Connects to both monitors of a VMM that was just started, or that ran while we did not: verifies that it is
 * the one that the definition names, and learns what is plugged. Until that is known to be so, every
 * operation fails. NULL: it does not listen (peer-lost: it is dead); done is not called then. */
struct vm *vm_attach(const struct vm_options *o, int timeout_ms, vm_done *done, void *arg, struct err *err);
/* NULL-safe; leaves the VMM as it is. Unfinished operations are answered as cancelled before it returns. */
void vm_free(struct vm *vm);

/* What is known now; all refreshed by every operation. */
enum vm_run vm_run(const struct vm *vm);
int64_t vm_event_us(const struct vm *vm); /* of the event that on_event() tells: qmp_event_us() */
const char *vm_qemu_version(
        const struct vm *vm); /* of the VMM that runs, which may be another than at creation */
struct vm_cpu {
        bool plugged;
        pid_t tid;
};
struct vm_dimm {
        bool plugged;     /* the guest was given it */
        bool backed;      /* the VMM has memory for it; without plugged it is half done */
        int64_t bytes;    /* of what is backed */
        uint64_t address; /* in the guest's address space, where plugged */
};
const struct vm_cpu *vm_cpu(const struct vm *vm, int slot);   /* 0 <= slot < cpus_max */
const struct vm_dimm *vm_dimm(const struct vm *vm, int slot); /* 0 <= slot < dimm_slots */
struct vm_disk {
        bool is_there;
        bool has_others;     /* limits that are not ours, such as of one direction */
        int64_t bytes_per_s; /* reads and writes together, at most; 0: without limit */
        int64_t iops;        /* likewise */
};
const struct vm_disk *vm_disk(const struct vm *vm); /* as it was after the last look at it */
/* What its monitors have counted, added to a sum that outlives it. NULL-safe. */
void vm_counters_add(const struct vm *vm, struct qmp_counters *sum);
size_t vm_operations(const struct vm *vm); /* unfinished ones */

/* A vCPU in this slot. On TCG lower slots that are empty are plugged first (VM_EVENT_CPU_NEW tells): the
 * highest slot first takes a guest on TCG 12 to 17 s. */
void vm_cpu_ensure(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg);
/* By the definition's mechanism: VM_PARKED at once, or unplugged with the guest's consent. Base vCPUs
 * cannot be taken. */
void vm_cpu_remove(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg);
/* The NUMA node of the host to which the memory of this slot is bound when it is prepared; -1: none.
 * huge_dir: its file is in this directory of a hugetlbfs, and is taken from the host as a whole; NULL: in
 * ram_dir. */
void vm_memory_bind(struct vm *vm, int slot, int node, const char *huge_dir);
/* So many bytes (whole units) in the VMM for a DIMM in this slot, which the guest is not given yet. */
void vm_memory_prepare(struct vm *vm, int slot, int64_t bytes, int timeout_ms, vm_done *done, void *arg);
/* So many bytes (whole units) as a DIMM in this slot, prepared or not. Other bytes there already: FAILED,
 * stale. */
void vm_memory_ensure(struct vm *vm, int slot, int64_t bytes, int timeout_ms, vm_done *done, void *arg);
/* The guest lets go, the device goes, and the memory returns to the host (its file stays, empty, until the
 * VM's directory is dropped). */
void vm_memory_remove(struct vm *vm, int slot, int timeout_ms, vm_done *done, void *arg);

/* The disk is held to these limits, and to no others. Not found: it has none. */
void vm_disk_limit(struct vm *vm, int64_t bytes_per_s, int64_t iops, int timeout_ms, vm_done *done,
                   void *arg);
/* Looks at them. */
void vm_disk_look(struct vm *vm, int timeout_ms, vm_done *done, void *arg);

void vm_refresh(struct vm *vm, int timeout_ms, vm_done *done, void *arg);
/* Stale for one that is INCOMING: it would run by itself as soon as all is there, whoever runs then. */
void vm_cont(struct vm *vm, int timeout_ms, vm_done *done, void *arg);
/* By vm_cont(), since it was attached: it may run. A vm_cont() that failed before it came to that told it
 * nothing. */
bool vm_was_told_to_run(const struct vm *vm);
/* Asks the guest; done when asked. What follows is VM_EVENT_SHUTDOWN and the VMM's death, or nothing. */
void vm_powerdown(struct vm *vm, int timeout_ms, vm_done *done, void *arg);
/* Ends the VMM; done when it agreed, on_death follows. */
void vm_quit(struct vm *vm, int timeout_ms, vm_done *done, void *arg);
/* A sign of life through the out-of-band monitor, which answers even while the VMM's main loop is held. */
void vm_ping(struct vm *vm, int timeout_ms, vm_done *done, void *arg);

const char *vm_outcome_name(enum vm_outcome o);
const char *vm_run_name(enum vm_run r);

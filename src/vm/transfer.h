/* SPDX-License-Identifier: Apache-2.0 */
/* vm/transfer.h - one end of a handover, over the connection to its VMM (vm/vm.h): the VM's devices go from
 * one VMM to another, and its memory stays where it is, as both have the same files mapped.
 *
 * The target's VMM was started with vm_argv_options.is_sharing and the source's ram_dir, and what the guest
 * has plugged was plugged there too. Then, in this order, with transfer_check() before anything: both:
 * transfer_prepare(), and transfer_ram_check() on what both have mapped: on QEMU 7.2 memory that is shared on
 * one side only would silently be left out; target: transfer_listen(); source: transfer_begin() with the same
 * path. The guest stands from soon after; source: its "completed" (VM_EVENT_MIGRATION, or transfer_look())
 * means that all was acknowledged by the target: return-path is on, or transfer_prepare() fails; target:
 * transfer_run(), transfer_announce(); source: vm_quit(). Back, at any time before transfer_run(): a target's
 * VMM that dies before all is there makes the source run by itself; one that is frozen is left with
 * transfer_cancel(); where the source has completed the target's VMM is ended, and then the source told
 * vm_cont(). After transfer_run() there is no way back.
 *
 * One operation of an end at a time; each is answered exactly once, from the loop, and has a deadline. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "base/err.h"
#include "vm/copy.h"
#include "vm/vm.h"

enum { TRANSFER_RAM_MAX = VM_DIMMS_MAX + 1, TRANSFER_NAME = 32, TRANSFER_PATH = 512 };

/* One file of the VM's memory, as a VMM has it. */
struct transfer_ram {
        char id[TRANSFER_NAME]; /* "ram0" */
        char path[TRANSFER_PATH];
        int64_t bytes;
        bool is_shared;
        bool is_plugged;        /* its content is the host's again when it is taken out */
        uint64_t device, inode; /* 0: not looked at */
};

struct transfer_seen {
        enum copy_status status;
        int64_t total_ms, downtime_ms; /* 0: not yet known */
        int64_t transferred_bytes;     /* devices and all */
        int64_t firmware_bytes;        /* of its pages: what is in no file, such as its firmware's tables */
        int64_t ram_bytes; /* of its pages: more than is in no file: it is the guest's memory; 0 */
        char why[160];     /* of one that failed, in QEMU's words; "" */
};

struct transfer_options {
        struct vm *vm; /* attached; there until after transfer_free() */
        bool is_target;
        /* Device and inode of what this VMM has mapped of the file; who may not look at that itself asks
         * somebody who may. NULL: what is found is left 0, and transfer_ram_check() refuses it. */
        int (*find)(void *arg, struct transfer_ram *ram, struct err *err);
        void *find_arg;
};
struct transfer;
struct transfer *transfer_new(const struct transfer_options *o);
/* NULL-safe. What is under way in the VMM goes on; an unfinished operation is answered as cancelled. */
void transfer_free(struct transfer *t);

/* Could the VM that runs on a QEMU of that version go to one that would be made from `there` on another?
 * Incompatible: *err names the first difference. */
int transfer_check(const struct api_vm_definition *here, const char *version_here,
                   const struct api_vm_definition *there, const char *version_there, struct err *err);

/* May be repeated. Incompatible: the VMM lacks what it takes, or its memory cannot be shared. */
void transfer_prepare(struct transfer *t, int timeout_ms, vm_done *done, void *arg);
/* What it has, once prepared. */
const struct transfer_ram *transfer_ram(const struct transfer *t, size_t *ret_n);
/* Have both the same memory, each file of it? Incompatible: not, and what differs. */
int transfer_ram_check(const struct transfer *source, const struct transfer *target, struct err *err);
/* Looks in a process's maps (/proc/PID/maps) for the file of this path, mapped for sharing. */
int transfer_ram_find(FILE *maps, struct transfer_ram *ram, struct err *err);

/* path: of a socket that the target's VMM makes and the source's can reach; shorter than 100 bytes. */
void transfer_listen(struct transfer *t, const char *path, int timeout_ms, vm_done *done, void *arg);
void transfer_begin(struct transfer *t, const char *path, int timeout_ms, vm_done *done, void *arg);
/* seen: NULL exactly where err is set. A source that is seen to have completed can be told to run again. */
typedef void transfer_look_done(void *arg, const struct transfer_seen *seen, const struct err *err);
void transfer_look(struct transfer *t, int timeout_ms, transfer_look_done *done, void *arg);
/* Done when the source runs on. Stale: all had gone over before. */
void transfer_cancel(struct transfer *t, int timeout_ms, vm_done *done, void *arg);
/* Target: it runs. To be called when the record says so (core/handover.h). Stale unless it was seen to have
 * completed, by transfer_look() or transfer_note(): before that it would run by itself as soon as all is
 * there, whoever runs then. */
void transfer_run(struct transfer *t, int timeout_ms, vm_done *done, void *arg);
/* The words of VM_EVENT_MIGRATION. */
void transfer_note(struct transfer *t, const char *words);
/* It has the VM, and its memory, alone: may be repeated. */
void transfer_settle(struct transfer *t, int timeout_ms, vm_done *done, void *arg);
/* Tells the network where the guest's cards are now. */
void transfer_announce(struct transfer *t, int timeout_ms, vm_done *done, void *arg);

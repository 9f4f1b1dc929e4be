/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/vmm.h - the VMMs: started, adopted after a restart, watched, ended, cleaned up after.
 *
 * A VM has an entry from its start until it is dropped. While its VMM runs, pid_fd names the process: no
 * signal goes to a number. When it is gone pid_fd is -1, and the entry keeps the slot (the uid owns files
 * still) until vmms_drop_end() has removed them. VMMs outlive the keeper; records bring them back. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/err.h"
#include "host/cpu.h"
#include "host/memory.h"
#include "json/api.h"
#include "keeper/class.h"
#include "keeper/config.h"
#include "keeper/huge.h"
#include "keeper/nic.h"
#include "keeper/outlet.h"
#include "keeper/record.h"
#include "loop/loop.h"

/* The groups by which v2 holds a VMM's threads are threaded, and such have no memory controller. */
#define VMM_NO_BOUND                                                                                         \
        "memory.max is not set: no cgroup hierarchy can bound one VMM's memory; only that of its RAM is "    \
        "bounded"

struct vmms;
struct lends;

struct vmm {
        struct vmms *owner;
        struct record record;
        int pid_fd; /* -1: gone */
        bool is_child;
        bool is_end_asked; /* by vmms_kill() */
        struct loop_fd watch;
        struct outlet outlet;
        GSList *waiting; /* whoever asked for its end; opaque, given to on_gone() */
};

struct vmms {
        const struct keeper_config *config;
        const struct cpu_host *cpu;
        const struct memory_host *memory; /* NULL: nothing bounds what a VMM uses */
        const struct huge *huge;
        struct nics *nics;
        struct classes *classes;
        struct lends *lends;           /* borrowed; NULL: nothing is lent (keeper/lend.h) */
        int ram_fd, record_fd, log_fd; /* directories; owned */
        GHashTable *by_name;           /* name -> struct vmm, owned */
        /* The VMM has ended; vmm->waiting is taken by this and empty afterwards. */
        void (*on_gone)(void *arg, struct vmm *vmm);
        void *arg;
};

struct vmm_drop {
        struct api_keeper_vm_drop what;
        struct vmms *owner;
        uid_t uid; /* whose processes are ended; 0: nobody's */
};

/* What has to be known of a VM and its VMM on another thread: a copy. */
struct vmm_ref {
        char vm[64];
        pid_t pid;
        uid_t uid;  /* 0: it does not run */
        int pid_fd; /* owned; -1: it does not run */
};

/* Borrows config, cpu, memory, which may be NULL, huge, nics and classes. Makes the directories. */
int vmms_init(struct vmms *v, const struct keeper_config *config, const struct cpu_host *cpu,
              const struct memory_host *memory, const struct huge *huge, struct nics *nics,
              struct classes *classes, struct err *err);
void vmms_done(struct vmms *v); /* the VMMs run on */
/* Reads the records: those whose process is still there are watched again. Returns how many. */
unsigned vmms_adopt(struct vmms *v);

/* fds are borrowed. *ret is borrowed. */
int vmms_start(struct vmms *v, const struct api_keeper_vmm_start *s, const int *fds, size_t n_fds,
               struct vmm **ret, struct err *err);
/* 1: killed, on_gone() follows. 0: is gone already, or was never there. */
int vmms_kill(struct vmms *v, const char *vm, struct vmm **ret, struct err *err);
/* For reading only, all or none: files and page_bytes, 0 where pages are ordinary, have room for p->n_items;
 * the descriptors are the caller's. REASON_NOT_FOUND: it does not run, or there is no such file. */
int vmms_open_ram(const struct vmms *v, const struct api_keeper_ram *p, struct ramdir_file *files,
                  int64_t *page_bytes, struct err *err);
/* It may take a while, as others hold locks, and processes take time to go: so the middle of it is for a
 * thread, and until its end nothing else may be done for that VM. d->what is set. REASON_BUSY: its VMM runs.
 */
int vmms_drop_begin(struct vmms *v, struct vmm_drop *d, struct err *err);
/* Any thread. Does all that it can, and returns the first error; to be repeated then. */
int vmm_drop_run(const struct vmm_drop *d, struct err *err);
/* After a run() without an error: its slot is free, where nothing is kept. */
void vmms_drop_end(const struct vmm_drop *d);
/* REASON_BUSY: that uid is one of another VM, which is there, or has borrowed for it. */
int vmms_check_slot(const struct vmms *v, const char *vm, uid_t uid, struct err *err);
bool vmm_is_there(const struct vmm *vmm);            /* at this moment: its process has not ended */
bool vmms_has(const struct vmms *v, const char *vm); /* one of that name is */
/* What the contract says of a VMM that runs. false: it is gone. */
bool vmm_describe(const struct vmm *vmm, struct api_keeper_vmm *ret);

/* ret->vm is set; fills the rest. That no VMM runs is no error. */
int vmms_refer(const struct vmms *v, struct vmm_ref *ret, struct err *err);
/* Any thread may call these. REASON_NOT_FOUND: the VMM does not run, or has no such thread. */
int vmm_ref_find_thread(const struct vmm_ref *ref, int64_t tid, struct err *err);
/* For after a move, even one that failed: a thread that is not the VMM's any more goes back to whom it
 * belongs, and is REASON_NOT_FOUND. */
int vmm_ref_check_moved(const struct cpu_host *cpu, const struct vmm_ref *ref, int64_t tid, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* host/cpu.h - holding threads of VMMs on CPUs, with a share of them.
 *
 * Three providers, the best that the machine has: cgroup v2, cgroup v1 (hierarchies `cpu` and `cpuset`),
 * or affinity alone, which cannot hold shares and refuses them unless best effort was allowed.
 *
 * Groups, under one prefix, all side by side:
 *   emulator@VM     the VMM and each of its threads that is in no item, on the housekeeping CPUs
 *   ITEM@VM         an activated item, such as vcpu3@web1, with its CPUs and weight; empty until a thread is
 *                   bound to it. Removed by let_go() or vm_remove(), by nothing else
 *   parked@VM       threads put aside: least weight, on the housekeeping CPUs; never a quota, never frozen
 * An item may have its CPUs exclusively: emulator@VM and parked@VM of all VMs, whenever they are made, leave
 * them out for so long, and no other item gets them. An item that has one of them already is not looked for:
 * the ledger of whoever asks keeps them apart. Who is not mete's is not kept off (CPU_OUTSIDE): for that the
 * CPUs would have to be no others' to begin with. Where the last housekeeping CPU is taken so by best effort,
 * the groups go back to all of the housekeeping CPUs, those that others have exclusively among them.
 * Side by side, not nested by VM, because weights compete among siblings only: nested, a vCPU of share 0.9
 * and one of another VM of share 0.1 on the same CPU would get half each. On v2 the whole prefix is
 * one threaded domain, since threads of one process may only be spread within one.
 *
 * Weight = 10 * share_milli, in v2's cpu.weight (1 to 10000) as in v1's cpu.shares (2 to 262144): shares
 * 1 to 1000 become 10 to 10000, every ratio is exact, and parked threads (1, or 2) stay far below. The prefix
 * itself weighs as much as 99 default groups for each of its CPUs, as the kernel divides a group's weight by
 * the CPUs on which it runs: what is granted are parts of a whole CPU, and so VMs together must have nearly
 * all of it. The kernel's limits end that at 1 CPU on v2 (where n CPUs that are all busy with VMs leave each
 * 10000 / n against a default group's 100) and at 2 on v1 (256 / n against 1); give the host CPUs of its own
 * on larger machines. Emulators are in no claim, so they weigh little beside what is.
 *
 * An item's ceiling is its group's quota (v2's cpu.max, v1's cpu.cfs_quota_us), always of a period of 10 ms:
 * a VM that is to be stopped waits for its slowest thread, which may just have used up its quota, and with
 * the kernel's own period of 100 ms that takes up to ten times as long. No other group ever has one.
 *
 * The prefix is made, weighed and removed here; but where it was handed over (cpu_host_delegate), as systemd
 * does (host/scope.h), it is the other's, and only what lies in it is ours. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/cgroupfs.h"
#include "host/cpulist.h"

enum cpu_provider_id { CPU_CGROUP_V2 = 1, CPU_CGROUP_V1, CPU_AFFINITY, CPU_PROVIDER_ID_N };

enum {
        CPU_SHARE_MAX = 1000,
        CPU_WEIGHT_FACTOR = 10,
        CPU_CEILING_MIN = 100,     /* the kernel's least quota is 1 ms */
        CPU_CEILING_MAX = 1000000, /* what read() says at most */
        CPU_PERIOD_US = 10000,     /* of a ceiling: what is over it waits for at most so long */
        CPU_EMULATOR_SHARE = 5,    /* in thousandths; the VMM's main loop mostly sleeps */
        CPU_PREFIX_SIZE = 64,
        CPU_ITEM_SIZE = 32,
        CPU_GROUPS_MAX = 65536, /* in each hierarchy: as many items as 1024 VMs with 63 vCPUs have */
        CPU_THREADS_MAX = 64,   /* that read() lists */
};

struct cpu_host;

/* What the kernel says of an item. */
struct cpu_live {
        struct cpulist cpus; /* empty: not known */
        int share_milli;     /* -1: nothing holds a share */
        int ceiling_milli;   /* CPU_SHARE_MAX: none, or just that; -1: nothing can hold one */
        long period_us;      /* over which the ceiling counts; 0: there is none */
        bool has_others;     /* threads that it holds in one hierarchy and not in the other */
        int exclusive;       /* 1: no thread of a VMM that is in no item may run there; -1: nothing can say */
        pid_t threads[CPU_THREADS_MAX];
        size_t n_threads;
        const char *fallback; /* what is not held of what it may have asked for, in words; NULL: all is */
};

/* What an item shall have. */
struct cpu_hold {
        struct cpulist cpus;
        int share_milli;
        int ceiling_milli; /* what it never exceeds, at least the share; CPU_SHARE_MAX: none */
        bool is_exclusive;
};

#define CPU_NO_ROOM   "no housekeeping CPU is left: threads of VMMs that are no vCPU run on exclusive CPUs, too"
#define CPU_NO_QUOTAS "this kernel has no quotas for CPUs (CONFIG_CFS_BANDWIDTH): ceilings are not held"
#define CPU_OUTSIDE   "a CPU held exclusively is kept free of VMMs' threads, not of processes outside of mete"

/* What vm_remove() removes of a VM: all, or all but its activated items. */
enum cpu_removal { CPU_REMOVE_ALL = 1, CPU_REMOVE_BUT_ITEMS };

/* Any thread may call; those that could get into each other's way take turns, by VM. Only start() and
 * finish() are for when no other is under way.
 *
 * Each is idempotent: repeated, or begun again after a crash, it ends in the same state. Each reads back what
 * it wrote. `vm` is a name (str_is_name). */
struct cpu_provider {
        bool is_holding_shares;
        /* The groups that a VM needs before its VMM runs. */
        int (*vm_make)(const struct cpu_host *h, const char *vm, struct err *err);
        /* Puts a process in them, with all of its threads. */
        int (*vm_enter)(const struct cpu_host *h, const char *vm, pid_t pid, struct err *err);
        /* A thread is put aside: least weight, on the housekeeping CPUs, under no quota. */
        int (*park)(const struct cpu_host *h, const char *vm, pid_t tid, struct err *err);
        /* An item has CPUs and a share from now on, and no thread yet; or one that is there has others, and
         * its thread stays in it. What it had is what it has again if this fails. `item` passed
         * cpu_host_check_item(). Exclusively: REASON_POLICY where no housekeeping CPU would be left, unless
         * best effort was allowed. REASON_BUSY: another has one of them exclusively. */
        int (*hold)(const struct cpu_host *h, const char *vm, const char *item, const struct cpu_hold *what,
                    struct err *err);
        /* A thread is held by it, and no other. REASON_NOT_FOUND: there is no such item. */
        int (*bind)(const struct cpu_host *h, const char *vm, const char *item, pid_t tid, struct err *err);
        /* -EBUSY: a thread is in it. Not there: no error. */
        int (*let_go)(const struct cpu_host *h, const char *vm, const char *item, struct err *err);
        /* Before let_go(): the process's threads in it go where those are that are in no item, and strangers
         * where they would have been born. No such item: nothing to do. */
        void (*vacate)(const struct cpu_host *h, const char *vm, const char *item, pid_t pid);
        /* tid 0: of no thread in particular. REASON_NOT_FOUND: there is no such item. */
        int (*read)(const struct cpu_host *h, const char *vm, const char *item, pid_t tid,
                    struct cpu_live *ret, struct err *err);
        /* For a thread that turned out to be none of the VM's after park() or bind(): its number was
         * used again in between. It goes where it would have been born. */
        void (*give_back)(const struct cpu_host *h, const char *vm, pid_t tid);
        /* -EBUSY: something still runs there. */
        int (*vm_remove)(const struct cpu_host *h, const char *vm, enum cpu_removal removal, struct err *err);
        /* Lets go of all items but those that are named. -EBUSY: a thread is in one of the others. */
        int (*prune)(const struct cpu_host *h, const char *vm, const char (*keep)[CPU_ITEM_SIZE],
                     size_t n_keep, struct err *err);
        /* The prefix, made before the first VM and removed after the last. */
        int (*start)(const struct cpu_host *h, struct err *err);
        void (*finish)(const struct cpu_host *h);
};
extern const struct cpu_provider cpu_cgroup, cpu_affinity;

/* A hierarchy and what it decides about. v2 has one, v1 two. */
struct cpu_tree {
        char root[CGROUPFS_ROOT];
        bool weights, sets;
};

struct cpu_host {
        enum cpu_provider_id id;
        const struct cpu_provider *provider;
        struct cpu_tree tree[2];
        size_t n_trees;
        char prefix[CPU_PREFIX_SIZE];
        struct cpulist usable;       /* where threads may be placed */
        struct cpulist housekeeping; /* where everything else of a VMM runs */
        bool is_best_effort; /* affinity takes what it cannot hold; the last housekeeping CPU may be exclusive
                              */
        bool is_fake;
        bool is_delegated;              /* v2: see cpu_host_delegate() */
        nlink_t groups_max;             /* CPU_GROUPS_MAX; tests set less */
        char keep_dir[CGROUPFS_ROOT];   /* "" for none */
        char online_dir[CGROUPFS_ROOT]; /* its file `online` says which CPUs are; "": all are */
        char fallback[128];             /* what this platform lacks, in words; "" where nothing */
};

struct cpu_host_options {
        const char *prefix;        /* path below each hierarchy, "mete" */
        const char *cpus;          /* NULL: all that there are, those off line, too */
        const char *housekeeping;  /* NULL: the same */
        const char *mountinfo;     /* NULL: /proc/self/mountinfo; tests give another */
        const char *keep_dir;      /* for notes of what no object of the kernel's says: the CPUs of affinity's
                                      items, and which items are exclusive; it must not outlive a reboot. NULL:
                                      there are neither */
        enum cpu_provider_id only; /* 0: the best there is */
        bool is_best_effort;
        bool is_fake; /* tests: plain directories instead of hierarchies */
};

/* Finds out what there is. Changes nothing on the machine. */
int cpu_host_init(struct cpu_host *h, const struct cpu_host_options *o, struct err *err);
/* v2, before start(): the groups lie in one that somebody else made, weighs and removes, and hands over. */
int cpu_host_delegate(struct cpu_host *h, const char *path, struct err *err);
const char *cpu_provider_id_name(enum cpu_provider_id id); /* "cgroup-v1" */

/* Checks what hold() may be asked for, before any provider acts. */
int cpu_host_check_hold(const struct cpu_host *h, const struct cpu_hold *what, struct err *err);
/* A name (str_is_name) that fits, and is not one of our own groups'. */
int cpu_host_check_item(const char *item, struct err *err);

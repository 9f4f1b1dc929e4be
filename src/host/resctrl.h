/* SPDX-License-Identifier: Apache-2.0 */
/* host/resctrl.h - ways of a last-level cache, and memory bandwidth, held for VMs by the kernel's resctrl
 * (Documentation/arch/x86/resctrl.rst).
 *
 * One group a VM, PREFIX@VM, made when it is first given something. Where ways are given, the VM's mask is
 * disjoint from that of every other group, of others' groups too, and from the bits which the hardware
 * shares. They are taken from the default group, whose schemata is made narrower and is exactly as before
 * when the last VM has gone. On caches where it was given nothing, a VM has what the default group has. A VM
 * that was given ways on every cache of the machine is put into mode "exclusive": then the kernel refuses an
 * overlap to everybody. Code and data (CDP) get the same ways.
 *
 * Memory bandwidth in percent is a ceiling on the VM's group, and the default group gets what all of them
 * leave. It is what the hardware can do: a throttle per core, and no hold against groups made by others, nor
 * against VMs which were given ways only (these have the default group's ceiling).
 *
 * What the default group was, and what each VM was given, stands in a file in `state_dir`, written before the
 * tree is changed: so what a crash interrupted can be repeated or taken back. `state_dir` must not outlive a
 * reboot, nor be used by two. What an operator narrowed in the default group meanwhile stays so.
 *
 * Every function takes the kernel's advisory lock: flock(2) on the root, exclusive where it changes
 * something; REASON_BUSY where somebody has it for a second. Any thread may call; the host struct is only
 * read. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/cgroupfs.h"
#include "host/cpulist.h"
#include "host/resctrl-schemata.h"

struct resctrl_host {
        char root[CGROUPFS_ROOT];
        char state_dir[CGROUPFS_ROOT];
        char prefix[64];
        int level;                        /* 3 or 2: whose ways are given away; 0: `cache` is not there */
        uint32_t full_mask;               /* all ways of one cache */
        uint32_t shared_mask;             /* which devices may use, too: never given away */
        uint32_t least_ways;              /* fewer are rounded up */
        uint32_t n_groups;                /* classes of service, the default group's among them */
        uint32_t membw_step, membw_least; /* in percent; 0: `membw` is not there */
        bool is_cdp, is_monitoring, is_fake;
        char cache_fallback[160]; /* why not, in words; "" where it is there */
        char membw_fallback[160];
};

struct resctrl_options {
        const char *prefix;    /* a name; "mete" */
        const char *state_dir; /* a folder that is there and ours */
        const char *mountinfo; /* NULL: /proc/self/mountinfo */
        const char *root;      /* NULL: as mounted; tests give another */
        bool is_fake;          /* tests: a plain directory */
};

/* What a VM is to have; nothing (zeroed) is not allowed: take it back instead. */
struct resctrl_want {
        uint32_t ways;            /* on each of `cache_ids` */
        struct cpulist cache_ids; /* of caches of `level` */
        uint32_t membw_percent;   /* on each of `membw_ids`; rounded up to membw_step */
        struct cpulist membw_ids; /* of L3 caches */
};

struct resctrl_reading {
        size_t n;
        struct {
                uint32_t id;               /* of an L3 cache */
                uint32_t ways;             /* mask, all the same whether exclusive; 0: not known */
                uint32_t membw_percent;    /* 0: not known */
                int64_t occupancy_bytes;   /* -1: not monitored */
                int64_t membw_total_bytes; /* since the group was made; -1: not monitored */
                int64_t membw_local_bytes;
        } at[RESCTRL_IDS];
};

/* Finds out what there is. Changes nothing. Nothing there is no error: see the fallbacks. */
int resctrl_host_init(struct resctrl_host *h, const struct resctrl_options *o, struct err *err);
/* Ids of the caches of that level above these CPUs. `sysfs`: NULL is /sys. */
int resctrl_ids_of(const char *sysfs, const struct cpulist *cpus, int level, struct cpulist *ret,
                   struct err *err);

/* All of it or nothing; idempotent, and with another want it changes what the VM has. Fails with the tree as
 * it was. REASON_NO_CAPACITY: no class of service, ways or bandwidth left. */
int resctrl_activate(const struct resctrl_host *h, const char *vm, const struct resctrl_want *want,
                     struct err *err);
/* Every thread of the process; those that it makes later are in the same group by themselves. */
int resctrl_enter(const struct resctrl_host *h, const char *vm, pid_t pid, struct err *err);
/* Its threads go to the default group. Idempotent. */
int resctrl_deactivate(const struct resctrl_host *h, const char *vm, struct err *err);
/* Deactivates every VM of ours, and every group of ours, of which is_known() says no: after a restart. */
int resctrl_sweep(const struct resctrl_host *h, bool (*is_known)(const char *vm, void *arg), void *arg,
                  struct err *err);
/* How many classes of service groups have now, the default group's among them. */
int resctrl_groups(const struct resctrl_host *h, unsigned *ret, struct err *err);
/* vm NULL: the default group. */
int resctrl_read(const struct resctrl_host *h, const char *vm, struct resctrl_reading *ret, struct err *err);
/* 0: as we left it. 1: changed behind our back, err says what (err->reason REASON_STALE); activating again
 * repairs it. pid 0: no look at its threads. A made-up tree does not follow new threads: of these only the
 * first one is looked at there. */
int resctrl_verify(const struct resctrl_host *h, const char *vm, pid_t pid, struct err *err);

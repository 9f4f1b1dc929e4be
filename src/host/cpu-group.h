/* SPDX-License-Identifier: Apache-2.0 */
/* host/cpu-group.h - control groups right under the prefix, in as many trees as the hierarchy has: v1 has one
 * that decides about weights and one about sets, v2 one that does both and whose groups must be threaded.
 *
 * Shared by the files of the provider cpu_cgroup, and cpu_group_leave_online() by cpu_affinity. A group is
 * named ROLE@VM. Callers take turns, by VM. Each function that changes something is idempotent and reads back
 * what it wrote. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/cpu.h"

enum { CPU_GROUP_NAME = 96 };

static inline bool cpu_group_is_v2(const struct cpu_host *h)
{
        return h->id == CPU_CGROUP_V2;
}

/* The file that lists threads, and through which one enters. */
static inline const char *cpu_group_threads(const struct cpu_host *h)
{
        return cpu_group_is_v2(h) ? "cgroup.threads" : "tasks";
}

/* ---- names and paths; each returns buf ---- */

/* group "": the prefix itself. */
const char *cpu_group_path(const struct cpu_host *h, size_t tree, const char *group, char buf[CGROUPFS_PATH]);
const char *cpu_group_name(char buf[CPU_GROUP_NAME], const char *role, const char *vm);
/* A name that is no item's. */
bool cpu_group_is_own(const char *group);
bool cpu_group_is_of(const char *group, const char *vm);
/* Whether groups can have quotas: the kernel may be built without. */
bool cpu_group_has_quotas(const struct cpu_host *h);
/* In every tree. */
bool cpu_group_is_there(const struct cpu_host *h, const char *group);

/* ---- single files ---- */

int cpu_group_write(const struct cpu_host *h, const char *dir, const char *file, long value, struct err *err);
int cpu_group_read_set(const char *dir, const char *file, struct cpulist *ret, struct err *err);
/* Without those that are off line: on v1 they cannot be written, on v2 they count when they are back. */
void cpu_group_leave_online(const struct cpu_host *h, struct cpulist *l);
/* Checked by what came of it. */
int cpu_group_write_set(const struct cpu_host *h, const char *dir, const struct cpulist *set,
                        struct err *err);
/* v1: a new group has no memory nodes, and nothing may enter before it has some. */
int cpu_group_inherit_mems(const struct cpu_host *h, const char *parent, const char *dir, struct err *err);

/* ---- a group ---- */

/* How a group is set, so that a change that fails can be taken back. */
struct cpu_group_setting {
        bool is_known; /* it is there, wholly */
        struct cpulist cpus;
        long weight;
        long quota_us, period_us; /* quota 0: none. What a burst adds to a quota counts towards it, as that is
                                     what the group may use in one period */
};

/* Where it fails, some of it may be made. A group without a quota has none written, but one that it has is
 * lifted. REASON_UNSUPPORTED: a quota, and the kernel has none; with best effort it goes without. */
int cpu_group_make(const struct cpu_host *h, const char *group, const struct cpu_group_setting *to,
                   struct err *err);
/* Effective: the CPUs that there are of those it was given. */
int cpu_group_read(const struct cpu_host *h, const char *group, bool is_effective,
                   struct cpu_group_setting *ret, struct err *err);
/* All or nothing. *ret_before is for cpu_group_put_back(). */
int cpu_group_set(const struct cpu_host *h, const char *group, const struct cpu_group_setting *to,
                  struct cpu_group_setting *ret_before, struct err *err);
/* As it was before, or gone where it was not. Threads in it stay in it. */
void cpu_group_put_back(const struct cpu_host *h, const char *group, const struct cpu_group_setting *before);
/* With all threads of a process, or one alone. */
int cpu_group_enter(const struct cpu_host *h, const char *group, pid_t id, bool is_process, struct err *err);
/* One thread of a VM, into a group that is there; where that fails it is where it was before. */
int cpu_group_move(const struct cpu_host *h, const char *vm, const char *group, pid_t tid, struct err *err);
/* If it is empty. */
void cpu_group_drop(const struct cpu_host *h, const char *group);
/* Removes those groups of a VM that are empty; what is in use stays. The first error is returned. `keep`: it
 * and the VMM's own group are left alone, for after a move; "" where there is no other, NULL after none. */
int cpu_group_sweep(const struct cpu_host *h, const char *vm, enum cpu_removal removal, const char *keep,
                    struct err *err);

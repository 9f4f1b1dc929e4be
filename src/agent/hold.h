/* SPDX-License-Identifier: Apache-2.0 */
/* agent/hold.h - what was granted is for the application that asked (1.15).
 *
 * The process that holds a lease, its descendants, and what they fork later, are in a control group that has
 * the granted vCPUs for itself and the granted memory protected. There is one group for a *process*, not for
 * a lease, because a process is in one group only: with two leases the group has the vCPUs of both and the
 * sum of their memory, and the end of one takes its part away. Its name, mete.PID-START, says whose it is, so
 * that another agent finds it. Everybody else keeps the other vCPUs, the VM's own among them.
 *
 * Where systemd runs the guest, the group is a unit in mete.slice: the process's own, where it lies there,
 * and shared with whoever else is in it, or a scope, in which it stays (hold-systemd.c).
 *
 * When nothing is wanted for it any more its processes go back to the groups where they were, and it is
 * removed. A record of where they were is written before anything is moved. A process that somebody moved
 * away is not brought back. What cannot be done is said in a sentence, and never half done in silence. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/cpulist.h"

struct hold_who {
        pid_t pid;
        uint64_t start_ticks;
};
/* Zeroed: nothing. */
struct hold_want {
        struct cpulist cpus;
        int64_t memory_bytes;
};
/* What is not held although it was wanted. */
struct hold_said {
        size_t n;
        char text[2][128];
};

struct hold_options {
        const char *mountinfo; /* NULL: /proc/self/mountinfo */
        const char *proc;      /* "/proc" */
        const char *systemd;   /* there while systemd owns the groups: "/run/systemd/system" */
        const char *busctl;    /* NULL: /usr/bin/busctl; tests give another */
        int busctl_ms;         /* that it may take; 0: as long as is good */
        const char *cpus;      /* "/sys/devices/system/cpu" */
        const char *records;   /* folder that outlives the agent and not the boot; is there */
        bool is_fake;          /* the tree is a plain directory, for tests: see host/cgroupfs.h */
};

struct holds;

/* Finds out what this guest can do; changes nothing. */
struct holds *holds_new(const struct hold_options *o);
void holds_free(struct holds *h); /* groups stay: another agent takes them over */
/* "cgroup-v2", "cgroup-v1", "systemd", or "none"; *ret_lack: what cannot be had, in words, "" where nothing.
 */
const char *holds_provider(const struct holds *h, const char **ret_lack);

/* The process will probably be granted something: what takes longest, to make its group and to enter it, is
 * done already, and nothing is held yet. holds_set() follows, wanting nothing where it was refused. What
 * cannot be done here is left to that, which says so. */
void holds_join(struct holds *h, const struct hold_who *who);
/* From now on just this is held for the process. Each of the two, vCPUs and memory, is held wholly or is
 * named in *ret; another part that was held before stays. Wanting nothing gives all back. Idempotent. */
void holds_set(struct holds *h, const struct hold_who *who, const struct hold_want *want,
               struct hold_said *ret);
/* These vCPUs are about to go off line: whoever holds them does not any more, until he is told again. */
void holds_yield(struct holds *h, const struct cpulist *cpus);
/* After a start, when everything that is live was set: groups and records of others are removed. */
void holds_sweep(struct holds *h);
/* Tries again to remove what would not go; how many are left. */
size_t holds_retry(struct holds *h);

/* SPDX-License-Identifier: Apache-2.0 */
/* agent/hold-internal.h - what the files hold*.c share: the tree, processes, and the providers' table. */
#pragma once
#include "agent/hold.h"
#include "host/cgroupfs.h"

enum { HOLD_NAME = 64, HOLD_PATH = 256, HOLD_PASSES = 16 };
#define HOLD_PREFIX "mete."
#define HOLD_OTHERS "mete-others" /* v1: where everybody else is */

/* Of one process that was not in the group where the holder was. */
struct hold_stray {
        struct hold_who who;
        char path[HOLD_PATH];
};

/* One group of ours. */
struct held {
        struct hold_who who;
        char name[HOLD_NAME];
        struct hold_want has;   /* in force */
        char origin[HOLD_PATH]; /* where the holder was, from the root of the hierarchy: "/", "/a/b" */
        size_t n_strays;
        struct hold_stray *strays;
        bool is_moved; /* its processes were moved into it once; who leaves later is not brought back */
        bool is_left;  /* nothing is wanted; it would not go */
};

struct hold_provider {
        const char *name;
        bool may_enter_first; /* a group that has nothing yet can be entered */
        /* The group (it is there) has just these vCPUs, and nobody else has; none: as if we had never been.
         */
        int (*cpus)(struct holds *h, struct held *of, const struct cpulist *cpus, struct err *err);
        int (*memory)(struct holds *h, struct held *of, int64_t bytes, struct err *err);
        /* Where a process of it goes back to whose group was `path`. */
        const char *(*home)(struct holds *h, const struct held *of, const char *path);
        /* Nobody has a group any more. */
        int (*clear)(struct holds *h, struct err *err);
};

struct holds {
        const struct hold_provider *provider; /* NULL: none */
        char root[CGROUPFS_ROOT];             /* of the hierarchy */
        char proc[CGROUPFS_ROOT], records[CGROUPFS_ROOT];
        char lack[128]; /* why there is no provider, or what it cannot do */
        bool has_cpuset, has_memory, is_fake;
        struct hold_systemd *systemd; /* its own tables; `held` is empty then */
        size_t n;
        struct held **held;
};

extern const struct hold_provider hold_v1, hold_v2, hold_systemd;

/* hold-systemd.c keeps groups and processes itself: nothing of the table above but its name. */
void hold_systemd_new(struct holds *h, const struct hold_options *o);
void hold_systemd_free(struct holds *h);
void hold_systemd_set(struct holds *h, const struct hold_who *who, const struct hold_want *want,
                      struct hold_said *said);
void hold_systemd_yield(struct holds *h, const struct cpulist *cpus);
size_t hold_systemd_retry(struct holds *h);
void hold_systemd_sweep(struct holds *h);

/* hold.c */
void hold_say(struct hold_said *said, bool cpus, bool memory, const char *why);
const char *hold_dir(const struct holds *h, const char *path, char buf[CGROUPFS_PATH]); /* "/a" or "a" */

/* hold-procs.c: processes. */
struct hold_task {
        pid_t pid, parent;
        uint64_t start_ticks;
        bool is_kernel, is_dead; /* dead: nothing more than an entry */
};
/* -ESRCH: there is none. */
int hold_task_get(const struct holds *h, pid_t pid, struct hold_task *ret);
/* The process and all its descendants, itself first. *ret is the caller's. -ESRCH: it is gone. */
int hold_family(const struct holds *h, const struct hold_who *who, pid_t **ret, size_t *ret_n);
/* The group of a process. -ESRCH: it is gone. */
int hold_where(const struct holds *h, pid_t pid, char ret[HOLD_PATH]);
/* Processes of a group; *ret is the caller's. A group that is not there has none. */
int hold_list(const struct holds *h, const char *path, pid_t **ret, size_t *ret_n, struct err *err);
/* A process that is gone is no error. */
int hold_move(const struct holds *h, pid_t pid, const char *to, struct err *err);

/* hold-record.c: where the processes of a group were. */
int hold_record_keep(const struct holds *h, const struct held *of, struct err *err);
int hold_record_read(const struct holds *h, struct held *of); /* -ENOENT, or -EPROTO: not one of ours */
int hold_record_forget(const struct holds *h, const char *name, struct err *err);

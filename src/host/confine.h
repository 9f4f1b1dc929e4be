/* SPDX-License-Identifier: Apache-2.0 */
/* host/confine.h - one control group a VM for a controller that acts on whole processes (memory, io), below
 * the prefix: PREFIX/VM. For memory.c and block.c.
 *
 * v1: a hierarchy of its own, so the VM's group there has nothing to do with that of its CPUs. v2: there is
 * one hierarchy, and a process is in one place of it. Where CPUs are held by cgroup v2, all VMs' threads lie
 * in one threaded domain, and such controllers can act on that as a whole only: `vm` NULL, the prefix itself;
 * for a VM alone it is refused as unsupported. Where the prefix is an ordinary domain, v2 does it for each
 * VM, too. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"
#include "host/cgroupfs.h"

enum { CONFINE_PREFIX = 64 };

struct confine {
        char root[CGROUPFS_ROOT]; /* "": nothing of the kind is mounted */
        char prefix[CONFINE_PREFIX];
        const char *controller; /* of v2 */
        bool is_v2, is_fake;
};

/* Finds out what there is; changes nothing. `v1` is where its hierarchy is mounted, "" for nowhere. */
int confine_init(struct confine *c, const struct cgroupfs_mounts *m, const char *v1, const char *controller,
                 const char *prefix, bool is_fake, struct err *err);
const char *confine_path(const struct confine *c, const char *vm, char buf[CGROUPFS_PATH]);
/* Idempotent, all of them. */
int confine_make(const struct confine *c, const char *vm, struct err *err);
int confine_enter(const struct confine *c, const char *vm, pid_t pid, struct err *err);
/* 1: it is there, 0: not, negative: cannot be read. */
int confine_has(const struct confine *c, const char *vm, pid_t pid, struct err *err);
/* The group of a VM, with all that is charged to it, is another VM's from now on, and so is pid (0: nobody)
 * which is in that one's own until now; what is charged to that goes to all. 1: done. 0: there is none, or
 * this hierarchy cannot (v2). */
int confine_pass(const struct confine *c, const char *vm, const char *to, pid_t pid, struct err *err);
/* -EBUSY: processes are in it. Folders of the prefix go with the last. */
int confine_remove(const struct confine *c, const char *vm, struct err *err);

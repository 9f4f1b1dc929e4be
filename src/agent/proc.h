/* SPDX-License-Identifier: Apache-2.0 */
/* agent/proc.h - which process an application is. A pid alone is reused; with its start time it is one
 * process for the whole boot. */
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct proc {
        pid_t pid;
        uint64_t start_ticks; /* since boot */
        char name[16];        /* of the executable, control characters and '/' replaced */
};

/* REASON_NOT_FOUND: there is no such process (any more). */
int proc_get(pid_t pid, struct proc *ret, struct err *err);
/* A descriptor that becomes readable when just this process ends; -ESRCH where it has. */
int proc_watch(pid_t pid, uint64_t start_ticks, struct err *err);

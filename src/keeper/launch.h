/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/launch.h - from the keeper's process to a VMM, or a guard, that has no privilege left, in two steps:
 * the child waits, so that it can be recorded and put into its groups before the program's first instruction.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include "base/err.h"

struct launch_options {
        char *const *argv; /* argv[0] is the path; ends in NULL */
        uid_t uid;         /* also its gid, unless it has another */
        bool has_gid;
        gid_t gid;
        gid_t gid_extra; /* one supplementary group, or 0 for none */
        const int *fds;  /* become LAUNCH_FIRST_FD and on */
        size_t n_fds;
        int stderr_fd;    /* for stdout and stderr */
        bool is_borrower; /* what it makes its group may use, as that of a folder may be another's */
        bool is_guard;    /* it keeps the keeper's standing with the out-of-memory killer, and may not run for
                             LAUNCH_GUARD_US at a stretch with the real-time priority that it is given */
};

struct launch {
        pid_t pid;    /* 0: nothing was launched */
        int pid_fd;   /* owned */
        int gate_fd;  /* owned; the child waits at its other end */
        int fault_fd; /* owned; closed by a successful exec */
        bool is_guard;
};

/* What a caller may pass along, and a tap. */
enum { LAUNCH_FIRST_FD = 3, LAUNCH_FDS_MAX = 17, LAUNCH_GUARD_US = 500000 };

/* Forks; the child waits at the gate, and goes away by itself if the keeper dies. */
int launch_begin(struct launch *l, const struct launch_options *o, struct err *err);
/* Opens the gate and waits until the program runs. *ret_pid_fd: taken by the caller. On failure the child is
 * gone and reaped, and the error says which step of it failed. */
int launch_finish(struct launch *l, int *ret_pid_fd, struct err *err);
/* Ends and reaps the child. Idempotent. */
void launch_cancel(struct launch *l);
/* Ends whatever still runs under a VM's uid. The VMM's sandbox lets it start nothing, but its files must not
 * be removed, nor its uid be given away, on that alone. uid is not 0. */
int launch_sweep(uid_t uid, struct err *err);

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
/* The process behind a connection: pid and uid are its peer credentials, pidfd its SO_PEERPIDFD, or -1 where
 * this kernel (before 6.5) has none. By the time that one looks, the process may be gone and its pid
 * another's: REASON_NOT_FOUND. Without a pidfd that is told by the owner, so another process of the same user
 * may pass. */
int proc_of_peer(pid_t pid, uid_t uid, int pidfd, struct proc *ret, struct err *err);
/* SO_PEERPIDFD of a socket; -1: this kernel has none; -ESRCH: the peer is gone. */
int proc_peer_pidfd(int socket_fd, struct err *err);
/* A descriptor that becomes readable when just this process ends; -ESRCH where it has. */
int proc_watch(pid_t pid, uint64_t start_ticks, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* agent/proc.h - which process an application is. A pid alone is reused; with its start time it is one
 * process for the whole boot. */
#pragma once
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "loop/loop.h"

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

/* One of those that wait for the end of a process. They share a descriptor, so that another one costs no
 * system call. Zeroed: holds nothing. It must stay where it is. */
struct proc_hold {
        struct proc_life *life; /* NULL: holds nothing */
        void (*on_end)(void *arg);
        void *arg;
        bool is_told;
        struct proc_hold *next, **at;
};

/* on_end is called once, from the loop, unless it is dropped before; NULL: it only keeps the descriptor. */
int proc_hold_new(struct proc_hold *h, pid_t pid, uint64_t start_ticks, void (*on_end)(void *arg), void *arg,
                  struct err *err);
/* Of the process that `of` holds; -ESRCH where its end was seen. */
int proc_hold_share(struct proc_hold *h, const struct proc_hold *of, void (*on_end)(void *arg), void *arg,
                    struct err *err);
void proc_hold_drop(struct proc_hold *h); /* safe inside every on_end */

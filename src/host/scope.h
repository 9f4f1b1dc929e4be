/* SPDX-License-Identifier: Apache-2.0 */
/* host/scope.h - the place for VMs' groups on a host that systemd runs: one scope, asked of systemd over
 * D-Bus, that it hands over (Delegate=). What lies in it is mete's alone, and the scope itself systemd's:
 * https://systemd.io/CGROUP_DELEGATION. Only with cgroup v2: on v1 systemd delegates nothing.
 *
 *   PREFIX.slice/PREFIX-vms.scope      (mete.slice/mete-vms.scope)
 *
 * One scope for all VMs and not one each: weights compete among siblings only, so the groups of all VMs must
 * lie side by side (host/cpu.h), and threads of one process may only be spread within one threaded domain.
 *
 * A scope begins with a process and goes when the last has ended, with the groups of items that nobody has
 * entered yet. So it is kept by a process that sleeps, the holder: it outlives whoever started it, as VMs do,
 * and is ended when no VM is left. It ends when somebody stops the scope: `holder_fd` says so. */
#pragma once
#include <stdbool.h>
#include <sys/types.h>
#include "base/err.h"

#define SCOPE_SYSTEMD "/run/systemd/system" /* there while systemd is the init, as sd_booted(3) says */
#define SCOPE_HOLDER  "mete-scope"          /* what a holder calls itself (comm) */

enum { SCOPE_PATH = 64, SCOPE_TIMEOUT_MS = 10000 };

struct scope_options {
        const char *prefix;        /* names with slashes between them, as cgroups have */
        const char *root;          /* where cgroup v2 is mounted */
        const char *state_dir;     /* for a note of where the scope is; must not outlive a reboot */
        const char *bus;           /* an address; NULL: the system's */
        const char *keeper_unit;   /* it ends after this one when the host goes down; NULL: no order */
        const char *const *holder; /* program and arguments; it must call scope_hold() */
        int timeout_ms;            /* for all of it: neither systemd nor a bus that hangs keeps the caller */
};

struct scope {
        char path[SCOPE_PATH]; /* below the root */
        int holder_fd;         /* a pidfd, readable once the holder has ended; -1: no scope */
        int leash_fd;          /* of a holder that is in no scope yet: it ends with this; -1: of none */
        pid_t holder;
        bool is_made; /* by this process; else it was there */
};

#define SCOPE_NONE                                                                                           \
        {                                                                                                    \
                .holder_fd = -1, .leash_fd = -1                                                              \
        }

/* PREFIX.slice and PREFIX-vms.scope, slashes of the prefix as dashes: so systemd nests slices, too. */
int scope_name(const char *prefix, char ret_slice[SCOPE_PATH], char ret_scope[SCOPE_PATH], struct err *err);

/* Makes the scope, or finds it with what runs in it. Where there is no answer from systemd, but the scope of
 * before has processes still, that one is taken.
 * -EBUSY: the one of before is being stopped and has not ended yet, or it cannot be kept: this is to be tried
 * again. Any other error: there is none, and VMs must lie elsewhere. */
int scope_start(const struct scope_options *o, struct scope *ret, struct err *err);
/* Where the note says that the one of before is, with something running in it. */
bool scope_find(const struct scope_options *o, char ret_path[SCOPE_PATH]);
/* Takes the one that scope_find() finds, and asks nobody. Errors as for scope_start(). */
int scope_take(const struct scope_options *o, struct scope *ret, struct err *err);
/* is_empty: no VM is left, and the scope goes; else it stays with what is in it. Idempotent. */
void scope_done(struct scope *s, const struct scope_options *o, bool is_empty);

/* What a holder does; does not return. */
void scope_hold(void) __attribute__((noreturn));

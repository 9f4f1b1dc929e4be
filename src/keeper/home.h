/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/home.h - where the groups of all VMs lie: in a scope of systemd's where that runs the host with
 * cgroup v2 (host/scope.h), else in a group of our own, below the hierarchies' roots. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "host/cpu.h"
#include "host/scope.h"
#include "loop/loop.h"

struct home_options {
        const char *systemd; /* SCOPE_SYSTEMD; tests give another */
        bool wants_scope;    /* [keeper] scope */
        struct scope_options scope;
};

struct home {
        struct home_options options;
        struct scope scope;
        struct loop_fd watch;
        const struct cpu_host *cpu;
        bool has_scope;
        bool is_lost;       /* the scope ended while we ran */
        char fallback[128]; /* what is lacking here, in words; "" where nothing is */
};

/* Changes nothing. true: there is systemd to be asked for a scope. */
bool home_look(struct home *h, const struct home_options *o, const struct cpu_host *cpu);
/* Before the first group is made; *cpu is told. Where VMs lie already decides, as they cannot be moved: a
 * scope that holds some is taken, wanted or not, or this is refused. With none, it is refused only with
 * -EBUSY, until the scope of before has ended (scope_start()); whatever else systemd says, there is a group
 * of our own. */
int home_start(struct home *h, const struct home_options *o, struct cpu_host *cpu, struct err *err);
/* From now on the loop ends, with is_lost, when the scope does: whoever comes then finds out anew what there
 * is. In a process that holds VMs' groups there is no moment at which their place could change. */
int home_watch(struct home *h, struct err *err);
/* With the last group the scope goes. Idempotent; after home_look(), too. */
void home_done(struct home *h);

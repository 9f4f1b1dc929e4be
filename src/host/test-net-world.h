/* SPDX-License-Identifier: Apache-2.0 */
/* For the tests of host/net.h against the real kernel: a network namespace of its own for each test, what is
 * in it in words, and faults at every step.
 *
 *      br0 ---- up0 ==== up1 (the world)
 *       `------ mete-N, the taps
 */
#pragma once
#include "host/net.h"

#include <glib.h>

enum { MBIT = 1000000 };

extern const char *missing; /* why nothing can be tried here */

/* A new namespace with the picture above. false: skipped, nothing can be tried here. */
bool enter(void);
void run(const char *command);
char *output(const char *command);

/* All that there is, in words; without figures, and without the numbers and addresses that the kernel
 * chooses. */
char *state(void);
void is_state(const char *expected);

enum fault_kind { BEFORE = 1, AFTER, DEAD_BEFORE, DEAD_AFTER, FAULT_KIND_N };

struct fault {
        enum fault_kind kind;
        int at, passed;
        bool is_hit;
        const char *lacking; /* this step is what the kernel does not have */
        const char *broken;  /* this one fails, however often it is tried */
        char last[32];
};
extern struct fault fault;
extern int n_faults;

void fail_at(enum fault_kind kind, int at);
void mend(void);

extern const struct net_host_options usual;

void ok(int r, const struct err *err);
void set_up(struct net_host *h, const struct net_host_options *o);
void tear_down(struct net_host *h);
int tap(struct net_host *h, unsigned slot);
/* Mbit/s */
struct net_vm_rates rates_of(uint64_t to, uint64_t to_ceiling, uint64_t from, uint64_t from_ceiling);
void is_same(struct net_host *h, unsigned slot, const struct net_vm_rates *rates);
void is_refused(int r, int code, enum reason reason, const struct err *err, const char *words);
int fds_open(void);

/* test-net-faults.c */
void add_slow_tests(void);

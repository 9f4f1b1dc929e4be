/* SPDX-License-Identifier: Apache-2.0 */
/* loop/loop.h - the one loop thread of a daemon, on GLib's default main context.
 *
 * What it adds to GLib: turns, one epoll set for the many descriptors, embedded timers, and a clock that
 * tests can replace. Other GLib sources (signals, child watches) may be used beside it.
 *
 * A *turn* is one iteration: every ready source is dispatched, then the hooks that were asked for run once,
 * all LOOP_COMMIT hooks before all LOOP_SEND hooks. So a database is committed once for everything that one
 * turn decided, and only then do the answers leave. Turns exist only in a loop driven by loop_run() or
 * loop_once(). Everything here belongs to the loop thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"

enum loop_phase { LOOP_COMMIT = 0, LOOP_SEND, LOOP_PHASE_N };

/* Embed it. A hook may ask for itself or another again: a later phase still runs in this turn, the same or an
 * earlier one in the next, which then does not wait. */
struct turn {
        void (*fn)(void *arg);
        void *arg;
        struct turn *next, *prev; /* both NULL: not asked for */
        enum loop_phase phase;
};

void loop_turn_init(struct turn *t, enum loop_phase phase, void (*fn)(void *arg), void *arg);
void loop_turn_request(struct turn *t); /* idempotent within a turn */
void loop_turn_cancel(struct turn *t);  /* idempotent; safe inside any hook, of t itself too */

/* One descriptor in the epoll set. Embed it, zeroed. Level-triggered. */
struct loop_fd {
        void (*fn)(void *arg, uint32_t events); /* EPOLL* bits; EPOLLERR and EPOLLHUP come unasked */
        void *arg;
        int fd;
        uint32_t events;
        bool is_added;
};

/* Borrows fd; remove it before closing. With no events at all the descriptor leaves the set, so that even a
 * hang-up stays silent until there is interest again. A removed loop_fd is never called again, not even for
 * events that were already collected. -EPERM: not a descriptor that can be waited for (a plain file). */
int loop_fd_add(struct loop_fd *f, int fd, uint32_t events, void (*fn)(void *arg, uint32_t events), void *arg,
                struct err *err);
int loop_fd_set(struct loop_fd *f, uint32_t events, struct err *err);
void loop_fd_remove(struct loop_fd *f); /* idempotent */

/* A one-shot timer. Embed it; loop_timer_init() first. fn may set it again or free its owner. */
struct loop_timer {
        void (*fn)(void *arg);
        void *arg;
        int64_t due_ms;
        uint32_t slot; /* 1 + place in the heap; 0: not set */
};

void loop_timer_init(struct loop_timer *t, void (*fn)(void *arg), void *arg);
void loop_timer_at(struct loop_timer *t, int64_t due_mono_ms); /* sets, or moves */
void loop_timer_in(struct loop_timer *t, int64_t ms);          /* from now; 0: in the next turn */
void loop_timer_cancel(struct loop_timer *t);                  /* idempotent */
bool loop_timer_is_set(const struct loop_timer *t);

int64_t loop_now_ms(void);  /* wall clock (CLOCK_REALTIME) */
int64_t loop_mono_ms(void); /* never goes back (CLOCK_MONOTONIC); timers follow it */
int64_t loop_boot_ms(void); /* the same, and goes on while the machine is suspended (CLOCK_BOOTTIME) */

/* For tests: all clocks stand still at these values until set again; loop_clock_real() goes back to the
 * kernel's. */
void loop_clock_fake(int64_t now_ms, int64_t mono_ms);
void loop_clock_real(void);

void loop_run(void);           /* until loop_quit(); the hooks of the last turn still run */
void loop_quit(void);          /* safe before loop_run(): it then returns after its first turn */
bool loop_once(bool may_wait); /* one turn; true: something was dispatched or a hook ran */
void loop_done(void);          /* gives back what the loop holds; nothing may be registered any more */

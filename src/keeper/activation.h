/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/activation.h - one thread for each activation: its calls are carried out there, one after another,
 * while those of other activations go on beside it (requirements 3.4, 3.14).
 *
 * Everything here is called on the loop's thread, and calls back on it, but for work->run(). A thread begins
 * with the first call of its activation. It ends when it is told to, when it had nothing to do for
 * ACTIVATION_IDLE_MS, and with the pool. */
#pragma once
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "loop/loop.h"

/* ACTIVATION_USERS: how ids are told apart, as keeper/space.h makes them. */
enum { ACTIVATION_USERS = 8 };
enum { ACTIVATIONS_MAX = 256, ACTIVATION_CALLS_MAX = 64, ACTIVATION_IDLE_MS = 60000 };

struct activation;

/* Embed it. run() gets the kernel's id of its thread, and touches nothing but its own work. done() is called
 * exactly once, and may free it; is_cancelled: it was not run. */
struct work {
        void (*run)(struct work *w, pid_t thread);
        void (*done)(struct work *w);
        const void *owner; /* whoever asked */
        bool is_cancelled;
        struct activation *of;
        struct work *next;
};

struct work_queue {
        struct work *first, **last;
};

struct activations {
        GHashTable *by_id; /* id -> struct activation */
        struct loop_fd watch;
        int event_fd;
        unsigned n_users; /* whose ids are told apart by the rest of a division; 0 or 1: all are one's own */
        pthread_mutex_t lock; /* of all that the threads and the loop share */
        struct work_queue finished;
};

int activations_init(struct activations *a, struct err *err);
/* What runs is finished, what waits is cancelled; all threads have ended. Idempotent. */
void activations_done(struct activations *a);

/* On failure (REASON_BUSY) done() is not called. Of several users each has an equal share of threads. */
int activation_submit(struct activations *a, uint64_t id, struct work *w, struct err *err);
/* done() alone is called, when the activation has done all that it had to do and its thread has ended; at
 * once where it has none. */
void activation_end(struct activations *a, uint64_t id, struct work *w);
/* Cancels what waits of an owner who is gone; what runs is finished. */
void activations_forget(struct activations *a, const void *owner);

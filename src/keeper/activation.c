/* SPDX-License-Identifier: Apache-2.0 */
/* A work is in one place at a time:
 *
 *   waiting    in its activation's queue; the loop may still cancel it
 *   running    its thread's alone
 *   finished   in the pool's list, until the loop, woken by the eventfd, calls done()
 *
 * Only the loop begins and ends threads, so no thread ever decides to go while a call for it arrives: one
 * that is to end has nothing left, waits for its condition, and is joined at once. */
#include "keeper/activation.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A provider's frames are a few texts of 10 KiB; a sanitizer makes them larger. */
enum { STACK_BYTES = 1024 * 1024 };

struct activation {
        struct activations *owner;
        uint64_t id;
        pthread_t thread;
        pthread_cond_t wake;
        struct work_queue waiting; /* under the lock */
        bool is_stopping;          /* under the lock */
        unsigned calls;            /* the loop's: waiting, running and finished */
        struct loop_timer idle;
        struct work_queue ending; /* the loop's */
};

static void queue_init(struct work_queue *q)
{
        q->first = NULL;
        q->last = &q->first;
}

static void queue_push(struct work_queue *q, struct work *w)
{
        w->next = NULL;
        *q->last = w;
        q->last = &w->next;
}

static struct work *queue_pop(struct work_queue *q)
{
        struct work *w = q->first;
        if (w && !(q->first = w->next))
                q->last = &q->first;
        return w;
}

static void locked(struct activations *a)
{
        (void)pthread_mutex_lock(&a->lock);
}

static void unlocked(struct activations *a)
{
        (void)pthread_mutex_unlock(&a->lock);
}

static void *serve(void *arg)
{
        struct activation *t = arg;
        struct activations *a = t->owner;
        const pid_t self = gettid();
        locked(a);
        for (;;) {
                while (!t->is_stopping && !t->waiting.first)
                        (void)pthread_cond_wait(&t->wake, &a->lock);
                if (t->is_stopping)
                        break;
                struct work *w = queue_pop(&t->waiting);
                unlocked(a);
                w->run(w, self);
                locked(a);
                queue_push(&a->finished, w);
                (void)eventfd_write(a->event_fd, 1);
        }
        unlocked(a);
        return NULL;
}

/* Joined; what waited for that hears of it. */
static void stop(struct activation *t)
{
        struct activations *a = t->owner;
        locked(a);
        t->is_stopping = true;
        (void)pthread_cond_signal(&t->wake);
        unlocked(a);
        (void)pthread_join(t->thread, NULL);
        loop_timer_cancel(&t->idle);
        (void)g_hash_table_steal(a->by_id, &t->id);
        for (struct work *w; (w = queue_pop(&t->ending));)
                w->done(w);
        (void)pthread_cond_destroy(&t->wake);
        g_free(t);
}

static void on_idle(void *arg)
{
        stop(arg);
}

static void finish(struct work *w)
{
        struct activation *t = w->of;
        w->done(w);
        if (--t->calls > 0)
                return;
        if (t->ending.first)
                stop(t);
        else
                loop_timer_in(&t->idle, ACTIVATION_IDLE_MS);
}

static void finish_all(struct work_queue *q)
{
        for (struct work *w; (w = queue_pop(q));)
                finish(w);
}

static void on_event(void *arg, uint32_t events)
{
        struct activations *a = arg;
        struct work_queue now;
        eventfd_t n;
        queue_init(&now);
        (void)eventfd_read(a->event_fd, &n);
        locked(a);
        for (struct work *w; (w = queue_pop(&a->finished));)
                queue_push(&now, w);
        unlocked(a);
        finish_all(&now);
}

int activations_init(struct activations *a, struct err *err)
{
        *a = (struct activations){.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
        if (a->event_fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "eventfd: %s", strerror(errno));
        int r = loop_fd_add(&a->watch, a->event_fd, EPOLLIN, on_event, a, err);
        if (r < 0) {
                (void)close(a->event_fd);
                return r;
        }
        queue_init(&a->finished);
        (void)pthread_mutex_init(&a->lock, NULL);
        a->by_id = g_hash_table_new(g_int64_hash, g_int64_equal);
        return 0;
}

/* Signals are for the loop's thread. */
static int begin_thread(struct activation *t)
{
        pthread_attr_t attr;
        sigset_t all, before;
        int code = pthread_attr_init(&attr);
        if (code != 0)
                return code;
        (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
        (void)sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        code = pthread_create(&t->thread, &attr, serve, t);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void)pthread_attr_destroy(&attr);
        return code;
}

/* What one who was taken over takes, the others have all the same. */
static int check_share(const struct activations *a, uint64_t id, struct err *err)
{
        unsigned n = 0, share = a->n_users > 1 ? ACTIVATIONS_MAX / a->n_users : ACTIVATIONS_MAX;
        GHashTableIter i;
        void *value;
        g_hash_table_iter_init(&i, a->by_id);
        while (a->n_users > 1 && g_hash_table_iter_next(&i, NULL, &value))
                n += ((const struct activation *)value)->id % ACTIVATION_USERS == id % ACTIVATION_USERS;
        return n < share ? 0
                         : err_set(err, REASON_BUSY, EBUSY,
                                   "%u activations of this hypervisor are under way already, its share", n);
}

static int begin(struct activations *a, uint64_t id, struct activation **ret, struct err *err)
{
        int r = check_share(a, id, err);
        if (r < 0)
                return r;
        if (g_hash_table_size(a->by_id) >= ACTIVATIONS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%d activations are under way already",
                               ACTIVATIONS_MAX);
        struct activation *t = g_new0(struct activation, 1);
        t->owner = a;
        t->id = id;
        queue_init(&t->waiting);
        queue_init(&t->ending);
        loop_timer_init(&t->idle, on_idle, t);
        (void)pthread_cond_init(&t->wake, NULL);
        int code = begin_thread(t);
        if (code != 0) {
                (void)pthread_cond_destroy(&t->wake);
                g_free(t);
                return err_set(err, REASON_BUSY, code, "no thread for this activation: %s", strerror(code));
        }
        (void)pthread_setname_np(t->thread, "activation");
        (void)g_hash_table_insert(a->by_id, &t->id, t);
        *ret = t;
        return 0;
}

int activation_submit(struct activations *a, uint64_t id, struct work *w, struct err *err)
{
        struct activation *t = g_hash_table_lookup(a->by_id, &id);
        int r = t ? 0 : begin(a, id, &t, err);
        if (r < 0)
                return r;
        if (t->ending.first)
                return err_set(err, REASON_BUSY, EBUSY, "activation %ju is ending", (uintmax_t)id);
        if (t->calls >= ACTIVATION_CALLS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "activation %ju has %d calls to do already",
                               (uintmax_t)id, ACTIVATION_CALLS_MAX);
        t->calls++;
        loop_timer_cancel(&t->idle);
        w->of = t;
        w->is_cancelled = false;
        locked(a);
        queue_push(&t->waiting, w);
        (void)pthread_cond_signal(&t->wake);
        unlocked(a);
        return 0;
}

void activation_end(struct activations *a, uint64_t id, struct work *w)
{
        struct activation *t = g_hash_table_lookup(a->by_id, &id);
        if (!t) {
                w->done(w);
                return;
        }
        queue_push(&t->ending, w);
        if (t->calls == 0)
                stop(t);
}

/* Those of one owner, or all; under the lock. */
static void take_waiting(struct activation *t, const void *owner, bool is_all, struct work_queue *into)
{
        struct work_queue rest;
        queue_init(&rest);
        for (struct work *w; (w = queue_pop(&t->waiting));) {
                w->is_cancelled = is_all || w->owner == owner;
                queue_push(w->is_cancelled ? into : &rest, w);
        }
        for (struct work *w; (w = queue_pop(&rest));)
                queue_push(&t->waiting, w);
}

static void cancel(struct activations *a, const void *owner, bool is_all)
{
        struct work_queue cancelled;
        GHashTableIter i;
        void *value;
        queue_init(&cancelled);
        locked(a);
        g_hash_table_iter_init(&i, a->by_id);
        while (g_hash_table_iter_next(&i, NULL, &value))
                take_waiting(value, owner, is_all, &cancelled);
        unlocked(a);
        finish_all(&cancelled);
}

void activations_forget(struct activations *a, const void *owner)
{
        cancel(a, owner, false);
}

void activations_done(struct activations *a)
{
        if (!a->by_id)
                return;
        cancel(a, NULL, true);
        GList *all = g_hash_table_get_values(a->by_id);
        for (GList *each = all; each; each = each->next)
                stop(each->data);
        g_list_free(all);
        /* What was running then. Its activation is gone. */
        for (struct work *w; (w = queue_pop(&a->finished));)
                w->done(w);
        loop_fd_remove(&a->watch);
        (void)close(a->event_fd);
        g_hash_table_unref(a->by_id);
        a->by_id = NULL;
        (void)pthread_mutex_destroy(&a->lock);
}

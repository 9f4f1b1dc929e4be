/* SPDX-License-Identifier: Apache-2.0 */
/* The model: three GLib-independent parts (turn lists, a timer heap, an epoll set) behind one GSource.
 *
 * Invariants: heap[i]->slot == i + 1. A loop_fd is in the epoll set iff is_added && events != 0. While events
 * that epoll_wait() collected are handed out, `collected` holds those not yet handed out, so that
 * loop_fd_remove() can take its own out: the owner may be freed memory by the time its turn would come. */
#include "loop/loop.h"

#include <assert.h>
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { COLLECT_MAX = 64 };

static struct {
        GSource *source;
        int epoll_fd;
        struct epoll_event collected[COLLECT_MAX];
        int n_collected;
        struct loop_timer **heap;
        uint32_t n_heap, heap_room;
        struct turn wanted[LOOP_PHASE_N]; /* list heads */
        bool quit, is_running;
        bool is_fake;
        int64_t fake_now_ms, fake_mono_ms;
} loop = {.epoll_fd = -1};

/* ---- clock ---- */

static int64_t clock_ms(clockid_t id)
{
        struct timespec t;
        int r = clock_gettime(id, &t);
        assert(r == 0);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int64_t loop_now_ms(void)
{
        return loop.is_fake ? loop.fake_now_ms : clock_ms(CLOCK_REALTIME);
}

int64_t loop_mono_ms(void)
{
        return loop.is_fake ? loop.fake_mono_ms : clock_ms(CLOCK_MONOTONIC);
}

int64_t loop_boot_ms(void)
{
        return loop.is_fake ? loop.fake_mono_ms : clock_ms(CLOCK_BOOTTIME);
}

void loop_clock_fake(int64_t now_ms, int64_t mono_ms)
{
        loop.is_fake = true;
        loop.fake_now_ms = now_ms;
        loop.fake_mono_ms = mono_ms;
}

void loop_clock_real(void)
{
        loop.is_fake = false;
}

/* ---- turns ---- */

static void list_init(struct turn *head)
{
        if (!head->next)
                head->next = head->prev = head;
}

static void list_append(struct turn *head, struct turn *t)
{
        t->prev = head->prev;
        t->next = head;
        head->prev->next = t;
        head->prev = t;
}

void loop_turn_init(struct turn *t, enum loop_phase phase, void (*fn)(void *arg), void *arg)
{
        assert(phase < LOOP_PHASE_N && fn);
        *t = (struct turn){.fn = fn, .arg = arg, .phase = phase};
}

void loop_turn_request(struct turn *t)
{
        assert(t->fn);
        if (t->next)
                return;
        list_init(&loop.wanted[t->phase]);
        list_append(&loop.wanted[t->phase], t);
}

void loop_turn_cancel(struct turn *t)
{
        if (!t->next)
                return;
        t->prev->next = t->next;
        t->next->prev = t->prev;
        t->next = t->prev = NULL;
}

static bool turn_is_wanted(void)
{
        for (int p = 0; p < LOOP_PHASE_N; p++)
                if (loop.wanted[p].next && loop.wanted[p].next != &loop.wanted[p])
                        return true;
        return false;
}

static bool run_phase(struct turn *wanted)
{
        list_init(wanted);
        if (wanted->next == wanted)
                return false;
        /* Moved aside, so that a hook that asks for itself again waits for the next turn. It stays a proper
         * list: a hook may cancel any other, which unlinks it from wherever it is. */
        struct turn now = {.next = wanted->next, .prev = wanted->prev};
        now.next->prev = &now;
        now.prev->next = &now;
        wanted->next = wanted->prev = wanted;
        while (now.next != &now) {
                struct turn *t = now.next;
                loop_turn_cancel(t);
                t->fn(t->arg);
        }
        return true;
}

static bool run_turn(void)
{
        bool ran = false;
        for (int p = 0; p < LOOP_PHASE_N; p++)
                ran |= run_phase(&loop.wanted[p]);
        return ran;
}

/* ---- timers: a binary heap, because a peer's call sets one and mostly cancels it ---- */

static void heap_put(uint32_t at, struct loop_timer *t)
{
        loop.heap[at] = t;
        t->slot = at + 1;
}

static void heap_up(uint32_t at, struct loop_timer *t)
{
        while (at > 0 && loop.heap[(at - 1) / 2]->due_ms > t->due_ms) {
                heap_put(at, loop.heap[(at - 1) / 2]);
                at = (at - 1) / 2;
        }
        heap_put(at, t);
}

static void heap_down(uint32_t at, struct loop_timer *t)
{
        for (;;) {
                uint32_t child = 2 * at + 1;
                if (child >= loop.n_heap)
                        break;
                if (child + 1 < loop.n_heap && loop.heap[child + 1]->due_ms < loop.heap[child]->due_ms)
                        child++;
                if (loop.heap[child]->due_ms >= t->due_ms)
                        break;
                heap_put(at, loop.heap[child]);
                at = child;
        }
        heap_put(at, t);
}

static void heap_place(uint32_t at, struct loop_timer *t)
{
        if (at > 0 && loop.heap[(at - 1) / 2]->due_ms > t->due_ms)
                heap_up(at, t);
        else
                heap_down(at, t);
}

static void source_ensure(void);

void loop_timer_init(struct loop_timer *t, void (*fn)(void *arg), void *arg)
{
        assert(fn);
        *t = (struct loop_timer){.fn = fn, .arg = arg};
}

void loop_timer_at(struct loop_timer *t, int64_t due_mono_ms)
{
        assert(t->fn);
        source_ensure();
        t->due_ms = due_mono_ms;
        if (t->slot) {
                heap_place(t->slot - 1, t);
                return;
        }
        if (loop.n_heap == loop.heap_room) {
                loop.heap_room = loop.heap_room ? 2 * loop.heap_room : 16;
                loop.heap = g_renew(struct loop_timer *, loop.heap, loop.heap_room);
        }
        heap_up(loop.n_heap++, t);
}

void loop_timer_in(struct loop_timer *t, int64_t ms)
{
        loop_timer_at(t, loop_mono_ms() + ms);
}

void loop_timer_cancel(struct loop_timer *t)
{
        if (!t->slot)
                return;
        uint32_t at = t->slot - 1;
        t->slot = 0;
        struct loop_timer *last = loop.heap[--loop.n_heap];
        if (last != t)
                heap_place(at, last);
}

bool loop_timer_is_set(const struct loop_timer *t)
{
        return t->slot != 0;
}

static void run_timers(void)
{
        /* Only those due at the start: a timer that sets itself to "now" again must not hold the loop. */
        int64_t now_ms = loop_mono_ms();
        for (uint32_t n = loop.n_heap; n > 0 && loop.n_heap > 0 && loop.heap[0]->due_ms <= now_ms; n--) {
                struct loop_timer *t = loop.heap[0];
                loop_timer_cancel(t);
                t->fn(t->arg);
        }
}

/* ---- descriptors ---- */

static int fd_change(struct loop_fd *f, uint32_t events, struct err *err)
{
        int op = !f->events ? EPOLL_CTL_ADD : !events ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
        struct epoll_event ev = {.events = events, .data.ptr = f};
        if (f->events == events)
                return 0;
        if (epoll_ctl(loop.epoll_fd, op, f->fd, &ev) < 0)
                return err_set(err, REASON_INTERNAL, errno, "cannot wait for descriptor %d: %s", f->fd,
                               strerror(errno));
        f->events = events;
        return 0;
}

static void forget_collected(const struct loop_fd *f)
{
        for (int i = 0; i < loop.n_collected; i++)
                if (loop.collected[i].data.ptr == f)
                        loop.collected[i].data.ptr = NULL;
}

int loop_fd_add(struct loop_fd *f, int fd, uint32_t events, void (*fn)(void *arg, uint32_t events), void *arg,
                struct err *err)
{
        assert(!f->is_added && fd >= 0 && fn);
        source_ensure();
        *f = (struct loop_fd){.fn = fn, .arg = arg, .fd = fd};
        int r = fd_change(f, events, err);
        if (r < 0)
                return r;
        f->is_added = true;
        return 0;
}

int loop_fd_set(struct loop_fd *f, uint32_t events, struct err *err)
{
        assert(f->is_added);
        if (!events)
                forget_collected(f);
        return fd_change(f, events, err);
}

void loop_fd_remove(struct loop_fd *f)
{
        if (!f->is_added)
                return;
        (void)fd_change(f, 0, NULL);
        f->is_added = false;
        forget_collected(f);
}

static void run_fds(void)
{
        int n = epoll_wait(loop.epoll_fd, loop.collected, COLLECT_MAX, 0);
        loop.n_collected = n > 0 ? n : 0;
        for (int i = 0; i < n; i++) {
                struct loop_fd *f = loop.collected[i].data.ptr;
                if (!f)
                        continue;
                loop.collected[i].data.ptr = NULL;
                f->fn(f->arg, loop.collected[i].events);
        }
        loop.n_collected = 0;
}

/* ---- the source ---- */

static gboolean source_prepare(GSource *source, gint *timeout)
{
        *timeout = -1;
        if (turn_is_wanted()) {
                *timeout = 0; /* asked for between turns: do not wait, run_turn() follows at once */
        } else if (loop.n_heap) {
                int64_t left = loop.heap[0]->due_ms - loop_mono_ms();
                *timeout = left <= 0 ? 0 : left > G_MAXINT ? G_MAXINT : (gint)left;
        }
        return loop.n_heap && *timeout == 0;
}

struct loop_source {
        GSource base;
        gpointer epoll_tag;
};

static gboolean source_check(GSource *base)
{
        struct loop_source *source = (struct loop_source *)base;
        return (loop.n_heap && loop.heap[0]->due_ms <= loop_mono_ms()) ||
               g_source_query_unix_fd(base, source->epoll_tag);
}

static gboolean source_dispatch(GSource *base, GSourceFunc fn, gpointer arg)
{
        run_timers();
        run_fds();
        return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
        .prepare = source_prepare,
        .check = source_check,
        .dispatch = source_dispatch,
};

static void source_ensure(void)
{
        if (loop.source)
                return;
        loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (loop.epoll_fd < 0)
                g_error("epoll_create1: %s", strerror(errno)); /* out of descriptors at start: cannot run */
        loop.source = g_source_new(&source_funcs, sizeof(struct loop_source));
        struct loop_source *source = (struct loop_source *)loop.source;
        source->epoll_tag = g_source_add_unix_fd(loop.source, loop.epoll_fd, G_IO_IN);
        g_source_set_static_name(loop.source, "mete loop");
        /* It never recurses (loop_once() asserts that). But a source that may not is taken out of the poll
         * set and put back around each dispatch, and both wake the loop: three system calls and an idle
         * iteration for each one that did something. */
        g_source_set_can_recurse(loop.source, TRUE);
        g_source_attach(loop.source, NULL);
}

bool loop_once(bool may_wait)
{
        assert(!loop.is_running); /* a handler that loops would see its own object change under it */
        source_ensure();
        loop.is_running = true;
        bool did = g_main_context_iteration(NULL, may_wait);
        did |= run_turn();
        loop.is_running = false;
        return did;
}

void loop_run(void)
{
        do
                (void)loop_once(!loop.quit);
        while (!loop.quit);
        loop.quit = false;
}

void loop_quit(void)
{
        loop.quit = true;
        g_main_context_wakeup(NULL);
}

void loop_done(void)
{
        assert(!loop.is_running && loop.n_heap == 0);
        if (loop.source) {
                g_source_destroy(loop.source);
                g_source_unref(loop.source);
                (void)close(loop.epoll_fd);
        }
        g_free(loop.heap);
        bool was_fake = loop.is_fake;
        loop = (__typeof__(loop)){.epoll_fd = -1,
                                  .is_fake = was_fake,
                                  .fake_now_ms = loop.fake_now_ms,
                                  .fake_mono_ms = loop.fake_mono_ms};
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static GString *trace;

static void say(void *arg)
{
        g_string_append(trace, arg);
}

static void expect(const char *what)
{
        g_assert_cmpstr(trace->str, ==, what);
        g_string_truncate(trace, 0);
}

/* ---- turns ---- */

static struct turn commit, send_it, again;

static void commit_fn(void *arg)
{
        g_string_append(trace, "C");
        loop_turn_request(&send_it);
}

static void again_fn(void *arg)
{
        g_string_append(trace, "A");
        if (--*(int *)arg > 0)
                loop_turn_request(&again);
}

static void test_turn_order(void)
{
        loop_turn_init(&commit, LOOP_COMMIT, commit_fn, NULL);
        loop_turn_init(&send_it, LOOP_SEND, say, (void *)(uintptr_t) "S");
        loop_turn_request(&send_it); /* asked for first, and twice: still once and after the commit */
        loop_turn_request(&commit);
        loop_turn_request(&commit);
        g_assert_true(loop_once(true)); /* true: must not wait although nothing else is ready */
        expect("CS");
        loop_turn_request(&commit); /* its hook asks for the later phase of the same turn */
        loop_once(true);
        expect("CS");
        g_assert_false(loop_once(false));
        expect("");
}

static void test_turn_again(void)
{
        int left = 3;
        loop_turn_init(&again, LOOP_SEND, again_fn, &left);
        loop_turn_request(&again);
        loop_once(true);
        expect("A"); /* a hook that asks for itself waits for the next turn */
        loop_once(true);
        loop_once(true);
        loop_once(false);
        expect("AA");
}

static struct turn victim;

static void cancel_fn(void *arg)
{
        g_string_append(trace, "K");
        loop_turn_cancel(&victim);
}

static void test_turn_cancel(void)
{
        struct turn killer;
        loop_turn_init(&killer, LOOP_SEND, cancel_fn, NULL);
        loop_turn_init(&victim, LOOP_SEND, say, (void *)(uintptr_t) "V");
        loop_turn_request(&killer);
        loop_turn_request(&victim);
        loop_once(true);
        expect("K");
        loop_turn_cancel(&victim);
        loop_once(false);
        expect("");
}

/* ---- timers ---- */

static void test_timer_order(void)
{
        struct loop_timer t[200];
        GRand *rand = g_rand_new_with_seed(4711);
        loop_clock_fake(1000, 5000);
        g_assert_cmpint(loop_now_ms(), ==, 1000);
        int alive = 0;
        for (size_t i = 0; i < G_N_ELEMENTS(t); i++) {
                loop_timer_init(&t[i], say, (void *)(uintptr_t) "t");
                loop_timer_at(&t[i], 5000 + g_rand_int_range(rand, 1, 100));
                if (i % 3 == 0) /* move */
                        loop_timer_at(&t[i], 5000 + g_rand_int_range(rand, 1, 100));
                if (i % 5 == 0)
                        loop_timer_cancel(&t[i]);
        }
        loop_once(false);
        expect("");
        for (int now = 5000; now <= 5100; now++) {
                loop_clock_fake(1000, now);
                loop_once(false);
                alive = 0;
                for (size_t i = 0; i < G_N_ELEMENTS(t); i++) {
                        g_assert_true(!loop_timer_is_set(&t[i]) || t[i].due_ms > now);
                        alive += loop_timer_is_set(&t[i]);
                        g_assert_false(i % 5 == 0 && loop_timer_is_set(&t[i]));
                }
                g_assert_cmpint((int)trace->len, ==, 160 - alive);
        }
        g_assert_cmpint(alive, ==, 0);
        g_string_truncate(trace, 0);
        loop_clock_real();
        g_rand_free(rand);
}

static struct loop_timer self;

static void self_fn(void *arg)
{
        g_string_append(trace, "s");
        loop_timer_in(&self, 0);
}

static void test_timer_self(void)
{
        loop_timer_init(&self, self_fn, NULL);
        loop_timer_in(&self, 0);
        loop_once(true);
        expect("s"); /* once a turn, however often it sets itself to now */
        loop_timer_cancel(&self);
        loop_timer_cancel(&self);
}

static void test_timer_waits(void)
{
        struct loop_timer t;
        int64_t start = loop_mono_ms();
        loop_timer_init(&t, say, (void *)(uintptr_t) "t");
        loop_timer_in(&t, 30);
        while (trace->len == 0)
                loop_once(true);
        g_assert_cmpint(loop_mono_ms() - start, >=, 30);
        expect("t");
}

/* ---- descriptors ---- */

struct end {
        struct loop_fd watch;
        struct end *other; /* removed and "freed" by our callback */
        int fd;
};

static void drop_other(void *arg, uint32_t events)
{
        struct end *e = arg;
        g_string_append(trace, "d");
        loop_fd_remove(&e->other->watch);
        memset(&e->other->watch, 0xa5, sizeof(e->other->watch)); /* as freed memory would look */
}

static void test_fd_stale(void)
{
        int a[2], b[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, a), ==, 0);
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, b), ==, 0);
        struct end x = {.fd = a[0]}, y = {.fd = b[0]};
        x.other = &y;
        y.other = &x;
        g_assert_cmpint(loop_fd_add(&x.watch, a[0], EPOLLIN, drop_other, &x, NULL), ==, 0);
        g_assert_cmpint(loop_fd_add(&y.watch, b[0], EPOLLIN, drop_other, &y, NULL), ==, 0);
        g_assert_cmpint(write(a[1], "1", 1), ==, 1);
        g_assert_cmpint(write(b[1], "1", 1), ==, 1);
        loop_once(true);
        expect("d"); /* whichever came first took the other out, whose event was already collected */
        struct end *left = x.watch.fn == drop_other ? &x : &y;
        loop_fd_remove(&left->watch);
        loop_fd_remove(&left->watch);
        for (int i = 0; i < 2; i++) {
                close(a[i]);
                close(b[i]);
        }
}

static void note_events(void *arg, uint32_t events)
{
        g_string_append_printf(trace, "%s%s%s", events & EPOLLIN ? "i" : "", events & EPOLLOUT ? "o" : "",
                               events & EPOLLHUP ? "h" : "");
}

static void test_fd_silence(void)
{
        int a[2];
        struct loop_fd w = {0};
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, a), ==, 0);
        g_assert_cmpint(loop_fd_add(&w, a[0], EPOLLOUT, note_events, NULL, NULL), ==, 0);
        loop_once(true);
        expect("o");
        g_assert_cmpint(loop_fd_set(&w, 0, NULL), ==, 0);
        close(a[1]);
        g_assert_false(loop_once(false)); /* no interest: a hang-up does not spin the loop */
        expect("");
        g_assert_cmpint(loop_fd_set(&w, EPOLLIN, NULL), ==, 0);
        loop_once(true);
        expect("ih");
        loop_fd_remove(&w);
        close(a[0]);
}

static void test_fd_refused(void)
{
        struct loop_fd w = {0};
        struct err err = {0};
        int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* a plain file cannot be waited for */
        g_assert_cmpint(loop_fd_add(&w, fd, EPOLLIN, note_events, NULL, &err), ==, -EPERM);
        g_assert_cmpint(err.reason, ==, REASON_INTERNAL);
        loop_fd_remove(&w);
        close(fd);
}

static void test_fd_many(void)
{
        enum { N = 300 }; /* more than are collected at once */
        int a[N][2];
        struct loop_fd w[N];
        memset(w, 0, sizeof(w));
        for (int i = 0; i < N; i++) {
                g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, a[i]), ==, 0);
                g_assert_cmpint(loop_fd_add(&w[i], a[i][0], EPOLLOUT | EPOLLET, note_events, NULL, NULL), ==,
                                0);
        }
        while (loop_once(false))
                ;
        g_assert_cmpuint(trace->len, ==, N); /* each edge exactly once */
        g_string_truncate(trace, 0);
        for (int i = 0; i < N; i++) {
                loop_fd_remove(&w[i]);
                close(a[i][0]);
                close(a[i][1]);
        }
}

/* ---- the run ---- */

static void quit_fn(void *arg)
{
        loop_turn_request(&send_it);
        loop_quit();
}

static void test_run(void)
{
        struct loop_timer t;
        loop_turn_init(&send_it, LOOP_SEND, say, (void *)(uintptr_t) "S");
        loop_timer_init(&t, quit_fn, NULL);
        loop_timer_in(&t, 1);
        loop_run();
        expect("S"); /* the last turn's answers still left */
        loop_quit();
        loop_run();
        loop_done();
        loop_timer_in(&t, 1); /* and it can be used again */
        loop_run();
        expect("S");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        trace = g_string_new(NULL);
        g_test_add_func("/loop/turn/order", test_turn_order);
        g_test_add_func("/loop/turn/again", test_turn_again);
        g_test_add_func("/loop/turn/cancel", test_turn_cancel);
        g_test_add_func("/loop/timer/order", test_timer_order);
        g_test_add_func("/loop/timer/self", test_timer_self);
        g_test_add_func("/loop/timer/waits", test_timer_waits);
        g_test_add_func("/loop/fd/stale", test_fd_stale);
        g_test_add_func("/loop/fd/silence", test_fd_silence);
        g_test_add_func("/loop/fd/refused", test_fd_refused);
        g_test_add_func("/loop/fd/many", test_fd_many);
        g_test_add_func("/loop/run", test_run);
        int r = g_test_run();
        loop_done();
        g_string_free(trace, TRUE);
        return r;
}

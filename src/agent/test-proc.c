/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "agent/proc.h"

static void test_self(void)
{
        struct proc p, q;
        struct err err = {0};

        g_assert_cmpint(prctl(PR_SET_NAME, "a) (b /\n"), ==, 0); /* hostile, and it moves no field */
        g_assert_cmpint(proc_get(getpid(), &p, &err), ==, 0);
        g_assert_cmpint(p.pid, ==, getpid());
        g_assert_cmpuint(p.start_ticks, >, 0);
        g_assert_cmpstr(p.name, ==, "a)_(b___");
        g_assert_cmpint(prctl(PR_SET_NAME, "plain"), ==, 0);
        g_assert_cmpint(proc_get(getpid(), &q, &err), ==, 0);
        g_assert_cmpuint(q.start_ticks, ==, p.start_ticks);
}

static void test_watch(void)
{
        struct proc p;
        struct err err = {0};
        int pipe_fd[2];

        g_assert_cmpint(pipe(pipe_fd), ==, 0);
        pid_t child = fork();
        if (child == 0) {
                char c;
                (void)close(pipe_fd[1]);
                _exit((int)read(pipe_fd[0], &c, 1));
        }
        g_assert_cmpint(proc_get(child, &p, &err), ==, 0);
        int fd = proc_watch(child, p.start_ticks, &err);
        g_assert_cmpint(fd, >=, 0);
        struct pollfd w = {.fd = fd, .events = POLLIN};
        g_assert_cmpint(poll(&w, 1, 0), ==, 0);
        /* the same pid, but another process */
        g_assert_cmpint(proc_watch(child, p.start_ticks + 1, &err), ==, -ESRCH);
        (void)close(pipe_fd[0]);
        (void)close(pipe_fd[1]);
        g_assert_cmpint(poll(&w, 1, 5000), ==, 1);
        (void)close(fd);
        g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
        g_assert_cmpint(proc_watch(child, p.start_ticks, &err), ==, -ESRCH);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpint(proc_get(child, &p, &err), ==, -ESRCH);
}

/* A child that connected, and has ended since; *ret_fd is our end. */
static pid_t make_ended_peer(int *ret_fd)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        socklen_t n = sizeof(sa_family_t);
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        siginfo_t info;

        g_assert_cmpint(bind(listener, (struct sockaddr *)&address, n), ==, 0); /* the kernel names it */
        n = sizeof(address);
        g_assert_cmpint(getsockname(listener, (struct sockaddr *)&address, &n), ==, 0);
        g_assert_cmpint(listen(listener, 1), ==, 0);
        pid_t child = fork();
        if (child == 0) {
                int fd = socket(AF_UNIX, SOCK_STREAM, 0);
                _exit(connect(fd, (struct sockaddr *)&address, n) == 0 ? 0 : 1);
        }
        g_assert_cmpint(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), ==, 0);
        g_assert_cmpint(info.si_status, ==, 0);
        *ret_fd = accept(listener, NULL, NULL);
        g_assert_cmpint(*ret_fd, >=, 0);
        (void)close(listener);
        return child;
}

static void test_peer(void)
{
        struct proc p = {0};
        struct err err = {0};
        int pair[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
        int pidfd = proc_peer_pidfd(pair[0], &err);
        g_assert_cmpint(pidfd, >=, -1);
        g_assert_cmpint(proc_of_peer(getpid(), getuid(), pidfd, &p, &err), ==, 0);
        g_assert_cmpint(p.pid, ==, getpid());
        if (pidfd >= 0)
                (void)close(pidfd);
        (void)close(pair[0]);
        (void)close(pair[1]);
        /* As on a kernel that has no such descriptor: the pid is another user's by now. */
        g_assert_cmpint(proc_of_peer(getpid(), getuid(), -1, &p, &err), ==, 0);
        g_assert_cmpint(proc_of_peer(getpid(), getuid() + 1, -1, &p, &err), ==, -ESRCH);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
}

/* Its pid is still there, as a zombie's, and then anybody's. */
static void test_peer_that_has_ended(void)
{
        struct proc p;
        struct err err = {0};
        int fd;
        pid_t child = make_ended_peer(&fd);

        g_assert_cmpint(proc_get(child, &p, &err), ==, 0); /* so that alone does not tell */
        int pidfd = proc_peer_pidfd(fd, &err);
        if (pidfd >= -1)
                g_assert_cmpint(proc_of_peer(child, getuid(), pidfd, &p, &err), ==, -ESRCH);
        if (pidfd >= 0) {
                /* The pid came to another process; we are one that lives. */
                g_assert_cmpint(proc_of_peer(getpid(), getuid(), pidfd, &p, &err), ==, -ESRCH);
                (void)close(pidfd);
        }
        g_assert_cmpint(proc_of_peer(child, getuid(), -1, &p, &err), ==, -ESRCH);
        g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
        g_assert_cmpint(proc_of_peer(child, getuid(), -1, &p, &err), ==, -ESRCH);
        (void)close(fd);
}

struct told {
        struct proc_hold hold;
        struct told *drops; /* another one */
        int n;
};

static void on_end(void *arg)
{
        struct told *t = arg;

        t->n++;
        if (t->drops != NULL)
                proc_hold_drop(&t->drops->hold);
        proc_hold_drop(&t->hold);
}

/* Each is told once, whoever came first has gone by then, and one that another dropped is not. */
static void test_hold(void)
{
        struct proc p;
        struct err err = {0};
        struct proc_hold keeper = {0};
        struct told a = {0}, b = {0}, c = {0}, late = {0};
        int pipe_fd[2];

        g_assert_cmpint(pipe(pipe_fd), ==, 0);
        pid_t child = fork();
        if (child == 0) {
                char ch;
                (void)close(pipe_fd[1]);
                _exit((int)read(pipe_fd[0], &ch, 1));
        }
        g_assert_cmpint(proc_get(child, &p, &err), ==, 0);
        g_assert_cmpint(proc_hold_new(&keeper, child, p.start_ticks + 1, NULL, NULL, &err), ==, -ESRCH);
        g_assert_null(keeper.life);
        g_assert_cmpint(proc_hold_new(&keeper, child, p.start_ticks, NULL, NULL, &err), ==, 0);
        g_assert_cmpint(proc_hold_share(&c.hold, &keeper, on_end, &c, &err), ==, 0);
        g_assert_cmpint(proc_hold_share(&b.hold, &keeper, on_end, &b, &err), ==, 0);
        g_assert_cmpint(proc_hold_share(&a.hold, &keeper, on_end, &a, &err), ==, 0);
        a.drops = &c;
        (void)close(pipe_fd[0]);
        (void)close(pipe_fd[1]);
        while (a.n == 0)
                (void)loop_once(true);
        g_assert_cmpint(a.n, ==, 1);
        g_assert_cmpint(b.n, ==, 1);
        g_assert_cmpint(c.n, ==, 0);
        g_assert_cmpint(proc_hold_share(&late.hold, &keeper, on_end, &late, &err), ==, -ESRCH);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        proc_hold_drop(&keeper);
        proc_hold_drop(&keeper); /* holds nothing any more */
        g_assert_cmpint(waitpid(child, NULL, 0), ==, child);

        /* the last one goes while it is told */
        child = fork();
        if (child == 0)
                for (;;)
                        (void)pause();
        g_assert_cmpint(proc_get(child, &p, &err), ==, 0);
        struct told only = {0};
        g_assert_cmpint(proc_hold_new(&only.hold, child, p.start_ticks, on_end, &only, &err), ==, 0);
        g_assert_cmpint(kill(child, SIGKILL), ==, 0);
        while (only.n == 0)
                (void)loop_once(true);
        g_assert_null(only.hold.life);
        g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
        loop_done();
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/proc/self", test_self);
        g_test_add_func("/agent/proc/watch", test_watch);
        g_test_add_func("/agent/proc/peer", test_peer);
        g_test_add_func("/agent/proc/peer-that-has-ended", test_peer_that_has_ended);
        g_test_add_func("/agent/proc/hold", test_hold);
        return g_test_run();
}

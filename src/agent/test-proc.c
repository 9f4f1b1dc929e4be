/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
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

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/proc/self", test_self);
        g_test_add_func("/agent/proc/watch", test_watch);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A thread may end, and its number be used again, between the look and the move: the provider here makes that
 * happen at the worst moment. */
#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "keeper/vmm.h"

static pid_t child, given_back;
static int answer; /* of the provider */
static bool is_ending;

static int act(struct err *err)
{
        if (is_ending) {
                g_assert_cmpint(kill(child, SIGKILL), ==, 0);
                g_assert_cmpint(waitpid(child, NULL, 0), ==, child);
        }
        return answer < 0 ? err_set(err, REASON_INTERNAL, -answer, "as the test wants it") : 0;
}

static int place(const struct cpu_host *h, const char *vm, pid_t tid, const struct cpulist *cpus,
                 int share_milli, struct err *err)
{
        return act(err);
}

static int park(const struct cpu_host *h, const char *vm, pid_t tid, struct err *err)
{
        return act(err);
}

static void give_back(const struct cpu_host *h, const char *vm, pid_t tid)
{
        g_assert_cmpstr(vm, ==, "v");
        given_back = tid;
}

static const struct cpu_provider provider = {.place = place, .park = park, .give_back = give_back};

static int move(struct vmms *v, bool is_parking, struct err *err)
{
        struct api_keeper_cpu_place p = {
                .vm = "v", .tid = child, .cpus = {0}, .n_cpus = 1, .share_milli = 500};
        struct api_keeper_thread t = {.vm = "v", .tid = child};
        return is_parking ? vmms_park(v, &t, err) : vmms_place(v, &p, err);
}

static void test_thread_ends_meanwhile(void)
{
        struct cpu_host cpu = {.provider = &provider};
        struct vmm m = {.record.vm = "v"};
        struct vmms v = {.cpu = &cpu, .by_name = g_hash_table_new(g_str_hash, g_str_equal)};
        g_assert_true(g_hash_table_insert(v.by_name, m.record.vm, &m));
        for (int i = 0; i < 8; i++) {
                struct err err = {0};
                bool is_parking = i & 1;
                answer = i & 2 ? -EIO : 0;
                is_ending = i & 4;
                given_back = 0;
                child = fork();
                if (child == 0)
                        for (;;)
                                pause();
                g_assert_cmpint(child, >, 0);
                m.record.pid = child;
                m.pid_fd = pidfd_open(child, 0);
                g_assert_cmpint(m.pid_fd, >=, 0);
                int r = move(&v, is_parking, &err);
                g_assert_cmpint(r, ==, is_ending ? -ESRCH : answer);
                g_assert_cmpint(given_back, ==, is_ending ? child : 0);
                g_assert_cmpint(err.reason, ==,
                                is_ending    ? REASON_NOT_FOUND
                                : answer < 0 ? REASON_INTERNAL
                                             : 0);
                if (!is_ending) {
                        (void)kill(child, SIGKILL);
                        (void)waitpid(child, NULL, 0);
                }
                (void)close(m.pid_fd);
        }
        g_hash_table_unref(v.by_name);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/vmm/thread-ends-meanwhile", test_thread_ends_meanwhile);
        return g_test_run();
}

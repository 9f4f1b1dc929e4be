/* SPDX-License-Identifier: Apache-2.0 */
/* A thread may end, and its number be used again, between the look and the move: the provider here makes that
 * happen at the worst moment. */
#include <errno.h>
#include <glib.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "keeper/hold.h"

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

static int bind_thread(const struct cpu_host *h, const char *vm, const char *item, pid_t tid, struct err *err)
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

static const struct cpu_provider provider = {.bind = bind_thread, .park = park, .give_back = give_back};

static void test_thread_ends_meanwhile(void)
{
        static struct classes classes;
        struct keeper_config config = {0};
        struct cpu_host cpu = {.provider = &provider};
        g_assert_cmpint(classes_init(&classes, &config, NULL), ==, 0);
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
                struct hold hold = {
                        .cpu = &cpu,
                        .classes = &classes,
                        .vmm = {.vm = "v", .pid = child, .pid_fd = pidfd_open(child, 0)},
                        .item = "vcpu0",
                        .tid = child
                };
                g_assert_cmpint(hold.vmm.pid_fd, >=, 0);
                const struct hold_kind *kind = &hold_kinds[API_HOST_KIND_CPU];
                int r = is_parking ? kind->prepare(&hold, &err) : kind->bind(&hold, &err);
                /* Whose thread is gone has nothing left to put aside, but nothing to bind either. */
                g_assert_cmpint(r, ==, !is_ending ? answer : is_parking ? 0 : -ESRCH);
                g_assert_cmpint(given_back, ==, is_ending ? child : 0);
                if (r < 0)
                        g_assert_cmpint(err.reason, ==, is_ending ? REASON_NOT_FOUND : REASON_INTERNAL);
                if (!is_ending) {
                        (void)kill(child, SIGKILL);
                        (void)waitpid(child, NULL, 0);
                }
                (void)close(hold.vmm.pid_fd);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/vmm/thread-ends-meanwhile", test_thread_ends_meanwhile);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One test for each way to misuse mete.h. Each must be refused with the documented errno and a sentence, send
 * nothing, and leave the handle usable. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/str.h"
#include "lib/test-fake-agent.h"
#include "mete.h"

static const char *const cpu[] = {"cpu:1"};
static struct fake_agent agent;
static struct mete *m;

static void setup(const char *const *script)
{
        struct mete_error err;

        fake_agent_start(&agent, script);
        g_assert_cmpint(mete_open(agent.path, &m, &err), ==, 0);
}

/* After a misuse the handle still works, and the agent has seen nothing of it. */
static void still_works(size_t seen_before)
{
        struct mete_verdict *v = NULL;
        struct mete_error err;

        g_assert_cmpint(mete_request(m, cpu, 1, NULL, &v, &err), ==, METE_GRANTED);
        g_assert_cmpstr(v->request, ==, "r1");
        mete_verdict_free(v);
        mete_close(m);
        fake_agent_stop(&agent);
        g_assert_cmpuint(agent.n_seen, ==, seen_before + 1);
}

static const char *const granted[] = {FAKE_GRANTED, NULL};

static void refused(int r, const struct mete_error *err, int code, const char *part)
{
        g_assert_cmpint(r, ==, -code);
        g_assert_cmpint(err->code, ==, code);
        g_assert_cmpint(err->reason, !=, METE_REASON_NONE);
        if (strstr(err->sentence, part) == NULL)
                g_test_message("\"%s\" does not say \"%s\"", err->sentence, part);
        g_assert_nonnull(strstr(err->sentence, part));
}

static void test_null_handle(void)
{
        struct mete_error err;
        struct mete_event *event = (struct mete_event *)0x77;
        uint64_t ticket = 77;

        refused(mete_request(NULL, cpu, 1, NULL, NULL, &err), &err, EINVAL, "NULL");
        refused(mete_accept(NULL, "r1", NULL, &err), &err, EINVAL, "NULL");
        refused(mete_decline(NULL, "r1", &err), &err, EINVAL, "NULL");
        refused(mete_release(NULL, "r1", &err), &err, EINVAL, "NULL");
        refused(mete_list(NULL, NULL, &err), &err, EINVAL, "NULL");
        refused(mete_about(NULL, NULL, &err), &err, EINVAL, "NULL");
        refused(mete_reopen(NULL, &err), &err, EINVAL, "NULL");
        refused(mete_fd(NULL, &err), &err, EINVAL, "NULL");
        refused(mete_events(NULL, &err), &err, EINVAL, "NULL");
        refused(mete_process(NULL, &err), &err, EINVAL, "NULL");
        refused(mete_wait(NULL, 0, &err), &err, EINVAL, "NULL");
        refused(mete_next_event(NULL, &event, &err), &err, EINVAL, "NULL");
        refused(mete_request_start(NULL, cpu, 1, NULL, &ticket, &err), &err, EINVAL, "NULL");
        refused(mete_accept_start(NULL, "r1", &ticket, &err), &err, EINVAL, "NULL");
        refused(mete_decline_start(NULL, "r1", &ticket, &err), &err, EINVAL, "NULL");
        refused(mete_release_start(NULL, "r1", &ticket, &err), &err, EINVAL, "NULL");
        g_assert_cmpuint(ticket, ==, 77);
        g_assert_true(event == (struct mete_event *)0x77);
        mete_close(NULL);
        mete_verdict_free(NULL);
        mete_event_free(NULL);
        mete_list_free(NULL);
        mete_about_free(NULL);
        /* and an error is nobody's duty to take */
        g_assert_cmpint(mete_request(NULL, cpu, 1, NULL, NULL, NULL), ==, -EINVAL);
}

static void test_open(void)
{
        struct mete_error err;
        struct mete *got = (struct mete *)0x77;
        char path[200];

        memset(path, 'p', sizeof(path));
        path[sizeof(path) - 1] = '\0';
        refused(mete_open("/nonexistent/x", NULL, &err), &err, EINVAL, "ret is NULL");
        refused(mete_open(path, &got, &err), &err, EINVAL, "too long");
        refused(mete_open("/nonexistent/agent.sock", &got, &err), &err, ENOTCONN, "no agent");
        g_assert_cmpint(err.reason, ==, METE_REASON_PEER_LOST);
        g_assert_true(got == (struct mete *)0x77);
}

static void test_needs(void)
{
        static const struct {
                const char *needs[5];
                size_t n;
                const char *part;
        } rows[] = {
                {{NULL},                                        0, "1 to 4 needs"   },
                {{"cpu:1", "cpu:1", "cpu:1", "cpu:1", "cpu:1"}, 5, "1 to 4 needs"   },
                {{NULL},                                        1, "need 1: is NULL"},
                {{"cpu:1", NULL},                               2, "need 2: is NULL"},
                {{""},                                          1, "need 1"         },
                {{"cpu"},                                       1, "need 1"         },
                {{"cpu:0"},                                     1, "need 1"         },
                {{"cpu:1", "memory:-1G"},                       2, "need 2"         },
                {{"cpu:1\n"},                                   1, "need 1"         },
                {{"cpu:1,share>=1.5"},                          1, "need 1"         },
        };
        char long_need[200];
        const char *long_needs[] = {long_need};
        struct mete_error err;
        struct mete_verdict *v = (struct mete_verdict *)0x77;

        setup(granted);
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                int r = mete_request(m, rows[i].needs, rows[i].n, NULL, &v, &err);
                g_assert_cmpint(r, <, 0);
                g_assert_cmpint(err.reason, ==, METE_REASON_INVALID);
                refused(r, &err, -r, rows[i].part);
        }
        refused(mete_request(m, NULL, 1, NULL, &v, &err), &err, EINVAL, "1 to 4 needs");
        memset(long_need, '1', sizeof(long_need));
        memcpy(long_need, "cpu:", 4);
        long_need[sizeof(long_need) - 1] = '\0';
        refused(mete_request(m, long_needs, 1, NULL, &v, &err), &err, E2BIG, "need 1");
        g_assert_true(v == (struct mete_verdict *)0x77);
        still_works(0);
}

static void option_refused(struct mete_options o, const char *part)
{
        struct mete_error err;
        uint64_t ticket = 77;

        refused(mete_request_start(m, cpu, 1, &o, &ticket, &err), &err, EINVAL, part);
        refused(mete_request(m, cpu, 1, &o, NULL, &err), &err, EINVAL, part);
        g_assert_cmpuint(ticket, ==, 77);
}

static void test_options(void)
{
        static const struct mete_options good = METE_OPTIONS_INIT;
        char text[80];
        struct mete_options o;
        struct mete_error err;

        setup(granted);
        memset(text, 'x', sizeof(text));
        text[64] = '\0';
        o = good, o.size = 0, option_refused(o, "METE_OPTIONS_INIT");
        o = good, o.size = 4096, option_refused(o, "METE_OPTIONS_INIT");
        o = good, o.timeout_ms = -1, option_refused(o, "timeout_ms");
        o = good, o.timeout_ms = METE_TIMEOUT_MAX_MS + 1, option_refused(o, "timeout_ms");
        o = good, o.host_generation = UINT64_MAX, option_refused(o, "host_generation");
        o = good, o.id = "", option_refused(o, "an id");
        o = good, o.id = "a b", option_refused(o, "an id");
        o = good, o.id = "../x", option_refused(o, "an id");
        o = good, o.id = text, option_refused(o, "an id");
        o = good, o.name = "", option_refused(o, "a name");
        o = good, o.name = text, option_refused(o, "a name");
        o = good, o.name = "a\nb", option_refused(o, "control");
        /* built with a later header, and using what it added */
        struct {
                struct mete_options o;
                int64_t later;
        } more = {.o = good, .later = 1};
        more.o.size = sizeof(more);
        refused(mete_request(m, cpu, 1, &more.o, NULL, &err), &err, EOPNOTSUPP, "does not know");
        more.later = 0;
        struct mete_verdict *v = NULL;
        g_assert_cmpint(mete_request(m, cpu, 1, &more.o, &v, &err), ==, METE_GRANTED);
        mete_verdict_free(v);
        mete_close(m);
        fake_agent_stop(&agent);
}

static void test_ids(void)
{
        struct mete_error err;
        uint64_t ticket;

        setup(granted);
        refused(mete_release(m, NULL, &err), &err, EINVAL, "the id is NULL");
        refused(mete_release(m, "", &err), &err, EINVAL, "an id");
        refused(mete_accept(m, "a b", NULL, &err), &err, EINVAL, "an id");
        refused(mete_decline(m, "a/b", &err), &err, EINVAL, "an id");
        refused(mete_release_start(m, "\xc3\xbc", &ticket, &err), &err, EINVAL, "an id");
        still_works(0);
}

static void test_same_id_twice(void)
{
        static const char *const script[] = {"!silent", FAKE_GRANTED, NULL};
        struct mete_options o = METE_OPTIONS_INIT;
        struct mete_error err;
        uint64_t ticket;

        setup(script);
        o.id = "r1";
        g_assert_cmpint(mete_request_start(m, cpu, 1, &o, &ticket, &err), ==, 0);
        refused(mete_request_start(m, cpu, 1, &o, &ticket, &err), &err, EINVAL, "is outstanding");
        still_works(1);
}

static void test_too_many(void)
{
        static const char *script[METE_OPEN_MAX + 1];
        struct mete_error err;
        uint64_t ticket;

        for (size_t i = 0; i < METE_OPEN_MAX; i++)
                script[i] = "!silent";
        setup(script);
        for (int i = 0; i < METE_OPEN_MAX; i++)
                g_assert_cmpint(mete_request_start(m, cpu, 1, NULL, &ticket, &err), ==, 0);
        refused(mete_request_start(m, cpu, 1, NULL, &ticket, &err), &err, EBUSY, "outstanding");
        refused(mete_release(m, "r1", &err), &err, EBUSY, "outstanding");
        mete_close(m);
        fake_agent_stop(&agent);
}

static void test_after_fork(void)
{
        struct mete_error err;
        int status = 0;

        setup(granted);
        pid_t child = fork();
        if (child == 0) {
                int r = mete_request(m, cpu, 1, NULL, NULL, &err);
                _exit(r == -ECHILD && mete_process(m, NULL) == -ECHILD && strstr(err.sentence, "fork") ? 0
                                                                                                       : 1);
        }
        g_assert_cmpint(waitpid(child, &status, 0), ==, child);
        g_assert_cmpint(status, ==, 0);
        still_works(0);
}

static void *wait_long(void *arg)
{
        while (mete_wait(m, 2000, NULL) == -EBUSY) /* the other thread was first */
                g_usleep(100);
        return arg;
}

static void test_two_threads(void)
{
        static const char *const script[] = {FAKE_GRANTED, NULL};
        struct mete_error err;
        pthread_t thread;
        int r = 0;

        setup(script);
        g_assert_cmpint(pthread_create(&thread, NULL, wait_long, NULL), ==, 0);
        for (int i = 0; i < 1000 && r != -EBUSY; i++) {
                r = mete_process(m, &err);
                g_usleep(1000);
        }
        refused(r, &err, EBUSY, "thread");
        pthread_join(thread, NULL);
        still_works(0);
}

static void test_no_event(void)
{
        struct mete_error err;
        struct mete_event *event = (struct mete_event *)0x77;

        setup(granted);
        refused(mete_next_event(m, NULL, &err), &err, EINVAL, "ret is NULL");
        g_assert_cmpint(mete_next_event(m, &event, &err), ==, 0);
        g_assert_true(event == (struct mete_event *)0x77);
        g_assert_cmpint(mete_wait(m, 0, &err), ==, 0);
        g_assert_cmpint(mete_wait(m, 20, &err), ==, 0);
        g_assert_cmpint(mete_process(m, &err), ==, 0);
        still_works(0);
}

static void test_after_loss(void)
{
        static const char *const script[] = {"!down", NULL};
        struct mete_error err;
        uint64_t ticket;

        setup(script);
        g_assert_cmpint(mete_release_start(m, "r1", &ticket, &err), ==, 0);
        g_assert_cmpint(mete_wait(m, 2000, &err), ==, 1);
        refused(mete_process(m, &err), &err, ENOTCONN, "mete_reopen");
        refused(mete_fd(m, &err), &err, ENOTCONN, "mete_reopen");
        refused(mete_events(m, &err), &err, ENOTCONN, "mete_reopen");
        refused(mete_reopen(m, &err), &err, ENOTCONN, "no agent");
        mete_close(m);
        fake_agent_stop(&agent);
}

static void test_not_inherited(void)
{
        struct mete_error err;

        setup(granted);
        int fd = mete_fd(m, &err);
        g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, !=, 0);
        g_assert_cmpint(fcntl(fd, F_GETFL) & O_NONBLOCK, !=, 0);
        still_works(0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/lib/misuse/null-handle", test_null_handle);
        g_test_add_func("/lib/misuse/open", test_open);
        g_test_add_func("/lib/misuse/needs", test_needs);
        g_test_add_func("/lib/misuse/options", test_options);
        g_test_add_func("/lib/misuse/ids", test_ids);
        g_test_add_func("/lib/misuse/same-id-twice", test_same_id_twice);
        g_test_add_func("/lib/misuse/too-many", test_too_many);
        g_test_add_func("/lib/misuse/after-fork", test_after_fork);
        g_test_add_func("/lib/misuse/two-threads", test_two_threads);
        g_test_add_func("/lib/misuse/no-event", test_no_event);
        g_test_add_func("/lib/misuse/after-loss", test_after_loss);
        g_test_add_func("/lib/misuse/not-inherited", test_not_inherited);
        return g_test_run();
}

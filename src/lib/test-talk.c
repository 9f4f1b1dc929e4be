/* SPDX-License-Identifier: Apache-2.0 */
/* libmete against a scripted agent: both faces, a lost and found agent, and an agent that lies. */
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <string.h>
#include "base/str.h"
#include "lib/handle.h"
#include "lib/test-fake-agent.h"
#include "mete.h"

static const char *const needs[] = {"cpu:2,share>=0.9", "memory:1G"};
static struct fake_agent agent;
static struct mete *m;

static void setup(const char *const *script)
{
        struct mete_error err;

        fake_agent_start(&agent, script);
        g_assert_cmpint(mete_open(agent.path, &m, &err), ==, 0);
}

static void teardown(void)
{
        mete_close(m);
        fake_agent_stop(&agent);
}

static void test_blocking(void)
{
        static const char *const script[] = {FAKE_GRANTED, FAKE_EMPTY, FAKE_NOT_NOW, FAKE_DENIED,
                                             FAKE_GRANTED, FAKE_EMPTY, NULL};
        struct mete_options o = METE_OPTIONS_INIT;
        struct mete_verdict *v = NULL;
        struct mete_error err;

        setup(script);
        o.id = "r1";
        o.name = "redis";
        o.or_less = 1;
        o.timeout_ms = 5000;
        o.host_generation = 7;
        g_assert_cmpint(mete_request(m, needs, 2, &o, &v, &err), ==, METE_GRANTED);
        g_assert_cmpint(v->outcome, ==, METE_GRANTED);
        g_assert_cmpint(v->reason, ==, METE_REASON_NONE);
        g_assert_cmpstr(v->needs[0], ==, "cpu:2");
        g_assert_cmpuint(v->n_cpus, ==, 2);
        g_assert_cmpint(v->cpus[1], ==, 2);
        g_assert_cmpint(v->memory_bytes, ==, 128 << 20);
        g_assert_cmpstr(v->fallbacks[0], ==, "overcommitted");
        mete_verdict_free(v);
        g_assert_cmpint(mete_release(m, "r1", &err), ==, 0);
        g_assert_cmpint(mete_request(m, needs, 1, NULL, NULL, &err), ==, METE_NOT_NOW);
        g_assert_cmpint(mete_release(m, "r2", &err), <, 0);
        g_assert_cmpint(err.reason, ==, METE_REASON_DENIED);
        g_assert_cmpstr(err.sentence, ==, "not yours");
        g_assert_cmpint(mete_accept(m, "r1", NULL, &err), ==, METE_GRANTED);
        g_assert_cmpint(mete_decline(m, "r1", &err), ==, 0);
        teardown();
        g_assert_nonnull(strstr(agent.seen[0], "\"needs\":[\"cpu:2,share>=0.9\",\"memory:1G\"]"));
        g_assert_nonnull(strstr(agent.seen[0], "\"id\":\"r1\""));
        g_assert_nonnull(strstr(agent.seen[0], "\"counter\":\"less\""));
        g_assert_nonnull(strstr(agent.seen[0], "\"timeout_ms\":5000"));
        g_assert_nonnull(strstr(agent.seen[0], "\"name\":\"redis\""));
        g_assert_nonnull(strstr(agent.seen[0], "\"host_generation\":7"));
        g_assert_nonnull(strstr(agent.seen[2], "\"id\":\"")); /* made for us */
        g_assert_nonnull(strstr(agent.seen[5], "\"method\":\"decline\""));
}

static struct mete_event *next(void)
{
        struct mete_event *e = NULL;
        struct mete_error err;

        while (mete_next_event(m, &e, &err) == 0) {
                struct pollfd p = {.fd = mete_fd(m, NULL), .events = (short)mete_events(m, NULL)};
                g_assert_cmpint(poll(&p, 1, 5000), ==, 1);
                (void)mete_process(m, NULL);
        }
        return e;
}

static void test_events(void)
{
        static const char *const script[] = {"!silent", FAKE_EMPTY, "+" FAKE_ENDED, FAKE_DENIED, NULL};
        struct mete_error err;
        uint64_t first = 0, second = 0, third = 0;

        setup(script);
        g_assert_cmpint(mete_request_start(m, needs, 2, NULL, &first, &err), ==, 0);
        g_assert_cmpint(mete_release_start(m, "r1", &second, &err), ==, 0);
        g_assert_cmpuint(first, !=, second);
        struct mete_event *e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_DONE);
        g_assert_cmpuint(e->ticket, ==, second);
        g_assert_cmpstr(e->id, ==, "r1");
        mete_event_free(e);
        e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_ENDED);
        g_assert_cmpuint(e->ticket, ==, 0);
        g_assert_cmpstr(e->id, ==, "r1");
        g_assert_cmpint(e->error.reason, ==, METE_REASON_POLICY);
        mete_event_free(e);
        g_assert_cmpint(mete_accept_start(m, "r9", &third, &err), ==, 0);
        e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_FAILED);
        g_assert_cmpuint(e->ticket, ==, third);
        g_assert_cmpint(e->error.reason, ==, METE_REASON_DENIED);
        mete_event_free(e);
        teardown();
}

/* A blocking call keeps what is not its own. */
static void test_mixed(void)
{
        static const char *const script[] = {FAKE_GRANTED, FAKE_EMPTY, NULL};
        struct mete_error err;
        uint64_t ticket = 0;

        setup(script);
        g_assert_cmpint(mete_request_start(m, needs, 2, NULL, &ticket, &err), ==, 0);
        g_assert_cmpint(mete_release(m, "r0", &err), ==, 0);
        struct mete_event *e = next();
        g_assert_cmpuint(e->ticket, ==, ticket);
        g_assert_cmpint(e->kind, ==, METE_EVENT_VERDICT);
        g_assert_cmpint(e->verdict->outcome, ==, METE_GRANTED);
        mete_event_free(e);
        teardown();
}

/* The agent goes away while we wait: the same request, with the same id, is asked again. */
static void test_blocking_survives_a_restart(void)
{
        static const char *const script[] = {"!close", "!close", FAKE_GRANTED, NULL};
        struct mete_error err;
        struct mete_event *e = NULL;

        setup(script);
        g_assert_cmpint(mete_request(m, needs, 2, NULL, NULL, &err), ==, METE_GRANTED);
        g_assert_cmpint(mete_next_event(m, &e, &err), ==, 0); /* the loss was dealt with */
        teardown();
        g_assert_cmpuint(agent.n_seen, ==, 3);
        g_assert_cmpstr(agent.seen[0], ==, agent.seen[1]);
        g_assert_cmpstr(agent.seen[0], ==, agent.seen[2]);
}

#define HOST(method_or_id, name, n)                                                                          \
        "{\"jsonrpc\":\"2.0\"," method_or_id ",\"" name "\":{\"generation\":" n                              \
        ",\"xml\":\"/x\",\"json\":\"/j\"}}"
#define HOST_SAID(n)    HOST("\"id\":%d", "result", n)
#define HOST_CHANGED(n) HOST("\"method\":\"host-changed\"", "params", n)

/* A change that stands right behind the answer, the same again, one after a loss, with as many answers
 * outstanding as there may be: each is told once. */
static void test_host(void)
{
        static const char *script[2 * METE_OPEN_MAX + 5] = {HOST_SAID("4"), "+" HOST_CHANGED("5"),
                                                            "+" HOST_CHANGED("5")};
        struct mete_host host;
        struct mete_error err;
        uint64_t ticket;
        size_t n = 3;

        for (int i = 1; i < METE_OPEN_MAX; i++)
                script[n++] = "!silent";
        script[n++] = "!close";
        for (int i = 0; i < METE_OPEN_MAX; i++)
                script[n++] = "!silent";
        script[n++] = HOST_SAID("6");
        g_assert_cmpuint(n, ==, G_N_ELEMENTS(script) - 1);
        setup(script);
        g_assert_cmpint(mete_host(m, 1, &host, &err), ==, 0);
        g_assert_cmpuint(host.generation, ==, 4);
        g_assert_cmpstr(host.json, ==, "/j");
        struct mete_event *e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_HOST);
        g_assert_cmpuint(e->host->generation, ==, 5);
        g_assert_cmpstr(e->host->xml, ==, "/x");
        mete_event_free(e);
        g_assert_cmpint(mete_next_event(m, &e, &err), ==, 0);
        for (int i = 0; i < METE_OPEN_MAX; i++)
                g_assert_cmpint(mete_request_start(m, needs, 2, NULL, &ticket, &err), ==, 0);
        e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_LOST);
        mete_event_free(e);
        g_assert_cmpint(mete_reopen(m, &err), ==, 0);
        e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_HOST);
        g_assert_cmpuint(e->host->generation, ==, 6);
        mete_event_free(e);
        teardown();
}

static void test_reopen(void)
{
        static const char *const script[] = {"!silent", "!close", FAKE_GRANTED, FAKE_EMPTY, NULL};
        struct mete_error err;
        uint64_t first = 0, second = 0;

        setup(script);
        g_assert_cmpint(mete_request_start(m, needs, 2, NULL, &first, &err), ==, 0);
        g_assert_cmpint(mete_release_start(m, "r0", &second, &err), ==, 0);
        struct mete_event *e = next();
        g_assert_cmpint(e->kind, ==, METE_EVENT_LOST);
        g_assert_cmpint(e->error.reason, ==, METE_REASON_PEER_LOST);
        mete_event_free(e);
        g_assert_cmpint(mete_next_event(m, &e, &err), ==, 0); /* said once */
        g_assert_cmpint(mete_reopen(m, &err), ==, 0);
        g_assert_cmpint(mete_reopen(m, &err), ==, 0);
        e = next(); /* in the order in which they were begun */
        g_assert_cmpuint(e->ticket, ==, first);
        mete_event_free(e);
        e = next();
        g_assert_cmpuint(e->ticket, ==, second);
        g_assert_cmpint(e->kind, ==, METE_EVENT_DONE);
        mete_event_free(e);
        teardown();
}

/* An agent that breaks its contract is lost, or fails the one call; nothing worse. */
static void test_lies(void)
{
        static const struct {
                const char *say;
                enum mete_event_kind kind;
                const char *part;
        } rows[] = {
                {"garbage",                                                                             METE_EVENT_LOST,   "no message of ours"},
                {"{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{}}",                                       METE_EVENT_FAILED, "the agent's answer"},
                {"{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"request\":\"r1\",\"outcome\":\"maybe\","
                 "\"sentence\":\"\"}}",                                                METE_EVENT_FAILED, "outcome"           },
                {"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"what?\"}}",
                 METE_EVENT_LOST,                                                                                          "could not read"    },
                {"{\"jsonrpc\":\"2.0\",\"method\":\"ended\",\"params\":{\"id\":5}}",                    METE_EVENT_LOST,
                 "a notice"                                                                                                                    },
        };

        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                const char *const script[] = {rows[i].say, NULL};
                struct mete_error err;
                uint64_t ticket = 0;
                setup(script);
                g_assert_cmpint(mete_request_start(m, needs, 2, NULL, &ticket, &err), ==, 0);
                struct mete_event *e = next();
                if (strstr(e->error.sentence, rows[i].part) == NULL)
                        g_test_message("%s: %s", rows[i].say, e->error.sentence);
                g_assert_cmpint(e->kind, ==, rows[i].kind);
                g_assert_nonnull(strstr(e->error.sentence, rows[i].part));
                mete_event_free(e);
                teardown();
        }
}

/* Whoever takes connections and drops them is tried later and later, and not for ever. */
static void test_dropped_for_ever(void)
{
        const char *script[1001];
        struct mete_error err;

        for (size_t i = 0; i < 1000; i++)
                script[i] = "!close";
        script[1000] = NULL;
        setup(script);
        m->patience_ms = 700;
        g_assert_cmpint(mete_release(m, "r1", &err), ==, -ENOTCONN);
        g_assert_cmpint(err.reason, ==, METE_REASON_PEER_LOST);
        g_assert_nonnull(strstr(err.sentence, "gone"));
        teardown();
        g_assert_cmpuint(agent.n_seen, >=, 2);
        g_assert_cmpuint(agent.n_seen, <=, 7); /* at 0, 0, 50, 150, 350 ms */
}

/* The caller's deadline counts where the agent is lost, and where it says nothing. */
static void test_deadline(void)
{
        static const char *const script[] = {"!silent", "!silent", "!down", NULL};
        struct mete_options o = METE_OPTIONS_INIT;
        struct mete_error err;

        setup(script);
        m->patience_ms = 200;
        o.timeout_ms = 10;
        g_assert_cmpint(mete_request(m, needs, 1, &o, NULL, &err), ==, -ETIMEDOUT);
        g_assert_cmpint(err.reason, ==, METE_REASON_TIMEOUT);
        g_assert_nonnull(strstr(err.sentence, agent.path));
        g_assert_cmpint(mete_about(m, NULL, &err), ==, -ETIMEDOUT);
        g_assert_cmpint(mete_request(m, needs, 1, &o, NULL, &err), ==, -ENOTCONN);
        teardown();
}

/* One that turns us away, or is no agent at all, is not asked again. */
static void test_turned_away(void)
{
        static const struct {
                const char *say;
                int r;
                enum mete_reason reason;
                const char *part;
        } rows[] = {
                {"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"full\",\"data\":{"
                 "\"reason\":\"busy\"}}}", -EBUSY,  METE_REASON_BUSY,     "full"              },
                {"HTTP/1.1 400 Bad Request",                -EPROTO, METE_REASON_INTERNAL, "no message of ours"},
        };

        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                const char *const script[] = {rows[i].say, "!close", NULL};
                struct mete_error err;
                setup(script);
                g_assert_cmpint(mete_about(m, NULL, &err), ==, rows[i].r);
                g_assert_cmpint(err.reason, ==, rows[i].reason);
                g_assert_nonnull(strstr(err.sentence, rows[i].part));
                teardown();
                g_assert_cmpuint(agent.n_seen, ==, 1);
        }
}

/* Late and unknown messages, and those of a later version, do no harm. */
static void test_ignored(void)
{
        static const char *const script[] = {"{\"jsonrpc\":\"2.0\",\"id\":991,\"result\":{}}",
                                             "+",
                                             "+{\"jsonrpc\":\"2.0\",\"method\":\"new\"}",
                                             "+{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"ping\"}",
                                             FAKE_EMPTY,
                                             NULL};
        struct mete_error err;
        uint64_t ticket = 0;

        setup(script);
        g_assert_cmpint(mete_request_start(m, needs, 2, NULL, &ticket, &err), ==, 0);
        g_assert_cmpint(mete_release(m, "r1", &err), ==, 0);
        struct mete_event *e = NULL;
        g_assert_cmpint(mete_next_event(m, &e, &err), ==, 0);
        teardown();
}

/* A program that never takes its events keeps a bounded number of notices. */
static void test_notices_are_bounded(void)
{
        const char *script[3 + 600 + 1] = {FAKE_EMPTY};
        struct mete_error err;
        struct mete_event *e = NULL;
        int n = 0;

        for (size_t i = 1; i <= 600; i++)
                script[i] = "+" FAKE_ENDED;
        script[601] = FAKE_EMPTY;
        setup(script);
        g_assert_cmpint(mete_release(m, "r1", &err), ==, 0);
        g_assert_cmpint(mete_release(m, "r1", &err), ==, 0);
        while (mete_next_event(m, &e, &err) == 1) {
                mete_event_free(e);
                n++;
        }
        g_assert_cmpint(n, <=, 256);
        g_assert_cmpint(n, >=, 200);
        teardown();
}

static void test_list_and_about(void)
{
        static const char *const script[] = {
                "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"rows\":[{\"id\":\"r1\",\"application\":\"a/1/"
                "2\",\"uid\":1000,"
                "\"pid\":1,\"state\":\"refused\",\"needs\":[\"cpu:1\"],\"since_ms\":5,\"verdict\":{"
                "\"request\":\"r1\","
                "\"outcome\":\"never\",\"reason\":\"unsupported\",\"sentence\":\"no\"},\"problem\":\"p\","
                "\"why\":\"w\"}]}}",
                "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"version\":1,\"agent\":\"0.1\",\"connected\":"
                "true,\"vm\":\"v\"}}",
                "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"rows\":[{}]}}", NULL};
        struct mete_error err;
        struct mete_list *list = NULL;
        struct mete_about *about = NULL;

        setup(script);
        g_assert_cmpint(mete_list(m, &list, &err), ==, 0);
        g_assert_cmpuint(list->n, ==, 1);
        g_assert_cmpstr(list->rows[0]->id, ==, "r1");
        g_assert_cmpstr(list->rows[0]->state, ==, "refused");
        g_assert_cmpstr(list->rows[0]->needs[0], ==, "cpu:1");
        g_assert_cmpint(list->rows[0]->verdict->outcome, ==, METE_NEVER);
        g_assert_cmpstr(list->rows[0]->problem, ==, "p");
        g_assert_cmpstr(list->rows[0]->why, ==, "w");
        mete_list_free(list);
        g_assert_cmpint(mete_about(m, &about, &err), ==, 0);
        g_assert_cmpstr(about->vm, ==, "v");
        g_assert_cmpint(about->connected, ==, 1);
        mete_about_free(about);
        list = NULL;
        g_assert_cmpint(mete_list(m, &list, &err), ==, -EINVAL);
        g_assert_null(list);
        teardown();
}

static void test_words(void)
{
        g_assert_cmpstr(mete_reason_name(METE_REASON_NO_CAPACITY), ==, "no-capacity");
        g_assert_cmpstr(mete_reason_name(METE_REASON_INTERNAL), ==, "internal");
        g_assert_cmpstr(mete_reason_name((enum mete_reason)99), ==, "none");
        g_assert_cmpstr(mete_outcome_name(METE_COUNTER_OFFERED), ==, "counter-offered");
        g_assert_cmpstr(mete_version(), ==, METE_VERSION);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/lib/talk/blocking", test_blocking);
        g_test_add_func("/lib/talk/events", test_events);
        g_test_add_func("/lib/talk/mixed", test_mixed);
        g_test_add_func("/lib/talk/blocking-survives-a-restart", test_blocking_survives_a_restart);
        g_test_add_func("/lib/talk/host", test_host);
        g_test_add_func("/lib/talk/reopen", test_reopen);
        g_test_add_func("/lib/talk/lies", test_lies);
        g_test_add_func("/lib/talk/dropped-for-ever", test_dropped_for_ever);
        g_test_add_func("/lib/talk/deadline", test_deadline);
        g_test_add_func("/lib/talk/turned-away", test_turned_away);
        g_test_add_func("/lib/talk/ignored", test_ignored);
        g_test_add_func("/lib/talk/notices-are-bounded", test_notices_are_bounded);
        g_test_add_func("/lib/talk/list-and-about", test_list_and_about);
        g_test_add_func("/lib/talk/words", test_words);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A QMP client against a scripted VMM that lies, stutters, floods and dies. */
#include "vm/qmp.h"

#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING                                                                                             \
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": "      \
        "\"Debian\"}, "                                                                                      \
        "\"capabilities\": [\"oob\"]}}\r\n"

struct fixture {
        int server; /* our end, as the VMM */
        struct qmp *q;
        int ready, lost, events, answers;
        struct qmp_version version;
        struct err lost_err, answer_err;
        json_t *answer;
        char event[64];
        int64_t event_us;
        bool free_on_answer, free_on_event, free_on_lost, call_on_lost;
};

static void on_ready(void *arg, const struct qmp_version *version)
{
        struct fixture *f = arg;
        f->ready++;
        f->version = *version;
}

static void drop(struct fixture *f)
{
        struct qmp *q = f->q;
        f->q = NULL;
        qmp_free(q);
}

static void on_event(void *arg, const char *name, const json_t *data)
{
        struct fixture *f = arg;
        f->events++;
        snprintf(f->event, sizeof(f->event), "%s", name);
        f->event_us = qmp_event_us(f->q);
        if (f->free_on_event)
                drop(f);
}

static void on_answer(void *arg, const json_t *ret, const struct err *err)
{
        struct fixture *f = arg;
        g_assert_true((ret == NULL) == (err != NULL));
        f->answers++;
        json_decref(f->answer);
        f->answer = json_deep_copy(ret);
        f->answer_err = err != NULL ? *err : (struct err){0};
        if (f->free_on_answer && f->q != NULL)
                drop(f);
}

static void on_lost(void *arg, const struct err *why)
{
        struct fixture *f = arg;
        f->lost++;
        f->lost_err = *why;
        if (f->call_on_lost)
                qmp_execute(f->q, "query-status", NULL, 1000, on_answer, f);
        if (f->free_on_lost)
                drop(f);
}

static void say(struct fixture *f, const char *text)
{
        g_assert_cmpint(send(f->server, text, strlen(text), MSG_NOSIGNAL), ==, strlen(text));
}

/* Dispatches what is ready, and waits up to ms for the condition. */
static void run_until(const int *counter, int value, int ms)
{
        gint64 end = g_get_monotonic_time() + ms * 1000;
        while (*counter < value && g_get_monotonic_time() < end) {
                if (!g_main_context_iteration(NULL, FALSE))
                        g_usleep(200);
        }
}

static void settle(void)
{
        for (int i = 0; i < 50; i++)
                if (!g_main_context_iteration(NULL, FALSE))
                        g_usleep(100);
}

/* What the client wrote; its newline is cut. */
static const char *heard(struct fixture *f)
{
        static char buf[4096];
        ssize_t n = recv(f->server, buf, sizeof(buf) - 1, MSG_DONTWAIT);
        buf[n > 0 ? n : 0] = '\0';
        g_strchomp(buf);
        return buf;
}

static void open_options(struct fixture *f, bool oob, int greeting_ms)
{
        int fds[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
        *f = (struct fixture){.server = fds[0]};
        f->q = qmp_new(fds[1],
                       &(struct qmp_options){.oob = oob,
                                             .greeting_ms = greeting_ms,
                                             .on_ready = on_ready,
                                             .on_event = on_event,
                                             .on_lost = on_lost},
                       f);
        g_assert_nonnull(f->q);
}

static void open_ready(struct fixture *f, bool oob)
{
        open_options(f, oob, 0);
        say(f, GREETING);
        settle();
        g_assert_cmpstr(
                heard(f), ==,
                oob ? "{\"execute\":\"qmp_capabilities\",\"id\":1,\"arguments\":{\"enable\":[\"oob\"]}}"
                    : "{\"execute\":\"qmp_capabilities\",\"id\":1}");
        say(f, "{\"return\": {}, \"id\": 1}\n");
        run_until(&f->ready, 1, 1000);
        g_assert_cmpint(f->ready, ==, 1);
        g_assert_true(qmp_is_ready(f->q));
}

static void closed(struct fixture *f)
{
        if (f->q != NULL)
                drop(f);
        settle();
        json_decref(f->answer);
        close(f->server);
}

static void test_greeting(void)
{
        struct fixture f;
        open_ready(&f, true);
        g_assert_cmpint(f.version.major, ==, 7);
        g_assert_cmpint(f.version.minor, ==, 2);
        g_assert_cmpint(f.version.micro, ==, 22);
        g_assert_cmpstr(f.version.package, ==, "Debian");
        closed(&f);
}

/* What the client before us did not read comes first: the end of a line, replies, events. */
static void test_stale_output(void)
{
        struct fixture f;
        open_options(&f, false, 0);
        say(&f, "odel\": 1}]}\r\n{\"return\": {}, \"id\": 1}\r\n{\"event\": \"STOP\"}\r\n" GREETING);
        settle();
        g_assert_cmpstr(heard(&f), ==, "{\"execute\":\"qmp_capabilities\",\"id\":1}");
        say(&f, "{\"return\": {}, \"id\": 1}\n");
        run_until(&f.ready, 1, 1000);
        g_assert_cmpint(f.ready, ==, 1);
        g_assert_cmpint(f.events, ==, 0);
        closed(&f);
}

static void test_no_greeting(void)
{
        struct fixture f;
        open_options(&f, false, 30);
        run_until(&f.lost, 1, 1000);
        g_assert_cmpint(f.lost, ==, 1);
        g_assert_cmpint(f.lost_err.reason, ==, REASON_TIMEOUT);
        closed(&f);

        open_options(&f, false, 0);
        for (int i = 0; i <= QMP_STALE_MAX; i++)
                say(&f, "{\"hello\": 1}\n");
        run_until(&f.lost, 1, 1000);
        g_assert_cmpint(f.lost_err.reason, ==, REASON_INCOMPATIBLE);
        closed(&f);

        open_options(&f, true, 0);
        say(&f,
            "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":0,\"minor\":1,\"major\":2}},\"capabilities\":[]}}\n");
        run_until(&f.lost, 1, 1000);
        g_assert_cmpint(f.lost_err.reason, ==, REASON_INCOMPATIBLE);
        closed(&f);

        open_options(&f, false, 0);
        say(&f, GREETING);
        say(&f, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}\n");
        run_until(&f.lost, 1, 1000);
        g_assert_cmpint(f.ready, ==, 0);
        g_assert_nonnull(strstr(f.lost_err.sentence, "no"));
        closed(&f);
}

static void test_replies(void)
{
        struct fixture f;
        open_ready(&f, true);
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        g_assert_cmpstr(heard(&f), ==, "{\"execute\":\"query-status\",\"id\":2}");
        say(&f, "{\"return\": {\"running\": tr");
        settle();
        g_assert_cmpint(f.answers, ==, 0);
        say(&f, "ue}, \"id\": 2}\r\n");
        run_until(&f.answers, 1, 1000);
        g_assert_true(json_is_true(json_object_get(f.answer, "running")));

        qmp_execute(f.q, "device_del", json_pack("{s:s}", "id", "dimm0"), 5000, on_answer, &f);
        g_assert_cmpstr(heard(&f), ==,
                        "{\"execute\":\"device_del\",\"id\":3,\"arguments\":{\"id\":\"dimm0\"}}");
        say(&f,
            "{\"id\": 3, \"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device\\u001b[1m gone\"}}\n");
        run_until(&f.answers, 2, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_NOT_FOUND);
        g_assert_nonnull(strstr(f.answer_err.sentence, "device_del: Device?[1m gone"));

        /* Out of order, as out-of-band replies are. */
        qmp_execute(f.q, "query-status", NULL, 5000, NULL, NULL);
        qmp_execute_oob(f.q, "query-yank", NULL, 5000, on_answer, &f);
        g_assert_cmpstr(heard(&f), ==,
                        "{\"execute\":\"query-status\",\"id\":4}\n{\"exec-oob\":\"query-yank\",\"id\":5}");
        say(&f, "{\"id\": 5, \"return\": []}\n{\"id\": 4, \"return\": {}}\n");
        run_until(&f.answers, 3, 1000);
        g_assert_true(json_is_array(f.answer));
        g_assert_cmpint(qmp_counters(f.q)->unexpected, ==, 0);
        closed(&f);
}

static void test_lies(void)
{
        struct fixture f;
        open_ready(&f, false);
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        say(&f, "{\"return\": {}, \"id\": 77}\n"    /* never asked */
                "{\"return\": {}, \"id\": 1}\n"     /* answered before */
                "{\"return\": {}, \"id\": \"2\"}\n" /* another type */
                "{\"return\": {}, \"id\": -2}\n"
                "{\"return\": {}}\n"
                "{\"error\": {\"desc\": \"JSON parse error\"}}\n"
                "{\"return\": {}, \"error\": {}, \"id\": 2}\n"
                "{\"id\": 2}\n");
        say(&f, "nonsense\n[1,2]\n17\n\"x\"\n{\"a\":1,\"a\":2}\n\n \r\n{\"event\": 5}\n{\"event\": "
                "\"a\\u0007b\"}\n\xff\xfe\n");
        say(&f, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n");
        settle();
        g_assert_cmpint(f.answers, ==, 0);
        g_assert_cmpint(f.events, ==, 0);
        g_assert_cmpint(qmp_counters(f.q)->unexpected, ==, 7);
        g_assert_cmpint(qmp_counters(f.q)->late, ==, 1);
        g_assert_cmpint(qmp_counters(f.q)->unreadable, ==, 9);
        say(&f, "{\"return\": {}, \"id\": 2}\n");
        run_until(&f.answers, 1, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, 0);
        g_assert_cmpint(f.lost, ==, 0);
        closed(&f);
}

static void test_huge_line(void)
{
        struct fixture f;
        /* At the limit it is read, above it the connection is lost. */
        for (int over = 0; over <= 1; over++) {
                open_ready(&f, false);
                qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
                size_t n = QMP_LINE_MAX + 1 + (size_t)over * 70000;
                char *line = g_malloc(n + 1);
                memset(line, ' ', n);
                line[n] = '\0';
                memcpy(line, "{\"return\":{},\"id\":2}", 20);
                line[n - 1] = '\n';
                for (size_t at = 0; at < n && f.lost == 0;) {
                        ssize_t sent = send(f.server, line + at, n - at, MSG_DONTWAIT | MSG_NOSIGNAL);
                        at += sent > 0 ? sent : 0;
                        g_main_context_iteration(NULL, FALSE);
                }
                g_free(line);
                run_until(&f.answers, 1, 1000);
                g_assert_cmpint(f.answers, ==, 1);
                g_assert_cmpint(f.lost, ==, over);
                g_assert_cmpint(f.answer_err.reason, ==, over ? REASON_INCOMPATIBLE : 0);
                closed(&f);
        }
}

static void test_eof(void)
{
        struct fixture f;
        open_ready(&f, false);
        f.call_on_lost = true;
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        qmp_execute(f.q, "query-name", NULL, 5000, on_answer, &f);
        heard(&f);
        say(&f, "{\"return\": {\"run");
        shutdown(f.server, SHUT_RDWR);
        run_until(&f.lost, 1, 1000);
        g_assert_cmpint(f.lost, ==, 1);
        g_assert_cmpint(f.lost_err.reason, ==, REASON_PEER_LOST);
        g_assert_cmpint(f.answers, ==, 2); /* before on_lost */
        /* The call made when all was lost is answered too, from the loop. */
        run_until(&f.answers, 3, 1000);
        g_assert_cmpint(f.answers, ==, 3);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_PEER_LOST);
        settle();
        g_assert_cmpint(f.lost, ==, 1);
        closed(&f);
}

static void test_timeout(void)
{
        struct fixture f;
        open_ready(&f, false);
        qmp_execute(f.q, "query-status", NULL, 20, on_answer, &f);
        run_until(&f.answers, 1, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_TIMEOUT);
        say(&f, "{\"return\": {}, \"id\": 2}\n");
        settle();
        g_assert_cmpint(f.answers, ==, 1);
        g_assert_cmpint(qmp_counters(f.q)->late, ==, 1);
        closed(&f);
}

static void test_early_and_oob(void)
{
        struct fixture f;
        open_options(&f, false, 0);
        qmp_execute(f.q, "query-status", NULL, 1000, on_answer, &f);
        g_assert_cmpint(f.answers, ==, 0); /* never from within */
        run_until(&f.answers, 1, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_STALE);
        closed(&f);
        open_ready(&f, false);
        qmp_execute_oob(f.q, "query-yank", NULL, 1000, on_answer, &f);
        run_until(&f.answers, 1, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_UNSUPPORTED);
        closed(&f);
}

static void test_limits(void)
{
        struct fixture f;
        open_ready(&f, false);
        for (int i = 0; i < QMP_CALLS_MAX; i++)
                qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        settle();
        g_assert_cmpint(f.answers, ==, 0);
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        run_until(&f.answers, 1, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_BUSY);
        closed(&f);
        g_assert_cmpint(f.answers, ==, 1 + QMP_CALLS_MAX); /* all cancelled, each once */
        g_assert_cmpint(f.answer_err.reason, ==, REASON_CANCELLED);

        /* A VMM that does not read. */
        open_ready(&f, false);
        char *text = g_strnfill(50000, 'x');
        int sent = 0;
        while (f.answers == 0 && sent < 200) {
                qmp_execute(f.q, "object-add", json_pack("{s:s}", "id", text), 5000, on_answer, &f);
                sent++;
                settle();
        }
        g_free(text);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_BUSY);
        g_assert_cmpint(sent, <, 20);
        closed(&f);
        g_assert_cmpint(f.answers, ==, sent);
}

static void test_event_flood(void)
{
        struct fixture f;
        open_ready(&f, false);
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        GString *s = g_string_new(NULL);
        for (int i = 0; i < 2000; i++)
                g_string_append(
                        s,
                        "{\"event\": \"STOP\", \"data\": {\"x\": 1}, \"timestamp\": {\"seconds\": 1}}\r\n");
        g_string_append(s, "{\"return\": {}, \"id\": 2}\n");
        for (size_t at = 0; at < s->len;) {
                ssize_t n = send(f.server, s->str + at, s->len - at, MSG_DONTWAIT | MSG_NOSIGNAL);
                at += n > 0 ? n : 0;
                g_main_context_iteration(NULL, FALSE);
        }
        g_string_free(s, TRUE);
        run_until(&f.answers, 1, 2000);
        g_assert_cmpint(f.events, ==, 2000);
        g_assert_cmpint(f.answers, ==, 1);
        closed(&f);
}

/* The VMM's stamp counts, as far as it can be. */
static void test_event_stamp(void)
{
        static const char *const nonsense[] = {
                "\"seconds\": 99999999999, \"microseconds\": 0",
                "\"seconds\": -1, \"microseconds\": -1",
                "\"seconds\": \"x\"",
        };
        enum { LATE_US = 700000 };
        struct fixture f;
        open_ready(&f, false);
        int64_t real_us = g_get_real_time() - LATE_US, before = g_get_monotonic_time();
        g_autofree char *line =
                g_strdup_printf("{\"event\": \"STOP\", \"timestamp\": {\"seconds\": %" G_GINT64_FORMAT
                                ", \"microseconds\": %" G_GINT64_FORMAT "}}\n",
                                real_us / G_USEC_PER_SEC, real_us % G_USEC_PER_SEC);
        say(&f, line);
        run_until(&f.events, 1, 2000);
        g_assert_cmpint(f.event_us, <, before);
        g_assert_cmpint(f.event_us, >, before - 2 * LATE_US);
        int64_t last = f.event_us;
        say(&f, "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5, \"microseconds\": 5}}\n");
        run_until(&f.events, 2, 2000);
        g_assert_cmpint(f.event_us, ==, last);
        for (size_t i = 0; i < G_N_ELEMENTS(nonsense); i++) {
                g_autofree char *bad =
                        g_strdup_printf("{\"event\": \"STOP\", \"timestamp\": {%s}}\n", nonsense[i]);
                say(&f, bad);
                run_until(&f.events, 3 + (int)i, 2000);
                g_assert_cmpint(f.event_us, >=, before);
                g_assert_cmpint(f.event_us, <=, g_get_monotonic_time());
        }
        closed(&f);
}

/* The owner lets go from within each callback. */
static void test_free_within(void)
{
        struct fixture f;
        open_ready(&f, false);
        f.free_on_event = true;
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        say(&f, "{\"event\": \"STOP\"}\n{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": 2}\n");
        run_until(&f.events, 1, 1000);
        settle();
        g_assert_cmpint(f.events, ==, 1);
        g_assert_cmpint(f.answers, ==, 1);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_CANCELLED);
        g_assert_cmpint(f.lost, ==, 0);
        closed(&f);

        open_ready(&f, false);
        f.free_on_answer = true;
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        say(&f, "{\"return\": {}, \"id\": 2}\n{\"return\": {}, \"id\": 3}\n");
        run_until(&f.answers, 2, 1000);
        g_assert_cmpint(f.answers, ==, 2);
        closed(&f);

        /* In the middle of losing the connection, with calls left. */
        open_ready(&f, false);
        f.free_on_answer = true;
        for (int i = 0; i < 3; i++)
                qmp_execute(f.q, "query-status", NULL, 5000, on_answer, &f);
        shutdown(f.server, SHUT_RDWR);
        run_until(&f.answers, 3, 1000);
        settle();
        g_assert_cmpint(f.answers, ==, 3);
        g_assert_cmpint(f.lost, ==, 0);
        closed(&f);

        open_ready(&f, false);
        f.free_on_lost = f.call_on_lost = true;
        shutdown(f.server, SHUT_RDWR);
        run_until(&f.lost, 1, 1000);
        settle();
        g_assert_cmpint(f.answers, ==, 1);
        closed(&f);

        open_ready(&f, false);
        f.free_on_answer = true;
        qmp_execute(f.q, "query-status", NULL, 10, on_answer, &f);
        run_until(&f.answers, 1, 1000);
        g_assert_cmpint(f.answer_err.reason, ==, REASON_TIMEOUT);
        closed(&f);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/qmp/greeting", test_greeting);
        g_test_add_func("/qmp/stale-output", test_stale_output);
        g_test_add_func("/qmp/no-greeting", test_no_greeting);
        g_test_add_func("/qmp/replies", test_replies);
        g_test_add_func("/qmp/lies", test_lies);
        g_test_add_func("/qmp/huge-line", test_huge_line);
        g_test_add_func("/qmp/eof", test_eof);
        g_test_add_func("/qmp/timeout", test_timeout);
        g_test_add_func("/qmp/early-and-oob", test_early_and_oob);
        g_test_add_func("/qmp/limits", test_limits);
        g_test_add_func("/qmp/event-flood", test_event_flood);
        g_test_add_func("/qmp/event-stamp", test_event_stamp);
        g_test_add_func("/qmp/free-within", test_free_within);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/test-rpc.h"

/* ---- the peer's requests ---- */

static void test_requests(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){0});
        say(&s, REQ("1", "echo", ",\"params\":{\"a\":[1,2]}"));
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":[1,2]}}\n");
        say(&s, REQ("\"x\"", "echo", ""));
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":{}}\n");
        say(&s, NOTE("note"));
        expect(&s, "");
        say(&s, REQ("2", "nonsense", ""));
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32601,\"message\":\"unknown method: "
                   "nonsense\","
                   "\"data\":{\"reason\":\"unsupported\"}}}\n");
        say(&s, "["
                "]\n");
        expect_has(&s, "\"id\":null,\"error\":{\"code\":-32600");
        say(&s, "{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"echo\",\"params\":7}\n");
        expect_has(&s, "\"id\":5,\"error\":{\"code\":-32602");
        g_assert_cmpstr(s.log->str, ==, "echo;echo;(note)nonsense;");
        const struct rpc_counters *c = rpc_counters(s.rpc);
        g_assert_cmpuint(c->lines, ==, 6);
        g_assert_cmpuint(c->requests, ==, 3);
        g_assert_cmpuint(c->notifications, ==, 1);
        g_assert_cmpuint(c->malformed, ==, 2);
        close_side(&s);
}

static void test_no_handlers(void)
{
        int fds[2];
        struct rpc_options o = {0};
        char got[200] = "";
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
        struct rpc *rpc = rpc_new(fds[0], &o, NULL, NULL);
        g_assert_cmpint(write(fds[1], REQ("1", "a", "") NOTE("b"), strlen(REQ("1", "a", "") NOTE("b"))), >,
                        0);
        turn_all();
        g_assert_cmpint(read(fds[1], got, sizeof(got) - 1), >, 0);
        g_assert_nonnull(strstr(got, "-32601"));
        close(fds[1]);
        turn_all();
        g_assert_true(rpc_is_lost(rpc));
        rpc_free(rpc);
}

static void test_answer_later(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){0});
        say(&s, REQ("1", "later", "") REQ("2", "echo", ""));
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n"); /* out of order */
        g_assert_true(rpc_call_peer(s.kept) == s.rpc);
        rpc_reply(s.kept, json_pack("{s:b}", "ok", 1));
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"ok\":true}}\n");
        close_side(&s);
}

static void test_answer_into_the_void(void)
{
        struct side s;
        struct err why;
        (void)err_set(&why, REASON_BUSY, EBUSY, "no");
        open_side(&s, (struct rpc_options){0});
        say(&s, REQ("1", "later", ""));
        turn_all();
        close(s.peer);
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "later;lost peer-lost;");
        g_assert_null(rpc_call_peer(s.kept));
        rpc_reply(s.kept, json_object()); /* lost, not yet freed */
        s.peer = -1;
        close_side(&s);

        open_side(&s, (struct rpc_options){0});
        say(&s, REQ("1", "later", ""));
        turn_all();
        rpc_free(s.rpc);
        s.rpc = NULL;
        rpc_refuse(s.kept, RPC_REFUSED, &why); /* freed */
        close_side(&s);
}

/* ---- lines ---- */

static void test_resync(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){0});
        say(&s, "\n\r\n  \t\n");
        expect(&s, "");
        say(&s,
            "{\"jsonrpc\":\"2.0\",\"id\":1,\"meth"); /* cut off here; a new holder begins with a newline */
        say(&s, "\n" REQ("7", "echo", ""));
        char *got = hear(&s);
        g_assert_cmpuint(count(got, "\"id\":null,\"error\":{\"code\":-32700"), ==, 1);
        g_assert_cmpuint(count(got, "\"id\":7,\"result\""), ==, 1);
        g_free(got);
        g_assert_cmpint(rpc_resync(s.rpc, NULL), ==, 0);
        expect(&s, "\n");
        close_side(&s);
}

static void test_too_long(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){.line_max = 200});
        char *junk = g_strnfill(100000, 'j');
        say(&s, junk);
        expect_has(&s, "at most 200 bytes"); /* told before its end */
        say(&s, junk);
        expect(&s, "");
        say(&s, "\n" REQ("1", "echo", ""));
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n");
        g_assert_cmpuint(rpc_counters(s.rpc)->too_long, ==, 1);
        g_free(junk);
        close_side(&s);
}

static void test_garbage(void)
{
        struct side s;
        loop_clock_fake(0, 1000);
        open_side(&s, (struct rpc_options){0}); /* as for a guest: only counted */
        for (int i = 0; i < 100; i++)
                say(&s, "garbage\n");
        char *got = hear(&s);
        g_assert_cmpuint(count(got, "-32700"), ==, 8); /* the rest went without an answer */
        g_free(got);
        g_assert_cmpuint(rpc_counters(s.rpc)->unreadable, ==, 100);
        say(&s, REQ("1", "echo", ""));
        expect_has(&s, "\"id\":1,\"result\"");
        loop_clock_fake(0, 2000);
        for (int i = 0; i < 100; i++)
                say(&s, "garbage\n");
        got = hear(&s);
        g_assert_cmpuint(count(got, "-32700"), ==, 2);
        g_free(got);
        close_side(&s);

        open_side(&s, (struct rpc_options){.drop_on_garbage = true});
        for (int i = 0; i < 15; i++)
                say(&s, "garbage\n");
        say(&s, NOTE("good"));
        for (int i = 0; i < 15; i++)
                say(&s, "garbage\n");
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "(good)");
        say(&s, "garbage\n" REQ("1", "echo", ""));
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "(good)lost invalid;"); /* and what stood behind it was not served */
        close_side(&s);
        loop_clock_real();
}

/* ---- limits ---- */

static void test_calls_max(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){.calls_max = 2});
        say(&s, REQ("1", "later", ""));
        turn_all();
        struct rpc_call *first = s.kept;
        say(&s, REQ("2", "later", "") REQ("3", "later", ""));
        char *got = hear(&s);
        g_assert_true(g_str_has_prefix(got, "{\"jsonrpc\":\"2.0\",\"id\":3,\"error\":{\"code\":-32000,"));
        g_assert_nonnull(strstr(got, "\"busy\""));
        g_free(got);
        g_assert_cmpuint(rpc_counters(s.rpc)->busy_calls, ==, 1);
        rpc_reply(first, NULL); /* the charge comes back with the answer */
        expect_has(&s, "\"id\":1,\"result\"");
        say(&s, REQ("4", "echo", ""));
        expect_has(&s, "\"id\":4,\"result\"");
        rpc_reply(s.kept, NULL);
        close_side(&s);
}

static void test_rate(void)
{
        struct side s;
        loop_clock_fake(0, 1000);
        open_side(&s, (struct rpc_options){.rate_per_s = 100, .burst = 20});
        for (int i = 0; i < 60; i++)
                say(&s, REQ("1", "echo", ""));
        char *got = hear(&s);
        g_assert_cmpuint(count(got, "\"result\""), ==, 20);
        g_assert_cmpuint(count(got, "slow down"), ==, 1); /* then nothing more is read */
        g_free(got);
        loop_clock_fake(0, 1109);
        expect(&s, "");
        loop_clock_fake(0, 1110); /* a tenth of a second's tokens, and one */
        got = hear(&s);
        g_assert_cmpuint(count(got, "\"result\""), ==, 11);
        g_assert_cmpuint(count(got, "slow down"), ==, 1);
        g_free(got);
        /* An answer to our own call is served even without a token. */
        loop_clock_fake(0, 5000);
        got = hear(&s);
        g_assert_cmpuint(count(got, "\"result\""), ==, 20);
        g_free(got);
        g_assert_cmpuint(rpc_counters(s.rpc)->pauses, ==, 3);
        g_assert_cmpuint(rpc_counters(s.rpc)->busy_rate, ==, 3);
        close_side(&s);
        loop_clock_real();
}

static void test_rate_answers(void)
{
        struct side s;
        struct done d = {0};
        loop_clock_fake(0, 1000);
        open_side(&s, (struct rpc_options){.rate_per_s = 10, .burst = 2});
        g_assert_cmpint(rpc_call(s.rpc, "a", NULL, 0, on_done, &d, NULL), ==, 0);
        turn_all();
        say(&s, NOTE("x") NOTE("y") "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":7}\n");
        turn_all();
        g_assert_cmpuint(d.n, ==, 1);
        g_assert_cmpstr(d.result, ==, "7");
        g_assert_cmpstr(s.log->str, ==, "(x)(y)");
        free(d.result);
        /* Paused, and the peer is gone meanwhile: the loop does not spin, and it is noticed afterwards. */
        g_assert_cmpuint(rpc_counters(s.rpc)->pauses, ==, 1);
        close(s.peer);
        s.peer = -1;
        g_assert_false(loop_once(false));
        loop_clock_fake(0, 2000);
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "(x)(y)lost peer-lost;");
        close_side(&s);
        loop_clock_real();
}

/* The loop stays responsive: while one floods, another's call is answered in the very next turns. */
static void test_flood(void)
{
        struct side bad, good;
        open_side(&bad, (struct rpc_options){.rate_per_s = 1000});
        open_side(&good, (struct rpc_options){0});
        GString *flood = g_string_new(NULL);
        for (int i = 0; i < 2000; i++)
                g_string_append(flood,
                                REQ("1", "echo", ",\"params\":{\"a\":\"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\"}"));
        for (int round = 0; round < 50; round++) {
                (void)!send(bad.peer, flood->str, flood->len, MSG_NOSIGNAL);
                say(&good, REQ("1", "echo", ""));
                char got[100];
                int turns = 0;
                ssize_t n;
                while ((n = read(good.peer, got, sizeof(got))) < 0) {
                        loop_once(false);
                        g_assert_cmpint(++turns, <=, 3);
                }
                char junk[65536];
                while (read(bad.peer, junk, sizeof(junk)) > 0)
                        ;
        }
        g_assert_cmpuint(rpc_counters(bad.rpc)->pauses, >, 0);
        g_string_free(flood, TRUE);
        close_side(&bad);
        close_side(&good);
}

static void test_slow_reader(void)
{
        struct side s;
        struct done d = {0};
        open_side(&s, (struct rpc_options){.queue_max_bytes = 100000});
        char *text = g_strnfill(1000, 'x');
        int r = rpc_call(s.rpc, "wait", NULL, 0, on_done, &d, NULL), sent = 0;
        while (r == 0) {
                r = rpc_notify(s.rpc, "n", json_pack("{s:s}", "text", text), NULL);
                sent++;
                if (sent % 10 == 0)
                        loop_once(false);
                g_assert_cmpuint(rpc_queued_bytes(s.rpc), <=, 100000);
        }
        g_assert_cmpint(r, ==, -EAGAIN);
        g_assert_cmpint(sent, >, 90);
        g_assert_cmpstr(s.log->str, ==, ""); /* not from within rpc_notify() */
        g_assert_true(rpc_is_lost(s.rpc));
        g_assert_cmpint(rpc_notify(s.rpc, "n", NULL, NULL), ==, -ECONNRESET);
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "lost busy;");
        g_assert_cmpuint(d.n, ==, 1);
        g_assert_cmpint(d.reason, ==, REASON_BUSY);
        close_side(&s);

        open_side(&s, (struct rpc_options){.queue_max_bytes = 100000, .keep_on_overflow = true});
        for (int i = 0; i < 2000; i++) {
                (void)rpc_notify(s.rpc, "n", json_pack("{s:s}", "text", text), NULL);
                loop_once(false);
        }
        g_assert_cmpuint(rpc_counters(s.rpc)->dropped, >, 0);
        g_assert_false(rpc_is_lost(s.rpc));
        char *got = hear(&s); /* whole lines only */
        g_assert_cmpuint(count(got, "\n"), ==, 2000 - rpc_counters(s.rpc)->dropped);
        g_assert_cmpuint(count(got, "\"method\":\"n\""), ==, count(got, "\n"));
        g_free(got);
        g_assert_cmpint(rpc_notify(s.rpc, "back", NULL, NULL), ==, 0);
        expect(&s, "{\"jsonrpc\":\"2.0\",\"method\":\"back\",\"params\":{}}\n");
        g_free(text);
        close_side(&s);
}

static void test_own_line_too_long(void)
{
        struct side s;
        struct err err = {0};
        struct done d = {0};
        open_side(&s, (struct rpc_options){0});
        say(&s, REQ("1", "huge", ""));
        expect_has(&s,
                   "\"id\":1,\"error\":{\"code\":-32000,\"message\":\"the message has 100"); /* not silence */
        char *text = g_strnfill(70000, 'x');
        g_assert_cmpint(rpc_call(s.rpc, "a", json_pack("{s:s}", "t", text), 0, on_done, &d, &err), ==,
                        -EMSGSIZE);
        g_free(text);
        g_assert_cmpint(rpc_notify(s.rpc, "\xff", NULL, &err), ==, -ENOMEM);
        expect(&s, "");
        close_side(&s);
        g_assert_cmpuint(d.n, ==, 0);
}

/* ---- our calls ---- */

static void test_calls(void)
{
        struct side s;
        struct done a = {0}, b = {0};
        open_side(&s, (struct rpc_options){0});
        g_assert_cmpint(rpc_call(s.rpc, "a", json_pack("{s:i}", "x", 1), 0, on_done, &a, NULL), ==, 0);
        g_assert_cmpint(rpc_call(s.rpc, "b", NULL, 0, on_done, &b, NULL), ==, 0);
        expect(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":{\"x\":1}}\n"
                   "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"b\",\"params\":{}}\n");
        say(&s, "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32000,\"message\":\"full\","
                "\"data\":{\"reason\":\"no-capacity\"}}}\n");
        turn_all();
        g_assert_cmpuint(a.n, ==, 0);
        g_assert_cmpint(b.reason, ==, REASON_NO_CAPACITY);
        say(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"y\":2}}\n");
        turn_all();
        g_assert_cmpstr(a.result, ==, "{\"y\":2}");
        /* Again, never asked for, and of kinds that we do not use. */
        say(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"y\":2}}\n"
                "{\"jsonrpc\":\"2.0\",\"id\":99,\"result\":1}\n"
                "{\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":1}\n"
                "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"what\"}}\n");
        expect(&s, ""); /* an error is never answered with one */
        g_assert_cmpuint(rpc_counters(s.rpc)->unknown_answers, ==, 4);
        g_assert_cmpuint(a.n, ==, 1);
        free(a.result);
        close_side(&s);
}

static void test_deadline(void)
{
        struct side s;
        struct done d = {0};
        loop_clock_fake(0, 0);
        open_side(&s, (struct rpc_options){0});
        g_assert_cmpint(rpc_call(s.rpc, "a", NULL, 100, on_done, &d, NULL), ==, 0);
        turn_all();
        loop_clock_fake(0, 99);
        turn_all();
        g_assert_cmpuint(d.n, ==, 0);
        loop_clock_fake(0, 100);
        turn_all();
        g_assert_cmpint(d.reason, ==, REASON_TIMEOUT);
        say(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n"); /* too late */
        turn_all();
        g_assert_cmpuint(d.n, ==, 1);
        g_assert_cmpuint(rpc_counters(s.rpc)->timeouts, ==, 1);
        g_assert_cmpuint(rpc_counters(s.rpc)->unknown_answers, ==, 1);
        close_side(&s);
        loop_clock_real();
}

static void test_lost_with_calls(void)
{
        struct side s;
        struct done d[3] = {0};
        open_side(&s, (struct rpc_options){0});
        for (int i = 0; i < 3; i++)
                g_assert_cmpint(rpc_call(s.rpc, "a", NULL, 1000, on_done, &d[i], NULL), ==, 0);
        close(s.peer);
        s.peer = -1;
        turn_all();
        for (int i = 0; i < 3; i++) {
                g_assert_cmpuint(d[i].n, ==, 1);
                g_assert_cmpint(d[i].reason, ==, REASON_PEER_LOST);
        }
        g_assert_cmpstr(s.log->str, ==, "lost peer-lost;");
        g_assert_cmpint(rpc_call(s.rpc, "a", NULL, 0, on_done, &d[0], NULL), ==, -ECONNRESET);
        g_assert_cmpuint(d[0].n, ==, 1);
        close_side(&s);
        open_side(&s, (struct rpc_options){0});
        g_assert_cmpint(rpc_call(s.rpc, "a", NULL, 0, on_done, &d[0], NULL), ==, 0);
        rpc_free(s.rpc);
        s.rpc = NULL;
        g_assert_cmpuint(d[0].n, ==, 2);
        g_assert_cmpint(d[0].reason, ==, REASON_CANCELLED);
        expect_has(&s, "\"method\":\"a\""); /* what was queued had one try */
        close_side(&s);
        rpc_free(NULL);
}

/* What the peer said before it hung up still counts. */
static void test_last_words(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){0});
        GString *words = g_string_new(NULL);
        for (int i = 0; i < 1000; i++)
                g_string_append(words, NOTE("word"));
        say_n(&s, words->str, words->len);
        close(s.peer);
        s.peer = -1;
        turn_all();
        g_assert_cmpuint(rpc_counters(s.rpc)->notifications, ==, 1000);
        g_assert_true(g_str_has_suffix(s.log->str, "(word)lost peer-lost;"));
        g_string_free(words, TRUE);
        close_side(&s);
}

static void test_free_inside(void)
{
        struct side s;
        open_side(&s, (struct rpc_options){0});
        s.free_in_callback = true;
        say(&s, REQ("1", "echo", "") REQ("2", "echo", ""));
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "echo;");
        close_side(&s);

        open_side(&s, (struct rpc_options){0});
        s.free_in_callback = true;
        say(&s, NOTE("a") NOTE("b"));
        turn_all();
        g_assert_cmpstr(s.log->str, ==, "(a)");
        close_side(&s);

        open_side(&s, (struct rpc_options){0});
        s.free_in_callback = true;
        close(s.peer);
        s.peer = -1;
        turn_all();
        g_assert_null(s.rpc);
        close_side(&s);

        /* In the callback of a call: on its answer, on its deadline, and when the peer is lost, where another
         * call waits, too. */
        for (int way = 0; way < 3; way++) {
                struct done d[2] = {0};
                open_side(&s, (struct rpc_options){0});
                loop_clock_fake(0, 0);
                d[0].to_free = &s.rpc;
                d[1].to_free = &s.rpc;
                g_assert_cmpint(rpc_call(s.rpc, "a", NULL, 50, on_done, &d[0], NULL), ==, 0);
                turn_all();
                if (way == 0) {
                        say(&s, "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1}\n" NOTE("never"));
                } else if (way == 1) {
                        loop_clock_fake(0, 60);
                } else {
                        d[1].to_free = NULL;
                        g_assert_cmpint(rpc_call(s.rpc, "b", NULL, 0, on_done, &d[1], NULL), ==, 0);
                        d[1].to_free = NULL;
                        turn_all();
                        close(s.peer);
                        s.peer = -1;
                }
                turn_all();
                g_assert_cmpuint(d[0].n, ==, 1);
                g_assert_null(s.rpc);
                if (way == 2)
                        g_assert_cmpuint(d[1].n, ==, 1);
                g_assert_cmpstr(s.log->str, ==, "");
                free(d[0].result);
                close_side(&s);
                loop_clock_real();
        }
}

/* ---- whatever the chunking ---- */

static void test_chunking(void)
{
        static const char session[] = REQ("1", "echo", ",\"params\":{\"a\":\"\\u00e9 {[\\\"\"}") NOTE(
                "n") "\n"
                     "rubbish\n" REQ("\"two\"", "nope", "") "{\"half\n" REQ(
                             "3", "echo", "") "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                                              "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                                              "\n" NOTE("end");
        GRand *rand = g_rand_new_with_seed(7);
        char *first = NULL;
        for (int round = 0; round < 60; round++) {
                struct side s;
                open_side(&s, (struct rpc_options){.line_max = 100});
                GString *got = g_string_new(NULL);
                for (size_t at = 0; at < sizeof(session) - 1;) {
                        size_t n = round == 0   ? sizeof(session) - 1
                                   : round == 1 ? 1
                                                : (size_t)g_rand_int_range(rand, 1, 60);
                        n = MIN(n, sizeof(session) - 1 - at);
                        say_n(&s, session + at, n);
                        at += n;
                        char *part = hear(&s);
                        g_string_append(got, part);
                        g_free(part);
                }
                g_string_append(got, s.log->str);
                if (!first)
                        first = g_strdup(got->str);
                g_assert_cmpstr(got->str, ==, first);
                g_string_free(got, TRUE);
                close_side(&s);
        }
        g_assert_true(g_str_has_suffix(first, "echo;(n)nope;echo;(end)"));
        g_free(first);
        g_rand_free(rand);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/rpc/requests", test_requests);
        g_test_add_func("/rpc/no-handlers", test_no_handlers);
        g_test_add_func("/rpc/answer-later", test_answer_later);
        g_test_add_func("/rpc/answer-into-the-void", test_answer_into_the_void);
        g_test_add_func("/rpc/resync", test_resync);
        g_test_add_func("/rpc/too-long", test_too_long);
        g_test_add_func("/rpc/garbage", test_garbage);
        g_test_add_func("/rpc/calls-max", test_calls_max);
        g_test_add_func("/rpc/rate", test_rate);
        g_test_add_func("/rpc/rate-answers", test_rate_answers);
        g_test_add_func("/rpc/flood", test_flood);
        g_test_add_func("/rpc/slow-reader", test_slow_reader);
        g_test_add_func("/rpc/own-line-too-long", test_own_line_too_long);
        g_test_add_func("/rpc/calls", test_calls);
        g_test_add_func("/rpc/deadline", test_deadline);
        g_test_add_func("/rpc/lost-with-calls", test_lost_with_calls);
        g_test_add_func("/rpc/last-words", test_last_words);
        g_test_add_func("/rpc/free-inside", test_free_inside);
        g_test_add_func("/rpc/chunking", test_chunking);
        int r = g_test_run();
        loop_done();
        return r;
}

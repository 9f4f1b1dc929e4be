/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/message.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

/* What a line is, in a word or two. */
static char *kind_of(const char *text, size_t n)
{
        struct rpc_message m;
        char *what = NULL;
        rpc_message_parse(text, n, &m);
        switch (m.kind) {
        case RPC_MESSAGE_BAD:
                g_assert_cmpint(m.error.reason, ==, REASON_INVALID);
                g_assert_cmpuint(strlen(m.error.sentence), >, 0);
                what = g_strdup_printf("%d%s", m.code, m.id.kind == RPC_ID_NULL ? "" : " id");
                break;
        case RPC_MESSAGE_REQUEST:
                what = g_strdup_printf("request %s%s", m.method, m.params ? " params" : "");
                break;
        case RPC_MESSAGE_NOTIFICATION:
                what = g_strdup_printf("notification %s", m.method);
                break;
        case RPC_MESSAGE_RESULT:
                what = g_strdup("result");
                break;
        case RPC_MESSAGE_ERROR:
                what = g_strdup_printf("error %s: %s", reason_name(m.error.reason), m.error.sentence);
                break;
        }
        rpc_message_done(&m);
        rpc_message_done(&m);
        return what;
}

static void test_table(void)
{
        static const char *const rows[][2] = {
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}",                                  "request ping"          },
                {"{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\",\"params\":{}}",
                 "request ping params"                                                                                          },
                {"{\"jsonrpc\":\"2.0\",\"method\":\"ping\"}",                                           "notification ping"     },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":null}",                                      "result"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":-9007199254740991,\"result\":[]}",                        "result"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"what?\"}}",
                 "error invalid: what?"                                                                                         },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32000,\"message\":\"a\\nb\","
                 "\"data\":{\"reason\":\"no-capacity\"}}}",                            "error no-capacity: a?b"},
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"\"}}",
                 "error unsupported: "                                                                                          },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1,\"message\":\"x\",\"data\":7}}",
                 "error internal: x"                                                                                            },
                {"",                                                                                    "-32700"                },
                {"nonsense",                                                                            "-32700"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"a\"}",                            "-32700"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"} {}",                                  "-32700"                },
                {"[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]",                                                 "-32700"                },
                {"7",                                                                                   "-32600"                },
                {"null",                                                                                "-32600"                },
                {"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\"}]",                                   "-32600"                },
                {"[]",                                                                                  "-32600"                },
                {"{}",                                                                                  "-32600"                },
                {"{\"id\":1,\"method\":\"a\"}",                                                         "-32600 id"             },
                {"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"a\"}",                                     "-32600 id"             },
                {"{\"jsonrpc\":2.0,\"id\":1,\"method\":\"a\"}",                                         "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"extra\":1}",                         "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\"}",                                      "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}",                                         "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":[1]}",                      "-32602 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"result\":1}",                        "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"a\"}",                                   "-32600"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":true,\"method\":\"a\"}",                                  "-32600"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"a\"}",                                  "-32600"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":9007199254740992,\"method\":\"a\"}",                      "-32600"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":99999999999999999999,\"method\":\"a\"}",                  "-32700"                },
                {"{\"jsonrpc\":\"2.0\",\"id\":1}",                                                      "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1,\"error\":{}}",                            "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":1,\"params\":{}}",                           "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":\"x\"}",                                      "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":1}}",                               "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"fds\":-1}",                          "-32600 id"             },
                {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"fds\":\"2\"}",                       "-32600 id"             },
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                char *what = kind_of(rows[i][0], strlen(rows[i][0]));
                if (strcmp(what, rows[i][1]) != 0)
                        g_error("%s is %s, not %s", rows[i][0], what, rows[i][1]);
                g_free(what);
        }
        char *nul = kind_of("{}\0", 3);
        g_assert_cmpstr(nul, ==, "-32700");
        g_free(nul);
}

/* A method and a text id of exactly the limit, and one more. */
static void test_lengths(void)
{
        for (int n = 63; n <= 64; n++) {
                char *word = g_strnfill((gsize)n, 'a');
                char *a = g_strdup_printf("{\"jsonrpc\":\"2.0\",\"id\":\"%s\",\"method\":\"m\"}", word);
                char *b = g_strdup_printf("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\"}", word);
                char *ka = kind_of(a, strlen(a)), *kb = kind_of(b, strlen(b));
                g_assert_true(g_str_has_prefix(ka, n == 63 ? "request" : "-32600"));
                g_assert_true(g_str_has_prefix(kb, n == 63 ? "request" : "-32600 id"));
                g_free(a);
                g_free(b);
                g_free(ka);
                g_free(kb);
                g_free(word);
        }
}

static void test_round_trip(void)
{
        struct rpc_message m;
        struct rpc_id id = {.kind = RPC_ID_TEXT, .text = "x"};
        size_t n = 0;
        char *text = rpc_message_request(&id, "go", json_pack("{s:i}", "a", 1), 2, &n);
        g_assert_cmpstr(
                text, ==,
                "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"go\",\"params\":{\"a\":1},\"fds\":2}");
        g_assert_cmpuint(n, ==, strlen(text));
        rpc_message_parse(text, n, &m);
        g_assert_cmpint(m.kind, ==, RPC_MESSAGE_REQUEST);
        g_assert_cmpint(m.fds, ==, 2);
        g_assert_cmpstr(m.id.text, ==, "x");
        rpc_message_done(&m);
        free(text);
        text = rpc_message_request(NULL, "go", NULL, 0, &n);
        g_assert_cmpstr(text, ==, "{\"jsonrpc\":\"2.0\",\"method\":\"go\",\"params\":{}}");
        free(text);
        text = rpc_message_result(&(struct rpc_id){.kind = RPC_ID_NUMBER, .number = -5}, NULL, 0, &n);
        g_assert_cmpstr(text, ==, "{\"jsonrpc\":\"2.0\",\"id\":-5,\"result\":{}}");
        free(text);
        for (int r = 1; r < REASON_N; r++) {
                struct err out;
                (void)err_set(&out, (enum reason)r, rpc_reason_errno((enum reason)r), "because");
                text = rpc_message_error(&id, RPC_REFUSED, &out, &n);
                rpc_message_parse(text, n, &m);
                g_assert_cmpint(m.kind, ==, RPC_MESSAGE_ERROR);
                g_assert_cmpint(m.error.reason, ==, r);
                g_assert_cmpint(m.error.code, ==, out.code);
                g_assert_cmpint(m.error.code, >, 0);
                g_assert_cmpstr(m.error.sentence, ==, "because");
                rpc_message_done(&m);
                free(text);
        }
}

/* A sentence that was cut within a character, or is no UTF-8 at all, still gets through. */
static void test_broken_sentence(void)
{
        struct rpc_message m;
        struct err out;
        size_t n = 0;
        (void)err_set(&out, REASON_BUSY, EBUSY, "no room for \xc3");
        char *text = rpc_message_error(&(struct rpc_id){.kind = RPC_ID_NULL}, RPC_REFUSED, &out, &n);
        rpc_message_parse(text, n, &m);
        g_assert_cmpstr(m.error.sentence, ==, "no room for ?");
        rpc_message_done(&m);
        free(text);
}

static void test_no_text(void)
{
        size_t n = 0;
        g_assert_null(rpc_message_request(NULL, "\xff", json_object(), 0, &n));
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/message/table", test_table);
        g_test_add_func("/message/lengths", test_lengths);
        g_test_add_func("/message/round-trip", test_round_trip);
        g_test_add_func("/message/broken-sentence", test_broken_sentence);
        g_test_add_func("/message/no-text", test_no_text);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The reader's refusals, and the words and paths of the decoders' messages. */
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>

#include "json/api.h"
#include "json/read.h"

static void assert_refused(const char *text, size_t n, const char *sentence)
{
        struct err err = {0};
        g_assert_null(json_read(text, n, &err));
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_cmpint(err.code, ==, EINVAL);
        g_assert_true(g_str_has_prefix(err.sentence, sentence));
}
#define REFUSED(text, sentence) assert_refused((text), sizeof(text) - 1, (sentence))

static void test_read_refuses(void)
{
        REFUSED("", "JSON: the text is empty");
        REFUSED(" \r\n\t", "JSON: the text is empty");
        REFUSED("{\"a\":1,\"a\":2}", "JSON: line 1, column 10: duplicate object key");
        REFUSED("{} {}", "JSON: line 1, column 4: end of file expected");
        REFUSED("\"a\\u0000b\"", "JSON: line 1, column ");
        REFUSED("{\"a\":1}\0", "JSON: line 1, column ");
        REFUSED("\"\xff\"", "JSON: line 1, column ");
        REFUSED("99999999999999999999", "JSON: line 1, column ");
        REFUSED("{\"a\":", "JSON: line 1, column ");
        REFUSED("{\"a\":\n1]", "JSON: line 2, column ");
        REFUSED("[NaN]", "JSON: line 1, column ");
        REFUSED("\x01\x02", "JSON: line 1, column ");
}

static void test_read_depth(void)
{
        char text[64];
        struct err err = {0};
        for (int depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
                memset(text, '[', (size_t)depth);
                memset(text + depth, ']', (size_t)depth);
                json_t *v = json_read(text, 2 * (size_t)depth, &err);
                g_assert_true((v != NULL) == (depth <= JSON_DEPTH_MAX));
                json_decref(v);
        }
        g_assert_cmpstr(err.sentence, ==, "JSON: nested deeper than 16");
        /* Brackets in a string are text, behind an escaped quote as well. */
        const char *quoted = "\"\\\"[[[[[[[[[[[[[[[[[[[[\"";
        json_t *v = json_read(quoted, strlen(quoted), &err);
        g_assert_nonnull(v);
        json_decref(v);
        g_autofree char *deep = g_strnfill(60000, '{');
        g_assert_null(json_read(deep, 60000, &err));
}

/* No message may carry what a peer could use against a terminal or a log. */
static void test_read_messages_are_plain(void)
{
        struct err err = {0};
        const char *text = "{\"\x1b[31m\xc3\xa9\n";
        g_assert_null(json_read(text, strlen(text), &err));
        for (const char *s = err.sentence; *s; s++)
                g_assert_true(*s >= 0x20 && *s < 0x7f);
}

static void test_write(void)
{
        struct err err = {0};
        size_t n = 0;
        const char *spaced = " { \"b\" : [ 1 , true ] , \"a\" : \"\\n\xc3\xa9\" } \n";
        json_t *v = json_read(spaced, strlen(spaced), &err);
        g_assert_nonnull(v);
        char *text = json_write(v, &n);
        g_assert_cmpstr(text, ==, "{\"b\":[1,true],\"a\":\"\\n\xc3\xa9\"}");
        g_assert_cmpuint(n, ==, strlen(text));
        free(text);
        json_decref(v);
}

static void reserve_says(const char *text, const char *sentence)
{
        struct api_guest_reserve r;
        struct err err = {0};
        json_t *v = json_read(text, strlen(text), &err);
        g_assert_nonnull(v);
        int result = api_guest_reserve_parse(v, &r, &err);
        json_decref(v);
        if (sentence) {
                g_assert_cmpint(result, ==, -EINVAL);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_assert_cmpstr(err.sentence, ==, sentence);
        } else {
                g_assert_cmpint(result, ==, 0);
        }
}

#define RESERVE(needs) "{\"request\":\"r:1\",\"application\":\"a\",\"needs\":" needs "}"

static void test_messages(void)
{
        reserve_says(RESERVE("[{\"kind\":\"cpu\",\"amount\":2}]"), NULL);
        reserve_says(RESERVE("[{\"kind\":\"cpu\",\"amount\":2},{\"kind\":\"memory\",\"amount\":0}]"),
                     "needs[1].amount: must be at least 1");
        reserve_says(RESERVE("[{\"kind\":\"cpu\",\"amount\":9007199254740992}]"),
                     "needs[0].amount: must be at most 9007199254740991");
        reserve_says(RESERVE("[{\"kind\":\"cpu\",\"amount\":1.0}]"), "needs[0].amount: must be an integer");
        reserve_says(RESERVE("[{\"kind\":\"cpu\",\"amount\":1,\"foo\":1}]"),
                     "needs[0]: unknown field \"foo\"");
        reserve_says(RESERVE("[{\"amount\":1}]"), "needs[0].kind: required");
        reserve_says(RESERVE("[{\"kind\":\"\",\"amount\":1}]"), "needs[0].kind: must not be empty");
        reserve_says(RESERVE("[{\"kind\":\"sixteen-letters!\",\"amount\":1}]"),
                     "needs[0].kind: must have at most 15 bytes");
        reserve_says(RESERVE("[{\"kind\":\"a\\u0007b\",\"amount\":1}]"),
                     "needs[0].kind: must not contain control characters");
        reserve_says(RESERVE("[{\"kind\":\"a\\u009bb\",\"amount\":1}]"),
                     "needs[0].kind: must not contain control characters");
        reserve_says(RESERVE("[7]"), "needs[0]: must be an object");
        reserve_says(RESERVE("[]"), "needs: must have at least 1 entry");
        reserve_says(RESERVE("[1,2,3,4,5]"), "needs: must have at most 4 entries");
        reserve_says(RESERVE("{}"), "needs: must be an array");
        reserve_says(RESERVE("[{\"kind\":\"cpu\",\"amount\":1,\"parameters\":[{\"name\":\"share\","
                             "\"relation\":\"<\"}]}]"),
                     "needs[0].parameters[0].relation: must be one of >=, <=, =");
        reserve_says("{}", "request: required");
        reserve_says("[]", "must be an object");
        reserve_says("{\"\\u001b[2J\\u00e9\":1}", "unknown field \"?[2J\xc3\xa9\"");
        reserve_says(
                "{\"request\":\"a/b\",\"application\":\"a\",\"needs\":[{\"kind\":\"cpu\",\"amount\":1}]}",
                "request: must be an id: letters, digits and ._:- only");
}

static void test_absent_means_empty(void)
{
        struct api_empty nothing;
        struct api_vm_stop stop;
        struct api_keeper_vm vm;
        struct err err = {0};
        g_assert_cmpint(api_empty_parse(NULL, &nothing, &err), ==, 0);
        g_assert_cmpint(api_vm_stop_parse(NULL, &stop, &err), ==, 0);
        g_assert_false(stop.has_timeout_ms);
        g_assert_cmpint(api_keeper_vm_parse(NULL, &vm, &err), ==, -EINVAL);
        g_assert_cmpstr(err.sentence, ==, "vm: required");
}

/* A sentence that was cut inside a character, or quotes a guest, must still reach its reader. */
static void test_emit_mends_text(void)
{
        struct api_error e = {
                .code = -32602, .reason = REASON_INVALID, .message = "bad \xc3\xa9\x1b[2J \xc3"};
        json_t *v = api_error_emit(&e);
        g_assert_cmpstr(json_string_value(json_object_get(v, "message")), ==, "bad \xc3\xa9?[2J ?");
        struct api_error back;
        struct err err = {0};
        g_assert_cmpint(api_error_parse(v, &back, &err), ==, 0);
        json_decref(v);
}

static void test_words_and_tables(void)
{
        g_assert_cmpstr(api_relation_name(API_RELATION_AT_LEAST), ==, ">=");
        g_assert_cmpint(api_relation_find("="), ==, API_RELATION_EQUAL);
        g_assert_cmpint(api_relation_find("none"), ==, 0);
        g_assert_cmpstr(api_relation_name((enum api_relation)99), ==, "none");
        g_assert_cmpint(api_keeper_method_find("vmm-start"), ==, API_KEEPER_VMM_START);
        g_assert_cmpint(api_keeper_method_find("exec"), ==, 0);
        g_assert_cmpint(api_guest_methods[API_GUEST_ONLINE].from, ==, API_SIDE_HOST);
        g_assert_true(api_guest_methods[API_GUEST_ENDED].is_notification);
        /* The schema's list of reasons is base's, word by word. */
        for (int r = 1; r < REASON_N; r++) {
                struct api_error e = {.reason = (enum reason)r};
                json_t *v = api_error_emit(&e);
                g_assert_cmpstr(json_string_value(json_object_get(v, "reason")), ==,
                                reason_name((enum reason)r));
                json_decref(v);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/json/read/refuses", test_read_refuses);
        g_test_add_func("/json/read/depth", test_read_depth);
        g_test_add_func("/json/read/messages-are-plain", test_read_messages_are_plain);
        g_test_add_func("/json/write", test_write);
        g_test_add_func("/json/messages", test_messages);
        g_test_add_func("/json/absent-means-empty", test_absent_means_empty);
        g_test_add_func("/json/emit-mends-text", test_emit_mends_text);
        g_test_add_func("/json/words-and-tables", test_words_and_tables);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Records of classes of service, and what is refused without a tree. tests/root has the rest. */
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include "keeper/class.h"

static void test_record(void)
{
        struct class_record r = {.vm = "v", .n_items = 2}, again;
        struct err err = {0};
        strcpy(r.items[0].name, "cache0");
        r.items[0].part = (struct class_part){.domain = 1, .ways = 2};
        strcpy(r.items[1].name, "membw1");
        r.items[1].part = (struct class_part){.domain = 1, .percent = 20};
        char *text = class_record_print(&r);
        if (class_record_parse(text, strlen(text), &again, &err) < 0)
                g_error("%s", err.sentence);
        g_assert_cmpstr(again.vm, ==, "v");
        g_assert_cmpuint(again.n_items, ==, 2);
        for (size_t i = 0; i < 2; i++) {
                g_assert_cmpstr(again.items[i].name, ==, r.items[i].name);
                g_assert_cmpmem(&again.items[i].part, sizeof(struct class_part), &r.items[i].part,
                                sizeof(struct class_part));
        }
        free(text);
}

static void test_refused(void)
{
        static const char *const rows[] = {
                "",
                "[]",
                "{\"vm\":\"v\"}",
                "{\"vm\":\"v\",\"items\":{}}",
                "{\"vm\":\"../v\",\"items\":{\"a\":{\"domain\":0,\"ways\":1,\"percent\":0}}}",
                "{\"vm\":\"v\",\"items\":{\"../a\":{\"domain\":0,\"ways\":1,\"percent\":0}}}",
                "{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":-1,\"ways\":1,\"percent\":0}}}",
                "{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":0,\"ways\":33,\"percent\":0}}}",
                "{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":0,\"ways\":0,\"percent\":101}}}",
                "{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":0,\"ways\":0,\"percent\":0}}}",
                "{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":0,\"ways\":1,\"percent\":10}}}",
                "{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":0,\"ways\":1,\"percent\":0,\"more\":1}}}",
                ("{\"vm\":\"v\",\"items\":{\"a\":{\"domain\":0,\"ways\":1,\"percent\":0},"
                 "\"b\":{\"domain\":1,\"ways\":1,\"percent\":0}}}"),
        };
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                struct class_record r = {.n_items = 7};
                g_test_message("%s", rows[i]);
                g_assert_cmpint(class_record_parse(rows[i], strlen(rows[i]), &r, NULL), <, 0);
                g_assert_cmpuint(r.n_items, ==, 7);
        }
}

static void test_limit(void)
{
        struct class_record r;
        struct err err = {0};
        for (int n = CLASS_ITEMS_MAX; n <= CLASS_ITEMS_MAX + 1; n++) {
                g_autoptr(GString) text = g_string_new("{\"vm\":\"v\",\"items\":{");
                for (int i = 0; i < n; i++)
                        g_string_append_printf(text, "%s\"cache%d\":{\"domain\":0,\"ways\":1,\"percent\":0}",
                                               i ? "," : "", i);
                g_string_append(text, "}}");
                int done = class_record_parse(text->str, text->len, &r, &err);
                g_assert_true((done < 0) == (n > CLASS_ITEMS_MAX));
        }
}

static void test_unmanaged(void)
{
        static struct classes c;
        struct keeper_config config = {.run_dir = (char *)"/nonexistent"};
        struct class_part part = {.ways = 1};
        struct class_live live;
        struct class_said said;
        struct err err = {0};
        g_assert_cmpint(classes_init(&c, &config, &err), ==, 0);
        g_assert_cmpint(classes_hold(&c, "v", "cache0", &part, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(err.sentence, "[resctrl] manage"));
        g_assert_cmpint(classes_let_go(&c, "v", "cache0", &err), ==, 0);
        g_assert_cmpint(classes_drop(&c, "v", &err), ==, 0);
        g_assert_cmpint(classes_prune(&c, "v", NULL, 0, &err), ==, 0);
        g_assert_cmpint(classes_enter(&c, "v", 1, false, &err), ==, 0);
        g_assert_cmpint(classes_enter(&c, "v", 1, true, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        g_assert_cmpint(classes_read(&c, "v", "cache0", 0, &live, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_NOT_FOUND);
        classes_say(&c, &said);
        g_assert_false(said.is_ready);
        g_assert_cmpstr(said.fallbacks[0], ==, "");
        classes_done(&c);
        classes_done(&c);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/class/record", test_record);
        g_test_add_func("/class/refused", test_refused);
        g_test_add_func("/class/limit", test_limit);
        g_test_add_func("/class/unmanaged", test_unmanaged);
        return g_test_run();
}

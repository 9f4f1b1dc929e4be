/* SPDX-License-Identifier: Apache-2.0 */
#include <glib.h>
#include <stdlib.h>
#include "cli/table.h"

static char *printed(const struct table *t)
{
        char *text = NULL;
        size_t n = 0;
        FILE *out = open_memstream(&text, &n);

        table_print(t, out, "nothing");
        (void)fclose(out);
        return text;
}

static void test_columns(void)
{
        struct table *t = table_new((const char *const[]){"NAME", ">MEMORY", "STATE", NULL});

        table_text(t, "a");
        table_bytes(t, 536870912);
        table_text(t, "running");
        table_text(t, "longer-name");
        table_bytes(t, 4096);
        table_text(t, NULL);
        char *text = printed(t);
        g_assert_cmpstr(text, ==,
                        "NAME         MEMORY  STATE\n"
                        "a              512M  running\n"
                        "longer-name      4K  -\n");
        free(text);
        table_free(t);
}

static void test_empty(void)
{
        struct table *t = table_new((const char *const[]){"NAME", NULL});
        char *text = printed(t);

        g_assert_cmpstr(text, ==, "nothing\n");
        free(text);
        table_free(t);
        table_free(NULL);
}

static void test_terminal_is_safe(void)
{
        struct table *t = table_new((const char *const[]){"TEXT", NULL});

        table_text(t, "\033[2Jx\n\ty\177");
        char *text = printed(t);
        g_assert_cmpstr(text, ==, "TEXT\n?[2Jx??y?\n");
        free(text);
        table_free(t);
}

static void test_grows(void)
{
        struct table *t = table_new((const char *const[]){">N", NULL});
        size_t lines = 0;

        for (int i = 0; i < 1000; i++)
                table_number(t, i);
        char *text = printed(t);
        for (const char *c = text; *c != '\0'; c++)
                lines += *c == '\n';
        g_assert_cmpuint(lines, ==, 1001);
        free(text);
        table_free(t);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cli/table/columns", test_columns);
        g_test_add_func("/cli/table/empty", test_empty);
        g_test_add_func("/cli/table/terminal-is-safe", test_terminal_is_safe);
        g_test_add_func("/cli/table/grows", test_grows);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* server upgrade: what is refused before anybody is asked, and what a script learns of how it ended. */
#include <glib.h>
#include "base/str.h"
#include "cli/exit.h"
#include "cli/host.h"

static int run(const char *words)
{
        const struct verb_table table = {"Server", server_verbs, server_verbs_n};
        g_autofree char *line =
                g_strdup_printf("mete server upgrade --socket /nonexistent/sp.sock %s", words);
        g_auto(GStrv) argv = g_strsplit(line, " ", -1);
        guint n = g_strv_length(argv);
        g_autofree char **sorted =
                g_memdup2(argv, (n + 1) * sizeof(*argv)); /* argv stays whose words it frees */
        struct arguments a;
        struct err err = {0};
        g_assert_cmpint(arguments_parse(&table, 1, (int)n, sorted, &a, &err), ==, 0);
        return host_server_upgrade(&a);
}

/* What would show how another one stands, or break off whichever there is, where something else was meant. */
static void test_misused(void)
{
        static const char *const bad[] = {"a",
                                          "--dry-run",
                                          "--id up-1",
                                          "--detach",
                                          "--as b --max-gap 50ms",
                                          "--vmm /bin/sh",
                                          "a --vmm /bin/sh --memory 1G",
                                          "--cancel --vmm /bin/sh",
                                          "a --cancel --dry-run"};
        static const char *const good[] = {"--json", "a --vmm /bin/sh --cpus 0 --memory 1G", "--cancel",
                                           "a --cancel", "--cancel --id up-1 --detach"};
        for (size_t i = 0; i < ARRAY_N(bad); i++)
                g_assert_cmpint(run(bad[i]), ==, EXIT_USAGE);
        for (size_t i = 0; i < ARRAY_N(good); i++)
                g_assert_cmpint(run(good[i]), ==, EXIT_UNAVAILABLE);
}

static void test_status(void)
{
        static const struct {
                const char *text;
                int started, cancelled;
        } rows[] = {
                {"{'state':'moving','vms':[]}",                                                                EXIT_OK,     EXIT_OK     },
                {"{'state':'done','ended_ms':1,'vms':[{'state':'went'}]}",                                     EXIT_OK,     EXIT_NOT_NOW},
                {"{'state':'done','ended_ms':1,'vms':[{'state':'went'},{'state':'left'}]}",                    EXIT_FAILED,
                 EXIT_NOT_NOW                                                                                                           },
                {"{'state':'undone','ended_ms':1,'would':true,'reason':'cancelled','vms':[{'state':'fits'}]}",
                 EXIT_OK,                                                                                                   EXIT_OK     },
                {"{'state':'undone','ended_ms':1,'would':true,'reason':'cancelled','vms':[{'state':'left'}]}",
                 EXIT_FAILED,                                                                                               EXIT_OK     },
                {"{'state':'undone','ended_ms':1,'reason':'denied','vms':[]}",                                 EXIT_DENIED, EXIT_OK     },
                {"{'state':'undone','ended_ms':1,'vms':[]}",                                                   EXIT_FAILED, EXIT_OK     },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                g_autofree char *text = g_strdelimit(g_strdup(rows[i].text), "'", '"');
                json_t *u = json_loads(text, 0, NULL);
                g_assert_nonnull(u);
                g_assert_cmpint(host_upgrade_status(u, false), ==, rows[i].started);
                g_assert_cmpint(host_upgrade_status(u, true), ==, rows[i].cancelled);
                json_decref(u);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cli/upgrade/misused", test_misused);
        g_test_add_func("/cli/upgrade/status", test_status);
        return g_test_run();
}

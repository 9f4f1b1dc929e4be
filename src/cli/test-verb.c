/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include "base/str.h"
#include "cli/exit.h"
#include "cli/verb.h"

static int ran;

static int run(const struct arguments *a)
{
        ran++;
        return a->n_operands;
}

static const struct option_row create_options[] = {
        {"--cpus", "N", "CPUs", false},
        {"--need",  "NEED", "a need", true},
        {"--force",        NULL, "do it", false},
        {"--manager", "URL", "who is asked", false, true},
        {NULL   },
};
static const struct verb host[] = {
        {.words = "vm create",
         .operands = "NAME",
         .operands_min = 1,
         .operands_max = 1,
         .options = create_options,
         .summary = "Define a VM",
         .run = run},
        {.words = "ledger", .operands = "",         .summary = "Show the ledger",      .run = run},
};
static const struct verb guest[] = {
        {.words = "run",
         .operands = "-- COMMAND [ARGUMENT...]",
         .operands_min = 1,
         .command = true,
         .options = create_options,
         .summary = "Run",
         .run = run},
        {.words = "ledger",
         .operands = "NAME",
         .operands_min = 1,
         .operands_max = 1,
         .summary = "Other",
         .run = run},
};
static const struct verb_table tables[] = {
        {"On a host",  host,  ARRAY_N(host) },
        {"In a guest", guest, ARRAY_N(guest)}
};

#define PARSE(a, err, ...)                                                                                   \
        const char *argv_[] = {"mete", __VA_ARGS__, NULL};                                                   \
        int r = arguments_parse(tables, ARRAY_N(tables), (int)ARRAY_N(argv_) - 1, (char **)argv_, &(a),      \
                                &(err))

static void test_options_and_operands(void)
{
        struct arguments a;
        struct err err = {0};
        PARSE(a, err, "vm", "create", "--cpus=2", "v1", "--force", "--json");

        g_assert_cmpint(r, ==, 0);
        g_assert_true(a.verb == &host[0]);
        g_assert_cmpint(a.n_operands, ==, 1);
        g_assert_cmpstr(a.operands[0], ==, "v1");
        g_assert_null(a.operands[1]);
        g_assert_cmpstr(arguments_option(&a, "--cpus"), ==, "2");
        g_assert_cmpstr(arguments_option(&a, "--force"), ==, "--force");
        g_assert_nonnull(arguments_option(&a, "--json"));
        g_assert_null(arguments_option(&a, "--socket"));
}

/* What says who is asked may come first, as one writes it down once and then the verb. */
static void test_before_the_verb(void)
{
        struct arguments a;
        struct err err = {0};
        PARSE(a, err, "--manager", "https://m", "--json", "vm", "create", "v1", "--force");

        g_assert_cmpint(r, ==, 0);
        g_assert_true(a.verb == &host[0]);
        g_assert_cmpint(a.n_operands, ==, 1);
        g_assert_cmpstr(a.operands[0], ==, "v1");
        g_assert_cmpstr(arguments_option(&a, "--manager"), ==, "https://m");
        g_assert_nonnull(arguments_option(&a, "--json"));
        g_assert_nonnull(arguments_option(&a, "--force"));
        g_assert_null(arguments_option(&a, "--socket"));
}

/* The command's own words stay its own, whatever stands in front. */
static void test_before_a_command(void)
{
        struct arguments a;
        struct err err = {0};
        PARSE(a, err, "--socket=/s", "run", "--need=x", "true", "--json");

        g_assert_cmpint(r, ==, 0);
        g_assert_cmpstr(arguments_option(&a, "--socket"), ==, "/s");
        g_assert_cmpstr(arguments_option(&a, "--need"), ==, "x");
        g_assert_null(arguments_option(&a, "--json"));
        g_assert_cmpint(a.n_operands, ==, 2);
        g_assert_cmpstr(a.operands[1], ==, "--json");
}

static void test_repeats(void)
{
        struct arguments a;
        struct err err = {0};
        size_t at = 0;
        PARSE(a, err, "run", "--need", "cpu:1", "--need", "memory:1G", "true", "--need", "x");

        g_assert_cmpint(r, ==, 0);
        g_assert_cmpstr(arguments_each(&a, "--need", &at), ==, "cpu:1");
        g_assert_cmpstr(arguments_each(&a, "--need", &at), ==, "memory:1G");
        g_assert_null(arguments_each(&a, "--need", &at));
        /* what follows the command is the command's */
        g_assert_cmpint(a.n_operands, ==, 3);
        g_assert_cmpstr(a.operands[1], ==, "--need");
}

static void test_double_dash(void)
{
        struct arguments a;
        struct err err = {0};
        PARSE(a, err, "run", "--", "--force", "--", "x");

        g_assert_cmpint(r, ==, 0);
        g_assert_null(arguments_option(&a, "--force"));
        g_assert_cmpint(a.n_operands, ==, 3);
        g_assert_cmpstr(a.operands[0], ==, "--force");
        g_assert_cmpstr(a.operands[1], ==, "--");
}

static void test_refused(void)
{
        static const struct {
                const char *argv[7];
                int r;
                const char *sentence;
        } rows[] = {
                {{"mete"},                                   -ENOENT, "no such verb: (none)"                 },
                {{"mete", "vm"},                             -ENOENT, "no such verb: vm"                     },
                {{"mete", "vm", "creat", "x"},               -ENOENT, "no such verb: vm creat"               },
                {{"mete", "vm", "create"},                   -EINVAL, "needs NAME"                           },
                {{"mete", "vm", "create", "a", "b"},         -EINVAL, "one too many: b"                      },
                {{"mete", "vm", "create", "a", "--cpu=2"},   -EINVAL, "unknown option --cpu"                 },
                {{"mete", "vm", "create", "a", "--cpus"},    -EINVAL, "--cpus needs a value: N"              },
                {{"mete", "vm", "create", "a", "--force=1"}, -EINVAL, "--force takes no value"               },
                {{"mete", "ledger", "--json", "--json"},     -EINVAL, "--json was given twice"               },
                {{"mete", "run", "--need", "x"},             -EINVAL, "needs -- COMMAND [ARGUMENT...]"       },
                {{"mete", "--json"},                         -ENOENT, "no such verb: (none)"                 },
                {{"mete", "--socket"},                       -ENOENT, "no such verb: (none)"                 },
                {{"mete", "--socket", "vm", "creat"},        -ENOENT, "no such verb: creat"                  },
                {{"mete", "--manager=m", "ledger"},          -EINVAL, "unknown option --manager"             },
                {{"mete", "--json", "ledger", "--json"},     -EINVAL, "--json was given twice"               },
                {{"mete", "--json=1", "ledger"},             -EINVAL, "--json takes no value"                },
                {{"mete", "--cpus", "2", "vm", "create"},
                 -EINVAL,
                 "no option --cpus is taken before the verb"                                                 },
                {{"mete", "-x", "ledger"},                   -EINVAL, "no option -x is taken before the verb"},
        };

        for (size_t i = 0; i < ARRAY_N(rows); i++) {
                struct arguments a = {.n_operands = 77};
                struct err err = {0};
                char *argv[7];
                int argc = 0;
                for (; argc < 6 && rows[i].argv[argc] != NULL; argc++)
                        argv[argc] = (char *)rows[i].argv[argc];
                argv[argc] = NULL;
                g_assert_cmpint(arguments_parse(tables, ARRAY_N(tables), argc, argv, &a, &err), ==,
                                rows[i].r);
                g_assert_cmpstr(err.sentence, ==, rows[i].sentence);
                g_assert_cmpint(a.n_operands, ==, 77);
        }
}

static void test_too_many_options(void)
{
        struct arguments a;
        struct err err = {0};
        char *argv[2 * ARGUMENTS_OPTIONS_MAX + 6];
        int argc = 0;

        argv[argc++] = (char *)"mete";
        argv[argc++] = (char *)"run";
        for (int i = 0; i <= ARGUMENTS_OPTIONS_MAX; i++)
                argv[argc++] = (char *)"--need=x";
        argv[argc] = NULL;
        g_assert_cmpint(arguments_parse(tables, ARRAY_N(tables), argc, argv, &a, &err), ==, -EINVAL);
}

static void test_first_table_wins(void)
{
        struct arguments a;
        struct err err = {0};
        PARSE(a, err, "ledger");

        g_assert_cmpint(r, ==, 0);
        g_assert_true(a.verb == &host[1]);
}

static void test_main(void)
{
        char *argv[] = {(char *)"mete", (char *)"vm", (char *)"create", (char *)"v", NULL};

        ran = 0;
        g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 4, argv), ==, 1);
        g_assert_cmpint(ran, ==, 1);
}

/* What an error message points at must exist: "see 'mete help vm'". */
static void test_group(void)
{
        char *help[] = {(char *)"mete", (char *)"help", (char *)"vm", NULL};
        char *option[] = {(char *)"mete", (char *)"vm", (char *)"--help", NULL};
        char *nothing[] = {(char *)"mete", (char *)"vm", NULL};
        char *half[] = {(char *)"mete", (char *)"help", (char *)"v", NULL};
        char *behind[] = {(char *)"mete", (char *)"--json", (char *)"vm", (char *)"--help", NULL};
        char *wrong[] = {(char *)"mete", (char *)"--force", (char *)"vm", NULL};

        if (g_test_subprocess()) {
                g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 3, help), ==, EXIT_OK);
                g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 3, option), ==, EXIT_OK);
                g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 2, nothing), ==, EXIT_USAGE);
                g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 3, half), ==, EXIT_USAGE);
                g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 4, behind), ==, EXIT_OK);
                g_assert_cmpint(verb_main(tables, ARRAY_N(tables), 3, wrong), ==, EXIT_USAGE);
                return;
        }
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
        g_test_trap_assert_stdout("*mete vm create NAME*Define a VM*mete vm create NAME*Define a VM*");
        g_test_trap_assert_stderr(
                "*'mete help vm' lists them*no such verb: v\n*--force is taken before the verb*");
}

static void test_exits(void)
{
        /* every reason has a status that the table explains, and none of them is success */
        for (int reason = 1; reason < REASON_N; reason++) {
                enum exit_status status = exit_from_reason((enum reason)reason);
                size_t i = 0;
                while (i < exit_rows_n && exit_rows[i].status != status)
                        i++;
                g_assert_cmpuint(i, <, exit_rows_n);
                g_assert_cmpint(status, !=, EXIT_OK);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/cli/verb/options-and-operands", test_options_and_operands);
        g_test_add_func("/cli/verb/before-the-verb", test_before_the_verb);
        g_test_add_func("/cli/verb/before-a-command", test_before_a_command);
        g_test_add_func("/cli/verb/repeats", test_repeats);
        g_test_add_func("/cli/verb/double-dash", test_double_dash);
        g_test_add_func("/cli/verb/refused", test_refused);
        g_test_add_func("/cli/verb/too-many-options", test_too_many_options);
        g_test_add_func("/cli/verb/first-table-wins", test_first_table_wins);
        g_test_add_func("/cli/verb/main", test_main);
        g_test_add_func("/cli/verb/group", test_group);
        g_test_add_func("/cli/exit/every-reason", test_exits);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/verb.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"
#include "cli/exit.h"

/* clang-format off */
const struct option_row verb_common_options[] = {
        {"--json", NULL, "print what the daemon answers, as JSON", false, true},
        {"--socket", "PATH",
         "socket to use (METE_SOCKET; default /run/mete/meted.sock or, in a guest, /run/mete/agent.sock)", false, true},
        {"--help", NULL, "say what this verb does and takes", false, true},
        {NULL},
};
/* clang-format on */

static size_t verb_help_group(FILE *out, const struct verb_table *tables, size_t n_tables, const char *word);

/* How many of argv's first words are this verb's name; 0: it is not this verb. */
static int words_match(const char *words, int argc, char **argv)
{
        int n = 0;

        for (const char *at = words; *at != '\0';) {
                size_t length = strcspn(at, " ");
                if (n >= argc || strlen(argv[n]) != length || strncmp(argv[n], at, length) != 0)
                        return 0;
                n++;
                at += length;
                at += strspn(at, " ");
        }
        return n;
}

static const struct verb *verb_find(const struct verb_table *tables, size_t n_tables, int argc, char **argv,
                                    int *ret_words)
{
        for (size_t t = 0; t < n_tables; t++) {
                for (size_t i = 0; i < tables[t].n; i++) {
                        int n = words_match(tables[t].verbs[i].words, argc, argv);
                        if (n > 0) {
                                *ret_words = n;
                                return &tables[t].verbs[i];
                        }
                }
        }
        return NULL;
}

static const struct option_row *option_find_in(const struct option_row *rows, const char *name, size_t length)
{
        for (; rows != NULL && rows->name != NULL; rows++)
                if (strlen(rows->name) == length && strncmp(rows->name, name, length) == 0)
                        return rows;
        return NULL;
}

static const struct option_row *option_find(const struct verb *verb, const char *name, size_t length)
{
        const struct option_row *row = option_find_in(verb->options, name, length);
        return row != NULL ? row : option_find_in(verb_common_options, name, length);
}

/* That may stand before the verb, of whichever verb it is. */
static const struct option_row *option_find_leading(const struct verb_table *tables, size_t n_tables,
                                                    const char *name, size_t length)
{
        const struct option_row *row = option_find_in(verb_common_options, name, length);
        for (size_t t = 0; t < n_tables && row == NULL; t++)
                for (size_t i = 0; i < tables[t].n && row == NULL; i++)
                        row = option_find_in(tables[t].verbs[i].options, name, length);
        return row != NULL && row->leads ? row : NULL;
}

/* Where in argv the verb is: behind the options before it. */
static int verb_at(const struct verb_table *tables, size_t n_tables, int argc, char **argv, int *ret,
                   struct err *err)
{
        int at = 1;
        while (at < argc && argv[at][0] == '-') {
                const char *text = argv[at++];
                size_t length = strcspn(text, "=");
                const struct option_row *row = option_find_leading(tables, n_tables, text, length);
                if (row == NULL)
                        return err_set(err, REASON_INVALID, EINVAL, "no option %.*s is taken before the verb",
                                       (int)length, text);
                at += row->value != NULL && text[length] == '\0';
        }
        *ret = at < argc ? at : argc;
        return 0;
}

/* One option at argv[*at]; moves *at behind it. */
static int option_parse(struct arguments *a, int argc, char **argv, int *at, struct err *err)
{
        const char *text = argv[(*at)++];
        size_t length = strcspn(text, "=");
        const struct option_row *row = option_find(a->verb, text, length);
        const char *value = text[length] == '=' ? text + length + 1 : NULL;

        if (row == NULL)
                return err_set(err, REASON_INVALID, EINVAL, "unknown option %.*s", (int)length, text);
        if (row->value == NULL && value != NULL)
                return err_set(err, REASON_INVALID, EINVAL, "%s takes no value", row->name);
        if (row->value != NULL && value == NULL) {
                if (*at >= argc)
                        return err_set(err, REASON_INVALID, EINVAL, "%s needs a value: %s", row->name,
                                       row->value);
                value = argv[(*at)++];
        }
        if (!row->repeats && arguments_option(a, row->name) != NULL)
                return err_set(err, REASON_INVALID, EINVAL, "%s was given twice", row->name);
        if (a->n_options == ARGUMENTS_OPTIONS_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "more than %d options", ARGUMENTS_OPTIONS_MAX);
        a->options[a->n_options].row = row;
        a->options[a->n_options].value = value != NULL ? value : row->name;
        a->n_options++;
        return 0;
}

int arguments_parse(const struct verb_table *tables, size_t n_tables, int argc, char **argv,
                    struct arguments *ret, struct err *err)
{
        struct arguments a = {0};
        int words = 0, begin = 1;
        bool only_operands = false;

        if (verb_at(tables, n_tables, argc, argv, &begin, err) < 0) /* argv[0] is the program */
                return -EINVAL;
        a.verb = begin < argc ? verb_find(tables, n_tables, argc - begin, argv + begin, &words) : NULL;
        if (a.verb == NULL) {
                const char *next = begin + 1 < argc && argv[begin + 1][0] != '-' ? argv[begin + 1] : "";
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no such verb: %s%s%s",
                               begin < argc ? argv[begin] : "(none)", *next != '\0' ? " " : "", next);
        }
        for (int at = 1; at < begin;) {
                int r = option_parse(&a, begin, argv, &at, err);
                if (r < 0)
                        return r;
        }
        a.operands = argv + begin + words;
        for (int at = begin + words; at < argc;) {
                if (!only_operands && strcmp(argv[at], "--") == 0) {
                        only_operands = true;
                        at++;
                } else if (!only_operands && argv[at][0] == '-' && argv[at][1] != '\0') {
                        int r = option_parse(&a, argc, argv, &at, err);
                        if (r < 0)
                                return r;
                } else {
                        a.operands[a.n_operands++] = argv[at++];
                        only_operands = only_operands || a.verb->command;
                }
        }
        /* argv itself ends in NULL, so there is room for ours. */
        a.operands[a.n_operands] = NULL;
        if (arguments_option(&a, "--help") == NULL) {
                if (a.n_operands < a.verb->operands_min)
                        return err_set(err, REASON_INVALID, EINVAL, "needs %s", a.verb->operands);
                if (a.verb->operands[0] == '\0' && !a.verb->command && a.n_operands > 0 &&
                    verb_help_group(NULL, tables, n_tables, a.verb->words) > 0)
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "no such verb: %s %s", a.verb->words,
                                       a.operands[0]);
                if (!a.verb->command && a.n_operands > a.verb->operands_max)
                        return err_set(err, REASON_INVALID, EINVAL, "one too many: %s",
                                       a.operands[a.verb->operands_max]);
        }
        *ret = a;
        return 0;
}

const char *arguments_each(const struct arguments *a, const char *name, size_t *at)
{
        while (*at < a->n_options) {
                size_t i = (*at)++;
                if (strcmp(a->options[i].row->name, name) == 0)
                        return a->options[i].value;
        }
        return NULL;
}

const char *arguments_option(const struct arguments *a, const char *name)
{
        size_t at = 0;
        return arguments_each(a, name, &at);
}

static void print_option(FILE *out, const struct option_row *row)
{
        char left[64];

        (void)snprintf(left, sizeof(left), "%s%s%s", row->name, row->value != NULL ? " " : "",
                       row->value != NULL ? row->value : "");
        (void)fprintf(out, "  %-24s %s%s\n", left, row->text, row->repeats ? " (may be repeated)" : "");
}

/* All verbs that have such options of their own have the same ones: those that say who is asked. */
static void print_leading(FILE *out, const struct verb_table *tables, size_t n_tables)
{
        bool is_said = false;
        (void)fputs("They may stand before the verb, too", out);
        for (size_t t = 0; t < n_tables && !is_said; t++) {
                for (size_t i = 0; i < tables[t].n && !is_said; i++) {
                        const struct option_row *row = tables[t].verbs[i].options;
                        for (; row != NULL && row->name != NULL; row++) {
                                if (row->leads)
                                        (void)fprintf(out, "%s%s", is_said ? ", " : ", as may ", row->name);
                                is_said = is_said || row->leads;
                        }
                }
        }
        (void)fputs(".\n", out);
}

static void verb_help_one(FILE *out, const struct verb *verb)
{
        (void)fprintf(out, "mete %s%s%s%s\n\n%s.\n", verb->words, verb->options != NULL ? " [OPTION...]" : "",
                      verb->operands[0] != '\0' ? " " : "", verb->operands, verb->summary);
        if (verb->text != NULL)
                (void)fprintf(out, "%s\n", verb->text);
        (void)fputs("\nOptions:\n", out);
        for (const struct option_row *row = verb->options; row != NULL && row->name != NULL; row++)
                print_option(out, row);
        for (const struct option_row *row = verb_common_options; row->name != NULL; row++)
                print_option(out, row);
}

void verb_help(FILE *out, const struct verb_table *tables, size_t n_tables)
{
        (void)fputs(
                "mete - virtual machines that ask for what they need\n\nmete VERB [OPTION...] [OPERAND...]\n",
                out);
        for (size_t t = 0; t < n_tables; t++) {
                (void)fprintf(out, "\n%s:\n", tables[t].title);
                for (size_t i = 0; i < tables[t].n; i++) {
                        const struct verb *verb = &tables[t].verbs[i];
                        char left[64];
                        (void)snprintf(left, sizeof(left), "%s %s", verb->words, verb->operands);
                        (void)fprintf(out, "  %-28s %s\n", left, verb->summary);
                }
        }
        (void)fputs("\nOptions of every verb:\n", out);
        for (const struct option_row *row = verb_common_options; row->name != NULL; row++)
                print_option(out, row);
        print_leading(out, tables, n_tables);
        (void)fputs("\nExit status:\n", out);
        for (size_t i = 0; i < exit_rows_n; i++)
                (void)fprintf(out, "  %-3d %s\n", exit_rows[i].status, exit_rows[i].meaning);
        (void)fputs("\n'mete VERB --help' says more; the manual is mete(1).\n", out);
}

/* Verbs of two words by their first, such as vm: how many there are; listed if out is not NULL. */
static size_t verb_help_group(FILE *out, const struct verb_table *tables, size_t n_tables, const char *word)
{
        size_t length = strlen(word);
        size_t n = 0;

        for (size_t t = 0; t < n_tables; t++) {
                for (size_t i = 0; i < tables[t].n; i++) {
                        const struct verb *verb = &tables[t].verbs[i];
                        if (length == 0 || strncmp(verb->words, word, length) != 0 ||
                            verb->words[length] != ' ')
                                continue;
                        n++;
                        if (out != NULL)
                                (void)fprintf(out, "mete %s %s\n        %s\n", verb->words, verb->operands,
                                              verb->summary);
                }
        }
        return n;
}

/* The tables as JSON, for tools/gen-man. Their texts hold no control characters; quotes are escaped. */
static void dump_text(const char *name, const char *text, const char *end)
{
        (void)printf("\"%s\":\"", name);
        for (; text != NULL && *text != '\0'; text++) {
                if (*text == '"' || *text == '\\')
                        (void)putchar('\\');
                (void)putchar(*text);
        }
        (void)printf("\"%s", end);
}

static void dump_options(const struct option_row *rows)
{
        (void)fputs("\"options\":[", stdout);
        for (const struct option_row *row = rows; row != NULL && row->name != NULL; row++) {
                (void)fputs(row == rows ? "{" : ",{", stdout);
                dump_text("name", row->name, ",");
                dump_text("value", row->value, ",");
                dump_text("text", row->text, ",");
                (void)printf("\"repeats\":%s,\"leads\":%s}", row->repeats ? "true" : "false",
                             row->leads ? "true" : "false");
        }
        (void)fputs("]", stdout);
}

static void verb_dump(const struct verb_table *tables, size_t n_tables)
{
        (void)fputs("{\"tables\":[", stdout);
        for (size_t t = 0; t < n_tables; t++) {
                (void)fputs(t == 0 ? "{" : ",{", stdout);
                dump_text("title", tables[t].title, ",\"verbs\":[");
                for (size_t i = 0; i < tables[t].n; i++) {
                        const struct verb *verb = &tables[t].verbs[i];
                        (void)fputs(i == 0 ? "{" : ",{", stdout);
                        dump_text("words", verb->words, ",");
                        dump_text("operands", verb->operands, ",");
                        dump_text("summary", verb->summary, ",");
                        dump_text("text", verb->text, ",");
                        dump_options(verb->options);
                        (void)fputs("}", stdout);
                }
                (void)fputs("]}", stdout);
        }
        (void)fputs("],\"common\":{", stdout);
        dump_options(verb_common_options);
        (void)fputs("},\"exits\":[", stdout);
        for (size_t i = 0; i < exit_rows_n; i++) {
                (void)printf("%s{\"status\":%d,", i == 0 ? "" : ",", exit_rows[i].status);
                dump_text("meaning", exit_rows[i].meaning, "}");
        }
        (void)fputs("]}\n", stdout);
}

int verb_fail(const struct arguments *a, const struct err *err)
{
        (void)fprintf(stderr, "mete %s: %s (%s)\n", a->verb->words, err->sentence, reason_name(err->reason));
        return exit_from_reason(err->reason);
}

int verb_main(const struct verb_table *tables, size_t n_tables, int argc, char **argv)
{
        struct arguments a;
        struct err err = {0};
        const char *first = argc > 1 ? argv[1] : "";

        if (strcmp(first, "help") == 0 || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0) {
                int words = 0;
                const struct verb *verb =
                        argc > 2 ? verb_find(tables, n_tables, argc - 2, argv + 2, &words) : NULL;
                if (argc == 3 && verb == NULL && verb_help_group(stdout, tables, n_tables, argv[2]) > 0)
                        return EXIT_OK;
                if (argc > 2 && verb == NULL) {
                        (void)fprintf(stderr, "mete help: no such verb: %s\n", argv[2]);
                        return EXIT_USAGE;
                }
                if (verb == NULL) {
                        verb_help(stdout, tables, n_tables);
                        return EXIT_OK;
                }
                verb_help_one(stdout, verb);
                if (verb_help_group(NULL, tables, n_tables, verb->words) > 0)
                        (void)fputs("\nBesides:\n", stdout);
                (void)verb_help_group(stdout, tables, n_tables, verb->words);
                return EXIT_OK;
        }
        if (strcmp(first, "version") == 0 || strcmp(first, "--version") == 0) {
                (void)puts("mete " METE_VERSION);
                return EXIT_OK;
        }
        if (strcmp(first, "--dump-verbs") == 0) {
                verb_dump(tables, n_tables);
                return EXIT_OK;
        }
        if (argc < 2) {
                verb_help(stderr, tables, n_tables);
                return EXIT_USAGE;
        }
        int words = 0, begin = 1;
        if (verb_at(tables, n_tables, argc, argv, &begin, &err) < 0) {
                (void)fprintf(stderr, "mete: %s; see 'mete help'\n", err.sentence);
                return EXIT_USAGE;
        }
        first = begin < argc ? argv[begin] : "";
        if (argc == begin + 2 && strcmp(argv[begin + 1], "--help") == 0 &&
            verb_find(tables, n_tables, argc - begin, argv + begin, &words) == NULL &&
            verb_help_group(stdout, tables, n_tables, first) > 0)
                return EXIT_OK;
        int r = arguments_parse(tables, n_tables, argc, argv, &a, &err);
        if (r == -ENOENT) {
                bool group = verb_help_group(NULL, tables, n_tables, first) > 0;
                (void)fprintf(stderr, "mete: %s; 'mete help%s%s' lists them\n", err.sentence,
                              group ? " " : "", group ? first : "");
                return EXIT_USAGE;
        }
        if (r < 0) {
                const struct verb *verb = verb_find(tables, n_tables, argc - begin, argv + begin, &words);
                const char *name = verb != NULL ? verb->words : first;
                (void)fprintf(stderr, "mete %s: %s; see 'mete help %s'\n", name, err.sentence, name);
                return EXIT_USAGE;
        }
        if (arguments_option(&a, "--help") != NULL) {
                verb_help_one(stdout, a.verb);
                return EXIT_OK;
        }
        return a.verb->run(&a);
}

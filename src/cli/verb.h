/* SPDX-License-Identifier: Apache-2.0 */
/* cli/verb.h - the verbs of `mete`: one table feeds parser, --help and the manual page.
 *
 * A verb is one or two words ("vm create"), then options and operands in any order; with `command`, whatever
 * follows the first operand or "--" belongs to the command that is run. Options are "--name VALUE" or
 * "--name=VALUE". Every verb also takes the options of verb_common_options. Those, and what else says who is
 * asked, may also stand before the verb. Needs libc only: it is part of the static binary that goes into
 * guests. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "base/err.h"

enum { ARGUMENTS_OPTIONS_MAX = 24 };

struct option_row {
        const char *name;  /* "--cpus"; NULL ends a table */
        const char *value; /* what it takes, as help shows it: "N[..M]". NULL: a flag */
        const char *text;  /* one line for --help and the manual */
        bool repeats;
        bool leads; /* may stand before the verb, too; it has the same `value` in every verb that takes it */
};
extern const struct option_row verb_common_options[]; /* --json --socket --help */

struct verb;

/* A command line that was understood. Borrows argv. */
struct arguments {
        const struct verb *verb;
        size_t n_options;
        struct {
                const struct option_row *row;
                const char *value;
        } options[ARGUMENTS_OPTIONS_MAX];
        char **operands; /* also the command and its arguments, where the verb takes a command;
                            NULL-terminated */
        int n_operands;
};

struct verb {
        const char *words;                     /* "vm create" */
        const char *operands;                  /* as help shows them: "NAME"; "" where there are none */
        int operands_min, operands_max;        /* with `command`, operands_max is ignored */
        bool command;                          /* takes a command line of its own */
        const struct option_row *options;      /* NULL: none of its own */
        const char *summary;                   /* one line */
        const char *text;                      /* a paragraph for the manual; NULL: the summary says all */
        int (*run)(const struct arguments *a); /* returns an exit status, has said what was wrong on stderr */
};

struct verb_table {
        const char *title; /* "On a host" */
        const struct verb *verbs;
        size_t n;
};

/* Finds the verb in the first table that has it, and sorts its arguments. The order of operands is kept by
 * moving pointers within argv. -EINVAL with a sentence; -ENOENT where the words name no verb. */
int arguments_parse(const struct verb_table *tables, size_t n_tables, int argc, char **argv,
                    struct arguments *ret, struct err *err);
/* The value of an option (for a flag: its name), or NULL where it was not given. */
const char *arguments_option(const struct arguments *a, const char *name);
/* Values of a repeated option: call with *at = 0 first; NULL at the end. */
const char *arguments_each(const struct arguments *a, const char *name, size_t *at);

/* All of `mete`: finds the verb, runs it, gives help. Returns the exit status. */
int verb_main(const struct verb_table *tables, size_t n_tables, int argc, char **argv);
void verb_help(FILE *out, const struct verb_table *tables, size_t n_tables);
/* "mete vm create: SENTENCE" on stderr; returns the exit status that goes with the reason. */
int verb_fail(const struct arguments *a, const struct err *err);

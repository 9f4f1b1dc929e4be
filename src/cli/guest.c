/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/guest.h"
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "cli/exit.h"
#include "cli/table.h"
#include "lib/handle.h"

int guest_fail(const struct arguments *a, const struct mete_error *e)
{
        struct err err = {.reason = (enum reason)e->reason, .code = e->code};

        (void)STR_COPY(err.sentence, e->sentence);
        return verb_fail(a, &err);
}

/* METE_SOCKET is also what the verbs of a host take meted's socket from. */
static void blame_socket(const struct arguments *a, struct mete_error *e)
{
        const char *given = arguments_option(a, "--socket"), *variable = getenv("METE_SOCKET");
        const char *path = GUEST_SOCKET, *guess = "";

        if (given != NULL) {
                path = given;
                guess = "; is it meted's socket?";
        } else if (variable != NULL && *variable != '\0') {
                path = variable;
                guess = "; is METE_SOCKET meted's socket?";
        }
        e->reason = METE_REASON_PEER_LOST;
        (void)snprintf(e->sentence, sizeof(e->sentence), "%.108s did not answer as mete-agent does%s", path,
                       guess);
}

int guest_open(const struct arguments *a, struct mete **ret)
{
        struct mete_error err;
        struct mete *m = NULL;

        if (mete_open(arguments_option(a, "--socket"), &m, &err) < 0)
                return guest_fail(a, &err);
        /* Nothing is asked of somebody else, who would keep us waiting. */
        if (mete_about(m, NULL, &err) < 0) {
                if (err.code == ETIMEDOUT || err.code == EPROTO || err.code == EMSGSIZE ||
                    err.reason == METE_REASON_INVALID)
                        blame_socket(a, &err);
                mete_close(m);
                return guest_fail(a, &err);
        }
        *ret = m;
        return 0;
}

/* ---- requests, leases ---- */

static void joined(char *buf, size_t size, const char needs[][128], size_t n)
{
        size_t at = 0;

        buf[0] = '\0';
        for (size_t i = 0; i < n && at < size; i++)
                at += (size_t)snprintf(buf + at, size - at, "%s%s", i > 0 ? " " : "", needs[i]);
}

static void numbers(char *buf, size_t size, const int *v, size_t n)
{
        size_t at = 0;

        buf[0] = '\0';
        for (size_t i = 0; i < n && at < size; i++)
                at += (size_t)snprintf(buf + at, size - at, "%s%d", i > 0 ? "," : "", v[i]);
}

static bool is_lease(const char *state)
{
        return strcmp(state, "granted") == 0 || strcmp(state, "releasing") == 0;
}

static void print_requests(const struct mete_list *list, bool leases)
{
        static const char *const request_titles[] = {"ID",   "STATE", "NEEDS",    "REASON", "APPLICATION",
                                                     ">UID", "SINCE", "SENTENCE", NULL};
        static const char *const why_titles[] = {"ID",   "STATE", "NEEDS",    "REASON", "APPLICATION",
                                                 ">UID", "SINCE", "SENTENCE", "WHY",    NULL};
        static const char *const lease_titles[] = {"ID",          "STATE", "NEEDS", "CPUS", ">MEMORY",
                                                   "APPLICATION", ">UID",  "SINCE", NULL};
        bool has_why = false; /* only the agent's own have */
        for (size_t i = 0; i < list->n; i++)
                has_why = has_why || list->rows[i]->why[0] != '\0';
        struct table *t = table_new(leases ? lease_titles : has_why ? why_titles : request_titles);

        for (size_t i = 0; t != NULL && i < list->n; i++) {
                const struct mete_row *row = list->rows[i];
                const struct mete_verdict *v = row->verdict;
                char needs[600], cpus[300];
                if (leases && !is_lease(row->state))
                        continue;
                joined(needs, sizeof(needs), row->needs, row->n_needs);
                numbers(cpus, sizeof(cpus), v != NULL ? v->cpus : NULL, v != NULL ? v->n_cpus : 0);
                table_text(t, row->id);
                table_text(t, row->state);
                table_text(t, needs);
                if (leases) {
                        table_text(t, cpus);
                        table_bytes(t, v != NULL ? v->memory_bytes : 0);
                } else {
                        table_text(t, v != NULL && v->reason != METE_REASON_NONE ? mete_reason_name(v->reason)
                                                                                 : "");
                }
                table_text(t, row->application);
                table_number(t, row->uid);
                table_time(t, row->since_ms);
                if (!leases)
                        table_text(t, row->problem[0] != '\0' ? row->problem : v != NULL ? v->sentence : "");
                if (!leases && has_why)
                        table_text(t, row->why);
        }
        if (t != NULL)
                table_print(t, stdout, leases ? "no leases" : "no requests");
        table_free(t);
}

/* What the agent says, without the rows that are no leases. */
static int list_json(const struct arguments *a, struct mete *m, bool leases)
{
        struct mete_error err;
        json_t *raw = NULL;
        size_t i = 0;

        if (mete_call_raw(m, "list", json_object(), &raw, &err) < 0)
                return guest_fail(a, &err);
        json_t *rows = json_object_get(raw, "rows");
        while (leases && i < json_array_size(rows)) {
                const char *state = json_string_value(json_object_get(json_array_get(rows, i), "state"));
                if (state != NULL && is_lease(state))
                        i++;
                else
                        (void)json_array_remove(rows, i);
        }
        (void)json_dumpf(raw, stdout, JSON_INDENT(2));
        (void)putchar('\n');
        json_decref(raw);
        return EXIT_OK;
}

static int list_rows(const struct arguments *a, bool leases)
{
        struct mete_list *list = NULL;
        struct mete_error err;
        struct mete *m = NULL;
        int status = guest_open(a, &m);

        if (status != 0)
                return status;
        if (arguments_option(a, "--json") != NULL) {
                status = list_json(a, m, leases);
        } else if (mete_list(m, &list, &err) < 0) {
                status = guest_fail(a, &err);
        } else {
                print_requests(list, leases);
                mete_list_free(list);
        }
        mete_close(m);
        return status;
}

static int guest_requests(const struct arguments *a)
{
        return list_rows(a, false);
}

static int guest_leases(const struct arguments *a)
{
        return list_rows(a, true);
}

static int guest_release(const struct arguments *a)
{
        struct mete_error err;
        struct mete *m = NULL;
        int status = guest_open(a, &m);

        if (status != 0)
                return status;
        if (mete_release(m, a->operands[0], &err) < 0)
                status = guest_fail(a, &err);
        else if (arguments_option(a, "--json") != NULL)
                (void)puts("{}");
        mete_close(m);
        return status;
}

static int guest_agent(const struct arguments *a)
{
        struct mete_about *about = NULL;
        struct mete_error err;
        struct mete *m = NULL;
        json_t *raw = NULL;
        int status = guest_open(a, &m);

        if (status != 0)
                return status;
        if (arguments_option(a, "--json") != NULL) {
                if (mete_call_raw(m, "hello", json_pack("{s:i}", "version", 1), &raw, &err) < 0) {
                        status = guest_fail(a, &err);
                } else {
                        (void)json_dumpf(raw, stdout, JSON_INDENT(2));
                        (void)putchar('\n');
                        json_decref(raw);
                }
        } else if (mete_about(m, &about, &err) < 0) {
                status = guest_fail(a, &err);
        } else {
                (void)printf("agent            %s\nhost             %s\nvm               %s\n", about->agent,
                             about->connected ? "connected" : "not reached",
                             about->vm[0] != '\0' ? about->vm : "-");
                if (about->project_ms > 0)
                        (void)printf("asks by itself   yes, measured every %.12g s\n",
                                     (double)about->project_ms / 1000);
                else
                        (void)puts("asks by itself   no (mete-agent --project)");
                mete_about_free(about);
        }
        mete_close(m);
        return status;
}

/* ---- the table ---- */

static const struct option_row run_options[] = {
        {"--need",    "NEED",     "a resource and how good it must be, such as cpu:2,share>=0.9 or memory:1G", true },
        {"--or-less", NULL,       "take a counter-offer of less, rather than nothing",                         false},
        {"--timeout", "DURATION", "give up after so long without a decision (60s)",                            false},
        {"--name",    "NAME",     "what the command is called in lists (the name of the program)",             false},
        {"--id",      "ID",
         "id of the request (made up); asking again with it has the same answer, so that of a refused or "
         "ended request is used up",                                                                           false},
        {"--verbose", NULL,       "say what this platform does in a lesser way (fallbacks)",                   false},
        {NULL,        NULL,       NULL,                                                                        false},
};

static const struct option_row declare_options[] = {
        {"--need",  "NEED",     "how much of what: memory:2G, cpu:2; one, another is declared beside it", false},
        {"--at",    "TIME",
         "when it begins: 22:00 (the next time that it is; with --every, the window that is under way, if "
         "one "
         "is), 2026-11-21T22:00, or +10m from now",                                                       false},
        {"--for",   "DURATION", "how long it lasts: 90m, 2h",                                             false},
        {"--every", "DURATION", "again after so long: hour, day, week, or 12h",                           false},
        {"--name",  "NAME",     "its name (made up); what had it is replaced",                            false},
        {NULL,      NULL,       NULL,                                                                     false},
};

const struct verb guest_verbs[] = {
        {.words = "run",
         .operands = "[--] COMMAND [ARGUMENT...]",
         .operands_min = 1,
         .command = true,
         .options = run_options,
         .summary = "Ask for resources, run a command with them, give them back",
         .text = "The command begins with the first word that is no option; '--' before it is good style. "
                 "Waits for the "
                 "decision; once everything is usable, runs the command, which finds "
                 "METE_REQUEST (the id), "
                 "METE_CPUS (numbers of the granted CPUs, with commas) and METE_MEMORY_BYTES in its "
                 "environment. All needs "
                 "are granted together, or none. Signals are passed on to the command; it is killed if 'mete "
                 "run' is. "
                 "The exit status is that of the command, 128+N if signal N ended it, 127 if it was not "
                 "found, 126 if it "
                 "could not be run; without a grant, the command is not run. Where the lease ends before the "
                 "command "
                 "does, by 'mete release' or by the host, that is said on stderr, and the command keeps "
                 "running "
                 "without what was granted.", .run = guest_run},
        {.words = "requests",
         .operands = "",
         .summary = "The requests of your programs, also those that have ended lately",
         .text = "Root sees those of all users.",
         .run = guest_requests},
        {.words = "leases",                                                          .operands = "",              .summary = "What your programs have now",                                                                                                           .run = guest_leases                                                                                                                                                                                                                                                           },
        {.words = "release",
         .operands = "ID",
         .operands_min = 1,
         .operands_max = 1,
         .summary = "End a lease, or withdraw a request",
         .text = "Allowed to its user, and to root. What has ended already is no error. A command under "
                 "'mete run' is "
                 "told and keeps running, without what was granted.", .run = guest_release},
        {.words = "declare list",
         .operands = "",
         .summary = "What is declared",
         .text = "Root sees the declarations of all users.",
         .run = guest_declare_list},
        {.words = "declare drop",
         .operands = "NAME",
         .operands_min = 1,
         .operands_max = 1,
         .summary = "Forget what was declared",
         .text = "Allowed to its user, and to root.",
         .run = guest_declare_drop},
        {.words = "declare",
         .operands = "",
         .options = declare_options,
         .summary = "Say in advance what will be needed, and when; prints its name",
         .text = "The agent keeps it, also when it ends and comes again, but not over a reboot of the guest, "
                 "as long "
                 "as its folder is in /run (mete-agent --state). One that asks by itself (mete-agent "
                 "--project) asks for it in time, and gives it back afterwards. Of what is declared for the "
                 "same "
                 "time the sum is needed. "
                 "Times are those of the guest's time zone; a day has 24 hours.", .run = guest_declare},
        {.words = "agent",
         .operands = "",
         .summary = "Whether the agent runs, reaches its host, and asks by itself",
         .run = guest_agent                                                                                                                                                                                                                                           },
};
const size_t guest_verbs_n = ARRAY_N(guest_verbs);

const struct verb guest_only_verbs[] = {
        {.words = "host show",
         .operands = "",
         .summary = "The host of this VM: what of it is this VM's own, free, or taken",
         .text = "As the host has told it, and tells again when it changes. The same for hwloc's tools is in "
                 "/run/mete/host.xml.", .run = guest_host_show},
};
const size_t guest_only_verbs_n = ARRAY_N(guest_only_verbs);

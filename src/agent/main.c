/* SPDX-License-Identifier: Apache-2.0 */
/* mete-agent: see agent/agent.h. */
#include <errno.h>
#include <getopt.h>
#include <glib-unix.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include "agent/agent.h"
#include "base/log.h"
#include "base/str.h"
#include "base/units.h"
#include "lib/id.h"

static const struct {
        const char *name, *value, *text;
} option_rows[] = {
        {"socket",  "PATH",     "where applications connect (/run/mete/agent.sock)"                    },
        {"port",    "PATH",
         "way to the host: a virtio-serial port (/dev/virtio-ports/org.mete.agent.0), unix:PATH"       },
        {"state",   "FOLDER",   "where the table of requests is kept (/run/mete/requests)"             },
        {"sys",     "FOLDER",   "where sysfs is (/sys)"                                                },
        {"project", "DURATION",
         "ask for what will be needed, by what is measured every so often, such as 10s (never)"        },
        {"log",     "LEVEL",    "least urgent level that is written: error warn note info debug (info)"},
        {"version", NULL,       "say the version"                                                      },
        {"help",    NULL,       "this text"                                                            },
};

static void help(void)
{
        (void)puts(
                "mete-agent - lets the programs of this virtual machine ask its host for what they need\n\n"
                "mete-agent [OPTION...]\n\nRuns in the foreground, logs to standard error, and ends with "
                "SIGTERM; requests\n"
                "and leases outlive it and are taken over by the next one. Programs use libmete, or `mete "
                "run`.\n");
        for (size_t i = 0; i < ARRAY_N(option_rows); i++)
                (void)printf("  --%s%s%-*s%s\n", option_rows[i].name, option_rows[i].value ? " " : "",
                             (option_rows[i].value ? 16 : 17) - (int)strlen(option_rows[i].name),
                             option_rows[i].value ? option_rows[i].value : "", option_rows[i].text);
        (void)puts("\nExit status: 0 ended by a signal, 1 could not begin, 64 the command line is wrong.");
}

static bool log_level_find(const char *name, enum log_level *ret)
{
        static const struct {
                const char *name;
                enum log_level level;
        } rows[] = {
                {"error", LOG_ERROR},
                {"warn",  LOG_WARN },
                {"note",  LOG_NOTE },
                {"info",  LOG_INFO },
                {"debug", LOG_DEBUG},
        };

        for (size_t i = 0; i < ARRAY_N(rows); i++)
                if (strcmp(rows[i].name, name) == 0) {
                        *ret = rows[i].level;
                        return true;
                }
        return false;
}

/* -1: go on; else exit with it. */
static int parse(int argc, char **argv, struct agent_options *o, enum log_level *level)
{
        struct option options[ARRAY_N(option_rows) + 1] = {0};
        const char **values[ARRAY_N(option_rows)] = {&o->socket, &o->port, &o->state, &o->sys};
        int at, c;

        for (size_t i = 0; i < ARRAY_N(option_rows); i++)
                options[i] =
                        (struct option){option_rows[i].name,
                                        option_rows[i].value ? required_argument : no_argument, NULL, 'o'};
        while ((c = getopt_long(argc, argv, "", options, &at)) != -1) {
                if (c == '?')
                        return 64;
                if (values[at] != NULL) {
                        *values[at] = optarg;
                } else if (strcmp(option_rows[at].name, "project") == 0) {
                        struct err err = {0};
                        int r = units_parse_ms(optarg, &o->project_ms, &err);
                        if (r == 0 &&
                            (o->project_ms < PROJECT_STEP_MIN_MS || o->project_ms > PROJECT_STEP_MAX_MS))
                                r = err_set(&err, REASON_INVALID, EINVAL, "%s: from 100ms to 1h", optarg);
                        if (r < 0) {
                                (void)fprintf(stderr, "mete-agent: --project %s\n", err.sentence);
                                return 64;
                        }
                } else if (strcmp(option_rows[at].name, "log") == 0) {
                        if (!log_level_find(optarg, level)) {
                                (void)fprintf(stderr, "mete-agent: --log %s: no such level\n", optarg);
                                return 64;
                        }
                } else if (strcmp(option_rows[at].name, "version") == 0) {
                        (void)puts("mete-agent " METE_VERSION);
                        return 0;
                } else {
                        help();
                        return 0;
                }
        }
        if (optind < argc) {
                (void)fprintf(stderr, "mete-agent: %s: takes no operands; see --help\n", argv[optind]);
                return 64;
        }
        return -1;
}

static gboolean on_signal(gpointer arg)
{
        loop_quit();
        return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
        struct agent_options o = {.socket = "/run/mete/agent.sock",
                                  .port = "/dev/virtio-ports/org.mete.agent.0",
                                  .state = "/run/mete/requests",
                                  .sys = "/sys"};
        enum log_level level = LOG_INFO;
        struct agent agent;
        struct err err = {0};
        size_t seed;

        int status = parse(argc, argv, &o, &level);
        if (status >= 0)
                return status;
        /* Left alone, jansson reads /dev/urandom, and that waits for entropy: 1 to 2 s early in a VM's boot.
         */
        id_random(&seed, sizeof(seed));
        json_object_seed(seed | 1);
        log_init("mete-agent", level);
        (void)signal(SIGPIPE, SIG_IGN);
        guint term = g_unix_signal_add(SIGTERM, on_signal, NULL),
              interrupt = g_unix_signal_add(SIGINT, on_signal, NULL);
        if (agent_init(&agent, &o, &err) < 0) {
                log_error("%s", err.sentence);
                return 1;
        }
        log_note("version " METE_VERSION ", applications at %s", o.socket);
        loop_run();
        agent_done(&agent);
        (void)g_source_remove(term);
        (void)g_source_remove(interrupt);
        loop_done();
        return 0;
}

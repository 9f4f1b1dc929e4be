/* SPDX-License-Identifier: Apache-2.0 */
/* mete-guard: keeps the downtime of one move (guard/guard.h). Started by meted, which it outlives. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "base/log.h"
#include "base/units.h"
#include "guard/guard.h"

enum { EXIT_USAGE = 64, MONITOR_FD = 3, CONTROL_FD = 4 };

static struct guard guard; /* its pages are there before the first look at the clock */

static int usage(FILE *to, int status)
{
        (void)fputs(
                "Usage: mete-guard --bound DURATION --outcome FILE\n\n"
                "Keeps the downtime of one move. meted starts it; it is of no use by itself.\n"
                "Descriptor 3 is an out-of-band monitor of the VMM, 4 the socket on which it listens.\n\n"
                "  --bound DURATION  from the word that the guest stopped until the move is cut off: 95ms\n"
                "  --outcome FILE    what became of the move; the first writer wins\n"
                "  --version         print the version\n"
                "  --help            print this help\n",
                to);
        return status;
}

/* Both are wishes: without them it is late more often, which the figures of a move show. */
static void be_prompt(void)
{
        const struct sched_param p = {.sched_priority = 1};
        if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                log_note("its memory is not locked: %s", strerror(errno));
        if (sched_setscheduler(0, SCHED_FIFO, &p) < 0)
                log_note("it has no real-time priority: %s", strerror(errno));
}

int main(int argc, char **argv)
{
        struct guard_options o = {.monitor_fd = MONITOR_FD, .control_fd = CONTROL_FD};
        struct err err = {0};
        int64_t bound_ms = 0;
        for (int i = 1; i < argc; i++) {
                const char *value = i + 1 < argc ? argv[i + 1] : NULL;
                if (strcmp(argv[i], "--help") == 0)
                        return usage(stdout, 0);
                if (strcmp(argv[i], "--version") == 0)
                        return puts("mete-guard " METE_VERSION) < 0;
                if (value && strcmp(argv[i], "--bound") == 0 && units_parse_ms(value, &bound_ms, &err) == 0)
                        i++;
                else if (value && strcmp(argv[i], "--outcome") == 0)
                        o.outcome = argv[++i];
                else
                        return usage(stderr, EXIT_USAGE);
        }
        if (bound_ms < 1 || !o.outcome)
                return usage(stderr, EXIT_USAGE);
        o.bound_us = bound_ms * 1000;
        (void)signal(SIGPIPE, SIG_IGN);
        if (guard_prepare(&guard, &o, &err)) {
                log_error("%s", err.sentence);
                return 1;
        }
        be_prompt();
        enum guard_state end = guard_run(&guard);
        guard_done(&guard);
        return end == GUARD_GONE;
}

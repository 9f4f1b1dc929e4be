/* SPDX-License-Identifier: Apache-2.0 */
/* mete-guard: keeps the downtime of one move (guard/guard.h). Started by mete-keeper, for meted; it outlives
 * both. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "base/log.h"
#include "guard/guard.h"

/* One more comes along, a lock that says that this VM has a guard: it is let go of by our end alone. */
enum { EXIT_USAGE = 64, MONITOR_FD = 3, CONTROL_FD, DIR_FD };

static struct guard guard; /* its pages are there before the first look at the clock */

static int usage(FILE *to, int status)
{
        (void)fputs(
                "Usage: mete-guard --bound-us NUMBER --move ID\n\n"
                "Keeps the downtime of one move. mete-keeper starts it; it is of no use by itself.\n"
                "Descriptor 3 is an out-of-band monitor of the VMM, 4 the socket on which it listens, 5 the\n"
                "folder of outcomes.\n\n"
                "  --bound-us NUMBER  from the word that the guest stopped until the move is cut off\n"
                "  --move ID          names the file in that folder that says what became of the move; the\n"
                "                     first writer wins\n"
                "  --version          print the version\n"
                "  --help             print this help\n",
                to);
        return status;
}

/* A wish, as real-time priority is, which the keeper gave it where it could: without them it is late more
 * often, which the figures of a move show. */
static void lock_memory(void)
{
        if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                log_note("its memory is not locked: %s", strerror(errno));
}

static bool parse_bound(const char *text, int64_t *ret_us)
{
        char *end;
        errno = 0;
        long long us = strtoll(text, &end, 10);
        if (errno || end == text || *end || us < 1 || us > GUARD_BOUND_MAX_US)
                return false;
        *ret_us = us;
        return true;
}

int main(int argc, char **argv)
{
        struct guard_options o = {.monitor_fd = MONITOR_FD, .control_fd = CONTROL_FD, .dir_fd = DIR_FD};
        struct err err = {0};
        for (int i = 1; i < argc; i++) {
                const char *value = i + 1 < argc ? argv[i + 1] : NULL;
                if (strcmp(argv[i], "--help") == 0)
                        return usage(stdout, 0);
                if (strcmp(argv[i], "--version") == 0)
                        return puts("mete-guard " METE_VERSION) < 0;
                if (value && strcmp(argv[i], "--bound-us") == 0 && parse_bound(value, &o.bound_us))
                        i++;
                else if (value && strcmp(argv[i], "--move") == 0)
                        o.move = argv[++i];
                else
                        return usage(stderr, EXIT_USAGE);
        }
        if (o.bound_us < 1 || !o.move)
                return usage(stderr, EXIT_USAGE);
        (void)signal(SIGPIPE, SIG_IGN);
        (void)prctl(PR_SET_DUMPABLE, 0); /* its user is meted's: nobody else of that may hold it up */
        if (guard_prepare(&guard, &o, &err)) {
                log_error("%s", err.sentence);
                return 1;
        }
        lock_memory();
        enum guard_state end = guard_run(&guard);
        guard_done(&guard);
        return end == GUARD_GONE;
}

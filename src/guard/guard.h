/* SPDX-License-Identifier: Apache-2.0 */
/* guard/guard.h - the downtime of one move is a bound (4.16): whoever else is busy, dead or late.
 *
 * It has an out-of-band monitor of the source's VMM to itself. The clock starts when the VMM says that the
 * guest stopped, not when that is read here; when the bound is over and the guest does not run, the guard
 * writes the outcome of the move, `aborted`, and only if no other was written before (link(2) to a name that
 * must not exist; the first writer wins) cuts the stream, which is the one thing that a VMM does while it
 * holds its main loop for the rest of the memory. The source then runs again by itself; where all had gone
 * over already it is told to, until it does. It ends with its attempt, also where that
 * had its outcome before a copy of it began. Nothing else is ever done here.
 *
 * After guard_prepare() nothing is allocated, and all of it is locked in memory. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { GUARD_LINE_MAX = 65536, GUARD_NAME_MAX = 96, GUARD_SAYS_MAX = 256, GUARD_BOUND_MAX_US = 60000000 };

enum guard_state {
        GUARD_GREETING = 1, /* the monitor is to greet */
        GUARD_NEGOTIATING,  /* and to allow what is out of band */
        GUARD_WATCHING,     /* the guest runs */
        GUARD_STOPPED,      /* the clock runs */
        GUARD_CUT,          /* it was over, the outcome is ours, and the guest is to run again */
        GUARD_YIELDED,      /* the outcome is somebody else's: theirs to go on */
        GUARD_RESUMED,      /* final: it ran again after the cut */
        GUARD_OVER,         /* final: the attempt ended without it; another one has another guard */
        GUARD_DISMISSED,    /* final: whoever started it needs it no longer */
        GUARD_GONE,         /* final: the VMM is gone, or speaks otherwise */
        GUARD_STATE_N
};
const char *guard_state_name(enum guard_state s); /* "stopped" */

struct guard_options {
        int monitor_fd;   /* connected, and nobody else's; taken */
        int control_fd;   /* listens; whoever connects is told, and may say "done"; taken. -1: nobody may */
        int64_t bound_us; /* from when the VMM said that the guest stopped until it is cut off; what comes
                           * before and after is taken off by who sets it */
        int dir_fd;       /* folder of outcomes, open for reading; taken */
        const char *move; /* its id; names the file there that says what became of it */
};

struct guard {
        struct guard_options o;
        enum guard_state state;
        char outcome[GUARD_NAME_MAX], mine[GUARD_NAME_MAX];
        int client_fd;
        bool has_begun;        /* the VMM said something of a copy while it was watched */
        int64_t look_us;       /* when it looks again whether its attempt is over before that */
        bool is_complete;      /* all of it was sent: the source stands until it is told to run */
        bool is_running_asked; /* and not answered yet */
        int run_asks;
        int64_t run_again_us;                   /* when it is asked once more; 0: not */
        int64_t stopped_us, cut_us, resumed_us; /* on the monotonic clock; 0: not */
        int64_t late_us;                        /* from when it stopped until that was read here */
        int64_t read_us, heard_us; /* when the VMM's words came; before which it had said nothing of these */
        char in[GUARD_LINE_MAX];
        size_t in_n;
        bool is_skipping; /* a line that is too long */
        char word[16];    /* of who is connected */
        size_t word_n;
};

/* Takes the descriptors in any case. The guard is large: not on a stack. */
int guard_prepare(struct guard *g, const struct guard_options *o, struct err *err);
/* Until a final state, which it returns. */
enum guard_state guard_run(struct guard *g);
void guard_done(struct guard *g); /* idempotent */

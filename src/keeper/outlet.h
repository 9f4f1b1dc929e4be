/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/outlet.h - what a VMM writes to stdout and stderr, into a file of bounded size.
 *
 * The VMM writes into a pipe and never waits: its end does not block, and what the keeper is too slow for, or
 * is not there for, is lost. At most 64 KiB a second are taken; past 256 KiB the file becomes VM.log.1. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "loop/loop.h"

enum { OUTLET_FILE_MAX = 256 * 1024, OUTLET_PER_S = 64 * 1024, OUTLET_LAST = 160 };

struct outlet {
        struct loop_fd watch;
        struct loop_timer pause;
        int pipe_fd, file_fd, dir_fd; /* -1: none; dir_fd is borrowed */
        gid_t gid;
        char vm[64];
        int64_t file_bytes;
        int64_t since_ms, taken_bytes; /* of the current second */
        char last[OUTLET_LAST];        /* the line that came last */
        bool is_line_complete;
};

/* Takes pipe_fd (non-blocking) in every case. is_fresh: an older log becomes VM.log.1. */
int outlet_open(struct outlet *o, int dir_fd, const char *vm, gid_t gid, int pipe_fd, bool is_fresh,
                struct err *err);
/* Takes what is still in the pipe first. Idempotent; a zeroed outlet was never opened. */
void outlet_close(struct outlet *o);
void outlet_remove(int dir_fd, const char *vm);

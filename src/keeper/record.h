/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/record.h - what a keeper must know of a VMM to own it again after a restart: one small file each,
 * in a directory that only root writes. Written before the VMM's first instruction, replaced as a whole. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct record {
        char vm[64];
        pid_t pid;
        uint64_t start_ticks; /* field 22 of /proc/PID/stat: with the pid it names one process since boot */
        uid_t uid;
};

int record_write(int dir_fd, const struct record *r, struct err *err);
/* name: of the file, "VM.json". REASON_INVALID: not a record of ours, or of another VM than its name says. */
int record_read(int dir_fd, const char *name, struct record *ret, struct err *err);
int record_parse(const char *text, size_t n, struct record *ret, struct err *err);
void record_remove(int dir_fd, const char *vm);

/* Start time of a process; REASON_NOT_FOUND where it is gone. A zombie is gone. */
int record_start_ticks(pid_t pid, uint64_t *ret_ticks, struct err *err);
/* From the text of /proc/PID/stat, whose second field may hold anything. */
int record_parse_stat(const char *text, uint64_t *ret_ticks, char *ret_state);

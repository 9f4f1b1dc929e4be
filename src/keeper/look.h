/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/look.h - which memory files a VMM has mapped, by the words of the kernel (/proc/PID/maps). The VMM
 * may be hostile: it maps what it likes, and only what is shared and directly in its VM's directories
 * counts. */
#pragma once
#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

enum { LOOK_FILES_MAX = 80, LOOK_PATH = 384 };

struct look {
        size_t n;
        struct look_file {
                char path[LOOK_PATH];
                uint64_t device, inode;
                int64_t bytes; /* mapped, all areas together */
                size_t dir;    /* in which of the directories */
        } files[LOOK_FILES_MAX];
};

/* dirs: without a slash at the end. REASON_INVALID: more files than fit. */
int look_parse(FILE *maps, const char *const *dirs, size_t n_dirs, struct look *ret, struct err *err);

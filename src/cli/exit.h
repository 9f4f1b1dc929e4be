/* SPDX-License-Identifier: Apache-2.0 */
/* cli/exit.h - exit statuses of `mete`, on a host and in a guest. One table feeds code, --help and the
 * manual. */
#pragma once
#include <stddef.h>
#include "base/err.h"

/* The numbers are those of <sysexits.h> where it has one that fits. */
enum exit_status {
        EXIT_OK = 0,
        EXIT_FAILED = 1,
        EXIT_USAGE = 64,
        EXIT_INVALID = 65,
        EXIT_NOT_FOUND = 66,
        EXIT_UNAVAILABLE = 69,
        EXIT_INTERNAL = 70,
        EXIT_NOT_NOW = 75,
        EXIT_DENIED = 77,
        EXIT_NEVER = 78,
};

struct exit_row {
        enum exit_status status;
        const char *meaning;
};
extern const struct exit_row exit_rows[];
extern const size_t exit_rows_n;

/* The status that goes with a refusal or an error. */
enum exit_status exit_from_reason(enum reason r);

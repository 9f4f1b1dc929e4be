/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/argv.h - the command line of a VMM as the keeper lets it through.
 *
 * The VMM runs under a uid of its own with no privilege at all, so its arguments cannot harm others; what is
 * refused here is what would take it out of that: another sandbox, another user, a fork into the background,
 * options that are read from files. The sandbox comes first, where no argument of the caller's can take it
 * for its value. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "json/api.h"

struct keeper_argv {
        char **words; /* ends in NULL; free with g_strfreev() */
        bool is_kvm;  /* it asks for /dev/kvm */
        bool has_tap; /* and for its tap, as the descriptor behind those that were passed */
};

/* "=@RAM@" becomes "=RAM_DIR", "=@TAP@" the number of that descriptor. REASON_DENIED, REASON_INVALID. */
int keeper_argv_make(char *const *qemu, const struct api_keeper_vmm_start *s, const char *ram_dir,
                     struct keeper_argv *ret, struct err *err);

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

/* New array of strings, ending in NULL; free with g_strfreev(). "=@RAM@" becomes "=RAM_DIR".
 * *ret_is_kvm: it asks for /dev/kvm. REASON_DENIED, REASON_INVALID. */
int keeper_argv_make(char *const *qemu, const struct api_keeper_vmm_start *s, const char *ram_dir,
                     char ***ret, bool *ret_is_kvm, struct err *err);

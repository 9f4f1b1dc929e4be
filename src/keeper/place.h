/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/place.h - where the two sides of a handover meet: a folder of its own under run_dir, by a tag that
 * nobody can guess, root's, so that nobody else removes or replaces what is in it.
 *
 *   handover/TAG/record   the record of core/handover.h: files of the lender's and the borrower's meted, each
 *                         its own (sticky, an access list), each readable for the other
 *   handover/TAG/vmm      the target's VMM may make the socket of the transfer there, which the group of the
 *                         source's VMM inherits; nobody else gets in
 *
 * What is in either is from processes that may be hostile: never followed, read without waiting, and believed
 * by who owns it. */
#pragma once
#include <sys/types.h>
#include "base/err.h"
#include "keeper/loan.h"

enum { PLACE_PATH = 256, PLACE_SOCKET = 108 };

enum place_word { PLACE_NOTHING, PLACE_TARGETS, PLACE_SOURCES };

/* The folder of all; root's. A descriptor. */
int place_open_base(const char *run_dir, struct err *err);
/* There afterwards, with access as the loan says. Idempotent. REASON_UNSUPPORTED: the file system has no
 * access lists. */
int place_make(int base_fd, const struct loan *l, struct err *err);
/* REASON_INVALID: run_dir is so long that no socket can be made there. */
int place_paths(const char *run_dir, const struct loan *l, char ret_record[PLACE_PATH],
                char ret_transfer[PLACE_SOCKET], struct err *err);
/* What the record says. Where the folder is gone, nothing. */
int place_read(int base_fd, const struct loan *l, enum place_word *ret, struct err *err);
/* `aborted`, where there is no word yet; *ret is what it says from now on. Where the folder is gone, which
 * may have said anything: is_lenders, or REASON_INTERNAL. */
int place_abort(int base_fd, const struct loan *l, bool is_lenders, enum place_word *ret, struct err *err);
bool place_has_record(int base_fd, const struct loan *l);
/* With all that is in it. REASON_BUSY: so much that it takes another call. */
int place_remove(int base_fd, const struct loan *l, struct err *err);

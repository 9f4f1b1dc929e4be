/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/handed.h - the record of a handover (core/handover.h), in a folder under /run that all three who take
 * part can read and write: each of its words is an outcome (fleet/outcome.h), so the first writer wins.
 * ID says `committed` or `aborted`; ID.returned, written only where ID says `committed`, takes that back. */
#pragma once
#include "base/err.h"
#include "core/handover.h"

enum { HANDED_ID_MAX = HANDOVER_ID - 1 - 9 }; /* ".returned" stands behind it */

/* *ret is what it says from now on, which may be another word than is asked for: `returned` where nothing was
 * committed is not written, and *ret is what is so. Any failure leaves open whether it was written; to be
 * called again until it succeeds. by: one word, of who writes. REASON_INVALID: no id of a handover. */
int handed_write(int dir_fd, const char *id, enum handover_record wanted, const char *by,
                 enum handover_record *ret, struct err *err);
/* RECORD_NONE where it says nothing yet. REASON_INTERNAL: it cannot be known now. */
int handed_read(int dir_fd, const char *id, enum handover_record *ret, struct err *err);
/* Nobody will ask for it again. None there: 0. */
int handed_forget(int dir_fd, const char *id, struct err *err);

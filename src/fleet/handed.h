/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/handed.h - the record of a handover (core/handover.h), in a folder of its own that mete-keeper makes
 * when the VM's memory is lent (ram-lend), and in which all three who take part can read and write, none what
 * another wrote. Its words are two outcomes (fleet/outcome.h), so the first writer wins: `outcome` says
 * `committed` or `aborted`; `returned`, written only where that says `committed`, takes it back. The keeper
 * believes `committed` and `returned` of the target's meted alone. */
#pragma once
#include "base/err.h"
#include "core/handover.h"

#define HANDED_OUTCOME  "outcome"
#define HANDED_RETURNED "returned"

/* The folder; no link is followed. A descriptor. REASON_INTERNAL: it is not there, or no folder. */
int handed_open(const char *path, struct err *err);
/* *ret is what it says from now on, which may be another word than is asked for: `returned` where nothing was
 * committed is not written, and *ret is what is so. Any failure leaves open whether it was written; to be
 * called again until it succeeds. by: one word, of who writes. */
int handed_write(int dir_fd, enum handover_record wanted, const char *by, enum handover_record *ret,
                 struct err *err);
/* RECORD_NONE where it says nothing yet. REASON_INTERNAL: it cannot be known now. */
int handed_read(int dir_fd, enum handover_record *ret, struct err *err);

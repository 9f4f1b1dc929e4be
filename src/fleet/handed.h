/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/handed.h - the record of a handover (core/handover.h), in a folder of its own that mete-keeper makes
 * when the VM's memory is lent (ram-lend), and in which all three who take part can read and write, none what
 * another wrote. Its words are two outcomes (fleet/outcome.h), so the first writer wins: `outcome` says
 * `committed` or `aborted`; `returned`, written only where that says `committed`, takes it back. A third,
 * `stands`, decides nothing: it is the source's word to the target that its VMM stands. The keeper believes
 * `committed` and `returned` of the target's meted alone, and so do the others. What is there and makes no
 * sense (no plain file, no such word) says `aborted`, to them as to the keeper (keeper/place.h): any of the
 * three could make it, and if it said nothing they would wait for ever. */
#pragma once
#include <stdbool.h>
#include "base/err.h"
#include "core/handover.h"

#define HANDED_OUTCOME  "outcome"
#define HANDED_RETURNED "returned"
#define HANDED_STANDS   "stands"

/* Whose `committed` and `returned` count. */
enum handed_whose {
        HANDED_ANYBODYS,
        HANDED_MINE,  /* the target reads: its own */
        HANDED_OTHERS /* the source reads: those that are not its own */
};

/* The folder; no link is followed. A descriptor. REASON_INTERNAL: it is not there, or no folder. */
int handed_open(const char *path, struct err *err);
/* *ret is what it says from now on, which may be another word than is asked for: `returned` where nothing was
 * committed is not written, and *ret is what is so. Any failure leaves open whether it was written; to be
 * called again until it succeeds. by: one word, of who writes. */
int handed_write(int dir_fd, enum handover_record wanted, const char *by, enum handover_record *ret,
                 struct err *err);
/* RECORD_NONE where it says nothing yet. REASON_INTERNAL: it cannot be known now. */
int handed_read(int dir_fd, enum handover_record *ret, struct err *err);
/* The same where it counts who wrote. Of those above the caller looks at that. */
int handed_write_of(int dir_fd, enum handed_whose whose, enum handover_record wanted, const char *by,
                    enum handover_record *ret, struct err *err);
int handed_read_of(int dir_fd, enum handed_whose whose, enum handover_record *ret, struct err *err);
/* `stands`. Whoever is first has it; to be called again until it succeeds. */
int handed_stand(int dir_fd, struct err *err);
/* It is there, and counts. *ret is untouched on failure: REASON_INTERNAL. */
int handed_stands_of(int dir_fd, enum handed_whose whose, bool *ret, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* fleet/outcome.h - what became of an attempt to move a VM: written once, and the first who writes it wins.
 *
 * Where two peers are alone it is a file in a folder of the source's, which mete-guard writes too. It is
 * written beside its place, made durable and linked to its name, which must not exist: so nobody ever sees a
 * part of one, and of two writers one finds the other's. */
#pragma once
#include "base/err.h"

/* 0 is none. */
enum outcome_is {
        OUTCOME_IS_COMMITTED = 1, /* the VM is the destination's */
        OUTCOME_IS_ABORTED,       /* it stays the source's */
        OUTCOME_IS_N
};

/* *ret is what it is from now on and after every crash, which may be another than is asked for. Any failure
 * leaves open whether it was written: -EIO and the like; to be called again until it succeeds. by: one word,
 * of who writes. REASON_INTERNAL: also where what is there cannot be understood. */
int outcome_write(int dir_fd, const char *name, enum outcome_is wanted, const char *by, enum outcome_is *ret,
                  struct err *err);
/* The same where the folder goes with the machine (/run): nothing is made durable, so nothing waits for a
 * disk, wherever it lies. */
int outcome_write_volatile(int dir_fd, const char *name, enum outcome_is wanted, const char *by,
                           enum outcome_is *ret, struct err *err);
/* -ENOENT without a sentence: there is none yet. by: likewise, who wrote it first; NULL: nobody wants to
 * know. */
enum { OUTCOME_BY = 16 };
#define OUTCOME_BY_GUARD "guard" /* mete-guard's */
int outcome_read(int dir_fd, const char *name, enum outcome_is *ret, char by[OUTCOME_BY], struct err *err);
/* Nobody will ask for it again. None there: 0. */
int outcome_forget(int dir_fd, const char *name, struct err *err);

const char *outcome_is_name(enum outcome_is o); /* "committed" */

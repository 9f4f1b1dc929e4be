/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/loan.h - what a keeper must know of a loan of memory files to go on with it after a restart: one
 * small file each, as keeper/record.h, under the lender's name; replaced as a whole before anything is done.
 *
 *   lent - borrowed - giving - given      the borrower's VM has the files from now on
 *   lent | borrowed - backing - back      the lender's has them as before
 *
 * Open until given or back, which are remembered for whoever asks again. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "keeper/ramdir.h"

enum { LOAN_FILES_MAX = 65, LOAN_HANDLE = 33, LOAN_TAG = 17, LOAN_NAME = 64 };

/* 0 is no state. */
enum loan_state {
        LOAN_LENT = 1,
        LOAN_BORROWED,
        LOAN_GIVING,
        LOAN_BACKING,
        LOAN_GIVEN, /* final */
        LOAN_BACK,  /* final */
        LOAN_STATE_N
};

enum loan_event {
        LOAN_EV_BORROW = 1, /* somebody showed the handle */
        LOAN_EV_TARGETS,    /* the record says: the borrower's */
        LOAN_EV_SOURCES,    /* the record says: the lender's */
        LOAN_EV_DONE,       /* what the state is about has been done */
        LOAN_EV_N
};

struct loan_file {
        char name[RAMDIR_NAME];
        int64_t page_bytes; /* 0: ordinary */
        uint64_t device, inode;
        int64_t bytes;
};

struct loan {
        char lender[LOAN_NAME], borrower[LOAN_NAME]; /* VMs, by their names here; borrower "": nobody yet */
        char handover[LOAN_NAME];
        char handle[LOAN_HANDLE];
        char tag[LOAN_TAG];               /* of the handover's folders (keeper/place.h) */
        uid_t lender_uid, borrower_uid;   /* of the VMMs */
        uid_t lender_user, borrower_user; /* of their meteds */
        enum loan_state state;
        uint64_t serial; /* later loans have greater ones */
        size_t n;
        struct loan_file files[LOAN_FILES_MAX];
};

/* 0: may not happen in that state. */
enum loan_state loan_next(enum loan_state s, enum loan_event e);
bool loan_is_open(const struct loan *l);
const char *loan_state_name(enum loan_state s);

int loan_write(int dir_fd, const struct loan *l, struct err *err);
/* name: of the file, "VM.json". REASON_INVALID: not a loan, or another's than its name says. *ret is
 * untouched on failure. */
int loan_read(int dir_fd, const char *name, struct loan *ret, struct err *err);
int loan_parse(const char *text, size_t n, struct loan *ret, struct err *err);
void loan_remove(int dir_fd, const struct loan *l);

/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/lend.h - memory of a VM that is handed over: the verbs ram-lend, ram-borrow, ram-look, ram-return,
 * and who has the files meanwhile.
 *
 * A file that is borrowed has two names, one in each VM's directory, both made by the keeper: the lender's
 * uid owns it, its group is the borrower's. So the inode is there as long as one of them has it. Whose it is
 * follows from the record of the handover (keeper/place.h) alone, which is read where something depends on
 * it; the loan (keeper/loan.h) is written before anything is done, each step of giving and taking back may be
 * repeated, and a keeper that starts goes on with what was under way. All on the loop. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/err.h"
#include "json/api.h"
#include "keeper/config.h"
#include "keeper/loan.h"
#include "keeper/vmm.h"
#include "wire/rpc.h"

/* Of one meted's VMs: what is remembered of loans that are over. */
enum { LENDS_ENDED_MAX = 64 };

struct lends {
        struct vmms *vmms;
        int loan_fd, place_fd; /* folders; owned */
        GHashTable *by_lender; /* name -> struct loan, owned */
        uint64_t serial;
};

/* Reads the loans, and goes on with those that were being ended. Borrows vmms, and becomes its lends. */
int lends_init(struct lends *l, struct vmms *vmms, struct err *err);
void lends_done(struct lends *l); /* idempotent */

/* Answers call. method is one of ram-lend, ram-borrow, ram-look, ram-return. user: who asks. */
void lend_verb(struct lends *l, enum api_keeper_method method, const struct keeper_user *user,
               struct rpc_call *call, const json_t *params);

/* ---- for the rest of the keeper; l NULL: there are no loans ---- */

/* The VM whose loan is open and whose borrower has that uid; NULL: none. */
const char *lends_borrower_of_uid(const struct lends *l, uid_t uid);
/* The loan by which this VM has files, while it is open. */
const struct loan *lends_borrowed_by(const struct lends *l, const char *vm);
/* Before its VMM starts. What is decided is settled. REASON_BUSY: its files are lent; or it has borrowed some
 * for another uid. */
int lends_before_start(struct lends *l, const char *vm, uid_t uid, struct err *err);
/* Before anything of its memory goes: item, or all where it is NULL. The same; a borrower that is dropped
 * gives up (`aborted`). */
int lends_before_end(struct lends *l, const char *vm, const char *item, struct err *err);
/* The directories were made anew: what it has borrowed is in them again. */
int lends_link(struct lends *l, const char *vm, struct err *err);
/* Its file is one that it has borrowed: the VM from which; else NULL. */
const char *lends_lender_of(const struct lends *l, const char *vm, const char *item);

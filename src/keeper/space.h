/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/space.h - several meted's on one keeper. Each runs as a user of its own ([keeper] meted_user), by
 * which it is known, and has a space of its own: of names of VMs, of slots and of activations. None can name
 * what is another's. What space 0 calls v is v here, what any other does USER..v, on disk and in the kernel.
 * What is in a VM's directories is for its own meted's group.
 *
 * Who has which space is written down by the name of the user, in run_dir, and outlives each change of the
 * configuration: a user who leaves it keeps his space while anything of his is there, and who is new gets one
 * that is free. So the order of meted_user means nothing but for the first start. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "keeper/config.h"

enum { SPACE_FILES = 4096 };
struct space_row {
        char name[KEEPER_USER_NAME];
        unsigned number;
        bool is_used; /* something of that space is there */
};
void space_number(struct keeper_user *u, unsigned number); /* and its prefix */
/* Pure: who has which space from now on, by what was written down (rows, *n, of KEEPER_USERS_MAX; then what
 * is to be). REASON_BUSY: there is none for all. */
int space_assign(struct keeper_config *c, struct space_row *rows, size_t *n, struct err *err);
/* The same with the file in run_dir, and what is there. Once, before anything else is done. */
int space_settle(struct keeper_config *c, struct err *err);

/* What is 53 bits to all of them together is so much to each. */
#define SPACE_ACTIVATION_MAX ((INT64_C(1) << 53) / KEEPER_USERS_MAX - 1)

/* Of whoever connects; root is as the first. NULL: nobody. */
const struct keeper_user *space_of_uid(const struct keeper_config *c, uid_t uid);
/* Of a VM, by its name here; never NULL. */
const struct keeper_user *space_of_vm(const struct keeper_config *c, const char *vm);
/* How many slots each has. With several it is an eighth of all, so that one more changes no other's. */
unsigned space_slots(const struct keeper_config *c);
/* Parameters of a verb in our names: a new reference. *params itself where there is one meted. What is of the
 * wrong type is left to whoever reads it. NULL: REASON_INVALID (slot, activation), REASON_DENIED (name). */
json_t *space_enter(const struct keeper_config *c, const struct keeper_user *u, const json_t *params,
                    struct err *err);
/* What its meted calls it; NULL where it is not in that space. */
const char *space_name(const struct keeper_config *c, const struct keeper_user *u, const char *vm);

/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/space.h - several meted's on one keeper. Each runs as a user of its own ([keeper] meted_user), by
 * which it is known, and has a space of its own: of names of VMs, of slots and of activations. None can name
 * what is another's. What the first of them calls v is v here, what any other does USER..v, on disk and in
 * the kernel. What is in a VM's directories is for its own meted's group. */
#pragma once
#include <jansson.h>
#include "base/err.h"
#include "keeper/config.h"

/* Of whoever connects; root is as the first. NULL: nobody. */
const struct keeper_user *space_of_uid(const struct keeper_config *c, uid_t uid);
/* Of a VM, by its name here; never NULL. */
const struct keeper_user *space_of_vm(const struct keeper_config *c, const char *vm);
/* How many slots each has. With several it is an eighth of all, so that one more changes no other's. */
unsigned space_slots(const struct keeper_config *c);
/* Parameters of a verb in our names: a new reference. *params itself where there is one meted. What is of the
 * wrong type is left to whoever reads it. NULL: REASON_INVALID (slot), REASON_DENIED (name). */
json_t *space_enter(const struct keeper_config *c, const struct keeper_user *u, const json_t *params,
                    struct err *err);
/* What its meted calls it; NULL where it is not in that space. */
const char *space_name(const struct keeper_config *c, const struct keeper_user *u, const char *vm);

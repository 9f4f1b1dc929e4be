/* SPDX-License-Identifier: Apache-2.0 */
/* keeper/share.h - what one hypervisor of several may have at once of what the keeper has for all, so that
 * one that was taken over does not starve the others: how many VMs something is activated for, how many items
 * that are control groups, how many VMs with a class of service. Where there is one hypervisor, it may have
 * everything.
 *
 * Counted since this keeper began, when a call comes in: what was activated before is not, until it is named
 * again. What failed counts until it is deactivated, or its VM dropped. On the loop. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/err.h"
#include "json/api.h"
#include "keeper/config.h"

struct shares {
        const struct keeper_config *config; /* borrowed */
        GHashTable *vms;                    /* name -> struct share_vm, owned */
        unsigned groups_max;                /* of one hypervisor */
};

void shares_init(struct shares *s, const struct keeper_config *config);
void shares_done(struct shares *s); /* idempotent */
/* n_classes: what the hardware has; 0: not known. REASON_BUSY: its share is used up. */
int share_take(struct shares *s, const char *vm, enum api_host_kind kind, const char *item,
               unsigned n_classes, struct err *err);
void share_let_go(struct shares *s, const char *vm, enum api_host_kind kind, const char *item);
/* Of all kinds, but for those items. */
void share_drop(struct shares *s, const char *vm, const char (*keep)[32], size_t n_keep);

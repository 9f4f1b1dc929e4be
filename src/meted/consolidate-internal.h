/* SPDX-License-Identifier: Apache-2.0 */
/* meted/consolidate-internal.h - shared by the files of consolidate.h only. */
#pragma once
#include <assert.h>
#include "core/place.h"
#include "json/api.h"
#include "loop/loop.h"
#include "meted/machine.h"
#include "meted/meted.h"

/* As many as its record has room for; the others may be asked for when these are through. */
enum { CONSOLIDATE_VMS_MAX = 256 };
static_assert(sizeof(((struct api_consolidation_state *)NULL)->vms) ==
                      CONSOLIDATE_VMS_MAX * sizeof(struct api_consolidation_vm),
              "meted.json says so, too");

struct consolidation {
        struct meted *m;
        struct loop_timer again;
        struct api_consolidation_state row; /* as it is in the store, or will be with this turn */
        size_t at;                          /* whose turn it is */
        bool is_changed;                    /* the row, by the look that is under way */
        bool is_counted;                    /* what was moved of it, from the beginning on */
};

/* Runs, and nobody else does something to it. */
bool consolidate_may_move(struct meted *m, const struct machine *v);
/* It was drawn up: its turns are there. It begins, and is in the store with this turn. */
void consolidate_begin(struct consolidation *c);
/* No other VM is begun from now on, and what is half way goes back. */
void consolidate_end(struct consolidation *c, enum api_consolidation_ended how);
struct consolidation *consolidation_new(struct meted *m);
void consolidation_free(struct consolidation *c);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/separate.h - what of a VM may change hands in a handover, what must stay, and what is moved before so
 * that the rest may go (5.7 to 5.9); and how VMs that lie scattered are brought together (5.20).
 *
 * A unit is the finest that the kernel gives a handle for: the pages of one size on one NUMA node, one CPU,
 * one device. The service processor says which units stay with the source. What a VM has in one of those, and
 * what it shares with others that stay, cannot leave as it is: its content is moved, while the VM runs, to
 * units of the same kind that can, as far as there is room. Nothing else is moved. What has nowhere to go is
 * not reassignable, and the VM stays.
 *
 * Pure, no allocation. Amounts are those of core/component.h (bytes, thousandths of a CPU, devices). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/component.h"

struct separate_unit {
        enum component_kind kind;
        uint32_t node;
        int64_t page_bytes; /* of memory: content goes to pages of the same size only; else 0 */
        bool is_kept;       /* stays with the source, whatever lies in it */
        int64_t free;       /* so much more of the source's own fits in it */
};

/* Something that the VM has. */
struct separate_has {
        uint32_t unit; /* index */
        int64_t amount;
        bool is_shared; /* with somebody that stays */
        bool is_whole;  /* goes to one unit, or not at all: what is one file has one place in the books */
        bool is_fixed;  /* its content cannot be moved */
};

enum portion {
        PORTION_REASSIGNABLE = 1, /* as it is */
        PORTION_SEPARABLE,        /* once its content is elsewhere; the unit stays */
        PORTION_UNREASSIGNABLE
};
enum portion_why { PORTION_WHY_FREE = 1, PORTION_WHY_KEPT, PORTION_WHY_SHARED, PORTION_WHY_N };

struct separate_verdict {
        enum portion portion;
        enum portion_why why;
        int64_t moved; /* what separation takes: so much content is moved */
        int64_t stuck; /* so much has nowhere to go */
};

struct separate_step {
        uint32_t has; /* index; of consolidate_plan() the VM */
        uint32_t from, to;
        int64_t amount;
};

/* verdicts: one for each that it has, also on failure. steps: room for n_has + n_units. 0: after the steps
 * all can leave; they fit in any order, and none is more than what must be moved. Of what goes as a whole the
 * largest is placed first; so it is a matter of luck where there is hardly room. -ENOSPC: not all can, *err
 * names the first; no step is to be made. */
int separate_plan(const struct separate_unit *units, size_t n_units, const struct separate_has *has,
                  size_t n_has, struct separate_verdict *ret_verdicts, struct separate_step *ret_steps,
                  size_t *ret_n, struct err *err);

/* Brings VMs together that lie in several units of one kind: each in the unit where that moves least, those
 * first that move least; each as a whole or not at all. amounts[vm * n_units + unit] and free are changed to
 * what is so after the steps; these are to be made in this order, and fit then. steps: room for n_vms *
 * n_units. limit: no more than this is moved in all; 0: no limit. vms_most: nor of more VMs. Returns how many
 * VMs are scattered still.
 * No VM is moved out of another's way: a step makes nothing worse for anybody. */
size_t consolidate_plan(int64_t *amounts, size_t n_vms, int64_t *free_amounts, size_t n_units, int64_t limit,
                        size_t vms_most, struct separate_step *ret_steps, size_t *ret_n);

const char *portion_name(enum portion p); /* "reassignable" */
const char *portion_why_name(enum portion_why w);

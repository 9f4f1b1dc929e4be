/* SPDX-License-Identifier: Apache-2.0 */
/* vm/view.h - what a VMM says that it has, as far as it is of the shape that we start VMMs with.
 *
 * Pure: replies go in, and nothing in them is trusted; entries that are not ours are passed over. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "vm/vm.h"

/* Parts of the VMM's state, as bits. */
enum { LOOK_IDENTITY = 1, LOOK_RUN = 2, LOOK_CPUS = 4, LOOK_MEMORY = 8, LOOK_DISK = 16 };
enum { VIEW_QUERIES = 8, VIEW_TYPE_NAME = 64 };

/* Embed it zeroed, with the definition set; view_done() at the end. */
struct view {
        const struct api_vm_definition *definition; /* borrowed */
        enum vm_run run;
        struct vm_cpu cpus[VM_CPUS_MAX];
        json_t *cpu_props[VM_CPUS_MAX]; /* how the VMM names the slot; NULL where it has none */
        char cpu_type[VIEW_TYPE_NAME];
        struct vm_dimm dimms[VM_DIMMS_MAX];
        struct vm_disk disk;
};

struct view_query {
        int look;
        const char *command;
        int (*see)(struct view *view, const json_t *ret, struct err *err);
        bool list; /* the reply must be an array */
};
/* To be asked in this order. */
extern const struct view_query view_queries[VIEW_QUERIES];

/* Takes in the reply to view_queries[query]. Negative: it makes no sense, or (for the identity) the VMM runs
 * another VM. */
int view_take(struct view *view, size_t query, const json_t *ret, struct err *err);
void view_done(struct view *view);

/* What the VMM calls the back end of its disk. */
#define VIEW_DISK "/machine/peripheral/blk0/virtio-backend"
/* "dimm12" -> 12 for the prefix "dimm"; -1: not one of ours, of which there are n. */
int view_index(const char *id, const char *prefix, int n);

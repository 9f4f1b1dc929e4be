/* SPDX-License-Identifier: Apache-2.0 */
/* json/hhi-internal.h - a checked document as a tree; for the hhi-*.c only. */
#pragma once
#include "json/hhi.h"

/* HHI_SHARE: of something that hwloc has no object for. */
enum hhi_class { HHI_NORMAL = 1, HHI_MEMORY, HHI_IO, HHI_SHARE };

struct hhi_kind {
        const char *name; /* "l3" */
        enum hhi_class class;
        const char *type; /* hwloc's word; NULL: it has none */
        int cache_level;  /* 0: no cache beside CPUs */
        int cache_type;   /* hwloc's: 0 unified, 2 instructions */
        int osdev_type;   /* hwloc 2's; -1: no OS device */
};

struct hhi_node {
        const char *id; /* borrowed of the document */
        const json_t *object;
        const struct hhi_kind *kind;
        uint32_t in; /* index of its parent; the machine's is its own */
        uint32_t os; /* cpu, memory, cache, membw */
        bool is_offline;
};

/* Sorted by id. Borrows the document. */
struct hhi_tree {
        struct hhi_node *nodes;
        uint32_t n, root;
};

/* hhi_check(), and the tree when that went well. */
int hhi_tree_make(const json_t *hhi, struct hhi_tree *ret, struct err *err);
void hhi_tree_done(struct hhi_tree *t);
/* t->n: there is none. */
uint32_t hhi_tree_find(const struct hhi_tree *t, const char *id);

bool hhi_node_is(const struct hhi_node *node, const char *kind);
/* Of what is behind "net:" or "pci:", without the "#2" of a second one. */
size_t hhi_name_length(const char *suffix);
/* "0000:03:00.0": how many of domain, bus, device and function are there (4, or 2), or 0. */
int hhi_address(const char *suffix, unsigned ret[4]);
/* An integer member, or `none`. */
int64_t hhi_integer(const json_t *object, const char *key, int64_t none);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/hypervisor-internal.h - shared by hypervisor.c (tables and life) and decide.c (verdicts) only. */
#pragma once
#include "core/hypervisor.h"

#include "core/place.h"

/* Finished requests that are remembered, in the order in which they finished. */
struct history {
        struct entry *first, *last;
        size_t n;
};

struct vm_entry {
        struct vm_shape shape;
        uint64_t cpu_slots;    /* vCPU numbers in use, base ones included */
        uint64_t memory_slots; /* DIMM slots in use */
        int64_t leased_bytes;  /* beyond the base */
        size_t live;           /* requests of applications that hold something */
        struct history history;
        struct vm_entry *next;
};

struct entry {
        struct request r;
        struct vm_entry *vm;                  /* NULL for a reservation */
        struct entry *key_next, *serial_next; /* hash chains */
        struct entry *older, *newer;          /* all that are kept, by serial */
        struct entry *finished_next;          /* in its history */
};

struct deadline {
        int64_t at_ms;
        uint64_t serial;
};

struct hypervisor {
        struct hypervisor_config config;
        struct component *components;
        size_t n_components;
        struct ledger *ledger;
        struct vm_entry *vms;
        uint64_t next_serial;
        size_t live;
        struct history reservations;
        struct entry **by_key, **by_serial;
        size_t buckets; /* a power of two */
        size_t entries;
        struct entry *oldest, *newest;
        struct deadline *heap; /* least first; may hold stale entries, which are skipped */
        size_t heap_n, heap_size;
        struct effect *effects; /* ring */
        size_t effects_first, effects_n, effects_size;
};

/* decide.c: fill r's verdict, and on a grant or an offer claim what it says. The state is set by the
 * caller from r->outcome. */
int decide(struct hypervisor *h, struct entry *e, int64_t now_ms, struct err *err);

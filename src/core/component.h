/* SPDX-License-Identifier: Apache-2.0 */
/* core/component.h - the pieces of a host that can be given away, and the kinds they are of.
 *
 * Ownership is per amount: `capacity` is what the machine has, `owned` the part that this hypervisor
 * may give away (the rest belongs to the host itself or to another hypervisor).
 * A new kind is a row of component_kinds[] and a provider, nothing else. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { COMPONENT_PAGES = 4, COMPONENT_NUMBER_MAX = 4095 };

enum component_kind {
        COMPONENT_CPU = 1, /* one host CPU; unit: thousandths of it */
        COMPONENT_MEMORY,  /* memory of one NUMA node; unit: bytes */
        COMPONENT_CACHE,   /* ways of one L3 cache */
        COMPONENT_MEMBW,   /* memory bandwidth below one L3 cache; unit: percent of it */
        COMPONENT_NET,     /* a link, the same in each direction; unit: bits a second */
        COMPONENT_BLOCK,   /* a disk of the host, read and written together; unit: bytes a second */
        COMPONENT_DEVICE,
        COMPONENT_KIND_N
};

struct component_kind_row {
        const char *name; /* "cpu" */
        const char *unit; /* "thousandths of a CPU" */
        bool provided;    /* has an inventory and a provider, so that needs may name it */
};
extern const struct component_kind_row component_kinds[COMPONENT_KIND_N];

/* Of a class of service, whose threads all run below one L3 cache? */
bool component_is_of_class(enum component_kind kind);
/* 0 where there is no such kind. */
enum component_kind component_kind_from_name(const char *name);

struct component {
        char id[32]; /* "cpu:3", "memory:node0"; unique on the host, stable over restarts */
        enum component_kind kind;
        uint32_t os_index; /* the kernel's number: CPU, or NUMA node */
        uint32_t node;     /* NUMA node on which it sits */
        uint32_t core;     /* cpu: logical number of its core */
        uint32_t llc;      /* cpu: logical number of its last-level cache */
        uint32_t domain; /* cpu, cache, membw: id of the L3 cache above or of its own, plus 1; 0: not known */
        int64_t step;    /* cache, membw: amounts are multiples of it; 0: 1 */
        int64_t capacity; /* in the kind's unit */
        int64_t owned;    /* <= capacity */
        int64_t lost;     /* of both, for now: failed, or taken out of use */
        /* memory: sizes of its huge pages, in bytes, ascending; 0 from where there are no more */
        int64_t page_bytes[COMPONENT_PAGES];
        bool healthy;
};
/* What is lost of what may be given away: what the machine lost is borne by the rest of it first. */
int64_t component_lost(const struct component *c, int64_t by_machine, int64_t by_operator);
/* What may be given away of it as it is now. Classes of service that are given away no more are not gone. */
int64_t component_owned(const struct component *c);
/* Has its memory huge pages of that size? 0: ordinary ones, which all memory has. */
bool component_has_pages(const struct component *c, int64_t page_bytes);

enum {
        CPU_WHOLE_MILLI = 1000,
        NET_UNIT_BPS = 8000,   /* amounts are multiples of it: whole bytes a millisecond */
        NET_LEAST_BPS = 64000, /* no rate below it is held */
        BLOCK_UNIT = 65536,    /* bytes a second: amounts are multiples of it, and none is less */
};

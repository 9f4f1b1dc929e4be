/* SPDX-License-Identifier: Apache-2.0 */
/* json/hhi.h - host hardware information (HHI, requirements 2.1 to 2.22): a whole machine as one JSON
 * document, made on the host (host/topology.h), marked for one guest, sent, compared, patched, and written
 * as a topology that any hwloc program loads (2.21). Needs no hwloc.
 *
 *   {"objects": {
 *      "machine":      {"kind":"machine"},
 *      "l3:0":         {"kind":"l3","in":"machine","bytes":33554432,"line":64,"ways":16},
 *      "cpu:5": {"kind":"cpu","in":"core:3","os":5,"mark":"yours","capacity":1000,"free":0,"yours":1000},
 *      "memory:node1": {"kind":"memory","in":"machine","os":1,"bytes":8589934592}, ...},
 *    "distances":
 * [{"name":"NUMALatency","kind":5,"of":["memory:node0","memory:node1"],"values":[10,20,20,10]}], "memattrs":
 * [{"name":"Bandwidth","flags":5,"values":[{"of":"memory:node0","from":[[0,7]],"value":200}]}], "cpukinds":
 * [{"cpus":[[0,3],[8,8]],"efficiency":1,"infos":{"CoreType":"IntelCore"}}]}
 *
 * Objects are keyed by id, so that two documents can be compared member by member. The ids of what the
 * ledger knows are the ledger's (core/component.h): cpu:N and memory:nodeN by the kernel's number, net:NAME,
 * block:NAME, cache:N, membw:N (hhi_add()); those are stable. A PCI device or bridge is named by its address,
 * a host bridge by domain and bus (a second of the same name has "#2" behind it). Of all others the number is
 * hwloc's logical one on the day of the document, nothing to be remembered. Sets of CPUs are ranges, [first,
 * last] each. Where something is ("in") says what it is near to: the CPUs of an object are those below it,
 * its memory that at it, above it and below it; "near" on memory is there when its CPUs are others.
 *
 * What is carried, and comes out of hhi_write_xml() as it went into hwloc: machine, packages, dies, groups,
 * caches (also of instructions, and beside memory), cores, CPUs, NUMA nodes, bridges, PCI and OS devices,
 * with the kernel's numbers; size, line and ways of caches; size of memory, and of its pages with their
 * counts; buses; class, vendor, device, revision and link speed of PCI devices; distances, memory attributes
 * and kinds of CPUs. A CPU that is not on line is one with the mark "offline"; hwloc knows it as part of
 * complete_cpuset only. Infos come from a short list (hhi_info_is_harmless()): no name of a host, serial
 * number, UUID or address of a network card. What the process that looked was not allowed to use is listed
 * like the rest. Misc objects, user data and hwloc's own numbers (gp_index) are not carried. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

enum {
        HHI_OBJECTS_MAX = 16384,
        HHI_INDEX_MAX = 4096, /* CPUs and NUMA nodes have numbers below it */
        HHI_DEPTH_MAX = 40,   /* objects within each other */
        HHI_ID_SIZE = 72,
        HHI_TEXT_MAX = 255,      /* bytes of a name or an info */
        HHI_MATRIX_MAX = 512,    /* objects of one matrix of distances */
        HHI_VALUES_MAX = 262144, /* of all matrices, and of all memory attributes */
        HHI_TABLES_MAX = 64,     /* matrices; memory attributes; kinds of CPUs */
        HHI_DIGEST_SIZE = 65,
};
#define HHI_AMOUNT_MAX (INT64_C(1) << 53)

/* To whom a component is given; others are never identified (2.22). */
enum hhi_mark { HHI_YOURS = 1, HHI_FREE, HHI_TAKEN, HHI_RESERVED, HHI_OFFLINE, HHI_MARK_N };
extern const char *const hhi_mark_name[HHI_MARK_N];

struct hhi_state {
        enum hhi_mark mark;            /* 0: none */
        int64_t capacity, free, yours; /* in the unit of the component's kind; negative: not said */
        const uint32_t *vcpus;         /* cpu: the guest's own that run there; borrowed */
        size_t n_vcpus;
        const uint32_t *slots; /* memory: the guest's DIMMs that lie there; borrowed */
        size_t n_slots;
};

/* Is this a document that keeps the promises above, within the bounds above? Members that we do not know are
 * allowed, null is not (a merge patch cannot carry it). -EINVAL and a sentence that names the object. */
int hhi_check(const json_t *hhi, struct err *err);
/* A component of the ledger that hwloc does not know, or not on this machine: cache:N or membw:N (ways and
 * bandwidth of one L3), or a net:NAME or block:NAME of the configuration, within another object. The former
 * two are in the document alone, hwloc's XML has nothing for them. 0 as well when it is there already.
 * -ENOENT: `in` is not. -EINVAL: id is none of these, or cannot be in that. */
int hhi_add(json_t *hhi, const char *id, const char *in, struct err *err);
/* Says of one object how it is given; what *state does not say is taken away. -ENOENT: there is no such
 * object. */
int hhi_mark(json_t *hhi, const char *id, const struct hhi_state *state, struct err *err);
/* May an info of that name be carried? */
bool hhi_info_is_harmless(const char *name);

/* What makes `new` out of `old`, as a JSON merge patch (RFC 7396; {} where they are equal). Both are
 * documents that pass hhi_check(). A new reference, NULL without memory. */
json_t *hhi_diff(const json_t *old, const json_t *new);
/* *hhi becomes what the patch makes of it (a new reference in place of the old), or stays as it is where the
 * patch or its outcome is none: -EINVAL. */
int hhi_apply(json_t **hhi, const json_t *patch, struct err *err);

/* SHA-256 of the canonical text (compact, keys sorted), in hex. -ENOMEM leaves ret untouched. In a library of
 * its own: it takes GLib's. */
int hhi_digest(const json_t *hhi, char ret[HHI_DIGEST_SIZE], struct err *err);

/* The document as XML of hwloc 2 (which hwloc 3 reads, too), with marks as infos of the objects: MeteMark,
 * MeteCapacity, MeteFree, MeteYours, MeteVcpu, MeteSlot. Checks it first. -EIO: the file did not take it. */
int hhi_write_xml(const json_t *hhi, FILE *f, struct err *err);

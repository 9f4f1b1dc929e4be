/* SPDX-License-Identifier: Apache-2.0 */
/* host/inventory.h - what the machine has, as components: one `cpu` for each processing unit, one
 * `memory` for each NUMA node. Read through hwloc: from this machine, from an XML file that
 * `lstopo FILE.xml` wrote, or from a synthetic description, so that a machine can be tried out
 * that one does not have.
 *
 * `capacity` is what is there; `owned` what the configuration lets us give away. A component of which
 * nothing may be given away is listed all the same, with owned 0. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/component.h"
#include "host/cpulist.h"

enum inventory_source { INVENTORY_LIVE = 1, INVENTORY_XML, INVENTORY_SYNTHETIC, INVENTORY_SOURCE_N };

struct inventory_options {
        enum inventory_source source;
        const char *text; /* XML: path; SYNTHETIC: such as "numa:2(memory=8GB) l3:1 core:4 pu:2"; borrowed */
        const char *cpus; /* those that may be given away, "0-3,8"; NULL: all */
        int64_t memory_bytes;  /* how much may be given away; 0: all but the reserve */
        int64_t reserve_bytes; /* always left to the host */
};

struct inventory {
        struct component *components; /* owned; cpus by number, then memory by node */
        size_t n;
        int64_t memory_bytes; /* capacity, all nodes */
        int64_t memory_owned_bytes;
        size_t cpus_owned;
};

/* The memory that may be given away is taken from the nodes of the CPUs that may be given away, in
 * proportion to their size, and from other nodes only when those do not suffice; in whole MiB.
 * REASON_INVALID: a CPU that is not there, a file or description that hwloc refuses.
 * REASON_NO_CAPACITY: more memory than there is. *ret is untouched on failure. */
int inventory_read(const struct inventory_options *o, struct inventory *ret, struct err *err);
/* A link of which so much may be given away, in each direction; a fiftieth of it is left to what has no
 * guarantee (host/net.h). Behind the others. REASON_INVALID: no name of an interface, or too slow. */
int inventory_add_link(struct inventory *inv, const char *name, int64_t rate_bps, struct err *err);
/* A disk of which so much may be given away, read and written together. Behind the others. REASON_INVALID: no
 * name, or too slow. */
int inventory_add_disk(struct inventory *inv, const char *name, int64_t bytes_per_s, struct err *err);
/* What can be given away below one L3 cache (host/resctrl.h), which these CPUs have: of ways all but
 * `rest_ways`, and of memory bandwidth, in percent, all but a step for each of everybody else. 0 ways or
 * step: there is none. */
int inventory_add_domain(struct inventory *inv, uint32_t domain, const struct cpulist *cpus, int64_t ways,
                         int64_t rest_ways, int64_t ways_step, int64_t membw_step, struct err *err);
/* A component that the machine had once ("cpu:5", "memory:node1", "net:eth0"), behind the others: not
 * healthy, of no capacity, but with a name, so that what is claimed of it still stands in the books.
 * REASON_INVALID: no name of a component. */
int inventory_add_missing(struct inventory *inv, const char *id, struct err *err);
/* Idempotent. */
void inventory_done(struct inventory *inv);

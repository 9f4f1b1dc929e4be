/* SPDX-License-Identifier: Apache-2.0 */
/* host/topology.h - a machine as hwloc knows it, from one of the three sources of host/inventory.h, and as a
 * document (json/hhi.h). */
#pragma once
#include <hwloc.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "host/inventory.h"

enum {
        TOPOLOGY_FILE_MAX = 16 << 20, /* bytes; 384 CPUs with all their caches are 350 KB */
        TOPOLOGY_OBJECTS_MAX = 16384,
        TOPOLOGY_DEPTH_MAX = 40,
        TOPOLOGY_MATRIX_MAX = 512, /* objects of one matrix of distances */
};

/* A loaded topology, which the caller destroys. `whole`: with devices, instruction caches, and what this
 * process may not use; else what hwloc gives by itself. An XML file may be one of hwloc 3, too: the installed
 * hwloc 2 refuses those by their version alone, so they are written anew as version 2.
 *
 * REASON_INVALID: a file that is absent, larger than the limits, ends too early or contradicts itself; a
 * description of more than CPULIST_MAX CPUs. hwloc sees none of those: it checks neither sizes nor depth, and
 * tries for hours (a million CPUs) or overflows its arithmetic (65,537 distances). */
int topology_load(enum inventory_source source, const char *text, bool whole, hwloc_topology_t *ret,
                  struct err *err);

/* A text of hwloc's XML as hwloc 2 takes it, checked against the limits. To be freed; NULL: *err says why. */
char *topology_xml_prepare(const char *text, struct err *err);

/* In libhosthhi, with jansson. The whole machine as a document that passes hhi_check(), without marks but
 * "offline"; a new reference. */
int topology_hhi(hwloc_topology_t topology, json_t **ret, struct err *err);
/* Both. */
int topology_read_hhi(enum inventory_source source, const char *text, json_t **ret, struct err *err);

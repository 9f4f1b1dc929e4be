/* SPDX-License-Identifier: Apache-2.0 */
/* vm/definition.h - how a VM's definition comes about: everything about it that is fixed when it is created,
 * so that it can be started again and moved.
 *
 * The definition itself is the record of the store, struct api_vm_definition (api/vm.json); its codec is
 * api_vm_definition_parse/emit, and vm_definition_check() sees what a schema cannot. No I/O but the random
 * numbers of UUID and MAC. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "json/api.h"

#define VM_UNIT_BYTES (INT64_C(128) << 20) /* memory grows by this: a memory block of an x86 guest */
enum { VM_CPUS_MAX = 64, VM_DIMMS_MAX = 64, VM_NUMA_NODE = 0 };

/* Rounds memory up to whole units and says so; draws UUID and MAC. share_milli is what each base vCPU holds
 * where the wish does not say. *ret untouched on failure. */
int vm_definition_make(const struct api_vm_create *wish, int64_t share_milli,
                       const struct api_qemu_probe *probe, struct api_vm_definition *ret, struct err *err);
/* 0: this wish would have made this definition, it is the same request sent again. Else REASON_INVALID; *err
 * names the first field in which they differ. */
int vm_definition_answers(const struct api_vm_definition *d, const struct api_vm_create *wish,
                          int64_t share_milli, struct err *err);
/* Units of memory above the base. */
int64_t vm_definition_growth_bytes(const struct api_vm_definition *d);
/* Amount rounded up to whole units; amounts above 2^53 stay as they are. */
int64_t vm_round_up(int64_t bytes, int64_t unit_bytes);
/* What the parts of a definition must have in common, for one that was read back from the store. */
int vm_definition_check(const struct api_vm_definition *d, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/vacate.h - can all VMs of a hypervisor leave it for another one, and in which order? A VM gets CPU
 * time of its own at the other before it gives up what it has, and a CPU follows only when no VM has anything
 * of it any more. So VMs that share CPUs may all find room there alone, and still not all; or all do, but not
 * in any order (5.22).
 *
 * An order is sought by what pays best next: a VM that frees more than it needs goes before one that does
 * not. It is one of ranks: those of one rank have room all at once when those of the ranks before have left,
 * so that it does not matter which of them is there first, and they may go side by side.
 *
 * All of it by sums of CPU time. Where there is an order that this does not find, it is refused though it
 * could be: never the other way about, by those sums. They do not say which CPUs a VM gets: two of its vCPUs
 * want two of them, an exclusive one wants a CPU with nobody on it (core/place.h).
 *
 * Pure: no I/O, no clock, no allocation. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { VACATE_VMS_MAX = 256, VACATE_CPUS_MAX = 1024 };
enum { VACATE_STAYS = VACATE_VMS_MAX }; /* as vm: somebody who does not leave */

struct vacate_claim {
        uint32_t vm, cpu; /* numbers of the caller's */
        int64_t milli;    /* thousandths of a CPU that it needs; of a time to come: 0, it only has it */
};

/* By VM, those of VACATE_STAYS last. VMs of 0 to n_vms - 1 on the n_cpus that their hypervisor has, of which
 * the last stays; room_milli is what the other has. SIZE_MAX: all can leave, and ret_rank (room for n_vms)
 * says when, from 1; else the number of one that cannot, of those that are left then the one with the least
 * need. */
size_t vacate_check(const struct vacate_claim *claims, size_t n, size_t n_vms, size_t n_cpus,
                    int64_t room_milli, uint32_t *ret_rank);

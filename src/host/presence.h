/* SPDX-License-Identifier: Apache-2.0 */
/* host/presence.h - what of this machine is there just now, as the kernel's files say; and to hear that it
 * may be otherwise. What is heard is a reason to look, never what is believed: whoever can send it can at
 * most make us look.
 *
 * sysfs, proc: "/sys", "/proc"; tests give others. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "host/cpulist.h"

/* which: "online" or "present". */
int presence_cpus(const char *sysfs, const char *which, struct cpulist *ret, struct err *err);
/* The node of a CPU that is on line; -1: the kernel knows none. Of one that is off line it says none. */
int presence_node(const char *sysfs, uint32_t cpu);
/* Bytes of a node's memory that are on line. -ENOENT: the kernel knows no such node; any other error says
 * nothing of what is there. */
int64_t presence_memory(const char *sysfs, uint32_t node);
/* Bytes of it that the hardware has spoilt. The kernel has a sum of all nodes (HardwareCorrupted in meminfo),
 * and since 6.4 one of each; -ENODATA: there are several nodes, and only the sum is known, and it is not 0.
 * Any other error says nothing. */
int64_t presence_poisoned(const char *sysfs, const char *proc, uint32_t node, size_t n_nodes);
/* 1: the link is up and has a carrier. 0: not so. -ENODEV: there is no such link in our network namespace.
 * Any other error says nothing. */
int presence_link(const char *name);
/* Whether a link is to count as down, which it is until it had a carrier for a while: one that flaps is down.
 * All 0: it was not seen down. now_ms: monotonic, above 0. */
enum { PRESENCE_CARRIER_MS = 2000 };
struct presence_carrier {
        bool is_down;
        int64_t up_ms; /* since when it has a carrier again; 0: it has none */
};
bool presence_is_down(struct presence_carrier *c, bool has_carrier, int64_t now_ms);
/* Another number when another PCI function or disk is there. */
uint64_t presence_devices(const char *sysfs);

enum { PRESENCE_SOURCES = 2 };
/* Descriptors on which something can be read when devices, CPUs or memory (uevents) and links may have
 * changed; -1 where that cannot be had. Returns how many there are. The caller closes them. */
int presence_listen(int ret_fds[PRESENCE_SOURCES]);
/* Reads what there is, up to a bound, and forgets it. */
void presence_drain(int fd);

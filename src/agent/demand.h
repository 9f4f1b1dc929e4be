/* SPDX-License-Identifier: Apache-2.0 */
/* agent/demand.h - what this guest uses, and what it would use if it had more: from a few short files of
 * /proc, read every few seconds from one place.
 *
 *   cpu     time that CPUs were busy, or the host kept them from it (steal), and what waited for one: the
 * part of the time in which something did (PSI) for each that waited, or what waits right now where there is
 * no PSI memory  what cannot be had without taking it from somebody (MemTotal less MemAvailable), and as much
 * more as the part of the time in which something waited for memory (PSI) net     bits a second, of sent and
 * received what is more; without lo block   bytes a second, read and written, of whole disks
 *
 * What cannot be read is not said. */
#pragma once
#include <stdint.h>

enum demand_kind { DEMAND_CPU, DEMAND_MEMORY, DEMAND_NET, DEMAND_BLOCK, DEMAND_N };
const char *demand_name(enum demand_kind kind); /* "cpu" */

struct demand {
        char proc[256];
        int64_t before_ms; /* 0: no look yet */
        struct demand_counters {
                uint64_t busy, cpu_wait_us, memory_wait_us, received, sent, sectors;
        } before;
};

struct demand_said {
        unsigned is_known;       /* bit a kind */
        double amount[DEMAND_N]; /* thousandths of a CPU, bytes, bits a second, bytes a second */
        double memory_total;
};

/* proc: "/proc"; tests have one of their own. */
void demand_init(struct demand *d, const char *proc);
/* cpus: on line, for what waits. The first look knows of memory alone, the others are rates since the one
 * before. */
void demand_look(struct demand *d, int64_t mono_ms, unsigned cpus, struct demand_said *ret);

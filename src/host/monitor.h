/* SPDX-License-Identifier: Apache-2.0 */
/* host/monitor.h - live figures of the host: how busy its CPUs are, what memory is left, who waits.
 * Each figure can be missing on a platform; it says so instead of being 0. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "host/cpulist.h"

enum monitor_pressure { MONITOR_CPU = 0, MONITOR_MEMORY, MONITOR_IO, MONITOR_PRESSURE_N };

/* Pressure stall information: the part of the time, in ten-thousandths, in which some (or all) tasks waited.
 */
struct monitor_psi {
        bool is_known;
        int some_avg10, some_avg60;
        int full_avg10, full_avg60; /* 0 where the kernel has none, as for cpu */
        uint64_t some_total_us;
};

/* Cumulative, since boot; the busy part of an interval comes from two readings. */
struct monitor_cpu {
        bool is_online;
        uint64_t idle_ticks, total_ticks; /* idle includes waiting for disks; total includes stolen time */
};

struct monitor {
        int64_t at_mono_ms;
        struct monitor_psi psi[MONITOR_PRESSURE_N];
        int64_t memory_available_bytes, memory_total_bytes; /* -1: unknown */
        size_t n_cpus;                                      /* highest number + 1 */
        struct monitor_cpu *cpus;                           /* owned, by number */
};

/* Reads all. proc: "/proc"; tests give another. now_mono_ms is noted. Allocates the CPUs' table at the first
 * reading, and again only where there are more CPUs. *m is zeroed before the first. */
int monitor_read(struct monitor *m, const char *proc, int64_t now_mono_ms, struct err *err);
void monitor_done(struct monitor *m); /* idempotent */
/* How busy the CPU was between two readings, in thousandths; -1: not known (off line, or no time went by). */
int monitor_busy_milli(const struct monitor *before, const struct monitor *after, uint32_t cpu);
const char *monitor_pressure_name(enum monitor_pressure p); /* "cpu" */

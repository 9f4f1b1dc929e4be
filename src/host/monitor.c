/* SPDX-License-Identifier: Apache-2.0 */
#include "host/monitor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[MONITOR_PRESSURE_N] = {
        [MONITOR_CPU] = "cpu", [MONITOR_MEMORY] = "memory", [MONITOR_IO] = "io"};

const char *monitor_pressure_name(enum monitor_pressure p)
{
        return names[p];
}

static FILE *open_in(const char *proc, const char *name)
{
        char path[256];
        int n = snprintf(path, sizeof(path), "%s/%s", proc, name);
        return n > 0 && (size_t)n < sizeof(path) ? fopen(path, "re") : NULL;
}

/* "avg10=1.25 " -> 125: percent with two decimals, without floats. false: it is not there. */
static bool read_percent(const char *line, const char *key, int *ret)
{
        const char *at = strstr(line, key);
        char *end;
        if (!at)
                return false;
        long whole = strtol(at + strlen(key), &end, 10);
        if (*end != '.' || whole < 0 || whole > 100)
                return false;
        long part = strtol(end + 1, NULL, 10);
        *ret = (int)(whole * 100 + (part >= 0 && part < 100 ? part : 0));
        return true;
}

/* "some avg10=0.12 avg60=0.00 avg300=0.00 total=123" and the same for "full" */
static void read_psi(const char *proc, const char *name, struct monitor_psi *ret)
{
        char file[32], line[128];
        (void)snprintf(file, sizeof(file), "pressure/%s", name);
        *ret = (struct monitor_psi){0};
        FILE *f = open_in(proc, file);
        while (f && fgets(line, sizeof(line), f)) {
                int avg10, avg60;
                const char *total = strstr(line, " total=");
                if (!read_percent(line, " avg10=", &avg10) || !read_percent(line, " avg60=", &avg60) ||
                    !total)
                        continue;
                if (strncmp(line, "some ", 5) == 0) {
                        ret->is_known = true;
                        ret->some_avg10 = avg10;
                        ret->some_avg60 = avg60;
                        ret->some_total_us = strtoull(total + 7, NULL, 10);
                } else if (strncmp(line, "full ", 5) == 0) {
                        ret->full_avg10 = avg10;
                        ret->full_avg60 = avg60;
                }
        }
        if (f)
                (void)fclose(f);
}

/* "MemTotal:  1000 kB"; *ret is left alone where the line is another. */
static void take_kib(const char *line, const char *key, int64_t *ret_bytes)
{
        size_t n = strlen(key);
        if (strncmp(line, key, n) == 0)
                *ret_bytes = strtoll(line + n, NULL, 10) * 1024;
}

static void read_memory(const char *proc, struct monitor *m)
{
        char line[128];
        m->memory_available_bytes = m->memory_total_bytes = -1;
        FILE *f = open_in(proc, "meminfo");
        while (f && fgets(line, sizeof(line), f)) {
                take_kib(line, "MemTotal:", &m->memory_total_bytes);
                take_kib(line, "MemAvailable:", &m->memory_available_bytes);
        }
        if (f)
                (void)fclose(f);
}

static int want_cpu(struct monitor *m, uint32_t cpu, struct err *err)
{
        if (cpu < m->n_cpus)
                return 0;
        struct monitor_cpu *more = realloc(m->cpus, ((size_t)cpu + 1) * sizeof(*more));
        if (!more)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        memset(more + m->n_cpus, 0, ((size_t)cpu + 1 - m->n_cpus) * sizeof(*more));
        m->cpus = more;
        m->n_cpus = (size_t)cpu + 1;
        return 0;
}

/* "cpu3 user nice system idle iowait irq softirq steal guest guest_nice"; guest time is in user already. */
static int read_cpus(const char *proc, struct monitor *m, struct err *err)
{
        char line[512];
        int r = 0;
        FILE *f = open_in(proc, "stat");
        if (!f)
                return err_set(err, REASON_INTERNAL, errno, "%s/stat: %s", proc, strerror(errno));
        for (size_t i = 0; i < m->n_cpus; i++)
                m->cpus[i].is_online = false;
        while (r == 0 && fgets(line, sizeof(line), f)) {
                unsigned long long t[8];
                char *at;
                if (strncmp(line, "cpu", 3) != 0 || line[3] < '0' ||
                    line[3] > '9') /* "cpu " is the sum of all */
                        continue;
                unsigned long cpu = strtoul(line + 3, &at, 10);
                for (int i = 0; i < 8; i++)
                        t[i] = strtoull(at, &at, 10);
                if (cpu >= CPULIST_MAX)
                        continue;
                if ((r = want_cpu(m, (uint32_t)cpu, err)) < 0)
                        break;
                struct monitor_cpu *c = &m->cpus[cpu];
                *c = (struct monitor_cpu){.is_online = true, .idle_ticks = t[3] + t[4]};
                for (int i = 0; i < 8; i++)
                        c->total_ticks += t[i];
        }
        (void)fclose(f);
        return r;
}

int monitor_read(struct monitor *m, const char *proc, int64_t now_mono_ms, struct err *err)
{
        int r = read_cpus(proc, m, err);
        if (r < 0)
                return r;
        for (int i = 0; i < MONITOR_PRESSURE_N; i++)
                read_psi(proc, names[i], &m->psi[i]);
        read_memory(proc, m);
        m->at_mono_ms = now_mono_ms;
        return 0;
}

void monitor_done(struct monitor *m)
{
        free(m->cpus);
        *m = (struct monitor){0};
}

int monitor_busy_milli(const struct monitor *before, const struct monitor *after, uint32_t cpu)
{
        if (cpu >= before->n_cpus || cpu >= after->n_cpus)
                return -1;
        const struct monitor_cpu *a = &before->cpus[cpu], *b = &after->cpus[cpu];
        if (!a->is_online || !b->is_online || b->total_ticks <= a->total_ticks)
                return -1;
        uint64_t total = b->total_ticks - a->total_ticks;
        /* The kernel's idle time may go back a little when a CPU comes on line. */
        uint64_t idle = b->idle_ticks > a->idle_ticks ? b->idle_ticks - a->idle_ticks : 0;
        return idle > total ? 0 : (int)((total - idle) * 1000 / total);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/demand.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"

enum { TEXT = 16384, SECTOR = 512 };

const char *demand_name(enum demand_kind kind)
{
        static const char *const names[DEMAND_N] = {"cpu", "memory", "net", "block"};
        return names[kind];
}

void demand_init(struct demand *d, const char *proc)
{
        *d = (struct demand){0};
        (void)STR_COPY(d->proc, proc);
}

/* The begin of a file; false: there is none. */
static bool text_of(const struct demand *d, const char *file, char *buf, size_t size)
{
        char path[320];
        size_t n = 0;
        ssize_t got = 0;

        (void)snprintf(path, sizeof(path), "%s/%s", d->proc, file);
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return false;
        while (n < size - 1 && ((got = read(fd, buf + n, size - 1 - n)) > 0 || (got < 0 && errno == EINTR)))
                n += got > 0 ? (size_t)got : 0;
        (void)close(fd);
        buf[n] = '\0';
        return n > 0;
}

/* The number behind a word; -1: it is not there. */
static int64_t behind(const char *text, const char *word)
{
        const char *at = strstr(text, word);
        return at ? strtoll(at + strlen(word), NULL, 10) : -1;
}

/* The word of that number in a line, from 0; NULL: it has fewer. */
static const char *word(const char *line, unsigned n)
{
        line += strspn(line, " ");
        for (; n > 0 && *line && *line != '\n'; n--) {
                line += strcspn(line, " \n");
                line += strspn(line, " ");
        }
        return *line && *line != '\n' ? line : NULL;
}

static bool number(const char *line, unsigned n, uint64_t *ret)
{
        const char *at = word(line, n);
        if (!at || !isdigit((unsigned char)*at))
                return false;
        *ret = strtoull(at, NULL, 10);
        return true;
}

/* cpu user nice system idle iowait irq softirq steal, in ticks */
static bool look_busy(const struct demand *d, uint64_t *ret)
{
        static const unsigned busy[] = {1, 2, 3, 6, 7, 8};
        char text[512];
        uint64_t sum = 0, v;

        if (!text_of(d, "stat", text, sizeof(text)) || strncmp(text, "cpu ", 4) != 0)
                return false;
        for (size_t i = 0; i < ARRAY_N(busy); i++) {
                if (!number(text, busy[i], &v))
                        return false;
                sum += v;
        }
        *ret = sum;
        return true;
}

/* Microseconds in which something waited; false: this kernel does not say. */
static bool look_pressure(const struct demand *d, const char *what, uint64_t *ret)
{
        char file[32], text[512];

        (void)snprintf(file, sizeof(file), "pressure/%s", what);
        int64_t total = text_of(d, file, text, sizeof(text)) && strncmp(text, "some ", 5) == 0
                                ? behind(text, "total=")
                                : -1;
        *ret = total < 0 ? 0 : (uint64_t)total;
        return total >= 0;
}

/* How many run or wait for a CPU, without us. */
static double running(const struct demand *d)
{
        char text[128];
        uint64_t n = 0;

        return text_of(d, "loadavg", text, sizeof(text)) && number(text, 3, &n) && n > 1 ? (double)(n - 1)
                                                                                         : 0;
}

static bool look_net(const struct demand *d, uint64_t *received, uint64_t *sent)
{
        char text[TEXT], *save = NULL;

        *received = *sent = 0;
        if (!text_of(d, "net/dev", text, sizeof(text)))
                return false;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                const char *figures = strchr(line, ':');
                uint64_t in, out;
                line += strspn(line, " ");
                if (!figures || strncmp(line, "lo:", 3) == 0 || !number(figures + 1, 0, &in) ||
                    !number(figures + 1, 8, &out))
                        continue;
                *received += in;
                *sent += out;
        }
        return true;
}

/* Not of a partition, which its disk counts too, and of nothing that lies upon disks. */
static bool is_disk(const char *name)
{
        size_t n = strcspn(name, " ");
        if (strncmp(name, "nvme", 4) == 0)
                return memchr(name + 4, 'p', n - 4) == NULL;
        return (strncmp(name, "vd", 2) == 0 || strncmp(name, "sd", 2) == 0 || strncmp(name, "xvd", 3) == 0) &&
               !isdigit((unsigned char)name[n - 1]);
}

static bool look_disks(const struct demand *d, uint64_t *sectors)
{
        char text[TEXT], *save = NULL;

        *sectors = 0;
        if (!text_of(d, "diskstats", text, sizeof(text)))
                return false;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                const char *name = word(line, 2);
                uint64_t in, out;
                if (name && is_disk(name) && number(line, 5, &in) && number(line, 9, &out))
                        *sectors += in + out;
        }
        return true;
}

/* A counter that began anew has counted nothing. */
static double grown(uint64_t now, uint64_t before)
{
        return now > before ? (double)(now - before) : 0;
}

static void say(struct demand_said *s, enum demand_kind kind, double amount)
{
        s->amount[kind] = amount;
        s->is_known |= 1U << kind;
}

static void look_memory(const struct demand *d, double waited, struct demand_said *ret)
{
        char text[1024]; /* both are in the first three lines */
        if (!text_of(d, "meminfo", text, sizeof(text)))
                return;
        int64_t total = behind(text, "MemTotal:"), available = behind(text, "MemAvailable:");
        if (total < 0 || available < 0 || available > total)
                return;
        ret->memory_total = (double)total * 1024;
        say(ret, DEMAND_MEMORY, (double)(total - available) * 1024 * (1 + waited));
}

void demand_look(struct demand *d, int64_t mono_ms, unsigned cpus, struct demand_said *ret)
{
        struct demand_counters now = {0}, *before = &d->before;
        double ms = d->before_ms > 0 ? (double)(mono_ms - d->before_ms) : 0, waited = 0;

        *ret = (struct demand_said){0};
        bool has_cpu = look_busy(d, &now.busy), has_wait = look_pressure(d, "cpu", &now.cpu_wait_us);
        bool has_net = look_net(d, &now.received, &now.sent), has_disks = look_disks(d, &now.sectors);
        if (look_pressure(d, "memory", &now.memory_wait_us) && ms > 0)
                waited = grown(now.memory_wait_us, before->memory_wait_us) / (ms * 1000);
        look_memory(d, waited < 1 ? waited : 1, ret);
        if (ms > 0 && has_cpu) {
                double ticks = (double)sysconf(_SC_CLK_TCK), queue = running(d) - cpus;
                double part = grown(now.cpu_wait_us, before->cpu_wait_us) / (ms * 1000);
                double waiting =
                        !has_wait ? (queue > 0 ? queue : 0) : (part < 1 ? part : 1) * (queue > 1 ? queue : 1);
                say(ret, DEMAND_CPU, grown(now.busy, before->busy) * 1000000 / ticks / ms + 1000 * waiting);
        }
        if (ms > 0 && has_net) {
                double in = grown(now.received, before->received), out = grown(now.sent, before->sent);
                say(ret, DEMAND_NET, (in > out ? in : out) * 8000 / ms);
        }
        if (ms > 0 && has_disks)
                say(ret, DEMAND_BLOCK, grown(now.sectors, before->sectors) * SECTOR * 1000 / ms);
        d->before = now;
        d->before_ms = mono_ms;
}

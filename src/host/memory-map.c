/* SPDX-License-Identifier: Apache-2.0 */
/* 7f2a00000000 bind:0 file=/run/mete/ram/v/base huge dirty=2 N0=1 N1=1 kernelpagesize_kB=2048
 * The kernel escapes blanks, line ends, '=' and '\' in the path as \ooo, so a name cannot forge a field. */
#include "host/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool is_number(const char *text, int64_t most, int64_t *ret)
{
        char *end;
        if (*text < '0' || *text > '9')
                return false;
        errno = 0;
        long long value = strtoll(text, &end, 10);
        if (errno != 0 || *end || value > most)
                return false;
        *ret = value;
        return true;
}

/* In place. */
static void unescape(char *text)
{
        char *to = text;
        for (const char *at = text; *at; at++) {
                if (at[0] == '\\' && at[1] >= '0' && at[1] <= '3' && at[2] >= '0' && at[2] <= '7' &&
                    at[3] >= '0' && at[3] <= '7') {
                        *to++ = (char)((at[1] - '0') * 64 + (at[2] - '0') * 8 + (at[3] - '0'));
                        at += 3;
                } else {
                        *to++ = *at;
                }
        }
        *to = '\0';
}

static bool is_file(const char *path, const char *file)
{
        size_t n = strlen(file);
        if (strncmp(path, file, n) != 0)
                return false;
        return (n > 0 && file[n - 1] == '/') || path[n] == '\0' || strcmp(path + n, " (deleted)") == 0;
}

/* "bind:0-1", "bind=static:0". false: another policy. */
static bool parse_bind(const char *policy, struct cpulist *ret)
{
        const char *list = strchr(policy, ':');
        return strncmp(policy, "bind", 4) == 0 && (policy[4] == ':' || policy[4] == '=') && list &&
               cpulist_parse(list + 1, ret, NULL) == 0;
}

struct area {
        bool is_of_file, is_bound;
        struct cpulist bound;
        int64_t pages[MEMORY_NODES];
        int64_t page_bytes;
};

static bool parse_word(struct area *a, char *word, const char *file)
{
        int64_t node, pages;
        if (strncmp(word, "file=", 5) == 0) {
                unescape(word + 5);
                a->is_of_file = is_file(word + 5, file);
        } else if (strncmp(word, "kernelpagesize_kB=", 18) == 0) {
                if (!is_number(word + 18, (int64_t)1 << 30, &a->page_bytes))
                        return false;
                a->page_bytes *= 1024;
        } else if (word[0] == 'N' && word[1] >= '0' && word[1] <= '9') {
                char *equals = strchr(word, '=');
                if (!equals)
                        return false;
                *equals = '\0';
                if (!is_number(word + 1, MEMORY_NODES - 1, &node) ||
                    !is_number(equals + 1, (int64_t)1 << 40, &pages))
                        return false;
                a->pages[node] = pages;
        }
        return true;
}

static bool add_area(struct memory_map *m, const struct area *a)
{
        for (int i = 0; i < MEMORY_NODES; i++) {
                int64_t bytes;
                if (__builtin_mul_overflow(a->pages[i], a->page_bytes, &bytes) ||
                    __builtin_add_overflow(m->total_bytes, bytes, &m->total_bytes))
                        return false;
                m->bytes[i] += bytes;
        }
        m->n_areas++;
        if (a->is_bound) {
                m->n_bound++;
                cpulist_join(&m->bound_nodes, &a->bound);
        }
        return true;
}

static bool parse_line(struct memory_map *m, struct area *a, char *line, const char *file)
{
        char *save;
        *a = (struct area){.page_bytes = sysconf(_SC_PAGESIZE)};
        (void)strtok_r(line, " \n", &save);
        char *policy = strtok_r(NULL, " \n", &save);
        if (!policy)
                return false;
        a->is_bound = parse_bind(policy, &a->bound);
        for (char *word; (word = strtok_r(NULL, " \n", &save));)
                if (!parse_word(a, word, file))
                        return false;
        return !a->is_of_file || add_area(m, a);
}

int memory_map_parse(FILE *f, const char *file, struct memory_map *ret, struct err *err)
{
        struct memory_map *m = calloc(1, sizeof(*m));
        struct area *a = calloc(1, sizeof(*a));
        char *line = NULL;
        size_t size = 0;
        int r = m && a ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        while (r == 0 && getline(&line, &size, f) > 0)
                if (!parse_line(m, a, line, file))
                        r = err_set(err, REASON_INTERNAL, EPROTO, "numa_maps: a line that cannot be read");
        if (r == 0)
                *ret = *m;
        free(line);
        free(m);
        free(a);
        return r;
}

int memory_map_read(const struct memory_host *h, pid_t pid, const char *file, struct memory_map *ret,
                    struct err *err)
{
        char path[CGROUPFS_PATH];
        (void)snprintf(path, sizeof(path), "%s/%d/numa_maps", h->proc, (int)pid);
        FILE *f = fopen(path, "re");
        if (!f) {
                int code = errno;
                (void)snprintf(path, sizeof(path), "%s/%d", h->proc, (int)pid);
                if (code == ENOENT && access(path, F_OK) == 0)
                        return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                                       "this kernel has no numa_maps: where memory lies is not known");
                return err_set(err, code == ENOENT ? REASON_NOT_FOUND : REASON_INTERNAL, code,
                               "numa_maps of process %d: %s", (int)pid, strerror(code));
        }
        int r = memory_map_parse(f, file, ret, err);
        (void)fclose(f);
        return r;
}

int memory_map_verify(const struct memory_map *m, const struct cpulist *nodes, struct err *err)
{
        char text[CPULIST_TEXT], have[CPULIST_TEXT];
        (void)cpulist_print(nodes, text);
        int r = 0;
        if (m->n_areas == 0)
                r = err_set(err, REASON_STALE, ESTALE, "the process does not map this memory");
        else if (m->n_bound < m->n_areas)
                r = err_set(err, REASON_STALE, ESTALE, "%zu of %zu mappings are not bound to nodes %.60s",
                            m->n_areas - m->n_bound, m->n_areas, text);
        else if (!cpulist_is_within(&m->bound_nodes, nodes))
                r = err_set(err, REASON_STALE, ESTALE, "memory is bound to nodes %.60s, not to %.60s",
                            cpulist_print(&m->bound_nodes, have), text);
        for (uint32_t i = 0; r == 0 && i < MEMORY_NODES; i++)
                if (m->bytes[i] > 0 && !cpulist_has(nodes, i))
                        r = err_set(err, REASON_STALE, ESTALE, "%jd KiB lie on node %u, not on nodes %.60s",
                                    (intmax_t)(m->bytes[i] / 1024), i, text);
        return r < 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "host/memory.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"

#define MIB ((int64_t)1024 * 1024)

int memory_host_init(struct memory_host *h, const struct memory_options *o, struct err *err)
{
        const char *sysfs = o->sysfs ? o->sysfs : "/sys";
        struct cgroupfs_mounts m;
        char node[CGROUPFS_PATH];
        *h = (struct memory_host){.is_fake = o->is_fake};
        int a = snprintf(h->nodes, sizeof(h->nodes), "%s/devices/system/node", sysfs);
        int b = snprintf(h->pages, sizeof(h->pages), "%s/kernel/mm/hugepages", sysfs);
        if (a < 0 || b < 0 || (size_t)a >= sizeof(h->nodes) || (size_t)b >= sizeof(h->pages) ||
            !STR_COPY(h->state_dir, o->state_dir) || !STR_COPY(h->proc, o->proc ? o->proc : "/proc"))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "a path is too long");
        (void)snprintf(node, sizeof(node), "%s/node0", h->nodes);
        if (access(node, F_OK) < 0) {
                h->nodes[0] = '\0';
                (void)STR_COPY(h->nodes_fallback,
                               "this kernel knows no memory nodes: huge pages are of the whole machine");
        }
        int r = cgroupfs_find(o->mountinfo, &m, err);
        if (r < 0 ||
            (r = confine_init(&h->confine, &m, m.v1_memory, "memory", o->prefix, o->is_fake, err)) < 0)
                return r;
        if (!*h->confine.root)
                (void)STR_COPY(
                        h->limit_fallback,
                        "no cgroup hierarchy with memory may be written: a VMM's memory is not bounded");
        return 0;
}

/* "Node 0 MemTotal:  1000 kB", or without the node; *ret is left alone where the line is another. */
static void take_kib(const char *line, const char *key, int64_t *ret_bytes)
{
        const char *at = strstr(line, key);
        if (at && (at == line || at[-1] == ' '))
                *ret_bytes = strtoll(at + strlen(key), NULL, 10) * 1024;
}

static void read_pools(const char *dir, struct memory_node *ret)
{
        DIR *d = opendir(dir);
        for (struct dirent *e; d && ret->n < MEMORY_SIZES && (e = readdir(d));) {
                char pool[CGROUPFS_PATH + 300];
                struct memory_pool p = {0};
                if (strncmp(e->d_name, "hugepages-", 10) != 0)
                        continue;
                (void)snprintf(pool, sizeof(pool), "%s/%s", dir, e->d_name);
                p.page_bytes = strtoll(e->d_name + 10, NULL, 10) * 1024;
                if (cgroupfs_read_number(pool, "nr_hugepages", &p.total, NULL) == 0 &&
                    cgroupfs_read_number(pool, "free_hugepages", &p.free, NULL) == 0 &&
                    cgroupfs_read_number(pool, "surplus_hugepages", &p.surplus, NULL) == 0)
                        ret->pools[ret->n++] = p;
        }
        if (d)
                (void)closedir(d);
}

static int by_size(const void *a, const void *b)
{
        const struct memory_pool *x = a, *y = b;
        return (x->page_bytes > y->page_bytes) - (x->page_bytes < y->page_bytes);
}

int memory_node_read(const struct memory_host *h, int node, struct memory_node *ret, struct err *err)
{
        char path[CGROUPFS_PATH], line[128];
        struct memory_node now = {.total_bytes = -1, .free_bytes = -1};
        if (*h->nodes)
                (void)snprintf(path, sizeof(path), "%s/node%d/meminfo", h->nodes, node);
        else
                (void)snprintf(path, sizeof(path), "%s/meminfo", h->proc);
        FILE *f = node >= 0 && (*h->nodes || node == 0) ? fopen(path, "re") : NULL;
        if (!f)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no memory node %d", node);
        while (fgets(line, sizeof(line), f)) {
                take_kib(line, "MemTotal:", &now.total_bytes);
                take_kib(line, "MemFree:", &now.free_bytes);
        }
        (void)fclose(f);
        if (*h->nodes)
                (void)snprintf(path, sizeof(path), "%s/node%d/hugepages", h->nodes, node);
        else
                (void)snprintf(path, sizeof(path), "%s", h->pages);
        read_pools(path, &now);
        qsort(now.pools, now.n, sizeof(now.pools[0]), by_size);
        *ret = now;
        return 0;
}

int64_t memory_limit_bytes(int64_t ram_bytes, int n_vcpus, bool is_tcg)
{
        return ram_bytes + 256 * MIB + ram_bytes / 64 + n_vcpus * 16 * MIB + (is_tcg ? 1024 * MIB : 0);
}

static const char *limit_file(const struct memory_host *h)
{
        return h->confine.is_v2 ? "memory.max" : "memory.limit_in_bytes";
}

static int64_t whole_pages(int64_t bytes)
{
        int64_t page = sysconf(_SC_PAGESIZE);
        return (bytes + page - 1) / page * page;
}

int memory_limit_set(const struct memory_host *h, const char *vm, int64_t bytes, struct err *err)
{
        char dir[CGROUPFS_PATH];
        int64_t used;
        if (bytes <= 0 || bytes >= (int64_t)1 << 53)
                return err_set(err, REASON_INVALID, EINVAL, "a bound of %jd bytes", (intmax_t)bytes);
        bool is_new = access(confine_path(&h->confine, vm, dir), F_OK) < 0;
        int r = confine_make(&h->confine, vm, err);
        if (r < 0)
                return r;
        /* v2 would end processes until it fits. */
        if (memory_limit_read(h, vm, &used, &(int64_t){0}, NULL) == 0 && used > bytes)
                r = err_set(err, REASON_BUSY, EBUSY, "%s: %jd bytes are in use, more than %jd", dir,
                            (intmax_t)used, (intmax_t)bytes);
        if (r == 0)
                r = cgroupfs_write_number(dir, limit_file(h), whole_pages(bytes), h->is_fake, err);
        if (r < 0 && is_new)
                (void)confine_remove(&h->confine, vm, NULL);
        return r;
}

int memory_limit_enter(const struct memory_host *h, const char *vm, pid_t pid, struct err *err)
{
        return confine_enter(&h->confine, vm, pid, err);
}

int memory_limit_pass(const struct memory_host *h, const char *vm, const char *to, pid_t pid, struct err *err)
{
        return confine_pass(&h->confine, vm, to, pid, err);
}

int memory_limit_lift(const struct memory_host *h, const char *vm, struct err *err)
{
        char dir[CGROUPFS_PATH];
        if (!*h->confine.root || access(confine_path(&h->confine, vm, dir), F_OK) < 0)
                return 0;
        int r = vm ? 0 : cgroupfs_write(dir, limit_file(h), h->confine.is_v2 ? "max" : "-1", h->is_fake, err);
        return r < 0 ? r : confine_remove(&h->confine, vm, err);
}

int memory_limit_read(const struct memory_host *h, const char *vm, int64_t *ret_used, int64_t *ret_limit,
                      struct err *err)
{
        /* v1 has no word for "none" but a very large number. */
        const int64_t none = INT64_MAX / 65536 * 65536;
        char dir[CGROUPFS_PATH];
        int64_t used, limit;
        (void)confine_path(&h->confine, vm, dir);
        int r = cgroupfs_read_number(dir, h->confine.is_v2 ? "memory.current" : "memory.usage_in_bytes",
                                     &used, err);
        if (r < 0 || (r = cgroupfs_read_number(dir, limit_file(h), &limit, err)) < 0)
                return r;
        *ret_used = used;
        *ret_limit = limit >= none ? -1 : limit;
        return 0;
}

int memory_limit_verify(const struct memory_host *h, const char *vm, int64_t bytes, pid_t pid,
                        struct err *err)
{
        char dir[CGROUPFS_PATH];
        int64_t used, limit;
        int r = memory_limit_read(h, vm, &used, &limit, err);
        if (r == -ENOENT) {
                (void)err_set(err, REASON_STALE, ESTALE, "%s is gone", confine_path(&h->confine, vm, dir));
                return 1;
        }
        if (r < 0)
                return r;
        if (limit != whole_pages(bytes)) {
                (void)err_set(err, REASON_STALE, ESTALE, "%s/%s was changed by somebody to %jd",
                              confine_path(&h->confine, vm, dir), limit_file(h), (intmax_t)limit);
                return 1;
        }
        if (pid <= 0 || (r = confine_has(&h->confine, vm, pid, err)) < 0)
                return r;
        if (r == 1)
                return 0;
        (void)err_set(err, REASON_STALE, ESTALE, "process %d left %s", (int)pid,
                      confine_path(&h->confine, vm, dir));
        return 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "host/inventory.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <hwloc.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/str.h"
#include "host/cpulist.h"
#include "host/presence.h"
#include "host/topology.h"

enum { MIB_SHIFT = 20, REST_PART = 50, LINK_LEAST_BPS = 10000000, DISK_LEAST = 1 << 20 };

static int64_t whole_mib(int64_t bytes)
{
        return bytes & ~(((int64_t)1 << MIB_SHIFT) - 1);
}

/* hwloc numbers caches level by level; CPUs of different makes on one machine can have their last level
 * at different ones. So we number them ourselves, in the order in which we meet them. */
static uint32_t llc_number(hwloc_obj_t pu, uint64_t *seen, uint32_t *n_seen)
{
        hwloc_obj_t last = NULL;
        for (hwloc_obj_t o = pu->parent; o; o = o->parent)
                if (hwloc_obj_type_is_dcache(o->type))
                        last = o;
        uint64_t key = last ? last->gp_index : 0; /* 0: no cache is known, all of those count as one */
        for (uint32_t i = 0; i < *n_seen; i++)
                if (seen[i] == key)
                        return i;
        seen[*n_seen] = key;
        return (*n_seen)++;
}

static void fill_cpu(hwloc_obj_t pu, struct component *c)
{
        *c = (struct component){.kind = COMPONENT_CPU,
                                .os_index = pu->os_index,
                                .capacity = CPU_WHOLE_MILLI,
                                .healthy = true};
        (void)snprintf(c->id, sizeof(c->id), "cpu:%u", pu->os_index);
        int node = hwloc_bitmap_first(pu->nodeset);
        c->node = node < 0 ? 0 : (uint32_t)node;
        hwloc_obj_t core = pu;
        while (core && core->type != HWLOC_OBJ_CORE)
                core = core->parent;
        c->core = core ? core->logical_index : pu->logical_index;
}

static void fill_memory(hwloc_obj_t node, struct component *c)
{
        *c = (struct component){.kind = COMPONENT_MEMORY,
                                .os_index = node->os_index,
                                .node = node->os_index,
                                .capacity = (int64_t)node->attr->numanode.local_memory,
                                .healthy = true};
        (void)snprintf(c->id, sizeof(c->id), "memory:node%u", node->os_index);
}

/* CPUs that this machine has and that are off line, of which hwloc says only where they would be. */
static size_t find_offline(struct cpulist *ret)
{
        struct cpulist online;
        *ret = (struct cpulist){0};
        if (presence_cpus("/sys", "present", ret, NULL) < 0 ||
            presence_cpus("/sys", "online", &online, NULL) < 0)
                *ret = (struct cpulist){0};
        else
                cpulist_remove(ret, &online);
        return cpulist_count(ret);
}

static void fill_offline(hwloc_topology_t topology, const struct cpulist *cpus, struct component *c)
{
        hwloc_obj_t node = NULL;
        for (int i = cpulist_next(cpus, 0); i >= 0; i = cpulist_next(cpus, (uint32_t)i + 1)) {
                *c = (struct component){
                        .kind = COMPONENT_CPU, .os_index = (uint32_t)i, .capacity = CPU_WHOLE_MILLI};
                (void)snprintf(c->id, sizeof(c->id), "cpu:%d", i);
                while ((node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)))
                        if (hwloc_bitmap_isset(node->complete_cpuset, (unsigned)i))
                                c->node = node->os_index;
                c++;
        }
}

static int compare(const void *a, const void *b)
{
        const struct component *x = a, *y = b;
        if (x->kind != y->kind)
                return x->kind < y->kind ? -1 : 1;
        return (x->os_index > y->os_index) - (x->os_index < y->os_index);
}

static int by_size(const void *a, const void *b)
{
        const int64_t *x = a, *y = b;
        return (*x > *y) - (*x < *y);
}

/* Of the node, or of the machine where the kernel knows no nodes. */
static void read_pages(struct component *memory)
{
        char path[96];
        size_t n = 0;
        (void)snprintf(path, sizeof(path), "/sys/devices/system/node/node%" PRIu32 "/hugepages",
                       memory->os_index);
        DIR *d = opendir(path);
        d = d ? d : opendir("/sys/kernel/mm/hugepages");
        for (struct dirent *e; d && n < COMPONENT_PAGES && (e = readdir(d));)
                if (strncmp(e->d_name, "hugepages-", 10) == 0)
                        memory->page_bytes[n++] = strtoll(e->d_name + 10, NULL, 10) * 1024;
        if (d)
                (void)closedir(d);
        qsort(memory->page_bytes, n, sizeof(memory->page_bytes[0]), by_size);
}

static int own_cpus(struct component *c, size_t n, const char *cpus, struct inventory *inv, struct err *err)
{
        struct cpulist wanted;
        int r = 0;
        if (cpus && (r = cpulist_parse(cpus, &wanted, err)) < 0)
                return r;
        for (size_t i = 0; i < n; i++)
                if (!cpus || cpulist_has(&wanted, c[i].os_index)) {
                        c[i].owned = c[i].capacity;
                        inv->cpus_owned++;
                }
        if (cpus && cpulist_count(&wanted) != inv->cpus_owned)
                return err_set(err, REASON_INVALID, EINVAL,
                               "cpus=%.60s names CPUs that this machine does not have or we may not use",
                               cpus);
        if (inv->cpus_owned == 0)
                return err_set(err, REASON_INVALID, EINVAL, "no CPU may be given away: name some with cpus=");
        return 0;
}

/* Takes up to `wanted` bytes from the nodes that are (or are not) near, in proportion to what they have
 * left of `spare`. Returns what could not be taken. */
static int64_t take(struct component *m, int64_t *spare, size_t n, const bool *near, bool is_near,
                    int64_t wanted)
{
        int64_t total = 0;
        for (size_t i = 0; i < n; i++)
                if (near[i] == is_near)
                        total += spare[i];
        for (size_t i = 0; i < n && total > 0 && wanted > 0; i++) {
                if (near[i] != is_near)
                        continue;
                /* The last of them gets the rest, so that rounding loses nothing. */
                int64_t part =
                        spare[i] == total || wanted >= total
                                ? (wanted < spare[i] ? wanted : spare[i])
                                : whole_mib((int64_t)((double)wanted * (double)spare[i] / (double)total));
                total -= spare[i];
                spare[i] -= part;
                m[i].owned += part;
                wanted -= part;
        }
        return wanted;
}

static int own_memory(const struct inventory_options *o, const struct component *cpus, size_t n_cpus,
                      struct component *m, size_t n, struct inventory *inv, struct err *err)
{
        int64_t available = 0;
        int64_t *spare = calloc(n, sizeof(*spare));
        bool *near = calloc(n, sizeof(*near));
        int r = 0;
        if (!spare || !near) {
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                goto out;
        }
        for (size_t i = 0; i < n; i++) {
                inv->memory_bytes += m[i].capacity;
                spare[i] = whole_mib(m[i].capacity);
                available += spare[i];
                for (size_t k = 0; k < n_cpus; k++)
                        /* of one that is off line it may be anybody's guess */
                        near[i] |= cpus[k].healthy && cpus[k].owned > 0 && cpus[k].node == m[i].os_index;
        }
        available = whole_mib(available - o->reserve_bytes);
        int64_t wanted = o->memory_bytes ? whole_mib(o->memory_bytes) : available;
        if (wanted <= 0 || wanted > available) {
                r = err_set(
                        err, REASON_NO_CAPACITY, ENOMEM,
                        "%lld MiB of memory to give away, but there are %lld MiB, of which %lld are reserved",
                        (long long)(wanted >> MIB_SHIFT), (long long)(inv->memory_bytes >> MIB_SHIFT),
                        (long long)(o->reserve_bytes >> MIB_SHIFT));
                goto out;
        }
        int64_t rest = take(m, spare, n, near, true, wanted);
        rest = take(m, spare, n, near, false, rest);
        inv->memory_owned_bytes = wanted - rest;
out:
        free(spare);
        free(near);
        return r;
}

int inventory_read(const struct inventory_options *o, struct inventory *ret, struct err *err)
{
        assert(o->source >= INVENTORY_LIVE && o->source < INVENTORY_SOURCE_N);
        assert(o->memory_bytes >= 0 && o->reserve_bytes >= 0);
        hwloc_topology_t topology;
        struct inventory inv = {0};
        uint64_t *seen = NULL;
        int r = topology_load(o->source, o->text, false, &topology, err);
        if (r < 0)
                return r;
        int n_cpus = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
        int n_nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
        struct cpulist offline;
        int n_online = n_cpus;
        if (o->source == INVENTORY_LIVE)
                n_cpus += (int)find_offline(&offline);
        inv.n = (size_t)n_cpus + (size_t)n_nodes;
        inv.components = calloc(inv.n, sizeof(*inv.components));
        seen = calloc((size_t)n_cpus, sizeof(*seen));
        if (!inv.components || !seen) {
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                goto out;
        }
        struct component *memory = inv.components + n_cpus;
        uint32_t n_seen = 0;
        if (n_cpus > n_online)
                fill_offline(topology, &offline, inv.components + n_online);
        for (int i = 0; i < n_online; i++) {
                hwloc_obj_t pu = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PU, (unsigned)i);
                fill_cpu(pu, &inv.components[i]);
                inv.components[i].llc = llc_number(pu, seen, &n_seen);
        }
        for (int i = 0; i < n_nodes; i++)
                fill_memory(hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i), &memory[i]);
        qsort(inv.components, inv.n, sizeof(*inv.components), compare);
        for (int i = 0; o->source == INVENTORY_LIVE && i < n_nodes; i++)
                read_pages(&memory[i]);
        if ((r = own_cpus(inv.components, (size_t)n_cpus, o->cpus, &inv, err)) == 0)
                r = own_memory(o, inv.components, (size_t)n_cpus, memory, (size_t)n_nodes, &inv, err);
out:
        hwloc_topology_destroy(topology);
        free(seen);
        if (r < 0)
                inventory_done(&inv);
        else
                *ret = inv;
        return r;
}

static int add(struct inventory *inv, const struct component *c, struct err *err)
{
        struct component *grown = realloc(inv->components, (inv->n + 1) * sizeof(*grown));
        if (!grown)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        inv->components = grown;
        inv->components[inv->n++] = *c;
        return 0;
}

static bool is_link_name(const char *name)
{
        return str_is_name(name) && strlen(name) < IFNAMSIZ;
}

int inventory_add_link(struct inventory *inv, const char *name, int64_t rate_bps, struct err *err)
{
        struct component c = {.kind = COMPONENT_NET, .capacity = rate_bps, .healthy = true};
        if (!is_link_name(name))
                return err_set(err, REASON_INVALID, EINVAL,
                               "\"%.40s\" is not the name of a network interface", name);
        if (rate_bps < LINK_LEAST_BPS)
                return err_set(err, REASON_INVALID, ERANGE, "a link of %" PRId64 " bit/s (%d at least)",
                               rate_bps, LINK_LEAST_BPS);
        int64_t link_bytes = rate_bps / 8, rest_bytes = (link_bytes * 8 / REST_PART + 7) / 8;
        c.owned = (link_bytes - rest_bytes) * 8 / NET_UNIT_BPS * NET_UNIT_BPS;
        (void)snprintf(c.id, sizeof(c.id), "net:%s", name);
        return add(inv, &c, err);
}

int inventory_add_disk(struct inventory *inv, const char *name, int64_t bytes_per_s, struct err *err)
{
        struct component c = {.kind = COMPONENT_BLOCK, .capacity = bytes_per_s, .healthy = true};
        if (!str_is_name(name) || strlen(name) >= sizeof(c.id) - strlen("block:"))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.40s\" is not the name of a disk", name);
        if (bytes_per_s < DISK_LEAST)
                return err_set(err, REASON_INVALID, ERANGE, "a disk of %" PRId64 " bytes/s (%d at least)",
                               bytes_per_s, DISK_LEAST);
        c.owned = bytes_per_s / BLOCK_UNIT * BLOCK_UNIT;
        (void)snprintf(c.id, sizeof(c.id), "block:%s", name);
        return add(inv, &c, err);
}

int inventory_add_domain(struct inventory *inv, uint32_t domain, const struct cpulist *cpus, int64_t ways,
                         int64_t rest_ways, int64_t ways_step, int64_t membw_step, struct err *err)
{
        struct component c = {.os_index = domain, .domain = domain + 1, .healthy = true};
        for (size_t i = 0; i < inv->n; i++) {
                struct component *cpu = &inv->components[i];
                if (cpu->kind != COMPONENT_CPU || !cpulist_has(cpus, cpu->os_index))
                        continue;
                cpu->domain = domain + 1;
                c.node = cpu->node;
                c.llc = cpu->llc;
        }
        int r = 0;
        if (ways > rest_ways) {
                c.kind = COMPONENT_CACHE;
                c.capacity = ways;
                c.step = ways_step;
                c.owned = (ways - rest_ways) / ways_step * ways_step;
                (void)snprintf(c.id, sizeof(c.id), "cache:%" PRIu32, domain);
                r = add(inv, &c, err);
        }
        if (r == 0 && membw_step > 0) {
                c.kind = COMPONENT_MEMBW;
                c.capacity = 100;
                c.step = membw_step;
                c.owned = (100 - membw_step) / membw_step * membw_step;
                (void)snprintf(c.id, sizeof(c.id), "membw:%" PRIu32, domain);
                r = add(inv, &c, err);
        }
        return r;
}

int inventory_add_missing(struct inventory *inv, const char *id, struct err *err)
{
        struct component c = {0};
        char again[sizeof(c.id)] = "";
        if (sscanf(id, "cpu:%" SCNu32, &c.os_index) == 1) { /* NOLINT(cert-err34-c): compared below */
                c.kind = COMPONENT_CPU;
                (void)snprintf(again, sizeof(again), "cpu:%" PRIu32, c.os_index);
        } else if (sscanf(id, "memory:node%" SCNu32, &c.os_index) == 1) { /* NOLINT(cert-err34-c) */
                c.kind = COMPONENT_MEMORY;
                c.node = c.os_index;
                (void)snprintf(again, sizeof(again), "memory:node%" PRIu32, c.os_index);
        }
        if (sscanf(id, "cache:%" SCNu32, &c.os_index) == 1) { /* NOLINT(cert-err34-c) */
                c.kind = COMPONENT_CACHE;
                (void)snprintf(again, sizeof(again), "cache:%" PRIu32, c.os_index);
        } else if (sscanf(id, "membw:%" SCNu32, &c.os_index) == 1) { /* NOLINT(cert-err34-c) */
                c.kind = COMPONENT_MEMBW;
                (void)snprintf(again, sizeof(again), "membw:%" PRIu32, c.os_index);
        }
        if (strncmp(id, "net:", 4) == 0 && is_link_name(id + 4)) {
                c.kind = COMPONENT_NET;
                (void)snprintf(again, sizeof(again), "%s", id);
        }
        if (strncmp(id, "block:", 6) == 0 && str_is_name(id + 6) && strlen(id) < sizeof(c.id)) {
                c.kind = COMPONENT_BLOCK;
                (void)snprintf(again, sizeof(again), "%s", id);
        }
        if (!c.kind || strcmp(again, id) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.40s\" is not the name of a component", id);
        memcpy(c.id, again, sizeof(c.id));
        return add(inv, &c, err);
}

void inventory_done(struct inventory *inv)
{
        free(inv->components);
        *inv = (struct inventory){0};
}

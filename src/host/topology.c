/* SPDX-License-Identifier: Apache-2.0 */
#include "host/topology.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SYNTHETIC_TEXT_MAX = 4096 };

static char *read_file(const char *path, struct err *err)
{
        struct stat st;
        char *text = NULL;
        size_t n = 0;
        FILE *f = fopen(path, "re");
        if (!f || fstat(fileno(f), &st) < 0) {
                (void)err_set(err, REASON_INVALID, errno, "hwloc cannot read %.200s: %s", path,
                              strerror(errno));
                goto out;
        }
        if (!S_ISREG(st.st_mode) || st.st_size > TOPOLOGY_FILE_MAX) {
                (void)err_set(err, REASON_INVALID, EFBIG,
                              "%.200s is no topology: no file, or larger than %d MiB", path,
                              TOPOLOGY_FILE_MAX >> 20);
                goto out;
        }
        if (!(text = malloc((size_t)st.st_size + 1))) {
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
                goto out;
        }
        n = fread(text, 1, (size_t)st.st_size, f);
        text[n] = '\0';
        if (strlen(text) != n) {
                (void)err_set(err, REASON_INVALID, EINVAL, "%.200s is no topology: it is no text", path);
                free(text);
                text = NULL;
        }
out:
        if (f)
                (void)fclose(f);
        return text;
}

static int load_xml(const char *path, hwloc_topology_t topology, struct err *err)
{
        char *text = read_file(path, err), *prepared;
        if (!text)
                return -EINVAL;
        prepared = topology_xml_prepare(text, err);
        free(text);
        if (!prepared) {
                err_note(err, "%.200s", path);
                return -EINVAL;
        }
        int r = hwloc_topology_set_xmlbuffer(topology, prepared, (int)strlen(prepared) + 1);
        if (r < 0 || hwloc_topology_load(topology) < 0)
                r = err_set(err, REASON_INVALID, EINVAL, "hwloc cannot read %.200s (is it a file of lstopo?)",
                            path);
        free(prepared);
        return r;
}

/* How many CPUs, or other objects of a level, "numa:2(memory=8GB) [..] core:4 pu:2" asks for; the text in
 * brackets has no counts. */
static bool is_too_large(const char *text)
{
        uint64_t product = 1;
        int brackets = 0;
        for (const char *s = text; *s; s++) {
                brackets += (*s == '(' || *s == '[') - (*s == ')' || *s == ']');
                bool begins = s == text || strchr(" :\t\n])", s[-1]);
                if (brackets != 0 || !begins || *s < '0' || *s > '9')
                        continue;
                size_t n = strspn(s, "0123456789");
                product *= n > 5 ? CPULIST_MAX + 1 : strtoul(s, NULL, 10);
                if (product > CPULIST_MAX)
                        return true;
                s += n - 1;
        }
        return strlen(text) > SYNTHETIC_TEXT_MAX;
}

static int load_synthetic(const char *text, hwloc_topology_t topology, struct err *err)
{
        if (is_too_large(text))
                return err_set(err, REASON_INVALID, E2BIG,
                               "\"%.60s\" describes a machine of more than %d CPUs", text, CPULIST_MAX);
        if (hwloc_topology_set_synthetic(topology, text) < 0 || hwloc_topology_load(topology) < 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "\"%.60s\" describes no machine (such as \"numa:2 core:4 pu:1\")", text);
        return 0;
}

/* Some kernels do not count memory that was added while running in the node's own meminfo: on a virtual
 * machine that had grown to 24 GiB the node's file said 4.2. With one node the total is the node's. */
static void correct_single_node(hwloc_topology_t topology)
{
        static const char key[] = "MemTotal:";
        hwloc_obj_t node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, 0);
        char line[128];
        FILE *f = fopen("/proc/meminfo", "re");
        while (f && fgets(line, sizeof(line), f))
                if (strncmp(line, key, sizeof(key) - 1) == 0) {
                        long long kib = strtoll(line + sizeof(key) - 1, NULL, 10);
                        if (kib > 0 && kib < INT64_MAX / 1024)
                                node->attr->numanode.local_memory = (uint64_t)kib * 1024;
                }
        if (f)
                (void)fclose(f);
}

static int load_live(hwloc_topology_t topology, struct err *err)
{
        if (hwloc_topology_load(topology) < 0)
                return err_set(err, REASON_INVALID, EINVAL, "hwloc cannot load this topology");
        if (hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE) == 1)
                correct_single_node(topology);
        return 0;
}

/* Virtual interfaces and disks of a live machine are left out: some are the guests' own, and carry their
 * names. */
static void want_whole(enum inventory_source source, hwloc_topology_t topology)
{
        (void)hwloc_topology_set_flags(topology, HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
        (void)hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_ALL);
        if (source == INVENTORY_LIVE)
                (void)hwloc_topology_set_type_filter(topology, HWLOC_OBJ_OS_DEVICE,
                                                     HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
}

/* The CPUs of an object are those of its children, each of one child; a CPU's are itself. */
static bool is_sound(hwloc_obj_t o)
{
        int weight = 0;
        if (o->type == HWLOC_OBJ_PU)
                return o->os_index < CPULIST_MAX && hwloc_bitmap_weight(o->cpuset) == 1 &&
                       hwloc_bitmap_isset(o->cpuset, o->os_index) && !o->first_child;
        for (hwloc_obj_t c = o->first_child; c; c = c->next_sibling) {
                if (!hwloc_bitmap_isincluded(c->cpuset, o->cpuset) || !is_sound(c))
                        return false;
                weight += hwloc_bitmap_weight(c->cpuset);
        }
        return weight == hwloc_bitmap_weight(o->cpuset);
}

static int check_loaded(hwloc_topology_t topology, struct err *err)
{
        int n_cpus = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU),
            n_nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
        hwloc_obj_t node = NULL;
        if (n_cpus <= 0 || n_cpus > CPULIST_MAX || n_nodes <= 0 || n_nodes > CPULIST_MAX)
                return err_set(err, REASON_UNSUPPORTED, EINVAL, "a machine with %d CPUs on %d NUMA nodes",
                               n_cpus, n_nodes);
        if (!is_sound(hwloc_get_root_obj(topology)))
                return err_set(err, REASON_INVALID, EINVAL,
                               "this topology contradicts itself: a CPU is where it is not, or twice");
        for (int i = 0; i < n_nodes; i++) {
                node = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, (unsigned)i);
                if (node->os_index >= CPULIST_MAX || hwloc_bitmap_weight(node->nodeset) != 1 ||
                    !hwloc_bitmap_isset(node->nodeset, node->os_index) ||
                    hwloc_get_numanode_obj_by_os_index(topology, node->os_index) != node)
                        return err_set(
                                err, REASON_INVALID, EINVAL,
                                "this topology contradicts itself: NUMA node %u is another, or there twice",
                                node->os_index);
        }
        return 0;
}

int topology_load(enum inventory_source source, const char *text, bool whole, hwloc_topology_t *ret,
                  struct err *err)
{
        hwloc_topology_t topology;
        int r = -EINVAL;
        if (hwloc_topology_init(&topology) < 0)
                return err_set(err, REASON_INTERNAL, ENOMEM, "hwloc: no memory");
        if (whole)
                want_whole(source, topology);
        switch (source) {
        case INVENTORY_LIVE:
                r = load_live(topology, err);
                break;
        case INVENTORY_XML:
                r = load_xml(text, topology, err);
                break;
        case INVENTORY_SYNTHETIC:
                r = load_synthetic(text, topology, err);
                break;
        case INVENTORY_SOURCE_N:
                assert(false);
        }
        if (r == 0)
                r = check_loaded(topology, err);
        if (r < 0)
                hwloc_topology_destroy(topology);
        else
                *ret = topology;
        return r;
}

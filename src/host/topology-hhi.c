/* SPDX-License-Identifier: Apache-2.0 */
/* hwloc's tree as a document: one walk over the objects, then what refers to them. Sets are not carried but
 * where they cannot be made again from the tree: memory that is near to other CPUs than those of the object
 * at which it is. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "host/topology.h"
#include "json/field.h"
#include "json/hhi.h"

enum { SAME_MAX = 9 }; /* devices with one address or name, as files have that were put together */

static const char *kind_of(hwloc_obj_t o)
{
        static const char *const osdev[] = {
                [HWLOC_OBJ_OSDEV_BLOCK] = "block", [HWLOC_OBJ_OSDEV_GPU] = "gpu",
                [HWLOC_OBJ_OSDEV_NETWORK] = "net", [HWLOC_OBJ_OSDEV_OPENFABRICS] = "openfabrics",
                [HWLOC_OBJ_OSDEV_DMA] = "dma",     [HWLOC_OBJ_OSDEV_COPROC] = "coproc"};
        static const char *const others[HWLOC_OBJ_TYPE_MAX] = {
                [HWLOC_OBJ_MACHINE] = "machine", [HWLOC_OBJ_PACKAGE] = "package",
                [HWLOC_OBJ_DIE] = "die",         [HWLOC_OBJ_GROUP] = "group",
                [HWLOC_OBJ_L5CACHE] = "l5",      [HWLOC_OBJ_L4CACHE] = "l4",
                [HWLOC_OBJ_L3CACHE] = "l3",      [HWLOC_OBJ_L2CACHE] = "l2",
                [HWLOC_OBJ_L1CACHE] = "l1",      [HWLOC_OBJ_L3ICACHE] = "l3i",
                [HWLOC_OBJ_L2ICACHE] = "l2i",    [HWLOC_OBJ_L1ICACHE] = "l1i",
                [HWLOC_OBJ_CORE] = "core",       [HWLOC_OBJ_PU] = "cpu",
                [HWLOC_OBJ_NUMANODE] = "memory", [HWLOC_OBJ_MEMCACHE] = "memcache",
                [HWLOC_OBJ_BRIDGE] = "bridge",   [HWLOC_OBJ_PCI_DEVICE] = "pci"};
        if (o->type != HWLOC_OBJ_OS_DEVICE)
                return others[o->type];
        return (size_t)o->attr->osdev.type < sizeof(osdev) / sizeof(osdev[0]) ? osdev[o->attr->osdev.type]
                                                                              : NULL;
}

/* The type of a bridge whose upstream is PCI is at the same place as a device's. */
static const struct hwloc_pcidev_attr_s *pci_of(hwloc_obj_t o)
{
        bool is_bridge = o->type == HWLOC_OBJ_BRIDGE && o->attr->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI;
        return is_bridge                         ? &o->attr->bridge.upstream.pci
               : o->type == HWLOC_OBJ_PCI_DEVICE ? &o->attr->pcidev
                                                 : NULL;
}

/* Such that it can be part of an id. */
static bool is_plain(const char *name)
{
        const char *s = name;
        while (*s > ' ' && *s <= '~' && !strchr("\"'\\/<>&#", *s))
                s++;
        return *s == '\0' && s > name && s - name < HHI_ID_SIZE / 2;
}

/* false: the document has no such objects. */
static bool id_of(hwloc_obj_t o, char ret[HHI_ID_SIZE])
{
        const char *kind = kind_of(o);
        const struct hwloc_pcidev_attr_s *pci = pci_of(o);
        int n = -1;
        if (!kind)
                return false;
        if (o->type == HWLOC_OBJ_MACHINE)
                n = snprintf(ret, HHI_ID_SIZE, "%s", kind);
        else if (o->type == HWLOC_OBJ_PU || o->type == HWLOC_OBJ_NUMANODE)
                n = snprintf(ret, HHI_ID_SIZE, o->type == HWLOC_OBJ_PU ? "%s:%u" : "%s:node%u", kind,
                             o->os_index);
        else if (pci)
                n = snprintf(ret, HHI_ID_SIZE, "%s:%04x:%02x:%02x.%x", kind, pci->domain, pci->bus, pci->dev,
                             pci->func);
        else if (o->type == HWLOC_OBJ_BRIDGE)
                n = snprintf(ret, HHI_ID_SIZE, "%s:%04x:%02x", kind, o->attr->bridge.downstream.pci.domain,
                             o->attr->bridge.downstream.pci.secondary_bus);
        else if (o->type != HWLOC_OBJ_OS_DEVICE)
                n = snprintf(ret, HHI_ID_SIZE, "%s:%u", kind, o->logical_index);
        else if (o->name && is_plain(o->name))
                n = snprintf(ret, HHI_ID_SIZE, "%s:%s", kind, o->name);
        return n > 0 && n < HHI_ID_SIZE;
}

static int64_t amount(uint64_t value)
{
        return value < HHI_AMOUNT_MAX ? (int64_t)value : HHI_AMOUNT_MAX;
}

static json_t *ranges_of(hwloc_const_bitmap_t set)
{
        json_t *list = json_array();
        for (int first = hwloc_bitmap_first(set); first >= 0;) {
                int end = hwloc_bitmap_next_unset(set, first);
                if (!field_push(list, json_pack("[i,i]", first, end - 1))) {
                        json_decref(list);
                        return NULL;
                }
                first = hwloc_bitmap_next(set, end);
        }
        return list;
}

static bool put_integer(json_t *o, const char *key, int64_t value)
{
        return field_put(o, key, json_integer(value));
}

static bool put_text(json_t *o, const char *key, const char *text)
{
        char cut[HHI_TEXT_MAX + 1];
        (void)snprintf(cut, sizeof(cut), "%s", text);
        return field_put(o, key, field_emit_string(cut, sizeof(cut)));
}

static bool put_infos(json_t *o, const struct hwloc_info_s *infos, unsigned n)
{
        json_t *list = json_object();
        bool ok = list != NULL;
        for (unsigned i = 0; i < n; i++)
                if (hhi_info_is_harmless(infos[i].name))
                        ok = ok && put_text(list, infos[i].name, infos[i].value);
        if (ok && json_object_size(list) > 0)
                return field_put(o, "infos", list);
        json_decref(list);
        return ok;
}

static bool put_cache(json_t *v, hwloc_obj_t o)
{
        const struct hwloc_cache_attr_s *c = &o->attr->cache;
        return put_integer(v, "bytes", amount(c->size)) && put_integer(v, "line", c->linesize) &&
               put_integer(v, "ways", c->associativity) &&
               (c->type != HWLOC_OBJ_CACHE_DATA || field_put(v, "data", json_true())) &&
               (o->type != HWLOC_OBJ_MEMCACHE || put_integer(v, "depth", c->depth));
}

static bool put_memory(json_t *v, hwloc_obj_t o)
{
        const struct hwloc_numanode_attr_s *m = &o->attr->numanode;
        json_t *pages = json_array();
        bool ok = put_integer(v, "bytes", amount(m->local_memory));
        for (unsigned i = 0; i < m->page_types_len; i++)
                if (m->page_types[i].size > 0)
                        ok = ok &&
                             field_push(pages, json_pack("{s:I,s:I}", "bytes",
                                                         (json_int_t)amount(m->page_types[i].size), "count",
                                                         (json_int_t)amount(m->page_types[i].count)));
        if (ok && json_array_size(pages) > 0)
                return field_put(v, "pages", pages);
        json_decref(pages);
        return ok;
}

static bool put_pci(json_t *v, const struct hwloc_pcidev_attr_s *p)
{
        return put_integer(v, "class", p->class_id) && put_integer(v, "vendor", p->vendor_id) &&
               put_integer(v, "device", p->device_id) && put_integer(v, "subvendor", p->subvendor_id) &&
               put_integer(v, "subdevice", p->subdevice_id) && put_integer(v, "revision", p->revision) &&
               put_integer(v, "link_bytes_per_s",
                           p->linkspeed > 0 && p->linkspeed < 1e6
                                   ? (int64_t)((double)p->linkspeed * 1e9 + 0.5)
                                   : 0);
}

static bool put_attributes(json_t *v, hwloc_obj_t o)
{
        bool ok = true;
        if (hwloc_obj_type_is_cache(o->type) || o->type == HWLOC_OBJ_MEMCACHE)
                ok = put_cache(v, o);
        else if (o->type == HWLOC_OBJ_NUMANODE)
                ok = put_memory(v, o);
        else if (o->type == HWLOC_OBJ_GROUP)
                ok = put_integer(v, "group_kind", o->attr->group.kind) &&
                     put_integer(v, "group_subkind", o->attr->group.subkind);
        if (ok && o->type == HWLOC_OBJ_BRIDGE)
                ok = field_put(v, "buses",
                               json_pack("[i,i]", o->attr->bridge.downstream.pci.secondary_bus,
                                         o->attr->bridge.downstream.pci.subordinate_bus));
        if (ok && pci_of(o))
                ok = put_pci(v, pci_of(o));
        if (ok && hwloc_obj_type_is_memory(o->type) &&
            !hwloc_bitmap_isequal(o->complete_cpuset, o->parent->complete_cpuset))
                ok = field_put(v, "near", ranges_of(o->complete_cpuset));
        return ok;
}

static int put_object(json_t *objects, hwloc_obj_t o, const char *in, struct err *err);

static int put_children(json_t *objects, hwloc_obj_t o, const char *id, struct err *err)
{
        hwloc_obj_t lists[] = {o->memory_first_child, o->first_child, o->io_first_child};
        int r = 0;
        for (size_t i = 0; i < 3; i++)
                for (hwloc_obj_t c = lists[i]; c && r == 0; c = c->next_sibling)
                        r = put_object(objects, c, id, err);
        return r;
}

static int put_object(json_t *objects, hwloc_obj_t o, const char *in, struct err *err)
{
        char id[HHI_ID_SIZE];
        if (!id_of(o, id))
                return 0;
        size_t n = strlen(id);
        for (int again = 2; json_object_get(objects, id); again++) {
                if (!hwloc_obj_type_is_io(o->type) || again > SAME_MAX)
                        return err_set(err, REASON_INVALID, EEXIST,
                                       "this topology contradicts itself: it has two objects %.60s", id);
                (void)snprintf(id + n, sizeof(id) - n, "#%d", again);
        }
        json_t *v = json_pack("{s:s}", "kind", kind_of(o));
        bool ok = v && (!in || field_put(v, "in", json_string(in)));
        if (o->os_index != HWLOC_UNKNOWN_INDEX)
                ok = ok && put_integer(v, "os", o->os_index);
        if (o->subtype)
                ok = ok && put_text(v, "subtype", o->subtype);
        ok = ok && put_attributes(v, o) && put_infos(v, o->infos, o->infos_count);
        if (!ok || !field_put(objects, id, v)) {
                if (!ok)
                        json_decref(v);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        }
        return put_children(objects, o, id, err);
}

/* hwloc knows of a CPU that is off line only whose it would be. */
static int put_offline(hwloc_topology_t topology, json_t *objects, struct err *err)
{
        hwloc_obj_t root = hwloc_get_root_obj(topology);
        char in[HHI_ID_SIZE], id[HHI_ID_SIZE];
        int cpu;
        hwloc_bitmap_foreach_begin(cpu, root->complete_cpuset)
        {
                hwloc_obj_t place = root, next = root;
                if (cpu >= HHI_INDEX_MAX)
                        break;
                (void)snprintf(id, sizeof(id), "cpu:%d", cpu);
                if (json_object_get(objects, id))
                        continue;
                while (next) {
                        place = next;
                        next = place->first_child;
                        while (next && !hwloc_bitmap_isset(next->complete_cpuset, (unsigned)cpu))
                                next = next->next_sibling;
                }
                if (!id_of(place, in) || !field_put(objects, id,
                                                    json_pack("{s:s,s:s,s:i,s:s}", "kind", "cpu", "in", in,
                                                              "os", cpu, "mark", hhi_mark_name[HHI_OFFLINE])))
                        return err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        }
        hwloc_bitmap_foreach_end();
        return 0;
}

static json_t *matrix_of(hwloc_topology_t topology, struct hwloc_distances_s *d)
{
        const char *name = hwloc_distances_get_name(topology, d);
        json_t *v = json_object(), *of = json_array(), *values = json_array();
        char id[HHI_ID_SIZE];
        bool ok = put_integer(v, "kind", (int64_t)d->kind);
        if (name)
                ok = ok && put_text(v, "name", name);
        for (unsigned i = 0; i < d->nbobjs; i++)
                ok = ok && d->objs[i] && id_of(d->objs[i], id) && field_push(of, json_string(id));
        for (size_t i = 0; i < (size_t)d->nbobjs * d->nbobjs; i++)
                ok = ok && field_push(values, json_integer(amount(d->values[i])));
        ok = field_put(v, "of", of) && ok;
        ok = field_put(v, "values", values) && ok;
        return field_done(v, ok);
}

/* A table is there when it has a row. */
static int put_table(json_t *hhi, const char *key, json_t *rows, bool ok, struct err *err)
{
        if (ok && json_array_size(rows) == 0)
                json_decref(rows);
        else if (!ok || !field_put(hhi, key, rows)) {
                if (!ok)
                        json_decref(rows);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory, or %s that cannot be said", key);
        }
        return 0;
}

static int put_distances(hwloc_topology_t topology, json_t *hhi, struct err *err)
{
        struct hwloc_distances_s *d[HHI_TABLES_MAX];
        unsigned n = HHI_TABLES_MAX;
        json_t *rows = json_array();
        if (hwloc_distances_get(topology, &n, d, 0, 0) < 0)
                n = 0;
        n = n < HHI_TABLES_MAX ? n : HHI_TABLES_MAX;
        bool ok = rows != NULL;
        for (unsigned i = 0; i < n; i++) {
                ok = ok && field_push(rows, matrix_of(topology, d[i]));
                hwloc_distances_release(topology, d[i]);
        }
        return put_table(hhi, "distances", rows, ok, err);
}

static bool push_value(json_t *values, hwloc_obj_t of, uint64_t value, const struct hwloc_location *from)
{
        char id[HHI_ID_SIZE], by[HHI_ID_SIZE];
        if (!id_of(of, id))
                return true;
        json_t *v = json_pack("{s:s,s:I}", "of", id, "value", (json_int_t)amount(value));
        bool ok = v != NULL;
        if (from && from->type == HWLOC_LOCATION_TYPE_CPUSET)
                ok = ok && field_put(v, "from", ranges_of(from->location.cpuset));
        else if (from && id_of(from->location.object, by))
                ok = ok && field_put(v, "from", json_string(by));
        return field_push(values, field_done(v, ok));
}

/* All values of one target, one for each of those who look. */
static bool push_initiators(hwloc_topology_t topology, hwloc_memattr_id_t a, hwloc_obj_t of, json_t *values)
{
        unsigned n = 0;
        if (hwloc_memattr_get_initiators(topology, a, of, 0, &n, NULL, NULL) < 0 || n == 0)
                return true;
        struct hwloc_location *from = calloc(n, sizeof(*from));
        hwloc_uint64_t *value = calloc(n, sizeof(*value));
        bool ok = from && value && hwloc_memattr_get_initiators(topology, a, of, 0, &n, from, value) == 0;
        for (unsigned i = 0; ok && i < n; i++)
                ok = push_value(values, of, value[i], &from[i]);
        free(from);
        free(value);
        return ok;
}

static json_t *memattr_of(hwloc_topology_t topology, hwloc_memattr_id_t a, const char *name,
                          unsigned long flags)
{
        json_t *v = json_object(), *values = json_array();
        hwloc_obj_t *of = NULL;
        hwloc_uint64_t *value = NULL;
        unsigned n = 0;
        bool ok = put_text(v, "name", name) && put_integer(v, "flags", (int64_t)flags) &&
                  hwloc_memattr_get_targets(topology, a, NULL, 0, &n, NULL, NULL) == 0;
        if (ok && n > 0) {
                of = calloc(n, sizeof(hwloc_obj_t));
                value = calloc(n, sizeof(*value));
                ok = of && value && hwloc_memattr_get_targets(topology, a, NULL, 0, &n, of, value) == 0;
        }
        for (unsigned i = 0; ok && i < n; i++)
                ok = flags & HWLOC_MEMATTR_FLAG_NEED_INITIATOR ? push_initiators(topology, a, of[i], values)
                                                               : push_value(values, of[i], value[i], NULL);
        free(of);
        free(value);
        ok = field_put(v, "values", values) && ok;
        return field_done(v, ok);
}

/* Capacity and locality, the first two, are made of the tree; of hwloc's others those that have values. */
static int put_memattrs(hwloc_topology_t topology, json_t *hhi, struct err *err)
{
        json_t *rows = json_array();
        const char *name;
        unsigned long flags;
        bool ok = rows != NULL;
        for (hwloc_memattr_id_t a = HWLOC_MEMATTR_ID_BANDWIDTH;
             ok && hwloc_memattr_get_name(topology, a, &name) == 0 &&
             hwloc_memattr_get_flags(topology, a, &flags) == 0;
             a++) {
                json_t *row = memattr_of(topology, a, name, flags);
                bool is_empty = json_array_size(json_object_get(row, "values")) == 0;
                if (row && is_empty && a < HWLOC_MEMATTR_ID_MAX)
                        json_decref(row);
                else
                        ok = field_push(rows, row);
        }
        return put_table(hhi, "memattrs", rows, ok, err);
}

static int put_cpukinds(hwloc_topology_t topology, json_t *hhi, struct err *err)
{
        json_t *rows = json_array();
        hwloc_bitmap_t cpus = hwloc_bitmap_alloc();
        int n = hwloc_cpukinds_get_nr(topology, 0), efficiency;
        bool ok = rows && cpus;
        for (int i = 0; ok && i < n; i++) {
                struct hwloc_info_s *infos;
                unsigned n_infos;
                json_t *row = json_object();
                ok = hwloc_cpukinds_get_info(topology, (unsigned)i, cpus, &efficiency, &n_infos, &infos, 0) ==
                             0 &&
                     field_put(row, "cpus", ranges_of(cpus)) &&
                     (efficiency < 0 || put_integer(row, "efficiency", efficiency)) &&
                     put_infos(row, infos, n_infos);
                ok = field_push(rows, field_done(row, ok));
        }
        hwloc_bitmap_free(cpus);
        return put_table(hhi, "cpukinds", rows, ok, err);
}

int topology_hhi(hwloc_topology_t topology, json_t **ret, struct err *err)
{
        json_t *objects = json_object(), *hhi = json_object();
        int r;
        if (!field_put(hhi, "objects", objects))
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        else if ((r = put_object(objects, hwloc_get_root_obj(topology), NULL, err)) == 0 &&
                 (r = put_offline(topology, objects, err)) == 0 &&
                 (r = put_distances(topology, hhi, err)) == 0 &&
                 (r = put_memattrs(topology, hhi, err)) == 0 && (r = put_cpukinds(topology, hhi, err)) == 0)
                r = hhi_check(hhi, err);
        if (r < 0)
                json_decref(hhi);
        else
                *ret = hhi;
        return r;
}

int topology_read_hhi(enum inventory_source source, const char *text, json_t **ret, struct err *err)
{
        hwloc_topology_t topology;
        int r = topology_load(source, text, true, &topology, err);
        if (r < 0)
                return r;
        r = topology_hhi(topology, ret, err);
        hwloc_topology_destroy(topology);
        return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A machine goes into a document, into XML, and back into hwloc: what the document promises to carry is the
 * same behind it. The machines are real ones, where the folder of their files is there (METE_TOPOLOGIES, or
 * ../shared/data/topologies beside the source), made-up ones, and this one. */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/topology.h"
#include "json/hhi.h"

/* hwloc's objects of a list, by what they are. */
static int by_what(const void *a, const void *b)
{
        hwloc_obj_t x = *(const hwloc_obj_t *)a, y = *(const hwloc_obj_t *)b;
        char s[128], t[128];
        hwloc_obj_attr_snprintf(s, sizeof(s), x, " ", 1);
        hwloc_obj_attr_snprintf(t, sizeof(t), y, " ", 1);
        if (x->type != y->type)
                return x->type < y->type ? -1 : 1;
        int r = g_strcmp0(x->name, y->name);
        return r ? r : strcmp(s, t);
}

static GPtrArray *sorted(hwloc_obj_t first)
{
        GPtrArray *list = g_ptr_array_new();
        for (hwloc_obj_t o = first; o; o = o->next_sibling)
                g_ptr_array_add(list, o);
        g_ptr_array_sort(list, by_what);
        return list;
}

static void compare_pci(const struct hwloc_pcidev_attr_s *p, const struct hwloc_pcidev_attr_s *q)
{
        g_assert_cmpuint(p->domain, ==, q->domain);
        g_assert_cmpuint(p->bus, ==, q->bus);
        g_assert_cmpuint(p->dev, ==, q->dev);
        g_assert_cmpuint(p->func, ==, q->func);
        g_assert_cmpuint(p->class_id, ==, q->class_id);
        g_assert_cmpuint(p->vendor_id, ==, q->vendor_id);
        g_assert_cmpuint(p->device_id, ==, q->device_id);
        g_assert_cmpuint(p->subvendor_id, ==, q->subvendor_id);
        g_assert_cmpuint(p->subdevice_id, ==, q->subdevice_id);
        g_assert_cmpuint(p->revision, ==, q->revision);
        g_assert_cmpfloat_with_epsilon(p->linkspeed, q->linkspeed, 1e-5);
}

static void compare_memory(const struct hwloc_numanode_attr_s *p, const struct hwloc_numanode_attr_s *q)
{
        g_assert_cmpuint(p->local_memory, ==, q->local_memory);
        g_assert_cmpuint(p->page_types_len, ==, q->page_types_len);
        for (unsigned i = 0; i < p->page_types_len; i++) {
                g_assert_cmpuint(p->page_types[i].size, ==, q->page_types[i].size);
                g_assert_cmpuint(p->page_types[i].count, ==, q->page_types[i].count);
        }
}

static void compare_attributes(hwloc_obj_t a, hwloc_obj_t b)
{
        const union hwloc_obj_attr_u *p = a->attr, *q = b->attr;
        if (hwloc_obj_type_is_cache(a->type) || a->type == HWLOC_OBJ_MEMCACHE) {
                g_assert_cmpuint(p->cache.size, ==, q->cache.size);
                g_assert_cmpuint(p->cache.linesize, ==, q->cache.linesize);
                g_assert_cmpint(p->cache.associativity, ==, q->cache.associativity);
                g_assert_cmpint(p->cache.type, ==, q->cache.type);
                g_assert_cmpuint(p->cache.depth, ==, q->cache.depth);
        } else if (a->type == HWLOC_OBJ_NUMANODE) {
                compare_memory(&p->numanode, &q->numanode);
        } else if (a->type == HWLOC_OBJ_GROUP) {
                g_assert_cmpuint(p->group.kind, ==, q->group.kind);
                g_assert_cmpuint(p->group.subkind, ==, q->group.subkind);
        } else if (a->type == HWLOC_OBJ_PCI_DEVICE) {
                compare_pci(&p->pcidev, &q->pcidev);
        } else if (a->type == HWLOC_OBJ_BRIDGE) {
                g_assert_cmpint(p->bridge.upstream_type, ==, q->bridge.upstream_type);
                if (p->bridge.upstream_type == HWLOC_OBJ_BRIDGE_PCI)
                        compare_pci(&p->bridge.upstream.pci, &q->bridge.upstream.pci);
                g_assert_cmpuint(p->bridge.downstream.pci.domain, ==, q->bridge.downstream.pci.domain);
                g_assert_cmpuint(p->bridge.downstream.pci.secondary_bus, ==,
                                 q->bridge.downstream.pci.secondary_bus);
                g_assert_cmpuint(p->bridge.downstream.pci.subordinate_bus, ==,
                                 q->bridge.downstream.pci.subordinate_bus);
        } else if (a->type == HWLOC_OBJ_OS_DEVICE) {
                g_assert_cmpint(p->osdev.type, ==, q->osdev.type);
                g_assert_cmpstr(a->name, ==, b->name);
        }
}

static void compare_sets(hwloc_const_bitmap_t a, hwloc_const_bitmap_t b)
{
        g_autofree char *s = g_malloc0(16384), *t = g_malloc0(16384);
        g_assert_cmpint(a != NULL, ==, b != NULL);
        if (!a)
                return;
        hwloc_bitmap_list_snprintf(s, 16384, a);
        hwloc_bitmap_list_snprintf(t, 16384, b);
        g_assert_cmpstr(s, ==, t);
}

static void compare_infos(hwloc_obj_t a, hwloc_obj_t b)
{
        for (unsigned i = 0; i < a->infos_count; i++) {
                const char *other = hwloc_obj_get_info_by_name(b, a->infos[i].name);
                if (hhi_info_is_harmless(a->infos[i].name))
                        g_assert_cmpstr(a->infos[i].value, ==, other);
                else
                        g_assert_null(other);
        }
}

/* What follows is that parents are the same, too. */
static void compare(hwloc_obj_t a, hwloc_obj_t b)
{
        g_assert_cmpint(a->type, ==, b->type);
        g_assert_cmpuint(a->os_index, ==, b->os_index);
        g_assert_cmpstr(a->subtype, ==, b->subtype);
        compare_attributes(a, b);
        compare_infos(a, b);
        compare_sets(a->cpuset, b->cpuset);
        compare_sets(a->complete_cpuset, b->complete_cpuset);
        compare_sets(a->nodeset, b->nodeset);
        compare_sets(a->complete_nodeset, b->complete_nodeset);
        g_assert_cmpuint(a->arity, ==, b->arity);
        g_assert_cmpuint(a->memory_arity, ==, b->memory_arity);
        g_assert_cmpuint(a->io_arity, ==, b->io_arity);
        hwloc_obj_t lists[][2] = {
                {a->first_child,        b->first_child       },
                {a->memory_first_child, b->memory_first_child}
        };
        for (size_t i = 0; i < 2; i++)
                for (hwloc_obj_t x = lists[i][0], y = lists[i][1]; x;
                     x = x->next_sibling, y = y->next_sibling)
                        compare(x, y);
        g_autoptr(GPtrArray) xs = sorted(a->io_first_child), ys = sorted(b->io_first_child);
        for (guint i = 0; i < xs->len; i++)
                compare(xs->pdata[i], ys->pdata[i]);
}

static void compare_distances(hwloc_topology_t a, hwloc_topology_t b)
{
        struct hwloc_distances_s *p[64], *q[64];
        unsigned n = 64, m = 64;
        g_assert_cmpint(hwloc_distances_get(a, &n, p, 0, 0), ==, 0);
        g_assert_cmpint(hwloc_distances_get(b, &m, q, 0, 0), ==, 0);
        g_assert_cmpuint(n, ==, m);
        for (unsigned i = 0; i < n; i++) {
                g_assert_cmpstr(hwloc_distances_get_name(a, p[i]), ==, hwloc_distances_get_name(b, q[i]));
                g_assert_cmpuint(p[i]->kind, ==, q[i]->kind);
                g_assert_cmpuint(p[i]->nbobjs, ==, q[i]->nbobjs);
                for (unsigned k = 0; k < p[i]->nbobjs; k++) {
                        g_assert_cmpint(p[i]->objs[k]->type, ==, q[i]->objs[k]->type);
                        g_assert_cmpuint(p[i]->objs[k]->os_index, ==, q[i]->objs[k]->os_index);
                        g_assert_cmpuint(p[i]->objs[k]->logical_index, ==, q[i]->objs[k]->logical_index);
                }
                g_assert_cmpmem(p[i]->values, p[i]->nbobjs * p[i]->nbobjs * sizeof(*p[i]->values),
                                q[i]->values, q[i]->nbobjs * q[i]->nbobjs * sizeof(*q[i]->values));
                hwloc_distances_release(a, p[i]);
                hwloc_distances_release(b, q[i]);
        }
}

static int by_text(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All values of an attribute, a line each, sorted. */
static char *attribute_text(hwloc_topology_t t, hwloc_memattr_id_t id)
{
        hwloc_obj_t of[256];
        hwloc_uint64_t value[256], of_value[256];
        struct hwloc_location from[256];
        unsigned n = 256;
        unsigned long flags;
        g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
        g_assert_cmpint(hwloc_memattr_get_flags(t, id, &flags), ==, 0);
        g_assert_cmpint(hwloc_memattr_get_targets(t, id, NULL, 0, &n, of, of_value), ==, 0);
        for (unsigned i = 0; i < n; i++) {
                unsigned m = 256;
                char cpus[1024] = "";
                if (!(flags & HWLOC_MEMATTR_FLAG_NEED_INITIATOR))
                        g_ptr_array_add(lines, g_strdup_printf("%d#%u=%" PRIu64 "\n", of[i]->type,
                                                               of[i]->logical_index, (uint64_t)of_value[i]));
                else
                        g_assert_cmpint(hwloc_memattr_get_initiators(t, id, of[i], 0, &m, from, value), ==,
                                        0);
                for (unsigned k = 0; (flags & HWLOC_MEMATTR_FLAG_NEED_INITIATOR) && k < m; k++) {
                        if (from[k].type == HWLOC_LOCATION_TYPE_CPUSET)
                                hwloc_bitmap_list_snprintf(cpus, sizeof(cpus), from[k].location.cpuset);
                        else
                                (void)snprintf(cpus, sizeof(cpus), "%d#%u", from[k].location.object->type,
                                               from[k].location.object->logical_index);
                        g_ptr_array_add(lines,
                                        g_strdup_printf("%d#%u by %s=%" PRIu64 "\n", of[i]->type,
                                                        of[i]->logical_index, cpus, (uint64_t)value[k]));
                }
        }
        g_ptr_array_sort(lines, by_text);
        g_ptr_array_add(lines, NULL);
        return g_strjoinv("", (char **)lines->pdata);
}

static void compare_memattrs(hwloc_topology_t a, hwloc_topology_t b)
{
        const char *name, *other;
        unsigned long flags, its;
        for (hwloc_memattr_id_t id = HWLOC_MEMATTR_ID_BANDWIDTH; hwloc_memattr_get_name(a, id, &name) == 0;
             id++) {
                g_assert_cmpint(hwloc_memattr_get_name(b, id, &other), ==, 0);
                g_assert_cmpstr(name, ==, other);
                g_assert_true(hwloc_memattr_get_flags(a, id, &flags) == 0 &&
                              hwloc_memattr_get_flags(b, id, &its) == 0);
                g_assert_cmpuint(flags, ==, its);
                g_autofree char *s = attribute_text(a, id), *t = attribute_text(b, id);
                g_assert_cmpstr(s, ==, t);
        }
}

static void compare_cpukinds(hwloc_topology_t a, hwloc_topology_t b)
{
        int n = hwloc_cpukinds_get_nr(a, 0);
        hwloc_bitmap_t p = hwloc_bitmap_alloc(), q = hwloc_bitmap_alloc();
        g_assert_cmpint(n, ==, hwloc_cpukinds_get_nr(b, 0));
        for (int i = 0; i < n; i++) {
                int e, f;
                g_assert_cmpint(hwloc_cpukinds_get_info(a, (unsigned)i, p, &e, NULL, NULL, 0), ==, 0);
                g_assert_cmpint(hwloc_cpukinds_get_info(b, (unsigned)i, q, &f, NULL, NULL, 0), ==, 0);
                g_assert_cmpint(e, ==, f);
                compare_sets(p, q);
        }
        hwloc_bitmap_free(p);
        hwloc_bitmap_free(q);
}

static size_t count_kind(const json_t *hhi, const char *kind)
{
        const char *id;
        json_t *o;
        size_t n = 0;
        json_object_foreach(json_object_get(hhi, "objects"), id, o) n +=
                g_strcmp0(json_string_value(json_object_get(o, "kind")), kind) == 0 &&
                g_strcmp0(json_string_value(json_object_get(o, "mark")), "offline") != 0;
        return n;
}

/* As many of each type as hwloc says that there are. */
static void check_counts(hwloc_topology_t t, const json_t *hhi)
{
        static const struct {
                const char *kind;
                hwloc_obj_type_t type;
        } rows[] = {
                {"machine",  HWLOC_OBJ_MACHINE   },
                {"package",  HWLOC_OBJ_PACKAGE   },
                {"die",      HWLOC_OBJ_DIE       },
                {"group",    HWLOC_OBJ_GROUP     },
                {"l5",       HWLOC_OBJ_L5CACHE   },
                {"l4",       HWLOC_OBJ_L4CACHE   },
                {"l3",       HWLOC_OBJ_L3CACHE   },
                {"l2",       HWLOC_OBJ_L2CACHE   },
                {"l1",       HWLOC_OBJ_L1CACHE   },
                {"l3i",      HWLOC_OBJ_L3ICACHE  },
                {"l2i",      HWLOC_OBJ_L2ICACHE  },
                {"l1i",      HWLOC_OBJ_L1ICACHE  },
                {"core",     HWLOC_OBJ_CORE      },
                {"cpu",      HWLOC_OBJ_PU        },
                {"memory",   HWLOC_OBJ_NUMANODE  },
                {"memcache", HWLOC_OBJ_MEMCACHE  },
                {"bridge",   HWLOC_OBJ_BRIDGE    },
                {"pci",      HWLOC_OBJ_PCI_DEVICE}
        };
        static const char *const osdev[] = {"block", "gpu", "net", "openfabrics", "dma", "coproc"};
        size_t n = 0;
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                /* Groups within groups are on several levels. */
                size_t there = 0;
                int depth = hwloc_get_type_depth(t, rows[i].type);
                if (depth == HWLOC_TYPE_DEPTH_MULTIPLE)
                        for (int d = 0; d < hwloc_topology_get_depth(t); d++)
                                there += hwloc_get_depth_type(t, d) == rows[i].type
                                                 ? hwloc_get_nbobjs_by_depth(t, d)
                                                 : 0;
                else if (depth != HWLOC_TYPE_DEPTH_UNKNOWN)
                        there = hwloc_get_nbobjs_by_depth(t, depth);
                g_assert_cmpuint(count_kind(hhi, rows[i].kind), ==, there);
        }
        for (size_t i = 0; i < G_N_ELEMENTS(osdev); i++)
                n += count_kind(hhi, osdev[i]);
        g_assert_cmpuint(n, ==, (size_t)hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_OS_DEVICE));
}

static char *write_xml(const json_t *hhi)
{
        char *path = NULL;
        struct err err = {0};
        int fd = g_file_open_tmp("mete-hhi-XXXXXX.xml", &path, NULL);
        g_assert_cmpint(fd, >=, 0);
        FILE *f = fdopen(fd, "w");
        if (hhi_write_xml(hhi, f, &err) < 0)
                g_error("%s", err.sentence);
        (void)fclose(f);
        return path;
}

static void run_lstopo(const char *path)
{
        g_autofree char *lstopo = g_find_program_in_path("lstopo-no-graphics"), *errors = NULL;
        g_autoptr(GError) error = NULL;
        int status = -1;
        if (!lstopo) {
                g_test_message("lstopo is not installed");
                return;
        }
        const char *const argv[] = {lstopo, "-i", path, "--of", "console", NULL};
        gboolean ran = g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL,
                                    &errors, &status, &error);
        g_assert_no_error(error);
        g_assert_true(ran && status == 0);
        g_assert_cmpstr(errors, ==, "");
}

static void round_trip(enum inventory_source source, const char *text)
{
        hwloc_topology_t a, b;
        struct err err = {0};
        json_t *hhi = NULL, *again = NULL;
        if (topology_load(source, text, true, &a, &err) < 0 || topology_hhi(a, &hhi, &err) < 0)
                g_error("%s: %s", text, err.sentence);
        check_counts(a, hhi);
        g_autofree char *path = write_xml(hhi);
        run_lstopo(path);
        if (topology_load(INVENTORY_XML, path, true, &b, &err) < 0)
                g_error("%s: %s", text, err.sentence);
        compare(hwloc_get_root_obj(a), hwloc_get_root_obj(b));
        compare_distances(a, b);
        compare_memattrs(a, b);
        compare_cpukinds(a, b);
        /* And so nothing is lost that the document itself would say. */
        g_assert_cmpint(topology_hhi(b, &again, &err), ==, 0);
        g_assert_true(json_equal(hhi, again));
        g_autofree char *line = json_dumps(hhi, JSON_COMPACT | JSON_SORT_KEYS);
        g_test_message("%s: %d CPUs, %zu objects, %zu bytes",
                       source == INVENTORY_XML ? strrchr(text, '/') + 1
                       : text                  ? text
                                               : "live",
                       hwloc_get_nbobjs_by_type(a, HWLOC_OBJ_PU),
                       json_object_size(json_object_get(hhi, "objects")), strlen(line));
        (void)g_unlink(path);
        hwloc_topology_destroy(a);
        hwloc_topology_destroy(b);
        json_decref(hhi);
        json_decref(again);
}

static void test_synthetic(void)
{
        static const char *const texts[] = {
                "pu:1",
                "core:4 pu:1",
                "numa:2(memory=8589934592) l3:1(size=33554432) core:4 pu:2",
                "pack:1 [numa(memory=17179869184)] l3:1 l2:8 l1d:1 l1i:1 core:1 pu:2",
                "group:2 pack:2 die:2 [numa] l3:1 l2:3 core:1 pu:2(indexes=24*2:2*24)",
                "pack:2 [numa(memory=1GB)] [numa(memory=4GB)] l4:1 l3:2 core:2 pu:1",
                "pack:2 numa:1 l3:6 l2:8 l1d:1 l1i:1 core:1 pu:2",
                "pack:8 [numa(memory=549755813888)] l3:8 l2:8 l1d:1 l1i:1 core:1 pu:2",
        };
        for (size_t i = 0; i < G_N_ELEMENTS(texts); i++)
                round_trip(INVENTORY_SYNTHETIC, texts[i]);
}

static void test_live(void)
{
        round_trip(INVENTORY_LIVE, NULL);
}

/* What a guest's program finds with hwloc: marks as infos; a CPU that went off line, and its core, only in
 * the complete set. */
static void test_marks(void)
{
        const uint32_t vcpu = 3;
        struct hhi_state mine = {HHI_YOURS, 1000, 300, 700, &vcpu, 1, NULL, 0},
                         away = {HHI_OFFLINE, -1, -1, -1, NULL, 0, NULL, 0};
        struct err err = {0};
        json_t *hhi = NULL;
        hwloc_topology_t t;
        g_assert_cmpint(topology_read_hhi(INVENTORY_SYNTHETIC, "numa:2 core:2 pu:1", &hhi, &err), ==, 0);
        g_assert_cmpint(hhi_mark(hhi, "cpu:1", &mine, &err), ==, 0);
        g_assert_cmpint(hhi_mark(hhi, "cpu:2", &away, &err), ==, 0);
        g_autofree char *path = write_xml(hhi);
        run_lstopo(path);
        g_assert_cmpint(topology_load(INVENTORY_XML, path, true, &t, &err), ==, 0);
        hwloc_obj_t cpu = hwloc_get_pu_obj_by_os_index(t, 1);
        g_assert_cmpstr(hwloc_obj_get_info_by_name(cpu, "MeteMark"), ==, "yours");
        g_assert_cmpstr(hwloc_obj_get_info_by_name(cpu, "MeteCapacity"), ==, "1000");
        g_assert_cmpstr(hwloc_obj_get_info_by_name(cpu, "MeteFree"), ==, "300");
        g_assert_cmpstr(hwloc_obj_get_info_by_name(cpu, "MeteYours"), ==, "700");
        g_assert_cmpstr(hwloc_obj_get_info_by_name(cpu, "MeteVcpu"), ==, "3");
        g_assert_null(hwloc_get_pu_obj_by_os_index(t, 2));
        g_assert_cmpint(hwloc_get_nbobjs_by_type(t, HWLOC_OBJ_CORE), ==, 3);
        g_assert_true(hwloc_bitmap_isset(hwloc_get_root_obj(t)->complete_cpuset, 2));
        g_assert_false(hwloc_bitmap_isset(hwloc_get_root_obj(t)->cpuset, 2));
        (void)g_unlink(path);
        hwloc_topology_destroy(t);
        json_decref(hhi);
}

static char *find_folder(void)
{
        static const char *const places[] = {"../shared/data/topologies", "../../shared/data/topologies"};
        const char *named = g_getenv("METE_TOPOLOGIES"), *source = g_getenv("METE_SOURCE");
        if (named)
                return g_strdup(named);
        for (size_t i = 0; source && i < G_N_ELEMENTS(places); i++) {
                g_autofree char *path = g_build_filename(source, places[i], NULL);
                if (g_file_test(path, G_FILE_TEST_IS_DIR))
                        return g_steal_pointer(&path);
        }
        return NULL;
}

/* The objects of a file are counted in its text, without hwloc. */
static void check_text_counts(const char *path)
{
        static const char *const types[][2] = {
                {"Package",  "package" },
                {"Group",    "group"   },
                {"L3Cache",  "l3"      },
                {"L2Cache",  "l2"      },
                {"L1Cache",  "l1"      },
                {"L1iCache", "l1i"     },
                {"Core",     "core"    },
                {"PU",       "cpu"     },
                {"NUMANode", "memory"  },
                {"MemCache", "memcache"},
                {"Bridge",   "bridge"  },
                {"PCIDev",   "pci"     }
        };
        g_autofree char *text = NULL;
        struct err err = {0};
        json_t *hhi = NULL;
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
        if (topology_read_hhi(INVENTORY_XML, path, &hhi, &err) < 0)
                g_error("%s: %s", path, err.sentence);
        for (size_t i = 0; i < G_N_ELEMENTS(types); i++) {
                g_autofree char *tag = g_strdup_printf("<object type=\"%s\"", types[i][0]);
                size_t n = 0;
                for (const char *s = text; (s = strstr(s, tag)); s++)
                        n++;
                g_test_message("%s: %zu %s", strrchr(path, '/') + 1, n, types[i][0]);
                g_assert_cmpuint(count_kind(hhi, types[i][1]), ==, n);
        }
        /* Nothing of the file that would say whose machine it is. */
        static const char *const secrets[] = {"HostName", "DMI",    "Address",  "GUID",
                                              "GID0",     "Serial", "OSVersion"};
        g_autofree char *line = json_dumps(hhi, JSON_COMPACT);
        for (size_t i = 0; i < G_N_ELEMENTS(secrets); i++)
                g_assert_null(strstr(line, secrets[i]));
        json_decref(hhi);
}

static void test_files(void)
{
        g_autofree char *folder = find_folder();
        g_autoptr(GDir) d = folder ? g_dir_open(folder, 0, NULL) : NULL;
        const char *name;
        int n = 0;
        if (!d) {
                g_test_skip(
                        "no folder of topologies: METE_TOPOLOGIES names none, and ../shared is not there");
                return;
        }
        while ((name = g_dir_read_name(d))) {
                g_autofree char *path = g_build_filename(folder, name, NULL);
                if (!g_str_has_suffix(name, ".xml"))
                        continue;
                round_trip(INVENTORY_XML, path);
                check_text_counts(path);
                n++;
        }
        g_assert_cmpint(n, >, 0);
}

static const char sound[] =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"
        "<topology version=\"3.0\">\n"
        "<object type=\"Machine\" os_index=\"0\" cpuset=\"0x3\" complete_cpuset=\"0x7\" "
        "allowed_cpuset=\"0x3\""
        " nodeset=\"0x1\" complete_nodeset=\"0x1\" allowed_nodeset=\"0x1\" gp_index=\"1\">\n"
        "<object type=\"NUMANode\" os_index=\"0\" cpuset=\"0x3\" complete_cpuset=\"0x7\" nodeset=\"0x1\""
        " complete_nodeset=\"0x1\" gp_index=\"2\" local_memory=\"4096\"/>\n"
        "<object type=\"PU\" os_index=\"0\" cpuset=\"0x1\" complete_cpuset=\"0x1\" nodeset=\"0x1\""
        " complete_nodeset=\"0x1\" gp_index=\"3\"/>\n"
        "<object type=\"PU\" os_index=\"1\" cpuset=\"0x2\" complete_cpuset=\"0x2\" nodeset=\"0x1\""
        " complete_nodeset=\"0x1\" gp_index=\"4\"/>\n"
        "<object type=\"OSDev\" gp_index=\"5\" name=\"eth0\" osdev_type=\"16\"/>\n"
        "</object>\n"
        "<info name=\"HostName\" value=\"a>b\"/>\n"
        "<cpukind cpuset=\"0x1\" forced_efficiency=\"0\"><info name=\"CoreType\" value=\"x\"/></cpukind>\n"
        "<cpukind cpuset=\"0x2\" forced_efficiency=\"1\"/>\n"
        "</topology>\n";

static int read_as_file(const char *text, size_t n, struct err *err)
{
        g_autofree char *path = NULL;
        json_t *hhi = NULL;
        int fd = g_file_open_tmp("mete-topology-XXXXXX.xml", &path, NULL);
        g_assert_cmpint(fd, >=, 0);
        (void)close(fd);
        g_assert_true(g_file_set_contents(path, text, (gssize)n, NULL));
        int r = topology_read_hhi(INVENTORY_XML, path, &hhi, err);
        (void)g_unlink(path);
        if (r == 0)
                json_decref(hhi);
        return r;
}

static void test_refused_file(void)
{
        /* What is replaced in a sound file, by what, and a part of the sentence. */
        static const char *const rows[][3] = {
                {"</topology>",                             "",                                       "ends in the middle"},
                {"os_index=\"1\" cpuset=\"0x2\"",           "os_index=\"1000000000\" cpuset=\"0x2\"",
                 "number is too high"                                                                                     },
                {"os_index=\"1\" cpuset=\"0x2\"",           "os_index=\"2\" cpuset=\"0x2\"",          "contradicts itself"},
                {"os_index=\"1\" cpuset=\"0x2\"",           "os_index=\"0\" cpuset=\"0x1\"",          "contradicts itself"},
                {"complete_cpuset=\"0x7\" allowed",         "complete_cpuset=\"0xf...f\" allowed",    "more CPUs"         },
                {"<topology version=\"3.0\">",              "<topology version=\"4.0\">",             "later than 3"      },
                {"<topology version=\"3.0\">",              "<html>",                                 "not of hwloc"      },
                {"<info name=\"HostName\" value=\"a>b\"/>", "<mystery>",                              "do not know"       },
                {"<info name=\"HostName\" value=\"a>b\"/>", "</object>",                              "never began"       },
                {"<info name=\"HostName\" value=\"a>b\"/>", "<object type=\"Machine\"/>",             "two machines"      },
                {"<info name=\"HostName\" value=\"a>b\"/>",
                 "<distances2 type=\"PU\" nbobjs=\"65537\"></distances2>",                            "too many objects"  },
                {"\"hwloc2.dtd\">",                         "\"hwloc2.dtd\" [<!ENTITY a \"b\">]>",    "do not know"       },
        };
        struct err err = {0};
        if (read_as_file(sound, strlen(sound), &err) < 0)
                g_error("%s", err.sentence);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                g_auto(GStrv) parts = g_strsplit(sound, rows[i][0], 2);
                g_autofree char *text = g_strjoinv(rows[i][1], parts);
                g_assert_cmpuint(g_strv_length(parts), ==, 2);
                g_assert_cmpint(read_as_file(text, strlen(text), &err), <, 0);
                if (!strstr(err.sentence, rows[i][2]))
                        g_error("%s: %s", rows[i][1], err.sentence);
                err = (struct err){0};
        }
        g_assert_cmpint(read_as_file("", 0, &err), <, 0);
        g_assert_cmpint(read_as_file("a\0b", 3, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "no text"));
        /* A file that ends anywhere is refused. */
        for (size_t n = 1; n < strlen(sound) - strlen("</topology>\n"); n += 7)
                g_assert_cmpint(read_as_file(sound, n, &err), <, 0);
}

static void test_refused_large(void)
{
        struct err err = {0};
        g_autofree char *path = NULL;
        g_autoptr(GString) deep = g_string_new("<topology version=\"2.0\">");
        hwloc_topology_t t;
        int fd = g_file_open_tmp("mete-topology-XXXXXX.xml", &path, NULL);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, TOPOLOGY_FILE_MAX + 1), ==, 0);
        (void)close(fd);
        g_assert_cmpint(topology_load(INVENTORY_XML, path, true, &t, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "larger than"));
        (void)g_unlink(path);
        g_assert_cmpint(topology_load(INVENTORY_XML, "/", true, &t, &err), <, 0);
        for (int i = 0; i <= TOPOLOGY_DEPTH_MAX; i++)
                g_string_append(deep, "<object type=\"Misc\">");
        g_assert_cmpint(read_as_file(deep->str, deep->len, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "too deep"));
        g_string_assign(deep, "<topology version=\"2.0\"><object type=\"Misc\">");
        for (int i = 0; i < TOPOLOGY_OBJECTS_MAX; i++)
                g_string_append(deep, "<object type=\"Misc\"/>");
        g_assert_cmpint(read_as_file(deep->str, deep->len, &err), <, 0);
        g_assert_nonnull(strstr(err.sentence, "too many objects"));
}

static void test_refused_synthetic(void)
{
        static const char *const texts[] = {"pu:1000000000",
                                            "numa:100 core:100 pu:1",
                                            "65 64",
                                            "pu:4097",
                                            "pack:18446744073709551617 pu:1",
                                            "nonsense:2",
                                            "",
                                            "pu:"};
        struct err err = {0};
        json_t *hhi = NULL;
        for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
                g_assert_cmpint(topology_read_hhi(INVENTORY_SYNTHETIC, texts[i], &hhi, &err), <, 0);
                g_assert_cmpint(err.reason, ==, REASON_INVALID);
                g_test_message("%s", err.sentence);
        }
        g_assert_null(hhi);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/topology/synthetic", test_synthetic);
        g_test_add_func("/topology/live", test_live);
        g_test_add_func("/topology/marks", test_marks);
        g_test_add_func("/topology/files", test_files);
        g_test_add_func("/topology/refused-file", test_refused_file);
        g_test_add_func("/topology/refused-large", test_refused_large);
        g_test_add_func("/topology/refused-synthetic", test_refused_synthetic);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <hwloc.h>
#include <string.h>
#include <unistd.h>
#include "host/inventory.h"

#define MIB ((int64_t)1 << 20)
#define GIB ((int64_t)1 << 30)
static const char two_nodes[] = "pack:2 [numa(memory=8589934592)] l3:1 core:4 pu:2";

static struct inventory read_ok(struct inventory_options o)
{
        struct inventory inv = {0};
        struct err err = {0};
        if (inventory_read(&o, &inv, &err) < 0)
                g_error("%s", err.sentence);
        return inv;
}

static void read_bad(struct inventory_options o, enum reason reason)
{
        struct inventory inv = {.n = 77};
        struct err err = {0};
        g_assert_cmpint(inventory_read(&o, &inv, &err), <, 0);
        g_assert_cmpint(err.reason, ==, reason);
        g_assert_cmpuint(inv.n, ==, 77);
        g_test_message("%s", err.sentence);
}

static void test_relations(void)
{
        struct inventory inv =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, 0, 0});
        g_assert_cmpuint(inv.n, ==, 18);
        g_assert_cmpint(inv.memory_bytes, ==, 16 * GIB);
        g_assert_cmpint(inv.memory_owned_bytes, ==, 16 * GIB);
        g_assert_cmpuint(inv.cpus_owned, ==, 16);
        for (uint32_t i = 0; i < 16; i++) {
                const struct component *c = &inv.components[i];
                g_autofree char *id = g_strdup_printf("cpu:%u", i);
                g_assert_cmpstr(c->id, ==, id);
                g_assert_cmpint(c->kind, ==, COMPONENT_CPU);
                g_assert_cmpuint(c->os_index, ==, i);
                g_assert_cmpuint(c->node, ==, i / 8);
                g_assert_cmpuint(c->llc, ==, i / 8);
                g_assert_cmpuint(c->core, ==, i / 2);
                g_assert_cmpint(c->owned, ==, CPU_WHOLE_MILLI);
                g_assert_true(c->healthy);
        }
        for (uint32_t i = 0; i < 2; i++) {
                const struct component *c = &inv.components[16 + i];
                g_assert_cmpint(c->kind, ==, COMPONENT_MEMORY);
                g_assert_cmpstr(c->id, ==, i ? "memory:node1" : "memory:node0");
                g_assert_cmpint(c->capacity, ==, 8 * GIB);
        }
        inventory_done(&inv);
        inventory_done(&inv);
}

static void test_restricted(void)
{
        /* CPUs of node 1 only: its memory is taken first. */
        struct inventory inv =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, "8-11", 6 * GIB, GIB});
        g_assert_cmpuint(inv.cpus_owned, ==, 4);
        g_assert_cmpint(inv.components[7].owned, ==, 0);
        g_assert_cmpint(inv.components[8].owned, ==, 1000);
        g_assert_cmpint(inv.components[16].owned, ==, 0);
        g_assert_cmpint(inv.components[17].owned, ==, 6 * GIB);
        inventory_done(&inv);
        /* More than that node has: the rest comes from the other. */
        inv = read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, "8-11", 11 * GIB, GIB});
        g_assert_cmpint(inv.components[16].owned, ==, 3 * GIB);
        g_assert_cmpint(inv.components[17].owned, ==, 8 * GIB);
        inventory_done(&inv);
        /* Both near: half each, nothing lost by rounding. */
        inv = read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, 5 * MIB, 0});
        g_assert_cmpint(inv.components[16].owned + inv.components[17].owned, ==, 5 * MIB);
        g_assert_cmpint(inv.memory_owned_bytes, ==, 5 * MIB);
        inventory_done(&inv);
        /* All but the reserve. */
        inv = read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, 0, 2 * GIB});
        g_assert_cmpint(inv.memory_owned_bytes, ==, 14 * GIB);
        for (size_t i = 16; i < 18; i++)
                g_assert_cmpint(inv.components[i].owned, <=, inv.components[i].capacity);
        inventory_done(&inv);
}

static void test_refused(void)
{
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, "nonsense:2", NULL, 0, 0}, REASON_INVALID);
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, "0-16", 0, 0}, REASON_INVALID);
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, "", 0, 0}, REASON_INVALID);
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, "x", 0, 0}, REASON_INVALID);
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, 17 * GIB, 0},
                 REASON_NO_CAPACITY);
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, 16 * GIB, GIB},
                 REASON_NO_CAPACITY);
        read_bad((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, 0, 99 * GIB},
                 REASON_NO_CAPACITY);
        read_bad((struct inventory_options){INVENTORY_XML, "/nonexistent.xml", NULL, 0, 0}, REASON_INVALID);
}

/* What hwloc exports of a machine reads back as the same machine. */
static void test_xml(void)
{
        hwloc_topology_t t;
        g_autofree char *path = NULL;
        int fd = g_file_open_tmp("mete-inventory-XXXXXX", &path, NULL);
        g_assert_cmpint(fd, >=, 0);
        (void)close(fd);
        hwloc_topology_init(&t);
        hwloc_topology_set_synthetic(t, two_nodes);
        hwloc_topology_load(t);
        g_assert_cmpint(hwloc_topology_export_xml(t, path, 0), ==, 0);
        hwloc_topology_destroy(t);
        struct inventory a =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, "0-3", GIB, 0});
        struct inventory b = read_ok((struct inventory_options){INVENTORY_XML, path, "0-3", GIB, 0});
        g_assert_cmpmem(a.components, a.n * sizeof(*a.components), b.components, b.n * sizeof(*b.components));
        inventory_done(&a);
        inventory_done(&b);
        (void)g_unlink(path);
}

static void test_missing(void)
{
        static const char *const wrong[] = {"",         "cpu:",     "cpu:-1",
                                            "cpu:01",   "cpu:1x",   "cpu:99999999999",
                                            "cache:00", "memory:1", "memory:node"};
        struct inventory inv =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, GIB, 0});
        struct err err = {0};
        size_t n = inv.n;
        g_assert_cmpint(inventory_add_missing(&inv, "cpu:99", &err), ==, 0);
        g_assert_cmpint(inventory_add_missing(&inv, "memory:node7", &err), ==, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++)
                g_assert_cmpint(inventory_add_missing(&inv, wrong[i], &err), <, 0);
        g_assert_cmpuint(inv.n, ==, n + 2);
        const struct component *cpu = &inv.components[n], *memory = cpu + 1;
        g_assert_true(cpu->kind == COMPONENT_CPU && cpu->os_index == 99 && cpu->owned == 0 && !cpu->healthy);
        g_assert_true(memory->kind == COMPONENT_MEMORY && memory->node == 7 && !memory->healthy);
        g_assert_cmpstr(memory->id, ==, "memory:node7");
        inventory_done(&inv);
}

static void test_link(void)
{
        struct inventory inv =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, GIB, 0});
        struct err err = {0};
        size_t n = inv.n;
        g_assert_cmpint(inventory_add_link(&inv, "eth0", 1000000000, &err), ==, 0);
        const struct component *c = &inv.components[n];
        g_assert_cmpstr(c->id, ==, "net:eth0");
        g_assert_true(c->kind == COMPONENT_NET && c->healthy);
        g_assert_cmpint(c->capacity, ==, 1000000000);
        g_assert_cmpint(c->owned, ==, 980000000);
        g_assert_cmpint(inventory_add_link(&inv, "a b", 1000000000, &err), <, 0);
        g_assert_cmpint(inventory_add_link(&inv, "abcdefghijklmnop", 1000000000, &err), <, 0);
        g_assert_cmpint(inventory_add_link(&inv, "eth1", 9999999, &err), <, 0);
        g_assert_cmpuint(inv.n, ==, n + 1);
        /* What is owned and the rest's part never exceed the link, in whole bytes. */
        for (int64_t rate = 10000000; rate < 10100000; rate += 997) {
                g_assert_cmpint(inventory_add_link(&inv, "eth1", rate, &err), ==, 0);
                int64_t rest = (rate / 8 * 8 / 50 + 7) / 8;
                g_assert_cmpint(inv.components[inv.n - 1].owned / 8 + rest, <=, rate / 8);
                g_assert_cmpint(inv.components[inv.n - 1].owned, >, rate / 50 * 48);
        }
        g_assert_cmpint(inventory_add_missing(&inv, "net:eth9", &err), ==, 0);
        g_assert_false(inv.components[inv.n - 1].healthy);
        inventory_done(&inv);
}

static void test_disk(void)
{
        struct inventory inv =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, GIB, 0});
        struct err err = {0};
        size_t n = inv.n;
        g_assert_cmpint(inventory_add_disk(&inv, "images", 500000000, &err), ==, 0);
        const struct component *c = &inv.components[n];
        g_assert_cmpstr(c->id, ==, "block:images");
        g_assert_true(c->kind == COMPONENT_BLOCK && c->healthy);
        g_assert_cmpint(c->capacity, ==, 500000000);
        g_assert_cmpint(c->owned, ==, 500000000 / 65536 * 65536);
        g_assert_cmpint(inventory_add_disk(&inv, "a b", 500000000, &err), <, 0);
        g_assert_cmpint(inventory_add_disk(&inv, "abcdefghijklmnopqrstuvwxyz", 500000000, &err), <, 0);
        g_assert_cmpint(inventory_add_disk(&inv, "images", (1 << 20) - 1, &err), <, 0);
        g_assert_cmpuint(inv.n, ==, n + 1);
        g_assert_cmpint(inventory_add_missing(&inv, "block:other", &err), ==, 0);
        g_assert_cmpstr(inv.components[n + 1].id, ==, "block:other");
        g_assert_false(inv.components[n + 1].healthy);
        g_assert_cmpint(inventory_add_missing(&inv, "block:a/b", &err), <, 0);
        inventory_done(&inv);
}

static void test_domain(void)
{
        struct inventory inv =
                read_ok((struct inventory_options){INVENTORY_SYNTHETIC, two_nodes, NULL, GIB, 0});
        struct err err = {0};
        struct cpulist cpus = {0};
        size_t n = inv.n;
        g_assert_true(cpulist_add(&cpus, inv.components[1].os_index));
        g_assert_cmpint(inventory_add_domain(&inv, 3, &cpus, 11, 2, 2, 10, &err), ==, 0);
        g_assert_cmpuint(inv.n, ==, n + 2);
        g_assert_cmpuint(inv.components[1].domain, ==, 4);
        g_assert_cmpuint(inv.components[0].domain, ==, 0);
        const struct component *cache = &inv.components[n], *membw = &inv.components[n + 1];
        g_assert_cmpstr(cache->id, ==, "cache:3");
        g_assert_cmpint(cache->owned, ==, 8); /* whole steps of what is not left to everybody else */
        g_assert_cmpuint(cache->domain, ==, 4);
        g_assert_cmpstr(membw->id, ==, "membw:3");
        g_assert_cmpint(membw->owned, ==, 90);
        g_assert_cmpint(inventory_add_domain(&inv, 4, &cpus, 0, 1, 1, 0, &err), ==, 0);
        g_assert_cmpuint(inv.n, ==, n + 2);
        g_assert_cmpint(inventory_add_missing(&inv, "cache:7", &err), ==, 0);
        g_assert_false(inv.components[n + 2].healthy);
        g_assert_cmpint(inventory_add_missing(&inv, "membw:07", &err), <, 0);
        inventory_done(&inv);
}

static void test_live(void)
{
        struct inventory inv = read_ok((struct inventory_options){INVENTORY_LIVE, NULL, NULL, 0, 0});
        g_assert_cmpuint(inv.cpus_owned, <=, (size_t)sysconf(_SC_NPROCESSORS_CONF));
        g_assert_cmpuint(inv.cpus_owned, >=, 1);
        int64_t physical = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
        g_assert_cmpint(inv.memory_bytes, >=, physical / 2);
        g_assert_cmpint(inv.memory_bytes, <=, physical * 2);
        inventory_done(&inv);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/inventory/relations", test_relations);
        g_test_add_func("/inventory/restricted", test_restricted);
        g_test_add_func("/inventory/refused", test_refused);
        g_test_add_func("/inventory/xml", test_xml);
        g_test_add_func("/inventory/missing", test_missing);
        g_test_add_func("/inventory/link", test_link);
        g_test_add_func("/inventory/disk", test_disk);
        g_test_add_func("/inventory/domain", test_domain);
        g_test_add_func("/inventory/live", test_live);
        return g_test_run();
}

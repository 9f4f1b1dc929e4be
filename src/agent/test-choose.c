/* SPDX-License-Identifier: Apache-2.0 */
/* Which component it is, on hosts that are drawn here. */
#include "agent/choose.h"

#include <glib.h>
#include "json/hhi.h"
#include "json/read.h"

#define GIB (INT64_C(1) << 30)

/* Four nodes with two CPUs each; this guest's memory is on node 1, its CPU is cpu:2. Node 3 is near to 1, 0
 * and 2 are far. */
static json_t *host(void)
{
        struct err err = {0};
        json_t *all = json_object(), *objects = json_object(), *of = json_array(), *values = json_array();
        static const int distances[4][4] = {
                {10, 30, 20, 30},
                {30, 10, 30, 20},
                {20, 30, 10, 30},
                {30, 20, 30, 10}
        };

        (void)json_object_set_new(objects, "machine", json_pack("{s:s}", "kind", "machine"));
        for (int node = 0; node < 4; node++) {
                g_autofree char *package = g_strdup_printf("package:%d", node),
                                *memory = g_strdup_printf("memory:node%d", node);
                (void)json_object_set_new(
                        objects, package,
                        json_pack("{s:s, s:s, s:i}", "kind", "package", "in", "machine", "os", node));
                (void)json_object_set_new(
                        objects, memory,
                        json_pack("{s:s, s:s, s:i, s:I, s:s, s:I, s:I, s:I}", "kind", "memory", "in", package,
                                  "os", node, "bytes", (json_int_t)(4 * GIB), "mark",
                                  node == 1 ? "yours" : "free", "capacity", (json_int_t)(4 * GIB), "free",
                                  (json_int_t)(node == 1 ? GIB : 2 * GIB), "yours",
                                  (json_int_t)(node == 1 ? GIB : 0)));
                for (int cpu = 2 * node; cpu < 2 * node + 2; cpu++) {
                        g_autofree char *id = g_strdup_printf("cpu:%d", cpu);
                        (void)json_object_set_new(
                                objects, id,
                                json_pack("{s:s, s:s, s:i, s:s, s:i, s:i, s:i}", "kind", "cpu", "in", package,
                                          "os", cpu, "mark", cpu == 2 ? "yours" : "free", "capacity", 1000,
                                          "free", cpu == 2 ? 0 : 1000, "yours", cpu == 2 ? 1000 : 0));
                }
                (void)json_array_append_new(of, json_string(memory));
                for (int i = 0; i < 4; i++)
                        (void)json_array_append_new(values, json_integer(distances[node][i]));
        }
        (void)json_object_set_new(all, "objects", objects);
        (void)json_object_set_new(all, "distances",
                                  json_pack("[{s:s, s:i, s:o, s:o}]", "name", "NUMALatency", "kind", 5, "of",
                                            of, "values", values));
        g_assert_cmpint(hhi_check(all, &err), ==, 0);
        return all;
}

static void set(json_t *all, const char *id, const char *name, json_int_t value)
{
        (void)json_object_set_new(json_object_get(json_object_get(all, "objects"), id), name,
                                  json_integer(value));
}

static void expect(const json_t *all, enum component_kind kind, int64_t amount, const char *need)
{
        struct choice c;
        struct need parsed;
        int64_t step = kind == COMPONENT_CPU ? 1000 : GIB / 8;
        if (!need) {
                g_assert_false(choose(all, kind, amount, step, step, &c));
                return;
        }
        g_assert_true(choose(all, kind, amount, step, step, &c));
        g_assert_cmpstr(c.need, ==, need);
        g_assert_cmpint(need_parse(c.need, &parsed, NULL), ==, 0);
        const struct parameter *share = need_parameter(&parsed, PARAMETER_SHARE);
        g_assert_cmpint(c.amount, ==,
                        kind != COMPONENT_CPU ? parsed.amount_max
                        : share               ? share->value
                                              : 1000);
}

static void test_has(void)
{
        json_t *all = host();
        g_assert_cmpint(choose_has(all, COMPONENT_CPU), ==, 1000);
        g_assert_cmpint(choose_has(all, COMPONENT_MEMORY), ==, GIB);
        g_assert_cmpint(choose_has(all, COMPONENT_NET), ==, 0);
        g_assert_cmpint(choose_capacity(all, COMPONENT_CPU), ==, 8000);
        json_decref(all);
}

static void test_nearest_cpu(void)
{
        json_t *all = host();
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=3");
        expect(all, COMPONENT_CPU, 5000, "cpu:1,id=3"); /* one at a time */
        set(all, "cpu:3", "free", 999);
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=6"); /* node 3 is nearer than 0 and 2 */
        set(all, "cpu:6", "free", 0);
        set(all, "cpu:7", "free", 0);
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=0");
        for (int cpu = 0; cpu < 8; cpu++) {
                g_autofree char *id = g_strdup_printf("cpu:%d", cpu);
                set(all, id, "free", 0);
        }
        expect(all, COMPONENT_CPU, 1, NULL);
        set(all, "cpu:2", "free", 1000); /* its own, on a host that gives more than there is */
        expect(all, COMPONENT_CPU, 1, NULL);
        json_decref(all);
}

static void test_nearest_memory(void)
{
        json_t *all = host();
        expect(all, COMPONENT_MEMORY, 1, "memory:128M,node=1");
        expect(all, COMPONENT_MEMORY, GIB / 8 + 1, "memory:128M..256M,node=1");
        expect(all, COMPONENT_MEMORY, GIB, "memory:128M..1G,node=1");
        expect(all, COMPONENT_MEMORY, GIB + 1, "memory:128M..1152M,node=3"); /* all of it, a little farther */
        expect(all, COMPONENT_MEMORY, 3 * GIB, "memory:128M..1G,node=1");    /* nowhere as much: near */
        for (int node = 0; node < 4; node++) {
                g_autofree char *id = g_strdup_printf("memory:node%d", node);
                set(all, id, "free", GIB / 8 - 1);
        }
        expect(all, COMPONENT_MEMORY, 1, NULL);
        json_decref(all);
}

/* No whole CPU is free: a part, also of one on which it has something. */
static void test_part_of_a_cpu(void)
{
        json_t *all = host();
        for (int cpu = 0; cpu < 8; cpu++) {
                g_autofree char *id = g_strdup_printf("cpu:%d", cpu);
                set(all, id, "free", 0);
        }
        set(all, "cpu:2", "yours", 200);
        set(all, "cpu:2", "free", 700);
        expect(all, COMPONENT_CPU, 760, "cpu:1,id=2,share>=0.7"); /* as much as there is */
        expect(all, COMPONENT_CPU, 555, "cpu:1,id=2,share>=0.56");
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=2,share>=0.1");
        set(all, "cpu:6", "free", 800);
        expect(all, COMPONENT_CPU, 700, "cpu:1,id=2,share>=0.7"); /* both will do: the near one */
        expect(all, COMPONENT_CPU, 760, "cpu:1,id=6,share>=0.76");
        expect(all, COMPONENT_CPU, 2000, "cpu:1,id=6,share>=0.8"); /* neither will do: the larger one */
        set(all, "cpu:7", "free", 1000);
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=7"); /* a whole one goes first */
        set(all, "cpu:7", "free", 0);
        set(all, "cpu:6", "free", 99);
        set(all, "cpu:2", "free", 99);
        expect(all, COMPONENT_CPU, 1, NULL);
        set(all, "cpu:2", "yours", 950); /* no more than one whole CPU is of use, whatever is given away */
        set(all, "cpu:2", "free", 1000);
        expect(all, COMPONENT_CPU, 1, NULL);
        set(all, "cpu:2", "yours", 899);
        expect(all, COMPONENT_CPU, 500, "cpu:1,id=2,share>=0.1");
        json_decref(all);
}

/* Less than a step will do, where the guest may have no more. */
static void test_less_will_do(void)
{
        json_t *all = host();
        struct choice c;
        g_assert_true(choose(all, COMPONENT_MEMORY, GIB, GIB / 2, GIB / 8, &c));
        g_assert_cmpstr(c.need, ==, "memory:128M..1G,node=1");
        g_assert_true(choose(all, COMPONENT_MEMORY, GIB / 8, GIB / 8, GIB / 8, &c));
        g_assert_cmpstr(c.need, ==, "memory:128M,node=1");
        json_decref(all);
}

/* Nothing is its own; no distances; nodes of no CPU. */
static void test_strange(void)
{
        json_t *all = host();
        set(all, "cpu:2", "yours", 0);
        set(all, "memory:node1", "yours", 0);
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=0");
        (void)json_object_del(all, "distances");
        set(all, "memory:node1", "yours", GIB);
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=3");
        set(all, "cpu:3", "free", 0);
        expect(all, COMPONENT_CPU, 1, "cpu:1,id=0");
        json_decref(all);
        all = json_pack("{s:{s:{s:s}}}", "objects", "machine", "kind", "machine");
        expect(all, COMPONENT_CPU, 1, NULL);
        expect(all, COMPONENT_MEMORY, 1, NULL);
        json_decref(all);
}

/* Where it is not told what is free, the node is named. */
static void test_partial(void)
{
        json_t *all = host();
        (void)json_object_set_new(all, "partial", json_true());
        expect(all, COMPONENT_CPU, 1, "cpu:1,node=1");
        expect(all, COMPONENT_MEMORY, 1, "memory:128M,node=1");
        json_decref(all);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/agent/choose/has", test_has);
        g_test_add_func("/agent/choose/nearest-cpu", test_nearest_cpu);
        g_test_add_func("/agent/choose/nearest-memory", test_nearest_memory);
        g_test_add_func("/agent/choose/part-of-a-cpu", test_part_of_a_cpu);
        g_test_add_func("/agent/choose/less-will-do", test_less_will_do);
        g_test_add_func("/agent/choose/strange", test_strange);
        g_test_add_func("/agent/choose/partial", test_partial);
        return g_test_run();
}

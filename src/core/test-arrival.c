/* SPDX-License-Identifier: Apache-2.0 */
/* Leases that come with their VM: granted in the slots in which its guest has them, or not at all. */
#include "core/hypervisor.h"

#include <glib.h>
#include <string.h>

enum { MIB = 1024 * 1024 };

/* clang-format off */
static const struct component machine[] = {
        {.id = "cpu:0", .kind = COMPONENT_CPU, .os_index = 0, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "cpu:1", .kind = COMPONENT_CPU, .os_index = 1, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "cpu:2", .kind = COMPONENT_CPU, .os_index = 2, .node = 1, .capacity = 1000, .owned = 1000, .healthy = true},
        {.id = "memory:node0", .kind = COMPONENT_MEMORY, .capacity = 1024L * MIB, .owned = 1024L * MIB, .healthy = true},
        {.id = "memory:node1", .kind = COMPONENT_MEMORY, .os_index = 1, .node = 1, .capacity = 384L * MIB, .owned = 384L * MIB, .healthy = true},
};
/* clang-format on */

static struct hypervisor *here;

static void run(void)
{
        struct effect f;
        while (hypervisor_next_effect(here, &f)) {
                if (f.kind == EFFECT_STEP)
                        hypervisor_step_done(here, f.serial, f.token, NULL, NULL, 2000);
        }
        g_assert_true(hypervisor_is_sound(here));
}

static void begin(void)
{
        struct err err = {0};
        const struct hypervisor_config config = {.cpu_overcommit = 1,
                                                 .offer_ms = 1000,
                                                 .live_max = 100,
                                                 .live_per_vm_max = 8,
                                                 .finished_max = 64,
                                                 .retry_first_ms = 100,
                                                 .retry_max_ms = 1000,
                                                 .first_serial = 1};
        const struct vm_shape shape = {.name = "v",
                                       .cpus = 1,
                                       .cpus_max = 4,
                                       .share_milli = 200,
                                       .memory_bytes = 512L * MIB,
                                       .memory_max_bytes = 2048L * MIB,
                                       .unit_bytes = 128L * MIB,
                                       .memory_slots = 4};
        here = hypervisor_new(&config, machine, G_N_ELEMENTS(machine), 1000);
        g_assert_cmpint(hypervisor_vm_define(here, &shape, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(here, "v", 1000, &err), ==, 0);
        run();
}

static void end(void)
{
        hypervisor_free(here);
}

/* What became of it; items "vcpu 3" and the like, in their order. */
static const struct request *arrives(const char *id, const char *needs_text, const struct arrival *arrivals,
                                     size_t n, char *items, size_t size)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        g_auto(GStrv) words = g_strsplit(needs_text, " ", -1);
        uint64_t serial;
        *items = '\0';
        g_assert_cmpint(needs_parse((const char *const *)words, g_strv_length(words), needs, &err), ==, 0);
        struct ask a = {.kind = REQUEST_APP,
                        .vm = "v",
                        .id = id,
                        .needs = needs,
                        .n_needs = g_strv_length(words),
                        .end_ms = LEDGER_OPEN,
                        .arrivals = arrivals,
                        .n_arrivals = n};
        g_assert_cmpint(hypervisor_ask(here, &a, 1000, &serial, &err), ==, 0);
        run();
        const struct request *r = hypervisor_request(here, serial);
        g_assert_nonnull(r);
        for (size_t i = 0; i < r->n_definitions; i++) {
                size_t at = strlen(items);
                (void)g_snprintf(items + at, size - at, "%s%s%d on %s", i ? ", " : "",
                                 virtual_kind_name(r->definitions[i].kind), r->definitions[i].slot,
                                 machine[r->definitions[i].component].id);
        }
        return r;
}

static void test_slots(void)
{
        const struct arrival cpus[] = {
                {VIRTUAL_VCPU, 3, 0},
                {VIRTUAL_VCPU, 1, 0}
        };
        const struct arrival dimms[] = {
                {VIRTUAL_DIMM, 2, 256L * MIB},
                {VIRTUAL_DIMM, 0, 384L * MIB}
        };
        char items[256];
        begin();
        /* id= and node= are of the host where it was asked for. */
        const struct request *r = arrives("c", "cpu:2,share>=0.5", cpus, 2, items, sizeof(items));
        g_assert_cmpint(r->state, ==, REQUEST_GRANTED);
        g_assert_true(g_str_has_prefix(items, "vcpu1 on ") && strstr(items, ", vcpu3 on "));
        g_assert_cmpint(r->definitions[0].component, !=, r->definitions[1].component);
        g_assert_cmpint(r->met[0], ==, 2);
        r = arrives("m", "memory:640M,node=7", dimms, 2, items, sizeof(items));
        g_assert_cmpint(r->state, ==, REQUEST_GRANTED);
        g_assert_cmpint(r->met[0], ==, 640L * MIB);
        g_assert_cmpstr(items, ==, "dimm0 on memory:node1, dimm2 on memory:node0");
        /* A lease that is asked for here gets what is left. */
        r = arrives("own", "cpu:1,share>=0.2 memory:128M", NULL, 0, items, sizeof(items));
        g_assert_true(g_str_has_prefix(items, "dimm1 on memory:node0, vcpu2 on "));
        end();
}

static void refused(const char *id, const char *needs, const struct arrival *arrivals, size_t n,
                    enum reason reason)
{
        char items[256];
        const struct request *r = arrives(id, needs, arrivals, n, items, sizeof(items));
        g_assert_cmpint(r->state, ==, REQUEST_REFUSED);
        g_assert_cmpint(r->reason, ==, reason);
        g_assert_cmpstr(items, ==, "");
}

static void test_refused(void)
{
        static const struct arrival base =
                                            {
                                                    VIRTUAL_VCPU, 0, 0
        },
                                    none = {VIRTUAL_VCPU, 4, 0}, minus = {VIRTUAL_VCPU, -1, 0},
                                    good = {VIRTUAL_VCPU, 1, 0},
                                    twice[] = {{VIRTUAL_DIMM, 1, 128L * MIB}, {VIRTUAL_DIMM, 1, 128L * MIB}},
                                    large[] = {{VIRTUAL_DIMM, 0, 128L * MIB}, {VIRTUAL_DIMM, 1, 640L * MIB}},
                                    split = {VIRTUAL_DIMM, 0, 768L * MIB},
                                    part = {VIRTUAL_DIMM, 0, 100L * MIB}, nothing = {VIRTUAL_DIMM, 0, 0},
                                    less = {VIRTUAL_DIMM, 0, -128L * MIB},
                                    most[] = {{VIRTUAL_DIMM, 0, INT64_MAX / MIB * MIB},
                                              {VIRTUAL_DIMM, 1, INT64_MAX / MIB * MIB}};
        char items[256];
        begin();
        refused("a", "cpu:1", &base, 1, REASON_NO_CAPACITY);
        refused("b", "cpu:1", &none, 1, REASON_NO_CAPACITY);
        refused("c", "cpu:1", &minus, 1, REASON_NO_CAPACITY);
        refused("d", "memory:256M", twice, 2, REASON_NO_CAPACITY);
        refused("e", "memory:768M", large, 2, REASON_NO_CAPACITY);
        refused("f", "memory:768M", &split, 1, REASON_NO_CAPACITY); /* it would lie on two nodes */
        refused("part", "memory:128M", &part, 1, REASON_INCOMPATIBLE);
        refused("nothing", "memory:128M", &nothing, 1, REASON_INCOMPATIBLE);
        refused("less", "memory:128M", &less, 1, REASON_INCOMPATIBLE);
        refused("most", "memory:128M", most, 2, REASON_INCOMPATIBLE); /* more than it may grow by */
        refused("g", "memory:128M", &good, 1, REASON_INVALID);
        refused("h", "cpu:1 memory:128M", &good, 1, REASON_INVALID); /* all of it or none */
        /* Nothing of what was refused is left behind. */
        const struct request *r = arrives("i", "cpu:1,share>=1", &good, 1, items, sizeof(items));
        g_assert_cmpint(r->state, ==, REQUEST_GRANTED);
        end();
}

static void test_again(void)
{
        const struct arrival cpu = {VIRTUAL_VCPU, 2, 0};
        char items[256];
        uint64_t serial;
        begin();
        serial = arrives("c", "cpu:1,share>=0.5", &cpu, 1, items, sizeof(items))->serial;
        g_assert_cmpint(arrives("c", "cpu:1,share>=0.5", &cpu, 1, items, sizeof(items))->serial, ==, serial);
        /* Its guest's agent, which knows it by its id. */
        g_assert_cmpint(arrives("c", "cpu:1,share>=0.5", NULL, 0, items, sizeof(items))->serial, ==, serial);
        g_assert_cmpstr(items, ==, "vcpu2 on cpu:2");
        end();
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/arrival/slots", test_slots);
        g_test_add_func("/arrival/refused", test_refused);
        g_test_add_func("/arrival/again", test_again);
        return g_test_run();
}

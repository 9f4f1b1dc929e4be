/* SPDX-License-Identifier: Apache-2.0 */
/* Requests for each kind of resource: network, disk, classes of service, pages, a named piece. */
#include "core/test-world.h"

/* A network card: of the base, and what leases add to it. */
static void test_net(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "n", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        const struct ledger *l = hypervisor_ledger(w.h);
        const uint32_t net = G_N_ELEMENTS(machine) - 2;
        g_assert_cmpint(ledger_claimed(l, net), ==, 200 * MBIT);
        const struct request *base = hypervisor_find(w.h, "vm:n");
        const struct definition *nic = &base->definitions[base->n_definitions - 1];
        g_assert_true(nic->kind == VIRTUAL_NIC && nic->slot == 0 && nic->component == net && nic->active);
        uint64_t a = ask_for(&w, "n", "a", "net:100M", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->definitions[0].slot, ==, 1);
        /* rounded up to whole units */
        uint64_t b = ask_for(&w, "n", "b", "net:64001 cpu:1", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->met[0], ==, 72000);
        g_assert_cmpint(ledger_claimed(l, net), ==, 300 * MBIT + 72000);
        const struct request *r = get(&w, ask_for(&w, "n", "c", "net:401M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_POLICY);
        r = get(&w, ask_for(&w, "n", "d", "net:400M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        r = get(&w, ask_for(&w, "n", "e", "net:400M", true, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_COUNTER_OFFERED);
        g_assert_nonnull(strstr(r->sentence, "offered net:299928K instead"));
        g_assert_cmpint(ledger_claimed(l, net), ==, 600 * MBIT);
        g_assert_cmpint(hypervisor_release(w.h, "vm:n/e", "declined", w.now, &serial, &err), ==, 0);
        turn(&w);
        /* less than is worth holding is no offer */
        uint64_t f = ask_for(&w, "n", "f", "net:299900K", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, f)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, ask_for(&w, "n", "g", "net:1M", true, 0, LEDGER_OPEN, NULL))->outcome, ==,
                        OUTCOME_NOT_NOW);
        /* a reservation of the operator's, and what is over */
        uint64_t s = ask_for(&w, NULL, "s", "net:380M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_GRANTED);
        r = get(&w, ask_for(&w, NULL, "t", "net:1M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        r = get(&w, ask_for(&w, NULL, "x", "net:981M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        /* a VM without a card */
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        r = get(&w, ask_for(&w, "u", "a", "net:100M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(r->sentence, "no network card"));
        for (const char *const *key = (const char *const[]){"vm:n/a", "vm:n/b", "vm:n/f", NULL}; *key; key++)
                g_assert_cmpint(hypervisor_release(w.h, *key, "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(l, net), ==, 580 * MBIT);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* On a host that has none of it, it is unsupported, alone or not. */
static void test_no_class(void)
{
        static const char *const asked[] = {"cache:2", "membw:20%", "cpu:1 cache:2", "cpu:1 membw:20%"};
        struct world w;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "n", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        for (size_t i = 0; i < G_N_ELEMENTS(asked); i++) {
                const char id[] = {(char)('a' + i), '\0'};
                const struct request *r =
                        get(&w, ask_for(&w, "n", id, asked[i], false, 0, LEDGER_OPEN, NULL));
                g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
                g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        }
        world_done(&w);
}

/* The machine with two L3 caches, of each of which something can be given away. */
static size_t with_classes(struct component two[G_N_ELEMENTS(machine) + CLASSES])
{
        memcpy(two, machine, sizeof(machine));
        size_t n = G_N_ELEMENTS(machine);
        for (size_t i = 0; i < n; i++)
                if (two[i].kind == COMPONENT_CPU)
                        two[i].domain = two[i].node + 1;
        for (uint32_t domain = 1; domain <= 2; domain++) {
                two[n++] = (struct component){.id = "cache",
                                              .kind = COMPONENT_CACHE,
                                              .os_index = domain - 1,
                                              .domain = domain,
                                              .step = 2,
                                              .capacity = 12,
                                              .owned = 8,
                                              .healthy = true};
                two[n++] = (struct component){.id = "membw",
                                              .kind = COMPONENT_MEMBW,
                                              .os_index = domain - 1,
                                              .domain = domain,
                                              .step = 10,
                                              .capacity = 100,
                                              .owned = 90,
                                              .healthy = true};
        }
        return n;
}

static void class_world_init(struct world *w, struct component two[G_N_ELEMENTS(machine) + CLASSES])
{
        struct err err = {0};
        size_t n = with_classes(two);
        world_init(w);
        hypervisor_free(w->h);
        w->h = hypervisor_new(&config, two, n, 0);
        for (size_t i = 0; i < G_N_ELEMENTS(shapes); i++)
                g_assert_cmpint(hypervisor_vm_define(w->h, &shapes[i], &err), ==, 0);
}

/* A class of service serves CPUs, below one L3 cache: that of the VM's own. */
static void test_class(void)
{
        struct component two[G_N_ELEMENTS(machine) + CLASSES];
        struct world w;
        struct err err = {0};
        uint64_t serial;
        class_world_init(&w, two);
        const struct ledger *l = hypervisor_ledger(w.h);
        g_assert_cmpint(hypervisor_vm_start(w.h, "n", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        uint32_t own = 0;
        const struct request *base = hypervisor_find(w.h, "vm:n");
        for (size_t i = 0; i < base->n_definitions; i++)
                if (base->definitions[i].kind == VIRTUAL_VCPU)
                        own = two[base->definitions[i].component].domain;
        const struct request *r = get(&w, ask_for(&w, "n", "alone", "cache:2", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_INVALID);
        r = get(&w, ask_for(&w, "n", "many", "cpu:1 cache:9", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        uint64_t a = ask_for(&w, "n", "a", "cpu:1 cache:3 membw:15%", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        r = get(&w, a);
        g_assert_cmpint(r->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(r->met[1], ==, 4); /* rounded up to what the hardware does */
        g_assert_cmpint(r->met[2], ==, 20);
        uint64_t slots = 0;
        for (size_t i = 0; i < r->n_definitions; i++) {
                g_assert_cmpint(two[r->definitions[i].component].domain, ==, own);
                if (r->definitions[i].kind == VIRTUAL_NONE)
                        slots |= UINT64_C(1) << r->definitions[i].slot;
        }
        g_assert_cmpint(slots, ==, 3);
        g_assert_true(hypervisor_is_sound(w.h));
        g_assert_cmpint(hypervisor_release(w.h, "vm:n/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        for (uint32_t i = G_N_ELEMENTS(machine); i < G_N_ELEMENTS(two); i++)
                g_assert_cmpint(ledger_claimed(l, i), ==, 0);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

static void test_class_binds(void)
{
        struct component two[G_N_ELEMENTS(machine) + CLASSES];
        struct world w;
        struct err err = {0};
        const struct request *r;
        uint64_t serial;
        class_world_init(&w, two);

        /* Bound by a lease of its own that has a class: there is more elsewhere when that has ended. */
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        (void)ask_for(&w, "v", "a", "cpu:1 cache:2", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, ask_for(&w, "v", "b", "cpu:3", false, 0, LEDGER_OPEN, NULL))->outcome, ==,
                        OUTCOME_NOT_NOW);
        g_assert_cmpint(get(&w, ask_for(&w, "v", "c", "cpu:3 cache:2", false, 0, LEDGER_OPEN, NULL))->outcome,
                        ==, OUTCOME_NEVER);
        g_assert_cmpint(hypervisor_release(w.h, "vm:v/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        uint64_t b = ask_for(&w, "v", "d", "cpu:3", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->outcome, ==, OUTCOME_GRANTED);

        /* Spread over both as long as it runs. */
        struct vm_shape wide = shapes[0];
        (void)snprintf(wide.name, sizeof(wide.name), "wide");
        wide.cpus = 3;
        g_assert_cmpint(hypervisor_vm_define(w.h, &wide, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(w.h, "wide", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        r = get(&w, ask_for(&w, "wide", "a", "cpu:1 cache:2", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_INCOMPATIBLE);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* What is asked for by its name, or by its node, is that or nothing (2.9). */
static void test_named(void)
{
        static const struct {
                const char *need;
                enum outcome outcome;
                enum reason reason;
        } rows[] = {
                {"cpu:1,id=2",           OUTCOME_GRANTED, 0                 },
                {"cpu:1,id=2,exclusive", OUTCOME_NOT_NOW, REASON_NO_CAPACITY},
                {"cpu:1,id=9",           OUTCOME_NEVER,   REASON_NOT_FOUND  },
                {"cpu:1,node=2",         OUTCOME_NEVER,   REASON_NOT_FOUND  },
                {"cpu:3,node=1",         OUTCOME_NEVER,   REASON_NO_CAPACITY},
                {"cpu:2,node=1",         OUTCOME_GRANTED, 0                 },
                {"memory:256M,node=1",   OUTCOME_GRANTED, 0                 },
                {"memory:1G,node=7",     OUTCOME_NEVER,   REASON_NOT_FOUND  },
        };
        struct world w;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "v", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
                const char id[] = {(char)('a' + i), '\0'};
                uint64_t serial = ask_for(&w, "v", id, rows[i].need, false, 0, LEDGER_OPEN, NULL);
                work_all(&w);
                const struct request *r = get(&w, serial);
                g_test_message("%s: %s", rows[i].need, r->sentence);
                g_assert_cmpint(r->outcome, ==, rows[i].outcome);
                if (r->outcome != OUTCOME_GRANTED) {
                        g_assert_cmpint(r->reason, ==, rows[i].reason);
                        continue;
                }
                for (size_t k = 0; k < r->n_definitions; k++) {
                        const struct component *c = &machine[r->definitions[k].component];
                        int64_t named = need_component(&r->needs[0]);
                        g_assert_cmpint(c->node, ==, 1);
                        g_assert_true(named < 0 || c->os_index == named);
                }
        }
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* A host that has become smaller than what a VM of before needs at least. */
static void test_too_small_for_base(void)
{
        static const char *const what[] = {"block:images", "memory:node1"};
        for (size_t i = 0; i < G_N_ELEMENTS(what); i++) {
                struct component few[G_N_ELEMENTS(machine)];
                struct vm_shape s = shapes[3];
                struct world w;
                struct err err = {0};
                memcpy(few, machine, sizeof(machine));
                for (size_t k = 0; k < G_N_ELEMENTS(few); k++) {
                        if (strcmp(few[k].id, what[i]) == 0)
                                few[k].owned = few[k].kind == COMPONENT_BLOCK ? 40 * MIB : 0;
                        else if (i == 1 && few[k].kind == COMPONENT_MEMORY)
                                few[k].owned = 64 * MIB;
                }
                world_init(&w);
                hypervisor_free(w.h);
                w.h = hypervisor_new(&config, few, G_N_ELEMENTS(few), 0);
                g_assert_cmpint(hypervisor_vm_define(w.h, &s, &err), ==, 0);
                g_assert_cmpint(hypervisor_vm_start(w.h, s.name, w.now, &err), ==, 0);
                turn(&w);
                const struct request *r = hypervisor_find(w.h, "vm:d");
                g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
                g_assert_cmpint(r->reason, ==, REASON_NO_CAPACITY);
                world_done(&w);
        }
}

/* Base memory and a lease on huge pages, which count from the same node as the others. */
static void test_pages(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        const int64_t sizes[COMPONENT_PAGES] = {2 * MIB}, larger[COMPONENT_PAGES] = {2 * MIB, 1024 * MIB},
                      none[COMPONENT_PAGES] = {0};
        struct vm_shape s = shapes[1];
        world_init(&w);
        (void)snprintf(s.name, sizeof(s.name), "huge");
        s.page_bytes = 2 * MIB;
        s.memory_max_bytes = 1792 * MIB; /* room to grow for one page of 1G, and half of another */
        g_assert_cmpint(hypervisor_vm_fits(w.h, &s, &err), <, 0);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(
                strstr(err.sentence, "pages of 2M are asked for, and no memory of this host has them"));
        hypervisor_set_pages(w.h, sizes);
        g_assert_cmpint(hypervisor_vm_fits(w.h, &s, &err), ==, 0);
        struct vm_shape bad = s;
        bad.page_bytes = 3 * MIB;
        g_assert_cmpint(hypervisor_vm_define(w.h, &bad, &err), <, 0);
        bad.page_bytes = 512 * MIB; /* 256M are no whole page */
        g_assert_cmpint(hypervisor_vm_define(w.h, &bad, &err), <, 0);
        g_assert_cmpint(hypervisor_vm_define(w.h, &s, &err), ==, 0);
        g_assert_cmpint(hypervisor_vm_start(w.h, "huge", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        const struct request *base = hypervisor_find(w.h, "vm:huge");
        g_assert_cmpint(base->outcome, ==, OUTCOME_GRANTED);
        for (size_t i = 0; i < base->n_definitions; i++)
                g_assert_cmpint(base->definitions[i].page_bytes, ==,
                                base->definitions[i].kind == VIRTUAL_RAM ? 2 * MIB : 0);
        uint64_t a = ask_for(&w, "huge", "a", "memory:200M,page=2M", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->met[0], ==, 256 * MIB);
        g_assert_cmpint(get(&w, a)->definitions[0].page_bytes, ==, 2 * MIB);
        g_assert_nonnull(strstr(get(&w, a)->sentence, "granted memory:256M,page=2M"));
        const struct request *r =
                get(&w, ask_for(&w, "huge", "b", "memory:128M,page=1G", true, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(r->sentence, "it has huge pages of: 2M"));
        g_assert_cmpint(hypervisor_release(w.h, "vm:huge/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        hypervisor_set_pages(w.h, larger);
        a = ask_for(&w, "huge", "c", "memory:1G..2G,page=1G", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->met[0], ==, 1024 * MIB);
        g_assert_cmpint(hypervisor_release(w.h, "vm:huge/c", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        /* The keeper has no hugetlbfs any more: what is granted stays, a start is refused. */
        hypervisor_set_pages(w.h, none);
        g_assert_cmpint(hypervisor_release(w.h, "vm:huge", "killed", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "huge", w.now, &err), ==, 0);
        turn(&w);
        r = hypervisor_find(w.h, "vm:huge");
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

/* A disk: of the base, and what leases add to it. */
static void test_disk(void)
{
        struct world w;
        uint64_t serial;
        struct err err = {0};
        world_init(&w);
        g_assert_cmpint(hypervisor_vm_start(w.h, "d", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        const struct ledger *l = hypervisor_ledger(w.h);
        const uint32_t disk = G_N_ELEMENTS(machine) - 1;
        g_assert_cmpint(ledger_claimed(l, disk), ==, 50 * MIB);
        const struct request *base = hypervisor_find(w.h, "vm:d");
        const struct definition *d = &base->definitions[base->n_definitions - 1];
        g_assert_true(d->kind == VIRTUAL_DISK && d->slot == 0 && d->component == disk && d->active);
        uint64_t a = ask_for(&w, "d", "a", "block:100M", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, a)->outcome, ==, OUTCOME_GRANTED);
        g_assert_cmpint(get(&w, a)->definitions[0].slot, ==, 1);
        /* rounded up to whole units */
        uint64_t b = ask_for(&w, "d", "b", "block:65537 cpu:1", false, 0, LEDGER_OPEN, NULL);
        work_all(&w);
        g_assert_cmpint(get(&w, b)->met[0], ==, 131072);
        g_assert_cmpint(ledger_claimed(l, disk), ==, 150 * MIB + 131072);
        const struct request *r = get(&w, ask_for(&w, "d", "c", "block:151M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_POLICY);
        r = get(&w, ask_for(&w, "d", "e", "block:150M", true, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_COUNTER_OFFERED);
        g_assert_nonnull(strstr(r->sentence, "offered block:51072K instead"));
        g_assert_cmpint(hypervisor_release(w.h, "vm:d/e", "declined", w.now, &serial, &err), ==, 0);
        turn(&w);
        /* what an operator has set aside is nobody else's */
        uint64_t s = ask_for(&w, NULL, "s", "block:240M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(get(&w, s)->outcome, ==, OUTCOME_GRANTED);
        r = get(&w, ask_for(&w, "d", "f", "block:20M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        r = get(&w, ask_for(&w, NULL, "x", "block:401M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        /* a VM without a disk */
        g_assert_cmpint(hypervisor_vm_start(w.h, "u", w.now, &err), ==, 0);
        turn(&w);
        work_all(&w);
        r = get(&w, ask_for(&w, "u", "a", "block:1M", false, 0, LEDGER_OPEN, NULL));
        g_assert_cmpint(r->outcome, ==, OUTCOME_NEVER);
        g_assert_cmpint(r->reason, ==, REASON_UNSUPPORTED);
        g_assert_nonnull(strstr(r->sentence, "no disk"));
        /* the books say the same after a restart */
        g_assert_true(hypervisor_is_sound(w.h));
        g_assert_cmpint(hypervisor_release(w.h, "vm:d/a", "released", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(l, disk), ==, 290 * MIB + 131072);
        /* and no VM starts for whose disk there is no room */
        g_assert_cmpint(hypervisor_release(w.h, "vm:d", "stopped", w.now, &serial, &err), ==, 0);
        turn(&w);
        work_all(&w);
        g_assert_cmpint(ledger_claimed(l, disk), ==, 240 * MIB);
        (void)ask_for(&w, NULL, "t", "block:120M", false, 0, LEDGER_OPEN, NULL);
        g_assert_cmpint(hypervisor_vm_start(w.h, "d", w.now, &err), ==, 0);
        turn(&w);
        r = hypervisor_find(w.h, "vm:d");
        g_assert_cmpint(r->outcome, ==, OUTCOME_NOT_NOW);
        g_assert_nonnull(
                strstr(r->sentence, "50M bytes/s for its disk are not free on this host, but 40M are"));
        g_assert_true(hypervisor_is_sound(w.h));
        world_done(&w);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/hypervisor/net", test_net);
        g_test_add_func("/hypervisor/disk", test_disk);
        g_test_add_func("/hypervisor/class", test_class);
        g_test_add_func("/hypervisor/class-binds", test_class_binds);
        g_test_add_func("/hypervisor/too-small-for-base", test_too_small_for_base);
        g_test_add_func("/hypervisor/named", test_named);
        g_test_add_func("/hypervisor/no-class", test_no_class);
        g_test_add_func("/hypervisor/pages", test_pages);
        return g_test_run();
}

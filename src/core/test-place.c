/* SPDX-License-Identifier: Apache-2.0 */
/* Against brute force on machines small enough to try every choice. */
#include "core/place.h"

#include <glib.h>
#include <string.h>

#include "base/str.h"

enum { CPUS = 8, NODES = 4, N_MAX = CPUS + NODES };
#define MIB (INT64_C(1) << 20)

struct machine {
        size_t n;
        struct component component[N_MAX];
        struct ledger *ledger;
        int64_t default_share, unit;
};

static void machine_add(struct machine *m, enum component_kind kind, uint32_t os_index, uint32_t node,
                        int64_t owned)
{
        m->component[m->n++] = (struct component){.kind = kind,
                                                  .os_index = os_index,
                                                  .node = node,
                                                  .capacity = owned,
                                                  .owned = owned,
                                                  .healthy = true};
}

static void machine_open(struct machine *m)
{
        int64_t owned[N_MAX];
        for (size_t i = 0; i < m->n; i++)
                owned[i] = m->component[i].owned;
        m->ledger = ledger_new(owned, m->n, 0);
}

static void hold(struct machine *m, uint32_t component, int64_t amount, int64_t start, int64_t end)
{
        struct claim c = {component, CLAIM_ALLOCATED, amount, 1, start, end};
        claim_id id;
        g_assert_cmpint(ledger_claim(m->ledger, &c, &id), ==, 1);
}

/* Two nodes with four CPUs and a gibibyte each. */
static struct machine ordinary(void)
{
        struct machine m = {.default_share = 125, .unit = 128 * MIB};
        for (uint32_t i = 0; i < 8; i++)
                machine_add(&m, COMPONENT_CPU, i, i / 4, 1000);
        machine_add(&m, COMPONENT_MEMORY, 0, 0, 1024 * MIB);
        machine_add(&m, COMPONENT_MEMORY, 1, 1, 1024 * MIB);
        machine_open(&m);
        return m;
}

static int place(const struct machine *m, const char *text, int64_t start, int64_t end, struct placement *ret)
{
        struct need need;
        struct err err = {0};
        if (need_parse(text, &need, &err) < 0)
                g_error("%s", err.sentence);
        return place_need(m->ledger, m->component, m->n, &need, m->default_share, m->unit, start, end, ret,
                          &err);
}

/* "0+500 1+500": component and amount in ascending order, or "not N". */
static char *said(const struct machine *m, const char *text, int64_t start, int64_t end)
{
        struct placement p;
        if (place(m, text, start, end, &p) == 0) {
                g_assert_cmpuint(p.n, ==, 0);
                return g_strdup_printf("not %" G_GINT64_FORMAT, p.amount_met);
        }
        GString *s = g_string_new(NULL);
        for (uint32_t c = 0; c < m->n; c++)
                for (size_t i = 0; i < p.n; i++)
                        if (p.item[i].component == c)
                                g_string_append_printf(s, "%s%u+%" G_GINT64_FORMAT, s->len ? " " : "", c,
                                                       m->component[c].kind == COMPONENT_MEMORY
                                                               ? p.item[i].amount / MIB
                                                               : p.item[i].amount);
        return g_string_free(s, FALSE);
}

static void says(const struct machine *m, const char *text, int64_t start, int64_t end, const char *want)
{
        g_autofree char *have = said(m, text, start, end);
        if (strcmp(have, want) != 0)
                g_error("%s: %s, not %s", text, have, want);
}

static void test_cpus(void)
{
        struct machine m = ordinary();
        says(&m, "cpu:2", 0, 10, "0+125 1+125");
        says(&m, "cpu:2,share>=0.9", 0, 10, "0+900 1+900");
        says(&m, "cpu:1..3,exclusive", 0, 10, "0+1000 1+1000 2+1000");
        says(&m, "cpu:5", 0, 10, "0+125 1+125 2+125 3+125 4+125");
        says(&m, "cpu:9", 0, 10, "not 8");
        says(&m, "cpu:2..100", 0, 10, "0+125 1+125 2+125 3+125 4+125 5+125 6+125 7+125");

        /* Best fit: CPU 6 has least left, and its node fewer CPUs that will do. */
        hold(&m, 5, 950, 0, LEDGER_OPEN);
        hold(&m, 6, 600, 0, LEDGER_OPEN);
        says(&m, "cpu:1", 0, 10, "6+125");
        says(&m, "cpu:1,share>=0.5", 0, 10, "4+500");
        says(&m, "cpu:3,share>=0.4", 0, 10, "4+400 6+400 7+400");
        says(&m, "cpu:4,share>=0.4", 0, 10, "0+400 1+400 2+400 3+400");
        says(&m, "cpu:6,share>=0.4", 0, 10, "0+400 1+400 2+400 3+400 4+400 6+400");
        says(&m, "cpu:7,exclusive", 0, 10, "not 6");
        says(&m, "cpu:1,share>=0.05", 0, 10, "5+50");
        says(&m, "cpu:4,share>=0.05", 0, 10, "4+50 5+50 6+50 7+50");

        /* A later window counts only where it is touched. */
        hold(&m, 4, 1000, 100, 200);
        says(&m, "cpu:2,exclusive", 0, 100, "4+1000 7+1000");
        says(&m, "cpu:2,exclusive", 0, 101, "0+1000 1+1000");
        says(&m, "cpu:1,exclusive", 50, LEDGER_OPEN, "7+1000");
        m.component[7].healthy = false;
        says(&m, "cpu:1,exclusive", 50, LEDGER_OPEN, "0+1000");
        ledger_free(m.ledger);
}

/* Whole pages, of nodes that have them. */
static void test_pages(void)
{
        struct machine m = {.default_share = 125, .unit = 128 * MIB};
        machine_add(&m, COMPONENT_MEMORY, 0, 0, 3000 * MIB);
        machine_add(&m, COMPONENT_MEMORY, 1, 1, 2500 * MIB);
        machine_open(&m);
        says(&m, "memory:256M,page=2M", 0, 10, "not 0");
        m.component[1].page_bytes[0] = 2 * MIB;
        says(&m, "memory:256M,page=2M", 0, 10, "1+256");
        says(&m, "memory:250M,page=2M", 0, 10, "1+256");
        says(&m, "memory:256M,page=1G", 0, 10, "not 0");
        m.component[0].page_bytes[0] = m.component[1].page_bytes[0];
        m.component[0].page_bytes[1] = m.component[1].page_bytes[1] = 1024 * MIB;
        says(&m, "memory:256M,page=1G", 0, 10, "1+1024");
        says(&m, "memory:1100M..3G,page=1G", 0, 10, "0+1024 1+2048");
        says(&m, "memory:5G,page=1G", 0, 10, "not 4294967296");
        says(&m, "memory:256M", 0, 10, "1+256");
        ledger_free(m.ledger);
}

/* Exclusive needs all of a CPU to be free and to be ours, and takes all of it. */
static void test_exclusive(void)
{
        struct machine m = {.default_share = 500, .unit = MIB};
        machine_add(&m, COMPONENT_CPU, 0, 0, 800);
        machine_add(&m, COMPONENT_CPU, 1, 0, 2000);
        machine_open(&m);
        says(&m, "cpu:1,exclusive", 0, 10, "1+2000");
        says(&m, "cpu:2,exclusive", 0, 10, "not 1");
        hold(&m, 1, 1, 5, 6);
        says(&m, "cpu:1,exclusive", 0, 10, "not 0");
        says(&m, "cpu:1,exclusive", 6, 10, "1+2000");
        ledger_free(m.ledger);
}

static void test_memory(void)
{
        struct machine m = ordinary();
        says(&m, "memory:1", 0, 10, "8+128");
        says(&m, "memory:129M", 0, 10, "8+256");
        says(&m, "memory:1G", 0, 10, "8+1024");
        says(&m, "memory:1025M", 0, 10, "8+1024 9+128");
        says(&m, "memory:2G", 0, 10, "8+1024 9+1024");
        says(&m, "memory:2049M", 0, 10, "not 2147483648");
        says(&m, "memory:512M..600M", 0, 10, "8+640");
        says(&m, "memory:512M..9G", 0, 10, "8+1024 9+1024");
        hold(&m, 9, 500 * MIB, 0, LEDGER_OPEN);
        /* 524 MiB are left on the second node: four whole units. */
        says(&m, "memory:512M", 0, 10, "9+512");
        says(&m, "memory:513M", 0, 10, "8+640");
        says(&m, "memory:1G..9G", 0, 10, "8+1024 9+512");
        says(&m, "memory:2G", 0, 10, "not 1610612736");
        m.component[8].healthy = false;
        says(&m, "memory:513M", 0, 10, "not 536870912");
        ledger_free(m.ledger);
}

static int64_t limit(const struct machine *m, const char *text)
{
        struct need need;
        g_assert_cmpint(need_parse(text, &need, NULL), ==, 0);
        return place_limit(m->component, m->n, &need, m->default_share, m->unit);
}

static void test_limit(void)
{
        struct machine m = ordinary();
        hold(&m, 0, 1000, 0, LEDGER_OPEN);
        hold(&m, 8, 1024 * MIB, 0, LEDGER_OPEN);
        says(&m, "cpu:8,exclusive", 0, 10, "not 7");
        g_assert_cmpint(limit(&m, "cpu:1,exclusive"), ==, 8);
        g_assert_cmpint(limit(&m, "cpu:100"), ==, 8);
        g_assert_cmpint(limit(&m, "memory:1"), ==, 2048 * MIB);
        m.component[3].healthy = m.component[9].healthy = false; /* they may come back */
        m.component[2].owned = 500;
        g_assert_cmpint(limit(&m, "cpu:1"), ==, 8);
        g_assert_cmpint(limit(&m, "cpu:1,id=3"), ==, 1);
        g_assert_cmpint(limit(&m, "cpu:1,share>=0.501"), ==, 7);
        g_assert_cmpint(limit(&m, "memory:1"), ==, 2048 * MIB);
        m.component[3].owned = m.component[9].owned = 0; /* these are not given away */
        g_assert_cmpint(limit(&m, "cpu:1"), ==, 7);
        g_assert_cmpint(limit(&m, "memory:1"), ==, 1024 * MIB);
        m.unit = 1000 * MIB;
        g_assert_cmpint(limit(&m, "memory:1"), ==, 1000 * MIB);
        ledger_free(m.ledger);
}

/* A page that the hardware spoilt ends no lease where the host itself has memory to do without. */
static void test_lost(void)
{
        struct component c = {
                .kind = COMPONENT_MEMORY, .capacity = 1024 * MIB, .owned = 1000 * MIB, .healthy = true};
        g_assert_cmpint(component_lost(&c, 0, 0), ==, 0);
        g_assert_cmpint(component_lost(&c, 4096, 0), ==, 0);
        g_assert_cmpint(component_lost(&c, 24 * MIB, 0), ==, 0);
        g_assert_cmpint(component_lost(&c, 24 * MIB + 4096, 0), ==, 4096);
        g_assert_cmpint(component_lost(&c, 4096, 64 * MIB), ==,
                        64 * MIB); /* an operator means what is given */
        g_assert_cmpint(component_lost(&c, 30 * MIB, 64 * MIB), ==, 70 * MIB);
        g_assert_cmpint(component_lost(&c, 2048 * MIB, 64 * MIB), ==, 1024 * MIB);
        c.lost = component_lost(&c, 30 * MIB, 64 * MIB);
        g_assert_cmpint(component_owned(&c), ==, 930 * MIB);
}

static void test_needs(void)
{
        struct machine m = ordinary();
        const char *const texts[] = {"cpu:2,exclusive", "memory:1G..2G"}, *const much[] = {"cpu:9",
                                                                                           "memory:1G"};
        struct need needs[NEEDS_MAX];
        struct placement p[NEEDS_MAX];
        struct err err = {0};
        g_assert_cmpint(needs_parse(texts, 2, needs, NULL), ==, 0);
        g_assert_cmpint(place_needs(m.ledger, m.component, m.n, needs, 2, 125, 128 * MIB, 0, 9, p, &err), ==,
                        1);
        g_assert_cmpuint(p[0].n, ==, 2);
        g_assert_cmpint(p[0].amount_met, ==, 2);
        g_assert_cmpuint(p[1].n, ==, 2);
        g_assert_cmpint(p[1].amount_met, ==, 2048 * MIB);
        g_assert_cmpint(needs_parse(much, 2, needs, NULL), ==, 0);
        g_assert_cmpint(place_needs(m.ledger, m.component, m.n, needs, 2, 125, 128 * MIB, 0, 9, p, &err), ==,
                        0);
        g_assert_cmpuint(p[0].n, ==, 0);
        g_assert_cmpint(p[0].amount_met, ==, 8);
        g_assert_cmpuint(p[1].n, ==, 1);
        needs[1].kind = COMPONENT_DEVICE;
        g_assert_cmpint(place_needs(m.ledger, m.component, m.n, needs, 2, 125, 128 * MIB, 0, 9, p, &err), <,
                        0);
        g_assert_cmpint(err.reason, ==, REASON_UNSUPPORTED);
        g_assert_cmpint(place_limit(m.component, m.n, &needs[1], 125, 128 * MIB), ==, 0);
        ledger_free(m.ledger);
}

/* Each limit of place.h, reached. */
static void large(size_t n, enum component_kind kind, const char *text, int want, int64_t met)
{
        g_autofree struct component *components = g_new0(struct component, n);
        g_autofree int64_t *owned = g_new(int64_t, n);
        struct need need;
        struct placement p = {.amount_met = -1};
        struct err err = {0};
        for (size_t i = 0; i < n; i++) {
                components[i] = (struct component){.kind = kind,
                                                   .os_index = (uint32_t)i,
                                                   .node = (uint32_t)i / 16,
                                                   .owned = 1000,
                                                   .healthy = true};
                owned[i] = 1000;
        }
        struct ledger *l = ledger_new(owned, n, 0);
        g_assert_cmpint(need_parse(text, &need, NULL), ==, 0);
        int r = place_need(l, components, n, &need, 1000, 100, 0, LEDGER_OPEN, &p, &err);
        g_assert_cmpint(MAX(r, -1), ==, want);
        g_assert_cmpint(p.amount_met, ==, met);
        int64_t all = kind == COMPONENT_CPU ? MIN((int64_t)n, 64) : MIN((int64_t)n, 8) * 1000;
        g_assert_cmpint(place_limit(components, n, &need, 1000, 100), ==, want < 0 ? 0 : all);
        ledger_free(l);
}

static void test_limits(void)
{
        large(100, COMPONENT_CPU, "cpu:64", 1, 64);
        large(100, COMPONENT_CPU, "cpu:65", 0, 64);
        large(100, COMPONENT_CPU, "cpu:1..100", 1, 64);
        large(9, COMPONENT_MEMORY, "memory:8000", 1, 8000);
        large(9, COMPONENT_MEMORY, "memory:8001", 0, 8000);
        large(PLACE_COMPONENTS_MAX, COMPONENT_CPU, "cpu:1", 1, 1);
        large(PLACE_COMPONENTS_MAX + 1, COMPONENT_CPU, "cpu:1", -1, -1);
        large(0, COMPONENT_CPU, "cpu:1", 0, 0);
}

struct best {
        int64_t units; /* the most that can be had, up to what is of use */
        int nodes;     /* the fewest that give it */
};

static int64_t units_free(const struct machine *m, uint32_t i, const struct need *need, int64_t start,
                          int64_t end)
{
        const struct parameter *share = need_parameter(need, PARAMETER_SHARE);
        int64_t free = ledger_free_over(m->ledger, i, start, end);
        if (m->component[i].kind != need->kind || !m->component[i].healthy)
                return 0;
        if (need->kind == COMPONENT_MEMORY)
                return free / m->unit;
        if (need_parameter(need, PARAMETER_EXCLUSIVE))
                return free == ledger_owned(m->ledger, i) && free >= 1000;
        return free >= (share ? share->value : m->default_share);
}

/* Tries every set of components. */
static struct best brute(const struct machine *m, const struct need *need, int64_t most, int64_t start,
                         int64_t end)
{
        struct best best = {0};
        for (unsigned set = 0; set < 1u << m->n; set++) {
                int64_t units = 0;
                unsigned nodes = 0;
                for (uint32_t i = 0; i < m->n; i++) {
                        int64_t free = set & 1u << i ? units_free(m, i, need, start, end) : 0;
                        units += free;
                        nodes |= free > 0 ? 1u << m->component[i].node : 0;
                }
                units = MIN(units, most);
                int n = __builtin_popcount(nodes);
                if (units > best.units || (units == best.units && n < best.nodes))
                        best = (struct best){units, n};
        }
        return best;
}

static struct machine random_machine(GRand *rand)
{
        struct machine m = {.default_share = g_rand_int_range(rand, 1, 1001),
                            .unit = g_rand_int_range(rand, 1, 20)};
        int nodes = g_rand_int_range(rand, 1, NODES), cpus = g_rand_int_range(rand, 0, CPUS + 1);
        for (int i = 0; i < cpus; i++)
                machine_add(&m, COMPONENT_CPU, (uint32_t)i, (uint32_t)g_rand_int_range(rand, 0, nodes),
                            g_rand_int_range(rand, 0, 4) ? 1000 : g_rand_int_range(rand, 0, 2001));
        for (int i = 0; i < nodes; i++)
                machine_add(&m, COMPONENT_MEMORY, (uint32_t)i, (uint32_t)i, g_rand_int_range(rand, 0, 100));
        machine_open(&m);
        for (uint32_t i = 0; i < m.n; i++) {
                m.component[i].healthy = g_rand_int_range(rand, 0, 8) != 0;
                for (int j = g_rand_int_range(rand, 0, 3); j > 0; j--) {
                        int64_t start = g_rand_int_range(rand, 0, 10),
                                end = start + g_rand_int_range(rand, 1, 10);
                        int64_t free = ledger_free_over(m.ledger, i, start, end);
                        if (free > 0)
                                hold(&m, i, g_rand_int_range(rand, 1, (gint32)free + 1), start, end);
                }
        }
        return m;
}

static struct need random_need(GRand *rand)
{
        struct need n = {.kind = g_rand_boolean(rand) ? COMPONENT_CPU : COMPONENT_MEMORY};
        n.amount = n.amount_max = g_rand_int_range(rand, 1, n.kind == COMPONENT_CPU ? CPUS + 2 : 150);
        if (g_rand_boolean(rand))
                n.amount_max += g_rand_int_range(rand, 0, 50);
        if (n.kind == COMPONENT_CPU && g_rand_boolean(rand))
                n.parameters[n.n_parameters++] =
                        g_rand_boolean(rand) ? (struct parameter){PARAMETER_EXCLUSIVE, RELATION_EQUAL, 1}
                                             : (struct parameter){PARAMETER_SHARE, RELATION_AT_LEAST,
                                                                  g_rand_int_range(rand, 1, 1001)};
        return n;
}

static int64_t ceiling(int64_t amount, int64_t unit)
{
        return (amount + unit - 1) / unit;
}

/* Among the CPUs of each node that was used, none that was left out has less left than one that was taken. */
static void check_least_left(const struct machine *m, const struct need *need, const struct placement *p,
                             int64_t start, int64_t end)
{
        unsigned taken = 0;
        for (size_t i = 0; i < p->n; i++)
                taken |= 1u << p->item[i].component;
        for (size_t i = 0; i < p->n; i++)
                for (uint32_t j = 0; j < m->n; j++) {
                        uint32_t c = p->item[i].component;
                        if (taken & 1u << j || m->component[j].node != m->component[c].node ||
                            units_free(m, j, need, start, end) == 0)
                                continue;
                        g_assert_cmpint(ledger_free_over(m->ledger, j, start, end), >=,
                                        ledger_free_over(m->ledger, c, start, end));
                }
}

/* Where one node is enough, no other that is enough has less of it. */
static void check_least_node(const struct machine *m, const struct need *need, int64_t units, uint32_t node,
                             int64_t start, int64_t end)
{
        int64_t have[NODES] = {0}, free[NODES] = {0};
        for (uint32_t i = 0; i < m->n; i++) {
                int64_t fit = units_free(m, i, need, start, end);
                have[m->component[i].node] += fit;
                free[m->component[i].node] += fit > 0 ? ledger_free_over(m->ledger, i, start, end) : 0;
        }
        for (uint32_t i = 0; i < NODES; i++) {
                if (have[i] < units || i == node)
                        continue;
                g_assert_cmpint(have[i], >=, have[node]);
                if (have[i] == have[node])
                        g_assert_true(free[i] > free[node] || (free[i] == free[node] && i > node));
        }
}

static void check_placement(struct machine *m, const struct need *need, const struct placement *p,
                            struct best best, int64_t start, int64_t end)
{
        int64_t unit = need->kind == COMPONENT_CPU ? 1 : m->unit, units = 0;
        const struct parameter *share = need_parameter(need, PARAMETER_SHARE);
        unsigned nodes = 0;
        g_assert_cmpint(p->amount_met, ==, best.units * unit);
        if (need->kind == COMPONENT_CPU)
                check_least_left(m, need, p, start, end);
        if (best.nodes == 1)
                check_least_node(m, need, best.units, m->component[p->item[0].component].node, start, end);
        for (size_t i = 0; i < p->n; i++) {
                const struct component *c = &m->component[p->item[i].component];
                nodes |= 1u << c->node;
                g_assert_true(c->healthy && c->kind == need->kind);
                if (need->kind == COMPONENT_MEMORY) {
                        g_assert_cmpint(p->item[i].amount % unit, ==, 0);
                        units += p->item[i].amount / unit;
                } else if (need_parameter(need, PARAMETER_EXCLUSIVE)) {
                        g_assert_cmpint(p->item[i].amount, ==, c->owned);
                        units++;
                } else {
                        g_assert_cmpint(p->item[i].amount, ==, share ? share->value : m->default_share);
                        units++;
                }
        }
        g_assert_cmpint(units, ==, best.units);
        g_assert_cmpint(__builtin_popcount(nodes), ==, best.nodes);
        /* What is placed is admitted; a component that came twice would not be an exclusive one. */
        for (size_t i = 0; i < p->n; i++) {
                for (size_t j = 0; j < i; j++)
                        g_assert_cmpuint(p->item[i].component, !=, p->item[j].component);
                hold(m, p->item[i].component, p->item[i].amount, start, end);
        }
        g_assert_true(ledger_is_sound(m->ledger));
}

static void test_brute(void)
{
        guint32 seed = (guint32)g_test_rand_int();
        GRand *rand = g_rand_new_with_seed(seed);
        gint64 until = g_get_monotonic_time() + 3 * G_USEC_PER_SEC / 2;
        int tried = 0, placed = 0;
        g_test_message("seed %u", seed);
        do {
                struct machine m = random_machine(rand);
                struct need need = random_need(rand);
                struct placement p;
                int64_t start = g_rand_int_range(rand, 0, 15), end = start + g_rand_int_range(rand, 1, 6);
                int64_t unit = need.kind == COMPONENT_CPU ? 1 : m.unit;
                struct best most = brute(&m, &need, INT64_MAX, start, end);
                struct best best = brute(&m, &need, ceiling(need.amount_max, unit), start, end);
                int r = place_need(m.ledger, m.component, m.n, &need, m.default_share, m.unit, start, end, &p,
                                   NULL);
                g_assert_cmpint(r, ==, most.units >= ceiling(need.amount, unit));
                g_assert_cmpint(place_limit(m.component, m.n, &need, m.default_share, m.unit), >=,
                                most.units * unit);
                if (r == 0) {
                        g_assert_cmpuint(p.n, ==, 0);
                        g_assert_cmpint(p.amount_met, ==, most.units * unit);
                } else {
                        check_placement(&m, &need, &p, best, start, end);
                        placed++;
                }
                tried++;
                ledger_free(m.ledger);
        } while (g_get_monotonic_time() < until);
        g_test_message("%d of %d placed", placed, tried);
        g_rand_free(rand);
}

/* The order in which components are listed does not matter, only the kernel's numbers do. */
static void test_listing(void)
{
        struct machine m = {.default_share = 100, .unit = MIB}, back = m;
        for (uint32_t i = 0; i < 6; i++)
                machine_add(&m, COMPONENT_CPU, i, i % 2, 1000);
        for (uint32_t i = 6; i-- > 0;)
                machine_add(&back, COMPONENT_CPU, i, i % 2, 1000);
        machine_open(&m);
        machine_open(&back);
        says(&m, "cpu:2", 0, 10, "0+100 2+100");
        says(&back, "cpu:2", 0, 10, "3+100 5+100");
        ledger_free(m.ledger);
        ledger_free(back.ledger);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/place/cpus", test_cpus);
        g_test_add_func("/core/place/exclusive", test_exclusive);
        g_test_add_func("/core/place/pages", test_pages);
        g_test_add_func("/core/place/memory", test_memory);
        g_test_add_func("/core/place/limit", test_limit);
        g_test_add_func("/core/place/lost", test_lost);
        g_test_add_func("/core/place/limits", test_limits);
        g_test_add_func("/core/place/needs", test_needs);
        g_test_add_func("/core/place/listing", test_listing);
        g_test_add_func("/core/place/brute", test_brute);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The partition of a server: what is whose, what is refused, and under random changes that nothing ever is
 * two hypervisors' or lost. */
#include <glib.h>
#include <string.h>

#include "core/server.h"

#define MIB (INT64_C(1) << 20)
enum {
        CPUS = 8,
        NODES = 2,
        N = CPUS + NODES + 1,
        A = 0,
        B = 1,
        NODE0 = CPUS,
        NODE1 = CPUS + 1,
        LINK = N - 1
};

static struct component machine[N];
static struct err err;

/* CPUs 0-3 and 4096 MiB on node 0, CPUs 4-7 and 2048 MiB on node 1, and a link. */
static void setup(struct server *s)
{
        for (uint32_t i = 0; i < CPUS; i++) {
                machine[i] = (struct component){.kind = COMPONENT_CPU,
                                                .os_index = i,
                                                .node = i / 4,
                                                .capacity = 1000,
                                                .owned = 1000,
                                                .healthy = true};
                g_snprintf(machine[i].id, sizeof(machine[i].id), "cpu:%u", i);
        }
        for (uint32_t i = 0; i < NODES; i++) {
                machine[CPUS + i] = (struct component){.kind = COMPONENT_MEMORY,
                                                       .os_index = i,
                                                       .node = i,
                                                       .capacity = 5000 * MIB,
                                                       .owned = (i ? 2048 : 4096) * MIB,
                                                       .healthy = true};
                g_snprintf(machine[CPUS + i].id, sizeof(machine[i].id), "memory:node%u", i);
        }
        machine[LINK] =
                (struct component){.id = "net:eth0", .kind = COMPONENT_NET, .capacity = 1, .owned = 1};
        g_assert_cmpint(server_init(s, machine, N, &err), ==, 0);
        g_assert_cmpint(server_add(s, "a", &err), ==, A);
        g_assert_cmpint(server_add(s, "b", &err), ==, B);
}

static void refused(int bad, enum reason reason, const char *words)
{
        g_assert_cmpint(bad, <, 0);
        g_assert_cmpint(err.reason, ==, reason);
        if (!strstr(err.sentence, words))
                g_error("\"%s\" is not in \"%s\"", words, err.sentence);
}

static void test_names(void)
{
        struct server s;
        setup(&s);
        refused(server_add(&s, "a", &err), REASON_INVALID, "two hypervisors a");
        refused(server_add(&s, "../a", &err), REASON_INVALID, "no name");
        refused(server_add(&s, "x123456789x123456789x123456789xx", &err), REASON_INVALID, "no name");
        for (int i = 2; i < SERVER_HYPERVISORS_MAX; i++) {
                char name[8];
                g_snprintf(name, sizeof(name), "h%d", i);
                g_assert_cmpint(server_add(&s, name, &err), ==, i);
        }
        refused(server_add(&s, "one-more", &err), REASON_NO_CAPACITY, "at most");
        g_assert_cmpint(server_find(&s, "b"), ==, B);
        g_assert_cmpint(server_find(&s, "c"), ==, SERVER_NOBODY);
        g_assert_cmpint(server_component(&s, "memory:node1"), ==, NODE1);
        g_assert_cmpint(server_component(&s, "cpu:8"), ==, -1);
        server_done(&s);
        server_done(&s);
}

static void test_nodes(void)
{
        struct server s;
        setup(&s);
        g_assert_cmpint(server_take_node(&s, A, 0, true, &err), ==, 0);
        refused(server_take_node(&s, B, 2, true, &err), REASON_NOT_FOUND, "no NUMA node 2");
        refused(server_check(&s, &err), REASON_INVALID, "b has no CPU");
        g_assert_cmpint(server_take_node(&s, B, 1, false, &err), ==, 0);
        refused(server_check(&s, &err), REASON_INVALID, "b has no memory");
        g_assert_cmpint(server_take_memory(&s, B, 1024 * MIB, &err), ==, 0);
        g_assert_cmpint(server_check(&s, &err), ==, 0);
        g_assert_cmpint(server_share(&s, 3, A)->amount, ==, 1000);
        g_assert_cmpint(server_share(&s, 4, A)->amount, ==, 0);
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 4096 * MIB);
        g_assert_cmpint(server_share(&s, NODE1, B)->amount, ==, 1024 * MIB);
        g_assert_cmpint(server_nobodys(&s, NODE1), ==, 1024 * MIB);
        g_assert_cmpint(server_share(&s, LINK, A)->amount, ==, 0);
        g_assert_true(server_is_sound(&s));
        server_done(&s);
}

static void test_overlap(void)
{
        struct server s;
        setup(&s);
        g_assert_cmpint(server_take(&s, A, 5, 1000, &err), ==, 0);
        refused(server_take(&s, A, 5, 1000, &err), REASON_INVALID, "named twice for a");
        refused(server_take(&s, B, 5, 1000, &err), REASON_POLICY, "cpu:5 is for a and for b");
        refused(server_take_node(&s, B, 1, true, &err), REASON_POLICY, "cpu:5 is for a and for b");
        g_assert_cmpint(server_share(&s, 4, B)->amount, ==, 0); /* all of it or nothing */
        g_assert_cmpint(server_share(&s, NODE1, B)->amount, ==, 0);
        refused(server_take(&s, B, 4, 500, &err), REASON_INVALID, "as a whole");
        refused(server_take(&s, B, NODE0, MIB / 2, &err), REASON_INVALID, "whole MiB");
        refused(server_take(&s, B, NODE0, 0, &err), REASON_INVALID, "nothing");
        refused(server_take(&s, B, LINK, 1, &err), REASON_INVALID, "only CPUs and memory");
        refused(server_take(&s, B, NODE0, 5000 * MIB, &err), REASON_NO_CAPACITY, "may be given away");
        g_assert_cmpint(server_take(&s, B, NODE0, 4000 * MIB, &err), ==, 0);
        refused(server_take(&s, A, NODE0, 97 * MIB, &err), REASON_POLICY, "memory:node0 is for b and for a");
        g_assert_cmpint(server_take(&s, A, NODE0, 96 * MIB, &err), ==, 0);
        g_assert_cmpint(server_nobodys(&s, NODE0), ==, 0);
        server_done(&s);
}

/* In proportion, of near nodes alone, to the last MiB. */
static void test_memory(void)
{
        struct server s;
        setup(&s);
        refused(server_take_memory(&s, A, MIB, &err), REASON_NO_CAPACITY, "has CPUs of");
        g_assert_cmpint(server_take(&s, A, 0, 1000, &err), ==, 0);
        refused(server_take_memory(&s, A, 4097 * MIB, &err), REASON_NO_CAPACITY, "4096 MiB are left");
        refused(server_take_memory(&s, A, MIB + 1, &err), REASON_INVALID, "whole MiB");
        g_assert_cmpint(server_take(&s, A, 4, 1000, &err), ==, 0);
        g_assert_cmpint(server_take_memory(&s, A, 3001 * MIB, &err), ==, 0);
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 2000 * MIB);
        g_assert_cmpint(server_share(&s, NODE1, A)->amount, ==, 1001 * MIB);
        server_done(&s);
}

/* What a VM takes along, all of it in one step, and back. */
static void test_assign(void)
{
        struct server s;
        struct server_portion p[2] = {
                {.component = NODE0, .amount = 1024 * MIB},
                {.component = 1,     .amount = 1000      }
        };
        setup(&s);
        g_assert_cmpint(server_take_node(&s, A, 0, true, &err), ==, 0);
        g_assert_cmpint(server_take_node(&s, B, 1, true, &err), ==, 0);
        g_assert_cmpint(server_keep(&s, A, 3, &err), ==, 0);
        s.epoch = 1;
        refused(server_assign_check(&s, A, A, p, 2, &err), REASON_INVALID, "a has it already");
        p[1].component = 3;
        refused(server_assign_check(&s, A, B, p, 2, &err), REASON_UNREASSIGNABLE, "cpu:3 is kept by a");
        p[1].component = 4;
        refused(server_assign_check(&s, A, B, p, 2, &err), REASON_NO_CAPACITY, "a has 0 of cpu:4");
        p[1] = (struct server_portion){.component = 1, .amount = 500};
        refused(server_assign_check(&s, A, B, p, 2, &err), REASON_INVALID, "as a whole");
        p[1].amount = 1000;
        p[0].amount = 4096 * MIB;
        refused(server_assign_check(&s, A, B, p, 2, &err), REASON_UNREASSIGNABLE,
                "the last memory that a has");
        p[0].amount = 1024 * MIB + 1;
        refused(server_assign_check(&s, A, B, p, 2, &err), REASON_INVALID, "whole MiB");
        p[0].amount = 1024 * MIB;
        struct server_giving g = {.component = NODE0, .from = A, .to = B, .amount = MIB};
        g_assert_cmpint(server_give_begin(&s, &g, &err), ==, 0);
        refused(server_assign_check(&s, A, B, p, 2, &err), REASON_BUSY, "is on its way");
        refused(server_assign_check(&s, B, A, p, 2, &err), REASON_BUSY, "is on its way");
        /* Between two others it is no matter. */
        int c = server_add(&s, "c", &err), d = server_add(&s, "d", &err);
        refused(server_assign_check(&s, c, d, p, 2, &err), REASON_NO_CAPACITY, "c has 0 of");
        refused(server_assign_check(&s, c, A, p, 2, &err), REASON_BUSY, "is on its way");
        server_give_undo(&s);
        s.epoch = 1;
        g_assert_cmpint(server_assign_check(&s, A, B, p, 2, &err), ==, 0);
        g_assert_cmpint(server_assign_check(&s, A, B, NULL, 0, &err), ==, 0);
        /* What others take along is not there any more; of what is less than that, nothing is. */
        struct server rest = s;
        rest.shares = g_memdup2(s.shares, s.n_components * SERVER_HYPERVISORS_MAX * sizeof(*s.shares));
        server_set_aside(&rest, A, p, 2);
        refused(server_assign_check(&rest, A, B, p, 2, &err), REASON_NO_CAPACITY, "a has 0 of cpu:1");
        g_assert_cmpint(server_assign_check(&rest, A, B, p, 1, &err), ==, 0);
        for (int i = 0; i < 9; i++)
                server_set_aside(&rest, A, p, 1);
        g_assert_cmpint(server_share(&rest, NODE0, A)->amount, ==, 0);
        g_free(rest.shares);
        server_assign(&s, A, B, p, 2);
        /* What came to where it is kept could not go back. */
        g_assert_cmpint(server_keep(&s, B, NODE0, &err), ==, 0);
        refused(server_assign_check(&s, A, B, p, 1, &err), REASON_UNREASSIGNABLE,
                "memory:node0 is kept by b");
        s.shares[(size_t)NODE0 * SERVER_HYPERVISORS_MAX + B].is_kept = false;
        g_assert_cmpint(server_assign_check(&s, A, B, p, 1, &err), ==, 0);
        g_assert_true(server_is_sound(&s));
        g_assert_cmpint(s.epoch, ==, 2);
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 3072 * MIB);
        g_assert_cmpint(server_share(&s, NODE0, B)->amount, ==, 1024 * MIB);
        g_assert_cmpint(server_share(&s, 1, A)->amount, ==, 0);
        g_assert_cmpint(server_share(&s, 1, B)->amount, ==, 1000);
        server_assign(&s, B, A, p, 2);
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 4096 * MIB);
        g_assert_cmpint(server_share(&s, 1, B)->amount, ==, 0);
        /* A machine that has lost memory since. */
        p[0].amount = 8192 * MIB;
        server_assign(&s, A, B, p, 1);
        g_assert_true(server_is_sound(&s));
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 0);
        g_assert_cmpint(server_share(&s, NODE0, B)->amount, ==, 4096 * MIB);
        server_done(&s);
}

static void test_give(void)
{
        struct server s;
        struct server_giving g = {.component = 1, .from = A, .to = B, .amount = 1000};
        setup(&s);
        g_assert_cmpint(server_take_node(&s, A, 0, true, &err), ==, 0);
        g_assert_cmpint(server_take_node(&s, B, 1, true, &err), ==, 0);
        refused(server_keep(&s, A, 4, &err), REASON_NOT_FOUND, "nothing of cpu:4");
        g_assert_cmpint(server_keep(&s, A, 3, &err), ==, 0);
        s.epoch = 1;
        g.component = 3;
        refused(server_give_begin(&s, &g, &err), REASON_UNREASSIGNABLE, "cpu:3 is kept by a");
        g.component = 4;
        refused(server_give_begin(&s, &g, &err), REASON_NO_CAPACITY, "a has 0 of cpu:4");
        g.component = 1;
        g.to = A;
        refused(server_give_begin(&s, &g, &err), REASON_INVALID, "has it already");
        g.to = B;
        g.component = NODE0;
        g.amount = 4096 * MIB;
        refused(server_give_begin(&s, &g, &err), REASON_INVALID, "the last memory");
        g_assert_cmpint(s.epoch, ==, 1);
        g.amount = 1024 * MIB;
        g_assert_cmpint(server_give_begin(&s, &g, &err), ==, 0);
        refused(server_give_begin(&s, &g, &err), REASON_BUSY, "memory:node0 is on its way from a to b");
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 3072 * MIB);
        g_assert_cmpint(server_share(&s, NODE0, B)->amount, ==, 0); /* nobody has it */
        g_assert_cmpint(server_nobodys(&s, NODE0), ==, 0);          /* and nobody else gets it */
        server_give_undo(&s);
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, 4096 * MIB);
        g_assert_cmpint(server_give_begin(&s, &g, &err), ==, 0);
        server_give_end(&s);
        g_assert_cmpint(server_share(&s, NODE0, B)->amount, ==, 1024 * MIB);
        g_assert_cmpint(s.giving.amount, ==, 0);
        g_assert_cmpint(s.epoch, ==, 5);
        server_done(&s);
}

/* What somebody wrote into the journal is not believed. */
/* What nothing claims goes piece by piece; what is kept, the last CPU and the last MiB only with its end. */
static void test_retire(void)
{
        struct server s;
        struct server_giving g;
        int64_t most[N], given = 0;
        setup(&s);
        g_assert_cmpint(server_add(&s, "c", &err), ==, 2);
        g_assert_cmpint(server_take_node(&s, A, 0, true, &err), ==, 0);
        g_assert_cmpint(server_take(&s, B, 4, 1000, &err), ==, 0);
        g_assert_cmpint(server_take(&s, B, NODE1, 100 * MIB, &err), ==, 0);
        g_assert_cmpint(server_keep(&s, A, 1, &err), ==, 0);
        memset(most, 0, sizeof(most));
        g_assert_false(server_next_gift(&s, A, 2, most, &g));
        most[2] = 500; /* part of a CPU is claimed */
        most[3] = 1000;
        most[NODE0] = 10 * MIB + 5;
        g_assert_true(server_next_gift(&s, A, 2, most, &g));
        g_assert_true(g.component == 3 && g.from == A && g.to == 2 && g.amount == 1000);
        most[3] = 0;
        g_assert_true(server_next_gift(&s, A, 2, most, &g));
        g_assert_true(g.component == NODE0 && g.amount == 10 * MIB);
        most[NODE0] = 0;
        g_assert_false(server_next_gift(&s, A, 2, most, &g));
        for (size_t i = 0; i < N; i++)
                most[i] = INT64_MAX;
        for (; server_next_gift(&s, A, 2, most, &g); given++) {
                g_assert_cmpint(server_give_begin(&s, &g, &err), ==, 0);
                server_give_end(&s);
        }
        g_assert_cmpint(given, ==, 4); /* CPUs 0, 2 and 3; memory */
        g_assert_cmpint(server_share(&s, 1, A)->amount, ==, 1000);
        g_assert_cmpint(server_share(&s, NODE0, A)->amount, ==, MIB);
        g_assert_cmpint(server_share(&s, NODE0, 2)->amount, ==, 4095 * MIB);
        g_assert_false(server_is_empty(&s, A));
        int64_t epoch = s.epoch;
        server_retire(&s, A, 2);
        g_assert_true(server_is_empty(&s, A) && server_is_sound(&s));
        g_assert_cmpint(s.epoch, ==, epoch + 1);
        g_assert_true(server_share(&s, 1, 2)->is_kept && !server_share(&s, NODE0, 2)->is_kept);
        g_assert_cmpint(server_sum(&s, 2, COMPONENT_CPU), ==, 4000);
        g_assert_cmpint(server_sum(&s, 2, COMPONENT_MEMORY), ==, 4096 * MIB);
        g_assert_cmpint(server_sum(&s, B, COMPONENT_MEMORY), ==, 100 * MIB);
        server_done(&s);
}

static void test_unsound(void)
{
        struct server s;
        setup(&s);
        g_assert_true(server_is_sound(&s));
        s.shares[A].amount = s.shares[B].amount = 1000;
        g_assert_false(server_is_sound(&s));
        s.shares[B].amount = 0;
        s.shares[B].is_kept = true;
        g_assert_false(server_is_sound(&s));
        s.shares[B].is_kept = false;
        s.giving = (struct server_giving){.component = N, .to = B, .amount = 1000};
        g_assert_false(server_is_sound(&s));
        s.giving = (struct server_giving){.component = 0, .to = B, .amount = 1000};
        g_assert_false(server_is_sound(&s)); /* a has it still */
        s.giving.component = 1;
        g_assert_true(server_is_sound(&s));
        server_done(&s);
}

/* Whatever is tried in whatever order: sound after each, the sum the same, the epoch never lower, and what is
 * refused has changed nothing. */
static void test_random(void)
{
        GRand *r = g_rand_new_with_seed((guint32)g_test_rand_int());
        for (int round = 0; round < 200; round++) {
                struct server s;
                setup(&s);
                int n = 2 + g_rand_int_range(r, 0, 3);
                while (s.n < n)
                        (void)server_add(&s, s.n == 2 ? "c" : s.n == 3 ? "d" : "e", &err);
                int64_t all[N];
                for (uint32_t i = 0; i < N; i++)
                        all[i] = server_nobodys(&s, i);
                for (int step = 0; step < 200; step++) {
                        size_t size = (size_t)N * SERVER_HYPERVISORS_MAX * sizeof(*s.shares);
                        g_autofree struct server_share *before = g_memdup2(s.shares, size);
                        int64_t epoch = s.epoch;
                        int h = g_rand_int_range(r, 0, n), bad = 0;
                        uint32_t c = (uint32_t)g_rand_int_range(r, 0, N);
                        int64_t amount =
                                g_rand_int_range(r, 0, 2) ? 1000 : g_rand_int_range(r, 0, 3000) * MIB;
                        struct server_giving g = {c, h, g_rand_int_range(r, 0, n), amount};
                        switch (g_rand_int_range(r, 0, 7)) {
                        case 0:
                                bad = server_take(&s, h, c, amount, &err);
                                break;
                        case 1:
                                bad = server_take_node(&s, h, (uint32_t)g_rand_int_range(r, 0, 3),
                                                       g_rand_boolean(r), &err);
                                break;
                        case 2:
                                bad = server_take_memory(&s, h, amount, &err);
                                break;
                        case 3:
                                bad = g_rand_int_range(r, 0, 20) ? 0 : server_keep(&s, h, c, &err);
                                break;
                        case 4:
                        case 5:
                                bad = server_give_begin(&s, &g, &err);
                                break;
                        default:
                                if (s.giving.amount > 0 && g_rand_boolean(r))
                                        server_give_end(&s);
                                else if (s.giving.amount > 0)
                                        server_give_undo(&s);
                                break;
                        }
                        g_assert_true(server_is_sound(&s));
                        g_assert_cmpint(s.epoch, >=, epoch);
                        if (bad)
                                g_assert_cmpmem(s.shares, size, before, size);
                        for (uint32_t i = 0; i < N; i++) {
                                int64_t sum = server_nobodys(&s, i);
                                for (int k = 0; k < n; k++)
                                        sum += server_share(&s, i, k)->amount;
                                sum += s.giving.amount && s.giving.component == i ? s.giving.amount : 0;
                                g_assert_cmpint(sum, ==, all[i]);
                        }
                        for (uint32_t i = 0; i < CPUS; i++) {
                                int owners = 0;
                                for (int k = 0; k < n; k++)
                                        owners += server_share(&s, i, k)->amount > 0;
                                g_assert_cmpint(owners, <=, 1);
                        }
                }
                server_done(&s);
        }
        g_rand_free(r);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/server/names", test_names);
        g_test_add_func("/server/nodes", test_nodes);
        g_test_add_func("/server/overlap", test_overlap);
        g_test_add_func("/server/memory", test_memory);
        g_test_add_func("/server/give", test_give);
        g_test_add_func("/server/assign", test_assign);
        g_test_add_func("/server/retire", test_retire);
        g_test_add_func("/server/unsound", test_unsound);
        g_test_add_func("/server/random", test_random);
        return g_test_run();
}

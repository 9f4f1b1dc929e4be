/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vacate.h"

#include <glib.h>
#include <stdlib.h>

static uint32_t rank[VACATE_VMS_MAX];

#define CHECK(n_vms, n_cpus, room, ...)                                                                      \
        vacate_check((const struct vacate_claim[]){__VA_ARGS__},                                             \
                     sizeof((const struct vacate_claim[]){__VA_ARGS__}) / sizeof(struct vacate_claim),       \
                     (n_vms), (n_cpus), (room), rank)

static void test_alone(void)
{
        /* Each on a CPU of its own: one follows the other. The last CPU does not: there is room for both
         * before. */
        g_assert_true(CHECK(2, 2, 1000, {0, 0, 1000}, {1, 1, 1000}) == SIZE_MAX);
        g_assert_true(CHECK(2, 2, 999, {0, 0, 1000}, {1, 1, 1000}) == 0);
        /* What is of a time to come is not needed now, and keeps its CPU there. */
        g_assert_true(CHECK(2, 3, 1000, {0, 0, 1000}, {1, 1, 1000}, {1, 0, 0}) == SIZE_MAX);
        g_assert_true(vacate_check(NULL, 0, 0, 1, 0, rank) == SIZE_MAX);
}

static void test_shared(void)
{
        /* Each finds room alone; the second does not any more, and nothing is free before it left. */
        g_assert_true(CHECK(2, 2, 1000, {0, 0, 500}, {0, 1, 500}, {1, 0, 500}, {1, 1, 500}) == 1);
        g_assert_true(CHECK(2, 2, 2000, {0, 0, 500}, {0, 1, 500}, {1, 0, 500}, {1, 1, 500}) == SIZE_MAX);
        /* A CPU that is free already follows at once. */
        g_assert_true(CHECK(2, 3, 1000, {0, 0, 500}, {0, 1, 500}, {1, 0, 500}, {1, 1, 500}) == SIZE_MAX);
        /* But for the last, whoever has it. */
        g_assert_true(CHECK(1, 1, 500, {0, 0, 600}) == 0);
        /* Somebody who stays keeps it there. */
        g_assert_true(CHECK(2, 3, 1000, {0, 0, 1000}, {1, 1, 1000}, {VACATE_STAYS, 0, 100},
                            {VACATE_STAYS, 1, 100}, {VACATE_STAYS, 2, 100}) != SIZE_MAX);
}

/* The one that frees a CPU goes first; the other first would find no way on. */
static void test_order(void)
{
        g_assert_true(CHECK(3, 3, 1000, {0, 0, 600}, {1, 1, 900}, {2, 0, 300}, {2, 2, 300}) == SIZE_MAX);
        g_assert_true(rank[2] == 1 && rank[0] == 2 && rank[1] == 3);
        /* Those that have room at once are of one rank; what is free already is for them as well. */
        g_assert_true(CHECK(3, 3, 800, {0, 0, 600}, {1, 0, 200}, {2, 1, 900}) == SIZE_MAX);
        g_assert_true(rank[0] == 1 && rank[1] == 1 && rank[2] == 1);
        g_assert_true(CHECK(3, 2, 800, {0, 0, 600}, {1, 0, 200}, {2, 1, 900}) == SIZE_MAX);
        g_assert_true(rank[0] == 1 && rank[1] == 1 && rank[2] == 2);
        /* Nothing is said where there is none. */
        g_assert_true(CHECK(1, 1, 0, {0, 0, 1}) == 0 && rank[0] == 1);
        /* Several claims of one VM on one CPU are one VM's. */
        g_assert_true(CHECK(2, 2, 1000, {0, 0, 300}, {0, 0, 300}, {0, 0, 400}, {1, 1, 1000}) == SIZE_MAX);
        /* Of those that are left it is the least that is named. */
        g_assert_true(CHECK(3, 1, 100, {0, 0, 300}, {1, 0, 200}, {2, 0, 300}) == 1);
}

static int by_vm(const void *a, const void *b)
{
        return (int)((const struct vacate_claim *)a)->vm - (int)((const struct vacate_claim *)b)->vm;
}

/* No order is found that there is not: played through, one VM and one CPU at a time. */
static bool is_any(const struct vacate_claim *c, size_t n, unsigned gone, unsigned n_vms, unsigned lent,
                   unsigned n_cpus, int64_t room)
{
        for (unsigned cpu = 0; cpu < n_cpus; cpu++) {
                bool is_claimed = lent & 1U << cpu;
                unsigned left = n_cpus - (unsigned)__builtin_popcount(lent);
                for (size_t i = 0; i < n; i++)
                        is_claimed = is_claimed || (c[i].cpu == cpu && !(gone & 1U << c[i].vm));
                if (!is_claimed && left > 1)
                        return is_any(c, n, gone, n_vms, lent | 1U << cpu, n_cpus, room + 1000);
        }
        if (gone == (1U << n_vms) - 1)
                return true;
        for (unsigned vm = 0; vm < n_vms; vm++) {
                int64_t need = 0;
                for (size_t i = 0; i < n; i++)
                        need += c[i].vm == vm ? c[i].milli : 0;
                if (!(gone & 1U << vm) && need <= room &&
                    is_any(c, n, gone | 1U << vm, n_vms, lent, n_cpus, room - need))
                        return true;
        }
        return false;
}

/* Whoever of a rank goes first: all of it have room once those before it have left, and what that freed has
 * followed. */
static void check_ranks(const struct vacate_claim *c, size_t n, unsigned n_vms, unsigned n_cpus, int64_t room)
{
        unsigned lent = 0, gone = 0;
        for (uint32_t r = 1; gone != (1U << n_vms) - 1; r++) {
                unsigned now = 0;
                int64_t need = 0;
                for (unsigned cpu = 0; cpu < n_cpus; cpu++) {
                        bool is_free = !(lent & 1U << cpu);
                        for (size_t i = 0; i < n; i++)
                                is_free = is_free && (c[i].cpu != cpu || gone & 1U << c[i].vm);
                        if (!is_free || n_cpus - (unsigned)__builtin_popcount(lent) == 1)
                                continue;
                        lent |= 1U << cpu;
                        room += 1000;
                }
                for (unsigned vm = 0; vm < n_vms; vm++)
                        now |= rank[vm] == r ? 1U << vm : 0;
                for (size_t i = 0; i < n; i++)
                        need += now & 1U << c[i].vm ? c[i].milli : 0;
                g_assert_true(now && need <= room);
                room -= need;
                gone |= now;
        }
}

static void test_random(void)
{
        unsigned found = 0, none = 0, missed = 0;
        for (int round = 0; round < 3000; round++) {
                struct vacate_claim claims[12];
                unsigned n_vms = (unsigned)g_test_rand_int_range(1, 6),
                         n_cpus = (unsigned)g_test_rand_int_range(1, 6);
                size_t n = (size_t)g_test_rand_int_range(1, 13);
                int64_t room = g_test_rand_int_range(0, 3) * 1000;
                for (size_t i = 0; i < n; i++)
                        claims[i] =
                                (struct vacate_claim){.vm = (uint32_t)g_test_rand_int_range(0, (int)n_vms),
                                                      .cpu = (uint32_t)g_test_rand_int_range(0, (int)n_cpus),
                                                      .milli = g_test_rand_int_range(0, 11) * 100};
                qsort(claims, n, sizeof(claims[0]), by_vm);
                bool can = is_any(claims, n, 0, n_vms, 0, n_cpus, room);
                bool is_found = vacate_check(claims, n, n_vms, n_cpus, room, rank) == SIZE_MAX;
                g_assert_true(can || !is_found);
                if (is_found)
                        check_ranks(claims, n, n_vms, n_cpus, room);
                found += is_found;
                none += !can;
                missed += can && !is_found;
        }
        g_test_message("%u found, %u there are not, %u missed", found, none, missed);
        g_assert_true(found > 300 && none > 100 && missed < found / 10);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/vacate/alone", test_alone);
        g_test_add_func("/vacate/shared", test_shared);
        g_test_add_func("/vacate/order", test_order);
        g_test_add_func("/vacate/random", test_random);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* How a host is emptied: what holds of every plan, over random VMs and hosts; and that what is said to be
 * impossible is, held against trying everything. */
#include <glib.h>
#include <string.h>

#include "core/drain.h"

enum { ROUNDS = 3000 };

static bool any_way(const struct drain_item *items, size_t n, size_t at, struct drain_room *rooms,
                    size_t n_rooms)
{
        if (at == n)
                return true;
        for (size_t r = 0; r < n_rooms; r++) {
                if (!(items[at].may >> r & 1) || items[at].memory_bytes > rooms[r].memory_bytes ||
                    items[at].cpu_milli > rooms[r].cpu_milli)
                        continue;
                rooms[r].memory_bytes -= items[at].memory_bytes;
                rooms[r].cpu_milli -= items[at].cpu_milli;
                bool is_good = any_way(items, n, at + 1, rooms, n_rooms);
                rooms[r].memory_bytes += items[at].memory_bytes;
                rooms[r].cpu_milli += items[at].cpu_milli;
                if (is_good)
                        return true;
        }
        return false;
}

static void test_assign(void)
{
        GRand *rand = g_rand_new_with_seed(7);
        int n_all = 0, n_some = 0;
        for (int round = 0; round < ROUNDS; round++) {
                struct drain_item items[7] = {0};
                struct drain_room rooms[4], left[4];
                size_t n = (size_t)g_rand_int_range(rand, 0, 8),
                       n_rooms = (size_t)g_rand_int_range(rand, 0, 5);
                for (size_t i = 0; i < n_rooms; i++)
                        rooms[i] = (struct drain_room){g_rand_int_range(rand, 0, 12),
                                                       g_rand_int_range(rand, 0, 12)};
                for (size_t i = 0; i < n; i++)
                        items[i] = (struct drain_item){.vm = i,
                                                       .memory_bytes = g_rand_int_range(rand, 1, 7),
                                                       .cpu_milli = g_rand_int_range(rand, 0, 5),
                                                       .may = g_rand_int(rand)};
                memcpy(left, rooms, sizeof(rooms));
                bool is_possible = any_way(items, n, 0, left, n_rooms);
                bool is_all = drain_assign(items, n, rooms, n_rooms);
                g_assert_true(is_all == is_possible);
                n_all += is_all;
                n_some += !is_all;
                uint64_t seen = 0;
                for (size_t i = 0; i < n; i++) {
                        seen |= UINT64_C(1) << items[i].vm;
                        g_assert_true((items[i].room < 0) == (items[i].limit != DRAIN_FITS));
                        g_assert_true(items[i].room >= 0 || !is_all);
                        if (items[i].room < 0)
                                continue;
                        g_assert_cmpint(items[i].room, <, n_rooms);
                        g_assert_true(items[i].may >> items[i].room & 1);
                        rooms[items[i].room].memory_bytes -= items[i].memory_bytes;
                        rooms[items[i].room].cpu_milli -= items[i].cpu_milli;
                }
                g_assert_cmpuint(seen, ==, (UINT64_C(1) << n) - 1); /* none is lost, none is there twice */
                for (size_t i = 0; i < n_rooms; i++)
                        g_assert_true(rooms[i].memory_bytes >= 0 && rooms[i].cpu_milli >= 0);
        }
        g_assert_cmpint(n_all, >, ROUNDS / 10);
        g_assert_cmpint(n_some, >, ROUNDS / 10);
        g_rand_free(rand);
}

static void test_limits(void)
{
        const struct drain_room room = {.memory_bytes = 100, .cpu_milli = 10};
        struct drain_item i = {.memory_bytes = 101, .cpu_milli = 1, .may = 1};
        g_assert_false(drain_assign(&i, 1, &room, 1));
        g_assert_cmpint(i.limit, ==, DRAIN_MEMORY);
        i = (struct drain_item){.memory_bytes = 100, .cpu_milli = 11, .may = 1};
        g_assert_false(drain_assign(&i, 1, &room, 1));
        g_assert_cmpint(i.limit, ==, DRAIN_CPU);
        i = (struct drain_item){.memory_bytes = 1, .may = 2};
        g_assert_false(drain_assign(&i, 1, &room, 1));
        g_assert_cmpint(i.limit, ==, DRAIN_NOWHERE);
        g_assert_true(drain_assign(&i, 0, &room, 1));
}

/* As many as there may be, for which there is no way that is easily found: it ends. */
static void test_search_is_bounded(void)
{
        struct drain_item *items = g_new0(struct drain_item, DRAIN_VMS_MAX);
        struct drain_room rooms[DRAIN_ROOMS_MAX];
        for (size_t i = 0; i < DRAIN_ROOMS_MAX; i++)
                rooms[i] = (struct drain_room){.memory_bytes = 1000, .cpu_milli = 1000};
        for (size_t i = 0; i < DRAIN_VMS_MAX; i++)
                items[i] =
                        (struct drain_item){.vm = i, .memory_bytes = 251, .cpu_milli = 1, .may = UINT64_MAX};
        g_assert_false(drain_assign(items, DRAIN_VMS_MAX, rooms, DRAIN_ROOMS_MAX));
        size_t n = 0;
        for (size_t i = 0; i < DRAIN_VMS_MAX; i++)
                n += items[i].room >= 0;
        g_assert_cmpuint(n, ==, 3 * DRAIN_ROOMS_MAX);
        g_free(items);
}

static void test_schedule(void)
{
        struct drain_item items[3] = {
                {.vm = 0, .predicted_ms = 30},
                {.vm = 1, .predicted_ms = 10},
                {.vm = 2, .predicted_ms = 20}
        };
        int64_t total = 0;
        g_assert_true(drain_schedule(items, 3, 60, &total));
        g_assert_cmpint(total, ==, 60);
        g_assert_cmpuint(items[0].vm, ==, 1);
        g_assert_cmpint(items[1].ends_ms, ==, 30);
        g_assert_cmpuint(items[2].vm, ==, 0);
        g_assert_cmpint(items[2].ends_ms, ==, 60);
        g_assert_false(drain_schedule(items, 3, 59, &total));
        /* A host may say anything of what a move takes. */
        struct drain_item lies[DRAIN_VMS_MAX];
        for (size_t i = 0; i < DRAIN_VMS_MAX; i++)
                lies[i] = (struct drain_item){.vm = i, .predicted_ms = i == 0 ? INT64_MIN : INT64_MAX};
        g_assert_false(drain_schedule(lies, DRAIN_VMS_MAX, 59, &total));
        g_assert_cmpint(total, ==, DRAIN_MS_MAX);
        g_assert_cmpint(lies[0].ends_ms, ==, 0);
        g_assert_true(drain_schedule(items, 0, 0, &total));
        g_assert_cmpint(total, ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/drain/assign", test_assign);
        g_test_add_func("/drain/limits", test_limits);
        g_test_add_func("/drain/search-is-bounded", test_search_is_bounded);
        g_test_add_func("/drain/schedule", test_schedule);
        return g_test_run();
}

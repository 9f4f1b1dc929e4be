/* SPDX-License-Identifier: Apache-2.0 */
#include "core/separate.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

#define MIB INT64_C(1048576)
enum { UNITS = 8, HAS = 12, VMS = 6 };

static struct separate_verdict verdicts[HAS];
static struct separate_step steps[HAS + UNITS];
static size_t n_steps;
static struct err err;

/* Two nodes, small pages on both and huge ones on one; a CPU each, and a device. */
static const struct separate_unit server[] = {
        {COMPONENT_MEMORY, 0, 4096,    true,  900 * MIB},
        {COMPONENT_MEMORY, 1, 4096,    false, 300 * MIB},
        {COMPONENT_MEMORY, 1, 2 * MIB, false, 64 * MIB },
        {COMPONENT_CPU,    0, 0,       false, 0        },
        {COMPONENT_CPU,    1, 0,       false, 500      },
        {COMPONENT_DEVICE, 0, 0,       true,  1        },
};

static int plan(const struct separate_has *has, size_t n)
{
        return separate_plan(server, G_N_ELEMENTS(server), has, n, verdicts, steps, &n_steps, &err);
}

/* Nothing is moved that need not be. */
static void test_free(void)
{
        const struct separate_has has[] = {
                {1, 256 * MIB, false},
                {2, 64 * MIB,  false},
                {3, 1000,      false}
        };
        g_assert_cmpint(plan(has, 3), ==, 0);
        g_assert_cmpuint(n_steps, ==, 0);
        for (int i = 0; i < 3; i++)
                g_assert_cmpint(verdicts[i].portion, ==, PORTION_REASSIGNABLE);
}

static void test_kept(void)
{
        const struct separate_has has[] = {
                {1, 256 * MIB, false},
                {0, 200 * MIB, false}
        };
        g_assert_cmpint(plan(has, 2), ==, 0);
        g_assert_cmpuint(n_steps, ==, 1);
        g_assert_cmpint(steps[0].from, ==, 0);
        g_assert_cmpint(steps[0].to, ==, 1);
        g_assert_cmpint(steps[0].amount, ==, 200 * MIB);
        g_assert_cmpint(verdicts[0].portion, ==, PORTION_REASSIGNABLE);
        g_assert_cmpint(verdicts[1].portion, ==, PORTION_SEPARABLE);
        g_assert_cmpint(verdicts[1].why, ==, PORTION_WHY_KEPT);
        g_assert_cmpint(verdicts[1].moved, ==, 200 * MIB);
}

static void test_no_room(void)
{
        const struct separate_has has[] = {
                {0, 301 * MIB, false}
        };
        g_assert_cmpint(plan(has, 1), ==, -ENOSPC);
        g_assert_cmpuint(n_steps, ==, 0);
        g_assert_cmpint(verdicts[0].portion, ==, PORTION_UNREASSIGNABLE);
        g_assert_cmpint(verdicts[0].stuck, ==, MIB);
        g_assert_cmpint(err.reason, ==, REASON_UNREASSIGNABLE);
        g_assert_nonnull(strstr(err.sentence, "memory on node 0"));
}

/* Shared pages become pages of its own, beside the others if need be; a shared CPU is another's. */
static void test_shared(void)
{
        const struct separate_has pages[] = {
                {1, 100 * MIB, true}
        };
        g_assert_cmpint(plan(pages, 1), ==, 0);
        g_assert_cmpint(steps[0].to, ==, 1);
        g_assert_cmpint(verdicts[0].why, ==, PORTION_WHY_SHARED);
        const struct separate_has cpus[] = {
                {3, 400, true}
        };
        g_assert_cmpint(plan(cpus, 1), ==, 0);
        g_assert_cmpint(steps[0].to, ==, 4);
        const struct separate_has stuck[] = {
                {4, 400, true}
        };
        g_assert_cmpint(plan(stuck, 1), ==, -ENOSPC);
}

static void test_device(void)
{
        const struct separate_has has[] = {
                {5, 1, false}
        };
        g_assert_cmpint(plan(has, 1), ==, -ENOSPC);
        g_assert_cmpint(verdicts[0].portion, ==, PORTION_UNREASSIGNABLE);
        g_assert_cmpstr(portion_name(verdicts[0].portion), ==, "unreassignable");
}

/* A file has one place: what would fit in two does not, and the larger is placed before the smaller. */
static void test_whole(void)
{
        const struct separate_unit nodes[] = {
                {COMPONENT_MEMORY, 0, 0, true,  0        },
                {COMPONENT_MEMORY, 1, 0, false, 300 * MIB},
                {COMPONENT_MEMORY, 2, 0, false, 200 * MIB},
        };
        const struct separate_has two[] = {
                {0, 200 * MIB, .is_whole = true},
                {0, 300 * MIB, .is_whole = true}
        };
        g_assert_cmpint(separate_plan(nodes, 3, two, 2, verdicts, steps, &n_steps, &err), ==, 0);
        g_assert_cmpuint(n_steps, ==, 2);
        for (size_t k = 0; k < 2; k++)
                g_assert_cmpint(steps[k].to, ==, steps[k].has == 1 ? 1 : 2);
        const struct separate_has one[] = {
                {0, 301 * MIB, .is_whole = true}
        };
        g_assert_cmpint(separate_plan(nodes, 3, one, 1, verdicts, steps, &n_steps, &err), ==, -ENOSPC);
        g_assert_cmpint(verdicts[0].stuck, ==, 301 * MIB);
        g_assert_cmpint(verdicts[0].moved, ==, 0);
}

/* There is room, but it stays all the same. What is fixed where it may leave is nobody's trouble. */
static void test_fixed(void)
{
        const struct separate_has has[] = {
                {1,                 100 * MIB, .is_fixed = true},
                {0,                 100 * MIB,                          .is_fixed = true},
                {0, 100 * MIB}
        };
        g_assert_cmpint(plan(has, 1), ==, 0);
        g_assert_cmpint(plan(has, 3), ==, -ENOSPC);
        g_assert_cmpuint(n_steps, ==, 0);
        g_assert_cmpint(verdicts[0].portion, ==, PORTION_REASSIGNABLE);
        g_assert_cmpint(verdicts[1].portion, ==, PORTION_UNREASSIGNABLE);
        g_assert_cmpint(verdicts[2].portion, ==, PORTION_SEPARABLE);
        g_assert_nonnull(strstr(err.sentence, "huge pages"));
}

/* ---- properties */

struct sums {
        int64_t needed, room;
};

/* By the definition: what must be moved of a class, and what there is for it. */
static struct sums class_sums(const struct separate_unit *units, size_t n_units,
                              const struct separate_has *has, size_t n_has, const struct separate_unit *of)
{
        struct sums s = {0, 0};
        for (size_t u = 0; u < n_units; u++) {
                bool is_shared_cpu = false;
                if (units[u].kind != of->kind || units[u].page_bytes != of->page_bytes)
                        continue;
                for (size_t i = 0; i < n_has; i++)
                        is_shared_cpu = is_shared_cpu || (has[i].unit == u && has[i].is_shared &&
                                                          units[u].kind != COMPONENT_MEMORY);
                bool stays = units[u].is_kept || is_shared_cpu;
                for (size_t i = 0; i < n_has; i++)
                        if (has[i].unit == u && (stays || has[i].is_shared))
                                s.needed += has[i].amount;
                if (!stays)
                        s.room += units[u].page_bytes
                                          ? units[u].free / units[u].page_bytes * units[u].page_bytes
                                          : units[u].free;
        }
        return s;
}

static void check_plan(const struct separate_unit *units, size_t n_units, const struct separate_has *has,
                       size_t n_has, int r)
{
        int64_t into[UNITS] = {0};
        bool fits = true;
        for (size_t u = 0; u < n_units; u++) {
                struct sums s = class_sums(units, n_units, has, n_has, &units[u]);
                fits = fits && s.needed <= s.room;
        }
        g_assert_cmpint(r, ==, fits ? 0 : -ENOSPC);
        for (size_t i = 0; i < n_has; i++) {
                int64_t moved = 0;
                for (size_t k = 0; k < n_steps; k++)
                        moved += steps[k].has == i ? steps[k].amount : 0;
                if (verdicts[i].portion == PORTION_REASSIGNABLE)
                        g_assert_true(!units[has[i].unit].is_kept && !has[i].is_shared && moved == 0);
                else
                        g_assert_cmpint(verdicts[i].moved + verdicts[i].stuck, ==, has[i].amount);
                if (fits && verdicts[i].portion == PORTION_SEPARABLE)
                        g_assert_cmpint(moved, ==, has[i].amount);
                g_assert_true(!fits || verdicts[i].portion != PORTION_UNREASSIGNABLE);
        }
        for (size_t k = 0; k < n_steps; k++) {
                const struct separate_unit *from = &units[steps[k].from], *to = &units[steps[k].to];
                g_assert_cmpint(steps[k].amount, >, 0);
                g_assert_cmpuint(steps[k].from, ==, has[steps[k].has].unit);
                g_assert_true(!to->is_kept && to->kind == from->kind && to->page_bytes == from->page_bytes);
                into[steps[k].to] += steps[k].amount;
        }
        for (size_t u = 0; u < n_units; u++)
                g_assert_cmpint(into[u], <=, units[u].free);
}

static void test_any(void)
{
        static const struct {
                enum component_kind kind;
                int64_t page_bytes;
        } classes[] = {
                {COMPONENT_MEMORY, 4096   },
                {COMPONENT_MEMORY, 2 * MIB},
                {COMPONENT_CPU,    0      }
        };
        int kept = 0, stuck = 0;
        for (int run = 0; run < 20000; run++) {
                struct separate_unit units[UNITS];
                struct separate_has has[HAS];
                size_t n_units = (size_t)g_test_rand_int_range(1, UNITS + 1),
                       n_has = (size_t)g_test_rand_int_range(0, HAS + 1);
                for (size_t u = 0; u < n_units; u++) {
                        int c = g_test_rand_int_range(0, 3);
                        int64_t page = classes[c].page_bytes ? classes[c].page_bytes : 1;
                        units[u] = (struct separate_unit){.kind = classes[c].kind,
                                                          .node = (uint32_t)g_test_rand_int_range(0, 4),
                                                          .page_bytes = classes[c].page_bytes,
                                                          .is_kept = g_test_rand_int_range(0, 3) == 0,
                                                          .free = page * g_test_rand_int_range(0, 100) +
                                                                  g_test_rand_int_range(0, 2) * (page / 2)};
                }
                for (size_t i = 0; i < n_has; i++) {
                        uint32_t u = (uint32_t)g_test_rand_int_range(0, (gint32)n_units);
                        int64_t page = units[u].page_bytes ? units[u].page_bytes : 1;
                        has[i] = (struct separate_has){.unit = u,
                                                       .amount = page * g_test_rand_int_range(1, 60),
                                                       .is_shared = g_test_rand_int_range(0, 6) == 0};
                }
                int r = separate_plan(units, n_units, has, n_has, verdicts, steps, &n_steps, &err);
                check_plan(units, n_units, has, n_has, r);
                kept += r == 0 && n_steps > 0;
                stuck += r < 0;
        }
        g_assert_cmpint(kept, >, 500);
        g_assert_cmpint(stuck, >, 500);
}

/* Each VM is brought together as a whole or not touched; nothing is ever without room; and none is left that
 * would fit by itself. */
static void test_consolidate(void)
{
        int together = 0, left = 0;
        for (int run = 0; run < 20000; run++) {
                int64_t amounts[VMS * UNITS], before[VMS * UNITS], room[UNITS], first[UNITS];
                struct separate_step moves[VMS * UNITS];
                size_t n_units = (size_t)g_test_rand_int_range(1, UNITS + 1),
                       n_vms = (size_t)g_test_rand_int_range(0, VMS + 1), n = 0;
                int64_t limit = g_test_rand_int_range(0, 2) * g_test_rand_int_range(1, 200), spent = 0;
                for (size_t i = 0; i < n_vms * n_units; i++)
                        amounts[i] = g_test_rand_int_range(0, 3) ? 0 : g_test_rand_int_range(1, 50);
                for (size_t u = 0; u < n_units; u++)
                        room[u] = g_test_rand_int_range(0, 100);
                size_t most = g_test_rand_int_range(0, 2) ? SIZE_MAX : (size_t)g_test_rand_int_range(0, VMS);
                memcpy(before, amounts, sizeof(before));
                memcpy(first, room, sizeof(first));
                size_t scattered = consolidate_plan(amounts, n_vms, room, n_units, limit, most, moves, &n);
                for (size_t k = 0; k < n; k++) {
                        spent += moves[k].amount;
                        before[moves[k].has * n_units + moves[k].from] -= moves[k].amount;
                        before[moves[k].has * n_units + moves[k].to] += moves[k].amount;
                        first[moves[k].from] += moves[k].amount;
                        first[moves[k].to] -= moves[k].amount;
                        g_assert_cmpint(first[moves[k].to], >=, 0);
                        g_assert_cmpint(before[moves[k].has * n_units + moves[k].from], ==, 0);
                }
                g_assert_true(limit == 0 || spent <= limit);
                size_t count = 0, n_moved = 0;
                for (size_t v = 0; v < n_vms; v++) {
                        int64_t sum = 0;
                        size_t parts = 0;
                        bool is_touched = false;
                        for (size_t u = 0; u < n_units; u++) {
                                g_assert_cmpint(before[v * n_units + u], ==, amounts[v * n_units + u]);
                                sum += amounts[v * n_units + u];
                                parts += amounts[v * n_units + u] > 0;
                        }
                        for (size_t k = 0; k < n; k++)
                                is_touched = is_touched || moves[k].has == v;
                        g_assert_true(!is_touched || parts == 1);
                        n_moved += is_touched;
                        count += parts > 1;
                        for (size_t u = 0; parts > 1 && most == SIZE_MAX && u < n_units; u++) {
                                int64_t moved = sum - amounts[v * n_units + u];
                                g_assert_true(moved > room[u] || (limit > 0 && moved > limit - spent));
                        }
                }
                g_assert_cmpuint(count, ==, scattered);
                g_assert_cmpuint(n_moved, <=, most);
                together += n > 0;
                left += scattered > 0;
        }
        g_assert_cmpint(together, >, 500);
        g_assert_cmpint(left, >, 500);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/separate/free", test_free);
        g_test_add_func("/separate/kept", test_kept);
        g_test_add_func("/separate/no-room", test_no_room);
        g_test_add_func("/separate/shared", test_shared);
        g_test_add_func("/separate/device", test_device);
        g_test_add_func("/separate/whole", test_whole);
        g_test_add_func("/separate/fixed", test_fixed);
        g_test_add_func("/separate/any", test_any);
        g_test_add_func("/separate/consolidate", test_consolidate);
        return g_test_run();
}

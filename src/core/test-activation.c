/* SPDX-License-Identifier: Apache-2.0 */
/* The walk against a model of the two worlds: every step of the way up and of the way back is made to fail,
 * before and after it acted, and to be cut off by a crash; afterwards both worlds must be as they were. */
#include "core/activation.h"

#include <glib.h>
#include <string.h>

enum { ITEMS_MAX = 6 };

/* What the providers of the model hold, by item. */
struct side {
        bool prepared[ITEMS_MAX], host[ITEMS_MAX], virtual[ITEMS_MAX], bound[ITEMS_MAX];
        bool confirmed;
};

struct world {
        struct activation a;
        struct definition d[ITEMS_MAX];
        size_t n;
        struct side side;
        GString *log; /* "host 2;" */
        int steps;    /* that were carried out */
};

static void act(struct world *w)
{
        bool *set[PHASE_N] = {[PHASE_PREPARE] = w->side.prepared,
                              [PHASE_HOST] = w->side.host,
                              [PHASE_VIRTUAL] = w->side.virtual,
                              [PHASE_BIND] = w->side.bound};
        const struct definition *d = &w->d[w->a.item];
        size_t i = w->a.item;
        /* The orders that matter, checked where they are done. */
        if (!w->a.is_back) {
                if (w->a.phase == PHASE_HOST)
                        g_assert_true(!d->prepares || w->side.prepared[i]);
                if (w->a.phase == PHASE_VIRTUAL)
                        g_assert_true(w->side.host[i] && d->host_active);
                if (w->a.phase == PHASE_FINALISE)
                        g_assert_true(w->side.confirmed && !d->configured);
        } else {
                g_assert_false(d->configured);
                if (w->a.phase == PHASE_HOST)
                        g_assert_false(w->side.virtual[i]);
                if (w->a.phase == PHASE_VIRTUAL)
                        g_assert_false(w->side.bound[i]);
        }
        if (w->a.phase == PHASE_CONFIRM)
                w->side.confirmed = !w->a.is_back;
        else if (set[w->a.phase])
                set[w->a.phase][i] = !w->a.is_back;
        g_string_append_printf(w->log, "%s%s %d;", w->a.is_back ? "-" : "", phase_name(w->a.phase), (int)i);
        w->steps++;
}

static void world_new(struct world *w)
{
        /* clang-format off */
        static const struct definition list[] = {
                {.kind = VIRTUAL_VCPU, .slot = 3, .component = 1, .amount = 1000},
                {.kind = VIRTUAL_DIMM, .slot = 0, .component = 2, .amount = 1 << 20, .prepares = true},
                {.kind = VIRTUAL_VCPU, .slot = 2, .component = 0, .amount = 1000},
                {.kind = VIRTUAL_DIMM, .slot = 1, .component = 2, .amount = 1 << 20},
                {.kind = VIRTUAL_NONE, .slot = -1, .component = 5, .amount = 4},
        };
        /* clang-format on */
        *w = (struct world){.n = G_N_ELEMENTS(list), .log = g_string_new(NULL)};
        memcpy(w->d, list, sizeof(list));
        definitions_sort(w->d, w->n);
        g_assert_null(definitions_problem(w->d, w->n));
        activation_begin(&w->a);
}

static void world_done(struct world *w)
{
        g_string_free(w->log, TRUE);
}

static bool nothing_held(const struct world *w)
{
        static const struct side nothing;
        for (size_t i = 0; i < w->n; i++)
                if (w->d[i].host_active || w->d[i].active || w->d[i].configured || w->d[i].way)
                        return false;
        return memcmp(&w->side, &nothing, sizeof(nothing)) == 0;
}

static bool all_usable(const struct world *w)
{
        for (size_t i = 0; i < w->n; i++) {
                const struct definition *d = &w->d[i];
                bool virtual = d->kind != VIRTUAL_NONE;
                if (!d->host_active || !w->side.host[i] || d->active != virtual || d->configured != virtual ||
                    w->side.virtual[i] != virtual)
                        return false;
        }
        return w->side.confirmed;
}

/* How a step goes wrong. */
enum fault { FAULT_NONE, FAULT_BEFORE, FAULT_AFTER, FAULT_CRASH_BEFORE, FAULT_CRASH_AFTER, FAULT_N };

/* What a restart finds: the journal, and the definitions as they were last persisted. */
static void crash(struct world *w, const struct definition *persisted)
{
        char text[ACTIVATION_TEXT];
        activation_print(&w->a, text);
        memset(&w->a, 0xee, sizeof(w->a));
        g_assert_true(activation_parse(text, &w->a));
        memcpy(w->d, persisted, sizeof(w->d));
}

/* Goes on to the end; the step numbered `at` (from 1, over the life of the world) meets the fault, and once
 * only. */
static enum activation_next run(struct world *w, int at, enum fault fault, int *ret_steps)
{
        struct definition persisted[ITEMS_MAX];
        memcpy(persisted, w->d, sizeof(persisted));
        for (;;) {
                unsigned marked;
                enum activation_next next = activation_next(&w->a, w->d, w->n, &marked);
                if (marked)
                        memcpy(persisted, w->d, sizeof(persisted));
                if (next != ACTIVATION_STEP)
                        return next;
                ++*ret_steps;
                bool good = true;
                if (*ret_steps == at && fault == FAULT_CRASH_BEFORE) {
                        crash(w, persisted);
                } else if (*ret_steps == at && fault == FAULT_CRASH_AFTER) {
                        act(w);
                        crash(w, persisted);
                } else if (*ret_steps == at && fault != FAULT_NONE) {
                        good = false;
                }
                if (good || fault == FAULT_AFTER)
                        act(w);
                bool was_back = w->a.is_back;
                activation_report(&w->a, w->d, w->n, good);
                if (!good && was_back) /* held is persisted */
                        memcpy(persisted, w->d, sizeof(persisted));
        }
}

static void test_order(void)
{
        struct world w;
        int steps = 0;
        world_new(&w);
        g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_USABLE);
        g_assert_true(all_usable(&w));
        g_assert_cmpstr(
                w.log->str, ==,
                "prepare 1;host 0;host 1;host 2;host 3;host 4;virtual 1;virtual 2;virtual 3;virtual 4;"
                "bind 0;bind 3;bind 4;confirm 0;finalise 0;finalise 1;finalise 2;finalise 3;"
                "finalise 4;");
        g_string_truncate(w.log, 0);
        activation_turn(&w.a, w.d, w.n, false);
        g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_BACK);
        g_assert_true(nothing_held(&w));
        g_assert_cmpstr(w.log->str, ==,
                        "-confirm 0;-bind 4;-bind 3;-bind 0;-virtual 4;-virtual 3;-virtual 2;-virtual 1;"
                        "-host 4;-host 3;-host 2;-host 1;-host 0;-prepare 1;");
        world_done(&w);
}

/* Every step up with every fault: either all is usable (a crash is repeated) or nothing is left. */
static void test_fault_up(void)
{
        int cases = 0, total = 0;
        struct world w;
        world_new(&w);
        (void)run(&w, 0, FAULT_NONE, &total);
        world_done(&w);
        for (int at = 1; at <= total; at++) {
                for (enum fault f = FAULT_BEFORE; f < FAULT_N; f++, cases++) {
                        int steps = 0;
                        world_new(&w);
                        enum activation_next end = run(&w, at, f, &steps);
                        if (f == FAULT_CRASH_BEFORE || f == FAULT_CRASH_AFTER) {
                                g_assert_cmpint(end, ==, ACTIVATION_USABLE);
                                g_assert_true(all_usable(&w));
                        } else {
                                g_assert_cmpint(end, ==, ACTIVATION_BACK);
                                g_assert_true(nothing_held(&w));
                        }
                        world_done(&w);
                }
        }
        g_test_message("%d cases", cases);
        g_assert_cmpint(cases, ==, total * 4);
}

/* Every step back with every fault: what failed is held, and back after another try; all else is back. */
static void test_fault_back(void)
{
        int up = 0, total = 0;
        struct world w;
        world_new(&w);
        (void)run(&w, 0, FAULT_NONE, &up);
        activation_turn(&w.a, w.d, w.n, false);
        total = up;
        (void)run(&w, 0, FAULT_NONE, &total);
        world_done(&w);
        for (int at = up + 1; at <= total; at++) {
                for (enum fault f = FAULT_BEFORE; f < FAULT_N; f++) {
                        int steps = 0;
                        world_new(&w);
                        (void)run(&w, at, f, &steps);
                        activation_turn(&w.a, w.d, w.n, false);
                        enum activation_next end = run(&w, at, f, &steps);
                        bool is_failure = f == FAULT_BEFORE || f == FAULT_AFTER;
                        bool is_confirm = at == up + 1; /* asks the guest; without it the others go on */
                        if (is_failure && !is_confirm) {
                                g_assert_cmpint(end, ==, ACTIVATION_HELD);
                                g_assert_false(nothing_held(&w));
                                int held = 0;
                                for (size_t i = 0; i < w.n; i++)
                                        held += w.d[i].way == WAY_HELD;
                                g_assert_cmpint(held, ==, 1);
                                activation_repeat(&w.a, w.d, w.n);
                                end = run(&w, 0, FAULT_NONE, &steps);
                        }
                        g_assert_cmpint(end, ==, ACTIVATION_BACK);
                        if (is_failure && is_confirm && f == FAULT_BEFORE)
                                w.side.confirmed = false; /* the guest never answered */
                        g_assert_true(nothing_held(&w));
                        world_done(&w);
                }
        }
}

/* A step up fails, then each step of the undo fails too or is cut off. */
static void test_fault_in_undo(void)
{
        int up = 0;
        struct world w;
        world_new(&w);
        (void)run(&w, 0, FAULT_NONE, &up);
        world_done(&w);
        for (int at = 1; at <= up; at++) {
                for (int undo = 1; undo < 2 * up; undo++) {
                        for (enum fault f = FAULT_BEFORE; f < FAULT_N; f++) {
                                int steps = 0;
                                unsigned marked;
                                world_new(&w);
                                for (int i = 0; i < at; i++) {
                                        g_assert_cmpint(activation_next(&w.a, w.d, w.n, &marked), ==,
                                                        ACTIVATION_STEP);
                                        act(&w);
                                        activation_report(&w.a, w.d, w.n, i + 1 < at);
                                }
                                enum activation_next end = run(&w, undo, f, &steps);
                                for (int again = 0; end == ACTIVATION_HELD && again < 3; again++) {
                                        activation_repeat(&w.a, w.d, w.n);
                                        end = run(&w, 0, FAULT_NONE, &steps);
                                }
                                g_assert_cmpint(end, ==, ACTIVATION_BACK);
                                w.side.confirmed = false;
                                g_assert_true(nothing_held(&w));
                                world_done(&w);
                        }
                }
        }
}

/* The asker goes while a step is under way, at each of them: what was begun is undone, nothing else. */
static void test_release_at_each_step(void)
{
        int up = 0;
        struct world w;
        world_new(&w);
        (void)run(&w, 0, FAULT_NONE, &up);
        world_done(&w);
        for (int at = 0; at <= up; at++) {
                int steps = 0;
                unsigned marked;
                world_new(&w);
                for (int i = 0; i < at; i++) {
                        g_assert_cmpint(activation_next(&w.a, w.d, w.n, &marked), ==, ACTIVATION_STEP);
                        act(&w);
                        if (i + 1 < at)
                                activation_report(&w.a, w.d, w.n, true);
                }
                activation_turn(&w.a, w.d, w.n, false);
                w.steps = 0;
                g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_BACK);
                g_assert_cmpint(w.steps, <=, at); /* never more undo than was done */
                g_assert_true(nothing_held(&w));
                world_done(&w);
        }
}

static void test_lazy(void)
{
        struct world w;
        int steps = 0;
        world_new(&w);
        (void)run(&w, 0, FAULT_NONE, &steps);
        activation_turn(&w.a, w.d, w.n, true);
        g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_BACK);
        for (size_t i = 0; i < w.n; i++) {
                g_assert_true(w.side.host[i] && w.d[i].host_active);
                g_assert_false(w.side.virtual[i] || w.d[i].active || w.d[i].configured);
        }
        /* Up again: no step of the host side. */
        g_string_truncate(w.log, 0);
        activation_begin(&w.a);
        g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_USABLE);
        g_assert_true(all_usable(&w));
        g_assert_null(strstr(w.log->str, "host"));
        /* Lazily back, and reclaimed: only the rest of the way back. */
        activation_turn(&w.a, w.d, w.n, true);
        (void)run(&w, 0, FAULT_NONE, &steps);
        g_string_truncate(w.log, 0);
        activation_reclaim(&w.a, w.d, w.n);
        g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_BACK);
        g_assert_true(nothing_held(&w));
        g_assert_cmpstr(w.log->str, ==, "-host 4;-host 3;-host 2;-host 1;-host 0;-prepare 1;");
        world_done(&w);
}

/* A tap goes with its VMM, so that it is not kept beside what is. */
static void test_lazy_but_for_a_tap(void)
{
        struct definition d[] = {
                {.kind = VIRTUAL_RAM, .amount = 1, .host_active = true, .active = true},
                {.kind = VIRTUAL_NIC, .amount = 1, .host_active = true, .active = true}
        };
        struct activation a = {.phase = PHASE_N};
        unsigned own, undone[2] = {0};
        activation_turn(&a, d, 2, true);
        while (activation_next(&a, d, 2, &own) == ACTIVATION_STEP) {
                undone[a.item] |= a.phase == PHASE_HOST;
                activation_report(&a, d, 2, true);
        }
        g_assert_true(!undone[0] && d[0].host_active && undone[1] && !d[1].host_active);
}

/* Lazily held, and the next start fails at each step: nothing of it is left behind unseen. */
static void test_lazy_start_fails(void)
{
        for (int at = 1; at < 16; at++) {
                for (enum fault f = FAULT_BEFORE; f < FAULT_N; f++) {
                        struct world w;
                        int steps = 0;
                        world_new(&w);
                        (void)run(&w, 0, FAULT_NONE, &steps);
                        activation_turn(&w.a, w.d, w.n, true);
                        (void)run(&w, 0, FAULT_NONE, &steps);
                        activation_begin(&w.a);
                        steps = 0;
                        enum activation_next end = run(&w, at, f, &steps);
                        if (end == ACTIVATION_USABLE) {
                                g_assert_true(all_usable(&w));
                                activation_turn(&w.a, w.d, w.n, false);
                                end = run(&w, 0, FAULT_NONE, &steps);
                        }
                        g_assert_cmpint(end, ==, ACTIVATION_BACK);
                        g_assert_true(nothing_held(&w)); /* what it did not get to, too */
                        world_done(&w);
                }
        }
}

/* Something is held on the lazy way back, and then nothing shall be kept after all. */
static void test_lazy_no_longer(void)
{
        for (int at = 2; at < 12; at++) { /* 1: whether the consumer lets go keeps nothing */
                struct world w;
                int steps = 0;
                world_new(&w);
                (void)run(&w, 0, FAULT_NONE, &steps);
                activation_turn(&w.a, w.d, w.n, true);
                steps = 0;
                if (run(&w, at, FAULT_BEFORE, &steps) == ACTIVATION_HELD) {
                        activation_turn(&w.a, w.d, w.n, false);
                        activation_repeat(&w.a, w.d, w.n);
                } else {
                        activation_reclaim(&w.a, w.d, w.n);
                }
                g_assert_cmpint(run(&w, 0, FAULT_NONE, &steps), ==, ACTIVATION_BACK);
                g_assert_true(nothing_held(&w));
                world_done(&w);
        }
}

static void test_lists(void)
{
        struct definition good[] = {
                {.kind = VIRTUAL_VCPU, .slot = 1, .amount = 1000},
                {.kind = VIRTUAL_VCPU, .slot = 2, .amount = 1000}
        };
        g_assert_null(definitions_problem(good, 2));
        g_assert_nonnull(definitions_problem(good, 0));
        struct definition twice[] = {good[0], good[0]};
        g_assert_nonnull(strstr(definitions_problem(twice, 2), "twice"));
        struct definition no_host[] = {
                {.kind = VIRTUAL_VCPU, .slot = 1}
        };
        g_assert_nonnull(strstr(definitions_problem(no_host, 1), "no host resource"));
        struct definition no_virtual[] = {
                {.kind = VIRTUAL_NONE, .slot = -1, .amount = 4}
        };
        g_assert_nonnull(strstr(definitions_problem(no_virtual, 1), "no virtual resource"));
}

static void test_journal_text(void)
{
        static const char *const bad[] = {"",
                                          "up",
                                          "up host",
                                          "up host 1 ",
                                          "up nothing 1",
                                          "back host 1",
                                          "back host 1 of x 2",
                                          "up host 70000",
                                          "up host 1 of host 2",
                                          "up host 1 lazy",
                                          "sideways host 1"};
        struct activation a;
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_false(activation_parse(bad[i], &a));
        char text[ACTIVATION_TEXT];
        g_assert_true(activation_parse("back bind 1 of confirm 0 lazy", &a));
        g_assert_cmpstr(activation_print(&a, text), ==, "back bind 1 of confirm 0 lazy");
        g_assert_true(activation_parse("up start 0", &a));
        for (int k = 1; k < VIRTUAL_KIND_N; k++)
                g_assert_cmpint(virtual_kind_from_name(virtual_kind_name((enum virtual_kind)k)), ==, k);
        g_assert_cmpint(virtual_kind_from_name("toaster"), ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/activation/order", test_order);
        g_test_add_func("/core/activation/fault-up", test_fault_up);
        g_test_add_func("/core/activation/fault-back", test_fault_back);
        g_test_add_func("/core/activation/fault-in-undo", test_fault_in_undo);
        g_test_add_func("/core/activation/release-at-each-step", test_release_at_each_step);
        g_test_add_func("/core/activation/lazy", test_lazy);
        g_test_add_func("/core/activation/lazy-but-for-a-tap", test_lazy_but_for_a_tap);
        g_test_add_func("/core/activation/lazy-start-fails", test_lazy_start_fails);
        g_test_add_func("/core/activation/lazy-no-longer", test_lazy_no_longer);
        g_test_add_func("/core/activation/lists", test_lists);
        g_test_add_func("/core/activation/journal-text", test_journal_text);
        return g_test_run();
}

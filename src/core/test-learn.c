/* SPDX-License-Identifier: Apache-2.0 */
#include "core/learn.h"

#include <glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static struct learn table;
static char evicted[LEARN_NAME];
static struct means filled_means; /* of the last profile that was filled */

static struct learn_move nothing(void)
{
        struct learn_move m = {.is_told = {false}};
        for (int c = 0; c < LEARN_COST_N; c++)
                m.cost[c] = -1;
        return m;
}

static struct learn_move only(enum learn_cost c, double x)
{
        struct learn_move m = nothing();
        m.cost[c] = x;
        return m;
}

static struct profile filled(const char *peer, const char *machine)
{
        struct profile p = {.populated_bytes = 7, .dirty = {.error = 0.5}};
        struct means m = {.queued_bytes = 7};
        learn_fill(&table, peer, machine, &p, &m);
        g_assert_cmpint(m.queued_bytes, ==, 7);
        filled_means = m;
        g_assert_cmpint(p.populated_bytes, ==, 7);
        g_assert_cmpfloat(p.dirty.error, ==, 0.5);
        return p;
}

static void add(const char *peer, const char *machine, struct learn_move m)
{
        g_assert_nonnull(learn_add(&table, peer, machine, &m, evicted));
}

static void check_assumed(const struct cost *c)
{
        g_assert_cmpint(c->source, ==, FIGURE_ASSUMED);
        g_assert_cmpfloat(c->mean_s, >, 0);
        g_assert_cmpfloat(c->p99_s, >, c->mean_s);
}

static void test_assumed(void)
{
        learn_init(&table);
        struct profile p = filled("b", "q35");
        const struct cost all[] = {p.setup, p.stop,      p.device,     p.commit,
                                   p.run,   p.zero_page, p.source_cpu, p.destination_cpu};
        for (size_t i = 0; i < G_N_ELEMENTS(all); i++)
                check_assumed(&all[i]);
        g_assert_cmpint(p.device_bytes_source, ==, FIGURE_ASSUMED);
        g_assert_cmpint(p.device_bytes, >=, 473000);
        /* A plan is possible with them, and with nothing learnt: 100 ms are kept where the guest is idle. */
        g_assert_cmpfloat(p.stop.p99_s + p.device.p99_s + p.commit.p99_s + p.run.p99_s, <, 0.05);
        g_assert_cmpint(table.n, ==, 0);
}

/* What is always the same is known in the end; what varies keeps a margin that holds nearly all. */
static void test_learns(void)
{
        learn_init(&table);
        for (int i = 0; i < 40; i++) {
                struct learn_move m = nothing();
                m.cost[LEARN_STOP] = 0.0005;
                m.cost[LEARN_DEVICE_BYTES] = 206000;
                m.cost[LEARN_RUN] = 0.002 + (i % 2 ? 1 : -1) * 0.0005;
                add("b", "q35", m);
        }
        struct profile p = filled("b", "q35");
        g_assert_cmpint(p.stop.source, ==, FIGURE_LEARNT);
        g_assert_cmpfloat(fabs(p.stop.mean_s - 0.0005), <, 1e-6);
        g_assert_cmpfloat(p.stop.p99_s, <, 0.0006);
        g_assert_cmpint(p.device_bytes_source, ==, FIGURE_LEARNT);
        g_assert_cmpint(ABS(p.device_bytes - 206000), <, 10000);
        g_assert_cmpfloat(fabs(p.run.mean_s - 0.002), <, 0.0002);
        g_assert_cmpfloat(p.run.p99_s, >, 0.0025);
        g_assert_cmpfloat(p.run.p99_s, <, 0.005);
        check_assumed(&p.commit); /* nobody told */
}

/* What one move sent of its devices is nearly what the next sends: one is enough. */
static void test_device_bytes(void)
{
        learn_init(&table);
        struct profile before = filled("b", "q35");
        add("b", "q35", only(LEARN_DEVICE_BYTES, 60000));
        struct profile p = filled("b", "q35");
        g_assert_cmpint(p.device_mean_bytes, >=, 60000);
        g_assert_cmpint(p.device_mean_bytes, <, 90000);
        g_assert_cmpint(p.device_bytes, >, p.device_mean_bytes);
        g_assert_cmpint(p.device_bytes, <, before.device_bytes);
}

static void sent(struct profile *p, struct means *m, double link, double bytes_per_s, double reserved,
                 bool is_alone)
{
        struct learn_move move = nothing();
        struct learn_rate r = {bytes_per_s, link, reserved, 0.7 / bytes_per_s, is_alone};
        learn_rate(&move, p, m, &r);
        if (learn_add(&table, "b", "q35", &move, evicted)) {
                *p = filled("b", "q35");
                *m = filled_means;
        }
}

/* Where the link is what limits a stream, its goodput is learnt, and where not, what the stream can. */
static void test_rate(void)
{
        learn_init(&table);
        struct profile p = filled("b", "q35");
        struct means m = filled_means;
        g_assert_cmpfloat(m.goodput, ==, 0.955);
        g_assert_cmpfloat_with_epsilon(m.goodput_error, 0.05, 0.002);
        g_assert_cmpint(m.goodput_source, ==, FIGURE_ASSUMED);
        for (int i = 0; i < 8; i++)
                sent(&p, &m, 25e6, 25e6 * 0.95, 0, true);
        g_assert_cmpfloat_with_epsilon(m.goodput, 0.95, 0.001);
        g_assert_cmpfloat(m.goodput_error, ==, 0.02);
        g_assert_cmpint(m.goodput_source, ==, FIGURE_LEARNT);
        g_assert_cmpint(p.stream.source, ==, FIGURE_ASSUMED); /* it can do that, and more */
        for (int i = 0; i < 8; i++)
                sent(&p, &m, 1250e6, 100e6, 0, true);
        g_assert_cmpfloat_with_epsilon(p.stream.mean_s, 1e-8, 1e-9);
        g_assert_cmpfloat(p.stream.p99_s, <, 1.3e-8);
        g_assert_cmpfloat_with_epsilon(m.goodput, 0.95, 0.001);
        struct cost before = p.stream;
        sent(&p, &m, 250e6, 250e6 * 0.95, 0, true); /* a link at its limit, and faster than it was */
        g_assert_cmpfloat(p.stream.mean_s, ==, 1 / (250e6 * 0.95));
        g_assert_cmpfloat(p.stream.p99_s, <, before.p99_s);
        before = p.stream;
        sent(&p, &m, 0, 100e6, 0, true);
        sent(&p, &m, 100e6, 0, 0, true);
        sent(&p, &m, 100e6, 120e6, 0, true); /* faster than its link */
        g_assert_cmpfloat(p.stream.mean_s, ==, before.mean_s);
}

/* What others leave of a link is not what a stream can, unless it had less than what it was guaranteed. */
static void test_rate_beside_others(void)
{
        learn_init(&table);
        struct profile p = filled("b", "q35");
        struct means m = filled_means;
        for (int i = 0; i < 8; i++)
                sent(&p, &m, 125e6, 118e6, 0, true);
        struct profile alone = p;
        sent(&p, &m, 125e6, 36e6, 37.5e6, false);
        g_assert_cmpfloat(p.stream.p99_s, ==, alone.stream.p99_s);
        g_assert_cmpfloat(m.goodput, >, 0.94);
        sent(&p, &m, 125e6, 36e6, 60e6, false);
        g_assert_cmpfloat(p.stream.p99_s, >, 1 / 36e6);
        /* Once it is alone again what it can is seen at once. */
        sent(&p, &m, 125e6, 118e6, 0, true);
        g_assert_cmpfloat(p.stream.mean_s, <, 1.1 / 118e6);
        for (int i = 0; i < 12; i++)
                sent(&p, &m, 125e6, 118e6, 0, true);
        g_assert_cmpfloat(p.stream.p99_s, <, 1.3 / 118e6 + 4e-9);
}

/* A link that is slow or cut for a while says nothing of what the stream can: its thread had hardly anything
 * to do, or nobody knows. */
static void test_rate_of_broken_link(void)
{
        static const double cpu_s[] = {3e-9, 0};
        for (size_t i = 0; i < 2; i++) {
                learn_init(&table);
                struct profile p = filled("b", "q35");
                struct means m = filled_means;
                struct cost before = p.stream;
                for (int n = 0; n < 4; n++) {
                        struct learn_move move = nothing();
                        struct learn_rate r = {5e6, 50e6, 0, cpu_s[i], true};
                        learn_rate(&move, &p, &m, &r);
                        learn_add(&table, "b", "q35", &move, evicted);
                        p = filled("b", "q35");
                        m = filled_means;
                }
                g_assert_cmpfloat(p.stream.p99_s, ==, before.p99_s);
                g_assert_cmpfloat(m.goodput, >=, 0.5);
                g_assert_cmpfloat(m.goodput, <, 0.7);
                for (int n = 0; n < 12; n++)
                        sent(&p, &m, 50e6, 47e6, 0, true);
                g_assert_cmpfloat(m.goodput, >, 0.9);
        }
}

/* One odd move does not spoil what comes after it for long. */
static void test_odd(void)
{
        learn_init(&table);
        for (int i = 0; i < 20; i++)
                add("b", "q35", only(LEARN_DEVICE, 0.004));
        add("b", "q35", only(LEARN_DEVICE, 5));
        g_assert_cmpfloat(filled("b", "q35").device.p99_s, <, 0.1);
        for (int i = 0; i < 10; i++)
                add("b", "q35", only(LEARN_DEVICE, 0.004));
        g_assert_cmpfloat(filled("b", "q35").device.p99_s, <, 0.04);
        for (int i = 0; i < 100; i++) /* of a thread that is said to need nothing, something is kept */
                add("b", "q35", only(LEARN_SOURCE_CPU, 0));
        g_assert_cmpfloat(filled("b", "q35").source_cpu.p99_s, >=, 2.4e-10);
}

/* One move is not enough to trust it: the next may take longer than both. */
static void test_first_move(void)
{
        learn_init(&table);
        struct profile before = filled("b", "q35");
        add("b", "q35", only(LEARN_DEVICE, 0.001));
        struct profile p = filled("b", "q35");
        g_assert_cmpint(p.device.source, ==, FIGURE_LEARNT);
        g_assert_cmpfloat(p.device.mean_s, <, before.device.mean_s);
        g_assert_cmpfloat(p.device.mean_s, >, 0.001);
        g_assert_cmpfloat(p.device.p99_s, >, 0.001);
        /* One that took very long is remembered by the margin, and forgotten in the end. */
        add("b", "q35", only(LEARN_DEVICE, 0.1));
        g_assert_cmpfloat(filled("b", "q35").device.p99_s, >, 0.1);
        for (int i = 0; i < 30; i++)
                add("b", "q35", only(LEARN_DEVICE, 0.001));
        g_assert_cmpfloat(filled("b", "q35").device.p99_s, <, 0.02);
}

/* How late guards hear their VMMs tells of cuts that were not: what is kept back follows a machine that is
 * busy, and that is not, within bounds. */
static void test_resume(void)
{
        learn_init(&table);
        (void)filled("b", "q35");
        g_assert_cmpfloat(filled_means.resume.p99_s, ==, 0.025);
        for (int i = 0; i < 8; i++)
                add("b", "q35", only(LEARN_RESUME, learn_resume_s(0.0001)));
        (void)filled("b", "q35");
        g_assert_cmpfloat(filled_means.resume.p99_s, ==, 0.008);
        add("b", "q35", only(LEARN_RESUME, learn_resume_s(0.02)));
        (void)filled("b", "q35");
        g_assert_cmpfloat(filled_means.resume.p99_s, >, 0.04);
        for (int i = 0; i < 40; i++)
                add("b", "q35", only(LEARN_RESUME, 0.0015)); /* cuts */
        (void)filled("b", "q35");
        g_assert_cmpfloat(filled_means.resume.p99_s, ==, 0.008);
        g_assert_cmpfloat(learn_resume_s(-1), <, 0); /* not known */
}

/* 0.8: the weights of the last moves are 1, 0.8, 0.64 ... */
static void test_forgetting(void)
{
        learn_init(&table);
        for (int i = 0; i < 60; i++)
                add("b", "q35", only(LEARN_COMMIT, 0.001));
        add("b", "q35", only(LEARN_COMMIT, 0.002));
        g_assert_cmpfloat(fabs(filled("b", "q35").commit.mean_s - 0.0012), <, 1e-6);
        add("b", "q35", only(LEARN_COMMIT, 0.001));
        g_assert_cmpfloat(fabs(filled("b", "q35").commit.mean_s - 0.00116), <, 1e-6);
}

/* What a peer says is its own: nothing of it reaches others, and no figure leaves its bounds. */
static void test_hostile(void)
{
        static const double said[] = {NAN, INFINITY, -INFINITY, -1};
        learn_init(&table);
        for (size_t i = 0; i < G_N_ELEMENTS(said); i++) {
                struct learn_move m = {.is_told = {false}};
                for (int c = 0; c < LEARN_COST_N; c++)
                        m.cost[c] = said[i];
                g_assert_null(learn_add(&table, "liar", "q35", &m, evicted));
        }
        g_assert_cmpint(table.n, ==, 0);
        for (int i = 0; i < 100; i++)
                for (int c = 1; c < LEARN_COST_N; c++)
                        add("liar", "q35", only((enum learn_cost)c, i % 2 ? 1e300 : 0));
        struct profile p = filled("liar", "q35"), other = filled("b", "q35");
        g_assert_true(isfinite(p.stop.p99_s) && p.stop.p99_s < 100);
        g_assert_cmpint(p.device_bytes, <, INT64_C(10000000000));
        check_assumed(&other.stop);
}

static void test_rows(void)
{
        char name[16];
        learn_init(&table);
        add("b", "m0", only(LEARN_RUN, 0.003));
        for (int i = 1; i < LEARN_MACHINES; i++) {
                (void)snprintf(name, sizeof(name), "m%d", i);
                add("b", name, only(LEARN_RUN, 0.003));
                g_assert_cmpstr(evicted, ==, "");
        }
        (void)filled("b", "m0"); /* used: m1 is the oldest now */
        add("b", "more", only(LEARN_RUN, 0.003));
        g_assert_cmpstr(evicted, ==, "b");
        g_assert_cmpint(table.n, ==, LEARN_MACHINES);
        struct profile kept = filled("b", "m0"), gone = filled("b", "m1");
        g_assert_cmpint(kept.run.source, ==, FIGURE_LEARNT);
        g_assert_cmpint(gone.run.source, ==, FIGURE_ASSUMED);
        /* No more than so many in all: those of others give way. */
        for (int i = 0; i < LEARN_ROWS - LEARN_MACHINES; i++) {
                (void)snprintf(name, sizeof(name), "p%d", i);
                add(name, "q35", only(LEARN_RUN, 0.003));
                g_assert_cmpstr(evicted, ==, "");
        }
        add("new", "q35", only(LEARN_RUN, 0.003));
        g_assert_cmpstr(evicted, ==, "b");
        g_assert_cmpint(table.n, ==, LEARN_ROWS);
        size_t of_b = 0;
        while (learn_row(&table, "b", of_b))
                of_b++;
        g_assert_cmpint(of_b, ==, LEARN_MACHINES - 1);
        g_assert_null(learn_row(&table, "nobody", 0));
        /* Names of any length. */
        char longest[200];
        memset(longest, 'x', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        add(longest, longest, only(LEARN_RUN, 0.003));
        g_assert_cmpint(filled(longest, longest).run.source, ==, FIGURE_LEARNT);
}

static void test_put(void)
{
        learn_init(&table);
        for (int i = 0; i < 5; i++)
                add("b", "q35", only(LEARN_STOP, 0.001 * i));
        struct learnt row = *learn_row(&table, "b", 0);
        struct profile before = filled("b", "q35");
        learn_init(&table);
        g_assert_true(learn_put(&table, &row));
        g_assert_true(learn_put(&table, &row));
        g_assert_cmpint(table.n, ==, 1);
        struct profile p = filled("b", "q35");
        g_assert_cmpfloat(p.stop.mean_s, ==, before.stop.mean_s);
        g_assert_cmpfloat(p.stop.p99_s, ==, before.stop.p99_s);
        check_assumed(&p.run);
        struct learnt bad = row;
        bad.figure[LEARN_STOP].mean = NAN;
        g_assert_false(learn_put(&table, &bad));
        bad = row;
        bad.figure[LEARN_STOP].deviation = 1e9;
        g_assert_false(learn_put(&table, &bad));
        bad = row;
        bad.peer[0] = '\0';
        g_assert_false(learn_put(&table, &bad));
        row.figure[LEARN_STOP].weight = 1e9; /* would never learn anything again */
        g_assert_true(learn_put(&table, &row));
        for (int i = 0; i < 40; i++)
                add("b", "q35", only(LEARN_STOP, 0.007));
        g_assert_cmpfloat(fabs(filled("b", "q35").stop.mean_s - 0.007), <, 1e-5);
}

static void test_names(void)
{
        for (int c = 1; c < LEARN_COST_N; c++)
                for (int other = 1; other < c; other++)
                        g_assert_cmpstr(learn_cost_name((enum learn_cost)c), !=,
                                        learn_cost_name((enum learn_cost)other));
        g_assert_cmpstr(learn_cost_name(LEARN_COST_N), ==, "?");
        g_assert_cmpstr(learn_cost_name(LEARN_ZERO_PAGE), ==, "zero-page");
}

/* Who measured a figure is known of the last that was added, and kept. */
static void test_told(void)
{
        learn_init(&table);
        struct learn_move m = only(LEARN_RUN, 0.003);
        m.is_told[LEARN_RUN] = true;
        m.cost[LEARN_COMMIT] = 0.002;
        add("b", "q35", m);
        g_assert_cmpint(filled("b", "q35").run.source, ==, FIGURE_TOLD);
        g_assert_cmpint(filled("b", "q35").commit.source, ==, FIGURE_LEARNT);
        g_assert_cmpint(filled("b", "q35").stop.source, ==, FIGURE_ASSUMED);
        struct learnt row = *learn_row(&table, "b", 0);
        learn_init(&table);
        g_assert_true(learn_put(&table, &row));
        g_assert_cmpint(filled("b", "q35").run.source, ==, FIGURE_TOLD);
        add("b", "q35", only(LEARN_RUN, 0.003));
        g_assert_cmpint(filled("b", "q35").run.source, ==, FIGURE_LEARNT);
        g_assert_cmpstr(figure_source_name(FIGURE_TOLD), ==, "told");
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/learn/assumed", test_assumed);
        g_test_add_func("/learn/learns", test_learns);
        g_test_add_func("/learn/device-bytes", test_device_bytes);
        g_test_add_func("/learn/rate", test_rate);
        g_test_add_func("/learn/rate-beside-others", test_rate_beside_others);
        g_test_add_func("/learn/rate-of-broken-link", test_rate_of_broken_link);
        g_test_add_func("/learn/odd", test_odd);
        g_test_add_func("/learn/first-move", test_first_move);
        g_test_add_func("/learn/resume", test_resume);
        g_test_add_func("/learn/forgetting", test_forgetting);
        g_test_add_func("/learn/hostile", test_hostile);
        g_test_add_func("/learn/rows", test_rows);
        g_test_add_func("/learn/put", test_put);
        g_test_add_func("/learn/names", test_names);
        g_test_add_func("/learn/told", test_told);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The estimate against the loop's simulation, of which it sees only what QEMU would say. */
#include "core/estimate.h"

#include <glib.h>
#include <math.h>

#define MIB INT64_C(1048576)

struct world {
        struct estimate estimate;
        struct precopy_means plant;
        struct precopy loop;
        struct sample sample;
};

static struct profile some_profile(void)
{
        return (struct profile){
                .populated_bytes = 512 * MIB,
                .zero_pages = 131072,
                .dirty = {.source = FIGURE_SAMPLED,
                          .error = 0.1,
                          .hot_bytes = 64.0 * MIB,
                          .hot_bytes_per_s = 31.25 * MIB},
                .zero_page = {8e-6,                        9e-6,       FIGURE_MEASURED  },
                .stop = {0.001,                        0.002,      FIGURE_MEASURED}
        };
}

/* 800 Mbit/s are believed in; the plant has so many times as much, and dirties so many times as fast. */
static void prepare(struct world *w, const struct profile *p, double bandwidth, double dirt)
{
        struct means m = {.goodput = 0.955, .goodput_error = 0.05, .queued_bytes = 100000};
        struct vector v = {.bandwidth_bps = 800000000, .share_milli = 1000};
        *w = (struct world){.sample = {.syncs = 1}};
        estimate_init(&w->estimate, p, &m, v.bandwidth_bps);
        w->plant = plan_loop_means(&w->estimate.profile, &w->estimate.means, &v, 1e-6, PLAN_EXPECTED);
        w->plant.bytes_per_s *= bandwidth;
        w->plant.dirt = dirt;
        precopy_init(&w->loop, 0, (double)p->populated_bytes, (double)p->zero_pages);
        g_assert_true(estimate_sample(&w->estimate, 1000, 1000, &w->sample));
}

static void one_slice(struct world *w)
{
        struct precopy before = w->loop;
        g_assert_cmpint(precopy_slice(&w->loop, &w->plant), ==, PRECOPY_GOES_ON);
        double zeros = before.zero_pages - w->loop.zero_pages;
        w->sample.zero_pages += (int64_t)zeros;
        w->sample.normal_pages +=
                (int64_t)((w->loop.sent_bytes - before.sent_bytes - zeros * PRECOPY_ZERO_PAGE) /
                          (PRECOPY_PAGE + PRECOPY_HEADER));
        w->sample.remaining_bytes = (int64_t)precopy_remaining(&w->loop);
        w->sample.transferred_bytes = (int64_t)w->loop.sent_bytes;
        w->sample.syncs = 1 + w->loop.rounds;
        g_assert_true(
                estimate_sample(&w->estimate, 1000 + (int64_t)(w->loop.now_s * 1000), 1000, &w->sample));
}

static void assert_near(double is, double should_be, double part)
{
        if (fabs(is - should_be) > fabs(should_be) * part)
                g_error("%g is not within %g %% of %g", is, part * 100, should_be);
}

/* Zero pages take time and hardly a byte: the bandwidth that was seen before them stands. */
static void test_bandwidth(void)
{
        struct profile p = some_profile();
        struct world w;
        prepare(&w, &p, 0.6, 1);
        while (w.loop.left_bytes > 0)
                one_slice(&w);
        assert_near(w.estimate.bytes_per_s, w.plant.bytes_per_s, 0.05);
        while (w.loop.zero_pages > 0)
                one_slice(&w);
        assert_near(w.estimate.bytes_per_s, w.plant.bytes_per_s, 0.05);
        w.plant.bytes_per_s *= 2;
        for (double until_s = w.loop.now_s + 1;
             w.loop.now_s < until_s;) /* with the bitmap nearly empty the link is not seen at all */
                one_slice(&w);
        g_assert_cmpfloat(w.estimate.bytes_per_s, <, w.plant.bytes_per_s * 1.05);
        g_assert_cmpfloat(w.estimate.bytes_per_s, >, w.plant.bytes_per_s * 0.4);
}

/* For the next move: what the stream, its CPU and a zero page cost. The plant's figures are not those that
 * were believed in. */
static void test_costs(void)
{
        struct profile p = some_profile();
        struct world w;
        prepare(&w, &p, 0.6, 1);
        w.plant.zero_page_s = 3e-6;
        w.sample.cpu_ns = 5000000;
        g_assert_cmpfloat(estimate_stream_s(&w.estimate), <, 0);
        g_assert_cmpfloat(estimate_cpu_s(&w.estimate), <, 0);
        g_assert_cmpfloat(estimate_zero_page_s(&w.estimate), <, 0);
        while (w.loop.left_bytes > 0) {
                double before = w.loop.sent_bytes;
                one_slice(&w);
                w.sample.cpu_ns += (int64_t)((w.loop.sent_bytes - before) * 1.5);
        }
        assert_near(estimate_stream_s(&w.estimate), 1 / w.plant.bytes_per_s, 0.02);
        assert_near(estimate_cpu_s(&w.estimate), 1.5e-9, 0.05);
        while (w.loop.zero_pages > 0)
                one_slice(&w);
        assert_near(estimate_zero_page_s(&w.estimate), 3e-6, 0.05);
        /* Where the bitmap is nearly empty the stream waits for the guest. */
        for (double until_s = w.loop.now_s + 5; w.loop.now_s < until_s;)
                one_slice(&w);
        assert_near(estimate_stream_s(&w.estimate), 1 / w.plant.bytes_per_s, 0.05);
        assert_near(estimate_zero_page_s(&w.estimate), 3e-6, 0.05);
        estimate_restart(&w.estimate); /* another attempt has seen it all the same */
        assert_near(estimate_stream_s(&w.estimate), 1 / w.plant.bytes_per_s, 0.05);
}

/* The curve is checked at each sync, however stale `remaining` is in between. */
static void test_dirt(void)
{
        const double dirts[] = {0.5, 1, 3};
        for (size_t i = 0; i < G_N_ELEMENTS(dirts); i++) {
                struct profile p = some_profile();
                struct world w;
                p.dirty.hot_bytes_per_s /= dirts[i]; /* the same set, written to faster or slower */
                prepare(&w, &p, 1, 1);
                w.plant.dirty = &(struct curve){.hot_bytes = 64.0 * MIB, .hot_bytes_per_s = 31.25 * MIB};
                while (w.loop.rounds < 5)
                        one_slice(&w);
                g_assert_cmpint(w.estimate.observed_syncs, >=, 3);
                double left = estimate_left_bytes(&w.estimate);
                g_assert_cmpfloat(left, >=, precopy_remaining(&w.loop) - 8192);
                g_test_message("dirt %.2f: %.2f, left %.0f, really %.0f", dirts[i], w.estimate.dirt, left,
                               precopy_remaining_synced(&w.loop, &w.plant));
                g_assert_true((w.estimate.dirt > 1.2) == (dirts[i] > 1.2));
                g_assert_true((w.estimate.dirt < 0.8) == (dirts[i] < 0.8));
        }
}

/* That it goes through its memory in turns is seen, and not taken for a faster guest. */
static void test_in_turns(void)
{
        struct profile p = some_profile();
        struct world w;
        p.dirty = (struct curve){
                .error = 0.1, .n_points = 2, .points = {{1, 64.0 * MIB}, {10, 64.0 * MIB}}
        };
        prepare(&w, &p, 1, 1);
        w.plant.overlap = 0;
        w.plant.limit_s = 0.3;
        while (w.loop.rounds < 8)
                one_slice(&w);
        g_test_message("dirt %.2f overlap %.2f", w.estimate.dirt, w.estimate.overlap);
        assert_near(w.estimate.dirt, 1, 0.15);
        g_assert_cmpfloat(w.estimate.overlap, <, 0.3);
}

/* So it is where nearly the whole set waits to be sent: drawn by lot, next to nothing would come. */
static void test_in_turns_at_the_end(void)
{
        struct profile p = some_profile();
        struct world w;
        p.dirty = (struct curve){
                .error = 0.1, .n_points = 2, .points = {{1, 64.0 * MIB}, {10, 64.0 * MIB}}
        };
        const double added[] = {5.0 * MIB, 0}, overlap[] = {0.6, 1};
        for (size_t i = 0; i < G_N_ELEMENTS(added); i++) {
                prepare(&w, &p, 1, 1);
                w.sample = (struct sample){.remaining_bytes = 58 * MIB,
                                           .normal_pages = 200000,
                                           .zero_pages = 131072,
                                           .syncs = 4};
                g_assert_true(estimate_sample(&w.estimate, 20000, 1000, &w.sample));
                w.estimate.dirt = w.estimate.overlap = 1;
                w.estimate.observed_syncs = 0;
                w.estimate.profile.dirty = p.dirty;
                w.estimate.loop.left_bytes = w.estimate.loop.zero_pages = 0;
                w.estimate.loop.again_bytes = 58.0 * MIB;
                w.estimate.loop.since_s = 0.1;
                w.sample.syncs++;
                w.sample.remaining_bytes += (int64_t)added[i];
                g_assert_true(estimate_sample(&w.estimate, 20100, 1000, &w.sample));
                g_test_message("dirt %.2f overlap %.2f", w.estimate.dirt, w.estimate.overlap);
                g_assert_cmpint(w.estimate.observed_syncs, ==, 1);
                g_assert_cmpuint(w.estimate.profile.dirty.n_points, ==, 2);
                assert_near(w.estimate.dirt, 1, 0.01);
                assert_near(w.estimate.overlap, overlap[i], 0.05);
        }
}

/* A profile that was made while the guest slept. */
static void test_awake(void)
{
        struct profile p = some_profile();
        struct world w;
        p.dirty = (struct curve){.source = FIGURE_SAMPLED, .error = 0.1};
        prepare(&w, &p, 1, 1);
        struct curve truth = {.hot_bytes = 64.0 * MIB, .hot_bytes_per_s = 31.25 * MIB};
        w.plant.dirty = &truth;
        while (w.loop.rounds < 2)
                one_slice(&w);
        g_assert_cmpint(w.estimate.observed_syncs, >=, 1);
        struct precopy_means m = estimate_means(&w.estimate, 0.1, 1000, PLAN_EXPECTED);
        g_assert_cmpfloat(curve_bytes(m.dirty, 1, 1e12), >, (double)MIB);
}

static void test_unsound(void)
{
        struct profile p = some_profile();
        struct world w;
        prepare(&w, &p, 1, 1);
        for (int i = 0; i < 20; i++)
                one_slice(&w);
        struct estimate before = w.estimate;
        const struct sample good = w.sample;
        struct sample bad[] = {good, good, good, good, good, good};
        bad[0].remaining_bytes = -1;
        bad[1].normal_pages--;
        bad[2].syncs = 0;
        bad[3].transferred_bytes = 0;
        bad[4].zero_pages = INT64_MAX;
        bad[5].remaining_bytes = INT64_MAX;
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
                w.estimate = before;
                g_assert_false(estimate_sample(&w.estimate, before.sample_ms + 50, 1000, &bad[i]));
                g_assert_cmpfloat(w.estimate.bytes_per_s, ==, before.bytes_per_s);
                g_assert_cmpint(w.estimate.loop.rounds, ==, before.loop.rounds);
                g_assert_true(estimate_sample(&w.estimate, before.sample_ms + 100, 1000, &good));
                g_assert_cmpfloat(w.estimate.bytes_per_s, ==, before.bytes_per_s);
        }
        w.estimate = before; /* a clock that stands */
        g_assert_false(estimate_sample(&w.estimate, before.sample_ms, 1000, &good));
}

/* What was learnt is kept for the next attempt; where it was is not. */
static void test_restart(void)
{
        struct profile p = some_profile();
        struct world w;
        prepare(&w, &p, 0.5, 1);
        for (int i = 0; i < 60; i++)
                one_slice(&w);
        double bytes_per_s = w.estimate.bytes_per_s;
        estimate_restart(&w.estimate);
        g_assert_cmpfloat(w.estimate.bytes_per_s, ==, bytes_per_s);
        g_assert_cmpfloat(w.estimate.loop.left_bytes, ==, (double)p.populated_bytes);
        g_assert_cmpint(w.estimate.loop.rounds, ==, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/core/estimate/bandwidth", test_bandwidth);
        g_test_add_func("/core/estimate/costs", test_costs);
        g_test_add_func("/core/estimate/dirt", test_dirt);
        g_test_add_func("/core/estimate/in-turns", test_in_turns);
        g_test_add_func("/core/estimate/in-turns-at-the-end", test_in_turns_at_the_end);
        g_test_add_func("/core/estimate/awake", test_awake);
        g_test_add_func("/core/estimate/unsound", test_unsound);
        g_test_add_func("/core/estimate/restart", test_restart);
        return g_test_run();
}

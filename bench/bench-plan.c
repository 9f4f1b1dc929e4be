/* SPDX-License-Identifier: Apache-2.0 */
/* How long it takes to plan a move, in process, on one core.
 *
 * The VMs have 1, 4 and 16 GiB, half of it populated, and dirty a set of 128 MiB at 0 to 320 MiB/s; both
 * sides have 1 Gbit/s to give, and policy leaves the vCPUs 300 thousandths of their time. Each is asked for
 * at three levels: what is kept with ease, what needs throttling, and what can only be countered are all
 * among them, and how many of each is printed. A time is the median of ten calls; plan_us is the median over
 * the set, and the longest is printed beside it, since a few plans look at far more runs than most. */
#include "core/plan.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CALLS = 10, SET_MAX = 128 };
#define GIB INT64_C(1073741824)

static const struct profile base = {
        .device_bytes = 206000,
        .setup = {0.02,   0.05,   FIGURE_LEARNT},
        .stop = {0.0013, 0.0044, FIGURE_LEARNT},
        .device = {0.002,  0.004,  FIGURE_LEARNT},
        .commit = {0.0005, 0.001,  FIGURE_LEARNT},
        .run = {0.0005, 0.002,  FIGURE_LEARNT},
        .zero_page = {8.8e-6, 9.5e-6, FIGURE_LEARNT},
        .source_cpu = {1.7e-9, 2e-9,   FIGURE_LEARNT},
        .destination_cpu = {3e-9,   4e-9,   FIGURE_LEARNT},
};
static const struct means means = {
        .source = {1000000000, 1000},
        .destination = {1000000000, 1000},
        .share_min_milli = 300,
        .goodput = 0.955,
        .goodput_error = 0.05,
        .queued_bytes = 256 << 10,
        .settle_s = 0.08,
};

/* CPU time: what one core gives, also on a machine that is busy with other things. */
static double now_us(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return x < y ? -1 : x > y;
}

static double plan_time(const struct profile *p, const struct level *l, struct plan *ret)
{
        double us[CALLS];
        for (int i = 0; i < CALLS; i++) {
                double start = now_us();
                plan_make(p, l, &means, ret);
                us[i] = now_us() - start;
        }
        qsort(us, CALLS, sizeof(us[0]), by_value);
        return us[CALLS / 2];
}

int main(void)
{
        static const int64_t sizes_gib[] = {1, 4, 16};
        static const double mib_per_s[] = {0, 10, 20, 40, 80, 160, 320};
        double us[SET_MAX];
        int n = 0, outcomes[PLAN_OUTCOME_N] = {0};
        for (size_t s = 0; s < sizeof(sizes_gib) / sizeof(sizes_gib[0]); s++)
                for (size_t r = 0; r < sizeof(mib_per_s) / sizeof(mib_per_s[0]); r++) {
                        int64_t size = sizes_gib[s];
                        const struct level levels[] = {
                                {size * 10000, 300, false},
                                {size * 20000, 50,  false},
                                {size * 7000,  100, false}
                        };
                        struct profile p = base;
                        p.populated_bytes = size * GIB / 2;
                        p.zero_pages = size * GIB / 2 / PRECOPY_PAGE;
                        p.dirty = (struct curve){.source = FIGURE_SAMPLED,
                                                 .error = 0.1,
                                                 .hot_bytes = 134217728,
                                                 .hot_bytes_per_s = mib_per_s[r] * 1048576};
                        for (size_t l = 0; l < sizeof(levels) / sizeof(levels[0]); l++) {
                                struct plan plan;
                                assert(n < SET_MAX);
                                us[n++] = plan_time(&p, &levels[l], &plan);
                                outcomes[plan.outcome]++;
                        }
                }
        qsort(us, (size_t)n, sizeof(us[0]), by_value);
        printf("# plan_us: %d plans, %d kept, %d countered; %.1f to %.1f us\n", n, outcomes[PLAN_KEPT],
               outcomes[PLAN_COUNTERED], us[0], us[n - 1]);
        printf("BENCH plan_us %.1f us\n", us[n / 2]);
        return 0;
}

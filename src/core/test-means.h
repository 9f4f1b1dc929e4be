/* SPDX-License-Identifier: Apache-2.0 */
/* core/test-means.h - a VM to be moved, and what there is for it, as the tests of a move begin with them. */
#pragma once
#include "core/plan.h"

#define MIB  INT64_C(1048576)
#define MBIT INT64_C(1000000)

static inline struct cost cost(double mean_s, double p99_s)
{
        return (struct cost){mean_s, p99_s, FIGURE_MEASURED};
}

/* 1 GiB, half of it populated, a set of 64 MiB written at random. */
static inline struct profile some_profile(void)
{
        return (struct profile){
                .populated_bytes = 512 * MIB,
                .populated_source = FIGURE_MEASURED,
                .zero_pages = 131072,
                .zero_pages_source = FIGURE_MEASURED,
                .dirty = {.source = FIGURE_SAMPLED,
                          .error = 0.1,
                          .hot_bytes = 64.0 * MIB,
                          .hot_bytes_per_s = 31.25 * MIB},
                .device_bytes = 206000,
                .device_bytes_source = FIGURE_LEARNT,
                .setup = cost(0.02, 0.05),
                .stop = cost(0.0013, 0.0044),
                .device = cost(0.002, 0.004),
                .commit = cost(0.0005, 0.001),
                .run = cost(0.0005, 0.002),
                .zero_page = cost(8.8e-6, 9.5e-6),
                .source_cpu = cost(1.7e-9, 2e-9),
                .destination_cpu = cost(3e-9, 4e-9),
        };
}

static inline struct means some_means(void)
{
        return (struct means){
                .source = {1000 * MBIT, 1000},
                .destination = {1000 * MBIT, 1000},
                .share_min_milli = 1000,
                .goodput = 0.955,
                .goodput_error = 0.05,
                .queued_bytes = 256 << 10,
                .settle_s = 0.08
        };
}

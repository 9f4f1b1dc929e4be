/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

/* Both clocks cannot be read at once, and a thread may lose its CPU in between. */
enum { TRIES = 8, CLOSE_US = 50 };

static int64_t read_us(clockid_t clock)
{
        struct timespec t;
        (void)clock_gettime(clock, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
        return read_us(CLOCK_MONOTONIC);
}

int64_t clock_mono_of_real_us(int64_t real_us)
{
        int64_t least = INT64_MAX, ret = 0;
        for (int i = 0; i < TRIES && least > CLOSE_US; i++) {
                int64_t before = clock_mono_us(), real = read_us(CLOCK_REALTIME), after = clock_mono_us();
                if (after - before < least) {
                        least = after - before;
                        ret = before + least / 2 - (real - real_us);
                }
        }
        return ret;
}

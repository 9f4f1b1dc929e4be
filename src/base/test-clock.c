/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <glib.h>

/* The same distance on both clocks, and the order of things. */
static void test_of_real(void)
{
        enum { APART_US = 5000000, NOISE_US = 1000000 };
        int64_t real = g_get_real_time(), mono = clock_mono_us();
        int64_t now = clock_mono_of_real_us(real), ago = clock_mono_of_real_us(real - APART_US);
        g_assert_cmpint(ABS(now - mono), <, NOISE_US);
        g_assert_cmpint(ABS(now - ago - APART_US), <, NOISE_US);
        g_assert_cmpint(clock_mono_of_real_us(real + APART_US), >, clock_mono_us());
        g_assert_cmpint(clock_mono_of_real_us(0), <, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/clock/of-real", test_of_real);
        return g_test_run();
}

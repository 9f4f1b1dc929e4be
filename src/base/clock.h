/* SPDX-License-Identifier: Apache-2.0 */
/* base/clock.h - two clocks: that of the day, in which others stamp what they say, and the monotonic one. */
#pragma once
#include <stdint.h>

int64_t clock_mono_us(void);
/* What the monotonic clock was when the clock of the day was at real_us, as both stand now: exact to a tenth
 * of a millisecond where this thread gets to run for that long. May be in the future, or negative. */
int64_t clock_mono_of_real_us(int64_t real_us);

/* SPDX-License-Identifier: Apache-2.0 */
/* wire/bucket.h - a token bucket. Pure; the time is passed in. Embed it. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

struct bucket {
        int64_t rate_per_s, burst; /* rate 0: no limit */
        int64_t milli;             /* thousandths of tokens that are there */
        int64_t at_ms;             /* as of then */
};

void bucket_init(struct bucket *b, int64_t rate_per_s, int64_t burst, int64_t now_ms);
bool bucket_take(struct bucket *b, int64_t now_ms); /* one token; false: there is none */
/* Milliseconds until n tokens (at most burst) are there; 0: they are. */
int64_t bucket_wait_ms(struct bucket *b, int64_t n, int64_t now_ms);

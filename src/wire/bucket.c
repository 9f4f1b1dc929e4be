/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/bucket.h"

#include <assert.h>

enum { MILLI = 1000, RATE_MAX = 1000000, BURST_MAX = 1000000 };

void bucket_init(struct bucket *b, int64_t rate_per_s, int64_t burst, int64_t now_ms)
{
        assert(rate_per_s >= 0 && rate_per_s <= RATE_MAX && burst >= 0 && burst <= BURST_MAX);
        if (burst < 1)
                burst = 1;
        *b = (struct bucket){
                .rate_per_s = rate_per_s, .burst = burst, .milli = burst * MILLI, .at_ms = now_ms};
}

/* A token a second is a thousandth a millisecond, so that no remainder is lost. */
static void refill(struct bucket *b, int64_t now_ms)
{
        int64_t passed_ms = now_ms - b->at_ms, missing = b->burst * MILLI - b->milli;
        b->at_ms = now_ms;
        if (passed_ms <= 0)
                return;
        b->milli =
                passed_ms > missing / b->rate_per_s ? b->burst * MILLI : b->milli + passed_ms * b->rate_per_s;
}

bool bucket_take(struct bucket *b, int64_t now_ms)
{
        if (b->rate_per_s == 0)
                return true;
        refill(b, now_ms);
        if (b->milli < MILLI)
                return false;
        b->milli -= MILLI;
        return true;
}

int64_t bucket_wait_ms(struct bucket *b, int64_t n, int64_t now_ms)
{
        if (b->rate_per_s == 0)
                return 0;
        refill(b, now_ms);
        int64_t lacking = (n < b->burst ? n : b->burst) * MILLI - b->milli;
        return lacking <= 0 ? 0 : (lacking + b->rate_per_s - 1) / b->rate_per_s;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/gate.h"

#include <string.h>

enum { NETWORK_BYTES = 8 };

void gate_init(struct gate *g, int64_t rate_per_s, int64_t burst, int64_t rate_all_per_s, int64_t burst_all,
               int64_t now_ms)
{
        *g = (struct gate){.rate_per_s = rate_per_s, .burst = burst};
        bucket_init(&g->all, rate_all_per_s, burst_all, now_ms);
}

int64_t gate_wait_ms(struct gate *g, int64_t now_ms)
{
        return bucket_wait_ms(&g->all, 1, now_ms);
}

struct in6_addr gate_address(const struct in6_addr *from)
{
        struct in6_addr a = *from;
        if (!IN6_IS_ADDR_V4MAPPED(from))
                memset(&a.s6_addr[NETWORK_BYTES], 0, sizeof(a.s6_addr) - NETWORK_BYTES);
        return a;
}

/* The one that asked least recently makes room. More addresses than there are places are held back by the
 * bucket of all. */
bool gate_enter(struct gate *g, const struct in6_addr *from, int64_t now_ms)
{
        struct in6_addr address = gate_address(from);
        int at = -1, oldest = 0;
        for (int i = 0; i < GATE_ADDRESSES && at < 0; i++) {
                if (g->of[i].bucket.burst > 0 && memcmp(&g->of[i].address, &address, sizeof(address)) == 0)
                        at = i;
                else if (g->of[i].bucket.burst == 0 || (g->of[oldest].bucket.burst > 0 &&
                                                        g->of[i].bucket.at_ms < g->of[oldest].bucket.at_ms))
                        oldest = i;
        }
        if (at < 0) {
                at = oldest;
                g->of[at].address = address;
                bucket_init(&g->of[at].bucket, g->rate_per_s, g->burst, now_ms);
        }
        return bucket_take(&g->of[at].bucket, now_ms) && bucket_take(&g->all, now_ms);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* wire/gate.h - how often a handshake may be begun: by one address, and by all. A handshake costs a signature
 * and a key exchange in the loop thread, before anything is known of who asks for it. Pure; the time is
 * passed in. Embed it.
 *
 * Addresses are told apart as far as their owner cannot choose them: IPv4 as a whole, of IPv6 the network. */
#pragma once
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include "wire/bucket.h"

enum { GATE_ADDRESSES = 64 };

struct gate {
        struct bucket all;
        struct {
                struct in6_addr address;
                struct bucket bucket; /* burst 0: not used */
        } of[GATE_ADDRESSES];
        int64_t rate_per_s, burst;
};

void gate_init(struct gate *g, int64_t rate_per_s, int64_t burst, int64_t rate_all_per_s, int64_t burst_all,
               int64_t now_ms);
/* Milliseconds until somebody may; 0: now. While there are none, whoever wants in is left waiting. */
int64_t gate_wait_ms(struct gate *g, int64_t now_ms);
/* false: this address has had its share, and takes nothing from the others. */
bool gate_enter(struct gate *g, const struct in6_addr *from, int64_t now_ms);

/* The part of an address that counts. IPv4 addresses come in their IPv6 form. */
struct in6_addr gate_address(const struct in6_addr *from);

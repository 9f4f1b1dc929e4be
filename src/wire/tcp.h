/* SPDX-License-Identifier: Apache-2.0 */
/* wire/tcp.h - addresses with a port as people write them, and listening at one.
 * Every descriptor is close-on-exec and non-blocking. */
#pragma once
#include <stdint.h>
#include "base/err.h"

struct in6_addr; /* <netinet/in.h> */

enum { TCP_HOST = 128, TCP_TEXT = TCP_HOST + 16, TCP_PORT = 8421 /* where none is said */ };

struct tcp_address {
        char host[TCP_HOST]; /* a name, or an address; no brackets */
        uint16_t port;
};

/* "10.0.0.1", "10.0.0.1:8421", "[fd00::1]:8421", "fd00::1", "host-b.example:8421". Looks nothing up. */
int tcp_address_parse(const char *text, struct tcp_address *ret, struct err *err);
/* As it stands in a URL: "10.0.0.1:8421", "[fd00::1]:8421". Returns ret. */
const char *tcp_address_text(const struct tcp_address *a, char ret[TCP_TEXT]);

/* Listens there; the host is an address of this machine, not a name. Returns the descriptor. */
int tcp_listen(const struct tcp_address *a, struct err *err);
/* As unix_accept(); *ret_from is whence, an IPv4 address as its IPv6 form. */
int tcp_accept(int listen_fd, struct in6_addr *ret_from, struct err *err);

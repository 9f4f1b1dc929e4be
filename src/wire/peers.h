/* SPDX-License-Identifier: Apache-2.0 */
/* wire/peers.h - peers.conf(5): the other hosts, a group for each, by name. Who is not in it is no peer,
 * whatever certificate it has. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/err.h"
#include "wire/cert.h"
#include "wire/tcp.h"

enum { PEERS_MAX = 256, PEERS_FILE_MAX = 1 << 20 };

struct peer_entry {
        char name[CERT_NAME];
        bool has_address; /* without one it calls us, and we do not call it */
        struct tcp_address address;
        char pin[CERT_PIN];
        char server[CERT_NAME]; /* hosts with the same are on one server; "": not said */
};

struct peers {
        struct peer_entry *list; /* by name */
        size_t n;
};

/* -ENOENT: there is no such file. Anything in it that is not understood, or that is there twice, is
 * REASON_INVALID: what was meant to take somebody out must not leave them in. */
int peers_read(const char *path, struct peers *ret, struct err *err);
void peers_done(struct peers *p); /* idempotent */
/* NULL: not in it. */
const struct peer_entry *peers_find(const struct peers *p, const char *name);

/* SPDX-License-Identifier: Apache-2.0 */
/* wire/unix.h - Unix stream sockets: listening at a path, connecting, accepting, who the peer is.
 * Every descriptor is close-on-exec and non-blocking. */
#pragma once
#include <sys/types.h>
#include "base/err.h"

struct unix_peer {
        pid_t pid;
        uid_t uid;
        gid_t gid;
};

/* Listens at path with this mode. A socket there that nobody listens on any more is replaced; a live one is
 * -EADDRINUSE with REASON_BUSY, and anything that is not a socket is left alone, too. Safe against another
 * that starts at the same time. Returns the descriptor. */
int unix_listen(const char *path, mode_t mode, struct err *err);

/* REASON_PEER_LOST: nobody there. REASON_BUSY: its queue is full. Returns the descriptor. */
int unix_connect(const char *path, struct err *err);

/* Returns a descriptor, or -EAGAIN where nobody waits (err untouched). After -EMFILE, -ENFILE, -ENOMEM the
 * listener stays readable: the caller must pause it. */
int unix_accept(int listen_fd, struct err *err);

int unix_peer_get(int fd, struct unix_peer *ret_peer, struct err *err);

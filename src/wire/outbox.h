/* SPDX-License-Identifier: Apache-2.0 */
/* wire/outbox.h - lines that wait to be sent on a stream, some of them with descriptors. Embed it; no bound
 * of its own: whoever adds looks at `bytes` first. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "wire/fds.h"

struct outbox {
        struct out *first, **end;
        size_t bytes; /* unsent, newlines included */
};

void outbox_init(struct outbox *o);
void outbox_clear(struct outbox *o); /* drops everything and closes the descriptors; idempotent */

/* Takes text, malloc'ed, whose NUL at text[n] becomes the newline; empties fds (may be NULL). */
void outbox_add(struct outbox *o, char *text, size_t n, struct fds *fds);

/* Sends until all is sent or fd takes no more (0, too). *ret_n: the bytes sent, set in every case.
 * REASON_PEER_LOST where fd is broken. */
int outbox_flush(struct outbox *o, int fd, bool is_socket, uint64_t *ret_n, struct err *err);

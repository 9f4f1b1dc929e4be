/* SPDX-License-Identifier: Apache-2.0 */
/* wire/fds.h - a small owning list of descriptors. */
#pragma once
#include <stddef.h>
#include "base/err.h"

enum { FDS_ROOM = 32 };

struct fds {
        int fd[FDS_ROOM];
        size_t n;
};

void fds_close(struct fds *f);      /* closes and empties; idempotent */
int fds_add(struct fds *f, int fd); /* takes fd; -ENOBUFS: closed it instead */
int fds_dup(struct fds *f, const int *fds, size_t n,
            struct err *err);                              /* f is empty; so it stays on failure */
void fds_move(struct fds *from, struct fds *to, size_t n); /* the first n; to is empty */
int fds_take(struct fds *f, int *ret_fds, size_t n, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/fds.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void fds_close(struct fds *f)
{
        for (size_t i = 0; i < f->n; i++)
                (void)close(f->fd[i]);
        f->n = 0;
}

int fds_add(struct fds *f, int fd)
{
        if (f->n == FDS_ROOM) {
                (void)close(fd);
                return -ENOBUFS;
        }
        f->fd[f->n++] = fd;
        return 0;
}

int fds_dup(struct fds *f, const int *fds, size_t n, struct err *err)
{
        assert(f->n == 0 && n <= FDS_ROOM);
        for (size_t i = 0; i < n; i++) {
                int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
                if (fd < 0) {
                        int r = err_set(err, REASON_INTERNAL, errno, "cannot duplicate descriptor %d: %s",
                                        fds[i], strerror(errno));
                        fds_close(f);
                        return r;
                }
                f->fd[f->n++] = fd;
        }
        return 0;
}

void fds_move(struct fds *from, struct fds *to, size_t n)
{
        assert(to->n == 0 && n <= from->n);
        memcpy(to->fd, from->fd, n * sizeof(int));
        to->n = n;
        from->n -= n;
        memmove(from->fd, from->fd + n, from->n * sizeof(int));
}

int fds_take(struct fds *f, int *ret_fds, size_t n, struct err *err)
{
        if (f->n != n)
                return err_set(err, REASON_INVALID, EINVAL,
                               "%zu descriptors came with the message, %zu are needed", f->n, n);
        memcpy(ret_fds, f->fd, n * sizeof(int));
        f->n = 0;
        return 0;
}

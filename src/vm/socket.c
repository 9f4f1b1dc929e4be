/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/str.h"

enum { BACKLOG = 4 };

static int open_socket(const char *path, int flags, struct sockaddr_un *address, struct err *err)
{
        *address = (struct sockaddr_un){.sun_family = AF_UNIX};
        if (!STR_COPY(address->sun_path, path))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.100s...: too long for a socket's path",
                               path);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "socket: %s", strerror(errno));
        return fd;
}

static int close_failed(int fd, const char *path, enum reason reason, int code, struct err *err)
{
        close(fd);
        return err_set(err, reason, code, "%s: %s", path, strerror(code));
}

int vm_listen(const char *path, struct err *err)
{
        struct sockaddr_un address;
        struct stat st;
        if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
                return err_set(err, REASON_BUSY, EEXIST, "%s: there is a file that is not a socket", path);
        int fd = open_socket(path, 0, &address, err);
        if (fd < 0)
                return fd;
        if (unlink(path) < 0 && errno != ENOENT)
                return close_failed(fd, path, REASON_DENIED, errno, err);
        /* The mode is set before anybody can connect: there is nothing to accept on until listen(). */
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(path, 0600) < 0 ||
            listen(fd, BACKLOG) < 0)
                return close_failed(fd, path, REASON_INTERNAL, errno, err);
        return fd;
}

int vm_connect(const char *path, struct err *err)
{
        struct sockaddr_un address;
        int fd = open_socket(path, SOCK_NONBLOCK, &address, err);
        if (fd < 0)
                return fd;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                /* EAGAIN: so many wait already that the VMM cannot be accepting. */
                int code = errno;
                return close_failed(fd, path, code == EAGAIN ? REASON_BUSY : REASON_PEER_LOST, code, err);
        }
        return fd;
}

int vm_connect_guard(const char *path, struct err *err)
{
        struct err why = {0};
        int fd = vm_connect(path, &why);
        if (fd == -ENOENT)
                return err_set(err, REASON_UNSUPPORTED, ENOENT,
                               "its VMM was started by an older mete and has no monitor for the guard of a "
                               "move: it can be moved once it was started anew");
        if (fd < 0 && err)
                *err = why;
        return fd;
}

int vm_console_open(const char *path, struct err *err)
{
        int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        return fd;
}

/* Copy and cut: the VMM holds the descriptor and appends, so that the next byte goes to the new start. */
int vm_console_trim(const char *path, long limit_bytes, struct err *err)
{
        char old[4096];
        struct stat st;
        int r = 1;
        if (snprintf(old, sizeof(old), "%s.1", path) >= (int)sizeof(old))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.100s...: too long", path);
        int in = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (in < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "%s: %s", path, strerror(errno));
        if (fstat(in, &st) < 0 || st.st_size <= limit_bytes) {
                close(in);
                return 0;
        }
        int out = open(old, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        /* Only the end: a guest that wrote a lot since the last look must not be copied whole. */
        off_t at = st.st_size - limit_bytes;
        while (out >= 0 && at < st.st_size) {
                ssize_t n = sendfile(out, in, &at, st.st_size - at);
                if (n <= 0)
                        break;
        }
        if (out < 0 || ftruncate(in, 0) < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", old, strerror(errno));
        if (out >= 0)
                close(out);
        close(in);
        return r;
}

int64_t vm_socket_acked_bytes(int fd)
{
        struct tcp_info info = {0};
        socklen_t n = sizeof(info);
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 ||
            n < offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked))
                return -1;
        return (int64_t)info.tcpi_bytes_acked;
}

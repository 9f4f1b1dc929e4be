/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/unix.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int address(const char *path, struct sockaddr_un *ret_addr, struct err *err)
{
        size_t n = strlen(path);
        if (n == 0)
                return err_set(err, REASON_INVALID, EINVAL, "the path of a socket is empty");
        if (n >= sizeof(ret_addr->sun_path))
                return err_set(err, REASON_INVALID, ENAMETOOLONG,
                               "socket path of %zu bytes is too long, at most %zu are possible: %.100s...", n,
                               sizeof(ret_addr->sun_path) - 1, path);
        *ret_addr = (struct sockaddr_un){.sun_family = AF_UNIX};
        memcpy(ret_addr->sun_path, path, n + 1);
        return 0;
}

static int new_socket(struct err *err)
{
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        return fd >= 0 ? fd : err_set(err, REASON_INTERNAL, errno, "socket: %s", strerror(errno));
}

/* The directory is locked while one looks, replaces and listens. Without it, two that start together both
 * find a dead socket, and the second takes away the first one's live one. No lock file is left behind. */
static int lock_directory(const char *path, struct err *err)
{
        char dir[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
        const char *slash = strrchr(path, '/');
        size_t n = slash ? (size_t)(slash - path) + (slash == path) : 1;
        memcpy(dir, slash ? path : ".", n);
        dir[n] = '\0';
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return err_set(err, errno == ENOENT ? REASON_NOT_FOUND : REASON_INTERNAL, errno,
                               "cannot listen at %s: %s: %s", path, dir, strerror(errno));
        if (flock(fd, LOCK_EX) < 0) {
                int r = err_set(err, REASON_INTERNAL, errno, "cannot lock %s: %s", dir, strerror(errno));
                (void)close(fd);
                return r;
        }
        return fd;
}

/* 0: the path is free (now). */
static int clear_path(const struct sockaddr_un *addr, struct err *err)
{
        const char *path = addr->sun_path;
        struct stat st;
        if (lstat(path, &st) < 0)
                return errno == ENOENT
                               ? 0
                               : err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        if (!S_ISSOCK(st.st_mode))
                return err_set(err, REASON_INVALID, EEXIST,
                               "cannot listen at %s: something else than a socket is there", path);
        int fd = new_socket(err);
        if (fd < 0)
                return fd;
        /* EAGAIN is a live listener with a full queue. */
        int r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
        (void)close(fd);
        if (r == 0 || r == EAGAIN || r == EPROTOTYPE)
                return err_set(
                        err, REASON_BUSY, EADDRINUSE,
                        "cannot listen at %s: another process already does; stop it or choose another path",
                        path);
        if (r != ECONNREFUSED && r != ENOENT)
                return err_set(err, REASON_INTERNAL, r, "cannot tell whether %s is in use: %s", path,
                               strerror(r));
        if (unlink(path) < 0 && errno != ENOENT)
                return err_set(err, REASON_INTERNAL, errno, "cannot remove the dead socket %s: %s", path,
                               strerror(errno));
        return 0;
}

static int listen_there(const struct sockaddr_un *addr, mode_t mode, struct err *err)
{
        const char *step;
        int fd = new_socket(err);
        if (fd < 0)
                return fd;
        /* Nobody gets in between bind and chmod: until listen() every connect is refused. */
        if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
                step = "bind";
        else if (chmod(addr->sun_path, mode) < 0)
                step = "chmod";
        else if (listen(fd, SOMAXCONN) < 0)
                step = "listen";
        else
                return fd;
        int r = err_set(err, errno == EACCES ? REASON_DENIED : REASON_INTERNAL, errno,
                        "cannot listen at %s: %s: %s", addr->sun_path, step, strerror(errno));
        (void)close(fd);
        return r;
}

int unix_listen(const char *path, mode_t mode, struct err *err)
{
        struct sockaddr_un addr;
        int r = address(path, &addr, err);
        if (r < 0)
                return r;
        int lock = lock_directory(path, err);
        if (lock < 0)
                return lock;
        r = clear_path(&addr, err);
        int fd = r < 0 ? r : listen_there(&addr, mode, err);
        (void)close(lock);
        return fd;
}

int unix_connect(const char *path, struct err *err)
{
        struct sockaddr_un addr;
        int r = address(path, &addr, err);
        if (r < 0)
                return r;
        int fd = new_socket(err);
        if (fd < 0)
                return fd;
        if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
                return fd;
        int e = errno;
        (void)close(fd);
        enum reason why = e == EACCES || e == EPERM          ? REASON_DENIED
                          : e == EAGAIN                      ? REASON_BUSY
                          : e == ENOENT || e == ECONNREFUSED ? REASON_PEER_LOST
                                                             : REASON_INTERNAL;
        return err_set(err, why, e, "cannot connect to %s: %s", path,
                       e == ECONNREFUSED ? "nobody listens there any more"
                       : e == ENOENT     ? "nobody listens there"
                       : e == EAGAIN     ? "its queue is full"
                                         : strerror(e));
}

int unix_accept(int listen_fd, struct err *err)
{
        for (;;) {
                int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (fd >= 0)
                        return fd;
                if (errno == EINTR || errno == ECONNABORTED)
                        continue;
                if (errno == EAGAIN)
                        return -EAGAIN;
                return err_set(err, REASON_INTERNAL, errno, "cannot accept a connection: %s",
                               strerror(errno));
        }
}

int unix_peer_get(int fd, struct unix_peer *ret_peer, struct err *err)
{
        struct ucred cred;
        socklen_t n = sizeof(cred);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
                return err_set(err, REASON_INTERNAL, errno, "cannot tell who the peer is: %s",
                               strerror(errno));
        *ret_peer = (struct unix_peer){.pid = cred.pid, .uid = cred.uid, .gid = cred.gid};
        return 0;
}

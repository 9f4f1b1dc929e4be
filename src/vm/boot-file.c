/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/boot-file.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"
#include "base/units.h"

enum { END_BYTES = 64 << 10, PIECE_BYTES = 4 << 10, PIECES = 62, WHOLE_BYTES = 384 << 10 };

static int add(int fd, int64_t at, int64_t bytes, GChecksum *sum)
{
        unsigned char buffer[PIECE_BYTES];
        while (bytes > 0) {
                ssize_t n = pread(fd, buffer, (size_t)MIN(bytes, (int64_t)sizeof(buffer)), at);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO; /* it was cut short meanwhile */
                g_checksum_update(sum, buffer, n);
                at += n;
                bytes -= n;
        }
        return 0;
}

static int add_samples(int fd, int64_t size, GChecksum *sum)
{
        if (size <= WHOLE_BYTES)
                return add(fd, 0, size, sum);
        int bad = add(fd, 0, END_BYTES, sum);
        for (int n = 1; n <= PIECES && !bad; n++) /* the remainder apart: a size may have 53 bits */
                bad = add(fd, size / (PIECES + 1) * n + size % (PIECES + 1) * n / (PIECES + 1), PIECE_BYTES,
                          sum);
        return bad ? bad : add(fd, size - END_BYTES, END_BYTES, sum);
}

static int see(int fd, const char *what, const char *name, struct api_peer_file *ret, struct err *err)
{
        struct api_peer_file seen = {0};
        struct stat st;
        if (fstat(fd, &st) < 0)
                return err_set(err, REASON_INTERNAL, errno, "the %s %s: %s", what, name, strerror(errno));
        if (!S_ISREG(st.st_mode) || st.st_size >= UNITS_MAX)
                return err_set(err, REASON_INCOMPATIBLE, ENODEV, "the %s %s is not a regular file", what,
                               name);
        GChecksum *sum = g_checksum_new(G_CHECKSUM_SHA256);
        int bad = add_samples(fd, st.st_size, sum);
        seen.bytes = st.st_size;
        (void)STR_COPY(seen.digest, g_checksum_get_string(sum));
        g_checksum_free(sum);
        if (bad)
                return err_set(err, REASON_NOT_FOUND, -bad, "the %s %s cannot be read: %s", what, name,
                               strerror(-bad));
        *ret = seen;
        return 0;
}

int boot_file_see(const char *dir, const char *what, const char *name, struct api_peer_file *ret,
                  struct err *err)
{
        char path[PATH_MAX];
        int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
        int fd = -1;
        if (n < 0 || (size_t)n >= sizeof(path))
                errno = ENAMETOOLONG;
        else
                fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* whatever lies there */
        if (fd < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "the %s %s: %s", what, name, strerror(errno));
        int bad = see(fd, what, name, ret, err);
        (void)close(fd);
        return bad;
}

int boot_file_compare(const char *what, const char *name, const struct api_peer_file *here,
                      const struct api_peer_file *there, struct err *err)
{
        if (here->bytes != there->bytes)
                return err_set(err, REASON_INCOMPATIBLE, EXDEV,
                               "the %s %s is another one: its size is %" PRId64 " here, %" PRId64
                               " at its host",
                               what, name, here->bytes, there->bytes);
        if (strcmp(here->digest, there->digest) != 0)
                return err_set(err, REASON_INCOMPATIBLE, EXDEV,
                               "the %s %s is another one: its contents are not those that its host has", what,
                               name);
        return 0;
}

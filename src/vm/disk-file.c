/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/disk-file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/units.h"

/* SMB counts in units of 100 ns: finer than a microsecond its clients and its server differ. */
static void take_birth(const struct statx *st, struct api_peer_disk *to)
{
        to->has_born_us = (st->stx_mask & STATX_BTIME) && st->stx_btime.tv_sec > 0 &&
                          st->stx_btime.tv_sec < UNITS_MAX / 1000000;
        if (to->has_born_us)
                to->born_us = (int64_t)st->stx_btime.tv_sec * 1000000 + st->stx_btime.tv_nsec / 1000;
}

int disk_file_see(const char *dir, const char *name, struct api_peer_disk *ret, struct err *err)
{
        char path[PATH_MAX];
        struct statx st;
        struct api_peer_disk seen = {0};
        int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
        if (n < 0 || (size_t)n >= sizeof(path))
                return err_set(err, REASON_NOT_FOUND, ENAMETOOLONG, "the disk %s: %s", name,
                               strerror(ENAMETOOLONG));
        if (statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_TYPE | STATX_INO | STATX_SIZE | STATX_BTIME,
                  &st) < 0)
                return err_set(err, REASON_NOT_FOUND, errno, "the disk %s: %s", name, strerror(errno));
        if (!S_ISREG(st.stx_mode) || st.stx_size >= UNITS_MAX)
                return err_set(err, REASON_INCOMPATIBLE, ENODEV, "the disk %s is not a regular file", name);
        (void)snprintf(seen.inode, sizeof(seen.inode), "%" PRIx64, (uint64_t)st.stx_ino);
        seen.bytes = (int64_t)st.stx_size;
        take_birth(&st, &seen);
        *ret = seen;
        return 0;
}

static int differs(const char *name, const char *what, const char *here, const char *there, struct err *err)
{
        return err_set(err, REASON_INCOMPATIBLE, EXDEV,
                       "the disk %s is not the same file: its %s is %s here, %s at its host", name, what,
                       here, there);
}

static int compare_figures(const char *name, const char *what, int64_t here, int64_t there, struct err *err)
{
        char a[24], b[24];
        (void)snprintf(a, sizeof(a), "%" PRId64, here);
        (void)snprintf(b, sizeof(b), "%" PRId64, there);
        return here == there ? 0 : differs(name, what, a, b, err);
}

int disk_file_compare(const char *name, const struct api_peer_disk *here, const struct api_peer_disk *there,
                      struct err *err)
{
        int bad = compare_figures(name, "size", here->bytes, there->bytes, err);
        if (!bad && strcmp(here->inode, there->inode) != 0)
                bad = differs(name, "inode", here->inode, there->inode, err);
        if (!bad && here->has_born_us && there->has_born_us)
                bad = compare_figures(name, "birth (us)", here->born_us, there->born_us, err);
        return bad;
}

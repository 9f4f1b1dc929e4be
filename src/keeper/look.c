/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/look.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/sysmacros.h>
#include "base/str.h"

/* 1 + which directory it lies in, directly and under a name of ours; 0: none. */
static size_t dir_of(const char *path, const char *const *dirs, size_t n_dirs)
{
        for (size_t i = 0; i < n_dirs; i++) {
                size_t n = strlen(dirs[i]);
                if (strncmp(path, dirs[i], n) == 0 && path[n] == '/' && str_is_name(path + n + 1))
                        return i + 1;
        }
        return 0;
}

/* The same name may have been that of several files: one that has another inode is another. */
static int add(struct look *l, const struct look_file *f, struct err *err)
{
        for (size_t i = 0; i < l->n; i++)
                if (strcmp(l->files[i].path, f->path) == 0 && l->files[i].device == f->device &&
                    l->files[i].inode == f->inode) {
                        l->files[i].bytes += f->bytes;
                        return 0;
                }
        if (l->n == LOOK_FILES_MAX)
                return err_set(err, REASON_INVALID, E2BIG, "a VMM has more than %d files mapped",
                               LOOK_FILES_MAX);
        l->files[l->n++] = *f;
        return 0;
}

int look_parse(FILE *maps, const char *const *dirs, size_t n_dirs, struct look *ret, struct err *err)
{
        char line[LOOK_PATH + 128];
        bool is_whole = true; /* what is read begins a line */
        ret->n = 0;
        while (fgets(line, sizeof(line), maps)) {
                char mode[5] = "";
                unsigned major = 0, minor = 0;
                uint64_t from = 0, to = 0;
                int at = 0;
                struct look_file f = {.bytes = 0};
                size_t n = strlen(line);
                bool begins = is_whole;
                is_whole = n > 0 && line[n - 1] == '\n';
                if (is_whole)
                        line[n - 1] = '\0';
                /* NOLINTNEXTLINE(cert-err34-c): the kernel's own words */
                int got = sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %x:%x %" SCNu64 " %n", &from, &to,
                                 mode, &major, &minor, &f.inode, &at);
                if (!begins || !is_whole || got < 6 || at == 0 || mode[3] != 's' ||
                    (f.dir = dir_of(line + at, dirs, n_dirs)) == 0 || !STR_COPY(f.path, line + at))
                        continue;
                f.dir--;
                f.device = makedev(major, minor);
                f.bytes = (int64_t)(to - from);
                int r = add(ret, &f, err);
                if (r < 0)
                        return r;
        }
        return ferror(maps) ? err_set(err, REASON_INTERNAL, EIO, "the maps of a VMM cannot be read") : 0;
}

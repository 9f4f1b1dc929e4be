/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/ramdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "host/cgroupfs.h"

enum { OPEN_DIR = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC };

int ramdir_open_base(const char *path, struct err *err)
{
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        int fd = open(path, OPEN_DIR);
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0) {
                int r = err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
                if (fd >= 0)
                        (void)close(fd);
                return r;
        }
        if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH))) {
                (void)close(fd);
                return err_set(err, REASON_POLICY, EPERM,
                               "%s must belong to root and be writable by nobody else", path);
        }
        return fd;
}

/* A directory is flattened: what is in it moves up one level under a fresh name or is unlinked, until it
 * can be removed itself. So the depth that a VM chose costs neither stack nor descriptors. */
static int flatten(int top_fd, const char *name, unsigned *fresh, int *budget)
{
        int fd = openat(top_fd, name, OPEN_DIR);
        if (fd < 0)
                return -errno;
        DIR *d = fdopendir(fd);
        if (!d) {
                int r = -errno;
                (void)close(fd);
                return r;
        }
        int r = 0;
        for (struct dirent *e; r == 0 && (e = readdir(d));) {
                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                if (--*budget < 0) {
                        r = -EAGAIN;
                } else if (unlinkat(fd, e->d_name, 0) < 0) {
                        char up[32];
                        /* The name may be taken by a directory of the VM's own: then the next one. */
                        do {
                                (void)snprintf(up, sizeof(up), ".up-%u", (*fresh)++);
                                r = renameat(fd, e->d_name, top_fd, up) < 0 ? -errno : 0;
                        } while ((r == -ENOTEMPTY || r == -EEXIST || r == -ENOTDIR) && --*budget > 0);
                }
        }
        (void)closedir(d);
        return r < 0 ? r : unlinkat(top_fd, name, AT_REMOVEDIR) < 0 ? -errno : 0;
}

/* Only a plain file, of whoever owns the directory. */
static bool stays(int fd, const char *name, const struct ramdir_keep *keep)
{
        struct stat st, dir;
        for (size_t i = 0; i < keep->n; i++)
                if (strcmp(keep->names[i], name) == 0)
                        return fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &dir) == 0 &&
                               S_ISREG(st.st_mode) && st.st_uid == dir.st_uid;
        return false;
}

static int empty(int fd, const struct ramdir_keep *keep)
{
        DIR *d = fdopendir(fd);
        if (!d) {
                int r = -errno;
                (void)close(fd);
                return r;
        }
        int r = 0, budget = RAMDIR_BUDGET;
        unsigned fresh = 0;
        /* What moved up may or may not be seen in the same pass, hence passes until one finds nothing. */
        for (bool is_found = true; is_found && r == 0;) {
                is_found = false;
                rewinddir(d);
                for (struct dirent *e; r == 0 && (e = readdir(d));) {
                        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                            stays(dirfd(d), e->d_name, keep))
                                continue;
                        is_found = true;
                        if (--budget < 0)
                                r = -EAGAIN;
                        else if (unlinkat(dirfd(d), e->d_name, 0) < 0)
                                r = flatten(dirfd(d), e->d_name, &fresh, &budget);
                        if (r == -ENOENT)
                                r = 0;
                }
        }
        (void)closedir(d);
        return r;
}

static int clear(int base_fd, const char *vm, const struct ramdir_keep *keep, bool is_last, struct err *err)
{
        int fd = openat(base_fd, vm, OPEN_DIR);
        if (fd < 0 && errno == ENOENT)
                return 0;
        int r = fd < 0 ? -errno : empty(fd, keep);
        if (r == 0 && is_last && unlinkat(base_fd, vm, AT_REMOVEDIR) < 0)
                r = -errno;
        if (r == -EAGAIN)
                return err_set(err, REASON_BUSY, EAGAIN, "%s left very many files behind: drop it again", vm);
        if (r < 0)
                return err_set(err, REASON_INTERNAL, -r, "RAM files of %s: %s", vm, strerror(-r));
        return 0;
}

int ramdir_drop(int base_fd, const char *vm, struct err *err)
{
        return clear(base_fd, vm, &(struct ramdir_keep){0}, true, err);
}

int ramdir_prune(int base_fd, const char *vm, const struct ramdir_keep *keep, struct err *err)
{
        return clear(base_fd, vm, keep, false, err);
}

/* What it has of another uid, from before a change of the configuration, is not its own. */
static bool belongs_to(int base_fd, const char *vm, uid_t uid)
{
        struct stat st;
        return fstatat(base_fd, vm, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) && st.st_uid == uid;
}

int ramdir_check_free(int base_fd, const char *vm, int64_t bytes, struct err *err)
{
        struct statvfs fs;
        if (fstatvfs(base_fd, &fs) < 0)
                return err_set(err, REASON_INTERNAL, errno, "file system of RAM files: %s", strerror(errno));
        uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
        if (free_bytes < (uint64_t)bytes)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "the file system of RAM files has %llu MiB free, %s may need %lld",
                               (unsigned long long)(free_bytes >> 20), vm, (long long)(bytes >> 20));
        return 0;
}

/* "MemFree:  123 kB", or with "Node 0 " before it. Bytes, or 0. */
static int64_t amount_of(const char *text, const char *key)
{
        const char *at = strstr(text, key);
        long long kib = at ? strtoll(at + strlen(key), NULL, 10) : 0;
        return kib > 0 && kib < INT64_MAX / 1024 ? kib * 1024 : 0;
}

static bool has_other_nodes(const char *sysfs)
{
        char path[256];
        (void)snprintf(path, sizeof(path), "%.160s/devices/system/node", sysfs);
        DIR *d = opendir(path);
        unsigned n = 0;
        for (struct dirent *e; d && (e = readdir(d));)
                n += strncmp(e->d_name, "node", 4) == 0 && e->d_name[4] >= '0' && e->d_name[4] <= '9';
        if (d)
                (void)closedir(d);
        return n > 1;
}

int ramdir_check_node(int base_fd, const char *sysfs, int64_t node, int64_t bytes, struct err *err)
{
        char dir[256], text[4096];
        struct statfs fs;
        const char *top = sysfs ? sysfs : "/sys";
        if (fstatfs(base_fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
                return 0;
        (void)snprintf(dir, sizeof(dir), "%.160s/devices/system/node/node%lld", top, (long long)node);
        bool is_own = has_other_nodes(top);
        int r = cgroupfs_read(dir, "meminfo", text, sizeof(text), NULL);
        if (r < 0 && (is_own || node > 0))
                return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no NUMA node %lld", (long long)node);
        /* The only node's own figures may be those of before memory was added to the machine. */
        if (!is_own && (r = cgroupfs_read("/proc", "meminfo", text, sizeof(text), err)) < 0)
                return r;
        int64_t free_bytes = is_own ? amount_of(text, " MemFree:") + amount_of(text, " Inactive(file):") +
                                              amount_of(text, " SReclaimable:")
                                    : amount_of(text, "MemAvailable:");
        if (free_bytes < bytes)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "node %lld has %lld MiB to spare, %lld are needed", (long long)node,
                               (long long)(free_bytes >> 20), (long long)(bytes >> 20));
        return 0;
}

/* ITEM, or ITEM-SIZE. */
static bool is_of(const char *name, const char *item)
{
        size_t n = strlen(item);
        return strncmp(name, item, n) == 0 && (!name[n] || name[n] == '-');
}

/* Calls fn for each plain file of an item; NULL: of all. What the VM put there is hostile. */
static int each_file(int base_fd, const char *vm, const char *item,
                     int (*fn)(void *arg, int dir_fd, const char *name, const struct stat *st), void *arg,
                     struct err *err)
{
        int fd = openat(base_fd, vm, OPEN_DIR);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        int r = 0;
        if (!d) {
                int code = errno;
                if (fd >= 0)
                        (void)close(fd);
                return code == ENOENT ? 0
                                      : err_set(err, REASON_INTERNAL, code, "RAM files of %s: %s", vm,
                                                strerror(code));
        }
        int budget = RAMDIR_BUDGET;
        for (struct dirent *e; r == 0 && --budget > 0 && (e = readdir(d));) {
                struct stat st;
                if ((item && !is_of(e->d_name, item)) ||
                    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
                        continue;
                r = fn(arg, dirfd(d), e->d_name, &st);
        }
        (void)closedir(d);
        return r;
}

struct taken {
        int64_t bytes;
        bool is_found;
};

static int add_taken(void *arg, int dir_fd, const char *name, const struct stat *st)
{
        struct taken *t = arg;
        t->bytes += (int64_t)st->st_blocks * 512;
        t->is_found = true;
        return 0;
}

int ramdir_taken(int base_fd, const char *vm, const char *item, int64_t *ret_bytes, struct err *err)
{
        struct taken t = {0};
        int r = each_file(base_fd, vm, item, add_taken, &t, err);
        if (r == 0 && t.is_found)
                *ret_bytes = t.bytes;
        return r < 0 ? r : t.is_found;
}

/* Emptied first: a mapping of it would keep what an unlinked file has. */
static int remove_file(void *arg, int dir_fd, const char *name, const struct stat *st)
{
        int fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0) {
                (void)!ftruncate(fd, 0);
                (void)close(fd);
        }
        return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int ramdir_remove(int base_fd, const char *vm, const char *item, struct err *err)
{
        struct err none = {0};
        err = err ? err : &none;
        int r = each_file(base_fd, vm, item, remove_file, NULL, err);
        return r < 0 && !err->code
                       ? err_set(err, REASON_INTERNAL, -r, "RAM file %s of %s: %s", item, vm, strerror(-r))
                       : r;
}

static int take_name(void *arg, int dir_fd, const char *name, const struct stat *st)
{
        return snprintf(arg, RAMDIR_NAME, "%s", name) < RAMDIR_NAME;
}

int ramdir_name(int base_fd, const char *vm, const char *item, char ret[RAMDIR_NAME], struct err *err)
{
        return each_file(base_fd, vm, item, take_name, ret, err);
}

struct opened {
        struct ramdir_file *files;
        size_t n, n_open;
        uid_t uid;
};

/* What it is called means nothing until it is open: the VM may put another there at any time. */
static int open_file(void *arg, int dir_fd, const char *name, const struct stat *seen)
{
        struct opened *o = arg;
        struct ramdir_file *f = o->files;
        while (f < o->files + o->n && (f->fd >= 0 || !is_of(name, f->item)))
                f++;
        if (f == o->files + o->n || strlen(name) >= sizeof(f->name))
                return 0;
        struct stat st;
        int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT || errno == ELOOP ? 0 : -errno;
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != o->uid || st.st_nlink != 1) {
                (void)close(fd);
                return 0;
        }
        f->fd = fd;
        (void)snprintf(f->name, sizeof(f->name), "%s", name);
        f->bytes = (int64_t)st.st_size;
        o->n_open++;
        return 0;
}

int ramdir_open(int base_fd, const char *vm, uid_t uid, struct ramdir_file *files, size_t n, struct err *err)
{
        struct opened o = {files, n, 0, uid};
        for (size_t i = 0; i < n; i++)
                o.n_open += files[i].fd >= 0;
        int r = o.n_open < n ? each_file(base_fd, vm, NULL, open_file, &o, err) : 0;
        if (r < 0 && !err->code)
                return err_set(err, REASON_INTERNAL, -r, "RAM files of %s: %s", vm, strerror(-r));
        return r < 0 ? r : (int)o.n_open;
}

static int open_vm(int base_fd, const char *vm, uid_t uid, gid_t gid, struct err *err)
{
        int fd = openat(base_fd, vm, OPEN_DIR);
        /* Owner first: chmod afterwards, as a change of owner may clear bits of the mode. */
        if (fd >= 0 && fchown(fd, uid, gid) == 0 && fchmod(fd, 0750) == 0)
                return fd;
        int r = err_set(err, REASON_INTERNAL, errno, "RAM files of %s: %s", vm, strerror(errno));
        if (fd >= 0)
                (void)close(fd);
        return r;
}

int ramdir_ensure(int base_fd, const char *vm, uid_t uid, gid_t gid, struct err *err)
{
        if (belongs_to(base_fd, vm, uid))
                return 0;
        if (mkdirat(base_fd, vm, 0700) < 0)
                return err_set(err, errno == EEXIST ? REASON_BUSY : REASON_INTERNAL, errno,
                               "RAM files of %s: %s", vm, strerror(errno));
        int fd = open_vm(base_fd, vm, uid, gid, err);
        if (fd >= 0)
                (void)close(fd);
        else
                (void)unlinkat(base_fd, vm, AT_REMOVEDIR);
        return fd < 0 ? fd : 0;
}

int ramdir_create(int base_fd, const char *vm, const char *name, struct err *err)
{
        struct stat dir, st;
        int at = openat(base_fd, vm, OPEN_DIR), code = 0;
        int fd = at < 0 ? -1 : openat(at, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
        if (fd < 0 || fstat(at, &dir) < 0 || fstat(fd, &st) < 0)
                code = errno;
        else if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
                code = EEXIST;
        else if (fchown(fd, dir.st_uid, dir.st_uid) < 0)
                code = errno;
        if (at >= 0)
                (void)close(at);
        if (code && fd >= 0)
                (void)close(fd);
        return code ? err_set(err, REASON_INTERNAL, code, "RAM file %s of %s: %s", name, vm, strerror(code))
                    : fd;
}

int ramdir_make(int base_fd, const char *vm, uid_t uid, gid_t gid, int64_t memory_bytes,
                const struct ramdir_keep *keep, struct err *err)
{
        bool is_kept = keep->n > 0 && belongs_to(base_fd, vm, uid);
        int r = is_kept ? ramdir_prune(base_fd, vm, keep, err) : ramdir_drop(base_fd, vm, err);
        for (size_t i = 0; is_kept && r == 0 && i < keep->n; i++) {
                int64_t taken = 0;
                r = ramdir_taken(base_fd, vm, keep->names[i], &taken, err);
                memory_bytes -= taken < memory_bytes ? taken : memory_bytes;
                r = r < 0 ? r : 0;
        }
        if (r == 0)
                r = ramdir_check_free(base_fd, vm, memory_bytes, err);
        if (r < 0)
                return r;
        if (!is_kept && mkdirat(base_fd, vm, 0700) < 0)
                return err_set(err, REASON_INTERNAL, errno, "RAM files of %s: %s", vm, strerror(errno));
        int fd = open_vm(base_fd, vm, uid, gid, err);
        if (fd >= 0)
                (void)close(fd);
        else
                (void)unlinkat(base_fd, vm, AT_REMOVEDIR); /* where it is empty */
        return fd < 0 ? fd : 0;
}

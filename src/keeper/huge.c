/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/huge.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "base/str.h"
#include "keeper/space.h"
#include "base/units.h"

static const char default_dir[] = "/dev/hugepages";

static int find_size(const char *path, int64_t *ret_page_bytes, struct err *err)
{
        struct statfs fs;
        if (statfs(path, &fs) < 0)
                return err_set(err, REASON_INVALID, errno, "[keeper] huge_dir: %s: %s", path,
                               strerror(errno));
        if (fs.f_type != HUGETLBFS_MAGIC)
                return err_set(
                        err, REASON_INVALID, EINVAL,
                        "[keeper] huge_dir: %s is no hugetlbfs (mount -t hugetlbfs -o pagesize=2M none %s)",
                        path, path);
        *ret_page_bytes = (int64_t)fs.f_bsize;
        return 0;
}

static const struct huge_size *find(const struct huge *h, int64_t page_bytes)
{
        for (size_t i = 0; i < h->n; i++)
                if (h->sizes[i].page_bytes == page_bytes)
                        return &h->sizes[i];
        return NULL;
}

static int add(struct huge *h, const char *path, const char *prefix, bool is_check, struct err *err)
{
        struct huge_size s = {.fd = -1};
        char text[UNITS_TEXT];
        int r = find_size(path, &s.page_bytes, err);
        if (r < 0)
                return r;
        if (find(h, s.page_bytes))
                return err_set(err, REASON_INVALID, EEXIST, "[keeper] huge_dir: two of them have pages of %s",
                               units_print_bytes(s.page_bytes, text));
        if (h->n == HUGE_SIZES)
                return err_set(err, REASON_INVALID, E2BIG, "[keeper] huge_dir: more than %d", HUGE_SIZES);
        g_autofree char *name = g_strdelimit(g_strdup(prefix), "/", '-');
        (void)snprintf(s.dir, sizeof(s.dir), "%s/%s", path, name);
        if (!is_check && (s.fd = ramdir_open_base(s.dir, err)) < 0)
                return s.fd;
        size_t at = h->n++;
        for (; at > 0 && h->sizes[at - 1].page_bytes > s.page_bytes; at--)
                h->sizes[at] = h->sizes[at - 1];
        h->sizes[at] = s;
        return 0;
}

static int init(struct huge *h, const struct keeper_config *c, bool is_check, struct err *err)
{
        int r = 0;
        for (char **each = c->huge_dirs; r == 0 && each && *each; each++)
                r = add(h, *each, c->cgroup_prefix, is_check, err);
        if (!c->huge_dirs)
                (void)add(h, default_dir, c->cgroup_prefix, is_check, NULL);
        if (h->n == 0)
                (void)snprintf(h->fallback, sizeof(h->fallback), "no memory on huge pages: %s",
                               c->huge_dirs
                                       ? "[keeper] huge_dir in keeper.conf is empty"
                                       : "[keeper] huge_dir is not set, and /dev/hugepages is no hugetlbfs");
        if (r < 0)
                huge_done(h);
        return r;
}

int huge_init(struct huge *h, const struct keeper_config *config, const struct memory_host *memory,
              struct err *err)
{
        *h = (struct huge){.memory = memory, .config = config};
        return init(h, config, false, err);
}

int huge_check(struct huge *h, const struct keeper_config *config, struct err *err)
{
        *h = (struct huge){0};
        return init(h, config, true, err);
}

void huge_done(struct huge *h)
{
        for (size_t i = 0; i < h->n; i++)
                if (h->sizes[i].fd >= 0) {
                        (void)close(h->sizes[i].fd);
                        (void)rmdir(h->sizes[i].dir);
                }
        h->n = 0;
}

int huge_make(const struct huge *h, const char *vm, uid_t uid, bool is_wanted, const struct ramdir_keep *keep,
              struct err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < h->n; i++)
                r = is_wanted ? ramdir_make(h->sizes[i].fd, vm, uid, space_of_vm(h->config, vm)->gid, 0, keep,
                                            err)
                              : ramdir_drop(h->sizes[i].fd, vm, err);
        return r;
}

int huge_clear(const struct huge *h, const char *vm, const struct ramdir_keep *keep, struct err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < h->n; i++)
                r = keep->n ? ramdir_prune(h->sizes[i].fd, vm, keep, err)
                            : ramdir_drop(h->sizes[i].fd, vm, err);
        return r;
}

int huge_release(const struct huge *h, const char *vm, const struct ramdir_keep *keep, struct err *err)
{
        const struct memory_keep items = {keep->names, keep->n};
        return h->memory ? memory_pages_release(h->memory, vm, &items, err) : 0;
}
_Static_assert((int)RAMDIR_NAME == (int)sizeof(((struct memory_holder *)0)->item), "one list for both");

static struct memory_holder holder(const char *vm, const char *item)
{
        struct memory_holder by = {0};
        (void)STR_COPY(by.vm, vm);
        (void)STR_COPY(by.item, item);
        return by;
}

const char *huge_file_of(const char *item)
{
        return strncmp(item, "ram", 3) == 0 ? "ram0" : item;
}

/* A place for a VM's files is there from its first pages to its last; under this lock, as activations of one
 * VM go on side by side. */
static pthread_mutex_t places = PTHREAD_MUTEX_INITIALIZER;

static int leave_place(const struct huge *h, const struct huge_size *size, const char *vm, struct err *err)
{
        (void)pthread_mutex_lock(&places);
        int r = memory_pages_of(h->memory, vm, size->page_bytes, err);
        if (r == 0)
                r = ramdir_drop(size->fd, vm, err);
        (void)pthread_mutex_unlock(&places);
        return r < 0 ? r : 0;
}

/* Pages that the kernel takes for this thread lie there; node -1: anywhere again. */
static int take_pages_of(int64_t node, struct err *err)
{
        unsigned long mask[MEMORY_NODES / (8 * sizeof(long))] = {0};
        if (node >= 0)
                mask[(size_t)node / (8 * sizeof(long))] |= 1UL << ((size_t)node % (8 * sizeof(long)));
        long r = node < 0 ? syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0)
                          : syscall(SYS_set_mempolicy, MPOL_BIND, mask, MEMORY_NODES);
        if (r < 0 && errno != ENOSYS) /* a kernel without nodes */
                return err_set(err, REASON_INTERNAL, errno, "memory of node %jd: %s", (intmax_t)node,
                               strerror(errno));
        return 0;
}

/* A VMM that runs would clear the pages on its main loop, and its guest stand still meanwhile: so the file is
 * made and filled here. */
static int fill(const struct huge *h, const struct huge_size *size, const char *vm, uid_t uid,
                const char *item, int64_t node, int64_t bytes, struct err *err)
{
        char name[RAMDIR_NAME + 24];
        (void)snprintf(name, sizeof(name), "%s-%jdM", item, (intmax_t)(bytes >> 20));
        (void)pthread_mutex_lock(&places);
        int r = ramdir_ensure(size->fd, vm, uid, space_of_vm(h->config, vm)->gid, err);
        int fd = r < 0 ? r : ramdir_create(size->fd, vm, name, err);
        (void)pthread_mutex_unlock(&places);
        if (fd < 0)
                return fd;
        r = take_pages_of(node, err);
        if (r == 0 && fallocate(fd, 0, 0, bytes) < 0)
                r = err_set(err, errno == ENOSPC ? REASON_NO_CAPACITY : REASON_INTERNAL, errno,
                            "huge pages of %s: %s", vm, strerror(errno));
        (void)take_pages_of(-1, NULL);
        (void)close(fd);
        return r;
}

int huge_activate(const struct huge *h, const char *vm, uid_t uid, const char *item, int64_t node,
                  int64_t bytes, int64_t page_bytes, struct err *err)
{
        const struct memory_holder by = holder(vm, item);
        const struct huge_size *size = find(h, page_bytes);
        char text[UNITS_TEXT];
        if (!size || !h->memory)
                return err_set(
                        err, REASON_UNSUPPORTED, EOPNOTSUPP,
                        "pages of %s: [keeper] huge_dir in keeper.conf names no hugetlbfs that has them",
                        units_print_bytes(page_bytes, text));
        struct memory_held had = {0};
        int r = memory_pages_find(h->memory, &by, &had, err);
        if (r >= 0)
                r = memory_pages_set(h->memory, &by, (int)node, page_bytes, bytes / page_bytes, err);
        if (r == 0 && uid && strcmp(huge_file_of(item), "ram0") != 0 &&
            (r = fill(h, size, vm, uid, item, node, bytes, err)) < 0 && had.pages == 0)
                (void)huge_deactivate(h, vm, item, true, NULL);
        return r;
}

int huge_deactivate(const struct huge *h, const char *vm, const char *item, bool is_running, struct err *err)
{
        const struct memory_holder by = holder(vm, item);
        struct memory_held held = {0};
        int r = 0;
        while (h->memory && (r = memory_pages_find(h->memory, &by, &held, err)) == 1) {
                const struct huge_size *size = find(h, held.page_bytes);
                if (is_running && strcmp(huge_file_of(item), "ram0") == 0)
                        return err_set(err, REASON_BUSY, EBUSY, "its VMM runs");
                if (size)
                        r = ramdir_remove(size->fd, vm, huge_file_of(item), err);
                if (r >= 0)
                        r = memory_pages_set(h->memory, &by, held.node, held.page_bytes, 0, err);
                if (r >= 0 && size)
                        r = leave_place(h, size, vm, err);
                if (r < 0)
                        return r;
        }
        return r;
}

int huge_read(const struct huge *h, const char *vm, const char *item, struct api_keeper_live *live,
              const struct huge_size **ret_size, struct err *err)
{
        const struct memory_holder by = holder(vm, item);
        struct memory_held held = {0};
        int r = h->memory ? memory_pages_find(h->memory, &by, &held, err) : 0;
        if (r <= 0)
                return r;
        const struct huge_size *size = find(h, held.page_bytes);
        if ((r = memory_pages_verify(h->memory, held.node, held.page_bytes, err)) != 0)
                return r < 0 ? r : -ESTALE;
        live->has_page_bytes = live->has_node = true;
        live->page_bytes = held.page_bytes;
        live->node = held.node;
        live->reserved_bytes = held.pages * held.page_bytes;
        live->has_reserved_bytes = true;
        *ret_size = size;
        return 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A file of tmpfs has one memory policy for all who map it, which mbind(2) on any mapping of it sets: so new
 * pages come from the right nodes whoever touches them first, and no process is asked. What is there already
 * is moved by the same call, but only what the caller has mapped. So the piece is mapped here, and populated
 * where the file has data and nowhere else: to read a hole would fill it. That is done by madvise(2), as a
 * file that its owner cuts off meanwhile would end whoever reads its memory. */
#include "host/memory.h"

#include <errno.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

enum { TRIES = 3, WORD_BITS = 8 * sizeof(unsigned long), MASK_WORDS = MEMORY_NODES / WORD_BITS };

/* What is looked at: [at, at + bytes) of the file. */
struct piece {
        int fd;
        char *map;
        int64_t at, bytes, page_bytes;
        void **pages; /* room for all of them */
        int *where;
        const struct cpulist *nodes;
        unsigned long mask[MASK_WORDS];
};

static int refused(const char *what, struct err *err)
{
        int code = errno;
        enum reason why = code == ENOSYS  ? REASON_UNSUPPORTED
                          : code == EPERM ? REASON_DENIED
                                          : REASON_INTERNAL;
        return err_set(err, why, code, "%s: %s", what, strerror(code));
}

static int bind(const struct piece *p, void *map, int64_t bytes, unsigned flags, struct err *err)
{
        /* What could not be moved is no error of it: that is looked at. */
        if (syscall(SYS_mbind, map, (unsigned long)bytes, MPOL_BIND, p->mask, (unsigned long)MEMORY_NODES + 1,
                    flags) < 0 &&
            (flags == 0 || errno != EIO))
                return refused("mbind of a memory file", err);
        return 0;
}

/* All of the file has one policy again, where each piece has left its own. */
static int bind_file(const struct piece *p, int64_t file_bytes, struct err *err)
{
        void *map = mmap(NULL, (size_t)file_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, p->fd, 0);
        if (map == MAP_FAILED)
                return refused("a memory file cannot be mapped", err);
        int r = bind(p, map, file_bytes, 0, err);
        (void)munmap(map, (size_t)file_bytes);
        return r;
}

/* Where the next data begins, and ends; `to` where there is none before that. */
static int next_data(const struct piece *p, int64_t from, int64_t to, int64_t *ret_from, int64_t *ret_to,
                     struct err *err)
{
        int64_t data = lseek(p->fd, from, SEEK_DATA), hole = to;
        *ret_from = *ret_to = to;
        if (data < 0 && errno == ENXIO)
                return 0;
        if (data >= 0 && data < to)
                hole = lseek(p->fd, data, SEEK_HOLE);
        if (data < 0 || (hole < 0 && errno != ENXIO))
                return refused("the data of a memory file", err);
        data -= data % p->page_bytes;
        if (data >= to)
                return 0;
        *ret_from = data > from ? data : from;
        *ret_to = hole < 0 || hole > to ? to : hole + (-hole & (p->page_bytes - 1));
        if (*ret_to <= *ret_from) /* it was punched since */
                *ret_to = *ret_from + p->page_bytes;
        return 0;
}

static int populate(const struct piece *p, struct err *err)
{
        int64_t end = p->at + p->bytes;
        for (int64_t at = p->at, to; at < end; at = to) {
                int r = next_data(p, at, end, &at, &to, err);
                if (r < 0 || at >= end)
                        return r;
                while (madvise(p->map + (at - p->at), (size_t)(to - at), MADV_POPULATE_READ) < 0) {
                        if (errno == EINVAL)
                                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                                               "this kernel cannot populate a mapping (before 5.14): memory "
                                               "stays where it is");
                        if (errno != EAGAIN && errno != EINTR)
                                return refused("a memory file cannot be populated", err);
                }
        }
        return 0;
}

/* Of what is mapped, what lies on other nodes. */
static int count_left(const struct piece *p, int64_t *ret, struct err *err)
{
        size_t n = (size_t)(p->bytes / p->page_bytes);
        int64_t left = 0;
        for (size_t i = 0; i < n; i++)
                p->pages[i] = p->map + (int64_t)i * p->page_bytes;
        if (syscall(SYS_move_pages, 0, n, p->pages, NULL, p->where, 0) < 0)
                return refused("where memory lies", err);
        for (size_t i = 0; i < n; i++) /* negative: it is not there */
                left += p->where[i] >= 0 && !cpulist_has(p->nodes, (uint32_t)p->where[i]) ? p->page_bytes : 0;
        *ret = left;
        return 0;
}

static int move(const struct piece *p, bool is_look, struct memory_placed *ret, struct err *err)
{
        int64_t before = 0, left = 0;
        int r = populate(p, err);
        if (r == 0)
                r = count_left(p, &before, err);
        left = before;
        for (int i = 0; r == 0 && !is_look && left > 0 && i < TRIES; i++) {
                r = bind(p, p->map, p->bytes, MPOL_MF_MOVE_ALL, err);
                if (r == 0)
                        r = populate(p, err); /* what was reclaimed meanwhile */
                if (r == 0)
                        r = count_left(p, &left, err);
        }
        ret->left_bytes = left;
        ret->moved_bytes = before > left ? before - left : 0;
        return r;
}

static int move_piece(struct piece *p, bool is_look, struct memory_placed *ret, struct err *err)
{
        size_t n = (size_t)(p->bytes / p->page_bytes);
        p->pages = calloc(n, sizeof(*p->pages));
        p->where = calloc(n, sizeof(*p->where));
        int r = p->pages && p->where ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        p->map = r == 0 ? mmap(NULL, (size_t)p->bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, p->fd, p->at)
                        : MAP_FAILED;
        if (r == 0 && p->map == MAP_FAILED)
                r = refused("a memory file cannot be mapped", err);
        if (r == 0)
                r = move(p, is_look, ret, err);
        if (p->map != MAP_FAILED)
                (void)munmap(p->map, (size_t)p->bytes);
        free(p->pages);
        free(p->where);
        return r;
}

static int check(int fd, const struct cpulist *nodes, struct stat *ret, struct err *err)
{
        struct statfs fs;
        if (fstat(fd, ret) < 0 || fstatfs(fd, &fs) < 0)
                return refused("a memory file", err);
        if (fs.f_type == HUGETLBFS_MAGIC)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "memory on huge pages is not moved while its VM runs");
        if (!S_ISREG(ret->st_mode) || cpulist_next(nodes, 0) < 0 || cpulist_next(nodes, MEMORY_NODES) >= 0)
                return err_set(err, REASON_INVALID, EINVAL, "no memory file, or no such nodes");
        return 0;
}

int memory_place(int fd, const struct cpulist *nodes, int64_t offset, int64_t bytes, bool is_look,
                 struct memory_placed *ret, struct err *err)
{
        struct piece p = {.fd = fd, .page_bytes = sysconf(_SC_PAGESIZE), .nodes = nodes};
        struct memory_placed placed = {.next_offset = 0};
        struct stat st;
        int64_t end;
        int r = check(fd, nodes, &st, err);
        if (r == 0 && (offset < 0 || bytes <= 0 || offset % p.page_bytes || bytes % p.page_bytes))
                r = err_set(err, REASON_INVALID, EINVAL, "a piece is of whole pages");
        if (r < 0)
                return r;
        for (int i = cpulist_next(nodes, 0); i >= 0; i = cpulist_next(nodes, (uint32_t)i + 1))
                p.mask[(size_t)i / WORD_BITS] |= 1UL << ((size_t)i % WORD_BITS);
        placed.file_bytes = placed.next_offset = st.st_size;
        if (!is_look && offset == 0 && st.st_size > 0)
                r = bind_file(&p, st.st_size, err);
        if (r == 0 && offset < st.st_size)
                r = next_data(&p, offset, st.st_size, &p.at, &end, err);
        if (r == 0 && offset < st.st_size && p.at < st.st_size) {
                p.bytes = st.st_size - p.at;
                p.bytes += -p.bytes & (p.page_bytes - 1);
                p.bytes = p.bytes < bytes ? p.bytes : bytes;
                r = move_piece(&p, is_look, &placed, err);
                placed.next_offset = p.at + p.bytes < st.st_size ? p.at + p.bytes : st.st_size;
        }
        if (r == 0 && !is_look && st.st_size > 0 && placed.next_offset == st.st_size)
                r = bind_file(&p, st.st_size, err);
        if (r == 0)
                *ret = placed;
        return r;
}

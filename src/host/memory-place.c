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

/* What is looked at: [at, at + bytes) of the file, in its part [begin, end). */
struct piece {
        int fd;
        char *map;
        int64_t begin, end, at, bytes, page_bytes;
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

/* All of the part has one policy, where each piece has left its own. */
static int bind_part(const struct piece *p, struct err *err)
{
        size_t bytes = (size_t)(p->end - p->begin);
        void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, p->fd, p->begin);
        if (map == MAP_FAILED)
                return refused("a memory file cannot be mapped", err);
        int r = bind(p, map, (int64_t)bytes, 0, err);
        (void)munmap(map, bytes);
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

static bool is_away(const struct piece *p, size_t page) /* one that is not there is not */
{
        return p->where[page] >= 0 && !cpulist_has(p->nodes, (uint32_t)p->where[page]);
}

static int look(const struct piece *p, struct err *err)
{
        size_t n = (size_t)(p->bytes / p->page_bytes);
        for (size_t i = 0; i < n; i++)
                p->pages[i] = p->map + (int64_t)i * p->page_bytes;
        if (syscall(SYS_move_pages, 0, n, p->pages, NULL, p->where, 0) < 0)
                return refused("where memory lies", err);
        return 0;
}

/* By the last look. */
static int64_t count(const struct piece *p, bool of_those_away)
{
        int64_t bytes = 0;
        for (size_t i = 0; i < (size_t)(p->bytes / p->page_bytes); i++)
                bytes += p->where[i] >= 0 && is_away(p, i) == of_those_away ? p->page_bytes : 0;
        return bytes;
}

/* To where no more than so much is to be moved; a page at least. */
static void shorten(struct piece *p, int64_t move_bytes)
{
        int64_t away = 0;
        for (size_t i = 0; i < (size_t)(p->bytes / p->page_bytes); i++) {
                away += is_away(p, i) ? p->page_bytes : 0;
                if (away > move_bytes) {
                        p->bytes = (int64_t)i * p->page_bytes;
                        return;
                }
        }
}

static int move(struct piece *p, const struct memory_place *what, struct memory_placed *ret, struct err *err)
{
        int r = populate(p, err);
        if (r == 0)
                r = look(p, err);
        if (r < 0)
                return r;
        if (!what->is_look && what->move_bytes > 0)
                shorten(p, what->move_bytes);
        int64_t before = count(p, true), left = before;
        ret->there_bytes = count(p, false);
        for (int i = 0; r == 0 && !what->is_look && left > 0 && i < TRIES; i++) {
                r = bind(p, p->map, p->bytes, MPOL_MF_MOVE_ALL, err);
                if (r == 0)
                        r = populate(p, err); /* what was reclaimed meanwhile */
                if (r == 0)
                        r = look(p, err);
                left = r == 0 ? count(p, true) : left;
        }
        ret->left_bytes = left;
        ret->moved_bytes = before > left ? before - left : 0;
        return r;
}

static int move_piece(struct piece *p, const struct memory_place *what, struct memory_placed *ret,
                      struct err *err)
{
        size_t mapped = (size_t)p->bytes, n = mapped / (size_t)p->page_bytes;
        p->pages = calloc(n, sizeof(*p->pages));
        p->where = calloc(n, sizeof(*p->where));
        int r = p->pages && p->where ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory");
        p->map =
                r == 0 ? mmap(NULL, mapped, PROT_READ, MAP_SHARED | MAP_NORESERVE, p->fd, p->at) : MAP_FAILED;
        if (r == 0 && p->map == MAP_FAILED)
                r = refused("a memory file cannot be mapped", err);
        if (r == 0)
                r = move(p, what, ret, err);
        if (p->map != MAP_FAILED)
                (void)munmap(p->map, mapped);
        free(p->pages);
        free(p->where);
        return r;
}

static int check(int fd, const struct memory_place *what, int64_t page, struct stat *ret, struct err *err)
{
        struct statfs fs;
        if (fstat(fd, ret) < 0 || fstatfs(fd, &fs) < 0)
                return refused("a memory file", err);
        if (fs.f_type == HUGETLBFS_MAGIC)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "memory on huge pages is not moved while its VM runs");
        if (!S_ISREG(ret->st_mode) || cpulist_next(what->nodes, 0) < 0 ||
            cpulist_next(what->nodes, MEMORY_NODES) >= 0)
                return err_set(err, REASON_INVALID, EINVAL, "no memory file, or no such nodes");
        if (what->begin < 0 || what->offset < what->begin || what->bytes <= 0 || what->move_bytes < 0 ||
            (what->end != 0 && what->end <= what->begin))
                return err_set(err, REASON_INVALID, EINVAL, "a piece of a part of a file is wanted");
        if (what->begin % page || what->offset % page || what->bytes % page || what->move_bytes % page)
                return err_set(err, REASON_INVALID, EINVAL, "a piece is of whole pages");
        return 0;
}

/* From where its next data is. */
static int place(struct piece *p, const struct memory_place *what, struct memory_placed *ret, struct err *err)
{
        int64_t data_end;
        int r = next_data(p, what->offset, p->end, &p->at, &data_end, err);
        if (r < 0 || p->at >= p->end)
                return r;
        p->bytes = p->end - p->at;
        p->bytes += -p->bytes & (p->page_bytes - 1);
        p->bytes = p->bytes < what->bytes ? p->bytes : what->bytes;
        r = move_piece(p, what, ret, err);
        ret->next_offset = p->at + p->bytes < p->end ? p->at + p->bytes : p->end;
        return r;
}

int memory_place(int fd, const struct memory_place *what, struct memory_placed *ret, struct err *err)
{
        struct piece p = {.fd = fd, .page_bytes = sysconf(_SC_PAGESIZE), .nodes = what->nodes};
        struct stat st;
        int r = check(fd, what, p.page_bytes, &st, err);
        if (r < 0)
                return r;
        for (int i = cpulist_next(what->nodes, 0); i >= 0; i = cpulist_next(what->nodes, (uint32_t)i + 1))
                p.mask[(size_t)i / WORD_BITS] |= 1UL << ((size_t)i % WORD_BITS);
        p.begin = what->begin;
        p.end = what->end == 0 || what->end > st.st_size ? st.st_size : what->end;
        struct memory_placed placed = {.next_offset = p.end, .file_bytes = st.st_size};
        bool has_any = p.begin < p.end;
        if (!what->is_look && has_any && what->offset == p.begin)
                r = bind_part(&p, err);
        if (r == 0 && what->offset < p.end)
                r = place(&p, what, &placed, err);
        if (r == 0 && !what->is_look && has_any && placed.next_offset == p.end)
                r = bind_part(&p, err);
        if (r == 0)
                *ret = placed;
        return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What the payload does (tests/payload), as a program under Linux: memory that is known to the last byte, of
 * which some is written round and round at a given rate.
 *
 *     dirty FILE KEY MIB AREA_MIB MIB_PER_S   has that many MiB, and writes the first AREA_MIB of them, one
 *                                             word a page
 *     dirty check FILE                        while the first one is stopped (SIGSTOP): is each page of the
 *                                             round that it must be of, and otherwise what it was made as;
 *                                             exit 1 with the first one that is not
 *
 * FILE is on a tmpfs, so these are pages of the guest's memory. They lie there in any order, so each says
 * what it is, and whoever has the guest's RAM file finds them by KEY (tests/lib/linux_guest.py).
 *
 * The first page is the board of the payload's layout (tests/payload/board.h): magic, clock, rounds, wrong
 * pages; in `unused` KEY, how many pages there are, and whether they are locked. Each other one is a struct
 * page, and is looked at before it is written: what is not of the round before is counted on the board. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../payload/board.h"

enum {
        PAGE = 4096,
        MIB = 1 << 20,
        MIB_PAGES = MIB / PAGE,
        TICK_MS = 1,
        NOISE_WORDS = (PAGE - 16) / 8,
};

struct page {
        uint32_t round; /* that wrote it last; 0: none */
        uint32_t number;
        uint64_t key;
        uint64_t noise[NOISE_WORDS]; /* made of both */
};

_Static_assert(sizeof(struct page) == PAGE, "a page");
_Static_assert(offsetof(struct board, cpu[1]) <= PAGE, "of the board's vCPUs there is the first");

struct memory {
        struct board *board;
        struct page *pages;
        uint32_t pages_n;
};

static int fail(const char *what)
{
        (void)fprintf(stderr, "dirty: %s: %s\n", what, strerror(errno));
        return 2;
}

/* splitmix64: begun anew for each page, so that each can be looked at by itself. */
static uint64_t noise(uint64_t *state)
{
        uint64_t z = *state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
}

static uint64_t seed_of(uint64_t key, uint32_t number)
{
        return key ^ (uint64_t)number << 32;
}

static void make_page(struct page *p, uint64_t key, uint32_t number)
{
        uint64_t state = seed_of(key, number);
        p->number = number;
        p->key = key;
        for (int i = 0; i < NOISE_WORDS; i++)
                p->noise[i] = noise(&state);
}

static int is_as_made(const struct page *p, uint64_t key, uint32_t number)
{
        uint64_t state = seed_of(key, number);
        if (p->number != number || p->key != key)
                return 0;
        for (int i = 0; i < NOISE_WORDS; i++) {
                if (p->noise[i] != noise(&state))
                        return 0;
        }
        return 1;
}

/* mib: of the file to be made; 0: of one that is there. */
static int map(const char *path, uint32_t mib, struct memory *ret)
{
        size_t size = ((size_t)mib * MIB_PAGES + 1) * PAGE;
        struct stat st;
        int fd = open(path, mib ? O_RDWR | O_CREAT | O_EXCL : O_RDONLY, 0600);
        if (fd < 0 || (mib && ftruncate(fd, (off_t)size) < 0) || fstat(fd, &st) < 0)
                return fail(path);
        size = (size_t)st.st_size;
        void *at = mmap(NULL, size, mib ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED)
                return fail(path);
        (void)close(fd);
        ret->board = at;
        ret->pages = (struct page *)at + 1;
        ret->pages_n = (uint32_t)(size / PAGE - 1);
        return 0;
}

static uint32_t now_ms(void)
{
        static struct timespec begin;
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        if (begin.tv_sec == 0)
                begin = t;
        return (uint32_t)((t.tv_sec - begin.tv_sec) * 1000 + (t.tv_nsec - begin.tv_nsec) / 1000000);
}

/* What the host reads at any time. */
static void put(uint32_t *field, uint32_t value)
{
        *(volatile uint32_t *)field = value;
}

/* Pages that should have been written by now, as far as they fit into one look: as the payload does it. */
static void dirty(struct memory *m, uint32_t now, uint32_t mib_per_s)
{
        static uint32_t next;
        struct board *b = m->board;
        uint32_t area_pages = b->area_bytes / PAGE;
        uint32_t due = (uint32_t)((uint64_t)now * mib_per_s * MIB_PAGES / 1000) - b->dirtied_pages;
        uint32_t most = mib_per_s * MIB_PAGES * TICK_MS / 500;
        for (uint32_t i = 0; i < due && i <= most; i++) {
                volatile uint32_t *round = &m->pages[next].round;
                if (*round != b->passes)
                        put(&b->wrong_pages, b->wrong_pages + 1);
                *round = b->passes + 1;
                if (++next >= area_pages) {
                        next = 0;
                        put(&b->passes, b->passes + 1);
                }
                put(&b->dirtied_pages, b->dirtied_pages + 1);
        }
}

static int run(const char *path, uint64_t key, uint32_t mib, uint32_t area_mib, uint32_t mib_per_s)
{
        struct memory m = {0};
        int r = map(path, mib, &m);
        if (r)
                return r;
        struct board *b = m.board;
        for (uint32_t i = 0; i < m.pages_n; i++)
                make_page(&m.pages[i], key, i);
        b->version = BOARD_VERSION;
        b->cpus_max = b->cpus = 1;
        b->cpu[0].is_on = b->cpu[0].starts = 1;
        b->area_bytes = area_mib * MIB;
        b->unused[0] = (uint32_t)key;
        b->unused[1] = (uint32_t)(key >> 32);
        b->unused[2] = m.pages_n;
        /* So that no page moves while it is looked at from outside. Without root that may not be allowed. */
        b->unused[3] = mlockall(MCL_CURRENT) == 0;
        (void)now_ms();
        put(&b->magic, BOARD_MAGIC);
        for (;;) {
                uint32_t now = now_ms();
                put(&b->ms, now);
                if (mib_per_s && area_mib)
                        dirty(&m, now, mib_per_s);
                put(&b->cpu[0].rounds, b->cpu[0].rounds + 1);
                (void)nanosleep(&(struct timespec){.tv_nsec = TICK_MS * 1000000L}, NULL);
        }
}

static int check(const char *path)
{
        struct memory m = {0};
        int r = map(path, 0, &m);
        if (r)
                return r;
        const struct board *b = m.board;
        uint64_t key = (uint64_t)b->unused[1] << 32 | b->unused[0];
        uint32_t area_pages = b->area_bytes / PAGE;
        uint32_t passes = area_pages ? b->dirtied_pages / area_pages : 0;
        uint32_t position = area_pages ? b->dirtied_pages % area_pages : 0;
        if (b->magic != BOARD_MAGIC || b->unused[2] != m.pages_n || b->wrong_pages) {
                (void)printf("the board: %u pages, %u were not of the round before\n", b->unused[2],
                             b->wrong_pages);
                return 1;
        }
        for (uint32_t i = 0; i < m.pages_n; i++) {
                uint32_t round = i < area_pages ? passes + (i < position) : 0;
                /* The one that it is at may have been written, and not yet counted. */
                int is_of_it = m.pages[i].round == round ||
                               (i == position && area_pages && m.pages[i].round == round + 1);
                if (is_of_it && is_as_made(&m.pages[i], key, i))
                        continue;
                (void)printf("page %u is of round %u, must be %u; noise %s\n", i, m.pages[i].round, round,
                             is_as_made(&m.pages[i], key, i) ? "as made" : "not as made");
                return 1;
        }
        (void)printf("%u pages as they must be\n", m.pages_n);
        return 0;
}

int main(int argc, char **argv)
{
        if (argc == 3 && strcmp(argv[1], "check") == 0)
                return check(argv[2]);
        if (argc != 6) {
                (void)fputs("usage: dirty FILE KEY MIB AREA_MIB MIB_PER_S | dirty check FILE\n", stderr);
                return 2;
        }
        uint32_t mib = (uint32_t)strtoul(argv[3], NULL, 10), area_mib = (uint32_t)strtoul(argv[4], NULL, 10);
        if (mib < 1 || mib > 4096 || area_mib > mib) {
                (void)fputs("dirty: 1 to 4096 MiB, and an area in them\n", stderr);
                return 2;
        }
        return run(argv[1], strtoull(argv[2], NULL, 16), mib, area_mib, (uint32_t)strtoul(argv[5], NULL, 10));
}

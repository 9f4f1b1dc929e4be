/* SPDX-License-Identifier: Apache-2.0 */
/* On files of this very machine, whatever nodes it has: what lies where, that holes stay holes, that pieces
 * add up, and what is refused. That pages really go from one node to another: tests/nested. */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "host/memory.h"

enum { PAGES = 64 };
static int64_t page;

/* Data at pages 3, 4 and 40; two pages are the piece. */
static int sparse_file(void)
{
        int fd = memfd_create("ram", MFD_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, PAGES * page), ==, 0);
        for (size_t i = 0; i < 3; i++)
                g_assert_cmpint(pwrite(fd, "x", 1, (off_t[]){3, 4, 40}[i] * page + 7), ==, 1);
        return fd;
}

static bool is_there(int fd, int64_t at)
{
        return lseek(fd, at * page, SEEK_DATA) == at * page;
}

static void is_sparse_still(int fd)
{
        for (int64_t i = 0; i < PAGES; i++)
                g_assert_true(is_there(fd, i) == (i == 3 || i == 4 || i == 40));
}

static int place(int fd, const struct cpulist *nodes, int64_t offset, int64_t bytes, bool is_look,
                 struct memory_placed *ret, struct err *err)
{
        const struct memory_place what = {
                .nodes = nodes, .offset = offset, .bytes = bytes, .is_look = is_look};
        return memory_place(fd, &what, ret, err);
}

/* Of all pieces, and how many there were. */
static struct memory_placed sweep(int fd, const struct cpulist *nodes, int64_t bytes, bool is_look,
                                  int *ret_n)
{
        struct memory_placed all = {0}, one;
        struct err err = {0};
        for (*ret_n = 0; all.next_offset < PAGES * page || *ret_n == 0; ++*ret_n) {
                int r = place(fd, nodes, all.next_offset, bytes, is_look, &one, &err);
                if (r < 0)
                        g_error("%s", err.sentence);
                g_assert_cmpint(one.next_offset, >, all.next_offset);
                g_assert_cmpint(one.file_bytes, ==, PAGES * page);
                all.next_offset = one.next_offset;
                all.moved_bytes += one.moved_bytes;
                all.left_bytes += one.left_bytes;
                all.there_bytes += one.there_bytes;
        }
        return all;
}

static struct cpulist nodes_of(uint32_t node)
{
        struct cpulist nodes = {0};
        (void)cpulist_add(&nodes, node);
        return nodes;
}

/* All nodes that memory is on here. */
static struct cpulist all_nodes(void)
{
        struct cpulist nodes;
        g_autofree char *text = NULL;
        if (!g_file_get_contents("/sys/devices/system/node/has_memory", &text, NULL, NULL))
                return nodes_of(0);
        g_assert_cmpint(cpulist_parse(text, &nodes, NULL), ==, 0);
        return nodes;
}

static bool cannot(bool is_look)
{
        struct cpulist nodes = all_nodes();
        struct memory_placed placed;
        struct err err = {0};
        int fd = sparse_file();
        int r = place(fd, &nodes, 0, page, is_look, &placed, &err);
        (void)close(fd);
        if (r < 0 && (err.reason == REASON_UNSUPPORTED || err.reason == REASON_DENIED))
                g_test_skip(err.sentence);
        return r < 0 && (err.reason == REASON_UNSUPPORTED || err.reason == REASON_DENIED);
}

static void test_look(void)
{
        struct cpulist here = all_nodes(), elsewhere = nodes_of(MEMORY_NODES - 1);
        int fd = sparse_file(), n;
        if (cannot(true)) {
                (void)close(fd);
                return;
        }
        struct memory_placed all = sweep(fd, &here, 2 * page, true, &n);
        g_assert_cmpint(all.left_bytes, ==, 0);
        g_assert_cmpint(all.there_bytes, ==, 3 * page);
        g_assert_cmpint(n, ==, 3); /* 3 and 4; 40; nothing behind that. What is not there is passed over */
        all = sweep(fd, &elsewhere, 2 * page, true, &n);
        g_assert_cmpint(all.left_bytes, ==, 3 * page);
        g_assert_true(all.moved_bytes == 0 && all.there_bytes == 0);
        all = sweep(fd, &elsewhere, PAGES * page, true, &n);
        g_assert_cmpint(all.left_bytes, ==, 3 * page);
        g_assert_cmpint(n, ==, 1);
        is_sparse_still(fd);
        (void)close(fd);
}

static void test_place(void)
{
        struct cpulist here = all_nodes();
        int fd = sparse_file(), n;
        char byte = 0;
        if (cannot(false)) {
                (void)close(fd);
                return;
        }
        for (int64_t bytes = page; bytes <= 128 * page; bytes *= 2) {
                struct memory_placed all = sweep(fd, &here, bytes, false, &n);
                g_assert_cmpint(all.moved_bytes, ==, 0);
                g_assert_cmpint(all.left_bytes, ==, 0);
                is_sparse_still(fd);
        }
        g_assert_cmpint(pread(fd, &byte, 1, 40 * page + 7), ==, 1);
        g_assert_cmpint(byte, ==, 'x');
        (void)close(fd);
}

static void test_refused(void)
{
        struct cpulist here = all_nodes(), nowhere = {0}, beyond = nodes_of(MEMORY_NODES);
        struct cpulist absent = nodes_of(MEMORY_NODES - 1);
        const struct memory_placed before = {1, 2, 3, 4, 5};
        struct memory_placed placed = before;
        struct err err = {0};
        int fd = sparse_file(), pipes[2];
        g_assert_cmpint(place(fd, &nowhere, 0, page, true, &placed, &err), ==, -EINVAL);
        g_assert_cmpint(place(fd, &beyond, 0, page, true, &placed, &err), ==, -EINVAL);
        g_assert_cmpint(place(fd, &here, 1, page, true, &placed, &err), ==, -EINVAL);
        g_assert_cmpint(place(fd, &here, 0, page + 1, true, &placed, &err), ==, -EINVAL);
        g_assert_cmpint(place(fd, &here, 0, 0, true, &placed, &err), ==, -EINVAL);
        g_assert_cmpint(place(fd, &here, -page, page, true, &placed, &err), ==, -EINVAL);
        g_assert_cmpint(place(fd, &absent, 0, page, false, &placed, &err), <, 0);
        g_assert_cmpint(pipe(pipes), ==, 0);
        g_assert_cmpint(place(pipes[0], &here, 0, page, true, &placed, &err), <, 0);
        g_assert_cmpmem(&placed, sizeof(placed), &before, sizeof(before));
        is_sparse_still(fd);
        (void)close(pipes[0]);
        (void)close(pipes[1]);
        (void)close(fd);
}

/* A part of it: what lies before and behind is not looked at, and the last piece ends where it does. */
static void test_part(void)
{
        struct cpulist here = all_nodes(), elsewhere = nodes_of(MEMORY_NODES - 1);
        struct memory_place what = {.nodes = &elsewhere,
                                    .begin = 4 * page,
                                    .end = 40 * page,
                                    .offset = 4 * page,
                                    .bytes = 8 * page,
                                    .is_look = true};
        struct memory_placed placed, before;
        struct err err = {0};
        int fd = sparse_file();
        if (cannot(false)) {
                (void)close(fd);
                return;
        }
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, 0);
        g_assert_true(placed.left_bytes == page && placed.next_offset == 12 * page);
        what.offset = placed.next_offset;
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, 0);
        g_assert_true(placed.left_bytes == 0 && placed.next_offset == 40 * page);
        what = (struct memory_place){
                .nodes = &here, .begin = 40 * page, .end = 41 * page, .offset = 40 * page, .bytes = 8 * page};
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, 0); /* and is bound there */
        g_assert_true(placed.there_bytes == page && placed.next_offset == 41 * page);
        what.end = 2 * PAGES * page; /* the file's own, then */
        what.bytes = PAGES * page;
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, 0);
        g_assert_true(placed.there_bytes == page && placed.next_offset == PAGES * page);
        before = placed;
        what.offset = 39 * page;
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, -EINVAL);
        what = (struct memory_place){
                .nodes = &here, .begin = page, .end = page, .offset = page, .bytes = page};
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, -EINVAL);
        what = (struct memory_place){.nodes = &here, .bytes = page, .move_bytes = page + 1};
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, -EINVAL);
        what = (struct memory_place){.nodes = &here, .begin = 100, .offset = page, .bytes = page};
        g_assert_cmpint(memory_place(fd, &what, &placed, &err), ==, -EINVAL);
        g_assert_cmpmem(&placed, sizeof(placed), &before, sizeof(before));
        is_sparse_still(fd);
        (void)close(fd);
}

/* Shorter than it was, empty, and of no whole page. */
static void test_cut_off(void)
{
        struct cpulist here = all_nodes();
        struct memory_placed placed;
        struct err err = {0};
        int fd = sparse_file();
        if (cannot(true)) {
                (void)close(fd);
                return;
        }
        g_assert_cmpint(ftruncate(fd, 4 * page + 100), ==, 0);
        g_assert_cmpint(place(fd, &here, 0, PAGES * page, true, &placed, &err), ==, 0);
        g_assert_cmpint(placed.next_offset, ==, 4 * page + 100);
        g_assert_cmpint(place(fd, &here, 40 * page, page, true, &placed, &err), ==, 0);
        g_assert_cmpint(placed.next_offset, ==, placed.file_bytes);
        g_assert_cmpint(ftruncate(fd, 0), ==, 0);
        g_assert_cmpint(place(fd, &here, 0, page, false, &placed, &err), ==, 0);
        g_assert_true(placed.next_offset == 0 && placed.file_bytes == 0 && placed.left_bytes == 0);
        (void)close(fd);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        page = sysconf(_SC_PAGESIZE);
        g_test_add_func("/memory-place/look", test_look);
        g_test_add_func("/memory-place/place", test_place);
        g_test_add_func("/memory-place/refused", test_refused);
        g_test_add_func("/memory-place/part", test_part);
        g_test_add_func("/memory-place/cut-off", test_cut_off);
        return g_test_run();
}

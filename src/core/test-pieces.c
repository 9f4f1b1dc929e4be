/* SPDX-License-Identifier: Apache-2.0 */
/* A file of pages on nodes, and who moves them by what core/pieces.h says: every page is where it is to be
 * afterwards, or counted as left; what is asked for keeps to its bounds; and how large it is follows the time
 * that it takes. */
#include "core/pieces.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

enum { PAGE = 4096, PAGES = 4096, MIB = 1 << 20, NOWHERE = -1 };

struct file {
        int node[PAGES];      /* where each page lies; NOWHERE: it is not there */
        bool is_stuck[PAGES]; /* it cannot be moved */
        int64_t page_us, look_us;
        int64_t room[4]; /* asked for, of each node, at most */
        int64_t longest_us, calls;
};

/* As the keeper does. */
static struct piece_done do_piece(struct file *f, const struct piece *p)
{
        struct piece_done done = {.next_offset = p->end, .took_us = f->look_us};
        int64_t at = p->offset / PAGE, end = p->end / PAGE;
        while (at < end && f->node[at] == NOWHERE)
                at++;
        int64_t last = MIN(at + p->bytes / PAGE, end);
        for (; at < last; at++) {
                if (f->node[at] == NOWHERE)
                        continue;
                bool is_there = f->node[at] == p->node;
                if (!is_there && !p->is_look && done.moved_bytes + done.left_bytes + PAGE > p->move_bytes)
                        break;
                done.there_bytes += is_there ? PAGE : 0;
                if (is_there)
                        continue;
                if (p->is_look || f->is_stuck[at]) {
                        done.left_bytes += PAGE;
                } else {
                        f->node[at] = (int)p->node;
                        done.moved_bytes += PAGE;
                }
                done.took_us += p->is_look ? 0 : f->page_us;
        }
        done.next_offset = at * PAGE;
        f->longest_us = MAX(f->longest_us, done.took_us);
        f->calls++;
        return done;
}

static void check_asked(const struct pieces *all, const struct piece *p)
{
        g_assert_true(p->offset >= p->begin && p->offset < p->end && p->begin % PAGE == 0);
        g_assert_true(p->bytes >= PIECE_LOOK_LEAST && p->bytes <= PIECE_LOOK_MOST && p->bytes % PAGE == 0);
        g_assert_true(p->move_bytes >= PIECE_MOVE_LEAST && p->move_bytes <= PIECE_MOVE_MOST &&
                      p->move_bytes % PAGE == 0);
        g_assert_true(p->room_bytes >= 0 && p->room_bytes <= p->end - p->begin);
        g_assert_true(p->is_look == (all->pass == 0));
        g_assert_true(p->offset == p->begin || p->room_bytes == 0);
}

static void go_over(struct pieces *all, struct file *f)
{
        struct piece p;
        struct err err = {0};
        while (pieces_next(all, &p)) {
                check_asked(all, &p);
                f->room[p.node] = MAX(f->room[p.node], p.room_bytes);
                struct piece_done done = do_piece(f, &p);
                g_assert_cmpint(pieces_take(all, &done, &err), ==, 0);
                g_assert_cmpint(f->calls, <, 100000);
        }
}

static int64_t on(const struct file *f, int64_t from, int64_t to, int node)
{
        int64_t n = 0;
        for (int64_t i = from / PAGE; i < to / PAGE; i++)
                n += f->node[i] == node ? PAGE : 0;
        return n;
}

/* Two parts on two nodes, all of it on the first: forth to one node, and back to where each is to be. */
static void test_forth_and_back(void)
{
        /* clang-format off */ /* clang-format 14 dies on such rows */
        const struct pieces_part forth[] = {{.end = 8 * MIB, .node = 1}, {.end = 16 * MIB, .node = 1}};
        const struct pieces_part back[] = {{.end = 8 * MIB, .node = 0, .how = PART_WAS_THERE},
                                           {.end = 16 * MIB, .node = 1}};
        /* clang-format on */
        struct file f = {.page_us = 10, .look_us = 100};
        struct pieces p;
        for (size_t i = 0; i < PAGES; i++)
                f.node[i] = i % 3 == 0 ? NOWHERE : 0;
        int64_t first = on(&f, 0, 8 * MIB, 0), second = on(&f, 8 * MIB, 16 * MIB, 0);
        pieces_begin(&p, forth, 2, true);
        go_over(&p, &f);
        g_assert_cmpint(p.left_bytes, ==, first + second);
        g_assert_cmpint(p.moved_bytes, ==, 0);
        g_assert_cmpint(on(&f, 0, 16 * MIB, 0), ==, first + second);
        pieces_begin(&p, forth, 2, false);
        go_over(&p, &f);
        g_assert_cmpint(p.moved_bytes, ==, first + second);
        g_assert_cmpint(p.left_bytes, ==, 0);
        g_assert_cmpint(on(&f, 0, 16 * MIB, 0), ==, 0);
        g_assert_cmpint(f.room[1], ==, 8 * MIB); /* of each part all: none of it was there */
        pieces_begin(&p, back, 2, false);
        go_over(&p, &f);
        g_assert_cmpint(p.moved_bytes, ==, first);
        g_assert_cmpint(f.room[0], ==, 0); /* but for each piece */
        g_assert_cmpint(on(&f, 0, 8 * MIB, 0), ==, first);
        g_assert_cmpint(on(&f, 8 * MIB, 16 * MIB, 1), ==, second);
}

/* Ended at any piece and begun anew: as if it had not been, and what is there already takes no room again. */
static void test_begun_anew(void)
{
        for (int ends_at = 0; ends_at < 60; ends_at++) {
                const struct pieces_part part = {.end = 4 * MIB, .node = 1};
                struct file f = {.page_us = 100, .look_us = 10};
                struct pieces p;
                struct piece one;
                struct err err = {0};
                pieces_begin(&p, &part, 1, false);
                for (int i = 0; i < ends_at && pieces_next(&p, &one); i++) {
                        struct piece_done done = do_piece(&f, &one);
                        g_assert_cmpint(pieces_take(&p, &done, &err), ==, 0);
                }
                int64_t there = on(&f, 0, 4 * MIB, 1);
                f.room[1] = 0;
                pieces_begin(&p, &part, 1, false);
                go_over(&p, &f);
                g_assert_cmpint(p.moved_bytes, ==, 4 * MIB - there);
                g_assert_cmpint(f.room[1], ==, 4 * MIB - there);
                g_assert_cmpint(on(&f, 0, 4 * MIB, 1), ==, 4 * MIB);
        }
}

/* What cannot be moved is tried a bounded number of times, and counted once. */
static void test_left(void)
{
        const struct pieces_part part = {.end = 4 * MIB, .node = 1};
        struct file f = {.page_us = 10};
        struct pieces p;
        f.is_stuck[7] = f.is_stuck[900] = true;
        pieces_begin(&p, &part, 1, false);
        go_over(&p, &f);
        g_assert_cmpint(p.pass, ==, PIECES_PASSES);
        g_assert_cmpint(p.left_bytes, ==, 2 * PAGE);
        g_assert_cmpint(p.moved_bytes, ==, 4 * MIB - 2 * PAGE);
}

/* A part that may stay where it is: what is stuck in it is not counted, and where its node has no room it is
 * left out, but what is behind it is not. */
static void test_optional(void)
{
        /* clang-format off */ /* clang-format 14 dies on such rows */
        const struct pieces_part parts[] = {{.end = 4 * MIB, .node = 0},
                                            {.end = 8 * MIB, .node = 1, .how = PART_OPTIONAL},
                                            {.end = 12 * MIB, .node = 2}};
        /* clang-format on */
        for (int has_room = 0; has_room < 2; has_room++) {
                struct file f = {.page_us = 10};
                struct pieces p;
                struct piece one;
                struct err err = {0};
                int skipped = 0;
                for (size_t i = 0; i < PAGES; i++)
                        f.node[i] = 3;
                f.is_stuck[4 * MIB / PAGE + 5] = true;
                pieces_begin(&p, parts, 3, false);
                while (pieces_next(&p, &one)) {
                        if (one.node == 1 && !one.is_look && !has_room) {
                                g_assert_true(pieces_skip(&p));
                                skipped++;
                                continue;
                        }
                        g_assert_true(one.node == 1 || !pieces_skip(&p));
                        struct piece_done done = do_piece(&f, &one);
                        g_assert_cmpint(pieces_take(&p, &done, &err), ==, 0);
                }
                g_assert_cmpint(skipped, ==, !has_room);
                g_assert_cmpint(p.left_bytes, ==, 0);
                g_assert_cmpint(p.optional_bytes, ==, has_room ? PAGE : 0);
                g_assert_cmpint(p.pass, ==, has_room ? PIECES_PASSES : 1);
                g_assert_cmpint(on(&f, 0, 4 * MIB, 0), ==, 4 * MIB);
                g_assert_cmpint(on(&f, 4 * MIB, 8 * MIB, 1), ==, has_room ? 4 * MIB - PAGE : 0);
                g_assert_cmpint(on(&f, 8 * MIB, 12 * MIB, 2), ==, 4 * MIB);
        }
}

/* From a microsecond a page, which is moved by megabytes, to some milliseconds: then few pages at once. */
static void test_adapts(void)
{
        const int64_t page_us[] = {1, 10, 100, 1000, 4000};
        for (size_t i = 0; i < G_N_ELEMENTS(page_us); i++) {
                const struct pieces_part part = {.end = 16 * MIB, .node = 1};
                struct file f = {.page_us = page_us[i], .look_us = 50};
                struct pieces p;
                struct piece one;
                struct err err = {0};
                int64_t late = 0, calls = 0;
                pieces_begin(&p, &part, 1, false);
                while (pieces_next(&p, &one)) {
                        struct piece_done done = do_piece(&f, &one);
                        g_assert_cmpint(pieces_take(&p, &done, &err), ==, 0);
                        calls += !one.is_look;
                        late += done.took_us > PIECE_LONG_US + f.look_us && one.move_bytes > PIECE_MOVE_LEAST;
                }
                /* The first may be too long, as nothing is known yet, and what follows on a short one. */
                g_assert_cmpint(4 * late, <=, calls + 4);
                g_assert_cmpint(f.longest_us, <=, MAX(2 * PIECE_LONG_US, 16 * page_us[i]) + f.look_us);
        }
}

/* Where there is nothing to be moved it is soon gone over, and what then is to be is moved by little. */
static void test_looks_far(void)
{
        const struct pieces_part part = {.end = 16 * MIB, .node = 0};
        struct file f = {.page_us = 1000, .look_us = 200};
        struct pieces p;
        pieces_begin(&p, &part, 1, false);
        go_over(&p, &f);
        g_assert_cmpint(f.calls, <, 16);
        g_assert_cmpint(p.move_bytes, ==, PIECE_MOVE_FIRST);
}

static void test_nonsense(void)
{
        const struct pieces_part part = {.end = 4 * MIB, .node = 1};
        /* clang-format off */ /* clang-format 14 dies on such rows */
        const struct piece_done bad[] = {{.next_offset = 0},
                                         {.next_offset = -PAGE},
                                         {.next_offset = 5 * MIB},
                                         {.next_offset = MIB, .moved_bytes = PAGE},
                                         {.next_offset = MIB, .left_bytes = -1},
                                         {.next_offset = MIB, .there_bytes = -1}};
        /* clang-format on */
        struct pieces p, before;
        struct err err = {0};
        pieces_begin(&p, &part, 1, false);
        before = p;
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(pieces_take(&p, &bad[i], &err), ==, -EPROTO);
        g_assert_cmpmem(&p, sizeof(p), &before, sizeof(before));
}

static void test_bound(void)
{
        g_assert_cmpint(pieces_bound_ms(0, 1), ==, PIECES_BOUND_LEAST_MS);
        g_assert_cmpint(pieces_bound_ms(1, 100), ==, PIECES_BOUND_LEAST_MS + 1000);
        g_assert_cmpint(pieces_bound_ms(300, 100), ==, PIECES_BOUND_LEAST_MS + 3000);
        g_assert_cmpint(pieces_bound_ms(INT64_MAX, 1), ==, PIECES_BOUND_MOST_MS);
        g_assert_cmpint(pieces_bound_ms(INT64_MAX, INT64_MAX), ==, PIECES_BOUND_LEAST_MS + 1000);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/pieces/forth-and-back", test_forth_and_back);
        g_test_add_func("/pieces/begun-anew", test_begun_anew);
        g_test_add_func("/pieces/left", test_left);
        g_test_add_func("/pieces/optional", test_optional);
        g_test_add_func("/pieces/adapts", test_adapts);
        g_test_add_func("/pieces/looks-far", test_looks_far);
        g_test_add_func("/pieces/nonsense", test_nonsense);
        g_test_add_func("/pieces/bound", test_bound);
        return g_test_run();
}

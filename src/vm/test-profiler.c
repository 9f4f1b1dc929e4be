/* SPDX-License-Identifier: Apache-2.0 */
/* The clock is the test's: between two turns of the loop a known writer writes what is due, so that the curve
 * is known exactly, on however busy a machine. */
#include "vm/profiler.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "loop/loop.h"

enum { PAGE = PRECOPY_PAGE };

/* ---- a clock, and files ---- */

static int64_t now_us, per_call_us;

static int64_t clock_us(void)
{
        return now_us += per_call_us;
}

static void pass(int64_t us)
{
        now_us += us;
        loop_clock_fake(now_us / 1000, now_us / 1000);
}

static int make_file(int64_t pages)
{
        int fd = memfd_create("ram", MFD_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, pages * PAGE), ==, 0);
        return fd;
}

static void write_page(int fd, int64_t page, uint32_t value)
{
        g_assert_cmpint(pwrite(fd, &value, sizeof(value), page * PAGE + 64), ==, sizeof(value));
}

static void fill(int fd, int64_t first, int64_t n)
{
        for (int64_t i = first; i < first + n; i++)
                write_page(fd, i, 0xffffffff);
}

/* As who is to look gets it. */
static int reader(int fd)
{
        char path[64];
        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        int r = open(path, O_RDONLY | O_CLOEXEC);
        g_assert_cmpint(r, >=, 0);
        return r;
}

/* ---- one look at it ---- */

struct seen {
        struct profiler *profiler;
        bool is_freeing;
        unsigned calls;
        struct profiler_result r;
        struct err err;
};

static void on_done(void *arg, const struct profiler_result *r, const struct err *err)
{
        struct seen *s = arg;
        s->calls++;
        g_assert_true(!r != !err);
        if (r)
                s->r = *r;
        else
                s->err = *err;
        if (s->is_freeing) {
                profiler_free(s->profiler);
                s->profiler = NULL;
        }
}

static void begin(struct seen *s, const int *fds, size_t n, struct profiler_options o)
{
        int readers[PROFILER_FILES_MAX] = {0};
        struct err err = {0};
        *s = (struct seen){0};
        o.now_us = clock_us;
        for (size_t i = 0; i < n; i++)
                readers[i] = reader(fds[i]);
        s->profiler = profiler_new(readers, n, &o, on_done, s, &err);
        if (!s->profiler)
                g_error("%s", err.sentence);
}

/* Writes round and round: every `each`-th page of some. */
struct writer {
        int fd;
        int64_t first, each, n;
        double pages_per_s;
        int64_t written;
};

/* Never what was there: that would not be seen. */
static void write_due(struct writer *w, int64_t since_us)
{
        static uint32_t value;
        for (; (double)w->written < w->pages_per_s * (double)since_us * 1e-6; w->written++)
                write_page(w->fd, w->first + w->written % w->n * w->each, ++value);
}

static double truth(const struct writer *w, double s)
{
        return fmin(w->pages_per_s * s, (double)w->n) * PAGE;
}

static void run(struct seen *s, struct writer *w, size_t n_writers)
{
        int64_t start = now_us;
        for (size_t i = 0; i < n_writers; i++)
                w[i].written = 0;
        for (int turns = 0; s->calls == 0; turns++) {
                g_assert_cmpint(turns, <, 20000);
                pass(1000);
                for (size_t i = 0; i < n_writers; i++)
                        write_due(&w[i], now_us - start);
                (void)loop_once(false);
        }
}

static void end(struct seen *s)
{
        g_assert_cmpint(s->calls, ==, 1);
        profiler_free(s->profiler);
}

static void check_curve(const struct profiler_result *r)
{
        const struct curve *c = &r->dirty;
        g_assert_cmpint(c->n_points, ==, r->n_looks);
        for (size_t i = 0; i < c->n_points; i++) {
                g_assert_cmpfloat(c->points[i].s, >, i ? c->points[i - 1].s : 0);
                g_assert_cmpfloat(c->points[i].bytes, >=, i ? c->points[i - 1].bytes : 0);
                g_assert_cmpfloat(c->points[i].bytes * (1 + c->error) * 1.000001, >=, r->looks[i].high_bytes);
                g_assert_cmpfloat(r->looks[i].low_bytes, <=, r->looks[i].dirty_bytes);
                g_assert_cmpfloat(r->looks[i].high_bytes, >=, r->looks[i].dirty_bytes);
        }
}

/* ---- tests ---- */

/* A set that is written to round and round, pages that are not written again, and a part of the pages seen.
 */
static void test_curve(void)
{
        enum { PAGES = 20000, RUNS = 12 };
        static const double s[PROFILER_LOOKS] = {0.05, 0.2, 1, 5};
        int fd = make_file(PAGES), below = 0, above = 0, n = 0;
        fill(fd, 0, PAGES);
        for (unsigned seed = 1; seed <= RUNS; seed++) {
                struct writer w[] = {
                        {fd, 100,  1, 1500, 6000, 0},
                        {fd, 7000, 1, 9000, 400,  0}
                };
                struct seen seen;
                begin(&seen, &fd, 1, (struct profiler_options){.pages_max = 1000, .seed = seed});
                run(&seen, w, 2);
                check_curve(&seen.r);
                g_assert_cmpint(seen.r.n_looks, ==, PROFILER_LOOKS);
                g_assert_cmpint(seen.r.dirty.source, ==, FIGURE_SAMPLED);
                g_assert_cmpint(seen.r.data_bytes, ==, (int64_t)PAGES * PAGE);
                for (size_t i = 0; i < PROFILER_LOOKS; i++, n++) {
                        const struct profiler_look *l = &seen.r.looks[i];
                        double real = truth(&w[0], l->s) + truth(&w[1], l->s);
                        g_assert_cmpfloat(l->s, >, s[i] - 1e-6);
                        g_assert_cmpfloat(l->s, <, s[i] + 2e-3 * PROFILER_REST_MS);
                        g_assert_cmpint(l->pages, ==, seen.r.pages);
                        below += real < l->low_bytes;
                        above += real > l->high_bytes;
                        g_assert_cmpfloat(fabs(l->dirty_bytes - real), <, 4 * (l->high_bytes - l->low_bytes));
                }
                end(&seen);
        }
        /* Nine of ten, on each side; with these seeds always the same. */
        g_assert_cmpint(below, <=, n * 2 / 10);
        g_assert_cmpint(above, <=, n * 2 / 10);
        (void)close(fd);
}

/* The writer's stride is that of the sample: who looked at every eighth page would see all, or nothing. */
static void test_stride(void)
{
        int fd = make_file(16000);
        fill(fd, 0, 16000);
        struct writer w = {fd, 3, 8, 2000, 100000, 0};
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.pages_max = 2000, .seed = 7});
        run(&seen, &w, 1);
        const struct profiler_look *l = &seen.r.looks[PROFILER_LOOKS - 1];
        g_assert_cmpfloat(fabs(l->dirty_bytes - truth(&w, 5)), <, truth(&w, 5) / 5);
        end(&seen);
        (void)close(fd);
}

/* Several files, mostly holes, zeros in what is none: with so few pages all are looked at, and all is exact.
 */
static void test_holes_and_zeros(void)
{
        int fds[3] = {make_file(1 << 20), make_file(1000), make_file(50)};
        fill(fds[0], 0, 300);
        fill(fds[0], 500000, 40);
        for (int i = 0; i < 60; i++)
                write_page(fds[0], 700000 + i * 977, i % 2 ? 0xffffffff : 0);
        fill(fds[2], 0, 50);
        struct writer w[] = {
                {fds[0], 0,   1, 300,  1000, 0},
                {fds[1], 100, 1, 5000, 50,   0}
        };
        struct seen seen;
        begin(&seen, fds, 3, (struct profiler_options){.seed = 1});
        run(&seen, w, 2);
        check_curve(&seen.r);
        g_assert_cmpint(seen.r.source, ==, FIGURE_MEASURED);
        g_assert_cmpint(seen.r.pages, ==, 450);
        g_assert_cmpint(seen.r.data_bytes, ==, 450 * PAGE);
        g_assert_cmpint(seen.r.populated_bytes, ==, 420 * PAGE);
        g_assert_cmpint(seen.r.zero_pages, ==, (1 << 20) + 1050 - 420);
        g_assert_cmpfloat(seen.r.populated_error, ==, 0);
        for (size_t i = 0; i < PROFILER_LOOKS; i++) {
                const struct profiler_look *l = &seen.r.looks[i];
                double real = truth(&w[0], l->s) + truth(&w[1], l->s);
                g_assert_cmpfloat(fabs(l->dirty_bytes - real), <, 2 * (l->high_bytes - l->low_bytes));
                g_assert_cmpfloat(l->high_bytes - l->low_bytes, <, 50.0 * PAGE);
        }
        struct profile p = {0};
        profiler_fill(&seen.r, &p);
        g_assert_cmpint(p.populated_bytes, ==, 420 * PAGE);
        g_assert_cmpint(p.populated_source, ==, FIGURE_MEASURED);
        g_assert_cmpint(p.zero_pages, ==, seen.r.zero_pages);
        g_assert_cmpint(p.dirty.n_points, ==, PROFILER_LOOKS);
        end(&seen);
        for (size_t i = 0; i < G_N_ELEMENTS(fds); i++)
                (void)close(fds[i]);
}

/* Half of what is there is zero; only a part is looked at. */
static void test_zeros_sampled(void)
{
        int fd = make_file(16000);
        for (int i = 0; i < 16000; i++)
                write_page(fd, i, i % 2 ? 0xffffffff : 0);
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.pages_max = 1000, .seed = 3});
        run(&seen, NULL, 0);
        double real = 8000.0 * PAGE, found = (double)seen.r.populated_bytes;
        g_assert_cmpfloat(found * (1 + seen.r.populated_error), >=, real);
        g_assert_cmpfloat(fabs(found - real), <, real / 10);
        g_assert_cmpfloat(seen.r.populated_error, <, 0.06);
        /* Nobody wrote: what may be dirty all the same is little, and rises. */
        check_curve(&seen.r);
        g_assert_cmpint(seen.r.looks[PROFILER_LOOKS - 1].changed, ==, 0);
        g_assert_cmpfloat(seen.r.dirty.points[PROFILER_LOOKS - 1].bytes, <, real / 100);
        end(&seen);
        (void)close(fd);
}

/* One bit, anywhere in a page; a page that is as it was again by the next look stays dirty. */
static void test_any_bit(void)
{
        enum { PAGES = 512 };
        int fd = make_file(PAGES);
        fill(fd, 0, PAGES);
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 0}); /* the kernel's random numbers */
        for (int step = 0, ms = 0; seen.calls == 0; step++) {
                g_assert_cmpint(step, <, 20000);
                pass(1000);
                ms++;
                (void)loop_once(false);
                for (int i = 0; i < PAGES && (ms == 2100 || ms == 2500); i++) {
                        uint8_t byte;
                        off_t at = (off_t)i * PAGE + i * 8 + i % 8;
                        g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
                        byte ^= (uint8_t)(1 << i % 8);
                        g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
                }
        }
        /* All first looks were before 2.1 s. Who looked between the two changes saw one; the others saw none.
         */
        const struct profiler_look *l = seen.r.looks;
        g_assert_cmpint(l[3].pages, ==, PAGES);
        g_assert_cmpint(l[2].changed, >, PAGES / 10);
        g_assert_cmpint(l[3].changed, ==, MAX(MAX(l[0].changed, l[1].changed), l[2].changed));
        end(&seen);
        /* Changed once, and left so. */
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 0});
        for (int ms = 0; seen.calls == 0; ms++) {
                pass(1000);
                (void)loop_once(false);
                for (int i = 0; i < PAGES && ms == 2500; i++) {
                        uint8_t zero = 0;
                        g_assert_cmpint(pwrite(fd, &zero, 1, (off_t)i * PAGE + 64 + i % 4), ==, 1);
                }
        }
        g_assert_cmpint(seen.r.looks[3].changed, ==, PAGES);
        end(&seen);
        (void)close(fd);
}

/* What is written as it was is not seen, though QEMU would send it again. */
static void test_silent(void)
{
        int fd = make_file(1000);
        fill(fd, 0, 1000);
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
        for (int ms = 0; seen.calls == 0; ms++) {
                pass(1000);
                write_page(fd, ms % 1000, 0xffffffff);
                (void)loop_once(false);
        }
        for (size_t i = 0; i < PROFILER_LOOKS; i++)
                g_assert_cmpint(seen.r.looks[i].changed, ==, 0);
        end(&seen);
        (void)close(fd);
}

static void test_cut_short(void)
{
        int fd = make_file(4000);
        fill(fd, 0, 4000);
        for (int ms = 0; ms < 6000; ms += 1999) {
                struct seen seen;
                begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
                for (int i = 0; i < ms; i++) {
                        pass(1000);
                        (void)loop_once(false);
                }
                g_assert_cmpint(ftruncate(fd, (off_t)1000 * PAGE + 100), ==, 0);
                run(&seen, NULL, 0);
                g_assert_cmpint(seen.err.reason, ==, REASON_STALE);
                end(&seen);
                g_assert_cmpint(ftruncate(fd, (off_t)4000 * PAGE), ==, 0);
                fill(fd, 1000, 3000);
        }
        (void)close(fd);
}

/* What is new counts once, when it is filled. */
static void test_grows(void)
{
        int fd = make_file(2000);
        fill(fd, 0, 1000);
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
        g_assert_cmpint(ftruncate(fd, (off_t)8000 * PAGE), ==, 0);
        struct writer w = {fd, 1000, 1, 7000, 500, 0};
        run(&seen, &w, 1);
        check_curve(&seen.r);
        g_assert_cmpint(seen.r.data_bytes, ==, 1000 * PAGE);
        for (size_t i = 0; i < PROFILER_LOOKS; i++) {
                const struct profiler_look *l = &seen.r.looks[i];
                double most = (double)seen.r.memory_bytes; /* of which it was asked */
                g_assert_cmpfloat(fabs(l->dirty_bytes - fmin(truth(&w, l->s), most)), <,
                                  0.02 * truth(&w, l->s) + 6.0 * PAGE);
        }
        end(&seen);
        (void)close(fd);
}

static void test_bounds(void)
{
        int fd = make_file(40000), empty = make_file(0), hole = make_file(1 << 20);
        fill(fd, 0, 40000);
        for (unsigned most = 1; most <= 100000; most *= 10) {
                struct seen seen;
                begin(&seen, &fd, 1, (struct profiler_options){.pages_max = most, .seed = most});
                run(&seen, NULL, 0);
                g_assert_cmpint(seen.r.pages, >, 0);
                g_assert_cmpint(seen.r.pages, <=, MIN(most, PROFILER_PAGES_MAX));
                g_assert_cmpint(seen.r.pages, >=, MIN(most, PROFILER_PAGES_MAX) * 8 / 10);
                end(&seen);
        }
        int nothing[] = {empty, hole};
        struct seen seen;
        begin(&seen, nothing, 2, (struct profiler_options){0});
        run(&seen, NULL, 0);
        g_assert_cmpint(seen.r.pages, ==, 0);
        g_assert_cmpint(seen.r.populated_bytes, ==, 0);
        g_assert_cmpint(seen.r.zero_pages, ==, 1 << 20);
        g_assert_cmpint(seen.r.dirty.n_points, ==, 0);
        end(&seen);

        struct err err = {0};
        int many[PROFILER_FILES_MAX + 1] = {0}, pipe_fds[2];
        g_assert_cmpint(pipe(pipe_fds), ==, 0);
        g_assert_null(profiler_new(many, 0, NULL, on_done, &seen, &err));
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_null(profiler_new(many, PROFILER_FILES_MAX + 1, NULL, on_done, &seen, &err));
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        g_assert_null(profiler_new(pipe_fds, 1, NULL, on_done, &seen, &err));
        g_assert_cmpint(err.reason, ==, REASON_INVALID);
        for (int i = 0; i < 2; i++)
                g_assert_cmpint(close(pipe_fds[i]), ==, 0); /* ours still */
        (void)close(fd);
        (void)close(empty);
        (void)close(hole);
}

/* It ends by the deadline, and what it had seen is a fair part. */
static void test_deadline(void)
{
        int fd = make_file(8000);
        fill(fd, 0, 8000);
        struct writer w = {fd, 0, 1, 4000, 1e5, 0}; /* the lower half, at once */
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.deadline_ms = 1000, .seed = 1});
        int64_t start = now_us;
        run(&seen, &w, 1);
        g_assert_cmpint(now_us - start, <=, 1000000 + 1000 * PROFILER_REST_MS);
        g_assert_cmpint(seen.r.n_looks, ==, 2);
        check_curve(&seen.r);
        end(&seen);
        /* So slow that only a part is seen a first time, and less of that a second time. */
        per_call_us = 200;
        begin(&seen, &fd, 1, (struct profiler_options){.deadline_ms = 4000, .pages_max = 600, .seed = 1});
        run(&seen, &w, 1);
        per_call_us = 0;
        g_assert_cmpint(seen.r.pages, <, 600);
        g_assert_cmpint(seen.r.n_looks, >, 0);
        g_assert_cmpint(seen.r.source, ==, FIGURE_SAMPLED);
        g_assert_cmpfloat(seen.r.looks[0].low_bytes, <=, truth(&w, 1));
        g_assert_cmpfloat(seen.r.looks[0].high_bytes, >=, truth(&w, 1));
        g_assert_cmpfloat(seen.r.dirty.error, >, 0);
        end(&seen);
        begin(&seen, &fd, 1, (struct profiler_options){.deadline_ms = 20, .seed = 1});
        run(&seen, NULL, 0);
        g_assert_cmpint(seen.err.reason, ==, REASON_TIMEOUT);
        end(&seen);
        (void)close(fd);
}

/* A loop that is kept elsewhere for long: looks stand where they were, those that are overtaken are left out.
 */
static void test_late(void)
{
        int fd = make_file(4000);
        fill(fd, 0, 4000);
        struct writer w = {fd, 0, 1, 4000, 400, 0};
        struct seen seen;
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
        int64_t start = now_us;
        for (int turn = 0; seen.calls == 0; turn++) {
                g_assert_cmpint(turn, <, 10000);
                pass(turn % 150 == 149 ? 300000 : 1000);
                write_due(&w, now_us - start);
                (void)loop_once(false);
        }
        check_curve(&seen.r);
        for (size_t i = 0; i < seen.r.n_looks; i++) {
                const struct profiler_look *l = &seen.r.looks[i];
                g_assert_cmpfloat(fabs(l->dirty_bytes - truth(&w, l->s)), <,
                                  2 * (l->high_bytes - l->low_bytes));
        }
        g_assert_cmpint(seen.r.looks[0].pages, <, seen.r.pages);
        g_assert_cmpfloat(seen.r.looks[0].s, <, 0.2);
        end(&seen);
        (void)close(fd);
}

/* Whatever is due: no more than a slice of the loop's time, then a rest. */
static void test_slices(void)
{
        int fd = make_file(2000);
        fill(fd, 0, 2000);
        struct seen seen;
        per_call_us = 20;
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
        run(&seen, NULL, 0);
        per_call_us = 0;
        g_assert_cmpint(seen.r.longest_slice_us, <=, PROFILER_SLICE_US + 4 * 20);
        g_assert_cmpint(seen.r.slices, >, 2000 * 5 * 20 / PROFILER_SLICE_US);
        g_assert_cmpint(seen.r.slices, <=, seen.r.elapsed_us / 1000 / PROFILER_REST_MS + 50);
        end(&seen);
        (void)close(fd);
}

static void test_cancel(void)
{
        int fd = make_file(3000);
        fill(fd, 0, 3000);
        struct seen seen;
        for (int turns = 0; turns < 4000; turns = turns * 3 + 1) {
                begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
                for (int i = 0; i < turns; i++) {
                        pass(1000);
                        (void)loop_once(false);
                }
                profiler_free(seen.profiler);
                for (int i = 0; i < 20; i++) {
                        pass(1000);
                        g_assert_false(loop_once(false));
                }
                g_assert_cmpint(seen.calls, ==, 0);
        }
        begin(&seen, &fd, 1, (struct profiler_options){.seed = 1});
        seen.is_freeing = true;
        run(&seen, NULL, 0);
        g_assert_null(seen.profiler);
        end(&seen);
        (void)close(fd);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        pass(1000000);
        g_test_add_func("/profiler/curve", test_curve);
        g_test_add_func("/profiler/stride", test_stride);
        g_test_add_func("/profiler/holes-and-zeros", test_holes_and_zeros);
        g_test_add_func("/profiler/zeros-sampled", test_zeros_sampled);
        g_test_add_func("/profiler/any-bit", test_any_bit);
        g_test_add_func("/profiler/silent", test_silent);
        g_test_add_func("/profiler/cut-short", test_cut_short);
        g_test_add_func("/profiler/grows", test_grows);
        g_test_add_func("/profiler/bounds", test_bounds);
        g_test_add_func("/profiler/deadline", test_deadline);
        g_test_add_func("/profiler/late", test_late);
        g_test_add_func("/profiler/slices", test_slices);
        g_test_add_func("/profiler/cancel", test_cancel);
        return g_test_run();
}

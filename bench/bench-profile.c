/* SPDX-License-Identifier: Apache-2.0 */
/* What vm/profiler says of the RAM files of a VM that runs, and what that took: one line of JSON a profile.
 *
 *     bench-profile TIMES PAGES FILE...
 *
 * PAGES: how many are looked at; 0: as many as the profiler will.
 * Nothing but the profiler is in its loop. Each profile begins when the one before has ended. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "loop/loop.h"
#include "vm/profiler.h"

static bool has_failed;

static void on_done(void *arg, const struct profiler_result *r, const struct err *err)
{
        loop_quit();
        if (err) {
                (void)fprintf(stderr, "bench-profile: %s\n", err->sentence);
                has_failed = true;
                return;
        }
        (void)printf(
                "{\"pages\": %u, \"memory_bytes\": %lld, \"data_bytes\": %lld, \"populated_bytes\": %lld, "
                "\"populated_error\": %.4f, \"zero_pages\": %lld, \"elapsed_us\": %lld, \"cpu_us\": %lld, "
                "\"longest_slice_us\": %lld, \"slices\": %u, \"error\": %.4f, \"looks\": [",
                r->pages, (long long)r->memory_bytes, (long long)r->data_bytes, (long long)r->populated_bytes,
                r->populated_error, (long long)r->zero_pages, (long long)r->elapsed_us, (long long)r->cpu_us,
                (long long)r->longest_slice_us, r->slices, r->dirty.error);
        for (size_t i = 0; i < r->n_looks; i++)
                (void)printf("%s{\"s\": %.6f, \"pages\": %u, \"changed\": %u, \"dirty_bytes\": %.0f, "
                             "\"low_bytes\": "
                             "%.0f, \"high_bytes\": %.0f, \"curve_bytes\": %.0f}",
                             i ? ", " : "", r->looks[i].s, r->looks[i].pages, r->looks[i].changed,
                             r->looks[i].dirty_bytes, r->looks[i].low_bytes, r->looks[i].high_bytes,
                             i < r->dirty.n_points ? r->dirty.points[i].bytes : 0);
        (void)printf("]}\n");
        (void)fflush(stdout);
}

static struct profiler *start(unsigned pages, char **paths, size_t n)
{
        const struct profiler_options o = {.pages_max = pages};
        int fds[PROFILER_FILES_MAX] = {0};
        size_t opened = 0;
        struct err err = {0};
        struct profiler *p = NULL;
        while (opened < n && (fds[opened] = open(paths[opened], O_RDONLY | O_CLOEXEC)) >= 0)
                opened++;
        if (opened < n)
                (void)err_set(&err, REASON_NOT_FOUND, errno, "%s: %s", paths[opened], strerror(errno));
        else
                p = profiler_new(fds, n, &o, on_done, NULL, &err);
        if (p)
                return p;
        (void)fprintf(stderr, "bench-profile: %s\n", err.sentence);
        while (opened > 0)
                (void)close(fds[--opened]);
        return NULL;
}

int main(int argc, char **argv)
{
        int times = argc > 1 ? atoi(argv[1]) : 0;  /* NOLINT(cert-err34-c): 0 is refused */
        int pages = argc > 2 ? atoi(argv[2]) : -1; /* NOLINT(cert-err34-c) */
        size_t n = argc > 3 ? (size_t)argc - 3 : 0;
        if (times < 1 || pages < 0 || n < 1 || n > PROFILER_FILES_MAX) {
                (void)fprintf(stderr, "bench-profile TIMES PAGES FILE...\n");
                return 64;
        }
        for (int i = 0; i < times && !has_failed; i++) {
                struct profiler *p = start((unsigned)pages, argv + 3, n);
                if (!p)
                        return 1;
                loop_run();
                profiler_free(p);
        }
        loop_done();
        return has_failed;
}

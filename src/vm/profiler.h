/* SPDX-License-Identifier: Apache-2.0 */
/* vm/profiler.h - what of a VM's memory a move would have to send, and how fast the guest dirties it, seen
 * from outside: by looking at pages of its RAM files, and looking again.
 *
 * Any accelerator, any version of QEMU, no help of the guest's or QEMU's, nothing is write-protected. Pages
 * are chosen at random, the same number out of each stretch of memory, and the part of them that is not as it
 * was 50 ms, 200 ms, 1 s and 5 s ago is the dirty curve at these times. Holes need no looks: what becomes of
 * them is in the blocks that the file takes.
 *
 * What it cannot see, and QEMU would: a page to which was written what it contained already (the curve is too
 * low by these), and what it sees, and QEMU would not: a hole from which the guest only read (too high).
 *
 * It works in the loop, in slices of about 1 ms with long rests between them. Pages are read, never mapped,
 * as a hostile VMM may cut its file short; no page is kept, and of its hash, whose key is random, the guest
 * learns nothing: 1 in 2^32 is the chance that a changed page is taken for the same. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/plan.h"

enum { PROFILER_FILES_MAX = 128, PROFILER_PAGES_MAX = 16384, PROFILER_LOOKS = 4 };
/* The longest that it takes. Where nothing keeps it: 7 s. */
enum { PROFILER_MS = 8000 };
/* Work at a time, and the rest before the next. */
enum { PROFILER_SLICE_US = 1000, PROFILER_REST_MS = 8 };

struct profiler_options {
        unsigned pages_max;      /* looked at; 0, or more than PROFILER_PAGES_MAX: that */
        int64_t deadline_ms;     /* it ends by then, with the looks that it had; 0: PROFILER_MS */
        uint64_t seed;           /* 0: of the kernel's; tests give one */
        int64_t (*now_us)(void); /* NULL: CLOCK_MONOTONIC; tests give one */
};

/* A point of the curve, as it was found. Bytes, of the whole memory. */
struct profiler_look {
        double s; /* after the first look, as it came out: the loop may have been late */
        unsigned pages, changed;
        double dirty_bytes;
        double low_bytes, high_bytes; /* nine of ten times it is not less, and nine of ten times not more */
};

struct profiler_result {
        int64_t memory_bytes; /* of all files */
        int64_t data_bytes;   /* that are no holes */
        int64_t populated_bytes, zero_pages;
        double populated_error;    /* nine of ten times it is at most this part more */
        enum figure_source source; /* of these; FIGURE_MEASURED: all pages were looked at */
        struct curve dirty;
        size_t n_looks;
        struct profiler_look looks[PROFILER_LOOKS];
        unsigned pages;             /* seen a first time */
        int64_t elapsed_us, cpu_us; /* what it took */
        int64_t longest_slice_us;   /* of the loop's time */
        unsigned slices;
};
/* Into the memory part of a profile. */
void profiler_fill(const struct profiler_result *r, struct profile *p);

struct profiler;
/* Exactly one of r and err is not NULL; both are borrowed. REASON_STALE: a file was cut short.
 * REASON_TIMEOUT: by the deadline nothing was seen twice. */
typedef void profiler_done_fn(void *arg, const struct profiler_result *r, const struct err *err);
/* Takes the descriptors, which need no more than to be readable; on failure they stay the caller's. *o is
 * copied; NULL: all 0. Calls done once, from the loop; then only profiler_free() is of use. */
struct profiler *profiler_new(const int *fds, size_t n, const struct profiler_options *o,
                              profiler_done_fn *done, void *arg, struct err *err);
void profiler_free(
        struct profiler *p); /* at any time, in done too: ends it, and done is not called. NULL-safe */

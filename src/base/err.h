/* SPDX-License-Identifier: Apache-2.0 */
/* base/err.h - one error: a reason from the closed list, an errno, a sentence. No heap.
 *
 * Convention: a function returns 0 (or a documented positive outcome) on success and a negative
 * errno on failure. `struct err` is set once, by whoever detects the fault; callers on the way up
 * add context with err_note(). A NULL err is allowed everywhere. */
#pragma once
#include <stdarg.h>
#include <stddef.h>

/* The closed list of reasons (requirement S.8). 0 is no reason. */
enum reason {
        REASON_INVALID = 1,
        REASON_NOT_FOUND,
        REASON_DENIED,
        REASON_UNSUPPORTED,
        REASON_NO_CAPACITY,
        REASON_NO_OFFERS,
        REASON_COST,
        REASON_STALE,
        REASON_BUSY,
        REASON_TIMEOUT,
        REASON_CANCELLED,
        REASON_POLICY,
        REASON_INCOMPATIBLE,
        REASON_PEER_LOST,
        REASON_UNREASSIGNABLE,
        REASON_INTERNAL,
        REASON_N
};

struct err {
        enum reason reason;
        int code;           /* a positive errno */
        char sentence[256]; /* says what is wrong and, where possible, what to do; never ends in a newline */
};

/* Fill *err and return -code, so that `return err_set(...)` reads well. A too long sentence is cut. */
int err_set(struct err *err, enum reason reason, int code, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));

/* Put "context: " before the sentence. Returns -err->code (or -EIO where err is NULL or empty). */
int err_note(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "no-capacity" and the like; "none" for 0. Never NULL. */
const char *reason_name(enum reason r);
/* The reason with this name, or 0. */
enum reason reason_from_name(const char *name);

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const names[REASON_N] = {
        [0] = "none",
        [REASON_INVALID] = "invalid",
        [REASON_NOT_FOUND] = "not-found",
        [REASON_DENIED] = "denied",
        [REASON_UNSUPPORTED] = "unsupported",
        [REASON_NO_CAPACITY] = "no-capacity",
        [REASON_NO_OFFERS] = "no-offers",
        [REASON_COST] = "cost",
        [REASON_STALE] = "stale",
        [REASON_BUSY] = "busy",
        [REASON_TIMEOUT] = "timeout",
        [REASON_CANCELLED] = "cancelled",
        [REASON_POLICY] = "policy",
        [REASON_INCOMPATIBLE] = "incompatible",
        [REASON_PEER_LOST] = "peer-lost",
        [REASON_UNREASSIGNABLE] = "unreassignable",
        [REASON_INTERNAL] = "internal",
};

const char *reason_name(enum reason r)
{
        return (unsigned)r < REASON_N ? names[r] : "none";
}

enum reason reason_from_name(const char *name)
{
        for (int r = 1; r < REASON_N; r++)
                if (strcmp(names[r], name) == 0)
                        return (enum reason)r;
        return 0;
}

int err_set(struct err *err, enum reason reason, int code, const char *fmt, ...)
{
        if (err) {
                va_list ap;
                va_start(ap, fmt);
                (void)vsnprintf(err->sentence, sizeof(err->sentence), fmt, ap);
                va_end(ap);
                err->reason = reason;
                err->code = code;
        }
        return -code;
}

int err_note(struct err *err, const char *fmt, ...)
{
        if (!err || err->code == 0)
                return -EIO;
        char whole[sizeof(err->sentence)];
        va_list ap;
        va_start(ap, fmt);
        int n = vsnprintf(whole, sizeof(whole), fmt, ap);
        va_end(ap);
        if (n >= 0 && (size_t)n < sizeof(whole))
                (void)snprintf(whole + n, sizeof(whole) - (size_t)n, ": %s", err->sentence);
        memcpy(err->sentence, whole, sizeof(whole));
        return -err->code;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/exit.h"
#include "base/str.h"

const struct exit_row exit_rows[] = {
        {EXIT_OK,          "done, or granted; 'mete run' gives the status of its command instead"              },
        {EXIT_FAILED,      "failed in a way that has no number of its own; the message says how"               },
        {EXIT_USAGE,       "the command line is wrong"                                                         },
        {EXIT_INVALID,     "what was asked for is malformed"                                                   },
        {EXIT_NOT_FOUND,   "no such VM, request or reservation"                                                },
        {EXIT_UNAVAILABLE, "meted, or in a guest the agent or its host, cannot be reached"                     },
        {EXIT_INTERNAL,    "a fault of mete itself"                                                            },
        {EXIT_NOT_NOW,     "not now: no capacity, busy, late, or a counter-offer that was not taken; try later"},
        {EXIT_DENIED,      "not allowed to this user, or by policy"                                            },
        {EXIT_NEVER,       "this platform cannot do it; asking again will not help"                            },
};
const size_t exit_rows_n = ARRAY_N(exit_rows);

enum exit_status exit_from_reason(enum reason r)
{
        switch (r) {
        case REASON_INVALID:
                return EXIT_INVALID;
        case REASON_NOT_FOUND:
                return EXIT_NOT_FOUND;
        case REASON_DENIED:
        case REASON_POLICY:
                return EXIT_DENIED;
        case REASON_UNSUPPORTED:
        case REASON_INCOMPATIBLE:
        case REASON_UNREASSIGNABLE:
                return EXIT_NEVER;
        case REASON_NO_CAPACITY:
        case REASON_NO_OFFERS:
        case REASON_COST:
        case REASON_STALE:
        case REASON_BUSY:
        case REASON_TIMEOUT:
                return EXIT_NOT_NOW;
        case REASON_PEER_LOST:
                return EXIT_UNAVAILABLE;
        case REASON_INTERNAL:
                return EXIT_INTERNAL;
        case REASON_CANCELLED:
        case REASON_N:
                break;
        }
        return EXIT_FAILED;
}

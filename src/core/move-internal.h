/* SPDX-License-Identifier: Apache-2.0 */
/* core/move-internal.h - the tables of core/move.c. */
#pragma once
#include "core/move.h"

/* Beside the states that a cell may say. 0 is an undecided cell. */
enum {
        MOVE_LATE = -1,  /* legal, and means nothing any more */
        MOVE_BAD = -2,   /* may not be */
        MOVE_STAY = -3,  /* in the state; to a message its own is the answer */
        MOVE_SPLIT = -4, /* more than the state decides: split() */
};

enum {
        MOVE_SOURCE_REPORTS = MOVE_EV_PREPARED,
        MOVE_DESTINATION_FIRST = MOVE_EV_RESERVED,
        MOVE_DESTINATION_REPORTS = MOVE_REPORT_N - MOVE_DESTINATION_FIRST,
        MOVE_SOURCE_MESSAGES = MOVE_SAYS_N - MOVE_SAYS_RESERVED, /* that it gets */
        /* REVISE and RETRY are RESERVE and PREPARE of a later attempt. */
        MOVE_GETS_RESERVE = 0,
        MOVE_GETS_REVISE,
        MOVE_GETS_PREPARE,
        MOVE_GETS_RETRY,
        MOVE_GETS_COPY,
        MOVE_GETS_STATUS,
        MOVE_GETS_RUN,
        MOVE_GETS_DROP,
        MOVE_GETS_FINISHED,
        MOVE_DESTINATION_MESSAGES
};
extern const int8_t move_source_reports[MOVE_SOURCE_N][MOVE_SOURCE_REPORTS];
extern const int8_t move_source_messages[MOVE_SOURCE_N][MOVE_SOURCE_MESSAGES];
extern const int8_t move_destination_reports[MOVE_STATE_N][MOVE_DESTINATION_REPORTS];
extern const int8_t move_destination_messages[MOVE_STATE_N][MOVE_DESTINATION_MESSAGES];

struct move_state_row {
        const char *name;
        enum move_effect_kind effects[2]; /* on entry, and again */
        enum move_says says;
        bool is_once;               /* only the message is repeated */
        bool is_quiet;              /* the message is but an answer */
        int32_t repeat_ms, wait_ms; /* after the first; at most. 0: never */
        uint32_t even;              /* so many repeats before they become rarer */
        const char *text;           /* for the log, where there is no reason */
};
extern const struct move_state_row move_states[MOVE_STATE_N];

/* SPDX-License-Identifier: Apache-2.0 */
/* core/handover-internal.h - the tables of core/handover.c. */
#pragma once
#include "core/handover.h"

/* Beside the states that a cell may say. 0 is an undecided cell. */
enum {
        HANDOVER_LATE = -1, /* legal, and means nothing any more */
        HANDOVER_BAD = -2,  /* may not be */
        HANDOVER_STAY = -3, /* in the state; to a message its own is the answer */
        HANDOVER_SPLIT = -4 /* more than the state decides: split() */
};

enum {
        HANDOVER_REPORT_COLUMNS = 14, /* of the widest */
        HANDOVER_PROCESSOR_MESSAGES = HANDOVER_SAYS_N - HANDOVER_SAYS_CLASSIFIED,
        HANDOVER_SOURCE_MESSAGES = HANDOVER_SAYS_OFFER - HANDOVER_SAYS_CLASSIFY,
        HANDOVER_TARGET_MESSAGES = HANDOVER_SAYS_CLASSIFIED - HANDOVER_SAYS_OFFER
};
extern const int8_t handover_processor_reports[HANDOVER_PROCESSOR_N][HANDOVER_REPORT_COLUMNS];
extern const int8_t handover_processor_messages[HANDOVER_PROCESSOR_N][HANDOVER_PROCESSOR_MESSAGES];
extern const int8_t handover_source_reports[HANDOVER_STATE_N][HANDOVER_REPORT_COLUMNS];
extern const int8_t handover_source_messages[HANDOVER_STATE_N][HANDOVER_SOURCE_MESSAGES];
extern const int8_t handover_target_reports[HANDOVER_STATE_N][HANDOVER_REPORT_COLUMNS];
extern const int8_t handover_target_messages[HANDOVER_STATE_N][HANDOVER_TARGET_MESSAGES];

/* What a cell of the tables says. A message that the role never gets, a report that it never has: BAD. */
int handover_report_cell(enum handover_state s, enum handover_event_kind kind);
int handover_message_cell(enum handover_state s, enum handover_says says);

/* Whose the VM is, by the books of one side in this state. */
enum handover_whose { OWNED_BY_SOURCE, OWNED_BY_RECORD, OWNED_BY_TARGET };

struct handover_state_row {
        const char *name;
        enum handover_effect_kind effects[3]; /* on entry, and again */
        enum handover_says says[2]; /* to the source and to the target; a hypervisor's is the first */
        bool is_once;               /* only what is said is repeated */
        bool is_quiet;              /* what is said is but an answer */
        bool is_swift;
        bool is_back; /* has a reason */
        enum handover_whose whose;
        int32_t repeat_ms, wait_ms; /* after the first; at most (see handover_wait_ms()). 0: never */
        const char *text;           /* for the log, where there is no reason */
};
extern const struct handover_state_row handover_states[HANDOVER_STATE_N];

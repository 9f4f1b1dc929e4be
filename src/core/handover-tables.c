/* SPDX-License-Identifier: Apache-2.0 */
#include "core/handover-internal.h"

#include <string.h>

#define LATE  HANDOVER_LATE
#define BAD   HANDOVER_BAD
#define STAY  HANDOVER_STAY
#define SPLIT HANDOVER_SPLIT

const int8_t handover_processor_reports[HANDOVER_PROCESSOR_N][HANDOVER_REPORT_COLUMNS] = {
  /* clang-format off */
        /*                         UNKNOWN COMMITTED          ABORTED             RETURNED            CANCEL              TIMEOUT            */
        [HANDOVER_CONFIGURED]  = { LATE,   BAD,               LATE,               BAD,                HANDOVER_RECALLING, HANDOVER_RECALLING },
        [HANDOVER_CLASSIFIED]  = { LATE,   BAD,               LATE,               BAD,                HANDOVER_RECALLING, HANDOVER_RECALLING },
        [HANDOVER_ACCEPTED]    = { LATE,   BAD,               LATE,               BAD,                HANDOVER_RECALLING, HANDOVER_RECALLING },
        [HANDOVER_SEPARATED]   = { LATE,   BAD,               LATE,               BAD,                HANDOVER_RECALLING, HANDOVER_RECALLING },
        [HANDOVER_QUIESCED]    = { LATE,   BAD,               LATE,               BAD,                HANDOVER_RECALLING, HANDOVER_RECALLING },
        [HANDOVER_INFORMED]    = { LATE,   HANDOVER_ASSIGNED, HANDOVER_RECALLING, HANDOVER_RECALLING, HANDOVER_CLOSING,   HANDOVER_CLOSING   },
        [HANDOVER_ASSIGNED]    = { LATE,   LATE,              LATE,               HANDOVER_RECALLING, LATE,               STAY               },
        [HANDOVER_FINISHING]   = { LATE,   LATE,              LATE,               LATE,               LATE,               STAY               },
        [HANDOVER_CLOSING]     = { STAY,   HANDOVER_ASSIGNED, HANDOVER_RECALLING, HANDOVER_RECALLING, LATE,               STAY               },
        [HANDOVER_RECALLING]   = { LATE,   LATE,              LATE,               LATE,               LATE,               STAY               },
        [HANDOVER_DROPPING]    = { LATE,   LATE,              LATE,               LATE,               LATE,               STAY               },
        [HANDOVER_RUNNING]     = { LATE,   LATE,              LATE,               LATE,               LATE,               LATE               },
        [HANDOVER_ROLLED_BACK] = { LATE,   LATE,              LATE,               LATE,               LATE,               LATE               },
        [HANDOVER_LOST]        = { LATE,   LATE,              LATE,               LATE,               LATE,               LATE               },
  /* clang-format on */
};

const int8_t handover_processor_messages[HANDOVER_PROCESSOR_N][HANDOVER_PROCESSOR_MESSAGES] = {
  /* clang-format off */
        /*                         CLASSIFIED           SEPARATED           QUIESCED           GIVEN              GONE   BACK               DIED               ACCEPTED           INFORMED           RUNNING             DROPPED             LOST               */
        [HANDOVER_CONFIGURED]  = { HANDOVER_CLASSIFIED, BAD,                BAD,               BAD,               BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, BAD,               BAD,               BAD,                BAD,                BAD                },
        [HANDOVER_CLASSIFIED]  = { LATE,                BAD,                BAD,               BAD,               BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, HANDOVER_ACCEPTED, BAD,               BAD,                HANDOVER_RECALLING, BAD                },
        [HANDOVER_ACCEPTED]    = { LATE,                HANDOVER_SEPARATED, BAD,               BAD,               BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              BAD,               BAD,                HANDOVER_RECALLING, BAD                },
        [HANDOVER_SEPARATED]   = { LATE,                LATE,               HANDOVER_QUIESCED, BAD,               BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              BAD,               BAD,                HANDOVER_RECALLING, BAD                },
        [HANDOVER_QUIESCED]    = { LATE,                LATE,               LATE,              BAD,               BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              HANDOVER_INFORMED, BAD,                HANDOVER_RECALLING, BAD                },
        [HANDOVER_INFORMED]    = { LATE,                LATE,               LATE,              HANDOVER_ASSIGNED, BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              LATE,              HANDOVER_ASSIGNED,  HANDOVER_RECALLING, HANDOVER_ASSIGNED  },
        [HANDOVER_ASSIGNED]    = { LATE,                LATE,               LATE,              LATE,              BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              LATE,              HANDOVER_FINISHING, HANDOVER_RECALLING, HANDOVER_FINISHING },
        [HANDOVER_FINISHING]   = { LATE,                LATE,               LATE,              LATE,              SPLIT, BAD,               BAD,               LATE,              LATE,              LATE,               BAD,                LATE               },
        [HANDOVER_CLOSING]     = { LATE,                LATE,               LATE,              HANDOVER_ASSIGNED, BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              LATE,              HANDOVER_ASSIGNED,  HANDOVER_RECALLING, HANDOVER_ASSIGNED  },
        [HANDOVER_RECALLING]   = { LATE,                LATE,               LATE,              LATE,              BAD,   HANDOVER_DROPPING, HANDOVER_DROPPING, LATE,              LATE,              BAD,                LATE,               BAD                },
        [HANDOVER_DROPPING]    = { LATE,                LATE,               LATE,              LATE,              BAD,   LATE,              LATE,              LATE,              LATE,              BAD,                SPLIT,              BAD                },
        [HANDOVER_RUNNING]     = { LATE,                LATE,               LATE,              LATE,              LATE,  BAD,               BAD,               LATE,              LATE,              STAY,               BAD,                BAD                },
        [HANDOVER_ROLLED_BACK] = { STAY,                STAY,               STAY,              STAY,              BAD,   LATE,              BAD,               STAY,              STAY,              BAD,                LATE,               BAD                },
        [HANDOVER_LOST]        = { STAY,                STAY,               STAY,              LATE,              LATE,  LATE,              STAY,              STAY,              STAY,              BAD,                LATE,               STAY               },
  /* clang-format on */
};

const int8_t handover_source_reports[HANDOVER_STATE_N][HANDOVER_REPORT_COLUMNS] = {
  /* clang-format off */
        /*                       CLASSIFIED         SEPARATED         QUIESCED         HANDED         BROKEN          RUNS              RELEASED     UNKNOWN FAILED            COMMITTED     ABORTED          RETURNED         DIED              TIMEOUT          */
        [SOURCE_CLASSIFYING] = { SOURCE_CLASSIFIED, BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    SOURCE_RELEASING, BAD,          BAD,             BAD,             SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_CLASSIFIED]  = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              BAD,          BAD,             BAD,             SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_SEPARATING]  = { BAD,               SOURCE_SEPARATED, BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    SOURCE_RELEASING, BAD,          BAD,             BAD,             SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_SEPARATED]   = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              BAD,          BAD,             BAD,             SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_QUIESCING]   = { BAD,               BAD,              SOURCE_QUIESCED, BAD,           BAD,            BAD,              BAD,         BAD,    SOURCE_RELEASING, BAD,          BAD,             BAD,             SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_QUIESCED]    = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              BAD,          BAD,             BAD,             SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_GIVING]      = { BAD,               BAD,              BAD,             SOURCE_HANDED, SOURCE_CLOSING, BAD,              BAD,         BAD,    SOURCE_CLOSING,   BAD,          SOURCE_RESUMING, BAD,             SOURCE_ORPHANED,  SOURCE_CLOSING   },
        [SOURCE_HANDED]      = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              SOURCE_GIVEN, SOURCE_RESUMING, SOURCE_RESUMING, LATE,             SOURCE_CLOSING   },
        [SOURCE_ORPHANED]    = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              SOURCE_GIVEN, SOURCE_RESUMING, SOURCE_RESUMING, LATE,             SOURCE_CLOSING   },
        [SOURCE_CLOSING]     = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         STAY,   BAD,              SOURCE_GIVEN, SOURCE_RESUMING, SOURCE_RESUMING, LATE,             STAY             },
        [SOURCE_RESUMING]    = { BAD,               BAD,              BAD,             BAD,           BAD,            SOURCE_RELEASING, BAD,         BAD,    BAD,              BAD,          LATE,            LATE,            SOURCE_RELEASING, STAY             },
        [SOURCE_GIVEN]       = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              LATE,         BAD,             SOURCE_RESUMING, LATE,             STAY             },
        [SOURCE_FINISHING]   = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              SOURCE_GONE, BAD,    BAD,              LATE,         BAD,             BAD,             LATE,             STAY             },
        [SOURCE_RELEASING]   = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              SPLIT,       BAD,    BAD,              BAD,          LATE,            LATE,            LATE,             STAY             },
        [SOURCE_GONE]        = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              LATE,         LATE,            LATE,            LATE,             LATE             },
        [SOURCE_BACK]        = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              LATE,         LATE,            LATE,            LATE,             LATE             },
        [SOURCE_LOST]        = { BAD,               BAD,              BAD,             BAD,           BAD,            BAD,              BAD,         BAD,    BAD,              LATE,         LATE,            LATE,            LATE,             LATE             },
  /* clang-format on */
};

const int8_t handover_source_messages[HANDOVER_STATE_N][HANDOVER_SOURCE_MESSAGES] = {
  /* clang-format off */
        /*                       CLASSIFY SEPARATE           QUIESCE           GIVE           FINISH            ABORT            */
        [SOURCE_CLASSIFYING] = { LATE,    BAD,               BAD,              BAD,           SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_CLASSIFIED]  = { STAY,    SOURCE_SEPARATING, BAD,              BAD,           SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_SEPARATING]  = { LATE,    LATE,              BAD,              BAD,           SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_SEPARATED]   = { LATE,    STAY,              SOURCE_QUIESCING, BAD,           SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_QUIESCING]   = { LATE,    LATE,              LATE,             BAD,           SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_QUIESCED]    = { LATE,    LATE,              STAY,             SOURCE_GIVING, SOURCE_RELEASING, SOURCE_RELEASING },
        [SOURCE_GIVING]      = { LATE,    LATE,              LATE,             LATE,          SOURCE_CLOSING,   SOURCE_CLOSING   },
        [SOURCE_HANDED]      = { LATE,    LATE,              LATE,             STAY,          SOURCE_FINISHING, SOURCE_CLOSING   },
        [SOURCE_ORPHANED]    = { LATE,    LATE,              LATE,             STAY,          SOURCE_FINISHING, SOURCE_CLOSING   },
        [SOURCE_CLOSING]     = { LATE,    LATE,              LATE,             LATE,          LATE,             LATE             },
        [SOURCE_RESUMING]    = { LATE,    LATE,              LATE,             LATE,          LATE,             LATE             },
        [SOURCE_GIVEN]       = { LATE,    LATE,              LATE,             STAY,          SOURCE_FINISHING, STAY             },
        [SOURCE_FINISHING]   = { LATE,    LATE,              LATE,             LATE,          LATE,             BAD              },
        [SOURCE_RELEASING]   = { LATE,    LATE,              LATE,             LATE,          LATE,             LATE             },
        [SOURCE_GONE]        = { LATE,    LATE,              LATE,             LATE,          STAY,             BAD              },
        [SOURCE_BACK]        = { STAY,    STAY,              STAY,             STAY,          STAY,             STAY             },
        [SOURCE_LOST]        = { STAY,    STAY,              STAY,             STAY,          LATE,             STAY             },
  /* clang-format on */
};

const int8_t handover_target_reports[HANDOVER_STATE_N][HANDOVER_REPORT_COLUMNS] = {
  /* clang-format off */
        /*                      CHECKED          PREPARED         RUNS            RELEASED UNKNOWN FAILED            COMMITTED        ABORTED          RETURNED         COMPLETED STANDS             DIED             TIMEOUT         */
        [TARGET_CHECKING]   = { TARGET_ACCEPTED, BAD,             BAD,            BAD,     BAD,    TARGET_DROPPING,  BAD,             BAD,             BAD,             BAD,      BAD,               BAD,             TARGET_DROPPING },
        [TARGET_ACCEPTED]   = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              BAD,             BAD,             BAD,             BAD,      BAD,               BAD,             TARGET_DROPPING },
        [TARGET_PREPARING]  = { BAD,             TARGET_INFORMED, BAD,            BAD,     BAD,    TARGET_DROPPING,  BAD,             BAD,             BAD,             LATE,     BAD,               LATE,            TARGET_DROPPING },
        [TARGET_INFORMED]   = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              TARGET_STARTING, TARGET_DROPPING, TARGET_DROPPING, SPLIT,    LATE,              TARGET_CLOSING,  TARGET_CLOSING  },
        [TARGET_COMPLETE]   = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              TARGET_STARTING, TARGET_DROPPING, TARGET_DROPPING, LATE,     TARGET_COMMITTING, TARGET_CLOSING,  TARGET_CLOSING  },
        [TARGET_COMMITTING] = { BAD,             BAD,             BAD,            BAD,     STAY,   BAD,              TARGET_STARTING, TARGET_DROPPING, TARGET_DROPPING, LATE,     LATE,              TARGET_CLOSING,  STAY            },
        [TARGET_STARTING]   = { BAD,             BAD,             TARGET_RUNNING, BAD,     BAD,    TARGET_RETURNING, LATE,            LATE,            LATE,            LATE,     LATE,              TARGET_DROPPING, STAY            },
        [TARGET_RUNNING]    = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              LATE,            LATE,            TARGET_DROPPING, LATE,     LATE,              LATE,            STAY            },
        [TARGET_CLOSING]    = { BAD,             BAD,             BAD,            BAD,     STAY,   BAD,              TARGET_STARTING, TARGET_DROPPING, TARGET_DROPPING, LATE,     LATE,              LATE,            STAY            },
        [TARGET_RETURNING]  = { BAD,             BAD,             BAD,            BAD,     STAY,   BAD,              STAY,            LATE,            TARGET_DROPPING, LATE,     LATE,              LATE,            STAY            },
        [TARGET_DROPPING]   = { BAD,             BAD,             BAD,            SPLIT,   BAD,    BAD,              LATE,            LATE,            LATE,            LATE,     LATE,              LATE,            STAY            },
        [TARGET_SETTLED]    = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              LATE,            LATE,            LATE,            LATE,     LATE,              LATE,            LATE            },
        [TARGET_DROPPED]    = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              LATE,            LATE,            LATE,            LATE,     LATE,              LATE,            LATE            },
        [TARGET_LOST]       = { BAD,             BAD,             BAD,            BAD,     BAD,    BAD,              LATE,            LATE,            TARGET_DROPPING, LATE,     LATE,              LATE,            LATE            },
  /* clang-format on */
};

const int8_t handover_target_messages[HANDOVER_STATE_N][HANDOVER_TARGET_MESSAGES] = {
  /* clang-format off */
        /*                      OFFER INFORM            STATUS SETTLE           DROP            */
        [TARGET_CHECKING]   = { LATE, BAD,              LATE,  TARGET_DROPPING, TARGET_DROPPING },
        [TARGET_ACCEPTED]   = { STAY, TARGET_PREPARING, STAY,  TARGET_DROPPING, TARGET_DROPPING },
        [TARGET_PREPARING]  = { LATE, LATE,             LATE,  TARGET_DROPPING, TARGET_DROPPING },
        [TARGET_INFORMED]   = { LATE, STAY,             STAY,  TARGET_CLOSING,  TARGET_CLOSING  },
        [TARGET_COMPLETE]   = { LATE, STAY,             STAY,  TARGET_CLOSING,  TARGET_CLOSING  },
        [TARGET_COMMITTING] = { LATE, LATE,             LATE,  LATE,            LATE            },
        [TARGET_STARTING]   = { LATE, LATE,             LATE,  LATE,            BAD             },
        [TARGET_RUNNING]    = { LATE, LATE,             STAY,  TARGET_SETTLED,  BAD             },
        [TARGET_CLOSING]    = { LATE, LATE,             LATE,  LATE,            LATE            },
        [TARGET_RETURNING]  = { LATE, LATE,             LATE,  LATE,            LATE            },
        [TARGET_DROPPING]   = { LATE, LATE,             LATE,  LATE,            LATE            },
        [TARGET_SETTLED]    = { LATE, LATE,             STAY,  LATE,            BAD             },
        [TARGET_DROPPED]    = { STAY, STAY,             STAY,  STAY,            STAY            },
        [TARGET_LOST]       = { LATE, LATE,             STAY,  LATE,            STAY            },
  /* clang-format on */
};

/* Which column of its role's table a report is in, from 1. */
static const int8_t report_columns[ROLE_N][HANDOVER_REPORT_N] = {
        [ROLE_PROCESSOR] = {[HANDOVER_EV_UNKNOWN] = 1,
                            [HANDOVER_EV_COMMITTED] = 2,
                            [HANDOVER_EV_ABORTED] = 3,
                            [HANDOVER_EV_RETURNED] = 4,
                            [HANDOVER_EV_CANCEL] = 5,
                            [HANDOVER_EV_TIMEOUT] = 6},
        [ROLE_SOURCE] = { [HANDOVER_EV_CLASSIFIED] = 1,
                            [HANDOVER_EV_SEPARATED] = 2,
                            [HANDOVER_EV_QUIESCED] = 3,
                            [HANDOVER_EV_HANDED] = 4,
                            [HANDOVER_EV_BROKEN] = 5,
                            [HANDOVER_EV_RUNS] = 6,
                            [HANDOVER_EV_RELEASED] = 7,
                            [HANDOVER_EV_UNKNOWN] = 8,
                            [HANDOVER_EV_FAILED] = 9,
                            [HANDOVER_EV_COMMITTED] = 10,
                            [HANDOVER_EV_ABORTED] = 11,
                            [HANDOVER_EV_RETURNED] = 12,
                            [HANDOVER_EV_DIED] = 13,
                            [HANDOVER_EV_TIMEOUT] = 14},
        [ROLE_TARGET] = {  [HANDOVER_EV_CHECKED] = 1,
                            [HANDOVER_EV_PREPARED] = 2,
                            [HANDOVER_EV_RUNS] = 3,
                            [HANDOVER_EV_RELEASED] = 4,
                            [HANDOVER_EV_UNKNOWN] = 5,
                            [HANDOVER_EV_FAILED] = 6,
                            [HANDOVER_EV_COMMITTED] = 7,
                            [HANDOVER_EV_ABORTED] = 8,
                            [HANDOVER_EV_RETURNED] = 9,
                            [HANDOVER_EV_COMPLETED] = 10,
                            [HANDOVER_EV_STANDS] = 11,
                            [HANDOVER_EV_DIED] = 12,
                            [HANDOVER_EV_TIMEOUT] = 13}
};

int handover_report_cell(enum handover_state s, enum handover_event_kind kind)
{
        enum handover_role role = handover_role(s);
        int at = report_columns[role][kind] - 1;
        if (at < 0)
                return BAD;
        return role == ROLE_PROCESSOR ? handover_processor_reports[s][at]
               : role == ROLE_SOURCE  ? handover_source_reports[s][at]
                                      : handover_target_reports[s][at];
}

int handover_message_cell(enum handover_state s, enum handover_says says)
{
        static const struct {
                enum handover_says first, end;
        } hears[ROLE_N] = {
                [ROLE_PROCESSOR] = {HANDOVER_SAYS_CLASSIFIED, HANDOVER_SAYS_N         },
                [ROLE_SOURCE] = {HANDOVER_SAYS_CLASSIFY,   HANDOVER_SAYS_OFFER     },
                [ROLE_TARGET] = {HANDOVER_SAYS_OFFER,      HANDOVER_SAYS_CLASSIFIED}
        };
        enum handover_role role = handover_role(s);
        if (says < hears[role].first || says >= hears[role].end)
                return BAD;
        int at = (int)says - (int)hears[role].first;
        return role == ROLE_PROCESSOR ? handover_processor_messages[s][at]
               : role == ROLE_SOURCE  ? handover_source_messages[s][at]
                                      : handover_target_messages[s][at];
}

/* Where the record may be committed nobody decides by the time alone: those waits are only said. */
const struct handover_state_row handover_states[HANDOVER_STATE_N] = {
  /* clang-format off */
        [HANDOVER_CONFIGURED]  = {"configured",  .says = {HANDOVER_SAYS_CLASSIFY, 0}, .repeat_ms = 500, .wait_ms = 60000, .text = "the source finds out what may change hands"},
        [HANDOVER_CLASSIFIED]  = {"classified",  .says = {0, HANDOVER_SAYS_OFFER}, .repeat_ms = 500, .wait_ms = 60000, .text = "the target looks whether it can take it"},
        [HANDOVER_ACCEPTED]    = {"accepted",    .says = {HANDOVER_SAYS_SEPARATE, 0}, .repeat_ms = 1000, .wait_ms = 120000, .text = "what cannot leave is separated"},
        [HANDOVER_SEPARATED]   = {"separated",   .says = {HANDOVER_SAYS_QUIESCE, 0}, .repeat_ms = 500, .wait_ms = 30000, .text = "nothing of the VM is to change meanwhile"},
        [HANDOVER_QUIESCED]    = {"quiesced",    .says = {0, HANDOVER_SAYS_INFORM}, .repeat_ms = 500, .wait_ms = 60000, .text = "the target makes ready"},
        [HANDOVER_INFORMED]    = {"informed",    {HANDOVER_WATCH}, {HANDOVER_SAYS_GIVE, 0}, .repeat_ms = 500, .wait_ms = 60000, .whose = OWNED_BY_RECORD, .text = "the source gives it"},
        [HANDOVER_ASSIGNED]    = {"assigned",    {HANDOVER_WATCH}, {0, HANDOVER_SAYS_STATUS}, .repeat_ms = 100, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .text = "it is the target's"},
        [HANDOVER_FINISHING]   = {"finishing",   .says = {HANDOVER_SAYS_FINISH, 0}, .repeat_ms = 500, .wait_ms = 30000, .whose = OWNED_BY_TARGET, .text = "what is left at the source ends"},
        [HANDOVER_CLOSING]     = {"closing",     {HANDOVER_WRITE}, .repeat_ms = 200, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .is_back = true, .text = "it is broken off"},
        [HANDOVER_RECALLING]   = {"recalling",   .says = {HANDOVER_SAYS_ABORT, 0}, .repeat_ms = 200, .wait_ms = 10000, .whose = OWNED_BY_RECORD, .is_back = true, .text = "the source has it back"},
        [HANDOVER_DROPPING]    = {"dropping",    .says = {0, HANDOVER_SAYS_DROP}, .repeat_ms = 500, .wait_ms = 10000, .is_back = true, .text = "the target drops what it has"},
        [HANDOVER_RUNNING]     = {"running-on-target", {HANDOVER_FORGET, HANDOVER_ANSWER}, {0, HANDOVER_SAYS_SETTLE}, .whose = OWNED_BY_TARGET, .text = "it runs on the target"},
        [HANDOVER_ROLLED_BACK] = {"rolled-back", {HANDOVER_FORGET, HANDOVER_ANSWER}, {HANDOVER_SAYS_ABORT, HANDOVER_SAYS_DROP}, .is_quiet = true, .text = "it runs on the source"},
        [HANDOVER_LOST]        = {"lost",        {HANDOVER_FORGET, HANDOVER_ANSWER}, {HANDOVER_SAYS_FINISH, HANDOVER_SAYS_SETTLE}, .text = "it died"},

        [SOURCE_CLASSIFYING]   = {"source-classifying", {HANDOVER_CLASSIFY}, .is_once = true, .wait_ms = 30000, .text = "what may change hands is found out"},
        [SOURCE_CLASSIFIED]    = {"source-classified", .says = {HANDOVER_SAYS_CLASSIFIED}, .wait_ms = 120000, .text = "it is known what may change hands"},
        [SOURCE_SEPARATING]    = {"source-separating", {HANDOVER_SEPARATE}, .is_once = true, .wait_ms = 60000, .text = "what cannot leave is separated"},
        [SOURCE_SEPARATED]     = {"source-separated", .says = {HANDOVER_SAYS_SEPARATED}, .wait_ms = 120000, .text = "all that it has may leave"},
        [SOURCE_QUIESCING]     = {"source-quiescing", {HANDOVER_QUIESCE}, .is_once = true, .wait_ms = 20000, .text = "nothing of it is to change"},
        [SOURCE_QUIESCED]      = {"source-quiesced", .says = {HANDOVER_SAYS_QUIESCED}, .wait_ms = 120000, .text = "nothing of it changes"},
        [SOURCE_GIVING]        = {"source-giving", {HANDOVER_GUARD_START, HANDOVER_WATCH, HANDOVER_VMM_GIVE}, .is_once = true, .wait_ms = 30000, .whose = OWNED_BY_RECORD, .text = "its VMM hands it over"},
        [SOURCE_HANDED]        = {"source-handed", {HANDOVER_STAND, HANDOVER_WATCH}, .is_swift = true, .repeat_ms = 5, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .text = "all of it is there"},
        [SOURCE_ORPHANED]      = {"source-orphaned", {HANDOVER_STAND, HANDOVER_WATCH}, .repeat_ms = 20, .wait_ms = 10000, .whose = OWNED_BY_RECORD, .text = "its VMM died; the target may have all of it"},
        [SOURCE_CLOSING]       = {"source-closing", {HANDOVER_WRITE}, .repeat_ms = 20, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .is_back = true, .text = "it is broken off"},
        [SOURCE_RESUMING]      = {"source-resuming", {HANDOVER_VMM_CONT}, .is_swift = true, .repeat_ms = 1000, .wait_ms = 10000, .whose = OWNED_BY_RECORD, .is_back = true, .text = "it is to run here"},
        [SOURCE_GIVEN]         = {"source-given", {HANDOVER_GUARD_END, HANDOVER_WATCH}, {HANDOVER_SAYS_GIVEN}, .repeat_ms = 1000, .wait_ms = 10000, .whose = OWNED_BY_RECORD, .text = "it is the target's"},
        [SOURCE_FINISHING]     = {"source-finishing", {HANDOVER_GUARD_END, HANDOVER_VMM_QUIT, HANDOVER_RELEASE}, .repeat_ms = 2000, .wait_ms = 30000, .whose = OWNED_BY_TARGET, .text = "what is left here ends"},
        [SOURCE_RELEASING]     = {"source-releasing", {HANDOVER_GUARD_END, HANDOVER_RELEASE}, .repeat_ms = 2000, .wait_ms = 30000, .is_back = true, .text = "what was held for it is let go of"},
        [SOURCE_GONE]          = {"source-gone", .says = {HANDOVER_SAYS_GONE}, .whose = OWNED_BY_TARGET, .text = "nothing of it is here"},
        [SOURCE_BACK]          = {"source-back", .says = {HANDOVER_SAYS_BACK}, .text = "it runs here"},
        [SOURCE_LOST]          = {"source-lost", .says = {HANDOVER_SAYS_DIED}, .repeat_ms = 1000, .text = "it died here"},

        [TARGET_CHECKING]      = {"target-checking", {HANDOVER_CHECK}, .is_once = true, .wait_ms = 30000, .text = "can it run here?"},
        [TARGET_ACCEPTED]      = {"target-accepted", .says = {HANDOVER_SAYS_ACCEPTED}, .wait_ms = 300000, .text = "it can run here"},
        [TARGET_PREPARING]     = {"target-preparing", {HANDOVER_VMM_PREPARE}, .is_once = true, .wait_ms = 45000, .text = "a VMM for it is made ready"},
        [TARGET_INFORMED]      = {"target-informed", {HANDOVER_WATCH, HANDOVER_VMM_WATCH}, {HANDOVER_SAYS_INFORMED}, .is_once = true, .wait_ms = 60000, .whose = OWNED_BY_RECORD, .text = "a VMM waits for it"},
        [TARGET_COMPLETE]      = {"target-complete", {HANDOVER_WATCH}, .is_swift = true, .wait_ms = 10000, .whose = OWNED_BY_RECORD, .text = "all of it is here, and stands"},
        [TARGET_COMMITTING]    = {"target-committing", {HANDOVER_WRITE}, .is_swift = true, .repeat_ms = 5, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .text = "it stands at the source; the record is written"},
        [TARGET_STARTING]      = {"target-starting", {HANDOVER_VMM_CONT}, .is_swift = true, .repeat_ms = 500, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .text = "it is to run here"},
        [TARGET_RUNNING]       = {"target-running", .says = {HANDOVER_SAYS_RUNNING}, .repeat_ms = 1000, .wait_ms = 60000, .whose = OWNED_BY_TARGET, .text = "it runs here"},
        [TARGET_CLOSING]       = {"target-closing", {HANDOVER_WRITE}, .repeat_ms = 20, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .is_back = true, .text = "it is broken off"},
        [TARGET_RETURNING]     = {"target-returning", {HANDOVER_WRITE}, .repeat_ms = 20, .wait_ms = 5000, .whose = OWNED_BY_RECORD, .is_back = true, .text = "it never ran here, and is the source's again"},
        [TARGET_DROPPING]      = {"target-dropping", {HANDOVER_VMM_QUIT, HANDOVER_RELEASE}, .repeat_ms = 2000, .wait_ms = 30000, .is_back = true, .text = "what is here of it goes"},
        [TARGET_SETTLED]       = {"target-settled", .says = {HANDOVER_SAYS_RUNNING}, .is_quiet = true, .whose = OWNED_BY_TARGET, .text = "it is here"},
        [TARGET_DROPPED]       = {"target-dropped", .says = {HANDOVER_SAYS_DROPPED}, .text = "nothing of it is here"},
        [TARGET_LOST]          = {"target-lost", .says = {HANDOVER_SAYS_LOST}, .repeat_ms = 1000, .whose = OWNED_BY_TARGET, .text = "it died here"},
  /* clang-format on */
};

static const char *const event_names[HANDOVER_EV_N] = {
        [HANDOVER_EV_CLASSIFIED] = "classified",
        [HANDOVER_EV_SEPARATED] = "separated",
        [HANDOVER_EV_QUIESCED] = "quiesced",
        [HANDOVER_EV_HANDED] = "handed",
        [HANDOVER_EV_BROKEN] = "broken",
        [HANDOVER_EV_CHECKED] = "checked",
        [HANDOVER_EV_PREPARED] = "prepared",
        [HANDOVER_EV_RUNS] = "runs",
        [HANDOVER_EV_RELEASED] = "released",
        [HANDOVER_EV_UNKNOWN] = "unknown",
        [HANDOVER_EV_FAILED] = "failed",
        [HANDOVER_EV_COMMITTED] = "committed",
        [HANDOVER_EV_ABORTED] = "aborted",
        [HANDOVER_EV_RETURNED] = "returned",
        [HANDOVER_EV_COMPLETED] = "completed",
        [HANDOVER_EV_STANDS] = "stands",
        [HANDOVER_EV_DIED] = "died",
        [HANDOVER_EV_CANCEL] = "cancel",
        [HANDOVER_EV_TIMEOUT] = "timeout",
        [HANDOVER_EV_MESSAGE] = "message",
        [HANDOVER_EV_TICK] = "tick",
};

static const char *const says_names[HANDOVER_SAYS_N] = {
        [HANDOVER_SAYS_CLASSIFY] = "classify",   [HANDOVER_SAYS_SEPARATE] = "separate",
        [HANDOVER_SAYS_QUIESCE] = "quiesce",     [HANDOVER_SAYS_GIVE] = "give",
        [HANDOVER_SAYS_FINISH] = "finish",       [HANDOVER_SAYS_ABORT] = "abort",
        [HANDOVER_SAYS_OFFER] = "offer",         [HANDOVER_SAYS_INFORM] = "inform",
        [HANDOVER_SAYS_STATUS] = "status",       [HANDOVER_SAYS_SETTLE] = "settle",
        [HANDOVER_SAYS_DROP] = "drop",           [HANDOVER_SAYS_CLASSIFIED] = "classified",
        [HANDOVER_SAYS_SEPARATED] = "separated", [HANDOVER_SAYS_QUIESCED] = "quiesced",
        [HANDOVER_SAYS_GIVEN] = "given",         [HANDOVER_SAYS_GONE] = "gone",
        [HANDOVER_SAYS_BACK] = "back",           [HANDOVER_SAYS_DIED] = "died",
        [HANDOVER_SAYS_ACCEPTED] = "accepted",   [HANDOVER_SAYS_INFORMED] = "informed",
        [HANDOVER_SAYS_RUNNING] = "running",     [HANDOVER_SAYS_DROPPED] = "dropped",
        [HANDOVER_SAYS_LOST] = "lost",
};

static const char *const effect_names[HANDOVER_EFFECT_N] = {
        [HANDOVER_PERSIST] = "persist",
        [HANDOVER_EVENT] = "event",
        [HANDOVER_ASSIGN] = "assign",
        [HANDOVER_ADOPT] = "adopt",
        [HANDOVER_SEND] = "send",
        [HANDOVER_ANSWER] = "answer",
        [HANDOVER_CLASSIFY] = "classify",
        [HANDOVER_SEPARATE] = "separate",
        [HANDOVER_QUIESCE] = "quiesce",
        [HANDOVER_CHECK] = "check",
        [HANDOVER_GUARD_START] = "guard-start",
        [HANDOVER_GUARD_END] = "guard-end",
        [HANDOVER_VMM_GIVE] = "vmm-give",
        [HANDOVER_VMM_PREPARE] = "vmm-prepare",
        [HANDOVER_VMM_WATCH] = "vmm-watch",
        [HANDOVER_VMM_CONT] = "vmm-cont",
        [HANDOVER_VMM_QUIT] = "vmm-quit",
        [HANDOVER_STAND] = "stand",
        [HANDOVER_WRITE] = "write",
        [HANDOVER_WATCH] = "watch",
        [HANDOVER_FORGET] = "forget",
        [HANDOVER_RELEASE] = "release",
};

const char *handover_state_name(enum handover_state s)
{
        return s > 0 && s < HANDOVER_STATE_N ? handover_states[s].name : "?";
}

enum handover_state handover_state_from_name(const char *name)
{
        for (int s = 1; s < HANDOVER_STATE_N; s++)
                if (strcmp(handover_states[s].name, name) == 0)
                        return (enum handover_state)s;
        return 0;
}

const char *handover_event_name(enum handover_event_kind e)
{
        return (unsigned)e < HANDOVER_EV_N ? event_names[e] : "?";
}

const char *handover_says_name(enum handover_says s)
{
        return s > 0 && s < HANDOVER_SAYS_N ? says_names[s] : "?";
}

const char *handover_effect_name(enum handover_effect_kind e)
{
        return e > 0 && e < HANDOVER_EFFECT_N ? effect_names[e] : "?";
}

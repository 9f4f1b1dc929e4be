/* SPDX-License-Identifier: Apache-2.0 */
#include "core/move-internal.h"

#include <string.h>

#define LATE  MOVE_LATE
#define BAD   MOVE_BAD
#define STAY  MOVE_STAY
#define SPLIT MOVE_SPLIT

const int8_t move_source_reports[MOVE_SOURCE_N][MOVE_SOURCE_REPORTS] = {
  /* clang-format off */
        /*                         PROFILED       PLANNED         COUNTER         COPIED           BROKEN         MISSED COMMITTED       ABORTED        UNKNOWN ACCEPT                RESERVED              SHORT          FAILED          RUNS                 DIED                 RELEASED   CANCEL               TIMEOUT              */
        [MOVE_PROFILING]       = { MOVE_PLANNING, BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           MOVE_RELEASING, BAD,                 MOVE_RELEASING,      BAD,       MOVE_RELEASING,      MOVE_RELEASING       },
        [MOVE_PLANNING]        = { BAD,           MOVE_RESERVING, MOVE_RESERVING, BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           MOVE_RELEASING, BAD,                 MOVE_RELEASING,      BAD,       MOVE_RELEASING,      MOVE_RELEASING       },
        [MOVE_RESERVING]       = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  MOVE_RESERVING_THERE, MOVE_PLANNING, MOVE_RELEASING, BAD,                 MOVE_RELEASING,      BAD,       MOVE_RELEASING,      MOVE_RELEASING       },
        [MOVE_RESERVING_THERE] = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            BAD,                 MOVE_DROPPING_THERE, BAD,       MOVE_DROPPING_THERE, MOVE_DROPPING_THERE  },
        [MOVE_COUNTERED]       = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    MOVE_PREPARING_THERE, BAD,                  BAD,           BAD,            BAD,                 MOVE_DROPPING_THERE, BAD,       MOVE_DROPPING_THERE, MOVE_DROPPING_THERE  },
        [MOVE_PREPARING_THERE] = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    LATE,                 BAD,                  BAD,           BAD,            BAD,                 MOVE_DROPPING_THERE, BAD,       MOVE_DROPPING_THERE, MOVE_DROPPING_THERE  },
        [MOVE_COPYING]         = { BAD,           BAD,            BAD,            MOVE_COMMITTING, MOVE_RESUMING, STAY,  BAD,            BAD,           BAD,    STAY,                 BAD,                  BAD,           MOVE_RESUMING,  BAD,                 MOVE_ORPHANED,       BAD,       MOVE_RESUMING,       MOVE_RESUMING        },
        [MOVE_ORPHANED]        = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    LATE,                 BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       MOVE_CLOSING,        STAY                 },
        [MOVE_COMMITTING]      = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  MOVE_COMMITTED, MOVE_RESUMING, STAY,   LATE,                 BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       LATE,                STAY                 },
        [MOVE_COMMITTED]       = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    LATE,                 BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       LATE,                STAY                 },
        [MOVE_RETURNING]       = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    LATE,                 BAD,                  BAD,           BAD,            MOVE_DROPPING_THERE, MOVE_DROPPING_THERE, BAD,       LATE,                STAY                 },
        [MOVE_RESUMING]        = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            MOVE_CLOSING,        MOVE_CLOSING,        BAD,       STAY,                STAY                 },
        [MOVE_CLOSING]         = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            SPLIT,         STAY,   BAD,                  BAD,                  BAD,           BAD,            BAD,                 STAY,                BAD,       STAY,                MOVE_DROPPING_THERE  },
        [MOVE_DROPPING_THERE]  = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            BAD,                 STAY,                BAD,       LATE,                MOVE_RELEASING       },
        [MOVE_FINISHING]       = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    LATE,                 BAD,                  BAD,           BAD,            BAD,                 LATE,                MOVE_DONE, LATE,                STAY                 },
        [MOVE_RELEASING]       = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            BAD,                 LATE,                SPLIT,     LATE,                STAY                 },
        [MOVE_DONE]            = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    LATE,                 BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       LATE,                LATE                 },
        [MOVE_ABORTED]         = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       LATE,                LATE                 },
        [MOVE_REFUSED]         = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       LATE,                LATE                 },
        [MOVE_LOST]            = { BAD,           BAD,            BAD,            BAD,             BAD,           LATE,  BAD,            BAD,           BAD,    BAD,                  BAD,                  BAD,           BAD,            BAD,                 LATE,                BAD,       LATE,                LATE                 },
  /* clang-format on */
};

const int8_t move_source_messages[MOVE_SOURCE_N][MOVE_SOURCE_MESSAGES] = {
  /* clang-format off */
        /*                         RESERVED SHORT          READY         INCOMING COMPLETE         RUNNING         BROKEN               DROPPED         */
        [MOVE_PROFILING]       = { BAD,     BAD,           BAD,          BAD,     BAD,             BAD,            BAD,                 BAD             },
        [MOVE_PLANNING]        = { BAD,     BAD,           BAD,          BAD,     BAD,             BAD,            BAD,                 BAD             },
        [MOVE_RESERVING]       = { BAD,     BAD,           BAD,          BAD,     BAD,             BAD,            BAD,                 BAD             },
        [MOVE_RESERVING_THERE] = { SPLIT,   MOVE_PLANNING, BAD,          BAD,     BAD,             BAD,            BAD,                 MOVE_RELEASING  },
        [MOVE_COUNTERED]       = { LATE,    BAD,           BAD,          BAD,     BAD,             BAD,            BAD,                 MOVE_RELEASING  },
        [MOVE_PREPARING_THERE] = { LATE,    BAD,           MOVE_COPYING, BAD,     BAD,             BAD,            MOVE_DROPPING_THERE, MOVE_RELEASING  },
        [MOVE_COPYING]         = { LATE,    BAD,           LATE,         LATE,    LATE,            BAD,            MOVE_RESUMING,       MOVE_RESUMING   },
        [MOVE_ORPHANED]        = { LATE,    BAD,           LATE,         LATE,    MOVE_COMMITTING, BAD,            MOVE_CLOSING,        MOVE_CLOSING    },
        [MOVE_COMMITTING]      = { LATE,    BAD,           LATE,         LATE,    LATE,            BAD,            LATE,                LATE            },
        [MOVE_COMMITTED]       = { LATE,    BAD,           LATE,         LATE,    STAY,            MOVE_FINISHING, MOVE_RETURNING,      MOVE_RETURNING  },
        [MOVE_RETURNING]       = { LATE,    BAD,           LATE,         LATE,    LATE,            BAD,            LATE,                LATE            },
        [MOVE_RESUMING]        = { LATE,    LATE,          LATE,         LATE,    LATE,            BAD,            LATE,                LATE            },
        [MOVE_CLOSING]         = { LATE,    LATE,          LATE,         LATE,    LATE,            BAD,            LATE,                LATE            },
        [MOVE_DROPPING_THERE]  = { STAY,    STAY,          STAY,         STAY,    STAY,            BAD,            STAY,                MOVE_RELEASING  },
        [MOVE_FINISHING]       = { LATE,    LATE,          LATE,         LATE,    LATE,            LATE,           LATE,                LATE            },
        [MOVE_RELEASING]       = { LATE,    LATE,          LATE,         LATE,    LATE,            BAD,            LATE,                LATE            },
        [MOVE_DONE]            = { LATE,    LATE,          LATE,         LATE,    LATE,            STAY,           LATE,                LATE            },
        [MOVE_ABORTED]         = { STAY,    STAY,          STAY,         STAY,    STAY,            BAD,            STAY,                LATE            },
        [MOVE_REFUSED]         = { STAY,    STAY,          STAY,         STAY,    STAY,            BAD,            STAY,                LATE            },
        [MOVE_LOST]            = { STAY,    STAY,          STAY,         STAY,    STAY,            BAD,            STAY,                LATE            },
  /* clang-format on */
};

const int8_t move_destination_reports[MOVE_STATE_N][MOVE_DESTINATION_REPORTS] = {
  /* clang-format off */
        /*                    RESERVED       SHORT       FAILED         RUNS             DIED             RELEASED      CANCEL         TIMEOUT        PREPARED    INCOMING       COMPLETED      */
        [MOVE_HOLDING]    = { MOVE_RESERVED, MOVE_SHORT, MOVE_DROPPING, BAD,             LATE,            BAD,          MOVE_DROPPING, MOVE_DROPPING, BAD,        LATE,          LATE           },
        [MOVE_SHORT]      = { BAD,           BAD,        BAD,           BAD,             LATE,            BAD,          MOVE_DROPPING, MOVE_DROPPING, BAD,        LATE,          LATE           },
        [MOVE_RESERVED]   = { BAD,           BAD,        BAD,           BAD,             LATE,            BAD,          MOVE_DROPPING, MOVE_DROPPING, BAD,        LATE,          LATE           },
        [MOVE_PREPARING]  = { BAD,           BAD,        MOVE_DROPPING, BAD,             LATE,            BAD,          MOVE_DROPPING, MOVE_DROPPING, MOVE_READY, LATE,          LATE           },
        [MOVE_READY]      = { BAD,           BAD,        BAD,           BAD,             MOVE_BROKEN,     BAD,          MOVE_DROPPING, MOVE_DROPPING, BAD,        MOVE_INCOMING, MOVE_COMPLETE  },
        [MOVE_INCOMING]   = { BAD,           BAD,        BAD,           BAD,             MOVE_BROKEN,     BAD,          MOVE_DROPPING, MOVE_DROPPING, BAD,        LATE,          MOVE_COMPLETE  },
        [MOVE_COMPLETE]   = { BAD,           BAD,        BAD,           BAD,             MOVE_BROKEN,     BAD,          LATE,          STAY,          BAD,        LATE,          LATE           },
        [MOVE_BROKEN]     = { BAD,           BAD,        BAD,           BAD,             LATE,            BAD,          MOVE_DROPPING, MOVE_DROPPING, BAD,        LATE,          LATE           },
        [MOVE_RUNNING]    = { BAD,           BAD,        MOVE_BROKEN,   MOVE_CONFIRMING, MOVE_CONFIRMING, BAD,          LATE,          STAY,          BAD,        LATE,          LATE           },
        [MOVE_CONFIRMING] = { BAD,           BAD,        BAD,           BAD,             LATE,            BAD,          LATE,          MOVE_SETTLING, BAD,        LATE,          LATE           },
        [MOVE_SETTLING]   = { BAD,           BAD,        BAD,           BAD,             LATE,            MOVE_SETTLED, LATE,          STAY,          BAD,        LATE,          LATE           },
        [MOVE_DROPPING]   = { BAD,           BAD,        BAD,           BAD,             LATE,            MOVE_DROPPED, LATE,          STAY,          BAD,        LATE,          LATE           },
        [MOVE_SETTLED]    = { BAD,           BAD,        BAD,           BAD,             LATE,            BAD,          LATE,          STAY,          BAD,        LATE,          LATE           },
        [MOVE_DROPPED]    = { BAD,           BAD,        BAD,           BAD,             LATE,            BAD,          LATE,          LATE,          BAD,        LATE,          LATE           },
  /* clang-format on */
};

const int8_t move_destination_messages[MOVE_STATE_N][MOVE_DESTINATION_MESSAGES] = {
  /* clang-format off */
        /*                    RESERVE REVISE        PREPARE         RETRY           COPY  STATUS RUN           DROP           FINISHED       */
        [MOVE_HOLDING]    = { LATE,   MOVE_HOLDING, BAD,            BAD,            BAD,  STAY,  BAD,          MOVE_DROPPING, BAD            },
        [MOVE_SHORT]      = { STAY,   MOVE_HOLDING, BAD,            BAD,            BAD,  STAY,  BAD,          MOVE_DROPPING, BAD            },
        [MOVE_RESERVED]   = { STAY,   MOVE_HOLDING, MOVE_PREPARING, MOVE_PREPARING, BAD,  STAY,  BAD,          MOVE_DROPPING, BAD            },
        [MOVE_PREPARING]  = { LATE,   BAD,          LATE,           MOVE_PREPARING, BAD,  STAY,  BAD,          MOVE_DROPPING, BAD            },
        [MOVE_READY]      = { LATE,   BAD,          STAY,           MOVE_PREPARING, STAY, STAY,  STAY,         MOVE_DROPPING, BAD            },
        [MOVE_INCOMING]   = { LATE,   BAD,          LATE,           MOVE_PREPARING, STAY, STAY,  STAY,         MOVE_DROPPING, BAD            },
        [MOVE_COMPLETE]   = { LATE,   BAD,          LATE,           MOVE_PREPARING, LATE, STAY,  MOVE_RUNNING, MOVE_DROPPING, BAD            },
        [MOVE_BROKEN]     = { LATE,   BAD,          STAY,           MOVE_PREPARING, STAY, STAY,  STAY,         MOVE_DROPPING, BAD            },
        [MOVE_RUNNING]    = { LATE,   BAD,          LATE,           BAD,            LATE, LATE,  LATE,         BAD,           BAD            },
        [MOVE_CONFIRMING] = { LATE,   BAD,          LATE,           BAD,            LATE, STAY,  STAY,         BAD,           MOVE_SETTLING  },
        [MOVE_SETTLING]   = { LATE,   BAD,          LATE,           BAD,            LATE, STAY,  STAY,         BAD,           LATE           },
        [MOVE_DROPPING]   = { LATE,   LATE,         LATE,           LATE,           LATE, LATE,  LATE,         LATE,          BAD            },
        [MOVE_SETTLED]    = { LATE,   BAD,          LATE,           BAD,            LATE, STAY,  STAY,         BAD,           LATE           },
        [MOVE_DROPPED]    = { STAY,   STAY,         STAY,           STAY,           STAY, STAY,  STAY,         STAY,          BAD            },
  /* clang-format on */
};

/* Waits without an answer that never end by themselves are only said: where the outcome may be written,
 * neither side may decide alone. */
const struct move_state_row move_states[MOVE_STATE_N] = {
        [MOVE_PROFILING] = {"profiling",
                            {MOVE_PROFILE},
                            .is_once = true,
                            .wait_ms = 60000,
                            .text = "what is to be moved is measured"},
        [MOVE_PLANNING] = {"planning",
                            {MOVE_PLAN},
                            .is_once = true,
                            .wait_ms = 10000,
                            .text = "what it takes is planned"},
        [MOVE_RESERVING] = {"reserving",
                            {MOVE_RESERVE},
                            .is_once = true,
                            .wait_ms = 10000,
                            .text = "what it takes is reserved here"},
        [MOVE_RESERVING_THERE] = {"reserving-there",                                                       .says = MOVE_SAYS_RESERVE,                                                                           .repeat_ms = 500,
                            .wait_ms = 10000, .text = "and at the destination"},
        [MOVE_COUNTERED] = {"countered",
                            {MOVE_ANSWER},
                            .is_once = true,
                            .text = "another level is offered, and held"},
        [MOVE_PREPARING_THERE] = {"preparing-there",                                                 .says = MOVE_SAYS_PREPARE,                                                                         .repeat_ms = 500,
                            .wait_ms = 60000, .text = "the destination makes ready"},
        [MOVE_COPYING] = {"copying",
                            {MOVE_COPY_START},
                            MOVE_SAYS_COPY,                                                                                                                                                                      .is_once = true,
                            .repeat_ms = 1000,
                            .text = "it is copied"},
        [MOVE_ORPHANED] = {"orphaned",                                                                 .says = MOVE_SAYS_STATUS,                                                                      .repeat_ms = 100,                                                                                       .wait_ms = 10000,
                            .text = "its VMM died; the destination is asked whether it has all of it"},
        [MOVE_COMMITTING] = {"committing",
                            {MOVE_WRITE},
                            .repeat_ms = 100,
                            .wait_ms = 5000,
                            .text = "all of it is at the destination; the outcome is written"},
        [MOVE_COMMITTED] = {"committed",
                            {MOVE_GUARD_END},
                            MOVE_SAYS_RUN,.is_once = true,
                            .repeat_ms = 50,
                            .even = MOVE_URGENT_REPEATS,
                            .wait_ms = 5000,
                            .text = "the destination owns it, and is to run it"},
        [MOVE_RETURNING] = {"returning",
                            {MOVE_VMM_CONT},
                            .repeat_ms = 1000,
                            .wait_ms = 10000,
                            .text = "the destination gave it back; it is to run here"},
        [MOVE_RESUMING] = {"resuming",
                            {MOVE_VMM_CONT},
                            .repeat_ms = 1000,
                            .wait_ms = 10000,
                            .text = "the attempt was broken off; it is to run here"},
        [MOVE_CLOSING] = {"closing",
                            {MOVE_GUARD_END, MOVE_WRITE},
                            .repeat_ms = 200,
                            .wait_ms = 30000,
                            .text = "the attempt is over"},
        [MOVE_DROPPING_THERE] = {"dropping-there", .says = MOVE_SAYS_DROP,                      .repeat_ms = 500,                                                                                                      .wait_ms = 10000,
                            .text = "the destination is to drop it"},
        [MOVE_FINISHING] = {"finishing",
                            {MOVE_RELEASE},
                            .repeat_ms = 2000,
                            .wait_ms = 30000,
                            .text = "it runs at the destination; what is left here ends"},
        [MOVE_RELEASING] = {"releasing",
                            {MOVE_RELEASE},
                            .repeat_ms = 2000,
                            .wait_ms = 30000,
                            .text = "what was reserved is given back"},
        [MOVE_DONE] = {"done",                                                   {MOVE_ANSWER},                                                                        MOVE_SAYS_FINISHED,                                                                                                                                                                     .text = "it is moved"},
        [MOVE_ABORTED] =
                {"aborted",                                                                 {MOVE_ANSWER},                                                                             MOVE_SAYS_DROP,                                                                                                                                                                      .is_quiet = true, .text = "it stays here"},
        [MOVE_REFUSED] =
                {"refused",                                                  {MOVE_ANSWER},                                  MOVE_SAYS_DROP,                                                                                                                            .is_quiet = true, .text = "nothing was begun"},
        [MOVE_LOST] = {"lost",                                      {MOVE_ANSWER},                                                                         MOVE_SAYS_DROP,                                                                                                                                                                     .is_quiet = true, .text = "it died"},

        [MOVE_HOLDING] = {"holding",
                            {MOVE_RESERVE},
                            .is_once = true,
                            .wait_ms = 10000,
                            .text = "what a move takes is reserved here"},
        [MOVE_SHORT] = {"short",                                                 .says = MOVE_SAYS_SHORT,                                                  .wait_ms = 60000,
                            .text = "there is less than it takes"},
        [MOVE_RESERVED] = {"reserved",                                                    .says = MOVE_SAYS_RESERVED,                                                                        .text = "what it takes is reserved"                                                                                                                                                                    },
        [MOVE_PREPARING] = {"preparing",
                            {MOVE_VMM_PREPARE},
                            .is_once = true,
                            .wait_ms = 60000,
                            .text = "its resources are made usable"},
        [MOVE_READY] = {"ready",
                            {MOVE_VMM_WATCH},
                            MOVE_SAYS_READY,                                                                                                                                          .is_once = true,
                            .wait_ms = 30000,
                            .text = "a VMM listens"},
        [MOVE_INCOMING] = {"incoming",
                            {MOVE_VMM_WATCH},
                            MOVE_SAYS_INCOMING,.is_once = true,
                            .is_quiet = true,
                            .wait_ms = 30000,
                            .text = "it comes"},
        [MOVE_COMPLETE] = {"complete",
                            {MOVE_VMM_WATCH},
                            MOVE_SAYS_COMPLETE, .is_once = true,
                            .repeat_ms = 200,
                            .wait_ms = 10000,
                            .text = "all of it is here, and stands until the outcome is known"},
        [MOVE_BROKEN] = {"broken",                                          .says = MOVE_SAYS_BROKEN,                                                               .is_once = true,                                                                                                                                                 .wait_ms = 60000,
                            .text = "the attempt is over"},
        [MOVE_RUNNING] = {"running",
                            {MOVE_VMM_CONT},
                            .repeat_ms = 500,
                            .wait_ms = 10000,
                            .text = "the outcome is committed; it is to run here"},
        [MOVE_CONFIRMING] = {"confirming",                                                            .says = MOVE_SAYS_RUNNING,                               .repeat_ms = 200,                                   .wait_ms = 60000,
                            .text = "it runs"},
        [MOVE_SETTLING] = {"settling",
                            {MOVE_RELEASE},
                            MOVE_SAYS_RUNNING,                                                                                                                                                       .is_quiet = true,
                            .repeat_ms = 2000,
                            .wait_ms = 30000,
                            .text = "what was reserved for the move is given back"},
        [MOVE_DROPPING] = {"dropping",
                            {MOVE_RELEASE},
                            .repeat_ms = 2000,
                            .wait_ms = 30000,
                            .text = "everything of it is given back"},
        [MOVE_SETTLED] = {"settled",                                                           .says = MOVE_SAYS_RUNNING,         .repeat_ms = 5000,
                            .wait_ms = 24 * 3600 * 1000, .text = "it is here"},
        [MOVE_DROPPED] = {"dropped",                                                                 .says = MOVE_SAYS_DROPPED,                                                                             .text = "nothing of it is here"                                                                                         },
};

static const char *const report_names[MOVE_EV_N] = {
        [MOVE_EV_PROFILED] = "profiled",   [MOVE_EV_PLANNED] = "planned",   [MOVE_EV_COUNTER] = "counter",
        [MOVE_EV_COPIED] = "copied",       [MOVE_EV_BROKEN] = "broken",     [MOVE_EV_MISSED] = "missed",
        [MOVE_EV_COMMITTED] = "committed", [MOVE_EV_ABORTED] = "aborted",   [MOVE_EV_UNKNOWN] = "unknown",
        [MOVE_EV_ACCEPT] = "accept",       [MOVE_EV_RESERVED] = "reserved", [MOVE_EV_SHORT] = "short",
        [MOVE_EV_FAILED] = "failed",       [MOVE_EV_RUNS] = "runs",         [MOVE_EV_DIED] = "died",
        [MOVE_EV_RELEASED] = "released",   [MOVE_EV_CANCEL] = "cancel",     [MOVE_EV_TIMEOUT] = "timeout",
        [MOVE_EV_PREPARED] = "prepared",   [MOVE_EV_INCOMING] = "incoming", [MOVE_EV_COMPLETED] = "completed",
        [MOVE_EV_MESSAGE] = "message",     [MOVE_EV_TICK] = "tick",
};

static const char *const says_names[MOVE_SAYS_N] = {
        [MOVE_SAYS_RESERVE] = "reserve",   [MOVE_SAYS_PREPARE] = "prepare",
        [MOVE_SAYS_COPY] = "copy",         [MOVE_SAYS_STATUS] = "status",
        [MOVE_SAYS_RUN] = "run",           [MOVE_SAYS_DROP] = "drop",
        [MOVE_SAYS_FINISHED] = "finished", [MOVE_SAYS_RESERVED] = "reserved",
        [MOVE_SAYS_SHORT] = "short",       [MOVE_SAYS_READY] = "ready",
        [MOVE_SAYS_INCOMING] = "incoming", [MOVE_SAYS_COMPLETE] = "complete",
        [MOVE_SAYS_RUNNING] = "running",   [MOVE_SAYS_BROKEN] = "broken",
        [MOVE_SAYS_DROPPED] = "dropped",
};

static const char *const effect_names[MOVE_EFFECT_N] = {
        [MOVE_PERSIST] = "persist",     [MOVE_EVENT] = "event",       [MOVE_ADOPT] = "adopt",
        [MOVE_SEND] = "send",           [MOVE_ANSWER] = "answer",     [MOVE_PROFILE] = "profile",
        [MOVE_PLAN] = "plan",           [MOVE_RESERVE] = "reserve",   [MOVE_COPY_START] = "copy-start",
        [MOVE_GUARD_END] = "guard-end", [MOVE_WRITE] = "write",       [MOVE_VMM_PREPARE] = "vmm-prepare",
        [MOVE_VMM_WATCH] = "vmm-watch", [MOVE_VMM_CONT] = "vmm-cont", [MOVE_RELEASE] = "release",
};

const char *move_state_name(enum move_state s)
{
        return s > 0 && s < MOVE_STATE_N ? move_states[s].name : "?";
}

enum move_state move_state_from_name(const char *name)
{
        for (int s = 1; s < MOVE_STATE_N; s++)
                if (strcmp(move_states[s].name, name) == 0)
                        return (enum move_state)s;
        return 0;
}

const char *move_event_name(enum move_event_kind e)
{
        return (unsigned)e < MOVE_EV_N ? report_names[e] : "?";
}

const char *move_says_name(enum move_says s)
{
        return s > 0 && s < MOVE_SAYS_N ? says_names[s] : "?";
}

const char *move_effect_name(enum move_effect_kind e)
{
        return e > 0 && e < MOVE_EFFECT_N ? effect_names[e] : "?";
}

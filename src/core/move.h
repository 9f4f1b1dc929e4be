/* SPDX-License-Identifier: Apache-2.0 */
/* core/move.h - the life of one move by copy, on the side that gives the VM away and on the side that gets
 * it.
 *
 *   source       profiling - planning - reserving - reserving-there [- countered] - preparing-there - copying
 *                - committing - committed - finishing - done
 *   and back     [resuming - closing -] [dropping-there -] releasing - aborted | refused | lost, or from
 * closing to preparing-there with the next attempt destination  holding - reserved - preparing - ready -
 * incoming - complete - running - confirming - settling
 *                - settled
 *   and back     [broken -] dropping - dropped
 *
 * Each state is one thing that is under way: what is to be done for it (effects), what the other side is told
 * (one message), for how long at most. Entering a state gives its effects; so does a restart, and the time,
 * where nobody answers. So every effect must be safe to repeat, and there is nothing else to recover.
 *
 * The two sides only tell each other what each of them is at, by state, and each moves on when the other's
 * word allows it. So messages may be lost, repeated, late and in any order; which of them is out of date is
 * told by the epoch of the owner and by the attempt. A peer may say anything: what makes no sense is refused
 * with a sentence, and changes nothing.
 *
 * One runner (4.16): each attempt has one outcome that is written once, `committed` or `aborted`, kept where
 * the source writes it; the first writer wins, and the guard of the source's VMM may be first. The source
 * journals `committing`, then writes; before that it may run again by itself, after that the record alone
 * decides. A destination that has all of it stands still until it is told RUN, which is only said of an
 * outcome that is written; it journals `running` before the VMM runs, and the source's VMM is ended only when
 * it says so. A destination that broke off says that its attempt never runs there, in answer to RUN if need
 * be: then the owner is the source again, with the next epoch.
 *
 * Pure: (event, now) in, effects out; no allocation. Embed it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "core/plan.h"

enum { MOVE_ID = 64, MOVE_SENTENCE = 160, MOVE_EFFECTS_MAX = 8 };
enum {
        MOVE_ROUNDS = 4,         /* of planning, until the destination has what it said that it has */
        MOVE_TRIES = 3,          /* attempts to copy */
        MOVE_URGENT_REPEATS = 20 /* of the word to run, while the guest stands */
};

/* 0 is no state. */
enum move_state {
        /* the source's */
        MOVE_PROFILING = 1,
        MOVE_PLANNING,
        MOVE_RESERVING,       /* here */
        MOVE_RESERVING_THERE, /* at the destination */
        MOVE_COUNTERED,       /* another level is offered, and held on both sides */
        MOVE_PREPARING_THERE,
        MOVE_COPYING,    /* core/control.h is at work */
        MOVE_ORPHANED,   /* the VMM died while copying: has the destination all of it? */
        MOVE_COMMITTING, /* all of it is there: only the outcome decides */
        MOVE_COMMITTED,  /* the destination owns it, and has not said yet that it runs */
        MOVE_RETURNING,  /* it said that it never will: the VMM here is to run */
        MOVE_RESUMING,   /* the attempt was broken off: the VMM here is to run */
        MOVE_CLOSING,    /* and the outcome is to say so */
        MOVE_DROPPING_THERE,
        MOVE_FINISHING, /* the VMM here ends, and all is given back */
        MOVE_RELEASING, /* what was reserved is given back */
        MOVE_DONE,      /* final */
        MOVE_ABORTED,   /* final: the VM runs here */
        MOVE_REFUSED,   /* final: likewise, and nothing was begun */
        MOVE_LOST,      /* final: the VM died */
        MOVE_SOURCE_N,
        /* the destination's */
        MOVE_HOLDING = MOVE_SOURCE_N, /* it is being reserved */
        MOVE_SHORT,                   /* there is less */
        MOVE_RESERVED,
        MOVE_PREPARING,  /* the VM's resources become usable to a VMM that stands */
        MOVE_READY,      /* it listens */
        MOVE_INCOMING,   /* something came */
        MOVE_COMPLETE,   /* all of it is here, and stands */
        MOVE_BROKEN,     /* this attempt never runs here; another one may come */
        MOVE_RUNNING,    /* journalled: the VMM is to run */
        MOVE_CONFIRMING, /* it runs: said until the source is through */
        MOVE_SETTLING,   /* what was reserved for the move is given back */
        MOVE_DROPPING,   /* everything is */
        MOVE_SETTLED,    /* final: the VM is here */
        MOVE_DROPPED,    /* final */
        MOVE_STATE_N
};

enum move_event_kind {
        /* What the driver of a source reports of effects. */
        MOVE_EV_PROFILED,
        MOVE_EV_PLANNED,   /* the level can be kept, or it is a best effort */
        MOVE_EV_COUNTER,   /* it cannot, but another can */
        MOVE_EV_COPIED,    /* the copy is complete */
        MOVE_EV_BROKEN,    /* it was broken off; it may be tried again */
        MOVE_EV_MISSED,    /* asked by nobody: the level will be missed */
        MOVE_EV_COMMITTED, /* what the record says once it was tried to write it */
        MOVE_EV_ABORTED,
        MOVE_EV_UNKNOWN, /* it cannot be known now */
        MOVE_EV_ACCEPT,  /* asked by nobody: the asker takes the level */
        /* Of both. */
        MOVE_EV_RESERVED,
        MOVE_EV_SHORT,  /* not all of it is free */
        MOVE_EV_FAILED, /* what is under way cannot be done; of a VMM that was to run: it is certain that it
                         * did not, as it was dead before it was told so, by nobody else either */
        MOVE_EV_RUNS,
        MOVE_EV_DIED, /* asked by nobody: the VMM, also where it is asked to run */
        MOVE_EV_RELEASED,
        MOVE_EV_CANCEL,
        MOVE_EV_TIMEOUT, /* found by MOVE_EV_TICK, never given */
        /* Of a destination. */
        MOVE_EV_PREPARED,
        MOVE_EV_INCOMING, /* asked by nobody, of the VMM of that attempt */
        MOVE_EV_COMPLETED,
        MOVE_REPORT_N,
        MOVE_EV_MESSAGE = MOVE_REPORT_N, /* the other side says */
        MOVE_EV_TICK,                    /* the time is move_deadline() */
        MOVE_EV_N
};

/* 0: none. */
enum move_says {
        /* the source; what one that is over says is DROP, or FINISHED */
        MOVE_SAYS_RESERVE = 1, /* a later attempt: instead of what was asked for before */
        MOVE_SAYS_PREPARE,     /* a later attempt: the one before is aborted */
        MOVE_SAYS_COPY,        /* the copy is under way */
        MOVE_SAYS_STATUS,      /* how far is it there? */
        MOVE_SAYS_RUN,         /* the outcome is committed */
        MOVE_SAYS_DROP,        /* it is aborted, or there is none */
        MOVE_SAYS_FINISHED,    /* nothing is left here */
        /* the destination */
        MOVE_SAYS_RESERVED,
        MOVE_SAYS_SHORT,
        MOVE_SAYS_READY,
        MOVE_SAYS_INCOMING,
        MOVE_SAYS_COMPLETE, /* and what is the outcome? */
        MOVE_SAYS_RUNNING,
        MOVE_SAYS_BROKEN,  /* this attempt does not and never will run here */
        MOVE_SAYS_DROPPED, /* nor any other, and nothing is reserved */
        MOVE_SAYS_N
};

struct move_message {
        enum move_says says;
        char id[MOVE_ID]; /* of the move */
        uint64_t epoch;   /* of the owner, as far as the sender knows */
        uint32_t attempt;
        struct vector vector;  /* RESERVE: so much, */
        int64_t reserve_ms;    /* for so long, */
        int64_t hold_ms;       /* and for so long without another word */
        struct means_side has; /* SHORT: what there is */
        enum reason reason;    /* DROP, BROKEN, DROPPED */
        char sentence[MOVE_SENTENCE];
};

enum move_owner { OWNER_SOURCE = 1, OWNER_DESTINATION };
enum move_outcome { MOVE_OUTCOME_COMMITTED = 1, MOVE_OUTCOME_ABORTED };

/* All that is journalled. */
struct move_row {
        char id[MOVE_ID];
        enum move_state state; /* read anywhere, written only by move.c */
        enum move_state end;   /* the final state that is made for; 0: the next attempt, if any */
        enum move_owner owner;
        uint64_t epoch, first_epoch; /* first: when the move began */
        uint32_t attempt;            /* of planning, or of copying */
        uint32_t rounds, tries;
        uint64_t step; /* the token of this state's effects */
        bool is_offer; /* the level is not what was asked for, but what is offered */
        bool is_told;  /* destination: the source has nothing more to ask, or is waited for no longer */
        bool is_short; /* at the destination there is, or was, less than was asked for, and part of it is
                          held: */
        struct means_side has;
        struct level level; /* asked for, or offered: never stricter than it was */
        struct vector vector;
        int64_t reserve_ms, copy_ms, hold_ms; /* reserved for; copied in at most; offered for */
        int64_t started_ms;                   /* of the first attempt to copy */
        int64_t deadline_ms;                  /* of this state */
        enum reason reason;                   /* why it goes the way back: the first that was known */
        char sentence[MOVE_SENTENCE];
};

struct move {
        struct move_row row;
        int64_t repeat_ms; /* when the effects are given again */
        uint32_t repeats;
        uint64_t late;     /* reports and messages that came too late */
        bool is_lost_said; /* that nobody answers */
};

/* PERSIST, EVENT and ADOPT are made durable together before any other effect of the turn is carried out; if
 * they cannot be, the move is thrown away and made anew from its row. The others are carried out in order,
 * and what they do to one thing (the VMM, the ledger, the guard) is done in that order, however long it
 * takes. Those with an answer are reported with their token; a report that comes late, of an earlier state,
 * is ignored. */
enum move_effect_kind {
        MOVE_PERSIST = 1, /* the row */
        MOVE_EVENT,       /* a line in the log */
        MOVE_ADOPT,       /* the VM is this side's, from this epoch on; destination: its claims, too */
        MOVE_SEND,        /* the message; it may get lost */
        MOVE_ANSWER,      /* source: the asker is told of an offer, or of the end */
        MOVE_PROFILE,     /* PROFILED, FAILED */
        MOVE_PLAN,        /* PLANNED, COUNTER, FAILED: `has` is what the destination said, if it was short */
        MOVE_RESERVE, /* RESERVED, SHORT: what is reserved for this move is exactly `vector`, for reserve_ms
                       */
        MOVE_COPY_START,  /* COPIED, BROKEN, FAILED: once a guard, which it starts, watches */
        MOVE_GUARD_END,   /* it is dismissed */
        MOVE_WRITE,       /* COMMITTED, ABORTED, UNKNOWN: the outcome of this attempt, if there is none yet */
        MOVE_VMM_PREPARE, /* PREPARED, FAILED: one for this attempt listens; what is left of others has ended
                           */
        MOVE_VMM_WATCH,   /* INCOMING, COMPLETED, DIED: of this attempt, as it comes, or is already */
        MOVE_VMM_CONT,    /* RUNS, DIED, FAILED: a copy that is under way is cancelled; it runs */
        MOVE_RELEASE,     /* RELEASED: the VMM that is not to run here has ended; what was reserved for the
                           * move, and claimed by a VM that is not here, is given back */
        MOVE_EFFECT_N
};

struct move_effects {
        size_t n;
        struct move_effect {
                enum move_effect_kind kind;
                uint64_t token;
                uint32_t attempt;            /* what is told to a VMM of a later one is not meant */
                enum move_outcome outcome;   /* MOVE_WRITE */
                const char *event, *text;    /* MOVE_EVENT; valid until the next step */
                struct move_message message; /* MOVE_SEND */
        } list[MOVE_EFFECTS_MAX];
};

struct move_event {
        enum move_event_kind kind;
        int64_t now_ms;
        uint64_t token;     /* of a report on an effect */
        uint32_t attempt;   /* of the VMM of a destination that INCOMING, COMPLETED, DIED are about */
        enum reason reason; /* of BROKEN, FAILED, DIED, CANCEL; may be 0 */
        const char *sentence;
        struct level level;   /* COUNTER, ACCEPT */
        struct vector vector; /* PLANNED, COUNTER */
        int64_t reserve_ms, copy_ms, hold_ms;
        struct means_side has;              /* SHORT */
        const struct move_message *message; /* MESSAGE */
};

/* A source begins. epoch: of the VM's owner, who is here. */
void move_begin(struct move *m, const char *id, const struct level *level, uint64_t epoch, int64_t now_ms,
                struct move_effects *ret);
/* A destination begins, with a RESERVE of a move that is not known. least_epoch: of what the VM's owner is
 * known to be here, or the next where it is here; 0: not at all. A message that was under way for so long
 * that the move is forgotten again is refused by it. -EPROTO: it begins none. */
int move_admit(struct move *m, const struct move_message *first, uint64_t least_epoch, int64_t now_ms,
               struct move_effects *ret, struct err *err);
/* From its row, after a restart; has_vmm: of a source, that its VMM is there. */
void move_restore(struct move *m, const struct move_row *row, bool has_vmm, int64_t now_ms,
                  struct move_effects *ret);
/* What a message gets for an answer that is about a move which is not known (any more), nor begins one.
 * false: none. */
bool move_answer_unknown(const struct move_message *in, struct move_message *ret);

/* 1: it acted. 0: late but legal, ignored. -EPROTO: may not be said or done in this state, *err says why; a
 * mistake of the peer's or, of a report, of the driver's. */
int move_step(struct move *m, const struct move_event *ev, struct move_effects *ret, struct err *err);
/* When MOVE_EV_TICK is due; INT64_MAX: never. */
int64_t move_deadline(const struct move *m);

bool move_is_source(const struct move *m);
bool move_is_final(const struct move *m);
/* Final, and nobody will ask for more than move_answer_unknown() says. */
bool move_may_be_forgotten(const struct move *m);
/* May the effect be given in the state? The three that are durable may always be. */
bool move_state_has(enum move_state s, enum move_effect_kind e);

const char *move_state_name(enum move_state s); /* "reserving-there" */
enum move_state move_state_from_name(const char *name);
const char *move_event_name(enum move_event_kind e);
const char *move_says_name(enum move_says s);
const char *move_effect_name(enum move_effect_kind e);

/* SPDX-License-Identifier: Apache-2.0 */
/* core/handover.h - the life of one handover (P5): a running VM changes hypervisor on one server without
 * being copied. Once for the service processor, which brokers it, once for the hypervisor that gives the VM
 * away, and once for the one that takes it.
 *
 *   service processor  configured - classified - accepted - separated - quiesced - informed - assigned
 *                      - finishing - running-on-target
 *   and back           [closing -] recalling - dropping - rolled-back | lost
 *   source             classifying - classified - separating - separated - quiescing - quiesced - giving
 *                      - handed - given - finishing - gone
 *   and back           [closing - resuming -] releasing - back | lost
 *   target             checking - accepted - preparing - informed - complete - committing - starting
 *                      - running - settled
 *   and back           [closing -] [returning -] dropping - dropped | lost
 *
 * As in core/move.h each state is one thing that is under way, and brings its effects and what is said;
 * entering it gives them, so does a restart, and so does the time where nobody answers: every effect must be
 * safe to repeat. The hypervisors never speak to each other, but to the service processor (5.5). It leads
 * until the VM stops; messages may be lost, repeated, late and in any order.
 *
 * One runner, one owner of each resource (5.2, 5.13): the record. It lies where all three can read it and
 * goes with the machine (/run), and each of its words is written once, by link(2) to a name that must not
 * exist: `aborted` by whoever gives up, the guard of the source's VMM included; `committed` by the target
 * alone, when its VMM has everything and the source says that its own stands, and only then its VMM runs;
 * `returned` by the target alone, where its VMM died after `committed` and is certain not to have run. So who
 * owns the VM and all that it has follows from the record at any instant, for all three (handover_owner()),
 * and the gap can be broken off until the very moment at which the target runs. Nothing is made durable
 * while the guest stands: the states between are swift, they are not journalled; what is on disk is the
 * state before them, from which a restart asks the record. Nor is anything sent: that the source's VMM stands
 * is a word of the record, too (`stands`, the source's alone), and the target looks there.
 *
 * Pure: (event, now) in, effects out; no allocation. Embed it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { HANDOVER_ID = 64, HANDOVER_SENTENCE = 160, HANDOVER_EFFECTS_MAX = 8 };
enum { HANDOVER_GAP_MAX_MS = 60000, HANDOVER_SEPARATE_MAX_MS = 86400000 };

enum handover_role { ROLE_PROCESSOR = 1, ROLE_SOURCE, ROLE_TARGET, ROLE_N };

/* 0 is no state. */
enum handover_state {
        /* the service processor's: what was reached, and the next is under way */
        HANDOVER_CONFIGURED = 1, /* both hypervisors are; the source classifies */
        HANDOVER_CLASSIFIED,     /* the target looks whether it could take it */
        HANDOVER_ACCEPTED,       /* the source separates */
        HANDOVER_SEPARATED,      /* the source holds what the VM has as it is */
        HANDOVER_QUIESCED,       /* the target is told, and prepares */
        HANDOVER_INFORMED,       /* the source gives; the record decides */
        HANDOVER_ASSIGNED,       /* committed: everything is the target's */
        HANDOVER_FINISHING,      /* it runs there; the source ends its VMM */
        HANDOVER_CLOSING,        /* it is to be aborted, if it is not committed */
        HANDOVER_RECALLING,      /* the source is to have it back */
        HANDOVER_DROPPING,       /* the target is to have nothing of it */
        HANDOVER_RUNNING,        /* final: running on the target */
        HANDOVER_ROLLED_BACK,    /* final */
        HANDOVER_LOST,           /* final: the VM died */
        HANDOVER_PROCESSOR_N,
        /* the source's */
        SOURCE_CLASSIFYING = HANDOVER_PROCESSOR_N,
        SOURCE_CLASSIFIED,
        SOURCE_SEPARATING,
        SOURCE_SEPARATED,
        SOURCE_QUIESCING,
        SOURCE_QUIESCED,
        SOURCE_GIVING,    /* journalled: from here on the record decides */
        SOURCE_HANDED,    /* swift: the VMM stands, and everything was acknowledged */
        SOURCE_ORPHANED,  /* the VMM died, standing: has the target everything? */
        SOURCE_CLOSING,   /* to be aborted, if it is not committed */
        SOURCE_RESUMING,  /* swift: the record lets it; the VMM here is to run */
        SOURCE_GIVEN,     /* it is the target's */
        SOURCE_FINISHING, /* the VMM here ends */
        SOURCE_RELEASING, /* what was held for the handover is let go of */
        SOURCE_GONE,      /* final */
        SOURCE_BACK,      /* final: the VM runs here */
        SOURCE_LOST,      /* final: it died here */
        HANDOVER_SOURCE_N,
        /* the target's */
        TARGET_CHECKING = HANDOVER_SOURCE_N,
        TARGET_ACCEPTED,
        TARGET_PREPARING,
        TARGET_INFORMED,   /* its VMM waits */
        TARGET_COMPLETE,   /* swift: it has everything, and stands */
        TARGET_COMMITTING, /* swift: so does the source's */
        TARGET_STARTING,   /* swift: committed; the VMM is to run */
        TARGET_RUNNING,    /* said until the service processor is through */
        TARGET_CLOSING,    /* to be aborted, if it is not committed */
        TARGET_RETURNING,  /* the VMM died without having run: the source's again */
        TARGET_DROPPING,
        TARGET_SETTLED, /* final: the VM is here */
        TARGET_DROPPED, /* final */
        TARGET_LOST,    /* final: it died here */
        HANDOVER_STATE_N
};

enum handover_event_kind {
        /* Of what was to be done here: answers, with the token. */
        HANDOVER_EV_CLASSIFIED,
        HANDOVER_EV_SEPARATED,
        HANDOVER_EV_QUIESCED,
        HANDOVER_EV_HANDED, /* the source's VMM stands, and the other acknowledged everything */
        HANDOVER_EV_BROKEN, /* the source's VMM runs, or does again by itself */
        HANDOVER_EV_CHECKED,
        HANDOVER_EV_PREPARED,
        HANDOVER_EV_RUNS,
        HANDOVER_EV_RELEASED,
        HANDOVER_EV_UNKNOWN, /* the record cannot be known now */
        HANDOVER_EV_FAILED,  /* it cannot be done; of a VMM that was to run: it died, and this daemon never
                                told it  so */
        HANDOVER_ANSWER_N,
        /* What comes of itself, or because it was asked for. */
        HANDOVER_EV_COMMITTED = HANDOVER_ANSWER_N, /* the record says so */
        HANDOVER_EV_ABORTED,
        HANDOVER_EV_RETURNED,  /* also of one that ran here, or died so, by the word of who leads: where the
                                  record  went with the machine before anything was assigned */
        HANDOVER_EV_COMPLETED, /* the target's VMM has everything */
        HANDOVER_EV_STANDS,    /* so does the source's, by its word in the record */
        HANDOVER_EV_DIED,      /* the VMM; what it had said before comes before */
        HANDOVER_EV_CANCEL,
        HANDOVER_EV_TIMEOUT, /* found by HANDOVER_EV_TICK, never given */
        HANDOVER_REPORT_N,
        HANDOVER_EV_MESSAGE = HANDOVER_REPORT_N,
        HANDOVER_EV_TICK, /* the time is handover_deadline() */
        HANDOVER_EV_N
};

/* 0: none. */
enum handover_says {
        /* the service processor, to the source */
        HANDOVER_SAYS_CLASSIFY = 1,
        HANDOVER_SAYS_SEPARATE,
        HANDOVER_SAYS_QUIESCE,
        HANDOVER_SAYS_GIVE,
        HANDOVER_SAYS_FINISH, /* the target has run it: the source's VMM ends */
        HANDOVER_SAYS_ABORT,
        /* the service processor, to the target */
        HANDOVER_SAYS_OFFER,
        HANDOVER_SAYS_INFORM,
        HANDOVER_SAYS_STATUS,
        HANDOVER_SAYS_SETTLE,
        HANDOVER_SAYS_DROP,
        /* the source */
        HANDOVER_SAYS_CLASSIFIED,
        HANDOVER_SAYS_SEPARATED,
        HANDOVER_SAYS_QUIESCED,
        HANDOVER_SAYS_GIVEN,
        HANDOVER_SAYS_GONE,
        HANDOVER_SAYS_BACK,
        HANDOVER_SAYS_DIED, /* the VM, at the source */
        /* the target */
        HANDOVER_SAYS_ACCEPTED,
        HANDOVER_SAYS_INFORMED,
        HANDOVER_SAYS_RUNNING,
        HANDOVER_SAYS_DROPPED,
        HANDOVER_SAYS_LOST, /* the VM, at the target */
        HANDOVER_SAYS_N
};

/* What goes along is the driver's: the classification with CLASSIFIED and OFFER, the definition as it is by
 * now and the scheduling-related control information with QUIESCED and INFORM (5.5). */
struct handover_message {
        enum handover_says says;
        enum handover_role to;
        char id[HANDOVER_ID];
        uint64_t epoch;      /* of the handover */
        int64_t gap_ms;      /* the guest may stand for so long; 0: no bound was asked for */
        int64_t separate_ms; /* what is to be separated may take so long. CLASSIFY: as was asked for, 0:
                                nothing was; then as its source says, 0: nothing is to be */
        enum reason reason;  /* ABORT, DROP, BACK, DIED, DROPPED, LOST */
        char sentence[HANDOVER_SENTENCE];
};

enum handover_record { RECORD_NONE, RECORD_ABORTED, RECORD_COMMITTED, RECORD_RETURNED };

/* All that is journalled. */
struct handover_row {
        char id[HANDOVER_ID];
        enum handover_state state; /* read anywhere, written only by handover.c */
        enum handover_state end;   /* the final state that is made for, on the way back; 0: the ordinary */
        uint64_t epoch;
        uint64_t step; /* the token of this state's effects */
        int64_t gap_ms;
        int64_t separate_ms; /* as of the messages */
        int64_t deadline_ms;
        bool is_told;   /* target: the service processor has nothing more to ask */
        bool is_unsure; /* target: somebody before a restart may have told the VMM to run */
        enum reason reason;
        char sentence[HANDOVER_SENTENCE];
};

struct handover {
        struct handover_row row;
        bool is_stopped_there; /* target: the source's VMM stands */
        int64_t repeat_ms;
        uint32_t repeats;
        uint64_t late;
        bool is_lost_said;
};

/* PERSIST, EVENT, ADOPT and ASSIGN are made durable together before any other effect of the turn; a turn of a
 * swift state has none but its others. The others are carried out in order. */
enum handover_effect_kind {
        HANDOVER_PERSIST = 1,
        HANDOVER_EVENT,  /* a line in the log */
        HANDOVER_ASSIGN, /* service processor: its partition names the new owner of what the VM has */
        HANDOVER_ADOPT,  /* target: so do its claims */
        HANDOVER_SEND,
        HANDOVER_ANSWER,   /* service processor: whoever asked is told how it ended */
        HANDOVER_CLASSIFY, /* CLASSIFIED, FAILED (core/separate.h) */
        HANDOVER_SEPARATE, /* SEPARATED, FAILED: nothing that the VM has lies where it must stay */
        HANDOVER_QUIESCE,  /* QUIESCED, FAILED: nothing is plugged, granted or throttled any more; the guest
                              runs */
        HANDOVER_CHECK,    /* CHECKED, FAILED: the target could run it, and has claims for what it will get */
        HANDOVER_GUARD_START,
        HANDOVER_GUARD_END,
        HANDOVER_VMM_GIVE,    /* HANDED, BROKEN, FAILED; once the guard watches */
        HANDOVER_VMM_PREPARE, /* PREPARED, FAILED: one waits, with everything that the other has by now */
        HANDOVER_VMM_WATCH,   /* COMPLETED, DIED: as it comes, or is already */
        HANDOVER_VMM_CONT,    /* RUNS, DIED, FAILED: it runs, or runs already */
        HANDOVER_VMM_QUIT,
        HANDOVER_STAND,  /* source: `stands` is written: its VMM does, and will run again only after `aborted`
                            or `returned` */
        HANDOVER_WRITE,  /* COMMITTED, ABORTED, RETURNED, UNKNOWN: what the record says from now on */
        HANDOVER_WATCH,  /* COMMITTED, ABORTED, RETURNED, to a target STANDS: as it comes, or is already */
        HANDOVER_FORGET, /* service processor: the record goes */
        HANDOVER_RELEASE, /* RELEASED: what was held for the handover is not; a source that has the VM goes on
                             granting, one that has not, and a target that has not, have nothing of it */
        HANDOVER_EFFECT_N
};

struct handover_effects {
        size_t n;
        struct handover_effect {
                enum handover_effect_kind kind;
                uint64_t token;
                enum handover_record record;     /* WRITE */
                int64_t gap_ms;                  /* GUARD_START */
                const char *event, *text;        /* EVENT; valid until the next step */
                struct handover_message message; /* SEND */
        } list[HANDOVER_EFFECTS_MAX];
};

struct handover_event {
        enum handover_event_kind kind;
        int64_t now_ms;
        uint64_t token;
        int64_t separate_ms; /* CLASSIFIED: what is to be separated may take so long; 0: nothing is to be */
        enum reason reason;  /* of FAILED, BROKEN, DIED, CANCEL; may be 0 */
        const char *sentence;
        const struct handover_message *message; /* MESSAGE */
};

/* The service processor begins. separate_ms: for so long what is to be separated may take; 0: as long as the
 * source reckons. */
void handover_begin(struct handover *h, const char *id, uint64_t epoch, int64_t gap_ms, int64_t separate_ms,
                    int64_t now_ms, struct handover_effects *ret);
/* A hypervisor begins, with CLASSIFY or OFFER of a handover that is not known. Each handover of a VM takes
 * the next epoch, however it ends; least_epoch: greater than that of any that is over here. So a message that
 * was under way for too long begins nothing. -EPROTO: it begins none; handover_answer_unknown() has the
 * answer. */
int handover_admit(struct handover *h, const struct handover_message *first, uint64_t least_epoch,
                   int64_t now_ms, struct handover_effects *ret, struct err *err);
/* What is known of a source's VMM after a restart. */
enum handover_vmm {
        HANDOVER_VMM_LIVES = 1,
        HANDOVER_VMM_STOOD, /* it is dead, and certain not to have run again once it had stopped */
        HANDOVER_VMM_GONE
};
/* From its row, after a restart. vmm: of a source. record: what it says now, to a target; RECORD_COMMITTED
 * where that cannot be known: then somebody before may have told the VMM to run. */
void handover_restore(struct handover *h, const struct handover_row *row, enum handover_vmm vmm,
                      enum handover_record record, int64_t now_ms, struct handover_effects *ret);
/* The answer to a message about a handover that is not known (any more), nor begins one; a hypervisor that
 * gives it takes the handover for over. false: none. */
bool handover_answer_unknown(const struct handover_message *in, struct handover_message *ret);

/* 1: it acted. 0: late but legal, ignored. -EPROTO: may not be said or done in this state. */
int handover_step(struct handover *h, const struct handover_event *ev, struct handover_effects *ret,
                  struct err *err);
/* When HANDOVER_EV_TICK is due; INT64_MAX: never. */
int64_t handover_deadline(const struct handover *h);

/* For so long a state is waited in at most; 0: for ever. */
int64_t handover_wait_ms(enum handover_state s, int64_t separate_ms);
enum handover_role handover_role(enum handover_state s);
bool handover_is_final(const struct handover *h);
/* Service processor: what the VM has is, or may yet become, the target's, and may go back: its partition may
 * change by this one. Behind that only what is left at one of both is waited for. */
bool handover_may_assign(const struct handover *h);
/* Final, and nobody will ask for more than handover_answer_unknown() says. */
bool handover_may_be_forgotten(const struct handover *h);
/* Whose the VM is, and all that it has and that can change hands. */
enum handover_role handover_owner(enum handover_record record);
/* The same by the books of one of the three alone: is it the target's? The record counts while the state
 * leaves it open. */
bool handover_is_targets(const struct handover_row *row, enum handover_record record);
bool handover_state_has(enum handover_state s, enum handover_effect_kind e);
/* Entered without being journalled. */
bool handover_state_is_swift(enum handover_state s);

const char *handover_state_name(enum handover_state s); /* "source-giving" */
enum handover_state handover_state_from_name(const char *name);
const char *handover_event_name(enum handover_event_kind e);
const char *handover_says_name(enum handover_says s);
const char *handover_effect_name(enum handover_effect_kind e);

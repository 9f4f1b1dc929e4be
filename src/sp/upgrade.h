/* SPDX-License-Identifier: Apache-2.0 */
/* sp/upgrade.h - a hypervisor is replaced by one with a newer VMM (core/upgrade.h), driven.
 *
 *   upgrade.c         looks what there is to be done next, until it is over
 *   upgrade-vms.c     VMs: those that the old one has; tried, handed over, and how that ended
 *   upgrade-room.c    would all VMs find room there, one after the other?
 *   upgrade-parts.c   parts of the server: lent, given, given back
 *   upgrade-ask.c     what is asked for -> an upgrade that begins
 *   upgrade-record.c  an upgrade in the store, and as it is shown
 *
 * One at a time. What is to be done follows from what stands in the journal and from what is true now, and
 * from nothing that was remembered: the shares say what was lent, the handovers by their ids how the VMs are,
 * the processes who runs. So it is looked whenever something ends that it may wait for, and once a second,
 * and a restart only looks. The last one is kept for people. */
#pragma once
#include "core/upgrade.h"
#include "sp/sp.h"

/* A VM that is at a hypervisor, by its word. */
struct upgrading_there {
        char name[UPGRADE_NAME];
        bool runs, is_stopped; /* neither: it starts or stops just now */
};

struct upgrading {
        struct sp *sp;
        struct upgrade core;
        int from, to;
        bool has_run;       /* the successor was told what it has: VMs may be there that nobody handed over */
        int64_t max_gap_ms; /* 0: no bound */
        int64_t asked_ms, ended_ms;
        int64_t *taken; /* by component: what of the successor's part was nobody's */
        /* From here on nothing is journalled. */
        struct loop_timer look;
        int64_t entered_mono_ms; /* this state */
        struct http_call *call;  /* a question to one of both; its answer looks again */
        bool is_listed;          /* `there` is whole, and no older than what happened last */
        int64_t listed_mono_ms;
        int64_t silent_mono_ms; /* since when it is to be known who is there; 0: it is */
        bool was_handing; /* GIVING, RETURNING: somebody else's handover was under way at the last look */
        int64_t giving_mono_ms; /* since when what is on its way was seen to be; 0: nothing */
        bool is_gift_said;      /* `problem` is about that */
        unsigned pages;
        size_t n_there;
        struct upgrading_there *there;
        struct upgrading_room *room; /* CHECKING, once all were tried; NULL: not asked yet */
        char holder[128]; /* GIVING, RETURNING: somebody who has a claim there without a VM; "": nobody */
        int64_t *most;    /* by component: what may be given yet in this round; NULL: not known */
        bool is_refused;  /* something was, in this round */
        bool is_short;    /* a VM had no room at the successor, or counts on what others left behind */
        uint32_t rank;    /* MOVING: whose turn it was at the last look */
        char why[256];    /* why a VM cannot begin, in this look; "": all can */
        char problem[256];
};

/* ---- upgrade.c ---- */
void upgrading_begin(struct upgrading *up); /* or go on; it is sp's */
void upgrading_end(struct sp *sp);
bool upgrading_is_under_way(const struct sp *sp);
/* Of whoever else wants to start a hypervisor: REASON_BUSY. */
int upgrading_check_other(const struct sp *sp, int hypervisor, struct err *err);
/* To stop one: likewise, but for one that may be given up: by being stopped it is said that it has no VM. */
int upgrading_check_stop(const struct sp *sp, int hypervisor, struct err *err);
/* To give a part of `from` to `to`: likewise, but for what the successor gets of others once a VM is there.
 */
int upgrading_check_give(const struct sp *sp, int from, int to, struct err *err);
/* To hand a VM over to a hypervisor: REASON_BUSY for the one that is to end. */
int upgrading_check_arrival(const struct sp *sp, int to, struct err *err);
/* A hypervisor is to be told its part. Negative: not yet, as it could not be journalled that it is. */
int upgrading_telling(struct sp *sp, int hypervisor);
/* Something has changed that it may wait for. */
void upgrading_wake(struct sp *sp);
/* 0: it is undone, or is so already, or is over. REASON_STALE: too late. */
int upgrading_cancel(struct upgrading *up, struct err *err);
/* Something is no longer on its way. why NULL: it was given. */
void upgrading_gave(struct sp *sp, const struct err *why);
/* What it was before, of a change that is to be journalled: upgrading_put() takes it. */
struct upgrade *upgrading_before(const struct upgrading *up);
/* Makes durable what changed in the core since, with what follows from it in the partition. Negative: nothing
 * has changed, and it is looked again in a while. vm NULL: it is about all of it. */
int upgrading_put(struct upgrading *up, struct upgrade *before, const struct upgrade_vm *vm,
                  const char *event, const char *text);
/* One step of the core. Negative: as above. */
int upgrading_turn(struct upgrading *up, enum upgrade_event ev, enum reason reason, const char *sentence);
/* Why it does not get on, for people. */
void upgrading_waits(struct upgrading *up, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void upgrading_free(struct upgrading *up);

/* ---- upgrade-vms.c ---- */
/* true: who is at this hypervisor is known. Else it is asked. */
bool upgrading_list(struct upgrading *up, int hypervisor);
void upgrading_forget_list(struct upgrading *up);
/* Nothing is waited for but its word that it has no VM, and it does not say which it has, for a while now,
 * whether it runs or not. */
bool upgrading_may_give_up(const struct upgrading *up, int hypervisor);
void upgrading_look_at_vms(struct upgrading *up); /* CHECKING, MOVING */
void upgrading_recall(struct upgrading *up);      /* RECALLING */

/* ---- upgrade-room.c ---- */
/* true: all VMs can leave the old one, one after the other. false: they cannot, and it is undone; or it is
 * asked, and looked again. */
bool upgrading_has_room(struct upgrading *up);
void upgrading_order(struct upgrading *up); /* the order that was found then is that of the core */
void upgrading_forget_room(struct upgrading *up);

/* ---- upgrade-parts.c ---- */
/* Gives to the other what may be given, part by part. true: there is no more, now; whether something was
 * refused is in is_refused. false: it is under way, or cannot be known. */
bool upgrading_lend(struct upgrading *up);                        /* what the old one has free */
bool upgrading_give_rest(struct upgrading *up, int from, int to); /* all that nothing claims there */
void upgrading_forget_parts(struct upgrading *up);

/* ---- upgrade-ask.c ---- */
/* Journalled, and under way, when it returns 0. The same id again: as it is, with this bound of the gap. */
int upgrading_ask(struct sp *sp, const struct api_upgrade_start *in, struct err *err);

/* ---- upgrade-record.c ---- */
char *upgrading_text(const struct upgrading *up); /* for the store; malloc'ed; NULL: no memory */
int upgrading_load(struct sp *sp, const char *text, struct err *err);
json_t *upgrading_view(const struct upgrading *up);
void upgrading_show_brief(const struct upgrading *up, struct api_upgrade_brief *ret);

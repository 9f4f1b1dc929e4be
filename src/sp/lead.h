/* SPDX-License-Identifier: Apache-2.0 */
/* sp/lead.h - the service processor's part in a handover (core/handover.h), driven.
 *
 *   lead.c         events in, effects out; the partition, the record, the clock
 *   lead-ask.c     what is asked for, and where the VM is -> a handover that begins
 *   lead-words.c   what is said to the two hypervisors, and what they say; what they claim is checked here
 *   lead-record.c  a handover in the store, and as it is shown
 *
 * Those of different VMs go on side by side; a VM has one at a time. What has come so far that it may change
 * hands is counted when another begins, so that all of it fits; one that is committed is named in all that
 * hypervisors are told, until it is over. So one whose hypervisor stays away is in nobody else's way. A
 * restart goes on with all of them. Those that ended last are kept, so that a word which comes late has its
 * answer, and people theirs. */
#pragma once
#include "core/handover.h"
#include "sp/sp.h"

/* Of one hypervisor to another so many, so that those which do not get on leave the others theirs. */
enum { LEADS_MAX = 32, LEADS_PAIR_MAX = 4 };
enum { LEAD_KEPT = 64, LEAD_NAME = 64, LEAD_RECORD = 256, LEAD_TRANSFER = 100, LEAD_PARTS = 96 };

struct leading {
        struct sp *sp;
        struct leading *next; /* begun before */
        struct handover core;
        char vm[64];
        int from, to;
        bool is_dry, would;     /* would: a dry run found that it would be begun */
        bool is_assigned;       /* what is reassignable is the target's */
        int64_t assigned_epoch; /* of the partition in which it became that; not journalled: then the present
                                 */
        int64_t asked_ms, ended_ms;                /* wall clock; 0: not yet */
        char record[LEAD_RECORD], boot[LEAD_NAME]; /* path of its folder, "": not known; when that was made */
        char transfer[LEAD_TRANSFER];              /* "": not known */
        int64_t gap_us, sent_bytes, ram_bytes, separated_bytes; /* -1: not known */
        int64_t stood_us, ran_us;         /* by the source's and the target's word; 0: not known */
        struct api_handover_guest *guest; /* what the source said last, checked; NULL: nothing, or ended */
        size_t n_parts;                   /* once it has ended */
        struct api_handover_part parts[LEAD_PARTS];
        int dir_fd, notify_fd; /* of the record; -1: not open */
        struct loop_fd notify;
        struct loop_timer tick;
        struct handover_event after; /* what comes of an effect, behind the others */
        bool has_after;
        bool is_held; /* FINISH, until the source has its lesser part */
        struct handover_message held;
};

/* ---- lead.c ---- */
int lead_load(struct sp *sp, struct err *err); /* from the store */
void lead_start(struct sp *sp);                /* goes on */
void lead_end(struct sp *sp);
unsigned lead_count(const struct sp *sp); /* that are under way */
/* One that is under way, and in which this hypervisor has a part; NULL: none. */
const struct leading *lead_of(const struct sp *sp, int hypervisor);
/* One of these by which the partition may yet change, though this hypervisor never says a word again; that is
 * decided without it. NULL: none. */
const struct leading *lead_undecided(const struct sp *sp, int hypervisor);
/* Why one of this VM cannot begin now, or 0: its last one is under way (-EALREADY: others may begin), or too
 * many are. */
int lead_check(const struct sp *sp, const char *vm, int from, int to, struct err *err);
/* What of its VM would change hands, if whatever else is under way does, too. As server_assign_check(). */
int lead_check_portions(const struct leading *l, struct err *err);
struct leading *lead_find(const struct sp *sp, const char *id);
/* Journalled, and under way, when it returns 0; then *ret is the list's. */
int lead_begin(struct sp *sp, const struct api_handover_start *in, int from, int to, struct leading **ret,
               struct err *err);
/* As handover_step(). Negative, and nothing has changed: it may not be, or cannot be journalled now. May end
 * it. */
int lead_take(struct leading *l, const struct handover_event *ev, struct err *err);
/* What the record says now, of those who may say it. Negative: that cannot be known. */
int lead_look(struct leading *l, enum handover_record *ret, struct err *err);
/* Where it is, by the source's word, which is not believed: a folder of the keeper's, and nothing in it. */
int lead_set_record(struct leading *l, const char *path, struct err *err);
/* 0: it is broken off, or is so already. REASON_STALE: too late. */
int lead_cancel(struct leading *l, enum reason reason, const char *sentence, struct err *err);

/* ---- lead-record.c ---- */
char *lead_text(const struct leading *l); /* for the store; malloc'ed; NULL: no memory */
/* *ret is new. REASON_INVALID. */
int lead_read(struct sp *sp, const char *id, const char *text, struct leading **ret, struct err *err);
void lead_show(const struct leading *l, struct api_handover *ret);
void lead_free(struct leading *l);

/* ---- lead-words.c ---- */
void lead_say(struct leading *l, const struct handover_message *said);
/* It has taken the partition of h->epoch: what waited for that is said. */
void lead_told(const struct hypervisor_of *h);
/* Of what a hypervisor may be told once more. */
void lead_words_end(struct sp *sp);
/* Each hypervisor has a socket for its words, its user's alone. 0: it listens, or did already. */
int lead_listen(struct hypervisor_of *h, const struct launch_user *u, struct err *err);
void lead_listen_end(struct hypervisor_of *h);
/* What of the VM changes hands; room for LEAD_PARTS. */
size_t lead_portions(const struct leading *l, struct server_portion *ret);

/* ---- lead-ask.c ---- */
/* Why one of a VM that is known to run at `from` cannot begin now, or 0. -EALREADY: only this VM's; else it
 * is the pair that is in the way, and no other begins either. */
int lead_may_begin(const struct sp *sp, const struct api_handover_start *in, int from, struct err *err);
void lead_ask(struct sp *sp, struct http_request *req, const struct api_handover_start *in);
void lead_ask_end(struct sp *sp);

/* SPDX-License-Identifier: Apache-2.0 */
/* meted/handover-internal.h - shared by the files of handover.h only. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/handover.h"
#include "json/api.h"
#include "loop/loop.h"
#include "meted/handover.h"
#include "meted/machine.h"
#include "meted/meted.h"
#include "meted/sweep.h"
#include "vm/transfer.h"

enum {
        HANDING_KEEPS_MAX = 64,
        HANDING_NAME = 32,
        HANDING_KEEPER_MS = 20000,
        HANDING_PREPARE_MS = 10000,
        HANDING_AGAIN_MS = 100
};

/* One handover, on this side of it. What core/handover.h decides is journalled in `core.row`, and beside it
 * the guest, which has the loan of its memory; all else here can be had again. */
struct handing {
        struct meted *m;
        struct handover core;
        struct handover_row durable, written; /* as it is in the store; as it will be with this turn */
        bool is_durable;                      /* it is there at all */
        bool is_void;                         /* what was decided since could not be written */
        bool is_loaded;                       /* from the store, and goes on when its VMM is attached to */
        enum handover_state entered;          /* the last of which a crash point was passed */
        unsigned pending;                     /* turns of it that are not durable yet */
        char vm[64], peer[HANDING_NAME];
        char keeps[HANDING_KEEPS_MAX][HANDING_NAME]; /* what stays with the source, by mete-sp's word */
        size_t n_keeps;
        struct api_handover_guest
                *guest;          /* as was said last: by us as the source, or to us; NULL: nothing was */
        char boot[BOOT_ID];      /* in which the loan was made, and its record; "": not known */
        char transfer_path[108]; /* where the target's VMM is said to wait */
        int64_t asked_ms, ended_ms;
        struct loop_timer tick;
        struct loop_timer again; /* what waits for something that passes by itself */
        struct loop_timer watch; /* looks at the record, whether or not there was a notice */
        struct loop_fd notify;   /* of a target: notices of what is written there */
        int notify_fd;           /* -1: none */
        struct loop_timer gap;   /* of a source: the guest has stood for as long as it may */
        enum handover_record seen;
        uint64_t seen_step;   /* in which that was reported */
        uint64_t stands_step; /* the same, of a target, of the source's word that its VMM stands */
        uint64_t token[HANDOVER_EFFECT_N];
        struct transfer *transfer;
        vm_done *done;           /* of handing_prepare() */
        bool may_lend;           /* source: it has come so far that the memory may be lent */
        bool is_prepared;        /* it is, and its VMM keeps what is plugged when it ends */
        bool is_returned;        /* the loan has ended, by the keeper's word */
        struct sweep sweep;      /* source: how much is to be moved before */
        size_t surveyed;         /* of its memory */
        int64_t survey_mono_ms;  /* since when */
        bool has_waited;         /* for what its guest was getting or giving back; and said so */
        bool separates;          /* some of it was sent on its way, for this handover. Journalled */
        bool is_counted;         /* how much, since that began */
        int64_t separated_bytes; /* -1: not known. Journalled */
        bool is_calling; /* something of the VMM's or the keeper's is under way, that is not to be begun twice
                          */
        struct api_keeper_looked *looked; /* what the VMM has mapped */
        int64_t stood_us, ran_us;         /* CLOCK_MONOTONIC; 0: not known */
        bool has_counted, is_counting;    /* source: what went over was asked for, and not answered yet */
        int64_t sent_bytes, ram_bytes;    /* -1: not known */

        /* target */
        bool is_defined;     /* the VM is, for this handover */
        int64_t part_epoch;  /* of the partition in which its memory is ours; 0: not known. Journalled */
        bool is_complete;    /* all of it came */
        bool is_told_to_run; /* and may have done so: what QEMU refused is not that */
        bool was_told;       /* the same, before it was told last */
        unsigned n_refused;
        size_t leases; /* so many of the guest's are asked for already */
        int plug_slot; /* of a vCPU that nobody was granted, and that is being plugged */
};

/* handover.c */
void handing_report(struct handing *ho, uint64_t token, enum handover_event_kind kind, const struct err *err);
/* CLASSIFIED: what is to be separated may take so long. 0: nothing is to be. */
void handing_classified(struct handing *ho, int64_t separate_ms);
void handing_say(struct handing *ho, const char *event, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
struct handing *handing_find(const struct meted *m, const char *id); /* NULL: none is called so */
void handing_each(const struct meted *m, void (*fn)(struct handing *ho, void *arg), void *arg);
void handing_put(struct handing *ho); /* into the store, with this turn */
/* Of that VM: what an older one has left undone is the later one's now, or done. */
bool handing_is_latest(const struct handing *ho);
bool handing_is_source(const struct handing *ho);
/* The one that this VM is in the middle of; NULL: none. */
struct handing *handing_of_vm(const struct meted *m, const char *vm);

/* handover-vmm.c */
/* The loan of the memory ends; RELEASED then, by the token. Again until it has. */
void handing_return(struct handing *ho);
/* RELEASED when it is: no request, no definition, no folder. */
void handing_forget_vm(struct handing *ho);
/* The VMM's end of it, made anew: what was under way is answered as cancelled. NULL: it is not attached to.
 */
struct transfer *handing_transfer(struct handing *ho);
/* Asks the keeper what the VMM has mapped, then prepares it for a handover; done as of transfer_prepare(). */
void handing_prepare(struct handing *ho, vm_done *done);

/* handover-record.c */
const struct handover_row *handing_row(const struct handing *ho); /* as it is to be journalled */
char *handing_record(const struct handing *ho);
int handing_record_read(struct handing *ho, const char *id, const char *text, struct err *err);
/* The record's word is made so, or learnt; what it says is reported. */
void handing_write(struct handing *ho, enum handover_record wanted, const char *by);
void handing_give_up(const struct handing *ho, const char *by);
/* The source's word in it that its VMM stands; said again until it is there. */
void handing_stand(struct handing *ho);
/* To a target: is it there? What cannot be known now is not. */
bool handing_stands(const struct handing *ho);
/* Notices of what is written there go to fn. Where there can be none, it is looked at by the clock alone. */
void handing_notify(struct handing *ho, void (*fn)(void *handing, uint32_t events));
void handing_notify_end(struct handing *ho);
/* Negative: it cannot be known now. Where there is no loan yet nobody can have written. */
int handing_read(const struct handing *ho, enum handover_record *ret, struct err *err);
/* Where the record went with the machine, of which both VMMs did, too, nobody will write: what mete-sp says
 * is its word. */
void handing_follow(struct handing *ho, const struct handover_message *said);
/* It died here, and the machine was booted again since: mete-sp may yet say that it is its source's. */
bool handing_may_be_undone(const struct handing *ho);
enum handover_event_kind handing_event_of(enum handover_record record); /* NONE: UNKNOWN */

/* handover-room.c */
/* Its memory is a part of what this hypervisor may give away only when the partition says so: until then the
 * VM brings it (core/bring.c). By what its source says that it has. REASON_INCOMPATIBLE: it cannot be so
 * here. */
int room_bring(struct handing *ho, struct err *err);
bool room_is_brought(const struct handing *ho); /* it is to be so */
/* mete-sp has said in which partition it is ours. */
void room_know(struct handing *ho, int64_t epoch);

/* handover-separate.c */
/* The parts of ho->guest, as they will be once what lies where it must stay is separated. false: there are
 * more than can be said. */
bool separation_describe(struct handing *ho);
/* How many bytes that will be; then CLASSIFIED, or FAILED where they cannot be moved. */
void separation_survey(struct handing *ho);
void giver_separate(struct handing *ho);
/* Its guest gets no more memory of what is kept, from when it is separated until it is over: also after the
 * books were made anew. */
void separation_pin(struct handing *ho);
/* It is over, or broken off: what is half way goes back. */
void separation_end(struct handing *ho);

/* handover-source.c */
void giver_classify(struct handing *ho);
void giver_quiesce(struct handing *ho);
void giver_give(struct handing *ho);
void giver_run(struct handing *ho);
void giver_count(struct handing *ho); /* what went over, once it is given: not while the guest stands */
void giver_release(struct handing *ho);
void giver_again(struct handing *ho);
void giver_guard_start(struct handing *ho);
void giver_guard_end(struct handing *ho);
void giver_bound(void *handing); /* the gap's is reached */
void giver_vm_event(struct handing *ho, enum vm_event event, const char *words);

/* handover-target.c */
void taker_check(struct handing *ho);
void taker_prepare(struct handing *ho);
void taker_watch(struct handing *ho);
void taker_run(struct handing *ho);
void taker_release(struct handing *ho);
void taker_settle(struct handing *ho); /* it is through: the memory is this VM's alone */
void taker_again(struct handing *ho);
void taker_vm_event(struct handing *ho, enum vm_event event, const char *words);

/* SPDX-License-Identifier: Apache-2.0 */
/* meted/moves-internal.h - shared by the files of moves.h only. */
#pragma once
#include <glib.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/control.h"
#include "core/learn.h"
#include "core/move.h"
#include "core/plan.h"
#include "json/api.h"
#include "loop/loop.h"
#include "meted/machine.h"
#include "meted/meted.h"
#include "vm/copy.h"
#include "vm/profiler.h"

enum { MOVE_FALLBACK = 128, MOVE_FALLBACKS_MAX = 6 };

/* Somebody who connected, until it has said its word. */
enum { KNOCKS_MAX = 16, MOVE_WORD = 64 };
struct knock {
        struct moving *mv;
        int fd; /* -1: nobody */
        struct loop_fd watch;
        struct loop_timer deadline;
        char word[MOVE_WORD];
        size_t n;
};
struct listener {
        int fd; /* -1: it is waited for no more */
        struct loop_fd watch;
        unsigned refused, next;
        struct knock knocks[KNOCKS_MAX];
};

/* One move, on this side of it. What core/move.h decides is journalled in `core.row`; all else here can be
 * had again. */
struct moving {
        struct meted *m;
        struct move core;
        struct move_row durable, written; /* as it is in the store; as it will be with this turn */
        bool is_durable;                  /* it is there at all */
        bool is_void;                     /* what was decided since could not be written */
        bool is_loaded;                   /* from the store, and goes on when its VMM is attached to */
        char vm[64], peer[64];
        enum on_miss on_miss; /* of a source */
        bool is_best_effort;
        bool is_dry; /* only asked what would come of it: it is in no table */
        int64_t asked_ms, ended_ms;
        int64_t took_ms, gap_ms; /* 0: not measured */
        struct move_ran {
                int64_t run_us; /* that the destination's VMM took to run; 0: not measured */
                int64_t ran_us; /* for which it had run when that was said */
                int64_t cpu_us; /* of the destination's thread that took in this attempt; 0: not known */
        } ran;
        bool was_cut;
        int64_t stood_ms; /* the longest of the attempts that were broken off, until it ran on here; 0: none
                           */
        size_t n_fallbacks;
        char fallbacks[MOVE_FALLBACKS_MAX][MOVE_FALLBACK]; /* what is not held of what was reserved (S.10) */
        int64_t raised_bps;     /* reserved of the link since, beside the vector; 0: nothing */
        bool has_lapsed;        /* what is reserved is not any more, and nothing of it is held */
        int64_t lapsed_mono_ms; /* when it was tried last to have it again */
        struct loop_timer tick;
        struct loop_timer extend; /* looks whether what is reserved ends too soon */
        GList *askers;            /* of struct http_request: they wait until it is decided, or over */

        /* source */
        struct profiler *profiler;
        int ram_fds[PROFILER_FILES_MAX]; /* of what it is to look at, as they come */
        size_t ram_n;
        int ram_slot; /* of the next DIMM that is asked for; -1: base memory */
        uint64_t profile_token;
        struct profile profile;
        struct means means;
        struct plan plan;
        bool has_profile, has_plan;
        int64_t earliest_ms; /* when the level that is asked for could be kept; 0: it can, or nobody knows */
        enum plan_offer_kind offer_kind; /* of the level that was offered before it is copied; 0: not known */
        struct control control;
        struct copy *copy; /* of both sides */
        uint64_t copy_token;
        uint32_t copy_attempt;
        bool is_copying, is_control_there;
        bool is_looking; /* a look at the copy is out */
        struct loop_timer look;
        struct copy_seen seen;
        struct api_peer_stream stream; /* where to, and the key */
        bool has_stream;
        int guard_fd; /* its control socket; -1: none */
        struct loop_fd guard_says;
        bool is_guard_awaited, has_guard_spoken, is_guard_over, is_guard_lost;
        int stream_fd; /* until the VMM has it; -1: none */
        struct loop_fd connecting;
        unsigned hold_pending;   /* of them, those without an answer */
        bool is_hold_lost;       /* one of them was not answered: the keeper is away */
        int64_t thread;          /* that is held by what is reserved of CPU; 0: none */
        int64_t bare_thread;     /* that would be, were any reserved; 0: none */
        bool is_touched;         /* the VM's vCPUs may have something else than what was granted */
        bool is_inherited;       /* by a meted before this one */
        bool is_restoring;       /* they are asked to be as granted: not answered yet */
        bool has_restore_failed; /* and an answer to that was an error */
        bool is_lifting;
        int64_t lift;            /* which of the controller's is answered when all is lifted */
        bool is_lift_answered;   /* and it is not told of it yet */
        unsigned limits_out;     /* limits that QEMU has not confirmed: no throttle comes before it has */
        int64_t throttle_milli;  /* that waits for it; 0: none */
        bool is_stream_held;     /* the kernel guarantees its rate */
        bool is_release_awaited; /* nothing is held any more: what RELEASE waits for */
        int64_t stream_bps, held_bytes; /* the rate; what went through its class, by the kernel's count */
        int64_t began_mono_us, stop_mono_us, complete_mono_us;
        bool is_standing_here; /* since stop_mono_us */
        int64_t acked_bytes;   /* of the stream, by the kernel, */
        int64_t acked_mono_ms; /* since when it is no more than that; 0: not looked yet */
        int64_t attempt_mono_us,
                begun_mono_us; /* of this attempt: when it began, and when QEMU did; 0: not yet */
        int64_t stop_us;       /* until the last vCPU stood; 0: not known */
        int64_t heard_late_us; /* from when the guest stood until its guard read that; 0: it has not said */
        int64_t device_bytes;  /* of its devices' state, as it was sent; 0: not known */
        int64_t stopped_bytes; /* of its memory, sent while it stood */
        bool was_held;         /* at the last look the kernel guaranteed what was reserved of the link */
        bool was_crowded;      /* at any look another move was copied from here */
        int64_t predicted_total_ms, predicted_downtime_ms, missed_total_ms, missed_downtime_ms;
        struct level offer; /* while it is copied, in place of the level that will be missed */
        bool has_offer;
        int offers; /* so many were made while it was copied */
        uint64_t run_token, release_token;

        /* destination */
        struct api_peer_vm *guest; /* what the source says of the VM; NULL: of a source */
        bool is_defined;           /* the VM is, for this move */
        bool is_complete;          /* all of it came */
        uint32_t prepared;         /* the attempt for which a VMM listens; 0: none */
        uint64_t prepare_token;
        size_t leases; /* so many of the guest's are asked for already */
        int plug_slot; /* of a vCPU that nobody was granted, and that is being plugged */
        struct listener listener;
        struct in6_addr peer_at; /* whence its source spoke to us last */
        struct copy_key key;
        uint16_t port;
        int64_t before_cpu_ns,
                cpu_ns; /* of the thread that takes it in: before the stream, and for it; 0: not known */
        bool is_watched;
        int64_t run_mono_us, runs_mono_us; /* when its VMM was told to run first, and did; 0: not by us */
        bool was_told_to_run;              /* it may have been, also by a meted before this one */
};

struct moves {
        GHashTable *by_id; /* id -> struct moving, owned */
        GList *dry;        /* of struct moving, owned: only asked what would come of it */
        struct learn learn;
        bool is_stopping; /* what is answered now is answered as meted goes: it decides nothing */
};

/* moves.c */
struct moving *moving_find(const struct meted *m, const char *id);
struct moving *moving_new(struct meted *m);
/* 1: it acted. 0: it came too late. Negative: it makes no sense here. */
int moving_step(struct moving *mv, struct move_event *ev, struct err *err);
void moving_apply(struct moving *mv, const struct move_effects *effects);
void moving_arm(struct moving *mv);    /* its deadline */
void moving_answer(struct moving *mv); /* all who wait for it */
/* What came of an effect. */
void move_report(struct moving *mv, uint64_t token, enum move_event_kind kind, const struct err *err);
void move_happened(struct moving *mv, struct move_event *ev);
void move_say(struct moving *mv, const char *event, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));
/* RELEASED when it is: no request, no definition, no folder. */
void move_forget_vm(struct moving *mv);
struct moving *move_of_vm(const struct meted *m, const char *vm);
/* "ID.ATTEMPT": of its outcome. */
void move_outcome_name_of(const struct moving *mv, char ret[80]);

/* moves-later.c */
/* Now, and for so long; 0: it is not known for how long. */
struct means_side move_free_here(const struct meted *m, int64_t for_ms);
/* Makes mv->plan for this level, of mv->means, whose sides it fills in. */
void move_plan(struct moving *mv, const struct level *l);
enum { MOVE_HOLD_MS = 60000 }; /* an offer can be taken for so long */
/* Sets mv->earliest_ms, for a level that mv->means do not keep now. */
void move_find_earliest(struct moving *mv, const struct level *l);

/* moves.c */
void moves_learnt(struct meted *m, const char *peer); /* its document is written anew */
struct learn *moves_learn(const struct meted *m);     /* what moves cost, by what is known */

/* moves-reserve.c */
/* A reservation with just this in it, in place of the one before. 1: it is there. 0: there is less. */
int move_reserve(struct moving *mv, const struct need *needs, size_t n, struct err *err);
void move_unreserve(struct moving *mv);
/* More of the link is reserved on this side, where it is free. */
bool move_raise(struct moving *mv, int64_t bandwidth_bps);
/* What is reserved of the link: by the vector, or raised since. */
int64_t move_reserved_bps(const struct moving *mv);
/* As the ledger has it. */
int64_t move_rate_bps(int64_t bandwidth_bps);
/* The CPUs that are reserved on this side, by the kernel's numbers; how many, and of each how much. */
size_t move_cpus(const struct moving *mv, int64_t *ret, size_t max, int64_t *ret_share_milli);
/* What a vector takes on this side, as needs; how many. */
size_t move_needs(const struct moving *mv, int64_t bandwidth_bps, int64_t cpu_milli,
                  struct need ret[NEEDS_MAX]);
void move_extend(struct moving *mv); /* where it takes longer than what is reserved lasts */

/* moves-ask.c */
/* It is a part of other names: of reservations, of outcomes. */
int moves_check_id(const char *id, struct err *err);
int moves_check_room(struct meted *m, struct err *err);

/* moves-record.c */
char *move_record(const struct moving *mv);
int move_record_read(struct moving *mv, const char *id, const char *text, struct err *err);
json_t *move_message_emit(const struct moving *mv, const struct move_message *said);
/* *ret_guest, *ret_stream: NULL where it does not say so; to be freed. *ret_ran: 0 likewise. */
int move_message_read(const json_t *body, struct move_message *ret, char vm[64],
                      struct api_peer_vm **ret_guest, struct api_peer_stream **ret_stream,
                      struct move_ran *ret_ran, struct err *err);
json_t *move_view(const struct moving *mv);

/* moves-profile.c */
void source_profile(struct moving *mv, uint64_t token);
void source_profile_close(struct moving *mv); /* what was opened for it */
struct api_peer_vm *source_guest(const struct moving *mv);

/* moves-source.c */
void source_plan(struct moving *mv, uint64_t token);
/* Which counts: what was offered, once it is accepted. has_plan. */
struct plan source_plan_in_force(const struct moving *mv);
void source_reserve(struct moving *mv, const struct move_effect *f);
void source_copy(struct moving *mv, const struct move_effect *f);
/* The other side says that the copy broke off: where it was the guard that cut it, that is why. */
void source_hear_broken(struct moving *mv);
void source_write(struct moving *mv, const struct move_effect *f);
void source_run(struct moving *mv, const struct move_effect *f);
void source_release(struct moving *mv, const struct move_effect *f);
void source_vm_event(struct moving *mv, enum vm_event event, const char *words);
void source_look(void *moving); /* at the copy, now and then */
/* The level that is offered while it is copied is taken: 1. Negative: none is, or not that. */
int source_accept(struct moving *mv, struct level *level, struct err *err);
void source_accepted(struct moving *mv); /* and recorded */
/* It runs there; it may have been told so more than once. */
void source_measured(struct moving *mv, bool is_repeated);
void source_learn_broken(struct moving *mv);
void source_learn_resumed(struct moving *mv, int64_t us); /* behind the cut of its guard */
/* How many are copied from here just now. */
size_t moves_copying(const struct meted *m);
/* CPU time of a thread of the VM's VMM, on either side; 0: not known. */
int64_t moving_thread_cpu_ns(const struct moving *mv, int64_t tid);
/* Of a copy that completed. */
void source_last_look(void *arg, const struct copy_seen *seen, const struct err *err);
void source_forget(const struct moving *mv); /* nobody will ask for its outcomes */
void source_close(struct moving *mv);
void source_drop(struct moving *mv); /* all that is under way is given up */

/* moves-source.c too */
void source_connect(struct moving *mv); /* the guard watches, or there is none */
/* The attempt is over here. */
void source_broken(struct moving *mv, enum move_event_kind kind, const struct err *err);

/* moves-guard.c */
enum { SOURCE_LOOK_MS = 50 };
/* source_connect() follows when it watches. */
bool source_guard(struct moving *mv, const struct machine *v, struct err *err);
void source_guard_hang_up(struct moving *mv);
void source_guard_end(struct moving *mv);
/* Whether the guard has broken this attempt off: then ret says so. */
bool source_is_cut(struct moving *mv, struct err *ret);
int source_outcome_dir(const struct meted *m, struct err *err); /* a descriptor */

/* The socket was given what it is to have of the link, or that is said to be impossible. */
void source_stream_is_held(struct moving *mv);
void source_nothing_is_held(struct moving *mv);
/* No vCPU is under a quota, or put aside: the controller may have the guest stopped. err: it is not known. */
void source_is_lifted(struct moving *mv, const struct err *err);

/* moves-hold.c */
void move_fallback(struct moving *mv, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* source_stream_is_held() follows, unless keeper_forget() comes first. fd is borrowed. */
void hold_stream(struct moving *mv, int fd);
void hold_more_of_link(struct moving *mv, int64_t bandwidth_bps);
/* A thread of the VMM runs on the CPU that is reserved on this side; again after what is reserved changed. */
void hold_thread(struct moving *mv, int64_t tid);
/* What is reserved has changed, or lapsed, and all that is held with it: the CPU may be another. */
void hold_again(struct moving *mv);
/* Least share of its time that policy leaves a vCPU of this VM. */
int64_t hold_share_min(const struct moving *mv);
/* The vCPUs are throttled: no lift before it is answered any more. */
void hold_throttle(struct moving *mv, int64_t share_milli);
/* They are lifted; source_is_lifted() follows, from the loop. false: nothing has to be, they are. */
bool hold_lift(struct moving *mv);
/* No answer is to come any more. */
void hold_forget(struct moving *mv);
/* Nothing is held for this move any more, and what the vCPUs were granted is as it was;
 * source_nothing_is_held() follows where a release waits for it. */
void hold_end(struct moving *mv);

/* moves-arrive.c */
void arrive_reserve(struct moving *mv, const struct move_effect *f);
void arrive_prepare(struct moving *mv, const struct move_effect *f);
void arrive_watch(struct moving *mv, const struct move_effect *f);
void arrive_run(struct moving *mv, const struct move_effect *f);
void arrive_release(struct moving *mv, const struct move_effect *f);
void arrive_look(struct moving *mv); /* at what came, after a restart */
void arrive_vm_event(struct moving *mv, enum vm_event event, const char *words);
void arrive_drop(struct moving *mv);
void arrive_stream(struct moving *mv, int fd); /* of its source; taken */

/* moves-listen.c */
void listener_init(struct moving *mv);
int listener_open(struct moving *mv, struct err *err); /* sets mv->port */
void listener_close(struct moving *mv);
/* What a source says before the stream. */
void move_stream_word(const struct copy_key *key, char ret[MOVE_WORD + 1]);

/* SPDX-License-Identifier: Apache-2.0 */
/* meted/moves-internal.h - shared by the files of moves.h only. */
#pragma once
#include <glib.h>
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
        bool was_cut;
        struct loop_timer tick;
        struct loop_timer extend; /* looks whether what is reserved ends too soon */
        GList *askers;            /* of struct http_request: they wait until it is decided, or over */

        /* source */
        struct profiler *profiler;
        uint64_t profile_token;
        struct profile profile;
        struct means means;
        struct plan plan;
        bool has_profile, has_plan;
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
        bool is_guard_awaited, has_guard_spoken, is_guard_over;
        int stream_fd; /* until the VMM has it; -1: none */
        struct loop_fd connecting;
        int64_t began_mono_us, stop_mono_us, complete_mono_us;
        int64_t predicted_total_ms, predicted_downtime_ms, missed_total_ms, missed_downtime_ms;
        uint64_t run_token, release_token;

        /* destination */
        struct api_peer_vm *guest; /* what the source says of the VM; NULL: of a source */
        bool is_defined;           /* the VM is, for this move */
        bool is_complete;          /* all of it came */
        uint32_t prepared;         /* the attempt for which a VMM listens; 0: none */
        uint64_t prepare_token;
        size_t leases; /* so many of the guest's are asked for already */
        int listen_fd;
        struct loop_fd listening;
        struct copy_key key;
        uint16_t port;
        bool is_watched;
};

/* moves.c */
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
/* A reservation with just this in it, in place of the one before. 1: it is there. 0: there is less. */
int move_reserve(struct moving *mv, const struct need *needs, size_t n, struct err *err);
void move_unreserve(struct moving *mv);
/* What a vector takes on this side, as needs; how many. */
size_t move_needs(const struct moving *mv, int64_t bandwidth_bps, int64_t cpu_milli,
                  struct need ret[NEEDS_MAX]);

struct means_side move_free_here(const struct meted *m);
void moves_learnt(struct meted *m, const char *peer); /* its document is written anew */
struct learn *moves_learn(const struct meted *m);     /* what moves cost, by what is known */

/* moves-record.c */
char *move_record(const struct moving *mv);
int move_record_read(struct moving *mv, const char *id, const char *text, struct err *err);
json_t *move_message_emit(const struct moving *mv, const struct move_message *said);
/* *ret_guest, *ret_stream: NULL where it does not say so; to be freed. */
int move_message_read(const json_t *body, struct move_message *ret, char vm[64],
                      struct api_peer_vm **ret_guest, struct api_peer_stream **ret_stream, struct err *err);
json_t *move_view(const struct moving *mv);

/* moves-source.c */
void source_profile(struct moving *mv, uint64_t token);
void source_plan(struct moving *mv, uint64_t token);
void source_reserve(struct moving *mv, const struct move_effect *f);
void source_guard_end(struct moving *mv);
void source_copy(struct moving *mv, const struct move_effect *f);
void source_write(struct moving *mv, const struct move_effect *f);
void source_run(struct moving *mv, const struct move_effect *f);
void source_release(struct moving *mv, const struct move_effect *f);
void source_vm_event(struct moving *mv, enum vm_event event, const char *words);
void source_look(void *moving);              /* at the copy, now and then */
void source_measured(struct moving *mv);     /* it runs there */
void source_forget(const struct moving *mv); /* nobody will ask for its outcomes */
void source_close(struct moving *mv);
void source_drop(struct moving *mv); /* all that is under way is given up */
struct api_peer_vm *source_guest(const struct moving *mv);

/* moves-arrive.c */
void arrive_reserve(struct moving *mv, const struct move_effect *f);
void arrive_prepare(struct moving *mv, const struct move_effect *f);
void arrive_watch(struct moving *mv, const struct move_effect *f);
void arrive_run(struct moving *mv, const struct move_effect *f);
void arrive_release(struct moving *mv, const struct move_effect *f);
void arrive_adopt(struct moving *mv);
void arrive_vm_event(struct moving *mv, enum vm_event event, const char *words);
void arrive_drop(struct moving *mv);

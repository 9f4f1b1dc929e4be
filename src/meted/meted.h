/* SPDX-License-Identifier: Apache-2.0 */
/* meted/meted.h - the daemon of one hypervisor, and what its parts share.
 *
 *   api.c      HTTP requests        -> hypervisor          guest.c    messages of agents -> hypervisor
 *   turn.c     effects of one turn  -> store, then the others
 *   machine.c  one VM: its VMM, its agent, its step        activate.c makes usable, takes back
 *   keeper.c   the connection to mete-keeper           health.c   what of the host can be used
 *   peers.c    other hosts
 *
 * Whoever calls into the hypervisor calls meted_changed() afterwards. Answers are not written where a
 * request is decided: the asker leaves a waiter, and turn.c answers it once the decision is durable. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/hypervisor.h"
#include "core/plan.h"
#include "host/inventory.h"
#include "loop/loop.h"
#include "meted/config.h"
#include "meted/keeper.h"
#include "store/store.h"
#include "vm/probe.h"
#include "vm/qmp.h"
#include "wire/rpc.h"

struct machine;
struct http_server;
struct http_request;
struct meted;
struct means_side;

/* Somebody who waits for a request to be decided, for its release to be recorded, or for everything to be
 * back. */
enum wait_for {
        WAIT_VERDICT = 1,
        WAIT_RELEASE,
        WAIT_END,
        WAIT_STOP,  /* the same, for whom nothing was decided: its guest was asked to power down */
        WAIT_CHECK, /* what was granted was looked at once more */
        WAIT_COMMIT /* serial 0: what was written to the store */
};
struct waiter {
        uint64_t serial;
        uint64_t turn; /* in which it began to wait */
        enum wait_for what;
        /* r is NULL where the answer is err, and for WAIT_COMMIT. Called once, then the waiter is freed. */
        void (*answer)(struct meted *m, void *call, const struct request *r, const struct err *err);
        void *call;
};

struct counters {
        uint64_t turns, commits, commit_failures, decisions, verdicts[OUTCOME_N], events, guest_messages,
                http_requests;
        uint64_t checks, changed, repaired, unknown;
        uint64_t hhi_told, hhi_told_bytes, hhi_needed, hhi_not_needed;
        uint64_t denied; /* requests by TLS of those who are nobody here */
        /* of connections that are gone */
        struct rpc_counters agents;
        struct qmp_counters monitors;
};

struct meted {
        struct config config;
        struct inventory inventory;
        char resctrl_fallback[160]; /* "" where nothing lacks, or nothing is wanted */
        struct api_qemu_probe probe;
        struct store *store;
        struct hypervisor *hv;
        struct keeper *keeper;
        struct api_keeper_huge huge[COMPONENT_PAGES]; /* what it said last, also while it is away */
        size_t n_huge;
        GPtrArray *machines;                 /* of struct machine, by name */
        struct http_server *http, *http_tls; /* the latter NULL where [listen] tls is not said */
        struct partners *partners;           /* peers.c */
        char peers_problem[96];              /* why peers.conf was not taken anew; "": it was */
        int64_t ready_mono_ms;
        bool adopted;       /* the keeper told which VMMs are there */
        bool is_boot_noted; /* it is on record that the machine has been up since the boot that it is */
        bool is_broken;     /* the last transaction failed; why is in problem */
        struct err problem;
        struct err unwritten; /* code 0: none; why something of this turn is not in the store */
        struct turn commit;
        uint64_t turn;  /* that were durable so far */
        GArray *after;  /* of struct effect: to be carried out once durable */
        GList *waiters; /* of struct waiter */
        GList *streams; /* of struct follower, in events.c */
        json_t *hhi;    /* the machine as a document, without marks but what is off line; hhi.c */
        struct loop_timer hhi_look;
        struct api_partition *partition;     /* partition.c; NULL: under no service processor */
        struct moves *moves;                 /* moves.c */
        struct handovers *handovers;         /* handover.c */
        struct consolidation *consolidation; /* consolidate.c; NULL: there was none */
        struct health *health;               /* health.c */
        bool is_hhi_due;                     /* the books have changed in this turn */
        struct watch *watch;                 /* watch.c; NULL: the inventory is not this machine's */
        struct loop_timer tick, mend, housekeeping, list, verify, awaited;
        guint verified; /* which of the machines is looked at next */
        struct counters counters;
};

/* turn.c */
void turns_init(struct meted *m);
void turns_done(struct meted *m);
/* After anything that may have queued effects, or written to the store. */
void meted_changed(struct meted *m);
void meted_wait(struct meted *m, uint64_t serial, enum wait_for what,
                void (*answer)(struct meted *m, void *call, const struct request *r, const struct err *err),
                void *call);
/* A write to the store failed: this turn cannot be recorded, so that nothing of it was decided. */
void meted_unwritten(struct meted *m, const struct err *why);
/* Whoever waited with this call no longer does. false: nobody did. */
bool meted_unwait(struct meted *m, const void *call);
/* The hypervisor made from the store: at start, and after a transaction that failed. */
int meted_load(struct meted *m, struct err *err);

/* boot.c: what the books say of before the last boot of this machine is no longer so. */
void boot_check(struct meted *m);
enum { BOOT_ID = 64 };
bool boot_read(char ret[BOOT_ID]); /* which this one is. false: it cannot be known */

/* events.c */
void events_publish(struct meted *m); /* to the followers, what is durable since */
void events_follow(struct meted *m, struct http_request *req, int64_t after, const char *trace);
void events_done(struct meted *m);

/* peers.c: the other hosts of peers.conf, each of which is asked how it does. */
struct peers;
int peers_start(struct meted *m, struct err *err);
void peers_stop(struct meted *m);
void peers_reload(struct meted *m); /* what is wrong with the file is logged, and all stays as it was */
/* What is wrong with our own part, in the log; how much it is. */
unsigned peers_warn(const struct meted *m, const struct peers *peers, const struct cert_id *own);
/* May this certificate be that of a peer? -EACCES with REASON_DENIED. */
int peers_check(const struct meted *m, const struct cert_id *id, struct err *err);
json_t *peers_view(const struct meted *m, const char *query, struct err *err);
json_t *peers_hello(const struct meted *m);
/* Says it to that peer, if it can; the answer is dropped. */
int peers_post(struct meted *m, const char *name, const char *path, const char *body, int64_t timeout_ms,
               struct err *err);
/* May a VM be moved there? REASON_NOT_FOUND, REASON_PEER_LOST, REASON_INCOMPATIBLE. */
int peers_can(const struct meted *m, const char *name, struct err *err);
/* What it said that it has free; of what it did not say, as much as there is here. */
/* What it said that it has later; so many. */
size_t peers_later(const struct meted *m, const char *name, struct side_then ret[PLAN_THENS_MAX]);
struct means_side peers_means(const struct meted *m, const char *name, const struct means_side *here);
const struct tcp_address *peers_address(const struct meted *m, const char *name, struct err *err);

/* api.c */
int api_start(struct meted *m, struct err *err);
void api_stop(struct meted *m);
void api_refuse(struct http_request *req, const struct err *err);

/* What this platform does in a lesser way, for answers to VM v or (v NULL) to the host (S.10). Returns how
 * many of ret were filled. */
enum { METED_FALLBACKS = 24 };
size_t meted_fallbacks(const struct meted *m, const struct machine *v, char (*ret)[128], size_t max);

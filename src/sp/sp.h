/* SPDX-License-Identifier: Apache-2.0 */
/* sp/sp.h - mete-sp, the service processor of one server (5.4), and what its parts share.
 *
 *   api.c        HTTP requests -> the others          partition.c  what is asked for -> core/server
 *   journal.c    the partition and the log, durable before anything acts
 *   hypervisor.c one meted: started, taken over, configured, supervised
 *   give.c       what changes hands
 *   upgrade.h    a hypervisor is replaced by one with a newer VMM (core/upgrade.h)
 *   lead.h       a running VM changes hypervisor (core/handover.h)
 *
 * One server: a lock; one state: the store's own. What it configures are meted's of their own users; it
 * speaks to them over their own sockets, and they to nobody. Where it is away they run on with what they
 * were given last. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "core/handover.h"
#include "core/server.h"
#include "host/inventory.h"
#include "json/api.h"
#include "loop/loop.h"
#include "sp/config.h"
#include "sp/launch.h"
#include "store/store.h"
#include "wire/http-call.h"
#include "wire/http.h"

enum { SP_TRACE = 64, SP_PATH = 320 };

struct sp;
struct leading;   /* sp/lead.h */
struct upgrading; /* sp/upgrade.h */
struct asking;
struct saying;

/* Somebody who waits for something to be so. Answered once. */
struct sp_waiter {
        struct sp *sp;
        struct http_request *req;
        struct sp_waiter *next;
        struct loop_timer late;
};

/* One hypervisor of the server; its number is that of core/server. */
struct hypervisor_of {
        struct sp *sp;
        int number;
        enum api_server_state state;
        bool is_wanted;                         /* journalled */
        char user[LAUNCH_USER];                 /* likewise */
        char vmm[256];                          /* likewise; "": as its configuration says */
        char socket[SP_PATH], answers[SP_PATH]; /* its own; ours, for its words */
        struct http_server *words;              /* at the latter; NULL: not yet */
        uid_t uid;                              /* of what runs */
        pid_t pid;
        int pid_fd; /* -1: it does not run, as far as is known */
        bool is_child;
        bool is_down; /* it was looked, and nothing of it runs, nor is to */
        struct loop_fd watch;
        struct loop_timer look;
        int64_t started_mono_ms, back_off_ms;
        uint64_t restarts;
        struct http_call *call; /* the one that is under way */
        int64_t telling, epoch; /* that it is told, and that it has taken; 0: none yet */
        char version[32], qemu[64], problem[256], trace[SP_TRACE];
        struct sp_waiter *waiters;
};

struct sp {
        struct sp_config config;
        char name[64];
        struct inventory inventory;
        struct server server; /* epoch 0: there is no partition yet */
        struct store *store;
        struct http_server *http;
        struct http_calls *calls;
        struct http_target target;
        struct hypervisor_of hypervisors[SERVER_HYPERVISORS_MAX];
        char giving_trace[SP_TRACE];
        struct sp_waiter *giving_waiters;
        struct upgrading *upgrading;   /* the last; NULL: there never was one */
        struct leading *leadings;      /* the latest first */
        struct asking *askings;        /* handovers that may begin */
        struct saying *sayings;        /* words that are under way */
        uint64_t handovers;            /* journalled: how many were begun */
        char committed[HANDOVER_ID];   /* journalled: the last that counts in the partition; "": none */
        char assigned_trace[SP_TRACE]; /* of the partition of this epoch */
        int64_t assigned_epoch;
        struct err problem; /* why the last write to the store failed; code 0: it did not */
        uint64_t n_traces, commits, requests, refused;
        int64_t ready_mono_ms;
};

/* ---- journal.c: durable when it returns 0; where it fails, nothing was written ---- */
int journal_open(struct sp *sp, struct err *err); /* and all that is in it */
/* An event; with_partition: and what the partition, and who is wanted, is from now on. */
int journal_write(struct sp *sp, bool with_partition, const char *trace, const char *subject,
                  const char *event, struct err *err, const char *fmt, ...)
        __attribute__((format(printf, 7, 8)));
/* The same with a handover; NULL: none. */
int journal_lead(struct sp *sp, const struct leading *l, bool with_partition, const char *trace,
                 const char *subject, const char *event, struct err *err, const char *fmt, ...)
        __attribute__((format(printf, 8, 9)));
/* The same with an upgrade. */
int journal_upgrade(struct sp *sp, const struct upgrading *up, bool with_partition, const char *trace,
                    const char *subject, const char *event, struct err *err, const char *fmt, ...)
        __attribute__((format(printf, 8, 9)));
/* With the transaction that comes next. */
void journal_forget_lead(struct sp *sp, const char *id);
/* An event of which nothing depends. */
void journal_note(struct sp *sp, const char *trace, const char *subject, const char *event, const char *fmt,
                  ...) __attribute__((format(printf, 5, 6)));

/* ---- partition.c ---- */
/* On success *ret is the partition, for server_done(); users and vmms are in *hypervisors by number. */
int partition_make(const struct sp *sp, const struct api_server_init *in, struct server *ret,
                   struct hypervisor_of *hypervisors, struct err *err);
/* Those of a list, such as 0-3,8, of what is nobody's. */
int partition_take_cpus(struct server *s, int hypervisor, const char *list, struct err *err);
/* What a hypervisor is to be told. */
void partition_of(const struct sp *sp, int hypervisor, struct api_partition *ret);
json_t *partition_show(const struct sp *sp);

/* ---- hypervisor.c ---- */
void hypervisor_begin(struct hypervisor_of *h, struct sp *sp, int number);
void hypervisor_end(struct hypervisor_of *h);  /* it runs on */
void hypervisor_look(struct hypervisor_of *h); /* soon */
const char *hypervisor_name(const struct hypervisor_of *h);
/* Its meted while one runs, and nobody else: what lies at its socket is its own to make, a link to another's
 * socket as well. */
struct http_target hypervisor_target(const struct hypervisor_of *h);
/* "" where it is to be had; reads only. */
int hypervisor_check_user(const struct sp *sp, const char *user, struct err *err);

/* ---- give.c ---- */
void give(struct sp *sp, struct http_request *req, const struct api_server_give *in, const char *trace);
/* The same for ourselves: journalled, and on its way, when it returns 0; upgrading_gave() hears how it ended.
 */
int give_begin(struct sp *sp, const struct api_server_give *in, const char *trace, struct err *err);
/* It has recorded the partition of that epoch; or refuses it for good. Others than the giver: ignored. */
void give_taken(struct sp *sp, const struct hypervisor_of *h, int64_t epoch);
void give_refused(struct sp *sp, const struct hypervisor_of *h, const struct err *err);

/* Takes back what the giver still has. 0: nothing is on its way any more, and it is journalled. */
int give_cancel(struct sp *sp, struct err *err);

/* ---- api.c ---- */
int api_start(struct sp *sp, struct err *err);
void api_stop(struct sp *sp);
void api_answer_server(struct sp *sp, struct http_request *req);
void api_refuse(struct http_request *req, const struct err *err);
void api_reply(struct http_request *req, int status, json_t *body); /* body is taken; NULL: 500 */
/* Waits for so long at most. */
void api_wait(struct sp *sp, struct sp_waiter **list, struct http_request *req, int64_t timeout_ms);
/* Everybody on the list: err, or the server as it is. */
void api_answer_all(struct sp *sp, struct sp_waiter **list, const struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* manager/manager.h - mete-manager: moves VMs among the hosts of a fleet, at levels and by policy.
 *
 * What is decided about one VM is decided in core/order.h, how a host is emptied in core/drain.h; here it is
 * recorded, carried out by calls to the hosts' meteds, and shown. hosts.c has the hosts and how they are,
 * orders.c the orders, drains.c the drains, api.c who may ask for what.
 *
 * Everything that was decided in one turn of the loop is recorded in one transaction, as long as it has room
 * in one (record.h); only behind it calls are made and answers given. So whoever starts anew finds every call
 * that may have been made. Where managers share an etcd, one leads; the others have nothing of all this but
 * who that is. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "core/drain.h"
#include "core/order.h"
#include "json/api.h"
#include "loop/loop.h"
#include "manager/config.h"
#include "manager/record.h"
#include "store/store.h"
#include "wire/http-call.h"
#include "wire/http.h"
#include "wire/peers.h"

enum {
        MANAGER_ORDERS_MAX = 256, /* under way */
        MANAGER_DRAINS_MAX = 8,
        MANAGER_ORDERS_KEPT = 256, /* of those that are over, the newest */
        MANAGER_DRAINS_KEPT = 8,
        MANAGER_IDS_KEPT = 16384, /* of those that are forgotten */
        MANAGER_WORDS = 65,       /* a digest of what was asked for, with its NUL */
        MANAGER_EVENTS_KEPT = 20000,
        MANAGER_EVENTS_WAITING = 4096, /* while nothing can be recorded; the oldest go, the log has them */
        MANAGER_PAGE = 64
};

struct fleet;
struct used;

struct manager {
        struct manager_config config;
        struct record *record;
        struct store *store; /* what is recorded, for reads; of record */
        struct http_server *http, *http_tls;
        struct fleet *fleet;
        struct used *used;
        struct http_calls *calls, *long_calls; /* the latter are answered when something is decided */
        GHashTable *orders, *drains;           /* by id */
        GList *followers;                      /* of the event log */
        GArray *events;                        /* struct store_event, not recorded yet */
        struct turn commit;
        struct loop_timer again;
        bool is_leading;             /* everything below the API is there */
        bool is_broken;              /* it cannot go on, and ends */
        bool is_ending;              /* somebody has said so */
        bool is_writing, is_changed; /* a transaction is under way; there is more for the next one */
        guint n_events_writing;      /* the first of events */
        bool is_unwritten;           /* the last transaction failed: problem says why */
        struct err problem;
        int64_t ready_mono_ms;
        struct {
                uint64_t requests, denied, calls, rounds, ended[ORDER_STATE_N];
        } counters;
};

/* main.c */
void manager_changed(struct manager *m); /* there is something to record */
void manager_say(struct manager *m, const char *trace, const char *subject, const char *event,
                 const char *text);

/* ---- hosts.c ---- */

struct fleet_vm {
        char name[64]; /* str_is_name() */
        bool runs;
        int64_t memory_bytes, cpu_milli; /* what it would take elsewhere */
};

struct fleet_host {
        const struct peer_entry *entry;
        struct manager *m;
        struct loop_timer ask;
        struct http_call *call;
        bool is_reachable, was_asked;
        bool has_more; /* VMs than are known of it */
        struct err problem;
        int64_t heard_ms;
        int64_t looked_mono_ms, asks_mono_ms; /* when what is known was asked for; when it was asked now */
        char qemu[64], accelerator[16], page[128]; /* page: that is asked for */
        int64_t cpu_milli, cpu_free_milli, memory_bytes, memory_free_bytes;
        GArray *vms, *coming; /* struct fleet_vm; what is heard of, page by page */
};

int fleet_start(struct manager *m, struct err *err);
void fleet_stop(struct manager *m);
void fleet_reload(struct manager *m);
void fleet_check(const struct manager *m); /* by who does not lead: says in the log what is wrong */
struct fleet_host *fleet_find(const struct manager *m, const char *name);
size_t fleet_count(const struct manager *m, size_t *ret_reachable);
const struct fleet_vm *fleet_vm(const struct fleet_host *h, const char *name);
/* Where a VM runs; NULL and why it cannot be said. */
struct fleet_host *fleet_of_vm(const struct manager *m, const char *vm, struct err *err);
/* Hosts that could have a VM of h, those with most memory left first. */
size_t fleet_any(const struct manager *m, const struct fleet_host *h, const struct fleet_vm *vm,
                 char (*ret)[ORDER_HOST], size_t max);
/* May VMs of h go there at all? */
bool fleet_may(const struct manager *m, const struct fleet_host *h, const struct fleet_host *to);
struct fleet_host *fleet_nth(const struct manager *m, size_t i); /* by name; NULL behind the last */
/* body is taken. NULL: *err says why; done is not called. */
struct http_call *fleet_call(struct manager *m, const char *host, const char *method, const char *path,
                             json_t *body, bool is_long, http_call_done_fn *done, void *arg, struct err *err);
/* Is who has this certificate the host? A pinned key alone does not say that it is one. */
int fleet_check_peer(const char *host, const struct cert_id *id, struct err *err);
/* What a host said of why it refuses, as an error of ours. false: it is not what a meted would say. */
bool fleet_refusal(const struct http_answer *answer, const char *host, struct err *err);
json_t *fleet_view(const struct manager *m, const char *query, struct err *err);

/* ---- orders.c ---- */

struct order_terms { /* of a drain's orders, beside what struct order has */
        bool is_best_effort;
        enum api_on_miss on_miss; /* 0: not said */
        const char *drain;        /* NULL: none */
        const char *words;        /* NULL: none that could be said again */
};

int orders_start(struct manager *m, struct err *err); /* from the store; begins nothing */
void orders_adopt(struct manager *m);                 /* goes on with what was under way */
void orders_stop(struct manager *m);
void orders_ask(struct manager *m, struct http_request *req, const char *vm, const json_t *body);
/* Somebody takes the level that is offered, or declines it. */
void orders_accept(struct manager *m, struct http_request *req, const char *id, const json_t *body);
void orders_decline(struct manager *m, struct http_request *req, const char *id);
void orders_cancel(struct manager *m, struct http_request *req, const char *id);
json_t *orders_show(const struct manager *m, const char *id, struct err *err);
json_t *orders_list(const struct manager *m, const char *query, struct err *err);
/* An id that no order has or had. stem NULL: any; else "STEM.N". */
void orders_draw_id(const struct manager *m, const char *stem, char ret[ORDER_ID]);
/* Its id is a new one (-EEXIST), and no other order has its VM (REASON_BUSY). o is copied. */
int orders_give(struct manager *m, const struct order *o, const struct order_terms *terms, struct err *err);
const struct order *orders_of_drain(const struct manager *m, const char *id, const char *drain);
void orders_break(struct manager *m, const char *id);
size_t orders_live(const struct manager *m);
/* Into the transaction, while it has room; of a drain: all of its own. */
int orders_write(struct manager *m, const char *drain, struct err *err);
void orders_unwritten(struct manager *m); /* that failed */
void orders_written(struct manager *m);   /* it is durable: calls, answers */

/* ---- drains.c ---- */

int drains_start(struct manager *m, struct err *err);
void drains_adopt(struct manager *m);
void drains_stop(struct manager *m);
void drains_ask(struct manager *m, struct http_request *req, const char *host, const json_t *body);
void drains_cancel(struct manager *m, struct http_request *req, const char *id);
json_t *drains_show(const struct manager *m, const char *id, struct err *err);
json_t *drains_list(const struct manager *m, const char *query, struct err *err);
bool drains_is_live(const struct manager *m, const char *id);
/* Takes from room what drains but this one are going to send to a host. */
void drains_take_room(const struct manager *m, const char *id, const char *host, struct drain_room *room);
bool drains_has(const struct manager *m, const char *host); /* is it being drained? */
void drains_heard(struct manager *m, const char *drain);    /* an order of it is over */
int drains_write(struct manager *m, struct err *err);
void drains_unwritten(struct manager *m);
void drains_written(struct manager *m);
size_t drains_live(const struct manager *m);

/* ---- events.c ---- */

void events_ask(struct manager *m, struct http_request *req); /* a page, or all that follows */
void events_publish(struct manager *m);                       /* there may be new ones */
void events_stop(struct manager *m);                          /* behind the servers */

/* ---- used.c ---- */

int used_start(struct manager *m, struct err *err);
void used_stop(struct manager *m);
/* An order or a drain is forgotten: in the next transaction its document goes, and its id stays. */
void used_add(struct manager *m, enum store_document kind, const char *id, const char *words,
              int64_t ended_ms);
/* What it was asked for with; NULL: it was not used, or is not forgotten. */
const char *used_words(const struct manager *m, enum store_document kind, const char *id);
/* Refuses an id that was used. */
int used_check(const struct manager *m, enum store_document kind, const char *id, const char *words,
               struct err *err);
int used_write(struct manager *m, struct err *err);
void used_unwritten(struct manager *m);
void used_written(struct manager *m);

/* ---- api.c ---- */

int api_start(struct manager *m, struct err *err);
void api_stop(struct manager *m);
void api_reply(struct http_request *req, json_t *body); /* body is taken */
/* A digest of a request: of whom, and its body without the id. body is taken. */
void api_words(const char *of, json_t *body, char ret[MANAGER_WORDS]);
void api_refuse(struct http_request *req, const struct err *err);

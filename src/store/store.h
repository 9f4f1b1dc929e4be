/* SPDX-License-Identifier: Apache-2.0 */
/* store/store.h - what must survive: requests, the event log, definitions of VMs, moves. SQLite underneath.
 *
 * WAL with synchronous=FULL: store_commit() returns after fdatasync. One transaction a turn of the loop,
 * opened by the first write. Rows of requests are keyed by their serial, so that the writes of one turn
 * fall on neighbouring pages. Errors: REASON_INTERNAL, with SQLite's sentence (such as a full disk);
 * after one, store_rollback() and make the in-memory state anew from the store.
 *
 * One process at a time: store_open() takes a lock on the file's neighbour (REASON_BUSY). */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "core/component.h"
#include "core/request.h"

struct store;

struct store_event {
        int64_t seq;
        int64_t at_ms;
        char trace[REQUEST_TRACE];
        char subject[REQUEST_KEY];
        char event[32];
        char text[REQUEST_SENTENCE];
};

/* Out of use until an operator says otherwise, or until then: all of a component, or so much of it. */
struct store_offline {
        char component[32];
        int64_t lost;     /* 0: all of it */
        int64_t until_ms; /* 0: without an end */
        bool is_injected; /* said to be an injected fault */
};

/* What is written and read as a whole, by its name; JSON of whoever owns it. */
enum store_document {
        STORE_VM = 1, /* a definition and what belongs to it, by the VM's name */
        STORE_MOVE,   /* by its id */
        STORE_LEARNT, /* what moves to a peer cost, by its name */
        STORE_ORDER,  /* of the manager, by its id; likewise the next */
        STORE_DRAIN,
        STORE_USED_ID,       /* of an order or drain that is forgotten, by KIND/ID */
        STORE_SERVER,        /* the partition of a server: of all of it, or one hypervisor's */
        STORE_HANDOVER,      /* of a VM on this server, by its id */
        STORE_CARRIED,       /* that all this was carried over to another store, by its name */
        STORE_CONSOLIDATION, /* of VMs on several nodes: the last one */
        STORE_DOCUMENT_N
};

/* path: the database file; its directory must exist. NULL: in memory, for what is durable elsewhere and read
 * here; no lock. Components translate claims: by id on disk, by index
 * in memory; they are borrowed for the life of the store. */
int store_open(const char *path, const struct component *components, size_t n_components, struct store **ret,
               struct err *err);
void store_close(struct store *s);
/* Calls fn for each component that something in the store claims and that is not among the components: the
 * machine has lost it. fn adds it and calls store_set_components(); where one is still unknown when requests
 * are loaded, they are not: nothing that was granted drops out silently. */
int store_each_missing(struct store *s, int (*fn)(const char *component, void *arg, struct err *err),
                       void *arg, struct err *err);
void store_set_components(struct store *s, const struct component *components, size_t n_components);

/* Writes of the turn. */
int store_put_request(struct store *s, const struct request *r, struct err *err);
/* Of a request that is there: how far its activation is, and nothing else. */
int store_put_activation(struct store *s, const struct request *r, struct err *err);
int store_forget_request(struct store *s, uint64_t serial, struct err *err);
/* *ret_seq (may be NULL) is known at once, valid after the commit. */
int store_add_event(struct store *s, const struct store_event *e, int64_t *ret_seq, struct err *err);
/* One that was numbered elsewhere, behind all that are here. */
int store_copy_event(struct store *s, const struct store_event *e, struct err *err);
int store_put_document(struct store *s, enum store_document kind, const char *name, const char *text,
                       struct err *err);
int store_delete_document(struct store *s, enum store_document kind, const char *name, struct err *err);
int store_put_offline(struct store *s, const struct store_offline *o, struct err *err);
int store_delete_offline(struct store *s, const char *component, struct err *err);
/* Durable when it returns 0. Nothing written: 0 at once. */
int store_commit(struct store *s, struct err *err);
void store_rollback(struct store *s);
/* "vm", "move" ...: the word of a kind. */
const char *store_document_name(enum store_document kind);
bool store_is_dirty(const struct store *s);

/* Reads. fn returns 0 to go on; otherwise its value is returned. */
int store_load_requests(struct store *s, int (*fn)(struct request *row, void *arg, struct err *err),
                        void *arg, struct err *err); /* row->definitions is fn's to take */
/* By name. */
int store_load_documents(struct store *s, enum store_document kind,
                         int (*fn)(const char *name, const char *text, void *arg, struct err *err), void *arg,
                         struct err *err);
int store_load_offline(struct store *s, int (*fn)(const struct store_offline *o, void *arg, struct err *err),
                       void *arg, struct err *err);
/* Events with seq > after, in order, of one trace where trace is not NULL; without a VM it means the
 * requests of that id in all VMs. Also those not committed yet
 * are left out. Returns how many (<= limit), or a negative errno. */
int store_events(struct store *s, int64_t after, const char *trace, struct store_event *ret, int limit,
                 struct err *err);
int64_t store_last_event(struct store *s);
/* The highest serial that ever was, and 0 for a new store: serials are never reused. */
int store_last_serial(struct store *s, uint64_t *ret, struct err *err);
/* Keeps the newest `keep` events. A write of the turn. */
int store_trim_events(struct store *s, int64_t keep, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* manager/record.h - what a manager must not forget: orders, drains, used ids, the event log. One of two
 * stores is behind it: a file of its own (SQLite), or an etcd that managers share, of whom one leads.
 *
 * What is put, deleted and said gathers until record_commit(), which records all of it or nothing, and says
 * which by told->done; one at a time. Where it fails, what was gathered is gone, and it is not known whether
 * it is recorded: gather it again, as it is then. That may have to be more than once: a record is as large as
 * the store takes (record_has_room()), and what belongs together must be gathered together.
 *
 * Reads are from what is recorded, by record_store(). Errors of a store that is away are REASON_PEER_LOST,
 * REASON_TIMEOUT or REASON_INTERNAL with its words; they pass. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/err.h"
#include "etcd/etcd.h"
#include "store/store.h"

enum {
        RECORD_OPS_MAX = 100,          /* etcd takes 128, and there are some that it needs itself */
        RECORD_BYTES_MAX = 512 * 1024, /* and one document more; etcd takes 1.5 MiB */
        RECORD_PREFIX = 128,
        RECORD_CARRIED = 33
};

struct record;

/* Called from the loop, ready and done also from within record_begin() and record_commit(). None is called
 * after record_close(), and none may call that. */
struct record_told {
        void (*ready)(
                void *arg); /* nobody else writes, and everything that is recorded is in record_store() */
        void (*done)(void *arg, const struct err *err); /* err NULL: it is recorded */
        /* Another writes, or may: nothing more can be recorded. Or (REASON_INTERNAL, REASON_INCOMPATIBLE)
         * what is recorded cannot be read. */
        void (*lost)(void *arg, const struct err *err);
        void *arg;
};

struct record_etcd {
        struct etcd_places places;
        struct cert_files files;    /* borrowed for the life of the record, with the rest of this */
        char prefix[RECORD_PREFIX]; /* of all keys */
        char name[128];             /* who we are, as others are told */
        int64_t lease_ms;
        /* "": what is there counts. Else whoever carries the state of a file there, whose id this is: it is
         * ready where nothing is recorded, or what it had begun itself, of which nothing is left; no manager
         * leads with that before record_carried(). Lost as REASON_INCOMPATIBLE where there is a state. */
        char carried[RECORD_CARRIED];
        /* Of that, all is there but the word of record_carried(): it is not begun anew. Lost as REASON_STALE
         * where that was said already. */
        bool is_all_carried;
};

/* path: of a database. keep: so many events are kept. REASON_INCOMPATIBLE: its state was carried to etcd. */
int record_open_file(const char *path, int64_t keep, const struct record_told *told, struct record **ret,
                     struct err *err);
/* Speaks to nobody yet. */
int record_open_etcd(const struct record_etcd *etcd, int64_t keep, const struct record_told *told,
                     struct record **ret, struct err *err);
void record_begin(struct record *r);
/* NULL-safe. What is being committed may be recorded, or not. Gives the lead back, which takes a second at
 * most; runs the loop meanwhile. */
void record_close(struct record *r);

struct store *record_store(const struct record *r); /* for reads; borrowed */
/* Could something be recorded now? false: *err says why not, for people: another leads, the store is away. */
bool record_is_ready(const struct record *r, struct err *err);

bool record_has_room(const struct record *r); /* for one more document, whatever its size */
void record_put(struct record *r, enum store_document kind, const char *name, const char *text);
void record_delete(struct record *r, enum store_document kind, const char *name);
void record_say(struct record *r, const struct store_event *e);  /* the store numbers it */
void record_copy(struct record *r, const struct store_event *e); /* numbered, behind all that are there */
void record_commit(struct record *r);
void record_carried(struct record *r); /* as a commit, of nothing but that what is there counts from now on */
void record_drop(struct record *r);    /* what was gathered */

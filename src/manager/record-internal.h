/* SPDX-License-Identifier: Apache-2.0 */
/* manager/record-internal.h - what the two stores of record.h share. */
#pragma once
#include <glib.h>
#include "core/lead.h"
#include "etcd/etcd.h"
#include "loop/loop.h"
#include "manager/record.h"

struct op {
        enum store_document kind; /* 0: an event */
        char *name, *text;        /* text NULL: deleted */
        struct store_event *event;
};

struct cluster; /* record-etcd.c */

struct record {
        struct record_told told;
        struct store *store;
        int64_t keep;
        GArray *ops; /* struct op */
        size_t bytes;
        bool is_busy;
        struct cluster *cluster; /* NULL: the store is all there is */
};

/* ---- record.c ---- */
int record_apply(struct record *r, struct err *err); /* to the store, all or nothing */
void record_finish(struct record *r, const struct err *err);
size_t record_events(const struct record *r); /* among the ops */

/* ---- record-etcd.c ---- */
struct cluster *cluster_new(struct record *r, const struct record_etcd *etcd,
                            struct err *err); /* NULL: no memory */
void cluster_begin(struct cluster *c);
void cluster_commit(struct cluster *c);
void cluster_carried(struct cluster *c);
bool cluster_is_ready(const struct cluster *c, struct err *err);
void cluster_free(struct cluster *c);

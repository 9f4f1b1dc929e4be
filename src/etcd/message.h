/* SPDX-License-Identifier: Apache-2.0 */
/* etcd/message.h - what etcd's v3 JSON gateway is asked, and what it answers (3.4 to 3.6).
 *
 * Keys and values are base64; 64-bit integers are strings; fields with the value zero are absent, so a
 * transaction that failed has no `succeeded`, and a lease that is no more has no `TTL`. Keys and values of
 * ours are text without a NUL; what is not is refused as REASON_INVALID. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"

enum { ETCD_TXN_OPS = 128 /* its default for --max-txn-ops */ };

/* ---- asked; bodies are new references, NULL: no memory ---- */

/* Keys from key up to, not including, end, at most limit of them by key; end NULL: that one. */
json_t *etcd_range_body(const char *key, const char *end, int64_t limit);
json_t *etcd_grant_body(int64_t ttl_s);
json_t *etcd_lease_body(int64_t lease); /* to keep it, to revoke it */

/* A transaction: where all conditions hold what is put and deleted, else what is got. */
json_t *etcd_txn_new(void);
void etcd_txn_if_created(json_t *txn, const char *key, int64_t revision);          /* 0: it is not there */
void etcd_txn_if_changed(json_t *txn, const char *key, int64_t revision);          /* likewise */
void etcd_txn_put(json_t *txn, const char *key, const char *value, int64_t lease); /* lease 0: none */
void etcd_txn_delete(json_t *txn, const char *key, const char *end);               /* end as above */
void etcd_txn_else_get(json_t *txn, const char *key);

/* ---- answered ---- */

struct etcd_kv {
        char *key, *value; /* NUL-terminated */
        int64_t created, changed, lease;
};

struct etcd_range {
        struct etcd_kv *kvs;
        size_t n;
        bool is_more;
};

int etcd_range_read(const json_t *answer, struct etcd_range *ret, struct err *err);
void etcd_range_done(struct etcd_range *r); /* idempotent */
/* *ret_revision is that of what was written. Where it failed, what was got is in else_[0..n). */
int etcd_txn_read(const json_t *answer, bool *ret_succeeded, int64_t *ret_revision, struct etcd_range *else_,
                  size_t n, struct err *err);
/* TTL 0: it is no more. */
int etcd_grant_read(const json_t *answer, int64_t *ret_lease, int64_t *ret_ttl_s, struct err *err);
int etcd_keep_read(const json_t *answer, int64_t *ret_ttl_s, struct err *err);
/* What it says of why it refuses; "" where it says nothing. Its words, cut, without control characters. */
void etcd_refusal_read(const json_t *answer, char *ret, size_t size);

/* SPDX-License-Identifier: Apache-2.0 */
/* etcd/etcd.h - calls to an etcd cluster through its v3 JSON gateway, in the loop thread. Each has a bounded
 * time; where one is not answered, the next goes to the next of the cluster's addresses.
 *
 * A call that fails may have been carried out, and may be still: who writes compares revisions. */
#pragma once
#include <jansson.h>
#include <stdbool.h>
#include "base/err.h"
#include "wire/cert.h"
#include "wire/tcp.h"

enum { ETCD_PLACES_MAX = 8, ETCD_PORT = 2379 /* where none is said */ };

struct etcd_places {
        struct {
                bool is_plain;
                struct tcp_address address;
        } at[ETCD_PLACES_MAX];
        size_t n;
};

/* "https://10.0.0.5:2379, https://etcd-b.example". http:// is taken for this machine's own addresses alone:
 * nobody else's word is to be believed without a certificate. */
int etcd_places_parse(const char *text, struct etcd_places *ret, struct err *err);

struct etcd;
struct etcd_call;

/* answer: borrowed, NULL where err says why there is none: as of http_call(); what etcd refuses is
 * REASON_INTERNAL with its own words. Called once, from the loop, and not after etcd_call_cancel(). */
typedef void etcd_done_fn(void *arg, const json_t *answer, const struct err *err);

/* places is copied; files is borrowed, and what is shown to all of them. timeout_ms bounds each call. */
struct etcd *etcd_new(const struct etcd_places *places, const struct cert_files *files, int64_t timeout_ms,
                      struct err *err);
void etcd_free(struct etcd *e); /* NULL-safe; its calls must be over or cancelled */

/* path as "/v3/kv/txn"; body is taken. NULL: *err says why; done is not called. */
struct etcd_call *etcd_call(struct etcd *e, const char *path, json_t *body, etcd_done_fn *done, void *arg,
                            struct err *err);
void etcd_call_cancel(struct etcd_call *call);

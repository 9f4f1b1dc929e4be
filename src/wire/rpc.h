/* SPDX-License-Identifier: Apache-2.0 */
/* wire/rpc.h - a JSON-RPC 2.0 peer: one object a line, over a stream descriptor on the loop.
 *
 * The peer is hostile. What it may cost is bounded by the options, each refusal is counted, and none of its
 * mistakes ends more than its own connection. Lines it sends:
 *   newline alone (or blanks)  ignored, so that it can end its own half line and start anew
 *   not JSON, too long         answered with -32700 and id null, a few times a second at most
 *   JSON, but no message       -32600 (batches, too), -32602 for params that are no object
 *   request over calls_max     -32000 busy
 *   request over the rate      -32000 busy "slow down", and nothing more is read until there are tokens again
 *   notification over the rate dropped; answers are never dropped, but do use tokens
 *   answer to an unknown id    ignored: late, or never asked
 * Requests are answered in any order. Lines leave in the LOOP_SEND phase of the turn.
 *
 * Lifetimes: rpc_free() is safe inside every callback. An rpc_call belongs to its receiver, who answers it
 * exactly once, with rpc_reply() or rpc_refuse(), now or later; where the peer is gone, or the rpc freed, by
 * then, the answer goes nowhere. No callback is made from within rpc_call(), rpc_notify(), rpc_reply() or
 * rpc_refuse(). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>
#include "base/err.h"
#include "wire/message.h"

struct rpc;
struct rpc_call; /* a request from the peer that waits for its answer */

enum { RPC_FDS_MAX = 16 };

struct rpc_options {
        size_t line_max;  /* bytes of a line, newline not counted; 0: 65536 */
        size_t send_max;  /* bytes of a line of ours; 0: line_max */
        int64_t first_id; /* ids of our calls count up from behind it: a stream that may still hold answers to
                             an earlier holder wants another start each time; below 2^52 */
        size_t queue_max_bytes; /* unsent; over it the peer is lost; 0: 4 MiB */
        unsigned calls_max;     /* requests of the peer that wait for our answer; 0: 64 */
        unsigned rate_per_s;    /* lines of the peer; 0: no limit */
        unsigned burst;         /* lines that it may send at once; 0: the same as rate_per_s */
        unsigned fds_max; /* descriptors that one message of the peer may bring, up to RPC_FDS_MAX; 0: none */
        bool drop_on_garbage;  /* 16 unreadable lines in a row: the peer is lost */
        bool keep_on_overflow; /* a full queue drops the new message and counts it, instead of losing the peer
                                */

        /* method is unknown: rpc_refuse_unknown(). params is an object, empty where the peer sent none; both
         * are borrowed for the duration of the callback. on_request NULL: every method is unknown. */
        void (*on_request)(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                           const json_t *params);
        void (*on_notify)(void *arg, struct rpc *rpc, const char *method, const json_t *params);
        /* Once, after every waiting rpc_call() was answered with an error: the peer hung up, or a bound made
         * us do it; err says which. Then only rpc_free() is of use. Not called for rpc_free(). */
        void (*on_lost)(void *arg, struct rpc *rpc, const struct err *err);
};

struct rpc_counters {
        uint64_t lines, bytes_in, bytes_out, requests, notifications, answers;
        uint64_t unreadable; /* not JSON */
        uint64_t too_long;   /* lines over line_max */
        uint64_t malformed;  /* JSON, but no message */
        uint64_t busy_calls; /* refused: calls_max */
        uint64_t busy_rate;  /* refused or dropped: rate */
        uint64_t pauses;     /* times that reading was paused */
        uint64_t unknown_answers;
        uint64_t timeouts;    /* of our calls */
        uint64_t dropped;     /* our messages, queue full */
        uint64_t fds_refused; /* descriptors that came unasked, closed */
};

/* Takes fd, which is made non-blocking; on failure it stays the caller's. *o is copied. A socket, or a
 * character device such as a virtio-serial port. */
struct rpc *rpc_new(int fd, const struct rpc_options *o, void *arg, struct err *err);

/* Tries once to send what waits, closes, and answers every waiting call of ours with REASON_CANCELLED before
 * it returns. NULL-safe. */
void rpc_free(struct rpc *rpc);

/* result is taken; NULL is the empty object. A result that is too long for a line becomes an error. */
void rpc_reply(struct rpc_call *call, json_t *result);
void rpc_reply_fds(struct rpc_call *call, json_t *result, const int *fds,
                   size_t n);                                            /* borrows (duplicates) fds */
void rpc_refuse(struct rpc_call *call, int code, const struct err *err); /* RPC_REFUSED and so on */
void rpc_refuse_unknown(struct rpc_call *call, const char *method);

struct rpc *rpc_call_peer(const struct rpc_call *call); /* NULL: gone, or freed */
void *rpc_arg(const struct rpc *rpc);

/* Exactly one of result and err is not NULL; both are borrowed. err: what the peer said, or REASON_TIMEOUT,
 * REASON_PEER_LOST, REASON_CANCELLED. */
typedef void rpc_done_fn(void *arg, const json_t *result, const struct err *err);

/* 0: cb is called exactly once, later. Negative: never (the peer is lost, the queue is full, the message is
 * too long). params is taken in every case; NULL is the empty object. timeout_ms 0: no deadline. */
int rpc_call(struct rpc *rpc, const char *method, json_t *params, int64_t timeout_ms, rpc_done_fn *cb,
             void *arg, struct err *err);
/* As rpc_call(); fds are duplicated, and stay the caller's. */
int rpc_call_fds(struct rpc *rpc, const char *method, json_t *params, const int *fds, size_t n,
                 int64_t timeout_ms, rpc_done_fn *cb, void *arg, struct err *err);
int rpc_notify(struct rpc *rpc, const char *method, json_t *params, struct err *err);

/* Takes the descriptors that came with this request: all or, where their number is not n, none and
 * REASON_INVALID. Those not taken are closed when the call is answered. */
int rpc_take_fds(struct rpc_call *call, int *ret_fds, size_t n, struct err *err);
size_t rpc_call_fds_n(const struct rpc_call *call);
/* The same for an answer; only inside its rpc_done_fn. */
int rpc_take_result_fds(struct rpc *rpc, int *ret_fds, size_t n, struct err *err);

/* A newline alone, before anything else: ends a half line that an earlier holder of this stream left behind.
 */
int rpc_resync(struct rpc *rpc, struct err *err);

bool rpc_is_lost(const struct rpc *rpc);
size_t rpc_queued_bytes(const struct rpc *rpc);
const struct rpc_counters *rpc_counters(const struct rpc *rpc);
/* Adds those of a peer, which may be NULL, to a sum that outlives it. */
void rpc_counters_add(const struct rpc *rpc, struct rpc_counters *sum);

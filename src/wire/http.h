/* SPDX-License-Identifier: Apache-2.0 */
/* wire/http.h - an HTTP/1.1 server for JSON and server-sent events, on a listening Unix socket or by TLS on a
 * TCP socket, in the loop thread.
 *
 * A request reaches the handler when it is complete, its body included. It is answered exactly once, by
 * http_reply() or http_stream(), inside the handler or any time later; answers leave in the LOOP_SEND phase
 * of the turn, all together. A request whose client is gone by then, or whose server was freed, is answered
 * into the void.
 *
 * Clients may be hostile. Each limit has its own answer: 413 body too large, 431 and 414 headers too large,
 * 400 what is not HTTP, 503 too many connections. A connection that has no request at the handler is closed
 * idle_ms after it was made, or its last answer was given: the bytes that trickle in meanwhile do not prolong
 * it.
 *
 * By TLS every handshake is finished and every request reaches the handler, also that of somebody who is
 * nobody: only so can it be said why it is refused. What the handler must not forget is to look at the
 * caller. A connection on which nobody has shown who it is yet gives way to a newer one where there are too
 * many, and handshakes are begun no faster than gate.h lets them.
 *
 * No callback is made from within http_reply(), http_stream(), http_stream_send() or http_stream_end().
 * http_server_free() and http_stream_end() are safe inside every callback. */
#pragma once
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/err.h"
#include "wire/http-tls.h"
#include "wire/unix.h"

struct http_server;
struct http_stream;

struct http_limits {                   /* 0: the default */
        unsigned connections_max;      /* 512 */
        unsigned connections_per_uid;  /* 128; root too, so that no one client shuts the others out; by TLS
                                          32 of one address */
        int64_t handshakes_per_s;      /* TLS: 50 of one address, up to twice as many at once */
        int64_t handshakes_all_per_s;  /* TLS: 150, up to 100 at once */
        size_t body_max_bytes;         /* 65536 */
        size_t header_max_bytes;       /* 16384: request line and headers together, about */
        int64_t idle_ms;               /* 30000 */
        unsigned streams_max;          /* 64; one more is answered 503 */
        size_t stream_queue_max_bytes; /* 1 MiB that the reader has not taken; more and it is dropped */
        int64_t heartbeat_ms;          /* 15000: a comment on an idle stream */
};

struct http_counters {
        uint64_t connections, requests, replies, streams;
        uint64_t refused_connections, too_large, timeouts, slow_streams;
        uint64_t displaced; /* connections of nobody that gave way */
        unsigned connections_now, streams_now;
};

/* Everything in it is borrowed until it is answered. */
struct http_request {
        const char *method;
        const char *path;  /* begins with '/', still escaped, no query */
        const char *query; /* what stands behind '?', still escaped; "" where there is none */
        const char *body;  /* NUL-terminated */
        size_t body_n;
        struct unix_peer peer;
        const struct http_caller *caller; /* by TLS; then peer says nothing. NULL on a Unix socket */
        struct in6_addr from;             /* by TLS: whence, an IPv4 address as its IPv6 form */
        void *arg;                        /* the handler's own */
};

typedef void http_handler_fn(void *arg, struct http_request *req);

/* Takes listen_fd (non-blocking; on failure it stays the caller's). Ignores SIGPIPE in this process. */
struct http_server *http_server_new(int listen_fd, const struct http_limits *limits, http_handler_fn *handler,
                                    void *arg, struct err *err);
/* The same by TLS, on a TCP socket. The files are read now, and not again. With a certificate whose time is
 * over it is for the others to refuse us. */
struct http_server *http_server_new_tls(int listen_fd, const struct cert_files *files,
                                        const struct http_limits *limits, http_handler_fn *handler, void *arg,
                                        struct err *err);
void http_server_free(
        struct http_server *s); /* NULL-safe; closes the streams, calling their closed callbacks */
const struct http_counters *http_server_counters(const struct http_server *s);

/* The value of a header, or NULL; borrowed, valid inside the handler only. */
const char *http_request_header(const struct http_request *req, const char *name);

/* An additional header of the answer. false: not a header, or no memory. */
bool http_reply_header(struct http_request *req, const char *name, const char *value);
/* body is malloc'ed and taken; NULL with n 0 is an empty one. */
void http_reply(struct http_request *req, unsigned status, const char *content_type, char *body, size_t n);
/* The same with a copy of a text. */
void http_reply_text(struct http_request *req, unsigned status, const char *content_type, const char *text);

/* Answers with a stream of server-sent events. closed is called once: the reader went, was too slow, or the
 * server ends; not after http_stream_end(). NULL: too many streams, the request was answered with 503 and
 * closed is not called. */
struct http_stream *http_stream(struct http_request *req,
                                void (*closed)(void *arg, struct http_stream *stream), void *arg);
/* json is one line of n bytes. id 0: none. event NULL: none. -ENOBUFS: the reader is too slow and will be
 * dropped; closed follows. -EINVAL: json has a newline. */
int http_stream_send(struct http_stream *stream, int64_t id, const char *event, const char *json, size_t n);
void http_stream_end(
        struct http_stream *stream); /* what is queued is still sent; stream is then gone for the caller */

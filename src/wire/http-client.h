/* SPDX-License-Identifier: Apache-2.0 */
/* wire/http-client.h - a blocking HTTP client over a Unix socket or by TLS, for command lines and tests. No
 * loop. One struct http_client is one connection, kept alive between requests; use it from one thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"
#include "wire/cert.h"
#include "wire/tcp.h"

enum { HTTP_ANSWER_MAX_BYTES = 16 << 20 };

struct http_client;

struct http_answer {
        int status;    /* as the server gave it: 404 is an answer, not an error */
        char from[64]; /* of http_call(): the address that its name was looked up to, or "" */
        char content_type[64];
        char *body; /* owned, NUL-terminated, never NULL after success */
        size_t body_n;
};

/* Another daemon, and what we show it. */
struct http_target {
        const char *socket; /* of one on this machine: nothing else but the owner counts then; borrowed.
                               http-call.h only */
        bool has_owner;     /* whoever listens there runs as that uid; nobody else is told anything. One
                               of a socket, in all calls: connections are used again */
        uid_t owner;
        struct tcp_address address;
        char pin[CERT_PIN];             /* of its certificate; nobody else is spoken to. "": whoever our
                                           authority signed; who it is, is then the caller's to look at */
        const struct cert_files *files; /* borrowed */
        bool is_named; /* it is no daemon of ours: its certificate is to name the address, as elsewhere */
        bool is_plain; /* without TLS, to an address of this machine's own; http-call.h only */
};

/* Does not connect yet. NULL: no memory, or the path is too long for a socket. */
struct http_client *http_client_new(const char *socket_path, struct err *err);
/* The same by TLS; to is copied. */
struct http_client *http_client_new_tls(const struct http_target *to, struct err *err);
void http_client_free(struct http_client *c); /* NULL-safe */

/* method "GET", "POST" ...; path with its query, escaped; body NULL: none, else sent as application/json.
 * timeout_ms bounds all of it. 0 and *ret filled, or REASON_PEER_LOST (nobody there, or it hung up),
 * REASON_DENIED (the socket's mode; by TLS: its certificate is not believed, or is not the pinned one),
 * REASON_TIMEOUT, REASON_INVALID (an answer of more than 16 MiB, or what is not HTTP). */
int http_client_do(struct http_client *c, const char *method, const char *path, const char *body,
                   size_t body_n, int64_t timeout_ms, struct http_answer *ret, struct err *err);
/* By TLS: who is at the other end. false: there is no connection that was made since the client was. */
bool http_client_peer(const struct http_client *c, struct cert_id *ret);
void http_answer_done(struct http_answer *a); /* idempotent */

struct http_event {
        const char *id; /* "" where there is none, as event */
        const char *event;
        const char *data; /* lines joined by newlines */
};

/* GETs server-sent events until on_event returns false (0), the server ends the stream (0), or an error. A
 * status other than 200 ends at once, with the answer's body in *ret; otherwise its body is "". connect_ms
 * bounds the time until the headers are there; silent_ms (0: never) the time without a byte, so set it above
 * the server's heartbeat. */
int http_client_stream(struct http_client *c, const char *path, int64_t connect_ms, int64_t silent_ms,
                       bool (*on_event)(void *arg, const struct http_event *event), void *arg,
                       struct http_answer *ret, struct err *err);

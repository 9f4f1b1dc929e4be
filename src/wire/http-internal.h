/* SPDX-License-Identifier: Apache-2.0 */
/* wire/http-internal.h - what http.c and http-stream.c share.
 *
 * libmicrohttpd with an external event loop: its epoll descriptor is one of ours, MHD_run() handles what is
 * ready.
 *
 * A request is a struct request from its first line to MHD's completion callback, in one of these states:
 * READING, MHD feeds it; HANDLING, the handler owes an answer, and its connection is suspended as soon as the
 * handler returned without one; ANSWERED, `response` waits to be queued, or was; ORPHAN, MHD is done with the
 * connection (the server ends), and the handler still owes an answer.
 *
 * MHD hands out three rules that shape this. A suspended connection is not watched at all, neither for
 * its time-outs nor for a hang-up, so an idle stream's socket is also in our own epoll set.
 * MHD_resume_connection() only marks; the work is done by the next MHD_run(), which is therefore called in
 * the same turn, after all were marked. And MHD's time-out counts from the last byte, which a client may send
 * one at a time for ever, so the deadlines are ours, and shutdown(2) of the socket is how we end a connection
 * that MHD owns. */
#pragma once
#include <glib.h>
#include <microhttpd.h>

#include "loop/loop.h"
#include "wire/gate.h"
#include "wire/http.h"

enum state { READING = 1, HANDLING, ANSWERED, ORPHAN };

struct conn {
        struct conn *next, *prev;
        struct http_server *server;
        struct unix_peer peer;
        struct in6_addr from, whence; /* TLS: the part of its address that counts; all of it */
        struct http_caller caller;
        bool is_read, is_displaced; /* TLS: caller is filled in; it is being closed for a newer one */
        int fd;                     /* MHD's; valid until it says that the connection is closed */
        struct loop_timer deadline;
        struct request *req; /* the one in progress, or NULL */
};

struct request {
        struct http_request pub; /* first: the two are converted into each other */
        struct http_server *server;
        struct conn *conn;
        struct MHD_Connection *mhd;
        enum state state;
        bool is_started, is_suspended, is_ready;
        struct request *next_ready;
        char *target, method[16];
        GString *body;
        size_t swallowed;
        struct {
                char *name, *value;
        } header[4];
        unsigned n_headers;
        unsigned status;
        struct MHD_Response *response;
        struct http_stream *stream;
};

struct http_stream {
        struct request *req;
        GString *queue;
        size_t taken; /* of queue */
        uint64_t taken_ever, taken_at_beat;
        unsigned stalled_beats;
        bool is_ended, is_gone; /* by the owner; by the peer or by us */
        struct loop_fd watch;
        struct loop_timer beat;
        void (*closed)(void *arg, struct http_stream *stream);
        void *arg;
};

struct http_server {
        struct http_limits limits;
        http_handler_fn *handler;
        void *arg;
        struct MHD_Daemon *mhd;
        struct loop_fd listener, epoll;
        struct loop_timer again, accept_again;
        struct turn send;
        struct conn conns; /* list head */
        struct conn *accepting;
        struct request *ready;
        struct http_counters counters;
        struct gate gate;
        bool is_tls, is_running, is_stopping, is_freed;
};

struct request *http_request_of(const struct http_request *pub);
/* Its connection goes on in the send phase of this turn. */
void http_wake(struct request *req);
void http_suspend(struct request *req);
void http_set_response(struct request *req, unsigned status, struct MHD_Response *response);
/* MHD is done with it. */
void http_stream_close(struct http_stream *stream);

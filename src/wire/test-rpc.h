/* SPDX-License-Identifier: Apache-2.0 */
/* For the tests of wire/rpc: one side is a struct rpc; the other is a plain descriptor, so that a test can be
 * as rude as it likes. */
#pragma once
#include "wire/rpc.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "loop/loop.h"

struct side {
        struct rpc *rpc;
        int peer;              /* the other end, plain; non-blocking */
        GString *log;          /* what the callbacks saw */
        struct rpc_call *kept; /* of method "later" */
        unsigned n_kept;
        bool free_in_callback;
        struct err lost;
};

static inline void on_request(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                              const json_t *params)
{
        struct side *s = arg;
        g_string_append_printf(s->log, "%s;", method);
        g_assert_true(json_is_object(params));
        if (s->free_in_callback) {
                rpc_free(rpc);
                s->rpc = NULL;
        }
        if (strcmp(method, "echo") == 0) {
                rpc_reply(call, json_deep_copy(params));
        } else if (strcmp(method, "later") == 0) {
                s->kept = call;
                s->n_kept++;
        } else if (strcmp(method, "huge") == 0) {
                char *text = g_strnfill(100000, 'h');
                rpc_reply(call, json_pack("{s:s}", "text", text));
                g_free(text);
        } else if (strcmp(method, "count-fds") == 0) {
                int fds[2];
                struct err why;
                if (rpc_take_fds(call, fds, 2, &why) < 0) {
                        rpc_refuse(call, RPC_WRONG_PARAMS, &why);
                        return;
                }
                g_assert_cmpint(write(fds[0], "first", 5), ==, 5);
                g_assert_cmpint(write(fds[1], "second", 6), ==, 6);
                rpc_reply_fds(call, NULL, fds, 1);
                close(fds[0]);
                close(fds[1]);
        } else {
                rpc_refuse_unknown(call, method);
        }
}

static inline void on_notify(void *arg, struct rpc *rpc, const char *method, const json_t *params)
{
        struct side *s = arg;
        g_string_append_printf(s->log, "(%s)", method);
        if (s->free_in_callback) {
                rpc_free(rpc);
                s->rpc = NULL;
        }
}

static inline void on_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        struct side *s = arg;
        g_string_append_printf(s->log, "lost %s;", reason_name(err->reason));
        g_assert_true(rpc_is_lost(rpc));
        s->lost = *err;
        if (s->free_in_callback) {
                rpc_free(rpc);
                s->rpc = NULL;
        }
}

static inline void open_side(struct side *s, struct rpc_options o)
{
        int fds[2];
        struct err err = {0};
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), ==, 0);
        o.on_request = on_request;
        o.on_notify = on_notify;
        o.on_lost = on_lost;
        *s = (struct side){.peer = fds[1], .log = g_string_new(NULL)};
        s->rpc = rpc_new(fds[0], &o, s, &err);
        g_assert_nonnull(s->rpc);
        g_assert_true(rpc_arg(s->rpc) == s);
}

static inline void close_side(struct side *s)
{
        rpc_free(s->rpc);
        close(s->peer);
        g_string_free(s->log, TRUE);
        while (loop_once(false))
                ;
}

static inline void turn_all(void)
{
        while (loop_once(false))
                ;
}

/* Sends all, turning the loop where the socket is full. */
static inline void say_n(struct side *s, const char *text, size_t n)
{
        while (n > 0) {
                ssize_t r = send(s->peer, text, n, MSG_NOSIGNAL);
                if (r < 0) {
                        g_assert_cmpint(errno, ==, EAGAIN);
                        loop_once(false);
                        continue;
                }
                text += r;
                n -= (size_t)r;
        }
}

static inline void say(struct side *s, const char *text)
{
        say_n(s, text, strlen(text));
}

/* Everything that arrived at the plain end by the time the loop has nothing more to do. */
static inline char *hear(struct side *s)
{
        GString *got = g_string_new(NULL);
        char part[65536];
        for (;;) {
                turn_all();
                ssize_t n = read(s->peer, part, sizeof(part));
                if (n <= 0)
                        return g_string_free(got, FALSE);
                g_string_append_len(got, part, n);
        }
}

static inline void expect(struct side *s, const char *what)
{
        char *got = hear(s);
        g_assert_cmpstr(got, ==, what);
        g_free(got);
}

static inline void expect_has(struct side *s, const char *part)
{
        char *got = hear(s);
        if (!strstr(got, part))
                g_error("not in what was said: %s\n%s", part, got);
        g_free(got);
}

static inline unsigned count(const char *text, const char *part)
{
        unsigned n = 0;
        for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
                n++;
        return n;
}

#define REQ(id, method, rest) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\"" rest "}\n"
#define NOTE(method)          "{\"jsonrpc\":\"2.0\",\"method\":\"" method "\"}\n"

struct done {
        unsigned n;
        enum reason reason;
        char *result;
        struct rpc **to_free;
        int fd;
};

static inline void on_done(void *arg, const json_t *result, const struct err *err)
{
        struct done *d = arg;
        d->n++;
        g_assert_true(!result != !err);
        d->reason = err ? err->reason : 0;
        if (result) {
                free(d->result);
                d->result = json_dumps(result, JSON_COMPACT | JSON_ENCODE_ANY);
        }
        if (d->to_free) {
                rpc_free(*d->to_free);
                *d->to_free = NULL;
        }
}

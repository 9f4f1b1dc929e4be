/* SPDX-License-Identifier: Apache-2.0 */
/* The model. A struct rpc is LIVE until its peer is lost (LOST), and exists until freed and let go by
 * everything that still holds a reference: its owner (until rpc_free), each unanswered inbound call, each
 * dispatch in progress.
 *
 *            fd     pending calls  queue   owner
 *   LIVE     open   any            any     yes
 *   LOST     closed none           empty   yes
 *   FREED    closed none           empty   no
 *
 * Trouble found while sending on behalf of the owner (queue full) is only noted in `doom`, and acted on in
 * the send phase: the owner is in the middle of something, and must not be called back there.
 *
 * Descriptors: a message that brings some says so in its member "fds". The kernel hands them over no later
 * than with the first byte of that message and keeps their order, so the first `fds` of those received are
 * its own. */
#include "wire/rpc.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/loop.h"
#include "wire/bucket.h"
#include "wire/fds.h"
#include "wire/line.h"
#include "wire/outbox.h"

enum {
        LINE_MAX_DEFAULT = 65536,
        QUEUE_MAX_DEFAULT = 4 << 20,
        CALLS_MAX_DEFAULT = 64,
        GARBAGE_ROW = 16, /* unreadable lines without a good one: not a peer of ours */
        READ_MAX = 16384, /* of one peer in one turn, so that a flood leaves the others their share */
        GARBAGE_ANSWERS_PER_S = 2,
        GARBAGE_ANSWERS_BURST = 8,
};

enum state { LIVE = 1, LOST, FREED };

struct pending {
        struct rpc *rpc;
        int64_t id;
        struct loop_timer deadline;
        rpc_done_fn *cb;
        void *arg;
};

struct rpc_call {
        struct rpc *rpc;
        struct rpc_id id;
        struct fds fds;
};

struct rpc {
        struct rpc_options o;
        void *arg;
        enum state state;
        unsigned refs;
        int fd;
        bool is_socket;
        struct loop_fd watch;
        struct turn send;
        struct loop_timer wake; /* ends a pause */
        bool is_paused, is_reading;
        struct line line;
        struct bucket bucket, garbage_answers;
        unsigned garbage_row;
        unsigned calls; /* unanswered inbound */
        struct outbox out;
        GHashTable *pending; /* &id -> struct pending, owned */
        int64_t last_id;
        struct fds fds_in;      /* received, not yet claimed by a message */
        struct fds *fds_result; /* those of the answer that is being handed out */
        bool is_doomed;
        struct err doom;
        struct rpc_counters counters;
};

static void lose(struct rpc *rpc, const struct err *why);

static void rpc_ref(struct rpc *rpc)
{
        rpc->refs++;
}

static void rpc_unref(struct rpc *rpc)
{
        if (--rpc->refs > 0)
                return;
        assert(rpc->state == FREED);
        line_done(&rpc->line);
        g_hash_table_unref(rpc->pending);
        g_free(rpc);
}

/* ---- sending ---- */

static void want_events(struct rpc *rpc)
{
        uint32_t events = (rpc->is_paused ? 0 : EPOLLIN) | (rpc->out.first ? EPOLLOUT : 0);
        struct err why;
        if (loop_fd_set(&rpc->watch, events, &why) < 0)
                lose(rpc, &why);
}

/* Takes text and empties fds. */
static int enqueue(struct rpc *rpc, char *text, size_t n, struct fds *fds, struct err *err)
{
        int r = 0;
        if (rpc->state != LIVE || rpc->is_doomed)
                r = err_set(err, REASON_PEER_LOST, ECONNRESET, "the connection is lost");
        else if (!text)
                r = err_set(err, REASON_INTERNAL, ENOMEM, "cannot write the message");
        else if (n > rpc->o.send_max)
                r = err_set(err, REASON_INTERNAL, EMSGSIZE, "the message has %zu bytes, a line may have %zu",
                            n, rpc->o.send_max);
        else if (rpc->out.bytes + n + 1 > rpc->o.queue_max_bytes) {
                r = err_set(err, REASON_BUSY, EAGAIN, "the peer does not read: %zu bytes wait to be sent",
                            rpc->out.bytes);
                if (rpc->o.keep_on_overflow) {
                        rpc->counters.dropped++;
                } else {
                        rpc->is_doomed = true;
                        (void)err_set(&rpc->doom, REASON_BUSY, ENOBUFS,
                                      "the peer does not read: more than %zu bytes wait to be sent",
                                      rpc->o.queue_max_bytes);
                        loop_turn_request(&rpc->send);
                }
        }
        if (r < 0) {
                free(text);
                if (fds)
                        fds_close(fds);
                return r;
        }
        outbox_add(&rpc->out, text, n, fds);
        loop_turn_request(&rpc->send);
        return 0;
}

/* 0: all that the peer takes now was sent. */
static int flush(struct rpc *rpc, struct err *err)
{
        uint64_t n = 0;
        int r = outbox_flush(&rpc->out, rpc->fd, rpc->is_socket, &n, err);
        rpc->counters.bytes_out += n;
        return r;
}

static void on_send(void *arg)
{
        struct rpc *rpc = arg;
        struct err why;
        if (rpc->state != LIVE)
                return;
        if (rpc->is_doomed)
                lose(rpc, &rpc->doom);
        else if (flush(rpc, &why) < 0)
                lose(rpc, &why);
        else
                want_events(rpc);
}

/* ---- our calls ---- */

static void pending_finish(struct pending *p, const json_t *result, const struct err *err)
{
        loop_timer_cancel(&p->deadline);
        (void)g_hash_table_steal(p->rpc->pending, &p->id);
        rpc_done_fn *cb = p->cb;
        void *arg = p->arg;
        g_free(p);
        if (cb)
                cb(arg, result, err);
}

static void pending_fail_all(struct rpc *rpc, const struct err *why)
{
        GHashTableIter iter;
        void *value;
        /* From the start each time: a callback may have changed the table (it cannot add: we are not LIVE).
         */
        for (;;) {
                g_hash_table_iter_init(&iter, rpc->pending);
                if (!g_hash_table_iter_next(&iter, NULL, &value))
                        return;
                pending_finish(value, NULL, why);
        }
}

static void on_deadline(void *arg)
{
        struct pending *p = arg;
        struct err why;
        p->rpc->counters.timeouts++;
        (void)err_set(&why, REASON_TIMEOUT, ETIMEDOUT, "the peer did not answer in time");
        pending_finish(p, NULL, &why);
}

static int call_with(struct rpc *rpc, const char *method, json_t *params, struct fds *fds, int64_t timeout_ms,
                     rpc_done_fn *cb, void *arg, struct err *err)
{
        struct rpc_id id = {.kind = RPC_ID_NUMBER, .number = ++rpc->last_id};
        size_t n = 0;
        char *text = rpc_message_request(&id, method, params, fds ? (int64_t)fds->n : 0, &n);
        int r = enqueue(rpc, text, n, fds, err);
        if (r < 0)
                return r;
        struct pending *p = g_new(struct pending, 1);
        *p = (struct pending){.rpc = rpc, .id = id.number, .cb = cb, .arg = arg};
        loop_timer_init(&p->deadline, on_deadline, p);
        if (timeout_ms > 0)
                loop_timer_in(&p->deadline, timeout_ms);
        g_hash_table_insert(rpc->pending, &p->id, p);
        return 0;
}

int rpc_call(struct rpc *rpc, const char *method, json_t *params, int64_t timeout_ms, rpc_done_fn *cb,
             void *arg, struct err *err)
{
        return call_with(rpc, method, params, NULL, timeout_ms, cb, arg, err);
}

int rpc_call_fds(struct rpc *rpc, const char *method, json_t *params, const int *fds, size_t n,
                 int64_t timeout_ms, rpc_done_fn *cb, void *arg, struct err *err)
{
        assert(rpc->is_socket && n <= RPC_FDS_MAX);
        struct fds copy = {.n = 0};
        int r = fds_dup(&copy, fds, n, err);
        if (r < 0) {
                json_decref(params);
                return r;
        }
        return call_with(rpc, method, params, &copy, timeout_ms, cb, arg, err);
}

int rpc_notify(struct rpc *rpc, const char *method, json_t *params, struct err *err)
{
        size_t n = 0;
        char *text = rpc_message_request(NULL, method, params, 0, &n);
        return enqueue(rpc, text, n, NULL, err);
}

int rpc_resync(struct rpc *rpc, struct err *err)
{
        return enqueue(rpc, calloc(1, 1), 0, NULL, err);
}

/* ---- the peer's calls ---- */

static void call_end(struct rpc_call *call)
{
        struct rpc *rpc = call->rpc;
        fds_close(&call->fds);
        g_free(call);
        rpc->calls--;
        rpc_unref(rpc);
}

static void refuse_id(struct rpc *rpc, const struct rpc_id *id, int code, const struct err *error)
{
        size_t n = 0;
        if (rpc->state != LIVE)
                return;
        char *text = rpc_message_error(id, code, error, &n);
        (void)enqueue(rpc, text, n, NULL, NULL);
}

static void reply_with(struct rpc_call *call, json_t *result, struct fds *fds)
{
        struct rpc *rpc = call->rpc;
        struct err why;
        size_t n = 0;
        if (rpc->state != LIVE) {
                json_decref(result);
                if (fds)
                        fds_close(fds);
        } else {
                char *text = rpc_message_result(&call->id, result, fds ? (int64_t)fds->n : 0, &n);
                int r = enqueue(rpc, text, n, fds, &why);
                if (r == -EMSGSIZE || r == -ENOMEM)
                        refuse_id(rpc, &call->id, RPC_REFUSED, &why);
        }
        call_end(call);
}

void rpc_reply(struct rpc_call *call, json_t *result)
{
        reply_with(call, result, NULL);
}

void rpc_reply_fds(struct rpc_call *call, json_t *result, const int *fds, size_t n)
{
        assert(n <= RPC_FDS_MAX);
        struct fds copy = {.n = 0};
        struct err why;
        if (call->rpc->state == LIVE && fds_dup(&copy, fds, n, &why) < 0) {
                json_decref(result);
                rpc_refuse(call, RPC_REFUSED, &why);
                return;
        }
        reply_with(call, result, &copy);
}

void rpc_refuse(struct rpc_call *call, int code, const struct err *err)
{
        refuse_id(call->rpc, &call->id, code, err);
        call_end(call);
}

void rpc_refuse_unknown(struct rpc_call *call, const char *method)
{
        struct err why;
        (void)err_set(&why, REASON_UNSUPPORTED, EOPNOTSUPP, "unknown method: %s", method);
        rpc_refuse(call, RPC_UNKNOWN_METHOD, &why);
}

struct rpc *rpc_call_peer(const struct rpc_call *call)
{
        return call->rpc->state == LIVE ? call->rpc : NULL;
}

size_t rpc_call_fds_n(const struct rpc_call *call)
{
        return call->fds.n;
}

int rpc_take_fds(struct rpc_call *call, int *ret_fds, size_t n, struct err *err)
{
        return fds_take(&call->fds, ret_fds, n, err);
}

int rpc_take_result_fds(struct rpc *rpc, int *ret_fds, size_t n, struct err *err)
{
        assert(rpc->fds_result); /* only inside the callback of the answer */
        return fds_take(rpc->fds_result, ret_fds, n, err);
}

/* ---- receiving ---- */

/* The row is not reset by what merely parses as JSON: a good message does that. */
static void on_garbage(struct rpc *rpc, const struct err *error)
{
        static const struct rpc_id no_id = {.kind = RPC_ID_NULL};
        rpc->garbage_row++;
        if (bucket_take(&rpc->garbage_answers, loop_mono_ms()))
                refuse_id(rpc, &no_id, RPC_UNREADABLE, error);
        if (rpc->o.drop_on_garbage && rpc->garbage_row >= GARBAGE_ROW) {
                struct err why;
                (void)err_set(&why, REASON_INVALID, EPROTO, "%u unreadable lines in a row", rpc->garbage_row);
                lose(rpc, &why);
        }
}

static void on_bad(struct rpc *rpc, const struct rpc_message *m)
{
        if (m->code == RPC_UNREADABLE) {
                rpc->counters.unreadable++;
                on_garbage(rpc, &m->error);
                return;
        }
        rpc->counters.malformed++;
        refuse_id(rpc, &m->id, m->code, &m->error);
}

static void on_request(struct rpc *rpc, const struct rpc_message *m, struct fds *fds)
{
        struct err why;
        rpc->counters.requests++;
        if (rpc->calls >= rpc->o.calls_max) {
                rpc->counters.busy_calls++;
                (void)err_set(&why, REASON_BUSY, EBUSY,
                              "%u requests wait for their answers; wait for one of them", rpc->calls);
                refuse_id(rpc, &m->id, RPC_REFUSED, &why);
                return;
        }
        struct rpc_call *call = g_new0(struct rpc_call, 1);
        call->rpc = rpc;
        call->id = m->id;
        fds_move(fds, &call->fds, fds->n);
        rpc->calls++;
        rpc_ref(rpc);
        if (!rpc->o.on_request) {
                rpc_refuse_unknown(call, m->method);
                return;
        }
        json_t *params = m->params ? json_incref(m->params) : json_object();
        rpc->o.on_request(rpc->arg, rpc, call, m->method, params);
        json_decref(params);
}

static void on_notification(struct rpc *rpc, const struct rpc_message *m)
{
        rpc->counters.notifications++;
        if (!rpc->o.on_notify)
                return;
        json_t *params = m->params ? json_incref(m->params) : json_object();
        rpc->o.on_notify(rpc->arg, rpc, m->method, params);
        json_decref(params);
}

static void on_answer(struct rpc *rpc, const struct rpc_message *m, struct fds *fds)
{
        struct pending *p =
                m->id.kind == RPC_ID_NUMBER ? g_hash_table_lookup(rpc->pending, &m->id.number) : NULL;
        if (!p) {
                rpc->counters.unknown_answers++;
                return;
        }
        rpc->counters.answers++;
        rpc->fds_result = fds;
        pending_finish(p, m->result, m->kind == RPC_MESSAGE_ERROR ? &m->error : NULL);
        rpc->fds_result = NULL;
}

static void pause_reading(struct rpc *rpc)
{
        /* A tenth of a second's worth at once: waking for every single token would cost more than the flood.
         */
        int64_t tokens = rpc->o.rate_per_s / 10 + 1;
        rpc->is_paused = true;
        rpc->counters.pauses++;
        loop_timer_in(&rpc->wake, bucket_wait_ms(&rpc->bucket, tokens, loop_mono_ms()));
}

static void on_too_fast(struct rpc *rpc, const struct rpc_message *m)
{
        struct err why;
        rpc->counters.busy_rate++;
        if (m->kind != RPC_MESSAGE_REQUEST)
                return;
        (void)err_set(&why, REASON_BUSY, EBUSY, "slow down: at most %u messages a second are served",
                      rpc->o.rate_per_s);
        refuse_id(rpc, &m->id, RPC_REFUSED, &why);
}

static void on_message(struct rpc *rpc, const struct rpc_message *m, bool has_token)
{
        struct fds fds = {.n = 0};
        if (m->kind == RPC_MESSAGE_BAD) {
                on_bad(rpc, m);
                return;
        }
        if (m->fds > (int64_t)rpc->fds_in.n || m->fds > rpc->o.fds_max) {
                struct err why;
                rpc->counters.malformed++;
                (void)err_set(&why, REASON_INVALID, EBADF,
                              "fds: %d descriptors announced, %zu came, %u are accepted", (int)m->fds,
                              rpc->fds_in.n, rpc->o.fds_max);
                /* An answer whose descriptors did not come is no answer: its call must not wait for ever. */
                bool is_answer = m->kind == RPC_MESSAGE_RESULT || m->kind == RPC_MESSAGE_ERROR;
                struct pending *p = is_answer && m->id.kind == RPC_ID_NUMBER
                                            ? g_hash_table_lookup(rpc->pending, &m->id.number)
                                            : NULL;
                if (m->kind == RPC_MESSAGE_REQUEST)
                        refuse_id(rpc, &m->id, RPC_NOT_A_REQUEST, &why);
                else if (p)
                        pending_finish(p, NULL, &why);
                return;
        }
        fds_move(&rpc->fds_in, &fds, (size_t)m->fds);
        switch (m->kind) {
        case RPC_MESSAGE_BAD: /* handled above */
                break;
        case RPC_MESSAGE_REQUEST:
                if (has_token)
                        on_request(rpc, m, &fds);
                else
                        on_too_fast(rpc, m);
                break;
        case RPC_MESSAGE_NOTIFICATION:
                if (has_token)
                        on_notification(rpc, m);
                else
                        on_too_fast(rpc, m);
                break;
        case RPC_MESSAGE_RESULT:
        case RPC_MESSAGE_ERROR:
                on_answer(rpc, m, &fds);
                break;
        }
        fds_close(&fds);
}

static bool is_blank(const char *text, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r')
                        return false;
        return true;
}

static void on_line(struct rpc *rpc, const char *text, size_t n)
{
        rpc->counters.lines++;
        /* A blank line costs its token, too: a stream of newlines is a flood like any other. */
        bool has_token = bucket_take(&rpc->bucket, loop_mono_ms());
        if (!has_token)
                pause_reading(rpc);
        if (is_blank(text, n))
                return;
        struct rpc_message m;
        rpc_message_parse(text, n, &m);
        if (m.kind != RPC_MESSAGE_BAD)
                rpc->garbage_row = 0;
        on_message(rpc, &m, has_token);
        rpc_message_done(&m);
}

static void on_too_long(struct rpc *rpc)
{
        struct err why;
        rpc->counters.lines++;
        rpc->counters.too_long++;
        if (!bucket_take(&rpc->bucket, loop_mono_ms()))
                pause_reading(rpc);
        (void)err_set(&why, REASON_INVALID, EMSGSIZE, "the line is too long, at most %zu bytes are read",
                      rpc->o.line_max);
        on_garbage(rpc, &why);
}

/* Everything that is buffered, until the peer is paused or lost. Bounded by the buffer. */
static void drain(struct rpc *rpc)
{
        char *text = NULL;
        size_t n = 0;
        while (rpc->state == LIVE && !rpc->is_paused) {
                switch (line_next(&rpc->line, &text, &n)) {
                case LINE_MORE:
                        /* Descriptors come with the first byte of their message: these are nobody's. */
                        if (line_buffered(&rpc->line) == 0 && rpc->fds_in.n > 0) {
                                rpc->counters.fds_refused += rpc->fds_in.n;
                                fds_close(&rpc->fds_in);
                        }
                        return;
                case LINE_READY:
                        on_line(rpc, text, n);
                        break;
                case LINE_TOO_LONG:
                        on_too_long(rpc);
                        break;
                }
        }
}

static void keep_fds(struct rpc *rpc, struct msghdr *msg)
{
        for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (fds_add(&rpc->fds_in, fd) < 0)
                                rpc->counters.fds_refused++;
                }
        }
        if (msg->msg_flags & MSG_CTRUNC)
                rpc->counters.fds_refused++;
}

static ssize_t receive(struct rpc *rpc, char *room, size_t n)
{
        if (!rpc->is_socket)
                return read(rpc->fd, room, n);
        union {
                struct cmsghdr head;
                char room[CMSG_SPACE(sizeof(int) * FDS_ROOM)];
        } control;
        struct iovec iov = {.iov_base = room, .iov_len = n};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        if (rpc->o.fds_max > 0) { /* without room for them the kernel closes what a peer attaches */
                msg.msg_control = &control;
                msg.msg_controllen = sizeof(control);
        }
        ssize_t got = recvmsg(rpc->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (got >= 0)
                keep_fds(rpc, &msg);
        return got;
}

static void on_readable(struct rpc *rpc)
{
        struct err why;
        size_t n = 0;
        char *room = line_room(&rpc->line, &n);
        if (!room) {
                (void)err_set(&why, REASON_INTERNAL, ENOMEM, "no memory to read into");
                lose(rpc, &why);
                return;
        }
        ssize_t got = receive(rpc, room, n < READ_MAX ? n : READ_MAX);
        if (got > 0) {
                rpc->counters.bytes_in += (uint64_t)got;
                line_filled(&rpc->line, (size_t)got);
                drain(rpc);
        } else if (got == 0) {
                (void)err_set(&why, REASON_PEER_LOST, ECONNRESET, "the peer hung up");
                lose(rpc, &why);
        } else if (errno != EAGAIN && errno != EINTR) {
                (void)err_set(&why, REASON_PEER_LOST, errno, "cannot receive: %s", strerror(errno));
                lose(rpc, &why);
        }
}

static void on_ready(void *arg, uint32_t events)
{
        struct rpc *rpc = arg;
        struct err why;
        rpc_ref(rpc);
        /* A hang-up is read, not believed at once: what the peer sent before it still counts. While paused it
         * shows only because something waits to be sent, and then sending finds out. */
        if (!rpc->is_paused && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                on_readable(rpc);
        if (rpc->state == LIVE && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) && flush(rpc, &why) < 0)
                lose(rpc, &why);
        if (rpc->state == LIVE)
                want_events(rpc);
        rpc_unref(rpc);
}

static void on_wake(void *arg)
{
        struct rpc *rpc = arg;
        rpc_ref(rpc);
        rpc->is_paused = false;
        drain(rpc);
        if (rpc->state == LIVE)
                want_events(rpc);
        rpc_unref(rpc);
}

/* ---- beginning and end ---- */

static void shut(struct rpc *rpc, enum state state)
{
        rpc->state = state;
        loop_timer_cancel(&rpc->wake);
        loop_turn_cancel(&rpc->send);
        loop_fd_remove(&rpc->watch);
        if (rpc->fd >= 0)
                (void)close(rpc->fd);
        rpc->fd = -1;
        outbox_clear(&rpc->out);
        fds_close(&rpc->fds_in);
}

static void lose(struct rpc *rpc, const struct err *why)
{
        if (rpc->state != LIVE)
                return;
        struct err copy = *why;
        rpc_ref(rpc);
        shut(rpc, LOST);
        pending_fail_all(rpc, &copy);
        if (rpc->state == LOST && rpc->o.on_lost) /* unless one of them freed it */
                rpc->o.on_lost(rpc->arg, rpc, &copy);
        rpc_unref(rpc);
}

static void defaults(struct rpc_options *o)
{
        if (!o->line_max)
                o->line_max = LINE_MAX_DEFAULT;
        if (!o->send_max)
                o->send_max = o->line_max;
        if (!o->queue_max_bytes)
                o->queue_max_bytes = QUEUE_MAX_DEFAULT;
        if (!o->calls_max)
                o->calls_max = CALLS_MAX_DEFAULT;
        if (!o->burst)
                o->burst = o->rate_per_s;
        assert(o->fds_max <= RPC_FDS_MAX);
}

static int make_nonblocking(int fd, struct err *err)
{
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
                return err_set(err, REASON_INTERNAL, errno, "descriptor %d: %s", fd, strerror(errno));
        return 0;
}

struct rpc *rpc_new(int fd, const struct rpc_options *o, void *arg, struct err *err)
{
        int type;
        socklen_t size = sizeof(type);
        if (make_nonblocking(fd, err) < 0)
                return NULL;
        struct rpc *rpc = g_new0(struct rpc, 1);
        rpc->o = *o;
        defaults(&rpc->o);
        rpc->arg = arg;
        rpc->state = LIVE;
        rpc->refs = 1;
        rpc->last_id = o->first_id;
        rpc->fd = fd;
        rpc->is_socket = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
        outbox_init(&rpc->out);
        rpc->pending = g_hash_table_new(g_int64_hash, g_int64_equal);
        loop_turn_init(&rpc->send, LOOP_SEND, on_send, rpc);
        loop_timer_init(&rpc->wake, on_wake, rpc);
        line_init(&rpc->line, rpc->o.line_max);
        bucket_init(&rpc->bucket, rpc->o.rate_per_s, rpc->o.burst, loop_mono_ms());
        bucket_init(&rpc->garbage_answers, GARBAGE_ANSWERS_PER_S, GARBAGE_ANSWERS_BURST, loop_mono_ms());
        if (loop_fd_add(&rpc->watch, fd, EPOLLIN, on_ready, rpc, err) < 0) {
                rpc->fd = -1; /* stays the caller's */
                rpc_free(rpc);
                return NULL;
        }
        return rpc;
}

void rpc_free(struct rpc *rpc)
{
        struct err why;
        if (!rpc)
                return;
        assert(rpc->state != FREED);
        if (rpc->state == LIVE && rpc->fd >= 0)
                (void)flush(rpc, NULL);
        shut(rpc, FREED);
        (void)err_set(&why, REASON_CANCELLED, ECANCELED, "the connection was closed");
        pending_fail_all(rpc, &why);
        rpc_unref(rpc);
}

void *rpc_arg(const struct rpc *rpc)
{
        return rpc->arg;
}

bool rpc_is_lost(const struct rpc *rpc)
{
        return rpc->state != LIVE || rpc->is_doomed;
}

size_t rpc_queued_bytes(const struct rpc *rpc)
{
        return rpc->out.bytes;
}

const struct rpc_counters *rpc_counters(const struct rpc *rpc)
{
        return &rpc->counters;
}

void rpc_counters_add(const struct rpc *rpc, struct rpc_counters *sum)
{
        if (!rpc)
                return;
        const struct rpc_counters *c = &rpc->counters;
        sum->lines += c->lines;
        sum->bytes_in += c->bytes_in;
        sum->bytes_out += c->bytes_out;
        sum->requests += c->requests;
        sum->notifications += c->notifications;
        sum->answers += c->answers;
        sum->unreadable += c->unreadable;
        sum->too_long += c->too_long;
        sum->malformed += c->malformed;
        sum->busy_calls += c->busy_calls;
        sum->busy_rate += c->busy_rate;
        sum->pauses += c->pauses;
        sum->unknown_answers += c->unknown_answers;
        sum->timeouts += c->timeouts;
        sum->dropped += c->dropped;
        sum->fds_refused += c->fds_refused;
}

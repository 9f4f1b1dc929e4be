/* SPDX-License-Identifier: Apache-2.0 */
/* The model. A handle is OPEN (fd >= 0) or LOST (fd -1, `loss` says why). Each op ends in exactly one note;
 * being lost ends none, because the agent keeps its table and the same ids have the same answers: after
 * mete_reopen() all of them are asked again.
 *
 * Nothing here waits except handle_poll(), and that only for the blocking face. */
#include "lib/handle.h"
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "base/str.h"
#include "wire/message.h"

enum { OUT_MAX = 1 << 20, BACKOFF_FIRST_MS = 50, BACKOFF_MAX_MS = 1000 };

int64_t handle_mono_ms(void)
{
        struct timespec t;

        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

bool error_copy(struct mete_error *to, const struct err *from)
{
        if (to == NULL)
                return false;
        to->reason = (enum mete_reason)from->reason;
        to->code = from->code;
        return str_copy(to->sentence, sizeof(to->sentence), from->sentence);
}

int handle_enter(struct mete *m, struct mete_error *err)
{
        struct err why = {0};
        int r = 0;

        if (m == NULL)
                r = err_set(&why, REASON_INVALID, EINVAL, "the handle is NULL");
        else if (m->owner != getpid())
                r = err_set(&why, REASON_INVALID, ECHILD,
                            "the handle was made before fork(), in process %ld; open one here",
                            (long)m->owner);
        else if (atomic_flag_test_and_set(&m->is_used))
                r = err_set(&why, REASON_BUSY, EBUSY, "another thread is using this handle");
        if (r < 0)
                (void)error_copy(err, &why);
        return r;
}

int handle_leave(struct mete *m, int r, const struct err *why, struct mete_error *err)
{
        atomic_flag_clear(&m->is_used);
        if (r < 0)
                (void)error_copy(err, why);
        return r;
}

/* ---- notes ---- */

void note_free(struct note *n)
{
        if (n == NULL)
                return;
        free(n->verdict);
        json_decref(n->raw);
        free(n);
}

static void note_drop_ended(struct mete *m)
{
        for (struct note **at = &m->notes; *at != NULL; at = &(*at)->next) {
                struct note *n = *at;
                if (n->event.kind != METE_EVENT_ENDED)
                        continue;
                *at = n->next;
                if (n->next == NULL)
                        m->notes_end = at;
                m->n_notes--;
                note_free(n);
                return;
        }
}

/* Takes n. A program that never asks for events keeps at most HANDLE_EVENTS_MAX notices: the oldest goes. */
static void note_add(struct mete *m, struct note *n)
{
        if (m->n_notes >= HANDLE_EVENTS_MAX)
                note_drop_ended(m);
        n->next = NULL;
        *m->notes_end = n;
        m->notes_end = &n->next;
        m->n_notes++;
}

struct note *handle_take(struct mete *m, uint64_t ticket)
{
        for (struct note **at = &m->notes; *at != NULL; at = &(*at)->next) {
                struct note *n = *at;
                if (ticket != 0 && n->event.ticket != ticket)
                        continue;
                *at = n->next;
                if (n->next == NULL)
                        m->notes_end = at;
                m->n_notes--;
                return n;
        }
        return NULL;
}

static struct note *note_new(enum mete_event_kind kind, uint64_t ticket, const char *id)
{
        struct note *n = calloc(1, sizeof(*n));

        if (n == NULL)
                return NULL;
        n->event.kind = kind;
        n->event.ticket = ticket;
        (void)STR_COPY(n->event.id, id);
        return n;
}

/* ---- being lost, and found ---- */

void handle_lose(struct mete *m, const struct err *why)
{
        if (m->fd < 0)
                return;
        (void)close(m->fd);
        m->fd = -1;
        m->loss = *why;
        m->out_n = m->out_sent = 0;
        line_reset(&m->in);
        struct note *n = note_new(METE_EVENT_LOST, 0, "");
        if (n != NULL) {
                (void)error_copy(&n->event.error, why);
                note_add(m, n);
        }
}

static void drop_lost_note(struct mete *m)
{
        for (struct note **at = &m->notes; *at != NULL; at = &(*at)->next) {
                struct note *n = *at;
                if (n->event.kind != METE_EVENT_LOST)
                        continue;
                *at = n->next;
                if (n->next == NULL)
                        m->notes_end = at;
                m->n_notes--;
                note_free(n);
                return;
        }
}

static int send_op(struct mete *m, const struct op *op, struct err *err);

/* A new connection is told nothing until it asks. One that is outstanding was just sent again. */
static int watch_again(struct mete *m, struct err *err)
{
        uint64_t ticket;

        for (size_t i = 0; i < ARRAY_N(m->ops); i++)
                if (m->ops[i].ticket != 0 && m->ops[i].kind == OP_WATCH)
                        return 0;
        return m->is_watching
                       ? handle_start(m, OP_WATCH, "host", json_pack("{s:b}", "watch", 1), "", &ticket, err)
                       : 0;
}

int handle_connect(struct mete *m, struct err *err)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "socket: %s", strerror(errno));
        memcpy(address.sun_path, m->path, sizeof(address.sun_path));
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                int code = errno;
                (void)close(fd);
                if (code == EAGAIN)
                        return err_set(err, REASON_BUSY, EAGAIN,
                                       "%s: the agent has no time for another connection", m->path);
                if (code == EACCES || code == EPERM)
                        return err_set(err, REASON_DENIED, code, "%s: %s", m->path, strerror(code));
                return err_set(err, REASON_PEER_LOST, ENOTCONN, "no agent at %s: %s", m->path,
                               strerror(code));
        }
        m->fd = fd;
        m->connected_ms = handle_mono_ms();
        drop_lost_note(m);
        uint64_t after = 0;
        for (;;) { /* in the order in which they were begun */
                const struct op *next = NULL;
                for (size_t i = 0; i < ARRAY_N(m->ops); i++)
                        if (m->ops[i].ticket > after && (next == NULL || m->ops[i].ticket < next->ticket))
                                next = &m->ops[i];
                if (next != NULL)
                        after = next->ticket;
                int r = next != NULL ? send_op(m, next, err) : watch_again(m, err);
                if (r == 0 && next == NULL)
                        return 0;
                if (r < 0) {
                        handle_lose(m, err);
                        return r;
                }
        }
}

/* ---- sending ---- */

static int receive(struct mete *m, struct err *err);

static int flush_out(struct mete *m, struct err *err)
{
        while (m->out_sent < m->out_n) {
                ssize_t n = send(m->fd, m->out + m->out_sent, m->out_n - m->out_sent,
                                 MSG_NOSIGNAL | MSG_DONTWAIT);
                if (n >= 0) {
                        m->out_sent += (size_t)n;
                        continue;
                }
                if (errno == EINTR)
                        continue;
                if (errno == EAGAIN)
                        return 0;
                struct err why = {0}, last = {0};
                (void)err_set(&why, REASON_PEER_LOST, ENOTCONN, "the agent is gone: %s", strerror(errno));
                (void)receive(m, &last); /* its last words say why, and better */
                handle_lose(m, &why);
                *err = m->loss;
                return -ENOTCONN;
        }
        m->out_n = m->out_sent = 0;
        return 0;
}

static int send_op(struct mete *m, const struct op *op, struct err *err)
{
        struct rpc_id id = {.kind = RPC_ID_NUMBER, .number = (int64_t)op->ticket};
        size_t n = 0;
        char *text = rpc_message_request(&id, op->method, json_incref(op->params), 0, &n);

        if (text == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a message");
        if (m->out_n + n + 1 > m->out_room) {
                size_t room = m->out_n + n + 4096;
                char *out = room <= OUT_MAX ? realloc(m->out, room) : NULL;
                if (out == NULL) {
                        free(text);
                        return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a message");
                }
                m->out = out;
                m->out_room = room;
        }
        memcpy(m->out + m->out_n, text, n);
        m->out[m->out_n + n] = '\n';
        m->out_n += n + 1;
        free(text);
        return 0;
}

int handle_start(struct mete *m, enum op_kind kind, const char *method, json_t *params, const char *id,
                 uint64_t *ret_ticket, struct err *err)
{
        struct op *op = NULL;
        int r = 0;

        const size_t end = kind == OP_WATCH ? ARRAY_N(m->ops) : METE_OPEN_MAX;
        for (size_t i = kind == OP_WATCH ? METE_OPEN_MAX : 0; i < end && op == NULL; i++)
                if (m->ops[i].ticket == 0)
                        op = &m->ops[i];
        if (params == NULL)
                r = err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a message");
        else if (op == NULL)
                r = err_set(err, REASON_BUSY, EBUSY, "%d answers are outstanding on this handle",
                            METE_OPEN_MAX);
        if (r < 0) {
                json_decref(params);
                return r;
        }
        *op = (struct op){.ticket = ++m->last_ticket, .kind = kind, .method = method, .params = params};
        (void)STR_COPY(op->id, id);
        if (m->fd >= 0)
                r = send_op(m, op, err);
        if (r < 0) {
                json_decref(op->params);
                op->ticket = 0;
                return r;
        }
        *ret_ticket = op->ticket;
        if (m->fd >= 0)
                (void)flush_out(m, err); /* being lost here is told by the next call and an event */
        return 0;
}

/* ---- receiving ---- */

static struct op *op_find(struct mete *m, const struct rpc_id *id)
{
        if (id->kind != RPC_ID_NUMBER || id->number <= 0)
                return NULL;
        for (size_t i = 0; i < ARRAY_N(m->ops); i++)
                if (m->ops[i].ticket == (uint64_t)id->number)
                        return &m->ops[i];
        return NULL;
}

static void op_end(struct op *op)
{
        json_decref(op->params);
        *op = (struct op){0};
}

void host_from(const struct api_app_host *from, struct mete_host *to)
{
        *to = (struct mete_host){.generation = (uint64_t)from->generation};
        (void)STR_COPY(to->xml, from->has_xml ? from->xml : "");
        (void)STR_COPY(to->json, from->has_json ? from->json : "");
}

/* A host that the program knows already makes no event. */
static int take_host(struct mete *m, const json_t *params, struct err *err)
{
        struct api_app_host host;

        if (api_app_host_parse(params, &host, err) < 0)
                return err_note(err, "what the agent says of the host");
        if (!m->is_watching || (uint64_t)host.generation == m->host_generation)
                return 0;
        struct note *n = note_new(METE_EVENT_HOST, 0, "");
        if (n == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a notice");
        host_from(&host, &n->host);
        n->event.host = &n->host;
        m->host_generation = n->host.generation;
        for (struct note **at = &m->notes; *at != NULL; at = &(*at)->next) {
                struct note *older = *at;
                if (older->event.kind != METE_EVENT_HOST)
                        continue;
                older->host = n->host; /* one that nobody took yet says the last of it */
                note_free(n);
                return 0;
        }
        note_add(m, n);
        return 0;
}

static int take_verdict(struct note *n, const json_t *result, struct err *err)
{
        struct api_verdict v;

        if (api_verdict_parse(result, &v, err) < 0)
                return err_note(err, "the agent's answer");
        n->event.kind = METE_EVENT_VERDICT;
        n->verdict = verdict_from(&v);
        n->event.verdict = n->verdict;
        return n->verdict != NULL ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the verdict");
}

static int on_answer(struct mete *m, struct rpc_message *msg, struct err *err)
{
        struct op *op = op_find(m, &msg->id);
        struct err why = {0};
        int r = 0;

        if (op == NULL && msg->id.kind != RPC_ID_NULL)
                return 0; /* late */
        if (op == NULL && (msg->error.reason == REASON_BUSY || msg->error.reason == REASON_DENIED))
                return err_set(err, msg->error.reason, msg->error.code, "the agent takes no connection: %s",
                               msg->error.sentence);
        if (op == NULL)
                return err_set(err, REASON_INTERNAL, EPROTO, "the agent could not read a message: %s",
                               msg->error.sentence);
        if (op->kind == OP_WATCH) { /* begun by ourselves; an agent that cannot is one that says nothing */
                op_end(op);
                return msg->kind == RPC_MESSAGE_RESULT ? take_host(m, msg->result, err) : 0;
        }
        struct note *n = note_new(METE_EVENT_DONE, op->ticket, op->id);
        if (n == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for an answer");
        if (msg->kind == RPC_MESSAGE_ERROR) {
                why = msg->error;
                r = -1;
        } else if (op->kind == OP_RAW) {
                n->raw = json_incref(msg->result);
        } else if (op->kind == OP_VERDICT) {
                r = take_verdict(n, msg->result, &why);
        }
        if (r < 0) {
                n->event.kind = METE_EVENT_FAILED;
                (void)error_copy(&n->event.error, &why);
        }
        op_end(op);
        note_add(m, n);
        return 0;
}

static int on_notification(struct mete *m, const struct rpc_message *msg, struct err *err)
{
        struct api_app_ended ended;
        struct err why = {0};

        if (strcmp(msg->method, "host-changed") == 0)
                return take_host(m, msg->params, err);
        if (strcmp(msg->method, "ended") != 0)
                return 0; /* of a later version */
        if (api_app_ended_parse(msg->params, &ended, err) < 0)
                return err_note(err, "a notice of the agent");
        struct note *n = note_new(METE_EVENT_ENDED, 0, ended.id);
        if (n == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a notice");
        (void)err_set(&why, ended.reason, rpc_reason_errno(ended.reason), "%s", ended.sentence);
        (void)error_copy(&n->event.error, &why);
        note_add(m, n);
        return 0;
}

static int on_line(struct mete *m, const char *text, size_t n, struct err *err)
{
        struct rpc_message msg;
        int r = 0;

        if (n == 0)
                return 0;
        rpc_message_parse(text, n, &msg);
        switch (msg.kind) {
        case RPC_MESSAGE_RESULT:
        case RPC_MESSAGE_ERROR:
                r = on_answer(m, &msg, err);
                break;
        case RPC_MESSAGE_NOTIFICATION:
                r = on_notification(m, &msg, err);
                break;
        case RPC_MESSAGE_REQUEST:
                break; /* this version answers none */
        case RPC_MESSAGE_BAD:
                r = err_set(err, REASON_INTERNAL, EPROTO, "the agent sent no message of ours: %s",
                            msg.error.sentence);
                break;
        }
        rpc_message_done(&msg);
        return r;
}

static int take_lines(struct mete *m, struct err *err)
{
        for (;;) {
                char *text;
                size_t n;
                int r = 0;
                switch (line_next(&m->in, &text, &n)) {
                case LINE_MORE:
                        return 0;
                case LINE_TOO_LONG:
                        r = err_set(err, REASON_INTERNAL, EMSGSIZE, "the agent sent too long a line");
                        break;
                case LINE_READY:
                        r = on_line(m, text, n, err);
                        break;
                }
                if (r < 0) {
                        handle_lose(m, err);
                        return -ENOTCONN;
                }
        }
}

static int receive(struct mete *m, struct err *err)
{
        for (;;) {
                size_t room;
                char *at = line_room(&m->in, &room);
                if (at == NULL)
                        return err_set(err, REASON_INTERNAL, ENOMEM, "no memory to read into");
                ssize_t n = recv(m->fd, at, room, MSG_DONTWAIT);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0) {
                        (void)err_set(err, REASON_PEER_LOST, ENOTCONN, "the agent is gone%s%s",
                                      n < 0 ? ": " : "", n < 0 ? strerror(errno) : "");
                        handle_lose(m, err);
                        return -ENOTCONN;
                }
                line_filled(&m->in, (size_t)n);
                int r = take_lines(m, err);
                if (r < 0)
                        return r;
        }
}

static int lost(const struct mete *m, struct err *err)
{
        return err_set(err, REASON_PEER_LOST, ENOTCONN, "%s; mete_reopen()", m->loss.sentence);
}

int handle_process(struct mete *m, struct err *err)
{
        if (m->fd < 0)
                return lost(m, err);
        int r = flush_out(m, err);
        return r < 0 ? r : receive(m, err);
}

/* ---- waiting ---- */

int handle_poll(struct mete *m, int timeout_ms, struct err *err)
{
        struct pollfd p = {.fd = m->fd, .events = POLLIN};

        if (m->fd < 0)
                return lost(m, err);
        if (m->out_sent < m->out_n)
                p.events |= POLLOUT;
        int r = poll(&p, 1, timeout_ms);
        if (r < 0 && errno != EINTR)
                return err_set(err, REASON_INTERNAL, errno, "poll: %s", strerror(errno));
        return r > 0 ? handle_process(m, err) : 0;
}

/* Losses that follow one another while somebody waits. */
struct losses {
        int64_t since_ms; /* when the first of them came; 0: none */
        int64_t wait_ms;
};

/* The agent is being started again, or it is gone for good; or somebody at its path takes connections and
 * drops them. So being connected proves nothing: only what has held for a while ends a run of losses. */
static int find_again(struct mete *m, struct losses *l, int64_t deadline_ms, struct err *err)
{
        int64_t now_ms = handle_mono_ms();

        *err = m->loss;
        if (l->since_ms == 0 || now_ms - m->connected_ms >= m->patience_ms)
                *l = (struct losses){.since_ms = now_ms};
        for (;; now_ms = handle_mono_ms()) {
                struct timespec t = {.tv_sec = l->wait_ms / 1000, .tv_nsec = l->wait_ms % 1000 * 1000000};
                if (now_ms + l->wait_ms > l->since_ms + m->patience_ms ||
                    (deadline_ms != 0 && now_ms + l->wait_ms > deadline_ms))
                        return -err->code;
                (void)nanosleep(&t, NULL);
                l->wait_ms = l->wait_ms == 0                   ? BACKOFF_FIRST_MS
                             : l->wait_ms * 2 < BACKOFF_MAX_MS ? l->wait_ms * 2
                                                               : BACKOFF_MAX_MS;
                if (handle_connect(m, err) == 0)
                        return 0;
        }
}

int handle_await(struct mete *m, uint64_t ticket, int64_t answer_ms, struct note **ret, struct err *err)
{
        int64_t deadline_ms = answer_ms > 0 ? handle_mono_ms() + answer_ms : 0;
        struct losses losses = {0};
        bool is_late = false;

        for (;;) {
                struct note *n = handle_take(m, ticket);
                int r;
                if (n != NULL) {
                        *ret = n;
                        return 0;
                }
                if (is_late) {
                        r = err_set(err, REASON_TIMEOUT, ETIMEDOUT, "%s: no answer in %lld ms", m->path,
                                    (long long)answer_ms);
                } else if (m->fd < 0) {
                        r = find_again(m, &losses, deadline_ms, err);
                } else {
                        int64_t left_ms = deadline_ms != 0 ? deadline_ms - handle_mono_ms() : -1;
                        is_late = deadline_ms != 0 && left_ms <= 0; /* what has come by now still counts */
                        r = handle_poll(m, is_late ? 0 : (int)left_ms, err);
                        /* Who turned us away, or speaks otherwise than we do, would do so again. */
                        if (r == -ENOTCONN && m->loss.reason == REASON_PEER_LOST)
                                r = 0;
                }
                if (r >= 0)
                        continue;
                struct op *op =
                        op_find(m, &(struct rpc_id){.kind = RPC_ID_NUMBER, .number = (int64_t)ticket});
                assert(op != NULL);
                op_end(op);
                return -err->code;
        }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The model: a connection goes GREETING -> NEGOTIATING -> READY -> LOST and never back.
 *
 * Invariants: fd >= 0 exactly until LOST; a call is in `calls` from qmp_execute() until its callback was
 * called, and has a timer for just as long; a call that cannot be sent is in `calls` too, with its error
 * set and a timer of 0 ms, so that the one way out is the same for all.
 * `depth` counts the entries from the loop and from the owner that are on the stack: the memory goes only
 * when it is 0, so that a callback may free the connection that is calling it. */
#include "vm/qmp.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib-unix.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "json/read.h"
#include "vm/pick.h"

enum qmp_state { QMP_GREETING = 1, QMP_NEGOTIATING, QMP_READY, QMP_LOST };

enum {
        GREETING_MS = 10000,
        READ_BYTES = 1 << 16, /* per turn, so that a VMM that floods cannot hold the loop */
        KEEP_BYTES = 1 << 16, /* an input buffer above this is given back when it is empty */
        COMMAND_NAME = 48,
        EVENT_NAME = 64,
};

struct call {
        struct qmp *q;
        GList link; /* in q->calls; link.data is this call */
        int64_t id;
        char command[COMMAND_NAME];
        struct err err; /* set from the start where it could not be sent */
        GSource *timer;
        qmp_done *done;
        void *arg;
};

struct qmp {
        struct qmp_options options;
        void *arg;
        GMainContext *context;
        enum qmp_state state;
        int fd;
        GSource *readable, *writable, *greeting_timer;
        struct qmp_version version;
        char *in;
        size_t in_n, in_size, in_scanned;
        GString *out;
        GQueue calls;
        int64_t next_id;
        unsigned stale; /* lines before the greeting */
        unsigned depth;
        bool doomed;
        int64_t event_us;
        struct qmp_counters counters;
};

static gboolean on_readable(gint fd, GIOCondition condition, gpointer data);
static gboolean on_writable(gint fd, GIOCondition condition, gpointer data);

static GSource *source_start(struct qmp *q, GSource *source, GSourceFunc fn, void *data)
{
        g_source_set_callback(source, fn, data, NULL);
        g_source_attach(source, q->context);
        return source;
}

static void source_stop(GSource **source)
{
        if (*source == NULL)
                return;
        g_source_destroy(*source);
        g_source_unref(*source);
        *source = NULL;
}

static void enter(struct qmp *q)
{
        q->depth++;
}

static void leave(struct qmp *q)
{
        if (--q->depth > 0 || !q->doomed)
                return;
        assert(g_queue_is_empty(&q->calls));
        g_string_free(q->out, TRUE);
        free(q->in);
        g_main_context_unref(q->context);
        free(q);
}

/* The one way out of a call. */
static void call_answer(struct call *c, const json_t *ret, const struct err *err)
{
        struct qmp *q = c->q;
        g_queue_unlink(&q->calls, &c->link);
        source_stop(&c->timer);
        if (c->done != NULL)
                c->done(c->arg, ret, err);
        free(c);
}

/* Only those made until now: a call that a callback adds is answered from the loop. */
static void calls_answer_all(struct qmp *q, const struct err *why)
{
        int64_t last_id = q->next_id;
        while (q->calls.head != NULL) {
                struct call *c = q->calls.head->data;
                if (c->id > last_id)
                        break;
                struct err err = c->err.reason != 0 ? c->err : *why;
                call_answer(c, NULL, &err);
        }
}

static void disconnect(struct qmp *q)
{
        q->state = QMP_LOST;
        source_stop(&q->readable);
        source_stop(&q->writable);
        source_stop(&q->greeting_timer);
        if (q->fd >= 0)
                close(q->fd);
        q->fd = -1;
        q->in_n = q->in_scanned = 0;
        g_string_truncate(q->out, 0);
}

static void lose(struct qmp *q, const struct err *why)
{
        if (q->state == QMP_LOST)
                return;
        disconnect(q);
        calls_answer_all(q, why);
        if (!q->doomed && q->options.on_lost != NULL)
                q->options.on_lost(q->arg, why);
}

static gboolean on_call_timer(gpointer data)
{
        struct call *c = data;
        struct qmp *q = c->q;
        enter(q);
        if (c->err.reason == 0)
                err_set(&c->err, REASON_TIMEOUT, ETIMEDOUT, "the VMM did not answer %s in time", c->command);
        struct err err = c->err;
        call_answer(c, NULL, &err);
        leave(q);
        return G_SOURCE_REMOVE;
}

static gboolean on_greeting_timer(gpointer data)
{
        struct qmp *q = data;
        struct err err = {0};
        enter(q);
        err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "the VMM's monitor was not ready in time");
        lose(q, &err);
        leave(q);
        return G_SOURCE_REMOVE;
}

/* Sends what it can. 0, or -errno where the connection is gone. */
static int flush(struct qmp *q)
{
        while (q->out->len > 0) {
                ssize_t n = send(q->fd, q->out->str, q->out->len, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
                        break;
                if (n < 0)
                        return -errno;
                g_string_erase(q->out, 0, n);
        }
        if (q->out->len == 0)
                source_stop(&q->writable);
        else if (q->writable == NULL)
                q->writable =
                        source_start(q, g_unix_fd_source_new(q->fd, G_IO_OUT), G_SOURCE_FUNC(on_writable), q);
        return 0;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer data)
{
        struct qmp *q = data;
        enter(q);
        int r = flush(q);
        if (r < 0) {
                struct err err = {0};
                err_set(&err, REASON_PEER_LOST, -r, "the VMM's monitor is gone: %s", strerror(-r));
                lose(q, &err);
        }
        bool more = q->writable != NULL;
        leave(q);
        return more ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

/* The first byte of a line, and the descriptor with it: the VMM takes one that came with the command, or
 * before. So nothing may wait to be sent that would come between. */
static int send_fd(struct qmp *q, const struct call *c, char byte, int fd, struct err *err)
{
        union {
                struct cmsghdr align;
                char room[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        struct msghdr m = {.msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control.room,
                           .msg_controllen = sizeof(control.room)};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        *h = (struct cmsghdr){
                .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(h), &fd, sizeof(fd));
        if (q->out->len > 0)
                return err_set(err, REASON_BUSY, EBUSY, "%s: the VMM does not read its monitor", c->command);
        ssize_t n;
        do
                n = sendmsg(q->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        int code = errno;
        if (n == 1)
                return 0;
        if (code == EAGAIN || code == EWOULDBLOCK)
                return err_set(err, REASON_BUSY, EBUSY, "%s: the VMM does not read its monitor", c->command);
        return err_set(err, REASON_PEER_LOST, code, "%s: the descriptor cannot be passed to the VMM: %s",
                       c->command, strerror(code));
}

static int send_call(struct qmp *q, struct call *c, bool oob, int fd, json_t *arguments, struct err *err)
{
        if (q->state == QMP_LOST)
                return err_set(err, REASON_PEER_LOST, ENOTCONN, "%s: the VMM's monitor is gone", c->command);
        if (q->state != QMP_READY && strcmp(c->command, "qmp_capabilities") != 0)
                return err_set(err, REASON_STALE, EAGAIN, "%s: the VMM's monitor is not ready yet",
                               c->command);
        if (oob && !q->options.oob)
                return err_set(err, REASON_UNSUPPORTED, ENOTSUP,
                               "%s: this monitor has no out-of-band execution", c->command);
        if (q->calls.length > QMP_CALLS_MAX)
                return err_set(err, REASON_BUSY, EBUSY, "%s: %d commands wait for the VMM already",
                               c->command, QMP_CALLS_MAX);
        json_t *message =
                json_pack("{s:s, s:I}", oob ? "exec-oob" : "execute", c->command, "id", (json_int_t)c->id);
        if (message != NULL && arguments != NULL && json_object_set(message, "arguments", arguments) < 0) {
                json_decref(message);
                message = NULL;
        }
        size_t n = 0;
        char *line = message != NULL ? json_write(message, &n) : NULL;
        json_decref(message);
        if (line == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "%s: cannot be written down", c->command);
        int r = 0;
        if (q->out->len + n + 1 > QMP_QUEUE_MAX) {
                r = err_set(err, REASON_BUSY, EBUSY, "%s: the VMM does not read its monitor", c->command);
        } else {
                if (q->options.on_line != NULL)
                        q->options.on_line(q->arg, true, line, n);
                bool has_fd = fd >= 0;
                if (has_fd && (r = send_fd(q, c, line[0], fd, err)) < 0) {
                        free(line);
                        return r;
                }
                g_string_append_len(q->out, line + has_fd, (gssize)(n - has_fd));
                g_string_append_c(q->out, '\n');
                r = flush(q);
                if (r < 0)
                        err_set(err, REASON_PEER_LOST, -r, "%s: the VMM's monitor is gone: %s", c->command,
                                strerror(-r));
        }
        free(line);
        return r;
}

static void execute(struct qmp *q, const char *command, bool oob, int fd, json_t *arguments, int timeout_ms,
                    qmp_done *done, void *arg)
{
        assert(timeout_ms > 0);
        struct call *c = calloc(1, sizeof(*c));
        assert(c != NULL);
        c->q = q;
        c->link.data = c;
        c->id = ++q->next_id;
        c->done = done;
        c->arg = arg;
        bool fits = STR_COPY(c->command, command);
        assert(fits);
        g_queue_push_tail_link(&q->calls, &c->link);
        int r = send_call(q, c, oob, fd, arguments, &c->err);
        json_decref(arguments);
        if (fd >= 0)
                close(fd);
        c->timer = source_start(q, g_timeout_source_new(r < 0 ? 0 : timeout_ms), on_call_timer, c);
}

void qmp_execute(struct qmp *q, const char *command, json_t *arguments, int timeout_ms, qmp_done *done,
                 void *arg)
{
        execute(q, command, false, -1, arguments, timeout_ms, done, arg);
}

void qmp_execute_fd(struct qmp *q, const char *command, json_t *arguments, int fd, int timeout_ms,
                    qmp_done *done, void *arg)
{
        execute(q, command, false, fd, arguments, timeout_ms, done, arg);
}

void qmp_execute_oob(struct qmp *q, const char *command, json_t *arguments, int timeout_ms, qmp_done *done,
                     void *arg)
{
        execute(q, command, true, -1, arguments, timeout_ms, done, arg);
}

static void on_negotiated(void *arg, const json_t *ret, const struct err *err)
{
        struct qmp *q = arg;
        if (q->state != QMP_NEGOTIATING)
                return;
        if (err != NULL) {
                struct err why = *err;
                err_note(&why, "the VMM's monitor");
                lose(q, &why);
                return;
        }
        q->state = QMP_READY;
        source_stop(&q->greeting_timer);
        if (q->options.on_ready != NULL)
                q->options.on_ready(q->arg, &q->version);
}

static bool has_capability(const json_t *list, const char *name)
{
        size_t i;
        json_t *v;
        json_array_foreach(list, i, v)
        {
                const char *s = json_string_value(v);
                if (s != NULL && strcmp(s, name) == 0)
                        return true;
        }
        return false;
}

static void on_greeting(struct qmp *q, const json_t *message)
{
        const json_t *qmp = json_object_get(message, "QMP");
        const json_t *version = json_object_get(qmp, "version");
        const json_t *numbers = json_object_get(version, "qemu");
        int64_t major, minor, micro;
        struct err err = {0};
        if (!pick_integer(numbers, "major", 0, 999, &major) ||
            !pick_integer(numbers, "minor", 0, 999, &minor) ||
            !pick_integer(numbers, "micro", 0, 999, &micro)) {
                /* A monitor keeps what the client before us did not read, and sends that first. */
                q->counters.unexpected++;
                if (++q->stale > QMP_STALE_MAX) {
                        err_set(&err, REASON_INCOMPATIBLE, EPROTO, "the VMM's monitor does not greet");
                        lose(q, &err);
                }
                return;
        }
        q->version = (struct qmp_version){.major = major, .minor = minor, .micro = micro};
        pick_words(version, "package", q->version.package, sizeof(q->version.package));
        json_t *arguments = NULL;
        if (q->options.oob) {
                if (!has_capability(json_object_get(qmp, "capabilities"), "oob")) {
                        err_set(&err, REASON_INCOMPATIBLE, ENOTSUP,
                                "the VMM's monitor has no out-of-band execution");
                        lose(q, &err);
                        return;
                }
                arguments = json_pack("{s:[s]}", "enable", "oob");
        }
        q->state = QMP_NEGOTIATING;
        int timeout_ms = q->options.greeting_ms > 0 ? q->options.greeting_ms : GREETING_MS;
        qmp_execute(q, "qmp_capabilities", arguments, timeout_ms, on_negotiated, q);
}

static int64_t stamp_us(const struct qmp *q, const json_t *message)
{
        const json_t *stamp = json_object_get(message, "timestamp");
        int64_t now = g_get_monotonic_time(), s, us;
        if (!pick_integer(stamp, "seconds", 0, INT64_C(100000000000), &s) ||
            !pick_integer(stamp, "microseconds", 0, 999999, &us))
                return now;
        int64_t at = clock_mono_of_real_us(s * G_USEC_PER_SEC + us);
        return at > now ? now : at < q->event_us ? q->event_us : at;
}

int64_t qmp_event_us(const struct qmp *q)
{
        return q->event_us;
}

static void on_event(struct qmp *q, const json_t *message)
{
        char name[EVENT_NAME];
        if (!pick_string(message, "event", name, sizeof(name))) {
                q->counters.unreadable++;
                return;
        }
        q->counters.events++;
        q->event_us = stamp_us(q, message);
        if (q->state == QMP_READY && q->options.on_event != NULL)
                q->options.on_event(q->arg, name, json_object_get(message, "data"));
}

/* The VMM's classes of error, as reasons of ours. */
static const struct {
        const char *name;
        enum reason reason;
} class_rows[] = {
        {"CommandNotFound", REASON_UNSUPPORTED},
        {"DeviceNotFound",  REASON_NOT_FOUND  },
        {"DeviceNotActive", REASON_STALE      },
        {"KVMMissingCap",   REASON_UNSUPPORTED},
};

static void read_error(const struct call *c, const json_t *error, struct err *err)
{
        char words[160] = "no reason given";
        enum reason reason = REASON_INTERNAL;
        const char *class_name = pick_text(error, "class");
        for (size_t i = 0; i < ARRAY_N(class_rows); i++)
                if (strcmp(class_name, class_rows[i].name) == 0)
                        reason = class_rows[i].reason;
        pick_words(error, "desc", words, sizeof(words));
        err_set(err, reason, EIO, "the VMM refused %s: %s", c->command, words);
}

static void on_reply(struct qmp *q, const json_t *message)
{
        int64_t id;
        const json_t *ret = json_object_get(message, "return"), *error = json_object_get(message, "error");
        if ((ret == NULL) == (error == NULL) || !pick_integer(message, "id", 1, INT64_MAX, &id)) {
                q->counters.unexpected++;
                return;
        }
        for (GList *l = q->calls.head; l != NULL; l = l->next) {
                struct call *c = l->data;
                if (c->id != id || c->err.reason != 0)
                        continue;
                q->counters.replies++;
                struct err err = {0};
                if (error != NULL)
                        read_error(c, error, &err);
                call_answer(c, ret, error != NULL ? &err : NULL);
                return;
        }
        if (id <= q->next_id)
                q->counters.late++;
        else
                q->counters.unexpected++;
}

static void on_line(struct qmp *q, const char *line, size_t n)
{
        while (n > 0 && (line[n - 1] == '\r' || line[n - 1] == ' '))
                n--;
        if (n == 0)
                return;
        if (q->options.on_line != NULL)
                q->options.on_line(q->arg, false, line, n);
        json_t *message = json_read(line, n, NULL);
        if (!json_is_object(message))
                q->counters.unreadable++;
        if (q->state == QMP_GREETING)
                on_greeting(q, message);
        else if (json_object_get(message, "event") != NULL)
                on_event(q, message);
        else if (json_is_object(message))
                on_reply(q, message);
        json_decref(message);
}

/* Hands out the whole lines of the buffer. */
static void split(struct qmp *q)
{
        size_t start = 0;
        while (q->state != QMP_LOST && !q->doomed) {
                char *newline = memchr(q->in + q->in_scanned, '\n', q->in_n - q->in_scanned);
                if (newline == NULL)
                        break;
                size_t end = newline - q->in;
                on_line(q, q->in + start, end - start);
                start = end + 1;
                q->in_scanned = start;
        }
        if (q->state == QMP_LOST || q->doomed)
                return;
        memmove(q->in, q->in + start, q->in_n - start);
        q->in_n -= start;
        q->in_scanned = q->in_n;
        if (q->in_n == 0 && q->in_size > KEEP_BYTES) {
                free(q->in);
                q->in = NULL;
                q->in_size = 0;
        }
}

/* Room for one more read; the limit and one byte for the newline. */
static int make_room(struct qmp *q, struct err *err)
{
        if (q->in_n > QMP_LINE_MAX)
                return err_set(err, REASON_INCOMPATIBLE, EMSGSIZE, "the VMM sent a line above %d bytes",
                               QMP_LINE_MAX);
        if (q->in_size - q->in_n >= READ_BYTES / 4)
                return 0;
        size_t size = q->in_size == 0 ? READ_BYTES : q->in_size * 2;
        char *in = realloc(q->in, size);
        if (in == NULL)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for what the VMM says");
        q->in = in;
        q->in_size = size;
        return 0;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer data)
{
        struct qmp *q = data;
        struct err err = {0};
        enter(q);
        if (make_room(q, &err) < 0) {
                lose(q, &err);
        } else {
                size_t room = q->in_size - q->in_n;
                ssize_t n = recv(q->fd, q->in + q->in_n, room < READ_BYTES ? room : READ_BYTES, MSG_DONTWAIT);
                if (n > 0) {
                        q->in_n += n;
                        split(q);
                } else if (n == 0) {
                        err_set(&err, REASON_PEER_LOST, ECONNRESET, "the VMM closed its monitor");
                        lose(q, &err);
                } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                        int code = errno;
                        err_set(&err, REASON_PEER_LOST, code, "the VMM's monitor is gone: %s",
                                strerror(code));
                        lose(q, &err);
                }
        }
        bool more = q->readable != NULL;
        leave(q);
        return more ? G_SOURCE_CONTINUE : G_SOURCE_REMOVE;
}

struct qmp *qmp_new(int fd, const struct qmp_options *options, void *arg)
{
        struct qmp *q = calloc(1, sizeof(*q));
        int flags = fcntl(fd, F_GETFL);
        if (q == NULL || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
                free(q);
                close(fd);
                return NULL;
        }
        q->options = *options;
        q->arg = arg;
        q->context = g_main_context_ref_thread_default();
        q->state = QMP_GREETING;
        q->fd = fd;
        q->out = g_string_new(NULL);
        g_queue_init(&q->calls);
        q->readable = source_start(q, g_unix_fd_source_new(fd, G_IO_IN | G_IO_HUP | G_IO_ERR),
                                   G_SOURCE_FUNC(on_readable), q);
        int timeout_ms = options->greeting_ms > 0 ? options->greeting_ms : GREETING_MS;
        q->greeting_timer = source_start(q, g_timeout_source_new(timeout_ms), on_greeting_timer, q);
        return q;
}

void qmp_free(struct qmp *q)
{
        if (q == NULL || q->doomed)
                return;
        struct err err = {0};
        enter(q);
        q->doomed = true;
        disconnect(q);
        err_set(&err, REASON_CANCELLED, ECANCELED, "the connection to the VMM was given up");
        /* Also those that a callback still adds: nothing may be left. */
        while (!g_queue_is_empty(&q->calls))
                calls_answer_all(q, &err);
        leave(q);
}

bool qmp_is_ready(const struct qmp *q)
{
        return q->state == QMP_READY;
}

const struct qmp_counters *qmp_counters(const struct qmp *q)
{
        return &q->counters;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and requests of the server; http-internal.h has the model, http-stream.c the streams of events.
 */
#include "wire/http-internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "wire/tcp.h"

enum {
        ACCEPT_PER_TURN = 64,
        ACCEPT_TLS_PER_TURN = 8,
        ACCEPT_PAUSE_MS = 100,
        RUNS_PER_TURN = 4,
        SWALLOW_FACTOR = 16, /* so many times body_max_bytes of a too large body are read before the 413 */
        MHD_OVERHEAD = 4096, /* what MHD itself puts into the memory of a connection */
        HANDSHAKES_BURST = 100,
        HANDSHAKE_PAUSE_MS = 20,
};

static void server_destroy(struct http_server *s);

struct request *http_request_of(const struct http_request *pub)
{
        return (struct request *)(uintptr_t)pub;
}

/* ---- running MHD ---- */

/* libmicrohttpd 0.9.75 takes a connection whose handshake waits for the rest of a record for one that is
 * ready, and would be run again and again: anybody could have this thread spin with one byte. What is really
 * ready comes from epoll; a pause costs only those who have sent more than one record meanwhile. */
static int64_t pause_ms(const struct http_server *s)
{
        for (const struct conn *c = s->conns.next; s->is_tls && c != &s->conns; c = c->next)
                if (!c->is_read)
                        return HANDSHAKE_PAUSE_MS;
        return 0;
}

static void run(struct http_server *s)
{
        MHD_UNSIGNED_LONG_LONG wait_ms = 1;
        assert(!s->is_running);
        s->is_running = true;
        for (int i = 0; i < RUNS_PER_TURN; i++) {
                if (MHD_run(s->mhd) != MHD_YES)
                        log_error("http: MHD_run failed");
                if (MHD_get_timeout(s->mhd, &wait_ms) != MHD_YES || wait_ms > 0)
                        break;
                wait_ms = 0;
        }
        s->is_running = false;
        if (s->is_freed)
                server_destroy(s);
        else if (wait_ms == 0)
                loop_timer_in(&s->again, pause_ms(s)); /* the others first */
}

static void on_epoll(void *arg, uint32_t events)
{
        run(arg);
}

static void on_again(void *arg)
{
        run(arg);
}

/* Its connection goes on in the send phase of this turn. */
void http_wake(struct request *req)
{
        struct http_server *s = req->server;
        if (!req->is_suspended || req->is_ready || s->is_stopping)
                return;
        req->is_ready = true;
        req->next_ready = s->ready;
        s->ready = req;
        loop_turn_request(&s->send);
}

static void on_send(void *arg)
{
        struct http_server *s = arg;
        while (s->ready) {
                struct request *req = s->ready;
                s->ready = req->next_ready;
                req->is_ready = req->is_suspended = false;
                MHD_resume_connection(req->mhd);
        }
        run(s);
}

void http_suspend(struct request *req)
{
        req->is_suspended = true;
        MHD_suspend_connection(req->mhd);
}

/* ---- connections ---- */

static void on_deadline(void *arg)
{
        struct conn *c = arg;
        c->server->counters.timeouts++;
        (void)shutdown(c->fd, SHUT_RDWR);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
        struct http_server *s = cls;
        if (what == MHD_CONNECTION_NOTIFY_STARTED) {
                *context = s->accepting;
                s->accepting = NULL;
                return;
        }
        struct conn *c = *context;
        if (!c)
                return;
        loop_timer_cancel(&c->deadline);
        c->prev->next = c->next;
        c->next->prev = c->prev;
        s->counters.connections_now--;
        g_free(c);
}

static bool has_room(const struct http_server *s, uid_t uid)
{
        unsigned n = 0;
        if (s->counters.connections_now >= s->limits.connections_max)
                return false;
        for (const struct conn *c = s->conns.next; c != &s->conns; c = c->next)
                n += c->peer.uid == uid;
        return n < s->limits.connections_per_uid;
}

/* Who has not said who it is gives way, the oldest first: of the same address where that has enough. So those
 * who connect and say nothing keep nobody out. */
static bool has_room_tls(struct http_server *s, const struct in6_addr *from)
{
        unsigned n = 0, n_same = 0;
        struct conn *oldest = NULL, *oldest_same = NULL;
        for (struct conn *c = s->conns.next; c != &s->conns; c = c->next) {
                bool is_same = memcmp(&c->from, from, sizeof(*from)) == 0, is_nobody = c->caller.id.role == 0;
                if (c->is_displaced)
                        continue;
                n++;
                n_same += is_same;
                if (!oldest && is_nobody)
                        oldest = c;
                if (!oldest_same && is_nobody && is_same)
                        oldest_same = c;
        }
        bool is_full_same = n_same >= s->limits.connections_per_uid;
        if (!is_full_same && n < s->limits.connections_max)
                return true;
        struct conn *out = is_full_same ? oldest_same : oldest;
        if (!out)
                return false;
        out->is_displaced = true;
        s->counters.displaced++;
        (void)shutdown(out->fd, SHUT_RDWR);
        return true;
}

static void turn_away(struct http_server *s, int fd)
{
        static const char answer[] =
                "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
                "Content-Length: 78\r\nConnection: close\r\nRetry-After: 1\r\n\r\n"
                "{\"code\":503,\"reason\":\"busy\",\"message\":\"too many connections; try again "
                "soon\"}\n";
        s->counters.refused_connections++;
        if (!s->is_tls)
                (void)!send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)close(fd);
}

static void admit(struct http_server *s, int fd, const struct in6_addr *from)
{
        static const struct sockaddr_un nobody = {.sun_family = AF_UNIX};
        struct unix_peer peer = {.uid = (uid_t)-1, .gid = (gid_t)-1};
        struct in6_addr address = s->is_tls ? gate_address(from) : (struct in6_addr)IN6ADDR_ANY_INIT;
        if (s->is_tls ? !gate_enter(&s->gate, from, loop_mono_ms()) || !has_room_tls(s, &address)
                      : unix_peer_get(fd, &peer, NULL) < 0 || !has_room(s, peer.uid)) {
                turn_away(s, fd);
                return;
        }
        struct conn *c = g_new0(struct conn, 1);
        *c = (struct conn){.server = s,
                           .peer = peer,
                           .from = address,
                           .whence = *from,
                           .fd = fd,
                           .next = &s->conns,
                           .prev = s->conns.prev};
        c->prev->next = c->next->prev = c;
        loop_timer_init(&c->deadline, on_deadline, c);
        loop_timer_in(&c->deadline, s->limits.idle_ms);
        s->counters.connections++;
        s->counters.connections_now++;
        s->accepting = c;
        /* On failure MHD has closed fd; whether it got as far as telling on_connection() shows in
         * `accepting`. */
        const struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = *from};
        if (s->is_tls)
                (void)MHD_add_connection(s->mhd, fd, (const struct sockaddr *)&at, sizeof(at));
        else
                (void)MHD_add_connection(s->mhd, fd, (const struct sockaddr *)&nobody, sizeof(nobody));
        if (s->accepting) {
                s->counters.refused_connections++;
                void *context = c;
                s->accepting = NULL;
                on_connection(s, NULL, &context, MHD_CONNECTION_NOTIFY_CLOSED);
        }
}

static void look_away(struct http_server *s, int64_t ms)
{
        (void)loop_fd_set(&s->listener, 0, NULL);
        loop_timer_in(&s->accept_again, ms);
}

static void on_listener(void *arg, uint32_t events)
{
        struct http_server *s = arg;
        struct in6_addr from = IN6ADDR_ANY_INIT;
        struct err why;
        for (int i = 0; i < (s->is_tls ? ACCEPT_TLS_PER_TURN : ACCEPT_PER_TURN); i++) {
                int64_t wait_ms = s->is_tls ? gate_wait_ms(&s->gate, loop_mono_ms()) : 0;
                if (wait_ms > 0) {
                        look_away(s, wait_ms);
                        break;
                }
                int fd = s->is_tls ? tcp_accept(s->listener.fd, &from, &why)
                                   : unix_accept(s->listener.fd, &why);
                if (fd == -EAGAIN)
                        break;
                if (fd < 0) {
                        /* Out of descriptors, and it stays readable. */
                        log_warn("http: %s", why.sentence);
                        look_away(s, ACCEPT_PAUSE_MS);
                        break;
                }
                admit(s, fd, &from);
        }
        run(s);
}

static void on_accept_again(void *arg)
{
        struct http_server *s = arg;
        (void)loop_fd_set(&s->listener, EPOLLIN, NULL);
}

/* ---- requests ---- */

static void request_free(struct request *req)
{
        for (unsigned i = 0; i < req->n_headers; i++) {
                g_free(req->header[i].name);
                g_free(req->header[i].value);
        }
        if (req->response)
                MHD_destroy_response(req->response);
        if (req->body)
                g_string_free(req->body, TRUE);
        g_free(req->target);
        g_free(req);
}

void http_set_response(struct request *req, unsigned status, struct MHD_Response *response)
{
        assert(req->state == HANDLING);
        req->status = status;
        req->response = response;
        req->state = ANSWERED;
        for (unsigned i = 0; i < req->n_headers && response; i++)
                (void)MHD_add_response_header(response, req->header[i].name, req->header[i].value);
        http_wake(req);
}

static enum MHD_Result queue(struct request *req)
{
        loop_timer_in(&req->conn->deadline, req->server->limits.idle_ms);
        if (req->stream)
                loop_timer_cancel(&req->conn->deadline); /* its beat takes over */
        else
                req->server->counters.replies++;
        return req->response ? MHD_queue_response(req->mhd, req->status, req->response) : MHD_NO;
}

static enum MHD_Result refuse(struct request *req, unsigned status, const char *json)
{
        req->state = HANDLING;
        http_reply_text(&req->pub, status, "application/json", json);
        return queue(req);
}

static enum MHD_Result refuse_too_large(struct request *req)
{
        char text[200];
        req->server->counters.too_large++;
        (void)g_snprintf(
                text, sizeof(text),
                "{\"code\":413,\"reason\":\"invalid\",\"message\":\"the body is too large, at most %zu bytes "
                "are read\"}\n",
                req->server->limits.body_max_bytes);
        return refuse(req, 413, text);
}

static void *on_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
        struct http_server *s = cls;
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        struct request *req = g_new0(struct request, 1);
        req->server = s;
        req->conn = info->socket_context;
        req->conn->req = req;
        req->mhd = mhd;
        req->state = READING;
        req->target = g_strdup(target);
        char *query = strchr(req->target, '?');
        if (query)
                *query++ = '\0';
        req->pub = (struct http_request){.path = req->target,
                                         .query = query ? query : "",
                                         .body = "",
                                         .peer = req->conn->peer,
                                         .method = req->method};
        return req;
}

static enum MHD_Result on_start(struct request *req, const char *method)
{
        req->is_started = true;
        (void)g_strlcpy(req->method, method, sizeof(req->method));
        if (strlen(method) >= sizeof(req->method))
                return refuse(req, 501,
                              "{\"code\":501,\"reason\":\"unsupported\",\"message\":\"unknown method\"}\n");
        if (req->target[0] != '/' || strchr(req->target, '#'))
                return refuse(
                        req, 400,
                        "{\"code\":400,\"reason\":\"invalid\",\"message\":\"the target must be a path\"}\n");
        const char *length =
                MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
        if (length && g_ascii_strtoull(length, NULL, 10) > req->server->limits.body_max_bytes)
                return refuse_too_large(req);
        return MHD_YES;
}

static enum MHD_Result on_part(struct request *req, const char *data, size_t n)
{
        size_t max = req->server->limits.body_max_bytes;
        if (!req->swallowed && !req->body)
                req->body = g_string_sized_new(n);
        if (req->swallowed || req->body->len + n > max) {
                /* MHD takes no answer in the middle of a body: read it out, but not for ever. */
                req->swallowed += n;
                return req->swallowed <= SWALLOW_FACTOR * max ? MHD_YES : MHD_NO;
        }
        g_string_append_len(req->body, data, (gssize)n);
        return MHD_YES;
}

/* Once a connection; its time may end while it is open. */
static void identify(struct request *req)
{
        struct conn *c = req->conn;
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(req->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
        if (!c->is_read)
                http_caller_read(info->tls_session, &c->caller);
        c->is_read = true;
        (void)http_caller_is_known(&c->caller, loop_now_ms());
        req->pub.caller = &c->caller;
        req->pub.from = c->whence;
}

static enum MHD_Result on_complete(struct request *req)
{
        struct http_server *s = req->server;
        if (req->swallowed)
                return refuse_too_large(req);
        if (req->body) {
                req->pub.body = req->body->str;
                req->pub.body_n = req->body->len;
        }
        if (s->is_tls)
                identify(req);
        s->counters.requests++;
        loop_timer_cancel(&req->conn->deadline);
        req->state = HANDLING;
        s->handler(s->arg, &req->pub);
        if (req->state == ANSWERED)
                return queue(req);
        http_suspend(req);
        return MHD_YES;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                                 const char *version, const char *data, size_t *n, void **con_cls)
{
        struct http_server *s = cls;
        struct request *req = *con_cls;
        if (!req || s->is_stopping || s->is_freed)
                return MHD_NO;
        if (!req->is_started)
                return on_start(req, method);
        if (req->state == ANSWERED)
                return queue(req);
        assert(req->state == READING);
        if (*n > 0) {
                size_t got = *n;
                *n = 0;
                return on_part(req, data, got);
        }
        return on_complete(req);
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                         enum MHD_RequestTerminationCode how)
{
        struct http_server *s = cls;
        struct request *req = *con_cls;
        if (!req)
                return;
        *con_cls = NULL;
        assert(!req->is_ready);
        if (!s->is_stopping)
                loop_timer_in(&req->conn->deadline, s->limits.idle_ms);
        if (req->stream)
                http_stream_close(req->stream);
        req->conn->req = NULL;
        req->conn = NULL;
        req->mhd = NULL;
        if (req->state == HANDLING)
                req->state = ORPHAN;
        else
                request_free(req);
}

const char *http_request_header(const struct http_request *pub, const char *name)
{
        const struct request *req = http_request_of(pub);
        return req->mhd ? MHD_lookup_connection_value(req->mhd, MHD_HEADER_KIND, name) : NULL;
}

bool http_reply_header(struct http_request *pub, const char *name, const char *value)
{
        struct request *req = http_request_of(pub);
        if (req->n_headers == G_N_ELEMENTS(req->header) || strpbrk(name, "\r\n: ") || strpbrk(value, "\r\n"))
                return false;
        req->header[req->n_headers].name = g_strdup(name);
        req->header[req->n_headers++].value = g_strdup(value);
        return true;
}

void http_reply(struct http_request *pub, unsigned status, const char *content_type, char *body, size_t n)
{
        struct request *req = http_request_of(pub);
        if (req->state == ORPHAN) {
                free(body);
                request_free(req);
                return;
        }
        struct MHD_Response *response =
                body ? MHD_create_response_from_buffer(n, body, MHD_RESPMEM_MUST_FREE)
                     : MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
        if (!response)
                free(body);
        else if (content_type)
                (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
        http_set_response(req, status, response);
}

void http_reply_text(struct http_request *pub, unsigned status, const char *content_type, const char *text)
{
        char *copy = strdup(text);
        http_reply(pub, status, content_type, copy, copy ? strlen(copy) : 0);
}

/* ---- the server ---- */

static void defaults(struct http_limits *l, bool is_tls)
{
        if (!l->connections_max)
                l->connections_max = is_tls ? 128 : 512;
        if (!l->connections_per_uid)
                l->connections_per_uid = is_tls ? 32 : 128;
        if (!l->handshakes_per_s)
                l->handshakes_per_s = 50;
        if (!l->handshakes_all_per_s)
                l->handshakes_all_per_s = 150;
        if (!l->body_max_bytes)
                l->body_max_bytes = 65536;
        if (!l->header_max_bytes)
                l->header_max_bytes = 16384;
        if (!l->idle_ms)
                l->idle_ms = is_tls ? 10000 : 30000;
        if (!l->streams_max)
                l->streams_max = 64;
        if (!l->stream_queue_max_bytes)
                l->stream_queue_max_bytes = 1 << 20;
        if (!l->heartbeat_ms)
                l->heartbeat_ms = 15000;
}

static __attribute__((format(printf, 2, 0))) void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
        char text[512];
        (void)g_vsnprintf(text, sizeof(text), fmt, ap);
        log_debug("http: %s", text);
}

/* Texts of the three files; MHD is done with them when it has started. */
struct pem {
        char *cert, *key, *ca;
};

static struct MHD_Daemon *start(struct http_server *s, const struct pem *pem)
{
        struct MHD_OptionItem tls[] = {
                {MHD_OPTION_HTTPS_MEM_CERT,   0, pem ? pem->cert : NULL                },
                {MHD_OPTION_HTTPS_MEM_KEY,    0, pem ? pem->key : NULL                 },
                {MHD_OPTION_HTTPS_MEM_TRUST,  0, pem ? pem->ca : NULL                  }, /* it asks for a certificate, too */
                {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)HTTP_TLS_PRIORITIES},
                {MHD_OPTION_END,              0, NULL                                  },
        };
        struct MHD_OptionItem options[] = {
                {MHD_OPTION_EXTERNAL_LOGGER,              (intptr_t)on_mhd_log,                                            NULL            },
                {MHD_OPTION_CONNECTION_LIMIT,             (intptr_t)(s->limits.connections_max + 1 + ACCEPT_TLS_PER_TURN),
                 NULL                                                                                                                      },
                {MHD_OPTION_CONNECTION_MEMORY_LIMIT,      (intptr_t)(s->limits.header_max_bytes + MHD_OVERHEAD),
                 NULL                                                                                                                      },
                {MHD_OPTION_STRICT_FOR_CLIENT,            1,                                                               NULL            },
                {MHD_OPTION_SIGPIPE_HANDLED_BY_APP,       1,                                                               NULL            },
                {MHD_OPTION_NOTIFY_COMPLETED,             (intptr_t)on_completed,                                          s               },
                {MHD_OPTION_NOTIFY_CONNECTION,            (intptr_t)on_connection,                                         s               },
                {MHD_OPTION_URI_LOG_CALLBACK,             (intptr_t)on_target,                                             s               },
                {pem ? MHD_OPTION_ARRAY : MHD_OPTION_END, 0,                                                               pem ? tls : NULL},
                {MHD_OPTION_END,                          0,                                                               NULL            },
        };
        return MHD_start_daemon((pem ? MHD_USE_TLS : 0) | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME |
                                        MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG,
                                0, NULL, NULL, on_access, s, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
}

static struct http_server *make(int listen_fd, const struct pem *pem, const struct http_limits *limits,
                                http_handler_fn *handler, void *arg, struct err *err)
{
        struct http_server *s = g_new0(struct http_server, 1);
        s->limits = *limits;
        s->is_tls = pem != NULL;
        s->handler = handler;
        s->arg = arg;
        s->conns.next = s->conns.prev = &s->conns;
        defaults(&s->limits, s->is_tls);
        gate_init(&s->gate, s->limits.handshakes_per_s, 2 * s->limits.handshakes_per_s,
                  s->limits.handshakes_all_per_s, HANDSHAKES_BURST, loop_mono_ms());
        loop_turn_init(&s->send, LOOP_SEND, on_send, s);
        loop_timer_init(&s->again, on_again, s);
        loop_timer_init(&s->accept_again, on_accept_again, s);
        (void)signal(SIGPIPE, SIG_IGN);
        s->mhd = start(s, pem);
        if (!s->mhd) {
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "cannot start the HTTP server%s",
                              pem ? ": libmicrohttpd refuses the certificate, or has no TLS" : "");
                g_free(s);
                return NULL;
        }
        const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->mhd, MHD_DAEMON_INFO_EPOLL_FD);
        if (loop_fd_add(&s->epoll, info->epoll_fd, EPOLLIN, on_epoll, s, err) < 0 ||
            loop_fd_add(&s->listener, listen_fd, EPOLLIN, on_listener, s, err) < 0) {
                loop_fd_remove(&s->epoll);
                MHD_stop_daemon(s->mhd);
                g_free(s);
                return NULL;
        }
        return s;
}

struct http_server *http_server_new(int listen_fd, const struct http_limits *limits, http_handler_fn *handler,
                                    void *arg, struct err *err)
{
        return make(listen_fd, NULL, limits, handler, arg, err);
}

struct http_server *http_server_new_tls(int listen_fd, const struct cert_files *files,
                                        const struct http_limits *limits, http_handler_fn *handler, void *arg,
                                        struct err *err)
{
        struct cert_id id;
        struct pem pem = {0};
        size_t n = 0, key_n = 0;
        struct http_server *s = NULL;
        if (cert_files_check(files, 0, &id, err) == 0 && (pem.cert = cert_file_read(files->cert, &n, err)) &&
            (pem.key = cert_file_read(files->key, &key_n, err)) &&
            (pem.ca = cert_file_read(files->ca, &n, err)))
                s = make(listen_fd, &pem, limits, handler, arg, err);
        if (pem.key)
                explicit_bzero(pem.key, key_n);
        free(pem.cert);
        free(pem.key);
        free(pem.ca);
        return s;
}

static void server_destroy(struct http_server *s)
{
        s->is_stopping = true;
        loop_timer_cancel(&s->again);
        loop_timer_cancel(&s->accept_again);
        loop_turn_cancel(&s->send);
        loop_fd_remove(&s->epoll);
        int listen_fd = s->listener.fd;
        loop_fd_remove(&s->listener);
        (void)close(listen_fd);
        s->ready = NULL;
        for (struct conn *c = s->conns.next; c != &s->conns; c = c->next) {
                if (!c->req)
                        continue;
                c->req->is_ready = false;
                if (c->req->is_suspended) /* MHD refuses to stop otherwise */
                        MHD_resume_connection(c->req->mhd);
                c->req->is_suspended = false;
        }
        MHD_stop_daemon(s->mhd);
        g_free(s);
}

void http_server_free(struct http_server *s)
{
        if (!s || s->is_freed)
                return;
        s->is_freed = true;
        if (!s->is_running)
                server_destroy(s);
}

const struct http_counters *http_server_counters(const struct http_server *s)
{
        return &s->counters;
}

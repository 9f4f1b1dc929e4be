/* SPDX-License-Identifier: Apache-2.0 */
/* libcurl's multi interface: curl says which descriptors it waits for and until when, we tell it what
 * happened. It must not be called from within its own callbacks, so these only note things; what a call has
 * come to is looked at after curl has returned. */
#include "wire/http-call.h"

#include <assert.h>
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/str.h"
#include "loop/loop.h"
#include "wire/unix.h"
#include "wire/http-curl.h"

enum { HOST_CONNECTIONS_MAX = 4 };

struct watched {
        struct loop_fd fd;
        struct http_calls *calls;
};

struct http_call {
        struct http_call *next, *prev;
        struct http_calls *calls;
        CURL *curl;
        struct curl_slist *headers;
        struct http_text answer;
        bool is_too_large, is_strange, is_stale;
        int fd; /* of a connection that was made for this; -1: none was */
        uid_t owner;
        char where[128], detail[CURL_ERROR_SIZE], *body;
        http_call_done_fn *done;
        void *arg;
};

struct http_calls {
        CURLM *multi;
        struct loop_timer timer;
        struct http_call list; /* head */
        bool is_running, is_freed;
        bool (*may_send)(void *arg); /* NULL: always */
        void *may_arg;
};

/* ---- one call ---- */

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
        struct http_call *call = arg;
        call->is_too_large = !http_text_add(&call->answer, data, n);
        return call->is_too_large ? 0 : n;
}

static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
        struct http_call *call = arg;
        (void)purpose;
        call->fd = socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
        return call->fd < 0 ? CURL_SOCKET_BAD : call->fd;
}

/* The connection is there, and nothing was said yet. Whose it is was looked at when it was made, where it is
 * used again. */
static int before_sending(void *arg, char *to, char *from, int to_port, int from_port)
{
        struct http_call *call = arg;
        struct unix_peer peer;
        (void)to, (void)from, (void)to_port, (void)from_port;
        call->is_stale = call->calls->may_send && !call->calls->may_send(call->calls->may_arg);
        call->is_strange =
                call->fd >= 0 && (unix_peer_get(call->fd, &peer, NULL) < 0 || peer.uid != call->owner);
        return call->is_strange || call->is_stale ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

static void check_owner(struct http_call *call, uid_t owner)
{
        call->owner = owner;
        curl_easy_setopt(call->curl, CURLOPT_OPENSOCKETFUNCTION, on_open);
        curl_easy_setopt(call->curl, CURLOPT_OPENSOCKETDATA, call);
}

static void call_free(struct http_call *call)
{
        if (call->next) {
                call->prev->next = call->next;
                call->next->prev = call->prev;
                (void)curl_multi_remove_handle(call->calls->multi, call->curl);
        }
        curl_easy_cleanup(call->curl);
        curl_slist_free_all(call->headers);
        http_text_done(&call->answer);
        g_free(call->body);
        g_free(call);
}

static void finish(struct http_call *call, CURLcode code)
{
        struct err err = {0};
        struct cert_id peer;
        bool is_new = http_curl_peer(call->curl, &peer);
        struct http_answer answer = {.body = call->answer.data, .body_n = call->answer.n};
        long status = 0;
        const char *type = NULL, *from = NULL;
        (void)curl_easy_getinfo(call->curl, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(call->curl, CURLINFO_PRIMARY_IP, &from);
        (void)STR_COPY(answer.from, from ? from : "");
        (void)curl_easy_getinfo(call->curl, CURLINFO_CONTENT_TYPE, &type);
        answer.status = (int)status;
        (void)STR_COPY(answer.content_type, type ? type : "");
        if (call->is_too_large)
                (void)err_set(&err, REASON_INVALID, EMSGSIZE, "%s: the answer is too large", call->where);
        else if (call->is_strange)
                (void)err_set(&err, REASON_DENIED, EPERM, "%s: who listens there is not uid %u", call->where,
                              (unsigned)call->owner);
        else if (call->is_stale)
                (void)err_set(&err, REASON_STALE, ECANCELED, "%s: it was not asked: that is over",
                              call->where);
        else if (code != CURLE_OK)
                (void)http_curl_failed(call->curl, code, call->where, call->detail, &err);
        else if (!answer.body && !http_text_add(&call->answer, "", 0))
                (void)err_set(&err, REASON_INTERNAL, ENOMEM, "%s: no memory", call->where);
        answer.body = call->answer.data;
        call->done(call->arg, err.reason ? NULL : &answer, is_new ? &peer : NULL, err.reason ? &err : NULL);
}

/* ---- what curl waits for ---- */

static void destroy(struct http_calls *c)
{
        while (c->list.next != &c->list)
                call_free(c->list.next);
        (void)curl_multi_cleanup(c->multi); /* tells us to drop each descriptor that is left */
        loop_timer_cancel(&c->timer);
        g_free(c);
}

static void act(struct http_calls *c, curl_socket_t fd, int what)
{
        int running, left;
        CURLMsg *m;
        assert(!c->is_running);
        c->is_running = true;
        (void)curl_multi_socket_action(c->multi, fd, what, &running);
        while (!c->is_freed && (m = curl_multi_info_read(c->multi, &left))) {
                struct http_call *call = NULL;
                CURLcode code = m->data.result;
                (void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &call);
                /* Out of the list first: done() may cancel others, but this one is over. */
                call->prev->next = call->next;
                call->next->prev = call->prev;
                call->next = call->prev = NULL;
                (void)curl_multi_remove_handle(c->multi, call->curl);
                finish(call, code);
                call_free(call);
        }
        c->is_running = false;
        if (c->is_freed)
                destroy(c);
}

static void on_fd(void *arg, uint32_t events)
{
        struct watched *w = arg;
        int what = (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                   (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
        act(w->calls, w->fd.fd, what);
}

static void on_timer(void *arg)
{
        act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_socket(CURL *h, curl_socket_t fd, int what, void *arg, void *mine)
{
        struct http_calls *c = arg;
        struct watched *w = mine;
        uint32_t events = (what & CURL_POLL_IN ? EPOLLIN : 0U) | (what & CURL_POLL_OUT ? EPOLLOUT : 0U);
        if (what == CURL_POLL_REMOVE) {
                if (w)
                        loop_fd_remove(&w->fd);
                g_free(w);
                (void)curl_multi_assign(c->multi, fd, NULL);
                return 0;
        }
        if (w)
                return loop_fd_set(&w->fd, events, NULL) < 0 ? -1 : 0;
        w = g_new0(struct watched, 1);
        w->calls = c;
        if (loop_fd_add(&w->fd, fd, events, on_fd, w, NULL) < 0) {
                g_free(w);
                return -1;
        }
        (void)curl_multi_assign(c->multi, fd, w);
        return 0;
}

static int on_wait(CURLM *multi, long ms, void *arg)
{
        struct http_calls *c = arg;
        if (ms < 0)
                loop_timer_cancel(&c->timer);
        else
                loop_timer_in(&c->timer, ms);
        return 0;
}

struct http_calls *http_calls_new(struct err *err)
{
        http_curl_once();
        struct http_calls *c = g_new0(struct http_calls, 1);
        c->list.next = c->list.prev = &c->list;
        loop_timer_init(&c->timer, on_timer, c);
        c->multi = curl_multi_init();
        if (!c->multi) {
                g_free(c);
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory for an HTTP client");
                return NULL;
        }
        curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
        curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
        curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_wait);
        curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
        curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)HOST_CONNECTIONS_MAX);
        return c;
}

void http_calls_check(struct http_calls *c, bool (*may_send)(void *arg), void *arg)
{
        c->may_send = may_send;
        c->may_arg = arg;
}

void http_calls_free(struct http_calls *c)
{
        if (!c || c->is_freed)
                return;
        c->is_freed = true;
        if (!c->is_running)
                destroy(c);
}

struct http_call *http_call(struct http_calls *c, const struct http_target *to, const char *method,
                            const char *path, const char *body, size_t body_n, int64_t timeout_ms,
                            http_call_done_fn *done, void *arg, struct err *err)
{
        struct http_call *call = g_new0(struct http_call, 1);
        char text[TCP_TEXT];
        const char *where = to->socket ? to->socket : tcp_address_text(&to->address, text);
        /* curl counts connections by the name of the host: each socket has its own, so that one which does
         * not answer keeps nobody from the others. */
        g_autofree char *url =
                to->socket ? g_strdup_printf("http://%08x.localhost%s", g_str_hash(where), path)
                           : g_strdup_printf("%s://%s%s", to->is_plain ? "http" : "https", where, path);
        call->calls = c;
        call->fd = -1;
        call->answer.max = HTTP_CALL_ANSWER_MAX;
        call->done = done;
        call->arg = arg;
        (void)g_strlcpy(call->where, where, sizeof(call->where));
        call->curl = curl_easy_init();
        call->headers = curl_slist_append(NULL, "Content-Type: application/json");
        struct curl_slist *all =
                to->socket ? curl_slist_append(call->headers, "Host: localhost") : call->headers;
        if (!call->curl || !call->headers || !all) {
                call_free(call);
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory for an HTTP request");
                return NULL;
        }
        CURL *h = call->curl;
        http_curl_prepare(h, url);
        if (to->socket)
                curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, to->socket);
        else if (!to->is_plain)
                http_curl_tls(h, to);
        if (to->has_owner)
                check_owner(call, to->owner);
        curl_easy_setopt(h, CURLOPT_PREREQFUNCTION, before_sending);
        curl_easy_setopt(h, CURLOPT_PREREQDATA, call);
        curl_easy_setopt(h, CURLOPT_HTTPHEADER, call->headers);
        curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, method);
        curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
        curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(h, CURLOPT_WRITEDATA, call);
        curl_easy_setopt(h, CURLOPT_ERRORBUFFER, call->detail);
        curl_easy_setopt(h, CURLOPT_PRIVATE, call);
        if (body) {
                call->body = g_memdup2(body, body_n);
                curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE, (long)body_n);
                curl_easy_setopt(h, CURLOPT_POSTFIELDS, call->body);
        }
        call->next = &c->list;
        call->prev = c->list.prev;
        call->prev->next = call->next->prev = call;
        if (curl_multi_add_handle(c->multi, h) != CURLM_OK) {
                call_free(call);
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory for an HTTP request");
                return NULL;
        }
        return call;
}

void http_call_cancel(struct http_call *call)
{
        call_free(call);
}

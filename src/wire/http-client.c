/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/http-client.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <time.h>

#include "base/str.h"
#include "wire/http-curl.h"
#include "wire/line.h"

enum { EVENT_MAX = 1 << 20 };

struct http_client {
        CURL *curl;
        char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; /* or, by TLS, the address as text */
        struct http_target to;
        bool is_tls, has_peer;
        struct cert_id peer; /* of the connection that was made last */
        char detail[CURL_ERROR_SIZE];
        /* Of the request in progress: */
        struct http_text body;
        bool is_too_large, is_stream, is_stopped;
        struct line line;
        struct http_text data;
        char id[64], event[64];
        bool (*on_event)(void *arg, const struct http_event *event);
        void *arg;
        int64_t silent_ms, heard_ms, headers_by_ms;
        bool is_silent;
};

static int64_t now_ms(void)
{
        struct timespec t;
        (void)clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- server-sent events (WHATWG HTML, 9.2.6; retry is of no use to us) ---- */

static bool event_done(struct http_client *c)
{
        struct http_event e = {.id = c->id, .event = c->event, .data = c->data.data};
        /* Each data line has added its newline; the last one is not part of it. */
        if (c->data.n > 0)
                c->data.data[c->data.n - 1] = '\0';
        bool goes_on = c->data.n == 0 || c->on_event(c->arg, &e);
        http_text_done(&c->data);
        c->id[0] = c->event[0] = '\0';
        return goes_on;
}

static bool event_line(struct http_client *c, char *text, size_t n)
{
        if (n > 0 && text[n - 1] == '\r')
                text[--n] = '\0';
        if (n == 0)
                return event_done(c);
        char *value = strchr(text, ':');
        if (value == text || !value)
                return true; /* a comment, such as the heartbeat, or a field without a value */
        *value++ = '\0';
        if (*value == ' ')
                value++;
        if (strcmp(text, "data") == 0) {
                c->is_too_large =
                        !http_text_add(&c->data, value, strlen(value)) || !http_text_add(&c->data, "\n", 1);
                return !c->is_too_large;
        }
        if (strcmp(text, "id") == 0)
                (void)STR_COPY(c->id, value);
        else if (strcmp(text, "event") == 0)
                (void)STR_COPY(c->event, value);
        return true;
}

static bool stream_part(struct http_client *c, const char *data, size_t n)
{
        while (n > 0) {
                size_t room = 0, length = 0;
                char *at = line_room(&c->line, &room), *text = NULL;
                if (!at)
                        return false;
                room = room < n ? room : n;
                memcpy(at, data, room);
                line_filled(&c->line, room);
                data += room;
                n -= room;
                for (;;) {
                        enum line_outcome what = line_next(&c->line, &text, &length);
                        if (what == LINE_MORE)
                                break;
                        if (what == LINE_TOO_LONG) {
                                c->is_too_large = true;
                                return false;
                        }
                        if (!event_line(c, text, length)) {
                                c->is_stopped = true;
                                return false;
                        }
                }
        }
        return true;
}

static size_t on_body(char *data, size_t one, size_t n, void *arg)
{
        struct http_client *c = arg;
        long status = 0;
        c->heard_ms = now_ms();
        (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
        if (c->is_stream && status == 200)
                return stream_part(c, data, n) ? n : 0;
        if (http_text_add(&c->body, data, n))
                return n;
        c->is_too_large = true;
        return 0;
}

static int on_progress(void *arg, curl_off_t to_get, curl_off_t got, curl_off_t to_put, curl_off_t put)
{
        struct http_client *c = arg;
        long status = 0;
        (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
        int64_t by_ms = status == 0        ? c->headers_by_ms
                        : c->silent_ms > 0 ? c->heard_ms + c->silent_ms
                                           : INT64_MAX;
        c->is_silent = c->is_stream && now_ms() > by_ms;
        return c->is_silent;
}

/* ---- requests ---- */

static struct http_client *client_new(struct err *err)
{
        http_curl_once();
        struct http_client *c = calloc(1, sizeof(*c));
        if (!c || !(c->curl = curl_easy_init())) {
                free(c);
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory for an HTTP client");
                return NULL;
        }
        c->body.max = HTTP_ANSWER_MAX_BYTES;
        c->data.max = EVENT_MAX;
        line_init(&c->line, EVENT_MAX);
        return c;
}

struct http_client *http_client_new(const char *socket_path, struct err *err)
{
        struct http_client *c = client_new(err);
        if (c && !STR_COPY(c->path, socket_path)) {
                (void)err_set(err, REASON_INVALID, ENAMETOOLONG,
                              "socket path is too long, at most %zu bytes: %.100s...", sizeof(c->path) - 1,
                              socket_path);
                http_client_free(c);
                return NULL;
        }
        return c;
}

struct http_client *http_client_new_tls(const struct http_target *to, struct err *err)
{
        struct http_client *c = client_new(err);
        char text[TCP_TEXT];
        if (!c)
                return NULL;
        c->to = *to;
        c->is_tls = true;
        if (!STR_COPY(c->path, tcp_address_text(&to->address, text))) /* for messages only */
                (void)snprintf(c->path, sizeof(c->path), "%.100s", text);
        return c;
}

void http_client_free(struct http_client *c)
{
        if (!c)
                return;
        curl_easy_cleanup(c->curl);
        line_done(&c->line);
        free(c->body.data);
        free(c->data.data);
        free(c);
}

void http_answer_done(struct http_answer *a)
{
        free(a->body);
        *a = (struct http_answer){0};
}

static int failed(struct http_client *c, CURLcode code, struct err *err)
{
        if (c->is_too_large)
                return err_set(err, REASON_INVALID, EMSGSIZE, "%s: the answer is too large", c->path);
        return http_curl_failed(c->curl, c->is_silent ? CURLE_OPERATION_TIMEDOUT : code, c->path,
                                c->is_tls ? c->detail : "", err);
}

static void prepare(struct http_client *c, const char *url, struct curl_slist *headers)
{
        CURL *h = c->curl;
        curl_easy_reset(h); /* keeps the connection */
        http_text_done(&c->body);
        http_text_done(&c->data);
        line_reset(&c->line);
        c->is_too_large = c->is_stream = c->is_stopped = c->is_silent = false;
        c->id[0] = c->event[0] = '\0';
        http_curl_prepare(h, url);
        if (c->is_tls)
                http_curl_tls(h, &c->to);
        else
                curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, c->path);
        c->detail[0] = '\0';
        curl_easy_setopt(h, CURLOPT_ERRORBUFFER, c->detail);
        curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
}

static int finish(struct http_client *c, CURLcode code, struct http_answer *ret, struct err *err)
{
        if (code != CURLE_OK && (!c->is_stopped || c->is_too_large))
                return failed(c, code, err);
        if (!c->body.data && !http_text_add(&c->body, "", 0))
                return err_set(err, REASON_INTERNAL, ENOMEM, "%s: no memory", c->path);
        long status = 0;
        const char *type = NULL;
        (void)curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
        (void)curl_easy_getinfo(c->curl, CURLINFO_CONTENT_TYPE, &type);
        *ret = (struct http_answer){.status = (int)status, .body = c->body.data, .body_n = c->body.n};
        (void)STR_COPY(ret->content_type, type ? type : "");
        c->body = (struct http_text){.max = c->body.max};
        return 0;
}

static int perform(struct http_client *c, const char *path, struct curl_slist *headers,
                   void (*more)(struct http_client *c, void *arg), void *arg, struct http_answer *ret,
                   struct err *err)
{
        char text[TCP_TEXT] = "localhost", *url = NULL;
        assert(path[0] == '/');
        if (c->is_tls)
                (void)tcp_address_text(&c->to.address, text);
        if (!headers || asprintf(&url, "%s://%s%s", c->is_tls ? "https" : "http", text, path) < 0) {
                curl_slist_free_all(headers);
                return err_set(err, REASON_INTERNAL, ENOMEM, "%s: no memory", c->path);
        }
        prepare(c, url, headers);
        more(c, arg);
        int r = finish(c, curl_easy_perform(c->curl), ret, err);
        c->has_peer = (c->is_tls && http_curl_peer(c->curl, &c->peer)) || c->has_peer;
        curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, NULL);
        curl_slist_free_all(headers);
        free(url);
        return r;
}

bool http_client_peer(const struct http_client *c, struct cert_id *ret)
{
        if (c->has_peer)
                *ret = c->peer;
        return c->has_peer;
}

struct request {
        const char *method, *body;
        size_t body_n;
        int64_t timeout_ms;
};

static void more_do(struct http_client *c, void *arg)
{
        const struct request *q = arg;
        curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, (long)q->timeout_ms);
        curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, q->method);
        if (!q->body)
                return;
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE, (long)q->body_n);
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, q->body);
}

int http_client_do(struct http_client *c, const char *method, const char *path, const char *body,
                   size_t body_n, int64_t timeout_ms, struct http_answer *ret, struct err *err)
{
        struct request q = {.method = method, .body = body, .body_n = body_n, .timeout_ms = timeout_ms};
        struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
        /* Without this curl asks first whether a larger body is welcome, and waits a second for the answer.
         */
        struct curl_slist *both = headers ? curl_slist_append(headers, "Expect:") : NULL;
        if (!both)
                curl_slist_free_all(headers);
        return perform(c, path, both, more_do, &q, ret, err);
}

static void more_stream(struct http_client *c, void *arg)
{
        c->is_stream = true;
        curl_easy_setopt(c->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(c->curl, CURLOPT_XFERINFODATA, c);
        curl_easy_setopt(c->curl, CURLOPT_NOPROGRESS, 0L);
}

int http_client_stream(struct http_client *c, const char *path, int64_t connect_ms, int64_t silent_ms,
                       bool (*on_event)(void *arg, const struct http_event *event), void *arg,
                       struct http_answer *ret, struct err *err)
{
        c->on_event = on_event;
        c->arg = arg;
        c->silent_ms = silent_ms;
        c->heard_ms = now_ms();
        c->headers_by_ms = c->heard_ms + connect_ms;
        return perform(c, path, curl_slist_append(NULL, "Accept: text/event-stream"), more_stream, NULL, ret,
                       err);
}

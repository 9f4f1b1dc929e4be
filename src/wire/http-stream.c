/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "wire/http-internal.h"

enum { STALLED_BEATS = 2 };

static void stream_free(struct http_stream *stream)
{
        loop_fd_remove(&stream->watch);
        loop_timer_cancel(&stream->beat);
        g_string_free(stream->queue, TRUE);
        g_free(stream);
}

/* MHD is done with it. */
void http_stream_close(struct http_stream *stream)
{
        struct request *req = stream->req;
        req->server->counters.streams_now--;
        req->stream = NULL;
        if (!stream->is_ended)
                stream->closed(stream->arg, stream);
        stream_free(stream);
}

static void stream_drop(struct http_stream *stream)
{
        if (stream->is_gone)
                return;
        stream->is_gone = true;
        loop_fd_remove(&stream->watch);
        /* Where MHD waits to write, this is how it learns; where it is suspended, waking it is. */
        (void)shutdown(stream->req->conn->fd, SHUT_RDWR);
        http_wake(stream->req);
}

static void on_hangup(void *arg, uint32_t events)
{
        stream_drop(arg);
}

static ssize_t on_read(void *cls, uint64_t pos, char *room, size_t n)
{
        struct http_stream *stream = cls;
        size_t left = stream->queue->len - stream->taken;
        if (stream->is_gone)
                return MHD_CONTENT_READER_END_WITH_ERROR;
        if (left == 0 && stream->is_ended)
                return MHD_CONTENT_READER_END_OF_STREAM;
        if (left == 0) {
                http_suspend(stream->req);
                return 0;
        }
        n = n < left ? n : left;
        memcpy(room, stream->queue->str + stream->taken, n);
        stream->taken += n;
        stream->taken_ever += n;
        if (stream->taken == stream->queue->len) {
                g_string_truncate(stream->queue, 0);
                stream->taken = 0;
        }
        return (ssize_t)n;
}

static void on_beat(void *arg)
{
        struct http_stream *stream = arg;
        struct http_server *s = stream->req->server;
        loop_timer_in(&stream->beat, s->limits.heartbeat_ms);
        bool is_stalled =
                (stream->queue->len > 0 || stream->is_ended) && stream->taken_ever == stream->taken_at_beat;
        stream->taken_at_beat = stream->taken_ever;
        stream->stalled_beats = is_stalled ? stream->stalled_beats + 1 : 0;
        if (stream->stalled_beats >= STALLED_BEATS) {
                s->counters.slow_streams++;
                stream_drop(stream);
        } else if (stream->queue->len == 0) {
                g_string_append(stream->queue, ":\n\n");
                http_wake(stream->req);
        }
}

struct http_stream *http_stream(struct http_request *pub,
                                void (*closed)(void *arg, struct http_stream *stream), void *arg)
{
        struct request *req = http_request_of(pub);
        struct http_server *s = req->server;
        struct err why;
        if (req->state == ORPHAN || s->counters.streams_now >= s->limits.streams_max) {
                http_reply_text(pub, 503, "application/json",
                                "{\"code\":503,\"reason\":\"busy\",\"message\":\"too many event streams are "
                                "open\"}\n");
                return NULL;
        }
        struct http_stream *stream = g_new0(struct http_stream, 1);
        struct MHD_Response *response =
                MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, on_read, stream, NULL);
        stream->req = req;
        stream->queue = g_string_new(NULL);
        stream->closed = closed;
        stream->arg = arg;
        loop_timer_init(&stream->beat, on_beat, stream);
        if (!response ||
            loop_fd_add(&stream->watch, req->conn->fd, EPOLLRDHUP, on_hangup, stream, &why) < 0) {
                if (response)
                        MHD_destroy_response(response);
                stream_free(stream);
                http_reply_text(
                        pub, 503, "application/json",
                        "{\"code\":503,\"reason\":\"busy\",\"message\":\"no memory for an event stream\"}\n");
                return NULL;
        }
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
        (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
        loop_timer_in(&stream->beat, s->limits.heartbeat_ms);
        req->stream = stream;
        s->counters.streams++;
        s->counters.streams_now++;
        http_set_response(req, 200, response);
        return stream;
}

int http_stream_send(struct http_stream *stream, int64_t id, const char *event, const char *json, size_t n)
{
        struct http_server *s = stream->req->server;
        GString *q = stream->queue;
        assert(!stream->is_ended);
        if (memchr(json, '\n', n) || memchr(json, '\r', n) || (event && strpbrk(event, "\r\n")))
                return -EINVAL;
        if (stream->is_gone)
                return -ENOBUFS;
        if (stream->taken > 0) {
                g_string_erase(q, 0, (gssize)stream->taken);
                stream->taken = 0;
        }
        if (q->len + n + 128 > s->limits.stream_queue_max_bytes) {
                s->counters.slow_streams++;
                stream_drop(stream);
                return -ENOBUFS;
        }
        if (id > 0)
                g_string_append_printf(q, "id: %" G_GINT64_FORMAT "\n", id);
        if (event)
                g_string_append_printf(q, "event: %s\n", event);
        g_string_append(q, "data: ");
        g_string_append_len(q, json, (gssize)n);
        g_string_append(q, "\n\n");
        http_wake(stream->req);
        return 0;
}

void http_stream_end(struct http_stream *stream)
{
        assert(!stream->is_ended);
        stream->is_ended = true;
        http_wake(stream->req);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* manager/events.c - the event log, page by page, and those who follow it. Each has its own place in it, so
 * that none misses an entry or sees one twice; entries come from the store, hence only what is durable is
 * sent. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "manager/manager.h"

enum { BATCH = 64 };

struct follower {
        struct manager *m;
        struct http_stream *stream;
        int64_t after;
        char trace[128]; /* "": all */
};

static json_t *view(const struct store_event *e)
{
        struct api_event to = {.seq = e->seq, .at_ms = e->at_ms};
        (void)snprintf(to.trace, sizeof(to.trace), "%.127s", e->trace);
        (void)snprintf(to.subject, sizeof(to.subject), "%.127s", e->subject);
        (void)snprintf(to.event, sizeof(to.event), "%.31s", e->event);
        (void)snprintf(to.text, sizeof(to.text), "%.255s", e->text);
        return api_event_emit(&to);
}

static json_t *page(const struct manager *m, const struct api_fleet_event_query *q, struct err *err)
{
        int limit = q->has_limit ? (int)q->limit : MANAGER_PAGE;
        struct store_event *found = g_new(struct store_event, (gsize)limit);
        int n = store_events(m->store, q->has_after ? q->after : 0, q->has_trace ? q->trace : NULL, found,
                             limit, err);
        json_t *out = n >= 0 ? json_object() : NULL, *list = json_array();
        for (int i = 0; i < n; i++)
                (void)json_array_append_new(list, view(&found[i]));
        g_free(found);
        if (out)
                (void)json_object_set(out, "events", list);
        json_decref(list);
        return out;
}

/* ---- followers ---- */

static void on_closed(void *arg, struct http_stream *stream)
{
        (void)stream;
        struct follower *f = arg;
        f->m->followers = g_list_remove(f->m->followers, f);
        g_free(f);
}

/* One that is too slow is closed, and asks again from where it was. */
static void send_new(struct follower *f)
{
        static struct store_event events[BATCH];
        struct manager *m = f->m;
        int n = store_events(m->store, f->after, *f->trace ? f->trace : NULL, events, BATCH, NULL);
        for (int i = 0; i < n; i++) {
                json_t *v = view(&events[i]);
                size_t size = 0;
                char *text = v ? json_write(v, &size) : NULL;
                json_decref(v);
                bool is_sent = text && http_stream_send(f->stream, events[i].seq, NULL, text, size) == 0;
                free(text);
                if (!is_sent)
                        return;
                f->after = events[i].seq;
        }
        if (n == BATCH)
                manager_changed(m); /* there is more */
        else if (n == 0)
                f->after = store_last_event(m->store); /* nothing of its trace up to here */
}

void events_publish(struct manager *m)
{
        GList *next;
        for (GList *l = m->followers; l; l = next) {
                struct follower *f = l->data;
                next = l->next;
                if (f->after < store_last_event(m->store))
                        send_new(f);
        }
}

static void follow(struct manager *m, struct http_request *req, const struct api_fleet_event_query *q)
{
        struct follower *f = g_new0(struct follower, 1);
        f->m = m;
        f->after = q->has_after ? q->after : store_last_event(m->store);
        if (q->has_trace)
                (void)STR_COPY(f->trace, q->trace);
        f->stream = http_stream(req, on_closed, f);
        if (!f->stream) {
                g_free(f); /* too many; it was told */
                return;
        }
        m->followers = g_list_append(m->followers, f);
        send_new(f);
}

void events_ask(struct manager *m, struct http_request *req)
{
        struct api_fleet_event_query q = {0};
        struct err err = {0};
        if (api_fleet_event_query_read(req->query, &q, &err)) {
                api_refuse(req, &err);
                return;
        }
        const char *accept = http_request_header(req, "Accept");
        if (accept && strstr(accept, "text/event-stream")) {
                follow(m, req, &q);
                return;
        }
        json_t *out = page(m, &q, &err);
        if (out)
                api_reply(req, out);
        else
                api_refuse(req, &err);
}

void events_stop(struct manager *m)
{
        g_list_free_full(m->followers, g_free);
        m->followers = NULL;
}

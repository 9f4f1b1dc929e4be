/* SPDX-License-Identifier: Apache-2.0 */
/* meted/events.c - those who follow the event log. Each has its own place in it, so that none misses an
 * entry or sees one twice; entries come from the store, hence only what is durable is sent. */
#include <stdlib.h>

#include "json/read.h"
#include "meted/meted.h"
#include "meted/view.h"
#include "wire/http.h"

enum { BATCH = 64 };

struct follower {
        struct meted *m;
        struct http_stream *stream;
        int64_t after;
        char trace[REQUEST_TRACE]; /* "": all */
};

static void on_closed(void *arg, struct http_stream *stream)
{
        (void)stream;
        struct follower *f = arg;
        f->m->streams = g_list_remove(f->m->streams, f);
        g_free(f);
}

/* false: it is gone. */
static bool send_new(struct follower *f)
{
        static struct store_event events[BATCH];
        struct err err = {0};
        int n = store_events(f->m->store, f->after, *f->trace ? f->trace : NULL, events, BATCH, &err);
        for (int i = 0; i < n; i++) {
                json_t *v = view_event(&events[i]);
                size_t size = 0;
                char *text = v ? json_write(v, &size) : NULL;
                json_decref(v);
                bool sent = text && http_stream_send(f->stream, events[i].seq, NULL, text, size) == 0;
                free(text);
                if (!sent)
                        return false; /* closed, or too slow: it will ask again from where it was */
                f->after = events[i].seq;
        }
        if (n == BATCH)
                loop_turn_request(&f->m->commit); /* there is more */
        else if (n == 0)
                f->after = store_last_event(f->m->store); /* nothing of its trace up to here */
        return true;
}

void events_publish(struct meted *m)
{
        GList *next;
        for (GList *l = m->streams; l; l = next) {
                struct follower *f = l->data;
                next = l->next;
                if (f->after < store_last_event(m->store))
                        (void)send_new(f);
        }
}

void events_follow(struct meted *m, struct http_request *req, int64_t after, const char *trace)
{
        struct follower *f = g_new0(struct follower, 1);
        f->m = m;
        f->after = after;
        if (trace)
                g_strlcpy(f->trace, trace, sizeof(f->trace));
        f->stream = http_stream(req, on_closed, f);
        if (!f->stream) {
                g_free(f); /* too many; it was told */
                return;
        }
        m->streams = g_list_append(m->streams, f);
        (void)send_new(f);
}

void events_done(struct meted *m)
{
        g_list_free_full(m->streams, g_free);
        m->streams = NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The event log: what there is, page by page, and with --follow what comes after it. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/units.h"
#include "cli/exit.h"
#include "cli/host.h"
#include "json/read.h"
#include "wire/http-client.h"

enum { CALL_MS = 30000, SILENT_MS = 60000 /* four heartbeats of meted */, PAGE = 256 };

/* Wide enough for what was printed, so that columns do not jump; no wider than that. */
enum { TRACE_WIDTH = 20, SUBJECT_WIDTH = 24, WIDTH_MAX = 48 };

struct listing {
        int trace_width, subject_width;
        const struct arguments *arguments;
        int64_t after; /* the highest number that was printed */
        const char *trace;
        bool is_json;
};

void host_print_line(char *text)
{
        for (char *c = text; *c != '\0'; c++)
                if ((unsigned char)*c < ' ' || *c == 0x7f)
                        *c = '?';
        (void)puts(text);
}

void host_print_event(const json_t *event, int trace_width, int subject_width)
{
        char at[32] = "";
        char line[1024];
        int64_t at_ms = host_number(event, "at_ms");
        time_t seconds = (time_t)(at_ms / 1000);
        struct tm tm;

        if (localtime_r(&seconds, &tm) != NULL)
                (void)strftime(at, sizeof(at), "%F %T", &tm);
        (void)snprintf(line, sizeof(line), "%6" PRId64 " %s.%03d %-*s %-*s %-17s %s",
                       host_number(event, "seq"), at, (int)(at_ms % 1000), trace_width,
                       host_text(event, "trace"), subject_width, host_text(event, "subject"),
                       host_text(event, "event"), host_text(event, "text"));
        host_print_line(line);
}

static void widen(int *width, const char *text)
{
        int n = (int)strlen(text);
        if (n > *width)
                *width = n < WIDTH_MAX ? n : WIDTH_MAX;
}

static void make_room(struct listing *l, const json_t *event)
{
        widen(&l->trace_width, host_text(event, "trace"));
        widen(&l->subject_width, host_text(event, "subject"));
}

static void print_event(struct listing *l, const json_t *event)
{
        l->after = host_number(event, "seq");
        if (l->is_json) {
                char *text = json_write(event, NULL);
                (void)printf("%s\n", text != NULL ? text : "");
                free(text);
        } else {
                host_print_event(event, l->trace_width, l->subject_width);
        }
        (void)fflush(stdout);
}

static void events_path(const struct listing *l, char *path, size_t size)
{
        (void)snprintf(path, size, "/v1/events?after=%" PRId64 "&limit=%d%s%s", l->after, PAGE,
                       l->trace != NULL ? "&trace=" : "", l->trace != NULL ? l->trace : "");
}

/* Prints everything that is there. */
static int print_pages(struct listing *l, struct err *err)
{
        size_t n;

        do {
                char path[256];
                json_t *page = NULL;
                size_t i;
                json_t *event;
                events_path(l, path, sizeof(path));
                int r = host_call(l->arguments, "GET", path, NULL, CALL_MS, &page, err);
                if (r < 0)
                        return r;
                n = json_array_size(json_object_get(page, "events"));
                json_array_foreach(json_object_get(page, "events"), i, event) make_room(l, event);
                json_array_foreach(json_object_get(page, "events"), i, event) print_event(l, event);
                json_decref(page);
        } while (n == PAGE);
        return 0;
}

static bool on_event(void *arg, const struct http_event *e)
{
        struct listing *l = arg;
        struct err err = {0};
        json_t *event = json_read(e->data, strlen(e->data), &err);

        if (event == NULL) {
                (void)fprintf(stderr, "mete events: what was sent is no event: %s\n", err.sentence);
                return true;
        }
        /* the stream may begin with what the pages have shown already */
        if (host_number(event, "seq") > l->after) {
                make_room(l, event);
                print_event(l, event);
        }
        json_decref(event);
        return true;
}

/* Until interrupted, or until meted ends; there is no success. */
static int follow(struct listing *l, struct err *err)
{
        const char *manager = host_manager(l->arguments);
        const char *where = manager ? manager : host_socket(l->arguments);
        struct http_client *client =
                manager ? host_manager_connect(manager, l->arguments, err) : http_client_new(where, err);
        struct http_answer answer = {0};
        char path[256];

        events_path(l, path, sizeof(path));
        int r = client == NULL
                        ? -err->code
                        : http_client_stream(client, path, CALL_MS, SILENT_MS, on_event, l, &answer, err);
        /* It was there for the pages. */
        if (r == 0 && answer.status != 200)
                r = err_set(err, REASON_BUSY, EBUSY, "%s answered with status %d",
                            manager ? "the manager" : "meted", answer.status);
        else if (r == 0 || err->reason == REASON_PEER_LOST)
                r = err_set(err, REASON_PEER_LOST, EPIPE,
                            "%s at %.100s has gone; when it is back, --after %" PRId64 " shows what follows",
                            manager ? "the manager" : "meted", where, l->after);
        http_answer_done(&answer);
        http_client_free(client);
        return r;
}

int host_events(const struct arguments *a)
{
        struct listing l = {.arguments = a,
                            .trace_width = TRACE_WIDTH,
                            .subject_width = SUBJECT_WIDTH,
                            .trace = arguments_option(a, "--trace"),
                            .is_json = arguments_option(a, "--json") != NULL};
        const char *after = arguments_option(a, "--after");
        struct err err = {0};

        if (after != NULL && units_parse_count(after, &l.after, &err) < 0) {
                (void)err_note(&err, "--after %s", after);
                return verb_fail(a, &err);
        }
        if (l.trace != NULL && (strlen(l.trace) > 127 || strpbrk(l.trace, "?#&%+ ") != NULL)) {
                (void)err_set(&err, REASON_INVALID, EINVAL, "'%s' is no id", l.trace);
                return verb_fail(a, &err);
        }
        int64_t from = l.after;
        if (print_pages(&l, &err) < 0)
                return verb_fail(a, &err);
        if (l.trace != NULL && l.after == from)
                (void)fprintf(stderr,
                              "mete events: no event%s is of %s; ids are those of requests, or VM/REQUEST\n",
                              from > 0 ? " after that" : "", l.trace);
        if (arguments_option(a, "--follow") == NULL)
                return EXIT_OK;
        (void)follow(&l, &err);
        return verb_fail(a, &err);
}

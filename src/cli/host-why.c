/* SPDX-License-Identifier: Apache-2.0 */
/* why: what was decided of a request, a VM, a move or a component, by what is on record, and what stands in
 * its way now. Nothing is guessed: each line is an event, a claim, or a state that meted gave. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/str.h"
#include "cli/exit.h"
#include "cli/host.h"

enum { CALL_MS = 30000, SINCE_MAX = 10, CLAIMS_MAX = 20, PAGE = 256, PAGES_MAX = 4000 };

/* What is left out: how something became usable or came back, each step of it. `mete events` has them. */
static const char *const steps[] = {
        "prepared",      "host-activated", "marked",           "activated",  "bound",    "initialised",
        "finalised",     "configured",     "unconfigured",     "let-go",     "unmarked", "host-prepared",
        "deactivated",   "unprepared",     "host-deactivated", "hhi-told",   "agent",    "kept",
        "update-needed", "hhi-changed",    "no-update-needed", "guest-told",
};
/* Those after which somebody else may have what was refused. */
static const char *const freeing[] = {"released",         "expired",           "ended",   "withdrawn",
                                      "component-online", "component-resized", "stopped", "reclaimed"};
/* Those that are a no. */
static const char *const refusals[] = {"refused",     "failed",   "offered",
                                       "step-failed", "no-place", "countered"};

static bool is_among(const char *word, const char *const *words, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(word, words[i]) == 0)
                        return true;
        return false;
}

/* ---- what there is ---- */

struct why {
        const struct arguments *arguments;
        const char *thing, *kind; /* "component", "move", "vm", "request"; never NULL */
        json_t *state;            /* of it, as meted says; NULL of a request */
        json_t *events;           /* of its trace */
        json_t *claims;           /* on it or of it; where it was refused, of everybody */
        json_t *unusable;         /* components, where it was refused */
        json_t *since;            /* what others gave back after it was refused */
        const json_t *answer;     /* the last event that decided something */
};

static void why_done(struct why *w)
{
        json_decref(w->state);
        json_decref(w->events);
        json_decref(w->claims);
        json_decref(w->unusable);
        json_decref(w->since);
}

/* All events after `after`, of a trace or of everybody. */
static int read_events(const struct arguments *a, const char *trace, int64_t after, json_t **ret,
                       struct err *err)
{
        json_t *all = json_array();
        size_t n = PAGE;

        for (int page = 0; n == PAGE && page < PAGES_MAX; page++) {
                json_t *answer = NULL, *events;
                char path[256];
                (void)snprintf(path, sizeof(path), "/v1/events?after=%" PRId64 "&limit=%d%s%s", after, PAGE,
                               trace ? "&trace=" : "", trace ? trace : "");
                int r = host_call(a, "GET", path, NULL, CALL_MS, &answer, err);
                if (r < 0) {
                        json_decref(all);
                        return r;
                }
                events = json_object_get(answer, "events");
                n = json_array_size(events);
                if (n > 0)
                        after = host_number(json_array_get(events, n - 1), "seq");
                (void)json_array_extend(all, events);
                json_decref(answer);
        }
        *ret = all;
        return 0;
}

/* 0 and *ret NULL where there is none of that name. */
static int look(const struct arguments *a, const char *folder, const char *name, json_t **ret,
                struct err *err)
{
        char path[192];
        struct err none = {0};

        *ret = NULL;
        if (!str_is_name(name))
                return 0;
        (void)snprintf(path, sizeof(path), "/v1/%s/%s", folder, name);
        int r = host_call(a, "GET", path, NULL, CALL_MS, ret, &none);
        if (r < 0 && none.reason != REASON_NOT_FOUND && none.reason != REASON_INVALID) {
                *err = none;
                return r;
        }
        return 0;
}

static int look_component(struct why *w, struct err *err)
{
        json_t *host = NULL, *c;
        size_t i;
        int r = host_call(w->arguments, "GET", "/v1/host", NULL, CALL_MS, &host, err);

        if (r < 0)
                return r;
        json_array_foreach(json_object_get(host, "components"), i, c)
        {
                if (strcmp(host_text(c, "id"), w->thing) == 0)
                        w->state = json_incref(c);
        }
        json_decref(host);
        w->kind = "component";
        return w->state ? 0
                        : err_set(err, REASON_NOT_FOUND, ENOENT, "this host has no %.64s (mete host show)",
                                  w->thing);
}

/* What is it? A component has a colon in its name; then moves, VMs, requests, as they are found. */
static int find(struct why *w, struct err *err)
{
        if (strchr(w->thing, ':'))
                return look_component(w, err);
        int r = look(w->arguments, "moves", w->thing, &w->state, err);
        w->kind = "move";
        if (r == 0 && !w->state) {
                r = look(w->arguments, "vms", w->thing, &w->state, err);
                w->kind = "vm";
        }
        if (r == 0 && !w->state)
                w->kind = "request";
        return r;
}

/* "vm:web", "vm:web/l1": of VM web. Of a request, its own. */
static bool is_holder_of(const struct why *w, const char *holder)
{
        size_t n = strlen(w->thing);
        const char *own = strchr(holder, ':') ? strchr(holder, ':') + 1 : holder;
        if (strcmp(w->kind, "vm") == 0)
                return strncmp(holder, "vm:", 3) == 0 && strncmp(own, w->thing, n) == 0 &&
                       (own[n] == '\0' || own[n] == '/');
        const char *request = strrchr(own, '/') && !strchr(w->thing, '/') ? strrchr(own, '/') + 1 : own;
        return strcmp(request, w->thing) == 0;
}

static bool is_refused(const struct why *w)
{
        return w->answer && is_among(host_text(w->answer, "event"), refusals, ARRAY_N(refusals));
}

static int read_claims(struct why *w, struct err *err)
{
        json_t *page = NULL, *c;
        size_t i;
        bool is_component = strcmp(w->kind, "component") == 0;
        int r = host_pages(w->arguments, "/v1/ledger", &page, err);

        if (r < 0)
                return r;
        w->claims = json_array();
        json_array_foreach(json_object_get(page, "claims"), i, c)
        {
                if (is_component ? strcmp(host_text(c, "component"), w->thing) == 0
                                 : is_refused(w) || is_holder_of(w, host_text(c, "holder")))
                        (void)json_array_append(w->claims, c);
        }
        w->unusable = json_array();
        json_array_foreach(json_object_get(page, "components"), i, c)
        {
                if (is_refused(w) && *host_text(c, "state"))
                        (void)json_array_append(w->unusable, c);
        }
        json_decref(page);
        return 0;
}

static int read_since(struct why *w, struct err *err)
{
        json_t *all = NULL, *event;
        size_t i;

        w->since = json_array();
        if (!is_refused(w))
                return 0;
        int r = read_events(w->arguments, NULL, host_number(w->answer, "seq"), &all, err);
        if (r < 0)
                return r;
        json_array_foreach(all, i, event)
        {
                if (is_among(host_text(event, "event"), freeing, ARRAY_N(freeing)))
                        (void)json_array_append(w->since, event);
        }
        json_decref(all);
        return 0;
}

/* Its side of one: the steps of it are named by who takes them. */
static bool is_handover(const json_t *events)
{
        size_t i;
        json_t *event;
        bool is_so = false;
        json_array_foreach(events, i, event)
        {
                const char *name = host_text(event, "event");
                is_so = is_so || strncmp(name, "source-", 7) == 0 || strncmp(name, "target-", 7) == 0;
        }
        return is_so;
}

static int gather(struct why *w, struct err *err)
{
        json_t *event;
        size_t i;
        int r = find(w, err);

        if (r == 0)
                r = read_events(w->arguments, w->thing, 0, &w->events, err);
        if (r < 0)
                return r;
        if (!w->state && json_array_size(w->events) == 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT,
                               "nothing here has the name %.64s: no request, VM, move or component, and no "
                               "event that is still kept",
                               w->thing);
        json_array_foreach(w->events, i, event)
        {
                if (!is_among(host_text(event, "event"), steps, ARRAY_N(steps)))
                        w->answer = event;
        }
        if (!w->state && is_handover(w->events))
                w->kind = "handover";
        r = read_claims(w, err);
        return r < 0 ? r : read_since(w, err);
}

/* ---- what is said ---- */

static void print_claims(const struct why *w)
{
        char state[HOST_STATE];
        struct table *t = table_new(
                (const char *const[]){"COMPONENT", ">AMOUNT", "STATE", "HOLDER", "FROM", "UNTIL", NULL});
        size_t i;
        json_t *c;

        json_array_foreach(w->claims, i, c)
        {
                if (i == CLAIMS_MAX)
                        break;
                table_text(t, host_text(c, "component"));
                table_amount(t, host_text(c, "component"), host_number(c, "amount"));
                table_text(t, host_text(c, "state"));
                table_text(t, host_text(c, "holder"));
                table_time(t, host_number(c, "start_ms"));
                table_time(t, host_number(c, "end_ms"));
        }
        (void)printf("%s now:\n", is_refused(w) ? "what everybody holds" : "what is held");
        table_print(t, stdout, "nothing");
        table_free(t);
        json_array_foreach(w->unusable, i, c)(void)
                printf("%s: %s\n", host_text(c, "id"), host_state_text(c, state));
        if (json_array_size(w->claims) > CLAIMS_MAX)
                (void)printf("and %zu more (mete ledger)\n", json_array_size(w->claims) - CLAIMS_MAX);
}

static void print_head(const struct why *w)
{
        char state[HOST_STATE], line[1024] = "";
        if (strcmp(w->kind, "component") == 0) {
                (void)printf("%s: %s\n", w->thing, host_state_text(w->state, state));
        } else if (strcmp(w->kind, "move") == 0) {
                host_print_move(w->state);
        } else if (strcmp(w->kind, "vm") == 0) {
                (void)printf("%s: %s\n", w->thing, host_text(w->state, "state"));
        } else if (w->answer) {
                (void)snprintf(line, sizeof(line), "%s: %s: %s", w->thing, host_text(w->answer, "event"),
                               host_text(w->answer, "text"));
                host_print_line(line);
        }
}

static void print(const struct why *w)
{
        size_t i, n_steps = 0, n = json_array_size(w->since);
        json_t *event;

        print_head(w);
        json_array_foreach(w->events, i, event)
        {
                if (is_among(host_text(event, "event"), steps, ARRAY_N(steps)))
                        n_steps++;
                else
                        host_print_event(event, 0, 0);
        }
        if (n_steps)
                (void)printf(
                        "  and %zu steps of how it became usable or came back (mete events --trace %s)\n",
                        n_steps, w->thing);
        if (strcmp(w->kind, "handover") == 0)
                (void)printf("  mete-sp led it, and has the other side's part: mete handover show %s\n",
                             w->thing);
        else if (strcmp(w->kind, "move") != 0)
                print_claims(w);
        if (n)
                (void)puts("since then:");
        json_array_foreach(w->since, i, event)
        {
                if (i + SINCE_MAX >= n)
                        host_print_event(event, 0, 0);
        }
}

static void print_json(const struct why *w)
{
        json_t *all = json_pack("{s:s, s:s, s:O, s:O, s:O, s:O}", "name", w->thing, "kind", w->kind, "events",
                                w->events, "claims", w->claims, "unusable", w->unusable, "since", w->since);
        if (w->state)
                (void)json_object_set(all, "state", w->state);
        if (w->answer)
                (void)json_object_set(all, "answer", (json_t *)w->answer);
        (void)host_json(w->arguments, all);
        json_decref(all);
}

int host_why(const struct arguments *a)
{
        struct why w = {.arguments = a, .thing = a->operands[0], .kind = "request"};
        struct err err = {0};
        int r;

        if (!*w.thing || strlen(w.thing) > 127 || strpbrk(w.thing, "?#&%+ "))
                r = err_set(&err, REASON_INVALID, EINVAL, "'%.64s' is no name", w.thing);
        else
                r = gather(&w, &err);
        if (r == 0 && arguments_option(a, "--json"))
                print_json(&w);
        else if (r == 0)
                print(&w);
        why_done(&w);
        return r < 0 ? verb_fail(a, &err) : EXIT_OK;
}

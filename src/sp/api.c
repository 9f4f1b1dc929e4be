/* SPDX-License-Identifier: Apache-2.0 */
/* sp/api.c - the HTTP API on the Unix socket: who may do what, one handler an operation. What changes
 * something is durable before it is answered. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "json/api.h"
#include "json/read.h"
#include "json/route.h"
#include "sp/lead.h"
#include "sp/sp.h"
#include "sp/upgrade.h"
#include "wire/unix.h"

static const char json_media[] = "application/json";
enum { WAIT_MS = 60000, PAGE = 64, PAGE_MAX = 256 };

/* ---- answers ---- */

void api_reply(struct http_request *req, int status, json_t *body)
{
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        json_decref(body);
        http_reply(req, text ? (unsigned)status : 500, json_media, text, n);
}

static void refuse_status(struct http_request *req, int status, const struct err *err)
{
        struct api_error e = {.code = status, .reason = err->reason};
        (void)snprintf(e.message, sizeof(e.message), "%s", err->sentence);
        api_reply(req, status, api_error_emit(&e));
}

void api_refuse(struct http_request *req, const struct err *err)
{
        refuse_status(req, api_http_status(err->reason), err);
}

void api_answer_server(struct sp *sp, struct http_request *req)
{
        api_reply(req, 200, partition_show(sp));
}

/* ---- who waits ---- */

static void waiter_end(struct sp_waiter *w, const struct err *err)
{
        loop_timer_cancel(&w->late);
        if (err)
                api_refuse(w->req, err);
        else
                api_answer_server(w->sp, w->req);
        g_free(w);
}

void api_answer_all(struct sp *sp, struct sp_waiter **list, const struct err *err)
{
        (void)sp;
        while (*list) {
                struct sp_waiter *w = *list;
                *list = w->next;
                waiter_end(w, err);
        }
}

static bool remove_from(struct sp_waiter **list, const struct sp_waiter *w)
{
        for (; *list; list = &(*list)->next)
                if (*list == w) {
                        *list = w->next;
                        return true;
                }
        return false;
}

static void on_late(void *arg)
{
        struct sp_waiter *w = arg;
        struct err err = {0};
        bool is_found = remove_from(&w->sp->giving_waiters, w);
        for (int k = 0; !is_found && k < w->sp->server.n; k++)
                is_found = remove_from(&w->sp->hypervisors[k].waiters, w);
        (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT,
                      "it is not so yet, and goes on: see 'mete server show' and 'mete server events'");
        waiter_end(w, &err);
}

void api_wait(struct sp *sp, struct sp_waiter **list, struct http_request *req, int64_t timeout_ms)
{
        struct sp_waiter *w = g_new0(struct sp_waiter, 1);
        w->sp = sp;
        w->req = req;
        w->next = *list;
        *list = w;
        loop_timer_init(&w->late, on_late, w);
        loop_timer_in(&w->late, timeout_ms);
}

/* ---- operations ---- */

/* Under which the log has it; one of ours where none was said. */
static void trace_of(struct sp *sp, bool has_id, const char *id, char ret[SP_TRACE])
{
        if (has_id)
                (void)str_copy(ret, SP_TRACE, id);
        else
                (void)snprintf(ret, SP_TRACE, "sp-%" PRId64 "-%" PRIu64, loop_now_ms(), ++sp->n_traces);
}

static bool is_same_partition(const struct sp *sp, const struct server *s, const struct hypervisor_of *all)
{
        bool is_same = sp->server.n == s->n && sp->server.giving.amount == 0;
        for (int k = 0; is_same && k < s->n; k++) {
                const struct hypervisor_of *h = &sp->hypervisors[k];
                is_same = strcmp(sp->server.names[k], s->names[k]) == 0 &&
                          strcmp(h->user, all[k].user) == 0 && strcmp(h->vmm, all[k].vmm) == 0;
                for (uint32_t i = 0; is_same && i < s->n_components; i++) {
                        const struct server_share *a = server_share(&sp->server, i, k),
                                                  *b = server_share(s, i, k);
                        is_same = a->amount == b->amount && a->is_kept == b->is_kept;
                }
        }
        return is_same;
}

/* s is taken on success. */
static int init(struct sp *sp, struct server *s, const struct hypervisor_of *all, const char *trace,
                struct err *err)
{
        struct server before = sp->server;
        if (sp->server.epoch > 0)
                return err_set(
                        err, REASON_BUSY, EEXIST,
                        "this server is partitioned already, otherwise than this (epoch %lld): see 'mete "
                        "server show'; what is free changes hands by 'mete server give'",
                        (long long)sp->server.epoch);
        sp->server = *s;
        for (int k = 0; k < s->n; k++) {
                (void)STR_COPY(sp->hypervisors[k].user, all[k].user);
                (void)STR_COPY(sp->hypervisors[k].vmm, all[k].vmm);
                (void)STR_COPY(sp->hypervisors[k].trace, trace);
        }
        int bad = journal_write(sp, true, trace, "server", "initialised", err,
                                "partitioned for %d hypervisor%s", s->n, s->n == 1 ? "" : "s");
        if (bad) {
                sp->server = before;
                return bad;
        }
        server_done(&before);
        *s = (struct server){0};
        for (int k = 0; k < sp->server.n; k++)
                hypervisor_begin(&sp->hypervisors[k], sp, k);
        return 0;
}

static void do_init(struct sp *sp, struct http_request *req, const json_t *body)
{
        g_autofree struct api_server_init *in = g_new0(struct api_server_init, 1);
        g_autofree struct hypervisor_of *all = g_new0(struct hypervisor_of, SERVER_HYPERVISORS_MAX);
        struct server s = {0};
        struct err err = {0};
        char trace[SP_TRACE];
        int bad = api_server_init_parse(body, in, &err);
        if (!bad)
                bad = partition_make(sp, in, &s, all, &err);
        if (!bad && !is_same_partition(sp, &s, all)) {
                trace_of(sp, in->has_id, in->id, trace);
                bad = init(sp, &s, all, trace, &err);
        }
        server_done(&s);
        if (bad)
                api_refuse(req, &err);
        else
                api_answer_server(sp, req);
}

static void do_order(struct sp *sp, struct http_request *req, const char *name, const json_t *body,
                     bool is_start)
{
        struct api_server_order in = {0};
        struct err err = {0};
        char subject[REQUEST_KEY], trace[SP_TRACE];
        int k = server_find(&sp->server, name);
        int bad = body ? api_server_order_parse(body, &in, &err) : 0;
        if (!bad && k < 0)
                bad = err_set(&err, REASON_NOT_FOUND, ENOENT, "no hypervisor is called %s", name);
        struct hypervisor_of *h = &sp->hypervisors[k < 0 ? 0 : k];
        if (!bad && h->is_wanted != is_start)
                bad = is_start ? upgrading_check_other(sp, k, &err) : upgrading_check_stop(sp, k, &err);
        if (!bad && h->is_wanted != is_start) {
                trace_of(sp, in.has_id, in.id, trace);
                (void)snprintf(subject, sizeof(subject), "hypervisor:%s", name);
                h->is_wanted = is_start;
                bad = journal_write(sp, true, trace, subject, is_start ? "start-asked" : "stop-asked", &err,
                                    is_start ? "it is to run" : "it is to run no more");
                if (bad)
                        h->is_wanted = !is_start;
                else
                        (void)STR_COPY(h->trace, trace);
                h->back_off_ms = 0;
        }
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        api_wait(sp, &h->waiters, req, WAIT_MS);
        hypervisor_look(h);
}

static void do_give(struct sp *sp, struct http_request *req, const json_t *body)
{
        struct api_server_give in = {0};
        struct err err = {0};
        char trace[SP_TRACE];
        if (api_server_give_parse(body, &in, &err)) {
                api_refuse(req, &err);
                return;
        }
        trace_of(sp, in.has_id, in.id, trace);
        give(sp, req, &in, trace);
}

/* ---- handovers ---- */

static json_t *view_handover(const struct leading *l)
{
        struct api_handover *v = g_new0(struct api_handover, 1);
        lead_show(l, v);
        json_t *out = api_handover_emit(v);
        g_free(v);
        return out;
}

static json_t *view_handovers(const struct sp *sp)
{
        json_t *list = json_array();
        for (const struct leading *l = sp->leadings; l; l = l->next)
                json_array_append_new(list, view_handover(l));
        return json_pack("{s:o}", "handovers", list);
}

static struct leading *find_handover(const struct sp *sp, const char *id, struct err *err)
{
        struct leading *l = lead_find(sp, id);
        if (!l)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "there is no handover %.63s", id);
        return l;
}

static void do_handover(struct sp *sp, struct http_request *req, const json_t *body)
{
        struct api_handover_start in = {0};
        struct err err = {0};
        if (api_handover_start_parse(body, &in, &err))
                api_refuse(req, &err);
        else
                lead_ask(sp, req, &in);
}

static json_t *do_cancel(struct sp *sp, const char *id, struct err *err)
{
        struct leading *l = find_handover(sp, id, err);
        bool is_over = l && handover_is_final(&l->core);
        if (!l || (!is_over && lead_cancel(l, REASON_CANCELLED, "somebody wanted it no longer", err)))
                return NULL;
        return view_handover(l);
}

/* ---- upgrades ---- */

static void do_upgrade(struct sp *sp, struct http_request *req, const json_t *body)
{
        g_autofree struct api_upgrade_start *in = g_new0(struct api_upgrade_start, 1);
        struct err err = {0};
        if (api_upgrade_start_parse(body, in, &err) || upgrading_ask(sp, in, &err))
                api_refuse(req, &err);
        else
                api_reply(req, 200, upgrading_view(sp->upgrading));
}

static json_t *view_upgrade(const struct sp *sp, bool is_cancel, struct err *err)
{
        if (!sp->upgrading) {
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no hypervisor of this server was replaced yet");
                return NULL;
        }
        return is_cancel && upgrading_cancel(sp->upgrading, err) < 0 ? NULL : upgrading_view(sp->upgrading);
}

static json_t *view_health(const struct sp *sp)
{
        struct api_health h = {.ok = sp->problem.reason == 0,
                               .uptime_ms = loop_mono_ms() - sp->ready_mono_ms,
                               .has_problem = sp->problem.reason != 0};
        (void)STR_COPY(h.version, METE_VERSION);
        (void)STR_COPY(h.problem, sp->problem.sentence);
        return api_health_emit(&h);
}

static json_t *view_events(struct sp *sp, const char *query, struct err *err)
{
        struct api_event_query q = {0};
        if (api_event_query_read(query, &q, err))
                return NULL;
        g_autofree struct store_event *events = g_new(struct store_event, PAGE_MAX);
        int n = store_events(sp->store, q.has_after ? q.after : 0, q.has_trace ? q.trace : NULL, events,
                             q.has_limit ? (int)q.limit : PAGE, err);
        if (n < 0)
                return NULL;
        json_t *list = json_array();
        for (int i = 0; i < n; i++) {
                struct api_event e = {.seq = events[i].seq, .at_ms = events[i].at_ms};
                (void)STR_COPY(e.trace, events[i].trace);
                (void)STR_COPY(e.subject, events[i].subject);
                (void)STR_COPY(e.event, events[i].event);
                (void)STR_COPY(e.text, events[i].text);
                json_array_append_new(list, api_event_emit(&e));
        }
        return json_pack("{s:o}", "events", list);
}

static void reply_metrics(const struct sp *sp, struct http_request *req)
{
        size_t n = 0;
        char *text = NULL;
        FILE *f = open_memstream(&text, &n);
        if (!f) {
                http_reply(req, 500, json_media, NULL, 0);
                return;
        }
        const struct {
                const char *name, *type, *help;
                uint64_t value;
        } rows[] = {
                {"epoch",           "gauge",   "Epoch of the partition of the server; 0: there is none.",
                 (uint64_t)sp->server.epoch                                                                                         },
                {"giving",          "gauge",   "Whether something is on its way between hypervisors.",
                 sp->server.giving.amount > 0                                                                                       },
                {"handovers_total", "counter", "Handovers that were ever begun.",                         sp->handovers             },
                {"handing_over",    "gauge",   "VMs that are being handed over.",                         lead_count(sp)            },
                {"upgrading",       "gauge",   "Whether a hypervisor is being replaced.",                 upgrading_is_under_way(sp)},
                {"commits_total",   "counter", "Transactions of the journal.",                            sp->commits               },
                {"requests_total",  "counter", "HTTP requests.",                                          sp->requests              },
                {"denied_total",    "counter", "HTTP requests of those who may not.",                     sp->refused               },
        };
        for (size_t i = 0; i < ARRAY_N(rows); i++)
                (void)fprintf(f, "# HELP mete_sp_%s %s\n# TYPE mete_sp_%s %s\nmete_sp_%s %" PRIu64 "\n",
                              rows[i].name, rows[i].help, rows[i].name, rows[i].type, rows[i].name,
                              rows[i].value);
        (void)fprintf(f, "# HELP mete_sp_hypervisor_running Whether it has taken its partition.\n"
                         "# TYPE mete_sp_hypervisor_running gauge\n");
        for (int k = 0; k < sp->server.n; k++)
                (void)fprintf(f, "mete_sp_hypervisor_running{hypervisor=\"%s\"} %d\n", sp->server.names[k],
                              sp->hypervisors[k].state == API_SERVER_STATE_RUNNING);
        (void)fprintf(
                f,
                "# HELP mete_sp_hypervisor_restarts_total Starts again after an end that nobody asked for.\n"
                "# TYPE mete_sp_hypervisor_restarts_total counter\n");
        for (int k = 0; k < sp->server.n; k++)
                (void)fprintf(f, "mete_sp_hypervisor_restarts_total{hypervisor=\"%s\"} %" PRIu64 "\n",
                              sp->server.names[k], sp->hypervisors[k].restarts);
        (void)fclose(f);
        http_reply(req, 200, "text/plain; version=0.0.4", text, n);
}

/* ---- who may do what ---- */

static enum api_role role_of(const struct sp *sp, uid_t uid)
{
        if (uid == 0)
                return API_ROLE_OPERATOR;
        for (int i = 0; i < sp->config.n_operators; i++)
                if (sp->config.operators[i] == uid)
                        return API_ROLE_OPERATOR;
        return sp->config.observers ? API_ROLE_OBSERVER : 0;
}

static void dispatch(struct sp *sp, struct http_request *req, enum api_sp_operation op, const char *part,
                     const json_t *body)
{
        struct err err = {0};
        json_t *out = NULL;
        switch (op) {
        case API_SP_OPERATION_HEALTH:
                out = view_health(sp);
                break;
        case API_SP_OPERATION_OPENAPI:
                http_reply_text(req, 200, json_media, api_sp_openapi);
                return;
        case API_SP_OPERATION_METRICS:
                reply_metrics(sp, req);
                return;
        case API_SP_OPERATION_SERVER_SHOW:
                out = partition_show(sp);
                break;
        case API_SP_OPERATION_SERVER_INIT:
                do_init(sp, req, body);
                return;
        case API_SP_OPERATION_SERVER_GIVE:
                do_give(sp, req, body);
                return;
        case API_SP_OPERATION_UPGRADE_START:
                do_upgrade(sp, req, body);
                return;
        case API_SP_OPERATION_UPGRADE_SHOW:
        case API_SP_OPERATION_UPGRADE_CANCEL:
                out = view_upgrade(sp, op == API_SP_OPERATION_UPGRADE_CANCEL, &err);
                break;
        case API_SP_OPERATION_HYPERVISOR_START:
                do_order(sp, req, part, body, true);
                return;
        case API_SP_OPERATION_HYPERVISOR_STOP:
                do_order(sp, req, part, body, false);
                return;
        case API_SP_OPERATION_GIVE_CANCEL:
                out = give_cancel(sp, &err) ? NULL : partition_show(sp);
                break;
        case API_SP_OPERATION_HANDOVER_START:
                do_handover(sp, req, body);
                return;
        case API_SP_OPERATION_HANDOVER_LIST:
                out = view_handovers(sp);
                break;
        case API_SP_OPERATION_HANDOVER_SHOW: {
                const struct leading *l = find_handover(sp, part, &err);
                out = l ? view_handover(l) : NULL;
                break;
        }
        case API_SP_OPERATION_HANDOVER_CANCEL:
                out = do_cancel(sp, part, &err);
                break;
        case API_SP_OPERATION_EVENT_LIST:
                out = view_events(sp, req->query, &err);
                break;
        case API_SP_OPERATION_HANDOVER_MESSAGE: /* role hypervisor: at its own socket alone */
        case API_SP_OPERATION_N:
                break;
        }
        if (out)
                api_reply(req, 200, out);
        else
                api_refuse(req, &err);
}

static void on_request(void *arg, struct http_request *req)
{
        struct sp *sp = arg;
        struct err err = {0};
        char part[ROUTE_PART];
        sp->requests++;
        const struct api_route *route =
                route_find(api_sp_routes, api_sp_routes_n, req->method, req->path, part, &err);
        if (!route) {
                refuse_status(req, err.code == ENOTSUP ? 405 : api_http_status(err.reason), &err);
                return;
        }
        if (!api_role_may(role_of(sp, req->peer.uid), route)) {
                sp->refused++;
                (void)err_set(&err, REASON_DENIED, EACCES, "this takes an operator; see [roles] in sp.conf");
                api_refuse(req, &err);
                return;
        }
        json_t *body = req->body_n ? json_read(req->body, req->body_n, &err) : NULL;
        if (req->body_n && !body)
                api_refuse(req, &err);
        else
                dispatch(sp, req, (enum api_sp_operation)route->operation, part, body);
        json_decref(body);
}

int api_start(struct sp *sp, struct err *err)
{
        struct http_limits limits = {0};
        int fd = unix_listen(sp->config.socket, (mode_t)sp->config.socket_mode, err);
        if (fd < 0)
                return fd;
        sp->http = http_server_new(fd, &limits, on_request, sp, err);
        if (sp->http)
                return 0;
        (void)close(fd);
        return -EIO;
}

void api_stop(struct sp *sp)
{
        struct err err = {0};
        if (!sp->http)
                return; /* the path is not ours */
        (void)err_set(&err, REASON_CANCELLED, ECANCELED, "mete-sp ends");
        api_answer_all(sp, &sp->giving_waiters, &err);
        for (int k = 0; k < sp->server.n; k++) {
                api_answer_all(sp, &sp->hypervisors[k].waiters, &err);
                lead_listen_end(&sp->hypervisors[k]);
        }
        lead_ask_end(sp);
        http_server_free(sp->http);
        sp->http = NULL;
        (void)unlink(sp->config.socket);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* manager/api.c - the HTTP API on the Unix socket and by TLS: who may do what, one handler an operation. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "json/read.h"
#include "json/route.h"
#include "manager/manager.h"
#include "wire/tcp.h"
#include "wire/unix.h"

static const char json_media[] = "application/json";

/* ---- answers ---- */

static void reply(struct http_request *req, int status, json_t *body)
{
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        json_decref(body);
        http_reply(req, text ? (unsigned)status : 500, json_media, text, n);
}

void api_reply(struct http_request *req, json_t *body)
{
        reply(req, 200, body);
}

void api_words(const char *of, json_t *body, char ret[MANAGER_WORDS])
{
        char *text = body ? json_write(body, NULL) : NULL;
        g_autofree char *all = g_strdup_printf("%s %s", of, text ? text : "");
        g_autofree char *digest = g_compute_checksum_for_string(G_CHECKSUM_SHA256, all, -1);
        (void)snprintf(ret, MANAGER_WORDS, "%s", digest);
        json_decref(body);
        free(text);
}

static void refuse_status(struct http_request *req, int status, const struct err *err)
{
        struct api_error e = {.code = status, .reason = err->reason};
        (void)snprintf(e.message, sizeof(e.message), "%s", err->sentence);
        reply(req, status, api_error_emit(&e));
}

void api_refuse(struct http_request *req, const struct err *err)
{
        refuse_status(req, api_http_status(err->reason), err);
}

/* ---- what only looks ---- */

/* Can what is decided be recorded? Until it can nothing is. */
static bool is_ready(const struct manager *m, struct err *err)
{
        if (m->is_unwritten)
                *err = m->problem;
        return !m->is_unwritten && record_is_ready(m->record, err);
}

/* Nobody else can lead yet: what is known here is so. */
static bool is_sure(const struct manager *m)
{
        return m->is_leading && record_is_ready(m->record, NULL);
}

static json_t *health(const struct manager *m)
{
        struct err problem = {0};
        struct api_health out = {.ok = is_ready(m, &problem), .uptime_ms = loop_mono_ms() - m->ready_mono_ms};
        (void)snprintf(out.version, sizeof(out.version), "%s", METE_VERSION);
        out.has_problem = !out.ok;
        (void)snprintf(out.problem, sizeof(out.problem), "%s", problem.sentence);
        return api_health_emit(&out);
}

static void line(GString *to, const char *name, const char *kind, const char *help, uint64_t value)
{
        g_string_append_printf(
                to, "# HELP mete_manager_%s %s\n# TYPE mete_manager_%s %s\nmete_manager_%s %" PRIu64 "\n",
                name, help, name, kind, name, value);
}

/* Without those of what only who leads has. */
static void do_metrics(const struct manager *m, struct http_request *req)
{
        GString *to = g_string_new(NULL);
        size_t there = 0;
        line(to, "leads", "gauge", "1 where this manager leads; 0 where another does, or none can.",
             is_sure(m));
        line(to, "requests_total", "counter", "Requests to this API.", m->counters.requests);
        line(to, "denied_total", "counter", "Requests of those who may not make them.", m->counters.denied);
        line(to, "unwritten", "gauge", "1 where decisions cannot be recorded.", m->is_unwritten);
        if (!m->is_leading) {
                http_reply_text(req, 200, "text/plain; version=0.0.4", to->str);
                (void)g_string_free(to, TRUE);
                return;
        }
        size_t hosts = fleet_count(m, &there);
        line(to, "hosts", "gauge", "Hosts of hosts.conf.", hosts);
        line(to, "hosts_reachable", "gauge", "Hosts that answered when they were asked last.", there);
        line(to, "orders", "gauge", "Orders under way.", orders_live(m));
        line(to, "drains", "gauge", "Drains under way.", drains_live(m));
        line(to, "rounds_total", "counter", "Moves that hosts were asked for.", m->counters.rounds);
        line(to, "calls_total", "counter", "Requests to hosts.", m->counters.calls);
        g_string_append(to, "# HELP mete_manager_orders_ended_total Orders that ended, by how.\n"
                            "# TYPE mete_manager_orders_ended_total counter\n");
        for (enum order_state s = ORDER_DONE; s < ORDER_STATE_N; s++)
                g_string_append_printf(to, "mete_manager_orders_ended_total{state=\"%s\"} %" PRIu64 "\n",
                                       order_state_name(s), m->counters.ended[s]);
        http_reply_text(req, 200, "text/plain; version=0.0.4", to->str);
        (void)g_string_free(to, TRUE);
}

/* ---- who may do what ---- */

static enum api_role role_of(const struct manager *m, uid_t uid)
{
        if (uid == 0 || uid == getuid())
                return API_ROLE_OPERATOR;
        for (int i = 0; i < m->config.n_operators; i++)
                if (m->config.operators[i] == uid)
                        return API_ROLE_OPERATOR;
        return m->config.observers ? API_ROLE_OBSERVER : 0;
}

/* By its certificate: operators alone. A host has nothing to say here but in answer, and another manager
 * would move what this one moves. */
static enum api_role role_of_caller(const struct http_caller *caller, struct err *err)
{
        if (caller->id.role == CERT_OPERATOR)
                return API_ROLE_OPERATOR;
        (void)err_set(err, REASON_DENIED, EACCES, "%s%s",
                      caller->id.role ? "this takes a certificate of role operator, and not of "
                                      : caller->why,
                      caller->id.role ? cert_role_name(caller->id.role) : "");
        return 0;
}

/* What is decided here is answered when it is recorded: where that cannot be, it is not begun. Who does not
 * lead, or may have lost the lead, knows nothing to be looked at: another may have gone on. */
static bool may_now(const struct manager *m, const struct api_route *route, struct err *err)
{
        switch ((enum api_manager_operation)route->operation) {
        case API_MANAGER_OPERATION_HEALTH:
        case API_MANAGER_OPERATION_OPENAPI:
        case API_MANAGER_OPERATION_METRICS:
                return true;
        case API_MANAGER_OPERATION_HOST_LIST:
        case API_MANAGER_OPERATION_ORDER_LIST:
        case API_MANAGER_OPERATION_ORDER_SHOW:
        case API_MANAGER_OPERATION_DRAIN_LIST:
        case API_MANAGER_OPERATION_DRAIN_SHOW:
        case API_MANAGER_OPERATION_EVENT_LIST:
                if (is_sure(m))
                        return true;
                break;
        case API_MANAGER_OPERATION_ORDER_CREATE:
        case API_MANAGER_OPERATION_ORDER_ACCEPT:
        case API_MANAGER_OPERATION_ORDER_DECLINE:
        case API_MANAGER_OPERATION_ORDER_CANCEL:
        case API_MANAGER_OPERATION_DRAIN_CREATE:
        case API_MANAGER_OPERATION_DRAIN_CANCEL:
        case API_MANAGER_OPERATION_N:
                break;
        }
        struct err why = {0};
        if (m->is_leading && is_ready(m, &why))
                return true;
        if (!why.reason)
                (void)record_is_ready(m->record, &why);
        const char *what = !m->is_leading ? ""
                           : is_sure(m)   ? "nothing can be recorded now: "
                                          : "another manager may lead by now: ";
        (void)err_set(err, REASON_BUSY, EBUSY, "%s%s", what,
                      why.reason ? why.sentence : "it begins just now; ask again");
        return false;
}

static void dispatch(struct manager *m, struct http_request *req, enum api_manager_operation op,
                     const char *part, const json_t *body)
{
        struct err err = {0};
        json_t *out = NULL;
        switch (op) {
        case API_MANAGER_OPERATION_HEALTH:
                out = health(m);
                break;
        case API_MANAGER_OPERATION_OPENAPI:
                http_reply_text(req, 200, json_media, api_manager_openapi);
                return;
        case API_MANAGER_OPERATION_METRICS:
                do_metrics(m, req);
                return;
        case API_MANAGER_OPERATION_HOST_LIST:
                out = fleet_view(m, req->query, &err);
                break;
        case API_MANAGER_OPERATION_ORDER_CREATE:
                orders_ask(m, req, part, body);
                return;
        case API_MANAGER_OPERATION_ORDER_LIST:
                out = orders_list(m, req->query, &err);
                break;
        case API_MANAGER_OPERATION_ORDER_SHOW:
                out = orders_show(m, part, &err);
                break;
        case API_MANAGER_OPERATION_ORDER_ACCEPT:
                orders_accept(m, req, part, body);
                return;
        case API_MANAGER_OPERATION_ORDER_DECLINE:
                orders_decline(m, req, part);
                return;
        case API_MANAGER_OPERATION_ORDER_CANCEL:
                orders_cancel(m, req, part);
                return;
        case API_MANAGER_OPERATION_DRAIN_CREATE:
                drains_ask(m, req, part, body);
                return;
        case API_MANAGER_OPERATION_DRAIN_LIST:
                out = drains_list(m, req->query, &err);
                break;
        case API_MANAGER_OPERATION_DRAIN_SHOW:
                out = drains_show(m, part, &err);
                break;
        case API_MANAGER_OPERATION_DRAIN_CANCEL:
                drains_cancel(m, req, part);
                return;
        case API_MANAGER_OPERATION_EVENT_LIST:
                events_ask(m, req);
                return;
        case API_MANAGER_OPERATION_N:
                break;
        }
        if (out)
                reply(req, 200, out);
        else
                api_refuse(req, &err);
}

static void on_request(void *arg, struct http_request *req)
{
        struct manager *m = arg;
        struct err err = {0};
        char part[ROUTE_PART];
        m->counters.requests++;
        enum api_role role = req->caller ? role_of_caller(req->caller, &err) : role_of(m, req->peer.uid);
        if (req->caller && !role) { /* not even which paths there are */
                m->counters.denied++;
                api_refuse(req, &err);
                return;
        }
        const struct api_route *route =
                route_find(api_manager_routes, api_manager_routes_n, req->method, req->path, part, &err);
        if (!route) {
                refuse_status(req, err.code == ENOTSUP ? 405 : api_http_status(err.reason), &err);
                return;
        }
        if (!api_role_may(role, route)) {
                m->counters.denied++;
                (void)err_set(&err, REASON_DENIED, EACCES,
                              role ? "this takes an operator; see [roles] in mete.conf(5)"
                                   : "this uid has no role here; see [roles] in mete.conf(5)");
                api_refuse(req, &err);
                return;
        }
        if (!may_now(m, route, &err)) {
                api_refuse(req, &err);
                return;
        }
        json_t *body = req->body_n ? json_read(req->body, req->body_n, &err) : NULL;
        if (req->body_n && !body)
                api_refuse(req, &err);
        else
                dispatch(m, req, (enum api_manager_operation)route->operation, part, body);
        json_decref(body);
}

int api_start(struct manager *m, struct err *err)
{
        const struct http_limits limits = {0};
        int fd = unix_listen(m->config.socket, (mode_t)m->config.socket_mode, err);
        if (fd < 0)
                return fd;
        m->http = http_server_new(fd, &limits, on_request, m, err);
        if (!m->http) {
                close(fd);
                return -EIO;
        }
        if (!*m->config.tls)
                return 0;
        fd = tcp_listen(&m->config.tls_address, err);
        if (fd < 0)
                return fd;
        m->http_tls = http_server_new_tls(fd, &m->config.files, &limits, on_request, m, err);
        if (!m->http_tls) {
                close(fd);
                return -EIO;
        }
        return 0;
}

void api_stop(struct manager *m)
{
        if (!m->http)
                return; /* the path is not ours */
        http_server_free(m->http_tls);
        http_server_free(m->http);
        m->http = m->http_tls = NULL;
        (void)unlink(m->config.socket);
}

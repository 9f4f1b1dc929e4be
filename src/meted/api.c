/* SPDX-License-Identifier: Apache-2.0 */
/* meted/api.c - the HTTP API on the Unix socket and by TLS: who may do what, one handler an operation.
 *
 * Handlers parse, call the hypervisor, and either answer at once (what only looks) or leave a waiter (what
 * decides), so that the answer comes when the decision is durable. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "json/api.h"
#include "json/read.h"
#include "json/route.h"
#include "meted/api-internal.h"
#include "meted/consolidate.h"
#include "meted/health.h"
#include "meted/machine.h"
#include "meted/handover.h"
#include "meted/moves.h"
#include "meted/metrics.h"
#include "meted/partition.h"
#include "meted/view.h"
#include "wire/http.h"
#include "wire/tcp.h"
#include "wire/unix.h"

static const char json_media[] = "application/json";

/* ---- answers ---- */

void api_reply(struct http_request *req, int status, json_t *body)
{
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        json_decref(body);
        if (text)
                http_reply(req, (unsigned)status, json_media, text, n);
        else
                http_reply(req, 500, json_media, NULL, 0);
}

void api_refuse_status(struct http_request *req, int status, const struct err *err)
{
        struct api_error e = {.code = status, .reason = err->reason};
        (void)snprintf(e.message, sizeof(e.message), "%s", err->sentence);
        api_reply(req, status, api_error_emit(&e));
}

void api_refuse(struct http_request *req, const struct err *err)
{
        api_refuse_status(req, api_http_status(err->reason), err);
}

void api_refuse_with(struct http_request *req, enum reason reason, const char *sentence)
{
        struct err err = {0};
        (void)err_set(&err, reason, EINVAL, "%s", sentence);
        api_refuse(req, &err);
}

void api_reply_vm(struct http_request *req, const struct machine *v)
{
        struct api_vm *out = g_new0(struct api_vm, 1);
        view_vm(v, out);
        api_reply(req, 200, api_vm_emit(out));
        g_free(out);
}

/* ---- reservations ---- */

static void answer_verdict(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct http_request *req = call;
        struct api_verdict v;
        if (err) {
                api_refuse(req, err);
                return;
        }
        verdict_of(m, r, &v);
        api_reply(req, 200, api_verdict_emit(&v));
}

static void answer_empty(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        (void)m;
        (void)r;
        if (err)
                api_refuse(call, err);
        else
                api_reply(call, 200, json_object());
}

static void do_reserve(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_reservation_create in;
        struct need needs[NEEDS_MAX];
        const char *texts[NEEDS_MAX];
        struct err err = {0};
        uint64_t serial;
        int bad = api_reservation_create_parse(body, &in, &err);
        for (size_t i = 0; !bad && i < in.n_needs; i++)
                texts[i] = in.needs[i];
        if (!bad && strncmp(in.id, MOVES_RESERVE, strlen(MOVES_RESERVE)) == 0)
                bad = err_set(&err, REASON_INVALID, EINVAL,
                              "ids that begin with " MOVES_RESERVE " are of moves");
        if (!bad)
                bad = needs_parse(texts, in.n_needs, needs, &err);
        if (!bad) {
                struct ask ask = {
                        .kind = REQUEST_RESERVATION,
                        .id = in.id,
                        .needs = needs,
                        .n_needs = in.n_needs,
                        .start_ms = in.has_start_ms ? in.start_ms : 0,
                        .end_ms = in.has_end_ms ? in.end_ms : LEDGER_OPEN,
                };
                bad = hypervisor_ask(m->hv, &ask, loop_now_ms(), &serial, &err);
        }
        if (bad) {
                api_refuse(req, &err);
                return;
        }
        m->counters.decisions++;
        meted_wait(m, serial, WAIT_VERDICT, answer_verdict, req);
        meted_changed(m);
}

static void do_unreserve(struct meted *m, struct http_request *req, const char *id)
{
        char key[REQUEST_KEY];
        struct err err = {0};
        uint64_t serial;
        (void)snprintf(key, sizeof(key), "reservation:%s", id);
        if (hypervisor_release(m->hv, key, "released", loop_now_ms(), &serial, &err)) {
                api_refuse(req, &err);
                return;
        }
        meted_wait(m, serial, WAIT_RELEASE, answer_empty, req);
        meted_changed(m);
}

/* ---- what can be used ---- */

struct changing {
        struct http_request *req;
        struct api_component_changed out;
};

static void answer_changed(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        g_autofree struct changing *c = call;
        (void)m;
        (void)r;
        if (err)
                api_refuse(c->req, err);
        else
                api_reply(c->req, 200, api_component_changed_emit(&c->out));
}

static void changing(struct meted *m, struct http_request *req, const struct api_component_changed *out)
{
        struct changing *c = g_new(struct changing, 1);
        *c = (struct changing){req, *out};
        meted_wait(m, 0, WAIT_COMMIT, answer_changed, c);
}

static void do_offline(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_component_offline in;
        struct api_component_changed out = {0};
        struct err err = {0};
        int bad = api_component_offline_parse(body, &in, &err);
        if (!bad)
                bad = health_offline(m, &in, &out, &err);
        if (bad)
                api_refuse(req, &err);
        else
                changing(m, req, &out);
        meted_changed(m);
}

static void do_online(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_component_online in;
        struct api_component_changed out = {0};
        struct err err = {0};
        int bad = api_component_online_parse(body, &in, &err);
        if (!bad)
                bad = health_online(m, in.component, &out, &err);
        if (bad)
                api_refuse(req, &err);
        else
                changing(m, req, &out);
        meted_changed(m);
}

/* ---- moves ---- */

static void do_peer_move(struct meted *m, struct http_request *req, const json_t *body)
{
        struct err err = {0};
        if (moves_hear(m, req->caller->id.name, &req->from, body, &err))
                api_refuse(req, &err);
        else
                meted_wait(m, 0, WAIT_COMMIT, answer_empty, req);
        meted_changed(m);
}

/* ---- events ---- */

static void do_events(struct meted *m, struct http_request *req, const char *query)
{
        struct api_event_query q = {0};
        struct err err = {0};
        if (api_event_query_read(query, &q, &err)) {
                api_refuse(req, &err);
                return;
        }
        const char *accept = http_request_header(req, "Accept");
        if (accept && strstr(accept, "text/event-stream")) {
                events_follow(m, req, q.has_after ? q.after : store_last_event(m->store),
                              q.has_trace ? q.trace : NULL);
                return;
        }
        json_t *page = view_events(m, &q, &err);
        if (page)
                api_reply(req, 200, page);
        else
                api_refuse(req, &err);
}

/* ---- who may do what ---- */

static enum api_role role_of(const struct meted *m, uid_t uid)
{
        if (uid == 0 || uid == getuid())
                return API_ROLE_OPERATOR;
        for (int i = 0; i < m->config.n_operators; i++)
                if (m->config.operators[i] == uid)
                        return API_ROLE_OPERATOR;
        return m->config.observers ? API_ROLE_OBSERVER : 0;
}

/* By its certificate. A hypervisor must be one of peers.conf besides; managers and operators are whom the
 * authority says. 0: *err says why not. */
static enum api_role role_of_caller(const struct meted *m, const struct http_caller *caller, struct err *err)
{
        switch (caller->id.role) {
        case CERT_HYPERVISOR:
                return peers_check(m, &caller->id, err) ? 0 : API_ROLE_HYPERVISOR;
        case CERT_MANAGER:
                return API_ROLE_MANAGER;
        case CERT_OPERATOR:
                return API_ROLE_OPERATOR;
        case CERT_ROLE_N:
                break;
        }
        (void)err_set(err, REASON_DENIED, EACCES, "%s", caller->why);
        return 0;
}

static void refuse_role(struct http_request *req, enum api_role has, enum api_role needs)
{
        struct err err = {0};
        if (req->caller)
                (void)err_set(&err, REASON_DENIED, EACCES,
                              "this takes the role %s, and the certificate has %s", api_role_name(needs),
                              api_role_name(has));
        else if (needs == API_ROLE_HYPERVISOR)
                (void)err_set(&err, REASON_DENIED, EACCES, "this is for peers, over TLS");
        else
                (void)err_set(&err, REASON_DENIED, EACCES,
                              has ? "this takes an operator; see [roles] in mete.conf(5)"
                                  : "this uid has no role here; see [roles] in mete.conf(5)");
        api_refuse(req, &err);
}

static void dispatch(struct meted *m, struct http_request *req, enum api_operation op, const char *part,
                     const json_t *body, const char *query)
{
        struct machine *v = NULL;
        struct err err = {0};
        json_t *out = NULL;
        if (op == API_OPERATION_VM_SHOW || op == API_OPERATION_VM_DELETE || op == API_OPERATION_VM_START ||
            op == API_OPERATION_VM_STOP || op == API_OPERATION_VM_KILL || op == API_OPERATION_VM_VERIFY ||
            op == API_OPERATION_VM_MOVE) {
                v = machine_find(m, part);
                if (!v) {
                        (void)err_set(&err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", part);
                        api_refuse(req, &err);
                        return;
                }
        }
        bool is_change = op == API_OPERATION_VM_DELETE || op == API_OPERATION_VM_START ||
                         op == API_OPERATION_VM_STOP || op == API_OPERATION_VM_KILL;
        if ((is_change && moves_check(m, v, &err)) ||
            ((is_change || op == API_OPERATION_VM_MOVE) && handovers_check(m, v, &err)) ||
            (op == API_OPERATION_VM_MOVE && partition_check_move(m, part, body, &err))) {
                api_refuse(req, &err);
                return;
        }
        switch (op) {
        case API_OPERATION_HEALTH:
                out = view_health(m);
                break;
        case API_OPERATION_OPENAPI:
                http_reply_text(req, 200, json_media, api_meted_openapi);
                return;
        case API_OPERATION_METRICS: {
                size_t n;
                char *text = metrics_text(m, &n);
                http_reply(req, 200, "text/plain; version=0.0.4", text, n);
                return;
        }
        case API_OPERATION_HOST_SHOW:
                out = view_host(m);
                break;
        case API_OPERATION_VM_LIST:
                out = view_vms(m, query, &err);
                break;
        case API_OPERATION_PEER_LIST:
                out = peers_view(m, query, &err);
                break;
        case API_OPERATION_PEER_HELLO:
                out = peers_hello(m);
                break;
        case API_OPERATION_LEDGER_SHOW:
                out = view_ledger(m, query, &err);
                break;
        case API_OPERATION_LEASE_LIST:
                out = view_leases(m, query, &err);
                break;
        case API_OPERATION_DEFINITION_LIST:
                out = view_definitions(m, query, &err);
                break;
        case API_OPERATION_MOVE_LIST:
                out = moves_list(m, query, &err);
                break;
        case API_OPERATION_MOVE_SHOW:
                out = moves_show(m, part, &err);
                break;
        case API_OPERATION_PARTITION_SHOW:
                out = partition_view(m);
                break;
        case API_OPERATION_PARTITION_SET:
                partition_set(m, req, body);
                return;
        case API_OPERATION_HANDOVER_MESSAGE:
                handovers_hear(m, req, body);
                return;
        case API_OPERATION_PEER_MOVE:
                do_peer_move(m, req, body);
                return;
        case API_OPERATION_VM_MOVE:
                moves_ask(m, req, v, body);
                return;
        case API_OPERATION_MOVE_CANCEL:
                moves_cancel(m, req, part);
                return;
        case API_OPERATION_MOVE_ACCEPT:
                moves_accept(m, req, part, body);
                return;
        case API_OPERATION_VM_CREATE:
                api_vm_create(m, req, body);
                return;
        case API_OPERATION_VM_SHOW:
                api_reply_vm(req, v);
                return;
        case API_OPERATION_VM_DELETE:
                api_vm_delete(m, req, v);
                return;
        case API_OPERATION_VM_START:
                api_vm_start(m, req, v);
                return;
        case API_OPERATION_VM_STOP:
                api_vm_stop(m, req, v, body);
                return;
        case API_OPERATION_VM_KILL:
                api_vm_kill(m, req, v);
                return;
        case API_OPERATION_VM_VERIFY:
                api_vm_verify(m, req, v);
                return;
        case API_OPERATION_RESERVATION_CREATE:
                do_reserve(m, req, body);
                return;
        case API_OPERATION_RESERVATION_DELETE:
                do_unreserve(m, req, part);
                return;
        case API_OPERATION_CONSOLIDATE:
                consolidate_ask(m, req, body);
                return;
        case API_OPERATION_CONSOLIDATION_SHOW:
                out = consolidate_show(m, &err);
                break;
        case API_OPERATION_CONSOLIDATION_CANCEL:
                consolidate_cancel(m, req);
                return;
        case API_OPERATION_COMPONENT_OFFLINE:
                do_offline(m, req, body);
                return;
        case API_OPERATION_COMPONENT_ONLINE:
                do_online(m, req, body);
                return;
        case API_OPERATION_EVENT_LIST:
                do_events(m, req, query);
                return;
        case API_OPERATION_N:
                break;
        }
        if (out)
                api_reply(req, 200, out);
        else
                api_refuse(req, &err);
}

static void on_request(void *arg, struct http_request *req)
{
        struct meted *m = arg;
        struct err err = {0};
        char part[ROUTE_PART];
        m->counters.http_requests++;
        enum api_role role = req->caller ? role_of_caller(m, req->caller, &err) : role_of(m, req->peer.uid);
        if (req->caller && !role) { /* not even which paths there are */
                m->counters.denied++;
                api_refuse(req, &err);
                return;
        }
        const struct api_route *route =
                route_find(api_meted_routes, api_meted_routes_n, req->method, req->path, part, &err);
        if (!route) {
                api_refuse_status(req, err.code == ENOTSUP ? 405 : api_http_status(err.reason), &err);
                return;
        }
        if (!api_role_may(role, route)) {
                refuse_role(req, role, route->role);
                return;
        }
        json_t *body = req->body_n ? json_read(req->body, req->body_n, &err) : NULL;
        if (req->body_n && !body)
                api_refuse(req, &err);
        else
                dispatch(m, req, route->operation, part, body, req->query);
        json_decref(body);
}

static int start_tls(struct meted *m, struct err *err)
{
        struct http_limits limits = {0};
        int fd = tcp_listen(&m->config.tls_address, err);
        if (fd < 0)
                return fd;
        m->http_tls = http_server_new_tls(fd, &m->config.files, &limits, on_request, m, err);
        if (!m->http_tls) {
                close(fd);
                return -EIO;
        }
        return 0;
}

int api_start(struct meted *m, struct err *err)
{
        int fd = unix_listen(m->config.socket, (mode_t)m->config.socket_mode, err);
        if (fd < 0)
                return fd;
        struct http_limits limits = {0};
        m->http = http_server_new(fd, &limits, on_request, m, err);
        if (!m->http) {
                close(fd);
                return -EIO;
        }
        return *m->config.tls ? start_tls(m, err) : 0;
}

void api_stop(struct meted *m)
{
        if (!m->http)
                return; /* the path is not ours: somebody else listens there, or it is no socket at all */
        http_server_free(m->http_tls);
        http_server_free(m->http);
        m->http = m->http_tls = NULL;
        (void)unlink(m->config.socket);
}

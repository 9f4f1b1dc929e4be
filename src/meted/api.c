/* SPDX-License-Identifier: Apache-2.0 */
/* meted/api.c - the HTTP API on the Unix socket and by TLS: who may do what, one handler an operation.
 *
 * Handlers parse, call the hypervisor, and either answer at once (what only looks) or leave a waiter (what
 * decides), so that the answer comes when the decision is durable. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "json/api.h"
#include "json/read.h"
#include "json/route.h"
#include "meted/activate.h"
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

static void reply(struct http_request *req, int status, json_t *body)
{
        size_t n = 0;
        char *text = body ? json_write(body, &n) : NULL;
        json_decref(body);
        if (text)
                http_reply(req, (unsigned)status, json_media, text, n);
        else
                http_reply(req, 500, json_media, NULL, 0);
}

static void refuse_status(struct http_request *req, int status, const struct err *err)
{
        struct api_error e = {.code = status, .reason = err->reason};
        (void)snprintf(e.message, sizeof(e.message), "%s", err->sentence);
        reply(req, status, api_error_emit(&e));
}

static void refuse(struct http_request *req, const struct err *err)
{
        refuse_status(req, api_http_status(err->reason), err);
}

void api_refuse(struct http_request *req, const struct err *err)
{
        refuse(req, err);
}

static void refuse_with(struct http_request *req, enum reason reason, const char *sentence)
{
        struct err err = {0};
        (void)err_set(&err, reason, EINVAL, "%s", sentence);
        refuse(req, &err);
}

static void reply_vm(struct http_request *req, const struct machine *v)
{
        struct api_vm *out = g_new0(struct api_vm, 1);
        view_vm(v, out);
        reply(req, 200, api_vm_emit(out));
        g_free(out);
}

/* An HTTP request that waits for something to happen to a VM. */
struct pending {
        struct meted *m;
        struct http_request *req;
        char vm[64];
        char *record; /* of a VM that is being deleted, to take it back; malloc'ed */
        bool is_start;
        struct loop_timer late;
};

static void on_stop_late(void *arg);

static struct pending *pending_new(struct meted *m, struct http_request *req, const char *vm)
{
        struct pending *p = g_new0(struct pending, 1);
        p->m = m;
        p->req = req;
        (void)snprintf(p->vm, sizeof(p->vm), "%s", vm);
        loop_timer_init(&p->late, on_stop_late, p);
        return p;
}

static void pending_free(struct pending *p)
{
        loop_timer_cancel(&p->late);
        free(p->record);
        g_free(p);
}

/* ---- VMs ---- */

static void answer_vm_created(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct pending *p = call;
        struct machine *v = machine_find(m, p->vm);
        (void)r;
        if (err && v && v->is_new)
                machine_remove(v); /* the hypervisor is made anew from what is recorded */
        if (!err && v)
                v->is_new = false;
        if (err)
                refuse(p->req, err);
        else if (v)
                reply_vm(p->req, v);
        else
                refuse_with(p->req, REASON_NOT_FOUND, "it was deleted meanwhile");
        pending_free(p);
}

/* By name: what it is on this host is the operator's. */
static int check_network(const struct meted *m, const struct api_vm_create *in, struct err *err)
{
        if (in->has_network && !m->config.manages_net)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "network \"%s\": this host has no kind net, as [net] manage is not yes in "
                               "mete.conf",
                               in->network);
        if (in->has_network && strcmp(in->network, m->config.network) != 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no network \"%s\" here, but \"%s\"",
                               in->network, m->config.network);
        return 0;
}

static void do_vm_create(struct meted *m, struct http_request *req, const json_t *body)
{
        struct api_vm_create *in = g_new0(struct api_vm_create, 1);
        struct api_vm_definition *d = g_new0(struct api_vm_definition, 1);
        struct err err = {0};
        struct machine *v = NULL;
        int64_t share = hypervisor_default_share(m->hv);
        int bad = api_vm_create_parse(body, in, &err);
        if (!bad)
                v = machine_find(m, in->name);
        if (bad) {
                refuse(req, &err);
        } else if (v) {
                if (vm_definition_answers(&v->definition, in, share, &err))
                        refuse(req, &err);
                else if (v->is_new) /* the same request sent again, and the first one is not recorded yet */
                        meted_wait(m, 0, WAIT_COMMIT, answer_vm_created, pending_new(m, req, in->name));
                else
                        reply_vm(req, v);
        } else {
                struct vm_shape shape;
                char *record = NULL;
                bad = check_network(m, in, &err);
                if (!bad && in->has_disk_rate_bytes && !m->config.disk_rate)
                        bad = err_set(
                                &err, REASON_UNSUPPORTED, EOPNOTSUPP,
                                "disk_rate_bytes: this host has no kind block, as [block] rate is not in "
                                "mete.conf");
                if (!bad)
                        bad = vm_definition_make(in, share, &m->probe, d, &err);
                if (!bad) {
                        v = machine_add(m, d, machine_free_uid_slot(m));
                        v->is_new = true;
                        machine_shape(v, &shape);
                        bad = hypervisor_vm_fits(m->hv, &shape, &err);
                        if (!bad)
                                bad = hypervisor_vm_define(m->hv, &shape, &err);
                        record = bad ? NULL : machine_record(v);
                        if (!bad && !record)
                                bad = err_set(&err, REASON_INTERNAL, ENOMEM, "no memory for its record");
                        if (!bad)
                                bad = store_put_document(m->store, STORE_VM, in->name, record, &err);
                        if (bad && hypervisor_vm(m->hv, in->name))
                                meted_unwritten(m, &err); /* which makes the hypervisor anew, without it */
                        free(record);
                        if (bad)
                                machine_remove(v);
                }
                if (bad) {
                        refuse(req, &err);
                } else {
                        machine_note(v, in->name, "defined", "%s, %s, memory by %s, vCPUs taken back by %s",
                                     d->machine, d->cpu_model, api_memory_mechanism_name(d->memory_mechanism),
                                     api_cpu_mechanism_name(d->cpu_mechanism));
                        meted_wait(m, 0, WAIT_COMMIT, answer_vm_created, pending_new(m, req, in->name));
                        meted_changed(m);
                }
        }
        g_free(in);
        g_free(d);
}

static void answer_vm_deleted(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct pending *p = call;
        struct machine *v = machine_find(m, p->vm);
        struct err bad = {0};
        (void)r;
        if (err && v)
                machine_remove(
                        v); /* another of that name, made in the same turn: it is not recorded either */
        if (err && p->record && machine_load(p->vm, p->record, m, &bad))
                log_error("VM %s: %s", p->vm, bad.sentence);
        if (!err && !v)
                machine_clear_dir(m, p->vm); /* now that it will not be there again after a crash */
        if (err)
                refuse(p->req, err);
        else
                reply(p->req, 200, json_object());
        pending_free(p);
}

static void do_vm_delete(struct meted *m, struct http_request *req, struct machine *v);

static void on_delete_again(void *arg)
{
        struct pending *p = arg;
        struct machine *v = machine_find(p->m, p->vm);
        if (v)
                do_vm_delete(p->m, p->req, v);
        else
                refuse_with(p->req, REASON_NOT_FOUND, "it was deleted meanwhile");
        pending_free(p);
}

/* What was kept of it is back: now it can be deleted, in a turn of its own. */
static void answer_vm_reclaimed(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct pending *p = call;
        (void)m;
        (void)r;
        if (err) {
                refuse(p->req, err);
                pending_free(p);
                return;
        }
        loop_timer_init(&p->late, on_delete_again, p);
        loop_timer_in(&p->late, 0);
}

static void do_vm_delete(struct meted *m, struct http_request *req, struct machine *v)
{
        struct err err = {0};
        char name[64];
        uint64_t serial;
        memcpy(name, v->definition.name, sizeof(name));
        if (hypervisor_vm_reclaim(m->hv, name, "its VM is deleted", loop_now_ms(), &serial)) {
                meted_wait(m, serial, WAIT_END, answer_vm_reclaimed, pending_new(m, req, name));
                meted_changed(m);
                return;
        }
        if (hypervisor_vm_forget(m->hv, name, &err)) {
                refuse(req, &err);
                return;
        }
        if (store_delete_document(m->store, STORE_VM, name, &err)) {
                meted_unwritten(m, &err); /* which makes the hypervisor anew, with it */
                refuse(req, &err);
                return;
        }
        machine_note(v, name, "deleted", "its definition is gone");
        char *record = v->is_new ? NULL : machine_record(v);
        machine_remove(v);
        struct pending *p = pending_new(m, req, name);
        p->record = record;
        meted_wait(m, 0, WAIT_COMMIT, answer_vm_deleted, p);
        meted_changed(m);
}

/* A VM's base resources are decided, or the VM is down: show it. */
static void answer_vm(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct pending *p = call;
        const struct machine *v = machine_find(m, p->vm);
        struct err why = {0};
        if (!err && r && p->is_start && r->outcome != OUTCOME_GRANTED) {
                (void)err_set(&why, r->reason, EAGAIN, "%.180s", r->sentence);
                err = &why;
        }
        if (err)
                refuse(p->req, err);
        else if (v)
                reply_vm(p->req, v);
        else
                refuse_with(p->req, REASON_NOT_FOUND, "it was deleted meanwhile");
        pending_free(p);
}

static void do_vm_start(struct meted *m, struct http_request *req, struct machine *v)
{
        struct err err = {0};
        if (!m->adopted) {
                refuse_with(req, REASON_BUSY,
                            keeper_info(m->keeper)
                                    ? "mete-keeper has not said yet which VMMs are running; try again"
                                    : "mete-keeper is not there: start it");
                return;
        }
        if (hypervisor_vm_start(m->hv, v->definition.name, loop_now_ms(), &err)) {
                refuse(req, &err);
                meted_changed(m);
                return;
        }
        struct pending *p = pending_new(m, req, v->definition.name);
        p->is_start = true;
        meted_wait(m, machine_base(v)->serial, WAIT_VERDICT, answer_vm, p);
        meted_changed(m);
}

static void on_stop_late(void *arg)
{
        struct pending *p = arg;
        refuse_with(p->req, REASON_TIMEOUT,
                    "the guest did not power down in time and runs on; 'kill' ends it at once");
        meted_unwait(p->m, p);
        pending_free(p);
}

static void on_powerdown_asked(void *arg, const struct vm_result *result)
{
        if (result->outcome != VM_DONE)
                log_warn("VM %s could not be asked to power down: %s", (const char *)arg,
                         result->err.sentence);
        g_free(arg);
}

static void do_vm_stop(struct meted *m, struct http_request *req, struct machine *v, const json_t *body)
{
        struct api_vm_stop in = {0};
        struct err err = {0};
        const struct request *base = machine_base(v);
        if (api_vm_stop_parse(body, &in, &err)) {
                refuse(req, &err);
                return;
        }
        if (!base || request_is_final(base)) {
                reply_vm(req, v);
                return;
        }
        if (base->state == REQUEST_ACTIVATING || (base->state == REQUEST_GRANTED && !v->vm)) {
                refuse_with(req, REASON_BUSY,
                            base->state == REQUEST_ACTIVATING ? "it is starting; try again, or use 'kill'"
                            : keeper_info(m->keeper) ? "its VMM is not attached to yet; try again, or "
                                                       "use 'kill'"
                                                     : "mete-keeper is not there: start it");
                return;
        }
        if (base->state == REQUEST_GRANTED) {
                machine_note(v, v->definition.name, "stop-asked", "the guest is asked to power down");
                vm_powerdown(v->vm, 5000, on_powerdown_asked, g_strdup(v->definition.name));
        }
        struct pending *p = pending_new(m, req, v->definition.name);
        loop_timer_in(&p->late, in.has_timeout_ms ? in.timeout_ms : 30000);
        meted_wait(m, base->serial, WAIT_STOP, answer_vm, p);
}

static void do_vm_kill(struct meted *m, struct http_request *req, struct machine *v)
{
        struct err err = {0};
        uint64_t serial;
        const struct request *base = machine_base(v);
        bool is_down = !base || request_is_final(base);
        if (is_down && hypervisor_vm_reclaim(m->hv, v->definition.name, "an operator wants it back",
                                             loop_now_ms(), &serial)) {
                meted_wait(m, serial, WAIT_END, answer_vm, pending_new(m, req, v->definition.name));
                meted_changed(m);
                return;
        }
        if (is_down) {
                reply_vm(req, v);
                return;
        }
        (void)snprintf(v->ended, sizeof(v->ended), "killed by an operator");
        if (hypervisor_release(m->hv, base->key, "killed by an operator", loop_now_ms(), &serial, &err))
                refuse(req, &err);
        else
                meted_wait(m, serial, WAIT_END, answer_vm, pending_new(m, req, v->definition.name));
        meted_changed(m);
}

static void answer_verified(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct pending *p = call;
        const struct machine *v = machine_find(m, p->vm);
        if (err || !v) {
                answer_vm(m, call, r, err);
                return;
        }
        struct api_vm *out = g_new0(struct api_vm, 1);
        view_vm(v, out);
        out->has_repaired = out->has_unknown = true;
        out->repaired = v->seen.repaired;
        out->unknown = v->seen.unknown;
        reply(p->req, 200, api_vm_emit(out));
        g_free(out);
        pending_free(p);
}

static void do_vm_verify(struct meted *m, struct http_request *req, struct machine *v)
{
        if (!keeper_info(m->keeper)) {
                refuse_with(
                        req, REASON_PEER_LOST,
                        "mete-keeper is not there, and only it can look at what the kernel holds: start it");
                return;
        }
        if (!activate_verify(v)) {
                refuse_with(req, REASON_STALE, "it does not run, or was not found again yet");
                return;
        }
        v->seen = (struct checked){0};
        meted_wait(m, machine_base(v)->serial, WAIT_CHECK, answer_verified,
                   pending_new(m, req, v->definition.name));
        meted_changed(m);
}

/* ---- reservations ---- */

static void answer_verdict(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct http_request *req = call;
        struct api_verdict v;
        if (err) {
                refuse(req, err);
                return;
        }
        verdict_of(m, r, &v);
        reply(req, 200, api_verdict_emit(&v));
}

static void answer_empty(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        (void)m;
        (void)r;
        if (err)
                refuse(call, err);
        else
                reply(call, 200, json_object());
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
                refuse(req, &err);
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
                refuse(req, &err);
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
                refuse(c->req, err);
        else
                reply(c->req, 200, api_component_changed_emit(&c->out));
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
                refuse(req, &err);
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
                refuse(req, &err);
        else
                changing(m, req, &out);
        meted_changed(m);
}

/* ---- moves ---- */

static void do_peer_move(struct meted *m, struct http_request *req, const json_t *body)
{
        struct err err = {0};
        if (moves_hear(m, req->caller->id.name, &req->from, body, &err))
                refuse(req, &err);
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
                refuse(req, &err);
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
                reply(req, 200, page);
        else
                refuse(req, &err);
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
        refuse(req, &err);
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
                        refuse(req, &err);
                        return;
                }
        }
        bool is_change = op == API_OPERATION_VM_DELETE || op == API_OPERATION_VM_START ||
                         op == API_OPERATION_VM_STOP || op == API_OPERATION_VM_KILL;
        if ((is_change && moves_check(m, v, &err)) ||
            ((is_change || op == API_OPERATION_VM_MOVE) && handovers_check(m, v, &err)) ||
            (op == API_OPERATION_VM_MOVE && partition_check_move(m, part, body, &err))) {
                refuse(req, &err);
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
                do_vm_create(m, req, body);
                return;
        case API_OPERATION_VM_SHOW:
                reply_vm(req, v);
                return;
        case API_OPERATION_VM_DELETE:
                do_vm_delete(m, req, v);
                return;
        case API_OPERATION_VM_START:
                do_vm_start(m, req, v);
                return;
        case API_OPERATION_VM_STOP:
                do_vm_stop(m, req, v, body);
                return;
        case API_OPERATION_VM_KILL:
                do_vm_kill(m, req, v);
                return;
        case API_OPERATION_VM_VERIFY:
                do_vm_verify(m, req, v);
                return;
        case API_OPERATION_RESERVATION_CREATE:
                do_reserve(m, req, body);
                return;
        case API_OPERATION_RESERVATION_DELETE:
                do_unreserve(m, req, part);
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
                reply(req, 200, out);
        else
                refuse(req, &err);
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
                refuse(req, &err);
                return;
        }
        const struct api_route *route =
                route_find(api_meted_routes, api_meted_routes_n, req->method, req->path, part, &err);
        if (!route) {
                refuse_status(req, err.code == ENOTSUP ? 405 : api_http_status(err.reason), &err);
                return;
        }
        if (!api_role_may(role, route)) {
                refuse_role(req, role, route->role);
                return;
        }
        json_t *body = req->body_n ? json_read(req->body, req->body_n, &err) : NULL;
        if (req->body_n && !body)
                refuse(req, &err);
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

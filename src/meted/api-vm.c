/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked of VMs by the API: see api.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "json/api.h"
#include "json/read.h"
#include "meted/activate.h"
#include "meted/api-internal.h"
#include "meted/machine.h"
#include "meted/view.h"
#include "wire/http.h"

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
                api_refuse(p->req, err);
        else if (v)
                api_reply_vm(p->req, v);
        else
                api_refuse_with(p->req, REASON_NOT_FOUND, "it was deleted meanwhile");
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

void api_vm_create(struct meted *m, struct http_request *req, const json_t *body)
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
                api_refuse(req, &err);
        } else if (v) {
                if (vm_definition_answers(&v->definition, in, share, &err))
                        api_refuse(req, &err);
                else if (v->is_new) /* the same request sent again, and the first one is not recorded yet */
                        meted_wait(m, 0, WAIT_COMMIT, answer_vm_created, pending_new(m, req, in->name));
                else
                        api_reply_vm(req, v);
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
                        api_refuse(req, &err);
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
                api_refuse(p->req, err);
        else
                api_reply(p->req, 200, json_object());
        pending_free(p);
}

static void on_delete_again(void *arg)
{
        struct pending *p = arg;
        struct machine *v = machine_find(p->m, p->vm);
        if (v)
                api_vm_delete(p->m, p->req, v);
        else
                api_refuse_with(p->req, REASON_NOT_FOUND, "it was deleted meanwhile");
        pending_free(p);
}

/* What was kept of it is back: now it can be deleted, in a turn of its own. */
static void answer_vm_reclaimed(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        struct pending *p = call;
        (void)m;
        (void)r;
        if (err) {
                api_refuse(p->req, err);
                pending_free(p);
                return;
        }
        loop_timer_init(&p->late, on_delete_again, p);
        loop_timer_in(&p->late, 0);
}

void api_vm_delete(struct meted *m, struct http_request *req, struct machine *v)
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
                api_refuse(req, &err);
                return;
        }
        if (store_delete_document(m->store, STORE_VM, name, &err)) {
                meted_unwritten(m, &err); /* which makes the hypervisor anew, with it */
                api_refuse(req, &err);
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
                api_refuse(p->req, err);
        else if (v)
                api_reply_vm(p->req, v);
        else
                api_refuse_with(p->req, REASON_NOT_FOUND, "it was deleted meanwhile");
        pending_free(p);
}

void api_vm_start(struct meted *m, struct http_request *req, struct machine *v)
{
        struct err err = {0};
        if (!m->adopted) {
                api_refuse_with(req, REASON_BUSY,
                                keeper_info(m->keeper)
                                        ? "mete-keeper has not said yet which VMMs are running; try again"
                                        : "mete-keeper is not there: start it");
                return;
        }
        if (hypervisor_vm_start(m->hv, v->definition.name, loop_now_ms(), &err)) {
                api_refuse(req, &err);
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
        api_refuse_with(p->req, REASON_TIMEOUT,
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

void api_vm_stop(struct meted *m, struct http_request *req, struct machine *v, const json_t *body)
{
        struct api_vm_stop in = {0};
        struct err err = {0};
        const struct request *base = machine_base(v);
        if (api_vm_stop_parse(body, &in, &err)) {
                api_refuse(req, &err);
                return;
        }
        if (!base || request_is_final(base)) {
                api_reply_vm(req, v);
                return;
        }
        if (base->state == REQUEST_ACTIVATING || (base->state == REQUEST_GRANTED && !v->vm)) {
                api_refuse_with(req, REASON_BUSY,
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

void api_vm_kill(struct meted *m, struct http_request *req, struct machine *v)
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
                api_reply_vm(req, v);
                return;
        }
        (void)snprintf(v->ended, sizeof(v->ended), "killed by an operator");
        if (hypervisor_release(m->hv, base->key, "killed by an operator", loop_now_ms(), &serial, &err))
                api_refuse(req, &err);
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
        api_reply(p->req, 200, api_vm_emit(out));
        g_free(out);
        pending_free(p);
}

void api_vm_verify(struct meted *m, struct http_request *req, struct machine *v)
{
        if (!keeper_info(m->keeper)) {
                api_refuse_with(
                        req, REASON_PEER_LOST,
                        "mete-keeper is not there, and only it can look at what the kernel holds: start it");
                return;
        }
        if (!activate_verify(v)) {
                api_refuse_with(req, REASON_STALE, "it does not run, or was not found again yet");
                return;
        }
        v->seen = (struct checked){0};
        meted_wait(m, machine_base(v)->serial, WAIT_CHECK, answer_verified,
                   pending_new(m, req, v->definition.name));
        meted_changed(m);
}

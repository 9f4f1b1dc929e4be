/* SPDX-License-Identifier: Apache-2.0 */
/* A handover is asked for: which hypervisor runs the VM is known by those who run. They are asked, and what
 * comes of that begins, or is refused with what is in the way. */
#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "sp/lead.h"
#include "sp/upgrade.h"

enum { ASK_MS = 5000 };

struct asking;
struct asked {
        struct asking *of;
        int number;
        struct http_call *call;
};

struct asking {
        struct sp *sp;
        struct asking *next;
        struct http_request *req;
        struct api_handover_start in;
        struct asked asked[SERVER_HYPERVISORS_MAX];
        int n_waiting;
        int n_running, running; /* how many run it, and the last of them */
        char elsewhere[160];    /* what was found that does not help; "": nothing */
};

static void answer(struct http_request *req, const struct leading *l)
{
        struct api_handover *v = g_new0(struct api_handover, 1);
        lead_show(l, v);
        api_reply(req, 200, api_handover_emit(v));
        g_free(v);
}

static void remove_asking(struct asking *a)
{
        for (struct asking **at = &a->sp->askings; *at; at = &(*at)->next)
                if (*at == a) {
                        *at = a->next;
                        break;
                }
        g_free(a);
}

/* Something is on its way from or to one of them. */
static bool is_giving(const struct sp *sp, int hypervisor)
{
        const struct server_giving *g = &sp->server.giving;
        return g->amount > 0 && (g->from == hypervisor || g->to == hypervisor);
}

/* Before anybody is asked, and once more before it begins, when it is known from where; from: -1 until then.
 */
static int check(const struct sp *sp, const struct api_handover_start *in, int known, struct err *err)
{
        int to = server_find(&sp->server, in->to),
            from = in->has_from ? server_find(&sp->server, in->from) : 0;
        if (sp->server.epoch == 0)
                return err_set(
                        err, REASON_STALE, ESTALE,
                        "this server is not partitioned: there are no hypervisors ('mete server init')");
        if (to < 0 || from < 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no hypervisor is called %s",
                               to < 0 ? in->to : in->from);
        if (in->has_from && from == to)
                return err_set(err, REASON_INVALID, EINVAL, "from %s to itself", in->to);
        if (sp->hypervisors[to].state != API_SERVER_STATE_RUNNING)
                return err_set(err, REASON_STALE, EAGAIN, "%s does not run: 'mete server start %s'", in->to,
                               in->to);
        if (in->has_from && sp->hypervisors[from].state != API_SERVER_STATE_RUNNING)
                return err_set(err, REASON_STALE, EAGAIN, "%s does not run: 'mete server start %s'", in->from,
                               in->from);
        from = known >= 0 ? known : in->has_from ? from : -1;
        if (is_giving(sp, to) || (from >= 0 && is_giving(sp, from)))
                return err_set(err, REASON_BUSY, EBUSY, "%s is on its way from %s to %s; try again",
                               sp->server.components[sp->server.giving.component].id,
                               sp->server.names[sp->server.giving.from],
                               sp->server.names[sp->server.giving.to]);
        int bad = upgrading_check_arrival(sp, to, err);
        return bad ? bad : lead_check(sp, in->vm, from, to, err);
}

int lead_may_begin(const struct sp *sp, const struct api_handover_start *in, int from, struct err *err)
{
        return check(sp, in, from, err);
}

/* One of those that could have it, and cannot be asked; NULL: there is none. */
static const struct hypervisor_of *not_running(const struct sp *sp, const struct api_handover_start *in)
{
        for (int k = 0; k < sp->server.n; k++) {
                const struct hypervisor_of *h = &sp->hypervisors[k];
                bool is_meant = !in->has_from || strcmp(in->from, hypervisor_name(h)) == 0;
                if (is_meant && h->state != API_SERVER_STATE_RUNNING)
                        return h;
        }
        return NULL;
}

static int decide(struct asking *a, struct leading **ret, struct err *err)
{
        struct sp *sp = a->sp;
        int to = server_find(&sp->server, a->in.to),
            bad = check(sp, &a->in, a->n_running == 1 ? a->running : -1, err);
        if (bad)
                return bad;
        if (a->n_running == 0 && *a->elsewhere)
                return err_set(err, REASON_STALE, ESTALE, "%s", a->elsewhere);
        const struct hypervisor_of *off = not_running(sp, &a->in);
        if (a->n_running == 0 && off)
                return err_set(err, REASON_STALE, EAGAIN,
                               "no hypervisor that runs has a VM %s, and %s does not", a->in.vm,
                               hypervisor_name(off));
        if (a->n_running == 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no hypervisor of this server has a VM %s",
                               a->in.vm);
        if (a->n_running > 1)
                return err_set(err, REASON_INVALID, EINVAL,
                               "two hypervisors run a VM %s: say which is meant (--from)", a->in.vm);
        if (a->running == to)
                return err_set(err, REASON_INVALID, EINVAL, "%s runs at %s already", a->in.vm, a->in.to);
        return lead_begin(sp, &a->in, a->running, to, ret, err);
}

/* The same id again: with the same words it is the same handover. */
static int check_words(const struct leading *l, const struct api_handover_start *in, struct err *err)
{
        bool is_same = strcmp(l->vm, in->vm) == 0 && strcmp(l->sp->server.names[l->to], in->to) == 0 &&
                       (!in->has_from || strcmp(l->sp->server.names[l->from], in->from) == 0) &&
                       l->core.row.gap_ms == (in->has_max_gap_ms ? in->max_gap_ms : 0) &&
                       l->is_dry == (in->has_dry_run && in->dry_run);
        return is_same ? 0 : err_set(err, REASON_INVALID, EEXIST, "handover %s is another", in->id);
}

/* Another with this id may have begun meanwhile. */
static void end(struct asking *a)
{
        struct err err = {0};
        struct leading *l = a->in.has_id ? lead_find(a->sp, a->in.id) : NULL;
        if (l ? check_words(l, &a->in, &err) : decide(a, &l, &err))
                api_refuse(a->req, &err);
        else
                answer(a->req, l);
        remove_asking(a);
}

static void on_vm(void *arg, const struct http_answer *got, const struct cert_id *peer, const struct err *err)
{
        struct asked *q = arg;
        struct asking *a = q->of;
        struct err ignored;
        const char *name = a->sp->server.names[q->number];
        (void)peer;
        q->call = NULL;
        json_t *v = err || got->status != 200 ? NULL : json_read(got->body, got->body_n, &ignored);
        const char *state = json_string_value(json_object_get(v, "state"));
        if (state && strcmp(state, "running") == 0) {
                a->n_running++;
                a->running = q->number;
        } else if (state) {
                (void)snprintf(a->elsewhere, sizeof(a->elsewhere),
                               "%.63s does not run at %s: only a running VM is handed over", a->in.vm, name);
        } else if ((err || got->status != 404) && !*a->elsewhere) {
                (void)snprintf(a->elsewhere, sizeof(a->elsewhere), "%s does not say whether it runs %.63s",
                               name, a->in.vm);
        }
        json_decref(v);
        if (--a->n_waiting == 0)
                end(a);
}

/* The same id again. false: it is a new one. */
static bool is_known(struct sp *sp, struct http_request *req, const struct api_handover_start *in)
{
        struct err err = {0};
        const struct leading *l = in->has_id ? lead_find(sp, in->id) : NULL;
        if (!l)
                return false;
        if (check_words(l, in, &err))
                api_refuse(req, &err);
        else
                answer(req, l);
        return true;
}

void lead_ask(struct sp *sp, struct http_request *req, const struct api_handover_start *in)
{
        struct err err = {0};
        char path[128];
        if (is_known(sp, req, in))
                return;
        if (check(sp, in, -1, &err)) {
                api_refuse(req, &err);
                return;
        }
        struct asking *a = g_new0(struct asking, 1);
        *a = (struct asking){.sp = sp, .next = sp->askings, .req = req, .in = *in};
        sp->askings = a;
        (void)snprintf(path, sizeof(path), "/v1/vms/%s", in->vm);
        for (int k = 0; k < sp->server.n; k++) {
                const struct hypervisor_of *h = &sp->hypervisors[k];
                struct http_target target = hypervisor_target(h);
                bool is_meant = !in->has_from || strcmp(in->from, hypervisor_name(h)) == 0;
                if (!is_meant || h->state != API_SERVER_STATE_RUNNING)
                        continue;
                a->asked[k] = (struct asked){.of = a, .number = k};
                a->asked[k].call = http_call(sp->calls, &target, "GET", path, NULL, 0, ASK_MS, on_vm,
                                             &a->asked[k], &err);
                a->n_waiting += a->asked[k].call != NULL;
        }
        if (a->n_waiting == 0)
                end(a);
}

void lead_ask_end(struct sp *sp)
{
        struct err err = {0};
        (void)err_set(&err, REASON_CANCELLED, ECANCELED, "mete-sp ends");
        while (sp->askings) {
                struct asking *a = sp->askings;
                for (int k = 0; k < SERVER_HYPERVISORS_MAX; k++)
                        if (a->asked[k].call)
                                http_call_cancel(a->asked[k].call);
                api_refuse(a->req, &err);
                remove_asking(a);
        }
}

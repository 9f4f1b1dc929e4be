/* SPDX-License-Identifier: Apache-2.0 */
/* sp/journal.c - one document has all that must survive: the partition, what is on its way, and which
 * hypervisors are to run. It is written as a whole, with the line of the log that says why, in one
 * transaction; whoever acts does so afterwards, and can be asked to do so again. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "sp/crash.h"
#include "sp/lead.h"
#include "sp/sp.h"
#include "sp/upgrade.h"

static const char document[] = "server", upgrade_document[] = "upgrade";
enum { EVENTS_MAX = 100000, MIB_SHIFT = 20 };

/* ---- writing ---- */

static void giving_out(const struct server *s, struct api_server_giving *ret)
{
        const struct server_giving *g = &s->giving;
        (void)STR_COPY(ret->component, s->components[g->component].id);
        (void)STR_COPY(ret->from, s->names[g->from]);
        (void)STR_COPY(ret->to, s->names[g->to]);
        ret->amount = g->amount;
}

static json_t *record_of(const struct sp *sp)
{
        const struct server *s = &sp->server;
        struct api_server_record *r = g_new0(struct api_server_record, 1);
        (void)STR_COPY(r->server, sp->name);
        r->epoch = s->epoch;
        r->has_giving = s->giving.amount > 0;
        if (r->has_giving)
                giving_out(s, &r->giving);
        r->has_trace = r->has_giving && *sp->giving_trace;
        (void)STR_COPY(r->trace, sp->giving_trace);
        r->has_handovers = sp->handovers > 0;
        r->handovers = (int64_t)sp->handovers;
        r->has_committed = *sp->committed != '\0';
        (void)STR_COPY(r->committed, sp->committed);
        for (int k = 0; k < s->n; k++) {
                const struct hypervisor_of *h = &sp->hypervisors[k];
                struct api_server_record_hypervisor *to = &r->hypervisors[r->n_hypervisors++];
                (void)STR_COPY(to->name, s->names[k]);
                (void)STR_COPY(to->user, h->user);
                to->has_vmm = *h->vmm;
                (void)STR_COPY(to->vmm, h->vmm);
                to->wanted = h->is_wanted;
                for (uint32_t i = 0; i < s->n_components && to->n_shares < ARRAY_N(to->shares); i++) {
                        const struct server_share *own = server_share(s, i, k);
                        if (own->amount == 0)
                                continue;
                        struct api_server_record_share *share = &to->shares[to->n_shares++];
                        (void)STR_COPY(share->component, s->components[i].id);
                        share->amount = own->amount;
                        share->has_kept = share->kept = own->is_kept;
                }
        }
        json_t *v = api_server_record_emit(r);
        g_free(r);
        return v;
}

static int put_record(struct sp *sp, struct err *err)
{
        json_t *v = record_of(sp);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        int bad = text ? store_put_document(sp->store, STORE_SERVER, document, text, err)
                       : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the partition");
        free(text);
        return bad;
}

static int put_lead(struct sp *sp, const struct leading *l, struct err *err)
{
        char *text = lead_text(l);
        int bad = text ? store_put_document(sp->store, STORE_MOVE, l->core.row.id, text, err)
                       : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the handover");
        free(text);
        return bad;
}

static int put_upgrade(struct sp *sp, const struct upgrading *up, struct err *err)
{
        char *text = upgrading_text(up);
        int bad = text ? store_put_document(sp->store, STORE_SERVER, upgrade_document, text, err)
                       : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the upgrade");
        free(text);
        return bad;
}

/* Of a line in the log alone nothing depends. */
static void point(bool is_more, const char *event, const char *where)
{
        char name[64];
        (void)snprintf(name, sizeof(name), "%s %s", event, where);
        if (is_more)
                sp_crash_point(name);
}

/* What goes with a line of the log; NULL: nothing. */
struct with {
        bool partition;
        const struct leading *lead;
        const struct upgrading *upgrade;
};

static int write_all(struct sp *sp, struct with with, const struct store_event *e, struct err *err)
{
        const struct leading *l = with.lead;
        bool is_first = l && l->core.row.state == HANDOVER_CONFIGURED; /* counts it */
        bool is_more = with.partition || l || with.upgrade;
        point(is_more, e->event, "begin");
        int bad = store_add_event(sp->store, e, NULL, err);
        if (!bad && (with.partition || is_first))
                bad = put_record(sp, err);
        if (!bad && l)
                bad = put_lead(sp, l, err);
        if (!bad && with.upgrade)
                bad = put_upgrade(sp, with.upgrade, err);
        if (!bad)
                bad = store_trim_events(sp->store, EVENTS_MAX, err);
        if (!bad)
                bad = store_commit(sp->store, err);
        if (bad)
                store_rollback(sp->store);
        sp->problem = bad ? *err : (struct err){0};
        sp->commits += !bad;
        if (!bad)
                point(is_more, e->event, "end");
        return bad;
}

__attribute__((format(printf, 5, 0))) static void event_of(struct store_event *e, const char *trace,
                                                           const char *subject, const char *event,
                                                           const char *fmt, va_list args)
{
        *e = (struct store_event){.at_ms = loop_now_ms()};
        (void)STR_COPY(e->trace, trace);
        (void)STR_COPY(e->subject, subject);
        (void)STR_COPY(e->event, event);
        (void)vsnprintf(e->text, sizeof(e->text), fmt, args);
}

int journal_write(struct sp *sp, bool with_partition, const char *trace, const char *subject,
                  const char *event, struct err *err, const char *fmt, ...)
{
        struct store_event e;
        va_list args;
        va_start(args, fmt);
        event_of(&e, trace, subject, event, fmt, args);
        va_end(args);
        return write_all(sp, (struct with){.partition = with_partition}, &e, err);
}

int journal_lead(struct sp *sp, const struct leading *l, bool with_partition, const char *trace,
                 const char *subject, const char *event, struct err *err, const char *fmt, ...)
{
        struct store_event e;
        va_list args;
        va_start(args, fmt);
        event_of(&e, trace, subject, event, fmt, args);
        va_end(args);
        log_info("%s: %s: %s: %s", trace, subject, event, e.text);
        return write_all(sp, (struct with){.partition = with_partition, .lead = l}, &e, err);
}

int journal_upgrade(struct sp *sp, const struct upgrading *up, bool with_partition, const char *trace,
                    const char *subject, const char *event, struct err *err, const char *fmt, ...)
{
        struct store_event e;
        va_list args;
        va_start(args, fmt);
        event_of(&e, trace, subject, event, fmt, args);
        va_end(args);
        log_info("%s: %s: %s: %s", trace, subject, event, e.text);
        return write_all(sp, (struct with){.partition = with_partition, .upgrade = up}, &e, err);
}

void journal_forget_lead(struct sp *sp, const char *id)
{
        struct err err = {0};
        if (store_delete_document(sp->store, STORE_MOVE, id, &err))
                log_warn("handover %s: %s", id, err.sentence); /* forgotten after the next start */
}

void journal_note(struct sp *sp, const char *trace, const char *subject, const char *event, const char *fmt,
                  ...)
{
        struct store_event e;
        struct err err = {0};
        va_list args;
        va_start(args, fmt);
        event_of(&e, trace, subject, event, fmt, args);
        va_end(args);
        log_info("%s: %s: %s", subject, event, e.text);
        if (write_all(sp, (struct with){0}, &e, &err))
                log_warn("not in the event log: %s", err.sentence);
}

/* ---- reading ---- */

/* What the machine has no more of, or less, nobody has from now on. */
static int take_share(struct sp *sp, int k, const struct api_server_record_share *in, bool *ret_is_less,
                      struct err *err)
{
        int64_t at = server_component(&sp->server, in->component);
        int64_t left = at < 0 ? 0 : server_nobodys(&sp->server, (uint32_t)at), amount = in->amount;
        if (amount > left) {
                amount = at >= 0 && sp->server.components[at].kind == COMPONENT_MEMORY
                                 ? left >> MIB_SHIFT << MIB_SHIFT
                                 : 0;
                *ret_is_less = true;
                log_warn("%s of %s: this machine has %lld of it now, and not %lld", in->component,
                         sp->server.names[k], (long long)amount, (long long)in->amount);
        }
        if (amount <= 0)
                return 0;
        int bad = server_take(&sp->server, k, (uint32_t)at, amount, err);
        return bad || !in->kept ? bad : server_keep(&sp->server, k, (uint32_t)at, err);
}

static int take_giving(struct sp *sp, const struct api_server_giving *in, struct err *err)
{
        struct server *s = &sp->server;
        int64_t at = server_component(s, in->component);
        struct server_giving g = {.component = (uint32_t)at,
                                  .from = server_find(s, in->from),
                                  .to = server_find(s, in->to),
                                  .amount = in->amount};
        if (at < 0 || g.from < 0 || g.to < 0 || in->amount > server_nobodys(s, (uint32_t)at))
                return err_set(err, REASON_INVALID, EINVAL, "what is on its way is not there");
        s->giving = g;
        return 0;
}

static int take_record(struct sp *sp, const struct api_server_record *r, struct err *err)
{
        bool is_less = false;
        int bad = 0;
        (void)STR_COPY(sp->name, r->server);
        for (size_t k = 0; k < r->n_hypervisors && !bad; k++) {
                const struct api_server_record_hypervisor *in = &r->hypervisors[k];
                struct hypervisor_of *h = &sp->hypervisors[k];
                bad = server_add(&sp->server, in->name, err) < 0 ? -EINVAL : 0;
                if (!bad && (!STR_COPY(h->user, in->user) || !STR_COPY(h->vmm, in->has_vmm ? in->vmm : "")))
                        bad = err_set(err, REASON_INVALID, EINVAL, "too long a user or path");
                h->is_wanted = in->wanted;
                for (size_t i = 0; i < in->n_shares && !bad; i++)
                        bad = take_share(sp, (int)k, &in->shares[i], &is_less, err);
        }
        sp->server.epoch = r->epoch;
        sp->handovers = r->has_handovers ? (uint64_t)r->handovers : 0;
        (void)STR_COPY(sp->committed, r->has_committed ? r->committed : "");
        if (!bad && r->has_giving)
                bad = take_giving(sp, &r->giving, err);
        (void)STR_COPY(sp->giving_trace, r->has_trace ? r->trace : "sp");
        if (!bad && !server_is_sound(&sp->server))
                bad = err_set(err, REASON_INVALID, EINVAL, "it is not sound");
        if (bad || !is_less)
                return bad;
        sp->server.epoch++; /* another partition than that one */
        return journal_write(sp, true, "sp", "server", "shrunk", err, "this machine has less than it had");
}

static int load_one(const char *name, const char *text, void *arg, struct err *err)
{
        struct sp *sp = arg;
        g_autofree struct api_server_record *r = g_new0(struct api_server_record, 1);
        if (strcmp(name, upgrade_document) == 0) /* by name: behind the other */
                return upgrading_load(sp, text, err) ? err_note(err, "the upgrade in the store") : 0;
        if (strcmp(name, document) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "this store is not mete-sp's");
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_server_record_parse(v, r, err) : -EINVAL;
        json_decref(v);
        if (!bad)
                bad = take_record(sp, r, err);
        return bad ? err_note(err, "the partition in the store") : 0;
}

int journal_open(struct sp *sp, struct err *err)
{
        char path[SP_PATH];
        (void)snprintf(path, sizeof(path), "%s/sp.db", sp->config.state_dir);
        int bad = store_open(path, sp->inventory.components, sp->inventory.n, &sp->store, err);
        return bad ? bad : store_load_documents(sp->store, STORE_SERVER, load_one, sp, err);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* sp/give.c - a part of one hypervisor becomes another's. In the order in which it runs; each step stands in
 * the journal before it acts, and a restart goes on at the one that stands there:
 *
 *   giving      nobody has it: the giver is told its lesser part, and refuses where a claim stands in the way
 *   given       the giver has recorded that it is without: the taker is told
 *   given-back  the giver refused: it has it still
 *
 * So there is no instant, in no order of deaths, at which both have it. */
#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "sp/lead.h"
#include "sp/sp.h"
#include "sp/upgrade.h"

enum { GIVE_MS = 60000 };

/* What is as it was where it could not be recorded: nobody has heard of anything else. */
struct before {
        struct server_giving giving;
        int64_t epoch;
        struct server_share row[SERVER_HYPERVISORS_MAX];
};

static struct server_share *row_of(const struct server *s, uint32_t component)
{
        return &s->shares[(size_t)component * SERVER_HYPERVISORS_MAX];
}

static struct before remember(const struct server *s, uint32_t component)
{
        struct before b = {.giving = s->giving, .epoch = s->epoch};
        memcpy(b.row, row_of(s, component), sizeof(b.row));
        return b;
}

static void recall(struct server *s, uint32_t component, const struct before *b)
{
        s->giving = b->giving;
        s->epoch = b->epoch;
        memcpy(row_of(s, component), b->row, sizeof(b->row));
}

static void tell_all(struct sp *sp)
{
        for (int k = 0; k < sp->server.n; k++)
                hypervisor_look(&sp->hypervisors[k]);
}

static int find_hypervisor(const struct sp *sp, const char *name, struct err *err)
{
        int k = server_find(&sp->server, name);
        return k >= 0 ? k : err_set(err, REASON_NOT_FOUND, ENOENT, "no hypervisor is called %s", name);
}

int give_begin(struct sp *sp, const struct api_server_give *in, const char *trace, struct err *err)
{
        struct server *s = &sp->server;
        int64_t at = server_component(s, in->component);
        if (at < 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "this server has no %s", in->component);
        int from = find_hypervisor(sp, in->from, err),
            to = from < 0 ? from : find_hypervisor(sp, in->to, err);
        if (to < 0)
                return to;
        if (sp->hypervisors[from].state != API_SERVER_STATE_RUNNING)
                return err_set(err, REASON_BUSY, EAGAIN,
                               "%s does not run: only it knows what of %s is claimed", in->from,
                               in->component);
        const struct leading *l = lead_of(sp, from);
        l = l ? l : lead_of(sp, to);
        if (l)
                return err_set(err, REASON_BUSY, EBUSY, "%s is being handed over (%s); try again", l->vm,
                               l->core.row.id);
        struct server_giving g = {.component = (uint32_t)at,
                                  .from = from,
                                  .to = to,
                                  .amount = in->has_amount ? in->amount
                                                           : server_share(s, (uint32_t)at, from)->amount};
        struct before before = remember(s, g.component);
        int bad = server_give_begin(s, &g, err);
        if (bad)
                return bad;
        (void)STR_COPY(sp->giving_trace, trace);
        bad = journal_write(sp, true, trace, in->component, "giving", err, "%lld from %s to %s",
                            (long long)g.amount, in->from, in->to);
        if (bad)
                recall(s, g.component, &before);
        else
                tell_all(sp);
        return bad;
}

/* What an upgrade is about it gives itself. */
static int check_other(const struct sp *sp, const struct api_server_give *in, struct err *err)
{
        return upgrading_check_give(sp, server_find(&sp->server, in->from), server_find(&sp->server, in->to),
                                    err);
}

void give(struct sp *sp, struct http_request *req, const struct api_server_give *in, const char *trace)
{
        struct err err = {0};
        if (check_other(sp, in, &err) || give_begin(sp, in, trace, &err)) {
                api_refuse(req, &err);
                return;
        }
        api_wait(sp, &sp->giving_waiters, req, GIVE_MS);
}

void give_taken(struct sp *sp, const struct hypervisor_of *h, int64_t epoch)
{
        struct server *s = &sp->server;
        const struct server_giving g = s->giving;
        struct err err = {0};
        if (g.amount == 0 || g.from != h->number || epoch != s->epoch)
                return;
        struct before before = remember(s, g.component);
        server_give_end(s);
        if (journal_write(sp, true, sp->giving_trace, s->components[g.component].id, "given", &err,
                          "%s is without it, %s has it", s->names[g.from], s->names[g.to])) {
                recall(s, g.component, &before);
                sp->hypervisors[g.from].epoch = 0; /* it is told again, and says so again */
                return;
        }
        tell_all(sp);
        api_answer_all(sp, &sp->giving_waiters, NULL);
        upgrading_gave(sp, NULL);
}

void give_refused(struct sp *sp, const struct hypervisor_of *h, const struct err *why)
{
        struct server *s = &sp->server;
        const struct server_giving g = s->giving;
        struct err err = {0};
        /* What is kept of stopped VMs is taken back by its meted, which then says yes. */
        if (g.amount == 0 || g.from != h->number || why->reason == REASON_BUSY)
                return;
        struct before before = remember(s, g.component);
        server_give_undo(s);
        if (journal_write(sp, true, sp->giving_trace, s->components[g.component].id, "given-back", &err,
                          "%s does not give it: %.150s", s->names[g.from], why->sentence)) {
                recall(s, g.component, &before); /* it is told again, and refuses again */
                return;
        }
        tell_all(sp);
        api_answer_all(sp, &sp->giving_waiters, why);
        upgrading_gave(sp, why);
}

/* The giver may be recording just now that it is without: it is told a later partition, in which it has it
 * again, and what it then says of the earlier one is of no partition of ours. */
int give_cancel(struct sp *sp, struct err *err)
{
        struct server *s = &sp->server;
        const struct server_giving g = s->giving;
        struct err why = {0};
        if (g.amount == 0)
                return 0;
        struct before before = remember(s, g.component);
        server_give_undo(s);
        int bad = journal_write(sp, true, sp->giving_trace, s->components[g.component].id, "given-back", err,
                                "%s has it still: somebody wanted it no longer", s->names[g.from]);
        if (bad) {
                recall(s, g.component, &before);
                return bad;
        }
        tell_all(sp);
        (void)err_set(&why, REASON_CANCELLED, ECANCELED, "somebody wanted it no longer");
        api_answer_all(sp, &sp->giving_waiters, &why);
        upgrading_gave(sp, &why);
        return 0;
}

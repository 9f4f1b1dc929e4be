/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/partition.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "meted/crash.h"
#include "meted/handover.h"
#include "meted/health.h"
#include "wire/http.h"

static const char name[] = "partition"; /* of the one document */

static ssize_t find(const struct meted *m, const char *id)
{
        for (size_t i = 0; i < m->inventory.n; i++)
                if (strcmp(m->inventory.components[i].id, id) == 0)
                        return (ssize_t)i;
        return -1;
}

/* What each component would have; ret has room for all of them. */
static int amounts(const struct meted *m, const struct api_partition *p, int64_t *ret, struct err *err)
{
        memset(ret, 0, m->inventory.n * sizeof(*ret));
        for (size_t i = 0; i < p->n_shares; i++) {
                const struct api_partition_share *s = &p->shares[i];
                ssize_t at = find(m, s->component);
                if (at < 0)
                        return err_set(err, REASON_NOT_FOUND, ENOENT, "there is no component %s here",
                                       s->component);
                if (ret[at] > 0)
                        return err_set(err, REASON_INVALID, EEXIST, "%s stands there twice", s->component);
                if (s->amount > m->inventory.components[at].capacity)
                        return err_set(err, REASON_NO_CAPACITY, ENOSPC, "%s has %lld, and not %lld",
                                       s->component, (long long)m->inventory.components[at].capacity,
                                       (long long)s->amount);
                ret[at] = s->amount;
        }
        return 0;
}

static void own(struct meted *m, const int64_t *owned)
{
        for (size_t i = 0; i < m->inventory.n; i++)
                m->inventory.components[i].owned = owned[i];
}

/* ---- what it was given last ---- */

static int load_one(const char *document, const char *text, void *arg, struct err *err)
{
        struct meted *m = arg;
        json_t *v = strcmp(document, name) == 0 ? json_read(text, strlen(text), err) : NULL;
        int bad = v ? api_partition_parse(v, m->partition, err) : -EINVAL;
        json_decref(v);
        return bad ? err_note(err, "the partition in the store") : 0;
}

int partition_load(struct meted *m, struct err *err)
{
        if (!m->config.is_managed)
                return 0;
        if (!m->partition)
                m->partition = g_new0(struct api_partition, 1);
        *m->partition = (struct api_partition){0};
        (void)STR_COPY(m->partition->server, "none");
        int bad = store_load_documents(m->store, STORE_SERVER, load_one, m, err);
        g_autofree int64_t *owned = g_new0(int64_t, m->inventory.n + 1);
        /* What the machine has lost since stands in the books with nothing to give away; the rest is ours. */
        for (size_t i = 0; !bad && i < m->partition->n_shares; i++) {
                const struct api_partition_share *s = &m->partition->shares[i];
                ssize_t at = find(m, s->component);
                if (at >= 0)
                        owned[at] = MIN(s->amount, m->inventory.components[at].capacity);
        }
        if (!bad)
                own(m, owned);
        return bad;
}

void partition_done(struct meted *m)
{
        g_free(m->partition);
        m->partition = NULL;
}

const char *partition_lacks(const struct meted *m)
{
        return m->partition && m->partition->epoch == 0
                       ? "mete-sp has given it no part of the server yet: nothing can be granted"
                       : NULL;
}

int partition_check_move(const struct meted *m, const char *vm, const json_t *body, struct err *err)
{
        const char *to = json_string_value(json_object_get(body, "to"));
        for (size_t i = 0; to && m->partition && i < m->partition->n_hypervisors; i++)
                if (strcmp(to, m->partition->hypervisors[i]) == 0)
                        return err_set(err, REASON_POLICY, EXDEV,
                                       "%s is a hypervisor of this server: %.63s is not copied there, but "
                                       "handed over ('mete "
                                       "handover', which 'mete move' does by itself)",
                                       to, vm);
        return 0;
}

json_t *partition_view(const struct meted *m)
{
        struct api_partition none = {.server = "none"};
        return api_partition_emit(m->partition ? m->partition : &none);
}

/* ---- it is given another ---- */

static void answer_set(struct meted *m, void *call, const struct request *r, const struct err *err)
{
        (void)r;
        if (err) {
                api_refuse(call, err);
                return;
        }
        size_t n = 0;
        json_t *v = partition_view(m);
        char *text = v ? json_write(v, &n) : NULL;
        json_decref(v);
        http_reply(call, text ? 200 : 500, "application/json", text, n);
}

static bool is_same(const struct api_partition *a, const struct api_partition *b)
{
        bool is_so = a->epoch == b->epoch && a->n_shares == b->n_shares && strcmp(a->server, b->server) == 0;
        for (size_t i = 0; is_so && i < a->n_shares; i++)
                is_so = a->shares[i].amount == b->shares[i].amount &&
                        strcmp(a->shares[i].component, b->shares[i].component) == 0;
        return is_so;
}

/* Whoever gives hypervisors their parts is root on this machine: nobody else is believed. */
static int check(const struct meted *m, const struct http_request *req, const struct api_partition *p,
                 struct err *err)
{
        const struct api_partition *now = m->partition;
        if (!now)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "this meted is under no service processor: [server] managed is not yes in "
                               "mete.conf");
        if (req->caller || req->peer.uid != 0)
                return err_set(err, REASON_DENIED, EACCES, "this is for mete-sp alone: see 'mete server'");
        if (p->epoch == 0)
                return err_set(err, REASON_INVALID, EINVAL, "epochs begin with 1");
        if (p->epoch < now->epoch)
                return err_set(err, REASON_STALE, ESTALE, "epoch %lld: it has the partition of epoch %lld",
                               (long long)p->epoch, (long long)now->epoch);
        if (p->epoch == now->epoch && !is_same(p, now))
                return err_set(err, REASON_INVALID, EEXIST, "epoch %lld: another partition has it",
                               (long long)p->epoch);
        if (now->epoch > 0 && strcmp(p->server, now->server) != 0)
                return err_set(err, REASON_INCOMPATIBLE, EXDEV, "it belongs to server %s, not %s",
                               now->server, p->server);
        return 0;
}

static void add_leaving(const struct meted *m, const char *handover, struct hypervisor_leaving *ret)
{
        const char *vm = handovers_leaving(m, handover);
        bool is_new = vm && ret->n < HYPERVISOR_LEAVING_MAX;
        for (size_t i = 0; i < ret->n && is_new; i++)
                is_new = strcmp(ret->vms[i], vm) != 0;
        if (is_new)
                ret->vms[ret->n++] = vm;
}

static int take(struct meted *m, const struct api_partition *p, struct err *err)
{
        g_autofree int64_t *owned = g_new0(int64_t, m->inventory.n + 1);
        struct hypervisor_leaving leaving = {0};
        char cause[128];
        int bad = amounts(m, p, owned, err);
        bad = bad ? bad : handovers_may_take(m, p, err);
        if (bad)
                return bad;
        handovers_book(m, p);
        (void)snprintf(cause, sizeof(cause), "by the service processor of %.63s, epoch %lld", p->server,
                       (long long)p->epoch);
        if (p->has_handover)
                add_leaving(m, p->handover, &leaving);
        for (size_t i = 0; i < p->n_handovers; i++)
                add_leaving(m, p->handovers[i], &leaving);
        bad = hypervisor_repartition(m->hv, owned, &leaving, p->has_trace ? p->trace : "sp", cause,
                                     loop_now_ms(), err);
        if (bad) {
                handovers_bring(m);
                return bad;
        }
        json_t *v = api_partition_emit(p);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        bad = text ? store_put_document(m->store, STORE_SERVER, name, text, err)
                   : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the partition");
        free(text);
        if (bad) {
                meted_unwritten(m, err); /* which makes the hypervisor anew, with what it had */
                return bad;
        }
        *m->partition = *p;
        own(m, owned);
        m->is_hhi_due = true;
        (void)health_apply(m,
                           "its part of the server has changed"); /* what is lost is of another whole now */
        return 0;
}

/* Who is there beside it is no part of what the epoch is of. In the store it is with the next one. */
static void take_names(const struct meted *m, const struct api_partition *p)
{
        m->partition->has_processor = p->has_processor;
        (void)STR_COPY(m->partition->processor, p->processor);
        m->partition->n_hypervisors = p->n_hypervisors;
        memcpy(m->partition->hypervisors, p->hypervisors, sizeof(p->hypervisors));
}

void partition_set(struct meted *m, struct http_request *req, const json_t *body)
{
        g_autofree struct api_partition *p = g_new0(struct api_partition, 1);
        struct err err = {0};
        int bad = api_partition_parse(body, p, &err);
        if (!bad)
                bad = check(m, req, p, &err);
        if (!bad && p->epoch > m->partition->epoch)
                bad = take(m, p, &err);
        else if (!bad)
                take_names(m, p);
        if (bad)
                api_refuse(req, &err);
        else
                meted_wait(m, 0, WAIT_COMMIT, answer_set, req);
        meted_changed(m);
}

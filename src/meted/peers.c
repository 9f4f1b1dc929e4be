/* SPDX-License-Identifier: Apache-2.0 */
/* meted/peers.c - the other hosts of peers.conf. Each is asked how it does, over and over, so that what is
 * wrong between two hosts is known before anybody needs them.
 *
 * A peer is somebody in peers.conf with the pinned key, under the name in its certificate. Both ways: we
 * speak to nobody else at its address, and of those who come to us nobody else may do what is for peers.
 * peers.conf is looked at for each request, so that who is taken out of it is out with the next one. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "core/ledger.h"
#include "core/plan.h"
#include "json/api.h"
#include "json/read.h"
#include "meted/meted.h"
#include "meted/moves.h"
#include "wire/http-call.h"
#include "wire/peers.h"

enum { HELLO_MS = 5000, PAGE = 64 };

#define DAY_MS  ((int64_t)24 * 3600 * 1000)
#define SOON_MS (30 * DAY_MS)

struct partner {
        struct tcp_address at; /* where it answered last, by address; \"\": it never did */
        const struct peer_entry *entry;
        struct partners *all;
        struct loop_timer ask;
        struct http_call *call;
        int64_t asked_ms, asked_mono_ms; /* this time, and before that */
        int64_t heard_ms, round_trip_ms, clock_ahead_ms;
        int64_t certificate_end_ms; /* 0: not known */
        bool is_reachable, was_asked;
        struct err problem; /* reason 0: none */
        struct api_peer_hello hello;
};

struct partners {
        struct meted *m;
        struct peers peers;
        struct http_calls *calls;
        struct partner *list; /* of peers.list, in its order, without ourselves */
        size_t n;
        char server[CERT_NAME]; /* ours, as peers.conf has it */
        struct cert_id own;     /* role 0: we have no certificate that could be used, and why says so */
        struct err why;
};

/* ---- asking ---- */

static void settle(struct partner *p, bool is_reachable, const struct err *problem)
{
        struct meted *m = p->all->m;
        bool is_news = !p->was_asked || is_reachable != p->is_reachable;
        p->was_asked = true;
        p->is_reachable = is_reachable;
        p->problem = problem ? *problem : (struct err){0};
        if (is_news) {
                hypervisor_note(m->hv, loop_now_ms(), "peers", "host",
                                is_reachable ? "peer-there" : "peer-away", "%s: %s", p->entry->name,
                                problem ? problem->sentence : "it answers");
                meted_changed(m);
        }
        loop_timer_in(&p->ask, m->config.hello_ms);
}

/* What it says of why it refuses is shown as its words. */
static int refusal(const struct http_answer *answer, const char *name, struct err *err)
{
        struct api_error *e = g_new0(struct api_error, 1);
        json_t *v = json_read(answer->body, answer->body_n, NULL);
        if (v && api_error_parse(v, e, NULL) == 0)
                (void)err_set(err, e->reason, EREMOTEIO, "%s refuses: %s", name, e->message);
        else
                (void)err_set(err, REASON_INVALID, EPROTO,
                              "%s answers with status %d, and not as a meted would", name, answer->status);
        json_decref(v);
        g_free(e);
        return -err->code;
}

static int take_hello(struct partner *p, const struct http_answer *answer, struct err *err)
{
        struct api_peer_hello hello = {0};
        if (answer->status != 200)
                return refusal(answer, p->entry->name, err);
        json_t *v = json_read(answer->body, answer->body_n, err);
        int bad = v ? api_peer_hello_parse(v, &hello, err) : -EPROTO;
        json_decref(v);
        if (bad)
                return err_note(err, "the answer of %s", p->entry->name);
        if (strcmp(hello.name, p->entry->name) != 0)
                return err_set(err, REASON_INVALID, EPROTO, "%s calls itself %s", p->entry->name, hello.name);
        p->hello = hello;
        p->heard_ms = loop_now_ms();
        p->at = p->entry->address;
        if (*answer->from && !strchr(p->at.host, '%')) /* a name was looked up for this call */
                (void)STR_COPY(p->at.host, answer->from);
        p->round_trip_ms = loop_mono_ms() - p->asked_mono_ms;
        p->clock_ahead_ms = hello.now_ms - (p->heard_ms - p->round_trip_ms / 2);
        return 0;
}

static int check_certificate(struct partner *p, const struct cert_id *id, struct err *err)
{
        p->certificate_end_ms = id->end_ms;
        if (id->role != CERT_HYPERVISOR || strcmp(id->name, p->entry->name) != 0)
                return err_set(err, REASON_DENIED, EKEYREJECTED,
                               "its certificate is that of %s %s, not of %s", cert_role_name(id->role),
                               id->name, p->entry->name);
        return 0;
}

static void on_answer(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                      const struct err *err)
{
        struct partner *p = arg;
        struct err bad = {0};
        p->call = NULL;
        if (!err && ((peer && check_certificate(p, peer, &bad)) || take_hello(p, answer, &bad)))
                err = &bad;
        settle(p, !err, err);
}

static void ask(void *arg)
{
        struct partner *p = arg;
        struct http_target to = {.address = p->entry->address, .files = &p->all->m->config.files};
        struct err err = {0};
        p->asked_ms = loop_now_ms();
        p->asked_mono_ms = loop_mono_ms();
        memcpy(to.pin, p->entry->pin, sizeof(to.pin));
        if (!p->all->own.role)
                err = p->all->why;
        else
                p->call = http_call(p->all->calls, &to, "GET", "/v1/peer/hello", NULL, 0, HELLO_MS, on_answer,
                                    p, &err);
        if (err.reason)
                settle(p, false, &err);
}

/* ---- the list ---- */

static void partners_free(struct partners *all)
{
        if (!all)
                return;
        for (size_t i = 0; i < all->n; i++)
                loop_timer_cancel(&all->list[i].ask);
        http_calls_free(all->calls);
        peers_done(&all->peers);
        g_free(all->list);
        g_free(all);
}

static void add_partner(struct partners *all, const struct peer_entry *e)
{
        struct partner *p = &all->list[all->n++];
        *p = (struct partner){.entry = e, .all = all};
        loop_timer_init(&p->ask, ask, p);
        if (e->has_address)
                loop_timer_in(&p->ask, 0);
}

/* The same file may lie on every host, so our own group is in it, too. */
static void take_list(struct partners *all)
{
        const char *own = all->m->config.name;
        const struct peer_entry *us = peers_find(&all->peers, own);
        all->list = g_new0(struct partner, all->peers.n + 1);
        for (size_t i = 0; i < all->peers.n; i++)
                if (&all->peers.list[i] != us)
                        add_partner(all, &all->peers.list[i]);
        if (us)
                (void)STR_COPY(all->server, us->server);
        (void)peers_warn(all->m, &all->peers, &all->own);
}

unsigned peers_warn(const struct meted *m, const struct peers *peers, const struct cert_id *own)
{
        const struct peer_entry *us = peers_find(peers, m->config.name);
        int64_t left_ms = own->end_ms - loop_now_ms();
        unsigned n = 0;
        if (!own->role)
                return 0;
        if (us && strcmp(us->pin, own->pin) != 0) {
                log_warn("%s: [%s] is this host, and has another certificate there: the others refuse it",
                         m->config.peers, m->config.name);
                n++;
        }
        if (own->start_ms > loop_now_ms()) {
                log_warn("%s is not valid yet: the others do not believe it", m->config.files.cert);
                n++;
        } else if (left_ms <= 0) {
                log_warn("%s has expired: the others do not believe it ('mete pki renew')",
                         m->config.files.cert);
                n++;
        } else if (left_ms < SOON_MS) {
                log_warn("%s is valid for %d more days ('mete pki renew')", m->config.files.cert,
                         (int)(left_ms / DAY_MS));
                n++;
        }
        return n;
}

static int load(struct meted *m, struct partners **ret, struct err *err)
{
        struct partners *all = g_new0(struct partners, 1);
        all->m = m;
        int bad = peers_read(m->config.peers, &all->peers, err);
        if (bad == -ENOENT)
                bad = 0; /* there are none */
        if (!bad && !(all->calls = http_calls_new(err)))
                bad = -ENOMEM;
        if (bad) {
                partners_free(all);
                return bad;
        }
        if (cert_files_check(&m->config.files, 0, &all->own, &all->why) == 0 &&
            (all->own.role != CERT_HYPERVISOR || strcmp(all->own.name, m->config.name) != 0)) {
                (void)err_set(&all->why, REASON_INVALID, EINVAL,
                              "%.100s is the certificate of %s %s, and this is hypervisor %s",
                              m->config.files.cert, cert_role_name(all->own.role), all->own.name,
                              m->config.name);
                all->own = (struct cert_id){0};
        }
        take_list(all);
        *ret = all;
        return 0;
}

int peers_start(struct meted *m, struct err *err)
{
        return load(m, &m->partners, err);
}

void peers_stop(struct meted *m)
{
        partners_free(m->partners);
        m->partners = NULL;
}

/* Who stays is as it was until it answers anew: a move to it may be being planned. What is known of its way
 * is that of its address. */
static void carry_over(struct partners *to, const struct partners *from)
{
        for (size_t i = 0, k = 0; i < to->n; i++) {
                struct partner *p = &to->list[i];
                while (k < from->n && strcmp(from->list[k].entry->name, p->entry->name) < 0)
                        k++;
                const struct partner *was = k < from->n ? &from->list[k] : NULL;
                if (!was || strcmp(was->entry->name, p->entry->name) != 0 ||
                    strcmp(was->entry->pin, p->entry->pin) != 0)
                        continue;
                p->hello = was->hello;
                p->heard_ms = was->heard_ms;
                p->round_trip_ms = was->round_trip_ms;
                p->clock_ahead_ms = was->clock_ahead_ms;
                p->certificate_end_ms = was->certificate_end_ms;
                if (!p->entry->has_address || !was->entry->has_address ||
                    p->entry->address.port != was->entry->address.port ||
                    strcmp(p->entry->address.host, was->entry->address.host) != 0)
                        continue;
                p->at = was->at;
                p->is_reachable = was->is_reachable;
        }
}

void peers_reload(struct meted *m)
{
        struct partners *all = NULL;
        struct err err = {0};
        if (load(m, &all, &err)) {
                size_t n = strlen(m->config.peers);
                bool has_path = strncmp(err.sentence, m->config.peers, n) == 0 && err.sentence[n] == ':';
                log_error("%s; the peers stay as they were", err.sentence);
                (void)snprintf(m->peers_problem, sizeof(m->peers_problem), "%.95s",
                               err.sentence + (has_path ? n + 2 : 0));
                return;
        }
        *m->peers_problem = '\0';
        carry_over(all, m->partners);
        peers_stop(m);
        m->partners = all;
        log_info("%zu peers in %s", all->n, m->config.peers);
}

int peers_check(const struct meted *m, const struct cert_id *id, struct err *err)
{
        const struct peer_entry *e = peers_find(&m->partners->peers, id->name);
        if (!e || strcmp(e->name, m->config.name) == 0)
                return err_set(err, REASON_DENIED, EACCES,
                               "%s is no peer of this host: peers.conf there does not "
                               "have it",
                               id->name);
        if (strcmp(e->pin, id->pin) != 0)
                return err_set(err, REASON_DENIED, EACCES,
                               "this is not the certificate of %s that is pinned in peers.conf there",
                               id->name);
        return 0;
}

/* ---- moves ---- */

static struct partner *find_partner(const struct meted *m, const char *name, struct err *err)
{
        for (size_t i = 0; i < m->partners->n; i++)
                if (strcmp(m->partners->list[i].entry->name, name) == 0)
                        return &m->partners->list[i];
        (void)err_set(err, REASON_NOT_FOUND, ENOENT, "no peer is called %s (mete peers)", name);
        return NULL;
}

static void on_posted(void *arg, const struct http_answer *answer, const struct cert_id *peer,
                      const struct err *err)
{
        struct err bad = {0};
        (void)arg;
        (void)peer;
        if (!err && answer->status != 200) {
                (void)refusal(answer, "the peer", &bad);
                log_info("%s", bad.sentence);
        }
}

int peers_post(struct meted *m, const char *name, const char *path, const char *body, int64_t timeout_ms,
               struct err *err)
{
        const struct partner *p = find_partner(m, name, err);
        if (!p)
                return -ENOENT;
        if (!p->entry->has_address)
                return err_set(err, REASON_PEER_LOST, EHOSTUNREACH, "peers.conf has no address of %s", name);
        if (!p->all->own.role) {
                *err = p->all->why;
                return -err->code;
        }
        struct http_target to = {.address = p->entry->address, .files = &m->config.files};
        memcpy(to.pin, p->entry->pin, sizeof(to.pin));
        return http_call(p->all->calls, &to, "POST", path, body, strlen(body), timeout_ms, on_posted, NULL,
                         err)
                       ? 0
                       : -ENOMEM;
}

int peers_can(const struct meted *m, const char *name, struct err *err)
{
        const struct partner *p = find_partner(m, name, err);
        if (!p)
                return -ENOENT;
        if (!p->is_reachable)
                return err_set(err, REASON_PEER_LOST, EHOSTUNREACH, "%s is not reachable: %.160s", name,
                               p->entry->has_address ? p->problem.sentence
                                                     : "peers.conf has no address of it");
        if (strcmp(p->hello.qemu, m->probe.version) != 0 ||
            strcmp(p->hello.accelerator, api_accelerator_name(m->probe.accelerator)) != 0)
                return err_set(err, REASON_INCOMPATIBLE, ENOEXEC,
                               "%s has QEMU %s (%s), and this host %s (%s)", name, p->hello.qemu,
                               p->hello.accelerator, m->probe.version,
                               api_accelerator_name(m->probe.accelerator));
        return 0;
}

const struct tcp_address *peers_address(const struct meted *m, const char *name, struct err *err)
{
        const struct partner *p = find_partner(m, name, err);
        return !p ? NULL : *p->at.host ? &p->at : &p->entry->address;
}

struct means_side peers_means(const struct meted *m, const char *name, const struct means_side *here)
{
        const struct partner *p = find_partner(m, name, NULL);
        struct means_side s = {.bandwidth_bps = here->bandwidth_bps};
        for (size_t i = 0; p && i < p->hello.n_free; i++) {
                const struct api_peer_free *f = &p->hello.free[i];
                if (f->kind == API_COMPONENT_KIND_CPU)
                        s.cpu_milli = f->largest; /* a thread runs on one */
                else if (f->kind == API_COMPONENT_KIND_NET && f->largest < s.bandwidth_bps)
                        s.bandwidth_bps = f->largest;
        }
        return s;
}

size_t peers_later(const struct meted *m, const char *name, struct side_then ret[PLAN_THENS_MAX])
{
        const struct partner *p = find_partner(m, name, NULL);
        size_t n = 0;
        for (size_t i = 0; p && i < p->hello.n_later && n < PLAN_THENS_MAX; i++) {
                const struct api_peer_later *then = &p->hello.later[i];
                int64_t at_ms = p->heard_ms + then->in_ms; /* its clock is its own */
                if (n > 0 && at_ms < ret[n - 1].at_ms)
                        break; /* what is behind makes no sense */
                ret[n++] = (struct side_then){
                        at_ms, {then->has_bandwidth_bps ? then->bandwidth_bps : INT64_MAX, then->cpu_milli}
                };
        }
        return n;
}

/* ---- what is shown ---- */

static void show(const struct partner *p, struct api_peer *to)
{
        char text[TCP_TEXT];
        *to = (struct api_peer){.reachable = p->is_reachable};
        (void)STR_COPY(to->name, p->entry->name);
        to->same_server = *p->all->server && strcmp(p->entry->server, p->all->server) == 0;
        to->has_address = p->entry->has_address;
        if (to->has_address)
                (void)STR_COPY(to->address, tcp_address_text(&p->entry->address, text));
        to->has_problem = p->problem.reason != 0 || !p->entry->has_address;
        if (to->has_problem)
                (void)snprintf(to->problem, sizeof(to->problem), "%s",
                               p->entry->has_address
                                       ? p->problem.sentence
                                       : "peers.conf has no address of it, so that it is not asked");
        to->has_asked_ms = p->was_asked;
        to->asked_ms = p->asked_ms;
        to->has_certificate_end_ms = p->certificate_end_ms > 0;
        to->certificate_end_ms = p->certificate_end_ms;
        to->has_heard_ms = to->has_round_trip_ms = to->has_clock_ahead_ms = to->has_hello = p->heard_ms > 0;
        to->heard_ms = p->heard_ms;
        to->round_trip_ms = p->round_trip_ms;
        to->clock_ahead_ms = p->clock_ahead_ms;
        to->hello = p->hello;
}

json_t *peers_view(const struct meted *m, const char *query, struct err *err)
{
        const struct partners *all = m->partners;
        struct api_page_query q = {0};
        if (api_page_query_read(query, &q, err))
                return NULL;
        struct api_peer_page *page = g_new0(struct api_peer_page, 1);
        size_t limit = q.has_limit ? (size_t)q.limit : PAGE;
        for (size_t i = 0; i < all->n; i++) {
                if (q.has_after && strcmp(all->list[i].entry->name, q.after) <= 0)
                        continue;
                if (page->n_peers == limit) {
                        page->has_next = true;
                        (void)STR_COPY(page->next, page->peers[limit - 1].name);
                        break;
                }
                show(&all->list[i], &page->peers[page->n_peers++]);
        }
        page->has_listens = *m->config.tls != '\0';
        if (page->has_listens)
                (void)STR_COPY(page->listens, tcp_address_text(&m->config.tls_address, (char[TCP_TEXT]){0}));
        page->has_certificate_end_ms = all->own.role != 0;
        page->certificate_end_ms = all->own.end_ms;
        json_t *out = api_peer_page_emit(page);
        g_free(page);
        if (!out)
                (void)err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the answer");
        return out;
}

json_t *peers_hello(const struct meted *m)
{
        const struct ledger *l = hypervisor_ledger(m->hv);
        struct api_peer_hello h = {.api = API_METED_VERSION, .now_ms = loop_now_ms()};
        bool has_net = false;
        ledger_advance((struct ledger *)(uintptr_t)l, loop_now_ms());
        (void)STR_COPY(h.name, m->config.name);
        (void)STR_COPY(h.version, METE_VERSION);
        (void)STR_COPY(h.qemu, m->probe.version);
        (void)STR_COPY(h.accelerator, api_accelerator_name(m->probe.accelerator));
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                int64_t left = ledger_owned(l, (uint32_t)i) - ledger_claimed(l, (uint32_t)i);
                size_t k = 0;
                if (c->owned <= 0 || !c->healthy)
                        continue;
                left = left > 0 ? left : 0;
                while (k < h.n_free && h.free[k].kind != (enum api_component_kind)c->kind)
                        k++;
                if (k == ARRAY_N(h.free))
                        continue;
                h.n_free = k == h.n_free ? k + 1 : h.n_free;
                h.free[k].kind = (enum api_component_kind)c->kind;
                h.free[k].capacity += c->owned;
                h.free[k].free += left;
                h.free[k].largest = left > h.free[k].largest ? left : h.free[k].largest;
                has_net = has_net || c->kind == COMPONENT_NET;
        }
        struct side_then later[PLAN_THENS_MAX];
        size_t n = moves_later(m, later);
        for (size_t i = 0; i < n && i < ARRAY_N(h.later); i++)
                h.later[h.n_later++] = (struct api_peer_later){.in_ms = later[i].at_ms - h.now_ms,
                                                               .cpu_milli = later[i].has.cpu_milli,
                                                               .has_bandwidth_bps = has_net,
                                                               .bandwidth_bps = later[i].has.bandwidth_bps};
        for (size_t i = 0; i < h.n_later; i++)
                h.later[i].in_ms = h.later[i].in_ms > 0 ? h.later[i].in_ms : 0;
        return api_peer_hello_emit(&h);
}

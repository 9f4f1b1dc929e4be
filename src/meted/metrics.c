/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "meted/machine.h"
#include "wire/http.h"

static void metric(FILE *f, const char *name, const char *type, const char *help, double value)
{
        (void)fprintf(f, "# HELP mete_%s %s\n# TYPE mete_%s %s\nmete_%s %.15g\n", name, help, name, type,
                      name, value);
}

/* One row a counter of a connection. */
struct row {
        const char *name, *help;
        size_t offset;
};

static void rows_out(FILE *f, const char *group, const struct row *rows, size_t n, const void *counters)
{
        for (size_t i = 0; i < n; i++) {
                char name[64];
                uint64_t value;
                memcpy(&value, (const char *)counters + rows[i].offset, sizeof(value));
                (void)snprintf(name, sizeof(name), "%s_%s_total", group, rows[i].name);
                metric(f, name, "counter", rows[i].help, (double)value);
        }
}

static void rpc_out(FILE *f, const char *group, const struct rpc_counters *c)
{
#define ROW(field, help)                                                                                     \
        {                                                                                                    \
#field, help, offsetof(struct rpc_counters, field)                                           \
        }
        static const struct row rows[] = {
                ROW(lines, "Lines from the peer."),
                ROW(requests, "Requests of the peer."),
                ROW(answers, "Answers of the peer."),
                ROW(unreadable, "Lines that are not JSON."),
                ROW(too_long, "Lines over the limit."),
                ROW(malformed, "JSON that is no message."),
                ROW(busy_calls, "Requests refused, too many wait for an answer."),
                ROW(busy_rate, "Lines refused or dropped, over the rate."),
                ROW(pauses, "Times that nothing was read for a while."),
                ROW(unknown_answers, "Answers that nobody waits for."),
                ROW(timeouts, "Calls that were not answered in time."),
                ROW(dropped, "Messages to the peer that were dropped, it does not read."),
        };
#undef ROW
        rows_out(f, group, rows, ARRAY_N(rows), c);
}

/* What differs from HTTP on the Unix socket. All 0 where there is no TLS. */
static void tls_out(FILE *f, const struct meted *m)
{
        static const struct http_counters none;
        const struct http_counters *tls = m->http_tls ? http_server_counters(m->http_tls) : &none;
        metric(f, "tls_connections_total", "counter", "TLS connections that were taken.",
               (double)tls->connections);
        metric(f, "tls_refused_connections_total", "counter", "TLS connections refused, too many.",
               (double)tls->refused_connections);
        metric(f, "tls_displaced_total", "counter", "TLS connections of nobody that gave way to newer ones.",
               (double)tls->displaced);
        metric(f, "tls_timeouts_total", "counter", "TLS connections closed for want of a request.",
               (double)tls->timeouts);
        metric(f, "tls_denied_total", "counter", "Requests over TLS of those who are nobody here.",
               (double)m->counters.denied);
        metric(f, "tls_connections", "gauge", "TLS connections now.", tls->connections_now);
}

static void connections_out(FILE *f, const struct meted *m)
{
        struct rpc_counters agents = m->counters.agents, keeper = keeper_counters(m->keeper);
        struct qmp_counters monitors = m->counters.monitors;
        for (guint i = 0; i < m->machines->len; i++) {
                const struct machine *v = g_ptr_array_index(m->machines, i);
                rpc_counters_add(v->agent, &agents);
                vm_counters_add(v->vm, &monitors);
        }
        rpc_out(f, "agents", &agents);
        rpc_out(f, "keeper", &keeper);
#define ROW(field, help)                                                                                     \
        {                                                                                                    \
#field, help, offsetof(struct qmp_counters, field)                                           \
        }
        static const struct row monitor_rows[] = {
                ROW(replies, "Replies of VMMs."),
                ROW(events, "Events of VMMs."),
                ROW(unreadable, "Lines of VMMs that are no message."),
                ROW(unexpected, "Replies of VMMs to what was never asked."),
                ROW(late, "Replies of VMMs that came too late."),
        };
#undef ROW
        rows_out(f, "monitors", monitor_rows, ARRAY_N(monitor_rows), &monitors);
#define ROW(field, help)                                                                                     \
        {                                                                                                    \
#field, help, offsetof(struct http_counters, field)                                          \
        }
        static const struct row http_rows[] = {
                ROW(connections, "Connections that were taken."),
                ROW(replies, "Answers over HTTP."),
                ROW(streams, "Event streams that were opened."),
                ROW(refused_connections, "Connections refused, too many."),
                ROW(too_large, "Requests with too large a body."),
                ROW(timeouts, "Connections closed for want of a request."),
                ROW(slow_streams, "Event streams dropped, their reader is too slow."),
        };
#undef ROW
        const struct http_counters *http = http_server_counters(m->http);
        rows_out(f, "http", http_rows, ARRAY_N(http_rows), http);
        metric(f, "http_connections", "gauge", "Connections now.", http->connections_now);
        metric(f, "http_streams", "gauge", "Event streams now.", http->streams_now);
        tls_out(f, m);
}

/* What stopped VMs keep: how many do, and how much of a component. */
struct kept {
        size_t vms;
        int64_t *amounts;
};

static void add_kept(const struct request *r, void *arg)
{
        struct kept *k = arg;
        if (request_is_live(r) || request_is_final(r))
                return;
        k->vms++;
        for (size_t i = 0; i < r->n_definitions; i++)
                if (r->definitions[i].host_active)
                        k->amounts[r->definitions[i].component] += r->definitions[i].amount;
}

static void kept_out(FILE *f, const struct meted *m)
{
        struct kept k = {.amounts = g_new0(int64_t, m->inventory.n)};
        hypervisor_each(m->hv, add_kept, &k);
        metric(f, "kept_vms", "gauge", "Stopped VMs that keep something for their next start.",
               (double)k.vms);
        (void)fprintf(f, "# HELP mete_component_kept What of it stopped VMs keep; it counts as free.\n# TYPE "
                         "mete_component_kept gauge\n");
        for (size_t i = 0; i < m->inventory.n; i++)
                if (m->inventory.components[i].owned > 0)
                        (void)fprintf(f, "mete_component_kept{component=\"%s\"} %lld\n",
                                      m->inventory.components[i].id, (long long)k.amounts[i]);
        g_free(k.amounts);
}

struct changed {
        const struct meted *m;
        uint64_t n;
};

static void count_changed(const struct request *r, void *arg)
{
        struct changed *c = arg;
        c->n += r->state == REQUEST_GRANTED && *hypervisor_changed(c->m->hv, r->serial);
}

char *metrics_text(const struct meted *m, size_t *ret_n)
{
        char *text = NULL, lesser[METED_FALLBACKS][128];
        const struct counters *c = &m->counters;
        const struct ledger *l = hypervisor_ledger(m->hv);
        FILE *f = open_memstream(&text, ret_n);
        if (!f)
                return NULL;
        metric(f, "decisions_total", "counter", "Requests that were decided.", (double)c->decisions);
        metric(f, "turns_total", "counter", "Turns of the loop that decided something.", (double)c->turns);
        metric(f, "commits_total", "counter", "Transactions.", (double)c->commits);
        metric(f, "commit_failures_total", "counter", "Transactions that failed.",
               (double)c->commit_failures);
        metric(f, "guest_messages_total", "counter", "Requests from agents.", (double)c->guest_messages);
        metric(f, "http_requests_total", "counter", "Requests over HTTP.", (double)c->http_requests);
        metric(f, "checks_total", "counter", "Looks at all that one request was granted.", (double)c->checks);
        metric(f, "checks_unknown_total", "counter", "Looks that could not be taken.", (double)c->unknown);
        metric(f, "changed_total", "counter", "Items that were changed behind our back.", (double)c->changed);
        metric(f, "repaired_total", "counter", "Items that are again what was granted.", (double)c->repaired);
        metric(f, "hhi_updates_needed_total", "counter",
               "Changes of the host, for each guest that has another view of it now.", (double)c->hhi_needed);
        metric(f, "hhi_updates_not_needed_total", "counter",
               "Changes of the host, for each guest whose view is the same.", (double)c->hhi_not_needed);
        metric(f, "hhi_told_total", "counter", "Messages with host hardware information that guests took.",
               (double)c->hhi_told);
        metric(f, "hhi_told_bytes_total", "counter", "Their bytes.", (double)c->hhi_told_bytes);
        struct changed changed = {.m = m};
        hypervisor_each(m->hv, count_changed, &changed);
        metric(f, "changed", "gauge", "Requests of which something is not as it was granted.",
               (double)changed.n);
        metric(f, "claims", "gauge", "Claims in the ledger.", (double)ledger_claims(l));
        metric(f, "keeper_up", "gauge", "Whether mete-keeper can be reached.",
               keeper_info(m->keeper) ? 1 : 0);
        metric(f, "store_ok", "gauge", "Whether decisions can be recorded.", m->is_broken ? 0 : 1);
        connections_out(f, m);
        (void)fprintf(
                f,
                "# HELP mete_verdicts_total Verdicts that were sent.\n# TYPE mete_verdicts_total counter\n");
        for (int o = 1; o < OUTCOME_N; o++)
                (void)fprintf(f, "mete_verdicts_total{outcome=\"%s\"} %llu\n", outcome_name((enum outcome)o),
                              (unsigned long long)c->verdicts[o]);
        (void)fprintf(
                f,
                "# HELP mete_component_owned What may be given away.\n# TYPE mete_component_owned gauge\n"
                "# HELP mete_component_claimed What is claimed now.\n# TYPE mete_component_claimed gauge\n");
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *k = &m->inventory.components[i];
                if (k->owned <= 0)
                        continue;
                (void)fprintf(f,
                              "mete_component_owned{component=\"%s\"} "
                              "%lld\nmete_component_claimed{component=\"%s\"} %lld\n",
                              k->id, (long long)k->owned, k->id, (long long)ledger_claimed(l, (uint32_t)i));
        }
        (void)fprintf(
                f, "# HELP mete_component_out What of it is out of use.\n# TYPE mete_component_out gauge\n");
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *k = &m->inventory.components[i];
                if (k->owned > 0)
                        (void)fprintf(f, "mete_component_out{component=\"%s\"} %lld\n", k->id,
                                      (long long)(k->owned - component_owned(k)));
        }
        kept_out(f, m);
        (void)fprintf(f, "# HELP mete_fallback What this platform does in a lesser way.\n# TYPE "
                         "mete_fallback gauge\n");
        size_t n = meted_fallbacks(m, NULL, lesser, ARRAY_N(lesser));
        for (size_t i = 0; i < n; i++) {
                for (char *p = lesser[i]; *p; p++)
                        if (*p == '"' || *p == '\\')
                                *p = '\'';
                (void)fprintf(f, "mete_fallback{what=\"%s\"} 1\n", lesser[i]);
        }
        if (fclose(f) != 0) {
                free(text);
                return NULL;
        }
        return text;
}

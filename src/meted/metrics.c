/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/metrics.h"

#include <stdio.h>
#include <stdlib.h>

#include "meted/machine.h"

static void metric(FILE *f, const char *name, const char *type, const char *help, double value)
{
        (void)fprintf(f, "# HELP mete_%s %s\n# TYPE mete_%s %s\nmete_%s %.15g\n", name, help, name, type,
                      name, value);
}

char *metrics_text(const struct meted *m, size_t *ret_n)
{
        char *text = NULL, lesser[8][128];
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
        metric(f, "claims", "gauge", "Claims in the ledger.", (double)ledger_claims(l));
        metric(f, "keeper_up", "gauge", "Whether mete-keeper can be reached.",
               keeper_info(m->keeper) ? 1 : 0);
        metric(f, "store_ok", "gauge", "Whether decisions can be recorded.", m->is_broken ? 0 : 1);
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
        (void)fprintf(f, "# HELP mete_fallback What this platform does in a lesser way.\n# TYPE "
                         "mete_fallback gauge\n");
        size_t n = meted_fallbacks(m, NULL, lesser);
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

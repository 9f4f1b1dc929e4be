/* SPDX-License-Identifier: Apache-2.0 */
/* A process has what all its granted rows say, together. */
#include <string.h>
#include "agent/agent.h"
#include "base/log.h"
#include "base/str.h"

enum { HOLD_AGAIN_FIRST_MS = 100 };

static bool is_of(const struct row *row, const struct row *like)
{
        return row->state == ROW_GRANTED && row->has_verdict && row->pid == like->pid &&
               row->start_ticks == like->start_ticks;
}

void rows_want(const struct table *t, const struct row *like, struct hold_want *ret)
{
        *ret = (struct hold_want){0};
        for (size_t i = 0; i < t->n; i++) {
                const struct row *row = t->rows[i];
                if (!is_of(row, like))
                        continue;
                for (size_t k = 0; k < row->verdict.n_cpus; k++)
                        (void)cpulist_add(&ret->cpus, (uint32_t)row->verdict.cpus[k]);
                if (row->verdict.has_memory_bytes)
                        ret->memory_bytes += row->verdict.memory_bytes;
        }
}

static void set(const struct row *row, struct hold_said *said)
{
        struct agent *a = row->agent;
        struct hold_who who = {row->pid, row->start_ticks};
        struct hold_want want;

        rows_want(&a->table, row, &want);
        holds_set(a->holds, &who, &want, said);
        loop_timer_in(&a->hold_again, HOLD_AGAIN_FIRST_MS); /* does nothing where nothing is left */
}

/* The host's own come first. Where there is no room for another, the last one gives way: what the guest does
 * not do is known to nobody else. */
static void add_fallback(struct row *row, const char *text)
{
        struct api_verdict *v = &row->verdict;

        for (size_t i = 0; i < v->n_fallbacks; i++)
                if (strcmp(v->fallbacks[i], text) == 0)
                        return;
        if (v->n_fallbacks == ARRAY_N(v->fallbacks))
                v->n_fallbacks--;
        (void)STR_COPY(v->fallbacks[v->n_fallbacks++], text);
        row->is_dirty = true;
}

/* Without a provider it was said at the start. */
static void log_said(const struct row *row, const struct hold_said *said)
{
        const char *lack;

        for (size_t i = 0; i < said->n && strcmp(holds_provider(row->agent->holds, &lack), "none") != 0; i++)
                log_note("request %s: %s", row->id, said->text[i]);
}

void rows_hold(struct row *row)
{
        struct hold_said said;

        if (row_is_own(row)) /* it is for everybody */
                return;
        set(row, &said);
        log_said(row, &said);
        for (size_t i = 0; i < said.n; i++)
                add_fallback(row, said.text[i]);
}

void rows_join(struct row *row)
{
        struct hold_who who = {row->pid, row->start_ticks};

        if (row_is_own(row))
                return;
        holds_join(row->agent->holds, &who);
        row->is_joined = true;
}

void rows_unhold(struct row *row)
{
        struct hold_said said;

        row->is_joined = false;
        if (row_is_own(row))
                return;
        set(row, &said);
        log_said(row, &said); /* of what other leases of this process are to keep */
}

void rows_hold_all(struct agent *a)
{
        for (size_t i = 0; i < a->table.n; i++)
                if (a->table.rows[i]->state == ROW_GRANTED)
                        rows_hold(a->table.rows[i]);
        holds_sweep(a->holds);
        loop_timer_in(&a->hold_again, HOLD_AGAIN_FIRST_MS);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What is free for moves on this host, now and later, and when a level could be kept that cannot be now
 * (4.10).
 *
 * What ends and begins is known to the ledgers alone: nobody guesses that something is given back before its
 * time. Of what has no end, none is seen. */
#include <string.h>

#include "meted/moves-internal.h"
#include "meted/moves.h"

enum { FOR_MS = 60000 }; /* to be free, for a level without a total time */
enum { PLANS_MAX = 3 };

/* All the time from then on. Of CPUs the one with the most: a thread runs on one, with what that has. */
static struct means_side free_over(const struct meted *m, int64_t at_ms, int64_t for_ms)
{
        const struct ledger *l = hypervisor_ledger(m->hv);
        struct means_side s = {.bandwidth_bps = m->config.move_rate_bps};
        int64_t net = -1;
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                int64_t left = c->healthy ? ledger_free_over(l, (uint32_t)i, at_ms, at_ms + for_ms) : 0;
                if (c->kind == COMPONENT_CPU)
                        s.cpu_milli = s.cpu_milli > left ? s.cpu_milli : left;
                else if (c->kind == COMPONENT_NET)
                        net = net > left ? net : left;
        }
        if (net >= 0 && (s.bandwidth_bps == 0 || net < s.bandwidth_bps))
                s.bandwidth_bps = net;
        return s;
}

struct means_side move_free_here(const struct meted *m, int64_t for_ms)
{
        return free_over(m, loop_now_ms(), for_ms > 0 ? for_ms : FOR_MS);
}

/* What is offered is reserved for as long as it can be taken, too. */
static int64_t reserve_ms_of(const struct moving *mv)
{
        const struct plan *p = &mv->plan;
        if (p->outcome == PLAN_COUNTERED)
                return MOVE_HOLD_MS + plan_of_offer(p, 0).reserve_ms;
        return p->reserve_ms + (mv->core.row.is_offer ? MOVE_HOLD_MS : 0);
}

/* For how long it is reserved is known behind the plan; what begins before that is over stands in its way. */
void move_plan(struct moving *mv, const struct level *l)
{
        int64_t for_ms = mv->core.row.reserve_ms > 0 ? mv->core.row.reserve_ms : 1; /* of a round before */
        struct means *with = &mv->means;
        with->source = move_free_here(mv->m, for_ms);
        for (int i = 1;; i++) {
                with->destination = mv->core.row.is_short ? mv->core.row.has
                                                          : peers_means(mv->m, mv->peer, &with->source);
                plan_make(&mv->profile, l, with, &mv->plan);
                for_ms = MAX(for_ms, reserve_ms_of(mv));
                const struct means_side then = move_free_here(mv->m, for_ms);
                if (i == PLANS_MAX || (then.bandwidth_bps == with->source.bandwidth_bps &&
                                       then.cpu_milli == with->source.cpu_milli))
                        break;
                with->source = then;
        }
        mv->has_plan = true;
}

/* The next instants at which something of CPUs or the link changes hands, in order. */
struct instants {
        const struct meted *m;
        int64_t now_ms, at_ms[PLAN_THENS_MAX];
        size_t n;
};

static void add_instant(struct instants *all, int64_t at_ms)
{
        size_t i = 0;
        if (at_ms <= all->now_ms || at_ms == LEDGER_OPEN)
                return;
        while (i < all->n && all->at_ms[i] < at_ms)
                i++;
        if (i == PLAN_THENS_MAX || (i < all->n && all->at_ms[i] == at_ms))
                return;
        if (all->n < PLAN_THENS_MAX)
                all->n++;
        memmove(&all->at_ms[i + 1], &all->at_ms[i], (all->n - i - 1) * sizeof(all->at_ms[0]));
        all->at_ms[i] = at_ms;
}

static void take_claim(claim_id id, const struct claim *c, void *arg)
{
        struct instants *all = arg;
        enum component_kind kind = all->m->inventory.components[c->component].kind;
        (void)id;
        if (kind != COMPONENT_CPU && kind != COMPONENT_NET)
                return;
        add_instant(all, c->start_ms);
        add_instant(all, c->end_ms);
}

size_t moves_later(const struct meted *m, struct side_then ret[PLAN_THENS_MAX])
{
        struct instants all = {.m = m, .now_ms = loop_now_ms()};
        ledger_each(hypervisor_ledger(m->hv), take_claim, &all);
        for (size_t i = 0; i < all.n; i++)
                ret[i] = (struct side_then){all.at_ms[i], free_over(m, all.at_ms[i], 1)};
        return all.n;
}

void move_find_earliest(struct moving *mv, const struct level *l)
{
        struct side_then here[PLAN_THENS_MAX], there[PLAN_THENS_MAX];
        struct plan_then both[2 * PLAN_THENS_MAX];
        int64_t at_ms = 0, for_ms = l->total_ms > 0 ? l->total_ms : FOR_MS;
        size_t n_here = moves_later(mv->m, here), n_there = peers_later(mv->m, mv->peer, there);
        /* A peer that says nothing of its link is taken to have what this side has, then as now. */
        const struct means_side any = {.bandwidth_bps = INT64_MAX};
        struct means m = mv->means;
        if (!mv->core.row.is_short)
                m.destination = peers_means(mv->m, mv->peer, &any);
        size_t n = plan_merge(&m, here, n_here, there, n_there, both);
        bool is_known = plan_earliest(&mv->profile, l, &m, both, n, for_ms, loop_now_ms(), &at_ms);
        mv->earliest_ms = is_known ? at_ms : 0;
}

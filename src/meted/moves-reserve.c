/* SPDX-License-Identifier: Apache-2.0 */
/* What is reserved for a move on this side, in the ledger: had, raised, extended, given back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "meted/moves-internal.h"
#include "meted/moves.h"

enum { RESERVE_MS = 60000, EXTEND_MS = 10000, EXTEND_BEFORE_MS = 1500 };
/* Longer than from one look to the next; and from one try to have it again to the next. */
enum { LAST_LOOK_MS = 750, AGAIN_MS = 5000 };

int64_t move_rate_bps(int64_t bandwidth_bps)
{
        int64_t bps = (bandwidth_bps + NET_UNIT_BPS - 1) / NET_UNIT_BPS * NET_UNIT_BPS;
        return bps < NET_LEAST_BPS ? NET_LEAST_BPS : bps;
}

size_t move_needs(const struct moving *mv, int64_t bandwidth_bps, int64_t cpu_milli,
                  struct need ret[NEEDS_MAX])
{
        size_t n = 0;
        bool has_net = false;
        for (size_t i = 0; i < mv->m->inventory.n; i++)
                has_net = has_net || mv->m->inventory.components[i].kind == COMPONENT_NET;
        if (cpu_milli > 0) { /* as many CPUs as it takes, an equal part of each */
                int64_t cpus = (cpu_milli + 999) / 1000;
                ret[n++] = (struct need){
                        .kind = COMPONENT_CPU,
                        .amount = cpus,
                        .amount_max = cpus,
                        .n_parameters = 1,
                        .parameters = {{PARAMETER_SHARE, RELATION_AT_LEAST, (cpu_milli + cpus - 1) / cpus}}};
        }
        if (has_net && bandwidth_bps > 0) {
                int64_t bps = move_rate_bps(bandwidth_bps);
                ret[n++] = (struct need){.kind = COMPONENT_NET, .amount = bps, .amount_max = bps};
        }
        return n;
}

struct reservations {
        char prefix[REQUEST_ID];
        GPtrArray *keys; /* of those that hold something; NULL: only their end is wanted */
        int64_t end_ms;
};

static void take_reservation(const struct request *r, void *arg)
{
        struct reservations *of = arg;
        if (r->kind != REQUEST_RESERVATION || !request_is_live(r) || !g_str_has_prefix(r->id, of->prefix) ||
            strchr(r->id + strlen(of->prefix), '.'))
                return;
        of->end_ms = r->end_ms > of->end_ms ? r->end_ms : of->end_ms;
        if (of->keys)
                g_ptr_array_add(of->keys, g_strdup(r->key));
}

/* They are found by their ids, so that a restart loses none. */
static struct reservations reservations_of(const struct moving *mv, bool with_keys)
{
        struct reservations of = {.keys = with_keys ? g_ptr_array_new_with_free_func(g_free) : NULL};
        (void)snprintf(of.prefix, sizeof(of.prefix), MOVES_RESERVE "%s.", mv->core.row.id);
        hypervisor_each(mv->m->hv, take_reservation, &of);
        return of;
}

struct cpus {
        const struct moving *mv;
        char prefix[REQUEST_ID];
        int64_t *cpus, share_milli;
        size_t n, max;
};

static void take_cpus(const struct request *r, void *arg)
{
        struct cpus *of = arg;
        if (r->kind != REQUEST_RESERVATION || !request_is_live(r) || !g_str_has_prefix(r->id, of->prefix) ||
            strchr(r->id + strlen(of->prefix), '.'))
                return;
        for (size_t i = 0; i < r->n_definitions && of->n < of->max; i++) {
                const struct component *c = &of->mv->m->inventory.components[r->definitions[i].component];
                if (c->kind != COMPONENT_CPU)
                        continue;
                of->cpus[of->n++] = c->os_index;
                of->share_milli = r->definitions[i].amount;
        }
}

size_t move_cpus(const struct moving *mv, int64_t *ret, size_t max, int64_t *ret_share_milli)
{
        struct cpus of = {.mv = mv, .cpus = ret, .max = max};
        (void)snprintf(of.prefix, sizeof(of.prefix), MOVES_RESERVE "%s.", mv->core.row.id);
        hypervisor_each(mv->m->hv, take_cpus, &of);
        *ret_share_milli = of.share_milli;
        return of.n;
}

void move_unreserve(struct moving *mv)
{
        uint64_t serial;
        struct err err = {0};
        struct reservations of = reservations_of(mv, true);
        for (guint i = 0; i < of.keys->len; i++)
                (void)hypervisor_release(mv->m->hv, g_ptr_array_index(of.keys, i),
                                         "the move needs it no longer", loop_now_ms(), &serial, &err);
        if (of.keys->len)
                meted_changed(mv->m);
        g_ptr_array_free(of.keys, TRUE);
}

/* An id that none had: finished ones are remembered. */
static void reservation_id(const struct moving *mv, char id[REQUEST_ID])
{
        char key[REQUEST_KEY];
        for (unsigned n = 1;; n++) {
                (void)snprintf(id, REQUEST_ID, MOVES_RESERVE "%s.%u", mv->core.row.id, n);
                (void)snprintf(key, sizeof(key), "reservation:%s", id);
                if (!hypervisor_find(mv->m->hv, key))
                        return;
        }
}

static int reserve(struct moving *mv, const struct need *needs, size_t n, int64_t end_ms, struct err *err)
{
        char id[REQUEST_ID];
        uint64_t serial = 0;
        reservation_id(mv, id);
        struct ask ask = {
                .kind = REQUEST_RESERVATION, .id = id, .needs = needs, .n_needs = n, .end_ms = end_ms};
        int bad = hypervisor_ask(mv->m->hv, &ask, loop_now_ms(), &serial, err);
        if (bad)
                return bad;
        meted_changed(mv->m);
        const struct request *r = hypervisor_request(mv->m->hv, serial);
        if (r && r->state == REQUEST_GRANTED)
                return 1;
        (void)err_set(err, r ? r->reason : REASON_INTERNAL, ENOSPC, "%.200s", r ? r->sentence : "it is gone");
        return 0;
}

int move_reserve(struct moving *mv, const struct need *needs, size_t n, struct err *err)
{
        int64_t for_ms = mv->core.row.reserve_ms > 0 ? mv->core.row.reserve_ms : RESERVE_MS;
        move_unreserve(mv);
        return n == 0 ? 1 : reserve(mv, needs, n, loop_now_ms() + for_ms, err);
}

int64_t move_reserved_bps(const struct moving *mv)
{
        return MAX(mv->core.row.vector.bandwidth_bps, mv->raised_bps);
}

static size_t all_needs(const struct moving *mv, int64_t bandwidth_bps, struct need ret[NEEDS_MAX])
{
        const struct vector *v = &mv->core.row.vector;
        return move_needs(mv, bandwidth_bps,
                          move_is_source(&mv->core) ? v->source_cpu_milli : v->destination_cpu_milli, ret);
}

bool move_raise(struct moving *mv, int64_t bandwidth_bps)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        int64_t end_ms = reservations_of(mv, false).end_ms;
        if (end_ms <= loop_now_ms())
                return false;
        move_unreserve(mv);
        if (reserve(mv, needs, all_needs(mv, bandwidth_bps, needs), end_ms, &err) > 0) {
                mv->raised_bps = bandwidth_bps;
                hold_again(mv);
                return true;
        }
        (void)reserve(mv, needs, all_needs(mv, move_reserved_bps(mv), needs), end_ms, &err);
        hold_again(mv);
        return false; /* what it had; nobody can have taken it */
}

/* What it takes is used in these states: not before, and not any more behind them. */
static bool is_used(const struct moving *mv)
{
        enum move_state s = mv->core.row.state;
        return move_is_source(&mv->core) ? s == MOVE_PREPARING_THERE || s == MOVE_COPYING
                                         : s == MOVE_PREPARING || s == MOVE_READY || s == MOVE_INCOMING;
}

/* It may be promised to somebody else from now on. What a source holds ends with its copy anyway. */
static void lapse(struct moving *mv)
{
        if (mv->has_lapsed || !(is_used(mv) || (!move_is_source(&mv->core) && mv->thread)))
                return;
        mv->has_lapsed = true;
        mv->lapsed_mono_ms = loop_mono_ms();
        hold_again(mv);
        move_say(mv, "lapsed", "what it takes is not reserved any more: it has what nobody else takes");
}

/* Its time is over, maybe with another attempt to come: it is had again as soon as it is free. */
static void reserve_again(struct moving *mv, const struct need *needs, size_t n)
{
        struct err err = {0};
        int64_t mono_ms = loop_mono_ms();
        if (mv->has_lapsed && mono_ms < mv->lapsed_mono_ms + AGAIN_MS)
                return;
        if (is_used(mv) && reserve(mv, needs, n, loop_now_ms() + EXTEND_MS, &err) > 0) {
                mv->has_lapsed = false;
                hold_again(mv);
                move_say(mv, "reserved-again", "what it takes is reserved again");
        } else {
                mv->lapsed_mono_ms = mono_ms;
                lapse(mv);
        }
}

/* It takes longer than was predicted: what is reserved stays so, where nobody else was promised it. */
void move_extend(struct moving *mv)
{
        struct need needs[NEEDS_MAX];
        struct err err = {0};
        int64_t now = loop_now_ms(), end_ms = reservations_of(mv, false).end_ms;
        /* A dry run has nothing reserved: what is found is that of a move of the same id. */
        if (mv->is_dry || end_ms > now + EXTEND_BEFORE_MS || move_is_final(&mv->core))
                return;
        size_t n = all_needs(mv, move_reserved_bps(mv), needs);
        if (n == 0)
                return;
        if (end_ms == 0) {
                reserve_again(mv, needs, n);
                return;
        }
        move_unreserve(mv);
        if (reserve(mv, needs, n, now + EXTEND_MS, &err) > 0) {
                mv->has_lapsed = false;
                hold_again(mv); /* it may be other CPUs */
                move_say(mv, "extended", "it takes longer than was predicted: what it takes is reserved on");
        } else if (end_ms > now) {
                struct err none = {0};
                (void)reserve(mv, needs, n, end_ms, &none); /* what it had; nobody can have taken it */
                hold_again(mv);
                move_say(mv, "not-extended", "what it takes is not reserved for longer: %.120s",
                         err.sentence);
                if (end_ms <= now + LAST_LOOK_MS) /* at its end somebody else is to have it already */
                        lapse(mv);
        }
}

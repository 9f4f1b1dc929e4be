/* SPDX-License-Identifier: Apache-2.0 */
/* Model: the state says what is under way at the host, and with it which call is to be made when it is due or
 * after a restart (wake()). An answer moves on, or leaves it as it is; what is no answer to that state is
 * looked at again. Nothing is begun in a state in which something of an earlier round may be left: the ways
 * to another round lead over declining, or from a move that its host says is over. */
#include "core/order.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

static const char *const names[ORDER_STATE_N] = {
        [ORDER_ASKING] = "asking",         [ORDER_MOVING] = "moving",       [ORDER_ACCEPTING] = "accepting",
        [ORDER_DECLINING] = "declining",   [ORDER_WAITING] = "waiting",     [ORDER_OFFERED] = "offered",
        [ORDER_CANCELLING] = "cancelling", [ORDER_DONE] = "done",           [ORDER_DECLINED] = "declined",
        [ORDER_FAILED] = "failed",         [ORDER_CANCELLED] = "cancelled",
};

const char *order_state_name(enum order_state s)
{
        return s > 0 && s < ORDER_STATE_N ? names[s] : "none";
}

bool order_is_over(const struct order *o)
{
        return o->state >= ORDER_DONE;
}

const char *order_host(const struct order *o)
{
        return o->to[o->at];
}

const char *order_move_id(const struct order *o, char ret[ORDER_MOVE_ID])
{
        (void)snprintf(ret, ORDER_MOVE_ID, "%s.%08x.%u", o->id, o->key, o->round);
        return ret;
}

static bool has_bound(const struct level *l)
{
        return l->total_ms > 0 || l->downtime_ms > 0;
}

const struct level *order_level(const struct order *o)
{
        return has_bound(&o->taken) ? &o->taken : &o->level;
}

/* 0: whatever it is. */
static bool is_within(int64_t offered_ms, int64_t asked_ms, int64_t floor_ms)
{
        int64_t least = floor_ms > asked_ms ? floor_ms : asked_ms;
        return asked_ms == 0 || (offered_ms > 0 && offered_ms <= least);
}

bool order_may_take(const struct order *o, const struct level *offer)
{
        return has_bound(offer) && is_within(offer->total_ms, o->level.total_ms, o->floor.total_ms) &&
               is_within(offer->downtime_ms, o->level.downtime_ms, o->floor.downtime_ms);
}

/* The host is to hear of it, also where that got lost, or nobody lived to say it. */
static bool is_breaking(const struct order *o)
{
        return o->state == ORDER_CANCELLING || o->state == ORDER_DECLINING;
}

/* ---- moving on ---- */

static void settle(struct order *o, enum order_state to, int64_t now_ms, struct order_effects *ret)
{
        o->state = to;
        o->lost_ms = o->due_ms = o->next_ms = 0;
        o->refusal = 0;
        o->offer = (struct level){0};
        if (order_is_over(o)) {
                o->ended_ms = now_ms;
                ret->is_decided = true; /* each end is said, once */
        }
        ret->is_changed = true;
}

__attribute__((format(printf, 4, 5))) static void say(struct order *o, enum reason reason,
                                                      struct order_effects *ret, const char *format, ...)
{
        va_list args;
        va_start(args, format);
        (void)vsnprintf(o->sentence, sizeof(o->sentence), format, args);
        va_end(args);
        o->reason = reason;
        ret->is_changed = ret->is_decided = true;
}

static const char *level_text(const struct level *l, char ret[96])
{
        size_t n = 0;
        ret[0] = '\0';
        if (l->total_ms > 0)
                n = (size_t)snprintf(ret, 96, "time %lld ms", (long long)l->total_ms);
        if (l->downtime_ms > 0)
                (void)snprintf(ret + n, 96 - n, "%sdowntime %lld ms", n ? ", " : "",
                               (long long)l->downtime_ms);
        return ret;
}

static void ask(struct order *o, int64_t now_ms, struct order_effects *ret)
{
        o->accepts = 0;
        settle(o, ORDER_ASKING, now_ms, ret);
        ret->call = ORDER_CALL_ASK;
}

static bool has_round(const struct order *o)
{
        return o->round < ORDER_ROUNDS_MAX;
}

static bool may_wait(const struct order *o, int64_t now_ms)
{
        return has_round(o) && now_ms < o->until_ms;
}

/* Reasons that may be gone with time. */
static bool may_pass(enum reason r)
{
        return r == REASON_NO_CAPACITY || r == REASON_BUSY || r == REASON_TIMEOUT || r == REASON_PEER_LOST ||
               r == REASON_NO_OFFERS;
}

/* Reasons that are those of the host to which it was to go, so that another may do. */
static bool is_of_host(enum reason r)
{
        return may_pass(r) || r == REASON_INCOMPATIBLE || r == REASON_UNSUPPORTED || r == REASON_NOT_FOUND;
}

/* The pauses with which the rounds last for as long as there is time. */
static int64_t spread_ms(const struct order *o, int64_t now_ms)
{
        int64_t times = (ORDER_ROUNDS_MAX - o->round) / (int64_t)o->n_to;
        return (o->until_ms - now_ms) / (times > 0 ? times : 1);
}

/* ORDER_RETRY_FIRST_MS, twice as long each time; at most ORDER_RETRY_MAX_MS, or as long as makes the rounds
 * last where there is more time than that. */
static int64_t pause_ms(const struct order *o, int64_t now_ms)
{
        int64_t ms = ORDER_RETRY_FIRST_MS, most = spread_ms(o, now_ms);
        if (most < ORDER_RETRY_MAX_MS)
                most = ORDER_RETRY_MAX_MS;
        for (unsigned i = 1; i < o->round && ms < most; i++)
                ms *= 2;
        return ms < most ? ms : most;
}

/* As long it waits though hosts say that it is possible sooner: they say so again and again where somebody in
 * the way is extended, or renewed, in steps. Longer each time, as far as makes the rounds last. */
static int64_t least_pause_ms(const struct order *o, int64_t now_ms)
{
        int64_t ms = ORDER_RETRY_FIRST_MS, most = spread_ms(o, now_ms);
        for (unsigned i = 0; i < o->n_said && ms < most; i++)
                ms *= 2;
        ms = ms < most ? ms : most;
        return ms > ORDER_RETRY_FIRST_MS ? ms : ORDER_RETRY_FIRST_MS;
}

/* When to ask again: where each host that was asked has said when, the first of these. That of one that has
 * not may be earlier. */
static int64_t next_ms(struct order *o, int64_t now_ms)
{
        int64_t least_ms = now_ms + least_pause_ms(o, now_ms);
        if (o->n_earliest < o->n_to || o->earliest_ms >= o->until_ms)
                return now_ms + pause_ms(o, now_ms);
        o->n_said++;
        return o->earliest_ms > least_ms ? o->earliest_ms : least_ms;
}

static void take_earliest(struct order *o, const struct order_event *ev)
{
        int64_t at_ms =
                ev->earliest_ms < o->until_ms - ev->now_ms ? ev->now_ms + ev->earliest_ms : o->until_ms;
        if (ev->earliest_ms <= 0)
                return;
        o->earliest_ms = o->n_earliest == 0 || at_ms < o->earliest_ms ? at_ms : o->earliest_ms;
        o->n_earliest++;
}

/* Nothing is left of this round. Another host, a better time, or the end: as failed where it was under way or
 * could not be asked for, else as declined. */
static void next_round(struct order *o, int64_t now_ms, enum order_state end, struct order_effects *ret)
{
        if (has_round(o) && is_of_host(o->reason) && o->at + 1 < o->n_to) {
                o->taken = (struct level){0};
                o->at++;
                o->round++;
                ask(o, now_ms, ret);
        } else if (may_pass(o->reason) && may_wait(o, now_ms)) {
                int64_t next = next_ms(o, now_ms);
                o->n_earliest = 0;
                o->taken = (struct level){0};
                settle(o, ORDER_WAITING, now_ms, ret);
                o->next_ms = o->due_ms = next < o->until_ms ? next : o->until_ms;
        } else {
                settle(o, end, now_ms, ret);
        }
}

/* The host offers other levels, and holds the first. */
static void decide(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        char text[96] = "nothing";
        for (size_t i = 0; i < ev->n_offers; i++) {
                if (!order_may_take(o, &ev->offers[i]))
                        continue;
                settle(o, ORDER_ACCEPTING, ev->now_ms, ret);
                o->taken = ev->offers[i];
                say(o, 0, ret, "%s offers %s, which is not below the floor: accepted", o->from,
                    level_text(&o->taken, text));
                ret->call = ORDER_CALL_ACCEPT;
                return;
        }
        if (ev->n_offers > 0)
                (void)level_text(&ev->offers[0], text);
        if (o->is_asking && ev->n_offers > 0 && has_bound(&ev->offers[0])) {
                settle(o, ORDER_OFFERED, ev->now_ms, ret);
                o->offer = ev->offers[0];
                o->due_ms = ev->now_ms + ORDER_POLL_MS;
                say(o, REASON_NO_CAPACITY, ret, "%s offers %s to %s: somebody is to accept or decline it",
                    o->from, text, order_host(o));
                return;
        }
        settle(o, ORDER_DECLINING, ev->now_ms, ret);
        take_earliest(o, ev);
        say(o, REASON_NO_CAPACITY, ret, "%s offers %s to %s, which policy does not accept: declined%s%.80s",
            o->from, text, order_host(o), *ev->sentence ? "; " : "", ev->sentence);
        ret->call = ORDER_CALL_BREAK;
}

/* It is over, and not done. Offers that nobody holds are asked for. */
static void ended(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        bool was_begun = o->state == ORDER_MOVING;
        char text[96];
        for (size_t i = 0; i < ev->n_offers && !was_begun && has_round(o); i++) {
                if (!order_may_take(o, &ev->offers[i]) || has_bound(&o->taken))
                        continue;
                o->taken = ev->offers[i];
                o->round++;
                say(o, 0, ret, "%s could keep %s, which is not below the floor: asked for", o->from,
                    level_text(&o->taken, text));
                ask(o, ev->now_ms, ret);
                return;
        }
        take_earliest(o, ev);
        say(o, ev->reason ? ev->reason : REASON_INTERNAL, ret, "%s: %.200s", o->from,
            *ev->sentence ? ev->sentence : "it was not done, and no reason was given");
        next_round(o, ev->now_ms,
                   was_begun || o->reason != REASON_NO_CAPACITY ? ORDER_FAILED : ORDER_DECLINED, ret);
}

static void done(struct order *o, int64_t now_ms, struct order_effects *ret)
{
        settle(o, ORDER_DONE, now_ms, ret);
        say(o, 0, ret, "it runs on %s", order_host(o));
}

/* ---- what is heard ---- */

/* Whether a move was begun is not known, so nothing else is begun; what cannot be found out is said. */
static void lost(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        bool is_first = o->lost_ms == 0;
        char id[ORDER_MOVE_ID];
        if (is_first || ev->now_ms < o->lost_ms) /* a clock may be set back */
                o->lost_ms = ev->now_ms > 0 ? ev->now_ms : 1;
        o->due_ms = ev->now_ms + ORDER_RETRY_FIRST_MS;
        /* until_ms is how long it may be tried: what is cancelled is not tried any more. */
        if (o->state != ORDER_MOVING && ev->now_ms - o->lost_ms > ORDER_LOST_MS &&
            (o->state == ORDER_CANCELLING || ev->now_ms >= o->until_ms)) {
                (void)order_move_id(o, id);
                settle(o, ORDER_FAILED, ev->now_ms, ret);
                say(o, REASON_PEER_LOST, ret, "%s does not answer: what became of move %s there is not known",
                    o->from, id);
        } else if (is_first) {
                say(o, ev->reason ? ev->reason : REASON_PEER_LOST, ret, "%s: %.200s", o->from, ev->sentence);
        }
}

static void unknown(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        switch (o->state) {
        case ORDER_ASKING:
                if (o->refusal) {
                        o->reason = o->refusal;
                        next_round(o, ev->now_ms, ORDER_FAILED, ret);
                        break;
                }
                ret->call = ORDER_CALL_ASK;
                o->lost_ms = 0;
                break;
        case ORDER_OFFERED:
        case ORDER_DECLINING:
                next_round(o, ev->now_ms, ORDER_DECLINED, ret);
                break;
        case ORDER_CANCELLING:
                settle(o, ORDER_CANCELLED, ev->now_ms, ret);
                break;
        case ORDER_MOVING:
        case ORDER_ACCEPTING:
                settle(o, ORDER_FAILED, ev->now_ms, ret);
                say(o, REASON_STALE, ret, "%s knows nothing any more of what it had begun", o->from);
                break;
        case ORDER_WAITING:
        case ORDER_DONE:
        case ORDER_DECLINED:
        case ORDER_FAILED:
        case ORDER_CANCELLED:
        case ORDER_STATE_N:
                break;
        }
}

static void refused(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        if (o->state != ORDER_ASKING || ev->reason == 0) {
                lost(o, ev, ret); /* it is there, and says nothing of the move: looked at again */
                return;
        }
        if (o->refusal && ev->seen == ORDER_SEEN_REFUSED) {
                /* So is the look, too: made at once, it would go on without a pause, and without an end. */
                lost(o, ev, ret);
                return;
        }
        say(o, ev->reason, ret, "%s refuses: %.200s", o->from, ev->sentence);
        if (ev->seen == ORDER_SEEN_UNASKED) {
                next_round(o, ev->now_ms, ORDER_FAILED, ret);
                return;
        }
        /* One that stops, or lies, may have begun it all the same. */
        o->refusal = ev->reason;
        ret->call = ORDER_CALL_LOOK;
}

static bool is_same(const struct level *a, const struct level *b)
{
        return a->total_ms == b->total_ms && a->downtime_ms == b->downtime_ms;
}

/* Its time will be missed, and another is offered in its place (on_miss ask): policy's, or somebody's. */
static void offered_on_the_way(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        const struct level none = {0}, *l = ev->n_offers > 0 ? &ev->offers[0] : &none;
        char text[96];
        if (has_bound(l) && is_same(l, &o->taken) && o->accepts < ORDER_ACCEPTS) {
                /* It may not have heard that it was accepted. */
                o->accepts++;
                ret->is_changed = true;
                ret->call = ORDER_CALL_ACCEPT;
        } else if (has_bound(l) && order_may_take(o, l) && o->accepts < ORDER_ACCEPTS) {
                o->accepts++;
                o->taken = *l;
                say(o, 0, ret, "%s offers %s on the way, which is not below the floor: accepted", o->from,
                    level_text(l, text));
                ret->call = ORDER_CALL_ACCEPT;
        } else if (!is_same(l, &o->offer)) {
                o->offer = (struct level){.total_ms = l->total_ms, .downtime_ms = l->downtime_ms};
                ret->is_changed = true;
                if (has_bound(l))
                        say(o, REASON_TIMEOUT, ret, "its time will be missed; %s offers %s instead", o->from,
                            level_text(l, text));
        }
}

static void going(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        /* It may not have heard that it is to be broken off. */
        if (is_breaking(o) && o->lost_ms > 0)
                ret->call = ORDER_CALL_BREAK;
        o->lost_ms = 0;
        if (o->state == ORDER_ASKING || o->state == ORDER_ACCEPTING || o->state == ORDER_OFFERED) {
                settle(o, ORDER_MOVING, ev->now_ms, ret);
                o->accepts = 0;
                say(o, 0, ret, "under way from %s to %s", o->from, order_host(o));
        }
        o->due_ms = ev->now_ms + ORDER_POLL_MS;
        if (o->state == ORDER_MOVING)
                offered_on_the_way(o, ev, ret);
}

static void countered(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        o->lost_ms = 0;
        if (o->state == ORDER_ASKING || o->state == ORDER_MOVING) {
                decide(o, ev, ret);
        } else if (o->state == ORDER_OFFERED) { /* one that changed is another, to be decided about */
                o->due_ms = ev->now_ms + ORDER_POLL_MS;
                if (ev->n_offers == 0 || !is_same(&ev->offers[0], &o->offer))
                        decide(o, ev, ret);
        } else if (o->state == ORDER_ACCEPTING && o->accepts < ORDER_ACCEPTS) {
                o->accepts++;
                ret->is_changed = true;
                ret->call = ORDER_CALL_ACCEPT;
        } else if (o->state == ORDER_ACCEPTING) {
                settle(o, ORDER_DECLINING, ev->now_ms, ret);
                say(o, REASON_STALE, ret, "%s does not take up what it offered", o->from);
                ret->call = ORDER_CALL_BREAK;
        } else {
                /* Where that is the answer to it already, it is not said again at once, which might go on for
                 * ever. */
                o->due_ms = ev->now_ms + ORDER_POLL_MS;
                ret->call = o->is_told ? ORDER_CALL_NONE : ORDER_CALL_BREAK;
        }
}

static void over(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        if (o->state == ORDER_CANCELLING)
                settle(o, ORDER_CANCELLED, ev->now_ms, ret);
        else if (o->state == ORDER_DECLINING)
                next_round(o, ev->now_ms, ORDER_DECLINED, ret);
        else
                ended(o, ev, ret);
}

static void seen(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        switch (ev->seen) {
        case ORDER_SEEN_UNKNOWN:
                unknown(o, ev, ret);
                break;
        case ORDER_SEEN_REFUSED:
        case ORDER_SEEN_UNASKED:
                refused(o, ev, ret);
                break;
        case ORDER_SEEN_LOST:
                lost(o, ev, ret);
                break;
        case ORDER_SEEN_GOING:
                going(o, ev, ret);
                break;
        case ORDER_SEEN_COUNTERED:
                countered(o, ev, ret);
                break;
        case ORDER_SEEN_DONE: /* too late to decline it, or to cancel it */
                done(o, ev->now_ms, ret);
                break;
        case ORDER_SEEN_ENDED:
                over(o, ev, ret);
                break;
        case ORDER_SEEN_N:
                break;
        }
}

static void cancel(struct order *o, int64_t now_ms, struct order_effects *ret)
{
        bool is_nowhere = o->state == ORDER_WAITING;
        if (o->state == ORDER_CANCELLING)
                return;
        settle(o, is_nowhere ? ORDER_CANCELLED : ORDER_CANCELLING, now_ms, ret);
        say(o, REASON_CANCELLED, ret, "it was cancelled");
        if (!is_nowhere)
                ret->call = ORDER_CALL_BREAK;
}

static int nothing_offered(const struct order *o, struct err *err)
{
        return err_set(err, REASON_STALE, ESTALE, "order %s: nothing is offered while %s", o->id,
                       order_state_name(o->state));
}

int order_accept(struct order *o, const struct level *level, int64_t now_ms, struct order_effects *ret,
                 struct err *err)
{
        struct level offer = o->offer;
        char text[96];
        *ret = (struct order_effects){0};
        if (!has_bound(&offer) && has_bound(&o->taken) && (!level || is_same(level, &o->taken)))
                return 0;
        if (!has_bound(&offer))
                return nothing_offered(o, err);
        if (level && !is_same(level, &offer))
                return err_set(err, REASON_INVALID, EINVAL, "order %s: what is offered is %s", o->id,
                               level_text(&offer, text));
        settle(o, o->state == ORDER_OFFERED ? ORDER_ACCEPTING : o->state, now_ms, ret);
        o->accepts = 0;
        o->taken = offer;
        say(o, 0, ret, "%s offers %s: somebody accepted it", o->from, level_text(&offer, text));
        ret->call = ORDER_CALL_ACCEPT;
        return 0;
}

int order_decline(struct order *o, int64_t now_ms, struct order_effects *ret, struct err *err)
{
        char text[96];
        *ret = (struct order_effects){0};
        if (o->state == ORDER_DECLINING || o->state == ORDER_DECLINED)
                return 0;
        if (!has_bound(&o->offer))
                return nothing_offered(o, err);
        (void)level_text(&o->offer, text);
        settle(o, ORDER_DECLINING, now_ms, ret);
        say(o, REASON_NO_CAPACITY, ret, "%s offers %s: somebody declined it", o->from, text);
        ret->call = ORDER_CALL_BREAK;
        return 0;
}

static void wake(struct order *o, int64_t now_ms, bool is_restart, struct order_effects *ret)
{
        o->is_told = false;
        if (o->state != ORDER_WAITING) {
                o->due_ms = 0;
                o->lost_ms = is_restart ? 0 : o->lost_ms; /* nobody asked meanwhile */
                o->refusal = is_restart ? 0 : o->refusal;
                ret->call = is_restart && is_breaking(o) ? ORDER_CALL_BREAK : ORDER_CALL_LOOK;
        } else if (now_ms < o->next_ms && o->next_ms - now_ms <= o->until_ms - o->asked_ms) {
                /* else the clock was set back since */
                o->due_ms = o->next_ms;
        } else {
                o->round++;
                o->at = 0;
                ask(o, now_ms, ret);
        }
}

void order_begin(struct order *o, int64_t now_ms, struct order_effects *ret)
{
        assert(o->state == 0 && o->n_to > 0 && o->n_to <= ORDER_TO_MAX);
        *ret = (struct order_effects){0};
        o->asked_ms = now_ms;
        o->round = 1;
        ask(o, now_ms, ret);
}

void order_step(struct order *o, const struct order_event *ev, struct order_effects *ret)
{
        assert(o->state > 0 && o->state < ORDER_STATE_N && ev->kind > 0 && ev->kind < ORDER_EV_N);
        *ret = (struct order_effects){0};
        if (order_is_over(o))
                return; /* late */
        switch (ev->kind) {
        case ORDER_EV_SEEN:
                if (o->state != ORDER_WAITING)
                        seen(o, ev, ret);
                break;
        case ORDER_EV_CANCEL:
                cancel(o, ev->now_ms, ret);
                break;
        case ORDER_EV_TIME:
        case ORDER_EV_RESTART:
                wake(o, ev->now_ms, ev->kind == ORDER_EV_RESTART, ret);
                break;
        case ORDER_EV_N:
                break;
        }
        o->is_told = o->is_told || ret->call == ORDER_CALL_BREAK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Everything is decided anew at each sample, from where the move is believed to be (core/estimate.h) by the
 * simulation with which it was planned. Invariants: the limit is CONTROL_HOLD_MS, never 0, while copying
 * and for as long as it is not known that no vCPU is slow; while switching it is at most limit_most_ms()
 * unless the move is a best effort; a cancel is never sent after STOP, where only the guard may act. */
#include "core/control.h"

#include <assert.h>
#include <math.h>

enum { SETTLE_MS = 2 * ESTIMATE_WINDOW_MS, PREDICT_EVERY_MS = 500, SWITCH_PATIENCE_MS = 1000 };
/* Lifted so long before the first pass is through, or so many looks. */
enum { AHEAD_S = 1, AHEAD_LOOKS = 20 };
enum { LAST_CALL_MS = 100, SHARE_STEP_MILLI = 50, LIMIT_MOST_MS = 10000 };
static const double relax_within = 0.85; /* of the time: only then a throttle is eased */

static const char *const state_names[CONTROL_STATE_N] = {
        [CONTROL_PREPARED] = "prepared",   [CONTROL_COPYING] = "copying", [CONTROL_LIFTING] = "lifting",
        [CONTROL_SWITCHING] = "switching", [CONTROL_STOPPED] = "stopped", [CONTROL_CANCELLING] = "cancelling",
        [CONTROL_BROKEN] = "broken",       [CONTROL_DONE] = "done",       [CONTROL_FAILED] = "failed",
};
static const char *const event_names[CONTROL_EV_N] = {
        [CONTROL_EV_STARTED] = "started",     [CONTROL_EV_SAMPLE] = "sample",
        [CONTROL_EV_TICK] = "tick",           [CONTROL_EV_STOP] = "stop",
        [CONTROL_EV_COMPLETED] = "completed", [CONTROL_EV_FAILED] = "failed",
        [CONTROL_EV_CANCEL] = "cancel",       [CONTROL_EV_ACCEPTED] = "accepted",
        [CONTROL_EV_DECLINED] = "declined",   [CONTROL_EV_LIFTED] = "lifted",
};

const char *control_state_name(enum control_state s)
{
        return s > 0 && s < CONTROL_STATE_N ? state_names[s] : "?";
}

const char *control_event_name(enum control_event_kind e)
{
        return e < CONTROL_EV_N ? event_names[e] : "?";
}

static struct control_effect *effect(struct control_effects *out, enum control_effect_kind kind,
                                     int64_t value)
{
        assert(out->n < CONTROL_EFFECTS_MAX);
        struct control_effect *e = &out->list[out->n++];
        *e = (struct control_effect){.kind = kind, .value = value};
        return e;
}

static void set_limit(struct control *c, int64_t limit_ms, struct control_effects *out)
{
        if (limit_ms < CONTROL_HOLD_MS)
                limit_ms = CONTROL_HOLD_MS; /* none keeps the level: it stops all but never */
        assert(limit_ms == CONTROL_HOLD_MS || c->is_lifted);
        if (limit_ms != c->limit_ms)
                effect(out, CONTROL_LIMIT, limit_ms);
        c->limit_ms = limit_ms;
}

void control_init(struct control *c, const struct profile *p, const struct level *l, const struct means *m,
                  const struct plan *plan, int64_t bandwidth_max_bps, enum on_miss on_miss)
{
        int64_t bps = plan->vector.bandwidth_bps;
        if (bps <= 0) /* nothing is reserved: what is free may do */
                bps = bandwidth_max_bps;
        assert(bps > 0 && plan->vector.share_milli > 0 && on_miss >= ON_MISS_ABORT && on_miss <= ON_MISS_ASK);
        *c = (struct control){.state = CONTROL_PREPARED,
                              .level = *l,
                              .on_miss = on_miss,
                              .bandwidth_bps = bps,
                              .bandwidth_max_bps = bandwidth_max_bps > bps ? bandwidth_max_bps : bps,
                              .share_milli = plan->vector.share_milli,
                              .planned_share_milli = plan->vector.share_milli,
                              .share_min_milli = m->share_min_milli,
                              .goal_ms = plan->downtime_limit_ms};
        estimate_init(&c->estimate, p, m, bps);
}

/* ---- what will come ---- */

/* The longest downtime with a limit. A throttle is lifted before QEMU may stop the guest; that takes a while,
 * in which the guest dirties. */
static double bound_s(const struct control *c, double limit_s, int64_t share_milli)
{
        struct precopy_means worst = estimate_means(&c->estimate, limit_s, share_milli, PLAN_PESSIMISTIC);
        return plan_downtime_bound_s(&c->estimate.profile, &c->estimate.means, &worst) + c->extra_s;
}

/* The highest limit that keeps a downtime of so many ms; 0: none does. */
static int64_t limit_for(const struct control *c, int64_t downtime_ms, int64_t share_milli)
{
        double least_s = bound_s(c, 0, share_milli), per_s = bound_s(c, 1, share_milli) - least_s;
        double ms = ((double)downtime_ms - least_s * 1000) / per_s;
        return ms < 1 ? 0 : (int64_t)fmin(ms, LIMIT_MOST_MS);
}

/* Of the level's. */
static int64_t limit_most_ms(const struct control *c, int64_t share_milli)
{
        bool is_any = c->level.downtime_ms == 0 || c->level.is_best_effort;
        return is_any ? LIMIT_MOST_MS : limit_for(c, c->level.downtime_ms, share_milli);
}

int64_t control_downtime_ms(const struct control *c)
{
        return (int64_t)ceil(bound_s(c, (double)c->limit_ms / 1000, 1000) * 1000);
}

static struct precopy_outcome rest_of(const struct control *c, const struct precopy *loop, int64_t limit_ms,
                                      int64_t share_milli, enum plan_view view)
{
        struct precopy_means m = estimate_means(&c->estimate, (double)limit_ms / 1000, share_milli, view);
        return precopy_run(loop, &m);
}

/* Of all attempts; infinite where it does not end. */
static double total_ms(const struct control *c, int64_t limit_ms, int64_t share_milli, enum plan_view view)
{
        struct precopy_outcome o = rest_of(c, &c->estimate.loop, limit_ms, share_milli, view);
        return (double)(c->attempt_ms - c->started_ms) + o.total_s * 1000;
}

/* Who wants it finished all the same waives the total time, once it is said that it will be missed. */
static int64_t total_most_ms(const struct control *c)
{
        return c->on_miss == ON_MISS_FINISH && c->is_miss_said ? 0 : c->level.total_ms;
}

static bool is_in_time(const struct control *c, int64_t limit_ms, int64_t share_milli, enum plan_view view)
{
        double ms = total_ms(c, limit_ms, share_milli, view);
        return total_most_ms(c) > 0 ? ms <= (double)total_most_ms(c) : isfinite(ms);
}

static void predict(const struct control *c, enum control_effect_kind kind, struct control_effects *out)
{
        struct precopy_outcome o = rest_of(c, &c->estimate.loop, c->goal_ms, c->share_milli, PLAN_EXPECTED);
        double ms = (double)(c->attempt_ms - c->started_ms) + o.total_s * 1000;
        bool ends = o.end == PRECOPY_STOPS && ms < 1e15;
        effect(out, kind, ends ? (int64_t)ceil(ms) : 0)->other =
                ends ? (int64_t)ceil((o.downtime_s + c->extra_s) * 1000) : 0;
}

/* ---- the means ---- */

static void lift(struct control *c, struct control_effects *out)
{
        if (c->is_lifted || c->is_lift_asked)
                return;
        c->is_lift_asked = true;
        effect(out, CONTROL_LIFT, ++c->lifts);
}

/* QEMU is kept from stopping the guest, which then runs as slowly as is wanted. */
static void hold(struct control *c, struct control_effects *out)
{
        c->state = CONTROL_COPYING;
        if (c->share_milli < 1000)
                c->is_lifted = c->is_lift_asked = false;
        set_limit(c, CONTROL_HOLD_MS, out);
        if (c->share_milli < 1000)
                effect(out, CONTROL_SHARE, c->share_milli);
}

/* QEMU may stop it, once no more is left than fits; what is dirtied while a throttle is lifted comes on top.
 */
static void switch_over(struct control *c, int64_t now_ms, struct control_effects *out)
{
        double more_s = bound_s(c, 0, c->share_milli) - bound_s(c, 0, 1000);
        int64_t limit_ms = c->goal_ms + (int64_t)ceil(more_s * 1000), most_ms = limit_most_ms(c, 1000);
        if (c->goal_ms == CONTROL_FORCE_MS)
                limit_ms = CONTROL_FORCE_MS;
        else if (limit_ms > most_ms)
                limit_ms = most_ms;
        c->state = CONTROL_SWITCHING;
        c->switched_ms = now_ms;
        set_limit(c, limit_ms, out);
        effect(out, CONTROL_SWITCH, control_downtime_ms(c));
}

static void release(struct control *c, int64_t now_ms, struct control_effects *out)
{
        if (c->is_lifted) {
                switch_over(c, now_ms, out);
        } else {
                c->state = CONTROL_LIFTING;
                lift(c, out);
        }
}

static bool fits(const struct control *c, int64_t limit_ms)
{
        double s = estimate_left_bytes(&c->estimate) / c->estimate.bytes_per_s; /* as QEMU will see it */
        return s * 1000 <= (double)limit_ms;
}

static bool raise_limit(struct control *c, int64_t most_ms)
{
        for (int i = 0; plan_rung_ms(i) > 0 && plan_rung_ms(i) <= most_ms; i++)
                if (plan_rung_ms(i) > c->goal_ms &&
                    is_in_time(c, plan_rung_ms(i), c->share_milli, PLAN_PESSIMISTIC)) {
                        c->goal_ms = plan_rung_ms(i);
                        return true;
                }
        c->goal_ms = most_ms; /* free, and nothing less is enough */
        return is_in_time(c, c->goal_ms, c->share_milli, PLAN_PESSIMISTIC);
}

static void throttle(struct control *c, int64_t share_milli, int64_t now_ms, struct control_effects *out)
{
        c->share_milli = share_milli;
        c->settled_ms = now_ms + SETTLE_MS;
        if (share_milli == 1000)
                lift(c, out);
        hold(c, out);
}

/* As little as will do; or, if it is likely to do, as much as there is. */
static bool throttle_more(struct control *c, int64_t now_ms, struct control_effects *out)
{
        for (int64_t share = c->share_milli; share > c->share_min_milli;) {
                share = share - SHARE_STEP_MILLI > c->share_min_milli ? share - SHARE_STEP_MILLI
                                                                      : c->share_min_milli;
                int64_t most_ms = limit_most_ms(c, share);
                bool is_last = share == c->share_min_milli;
                if (most_ms > 0 && (is_in_time(c, most_ms, share, PLAN_PESSIMISTIC) ||
                                    (is_last && is_in_time(c, most_ms, share, PLAN_EXPECTED)))) {
                        if (c->goal_ms > most_ms)
                                c->goal_ms = most_ms;
                        throttle(c, share, now_ms, out);
                        return true;
                }
        }
        return false;
}

static void ease(struct control *c, int64_t now_ms, struct control_effects *out)
{
        int64_t share = c->share_milli + SHARE_STEP_MILLI;
        if (share > c->planned_share_milli)
                share = c->planned_share_milli;
        if (c->state != CONTROL_COPYING || now_ms < c->settled_ms || share <= c->share_milli ||
            total_ms(c, c->goal_ms, share, PLAN_PESSIMISTIC) > relax_within * (double)total_most_ms(c))
                return;
        throttle(c, share, now_ms, out);
}

/* ---- a miss ---- */

/* The other bound, where one of them stays as it was asked for; where neither can, both. */
static void offer_levels(const struct control *c, struct control_effect *e)
{
        int64_t most_ms = limit_most_ms(c, c->share_milli), downtime_ms = 0, both_downtime_ms = 0;
        double least_ms = INFINITY, both_ms = INFINITY;
        for (int i = 0; plan_rung_ms(i) > 0; i++) {
                double limit_s = (double)plan_rung_ms(i) / 1000;
                double ms = total_ms(c, plan_rung_ms(i), c->share_milli, PLAN_PESSIMISTIC);
                int64_t bound_ms = (int64_t)ceil(bound_s(c, limit_s, c->share_milli) * 1000);
                if (plan_rung_ms(i) <= most_ms)
                        least_ms = fmin(least_ms, ms);
                if (downtime_ms == 0 && isfinite(ms) &&
                    (c->level.total_ms == 0 || ms <= (double)c->level.total_ms))
                        downtime_ms = bound_ms;
                if (ms < both_ms) {
                        both_ms = ms;
                        both_downtime_ms = bound_ms;
                }
        }
        if (least_ms < LEVEL_MAX_MS && c->level.total_ms > 0)
                e->levels[e->n_levels++] =
                        (struct level){(int64_t)ceil(least_ms), c->level.downtime_ms, false};
        if (downtime_ms > 0 && c->level.downtime_ms > 0)
                e->levels[e->n_levels++] = (struct level){c->level.total_ms, downtime_ms, false};
        if (e->n_levels == 0 && both_ms < LEVEL_MAX_MS)
                e->levels[e->n_levels++] = (struct level){(int64_t)ceil(both_ms), both_downtime_ms, false};
}

static void say_miss(struct control *c, struct control_effects *out)
{
        if (c->is_miss_said)
                return;
        c->is_miss_said = true;
        predict(c, CONTROL_MISS, out);
        if (c->on_miss == ON_MISS_ASK && !c->level.is_best_effort) {
                c->is_asking = true;
                offer_levels(c, effect(out, CONTROL_RENEGOTIATE, 0));
        }
}

static void cancel(struct control *c, struct control_effects *out)
{
        c->state = CONTROL_CANCELLING;
        c->is_cancelled = true;
        c->is_asking = false; /* what was offered is no longer to be had */
        effect(out, CONTROL_CANCEL, 0);
}

/* As if from now on there were what was reserved, at least: a link that stutters, or is silent for a while,
 * may come back, and until then nothing is lost by going on. */
static struct control restored(const struct control *c)
{
        struct control r = *c;
        r.estimate.bytes_per_s = fmax(c->estimate.bytes_per_s, c->estimate.reserved_bytes_per_s);
        return r;
}

/* Without a total time nothing else would end it: then the bandwidth is what it is. */
static bool is_certain_to_miss(const struct control *c)
{
        struct control r = c->level.total_ms > 0 ? restored(c) : *c;
        int64_t most_ms = limit_most_ms(&r, r.share_milli);
        return !is_in_time(&r, c->goal_ms > most_ms ? c->goal_ms : most_ms, c->share_milli, PLAN_OPTIMISTIC);
}

/* More likely than not it will be missed, whatever is done; and not by one odd sample. */
static void missed(struct control *c, int64_t now_ms, struct control_effects *out)
{
        if (c->missed_ms == 0)
                c->missed_ms = now_ms;
        if (now_ms - c->missed_ms < SETTLE_MS)
                return;
        say_miss(c, out);
        if (c->level.is_best_effort) {
                /* Without a time to wait for: the rounds go on as they are, so it may as well be now. */
                if (c->level.total_ms == 0 && c->estimate.loop.rounds > 0) {
                        c->goal_ms = CONTROL_FORCE_MS;
                        release(c, now_ms, out);
                }
        } else if (c->on_miss == ON_MISS_ABORT && is_certain_to_miss(c))
                cancel(c, out);
}

/* The total time is nearly over. */
static void watch_total(struct control *c, int64_t now_ms, struct control_effects *out)
{
        int64_t most_ms = limit_most_ms(c, c->share_milli);
        struct control r = restored(c); /* with no bandwidth the guest would stand for ever */
        int64_t downtime_ms = (int64_t)ceil(bound_s(&r, (double)c->goal_ms / 1000, c->share_milli) * 1000);
        int64_t rest_ms = c->started_ms + c->level.total_ms - now_ms, left_ms = rest_ms - downtime_ms;
        if (total_most_ms(c) == 0 || c->goal_ms == CONTROL_FORCE_MS || left_ms > LAST_CALL_MS)
                return;
        if (c->level.is_best_effort) {
                say_miss(c, out);
                c->goal_ms = CONTROL_FORCE_MS;
                release(c, now_ms, out);
        } else if (left_ms > 0) {
                if (c->state == CONTROL_COPYING && fits(c, most_ms)) {
                        c->goal_ms = most_ms;
                        release(c, now_ms, out);
                }
        } else if (limit_for(&r, rest_ms, c->share_milli) > 0) {
                /* A shorter downtime than could be is in time still: little may be left to send. */
                int64_t less_ms = limit_for(&r, rest_ms - LAST_CALL_MS, c->share_milli);
                c->goal_ms = less_ms > 1 ? less_ms : 1;
        } else {
                say_miss(c, out);
                if (c->on_miss != ON_MISS_FINISH)
                        cancel(c, out);
        }
}

/* ---- at a sample ---- */

/* True: nothing more can be done, and it is not enough. */
static bool steer(struct control *c, int64_t now_ms, struct control_effects *out)
{
        int64_t most_ms = limit_most_ms(c, c->share_milli);
        if (c->goal_ms == CONTROL_FORCE_MS)
                return false;
        if (c->goal_ms > most_ms || c->goal_ms == 0)
                c->goal_ms = most_ms;
        if (most_ms > 0 && is_in_time(c, c->goal_ms, c->share_milli, PLAN_PESSIMISTIC)) {
                ease(c, now_ms, out);
                return false;
        }
        if ((most_ms > 0 && raise_limit(c, most_ms)) || now_ms < c->settled_ms)
                return false;
        if (c->bandwidth_bps < c->bandwidth_max_bps) {
                c->bandwidth_bps = c->bandwidth_max_bps;
                c->settled_ms = now_ms + SETTLE_MS;
                effect(out, CONTROL_BANDWIDTH, c->bandwidth_bps);
                return false;
        }
        return !throttle_more(c, now_ms, out) &&
               !(most_ms > 0 && is_in_time(c, c->goal_ms, c->share_milli, PLAN_EXPECTED));
}

/* Buffers full of zero pages would be work for the destination while the guest stands, so they go first. */
static bool is_ready(const struct control *c)
{
        return c->estimate.loop.rounds > 0 && c->goal_ms > 0 &&
               (c->share_milli == 1000 || fits(c, c->goal_ms));
}

static void settle_limit(struct control *c, int64_t now_ms, struct control_effects *out)
{
        if (c->state == CONTROL_LIFTING)
                return; /* it is held until the answer */
        if (c->state == CONTROL_COPYING && is_ready(c))
                release(c, now_ms, out);
        else if (c->state == CONTROL_COPYING || c->goal_ms == 0 ||
                 (c->share_milli < 1000 && c->goal_ms != CONTROL_FORCE_MS &&
                  now_ms - c->switched_ms > SWITCH_PATIENCE_MS)) {
                if (c->state == CONTROL_SWITCHING)
                        hold(c, out);
                else
                        set_limit(c, CONTROL_HOLD_MS, out);
        } else if (c->share_milli == 1000)
                set_limit(c, c->goal_ms, out);
        else if (c->limit_ms > limit_most_ms(c, 1000) && c->goal_ms != CONTROL_FORCE_MS)
                set_limit(c, limit_most_ms(c, 1000), out);
}

bool control_is_under_way(const struct control *c)
{
        return c->state == CONTROL_COPYING || c->state == CONTROL_LIFTING || c->state == CONTROL_SWITCHING;
}

/* With next to nothing left QEMU stops the guest whatever its limit is: so all is lifted a while before the
 * first pass is through. A guest that is throttled here has something left. */
static void look_ahead(struct control *c, const struct sample *before, const struct sample *now,
                       struct control_effects *out)
{
        double left = (double)now->remaining_bytes;
        double drop = (double)before->remaining_bytes - left;
        bool is_near =
                now->syncs > 1 || left < AHEAD_S * c->estimate.bytes_per_s || left < AHEAD_LOOKS * drop;
        if (is_near && now->transferred_bytes > 0 && c->state == CONTROL_COPYING && c->share_milli == 1000)
                lift(c, out);
}

static int look(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        const struct sample before = c->estimate.has_sample ? c->estimate.sample : (struct sample){0};
        if (ev->kind == CONTROL_EV_SAMPLE &&
            !estimate_sample(&c->estimate, ev->now_ms, c->state == CONTROL_COPYING ? c->share_milli : 1000,
                             &ev->sample))
                return 0;
        c->estimate.loop.now_s = (double)(ev->now_ms - c->attempt_ms) / 1000;
        if (ev->kind == CONTROL_EV_SAMPLE) {
                if (steer(c, ev->now_ms, out))
                        missed(c, ev->now_ms, out);
                else
                        c->missed_ms = 0;
                look_ahead(c, &before, &ev->sample, out);
        }
        if (control_is_under_way(c))
                watch_total(c, ev->now_ms, out);
        if (control_is_under_way(c))
                settle_limit(c, ev->now_ms, out);
        if (control_is_under_way(c) && ev->kind == CONTROL_EV_SAMPLE &&
            ev->now_ms - c->predicted_ms >= PREDICT_EVERY_MS) {
                c->predicted_ms = ev->now_ms;
                predict(c, CONTROL_PREDICT, out);
        }
        return 1;
}

/* ---- everything else ---- */

static int start(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        if (c->attempts++ == 0)
                c->started_ms = ev->begun_ms > 0 && ev->begun_ms < ev->now_ms ? ev->begun_ms : ev->now_ms;
        c->attempt_ms = c->settled_ms = c->predicted_ms = ev->now_ms;
        c->limit_ms = -1;
        c->is_lifted = c->is_lift_asked = false;
        hold(c, out);
        return 1;
}

/* An answer to what was revoked by a throttle, or is of an attempt before, says nothing. */
static int lifted(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        if (!c->is_lift_asked || ev->lift != c->lifts)
                return 0;
        c->is_lift_asked = false;
        c->is_lifted = true;
        if (c->state == CONTROL_LIFTING)
                switch_over(c, ev->now_ms, out);
        return 1;
}

static int stopped(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        struct precopy_means m = estimate_means(&c->estimate, 0, 1000, PLAN_EXPECTED);
        (void)out;
        /* QEMU has made a sync that was not seen here, and found less left than its limit lets it. */
        c->stop_s = fmin(precopy_stop(&c->estimate.loop, &m).downtime_s + c->extra_s,
                         bound_s(c, (double)c->limit_ms / 1000, 1000));
        c->stopped_ms = ev->now_ms;
        c->state = CONTROL_STOPPED;
        return 1;
}

static int completed(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)ev;
        (void)out;
        c->state = CONTROL_DONE;
        return 1;
}

/* Everything is sent once more, with what was learnt. */
static bool is_worth_another(const struct control *c, int64_t now_ms)
{
        struct precopy fresh = c->estimate.loop; /* restarted */
        int64_t most_ms = limit_most_ms(c, c->share_milli);
        struct precopy_outcome o = rest_of(c, &fresh, most_ms, c->share_milli, PLAN_EXPECTED);
        if (c->is_cancelled || c->attempts > CONTROL_RETRIES || most_ms == 0)
                return false;
        if (c->level.is_best_effort || c->level.total_ms == 0 || c->on_miss == ON_MISS_FINISH)
                return true;
        return (double)(now_ms - c->started_ms) + o.total_s * 1000 <= (double)c->level.total_ms;
}

static int broke(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        double longer_s = (double)(ev->now_ms - c->stopped_ms) / 1000 - c->stop_s;
        if (c->state == CONTROL_STOPPED && longer_s > 0)
                c->extra_s += longer_s;
        if (c->goal_ms == CONTROL_FORCE_MS)
                c->goal_ms = LIMIT_MOST_MS;
        estimate_restart(&c->estimate);
        c->state = CONTROL_FAILED;
        if (is_worth_another(c, ev->now_ms)) {
                c->state = CONTROL_BROKEN;
                effect(out, CONTROL_START, 0);
        }
        return 1;
}

static int give_up(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)ev;
        (void)out;
        c->state = CONTROL_FAILED;
        return 1;
}

static int cancel_now(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)ev;
        cancel(c, out);
        return 1;
}

/* After STOP only the guard may break it off; if it does, that was the last attempt. */
static int cancel_late(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)ev;
        (void)out;
        c->is_cancelled = true;
        return 0;
}

/* No attempt is begun for which there is no time. */
static int wait_start(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)out;
        if (is_worth_another(c, ev->now_ms))
                return 0;
        c->state = CONTROL_FAILED;
        return 1;
}

static int accepted(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)out;
        if (!c->is_asking || level_check(&ev->level, NULL) < 0)
                return 0;
        c->level = ev->level;
        c->goal_ms = limit_most_ms(c, c->share_milli);
        c->is_asking = c->is_miss_said = false;
        return 1;
}

static int declined(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)ev;
        if (!c->is_asking)
                return 0;
        c->is_asking = false;
        cancel(c, out);
        return 1;
}

static int late(struct control *c, const struct control_event *ev, struct control_effects *out)
{
        (void)c;
        (void)ev;
        (void)out;
        return 0;
}

/* NULL: a bug of ours. */
typedef int (*handler)(struct control *c, const struct control_event *ev, struct control_effects *out);
/* clang-format off */
static const handler table[CONTROL_STATE_N][CONTROL_EV_N] = {
        /*                       STARTED SAMPLE TICK       STOP     COMPLETED  FAILED   CANCEL       ACCEPTED  DECLINED  LIFTED */
        [CONTROL_PREPARED]   = { start,  late, late,       late,    late,      give_up, give_up,     late,     late,     late   },
        [CONTROL_COPYING]    = { NULL,   look, look,       stopped, completed, broke,   cancel_now,  accepted, declined, lifted },
        [CONTROL_LIFTING]    = { NULL,   look, look,       stopped, completed, broke,   cancel_now,  accepted, declined, lifted },
        [CONTROL_SWITCHING]  = { NULL,   look, look,       stopped, completed, broke,   cancel_now,  accepted, declined, late   },
        [CONTROL_STOPPED]    = { NULL,   late, late,       late,    completed, broke,   cancel_late, late,     late,     late   },
        [CONTROL_CANCELLING] = { NULL,   late, late,       stopped, completed, give_up, late,        late,     late,     late   },
        [CONTROL_BROKEN]     = { start,  late, wait_start, late,    late,      late,    give_up,     late,     late,     late   },
        [CONTROL_DONE]       = { NULL,   late, late,       late,    late,      late,    late,        late,     late,     late   },
        [CONTROL_FAILED]     = { NULL,   late, late,       late,    late,      late,    late,        late,     late,     late   },
};
/* clang-format on */

int control_step(struct control *c, const struct control_event *ev, struct control_effects *ret)
{
        assert(c->state >= CONTROL_PREPARED && c->state < CONTROL_STATE_N && ev->kind < CONTROL_EV_N);
        handler h = table[c->state][ev->kind];
        assert(h);
        ret->n = 0;
        return h(c, ev, ret);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The chain has CHAIN_BANDWIDTHS entries of rising bandwidth, each 2 % above the one before; CHAIN_CPUS more,
 * where there are zero pages, in which the thread that sends gets ever more of a CPU than its bandwidth
 * needs; and then one for each hundredth of their time that the vCPUs lose. If the last before those keeps
 * the level, the least is looked for up to there, else among those if the last of all does: by halving.
 * Whether an entry keeps a level need not be monotonic along the chain (rounds are whole), but what is probed
 * is the same for all levels until they part, and an entry that keeps a level keeps every looser one. So
 * where two levels part for the first time, the tighter one goes up and the looser one down. */
#include "core/plan.h"

#include <assert.h>
#include <errno.h>
#include <math.h>

#include "base/str.h"

enum { ZERO_PAGES_MILLI = 250 };
enum {
        CHAIN_BANDWIDTHS = 256,
        CHAIN_OCTAVES = 7,
        CHAIN_CPUS = 8,
        THROTTLE_STEP_MILLI = 10,
        THREAD_MILLI = 1000
};

/* Downtime-limits that are considered, in ms: each a sixth above the one before. Who sets no bound for the
 * downtime does not ask for a VM that stands for longer than the last. */
static const int16_t rungs[] = {1,    2,    3,    4,    5,    6,    7,    8,    9,    11,   13,
                                15,   17,   20,   23,   27,   31,   36,   42,   49,   57,   66,
                                77,   90,   105,  122,  142,  166,  194,  226,  264,  308,  359,
                                419,  489,  570,  665,  776,  905,  1056, 1232, 1437, 1677, 1956,
                                2282, 2662, 3106, 3624, 4228, 4933, 5755, 6714, 7833, 9139};
enum { RUNGS = sizeof(rungs) / sizeof(rungs[0]) };

/* What is not in the model: the loop's own latency, a timer that is late. */
static const double downtime_margin_s = 0.005;
static const double reserve_slack = 0.1;
/* Two looks at what QEMU says of a move, and a change of its limit. On a fast link a small working set is
 * nearly gone through by then. */
static const double react_s = 0.1;
#define NEVER_MS INT64_MAX
/* Where a guest dirties nearly as fast as the link sends, each round leaves a little less than the one
 * before: a percent more of anything, and there is no end. That is not promised. */
enum { PROMISED_ROUNDS = 64 };

/* One VM and its means: what the chain is made of. */
struct planning {
        const struct profile *profile;
        const struct means *means;
        int64_t top_bps; /* 0: there is not even a chain */
        enum plan_limit limit;
        int n_free, n_chain; /* entries: that leave the guest alone, and all */
};

int64_t plan_rung_ms(int i)
{
        return i >= 0 && i < RUNGS ? rungs[i] : 0;
}

const char *plan_outcome_name(enum plan_outcome o)
{
        static const char *const names[PLAN_OUTCOME_N] = {
                [PLAN_KEPT] = "kept",
                [PLAN_COUNTERED] = "countered",
                [PLAN_BEST_EFFORT] = "best-effort",
                [PLAN_NEVER] = "never",
        };
        return o > 0 && o < PLAN_OUTCOME_N ? names[o] : "?";
}

const char *plan_limit_name(enum plan_limit l)
{
        static const char *const names[PLAN_LIMIT_N] = {
                [LIMIT_SOURCE_BANDWIDTH] = "source-bandwidth",
                [LIMIT_DESTINATION_BANDWIDTH] = "destination-bandwidth",
                [LIMIT_SOURCE_CPU] = "source-cpu",
                [LIMIT_DESTINATION_CPU] = "destination-cpu",
                [LIMIT_STREAM] = "stream-speed",
                [LIMIT_FIXED_COSTS] = "fixed-costs",
        };
        return l > 0 && l < PLAN_LIMIT_N ? names[l] : "?";
}

int level_check(const struct level *l, struct err *err)
{
        if (l->total_ms < 0 || l->total_ms > LEVEL_MAX_MS)
                return err_set(err, REASON_INVALID, EINVAL, "a total time is from 1 ms to 7 days");
        if (l->downtime_ms < 0 || l->downtime_ms > LEVEL_MAX_MS)
                return err_set(err, REASON_INVALID, EINVAL, "a downtime is from 1 ms to 7 days");
        if (l->total_ms == 0 && l->downtime_ms == 0 && !l->is_best_effort)
                return err_set(err, REASON_INVALID, EINVAL,
                               "a level has a total time or a downtime; a move without one is a best effort");
        if (l->total_ms > 0 && l->downtime_ms > l->total_ms)
                return err_set(err, REASON_INVALID, EINVAL,
                               "the downtime is a part of the total time and cannot be longer");
        return 0;
}

bool vector_covers(const struct vector *a, const struct vector *b)
{
        return a->bandwidth_bps >= b->bandwidth_bps && a->source_cpu_milli >= b->source_cpu_milli &&
               a->destination_cpu_milli >= b->destination_cpu_milli && a->share_milli <= b->share_milli;
}

/* ---- the chain ---- */

static double bytes_per_bit(const struct means *m)
{
        return m->goodput / 8;
}

static int64_t cpu_for(const struct means *m, const struct cost *c, int64_t bps)
{
        return (int64_t)ceil((double)bps * bytes_per_bit(m) * c->p99_s * 1000);
}

static void top_at_most(struct planning *x, double bps, enum plan_limit limit)
{
        int64_t whole = bps < 1 ? 0 : bps > 9e15 ? INT64_C(9000000000000000) : (int64_t)bps;
        if (x->limit != 0 && whole >= x->top_bps)
                return;
        x->top_bps = whole;
        x->limit = limit;
}

/* A stream is one thread: more than one CPU does not make it faster. */
static void top_at_most_cpu(struct planning *x, const struct cost *c, int64_t milli, enum plan_limit limit)
{
        if (milli > THREAD_MILLI)
                milli = THREAD_MILLI;
        if (c->p99_s > 0) /* one less: cpu_for() rounds up */
                top_at_most(x, ((double)milli - 1) / 1000 / c->p99_s / bytes_per_bit(x->means), limit);
}

static int share_steps(const struct means *m)
{
        int64_t least = m->share_min_milli;
        if (least < THROTTLE_STEP_MILLI)
                least = THROTTLE_STEP_MILLI; /* a guest that stands is no live move */
        return least >= 1000 ? 0 : (int)((1000 - least) / THROTTLE_STEP_MILLI);
}

/* Zero pages are no bytes, and take the thread's time all the same: it is not left with next to none. */
static int64_t source_cpu_for(const struct planning *x, int64_t bps)
{
        int64_t milli = cpu_for(x->means, &x->profile->source_cpu, bps), least = ZERO_PAGES_MILLI;
        if (least > x->means->source.cpu_milli)
                least = x->means->source.cpu_milli;
        return x->profile->zero_pages > 0 && milli < least ? least : milli;
}

/* All that is free: with more than one CPU the thread is not faster. */
static int64_t most_source_cpu(const struct planning *x)
{
        int64_t most = x->means->source.cpu_milli, top = source_cpu_for(x, x->top_bps);
        if (most > THREAD_MILLI)
                most = THREAD_MILLI;
        return x->profile->zero_pages > 0 && most > top ? most : top;
}

static struct planning planning(const struct profile *p, const struct means *m)
{
        struct planning x = {.profile = p, .means = m};
        assert(m->goodput > 0 && m->goodput <= 1 && m->goodput_error >= 0 && m->goodput_error < 1);
        assert(p->dirty.error >= 0);
        top_at_most(&x, (double)m->source.bandwidth_bps, LIMIT_SOURCE_BANDWIDTH);
        top_at_most(&x, (double)m->destination.bandwidth_bps, LIMIT_DESTINATION_BANDWIDTH);
        top_at_most_cpu(&x, &p->source_cpu, m->source.cpu_milli, LIMIT_SOURCE_CPU);
        top_at_most_cpu(&x, &p->destination_cpu, m->destination.cpu_milli, LIMIT_DESTINATION_CPU);
        if (p->stream.p99_s > 0) /* more is not reserved than it takes where the link does its worst, too */
                top_at_most(&x, 1 / p->stream.p99_s / bytes_per_bit(m) / (1 - m->goodput_error),
                            LIMIT_STREAM);
        bool has_more_cpu = x.top_bps > 0 && most_source_cpu(&x) > source_cpu_for(&x, x.top_bps);
        x.n_free = CHAIN_BANDWIDTHS + (has_more_cpu ? CHAIN_CPUS : 0);
        x.n_chain = x.n_free + share_steps(m);
        return x;
}

static struct vector vector_of(const struct planning *x, int64_t bps, int64_t share_milli)
{
        return (struct vector){.bandwidth_bps = bps,
                               .source_cpu_milli = source_cpu_for(x, bps),
                               .destination_cpu_milli = cpu_for(x->means, &x->profile->destination_cpu, bps),
                               .share_milli = share_milli};
}

static struct vector chain_at(const struct planning *x, int i)
{
        int below_top = CHAIN_BANDWIDTHS - 1 - i;
        if (below_top <= 0) {
                int cpus = i < x->n_free ? -below_top : x->n_free - CHAIN_BANDWIDTHS;
                int throttles = i < x->n_free ? 0 : i - x->n_free + 1;
                struct vector v = vector_of(x, x->top_bps, 1000 - (int64_t)throttles * THROTTLE_STEP_MILLI);
                v.source_cpu_milli += (most_source_cpu(x) - v.source_cpu_milli) * cpus / CHAIN_CPUS;
                return v;
        }
        double part = exp2(-(double)CHAIN_OCTAVES * below_top / (CHAIN_BANDWIDTHS - 1));
        int64_t bps = (int64_t)((double)x->top_bps * part);
        return vector_of(x, bps > 0 ? bps : 1, 1000);
}

/* ---- one vector ---- */

static double cost_in(const struct cost *c, enum plan_view view)
{
        return view == PLAN_PESSIMISTIC ? c->p99_s : c->mean_s;
}

static double device_bytes(const struct profile *p, enum plan_view view)
{
        bool is_known = view != PLAN_PESSIMISTIC && p->device_mean_bytes > 0;
        return (double)(is_known ? p->device_mean_bytes : p->device_bytes);
}

/* By view. What a guest does after the profile's last look nobody has seen: most go on in the memory that
 * they have worked in, and it is promised for those that do not. */
static const double saturations[] = {1, 0.75, 0};

/* Zero pages are the thread's own work: with less than a CPU they take longer. */
static double cpu_part(const struct vector *v)
{
        return v->source_cpu_milli > 0 && v->source_cpu_milli < THREAD_MILLI
                       ? (double)v->source_cpu_milli / THREAD_MILLI
                       : 1;
}

struct precopy_means plan_loop_means(const struct profile *p, const struct means *m, const struct vector *v,
                                     double limit_s, enum plan_view view)
{
        bool is_worst = view == PLAN_PESSIMISTIC;
        double bytes_per_s =
                (double)v->bandwidth_bps * bytes_per_bit(m) * (1 - (double)view * m->goodput_error);
        return (struct precopy_means){
                .bytes_per_s = bytes_per_s,
                .switch_bytes_per_s = bytes_per_s,
                .limit_s = limit_s,
                .hold_s = PLAN_HOLD_MS / 1000.0,
                .react_s = is_worst ? 0 : react_s,
                .zero_page_s = cost_in(&p->zero_page, view) / (is_worst ? cpu_part(v) : 1),
                .stop_s = cost_in(&p->stop, view) + (v->share_milli < 1000 ? m->settle_s : 0),
                .fixed_s = cost_in(&p->stop, view) + cost_in(&p->device, view) + cost_in(&p->commit, view) +
                           cost_in(&p->run, view),
                .tail_bytes = device_bytes(p, view) + (is_worst ? (double)m->queued_bytes : 0),
                .share = (double)v->share_milli / 1000,
                .dirt = fmax(1 + (double)view * p->dirty.error, 0),
                .overlap = view == PLAN_PESSIMISTIC ? 0 : 1, /* a profile does not tell */
                .saturation = saturations[view + 1],
                .dirty = &p->dirty,
        };
}

static struct precopy loop_start(const struct profile *p, enum plan_view view)
{
        struct precopy loop;
        precopy_init(&loop, cost_in(&p->setup, view), (double)p->populated_bytes, (double)p->zero_pages);
        /* Who writes to what it has is likelier than who fills ever more. */
        if (view != PLAN_PESSIMISTIC)
                loop.memory_bytes = (double)p->populated_bytes;
        return loop;
}

static double seconds(int64_t ms)
{
        return (double)ms / 1000;
}

static int64_t whole_ms(double s)
{
        return s < 1e12 ? (int64_t)ceil(s * 1000) : NEVER_MS;
}

double plan_end_s(const struct profile *p, const struct means *m)
{
        return fmax(p->commit.p99_s + p->run.p99_s, m->resume.p99_s);
}

/* QEMU stops the guest with anything below its limit left, at the bandwidth that it has measured, which may
 * be the best; it is sent with what is guaranteed. */
double plan_downtime_bound_s(const struct profile *p, const struct means *m,
                             const struct precopy_means *worst)
{
        double error = fmax(m->goodput_error, PLAN_MEASURE_ERROR), best = (1 + error) / (1 - error);
        double memory_bytes = (double)p->populated_bytes + (double)p->zero_pages * PRECOPY_PAGE;
        double dirty_bytes = worst->dirt * curve_bytes(worst->dirty, worst->stop_s, memory_bytes);
        double fixed_s = p->stop.p99_s + p->device.p99_s + plan_end_s(p, m);
        return fixed_s + worst->limit_s * best +
               (dirty_bytes + worst->tail_bytes) / worst->switch_bytes_per_s + downtime_margin_s;
}

int64_t plan_downtime_bound_ms(const struct profile *p, const struct means *m, const struct vector *v,
                               int64_t downtime_limit_ms)
{
        struct precopy_means worst = plan_loop_means(p, m, v, seconds(downtime_limit_ms), PLAN_PESSIMISTIC);
        return whole_ms(plan_downtime_bound_s(p, m, &worst));
}

/* What a vector promises with a limit. */
struct promise {
        int64_t total_ms, downtime_ms; /* NEVER_MS: it does not end */
};

static struct promise promise_of(const struct planning *x, const struct vector *v, int rung)
{
        struct precopy_means worst =
                plan_loop_means(x->profile, x->means, v, seconds(rungs[rung]), PLAN_PESSIMISTIC);
        struct precopy loop = loop_start(x->profile, PLAN_PESSIMISTIC);
        struct precopy_outcome o = precopy_run(&loop, &worst);
        double downtime_s = plan_downtime_bound_s(x->profile, x->means, &worst);
        if (o.end != PRECOPY_STOPS || o.rounds > PROMISED_ROUNDS)
                return (struct promise){NEVER_MS, NEVER_MS};
        return (struct promise){whole_ms(o.total_s - o.downtime_s + fmax(downtime_s, o.downtime_s)),
                                whole_ms(fmax(downtime_s, o.downtime_s))};
}

static bool is_promise(const struct promise *p)
{
        return p->total_ms != NEVER_MS && p->downtime_ms != NEVER_MS;
}

static bool is_within(const struct promise *p, const struct level *l)
{
        return is_promise(p) && (l->total_ms == 0 || p->total_ms <= l->total_ms) &&
               (l->downtime_ms == 0 || p->downtime_ms <= l->downtime_ms);
}

/* Everything is sent once, whatever else. */
static bool has_time_for_first_pass(const struct planning *x, const struct vector *v, const struct level *l)
{
        const struct profile *p = x->profile;
        struct precopy_means worst = plan_loop_means(p, x->means, v, 0, PLAN_PESSIMISTIC);
        double least_s = cost_in(&p->setup, PLAN_PESSIMISTIC) + worst.fixed_s +
                         (double)p->zero_pages * worst.zero_page_s +
                         (double)p->populated_bytes / worst.bytes_per_s;
        return l->total_ms == 0 || least_s * 1000 <= (double)l->total_ms;
}

/* How many rungs have a bound within the level: it rises with them. */
static int rungs_within(const struct planning *x, const struct vector *v, const struct level *l)
{
        int n = RUNGS;
        while (l->downtime_ms > 0 && n > 0 &&
               plan_downtime_bound_ms(x->profile, x->means, v, rungs[n - 1]) > l->downtime_ms)
                n--;
        return n;
}

/* Whether it does with any limit. The highest is the likeliest, so this begins there. */
static bool keeps(const struct planning *x, const struct vector *v, const struct level *l)
{
        if (x->top_bps <= 0 || !has_time_for_first_pass(x, v, l))
                return false;
        for (int i = rungs_within(x, v, l) - 1; i >= 0; i--) {
                struct promise p = promise_of(x, v, i);
                if (is_within(&p, l))
                        return true;
        }
        return false;
}

/* Of a vector that keeps it: with which limit to begin. */
static int lowest_rung(const struct planning *x, const struct vector *v, const struct level *l)
{
        for (int i = 0; i < RUNGS; i++) {
                struct promise p = promise_of(x, v, i);
                if (is_within(&p, l))
                        return i;
        }
        return RUNGS - 1;
}

/* All the bandwidth and time of a CPU that there is, to a guest that runs freely; and to one that is
 * throttled as far as policy allows. Neither keeps all that the other does: lifting a throttle takes time, in
 * which the guest dirties.
 */
static struct vector chain_free(const struct planning *x)
{
        return chain_at(x, x->n_free - 1);
}
static struct vector chain_end(const struct planning *x)
{
        return chain_at(x, x->n_chain - 1);
}

/* ---- what is predicted ---- */

static struct interval interval_of(double optimistic, double expected, double pessimistic)
{
        struct interval i = {.p90 = (int64_t)ceil(pessimistic)};
        i.p50 = (int64_t)fmin(ceil(expected), (double)i.p90);
        i.p10 = (int64_t)fmin(ceil(optimistic), (double)i.p50);
        return i;
}

int64_t plan_free_bps(const struct profile *p, const struct means *m, const struct vector *v)
{
        double link = fmin((double)m->source.bandwidth_bps, (double)m->destination.bandwidth_bps);
        double stream = p->stream.mean_s > 0 ? 1 / p->stream.mean_s / bytes_per_bit(m) : INFINITY;
        double bps = fmin(fmin(link, stream), 9e15);
        return bps > (double)v->bandwidth_bps ? (int64_t)bps : v->bandwidth_bps;
}

void plan_predict(const struct profile *p, const struct means *m, const struct vector *v,
                  int64_t downtime_limit_ms, struct prediction *ret)
{
        struct precopy_outcome o[3];
        struct vector free = *v;
        double bound_s = 0;
        *ret = (struct prediction){0};
        ret->bandwidth_bps = free.bandwidth_bps = plan_free_bps(p, m, v);
        for (int view = PLAN_PESSIMISTIC; view >= PLAN_OPTIMISTIC; view--) {
                struct precopy_means lm = plan_loop_means(p, m, view == PLAN_PESSIMISTIC ? v : &free,
                                                          seconds(downtime_limit_ms), (enum plan_view)view);
                struct precopy loop = loop_start(p, (enum plan_view)view);
                o[view + 1] = precopy_run(&loop, &lm);
                if (view == PLAN_PESSIMISTIC)
                        bound_s = fmax(plan_downtime_bound_s(p, m, &lm), o[2].downtime_s);
                else if (o[view + 1].end != PRECOPY_STOPS) /* rounds are whole: better may be worse */
                        o[view + 1] = o[2];
        }
        double longest_s = o[2].total_s - o[2].downtime_s + bound_s;
        ret->ends = o[2].end == PRECOPY_STOPS && longest_s < 1e12;
        if (!ret->ends)
                return;
        ret->total_ms = interval_of(o[0].total_s * 1000, o[1].total_s * 1000, longest_s * 1000);
        ret->downtime_ms = interval_of(o[0].downtime_s * 1000, o[1].downtime_s * 1000, bound_s * 1000);
        ret->sent_bytes = interval_of(o[0].sent_bytes, o[1].sent_bytes, o[2].sent_bytes);
        ret->rounds = interval_of(o[0].rounds, o[1].rounds, o[2].rounds);
}

/* ---- what could be promised instead ---- */

static void add_offer(const struct planning *x, struct plan *plan, enum plan_offer_kind kind,
                      const struct level *l, const struct vector *v, int rung)
{
        for (size_t i = 0; i < plan->n_offers; i++)
                if (plan->offers[i].level.total_ms == l->total_ms &&
                    plan->offers[i].level.downtime_ms == l->downtime_ms)
                        return;
        struct plan_offer *o = &plan->offers[plan->n_offers++];
        *o = (struct plan_offer){.kind = kind, .level = *l, .vector = *v, .downtime_limit_ms = rungs[rung]};
        plan_predict(x->profile, x->means, v, rungs[rung], &o->predicted);
}

/* Where the two, each against the least of it, come to least. */
static int knee_of(const struct promise *promises, int n)
{
        int64_t total_ms = NEVER_MS, downtime_ms = NEVER_MS;
        double least = INFINITY;
        int knee = -1;
        for (int i = 0; i < n; i++) {
                if (is_promise(&promises[i]) && promises[i].total_ms < total_ms)
                        total_ms = promises[i].total_ms;
                if (is_promise(&promises[i]) && promises[i].downtime_ms < downtime_ms)
                        downtime_ms = promises[i].downtime_ms;
        }
        for (int i = 0; i < n; i++) {
                double sum = (double)promises[i].total_ms / (double)total_ms +
                             (double)promises[i].downtime_ms / (double)downtime_ms;
                if (is_promise(&promises[i]) && sum < least) {
                        least = sum;
                        knee = i;
                }
        }
        return knee;
}

/* All promises of the two vectors that are tried first when a level is asked for: so each, and every looser
 * level, is granted. */
static void make_offers(const struct planning *x, const struct level *l, struct plan *plan)
{
        struct vector vectors[] = {chain_free(x), chain_end(x)};
        struct promise promises[2 * RUNGS];
        int least_downtime = -1, least_total = -1, n = x->n_chain > x->n_free ? 2 * RUNGS : RUNGS;
        for (int i = 0; i < n; i++) {
                struct promise *p = &promises[i];
                *p = promise_of(x, &vectors[i / RUNGS], i % RUNGS);
                if (!is_promise(p))
                        continue;
                if ((l->total_ms == 0 || p->total_ms <= l->total_ms) &&
                    (least_downtime < 0 || p->downtime_ms < promises[least_downtime].downtime_ms))
                        least_downtime = i;
                if ((l->downtime_ms == 0 || p->downtime_ms <= l->downtime_ms) &&
                    (least_total < 0 || p->total_ms < promises[least_total].total_ms))
                        least_total = i;
        }
        if (l->downtime_ms > 0 && least_downtime >= 0) {
                struct level offer = {l->total_ms, promises[least_downtime].downtime_ms, false};
                add_offer(x, plan, OFFER_LEAST_DOWNTIME, &offer, &vectors[least_downtime / RUNGS],
                          least_downtime % RUNGS);
        }
        if (l->total_ms > 0 && least_total >= 0) {
                struct level offer = {promises[least_total].total_ms, l->downtime_ms, false};
                add_offer(x, plan, OFFER_LEAST_TOTAL, &offer, &vectors[least_total / RUNGS],
                          least_total % RUNGS);
        }
        int knee = knee_of(promises, n);
        if (knee >= 0) {
                struct level offer = {promises[knee].total_ms, promises[knee].downtime_ms, false};
                add_offer(x, plan, OFFER_KNEE, &offer, &vectors[knee / RUNGS], knee % RUNGS);
        }
}

/* Would more of what is scarcest do? Else nothing does. */
static enum plan_limit limit_of(const struct planning *x, const struct level *l)
{
        struct vector plenty = vector_of(x, INT64_C(1000000000000000), 1000);
        return keeps(x, &plenty, l) ? x->limit : LIMIT_FIXED_COSTS;
}

/* ---- the plan ---- */

static bool find_least(const struct planning *x, const struct level *l, struct vector *ret)
{
        int low = -1, high = x->n_free - 1;
        *ret = chain_free(x);
        if (!keeps(x, ret, l)) {
                low = high;
                high = x->n_chain - 1;
                *ret = chain_end(x);
                if (low == high || !keeps(x, ret, l))
                        return false;
        }
        while (high - low > 1) {
                int middle = low + (high - low) / 2;
                struct vector v = chain_at(x, middle);
                if (keeps(x, &v, l)) {
                        high = middle;
                        *ret = v;
                } else
                        low = middle;
        }
        return true;
}

static int64_t reserve_ms_of(const struct prediction *p)
{
        return p->ends ? (int64_t)ceil((double)p->total_ms.p90 * (1 + reserve_slack)) : 0;
}

static void set_vector(const struct planning *x, const struct vector *v, int rung, struct plan *plan)
{
        plan->vector = *v;
        plan->downtime_limit_ms = rungs[rung];
        plan_predict(x->profile, x->means, v, rungs[rung], &plan->predicted);
        plan->reserve_ms = reserve_ms_of(&plan->predicted);
}

struct plan plan_of_offer(const struct plan *countered, size_t i)
{
        assert(i < countered->n_offers);
        const struct plan_offer *o = &countered->offers[i];
        return (struct plan){.outcome = PLAN_KEPT,
                             .vector = o->vector,
                             .downtime_limit_ms = o->downtime_limit_ms,
                             .predicted = o->predicted,
                             .reserve_ms = reserve_ms_of(&o->predicted)};
}

/* All that is free; without a level nothing is reserved, and the guest is not slowed down for it. */
static void plan_best_effort(const struct planning *x, const struct level *l, struct plan *plan)
{
        bool has_level = l->total_ms > 0 || l->downtime_ms > 0;
        struct vector v = has_level ? chain_end(x) : chain_free(x);
        plan->outcome = PLAN_BEST_EFFORT;
        set_vector(x, &v, lowest_rung(x, &v, &(struct level){0}), plan);
        if (!has_level)
                plan->vector = (struct vector){.share_milli = 1000};
}

void plan_make(const struct profile *p, const struct level *l, const struct means *m, struct plan *ret)
{
        struct planning x = planning(p, m);
        bool has_level = l->total_ms > 0 || l->downtime_ms > 0;
        struct vector v;
        assert(level_check(l, NULL) == 0);
        *ret = (struct plan){.vector.share_milli = 1000};
        if (x.top_bps <= 0) {
                ret->outcome = PLAN_NEVER;
                ret->limit = x.limit;
                return;
        }
        if (has_level && find_least(&x, l, &v)) {
                ret->outcome = PLAN_KEPT;
                set_vector(&x, &v, lowest_rung(&x, &v, l), ret);
                return;
        }
        if (has_level) {
                ret->limit = limit_of(&x, l);
                make_offers(&x, l, ret);
        }
        if (l->is_best_effort)
                plan_best_effort(&x, l, ret);
        else
                ret->outcome = ret->n_offers > 0 ? PLAN_COUNTERED : PLAN_NEVER;
}

/* ---- later ---- */

static void less_of(struct means_side *s, const struct means_side *other)
{
        s->bandwidth_bps = other->bandwidth_bps < s->bandwidth_bps ? other->bandwidth_bps : s->bandwidth_bps;
        s->cpu_milli = other->cpu_milli < s->cpu_milli ? other->cpu_milli : s->cpu_milli;
}

size_t plan_merge(const struct means *m, const struct side_then *source, size_t n_source,
                  const struct side_then *destination, size_t n_destination,
                  struct plan_then ret[2 * PLAN_THENS_MAX])
{
        struct plan_then then = {.source = m->source, .destination = m->destination};
        size_t n = 0, i = 0, k = 0;
        assert(n_source <= PLAN_THENS_MAX && n_destination <= PLAN_THENS_MAX);
        while (i < n_source || k < n_destination) {
                bool is_source =
                        i < n_source && (k == n_destination || source[i].at_ms <= destination[k].at_ms);
                then.at_ms = is_source ? source[i].at_ms : destination[k].at_ms;
                if (is_source)
                        then.source = source[i++].has;
                else
                        then.destination = destination[k++].has;
                ret[n++] = then;
        }
        return n;
}

static bool keeps_with(const struct profile *p, const struct level *l, const struct means *m)
{
        struct planning x = planning(p, m);
        struct vector most = chain_free(&x), end = chain_end(&x);
        return keeps(&x, &most, l) || keeps(&x, &end, l);
}

static bool has_no_more(const struct means_side *a, const struct means_side *than)
{
        return a->bandwidth_bps <= than->bandwidth_bps && a->cpu_milli <= than->cpu_milli;
}

/* What did not keep it does not with less, or hardly (rounds are whole): to run through it for each instant
 * would hold up all else. */
struct in_vain {
        struct {
                struct means_side source, destination;
        } with[2 * PLAN_THENS_MAX];
        size_t n;
};

static bool is_in_vain(const struct in_vain *v, const struct means *m)
{
        for (size_t i = 0; i < v->n; i++)
                if (has_no_more(&m->source, &v->with[i].source) &&
                    has_no_more(&m->destination, &v->with[i].destination))
                        return true;
        return false;
}

static void was_in_vain(struct in_vain *v, const struct means *m)
{
        if (v->n == ARRAY_N(v->with))
                return;
        v->with[v->n].source = m->source;
        v->with[v->n++].destination = m->destination;
}

bool plan_earliest(const struct profile *p, const struct level *l, const struct means *m,
                   const struct plan_then *thens, size_t n, int64_t for_ms, int64_t now_ms, int64_t *ret_ms)
{
        struct in_vain in_vain = {.n = 0};
        assert(level_check(l, NULL) == 0);
        if (keeps_with(p, l, m)) {
                *ret_ms = now_ms;
                return true;
        }
        was_in_vain(&in_vain, m);
        for (size_t i = 0; i < n; i++) {
                struct means later = *m;
                later.source = thens[i].source;
                later.destination = thens[i].destination;
                for (size_t k = i + 1; k < n && thens[k].at_ms - thens[i].at_ms < for_ms; k++) {
                        less_of(&later.source, &thens[k].source);
                        less_of(&later.destination, &thens[k].destination);
                }
                if (is_in_vain(&in_vain, &later))
                        continue;
                if (keeps_with(p, l, &later)) {
                        *ret_ms = thens[i].at_ms > now_ms ? thens[i].at_ms : now_ms;
                        return true;
                }
                was_in_vain(&in_vain, &later);
        }
        return false;
}

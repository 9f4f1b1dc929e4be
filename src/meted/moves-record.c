/* SPDX-License-Identifier: Apache-2.0 */
/* A move as it is kept in the store, said to the other side, and shown. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "meted/moves-internal.h"

enum { RUN_MAX_US = 60000000 }; /* of both, as the contract has it */
static const int64_t CPU_MAX_US = INT64_C(604800000000);

#define NO_DEADLINE INT64_C(9007199254740991) /* as the store has it */

static const char *const misses[] = {
        [ON_MISS_ABORT] = "abort", [ON_MISS_FINISH] = "finish", [ON_MISS_ASK] = "ask"};

/* In the order of enum move_says. */
static const enum api_peer_says says[MOVE_SAYS_N] = {
        [MOVE_SAYS_RESERVE] = API_PEER_SAYS_RESERVE,   [MOVE_SAYS_PREPARE] = API_PEER_SAYS_PREPARE,
        [MOVE_SAYS_COPY] = API_PEER_SAYS_COPY,         [MOVE_SAYS_STATUS] = API_PEER_SAYS_STATUS,
        [MOVE_SAYS_RUN] = API_PEER_SAYS_RUN,           [MOVE_SAYS_DROP] = API_PEER_SAYS_DROP,
        [MOVE_SAYS_FINISHED] = API_PEER_SAYS_FINISHED, [MOVE_SAYS_RESERVED] = API_PEER_SAYS_RESERVED,
        [MOVE_SAYS_SHORT] = API_PEER_SAYS_TOO_LITTLE,  [MOVE_SAYS_READY] = API_PEER_SAYS_READY,
        [MOVE_SAYS_INCOMING] = API_PEER_SAYS_INCOMING, [MOVE_SAYS_COMPLETE] = API_PEER_SAYS_COMPLETE,
        [MOVE_SAYS_RUNNING] = API_PEER_SAYS_RUNNING,   [MOVE_SAYS_BROKEN] = API_PEER_SAYS_BROKEN,
        [MOVE_SAYS_DROPPED] = API_PEER_SAYS_DROPPED};

static struct api_move_vector vector_out(const struct vector *v)
{
        return (struct api_move_vector){.bandwidth_bps = v->bandwidth_bps,
                                        .source_cpu_milli = v->source_cpu_milli,
                                        .destination_cpu_milli = v->destination_cpu_milli,
                                        .share_milli = v->share_milli};
}

static struct vector vector_in(const struct api_move_vector *v)
{
        return (struct vector){.bandwidth_bps = v->bandwidth_bps,
                               .source_cpu_milli = v->source_cpu_milli,
                               .destination_cpu_milli = v->destination_cpu_milli,
                               .share_milli = v->share_milli};
}

/* ---- the store ---- */

char *move_record(const struct moving *mv)
{
        const struct move_row *row = &mv->core.row;
        struct api_move_record *r = g_new0(struct api_move_record, 1);
        (void)STR_COPY(r->vm, mv->vm);
        (void)STR_COPY(r->peer, mv->peer);
        (void)STR_COPY(r->state, move_state_name(row->state));
        r->has_end = row->end != 0;
        if (r->has_end)
                (void)STR_COPY(r->end, move_state_name(row->end));
        r->owner = row->owner == OWNER_DESTINATION ? API_MOVE_OWNER_DESTINATION : API_MOVE_OWNER_SOURCE;
        r->epoch = (int64_t)row->epoch;
        r->first_epoch = (int64_t)row->first_epoch;
        r->attempt = row->attempt;
        r->rounds = row->rounds;
        r->tries = row->tries;
        r->step = (int64_t)row->step;
        r->is_offer = row->is_offer;
        r->is_told = row->is_told;
        r->has_has = row->is_short;
        r->has = (struct api_move_means){row->has.bandwidth_bps, row->has.cpu_milli};
        r->total_ms = row->level.total_ms;
        r->downtime_ms = row->level.downtime_ms;
        r->is_best_effort = mv->is_best_effort;
        r->has_on_miss = mv->on_miss != 0;
        if (r->has_on_miss)
                (void)STR_COPY(r->on_miss, misses[mv->on_miss]);
        r->vector = vector_out(&row->vector);
        r->reserve_ms = row->reserve_ms;
        r->copy_ms = row->copy_ms;
        r->hold_ms = row->hold_ms;
        r->started_ms = row->started_ms;
        r->deadline_ms = row->deadline_ms < NO_DEADLINE ? row->deadline_ms : NO_DEADLINE;
        r->has_reason = row->reason != 0;
        r->reason = row->reason;
        r->has_sentence = *row->sentence != '\0';
        (void)STR_COPY(r->sentence, row->sentence);
        r->asked_ms = mv->asked_ms;
        r->has_ended_ms = mv->ended_ms > 0;
        r->ended_ms = mv->ended_ms;
        r->has_took_ms = mv->took_ms > 0;
        r->took_ms = mv->took_ms;
        r->has_gap_ms = mv->gap_ms > 0;
        r->gap_ms = mv->gap_ms;
        r->has_was_cut = r->was_cut = mv->was_cut;
        r->has_stood_ms = mv->stood_ms > 0;
        r->stood_ms = mv->stood_ms;
        r->has_guest = mv->guest != NULL;
        if (mv->guest)
                r->guest = *mv->guest;
        json_t *v = api_move_record_emit(r);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        g_free(r);
        return text;
}

static int take_record(struct moving *mv, const char *id, const struct api_move_record *r, struct err *err)
{
        struct move_row *row = &mv->core.row;
        if (!STR_COPY(row->id, id))
                return err_set(err, REASON_INTERNAL, EINVAL, "the id is too long");
        (void)STR_COPY(mv->vm, r->vm);
        (void)STR_COPY(mv->peer, r->peer);
        row->state = move_state_from_name(r->state);
        row->end = r->has_end ? move_state_from_name(r->end) : 0;
        if (!row->state || (r->has_end && !row->end))
                return err_set(err, REASON_INTERNAL, EINVAL, "no state is called %s",
                               row->state ? r->end : r->state);
        row->owner = r->owner == API_MOVE_OWNER_DESTINATION ? OWNER_DESTINATION : OWNER_SOURCE;
        row->epoch = (uint64_t)r->epoch;
        row->first_epoch = (uint64_t)r->first_epoch;
        row->attempt = (uint32_t)r->attempt;
        row->rounds = (uint32_t)r->rounds;
        row->tries = (uint32_t)r->tries;
        row->step = (uint64_t)r->step;
        row->is_offer = r->is_offer;
        row->is_told = r->is_told;
        row->is_short = r->has_has;
        if (r->has_has)
                row->has = (struct means_side){r->has.bandwidth_bps, r->has.cpu_milli};
        row->level = (struct level){r->total_ms, r->downtime_ms, r->is_best_effort};
        mv->is_best_effort = r->is_best_effort;
        for (enum on_miss o = ON_MISS_ABORT; r->has_on_miss && o <= ON_MISS_ASK; o++)
                if (strcmp(r->on_miss, misses[o]) == 0)
                        mv->on_miss = o;
        row->vector = vector_in(&r->vector);
        row->reserve_ms = r->reserve_ms;
        row->copy_ms = r->copy_ms;
        row->hold_ms = r->hold_ms;
        row->started_ms = r->started_ms;
        row->deadline_ms = r->deadline_ms < NO_DEADLINE ? r->deadline_ms : INT64_MAX;
        row->reason = r->has_reason ? r->reason : 0;
        if (r->has_sentence)
                (void)STR_COPY(row->sentence, r->sentence);
        mv->asked_ms = r->asked_ms;
        mv->ended_ms = r->has_ended_ms ? r->ended_ms : 0;
        mv->took_ms = r->has_took_ms ? r->took_ms : 0;
        mv->gap_ms = r->has_gap_ms ? r->gap_ms : 0;
        mv->was_cut = r->has_was_cut && r->was_cut;
        mv->stood_ms = r->has_stood_ms ? r->stood_ms : 0;
        if (r->has_guest)
                mv->guest = g_memdup2(&r->guest, sizeof(r->guest));
        return 0;
}

int move_record_read(struct moving *mv, const char *id, const char *text, struct err *err)
{
        struct api_move_record *r = g_new0(struct api_move_record, 1);
        json_t *v = json_read(text, strlen(text), err);
        int bad = v ? api_move_record_parse(v, r, err) : -EPROTO;
        if (!bad)
                bad = take_record(mv, id, r, err);
        json_decref(v);
        g_free(r);
        return bad ? err_note(err, "the move %s in the store", id) : 0;
}

/* ---- the other side ---- */

/* What was said before it ran, or so long after, says nothing of a downtime. */
static void say_ran(const struct moving *mv, const struct move_message *said, struct api_peer_move *out)
{
        if (said->says != MOVE_SAYS_RUNNING || mv->runs_mono_us == 0)
                return;
        out->run_us = mv->runs_mono_us - mv->run_mono_us;
        out->ran_us = g_get_monotonic_time() - mv->runs_mono_us;
        out->has_run_us = out->run_us <= RUN_MAX_US;
        out->has_ran_us = out->ran_us >= 0 && out->ran_us <= RUN_MAX_US;
        out->cpu_us = mv->cpu_ns / 1000;
        out->has_cpu_us = out->cpu_us > 0 && out->cpu_us <= CPU_MAX_US;
}

json_t *move_message_emit(const struct moving *mv, const struct move_message *said)
{
        struct api_peer_move *out = g_new0(struct api_peer_move, 1);
        struct api_peer_vm *guest = NULL;
        out->says = says[said->says];
        (void)STR_COPY(out->move, said->id);
        (void)STR_COPY(out->vm, mv->vm);
        out->epoch = (int64_t)said->epoch;
        out->attempt = said->attempt;
        if (said->says == MOVE_SAYS_RESERVE) {
                out->has_vector = out->has_reserve_ms = out->has_hold_ms = true;
                out->vector = vector_out(&said->vector);
                out->reserve_ms = said->reserve_ms;
                out->hold_ms = said->hold_ms;
        }
        if (said->says == MOVE_SAYS_RESERVE || said->says == MOVE_SAYS_PREPARE)
                guest = source_guest(mv);
        out->has_guest = guest != NULL;
        if (guest)
                out->guest = *guest;
        out->has_has = said->says == MOVE_SAYS_SHORT;
        out->has = (struct api_move_means){said->has.bandwidth_bps, said->has.cpu_milli};
        say_ran(mv, said, out);
        out->has_stream = said->says == MOVE_SAYS_READY;
        out->stream.port = mv->port;
        (void)STR_COPY(out->stream.key, mv->key.hex);
        out->has_reason = said->reason != 0;
        out->reason = said->reason;
        out->has_sentence = *said->sentence != '\0';
        (void)STR_COPY(out->sentence, said->sentence);
        json_t *v = api_peer_move_emit(out);
        g_free(guest);
        g_free(out);
        return v;
}

int move_message_read(const json_t *body, struct move_message *ret, char vm[64],
                      struct api_peer_vm **ret_guest, struct api_peer_stream **ret_stream,
                      struct move_ran *ret_ran, struct err *err)
{
        struct api_peer_move *in = g_new0(struct api_peer_move, 1);
        int bad = api_peer_move_parse(body, in, err);
        if (!bad && in->has_stream && strspn(in->stream.key, "0123456789abcdef") != 2 * COPY_KEY_BYTES)
                bad = err_set(err, REASON_INVALID, EINVAL, "stream.key: not in hexadecimal");
        if (bad) {
                g_free(in);
                return bad;
        }
        *ret = (struct move_message){.epoch = (uint64_t)in->epoch,
                                     .attempt = (uint32_t)in->attempt,
                                     .reserve_ms = in->has_reserve_ms ? in->reserve_ms : 0,
                                     .hold_ms = in->has_hold_ms ? in->hold_ms : 0,
                                     .reason = in->has_reason ? in->reason : 0};
        for (enum move_says s = MOVE_SAYS_RESERVE; s < MOVE_SAYS_N; s++)
                if (says[s] == in->says)
                        ret->says = s;
        (void)STR_COPY(ret->id, in->move);
        (void)str_copy(vm, 64, in->vm);
        if (in->has_vector)
                ret->vector = vector_in(&in->vector);
        if (in->has_has)
                ret->has = (struct means_side){in->has.bandwidth_bps, in->has.cpu_milli};
        if (in->has_sentence)
                (void)STR_COPY(ret->sentence, in->sentence);
        *ret_ran = (struct move_ran){0};
        if (in->says == API_PEER_SAYS_RUNNING && in->has_run_us)
                *ret_ran = (struct move_ran){in->run_us, in->has_ran_us ? in->ran_us : 0,
                                             in->has_cpu_us ? in->cpu_us : 0};
        *ret_guest = in->has_guest ? g_memdup2(&in->guest, sizeof(in->guest)) : NULL;
        *ret_stream = in->has_stream ? g_memdup2(&in->stream, sizeof(in->stream)) : NULL;
        g_free(in);
        return 0;
}

/* ---- what is shown ---- */

static struct api_move_interval interval(const struct interval *i)
{
        return (struct api_move_interval){i->p10, i->p50, i->p90};
}

static const char *const offer_names[] = {[OFFER_LEAST_DOWNTIME] = "least-downtime",
                                          [OFFER_LEAST_TOTAL] = "least-total",
                                          [OFFER_KNEE] = "knee"};

static struct api_move_level level_out(const struct level *l)
{
        return (struct api_move_level){.has_total_ms = l->total_ms > 0,
                                       .total_ms = l->total_ms,
                                       .has_downtime_ms = l->downtime_ms > 0,
                                       .downtime_ms = l->downtime_ms};
}

static int64_t figure_of(double value)
{
        return value < 0 ? 0 : value > 9e15 ? INT64_C(9000000000000000) : (int64_t)llround(value);
}

/* Each with its source (4.20). */
static void show_figures(const struct moving *mv, struct api_move_plan *to)
{
        const struct profile *p = &mv->profile;
        const struct means_side *here = &mv->means.source, *there = &mv->means.destination;
        const enum figure_source here_source =
                here->bandwidth_bps == mv->m->config.move_rate_bps ? FIGURE_CONFIGURED : FIGURE_FREE;
        /* A peer with more, or that has no link in its ledger, is taken to have what this side has. */
        const enum figure_source there_source =
                mv->core.row.is_short || there->bandwidth_bps != here->bandwidth_bps ? FIGURE_TOLD
                                                                                     : here_source;
        const struct {
                const char *name;
                double value;
                enum figure_source source;
        } all[] = {
                {"source_bps",              (double)here->bandwidth_bps,  here_source                        },
                {"destination_bps",         (double)there->bandwidth_bps, there_source                       },
                {"populated_bytes",         (double)p->populated_bytes,   p->populated_source                },
                {"zero_pages",              (double)p->zero_pages,        p->zero_pages_source               },
                {"dirty_bytes_in_1s",       curve_bytes(&p->dirty,        1,                                   1e18), p->dirty.source},
                {"device_bytes",          (double)p->device_mean_bytes,                                      p->device_bytes_source                                                           },
                {"setup_us",   p->setup.mean_s * 1e6,p->setup.source},
                {"stop_us",          p->stop.mean_s * 1e6,                                             p->stop.source                                                                                                               },
                {"device_us",           p->device.mean_s * 1e6,p->device.source},
                {"commit_us",         p->commit.mean_s * 1e6,                                           p->commit.source                                                                                                                                                               },
                {"run_us",         p->run.mean_s * 1e6,p->run.source},
                {"resume_us",            mv->means.resume.mean_s * 1e6,                                              mv->means.resume.source                                                                                                                                                                                                               },
                {"zero_page_ns",  p->zero_page.mean_s * 1e9,p->zero_page.source},
                {"stream_bps",      p->stream.mean_s > 0 ? 8 / p->stream.mean_s : 0,                                                  p->stream.source                                                                                                                                                                                                                                                                                  },
                {"goodput_milli",         mv->means.goodput * 1000,mv->means.goodput_source},
                {"source_cpu_us_per_mb", p->source_cpu.mean_s * 1e12,                                          p->source_cpu.source                                                                                                                                                                                                                                                                                                                                 },
                {"destination_cpu_us_per_mb",     p->destination_cpu.mean_s * 1e12,p->destination_cpu.source},
        };
        for (size_t i = 0; i < ARRAY_N(all) && to->n_figures < ARRAY_N(to->figures); i++) {
                struct api_move_figure *f = &to->figures[to->n_figures++];
                f->value = figure_of(all[i].value);
                (void)STR_COPY(f->figure, all[i].name);
                (void)STR_COPY(f->source, figure_source_name(all[i].source));
        }
}

/* n_offers: of a move that is under way only the first is held; one that is only asked for holds none. */
static void show_plan(const struct plan *p, size_t n_offers, struct api_move *to)
{
        to->has_plan = p->outcome == PLAN_KEPT || p->outcome == PLAN_BEST_EFFORT;
        to->plan = (struct api_move_plan){.vector = vector_out(&p->vector),
                                          .limit_ms = p->downtime_limit_ms,
                                          .has_reserve_ms = true,
                                          .reserve_ms = p->reserve_ms};
        to->plan.has_total_ms = to->plan.has_downtime_ms = to->plan.has_sent_bytes = to->plan.has_rounds =
                p->predicted.ends;
        to->plan.total_ms = interval(&p->predicted.total_ms);
        to->plan.downtime_ms = interval(&p->predicted.downtime_ms);
        to->plan.sent_bytes = interval(&p->predicted.sent_bytes);
        to->plan.rounds = interval(&p->predicted.rounds);
        to->plan.has_expected_bps = p->predicted.ends;
        to->plan.expected_bps = p->predicted.bandwidth_bps;
        to->has_limit = p->limit != 0;
        if (to->has_limit)
                (void)STR_COPY(to->limit, plan_limit_name(p->limit));
        for (size_t i = 0; i < p->n_offers && i < n_offers; i++) {
                struct api_move_offer *o = &to->offers[to->n_offers++];
                o->level = level_out(&p->offers[i].level);
                (void)STR_COPY(o->kind, offer_names[p->offers[i].kind]);
                o->has_total_p50_ms = o->has_downtime_p50_ms = p->offers[i].predicted.ends;
                o->total_p50_ms = p->offers[i].predicted.total_ms.p50;
                o->downtime_p50_ms = p->offers[i].predicted.downtime_ms.p50;
        }
}

static void show_progress(const struct moving *mv, struct api_move_progress *to)
{
        const struct sample *s = &mv->seen.sample;
        const struct estimate *e = &mv->control.estimate;
        int64_t left_ms = mv->predicted_total_ms - (loop_mono_ms() - mv->began_mono_us / 1000);
        *to = (struct api_move_progress){.round = s->syncs,
                                         .sent_bytes = s->transferred_bytes,
                                         .left_bytes = (int64_t)estimate_left_bytes(e),
                                         .bytes_per_s = (int64_t)e->bytes_per_s,
                                         .dirty_bytes_per_s =
                                                 (int64_t)(curve_bytes(&e->profile.dirty, 1, 1e18) * e->dirt),
                                         .has_predicted_total_ms = mv->predicted_total_ms > 0,
                                         .predicted_total_ms = mv->predicted_total_ms,
                                         .has_predicted_left_ms = mv->predicted_total_ms > 0,
                                         .predicted_left_ms = left_ms > 0 ? left_ms : 0,
                                         .has_predicted_downtime_ms = mv->predicted_total_ms > 0,
                                         .predicted_downtime_ms = mv->predicted_downtime_ms};
}

json_t *move_view(const struct moving *mv)
{
        const struct move_row *row = &mv->core.row;
        struct api_move *to = g_new0(struct api_move, 1);
        (void)STR_COPY(to->id, row->id);
        (void)STR_COPY(to->vm, mv->vm);
        to->role = move_is_source(&mv->core) ? API_MOVE_ROLE_SOURCE : API_MOVE_ROLE_DESTINATION;
        (void)STR_COPY(to->peer, mv->peer);
        (void)STR_COPY(to->state,
                       mv->is_dry && row->state == MOVE_PLANNING ? "dry-run" : move_state_name(row->state));
        to->has_level = row->level.total_ms > 0 || row->level.downtime_ms > 0;
        to->level = level_out(&row->level);
        to->has_best_effort = to->best_effort = mv->is_best_effort;
        to->has_on_miss = mv->on_miss != 0;
        to->on_miss = mv->on_miss == ON_MISS_FINISH ? API_ON_MISS_FINISH
                      : mv->on_miss == ON_MISS_ASK  ? API_ON_MISS_ASK
                                                    : API_ON_MISS_ABORT;
        to->attempt = row->attempt;
        to->started_ms = mv->asked_ms;
        to->has_ended_ms = mv->ended_ms > 0;
        to->ended_ms = mv->ended_ms;
        if (mv->has_plan) {
                const struct plan plan = source_plan_in_force(mv);
                show_plan(&plan, mv->is_dry ? PLAN_OFFERS_MAX : 1, to);
                show_figures(mv, &to->plan);
        }
        to->has_offer_ms = (row->state == MOVE_COUNTERED && !mv->is_dry) /* nothing is held for a dry run */
                           || mv->has_offer;
        to->offer_ms = row->deadline_ms > loop_now_ms() ? row->deadline_ms - loop_now_ms() : 0;
        if (row->state == MOVE_COUNTERED && !mv->is_dry && to->n_offers == 0) { /* planned anew since */
                to->n_offers = 1;
                to->offers[0] = (struct api_move_offer){.level = level_out(&row->level)};
                (void)STR_COPY(to->offers[0].kind, offer_names[mv->offer_kind ? mv->offer_kind : OFFER_KNEE]);
        }
        int64_t now_ms = loop_now_ms();
        to->has_earliest_ms = mv->earliest_ms > 0;
        to->earliest_ms = mv->earliest_ms > now_ms ? mv->earliest_ms - now_ms : 0;
        if (mv->has_offer) {
                to->n_offers = 1;
                to->offers[0] = (struct api_move_offer){.level = level_out(&mv->offer)};
                (void)STR_COPY(to->offers[0].kind, "least-total");
        }
        to->has_progress = mv->is_copying && mv->control.estimate.has_sample;
        if (to->has_progress)
                show_progress(mv, &to->progress);
        to->has_total_ms = mv->took_ms > 0;
        to->total_ms = mv->took_ms;
        to->has_downtime_ms = mv->gap_ms > 0;
        to->downtime_ms = mv->gap_ms;
        to->has_held_bytes = mv->held_bytes > 0;
        to->held_bytes = mv->held_bytes;
        for (size_t i = 0; i < mv->n_fallbacks; i++)
                (void)STR_COPY(to->fallbacks[to->n_fallbacks++], mv->fallbacks[i]);
        to->has_cut = to->cut = mv->was_cut;
        to->has_stood_ms = mv->stood_ms > 0;
        to->stood_ms = mv->stood_ms;
        to->has_reason = row->reason != 0;
        to->reason = row->reason;
        to->has_sentence = *row->sentence != '\0';
        (void)STR_COPY(to->sentence, row->sentence);
        json_t *v = api_move_emit(to);
        g_free(to);
        return v;
}

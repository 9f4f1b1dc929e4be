/* SPDX-License-Identifier: Apache-2.0 */
/* The tables (core/move-tables.c) say what follows on what; here is what goes with it. Invariants: the state
 * changes in go() alone, which makes its row durable before anything is done or said; the epoch grows with
 * each change of the owner, which only a written outcome, or the destination's word that it never runs,
 * brings; the attempt grows before anything of a new one is said; a way back has one reason. */
#include "core/move-internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"

enum {
        REPEAT_MAX_MS = 5000,
        HOLD_MARGIN_MS = 30000, /* by which the destination holds longer than the source offers */
        HOLD_MAX_MS = 24 * 3600 * 1000
};

/* What turned a move, beside a report. */
struct cause {
        enum move_event_kind kind; /* MESSAGE: says */
        enum move_says says;
        enum reason reason;
        const char *sentence;
        int64_t now_ms;
};

bool move_is_source(const struct move *m)
{
        return m->row.state < MOVE_SOURCE_N;
}

static bool is_final(enum move_state s)
{
        return (s >= MOVE_DONE && s <= MOVE_LOST) || s == MOVE_SETTLED || s == MOVE_DROPPED;
}

bool move_is_final(const struct move *m)
{
        return is_final(m->row.state);
}

bool move_may_be_forgotten(const struct move *m)
{
        return is_final(m->row.state) && (m->row.state != MOVE_SETTLED || m->row.is_told);
}

bool move_state_has(enum move_state s, enum move_effect_kind e)
{
        const struct move_state_row *row = &move_states[s];
        if (e == MOVE_PERSIST || e == MOVE_EVENT)
                return true;
        if (e == MOVE_ADOPT)
                return s == MOVE_RUNNING || s == MOVE_RETURNING;
        return e == MOVE_SEND ? row->says != 0 : row->effects[0] == e || row->effects[1] == e;
}

/* ---- effects ---- */

static struct move_effect *effect(struct move_effects *out, const struct move *m, enum move_effect_kind kind)
{
        assert(out->n < MOVE_EFFECTS_MAX);
        struct move_effect *e = &out->list[out->n++];
        e->kind = kind;
        e->token = m->row.step;
        e->attempt = m->row.attempt;
        return e;
}

static void note(struct move_effects *out, const struct move *m, const char *event, const char *text)
{
        struct move_effect *e = effect(out, m, MOVE_EVENT);
        e->event = event;
        e->text = text;
}

static void say(struct move_effects *out, const struct move *m)
{
        const struct move_row *r = &m->row;
        struct move_message *p = &effect(out, m, MOVE_SEND)->message;
        *p = (struct move_message){
                .says = move_states[r->state].says, .epoch = r->epoch, .attempt = r->attempt};
        memcpy(p->id, r->id, sizeof(p->id));
        if (p->says == MOVE_SAYS_RESERVE) {
                p->vector = r->vector;
                p->reserve_ms = r->reserve_ms;
                p->hold_ms = (r->is_offer ? r->hold_ms : 0) + HOLD_MARGIN_MS;
        } else if (p->says == MOVE_SAYS_SHORT) {
                p->has = r->has;
        } else if (p->says == MOVE_SAYS_DROP || p->says == MOVE_SAYS_BROKEN || p->says == MOVE_SAYS_DROPPED) {
                p->reason = r->reason;
                memcpy(p->sentence, r->sentence, sizeof(p->sentence));
        }
}

static void act(const struct move *m, struct move_effects *out)
{
        const struct move_state_row *row = &move_states[m->row.state];
        for (size_t i = 0; i < ARRAY_N(row->effects); i++)
                if (row->effects[i])
                        effect(out, m, row->effects[i])->outcome = m->row.state == MOVE_COMMITTING
                                                                           ? MOVE_OUTCOME_COMMITTED
                                                                           : MOVE_OUTCOME_ABORTED;
}

/* Is there anybody to hear from still? */
static bool is_heard(const struct move_row *r)
{
        return r->state != MOVE_SETTLED || !r->is_told;
}

static void set_repeat(struct move *m, int64_t now_ms)
{
        int64_t every_ms = is_heard(&m->row) ? move_states[m->row.state].repeat_ms : 0;
        for (uint32_t i = move_states[m->row.state].even; i < m->repeats && every_ms < REPEAT_MAX_MS; i++)
                every_ms *= 2;
        m->repeat_ms =
                every_ms == 0 ? INT64_MAX : now_ms + (every_ms < REPEAT_MAX_MS ? every_ms : REPEAT_MAX_MS);
}

static void set_deadline(struct move *m, int64_t now_ms)
{
        struct move_row *r = &m->row;
        int64_t wait_ms = is_heard(r) ? move_states[r->state].wait_ms : 0;
        if (r->state == MOVE_COUNTERED || r->state == MOVE_RESERVED)
                wait_ms = r->hold_ms;
        else if (r->state == MOVE_COPYING)
                wait_ms = r->copy_ms;
        r->deadline_ms = wait_ms > 0 ? now_ms + wait_ms : INT64_MAX;
}

/* What a state brings with it, on entry and after a restart. What is said comes first: the guest may stand.
 */
static void begin(struct move *m, int64_t now_ms, struct move_effects *out)
{
        const struct move_state_row *row = &move_states[m->row.state];
        m->repeats = 0;
        m->is_lost_said = false;
        set_repeat(m, now_ms);
        if (row->says && !row->is_quiet && is_heard(&m->row))
                say(out, m);
        act(m, out);
}

/* ---- the one place where a state changes ---- */

static void enter(struct move *m, enum move_state to, const struct cause *why, struct move_effects *out)
{
        struct move_row *r = &m->row;
        bool is_next = r->state == MOVE_CLOSING && to == MOVE_PREPARING_THERE;
        if (is_next || (to == MOVE_PLANNING && r->rounds > 0))
                r->attempt++;
        if (is_next || to == MOVE_PREPARING) { /* what the last attempt failed of is in the log */
                r->reason = 0;
                r->sentence[0] = '\0';
        }
        r->state = to;
        r->step++;
        if (to == MOVE_PLANNING) {
                r->rounds++;
        } else if (to == MOVE_PREPARING_THERE) {
                r->tries++;
                r->is_offer = false;
        } else if (to == MOVE_COPYING && r->started_ms == 0) {
                r->started_ms = why->now_ms;
        } else if (to == MOVE_COMMITTED) {
                r->owner = OWNER_DESTINATION;
                r->epoch++;
        } else if (to == MOVE_RETURNING) {
                r->owner = OWNER_SOURCE;
                r->epoch++;
        } else if (to == MOVE_RUNNING || to == MOVE_BROKEN) {
                r->owner = to == MOVE_RUNNING ? OWNER_DESTINATION : OWNER_SOURCE;
        }
        set_deadline(m, why->now_ms);
        effect(out, m, MOVE_PERSIST);
        bool is_back = r->reason && to != MOVE_DONE && to != MOVE_COMMITTED && to != MOVE_FINISHING;
        note(out, m, move_states[to].name, is_back ? r->sentence : move_states[to].text);
        if (move_state_has(to, MOVE_ADOPT))
                effect(out, m, MOVE_ADOPT);
        begin(m, why->now_ms, out);
}

/* ---- ways back ---- */

static bool may_retry(const struct move_row *r, int64_t now_ms)
{
        if (r->tries >= MOVE_TRIES)
                return false;
        return r->level.total_ms == 0 || r->level.is_best_effort ||
               now_ms < r->started_ms + r->level.total_ms;
}

static void set_reason(struct move_row *r, enum reason reason, const char *sentence)
{
        r->reason = reason;
        if (!STR_COPY(r->sentence, sentence)) { /* a peer's is cut to fit already, a driver's is here */
                memcpy(r->sentence, sentence, sizeof(r->sentence) - 1);
                r->sentence[sizeof(r->sentence) - 1] = '\0';
        }
}

static void set_reason_of(struct move_row *r, const struct cause *why)
{
        enum reason reason = REASON_INTERNAL;
        const char *sentence = "it could not be done";
        if (why->kind == MOVE_EV_CANCEL) {
                reason = REASON_CANCELLED;
                sentence = "somebody wanted it no longer";
        } else if (why->kind == MOVE_EV_TIMEOUT) {
                reason = REASON_TIMEOUT;
                sentence = r->state == MOVE_COUNTERED ? "what was offered lapsed" : "it took too long";
        } else if (why->kind == MOVE_EV_DIED || r->state == MOVE_ORPHANED) {
                sentence = r->state < MOVE_SOURCE_N ? "its VMM died before all of it was at the destination"
                                                    : "the VMM at the destination died";
        } else if (why->kind == MOVE_EV_ABORTED || why->kind == MOVE_EV_BROKEN) {
                reason = REASON_TIMEOUT;
                sentence = "the attempt was broken off, as it would have taken too long";
        } else if (why->kind == MOVE_EV_SHORT) {
                reason = REASON_NO_CAPACITY;
                sentence = "what it takes is not free";
        } else if (why->kind == MOVE_EV_MESSAGE) {
                reason = REASON_PEER_LOST;
                sentence = "the other side dropped it";
        }
        bool is_ours =
                r->state != MOVE_ORPHANED || why->kind == MOVE_EV_CANCEL; /* not what came of it there */
        if (is_ours && why->reason > 0 && why->reason < REASON_N)
                reason = why->reason;
        if (is_ours && why->sentence && why->sentence[0])
                sentence = why->sentence;
        set_reason(r, reason, sentence);
}

/* Before a source goes to `to`, or stays: for what end, and why. false: nothing of it changed. */
static bool settle(struct move_row *r, int to, const struct cause *why)
{
        bool is_back = to == MOVE_RESUMING || to == MOVE_CLOSING || to == MOVE_DROPPING_THERE ||
                       to == MOVE_RELEASING || to == MOVE_RETURNING;
        bool is_turn = is_back && r->state <= MOVE_COMMITTED;
        bool is_harder =
                why->kind == MOVE_EV_DIED || why->kind == MOVE_EV_CANCEL || why->kind == MOVE_EV_TIMEOUT;
        enum move_state end = MOVE_ABORTED;
        if ((!is_turn && !is_harder) || (!is_back && to != MOVE_STAY))
                return false;
        if (why->kind == MOVE_EV_DIED || r->state == MOVE_ORPHANED)
                end = MOVE_LOST;
        else if (r->state <= MOVE_RESERVING_THERE && why->kind != MOVE_EV_CANCEL)
                end = MOVE_REFUSED;
        else if (is_turn && r->state < MOVE_COMMITTED && may_retry(r, why->now_ms) &&
                 (why->kind == MOVE_EV_BROKEN || why->kind == MOVE_EV_ABORTED ||
                  why->says == MOVE_SAYS_BROKEN) &&
                 to == MOVE_RESUMING)
                end = 0;
        if (!is_turn && (r->end == end || (r->end != 0 && end != MOVE_LOST)))
                return false; /* the first reason stays; only death is worse */
        r->end = end;
        set_reason_of(r, why);
        return true;
}

/* ---- moving ---- */

static enum move_state split(const struct move_row *r)
{
        if (r->state == MOVE_RESERVING_THERE)
                return r->is_offer ? MOVE_COUNTERED : MOVE_PREPARING_THERE;
        if (r->state == MOVE_CLOSING)
                return r->end ? MOVE_DROPPING_THERE : MOVE_PREPARING_THERE;
        assert(r->state == MOVE_RELEASING && is_final(r->end));
        return r->end;
}

static int go(struct move *m, int to, const struct cause *why, struct move_effects *out)
{
        if (to == MOVE_SPLIT)
                to = split(&m->row);
        /* What the destination holds since it was short it holds until it is told. */
        if (to == MOVE_RELEASING && m->row.state <= MOVE_RESERVING && m->row.is_short)
                to = MOVE_DROPPING_THERE;
        if (move_is_source(m))
                (void)settle(&m->row, to, why);
        else if (to == MOVE_DROPPING || to == MOVE_BROKEN ||
                 (to == MOVE_CONFIRMING && why->kind == MOVE_EV_DIED)) {
                if (m->row.reason == 0 || m->row.state != MOVE_BROKEN)
                        set_reason_of(&m->row, why);
        }
        enter(m, (enum move_state)to, why, out);
        return 1;
}

static int late(struct move *m)
{
        m->late++;
        return 0;
}

static int bad(const struct move *m, const char *what, struct err *err)
{
        return err_set(err, REASON_STALE, EPROTO, "move %s: no %s while it is %s", m->row.id, what,
                       move_state_name(m->row.state));
}

/* ---- reports ---- */

static bool is_answer(enum move_event_kind kind)
{
        if (kind == MOVE_EV_MISSED || kind == MOVE_EV_ACCEPT || kind == MOVE_EV_DIED ||
            kind == MOVE_EV_CANCEL)
                return false;
        return kind < MOVE_EV_INCOMING && kind != MOVE_EV_TIMEOUT;
}

/* 0: no bound. */
static int64_t looser(int64_t a_ms, int64_t b_ms)
{
        return a_ms == 0 || b_ms == 0 ? 0 : a_ms > b_ms ? a_ms : b_ms;
}

static bool is_stricter(int64_t a_ms, int64_t than_ms)
{
        return looser(a_ms, than_ms) != a_ms;
}

/* A level never gets stricter from round to round (4.14). */
static void loosen(struct level *l, const struct level *to)
{
        l->total_ms = looser(l->total_ms, to->total_ms);
        l->downtime_ms = looser(l->downtime_ms, to->downtime_ms);
}

static int accept_level(struct move *m, const struct move_event *ev, struct err *err)
{
        struct move_row *r = &m->row;
        if (r->state == MOVE_COPYING) { /* what core/control.h has offered */
                loosen(&r->level, &ev->level);
                int64_t copy_ms = r->level.total_ms > 0 ? r->level.total_ms : LEVEL_MAX_MS;
                if (copy_ms > r->copy_ms) {
                        r->deadline_ms += copy_ms - r->copy_ms;
                        r->copy_ms = copy_ms;
                }
                return 0;
        }
        if (ev->now_ms >= r->deadline_ms)
                return err_set(err, REASON_STALE, EPROTO, "move %s: what was offered has lapsed", r->id);
        if (is_stricter(ev->level.total_ms, r->level.total_ms) ||
            is_stricter(ev->level.downtime_ms, r->level.downtime_ms))
                return err_set(err, REASON_INVALID, EPROTO, "move %s: a stricter level than was offered",
                               r->id);
        return 0;
}

/* What a report brings with it. */
static int take(struct move *m, const struct move_event *ev, struct err *err)
{
        struct move_row *r = &m->row;
        if (ev->kind == MOVE_EV_ACCEPT)
                return accept_level(m, ev, err);
        if (ev->kind == MOVE_EV_PLANNED || ev->kind == MOVE_EV_COUNTER) {
                r->vector = ev->vector;
                r->reserve_ms = ev->reserve_ms;
                r->copy_ms = ev->copy_ms;
        }
        if (ev->kind == MOVE_EV_COUNTER) {
                loosen(&r->level, &ev->level);
                r->hold_ms = ev->hold_ms > 0 && ev->hold_ms < HOLD_MAX_MS ? ev->hold_ms : HOLD_MARGIN_MS;
                r->is_offer = true;
        }
        if (ev->kind == MOVE_EV_SHORT)
                r->has = ev->has;
        return 0;
}

static int stay(struct move *m, const struct cause *why, struct move_effects *out)
{
        struct move_row *r = &m->row;
        if (why->kind == MOVE_EV_TIMEOUT && r->state == MOVE_SETTLED) {
                r->is_told = true; /* it is here, and who gave it away has been gone for too long */
                set_repeat(m, why->now_ms);
                set_deadline(m, why->now_ms);
                effect(out, m, MOVE_PERSIST);
        } else if (why->kind == MOVE_EV_TIMEOUT) {
                m->is_lost_said = true;
                note(out, m, move_states[r->state].says ? "peer-lost" : "overdue",
                     move_states[r->state].text);
        } else if (why->kind == MOVE_EV_MISSED) {
                note(out, m, "miss", "its level will be missed");
        } else if (why->kind == MOVE_EV_ACCEPT || settle(r, MOVE_STAY, why)) {
                effect(out, m, MOVE_PERSIST);
                note(out, m, move_event_name(why->kind), r->reason ? r->sentence : "another level");
        }
        return 1;
}

static int cell(const struct move *m, int kind)
{
        enum move_state s = m->row.state;
        if (move_is_source(m))
                return kind < MOVE_EV_PREPARED ? move_source_reports[s][kind] : MOVE_BAD;
        return kind >= MOVE_DESTINATION_FIRST ? move_destination_reports[s][kind - MOVE_DESTINATION_FIRST]
                                              : MOVE_BAD;
}

static int report(struct move *m, const struct move_event *ev, struct move_effects *out, struct err *err)
{
        const struct move_row *r = &m->row;
        struct cause why = {ev->kind, 0, ev->reason, ev->sentence, ev->now_ms};
        if (is_answer(ev->kind) && ev->token != r->step)
                return late(m);
        if (!move_is_source(m) && ev->attempt != r->attempt &&
            (ev->kind == MOVE_EV_DIED || ev->kind == MOVE_EV_INCOMING || ev->kind == MOVE_EV_COMPLETED))
                return late(m);
        if (r->state == MOVE_RUNNING && ev->kind == MOVE_EV_DIED && ev->token != r->step)
                return late(m); /* whether it had been told to run is known by who tells it */
        if (ev->kind == MOVE_EV_CANCEL && r->state == MOVE_ORPHANED && ev->now_ms < r->deadline_ms)
                return late(m); /* it may live */
        int to = cell(m, ev->kind);
        assert(to != 0);
        if (to == MOVE_LATE)
                return late(m);
        if (to == MOVE_BAD)
                return bad(m, move_event_name(ev->kind), err);
        int n = take(m, ev, err);
        if (n < 0)
                return n;
        if (to == MOVE_PLANNING && ev->kind == MOVE_EV_SHORT && r->rounds >= MOVE_ROUNDS)
                to = MOVE_RELEASING;
        return to == MOVE_STAY ? stay(m, &why, out) : go(m, to, &why, out);
}

/* ---- messages ---- */

static int answer(struct move *m, struct move_effects *out)
{
        if (move_states[m->row.state].says == 0)
                return late(m);
        say(out, m);
        return 1;
}

static int source_message(struct move *m, const struct move_message *p, int64_t now_ms,
                          struct move_effects *out, struct err *err)
{
        struct move_row *r = &m->row;
        struct cause why = {MOVE_EV_MESSAGE, p->says, p->reason, p->sentence, now_ms};
        if (p->says < MOVE_SAYS_RESERVED || p->epoch > r->epoch || p->attempt > r->attempt)
                return bad(m, move_says_name(p->says), err);
        if (p->epoch < r->epoch || p->attempt < r->attempt) /* it does not know yet */
                return answer(m, out);
        int to = move_source_messages[r->state][p->says - MOVE_SAYS_RESERVED];
        assert(to != 0);
        if (to == MOVE_LATE)
                return late(m);
        if (to == MOVE_BAD)
                return bad(m, move_says_name(p->says), err);
        if (to == MOVE_STAY)
                return answer(m, out);
        if (to == MOVE_PLANNING) {
                r->has = p->has;
                r->is_short = true;
                why.kind = MOVE_EV_SHORT;
                if (r->rounds >= MOVE_ROUNDS)
                        to = MOVE_DROPPING_THERE;
        }
        return go(m, to, &why, out);
}

/* Which column of the destination's table, or -1. */
static int column(const struct move_message *p, bool is_later)
{
        static const int8_t columns[MOVE_SAYS_RESERVED][2] = {
                [MOVE_SAYS_RESERVE] = {MOVE_GETS_RESERVE,  MOVE_GETS_REVISE},
                [MOVE_SAYS_PREPARE] = {MOVE_GETS_PREPARE,  MOVE_GETS_RETRY },
                [MOVE_SAYS_COPY] = {MOVE_GETS_COPY,     -1              },
                [MOVE_SAYS_STATUS] = {MOVE_GETS_STATUS,   -1              },
                [MOVE_SAYS_RUN] = {MOVE_GETS_RUN,      -1              },
                [MOVE_SAYS_DROP] = {MOVE_GETS_DROP,     MOVE_GETS_DROP  },
                [MOVE_SAYS_FINISHED] = {MOVE_GETS_FINISHED, -1              },
        };
        return p->says < MOVE_SAYS_RESERVED ? columns[p->says][is_later] : -1;
}

static bool is_sane(const struct move_message *p)
{
        const struct vector *v = &p->vector;
        return v->bandwidth_bps >= 0 && v->source_cpu_milli >= 0 && v->destination_cpu_milli >= 0 &&
               v->share_milli >= 0 && v->share_milli <= 1000 && p->reserve_ms >= 0 &&
               p->reserve_ms <= LEVEL_MAX_MS;
}

static void take_request(struct move *m, const struct move_message *p)
{
        struct move_row *r = &m->row;
        r->vector = p->vector;
        r->reserve_ms = p->reserve_ms;
        r->hold_ms = p->hold_ms > 0 && p->hold_ms < HOLD_MAX_MS ? p->hold_ms : HOLD_MARGIN_MS;
}

static int destination_message(struct move *m, const struct move_message *p, int64_t now_ms,
                               struct move_effects *out, struct err *err)
{
        struct move_row *r = &m->row;
        struct cause why = {MOVE_EV_MESSAGE, p->says, p->reason, p->sentence, now_ms};
        if (p->says >= MOVE_SAYS_RESERVED)
                return bad(m, move_says_name(p->says), err);
        if (p->epoch < r->epoch || p->attempt < r->attempt)
                return late(m);
        /* Where all is dropped, every attempt is. */
        int at = column(p, p->attempt > r->attempt && r->state != MOVE_DROPPED);
        int to = at < 0 ? MOVE_BAD : move_destination_messages[r->state][at];
        assert(to != 0);
        if (to == MOVE_HOLDING && !is_sane(p))
                to = MOVE_BAD;
        if (p->says == MOVE_SAYS_RUN && p->epoch == r->first_epoch)
                to = MOVE_BAD; /* with a committed outcome there is another owner */
        if (to == MOVE_BAD)
                return bad(m, move_says_name(p->says), err);
        if (at == MOVE_GETS_FINISHED && !r->is_told) {
                r->is_told = true;
                if (to == MOVE_LATE) {
                        set_repeat(m, now_ms);
                        if (!is_heard(r))
                                set_deadline(m, now_ms);
                        effect(out, m, MOVE_PERSIST);
                        return 1;
                }
        }
        if (to == MOVE_LATE || (to == MOVE_STAY && !move_states[r->state].says))
                return late(m);
        r->epoch = p->epoch;
        r->attempt = p->attempt;
        if (at == MOVE_GETS_COPY && m->row.deadline_ms < now_ms + move_states[r->state].wait_ms)
                set_deadline(m, now_ms); /* the source is there */
        if (to == MOVE_STAY)
                return answer(m, out);
        if (to == MOVE_HOLDING)
                take_request(m, p);
        return go(m, to, &why, out);
}

static int message(struct move *m, const struct move_event *ev, struct move_effects *out, struct err *err)
{
        struct move_message p = *ev->message;
        p.sentence[sizeof(p.sentence) - 1] = '\0';
        for (char *at = p.sentence; *at; at++) /* it goes to our log */
                if ((unsigned char)*at < ' ' || *at == 0x7f)
                        *at = ' ';
        if (p.says < 1 || p.says >= MOVE_SAYS_N || p.epoch == 0 || p.attempt == 0)
                return bad(m, "such message", err);
        return move_is_source(m) ? source_message(m, &p, ev->now_ms, out, err)
                                 : destination_message(m, &p, ev->now_ms, out, err);
}

bool move_answer_unknown(const struct move_message *in, struct move_message *ret)
{
        if (in->says < 1 || in->says >= MOVE_SAYS_N || in->says == MOVE_SAYS_DROPPED ||
            in->says == MOVE_SAYS_FINISHED)
                return false;
        *ret = (struct move_message){.epoch = in->epoch, .attempt = in->attempt, .reason = REASON_NOT_FOUND};
        memcpy(ret->id, in->id, sizeof(ret->id));
        if (in->says < MOVE_SAYS_RESERVED)
                ret->says = MOVE_SAYS_DROPPED;
        else
                ret->says = in->says == MOVE_SAYS_RUNNING ? MOVE_SAYS_FINISHED : MOVE_SAYS_DROP;
        (void)STR_COPY(ret->sentence, "nothing is known of this move");
        return true;
}

/* ---- time ---- */

static int tick(struct move *m, int64_t now_ms, struct move_effects *out)
{
        const struct move_state_row *row = &move_states[m->row.state];
        int n = 0;
        if (now_ms >= m->row.deadline_ms && !m->is_lost_said) {
                struct cause why = {MOVE_EV_TIMEOUT, 0, 0, NULL, now_ms};
                int to = cell(m, MOVE_EV_TIMEOUT);
                assert(to > 0 || to == MOVE_STAY); /* a final state waits for nothing */
                if (to > 0)
                        return go(m, to, &why, out);
                n = stay(m, &why, out);
        }
        if (now_ms < m->repeat_ms)
                return n;
        m->repeats++;
        set_repeat(m, now_ms);
        if (row->says && !row->is_quiet)
                say(out, m);
        if (!row->is_once)
                act(m, out);
        return 1;
}

int64_t move_deadline(const struct move *m)
{
        int64_t at_ms = m->is_lost_said ? INT64_MAX : m->row.deadline_ms;
        return at_ms < m->repeat_ms ? at_ms : m->repeat_ms;
}

/* ---- from outside ---- */

int move_step(struct move *m, const struct move_event *ev, struct move_effects *ret, struct err *err)
{
        assert(m->row.state > 0 && m->row.state < MOVE_STATE_N && (unsigned)ev->kind < MOVE_EV_N);
        ret->n = 0;
        if (ev->kind == MOVE_EV_TICK)
                return tick(m, ev->now_ms, ret);
        if (ev->kind == MOVE_EV_MESSAGE)
                return message(m, ev, ret, err);
        return ev->kind == MOVE_EV_TIMEOUT ? bad(m, "timeout", err) : report(m, ev, ret, err);
}

void move_begin(struct move *m, const char *id, const struct level *level, uint64_t epoch, int64_t now_ms,
                struct move_effects *ret)
{
        struct cause why = {.kind = MOVE_EV_N, .now_ms = now_ms};
        *m = (struct move){
                .row = {.owner = OWNER_SOURCE,
                        .epoch = epoch,
                        .first_epoch = epoch,
                        .attempt = 1,
                        .level = *level}
        };
        bool is_good = STR_COPY(m->row.id, id) && epoch > 0;
        assert(is_good);
        ret->n = 0;
        enter(m, MOVE_PROFILING, &why, ret);
}

int move_admit(struct move *m, const struct move_message *first, uint64_t least_epoch, int64_t now_ms,
               struct move_effects *ret, struct err *err)
{
        struct cause why = {.kind = MOVE_EV_N, .now_ms = now_ms};
        if (first->says != MOVE_SAYS_RESERVE || first->epoch == 0 || first->attempt == 0 ||
            !memchr(first->id, 0, sizeof(first->id)) || !str_is_id(first->id) || !is_sane(first))
                return err_set(err, REASON_NOT_FOUND, EPROTO, "no such move");
        if (first->epoch < least_epoch)
                return err_set(err, REASON_STALE, EPROTO, "move %s: the VM has another owner since",
                               first->id);
        *m = (struct move){
                .row = {.owner = OWNER_SOURCE,
                        .epoch = first->epoch,
                        .first_epoch = first->epoch,
                        .attempt = first->attempt}
        };
        memcpy(m->row.id, first->id, sizeof(m->row.id));
        take_request(m, first);
        ret->n = 0;
        enter(m, MOVE_HOLDING, &why, ret);
        return 1;
}

/* A copy that was under way has nobody any more who knows how far it is: nothing was decided of it, so the
 * source may run, and try again. Where its VMM died meanwhile, the destination may have had all of it before;
 * but it may have run again since, and what is there is not what it was. */
void move_restore(struct move *m, const struct move_row *row, bool has_vmm, int64_t now_ms,
                  struct move_effects *ret)
{
        struct cause why = {MOVE_EV_DIED, 0, 0, NULL, now_ms};
        *m = (struct move){.row = *row};
        assert(row->state > 0 && row->state < MOVE_STATE_N);
        ret->n = 0;
        if (row->state != MOVE_COPYING) {
                if (row->state != MOVE_COUNTERED && row->state != MOVE_RESERVED && row->state != MOVE_SETTLED)
                        set_deadline(m, now_ms);
                begin(m, now_ms, ret);
        } else if (has_vmm) {
                why.kind = MOVE_EV_BROKEN;
                why.reason = REASON_INTERNAL;
                why.sentence = "who moved it was started again";
                (void)go(m, MOVE_RESUMING, &why, ret);
        } else {
                (void)go(m, MOVE_CLOSING, &why, ret);
        }
}

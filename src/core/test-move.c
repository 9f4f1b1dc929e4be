/* SPDX-License-Identifier: Apache-2.0 */
/* Both sides of a move in a world of two hosts: two journals that know what was made durable and nothing
 * else, two VMMs, a network that loses, repeats, reorders and is cut, a guard that may write `aborted` first,
 * daemons that die between any two effects, VMMs that die at any time. After each thing that happens there is
 * at most one runner, and never one that has not all of the guest; when all faults are over, the guest runs
 * exactly once unless the runner itself was killed, and nothing is reserved.
 *
 * METE_SEED=N repeats one run of the random world, step by step; METE_RUNS=N makes more of them, and all
 * pairs of faults. */
#include "core/move.h"

#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/move-internal.h"

enum { SOURCE, DESTINATION, ITEMS = 160, ATTEMPTS = 16, TRACE = 48 };

enum vmm { VMM_NONE, VMM_LISTENS, VMM_INCOMING, VMM_STANDS, VMM_RUNS, VMM_DEAD };
/* How far QEMU's copy is. From STOPPED on the source stands. */
enum copy { COPY_NONE, COPY_BULK, COPY_INCOMING, COPY_STOPPED, COPY_THERE, COPY_COMPLETE };

enum item_kind {
        ITEM_FREE,
        ITEM_MESSAGE,
        ITEM_OP,
        ITEM_REPORT,
        ITEM_COPY,
        ITEM_START,
        ITEM_FAULT,
        ITEM_ASKER
};
enum fault {
        FAULT_CRASH_SOURCE,
        FAULT_CRASH_DESTINATION,
        FAULT_KILL_SOURCE,
        FAULT_KILL_DESTINATION,
        FAULT_CUT,
        FAULT_GUARD,
        FAULT_CANCEL,
        FAULT_N
};
static const char *const fault_names[FAULT_N] = {"crash of the source",
                                                 "crash of the destination",
                                                 "death of the source's VMM",
                                                 "death of the destination's VMM",
                                                 "cut",
                                                 "guard",
                                                 "cancel"};

struct item {
        enum item_kind kind;
        int side;
        int64_t at_ms;
        uint64_t order;
        int what; /* OP: effect; REPORT: event; FAULT: which */
        uint64_t token;
        uint32_t attempt;
        enum move_outcome outcome;
        struct move_message message;
};

struct side {
        bool is_up, is_known, has_row, is_reserved, is_adopted;
        struct move move;
        struct move_row disk;
        int ends; /* lines in the log that say how it ended */
        bool is_forgotten;
};

struct world {
        uint64_t seed, rand;
        bool is_random, is_quiet; /* quiet: no faults any more */
        int64_t now_ms, cut_until_ms;
        uint64_t order;
        struct side sides[2];
        struct item items[ITEMS];
        enum vmm source, destination;
        uint32_t destination_attempt, guard_attempt, copy_attempt;
        uint64_t copy_token;
        int64_t said_ms; /* by the source's VMM, last */
        enum copy copy;
        enum move_outcome outcomes[ATTEMPTS];
        bool is_fresh;      /* what the destination has is what the source would go on from */
        bool has_run_there; /* so the source never may again */
        bool is_excused;    /* the runner was killed */
        bool is_cancelling; /* somebody is being heard who wants it no longer */
        bool is_unsure;     /* a daemon that is no more may have told the destination's VMM to run */
        bool is_plain;      /* no counter-offers, nothing short: the shortest way */
        int boundary, at[2];
        enum fault faults[2];
        int done[FAULT_N];
        int offers;
        struct level last_level;
};

static struct world world;
static struct move_effects effects;
static bool is_verbose;
/* What was come across, so that a world in which nothing happens is noticed. */
static int seen_states[MOVE_STATE_N], seen_effects[MOVE_EFFECT_N], n_boundaries;

#define SAY(...)                                                                                             \
        do {                                                                                                 \
                if (is_verbose)                                                                              \
                        g_printerr(__VA_ARGS__);                                                             \
        } while (0)
#define CHECK(c)                                                                                             \
        do {                                                                                                 \
                if (!(c))                                                                                    \
                        failed(#c, __LINE__);                                                                \
        } while (0)

static void G_GNUC_NORETURN failed(const char *what, int line)
{
        struct world *w = &world;
        g_error("line %d: %s; seed %" G_GUINT64_FORMAT ", faults: %s at %d, %s at %d; %s, %s; VMMs %d %d",
                line, what, w->seed, fault_names[w->faults[0]], w->at[0], fault_names[w->faults[1]], w->at[1],
                move_state_name(w->sides[SOURCE].move.row.state),
                move_state_name(w->sides[DESTINATION].move.row.state), w->source, w->destination);
}

/* ---- chance; none in a world whose faults are enumerated ---- */

static uint32_t dice(struct world *w, uint32_t n)
{
        w->rand ^= w->rand << 13;
        w->rand ^= w->rand >> 7;
        w->rand ^= w->rand << 17;
        return (uint32_t)((w->rand >> 20) % n);
}

static bool is_chance(struct world *w, uint32_t one_of)
{
        return w->is_random && dice(w, one_of) == 0;
}

static int64_t delay(struct world *w, uint32_t most_ms)
{
        return w->is_random ? dice(w, most_ms) : 1;
}

/* ---- what is to happen ---- */

static struct item *later(struct world *w, enum item_kind kind, int side, int64_t after_ms)
{
        struct item *it = w->items;
        while (it < w->items + ITEMS && it->kind)
                it++;
        CHECK(it < w->items + ITEMS);
        it->kind = kind;
        it->side = side;
        it->at_ms = w->now_ms + after_ms;
        it->order = w->order++;
        it->what = 0;
        it->token = 0;
        it->attempt = 0;
        return it;
}

static struct item *report(struct world *w, int side, enum move_event_kind what, uint64_t token)
{
        struct item *it = later(w, ITEM_REPORT, side, delay(w, 20));
        it->what = (int)what;
        it->token = token;
        return it;
}

static void report_vmm_there(struct world *w)
{
        enum move_event_kind what = w->destination == VMM_INCOMING ? MOVE_EV_INCOMING
                                    : w->destination == VMM_STANDS ? MOVE_EV_COMPLETED
                                                                   : MOVE_EV_DIED;
        if (w->destination != VMM_LISTENS && w->sides[DESTINATION].is_up)
                report(w, DESTINATION, what, 0)->attempt = w->destination_attempt;
}

/* ---- the VMMs, and what must be true of them ---- */

static void check_runners(const struct world *w)
{
        CHECK(w->source != VMM_RUNS || w->destination != VMM_RUNS);
        CHECK(w->source != VMM_RUNS || !w->has_run_there);
}

static void run_here(struct world *w)
{
        w->source = VMM_RUNS;
        w->is_fresh = false;
        check_runners(w);
}

/* In the order in which it says it. */
static void source_says(struct world *w, enum move_event_kind what, uint64_t token)
{
        if (!w->sides[SOURCE].is_up)
                return;
        struct item *it = report(w, SOURCE, what, token);
        it->at_ms = MAX(it->at_ms, w->said_ms);
        w->said_ms = it->at_ms;
}

static void copy_report(struct world *w, enum move_event_kind what)
{
        source_says(w, what, w->copy_token);
}

/* The stream is cut. QEMU's source runs again by itself, its destination ends unless it has all of it. */
static void copy_break(struct world *w)
{
        if (w->copy == COPY_NONE || w->copy == COPY_COMPLETE)
                return;
        if (w->copy < COPY_THERE && (w->destination == VMM_LISTENS || w->destination == VMM_INCOMING)) {
                w->destination = VMM_DEAD;
                report_vmm_there(w);
        }
        w->copy = COPY_NONE;
        if (w->source == VMM_STANDS)
                run_here(w);
        copy_report(w, is_chance(w, 4) ? MOVE_EV_FAILED : MOVE_EV_BROKEN);
}

static void copy_step(struct world *w)
{
        if (w->copy == COPY_NONE || w->copy == COPY_COMPLETE)
                return;
        bool is_there =
                w->destination_attempt == w->copy_attempt &&
                (w->destination == VMM_LISTENS || w->destination == VMM_INCOMING || w->copy == COPY_THERE);
        if (w->source == VMM_DEAD || !is_there || w->now_ms < w->cut_until_ms || is_chance(w, 40)) {
                copy_break(w);
                return;
        }
        w->copy++;
        if (w->copy == COPY_INCOMING) {
                w->destination = VMM_INCOMING;
                report_vmm_there(w);
        } else if (w->copy == COPY_STOPPED) {
                w->source = VMM_STANDS;
        } else if (w->copy == COPY_THERE) {
                w->destination = VMM_STANDS;
                w->is_fresh = true;
                report_vmm_there(w);
        } else if (w->copy == COPY_COMPLETE) {
                copy_report(w, MOVE_EV_COPIED);
        }
        if (w->copy != COPY_COMPLETE)
                later(w, ITEM_COPY, SOURCE, delay(w, 60));
        if (w->copy >= COPY_STOPPED && is_chance(w, 4)) /* when it matters most */
                later(w, ITEM_FAULT, 0, delay(w, 40))->what = (int)dice(w, FAULT_N);
}

/* The guest stands for longer than the bound. */
static void guard_cuts(struct world *w)
{
        if (w->guard_attempt == 0 || w->source != VMM_STANDS || w->outcomes[w->guard_attempt])
                return;
        SAY("   the guard: aborted\n");
        w->outcomes[w->guard_attempt] = MOVE_OUTCOME_ABORTED;
        if (w->copy == COPY_COMPLETE)
                copy_report(w, MOVE_EV_BROKEN);
        copy_break(w);
        w->copy = COPY_NONE;
        run_here(w);
}

static void kill_source(struct world *w)
{
        uint32_t attempt = w->copy_attempt;
        if (w->source == VMM_DEAD)
                return;
        /* Anything else than a source that stands, undecided, with all of it at the destination. */
        if (w->source == VMM_RUNS || !w->is_fresh || w->destination != VMM_STANDS ||
            w->outcomes[attempt] == MOVE_OUTCOME_ABORTED || w->sides[SOURCE].disk.state == MOVE_RESUMING)
                w->is_excused = w->is_excused || !w->has_run_there;
        w->source = VMM_DEAD;
        copy_break(w);
        w->guard_attempt = 0;
        source_says(w, MOVE_EV_DIED, 0);
}

static void kill_destination(struct world *w)
{
        if (w->destination == VMM_NONE || w->destination == VMM_DEAD)
                return;
        enum move_state s = w->sides[DESTINATION].disk.state;
        /* By the books it runs; or nobody else has it. */
        if ((s >= MOVE_RUNNING && s != MOVE_DROPPING && s != MOVE_DROPPED) || w->source == VMM_DEAD)
                w->is_excused = true;
        w->destination = VMM_DEAD;
        copy_break(w);
        report_vmm_there(w);
}

/* ---- what drivers do ---- */

/* With what it claimed. */
static void end_vmm(struct world *w, const struct item *op)
{
        bool is_there = w->sides[op->side].disk.owner == OWNER_DESTINATION;
        if (op->side == SOURCE && is_there) {
                enum move_state d = w->sides[DESTINATION].disk.state;
                CHECK(w->has_run_there || (d >= MOVE_RUNNING && d != MOVE_DROPPING && d != MOVE_DROPPED));
                w->source = VMM_DEAD;
        } else if (op->side == DESTINATION && !is_there) {
                CHECK(w->destination != VMM_RUNS);
                if (w->destination_attempt <= op->attempt)
                        w->destination = VMM_NONE;
                copy_break(w);
        }
}

static void carry_out(struct world *w, const struct item *op)
{
        struct side *s = &w->sides[op->side];
        bool is_source = op->side == SOURCE;
        int n = -1;
        if (op->what == MOVE_PROFILE)
                n = is_chance(w, 50) ? MOVE_EV_FAILED : MOVE_EV_PROFILED;
        else if (op->what == MOVE_PLAN)
                n = is_chance(w, 30) ? MOVE_EV_FAILED : is_chance(w, 4) ? MOVE_EV_COUNTER : MOVE_EV_PLANNED;
        else if (op->what == MOVE_RESERVE && is_chance(w, 6)) {
                s->is_reserved = false;
                n = MOVE_EV_SHORT;
        } else if (op->what == MOVE_RESERVE) {
                s->is_reserved = true;
                n = MOVE_EV_RESERVED;
        } else if (op->what == MOVE_GUARD_END) {
                if (w->guard_attempt <= op->attempt)
                        w->guard_attempt = 0;
        } else if (op->what == MOVE_COPY_START) {
                CHECK(s->is_reserved); /* 4.5 */
                if (w->source != VMM_DEAD)
                        w->guard_attempt = op->attempt;
                w->copy_token = op->token;
                w->copy_attempt = op->attempt;
                w->copy = COPY_NONE;
                if (w->source == VMM_RUNS) {
                        w->copy = COPY_BULK;
                        later(w, ITEM_COPY, SOURCE, delay(w, 60));
                }
        } else if (op->what == MOVE_WRITE) {
                CHECK(op->attempt < ATTEMPTS);
                bool is_lost = is_chance(w, 6);
                if (!w->outcomes[op->attempt] && !(is_lost && is_chance(w, 2))) {
                        w->outcomes[op->attempt] = op->outcome;
                        if (op->outcome == MOVE_OUTCOME_COMMITTED)
                                CHECK(w->is_fresh && w->source != VMM_RUNS);
                }
                n = is_lost                                              ? MOVE_EV_UNKNOWN
                    : w->outcomes[op->attempt] == MOVE_OUTCOME_COMMITTED ? MOVE_EV_COMMITTED
                                                                         : MOVE_EV_ABORTED;
        } else if (op->what == MOVE_VMM_PREPARE) {
                CHECK(s->is_reserved); /* 4.15 */
                CHECK(w->destination != VMM_RUNS);
                w->destination = is_chance(w, 30) ? VMM_NONE : VMM_LISTENS;
                w->destination_attempt = op->attempt;
                w->is_fresh = false;
                n = w->destination == VMM_NONE ? MOVE_EV_FAILED : MOVE_EV_PREPARED;
        } else if (op->what == MOVE_VMM_WATCH) {
                if (op->attempt == w->destination_attempt)
                        report_vmm_there(w);
        } else if (op->what == MOVE_VMM_CONT && is_source) {
                n = w->source == VMM_DEAD ? MOVE_EV_DIED : MOVE_EV_RUNS;
                if (w->copy == COPY_COMPLETE)
                        w->copy = COPY_NONE;
                copy_break(w);
                if (w->source != VMM_DEAD)
                        run_here(w);
        } else if (op->what == MOVE_VMM_CONT) {
                CHECK(s->disk.state == MOVE_RUNNING || s->disk.state >= MOVE_CONFIRMING);
                CHECK(w->destination != VMM_LISTENS &&
                      w->destination != VMM_INCOMING); /* it would run half of it */
                n = w->destination == VMM_STANDS || w->destination == VMM_RUNS ? MOVE_EV_RUNS
                    : w->has_run_there || w->is_unsure                         ? MOVE_EV_DIED
                                                                               : MOVE_EV_FAILED;
                if (w->destination == VMM_STANDS) {
                        CHECK(w->is_fresh && s->is_adopted);
                        CHECK(w->outcomes[w->destination_attempt] == MOVE_OUTCOME_COMMITTED);
                        w->destination = VMM_RUNS;
                        w->has_run_there = true;
                        check_runners(w);
                }
        } else if (op->what == MOVE_RELEASE) {
                end_vmm(w, op);
                s->is_reserved = false;
                s->is_adopted = s->is_adopted && s->disk.owner == OWNER_DESTINATION;
                n = MOVE_EV_RELEASED;
        }
        if (n >= 0 && s->is_up)
                report(w, op->side, (enum move_event_kind)n, op->token)->attempt = op->attempt;
}

static void crash(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        if (!s->is_up)
                return;
        SAY("   crash of %d\n", side);
        s->is_up = false;
        s->is_known = false;
        /* What was told already may be done, or not, in order. */
        bool is_going = true;
        for (;;) {
                struct item *first = NULL;
                for (struct item *it = w->items; it < w->items + ITEMS; it++)
                        if (it->kind == ITEM_OP && it->side == side && (!first || it->order < first->order))
                                first = it;
                if (!first)
                        break;
                struct item op = *first;
                first->kind = ITEM_FREE;
                is_going = is_going && !is_chance(w, 3);
                if (is_going)
                        carry_out(w, &op);
        }
        for (struct item *it = w->items; it < w->items + ITEMS; it++)
                if (it->side == side && (it->kind == ITEM_REPORT || it->kind == ITEM_ASKER))
                        it->kind = ITEM_FREE;
        later(w, ITEM_START, side, w->is_random ? dice(w, is_chance(w, 10) ? 60000 : 300) : 5);
}

static void strike(struct world *w, enum fault f)
{
        w->done[f]++;
        SAY("   %s\n", fault_names[f]);
        if (f == FAULT_CRASH_SOURCE || f == FAULT_CRASH_DESTINATION)
                crash(w, f == FAULT_CRASH_SOURCE ? SOURCE : DESTINATION);
        else if (f == FAULT_KILL_SOURCE)
                kill_source(w);
        else if (f == FAULT_KILL_DESTINATION)
                kill_destination(w);
        else if (f == FAULT_CUT)
                w->cut_until_ms = w->now_ms + (w->is_random ? dice(w, is_chance(w, 5) ? 90000 : 2000) : 700);
        else if (f == FAULT_GUARD)
                guard_cuts(w);
        else if (w->sides[SOURCE].is_up)
                report(w, SOURCE, MOVE_EV_CANCEL, 0);
}

/* A point between two effects. false: the one whose effects they are died there. */
static bool pass(struct world *w, int side)
{
        w->boundary++;
        if (w->is_random) {
                if (!w->is_quiet && dice(w, 400) == 0)
                        strike(w, (enum fault)dice(w, FAULT_N));
        } else {
                for (int i = 0; i < 2; i++)
                        if (w->at[i] == w->boundary)
                                strike(w, w->faults[i]);
        }
        return w->sides[side].is_up;
}

static void send(struct world *w, int to, const struct move_message *p)
{
        if (!w->is_random || w->is_quiet || !is_chance(w, 12)) {
                later(w, ITEM_MESSAGE, to, delay(w, 40))->message = *p;
                if (w->is_random && !w->is_quiet && is_chance(w, 12)) /* again, much later */
                        later(w, ITEM_MESSAGE, to, delay(w, is_chance(w, 3) ? 30000 : 500))->message = *p;
        }
}

static void check_level(struct world *w, const struct move_row *r)
{
        CHECK(r->level.total_ms >= w->last_level.total_ms &&
              r->level.downtime_ms >= w->last_level.downtime_ms);
        CHECK(r->rounds <= MOVE_ROUNDS && r->tries <= MOVE_TRIES);
        w->last_level = r->level;
}

static void carry_out_turn(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        bool is_durable = false;
        struct move_effects turn = effects;
        enum move_state state = s->move.row.state;
        if (turn.n == 0 || !pass(w, side))
                return;
        for (size_t i = 0; i < turn.n; i++) {
                const struct move_effect *e = &turn.list[i];
                seen_effects[e->kind]++;
                CHECK(move_state_has(state, e->kind));
                CHECK(e->kind > MOVE_ADOPT || !is_durable);
                if (e->kind == MOVE_PERSIST) {
                        /* It gave the attempt up before it knew that its VMM is dead; or was told to. */
                        if (side == SOURCE && w->source == VMM_DEAD && !w->has_run_there &&
                            (state == MOVE_RESUMING || (state == MOVE_CLOSING && w->is_cancelling)))
                                w->is_excused = true;
                        s->disk = s->move.row;
                        s->has_row = true;
                        seen_states[state]++;
                } else if (e->kind == MOVE_EVENT) {
                        SAY("%8d %d: %s: %s\n", (int)w->now_ms, side, e->event, e->text);
                        if (move_is_final(&s->move)) {
                                s->ends++;
                                CHECK((state == MOVE_DONE || state == MOVE_SETTLED) || s->move.row.reason);
                        }
                } else if (e->kind == MOVE_ADOPT) {
                        s->is_adopted = true;
                } else {
                        is_durable = true;
                        if (!pass(w, side))
                                return;
                        if (e->kind == MOVE_SEND) {
                                SAY("%8d %d:    says %s %d\n", (int)w->now_ms, side,
                                    move_says_name(e->message.says), (int)e->message.attempt);
                                send(w, !side, &e->message);
                        } else if (e->kind == MOVE_ANSWER) {
                                if (state == MOVE_COUNTERED)
                                        later(w, ITEM_ASKER, SOURCE, delay(w, 3000));
                        } else {
                                struct item *op = later(w, ITEM_OP, side, delay(w, 20));
                                op->what = (int)e->kind;
                                op->token = e->token;
                                op->attempt = e->attempt;
                                op->outcome = e->outcome;
                        }
                }
        }
        if (side == SOURCE)
                check_level(w, &s->move.row);
        (void)pass(w, side);
}

static void step(struct world *w, int side, struct move_event *ev)
{
        struct side *s = &w->sides[side];
        ev->now_ms = w->now_ms;
        struct err err;
        struct move_row before = s->move.row;
        int r = move_step(&s->move, ev, &effects, &err);
        if (r < 0) { /* honest sides never say what is refused */
                CHECK(r == -EPROTO && effects.n == 0);
                SAY("%8d %d: %s\n", (int)w->now_ms, side, err.sentence);
                CHECK(ev->kind == MOVE_EV_ACCEPT ||
                      (ev->kind == MOVE_EV_MESSAGE && (w->sides[!side].is_forgotten || s->is_forgotten)));
        }
        if (r == 0)
                CHECK(effects.n == 0 && memcmp(&before, &s->move.row, sizeof(before)) == 0);
        carry_out_turn(w, side);
}

static void deliver(struct world *w, const struct item *it)
{
        struct side *s = &w->sides[it->side];
        struct move_event ev = {.kind = MOVE_EV_MESSAGE, .message = &it->message};
        struct move_message p;
        if (!s->is_up || w->now_ms < w->cut_until_ms)
                return;
        if (s->is_known) {
                step(w, it->side, &ev);
        } else if (it->side == DESTINATION && it->message.says == MOVE_SAYS_RESERVE) {
                struct err err;
                if (move_admit(&s->move, &it->message, s->is_adopted ? 9 : 7, w->now_ms, &effects, &err) <
                    0) {
                        CHECK(s->is_adopted);
                        return;
                }
                s->is_known = true;
                s->ends = 0;
                carry_out_turn(w, DESTINATION);
        } else if (move_answer_unknown(&it->message, &p)) {
                send(w, !it->side, &p);
        }
}

static void start(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        s->is_up = true;
        if (!s->has_row)
                return;
        s->is_known = true;
        if (s->disk.state == MOVE_RUNNING) {
                w->is_unsure = true;
                w->is_excused = w->is_excused || w->destination == VMM_DEAD;
        }
        bool has_vmm = w->source != VMM_DEAD;
        if (side == SOURCE && s->disk.state == MOVE_COPYING && !has_vmm)
                w->is_excused = true;
        move_restore(&s->move, &s->disk, has_vmm, w->now_ms, &effects);
        carry_out_turn(w, side);
}

static void forget(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        if (!s->is_known || !move_may_be_forgotten(&s->move) || !is_chance(w, 8))
                return;
        SAY("   %d forgets\n", side);
        CHECK(s->ends == 1);
        s->is_known = s->has_row = false;
        s->is_forgotten = true;
        if (side == DESTINATION && s->disk.state == MOVE_DROPPED)
                memset(&s->disk, 0, sizeof(s->disk));
}

static void report_to(struct world *w, const struct item *it)
{
        struct side *s = &w->sides[it->side];
        struct move_event ev = {
                .kind = (enum move_event_kind)it->what, .token = it->token, .attempt = it->attempt};
        if (!s->is_up || !s->is_known)
                return;
        if (ev.kind == MOVE_EV_PLANNED || ev.kind == MOVE_EV_COUNTER) {
                ev.vector = (struct vector){1000000, 100, 100, 1000};
                ev.reserve_ms = 5000;
                ev.copy_ms = w->is_random ? 200 + dice(w, 20000) : 10000;
                ev.hold_ms = 2000;
                /* Hostile to itself: looser in one, stricter in the other. */
                ev.level =
                        (struct level){w->last_level.total_ms + 1000, w->last_level.downtime_ms / 2, false};
        }
        w->is_cancelling = ev.kind == MOVE_EV_CANCEL;
        step(w, it->side, &ev);
        w->is_cancelling = false;
}

static void asker(struct world *w)
{
        struct side *s = &w->sides[SOURCE];
        struct move_event ev = {.kind = is_chance(w, 4) ? MOVE_EV_CANCEL : MOVE_EV_ACCEPT};
        if (!s->is_known || s->move.row.state != MOVE_COUNTERED)
                return;
        ev.level = s->move.row.level;
        w->offers++;
        step(w, SOURCE, &ev);
}

/* ---- the run ---- */

static struct item *first(struct world *w)
{
        struct item *best = NULL;
        for (struct item *it = w->items; it < w->items + ITEMS; it++) {
                if (!it->kind)
                        continue;
                if (!best || it->at_ms < best->at_ms || (it->at_ms == best->at_ms && it->order < best->order))
                        best = it;
        }
        if (best && best->kind == ITEM_OP) /* of one side, in their order */
                for (struct item *it = w->items; it < w->items + ITEMS; it++)
                        if (it->kind == ITEM_OP && it->side == best->side && it->order < best->order)
                                best = it;
        return best;
}

static bool is_over(const struct world *w)
{
        for (int i = 0; i < 2; i++) {
                const struct side *s = &w->sides[i];
                if (!s->is_up || (s->is_known && !move_is_final(&s->move)))
                        return false;
        }
        for (const struct item *it = w->items; it < w->items + ITEMS; it++)
                if (it->kind && it->kind != ITEM_FAULT)
                        return false;
        return true;
}

static void do_item(struct world *w, struct item *it)
{
        struct item now = *it;
        it->kind = ITEM_FREE;
        if (now.at_ms > w->now_ms)
                w->now_ms = now.at_ms;
        if (now.kind == ITEM_MESSAGE)
                deliver(w, &now);
        else if (now.kind == ITEM_OP)
                carry_out(w, &now);
        else if (now.kind == ITEM_REPORT)
                report_to(w, &now);
        else if (now.kind == ITEM_COPY)
                copy_step(w);
        else if (now.kind == ITEM_START)
                start(w, now.side);
        else if (now.kind == ITEM_ASKER)
                asker(w);
        else if (now.kind == ITEM_FAULT)
                strike(w, (enum fault)now.what);
}

static void check_end(const struct world *w)
{
        const struct side *s = &w->sides[SOURCE], *d = &w->sides[DESTINATION];
        int runners = (w->source == VMM_RUNS) + (w->destination == VMM_RUNS);
        CHECK(runners == 1 || (runners == 0 && w->is_excused));
        CHECK(!s->is_reserved && !d->is_reserved);
        CHECK(w->guard_attempt == 0);
        if (!s->is_known && !s->is_forgotten) /* it died before it was recorded that there is a move */
                return;
        CHECK(s->ends == 1 && (!d->is_known || d->ends == 1));
        enum move_state end = s->move.row.state;
        CHECK((end == MOVE_DONE) == w->has_run_there || w->is_excused);
        CHECK(end != MOVE_LOST || w->source == VMM_DEAD);
        if (w->destination == VMM_RUNS)
                CHECK(d->is_adopted && w->source == VMM_DEAD);
        else
                CHECK(w->destination == VMM_NONE || w->destination == VMM_DEAD);
}

static void run(struct world *w)
{
        const struct level level = {8000, 100, false};
        w->rand = w->seed * 0x9e3779b97f4a7c15 + 88172645463325252;
        w->source = VMM_RUNS;
        w->last_level = level;
        for (int i = 0; i < 2; i++)
                w->sides[i].is_up = true;
        move_begin(&w->sides[SOURCE].move, "m1", &level, 7, 0, &effects);
        w->sides[SOURCE].is_known = true;
        int64_t quiet_ms = 1 + (w->is_random ? dice(w, 6000) : 60000);
        if (w->is_random)
                for (uint32_t n = dice(w, 4); n > 0; n--)
                        later(w, ITEM_FAULT, 0, dice(w, 1200))->what = (int)dice(w, FAULT_N);
        carry_out_turn(w, SOURCE);
        for (int n = 0; !is_over(w); n++) {
                CHECK(n < 20000);
                if (w->now_ms >= quiet_ms)
                        w->is_quiet = true;
                struct item *it = first(w);
                int64_t at_ms = it ? it->at_ms : INT64_MAX;
                int who = -1;
                for (int i = 0; i < 2; i++) {
                        struct side *s = &w->sides[i];
                        if (!s->is_up || !s->is_known || move_deadline(&s->move) >= at_ms)
                                continue;
                        at_ms = move_deadline(&s->move);
                        who = i;
                }
                CHECK(at_ms != INT64_MAX);
                if (who < 0) {
                        do_item(w, it);
                } else {
                        struct move_event ev = {.kind = MOVE_EV_TICK};
                        if (at_ms > w->now_ms)
                                w->now_ms = at_ms;
                        step(w, who, &ev);
                }
                check_runners(w);
                forget(w, SOURCE);
                forget(w, DESTINATION);
        }
        check_end(w);
        n_boundaries = w->boundary;
}

static void run_seed(uint64_t seed)
{
        memset(&world, 0, sizeof(world));
        world.seed = seed;
        world.is_random = true;
        run(&world);
}

static void run_faults(enum fault a, int at_a, enum fault b, int at_b)
{
        memset(&world, 0, sizeof(world));
        world.faults[0] = a;
        world.at[0] = at_a;
        world.faults[1] = b;
        world.at[1] = at_b;
        run(&world);
}

/* ---- tests ---- */

static void test_plain(void)
{
        run_faults(0, 0, 0, 0);
        g_assert_cmpint(world.sides[SOURCE].move.row.state, ==, MOVE_DONE);
        g_assert_cmpint(world.sides[DESTINATION].move.row.state, ==, MOVE_SETTLED);
        g_assert_cmpint(world.sides[SOURCE].move.row.attempt, ==, 1);
        g_assert_cmpint(world.sides[DESTINATION].move.row.epoch, ==, 8);
        g_assert_cmpint(world.sides[SOURCE].move.row.epoch, ==, 8);
        g_assert_cmpint(world.sides[SOURCE].move.row.owner, ==, OWNER_DESTINATION);
}

/* One fault, and any two, each at each point between two effects. */
static void test_enumerated(void)
{
        run_faults(0, 0, 0, 0);
        int n = n_boundaries, ends[MOVE_STATE_N] = {0};
        bool is_all = g_getenv("METE_RUNS") != NULL; /* else every third pair */
        g_assert_cmpint(n, >, 40);
        for (int f = 0; f < FAULT_N; f++)
                for (int at = 1; at <= n; at++) {
                        run_faults((enum fault)f, at, 0, 0);
                        g_assert_cmpint(world.done[f], >=, 1);
                        ends[world.sides[SOURCE].move.row.state]++;
                        for (int g = 0; g < FAULT_N; g++)
                                for (int then = at + 1 + (is_all ? 0 : (at + f + g) % 3); then <= n + 20;
                                     then += is_all ? 1 : 3)
                                        run_faults((enum fault)f, at, (enum fault)g, then);
                }
        g_test_message("%d points; done %d, aborted %d, lost %d", n, ends[MOVE_DONE], ends[MOVE_ABORTED],
                       ends[MOVE_LOST]);
        g_assert_cmpint(ends[MOVE_DONE], >, 0);
        g_assert_cmpint(ends[MOVE_ABORTED], >, 0);
        g_assert_cmpint(ends[MOVE_LOST], >, 0);
}

static void test_random(void)
{
        const char *seed = g_getenv("METE_SEED"), *runs = g_getenv("METE_RUNS");
        uint64_t n = runs ? strtoull(runs, NULL, 10) : 100000;
        if (seed) {
                is_verbose = true;
                run_seed(strtoull(seed, NULL, 10));
                is_verbose = false;
                return;
        }
        for (uint64_t i = 1; i <= n; i++)
                run_seed(i);
        for (int s = 1; s < MOVE_STATE_N; s++) {
                g_test_message("%s: %d", move_state_name((enum move_state)s), seen_states[s]);
                g_assert_cmpint(seen_states[s], >, 0);
        }
        for (int e = 1; e < MOVE_EFFECT_N; e++)
                g_assert_cmpint(seen_effects[e], >, 0);
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/move/plain", test_plain);
        g_test_add_func("/move/enumerated", test_enumerated);
        g_test_add_func("/move/random", test_random);
        return g_test_run();
}

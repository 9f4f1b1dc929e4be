/* SPDX-License-Identifier: Apache-2.0 */
/* The three sides of a handover in a world of three journals that know what was made durable and nothing
 * else, a record whose words are written once and sometimes seen late, two VMMs on one memory, messages that
 * get lost, come twice and late, a guard that may write `aborted` first, daemons that die between any two
 * effects and VMMs that die at any time. After each thing that happens at most one VMM runs, never one whose
 * devices are not what belongs to the memory, and the books of both hypervisors name the same owner; when all
 * faults are over, the guest runs exactly once unless the runner itself was killed, and nothing is held.
 *
 * METE_SEED=N repeats one run of the random world, step by step; METE_RUNS=N makes more of them, and all
 * pairs of faults. */
#include "core/handover.h"

#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include "core/handover-internal.h"

enum { PROCESSOR, SOURCE, TARGET, SIDES, ITEMS = 160, GAP_MS = 50 };

enum vmm { VMM_NONE, VMM_WAITS, VMM_STANDS, VMM_RUNS, VMM_DEAD };
/* How far the source's VMM is with giving. From STOPPED on it stands. */
enum give { GIVE_NONE, GIVE_SETUP, GIVE_STOPPED, GIVE_THERE, GIVE_COMPLETE };

enum item_kind {
        ITEM_FREE,
        ITEM_MESSAGE,
        ITEM_OP,
        ITEM_REPORT,
        ITEM_GIVE,
        ITEM_GUARD,
        ITEM_START,
        ITEM_FAULT
};
enum fault {
        FAULT_CRASH_PROCESSOR,
        FAULT_CRASH_SOURCE,
        FAULT_CRASH_TARGET,
        FAULT_KILL_SOURCE,
        FAULT_KILL_TARGET,
        FAULT_GUARD,
        FAULT_NO_GUARD,
        FAULT_CUT,
        FAULT_CANCEL,
        FAULT_N
};
static const char *const fault_names[FAULT_N] = {"crash of the service processor",
                                                 "crash of the source",
                                                 "crash of the target",
                                                 "death of the source's VMM",
                                                 "death of the target's VMM",
                                                 "guard",
                                                 "death of the guard",
                                                 "cut",
                                                 "cancel"};

struct item {
        enum item_kind kind;
        int side;
        int64_t at_ms;
        uint64_t order;
        int what; /* OP: effect; REPORT: event; FAULT: which */
        uint64_t token;
        enum handover_record record;
        struct handover_message message;
};

struct side {
        bool is_up, is_known, has_row, is_held, is_watching, is_forgotten;
        struct handover handover;
        struct handover_row disk;
        int ends; /* lines in the log that say how it ended */
};

struct world {
        uint64_t seed, rand;
        bool is_random, is_quiet; /* quiet: no faults any more */
        int64_t now_ms, cut_until_ms, said_ms;
        uint64_t order;
        struct side sides[SIDES];
        struct item items[ITEMS];
        enum vmm source, target;
        uint64_t memory, source_devices, target_devices; /* what belongs together is equal */
        enum give give;
        uint64_t give_token, guard;
        enum handover_record record;
        bool stands; /* a word of the record, too */
        bool is_assigned, is_adopted, is_forgotten;
        bool has_run_there;
        bool is_told;    /* the target's VMM was told to run, by the daemon that is there now */
        bool is_excused; /* the runner was killed, or two died that had it between them */
        bool is_unsure;  /* a daemon that is no more may have told the target's VMM to run */
        bool could_live; /* the source's VMM was killed when all of it was at the target already */
        bool had_run;    /* the target's VMM was killed, and ran */
        int boundary, at[2];
        enum fault faults[2];
        int done[FAULT_N];
};

static struct world world;
static struct handover_effects effects;
static bool is_verbose;
/* What was come across, so that a world in which nothing happens is noticed. */
static int seen_states[HANDOVER_STATE_N], seen_effects[HANDOVER_EFFECT_N], n_boundaries;

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
        g_error("line %d: %s; seed %" G_GUINT64_FORMAT
                ", faults: %s at %d, %s at %d; %s, %s, %s; VMMs %d %d; record %d",
                line, what, w->seed, fault_names[w->faults[0]], w->at[0], fault_names[w->faults[1]], w->at[1],
                handover_state_name(w->sides[PROCESSOR].handover.row.state),
                handover_state_name(w->sides[SOURCE].handover.row.state),
                handover_state_name(w->sides[TARGET].handover.row.state), w->source, w->target, w->record);
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
        it->record = RECORD_NONE;
        return it;
}

static struct item *report(struct world *w, int side, enum handover_event_kind what, uint64_t token)
{
        struct item *it = later(w, ITEM_REPORT, side, delay(w, 10));
        it->what = (int)what;
        it->token = token;
        return it;
}

/* In the order in which it says it. */
static void source_says(struct world *w, enum handover_event_kind what, uint64_t token)
{
        if (!w->sides[SOURCE].is_up)
                return;
        struct item *it = report(w, SOURCE, what, token);
        it->at_ms = MAX(it->at_ms, w->said_ms);
        w->said_ms = it->at_ms;
}

static void report_target(struct world *w)
{
        if (w->sides[TARGET].is_up && (w->target == VMM_STANDS || w->target == VMM_DEAD))
                report(w, TARGET, w->target == VMM_STANDS ? HANDOVER_EV_COMPLETED : HANDOVER_EV_DIED, 0);
}

/* ---- the record ---- */

static enum handover_event_kind record_event(const struct world *w)
{
        return w->record == RECORD_COMMITTED ? HANDOVER_EV_COMMITTED
               : w->record == RECORD_ABORTED ? HANDOVER_EV_ABORTED
                                             : HANDOVER_EV_RETURNED;
}

/* A notice of it may be lost: then it is found when it is looked at once more. */
static void seen(struct world *w, int side, enum handover_event_kind what)
{
        report(w, side, what, 0)->at_ms += is_chance(w, 6) ? delay(w, 300) : 0;
}

static void record_write(struct world *w, enum handover_record what)
{
        bool may = what == RECORD_RETURNED ? w->record == RECORD_COMMITTED : w->record == RECORD_NONE;
        CHECK(!w->is_forgotten);
        if (!may)
                return;
        w->record = what;
        if (what == RECORD_ABORTED && w->source == VMM_DEAD)
                w->is_excused = true; /* given up by somebody else at that time; see test_enumerated() */
        for (int i = 0; i < SIDES; i++)
                if (w->sides[i].is_up && w->sides[i].is_watching)
                        seen(w, i, record_event(w));
}

static void record_stand(struct world *w)
{
        CHECK(!w->is_forgotten);
        if (w->stands)
                return;
        CHECK(w->source != VMM_RUNS || w->record == RECORD_ABORTED || w->record == RECORD_RETURNED);
        w->stands = true;
        if (w->sides[TARGET].is_up && w->sides[TARGET].is_watching)
                seen(w, TARGET, HANDOVER_EV_STANDS);
}

/* ---- the VMMs, and what must be true of them ---- */

static void check_now(const struct world *w)
{
        const struct side *p = &w->sides[PROCESSOR], *s = &w->sides[SOURCE], *t = &w->sides[TARGET];
        CHECK(w->source != VMM_RUNS || w->target != VMM_RUNS);
        CHECK(w->source != VMM_RUNS || (!w->has_run_there && w->source_devices == w->memory));
        CHECK(w->target != VMM_RUNS || (w->has_run_there && w->target_devices == w->memory));
        if (s->is_forgotten || t->is_forgotten || !s->has_row)
                return;
        bool by_source = handover_is_targets(&s->disk, w->record);
        CHECK(by_source == (t->has_row && handover_is_targets(&t->disk, w->record)));
        if (p->has_row && p->disk.state != HANDOVER_LOST && !p->is_forgotten)
                CHECK(by_source == handover_is_targets(&p->disk, w->record));
}

static void run_here(struct world *w)
{
        if (w->source == VMM_RUNS)
                return;
        w->source = VMM_RUNS;
        CHECK(w->record != RECORD_COMMITTED);
        check_now(w);
        w->source_devices = ++w->memory;
}

/* The stream is cut. The source runs again by itself; the target's VMM ends unless it has all of it. */
static void give_break(struct world *w)
{
        if (w->give == GIVE_NONE || w->give == GIVE_COMPLETE)
                return;
        if (w->give < GIVE_THERE && w->target == VMM_WAITS) {
                w->target = VMM_DEAD;
                report_target(w);
        }
        w->give = GIVE_NONE;
        if (w->source == VMM_STANDS)
                run_here(w);
        if (w->source != VMM_DEAD)
                source_says(w, is_chance(w, 4) ? HANDOVER_EV_FAILED : HANDOVER_EV_BROKEN, w->give_token);
}

static void give_step(struct world *w)
{
        if (w->give == GIVE_NONE || w->give == GIVE_COMPLETE)
                return;
        bool is_there = w->target == (w->give == GIVE_THERE ? VMM_STANDS : VMM_WAITS);
        if (w->source == VMM_DEAD || !is_there || is_chance(w, 30)) {
                give_break(w);
                return;
        }
        w->give++;
        if (w->give == GIVE_STOPPED) {
                w->source = VMM_STANDS;
                later(w, ITEM_GUARD, SOURCE, GAP_MS);
        } else if (w->give == GIVE_THERE) {
                w->target = VMM_STANDS;
                w->target_devices = w->source_devices;
                report_target(w);
        } else {
                source_says(w, HANDOVER_EV_HANDED, w->give_token);
        }
        if (w->give != GIVE_COMPLETE)
                later(w, ITEM_GIVE, SOURCE, delay(w, 10));
        if (w->give >= GIVE_STOPPED && is_chance(w, 3)) /* when it matters most */
                later(w, ITEM_FAULT, 0, delay(w, 20))->what = (int)dice(w, FAULT_N);
}

/* The guest stands for longer than the bound. */
static void guard_cuts(struct world *w)
{
        if (w->guard == 0 || w->source != VMM_STANDS || w->record != RECORD_NONE)
                return;
        SAY("   the guard: aborted\n");
        record_write(w, RECORD_ABORTED);
        give_break(w);
        w->give = GIVE_NONE;
        run_here(w);
}

static void kill_source(struct world *w)
{
        if (w->source == VMM_DEAD)
                return;
        bool is_there = w->source == VMM_STANDS && w->target == VMM_STANDS && w->target_devices == w->memory;
        w->could_live = is_there && w->record == RECORD_NONE;
        if (!w->has_run_there && (!is_there || w->record == RECORD_ABORTED || w->record == RECORD_RETURNED))
                w->is_excused = true;
        w->source = VMM_DEAD;
        w->guard = 0;
        give_break(w);
        source_says(w, HANDOVER_EV_DIED, 0);
}

static void kill_target(struct world *w)
{
        if (w->target == VMM_NONE || w->target == VMM_DEAD)
                return;
        bool is_unsure = w->record == RECORD_COMMITTED && (w->is_unsure || !w->sides[TARGET].is_up);
        w->had_run = w->target == VMM_RUNS;
        if (w->had_run || is_unsure || w->source == VMM_DEAD)
                w->is_excused = true;
        w->target = VMM_DEAD;
        give_break(w);
        report_target(w);
}

/* ---- what drivers do ---- */

static int target_cont(struct world *w)
{
        CHECK(w->record == RECORD_COMMITTED && w->target != VMM_WAITS && w->target != VMM_NONE);
        if (w->target == VMM_DEAD)
                return w->is_told ? HANDOVER_EV_DIED : HANDOVER_EV_FAILED;
        if (w->target == VMM_STANDS) {
                w->target = VMM_RUNS;
                w->has_run_there = w->is_told = true;
                check_now(w);
                w->target_devices = ++w->memory;
        }
        return HANDOVER_EV_RUNS;
}

static int source_cont(struct world *w)
{
        if (w->source == VMM_DEAD)
                return HANDOVER_EV_DIED;
        CHECK(w->record != RECORD_COMMITTED);
        if (w->give == GIVE_COMPLETE)
                w->give = GIVE_NONE;
        give_break(w);
        run_here(w);
        return HANDOVER_EV_RUNS;
}

static void source_give(struct world *w, uint64_t token)
{
        CHECK(w->sides[SOURCE].is_held && w->record != RECORD_COMMITTED);
        w->give_token = token;
        if (w->source == VMM_DEAD)
                return;
        if (w->target == VMM_WAITS && w->source == VMM_RUNS) {
                w->give = GIVE_SETUP;
                later(w, ITEM_GIVE, SOURCE, delay(w, 10));
        } else {
                source_says(w, HANDOVER_EV_BROKEN, token);
        }
}

static int write_record(struct world *w, enum handover_record what)
{
        bool is_lost = is_chance(w, 6);
        if (what == RECORD_COMMITTED && w->record == RECORD_NONE)
                CHECK(w->source != VMM_RUNS && w->target_devices == w->memory);
        if (what == RECORD_RETURNED)
                CHECK(!w->has_run_there);
        if (!(is_lost && is_chance(w, 2)))
                record_write(w, what);
        return is_lost ? HANDOVER_EV_UNKNOWN : (int)record_event(w);
}

static void carry_out(struct world *w, const struct item *op)
{
        static const int16_t answers[HANDOVER_EFFECT_N] = {
                [HANDOVER_CLASSIFY] = HANDOVER_EV_CLASSIFIED,  [HANDOVER_SEPARATE] = HANDOVER_EV_SEPARATED,
                [HANDOVER_QUIESCE] = HANDOVER_EV_QUIESCED,     [HANDOVER_CHECK] = HANDOVER_EV_CHECKED,
                [HANDOVER_VMM_PREPARE] = HANDOVER_EV_PREPARED, [HANDOVER_RELEASE] = HANDOVER_EV_RELEASED};
        static const bool may_fail[HANDOVER_EFFECT_N] = {[HANDOVER_CLASSIFY] = true,
                                                         [HANDOVER_SEPARATE] = true,
                                                         [HANDOVER_QUIESCE] = true,
                                                         [HANDOVER_CHECK] = true,
                                                         [HANDOVER_VMM_PREPARE] = true};
        struct side *s = &w->sides[op->side];
        bool is_failing = may_fail[op->what] && is_chance(w, 40);
        int n = is_failing ? HANDOVER_EV_FAILED : op->what == HANDOVER_CLASSIFY ? 0 : answers[op->what];
        if (n == 0 && op->what != HANDOVER_CLASSIFY)
                n = -1;
        if (op->what == HANDOVER_QUIESCE || op->what == HANDOVER_CHECK) {
                s->is_held = true;
        } else if (op->what == HANDOVER_GUARD_START && w->source != VMM_DEAD) {
                w->guard = 1;
        } else if (op->what == HANDOVER_GUARD_END) {
                w->guard = 0;
        } else if (op->what == HANDOVER_VMM_GIVE) {
                source_give(w, op->token);
        } else if (op->what == HANDOVER_VMM_PREPARE) {
                CHECK(s->is_held && w->target != VMM_RUNS);
                w->target = is_failing ? VMM_NONE : VMM_WAITS;
        } else if (op->what == HANDOVER_VMM_WATCH) {
                report_target(w);
        } else if (op->what == HANDOVER_VMM_CONT) {
                n = op->side == SOURCE ? source_cont(w) : target_cont(w);
        } else if (op->what == HANDOVER_VMM_QUIT && op->side == SOURCE) {
                CHECK(w->has_run_there || w->is_excused);
                w->source = VMM_DEAD;
        } else if (op->what == HANDOVER_VMM_QUIT) {
                CHECK(w->target != VMM_RUNS);
                w->target = VMM_NONE;
                give_break(w);
        } else if (op->what == HANDOVER_STAND) {
                record_stand(w);
        } else if (op->what == HANDOVER_WRITE) {
                n = write_record(w, op->record);
        } else if (op->what == HANDOVER_WATCH) {
                s->is_watching = s->is_up;
                if (w->record && s->is_up)
                        report(w, op->side, record_event(w), 0);
                if (w->stands && s->is_up && op->side == TARGET)
                        report(w, TARGET, HANDOVER_EV_STANDS, 0);
        } else if (op->what == HANDOVER_FORGET) {
                for (int i = SOURCE; i <= TARGET; i++) /* nobody is left whose state it would decide */
                        CHECK(!w->sides[i].has_row ||
                              handover_states[w->sides[i].disk.state].whose != OWNED_BY_RECORD);
                w->record = RECORD_NONE;
                w->stands = false;
        } else if (op->what == HANDOVER_RELEASE) {
                s->is_held = false;
        }
        if (n >= 0 && s->is_up)
                report(w, op->side, (enum handover_event_kind)n, op->token);
}

static void crash(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        if (!s->is_up)
                return;
        SAY("   crash of %d\n", side);
        s->is_up = s->is_known = s->is_watching = false;
        w->is_told = w->is_told && side != TARGET;
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
                if (it->side == side && it->kind == ITEM_REPORT)
                        it->kind = ITEM_FREE;
        later(w, ITEM_START, side, w->is_random ? dice(w, is_chance(w, 10) ? 60000 : 300) : 5);
}

static void strike(struct world *w, enum fault f)
{
        w->done[f]++;
        SAY("   %s\n", fault_names[f]);
        if (f <= FAULT_CRASH_TARGET)
                crash(w, (int)f);
        else if (f == FAULT_KILL_SOURCE)
                kill_source(w);
        else if (f == FAULT_KILL_TARGET)
                kill_target(w);
        else if (f == FAULT_CUT)
                w->cut_until_ms = w->now_ms + (w->is_random ? dice(w, is_chance(w, 5) ? 90000 : 500) : 700);
        else if (f == FAULT_GUARD)
                guard_cuts(w);
        else if (f == FAULT_NO_GUARD)
                w->guard = 0;
        else if (w->sides[PROCESSOR].is_up)
                report(w, PROCESSOR, HANDOVER_EV_CANCEL, 0);
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

static void send(struct world *w, const struct handover_message *p)
{
        int to = (int)p->to - 1;
        if (!w->is_random || w->is_quiet || !is_chance(w, 12)) {
                later(w, ITEM_MESSAGE, to, delay(w, 10))->message = *p;
                if (w->is_random && !w->is_quiet && is_chance(w, 12)) /* again, much later */
                        later(w, ITEM_MESSAGE, to, delay(w, is_chance(w, 3) ? 30000 : 300))->message = *p;
        }
}

static void make_durable(struct world *w, int side, const struct handover_effect *e)
{
        struct side *s = &w->sides[side];
        if (e->kind == HANDOVER_PERSIST) {
                s->disk = s->handover.row;
                s->has_row = true;
                seen_states[s->disk.state]++;
                check_now(w);
        } else if (e->kind == HANDOVER_EVENT) {
                SAY("%8d %d: %s: %s\n", (int)w->now_ms, side, e->event, e->text);
                CHECK(e->text[0]);
                s->ends += handover_is_final(&s->handover);
        } else if (e->kind == HANDOVER_ASSIGN) {
                w->is_assigned = true;
        } else {
                w->is_adopted = true;
        }
}

static void carry_out_turn(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        bool is_durable = false;
        struct handover_effects turn = effects;
        enum handover_state state = s->handover.row.state;
        if (turn.n == 0 || !pass(w, side))
                return;
        for (size_t i = 0; i < turn.n; i++) {
                const struct handover_effect *e = &turn.list[i];
                seen_effects[e->kind]++;
                CHECK(handover_state_has(state, e->kind));
                CHECK(e->kind > HANDOVER_ADOPT || !is_durable);
                /* Nothing is made durable while the guest stands, and nothing is sent. */
                CHECK((e->kind != HANDOVER_PERSIST && e->kind != HANDOVER_SEND) ||
                      !handover_state_is_swift(state));
                if (e->kind <= HANDOVER_ADOPT) {
                        make_durable(w, side, e);
                        continue;
                }
                is_durable = true;
                if (!pass(w, side))
                        return;
                if (e->kind == HANDOVER_SEND) {
                        send(w, &e->message);
                } else if (e->kind != HANDOVER_ANSWER) {
                        struct item *it = later(w, ITEM_OP, side, delay(w, 5));
                        it->what = (int)e->kind;
                        it->token = e->token;
                        it->record = e->record;
                }
        }
        (void)pass(w, side);
}

static bool is_same_row(const struct handover_row *a, const struct handover_row *b)
{
        return a->state == b->state && a->end == b->end && a->epoch == b->epoch && a->step == b->step &&
               a->gap_ms == b->gap_ms && a->separate_ms == b->separate_ms &&
               a->deadline_ms == b->deadline_ms && a->is_told == b->is_told && a->is_unsure == b->is_unsure &&
               a->reason == b->reason && strcmp(a->sentence, b->sentence) == 0;
}

static void step(struct world *w, int side, struct handover_event *ev)
{
        struct side *s = &w->sides[side];
        struct err err;
        struct handover_row before = s->handover.row;
        ev->now_ms = w->now_ms;
        int r = handover_step(&s->handover, ev, &effects, &err);
        if (r < 0) { /* honest sides never say what is refused */
                CHECK(r == -EPROTO && effects.n == 0);
                SAY("%8d %d: %s\n", (int)w->now_ms, side, err.sentence);
                CHECK(ev->kind == HANDOVER_EV_MESSAGE &&
                      (w->sides[SOURCE].is_forgotten || w->sides[TARGET].is_forgotten ||
                       w->sides[PROCESSOR].is_forgotten));
        }
        if (r == 0)
                CHECK(effects.n == 0 && is_same_row(&before, &s->handover.row));
        if (handover_state_is_swift(s->handover.row.state) && s->handover.row.state != before.state)
                seen_states[s->handover.row.state]++;
        carry_out_turn(w, side);
}

static void deliver(struct world *w, const struct item *it)
{
        struct side *s = &w->sides[it->side];
        struct handover_event ev = {.kind = HANDOVER_EV_MESSAGE, .message = &it->message};
        struct handover_message p;
        if (!s->is_up || w->now_ms < w->cut_until_ms)
                return;
        if (s->is_known) {
                step(w, it->side, &ev);
        } else if (handover_admit(&s->handover, &it->message, s->is_forgotten ? 8 : 7, w->now_ms, &effects,
                                  NULL) == 1) {
                s->is_known = true;
                s->ends = 0;
                carry_out_turn(w, it->side);
        } else if (handover_answer_unknown(&it->message, &p)) {
                s->is_forgotten = s->is_forgotten || it->side != PROCESSOR;
                send(w, &p);
        }
}

static void start(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        s->is_up = true;
        if (!s->has_row)
                return;
        s->is_known = true;
        bool is_open = s->disk.state == TARGET_INFORMED || s->disk.state == TARGET_CLOSING;
        if (is_open && w->record == RECORD_COMMITTED) {
                w->is_unsure = true;
                w->is_excused = w->is_excused || w->target == VMM_DEAD;
        }
        enum handover_vmm vmm = w->source != VMM_DEAD ? HANDOVER_VMM_LIVES
                                : w->target_devices == w->memory && (!w->is_random || is_chance(w, 2))
                                        ? HANDOVER_VMM_STOOD
                                        : HANDOVER_VMM_GONE;
        handover_restore(&s->handover, &s->disk, vmm, w->record, w->now_ms, &effects);
        carry_out_turn(w, side);
}

static void forget(struct world *w, int side)
{
        struct side *s = &w->sides[side];
        if (!s->is_known || !handover_may_be_forgotten(&s->handover) || !is_chance(w, 8))
                return;
        SAY("   %d forgets\n", side);
        CHECK(s->ends == 1);
        s->is_known = s->has_row = false;
        s->is_forgotten = true;
}

static void report_to(struct world *w, const struct item *it)
{
        struct side *s = &w->sides[it->side];
        struct handover_event ev = {.kind = (enum handover_event_kind)it->what, .token = it->token};
        if (!s->is_up || !s->is_known)
                return;
        if (ev.kind >= HANDOVER_EV_COMMITTED && ev.kind <= HANDOVER_EV_RETURNED) {
                if (w->record == RECORD_NONE)
                        return;
                ev.kind = record_event(w); /* what it says by now */
        }
        step(w, it->side, &ev);
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
        for (int i = 0; i < SIDES; i++) {
                const struct side *s = &w->sides[i];
                if (!s->is_up || (s->is_known && !handover_may_be_forgotten(&s->handover)))
                        return false;
        }
        for (const struct item *it = w->items; it < w->items + ITEMS; it++)
                if (it->kind && it->kind != ITEM_FAULT && it->kind != ITEM_GUARD)
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
        else if (now.kind == ITEM_GIVE)
                give_step(w);
        else if (now.kind == ITEM_GUARD)
                guard_cuts(w);
        else if (now.kind == ITEM_START)
                start(w, now.side);
        else if (now.kind == ITEM_FAULT)
                strike(w, (enum fault)now.what);
}

static void check_end(const struct world *w)
{
        const struct side *p = &w->sides[PROCESSOR], *s = &w->sides[SOURCE], *t = &w->sides[TARGET];
        int runners = (w->source == VMM_RUNS) + (w->target == VMM_RUNS);
        CHECK(runners == 1 || (runners == 0 && w->is_excused));
        CHECK(!s->is_held && w->guard == 0);
        CHECK(t->is_held == (w->has_run_there && w->is_adopted));
        if (!p->is_known && !p->is_forgotten) /* it died before it was recorded that there is one */
                return;
        enum handover_state end = p->handover.row.state;
        CHECK(p->ends == 1 && (!s->is_known || s->ends == 1) && (!t->is_known || t->ends == 1));
        if (end == HANDOVER_RUNNING) {
                CHECK(w->has_run_there && w->is_adopted && w->is_assigned && w->source == VMM_DEAD);
                CHECK(s->handover.row.state == SOURCE_GONE && t->handover.row.state == TARGET_SETTLED);
        } else {
                CHECK(w->target == VMM_NONE || w->target == VMM_DEAD);
                CHECK(end != HANDOVER_LOST || runners == 0);
        }
}

static void run(struct world *w)
{
        w->rand = w->seed * 0x9e3779b97f4a7c15 + 88172645463325252;
        w->source = VMM_RUNS;
        w->memory = w->source_devices = 1;
        for (int i = 0; i < SIDES; i++)
                w->sides[i].is_up = true;
        handover_begin(&w->sides[PROCESSOR].handover, "h1", 7, GAP_MS, 0, 0, &effects);
        w->sides[PROCESSOR].is_known = true;
        int64_t quiet_ms = 1 + (w->is_random ? dice(w, 3000) : 60000);
        if (w->is_random)
                for (uint32_t n = dice(w, 4); n > 0; n--)
                        later(w, ITEM_FAULT, 0, dice(w, 300))->what = (int)dice(w, FAULT_N);
        carry_out_turn(w, PROCESSOR);
        for (int n = 0; !is_over(w); n++) {
                CHECK(n < 20000);
                if (w->now_ms >= quiet_ms)
                        w->is_quiet = true;
                struct item *it = first(w);
                int64_t at_ms = it ? it->at_ms : INT64_MAX;
                int who = -1;
                for (int i = 0; i < SIDES; i++) {
                        struct side *s = &w->sides[i];
                        if (!s->is_up || !s->is_known || handover_deadline(&s->handover) >= at_ms)
                                continue;
                        at_ms = handover_deadline(&s->handover);
                        who = i;
                }
                CHECK(at_ms != INT64_MAX);
                if (who < 0) {
                        do_item(w, it);
                } else {
                        struct handover_event ev = {.kind = HANDOVER_EV_TICK};
                        if (at_ms > w->now_ms)
                                w->now_ms = at_ms;
                        step(w, who, &ev);
                }
                check_now(w);
                for (int i = 0; i < SIDES; i++)
                        forget(w, i);
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

static enum handover_state run_faults(enum fault a, int at_a, enum fault b, int at_b)
{
        memset(&world, 0, sizeof(world));
        world.faults[0] = a;
        world.at[0] = at_a;
        world.faults[1] = b;
        world.at[1] = at_b;
        run(&world);
        return world.sides[PROCESSOR].handover.row.state;
}

/* ---- tests ---- */

static void test_plain(void)
{
        g_assert_cmpint(run_faults(0, 0, 0, 0), ==, HANDOVER_RUNNING);
        g_assert_cmpint(world.target, ==, VMM_RUNS);
        g_test_message("%d points between two effects", n_boundaries);
}

/* One fault, and any two, each at each point between two effects. */
static void test_enumerated(void)
{
        (void)run_faults(0, 0, 0, 0);
        int n = n_boundaries, ends[HANDOVER_PROCESSOR_N] = {0};
        int every = g_getenv("METE_RUNS") ? 1 : 9; /* of the pairs */
        g_assert_cmpint(n, >, 60);
        for (int f = 0; f < FAULT_N; f++)
                for (int at = 1; at <= n; at++) {
                        enum handover_state end = run_faults((enum fault)f, at, 0, 0);
                        g_assert_cmpint(world.done[f], >=, 1);
                        ends[end]++;
                        /* A single death costs the VM only where it was the runner's. */
                        if (f == FAULT_KILL_SOURCE)
                                CHECK(!world.could_live || end == HANDOVER_RUNNING);
                        else if (f == FAULT_KILL_TARGET)
                                CHECK(world.had_run || !world.is_excused);
                        else
                                CHECK(end != HANDOVER_LOST);
                        for (int g = 0; g < FAULT_N; g++)
                                for (int then = at + 1 + (at + f + g) % every; then <= n + 20; then += every)
                                        (void)run_faults((enum fault)f, at, (enum fault)g, then);
                }
        g_test_message("%d points; running on the target %d, rolled back %d, lost %d", n,
                       ends[HANDOVER_RUNNING], ends[HANDOVER_ROLLED_BACK], ends[HANDOVER_LOST]);
        g_assert_cmpint(ends[HANDOVER_RUNNING], >, 0);
        g_assert_cmpint(ends[HANDOVER_ROLLED_BACK], >, 0);
        g_assert_cmpint(ends[HANDOVER_LOST], >, 0);
}

static void test_random(void)
{
        const char *seed = g_getenv("METE_SEED"), *runs = g_getenv("METE_RUNS");
        uint64_t n = runs ? strtoull(runs, NULL, 10) : 30000;
        if (seed) {
                is_verbose = true;
                run_seed(strtoull(seed, NULL, 10));
                is_verbose = false;
                return;
        }
        for (uint64_t i = 1; i <= n; i++)
                run_seed(i);
        for (int s = 1; s < HANDOVER_STATE_N; s++) {
                g_test_message("%s: %d", handover_state_name((enum handover_state)s), seen_states[s]);
                g_assert_cmpint(seen_states[s], >, 0);
        }
        for (int e = 1; e < HANDOVER_EFFECT_N; e++)
                g_assert_cmpint(seen_effects[e], >, 0);
}

enum { CELLS = HANDOVER_REPORT_N + HANDOVER_SAYS_N - 1 };

/* The i-th of a state: those of reports, then those of messages. */
static int cell(enum handover_state s, int i)
{
        return i < HANDOVER_REPORT_N
                       ? handover_report_cell(s, (enum handover_event_kind)i)
                       : handover_message_cell(s, (enum handover_says)(i - HANDOVER_REPORT_N + 1));
}

/* Each cell is decided, and says a state of its own role. */
static void test_tables(void)
{
        for (int s = 1; s < HANDOVER_STATE_N; s++) {
                enum handover_role role = handover_role((enum handover_state)s);
                g_assert_cmpint(handover_state_from_name(handover_state_name((enum handover_state)s)), ==, s);
                for (int i = 0; i < CELLS; i++) {
                        int to = cell((enum handover_state)s, i);
                        g_assert_cmpint(to, !=, 0);
                        g_assert_true(to < 0 || handover_role((enum handover_state)to) == role);
                }
        }
        for (int s = 1; s < HANDOVER_STATE_N; s++) /* between the guest's stop and its run */
                g_assert_true(handover_state_is_swift((enum handover_state)s) ==
                              (s == SOURCE_HANDED || s == SOURCE_RESUMING || s == TARGET_COMPLETE ||
                               s == TARGET_COMMITTING || s == TARGET_STARTING));
        bool may[HANDOVER_PROCESSOR_N] = {[HANDOVER_ASSIGNED] = true};
        for (int n = 0; n < HANDOVER_PROCESSOR_N; n++) /* from where it can be assigned, by any cell */
                for (int s = 1; s < HANDOVER_PROCESSOR_N; s++)
                        for (int i = 0; i < CELLS; i++) {
                                int to = cell((enum handover_state)s, i);
                                may[s] = may[s] || (to > 0 && to < HANDOVER_PROCESSOR_N && may[to]);
                        }
        for (int s = 1; s < HANDOVER_PROCESSOR_N; s++) {
                struct handover at = {.row.state = (enum handover_state)s};
                g_assert_true(handover_may_assign(&at) == may[s]);
        }
        g_assert_cmpint(handover_owner(RECORD_NONE), ==, ROLE_SOURCE);
        g_assert_cmpint(handover_owner(RECORD_ABORTED), ==, ROLE_SOURCE);
        g_assert_cmpint(handover_owner(RECORD_COMMITTED), ==, ROLE_TARGET);
        g_assert_cmpint(handover_owner(RECORD_RETURNED), ==, ROLE_SOURCE);
}

/* What nobody honest says: refused, with nothing done. */
static void test_nonsense(void)
{
        struct handover h;
        struct err err;
        struct handover_message p = {.says = HANDOVER_SAYS_OFFER, .epoch = 7, .id = "h1"};
        struct handover_message bad[] = {p, p, p, p, p, p};
        bad[0].says = HANDOVER_SAYS_GIVE;
        bad[1].epoch = 0;
        bad[2].gap_ms = -1;
        bad[3].gap_ms = HANDOVER_GAP_MAX_MS + 1;
        memset(bad[4].id, 'a', sizeof(bad[4].id));
        bad[5].epoch = 6;
        for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
                g_assert_cmpint(handover_admit(&h, &bad[i], 7, 0, &effects, &err), ==, -EPROTO);
        g_assert_cmpint(handover_admit(&h, &p, 7, 0, &effects, &err), ==, 1);
        for (int says = 0; says <= HANDOVER_SAYS_N; says++)
                for (int epoch = 6; epoch <= 8; epoch++) {
                        struct handover_message q = {.says = (enum handover_says)says,
                                                     .epoch = (uint64_t)epoch};
                        struct handover_event ev = {.kind = HANDOVER_EV_MESSAGE, .message = &q};
                        if (says >= HANDOVER_SAYS_OFFER && says <= HANDOVER_SAYS_DROP && epoch == 7 &&
                            says != HANDOVER_SAYS_INFORM)
                                continue;
                        g_assert_cmpint(handover_step(&h, &ev, &effects, &err), ==, -EPROTO);
                        g_assert_cmpint(effects.n, ==, 0);
                        g_assert_cmpint(h.row.state, ==, TARGET_CHECKING);
                }
        struct handover_event ev = {.kind = HANDOVER_EV_TIMEOUT};
        g_assert_cmpint(handover_step(&h, &ev, &effects, &err), ==, -EPROTO);
        /* A sentence of a peer's goes to the log without what is no text. */
        struct handover_message drop = {.says = HANDOVER_SAYS_DROP, .epoch = 7, .reason = REASON_POLICY};
        memset(drop.sentence, '\n', sizeof(drop.sentence));
        ev = (struct handover_event){.kind = HANDOVER_EV_MESSAGE, .message = &drop};
        g_assert_cmpint(handover_step(&h, &ev, &effects, &err), ==, 1);
        g_assert_cmpint(h.row.state, ==, TARGET_DROPPING);
        g_assert_cmpint(h.row.reason, ==, REASON_POLICY);
        g_assert_null(strchr(h.row.sentence, '\n'));
}

static void report_one(struct handover *h, enum handover_event_kind kind, enum handover_state wanted)
{
        struct err err;
        struct handover_event ev = {.kind = kind, .token = h->row.step};
        g_assert_cmpint(handover_step(h, &ev, &effects, &err), ==, 1);
        g_assert_cmpint(h->row.state, ==, wanted);
}

/* The machine is booted again before the service processor has heard that it ran there: it has assigned
 * nothing, so that it is the source's, and the target has nothing of it, whether it had run or died. */
static void test_booted_before_it_was_assigned(void)
{
        for (int n = 0; n < 2; n++) {
                struct handover h;
                struct err err;
                struct handover_row row = {.id = "h1", .epoch = 7, .step = 4, .state = TARGET_INFORMED};
                handover_restore(&h, &row, 0, RECORD_NONE, 0, &effects);
                report_one(&h, HANDOVER_EV_COMMITTED, TARGET_STARTING);
                report_one(&h, n ? HANDOVER_EV_DIED : HANDOVER_EV_RUNS, n ? TARGET_DROPPING : TARGET_RUNNING);
                if (n)
                        report_one(&h, HANDOVER_EV_RELEASED, TARGET_LOST);
                g_assert_true(handover_is_targets(&h.row, RECORD_NONE));
                row = h.row;
                handover_restore(&h, &row, 0, RECORD_COMMITTED, 0, &effects);
                report_one(&h, HANDOVER_EV_RETURNED, TARGET_DROPPING);
                g_assert_false(handover_is_targets(&h.row, RECORD_NONE));
                g_assert_cmpint(effects.list[0].kind, ==, HANDOVER_PERSIST);
                report_one(&h, HANDOVER_EV_RELEASED, TARGET_DROPPED);
                g_assert_false(handover_is_targets(&h.row, RECORD_NONE));
                g_assert_cmpint(effects.list[effects.n - 1].message.says, ==, HANDOVER_SAYS_DROPPED);

                /* And who leads, to whom its source has said that it died. */
                row = (struct handover_row){.id = "h1", .epoch = 7, .step = 4, .state = HANDOVER_INFORMED};
                handover_restore(&h, &row, 0, RECORD_NONE, 0, &effects);
                report_one(&h, HANDOVER_EV_ABORTED, HANDOVER_RECALLING);
                struct handover_message p = {.says = HANDOVER_SAYS_DIED, .epoch = 7};
                struct handover_event ev = {.kind = HANDOVER_EV_MESSAGE, .message = &p};
                g_assert_cmpint(handover_step(&h, &ev, &effects, &err), ==, 1);
                g_assert_cmpint(h.row.state, ==, HANDOVER_DROPPING);
                p.says = n ? HANDOVER_SAYS_LOST : HANDOVER_SAYS_RUNNING; /* said before it heard more */
                g_assert_cmpint(handover_step(&h, &ev, &effects, &err), ==, -EPROTO);
                p.says = HANDOVER_SAYS_DROPPED;
                g_assert_cmpint(handover_step(&h, &ev, &effects, &err), ==, 1);
                g_assert_cmpint(h.row.state, ==, HANDOVER_LOST);
        }
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        g_test_add_func("/handover/tables", test_tables);
        g_test_add_func("/handover/nonsense", test_nonsense);
        g_test_add_func("/handover/booted-before-it-was-assigned", test_booted_before_it_was_assigned);
        g_test_add_func("/handover/plain", test_plain);
        g_test_add_func("/handover/enumerated", test_enumerated);
        g_test_add_func("/handover/random", test_random);
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The tables (core/handover-tables.c) say what follows on what; here is what goes with it. Invariants: the
 * state changes in enter() alone, which makes its row durable before anything is done or said, unless the
 * state is swift: then what is on disk is the state before, and each restart from there asks the record
 * before it does anything to a VMM. The record is `committed` only from TARGET_COMMITTING. */
#include "core/handover-internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/str.h"

enum { REPEAT_MAX_MS = 5000 };

/* What turned it, beside a report. */
struct cause {
        enum handover_event_kind kind; /* MESSAGE: says */
        enum handover_says says;
        enum reason reason;
        const char *sentence;
        int64_t now_ms;
};

enum handover_role handover_role(enum handover_state s)
{
        return s < HANDOVER_PROCESSOR_N ? ROLE_PROCESSOR : s < HANDOVER_SOURCE_N ? ROLE_SOURCE : ROLE_TARGET;
}

static bool is_final(enum handover_state s)
{
        return (s >= HANDOVER_RUNNING && s <= HANDOVER_LOST) || (s >= SOURCE_GONE && s <= SOURCE_LOST) ||
               (s >= TARGET_SETTLED && s <= TARGET_LOST);
}

bool handover_is_final(const struct handover *h)
{
        return is_final(h->row.state);
}

bool handover_may_assign(const struct handover *h)
{
        enum handover_state s = h->row.state;
        return (s >= HANDOVER_CONFIGURED && s <= HANDOVER_ASSIGNED) || s == HANDOVER_CLOSING;
}

bool handover_may_be_forgotten(const struct handover *h)
{
        enum handover_state s = h->row.state;
        return is_final(s) && ((s != SOURCE_LOST && s != TARGET_LOST) || h->row.is_told);
}

enum handover_role handover_owner(enum handover_record record)
{
        return record == RECORD_COMMITTED ? ROLE_TARGET : ROLE_SOURCE;
}

bool handover_is_targets(const struct handover_row *row, enum handover_record record)
{
        enum handover_whose whose = handover_states[row->state].whose;
        if (row->state == TARGET_DROPPING) /* what died here was here */
                return row->end == TARGET_LOST;
        return whose == OWNED_BY_TARGET ||
               (whose == OWNED_BY_RECORD && handover_owner(record) == ROLE_TARGET);
}

bool handover_state_has(enum handover_state s, enum handover_effect_kind e)
{
        const struct handover_state_row *row = &handover_states[s];
        if (e == HANDOVER_PERSIST || e == HANDOVER_EVENT)
                return true;
        if (e == HANDOVER_ADOPT || e == HANDOVER_ASSIGN)
                return s == (e == HANDOVER_ADOPT ? TARGET_RUNNING : HANDOVER_ASSIGNED);
        if (e == HANDOVER_SEND)
                return row->says[0] || row->says[1];
        for (size_t i = 0; i < ARRAY_N(row->effects); i++)
                if (row->effects[i] == e)
                        return true;
        return false;
}

bool handover_state_is_swift(enum handover_state s)
{
        return handover_states[s].is_swift;
}

/* ---- effects ---- */

static struct handover_effect *effect(struct handover_effects *out, const struct handover *h,
                                      enum handover_effect_kind kind)
{
        assert(out->n < HANDOVER_EFFECTS_MAX);
        struct handover_effect *e = &out->list[out->n++];
        e->kind = kind;
        e->token = h->row.step;
        e->record = RECORD_NONE;
        e->gap_ms = h->row.gap_ms;
        return e;
}

static void note(struct handover_effects *out, const struct handover *h, const char *event, const char *text)
{
        struct handover_effect *e = effect(out, h, HANDOVER_EVENT);
        e->event = event;
        e->text = text;
}

static void say_it(struct handover_effects *out, const struct handover *h, enum handover_says says,
                   enum handover_role to)
{
        const struct handover_row *r = &h->row;
        struct handover_message *p = &effect(out, h, HANDOVER_SEND)->message;
        *p = (struct handover_message){
                .says = says, .to = to, .epoch = r->epoch, .gap_ms = r->gap_ms, .reason = r->reason};
        p->separate_ms = r->separate_ms;
        memcpy(p->id, r->id, sizeof(p->id));
        memcpy(p->sentence, r->sentence, sizeof(p->sentence));
}

/* only: to this one; 0: to all. */
static void say(struct handover_effects *out, const struct handover *h, enum handover_role only)
{
        const struct handover_state_row *row = &handover_states[h->row.state];
        bool is_processor = handover_role(h->row.state) == ROLE_PROCESSOR;
        for (int i = 0; i < 2; i++) {
                enum handover_role to = !is_processor ? ROLE_PROCESSOR : i == 0 ? ROLE_SOURCE : ROLE_TARGET;
                if (row->says[i] && (only == 0 || only == to))
                        say_it(out, h, row->says[i], to);
        }
}

static void act(const struct handover *h, struct handover_effects *out)
{
        enum handover_state s = h->row.state;
        const struct handover_state_row *row = &handover_states[s];
        for (size_t i = 0; i < ARRAY_N(row->effects); i++)
                if (row->effects[i])
                        effect(out, h, row->effects[i])->record = s == TARGET_COMMITTING  ? RECORD_COMMITTED
                                                                  : s == TARGET_RETURNING ? RECORD_RETURNED
                                                                                          : RECORD_ABORTED;
}

static void set_repeat(struct handover *h, int64_t now_ms)
{
        int64_t every_ms = handover_states[h->row.state].repeat_ms;
        for (uint32_t i = 0; i < h->repeats && every_ms < REPEAT_MAX_MS; i++)
                every_ms *= 2;
        h->repeat_ms = every_ms == 0 || h->row.is_told
                               ? INT64_MAX
                               : now_ms + (every_ms < REPEAT_MAX_MS ? every_ms : REPEAT_MAX_MS);
}

/* Two states of others wait for the source's separation; what they wait for beside it is the difference of
 * the table. */
int64_t handover_wait_ms(enum handover_state s, int64_t separate_ms)
{
        int64_t wait_ms = handover_states[s].wait_ms;
        bool is_of_it = s == SOURCE_SEPARATING || s == HANDOVER_ACCEPTED || s == TARGET_ACCEPTED;
        if (!is_of_it || separate_ms <= 0)
                return wait_ms;
        return wait_ms - handover_states[SOURCE_SEPARATING].wait_ms + separate_ms;
}

static void set_deadline(struct handover *h, int64_t now_ms)
{
        int64_t wait_ms = handover_wait_ms(h->row.state, h->row.separate_ms);
        h->row.deadline_ms = wait_ms > 0 ? now_ms + wait_ms : INT64_MAX;
}

/* What a state brings with it, on entry and after a restart. What is said comes first: the guest may stand.
 */
static void begin(struct handover *h, int64_t now_ms, struct handover_effects *out)
{
        h->repeats = 0;
        h->is_lost_said = false;
        set_repeat(h, now_ms);
        if (!handover_states[h->row.state].is_quiet)
                say(out, h, 0);
        act(h, out);
}

/* ---- the one place where a state changes ---- */

static void enter(struct handover *h, enum handover_state to, int64_t now_ms, struct handover_effects *out)
{
        struct handover_row *r = &h->row;
        r->state = to;
        r->step++;
        set_deadline(h, now_ms);
        if (!handover_states[to].is_swift) {
                bool is_good = to == HANDOVER_RUNNING || to == SOURCE_GONE || to == TARGET_RUNNING ||
                               to == TARGET_SETTLED;
                effect(out, h, HANDOVER_PERSIST);
                note(out, h, handover_states[to].name,
                     r->reason && !is_good ? r->sentence : handover_states[to].text);
        }
        if (to == HANDOVER_ASSIGNED || to == TARGET_RUNNING)
                effect(out, h, to == TARGET_RUNNING ? HANDOVER_ADOPT : HANDOVER_ASSIGN);
        begin(h, now_ms, out);
}

/* ---- ways back ---- */

static void set_reason(struct handover_row *r, enum reason reason, const char *sentence)
{
        r->reason = reason;
        if (!STR_COPY(r->sentence, sentence)) {
                memcpy(r->sentence, sentence, sizeof(r->sentence) - 1);
                r->sentence[sizeof(r->sentence) - 1] = '\0';
        }
}

static void set_reason_of(struct handover_row *r, const struct cause *why)
{
        enum reason reason = REASON_INTERNAL;
        const char *sentence = "it could not be done";
        if (why->kind == HANDOVER_EV_CANCEL) {
                reason = REASON_CANCELLED;
                sentence = "somebody wanted it no longer";
        } else if (why->kind == HANDOVER_EV_TIMEOUT) {
                reason = REASON_TIMEOUT;
                sentence = "it took too long";
        } else if (why->kind == HANDOVER_EV_DIED || why->kind == HANDOVER_EV_RETURNED) {
                sentence = "its VMM died";
        } else if (why->kind == HANDOVER_EV_ABORTED) {
                reason = REASON_TIMEOUT;
                sentence = "it was broken off";
        } else if (why->kind == HANDOVER_EV_MESSAGE) {
                reason = REASON_CANCELLED;
                sentence = "another side dropped it";
        }
        if (why->reason > 0 && why->reason < REASON_N)
                reason = why->reason;
        if (why->sentence && why->sentence[0])
                sentence = why->sentence;
        set_reason(r, reason, sentence);
}

/* Before it goes to `to`: for what end, and why. The first reason stays; only death is worse. */
static void settle(struct handover_row *r, enum handover_state to, const struct cause *why)
{
        enum handover_state lost = 0;
        if (why->says == HANDOVER_SAYS_DIED || why->says == HANDOVER_SAYS_LOST)
                lost = HANDOVER_LOST;
        else if (to == SOURCE_RELEASING && why->kind == HANDOVER_EV_DIED)
                lost = SOURCE_LOST;
        else if (r->state == TARGET_STARTING && to == TARGET_DROPPING)
                lost = TARGET_LOST;
        else if (r->state == TARGET_LOST) /* it is not the target's after all, and nothing of it stays here */
                r->end = 0;
        bool is_news = (lost && !r->end) || (r->reason == 0 && handover_states[to].is_back);
        if (lost)
                r->end = lost;
        if (is_news)
                set_reason_of(r, why);
}

static enum handover_state split(const struct handover *h, const struct cause *why)
{
        const struct handover_row *r = &h->row;
        if (r->state == TARGET_INFORMED) {
                assert(why->kind == HANDOVER_EV_COMPLETED);
                return h->is_stopped_there ? TARGET_COMMITTING : TARGET_COMPLETE;
        }
        if (r->end)
                return r->end;
        return r->state == HANDOVER_FINISHING  ? HANDOVER_RUNNING
               : r->state == HANDOVER_DROPPING ? HANDOVER_ROLLED_BACK
               : r->state == SOURCE_RELEASING  ? SOURCE_BACK
                                               : TARGET_DROPPED;
}

static int go(struct handover *h, int to, const struct cause *why, struct handover_effects *out)
{
        if (to == HANDOVER_SPLIT)
                to = (int)split(h, why);
        settle(&h->row, (enum handover_state)to, why);
        enter(h, (enum handover_state)to, why->now_ms, out);
        return 1;
}

static int late(struct handover *h)
{
        h->late++;
        return 0;
}

static int bad(const struct handover *h, const char *what, struct err *err)
{
        return err_set(err, REASON_STALE, EPROTO, "handover %s: no %s while it is %s", h->row.id, what,
                       handover_state_name(h->row.state));
}

static int64_t bounded(int64_t separate_ms)
{
        return separate_ms < 0                          ? 0
               : separate_ms > HANDOVER_SEPARATE_MAX_MS ? HANDOVER_SEPARATE_MAX_MS
                                                        : separate_ms;
}

/* ---- reports ---- */

static int report(struct handover *h, const struct handover_event *ev, struct handover_effects *out,
                  struct err *err)
{
        const struct handover_row *r = &h->row;
        struct cause why = {ev->kind, 0, ev->reason, ev->sentence, ev->now_ms};
        if (ev->kind < HANDOVER_ANSWER_N && ev->token != r->step)
                return late(h);
        if (ev->kind == HANDOVER_EV_STANDS)
                h->is_stopped_there = true;
        if (r->state == TARGET_STARTING && ev->kind == HANDOVER_EV_DIED && ev->token != r->step)
                return late(h); /* whether it had been told to run is known by who tells it */
        int to = handover_report_cell(r->state, ev->kind);
        assert(to != 0);
        if (to == HANDOVER_LATE)
                return late(h);
        if (to == HANDOVER_BAD)
                return bad(h, handover_event_name(ev->kind), err);
        if (to == HANDOVER_STAY)
                return 1;
        if (ev->kind == HANDOVER_EV_CLASSIFIED)
                h->row.separate_ms = bounded(ev->separate_ms);
        if (to == TARGET_RETURNING && r->is_unsure) /* only who never told it to run is certain */
                to = TARGET_DROPPING;
        return go(h, to, &why, out);
}

/* ---- messages ---- */

static int answer(struct handover *h, const struct handover_message *p, struct handover_effects *out)
{
        bool is_targets = p->says >= HANDOVER_SAYS_ACCEPTED;
        bool is_processor = handover_role(h->row.state) == ROLE_PROCESSOR;
        say(out, h, !is_processor ? 0 : is_targets ? ROLE_TARGET : ROLE_SOURCE);
        return out->n > 0 ? 1 : late(h);
}

static int message(struct handover *h, const struct handover_event *ev, struct handover_effects *out,
                   struct err *err)
{
        struct handover_row *r = &h->row;
        struct handover_message p = *ev->message;
        p.sentence[sizeof(p.sentence) - 1] = '\0';
        for (char *at = p.sentence; *at; at++) /* it goes to our log */
                if ((unsigned char)*at < ' ' || *at == 0x7f)
                        *at = ' ';
        if (p.says < 1 || p.says >= HANDOVER_SAYS_N || p.epoch != r->epoch)
                return bad(h, "such message", err);
        struct cause why = {HANDOVER_EV_MESSAGE, p.says, p.reason, p.sentence, ev->now_ms};
        int to = handover_message_cell(r->state, p.says);
        assert(to != 0);
        if (to == HANDOVER_BAD)
                return bad(h, handover_says_name(p.says), err);
        if ((r->state == TARGET_LOST && p.says == HANDOVER_SAYS_SETTLE) ||
            (r->state == SOURCE_LOST && p.says == HANDOVER_SAYS_FINISH)) {
                if (r->is_told)
                        return late(h);
                r->is_told = true;
                h->repeat_ms = INT64_MAX;
                effect(out, h, HANDOVER_PERSIST);
                return 1;
        }
        if (to == HANDOVER_LATE)
                return late(h);
        if (to == HANDOVER_STAY)
                return answer(h, &p, out);
        if (p.says == HANDOVER_SAYS_CLASSIFIED)
                r->separate_ms = bounded(p.separate_ms);
        return go(h, to, &why, out);
}

/* Of one that is final or was forgotten, who still says something has missed how it ended. Who says RUNNING
 * or that the VM died is not asked anything more; whoever else is in the middle of something is to break off,
 * which is safe at any time, as it is the record that decides. */
bool handover_answer_unknown(const struct handover_message *in, struct handover_message *ret)
{
        static const enum handover_says answers[HANDOVER_SAYS_N] = {
                [HANDOVER_SAYS_CLASSIFY] = HANDOVER_SAYS_BACK,
                [HANDOVER_SAYS_SEPARATE] = HANDOVER_SAYS_BACK,
                [HANDOVER_SAYS_QUIESCE] = HANDOVER_SAYS_BACK,
                [HANDOVER_SAYS_GIVE] = HANDOVER_SAYS_BACK,
                [HANDOVER_SAYS_ABORT] = HANDOVER_SAYS_BACK,
                [HANDOVER_SAYS_FINISH] = HANDOVER_SAYS_GONE,
                [HANDOVER_SAYS_OFFER] = HANDOVER_SAYS_DROPPED,
                [HANDOVER_SAYS_INFORM] = HANDOVER_SAYS_DROPPED,
                [HANDOVER_SAYS_STATUS] = HANDOVER_SAYS_DROPPED,
                [HANDOVER_SAYS_DROP] = HANDOVER_SAYS_DROPPED,
                [HANDOVER_SAYS_CLASSIFIED] = HANDOVER_SAYS_ABORT,
                [HANDOVER_SAYS_SEPARATED] = HANDOVER_SAYS_ABORT,
                [HANDOVER_SAYS_QUIESCED] = HANDOVER_SAYS_ABORT,
                [HANDOVER_SAYS_DIED] = HANDOVER_SAYS_FINISH,
                [HANDOVER_SAYS_ACCEPTED] = HANDOVER_SAYS_DROP,
                [HANDOVER_SAYS_INFORMED] = HANDOVER_SAYS_DROP,
                [HANDOVER_SAYS_RUNNING] = HANDOVER_SAYS_SETTLE,
                [HANDOVER_SAYS_LOST] = HANDOVER_SAYS_SETTLE,
        };
        if (in->says < 1 || in->says >= HANDOVER_SAYS_N || !answers[in->says])
                return false;
        *ret = (struct handover_message){
                .says = answers[in->says], .epoch = in->epoch, .reason = REASON_NOT_FOUND};
        ret->to = in->says < HANDOVER_SAYS_CLASSIFIED ? ROLE_PROCESSOR
                  : in->says < HANDOVER_SAYS_ACCEPTED ? ROLE_SOURCE
                                                      : ROLE_TARGET;
        memcpy(ret->id, in->id, sizeof(ret->id));
        (void)STR_COPY(ret->sentence, "nothing is known of this handover");
        return true;
}

/* ---- time ---- */

static int tick(struct handover *h, int64_t now_ms, struct handover_effects *out)
{
        const struct handover_state_row *row = &handover_states[h->row.state];
        int n = 0;
        if (now_ms >= h->row.deadline_ms && !h->is_lost_said) {
                struct cause why = {HANDOVER_EV_TIMEOUT, 0, 0, NULL, now_ms};
                int to = handover_report_cell(h->row.state, HANDOVER_EV_TIMEOUT);
                assert(to > 0 || to == HANDOVER_STAY); /* a final state waits for nothing */
                if (to > 0)
                        return go(h, to, &why, out);
                h->is_lost_said = true;
                note(out, h, "overdue", row->text);
                n = 1;
        }
        if (now_ms < h->repeat_ms)
                return n;
        h->repeats++;
        set_repeat(h, now_ms);
        if (!row->is_quiet)
                say(out, h, 0);
        if (!row->is_once)
                act(h, out);
        return 1;
}

int64_t handover_deadline(const struct handover *h)
{
        int64_t at_ms = h->is_lost_said ? INT64_MAX : h->row.deadline_ms;
        return at_ms < h->repeat_ms ? at_ms : h->repeat_ms;
}

/* ---- from outside ---- */

int handover_step(struct handover *h, const struct handover_event *ev, struct handover_effects *ret,
                  struct err *err)
{
        assert(h->row.state > 0 && h->row.state < HANDOVER_STATE_N && (unsigned)ev->kind < HANDOVER_EV_N);
        ret->n = 0;
        if (ev->kind == HANDOVER_EV_TICK)
                return tick(h, ev->now_ms, ret);
        if (ev->kind == HANDOVER_EV_MESSAGE)
                return message(h, ev, ret, err);
        return ev->kind == HANDOVER_EV_TIMEOUT ? bad(h, "timeout", err) : report(h, ev, ret, err);
}

void handover_begin(struct handover *h, const char *id, uint64_t epoch, int64_t gap_ms, int64_t separate_ms,
                    int64_t now_ms, struct handover_effects *ret)
{
        *h = (struct handover){
                .row = {.epoch = epoch, .gap_ms = gap_ms, .separate_ms = bounded(separate_ms)}
        };
        bool is_good = STR_COPY(h->row.id, id) && epoch > 0 && gap_ms >= 0 && gap_ms <= HANDOVER_GAP_MAX_MS;
        assert(is_good);
        ret->n = 0;
        enter(h, HANDOVER_CONFIGURED, now_ms, ret);
}

int handover_admit(struct handover *h, const struct handover_message *first, uint64_t least_epoch,
                   int64_t now_ms, struct handover_effects *ret, struct err *err)
{
        bool is_first = first->says == HANDOVER_SAYS_CLASSIFY || first->says == HANDOVER_SAYS_OFFER;
        if (!is_first || first->epoch == 0 || first->gap_ms < 0 || first->gap_ms > HANDOVER_GAP_MAX_MS ||
            !memchr(first->id, 0, sizeof(first->id)) || !str_is_id(first->id))
                return err_set(err, REASON_NOT_FOUND, EPROTO, "no such handover");
        if (first->epoch < least_epoch)
                return err_set(err, REASON_STALE, EPROTO, "handover %s: it is over, or another came since",
                               first->id);
        *h = (struct handover){
                .row = {.epoch = first->epoch,
                        .gap_ms = first->gap_ms,
                        .separate_ms = bounded(first->separate_ms)}
        };
        memcpy(h->row.id, first->id, sizeof(h->row.id));
        ret->n = 0;
        enter(h, first->says == HANDOVER_SAYS_OFFER ? TARGET_CHECKING : SOURCE_CLASSIFYING, now_ms, ret);
        return 1;
}

/* Who gave it is no more, so nobody knows how far that got: it is broken off, unless the record says that all
 * of it was there. Where its VMM died meanwhile the target may have had everything; but if that may have run
 * again since, what the target has is not what it was. */
void handover_restore(struct handover *h, const struct handover_row *row, enum handover_vmm vmm,
                      enum handover_record record, int64_t now_ms, struct handover_effects *ret)
{
        struct cause why = {HANDOVER_EV_FAILED, 0, REASON_INTERNAL, "who gave it was started again", now_ms};
        *h = (struct handover){.row = *row};
        assert(row->state > 0 && row->state < HANDOVER_STATE_N && !handover_states[row->state].is_swift);
        ret->n = 0;
        /* The swift states after them may have been reached. */
        if ((row->state == TARGET_INFORMED || row->state == TARGET_CLOSING) && record == RECORD_COMMITTED)
                h->row.is_unsure = true;
        if (row->state == SOURCE_GIVING) {
                (void)go(h, vmm == HANDOVER_VMM_STOOD ? SOURCE_ORPHANED : SOURCE_CLOSING, &why, ret);
        } else {
                set_deadline(h, now_ms);
                begin(h, now_ms, ret);
        }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/project.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agent/agent.h"
#include "agent/choose.h"
#include "base/log.h"
#include "base/str.h"
#include "lib/need-text.h"

enum {
        MEMORY_PART = 8
}; /* memory is asked for by this part of what there is, at least: a VM has few slots */

static const enum component_kind components[DEMAND_N] = {COMPONENT_CPU, COMPONENT_MEMORY, COMPONENT_NET,
                                                         COMPONENT_BLOCK};

static bool is_asked_for(enum demand_kind kind)
{
        return kind == DEMAND_CPU || kind == DEMAND_MEMORY;
}

/* ---- what it holds ---- */

/* *need: what is granted, where something is; else what was asked for. */
static bool is_of(const struct row *row, enum demand_kind kind, struct need *need)
{
        char text[NEED_TEXT];
        bool is_granted =
                row->has_verdict && row->verdict.outcome == API_OUTCOME_GRANTED && row->verdict.n_needs > 0;
        const char *said = is_granted ? need_text_print(&row->verdict.needs[0], text) : row->needs[0];
        return row_is_own(row) && need_parse(said, need, NULL) == 0 && need->kind == components[kind];
}

static int64_t amount_of(const struct need *need)
{
        const struct parameter *share = need_parameter(need, PARAMETER_SHARE);
        return need->kind == COMPONENT_CPU ? need->amount * (share ? share->value : CPU_WHOLE_MILLI)
                                           : need->amount;
}

/* All that is granted to it; *ret_last: what came last. */
static double own_of(const struct project *p, enum demand_kind kind, struct row **ret_last)
{
        const struct table *t = &p->agent->table;
        double sum = 0;
        *ret_last = NULL;
        for (size_t i = 0; i < t->n; i++) {
                struct need need;
                if (t->rows[i]->state != ROW_GRANTED || !is_of(t->rows[i], kind, &need))
                        continue;
                sum += (double)amount_of(&need);
                *ret_last = t->rows[i];
        }
        return sum;
}

static size_t open_rows(const struct project *p, enum demand_kind kind)
{
        const struct table *t = &p->agent->table;
        struct need need;
        size_t n = 0;
        for (size_t i = 0; i < t->n; i++)
                n += row_is_open(t->rows[i]) && is_of(t->rows[i], kind, &need);
        return n;
}

static double has_of(const struct project *p, enum demand_kind kind)
{
        const json_t *hhi = p->agent->picture.hhi;
        return hhi ? (double)choose_has(hhi, components[kind]) : 0;
}

/* ---- asking ---- */

static const char *print(enum demand_kind kind, double amount, char buf[UNITS_TEXT])
{
        if (kind == DEMAND_CPU)
                (void)snprintf(buf, UNITS_TEXT, "%.2f", amount / CPU_WHOLE_MILLI);
        else
                (void)snprintf(buf, UNITS_TEXT, "%.0fM", amount / (kind == DEMAND_NET ? 1e6 : 1048576.0));
        return buf;
}

/* CPUs are asked for one after the other, in a step each at most: of several the first so much sooner. */
static int64_t lead_ms(const struct project *p, enum demand_kind kind)
{
        int64_t now = loop_now_ms(), steps = PROJECTION_LEAD, more = 0;
        const char *name;
        if (kind == DEMAND_CPU)
                more = declarations_need(&p->agent->declarations, components[kind], now,
                                         now + (steps + PROJECT_ROWS_MAX) * p->step_ms, &name);
        if (more > 1)
                steps += more < PROJECT_ROWS_MAX ? more : PROJECT_ROWS_MAX;
        return steps * p->step_ms;
}

/* "0.98 of cpu are used, 1.70 will be needed (0.30 to 1.80), demand rises steadily; this VM has 1.00" */
static void explain(const struct project *p, enum demand_kind kind, double has, char *ret, size_t size)
{
        const struct plan *plan = &p->plans[kind];
        const struct projection_said *said = &plan->projection.said;
        const char *name = "";
        char used[UNITS_TEXT], need[UNITS_TEXT], low[UNITS_TEXT], high[UNITS_TEXT], held[UNITS_TEXT];
        /* What is needed is less than said->need in the first steps, and more where something is declared. */
        double least = said->low < plan->need ? said->low : plan->need;
        double most = said->high > plan->need ? said->high : plan->need;

        if (plan->need > said->need)
                (void)declarations_need(&p->agent->declarations, components[kind], loop_now_ms(),
                                        loop_now_ms() + lead_ms(p, kind), &name);
        (void)snprintf(ret, size, "%s of %s are used, %s will be needed (%s to %s), %s%.24s; this VM has %s",
                       print(kind, p->used[kind], used), demand_name(kind), print(kind, plan->need, need),
                       print(kind, least, low), print(kind, most, high),
                       *name ? "declared by "
                             : projection_why_text(plan->need < said->need ? PROJECTION_SEEN : said->why),
                       name, print(kind, has, held));
}

/* Of memory what the kernel can take in one block. */
static int64_t least_of(const struct project *p, enum demand_kind kind)
{
        int64_t block = online_block_bytes(p->agent->online);
        if (kind == DEMAND_CPU)
                return CPU_WHOLE_MILLI;
        return block > 0 ? block : INT64_C(128) << 20;
}

/* Not much less than what there is, as a VM has few places for modules. */
static int64_t step_of(const struct project *p, enum demand_kind kind, double has)
{
        int64_t block = least_of(p, kind), part = (int64_t)has / MEMORY_PART;
        return kind != DEMAND_CPU && part > block ? part / block * block : block;
}

/* Does it say nothing of what was asked for? */
static bool is_of_the_moment(enum reason reason)
{
        return reason == REASON_STALE || reason == REASON_BUSY || reason == REASON_TIMEOUT ||
               reason == REASON_PEER_LOST || reason == REASON_INTERNAL;
}

static enum plan_answer answer_of(const struct row *row)
{
        if (row->state == ROW_GRANTED)
                return PLAN_GRANTED;
        return row->has_verdict && row->verdict.has_reason && is_of_the_moment(row->verdict.reason)
                       ? PLAN_LATER
                       : PLAN_REFUSED;
}

/* What it asked for has been decided, or is no more. */
static void settle(struct project *p, enum demand_kind kind)
{
        struct row *row = *p->asked[kind] ? table_find(&p->agent->table, p->asked[kind]) : NULL;
        if (!*p->asked[kind] || (row && (row->state == ROW_UNSENT || row->state == ROW_SENT)))
                return;
        p->asked[kind][0] = '\0';
        enum plan_answer answer = row ? answer_of(row) : PLAN_REFUSED;
        plan_answered(&p->plans[kind], answer, loop_mono_ms());
        struct need need;
        char text[NEED_TEXT];
        if (answer == PLAN_GRANTED && is_of(row, kind, &need)) {
                plan_granted(&p->plans[kind], (double)amount_of(&need));
                log_note("%s is granted: %s", need_print(&need, text), row->verdict.sentence);
        } else {
                log_note("%s is not granted: %s", row ? row->needs[0] : demand_name(kind),
                         row && row->has_verdict ? row->verdict.sentence : "it was withdrawn");
        }
}

/* Could this VM have as much as can be asked for? *more: cut to what it could have. */
static bool may_have_more(const struct project *p, enum demand_kind kind, double has, double *more)
{
        int64_t limit = channel_limit(p->agent->channel, components[kind]);
        struct api_guest_state state;
        if (limit <= 0)
                return true;
        if (kind == DEMAND_CPU) { /* the number is limited; each may be a part of one */
                online_state(p->agent->online, &state);
                return state.n_cpus_online < (size_t)limit;
        }
        double room = (double)limit - has;
        *more = *more < room ? *more : room;
        return room >= (double)least_of(p, kind);
}

static void ask(struct project *p, enum demand_kind kind, double more, double has, const char *trigger)
{
        struct agent *a = p->agent;
        char why[200], text[256];
        struct choice choice;
        struct err err = {0};

        explain(p, kind, has, why, sizeof(why));
        if (open_rows(p, kind) >= PROJECT_ROWS_MAX) {
                log_note("%s has changed: %s; it has asked for %d already", trigger, why, PROJECT_ROWS_MAX);
                return;
        }
        if (!may_have_more(p, kind, has, &more)) {
                log_note("%s has changed: %s; it may have no more, by its definition", trigger, why);
                return;
        }
        if (!choose(a->picture.hhi, components[kind], (int64_t)more, step_of(p, kind, has), least_of(p, kind),
                    &choice)) {
                log_note("%s has changed: %s; the host has nothing of it free", trigger, why);
                return;
        }
        (void)snprintf(text, sizeof(text), "%s has changed: %s", trigger, why);
        const struct row *row = desk_ask(a, choice.need, text, &err);
        if (!row) {
                log_warn("%s cannot be asked for: %s", choice.need, err.sentence);
                plan_answered(&p->plans[kind], PLAN_LATER, loop_mono_ms());
                return;
        }
        (void)STR_COPY(p->asked[kind], row->id);
        plan_asked(&p->plans[kind], loop_mono_ms());
        log_note("%s; asks for %s (%s), on generation %" PRIu64 ", request %s", text, choice.need,
                 choice.where, a->picture.generation, row->id);
}

static void pursue(struct project *p, enum demand_kind kind)
{
        enum plan_trigger trigger;
        char why[200];

        settle(p, kind);
        if (!channel_is_ready(p->agent->channel) || !p->agent->picture.hhi)
                return; /* the trigger stays */
        double has = has_of(p, kind), more = plan_ask(&p->plans[kind], has, loop_mono_ms(), &trigger);
        if (trigger == PLAN_NONE)
                return;
        const char *name = trigger == PLAN_VIEW ? "the host's information" : "the projection";
        if (more > 0) {
                ask(p, kind, more, has, name);
                return;
        }
        explain(p, kind, has, why, sizeof(why));
        log_info("%s has changed: %s; that is enough", name, why);
}

void project_view_changed(struct project *p)
{
        for (int kind = 0; p->agent && kind < DEMAND_N; kind++)
                if (is_asked_for(kind) && (p->is_known & 1U << kind)) {
                        plan_view_changed(&p->plans[kind]);
                        pursue(p, kind);
                }
}

/* ---- steps ---- */

/* Twice what there is; more makes a projection wider by itself. */
static double scale_of(const struct project *p, enum demand_kind kind, const struct demand_said *said)
{
        struct api_guest_state state;
        switch (kind) {
        case DEMAND_CPU:
                online_state(p->agent->online, &state);
                return 2.0 * (state.n_cpus_online > 0 ? (double)state.n_cpus_online : 1) * CPU_WHOLE_MILLI;
        case DEMAND_MEMORY:
                return 2 * said->memory_total;
        case DEMAND_NET:
        case DEMAND_BLOCK:
        case DEMAND_N:
                break;
        }
        return 1e8;
}

/* What the guest's kernel keeps for itself before it counts is the host's memory, too. It is known from the
 * first look at both; what is plugged later may be told before it is on line. */
static void learn_kernel_bytes(struct project *p, const struct demand_said *said)
{
        double more = has_of(p, DEMAND_MEMORY) - said->memory_total;
        if (p->kernel_bytes <= 0 && more > 0 && more < said->memory_total / 4)
                p->kernel_bytes = more;
}

static void give_back(struct project *p, enum demand_kind kind, struct row *last, double has)
{
        char why[200], text[NEED_TEXT], sentence[256];
        struct need need;
        explain(p, kind, has, why, sizeof(why));
        (void)snprintf(sentence, sizeof(sentence), "not needed any more: %s", why);
        log_note("%s is given back: %s", is_of(last, kind, &need) ? need_print(&need, text) : last->needs[0],
                 why);
        plan_given_back(&p->plans[kind]);
        desk_give_back(last, API_RELEASE_CAUSE_RELEASED, REASON_CANCELLED, sentence);
}

/* Could something be given back now? Not before the host has recorded what went before: until then what it
 * says that this guest has is too much. */
static bool is_even(const struct project *p, enum demand_kind kind)
{
        const struct table *t = &p->agent->table;
        struct need need;
        for (size_t i = 0; i < t->n; i++)
                if (t->rows[i]->state == ROW_RELEASING && is_of(t->rows[i], kind, &need))
                        return false;
        return p->agent->picture.hhi && channel_is_ready(p->agent->channel);
}

/* What an agent before this one asked for and has no answer yet. */
static void adopt(struct project *p, enum demand_kind kind)
{
        const struct table *t = &p->agent->table;
        struct need need;
        for (size_t i = 0; i < t->n; i++)
                if ((t->rows[i]->state == ROW_UNSENT || t->rows[i]->state == ROW_SENT) &&
                    is_of(t->rows[i], kind, &need)) {
                        (void)STR_COPY(p->asked[kind], t->rows[i]->id);
                        plan_asked(&p->plans[kind], loop_mono_ms());
                }
}

/* Has the host told what this guest has, with what the agent holds already? */
static bool is_told(const struct project *p, double has, double own)
{
        return p->agent->picture.hhi && (own <= 0 || has > own);
}

static void step(struct project *p, enum demand_kind kind, const struct demand_said *said)
{
        struct plan *plan = &p->plans[kind];
        int64_t now = loop_now_ms();
        const char *name;
        struct need need;
        struct row *last;

        double own = own_of(p, kind, &last), has = has_of(p, kind);
        if (!(p->is_known & 1U << kind)) {
                if (is_asked_for(kind) && !is_told(p, has, own))
                        return;
                plan_init(plan, scale_of(p, kind, said), p->step_ms);
                p->is_known |= 1U << kind;
                adopt(p, kind);
        }
        p->used[kind] = said->amount[kind] + (kind == DEMAND_MEMORY ? p->kernel_bytes : 0);
        double declared = (double)declarations_need(&p->agent->declarations, components[kind], now,
                                                    now + lead_ms(p, kind), &name);
        double spare = last && is_even(p, kind) && is_of(last, kind, &need) ? (double)amount_of(&need) : 0;
        plan_step(plan, p->used[kind], kind == DEMAND_CPU ? declared * CPU_WHOLE_MILLI : declared, has, own,
                  spare, now);
        if (!is_asked_for(kind)) {
                char why[200];
                explain(p, kind, has, why, sizeof(why));
                if (plan->projection.said.is_changed)
                        log_debug("the projection has changed: %s", why);
                return;
        }
        pursue(p, kind);
        if (last && plan_gives_back(plan) && is_even(p, kind))
                give_back(p, kind, last, has);
}

static void on_step(void *arg)
{
        struct project *p = arg;
        struct demand_said said;
        long cpus = sysconf(_SC_NPROCESSORS_ONLN);

        loop_timer_in(&p->timer, p->step_ms);
        declarations_tidy(&p->agent->declarations, loop_now_ms());
        demand_look(&p->demand, loop_mono_ms(), cpus > 0 ? (unsigned)cpus : 1, &said);
        if (said.is_known & 1U << DEMAND_MEMORY)
                learn_kernel_bytes(p, &said);
        for (int kind = 0; kind < DEMAND_N; kind++)
                if (said.is_known & 1U << kind)
                        step(p, kind, &said);
}

/* ---- coming and going ---- */

static void give_all_back(struct agent *a)
{
        for (size_t i = 0; i < a->table.n; i++)
                if (row_is_own(a->table.rows[i]) && row_is_open(a->table.rows[i]))
                        desk_give_back(a->table.rows[i], API_RELEASE_CAUSE_RELEASED, REASON_CANCELLED,
                                       "this agent does not ask by itself");
}

void project_init(struct project *p, struct agent *a, const struct agent_options *o)
{
        char proc[256];

        *p = (struct project){.step_ms = o->project_ms};
        loop_timer_init(&p->timer, on_step, p);
        if (o->project_ms <= 0) {
                give_all_back(a);
                return;
        }
        p->agent = a;
        (void)snprintf(proc, sizeof(proc), "%.200s/proc", o->sys);
        demand_init(&p->demand, strcmp(o->sys, "/sys") == 0 ? "/proc" : proc);
        log_note("asks by itself for what will be needed, measured every %" PRId64 " ms", p->step_ms);
        loop_timer_in(&p->timer, 0);
}

void project_done(struct project *p)
{
        loop_timer_cancel(&p->timer);
        p->agent = NULL;
}

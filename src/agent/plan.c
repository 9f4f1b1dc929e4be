/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/plan.h"

void plan_init(struct plan *p, double full, int64_t step_ms)
{
        *p = (struct plan){.step_ms = step_ms};
        projection_init(&p->projection, full, step_ms);
}

static void trigger(struct plan *p, enum plan_trigger t)
{
        if (p->trigger == PLAN_NONE) /* the first is what is said */
                p->trigger = t;
}

void plan_view_changed(struct plan *p)
{
        trigger(p, PLAN_VIEW);
}

/* How far beyond what was seen demand may go is known only once enough was seen: until then not beyond. */
static double projected(const struct plan *p)
{
        const struct projection *seen = &p->projection;
        return p->steps < PLAN_LEARN && seen->said.need > seen->most ? seen->most : seen->said.need;
}

/* While something is declared it is needed beside what was used before it began, and not twice when it is
 * used. Of a plan that begins in the middle of it, what it has for it is its own. */
static double needed(struct plan *p, double declared, double has, double own)
{
        if (declared > 0 && p->declared <= 0) {
                double others = has > own ? has - own : 0, recent = p->projection.said.recent;
                p->beside = p->steps == 0 && own > 0 && others < recent ? others : recent;
        }
        p->declared = declared;
        double alone = projected(p);
        return declared > 0 && p->beside + declared > alone ? p->beside + declared : alone;
}

void plan_step(struct plan *p, double used, double declared, double has, double own, double spare,
               int64_t now_ms)
{
        (void)projection_take(&p->projection, used, now_ms);
        double need = needed(p, declared, has, own);
        p->steps++;
        if (need != p->need) /* it is copied where it does not change */
                trigger(p, PLAN_PROJECTION);
        p->need = need;
        bool is_idle = spare > 0 && need <= has - spare && p->projection.said.need <= has - spare;
        p->idle = is_idle ? p->idle + 1 : 0;
}

double plan_ask(struct plan *p, double has, int64_t mono_ms, enum plan_trigger *ret_trigger)
{
        *ret_trigger = PLAN_NONE;
        bool is_there = p->expects > 0 && has >= p->expects;
        if (p->is_asking || p->steps < PLAN_SETTLE || (mono_ms < p->not_before_ms && !is_there))
                return 0;
        p->had = has;
        *ret_trigger = p->followed = p->trigger;
        p->trigger = PLAN_NONE;
        return *ret_trigger != PLAN_NONE && p->need > has ? p->need - has : 0;
}

static void wait_from(struct plan *p, unsigned back_off, int64_t mono_ms)
{
        p->not_before_ms = mono_ms + (int64_t)(back_off > 0 ? back_off : PLAN_BACK_OFF) * p->step_ms;
}

void plan_asked(struct plan *p, int64_t mono_ms)
{
        p->is_asking = true;
        p->expects = 0;
        wait_from(p, p->back_off, mono_ms);
}

/* Also after a grant: it takes a moment until the host says that it is there. */
void plan_answered(struct plan *p, enum plan_answer answer, int64_t mono_ms)
{
        unsigned longer = p->back_off == 0 ? 2 * PLAN_BACK_OFF : 2 * p->back_off;

        p->is_asking = false;
        p->expects = 0;
        if (answer == PLAN_LATER) {
                if (p->followed != PLAN_NONE)
                        p->trigger = p->followed;
                wait_from(p, PLAN_BACK_OFF, mono_ms);
                return;
        }
        p->back_off = answer == PLAN_GRANTED ? 0 : longer < PLAN_BACK_OFF_MAX ? longer : PLAN_BACK_OFF_MAX;
        wait_from(p, p->back_off, mono_ms);
}

void plan_granted(struct plan *p, double amount)
{
        p->expects = p->had > 0 ? p->had + amount : 0; /* 0: another agent has asked */
}

bool plan_gives_back(const struct plan *p)
{
        return p->idle >= PLAN_IDLE && !p->is_asking;
}

void plan_given_back(struct plan *p)
{
        p->idle = 0;
}

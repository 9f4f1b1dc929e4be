/* SPDX-License-Identifier: Apache-2.0 */
/* One function, look(), called again and again; each state has what is to be done in it, which may be done
 * twice. What is decided stands in the journal before anything is done, together with what follows from it in
 * the partition (books()), in one transaction.
 *
 *   lending    the old one gives CPUs that nothing claims, and half of the memory that is free
 *   starting   the successor is wanted; it runs
 *   checking   each VM is tried by a dry run, one at a time; then, whether all find room
 *   moving     by the order that was found, some side by side; until the old one says that it has none
 *   giving     part by part, as it alone knows what is claimed there; a VM that it has again goes first
 *   retiring   it is not wanted; when it has ended, the rest of it is the successor's
 *   recalling  handovers are broken off
 *   returning  the successor, which has no VM, gives back what is not nobody's
 *   stopping   as retiring, the other way about
 *
 * Whether the one that is to end has no VM is asked of it. Where it never answers any more, whoever stops it
 * says so (upgrading_may_give_up()): from then on it is asked nothing, and only its end is waited for. */
#include "sp/upgrade.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "sp/lead.h"

/* A machine under load starts slowly; what has ended by itself is not waited for. */
enum { LOOK_MS = 1000, START_MS = 180000, GIFT_MS = 5000 };

static struct hypervisor_of *old_one(const struct upgrading *up)
{
        return &up->sp->hypervisors[up->from];
}

static struct hypervisor_of *successor(const struct upgrading *up)
{
        return &up->sp->hypervisors[up->to];
}

bool upgrading_is_under_way(const struct sp *sp)
{
        return sp->upgrading && !upgrade_is_final(&sp->upgrading->core);
}

static int is_busy(const struct upgrading *up, struct err *err)
{
        const struct server *s = &up->sp->server;
        return err_set(err, REASON_BUSY, EBUSY,
                       "%s is being replaced by %s (upgrade %s): 'mete server upgrade'", s->names[up->from],
                       s->names[up->to], up->core.id);
}

int upgrading_check_other(const struct sp *sp, int hypervisor, struct err *err)
{
        const struct upgrading *up = sp->upgrading;
        if (!upgrading_is_under_way(sp) || (hypervisor != up->from && hypervisor != up->to))
                return 0;
        return is_busy(up, err);
}

int upgrading_check_stop(const struct sp *sp, int hypervisor, struct err *err)
{
        const struct upgrading *up = sp->upgrading;
        if (upgrading_is_under_way(sp) && upgrading_may_give_up(up, hypervisor))
                return 0;
        return upgrading_check_other(sp, hypervisor, err);
}

/* While it may be undone all that the successor has, and was not nobody's, is the old one's to have back.
 * Then it is its in the end, whichever of both gets it; either may be what a VM has no room without. */
int upgrading_check_give(const struct sp *sp, int from, int to, struct err *err)
{
        const struct upgrading *up = sp->upgrading;
        bool is_forward =
                upgrading_is_under_way(sp) && up->core.state == UPGRADE_MOVING && up->core.has_moved;
        if (is_forward && from != up->from && (to == up->to || to == up->from))
                return 0;
        int bad = upgrading_check_other(sp, from, err);
        return bad ? bad : upgrading_check_other(sp, to, err);
}

int upgrading_check_arrival(const struct sp *sp, int to, struct err *err)
{
        const struct upgrading *up = sp->upgrading;
        if (!upgrading_is_under_way(sp) || to != (upgrade_is_back(&up->core) ? up->to : up->from))
                return 0;
        return is_busy(up, err);
}

void upgrading_wake(struct sp *sp)
{
        if (sp->upgrading)
                loop_timer_in(&sp->upgrading->look, 0);
}

void upgrading_waits(struct upgrading *up, const char *fmt, ...)
{
        char text[sizeof(up->problem)];
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(text, sizeof(text), fmt, args);
        va_end(args);
        if (strcmp(text, up->problem) != 0)
                log_info("upgrade %s: %s: %s", up->core.id, upgrade_state_name(up->core.state), text);
        (void)STR_COPY(up->problem, text);
}

/* ---- what is decided ---- */

struct upgrade *upgrading_before(const struct upgrading *up)
{
        return g_memdup2(&up->core, sizeof(up->core));
}

/* What was nobody's before becomes that again. */
static void return_to_nobody(struct upgrading *up)
{
        struct server *s = &up->sp->server;
        for (uint32_t i = 0; i < s->n_components; i++) {
                struct server_portion p = {.component = i, .amount = up->taken[i]};
                if (p.amount > 0)
                        server_set_aside(s, up->to, &p, 1);
        }
}

/* What follows from a state that is entered. */
static void books(struct upgrading *up)
{
        switch (up->core.state) {
        case UPGRADE_STARTING:
                successor(up)->is_wanted = true;
                break;
        case UPGRADE_RETIRING:
                old_one(up)->is_wanted = false;
                break;
        case UPGRADE_DONE:
                server_retire(&up->sp->server, up->from, up->to);
                break;
        case UPGRADE_STOPPING:
                successor(up)->is_wanted = false;
                break;
        case UPGRADE_UNDONE:
                return_to_nobody(up);
                server_retire(&up->sp->server, up->to, up->from);
                break;
        case UPGRADE_LENDING:
        case UPGRADE_CHECKING:
        case UPGRADE_MOVING:
        case UPGRADE_GIVING:
        case UPGRADE_RECALLING:
        case UPGRADE_RETURNING:
        case UPGRADE_STATE_N:
                break;
        }
        up->ended_ms = upgrade_is_final(&up->core) ? loop_now_ms() : 0;
}

struct partition_before {
        struct server_share *shares;
        int64_t epoch, ended_ms;
        bool was_wanted[2];
};

static struct partition_before remember(const struct upgrading *up)
{
        const struct server *s = &up->sp->server;
        return (struct partition_before){
                .shares = g_memdup2(s->shares,
                                    (s->n_components + 1) * SERVER_HYPERVISORS_MAX * sizeof(*s->shares)),
                .epoch = s->epoch,
                .ended_ms = up->ended_ms,
                .was_wanted = {old_one(up)->is_wanted, successor(up)->is_wanted}
        };
}

static void recall(struct upgrading *up, const struct partition_before *b)
{
        struct server *s = &up->sp->server;
        memcpy(s->shares, b->shares, (s->n_components + 1) * SERVER_HYPERVISORS_MAX * sizeof(*s->shares));
        s->epoch = b->epoch;
        up->ended_ms = b->ended_ms;
        old_one(up)->is_wanted = b->was_wanted[0];
        successor(up)->is_wanted = b->was_wanted[1];
}

static void entered(struct upgrading *up)
{
        *up->problem = '\0';
        up->is_short = up->was_handing = false;
        up->rank = 0;
        up->silent_mono_ms = 0;
        up->entered_mono_ms = loop_mono_ms();
        upgrading_forget_parts(up);
        upgrading_forget_list(up);
        upgrading_forget_room(up);
        for (int k = 0; k < up->sp->server.n; k++)
                hypervisor_look(&up->sp->hypervisors[k]);
}

int upgrading_put(struct upgrading *up, struct upgrade *before, const struct upgrade_vm *vm,
                  const char *event, const char *text)
{
        const struct upgrade *u = &up->core;
        bool is_entered = before->state != u->state;
        struct partition_before b = remember(up);
        struct err err = {0};
        char subject[REQUEST_KEY], name[32];
        if (is_entered)
                books(up);
        if (vm)
                (void)snprintf(subject, sizeof(subject), "vm:%s", vm->name);
        else
                (void)snprintf(subject, sizeof(subject), "hypervisor:%s", up->sp->server.names[up->from]);
        (void)snprintf(name, sizeof(name), "upgrade-%s", event);
        int bad = journal_upgrade(up->sp, up, is_entered, u->id, subject, name, &err, "%s", text);
        if (bad) {
                log_warn("upgrade %s: %s", u->id, err.sentence);
                up->core = *before;
                recall(up, &b);
                loop_timer_in(&up->look, LOOK_MS);
        } else if (is_entered) {
                entered(up);
                upgrading_wake(up->sp);
        }
        g_free(b.shares);
        g_free(before);
        return bad;
}

int upgrading_turn(struct upgrading *up, enum upgrade_event ev, enum reason reason, const char *sentence)
{
        struct upgrade *before = upgrading_before(up);
        struct err err = {0};
        int r = upgrade_step(&up->core, ev, reason, sentence, &err);
        if (r > 0)
                return upgrading_put(up, before, NULL, upgrade_state_name(up->core.state),
                                     sentence ? sentence : "");
        g_free(before);
        return r;
}

int upgrading_cancel(struct upgrading *up, struct err *err)
{
        static const char why[] = "somebody wanted it no longer";
        struct upgrade *before = upgrading_before(up);
        int r = upgrade_is_final(&up->core)
                        ? 0
                        : upgrade_step(&up->core, UPGRADE_EV_CANCEL, REASON_CANCELLED, why, err);
        if (r > 0)
                return upgrading_put(up, before, NULL, upgrade_state_name(up->core.state), why)
                               ? err_set(err, REASON_INTERNAL, EIO, "%.200s", up->sp->problem.sentence)
                               : 0;
        g_free(before);
        return r;
}

/* From then on somebody may make VMs there. */
int upgrading_telling(struct sp *sp, int hypervisor)
{
        struct upgrading *up = sp->upgrading;
        if (!upgrading_is_under_way(sp) || hypervisor != up->to || up->has_run)
                return 0;
        up->has_run = true;
        int bad = upgrading_put(up, upgrading_before(up), NULL, "told", "its successor is told its part");
        up->has_run = !bad;
        return bad;
}

/* ---- what is to be done ---- */

/* From or to one of both. */
static bool is_giving(const struct upgrading *up)
{
        const struct server_giving *g = &up->sp->server.giving;
        return g->amount > 0 &&
               (g->from == up->from || g->from == up->to || g->to == up->from || g->to == up->to);
}

static void look_lending(struct upgrading *up)
{
        const struct server *s = &up->sp->server;
        char why[HANDOVER_SENTENCE];
        if (!upgrading_lend(up))
                return;
        bool has_cpu = server_sum(s, up->to, COMPONENT_CPU) > 0;
        if (has_cpu && server_sum(s, up->to, COMPONENT_MEMORY) > 0) {
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
                return;
        }
        (void)snprintf(why, sizeof(why),
                       "%s has no %s that it can lend %s: end or move something there, or give the successor "
                       "what is nobody's (--cpus, --memory)",
                       s->names[up->from], has_cpu ? "memory" : "CPU", s->names[up->to]);
        (void)upgrading_turn(up, UPGRADE_EV_FAILED, REASON_NO_CAPACITY, why);
}

static void look_starting(struct upgrading *up)
{
        const struct hypervisor_of *h = successor(up);
        char why[HANDOVER_SENTENCE];
        bool is_late = loop_mono_ms() - up->entered_mono_ms > START_MS;
        if (h->state == API_SERVER_STATE_RUNNING) {
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
        } else if (is_late || (*h->problem && h->state == API_SERVER_STATE_WAITING)) {
                (void)snprintf(why, sizeof(why), "%s does not start: %.120s", hypervisor_name(h),
                               *h->problem ? h->problem : "it does not say that it runs");
                (void)upgrading_turn(up, UPGRADE_EV_FAILED, is_late ? REASON_TIMEOUT : REASON_PEER_LOST, why);
        }
}

static bool is_claimed(struct upgrading *up, const struct hypervisor_of *at)
{
        if (*up->holder)
                upgrading_waits(up, "%s has something of %s: release it", up->holder, hypervisor_name(at));
        return *up->holder;
}

static void waits_for_lead(struct upgrading *up, const struct leading *l)
{
        upgrading_waits(up, "%s is being handed over (%s)", l->vm, l->core.row.id);
}

/* Of somebody else: what comes of it is in no list that was begun before it ended. */
static const struct leading *handing(struct upgrading *up, int hypervisor)
{
        const struct leading *l = lead_of(up->sp, hypervisor);
        if (!l && up->was_handing)
                upgrading_forget_list(up);
        up->was_handing = l != NULL;
        return l;
}

/* It is not asked any more. A handover may still be decided without it, and what belongs to that VM changes
 * hands then: that comes before all else that it has does. */
static void look_at_given_up(struct upgrading *up, const struct hypervisor_of *h)
{
        const struct leading *l = lead_undecided(up->sp, h->number);
        if (h->is_down && l)
                waits_for_lead(up, l);
        else if (h->is_down)
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
}

static void look_giving(struct upgrading *up)
{
        const struct hypervisor_of *h = old_one(up);
        if (!h->is_wanted) {
                look_at_given_up(up, h);
                return;
        }
        const struct leading *l = handing(up, up->from);
        if (!upgrading_list(up, up->from))
                return;
        if (l)
                waits_for_lead(up, l);
        else if (up->n_there > 0)
                (void)upgrading_turn(up, UPGRADE_EV_CAME, 0, NULL);
        else if (!is_claimed(up, h) && upgrading_give_rest(up, up->from, up->to) && !up->is_refused)
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
}

static void look_returning(struct upgrading *up)
{
        const struct hypervisor_of *h = successor(up);
        if (!up->has_run) {
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
                return;
        }
        if (!h->is_wanted) {
                look_at_given_up(up, h);
                return;
        }
        const struct leading *l = handing(up, up->to);
        if (!upgrading_list(up, up->to))
                return;
        if (l)
                waits_for_lead(up, l);
        else if (up->n_there > 0)
                upgrading_waits(up, "%s is at %s: hand it over, or delete it", up->there[0].name,
                                hypervisor_name(h));
        else if (!is_claimed(up, h) && upgrading_give_rest(up, up->to, up->from) && !up->is_refused)
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
}

static void look_at_end(struct upgrading *up, const struct hypervisor_of *h)
{
        if (h->is_down)
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
}

/* What is lent no longer is taken back at once, where the old one did not let go of it yet; so is what one
 * that was given up never will let go of. */
static bool is_in_vain(const struct upgrading *up, const struct server_giving *g)
{
        const struct hypervisor_of *h = &up->sp->hypervisors[g->from];
        bool is_of_both = g->from == up->from || g->from == up->to;
        return (upgrade_is_back(&up->core) && g->from == up->from) ||
               (is_of_both && !h->is_wanted && h->is_down);
}

/* One that takes long is said, whoever gives it; the giver may be the one that is given up then. */
static void look_at_giving(struct upgrading *up)
{
        const struct server *s = &up->sp->server;
        const struct server_giving *g = &s->giving;
        enum upgrade_state state = up->core.state;
        struct err err = {0};
        if (up->giving_mono_ms == 0)
                up->giving_mono_ms = loop_mono_ms();
        if (is_in_vain(up, g)) {
                if (give_cancel(up->sp, &err))
                        log_warn("upgrade %s: %s", up->core.id, err.sentence);
                return;
        }
        if (loop_mono_ms() - up->giving_mono_ms < GIFT_MS)
                return;
        if ((state == UPGRADE_GIVING && g->from == up->from && !upgrading_list(up, up->from)) ||
            (state == UPGRADE_RETURNING && g->from == up->to && !upgrading_list(up, up->to)))
                return;
        upgrading_waits(up, "%s is on its way from %s to %s", s->components[g->component].id,
                        s->names[g->from], s->names[g->to]);
        up->is_gift_said = true;
}

static void look(struct upgrading *up)
{
        if (is_giving(up)) {
                look_at_giving(up);
                return;
        }
        switch (up->core.state) {
        case UPGRADE_LENDING:
                look_lending(up);
                break;
        case UPGRADE_STARTING:
                look_starting(up);
                break;
        case UPGRADE_CHECKING:
        case UPGRADE_MOVING:
                upgrading_look_at_vms(up);
                break;
        case UPGRADE_GIVING:
                look_giving(up);
                break;
        case UPGRADE_RETIRING:
                look_at_end(up, old_one(up));
                break;
        case UPGRADE_RECALLING:
                upgrading_recall(up);
                break;
        case UPGRADE_RETURNING:
                look_returning(up);
                break;
        case UPGRADE_STOPPING:
                look_at_end(up, successor(up));
                break;
        case UPGRADE_DONE:
        case UPGRADE_UNDONE:
        case UPGRADE_STATE_N:
                break;
        }
}

static void on_look(void *arg)
{
        struct upgrading *up = arg;
        if (upgrade_is_final(&up->core))
                return;
        look(up);
        if (!upgrade_is_final(&up->core) && !loop_timer_is_set(&up->look))
                loop_timer_in(&up->look, LOOK_MS);
}

/* ---- begin, go on, end ---- */

void upgrading_begin(struct upgrading *up)
{
        loop_timer_init(&up->look, on_look, up);
        up->entered_mono_ms = loop_mono_ms();
        up->sp->upgrading = up;
        upgrading_wake(up->sp);
}

void upgrading_free(struct upgrading *up)
{
        if (!up)
                return;
        upgrading_forget_list(up);
        upgrading_forget_parts(up);
        upgrading_forget_room(up);
        g_free(up->taken);
        g_free(up);
}

void upgrading_end(struct sp *sp)
{
        if (sp->upgrading)
                loop_timer_cancel(&sp->upgrading->look);
        upgrading_free(sp->upgrading);
        sp->upgrading = NULL;
}

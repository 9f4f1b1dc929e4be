/* SPDX-License-Identifier: Apache-2.0 */
/* Which VMs there are is asked of who has them, again after whatever happened to one. Each is tried, then
 * handed over, by handovers with names of their own (upgrade_handover()): the name is journalled before the
 * handover begins, so that after a restart there is that one handover, or it is begun by the same name. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "sp/lead.h"
#include "sp/upgrade.h"

enum { ASK_MS = 5000, FRESH_MS = 1000, PAGES_MAX = 32, PAGE = 64, PATIENCE_MS = 10000 };

/* ---- who is there ---- */

void upgrading_forget_list(struct upgrading *up)
{
        if (up->call)
                http_call_cancel(up->call);
        up->call = NULL;
        up->is_listed = false;
        g_free(up->there);
        up->there = NULL;
        up->n_there = 0;
        up->pages = 0;
        *up->holder = '\0';
}

static const struct upgrading_there *find_there(const struct upgrading *up, const char *vm)
{
        for (size_t i = 0; i < up->n_there; i++)
                if (strcmp(up->there[i].name, vm) == 0)
                        return &up->there[i];
        return NULL;
}

static void ask_page(struct upgrading *up, int hypervisor, const char *after);

static int asked_of(const struct upgrading *up)
{
        return up->core.state == UPGRADE_RETURNING ? up->to : up->from;
}

/* What is called as no VM can be is none. */
static void take_page(struct upgrading *up, const json_t *page)
{
        json_t *vms = json_object_get(page, "vms"), *vm;
        size_t i;
        up->there = g_renew(struct upgrading_there, up->there, up->n_there + PAGE);
        json_array_foreach(vms, i, vm)
        {
                const char *name = json_string_value(json_object_get(vm, "name")),
                           *state = json_string_value(json_object_get(vm, "state"));
                struct upgrading_there *to = &up->there[up->n_there];
                if (i >= PAGE || !name || !state || !str_is_name(name) || find_there(up, name))
                        continue;
                *to = (struct upgrading_there){.runs = strcmp(state, "running") == 0,
                                               .is_stopped = strcmp(state, "stopped") == 0};
                up->n_there += STR_COPY(to->name, name);
        }
}

static void is_known(struct upgrading *up)
{
        up->is_listed = true;
        up->listed_mono_ms = loop_mono_ms();
        up->silent_mono_ms = 0;
        upgrading_wake(up->sp);
}

static bool is_silent(const struct upgrading *up)
{
        return up->silent_mono_ms > 0 && loop_mono_ms() - up->silent_mono_ms > PATIENCE_MS;
}

bool upgrading_may_give_up(const struct upgrading *up, int hypervisor)
{
        const struct upgrade *u = &up->core;
        bool is_old = hypervisor == up->from && (u->state == UPGRADE_GIVING || u->state == UPGRADE_MOVING),
             is_new = hypervisor == up->to && u->state == UPGRADE_RETURNING;
        if (is_old && u->state == UPGRADE_MOVING) /* none that is known is there still */
                is_old = u->has_moved && upgrade_is_through(u);
        return (is_old || is_new) && is_silent(up);
}

static void waits_for_word(struct upgrading *up, const char *what)
{
        int k = asked_of(up);
        const char *name = up->sp->server.names[k];
        bool may = upgrading_may_give_up(up, k);
        upgrading_waits(up, "%s %s%s%s%s", name, what, may ? "; if there are none: 'mete server stop " : "",
                        may ? name : "", may ? "'" : "");
}

static void is_unknown(struct upgrading *up)
{
        upgrading_forget_list(up);
        waits_for_word(up, "does not say which VMs it has");
        loop_timer_in(&up->look, FRESH_MS);
}

static void on_claims(void *arg, const struct http_answer *got, const struct cert_id *peer,
                      const struct err *err)
{
        struct upgrading *up = arg;
        struct err bad = {0};
        (void)peer;
        up->call = NULL;
        json_t *v = err || got->status != 200 ? NULL : json_read(got->body, got->body_n, &bad);
        const json_t *claims = json_object_get(v, "claims"),
                     *holder = json_object_get(json_array_get(claims, 0), "holder");
        bool is_good = json_is_array(claims);
        if (is_good && json_array_size(claims) > 0)
                (void)snprintf(up->holder, sizeof(up->holder), "%.100s",
                               json_is_string(holder) ? json_string_value(holder) : "somebody");
        json_decref(v);
        if (is_good)
                is_known(up);
        else
                is_unknown(up);
}

/* A reservation has no VM, and would be lost with its hypervisor as well. */
static void ask_claims(struct upgrading *up)
{
        struct http_target target = hypervisor_target(&up->sp->hypervisors[asked_of(up)]);
        struct err err = {0};
        up->call = http_call(up->sp->calls, &target, "GET", "/v1/ledger?limit=1", NULL, 0, ASK_MS, on_claims,
                             up, &err);
}

static void on_page(void *arg, const struct http_answer *got, const struct cert_id *peer,
                    const struct err *err)
{
        struct upgrading *up = arg;
        struct err bad = {0};
        char after[UPGRADE_NAME] = "";
        (void)peer;
        up->call = NULL;
        json_t *v = err || got->status != 200 ? NULL : json_read(got->body, got->body_n, &bad);
        bool is_good = json_is_array(json_object_get(v, "vms")) && up->pages < PAGES_MAX;
        const char *next = json_string_value(json_object_get(v, "next"));
        if (is_good && next)
                is_good = str_is_name(next) && STR_COPY(after, next);
        if (is_good)
                take_page(up, v);
        json_decref(v);
        bool is_ending = up->core.state == UPGRADE_GIVING || up->core.state == UPGRADE_RETURNING;
        if (!is_good)
                is_unknown(up);
        else if (*after)
                ask_page(up, asked_of(up), after);
        else if (is_ending && up->n_there == 0)
                ask_claims(up);
        else
                is_known(up);
}

static void ask_page(struct upgrading *up, int hypervisor, const char *after)
{
        struct http_target target = hypervisor_target(&up->sp->hypervisors[hypervisor]);
        struct err err = {0};
        char path[128];
        (void)snprintf(path, sizeof(path), "/v1/vms?limit=%d%s%s", PAGE, *after ? "&after=" : "", after);
        up->pages++;
        up->call = http_call(up->sp->calls, &target, "GET", path, NULL, 0, ASK_MS, on_page, up, &err);
}

bool upgrading_list(struct upgrading *up, int hypervisor)
{
        struct hypervisor_of *h = &up->sp->hypervisors[hypervisor];
        if (up->is_listed && loop_mono_ms() - up->listed_mono_ms <= FRESH_MS)
                return true;
        if (up->call)
                return false;
        upgrading_forget_list(up);
        if (up->silent_mono_ms == 0)
                up->silent_mono_ms = loop_mono_ms();
        if (h->state == API_SERVER_STATE_RUNNING)
                ask_page(up, hypervisor, "");
        else if (is_silent(up)) /* else it is being found again */
                waits_for_word(up, "does not run: only it knows its VMs");
        return false;
}

/* ---- how handovers ended ---- */

static struct leading *lead_of_vm(const struct upgrading *up, const struct upgrade_vm *vm)
{
        char id[HANDOVER_ID];
        upgrade_handover(&up->core, vm, id);
        return lead_find(up->sp, id);
}

/* It may stand in the journal of the upgrade without having begun, or be begun by somebody else who used its
 * name: then it is none of ours. */
static bool is_ours(const struct upgrading *up, const struct leading *l, const struct upgrade_vm *vm)
{
        return l->from == up->from && l->to == up->to && strcmp(l->vm, vm->name) == 0;
}

static void take_end(struct upgrading *up, struct upgrade_vm *vm, const struct leading *l)
{
        struct upgrade *before = upgrading_before(up), *u = &up->core;
        const struct handover_row *row = &l->core.row;
        struct err err = {0};
        bool is_theirs = l->is_assigned && !l->is_dry, has_run = row->state == HANDOVER_RUNNING;
        enum reason reason = has_run || (l->is_dry && l->would) ? 0
                             : row->reason                      ? row->reason
                                                                : REASON_INTERNAL;
        const char *event = has_run ? "went" : !reason ? "fits" : "again";
        vm->gap_us = has_run ? l->gap_us : vm->gap_us;
        if (row->state == HANDOVER_LOST) {
                upgrade_died(u, vm, reason, row->sentence);
                event = "lost";
        } else if (!upgrade_ended(u, vm, reason, row->sentence, loop_mono_ms())) {
                event = "unfit";
        }
        up->is_short = up->is_short || (reason == REASON_NO_CAPACITY && !l->is_dry);
        if (has_run || is_theirs)
                (void)upgrade_step(u, UPGRADE_EV_WENT, 0, NULL, &err);
        if (upgrading_put(up, before, vm, event, vm->sentence) == 0)
                upgrading_forget_list(up);
}

static void take_ends(struct upgrading *up)
{
        struct upgrade *u = &up->core;
        enum upgrade_state s = u->state;
        for (size_t i = 0; i < u->n && u->state == s; i++) {
                const struct leading *l =
                        upgrade_vm_is_at_work(&u->vms[i]) ? lead_of_vm(up, &u->vms[i]) : NULL;
                if (l && is_ours(up, l, &u->vms[i]) && handover_is_final(&l->core))
                        take_end(up, &u->vms[i], l);
        }
}

/* ---- asked for ---- */

static void words_of(const struct upgrading *up, const struct upgrade_vm *vm, struct api_handover_start *ret)
{
        char id[HANDOVER_ID];
        *ret = (struct api_handover_start){.has_id = true,
                                           .has_from = true,
                                           .has_max_gap_ms = up->max_gap_ms > 0,
                                           .max_gap_ms = up->max_gap_ms};
        ret->has_dry_run = ret->dry_run = up->core.state == UPGRADE_CHECKING;
        (void)STR_COPY(ret->vm, vm->name);
        (void)STR_COPY(ret->from, up->sp->server.names[up->from]);
        (void)STR_COPY(ret->to, up->sp->server.names[up->to]);
        upgrade_handover(&up->core, vm, id);
        (void)STR_COPY(ret->id, id); /* UPGRADE_ID leaves room for the rest */
}

/* The last of those of a look. It is said only where nothing goes on: else it would be said, and be of no
 * matter, again and again. */
__attribute__((format(printf, 2, 3))) static void why_not(struct upgrading *up, const char *fmt, ...)
{
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(up->why, sizeof(up->why), fmt, args);
        va_end(args);
}

/* As lead_may_begin(). */
static int may_begin(struct upgrading *up, const struct upgrade_vm *vm)
{
        struct api_handover_start in;
        struct err err = {0};
        words_of(up, vm, &in);
        int bad = lead_may_begin(up->sp, &in, up->from, &err);
        if (bad)
                why_not(up, "%s: %.150s", vm->name, err.sentence);
        return bad;
}

/* Asked for, by its name, and journalled: it begins, or does when it is looked again. */
static void begin(struct upgrading *up, const struct upgrade_vm *vm)
{
        struct api_handover_start in;
        struct leading *l = NULL;
        struct err err = {0};
        words_of(up, vm, &in);
        if (lead_begin(up->sp, &in, up->from, up->to, &l, &err))
                why_not(up, "%s: %.150s", vm->name, err.sentence);
}

/* false: not now, nor another. */
static bool ask(struct upgrading *up, struct upgrade_vm *vm)
{
        struct upgrade *before = NULL;
        char text[64];
        int bad = may_begin(up, vm);
        if (bad == -EALREADY)
                upgrade_later(&up->core, vm, loop_mono_ms());
        if (bad)
                return bad == -EALREADY;
        before = upgrading_before(up);
        upgrade_ask(&up->core, vm);
        upgrade_handover(&up->core, vm, text);
        if (upgrading_put(up, before, vm, up->core.state == UPGRADE_CHECKING ? "tried" : "asked", text))
                return false;
        begin(up, vm);
        return true;
}

/* Those that were asked for before a restart, and did not begin; or that somebody else has the name of. */
static void begin_again(struct upgrading *up)
{
        struct upgrade *u = &up->core;
        for (size_t i = 0; i < u->n; i++) {
                struct upgrade_vm *vm = &u->vms[i];
                const struct leading *l = upgrade_vm_is_at_work(vm) ? lead_of_vm(up, vm) : NULL;
                const struct upgrading_there *at = find_there(up, vm->name);
                if (!upgrade_vm_is_at_work(vm) || (l && is_ours(up, l, vm)))
                        continue;
                if (!l && at && at->runs) {
                        if (may_begin(up, vm) == 0)
                                begin(up, vm);
                        continue;
                }
                struct upgrade *before = upgrading_before(up);
                (void)upgrade_ended(u, vm, REASON_STALE,
                                    l ? "another handover has its name" : "it was not there", loop_mono_ms());
                (void)upgrading_put(up, before, vm, "again", vm->sentence);
        }
}

/* ---- all of them ---- */

/* Those that are new, and those that are not there any more. 0; negative: it cannot be gone on with now. */
static int compare(struct upgrading *up)
{
        struct upgrade *u = &up->core;
        struct err err = {0};
        for (size_t i = 0; i < up->n_there; i++) {
                const struct upgrading_there *at = &up->there[i];
                if (!at->runs || upgrade_add(u, at->name, &err) == 0)
                        continue;
                if (u->state == UPGRADE_CHECKING) {
                        (void)upgrading_turn(up, UPGRADE_EV_FAILED, err.reason, err.sentence);
                        return -ENOSPC;
                }
                why_not(up, "%s: %.100s: hand it over by hand", at->name, err.sentence);
        }
        for (size_t i = 0; i < u->n; i++) {
                struct upgrade_vm *vm = &u->vms[i];
                bool is_open = vm->state == UPGRADE_VM_WAITING || vm->state == UPGRADE_VM_FITS;
                if (!is_open || find_there(up, vm->name))
                        continue;
                struct upgrade *before = upgrading_before(up);
                upgrade_left(u, vm);
                if (upgrading_put(up, before, vm, "left", "it is not there any more"))
                        return -EIO;
        }
        return 0;
}

static bool is_going(const struct upgrading *up, const char *name)
{
        for (size_t i = 0; i < up->core.n; i++)
                if (strcmp(up->core.vms[i].name, name) == 0)
                        return upgrade_vm_is_at_work(&up->core.vms[i]);
        return false;
}

/* One that does not run cannot be handed over, and would be lost with its hypervisor. */
static const struct upgrading_there *not_running(const struct upgrading *up, bool is_stopped)
{
        for (size_t i = 0; i < up->n_there; i++)
                if (!up->there[i].runs && (!is_stopped || up->there[i].is_stopped) &&
                    !is_going(up, up->there[i].name))
                        return &up->there[i];
        return NULL;
}

static bool fails(struct upgrading *up)
{
        struct upgrade *u = &up->core;
        char why[HANDOVER_SENTENCE];
        const struct upgrading_there *stopped = up->is_listed ? not_running(up, true) : NULL;
        for (size_t i = 0; i < u->n; i++) {
                const struct upgrade_vm *vm = &u->vms[i];
                if (vm->state != UPGRADE_VM_UNFIT)
                        continue;
                (void)snprintf(why, sizeof(why), "%.40s: %.115s", vm->name, vm->sentence);
                (void)upgrading_turn(up, UPGRADE_EV_FAILED, vm->reason, why);
                return true;
        }
        if (!stopped || u->state != UPGRADE_CHECKING)
                return false;
        (void)snprintf(why, sizeof(why),
                       "%.40s does not run at %s: only a running VM is handed over: start it, or "
                       "delete it",
                       stopped->name, up->sp->server.names[up->from]);
        (void)upgrading_turn(up, UPGRADE_EV_FAILED, REASON_STALE, why);
        return true;
}

static unsigned at_work(const struct upgrade *u)
{
        return (unsigned)(upgrade_count(u, UPGRADE_VM_CHECKING) + upgrade_count(u, UPGRADE_VM_UNDER_WAY));
}

/* Some of them goes on by itself: not one that was asked for, and could not begin. */
static bool goes_on(const struct upgrading *up)
{
        for (size_t i = 0; i < up->core.n; i++) {
                const struct upgrade_vm *vm = &up->core.vms[i];
                const struct leading *l = upgrade_vm_is_at_work(vm) ? lead_of_vm(up, vm) : NULL;
                if (l && is_ours(up, l, vm))
                        return true;
        }
        return false;
}

/* What VMs that went had there may be what others have no room for; those of another rank count on it. */
static bool lends_more(struct upgrading *up)
{
        const struct upgrade *u = &up->core;
        uint32_t rank = upgrade_rank(u);
        if (u->state != UPGRADE_MOVING)
                return false;
        up->is_short = up->is_short || (rank > 1 && rank != up->rank);
        up->rank = rank;
        if (!up->is_short || at_work(u) > 0 || upgrade_is_through(u))
                return false;
        if (upgrading_lend(up)) {
                up->is_short = false;
                upgrading_forget_parts(up);
        }
        return up->is_short;
}

/* Nothing is under way, and something is to be tried again: why, and what may help. */
static void say_retried(struct upgrading *up)
{
        const struct upgrade *u = &up->core;
        const struct upgrade_vm *vm = upgrade_retried(u);
        if (vm && u->has_moved && up->max_gap_ms > 0)
                upgrading_waits(
                        up,
                        "%.40s: %.60s; again soon; --id %s with another --max-gap, or hand it over by hand",
                        vm->name, vm->sentence, u->id);
        else if (vm)
                upgrading_waits(up, "%.60s: %.100s; it is tried again soon", vm->name, vm->sentence);
}

/* The order stands in the journal with the state in which it counts. */
static void are_through(struct upgrading *up)
{
        struct upgrade *before = upgrading_before(up), *u = &up->core;
        struct err err = {0};
        if (u->state == UPGRADE_CHECKING)
                upgrading_order(up);
        (void)upgrade_step(u, UPGRADE_EV_DONE, 0, NULL, &err); /* neither is too late for that */
        (void)upgrading_put(up, before, NULL, upgrade_state_name(u->state), "");
}

/* true: there is nothing to be asked of the old one now. */
static bool look_before(struct upgrading *up)
{
        enum upgrade_state s = up->core.state;
        take_ends(up);
        if (up->core.state != s || fails(up))
                return true;
        if (s != UPGRADE_MOVING || up->sp->hypervisors[up->from].is_wanted)
                return lends_more(up);
        if (upgrade_is_through(&up->core)) /* it was given up, which may be only then */
                are_through(up);
        return true;
}

void upgrading_look_at_vms(struct upgrading *up)
{
        struct upgrade *u = &up->core;
        enum upgrade_state s = u->state;
        unsigned at_once = s == UPGRADE_CHECKING ? 1 : LEADS_PAIR_MAX;
        struct upgrade_vm *vm;
        *up->why = '\0';
        if (look_before(up) || !upgrading_list(up, up->from) || fails(up) || compare(up))
                return;
        const struct upgrading_there *other = not_running(up, false);
        begin_again(up);
        while ((vm = upgrade_next(u, at_once, loop_mono_ms())) && ask(up, vm))
                ;
        bool is_through = upgrade_is_through(u) && (s == UPGRADE_CHECKING || up->n_there == 0);
        if (!is_through)
                upgrading_forget_room(up); /* of those before */
        if (other)
                upgrading_waits(up, "%s does not run at %s: start it, or delete it", other->name,
                                up->sp->server.names[up->from]);
        else if (is_through && (s != UPGRADE_CHECKING || upgrading_has_room(up)))
                are_through(up);
        else if (u->state != s)
                return;
        else if (goes_on(up))
                *up->problem = '\0';
        else if (*up->why)
                upgrading_waits(up, "%s", up->why);
        else if (!upgrade_next(u, at_once, loop_mono_ms()))
                say_retried(up);
}

/* A handover that never began is none; one that is committed goes on. */
void upgrading_recall(struct upgrading *up)
{
        struct upgrade *u = &up->core;
        struct err err = {0};
        take_ends(up);
        for (size_t i = 0; i < u->n && u->state == UPGRADE_RECALLING; i++) {
                struct upgrade_vm *vm = &u->vms[i];
                struct leading *l = upgrade_vm_is_at_work(vm) ? lead_of_vm(up, vm) : NULL;
                if (!upgrade_vm_is_at_work(vm))
                        continue;
                if (l && is_ours(up, l, vm)) {
                        if (!handover_is_final(&l->core))
                                (void)lead_cancel(l, REASON_CANCELLED, "the upgrade is undone", &err);
                        continue;
                }
                struct upgrade *before = upgrading_before(up);
                (void)upgrade_ended(u, vm, REASON_CANCELLED, "the upgrade is undone", loop_mono_ms());
                (void)upgrading_put(up, before, vm, "again", vm->sentence);
        }
        take_ends(up); /* what could be broken off at once */
        if (u->state == UPGRADE_RECALLING && at_work(u) == 0)
                (void)upgrading_turn(up, UPGRADE_EV_DONE, 0, NULL);
}

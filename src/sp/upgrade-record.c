/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "sp/upgrade.h"

/* ---- for the store ---- */

static void vm_out(const struct upgrade_vm *vm, struct api_server_upgrade_vm *ret)
{
        (void)STR_COPY(ret->name, vm->name);
        (void)STR_COPY(ret->state, upgrade_vm_state_name(vm->state));
        ret->tries = vm->tries;
        ret->has_number = true;
        ret->number = vm->number;
        ret->has_rank = vm->rank > 0;
        ret->rank = vm->rank;
        ret->has_gap_us = vm->gap_us >= 0;
        ret->gap_us = vm->gap_us;
        ret->has_reason = vm->reason != 0;
        ret->reason = vm->reason;
        ret->has_sentence = *vm->sentence != '\0';
        (void)STR_COPY(ret->sentence, vm->sentence);
}

static void out(const struct upgrading *up, struct api_server_upgrade *r)
{
        const struct upgrade *u = &up->core;
        const struct server *s = &up->sp->server;
        (void)STR_COPY(r->id, u->id);
        (void)STR_COPY(r->from, s->names[up->from]);
        (void)STR_COPY(r->to, s->names[up->to]);
        (void)STR_COPY(r->state, upgrade_state_name(u->state));
        r->moved = u->has_moved;
        r->run = up->has_run;
        r->has_dry_run = r->dry_run = u->is_dry;
        r->has_would = r->would = u->would;
        r->has_max_gap_ms = up->max_gap_ms > 0;
        r->max_gap_ms = up->max_gap_ms;
        r->asked_ms = up->asked_ms;
        r->has_ended_ms = up->ended_ms > 0;
        r->ended_ms = up->ended_ms;
        r->has_reason = u->reason != 0;
        r->reason = u->reason;
        r->has_sentence = *u->sentence != '\0';
        (void)STR_COPY(r->sentence, u->sentence);
        for (uint32_t i = 0; i < s->n_components && r->n_taken < ARRAY_N(r->taken); i++) {
                if (up->taken[i] == 0)
                        continue;
                struct api_server_record_share *to = &r->taken[r->n_taken++];
                (void)STR_COPY(to->component, s->components[i].id);
                to->amount = up->taken[i];
        }
        for (size_t i = 0; i < u->n && r->n_vms < ARRAY_N(r->vms); i++)
                vm_out(&u->vms[i], &r->vms[r->n_vms++]);
}

char *upgrading_text(const struct upgrading *up)
{
        struct api_server_upgrade *r = g_new0(struct api_server_upgrade, 1);
        out(up, r);
        json_t *v = api_server_upgrade_emit(r);
        char *text = v ? json_write(v, NULL) : NULL;
        json_decref(v);
        g_free(r);
        return text;
}

static int vm_in(const struct api_server_upgrade_vm *r, struct upgrade *u, struct err *err)
{
        struct upgrade_vm *vm = &u->vms[u->n];
        *vm = (struct upgrade_vm){.state = upgrade_vm_state_from_name(r->state),
                                  .number = (uint32_t)(r->has_number ? r->number : r->tries),
                                  .tries = (uint32_t)r->tries,
                                  .rank = r->has_rank ? (uint32_t)r->rank : 0,
                                  .gap_us = r->has_gap_us ? r->gap_us : -1,
                                  .reason = r->has_reason ? r->reason : 0};
        if (!vm->state)
                return err_set(err, REASON_INVALID, EINVAL, "no VM of an upgrade is called %s", r->state);
        (void)STR_COPY(vm->name, r->name);
        (void)STR_COPY(vm->sentence, r->has_sentence ? r->sentence : "");
        u->n++;
        return 0;
}

static int in(struct sp *sp, const struct api_server_upgrade *r, struct upgrading *up, struct err *err)
{
        struct upgrade *u = &up->core;
        int bad = 0;
        upgrade_begin(u, r->id, r->has_dry_run && r->dry_run);
        u->state = upgrade_state_from_name(r->state);
        up->from = server_find(&sp->server, r->from);
        up->to = server_find(&sp->server, r->to);
        if (!u->state || up->from < 0 || up->to < 0 || up->from == up->to)
                return err_set(err, REASON_INVALID, EINVAL, "%s from %s to %s is no upgrade", r->state,
                               r->from, r->to);
        u->has_moved = r->moved;
        u->would = r->has_would && r->would;
        u->reason = r->has_reason ? r->reason : 0;
        (void)STR_COPY(u->sentence, r->has_sentence ? r->sentence : "");
        up->has_run = r->run;
        up->max_gap_ms = r->has_max_gap_ms ? r->max_gap_ms : 0;
        up->asked_ms = r->asked_ms;
        up->ended_ms = r->has_ended_ms ? r->ended_ms : 0;
        for (size_t i = 0; i < r->n_taken; i++) {
                int64_t at = server_component(&sp->server, r->taken[i].component);
                if (at >= 0) /* else this machine has it no more */
                        up->taken[at] = r->taken[i].amount;
        }
        for (size_t i = 0; i < r->n_vms && !bad; i++)
                bad = vm_in(&r->vms[i], u, err);
        return bad;
}

int upgrading_load(struct sp *sp, const char *text, struct err *err)
{
        struct api_server_upgrade *r = g_new0(struct api_server_upgrade, 1);
        struct upgrading *up = g_new0(struct upgrading, 1);
        json_t *v = json_read(text, strlen(text), err);
        *up = (struct upgrading){.sp = sp, .taken = g_new0(int64_t, sp->server.n_components + 1)};
        int bad = v ? api_server_upgrade_parse(v, r, err) : -EINVAL;
        if (!bad)
                bad = in(sp, r, up, err);
        json_decref(v);
        g_free(r);
        if (bad)
                upgrading_free(up);
        else
                sp->upgrading = up;
        return bad;
}

/* ---- for people ---- */

static void show_vm(const struct upgrade *u, const struct upgrade_vm *vm, struct api_upgrade_vm *ret)
{
        (void)STR_COPY(ret->name, vm->name);
        (void)STR_COPY(ret->state, upgrade_vm_state_name(vm->state));
        ret->tries = vm->tries;
        ret->has_handover = vm->tries > 0;
        if (vm->tries > 0) {
                char id[HANDOVER_ID];
                upgrade_handover(u, vm, id);
                (void)STR_COPY(ret->handover, id);
        }
        ret->has_gap_us = vm->gap_us >= 0;
        ret->gap_us = vm->gap_us;
        ret->has_reason = vm->reason != 0;
        ret->reason = vm->reason;
        ret->has_sentence = *vm->sentence != '\0';
        (void)STR_COPY(ret->sentence, vm->sentence);
}

static void sum_gaps(const struct upgrade *u, struct api_upgrade *ret)
{
        for (size_t i = 0; i < u->n; i++) {
                int64_t gap_us = u->vms[i].gap_us;
                if (u->vms[i].state != UPGRADE_VM_WENT || gap_us < 0)
                        continue;
                ret->has_gap_max_us = ret->has_gap_sum_us = true;
                ret->gap_sum_us += gap_us;
                ret->gap_max_us = MAX(ret->gap_max_us, gap_us);
        }
}

static void show(const struct upgrading *up, struct api_upgrade *ret)
{
        const struct upgrade *u = &up->core;
        const struct server *s = &up->sp->server;
        (void)STR_COPY(ret->id, u->id);
        (void)STR_COPY(ret->from, s->names[up->from]);
        (void)STR_COPY(ret->to, s->names[up->to]);
        (void)STR_COPY(ret->vmm, up->sp->hypervisors[up->to].vmm);
        (void)STR_COPY(ret->state, upgrade_state_name(u->state));
        ret->has_dry_run = ret->dry_run = u->is_dry;
        ret->has_would = u->is_dry && up->ended_ms > 0;
        ret->would = u->would;
        ret->has_max_gap_ms = up->max_gap_ms > 0;
        ret->max_gap_ms = up->max_gap_ms;
        ret->asked_ms = up->asked_ms;
        ret->has_ended_ms = up->ended_ms > 0;
        ret->ended_ms = up->ended_ms;
        for (size_t i = 0; i < u->n && ret->n_vms < ARRAY_N(ret->vms); i++)
                show_vm(u, &u->vms[i], &ret->vms[ret->n_vms++]);
        ret->went = (int64_t)upgrade_count(u, UPGRADE_VM_WENT);
        ret->left = (int64_t)(u->n - upgrade_count(u, UPGRADE_VM_WENT) - upgrade_count(u, UPGRADE_VM_LEFT));
        sum_gaps(u, ret);
        ret->has_reason = u->reason != 0;
        ret->reason = u->reason;
        ret->has_sentence = *u->sentence != '\0';
        (void)STR_COPY(ret->sentence, u->sentence);
        ret->has_problem = *up->problem && !upgrade_is_final(u);
        (void)STR_COPY(ret->problem, up->problem);
}

json_t *upgrading_view(const struct upgrading *up)
{
        struct api_upgrade *v = g_new0(struct api_upgrade, 1);
        show(up, v);
        json_t *out = api_upgrade_emit(v);
        g_free(v);
        return out;
}

void upgrading_show_brief(const struct upgrading *up, struct api_upgrade_brief *ret)
{
        const struct upgrade *u = &up->core;
        (void)STR_COPY(ret->id, u->id);
        (void)STR_COPY(ret->from, up->sp->server.names[up->from]);
        (void)STR_COPY(ret->to, up->sp->server.names[up->to]);
        (void)STR_COPY(ret->state, upgrade_state_name(u->state));
        ret->vms = (int64_t)u->n;
        ret->went = (int64_t)upgrade_count(u, UPGRADE_VM_WENT);
}

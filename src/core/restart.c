/* SPDX-License-Identifier: Apache-2.0 */
/* core/restart.c - the hypervisor made anew from what was recorded, and the check that it is sound. */
#include "core/hypervisor-internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/units.h"

static bool claim_again(struct hypervisor *h, const struct claim *c, claim_id *ret)
{
        int64_t owned = ledger_owned(h->ledger, c->component);
        ledger_set_owned(h->ledger, c->component, UNITS_MAX);
        int done = ledger_claim(h->ledger, c, ret);
        ledger_set_owned(h->ledger, c->component, owned);
        return done == 1;
}

int hypervisor_restore(struct hypervisor *h, struct request *row, int64_t now_ms, struct err *err)
{
        struct vm_entry *vm = NULL;
        if (row->kind != REQUEST_RESERVATION) {
                vm = find_vm(h, row->vm);
                if (!vm)
                        return err_set(err, REASON_INTERNAL, ENOENT, "%s belongs to a VM that is not defined",
                                       row->key);
        }
        if (find_key(h, row->key) || find_serial(h, row->serial))
                return err_set(err, REASON_INTERNAL, EEXIST, "%s stands in the store twice", row->key);
        struct entry *e = calloc(1, sizeof(*e));
        if (!e)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        e->r = *row;
        e->vm = vm;
        row->definitions = NULL;
        row->n_definitions = 0;
        if (row->serial >= h->next_serial)
                h->next_serial = row->serial + 1;
        if (!entry_keep(h, e)) {
                entry_free(e);
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a request");
        }
        if (request_is_final(&e->r)) {
                free(e->r.definitions);
                e->r.definitions = NULL;
                e->r.n_definitions = 0;
                entry_finished(h, e, now_ms);
                return 0;
        }
        if (!request_is_live(&e->r)) {
                kept_restore(h, e);
                return 0;
        }
        static const enum claim_state held_as[REQUEST_STATE_N] = {
                [REQUEST_OFFERED] = CLAIM_HELD,
                [REQUEST_ACTIVATING] = CLAIM_ALLOCATED,
                [REQUEST_GRANTED] = CLAIM_ACTIVE,
                [REQUEST_RELEASING] = CLAIM_ALLOCATED,
        };
        for (size_t i = 0; i < e->r.n_definitions; i++) {
                struct definition *rc = &e->r.definitions[i];
                struct claim c = {
                        .component = rc->component,
                        .state = e->r.kind == REQUEST_RESERVATION && e->r.state != REQUEST_OFFERED
                                         ? CLAIM_RESERVED
                                         : held_as[e->r.state],
                        .amount = rc->amount,
                        .holder = e->r.serial,
                        .start_ms = e->r.start_ms,
                        .end_ms = e->r.end_ms,
                };
                /* It was granted, so it stays granted, even where the host has become smaller meanwhile:
                 * nothing more is then admitted until it fits again. */
                bool done = claim_again(h, &c, &rc->claim);
                c.component = rc->from - 1;
                done = done && (!rc->from || claim_again(h, &c, &rc->claim_from));
                if (!done)
                        return err_set(err, REASON_INTERNAL, ENOMEM, "%s: its claims cannot be taken again",
                                       e->r.key);
                if (!vm || rc->slot < 0)
                        continue;
                if (rc->kind == VIRTUAL_VCPU) {
                        vm->cpu_slots |= UINT64_C(1) << rc->slot;
                } else if (rc->kind == VIRTUAL_DIMM) {
                        vm->memory_slots |= UINT64_C(1) << rc->slot;
                        vm->leased_bytes += rc->amount;
                } else if (rc->kind == VIRTUAL_NIC) {
                        vm->nic_slots |= UINT64_C(1) << rc->slot;
                        vm->leased_bps += rc->slot > 0 ? rc->amount : 0;
                } else if (rc->kind == VIRTUAL_DISK) {
                        vm->disk_slots |= UINT64_C(1) << rc->slot;
                        vm->leased_disk += rc->slot > 0 ? rc->amount : 0;
                } else if (rc->kind == VIRTUAL_NONE) {
                        vm->class_slots |= UINT64_C(1) << rc->slot;
                }
        }
        if (e->r.state == REQUEST_RELEASING) {
                claims_overstay(h, &e->r);
                h->returning++;
                e->is_returning = true;
        }
        h->live++;
        if (e->r.kind == REQUEST_APP)
                vm->live++;
        deadline_push(h, deadline_of(&e->r), e->r.serial);
        return 0;
}

void hypervisor_recover(struct hypervisor *h, int64_t now_ms)
{
        struct entry *next;
        kept_check(h, now_ms);
        kept_hurry(h, now_ms);
        for (struct entry *e = h->oldest; e; e = next) {
                next = e->newer;
                if (e->r.state == REQUEST_GRANTED && !e->is_walking && !e->retry_at_ms && check_is_moving(e))
                        check_moves(h, e, now_ms);
                if (e->r.state == REQUEST_ACTIVATING || e->r.state == REQUEST_RELEASING ||
                    e->r.state == REQUEST_RECLAIMING)
                        walk_resume(h, e, now_ms);
        }
        hypervisor_tick(h, now_ms);
}

/* Only what is held has a claim. */
static bool kept_is_sound(const struct hypervisor *h, const struct request *r, size_t *claims)
{
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct definition *d = &r->definitions[i];
                const struct claim *c = d->claim ? ledger_find(h->ledger, d->claim) : NULL;
                *claims += d->claim != 0;
                if (d->claim && (r->state != REQUEST_RECLAIMING || !c || c->holder != r->serial ||
                                 c->amount != d->amount || c->component != d->component))
                        return false;
        }
        return true;
}

bool hypervisor_is_sound(const struct hypervisor *h)
{
        size_t live = 0, finished = 0, kept = 0, listed = 0, claims = 0, remembered = h->reservations.n;
        if (!ledger_is_sound(h->ledger) || !bring_is_sound(h))
                return false;
        for (const struct vm_entry *v = h->vms; v; v = v->next) {
                uint64_t used[VIRTUAL_KIND_N] = {0}; /* slots */
                int64_t bytes = 0, bps = 0, disk = 0;
                size_t apps = 0;
                for (const struct entry *e = h->oldest; e; e = e->newer) {
                        if (e->vm != v || !request_is_live(&e->r))
                                continue;
                        apps += e->r.kind == REQUEST_APP && request_is_live(&e->r);
                        for (size_t i = 0; i < e->r.n_definitions; i++) {
                                const struct definition *c = &e->r.definitions[i];
                                if (c->slot < 0 || c->kind == VIRTUAL_RAM)
                                        continue;
                                uint64_t bit = UINT64_C(1) << c->slot;
                                if (used[c->kind] & bit)
                                        return false; /* one slot, two requests */
                                used[c->kind] |= bit;
                                bytes += c->kind == VIRTUAL_DIMM ? c->amount : 0;
                                bps += c->kind == VIRTUAL_NIC && c->slot > 0 ? c->amount : 0;
                                disk += c->kind == VIRTUAL_DISK && c->slot > 0 ? c->amount : 0;
                        }
                }
                remembered += v->history.n;
                if (v->history.n > h->config.finished_max || used[VIRTUAL_VCPU] != v->cpu_slots ||
                    used[VIRTUAL_DIMM] != v->memory_slots || used[VIRTUAL_NIC] != v->nic_slots ||
                    used[VIRTUAL_NONE] != v->class_slots || bytes != v->leased_bytes ||
                    bps != v->leased_bps || used[VIRTUAL_DISK] != v->disk_slots || disk != v->leased_disk ||
                    apps != v->live)
                        return false;
        }
        for (const struct entry *k = h->kept_first; k; k = k->kept_next) {
                listed++;
                if (request_is_live(&k->r) || request_is_final(&k->r) || k->r.n_definitions == 0 ||
                    kept_of(h, k->r.vm) != k || (k->kept_next && k->r.start_ms > k->kept_next->r.start_ms))
                        return false;
        }
        for (const struct entry *e = h->waiting_first; e; e = e->wait_next)
                if (!e->is_waiting || !e->wait_end_ms || e->is_walking || e->r.state != REQUEST_ACTIVATING ||
                    !h->kept_first)
                        return false; /* for ever */
        for (const struct entry *e = h->oldest; e; e = e->newer) {
                live += request_is_live(&e->r);
                finished += request_is_final(&e->r);
                if (!request_is_live(&e->r) && !request_is_final(&e->r)) {
                        kept++;
                        if (!kept_is_sound(h, &e->r, &claims))
                                return false;
                        continue;
                }
                claims += e->r.n_definitions;
                if (request_is_final(&e->r) && e->r.n_definitions)
                        return false;
                for (size_t i = 0; i < e->r.n_definitions; i++) {
                        const struct claim *c = ledger_find(h->ledger, e->r.definitions[i].claim);
                        const struct definition *d = &e->r.definitions[i];
                        const struct claim *from = d->from ? ledger_find(h->ledger, d->claim_from) : NULL;
                        if (d->moving && e->r.state != REQUEST_GRANTED)
                                return false;
                        if (d->from && ((!d->moving && e->r.state != REQUEST_RELEASING) || !from ||
                                        from->holder != e->r.serial || from->component != d->from - 1))
                                return false;
                        claims += d->from != 0;
                        if (!c || c->holder != e->r.serial || c->amount != e->r.definitions[i].amount ||
                            c->component != e->r.definitions[i].component)
                                return false;
                        if (e->r.state == REQUEST_RELEASING && c->end_ms != LEDGER_OPEN)
                                return false; /* not back, and counted as free some day */
                }
        }
        return live == h->live && finished == remembered && h->reservations.n <= h->config.finished_max &&
               claims == ledger_claims(h->ledger) && kept == listed && live + finished + kept == h->entries;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "core/hhi.h"

#include "core/hypervisor-internal.h"

const char *hhi_mark_name(enum hhi_mark mark)
{
        static const char *const names[HHI_MARK_N] = {
                [HHI_YOURS] = "yours",       [HHI_FREE] = "free",       [HHI_TAKEN] = "taken",
                [HHI_RESERVED] = "reserved", [HHI_OFFLINE] = "offline",
        };
        return mark > 0 && mark < HHI_MARK_N ? names[mark] : "?";
}

bool hhi_row_is_equal(const struct hhi_row *a, const struct hhi_row *b)
{
        return a->capacity == b->capacity && a->yours == b->yours && a->free == b->free &&
               a->slots == b->slots && a->has_base == b->has_base && a->mark == b->mark;
}

static void add_own(struct hhi_row *row, const struct definition *d)
{
        row->yours += d->amount;
        if (d->kind == VIRTUAL_RAM)
                row->has_base = true;
        else if ((d->kind == VIRTUAL_VCPU || d->kind == VIRTUAL_DIMM) && d->slot >= 0 && d->slot < 64)
                row->slots |= UINT64_C(1) << d->slot;
}

static enum hhi_mark mark_of(const struct component *c, const struct hhi_row *row)
{
        if (!c->healthy)
                return HHI_OFFLINE;
        if (row->yours > 0)
                return HHI_YOURS;
        if (row->free > 0)
                return HHI_FREE;
        return c->owned > 0 ? HHI_TAKEN : HHI_RESERVED;
}

void hypervisor_hhi(const struct hypervisor *h, const char *vm, struct hhi_row *ret)
{
        const struct vm_entry *v = find_vm(h, vm);
        for (uint32_t i = 0; i < h->n_components; i++) {
                int64_t left = ledger_owned(h->ledger, i) - ledger_claimed(h->ledger, i);
                ret[i] = (struct hhi_row){.capacity = h->components[i].capacity,
                                          .free = left > 0 && h->components[i].healthy ? left : 0};
        }
        for (const struct entry *e = v ? v->newest : NULL; e; e = e->vm_older)
                for (size_t i = 0; request_is_live(&e->r) && i < e->r.n_definitions; i++)
                        if (e->r.definitions[i].configured)
                                add_own(&ret[e->r.definitions[i].component], &e->r.definitions[i]);
        for (size_t i = 0; i < h->n_components; i++)
                ret[i].mark = mark_of(&h->components[i], &ret[i]);
}

/* ---- telling ---- */

enum { BACK_OFF_MS = 1000, BACK_OFF_MAX_MS = 60000 };

void telling_changed(struct telling *t)
{
        t->generation++;
}

void telling_connected(struct telling *t, uint64_t known)
{
        t->is_connected = true;
        t->sent = 0;
        t->back_off_ms = 0;
        t->is_known_here = t->is_known_here && known > 0 && known == t->known;
        t->known = known;
        /* It has one that we do not know: ours is a later one. */
        if (!t->is_known_here && t->generation <= known)
                t->generation = known + 1;
}

void telling_lost(struct telling *t)
{
        t->is_connected = false;
        t->sent = 0;
}

enum telling_what telling_next(struct telling *t, int64_t now_ms)
{
        if (!t->is_connected || t->sent || t->generation == 0 ||
            (t->is_known_here && t->known == t->generation))
                return TELL_NOTHING;
        if (now_ms < t->not_before_ms)
                return TELL_LATER;
        t->sent = t->generation;
        t->is_full = !t->is_known_here;
        t->not_before_ms = now_ms + TELLING_PAUSE_MS;
        return t->is_full ? TELL_FULL : TELL_DELTA;
}

void telling_answered(struct telling *t, uint64_t generation, bool is_applied, int64_t now_ms)
{
        if (!t->is_connected || !t->sent || generation != t->sent)
                return;
        t->sent = 0;
        t->is_known_here = is_applied;
        if (is_applied) {
                t->known = generation;
                t->back_off_ms = 0;
        } else if (t->is_full) { /* there is no more than all */
                t->back_off_ms = t->back_off_ms ? 2 * t->back_off_ms : BACK_OFF_MS;
                if (t->back_off_ms > BACK_OFF_MAX_MS)
                        t->back_off_ms = BACK_OFF_MAX_MS;
                t->not_before_ms = now_ms + t->back_off_ms;
        }
}

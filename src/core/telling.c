/* SPDX-License-Identifier: Apache-2.0 */
#include "core/telling.h"

#include "core/hypervisor-internal.h"

const char *told_mark_name(enum told_mark mark)
{
        static const char *const names[TOLD_MARK_N] = {
                [TOLD_YOURS] = "yours",       [TOLD_FREE] = "free",       [TOLD_TAKEN] = "taken",
                [TOLD_RESERVED] = "reserved", [TOLD_OFFLINE] = "offline",
        };
        return mark > 0 && mark < TOLD_MARK_N ? names[mark] : "?";
}

bool told_is_equal(const struct told *a, const struct told *b)
{
        return a->capacity == b->capacity && a->yours == b->yours && a->free == b->free &&
               a->slots == b->slots && a->has_base == b->has_base && a->mark == b->mark;
}

static void add_own(struct told *row, const struct definition *d)
{
        row->yours += d->amount;
        if (d->kind == VIRTUAL_RAM)
                row->has_base = true;
        else if ((d->kind == VIRTUAL_VCPU || d->kind == VIRTUAL_DIMM) && d->slot >= 0 && d->slot < 64)
                row->slots |= UINT64_C(1) << d->slot;
}

static enum told_mark mark_of(const struct component *c, const struct told *row)
{
        if (!c->healthy)
                return TOLD_OFFLINE;
        if (row->yours > 0)
                return TOLD_YOURS;
        if (row->free > 0)
                return TOLD_FREE;
        return c->owned > 0 ? TOLD_TAKEN : TOLD_RESERVED;
}

/* Memory that goes elsewhere while its VM runs is where it was until all of it is there. */
static uint32_t where(const struct hypervisor *h, const struct definition *d)
{
        bool is_on_its_way =
                d->moving && d->from && !d->goes_back && h->components[d->component].kind == COMPONENT_MEMORY;
        return is_on_its_way ? d->from - 1 : d->component;
}

void hypervisor_told(const struct hypervisor *h, const char *vm, struct told *ret)
{
        const struct vm_entry *v = find_vm(h, vm);
        for (uint32_t i = 0; i < h->n_components; i++) {
                int64_t left = ledger_owned(h->ledger, i) - ledger_claimed(h->ledger, i);
                ret[i] = (struct told){.capacity = h->components[i].capacity - h->components[i].lost,
                                       .free = left > 0 && h->components[i].healthy ? left : 0};
        }
        for (const struct entry *e = v ? v->newest : NULL; e; e = e->vm_older)
                for (size_t i = 0; request_is_live(&e->r) && i < e->r.n_definitions; i++)
                        if (e->r.definitions[i].configured)
                                add_own(&ret[where(h, &e->r.definitions[i])], &e->r.definitions[i]);
        for (size_t i = 0; i < h->n_components; i++)
                ret[i].mark = mark_of(&h->components[i], &ret[i]);
}

/* ---- telling ---- */

enum { BACK_OFF_MS = 1000, BACK_OFF_MAX_MS = 60000 };

void telling_changed(struct telling *t)
{
        t->generation++;
}

void telling_rewritten(struct telling *t)
{
        t->generation++;
        t->is_rewritten = t->sent != 0;
        t->is_known_here = false;
}

void telling_follows(struct telling *t, uint64_t generation)
{
        if (t->generation <= generation)
                t->generation = generation + 1;
}

void telling_connected(struct telling *t, uint64_t known)
{
        t->is_connected = true;
        t->is_rewritten = false;
        t->sent = 0;
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
        t->is_full = !t->is_known_here;
        if (t->is_full && t->not_before_ms < t->full_after_ms)
                t->not_before_ms = t->full_after_ms;
        if (now_ms < t->not_before_ms)
                return TELL_LATER;
        t->sent = t->generation;
        t->not_before_ms = now_ms + TELLING_PAUSE_MS;
        if (!t->is_full)
                return TELL_DELTA;
        t->back_off_ms = t->back_off_ms ? 2 * t->back_off_ms : BACK_OFF_MS;
        if (t->back_off_ms > BACK_OFF_MAX_MS)
                t->back_off_ms = BACK_OFF_MAX_MS;
        t->full_after_ms = now_ms + t->back_off_ms;
        return TELL_FULL;
}

void telling_answered(struct telling *t, uint64_t generation, bool is_applied)
{
        if (!t->is_connected || !t->sent || generation != t->sent)
                return;
        t->sent = 0;
        t->is_known_here = is_applied && !t->is_rewritten;
        t->is_rewritten = false;
        if (!is_applied) {
                t->generation++;
        } else {
                t->known = generation;
                if (!t->is_full)
                        t->back_off_ms = 0;
        }
}

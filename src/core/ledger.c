/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants: a component's base is the sum of its claims with start <= now < end; its steps hold the starts
 * and ends of its claims that lie after now, and nothing else (an open end is no instant); next_ms is not
 * after the first instant of any component; the claims in use form one list in the order of their making.
 *
 * What a claim contributes is read off its times and `now` alone (contribute()), so a claim keeps no
 * references into the tree, and giving back is taking with the sign turned. */
#include "core/ledger.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/steps.h"

/* An id is the generation of its slot above the slot's index. A slot whose generations are used up is left
 * out of use, so that no id ever comes again. */
enum { ID_SLOT_BITS = 20 };
#define ID_GENERATION_MAX UINT32_MAX
static_assert(LEDGER_CLAIMS_MAX == 1 << ID_SLOT_BITS, "each slot has a place in an id");
#define SLOT_NONE UINT32_MAX

struct slot {
        struct claim claim; /* state 0: not in use */
        uint32_t generation;
        uint32_t previous; /* in the order of making */
        uint32_t next;     /* likewise; in a free slot the next free one */
};

struct part {
        int64_t owned;
        int64_t base;
        /* The highest level that was ever allowed and may still stand: what is owned, or what was claimed
         * when less became owned. Only ledger_is_sound() reads it. */
        int64_t allowed;
        struct steps steps;
};

struct ledger {
        int64_t now_ms;
        int64_t next_ms;
        struct steps_pool pool;
        struct slot *slots;
        uint32_t n_slots; /* that there is memory for */
        uint32_t n_claims;
        uint32_t free;        /* first free slot, or SLOT_NONE */
        uint32_t first, last; /* claim, or SLOT_NONE */
        size_t n_parts;
        struct part parts[];
};

const char *claim_state_name(enum claim_state s)
{
        static const char *const names[CLAIM_STATE_N] = {
                "none", "held", "reserved", "allocated", "active", "lazy",
        };
        return (unsigned)s < CLAIM_STATE_N ? names[s] : "none";
}

struct ledger *ledger_new(const int64_t *owned, size_t n_components, int64_t now_ms)
{
        assert(n_components < UINT32_MAX);
        struct ledger *l = calloc(1, sizeof(*l) + n_components * sizeof(l->parts[0]));
        if (!l)
                return NULL;
        l->now_ms = now_ms;
        l->next_ms = INT64_MAX;
        l->free = l->first = l->last = SLOT_NONE;
        l->n_parts = n_components;
        steps_pool_init(&l->pool);
        for (size_t i = 0; i < n_components; i++) {
                assert(owned[i] >= 0);
                l->parts[i].owned = l->parts[i].allowed = owned[i];
                steps_init(&l->parts[i].steps);
        }
        return l;
}

void ledger_free(struct ledger *l)
{
        if (!l)
                return;
        steps_pool_done(&l->pool);
        free(l->slots);
        free(l);
}

void ledger_advance(struct ledger *l, int64_t now_ms)
{
        if (now_ms <= l->now_ms)
                return;
        l->now_ms = now_ms;
        if (now_ms < l->next_ms)
                return;
        l->next_ms = INT64_MAX;
        for (size_t i = 0; i < l->n_parts; i++) {
                struct part *p = &l->parts[i];
                p->base += steps_fold(&l->pool, &p->steps, now_ms);
                int64_t first = steps_first(&l->pool, &p->steps);
                l->next_ms = first < l->next_ms ? first : l->next_ms;
        }
}

size_t ledger_components(const struct ledger *l)
{
        return l->n_parts;
}

int64_t ledger_owned(const struct ledger *l, uint32_t component)
{
        assert(component < l->n_parts);
        return l->parts[component].owned;
}

void ledger_set_owned(struct ledger *l, uint32_t component, int64_t owned)
{
        assert(component < l->n_parts && owned >= 0);
        struct part *p = &l->parts[component];
        int64_t peak = steps_peak(&l->pool, &p->steps, p->base, l->now_ms, LEDGER_OPEN);
        p->owned = owned;
        p->allowed = owned > peak ? owned : peak;
}

/* May be negative, after less became owned than is claimed. */
static int64_t room(const struct ledger *l, uint32_t component, int64_t start_ms, int64_t end_ms)
{
        assert(component < l->n_parts);
        const struct part *p = &l->parts[component];
        int64_t start = start_ms > l->now_ms ? start_ms : l->now_ms;
        return p->owned - steps_peak(&l->pool, &p->steps, p->base, start, end_ms);
}

int64_t ledger_free_over(const struct ledger *l, uint32_t component, int64_t start_ms, int64_t end_ms)
{
        int64_t amount = room(l, component, start_ms, end_ms);
        return amount > 0 ? amount : 0;
}

int64_t ledger_claimed(const struct ledger *l, uint32_t component)
{
        assert(component < l->n_parts);
        return l->parts[component].base;
}

static void step_to_come(struct ledger *l, struct part *p, int64_t at_ms, int64_t delta, bool taken)
{
        if (!taken) {
                /* What was added had the opposite sign of what giving back says. */
                steps_remove(&l->pool, &p->steps, at_ms, -delta);
                return;
        }
        steps_add(&l->pool, &p->steps, at_ms, delta);
        l->next_ms = at_ms < l->next_ms ? at_ms : l->next_ms;
}

/* Enters what the claim takes, or takes it out again. */
static void contribute(struct ledger *l, const struct claim *c, bool taken)
{
        struct part *p = &l->parts[c->component];
        int64_t amount = taken ? c->amount : -c->amount;
        if (c->end_ms <= l->now_ms)
                return;
        if (c->start_ms > l->now_ms)
                step_to_come(l, p, c->start_ms, amount, taken);
        else
                p->base += amount;
        if (c->end_ms != LEDGER_OPEN)
                step_to_come(l, p, c->end_ms, -amount, taken);
}

static int slots_grow(struct ledger *l)
{
        uint32_t before = l->n_slots, after = before ? 2 * before : 64;
        if (after > LEDGER_CLAIMS_MAX)
                return -ENOMEM;
        struct slot *slots = realloc(l->slots, after * sizeof(*slots));
        if (!slots)
                return -ENOMEM;
        l->slots = slots;
        l->n_slots = after;
        for (uint32_t i = after; i-- > before;) {
                slots[i] = (struct slot){.generation = 1, .next = l->free};
                l->free = i;
        }
        return 0;
}

static uint32_t slot_take(struct ledger *l)
{
        uint32_t i = l->free;
        struct slot *slot = &l->slots[i];
        l->free = slot->next;
        slot->previous = l->last;
        slot->next = SLOT_NONE;
        if (l->last == SLOT_NONE)
                l->first = i;
        else
                l->slots[l->last].next = i;
        l->last = i;
        l->n_claims++;
        return i;
}

static void slot_give(struct ledger *l, uint32_t i)
{
        struct slot *slot = &l->slots[i];
        if (slot->previous == SLOT_NONE)
                l->first = slot->next;
        else
                l->slots[slot->previous].next = slot->next;
        if (slot->next == SLOT_NONE)
                l->last = slot->previous;
        else
                l->slots[slot->next].previous = slot->previous;
        slot->claim.state = 0;
        l->n_claims--;
        if (slot->generation == ID_GENERATION_MAX)
                return;
        slot->generation++;
        slot->next = l->free;
        l->free = i;
}

static claim_id id_of(const struct ledger *l, uint32_t i)
{
        return (claim_id)l->slots[i].generation << ID_SLOT_BITS | i;
}

static uint32_t slot_of(const struct ledger *l, claim_id id)
{
        uint32_t i = (uint32_t)(id & ((1u << ID_SLOT_BITS) - 1));
        bool there = i < l->n_slots && l->slots[i].claim.state != 0 && id_of(l, i) == id;
        return there ? i : SLOT_NONE;
}

static bool claim_is_valid(const struct ledger *l, const struct claim *c)
{
        return c->component < l->n_parts && c->state > 0 && c->state < CLAIM_STATE_N && c->amount > 0 &&
               c->end_ms > c->start_ms;
}

int ledger_claim(struct ledger *l, const struct claim *c, claim_id *ret_id)
{
        assert(claim_is_valid(l, c));
        if (c->end_ms > l->now_ms && room(l, c->component, c->start_ms, c->end_ms) < c->amount)
                return 0;
        /* A start and an end: two instants. */
        if ((l->free == SLOT_NONE && slots_grow(l) < 0) || steps_pool_reserve(&l->pool, 2) < 0)
                return -ENOMEM;
        uint32_t i = slot_take(l);
        l->slots[i].claim = *c;
        contribute(l, c, true);
        *ret_id = id_of(l, i);
        return 1;
}

bool ledger_release(struct ledger *l, claim_id id)
{
        uint32_t i = slot_of(l, id);
        if (i == SLOT_NONE)
                return false;
        /* The neighbours in the list are wanted last and are seldom near. */
        const struct slot *slot = &l->slots[i];
        if (slot->previous != SLOT_NONE)
                __builtin_prefetch(&l->slots[slot->previous]);
        if (slot->next != SLOT_NONE)
                __builtin_prefetch(&l->slots[slot->next]);
        contribute(l, &slot->claim, false);
        slot_give(l, i);
        return true;
}

const struct claim *ledger_find(const struct ledger *l, claim_id id)
{
        uint32_t i = slot_of(l, id);
        return i == SLOT_NONE ? NULL : &l->slots[i].claim;
}

bool ledger_set_state(struct ledger *l, claim_id id, enum claim_state state)
{
        assert(state > 0 && state < CLAIM_STATE_N);
        uint32_t i = slot_of(l, id);
        if (i == SLOT_NONE)
                return false;
        l->slots[i].claim.state = state;
        return true;
}

int ledger_set_end(struct ledger *l, claim_id id, int64_t end_ms)
{
        uint32_t i = slot_of(l, id);
        if (i == SLOT_NONE)
                return -ENOENT;
        struct claim *c = &l->slots[i].claim;
        if (end_ms <= c->start_ms)
                return -EINVAL;
        /* Only the time that is added must have room; in the rest the claim stands already. */
        bool added = end_ms > c->end_ms && end_ms > l->now_ms;
        if (added && room(l, c->component, c->end_ms, end_ms) < c->amount)
                return 0;
        if (steps_pool_reserve(&l->pool, 2) < 0)
                return -ENOMEM;
        contribute(l, c, false);
        c->end_ms = end_ms;
        contribute(l, c, true);
        return 1;
}

size_t ledger_claims(const struct ledger *l)
{
        return l->n_claims;
}

void ledger_each(const struct ledger *l, void (*fn)(claim_id id, const struct claim *c, void *arg), void *arg)
{
        for (uint32_t i = l->first; i != SLOT_NONE; i = l->slots[i].next)
                fn(id_of(l, i), &l->slots[i].claim, arg);
}

/* What follows recomputes everything from the list of claims. */

struct change {
        int64_t at, delta;
        uint32_t component;
};

struct audit {
        const struct change *change; /* next one that the tree must show */
        const struct change *end;
        uint32_t component;
        int64_t level, allowed;
        bool sound;
};

static int change_order(const void *a, const void *b)
{
        const struct change *x = a, *y = b;
        if (x->component != y->component)
                return x->component < y->component ? -1 : 1;
        return x->at < y->at ? -1 : x->at > y->at;
}

static void audit_step(int64_t at_ms, int64_t delta, uint32_t n, void *arg)
{
        struct audit *audit = arg;
        int64_t sum = 0;
        uint32_t found = 0;
        while (audit->change < audit->end && audit->change->component == audit->component &&
               audit->change->at == at_ms) {
                sum += audit->change++->delta;
                found++;
        }
        audit->level += delta;
        audit->sound = audit->sound && found == n && n > 0 && sum == delta && audit->level >= 0 &&
                       audit->level <= audit->allowed;
}

/* The claims as changes; what has begun counts from INT64_MIN. Returns how many; 0 for a broken list too. */
static size_t changes_of(const struct ledger *l, struct change *changes)
{
        size_t n = 0, n_claims = 0;
        uint32_t previous = SLOT_NONE;
        for (uint32_t i = l->first; i != SLOT_NONE; previous = i, i = l->slots[i].next) {
                const struct claim *c = &l->slots[i].claim;
                if (n_claims++ == l->n_claims || l->slots[i].previous != previous || !claim_is_valid(l, c))
                        return SIZE_MAX;
                if (c->end_ms <= l->now_ms)
                        continue;
                int64_t start = c->start_ms > l->now_ms ? c->start_ms : INT64_MIN;
                changes[n++] = (struct change){start, c->amount, c->component};
                if (c->end_ms != LEDGER_OPEN)
                        changes[n++] = (struct change){c->end_ms, -c->amount, c->component};
        }
        return n_claims == l->n_claims && previous == l->last ? n : SIZE_MAX;
}

static bool parts_are_sound(const struct ledger *l, const struct change *changes, size_t n)
{
        size_t nodes = 0;
        struct audit audit = {.change = changes, .end = changes + n, .sound = true};
        for (size_t i = 0; i < l->n_parts && audit.sound; i++) {
                const struct part *p = &l->parts[i];
                int64_t base = 0;
                audit.component = (uint32_t)i;
                for (; audit.change < audit.end && audit.change->component == i &&
                       audit.change->at == INT64_MIN;
                     audit.change++)
                        base += audit.change->delta;
                audit.level = base;
                audit.allowed = p->allowed;
                size_t part_nodes = steps_check(&l->pool, &p->steps);
                if (base != p->base || base > p->allowed || steps_first(&l->pool, &p->steps) < l->next_ms ||
                    (part_nodes == 0) != (p->steps.root == STEPS_NONE))
                        return false;
                nodes += part_nodes;
                steps_each(&l->pool, &p->steps, audit_step, &audit);
        }
        return audit.sound && audit.change == audit.end && l->next_ms > l->now_ms &&
               nodes + l->pool.n_free == l->pool.n_nodes;
}

bool ledger_is_sound(const struct ledger *l)
{
        struct change *changes = calloc(2 * (size_t)l->n_claims + 1, sizeof(*changes));
        if (!changes)
                return false;
        size_t n = changes_of(l, changes);
        if (n != SIZE_MAX)
                qsort(changes, n, sizeof(*changes), change_order);
        bool sound = n != SIZE_MAX && parts_are_sound(l, changes, n);
        free(changes);
        return sound;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The model: a site is a component with enough room for at least one unit (a CPU, or so many bytes or bits a
 * second).
 * Sites of a node are neighbours in the table and make a group; how many units to take from which group is
 * one decision for both kinds, and which sites of a group, another. */
#include "core/place.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/units.h"

struct site {
        uint32_t component, node, os_index;
        int64_t free;
        int64_t units; /* that fit into it; 1 for a CPU */
};

struct group {
        size_t first, n; /* sites */
        int64_t units;
        int64_t free;
        int64_t taken;
};

struct places {
        size_t n_sites, n_groups;
        int64_t available; /* units that one placement can have of them all */
        struct site site[PLACE_COMPONENTS_MAX];
        struct group group[PLACE_COMPONENTS_MAX];
};

/* What a need comes to. */
struct asked {
        enum component_kind kind;
        bool exclusive;
        int64_t unit; /* what one unit takes of a component; exclusive: the least that the CPU must have */
        int64_t least, most;
        int64_t start_ms, end_ms;
        int64_t page_bytes;
        int64_t os_index, node; /* -1: any */
};

static int64_t share_of(const struct need *need, int64_t default_share_milli)
{
        const struct parameter *share = need_parameter(need, PARAMETER_SHARE);
        if (need_parameter(need, PARAMETER_EXCLUSIVE))
                return CPU_WHOLE_MILLI;
        return share ? share->value : default_share_milli;
}

static int64_t units_of(int64_t amount, int64_t unit)
{
        return amount / unit + (amount % unit != 0);
}

int64_t place_unit_bytes(const struct need *need, int64_t unit_bytes)
{
        int64_t page_bytes = need_page_bytes(need);
        return page_bytes <= unit_bytes ? unit_bytes
                                        : (page_bytes + unit_bytes - 1) / unit_bytes * unit_bytes;
}

static struct asked asked_of(const struct need *need, int64_t default_share_milli, int64_t unit_bytes)
{
        struct asked a = {.kind = need->kind,
                          .least = need->amount,
                          .most = need->amount_max,
                          .os_index = need_component(need),
                          .node = need_node(need)};
        assert(need->amount > 0 && need->amount_max >= need->amount);
        if (a.kind == COMPONENT_CPU) {
                a.exclusive = need_parameter(need, PARAMETER_EXCLUSIVE);
                a.unit = share_of(need, default_share_milli);
                assert(a.unit > 0);
                return a;
        }
        assert(unit_bytes > 0 && unit_bytes < UNITS_MAX);
        a.page_bytes = need_page_bytes(need);
        a.unit = place_unit_bytes(need, unit_bytes);
        a.least = units_of(need->amount, a.unit);
        a.most = units_of(need->amount_max, a.unit);
        return a;
}

/* How many units the component has room for. */
static int64_t room_for(const struct asked *a, int64_t free, int64_t owned)
{
        if (a->kind != COMPONENT_CPU)
                return free / a->unit;
        /* Exclusive means that nobody has any part of it, however much of it there is to give. */
        return free >= a->unit && (!a->exclusive || free == owned);
}

static int site_order(const void *a, const void *b)
{
        const struct site *x = a, *y = b;
        if (x->node != y->node)
                return x->node < y->node ? -1 : 1;
        if (x->free != y->free)
                return x->free < y->free ? -1 : 1;
        if (x->os_index != y->os_index)
                return x->os_index < y->os_index ? -1 : 1;
        return x->component < y->component ? -1 : x->component > y->component;
}

static int group_by_size(const void *a, const void *b)
{
        const struct group *x = a, *y = b;
        if (x->units != y->units)
                return x->units > y->units ? -1 : 1;
        if (x->free != y->free)
                return x->free < y->free ? -1 : 1;
        return x->first < y->first ? -1 : x->first > y->first; /* by node */
}

static bool is_there(const struct asked *a, const struct component *c)
{
        return (a->os_index < 0 || c->os_index == a->os_index) && (a->node < 0 || c->node == a->node);
}

/* `l` is NULL where nothing shall count as claimed, and nothing as gone: what is off line may come back.
 * Classes of service are given away or not by what the machine can do. */
static int sites_find(struct places *p, const struct asked *a, const struct ledger *l,
                      const struct component *components, size_t n, struct err *err)
{
        assert(!l || n == ledger_components(l));
        p->n_sites = 0;
        for (uint32_t i = 0; i < n; i++) {
                const struct component *c = &components[i];
                bool is_usable = c->healthy || (!l && !component_is_of_class(c->kind));
                if (c->kind != a->kind || !is_usable || !component_has_pages(c, a->page_bytes) ||
                    !is_there(a, c))
                        continue;
                int64_t owned = l ? ledger_owned(l, i) : c->owned;
                int64_t free = l ? ledger_free_over(l, i, a->start_ms, a->end_ms) : owned;
                int64_t units = room_for(a, free, owned);
                if (units == 0)
                        continue;
                if (p->n_sites == PLACE_COMPONENTS_MAX)
                        return err_set(err, REASON_INTERNAL, E2BIG, "more than %d components of kind %s",
                                       PLACE_COMPONENTS_MAX, component_kinds[a->kind].name);
                p->site[p->n_sites++] = (struct site){i, c->node, c->os_index, free, units};
        }
        qsort(p->site, p->n_sites, sizeof(p->site[0]), site_order);
        return 0;
}

/* Largest groups first; of those alike the one with the least free, then that of the lowest node. */
static void groups_find(struct places *p, const struct asked *a)
{
        p->n_groups = 0;
        p->available = 0;
        for (size_t i = 0; i < p->n_sites; i++) {
                /* Each piece of memory and each link is a group of its own, also where a node has several. */
                bool same = i > 0 && p->site[i].node == p->site[i - 1].node && a->kind == COMPONENT_CPU;
                if (!same)
                        p->group[p->n_groups++] = (struct group){.first = i};
                p->group[p->n_groups - 1].n++;
                p->group[p->n_groups - 1].units += p->site[i].units;
                p->group[p->n_groups - 1].free += p->site[i].free;
        }
        qsort(p->group, p->n_groups, sizeof(p->group[0]), group_by_size);
        size_t usable = p->n_groups;
        if (a->kind != COMPONENT_CPU && usable > PLACEMENT_NODES_MAX)
                usable = PLACEMENT_NODES_MAX;
        if (component_is_of_class(a->kind) && usable > 1) /* a class of service is of one L3 cache */
                usable = 1;
        for (size_t i = 0; i < usable; i++)
                p->available += p->group[i].units;
        if (a->kind == COMPONENT_CPU && p->available > PLACEMENT_CPUS_MAX)
                p->available = PLACEMENT_CPUS_MAX;
}

static int places_find(struct places *p, const struct asked *a, const struct ledger *l,
                       const struct component *components, size_t n, struct err *err)
{
        int r = sites_find(p, a, l, components, n, err);
        if (r == 0)
                groups_find(p, a);
        return r;
}

/* Whole groups, largest first, until what is left fits into one; then the smallest into which it does. Groups
 * stand in order of size, so that is as few groups as there can be. */
static void groups_take(struct places *p, int64_t units)
{
        for (size_t i = 0; units > 0; i++) {
                assert(i < p->n_groups);
                size_t fit = i;
                while (fit + 1 < p->n_groups && p->group[fit + 1].units >= units)
                        fit++;
                /* Of groups alike the first, which has the least free. */
                while (fit > i && p->group[fit - 1].units == p->group[fit].units)
                        fit--;
                int64_t take = p->group[fit].units < units ? p->group[fit].units : units;
                p->group[fit].taken = take;
                units -= take;
        }
}

static void items_fill(const struct places *p, const struct asked *a, const struct ledger *l,
                       struct placement *ret)
{
        for (size_t g = 0; g < p->n_groups; g++) {
                int64_t left = p->group[g].taken;
                for (size_t i = p->group[g].first; left > 0; i++) {
                        const struct site *site = &p->site[i];
                        int64_t units = site->units < left ? site->units : left;
                        int64_t amount = a->exclusive ? ledger_owned(l, site->component) : units * a->unit;
                        assert(ret->n < PLACEMENT_ITEMS_MAX && i < p->group[g].first + p->group[g].n);
                        ret->item[ret->n++] = (struct placement_item){site->component, amount};
                        left -= units;
                }
        }
}

static int64_t amount_of(const struct asked *a, int64_t units)
{
        return a->kind == COMPONENT_CPU ? units : units * a->unit;
}

static bool is_placed_here(enum component_kind kind)
{
        return kind == COMPONENT_CPU || kind == COMPONENT_MEMORY || kind == COMPONENT_NET ||
               kind == COMPONENT_BLOCK || component_is_of_class(kind);
}

int place_need(const struct ledger *l, const struct component *components, size_t n, const struct need *need,
               int64_t default_share_milli, int64_t unit_bytes, int64_t start_ms, int64_t end_ms,
               struct placement *ret, struct err *err)
{
        struct places places;
        assert(end_ms > start_ms);
        if (!is_placed_here(need->kind))
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "nothing places that kind");
        struct asked a = asked_of(need, default_share_milli, unit_bytes);
        a.start_ms = start_ms;
        a.end_ms = end_ms;
        int r = places_find(&places, &a, l, components, n, err);
        if (r < 0)
                return r;
        ret->n = 0;
        ret->amount_met = amount_of(&a, places.available);
        if (places.available < a.least)
                return 0;
        int64_t units = places.available < a.most ? places.available : a.most;
        ret->amount_met = amount_of(&a, units);
        groups_take(&places, units);
        items_fill(&places, &a, l, ret);
        return 1;
}

int place_needs(const struct ledger *l, const struct component *components, size_t n,
                const struct need *needs, size_t n_needs, int64_t default_share_milli, int64_t unit_bytes,
                int64_t start_ms, int64_t end_ms, struct placement *ret, struct err *err)
{
        int all = 1;
        for (size_t i = 0; i < n_needs; i++)
                for (size_t j = 0; j < i; j++)
                        assert(needs[i].kind != needs[j].kind);
        for (size_t i = 0; i < n_needs; i++) {
                int r = place_need(l, components, n, &needs[i], default_share_milli, unit_bytes, start_ms,
                                   end_ms, &ret[i], err);
                if (r < 0)
                        return r;
                all = all && r;
        }
        return all;
}

int64_t place_limit(const struct component *components, size_t n, const struct need *need,
                    int64_t default_share_milli, int64_t unit_bytes)
{
        struct places places;
        if (!is_placed_here(need->kind))
                return 0;
        struct asked a = asked_of(need, default_share_milli, unit_bytes);
        if (places_find(&places, &a, NULL, components, n, NULL) < 0)
                return 0;
        return amount_of(&a, places.available);
}

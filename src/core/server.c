/* SPDX-License-Identifier: Apache-2.0 */
#include "core/server.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { MIB_SHIFT = 20 };

static struct server_share *at(const struct server *s, uint32_t component, int hypervisor)
{
        assert(component < s->n_components && hypervisor >= 0 && hypervisor < s->n);
        return &s->shares[(size_t)component * SERVER_HYPERVISORS_MAX + (size_t)hypervisor];
}

int server_init(struct server *s, const struct component *components, size_t n, struct err *err)
{
        *s = (struct server){.components = components, .n_components = n};
        s->shares = calloc((n + 1) * SERVER_HYPERVISORS_MAX, sizeof(*s->shares));
        return s->shares ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the partition");
}

void server_done(struct server *s)
{
        free(s->shares);
        *s = (struct server){0};
}

int server_find(const struct server *s, const char *name)
{
        for (int i = 0; i < s->n; i++)
                if (strcmp(s->names[i], name) == 0)
                        return i;
        return SERVER_NOBODY;
}

int server_add(struct server *s, const char *name, struct err *err)
{
        if (!str_is_name(name) || strlen(name) >= SERVER_NAME)
                return err_set(err, REASON_INVALID, EINVAL,
                               "\"%.40s\" is no name of a hypervisor: at most %d of [A-Za-z0-9._-]", name,
                               SERVER_NAME - 1);
        if (server_find(s, name) >= 0)
                return err_set(err, REASON_INVALID, EEXIST, "there are two hypervisors %s", name);
        if (s->n == SERVER_HYPERVISORS_MAX)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC, "a server has %d hypervisors at most",
                               SERVER_HYPERVISORS_MAX);
        (void)STR_COPY(s->names[s->n], name);
        return s->n++;
}

int64_t server_component(const struct server *s, const char *id)
{
        for (size_t i = 0; i < s->n_components; i++)
                if (strcmp(s->components[i].id, id) == 0)
                        return (int64_t)i;
        return -1;
}

const struct server_share *server_share(const struct server *s, uint32_t component, int hypervisor)
{
        return at(s, component, hypervisor);
}

int64_t server_nobodys(const struct server *s, uint32_t component)
{
        int64_t left = s->components[component].owned;
        for (int i = 0; i < s->n; i++)
                left -= at(s, component, i)->amount;
        if (s->giving.amount > 0 && s->giving.component == component)
                left -= s->giving.amount;
        return left;
}

/* ---- a partition is made ---- */

static int check_amount(const struct component *c, int64_t amount, struct err *err)
{
        if (c->kind != COMPONENT_CPU && c->kind != COMPONENT_MEMORY)
                return err_set(err, REASON_INVALID, EINVAL, "%s: only CPUs and memory are partitioned",
                               c->id);
        if (amount <= 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s: nothing of it", c->id);
        if (c->kind == COMPONENT_CPU && amount != CPU_WHOLE_MILLI)
                return err_set(err, REASON_INVALID, EINVAL, "%s: a CPU is one hypervisor's as a whole",
                               c->id);
        if (c->kind == COMPONENT_MEMORY && amount % (INT64_C(1) << MIB_SHIFT) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s: only whole MiB", c->id);
        return 0;
}

static int owner(const struct server *s, uint32_t component, int but)
{
        for (int i = 0; i < s->n; i++)
                if (i != but && at(s, component, i)->amount > 0)
                        return i;
        return SERVER_NOBODY;
}

int server_take(struct server *s, int hypervisor, uint32_t component, int64_t amount, struct err *err)
{
        const struct component *c = &s->components[component];
        int64_t left = server_nobodys(s, component);
        int bad = check_amount(c, amount, err);
        if (bad)
                return bad;
        if (amount > left) {
                int other = owner(s, component, hypervisor);
                if (c->kind == COMPONENT_CPU && at(s, component, hypervisor)->amount > 0)
                        return err_set(err, REASON_INVALID, EEXIST, "%s is named twice for %s", c->id,
                                       s->names[hypervisor]);
                if (other >= 0)
                        return err_set(err, REASON_POLICY, EEXIST,
                                       "%s is for %s and for %s: %lld of it is left, %lld is asked for",
                                       c->id, s->names[other], s->names[hypervisor], (long long)left,
                                       (long long)amount);
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "%s: %lld is asked for, and %lld of it may be given away", c->id,
                               (long long)amount, (long long)left);
        }
        at(s, component, hypervisor)->amount += amount;
        return 0;
}

/* All that may be given away of it: what another has makes it an overlap. */
static int take_whole(struct server *s, int hypervisor, uint32_t component, struct err *err)
{
        int64_t whole = s->components[component].owned;
        return whole > 0 ? server_take(s, hypervisor, component, whole, err) : 0;
}

int server_take_node(struct server *s, int hypervisor, uint32_t node, bool has_memory, struct err *err)
{
        struct server_share *before = malloc((s->n_components + 1) * sizeof(*before));
        bool is_there = false;
        int bad = before ? 0 : err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the partition");
        for (uint32_t i = 0; before && i < s->n_components; i++)
                before[i] = *at(s, i, hypervisor);
        for (uint32_t i = 0; !bad && i < s->n_components; i++) {
                const struct component *c = &s->components[i];
                bool is_memory = c->kind == COMPONENT_MEMORY;
                if ((!is_memory && c->kind != COMPONENT_CPU) || c->node != node)
                        continue;
                is_there = true;
                if (!is_memory || has_memory)
                        bad = take_whole(s, hypervisor, i, err);
        }
        if (!bad && !is_there)
                bad = err_set(err, REASON_NOT_FOUND, ENOENT, "this server has no NUMA node %u", node);
        for (uint32_t i = 0; before && bad && i < s->n_components; i++)
                *at(s, i, hypervisor) = before[i];
        free(before);
        return bad;
}

static bool has_cpu_on(const struct server *s, int hypervisor, uint32_t node)
{
        for (uint32_t i = 0; i < s->n_components; i++)
                if (s->components[i].kind == COMPONENT_CPU && s->components[i].node == node &&
                    at(s, i, hypervisor)->amount > 0)
                        return true;
        return false;
}

/* What is left of the memory of a node that is near; 0: of another, or of what is no memory. */
static int64_t near_left(const struct server *s, int hypervisor, uint32_t component)
{
        const struct component *c = &s->components[component];
        if (c->kind != COMPONENT_MEMORY || !has_cpu_on(s, hypervisor, c->node))
                return 0;
        return server_nobodys(s, component) >> MIB_SHIFT;
}

int server_take_memory(struct server *s, int hypervisor, int64_t bytes, struct err *err)
{
        int64_t total = 0, wanted = bytes >> MIB_SHIFT;
        if (bytes <= 0 || bytes % (INT64_C(1) << MIB_SHIFT) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "memory of %s: only whole MiB",
                               s->names[hypervisor]);
        for (uint32_t i = 0; i < s->n_components; i++)
                total += near_left(s, hypervisor, i);
        if (wanted > total)
                return err_set(
                        err, REASON_NO_CAPACITY, ENOSPC,
                        "memory of %s: %lld MiB are asked for, and %lld MiB are left of the nodes that "
                        "it has CPUs of",
                        s->names[hypervisor], (long long)wanted, (long long)total);
        for (uint32_t i = 0; i < s->n_components && wanted > 0; i++) {
                int64_t left = near_left(s, hypervisor, i);
                /* The last of them gets the rest, so that rounding loses nothing. */
                int64_t part =
                        left == total ? wanted : (int64_t)((double)wanted * (double)left / (double)total);
                part = part < left ? part : left;
                at(s, i, hypervisor)->amount += part << MIB_SHIFT;
                total -= left;
                wanted -= part;
        }
        assert(wanted == 0);
        return 0;
}

int server_keep(struct server *s, int hypervisor, uint32_t component, struct err *err)
{
        struct server_share *own = at(s, component, hypervisor);
        if (own->amount == 0)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "%s has nothing of %s to keep",
                               s->names[hypervisor], s->components[component].id);
        own->is_kept = true;
        return 0;
}

int64_t server_sum(const struct server *s, int hypervisor, enum component_kind kind)
{
        int64_t n = 0;
        for (uint32_t i = 0; i < s->n_components; i++)
                n += s->components[i].kind == kind ? at(s, i, hypervisor)->amount : 0;
        return n;
}

bool server_is_empty(const struct server *s, int hypervisor)
{
        for (uint32_t i = 0; i < s->n_components; i++)
                if (at(s, i, hypervisor)->amount > 0)
                        return false;
        return true;
}

int server_check(const struct server *s, struct err *err)
{
        if (s->n == 0)
                return err_set(err, REASON_INVALID, EINVAL, "a server has one hypervisor at least");
        for (int i = 0; i < s->n; i++) {
                if (server_sum(s, i, COMPONENT_CPU) == 0)
                        return err_set(err, REASON_INVALID, EINVAL,
                                       "%s has no CPU: give it a node= or cpus=", s->names[i]);
                if (server_sum(s, i, COMPONENT_MEMORY) == 0)
                        return err_set(err, REASON_INVALID, EINVAL,
                                       "%s has no memory: give it a node= or memory=", s->names[i]);
        }
        return 0;
}

/* ---- something changes hands ---- */

int server_give_begin(struct server *s, const struct server_giving *g, struct err *err)
{
        assert(g->component < s->n_components && g->from >= 0 && g->from < s->n && g->to >= 0 &&
               g->to < s->n);
        const struct component *c = &s->components[g->component];
        struct server_share *from = at(s, g->component, g->from);
        int bad = check_amount(c, g->amount, err);
        if (bad)
                return bad;
        if (g->from == g->to)
                return err_set(err, REASON_INVALID, EINVAL, "%s has it already", s->names[g->to]);
        if (s->giving.amount > 0)
                return err_set(err, REASON_BUSY, EBUSY, "%s is on its way from %s to %s; try again",
                               s->components[s->giving.component].id, s->names[s->giving.from],
                               s->names[s->giving.to]);
        if (g->amount > from->amount)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC, "%s has %lld of %s, and not %lld",
                               s->names[g->from], (long long)from->amount, c->id, (long long)g->amount);
        if (from->is_kept)
                return err_set(err, REASON_UNREASSIGNABLE, EPERM, "%s is kept by %s (keep=)", c->id,
                               s->names[g->from]);
        if (server_sum(s, g->from, c->kind) == g->amount)
                return err_set(err, REASON_INVALID, EINVAL, "it is the last %s that %s has",
                               c->kind == COMPONENT_CPU ? "CPU" : "memory", s->names[g->from]);
        from->amount -= g->amount;
        s->giving = *g;
        s->epoch++;
        return 0;
}

static void put(struct server *s, int hypervisor)
{
        assert(s->giving.amount > 0);
        at(s, s->giving.component, hypervisor)->amount += s->giving.amount;
        s->giving = (struct server_giving){0};
        s->epoch++;
}

void server_give_end(struct server *s)
{
        put(s, s->giving.to);
}

void server_give_undo(struct server *s)
{
        put(s, s->giving.from);
}

bool server_next_gift(const struct server *s, int from, int to, const int64_t *most,
                      struct server_giving *ret)
{
        const int64_t mib = INT64_C(1) << MIB_SHIFT;
        for (uint32_t i = 0; i < s->n_components; i++) {
                const struct server_share *own = at(s, i, from);
                enum component_kind kind = s->components[i].kind;
                int64_t unit = kind == COMPONENT_CPU ? CPU_WHOLE_MILLI : mib;
                int64_t amount = most[i] < own->amount ? most[i] : own->amount;
                if ((kind != COMPONENT_CPU && kind != COMPONENT_MEMORY) || own->is_kept)
                        continue;
                if (amount > server_sum(s, from, kind) - unit)
                        amount = server_sum(s, from, kind) - unit;
                if (amount < unit)
                        continue;
                *ret = (struct server_giving){
                        .component = i, .from = from, .to = to, .amount = amount / unit * unit};
                return true;
        }
        return false;
}

void server_retire(struct server *s, int from, int to)
{
        assert(from != to && (s->giving.amount == 0 || (s->giving.from != from && s->giving.to != from &&
                                                        s->giving.from != to && s->giving.to != to)));
        for (uint32_t i = 0; i < s->n_components; i++) {
                struct server_share *a = at(s, i, from), *b = at(s, i, to);
                b->amount += a->amount;
                b->is_kept = b->is_kept || a->is_kept;
                *a = (struct server_share){0};
        }
        s->epoch++;
}

/* ---- what a VM takes along ---- */

int server_assign_check(const struct server *s, int from, int to, const struct server_portion *portions,
                        size_t n, struct err *err)
{
        int64_t cpus = server_sum(s, from, COMPONENT_CPU), memory = server_sum(s, from, COMPONENT_MEMORY);
        const struct server_giving *g = &s->giving;
        if (g->amount > 0 && (g->from == from || g->from == to || g->to == from || g->to == to))
                return err_set(err, REASON_BUSY, EBUSY, "%s is on its way from %s to %s; try again",
                               s->components[s->giving.component].id, s->names[s->giving.from],
                               s->names[s->giving.to]);
        for (size_t i = 0; i < n; i++) {
                const struct component *c = &s->components[portions[i].component];
                const struct server_share *own = at(s, portions[i].component, from);
                int bad = check_amount(c, portions[i].amount, err);
                if (bad)
                        return bad;
                if (portions[i].amount > own->amount)
                        return err_set(err, REASON_NO_CAPACITY, ENOSPC, "%s has %lld of %s, and not %lld",
                                       s->names[from], (long long)own->amount, c->id,
                                       (long long)portions[i].amount);
                if (own->is_kept)
                        return err_set(err, REASON_UNREASSIGNABLE, EPERM, "%s is kept by %s (keep=)", c->id,
                                       s->names[from]);
                /* It would become part of that, and never could come back. */
                if (at(s, portions[i].component, to)->is_kept)
                        return err_set(err, REASON_UNREASSIGNABLE, EPERM,
                                       "%s is kept by %s (keep=): what comes to it there never leaves", c->id,
                                       s->names[to]);
                *(c->kind == COMPONENT_CPU ? &cpus : &memory) -= portions[i].amount;
        }
        if (from != to && cpus > 0 && memory > 0)
                return 0;
        return from == to ? err_set(err, REASON_INVALID, EINVAL, "%s has it already", s->names[to])
                          : err_set(err, REASON_UNREASSIGNABLE, EPERM, "it is the last %s that %s has",
                                    cpus > 0 ? "memory" : "CPU", s->names[from]);
}

void server_set_aside(struct server *s, int hypervisor, const struct server_portion *portions, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                struct server_share *own = at(s, portions[i].component, hypervisor);
                own->amount -= portions[i].amount < own->amount ? portions[i].amount : own->amount;
                own->is_kept = own->is_kept && own->amount > 0;
        }
}

void server_assign(struct server *s, int from, int to, const struct server_portion *portions, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                struct server_share *a = at(s, portions[i].component, from),
                                    *b = at(s, portions[i].component, to);
                int64_t amount = portions[i].amount < a->amount ? portions[i].amount : a->amount;
                a->amount -= amount;
                b->amount += amount;
                a->is_kept = a->is_kept && a->amount > 0;
        }
        s->epoch++;
}

bool server_is_sound(const struct server *s)
{
        const struct server_giving *g = &s->giving;
        bool is_sound = s->n >= 0 && s->n <= SERVER_HYPERVISORS_MAX && g->amount >= 0;
        if (is_sound && g->amount > 0)
                is_sound = g->component < s->n_components && g->from >= 0 && g->from < s->n && g->to >= 0 &&
                           g->to < s->n && g->from != g->to &&
                           check_amount(&s->components[g->component], g->amount, NULL) == 0;
        for (uint32_t i = 0; is_sound && i < s->n_components; i++) {
                is_sound = server_nobodys(s, i) >= 0;
                for (int k = 0; is_sound && k < s->n; k++) {
                        const struct server_share *own = at(s, i, k);
                        is_sound = own->amount == 0 ? !own->is_kept
                                                    : check_amount(&s->components[i], own->amount, NULL) == 0;
                }
        }
        return is_sound;
}

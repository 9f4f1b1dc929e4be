/* SPDX-License-Identifier: Apache-2.0 */
#include "core/activation.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum scope { SCOPE_OWN = 1, SCOPE_ONCE, SCOPE_EACH };

static const struct {
        const char *name;
        enum scope scope;
        enum phase back; /* what follows on the way back; PHASE_N: nothing, it is the end */
} rows[PHASE_N] = {
        [PHASE_PREPARE] = {"prepare",   SCOPE_EACH, PHASE_MARK   },
        [PHASE_HOST] = {"host",      SCOPE_EACH, PHASE_PREPARE},
        [PHASE_MARK] = {"mark",      SCOPE_OWN,  PHASE_N      },
        [PHASE_VIRTUAL] = {"virtual",   SCOPE_EACH, PHASE_HOST   },
        [PHASE_BIND] = {"bind",      SCOPE_EACH, PHASE_VIRTUAL},
        [PHASE_CONFIRM] = {"confirm",   SCOPE_ONCE, PHASE_BIND   },
        [PHASE_FINALISE] = {"finalise",  SCOPE_EACH, PHASE_CONFIRM}, /* has nothing to undo */
        [PHASE_CONFIGURE] = {"configure", SCOPE_OWN,  PHASE_CONFIRM},
};

#define USES(p) (1U << (p))

/* In the order of activation: the VMM is there before its vCPUs are, memory before CPUs. */
static const struct {
        const char *name;
        unsigned phases; /* in which it has something to do */
        bool stays;      /* its host side is worth keeping, and can be: a tap goes with its VMM */
} kinds[VIRTUAL_KIND_N] = {
        [VIRTUAL_NONE] = {"none", USES(PHASE_HOST) | USES(PHASE_BIND),                          true },
        [VIRTUAL_RAM] = {"ram",  USES(PHASE_PREPARE) | USES(PHASE_HOST) | USES(PHASE_VIRTUAL), true },
        [VIRTUAL_DIMM] = {"dimm", USES(PHASE_PREPARE) | USES(PHASE_HOST) | USES(PHASE_VIRTUAL), true },
        [VIRTUAL_VCPU] = {"vcpu", USES(PHASE_HOST) | USES(PHASE_VIRTUAL) | USES(PHASE_BIND),    true },
        [VIRTUAL_NIC] = {"nic",  USES(PHASE_PREPARE) | USES(PHASE_HOST) | USES(PHASE_VIRTUAL), false},
 /* what holds a disk to its rate is in the VMM and comes with it */
        [VIRTUAL_DISK] = {"disk", USES(PHASE_BIND),                                             false},
};

bool definition_uses(const struct definition *d, enum phase p)
{
        return p == PHASE_FINALISE || (kinds[d->kind].phases & USES(p));
}

/* ---- the list ---- */

const char *definitions_problem(const struct definition *d, size_t n)
{
        bool has_virtual = false;
        for (size_t i = 0; i < n; i++) {
                has_virtual = has_virtual || d[i].kind != VIRTUAL_NONE;
                if (d[i].amount <= 0)
                        return "a virtual resource has no host resource that backs it";
                for (size_t k = 0; k < i; k++)
                        if (d[i].kind != VIRTUAL_NONE && d[i].kind == d[k].kind && d[i].slot == d[k].slot)
                                return "a virtual resource is in the list twice";
        }
        if (n == 0)
                return "the list has no resource";
        return has_virtual ? NULL : "the list has no virtual resource";
}

static int by_order(const void *a, const void *b)
{
        const struct definition *x = a, *y = b;
        if (x->kind != y->kind)
                return x->kind < y->kind ? -1 : 1;
        return x->slot == y->slot ? 0 : x->slot < y->slot ? -1 : 1;
}

void definitions_sort(struct definition *d, size_t n)
{
        if (n)
                qsort(d, n, sizeof(*d), by_order);
}

/* ---- the walk ---- */

void activation_begin(struct activation *a)
{
        *a = (struct activation){0};
}

static void back_from_start(struct activation *a)
{
        a->is_back = true;
        a->phase = PHASE_N;
        a->item = 0;
}

void activation_turn(struct activation *a, struct definition *d, size_t n, bool lazily)
{
        if (a->is_back) {
                /* Some may have come back but for the host side, while others are held. */
                for (size_t i = 0; i < n && a->is_lazy && !lazily; i++)
                        if (d[i].way == WAY_NONE && d[i].host_active)
                                d[i].way = WAY_GOING;
                a->is_lazy = a->is_lazy && lazily;
                return;
        }
        a->is_lazy = lazily;
        a->reached = a->phase;
        a->reached_item = a->item;
        back_from_start(a);
        for (size_t i = 0; i < n; i++)
                d[i].way = WAY_GOING;
}

void activation_reclaim(struct activation *a, struct definition *d, size_t n)
{
        assert(n > 0);
        *a = (struct activation){.reached = PHASE_HOST, .reached_item = (uint16_t)(n - 1)};
        back_from_start(a);
        for (size_t i = 0; i < n; i++)
                d[i].way = WAY_GOING;
}

void activation_repeat(struct activation *a, struct definition *d, size_t n)
{
        assert(a->is_back);
        back_from_start(a);
        for (size_t i = 0; i < n; i++)
                if (d[i].way == WAY_HELD)
                        d[i].way = WAY_GOING;
}

/* Has the way up begun this step? */
static bool was_begun(const struct activation *a, enum phase p, size_t item)
{
        if (p != a->reached)
                return p < a->reached;
        return rows[p].scope != SCOPE_EACH || item <= a->reached_item;
}

static bool is_wanted(const struct activation *a, const struct definition *d, size_t n)
{
        enum phase p = a->phase;
        const struct definition *x = &d[a->item];
        if (rows[p].scope == SCOPE_OWN)
                return true;
        if (rows[p].scope == SCOPE_ONCE) {
                for (size_t i = 0; i < n && a->is_back; i++)
                        if (d[i].way == WAY_GOING)
                                return was_begun(a, p, 0);
                return !a->is_back;
        }
        if (!definition_uses(x, p) || (p == PHASE_PREPARE && !x->prepares))
                return false;
        if (!a->is_back)
                return p != PHASE_HOST || !x->host_active; /* kept from a lazy way back */
        if (x->way != WAY_GOING)
                return false;
        if (x->host_active &&
            (p == PHASE_HOST || p == PHASE_PREPARE)) /* in this walk, or by the run before */
                return !a->is_lazy || !kinds[x->kind].stays;
        return was_begun(a, p, a->item);
}

/* The engine's own steps. */
static void do_own(const struct activation *a, struct definition *d, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                if (!a->is_back && a->phase == PHASE_MARK) {
                        d[i].host_active = true;
                } else if (!a->is_back) {
                        d[i].active = d[i].kind != VIRTUAL_NONE;
                        d[i].configured = d[i].active;
                } else if (d[i].way == WAY_GOING && a->phase == PHASE_CONFIGURE) {
                        d[i].configured = false;
                } else if (d[i].way == WAY_GOING) {
                        d[i].way = WAY_NONE;
                        d[i].active = false;
                        if (!a->is_lazy || !kinds[d[i].kind].stays)
                                d[i].host_active = d[i].kept = false;
                }
        }
}

/* false: that was the last one. */
static bool advance(struct activation *a, size_t n)
{
        bool each = a->phase > 0 && a->phase < PHASE_N && rows[a->phase].scope == SCOPE_EACH;
        if (each && !a->is_back && a->item + 1U < n) {
                a->item++;
                return true;
        }
        if (each && a->is_back && a->item > 0) {
                a->item--;
                return true;
        }
        if (a->is_back)
                a->phase = a->phase == PHASE_N ? PHASE_CONFIGURE : rows[a->phase].back;
        else
                a->phase++;
        a->item = 0;
        if (a->phase == PHASE_N)
                return false;
        if (a->is_back && rows[a->phase].scope == SCOPE_EACH)
                a->item = (uint16_t)(n - 1);
        return true;
}

enum activation_next activation_next(struct activation *a, struct definition *d, size_t n, unsigned *ret_own)
{
        assert(n > 0 && n <= UINT16_MAX);
        *ret_own = 0;
        while (advance(a, n)) {
                if (!is_wanted(a, d, n))
                        continue;
                if (rows[a->phase].scope != SCOPE_OWN)
                        return ACTIVATION_STEP;
                do_own(a, d, n);
                *ret_own |= USES(a->phase);
        }
        if (!a->is_back)
                return ACTIVATION_USABLE;
        for (size_t i = 0; i < n; i++)
                if (d[i].way == WAY_HELD)
                        return ACTIVATION_HELD;
        return ACTIVATION_BACK;
}

bool activation_is_at_step(const struct activation *a, size_t n)
{
        return a->phase > 0 && a->phase < PHASE_N && rows[a->phase].scope != SCOPE_OWN && a->item < n;
}

void activation_report(struct activation *a, struct definition *d, size_t n, bool good)
{
        assert(a->phase > 0 && a->phase < PHASE_N && a->item < n);
        if (good)
                return;
        if (!a->is_back)
                activation_turn(a, d, n, false);
        else if (rows[a->phase].scope == SCOPE_EACH)
                d[a->item].way = WAY_HELD;
}

/* ---- names ---- */

const char *phase_name(enum phase p)
{
        if (p == PHASE_N)
                return "end";
        return (unsigned)p < PHASE_N && p ? rows[p].name : "start";
}

bool phase_has_items(enum phase p)
{
        return (unsigned)p < PHASE_N && rows[p].scope == SCOPE_EACH;
}

static bool phase_from_name(const char *name, enum phase *ret)
{
        for (int p = 0; p <= PHASE_N; p++) {
                if (strcmp(name, phase_name((enum phase)p)) != 0)
                        continue;
                *ret = (enum phase)p;
                return true;
        }
        return false;
}

const char *virtual_kind_name(enum virtual_kind k)
{
        return (unsigned)k < VIRTUAL_KIND_N && k ? kinds[k].name : "?";
}

enum virtual_kind virtual_kind_from_name(const char *name)
{
        for (int k = 1; k < VIRTUAL_KIND_N; k++)
                if (strcmp(name, kinds[k].name) == 0)
                        return (enum virtual_kind)k;
        return 0;
}

const char *activation_print(const struct activation *a, char ret[ACTIVATION_TEXT])
{
        int at = snprintf(ret, ACTIVATION_TEXT, "%s %s %u", a->is_back ? "back" : "up", phase_name(a->phase),
                          (unsigned)a->item);
        if (a->is_back)
                (void)snprintf(ret + at, (size_t)(ACTIVATION_TEXT - at), " of %s %u%s",
                               phase_name(a->reached), (unsigned)a->reached_item, a->is_lazy ? " lazy" : "");
        return ret;
}

/* The next word of *p, which is moved behind it. */
static bool take_word(const char **p, char *ret, size_t size)
{
        size_t n = strcspn(*p, " ");
        if (n == 0 || n >= size)
                return false;
        memcpy(ret, *p, n);
        ret[n] = '\0';
        *p += n + ((*p)[n] == ' ');
        return true;
}

static bool take_step(const char **p, enum phase *ret_phase, uint16_t *ret_item)
{
        char word[16], *end;
        if (!take_word(p, word, sizeof(word)) || !phase_from_name(word, ret_phase) ||
            !take_word(p, word, sizeof(word)))
                return false;
        unsigned long item = strtoul(word, &end, 10);
        *ret_item = (uint16_t)item;
        return *end == '\0' && item <= UINT16_MAX;
}

bool activation_parse(const char *text, struct activation *ret)
{
        char word[16], again[ACTIVATION_TEXT];
        struct activation a = {0};
        const char *p = text;
        if (!take_word(&p, word, sizeof(word)))
                return false;
        a.is_back = strcmp(word, "back") == 0;
        if (!take_step(&p, &a.phase, &a.item))
                return false;
        if (a.is_back && (!take_word(&p, word, sizeof(word)) || !take_step(&p, &a.reached, &a.reached_item)))
                return false;
        a.is_lazy = strcmp(p, "lazy") == 0;
        if (strcmp(activation_print(&a, again), text) != 0)
                return false; /* not one of ours, in some detail */
        *ret = a;
        return true;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Within one class (kind and page size) content may go anywhere, so it fits if the sum does, and filling one
 * unit after the other never gets stuck. Which one first is a matter of where the VM is then: where it has
 * most already, so that it does not get more scattered than it must. */
#include "core/separate.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

static bool is_alike(const struct separate_unit *a, const struct separate_unit *b)
{
        return a->kind == b->kind && a->page_bytes == b->page_bytes;
}

/* Shared pages can be had as pages of one's own beside the others; a shared CPU cannot. */
static bool is_unit_staying(const struct separate_unit *units, uint32_t unit, const struct separate_has *has,
                            size_t n_has)
{
        if (units[unit].is_kept)
                return true;
        for (size_t i = 0; i < n_has; i++)
                if (has[i].unit == unit && has[i].is_shared && units[unit].kind != COMPONENT_MEMORY)
                        return true;
        return false;
}

static int64_t amount_in(const struct separate_has *has, size_t n_has, uint32_t unit)
{
        int64_t sum = 0;
        for (size_t i = 0; i < n_has; i++)
                sum += has[i].unit == unit && !has[i].is_shared ? has[i].amount : 0;
        return sum;
}

/* What is left in a unit after the steps so far. */
static int64_t room(const struct separate_unit *units, uint32_t unit, const struct separate_step *steps,
                    size_t n)
{
        int64_t left = units[unit].free;
        for (size_t i = 0; i < n; i++)
                left -= steps[i].to == unit ? steps[i].amount : 0;
        if (units[unit].page_bytes > 0)
                left -= left % units[unit].page_bytes;
        return left > 0 ? left : 0;
}

/* least: with no less room it does not count. */
static const struct separate_unit *best_room(const struct separate_unit *units, size_t n_units,
                                             const struct separate_has *has, size_t n_has, uint32_t from,
                                             int64_t least, const struct separate_step *steps, size_t n)
{
        const struct separate_unit *best = NULL;
        int64_t best_amount = 0, best_room = 0;
        bool is_best_near = false;
        for (uint32_t u = 0; u < n_units; u++) {
                int64_t left = room(units, u, steps, n), amount = amount_in(has, n_has, u);
                bool is_near = units[u].node == units[from].node;
                if (left < least || !is_alike(&units[u], &units[from]) ||
                    is_unit_staying(units, u, has, n_has))
                        continue;
                bool is_better = !best || amount > best_amount ||
                                 (amount == best_amount && is_near && !is_best_near) ||
                                 (amount == best_amount && is_near == is_best_near && left > best_room);
                if (!is_better)
                        continue;
                best = &units[u];
                best_amount = amount;
                best_room = left;
                is_best_near = is_near;
        }
        return best;
}

struct plan {
        const struct separate_unit *units;
        const struct separate_has *has;
        size_t n_units, n_has, n;
        struct separate_verdict *verdicts;
        struct separate_step *steps;
};

static void place(struct plan *p, size_t i)
{
        const struct separate_has *has = &p->has[i];
        struct separate_verdict *v = &p->verdicts[i];
        while (!has->is_fixed && v->moved < has->amount) {
                const struct separate_unit *to = best_room(p->units, p->n_units, p->has, p->n_has, has->unit,
                                                           has->is_whole ? has->amount : 1, p->steps, p->n);
                if (!to)
                        break;
                uint32_t at = (uint32_t)(to - p->units);
                int64_t left = room(p->units, at, p->steps, p->n), rest = has->amount - v->moved;
                assert(p->n < p->n_has + p->n_units);
                p->steps[p->n++] =
                        (struct separate_step){(uint32_t)i, has->unit, at, rest < left ? rest : left};
                v->moved += p->steps[p->n - 1].amount;
        }
        v->stuck = has->amount - v->moved;
        if (v->stuck > 0)
                v->portion = PORTION_UNREASSIGNABLE;
}

/* The largest of those that go as a whole and have no place yet, then the others as they come. */
static size_t next_to_place(const struct plan *p)
{
        size_t best = p->n_has;
        for (size_t i = 0; i < p->n_has; i++) {
                const struct separate_verdict *v = &p->verdicts[i];
                if (v->portion != PORTION_SEPARABLE || v->moved == p->has[i].amount)
                        continue;
                bool is_better = best == p->n_has || (p->has[i].is_whole && !p->has[best].is_whole) ||
                                 (p->has[i].is_whole && p->has[i].amount > p->has[best].amount);
                if (is_better)
                        best = i;
        }
        return best;
}

int separate_plan(const struct separate_unit *units, size_t n_units, const struct separate_has *has,
                  size_t n_has, struct separate_verdict *ret_verdicts, struct separate_step *ret_steps,
                  size_t *ret_n, struct err *err)
{
        struct plan p = {units, has, n_units, n_has, 0, ret_verdicts, ret_steps};
        int r = 0;
        for (size_t i = 0; i < n_has; i++) {
                uint32_t from = has[i].unit;
                assert(from < n_units && has[i].amount >= 0);
                bool stays = is_unit_staying(units, from, has, n_has) || has[i].is_shared;
                ret_verdicts[i] = (struct separate_verdict){stays ? PORTION_SEPARABLE : PORTION_REASSIGNABLE,
                                                            !stays                ? PORTION_WHY_FREE
                                                            : units[from].is_kept ? PORTION_WHY_KEPT
                                                                                  : PORTION_WHY_SHARED,
                                                            0, 0};
        }
        for (size_t i; (i = next_to_place(&p)) < n_has;)
                place(&p, i);
        for (size_t i = 0; i < n_has && r == 0; i++) {
                const struct separate_verdict *v = &ret_verdicts[i];
                const struct separate_unit *from = &units[has[i].unit];
                if (v->stuck == 0)
                        continue;
                r = err_set(err, REASON_UNREASSIGNABLE, ENOSPC,
                            "%" PRId64 " of the VM's %" PRId64 " of %s on node %" PRIu32
                            " cannot leave (%s), and %s",
                            v->stuck, has[i].amount, component_kinds[from->kind].name, from->node,
                            portion_why_name(v->why),
                            has[i].is_fixed ? "cannot be moved while the VM runs (huge pages)"
                                            : "there is no room for it where it could");
        }
        *ret_n = r < 0 ? 0 : p.n;
        return r;
}

/* Where it would be together, with the least moved; n_units: nowhere, or it is already. */
static size_t best_home(const int64_t *amounts, const int64_t *free_amounts, size_t n_units,
                        int64_t *ret_moved)
{
        size_t home = n_units, parts = 0;
        int64_t sum = 0;
        for (size_t u = 0; u < n_units; u++) {
                sum += amounts[u];
                parts += amounts[u] > 0;
        }
        for (size_t u = 0; parts > 1 && u < n_units; u++) {
                int64_t moved = sum - amounts[u];
                if (moved > free_amounts[u] || (home < n_units && moved >= *ret_moved))
                        continue;
                home = u;
                *ret_moved = moved;
        }
        return home;
}

size_t consolidate_plan(int64_t *amounts, size_t n_vms, int64_t *free_amounts, size_t n_units, int64_t limit,
                        size_t vms_most, struct separate_step *ret_steps, size_t *ret_n)
{
        int64_t spent = 0;
        size_t n = 0, scattered = 0;
        for (size_t n_moved = 0; n_moved < vms_most; n_moved++) {
                size_t vm = n_vms, home = n_units;
                int64_t least = 0;
                for (size_t v = 0; v < n_vms; v++) {
                        int64_t moved = 0;
                        size_t at = best_home(amounts + v * n_units, free_amounts, n_units, &moved);
                        if (at == n_units || (vm < n_vms && moved >= least) ||
                            (limit > 0 && moved > limit - spent))
                                continue;
                        vm = v;
                        home = at;
                        least = moved;
                }
                if (vm == n_vms)
                        break;
                int64_t *has = amounts + vm * n_units;
                for (size_t u = 0; u < n_units; u++) {
                        if (u == home || has[u] == 0)
                                continue;
                        ret_steps[n++] =
                                (struct separate_step){(uint32_t)vm, (uint32_t)u, (uint32_t)home, has[u]};
                        free_amounts[u] += has[u];
                        free_amounts[home] -= has[u];
                        has[home] += has[u];
                        has[u] = 0;
                }
                spent += least;
        }
        for (size_t v = 0; v < n_vms; v++) {
                size_t parts = 0;
                for (size_t u = 0; u < n_units; u++)
                        parts += amounts[v * n_units + u] > 0;
                scattered += parts > 1;
        }
        *ret_n = n;
        return scattered;
}

const char *portion_name(enum portion p)
{
        return p == PORTION_REASSIGNABLE     ? "reassignable"
               : p == PORTION_SEPARABLE      ? "separable"
               : p == PORTION_UNREASSIGNABLE ? "unreassignable"
                                             : "?";
}

const char *portion_why_name(enum portion_why w)
{
        return w == PORTION_WHY_FREE     ? "it is the VM's alone"
               : w == PORTION_WHY_KEPT   ? "it lies where the source keeps it"
               : w == PORTION_WHY_SHARED ? "it is shared with somebody that stays"
                                         : "?";
}

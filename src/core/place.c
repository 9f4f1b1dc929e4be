/* SPDX-License-Identifier: Apache-2.0 */
#include "core/place.h"
static int64_t share_of(const struct need *need, int64_t d)
{
        const struct parameter *p = need_parameter(need, PARAMETER_SHARE);
        if (need_parameter(need, PARAMETER_EXCLUSIVE))
                return 1000;
        return p ? p->value : d;
}
int place_need(const struct ledger *l, const struct component *c, size_t n, const struct need *need,
               int64_t d, int64_t unit, int64_t s, int64_t e, struct placement *ret, struct err *err)
{
        (void)err;
        ret->n = 0;
        ret->amount_met = 0;
        for (size_t i = 0; i < n && ret->amount_met < need->amount_max && ret->n < 72; i++) {
                if (c[i].kind != need->kind)
                        continue;
                int64_t f = ledger_free_over(l, (uint32_t)i, s, e);
                if (need->kind == COMPONENT_CPU) {
                        if (f >= share_of(need, d)) {
                                ret->item[ret->n].component = (uint32_t)i;
                                ret->item[ret->n++].amount = share_of(need, d);
                                ret->amount_met++;
                        }
                } else {
                        int64_t t = f / unit * unit;
                        int64_t w = (need->amount_max + unit - 1) / unit * unit - ret->amount_met;
                        if (t > w)
                                t = w;
                        if (t > 0) {
                                ret->item[ret->n].component = (uint32_t)i;
                                ret->item[ret->n++].amount = t;
                                ret->amount_met += t;
                        }
                }
        }
        return ret->amount_met >= need->amount;
}
int64_t place_limit(const struct component *c, size_t n, const struct need *need, int64_t d, int64_t unit)
{
        int64_t t = 0;
        for (size_t i = 0; i < n; i++)
                if (c[i].kind == need->kind)
                        t += need->kind == COMPONENT_CPU ? c[i].owned >= share_of(need, d)
                                                         : c[i].owned / unit * unit;
        return t;
}

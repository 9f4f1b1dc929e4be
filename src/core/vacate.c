/* SPDX-License-Identifier: Apache-2.0 */
#include "core/vacate.h"

#include <assert.h>
#include <string.h>

#include "core/component.h"

struct vacating {
        const struct vacate_claim *claims;
        size_t n_vms, n_cpus, cpus_left;
        int64_t room_milli;
        int64_t lent_milli; /* of that, what those of this rank left behind: it is for later ones */
        uint32_t rank, ranks[VACATE_VMS_MAX];
        int64_t need_milli[VACATE_VMS_MAX];
        bool is_gone[VACATE_VMS_MAX];
        size_t first[VACATE_VMS_MAX + 1];  /* of its claims */
        uint32_t claimed[VACATE_CPUS_MAX]; /* claims on it that are left */
        uint32_t own[VACATE_CPUS_MAX];     /* of frees_milli() */
        bool is_lent[VACATE_CPUS_MAX];
};

/* What nobody has anything of any more follows, but for the last. */
static void lend(struct vacating *v)
{
        for (size_t i = 0; i < v->n_cpus && v->cpus_left > 1; i++) {
                if (v->is_lent[i] || v->claimed[i] > 0)
                        continue;
                v->is_lent[i] = true;
                v->cpus_left--;
                v->room_milli += CPU_WHOLE_MILLI;
                v->lent_milli += CPU_WHOLE_MILLI;
        }
}

/* Of those CPUs that it alone has something of. */
static int64_t frees_milli(struct vacating *v, uint32_t vm)
{
        int64_t milli = 0;
        for (size_t i = v->first[vm]; i < v->first[vm + 1]; i++) {
                uint32_t cpu = v->claims[i].cpu;
                milli += ++v->own[cpu] == v->claimed[cpu] ? CPU_WHOLE_MILLI : 0;
        }
        for (size_t i = v->first[vm]; i < v->first[vm + 1]; i++)
                v->own[v->claims[i].cpu] = 0;
        return milli;
}

/* VACATE_STAYS: none has room. */
static uint32_t best(struct vacating *v)
{
        uint32_t ret = VACATE_STAYS;
        int64_t most = 0;
        for (uint32_t i = 0; i < v->n_vms; i++) {
                if (v->is_gone[i] || v->need_milli[i] > v->room_milli)
                        continue;
                int64_t gain = frees_milli(v, i) - v->need_milli[i];
                if (ret == VACATE_STAYS || gain > most) {
                        ret = i;
                        most = gain;
                }
        }
        return ret;
}

static void go(struct vacating *v, uint32_t vm)
{
        if (v->need_milli[vm] > v->room_milli - v->lent_milli) {
                v->rank++;
                v->lent_milli = 0;
        }
        v->ranks[vm] = v->rank;
        v->is_gone[vm] = true;
        v->room_milli -= v->need_milli[vm];
        for (size_t i = v->first[vm]; i < v->first[vm + 1]; i++)
                v->claimed[v->claims[i].cpu]--;
}

size_t vacate_check(const struct vacate_claim *claims, size_t n, size_t n_vms, size_t n_cpus,
                    int64_t room_milli, uint32_t *ret_rank)
{
        struct vacating v = {.claims = claims,
                             .n_vms = n_vms,
                             .n_cpus = n_cpus,
                             .cpus_left = n_cpus,
                             .room_milli = room_milli,
                             .rank = 1};
        size_t stuck = SIZE_MAX;
        uint32_t next;
        assert(n_vms <= VACATE_VMS_MAX && n_cpus <= VACATE_CPUS_MAX);
        for (size_t i = 0; i < n; i++) {
                const struct vacate_claim *c = &claims[i];
                assert((c->vm < n_vms || c->vm == VACATE_STAYS) && c->cpu < n_cpus);
                assert(i == 0 || c->vm >= claims[i - 1].vm);
                v.claimed[c->cpu]++;
                if (c->vm == VACATE_STAYS)
                        continue;
                v.need_milli[c->vm] += c->milli;
                v.first[c->vm + 1]++;
        }
        for (size_t vm = 0; vm < n_vms; vm++)
                v.first[vm + 1] += v.first[vm];
        lend(&v);
        v.lent_milli = 0; /* what is free already is for the first */
        for (; (next = best(&v)) != VACATE_STAYS; lend(&v))
                go(&v, next);
        for (size_t i = 0; i < n_vms; i++)
                if (!v.is_gone[i] && (stuck == SIZE_MAX || v.need_milli[i] < v.need_milli[stuck]))
                        stuck = i;
        if (stuck == SIZE_MAX)
                memcpy(ret_rank, v.ranks, n_vms * sizeof(*ret_rank));
        return stuck;
}

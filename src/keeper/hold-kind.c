/* SPDX-License-Identifier: Apache-2.0 */
/* The kinds of host resources: a row each. */
#include "keeper/hold.h"

#include <errno.h>
#include "base/str.h"
#include "host/cpu.h"
#include "keeper/ramdir.h"

/* ---- cpu ---- */

static const char *cpu_held_by(const struct hold *h)
{
        return cpu_provider_id_name(h->cpu->id);
}

static int cpu_check(const struct api_keeper_hold *p, struct err *err)
{
        if (p->has_bytes || p->has_node)
                return err_set(err, REASON_INVALID, EINVAL, "kind cpu takes neither bytes nor node");
        return 0; /* of CPUs and share the provider has a sentence */
}

static int cpu_activate(const struct hold *h, struct err *err)
{
        return h->cpu->provider->hold(h->cpu, h->vmm.vm, h->item, &h->cpus, h->share_milli, h->is_exclusive,
                                      err);
}

/* Looked at before and after, as in vmms_place(). */
static int cpu_bind(const struct hold *h, struct err *err)
{
        struct err gone;
        int r = vmm_ref_find_thread(&h->vmm, h->tid, err);
        if (r < 0)
                return r;
        r = h->cpu->provider->bind(h->cpu, h->vmm.vm, h->item, (pid_t)h->tid, err);
        if (vmm_ref_check_moved(h->cpu, &h->vmm, h->tid, &gone) == 0)
                return r;
        *err = gone;
        return -gone.code;
}

static int cpu_prepare(const struct hold *h, struct err *err)
{
        if (vmm_ref_find_thread(&h->vmm, h->tid, NULL) < 0)
                return 0;
        int r = h->cpu->provider->park(h->cpu, h->vmm.vm, (pid_t)h->tid, err);
        return vmm_ref_check_moved(h->cpu, &h->vmm, h->tid, NULL) < 0 ? 0 : r;
}

static int cpu_deactivate(const struct hold *h, struct err *err)
{
        return h->cpu->provider->let_go(h->cpu, h->vmm.vm, h->item, err);
}

static int cpu_read(const struct hold *h, struct err *err)
{
        struct cpu_live live;
        /* Only of its own threads, whatever number was said. */
        bool is_own = h->has_tid && vmm_ref_find_thread(&h->vmm, h->tid, NULL) == 0;
        int r = h->cpu->provider->read(h->cpu, h->vmm.vm, h->item, is_own ? (pid_t)h->tid : 0, &live, err);
        if (r < 0)
                return r;
        for (int cpu = cpulist_next(&live.cpus, 0); cpu >= 0 && h->live->n_cpus < ARRAY_N(h->live->cpus);
             cpu = cpulist_next(&live.cpus, (uint32_t)cpu + 1))
                h->live->cpus[h->live->n_cpus++] = cpu;
        h->live->has_share_milli = live.share_milli >= 0;
        h->live->share_milli = live.share_milli;
        h->live->has_exclusive = live.exclusive >= 0;
        h->live->exclusive = live.exclusive == 1;
        for (size_t i = 0; i < live.n_threads; i++)
                h->live->threads[h->live->n_threads++] = live.threads[i];
        return 0;
}

/* ---- memory ---- */

static const char *memory_held_by(const struct hold *h)
{
        return "file-system";
}

static int memory_check(const struct api_keeper_hold *p, struct err *err)
{
        if (p->n_cpus > 0 || p->has_share_milli || p->has_exclusive)
                return err_set(err, REASON_INVALID, EINVAL,
                               "kind memory takes neither cpus nor share_milli nor exclusive");
        if (!p->has_bytes)
                return err_set(err, REASON_INVALID, EINVAL, "kind memory needs bytes");
        return 0;
}

/* The RAM file itself is the VMM's to make; here is only asked whether there is room for it. */
static int memory_activate(const struct hold *h, struct err *err)
{
        int64_t taken = 0;
        int r = ramdir_taken(h->ram_fd, h->vmm.vm, h->item, &taken, err);
        int64_t more = r == 1 && taken < h->bytes ? h->bytes - taken : r == 1 ? 0 : h->bytes;
        if (r >= 0)
                r = ramdir_check_free(h->ram_fd, h->vmm.vm, more, err);
        if (r >= 0 && h->node >= 0)
                r = ramdir_check_node(h->ram_fd, NULL, h->node, more, err);
        return r;
}

static int memory_deactivate(const struct hold *h, struct err *err)
{
        return 0;
}

static int memory_read(const struct hold *h, struct err *err)
{
        int r = ramdir_taken(h->ram_fd, h->vmm.vm, h->item, &h->live->bytes, err);
        h->live->has_bytes = r == 1;
        return r < 0 ? r : 0;
}

const struct hold_kind hold_kinds[API_HOST_KIND_N] = {
        [API_HOST_KIND_CPU] = {.held_by = cpu_held_by,
                               .check = cpu_check,
                               .activate = cpu_activate,
                               .bind = cpu_bind,
                               .prepare = cpu_prepare,
                               .deactivate = cpu_deactivate,
                               .read = cpu_read},
        [API_HOST_KIND_MEMORY] = {.held_by = memory_held_by,
                               .check = memory_check,
                               .activate = memory_activate,
                               .deactivate = memory_deactivate,
                               .read = memory_read},
};

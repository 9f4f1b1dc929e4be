/* SPDX-License-Identifier: Apache-2.0 */
/* The room at the target. A VM that changes hypervisor brings its memory, in the components in which it lies:
 * what this hypervisor has of its own is not asked for it. Its claims are met from what its source says that
 * it has (core/bring.c), until the partition is taken in which that is ours.
 *
 * Which partition that is must be known for certain, as of any before it the memory would be free here for
 * others, and of any behind it counted twice. The one that names the handover is it, or mete-sp says its
 * epoch; while the VM runs here and neither came, no other is taken. */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "meted/handover-internal.h"
#include "meted/partition.h"

/* Of a VM that came, or is coming: until it is known that the partition has it. */
bool room_is_brought(const struct handing *ho)
{
        const struct api_partition *p = ho->m->partition;
        enum handover_state s = ho->core.row.state;
        return !handing_is_source(ho) && s != TARGET_DROPPED && ho->guest && p &&
               (ho->part_epoch == 0 || p->epoch < ho->part_epoch);
}

static int amounts_of(const struct handing *ho, int64_t *ret, struct err *err)
{
        const struct inventory *all = &ho->m->inventory;
        for (size_t i = 0; i < ho->guest->n_parts; i++) {
                const struct api_handover_part *p = &ho->guest->parts[i];
                size_t at = 0;
                while (at < all->n && strcmp(all->components[at].id, p->component) != 0)
                        at++;
                bool is_memory = strncmp(p->component, "memory:", 7) == 0 &&
                                 p->portion != API_HANDOVER_PORTION_SEPARABLE;
                if (is_memory && (at == all->n || p->amount > all->components[at].capacity))
                        return err_set(
                                err, REASON_INCOMPATIBLE, EXDEV,
                                "some of the memory of %s lies in %s, of which there is not so much here",
                                ho->vm, p->component);
                if (is_memory) /* what cannot leave is the source's to refuse, and mete-sp's */
                        ret[at] += p->amount;
        }
        return 0;
}

int room_bring(struct handing *ho, struct err *err)
{
        g_autofree int64_t *amounts = g_new0(int64_t, ho->m->inventory.n + 1);
        int bad = amounts_of(ho, amounts, err);
        return bad ? bad : hypervisor_vm_brings(ho->m->hv, ho->vm, amounts, err);
}

void room_know(struct handing *ho, int64_t epoch)
{
        if (ho->part_epoch > 0 || handing_is_source(ho))
                return;
        ho->part_epoch = epoch;
        handing_put(ho);
        meted_changed(ho->m);
        if (!room_is_brought(ho) && handing_is_latest(ho))
                hypervisor_vm_brought(ho->m->hv, ho->vm);
}

static void bring(struct handing *ho, void *arg)
{
        struct err err = {0};
        (void)arg;
        if (room_is_brought(ho) && handing_is_latest(ho) && hypervisor_vm(ho->m->hv, ho->vm) &&
            room_bring(ho, &err))
                log_warn("handover %s: %s", ho->core.row.id, err.sentence);
}

static void pin(struct handing *ho, void *arg)
{
        (void)arg;
        separation_pin(ho);
}

void handovers_bring(struct meted *m)
{
        handing_each(m, bring, NULL);
        handing_each(m, pin, NULL);
}

struct taking {
        const struct api_partition *p;
        const struct handing *unknown;
};

static bool is_named(const struct handing *ho, const struct api_partition *p)
{
        bool is_so = p->has_handover && strcmp(p->handover, ho->core.row.id) == 0;
        for (size_t i = 0; i < p->n_handovers && !is_so; i++)
                is_so = strcmp(p->handovers[i], ho->core.row.id) == 0;
        return is_so;
}

/* Before it runs here nothing was assigned that this side has not heard of: mete-sp waits for its word. */
static void look(struct handing *ho, void *arg)
{
        struct taking *t = arg;
        if (room_is_brought(ho) && ho->part_epoch == 0 && ho->core.row.state == TARGET_RUNNING &&
            !is_named(ho, t->p))
                t->unknown = ho;
}

int handovers_may_take(struct meted *m, const struct api_partition *p, struct err *err)
{
        struct taking t = {.p = p};
        handing_each(m, look, &t);
        return t.unknown
                       ? err_set(err, REASON_BUSY, EBUSY,
                                 "it is not known yet whether this partition has the memory of %s, which has "
                                 "come with handover %s",
                                 t.unknown->vm, t.unknown->core.row.id)
                       : 0;
}

/* One that is over, and of which nobody knew any more, was assigned before anything that comes now. */
static void book(struct handing *ho, void *arg)
{
        const struct taking *t = arg;
        bool is_over = handover_is_final(&ho->core) && ho->part_epoch == 0;
        if (!room_is_brought(ho))
                return;
        if (is_named(ho, t->p) || is_over) {
                ho->part_epoch = t->p->epoch;
                handing_put(ho);
        }
        if (ho->part_epoch > 0 && t->p->epoch >= ho->part_epoch && handing_is_latest(ho))
                hypervisor_vm_brought(ho->m->hv, ho->vm);
}

void handovers_book(struct meted *m, const struct api_partition *p)
{
        struct taking t = {.p = p};
        handing_each(m, book, &t);
}

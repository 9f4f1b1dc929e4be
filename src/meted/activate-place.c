/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a VM that runs goes to the node that it was moved to in the books (core/relocate.c): the host
 * side of what moves. The guest runs meanwhile, and is asked nothing.
 *
 * A step is one piece: between two of them all else of the VM has its turn. How far it is stands in its
 * machine, and nowhere else: who takes over begins anew, and finds what is there already. */
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "meted/activate-internal.h"

enum { PAUSE_LEAST_MS = 5, PAUSE_MOST_MS = 100 };

struct placing {
        uint64_t serial;
        uint16_t item;
        uint32_t to; /* component: it may be turned back */
        struct sweep sweep;
};

static GList *find(const struct step *s)
{
        for (GList *l = s->v->placings; l; l = l->next) {
                const struct placing *p = l->data;
                if (p->serial == s->serial && p->item == s->at.item)
                        return l;
        }
        return NULL;
}

/* Of what ended while it was on its way: with its VM, or as it was given back. */
static void prune(struct machine *v)
{
        for (GList *l = v->placings, *next; l; l = next) {
                const struct placing *p = l->data;
                const struct request *r = hypervisor_request(v->m->hv, p->serial);
                next = l->next;
                if (r && hypervisor_vm_is_relocating(v->m->hv, r))
                        continue;
                g_free(l->data);
                v->placings = g_list_delete_link(v->placings, l);
        }
}

static void forget(const struct step *s)
{
        GList *l = find(s);
        if (!l)
                return;
        g_free(l->data);
        s->v->placings = g_list_delete_link(s->v->placings, l);
}

static int64_t node_of(const struct step *s, const struct definition *d)
{
        return s->v->m->inventory.components[d->component].os_index;
}

/* All base memory is in one file, with its parts one behind the other, as the books have them: so what lies
 * in each is what is claimed for it, also where one of them goes back to where it was. The way back
 * needs no room but for what really goes back, and that others are where they are said to be, which nobody
 * had seen to before, does not hold it up. */
static struct placing *begin(const struct step *s)
{
        const struct definition *d = step_item(s);
        bool is_dimm = d->kind == VIRTUAL_DIMM;
        unsigned mine = d->goes_back ? PART_WAS_THERE : 0, others = d->goes_back ? PART_OPTIONAL : 0;
        struct placing *p = g_new0(struct placing, 1);
        prune(s->v);
        p->serial = s->serial;
        p->item = s->at.item;
        p->to = d->component;
        sweep_init(&p->sweep, s->v, d);
        for (size_t i = 0; i < s->n; i++)
                if (is_dimm ? &s->definitions[i] == d : s->definitions[i].kind == VIRTUAL_RAM)
                        sweep_add(&p->sweep, s->definitions[i].amount, node_of(s, &s->definitions[i]),
                                  s->definitions[i].moving ? mine : others);
        sweep_begin(&p->sweep, false);
        s->v->placings = g_list_prepend(s->v->placings, p);
        return p;
}

static bool is_of_now(const struct step *s, const struct placing *p)
{
        return p->to == step_item(s)->component;
}

bool memory_is_half_way(const struct step *s)
{
        const GList *l = find(s);
        const struct placing *p = l ? l->data : NULL;
        return p && is_of_now(s, p) && p->sweep.pieces.moved_bytes > 0;
}

/* What did not do begins anew, with a look at what lies where by then. */
static void ended(struct step *s, const struct err *err)
{
        const struct sweep *w = &s->sweep;
        struct err bad = {0};
        if (!err && w->pieces.left_bytes > 0)
                err = (err_set(&bad, REASON_BUSY, EBUSY,
                               "%" PRId64 " bytes of %s of %s could not be moved: they are in use, or there "
                               "is no page for them",
                               w->pieces.left_bytes, w->item, w->vm),
                       &bad);
        (void)snprintf(s->detail, sizeof(s->detail), "%" PRId64 " bytes were moved", w->pieces.moved_bytes);
        forget(s);
        step_done(s, err);
}

static void on_piece(void *arg, const struct err *err)
{
        struct step *s = arg;
        GList *l = s->is_dropped ? NULL : find(s);
        struct placing *p = l ? l->data : NULL;
        struct piece next;
        if (s->is_dropped) {
                step_done(s, err);
                return;
        }
        if (!p) { /* its request has ended meanwhile */
                step_goes_on(s);
                return;
        }
        s->v->relocated_bytes += s->sweep.pieces.moved_bytes - p->sweep.pieces.moved_bytes;
        s->v->is_relocated_inexact = s->v->is_relocated_inexact || err; /* it may have moved some */
        p->sweep = s->sweep;
        if (err || !pieces_next(&s->sweep.pieces, &next))
                ended(s, err);
        else
                step_goes_on(s);
}

/* As long as the last piece took, so that no more than half of what moving costs is taken of the guest and of
 * its neighbours; a short while at most, as other steps of the VM wait for this one. */
static bool pauses(struct step *s, const struct placing *p)
{
        if (!s->v->relocates_slowly || s->has_paused)
                return false;
        s->has_paused = true;
        step_again(s, CLAMP(p->sweep.took_us / 1000, PAUSE_LEAST_MS, PAUSE_MOST_MS));
        return true;
}

void memory_relocate(struct step *s)
{
        GList *l = find(s);
        if (l && !is_of_now(s, l->data)) {
                forget(s);
                l = NULL;
        }
        const struct placing *p = l ? l->data : begin(s);
        if (pauses(s, p))
                return;
        s->sweep = p->sweep; /* its own: the machine may be gone before the keeper answers */
        sweep_piece(&s->sweep, on_piece, s);
}

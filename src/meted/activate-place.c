/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a VM that runs goes to the node that it was moved to in the books (core/relocate.c): the host
 * side of what moves. The guest runs meanwhile, and is asked nothing. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "meted/activate-internal.h"

static int64_t node_of(const struct step *s, const struct definition *d)
{
        return s->v->m->inventory.components[d->component].os_index;
}

/* By the books of this moment: it may have been turned back meanwhile. */
static bool is_wanted(struct sweep *w)
{
        const struct step *s = w->arg;
        const struct request *r = s->is_dropped ? NULL : hypervisor_request(w->m->hv, s->serial);
        return r && s->at.item < r->n_definitions && r->definitions[s->at.item].moving &&
               r->definitions[s->at.item].component == step_item(s)->component;
}

static void on_placed(struct sweep *w, const struct err *err)
{
        struct step *s = w->arg;
        struct err bad = {0};
        if (!s->is_dropped) {
                s->v->relocated_bytes += w->moved_bytes;
                if (!err && w->left_bytes > 0)
                        err = (err_set(&bad, REASON_BUSY, EBUSY,
                                       "%" PRId64
                                       " bytes of %s of %s could not be moved: they are in use, or "
                                       "there is no page for them",
                                       w->left_bytes, w->item, w->vm),
                               &bad);
                (void)snprintf(s->detail, sizeof(s->detail), "%" PRId64 " bytes were moved", w->moved_bytes);
        }
        step_done(s, err);
}

/* All base memory is in one file, which may lie on the nodes of all of its parts. */
void memory_relocate(struct step *s)
{
        struct sweep *w = &s->sweep;
        const struct definition *d = step_item(s);
        bool is_dimm = d->kind == VIRTUAL_DIMM;
        *w = (struct sweep){.m = s->v->m,
                            .lane = step_lane(s),
                            .is_slow = s->v->relocates_slowly,
                            .is_wanted = is_wanted,
                            .done = on_placed,
                            .arg = s};
        memcpy(w->vm, s->v->definition.name, sizeof(w->vm));
        (void)snprintf(w->item, sizeof(w->item), "%s%d", is_dimm ? "dimm" : "ram",
                       is_dimm ? (int)d->slot : 0);
        for (size_t i = 0; i < s->n; i++)
                if (&s->definitions[i] == d || (!is_dimm && s->definitions[i].kind == VIRTUAL_RAM))
                        (void)sweep_add_node(w, node_of(s, &s->definitions[i]));
        sweep_begin(w);
}

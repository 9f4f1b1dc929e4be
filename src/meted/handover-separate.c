/* SPDX-License-Identifier: Apache-2.0 */
/* What of a VM may change hands (5.7), and the separation of what lies where its source keeps it (5.9).
 *
 * core/separate.h says what goes where, core/relocate.c has it in the books first, sweeps (sweep.h) move it.
 * What is said of the memory before is what will be so once it is separated: so target and mete-sp check
 * that. What was moved stays where it is, also where the handover comes to nothing afterwards: the books say
 * so, and the next one has less to do. What is half way goes back. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "base/units.h"
#include "core/place.h"
#include "core/separate.h"
#include "meted/handover-internal.h"

enum { ITEMS_MAX = PLACEMENT_NODES_MAX + SHAPE_SLOTS_MAX, UNITS_MAX_N = 64, SEPARATE_AGAIN_MS = 50 };

/* Its memory, by definition, and where each is to be. */
struct division {
        struct handing *ho;
        size_t n_units, n, n_steps;
        uint32_t components[UNITS_MAX_N]; /* of the units */
        struct separate_unit units[UNITS_MAX_N];
        struct separate_has has[ITEMS_MAX];
        struct separate_verdict verdicts[ITEMS_MAX];
        struct separate_step steps[ITEMS_MAX + UNITS_MAX_N];
        struct relocation items[ITEMS_MAX]; /* `to`: where it is in the end */
        struct definition definitions[ITEMS_MAX];
        bool is_full; /* there was more than fits here */
};

static bool is_kept(const struct handing *ho, const char *component)
{
        for (size_t i = 0; i < ho->n_keeps; i++)
                if (strcmp(ho->keeps[i], component) == 0)
                        return true;
        return false;
}

static void add_units(struct division *d)
{
        const struct meted *m = d->ho->m;
        const struct ledger *l = hypervisor_ledger(m->hv);
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                if (c->kind != COMPONENT_MEMORY)
                        continue;
                if (d->n_units == UNITS_MAX_N) {
                        d->is_full = true;
                        return;
                }
                int64_t left = c->healthy ? ledger_free_over(l, (uint32_t)i, loop_now_ms(), LEDGER_OPEN) : 0;
                d->components[d->n_units] = (uint32_t)i;
                d->units[d->n_units++] =
                        (struct separate_unit){COMPONENT_MEMORY, c->node, 0, is_kept(d->ho, c->id), left};
        }
}

static void add_items(const struct request *r, void *arg)
{
        struct division *d = arg;
        if (strcmp(r->vm, d->ho->vm) != 0 || !request_is_live(r))
                return;
        for (uint16_t i = 0; i < r->n_definitions; i++) {
                const struct definition *has = &r->definitions[i];
                uint32_t unit = 0;
                while (unit < d->n_units && d->components[unit] != has->component)
                        unit++;
                if (unit == d->n_units)
                        continue;
                if (d->n == ITEMS_MAX) {
                        d->is_full = true;
                        return;
                }
                d->items[d->n] = (struct relocation){r->serial, i, has->component};
                d->definitions[d->n] = *has;
                d->has[d->n++] = (struct separate_has){.unit = unit,
                                                       .amount = has->amount,
                                                       .is_whole = true,
                                                       .is_fixed = has->page_bytes > 0};
        }
}

/* 0: after the steps all of it may leave. Negative: *err names what cannot; the verdicts are there. */
static int divide(struct handing *ho, struct division *d, struct err *err)
{
        memset(d, 0, sizeof(*d));
        d->ho = ho;
        add_units(d);
        hypervisor_each(ho->m->hv, add_items, d);
        int r = separate_plan(d->units, d->n_units, d->has, d->n, d->verdicts, d->steps, &d->n_steps, err);
        for (size_t k = 0; k < d->n_steps; k++)
                d->items[d->steps[k].has].to = d->components[d->steps[k].to];
        return r;
}

static bool is_moved(const struct division *d, size_t item)
{
        return d->items[item].to != d->definitions[item].component;
}

/* ---- what is said of it ---- */

static struct api_handover_part *part_of(struct api_handover_guest *g, const char *component)
{
        for (size_t i = 0; i < g->n_parts; i++)
                if (strcmp(g->parts[i].component, component) == 0)
                        return &g->parts[i];
        if (g->n_parts == ARRAY_N(g->parts))
                return NULL;
        struct api_handover_part *p = &g->parts[g->n_parts++];
        memset(p, 0, sizeof(*p));
        return STR_COPY(p->component, component) ? p : NULL;
}

struct portions {
        struct handing *ho;
        bool is_full;
};

/* Of all but memory it has a share of what others use as well, at least of our own threads. */
static void add_shared(const struct request *r, void *arg)
{
        struct portions *of = arg;
        struct meted *m = of->ho->m;
        if (strcmp(r->vm, of->ho->vm) != 0 || !request_is_live(r))
                return;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct component *c = &m->inventory.components[r->definitions[i].component];
                if (c->kind == COMPONENT_MEMORY)
                        continue;
                struct api_handover_part *p = part_of(of->ho->guest, c->id);
                if (!p) {
                        of->is_full = true;
                        return;
                }
                p->portion = API_HANDOVER_PORTION_UNREASSIGNABLE;
                p->why = API_HANDOVER_WHY_SHARED;
                if (c->kind == COMPONENT_CPU)
                        p->amount = c->capacity;
                else
                        p->amount += r->definitions[i].amount;
        }
}

static bool add_memory(const struct division *d, size_t i)
{
        struct api_handover_guest *g = d->ho->guest;
        const struct component *all = d->ho->m->inventory.components;
        const struct separate_verdict *v = &d->verdicts[i];
        int64_t amount = d->has[i].amount;
        if (v->portion != PORTION_REASSIGNABLE) {
                struct api_handover_part *from = part_of(g, all[d->definitions[i].component].id);
                if (!from)
                        return false;
                bool is_stuck = v->portion == PORTION_UNREASSIGNABLE ||
                                from->portion == API_HANDOVER_PORTION_UNREASSIGNABLE;
                from->portion =
                        is_stuck ? API_HANDOVER_PORTION_UNREASSIGNABLE : API_HANDOVER_PORTION_SEPARABLE;
                from->why = v->why == PORTION_WHY_KEPT ? API_HANDOVER_WHY_KEPT : API_HANDOVER_WHY_SHARED;
                from->amount += amount;
                from->moved += v->moved;
                from->has_moved = from->moved > 0;
                if (!is_moved(d, i))
                        return true;
        }
        struct api_handover_part *to = part_of(g, all[d->items[i].to].id);
        if (!to)
                return false;
        to->portion = API_HANDOVER_PORTION_REASSIGNABLE;
        to->why = API_HANDOVER_WHY_FREE;
        to->amount += amount;
        return true;
}

bool separation_describe(struct handing *ho)
{
        g_autofree struct division *d = g_new(struct division, 1);
        struct portions of = {.ho = ho};
        struct err why = {0};
        (void)divide(ho, d, &why); /* what cannot leave is said */
        ho->guest->n_parts = 0;
        hypervisor_each(ho->m->hv, add_shared, &of);
        for (size_t i = 0; i < d->n; i++)
                of.is_full = !add_memory(d, i) || of.is_full;
        return !of.is_full && !d->is_full;
}

/* ---- how much it would be ---- */

static void survey_next(struct handing *ho);

static void on_surveyed(struct sweep *w, const struct err *err)
{
        struct handing *ho = w->arg;
        struct err bad = {0};
        if (err) {
                bad = *err;
                (void)err_note(&bad, "%s of %s is to be moved before", w->item, ho->vm);
                handing_report(ho, ho->token[HANDOVER_CLASSIFY], HANDOVER_EV_FAILED, &bad);
                return;
        }
        ho->separated_bytes += w->left_bytes;
        ho->surveyed++;
        survey_next(ho);
}

/* All base memory is one file: that is looked at with the first of its parts. false: not that item. */
static bool set_survey(struct handing *ho, const struct division *d, size_t item)
{
        struct sweep *w = &ho->sweep;
        const struct definition *of = &d->definitions[item];
        const struct component *all = ho->m->inventory.components;
        bool is_dimm = of->kind == VIRTUAL_DIMM, is_first = true, has_moved = is_moved(d, item);
        *w = (struct sweep){.m = ho->m, .is_look = true, .done = on_surveyed, .arg = ho};
        for (size_t i = 0; i < d->n; i++) {
                if (i != item && (is_dimm || d->definitions[i].kind != VIRTUAL_RAM))
                        continue;
                is_first = is_first && i >= item;
                has_moved = has_moved || is_moved(d, i);
                (void)sweep_add_node(w, all[d->items[i].to].os_index);
        }
        (void)STR_COPY(w->vm, ho->vm);
        (void)snprintf(w->item, sizeof(w->item), "%s%d", is_dimm ? "dimm" : "ram",
                       is_dimm ? (int)of->slot : 0);
        return has_moved && is_first;
}

static void survey_next(struct handing *ho)
{
        g_autofree struct division *d = g_new(struct division, 1);
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct err why = {0};
        int r = divide(ho, d, &why);
        while (v && r == 0 && d->n_steps > 0 && ho->surveyed < d->n && !set_survey(ho, d, ho->surveyed))
                ho->surveyed++;
        if (!v || r < 0 || d->n_steps == 0 || ho->surveyed >= d->n) {
                handing_report(ho, ho->token[HANDOVER_CLASSIFY], HANDOVER_EV_CLASSIFIED, NULL);
                return;
        }
        ho->sweep.lane = machine_lane(v);
        sweep_begin(&ho->sweep);
}

void separation_survey(struct handing *ho)
{
        ho->separated_bytes = 0;
        ho->surveyed = 0;
        survey_next(ho);
}

/* ---- it is done ---- */

static void failed(struct handing *ho, const struct err *err)
{
        handing_report(ho, ho->token[HANDOVER_SEPARATE], HANDOVER_EV_FAILED, err);
}

static void again(struct handing *ho)
{
        loop_timer_in(&ho->again, SEPARATE_AGAIN_MS);
}

/* Where this meted was started again meanwhile nobody has counted all of it. */
static void is_separate(struct handing *ho, const struct machine *v)
{
        ho->separated_bytes = !ho->separates ? 0 : ho->is_counted ? v->relocated_bytes : -1;
        if (ho->separates && ho->is_counted)
                handing_say(ho, "moved", "%" PRId64 " bytes of its memory were moved from where it stays",
                            ho->separated_bytes);
        handing_report(ho, ho->token[HANDOVER_SEPARATE], HANDOVER_EV_SEPARATED, NULL);
}

static void begin(struct handing *ho, const struct division *d)
{
        struct machine *v = machine_find(ho->m, ho->vm);
        struct relocation moves[ITEMS_MAX];
        char cause[REQUEST_SENTENCE];
        int64_t amount = 0;
        size_t n = 0;
        struct err err = {0};
        for (size_t i = 0; i < d->n; i++) {
                if (!is_moved(d, i))
                        continue;
                moves[n++] = d->items[i];
                amount += d->has[i].amount;
        }
        (void)snprintf(cause, sizeof(cause), "it is separated for handover %s", ho->core.row.id);
        if (!ho->separates)
                v->relocated_bytes = 0;
        v->relocates_slowly = false;
        int r = hypervisor_vm_relocate(ho->m->hv, ho->vm, moves, n, cause, loop_now_ms(), &err);
        if (r == 0) {
                ho->is_counted = ho->is_counted || !ho->separates; /* else somebody before began to count */
                ho->separates = true;
                handing_put(ho); /* with the claims */
                handing_say(ho, "separating",
                            "%" PRId64 " MiB of its memory, as granted, go to where they may leave",
                            amount >> 20);
        } else if (err.reason != REASON_BUSY) {
                failed(ho, &err);
                return;
        }
        again(ho);
        meted_changed(ho->m);
}

void giver_separate(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        const char *why = "";
        struct err err = {0};
        if (!v || !v->vm || v->is_dead) {
                (void)err_set(&err, REASON_STALE, ECHILD, "the VMM of %s is gone", ho->vm);
                failed(ho, &err);
                return;
        }
        enum relocating how = hypervisor_vm_relocating(ho->m->hv, ho->vm, &why);
        if (how == RELOCATING_FAILED) {
                (void)err_set(&err, REASON_UNREASSIGNABLE, EBUSY, "%s could not be separated: %.120s", ho->vm,
                              why);
                failed(ho, &err);
                return;
        }
        if (how == RELOCATING_UNDER_WAY) {
                again(ho);
                return;
        }
        g_autofree struct division *d = g_new(struct division, 1);
        if (divide(ho, d, &err) < 0)
                failed(ho, &err);
        else if (d->n_steps == 0)
                is_separate(ho, v);
        else
                begin(ho, d);
}

void separation_end(struct handing *ho)
{
        sweep_forget(&ho->sweep);
        if (!ho->separates)
                return;
        ho->separates = false;
        handing_put(ho);
        hypervisor_vm_relocate_back(ho->m->hv, ho->vm, "its handover was broken off", loop_now_ms());
        meted_changed(ho->m);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What of a VM may change hands (5.7), and the separation of what lies where its source keeps it (5.9).
 *
 * core/separate.h says what goes where, core/relocate.c has it in the books first, sweeps (sweep.h) move it.
 * What is said of the memory before is what will be so once it is separated: so target and mete-sp check
 * that. From the beginning of the separation until the handover is over its guest gets no more of what is
 * kept (separation_pin()), and what it is just getting or giving back there is waited for: so nothing lies
 * there when all of it is to be as it is. What was moved stays where it is, also where the handover comes to
 * nothing afterwards: the books say so, and the next one has less to do. What is half way goes back. */
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

enum {
        ITEMS_MAX = PLACEMENT_NODES_MAX + SHAPE_SLOTS_MAX,
        UNITS_MAX_N = 64,
        SEPARATE_AGAIN_MS = 50,
        SURVEY_MS = 15000 /* half of what source-classifying is waited for */
};

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
        char unsettled[96]; /* what its guest is just getting or giving back where it has to leave; "":
                               nothing */
        bool is_full;       /* there was more than fits here */
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

/* What is not settled cannot be moved, and may be gone in a moment. */
static void look_at_unsettled(struct division *d, const struct request *r)
{
        const struct component *all = d->ho->m->inventory.components;
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct component *c = &all[r->definitions[i].component];
                if (c->kind == COMPONENT_MEMORY && is_kept(d->ho, c->id))
                        (void)snprintf(d->unsettled, sizeof(d->unsettled), "%.40s, which is %s, in %s", r->id,
                                       request_state_name(r->state), c->id);
        }
}

static void add_items(const struct request *r, void *arg)
{
        struct division *d = arg;
        if (strcmp(r->vm, d->ho->vm) != 0 || !request_is_live(r))
                return;
        if (r->state != REQUEST_GRANTED) {
                look_at_unsettled(d, r);
                return;
        }
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

/* ---- from when on it gets nothing there ---- */

void separation_pin(struct handing *ho)
{
        uint32_t kept[HANDING_KEEPS_MAX];
        size_t n = 0;
        enum handover_state s = ho->core.row.state;
        if (!handing_is_source(ho) || s < SOURCE_SEPARATING || s >= SOURCE_FINISHING)
                return;
        for (size_t i = 0; i < ho->m->inventory.n && n < HANDING_KEEPS_MAX; i++)
                if (is_kept(ho, ho->m->inventory.components[i].id))
                        kept[n++] = (uint32_t)i;
        hypervisor_vm_avoid(ho->m->hv, ho->vm, kept, n);
}

/* ---- how much it would be ---- */

static void survey_next(struct handing *ho);

/* As long as was asked for; else by how much there is to do. */
static void surveyed(struct handing *ho, const struct division *d)
{
        int64_t bytes = ho->separated_bytes, asked_ms = ho->core.row.separate_ms;
        if (bytes < 0)
                bytes = 0;
        for (size_t i = 0; ho->separated_bytes < 0 && i < d->n; i++)
                bytes += is_moved(d, i) ? d->has[i].amount : 0;
        handing_classified(ho, d->n_steps == 0 ? 0
                               : asked_ms > 0  ? asked_ms
                                               : pieces_bound_ms(bytes, ho->m->config.relocate_rate));
}

/* A memory so large that looking at it takes too long is not counted. */
static void on_looked(void *arg, const struct err *err)
{
        struct handing *ho = arg;
        struct piece next;
        if (err) {
                struct err bad = *err;
                (void)err_note(&bad, "%s of %s is to be moved before", ho->sweep.item, ho->vm);
                handing_report(ho, ho->token[HANDOVER_CLASSIFY], HANDOVER_EV_FAILED, &bad);
                return;
        }
        if (loop_mono_ms() - ho->survey_mono_ms > SURVEY_MS) {
                g_autofree struct division *d = g_new(struct division, 1);
                struct err why = {0};
                ho->separated_bytes = -1;
                (void)divide(ho, d, &why);
                surveyed(ho, d);
                return;
        }
        if (pieces_next(&ho->sweep.pieces, &next)) {
                sweep_piece(&ho->sweep, on_looked, ho);
                return;
        }
        ho->separated_bytes += ho->sweep.pieces.left_bytes;
        ho->surveyed++;
        survey_next(ho);
}

/* All base memory is one file: that is looked at with the first of its parts. false: not that item. */
static bool set_survey(struct handing *ho, const struct machine *v, const struct division *d, size_t item)
{
        const struct definition *of = &d->definitions[item];
        const struct component *all = ho->m->inventory.components;
        bool is_dimm = of->kind == VIRTUAL_DIMM, is_first = true, has_moved = false;
        sweep_init(&ho->sweep, v, of);
        for (size_t i = 0; i < d->n; i++) {
                if (is_dimm ? i != item : d->definitions[i].kind != VIRTUAL_RAM)
                        continue;
                is_first = is_first && i >= item;
                has_moved = has_moved || is_moved(d, i);
                sweep_add(&ho->sweep, d->definitions[i].amount, all[d->items[i].to].os_index, 0);
        }
        if (!has_moved || !is_first)
                return false;
        sweep_begin(&ho->sweep, true);
        return true;
}

static void survey_next(struct handing *ho)
{
        g_autofree struct division *d = g_new(struct division, 1);
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct err why = {0};
        int r = divide(ho, d, &why);
        bool is_over = !v || r < 0 || d->n_steps == 0; /* what cannot be is mete-sp's to refuse */
        while (!is_over && ho->surveyed < d->n && !set_survey(ho, v, d, ho->surveyed))
                ho->surveyed++;
        if (is_over || ho->surveyed >= d->n)
                surveyed(ho, d);
        else
                sweep_piece(&ho->sweep, on_looked, ho);
}

void separation_survey(struct handing *ho)
{
        ho->separated_bytes = 0;
        ho->surveyed = 0;
        ho->survey_mono_ms = loop_mono_ms();
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

/* Where this meted was started again meanwhile nobody has counted all of it; nor where a call of the keeper
 * failed, or its answer. */
static void is_separate(struct handing *ho, const struct machine *v)
{
        bool is_known = ho->is_counted && !v->is_relocated_inexact;
        ho->separated_bytes = !ho->separates ? 0 : is_known ? v->relocated_bytes : -1;
        if (ho->separates && is_known)
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
        if (!ho->separates) {
                v->relocated_bytes = 0;
                v->is_relocated_inexact = false;
        }
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

/* What passes is tried again by itself, some times; the deadline is over all of it. */
static void look_at_failure(struct handing *ho, const struct relocating_why *why)
{
        struct err err = {0};
        if (relocating_may_do(why)) {
                again(ho);
                return;
        }
        enum reason reason = why->reason == REASON_NO_CAPACITY || why->reason == REASON_BUSY
                                     ? why->reason
                                     : REASON_UNREASSIGNABLE;
        (void)err_set(&err, reason, EBUSY, "%s could not be separated: %.120s", ho->vm, why->sentence);
        failed(ho, &err);
}

static void wait_for(struct handing *ho, const char *what)
{
        if (!ho->has_waited)
                handing_say(ho, "waiting", "for %s, from where its memory has to leave", what);
        ho->has_waited = true;
        again(ho);
}

void giver_separate(struct handing *ho)
{
        const struct machine *v = machine_find(ho->m, ho->vm);
        struct relocating_why why = {0};
        struct err err = {0};
        if (!v || !v->vm || v->is_dead) {
                (void)err_set(&err, REASON_STALE, ECHILD, "the VMM of %s is gone", ho->vm);
                failed(ho, &err);
                return;
        }
        separation_pin(ho);
        enum relocating how = hypervisor_vm_relocating(ho->m->hv, ho->vm, &why);
        if (how == RELOCATING_FAILED) {
                look_at_failure(ho, &why);
                return;
        }
        if (how == RELOCATING_UNDER_WAY) {
                again(ho);
                return;
        }
        g_autofree struct division *d = g_new(struct division, 1);
        if (divide(ho, d, &err) < 0)
                failed(ho, &err);
        else if (d->n_steps > 0)
                begin(ho, d);
        else if (*d->unsettled)
                wait_for(ho, d->unsettled);
        else
                is_separate(ho, v);
}

void separation_end(struct handing *ho)
{
        sweep_forget(&ho->sweep);
        hypervisor_vm_avoid(ho->m->hv, ho->vm, NULL, 0);
        if (!ho->separates)
                return;
        ho->separates = false;
        handing_put(ho);
        hypervisor_vm_relocate_back(ho->m->hv, ho->vm, "its handover was broken off", loop_now_ms());
        meted_changed(ho->m);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One after another. Each look at it makes at most one step of the table in consolidate.h for the VM whose
 * turn it is; what a look has changed is written with what it has decided in the books. */
#include "meted/consolidate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "json/read.h"
#include "meted/consolidate-internal.h"
#include "meted/handover.h"
#include "meted/moves.h"

enum { ITEMS = PLACEMENT_NODES_MAX + SHAPE_SLOTS_MAX, POLL_MS = 100 };
static const char name[] = "last"; /* of the one document */

static void on_again(void *arg);

struct consolidation *consolidation_new(struct meted *m)
{
        struct consolidation *c = g_new0(struct consolidation, 1);
        c->m = m;
        loop_timer_init(&c->again, on_again, c);
        return c;
}

void consolidation_free(struct consolidation *c)
{
        if (!c)
                return;
        loop_timer_cancel(&c->again);
        g_free(c);
}

static void put(struct consolidation *c)
{
        struct err err = {0};
        json_t *v = api_consolidation_state_emit(&c->row);
        char *text = v ? json_write(v, NULL) : NULL;
        if (text ? store_put_document(c->m->store, STORE_CONSOLIDATION, name, text, &err)
                 : err_set(&err, REASON_INTERNAL, ENOMEM, "no memory for the record of a consolidation"))
                meted_unwritten(c->m, &err);
        free(text);
        json_decref(v);
}

bool consolidate_may_move(struct meted *m, const struct machine *v)
{
        struct err err = {0};
        return machine_state(v) == API_VM_STATE_RUNNING && v->vm && !v->is_dead && !moves_check(m, v, &err) &&
               !handovers_check(m, v, &err) &&
               hypervisor_vm_relocating(m->hv, v->definition.name, NULL) == RELOCATING_NOTHING;
}

/* ---- one VM ---- */

struct collected {
        const struct meted *m;
        const char *vm;
        uint32_t home; /* component */
        struct relocation moves[ITEMS];
        size_t n;
        bool is_unsettled;
};

static void collect(const struct request *r, void *arg)
{
        struct collected *c = arg;
        if (strcmp(r->vm, c->vm) != 0 || !request_is_live(r))
                return;
        for (uint16_t i = 0; i < r->n_definitions && c->n < ITEMS; i++) {
                const struct definition *d = &r->definitions[i];
                if (c->m->inventory.components[d->component].kind != COMPONENT_MEMORY)
                        continue;
                if (r->state == REQUEST_GRANTED && d->component != c->home)
                        c->moves[c->n++] = (struct relocation){r->serial, i, c->home};
                c->is_unsettled =
                        c->is_unsettled || r->state == REQUEST_ACTIVATING || r->state == REQUEST_RELEASING;
        }
}

/* What of it is not at home. false: home is no component of this host any more. */
static bool collect_all(const struct consolidation *c, const struct api_consolidation_vm *t,
                        struct collected *ret)
{
        const struct inventory *all = &c->m->inventory;
        uint32_t home = 0;
        while (home < all->n && strcmp(all->components[home].id, t->to) != 0)
                home++;
        *ret = (struct collected){.m = c->m, .vm = t->vm, .home = home};
        if (home == all->n)
                return false;
        hypervisor_each(c->m->hv, collect, ret);
        return true;
}

static void turn_is(struct consolidation *c, struct api_consolidation_vm *t,
                    enum api_consolidation_turn state)
{
        t->state = state;
        c->is_changed = true;
}

static void set_sentence(struct api_consolidation_vm *t, const char *text)
{
        t->has_sentence = true;
        (void)snprintf(t->sentence, sizeof(t->sentence), "%.*s", (int)sizeof(t->sentence) - 1, text);
}

static void stays(struct consolidation *c, struct api_consolidation_vm *t, const char *why)
{
        struct machine *v = machine_find(c->m, t->vm);
        turn_is(c, t, API_CONSOLIDATION_TURN_STAYED);
        if (why)
                set_sentence(t, why);
        if (v)
                machine_note(v, t->vm, "not-consolidated", "%.150s", t->sentence);
}

static void is_together(struct consolidation *c, struct api_consolidation_vm *t, struct machine *v)
{
        turn_is(c, t, API_CONSOLIDATION_TURN_TOGETHER);
        t->has_moved_bytes = c->is_counted && !v->is_relocated_inexact;
        t->moved_bytes = v->relocated_bytes;
        if (t->has_moved_bytes)
                machine_note(v, t->vm, "consolidated",
                             "all of its memory is in %s, %" PRId64 " bytes were moved", t->to,
                             t->moved_bytes);
        else
                machine_note(v, t->vm, "consolidated", "all of its memory is in %s", t->to);
}

/* Planned was what was free and settled then. */
static void begin(struct consolidation *c, struct api_consolidation_vm *t)
{
        struct machine *v = machine_find(c->m, t->vm);
        g_autofree struct collected *all = g_new0(struct collected, 1);
        struct err err = {0};
        bool has_home = collect_all(c, t, all);
        if (!v || !has_home || !consolidate_may_move(c->m, v)) {
                stays(c, t, "it does not run any more, or something else is under way with it");
        } else if (all->is_unsettled) {
                stays(c, t, "memory of it is just being activated or given back");
        } else if (all->n == 0) {
                c->is_counted = true;
                v->relocated_bytes = 0;
                v->is_relocated_inexact = false;
                is_together(c, t, v);
        } else {
                c->is_counted = true;
                v->relocated_bytes = 0;
                v->is_relocated_inexact = false;
                v->relocates_slowly = true;
                if (hypervisor_vm_relocate(c->m->hv, t->vm, all->moves, all->n, "it is brought together",
                                           loop_now_ms(), &err))
                        stays(c, t, err.sentence);
                else
                        turn_is(c, t, API_CONSOLIDATION_TURN_MOVING);
        }
}

static void go_back(struct consolidation *c, struct api_consolidation_vm *t, const char *why)
{
        turn_is(c, t, API_CONSOLIDATION_TURN_GOING_BACK);
        set_sentence(t, why);
        hypervisor_vm_relocate_back(c->m->hv, t->vm, t->sentence, loop_now_ms());
}

/* Nothing of it is on its way. */
static void settled(struct consolidation *c, struct api_consolidation_vm *t)
{
        struct machine *v = machine_find(c->m, t->vm);
        g_autofree struct collected *all = g_new0(struct collected, 1);
        if (t->state == API_CONSOLIDATION_TURN_GOING_BACK)
                stays(c, t, NULL);
        else if (!v || machine_state(v) != API_VM_STATE_RUNNING)
                stays(c, t, "it ended meanwhile");
        else if (collect_all(c, t, all) && all->n == 0)
                is_together(c, t, v);
        else
                stays(c, t, "some of its memory is elsewhere still, such as what it was granted meanwhile");
}

static bool is_ending(const struct consolidation *c)
{
        return c->row.state != API_CONSOLIDATION_ENDED_UNDER_WAY;
}

static const char *why_it_ends(const struct consolidation *c)
{
        return c->row.state == API_CONSOLIDATION_ENDED_TIMEOUT ? "the time for it is over"
                                                               : "it was cancelled";
}

/* true: its turn is over. What cannot go back either is tried again by itself, later and later; both places
 * are claimed until it has, and nobody waits for that. */
static bool look(struct consolidation *c, struct api_consolidation_vm *t)
{
        struct relocating_why why = {0};
        enum relocating how = hypervisor_vm_relocating(c->m->hv, t->vm, &why);
        bool is_forth = t->state == API_CONSOLIDATION_TURN_MOVING;
        if (how == RELOCATING_NOTHING) {
                settled(c, t);
                return true;
        }
        if (is_forth && is_ending(c)) {
                go_back(c, t, why_it_ends(c));
        } else if (how == RELOCATING_FAILED && !relocating_may_do(&why)) {
                if (!is_forth)
                        return true;
                go_back(c, t, why.sentence);
        }
        return false;
}

/* ---- all of it ---- */

static void finish(struct consolidation *c)
{
        struct api_consolidation_state *row = &c->row;
        size_t together = 0;
        for (size_t i = 0; i < row->n_vms; i++)
                together += row->vms[i].state == API_CONSOLIDATION_TURN_TOGETHER;
        if (!is_ending(c))
                row->state = API_CONSOLIDATION_ENDED_DONE;
        row->has_ended_ms = c->is_changed = true;
        row->ended_ms = loop_now_ms();
        hypervisor_note(c->m->hv, row->ended_ms, "consolidation", "host", "consolidation-ended",
                        "%s: %zu of %zu VMs are together now", api_consolidation_ended_name(row->state),
                        together, row->n_vms);
}

static bool is_due(const struct api_consolidation_vm *t)
{
        return t->state == API_CONSOLIDATION_TURN_WAITING || t->state == API_CONSOLIDATION_TURN_MOVING ||
               t->state == API_CONSOLIDATION_TURN_GOING_BACK;
}

/* After a restart its VMM may be there, and nobody attached to it yet. */
static bool is_awaited(const struct consolidation *c, const struct api_consolidation_vm *t)
{
        const struct machine *v = machine_find(c->m, t->vm);
        return v && machine_is_awaited(v) && !is_ending(c);
}

/* true: somebody has to look again. */
static bool go_on(struct consolidation *c)
{
        for (; c->at < c->row.n_vms; c->at++) {
                struct api_consolidation_vm *t = &c->row.vms[c->at];
                if (!is_due(t))
                        continue;
                if (t->state != API_CONSOLIDATION_TURN_WAITING) {
                        if (!look(c, t))
                                return true;
                } else if (is_ending(c)) {
                        stays(c, t, why_it_ends(c));
                } else if (is_awaited(c, t)) {
                        return true;
                } else {
                        begin(c, t);
                        if (t->state == API_CONSOLIDATION_TURN_MOVING)
                                return true;
                }
        }
        return false;
}

static void on_again(void *arg)
{
        struct consolidation *c = arg;
        if (c->row.has_ended_ms)
                return;
        if (!is_ending(c) && loop_now_ms() >= c->row.deadline_ms) {
                c->row.state = API_CONSOLIDATION_ENDED_TIMEOUT;
                c->is_changed = true;
        }
        if (go_on(c))
                loop_timer_in(&c->again, POLL_MS);
        else
                finish(c);
        if (c->is_changed)
                put(c);
        c->is_changed = false;
        meted_changed(c->m);
}

void consolidate_begin(struct consolidation *c)
{
        put(c);
        on_again(c);
}

void consolidate_end(struct consolidation *c, enum api_consolidation_ended how)
{
        if (c->row.has_ended_ms || is_ending(c))
                return;
        c->row.state = how;
        put(c);
        on_again(c);
}

json_t *consolidate_show(const struct meted *m, struct err *err)
{
        if (!m->consolidation)
                (void)err_set(err, REASON_NOT_FOUND, ENOENT, "there was no consolidation yet");
        return m->consolidation ? api_consolidation_state_emit(&m->consolidation->row) : NULL;
}

static int load(const char *document, const char *text, void *arg, struct err *err)
{
        struct meted *m = arg;
        struct consolidation *c = consolidation_new(m);
        struct err bad = {0};
        json_t *v = strcmp(document, name) == 0 ? json_read(text, strlen(text), &bad) : NULL;
        bool is_good = v && api_consolidation_state_parse(v, &c->row, &bad) == 0;
        (void)err;
        json_decref(v);
        if (!is_good) { /* what the books say of memory that is on its way holds without it */
                log_error("the consolidation in the store: %s: it is left out", bad.sentence);
                consolidation_free(c);
                return 0;
        }
        m->consolidation = c;
        for (size_t i = 0; i < c->row.n_vms; i++) {
                struct machine *v_of = machine_find(m, c->row.vms[i].vm);
                if (v_of && c->row.vms[i].state == API_CONSOLIDATION_TURN_MOVING)
                        v_of->relocates_slowly = true;
        }
        if (!c->row.has_ended_ms)
                loop_timer_in(&c->again, POLL_MS);
        return 0;
}

int consolidate_start(struct meted *m, struct err *err)
{
        return store_load_documents(m->store, STORE_CONSOLIDATION, load, m, err);
}

void consolidate_stop(struct meted *m)
{
        consolidation_free(g_steal_pointer(&m->consolidation));
}

/* SPDX-License-Identifier: Apache-2.0 */
/* core/change.c - the host itself changes: what becomes of what lies on it.
 *
 * All that changed at once is taken into the books first; then the decisions are made, those for VMs before
 * those for what they leased, so that a VM's own vCPUs have the first choice of what is left. A move is
 * decided here: the claim and the definition are the new component's at once, and `moving` says that what is
 * held is not yet; checks.c carries it out, after a restart too. Until then the old component is claimed as
 * well. So nothing can be given away twice, and the guest is told (telling.c) when it is so.
 *
 *              CPU gone                            less memory than is claimed
 *   VM         moved, or shares what is left       stays
 *   lease      moved, or ended                     ended, the last one first, until the rest fits
 *   under way  refused                             the same
 *   reserved   moved, or stays                     stays
 *
 * Links and disks hold nothing that could be somewhere else: what is claimed of them stays. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

static bool is_gone(const struct hypervisor *h, const struct definition *d)
{
        return !h->components[d->component].healthy;
}

/* More is claimed of it than there is. */
static bool is_crowded(const struct hypervisor *h, uint32_t component)
{
        return ledger_claimed(h->ledger, component) > ledger_owned(h->ledger, component);
}

static const struct need *cpu_need(const struct request *r)
{
        for (size_t i = 0; i < r->n_needs; i++)
                if (r->needs[i].kind == COMPONENT_CPU)
                        return &r->needs[i];
        return NULL;
}

/* ---- where to ---- */

/* May this vCPU be there, as far as its VM's class of service and what was asked for go? */
static bool may_be_on(const struct hypervisor *h, const struct entry *e, const struct definition *d,
                      const struct component *c)
{
        const struct need *need = cpu_need(&e->r);
        if (e->vm && e->vm->class_slots && c->domain != h->components[d->component].domain)
                return false;
        return !need || need_node(need) < 0 || need_node(need) == (int64_t)c->node;
}

enum { ONLY_NEAR = 1, ONLY_APART = 2 }; /* on its node; on no CPU of another vCPU of the same request */

static bool find_free(const struct hypervisor *h, const struct entry *e, const struct definition *d,
                      unsigned only, uint32_t *ret)
{
        struct component *all = malloc(h->n_components * sizeof(*all));
        struct placement p = {0};
        struct need need = {.kind = COMPONENT_CPU, .amount = 1, .amount_max = 1, .n_parameters = 1};
        assert(all); /* as for effects: better to stop and restart from the store */
        memcpy(all, h->components, h->n_components * sizeof(*all));
        for (size_t i = 0; i < h->n_components; i++)
                if (!may_be_on(h, e, d, &all[i]) ||
                    ((only & ONLY_NEAR) && all[i].node != all[d->component].node))
                        all[i].healthy = false;
        for (size_t i = 0; i < e->r.n_definitions && (only & ONLY_APART); i++)
                all[e->r.definitions[i].component].healthy = false;
        all[d->component].healthy = false;
        need.parameters[0] = (struct parameter){.id = d->exclusive ? PARAMETER_EXCLUSIVE : PARAMETER_SHARE,
                                                .relation = d->exclusive ? RELATION_EQUAL : RELATION_AT_LEAST,
                                                .value = d->exclusive ? 1 : d->amount};
        int placed = place_need(h->ledger, all, h->n_components, &need, CPU_WHOLE_MILLI, 1, e->r.start_ms,
                                e->r.end_ms, &p, NULL);
        free(all);
        if (placed != 1)
                return false;
        *ret = p.item[0].component;
        return true;
}

/* A free one: near, if it can be, but not beside another of its own where that is not so already. */
static bool find_place(const struct hypervisor *h, const struct entry *e, const struct definition *d,
                       uint32_t *ret)
{
        static const unsigned tries[] = {ONLY_NEAR | ONLY_APART, ONLY_APART, ONLY_NEAR, 0};
        const struct need *need = cpu_need(&e->r);
        if (need && need_component(need) >= 0)
                return false; /* that one, and no other, was asked for (2.9) */
        for (size_t i = 0; i < (e->r.kind == REQUEST_VM ? 4 : 2); i++)
                if (find_free(h, e, d, tries[i], ret))
                        return true;
        return false;
}

static bool is_exclusive(const struct hypervisor *h, uint32_t component)
{
        for (const struct entry *e = h->oldest; e; e = e->newer)
                for (size_t i = 0; request_is_live(&e->r) && i < e->r.n_definitions; i++)
                        if (e->r.definitions[i].component == component && e->r.definitions[i].exclusive)
                                return true;
        return false;
}

/* The one on which least is claimed, whatever is free there. */
static bool find_shared(const struct hypervisor *h, const struct entry *e, const struct definition *d,
                        uint32_t *ret)
{
        uint32_t node = h->components[d->component].node;
        bool has_one = false;
        for (uint32_t i = 0; i < h->n_components; i++) {
                const struct component *c = &h->components[i];
                if (c->kind != COMPONENT_CPU || !c->healthy || c->owned == 0 || i == d->component ||
                    !may_be_on(h, e, d, c) || is_exclusive(h, i))
                        continue;
                int64_t less = has_one ? ledger_claimed(h->ledger, *ret) - ledger_claimed(h->ledger, i) : 1;
                if (less > 0 || (less == 0 && c->node == node && h->components[*ret].node != node))
                        *ret = i;
                has_one = true;
        }
        return has_one;
}

/* ---- what is done ---- */

/* "cpu:1 was taken out of use by an operator" */
static const char *what_changed(const struct component *c, const char *cause, char ret[REQUEST_SENTENCE])
{
        const char *joint = strncmp(cause, "by ", 3) == 0 ? " " : ": ";
        char lost[UNITS_TEXT] = "";
        if (c->healthy && c->lost)
                need_amount_print(c->kind, c->lost, lost);
        (void)snprintf(ret, REQUEST_SENTENCE, "%s%s%s was %s%s%.100s", lost, *lost ? " of " : "", c->id,
                       c->healthy && !c->lost ? "put into use again" : "taken out of use", joint, cause);
        return ret;
}

static void note_item(struct hypervisor *h, const struct entry *e, const struct definition *d,
                      const char *event, const char *text, int64_t now_ms)
{
        char trace[REQUEST_TRACE], item[64];
        request_trace(&e->r, trace);
        item_text(h, d, item, sizeof(item));
        hypervisor_note(h, now_ms, trace, e->r.key, event, "%s: %s", item, text);
}

/* The claim first: there is never none. What it leaves is claimed until it has: where that comes back
 * meanwhile, it is not given to others while the thread is still there. */
static bool move(struct hypervisor *h, struct entry *e, struct definition *d, uint32_t to, bool is_shared,
                 int64_t now_ms)
{
        struct claim c = *ledger_find(h->ledger, d->claim);
        char text[96];
        claim_id id;
        c.component = to;
        int64_t owned = ledger_owned(h->ledger, to);
        ledger_set_owned(h->ledger, to, is_shared ? UNITS_MAX : owned);
        int done = ledger_claim(h->ledger, &c, &id);
        ledger_set_owned(h->ledger, to, owned);
        if (done != 1)
                return false;
        d->moving = e->r.state == REQUEST_GRANTED && e->r.kind != REQUEST_RESERVATION;
        if (d->moving && !d->from) {
                d->from = d->component + 1;
                d->claim_from = d->claim;
        } else { /* it never was there */
                (void)ledger_release(h->ledger, d->claim);
        }
        (void)snprintf(text, sizeof(text), "it moves to %s%s", h->components[to].id,
                       is_shared ? ", beyond what that has to give: nothing is free" : "");
        note_item(h, e, d, "moving", text, now_ms);
        d->claim = id;
        d->component = to;
        if (e->vm)
                e->vm->toll.moved++;
        return true;
}

static void end(struct hypervisor *h, struct entry *e, const char *text, int64_t now_ms)
{
        struct err why = {0};
        if (e->vm)
                e->vm->toll.ended++;
        if (e->r.state == REQUEST_ACTIVATING) {
                (void)err_set(&why, REASON_NO_CAPACITY, ENODEV, "%s", text);
                became_unusable(h, e, &why, now_ms);
                return;
        }
        if (e->r.state == REQUEST_GRANTED) {
                struct effect *f = effect_push(h, EFFECT_LEASE_ENDED, &e->r, now_ms);
                f->reason = REASON_NO_CAPACITY;
                (void)snprintf(f->text, sizeof(f->text), "%s", text);
        }
        give_back(h, e, REQUEST_EV_EXPIRE, e->r.state == REQUEST_OFFERED ? "lapsed" : "withdrawn",
                  REASON_NO_CAPACITY, text, now_ms);
}

/* ---- decided for each ---- */

/* What has no place at all. It is the last thing that is done with e: it may be forgotten by then. */
static void has_no_place(struct hypervisor *h, struct entry *e, const struct definition *d, const char *cause,
                         int64_t now_ms)
{
        char what[REQUEST_SENTENCE], text[REQUEST_SENTENCE];
        if (e->r.kind == REQUEST_APP) {
                (void)snprintf(text, sizeof(text), "%.145s, and vcpu %d has no other place",
                               what_changed(&h->components[d->component], cause, what), (int)d->slot);
                end(h, e, text, now_ms);
                return;
        }
        note_item(h, e, d, "no-place", "there is no other; it stays", now_ms);
        if (e->vm)
                e->vm->toll.stuck++;
}

static void decide_cpus(struct hypervisor *h, struct entry *e, const char *cause, int64_t now_ms)
{
        struct request *r = &e->r;
        bool has_moved = false;
        for (size_t i = 0; i < r->n_definitions; i++) {
                struct definition *d = &r->definitions[i];
                uint32_t to = 0;
                if (h->components[d->component].kind != COMPONENT_CPU ||
                    (!is_gone(h, d) && !is_crowded(h, d->component)))
                        continue;
                if (find_place(h, e, d, &to) && move(h, e, d, to, false, now_ms)) {
                        has_moved = true;
                } else if (!is_gone(h, d)) {
                        continue; /* it shares that with others, and goes on to */
                } else if (r->kind == REQUEST_VM && find_shared(h, e, d, &to) &&
                           move(h, e, d, to, true, now_ms)) {
                        has_moved = true;
                } else {
                        has_no_place(h, e, d, cause, now_ms);
                        if (r->kind == REQUEST_APP)
                                return;
                }
        }
        if (!has_moved)
                return;
        effect_push(h, EFFECT_PERSIST, r, now_ms);
        if (check_is_moving(e)) {
                (void)kept_makes_room(h, e, now_ms);
                check_moves(h, e, now_ms);
        }
}

static const struct component *gone_of(const struct hypervisor *h, const struct request *r)
{
        for (size_t i = 0; i < r->n_definitions; i++) {
                const struct component *c = &h->components[r->definitions[i].component];
                if ((c->kind == COMPONENT_CPU || c->kind == COMPONENT_MEMORY) && !c->healthy)
                        return c;
        }
        return NULL;
}

static void decide_one(struct hypervisor *h, struct entry *e, const char *cause, int64_t now_ms)
{
        char what[REQUEST_SENTENCE], text[REQUEST_SENTENCE];
        const struct component *gone;
        switch (e->r.state) {
        case REQUEST_ACTIVATING:
                gone = gone_of(h, &e->r);
                if (!gone)
                        break;
                (void)snprintf(text, sizeof(text), "what it was to have is gone: %.160s",
                               what_changed(gone, cause, what));
                end(h, e, text, now_ms);
                break;
        case REQUEST_OFFERED:
        case REQUEST_GRANTED:
                decide_cpus(h, e, cause, now_ms);
                break;
        case REQUEST_RELEASING:
        case REQUEST_KEPT:
        case REQUEST_RECLAIMING:
        case REQUEST_REFUSED:
        case REQUEST_ENDED:
        case REQUEST_STATE_N:
                break;
        }
}

static int64_t amount_on(const struct request *r, uint32_t component)
{
        int64_t amount = 0;
        for (size_t i = 0; i < r->n_definitions; i++)
                amount += r->definitions[i].component == component ? r->definitions[i].amount : 0;
        return amount;
}

/* The last lease first, and no more of them than it takes. What is on its way back makes room, too. */
static void decide_memory(struct hypervisor *h, uint32_t component, const uint64_t *live, size_t n,
                          const char *cause, int64_t now_ms)
{
        char what[REQUEST_SENTENCE];
        int64_t over = ledger_claimed(h->ledger, component) - ledger_owned(h->ledger, component);
        for (size_t i = 0; i < n; i++) {
                const struct entry *e = find_serial(h, live[i]);
                if (e && e->r.state == REQUEST_RELEASING)
                        over -= amount_on(&e->r, component);
        }
        for (size_t i = n; i-- > 0 && over > 0;) {
                struct entry *e = find_serial(h, live[i]);
                int64_t amount = e && e->r.kind != REQUEST_RESERVATION && e->r.start_ms <= now_ms
                                         ? amount_on(&e->r, component)
                                         : 0;
                if (amount == 0 || !request_is_live(&e->r) || e->r.state == REQUEST_RELEASING)
                        continue;
                if (e->r.kind == REQUEST_VM && e->r.state == REQUEST_GRANTED) {
                        e->vm->toll.stays++;
                        continue;
                }
                over -= amount;
                end(h, e, what_changed(&h->components[component], cause, what), now_ms);
        }
}

/* By serial: whatever is decided may make others forgotten. */
static uint64_t *live_serials(const struct hypervisor *h, size_t *ret_n)
{
        uint64_t *all = malloc((h->live + 1) * sizeof(*all));
        assert(all);
        *ret_n = 0;
        for (const struct entry *e = h->oldest; e; e = e->newer)
                if (request_is_live(&e->r))
                        all[(*ret_n)++] = e->r.serial;
        return all;
}

/* ---- all of it ---- */

static void take_in(struct hypervisor *h, const struct host_change *change, const char *cause, int64_t now_ms)
{
        struct component *c = &h->components[change->component];
        char what[REQUEST_SENTENCE];
        const char *event = !change->healthy   ? "component-offline"
                            : change->lost > 0 ? "component-resized"
                                               : "component-online";
        c->healthy = change->healthy;
        c->lost = change->lost;
        c->node = change->node ? change->node - 1 : c->node;
        ledger_set_owned(h->ledger, change->component, bring_owned(h, change->component));
        hypervisor_note(h, now_ms, c->id, "host", event, "%s", what_changed(c, cause, what));
}

static void count(char *text, size_t size, unsigned n, const char *one, const char *many)
{
        size_t at = strlen(text);
        if (n > 0)
                (void)snprintf(text + at, size - at, "%s%u %s", at > 0 ? ", " : "", n, n == 1 ? one : many);
}

/* What was decided of its allocation. What it is told of its host is decided by what it was told before. */
static void say(struct hypervisor *h, const struct vm_entry *v, const char *what, int64_t now_ms)
{
        char subject[REQUEST_KEY], text[128] = "";
        const struct entry *base = base_of(h, v->shape.name);
        if (!base || base->r.state != REQUEST_GRANTED)
                return;
        (void)snprintf(subject, sizeof(subject), "vm:%s", v->shape.name);
        count(text, sizeof(text), v->toll.moved, "vCPU moves", "vCPUs move");
        count(text, sizeof(text), v->toll.ended, "lease ends", "leases end");
        count(text, sizeof(text), v->toll.stuck, "vCPU has no other place and stays",
              "vCPUs have no other place and stay");
        if (v->toll.stays)
                (void)snprintf(text + strlen(text), sizeof(text) - strlen(text), "%sits own memory stays",
                               *text ? ", " : "");
        if (*text)
                hypervisor_note(h, now_ms, v->shape.name, subject, "update-needed", "%.98s: %s", what, text);
        else
                hypervisor_note(h, now_ms, v->shape.name, subject, "no-update-needed",
                                "%.98s: its allocation stays as it is", what);
}

struct host_toll hypervisor_host_changed(struct hypervisor *h, const struct host_change *changes, size_t n,
                                         const char *cause, int64_t now_ms)
{
        struct host_toll all = {0};
        char what[REQUEST_SENTENCE] = "nothing has changed";
        size_t n_live;
        hypervisor_tick(h, now_ms);
        for (struct vm_entry *v = h->vms; v; v = v->next)
                v->toll = (struct host_toll){0};
        for (size_t i = 0; i < n; i++) {
                assert(changes[i].component < h->n_components && changes[i].lost >= 0);
                take_in(h, &changes[i], cause, now_ms);
        }
        if (n > 0)
                what_changed(&h->components[changes[0].component], cause, what);
        if (n > 1)
                (void)snprintf(what + strlen(what), sizeof(what) - strlen(what), ", and %zu more", n - 1);
        kept_check(h, now_ms);
        uint64_t *live = live_serials(h, &n_live);
        for (int is_vm = 1; is_vm >= 0; is_vm--)
                for (size_t i = 0; i < n_live; i++) {
                        struct entry *e = find_serial(h, live[i]);
                        if (e && is_vm == (e->r.kind == REQUEST_VM))
                                decide_one(h, e, cause, now_ms);
                }
        for (size_t i = 0; i < n; i++) /* a configuration that gives away less ends nothing */
                if (h->components[changes[i].component].kind == COMPONENT_MEMORY &&
                    is_crowded(h, changes[i].component))
                        decide_memory(h, changes[i].component, live, n_live, cause, now_ms);
        free(live);
        for (const struct vm_entry *v = h->vms; v; v = v->next) {
                say(h, v, what, now_ms);
                all.moved += v->toll.moved;
                all.ended += v->toll.ended;
                all.stuck += v->toll.stuck;
                all.stays += v->toll.stays;
        }
        walks_go_on(h, now_ms); /* what came back may be what somebody waits for */
        return all;
}

/* ---- another part of the machine ---- */

/* Who claims some of it, for the sentence. */
static const char *claimant(const struct hypervisor *h, uint32_t component)
{
        for (const struct entry *e = h->oldest; e; e = e->newer)
                for (size_t i = 0; request_is_live(&e->r) && i < e->r.n_definitions; i++)
                        if (e->r.definitions[i].component == component ||
                            e->r.definitions[i].from == component + 1)
                                return e->r.key;
        return "what was granted";
}

static int64_t owned_as(const struct hypervisor *h, uint32_t component, int64_t owned)
{
        struct component c = h->components[component];
        c.owned = owned;
        return component_owned(&c) + bring_owned(h, component) - component_owned(&h->components[component]);
}

/* Claimed for this VM, with all that its guest was given. */
static int64_t claimed_for(struct hypervisor *h, const char *vm, uint32_t component)
{
        const struct vm_entry *v = find_vm(h, vm);
        int64_t sum = 0;
        for (const struct entry *e = v ? v->newest : NULL; e; e = e->vm_older)
                for (size_t i = 0; request_is_live(&e->r) && i < e->r.n_definitions; i++)
                        if (e->r.definitions[i].component == component)
                                sum += e->r.definitions[i].amount;
        return sum;
}

/* What is to go must be free at every instant to come, or be what VMs that leave have. */
static int check_shrink(struct hypervisor *h, uint32_t i, int64_t owned,
                        const struct hypervisor_leaving *leaving, int64_t now_ms, struct err *err)
{
        int64_t less = ledger_owned(h->ledger, i) - owned;
        int64_t room = less > 0 ? ledger_free_over(h->ledger, i, now_ms, LEDGER_OPEN) : 0;
        for (size_t k = 0; less > 0 && k < leaving->n; k++)
                room += claimed_for(h, leaving->vms[k], i);
        if (less <= 0 || less <= room)
                return 0;
        return err_set(err, REASON_UNREASSIGNABLE, EBUSY, "%s is claimed by %.100s, and cannot be taken away",
                       h->components[i].id, claimant(h, i));
}

/* Kept sets have no claims, but what they are made of is bound. Looked at with what will be owned. */
static bool has_room_for_kept(struct hypervisor *h, const int64_t *owned, int64_t now_ms)
{
        bool has_room = true;
        for (uint32_t i = 0; i < h->n_components; i++) {
                int64_t before = ledger_owned(h->ledger, i), after = owned_as(h, i, owned[i]);
                if (after >= before)
                        continue;
                ledger_set_owned(h->ledger, i, after);
                has_room = kept_leaves_room(h, i, "the service processor takes it away", now_ms) && has_room;
                ledger_set_owned(h->ledger, i, before);
        }
        return has_room;
}

int hypervisor_repartition(struct hypervisor *h, const int64_t *owned,
                           const struct hypervisor_leaving *leaving, const char *trace, const char *cause,
                           int64_t now_ms, struct err *err)
{
        hypervisor_tick(h, now_ms);
        for (uint32_t i = 0; i < h->n_components; i++) {
                assert(owned[i] >= 0 && owned[i] <= h->components[i].capacity);
                int bad = check_shrink(h, i, owned_as(h, i, owned[i]), leaving, now_ms, err);
                if (bad)
                        return bad;
        }
        if (!has_room_for_kept(h, owned, now_ms))
                return err_set(err, REASON_BUSY, EBUSY,
                               "what is kept of stopped VMs there is being taken back; ask again");
        for (uint32_t i = 0; i < h->n_components; i++) {
                struct component *c = &h->components[i];
                if (c->owned == owned[i])
                        continue;
                hypervisor_note(h, now_ms, trace, c->id, "repartitioned",
                                "of %s %lld %s may be given away here, before it was %lld: %s", c->id,
                                (long long)owned[i], component_kinds[c->kind].unit, (long long)c->owned,
                                cause);
                c->owned = owned[i];
                ledger_set_owned(h->ledger, i, bring_owned(h, i));
        }
        walks_go_on(h, now_ms); /* what came may be what somebody waits for */
        return 0;
}

bool hypervisor_is_moving(const struct hypervisor *h, const char *vm)
{
        const struct vm_entry *v = find_vm(h, vm);
        for (const struct entry *e = v ? v->newest : NULL; e; e = e->vm_older) {
                bool ends = e->r.state == REQUEST_RELEASING;
                if (!e->is_walking || !request_is_live(&e->r))
                        continue;
                for (size_t i = 0; i < e->r.n_definitions; i++) {
                        const struct definition *d = &e->r.definitions[i];
                        bool is_memory = h->components[d->component].kind == COMPONENT_MEMORY;
                        if ((d->moving && !is_memory) ||
                            (ends && (is_gone(h, d) || is_crowded(h, d->component))))
                                return true;
                }
        }
        return false;
}

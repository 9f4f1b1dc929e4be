/* SPDX-License-Identifier: Apache-2.0 */
/* core/relocate.c - memory of a VM that runs is to lie elsewhere: it is separated (5.9) or brought together
 * (5.20).
 *
 * As in change.c a move is decided in the books first: what it goes to is claimed, the definition is the new
 * component's, and what it leaves is claimed until it has left that. So at no instant is anything given away
 * twice, and a restart goes on with it. checks.c carries it out, as with whatever moves: the host side is
 * activated for the new component, which moves the pages, in many steps between which all else of the VM has
 * its turn, and looked at. The way back is the same in the other direction: both are claimed already, so it
 * needs no room. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void note(struct hypervisor *h, const struct entry *e, const struct definition *d, const char *event,
                 const char *to, const char *cause, int64_t now_ms)
{
        char trace[REQUEST_TRACE], item[64];
        request_trace(&e->r, trace);
        item_text(h, d, item, sizeof(item));
        hypervisor_note(h, now_ms, trace, e->r.key, event, "%s: it moves%s %s: %.100s", item,
                        strcmp(event, "moving") == 0 ? " to" : " back to", to, cause);
}

static bool is_memory_component(const struct hypervisor *h, uint32_t component)
{
        return h->components[component].kind == COMPONENT_MEMORY;
}

static bool is_memory(const struct hypervisor *h, const struct definition *d)
{
        return is_memory_component(h, d->component);
}

static int check(const struct hypervisor *h, const struct vm_entry *v, const struct relocation *m,
                 struct entry **ret, struct err *err)
{
        struct entry *e = find_serial(h, m->serial);
        if (!e || e->vm != v || e->r.state != REQUEST_GRANTED || m->item >= e->r.n_definitions ||
            m->to >= h->n_components)
                return err_set(err, REASON_STALE, ESTALE, "what %s has is another by now", v->shape.name);
        const struct definition *d = &e->r.definitions[m->item];
        const struct component *to = &h->components[m->to];
        if (is_memory(h, d) && (d->moving || d->from))
                return err_set(err, REASON_BUSY, EBUSY, "memory of %s is being moved", v->shape.name);
        if (!is_memory(h, d) || to->kind != COMPONENT_MEMORY || m->to == d->component)
                return err_set(err, REASON_INVALID, EINVAL, "only memory is moved, and elsewhere");
        if (d->page_bytes > 0)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "memory on huge pages is not moved while its VM runs");
        if (!to->healthy)
                return err_set(err, REASON_NO_CAPACITY, ENODEV, "%s is out of use", to->id);
        *ret = e;
        return 0;
}

/* The claim first: there is never none. */
static int leave(struct hypervisor *h, struct entry *e, struct definition *d, uint32_t to, struct err *err)
{
        struct claim c = *ledger_find(h->ledger, d->claim);
        claim_id id;
        c.component = to;
        int done = ledger_claim(h->ledger, &c, &id);
        if (done != 1)
                return done < 0 ? err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a claim")
                                : err_set(err, REASON_NO_CAPACITY, ENOSPC,
                                          "%s has not %lld bytes free for memory %d of %s",
                                          h->components[to].id, (long long)d->amount, (int)d->slot, e->r.vm);
        d->from = d->component + 1;
        d->claim_from = d->claim;
        d->claim = id;
        d->component = to;
        d->moving = true;
        return 0;
}

static void turn_round(struct definition *d)
{
        uint32_t component = d->component;
        uint64_t claim = d->claim;
        d->component = d->from - 1;
        d->claim = d->claim_from;
        d->from = component + 1;
        d->claim_from = claim;
        d->change = CHANGE_NONE;
        d->goes_back = !d->goes_back;
}

/* Nothing was done yet but in the books. */
static void never_left(struct hypervisor *h, struct definition *d)
{
        turn_round(d);
        claim_from_release(h, d);
        d->moving = false;
}

static void go_on(struct hypervisor *h, struct vm_entry *v, int64_t now_ms)
{
        for (struct entry *e = h->oldest, *next; e; e = next) {
                next = e->newer;
                if (e->vm == v && e->r.state == REQUEST_GRANTED && hypervisor_vm_is_relocating(h, &e->r)) {
                        effect_push(h, EFFECT_PERSIST, &e->r, now_ms);
                        e->retry_at_ms = 0;
                        e->retry_in_ms = 0;
                        e->move_tries = 0;
                        check_moves(h, e, now_ms);
                }
        }
}

int hypervisor_vm_relocate(struct hypervisor *h, const char *name, const struct relocation *moves, size_t n,
                           const char *cause, int64_t now_ms, struct err *err)
{
        struct vm_entry *v = find_vm(h, name);
        const struct entry *base = v ? base_of(h, name) : NULL;
        struct entry *e = NULL;
        size_t done = 0;
        int r = 0;
        hypervisor_tick(h, now_ms);
        if (!base || base->r.state != REQUEST_GRANTED)
                return err_set(err, REASON_STALE, EAGAIN, "the VM %s is not running", name);
        if (v->brings)
                return err_set(err, REASON_BUSY, EBUSY,
                               "the memory of %s is not this hypervisor's yet: it has just come", name);
        while (r == 0 && done < n) {
                r = check(h, v, &moves[done], &e, err);
                if (r == 0)
                        r = leave(h, e, &e->r.definitions[moves[done].item], moves[done].to, err);
                done += r == 0;
        }
        bool has_room = true;
        for (size_t i = 0; r == 0 && i < n; i++)
                has_room = kept_leaves_room(h, moves[i].to, "memory of a VM that runs comes there", now_ms) &&
                           has_room;
        if (!has_room)
                r = err_set(err, REASON_BUSY, EBUSY,
                            "what is kept of stopped VMs there is being taken back; ask again");
        for (size_t i = 0; i < done; i++) {
                e = find_serial(h, moves[i].serial);
                struct definition *d = &e->r.definitions[moves[i].item];
                if (r < 0)
                        never_left(h, d);
                else
                        note(h, e, d, "moving", h->components[d->component].id, cause, now_ms);
        }
        if (r == 0)
                go_on(h, v, now_ms);
        return r;
}

bool hypervisor_vm_is_relocating(const struct hypervisor *h, const struct request *r)
{
        for (size_t i = 0; i < r->n_definitions; i++)
                if (r->definitions[i].moving && is_memory(h, &r->definitions[i]))
                        return true;
        return false;
}

void hypervisor_vm_relocate_back(struct hypervisor *h, const char *name, const char *cause, int64_t now_ms)
{
        struct vm_entry *v = find_vm(h, name);
        for (struct entry *e = v ? h->oldest : NULL; e; e = e->newer) {
                for (size_t i = 0; e->vm == v && e->r.state == REQUEST_GRANTED && i < e->r.n_definitions;
                     i++) {
                        struct definition *d = &e->r.definitions[i];
                        if (!d->moving || !d->from || !is_memory(h, d))
                                continue;
                        turn_round(d);
                        note(h, e, d, "moving-back", h->components[d->component].id, cause, now_ms);
                }
        }
        if (v)
                go_on(h, v, now_ms);
}

enum relocating hypervisor_vm_relocating(const struct hypervisor *h, const char *name,
                                         struct relocating_why *ret_why)
{
        const struct vm_entry *v = find_vm(h, name);
        enum relocating all = RELOCATING_NOTHING;
        for (const struct entry *e = v ? v->newest : NULL; e; e = e->vm_older) {
                if (e->r.state != REQUEST_GRANTED || !hypervisor_vm_is_relocating(h, &e->r))
                        continue;
                if (all == RELOCATING_NOTHING)
                        all = RELOCATING_UNDER_WAY;
                for (size_t i = 0; i < e->r.n_definitions; i++) {
                        const struct definition *d = &e->r.definitions[i];
                        if (!d->moving || !is_memory(h, d) || d->change != CHANGE_LASTING)
                                continue;
                        if (ret_why && (all != RELOCATING_FAILED || e->move_tries > ret_why->tries))
                                *ret_why = (struct relocating_why){e->move_reason, e->move_tries, e->changed};
                        all = RELOCATING_FAILED;
                }
        }
        return all;
}

bool relocating_may_do(const struct relocating_why *why)
{
        bool passes = why->reason == REASON_BUSY || why->reason == REASON_TIMEOUT ||
                      why->reason == REASON_PEER_LOST || why->reason == REASON_CANCELLED ||
                      why->reason == REASON_STALE;
        return passes && why->tries < RELOCATING_TRIES;
}

/* ---- what is given to it from now on ---- */

void hypervisor_vm_avoid(struct hypervisor *h, const char *name, const uint32_t *components, size_t n)
{
        struct vm_entry *v = find_vm(h, name);
        if (!v)
                return;
        free(v->avoids);
        v->avoids = n > 0 ? calloc(h->n_components, sizeof(*v->avoids)) : NULL;
        assert(n == 0 || v->avoids); /* as for effects: better to stop and restart from the store */
        for (size_t i = 0; i < n; i++) {
                assert(components[i] < h->n_components);
                v->avoids[components[i]] = is_memory_component(h, components[i]);
        }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* core/decide.c - the verdict on a request: granted, counter-offered, not now, never.
 *
 * Each need is tried once as a range from the least unit up to the most that is of use: what comes out is
 * either enough (then it is placed) or the most that could be had (then it is what a counter-offer says).
 * Needs of different kinds take different components, so they are placed one by one and claimed together. */
#include "core/hypervisor-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

static int64_t round_up(int64_t bytes, int64_t unit)
{
        return (bytes + unit - 1) / unit * unit;
}

/* How one need fared. */
struct trial {
        struct placement placement;
        int64_t wanted;     /* the least that will do, rounded */
        enum outcome worst; /* OUTCOME_GRANTED where it is enough */
        enum reason reason;
        char why[REQUEST_SENTENCE];
};

static void blocked(struct trial *t, enum outcome outcome, enum reason reason, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
static void blocked(struct trial *t, enum outcome outcome, enum reason reason, const char *fmt, ...)
{
        va_list ap;
        t->worst = outcome;
        t->reason = reason;
        va_start(ap, fmt);
        (void)vsnprintf(t->why, sizeof(t->why), fmt, ap);
        va_end(ap);
}

/* What the VM's own definition leaves: in all, and now. */
static void room_of(const struct entry *e, enum component_kind kind, int64_t *ret_total, int64_t *ret_now)
{
        if (!e->vm) {
                *ret_total = *ret_now = UNITS_MAX;
                return;
        }
        const struct vm_shape *s = &e->vm->shape;
        if (kind == COMPONENT_CPU) {
                *ret_total = s->cpus_max - s->cpus;
                *ret_now = s->cpus_max - __builtin_popcountll(e->vm->cpu_slots);
        } else if (component_is_of_class(kind)) {
                *ret_total = UNITS_MAX;
                *ret_now = __builtin_popcountll(e->vm->class_slots) < SHAPE_CLASS_SLOTS ? UNITS_MAX : 0;
        } else if (kind == COMPONENT_NET) {
                *ret_total = s->net_bps == 0 ? 0 : s->net_max_bps ? s->net_max_bps - s->net_bps : UNITS_MAX;
                *ret_now = *ret_total - e->vm->leased_bps;
                if (__builtin_popcountll(e->vm->nic_slots) >= SHAPE_NIC_SLOTS)
                        *ret_now = 0;
        } else if (kind == COMPONENT_BLOCK) {
                *ret_total = s->disk_rate == 0 ? 0 : s->disk_max ? s->disk_max - s->disk_rate : UNITS_MAX;
                *ret_now = *ret_total - e->vm->leased_disk;
                /* Without its base part, it was started before the host held disks. */
                if (!(e->vm->disk_slots & 1) || __builtin_popcountll(e->vm->disk_slots) >= SHAPE_DISK_SLOTS)
                        *ret_now = 0;
        } else {
                *ret_total = s->memory_max_bytes - s->memory_bytes;
                *ret_now = *ret_total - e->vm->leased_bytes;
                if (__builtin_popcountll(e->vm->memory_slots) >= s->memory_slots)
                        *ret_now = 0;
        }
}

/* The hardware has the same step everywhere. */
static int64_t step_of(const struct hypervisor *h, enum component_kind kind)
{
        for (size_t i = 0; i < h->n_components; i++)
                if (h->components[i].kind == kind && h->components[i].step > 0)
                        return h->components[i].step;
        return 1;
}

static int64_t unit_of(const struct hypervisor *h, const struct entry *e, const struct need *need)
{
        if (component_is_of_class(need->kind))
                return step_of(h, need->kind);
        if (need->kind == COMPONENT_NET)
                return NET_UNIT_BPS;
        if (need->kind == COMPONENT_BLOCK)
                return BLOCK_UNIT;
        return place_unit_bytes(need, need->kind == COMPONENT_MEMORY && e->vm ? e->vm->shape.unit_bytes : 1);
}

int check_pages(const struct hypervisor *h, int64_t page_bytes, struct err *err)
{
        char sizes[96] = "", text[UNITS_TEXT];
        for (size_t i = 0; i < h->n_components; i++) {
                const struct component *c = &h->components[i];
                if (c->kind != COMPONENT_MEMORY) /* also off line: it may come back */
                        continue;
                if (component_has_pages(c, page_bytes))
                        return 0;
                *sizes = '\0'; /* nodes of one machine have the same */
                for (size_t k = 0; k < COMPONENT_PAGES && c->page_bytes[k]; k++) {
                        size_t at = strlen(sizes);
                        (void)snprintf(sizes + at, sizeof(sizes) - at, "%s%s", at ? ", " : "",
                                       units_print_bytes(c->page_bytes[k], text));
                }
        }
        return err_set(
                err, REASON_UNSUPPORTED, EOPNOTSUPP,
                "pages of %s are asked for, and no memory of this host has them; it has huge pages of: %s",
                units_print_bytes(page_bytes, text), *sizes ? sizes : "no size");
}

static bool has_classes(const struct hypervisor *h)
{
        for (size_t i = 0; i < h->n_components; i++)
                if (component_is_of_class(h->components[i].kind) && h->components[i].healthy)
                        return true;
        return false;
}

/* Of whom a class of service is part, what it serves must be below one L3 cache, that of the VM's CPUs. */
struct scope {
        bool is_bound, is_known, is_split;
        bool is_own;        /* bound by what is asked for, and not only by what the VM has had */
        bool is_split_base; /* its base CPUs, which stay where they are as long as it runs */
        uint32_t domain;    /* 0: a CPU of which nobody knows the cache */
};

static struct scope scope_of(const struct hypervisor *h, const struct entry *e)
{
        struct scope s = {0};
        const struct request *r = &e->r;
        for (size_t i = 0; e->vm && i < r->n_needs; i++)
                s.is_own = s.is_own || component_is_of_class(r->needs[i].kind);
        s.is_bound = s.is_own || (e->vm && e->vm->class_slots);
        uint32_t base = 0;
        bool has_base = false;
        for (const struct entry *o = s.is_bound ? e->vm->newest : NULL; o; o = o->vm_older) {
                if (!request_is_live(&o->r))
                        continue;
                for (size_t i = 0; i < o->r.n_definitions; i++) {
                        const struct component *c = &h->components[o->r.definitions[i].component];
                        if (c->kind != COMPONENT_CPU && !component_is_of_class(c->kind))
                                continue;
                        s.is_split = s.is_split || (s.is_known && s.domain != c->domain);
                        s.is_known = true;
                        s.domain = c->domain;
                        if (o->r.kind != REQUEST_VM)
                                continue;
                        s.is_split_base = s.is_split_base || (has_base && base != c->domain);
                        has_base = true;
                        base = c->domain;
                }
        }
        return s;
}

/* The components among which it is placed: where it is bound, CPUs and classes elsewhere are out of question,
 * and memory that it is to leave is for now. NULL: no memory. */
static struct component *components_in(const struct hypervisor *h, const struct entry *e,
                                       const struct scope *s)
{
        struct component *all = malloc(h->n_components * sizeof(*all));
        if (!all)
                return NULL;
        memcpy(all, h->components, h->n_components * sizeof(*all));
        for (size_t i = 0; s->is_bound && i < h->n_components; i++)
                if ((all[i].kind == COMPONENT_CPU || component_is_of_class(all[i].kind)) &&
                    all[i].domain != s->domain) {
                        all[i].healthy = false;
                        all[i].owned = 0; /* for this VM it does not come back, either */
                }
        for (size_t i = 0; e->vm && e->vm->avoids && i < h->n_components; i++)
                all[i].healthy = all[i].healthy && !e->vm->avoids[i];
        return all;
}

/* is_lasting: what is not among these components cannot be had as long as this VM runs; else it can, when
 * others of its leases have ended. */
static void try_need(struct hypervisor *h, const struct entry *e, const struct need *need,
                     const struct component *components, bool is_lasting, struct trial *t)
{
        const struct request *r = &e->r;
        int64_t unit = unit_of(h, e, need);
        int64_t room_total, room_now;
        room_of(e, need->kind, &room_total, &room_now);
        t->wanted = round_up(need->amount, unit);
        int64_t most = round_up(need->amount_max, unit);
        struct need range = *need;
        range.amount = need->kind == COMPONENT_NET ? NET_LEAST_BPS : unit;
        range.amount_max = most < room_now ? most : room_now / unit * unit;
        t->placement = (struct placement){0};
        int64_t share = hypervisor_default_share(h);
        if (range.amount_max >= range.amount &&
            place_need(h->ledger, components, h->n_components, &range, share, unit, r->start_ms, r->end_ms,
                       &t->placement, NULL) <= 0)
                t->placement = (struct placement){0};
        t->worst = OUTCOME_GRANTED;
        if (t->placement.amount_met >= t->wanted)
                return;
        char asked[UNITS_TEXT], have[UNITS_TEXT], named[NEED_TEXT];
        const char *kind = component_kinds[need->kind].name;
        need_amount_print(need->kind, t->wanted, asked);
        struct need exact = *need;
        exact.amount = exact.amount_max = t->wanted;
        int64_t limit =
                place_limit(is_lasting ? components : h->components, h->n_components, need, share, unit);
        struct err why = {0};
        bool is_whole = need->kind == COMPONENT_CPU && share == CPU_WHOLE_MILLI &&
                        !need_parameter(need, PARAMETER_SHARE) && !need_parameter(need, PARAMETER_EXCLUSIVE);
        if (check_pages(h, need_page_bytes(need), &why) < 0)
                blocked(t, OUTCOME_NEVER, why.reason, "%s", why.sentence);
        else if (need->kind == COMPONENT_NET && e->vm && e->vm->shape.net_bps == 0)
                blocked(t, OUTCOME_NEVER, REASON_UNSUPPORTED,
                        "net:%s is asked for, and this VM has no network card of its own (mete vm create "
                        "--net)",
                        asked);
        else if (need->kind == COMPONENT_BLOCK && e->vm && e->vm->shape.disk_rate == 0)
                blocked(t, OUTCOME_NEVER, REASON_UNSUPPORTED,
                        "block:%s is asked for, and this VM has no disk, or this host gives no disk "
                        "bandwidth away ([block] in mete.conf)",
                        asked);
        else if (need->kind == COMPONENT_BLOCK && e->vm && !(e->vm->disk_slots & 1))
                blocked(t, OUTCOME_NEVER, REASON_UNSUPPORTED,
                        "block:%s is asked for, and the disk of this VM is held to a rate only from its next "
                        "start on",
                        asked);
        else if (component_is_of_class(need->kind) && limit == 0)
                blocked(t, OUTCOME_NEVER, REASON_UNSUPPORTED,
                        "%s:%s is asked for, and no class of service can be had %s (mete doctor says why)",
                        kind, asked, e->vm ? "for the L3 cache of this VM's CPUs" : "on this host");
        else if (t->wanted > room_total)
                blocked(t, OUTCOME_NEVER, REASON_POLICY,
                        "%s:%s is asked for, and the definition of this VM lets it grow by %s", kind, asked,
                        need_amount_print(need->kind, room_total, have));
        else if (limit == 0 && (need_component(need) >= 0 || need_node(need) >= 0))
                blocked(t, OUTCOME_NEVER, REASON_NOT_FOUND,
                        "%s is asked for, and this host has no such component to give away",
                        need_print(need, named));
        else if (t->wanted > limit)
                blocked(t, OUTCOME_NEVER, REASON_NO_CAPACITY, "%s is asked for, and this host has %s in all",
                        need_print(&exact, named), need_amount_print(need->kind, limit, have));
        else if (t->wanted > room_now)
                blocked(t, OUTCOME_NOT_NOW, REASON_NO_CAPACITY,
                        "%s:%s is asked for, and other leases of this VM leave it room to grow by %s", kind,
                        asked, need_amount_print(need->kind, room_now > 0 ? room_now : 0, have));
        else
                blocked(t, OUTCOME_NOT_NOW, REASON_NO_CAPACITY,
                        "%s is asked for%s, and %s that meets it is free on this host%s",
                        need_print(&exact, named), is_whole ? " (whole CPUs, as no share>= is said)" : "",
                        t->placement.amount_met ? need_amount_print(need->kind, t->placement.amount_met, have)
                                                : "none",
                        h->returning             ? "; something is just being given back: ask again"
                        : e->vm && e->vm->avoids ? "; its VM is being handed over: ask again"
                                                 : "");
}

/* The lowest free bit at or above `from`, taken; -1: none below `limit`. */
static int take_slot(uint64_t *slots, int from, int limit)
{
        for (int i = from; i < limit; i++) {
                if (!(*slots & (UINT64_C(1) << i))) {
                        *slots |= UINT64_C(1) << i;
                        return i;
                }
        }
        return -1;
}

static int take_this_slot(uint64_t *slots, int slot, int limit)
{
        if (slot < 0 || slot >= limit || *slots & (UINT64_C(1) << slot))
                return -1;
        *slots |= UINT64_C(1) << slot;
        return slot;
}

/* Adds the claims of one placement to the request. arrivals: as many as it has items, for vCPUs and DIMMs
 * whose slots are not ours to choose; else NULL. */
static int claim(struct hypervisor *h, struct entry *e, const struct need *need, const struct placement *p,
                 enum claim_state state, const struct arrival *arrivals)
{
        enum component_kind kind = need->kind;
        struct request *r = &e->r;
        struct definition *grown = realloc(r->definitions, (r->n_definitions + p->n) * sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        r->definitions = grown;
        for (size_t i = 0; i < p->n; i++) {
                struct claim c = {
                        .component = p->item[i].component,
                        .state = state,
                        .amount = p->item[i].amount,
                        .holder = r->serial,
                        .start_ms = r->start_ms,
                        .end_ms = r->end_ms, /* of an offer too: so that accepting it cannot fail */
                };
                struct definition rc = {.component = c.component,
                                        .amount = c.amount,
                                        .kind = VIRTUAL_NONE,
                                        .slot = -1,
                                        .exclusive = kind == COMPONENT_CPU &&
                                                     need_parameter(need, PARAMETER_EXCLUSIVE),
                                        .page_bytes = need_page_bytes(need)};
                bring_claims(h, e, &c);
                int fits = ledger_claim(h->ledger, &c, &rc.claim);
                if (fits <= 0) {
                        bring_returns(h, e, &rc);
                        return fits < 0 ? fits : -ENOSPC;
                }
                r->definitions[r->n_definitions++] = rc;
                if (!e->vm)
                        continue;
                struct definition *d = &r->definitions[r->n_definitions - 1];
                int slot;
                if (kind == COMPONENT_CPU) {
                        d->kind = VIRTUAL_VCPU;
                        slot = arrivals ? take_this_slot(&e->vm->cpu_slots, arrivals[i].slot,
                                                         e->vm->shape.cpus_max)
                                        : take_slot(&e->vm->cpu_slots, 0, e->vm->shape.cpus_max);
                } else if (component_is_of_class(kind)) {
                        slot = take_slot(&e->vm->class_slots, 0, SHAPE_CLASS_SLOTS);
                } else if (kind == COMPONENT_NET) {
                        bool is_base = r->kind == REQUEST_VM;
                        d->kind = VIRTUAL_NIC;
                        slot = take_slot(&e->vm->nic_slots, is_base ? 0 : 1, is_base ? 1 : SHAPE_NIC_SLOTS);
                        if (slot > 0)
                                e->vm->leased_bps += c.amount;
                } else if (kind == COMPONENT_BLOCK) {
                        bool is_base = r->kind == REQUEST_VM;
                        d->kind = VIRTUAL_DISK;
                        slot = take_slot(&e->vm->disk_slots, is_base ? 0 : 1, is_base ? 1 : SHAPE_DISK_SLOTS);
                        if (slot > 0)
                                e->vm->leased_disk += c.amount;
                } else if (r->kind == REQUEST_VM) {
                        d->kind = VIRTUAL_RAM;
                        d->prepares = true;
                        slot = (int)i;
                } else {
                        d->kind = VIRTUAL_DIMM;
                        d->prepares = true;
                        slot = arrivals ? take_this_slot(&e->vm->memory_slots, arrivals[i].slot,
                                                         e->vm->shape.memory_slots)
                                        : take_slot(&e->vm->memory_slots, 0, e->vm->shape.memory_slots);
                        if (slot >= 0)
                                e->vm->leased_bytes += c.amount;
                }
                if (slot < 0)
                        return -ENOSPC;
                d->slot = (int16_t)slot;
        }
        return 0;
}

static void say_needs(const struct request *r, char *buf, size_t size)
{
        struct need met[NEEDS_MAX];
        size_t at = 0;
        request_granted_needs(r, met);
        buf[0] = '\0';
        for (size_t i = 0; i < r->n_needs && at < size; i++) {
                char text[NEED_TEXT];
                int n = snprintf(buf + at, size - at, "%s%s", i ? " " : "", need_print(&met[i], text));
                at += n > 0 ? (size_t)n : 0;
        }
}

static int64_t share_of_base(const struct hypervisor *h, const struct need *need)
{
        const struct parameter *share = need_parameter(need, PARAMETER_SHARE);
        return share ? share->value : hypervisor_default_share(h);
}

/* The base vCPUs of a VM may share host CPUs, but lie on as many different ones as there are: each round
 * spreads what is left. */
static int claim_base_cpus(struct hypervisor *h, struct entry *e, struct err *err)
{
        struct request *r = &e->r;
        char text[UNITS_TEXT];
        struct need left = r->needs[0];
        for (r->met[0] = 0; r->met[0] < r->needs[0].amount;) {
                struct placement p = {0};
                left.amount = 1;
                left.amount_max = r->needs[0].amount - r->met[0];
                int placed = place_need(h->ledger, h->components, h->n_components, &left,
                                        hypervisor_default_share(h), 1, r->start_ms, r->end_ms, &p, err);
                if (placed == 0)
                        return err_set(
                                err, REASON_NO_CAPACITY, ENOSPC,
                                "%lld of its %lld base vCPUs find a host CPU with their share of %s free",
                                (long long)r->met[0], (long long)r->needs[0].amount,
                                units_print_milli(share_of_base(h, &r->needs[0]), text));
                int done = placed < 0 ? placed : claim(h, e, &left, &p, CLAIM_ALLOCATED, NULL);
                if (done < 0)
                        return err_set(err, REASON_INTERNAL, -done, "cannot claim a base vCPU");
                r->met[0] += p.amount_met;
        }
        return 0;
}

static void refuse(struct request *r, enum outcome outcome, enum reason reason, const char *sentence)
{
        r->outcome = outcome;
        r->reason = reason;
        (void)snprintf(r->sentence, sizeof(r->sentence), "%s", sentence);
        memset(r->met, 0, sizeof(r->met));
}

/* Of what does not fit now: would it ever? A configuration may have changed since the VM was made. */
static enum outcome base_outcome(const struct hypervisor *h, const struct need *need, int64_t unit)
{
        int64_t limit = place_limit(h->components, h->n_components, need, hypervisor_default_share(h), unit);
        return need->amount > limit ? OUTCOME_NEVER : OUTCOME_NOT_NOW;
}

/* Of its network card, or of its disk. */
static int claim_base_rate(struct hypervisor *h, struct entry *e, size_t i, struct err *err)
{
        struct request *r = &e->r;
        const struct need *need = &r->needs[i];
        bool is_net = need->kind == COMPONENT_NET;
        struct placement p = {0};
        int done = place_need(h->ledger, h->components, h->n_components, need, hypervisor_default_share(h),
                              unit_of(h, e, need), r->start_ms, r->end_ms, &p, err);
        if (done == 0) {
                char asked[UNITS_TEXT], have[UNITS_TEXT], why[REQUEST_SENTENCE];
                (void)snprintf(why, sizeof(why), "%s %s are not free on this host, but %s are",
                               need_amount_print(need->kind, need->amount, asked),
                               is_net ? "bit/s for its network card" : "bytes/s for its disk",
                               need_amount_print(need->kind, p.amount_met, have));
                refuse(r, base_outcome(h, need, unit_of(h, e, need)), REASON_NO_CAPACITY, why);
                return 0;
        }
        if (done > 0)
                done = claim(h, e, need, &p, CLAIM_ALLOCATED, NULL);
        if (done < 0)
                return err_set(err, REASON_INTERNAL, -done, "cannot claim bandwidth");
        r->met[i] = p.amount_met;
        return 0;
}

static int decide_vm(struct hypervisor *h, struct entry *e, struct err *err)
{
        struct request *r = &e->r;
        struct err why = {0};
        int done = claim_base_cpus(h, e, &why);
        if (done < 0) {
                if (why.reason != REASON_NO_CAPACITY) {
                        *err = why;
                        return done;
                }
                refuse(r, OUTCOME_NOT_NOW, REASON_NO_CAPACITY, why.sentence);
                return 0;
        }
        if (check_pages(h, need_page_bytes(&r->needs[1]), &why) < 0) {
                refuse(r, OUTCOME_NEVER, why.reason, why.sentence);
                return 0;
        }
        struct placement p = {0};
        done = place_need(h->ledger, h->components, h->n_components, &r->needs[1],
                          hypervisor_default_share(h), e->vm->shape.unit_bytes, r->start_ms, r->end_ms, &p,
                          err);
        if (done == 0) {
                char asked[UNITS_TEXT], have[UNITS_TEXT], why_text[REQUEST_SENTENCE];
                (void)snprintf(why_text, sizeof(why_text),
                               "its base memory of %s does not fit, %s is free on this host",
                               units_print_bytes(r->needs[1].amount, asked),
                               units_print_bytes(p.amount_met, have));
                refuse(r, base_outcome(h, &r->needs[1], e->vm->shape.unit_bytes), REASON_NO_CAPACITY,
                       why_text);
                return 0;
        }
        if (done > 0)
                done = claim(h, e, &r->needs[1], &p, CLAIM_ALLOCATED, NULL);
        if (done < 0)
                return err_set(err, REASON_INTERNAL, -done, "cannot claim base memory");
        r->met[1] = p.amount_met;
        r->outcome = OUTCOME_GRANTED;
        for (size_t i = 2; i < r->n_needs && r->outcome == OUTCOME_GRANTED; i++)
                if ((done = claim_base_rate(h, e, i, err)) < 0)
                        return done;
        return 0;
}

/* r->outcome says which. */
static int claim_or_refuse(struct hypervisor *h, struct entry *e, const struct need *need,
                           const struct placement *p, enum claim_state state, const struct arrival *arrivals,
                           struct err *err)
{
        int done = claim(h, e, need, p, state, arrivals);
        if (done < 0 && done != -ENOSPC)
                return err_set(err, REASON_INTERNAL, -done, "cannot claim");
        if (done < 0)
                refuse(&e->r, OUTCOME_NOT_NOW, REASON_NO_CAPACITY,
                       arrivals ? "this VM does not have the slot free in which its guest has it"
                                : "this VM has no free slot for it");
        return 0;
}

/* ---- what comes with its VM ---- */

static bool is_carried(enum component_kind kind)
{
        return kind == COMPONENT_CPU || kind == COMPONENT_MEMORY;
}

/* Without what it says of the host that it was asked of. */
static struct need without_places(const struct need *need)
{
        struct need bare = *need;
        bare.n_parameters = 0;
        for (size_t i = 0; i < need->n_parameters; i++) {
                enum parameter_id id = need->parameters[i].id;
                if (id != PARAMETER_CPU_ID && id != PARAMETER_CPU_NODE && id != PARAMETER_MEMORY_NODE)
                        bare.parameters[bare.n_parameters++] = need->parameters[i];
        }
        return bare;
}

/* Some of them, which `need` says in full. r->outcome says whether they are claimed. */
static int claim_pieces(struct hypervisor *h, struct entry *e, const struct component *components,
                        const struct need *need, const struct arrival *arrivals, size_t n, struct err *err)
{
        struct request *r = &e->r;
        struct placement p = {0};
        char text[NEED_TEXT], why[REQUEST_SENTENCE];
        int done = place_need(h->ledger, components, h->n_components, need, hypervisor_default_share(h),
                              unit_of(h, e, need), r->start_ms, r->end_ms, &p, err);
        if (done < 0)
                return done;
        if (done == 0 || p.n != n) { /* a DIMM is of one node */
                (void)snprintf(why, sizeof(why), "its VM comes with %s, and that is not free on this host%s",
                               need_print(need, text), done ? " in one piece" : "");
                refuse(r, OUTCOME_NOT_NOW, REASON_NO_CAPACITY, why);
                return 0;
        }
        return claim_or_refuse(h, e, need, &p, CLAIM_ALLOCATED, arrivals, err);
}

/* One need of which the vCPUs or DIMMs are known: vCPUs together, as they lie on different CPUs; DIMMs one by
 * one, each behind the claim of the last. */
static int claim_carried(struct hypervisor *h, struct entry *e, const struct component *components, size_t i,
                         const struct ask *ask, struct err *err)
{
        struct request *r = &e->r;
        struct need need = without_places(&r->needs[i]);
        struct arrival of_kind[SHAPE_SLOTS_MAX];
        size_t n = 0;
        int bad = 0;
        bool is_cpu = need.kind == COMPONENT_CPU;
        for (size_t k = 0; k < ask->n_arrivals && n < SHAPE_SLOTS_MAX; k++) {
                if ((ask->arrivals[k].kind == VIRTUAL_VCPU) != is_cpu)
                        continue;
                size_t at = n++; /* the largest first, as it has the fewest places */
                for (; at > 0 && of_kind[at - 1].bytes < ask->arrivals[k].bytes; at--)
                        of_kind[at] = of_kind[at - 1];
                of_kind[at] = ask->arrivals[k];
        }
        if (n == 0) {
                refuse(r, OUTCOME_NEVER, REASON_INVALID, "it comes with nothing of what was granted");
                return 0;
        }
        r->met[i] = need.amount = need.amount_max = (int64_t)n;
        if (is_cpu)
                return claim_pieces(h, e, components, &need, of_kind, n, err);
        int64_t room, unused, unit = unit_of(h, e, &need);
        room_of(e, COMPONENT_MEMORY, &unused, &room);
        r->met[i] = 0;
        for (size_t k = 0; k < n && !bad && r->outcome == OUTCOME_GRANTED; k++) {
                need.amount = need.amount_max = of_kind[k].bytes;
                if (need.amount <= 0 || need.amount % unit != 0 || need.amount > room - r->met[i]) {
                        refuse(r, OUTCOME_NEVER, REASON_INCOMPATIBLE,
                               "its VM comes with memory that its definition does not let it have");
                        return 0;
                }
                bad = claim_pieces(h, e, components, &need, &of_kind[k], 1, err);
                r->met[i] += of_kind[k].bytes;
        }
        if (r->outcome != OUTCOME_GRANTED)
                r->met[i] = 0;
        return bad;
}

/* A lease that comes with its VM: all of it, in the slots in which its guest has it. */
static int decide_arriving(struct hypervisor *h, struct entry *e, const struct component *components,
                           bool is_lasting, const struct ask *ask, struct err *err)
{
        struct request *r = &e->r;
        char needs[REQUEST_SENTENCE - 16];
        r->outcome = OUTCOME_GRANTED;
        for (size_t i = 0; i < r->n_needs && r->outcome == OUTCOME_GRANTED; i++) {
                struct trial t;
                int bad;
                if (is_carried(r->needs[i].kind)) {
                        bad = claim_carried(h, e, components, i, ask, err);
                } else {
                        try_need(h, e, &r->needs[i], components, is_lasting, &t);
                        if (t.worst != OUTCOME_GRANTED) {
                                refuse(r, t.worst, t.reason, t.why);
                                return 0;
                        }
                        r->met[i] = t.placement.amount_met;
                        bad = claim_or_refuse(h, e, &r->needs[i], &t.placement, CLAIM_ALLOCATED, NULL, err);
                }
                if (bad < 0)
                        return bad;
        }
        if (r->outcome != OUTCOME_GRANTED)
                return 0;
        say_needs(r, needs, sizeof(needs));
        (void)snprintf(r->sentence, sizeof(r->sentence), "granted %s", needs);
        return 0;
}

/* All needs are tried first; only then is anything claimed. */
static int decide_by_kind(struct hypervisor *h, struct entry *e, const struct ask *ask, int64_t now_ms,
                          struct err *err)
{
        struct request *r = &e->r;
        if (r->kind == REQUEST_VM) {
                int done = decide_vm(h, e, err);
                if (done == 0 && r->outcome == OUTCOME_GRANTED) {
                        char needs[REQUEST_SENTENCE - 16];
                        say_needs(r, needs, sizeof(needs));
                        (void)snprintf(r->sentence, sizeof(r->sentence), "granted %s", needs);
                }
                return done;
        }
        struct trial trials[NEEDS_MAX];
        const struct trial *worst = NULL;
        bool something = true, is_served = !e->vm;
        for (size_t i = 0; i < r->n_needs; i++)
                is_served = is_served || !component_is_of_class(r->needs[i].kind);
        struct scope scope = scope_of(h, e);
        if (!is_served && has_classes(h)) { /* else it is unsupported, as below */
                refuse(r, OUTCOME_NEVER, REASON_INVALID,
                       "cache and membw serve other resources: ask for them together with cpu or memory");
                return 0;
        }
        if (scope.is_split) {
                refuse(r, scope.is_split_base ? OUTCOME_NEVER : OUTCOME_NOT_NOW, REASON_INCOMPATIBLE,
                       "the CPUs of this VM are below more than one L3 cache, and a class of service is of "
                       "one");
                return 0;
        }
        struct component *components = components_in(h, e, &scope);
        if (!components)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for the components");
        if (ask->n_arrivals) {
                int done = decide_arriving(h, e, components, scope.is_own, ask, err);
                free(components);
                return done;
        }
        for (size_t i = 0; i < r->n_needs; i++) {
                struct trial *t = &trials[i];
                try_need(h, e, &r->needs[i], components, scope.is_own, t);
                if (t->placement.amount_met == 0)
                        something = false;
                if (t->worst != OUTCOME_GRANTED && (!worst || t->worst > worst->worst))
                        worst = t;
        }
        free(components);
        if (worst && !(r->accepts_less && something)) {
                refuse(r, worst->worst, worst->reason, worst->why);
                return 0;
        }
        r->outcome = worst ? OUTCOME_COUNTER_OFFERED : OUTCOME_GRANTED;
        r->state = worst ? REQUEST_OFFERED : REQUEST_ACTIVATING;
        if (worst) {
                r->reason = worst->reason;
                r->offer_end_ms = now_ms + h->config.offer_ms;
                if (r->offer_end_ms > r->end_ms)
                        r->offer_end_ms = r->end_ms; /* what it offers is held no longer than that */
        }
        enum claim_state state = worst                            ? CLAIM_HELD
                                 : r->kind == REQUEST_RESERVATION ? CLAIM_RESERVED
                                                                  : CLAIM_ALLOCATED;
        for (size_t i = 0; i < r->n_needs; i++) {
                r->met[i] = trials[i].placement.amount_met;
                int bad = claim_or_refuse(h, e, &r->needs[i], &trials[i].placement, state, NULL, err);
                if (bad < 0 || r->outcome == OUTCOME_NOT_NOW)
                        return bad;
        }
        char needs[REQUEST_SENTENCE / 2];
        say_needs(r, needs, sizeof(needs));
        if (worst)
                (void)snprintf(r->sentence, sizeof(r->sentence), "offered %s instead: %.*s", needs,
                               (int)(sizeof(r->sentence) - sizeof(needs) - 24), worst->why);
        else
                (void)snprintf(r->sentence, sizeof(r->sentence), "granted %s", needs);
        return 0;
}

int decide(struct hypervisor *h, struct entry *e, const struct ask *ask, int64_t now_ms, struct err *err)
{
        bring_begin(h, e);
        int done = decide_by_kind(h, e, ask, now_ms, err);
        bring_end(h, e);
        return done;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* core/bring.c - a VM that brings its memory with it: a handover's target.
 *
 * Until the memory is assigned to this hypervisor, what the VM claims of it is no part of what there is to
 * give away. So the ledger of each memory component has what is owned, and on top of that exactly what such
 * VMs have claimed: a claim of theirs raises it, its return lowers it. Nothing of it is ever free for anybody
 * else, and a VM that brings memory gets none but that, in the components in which it lies. `brings` is the
 * most that it can claim of each, `brought` what it has. */
#include "core/hypervisor-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

static int64_t brought_of(const struct hypervisor *h, size_t component)
{
        int64_t sum = 0;
        for (const struct vm_entry *v = h->vms; v; v = v->next)
                sum += v->brings ? v->brought[component] : 0;
        return sum;
}

int64_t bring_owned(const struct hypervisor *h, uint32_t component)
{
        return component_owned(&h->components[component]) + brought_of(h, component);
}

static void settle(struct hypervisor *h)
{
        for (uint32_t i = 0; i < h->n_components; i++)
                if (h->components[i].kind == COMPONENT_MEMORY)
                        ledger_set_owned(h->ledger, i, bring_owned(h, i));
}

/* As much is free of each as it may still claim there. */
void bring_begin(struct hypervisor *h, const struct entry *e)
{
        const struct vm_entry *v = e->vm;
        for (uint32_t i = 0; v && v->brings && i < h->n_components; i++) {
                if (h->components[i].kind != COMPONENT_MEMORY)
                        continue;
                ledger_set_owned(h->ledger, i, UNITS_MAX);
                int64_t claimed = UNITS_MAX - ledger_free_over(h->ledger, i, e->r.start_ms, LEDGER_OPEN);
                ledger_set_owned(h->ledger, i, claimed + v->brings[i] - v->brought[i]);
        }
}

void bring_end(struct hypervisor *h, const struct entry *e)
{
        if (e->vm && e->vm->brings)
                settle(h);
}

/* Without an end: what lies behind it is not there for others, either, before the memory is ours. */
void bring_claims(const struct hypervisor *h, const struct entry *e, struct claim *c)
{
        if (!e->vm || !e->vm->brings || h->components[c->component].kind != COMPONENT_MEMORY)
                return;
        c->end_ms = LEDGER_OPEN;
        e->vm->brought[c->component] += c->amount;
}

void bring_returns(struct hypervisor *h, const struct entry *e, const struct definition *d)
{
        if (!e->vm || !e->vm->brings || h->components[d->component].kind != COMPONENT_MEMORY)
                return;
        e->vm->brought[d->component] -= d->amount;
        ledger_set_owned(h->ledger, d->component, bring_owned(h, d->component));
}

void bring_free(struct vm_entry *v)
{
        free(v->brings);
        v->brings = v->brought = NULL;
}

static void each_claim(struct hypervisor *h, const struct vm_entry *v,
                       void (*fn)(struct hypervisor *h, const struct request *r, const struct definition *d))
{
        for (const struct entry *e = v->newest; e; e = e->vm_older)
                for (size_t i = 0; i < e->r.n_definitions; i++)
                        if (e->r.definitions[i].claim &&
                            h->components[e->r.definitions[i].component].kind == COMPONENT_MEMORY)
                                fn(h, &e->r, &e->r.definitions[i]);
}

static void count(struct hypervisor *h, const struct request *r, const struct definition *d)
{
        find_vm(h, r->vm)->brought[d->component] += d->amount;
}

static void set_no_end(struct hypervisor *h, const struct request *r, const struct definition *d)
{
        (void)r;
        int64_t owned = ledger_owned(h->ledger, d->component);
        ledger_set_owned(h->ledger, d->component, UNITS_MAX);
        (void)ledger_set_end(h->ledger, d->claim, LEDGER_OPEN);
        ledger_set_owned(h->ledger, d->component, owned);
}

/* Of one that is on its way back the end stays open. */
static void set_end(struct hypervisor *h, const struct request *r, const struct definition *d)
{
        if (r->state != REQUEST_RELEASING)
                (void)ledger_set_end(h->ledger, d->claim, r->end_ms);
}

int hypervisor_vm_brings(struct hypervisor *h, const char *name, const int64_t *amounts, struct err *err)
{
        struct vm_entry *v = find_vm(h, name);
        if (!v)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no VM is called %s", name);
        int64_t *brings = calloc(2 * h->n_components + 2, sizeof(*brings));
        if (!brings)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for what a VM brings");
        int64_t *had = v->brings;
        for (size_t i = 0; i < h->n_components; i++)
                brings[i] = h->components[i].kind == COMPONENT_MEMORY ? amounts[i] : 0;
        v->brings = brings;
        v->brought = brings + h->n_components;
        each_claim(h, v, count);
        for (size_t i = 0; i < h->n_components; i++) {
                if (v->brought[i] <= v->brings[i])
                        continue;
                v->brings = had;
                v->brought = had ? had + h->n_components : NULL;
                free(brings);
                return err_set(err, REASON_INCOMPATIBLE, EXDEV, "%s has more of %s here than it brings", name,
                               h->components[i].id);
        }
        free(had);
        each_claim(h, v, set_no_end);
        settle(h);
        return 0;
}

bool hypervisor_vm_is_bringing(const struct hypervisor *h, const char *name)
{
        const struct vm_entry *v = find_vm(h, name);
        return v && v->brings;
}

void hypervisor_vm_brought(struct hypervisor *h, const char *name)
{
        struct vm_entry *v = find_vm(h, name);
        if (!v || !v->brings)
                return;
        each_claim(h, v, set_end);
        bring_free(v);
        settle(h);
}

/* What it has of it is counted, and the ledger has that on top. */
bool bring_is_sound(const struct hypervisor *h)
{
        for (const struct vm_entry *v = h->vms; v; v = v->next) {
                for (size_t i = 0; v->brings && i < h->n_components; i++) {
                        int64_t sum = 0;
                        for (const struct entry *e = v->newest; e; e = e->vm_older)
                                for (size_t k = 0; k < e->r.n_definitions; k++)
                                        if (e->r.definitions[k].claim && e->r.definitions[k].component == i)
                                                sum += e->r.definitions[k].amount;
                        bool is_memory = h->components[i].kind == COMPONENT_MEMORY;
                        if (v->brought[i] != (is_memory ? sum : 0) || v->brought[i] > v->brings[i])
                                return false;
                }
        }
        for (uint32_t i = 0; i < h->n_components; i++)
                if (h->components[i].kind == COMPONENT_MEMORY &&
                    ledger_owned(h->ledger, i) != bring_owned(h, i))
                        return false;
        return true;
}

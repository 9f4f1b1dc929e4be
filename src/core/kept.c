/* SPDX-License-Identifier: Apache-2.0 */
/* core/kept.c - lazy keeping: a stopped VM's host resources stay bound, inactive, while nobody needs them.
 *
 * What is kept is the request of the VM's last run, under a key of its own (kept:NAME), with its definitions
 * and without claims. So the ledger gives away what it has as free (3.23); whoever is granted it waits with
 * the first step of its activation until what is bound there and does not fit beside what is claimed has been
 * taken back (3.22): of each component
 *
 *     claimed + kept + being reclaimed <= owned,  or nothing of the latter two
 *
 * holds when an activation begins. That which was kept first is reclaimed first. The same VM's next run takes
 * its set over as it is, where the very same claims are still to be had (3.21); else the set is reclaimed and
 * the run is placed anew.
 *
 * What is being reclaimed and is held has claims again, until it is back.
 *
 * A VM has one set at most: its next run begins with taking the last one over, or waits for its end. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

static void key_of(const char *vm, char ret[REQUEST_KEY])
{
        (void)snprintf(ret, REQUEST_KEY, "kept:%s", vm);
}

struct entry *kept_of(const struct hypervisor *h, const char *vm)
{
        char key[REQUEST_KEY];
        key_of(vm, key);
        return find_key(h, key);
}

static void list_add(struct hypervisor *h, struct entry *k)
{
        struct entry **p = &h->kept_first;
        while (*p && (*p)->r.start_ms <= k->r.start_ms)
                p = &(*p)->kept_next;
        k->kept_next = *p;
        *p = k;
}

static void list_remove(struct hypervisor *h, struct entry *k)
{
        struct entry **p = &h->kept_first;
        while (*p != k)
                p = &(*p)->kept_next;
        *p = k->kept_next;
}

/* ---- kept ---- */

/* The configuration or the machine may be another one than when it began to be kept. */
const char *kept_problem(const struct hypervisor *h, const struct request *r)
{
        if (!h->config.keeps)
                return "nothing is kept any more, by configuration";
        for (size_t i = 0; i < r->n_definitions; i++)
                if (!h->components[r->definitions[i].component].healthy)
                        return "the host no longer has all of it";
        return NULL;
}

bool kept_begin(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct request *r = &e->r;
        if (!r->activation.is_lazy || r->n_definitions == 0)
                return false;
        bool is_bound = false;
        for (size_t i = 0; i < r->n_definitions; i++)
                is_bound = is_bound || r->definitions[i].host_active;
        if (!is_bound)
                return false;
        int moved_on = request_step(r, REQUEST_EV_KEPT, NULL);
        assert(moved_on == 1);
        struct entry *before = kept_of(h, r->vm);
        if (before) /* it was reclaimed: its row makes way */
                entry_forget(h, before, now_ms);
        char key[REQUEST_KEY];
        key_of(r->vm, key);
        walk_forget(h, e);
        claims_release(h, e);
        entry_rename(h, e, key);
        h->returning -= e->is_returning;
        e->is_returning = false;
        h->live--;
        r->start_ms = now_ms;
        list_add(h, e);
        moved(h, r, now_ms, "kept", "what it had stays bound while nobody needs it");
        effect_push(h, EFFECT_ENDED, r, now_ms);
        return true;
}

void kept_restore(struct hypervisor *h, struct entry *k)
{
        for (size_t i = 0; i < k->r.n_definitions; i++)
                k->r.definitions[i].claim = 0;
        list_add(h, k);
}

const struct request *hypervisor_kept(const struct hypervisor *h, const char *name)
{
        const struct entry *k = kept_of(h, name);
        return k && !request_is_final(&k->r) ? &k->r : NULL;
}

/* ---- taken over ---- */

/* What the VM asks for now is what it had then, on components that are still good. */
static bool is_same(const struct hypervisor *h, const struct request *r, const struct request *kept)
{
        int64_t share_milli = hypervisor_default_share(h);
        if (r->n_needs != kept->n_needs)
                return false;
        for (size_t i = 0; i < r->n_needs; i++) {
                char a[NEED_TEXT], b[NEED_TEXT];
                if (strcmp(need_print(&r->needs[i], a), need_print(&kept->needs[i], b)) != 0)
                        return false;
                const struct parameter *share = need_parameter(&r->needs[i], PARAMETER_SHARE);
                if (share)
                        share_milli = share->value;
        }
        for (size_t i = 0; i < kept->n_definitions; i++) {
                const struct definition *d = &kept->definitions[i];
                if (!h->components[d->component].healthy ||
                    (d->kind == VIRTUAL_VCPU && d->amount != share_milli))
                        return false;
        }
        return true;
}

/* The very same claims, or none. */
static bool claim_same(struct hypervisor *h, struct entry *e, const struct request *kept)
{
        struct request *r = &e->r;
        r->definitions = calloc(kept->n_definitions, sizeof(*r->definitions));
        bool good = r->definitions != NULL;
        for (size_t i = 0; good && i < kept->n_definitions; i++) {
                struct definition d = kept->definitions[i];
                const struct claim c = {
                        .component = d.component,
                        .state = CLAIM_ALLOCATED,
                        .amount = d.amount,
                        .holder = r->serial,
                        .start_ms = r->start_ms,
                        .end_ms = r->end_ms,
                };
                d.kept = d.host_active;
                good = ledger_claim(h->ledger, &c, &d.claim) == 1;
                if (good)
                        r->definitions[r->n_definitions++] = d;
        }
        if (!good) {
                for (size_t i = 0; i < r->n_definitions; i++)
                        (void)ledger_release(h->ledger, r->definitions[i].claim);
                free(r->definitions);
                r->definitions = NULL;
                r->n_definitions = 0;
        }
        return good;
}

bool kept_take_over(struct hypervisor *h, struct entry *e, int64_t now_ms)
{
        struct request *r = &e->r;
        struct entry *k = kept_of(h, r->vm);
        if (!k || k->r.state != REQUEST_KEPT || !is_same(h, r, &k->r) || !claim_same(h, e, &k->r))
                return false;
        for (size_t i = 0; i < r->n_definitions; i++)
                if (r->definitions[i].kind == VIRTUAL_VCPU)
                        e->vm->cpu_slots |= UINT64_C(1) << r->definitions[i].slot;
                else if (r->definitions[i].kind == VIRTUAL_NIC)
                        e->vm->nic_slots |= UINT64_C(1) << r->definitions[i].slot;
                else if (r->definitions[i].kind == VIRTUAL_DISK)
                        e->vm->disk_slots |= UINT64_C(1) << r->definitions[i].slot;
        memcpy(r->met, k->r.met, sizeof(r->met));
        r->outcome = OUTCOME_GRANTED;
        (void)snprintf(r->sentence, sizeof(r->sentence), "%.160s, as kept", k->r.sentence);
        char *again = strstr(r->sentence, ", as kept"); /* kept more than once: said once */
        again[strlen(", as kept")] = '\0';
        char text[64];
        (void)snprintf(text, sizeof(text), "by its next run, after %lld ms",
                       (long long)(now_ms - k->r.start_ms));
        hypervisor_note(h, now_ms, r->vm, k->r.key, "taken-over", "%s", text);
        effect_push(h, EFFECT_FORGET, &k->r, now_ms);
        list_remove(h, k);
        entry_unchain(h, k);
        entry_free(k);
        return true;
}

/* ---- reclaimed ---- */

void kept_reclaim(struct hypervisor *h, struct entry *k, const char *why, int64_t now_ms)
{
        struct request *r = &k->r;
        if (request_step(r, REQUEST_EV_RECLAIM, NULL) != 1)
                return;
        activation_reclaim(&r->activation, r->definitions, r->n_definitions);
        moved(h, r, now_ms, "reclaiming", why);
        walk_start(h, k, now_ms);
}

void kept_came_back(struct hypervisor *h, struct entry *k, int64_t now_ms)
{
        struct request *r = &k->r;
        int moved_on = request_step(r, REQUEST_EV_TAKEN_BACK, NULL);
        assert(moved_on == 1);
        list_remove(h, k);
        for (size_t i = 0; i < r->n_definitions; i++)
                (void)ledger_release(h->ledger, r->definitions[i].claim);
        free(r->definitions);
        r->definitions = NULL;
        r->n_definitions = 0;
        moved(h, r, now_ms, "reclaimed", "everything is back");
        effect_push(h, EFFECT_ENDED, r, now_ms);
        entry_finished(h, k, now_ms);
        walks_go_on(h, now_ms);
}

/* Whatever else counts on it. Where there is no memory for a claim: at the next try. */
void kept_is_held(struct hypervisor *h, struct entry *k)
{
        for (size_t i = 0; i < k->r.n_definitions; i++) {
                struct definition *d = &k->r.definitions[i];
                if (d->way == WAY_HELD && !d->claim) {
                        const struct claim c = {
                                .component = d->component,
                                .state = CLAIM_ALLOCATED,
                                .amount = d->amount,
                                .holder = k->r.serial,
                                .start_ms = k->r.start_ms,
                                .end_ms = LEDGER_OPEN,
                        };
                        int64_t owned = ledger_owned(h->ledger, c.component);
                        ledger_set_owned(h->ledger, c.component, UNITS_MAX);
                        (void)ledger_claim(h->ledger, &c, &d->claim);
                        ledger_set_owned(h->ledger, c.component, owned);
                } else if (d->way != WAY_HELD && d->claim) {
                        (void)ledger_release(h->ledger, d->claim);
                        d->claim = 0;
                }
        }
}

void kept_hurry(struct hypervisor *h, int64_t now_ms)
{
        for (struct entry *k = h->kept_first; k; k = k->kept_next)
                walk_hurry(h, k, now_ms);
}

static bool is_coming(const struct entry *k)
{
        return k->r.state == REQUEST_RECLAIMING && !k->retry_at_ms;
}

/* And how much of that is claimed, as it is held. */
static int64_t bound(const struct entry *k, uint32_t component, int64_t *claimed)
{
        int64_t amount = 0;
        for (size_t i = 0; i < k->r.n_definitions; i++) {
                const struct definition *d = &k->r.definitions[i];
                if (d->component != component || !d->host_active)
                        continue;
                amount += d->amount;
                *claimed += d->claim ? d->amount : 0;
        }
        return amount;
}

/* true: what is bound of it leaves room for what is claimed. */
bool kept_leaves_room(struct hypervisor *h, uint32_t component, const char *why, int64_t now_ms)
{
        int64_t all = 0, coming = 0, held = 0;
        for (const struct entry *k = h->kept_first; k; k = k->kept_next) {
                int64_t amount = bound(k, component, &held);
                all += amount;
                coming += is_coming(k) ? amount : 0;
        }
        int64_t claimed = ledger_claimed(h->ledger, component) - held;
        int64_t over = claimed + all - ledger_owned(h->ledger, component);
        if (all == 0 || over <= 0)
                return true;
        over -= coming;
        for (struct entry *k = h->kept_first; k && over > 0; k = k->kept_next) {
                int64_t amount = k->r.state == REQUEST_KEPT ? bound(k, component, &held) : 0;
                if (amount > 0)
                        kept_reclaim(h, k, why, now_ms);
                over -= amount;
        }
        return false;
}

bool kept_makes_room(struct hypervisor *h, const struct entry *e, int64_t now_ms)
{
        const struct request *r = &e->r;
        bool has_room = true;
        if (!h->kept_first)
                return true;
        struct entry *own = r->kind == REQUEST_VM ? kept_of(h, r->vm) : NULL;
        if (own && !request_is_final(&own->r)) {
                kept_reclaim(h, own, "its next run is placed anew", now_ms);
                has_room = false;
        }
        char why[REQUEST_SENTENCE];
        (void)snprintf(why, sizeof(why), "%.140s needs what it keeps", r->key);
        for (size_t i = 0; i < r->n_definitions; i++)
                if (!kept_leaves_room(h, r->definitions[i].component, why, now_ms))
                        has_room = false;
        return has_room;
}

static bool has_kind(const struct hypervisor *h, const struct entry *k, enum component_kind kind)
{
        for (size_t i = 0; i < k->r.n_definitions; i++)
                if (k->r.definitions[i].host_active &&
                    h->components[k->r.definitions[i].component].kind == kind)
                        return true;
        return false;
}

/* Of any component of that kind: RAM files of all nodes share a file system. One set at a time. */
bool kept_makes_more_room(struct hypervisor *h, enum component_kind kind, int64_t now_ms)
{
        struct entry *first = NULL;
        bool some_held = false;
        for (struct entry *k = h->kept_first; k; k = k->kept_next) {
                if (!has_kind(h, k, kind))
                        continue;
                if (is_coming(k))
                        return true;
                some_held = some_held || k->r.state == REQUEST_RECLAIMING;
                if (!first && k->r.state == REQUEST_KEPT)
                        first = k;
        }
        if (first)
                kept_reclaim(h, first, "the host has less room than it seemed", now_ms);
        return first || some_held;
}

int hypervisor_vm_reclaim(struct hypervisor *h, const char *name, const char *why, int64_t now_ms,
                          uint64_t *ret_serial)
{
        struct entry *k = kept_of(h, name);
        if (!k || request_is_final(&k->r))
                return 0;
        *ret_serial = k->r.serial;
        kept_reclaim(h, k, why, now_ms);
        walk_hurry(h, k, now_ms);
        return 1;
}

void hypervisor_kept_lost(struct hypervisor *h, const char *why, int64_t now_ms)
{
        for (struct entry *k = h->kept_first; k; k = k->kept_next)
                kept_reclaim(h, k, why, now_ms);
        for (struct entry *e = h->oldest; e; e = e->newer) /* and what is about to be kept */
                if (e->r.state == REQUEST_RELEASING && e->r.activation.is_lazy)
                        walk_not_lazily(h, e, why, now_ms);
}

void kept_check(struct hypervisor *h, int64_t now_ms)
{
        for (struct entry *k = h->kept_first; k; k = k->kept_next) {
                const char *problem = kept_problem(h, &k->r);
                if (problem)
                        kept_reclaim(h, k, problem, now_ms);
        }
}

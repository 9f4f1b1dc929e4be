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
 * A VM has one set at most: its next run begins with taking the last one over, or waits for its end. */
#include "core/hypervisor-internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        free(r->definitions);
        r->definitions = NULL;
        r->n_definitions = 0;
        moved(h, r, now_ms, "reclaimed", "everything is back");
        effect_push(h, EFFECT_ENDED, r, now_ms);
        entry_finished(h, k, now_ms);
        walks_go_on(h, now_ms);
}

static int64_t bound(const struct entry *k, uint32_t component)
{
        int64_t amount = 0;
        for (size_t i = 0; i < k->r.n_definitions; i++)
                if (k->r.definitions[i].component == component && k->r.definitions[i].host_active)
                        amount += k->r.definitions[i].amount;
        return amount;
}

/* true: what is bound of it leaves room for what is claimed. */
static bool component_has_room(struct hypervisor *h, uint32_t component, const char *why, int64_t now_ms)
{
        int64_t all = 0, coming = 0;
        for (const struct entry *k = h->kept_first; k; k = k->kept_next) {
                int64_t amount = bound(k, component);
                all += amount;
                coming += k->r.state == REQUEST_RECLAIMING ? amount : 0;
        }
        int64_t over = ledger_claimed(h->ledger, component) + all - ledger_owned(h->ledger, component);
        if (all == 0 || over <= 0)
                return true;
        over -= coming;
        for (struct entry *k = h->kept_first; k && over > 0; k = k->kept_next) {
                int64_t amount = k->r.state == REQUEST_KEPT ? bound(k, component) : 0;
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
                if (!component_has_room(h, r->definitions[i].component, why, now_ms))
                        has_room = false;
        return has_room;
}

uint64_t kept_make_more_room(struct hypervisor *h, int64_t now_ms)
{
        struct entry *k = h->kept_first;
        for (struct entry *other = k; other; other = other->kept_next)
                if (other->r.state == REQUEST_RECLAIMING)
                        k = other;
        if (k)
                kept_reclaim(h, k, "the host has less room than it seemed", now_ms);
        return k ? k->r.serial : 0;
}

int hypervisor_vm_reclaim(struct hypervisor *h, const char *name, const char *why, int64_t now_ms,
                          uint64_t *ret_serial)
{
        struct entry *k = kept_of(h, name);
        if (!k || request_is_final(&k->r))
                return 0;
        *ret_serial = k->r.serial;
        kept_reclaim(h, k, why, now_ms);
        return 1;
}

void hypervisor_kept_lost(struct hypervisor *h, const char *why, int64_t now_ms)
{
        for (struct entry *k = h->kept_first; k; k = k->kept_next)
                kept_reclaim(h, k, why, now_ms);
}

/* The configuration or the machine may be another one since it was kept. */
void kept_check(struct hypervisor *h, int64_t now_ms)
{
        for (struct entry *k = h->kept_first; k; k = k->kept_next) {
                bool is_healthy = true;
                for (size_t i = 0; i < k->r.n_definitions; i++)
                        is_healthy = is_healthy && h->components[k->r.definitions[i].component].healthy;
                if (!h->config.keeps)
                        kept_reclaim(h, k, "nothing is kept any more, by configuration", now_ms);
                else if (!is_healthy)
                        kept_reclaim(h, k, "the host no longer has all of it", now_ms);
        }
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Each VM was tried alone, and found room. Whether all of them do, and in which order, is said by what they
 * have at the old one, which is asked of it before the first goes, as there is no way back then:
 *
 *   CPUs    are shared, and follow when no VM has anything of them any more: is there an order
 *           (core/vacate.h)?
 *   memory  goes with the VMs, and some has to stay, as a hypervisor without any is none. What lies where the
 *           old one keeps it needs room there elsewhere first, and takes that along
 *
 * By sums: all CPUs of the successor count as free, also what a VM that somebody made there has of them, and
 * of the old one's the first VACATE_CPUS_MAX. What the old one says is believed: one that lies only spoils
 * its own upgrade. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "core/vacate.h"
#include "json/read.h"
#include "sp/upgrade.h"

enum { ASK_MS = 5000, AGAIN_MS = 1000, PAGE = 256, PAGES_MAX = 256, CLAIMS_MAX = 65536 };
static const int64_t amount_max = INT64_C(1) << 50;
#define MIB (INT64_C(1) << 20)

struct upgrading_room {
        bool is_known, is_whole; /* is_whole: all claims are in it */
        unsigned pages;
        size_t n, n_cpus;
        struct vacate_claim *claims;
        uint32_t *cpu_of; /* by component: its number among those of the old one; UINT32_MAX: none */
        int64_t memory_bytes, astray_bytes; /* of VMs; of it, where the old one keeps it */
        int64_t unkept_bytes;               /* free where it does not */
        uint32_t rank[VACATE_VMS_MAX];      /* once it is known that all have room */
        char why[HANDOVER_SENTENCE];        /* "": all have room */
};

void upgrading_forget_room(struct upgrading *up)
{
        if (up->room) {
                g_free(up->room->cpu_of);
                g_free(up->room->claims);
        }
        g_free(up->room);
        up->room = NULL;
}

static void add(struct upgrading_room *r, uint32_t vm, uint32_t cpu, int64_t milli)
{
        r->is_whole = r->is_whole && r->n < CLAIMS_MAX;
        if (!r->is_whole)
                return;
        if (r->n % PAGE == 0)
                r->claims = g_renew(struct vacate_claim, r->claims, r->n + PAGE);
        r->claims[r->n++] = (struct vacate_claim){vm, cpu, milli};
}

static struct upgrading_room *begin(const struct upgrading *up)
{
        const struct server *s = &up->sp->server;
        struct upgrading_room *r = g_new0(struct upgrading_room, 1);
        r->is_whole = true;
        r->cpu_of = g_new(uint32_t, s->n_components + 1);
        for (uint32_t i = 0; i < s->n_components; i++) {
                const struct server_share *own = server_share(s, i, up->from);
                bool is_one = s->components[i].kind == COMPONENT_CPU && own->amount > 0 &&
                              r->n_cpus < VACATE_CPUS_MAX;
                r->cpu_of[i] = is_one ? (uint32_t)r->n_cpus++ : UINT32_MAX;
                if (is_one && own->is_kept)
                        add(r, VACATE_STAYS, r->cpu_of[i], 0);
                if (s->components[i].kind == COMPONENT_MEMORY && !own->is_kept)
                        r->unkept_bytes += own->amount;
        }
        return r;
}

/* vm:NAME, or vm:NAME/REQUEST. */
static uint32_t vm_of(const struct upgrade *u, const char *holder)
{
        if (strncmp(holder, "vm:", 3) != 0)
                return VACATE_STAYS;
        size_t n = strcspn(holder + 3, "/");
        for (uint32_t i = 0; i < u->n; i++)
                if (strlen(u->vms[i].name) == n && strncmp(u->vms[i].name, holder + 3, n) == 0)
                        return i;
        return VACATE_STAYS;
}

/* All of it travels with the VM, also what is of a time to come (meted/handover-source.c). An offer may come
 * to nothing. */
static void take_memory(struct upgrading_room *r, uint32_t vm, bool is_kept, bool is_held, int64_t amount)
{
        if (vm != VACATE_STAYS)
                r->memory_bytes = MIN(r->memory_bytes + amount, amount_max);
        if (vm != VACATE_STAYS && is_kept)
                r->astray_bytes = MIN(r->astray_bytes + amount, amount_max);
        if (!is_kept && !is_held)
                r->unkept_bytes = MAX(r->unkept_bytes - amount, 0);
}

static void take_claim(struct upgrading *up, const json_t *claim)
{
        struct upgrading_room *r = up->room;
        const struct server *s = &up->sp->server;
        const char *component = json_string_value(json_object_get(claim, "component")),
                   *holder = json_string_value(json_object_get(claim, "holder")),
                   *state = json_string_value(json_object_get(claim, "state"));
        int64_t at = component ? server_component(s, component) : -1,
                amount = json_integer_value(json_object_get(claim, "amount")),
                start_ms = json_integer_value(json_object_get(claim, "start_ms"));
        if (at < 0 || !holder || !state || amount <= 0 || amount > amount_max)
                return;
        uint32_t vm = vm_of(&up->core, holder);
        bool is_held = strcmp(state, "held") == 0, is_now = start_ms <= loop_now_ms() && !is_held;
        if (s->components[at].kind == COMPONENT_MEMORY)
                take_memory(r, vm, server_share(s, (uint32_t)at, up->from)->is_kept, is_held, amount);
        if (s->components[at].kind == COMPONENT_CPU && r->cpu_of[at] != UINT32_MAX)
                add(r, vm, r->cpu_of[at], is_now ? MIN(amount, CPU_WHOLE_MILLI) : 0);
}

static int by_vm(const void *a, const void *b)
{
        const struct vacate_claim *x = a, *y = b;
        return x->vm < y->vm ? -1 : x->vm > y->vm;
}

static void decide(struct upgrading *up)
{
        struct upgrading_room *r = up->room;
        const struct server *s = &up->sp->server;
        const char *from = s->names[up->from], *to = s->names[up->to];
        if (r->n > 0)
                qsort(r->claims, r->n, sizeof(r->claims[0]), by_vm);
        size_t stuck = vacate_check(r->claims, r->n, up->core.n, r->n_cpus,
                                    server_sum(s, up->to, COMPONENT_CPU), r->rank);
        r->is_known = true;
        if (stuck != SIZE_MAX)
                (void)snprintf(r->why, sizeof(r->why),
                               "%.40s would find no room at %s: VMs share CPUs, and none of %s gets free "
                               "for it; give %s more (--cpus)",
                               up->core.vms[stuck].name, to, from, to);
        else if (server_sum(s, up->from, COMPONENT_MEMORY) - r->memory_bytes < MIB)
                (void)snprintf(r->why, sizeof(r->why),
                               "its VMs have all memory of %s, and the last would leave it without any: give "
                               "it some more before",
                               from);
        else if (r->astray_bytes > r->unkept_bytes)
                (void)snprintf(r->why, sizeof(r->why),
                               "%" PRId64 " MiB of its VMs lie where %.40s keeps them, and elsewhere it has "
                               "room for %" PRId64 ": give it some more before",
                               r->astray_bytes / MIB, from, r->unkept_bytes / MIB);
}

static void ask(struct upgrading *up, const char *after);

static void on_page(void *arg, const struct http_answer *got, const struct cert_id *peer,
                    const struct err *err)
{
        struct upgrading *up = arg;
        struct err bad = {0};
        char after[24] = "";
        size_t i;
        json_t *claim;
        (void)peer;
        up->call = NULL;
        json_t *v = err || got->status != 200 ? NULL : json_read(got->body, got->body_n, &bad);
        const char *next = json_string_value(json_object_get(v, "next"));
        bool is_good = json_is_array(json_object_get(v, "claims")) && up->room && up->room->pages < PAGES_MAX;
        if (is_good && next)
                is_good = strspn(next, "0123456789") == strlen(next) && STR_COPY(after, next);
        json_array_foreach(is_good ? json_object_get(v, "claims") : NULL, i, claim) take_claim(up, claim);
        json_decref(v);
        if (is_good && *after) {
                ask(up, after);
        } else if (is_good && up->room->is_whole) {
                decide(up);
                upgrading_wake(up->sp);
        } else {
                upgrading_forget_room(up);
                upgrading_waits(up, "%s does not say what its VMs have", up->sp->server.names[up->from]);
                loop_timer_in(&up->look, AGAIN_MS);
        }
}

static void ask(struct upgrading *up, const char *after)
{
        struct http_target target = hypervisor_target(&up->sp->hypervisors[up->from]);
        struct err err = {0};
        char path[64];
        (void)snprintf(path, sizeof(path), "/v1/ledger?limit=%d%s%s", PAGE, *after ? "&after=" : "", after);
        up->room->pages++;
        up->call = http_call(up->sp->calls, &target, "GET", path, NULL, 0, ASK_MS, on_page, up, &err);
}

/* What it is about is forgotten with the state. */
static void fail(struct upgrading *up)
{
        char why[HANDOVER_SENTENCE];
        (void)STR_COPY(why, up->room->why);
        (void)upgrading_turn(up, UPGRADE_EV_FAILED, REASON_NO_CAPACITY, why);
}

bool upgrading_has_room(struct upgrading *up)
{
        bool is_known = up->room && up->room->is_known;
        if (is_known && *up->room->why) {
                fail(up);
                return false;
        }
        if (!is_known && !up->call && up->sp->hypervisors[up->from].state == API_SERVER_STATE_RUNNING) {
                upgrading_forget_room(up);
                up->room = begin(up);
                ask(up, "");
        }
        return is_known;
}

void upgrading_order(struct upgrading *up)
{
        upgrade_set_order(&up->core, up->room->rank);
}

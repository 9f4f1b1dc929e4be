/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/health.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/units.h"

struct seen {
        bool is_gone;
        int64_t lost;
        uint32_t node; /* plus 1; 0: not known */
};

struct health {
        GArray *offline;   /* of struct store_offline: by operators */
        struct seen *seen; /* by the machine itself, of each component */
        struct loop_timer until;
};

#define FAULT_OVER "the injected fault is over"

static void on_until(void *arg);

static struct health *health_of(struct meted *m)
{
        if (!m->health) {
                m->health = g_new0(struct health, 1);
                m->health->offline = g_array_new(FALSE, FALSE, sizeof(struct store_offline));
                m->health->seen = g_new0(struct seen, m->inventory.n);
                loop_timer_init(&m->health->until, on_until, m);
        }
        return m->health;
}

void health_done(struct meted *m)
{
        if (!m->health)
                return;
        loop_timer_cancel(&m->health->until);
        g_array_free(m->health->offline, TRUE);
        g_free(m->health->seen);
        g_free(m->health);
        m->health = NULL;
}

static struct store_offline *row_of(const struct meted *m, const char *component)
{
        for (guint i = 0; m->health && i < m->health->offline->len; i++) {
                struct store_offline *o = &g_array_index(m->health->offline, struct store_offline, i);
                if (strcmp(o->component, component) == 0)
                        return o;
        }
        return NULL;
}

static void row_remove(struct meted *m, const struct store_offline *o)
{
        g_array_remove_index(m->health->offline,
                             (guint)(o - &g_array_index(m->health->offline, struct store_offline, 0)));
}

/* Whether classes of service are given away is the keeper's word; what is missing stays so. */
static bool has_health(const struct component *c)
{
        return c->capacity > 0 && !component_is_of_class(c->kind);
}

static struct host_change now_of(const struct meted *m, size_t i)
{
        const struct component *c = &m->inventory.components[i];
        const struct store_offline *o = row_of(m, c->id);
        const struct seen *seen = &m->health->seen[i];
        struct host_change now = {.component = (uint32_t)i,
                                  .healthy = !seen->is_gone && !(o && o->lost == 0)};
        now.lost = component_lost(c, seen->lost, o ? o->lost : 0);
        now.node = seen->node;
        return now;
}

/* ---- what has changed, or was not decided on ---- */

static void arm(struct meted *m)
{
        int64_t first = INT64_MAX, now = loop_now_ms();
        for (guint i = 0; i < m->health->offline->len; i++) {
                int64_t at = g_array_index(m->health->offline, struct store_offline, i).until_ms;
                first = at && at < first ? at : first;
        }
        loop_timer_cancel(&m->health->until);
        if (first < INT64_MAX)
                loop_timer_in(&m->health->until, first <= now            ? 0
                                                 : first - now < 3600000 ? first - now
                                                                         : 3600000);
}

void health_seen(struct meted *m, size_t component, bool is_gone, int64_t lost, uint32_t node)
{
        health_of(m)->seen[component] = (struct seen){is_gone, lost, node};
}

struct host_toll health_apply(struct meted *m, const char *cause)
{
        struct host_toll toll = {0};
        g_autoptr(GArray) changes = g_array_new(FALSE, FALSE, sizeof(struct host_change));
        for (size_t i = 0; i < m->inventory.n; i++) {
                struct component *c = &m->inventory.components[i];
                struct host_change now = now_of(m, i);
                if (!has_health(c) || (now.healthy == c->healthy && now.lost == c->lost))
                        continue;
                c->healthy = now.healthy;
                c->lost = now.lost;
                c->node = now.node ? now.node - 1 : c->node;
                g_array_append_val(changes, now);
        }
        if (changes->len) {
                toll = hypervisor_host_changed(m->hv, (const struct host_change *)(void *)changes->data,
                                               changes->len, cause, loop_now_ms());
                m->is_hhi_due = true; /* also where it was nobody's */
        }
        arm(m);
        meted_changed(m);
        return toll;
}

static int add_row(const struct store_offline *o, void *arg, struct err *err)
{
        (void)err;
        g_array_append_val((GArray *)arg, *o);
        return 0;
}

int health_load(struct meted *m, struct err *err)
{
        struct health *h = health_of(m);
        g_array_set_size(h->offline, 0);
        int bad = store_load_offline(m->store, add_row, h->offline, err);
        for (size_t i = 0; !bad && i < m->inventory.n; i++) {
                struct component *c = &m->inventory.components[i];
                struct host_change now = now_of(m, i);
                if (!has_health(c))
                        continue;
                c->healthy = now.healthy;
                c->lost = now.lost;
                c->node = now.node ? now.node - 1 : c->node;
        }
        arm(m);
        return bad;
}

void health_settle(struct meted *m)
{
        const struct ledger *l = hypervisor_ledger(m->hv);
        g_autoptr(GArray) changes = g_array_new(FALSE, FALSE, sizeof(struct host_change));
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                struct host_change now = {(uint32_t)i, c->healthy, c->lost, 0};
                int64_t claimed = ledger_claimed(l, (uint32_t)i);
                if (has_health(c) &&
                    ((!c->healthy && claimed > 0) || (c->lost > 0 && claimed > ledger_owned(l, (uint32_t)i))))
                        g_array_append_val(changes, now);
        }
        if (changes->len)
                (void)hypervisor_host_changed(m->hv, (const struct host_change *)(void *)changes->data,
                                              changes->len, "that was before meted started", loop_now_ms());
        meted_changed(m);
}

/* ---- operators ---- */

static ssize_t find(const struct meted *m, const char *id)
{
        for (size_t i = 0; i < m->inventory.n; i++)
                if (strcmp(m->inventory.components[i].id, id) == 0 && m->inventory.components[i].owned > 0)
                        return (ssize_t)i;
        return -1;
}

static bool is_last_cpu(const struct meted *m, size_t component)
{
        if (m->inventory.components[component].kind != COMPONENT_CPU)
                return false;
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *c = &m->inventory.components[i];
                if (i != component && c->kind == COMPONENT_CPU && c->healthy && c->owned > 0)
                        return false;
        }
        return true;
}

static int not_here(const char *component, struct err *err)
{
        return err_set(err, REASON_NOT_FOUND, ENOENT,
                       "this host gives away no component %s: 'mete host show' has their names", component);
}

static void say_changed(const struct meted *m, size_t component, const struct host_toll *toll,
                        struct api_component_changed *ret)
{
        const struct component *c = &m->inventory.components[component];
        *ret = (struct api_component_changed){
                .moves = toll->moved, .ends = toll->ended, .stuck = toll->stuck, .keeps = toll->stays};
        memcpy(ret->component, c->id, sizeof(ret->component));
        ret->has_state = health_text(m, component, ret->state, sizeof(ret->state), &ret->until_ms);
        ret->has_until_ms = ret->has_state && ret->until_ms > 0;
        for (size_t i = 0; i < m->inventory.n; i++) {
                const struct component *other = &m->inventory.components[i];
                ret->left += other->kind == c->kind && other->healthy && other->owned > 0;
        }
}

/* "by an operator, for 60 s" */
static void cause_of(const struct store_offline *o, int64_t for_ms, char *ret, size_t size)
{
        (void)snprintf(ret, size, "%s", o->is_injected ? "a fault was injected" : "by an operator");
        if (o->until_ms)
                (void)snprintf(ret + strlen(ret), size - strlen(ret), ", for %lld s",
                               (long long)((for_ms + 999) / 1000));
}

int health_offline(struct meted *m, const struct api_component_offline *p, struct api_component_changed *ret,
                   struct err *err)
{
        ssize_t i = find(m, p->component);
        if (i < 0)
                return not_here(p->component, err);
        const struct component *c = &m->inventory.components[i];
        if (component_is_of_class(c->kind))
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "%s goes with its CPUs: take those out of use", c->id);
        if (p->has_amount_bytes && c->kind != COMPONENT_MEMORY)
                return err_set(err, REASON_INVALID, EINVAL, "only of memory a part can be taken out of use");
        if (p->has_amount_bytes && p->amount_bytes >= c->owned)
                return err_set(err, REASON_INVALID, EINVAL,
                               "that is all that %s has to give away: say no amount", c->id);
        if (c->healthy && is_last_cpu(m, (size_t)i))
                return err_set(err, REASON_POLICY, EPERM, "%s is the last CPU that can be given away", c->id);
        struct store_offline o = {.lost = p->has_amount_bytes ? p->amount_bytes : 0,
                                  .until_ms = p->has_for_ms ? loop_now_ms() + p->for_ms : 0,
                                  .is_injected = p->has_injected && p->injected};
        memcpy(o.component, c->id, sizeof(o.component));
        int bad = store_put_offline(m->store, &o, err);
        if (bad) {
                meted_unwritten(m, err); /* which makes all of it anew from the store */
                return bad;
        }
        /* Out of use already: from now on another part, or all of it, or for another time. */
        struct store_offline *before = row_of(m, c->id);
        bool was_healthy = c->healthy;
        int64_t was_lost = c->lost;
        if (before)
                *before = o;
        else
                g_array_append_val(m->health->offline, o);
        char cause[96];
        cause_of(&o, p->for_ms, cause, sizeof(cause));
        struct host_toll toll = health_apply(m, cause);
        if (c->healthy == was_healthy && c->lost == was_lost)
                hypervisor_note(m->hv, loop_now_ms(), c->id, "host",
                                c->healthy ? "component-resized" : "component-offline",
                                "%s stays out of use as it is: %s", c->id, cause);
        say_changed(m, (size_t)i, &toll, ret);
        return 0;
}

static int end(struct meted *m, const struct store_offline *o, struct err *err)
{
        int bad = store_delete_offline(m->store, o->component, err);
        if (bad)
                meted_unwritten(m, err);
        else
                row_remove(m, o);
        return bad;
}

int health_online(struct meted *m, const char *component, struct api_component_changed *ret, struct err *err)
{
        ssize_t i = find(m, component);
        const struct store_offline *o = row_of(m, component);
        if (i < 0 && !o)
                return not_here(component, err);
        if (!o)
                return err_set(err, REASON_NOT_FOUND, ENOENT, "no operator took %s out of use%s", component,
                               m->inventory.components[i].healthy ? "" : ": the machine itself lacks it");
        bool was_injected = o->is_injected;
        int bad = end(m, o, err);
        if (bad)
                return bad;
        struct host_toll toll = health_apply(m, was_injected ? FAULT_OVER : "by an operator");
        if (i >= 0)
                say_changed(m, (size_t)i, &toll, ret);
        else
                (void)snprintf(ret->component, sizeof(ret->component), "%.31s", component);
        return 0;
}

static void on_until(void *arg)
{
        struct meted *m = arg;
        struct err err = {0};
        bool some = false;
        for (guint i = m->health->offline->len; i-- > 0;) {
                const struct store_offline *o = &g_array_index(m->health->offline, struct store_offline, i);
                if (!o->until_ms || o->until_ms > loop_now_ms())
                        continue;
                bool was_injected = o->is_injected;
                if (end(m, o, &err))
                        return;
                (void)health_apply(m, was_injected ? FAULT_OVER : "the time for which it was out is over");
                some = true;
        }
        if (!some)
                arm(m);
}

bool health_text(const struct meted *m, size_t component, char *ret, size_t size, int64_t *ret_until_ms)
{
        const struct component *c = &m->inventory.components[component];
        const struct store_offline *o = row_of(m, c->id);
        char lost[UNITS_TEXT];
        *ret_until_ms = o ? o->until_ms : 0;
        if (!has_health(c) || (c->healthy && c->lost == 0))
                return false;
        const char *who = !o ? "by the machine" : o->is_injected ? "by an injected fault" : "by an operator";
        if (c->healthy)
                (void)snprintf(ret, size, "without %s, %s", units_print_bytes(c->lost, lost), who);
        else
                (void)snprintf(ret, size, "off line, %s", who);
        return true;
}

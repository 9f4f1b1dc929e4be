/* SPDX-License-Identifier: Apache-2.0 */
/* Each part goes as 'mete server give' would have it (give.c): the giver refuses what is claimed. What it
 * says is free only spares it being asked for more; one that lies is refused by itself, or gives what it has
 * not claimed. A round asks for each component once. */
#include <errno.h>
#include <string.h>

#include "base/str.h"
#include "json/read.h"
#include "sp/upgrade.h"

enum { ASK_MS = 5000 };

void upgrading_forget_parts(struct upgrading *up)
{
        g_free(up->most);
        up->most = NULL;
        up->is_refused = false;
}

void upgrading_gave(struct sp *sp, const struct err *why)
{
        struct upgrading *up = sp->upgrading;
        if (!upgrading_is_under_way(sp))
                return;
        if (up->is_gift_said)
                *up->problem = '\0';
        up->is_gift_said = false;
        up->giving_mono_ms = 0;
        if (why) {
                up->is_refused = true;
                upgrading_waits(up, "%.200s", why->sentence);
        }
        /* What made room for a VM there may have been claimed since: who has nothing left is asked once more.
         */
        if (up->core.state == UPGRADE_GIVING || up->core.state == UPGRADE_RETURNING)
                upgrading_forget_list(up);
        upgrading_wake(sp);
}

/* true: nothing more is to be given in this round. */
static bool give_on(struct upgrading *up, int from, int to)
{
        struct sp *sp = up->sp;
        struct server_giving g;
        struct err err = {0};
        while (server_next_gift(&sp->server, from, to, up->most, &g)) {
                struct api_server_give in = {.has_amount = true, .amount = g.amount};
                (void)STR_COPY(in.component, sp->server.components[g.component].id);
                (void)STR_COPY(in.from, sp->server.names[from]);
                (void)STR_COPY(in.to, sp->server.names[to]);
                int bad = give_begin(sp, &in, up->core.id, &err);
                if (bad)
                        upgrading_waits(up, "%.200s", err.sentence);
                if (bad && err.reason == REASON_BUSY)
                        return false;
                up->most[g.component] = 0;
                if (!bad)
                        return false;
                up->is_refused = true;
        }
        return true;
}

/* ---- what the old one has free ---- */

/* Half of what is free was lent before a restart: that is not done again with the other half. As VMs go over,
 * which is when it is lent once more, their memory is the successor's, and no measure of what it was lent. */
static bool was_lent(const struct upgrading *up, int64_t component)
{
        return up->core.state == UPGRADE_LENDING &&
               server_share(&up->sp->server, (uint32_t)component, up->to)->amount > up->taken[component];
}

static void take_host(struct upgrading *up, const json_t *host)
{
        const struct server *s = &up->sp->server;
        size_t i;
        json_t *c;
        up->most = g_new0(int64_t, s->n_components + 1);
        json_array_foreach(json_object_get(host, "components"), i, c)
        {
                const char *id = json_string_value(json_object_get(c, "id"));
                int64_t at = id ? server_component(s, id) : -1;
                int64_t free_now = json_integer_value(json_object_get(c, "free"));
                if (at < 0)
                        continue;
                if (s->components[at].kind == COMPONENT_MEMORY)
                        up->most[at] = was_lent(up, at) ? 0 : free_now / 2;
                else if (json_integer_value(json_object_get(c, "claimed")) == 0)
                        up->most[at] = free_now > 0 ? CPU_WHOLE_MILLI : 0;
        }
}

static void on_host(void *arg, const struct http_answer *got, const struct cert_id *peer,
                    const struct err *err)
{
        struct upgrading *up = arg;
        struct err bad = {0};
        (void)peer;
        up->call = NULL;
        json_t *v = err || got->status != 200 ? NULL : json_read(got->body, got->body_n, &bad);
        upgrading_forget_parts(up);
        if (json_is_object(v))
                take_host(up, v);
        else
                upgrading_waits(up, "%s does not say what it has free", up->sp->server.names[up->from]);
        json_decref(v);
        loop_timer_in(&up->look, up->most ? 0 : 1000);
}

bool upgrading_lend(struct upgrading *up)
{
        struct hypervisor_of *h = &up->sp->hypervisors[up->from];
        struct http_target target = hypervisor_target(h);
        struct err err = {0};
        if (up->most)
                return give_on(up, up->from, up->to);
        if (h->state != API_SERVER_STATE_RUNNING)
                upgrading_waits(up, "%s does not run", hypervisor_name(h));
        else if (!up->call)
                up->call = http_call(up->sp->calls, &target, "GET", "/v1/host", NULL, 0, ASK_MS, on_host, up,
                                     &err);
        return false;
}

/* ---- all that nothing claims ---- */

bool upgrading_give_rest(struct upgrading *up, int from, int to)
{
        const struct server *s = &up->sp->server;
        if (!up->most) {
                up->most = g_new0(int64_t, s->n_components + 1);
                for (uint32_t i = 0; i < s->n_components; i++)
                        up->most[i] = server_share(s, i, from)->amount - (from == up->to ? up->taken[i] : 0);
                up->is_refused = false;
        }
        bool is_over = give_on(up, from, to);
        if (is_over && up->is_refused) {
                g_free(up->most);
                up->most = NULL; /* another round, at the next look; why is said meanwhile */
        }
        return is_over;
}

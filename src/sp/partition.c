/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "host/cpulist.h"
#include "sp/lead.h"
#include "sp/sp.h"
#include "sp/upgrade.h"

/* ---- what is asked for ---- */

static int take_nodes(struct server *s, int k, const struct api_server_part *in, struct err *err)
{
        struct cpulist nodes;
        if (in->has_cpus)
                return err_set(err, REASON_INVALID, EINVAL, "node= or cpus=, not both");
        int bad = cpulist_parse(in->nodes, &nodes, err);
        for (int n = cpulist_next(&nodes, 0); !bad && n >= 0; n = cpulist_next(&nodes, (uint32_t)n + 1))
                bad = server_take_node(s, k, (uint32_t)n, !in->has_memory_bytes, err);
        return bad;
}

int partition_take_cpus(struct server *s, int k, const char *list, struct err *err)
{
        struct cpulist cpus;
        int bad = cpulist_parse(list, &cpus, err);
        for (int n = cpulist_next(&cpus, 0); !bad && n >= 0; n = cpulist_next(&cpus, (uint32_t)n + 1)) {
                char id[32];
                (void)snprintf(id, sizeof(id), "cpu:%d", n);
                int64_t at = server_component(s, id);
                bad = at >= 0 ? server_take(s, k, (uint32_t)at, CPU_WHOLE_MILLI, err)
                              : err_set(err, REASON_NOT_FOUND, ENOENT, "this server has no %s", id);
        }
        return bad;
}

static int take_kept(struct server *s, int k, const struct api_server_part *in, struct err *err)
{
        int bad = 0;
        for (size_t i = 0; i < in->n_keep && !bad; i++) {
                int64_t at = server_component(s, in->keep[i]);
                bad = at >= 0 ? server_keep(s, k, (uint32_t)at, err)
                              : err_set(err, REASON_NOT_FOUND, ENOENT, "this server has no %s", in->keep[i]);
        }
        return bad;
}

int hypervisor_check_user(const struct sp *sp, const char *user, struct err *err)
{
        struct launch_user u;
        (void)sp;
        return launch_user(user, &u, err);
}

static int take_program(const struct sp *sp, const struct api_server_part *in, struct hypervisor_of *h,
                        struct err *err)
{
        if (in->has_user)
                (void)STR_COPY(h->user, in->user);
        else if (snprintf(h->user, sizeof(h->user), "mete-%s", in->name) >= (int)sizeof(h->user))
                return err_set(err, REASON_INVALID, EINVAL, "say user=: its name is too long for one");
        if (in->has_vmm && (*in->vmm != '/' || access(in->vmm, X_OK) < 0))
                return err_set(err, REASON_INVALID, EINVAL,
                               "vmm=%.150s: not the path of a program that can be executed", in->vmm);
        if (in->has_vmm)
                (void)STR_COPY(h->vmm, in->vmm);
        return hypervisor_check_user(sp, h->user, err);
}

/* The keeper tells them apart by their users. */
static int check_users(const struct server *s, const struct hypervisor_of *all, struct err *err)
{
        for (int a = 0; a < s->n; a++)
                for (int b = a + 1; b < s->n; b++)
                        if (strcmp(all[a].user, all[b].user) == 0)
                                return err_set(
                                        err, REASON_INVALID, EEXIST,
                                        "%s and %s are both to run as %s: mete-keeper tells them apart "
                                        "by their users (user=)",
                                        s->names[a], s->names[b], all[a].user);
        return 0;
}

int partition_make(const struct sp *sp, const struct api_server_init *in, struct server *ret,
                   struct hypervisor_of *hypervisors, struct err *err)
{
        struct server s;
        int bad = server_init(&s, sp->inventory.components, sp->inventory.n, err);
        /* Those that say exactly what they have come before those that take what is left of it. */
        for (size_t i = 0; i < in->n_hypervisors && !bad; i++) {
                const struct api_server_part *p = &in->hypervisors[i];
                int k = server_add(&s, p->name, err);
                bad = k < 0 ? k : take_program(sp, p, &hypervisors[k], err);
                if (!bad && p->has_nodes)
                        bad = take_nodes(&s, k, p, err);
                if (!bad && p->has_cpus)
                        bad = partition_take_cpus(&s, k, p->cpus, err);
                if (bad)
                        err_note(err, "%s", p->name);
        }
        for (size_t i = 0; i < in->n_hypervisors && !bad; i++) {
                const struct api_server_part *p = &in->hypervisors[i];
                if (p->has_memory_bytes)
                        bad = server_take_memory(&s, (int)i, p->memory_bytes, err);
                if (!bad && (bad = take_kept(&s, (int)i, p, err)))
                        err_note(err, "%s: keep=", p->name);
        }
        if (!bad)
                bad = server_check(&s, err);
        if (!bad)
                bad = check_users(&s, hypervisors, err);
        s.epoch = 1;
        if (bad)
                server_done(&s);
        else
                *ret = s;
        return bad;
}

/* ---- what is said ---- */

void partition_of(const struct sp *sp, int hypervisor, struct api_partition *ret)
{
        const struct server *s = &sp->server;
        *ret = (struct api_partition){.epoch = s->epoch, .has_trace = true};
        (void)STR_COPY(ret->server, sp->name);
        const char *trace = s->giving.amount > 0             ? sp->giving_trace
                            : sp->assigned_epoch == s->epoch ? sp->assigned_trace
                                                             : sp->hypervisors[hypervisor].trace;
        (void)STR_COPY(ret->trace, *trace ? trace : "sp");
        ret->has_hypervisor = ret->has_processor = true;
        (void)STR_COPY(ret->hypervisor, s->names[hypervisor]);
        (void)STR_COPY(ret->processor, sp->config.socket);
        for (int k = 0; k < s->n; k++)
                if (k != hypervisor)
                        (void)STR_COPY(ret->hypervisors[ret->n_hypervisors++], s->names[k]);
        ret->has_handover = *sp->committed != '\0';
        (void)STR_COPY(ret->handover, sp->committed);
        for (const struct leading *l = sp->leadings; l && ret->n_handovers < ARRAY_N(ret->handovers);
             l = l->next)
                if (l->is_assigned && !handover_is_final(&l->core))
                        (void)STR_COPY(ret->handovers[ret->n_handovers++], l->core.row.id);
        for (uint32_t i = 0; i < s->n_components && ret->n_shares < ARRAY_N(ret->shares); i++) {
                int64_t amount = server_share(s, i, hypervisor)->amount;
                if (amount == 0)
                        continue;
                struct api_partition_share *to = &ret->shares[ret->n_shares++];
                (void)STR_COPY(to->component, s->components[i].id);
                to->amount = amount;
        }
}

static void show_hypervisor(const struct hypervisor_of *h, struct api_server_hypervisor *to)
{
        (void)STR_COPY(to->name, hypervisor_name(h));
        to->state = h->state;
        to->wanted = h->is_wanted;
        (void)STR_COPY(to->user, h->user);
        (void)STR_COPY(to->socket, h->socket);
        to->has_vmm = *h->vmm;
        (void)STR_COPY(to->vmm, h->vmm);
        to->has_vmm_version = *h->qemu;
        (void)STR_COPY(to->vmm_version, h->qemu);
        to->has_version = *h->version;
        (void)STR_COPY(to->version, h->version);
        to->has_pid = h->pid_fd >= 0;
        to->pid = h->pid;
        to->restarts = (int64_t)h->restarts;
        to->epoch = h->epoch;
        to->has_problem = *h->problem;
        (void)STR_COPY(to->problem, h->problem);
}

static void show_resource(const struct server *s, uint32_t i, struct api_server_resource *to)
{
        const struct component *c = &s->components[i];
        (void)STR_COPY(to->id, c->id);
        (void)STR_COPY(to->kind, component_kinds[c->kind].name);
        (void)STR_COPY(to->unit, component_kinds[c->kind].unit);
        to->node = c->node;
        to->amount = c->owned;
        to->nobody = server_nobodys(s, i);
        for (int k = 0; k < s->n; k++) {
                const struct server_share *own = server_share(s, i, k);
                if (own->amount == 0)
                        continue;
                struct api_server_holder *holder = &to->holders[to->n_holders++];
                (void)STR_COPY(holder->hypervisor, s->names[k]);
                holder->amount = own->amount;
                holder->kept = own->is_kept;
        }
}

json_t *partition_show(const struct sp *sp)
{
        const struct server *s = &sp->server;
        struct api_server *out = g_new0(struct api_server, 1);
        (void)STR_COPY(out->name, sp->name);
        (void)STR_COPY(out->version, METE_VERSION);
        out->epoch = s->epoch;
        out->has_giving = s->giving.amount > 0;
        if (out->has_giving) {
                (void)STR_COPY(out->giving.component, s->components[s->giving.component].id);
                (void)STR_COPY(out->giving.from, s->names[s->giving.from]);
                (void)STR_COPY(out->giving.to, s->names[s->giving.to]);
                out->giving.amount = s->giving.amount;
        }
        out->has_upgrade = upgrading_is_under_way(sp);
        if (out->has_upgrade)
                upgrading_show_brief(sp->upgrading, &out->upgrade);
        for (int k = 0; k < s->n; k++)
                show_hypervisor(&sp->hypervisors[k], &out->hypervisors[out->n_hypervisors++]);
        for (uint32_t i = 0; i < s->n_components && out->n_resources < ARRAY_N(out->resources); i++)
                show_resource(s, i, &out->resources[out->n_resources++]);
        json_t *v = api_server_emit(out);
        g_free(out);
        return v;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/home.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"

enum { WEIGHT_LEAST = 9900 }; /* 99 default groups: host/cpu.h */

bool home_look(struct home *h, const struct home_options *o, const struct cpu_host *cpu)
{
        *h = (struct home){.options = *o, .scope = SCOPE_NONE, .cpu = cpu};
        if (cpu->id == CPU_AFFINITY || access(o->systemd, F_OK) < 0)
                return false;
        if (cpu->id == CPU_CGROUP_V2 && o->wants_scope)
                return true;
        if (cpu->id == CPU_CGROUP_V2)
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "VMs are in /%.40s, unknown to systemd, as [keeper] scope=false says",
                               cpu->prefix);
        else
                (void)STR_COPY(h->fallback,
                               "systemd hands nothing over on cgroup v1: VMs are in groups of our own "
                               "below the roots, unknown to it");
        return false;
}

/* A group of our own, of a start without a scope, goes with its last VM. */
static bool has_old_groups(const struct cpu_host *cpu)
{
        char dir[CGROUPFS_PATH];
        (void)snprintf(dir, sizeof(dir), "%s/%s", cpu->tree[0].root, cpu->prefix);
        return cgroupfs_remove(dir, false, NULL) < 0;
}

/* The operator's to decide (mete.slice), and to be known: each slice competes with its siblings. */
static void check_weight(struct home *h)
{
        char dir[CGROUPFS_PATH];
        int64_t weight;
        for (const char *at = strchr(h->scope.path, '/'); at; at = strchr(at + 1, '/')) {
                int n = (int)(at - h->scope.path);
                (void)snprintf(dir, sizeof(dir), "%s/%.*s", h->cpu->tree[0].root, n, h->scope.path);
                if (cgroupfs_read_number(dir, "cpu.weight", &weight, NULL) == 0 && weight < WEIGHT_LEAST)
                        (void)snprintf(h->fallback, sizeof(h->fallback),
                                       "%.*s weighs %d, not 10000 (CPUWeight=): beside busy others VMs get "
                                       "less than they were granted",
                                       n < 40 ? n : 40, h->scope.path, (int)weight);
        }
}

/* The links of a group's folder are its children, and two. */
static bool has_groups(const struct cpu_host *cpu, const char *path)
{
        char dir[CGROUPFS_PATH];
        struct stat st;
        (void)snprintf(dir, sizeof(dir), "%s/%s", cpu->tree[0].root, path);
        return stat(dir, &st) == 0 && st.st_nlink > 2;
}

/* Another prefix makes another scope, and the VMs would be left in this one, unknown to everybody. */
static int check_name(const struct scope_options *o, const char *had, struct err *err)
{
        char slice[SCOPE_PATH], name[SCOPE_PATH];
        int r = scope_name(o->prefix, slice, name, err);
        const char *end = strrchr(had, '/');
        if (r == 0 && strcmp(end ? end + 1 : had, name) != 0)
                r = err_set(err, REASON_BUSY, EBUSY,
                            "VMs of before are in %s, not in %s: [keeper] cgroup_prefix may be changed when "
                            "they have ended",
                            had, name);
        return r;
}

int home_start(struct home *h, const struct home_options *o, struct cpu_host *cpu, struct err *err)
{
        struct err why = {0};
        char had[SCOPE_PATH];
        bool is_wanted = home_look(h, o, cpu);
        bool is_bound = cpu->id == CPU_CGROUP_V2 && scope_find(&o->scope, had) && has_groups(cpu, had);
        if (!is_wanted && !is_bound)
                return 0;
        if (!is_bound && has_old_groups(cpu)) {
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "VMs of before are in /%.40s, unknown to systemd: a scope is asked for when "
                               "they have ended",
                               cpu->prefix);
                return 0;
        }
        int r = is_bound ? check_name(&o->scope, had, &why) : 0;
        if (r == 0)
                r = is_wanted ? scope_start(&o->scope, &h->scope, &why)
                              : scope_take(&o->scope, &h->scope, &why);
        if (r == 0 && (r = cpu_host_delegate(cpu, h->scope.path, &why)) < 0)
                scope_done(&h->scope, &o->scope, !is_bound);
        if (r == -EBUSY || (r < 0 && is_bound))
                return err_set(err, why.reason, why.code, "%s", why.sentence);
        if (r < 0) {
                log_warn("systemd gave no scope: %s", why.sentence);
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "systemd gave no scope, so VMs are in /%.20s, unknown to it: %s", cpu->prefix,
                               why.sentence);
                return 0;
        }
        h->has_scope = true;
        check_weight(h);
        if (!is_wanted)
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "VMs of before are in %.40s: [keeper] scope=false counts when they have ended",
                               had);
        return 0;
}

static void on_lost(void *arg, uint32_t events)
{
        struct home *h = arg;
        loop_fd_remove(&h->watch);
        h->is_lost = true;
        loop_quit();
}

int home_watch(struct home *h, struct err *err)
{
        return h->has_scope ? loop_fd_add(&h->watch, h->scope.holder_fd, EPOLLIN, on_lost, h, err) : 0;
}

void home_done(struct home *h)
{
        if (!h->has_scope)
                return;
        loop_fd_remove(&h->watch);
        scope_done(&h->scope, &h->options.scope, !has_groups(h->cpu, h->scope.path));
        h->has_scope = false;
}

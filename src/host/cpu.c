/* SPDX-License-Identifier: Apache-2.0 */
#include "host/cpu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "base/str.h"

static const char *const names[CPU_PROVIDER_ID_N] = {
        [CPU_CGROUP_V2] = "cgroup-v2", [CPU_CGROUP_V1] = "cgroup-v1", [CPU_AFFINITY] = "affinity"};

const char *cpu_provider_id_name(enum cpu_provider_id id)
{
        return id >= 1 && id < CPU_PROVIDER_ID_N ? names[id] : "none";
}

/* Path below a hierarchy: names with slashes between, no dots alone. */
static bool is_prefix(const char *prefix)
{
        char part[CPU_PREFIX_SIZE];
        if (strlen(prefix) >= CPU_PREFIX_SIZE)
                return false;
        for (const char *at = prefix;; at++) {
                size_t n = strcspn(at, "/");
                memcpy(part, at, n);
                part[n] = '\0';
                if (!str_is_name(part))
                        return false;
                at += n;
                if (!*at)
                        return true;
        }
}

static bool has_v2(const struct cgroupfs_mounts *m)
{
        char text[512];
        if (!*m->v2 || cgroupfs_read(m->v2, "cgroup.controllers", text, sizeof(text), NULL) < 0)
                return false;
        return cgroupfs_has_word(text, "cpu") && cgroupfs_has_word(text, "cpuset");
}

static void choose(struct cpu_host *h, const struct cgroupfs_mounts *m, enum cpu_provider_id only)
{
        if ((only == 0 || only == CPU_CGROUP_V2) && has_v2(m)) {
                h->id = CPU_CGROUP_V2;
                h->provider = &cpu_cgroup;
                h->n_trees = 1;
                h->tree[0].weights = h->tree[0].sets = true;
                (void)STR_COPY(h->tree[0].root, m->v2);
        } else if ((only == 0 || only == CPU_CGROUP_V1) && *m->v1_cpu && *m->v1_cpuset) {
                h->id = CPU_CGROUP_V1;
                h->provider = &cpu_cgroup;
                h->tree[0].weights = true;
                (void)STR_COPY(h->tree[0].root, m->v1_cpu);
                h->n_trees = 1;
                if (strcmp(m->v1_cpu, m->v1_cpuset) == 0) { /* mounted together */
                        h->tree[0].sets = true;
                } else {
                        h->tree[1].sets = true;
                        (void)STR_COPY(h->tree[1].root, m->v1_cpuset);
                        h->n_trees = 2;
                }
        } else if (only == 0 || only == CPU_AFFINITY) {
                h->id = CPU_AFFINITY;
                h->provider = &cpu_affinity;
                (void)STR_COPY(
                        h->fallback,
                        "no cgroup with cpu and cpuset can be written: only affinity holds CPUs, shares and "
                        "ceilings are not held, nobody is kept off");
        }
}

/* Those that are off line, too: they may come back. */
static int present(struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];
        int r = cgroupfs_read("/sys/devices/system/cpu", "present", text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

int cpu_host_init(struct cpu_host *h, const struct cpu_host_options *o, struct err *err)
{
        *h = (struct cpu_host){
                .is_best_effort = o->is_best_effort, .is_fake = o->is_fake, .groups_max = CPU_GROUPS_MAX};
        if (!o->is_fake)
                (void)STR_COPY(h->online_dir, "/sys/devices/system/cpu");
        if (o->keep_dir && !STR_COPY(h->keep_dir, o->keep_dir))
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.200s is too long", o->keep_dir);
        if (!is_prefix(o->prefix))
                return err_set(err, REASON_INVALID, EINVAL,
                               "\"%.60s\" is no prefix for control groups (names with slashes between them)",
                               o->prefix);
        (void)STR_COPY(h->prefix, o->prefix);
        int r = o->cpus ? cpulist_parse(o->cpus, &h->usable, err) : present(&h->usable, err);
        if (r < 0)
                return r;
        h->housekeeping = h->usable;
        if (o->housekeeping && (r = cpulist_parse(o->housekeeping, &h->housekeeping, err)) < 0)
                return r;
        if (cpulist_count(&h->usable) == 0 || cpulist_count(&h->housekeeping) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "no CPU to run VMs on: name some");
        struct cgroupfs_mounts m;
        if ((r = cgroupfs_find(o->mountinfo, &m, err)) < 0)
                return r;
        choose(h, &m, o->only);
        if (!h->provider)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "this machine has no %s to hold CPUs with", cpu_provider_id_name(o->only));
        return 0;
}

int cpu_host_delegate(struct cpu_host *h, const char *path, struct err *err)
{
        if (h->id != CPU_CGROUP_V2 || !is_prefix(path))
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" cannot hold the groups of VMs", path);
        (void)STR_COPY(h->prefix, path);
        h->is_delegated = true;
        return 0;
}

int cpu_host_check_hold(const struct cpu_host *h, const struct cpu_hold *what, struct err *err)
{
        char text[CPULIST_TEXT];
        if (cpulist_count(&what->cpus) == 0)
                return err_set(err, REASON_INVALID, EINVAL, "no CPUs to place it on");
        if (!cpulist_is_within(&what->cpus, &h->usable))
                return err_set(err, REASON_DENIED, EPERM,
                               "threads may be placed on CPUs %.100s only: [keeper] cpus",
                               cpulist_print(&h->usable, text));
        if (what->share_milli < 1 || what->share_milli > CPU_SHARE_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "a share of %d thousandths (1 to %d)",
                               what->share_milli, CPU_SHARE_MAX);
        if (what->ceiling_milli < CPU_CEILING_MIN || what->ceiling_milli > CPU_SHARE_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "a ceiling of %d thousandths (%d to %d)",
                               what->ceiling_milli, CPU_CEILING_MIN, CPU_SHARE_MAX);
        if (what->ceiling_milli < what->share_milli)
                return err_set(err, REASON_INVALID, EINVAL,
                               "a ceiling of %d thousandths is below the share of %d", what->ceiling_milli,
                               what->share_milli);
        if ((what->share_milli < CPU_SHARE_MAX || what->ceiling_milli < CPU_SHARE_MAX) &&
            !h->provider->is_holding_shares && !h->is_best_effort)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->fallback);
        return 0;
}

int cpu_host_check_item(const char *item, struct err *err)
{
        if (!str_is_name(item) || strlen(item) >= CPU_ITEM_SIZE)
                return err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no name of an item", item);
        if (strcmp(item, "emulator") == 0 || strcmp(item, "parked") == 0)
                return err_set(err, REASON_INVALID, EINVAL,
                               "an item may not be called \"%s\": such groups are the keeper's own", item);
        return 0;
}

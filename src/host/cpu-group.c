/* SPDX-License-Identifier: Apache-2.0 */
#include "host/cpu-group.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/str.h"

/* Lengths are bounded: root, prefix and group together stay below CGROUPFS_PATH. */
const char *cpu_group_path(const struct cpu_host *h, size_t tree, const char *group, char buf[CGROUPFS_PATH])
{
        _Static_assert(CGROUPFS_ROOT + CPU_PREFIX_SIZE + CPU_GROUP_NAME + 48 < CGROUPFS_PATH,
                       "names of files fit too");
        (void)snprintf(buf, CGROUPFS_PATH, "%s/%s%s%s", h->tree[tree].root, h->prefix, *group ? "/" : "",
                       group);
        return buf;
}

int cpu_group_write(const struct cpu_host *h, const char *dir, const char *file, long value, struct err *err)
{
        char text[24], taken[24];
        (void)snprintf(text, sizeof(text), "%ld", value);
        int r = cgroupfs_write(dir, file, text, h->is_fake, err);
        if (r < 0 || (r = cgroupfs_read(dir, file, taken, sizeof(taken), err)) < 0)
                return r;
        if (strcmp(text, taken) != 0)
                return err_set(err, REASON_INTERNAL, EIO, "%s/%s: wrote %s, the kernel took %s", dir, file,
                               text, taken);
        return 0;
}

int cpu_group_read_set(const char *dir, const char *file, struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];
        int r = cgroupfs_read(dir, file, text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

void cpu_group_leave_online(const struct cpu_host *h, struct cpulist *l)
{
        struct cpulist online, others = *l;
        if (!*h->online_dir || cpu_group_read_set(h->online_dir, "online", &online, NULL) < 0)
                return;
        cpulist_remove(&others, &online);
        cpulist_remove(l, &others);
}

int cpu_group_write_set(const struct cpu_host *h, const char *dir, const struct cpulist *set, struct err *err)
{
        char text[CPULIST_TEXT];
        struct cpulist taken;
        int r = cgroupfs_write(dir, "cpuset.cpus", cpulist_print(set, text), h->is_fake, err);
        if (r < 0 || (r = cpu_group_read_set(dir, "cpuset.cpus", &taken, err)) < 0)
                return r;
        /* What is effective can be less: a parent may have fewer. And a CPU that is off line is in nobody's.
         */
        if (!h->is_fake &&
            (r = cpu_group_read_set(dir,
                                    cpu_group_is_v2(h) ? "cpuset.cpus.effective" : "cpuset.effective_cpus",
                                    &taken, err)) < 0)
                return r;
        struct cpulist wanted = *set;
        cpu_group_leave_online(h, &wanted);
        if (!cpulist_is_equal(set, &taken) && (h->is_fake || !cpulist_is_equal(&wanted, &taken))) {
                char got[CPULIST_TEXT];
                return err_set(err, REASON_INTERNAL, EIO,
                               "%s/cpuset.cpus: wrote %.60s, the kernel took %.60s", dir, text,
                               cpulist_print(&taken, got));
        }
        return 0;
}

int cpu_group_inherit_mems(const struct cpu_host *h, const char *parent, const char *dir, struct err *err)
{
        char text[CPULIST_TEXT], have[CPULIST_TEXT];
        int r = cgroupfs_read(parent, "cpuset.mems", text, sizeof(text), err);
        if (r < 0)
                return r;
        if (cgroupfs_read(dir, "cpuset.mems", have, sizeof(have), NULL) == 0 && *have)
                return 0;
        return cgroupfs_write(dir, "cpuset.mems", text, h->is_fake, err);
}

static int make_threaded(const struct cpu_host *h, const char *dir, struct err *err)
{
        char type[32];
        (void)cgroupfs_read(dir, "cgroup.type", type, sizeof(type), NULL);
        if (strcmp(type, "threaded") == 0)
                return 0;
        int r = cgroupfs_write(dir, "cgroup.type", "threaded", h->is_fake, err);
        if (r < 0 || (r = cgroupfs_read(dir, "cgroup.type", type, sizeof(type), err)) < 0)
                return r;
        if (strcmp(type, "threaded") != 0)
                return err_set(err, REASON_INTERNAL, EIO, "%s: is \"%s\", not threaded", dir, type);
        return 0;
}

/* The prefix is a group like those below it. */
bool cpu_group_has_quotas(const struct cpu_host *h)
{
        char dir[CGROUPFS_PATH], file[CGROUPFS_PATH + 24];
        for (size_t i = 0; i < h->n_trees; i++)
                if (h->tree[i].weights) {
                        (void)snprintf(file, sizeof(file), "%s/%s", cpu_group_path(h, i, "", dir),
                                       cpu_group_is_v2(h) ? "cpu.max" : "cpu.cfs_quota_us");
                        return access(file, F_OK) == 0;
                }
        return false;
}

static const char *burst_file(const struct cpu_host *h)
{
        return cpu_group_is_v2(h) ? "cpu.max.burst" : "cpu.cfs_burst_us";
}

/* What is not there reads as none: a kernel without quotas, or without bursts (before 5.14). */
static int read_quota(const struct cpu_host *h, const char *dir, struct cpu_group_setting *s, struct err *err)
{
        char text[64], period[24] = "", *end;
        long burst = 0;
        struct err why = {0};
        int r = cgroupfs_read(dir, cpu_group_is_v2(h) ? "cpu.max" : "cpu.cfs_quota_us", text, sizeof(text),
                              &why);
        s->quota_us = s->period_us = 0;
        if (r == -ENOENT)
                return 0;
        if (r == 0 && !cpu_group_is_v2(h))
                r = cgroupfs_read(dir, "cpu.cfs_period_us", period, sizeof(period), &why);
        if (r < 0) {
                if (err)
                        *err = why;
                return r;
        }
        if (strncmp(text, "max", 3) == 0 || strncmp(text, "-1", 2) == 0)
                return 0;
        s->quota_us = strtol(text, &end, 10);
        s->period_us = strtol(cpu_group_is_v2(h) ? end : period, NULL, 10);
        if (s->quota_us <= 0 || s->period_us <= 0)
                return err_set(err, REASON_INTERNAL, EPROTO, "%s: \"%.40s\" is no quota", dir, text);
        if (cgroupfs_read(dir, burst_file(h), text, sizeof(text), NULL) == 0)
                burst = strtol(text, NULL, 10);
        if (burst > 0)
                s->quota_us += burst;
        return 0;
}

static int no_burst(const struct cpu_host *h, const char *dir, struct err *err)
{
        char text[24];
        if (cgroupfs_read(dir, burst_file(h), text, sizeof(text), NULL) < 0 || strcmp(text, "0") == 0)
                return 0;
        return cpu_group_write(h, dir, burst_file(h), 0, err);
}

/* v1: the kernel weighs each of the two files against what the other has, and both against the parent's (a
 * longer quota with a period that was made shorter may be more than the parent has), so a period is only set
 * where there is no quota. */
static int write_quota_v1(const struct cpu_host *h, const char *dir, const struct cpu_group_setting *have,
                          const struct cpu_group_setting *to, struct err *err)
{
        int r = 0;
        if (have->quota_us > 0 && (to->quota_us == 0 || have->period_us != to->period_us))
                r = cpu_group_write(h, dir, "cpu.cfs_quota_us", -1, err);
        if (r == 0 && to->quota_us > 0 && have->period_us != to->period_us)
                r = cpu_group_write(h, dir, "cpu.cfs_period_us", to->period_us, err);
        if (r == 0 && to->quota_us > 0)
                r = cpu_group_write(h, dir, "cpu.cfs_quota_us", to->quota_us, err);
        return r;
}

static int write_quota(const struct cpu_host *h, const char *dir, const struct cpu_group_setting *to,
                       struct err *err)
{
        char text[48];
        struct cpu_group_setting is = {0};
        int r = read_quota(h, dir, &is, err);
        if (r < 0)
                return r;
        if (is.quota_us == to->quota_us && (to->quota_us == 0 || is.period_us == to->period_us))
                return 0;
        if (to->quota_us > 0 && !cpu_group_has_quotas(h))
                return h->is_best_effort ? 0
                                         : err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", CPU_NO_QUOTAS);
        if ((r = no_burst(h, dir, err)) < 0) /* a quota may not be less than the burst */
                return r;
        if (!cpu_group_is_v2(h))
                r = write_quota_v1(h, dir, &is, to, err);
        else if (to->quota_us > 0)
                (void)snprintf(text, sizeof(text), "%ld %ld", to->quota_us, to->period_us);
        else
                (void)snprintf(text, sizeof(text), "max");
        if (r == 0 && cpu_group_is_v2(h))
                r = cgroupfs_write(dir, "cpu.max", text, h->is_fake, err);
        if (r == 0)
                r = read_quota(h, dir, &is, err);
        if (r == 0 && (is.quota_us != to->quota_us || (to->quota_us > 0 && is.period_us != to->period_us)))
                r = err_set(err, REASON_INTERNAL, EIO, "%s: a quota of %ld of %ld us became %ld of %ld", dir,
                            to->quota_us, to->period_us, is.quota_us, is.period_us);
        return r;
}

int cpu_group_make(const struct cpu_host *h, const char *group, const struct cpu_group_setting *to,
                   struct err *err)
{
        for (size_t i = 0; i < h->n_trees; i++) {
                char parent[CGROUPFS_PATH], dir[CGROUPFS_PATH];
                (void)cpu_group_path(h, i, "", parent);
                int r = cgroupfs_make(cpu_group_path(h, i, group, dir), err);
                if (r == 0 && cpu_group_is_v2(h))
                        r = make_threaded(h, dir, err);
                if (r == 0 && h->tree[i].sets && !cpu_group_is_v2(h))
                        r = cpu_group_inherit_mems(h, parent, dir, err);
                if (r == 0 && h->tree[i].sets)
                        r = cpu_group_write_set(h, dir, &to->cpus, err);
                if (r == 0 && h->tree[i].weights)
                        r = cpu_group_write(h, dir, cpu_group_is_v2(h) ? "cpu.weight" : "cpu.shares",
                                            to->weight, err);
                if (r == 0 && h->tree[i].weights)
                        r = write_quota(h, dir, to, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* With all threads through cgroup.procs, or one alone. */
static int tree_enter(const struct cpu_host *h, size_t tree, const char *group, pid_t id, bool is_process,
                      struct err *err)
{
        char text[16], dir[CGROUPFS_PATH];
        (void)snprintf(text, sizeof(text), "%d\n", (int)id);
        (void)cpu_group_path(h, tree, group, dir);
        const char *file = is_process && !h->is_fake ? "cgroup.procs" : cpu_group_threads(h);
        int r = cgroupfs_write(dir, file, text, h->is_fake, err);
        if (r < 0)
                return r == -ESRCH ? err_set(err, REASON_NOT_FOUND, ESRCH, "there is no thread %d", (int)id)
                                   : r;
        r = cgroupfs_lists(dir, cpu_group_threads(h), id, err);
        if (r == 0)
                r = err_set(err, REASON_INTERNAL, EIO, "%s: thread %d did not enter", dir, (int)id);
        return r < 0 ? r : 0;
}

int cpu_group_enter(const struct cpu_host *h, const char *group, pid_t id, bool is_process, struct err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < h->n_trees; i++)
                r = tree_enter(h, i, group, id, is_process, err);
        return r;
}

void cpu_group_drop(const struct cpu_host *h, const char *group)
{
        char dir[CGROUPFS_PATH];
        for (size_t i = 0; i < h->n_trees; i++)
                (void)cgroupfs_remove(cpu_group_path(h, i, group, dir), h->is_fake, NULL);
}

bool cpu_group_is_own(const char *group)
{
        return strncmp(group, "emulator@", 9) == 0 || strncmp(group, "parked@", 7) == 0;
}

bool cpu_group_is_of(const char *group, const char *vm)
{
        const char *at = strchr(group, '@');
        return at && strcmp(at + 1, vm) == 0 && strlen(group) < CPU_GROUP_NAME;
}

int cpu_group_sweep(const struct cpu_host *h, const char *vm, enum cpu_removal removal, const char *keep,
                    struct err *err)
{
        int first = 0;
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH], group[CGROUPFS_PATH];
                DIR *d = opendir(cpu_group_path(h, i, "", dir));
                if (!d)
                        continue; /* nothing was made yet */
                for (struct dirent *e; (e = readdir(d));) {
                        if (!cpu_group_is_of(e->d_name, vm) ||
                            (removal != CPU_REMOVE_ALL && !cpu_group_is_own(e->d_name)) ||
                            (keep &&
                             (strcmp(e->d_name, keep) == 0 || strncmp(e->d_name, "emulator@", 9) == 0)))
                                continue;
                        int r = cgroupfs_remove(cpu_group_path(h, i, e->d_name, group), h->is_fake,
                                                first ? NULL : err);
                        if (r < 0 && first == 0)
                                first = r;
                }
                (void)closedir(d);
        }
        return first;
}

const char *cpu_group_name(char buf[CPU_GROUP_NAME], const char *role, const char *vm)
{
        (void)snprintf(buf, CPU_GROUP_NAME, "%s@%s", role, vm);
        return buf;
}

bool cpu_group_is_there(const struct cpu_host *h, const char *group)
{
        char dir[CGROUPFS_PATH];
        for (size_t i = 0; i < h->n_trees; i++)
                if (access(cpu_group_path(h, i, group, dir), F_OK) < 0)
                        return false;
        return true;
}
int cpu_group_read(const struct cpu_host *h, const char *group, bool is_effective,
                   struct cpu_group_setting *ret, struct err *err)
{
        struct cpu_group_setting s = {.is_known = true};
        const char *set = !is_effective || h->is_fake ? "cpuset.cpus"
                          : cpu_group_is_v2(h)        ? "cpuset.cpus.effective"
                                                      : "cpuset.effective_cpus";
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH], text[24];
                int r = 0;
                (void)cpu_group_path(h, i, group, dir);
                if (h->tree[i].sets)
                        r = cpu_group_read_set(dir, set, &s.cpus, err);
                if (r == 0 && h->tree[i].weights) {
                        r = cgroupfs_read(dir, cpu_group_is_v2(h) ? "cpu.weight" : "cpu.shares", text,
                                          sizeof(text), err);
                        s.weight = strtol(text, NULL, 10);
                        if (r == 0 && s.weight <= 0)
                                r = err_set(err, REASON_INTERNAL, EPROTO, "%s: \"%s\" is no weight", dir,
                                            text);
                        if (r == 0)
                                r = read_quota(h, dir, &s, err);
                }
                if (r < 0)
                        return r;
        }
        *ret = s;
        return 0;
}

void cpu_group_put_back(const struct cpu_host *h, const char *group, const struct cpu_group_setting *before)
{
        if (before->is_known)
                (void)cpu_group_make(h, group, before, NULL);
        else
                cpu_group_drop(h, group);
}

int cpu_group_set(const struct cpu_host *h, const char *group, const struct cpu_group_setting *to,
                  struct cpu_group_setting *ret_before, struct err *err)
{
        *ret_before = (struct cpu_group_setting){.is_known = false};
        (void)cpu_group_read(h, group, false, ret_before, NULL);
        int r = cpu_group_make(h, group, to, err);
        if (r < 0)
                cpu_group_put_back(h, group, ret_before);
        return r;
}

/* Which group of its VM a thread is in, in one tree. */
static void find_group(const struct cpu_host *h, size_t tree, const char *vm, pid_t tid,
                       char ret[CPU_GROUP_NAME])
{
        char dir[CGROUPFS_PATH], group[CGROUPFS_PATH];
        bool is_found = false;
        DIR *d = opendir(cpu_group_path(h, tree, "", dir));
        for (struct dirent *e; d && !is_found && (e = readdir(d));)
                if (cpu_group_is_of(e->d_name, vm) &&
                    cgroupfs_lists(cpu_group_path(h, tree, e->d_name, group), cpu_group_threads(h), tid,
                                   NULL) == 1) {
                        (void)snprintf(ret, CPU_GROUP_NAME, "%s", e->d_name);
                        is_found = true;
                }
        if (d)
                (void)closedir(d);
        if (!is_found)
                (void)cpu_group_name(ret, "emulator", vm);
}

int cpu_group_move(const struct cpu_host *h, const char *vm, const char *group, pid_t tid, struct err *err)
{
        char before[ARRAY_N(h->tree)][CPU_GROUP_NAME];
        for (size_t i = 0; i < h->n_trees; i++)
                find_group(h, i, vm, tid, before[i]);
        int r = cpu_group_enter(h, group, tid, false, err);
        for (size_t i = 0; r < 0 && i < h->n_trees; i++)
                if (strcmp(before[i], group) != 0)
                        (void)tree_enter(h, i, before[i], tid, false, NULL);
        return r;
}

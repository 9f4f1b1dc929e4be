/* SPDX-License-Identifier: Apache-2.0 */
/* The VMs and items of both kinds of control groups; how a group is made is cpu-group.c's.
 *
 * Threads: everything but the prefix is one VM's, and whoever changes the groups of a VM holds that VM's
 * lock. So no sweep removes a group that another thread has just made and not yet entered. The CPUs of
 * emulator@VM and parked@VM depend on what all VMs have exclusively: whoever sets them, or changes that,
 * holds `sharing`, taken behind the VM's lock. */
#include "host/cpu.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/str.h"
#include "host/cpu-exclusive.h"
#include "host/cpu-group.h"

enum { V1_SHARES_MAX = 262144, V2_WEIGHT_MAX = 10000 };

/* VMs share these by a hash of their names. */
#define LOCK    PTHREAD_MUTEX_INITIALIZER
#define LOCKS_8 LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK
static pthread_mutex_t locks[] = {LOCKS_8, LOCKS_8, LOCKS_8, LOCKS_8};
static pthread_mutex_t sharing = LOCK;

static pthread_mutex_t *lock_of(const char *vm)
{
        unsigned hash = 5381;
        for (; *vm; vm++)
                hash = hash * 33 + (unsigned char)*vm;
        return &locks[hash % ARRAY_N(locks)];
}

static pthread_mutex_t *lock(const char *vm)
{
        pthread_mutex_t *m = lock_of(vm);
        (void)pthread_mutex_lock(m);
        return m;
}

/* ---- what is exclusive, and where all else may run ---- */

/* Where everything of a VMM runs that is not placed. Where nothing would be left (best effort, or a
 * configuration that changed meanwhile), it is as if nothing were exclusive. */
static int find_shared(const struct cpu_host *h, struct cpulist *ret, struct err *err)
{
        struct cpulist taken = {0}, all = h->housekeeping;
        int r = exclusive_cpus(h, NULL, cpu_group_is_there, &taken, err);
        if (r < 0)
                return r;
        if (!cpu_group_is_v2(h))
                cpu_group_leave_online(h, &all);
        *ret = all;
        cpulist_remove(ret, &taken);
        if (cpulist_count(ret) == 0)
                *ret = all;
        return 0;
}

static bool is_shared_group(const char *group)
{
        return strncmp(group, "emulator@", 9) == 0 || strncmp(group, "parked@", 7) == 0;
}

/* For each group with threads that are not placed; until fn does not return 0, which is returned. */
static int each_shared(const struct cpu_host *h,
                       int (*fn)(const struct cpu_host *h, const char *dir, const struct cpulist *set,
                                 struct err *err),
                       const struct cpulist *set, struct err *err)
{
        int r = 0;
        for (size_t i = 0; i < h->n_trees && r == 0; i++) {
                char prefix[CGROUPFS_PATH], dir[CGROUPFS_PATH];
                DIR *d = h->tree[i].sets ? opendir(cpu_group_path(h, i, "", prefix)) : NULL;
                for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
                        if (!is_shared_group(e->d_name) || strlen(e->d_name) >= CPU_GROUP_NAME)
                                continue;
                        r = fn(h, cpu_group_path(h, i, e->d_name, dir), set, err);
                        if (r < 0 && access(dir, F_OK) < 0)
                                r = 0; /* its VM went meanwhile */
                }
                if (d)
                        (void)closedir(d);
        }
        return r;
}

static int set_shared(const struct cpu_host *h, const char *dir, const struct cpulist *set, struct err *err)
{
        struct cpulist have = {0};
        (void)cpu_group_read_set(dir, "cpuset.cpus", &have, NULL);
        return cpulist_is_equal(set, &have) ? 0 : cpu_group_write_set(h, dir, set, err);
}

/* All of them follow what is exclusive now. */
static int spread(const struct cpu_host *h, struct err *err)
{
        struct cpulist set;
        int r = find_shared(h, &set, err);
        return r < 0 ? r : each_shared(h, set_shared, &set, err);
}

static int is_taken(const struct cpu_host *h, const char *dir, const struct cpulist *set, struct err *err)
{
        struct cpulist have = {0};
        const char *file = h->is_fake           ? "cpuset.cpus"
                           : cpu_group_is_v2(h) ? "cpuset.cpus.effective"
                                                : "cpuset.effective_cpus";
        int r = cpu_group_read_set(dir, file, &have, err);
        return r < 0 ? r : cpulist_has_common(set, &have);
}

static bool has_room_for_others(const struct cpu_host *h)
{
        struct cpulist taken = {0}, left = h->housekeeping;
        cpu_group_leave_online(h, &left);
        (void)exclusive_cpus(h, NULL, cpu_group_is_there, &taken, NULL);
        cpulist_remove(&left, &taken);
        return cpulist_count(&left) > 0;
}

/* 1: it was said to be, and is. -1: it was, and there is nowhere else for the others to run, or will not be
 * when they come. */
static int read_exclusive(const struct cpu_host *h, const char *group, const struct cpulist *cpus, int *ret,
                          struct err *err)
{
        struct cpulist noted;
        int taken = 1;
        (void)pthread_mutex_lock(&sharing);
        int r = exclusive_find(h, group, &noted, err);
        bool is_noted = r == 1 && cpulist_is_equal(&noted, cpus);
        if (is_noted)
                r = taken = each_shared(h, is_taken, cpus, err);
        if (r >= 0)
                *ret = !is_noted                                                               ? 0
                       : cpulist_has_common(cpus, &h->housekeeping) && !has_room_for_others(h) ? -1
                                                                                               : taken == 0;
        (void)pthread_mutex_unlock(&sharing);
        return r < 0 ? r : 0;
}

static int check_exclusive(const struct cpu_host *h, const char *group, const struct cpulist *cpus,
                           bool is_exclusive, struct err *err)
{
        char text[CPULIST_TEXT];
        struct cpulist taken = {0}, left = h->housekeeping;
        int r = exclusive_cpus(h, group, cpu_group_is_there, &taken, err);
        if (r < 0)
                return r;
        if (cpulist_has_common(cpus, &taken))
                return err_set(err, REASON_BUSY, EBUSY, "another item has one of the CPUs %.60s exclusively",
                               cpulist_print(cpus, text));
        cpu_group_leave_online(h, &left);
        cpulist_remove(&left, &taken);
        cpulist_remove(&left, cpus);
        if (is_exclusive && cpulist_count(&left) == 0 && !h->is_best_effort)
                return err_set(err, REASON_POLICY, EPERM,
                               "with CPU %.60s exclusive no CPU would be left for everything of VMMs that is "
                               "no vCPU: give mete-keeper other housekeeping CPUs",
                               cpulist_print(cpus, text));
        return 0;
}

/* The note of an item becomes what it shall be, and the others follow; all or nothing. `sharing` is held. */
static int note_exclusive(const struct cpu_host *h, const char *group, const struct cpulist *cpus,
                          bool is_exclusive, struct err *err)
{
        struct cpulist before = {0};
        int had = exclusive_find(h, group, &before, NULL);
        if (!is_exclusive && had == 0)
                return 0;
        int r = is_exclusive ? exclusive_note(h, group, cpus, err) : exclusive_forget(h, group, err);
        if (r == 0)
                r = spread(h, err);
        if (r == 0)
                return 0;
        if (had == 1)
                (void)exclusive_note(h, group, &before, NULL);
        else
                (void)exclusive_forget(h, group, NULL);
        (void)spread(h, NULL);
        return r;
}

/* What is gone has nothing exclusively any more. */
static int free_exclusive(const struct cpu_host *h, const char *vm, struct err *err)
{
        (void)pthread_mutex_lock(&sharing);
        int r = exclusive_count_stale(h, vm, cpu_group_is_there, err);
        if (r > 0 && (r = spread(h, err)) == 0) /* first: while there are notes it is tried again */
                r = exclusive_forget_stale(h, vm, cpu_group_is_there, err);
        (void)pthread_mutex_unlock(&sharing);
        return r;
}

/* v2: controllers must be handed down from each group to the next. */
static int hand_down(const struct cpu_host *h, const char *dir, struct err *err)
{
        char text[256];
        /* A plain directory reads as it was written. */
        const char *cpu = h->is_fake ? "+cpu" : "cpu", *cpuset = h->is_fake ? "+cpuset" : "cpuset";
        int r = cgroupfs_write(dir, "cgroup.subtree_control", "+cpu +cpuset", h->is_fake, err);
        if (r < 0 || (r = cgroupfs_read(dir, "cgroup.subtree_control", text, sizeof(text), err)) < 0)
                return r;
        if (!cgroupfs_has_word(text, cpu) || !cgroupfs_has_word(text, cpuset))
                return err_set(err, REASON_INTERNAL, EIO, "%s: does not hand down cpu and cpuset", dir);
        return 0;
}

/* The sets of the prefix only ever grow here: a smaller one is refused by v1 while a child has more. */
static int widen(const struct cpu_host *h, const char *dir, const struct cpulist *set, struct err *err)
{
        struct cpulist have = {0};
        (void)cpu_group_read_set(dir, "cpuset.cpus", &have, NULL);
        if (cpulist_count(&have) > 0 && cpulist_is_within(set, &have))
                return 0;
        cpulist_join(&have, set);
        return cpu_group_write_set(h, dir, &have, err);
}

static int start_tree(const struct cpu_host *h, const struct cpu_tree *tree, const struct cpulist *all,
                      struct err *err)
{
        char dir[CGROUPFS_PATH], parent[CGROUPFS_PATH];
        struct cpulist set = *all;
        if (!cpu_group_is_v2(h)) /* which takes no others */
                cpu_group_leave_online(h, &set);
        (void)snprintf(dir, sizeof(dir), "%s", tree->root);
        for (const char *slash = h->prefix; slash;) {
                slash = strchr(slash + 1, '/');
                int n = slash ? (int)(slash - h->prefix) : (int)strlen(h->prefix);
                (void)snprintf(parent, sizeof(parent), "%s", dir);
                (void)snprintf(dir, sizeof(dir), "%s/%.*s", tree->root, n, h->prefix);
                int r = cpu_group_is_v2(h) ? hand_down(h, parent, err) : 0;
                if (r == 0)
                        r = cgroupfs_make(dir, err);
                if (r == 0 && tree->sets && !cpu_group_is_v2(h))
                        r = cpu_group_inherit_mems(h, parent, dir, err);
                if (r == 0 && tree->sets)
                        r = widen(h, dir, &set, err);
                if (r < 0)
                        return r;
        }
        if (tree->weights) {
                long n = (long)cpulist_count(all), most = cpu_group_is_v2(h) ? V2_WEIGHT_MAX : V1_SHARES_MAX;
                long weight = (cpu_group_is_v2(h) ? 100L : 1024L) * 99 * n;
                int r = cpu_group_write(h, dir, cpu_group_is_v2(h) ? "cpu.weight" : "cpu.shares",
                                        weight < most ? weight : most, err);
                if (r < 0)
                        return r;
        }
        return cpu_group_is_v2(h) ? hand_down(h, dir, err) : 0;
}

/* Neither made, set nor weighed: it is another's. */
static int start_delegated(const struct cpu_host *h, const struct cpulist *all, struct err *err)
{
        char dir[CGROUPFS_PATH], text[CPULIST_TEXT], had[CPULIST_TEXT];
        struct cpulist have, wanted = *all;
        int r = cpu_group_read_set(cpu_group_path(h, 0, "", dir), "cpuset.cpus.effective", &have, err);
        if (r < 0)
                return r;
        cpu_group_leave_online(h, &wanted);
        if (!cpulist_is_within(&wanted, &have))
                return err_set(
                        err, REASON_INVALID, EPERM,
                        "%s may use the CPUs %.40s only, and VMs shall have %.40s: change AllowedCPUs= "
                        "of its slice, or [keeper] cpus and housekeeping",
                        h->prefix, cpulist_print(&have, had), cpulist_print(all, text));
        return hand_down(h, dir, err);
}

static int start(const struct cpu_host *h, struct err *err)
{
        struct cpulist all = h->usable;
        cpulist_join(&all, &h->housekeeping);
        for (size_t i = 0; i < h->n_trees; i++) {
                int r = h->is_delegated ? start_delegated(h, &all, err)
                                        : start_tree(h, &h->tree[i], &all, err);
                if (r < 0)
                        return r;
        }
        /* The keeper before may have died in the middle of it. What cannot be set is no reason not to start:
         * whoever reads an exclusive item hears of it, and while there are notes it is tried again. */
        if (spread(h, NULL) == 0)
                (void)exclusive_forget_stale(h, NULL, cpu_group_is_there, NULL);
        return 0;
}

static void finish(const struct cpu_host *h)
{
        /* From the innermost outwards; a group that others use stays. */
        for (size_t i = 0; i < h->n_trees && !h->is_delegated; i++) {
                char dir[CGROUPFS_PATH];
                size_t root = strlen(h->tree[i].root);
                (void)cpu_group_path(h, i, "", dir);
                while (strlen(dir) > root && cgroupfs_remove(dir, h->is_fake, NULL) == 0)
                        *strrchr(dir, '/') = '\0';
        }
        if (*h->keep_dir)
                (void)rmdir(h->keep_dir);
}

static int vm_make(const struct cpu_host *h, const char *vm, struct err *err)
{
        char group[CPU_GROUP_NAME];
        struct cpu_group_setting to = {.weight = (long)CPU_WEIGHT_FACTOR * CPU_EMULATOR_SHARE};
        pthread_mutex_t *m = lock(vm);
        (void)pthread_mutex_lock(&sharing);
        int r = find_shared(h, &to.cpus, err);
        if (r == 0)
                r = cpu_group_make(h, cpu_group_name(group, "emulator", vm), &to, err);
        (void)pthread_mutex_unlock(&sharing);
        (void)pthread_mutex_unlock(m);
        return r;
}

static int vm_enter(const struct cpu_host *h, const char *vm, pid_t pid, struct err *err)
{
        char group[CPU_GROUP_NAME];
        return cpu_group_enter(h, cpu_group_name(group, "emulator", vm), pid, true, err);
}

/* Never under a quota: whoever stops the VM waits for its slowest thread. Taking a group back that could not
 * be entered sets it, too: so all of it is one turn. */
static int park(const struct cpu_host *h, const char *vm, pid_t tid, struct err *err)
{
        char group[CPU_GROUP_NAME];
        struct cpu_group_setting before, to = {.weight = cpu_group_is_v2(h) ? 1 : 2};
        pthread_mutex_t *m = lock(vm);
        (void)pthread_mutex_lock(&sharing);
        int r = find_shared(h, &to.cpus, err);
        if (r == 0)
                r = cpu_group_set(h, cpu_group_name(group, "parked", vm), &to, &before, err);
        if (r == 0 && (r = cpu_group_move(h, vm, group, tid, err)) < 0)
                cpu_group_put_back(h, group, &before);
        (void)pthread_mutex_unlock(&sharing);
        (void)pthread_mutex_unlock(m);
        return r;
}

/* ---- items ---- */

static int not_there(const char *vm, const char *item, struct err *err)
{
        return err_set(err, REASON_NOT_FOUND, ENOENT, "%s of %s is not activated", item, vm);
}

/* The links of a group's folder are its children, and two. */
static int check_room(const struct cpu_host *h, struct err *err)
{
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH];
                struct stat st;
                if (stat(cpu_group_path(h, i, "", dir), &st) == 0 && st.st_nlink >= h->groups_max + 2)
                        return err_set(err, REASON_BUSY, EBUSY, "%s has %ju groups already", dir,
                                       (uintmax_t)st.st_nlink - 2);
        }
        return 0;
}

static int hold(const struct cpu_host *h, const char *vm, const char *item, const struct cpu_hold *what,
                struct err *err)
{
        char group[CPU_GROUP_NAME];
        struct cpu_group_setting before, to = {.cpus = what->cpus,
                                               .weight = CPU_WEIGHT_FACTOR * (long)what->share_milli,
                                               .period_us = CPU_PERIOD_US};
        if (what->ceiling_milli < CPU_SHARE_MAX)
                to.quota_us = (long)what->ceiling_milli * CPU_PERIOD_US / CPU_SHARE_MAX;
        int r = cpu_host_check_hold(h, what, err);
        if (r < 0)
                return r;
        pthread_mutex_t *m = lock(vm);
        if (!cpu_group_is_there(h, cpu_group_name(group, item, vm)))
                r = check_room(h, err);
        (void)pthread_mutex_lock(&sharing);
        if (r == 0)
                r = check_exclusive(h, group, &what->cpus, what->is_exclusive, err);
        if (r == 0)
                r = cpu_group_set(h, group, &to, &before, err);
        if (r == 0 && (r = note_exclusive(h, group, &what->cpus, what->is_exclusive, err)) < 0)
                cpu_group_put_back(h, group, &before);
        (void)pthread_mutex_unlock(&sharing);
        (void)pthread_mutex_unlock(m);
        return r;
}

/* The process of a thread, and that one's parent; 0: it is gone. */
static long process_of(pid_t tid, long *ret_parent)
{
        char dir[32], text[2048];
        *ret_parent = 0;
        (void)snprintf(dir, sizeof(dir), "/proc/%d", (int)tid);
        if (cgroupfs_read(dir, "status", text, sizeof(text), NULL) < 0)
                return 0;
        const char *process = strstr(text, "\nTgid:"), *parent = strstr(text, "\nPPid:");
        *ret_parent = parent ? strtol(parent + 6, NULL, 10) : 0;
        return process ? strtol(process + 6, NULL, 10) : 0;
}

/* Whose group a thread would have inherited: its process's, or its parent's where it is a process's first.
 * 0: nobody's. */
static long heir_of(pid_t tid)
{
        long parent, process = process_of(tid, &parent);
        return process != tid ? process : parent;
}

/* The group of a process in a hierarchy, of its line ID:CONTROLLERS:PATH; the top where there is none. */
static void group_of(const struct cpu_host *h, const struct cpu_tree *tree, long pid, char ret[CGROUPFS_PATH])
{
        char dir[32], text[4096], path[CGROUPFS_PATH];
        (void)snprintf(ret, CGROUPFS_PATH, "%s", tree->root);
        (void)snprintf(dir, sizeof(dir), "/proc/%ld", pid);
        if (pid <= 0 || cgroupfs_read(dir, "cgroup", text, sizeof(text), NULL) < 0)
                return;
        char *save;
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *controllers = strchr(line, ':'),
                     *at = controllers ? strchr(controllers + 1, ':') : NULL;
                if (!at)
                        continue;
                *at = '\0';
                bool is_it = cpu_group_is_v2(h)
                                     ? strcmp(line, "0:") == 0
                                     : cgroupfs_has_word(controllers + 1, tree->weights ? "cpu" : "cpuset");
                int n = is_it ? snprintf(path, sizeof(path), "%s%s", tree->root, at + 1) : 0;
                if (n > 0 && n < CGROUPFS_PATH && access(path, F_OK) == 0)
                        (void)snprintf(ret, CGROUPFS_PATH, "%s", path);
        }
}

/* An item is one thread's: who else is of its VMM goes where that is, a stranger where he would have been
 * born. */
static void evict(const struct cpu_host *h, const char *vm, const char *group, pid_t tid, long own)
{
        char emulator[CPU_GROUP_NAME];
        long parent;
        (void)cpu_group_name(emulator, "emulator", vm);
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH], home[CGROUPFS_PATH], text[CPU_THREADS_MAX * 12], *save;
                (void)cpu_group_path(h, i, group, dir);
                if (cgroupfs_read(dir, cpu_group_threads(h), text, sizeof(text), NULL) < 0)
                        continue;
                char *last = strrchr(text, '\n');
                if (last && strlen(text) == sizeof(text) - 1)
                        *last = '\0'; /* a number that may have been cut off */
                for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                        long other = strtol(line, NULL, 10);
                        if (other <= 0 || other == tid)
                                continue;
                        if (own > 0 && process_of((pid_t)other, &parent) == own)
                                (void)cpu_group_path(h, i, emulator, home);
                        else
                                group_of(h, &h->tree[i], heir_of((pid_t)other), home);
                        (void)cgroupfs_write(home, cpu_group_threads(h), line, h->is_fake, NULL);
                }
        }
}

static int bind(const struct cpu_host *h, const char *vm, const char *item, pid_t tid, struct err *err)
{
        char group[CPU_GROUP_NAME];
        pthread_mutex_t *m = lock(vm);
        int r = cpu_group_is_there(h, cpu_group_name(group, item, vm))
                        ? cpu_group_move(h, vm, group, tid, err)
                        : not_there(vm, item, err);
        long parent;
        if (r == 0)
                evict(h, vm, group, tid, process_of(tid, &parent));
        if (r == 0)
                (void)cpu_group_sweep(h, vm, CPU_REMOVE_BUT_ITEMS, group, NULL);
        (void)pthread_mutex_unlock(m);
        return r;
}

static void vacate(const struct cpu_host *h, const char *vm, const char *item, pid_t pid)
{
        char group[CPU_GROUP_NAME];
        pthread_mutex_t *m = lock(vm);
        evict(h, vm, cpu_group_name(group, item, vm), 0, pid);
        (void)pthread_mutex_unlock(m);
}

/* Asked before anything is removed, so that an item in use stays whole. */
static int check_empty(const struct cpu_host *h, const char *group, struct err *err)
{
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH], text[16];
                if (cgroupfs_read(cpu_group_path(h, i, group, dir), cpu_group_threads(h), text, sizeof(text),
                                  NULL) == 0 &&
                    *text)
                        return err_set(err, REASON_BUSY, EBUSY, "%s: thread %ld is in it still", group,
                                       strtol(text, NULL, 10));
        }
        return 0;
}

static int let_go(const struct cpu_host *h, const char *vm, const char *item, struct err *err)
{
        char group[CPU_GROUP_NAME], dir[CGROUPFS_PATH];
        pthread_mutex_t *m = lock(vm);
        int r = check_empty(h, cpu_group_name(group, item, vm), err);
        for (size_t i = 0; r == 0 && i < h->n_trees; i++)
                r = cgroupfs_remove(cpu_group_path(h, i, group, dir), h->is_fake, err);
        if (r == 0)
                r = free_exclusive(h, vm, err);
        /* What its thread was put aside into, where that thread is gone since. */
        if (r == 0)
                (void)cpu_group_sweep(h, vm, CPU_REMOVE_BUT_ITEMS, "", NULL);
        (void)pthread_mutex_unlock(m);
        return r;
}

/* Those that are in it in every tree: only they are held as it says. */
static void read_threads(const struct cpu_host *h, const char *group, struct cpu_live *live)
{
        char dir[CGROUPFS_PATH], other[CGROUPFS_PATH], text[CPU_THREADS_MAX * 12];
        char *save;
        if (cgroupfs_read(cpu_group_path(h, 0, group, dir), cpu_group_threads(h), text, sizeof(text), NULL) <
            0)
                return;
        for (char *line = strtok_r(text, "\n", &save); line && live->n_threads < CPU_THREADS_MAX;
             line = strtok_r(NULL, "\n", &save)) {
                long tid = strtol(line, NULL, 10);
                if (tid > 0 && (h->n_trees == 1 || cgroupfs_lists(cpu_group_path(h, 1, group, other),
                                                                  cpu_group_threads(h), tid, NULL) == 1))
                        live->threads[live->n_threads++] = (pid_t)tid;
        }
}

/* In one tree alone somebody has their CPUs, or their share. */
static bool has_others(const struct cpu_host *h, const char *group, const struct cpu_live *live)
{
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH], text[CPU_THREADS_MAX * 12], *save;
                if (cgroupfs_read(cpu_group_path(h, i, group, dir), cpu_group_threads(h), text, sizeof(text),
                                  NULL) < 0)
                        continue;
                for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                        bool is_known = false;
                        for (size_t k = 0; k < live->n_threads; k++)
                                is_known = is_known || live->threads[k] == strtol(line, NULL, 10);
                        if (!is_known)
                                return true;
                }
        }
        return false;
}

/* Rounded up, so that what is above a ceiling is never said to be at it. */
static int ceiling_of(const struct cpu_group_setting *s)
{
        long ceiling = s->quota_us > INT_MAX
                               ? CPU_CEILING_MAX
                               : (s->quota_us * CPU_SHARE_MAX + s->period_us - 1) / s->period_us;
        return ceiling < CPU_CEILING_MAX ? (int)ceiling : CPU_CEILING_MAX;
}

static int read_item(const struct cpu_host *h, const char *vm, const char *item, pid_t tid,
                     struct cpu_live *ret, struct err *err)
{
        char group[CPU_GROUP_NAME];
        struct cpu_group_setting s;
        struct cpu_live live = {.n_threads = 0};
        if (!cpu_group_is_there(h, cpu_group_name(group, item, vm)))
                return not_there(vm, item, err);
        int r = cpu_group_read(h, group, true, &s, err);
        if (r < 0)
                return r;
        live.cpus = s.cpus;
        live.share_milli = (int)(s.weight / CPU_WEIGHT_FACTOR);
        live.ceiling_milli = !cpu_group_has_quotas(h) ? -1 : s.quota_us > 0 ? ceiling_of(&s) : CPU_SHARE_MAX;
        live.period_us = s.quota_us > 0 ? s.period_us : 0;
        if ((r = read_exclusive(h, group, &s.cpus, &live.exclusive, err)) < 0)
                return r;
        if (live.exclusive < 0)
                live.fallback = CPU_NO_ROOM;
        read_threads(h, group, &live);
        live.has_others = has_others(h, group, &live);
        *ret = live;
        return 0;
}

static void give_back(const struct cpu_host *h, const char *vm, pid_t tid)
{
        char home[CGROUPFS_PATH], text[16];
        long heir = heir_of(tid);
        pthread_mutex_t *m = lock(vm);
        (void)snprintf(text, sizeof(text), "%d\n", (int)tid);
        for (size_t i = 0; i < h->n_trees; i++) {
                group_of(h, &h->tree[i], heir, home);
                (void)cgroupfs_write(home, cpu_group_threads(h), text, h->is_fake, NULL);
        }
        (void)pthread_mutex_unlock(m);
}

static int vm_remove(const struct cpu_host *h, const char *vm, enum cpu_removal removal, struct err *err)
{
        pthread_mutex_t *m = lock(vm);
        int r = cpu_group_sweep(h, vm, removal, NULL, err);
        if (r == 0 && removal == CPU_REMOVE_ALL)
                r = free_exclusive(h, vm, err);
        (void)pthread_mutex_unlock(m);
        return r;
}

static bool is_kept(const char *group, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep)
{
        size_t n = strcspn(group, "@");
        for (size_t i = 0; i < n_keep; i++)
                if (strlen(keep[i]) == n && strncmp(keep[i], group, n) == 0)
                        return true;
        return false;
}

/* One at a time is looked for and let go, so that nothing has to be remembered. */
static int prune(const struct cpu_host *h, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
                 struct err *err)
{
        int r = 0;
        for (size_t i = 0; r == 0 && i < h->n_trees;) {
                char dir[CGROUPFS_PATH], item[CPU_ITEM_SIZE] = "";
                DIR *d = opendir(cpu_group_path(h, i, "", dir));
                for (struct dirent *e; d && !*item && (e = readdir(d));)
                        if (cpu_group_is_of(e->d_name, vm) && !cpu_group_is_own(e->d_name) &&
                            !is_kept(e->d_name, keep, n_keep))
                                (void)snprintf(item, sizeof(item), "%.*s", (int)strcspn(e->d_name, "@"),
                                               e->d_name);
                if (d)
                        (void)closedir(d);
                if (*item)
                        r = let_go(h, vm, item, err);
                else
                        i++;
        }
        return r;
}

const struct cpu_provider cpu_cgroup = {
        .is_holding_shares = true,
        .vm_make = vm_make,
        .vm_enter = vm_enter,
        .park = park,
        .hold = hold,
        .bind = bind,
        .vacate = vacate,
        .let_go = let_go,
        .read = read_item,
        .give_back = give_back,
        .vm_remove = vm_remove,
        .prune = prune,
        .start = start,
        .finish = finish,
};

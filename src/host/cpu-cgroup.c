/* SPDX-License-Identifier: Apache-2.0 */
/* Both kinds of control groups through one set of functions: v1 is two trees of which one decides about
 * weights and the other about sets, v2 is one that does both and whose groups must be made threaded. */
#include "host/cpu.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GROUP_NAME = 96, V1_SHARES_MAX = 262144, V2_WEIGHT_MAX = 10000 };

static bool is_v2(const struct cpu_host *h)
{
        return h->id == CPU_CGROUP_V2;
}

static const char *threads_file(const struct cpu_host *h)
{
        return is_v2(h) ? "cgroup.threads" : "tasks";
}

/* Lengths are bounded: root, prefix and group together stay below CGROUPFS_PATH. */
static const char *path_of(const struct cpu_host *h, size_t tree, const char *group, char buf[CGROUPFS_PATH])
{
        _Static_assert(CGROUPFS_ROOT + CPU_PREFIX_SIZE + GROUP_NAME + 48 < CGROUPFS_PATH,
                       "names of files fit too");
        (void)snprintf(buf, CGROUPFS_PATH, "%s/%s%s%s", h->tree[tree].root, h->prefix, *group ? "/" : "",
                       group);
        return buf;
}

static int write_number(const struct cpu_host *h, const char *dir, const char *file, long value,
                        struct err *err)
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

static int read_set(const char *dir, const char *file, struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];
        int r = cgroupfs_read(dir, file, text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

static int write_set(const struct cpu_host *h, const char *dir, const struct cpulist *set, struct err *err)
{
        char text[CPULIST_TEXT];
        struct cpulist taken;
        int r = cgroupfs_write(dir, "cpuset.cpus", cpulist_print(set, text), h->is_fake, err);
        if (r < 0 || (r = read_set(dir, "cpuset.cpus", &taken, err)) < 0)
                return r;
        /* What is effective can be less: a CPU that went off line, or a parent that has fewer. */
        if (!h->is_fake && (r = read_set(dir, is_v2(h) ? "cpuset.cpus.effective" : "cpuset.effective_cpus",
                                         &taken, err)) < 0)
                return r;
        if (!cpulist_is_equal(set, &taken)) {
                char got[CPULIST_TEXT];
                return err_set(err, REASON_INTERNAL, EIO,
                               "%s/cpuset.cpus: wrote %.60s, the kernel took %.60s", dir, text,
                               cpulist_print(&taken, got));
        }
        return 0;
}

/* v1: a new group has no memory nodes, and nothing may enter before it has some. */
static int inherit_mems(const struct cpu_host *h, const char *parent, const char *dir, struct err *err)
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

static int group_make(const struct cpu_host *h, const char *group, const struct cpulist *cpus, long weight,
                      struct err *err)
{
        for (size_t i = 0; i < h->n_trees; i++) {
                char parent[CGROUPFS_PATH], dir[CGROUPFS_PATH];
                (void)path_of(h, i, "", parent);
                int r = cgroupfs_make(path_of(h, i, group, dir), err);
                if (r == 0 && is_v2(h))
                        r = make_threaded(h, dir, err);
                if (r == 0 && h->tree[i].sets && !is_v2(h))
                        r = inherit_mems(h, parent, dir, err);
                if (r == 0 && h->tree[i].sets)
                        r = write_set(h, dir, cpus, err);
                if (r == 0 && h->tree[i].weights)
                        r = write_number(h, dir, is_v2(h) ? "cpu.weight" : "cpu.shares", weight, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* With all threads through cgroup.procs, or one alone. */
static int group_enter(const struct cpu_host *h, const char *group, pid_t id, bool is_process,
                       struct err *err)
{
        char text[16];
        (void)snprintf(text, sizeof(text), "%d\n", (int)id);
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH];
                (void)path_of(h, i, group, dir);
                const char *file = is_process && !h->is_fake ? "cgroup.procs" : threads_file(h);
                int r = cgroupfs_write(dir, file, text, h->is_fake, err);
                if (r < 0)
                        return r == -ESRCH ? err_set(err, REASON_NOT_FOUND, ESRCH, "there is no thread %d",
                                                     (int)id)
                                           : r;
                r = cgroupfs_lists(dir, threads_file(h), id, err);
                if (r <= 0)
                        return r < 0 ? r
                                     : err_set(err, REASON_INTERNAL, EIO, "%s: thread %d did not enter", dir,
                                               (int)id);
        }
        return 0;
}

static void group_drop(const struct cpu_host *h, const char *group)
{
        char dir[CGROUPFS_PATH];
        for (size_t i = 0; i < h->n_trees; i++)
                (void)cgroupfs_remove(path_of(h, i, group, dir), h->is_fake, NULL);
}

/* Removes those groups of a VM that are empty, but `keep`; what is in use stays. The first error is returned.
 */
static int sweep(const struct cpu_host *h, const char *vm, const char *keep, struct err *err)
{
        int first = 0;
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH], group[CGROUPFS_PATH];
                DIR *d = opendir(path_of(h, i, "", dir));
                if (!d)
                        continue; /* nothing was made yet */
                for (struct dirent *e; (e = readdir(d));) {
                        const char *at = strchr(e->d_name, '@');
                        if (!at || strcmp(at + 1, vm) != 0 || strlen(e->d_name) >= GROUP_NAME ||
                            (keep &&
                             (strcmp(e->d_name, keep) == 0 || strncmp(e->d_name, "emulator@", 9) == 0)))
                                continue;
                        int r = cgroupfs_remove(path_of(h, i, e->d_name, group), h->is_fake,
                                                first ? NULL : err);
                        if (r < 0 && first == 0)
                                first = r;
                }
                (void)closedir(d);
        }
        return first;
}

static const char *name_of(char buf[GROUP_NAME], const char *role, const char *vm)
{
        (void)snprintf(buf, GROUP_NAME, "%s@%s", role, vm);
        return buf;
}

static const char *name_of_thread(char buf[GROUP_NAME], pid_t tid, const char *vm)
{
        (void)snprintf(buf, GROUP_NAME, "thread-%d@%s", (int)tid, vm);
        return buf;
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
        (void)read_set(dir, "cpuset.cpus", &have, NULL);
        if (cpulist_count(&have) > 0 && cpulist_is_within(set, &have))
                return 0;
        cpulist_join(&have, set);
        return write_set(h, dir, &have, err);
}

static int start_tree(const struct cpu_host *h, const struct cpu_tree *tree, const struct cpulist *all,
                      struct err *err)
{
        char dir[CGROUPFS_PATH], parent[CGROUPFS_PATH];
        (void)snprintf(dir, sizeof(dir), "%s", tree->root);
        for (const char *slash = h->prefix; slash;) {
                slash = strchr(slash + 1, '/');
                int n = slash ? (int)(slash - h->prefix) : (int)strlen(h->prefix);
                (void)snprintf(parent, sizeof(parent), "%s", dir);
                (void)snprintf(dir, sizeof(dir), "%s/%.*s", tree->root, n, h->prefix);
                int r = is_v2(h) ? hand_down(h, parent, err) : 0;
                if (r == 0)
                        r = cgroupfs_make(dir, err);
                if (r == 0 && tree->sets && !is_v2(h))
                        r = inherit_mems(h, parent, dir, err);
                if (r == 0 && tree->sets)
                        r = widen(h, dir, all, err);
                if (r < 0)
                        return r;
        }
        if (tree->weights) {
                long n = (long)cpulist_count(all), most = is_v2(h) ? V2_WEIGHT_MAX : V1_SHARES_MAX;
                long weight = (is_v2(h) ? 100L : 1024L) * 9 * n;
                int r = write_number(h, dir, is_v2(h) ? "cpu.weight" : "cpu.shares",
                                     weight < most ? weight : most, err);
                if (r < 0)
                        return r;
        }
        return is_v2(h) ? hand_down(h, dir, err) : 0;
}

static int start(const struct cpu_host *h, struct err *err)
{
        struct cpulist all = h->usable;
        cpulist_join(&all, &h->housekeeping);
        for (size_t i = 0; i < h->n_trees; i++) {
                int r = start_tree(h, &h->tree[i], &all, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void finish(const struct cpu_host *h)
{
        /* From the innermost outwards; a group that others use stays. */
        for (size_t i = 0; i < h->n_trees; i++) {
                char dir[CGROUPFS_PATH];
                size_t root = strlen(h->tree[i].root);
                (void)path_of(h, i, "", dir);
                while (strlen(dir) > root && cgroupfs_remove(dir, h->is_fake, NULL) == 0)
                        *strrchr(dir, '/') = '\0';
        }
}

static int vm_make(const struct cpu_host *h, const char *vm, struct err *err)
{
        char group[GROUP_NAME];
        return group_make(h, name_of(group, "emulator", vm), &h->housekeeping,
                          (long)CPU_WEIGHT_FACTOR * CPU_EMULATOR_SHARE, err);
}

static int vm_enter(const struct cpu_host *h, const char *vm, pid_t pid, struct err *err)
{
        char group[GROUP_NAME];
        return group_enter(h, name_of(group, "emulator", vm), pid, true, err);
}

/* Where a thread is and how it is held there, so that a move that fails can be taken back. */
struct placement {
        char group[GROUP_NAME];
        bool is_known; /* cpus and weight were read, and may differ from what comes */
        struct cpulist cpus;
        long weight;
};

static bool is_in(const struct cpu_host *h, const char *group, pid_t tid)
{
        char dir[CGROUPFS_PATH];
        for (size_t i = 0; i < h->n_trees; i++)
                if (cgroupfs_lists(path_of(h, i, group, dir), threads_file(h), tid, NULL) != 1)
                        return false;
        return true;
}

static void read_placement(const struct cpu_host *h, const char *vm, pid_t tid, struct placement *ret)
{
        char dir[CGROUPFS_PATH], text[24];
        *ret = (struct placement){.is_known = false};
        /* What the groups that threads share are set to never changes. */
        if (is_in(h, name_of(ret->group, "parked", vm), tid))
                return;
        if (!is_in(h, name_of_thread(ret->group, tid, vm), tid)) {
                (void)name_of(ret->group, "emulator", vm);
                return;
        }
        ret->is_known = true;
        for (size_t i = 0; i < h->n_trees; i++) {
                (void)path_of(h, i, ret->group, dir);
                if (h->tree[i].sets && read_set(dir, "cpuset.cpus", &ret->cpus, NULL) < 0)
                        ret->is_known = false;
                if (h->tree[i].weights && (cgroupfs_read(dir, is_v2(h) ? "cpu.weight" : "cpu.shares", text,
                                                         sizeof(text), NULL) < 0 ||
                                           (ret->weight = strtol(text, NULL, 10)) <= 0))
                        ret->is_known = false;
        }
}

/* Into a group made for it; where that fails it is held as before, and nothing is left behind. */
static int move(const struct cpu_host *h, const char *vm, const char *group, pid_t tid,
                const struct cpulist *cpus, long weight, struct err *err)
{
        struct placement before;
        read_placement(h, vm, tid, &before);
        int r = group_make(h, group, cpus, weight, err);
        if (r == 0)
                r = group_enter(h, group, tid, false, err);
        if (r < 0) {
                if (before.is_known)
                        (void)group_make(h, before.group, &before.cpus, before.weight, NULL);
                (void)group_enter(h, before.group, tid, false, NULL);
                if (strcmp(before.group, group) != 0)
                        group_drop(h, group);
                return r;
        }
        (void)sweep(h, vm, group, NULL);
        return 0;
}

static int place(const struct cpu_host *h, const char *vm, pid_t tid, const struct cpulist *cpus,
                 int share_milli, struct err *err)
{
        char group[GROUP_NAME];
        int r = cpu_host_check_place(h, cpus, share_milli, err);
        return r < 0 ? r
                     : move(h, vm, name_of_thread(group, tid, vm), tid, cpus,
                            CPU_WEIGHT_FACTOR * (long)share_milli, err);
}

static int park(const struct cpu_host *h, const char *vm, pid_t tid, struct err *err)
{
        char group[GROUP_NAME];
        return move(h, vm, name_of(group, "parked", vm), tid, &h->housekeeping, is_v2(h) ? 1 : 2, err);
}

/* Whose group a thread would have inherited: its process's, or its parent's where it is a process's first.
 * 0: nobody's. */
static long heir_of(pid_t tid)
{
        char dir[32], text[2048];
        (void)snprintf(dir, sizeof(dir), "/proc/%d", (int)tid);
        if (cgroupfs_read(dir, "status", text, sizeof(text), NULL) < 0)
                return 0;
        const char *process = strstr(text, "\nTgid:"), *parent = strstr(text, "\nPPid:");
        long id = process ? strtol(process + 6, NULL, 10) : 0;
        return id != tid ? id : parent ? strtol(parent + 6, NULL, 10) : 0;
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
                bool is_it = is_v2(h) ? strcmp(line, "0:") == 0
                                      : cgroupfs_has_word(controllers + 1, tree->weights ? "cpu" : "cpuset");
                int n = is_it ? snprintf(path, sizeof(path), "%s%s", tree->root, at + 1) : 0;
                if (n > 0 && n < CGROUPFS_PATH && access(path, F_OK) == 0)
                        (void)snprintf(ret, CGROUPFS_PATH, "%s", path);
        }
}

static void give_back(const struct cpu_host *h, const char *vm, pid_t tid)
{
        char group[GROUP_NAME], home[CGROUPFS_PATH], text[16];
        long heir = heir_of(tid);
        (void)snprintf(text, sizeof(text), "%d\n", (int)tid);
        for (size_t i = 0; i < h->n_trees; i++) {
                group_of(h, &h->tree[i], heir, home);
                (void)cgroupfs_write(home, threads_file(h), text, h->is_fake, NULL);
        }
        group_drop(h, name_of_thread(group, tid, vm));
}

static int vm_remove(const struct cpu_host *h, const char *vm, struct err *err)
{
        return sweep(h, vm, NULL, err);
}

const struct cpu_provider cpu_cgroup = {
        .is_holding_shares = true,
        .vm_make = vm_make,
        .vm_enter = vm_enter,
        .place = place,
        .park = park,
        .give_back = give_back,
        .vm_remove = vm_remove,
        .start = start,
        .finish = finish,
};

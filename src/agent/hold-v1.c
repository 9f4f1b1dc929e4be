/* SPDX-License-Identifier: Apache-2.0 */
/* Control groups v1: only its cpuset hierarchy. There are no partitions, so everybody who is in the root is
 * put into a group beside ours, mete-others, that has the other CPUs, for as long as anything is held. Groups
 * of others are not touched: where one of them has a CPU that is wanted, the CPU cannot be held. The soft
 * limit of memory protects nobody, so memory is not held at all. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/hold-internal.h"
#include "base/str.h"

static const struct cpulist nothing;

static int read_set(const char *dir, struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];

        int r = cgroupfs_read(dir, "cpuset.cpus", text, sizeof(text), err);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

/* A group has no CPUs and no nodes until it is told, and may hold no process before. */
static int fit(const struct holds *h, const char *name, const struct cpulist *cpus, struct err *err)
{
        char dir[CGROUPFS_PATH], mems[512], have[CPULIST_TEXT], text[CPULIST_TEXT];

        int r = cgroupfs_read(h->root, "cpuset.mems", mems, sizeof(mems), err);
        (void)hold_dir(h, name, dir);
        if (r == 0 &&
            (cgroupfs_read(dir, "cpuset.mems", have, sizeof(have), NULL) < 0 || strcmp(have, mems) != 0))
                r = cgroupfs_write(dir, "cpuset.mems", mems, h->is_fake, err);
        (void)cpulist_print(cpus, text);
        if (r == 0 &&
            (cgroupfs_read(dir, "cpuset.cpus", have, sizeof(have), NULL) < 0 || strcmp(have, text) != 0))
                r = cgroupfs_write(dir, "cpuset.cpus", text, h->is_fake, err);
        return r;
}

/* All that can be moved. New ones may come while it is done. */
static int move_all(const struct holds *h, const char *from, const char *to, struct err *err)
{
        struct err why = {0};
        struct hold_task task;
        size_t left = 1;

        for (int pass = 0; pass < HOLD_PASSES && left > 0; pass++) {
                pid_t *pids = NULL;
                size_t n = 0;
                int r = hold_list(h, from, &pids, &n, err);
                if (r < 0)
                        return r;
                left = 0;
                for (size_t i = 0; i < n; i++) {
                        if (hold_task_get(h, pids[i], &task) < 0 || task.is_kernel || task.is_dead)
                                continue;
                        left++;
                        (void)hold_move(h, pids[i], to, &why);
                }
                free(pids);
        }
        if (left > 0)
                return err_set(err, REASON_BUSY, EBUSY, "%zu processes do not go from %s to %s: %s", left,
                               from, to, why.sentence);
        return 0;
}

/* The others keep what is not held. */
static int others_keep(struct holds *h, const struct cpulist *held, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct cpulist all = {0}, rest = {0};

        (void)hold_dir(h, HOLD_OTHERS, dir);
        if (cpulist_next(held, 0) < 0) {
                int r = access(dir, F_OK) == 0 ? move_all(h, HOLD_OTHERS, "/", err) : 0;
                return r < 0 ? r : cgroupfs_remove(dir, h->is_fake, err);
        }
        int r = read_set(h->root, &all, err);
        for (int cpu = cpulist_next(&all, 0); r == 0 && cpu >= 0; cpu = cpulist_next(&all, (uint32_t)cpu + 1))
                if (!cpulist_has(held, (uint32_t)cpu))
                        (void)cpulist_add(&rest, (uint32_t)cpu);
        if (r == 0 && cpulist_next(&rest, 0) < 0)
                r = err_set(err, REASON_INVALID, EINVAL, "no vCPU would be left to the others");
        if (r < 0 || (r = cgroupfs_make(dir, err)) < 0 || (r = fit(h, HOLD_OTHERS, &rest, err)) < 0)
                return r;
        return move_all(h, "/", HOLD_OTHERS, err);
}

static int check_strangers(const struct holds *h, const struct cpulist *cpus, struct err *err)
{
        DIR *d = opendir(h->root);
        const struct dirent *e;
        int r = 0;

        while (d != NULL && r == 0 && (e = readdir(d)) != NULL) {
                char dir[CGROUPFS_PATH];
                struct cpulist theirs = {0};
                if (e->d_type != DT_DIR || e->d_name[0] == '.' || strcmp(e->d_name, HOLD_OTHERS) == 0 ||
                    strncmp(e->d_name, HOLD_PREFIX, strlen(HOLD_PREFIX)) == 0 ||
                    read_set(hold_dir(h, e->d_name, dir), &theirs, NULL) < 0)
                        continue;
                for (int cpu = cpulist_next(cpus, 0); cpu >= 0 && r == 0;
                     cpu = cpulist_next(cpus, (uint32_t)cpu + 1))
                        if (cpulist_has(&theirs, (uint32_t)cpu))
                                r = err_set(err, REASON_BUSY, EBUSY, "control group %.30s has vCPU %d too",
                                            e->d_name, cpu);
        }
        if (d != NULL)
                (void)closedir(d);
        return r;
}

static struct cpulist held_but(const struct holds *h, const struct held *but)
{
        struct cpulist all = {0};

        for (size_t i = 0; i < h->n; i++)
                if (h->held[i] != but)
                        cpulist_join(&all, &h->held[i]->has.cpus);
        return all;
}

static int v1_cpus(struct holds *h, struct held *of, const struct cpulist *cpus, struct err *err)
{
        struct cpulist all = held_but(h, of);

        if (cpulist_next(cpus, 0) < 0)
                return others_keep(h, &all, err);
        cpulist_join(&all, cpus);
        int r = check_strangers(h, cpus, err);
        if (r < 0 || (r = others_keep(h, &all, err)) < 0)
                return r;
        return fit(h, of->name, cpus, err);
}

static int v1_memory(struct holds *h, struct held *of, int64_t bytes, struct err *err)
{
        (void)h;
        (void)of;
        return bytes == 0 ? 0 : err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->lack);
}

/* Who was in the root belongs to the others while anything is held. */
static const char *v1_home(struct holds *h, const struct held *of, const char *path)
{
        struct cpulist all = held_but(h, of);

        if (strcmp(path, "/") != 0 && strcmp(path, "/" HOLD_OTHERS) != 0)
                return path;
        return cpulist_next(&all, 0) >= 0 ? "/" HOLD_OTHERS : "/";
}

static int v1_clear(struct holds *h, struct err *err)
{
        return others_keep(h, &nothing, err);
}

const struct hold_provider hold_v1 = {
        .name = "cgroup-v1", .cpus = v1_cpus, .memory = v1_memory, .home = v1_home, .clear = v1_clear};

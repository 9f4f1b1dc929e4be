/* SPDX-License-Identifier: Apache-2.0 */
/* The last resort: affinity holds a thread on its CPUs, nothing holds a share of them. No object of the
 * kernel's stands for an item before a thread is bound to it, so a file ITEM@VM has its CPUs. */
#include "host/cpu.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "host/cpu-group.h"

_Static_assert(sizeof(struct cpulist) % sizeof(unsigned long) == 0, "the kernel's masks are made of longs");

/* Nothing but the thread's own mask: no trace is left that would have to be removed. */
static int hold(pid_t tid, const struct cpulist *cpus, int nice, struct err *err)
{
        struct cpulist taken = {0}, before = {0};
        errno = 0;
        int nice_before = getpriority(PRIO_PROCESS, (id_t)tid);
        bool is_known =
                errno == 0 && sched_getaffinity(tid, sizeof(before.bits), (cpu_set_t *)before.bits) >= 0;
        int r = 0;
        if (sched_setaffinity(tid, sizeof(cpus->bits), (const cpu_set_t *)cpus->bits) < 0 ||
            setpriority(PRIO_PROCESS, (id_t)tid, nice) < 0 ||
            sched_getaffinity(tid, sizeof(taken.bits), (cpu_set_t *)taken.bits) < 0)
                r = err_set(err, errno == ESRCH ? REASON_NOT_FOUND : REASON_INTERNAL, errno, "thread %d: %s",
                            (int)tid, strerror(errno));
        else if (!cpulist_is_equal(cpus, &taken))
                r = err_set(err, REASON_INTERNAL, EIO, "thread %d: the kernel did not take its CPUs",
                            (int)tid);
        if (r < 0 && is_known) { /* held as before */
                (void)sched_setaffinity(tid, sizeof(before.bits), (const cpu_set_t *)before.bits);
                (void)setpriority(PRIO_PROCESS, (id_t)tid, nice_before);
        }
        return r;
}

static int start(const struct cpu_host *h, struct err *err)
{
        return *h->keep_dir ? cgroupfs_make(h->keep_dir, err) : 0;
}

/* What items still have stays. */
static void finish(const struct cpu_host *h)
{
        if (*h->keep_dir)
                (void)rmdir(h->keep_dir);
}

enum { NOTE_NAME = 96 };

static int name_of(const struct cpu_host *h, const char *vm, const char *item, char buf[NOTE_NAME],
                   struct err *err)
{
        if (!*h->keep_dir)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "nowhere to note what %s of %s has", item,
                               vm);
        (void)snprintf(buf, NOTE_NAME, "%s@%s", item, vm);
        return 0;
}

static int read_note(const struct cpu_host *h, const char *vm, const char *item, struct cpulist *ret,
                     struct err *err)
{
        char name[NOTE_NAME], text[CPULIST_TEXT];
        int r = name_of(h, vm, item, name, err);
        if (r == 0 && (r = cgroupfs_read(h->keep_dir, name, text, sizeof(text), err)) == -ENOENT)
                r = err_set(err, REASON_NOT_FOUND, ENOENT, "%s of %s is not activated", item, vm);
        return r < 0 ? r : cpulist_parse(text, ret, err);
}

/* Nothing tells which threads there are to be kept off. */
static int hold_item(const struct cpu_host *h, const char *vm, const char *item, const struct cpu_hold *what,
                     struct err *err)
{
        char name[NOTE_NAME], text[CPULIST_TEXT];
        int r = cpu_host_check_hold(h, what, err);
        if (r == 0 && what->is_exclusive && !h->is_best_effort)
                r = err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->fallback);
        if (r == 0)
                r = name_of(h, vm, item, name, err);
        return r < 0 ? r : cgroupfs_keep(h->keep_dir, name, cpulist_print(&what->cpus, text), err);
}

static int bind(const struct cpu_host *h, const char *vm, const char *item, pid_t tid, struct err *err)
{
        struct cpulist cpus;
        int r = read_note(h, vm, item, &cpus, err);
        return r < 0 ? r : hold(tid, &cpus, 0, err);
}

static int let_go(const struct cpu_host *h, const char *vm, const char *item, struct err *err)
{
        char name[NOTE_NAME];
        int r = name_of(h, vm, item, name, err);
        return r < 0 ? r : cgroupfs_forget(h->keep_dir, name, err);
}

static int read_item(const struct cpu_host *h, const char *vm, const char *item, pid_t tid,
                     struct cpu_live *ret, struct err *err)
{
        struct cpulist noted;
        struct cpu_live live = {
                .share_milli = -1, .ceiling_milli = -1, .exclusive = -1, .fallback = h->fallback};
        int r = read_note(h, vm, item, &noted, err);
        if (r < 0)
                return r;
        if (tid > 0) {
                if (sched_getaffinity(tid, sizeof(live.cpus.bits), (cpu_set_t *)live.cpus.bits) < 0)
                        return err_set(err, errno == ESRCH ? REASON_NOT_FOUND : REASON_INTERNAL, errno,
                                       "thread %d: %s", (int)tid, strerror(errno));
                live.threads[live.n_threads++] = tid;
        }
        *ret = live;
        return 0;
}

static int vm_make(const struct cpu_host *h, const char *vm, struct err *err)
{
        return 0;
}

/* The kernel takes those that are off line, and does not say so. */
static int hold_aside(const struct cpu_host *h, pid_t tid, int nice, struct err *err)
{
        struct cpulist cpus = h->housekeeping;
        cpu_group_leave_online(h, &cpus);
        return hold(tid, &cpus, nice, err);
}

static int vm_enter(const struct cpu_host *h, const char *vm, pid_t pid, struct err *err)
{
        return hold_aside(h, pid, 0, err);
}

/* Which threads it is about is noted nowhere, and vCPUs may be on the same CPUs: the first one alone. */
static void vacate(const struct cpu_host *h, const char *vm, const char *item, pid_t pid)
{
        struct cpulist noted, now = {0};
        if (pid > 0 && read_note(h, vm, item, &noted, NULL) == 0 &&
            sched_getaffinity(pid, sizeof(now.bits), (cpu_set_t *)now.bits) >= 0 &&
            cpulist_is_equal(&now, &noted))
                (void)hold_aside(h, pid, 0, NULL);
}

static int park(const struct cpu_host *h, const char *vm, pid_t tid, struct err *err)
{
        return hold_aside(h, tid, 19, err);
}

static void give_back(const struct cpu_host *h, const char *vm, pid_t tid)
{
        struct cpulist all;
        memset(all.bits, 0xff, sizeof(all.bits));
        (void)sched_setaffinity(tid, sizeof(all.bits), (const cpu_set_t *)all.bits);
        (void)setpriority(PRIO_PROCESS, (id_t)tid, 0);
}

static int vm_remove(const struct cpu_host *h, const char *vm, enum cpu_removal removal, struct err *err)
{
        DIR *d = removal == CPU_REMOVE_ALL && *h->keep_dir ? opendir(h->keep_dir) : NULL;
        int first = 0;
        for (struct dirent *e; d && (e = readdir(d));) {
                const char *at = strchr(e->d_name, '@');
                int r = at && strcmp(at + 1, vm) == 0
                                ? cgroupfs_forget(h->keep_dir, e->d_name, first ? NULL : err)
                                : 0;
                if (first == 0)
                        first = r;
        }
        if (d)
                (void)closedir(d);
        return first;
}

static int prune(const struct cpu_host *h, const char *vm, const char (*keep)[CPU_ITEM_SIZE], size_t n_keep,
                 struct err *err)
{
        DIR *d = *h->keep_dir ? opendir(h->keep_dir) : NULL;
        int r = 0;
        for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
                const char *at = strchr(e->d_name, '@');
                bool stays = !at || strcmp(at + 1, vm) != 0;
                for (size_t i = 0; at && i < n_keep && !stays; i++)
                        stays = strlen(keep[i]) == (size_t)(at - e->d_name) &&
                                strncmp(keep[i], e->d_name, strlen(keep[i])) == 0;
                if (!stays)
                        r = cgroupfs_forget(h->keep_dir, e->d_name, err);
        }
        if (d)
                (void)closedir(d);
        return r;
}

const struct cpu_provider cpu_affinity = {
        .is_holding_shares = false,
        .vm_make = vm_make,
        .vm_enter = vm_enter,
        .park = park,
        .hold = hold_item,
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

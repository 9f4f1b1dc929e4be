/* SPDX-License-Identifier: Apache-2.0 */
/* The last resort: affinity holds a thread on its CPUs, nothing holds a share of them. */
#include "host/cpu.h"

#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

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
        return 0;
}

static void finish(const struct cpu_host *h)
{
}

static int vm_make(const struct cpu_host *h, const char *vm, struct err *err)
{
        return 0;
}

static int vm_enter(const struct cpu_host *h, const char *vm, pid_t pid, struct err *err)
{
        return hold(pid, &h->housekeeping, 0, err);
}

static int place(const struct cpu_host *h, const char *vm, pid_t tid, const struct cpulist *cpus,
                 int share_milli, struct err *err)
{
        int r = cpu_host_check_place(h, cpus, share_milli, err);
        return r < 0 ? r : hold(tid, cpus, 0, err);
}

static int park(const struct cpu_host *h, const char *vm, pid_t tid, struct err *err)
{
        return hold(tid, &h->housekeeping, 19, err);
}

static void give_back(const struct cpu_host *h, const char *vm, pid_t tid)
{
        struct cpulist all;
        memset(all.bits, 0xff, sizeof(all.bits));
        (void)sched_setaffinity(tid, sizeof(all.bits), (const cpu_set_t *)all.bits);
        (void)setpriority(PRIO_PROCESS, (id_t)tid, 0);
}

static int vm_remove(const struct cpu_host *h, const char *vm, struct err *err)
{
        return 0;
}

const struct cpu_provider cpu_affinity = {
        .is_holding_shares = false,
        .vm_make = vm_make,
        .vm_enter = vm_enter,
        .place = place,
        .park = park,
        .give_back = give_back,
        .vm_remove = vm_remove,
        .start = start,
        .finish = finish,
};

/* SPDX-License-Identifier: Apache-2.0 */
/* Holds two spinning threads of two processes on one CPU through the provider that this kernel gives, and
 * measures what each gets. Linked statically, so that the same program runs here and in a guest with another
 * kind of cgroups.
 *
 *     cpu-holds PREFIX [cgroup-v1|cgroup-v2]       the last line is "CPU-HOLDS OK ..." */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "host/cpu.h"

enum { MEASURE_S = 2 };

static struct cpu_host host;
static pid_t started[3];

#define CHECK(condition, ...)                                                                                \
        do {                                                                                                 \
                if (!(condition))                                                                            \
                        fail(#condition, __LINE__, "" __VA_ARGS__);                                          \
        } while (0)

__attribute__((noreturn)) static void fail(const char *what, int line, const char *more)
{
        printf("CPU-HOLDS FAILED at %d: %s %s\n", line, what, more);
        for (int i = 0; i < 3; i++)
                if (started[i] > 0)
                        (void)kill(started[i], SIGKILL);
        exit(1);
}

static void *spin(void *arg)
{
        volatile unsigned long n = 0;
        pid_t tid = gettid();
        if (write(*(int *)arg, &tid, sizeof(tid)) != sizeof(tid))
                _exit(1);
        for (;;)
                n++;
        return NULL;
}

/* A process like a VMM: a first thread that sleeps and one that spins, both there before it enters its group.
 */
static pid_t start_process(int which, pid_t *ret_tid)
{
        int fds[2];
        CHECK(pipe(fds) == 0);
        pid_t pid = fork();
        if (pid == 0) {
                pthread_t t;
                (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (pthread_create(&t, NULL, spin, &fds[1]) != 0)
                        _exit(1);
                for (;;)
                        pause();
        }
        CHECK(pid > 0);
        started[which] = pid;
        CHECK(read(fds[0], ret_tid, sizeof(*ret_tid)) == sizeof(*ret_tid));
        (void)close(fds[0]);
        (void)close(fds[1]);
        return pid;
}

static unsigned long long busy(pid_t pid, pid_t tid)
{
        char path[64], text[1024];
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", (int)pid, (int)tid);
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0, "(schedstat)");
        ssize_t n = read(fd, text, sizeof(text) - 1);
        CHECK(n > 0);
        text[n] = '\0';
        (void)close(fd);
        return strtoull(text, NULL, 10);
}

/* Thousandths that the first has of what both use. */
static int share_of_first(const pid_t pids[2], const pid_t tids[2])
{
        unsigned long long used[2];
        (void)usleep(300000);
        for (int i = 0; i < 2; i++)
                used[i] = busy(pids[i], tids[i]);
        (void)sleep(MEASURE_S);
        for (int i = 0; i < 2; i++)
                used[i] = busy(pids[i], tids[i]) - used[i];
        return (int)(used[0] * 1000 / (used[0] + used[1]));
}

/* Thousandths of a CPU. */
static int share_of_cpu(pid_t pid, pid_t tid)
{
        struct timespec from, to;
        (void)usleep(300000);
        CHECK(clock_gettime(CLOCK_MONOTONIC, &from) == 0);
        unsigned long long used = busy(pid, tid);
        (void)sleep(MEASURE_S);
        used = busy(pid, tid) - used;
        CHECK(clock_gettime(CLOCK_MONOTONIC, &to) == 0);
        return (int)(used / (unsigned long long)((to.tv_sec - from.tv_sec) * 1000000 +
                                                 (to.tv_nsec - from.tv_nsec) / 1000));
}

static bool is_in(pid_t pid, pid_t tid, const char *group)
{
        char path[64], text[4096] = "";
        if (host.id == CPU_AFFINITY)
                return true;
        (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/cgroup", (int)pid, (int)tid);
        int fd = open(path, O_RDONLY);
        CHECK(fd >= 0);
        ssize_t n = read(fd, text, sizeof(text) - 1);
        CHECK(n > 0);
        (void)close(fd);
        return strstr(text, group) != NULL;
}

/* ---- items, and a fault at each change of a file that they make ---- */

static int fault_at, changes, cases;

static int fault(const char *path)
{
        return ++changes == fault_at ? EIO : 0;
}

static int by_text(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every group with what it is set to and who is in it, in one text. */
static void snapshot(const char *prefix, char *text, size_t size)
{
        /* The period of a quota that is none says nothing. */
        static const char *const files[] = {"cpuset.cpus",      "cpuset.mems",   "cpu.shares",
                                            "cpu.weight",       "tasks",         "cpu.max",
                                            "cpu.cfs_quota_us", "cgroup.threads"};
        char dir[CGROUPFS_PATH], line[1024], *lines[512];
        int n = 0;
        for (size_t i = 0; i < host.n_trees; i++) {
                (void)snprintf(dir, sizeof(dir), "%.180s/%.60s", host.tree[i].root, prefix);
                DIR *d = opendir(dir);
                CHECK(d);
                for (struct dirent *e; (e = readdir(d));) {
                        char group[CGROUPFS_PATH * 2], words[512], *save;
                        if (!strchr(e->d_name, '@'))
                                continue;
                        (void)snprintf(group, sizeof(group), "%s/%s", dir, e->d_name);
                        for (size_t k = 0; k < sizeof(files) / sizeof(files[0]); k++) {
                                (void)snprintf(line, sizeof(line), "%s/%s", group, files[k]);
                                if (access(line, F_OK) < 0)
                                        continue;
                                CHECK(cgroupfs_read(group, files[k], words, sizeof(words), NULL) == 0);
                                char *word = strtok_r(words, "\n", &save);
                                do { /* threads stand in no order */
                                        (void)snprintf(line, sizeof(line), "%zu %s %s %s", i, e->d_name,
                                                       files[k], word ? word : "");
                                        CHECK(n < 512 && (lines[n++] = strdup(line)));
                                } while (word && (word = strtok_r(NULL, "\n", &save)));
                        }
                }
                (void)closedir(d);
        }
        qsort(lines, (size_t)n, sizeof(lines[0]), by_text);
        size_t at = 0;
        for (int i = 0; i < n; i++) {
                at += (size_t)snprintf(text + at, size - at, "%s\n", lines[i]);
                CHECK(at < size);
                free(lines[i]);
        }
}

static int hold(const char *vm, const char *item, const struct cpulist *cpus, int share_milli,
                int ceiling_milli, struct err *err)
{
        struct cpu_hold what = {.cpus = *cpus, .share_milli = share_milli, .ceiling_milli = ceiling_milli};
        return host.provider->hold(&host, vm, item, &what, err);
}

/* Its item, with that thread in it. */
static int place(const char *vm, pid_t tid, const struct cpulist *cpus, int share_milli, int ceiling_milli,
                 struct err *err)
{
        int r = hold(vm, "vcpu0", cpus, share_milli, ceiling_milli, err);
        return r < 0 ? r : host.provider->bind(&host, vm, "vcpu0", tid, err);
}

/* Where a thread comes from before it is bound. */
enum from { FROM_EMULATOR, FROM_PARKED, FROM_ITEM, FROM_N };

static void put_thread(enum from from, pid_t tid, const struct cpulist *cpus)
{
        const struct cpu_provider *p = host.provider;
        struct err err;
        CHECK(hold("v", "vcpu8", cpus, 800, 1000, &err) == 0);
        if (from == FROM_EMULATOR) {
                char dir[CGROUPFS_PATH], text[16];
                (void)snprintf(text, sizeof(text), "%d\n", (int)tid);
                for (size_t i = 0; i < host.n_trees; i++) {
                        (void)snprintf(dir, sizeof(dir), "%s/%s/emulator@v", host.tree[i].root, host.prefix);
                        CHECK(cgroupfs_write(dir, host.id == CPU_CGROUP_V2 ? "cgroup.threads" : "tasks", text,
                                             false, &err) == 0);
                }
        } else if (from == FROM_PARKED) {
                CHECK(p->park(&host, "v", tid, &err) == 0);
        } else {
                CHECK(p->bind(&host, "v", "vcpu8", tid, &err) == 0);
        }
}

/* Each change fails once; then all is as before. */
static void fail_each(const char *prefix, int (*set_up)(int arg), int (*act)(int arg), int arg)
{
        static char before[65536], after[65536];
        for (fault_at = 1;; fault_at++) {
                int at = fault_at;
                fault_at = 0;
                CHECK(set_up(arg) == 0);
                snapshot(prefix, before, sizeof(before));
                fault_at = at;
                changes = 0;
                int r = act(arg);
                bool is_over = changes < fault_at;
                if (r < 0)
                        snapshot(prefix, after, sizeof(after));
                CHECK(!is_over || r == 0);
                CHECK(r == 0 || strcmp(before, after) == 0, "(not as before)");
                if (is_over)
                        break;
                cases += r < 0;
        }
        fault_at = 0;
}

static struct cpulist item_cpus;
static pid_t item_tid;

static int none_held(int arg)
{
        return host.provider->let_go(&host, "v", "vcpu9", NULL);
}

static int other_held(int arg)
{
        return hold("v", "vcpu9", &item_cpus, 100, arg ? 400 : 1000, NULL);
}

static int held(int arg)
{
        return hold("v", "vcpu9", &item_cpus, 200, 300, NULL);
}

static int ready_to_bind(int from)
{
        put_thread((enum from)from, item_tid, &item_cpus);
        return held(0);
}

static int bound(int from)
{
        return host.provider->bind(&host, "v", "vcpu9", item_tid, NULL);
}

static int parked(int arg)
{
        return host.provider->park(&host, "v", item_tid, NULL);
}

static void try_items(const char *prefix, pid_t pid, pid_t tid, const struct cpulist *cpus)
{
        static char before[65536], after[65536];
        const struct cpu_provider *p = host.provider;
        struct err err;
        struct cpu_live live;
        item_cpus = *cpus;
        item_tid = tid;
        snapshot(prefix, before, sizeof(before));
        cgroupfs_fault = fault;
        fail_each(prefix, none_held, held, 0);
        for (int has_ceiling = 0; has_ceiling < 2; has_ceiling++)
                fail_each(prefix, other_held, held, has_ceiling);
        for (int from = 0; from < FROM_N; from++) {
                fail_each(prefix, ready_to_bind, bound, from);
                CHECK(is_in(pid, tid, "/vcpu9@v"));
                CHECK(p->read(&host, "v", "vcpu9", 0, &live, &err) == 0);
                CHECK(live.n_threads == 1 && live.threads[0] == tid && live.share_milli == 200 &&
                      live.ceiling_milli == 300 && cpulist_is_equal(&live.cpus, cpus));
                CHECK(p->let_go(&host, "v", "vcpu9", &err) == -EBUSY);
        }
        fail_each(prefix, bound, parked, 0);
        cgroupfs_fault = NULL;
        printf("%d changes failed, and all was as before\n", cases);
        CHECK(cases >= 12);
        /* No more groups than there may be. */
        host.groups_max = 1;
        CHECK(hold("v", "vcpu7", cpus, 1, 1000, &err) == -EBUSY);
        CHECK(hold("v", "vcpu9", cpus, 1, 1000, &err) == 0); /* is there */
        host.groups_max = CPU_GROUPS_MAX;
        put_thread(FROM_EMULATOR, tid, cpus);
        CHECK(p->let_go(&host, "v", "vcpu8", &err) == 0 && p->let_go(&host, "v", "vcpu9", &err) == 0);
        snapshot(prefix, after, sizeof(after));
        CHECK(strcmp(before, after) == 0, "(a trace is left)");
}

int main(int argc, char **argv)
{
        static const char *const vms[2] = {"v", "w"};
        static const int shares[][2] = {
                {900, 100},
                {500, 500},
                {250, 750}
        };
        struct cpu_host_options o = {.prefix = argc > 1 ? argv[1] : "mete-holds", .housekeeping = "0"};
        struct err err = {0};
        pid_t pids[2], tids[2];
        char group[64];
        (void)setvbuf(stdout, NULL, _IONBF, 0);
        if (cpu_host_init(&host, &o, &err) < 0)
                fail("cpu_host_init", __LINE__, err.sentence);
        printf("held by %s\n", cpu_provider_id_name(host.id));
        CHECK(argc < 3 || strcmp(argv[2], cpu_provider_id_name(host.id)) == 0);
        const struct cpu_provider *p = host.provider;
        struct cpulist cpus = {0};
        CHECK(cpulist_add(&cpus, 0));
        for (int again = 0; again < 2; again++)
                if (p->start(&host, &err) < 0)
                        fail("start", __LINE__, err.sentence);
        for (int i = 0; i < 2; i++) {
                pids[i] = start_process(i, &tids[i]);
                if (p->vm_make(&host, vms[i], &err) < 0 || p->vm_enter(&host, vms[i], pids[i], &err) < 0)
                        fail("vm_make, vm_enter", __LINE__, err.sentence);
                (void)snprintf(group, sizeof(group), "/emulator@%s", vms[i]);
                CHECK(is_in(pids[i], pids[i], group) && is_in(pids[i], tids[i], group));
        }
        if (host.id != CPU_AFFINITY)
                try_items(o.prefix, pids[0], tids[0], &cpus);
        for (size_t k = 0; k < sizeof(shares) / sizeof(shares[0]) && p->is_holding_shares; k++) {
                for (int i = 0; i < 4; i++) /* each twice */
                        if (place(vms[i % 2], tids[i % 2], &cpus, shares[k][i % 2], 1000, &err) < 0)
                                fail("place", __LINE__, err.sentence);
                CHECK(is_in(pids[0], tids[0], "/vcpu0@v") && is_in(pids[0], pids[0], "/emulator@v"));
                int got = share_of_first(pids, tids);
                printf("share 0.%03d measured 0.%03d\n", shares[k][0], got);
                CHECK(abs(got - shares[k][0]) < 50);
        }
        if (place("v", tids[0], &cpus, 1000, 1000, &err) < 0 || p->park(&host, "w", tids[1], &err) < 0)
                fail("park", __LINE__, err.sentence);
        CHECK(is_in(pids[1], tids[1], "/parked@w"));
        int beside = share_of_first(pids, tids);
        printf("beside a parked one measured %d thousandths\n", beside);
        CHECK(beside > 950);
        /* Alone on the CPU, with a ceiling and without. */
        for (int i = 0; i < 2; i++) {
                int ceiling = i ? 1000 : 300;
                if (place("v", tids[0], &cpus, 200, ceiling, &err) < 0)
                        fail("place", __LINE__, err.sentence);
                int got = share_of_cpu(pids[0], tids[0]);
                printf("ceiling 0.%03d measured 0.%03d\n", ceiling, got);
                CHECK(i || got < 400);
        }
        if (host.id != CPU_AFFINITY)
                CHECK(p->vm_remove(&host, "v", CPU_REMOVE_ALL, &err) == -EBUSY);
        /* A stranger's thread, taken for v's: back among its process's others. */
        pid_t stranger, spinning;
        stranger = start_process(2, &spinning);
        bool is_taken = place("v", spinning, &cpus, 500, 1000, &err) == 0;
        if (is_taken) /* v2 refuses it by itself: it is of another domain */
                p->give_back(&host, "v", spinning);
        CHECK(is_taken || host.id == CPU_CGROUP_V2);
        CHECK(!is_in(stranger, spinning, "/vcpu0@v") && !is_in(stranger, spinning, "/emulator@v"));
        /* One of w's, taken for v's, which v2 does not refuse. */
        if (place("v", tids[1], &cpus, 500, 1000, &err) < 0)
                fail("place", __LINE__, err.sentence);
        p->give_back(&host, "v", tids[1]);
        CHECK(is_in(pids[1], tids[1], "/emulator@w"));
        (void)kill(stranger, SIGKILL);
        (void)waitpid(stranger, NULL, 0);
        started[2] = 0;
        for (int i = 0; i < 2; i++) {
                (void)kill(pids[i], SIGKILL);
                (void)waitpid(pids[i], NULL, 0);
                if (p->vm_remove(&host, vms[i], CPU_REMOVE_ALL, &err) < 0)
                        fail("vm_remove", __LINE__, err.sentence);
        }
        p->finish(&host);
        for (size_t i = 0; i < host.n_trees; i++) {
                (void)snprintf(group, sizeof(group), "%.40s/%.20s", host.tree[i].root, o.prefix);
                CHECK(access(group, F_OK) < 0 && errno == ENOENT);
        }
        printf("CPU-HOLDS OK %s\n", cpu_provider_id_name(host.id));
        return 0;
}

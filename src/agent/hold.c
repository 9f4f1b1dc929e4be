/* SPDX-License-Identifier: Apache-2.0 */
/* The model. What shall be is told whole each time (holds_set()), and only what differs is written, so that
 * after a restart or a failure the same is simply told again. A group is made, gets its vCPUs and its memory,
 * and is entered last; it is left first. A part that fails is put back to what it was before. */
#include "agent/hold.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/busctl.h"
#include "agent/hold-internal.h"
#include "base/log.h"
#include "base/str.h"

static const struct cpulist no_cpus;

const char *hold_dir(const struct holds *h, const char *path, char buf[CGROUPFS_PATH])
{
        path += *path == '/';
        (void)snprintf(buf, CGROUPFS_PATH, "%.*s%s%.*s", CGROUPFS_ROOT, h->root, *path ? "/" : "", HOLD_PATH,
                       path);
        return buf;
}

/* ---- what this guest can do ---- */

static void lacks_controllers(struct holds *h)
{
        if (!h->has_cpuset || !h->has_memory)
                (void)snprintf(h->lack, sizeof(h->lack), "the control groups have no controller%s",
                               h->has_cpuset   ? " memory"
                               : h->has_memory ? " cpuset"
                                               : "s cpuset and memory");
}

static void choose_systemd(struct holds *h, const struct hold_options *o,
                           const struct cgroupfs_mounts *mounts)
{
        const char *busctl = o->busctl ? o->busctl : BUSCTL_PATH;

        if (*mounts->v2 == '\0') {
                (void)STR_COPY(h->lack, "systemd owns the control groups, and they are v1");
        } else if (access(busctl, X_OK) < 0) {
                (void)snprintf(h->lack, sizeof(h->lack),
                               "systemd owns the control groups, and there is no %.60s to ask it", busctl);
        } else {
                lacks_controllers(h);
                (void)STR_COPY(h->root, mounts->v2);
                h->provider = h->has_cpuset || h->has_memory ? &hold_systemd : NULL;
        }
        if (h->provider != NULL)
                hold_systemd_new(h, o);
}

static void choose(struct holds *h, const struct hold_options *o)
{
        struct cgroupfs_mounts mounts = {0};
        char controllers[512] = "";

        if (!o->is_fake && geteuid() != 0) {
                (void)STR_COPY(h->lack, "the agent is not root");
                return;
        }
        (void)cgroupfs_find(o->mountinfo, &mounts, NULL);
        if (*mounts.v2)
                (void)cgroupfs_read(mounts.v2, "cgroup.controllers", controllers, sizeof(controllers), NULL);
        h->has_cpuset = cgroupfs_has_word(controllers, "cpuset");
        h->has_memory = cgroupfs_has_word(controllers, "memory");
        if (access(o->systemd, F_OK) == 0)
                choose_systemd(h, o, &mounts);
        else if (!h->has_cpuset && *mounts.v1_cpuset) {
                h->provider = &hold_v1;
                h->has_cpuset = true;
                h->has_memory = false;
                (void)STR_COPY(h->root, mounts.v1_cpuset);
                (void)STR_COPY(h->lack, "control groups v1 have no memory.min");
        } else if (h->has_cpuset || h->has_memory) {
                h->provider = &hold_v2;
                (void)STR_COPY(h->root, mounts.v2);
                lacks_controllers(h);
        } else if (*mounts.v2) {
                lacks_controllers(h);
        } else {
                (void)STR_COPY(h->lack, "no control groups that can be written");
        }
}

struct holds *holds_new(const struct hold_options *o)
{
        struct holds *h = g_new0(struct holds, 1);

        h->is_fake = o->is_fake;
        (void)STR_COPY(h->proc, o->proc);
        if (!STR_COPY(h->records, o->records))
                (void)STR_COPY(h->lack, "the path of the table is too long");
        else
                choose(h, o);
        return h;
}

static void held_free(struct held *of)
{
        free(of->strays);
        g_free(of);
}

void holds_free(struct holds *h)
{
        if (h == NULL)
                return;
        for (size_t i = 0; i < h->n; i++)
                held_free(h->held[i]);
        g_free(h->held);
        hold_systemd_free(h);
        g_free(h);
}

const char *holds_provider(const struct holds *h, const char **ret_lack)
{
        *ret_lack = h->lack;
        return h->provider != NULL ? h->provider->name : "none";
}

/* ---- the groups we know of ---- */

static struct held *find(const struct holds *h, const struct hold_who *who)
{
        for (size_t i = 0; i < h->n; i++)
                if (h->held[i]->who.pid == who->pid && h->held[i]->who.start_ticks == who->start_ticks)
                        return h->held[i];
        return NULL;
}

/* Also one that another agent left: its record says where its processes were. */
static struct held *add(struct holds *h, const struct hold_who *who)
{
        struct held *of = g_new0(struct held, 1);

        of->who = *who;
        (void)snprintf(of->name, sizeof(of->name), HOLD_PREFIX "%ld-%" PRIu64, (long)who->pid,
                       who->start_ticks);
        (void)STR_COPY(of->origin, "/");
        int r = hold_record_read(h, of);
        if (r < 0 && r != -ENOENT)
                log_warn("the record of %s cannot be read; its processes go back to /", of->name);
        h->held = g_renew(struct held *, h->held, h->n + 1);
        h->held[h->n++] = of;
        return of;
}

static void forget(struct holds *h, struct held *of)
{
        size_t at = 0;

        while (h->held[at] != of)
                at++;
        h->held[at] = h->held[--h->n];
        held_free(of);
}

/* ---- in ---- */

static bool is_below(const char *path, const char *name)
{
        size_t n = strlen(name);

        return path[0] == '/' && strncmp(path + 1, name, n) == 0 &&
               (path[n + 1] == '\0' || path[n + 1] == '/');
}

static int note_stray(const struct holds *h, struct held *of, pid_t pid, const char *path)
{
        struct hold_task task;

        if (hold_task_get(h, pid, &task) < 0)
                return 0;
        for (size_t i = 0; i < of->n_strays; i++)
                if (of->strays[i].who.pid == pid && of->strays[i].who.start_ticks == task.start_ticks)
                        return 0;
        struct hold_stray *more = realloc(of->strays, (of->n_strays + 1) * sizeof(*more));
        if (more == NULL)
                return 0; /* it will go to where the holder was */
        of->strays = more;
        of->strays[of->n_strays] = (struct hold_stray){
                .who = {pid, task.start_ticks}
        };
        (void)STR_COPY(of->strays[of->n_strays++].path, path);
        return 1;
}

/* Who is not in the group yet, the holder first; where they are is noted. Those that another lease holds stay
 * with it, and so does the agent. */
static int gather(const struct holds *h, struct held *of, pid_t **ret, size_t *ret_n, bool *ret_is_news)
{
        pid_t *pids = NULL;
        size_t n = 0, to_move = 0;
        char path[HOLD_PATH];

        int r = hold_family(h, &of->who, &pids, &n);
        if (r < 0)
                return r;
        *ret_is_news = false;
        for (size_t i = 0; i < n; i++) {
                pid_t pid = pids[i];
                struct hold_task task;
                if (pid == getpid() || hold_where(h, pid, path) < 0 || is_below(path, of->name) ||
                    hold_task_get(h, pid, &task) < 0 || task.is_dead)
                        continue;
                if (strcmp(path, "/" HOLD_OTHERS) == 0)
                        (void)STR_COPY(path, "/");
                if (pid == of->who.pid) {
                        (void)STR_COPY(of->origin, path);
                        *ret_is_news = true;
                } else if (strncmp(path + 1, HOLD_PREFIX, strlen(HOLD_PREFIX)) == 0 &&
                           strcmp(path, of->origin) != 0) {
                        continue;
                } else if (strcmp(path, of->origin) != 0) {
                        *ret_is_news = note_stray(h, of, pid, path) > 0 || *ret_is_news;
                }
                pids[to_move++] = pid;
        }
        *ret = pids;
        *ret_n = to_move;
        return 0;
}

/* Children that are forked while it is done are seen in the next pass; those of a process that is in already
 * are born there. */
static int enter(const struct holds *h, struct held *of, struct err *err)
{
        for (int pass = 0; pass < HOLD_PASSES; pass++) {
                pid_t *pids = NULL;
                size_t n = 0;
                bool is_news;
                int r = gather(h, of, &pids, &n, &is_news);
                if (r < 0)
                        return err_set(err, REASON_NOT_FOUND, -r, "process %ld: %s", (long)of->who.pid,
                                       r == -ESRCH ? "it is gone" : strerror(-r));
                if (n > 0 && (pass == 0 || is_news))
                        r = hold_record_keep(h, of, err);
                for (size_t i = 0; i < n && r == 0; i++)
                        r = hold_move(h, pids[i], of->name, err);
                free(pids);
                if (r < 0)
                        return r;
                if (n == 0) {
                        of->is_moved = true;
                        return hold_record_keep(h, of, err);
                }
        }
        return err_set(err, REASON_BUSY, EBUSY, "its processes multiply faster than they can be moved");
}

/* ---- out ---- */

static const char *origin_of(const struct holds *h, const struct held *of, pid_t pid)
{
        struct hold_task task;

        for (size_t i = 0; i < of->n_strays; i++)
                if (of->strays[i].who.pid == pid && hold_task_get(h, pid, &task) == 0 &&
                    task.start_ticks == of->strays[i].who.start_ticks)
                        return of->strays[i].path;
        return of->origin;
}

/* A group that is gone meanwhile, or takes no processes any more: the next above that does. */
static bool is_closed(int code)
{
        return code == -ENOENT || code == -EBUSY || code == -EOPNOTSUPP || code == -ENOSPC || code == -ENODEV;
}

static int move_back(struct holds *h, const struct held *of, pid_t pid, struct err *err)
{
        char path[HOLD_PATH];
        struct err why = {0};

        (void)STR_COPY(path, origin_of(h, of, pid));
        for (;;) {
                int r = hold_move(h, pid, h->provider->home(h, of, path), &why);
                char *slash = strrchr(path, '/');
                if (!is_closed(r) || slash == NULL || path[1] == '\0') {
                        if (r < 0)
                                *err = why;
                        return r;
                }
                slash[slash == path] = '\0';
        }
}

/* Groups that the application made in its own are its own affair: they stay, and hold nothing. */
static int leave(struct holds *h, const struct held *of, struct err *err)
{
        struct err why = {0};
        size_t n = 1;

        for (int pass = 0; pass < HOLD_PASSES && n > 0; pass++) {
                pid_t *pids = NULL;
                struct hold_task task;
                int r = hold_list(h, of->name, &pids, &n, err);
                if (r < 0)
                        return r;
                size_t dead = 0;
                for (size_t i = 0; i < n; i++)
                        if (hold_task_get(h, pids[i], &task) < 0 || task.is_dead)
                                dead++; /* does not count for the kernel either */
                        else
                                (void)move_back(h, of, pids[i], &why);
                free(pids);
                n -= dead;
        }
        if (n > 0)
                return err_set(err, REASON_BUSY, EBUSY, "%zu processes do not leave %s: %s", n, of->name,
                               why.sentence);
        return 0;
}

/* Whoever came from this group to another of ours goes, when that ends, to where this one's came from. */
static void inherit(struct holds *h, const struct held *from)
{
        for (size_t i = 0; i < h->n; i++) {
                struct held *of = h->held[i];
                bool is_changed = false;
                if (of == from)
                        continue;
                if (is_below(of->origin, from->name))
                        is_changed = STR_COPY(of->origin, from->origin);
                for (size_t k = 0; k < of->n_strays; k++)
                        if (is_below(of->strays[k].path, from->name))
                                is_changed = STR_COPY(of->strays[k].path, from->origin);
                if (is_changed)
                        (void)hold_record_keep(h, of, NULL); /* else they go to the root */
        }
}

/* First what is held goes, whatever becomes of the group. */
static int drop(struct holds *h, struct held *of, struct err *err)
{
        char dir[CGROUPFS_PATH];
        struct err why = {0};
        bool is_there = access(hold_dir(h, of->name, dir), F_OK) == 0;

        if (of->is_moved) { /* who takes over now would have to move them again */
                of->is_moved = false;
                (void)hold_record_keep(h, of, NULL);
        }
        int first = is_there ? leave(h, of, &why) : 0;

        of->has.cpus = no_cpus;
        int r = h->provider->cpus(h, of, &no_cpus, first < 0 ? NULL : &why);
        first = first < 0 ? first : r;
        if (is_there && first < 0)
                (void)h->provider->memory(h, of, 0, NULL);
        of->has.memory_bytes = 0;
        if (first == 0)
                first = cgroupfs_remove(dir, h->is_fake, &why);
        if (first == 0)
                first = hold_record_forget(h, of->name, &why);
        if (first < 0) {
                if (!of->is_left)
                        log_warn("%s stays for now: %s", of->name, why.sentence);
                of->is_left = true;
                if (err != NULL)
                        *err = why;
                return first;
        }
        inherit(h, of);
        forget(h, of);
        return 0;
}

/* ---- for the owner ---- */

void hold_say(struct hold_said *said, bool cpus, bool memory, const char *why)
{
        (void)snprintf(said->text[said->n], sizeof(said->text[0]),
                       "%s not held for the application alone: %s",
                       cpus && memory ? "vCPUs and memory are"
                       : cpus         ? "vCPUs are"
                                      : "memory is",
                       why);
        said->n++;
}

static int set_cpus(struct holds *h, struct held *of, const struct cpulist *cpus, struct hold_said *said)
{
        struct err why = {0};
        int r = h->provider->cpus(h, of, cpus, &why);

        if (r == 0) {
                of->has.cpus = *cpus;
                return 0;
        }
        hold_say(said, true, false, why.sentence);
        if (h->provider->cpus(h, of, &of->has.cpus, &why) < 0)
                log_warn("%s does not get back what it had: %s", of->name, why.sentence);
        return r;
}

static int set_memory(struct holds *h, struct held *of, int64_t bytes, struct hold_said *said)
{
        struct err why = {0};
        int r = h->provider->memory(h, of, bytes, &why);

        if (r == 0) {
                of->has.memory_bytes = bytes;
                return 0;
        }
        hold_say(said, false, true, why.sentence);
        if (h->provider->memory(h, of, of->has.memory_bytes, &why) < 0)
                log_warn("%s does not get back what it had: %s", of->name, why.sentence);
        return r;
}

static bool is_nothing(const struct hold_want *want)
{
        return cpulist_next(&want->cpus, 0) < 0 && want->memory_bytes <= 0;
}

/* What cannot be held here is said, and not wanted any more. */
static void settle(const struct holds *h, struct hold_want *want, struct hold_said *said)
{
        bool lacks_cpus = cpulist_next(&want->cpus, 0) >= 0 && !(h->provider && h->has_cpuset);
        bool lacks_memory = want->memory_bytes > 0 && !(h->provider && h->has_memory);

        if (lacks_cpus || lacks_memory)
                hold_say(said, lacks_cpus, lacks_memory, h->lack);
        if (lacks_cpus)
                want->cpus = no_cpus;
        if (lacks_memory)
                want->memory_bytes = 0;
}

void holds_join(struct holds *h, const struct hold_who *who)
{
        struct held *of;
        char dir[CGROUPFS_PATH];

        if (h->provider == NULL || !h->provider->may_enter_first || find(h, who) != NULL)
                return;
        of = add(h, who);
        of->is_moved = false; /* as in holds_set() */
        if (cgroupfs_make(hold_dir(h, of->name, dir), NULL) < 0 || enter(h, of, NULL) < 0)
                (void)drop(h, of, NULL);
}

void holds_set(struct holds *h, const struct hold_who *who, const struct hold_want *wanted,
               struct hold_said *ret)
{
        struct hold_want want = *wanted;
        struct held *of = find(h, who);
        char dir[CGROUPFS_PATH];
        struct err why = {0};

        *ret = (struct hold_said){0};
        settle(h, &want, ret);
        if (h->systemd != NULL) {
                hold_systemd_set(h, who, &want, ret);
                return;
        }
        if (is_nothing(&want)) {
                if (of != NULL)
                        (void)drop(h, of, NULL);
                return;
        }
        if (of == NULL)
                of = add(h, who);
        of->is_left = false;
        int r = 0;
        if (access(hold_dir(h, of->name, dir), F_OK) < 0) {
                of->is_moved = false; /* a record may outlive its group */
                r = cgroupfs_make(dir, &why);
        }
        if (r == 0) {
                (void)set_cpus(h, of, &want.cpus, ret);
                (void)set_memory(h, of, want.memory_bytes, ret);
                if (is_nothing(&of->has)) { /* both were said */
                        (void)drop(h, of, NULL);
                        return;
                }
                r = of->is_moved ? 0 : enter(h, of, &why);
        }
        if (r == 0)
                return;
        ret->n = 0;
        hold_say(ret, cpulist_next(&wanted->cpus, 0) >= 0, wanted->memory_bytes > 0, why.sentence);
        (void)drop(h, of, NULL);
}

void holds_yield(struct holds *h, const struct cpulist *cpus)
{
        if (h->systemd != NULL) {
                hold_systemd_yield(h, cpus);
                return;
        }
        for (size_t i = 0; i < h->n; i++) {
                struct held *of = h->held[i];
                struct cpulist rest = {0};
                struct err why = {0};
                for (int cpu = cpulist_next(&of->has.cpus, 0); cpu >= 0;
                     cpu = cpulist_next(&of->has.cpus, (uint32_t)cpu + 1))
                        if (!cpulist_has(cpus, (uint32_t)cpu))
                                (void)cpulist_add(&rest, (uint32_t)cpu);
                if (cpulist_is_equal(&rest, &of->has.cpus))
                        continue;
                if (h->provider->cpus(h, of, &rest, &why) < 0)
                        log_warn("%s: %s", of->name, why.sentence);
                else
                        of->has.cpus = rest;
        }
}

size_t holds_retry(struct holds *h)
{
        size_t left = 0;

        if (h->systemd != NULL)
                return hold_systemd_retry(h);
        for (size_t i = h->n; i-- > 0;)
                if (h->held[i]->is_left)
                        left += drop(h, h->held[i], NULL) < 0;
        return left;
}

/* mete.PID-START; anything else is not ours. */
static bool name_parse(const char *name, struct hold_who *ret)
{
        char again[HOLD_NAME], *end;
        size_t n = strlen(HOLD_PREFIX);

        if (strncmp(name, HOLD_PREFIX, n) != 0)
                return false;
        long pid = strtol(name + n, &end, 10);
        if (*end != '-')
                return false;
        *ret = (struct hold_who){(pid_t)pid, strtoull(end + 1, NULL, 10)};
        (void)snprintf(again, sizeof(again), HOLD_PREFIX "%ld-%" PRIu64, pid, ret->start_ticks);
        return strcmp(again, name) == 0;
}

static void find_in(struct holds *h, const char *folder, const char *prefix)
{
        DIR *d = opendir(folder);
        const struct dirent *e;
        struct hold_who who;

        while (d != NULL && (e = readdir(d)) != NULL)
                if (strncmp(e->d_name, prefix, strlen(prefix)) == 0 &&
                    name_parse(e->d_name + strlen(prefix), &who) && find(h, &who) == NULL)
                        add(h, &who)->is_left = true;
        if (d != NULL)
                (void)closedir(d);
}

void holds_sweep(struct holds *h)
{
        struct err why = {0};
        size_t n = h->n;

        if (h->provider == NULL)
                return;
        if (h->systemd != NULL) {
                hold_systemd_sweep(h);
                return;
        }
        find_in(h, h->root, "");
        find_in(h, h->records, "hold.");
        if (h->n > n)
                log_note("%zu control groups of leases that are over are removed", h->n - n);
        (void)holds_retry(h);
        if (h->n == 0 && h->provider->clear(h, &why) < 0)
                log_warn("%s", why.sentence);
}

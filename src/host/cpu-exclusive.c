/* SPDX-License-Identifier: Apache-2.0 */
#include "host/cpu-exclusive.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

int exclusive_note(const struct cpu_host *h, const char *group, const struct cpulist *cpus, struct err *err)
{
        char text[CPULIST_TEXT];
        if (!*h->keep_dir)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "nowhere to note that %s is exclusive",
                               group);
        int r = cgroupfs_make(h->keep_dir, err);
        return r < 0 ? r : cgroupfs_keep(h->keep_dir, group, cpulist_print(cpus, text), err);
}

int exclusive_forget(const struct cpu_host *h, const char *group, struct err *err)
{
        return *h->keep_dir ? cgroupfs_forget(h->keep_dir, group, err) : 0;
}

int exclusive_find(const struct cpu_host *h, const char *group, struct cpulist *ret, struct err *err)
{
        char text[CPULIST_TEXT];
        struct err why = {0};
        int r = *h->keep_dir ? cgroupfs_read(h->keep_dir, group, text, sizeof(text), &why) : -ENOENT;
        if (r == -ENOENT)
                return 0;
        if (r == 0)
                r = cpulist_parse(text, ret, &why);
        if (r < 0 && err)
                *err = why;
        return r < 0 ? r : 1;
}

/* Ends at the first that fn does not return 0 for, and returns that. */
static int each(const struct cpu_host *h, int (*fn)(void *arg, const char *group), void *arg, struct err *err)
{
        DIR *d = *h->keep_dir ? opendir(h->keep_dir) : NULL;
        if (!d)
                return !*h->keep_dir || errno == ENOENT ? 0
                                                        : err_set(err, REASON_INTERNAL, errno, "%.150s: %s",
                                                                  h->keep_dir, strerror(errno));
        int r = 0;
        for (struct dirent *e; r == 0 && (e = readdir(d));)
                if (*e->d_name != '.' && strchr(e->d_name, '@')) /* what was not finished begins with a dot */
                        r = fn(arg, e->d_name);
        (void)closedir(d);
        return r;
}

struct walk {
        const struct cpu_host *h;
        const char *but, *vm;
        exclusive_is_there *is_there;
        struct cpulist cpus;
        int n;
        struct err *err;
};

static int join(void *arg, const char *group)
{
        struct walk *w = arg;
        struct cpulist one;
        if ((w->but && strcmp(group, w->but) == 0) || !w->is_there(w->h, group))
                return 0;
        int r = exclusive_find(w->h, group, &one, w->err);
        if (r == 1)
                cpulist_join(&w->cpus, &one);
        return r < 0 ? r : 0;
}

int exclusive_cpus(const struct cpu_host *h, const char *but, exclusive_is_there *is_there,
                   struct cpulist *ret, struct err *err)
{
        struct walk w = {.h = h, .but = but, .is_there = is_there, .err = err};
        int r = each(h, join, &w, err);
        if (r == 0)
                *ret = w.cpus;
        return r;
}

static bool is_stale(const struct walk *w, const char *group)
{
        return (!w->vm || strcmp(strchr(group, '@') + 1, w->vm) == 0) && !w->is_there(w->h, group);
}

static int count(void *arg, const char *group)
{
        struct walk *w = arg;
        w->n += is_stale(w, group);
        return 0;
}

static int drop(void *arg, const char *group)
{
        struct walk *w = arg;
        return is_stale(w, group) ? exclusive_forget(w->h, group, w->err) : 0;
}

int exclusive_count_stale(const struct cpu_host *h, const char *vm, exclusive_is_there *is_there,
                          struct err *err)
{
        struct walk w = {.h = h, .vm = vm, .is_there = is_there, .err = err};
        int r = each(h, count, &w, err);
        return r < 0 ? r : w.n;
}

int exclusive_forget_stale(const struct cpu_host *h, const char *vm, exclusive_is_there *is_there,
                           struct err *err)
{
        struct walk w = {.h = h, .vm = vm, .is_there = is_there, .err = err};
        return each(h, drop, &w, err);
}

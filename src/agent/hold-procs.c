/* SPDX-License-Identifier: Apache-2.0 */
/* Processes come and go while they are looked at; one that is gone is never an error. Kernel threads belong
 * to nobody and stay where they are. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agent/hold-internal.h"
#include "base/str.h"

enum { FLAG_KERNEL = 0x00200000 }; /* PF_KTHREAD */

static ssize_t read_of(const struct holds *h, pid_t pid, const char *file, char *buf, size_t size)
{
        char path[CGROUPFS_PATH];

        (void)snprintf(path, sizeof(path), "%s/%ld/%s", h->proc, (long)pid, file);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, buf, size - 1) : -1;
        if (fd >= 0)
                (void)close(fd);
        buf[n > 0 ? n : 0] = '\0';
        return n;
}

/* pid (name) state ppid pgrp session tty tpgid flags ... starttime is the 22nd: see proc(5). */
int hold_task_get(const struct holds *h, pid_t pid, struct hold_task *ret)
{
        char text[1024];
        long parent;
        unsigned long flags;
        unsigned long long ticks;
        char state;

        if (read_of(h, pid, "stat", text, sizeof(text)) <= 0)
                return -ESRCH;
        const char *at = strrchr(text, ')');
        if (at == NULL || sscanf(at + 1,
                                 " %c %ld %*d %*d %*d %*d %lu %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                                 "%*d %llu",
                                 &state, &parent, &flags, &ticks) != 4)
                return -ESRCH;
        *ret = (struct hold_task){.pid = pid,
                                  .parent = (pid_t)parent,
                                  .start_ticks = ticks,
                                  .is_kernel = (flags & FLAG_KERNEL) != 0,
                                  .is_dead = state == 'Z' || state == 'X'};
        return 0;
}

struct pair {
        pid_t parent, pid;
};

static int by_parent(const void *a, const void *b)
{
        const struct pair *x = a, *y = b;

        return x->parent < y->parent ? -1 : x->parent > y->parent;
}

static int all_pairs(const struct holds *h, struct pair **ret, size_t *ret_n)
{
        DIR *d = opendir(h->proc);
        const struct dirent *e;
        struct pair *pairs = NULL;
        size_t n = 0, room = 0;
        struct hold_task task;

        while (d != NULL && (e = readdir(d)) != NULL) {
                char *end;
                long pid = strtol(e->d_name, &end, 10);
                if (pid <= 0 || *end != '\0' || hold_task_get(h, (pid_t)pid, &task) < 0 || task.is_dead)
                        continue;
                if (n == room) {
                        room = room ? room * 2 : 128;
                        struct pair *more = realloc(pairs, room * sizeof(*pairs));
                        if (more == NULL) {
                                free(pairs);
                                (void)closedir(d);
                                return -ENOMEM;
                        }
                        pairs = more;
                }
                pairs[n++] = (struct pair){.parent = task.parent, .pid = (pid_t)pid};
        }
        if (d != NULL)
                (void)closedir(d);
        if (n > 0)
                qsort(pairs, n, sizeof(*pairs), by_parent);
        *ret = pairs;
        *ret_n = n;
        return 0;
}

static size_t first_child(const struct pair *pairs, size_t n, pid_t parent)
{
        size_t low = 0, high = n;

        while (low < high) {
                size_t middle = (low + high) / 2;
                if (pairs[middle].parent < parent)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

int hold_family(const struct holds *h, const struct hold_who *who, pid_t **ret, size_t *ret_n)
{
        struct hold_task task;
        struct pair *pairs = NULL;
        size_t n_pairs = 0, n = 0;

        int r = all_pairs(h, &pairs, &n_pairs);
        if (r < 0)
                return r;
        /* Looked at after the others: if it lives now, those that name it as their parent are its own. */
        if (hold_task_get(h, who->pid, &task) < 0 || task.start_ticks != who->start_ticks || task.is_dead)
                r = -ESRCH;
        /* Each process is a child once, so this is enough; a parent that is read twice, while pids are used
         * again, cannot make it longer. */
        pid_t *family = r == 0 ? malloc((n_pairs + 1) * sizeof(*family)) : NULL;
        if (r == 0 && family == NULL)
                r = -ENOMEM;
        if (r == 0)
                family[n++] = who->pid;
        for (size_t at = 0; at < n; at++)
                for (size_t i = first_child(pairs, n_pairs, family[at]);
                     i < n_pairs && pairs[i].parent == family[at] && n <= n_pairs; i++)
                        if (pairs[i].pid != who->pid)
                                family[n++] = pairs[i].pid;
        free(pairs);
        if (r < 0)
                return r;
        *ret = family;
        *ret_n = n;
        return 0;
}

/* ---- groups of processes ---- */

/* A fake tree is asked itself: nobody else knows. */
static bool fake_find(const struct holds *h, const char *path, pid_t pid, char ret[HOLD_PATH])
{
        char dir[CGROUPFS_PATH], below[HOLD_PATH];
        const struct dirent *e;

        (void)hold_dir(h, path, dir);
        if (cgroupfs_lists(dir, "cgroup.procs", pid, NULL) == 1) {
                (void)str_copy(ret, HOLD_PATH, path);
                return true;
        }
        DIR *d = opendir(dir);
        bool is_found = false;
        while (d != NULL && !is_found && (e = readdir(d)) != NULL)
                if (e->d_type == DT_DIR && e->d_name[0] != '.' &&
                    (size_t)snprintf(below, sizeof(below), "%s/%s", path[1] ? path : "", e->d_name) <
                            sizeof(below))
                        is_found = fake_find(h, below, pid, ret);
        if (d != NULL)
                (void)closedir(d);
        return is_found;
}

/* A line is ID:CONTROLLERS:PATH; that of v2 is 0::PATH. */
int hold_where(const struct holds *h, pid_t pid, char ret[HOLD_PATH])
{
        static const char deleted[] = " (deleted)";
        char text[4096], *save = NULL;
        struct hold_task task;

        if (h->is_fake) {
                if (hold_task_get(h, pid, &task) < 0)
                        return -ESRCH;
                if (!fake_find(h, "/", pid, ret))
                        (void)str_copy(ret, HOLD_PATH, "/");
                return 0;
        }
        if (read_of(h, pid, "cgroup", text, sizeof(text)) <= 0)
                return -ESRCH;
        for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
                char *controllers = strchr(line, ':'),
                     *path = controllers ? strchr(controllers + 1, ':') : NULL;
                if (path == NULL)
                        continue;
                *controllers++ = *path++ = '\0';
                bool is_ours = h->provider == &hold_v2 ? strcmp(line, "0") == 0
                                                       : cgroupfs_has_word(controllers, "cpuset");
                size_t n = strlen(path), tail = sizeof(deleted) - 1;
                if (!is_ours)
                        continue;
                if (n > tail && strcmp(path + n - tail, deleted) == 0)
                        path[n - tail] = '\0';
                /* one that is too long, or outside of what we see, is as good as the root */
                if (*path != '/' || strstr(path, "/..") != NULL || !str_copy(ret, HOLD_PATH, path))
                        (void)str_copy(ret, HOLD_PATH, "/");
                return 0;
        }
        return -ESRCH;
}

int hold_list(const struct holds *h, const char *path, pid_t **ret, size_t *ret_n, struct err *err)
{
        char dir[CGROUPFS_PATH], file[CGROUPFS_PATH + 16], line[32];
        pid_t *pids = NULL;
        size_t n = 0, room = 0;
        int r = 0;

        (void)snprintf(file, sizeof(file), "%s/cgroup.procs", hold_dir(h, path, dir));
        FILE *f = fopen(file, "re");
        if (f == NULL && errno != ENOENT)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", file, strerror(errno));
        while (f != NULL && r == 0 && fgets(line, sizeof(line), f) != NULL) {
                long pid = strtol(line, NULL, 10);
                if (pid <= 0)
                        continue; /* of another pid namespace */
                if (n == room) {
                        room = room ? room * 2 : 64;
                        pid_t *more = realloc(pids, room * sizeof(*pids));
                        if (more == NULL)
                                r = err_set(err, REASON_INTERNAL, ENOMEM,
                                            "no memory for a list of processes");
                        else
                                pids = more;
                }
                if (r == 0)
                        pids[n++] = (pid_t)pid;
        }
        if (f != NULL)
                (void)fclose(f);
        if (r < 0) {
                free(pids);
                return r;
        }
        *ret = pids;
        *ret_n = n;
        return 0;
}

/* What the kernel does by itself: it is in one group. */
static int fake_move(const struct holds *h, pid_t pid, const char *to, struct err *err)
{
        char dir[CGROUPFS_PATH], from[HOLD_PATH], path[CGROUPFS_PATH + 16];
        pid_t *pids = NULL;
        size_t n = 0;

        if (hold_where(h, pid, from) < 0)
                return 0;
        if (cgroupfs_fault != NULL) {
                (void)snprintf(path, sizeof(path), "%s/cgroup.procs", hold_dir(h, to, dir));
                int code = cgroupfs_fault(path);
                if (code != 0)
                        return err_set(err, REASON_INTERNAL, code, "%s: %s", path, strerror(code));
        }
        if (access(hold_dir(h, to, dir), F_OK) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", dir, strerror(errno));
        int r = hold_list(h, from, &pids, &n, err);
        (void)snprintf(path, sizeof(path), "%s/cgroup.procs", hold_dir(h, from, dir));
        FILE *f = r == 0 ? fopen(path, "we") : NULL;
        for (size_t i = 0; f != NULL && i < n; i++)
                if (pids[i] != pid)
                        (void)fprintf(f, "%ld\n", (long)pids[i]);
        if (f != NULL)
                (void)fclose(f);
        free(pids);
        (void)snprintf(path, sizeof(path), "%s/cgroup.procs", hold_dir(h, to, dir));
        f = r == 0 ? fopen(path, "ae") : NULL;
        if (f != NULL) {
                (void)fprintf(f, "%ld\n", (long)pid);
                (void)fclose(f);
        }
        return r;
}

int hold_move(const struct holds *h, pid_t pid, const char *to, struct err *err)
{
        char dir[CGROUPFS_PATH], text[24];
        struct err why = {0};

        if (h->is_fake)
                return fake_move(h, pid, to, err);
        (void)snprintf(text, sizeof(text), "%ld", (long)pid);
        int r = cgroupfs_write(hold_dir(h, to, dir), "cgroup.procs", text, false, &why);
        if (r == -ESRCH)
                return 0;
        if (r < 0 && err != NULL)
                *err = why;
        return r;
}

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

enum {
        FLAG_KERNEL = 0x00200000, /* PF_KTHREAD */
        FAMILY_SMALL = 64
};

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

/* pid (name) state ppid pgrp ...: the name may hold anything, so fields are counted from its last ')'. */
int hold_task_get(const struct holds *h, pid_t pid, struct hold_task *ret)
{
        enum { STATE = 3, PARENT = 4, FLAGS = 9, START = 22 };
        char text[1024];
        struct hold_task task = {.pid = pid};

        if (read_of(h, pid, "stat", text, sizeof(text)) <= 0)
                return -ESRCH;
        const char *at = strrchr(text, ')');
        for (int field = STATE; at != NULL && field <= START; field++) {
                at = strchr(at, ' ');
                if (at == NULL)
                        return -ESRCH;
                at++;
                if (field == STATE)
                        task.is_dead = *at == 'Z' || *at == 'X';
                else if (field == PARENT)
                        task.parent = (pid_t)strtol(at, NULL, 10);
                else if (field == FLAGS)
                        task.is_kernel = (strtoul(at, NULL, 10) & FLAG_KERNEL) != 0;
                else if (field == START)
                        task.start_ticks = strtoull(at, NULL, 10);
        }
        if (at == NULL)
                return -ESRCH;
        *ret = task;
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

struct family {
        pid_t *pids;
        size_t n, room;
};

static bool add_pid(struct family *f, pid_t pid)
{
        for (size_t i = 0; i < f->n && f->n < FAMILY_SMALL; i++)
                if (f->pids[i] == pid) /* a pid that was used again while we looked */
                        return true;
        if (f->n == f->room) {
                f->room = f->room ? f->room * 2 : 16;
                pid_t *more = realloc(f->pids, f->room * sizeof(*more));
                if (more == NULL)
                        return false;
                f->pids = more;
        }
        f->pids[f->n++] = pid;
        return true;
}

/* Each thread has a list of the children that it forked. -ENOENT: this kernel has no such lists. */
static int add_children(const struct holds *h, struct family *f, pid_t pid)
{
        char path[CGROUPFS_PATH], line[16];
        const struct dirent *e;
        int r = 0;

        (void)snprintf(path, sizeof(path), "%s/%ld/task", h->proc, (long)pid);
        DIR *d = opendir(path);
        if (d == NULL)
                return 0;
        while (r == 0 && (e = readdir(d)) != NULL) {
                if (e->d_name[0] == '.')
                        continue;
                (void)snprintf(path, sizeof(path), "%s/%ld/task/%.20s/children", h->proc, (long)pid,
                               e->d_name);
                FILE *file = fopen(path, "re");
                if (file == NULL) {
                        struct hold_task task;
                        r = errno == ENOENT && hold_task_get(h, pid, &task) == 0 && !task.is_dead ? -ENOENT
                                                                                                  : 0;
                        continue;
                }
                while (r == 0 && fscanf(file, "%15s", line) == 1)
                        r = f->n < FAMILY_SMALL ? (add_pid(f, (pid_t)strtol(line, NULL, 10)) ? 0 : -ENOMEM)
                                                : -ENOENT;
                (void)fclose(file);
        }
        (void)closedir(d);
        return r;
}

/* Looks at the family alone: reading of all processes of the guest costs milliseconds, and there are mostly
 * one or two. -ENOENT: it cannot be had that way, or there are many. */
static int family_by_lists(const struct holds *h, struct family *f)
{
        int r = 0;
        char path[CGROUPFS_PATH];

        (void)snprintf(path, sizeof(path), "%s/%ld/task", h->proc, (long)f->pids[0]);
        if (access(path, F_OK) < 0)
                return -ENOENT;
        for (size_t at = 0; at < f->n && r == 0; at++)
                r = add_children(h, f, f->pids[at]);
        return r;
}

static int family_by_all(const struct holds *h, struct family *f)
{
        struct pair *pairs = NULL;
        size_t n = 0;
        int r = all_pairs(h, &pairs, &n);

        f->n = 1;
        /* Each process is a child once; pids that are used again while we look must not make it endless. */
        for (size_t at = 0; at < f->n && r == 0; at++)
                for (size_t i = first_child(pairs, n, f->pids[at]);
                     i < n && pairs[i].parent == f->pids[at] && f->n <= n && r == 0; i++)
                        if (pairs[i].pid != f->pids[0])
                                r = add_pid(f, pairs[i].pid) ? 0 : -ENOMEM;
        free(pairs);
        return r;
}

int hold_family(const struct holds *h, const struct hold_who *who, pid_t **ret, size_t *ret_n)
{
        struct hold_task task;
        struct family f = {0};

        int r = add_pid(&f, who->pid) ? family_by_lists(h, &f) : -ENOMEM;
        if (r == -ENOENT)
                r = family_by_all(h, &f);
        /* Looked at after the others: if it lives now, those that were its children are its own. */
        if (r == 0 &&
            (hold_task_get(h, who->pid, &task) < 0 || task.start_ticks != who->start_ticks || task.is_dead))
                r = -ESRCH;
        if (r < 0) {
                free(f.pids);
                return r;
        }
        *ret = f.pids;
        *ret_n = f.n;
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
                bool is_ours = h->provider != &hold_v1 ? strcmp(line, "0") == 0
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

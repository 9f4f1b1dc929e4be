/* SPDX-License-Identifier: Apache-2.0 */
#include "host/cgroupfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/str.h"

int (*cgroupfs_fault)(const char *path);

static int join(char buf[CGROUPFS_PATH], const char *dir, const char *file, struct err *err)
{
        int n = snprintf(buf, CGROUPFS_PATH, "%s/%s", dir, file);
        if (n < 0 || n >= CGROUPFS_PATH)
                return err_set(err, REASON_INVALID, ENAMETOOLONG, "%.200s/%.40s is too long", dir, file);
        return 0;
}

static bool is_faulty(const char *path)
{
        return cgroupfs_fault && (errno = cgroupfs_fault(path)) != 0;
}

bool cgroupfs_has_word(const char *words, const char *word)
{
        static const char separators[] = ", \n";
        size_t n = strlen(word);
        for (const char *at = words; *at;) {
                size_t have = strcspn(at, separators);
                if (have == n && strncmp(at, word, n) == 0)
                        return true;
                at += have;
                at += strspn(at, separators);
        }
        return false;
}

/* One line: ID PARENT DEV ROOT MOUNTPOINT OPTIONS [OPTIONAL...] - TYPE SOURCE SUPEROPTIONS */
static void read_mount(char *line, struct cgroupfs_mounts *m)
{
        char *separator = strstr(line, " - ");
        if (!separator)
                return;
        *separator = '\0';
        char *save, *point = NULL, *field = strtok_r(line, " ", &save);
        for (int i = 0; field && i < 4; i++)
                point = field = strtok_r(NULL, " ", &save);
        char *type = strtok_r(separator + 3, " ", &save);
        (void)strtok_r(NULL, " ", &save);
        char *super = strtok_r(NULL, "\n", &save);
        if (!point || !type || !super || strchr(point, '\\') || access(point, W_OK) < 0)
                return;
        if (strcmp(type, "cgroup2") == 0 && !*m->v2)
                (void)STR_COPY(m->v2, point);
        if (strcmp(type, "resctrl") == 0 && !*m->resctrl)
                (void)STR_COPY(m->resctrl, point);
        if (strcmp(type, "cgroup") != 0)
                return;
        if (cgroupfs_has_word(super, "cpu") && !*m->v1_cpu)
                (void)STR_COPY(m->v1_cpu, point);
        if (cgroupfs_has_word(super, "cpuset") && !*m->v1_cpuset)
                (void)STR_COPY(m->v1_cpuset, point);
        if (cgroupfs_has_word(super, "memory") && !*m->v1_memory)
                (void)STR_COPY(m->v1_memory, point);
        if (cgroupfs_has_word(super, "blkio") && !*m->v1_blkio)
                (void)STR_COPY(m->v1_blkio, point);
}

int cgroupfs_find(const char *mountinfo, struct cgroupfs_mounts *ret, struct err *err)
{
        const char *path = mountinfo ? mountinfo : "/proc/self/mountinfo";
        FILE *f = fopen(path, "re");
        if (!f)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        struct cgroupfs_mounts m = {0};
        char *line = NULL;
        size_t size = 0;
        while (getline(&line, &size, f) > 0)
                read_mount(line, &m);
        free(line);
        (void)fclose(f);
        *ret = m;
        return 0;
}

int cgroupfs_make(const char *dir, struct err *err)
{
        if (is_faulty(dir) || (mkdir(dir, 0755) < 0 && errno != EEXIST))
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", dir, strerror(errno));
        return 0;
}

static int empty_fake(const char *dir)
{
        DIR *d = opendir(dir);
        if (!d)
                return -errno;
        int r = 0;
        char path[CGROUPFS_PATH], text[8];
        static const char *const lists[] = {"tasks", "cgroup.threads"};
        for (size_t i = 0; i < ARRAY_N(lists); i++)
                if (cgroupfs_read(dir, lists[i], text, sizeof(text), NULL) != -ENOENT && *text)
                        r = -EBUSY;
        for (struct dirent *e; r == 0 && (e = readdir(d));)
                if (e->d_type == DT_REG && join(path, dir, e->d_name, NULL) == 0)
                        (void)unlink(path);
        (void)closedir(d);
        return r;
}

int cgroupfs_remove(const char *dir, bool fake, struct err *err)
{
        if (is_faulty(dir))
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", dir, strerror(errno));
        if (fake && empty_fake(dir) == -EBUSY)
                errno = EBUSY;
        else if (rmdir(dir) == 0 || errno == ENOENT)
                return 0;
        return err_set(err, errno == EBUSY ? REASON_BUSY : REASON_INTERNAL, errno, "%s: %s", dir,
                       strerror(errno));
}

int cgroupfs_write(const char *dir, const char *file, const char *value, bool fake, struct err *err)
{
        char path[CGROUPFS_PATH];
        int r = join(path, dir, file, err);
        if (r < 0)
                return r;
        int fd = is_faulty(path) ? -1
                                 : open(path, O_WRONLY | O_CLOEXEC | (fake ? O_CREAT | O_TRUNC : 0), 0644);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        ssize_t n = write(fd, value, strlen(value));
        if (n < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: cannot write \"%.60s\": %s", path, value,
                            strerror(errno));
        else if ((size_t)n != strlen(value))
                r = err_set(err, REASON_INTERNAL, EIO, "%s: took a part of \"%.60s\"", path, value);
        (void)close(fd);
        return r;
}

int cgroupfs_read(const char *dir, const char *file, char *buf, size_t size, struct err *err)
{
        char path[CGROUPFS_PATH];
        buf[0] = '\0';
        int r = join(path, dir, file, err);
        if (r < 0)
                return r;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        size_t have = 0;
        ssize_t n = 0;
        while (have < size - 1 && (n = read(fd, buf + have, size - 1 - have)) > 0)
                have += (size_t)n;
        if (n < 0)
                r = err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        (void)close(fd);
        while (have > 0 && buf[have - 1] == '\n')
                have--;
        buf[have] = '\0';
        return r;
}

int cgroupfs_lists(const char *dir, const char *file, int64_t number, struct err *err)
{
        char path[CGROUPFS_PATH];
        int r = join(path, dir, file, err);
        if (r < 0)
                return r;
        FILE *f = fopen(path, "re");
        if (!f)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        char line[32];
        while (r == 0 && fgets(line, sizeof(line), f))
                r = strtoll(line, NULL, 10) == number;
        (void)fclose(f);
        return r;
}

int cgroupfs_read_number(const char *dir, const char *file, int64_t *ret, struct err *err)
{
        char text[32], *end;
        int r = cgroupfs_read(dir, file, text, sizeof(text), err);
        if (r < 0)
                return r;
        if (strcmp(text, "max") == 0) {
                *ret = -1;
                return 0;
        }
        errno = 0;
        long long value = strtoll(text, &end, 10);
        if (errno != 0 || end == text || *end)
                return err_set(err, REASON_INTERNAL, EPROTO, "%s/%s: \"%.24s\" is no number", dir, file,
                               text);
        *ret = value;
        return 0;
}

int cgroupfs_write_number(const char *dir, const char *file, int64_t value, bool fake, struct err *err)
{
        char text[24];
        int64_t taken;
        (void)snprintf(text, sizeof(text), "%jd", (intmax_t)value);
        int r = cgroupfs_write(dir, file, text, fake, err);
        if (r < 0 || (r = cgroupfs_read_number(dir, file, &taken, err)) < 0)
                return r;
        if (taken != value)
                return err_set(err, REASON_INTERNAL, EIO, "%s/%s: wrote %jd, the kernel took %jd", dir, file,
                               (intmax_t)value, (intmax_t)taken);
        return 0;
}

bool cgroupfs_is_path(const char *path, size_t size)
{
        char part[64];
        if (strlen(path) >= size)
                return false;
        for (const char *at = path;; at++) {
                size_t n = strcspn(at, "/");
                if (n >= sizeof(part))
                        return false;
                memcpy(part, at, n);
                part[n] = '\0';
                if (!str_is_name(part))
                        return false;
                at += n;
                if (!*at)
                        return true;
        }
}

int cgroupfs_hand_down(const char *root, const char *path, const char *controller, bool fake, struct err *err)
{
        char dir[CGROUPFS_PATH], value[64], text[512];
        (void)snprintf(value, sizeof(value), "+%.60s", controller);
        for (const char *at = path; at; at = strchr(at, '/')) {
                at += *at == '/';
                (void)snprintf(dir, sizeof(dir), "%s/%.*s", root, (int)(at - path), path);
                dir[strlen(dir) - 1] = '\0'; /* the slash */
                int r = at == path ? 0 : cgroupfs_make(dir, err);
                if (r < 0 || (r = cgroupfs_read(dir, "cgroup.subtree_control", text, sizeof(text),
                                                fake ? NULL : err)) < 0)
                        if (!fake || r != -ENOENT)
                                return r;
                if (r == 0 && cgroupfs_has_word(text, controller))
                        continue;
                if ((r = cgroupfs_write(dir, "cgroup.subtree_control", value, fake, err)) < 0)
                        return r;
        }
        return 0;
}

int cgroupfs_keep(const char *dir, const char *file, const char *text, struct err *err)
{
        char path[CGROUPFS_PATH], beside[CGROUPFS_PATH];
        int r = join(path, dir, file, err);
        if (r < 0 || (r = join(beside, dir, ".new", err)) < 0)
                return r;
        (void)snprintf(beside, sizeof(beside), "%s/.%s.new", dir, file);
        int fd = is_faulty(path) ? -1 : open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", beside, strerror(errno));
        size_t n = strlen(text);
        ssize_t done = write(fd, text, n);
        int code = done < 0 ? errno : (size_t)done != n ? ENOSPC : fsync(fd) < 0 ? errno : 0;
        (void)close(fd);
        if (code == 0 && rename(beside, path) < 0)
                code = errno;
        if (code == 0)
                return 0;
        (void)unlink(beside);
        return err_set(err, REASON_INTERNAL, code, "%s: %s", path, strerror(code));
}

int cgroupfs_forget(const char *dir, const char *file, struct err *err)
{
        char path[CGROUPFS_PATH];
        int r = join(path, dir, file, err);
        if (r < 0)
                return r;
        if (is_faulty(path) || (unlink(path) < 0 && errno != ENOENT))
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", path, strerror(errno));
        return 0;
}

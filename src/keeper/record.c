/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/str.h"
#include "json/read.h"

enum { RECORD_TEXT = 512 };

/* Reads a small file whole. Returns its length or a negative errno. */
static ssize_t read_small(int dir_fd, const char *path, char *buf, size_t size)
{
        int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        ssize_t n = read(fd, buf, size - 1);
        int code = errno;
        (void)close(fd);
        if (n < 0)
                return -code;
        buf[n] = '\0';
        return n;
}

static void file_name(char buf[80], const char *vm, const char *end)
{
        (void)snprintf(buf, 80, "%s%s", vm, end);
}

int record_write(int dir_fd, const struct record *r, struct err *err)
{
        char text[RECORD_TEXT], name[80], temporary[80];
        int n = snprintf(text, sizeof(text), "{\"vm\":\"%s\",\"pid\":%d,\"start_ticks\":%llu,\"uid\":%u}\n",
                         r->vm, (int)r->pid, (unsigned long long)r->start_ticks, (unsigned)r->uid);
        file_name(name, r->vm, ".json");
        file_name(temporary, r->vm, ".json.new");
        int fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", temporary, strerror(errno));
        int code = write(fd, text, (size_t)n) == n ? 0 : ENOSPC;
        (void)close(fd);
        if (code == 0 && renameat(dir_fd, temporary, dir_fd, name) < 0)
                code = errno;
        if (code == 0)
                return 0;
        (void)unlinkat(dir_fd, temporary, 0);
        return err_set(err, REASON_INTERNAL, code, "%s: %s", name, strerror(code));
}

static bool take_integer(const json_t *v, const char *key, json_int_t min, json_int_t max, json_int_t *ret)
{
        const json_t *n = json_object_get(v, key);
        *ret = json_integer_value(n);
        return json_is_integer(n) && *ret >= min && *ret <= max;
}

int record_parse(const char *text, size_t n, struct record *ret, struct err *err)
{
        json_t *v = json_read(text, n, err);
        if (!v)
                return -EINVAL;
        struct record r = {0};
        json_int_t pid, ticks, uid;
        const char *vm = json_string_value(json_object_get(v, "vm"));
        bool is_good = vm && str_is_name(vm) && STR_COPY(r.vm, vm) &&
                       take_integer(v, "pid", 2, INT32_MAX, &pid) &&
                       take_integer(v, "start_ticks", 0, INT64_MAX, &ticks) &&
                       take_integer(v, "uid", 1, INT32_MAX, &uid) && json_object_size(v) == 4;
        json_decref(v);
        if (!is_good)
                return err_set(err, REASON_INVALID, EINVAL, "not a record of a VMM");
        r.pid = (pid_t)pid;
        r.start_ticks = (uint64_t)ticks;
        r.uid = (uid_t)uid;
        *ret = r;
        return 0;
}

int record_read(int dir_fd, const char *name, struct record *ret, struct err *err)
{
        char text[RECORD_TEXT], expected[80];
        struct record r;
        ssize_t n = read_small(dir_fd, name, text, sizeof(text));
        if (n < 0)
                return err_set(err, REASON_NOT_FOUND, (int)-n, "%s: %s", name, strerror((int)-n));
        int code = record_parse(text, (size_t)n, &r, err);
        if (code < 0)
                return err_note(err, "%s", name);
        file_name(expected, r.vm, ".json");
        if (strcmp(expected, name) != 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s is the record of another VM", name);
        *ret = r;
        return 0;
}

void record_remove(int dir_fd, const char *vm)
{
        char name[80];
        file_name(name, vm, ".json");
        (void)unlinkat(dir_fd, name, 0);
}

int record_parse_stat(const char *text, uint64_t *ret_ticks, char *ret_state)
{
        const char *at = strrchr(text, ')');
        if (!at || at[1] != ' ' || !at[2])
                return -EINVAL;
        *ret_state = at[2];
        at += 2;
        for (int field = 3; field < 22; field++) {
                at = strchr(at, ' ');
                if (!at)
                        return -EINVAL;
                at++;
        }
        char *end;
        errno = 0;
        unsigned long long ticks = strtoull(at, &end, 10);
        if (end == at || errno != 0)
                return -EINVAL;
        *ret_ticks = ticks;
        return 0;
}

int record_start_ticks(pid_t pid, uint64_t *ret_ticks, struct err *err)
{
        char path[40], text[1024], state;
        (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        ssize_t n = read_small(AT_FDCWD, path, text, sizeof(text));
        if (n <= 0 || record_parse_stat(text, ret_ticks, &state) < 0 || state == 'Z' || state == 'X')
                return err_set(err, REASON_NOT_FOUND, ESRCH, "there is no process %d", (int)pid);
        return 0;
}

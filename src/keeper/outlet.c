/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"

enum { NAME = 80, BLOCK = 8192, SECOND_MS = 1000 };

static void rotate(const struct outlet *o)
{
        char name[NAME], old[NAME];
        (void)snprintf(name, sizeof(name), "%s.log", o->vm);
        (void)snprintf(old, sizeof(old), "%s.log.1", o->vm);
        (void)renameat(o->dir_fd, name, o->dir_fd, old);
}

static int open_file(struct outlet *o, struct err *err)
{
        char name[NAME];
        struct stat st;
        (void)snprintf(name, sizeof(name), "%s.log", o->vm);
        o->file_fd = openat(o->dir_fd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0640);
        if (o->file_fd < 0 || fstat(o->file_fd, &st) < 0 || fchown(o->file_fd, (uid_t)-1, o->gid) < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", name, strerror(errno));
        o->file_bytes = st.st_size;
        return 0;
}

/* Keeps the last line that has text; for the one sentence about how a VMM ended. */
static void remember(struct outlet *o, const char *text, size_t n)
{
        size_t have = strlen(o->last);
        for (size_t i = 0; i < n; i++) {
                if (text[i] == '\n') {
                        o->is_line_complete = true;
                        continue;
                }
                if (o->is_line_complete)
                        have = 0;
                o->is_line_complete = false;
                if (have < sizeof(o->last) - 1)
                        o->last[have++] = text[i];
                o->last[have] = '\0';
        }
}

static void keep(struct outlet *o, const char *text, size_t n)
{
        remember(o, text, n);
        if (o->file_bytes + (int64_t)n > OUTLET_FILE_MAX) {
                (void)close(o->file_fd);
                rotate(o);
                if (open_file(o, NULL) < 0)
                        return; /* a full file system: the log is lost, the VMM is not */
        }
        if (o->file_fd >= 0 && write(o->file_fd, text, n) == (ssize_t)n)
                o->file_bytes += (int64_t)n;
}

static void on_ready(void *arg, uint32_t events)
{
        struct outlet *o = arg;
        char block[BLOCK];
        int64_t now_ms = loop_mono_ms();
        ssize_t n = read(o->pipe_fd, block, sizeof(block));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) { /* the VMM closed it, or is gone */
                loop_fd_remove(&o->watch);
                return;
        }
        keep(o, block, (size_t)n);
        if (now_ms - o->since_ms >= SECOND_MS) {
                o->since_ms = now_ms;
                o->taken_bytes = 0;
        }
        o->taken_bytes += n;
        if (o->taken_bytes >= OUTLET_PER_S) {
                loop_fd_remove(&o->watch);
                loop_timer_in(&o->pause, SECOND_MS);
        }
}

static void on_pause_over(void *arg)
{
        struct outlet *o = arg;
        o->taken_bytes = 0;
        struct err err = {0};
        if (loop_fd_add(&o->watch, o->pipe_fd, EPOLLIN, on_ready, o, &err) < 0)
                log_warn("%s: what its VMM says is not kept any more: %s", o->vm, err.sentence);
}

int outlet_open(struct outlet *o, int dir_fd, const char *vm, gid_t gid, int pipe_fd, bool is_fresh,
                struct err *err)
{
        *o = (struct outlet){.pipe_fd = pipe_fd, .file_fd = -1, .dir_fd = dir_fd, .gid = gid};
        (void)STR_COPY(o->vm, vm);
        loop_timer_init(&o->pause, on_pause_over, o);
        if (is_fresh)
                rotate(o);
        int r = open_file(o, err);
        if (r == 0)
                r = loop_fd_add(&o->watch, pipe_fd, EPOLLIN, on_ready, o, err);
        if (r < 0)
                outlet_close(o);
        return r;
}

void outlet_close(struct outlet *o)
{
        if (!*o->vm)
                return;
        char block[BLOCK];
        ssize_t n;
        loop_fd_remove(&o->watch);
        loop_timer_cancel(&o->pause);
        for (int left = OUTLET_PER_S / BLOCK; left > 0 && (n = read(o->pipe_fd, block, sizeof(block))) > 0;
             left--)
                keep(o, block, (size_t)n);
        (void)close(o->pipe_fd);
        if (o->file_fd >= 0)
                (void)close(o->file_fd);
        *o->vm = '\0';
}

void outlet_remove(int dir_fd, const char *vm)
{
        char name[NAME];
        (void)snprintf(name, sizeof(name), "%s.log", vm);
        (void)unlinkat(dir_fd, name, 0);
        (void)snprintf(name, sizeof(name), "%s.log.1", vm);
        (void)unlinkat(dir_fd, name, 0);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proc.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int gone(pid_t pid, struct err *err)
{
        return err_set(err, REASON_NOT_FOUND, ESRCH, "process %ld is gone", (long)pid);
}

/* pid (name) S ppid ...: the name may hold anything, so fields are counted from its last ')'. */
int proc_get(pid_t pid, struct proc *ret, struct err *err)
{
        char path[32], text[1024];
        struct proc p = {.pid = pid};

        (void)snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return gone(pid, err);
        ssize_t n = read(fd, text, sizeof(text) - 1);
        (void)close(fd);
        if (n <= 0)
                return gone(pid, err);
        text[n] = '\0';
        char *open_at = strchr(text, '('), *close_at = strrchr(text, ')');
        if (open_at == NULL || close_at == NULL || close_at < open_at)
                return err_set(err, REASON_INTERNAL, EPROTO, "%s is not as proc(5) says", path);
        *close_at = '\0';
        (void)snprintf(p.name, sizeof(p.name), "%.15s", open_at + 1);
        for (char *c = p.name; *c != '\0'; c++)
                if (*c <= ' ' || *c > '~' || *c == '/')
                        *c = '_';
        char *at = close_at + 1;
        for (int field = 3; field <= 22 && at != NULL; field++) { /* starttime is field 22 */
                at += strspn(at, " ");
                if (field == 22)
                        p.start_ticks = strtoull(at, NULL, 10);
                at = strchr(at, ' ');
        }
        if (p.start_ticks == 0 && at == NULL)
                return err_set(err, REASON_INTERNAL, EPROTO, "%s is not as proc(5) says", path);
        *ret = p;
        return 0;
}

int proc_watch(pid_t pid, uint64_t start_ticks, struct err *err)
{
        struct proc now;
        int fd = (int)syscall(SYS_pidfd_open, pid, 0);

        if (fd < 0 && errno == ESRCH)
                return gone(pid, err);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "pidfd_open: %s", strerror(errno));
        /* Read after the descriptor was got: if it is this process now, the descriptor is of this process. */
        if (proc_get(pid, &now, err) < 0 || now.start_ticks != start_ticks) {
                (void)close(fd);
                return gone(pid, err);
        }
        return fd;
}

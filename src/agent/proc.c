/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proc.h"
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5; the headers of Debian 12 are older */
#endif

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

static bool is_over(int pidfd)
{
        struct pollfd p = {.fd = pidfd, .events = POLLIN};

        return poll(&p, 1, 0) != 0; /* an error: do not trust it */
}

/* Real, effective, saved or file system uid: a program may have given up a right since it connected. */
static bool is_owned_by(pid_t pid, uid_t uid)
{
        char path[32], text[2048];

        (void)snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
        if (fd >= 0)
                (void)close(fd);
        text[n > 0 ? n : 0] = '\0';
        char *at = strstr(text, "\nUid:"); /* names before it have their newlines escaped */
        if (at == NULL)
                return false;
        at += 5;
        for (int i = 0; i < 4; i++)
                if (strtoul(at, &at, 10) == uid)
                        return true;
        return false;
}

int proc_of_peer(pid_t pid, uid_t uid, int pidfd, struct proc *ret, struct err *err)
{
        struct proc p;
        int own_fd = pidfd < 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

        if (pidfd < 0 && own_fd < 0)
                return gone(pid, err);
        /* What is read while the descriptor says that it lives is of the process that the descriptor is of.
         */
        int r = proc_get(pid, &p, err);
        if (r == 0 && pidfd < 0 && !is_owned_by(pid, uid))
                r = gone(pid, err);
        if (r == 0 && is_over(pidfd < 0 ? own_fd : pidfd))
                r = gone(pid, err);
        if (own_fd >= 0)
                (void)close(own_fd);
        if (r == 0)
                *ret = p;
        return r;
}

int proc_peer_pidfd(int socket_fd, struct err *err)
{
        int fd = -1;
        socklen_t n = sizeof(fd);

        if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERPIDFD, &fd, &n) == 0)
                return fd;
        if (errno == ENOPROTOOPT)
                return -1;
        return err_set(err, REASON_NOT_FOUND, ESRCH, "the peer is gone");
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

struct proc_life {
        pid_t pid;
        int fd;
        struct loop_fd watch;
        bool is_over, is_telling;
        struct proc_hold *first;
};

static void life_free(struct proc_life *life)
{
        loop_fd_remove(&life->watch);
        (void)close(life->fd);
        g_free(life);
}

static struct proc_hold *next_to_tell(const struct proc_life *life)
{
        struct proc_hold *h = life->first;

        while (h != NULL && (h->is_told || h->on_end == NULL))
                h = h->next;
        return h;
}

/* From the start each time: what is called may drop any of them. */
static void on_end_of(void *arg, uint32_t events)
{
        struct proc_life *life = arg;
        struct proc_hold *h;

        loop_fd_remove(&life->watch);
        life->is_over = true;
        life->is_telling = true;
        while ((h = next_to_tell(life)) != NULL) {
                h->is_told = true;
                h->on_end(h->arg);
        }
        life->is_telling = false;
        if (life->first == NULL)
                life_free(life);
}

static void hold(struct proc_hold *h, struct proc_life *life, void (*on_end)(void *arg), void *arg)
{
        *h = (struct proc_hold){
                .life = life, .on_end = on_end, .arg = arg, .next = life->first, .at = &life->first};
        if (h->next != NULL)
                h->next->at = &h->next;
        life->first = h;
}

int proc_hold_new(struct proc_hold *h, pid_t pid, uint64_t start_ticks, void (*on_end)(void *arg), void *arg,
                  struct err *err)
{
        int fd = proc_watch(pid, start_ticks, err);

        if (fd < 0)
                return fd;
        struct proc_life *life = g_new0(struct proc_life, 1);
        life->pid = pid;
        life->fd = fd;
        int r = loop_fd_add(&life->watch, fd, EPOLLIN, on_end_of, life, err);
        if (r < 0) {
                life_free(life);
                return r;
        }
        hold(h, life, on_end, arg);
        return 0;
}

int proc_hold_share(struct proc_hold *h, const struct proc_hold *of, void (*on_end)(void *arg), void *arg,
                    struct err *err)
{
        if (of->life->is_over)
                return gone(of->life->pid, err);
        hold(h, of->life, on_end, arg);
        return 0;
}

void proc_hold_drop(struct proc_hold *h)
{
        struct proc_life *life = h->life;

        if (life == NULL)
                return;
        *h->at = h->next;
        if (h->next != NULL)
                h->next->at = h->at;
        *h = (struct proc_hold){0};
        if (life->first == NULL && !life->is_telling)
                life_free(life);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "keeper/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "keeper/launch.h"
#include "keeper/space.h"
#include "loop/loop.h"

struct child {
        struct guards *owner;
        struct loop_fd watch;
        int pid_fd;
        pid_t pid;
        char vm[64];
};

static void child_free(struct child *c)
{
        c->owner->children = g_slist_remove(c->owner->children, c);
        loop_fd_remove(&c->watch);
        if (c->pid_fd >= 0)
                (void)close(c->pid_fd);
        g_free(c);
}

static void on_end(void *arg, uint32_t events)
{
        struct child *c = arg;
        siginfo_t info = {0};
        (void)waitid((idtype_t)P_PIDFD, (id_t)c->pid_fd, &info, WEXITED);
        if (info.si_code != CLD_EXITED)
                log_warn("%s: guard %d was ended by signal %d: no downtime is kept", c->vm, (int)c->pid,
                         info.si_status);
        child_free(c);
}

static void lock_name(const char *vm, char ret[80])
{
        (void)snprintf(ret, 80, "%s.guard", vm);
}

/* Beside the VM's record, in a directory that is root's alone. */
static int take_lock(int dir_fd, const char *vm, struct err *err)
{
        char name[80];
        lock_name(vm, name);
        int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
                return fd;
        int code = errno;
        if (fd >= 0)
                (void)close(fd);
        return code == EWOULDBLOCK ? err_set(err, REASON_BUSY, EBUSY, "%s has a guard already", vm)
                                   : err_set(err, REASON_INTERNAL, code, "%s: %s", name, strerror(code));
}

/* From here, as the program has no privilege for it any more when it begins; it keeps it. */
static void make_prompt(pid_t pid, struct api_keeper_guard *ret)
{
        const struct sched_param p = {.sched_priority = 1};
        if (sched_setscheduler(pid, SCHED_FIFO | SCHED_RESET_ON_FORK, &p) == 0)
                return;
        ret->has_fallback = true;
        (void)snprintf(ret->fallback, sizeof(ret->fallback), "the guard has no real-time priority: %s",
                       strerror(errno));
}

static int run(struct guards *g, const struct api_keeper_guard_start *s, const int *fds, size_t n_fds,
               struct child *c, struct api_keeper_guard *ret, struct err *err)
{
        const struct keeper_config *config = g->vmms->config;
        const struct keeper_user *user = space_of_vm(config, s->vm);
        char bound[24], word_bound[] = "--bound-us", word_move[] = "--move", move[64];
        (void)snprintf(bound, sizeof(bound), "%" PRId64, s->bound_us);
        (void)STR_COPY(move, s->move);
        char *const argv[] = {config->guard, word_bound, bound, word_move, move, NULL};
        const struct launch_options o = {.argv = argv,
                                         .uid = user->uid,
                                         .has_gid = true,
                                         .gid = user->gid,
                                         .is_guard = true,
                                         .fds = fds,
                                         .n_fds = n_fds,
                                         .stderr_fd = STDERR_FILENO};
        struct launch l;
        if (user->uid == (uid_t)-1) /* which would be: as root */
                return err_set(err, REASON_DENIED, EPERM, "%s is a VM of a user who is not named any more",
                               s->vm);
        int r = launch_begin(&l, &o, err);
        if (r < 0)
                return r;
        c->pid = l.pid;
        make_prompt(l.pid, ret);
        return launch_finish(&l, &c->pid_fd, err);
}

int guards_start(struct guards *g, const struct api_keeper_guard_start *s, const int fds[GUARD_FDS],
                 struct api_keeper_guard *ret, struct err *err)
{
        const struct vmm *vmm = g_hash_table_lookup(g->vmms->by_name, s->vm);
        if (!vmm || vmm->pid_fd < 0)
                return err_set(err, REASON_NOT_FOUND, ESRCH, "%s does not run", s->vm);
        int lock = take_lock(g->vmms->record_fd, s->vm, err);
        if (lock < 0)
                return lock;
        int all[GUARD_FDS + 1] = {fds[0], fds[1], fds[2], lock};
        struct child *c = g_new0(struct child, 1);
        struct api_keeper_guard answer = {0};
        *c = (struct child){.owner = g, .pid_fd = -1};
        (void)STR_COPY(c->vm, s->vm);
        g->children = g_slist_prepend(g->children, c);
        int r = run(g, s, all, ARRAY_N(all), c, &answer, err);
        (void)close(lock);
        if (r < 0 || (r = loop_fd_add(&c->watch, c->pid_fd, EPOLLIN, on_end, c, err)) < 0) {
                child_free(
                        c); /* where it runs, it runs: it does no harm, and its lock says that it is there */
                return r;
        }
        answer.pid = c->pid;
        *ret = answer;
        log_note("%s: guard %d keeps move %s to %" PRId64 " us%s%s", s->vm, (int)c->pid, s->move, s->bound_us,
                 answer.has_fallback ? "; " : "", answer.fallback);
        return 0;
}

void guards_forget(int record_fd, const char *vm)
{
        char name[80];
        lock_name(vm, name);
        (void)unlinkat(record_fd, name, 0);
}

void guards_init(struct guards *g, struct vmms *vmms)
{
        *g = (struct guards){.vmms = vmms};
}

void guards_done(struct guards *g)
{
        while (g->children)
                child_free(g->children->data);
}

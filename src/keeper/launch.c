/* SPDX-License-Identifier: Apache-2.0 */
/* Order in the child, and why: what needs root first (limits, affinity, the score, the bounding set), then
 * groups and gid before uid, as afterwards they could not be changed; no_new_privs last, so that nothing the
 * program could execute gives anything back. Everything between fork and exec is async-signal-safe. */
#include "keeper/launch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ASIDE_FD = 64, NOFILE = 4096, NPROC = 512, EXEC_WAIT_MS = 10000 };

/* Steps that can fail, as they are told to the parent. */
enum step {
        STEP_FDS = 1,
        STEP_LIMITS,
        STEP_CPUS,
        STEP_SCORE,
        STEP_BOUNDING,
        STEP_USER,
        STEP_NO_NEW_PRIVS,
        STEP_EXEC,
        STEP_N
};
static const char *const step_names[STEP_N] = {[STEP_FDS] = "passing its descriptors",
                                               [STEP_LIMITS] = "setting its limits",
                                               [STEP_CPUS] = "setting its CPUs",
                                               [STEP_SCORE] = "setting its out-of-memory score",
                                               [STEP_BOUNDING] = "dropping its capabilities",
                                               [STEP_USER] = "changing to its uid",
                                               [STEP_NO_NEW_PRIVS] = "setting no_new_privs",
                                               [STEP_EXEC] = "executing the program"};
struct fault {
        int step, code;
};

/* First all out of the way, then each to its number: passed numbers may collide with wanted ones. */
static int arrange_fds(const struct launch_options *o, int *gate_fd, int *fault_fd)
{
        int aside[LAUNCH_FDS_MAX], null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        int out = fcntl(o->stderr_fd, F_DUPFD_CLOEXEC, ASIDE_FD);
        *gate_fd = fcntl(*gate_fd, F_DUPFD_CLOEXEC, ASIDE_FD);
        *fault_fd = fcntl(*fault_fd, F_DUPFD_CLOEXEC, ASIDE_FD);
        if (null_fd < 0 || out < 0 || *gate_fd < 0 || *fault_fd < 0)
                return -1;
        for (size_t i = 0; i < o->n_fds; i++)
                if ((aside[i] = fcntl(o->fds[i], F_DUPFD_CLOEXEC, ASIDE_FD)) < 0)
                        return -1;
        if (dup2(null_fd, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
                return -1;
        for (size_t i = 0; i < o->n_fds; i++)
                if (dup2(aside[i], LAUNCH_FIRST_FD + (int)i) < 0)
                        return -1;
        /* These two keep their close-on-exec flag; everything else from here on goes. */
        int last = LAUNCH_FIRST_FD + (int)o->n_fds;
        if (dup3(*gate_fd, last, O_CLOEXEC) < 0 || dup3(*fault_fd, last + 1, O_CLOEXEC) < 0)
                return -1;
        *gate_fd = last;
        *fault_fd = last + 1;
        return close_range((unsigned)last + 2, ~0U, 0);
}

static int limit(int resource, rlim_t value)
{
        struct rlimit l = {value, value};
        return setrlimit((__rlimit_resource_t)resource, &l);
}

/* A keeper that the service manager protects or binds to CPUs hands neither on. */
static int forget_score(void)
{
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -1;
        ssize_t n = write(fd, "0", 1);
        (void)close(fd);
        return n == 1 ? 0 : -1;
}

static int forget_cpus(void)
{
        uint64_t all[64];
        memset(all, 0xff, sizeof(all));
        return sched_setaffinity(0, sizeof(all), (const cpu_set_t *)all);
}

static int drop_bounding(void)
{
        for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        return -1;
        return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
}

static int become(uid_t uid, gid_t gid, gid_t extra)
{
        struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {0};
        if (setgroups(extra ? 1 : 0, &extra) < 0 || setresgid(gid, gid, gid) < 0 ||
            setresuid(uid, uid, uid) < 0)
                return -1;
        return (int)syscall(SYS_capset, &h, none);
}

static void forget_signals(void)
{
        sigset_t none;
        (void)sigemptyset(&none);
        for (int s = 1; s < 65; s++)
                (void)signal(s, SIG_DFL);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static enum step prepare(const struct launch_options *o, int *gate_fd, int *fault_fd)
{
        forget_signals();
        (void)setsid();
        (void)umask(o->is_borrower ? 007 : 077);
        if (chdir("/") < 0 || arrange_fds(o, gate_fd, fault_fd) < 0)
                return STEP_FDS;
        if (limit(RLIMIT_CORE, 0) < 0 || limit(RLIMIT_NOFILE, NOFILE) < 0 || limit(RLIMIT_NPROC, NPROC) < 0)
                return STEP_LIMITS;
        if (forget_cpus() < 0)
                return STEP_CPUS;
        if (o->is_guard && limit(RLIMIT_RTTIME, LAUNCH_GUARD_US) < 0)
                return STEP_LIMITS;
        if (!o->is_guard && forget_score() < 0)
                return STEP_SCORE;
        /* Here the parent records it and puts it into its groups. No byte: the parent is gone. */
        char go;
        if (read(*gate_fd, &go, 1) != 1)
                _exit(127);
        if (drop_bounding() < 0)
                return STEP_BOUNDING;
        if (become(o->uid, o->has_gid ? o->gid : (gid_t)o->uid, o->gid_extra) < 0)
                return STEP_USER;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return STEP_NO_NEW_PRIVS;
        return 0;
}

static void run_child(const struct launch_options *o, int gate_fd, int fault_fd) __attribute__((noreturn));
static void run_child(const struct launch_options *o, int gate_fd, int fault_fd)
{
        static char *const environment[] = {(char *)(uintptr_t) "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                                            (char *)(uintptr_t) "LC_ALL=C.UTF-8", NULL};
        struct fault f = {.step = (int)prepare(o, &gate_fd, &fault_fd)};
        if (f.step == 0) {
                (void)execve(o->argv[0], o->argv, environment);
                f.step = STEP_EXEC;
        }
        f.code = errno;
        (void)!write(fault_fd, &f, sizeof(f));
        _exit(127);
}

int launch_begin(struct launch *l, const struct launch_options *o, struct err *err)
{
        int gate[2], fault[2];
        *l = (struct launch){.pid_fd = -1, .gate_fd = -1, .fault_fd = -1, .is_guard = o->is_guard};
        if (pipe2(gate, O_CLOEXEC) < 0)
                return err_set(err, REASON_INTERNAL, errno, "pipe: %s", strerror(errno));
        if (pipe2(fault, O_CLOEXEC) < 0) {
                int code = errno;
                (void)close(gate[0]);
                (void)close(gate[1]);
                return err_set(err, REASON_INTERNAL, code, "pipe: %s", strerror(code));
        }
        pid_t pid = fork();
        if (pid == 0) {
                (void)close(gate[1]); /* or its own copy would keep the gate open after the keeper's death */
                run_child(o, gate[0], fault[1]);
        }
        int code = errno;
        (void)close(gate[0]);
        (void)close(fault[1]);
        l->gate_fd = gate[1];
        l->fault_fd = fault[0];
        if (pid > 0) {
                l->pid = pid;
                l->pid_fd = pidfd_open(pid, 0);
                code = errno;
        }
        if (pid < 0 || l->pid_fd < 0) {
                launch_cancel(l);
                return err_set(err, REASON_INTERNAL, code, "cannot start a process: %s", strerror(code));
        }
        return 0;
}

static void close_pipes(struct launch *l)
{
        if (l->gate_fd >= 0)
                (void)close(l->gate_fd);
        if (l->fault_fd >= 0)
                (void)close(l->fault_fd);
        l->gate_fd = l->fault_fd = -1;
}

int launch_finish(struct launch *l, int *ret_pid_fd, struct err *err)
{
        struct fault f = {0};
        struct pollfd p = {.fd = l->fault_fd, .events = POLLIN};
        int r = 0;
        if (write(l->gate_fd, "", 1) != 1)
                r = err_set(err, REASON_INTERNAL, EPIPE, "the new process ended at once");
        else if (poll(&p, 1, EXEC_WAIT_MS) <= 0)
                r = err_set(err, REASON_TIMEOUT, ETIMEDOUT, "the program did not start within %d s",
                            EXEC_WAIT_MS / 1000);
        else if (read(l->fault_fd, &f, sizeof(f)) == (ssize_t)sizeof(f) && f.step > 0 && f.step < STEP_N)
                r = err_set(err, REASON_INTERNAL, f.code > 0 ? f.code : EIO, "starting %s failed at %s: %s",
                            l->is_guard ? "a guard" : "a VMM", step_names[f.step], strerror(f.code));
        if (r < 0) {
                launch_cancel(l);
                return r;
        }
        close_pipes(l);
        *ret_pid_fd = l->pid_fd;
        l->pid_fd = -1;
        return 0;
}

void launch_cancel(struct launch *l)
{
        close_pipes(l);
        if (l->pid > 0) {
                (void)kill(l->pid, SIGKILL); /* a child not yet reaped: the pid is still its own */
                (void)waitpid(l->pid, NULL, 0);
        }
        if (l->pid_fd >= 0)
                (void)close(l->pid_fd);
        *l = (struct launch){.pid_fd = -1, .gate_fd = -1, .fault_fd = -1};
}

/* As that uid, as then the kernel picks the processes: no list that could be out of date. */
int launch_sweep(uid_t uid, struct err *err)
{
        assert(uid > 0);
        int status = 0;
        pid_t pid = fork();
        if (pid == 0) {
                forget_signals();
                if (setgroups(0, NULL) < 0 || setresgid((gid_t)uid, (gid_t)uid, (gid_t)uid) < 0 ||
                    setresuid(uid, uid, uid) < 0)
                        _exit(1);
                _exit(kill(-1, SIGKILL) == 0 || errno == ESRCH ? 0 : 1);
        }
        if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
                return err_set(err, REASON_INTERNAL, EIO, "cannot end what runs as uid %u", (unsigned)uid);
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What needs root comes first, groups and gid before uid; no_new_privs last. Between fork and exec everything
 * is async-signal-safe. */
#include "sp/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/str.h"

enum { EXIT_NOT_EXECUTED = 127 };

int launch_user(const char *name, struct launch_user *ret, struct err *err)
{
        const struct passwd *p = getpwnam(name);
        struct launch_user u = {.n_groups = LAUNCH_GROUPS_MAX};
        if (!p || !STR_COPY(u.name, name))
                return err_set(err, REASON_NOT_FOUND, ENOENT,
                               "there is no user %.40s: make it, and name it in keeper.conf ([keeper] "
                               "meted_user), or say another (user=)",
                               name);
        u.uid = p->pw_uid;
        u.gid = p->pw_gid;
        if (u.uid == 0)
                return err_set(err, REASON_POLICY, EPERM, "no hypervisor runs as root (user=)");
        if (getgrouplist(name, u.gid, u.groups, &u.n_groups) < 0)
                return err_set(err, REASON_INVALID, E2BIG, "user %.40s is in more than %d groups", name,
                               LAUNCH_GROUPS_MAX);
        *ret = u;
        return 0;
}

static bool drop_bounding(void)
{
        for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
                if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
                        return false;
        return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0;
}

__attribute__((noreturn)) static void child(const struct launch_user *u, char *const argv[], char **env)
{
        sigset_t none;
        int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
        (void)sigemptyset(&none);
        for (int s = 1; s < 65; s++)
                (void)signal(s, SIG_DFL);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)setsid(); /* an end of ours by Ctrl-C is not its end */
        if (in < 0 || dup2(in, 0) < 0 || dup2(2, 1) < 0 || close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0 ||
            chdir("/") < 0 || !drop_bounding() || setgroups((size_t)u->n_groups, u->groups) < 0 ||
            setresgid(u->gid, u->gid, u->gid) < 0 || setresuid(u->uid, u->uid, u->uid) < 0 ||
            prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                _exit(EXIT_NOT_EXECUTED);
        (void)execve(argv[0], argv, env);
        _exit(EXIT_NOT_EXECUTED);
}

/* Ours, but that we are ready is not its to say. */
static char **environment(void)
{
        size_t n = 0, k = 0;
        while (environ[n])
                n++;
        char **env = calloc(n + 1, sizeof(*env));
        for (size_t i = 0; env && i < n; i++)
                if (strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0)
                        env[k++] = environ[i];
        return env;
}

int launch(const struct launch_user *u, char *const argv[], pid_t *ret_pid, int *ret_pid_fd, struct err *err)
{
        char **env = environment();
        pid_t pid = env ? fork() : -1;
        if (pid == 0)
                child(u, argv, env);
        int code = errno;
        free(env);
        if (pid < 0)
                return err_set(err, REASON_INTERNAL, code, "cannot start %.100s: %s", argv[0],
                               strerror(code));
        int fd = pidfd_open(pid, 0);
        if (fd < 0) {
                code = errno;
                (void)kill(pid, SIGKILL); /* ours, and not waited for: the number is its own */
                (void)waitpid(pid, NULL, 0);
                return err_set(err, REASON_INTERNAL, code, "pidfd of %.100s: %s", argv[0], strerror(code));
        }
        *ret_pid = pid;
        *ret_pid_fd = fd;
        return 0;
}

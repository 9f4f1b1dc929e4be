/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/busctl.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/str.h"
#include "loop/loop.h"

enum { ARGS_MAX = 6144, SAID = 256, FD_FIRST_OF_OTHERS = 3 };

struct stream {
        int fd;
        char *text;
        size_t n, size;
        bool is_cut;
};

static int spawn(const char *program, const char *const argv[], int out, int said, pid_t *ret)
{
        /* The bus's own default address, no colours, no pager, sentences that we know. */
        static const char *const environment[] = {"LC_ALL=C", "SYSTEMD_COLORS=0", NULL};
        static const char *const first[] = {BUSCTL_PATH, "--system", "--json=short", "--"};
        const char *all[ARGS_MAX];
        posix_spawn_file_actions_t files;
        posix_spawnattr_t attributes;
        sigset_t none, defaults;
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_N(first); i++)
                all[n++] = first[i];
        while (*argv != NULL && n < ARRAY_N(all) - 1)
                all[n++] = *argv++;
        if (*argv != NULL)
                return E2BIG;
        all[n] = NULL;
        (void)sigemptyset(&none);
        (void)sigemptyset(&defaults);
        (void)sigaddset(&defaults, SIGPIPE);
        (void)posix_spawn_file_actions_init(&files);
        (void)posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        (void)posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
        (void)posix_spawn_file_actions_adddup2(&files, said, STDERR_FILENO);
        (void)posix_spawn_file_actions_addclosefrom_np(&files, FD_FIRST_OF_OTHERS);
        (void)posix_spawnattr_init(&attributes);
        (void)posix_spawnattr_setsigmask(&attributes, &none);
        (void)posix_spawnattr_setsigdefault(&attributes, &defaults);
        (void)posix_spawnattr_setpgroup(&attributes, 0);
        (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                            POSIX_SPAWN_SETPGROUP);
        int code = posix_spawn(ret, program, &files, &attributes, (char *const *)all,
                               (char *const *)environment);
        (void)posix_spawnattr_destroy(&attributes);
        (void)posix_spawn_file_actions_destroy(&files);
        return code;
}

/* What busctl says beside its answer may be long: what does not fit is read all the same, as it must not wait
 * for us. */
static void take(struct stream *s)
{
        char rest[1024];
        bool is_full = s->n + 1 >= s->size;
        ssize_t n =
                is_full ? read(s->fd, rest, sizeof(rest)) : read(s->fd, s->text + s->n, s->size - 1 - s->n);

        if (n < 0 && errno == EINTR)
                return;
        if (n <= 0) {
                (void)close(s->fd);
                s->fd = -1;
                return;
        }
        if (is_full)
                s->is_cut = true;
        else
                s->n += (size_t)n;
}

static bool read_all(struct stream *out, struct stream *said, int64_t deadline_mono_ms)
{
        while (out->fd >= 0 || said->fd >= 0) {
                struct pollfd fds[] = {
                        {.fd = out->fd,  .events = POLLIN},
                        {.fd = said->fd, .events = POLLIN}
                };
                int64_t left_ms = deadline_mono_ms - loop_mono_ms();
                if (left_ms <= 0 || out->is_cut)
                        return false;
                if (poll(fds, ARRAY_N(fds), (int)left_ms) < 0 && errno != EINTR)
                        return false;
                if (out->fd >= 0 && fds[0].revents != 0)
                        take(out);
                if (said->fd >= 0 && fds[1].revents != 0)
                        take(said);
        }
        return true;
}

/* false: it had to be ended. */
static bool reap(pid_t pid, bool is_done, int64_t deadline_mono_ms, int *ret_status)
{
        struct pollfd p = {.fd = is_done ? pidfd_open(pid, 0) : -1, .events = POLLIN};
        bool has_ended = false;

        while (p.fd >= 0 && !has_ended) {
                int64_t left_ms = deadline_mono_ms - loop_mono_ms();
                int r = left_ms > 0 ? poll(&p, 1, (int)left_ms) : 0;
                if (r == 0 || (r < 0 && errno != EINTR))
                        break;
                has_ended = r > 0;
        }
        if (p.fd >= 0)
                (void)close(p.fd);
        if (!has_ended)
                (void)kill(-pid, SIGKILL);
        pid_t reaped;
        while ((reaped = waitpid(pid, ret_status, 0)) < 0 && errno == EINTR)
                ;
        return has_ended && reaped == pid;
}

/* "Call failed: Unit a.service not loaded.", the part that says something. */
static const char *clean(char *text)
{
        static const char prefix[] = "Call failed: ";

        text[strcspn(text, "\n")] = '\0';
        for (char *c = text; *c != '\0'; c++)
                if (*c < ' ' || *c > '~')
                        *c = '?';
        return strncmp(text, prefix, sizeof(prefix) - 1) == 0 ? text + sizeof(prefix) - 1 : text;
}

static bool is_no_unit(const char *said)
{
        return strstr(said, " not loaded") != NULL || strstr(said, " not found") != NULL ||
               strstr(said, "Unknown object") != NULL;
}

int busctl_run(const char *program, const char *const argv[], int64_t deadline_mono_ms, char out[BUSCTL_OUT],
               struct err *err)
{
        char text[SAID] = "";
        int to[2] = {-1, -1}, say[2] = {-1, -1}, status = 0;
        pid_t pid;

        out[0] = '\0';
        int code = pipe2(to, O_CLOEXEC) < 0 || pipe2(say, O_CLOEXEC) < 0
                           ? errno
                           : spawn(program, argv, to[1], say[1], &pid);
        if (to[1] >= 0)
                (void)close(to[1]);
        if (say[1] >= 0)
                (void)close(say[1]);
        struct stream answer = {.fd = to[0], .text = out, .size = BUSCTL_OUT},
                      said = {.fd = say[0], .text = text, .size = sizeof(text)};
        bool is_done = code == 0 && read_all(&answer, &said, deadline_mono_ms);
        if (answer.fd >= 0)
                (void)close(answer.fd);
        if (said.fd >= 0)
                (void)close(said.fd);
        if (code != 0)
                return err_set(err, REASON_INTERNAL, code, "%s: %s", program, strerror(code));
        out[answer.n] = '\0';
        is_done = reap(pid, is_done, deadline_mono_ms, &status);
        if (is_done && WIFEXITED(status) && WEXITSTATUS(status) == 0 && !answer.is_cut)
                return 0;
        out[0] = '\0';
        if (answer.is_cut)
                return err_set(err, REASON_INTERNAL, EMSGSIZE, "systemd's answer is too long");
        if (!is_done)
                return err_set(err, REASON_TIMEOUT, ETIMEDOUT, "systemd does not answer");
        const char *why = clean(text);
        return err_set(err, REASON_INTERNAL, is_no_unit(why) ? ENOENT : EIO, "systemd: %s",
                       *why ? why : "it refuses");
}

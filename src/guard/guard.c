/* SPDX-License-Identifier: Apache-2.0 */
#include "guard/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/str.h"

/* QEMU refuses to go on for as long as it is still about to finish, which are milliseconds. */
enum { RUN_AGAIN_US = 1000, RUN_ASKS_MAX = 5000, LOOK_US = 1000000 };

static const char capabilities[] =
        "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":\"guard\"}\n";
static const char cut[] =
        "{\"exec-oob\":\"yank\",\"arguments\":{\"instances\":[{\"type\":\"migration\"}]},\"id\":\"cut\"}\n";
static const char go_on[] = "{\"execute\":\"cont\",\"id\":\"run\"}\n";
static const char aborted[] = "aborted guard\n";

const char *guard_state_name(enum guard_state s)
{
        static const char *const names[GUARD_STATE_N] = {NULL,      "greeting",  "negotiating", "watching",
                                                         "stopped", "cut",       "yielded",     "resumed",
                                                         "over",    "dismissed", "gone"};
        return s > 0 && s < GUARD_STATE_N ? names[s] : "";
}

/* ---- who started it ---- */

static void hang_up(struct guard *g)
{
        if (g->client_fd >= 0)
                (void)close(g->client_fd);
        g->client_fd = -1;
        g->word_n = 0;
}

/* A line: the state; how long after the guest stopped it was cut, and ran again, 0: it was not, or did not;
 * and how late it was read that it had stopped. Whoever does not read it is hung up on. */
static void say(struct guard *g)
{
        char text[GUARD_SAYS_MAX];
        if (g->client_fd < 0)
                return;
        int n = snprintf(text, sizeof(text), "%s %" PRId64 " %" PRId64 " %" PRId64 "\n",
                         guard_state_name(g->state), g->cut_us ? g->cut_us - g->stopped_us : 0,
                         g->resumed_us ? g->resumed_us - g->stopped_us : 0, g->late_us);
        if (send(g->client_fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
                hang_up(g);
}

static void become(struct guard *g, enum guard_state state)
{
        g->state = state;
        say(g);
}

static void take_client(struct guard *g)
{
        int fd = accept4(g->o.control_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return;
        hang_up(g); /* the one before is dead, or is to be */
        g->client_fd = fd;
        say(g);
}

static void hear_client(struct guard *g)
{
        char text[sizeof(g->word)];
        ssize_t n = recv(g->client_fd, text, sizeof(text), MSG_DONTWAIT);
        if (n <= 0) {
                if (n == 0 || (errno != EAGAIN && errno != EINTR))
                        hang_up(g);
                return;
        }
        for (ssize_t i = 0; i < n; i++) {
                if (text[i] != '\n') {
                        if (g->word_n < sizeof(g->word))
                                g->word[g->word_n++] = text[i];
                        continue;
                }
                if (g->word_n == 4 && memcmp(g->word, "done", 4) == 0)
                        become(g, GUARD_DISMISSED);
                g->word_n = 0;
        }
}

/* ---- the VMM ---- */

static void tell_vmm(struct guard *g, const char *line)
{
        size_t n = strlen(line);
        if (send(g->o.monitor_fd, line, n, MSG_NOSIGNAL) != (ssize_t)n)
                become(g, GUARD_GONE);
}

/* The source holds all of it still, and its outcome is ours: it is to run. */
static void run_again(struct guard *g)
{
        g->run_again_us = 0;
        if (g->is_complete && !g->is_running_asked && g->run_asks < RUN_ASKS_MAX) {
                g->is_running_asked = true;
                g->run_asks++;
                tell_vmm(g, go_on);
        }
}

/* Whoever wrote it, the source is to run. */
static bool is_aborted(struct guard *g)
{
        static const char word[] = "aborted";
        char text[sizeof(word) - 1];
        int fd = openat(g->o.dir_fd, g->outcome, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
        if (fd >= 0)
                (void)close(fd);
        return n == (ssize_t)sizeof(text) && memcmp(text, word, sizeof(text)) == 0;
}

/* Who started it may have given up before it began: then there is nobody who would dismiss it, and what
 * stops the guest later is none of its attempt. A copy begins only when it is heard that it watches, so a
 * copy that was not begun before the outcome was written never will be. */
static bool is_too_late(const struct guard *g)
{
        return !g->has_begun && faccessat(g->o.dir_fd, g->outcome, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void watch(struct guard *g)
{
        g->look_us = clock_mono_us() + LOOK_US;
        become(g, is_too_late(g) ? GUARD_OVER : GUARD_WATCHING);
}

static void look_again(struct guard *g)
{
        g->look_us = clock_mono_us() + LOOK_US;
        if (is_too_late(g))
                become(g, GUARD_OVER);
}

static void on_bound(struct guard *g)
{
        if (linkat(g->o.dir_fd, g->mine, g->o.dir_fd, g->outcome, 0) < 0 &&
            (errno != EEXIST || !is_aborted(g))) {
                /* Also where it cannot be written at all: who cannot say that it is aborted must not act as
                 * if. */
                become(g, GUARD_YIELDED);
                return;
        }
        g->cut_us = clock_mono_us();
        tell_vmm(g, cut);
        if (g->state == GUARD_GONE)
                return;
        /* Behind the cut, which cannot wait for a disk, and before it is told to run or anybody is told of
         * it: who has seen it finds it again after whatever crash. */
        (void)fsync(g->o.dir_fd);
        run_again(g);
        if (g->state != GUARD_GONE)
                become(g, GUARD_CUT);
}

static bool has(const char *line, const char *text)
{
        return strstr(line, text) != NULL;
}

static bool read_figure(const char *line, const char *name, int64_t below, int64_t *ret)
{
        const char *at = strstr(line, name);
        char *end;
        if (!at)
                return false;
        at += strlen(name);
        errno = 0;
        long long v = strtoll(at, &end, 10);
        *ret = v;
        return errno == 0 && end != at && v >= 0 && v < below;
}

/* When it was, as the VMM has it, on our clock: who reads late does not begin to count late. The VMM may say
 * anything, and the clock of the day may have been set meanwhile: it was after what the VMM had said before,
 * and not in the future. */
static int64_t event_us(const struct guard *g, const char *line)
{
        int64_t s, us, now = clock_mono_us();
        if (!read_figure(line, "\"seconds\": ", INT64_C(100000000000), &s) ||
            !read_figure(line, "\"microseconds\": ", 1000000, &us))
                return now;
        int64_t at = clock_mono_of_real_us(s * 1000000 + us);
        return at > now ? now : at < g->heard_us ? g->heard_us : at;
}

static void on_migration(struct guard *g, const char *line)
{
        bool is_over = has(line, "\"status\": \"failed\"") || has(line, "\"status\": \"cancelled\"");
        g->is_complete = has(line, "\"status\": \"completed\"");
        if (g->state == GUARD_CUT) {
                run_again(g);
        } else if (g->state == GUARD_WATCHING) {
                if (is_over || is_too_late(g))
                        become(g, GUARD_OVER);
                g->has_begun = true;
        }
}

static void on_event(struct guard *g, const char *line)
{
        if (has(line, "\"event\": \"STOP\"")) {
                if (g->state == GUARD_WATCHING && is_too_late(g)) {
                        become(g, GUARD_OVER);
                } else if (g->state == GUARD_WATCHING) {
                        g->stopped_us = event_us(g, line);
                        g->late_us = clock_mono_us() - g->stopped_us;
                        become(g, GUARD_STOPPED);
                }
        } else if (has(line, "\"event\": \"RESUME\"")) {
                if (g->state == GUARD_CUT) {
                        int64_t at = event_us(g, line);
                        g->resumed_us = at < g->cut_us ? g->cut_us : at;
                        become(g, GUARD_RESUMED);
                } else if (g->state == GUARD_STOPPED || g->state == GUARD_YIELDED) {
                        become(g, GUARD_OVER); /* somebody else broke it off */
                }
        } else if (has(line, "\"event\": \"MIGRATION\"")) {
                on_migration(g, line);
        }
}

/* One line, ended by NUL. The VMM is hostile input; all that it can bring about here is its own guest's end.
 */
static void on_line(struct guard *g, const char *line)
{
        if (g->state == GUARD_GREETING) {
                if (!has(line, "\"QMP\":"))
                        return; /* left over from whoever had the monitor before */
                g->state = GUARD_NEGOTIATING;
                tell_vmm(g, capabilities);
        } else if (g->state == GUARD_NEGOTIATING) {
                if (has(line, "\"id\": \"guard\"") && has(line, "\"return\":"))
                        watch(g);
                else if (has(line, "\"id\": \"guard\""))
                        become(g, GUARD_GONE);
        } else {
                if (has(line, "\"id\": \"run\"") && has(line, "\"error\":")) {
                        g->is_running_asked = false;
                        g->run_again_us = clock_mono_us() + RUN_AGAIN_US;
                }
                if (has(line, "\"event\":"))
                        on_event(g, line);
        }
}

static bool is_final(const struct guard *g)
{
        return g->state >= GUARD_RESUMED;
}

static void hear_vmm(struct guard *g)
{
        ssize_t n = recv(g->o.monitor_fd, g->in + g->in_n, sizeof(g->in) - g->in_n - 1, MSG_DONTWAIT);
        if (n <= 0) {
                if (n == 0 || (errno != EAGAIN && errno != EINTR))
                        become(g, GUARD_GONE);
                return;
        }
        if (g->in_n == 0 && !g->is_skipping) /* what comes now is all newer than that */
                g->heard_us = g->read_us;
        g->read_us = clock_mono_us();
        g->in_n += (size_t)n;
        g->in[g->in_n] = '\0';
        char *line = g->in, *end;
        while (!is_final(g) && (end = memchr(line, '\n', g->in_n - (size_t)(line - g->in)))) {
                *end = '\0';
                if (!g->is_skipping)
                        on_line(g, line);
                g->is_skipping = false;
                line = end + 1;
        }
        g->in_n -= (size_t)(line - g->in);
        memmove(g->in, line, g->in_n);
        if (g->in_n == sizeof(g->in) - 1) {
                g->in_n = 0;
                g->is_skipping = true;
        }
}

/* ---- life ---- */

static int write_mine(struct guard *g, struct err *err)
{
        int fd = openat(g->o.dir_fd, g->mine, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
                return err_set(err, REASON_INTERNAL, errno, "%s: %s", g->mine, strerror(errno));
        int code = write(fd, aborted, strlen(aborted)) == (ssize_t)strlen(aborted) ? 0 : errno ? errno : EIO;
        if (code == 0 && fsync(fd) < 0)
                code = errno;
        (void)close(fd);
        if (code == 0)
                return 0;
        (void)unlinkat(g->o.dir_fd, g->mine, 0);
        return err_set(err, REASON_INTERNAL, code, "%s: %s", g->mine, strerror(code));
}

int guard_prepare(struct guard *g, const struct guard_options *o, struct err *err)
{
        memset(g, 0, sizeof(*g));
        g->o = *o;
        g->client_fd = -1;
        g->state = GUARD_GREETING;
        g->read_us = clock_mono_us();
        int r = 0, n = snprintf(g->mine, sizeof(g->mine), "%s.guard%ld", o->move, (long)getpid());
        if (n < 0 || (size_t)n >= sizeof(g->mine) || !STR_COPY(g->outcome, o->move) ||
            !str_is_name(o->move)) {
                g->mine[0] = '\0';
                r = err_set(err, REASON_INVALID, EINVAL, "\"%.60s\" is no id of a move", o->move);
        } else if (o->bound_us < 1) {
                g->mine[0] = '\0';
                r = err_set(err, REASON_INVALID, ERANGE, "a bound of %" PRId64 " us is none", o->bound_us);
        } else if ((r = write_mine(g, err))) {
                g->mine[0] = '\0'; /* it is not ours to remove */
        }
        if (r)
                guard_done(g);
        return r;
}

/* When something is due without a word of anybody's; 0: nothing is. */
static int64_t due_us(const struct guard *g)
{
        if (g->state == GUARD_STOPPED)
                return g->stopped_us + g->o.bound_us;
        if (g->state == GUARD_WATCHING && !g->has_begun)
                return g->look_us;
        return g->state == GUARD_CUT ? g->run_again_us : 0;
}

enum guard_state guard_run(struct guard *g)
{
        while (!is_final(g)) {
                struct pollfd p[3] = {
                        {.fd = g->o.monitor_fd, .events = POLLIN},
                        {.fd = g->o.control_fd, .events = POLLIN},
                        {.fd = g->client_fd,    .events = POLLIN}
                };
                struct timespec left = {0}, *wait = NULL;
                if (due_us(g)) {
                        int64_t us = due_us(g) - clock_mono_us();
                        if (us > 0)
                                left = (struct timespec){.tv_sec = us / 1000000,
                                                         .tv_nsec = us % 1000000 * 1000};
                        wait = &left;
                }
                if (ppoll(p, 3, wait, NULL) < 0 && errno != EINTR) {
                        become(g, GUARD_GONE);
                        break;
                }
                if (p[0].revents) /* first: it may run already */
                        hear_vmm(g);
                if (due_us(g) && clock_mono_us() >= due_us(g)) {
                        if (g->state == GUARD_STOPPED)
                                on_bound(g);
                        else if (g->state == GUARD_WATCHING)
                                look_again(g);
                        else
                                run_again(g);
                }
                if (!is_final(g) && p[2].revents)
                        hear_client(g);
                if (!is_final(g) && p[1].revents)
                        take_client(g);
        }
        return g->state;
}

void guard_done(struct guard *g)
{
        hang_up(g);
        if (g->o.monitor_fd >= 0)
                (void)close(g->o.monitor_fd);
        if (g->o.control_fd >= 0)
                (void)close(g->o.control_fd);
        if (g->mine[0])
                (void)unlinkat(g->o.dir_fd, g->mine, 0);
        g->mine[0] = '\0';
        if (g->o.dir_fd >= 0)
                (void)close(g->o.dir_fd);
        g->o.monitor_fd = g->o.control_fd = g->o.dir_fd = -1;
}

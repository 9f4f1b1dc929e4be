/* SPDX-License-Identifier: Apache-2.0 */
/* A uevent is a hint to look and nothing more; what is true is read in sysfs. One comes for each block that
 * goes on line or off, so the sum of the last count is kept up with them, and jobs that wait for memory look
 * when what they lack can be there: a count opens a file for every block, and takes the CPU on which the
 * kernel is plugging. */
#include "agent/online.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <linux/netlink.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/str.h"
#include "loop/loop.h"

enum { LOOK_MS = 10, LOOK_SLOW_MS = 50, TIMEOUT_DEFAULT_MS = 30000, UEVENT_MAX = 4096 };

struct job {
        struct online *online;
        struct rpc_call *call; /* NULL: free */
        struct api_guest_online want;
        int64_t deadline_ms;
        int64_t memory_bytes; /* on line at the last look */
        struct loop_timer timer;
};

struct online {
        char sys[256];
        int64_t block_bytes;  /* the kernel's, since it started */
        int uevents;          /* netlink; -1: there are none */
        int64_t memory_bytes; /* on line: the last count and the uevents since; -1: unknown */
        struct loop_fd watch;
        struct job jobs[ONLINE_JOBS_MAX];
};

/* ---- sysfs ---- */

static bool read_text(const struct online *o, char *buf, size_t size, const char *fmt, ...)
        __attribute__((format(printf, 4, 5)));
static int write_text(const struct online *o, const char *text, const char *fmt, ...)
        __attribute__((format(printf, 3, 4)));

static int open_at(const struct online *o, int flags, const char *fmt, va_list ap)
        __attribute__((format(printf, 3, 0)));

static int open_at(const struct online *o, int flags, const char *fmt, va_list ap)
{
        char path[512];
        size_t n = (size_t)snprintf(path, sizeof(path), "%s/", o->sys);

        (void)vsnprintf(path + n, sizeof(path) - n, fmt, ap);
        return open(path, flags | O_CLOEXEC);
}

static bool read_text(const struct online *o, char *buf, size_t size, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        int fd = open_at(o, O_RDONLY, fmt, ap);
        va_end(ap);
        if (fd < 0)
                return false;
        ssize_t n = read(fd, buf, size - 1);
        (void)close(fd);
        if (n < 0)
                return false;
        buf[n] = '\0';
        buf[strcspn(buf, "\n")] = '\0';
        return true;
}

static int write_text(const struct online *o, const char *text, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        int fd = open_at(o, O_WRONLY, fmt, ap);
        va_end(ap);
        if (fd < 0)
                return -errno;
        int r = write(fd, text, strlen(text)) < 0 ? -errno : 0;
        (void)close(fd);
        return r;
}

static bool cpu_is_online(const struct online *o, int64_t cpu)
{
        char text[16];

        if (cpu == 0)
                return true; /* cannot be off line, and often has no such file */
        return read_text(o, text, sizeof(text), "devices/system/cpu/cpu%" PRId64 "/online", cpu) &&
               text[0] == '1';
}

/* "0-3,8" */
static void parse_list(const char *text, struct api_guest_state *ret)
{
        while (*text != '\0') {
                char *end;
                long from = strtol(text, &end, 10), to = from;
                if (end == text)
                        return;
                if (*end == '-')
                        to = strtol(end + 1, &end, 10);
                for (long cpu = from; cpu >= 0 && cpu <= to && ret->n_cpus_online < ARRAY_N(ret->cpus_online);
                     cpu++)
                        ret->cpus_online[ret->n_cpus_online++] = cpu;
                text = end + (*end == ',');
        }
}

static int64_t block_bytes(const struct online *o)
{
        char text[32];

        return read_text(o, text, sizeof(text), "devices/system/memory/block_size_bytes")
                       ? strtoll(text, NULL, 16)
                       : 0;
}

/* Bytes of the blocks that are on line. With `wake`, blocks that are off line are put on line first. */
static int64_t memory_online(struct online *o, bool wake, struct api_guest_state *problem)
{
        char path[300], text[32];
        int64_t blocks = 0;

        (void)snprintf(path, sizeof(path), "%s/devices/system/memory", o->sys);
        DIR *dir = opendir(path);
        const struct dirent *e;
        while (dir != NULL && (e = readdir(dir)) != NULL) {
                char *end;
                if (strncmp(e->d_name, "memory", 6) != 0)
                        continue;
                long n = strtol(e->d_name + 6, &end, 10);
                if (end == e->d_name + 6 || *end != '\0' ||
                    !read_text(o, text, sizeof(text), "devices/system/memory/memory%ld/state", n))
                        continue;
                if (wake && strcmp(text, "offline") == 0) {
                        int r = write_text(o, "online_movable", "devices/system/memory/memory%ld/state", n);
                        if (r < 0 && problem != NULL) {
                                problem->has_problem = true;
                                (void)snprintf(problem->problem, sizeof(problem->problem),
                                               "memory block %ld does not go on line: %s", n, strerror(-r));
                        }
                        if (!read_text(o, text, sizeof(text), "devices/system/memory/memory%ld/state", n))
                                continue;
                }
                blocks += strcmp(text, "online") == 0;
        }
        if (dir != NULL)
                (void)closedir(dir);
        if (dir != NULL)
                o->memory_bytes = o->uevents >= 0 ? blocks * o->block_bytes : -1;
        return blocks * o->block_bytes;
}

static void cpus_state(const struct online *o, struct api_guest_state *ret)
{
        char text[1024];

        *ret = (struct api_guest_state){0};
        if (read_text(o, text, sizeof(text), "devices/system/cpu/online"))
                parse_list(text, ret);
}

int64_t online_block_bytes(const struct online *o)
{
        return o->block_bytes;
}

void online_state(struct online *o, struct api_guest_state *ret)
{
        cpus_state(o, ret);
        ret->memory_bytes = memory_online(o, false, NULL);
}

/* ---- on line ---- */

/* While the kernel puts what is plugged on line by itself, a hand in it would only wait for its lock. */
static bool kernel_puts_online(const struct online *o)
{
        char text[32];

        return o->uevents >= 0 &&
               read_text(o, text, sizeof(text), "devices/system/memory/auto_online_blocks") &&
               strcmp(text, "offline") != 0;
}

/* true: everything that is wanted is on line. Else *state has a problem that says what is missing. */
static bool job_try(struct job *j, bool is_late, struct api_guest_state *missing)
{
        bool all = true;

        for (size_t i = 0; i < j->want.n_cpus; i++) {
                int64_t cpu = j->want.cpus[i];
                if (cpu_is_online(j->online, cpu))
                        continue;
                int r = write_text(j->online, "1", "devices/system/cpu/cpu%" PRId64 "/online", cpu);
                if (r == 0 && cpu_is_online(j->online, cpu))
                        continue;
                all = false;
                missing->has_problem = true;
                (void)snprintf(missing->problem, sizeof(missing->problem),
                               "CPU %" PRId64 " is not on line: %s", cpu,
                               r == -ENOENT ? "it was not plugged, or has not appeared yet"
                                            : strerror(r < 0 ? -r : EIO));
        }
        if (j->want.memory_bytes > 0) {
                struct api_guest_state why = {0};
                int64_t have = j->online->memory_bytes;
                bool wake = is_late || !kernel_puts_online(j->online);
                if (wake || have < 0 || have >= j->want.memory_bytes)
                        have = memory_online(j->online, wake, &why);
                j->memory_bytes = have;
                if (have < j->want.memory_bytes && all) {
                        missing->has_problem = true;
                        (void)snprintf(missing->problem, sizeof(missing->problem), "%s",
                                       why.has_problem ? why.problem
                                                       : "less memory than wanted has appeared");
                }
                all = all && have >= j->want.memory_bytes;
        }
        return all;
}

static void job_end(struct job *j, const struct api_guest_state *missing)
{
        struct api_guest_state state;
        struct rpc_call *call = j->call;

        if (j->want.memory_bytes > 0) {
                cpus_state(j->online, &state);
                state.memory_bytes = j->memory_bytes; /* just counted */
        } else {
                online_state(j->online, &state);
        }
        if (missing->has_problem) {
                state.has_problem = true;
                (void)STR_COPY(state.problem, missing->problem);
        }
        loop_timer_cancel(&j->timer);
        j->call = NULL;
        rpc_reply(call, api_guest_state_emit(&state));
}

static void job_look(struct job *j, bool is_late)
{
        struct api_guest_state missing = {0};

        if (job_try(j, is_late, &missing)) {
                missing.has_problem = false;
                job_end(j, &missing);
        } else if (loop_mono_ms() >= j->deadline_ms || rpc_call_peer(j->call) == NULL) {
                job_end(j, &missing);
        } else {
                loop_timer_in(&j->timer, j->online->uevents >= 0 ? LOOK_SLOW_MS : LOOK_MS);
        }
}

static void on_late(void *arg)
{
        job_look(arg, true);
}

/* ---- uevents ---- */

static void on_uevent(struct online *o, const char *what)
{
        bool is_cpu = strncmp(what, "add@/devices/system/cpu/", 24) == 0;
        bool is_block = strncmp(what, "online@/devices/system/memory/", 30) == 0;
        bool is_lost = strncmp(what, "offline@/devices/system/memory/", 31) == 0;
        bool is_new_block = strncmp(what, "add@/devices/system/memory/", 27) == 0 && !kernel_puts_online(o);

        if (o->memory_bytes >= 0 && is_block)
                o->memory_bytes += o->block_bytes;
        else if (is_lost)
                o->memory_bytes = -1;
        for (size_t i = 0; i < ARRAY_N(o->jobs) && (is_cpu || is_block || is_new_block); i++) {
                struct job *j = &o->jobs[i];
                if (j->call == NULL || (is_cpu ? j->want.n_cpus == 0 : j->want.memory_bytes == 0))
                        continue;
                if (!is_block || o->memory_bytes < 0 || o->memory_bytes >= j->want.memory_bytes)
                        job_look(j, false);
        }
}

static void on_uevents(void *arg, uint32_t events)
{
        struct online *o = arg;
        char what[UEVENT_MAX];
        struct sockaddr_nl from;
        ssize_t n;

        for (;;) {
                socklen_t size = sizeof(from);
                n = recvfrom(o->uevents, what, sizeof(what) - 1, MSG_DONTWAIT, (struct sockaddr *)&from,
                             &size);
                if (n < 0 && errno == ENOBUFS) { /* some were lost; the timers look all the same */
                        o->memory_bytes = -1;
                        continue;
                }
                if (n <= 0)
                        return;
                what[n] = '\0';
                if (size == sizeof(from) && from.nl_pid == 0) /* the kernel */
                        on_uevent(o, what);
        }
}

static void uevents_open(struct online *o)
{
        struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};

        o->uevents = -1;
        if (strcmp(o->sys, "/sys") != 0)
                return;
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
        if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
            loop_fd_add(&o->watch, fd, EPOLLIN, on_uevents, o, NULL) == 0)
                o->uevents = fd;
        else if (fd >= 0)
                (void)close(fd);
}

/* ---- for the owner ---- */

void online_request(struct online *o, const struct api_guest_online *want, struct rpc_call *call)
{
        struct job *j = NULL;
        struct err err = {0};

        for (size_t i = 0; i < ARRAY_N(o->jobs) && j == NULL; i++)
                if (o->jobs[i].call == NULL)
                        j = &o->jobs[i];
        if (j == NULL) {
                (void)err_set(&err, REASON_BUSY, EBUSY, "%d such requests are being carried out",
                              ONLINE_JOBS_MAX);
                rpc_refuse(call, RPC_REFUSED, &err);
                return;
        }
        j->want = *want;
        j->call = call;
        j->deadline_ms = loop_mono_ms() + (want->has_timeout_ms ? want->timeout_ms : TIMEOUT_DEFAULT_MS);
        job_look(j, false);
}

void online_offline(struct online *o, const struct api_guest_offline *want, struct api_guest_state *ret)
{
        char problem[sizeof(ret->problem)] = "";

        for (size_t i = 0; i < want->n_cpus; i++) {
                int64_t cpu = want->cpus[i];
                if (cpu == 0 || !cpu_is_online(o, cpu))
                        continue;
                int r = write_text(o, "0", "devices/system/cpu/cpu%" PRId64 "/online", cpu);
                if (r < 0)
                        (void)snprintf(problem, sizeof(problem), "CPU %" PRId64 " does not go off line: %s",
                                       cpu, strerror(-r));
        }
        online_state(o, ret);
        if (problem[0] != '\0')
                ret->has_problem = STR_COPY(ret->problem, problem);
}

struct online *online_new(const char *sys)
{
        struct online *o = g_new0(struct online, 1);

        (void)STR_COPY(o->sys, sys);
        o->block_bytes = block_bytes(o);
        o->memory_bytes = -1;
        uevents_open(o);
        for (size_t i = 0; i < ARRAY_N(o->jobs); i++) {
                o->jobs[i].online = o;
                loop_timer_init(&o->jobs[i].timer, on_late, &o->jobs[i]);
        }
        return o;
}

void online_free(struct online *o)
{
        if (o == NULL)
                return;
        for (size_t i = 0; i < ARRAY_N(o->jobs); i++) {
                struct api_guest_state missing = {.has_problem = true, .problem = "the agent is stopping"};
                if (o->jobs[i].call != NULL)
                        job_end(&o->jobs[i], &missing);
        }
        loop_fd_remove(&o->watch);
        if (o->uevents >= 0)
                (void)close(o->uevents);
        g_free(o);
}

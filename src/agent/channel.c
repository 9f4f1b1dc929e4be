/* SPDX-License-Identifier: Apache-2.0 */
/* The model.
 *
 *   DOWN     no rpc; the timer looks again       port fd may be open (a port can have one opener only, and
 * the host sees that the guest has it open) GREETING rpc, hello is out SYNCING  rpc, sync is out READY    rpc
 *
 * An interruption that is shorter than our attention leaves no trace on a port. So a host says `greet` first.
 *
 * A host that holds back bytes for a port that is closed hands them over when it is opened again: answers to
 * an agent before this one. So ids start at another random number each time, and a newline ends its half
 * line. */
#include "agent/channel.h"
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "lib/id.h"
#include "loop/loop.h"
#include "wire/unix.h"

enum {
        LOOK_FIRST_MS = 50,
        LOOK_MAX_MS = 1000,
        RETRY_MAX_MS = 5000,
        GREETING_MS = 10000,
        LINE_MAX_BYTES = 1024 * 1024
};

enum channel_state { CHANNEL_DOWN = 1, CHANNEL_GREETING, CHANNEL_SYNCING, CHANNEL_READY };

struct channel {
        enum channel_state state;
        char port[256];
        struct channel_owner owner;
        void *arg;
        int fd; /* the port while DOWN; -1: not open, or the rpc has it */
        struct rpc *rpc;
        bool is_losing;
        struct loop_timer timer;
        int64_t wait_ms;
        char vm[64];
        bool has_hhi;
        int64_t cpus_max, memory_max_bytes; /* of this VM; 0: not said */
        struct err problem;
};

static void look_again(struct channel *c, int64_t max_ms)
{
        c->wait_ms = c->wait_ms == 0 ? LOOK_FIRST_MS : c->wait_ms * 2 < max_ms ? c->wait_ms * 2 : max_ms;
        loop_timer_in(&c->timer, c->wait_ms);
}

/* From a timer, never from within the rpc's own callbacks: ends the connection after a greeting went wrong.
 */
static void drop(struct channel *c, const struct err *why)
{
        bool was_ready = c->state == CHANNEL_READY;

        if (c->is_losing)
                return;
        c->is_losing = true;
        if (strcmp(c->problem.sentence, why->sentence) != 0)
                log_note("host: %s", why->sentence);
        c->problem = *why;
        c->state = CHANNEL_DOWN;
        rpc_free(c->rpc);
        c->rpc = NULL;
        c->is_losing = false;
        if (was_ready)
                c->owner.on_lost(c->arg, why);
        look_again(c, RETRY_MAX_MS);
}

/* ---- greeting ---- */

static void on_synced(void *arg, const json_t *result, const struct err *err)
{
        struct channel *c = arg;
        struct err why = {0};

        if (channel_is_lost(c))
                return;
        struct api_guest_synced *synced = g_new(struct api_guest_synced, 1);
        if (err != NULL) {
                why = *err;
                (void)err_note(&why, "sync was refused");
                drop(c, &why);
        } else if (api_guest_synced_parse(result, synced, &why) < 0) {
                (void)err_note(&why, "the answer to sync");
                drop(c, &why);
        } else {
                c->state = CHANNEL_READY;
                c->wait_ms = 0;
                c->problem = (struct err){0};
                log_note("host: connected as %s", c->vm);
                c->owner.on_synced(c->arg, synced);
        }
        g_free(synced);
}

static void on_welcome(void *arg, const json_t *result, const struct err *err)
{
        struct channel *c = arg;
        struct api_guest_welcome welcome;
        struct err why = {0};
        int r = 0;

        if (channel_is_lost(c))
                return;
        if (err != NULL) {
                why = *err;
                r = err_note(&why, "the greeting was refused");
        } else if (api_guest_welcome_parse(result, &welcome, &why) < 0) {
                r = err_note(&why, "the answer to the greeting");
        } else if (welcome.version != 1) {
                r = err_set(&why, REASON_INCOMPATIBLE, EPROTO,
                            "the host wants version %d of the contract, this agent has 1",
                            (int)welcome.version);
        } else {
                (void)STR_COPY(c->vm, welcome.vm);
                c->cpus_max = welcome.has_cpus_max ? welcome.cpus_max : 0;
                c->memory_max_bytes = welcome.has_memory_max_bytes ? welcome.memory_max_bytes : 0;
                c->has_hhi = false;
                for (size_t i = 0; i < welcome.n_features; i++)
                        c->has_hhi = c->has_hhi || strcmp(welcome.features[i], "hhi") == 0;
                struct api_guest_sync *sync = g_new0(struct api_guest_sync, 1);
                c->owner.fill_sync(c->arg, sync);
                c->state = CHANNEL_SYNCING;
                r = rpc_call(c->rpc, "sync", api_guest_sync_emit(sync), GREETING_MS, on_synced, c, &why);
                g_free(sync);
        }
        if (r < 0)
                drop(c, &why);
}

/* ---- from the host ---- */

static void on_request(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                       const json_t *params)
{
        struct channel *c = arg;
        enum api_guest_method m = api_guest_method_find(method);

        if (m == API_GUEST_PING)
                rpc_reply(call, NULL);
        else if (m == API_GUEST_ONLINE || m == API_GUEST_OFFLINE || m == API_GUEST_HHI)
                c->owner.on_request(c->arg, call, m, params);
        else
                rpc_refuse_unknown(call, method);
}

/* Another host, or the same one anew, listens on a connection that has never ended for us. What we asked the
 * one before is answered by nobody, so the stream is given up and opened again; at once, for the host waits.
 */
static void on_greet(struct channel *c)
{
        struct err why = {0};

        if (c->state == CHANNEL_GREETING)
                return;
        (void)err_set(&why, REASON_PEER_LOST, ECONNRESET, "the host has connected anew");
        c->wait_ms = 0;
        drop(c, &why);
        loop_timer_in(&c->timer, 0);
}

static void on_notify(void *arg, struct rpc *rpc, const char *method, const json_t *params)
{
        struct channel *c = arg;
        struct api_guest_ended ended;
        struct err why = {0};

        switch (api_guest_method_find(method)) {
        case API_GUEST_GREET:
                on_greet(c);
                return;
        case API_GUEST_ENDED:
                break;
        case API_GUEST_HELLO:
        case API_GUEST_SYNC:
        case API_GUEST_RESERVE:
        case API_GUEST_ACCEPT:
        case API_GUEST_RELEASE:
        case API_GUEST_PING:
        case API_GUEST_ONLINE:
        case API_GUEST_OFFLINE:
        case API_GUEST_HHI:
        case API_GUEST_HHI_WATCH:
        case API_GUEST_METHOD_N:
        default: /* of a later version */
                return;
        }
        if (api_guest_ended_parse(params, &ended, &why) < 0)
                log_warn("host: a notice that is none of ours: %s", why.sentence);
        else
                c->owner.on_ended(c->arg, &ended);
}

static void on_rpc_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        drop(arg, err);
}

/* ---- opening ---- */

/* Where there is no udev, /dev/virtio-ports is missing; the kernel names its ports in sysfs. */
static int open_by_name(const char *port, struct err *err)
{
        const char *name = strrchr(port, '/') != NULL ? strrchr(port, '/') + 1 : port;
        DIR *dir = strncmp(port, "/dev/virtio-ports/", 18) == 0 ? opendir("/sys/class/virtio-ports") : NULL;
        const struct dirent *e;
        int fd = -1;

        while (dir != NULL && fd < 0 && (e = readdir(dir)) != NULL) {
                char path[320], text[128];
                (void)snprintf(path, sizeof(path), "/sys/class/virtio-ports/%.255s/name", e->d_name);
                int name_fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = name_fd >= 0 ? read(name_fd, text, sizeof(text) - 1) : -1;
                if (name_fd >= 0)
                        (void)close(name_fd);
                text[n > 0 ? n : 0] = '\0';
                text[strcspn(text, "\n")] = '\0';
                if (strcmp(text, name) != 0)
                        continue;
                (void)snprintf(path, sizeof(path), "/dev/%.255s", e->d_name);
                fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        }
        if (dir != NULL)
                (void)closedir(dir);
        return fd >= 0 ? fd
                       : err_set(err, REASON_PEER_LOST, ENOENT, "there is no port %s; is this a VM of mete?",
                                 port);
}

static int open_port(const char *port, struct err *err)
{
        if (strncmp(port, "unix:", 5) == 0)
                return unix_connect(port + 5, err);
        int fd = open(port, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        if (fd >= 0)
                return fd;
        if (errno == ENOENT)
                return open_by_name(port, err);
        return err_set(err, REASON_PEER_LOST, errno, "%s: %s", port, strerror(errno));
}

/* Somebody listens on the other side. */
static int check_host(int fd, struct err *err)
{
        struct pollfd p = {.fd = fd, .events = POLLOUT};

        if (poll(&p, 1, 0) < 0 || (p.revents & (POLLHUP | POLLERR | POLLNVAL)))
                return err_set(err, REASON_PEER_LOST, ENOTCONN,
                               "nobody listens at the host's end of the port");
        return 0;
}

static int64_t random_start(void)
{
        uint64_t start;

        id_random(&start, sizeof(start));
        return (int64_t)(start >> 16) & (((int64_t)1 << 48) - 1);
}

static int greet(struct channel *c, struct err *err)
{
        const struct rpc_options options = {.line_max = LINE_MAX_BYTES,
                                            .first_id = random_start(),
                                            .calls_max = 16,
                                            .on_request = on_request,
                                            .on_notify = on_notify,
                                            .on_lost = on_rpc_lost};
        struct api_guest_hello hello = {.version = 1};

        c->rpc = rpc_new(c->fd, &options, c, err);
        if (c->rpc == NULL) {
                (void)close(c->fd);
                c->fd = -1;
                return -err->code;
        }
        c->fd = -1;
        c->state = CHANNEL_GREETING;
        (void)STR_COPY(hello.agent, METE_VERSION);
        c->owner.fill_hello(c->arg, &hello);
        int r = rpc_resync(c->rpc, err);
        return r < 0 ? r
                     : rpc_call(c->rpc, "hello", api_guest_hello_emit(&hello), GREETING_MS, on_welcome, c,
                                err);
}

static void look(void *arg)
{
        struct channel *c = arg;
        struct err why = {0};
        int r = 0;

        assert(c->state == CHANNEL_DOWN);
        if (c->fd < 0)
                r = c->fd = open_port(c->port, &why);
        if (r >= 0)
                r = check_host(c->fd, &why);
        if (r >= 0) {
                r = greet(c, &why);
                if (r < 0)
                        drop(c, &why);
                return;
        }
        if (strcmp(c->problem.sentence, why.sentence) != 0)
                log_note("host: %s", why.sentence);
        c->problem = why;
        look_again(c, LOOK_MAX_MS);
}

/* ---- for the owner ---- */

struct channel *channel_new(const char *port, const struct channel_owner *owner, void *arg)
{
        struct channel *c = g_new0(struct channel, 1);

        c->state = CHANNEL_DOWN;
        c->fd = -1;
        (void)STR_COPY(c->port, port);
        c->owner = *owner;
        c->arg = arg;
        (void)err_set(&c->problem, REASON_PEER_LOST, ENOTCONN, "the host was not reached yet");
        loop_timer_init(&c->timer, look, c);
        loop_timer_in(&c->timer, 0);
        return c;
}

void channel_free(struct channel *c)
{
        if (c == NULL)
                return;
        c->state = CHANNEL_DOWN;
        c->is_losing = true;
        rpc_free(c->rpc);
        loop_timer_cancel(&c->timer);
        if (c->fd >= 0)
                (void)close(c->fd);
        g_free(c);
}

bool channel_is_ready(const struct channel *c)
{
        return c->state == CHANNEL_READY;
}

bool channel_is_lost(const struct channel *c)
{
        return c->is_losing || c->rpc == NULL || rpc_is_lost(c->rpc);
}

const char *channel_vm(const struct channel *c)
{
        return c->vm;
}

bool channel_has_hhi(const struct channel *c)
{
        return c->has_hhi;
}

int64_t channel_limit(const struct channel *c, enum component_kind kind)
{
        return kind == COMPONENT_CPU ? c->cpus_max : kind == COMPONENT_MEMORY ? c->memory_max_bytes : 0;
}

const char *channel_problem(const struct channel *c)
{
        return c->problem.sentence;
}

int channel_call(struct channel *c, enum api_guest_method method, json_t *params, int64_t timeout_ms,
                 rpc_done_fn *cb, void *arg, struct err *err)
{
        if (c->state != CHANNEL_READY) {
                json_decref(params);
                return err_set(err, REASON_PEER_LOST, ENOTCONN, "%s", c->problem.sentence);
        }
        return rpc_call(c->rpc, api_guest_methods[method].name, params, timeout_ms, cb, arg, err);
}

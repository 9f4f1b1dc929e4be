/* SPDX-License-Identifier: Apache-2.0 */
/* A user has an entry while it has a connection or has used tokens lately; where all entries are taken by
 * others, a new user is turned away rather than let in uncounted. */
#include "agent/apps.h"
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/log.h"
#include "base/str.h"
#include "loop/loop.h"
#include "wire/bucket.h"
#include "wire/unix.h"

enum { ACCEPT_PER_TURN = 8, PAUSE_MS = 100, SEND_MAX = 1 << 20, QUEUE_MAX = 4 << 20, CALLS_MAX = 40 };

struct user {
        bool is_used;
        uid_t uid;
        size_t connections;
        struct bucket tokens;
};

struct connection {
        struct apps *apps;
        struct app app;
        struct user *user;
        struct rpc *rpc;
        struct connection *next, **at;
        bool is_watching; /* is told of the host */
};

struct apps {
        int fd;
        char path[108];
        struct loop_fd watch;
        struct loop_timer pause;
        struct connection *first;
        size_t n;
        struct user users[APPS_USERS_MAX];
        apps_request_fn *on_request;
        void *arg;
        uint64_t turned_away;
};

static struct user *user_get(struct apps *apps, uid_t uid)
{
        struct user *free_one = NULL;
        int64_t now = loop_mono_ms();

        for (size_t i = 0; i < ARRAY_N(apps->users); i++) {
                struct user *u = &apps->users[i];
                if (u->is_used && u->uid == uid)
                        return u;
                /* Nobody connected, and the bucket is full again: nothing is forgotten by using it anew. */
                if (u->is_used && u->connections == 0 &&
                    bucket_wait_ms(&u->tokens, u->tokens.burst, now) == 0)
                        u->is_used = false;
                if (!u->is_used && free_one == NULL)
                        free_one = u;
        }
        if (free_one != NULL) {
                *free_one = (struct user){.is_used = true, .uid = uid};
                bucket_init(&free_one->tokens, APPS_USER_RATE_PER_S, (int64_t)2 * APPS_USER_RATE_PER_S, now);
        }
        return free_one;
}

bool apps_take_token(struct apps *apps, uid_t uid)
{
        struct user *u = user_get(apps, uid);

        return u != NULL && bucket_take(&u->tokens, loop_mono_ms());
}

static void connection_free(struct connection *c)
{
        *c->at = c->next;
        if (c->next != NULL)
                c->next->at = c->at;
        c->user->connections--;
        c->apps->n--;
        rpc_free(c->rpc);
        proc_hold_drop(&c->app.life);
        g_free(c);
}

static void on_request(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                       const json_t *params)
{
        struct connection *c = arg;

        c->apps->on_request(c->apps->arg, &c->app, call, method, params);
}

static void on_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        struct connection *c = arg;

        if (err->reason != REASON_PEER_LOST)
                log_note("application %s/%ld is dropped: %s", c->app.proc.name, (long)c->app.proc.pid,
                         err->sentence);
        connection_free(c);
}

/* Says why, before anything was asked: so with id null. A socket that is new has room for it. */
static void turn_away(int fd, const struct err *why)
{
        const struct rpc_id nobody = {.kind = RPC_ID_NULL};
        size_t n = 0;
        char *text = rpc_message_error(&nobody, RPC_REFUSED, why, &n);

        if (text == NULL)
                return;
        text[n] = '\n'; /* where its NUL was */
        (void)send(fd, text, n + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        free(text);
}

/* Takes fd. */
static int take_connection(struct apps *apps, int fd, struct err *err)
{
        const struct rpc_options options = {.line_max = APPS_LINE_MAX,
                                            .send_max = SEND_MAX,
                                            .queue_max_bytes = QUEUE_MAX,
                                            .calls_max = CALLS_MAX,
                                            .rate_per_s = APPS_RATE_PER_S,
                                            .burst = 2 * APPS_RATE_PER_S,
                                            .drop_on_garbage = true,
                                            .on_request = on_request,
                                            .on_lost = on_lost};
        struct unix_peer peer;
        struct proc proc;

        int r = unix_peer_get(fd, &peer, err);
        if (r == 0 && peer.pid <= 0)
                r = err_set(err, REASON_DENIED, EPERM,
                            "the application is in a process namespace that the agent does not see");
        int pidfd = r == 0 ? proc_peer_pidfd(fd, err) : -1;
        if (pidfd < -1)
                r = pidfd;
        if (r == 0)
                r = proc_of_peer(peer.pid, peer.uid, pidfd, &proc, err);
        if (pidfd >= 0)
                (void)close(pidfd);
        struct user *user = r == 0 ? user_get(apps, peer.uid) : NULL;
        if (r == 0 && (user == NULL || user->connections >= APPS_PER_USER_MAX || apps->n >= APPS_MAX))
                r = err_set(err, REASON_BUSY, EBUSY, "too many connections, or too many of this user");
        struct connection *c = r == 0 ? g_new0(struct connection, 1) : NULL;
        if (c != NULL) {
                c->app.proc = proc;
                c->app.uid = peer.uid;
                r = proc_hold_new(&c->app.life, proc.pid, proc.start_ticks, NULL, NULL, err);
                c->rpc = r == 0 ? rpc_new(fd, &options, c, err) : NULL;
                if (c->rpc == NULL) {
                        r = -err->code;
                        proc_hold_drop(&c->app.life);
                        g_free(c);
                }
        }
        if (r < 0) {
                turn_away(fd, err);
                (void)close(fd);
                return r;
        }
        c->apps = apps;
        c->user = user;
        c->next = apps->first;
        if (c->next != NULL)
                c->next->at = &c->next;
        c->at = &apps->first;
        apps->first = c;
        apps->n++;
        user->connections++;
        return 0;
}

static void on_listening(void *arg, uint32_t events)
{
        struct apps *apps = arg;
        struct err why = {0};

        for (int i = 0; i < ACCEPT_PER_TURN; i++) {
                int fd = unix_accept(apps->fd, &why);
                if (fd == -EAGAIN)
                        return;
                if (fd < 0) { /* out of descriptors or memory: it stays readable */
                        log_warn("applications cannot connect: %s", why.sentence);
                        (void)loop_fd_set(&apps->watch, 0, NULL);
                        loop_timer_in(&apps->pause, PAUSE_MS);
                        return;
                }
                if (take_connection(apps, fd, &why) < 0 && apps->turned_away++ % 1000 == 0)
                        log_note("an application was turned away: %s", why.sentence);
        }
}

static void on_pause_over(void *arg)
{
        struct apps *apps = arg;

        (void)loop_fd_set(&apps->watch, EPOLLIN, NULL);
}

struct apps *apps_new(const char *path, apps_request_fn *request_fn, void *arg, struct err *err)
{
        int fd = unix_listen(path, 0666, err);

        if (fd < 0)
                return NULL;
        struct apps *apps = g_new0(struct apps, 1);
        apps->fd = fd;
        (void)STR_COPY(apps->path, path);
        apps->on_request = request_fn;
        apps->arg = arg;
        loop_timer_init(&apps->pause, on_pause_over, apps);
        if (loop_fd_add(&apps->watch, fd, EPOLLIN, on_listening, apps, err) < 0) {
                apps_free(apps);
                return NULL;
        }
        return apps;
}

void apps_free(struct apps *apps)
{
        if (apps == NULL)
                return;
        while (apps->first != NULL)
                connection_free(apps->first);
        loop_fd_remove(&apps->watch);
        loop_timer_cancel(&apps->pause);
        (void)unlink(apps->path);
        (void)close(apps->fd);
        g_free(apps);
}

void apps_notify(struct apps *apps, pid_t pid, uint64_t start_ticks, const char *method, const json_t *params)
{
        for (struct connection *c = apps->first; c != NULL; c = c->next)
                if (c->app.proc.pid == pid && c->app.proc.start_ticks == start_ticks)
                        (void)rpc_notify(c->rpc, method, json_deep_copy(params), NULL);
}

void apps_watch(const struct app *app)
{
        ((struct connection *)((char *)(uintptr_t)app - offsetof(struct connection, app)))->is_watching =
                true;
}

void apps_tell(struct apps *apps, const char *method, const json_t *params)
{
        for (struct connection *c = apps->first; c != NULL; c = c->next)
                if (c->is_watching)
                        (void)rpc_notify(c->rpc, method, json_deep_copy(params), NULL);
}

size_t apps_n(const struct apps *apps)
{
        return apps->n;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "meted/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "loop/loop.h"
#include "wire/rpc.h"
#include "wire/unix.h"

enum { RETRY_MS = 200, HELLO_MS = 5000, FDS_MAX = 16, LINE_MAX_BYTES = 1 << 20 };

struct call {
        struct keeper *k;
        enum api_keeper_method method;
        json_t *params;
        int fds[FDS_MAX];
        size_t n_fds;
        int64_t deadline_mono_ms;
        bool is_sent;
        keeper_done *done;
        void *arg;
};

struct keeper {
        char *path;
        struct rpc *rpc;          /* NULL while away */
        struct rpc_counters gone; /* of connections before this one */
        bool greeted;
        bool complained;
        struct api_keeper_info info;
        GList *calls; /* unanswered, oldest first */
        struct loop_timer retry, deadline;
        void (*on_change)(void *arg, bool connected);
        void *arg;
};

static void send_waiting(struct keeper *k);
static void arm_deadline(struct keeper *k);

static void call_free(struct call *c)
{
        json_decref(c->params);
        for (size_t i = 0; i < c->n_fds; i++)
                close(c->fds[i]);
        g_free(c);
}

static void call_end(struct call *c, const json_t *result, const struct err *err)
{
        c->k->calls = g_list_remove(c->k->calls, c);
        if (c->done)
                c->done(c->arg, result, err);
        call_free(c);
}

static void lost(struct keeper *k)
{
        bool was = k->greeted;
        rpc_counters_add(k->rpc, &k->gone);
        if (k->rpc)
                rpc_free(k->rpc);
        k->rpc = NULL;
        k->greeted = false;
        for (GList *l = k->calls; l; l = l->next)
                ((struct call *)l->data)->is_sent = false;
        loop_timer_in(&k->retry, RETRY_MS);
        if (was)
                k->on_change(k->arg, false);
}

static void on_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        struct keeper *k = arg;
        (void)rpc;
        log_warn("mete-keeper is away: %s", err->sentence);
        lost(k);
}

static void on_answer(void *arg, const json_t *result, const struct err *err)
{
        struct call *c = arg;
        if (err && (err->reason == REASON_PEER_LOST || err->reason == REASON_CANCELLED)) {
                c->is_sent = false; /* asked again when it is back */
                return;
        }
        call_end(c, result, err);
}

static void send_waiting(struct keeper *k)
{
        if (!k->greeted)
                return;
        for (GList *l = k->calls; l; l = l->next) {
                struct call *c = l->data;
                if (c->is_sent)
                        continue;
                int64_t left = c->deadline_mono_ms - loop_mono_ms();
                c->is_sent = true;
                struct err err = {0};
                if (rpc_call_fds(k->rpc, api_keeper_methods[c->method].name, json_incref(c->params), c->fds,
                                 c->n_fds, left > 1 ? left : 1, on_answer, c, &err)) {
                        log_warn("mete-keeper: %s", err.sentence);
                        c->is_sent = false; /* its deadline tells the caller, unless it comes back before */
                }
        }
}

static void on_hello(void *arg, const json_t *result, const struct err *err)
{
        struct keeper *k = arg;
        struct err bad = {0};
        if (err && (err->reason == REASON_PEER_LOST || err->reason == REASON_CANCELLED))
                return;
        if (err || api_keeper_info_parse(result, &k->info, &bad)) {
                log_error("mete-keeper answers the greeting with: %s", err ? err->sentence : bad.sentence);
                loop_timer_in(&k->retry, RETRY_MS); /* lost() from there: not within its own callback */
                return;
        }
        k->greeted = true;
        k->complained = false;
        log_info("mete-keeper %s is there, CPU grants are held by %s", k->info.keeper,
                 api_cpu_provider_name(k->info.cpu_provider));
        k->on_change(k->arg, true);
        send_waiting(k);
}

static void connect_now(void *arg)
{
        struct keeper *k = arg;
        struct err err = {0};
        if (k->rpc) {
                lost(k);
                return;
        }
        int fd = unix_connect(k->path, &err);
        if (fd < 0) {
                if (!k->complained)
                        log_warn("mete-keeper is not there: %s", err.sentence);
                k->complained = true;
                loop_timer_in(&k->retry, RETRY_MS);
                return;
        }
        struct rpc_options o = {
                .line_max = LINE_MAX_BYTES,
                .queue_max_bytes = 4 * LINE_MAX_BYTES,
                .fds_max = RPC_FDS_MAX,
                .on_lost = on_lost,
        };
        k->rpc = rpc_new(fd, &o, k, &err);
        if (!k->rpc) {
                close(fd);
                loop_timer_in(&k->retry, RETRY_MS);
                return;
        }
        struct api_keeper_hello hello = {.version = API_KEEPER_VERSION};
        if (rpc_call(k->rpc, api_keeper_methods[API_KEEPER_HELLO].name, api_keeper_hello_emit(&hello),
                     HELLO_MS, on_hello, k, &err))
                loop_timer_in(&k->retry, RETRY_MS);
}

static void on_deadline(void *arg)
{
        struct keeper *k = arg;
        int64_t now = loop_mono_ms();
        GList *next;
        for (GList *l = k->calls; l; l = next) {
                struct call *c = l->data;
                next = l->next;
                if (c->is_sent || c->deadline_mono_ms > now)
                        continue; /* a sent one has its deadline in the connection */
                struct err err = {0};
                (void)err_set(&err, REASON_TIMEOUT, ETIMEDOUT, "mete-keeper is away, %s was not done",
                              api_keeper_methods[c->method].name);
                call_end(c, NULL, &err);
                next = k->calls; /* the callback may have changed the list */
        }
        arm_deadline(k);
}

static void arm_deadline(struct keeper *k)
{
        int64_t first = INT64_MAX;
        for (GList *l = k->calls; l; l = l->next) {
                const struct call *c = l->data;
                /* a little later than the connection's own deadline for it */
                if (c->deadline_mono_ms + 50 < first)
                        first = c->deadline_mono_ms + 50;
        }
        if (first == INT64_MAX)
                loop_timer_cancel(&k->deadline);
        else
                loop_timer_at(&k->deadline, first > loop_mono_ms() ? first : loop_mono_ms() + 50);
}

void keeper_call(struct keeper *k, enum api_keeper_method method, json_t *params, const int *fds,
                 size_t n_fds, int timeout_ms, keeper_done *done, void *arg)
{
        struct call *c = g_new0(struct call, 1);
        c->k = k;
        c->method = method;
        c->params = params;
        c->deadline_mono_ms = loop_mono_ms() + timeout_ms;
        c->done = done;
        c->arg = arg;
        for (size_t i = 0; i < n_fds && i < FDS_MAX; i++)
                c->fds[c->n_fds++] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
        k->calls = g_list_append(k->calls, c);
        arm_deadline(k);
        send_waiting(k);
}

void keeper_forget(struct keeper *k, const void *arg)
{
        for (GList *l = k ? k->calls : NULL; l; l = l->next) {
                struct call *c = l->data;
                if (c->arg == arg)
                        c->done = NULL;
        }
}

void keeper_withdraw(struct keeper *k, enum api_keeper_method method, const void *arg)
{
        GList *next;
        for (GList *l = k ? k->calls : NULL; l; l = next) {
                struct call *c = l->data;
                next = l->next;
                if (c->method != method || c->arg != arg)
                        continue;
                c->done = NULL;
                if (!c->is_sent) { /* nor is it in the connection's hands */
                        k->calls = g_list_delete_link(k->calls, l);
                        call_free(c);
                }
        }
}

int keeper_take_fds(struct keeper *k, int *ret_fds, size_t n, struct err *err)
{
        return rpc_take_result_fds(k->rpc, ret_fds, n, err);
}

struct keeper *keeper_new(const char *socket_path, void (*on_change)(void *arg, bool connected), void *arg)
{
        struct keeper *k = g_new0(struct keeper, 1);
        k->path = g_strdup(socket_path);
        k->on_change = on_change;
        k->arg = arg;
        loop_timer_init(&k->retry, connect_now, k);
        loop_timer_init(&k->deadline, on_deadline, k);
        loop_timer_in(&k->retry, 0);
        return k;
}

void keeper_free(struct keeper *k)
{
        if (!k)
                return;
        struct rpc *rpc = k->rpc;
        k->rpc = NULL;
        if (rpc)
                rpc_free(rpc);
        while (k->calls) {
                struct err err = {0};
                (void)err_set(&err, REASON_CANCELLED, ECANCELED, "meted stops");
                call_end(k->calls->data, NULL, &err);
        }
        loop_timer_cancel(&k->retry);
        loop_timer_cancel(&k->deadline);
        g_free(k->path);
        g_free(k);
}

const struct api_keeper_info *keeper_info(const struct keeper *k)
{
        return k->greeted ? &k->info : NULL;
}

struct rpc_counters keeper_counters(const struct keeper *k)
{
        struct rpc_counters sum = k->gone;
        rpc_counters_add(k->rpc, &sum);
        return sum;
}

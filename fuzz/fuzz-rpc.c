/* SPDX-License-Identifier: Apache-2.0 */
/* What a peer sends, byte for byte, to a struct rpc with calls of its own under way. The first byte chooses
 * the options, the second the size of the pieces. The handlers answer at once, later, never, with
 * descriptors, and free the rpc in the middle, by the length of the method. Whatever comes: each of our calls
 * is answered exactly once, each answer is a message by our own reader, and no more than the limits is ever
 * under way. */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/loop.h"
#include "wire/line.h"
#include "wire/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CALLS = 4, CALLS_MAX = 3 };

struct side {
        struct rpc *rpc;
        struct rpc_call *kept[CALLS_MAX];
        unsigned n_kept, answered[CALLS];
        bool is_lost;
};

static void on_request(void *arg, struct rpc *rpc, struct rpc_call *call, const char *method,
                       const json_t *params)
{
        struct side *s = arg;
        struct err why;
        assert(json_is_object(params));
        switch (strlen(method)) {
        case 4: /* echo */
                rpc_reply(call, json_deep_copy(params));
                break;
        case 5: /* later */
                if (s->n_kept == CALLS_MAX) {
                        rpc_reply(s->kept[0], NULL);
                        s->kept[0] = s->kept[--s->n_kept];
                }
                s->kept[s->n_kept++] = call;
                break;
        case 6: /* refuse */
                (void)err_set(&why, REASON_POLICY, EPERM, "not %s", method);
                rpc_refuse(call, RPC_REFUSED, &why);
                break;
        case 7: /* release */
                rpc_free(rpc);
                s->rpc = NULL;
                rpc_reply(call, NULL);
                break;
        default:
                rpc_refuse_unknown(call, method);
        }
}

static void on_notify(void *arg, struct rpc *rpc, const char *method, const json_t *params)
{
        struct side *s = arg;
        if (strlen(method) == 7) {
                rpc_free(rpc);
                s->rpc = NULL;
        }
}

static void on_lost(void *arg, struct rpc *rpc, const struct err *err)
{
        struct side *s = arg;
        assert(!s->is_lost && err->reason && err->sentence[0]);
        s->is_lost = true;
}

static void on_done(void *arg, const json_t *result, const struct err *err)
{
        unsigned *answered = arg;
        assert(!result != !err && *answered == 0);
        ++*answered;
}

/* All that it says must be lines that our own reader takes. */
static void hear(int fd, struct line *l)
{
        size_t n = 0;
        char *text = NULL, *room;
        ssize_t got;
        while ((room = line_room(l, &n)) && (got = recv(fd, room, n, MSG_DONTWAIT)) > 0) {
                line_filled(l, (size_t)got);
                enum line_outcome what;
                while ((what = line_next(l, &text, &n)) != LINE_MORE) {
                        struct rpc_message m;
                        assert(what == LINE_READY);
                        rpc_message_parse(text, n, &m);
                        assert(m.kind != RPC_MESSAGE_BAD);
                        rpc_message_done(&m);
                }
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        int fds[2];
        struct line l;
        struct side s = {0};
        if (size < 2)
                return 0;
        struct rpc_options o = {
                .line_max = data[0] & 1 ? 4096 : 65536,
                .queue_max_bytes = data[0] & 2 ? 4096 : 0,
                .calls_max = CALLS_MAX,
                .rate_per_s = data[0] & 4 ? 50 : 0,
                .burst = 5,
                .fds_max = data[0] & 8 ? 2 : 0,
                .drop_on_garbage = data[0] & 16,
                .keep_on_overflow = data[0] & 32,
                .on_request = on_request,
                .on_notify = on_notify,
                .on_lost = on_lost,
        };
        size_t piece =
                (size_t)data[1] * data[1] + 1 + size / 256; /* a long input in tiny pieces says nothing new */
        int64_t now_ms = 0;
        loop_clock_fake(now_ms, now_ms);
        line_init(&l, 65536);
        int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds);
        assert(r == 0);
        s.rpc = rpc_new(fds[0], &o, &s, NULL);
        assert(s.rpc);
        for (unsigned i = 0; i < CALLS; i++)
                (void)rpc_call(s.rpc, "ask", NULL, 1000 * i, on_done, &s.answered[i], NULL);
        data += 2;
        size -= 2;
        while (size > 0 && s.rpc && !s.is_lost) {
                size_t n = size < piece ? size : piece;
                ssize_t sent = send(fds[1], data, n, MSG_NOSIGNAL);
                if (sent > 0) {
                        data += sent;
                        size -= (size_t)sent;
                }
                while (loop_once(false))
                        ;
                hear(fds[1], &l);
                now_ms += 10;
                loop_clock_fake(now_ms, now_ms);
        }
        (void)close(fds[1]);
        for (int i = 0; i < 100 && s.rpc && !s.is_lost; i++) {
                now_ms += 100;
                loop_clock_fake(now_ms, now_ms);
                (void)loop_once(false);
        }
        assert(!s.rpc || s.is_lost); /* the hang-up was noticed */
        rpc_free(s.rpc);
        for (unsigned i = 0; i < CALLS; i++)
                assert(s.answered[i] == 1);
        while (s.n_kept > 0)
                rpc_reply(s.kept[--s.n_kept], NULL);
        line_done(&l);
        return 0;
}

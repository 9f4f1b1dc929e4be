/* SPDX-License-Identifier: Apache-2.0 */
/* Where the memory of a VM that comes is waited for. QEMU takes one stream and ends with it, so who it is of
 * is known before: whoever connects comes from where its source speaks to us, and says a word that only who
 * has the key of the attempt can know. Others are hung up on, and the next one is waited for. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "meted/moves-internal.h"
#include "wire/tcp.h"

enum { KNOCK_MS = 5000 };

void move_stream_word(const struct copy_key *key, char ret[MOVE_WORD + 1])
{
        static const char what[] = "mete: the stream of a move";
        g_autofree char *word = g_compute_hmac_for_string(G_CHECKSUM_SHA256, (const guchar *)key->hex,
                                                          strlen(key->hex), what, sizeof(what) - 1);
        (void)g_strlcpy(ret, word, MOVE_WORD + 1);
}

static void knock_end(struct knock *k)
{
        if (k->fd < 0)
                return;
        loop_timer_cancel(&k->deadline);
        loop_fd_remove(&k->watch);
        (void)close(k->fd);
        k->fd = -1;
}

void listener_close(struct moving *mv)
{
        struct listener *l = &mv->listener;
        if (l->fd < 0)
                return;
        loop_fd_remove(&l->watch);
        (void)close(l->fd);
        l->fd = -1;
        for (size_t i = 0; i < KNOCKS_MAX; i++)
                knock_end(&l->knocks[i]);
}

static void refuse(struct moving *mv, struct knock *k, const char *why)
{
        unsigned n = ++mv->listener.refused;
        if ((n & (n - 1)) == 0) /* who knocks without a pause does not fill the log */
                log_warn("move %s: somebody at its port %s; %u in all", mv->core.row.id, why, n);
        if (n == 1)
                move_say(mv, "stranger", "somebody at the port of its memory %s", why);
        if (k)
                knock_end(k);
}

static void on_knock(void *arg, uint32_t events)
{
        struct knock *k = arg;
        struct moving *mv = k->mv;
        char wanted[MOVE_WORD + 1];
        unsigned differs = 0;
        (void)events;
        /* Not a byte more: what follows is QEMU's. */
        ssize_t n = recv(k->fd, k->word + k->n, MOVE_WORD - k->n, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0) {
                knock_end(k);
                return;
        }
        k->n += (size_t)n;
        if (k->n < MOVE_WORD)
                return;
        move_stream_word(&mv->key, wanted);
        for (size_t i = 0; i < MOVE_WORD; i++) /* as long for any word */
                differs |= (unsigned)(k->word[i] ^ wanted[i]);
        if (differs) {
                refuse(mv, k, "has not the key of this attempt");
                return;
        }
        int fd = k->fd;
        loop_timer_cancel(&k->deadline);
        loop_fd_remove(&k->watch);
        k->fd = -1;
        listener_close(mv);
        arrive_stream(mv, fd);
}

static void on_knock_late(void *arg)
{
        struct knock *k = arg;
        refuse(k->mv, k, "said nothing");
}

static void on_accept(void *arg, uint32_t events)
{
        struct moving *mv = arg;
        struct in6_addr from;
        struct err err = {0};
        (void)events;
        int fd = tcp_accept(mv->listener.fd, &from, &err);
        if (fd < 0)
                return;
        if (memcmp(&from, &mv->peer_at, sizeof(from)) != 0) {
                refuse(mv, NULL, "comes from another address than its source");
                (void)close(fd);
                return;
        }
        /* Who has waited longest gives way: its source speaks at once. */
        struct knock *k = &mv->listener.knocks[mv->listener.next++ % KNOCKS_MAX];
        knock_end(k);
        *k = (struct knock){.mv = mv, .fd = fd};
        loop_timer_init(&k->deadline, on_knock_late, k);
        if (loop_fd_add(&k->watch, fd, EPOLLIN, on_knock, k, &err)) {
                knock_end(k);
                return;
        }
        loop_timer_in(&k->deadline, KNOCK_MS);
        on_knock(k, EPOLLIN); /* who speaks at once has: so nobody who is silent makes it give way */
}

void listener_init(struct moving *mv)
{
        mv->listener.fd = -1;
        for (size_t i = 0; i < KNOCKS_MAX; i++)
                mv->listener.knocks[i].fd = -1;
}

/* One of the range, or whichever is free where none is given. */
int listener_open(struct moving *mv, struct err *err)
{
        const struct config *c = &mv->m->config;
        struct tcp_address at = c->tls_address;
        struct sockaddr_in6 here;
        socklen_t n = sizeof(here);
        int fd = -EADDRINUSE;
        listener_close(mv);
        for (int port = c->move_port_first; fd == -EADDRINUSE && port <= c->move_port_last; port++) {
                at.port = (uint16_t)port;
                fd = tcp_listen(&at, err);
        }
        if (fd < 0)
                return fd;
        *err = (struct err){0}; /* of ports that others have */
        mv->listener.fd = fd;
        mv->listener.refused = 0;
        if (getsockname(fd, (struct sockaddr *)&here, &n) < 0) {
                int code = errno;
                listener_close(mv);
                return err_set(err, REASON_INTERNAL, code, "the port of the memory: %s", strerror(code));
        }
        int bad = loop_fd_add(&mv->listener.watch, fd, EPOLLIN, on_accept, mv, err);
        if (bad)
                listener_close(mv);
        mv->port = ntohs(here.sin6_port); /* in the same place for IPv4 */
        return bad;
}

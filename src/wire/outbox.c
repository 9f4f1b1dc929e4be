/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/outbox.h"

#include <assert.h>
#include <errno.h>
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { IOV_MAX_SEND = 64 };

/* One line to be sent, its newline included. */
struct out {
        struct out *next;
        char *text;
        size_t n, sent;
        struct fds fds;
};

void outbox_init(struct outbox *o)
{
        *o = (struct outbox){.end = &o->first};
}

static void out_free(struct out *out)
{
        fds_close(&out->fds);
        free(out->text);
        g_free(out);
}

void outbox_clear(struct outbox *o)
{
        while (o->first) {
                struct out *out = o->first;
                o->first = out->next;
                out_free(out);
        }
        outbox_init(o);
}

void outbox_add(struct outbox *o, char *text, size_t n, struct fds *fds)
{
        assert(text);
        struct out *out = g_new0(struct out, 1);
        text[n] = '\n';
        out->text = text;
        out->n = n + 1;
        if (fds)
                fds_move(fds, &out->fds, fds->n);
        *o->end = out;
        o->end = &out->next;
        o->bytes += out->n;
}

static ssize_t send_some(const struct outbox *o, int fd, bool is_socket)
{
        struct iovec iov[IOV_MAX_SEND];
        size_t n = 0;
        const struct out *first = o->first;
        bool has_fds = first->fds.n > 0;
        for (const struct out *out = first; out && n < IOV_MAX_SEND; out = out->next) {
                /* Descriptors must travel with the first byte of their own line. */
                if (out != first && (has_fds || out->fds.n > 0))
                        break;
                iov[n++] = (struct iovec){.iov_base = out->text + out->sent, .iov_len = out->n - out->sent};
        }
        if (!is_socket)
                return writev(fd, iov, (int)n);
        union {
                struct cmsghdr head;
                char room[CMSG_SPACE(sizeof(int) * FDS_ROOM)];
        } control;
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
        if (has_fds) {
                size_t bytes = sizeof(int) * first->fds.n;
                msg.msg_control = &control;
                msg.msg_controllen = CMSG_SPACE(bytes);
                memset(&control, 0, sizeof(control));
                control.head = (struct cmsghdr){
                        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(bytes)};
                memcpy(CMSG_DATA(&control.head), first->fds.fd, bytes);
        }
        return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void sent(struct outbox *o, size_t n)
{
        o->bytes -= n;
        while (n > 0) {
                struct out *out = o->first;
                size_t part = out->n - out->sent < n ? out->n - out->sent : n;
                fds_close(&out->fds);
                out->sent += part;
                n -= part;
                if (out->sent < out->n)
                        return;
                o->first = out->next;
                if (!o->first)
                        o->end = &o->first;
                out_free(out);
        }
}

int outbox_flush(struct outbox *o, int fd, bool is_socket, uint64_t *ret_n, struct err *err)
{
        *ret_n = 0;
        while (o->first) {
                ssize_t n = send_some(o, fd, is_socket);
                if (n >= 0) {
                        sent(o, (size_t)n);
                        *ret_n += (uint64_t)n;
                } else if (errno == EAGAIN) {
                        break;
                } else if (errno != EINTR) {
                        return err_set(err, REASON_PEER_LOST, errno, "cannot send: %s", strerror(errno));
                }
        }
        return 0;
}

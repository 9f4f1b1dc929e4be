/* SPDX-License-Identifier: Apache-2.0 */
#include "host/net-nl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <linux/rtnetlink.h>
#include <netlink/errno.h>
#include <netlink/handlers.h>
#include <netlink/socket.h>

enum { MESSAGE_BYTES = 4096 };

int (*net_nl_fault)(const char *step, bool is_done);

int net_nl_open(struct net_nl *n, struct err *err)
{
        n->sock = nl_socket_alloc();
        if (!n->sock)
                return err_set(err, REASON_INTERNAL, ENOMEM, "no memory for a netlink socket");
        errno = 0;
        if (nl_connect(n->sock, NETLINK_ROUTE) == 0)
                return 0;
        int code = errno ? errno : EIO;
        net_nl_close(n);
        return err_set(err, REASON_INTERNAL, code, "no netlink socket: %s", strerror(code));
}

void net_nl_close(struct net_nl *n)
{
        nl_socket_free(n->sock);
        n->sock = NULL;
}

struct nl_msg *net_nl_message(int type, int flags, const void *header, size_t size)
{
        struct nl_msg *m = nlmsg_alloc_size(MESSAGE_BYTES);
        if (!m)
                return NULL;
        struct nlmsghdr *h = nlmsg_put(m, NL_AUTO_PORT, NL_AUTO_SEQ, type, (int)size, NLM_F_REQUEST | flags);
        assert(h);
        memcpy(nlmsg_data(h), header, size);
        return m;
}

void net_nl_put(struct nl_msg *m, int type, const void *data, size_t size)
{
        int r = nla_put(m, type, (int)size, data);
        assert(r == 0);
}

void net_nl_put_u32(struct nl_msg *m, int type, uint32_t value)
{
        net_nl_put(m, type, &value, sizeof(value));
}

void net_nl_put_text(struct nl_msg *m, int type, const char *text)
{
        net_nl_put(m, type, text, strlen(text) + 1);
}

struct nlattr *net_nl_nest(struct nl_msg *m, int type)
{
        struct nlattr *nest = nla_nest_start(m, type);
        assert(nest);
        return nest;
}

void net_nl_nest_end(struct nl_msg *m, struct nlattr *nest)
{
        nla_nest_end(m, nest);
}

struct call {
        net_nl_each *each;
        void *user;
        int error;
        bool is_over;
};

static int on_answer(struct nl_msg *m, void *user)
{
        struct call *c = user;
        if (c->each)
                c->each(nlmsg_hdr(m), c->user);
        return NL_OK;
}

static int on_end(struct nl_msg *m, void *user)
{
        struct call *c = user;
        c->is_over = true;
        return NL_STOP;
}

/* Here and not by libnl's return value, which folds several errnos into one number of its own. */
static int on_error(struct sockaddr_nl *from, struct nlmsgerr *e, void *user)
{
        struct call *c = user;
        c->error = e->error;
        c->is_over = true;
        return NL_STOP;
}

static int receive(struct net_nl *n, struct call *c)
{
        struct nl_cb *cb = nl_cb_alloc(NL_CB_DEFAULT);
        if (!cb)
                return -ENOMEM;
        nl_cb_set(cb, NL_CB_VALID, NL_CB_CUSTOM, on_answer, c);
        nl_cb_set(cb, NL_CB_FINISH, NL_CB_CUSTOM, on_end, c);
        nl_cb_set(cb, NL_CB_ACK, NL_CB_CUSTOM, on_end, c);
        nl_cb_err(cb, NL_CB_CUSTOM, on_error, c);
        int r = 0;
        while (!c->is_over && r >= 0) {
                r = nl_recvmsgs(n->sock, cb);
                if (r == -NLE_INTR)
                        r = 0;
        }
        nl_cb_put(cb);
        if (c->is_over)
                return c->error;
        return r == -NLE_DUMP_INTR ? -EAGAIN : -EIO;
}

int net_nl_step(const char *step, bool is_done)
{
        return net_nl_fault ? net_nl_fault(step, is_done) : 0;
}

int net_nl_ask(struct net_nl *n, const char *step, struct nl_msg *m, net_nl_each *each, void *user)
{
        struct call c = {.each = each, .user = user};
        int r = m ? net_nl_step(step, false) : -ENOMEM;
        if (r == 0) {
                errno = 0;
                if (nl_send_auto(n->sock, m) < 0)
                        r = errno ? -errno : -EIO;
                else
                        r = receive(n, &c);
        }
        nlmsg_free(m);
        return r < 0 ? r : net_nl_step(step, true);
}

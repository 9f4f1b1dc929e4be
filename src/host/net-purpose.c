/* SPDX-License-Identifier: Apache-2.0 */
/* A purpose is one class on the uplink. HTB takes it straight from the priority of a socket's packets, so
 * there is no filter that could be missing; packets of a purpose without a class go with the rest. */
#include "host/net-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static uint32_t class_of(unsigned purpose)
{
        return NET_CLASS_PURPOSE + purpose;
}

/* Checks, and opens what each of them needs. */
static int open_uplink(struct net_host *h, unsigned purpose, struct net_nl *n, struct net_link *ret,
                       struct err *err)
{
        int r = net_check_managed(h, err);
        if (r < 0)
                return r;
        if (purpose < 1 || purpose > NET_PURPOSE_MAX)
                return err_set(err, REASON_INVALID, EINVAL, "purpose %u (1 to %d)", purpose, NET_PURPOSE_MAX);
        if ((r = net_nl_open(n, err)) < 0)
                return r;
        if ((r = net_uplink_find(h, n, ret, err)) < 0)
                net_nl_close(n);
        return r;
}

int net_purpose_activate(struct net_host *h, unsigned purpose, const struct net_rate *asked, struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        struct net_rate rate;
        int r = open_uplink(h, purpose, &n, &uplink, err);
        if (r < 0)
                return r;
        if ((r = net_check_rate(h, asked, &rate, err)) == 0)
                r = net_uplink_set(h, &n, &uplink, class_of(purpose), &rate, err);
        net_nl_close(&n);
        return r;
}

int net_purpose_deactivate(struct net_host *h, unsigned purpose, struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        int r = open_uplink(h, purpose, &n, &uplink, err);
        if (r < 0)
                return r;
        r = net_drop_class(&n, &uplink, class_of(purpose), err);
        net_nl_close(&n);
        return r;
}

int net_purpose_read(struct net_host *h, unsigned purpose, struct net_purpose_figures *ret, struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        struct net_tc_class c;
        int r = open_uplink(h, purpose, &n, &uplink, err);
        if (r < 0)
                return r;
        r = net_tc_class_read(&n, uplink.ifindex, class_of(purpose), &c);
        net_nl_close(&n);
        if (r == 0)
                *ret = (struct net_purpose_figures){
                        .is_active = true, .set = net_tc_class_rate(&c), .uplink = c.figures};
        else if (r == -ENOENT || r == -EINVAL)
                *ret = (struct net_purpose_figures){0};
        else
                return net_fail(err, r, uplink.name, "read a class");
        return 0;
}

int net_purpose_verify(struct net_host *h, unsigned purpose, const struct net_rate *asked,
                       char ret_difference[NET_SENTENCE], struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        struct net_rate rate;
        int r = open_uplink(h, purpose, &n, &uplink, err);
        if (r < 0)
                return r;
        if ((r = net_check_rate(h, asked, &rate, err)) == 0) {
                struct net_tc_class c = net_tc_class_of(class_of(purpose), NET_CLASS_LINK, &rate);
                r = net_compare_class(&n, &uplink, &c, ret_difference, err);
        }
        net_nl_close(&n);
        return r;
}

int net_purpose_mark(struct net_host *h, unsigned purpose, int socket_fd, struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        int r = open_uplink(h, purpose, &n, &uplink, err);
        if (r < 0)
                return r;
        net_nl_close(&n);
        int priority = (int)class_of(purpose);
        if (setsockopt(socket_fd, SOL_SOCKET, SO_PRIORITY, &priority, sizeof(priority)) < 0)
                return net_fail(err, -errno, "socket", "give it its purpose");
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "host/net-link.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include "base/str.h"

static void text_of(const struct nlattr *a, char *dst, size_t size)
{
        if (a && nla_len(a) > 0 && memchr(nla_data(a), '\0', (size_t)nla_len(a)))
                (void)str_copy(dst, size, nla_data(a));
}

static uint32_t u32_of(const struct nlattr *a)
{
        return a && nla_len(a) >= (int)sizeof(uint32_t) ? nla_get_u32(a) : 0;
}

static bool parse(const struct nlmsghdr *h, struct net_link *ret)
{
        struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];
        if (h->nlmsg_type != RTM_NEWLINK ||
            nlmsg_parse((struct nlmsghdr *)h, sizeof(struct ifinfomsg), a, IFLA_MAX, NULL) < 0)
                return false;
        const struct ifinfomsg *i = nlmsg_data(h);
        *ret = (struct net_link){.ifindex = (unsigned)i->ifi_index, .flags = i->ifi_flags};
        text_of(a[IFLA_IFNAME], ret->name, sizeof(ret->name));
        ret->master = u32_of(a[IFLA_MASTER]);
        ret->mtu = u32_of(a[IFLA_MTU]);
        ret->queue_packets = u32_of(a[IFLA_TXQLEN]);
        if (a[IFLA_ADDRESS] && nla_len(a[IFLA_ADDRESS]) == (int)sizeof(ret->address))
                memcpy(ret->address, nla_data(a[IFLA_ADDRESS]), sizeof(ret->address));
        if (a[IFLA_LINKINFO] && nla_parse_nested(info, IFLA_INFO_MAX, a[IFLA_LINKINFO], NULL) == 0) {
                text_of(info[IFLA_INFO_KIND], ret->kind, sizeof(ret->kind));
                text_of(info[IFLA_INFO_SLAVE_KIND], ret->master_kind, sizeof(ret->master_kind));
        }
        return true;
}

static void take_one(const struct nlmsghdr *h, void *user)
{
        struct net_link l;
        if (parse(h, &l))
                *(struct net_link *)user = l;
}

int net_link_find(struct net_nl *n, const char *name, struct net_link *ret)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
        struct net_link l = {0};
        struct nl_msg *m = net_nl_message(RTM_GETLINK, 0, &head, sizeof(head));
        if (m)
                net_nl_put_text(m, IFLA_IFNAME, name);
        int r = net_nl_ask(n, "find a link", m, take_one, &l);
        if (r < 0)
                return r;
        if (l.ifindex == 0)
                return -ENODEV;
        *ret = l;
        return 0;
}

struct listing {
        net_link_each *each;
        void *user;
};

static void take_each(const struct nlmsghdr *h, void *user)
{
        struct listing *l = user;
        struct net_link link;
        if (parse(h, &link))
                l->each(&link, l->user);
}

int net_link_list(struct net_nl *n, net_link_each *each, void *user)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
        struct listing l = {.each = each, .user = user};
        return net_nl_ask(n, "list links", net_nl_message(RTM_GETLINK, NLM_F_DUMP, &head, sizeof(head)),
                          take_each, &l);
}

int net_link_make_ifb(struct net_nl *n, const char *name)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
        struct nl_msg *m = net_nl_message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
        if (m) {
                net_nl_put_text(m, IFLA_IFNAME, name);
                struct nlattr *info = net_nl_nest(m, IFLA_LINKINFO);
                net_nl_put_text(m, IFLA_INFO_KIND, "ifb");
                net_nl_nest_end(m, info);
        }
        return net_nl_ask(n, "make the ifb", m, NULL, NULL);
}

int net_link_mute(struct net_nl *n, unsigned ifindex)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex};
        const uint8_t mode = IN6_ADDR_GEN_MODE_NONE;
        struct nl_msg *m = net_nl_message(RTM_NEWLINK, 0, &head, sizeof(head));
        if (m) {
                struct nlattr *families = net_nl_nest(m, IFLA_AF_SPEC);
                struct nlattr *inet6 = net_nl_nest(m, AF_INET6);
                net_nl_put(m, IFLA_INET6_ADDR_GEN_MODE, &mode, sizeof(mode));
                net_nl_nest_end(m, inet6);
                net_nl_nest_end(m, families);
        }
        int r = net_nl_ask(n, "mute a link", m, NULL, NULL);
        return r == -EAFNOSUPPORT || r == -EOPNOTSUPP ? 0 : r; /* a host without IPv6 is mute */
}

int net_link_up_ifb(struct net_nl *n, unsigned ifindex, uint32_t queue_packets)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC,
                                 .ifi_index = (int)ifindex,
                                 .ifi_flags = IFF_UP,
                                 .ifi_change = IFF_UP};
        struct nl_msg *m = net_nl_message(RTM_NEWLINK, 0, &head, sizeof(head));
        if (m)
                net_nl_put_u32(m, IFLA_TXQLEN, queue_packets);
        return net_nl_ask(n, "make the ifb up", m, NULL, NULL);
}

int net_link_enslave(struct net_nl *n, unsigned ifindex, unsigned master, unsigned mtu,
                     const uint8_t address[6])
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC,
                                 .ifi_index = (int)ifindex,
                                 .ifi_flags = IFF_UP,
                                 .ifi_change = IFF_UP};
        struct nl_msg *m = net_nl_message(RTM_NEWLINK, 0, &head, sizeof(head));
        if (m) {
                net_nl_put(m, IFLA_ADDRESS, address, 6);
                net_nl_put_u32(m, IFLA_MTU, mtu);
                net_nl_put_u32(m, IFLA_MASTER, master);
        }
        return net_nl_ask(n, "enslave the tap", m, NULL, NULL);
}

int net_link_fix_address(struct net_nl *n, const struct net_link *l)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC, .ifi_index = (int)l->ifindex};
        struct nl_msg *m = net_nl_message(RTM_NEWLINK, 0, &head, sizeof(head));
        if (m)
                net_nl_put(m, IFLA_ADDRESS, l->address, sizeof(l->address));
        return net_nl_ask(n, "fix the address", m, NULL, NULL);
}

int net_link_remove(struct net_nl *n, unsigned ifindex)
{
        struct ifinfomsg head = {.ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex};
        return net_nl_ask(n, "remove a link", net_nl_message(RTM_DELLINK, 0, &head, sizeof(head)), NULL,
                          NULL);
}

static int set_up_tap(int fd, const char *name, uid_t uid, char ret_name[IFNAMSIZ])
{
        /* EXCL: without it an interface that somebody else left there under this name would be taken. */
        struct ifreq q = {.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL)};
        if (!STR_COPY(q.ifr_name, name))
                return -ENAMETOOLONG;
        if (ioctl(fd, TUNSETIFF, &q) < 0 || ioctl(fd, TUNSETOWNER, (unsigned long)uid) < 0)
                return -errno;
        (void)str_copy(ret_name, IFNAMSIZ, q.ifr_name);
        return 0;
}

int net_link_make_tap(const char *name, uid_t uid, int *ret_fd, char ret_name[IFNAMSIZ])
{
        int r = net_nl_step("make the tap", false);
        if (r < 0)
                return r;
        int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return -errno;
        r = set_up_tap(fd, name, uid, ret_name);
        if (r == 0)
                r = net_nl_step("make the tap", true);
        if (r < 0) {
                (void)close(fd);
                return r;
        }
        *ret_fd = fd;
        return 0;
}

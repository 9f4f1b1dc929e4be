/* SPDX-License-Identifier: Apache-2.0 */
/* host/net-link.h - network interfaces: looked up, made and removed. Errors as in host/net-nl.h. */
#pragma once
#include <net/if.h>
#include <sys/types.h>
#include "host/net-nl.h"

struct net_link {
        char name[IFNAMSIZ];
        char kind[16]; /* "bridge", "ifb", "tun"; "" for hardware */
        char master_kind[16];
        unsigned ifindex, master, mtu, flags;
        uint32_t queue_packets;
        uint8_t address[6];
};

/* -ENODEV: there is none of that name. */
int net_link_find(struct net_nl *n, const char *name, struct net_link *ret);
/* Every interface, in no order. -EAGAIN: they changed meanwhile, some may be missing. */
typedef void net_link_each(const struct net_link *l, void *user);
int net_link_list(struct net_nl *n, net_link_each *each, void *user);

/* Down. */
int net_link_make_ifb(struct net_nl *n, const char *name);
/* The host shall say nothing of its own there: no IPv6 address comes to be when it gets up, so no packet that
 * solicits or reports, towards a VM or among what is counted of one. */
int net_link_mute(struct net_nl *n, unsigned ifindex);
int net_link_up_ifb(struct net_nl *n, unsigned ifindex, uint32_t queue_packets);
/* Up, behind the bridge, with its mtu and this address. */
int net_link_enslave(struct net_nl *n, unsigned ifindex, unsigned master, unsigned mtu,
                     const uint8_t address[6]);
/* It keeps the address that it has: a bridge no longer takes that of a port. */
int net_link_fix_address(struct net_nl *n, const struct net_link *l);
int net_link_remove(struct net_nl *n, unsigned ifindex);

/* A tap that goes with its last descriptor. `name` may be a pattern ("mete-p%d"). -EBUSY: one of that name is
 * there. */
int net_link_make_tap(const char *name, uid_t uid, int *ret_fd, char ret_name[IFNAMSIZ]);

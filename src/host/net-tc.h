/* SPDX-License-Identifier: Apache-2.0 */
/* host/net-tc.h - queueing disciplines, HTB classes and the two filters of ours. Errors as in host/net-nl.h.
 *
 * The messages are built here, not by the objects of libnl-route: those (3.7) compute bursts with rates of
 * type int, wrong from 2^31 bytes a second on, lose a class's prio, and know no BPF classifier. */
#pragma once
#include <stdint.h>
#include "host/net-nl.h"

/* Handles of our root queueing disciplines: "ME" and on. One each, since HTB takes a class straight
 * from a packet's priority: a priority that means a class on the uplink must mean none on a tap or an ifb. */
enum { NET_TC_UPLINK = 0x4d450000, NET_TC_TAP = 0x4d460000, NET_TC_IFB = 0x4d470000 };

/* A guaranteed rate, and what is never exceeded. Bits a second on the wire, frames with their headers. */
struct net_rate {
        uint64_t rate_bps, ceiling_bps;
};

struct net_figures {
        uint64_t sent_bytes, sent_packets, dropped_packets, queued_bytes;
        uint64_t live_bps; /* the kernel's own estimate, over about 2 s */
};

struct net_tc_class {
        uint32_t id, parent;
        uint64_t rate_bytes, ceiling_bytes; /* a second */
        uint32_t burst_ticks, ceiling_burst_ticks, quantum_bytes, prio;
        struct net_figures figures;
};

struct net_tc_qdisc {
        char kind[16]; /* "": none, or the kernel's own default */
        uint32_t handle, default_class;
};

/* What the class `id` of this rate is in the kernel. parent 0: right under the root. */
struct net_tc_class net_tc_class_of(uint32_t id, uint32_t parent, const struct net_rate *r);
/* Figures apart. */
bool net_tc_class_is_equal(const struct net_tc_class *a, const struct net_tc_class *b);
struct net_rate net_tc_class_rate(const struct net_tc_class *c);

/* The root queueing discipline, or with `ingress` the one of what comes in. */
int net_tc_qdisc_read(struct net_nl *n, unsigned ifindex, bool ingress, struct net_tc_qdisc *ret);
int net_tc_qdisc_make(struct net_nl *n, unsigned ifindex, uint32_t handle, uint32_t default_class);
int net_tc_qdisc_remove(struct net_nl *n, unsigned ifindex, uint32_t handle);
int net_tc_ingress_make(struct net_nl *n, unsigned ifindex);
int net_tc_ingress_remove(struct net_nl *n, unsigned ifindex);

/* -ENOENT: there is none. */
int net_tc_class_read(struct net_nl *n, unsigned ifindex, uint32_t id, struct net_tc_class *ret);
int net_tc_class_set(struct net_nl *n, unsigned ifindex, const struct net_tc_class *c);
int net_tc_class_remove(struct net_nl *n, unsigned ifindex, uint32_t id);
typedef void net_tc_class_each(const struct net_tc_class *c, void *user);
int net_tc_class_list(struct net_nl *n, unsigned ifindex, net_tc_class_each *each, void *user);

/* The filters of what comes in, by order:
 *   1 mark      a BPF program of three instructions that makes `priority` the packet's; unlike an address in
 *               the packet the guest cannot forge it
 *   2 redirect  everything to an interface, as if it were sent there */
enum net_tc_filter { NET_TC_MARK = 1, NET_TC_REDIRECT, NET_TC_FILTER_N };

struct net_tc_filters {
        unsigned others; /* that are not ours */
        bool has_mark, has_redirect;
        uint32_t priority; /* of mark */
        unsigned ifindex;  /* of redirect */
};
int net_tc_filters_read(struct net_nl *n, unsigned ifindex, struct net_tc_filters *ret);
int net_tc_mark_make(struct net_nl *n, unsigned ifindex, uint32_t priority);
int net_tc_redirect_make(struct net_nl *n, unsigned ifindex, unsigned to);
int net_tc_filter_remove(struct net_nl *n, unsigned ifindex, enum net_tc_filter which);

/* SPDX-License-Identifier: Apache-2.0 */
/* host/net-internal.h - what the files of host/net.h share. */
#pragma once
#include <linux/pkt_sched.h>
#include "host/net.h"

enum {
        NET_CLASS_LINK = NET_TC_UPLINK | 1,
        NET_CLASS_REST = NET_TC_UPLINK | 2,
        NET_CLASS_PURPOSE = NET_TC_UPLINK | 0x10,
        NET_CLASS_VM = NET_TC_UPLINK | 0x1000,
        /* Of a tap and of an ifb: one with the ceiling as its rate, and below it the one that is used. A
         * class right under the root has nobody to borrow from, and never exceeds its rate, whatever its
         * ceiling. */
        NET_CLASS_TAP = NET_TC_TAP | 2,
        NET_CLASS_IFB = NET_TC_IFB | 2,
        /* What waits for its turn: 15 ms of full frames at 200 Mbit/s. The kernel's 32 are lost in one burst
           of a guest. */
        NET_IFB_QUEUE_PACKETS = 256,
};

/* Sets the error for `r` of the kernel, "NAME: cannot WHAT: ...". */
int net_fail(struct err *err, int r, const char *name, const char *what);
int net_check_managed(const struct net_host *h, struct err *err);
int net_check_rate(const struct net_host *h, const struct net_rate *asked, struct net_rate *ret,
                   struct err *err);

/* Ours, or made where there is only the kernel's. REASON_POLICY: somebody else's is there. */
int net_ensure_root(struct net_nl *n, const struct net_link *l, uint32_t handle, uint32_t default_class,
                    struct err *err);
int net_refuse_foreign(const struct net_link *l, const struct net_tc_qdisc *q, struct err *err);
/* Where it is ours. */
int net_drop_root(struct net_nl *n, const struct net_link *l, uint32_t handle, struct err *err);
int net_ensure_class(struct net_nl *n, const struct net_link *l, const struct net_tc_class *c,
                     struct err *err);
int net_drop_class(struct net_nl *n, const struct net_link *l, uint32_t id, struct err *err);
/* 0 or 1, as net_vm_verify(). */
int net_compare_root(struct net_nl *n, const struct net_link *l, uint32_t handle, uint32_t default_class,
                     char ret_difference[NET_SENTENCE], struct err *err);
int net_compare_class(struct net_nl *n, const struct net_link *l, const struct net_tc_class *c,
                      char ret_difference[NET_SENTENCE], struct err *err);

/* A class on the uplink below the link, if its guarantee still fits. */
int net_uplink_set(struct net_host *h, struct net_nl *n, const struct net_link *uplink, uint32_t id,
                   const struct net_rate *r, struct err *err);
int net_uplink_find(const struct net_host *h, struct net_nl *n, struct net_link *ret, struct err *err);

/* "mete-3", "mete-3i". */
void net_tap_name(char name[IFNAMSIZ], unsigned slot);
void net_ifb_name(char name[IFNAMSIZ], unsigned slot);
/* true: the tap, or the ifb, of a VM. */
bool net_slot_of(const struct net_link *l, unsigned *ret_slot);
int net_check_slot(const struct net_host *h, unsigned slot, struct err *err);

/* SPDX-License-Identifier: Apache-2.0 */
/* host/net-nl.h - one request to the kernel's network configuration, and its answer.
 *
 * A socket serves one call of one thread, and is closed with it. Failures are plain negative errnos as the
 * kernel gave them, without a sentence: -ENOENT or -EEXIST is often an outcome, and only the caller knows
 * what it asked for. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <netlink/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include "base/err.h"

struct net_nl {
        struct nl_sock *sock;
};

int net_nl_open(struct net_nl *n, struct err *err);
void net_nl_close(struct net_nl *n);

/* A message with room for 4 KiB, enough for all of ours. NULL: no memory. */
struct nl_msg *net_nl_message(int type, int flags, const void *header, size_t size);
/* Room is there: what does not fit is a bug of ours. */
void net_nl_put(struct nl_msg *m, int type, const void *data, size_t size);
void net_nl_put_u32(struct nl_msg *m, int type, uint32_t value);
void net_nl_put_text(struct nl_msg *m, int type, const char *text);
struct nlattr *net_nl_nest(struct nl_msg *m, int type);
void net_nl_nest_end(struct nl_msg *m, struct nlattr *nest);

/* Sends `m` (takes it; NULL is -ENOMEM), hands each answer to `each` (may be NULL; must not fail), and waits
 * until the kernel has said that it is done. -EAGAIN: what was listed changed meanwhile. */
typedef void net_nl_each(const struct nlmsghdr *answer, void *user);
int net_nl_ask(struct net_nl *n, const char *step, struct nl_msg *m, net_nl_each *each, void *user);

/* Steps that are not netlink (a descriptor of /dev/net/tun) pass here too. Returns 0, or what a test made of
 * it. */
int net_nl_step(const char *step, bool is_done);

/* Tests only, NULL otherwise: called before each step and after it has been carried out. A negative errno
 * makes it fail there: before, the kernel never hears of it; after, only its answer is lost. */
extern int (*net_nl_fault)(const char *step, bool is_done);

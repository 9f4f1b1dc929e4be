/* SPDX-License-Identifier: Apache-2.0 */
#include "host/net-tc.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/bpf.h>
#include <linux/gen_stats.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include "base/str.h"

enum {
        /* A class may fall behind by this long and catch up: while a timer is late, what it would have sent
         * is lost where the bucket is smaller. Timers of a loaded host are late by some milliseconds. */
        BURST_MS = 10,
        /* Never less than a few frames, else each frame waits for a timer of its own; never more than
         * switches buffer: above 3.3 Gbit/s there is hardly a moment without a packet that moves the queue.
         */
        BURST_BYTES_MIN = 16 << 10,
        BURST_BYTES_MAX = 4 << 20,
        /* What classes borrow beyond their guarantees is shared in rounds of this much each, so in equal
         * parts. The kernel's own choice is a tenth of the rate: the least guaranteed classes would starve,
         * with warnings. */
        QUANTUM_BYTES = 16 << 10,
        TICK_NS = 64, /* of HTB's bursts; /proc/net/psched, fixed since 2009 */
        KEY_ORDER_SHIFT = 16,
};

static const uint64_t second_ns = 1000000000;

static uint32_t burst_ticks(uint64_t rate_bytes)
{
        uint64_t bytes = rate_bytes / 1000 * BURST_MS;
        bytes = bytes < BURST_BYTES_MIN ? BURST_BYTES_MIN : bytes > BURST_BYTES_MAX ? BURST_BYTES_MAX : bytes;
        uint64_t ticks = bytes * second_ns / rate_bytes / TICK_NS;
        assert(ticks <= UINT32_MAX);
        return ticks ? (uint32_t)ticks : 1;
}

struct net_tc_class net_tc_class_of(uint32_t id, uint32_t parent, const struct net_rate *r)
{
        /* Rounded up: less than what was guaranteed is never set. */
        uint64_t rate = r->rate_bps / 8 + (r->rate_bps % 8 != 0);
        uint64_t ceiling = r->ceiling_bps / 8 + (r->ceiling_bps % 8 != 0);
        return (struct net_tc_class){.id = id,
                                     .parent = parent ? parent : TC_H_ROOT,
                                     .rate_bytes = rate,
                                     .ceiling_bytes = ceiling,
                                     .burst_ticks = burst_ticks(rate),
                                     .ceiling_burst_ticks = burst_ticks(ceiling),
                                     .quantum_bytes = QUANTUM_BYTES};
}

bool net_tc_class_is_equal(const struct net_tc_class *a, const struct net_tc_class *b)
{
        return a->id == b->id && a->parent == b->parent && a->rate_bytes == b->rate_bytes &&
               a->ceiling_bytes == b->ceiling_bytes && a->burst_ticks == b->burst_ticks &&
               a->ceiling_burst_ticks == b->ceiling_burst_ticks && a->quantum_bytes == b->quantum_bytes &&
               a->prio == b->prio;
}

struct net_rate net_tc_class_rate(const struct net_tc_class *c)
{
        return (struct net_rate){.rate_bps = c->rate_bytes * 8, .ceiling_bps = c->ceiling_bytes * 8};
}

static struct nl_msg *message(int type, int flags, unsigned ifindex, uint32_t handle, uint32_t parent,
                              uint32_t info)
{
        struct tcmsg head = {.tcm_family = AF_UNSPEC,
                             .tcm_ifindex = (int)ifindex,
                             .tcm_handle = handle,
                             .tcm_parent = parent,
                             .tcm_info = info};
        return net_nl_message(type, flags, &head, sizeof(head));
}

/* false: not of this type, or not to be understood. */
static bool parse(const struct nlmsghdr *h, int type, const struct tcmsg **ret_head,
                  struct nlattr *a[TCA_MAX + 1])
{
        if (h->nlmsg_type != type ||
            nlmsg_parse((struct nlmsghdr *)h, sizeof(struct tcmsg), a, TCA_MAX, NULL) < 0)
                return false;
        *ret_head = nlmsg_data(h);
        return true;
}

static bool is_kind(struct nlattr *const a[TCA_MAX + 1], const char *kind)
{
        return a[TCA_KIND] && nla_strcmp(a[TCA_KIND], kind) == 0;
}

/* Copies what is there of a fixed struct: kernels append to them. */
static bool take(const struct nlattr *a, void *ret, size_t size)
{
        if (!a)
                return false;
        size_t have = (size_t)nla_len(a);
        memcpy(ret, nla_data(a), have < size ? have : size);
        return true;
}

/* -- queueing disciplines */

static void take_qdisc(const struct nlmsghdr *h, void *user)
{
        struct net_tc_qdisc *ret = user;
        const struct tcmsg *t;
        struct nlattr *a[TCA_MAX + 1], *o[TCA_HTB_MAX + 1];
        /* Whatever is made by hand has a handle; the kernel's defaults have none. */
        if (!parse(h, RTM_NEWQDISC, &t, a) || t->tcm_handle == 0 || !a[TCA_KIND])
                return;
        (void)nla_strlcpy(ret->kind, a[TCA_KIND], sizeof(ret->kind));
        ret->handle = t->tcm_handle;
        struct tc_htb_glob glob = {0};
        if (is_kind(a, "htb") && a[TCA_OPTIONS] &&
            nla_parse_nested(o, TCA_HTB_MAX, a[TCA_OPTIONS], NULL) == 0 &&
            take(o[TCA_HTB_INIT], &glob, sizeof(glob)))
                ret->default_class = glob.defcls;
}

int net_tc_qdisc_read(struct net_nl *n, unsigned ifindex, bool ingress, struct net_tc_qdisc *ret)
{
        struct net_tc_qdisc q = {0};
        /* Echo: without it the kernel answers those who watch, but not those who ask. */
        int r = net_nl_ask(
                n, "read a qdisc",
                message(RTM_GETQDISC, NLM_F_ECHO, ifindex, 0, ingress ? TC_H_INGRESS : TC_H_ROOT, 0),
                take_qdisc, &q);
        if (r < 0 && r != -ENOENT)
                return r;
        *ret = q;
        return 0;
}

int net_tc_qdisc_make(struct net_nl *n, unsigned ifindex, uint32_t handle, uint32_t default_class)
{
        struct tc_htb_glob glob = {.version = TC_HTB_PROTOVER, .rate2quantum = 10, .defcls = default_class};
        struct nl_msg *m = message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex, handle, TC_H_ROOT, 0);
        if (m) {
                net_nl_put_text(m, TCA_KIND, "htb");
                struct nlattr *o = net_nl_nest(m, TCA_OPTIONS);
                net_nl_put(m, TCA_HTB_INIT, &glob, sizeof(glob));
                net_nl_nest_end(m, o);
        }
        return net_nl_ask(n, "make the root", m, NULL, NULL);
}

int net_tc_qdisc_remove(struct net_nl *n, unsigned ifindex, uint32_t handle)
{
        return net_nl_ask(n, "remove the root", message(RTM_DELQDISC, 0, ifindex, handle, TC_H_ROOT, 0), NULL,
                          NULL);
}

int net_tc_ingress_make(struct net_nl *n, unsigned ifindex)
{
        struct nl_msg *m = message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, ifindex, TC_H_MAJ(TC_H_INGRESS),
                                   TC_H_INGRESS, 0);
        if (m)
                net_nl_put_text(m, TCA_KIND, "ingress");
        return net_nl_ask(n, "make the ingress", m, NULL, NULL);
}

int net_tc_ingress_remove(struct net_nl *n, unsigned ifindex)
{
        return net_nl_ask(n, "remove the ingress",
                          message(RTM_DELQDISC, 0, ifindex, TC_H_MAJ(TC_H_INGRESS), TC_H_INGRESS, 0), NULL,
                          NULL);
}

/* -- classes */

static void take_figures(const struct nlattr *stats, struct net_figures *ret)
{
        struct nlattr *s[TCA_STATS_MAX + 1];
        struct gnet_stats_basic basic = {0};
        struct gnet_stats_queue queue = {0};
        struct gnet_stats_rate_est64 rate = {0};
        if (!stats || nla_parse_nested(s, TCA_STATS_MAX, (struct nlattr *)stats, NULL) < 0)
                return;
        (void)take(s[TCA_STATS_BASIC], &basic, sizeof(basic));
        (void)take(s[TCA_STATS_QUEUE], &queue, sizeof(queue));
        struct gnet_stats_rate_est narrow = {0};
        if (!take(s[TCA_STATS_RATE_EST64], &rate, sizeof(rate)) &&
            take(s[TCA_STATS_RATE_EST], &narrow, sizeof(narrow)))
                rate.bps = narrow.bps;
        *ret = (struct net_figures){.sent_bytes = basic.bytes,
                                    .sent_packets = basic.packets,
                                    .dropped_packets = queue.drops,
                                    .queued_bytes = queue.backlog,
                                    .live_bps = rate.bps * 8};
}

static bool parse_class(const struct nlmsghdr *h, struct net_tc_class *ret)
{
        const struct tcmsg *t;
        struct nlattr *a[TCA_MAX + 1], *o[TCA_HTB_MAX + 1];
        struct tc_htb_opt p = {0};
        if (!parse(h, RTM_NEWTCLASS, &t, a) || !is_kind(a, "htb") || !a[TCA_OPTIONS] ||
            nla_parse_nested(o, TCA_HTB_MAX, a[TCA_OPTIONS], NULL) < 0 ||
            !take(o[TCA_HTB_PARMS], &p, sizeof(p)))
                return false;
        *ret = (struct net_tc_class){.id = t->tcm_handle,
                                     .parent = t->tcm_parent,
                                     .rate_bytes = p.rate.rate,
                                     .ceiling_bytes = p.ceil.rate,
                                     .burst_ticks = p.buffer,
                                     .ceiling_burst_ticks = p.cbuffer,
                                     .quantum_bytes = p.quantum,
                                     .prio = p.prio};
        (void)take(o[TCA_HTB_RATE64], &ret->rate_bytes, sizeof(ret->rate_bytes));
        (void)take(o[TCA_HTB_CEIL64], &ret->ceiling_bytes, sizeof(ret->ceiling_bytes));
        take_figures(a[TCA_STATS2], &ret->figures);
        return true;
}

static void take_class(const struct nlmsghdr *h, void *user)
{
        (void)parse_class(h, user);
}

int net_tc_class_read(struct net_nl *n, unsigned ifindex, uint32_t id, struct net_tc_class *ret)
{
        struct net_tc_class c = {0};
        int r = net_nl_ask(n, "read a class", message(RTM_GETTCLASS, NLM_F_ECHO, ifindex, id, 0, 0),
                           take_class, &c);
        if (r < 0)
                return r;
        if (c.id != id)
                return -ENOENT;
        *ret = c;
        return 0;
}

static void put_rate(struct tc_ratespec *spec, uint64_t bytes)
{
        /* The old field holds 2^32 bytes a second (34 Gbit/s); above that the kernel takes the attribute of
         * 64 bits. */
        spec->rate = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes;
        spec->linklayer =
                TC_LINKLAYER_ETHERNET; /* said, so that no table of transmission times is asked for */
}

int net_tc_class_set(struct net_nl *n, unsigned ifindex, const struct net_tc_class *c)
{
        struct tc_htb_opt p = {.buffer = c->burst_ticks,
                               .cbuffer = c->ceiling_burst_ticks,
                               .quantum = c->quantum_bytes,
                               .prio = c->prio};
        struct tc_estimator estimator = {.interval = -1 /* 0.5 s */, .ewma_log = 1};
        put_rate(&p.rate, c->rate_bytes);
        put_rate(&p.ceil, c->ceiling_bytes);
        struct nl_msg *m = message(RTM_NEWTCLASS, NLM_F_CREATE, ifindex, c->id, c->parent, 0);
        if (m) {
                net_nl_put_text(m, TCA_KIND, "htb");
                net_nl_put(m, TCA_RATE, &estimator, sizeof(estimator));
                struct nlattr *o = net_nl_nest(m, TCA_OPTIONS);
                net_nl_put(m, TCA_HTB_PARMS, &p, sizeof(p));
                if (c->rate_bytes > UINT32_MAX)
                        net_nl_put(m, TCA_HTB_RATE64, &c->rate_bytes, sizeof(c->rate_bytes));
                if (c->ceiling_bytes > UINT32_MAX)
                        net_nl_put(m, TCA_HTB_CEIL64, &c->ceiling_bytes, sizeof(c->ceiling_bytes));
                net_nl_nest_end(m, o);
        }
        return net_nl_ask(n, "set a class", m, NULL, NULL);
}

int net_tc_class_remove(struct net_nl *n, unsigned ifindex, uint32_t id)
{
        return net_nl_ask(n, "remove a class", message(RTM_DELTCLASS, 0, ifindex, id, 0, 0), NULL, NULL);
}

struct listing {
        net_tc_class_each *each;
        void *user;
};

static void take_each_class(const struct nlmsghdr *h, void *user)
{
        struct listing *l = user;
        struct net_tc_class c;
        if (parse_class(h, &c))
                l->each(&c, l->user);
}

int net_tc_class_list(struct net_nl *n, unsigned ifindex, net_tc_class_each *each, void *user)
{
        struct listing l = {.each = each, .user = user};
        return net_nl_ask(n, "list classes", message(RTM_GETTCLASS, NLM_F_DUMP, ifindex, 0, 0, 0),
                          take_each_class, &l);
}

/* -- filters */

static uint32_t order(enum net_tc_filter which)
{
        return (uint32_t)which << KEY_ORDER_SHIFT | htons(ETH_P_ALL);
}

/* The name that `tc filter show` has for the program, and by which it is recognised. */
static void mark_name(char name[32], uint32_t priority)
{
        (void)snprintf(name, 32, "mete-mark-%08" PRIx32, priority);
}

static void take_mark(struct nlattr *options, struct net_tc_filters *ret)
{
        struct nlattr *o[TCA_BPF_MAX + 1];
        char name[32], expected[32];
        static const char prefix[] = "mete-mark-";
        uint32_t flags = 0;
        if (nla_parse_nested(o, TCA_BPF_MAX, options, NULL) < 0 || !o[TCA_BPF_NAME])
                return;
        (void)nla_strlcpy(name, o[TCA_BPF_NAME], sizeof(name));
        if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
                return;
        (void)take(o[TCA_BPF_FLAGS], &flags, sizeof(flags));
        uint32_t priority = (uint32_t)strtoul(name + sizeof(prefix) - 1, NULL, 16);
        mark_name(expected, priority);
        if (!(flags & TCA_BPF_FLAG_ACT_DIRECT) || strcmp(name, expected) != 0)
                return;
        ret->has_mark = true;
        ret->priority = priority;
}

static void take_redirect(struct nlattr *options, struct net_tc_filters *ret)
{
        struct nlattr *o[TCA_U32_MAX + 1], *acts[2], *act[TCA_ACT_MAX + 1], *p[TCA_MIRRED_MAX + 1];
        struct tc_mirred mirred = {0};
        struct tc_u32_sel sel = {.nkeys = 1};
        if (nla_parse_nested(o, TCA_U32_MAX, options, NULL) < 0 || !take(o[TCA_U32_SEL], &sel, sizeof(sel)) ||
            sel.nkeys != 0 || !o[TCA_U32_ACT] || nla_parse_nested(acts, 1, o[TCA_U32_ACT], NULL) < 0 ||
            !acts[1] || nla_parse_nested(act, TCA_ACT_MAX, acts[1], NULL) < 0 || !act[TCA_ACT_KIND] ||
            nla_strcmp(act[TCA_ACT_KIND], "mirred") != 0 || !act[TCA_ACT_OPTIONS] ||
            nla_parse_nested(p, TCA_MIRRED_MAX, act[TCA_ACT_OPTIONS], NULL) < 0 ||
            !take(p[TCA_MIRRED_PARMS], &mirred, sizeof(mirred)) || mirred.eaction != TCA_EGRESS_REDIR)
                return;
        ret->has_redirect = true;
        ret->ifindex = mirred.ifindex;
}

static void take_filter(const struct nlmsghdr *h, void *user)
{
        struct net_tc_filters *ret = user;
        const struct tcmsg *t;
        struct nlattr *a[TCA_MAX + 1];
        if (!parse(h, RTM_NEWTFILTER, &t, a))
                return;
        /* Each classifier is listed once by itself and, for u32, as a table, before what is in it. */
        struct net_tc_filters found = {0};
        if (t->tcm_handle == 0 || (is_kind(a, "u32") && TC_U32_NODE(t->tcm_handle) == 0))
                return;
        if (t->tcm_info == order(NET_TC_MARK) && is_kind(a, "bpf") && a[TCA_OPTIONS])
                take_mark(a[TCA_OPTIONS], &found);
        if (t->tcm_info == order(NET_TC_REDIRECT) && is_kind(a, "u32") && a[TCA_OPTIONS])
                take_redirect(a[TCA_OPTIONS], &found);
        if (found.has_mark && !ret->has_mark) {
                ret->has_mark = true;
                ret->priority = found.priority;
        } else if (found.has_redirect && !ret->has_redirect) {
                ret->has_redirect = true;
                ret->ifindex = found.ifindex;
        } else {
                ret->others++;
        }
}

int net_tc_filters_read(struct net_nl *n, unsigned ifindex, struct net_tc_filters *ret)
{
        struct net_tc_filters f = {0};
        int r = net_nl_ask(n, "list filters",
                           message(RTM_GETTFILTER, NLM_F_DUMP, ifindex, 0, TC_H_MAJ(TC_H_INGRESS), 0),
                           take_filter, &f);
        if (r < 0)
                return r;
        *ret = f;
        return 0;
}

static int load_mark(uint32_t priority)
{
        const struct bpf_insn program[] = {
                {.code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = (int32_t)priority},
                {.code = BPF_STX | BPF_MEM | BPF_W,
                 .dst_reg = BPF_REG_1,
                 .src_reg = BPF_REG_2,
                 .off = offsetof(struct __sk_buff, priority)},
                {.code = BPF_ALU | BPF_MOV | BPF_K,
                 .dst_reg = BPF_REG_0,
                 .imm = TC_ACT_UNSPEC}, /* next filter */
                {.code = BPF_JMP | BPF_EXIT             },
        };
        union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SCHED_CLS,
                               .insns = (uintptr_t)program,
                               .insn_cnt = ARRAY_N(program),
                               .license = (uintptr_t) "Apache-2.0"};
        int r = net_nl_step("load the mark", false);
        if (r < 0)
                return r;
        int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
        return fd < 0 ? -errno : fd;
}

int net_tc_mark_make(struct net_nl *n, unsigned ifindex, uint32_t priority)
{
        char name[32];
        mark_name(name, priority);
        int fd = load_mark(priority);
        if (fd < 0)
                return fd;
        struct nl_msg *m = message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, 0,
                                   TC_H_MAJ(TC_H_INGRESS), order(NET_TC_MARK));
        if (m) {
                net_nl_put_text(m, TCA_KIND, "bpf");
                struct nlattr *o = net_nl_nest(m, TCA_OPTIONS);
                net_nl_put_u32(m, TCA_BPF_FD, (uint32_t)fd);
                net_nl_put_text(m, TCA_BPF_NAME, name);
                net_nl_put_u32(m, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT);
                net_nl_nest_end(m, o);
        }
        int r = net_nl_ask(n, "make the mark", m, NULL, NULL);
        (void)close(fd); /* the filter keeps it */
        return r;
}

int net_tc_redirect_make(struct net_nl *n, unsigned ifindex, unsigned to)
{
        /* No key at all, not a key that masks everything out: that one still wants four bytes behind the
         * header, and lets shorter frames pass by. */
        struct tc_u32_sel sel = {.flags = TC_U32_TERMINAL};
        struct tc_mirred mirred = {.action = TC_ACT_STOLEN, .eaction = TCA_EGRESS_REDIR, .ifindex = to};
        struct nl_msg *m = message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, ifindex, 0,
                                   TC_H_MAJ(TC_H_INGRESS), order(NET_TC_REDIRECT));
        if (m) {
                net_nl_put_text(m, TCA_KIND, "u32");
                struct nlattr *o = net_nl_nest(m, TCA_OPTIONS);
                net_nl_put(m, TCA_U32_SEL, &sel, sizeof(sel));
                struct nlattr *acts = net_nl_nest(m, TCA_U32_ACT);
                struct nlattr *act = net_nl_nest(m, 1);
                net_nl_put_text(m, TCA_ACT_KIND, "mirred");
                struct nlattr *p = net_nl_nest(m, TCA_ACT_OPTIONS);
                net_nl_put(m, TCA_MIRRED_PARMS, &mirred, sizeof(mirred));
                net_nl_nest_end(m, p);
                net_nl_nest_end(m, act);
                net_nl_nest_end(m, acts);
                net_nl_nest_end(m, o);
        }
        return net_nl_ask(n, "make the redirect", m, NULL, NULL);
}

int net_tc_filter_remove(struct net_nl *n, unsigned ifindex, enum net_tc_filter which)
{
        return net_nl_ask(n, "remove a filter",
                          message(RTM_DELTFILTER, 0, ifindex, 0, TC_H_MAJ(TC_H_INGRESS), order(which)), NULL,
                          NULL);
}

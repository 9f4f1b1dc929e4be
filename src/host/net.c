/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side: what there is, the uplink, and what VMs (net-vm.c) and purposes (net-purpose.c) share. */
#include "host/net-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include "base/str.h"

enum { REST_PART = 50, FINISH_ROUNDS = 64 };

/* -- errors and checks */

int net_fail(struct err *err, int r, const char *name, const char *what)
{
        enum reason reason = REASON_INTERNAL;
        const char *hint = "";
        if (r == -EPERM || r == -EACCES) {
                reason = REASON_DENIED;
                hint = " (it needs CAP_NET_ADMIN)";
        } else if (r == -ENODEV) {
                reason = REASON_NOT_FOUND;
        } else if (r == -EBUSY || r == -EEXIST) {
                reason = REASON_BUSY;
        } else if (r == -EOPNOTSUPP) {
                reason = REASON_UNSUPPORTED;
        }
        return err_set(err, reason, -r, "%s: cannot %s: %s%s", name, what, strerror(-r), hint);
}

int net_check_managed(const struct net_host *h, struct err *err)
{
        return h->is_managed ? 0 : err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->fallback);
}

int net_check_rate(const struct net_host *h, const struct net_rate *asked, struct net_rate *ret,
                   struct err *err)
{
        struct net_rate r = {.rate_bps = asked->rate_bps,
                             .ceiling_bps = asked->ceiling_bps ? asked->ceiling_bps : h->rate_bps};
        if (r.rate_bps < NET_RATE_MIN_BPS)
                return err_set(err, REASON_INVALID, EINVAL, "a rate of %" PRIu64 " bit/s (%d at least)",
                               r.rate_bps, NET_RATE_MIN_BPS);
        if (r.rate_bps > h->rate_bps || r.ceiling_bps > h->rate_bps)
                return err_set(err, REASON_NO_CAPACITY, ERANGE,
                               "%" PRIu64 " bit/s are more than the link has (%" PRIu64 ")",
                               r.rate_bps > r.ceiling_bps ? r.rate_bps : r.ceiling_bps, h->rate_bps);
        if (r.ceiling_bps < r.rate_bps)
                return err_set(err, REASON_INVALID, EINVAL,
                               "a ceiling of %" PRIu64 " bit/s is below the rate of %" PRIu64, r.ceiling_bps,
                               r.rate_bps);
        *ret = r;
        return 0;
}

/* -- pieces */

int net_refuse_foreign(const struct net_link *l, const struct net_tc_qdisc *q, struct err *err)
{
        return err_set(
                err, REASON_POLICY, EBUSY,
                "%s has a queueing discipline that is not of mete: %s %x:. It is not replaced; remove it, "
                "or name another interface",
                l->name, q->kind, q->handle >> 16);
}

int net_ensure_root(struct net_nl *n, const struct net_link *l, uint32_t handle, uint32_t default_class,
                    struct err *err)
{
        struct net_tc_qdisc q;
        int r = net_tc_qdisc_read(n, l->ifindex, false, &q);
        if (r < 0)
                return net_fail(err, r, l->name, "read its queueing discipline");
        if (q.handle == handle && strcmp(q.kind, "htb") == 0 && q.default_class == TC_H_MIN(default_class))
                return 0;
        if (q.handle != 0)
                return net_refuse_foreign(l, &q, err);
        if ((r = net_tc_qdisc_make(n, l->ifindex, handle, TC_H_MIN(default_class))) < 0)
                return net_fail(err, r, l->name, "make its queueing discipline");
        return 0;
}

int net_drop_root(struct net_nl *n, const struct net_link *l, uint32_t handle, struct err *err)
{
        struct net_tc_qdisc q;
        int r = net_tc_qdisc_read(n, l->ifindex, false, &q);
        if (r == 0 && q.handle == handle)
                r = net_tc_qdisc_remove(n, l->ifindex, handle);
        if (r < 0 && r != -ENODEV && r != -ENOENT)
                return net_fail(err, r, l->name, "remove its queueing discipline");
        return 0;
}

int net_ensure_class(struct net_nl *n, const struct net_link *l, const struct net_tc_class *c,
                     struct err *err)
{
        struct net_tc_class now;
        int r = net_tc_class_read(n, l->ifindex, c->id, &now);
        if (r == 0 && net_tc_class_is_equal(&now, c))
                return 0;
        if (r == 0 && now.parent != c->parent) /* which cannot be changed */
                r = net_tc_class_remove(n, l->ifindex, c->id);
        if (r == 0 || r == -ENOENT)
                r = net_tc_class_set(n, l->ifindex, c);
        if (r == 0)
                r = net_tc_class_read(n, l->ifindex, c->id, &now);
        if (r < 0)
                return net_fail(err, r, l->name, "set a class of its queueing discipline");
        if (!net_tc_class_is_equal(&now, c))
                return err_set(err, REASON_INTERNAL, EIO,
                               "%s: the kernel did not take class %x:%x as it was said", l->name, c->id >> 16,
                               TC_H_MIN(c->id));
        return 0;
}

int net_drop_class(struct net_nl *n, const struct net_link *l, uint32_t id, struct err *err)
{
        struct net_tc_class now;
        int r = net_tc_class_read(n, l->ifindex, id, &now);
        if (r == 0)
                r = net_tc_class_remove(n, l->ifindex, id);
        /* EINVAL: the root is not HTB, or there is none */
        if (r < 0 && r != -ENOENT && r != -ENODEV && r != -EINVAL)
                return net_fail(err, r, l->name, "remove a class of its queueing discipline");
        return 0;
}

int net_compare_root(struct net_nl *n, const struct net_link *l, uint32_t handle, uint32_t default_class,
                     char ret_difference[NET_SENTENCE], struct err *err)
{
        struct net_tc_qdisc q;
        int r = net_tc_qdisc_read(n, l->ifindex, false, &q);
        if (r < 0)
                return net_fail(err, r, l->name, "read its queueing discipline");
        if (q.handle == handle && strcmp(q.kind, "htb") == 0 && q.default_class == TC_H_MIN(default_class))
                return 0;
        (void)snprintf(ret_difference, NET_SENTENCE,
                       "%s has queueing discipline %s %x: instead of htb %x:", l->name,
                       *q.kind ? q.kind : "default", q.handle >> 16, handle >> 16);
        return 1;
}

int net_compare_class(struct net_nl *n, const struct net_link *l, const struct net_tc_class *c,
                      char ret_difference[NET_SENTENCE], struct err *err)
{
        struct net_tc_class now;
        int r = net_tc_class_read(n, l->ifindex, c->id, &now);
        if (r == -ENOENT || r == -EINVAL) {
                (void)snprintf(ret_difference, NET_SENTENCE, "%s: class %x:%x is not there", l->name,
                               c->id >> 16, TC_H_MIN(c->id));
                return 1;
        }
        if (r < 0)
                return net_fail(err, r, l->name, "read a class");
        if (net_tc_class_is_equal(&now, c))
                return 0;
        struct net_rate is = net_tc_class_rate(&now), was = net_tc_class_rate(c);
        (void)snprintf(ret_difference, NET_SENTENCE,
                       "%s: class %x:%x has rate %" PRIu64 " and ceiling %" PRIu64
                       " bit/s instead of %" PRIu64 " and %" PRIu64 "%s",
                       l->name, c->id >> 16, TC_H_MIN(c->id), is.rate_bps, is.ceiling_bps, was.rate_bps,
                       was.ceiling_bps,
                       is.rate_bps == was.rate_bps && is.ceiling_bps == was.ceiling_bps
                               ? ": its bursts, quantum, parent or priority differ"
                               : "");
        return 1;
}

/* -- the uplink */

int net_uplink_find(const struct net_host *h, struct net_nl *n, struct net_link *ret, struct err *err)
{
        if (!*h->uplink)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "no uplink is named in the configuration");
        int r = net_link_find(n, h->uplink, ret);
        if (r == -ENODEV)
                return err_set(err, REASON_NOT_FOUND, ENODEV, "there is no interface %s, the uplink",
                               h->uplink);
        return r < 0 ? net_fail(err, r, h->uplink, "find it") : 0;
}

struct sum {
        uint32_t but;
        uint64_t rate_bytes;
};

static void add(const struct net_tc_class *c, void *user)
{
        struct sum *s = user;
        if (c->id != s->but && c->parent == NET_CLASS_LINK)
                s->rate_bytes += c->rate_bytes;
}

static int set_if_it_fits(struct net_host *h, struct net_nl *n, const struct net_link *uplink,
                          const struct net_tc_class *c, struct err *err)
{
        struct sum s = {.but = c->id};
        int r = net_tc_class_list(n, uplink->ifindex, add, &s);
        if (r < 0)
                return net_fail(err, r, uplink->name, "list its classes");
        if (s.rate_bytes + c->rate_bytes > h->rate_bps / 8)
                return err_set(err, REASON_NO_CAPACITY, ENOSPC,
                               "%s: %" PRIu64 " of %" PRIu64 " bit/s are guaranteed already, %" PRIu64
                               " more do not fit",
                               uplink->name, s.rate_bytes * 8, h->rate_bps, c->rate_bytes * 8);
        return net_ensure_class(n, uplink, c, err);
}

static int uplink_set(struct net_host *h, struct net_nl *n, const struct net_link *uplink,
                      const struct net_tc_class *c, struct err *err)
{
        struct net_tc_class before;
        int was = net_tc_class_read(n, uplink->ifindex, c->id, &before);
        if (was < 0 && was != -ENOENT)
                return net_fail(err, was, uplink->name,
                                "read a class (is its queueing discipline that of mete?)");
        int r = set_if_it_fits(h, n, uplink, c, err);
        if (r < 0 && was == 0)
                (void)net_tc_class_set(n, uplink->ifindex, &before);
        else if (r < 0)
                (void)net_drop_class(n, uplink, c->id, NULL);
        return r;
}

int net_uplink_set(struct net_host *h, struct net_nl *n, const struct net_link *uplink, uint32_t id,
                   const struct net_rate *rate, struct err *err)
{
        struct net_tc_class c = net_tc_class_of(id, NET_CLASS_LINK, rate);
        (void)pthread_mutex_lock(&h->lock);
        int r = uplink_set(h, n, uplink, &c, err);
        (void)pthread_mutex_unlock(&h->lock);
        return r;
}

static void own_classes(const struct net_host *h, struct net_tc_class ret[2])
{
        /* rounded down, so that never more is promised than there is */
        uint64_t link_bps = h->rate_bps / 8 * 8;
        ret[0] = net_tc_class_of(NET_CLASS_LINK, 0, &(struct net_rate){link_bps, link_bps});
        ret[1] = net_tc_class_of(NET_CLASS_REST, NET_CLASS_LINK,
                                 &(struct net_rate){link_bps / REST_PART, link_bps});
}

uint64_t net_host_room_bps(const struct net_host *h)
{
        uint64_t link_bps = h->rate_bps / 8 * 8;
        return link_bps - link_bps / REST_PART / 8 * 8;
}

static int start(struct net_host *h, struct net_nl *n, const struct net_link *uplink, struct err *err)
{
        struct net_tc_class own[2];
        struct net_tc_qdisc q;
        own_classes(h, own);
        int r = net_tc_qdisc_read(n, uplink->ifindex, false, &q);
        if (r < 0)
                return net_fail(err, r, uplink->name, "read its queueing discipline");
        bool was_there = q.handle == NET_TC_UPLINK, had[2];
        struct net_tc_class before[2];
        for (int i = 0; i < 2; i++)
                had[i] = was_there && net_tc_class_read(n, uplink->ifindex, own[i].id, &before[i]) == 0;
        r = net_ensure_root(n, uplink, NET_TC_UPLINK, NET_CLASS_REST, err);
        for (int i = 0; i < 2 && r == 0; i++)
                r = net_ensure_class(n, uplink, &own[i], err);
        if (r < 0 && !was_there)
                (void)net_drop_root(n, uplink, NET_TC_UPLINK, NULL);
        for (int i = 0; i < 2 && r < 0; i++)
                if (had[i])
                        (void)net_tc_class_set(n, uplink->ifindex, &before[i]);
        return r;
}

/* A VMM can give its tap any address, and a bridge whose own was never set takes the lowest of its ports':
 * the host would be gone from its network. So it is set to what it is. Not before the uplink is behind it,
 * whose address it would have missed. */
static int fix_bridge(const struct net_host *h, struct net_nl *n, struct err *err)
{
        struct net_link bridge;
        if (*h->uplink && !h->is_port)
                return 0;
        int r = net_link_find(n, h->bridge, &bridge);
        if (r == 0)
                r = net_link_fix_address(n, &bridge);
        return r < 0 ? net_fail(err, r, h->bridge, "make the bridge keep its address") : 0;
}

int net_host_start(struct net_host *h, struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        int r = net_check_managed(h, err);
        if (r < 0 || (r = net_nl_open(&n, err)) < 0)
                return r;
        (void)pthread_mutex_lock(&h->lock);
        if (*h->uplink)
                r = net_uplink_find(h, &n, &uplink, err);
        if (r == 0)
                r = fix_bridge(h, &n, err);
        if (r == 0 && *h->uplink)
                r = start(h, &n, &uplink, err);
        (void)pthread_mutex_unlock(&h->lock);
        net_nl_close(&n);
        return r;
}

static int compare_port(const struct net_host *h, struct net_nl *n, struct net_link *ret_uplink,
                        char ret_difference[NET_SENTENCE], struct err *err)
{
        struct net_link bridge;
        int r = net_uplink_find(h, n, ret_uplink, err);
        if (r < 0)
                return r;
        if ((r = net_link_find(n, h->bridge, &bridge)) < 0)
                return net_fail(err, r, h->bridge, "find the bridge");
        if ((ret_uplink->master == bridge.ifindex) == h->is_port)
                return 0;
        (void)snprintf(ret_difference, NET_SENTENCE, "%s is %s port of %s", h->uplink,
                       h->is_port ? "no more a" : "now a", h->bridge);
        return 1;
}

int net_host_verify(struct net_host *h, char ret_difference[NET_SENTENCE], struct err *err)
{
        struct net_nl n;
        struct net_link uplink;
        struct net_tc_class own[2];
        int r = net_check_managed(h, err);
        if (r < 0 || !*h->uplink)
                return r;
        if ((r = net_nl_open(&n, err)) < 0)
                return r;
        own_classes(h, own);
        r = compare_port(h, &n, &uplink, ret_difference, err);
        if (r == 0)
                r = net_compare_root(&n, &uplink, NET_TC_UPLINK, NET_CLASS_REST, ret_difference, err);
        for (int i = 0; i < 2 && r == 0; i++)
                r = net_compare_class(&n, &uplink, &own[i], ret_difference, err);
        net_nl_close(&n);
        return r;
}

/* -- the end */

struct leftovers {
        bool slots[NET_SLOT_MAX];
        unsigned probes[8]; /* ifbs of an interrupted probe(); more than that are left for the next time */
        size_t n_probes;
};

static bool is_probe(const struct net_link *l)
{
        const char *number = l->name + strlen("mete-p");
        return strncmp(l->name, "mete-p", strlen("mete-p")) == 0 && strcmp(l->kind, "ifb") == 0 &&
               strcmp(number + strspn(number, "0123456789"), "i") == 0;
}

static void collect(const struct net_link *l, void *user)
{
        struct leftovers *found = user;
        unsigned slot;
        if (net_slot_of(l, &slot))
                found->slots[slot] = true;
        else if (is_probe(l) && found->n_probes < ARRAY_N(found->probes))
                found->probes[found->n_probes++] = l->ifindex;
}

static int find_leftovers(struct net_nl *n, struct leftovers *ret, struct err *err)
{
        int r = -EAGAIN;
        for (int i = 0; i < FINISH_ROUNDS && r == -EAGAIN; i++)
                r = net_link_list(n, collect, ret); /* what was found stays found */
        return r < 0 ? net_fail(err, r, "interfaces", "list them") : 0;
}

static int drop_uplink(struct net_host *h, struct net_nl *n, struct err *err)
{
        struct net_link uplink;
        int r = *h->uplink ? net_link_find(n, h->uplink, &uplink) : -ENODEV;
        if (r == -ENODEV)
                return 0;
        return r < 0 ? net_fail(err, r, h->uplink, "find it") : net_drop_root(n, &uplink, NET_TC_UPLINK, err);
}

int net_host_finish(struct net_host *h, struct err *err)
{
        struct net_nl n;
        struct leftovers found = {0};
        struct err more = {0};
        int r = net_check_managed(h, err);
        if (r < 0 || (r = net_nl_open(&n, err)) < 0)
                return r;
        r = find_leftovers(&n, &found, err);
        for (unsigned slot = 0; slot < NET_SLOT_MAX; slot++) {
                int each = found.slots[slot] ? net_vm_deactivate(h, slot, r < 0 ? &more : err) : 0;
                r = r < 0 ? r : each;
        }
        for (size_t i = 0; i < found.n_probes; i++)
                (void)net_link_remove(&n, found.probes[i]);
        int last = drop_uplink(h, &n, r < 0 ? &more : err);
        net_nl_close(&n);
        return r < 0 ? r : last;
}

/* -- finding out */

static bool is_lacking(int r)
{
        return r == -ENOENT || r == -EOPNOTSUPP || r == -ENOSYS || r == -EINVAL || r == -EPERM ||
               r == -EACCES;
}

/* From the driver and not from /sys, which shows the network namespace in which it was mounted. 0: unknown.
 */
static uint64_t link_speed_bps(const char *name)
{
        struct ethtool_cmd command = {.cmd = ETHTOOL_GSET};
        struct ifreq q = {.ifr_data = (void *)&command};
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        bool is_known = fd >= 0 && STR_COPY(q.ifr_name, name) && ioctl(fd, SIOCETHTOOL, &q) == 0;
        if (fd >= 0)
                (void)close(fd);
        uint32_t mbit = (uint32_t)command.speed_hi << 16 | command.speed;
        return is_known && mbit != (uint32_t)SPEED_UNKNOWN ? mbit * UINT64_C(1000000) : 0;
}

static int find_rate(struct net_host *h, uint64_t asked_bps, struct err *err)
{
        uint64_t speed_bps = *h->uplink ? link_speed_bps(h->uplink) : 0;
        if (!asked_bps && !speed_bps)
                return err_set(err, REASON_INVALID, EINVAL, "the link's rate is not known: name it (rate=)");
        if (asked_bps && speed_bps && asked_bps > speed_bps)
                return err_set(err, REASON_INVALID, ERANGE,
                               "rate=%" PRIu64 " is more than %s has: %" PRIu64 " bit/s", asked_bps,
                               h->uplink, speed_bps);
        h->rate_bps = asked_bps ? asked_bps : speed_bps;
        if (h->rate_bps < NET_LINK_MIN_BPS)
                return err_set(err, REASON_INVALID, EINVAL, "a link of %" PRIu64 " bit/s (%d at least)",
                               h->rate_bps, NET_LINK_MIN_BPS);
        return 0;
}

static int find_links(struct net_host *h, struct net_nl *n, bool *ret_is_port, struct err *err)
{
        struct net_link bridge, uplink;
        struct net_tc_qdisc q;
        int r = net_link_find(n, h->bridge, &bridge);
        if (r == -ENODEV)
                return err_set(err, REASON_NOT_FOUND, ENODEV,
                               "there is no bridge %s: make it, or name another", h->bridge);
        if (r < 0)
                return net_fail(err, r, h->bridge, "find it");
        if (strcmp(bridge.kind, "bridge") != 0)
                return err_set(err, REASON_INVALID, EINVAL, "%s is no bridge", h->bridge);
        if (!*h->uplink)
                return 0;
        if ((r = net_uplink_find(h, n, &uplink, err)) < 0)
                return r;
        if ((r = net_tc_qdisc_read(n, uplink.ifindex, false, &q)) < 0)
                return net_fail(err, r, uplink.name, "read its queueing discipline");
        if (q.handle != 0 && (q.handle != NET_TC_UPLINK || strcmp(q.kind, "htb") != 0))
                return net_refuse_foreign(&uplink, &q, err);
        *ret_is_port = uplink.master == bridge.ifindex;
        return 0;
}

/* Whether what comes in at a tap can be sent through an ifb. 1: it can. 0: it cannot, *ret_lacking says why.
 */
static int probe_from(struct net_nl *n, const struct net_link *tap, const char *ifb_name,
                      char ret_lacking[64])
{
        struct net_link ifb;
        const char *what = "ifb";
        if (net_link_find(n, ifb_name, &ifb) == 0) /* of a probe that was interrupted */
                (void)net_link_remove(n, ifb.ifindex);
        int r = net_link_make_ifb(n, ifb_name);
        if (r == 0 && (r = net_link_find(n, ifb_name, &ifb)) == 0) {
                what = "ingress";
                r = net_tc_ingress_make(n, tap->ifindex);
                if (r == 0) {
                        what = "u32 and mirred";
                        r = net_tc_redirect_make(n, tap->ifindex, ifb.ifindex);
                }
        }
        if (net_link_find(n, ifb_name, &ifb) == 0)
                (void)net_link_remove(n, ifb.ifindex);
        if (r < 0)
                (void)snprintf(ret_lacking, 64, "%s: %s", what, strerror(-r));
        return r == 0 ? 1 : is_lacking(r) ? 0 : r;
}

static int probe_tap(struct net_host *h, struct net_nl *n, const char *name, bool is_port, struct err *err)
{
        struct net_link tap;
        char ifb_name[IFNAMSIZ], lacking[64] = "";
        int r = net_link_find(n, name, &tap);
        if (r == 0)
                r = net_tc_qdisc_make(n, tap.ifindex, NET_TC_TAP, 1);
        if (r == -ENOENT)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "this kernel has no HTB (CONFIG_NET_SCH_HTB), nothing else holds bandwidth");
        (void)snprintf(ifb_name, sizeof(ifb_name), "%.*si", IFNAMSIZ - 2, name);
        if (r < 0 || (r = probe_from(n, &tap, ifb_name, lacking)) < 0)
                return net_fail(err, r, name, "try what this kernel has");
        h->is_holding_from = r == 1;
        if (!h->is_holding_from) {
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "what VMs send is held by nothing, as this kernel lacks %s", lacking);
                return 0;
        }
        if (!is_port) {
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "%s: VMs that send are held to their ceilings, but guaranteed nothing against "
                               "each other",
                               *h->uplink ? "the uplink is no port of the bridge" : "no uplink is named");
                return 0;
        }
        r = net_tc_mark_make(n, tap.ifindex, NET_CLASS_VM);
        if (r < 0 && !is_lacking(r))
                return net_fail(err, r, name, "try what this kernel has");
        h->is_holding_share = r == 0;
        if (r < 0)
                (void)snprintf(h->fallback, sizeof(h->fallback),
                               "VMs that send are guaranteed nothing against each other, only held to "
                               "ceilings: no BPF (%s)",
                               strerror(-r));
        return 0;
}

/* On a tap, since that is gone by itself, with all that is on it, should this end in the middle. */
static int probe(struct net_host *h, struct net_nl *n, bool is_port, struct err *err)
{
        int fd;
        char name[IFNAMSIZ];
        int r = net_link_make_tap("mete-p%d", 0, &fd, name);
        if (r == -ENOENT || r == -ENXIO)
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP,
                               "there is no /dev/net/tun to make taps with");
        if (r < 0)
                return net_fail(err, r, "/dev/net/tun", "make a tap");
        r = probe_tap(h, n, name, is_port, err);
        (void)close(fd);
        return r;
}

static int find_out(struct net_host *h, struct net_nl *n, uint64_t asked_bps, struct err *err)
{
        int r = find_links(h, n, &h->is_port, err);
        if (r == 0)
                r = find_rate(h, asked_bps, err);
        return r < 0 ? r : probe(h, n, h->is_port, err);
}

int net_host_init(struct net_host *ret, const struct net_host_options *o, struct err *err)
{
        struct net_host h = {.is_managed = o->is_managed, .is_best_effort = o->is_best_effort};
        struct net_nl n;
        int r = 0;
        if (!o->is_managed) {
                (void)STR_COPY(h.fallback,
                               "the network is not managed by mete ([net] manage=yes): no VM has bandwidth");
        } else {
                if (!o->bridge || !*o->bridge || !STR_COPY(h.bridge, o->bridge) ||
                    (o->uplink && !STR_COPY(h.uplink, o->uplink)))
                        return err_set(err, REASON_INVALID, EINVAL,
                                       "the names of a bridge, and of an uplink if there is one, are needed "
                                       "(up to %d characters)",
                                       IFNAMSIZ - 1);
                if ((r = net_nl_open(&n, err)) < 0)
                        return r;
                r = find_out(&h, &n, o->rate_bps, err);
                net_nl_close(&n);
        }
        if (r < 0)
                return r;
        *ret = h;
        (void)pthread_mutex_init(&ret->lock, NULL);
        return 0;
}

int net_host_renew(struct net_host *h, const struct net_host_options *o, struct err *err)
{
        struct net_host now;
        int r = net_host_init(&now, o, err);
        if (r < 0)
                return r;
        h->is_holding_from = now.is_holding_from;
        h->is_holding_share = now.is_holding_share;
        h->is_port = now.is_port;
        h->rate_bps = now.rate_bps;
        (void)STR_COPY(h->fallback, now.fallback);
        net_host_done(&now);
        return 0;
}

void net_host_done(struct net_host *h)
{
        (void)pthread_mutex_destroy(&h->lock);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One VM. Its pieces, in the order in which they are made:
 *
 *   tap     HTB 4d46: with the ceiling, 4d46:1, and below it the class 4d46:2, everything's default
 *   ifb     made, up; HTB 4d47: with 4d47:1 and 4d47:2 likewise
 *   tap     ingress with two filters: the mark (the priority that is the VM's class on the uplink), then
 *           the redirect to the ifb; from there the kernel lets frames come in at the tap once more, behind
 * the filters uplink  the class 4d45:1000+SLOT; last, so that a failure before it has nothing to give back
 * there
 *
 * Each is looked at first and made only where it is not as wanted. They are removed in such an order that
 * nothing is redirected to what is gone. After a failure either all of them are as they were, where the VM
 * was active, or none is there. */
#include "host/net-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LOWER_UP = 1 << 16 }; /* IFF_LOWER_UP of linux/if.h, which does not go together with net/if.h */

struct vm {
        struct net_host *host;
        unsigned slot;
        struct net_nl nl;
        char tap_name[IFNAMSIZ], ifb_name[IFNAMSIZ];
        struct net_link tap, ifb, uplink; /* ifindex 0: it is not there */
};

/* -- names */

void net_tap_name(char name[IFNAMSIZ], unsigned slot)
{
        (void)snprintf(name, IFNAMSIZ, "mete-%u", slot);
}

void net_ifb_name(char name[IFNAMSIZ], unsigned slot)
{
        (void)snprintf(name, IFNAMSIZ, "mete-%ui", slot);
}

bool net_slot_of(const struct net_link *l, unsigned *ret_slot)
{
        char name[IFNAMSIZ];
        if (strncmp(l->name, "mete-", 5) != 0)
                return false;
        unsigned long slot =
                strtoul(l->name + 5, NULL, 10); /* whether it was one shows when the name is made of it */
        if (slot >= NET_SLOT_MAX)
                return false;
        net_tap_name(name, (unsigned)slot);
        bool is_ours = strcmp(l->name, name) == 0 && strcmp(l->kind, "tun") == 0;
        net_ifb_name(name, (unsigned)slot);
        is_ours = is_ours || (strcmp(l->name, name) == 0 && strcmp(l->kind, "ifb") == 0);
        if (is_ours)
                *ret_slot = (unsigned)slot;
        return is_ours;
}

int net_check_slot(const struct net_host *h, unsigned slot, struct err *err)
{
        int r = net_check_managed(h, err);
        if (r == 0 && slot >= NET_SLOT_MAX)
                r = err_set(err, REASON_INVALID, EINVAL, "slot %u (0 to %d)", slot, NET_SLOT_MAX - 1);
        return r;
}

static uint32_t class_of(unsigned slot)
{
        return NET_CLASS_VM + slot;
}

/* ifindex 0 where there is none; somebody else's is refused. */
static int find(struct vm *v, const char *name, const char *kind, struct net_link *ret, struct err *err)
{
        *ret = (struct net_link){0};
        int r = net_link_find(&v->nl, name, ret);
        if (r < 0 && r != -ENODEV)
                return net_fail(err, r, name, "find it");
        if (r == 0 && strcmp(ret->kind, kind) != 0) {
                *ret = (struct net_link){0};
                return err_set(err, REASON_POLICY, EEXIST,
                               "there is an interface %s that is not of mete (%s): remove or rename it", name,
                               kind);
        }
        return 0;
}

static int open_vm(struct vm *v, struct net_host *h, unsigned slot, struct err *err)
{
        *v = (struct vm){.host = h, .slot = slot};
        int r = net_check_slot(h, slot, err);
        if (r < 0 || (r = net_nl_open(&v->nl, err)) < 0)
                return r;
        net_tap_name(v->tap_name, slot);
        net_ifb_name(v->ifb_name, slot);
        r = find(v, v->tap_name, "tun", &v->tap, err);
        if (r == 0)
                r = find(v, v->ifb_name, "ifb", &v->ifb, err);
        if (r == 0 && *h->uplink) {
                r = net_link_find(&v->nl, h->uplink, &v->uplink);
                r = r == -ENODEV ? 0 : r < 0 ? net_fail(err, r, h->uplink, "find it") : 0;
        }
        if (r < 0)
                net_nl_close(&v->nl);
        return r;
}

static void close_vm(struct vm *v)
{
        net_nl_close(&v->nl);
}

/* -- taps */

static int set_up_tap(struct net_host *h, unsigned slot, const char *name, struct err *err)
{
        struct net_nl n;
        struct net_link tap, bridge;
        /* A bridge without an address of its own takes the lowest of its ports', and the lowest of their
         * mtus: so the tap gets an address above all others, and the bridge's mtu, that nothing of the
         * operator's changes. */
        const uint8_t address[6] = {0xfe, 'm', 'e', 't', (uint8_t)(slot >> 8), (uint8_t)slot};
        int r = net_nl_open(&n, err);
        if (r < 0)
                return r;
        if ((r = net_link_find(&n, h->bridge, &bridge)) < 0)
                (void)net_fail(err, r, h->bridge, "find the bridge");
        else if ((r = net_link_find(&n, name, &tap)) < 0 || (r = net_link_mute(&n, tap.ifindex)) < 0 ||
                 (r = net_link_enslave(&n, tap.ifindex, bridge.ifindex, bridge.mtu, address)) < 0)
                (void)net_fail(err, r, name, "put it behind the bridge");
        net_nl_close(&n);
        return r;
}

int net_tap_make(struct net_host *h, unsigned slot, uid_t uid, int *ret_fd, struct err *err)
{
        char name[IFNAMSIZ], made[IFNAMSIZ];
        int fd, r = net_check_slot(h, slot, err);
        if (r < 0)
                return r;
        net_tap_name(name, slot);
        r = net_link_make_tap(name, uid, &fd, made);
        if (r == -EBUSY)
                return err_set(err, REASON_BUSY, EBUSY, "the tap %s is there: a VMM holds it", name);
        if (r < 0)
                return net_fail(err, r, name, "make the tap");
        r = set_up_tap(h, slot, made, err);
        if (r < 0) {
                (void)close(fd);
                return r;
        }
        *ret_fd = fd;
        return 0;
}

int net_tap_remove(struct net_host *h, unsigned slot, struct err *err)
{
        struct vm v;
        int r = open_vm(&v, h, slot, err);
        if (r < 0)
                return r;
        if (v.tap.ifindex)
                r = net_link_remove(&v.nl, v.tap.ifindex);
        close_vm(&v);
        return r < 0 && r != -ENODEV ? net_fail(err, r, v.tap_name, "remove it") : 0;
}

/* A tap has a carrier while a process has it; whoever lies about its own harms only itself. */
int net_tap_look(struct net_host *h, unsigned slot, enum net_tap_state *ret, struct err *err)
{
        struct vm v;
        int r = open_vm(&v, h, slot, err);
        if (r < 0)
                return r;
        *ret = !v.tap.ifindex ? NET_TAP_NONE : v.tap.flags & LOWER_UP ? NET_TAP_HELD : NET_TAP_LEFT;
        close_vm(&v);
        return 0;
}

/* -- making the pieces */

static void shape_of(uint32_t class_id, const struct net_rate *rate, struct net_tc_class ret[2])
{
        uint32_t all = TC_H_MAJ(class_id) | 1;
        ret[0] = net_tc_class_of(all, 0, &(struct net_rate){rate->ceiling_bps, rate->ceiling_bps});
        ret[1] = net_tc_class_of(class_id, all, rate);
}

static int shape(struct vm *v, const struct net_link *l, uint32_t class_id, const struct net_rate *rate,
                 struct err *err)
{
        struct net_tc_class c[2];
        shape_of(class_id, rate, c);
        int r = net_ensure_root(&v->nl, l, TC_H_MAJ(class_id), class_id, err);
        for (int i = 0; i < 2 && r == 0; i++)
                r = net_ensure_class(&v->nl, l, &c[i], err);
        return r;
}

static int ensure_ifb(struct vm *v, struct err *err)
{
        int r = 0;
        if (!v->ifb.ifindex) {
                if ((r = net_link_make_ifb(&v->nl, v->ifb_name)) < 0)
                        return net_fail(err, r, v->ifb_name, "make the ifb");
                if ((r = find(v, v->ifb_name, "ifb", &v->ifb, err)) < 0)
                        return r;
        }
        if (v->ifb.flags & IFF_UP && v->ifb.queue_packets == NET_IFB_QUEUE_PACKETS)
                return 0;
        if ((r = net_link_mute(&v->nl, v->ifb.ifindex)) == 0)
                r = net_link_up_ifb(&v->nl, v->ifb.ifindex, NET_IFB_QUEUE_PACKETS);
        return r < 0 ? net_fail(err, r, v->ifb_name, "make the ifb up") : 0;
}

static bool is_redirected(const struct vm *v, const struct net_tc_filters *f)
{
        bool is_marked =
                v->host->is_holding_share ? f->has_mark && f->priority == class_of(v->slot) : !f->has_mark;
        return f->others == 0 && is_marked && f->has_redirect && v->ifb.ifindex &&
               f->ifindex == v->ifb.ifindex;
}

static int read_ingress(struct vm *v, struct net_tc_qdisc *ret_qdisc, struct net_tc_filters *ret_filters,
                        struct err *err)
{
        struct net_tc_filters f = {0};
        int r = net_tc_qdisc_read(&v->nl, v->tap.ifindex, true, ret_qdisc);
        if (r == 0 && *ret_qdisc->kind)
                r = net_tc_filters_read(&v->nl, v->tap.ifindex, &f);
        if (r < 0)
                return net_fail(err, r, v->tap_name, "read its filters");
        *ret_filters = f;
        return 0;
}

/* As a whole: where one thing is not as wanted, the ingress is made anew. */
static int redirect(struct vm *v, struct err *err)
{
        struct net_tc_qdisc q;
        struct net_tc_filters f = {0};
        int r = read_ingress(v, &q, &f, err);
        if (r < 0)
                return r;
        if (strcmp(q.kind, "ingress") == 0 && is_redirected(v, &f))
                return 0;
        if (*q.kind)
                r = net_tc_ingress_remove(&v->nl, v->tap.ifindex);
        if (r == 0)
                r = net_tc_ingress_make(&v->nl, v->tap.ifindex);
        if (r == 0 && v->host->is_holding_share)
                r = net_tc_mark_make(&v->nl, v->tap.ifindex, class_of(v->slot));
        if (r == 0)
                r = net_tc_redirect_make(&v->nl, v->tap.ifindex, v->ifb.ifindex);
        return r < 0 ? net_fail(err, r, v->tap_name, "redirect what it sends") : 0;
}

static int apply(struct vm *v, const struct net_vm_rates *rates, struct err *err)
{
        const struct net_host *h = v->host;
        int r = shape(v, &v->tap, NET_CLASS_TAP, &rates->to, err);
        if (r < 0 || !h->is_holding_from)
                return r;
        if ((r = ensure_ifb(v, err)) < 0 || (r = shape(v, &v->ifb, NET_CLASS_IFB, &rates->from, err)) < 0 ||
            (r = redirect(v, err)) < 0 || !h->is_holding_share)
                return r;
        return net_uplink_set(v->host, &v->nl, &v->uplink, class_of(v->slot), &rates->from, err);
}

/* -- removing them */

static int drop_ingress(struct vm *v, struct err *err)
{
        struct net_tc_qdisc q;
        int r = net_tc_qdisc_read(&v->nl, v->tap.ifindex, true, &q);
        if (r == 0 && *q.kind)
                r = net_tc_ingress_remove(&v->nl, v->tap.ifindex);
        return r < 0 && r != -ENODEV && r != -ENOENT ? net_fail(err, r, v->tap_name, "remove its filters")
                                                     : 0;
}

static int drop_ifb(struct vm *v, struct err *err)
{
        int r = find(v, v->ifb_name, "ifb", &v->ifb, err);
        if (r < 0 || !v->ifb.ifindex)
                return r;
        r = net_link_remove(&v->nl, v->ifb.ifindex);
        return r < 0 && r != -ENODEV ? net_fail(err, r, v->ifb_name, "remove it") : 0;
}

static int drop_uplink_class(struct vm *v, struct err *err)
{
        return net_drop_class(&v->nl, &v->uplink, class_of(v->slot), err);
}

static int drop_tap_root(struct vm *v, struct err *err)
{
        return net_drop_root(&v->nl, &v->tap, NET_TC_TAP, err);
}

/* All that can be removed is; the first failure is returned. */
static int drop(struct vm *v, struct err *err)
{
        struct err more;
        int r = v->tap.ifindex ? drop_ingress(v, err) : 0;
        int each = drop_ifb(v, r < 0 ? &more : err);
        r = r < 0 ? r : each;
        each = v->tap.ifindex ? drop_tap_root(v, r < 0 ? &more : err) : 0;
        r = r < 0 ? r : each;
        each = v->uplink.ifindex ? drop_uplink_class(v, r < 0 ? &more : err) : 0;
        return r < 0 ? r : each;
}

/* -- the functions of the header */

/* -ENOENT, -EINVAL: no such class, or no HTB at all. */
static int read_class(struct vm *v, const struct net_link *l, uint32_t id, struct net_tc_class *ret,
                      bool *ret_is_there, struct err *err)
{
        *ret_is_there = false;
        if (!l->ifindex)
                return 0;
        int r = net_tc_class_read(&v->nl, l->ifindex, id, ret);
        *ret_is_there = r == 0;
        return r == 0 || r == -ENOENT || r == -EINVAL || r == -ENODEV
                       ? 0
                       : net_fail(err, r, l->name, "read a class");
}

static int read_vm(struct vm *v, struct net_vm_figures *ret, struct err *err)
{
        const struct net_host *h = v->host;
        struct net_vm_figures f = {0};
        struct net_tc_class to = {0}, from = {0}, uplink = {0};
        bool has_to = false, has_from = false, has_uplink = false;
        int r = read_class(v, &v->tap, NET_CLASS_TAP, &to, &has_to, err);
        if (r == 0)
                r = read_class(v, &v->ifb, NET_CLASS_IFB, &from, &has_from, err);
        if (r == 0)
                r = read_class(v, &v->uplink, class_of(v->slot), &uplink, &has_uplink, err);
        if (r < 0)
                return r;
        f.is_active = has_to && (has_from || !h->is_holding_from) && (has_uplink || !h->is_holding_share);
        f.set = (struct net_vm_rates){.to = net_tc_class_rate(&to), .from = net_tc_class_rate(&from)};
        f.to = to.figures;
        f.from = from.figures;
        f.uplink = uplink.figures;
        *ret = f;
        return 0;
}

static int check_rates(const struct net_host *h, const struct net_vm_rates *asked, struct net_vm_rates *ret,
                       struct err *err)
{
        if (net_check_rate(h, &asked->to, &ret->to, err) < 0)
                return err_note(err, "to the VM");
        if (net_check_rate(h, &asked->from, &ret->from, err) < 0)
                return err_note(err, "from the VM");
        if (!h->is_best_effort && !(h->is_holding_from && h->is_holding_share))
                return err_set(err, REASON_UNSUPPORTED, EOPNOTSUPP, "%s", h->fallback);
        return 0;
}

static void undo(struct vm *v, const struct net_vm_figures *before, struct err *err)
{
        struct err more = {0};
        int r = before->is_active ? apply(v, &before->set, &more) : drop(v, &more);
        if (r < 0)
                (void)err_note(err, "not undone (%.100s)", more.sentence);
}

static int activate(struct vm *v, const struct net_vm_rates *rates, struct err *err)
{
        struct net_vm_figures before;
        if (!v->tap.ifindex)
                return err_set(err, REASON_NOT_FOUND, ENODEV, "there is no tap %s: make it first",
                               v->tap_name);
        if (!v->uplink.ifindex && v->host->is_holding_share)
                return err_set(err, REASON_NOT_FOUND, ENODEV, "there is no interface %s, the uplink",
                               v->host->uplink);
        int r = read_vm(v, &before, err);
        if (r < 0)
                return r;
        if ((r = apply(v, rates, err)) < 0)
                undo(v, &before, err);
        return r;
}

int net_vm_activate(struct net_host *h, unsigned slot, const struct net_vm_rates *asked, struct err *err)
{
        struct vm v;
        struct net_vm_rates rates;
        int r = net_check_slot(h, slot, err);
        if (r < 0 || (r = check_rates(h, asked, &rates, err)) < 0 || (r = open_vm(&v, h, slot, err)) < 0)
                return r;
        r = activate(&v, &rates, err);
        close_vm(&v);
        return r;
}

int net_vm_deactivate(struct net_host *h, unsigned slot, struct err *err)
{
        struct vm v;
        int r = open_vm(&v, h, slot, err);
        if (r < 0)
                return r;
        r = drop(&v, err);
        close_vm(&v);
        return r;
}

int net_vm_read(struct net_host *h, unsigned slot, struct net_vm_figures *ret, struct err *err)
{
        struct vm v;
        int r = open_vm(&v, h, slot, err);
        if (r < 0)
                return r;
        r = read_vm(&v, ret, err);
        close_vm(&v);
        return r;
}

static int compare_shape(struct vm *v, const struct net_link *l, const char *name, uint32_t class_id,
                         const struct net_rate *rate, char ret_difference[NET_SENTENCE], struct err *err)
{
        if (!l->ifindex) {
                (void)snprintf(ret_difference, NET_SENTENCE, "there is no interface %s", name);
                return 1;
        }
        struct net_tc_class c[2];
        shape_of(class_id, rate, c);
        int r = net_compare_root(&v->nl, l, TC_H_MAJ(class_id), class_id, ret_difference, err);
        for (int i = 0; i < 2 && r == 0; i++)
                r = net_compare_class(&v->nl, l, &c[i], ret_difference, err);
        return r;
}

static int compare_redirect(struct vm *v, char ret_difference[NET_SENTENCE], struct err *err)
{
        struct net_tc_qdisc q;
        struct net_tc_filters f = {0};
        int r = read_ingress(v, &q, &f, err);
        if (r < 0)
                return r;
        if (!(v->ifb.flags & IFF_UP)) {
                (void)snprintf(ret_difference, NET_SENTENCE, "%s is down", v->ifb_name);
                return 1;
        }
        if (strcmp(q.kind, "ingress") == 0 && is_redirected(v, &f))
                return 0;
        (void)snprintf(ret_difference, NET_SENTENCE, "%s: its filters are not the ones that were made",
                       v->tap_name);
        return 1;
}

static int compare(struct vm *v, const struct net_vm_rates *rates, char ret_difference[NET_SENTENCE],
                   struct err *err)
{
        const struct net_host *h = v->host;
        int r = compare_shape(v, &v->tap, v->tap_name, NET_CLASS_TAP, &rates->to, ret_difference, err);
        if (r != 0 || !h->is_holding_from)
                return r;
        r = compare_shape(v, &v->ifb, v->ifb_name, NET_CLASS_IFB, &rates->from, ret_difference, err);
        if (r == 0)
                r = compare_redirect(v, ret_difference, err);
        if (r != 0 || !h->is_holding_share)
                return r;
        struct net_tc_class c = net_tc_class_of(class_of(v->slot), NET_CLASS_LINK, &rates->from);
        if (v->uplink.ifindex)
                return net_compare_class(&v->nl, &v->uplink, &c, ret_difference, err);
        (void)snprintf(ret_difference, NET_SENTENCE, "there is no interface %s", h->uplink);
        return 1;
}

int net_vm_verify(struct net_host *h, unsigned slot, const struct net_vm_rates *asked,
                  char ret_difference[NET_SENTENCE], struct err *err)
{
        struct vm v;
        struct net_vm_rates rates;
        int r = net_check_slot(h, slot, err);
        if (r < 0 || (r = check_rates(h, asked, &rates, err)) < 0 || (r = open_vm(&v, h, slot, err)) < 0)
                return r;
        r = compare(&v, &rates, ret_difference, err);
        close_vm(&v);
        return r;
}

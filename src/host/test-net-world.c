/* SPDX-License-Identifier: Apache-2.0 */
#include "host/test-net-world.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

const char *missing;

/* -- the world */

void run(const char *command)
{
        g_autofree char *errors = NULL, *out = NULL;
        int status = -1;
        if (!g_spawn_command_line_sync(command, &out, &errors, &status, NULL) || status != 0)
                g_error("%s: %s", command, errors);
}

char *output(const char *command)
{
        char *out = NULL;
        int status = -1;
        if (!g_spawn_command_line_sync(command, &out, NULL, &status, NULL) || status != 0)
                g_error("%s", command);
        return out;
}

bool enter(void)
{
        if (missing) {
                g_test_skip(missing);
                return false;
        }
        g_assert_cmpint(unshare(CLONE_NEWNET), ==, 0);
        run("ip link add br0 type bridge");
        run("ip link add up0 type veth peer name up1");
        run("ip link set up0 master br0 up");
        run("ip link set up1 up");
        run("ip link set br0 up");
        return true;
}

static const char *name_of(int ifindex)
{
        static char name[IFNAMSIZ];
        return if_indextoname((unsigned)ifindex, name) ? name : "-";
}

static void put_hex(GString *s, const struct nlattr *a)
{
        for (int i = 0; a && i < nla_len(a); i++)
                g_string_append_printf(s, "%02x", ((unsigned char *)nla_data(a))[i]);
}

static void dump_link(const struct nlmsghdr *h, void *user)
{
        struct nlattr *a[IFLA_MAX + 1];
        const struct ifinfomsg *i = nlmsg_data((struct nlmsghdr *)h);
        g_assert_cmpint(nlmsg_parse((struct nlmsghdr *)h, sizeof(*i), a, IFLA_MAX, NULL), ==, 0);
        const char *name = nla_get_string(a[IFLA_IFNAME]);
        g_string_append_printf(user, "link %s up=%d promiscuous=%u master=%s mtu=%u queue=%u %s ", name,
                               i->ifi_flags & IFF_UP, nla_get_u32(a[IFLA_PROMISCUITY]),
                               name_of(a[IFLA_MASTER] ? (int)nla_get_u32(a[IFLA_MASTER]) : 0),
                               nla_get_u32(a[IFLA_MTU]), nla_get_u32(a[IFLA_TXQLEN]),
                               nla_get_string(a[IFLA_QDISC]));
        if (!g_str_has_suffix(name, "i"))
                put_hex(user, a[IFLA_ADDRESS]);
        g_string_append_c(user, '\n');
}

static void dump_tc(const struct nlmsghdr *h, void *user)
{
        struct nlattr *a[TCA_MAX + 1], *o[TCA_HTB_MAX + 1];
        const struct tcmsg *t = nlmsg_data((struct nlmsghdr *)h);
        g_assert_cmpint(nlmsg_parse((struct nlmsghdr *)h, sizeof(*t), a, TCA_MAX, NULL), ==, 0);
        g_string_append_printf(user, "tc %d dev=%s %s %x parent=%x info=%x ", h->nlmsg_type,
                               name_of(t->tcm_ifindex), nla_get_string(a[TCA_KIND]), t->tcm_handle,
                               t->tcm_parent, h->nlmsg_type == RTM_NEWTFILTER ? t->tcm_info : 0);
        if (h->nlmsg_type == RTM_NEWTCLASS && a[TCA_OPTIONS] &&
            nla_parse_nested(o, TCA_HTB_MAX, a[TCA_OPTIONS], NULL) == 0) {
                put_hex(user, o[TCA_HTB_PARMS]);
                put_hex(user, o[TCA_HTB_RATE64]);
                put_hex(user, o[TCA_HTB_CEIL64]);
        }
        g_string_append_c(user, '\n');
}

char *state(void)
{
        GString *s = g_string_new(NULL);
        struct net_nl n;
        int (*hook)(const char *step, bool is_done) = net_nl_fault;
        net_nl_fault = NULL;
        g_assert_cmpint(net_nl_open(&n, NULL), ==, 0);
        struct ifinfomsg link = {0};
        struct tcmsg tc = {0};
        g_assert_cmpint(net_nl_ask(&n, "", net_nl_message(RTM_GETLINK, NLM_F_DUMP, &link, sizeof(link)),
                                   dump_link, s),
                        ==, 0);
        g_assert_cmpint(
                net_nl_ask(&n, "", net_nl_message(RTM_GETQDISC, NLM_F_DUMP, &tc, sizeof(tc)), dump_tc, s), ==,
                0);
        struct if_nameindex *links = if_nameindex();
        for (struct if_nameindex *l = links; l->if_index; l++) {
                struct tcmsg t = {.tcm_ifindex = (int)l->if_index};
                (void)net_nl_ask(&n, "", net_nl_message(RTM_GETTCLASS, NLM_F_DUMP, &t, sizeof(t)), dump_tc,
                                 s);
                t.tcm_parent = TC_H_MAJ(TC_H_INGRESS);
                (void)net_nl_ask(&n, "", net_nl_message(RTM_GETTFILTER, NLM_F_DUMP, &t, sizeof(t)), dump_tc,
                                 s);
        }
        if_freenameindex(links);
        net_nl_close(&n);
        net_nl_fault = hook;
        return g_string_free(s, FALSE);
}

void is_state(const char *expected)
{
        g_autofree char *now = state();
        g_assert_cmpstr(now, ==, expected);
}

/* -- faults */

struct fault fault;
int n_faults;

static int on_step(const char *step, bool is_done)
{
        if (fault.lacking && strcmp(step, fault.lacking) == 0 && !is_done)
                return -ENOENT;
        if (fault.broken && strcmp(step, fault.broken) == 0 && !is_done)
                return -EIO;
        if (!is_done)
                fault.passed++;
        bool is_it = fault.passed == fault.at, is_dead = fault.passed > fault.at;
        bool fails = false;
        switch (fault.kind) {
        case BEFORE:
                fails = is_it && !is_done;
                break;
        case AFTER:
                fails = is_it && is_done;
                break;
        case DEAD_BEFORE:
                fails = (is_it || is_dead) && !is_done;
                break;
        case DEAD_AFTER:
                fails = (is_it && is_done) || (is_dead && !is_done);
                break;
        case FAULT_KIND_N:
                break;
        }
        if (fails)
                fault.is_hit = true;
        if (fails && is_it)
                (void)g_strlcpy(fault.last, step, sizeof(fault.last));
        return fails ? -EIO : 0;
}

void fail_at(enum fault_kind kind, int at)
{
        fault.kind = kind;
        fault.at = at;
        fault.passed = 0;
        fault.is_hit = false;
        fault.lacking = fault.broken = NULL;
        net_nl_fault = on_step;
}

void mend(void)
{
        net_nl_fault = NULL;
}

/* -- helpers */

void ok(int r, const struct err *err)
{
        if (r < 0)
                g_error("%s", err->sentence);
}

const struct net_host_options usual = {
        .bridge = "br0", .uplink = "up0", .rate_bps = 1000ULL * MBIT, .is_managed = true};

void set_up(struct net_host *h, const struct net_host_options *o)
{
        struct err err = {0};
        ok(net_host_init(h, o, &err), &err);
        ok(net_host_start(h, &err), &err);
}

void tear_down(struct net_host *h)
{
        struct err err = {0};
        ok(net_host_finish(h, &err), &err);
        net_host_done(h);
}

int tap(struct net_host *h, unsigned slot)
{
        struct err err = {0};
        int fd = -1;
        ok(net_tap_make(h, slot, 12345, &fd, &err), &err);
        return fd;
}

struct net_vm_rates rates_of(uint64_t to, uint64_t to_ceiling, uint64_t from, uint64_t from_ceiling)
{
        return (struct net_vm_rates){
                .to = {to * MBIT,   to_ceiling * MBIT  },
                  .from = {from * MBIT, from_ceiling * MBIT}
        };
}

void is_same(struct net_host *h, unsigned slot, const struct net_vm_rates *rates)
{
        struct err err = {0};
        char difference[NET_SENTENCE] = "";
        int r = net_vm_verify(h, slot, rates, difference, &err);
        ok(r, &err);
        g_assert_cmpstr(difference, ==, "");
        g_assert_cmpint(r, ==, 0);
}

void is_refused(int r, int code, enum reason reason, const struct err *err, const char *words)
{
        g_test_message("%s", err->sentence);
        g_assert_cmpint(r, ==, -code);
        g_assert_cmpstr(reason_name(err->reason), ==, reason_name(reason));
        g_assert_nonnull(strstr(err->sentence, words));
}

int fds_open(void)
{
        int n = 0;
        GDir *d = g_dir_open("/proc/self/fd", 0, NULL);
        while (g_dir_read_name(d))
                n++;
        g_dir_close(d);
        return n;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidth against the real kernel, each test in a network namespace of its own that it makes:
 *
 *      br0 ---- up0 ==== up1 (the world)
 *       `------ mete-N, the taps
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include "host/net.h"

enum { MBIT = 1000000 };

static const char *missing; /* why nothing can be tried here */

/* -- the world */

static void run(const char *command)
{
        g_autofree char *errors = NULL, *out = NULL;
        int status = -1;
        if (!g_spawn_command_line_sync(command, &out, &errors, &status, NULL) || status != 0)
                g_error("%s: %s", command, errors);
}

static char *output(const char *command)
{
        char *out = NULL;
        int status = -1;
        if (!g_spawn_command_line_sync(command, &out, NULL, &status, NULL) || status != 0)
                g_error("%s", command);
        return out;
}

static bool enter(void)
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

/* All that there is, in words; without figures, and without the numbers and addresses that the kernel
 * chooses. */
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

static char *state(void)
{
        GString *s = g_string_new(NULL);
        struct net_nl n;
        int (*fault)(const char *step, bool is_done) = net_nl_fault;
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
        net_nl_fault = fault;
        return g_string_free(s, FALSE);
}

static void is_state(const char *expected)
{
        g_autofree char *now = state();
        g_assert_cmpstr(now, ==, expected);
}

/* -- faults */

enum fault_kind { BEFORE = 1, AFTER, DEAD_BEFORE, DEAD_AFTER, FAULT_KIND_N };

static struct {
        enum fault_kind kind;
        int at, passed;
        bool is_hit;
        const char *lacking; /* this step is what the kernel does not have */
        const char *broken;  /* this one fails, however often it is tried */
        char last[32];
} fault;
static int n_faults;

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

static void fail_at(enum fault_kind kind, int at)
{
        fault.kind = kind;
        fault.at = at;
        fault.passed = 0;
        fault.is_hit = false;
        fault.lacking = fault.broken = NULL;
        net_nl_fault = on_step;
}

static void mend(void)
{
        net_nl_fault = NULL;
}

/* -- helpers */

static void ok(int r, const struct err *err)
{
        if (r < 0)
                g_error("%s", err->sentence);
}

static const struct net_host_options usual = {
        .bridge = "br0", .uplink = "up0", .rate_bps = 1000ULL * MBIT, .is_managed = true};

static void set_up(struct net_host *h, const struct net_host_options *o)
{
        struct err err = {0};
        ok(net_host_init(h, o, &err), &err);
        ok(net_host_start(h, &err), &err);
}

static void tear_down(struct net_host *h)
{
        struct err err = {0};
        ok(net_host_finish(h, &err), &err);
        net_host_done(h);
}

static int tap(struct net_host *h, unsigned slot)
{
        struct err err = {0};
        int fd = -1;
        ok(net_tap_make(h, slot, 12345, &fd, &err), &err);
        return fd;
}

static struct net_vm_rates rates_of(uint64_t to, uint64_t to_ceiling, uint64_t from, uint64_t from_ceiling)
{
        return (struct net_vm_rates){
                .to = {to * MBIT,   to_ceiling * MBIT  },
                  .from = {from * MBIT, from_ceiling * MBIT}
        };
}

static void is_same(struct net_host *h, unsigned slot, const struct net_vm_rates *rates)
{
        struct err err = {0};
        char difference[NET_SENTENCE] = "";
        int r = net_vm_verify(h, slot, rates, difference, &err);
        ok(r, &err);
        g_assert_cmpstr(difference, ==, "");
        g_assert_cmpint(r, ==, 0);
}

static void is_refused(int r, int code, enum reason reason, const struct err *err, const char *words)
{
        g_test_message("%s", err->sentence);
        g_assert_cmpint(r, ==, -code);
        g_assert_cmpstr(reason_name(err->reason), ==, reason_name(reason));
        g_assert_nonnull(strstr(err->sentence, words));
}

static int fds_open(void)
{
        int n = 0;
        GDir *d = g_dir_open("/proc/self/fd", 0, NULL);
        while (g_dir_read_name(d))
                n++;
        g_dir_close(d);
        return n;
}

/* -- tests */

static void test_class(void)
{
        struct net_tc_class c = net_tc_class_of(1, 0, &(struct net_rate){200 * MBIT, 400 * MBIT});
        g_assert_cmpuint(c.rate_bytes, ==, 25 * MBIT);
        g_assert_cmpuint(c.burst_ticks, ==, 10 * MBIT / 64); /* 10 ms in ns */
        g_assert_cmpuint(c.ceiling_burst_ticks, ==, 10 * MBIT / 64);
        g_assert_cmpuint(c.parent, ==, TC_H_ROOT);
        /* Rounded up to whole bytes. */
        c = net_tc_class_of(1, 2, &(struct net_rate){64001, 64008});
        g_assert_cmpuint(c.rate_bytes, ==, 8001);
        g_assert_cmpuint(c.ceiling_bytes, ==, 8001);
        g_assert_cmpuint(c.parent, ==, 2);
        g_assert_cmpuint(c.burst_ticks, ==, 16384 * 1000000000ULL / 8001 / 64); /* a few frames */
        c = net_tc_class_of(1, 2, &(struct net_rate){400000ULL * MBIT, UINT64_C(1) << 53});
        g_assert_cmpuint(c.rate_bytes, ==, 50000ULL * MBIT);
        g_assert_cmpuint(c.burst_ticks, ==,
                         (4 << 20) * 1000000000ULL / (50000ULL * MBIT) / 64); /* 4 MiB, no more */
        g_assert_cmpuint(c.ceiling_burst_ticks, >, 0);
}

static void test_init(void)
{
        if (!enter())
                return;
        struct net_host h = {0};
        struct err err = {0};
        g_autofree char *before = state();
        struct net_host_options o = usual;
        ok(net_host_init(&h, &o, &err), &err);
        g_assert_true(h.is_holding_from && h.is_holding_share);
        g_assert_cmpstr(h.fallback, ==, "");
        g_assert_cmpuint(h.rate_bps, ==, 1000ULL * MBIT);
        net_host_done(&h);
        is_state(before);

        o.rate_bps = 0; /* veth says 10 Gbit/s */
        ok(net_host_init(&h, &o, &err), &err);
        g_assert_cmpuint(h.rate_bps, ==, 10000ULL * MBIT);
        net_host_done(&h);

        o.rate_bps = 20000ULL * MBIT;
        is_refused(net_host_init(&h, &o, &err), ERANGE, REASON_INVALID, &err, "more than up0 has");
        o.rate_bps = MBIT;
        is_refused(net_host_init(&h, &o, &err), EINVAL, REASON_INVALID, &err, "at least");
        o = usual;
        o.bridge = "br7";
        is_refused(net_host_init(&h, &o, &err), ENODEV, REASON_NOT_FOUND, &err, "no bridge br7");
        o.bridge = "up0";
        is_refused(net_host_init(&h, &o, &err), EINVAL, REASON_INVALID, &err, "up0 is no bridge");
        o.bridge = "a-name-that-is-too-long";
        is_refused(net_host_init(&h, &o, &err), EINVAL, REASON_INVALID, &err, "15 characters");
        o.bridge = NULL;
        is_refused(net_host_init(&h, &o, &err), EINVAL, REASON_INVALID, &err, "bridge");
        o = usual;
        o.uplink = "up9";
        is_refused(net_host_init(&h, &o, &err), ENODEV, REASON_NOT_FOUND, &err, "no interface up9");
        o.uplink = NULL;
        ok(net_host_init(&h, &o, &err), &err);
        g_assert_true(h.is_holding_from && !h.is_holding_share);
        g_assert_nonnull(strstr(h.fallback, "no uplink is named"));
        ok(net_host_start(&h, &err), &err);
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){MBIT, 0}, &err), EOPNOTSUPP,
                   REASON_UNSUPPORTED, &err, "no uplink");
        net_host_done(&h);
        o.rate_bps = 0;
        is_refused(net_host_init(&h, &o, &err), EINVAL, REASON_INVALID, &err, "rate=");
        is_state(before);

        o = usual;
        o.is_managed = false;
        ok(net_host_init(&h, &o, &err), &err);
        struct net_vm_rates rates = rates_of(1, 2, 1, 2);
        is_refused(net_vm_activate(&h, 0, &rates, &err), EOPNOTSUPP, REASON_UNSUPPORTED, &err, "manage=yes");
        is_refused(net_host_start(&h, &err), EOPNOTSUPP, REASON_UNSUPPORTED, &err, "manage=yes");
        net_host_done(&h);
        is_state(before);
}

static void test_init_faults(void)
{
        if (!enter())
                return;
        g_autofree char *before = state();
        struct net_host h;
        struct err err = {0};
        int fds = fds_open();
        for (int kind = BEFORE; kind < FAULT_KIND_N; kind++) {
                bool is_hit = true;
                for (int at = 1; is_hit; at++) {
                        fail_at((enum fault_kind)kind, at);
                        int r = net_host_init(&h, &usual, &err);
                        mend();
                        is_hit = fault.passed >= at;
                        n_faults += is_hit;
                        if (r == 0)
                                net_host_done(&h);
                        g_test_message("step %d (%s), kind %d: %s", at, fault.last, kind,
                                       r < 0 ? err.sentence : "");
                        g_autofree char *now = state();
                        if (strstr(now, "mete-p")) { /* removing it failed: the next one does */
                                ok(net_host_init(&h, &usual, &err), &err);
                                net_host_done(&h);
                        }
                        is_state(before);
                }
        }
        g_assert_cmpint(fds_open(), ==, fds);
}

static void test_lacking(void)
{
        if (!enter())
                return;
        static const struct {
                const char *step, *words;
                bool has_from;
        } cases[] = {
                {"make the ifb",      "held by nothing, as this kernel lacks ifb", false},
                {"make the ingress",  "lacks ingress",                             false},
                {"make the redirect", "lacks u32 and mirred",                      false},
                {"load the mark",     "BPF classifiers cannot be had",             true },
                {"make the mark",     "BPF classifiers cannot be had",             true }
        };
        struct net_host h;
        struct err err = {0};
        struct net_vm_rates rates = rates_of(100, 200, 100, 200);
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++)
                for (int best_effort = 0; best_effort < 2; best_effort++) {
                        struct net_host_options o = usual;
                        o.is_best_effort = best_effort;
                        fail_at(BEFORE, -1);
                        fault.lacking = cases[i].step;
                        set_up(&h, &o);
                        g_assert_nonnull(strstr(h.fallback, cases[i].words));
                        g_assert_cmpint(h.is_holding_from, ==, cases[i].has_from);
                        g_assert_false(h.is_holding_share);
                        int fd = tap(&h, 0);
                        g_autofree char *before = state();
                        if (best_effort) {
                                ok(net_vm_activate(&h, 0, &rates, &err), &err);
                                is_same(&h, 0, &rates);
                                ok(net_vm_deactivate(&h, 0, &err), &err);
                        } else {
                                is_refused(net_vm_activate(&h, 0, &rates, &err), EOPNOTSUPP,
                                           REASON_UNSUPPORTED, &err, cases[i].words);
                        }
                        is_state(before);
                        mend();
                        (void)close(fd);
                        tear_down(&h);
                }
        fail_at(BEFORE, -1);
        fault.lacking = "make the root";
        is_refused(net_host_init(&h, &usual, &err), EOPNOTSUPP, REASON_UNSUPPORTED, &err,
                   "CONFIG_NET_SCH_HTB");
        fault.lacking = "make the tap";
        is_refused(net_host_init(&h, &usual, &err), EOPNOTSUPP, REASON_UNSUPPORTED, &err, "/dev/net/tun");
        mend();
        run("ip link set up0 nomaster");
        ok(net_host_init(&h, &usual, &err), &err);
        g_assert_nonnull(strstr(h.fallback, "no port of the bridge"));
        net_host_done(&h);
}

static void test_uplink(void)
{
        if (!enter())
                return;
        struct net_host h, again;
        struct err err = {0};
        char difference[NET_SENTENCE] = "";
        g_autofree char *before = state();
        set_up(&h, &usual);
        g_assert_cmpint(net_host_verify(&h, difference, &err), ==, 0);
        ok(net_purpose_activate(&h, NET_PURPOSE_MIGRATION, &(struct net_rate){300ULL * MBIT, 0}, &err), &err);
        g_autofree char *active = state(), *seen = output("tc class show dev up0"),
                        *root = output("tc qdisc show dev up0");
        g_assert_nonnull(strstr(root, "qdisc htb 4d45: root"));
        g_assert_nonnull(strstr(root, "default 0x2"));
        g_assert_nonnull(strstr(seen, "class htb 4d45:1 root rate 1Gbit ceil 1Gbit"));
        g_assert_nonnull(strstr(seen, "class htb 4d45:2 parent 4d45:1 prio 0 rate 20Mbit ceil 1Gbit"));
        g_assert_nonnull(strstr(seen, "class htb 4d45:11 parent 4d45:1 prio 0 rate 300Mbit ceil 1Gbit"));

        /* A new keeper takes it over, with all that is there. */
        set_up(&again, &usual);
        is_state(active);
        ok(net_host_start(&again, &err), &err);
        is_state(active);
        net_host_done(&again);
        /* With another rate of the link, only that changes. */
        struct net_host_options faster = usual;
        faster.rate_bps = 2000ULL * MBIT;
        set_up(&again, &faster);
        g_assert_cmpint(net_host_verify(&again, difference, &err), ==, 0);
        g_assert_cmpint(net_host_verify(&h, difference, &err), ==, 1);
        g_assert_nonnull(strstr(difference, "class 4d45:1 has rate 2000000000"));
        net_host_done(&again);
        for (int i = 0; i < 2; i++)
                ok(net_host_finish(&h, &err), &err);
        is_state(before);
        g_assert_cmpint(net_host_verify(&h, difference, &err), ==, 1);
        g_assert_nonnull(strstr(difference, "up0 has queueing discipline default 0:"));

        /* The operator's own is neither replaced nor removed. */
        run("tc qdisc add dev up0 root handle 7: tbf rate 1gbit burst 100k latency 10ms");
        g_autofree char *operators = state();
        is_refused(net_host_start(&h, &err), EBUSY, REASON_POLICY, &err, "not of mete: tbf 7:");
        is_refused(net_host_init(&again, &usual, &err), EBUSY, REASON_POLICY, &err, "not of mete: tbf 7:");
        ok(net_host_finish(&h, &err), &err);
        is_state(operators);
        run("tc qdisc del dev up0 root");
        run("tc qdisc add dev up0 root handle 4d45: tbf rate 1gbit burst 100k latency 10ms");
        is_refused(net_host_init(&again, &usual, &err), EBUSY, REASON_POLICY, &err, "tbf 4d45:");
        run("tc qdisc del dev up0 root");
        /* An uplink that went away. */
        run("ip link del up0");
        is_refused(net_host_start(&h, &err), ENODEV, REASON_NOT_FOUND, &err, "no interface up0");
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){MBIT, 0}, &err), ENODEV, REASON_NOT_FOUND,
                   &err, "no interface up0");
        ok(net_host_finish(&h, &err), &err);
        net_host_done(&h);
}

static void test_purpose(void)
{
        if (!enter())
                return;
        struct net_host h;
        struct err err = {0};
        char difference[NET_SENTENCE] = "";
        struct net_purpose_figures f;
        set_up(&h, &usual);
        g_autofree char *before = state();
        const struct net_rate first = {300ULL * MBIT, 500ULL * MBIT}, second = {100ULL * MBIT, 0};
        for (int i = 0; i < 2; i++)
                ok(net_purpose_activate(&h, 1, &first, &err), &err);
        g_assert_cmpint(net_purpose_verify(&h, 1, &first, difference, &err), ==, 0);
        g_assert_cmpint(net_purpose_verify(&h, 1, &second, difference, &err), ==, 1);
        g_assert_nonnull(strstr(difference,
                                "class 4d45:11 has rate 300000000 and ceiling 500000000 bit/s instead of "
                                "100000000 and 1000000000"));
        ok(net_purpose_activate(&h, 1, &second, &err), &err);
        ok(net_purpose_read(&h, 1, &f, &err), &err);
        g_assert_true(f.is_active);
        g_assert_cmpuint(f.set.rate_bps, ==, 100ULL * MBIT);
        g_assert_cmpuint(f.set.ceiling_bps, ==, 1000ULL * MBIT);

        /* A socket that carries the priority sends through the class, another does not. */
        run("ip addr add 10.9.0.1/24 dev br0");
        run("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev br0");
        struct sockaddr_in to = {
                .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = {htonl(0x0a090002)}};
        char data[1000] = "x";
        int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        g_assert_cmpint(sendto(s, data, sizeof(data), 0, (struct sockaddr *)&to, sizeof(to)), ==,
                        sizeof(data));
        ok(net_purpose_read(&h, 1, &f, &err), &err);
        g_assert_cmpuint(f.uplink.sent_packets, ==, 0);
        ok(net_purpose_mark(&h, 1, s, &err), &err);
        g_assert_cmpint(sendto(s, data, sizeof(data), 0, (struct sockaddr *)&to, sizeof(to)), ==,
                        sizeof(data));
        ok(net_purpose_read(&h, 1, &f, &err), &err);
        g_assert_cmpuint(f.uplink.sent_packets, ==, 1);
        g_assert_cmpuint(f.uplink.sent_bytes, ==, 1000 + 8 + 20 + 14);
        (void)close(s);
        is_refused(net_purpose_mark(&h, 1, s, &err), EBADF, REASON_INTERNAL, &err, "socket");

        for (int i = 0; i < 2; i++)
                ok(net_purpose_deactivate(&h, 1, &err), &err);
        is_state(before);
        ok(net_purpose_read(&h, 1, &f, &err), &err);
        g_assert_false(f.is_active);
        g_assert_cmpint(net_purpose_verify(&h, 1, &first, difference, &err), ==, 1);
        g_assert_nonnull(strstr(difference, "class 4d45:11 is not there"));

        is_refused(net_purpose_activate(&h, 0, &first, &err), EINVAL, REASON_INVALID, &err, "purpose 0");
        is_refused(net_purpose_activate(&h, NET_PURPOSE_MAX + 1, &first, &err), EINVAL, REASON_INVALID, &err,
                   "purpose");
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){1001ULL * MBIT, 0}, &err), ERANGE,
                   REASON_NO_CAPACITY, &err, "more than the link has");
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){MBIT, 1001ULL * MBIT}, &err), ERANGE,
                   REASON_NO_CAPACITY, &err, "more than the link has");
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){2 * MBIT, MBIT}, &err), EINVAL,
                   REASON_INVALID, &err, "below the rate");
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){0, MBIT}, &err), EINVAL, REASON_INVALID,
                   &err, "at least");
        /* 980 of 1000 may be guaranteed: the rest keeps its part. */
        ok(net_purpose_activate(&h, 1, &(struct net_rate){980ULL * MBIT, 0}, &err), &err);
        g_autofree char *full = state();
        is_refused(net_purpose_activate(&h, 2, &(struct net_rate){64000, 0}, &err), ENOSPC,
                   REASON_NO_CAPACITY, &err, "1000000000 of 1000000000 bit/s are guaranteed already");
        is_refused(net_purpose_activate(&h, 1, &(struct net_rate){981ULL * MBIT, 0}, &err), ENOSPC,
                   REASON_NO_CAPACITY, &err, "do not fit");
        is_state(full);
        run("tc qdisc del dev up0 root");
        g_assert_cmpint(net_purpose_activate(&h, 2, &first, &err), <, 0);
        g_test_message("%s", err.sentence);
        g_assert_cmpint(net_purpose_verify(&h, 1, &first, difference, &err), ==, 1);
        ok(net_purpose_read(&h, 1, &f, &err), &err);
        g_assert_false(f.is_active);
        ok(net_purpose_deactivate(&h, 1, &err), &err);
        tear_down(&h);
}

static void test_tap(void)
{
        if (!enter())
                return;
        struct net_host h;
        struct err err = {0};
        run("ip link set up0 mtu 1400"); /* and so the bridge's */
        set_up(&h, &usual);
        g_autofree char *before = state(), *bridge = output("ip -br link show br0");
        int fd = tap(&h, 4095), none = -1;
        g_autofree char *with = output("ip -br link show br0"), *shown = output("ip -d link show mete-4095");
        g_assert_cmpstr(bridge, ==, with);
        g_assert_nonnull(strstr(shown, "mtu 1400"));
        g_assert_nonnull(strstr(shown, "master br0"));
        g_assert_nonnull(strstr(shown, "vnet_hdr on"));
        g_assert_nonnull(strstr(shown, "persist off"));
        g_assert_nonnull(strstr(shown, "user 12345"));
        g_assert_nonnull(strstr(shown, "link/ether fe:6d:65:74:0f:ff"));
        g_assert_true(strstr(shown, ",UP"));
        g_assert_nonnull(strstr(shown, "addrgenmode none"));
        g_assert_cmpint(fcntl(fd, F_GETFD) & FD_CLOEXEC, !=, 0);
        is_refused(net_tap_make(&h, 4095, 0, &none, &err), EBUSY, REASON_BUSY, &err, "a VMM holds it");
        g_assert_cmpint(none, ==, -1);
        (void)close(fd);
        is_state(before);
        fd = tap(&h, 0);
        for (int i = 0; i < 2; i++)
                ok(net_tap_remove(&h, 0, &err), &err);
        is_state(before);
        (void)close(fd);
        is_refused(net_tap_make(&h, NET_SLOT_MAX, 0, &none, &err), EINVAL, REASON_INVALID, &err, "slot 4096");
        run("ip link add mete-1 type ifb");
        is_refused(net_tap_make(&h, 1, 0, &none, &err), EBUSY, REASON_BUSY, &err, "mete-1");
        is_refused(net_tap_remove(&h, 1, &err), EEXIST, REASON_POLICY, &err, "not of mete");
        run("ip link del mete-1");
        for (int kind = BEFORE; kind <= AFTER; kind++)
                for (int at = 1, r = -1; r < 0; at++, n_faults++) {
                        fail_at((enum fault_kind)kind, at);
                        r = net_tap_make(&h, 2, 0, &none, &err);
                        mend();
                        if (r == 0)
                                (void)close(none);
                        is_state(before);
                        g_assert_true(r == 0 || at < 20);
                }
        run("ip link del br0");
        is_refused(net_tap_make(&h, 2, 0, &none, &err), ENODEV, REASON_NOT_FOUND, &err, "br0");
        tear_down(&h);
}

static void test_vm(void)
{
        if (!enter())
                return;
        struct net_host h;
        struct err err = {0};
        char difference[NET_SENTENCE] = "";
        struct net_vm_figures f;
        struct net_vm_rates first = rates_of(100, 200, 300, 400), second = rates_of(50, 60, 70, 0);
        g_autofree char *bare = state();
        set_up(&h, &usual);
        is_refused(net_vm_activate(&h, 3, &first, &err), ENODEV, REASON_NOT_FOUND, &err, "no tap mete-3");
        int fd = tap(&h, 3);
        g_autofree char *before = state();
        ok(net_vm_read(&h, 3, &f, &err), &err);
        g_assert_false(f.is_active);
        ok(net_vm_activate(&h, 3, &first, &err), &err);
        g_autofree char *active = state();
        ok(net_vm_activate(&h, 3, &first, &err), &err);
        is_state(active);
        is_same(&h, 3, &first);
        g_autofree char *to = output("tc class show dev mete-3"), *from = output("tc class show dev mete-3i"),
                        *uplink = output("tc class show dev up0"),
                        *filters = output("tc filter show dev mete-3 ingress");
        g_assert_nonnull(strstr(to, "class htb 4d46:2 parent 4d46:1 prio 0 rate 100Mbit ceil 200Mbit"));
        g_assert_nonnull(strstr(from, "class htb 4d47:2 parent 4d47:1 prio 0 rate 300Mbit ceil 400Mbit"));
        g_assert_nonnull(
                strstr(uplink, "class htb 4d45:1003 parent 4d45:1 prio 0 rate 300Mbit ceil 400Mbit"));
        g_assert_nonnull(strstr(filters, "mete-mark-4d451003 direct-action"));
        g_assert_nonnull(strstr(filters, "mirred (Egress Redirect to device mete-3i) stolen"));

        /* Frames of any length are counted, and on the uplink they are this VM's: also ones too short to have
         * a payload. */
        unsigned char frame[10 + 1514] = {[10] = 2, [15] = 9, [16] = 2, [21] = 8, [22] = 0x88, [23] = 0xb5};
        static const size_t lengths[] = {14, 15, 17, 18, 60, 1514};
        for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
                g_assert_cmpint(write(fd, frame, 10 + lengths[i]), ==, 10 + (ssize_t)lengths[i]);
                for (int tries = 0; tries < 1000; tries++) { /* the ifb has its own pace */
                        ok(net_vm_read(&h, 3, &f, &err), &err);
                        if (f.uplink.sent_packets == i + 1)
                                break;
                        g_usleep(1000);
                }
                g_assert_cmpuint(f.from.sent_packets, ==, i + 1);
                g_assert_cmpuint(f.uplink.sent_packets, ==, i + 1);
        }
        g_assert_cmpuint(f.from.sent_bytes, ==, 14 + 15 + 17 + 18 + 60 + 1514);
        g_assert_true(f.is_active);
        g_assert_cmpuint(f.set.to.rate_bps, ==, 100ULL * MBIT);
        g_assert_cmpuint(f.set.from.ceiling_bps, ==, 400ULL * MBIT);

        g_assert_cmpint(net_vm_verify(&h, 3, &second, difference, &err), ==, 1);
        ok(net_vm_activate(&h, 3, &second, &err), &err);
        is_same(&h, 3, &second);
        ok(net_vm_read(&h, 3, &f, &err), &err);
        g_assert_cmpuint(f.set.from.ceiling_bps, ==, 1000ULL * MBIT);
        g_assert_cmpuint(f.uplink.sent_packets, ==, 6); /* a change does not begin anew */
        for (int i = 0; i < 2; i++)
                ok(net_vm_deactivate(&h, 3, &err), &err);
        is_state(before);

        is_refused(net_vm_activate(&h, NET_SLOT_MAX, &first, &err), EINVAL, REASON_INVALID, &err, "slot");
        struct net_vm_rates bad = rates_of(100, 200, 1001, 0);
        is_refused(net_vm_activate(&h, 3, &bad, &err), ERANGE, REASON_NO_CAPACITY, &err, "from the VM: ");
        bad = rates_of(0, 200, 100, 0);
        is_refused(net_vm_activate(&h, 3, &bad, &err), EINVAL, REASON_INVALID, &err, "to the VM: ");
        bad = rates_of(100, 200, 981, 0);
        is_refused(net_vm_activate(&h, 3, &bad, &err), ENOSPC, REASON_NO_CAPACITY, &err, "do not fit");
        is_state(before);
        run("ip link add mete-3i type veth peer name other");
        g_autofree char *foreign = state();
        is_refused(net_vm_activate(&h, 3, &first, &err), EEXIST, REASON_POLICY, &err, "mete-3i");
        is_state(foreign);
        run("ip link del mete-3i");
        run("tc qdisc add dev mete-3 root handle 9: tbf rate 1gbit burst 100k latency 10ms");
        g_autofree char *shaped = state();
        is_refused(net_vm_activate(&h, 3, &first, &err), EBUSY, REASON_POLICY, &err, "tbf 9:");
        is_state(shaped);
        run("tc qdisc del dev mete-3 root");

        /* The tap goes first, as when the VMM dies. */
        ok(net_vm_activate(&h, 3, &first, &err), &err);
        (void)close(fd);
        g_assert_cmpint(net_vm_verify(&h, 3, &first, difference, &err), ==, 1);
        g_assert_cmpstr(difference, ==, "there is no interface mete-3");
        ok(net_vm_deactivate(&h, 3, &err), &err);
        /* All at once, also what this keeper did not make. */
        int fds[3];
        for (unsigned i = 0; i < 3; i++) {
                fds[i] = tap(&h, i * 7);
                ok(net_vm_activate(&h, i * 7, &second, &err), &err);
        }
        run("ip link add mete-p5i type ifb");
        (void)close(fds[0]);
        struct net_host other;
        ok(net_host_init(&other, &usual, &err), &err);
        tear_down(&other);
        (void)close(fds[1]);
        (void)close(fds[2]);
        is_state(bare);
        net_host_done(&h);
}

/* What is done behind our back, with `tc` and `ip`. */
static void test_behind(void)
{
        if (!enter())
                return;
        static const struct {
                const char *command, *words;
        } cases[] = {
                {"tc class change dev mete-5 classid 4d46:2 htb rate 10mbit ceil 200mbit",
                 "mete-5: class 4d46:2 has rate 10000000"                                                                                     },
                {"tc class change dev mete-5 classid 4d46:2 htb rate 100mbit ceil 200mbit burst 2k",
                 "its bursts"                                                                                                                 },
                {"tc class del dev mete-5 classid 4d46:2",                                           "class 4d46:2 is not there"              },
                {"tc class change dev mete-5 classid 4d46:1 htb rate 300mbit ceil 300mbit",
                 "class 4d46:1 has rate 300000000"                                                                                            },
                {"tc qdisc del dev mete-5 root",                                                     "mete-5 has queueing discipline default" },
                {"tc class change dev mete-5i classid 4d47:2 htb rate 300mbit ceil 900mbit",
                 "ceiling 900000000"                                                                                                          },
                {"tc class del dev mete-5i classid 4d47:2",                                          "class 4d47:2 is not there"              },
                {"tc qdisc del dev mete-5i root",                                                    "mete-5i has queueing discipline default"},
                {"ip link set mete-5i down",                                                         "mete-5i is down"                        },
                {"ip link del mete-5i",                                                              "no interface mete-5i"                   },
                {"tc qdisc del dev mete-5 ingress",                                                  "its filters are not"                    },
                {"tc filter del dev mete-5 ingress pref 1",                                          "its filters are not"                    },
                {"tc filter del dev mete-5 ingress pref 2",                                          "its filters are not"                    },
                {"tc filter add dev mete-5 ingress pref 7 protocol all u32 match u32 0 0 action mirred "
                 "egress redirect dev up0",                                         "its filters are not"                    },
                {"tc filter replace dev mete-5 ingress pref 2 handle 800::800 protocol all u32 match u32 0 0 "
                 "action mirred egress "
                 "redirect dev up0",                                                "its filters are not"                    },
                {"tc class change dev up0 classid 4d45:1005 htb rate 1mbit ceil 400mbit",
                 "class 4d45:1005 has rate 1000000"                                                                                           },
                {"tc class del dev up0 classid 4d45:1005",                                           "class 4d45:1005 is not there"           },
        };
        struct net_host h;
        struct err err = {0};
        struct net_vm_rates rates = rates_of(100, 200, 300, 400);
        set_up(&h, &usual);
        int fd = tap(&h, 5);
        g_autofree char *before = state();
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                ok(net_vm_activate(&h, 5, &rates, &err), &err);
                is_same(&h, 5, &rates);
                g_test_message("%s", cases[i].command);
                run(cases[i].command);
                char difference[NET_SENTENCE] = "";
                g_assert_cmpint(net_vm_verify(&h, 5, &rates, difference, &err), ==, 1);
                g_test_message("%s", difference);
                g_assert_nonnull(strstr(difference, cases[i].words));
                /* Asking for the same again mends it, ending it removes it. */
                ok(net_vm_activate(&h, 5, &rates, &err), &err);
                is_same(&h, 5, &rates);
                run(cases[i].command);
                ok(net_vm_deactivate(&h, 5, &err), &err);
                is_state(before);
        }
        ok(net_vm_activate(&h, 5, &rates, &err), &err);
        run("tc qdisc del dev up0 root");
        char difference[NET_SENTENCE] = "";
        g_assert_cmpint(net_host_verify(&h, difference, &err), ==, 1);
        g_assert_cmpint(net_vm_verify(&h, 5, &rates, difference, &err), ==, 1);
        g_assert_cmpint(net_vm_activate(&h, 5, &rates, &err), <, 0);
        ok(net_host_start(&h, &err), &err);
        ok(net_vm_activate(&h, 5, &rates, &err), &err);
        is_same(&h, 5, &rates);
        (void)close(fd);
        tear_down(&h);
}

/* On the way back one piece that cannot be removed keeps no other. */
static void test_goes_on(void)
{
        if (!enter())
                return;
        static const struct {
                const char *step, *stays;
        } cases[] = {
                {"remove the ingress", "dev=mete-2 ingress"     },
                {"remove a link",      "link mete-2i"           },
                {"remove the root",    "dev=mete-2 htb 4d460000"},
                {"remove a class",     "htb 4d451002"           }
        };
        struct net_host h;
        struct err err = {0};
        struct net_vm_rates rates = rates_of(100, 200, 300, 400);
        set_up(&h, &usual);
        int fd = tap(&h, 2);
        g_autofree char *before = state();
        for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
                ok(net_vm_activate(&h, 2, &rates, &err), &err);
                fail_at(BEFORE, -1);
                fault.broken = cases[i].step;
                g_assert_cmpint(net_vm_deactivate(&h, 2, &err), ==, -EIO);
                mend();
                g_autofree char *now = state();
                for (size_t j = 0; j < G_N_ELEMENTS(cases); j++)
                        g_assert_cmpint(strstr(now, cases[j].stays) != NULL, ==, i == j);
                ok(net_vm_deactivate(&h, 2, &err), &err);
                is_state(before);
        }
        (void)close(fd);
        tear_down(&h);
}

/* What a fault walks over. `again` brings the state before; each ends in the state after. */
struct walk {
        const char *name;
        struct net_host *h;
        struct net_vm_rates old, new;
        int (*act)(struct walk *w, struct err *err);
        char *before, *after;
        bool goes_on; /* on the way back what can be done is done: no way there and back again */
};

static int act_activate(struct walk *w, struct err *err)
{
        return net_vm_activate(w->h, 1, &w->new, err);
}

static int act_deactivate(struct walk *w, struct err *err)
{
        return net_vm_deactivate(w->h, 1, err);
}

static int act_start(struct walk *w, struct err *err)
{
        return net_host_start(w->h, err);
}

static int act_finish(struct walk *w, struct err *err)
{
        return net_host_finish(w->h, err);
}

static int act_purpose(struct walk *w, struct err *err)
{
        return net_purpose_activate(w->h, 1, &w->new.to, err);
}

static int act_purpose_back(struct walk *w, struct err *err)
{
        return net_purpose_deactivate(w->h, 1, err);
}

static void walk(struct walk *w, void (*prepare)(struct walk *w))
{
        int steps = 0, tried = 0;
        for (int kind = BEFORE; kind < FAULT_KIND_N; kind++) {
                bool is_over = false;
                for (int at = 1; !is_over; at++) {
                        struct err err = {0};
                        prepare(w);
                        g_clear_pointer(&w->before, g_free);
                        w->before = state();
                        fail_at((enum fault_kind)kind, at);
                        int r = w->act(w, &err);
                        mend();
                        is_over = fault.passed < at;
                        /* A step that had failed by itself, as expected there, cannot fail after it was done.
                         */
                        tried += fault.is_hit;
                        steps = MAX(steps, fault.passed);
                        g_test_message("%s: step %d (%s), kind %d: %s", w->name, at, fault.last, kind,
                                       err.sentence);
                        g_assert_cmpint(r < 0, ==, fault.is_hit);
                        if (fault.is_hit && kind <= AFTER && !w->goes_on)
                                is_state(w->before);
                        /* Begun again, whatever was left in the middle, it ends where it should. */
                        for (int again = 0; again < 2; again++)
                                ok(w->act(w, &err), &err);
                        g_autofree char *now = state();
                        if (!w->after)
                                w->after = g_steal_pointer(&now);
                        else
                                g_assert_cmpstr(now, ==, w->after);
                        g_assert_cmpint(at, <, 200);
                }
        }
        g_clear_pointer(&w->before, g_free);
        g_clear_pointer(&w->after, g_free);
        g_test_message("%s: %d steps, %d faults", w->name, steps, tried);
        n_faults += tried;
}

static void prepare_none(struct walk *w)
{
        struct err err = {0};
        ok(net_vm_deactivate(w->h, 1, &err), &err);
        ok(net_purpose_deactivate(w->h, 1, &err), &err);
}

static void prepare_old(struct walk *w)
{
        struct err err = {0};
        ok(net_vm_activate(w->h, 1, &w->old, &err), &err);
        ok(net_purpose_activate(w->h, 1, &w->old.to, &err), &err);
}

static void prepare_finished(struct walk *w)
{
        struct err err = {0};
        ok(net_host_finish(w->h, &err), &err);
}

static void prepare_started(struct walk *w)
{
        struct err err = {0};
        ok(net_host_start(w->h, &err), &err);
}

static void test_faults(void)
{
        if (!enter())
                return;
        struct net_host h;
        set_up(&h, &usual);
        int fd = tap(&h, 1);
        struct walk w = {.h = &h, .old = rates_of(100, 200, 300, 400), .new = rates_of(150, 160, 70, 80)};
        int fds = fds_open();
        w.name = "activate", w.act = act_activate;
        walk(&w, prepare_none);
        w.name = "change", w.act = act_activate;
        walk(&w, prepare_old);
        w.name = "purpose", w.act = act_purpose;
        prepare_none(&w);
        walk(&w, prepare_none);
        w.name = "change purpose";
        struct err err = {0};
        ok(net_vm_activate(&h, 1, &w.old, &err), &err);
        walk(&w, prepare_old);
        w.name = "start", w.act = act_start;
        walk(&w, prepare_finished);
        w.goes_on = true;
        w.name = "deactivate", w.act = act_deactivate;
        walk(&w, prepare_old);
        w.name = "deactivate purpose", w.act = act_purpose_back;
        ok(net_vm_activate(&h, 1, &w.old, &err), &err);
        walk(&w, prepare_old);
        w.name = "finish", w.act = act_finish;
        ok(net_vm_deactivate(&h, 1, &err), &err);
        walk(&w, prepare_started);
        g_assert_cmpint(fds_open(), ==, fds);
        (void)close(fd);
        net_host_done(&h);
        g_test_message("%d faults", n_faults);
        g_assert_cmpint(n_faults, >, 300);
}

/* Many threads want more than there is: who gets it has it, and the sum is not exceeded. */
enum { THREADS = 16 };
static struct {
        struct net_host *h;
        int granted;
} race;

/* Widens the moment between looking and taking. */
static int linger(const char *step, bool is_done)
{
        if (is_done && strcmp(step, "list classes") == 0)
                g_usleep(2000);
        return 0;
}

static void *want(void *user)
{
        unsigned slot = GPOINTER_TO_UINT(user);
        struct net_vm_rates rates = rates_of(10, 20, 100, 0);
        struct err err = {0};
        for (int i = 0; i < 4; i++) {
                int r = net_vm_activate(race.h, slot, &rates, &err);
                if (r == 0) {
                        is_same(race.h, slot, &rates);
                        if (i == 3) {
                                g_atomic_int_inc(&race.granted);
                                break;
                        }
                } else {
                        g_assert_cmpint(err.reason, ==, REASON_NO_CAPACITY);
                }
                if (i < 3)
                        g_assert_cmpint(net_vm_deactivate(race.h, slot, &err), ==, 0);
        }
        return NULL;
}

static void test_threads(void)
{
        if (!enter())
                return;
        struct net_host h;
        struct err err = {0};
        set_up(&h, &usual);
        g_autofree char *before = state();
        race.h = &h;
        race.granted = 0;
        int fds[THREADS];
        GThread *threads_of[THREADS];
        for (unsigned i = 0; i < THREADS; i++)
                fds[i] = tap(&h, i);
        net_nl_fault = linger;
        /* Those that lost in the last round may all have tried while others still gave back. */
        for (unsigned i = 0; i < THREADS; i++)
                threads_of[i] = g_thread_new("want", want, GUINT_TO_POINTER(i));
        for (unsigned i = 0; i < THREADS; i++)
                (void)g_thread_join(threads_of[i]);
        mend();
        g_assert_cmpint(race.granted, >=, 1);
        g_assert_cmpint(race.granted, <=, 9);
        for (unsigned i = 0; i < THREADS; i++) { /* and what was refused is there for nobody in particular */
                struct net_vm_rates rates = rates_of(10, 20, 100, 0);
                struct net_vm_figures f;
                ok(net_vm_read(&h, i, &f, &err), &err);
                if (!f.is_active && net_vm_activate(&h, i, &rates, &err) == 0)
                        race.granted++;
        }
        g_assert_cmpint(race.granted, ==, 9);
        for (unsigned i = 0; i < THREADS; i++) {
                ok(net_vm_deactivate(&h, i, &err), &err);
                (void)close(fds[i]);
        }
        is_state(before);
        tear_down(&h);
}

static void test_wide(void)
{
        if (!enter())
                return;
        run("ip link add big type ifb");
        run("ip link set big master br0 up");
        struct net_host h;
        struct err err = {0};
        struct net_host_options o = usual;
        o.uplink = "big";
        o.rate_bps = 400000ULL * MBIT;
        set_up(&h, &o);
        int fd = tap(&h, 0);
        /* On both sides of 2^32 bits and of 2^32 bytes a second. */
        static const uint64_t mbits[] = {4294, 4296, 17180, 34359, 34360, 100000, 390000};
        for (size_t i = 0; i < G_N_ELEMENTS(mbits); i++) {
                struct net_vm_rates rates = rates_of(mbits[i], 0, mbits[i], 0);
                struct net_vm_figures f;
                ok(net_vm_activate(&h, 0, &rates, &err), &err);
                is_same(&h, 0, &rates);
                ok(net_vm_read(&h, 0, &f, &err), &err);
                g_assert_cmpuint(f.set.from.rate_bps, ==, mbits[i] * MBIT);
                g_assert_cmpuint(f.set.to.ceiling_bps, ==, 400000ULL * MBIT);
        }
        g_autofree char *seen = output("tc class show dev big");
        g_assert_nonnull(strstr(seen, "class htb 4d45:1000 parent 4d45:1 prio 0 rate 390Gbit ceil 400Gbit"));
        (void)close(fd);
        tear_down(&h);
}

static void set_net_admin(bool on)
{
        struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[2];
        g_assert_cmpint(syscall(SYS_capget, &head, data), ==, 0);
        data[0].effective =
                on ? data[0].effective | 1U << CAP_NET_ADMIN : data[0].effective & ~(1U << CAP_NET_ADMIN);
        g_assert_cmpint(syscall(SYS_capset, &head, data), ==, 0);
}

static void test_denied(void)
{
        if (!enter())
                return;
        struct net_host h, other;
        struct err err = {0};
        int none = -1, s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct net_vm_rates rates = rates_of(100, 200, 300, 400), changed = rates_of(10, 20, 30, 40);
        struct net_rate rate = {MBIT, 0};
        set_up(&h, &usual);
        int fd = tap(&h, 0), idle = tap(&h, 1);
        ok(net_vm_activate(&h, 0, &rates, &err), &err);
        ok(net_purpose_activate(&h, 1, &rate, &err), &err);
        g_autofree char *before = state();
        set_net_admin(false);
        is_refused(net_host_init(&other, &usual, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_tap_make(&h, 2, 0, &none, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_tap_remove(&h, 1, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_vm_activate(&h, 0, &changed, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_vm_activate(&h, 1, &rates, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_vm_deactivate(&h, 0, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_purpose_activate(&h, 2, &rate, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_purpose_deactivate(&h, 1, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_refused(net_host_finish(&h, &err), EPERM, REASON_DENIED, &err, "CAP_NET_ADMIN");
        is_same(&h, 0, &rates); /* looking is allowed */
        set_net_admin(true);
        is_state(before);
        (void)close(s);
        (void)close(fd);
        (void)close(idle);
        tear_down(&h);
}

static void look(void)
{
        if (geteuid() != 0)
                missing = "needs root";
        else if (unshare(CLONE_NEWNET) < 0)
                missing = "no network namespaces may be made here";
        else if (access("/dev/net/tun", R_OK | W_OK) < 0)
                missing = "no /dev/net/tun";
        else if (!g_spawn_command_line_sync("tc -V", NULL, NULL, NULL, NULL))
                missing = "no `tc` and `ip` (iproute2)";
}

int main(int argc, char **argv)
{
        g_test_init(&argc, &argv, NULL);
        look();
        g_test_add_func("/net/class", test_class);
        g_test_add_func("/net/init", test_init);
        g_test_add_func("/net/uplink", test_uplink);
        g_test_add_func("/net/purpose", test_purpose);
        g_test_add_func("/net/tap", test_tap);
        g_test_add_func("/net/vm", test_vm);
        g_test_add_func("/net/wide", test_wide);
        g_test_add_func("/net/denied", test_denied);
        if (g_test_slow()) { /* -m slow; most of the time the kernel waits before it removes an interface */
                g_test_add_func("/net/lacking", test_lacking);
                g_test_add_func("/net/behind", test_behind);
                g_test_add_func("/net/goes-on", test_goes_on);
                g_test_add_func("/net/threads", test_threads);
                g_test_add_func("/net/init-faults", test_init_faults);
                g_test_add_func("/net/faults", test_faults);
        }
        return g_test_run();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Bandwidth against the real kernel, each test in a network namespace of its own that it makes. */
#include <errno.h>
#include <fcntl.h>
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
#include "host/test-net-world.h"

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
        if (g_test_slow()) /* -m slow; most of the time the kernel waits before it removes an interface */
                add_slow_tests();
        return g_test_run();
}
